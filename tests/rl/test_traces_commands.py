"""`synthpert traces import`, `filter` and `audit` as they are typed, with their exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import Done, synthpert

from benchmarks.evidence.corpus import open_corpus
from sft.traces import read_traces


def run(cwd: Path, *words: str) -> Done:
    done = synthpert("traces", *words, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `f.jsonl`, three rows of another making."""
    rows = open_corpus("sample").train.groupby("label", observed=True).head(1).itertuples()
    with (tmp_path / "f.jsonl").open("w") as file:
        for row in rows:
            record: dict[str, Any] = {"knockdown": row.pert, "gene": row.gene, "cell_line": str(row.cell_line)}
            completion = f"<think>Loss of {row.pert} matters here.</think><answer>{row.label}</answer>"
            record |= {"label": str(row.label).split()[0], "prompt": "What happens?", "completion": completion}
            file.write(json.dumps(record) + "\n")
    return tmp_path


WORDS = ("import", "f.jsonl", "--out", "t.jsonl", "--data", "sample", "--map", "pert=knockdown")


def test_import_with_our_prompts_then_filter_then_audit(folder: Path) -> None:
    done = run(folder, *WORDS, "--label", "not=not differentially expressed", "--prompts", "ours", "--evidence", "2")
    assert (done.returncode, done.stdout) == (0, "t.jsonl: imported 3 of 3 rows\n")
    traces = read_traces(folder / "t.jsonl")
    assert {trace.protocol["evidence"] for trace in traces} == {2}
    (folder / "f.yaml").write_text(
        yaml.safe_dump({"input": "t.jsonl", "output": "o.jsonl", "steps": ["parse", "leak"]})
    )
    done = run(folder, "filter", "--config", "f.yaml", "--out=~/k.jsonl")  # home is this folder here
    assert done.returncode == 0
    assert read_traces(folder / "k.jsonl") == traces
    done = run(folder, "audit", "k.jsonl", "--data", "sample")
    assert done.returncode == 0
    assert "ok    every prompt of our template is what the training labels give: 0 of 3 fail\n" in done.stdout


def test_the_audit_names_every_trace_to_remove(folder: Path) -> None:
    assert run(folder, *WORDS, "--label", "not=not differentially expressed").returncode == 0
    lines = [json.loads(line) for line in (folder / "t.jsonl").read_text().splitlines()]
    for line in lines[:2]:
        line["prompt"] = [{"role": "user", "content": f"{line['pert']} knockdown leaves it {line['label']}."}]
    (folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(folder, "audit", "t.jsonl", "--data", "sample")
    assert done.returncode == 1
    assert "LEAK  no line of another prompt states its own item's label: 2 of 3 fail" in done.stdout
    assert all(f"own label: {line['item_id']}" in done.stdout for line in lines[:2])
    assert done.stderr.startswith("synthpert: t.jsonl: leak: own label: 2 of 3 break")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--map", "gene"), "--map 'gene': give LEFT=RIGHT"),
        (("--label", "a=b"), "--label a=b: means no label"),
        (("--prompts", "mine"), "--prompts 'mine': use ours or theirs"),
        (("--evidence", "2"), "goes with --prompts ours"),
        (("--prompts", "ours", "--template", "four"), "--template: invalid choice: 'four'"),
        (("--prompts", "ours", "--evidence", "9"), "evidence: 9 is more than the sample carries (5)"),
    ],
)
def test_what_is_wrong_with_an_import_is_said_in_one_line(words: tuple[str, ...], problem: str, folder: Path) -> None:
    done = run(folder, *WORDS, "--label", "not=not differentially expressed", *words)
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "t.jsonl").exists()


def test_a_filter_without_a_file_to_write_is_refused(folder: Path) -> None:
    (folder / "f.yaml").write_text(yaml.safe_dump({"input": "f.jsonl", "output": "o.jsonl", "steps": ["parse"]}))
    done = run(folder, "filter", "--config", "f.yaml", "--out", ".")
    assert (done.returncode, done.stderr) == (
        2,
        "synthpert: .: is a folder; give a file, such as runs/traces/kept.jsonl\n",
    )
