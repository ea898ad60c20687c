"""Commands in the documentation exist, and the files and options they name do too."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from rl.cli import app

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]


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
    options = {name for parameter in group.params for name in parameter.opts}
    passes_on = bool(group.context_settings.get("ignore_unknown_options"))
    for word in rest:
        if word.startswith("--") and not passes_on:
            assert word in options, words
    if "--config" in rest:
        assert (REPO / rest[rest.index("--config") + 1]).is_file(), words


def test_the_readme_s_report_takes_every_stage_of_its_model():
    reports = [words.values[0] for words in commands() if "report" in words.values[0] and "README" in str(words.id)]
    for stage in ("sft", "grpo", "eval"):
        config = (REPO / "configs" / "smollm2-135m" / f"{stage}.yaml").read_text()
        folder = re.search(r"^output_dir: (.*)$", config, re.MULTILINE)[1]
        assert any(folder in words for words in reports), folder


def test_python_in_the_statistics_page_runs():
    from benchmarks.evaluation.baselines import predict_baselines
    from benchmarks.evidence.corpus import open_corpus

    block = re.search(r"```python\n(.*?)```", (REPO / "docs" / "statistics.md").read_text(), re.DOTALL)
    assert block
    corpus = open_corpus("sample")
    forecasts = predict_baselines(corpus, corpus.test)
    names = ("gene rate", "cross-line neighbours", "class prior")
    scope: dict[str, object] = dict(zip(("base", "sft", "grpo"), (forecasts[name] for name in names), strict=True))
    exec(block[1], scope)  # the page's own lines
    assert scope["one"].n_items > 0


def test_python_in_the_readme_runs():
    block = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    assert block
    scope: dict[str, object] = {}
    exec(block[1], scope)  # the README's own lines
    assert len(scope["forecast"]) > 0
