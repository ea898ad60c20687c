"""A report on prompts that quote a list of kinds has a baseline that sees what they quote, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.evaluation.baselines import as_predictions
from benchmarks.evaluation.evidence_forecast import evidence_forecast
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.keys import to_keys
from benchmarks.report.evidence_alone import evidence_alone
from rewards import LABELS


def test_each_list_of_evidence_is_a_baseline_and_a_number_is_none(
    make_labels: Callable[[int], pd.DataFrame], tmp_path: Path
) -> None:
    corpus = Corpus("small", "official", make_labels(0))
    edges = tmp_path / "edges.csv"
    edges.write_text("gene1,gene2,score\nP0,G0,1\n")
    lists = [["contrast,k=2"], ["contrast,k=2"], [f"graph,file={edges}", "other_lines"], 5, 0]
    protocols = [to_keys(Protocol(prompt=PromptConfig(evidence=one))) for one in lists]  # type: ignore[arg-type]
    systems, notes = evidence_alone([*protocols, {}], corpus, corpus.test)
    assert [one.name for one in systems] == [
        "evidence alone: contrast,k=2",
        "evidence alone: graph,file=edges.csv; other_lines",
    ]
    assert notes == []
    assert {one.kind for one in systems} == {"baseline"}
    kinds = PromptConfig(evidence=["contrast,k=2"]).kinds
    expected = as_predictions(corpus.test, evidence_forecast(corpus, corpus.test, kinds))
    pd.testing.assert_frame_equal(systems[0].predictions, expected)
    directed, _ = evidence_alone(protocols[:1], corpus, corpus.test, task="dir")
    assert set(directed[0].predictions["answer"]) == {str(label) for label in LABELS[:2]}
    edges.unlink()
    systems, notes = evidence_alone(protocols, corpus, corpus.test)
    assert len(systems) == 1
    assert len(notes) == 1
    assert "“evidence alone: graph,file=edges.csv; other_lines” is left out" in notes[0]
    assert "no such file" in notes[0]
