"""Commands in the documentation exist; so do files, modules and options that pages, configurations and code name."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer.main
from lazily import Lazy

from benchmarks.config import parse_config
from benchmarks.evaluation.baselines import predict_baselines
from benchmarks.evaluation.run import EvalArguments
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.keys import key_fields
from benchmarks.report.export import as_json
from benchmarks.report.summarize import System, summarize
from rewards import Context, InputError, compose
from rl.cli import app
from rl.train import GRPOArguments
from sft.filters.run import FilterArguments
from sft.teacher.arguments import EndpointArguments
from sft.teacher.generate import TraceArguments
from sft.train import SFTArguments

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]
FOLDERS = ("rewards", "benchmarks", "sft", "rl", "synthpert_env", "configs", "tools", "tests", "docs")
NAMING = [
    *PAGES,
    REPO / "CHANGELOG.md",
    *sorted((REPO / "configs").rglob("*.yaml")),
    *(path for folder in FOLDERS[:7] for path in sorted((REPO / folder).rglob("*.py"))),
]
PATH = re.compile(
    rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]*(?:\.(?:py|yaml|md|csv|json|svg|png|txt|j2)\b|/(?![\w{{<]))"
)
MODULE = re.compile(rf"(?:`|python -m |help\()((?:{'|'.join(FOLDERS)})(?:\.\w+)+)(?![\w/:])")

# Commands that take the keys of their configuration as options, and the dataclasses that hold these keys.
CONFIGURED = {
    "sft": (SFTArguments, "SFTConfig", "ModelConfig"),  # those of TRL by their names
    "grpo": (GRPOArguments, "GRPOConfig", "ModelConfig"),
    "eval": (EvalArguments,),
    "calibrate": (EvalArguments,),
    "generate": (TraceArguments, EndpointArguments),
}
KEYS = {**CONFIGURED, "filter": (FilterArguments,), "import": (PromptConfig,)}


def classes(command):
    return tuple(getattr(Lazy("trl"), one) if isinstance(one, str) else one for one in KEYS[command])


def commands():
    for page in PAGES:
        for block in re.findall(r"```(?:\w*)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(\.venv/bin/)?synthpert |make ", line):
                    yield pytest.param(shlex.split(line, comments=True), id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("words", list(commands()))
def test_command_exists(words):
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    group = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(group, "commands"):
        assert rest[0] in group.commands, words
        group, rest = group.commands[rest[0]], rest[1:]
    check_options(group, words[-len(rest) - 1], rest)


def check_options(group, command, rest):
    """Fail unless every option of a command is its own or a key of its configuration, and its values fit."""
    options = {name for parameter in group.params for name in parameter.opts}
    if group.context_settings.get("ignore_unknown_options"):
        options |= {"--out", *(f"--{key}" for one in classes(command) for key in key_fields(one))}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= options, (command, rest)
    if "--config" not in rest:
        return
    config = REPO / rest[rest.index("--config") + 1]
    assert config.is_file(), config
    if command in CONFIGURED:
        rest = group.make_context(command, list(rest)).args  # without the command's own options
        # TRL refuses bf16 on a machine without a GPU unless the CPU is asked for.
        on_cpu = ["--use_cpu", "true"] if command in ("sft", "grpo") else []
        parse_config(config, [*rest, *on_cpu], classes(command))


@pytest.mark.parametrize(
    "line",
    [
        "sft --config configs/demo/sft.yaml --learning_rates 1",
        "sft --config configs/demo/sft.yaml --learning_rate fast",
        "grpo --config configs/demo/grpo.yaml --rewarding x",
        "eval --config configs/demo/eval.yaml --evidence few",
        "traces generate --config configs/traces/teacher.yaml --adapter x",
        "traces filter --config configs/traces/nofilter.yaml",
        "report runs/a --evidence 3",
    ],
)
def test_an_option_that_is_not_there_is_found(line):
    with pytest.raises((AssertionError, InputError)):
        test_command_exists(["synthpert", *shlex.split(line)])


def test_the_readme_s_item_is_what_the_demo_asks_and_pays():
    """The prompt is our template's for that item; each completion earns what the demo's rewards pay for it."""
    prompt, completions = re.findall(r"```text\n(.*?)\n```", (REPO / "README.md").read_text(), re.DOTALL)
    (args, trl_args, _) = parse_config(REPO / "configs" / "demo" / "grpo.yaml", ("--use_cpu", "true"), classes("grpo"))
    corpus = open_corpus("sample")
    item = corpus.train[corpus.train["item_id"] == "jurkat|NVL|RPL12"]
    (messages,) = build_prompts(item, corpus, args.prompt)
    assert prompt == "\n".join(f"{one['role']}: {one['content']}" for one in messages)
    label = item["label"].iloc[0]
    assert f"The label is `{label}`" in (REPO / "README.md").read_text()
    told = re.findall(r"(<think>.*)\n(.*) = reward (.*), advantage .*", completions)
    rewards = compose(args.rewards, Context())
    for completion, parts, reward in told:
        scores = rewards.scores([completion], label=[label])
        assert parts == " + ".join(f"{name} {score:g}" for name, (score,) in scores.items())
        assert [float(reward)] == rewards([completion], label=[label])
    # The group of eight holds seven like the first and one like the second; GRPO takes the mean off and divides by the
    # standard deviation.
    right, wrong = (float(reward) for _, _, reward in told)
    group = np.array([right] * 7 + [wrong])
    assert trl_args.num_generations == len(group)
    advantages = [float(word) for word in re.findall(r"advantage (.*)", completions)]
    expected = (group - group.mean()) / group.std(ddof=1)
    np.testing.assert_allclose(advantages, expected[[0, -1]], atol=5e-3)  # written with two digits


def test_the_readme_s_figures_of_shortcuts_are_those_of_the_sample():
    corpus = open_corpus("sample")
    forecasts = predict_baselines(corpus, corpus.test)
    rows = re.findall(r"^\| shortcut: (.*?) \| (\d+) \| (.*) \|$", (REPO / "README.md").read_text(), re.MULTILINE)
    assert [name for name, *_ in rows] == ["majority class", "cross-line neighbours"]
    systems = [System(name, "baseline", forecasts[name], {}) for name, *_ in rows]
    summary = as_json(summarize(systems, title="", protocol={}, data={}))
    for name, n, cells in rows:
        assert int(n) == len(forecasts[name])
        scored = summary["systems"][name]["metrics"]
        found = [scored["three_class"]["all"]["accuracy"]]
        found += [scored[task]["all"][f"{task}_per_gene_auroc"] for task in ("de", "dir")]
        assert cells.replace("**", "").split(" | ") == [in_brackets(one) for one in found], name


def in_brackets(found):
    """A value with its interval, as the README writes it."""
    value, low, high = (
        None if found[key] is None else f"{found[key]:.3f}".lstrip("0") for key in ("value", "low", "high")
    )
    return "–" if value is None else value if low is None else f"{value} ({low} to {high})"


def test_the_readme_s_report_takes_every_stage_of_its_model():
    reports = [words.values[0] for words in commands() if "report" in words.values[0] and "README" in str(words.id)]
    for stage in ("sft", "grpo", "eval"):
        config = (REPO / "configs" / "smollm2-135m" / f"{stage}.yaml").read_text()
        folder = re.search(r"^output_dir: (.*)$", config, re.MULTILINE)[1]
        assert any(folder in words for words in reports), folder


def test_python_in_the_statistics_page_runs():
    block = re.search(r"```python\n(.*?)```", (REPO / "docs" / "statistics.md").read_text(), re.DOTALL)
    assert block
    corpus = open_corpus("sample")
    forecasts = predict_baselines(corpus, corpus.test)
    names = ("gene rate", "cross-line neighbours", "class prior")
    scope: dict[str, object] = dict(zip(("base", "sft", "grpo"), (forecasts[name] for name in names), strict=True))
    exec(block[1], scope)  # the page's own lines
    assert scope["one"].n_items > 0


def test_python_in_the_baselines_page_runs():
    block = re.search(r"```python\n(.*?)```", (REPO / "docs" / "baselines.md").read_text(), re.DOTALL)
    assert block
    scope: dict[str, object] = {}
    exec(block[1], scope)  # the page's own lines
    assert len(scope["forecast"]) > 0


def missing_in(text: str, page: Path) -> Iterator[str]:
    """Yield the paths, modules and links of ours that a text names and that are not there."""
    for path in PATH.findall(text):
        if not any(REPO.glob(path.rstrip("/"))):
            yield path
    for name in MODULE.findall(text):
        if not exists(name):
            yield name
    if page.suffix == ".md":
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", text):
            if not (page.parent / link).exists():
                yield link


def exists(name: str) -> bool:
    """Whether a dotted name is a module of ours, or something in one.

    Packages are imported. Modules are read from their source, because some import torch and TRL, which takes seconds.
    """
    parts = name.split(".")
    at = max(n for n in range(1, len(parts) + 1) if Path(REPO, *parts[:n]).with_suffix(".py").is_file()
             or Path(REPO, *parts[:n]).is_dir())  # fmt: skip
    folder, rest = Path(REPO, *parts[:at]), parts[at:]
    if folder.is_dir():
        return not rest or hasattr(importlib.import_module(".".join(parts[:at])), rest[0])
    body = ast.parse(folder.with_suffix(".py").read_text(encoding="utf-8")).body
    for part in rest:
        found = [node for node in body if part in names_of(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def names_of(node: ast.stmt) -> set[str]:
    """The names that a statement gives to what it makes or imports."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {one.asname or one.name for one in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {one.id for one in targets if isinstance(one, ast.Name)}


@pytest.mark.parametrize("page", NAMING, ids=lambda page: str(page.relative_to(REPO)))
def test_what_is_named_is_there(page: Path) -> None:
    assert list(missing_in(page.read_text(encoding="utf-8"), page)) == []


def test_a_name_that_is_not_there_is_found() -> None:
    text = (
        "`benchmarks/nowhere.py`, `benchmarks/screens/`, `sft.nowhere`, `sft.traces.no`, `sft.train.train`, [a](b.md)"
    )
    text += "\n# see configs/traces/nofilter.yaml; configs/traces/filter*.yaml; `tests/nowhere/`"
    expected = ["benchmarks/nowhere.py", "configs/traces/nofilter.yaml", "tests/nowhere/",
                "sft.nowhere", "sft.traces.no", "b.md"]  # fmt: skip
    assert list(missing_in(text, REPO / "README.md")) == expected
