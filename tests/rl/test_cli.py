"""One word for one thing on the command line: `--out` for what is written, `--data` for labels, `--config`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from command import synthpert
from typer.testing import CliRunner

from benchmarks.evaluation.predictions import TASKS
from benchmarks.evidence.corpus import Corpus
from benchmarks.statistics.metrics import metrics_of
from rl.cli import app

WRITING = ("data fetch", "traces import", "baselines", "report", "import", "study", "rewards replay", "demo")
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
        (("--prompts", "ours", "--evidence", "many"), "invalid int value: 'many'"),
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
