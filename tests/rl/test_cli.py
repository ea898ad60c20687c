"""One word for one thing on the command line: `--out` for what is written, `--data` for labels, `--config`."""

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from command import synthpert
from typer.testing import CliRunner

from benchmarks.evaluation.predictions import TASKS
from benchmarks.evidence.corpus import Corpus
from benchmarks.runs import open_run
from benchmarks.statistics.metrics import metrics_of
from rl.cli import app
from rl.train import step_metrics

WRITING = (
    "data fetch",
    "traces import",
    "baselines",
    "report",
    "import",
    "study",
    "rewards replay",
    "demo",
    "compare",
    "submit",
)
READING_LABELS = (
    "data verify", "data stats", "traces import", "traces stats", "traces audit", "baselines", "import",
    "rewards check", "rewards replay",
)  # fmt: skip
CONFIGURED = (
    "traces generate",
    "traces filter",
    "sft",
    "grpo",
    "eval",
    "calibrate",
)  # these take any key of their configuration


def commands(command: Any, name: str = "") -> Iterator[tuple[str, frozenset[str]]]:
    inner = getattr(command, "commands", {})
    for word, one in inner.items():
        yield from commands(one, f"{name} {word}".strip())
    if not inner:
        yield name, frozenset(option for one in command.params for option in one.opts)


OPTIONS = dict(commands(typer.main.get_command(app)))


def test_what_is_written_is_out_and_labels_are_data() -> None:
    assert {name for name, options in OPTIONS.items() if "--out" in options} == set(WRITING)
    assert {name for name, options in OPTIONS.items() if "--data" in options} == set(READING_LABELS)
    assert {name for name, options in OPTIONS.items() if "--config" in options} == set(CONFIGURED)
    assert not {"--output", "--output_dir", "--labels"} & frozenset().union(*OPTIONS.values())


@pytest.mark.parametrize("name", OPTIONS)
def test_every_command_says_what_it_is_for(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "--help"])
    assert done.exit_code == 0 and name.split()[-1] in done.output


@pytest.mark.parametrize("name", CONFIGURED)
def test_the_help_of_a_configured_command_lists_its_keys(name: str) -> None:
    """Each with its purpose: the names of classes would say nothing to a user."""
    output = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"}).output
    keys = {"traces generate": "teacher", "traces filter": "steps", "sft": "traces_fraction", "grpo": "template"}
    assert re.search(rf"^  {keys.get(name, 'adapter')} +\w.* .*\w", output, re.MULTILINE)
    described = output.partition("each also an option")[2].partition("It also takes")[0].splitlines()[1:]
    assert all(re.match(r"  \w+ +\S", line) for line in described if line)
    assert "Arguments" not in output
    assert ("of TRL's" in output) == (name in ("sft", "grpo"))


def run_import(tmp_path: Path, *words: str) -> BaseException | None:
    (tmp_path / "s.csv").write_text(
        "pert,gene,cell_line,generated_thinking,generated_answer\nNO,NO,rpe1,t,upregulated\n"
    )
    words = (
        "traces",
        "import",
        str(tmp_path / "s.csv"),
        "--out",
        str(tmp_path / "t.jsonl"),
        "--data",
        "sample",
        *words,
    )
    return CliRunner().invoke(app, words).exception


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--prompts", "ours", "--evidence", "many"), "evidence: 'many' is no kind; use neighbours"),
        (("--prompts", "ours", "--evidenc", "3"), "'evidenc' is no key; did you mean 'evidence'"),
        (("--prompts", "ours", "--template", "up"), "template"),
        (("--prompts", "mine"), "use ours or theirs"),
        (("--lemmas",), "--lemmas: goes with --prompts ours"),
        (("--prompts", "ours", "--lemmas"), "none of 1 rows is a trace"),
    ],
)
def test_an_import_s_own_prompts_take_the_keys_of_a_prompt(
    tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    assert problem in str(run_import(tmp_path, *words))


def test_baselines_prints_the_figures_of_its_page_and_what_the_sample_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_report(corpus: Corpus, out: Path, **options: Any) -> Path:
        metrics = {
            task: {
                line: {metric.name: {"value": None if task == "dir" else 0.25} for metric in metrics_of(task)}
                for line in ("rpe1", "all")
            }
            for task in TASKS
        }
        (out / "report.json").write_text(json.dumps({"systems": {"majority class": {"metrics": metrics}}}))
        return out / "report.html"

    monkeypatch.setattr("benchmarks.report.collect.report_baselines", write_report)
    done = synthpert("baselines", "--data", "sample", "--out", ".", cwd=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["majority", "class", "three_class", "accuracy", "rpe1", "0.250", "all", "0.250"] in lines
    assert ["majority", "class", "dir", "dir_per_gene_auroc", "rpe1", "-", "all", "-"] in lines
    assert re.search("left out, since they need the full labels .*: perturbation rate in other lines, ", done.stdout)


def test_grpo_ends_with_a_line_for_each_reward_and_how_to_try_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = SimpleNamespace(
        global_step=2,
        log_history=[
            {
                "reward": 0.5,
                "rewards/accuracy/mean": 0.25,
                "rewards/my.py:f/mean": math.nan,
                "rewards/my.py:f/std": 1.0,
            },
            {"held_out_accuracy": 0.5},
            {"reward": 0.75, "rewards/accuracy/mean": 0.5, "rewards/my.py:f/mean": 2.0},
        ],
    )

    def train(config: Path, words: list[str]) -> Path:
        run = open_run(tmp_path / "my run", "grpo", {})
        run.finish(**step_metrics(state))
        return run.path

    monkeypatch.setattr(sys.modules["rl.train"], "train", train)
    done = synthpert("grpo", "--config", "c.yaml", cwd=tmp_path)
    assert done.stdout.splitlines()[-4:] == [
        "  mean score of accuracy: 0.250 at first, 0.500 at last",
        "  mean score of my.py:f: - at first, 2.000 at last",
        "to see what other rewards would have paid (REWARDS: a configuration, a name, or file.py:function):",
        f"  synthpert rewards replay REWARDS --rollouts '{tmp_path / 'my run'}'",
    ]
