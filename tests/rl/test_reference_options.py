"""`--evidence_from` and `--orthologs`: what `data stats`, `baselines` and `report` do with a reference screen."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from command import synthpert

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.report.collect import _with_reference, describe
from benchmarks.report.systems import EvaluationRun
from rewards import InputError

WITH = ("--evidence_from", "theirs.csv", "--orthologs", "upper")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a screen of ours, ten perturbations by ten genes, and one that knows half of its genes."""
    labels = ("upregulated", "downregulated", "not differentially expressed")
    rows = [(f"P{p}x", f"G{g}x", labels[(p + g) % 3]) for p in range(10) for g in range(10)]
    ours = "\n".join(["pert,gene,label", *(",".join(row) for row in rows)])
    other = dict(zip(labels, labels[1:] + labels[:1], strict=True))  # a copy of ours would be refused
    known = [(p.upper(), g.upper(), other[y] if p == "P0x" else y) for p, g, y in rows if g < "G5"]
    theirs = "\n".join(["pert,gene,label", *(",".join(row) for row in known)])
    (tmp_path / "ours.csv").write_text(ours, encoding="utf-8")
    # A line of that name would make these items of ours.
    (tmp_path / "theirs.csv").write_text(
        "\n".join(f"{row},{'k562' if at else 'cell_line'}" for at, row in enumerate(theirs.split("\n"))),
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_data_stats_counts_what_the_reference_knows(folder: Path) -> None:
    done = synthpert("data", "stats", "--data", "ours.csv", "--split", "holdout:perturbations", *WITH, cwd=folder)
    counts = {
        line.rpartition(":")[2].split()[0]: line.split()[-2] for line in done.stdout.splitlines() if "transfer" in line
    }
    assert counts == {"perturbation": "20", "gene": "10", "both": "10", "pair": "10"}
    without = synthpert("data", "stats", "--data", "ours.csv", "--split", "holdout:perturbations", cwd=folder)
    assert "transfer" not in without.stdout


def test_a_reference_with_items_of_the_labels_is_refused(folder: Path) -> None:
    done = synthpert("data", "stats", "--data", "ours.csv", "--split", "holdout:both", "--evidence_from", "ours.csv",
                     cwd=folder)  # fmt: skip
    assert done.returncode == 2
    assert "evidence_from: ours.csv holds" in done.stderr


def test_baselines_takes_a_reference_and_says_what_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Corpus] = []

    def write_report(corpus: Corpus, out: Path, **options: Any) -> Path:
        seen.append(corpus)
        (folder / "report.json").write_text(json.dumps({"systems": {}}))
        return folder / "report.html"

    monkeypatch.setattr("benchmarks.report.collect.report_baselines", write_report)
    words = ("baselines", "--data", "ours.csv", "--split", "holdout:both", "--out", "out")
    assert "left out" not in synthpert(*words, *WITH, cwd=folder).stdout
    done = synthpert(*words, cwd=folder)
    assert "left out, since they need a reference screen (--evidence_from): transfer from the reference" in done.stdout
    given, none = seen
    assert given.reference is not None
    assert given.reference.name_of("G1x") == "G1X"
    assert none.reference is None


def test_the_report_says_which_reference_its_baselines_use(folder: Path) -> None:
    corpus = open_corpus("ours.csv", "holdout:both")
    (left,) = (
        note
        for note in describe(corpus, corpus.test, "c")["notes"]
        if "reference screen" in note and "transfer" in note
    )
    assert left == (
        "Baselines left out, since they need a reference screen (--evidence_from): transfer from the reference."
    )
    given, _ = _with_reference(corpus, [], "theirs.csv", "upper")
    notes = describe(given, given.test, "c")["notes"]
    assert (
        "Baselines for unseen genes and perturbations use a reference screen: theirs, 50 labelled rows. "
        "It knows 10 of 10 perturbations and 5 of 10 genes of the labels."
    ) in notes


def test_a_report_takes_the_reference_of_a_run_unless_one_is_given(folder: Path) -> None:
    corpus = open_corpus("ours.csv", "holdout:both")
    run = cast(EvaluationRun, SimpleNamespace(name="a", config={"evidence_from": "theirs.csv", "orthologs": "upper"}))
    gone = cast(EvaluationRun, SimpleNamespace(name="b", config={"evidence_from": "gone.csv"}))
    other = cast(EvaluationRun, SimpleNamespace(name="c", config={}))
    found, warnings = _with_reference(corpus, [other, run], None, None)
    assert found.reference is not None
    assert not warnings
    found, (warning,) = _with_reference(corpus, [gone, run], None, None)
    assert found.reference is None
    assert warning.startswith("Baselines that use the reference screen of b are left out: gone.csv")
    given, _ = _with_reference(corpus, [gone], "theirs.csv", "upper")
    assert given.reference is not None
    with pytest.raises(InputError, match=r"gone\.csv"):
        _with_reference(corpus, [run], "gone.csv", None)
