"""Published figures: complete, as the papers have them, and named for what they are."""

import pandas as pd
import pytest

from benchmarks.report.published import HELD_OUT, WITHIN_K562, WITHIN_LINE, published_figures
from benchmarks.screens.schema import CELL_LINES
from benchmarks.statistics.metrics import find_metric

COLUMNS = ["system", "task", "metric", "cell_line", "value", "source", "note"]


def test_the_official_split_has_every_system_in_every_line_for_both_tasks() -> None:
    rows = pd.DataFrame(published_figures("official"))
    assert list(rows.columns) == COLUMNS
    assert rows.groupby(["system", "task"])["cell_line"].agg(list).map(lambda lines: lines == list(CELL_LINES)).all()
    assert rows["system"].nunique() == 9
    assert len(rows) == 9 * 2 * 4
    assert set(rows["note"]) == {WITHIN_LINE}
    assert rows["value"].between(0.4, 0.7).all()


@pytest.mark.parametrize(
    ("system", "task", "values"),
    [
        ("SUMMER (Llama-3-70B)", "de", [0.62, 0.59, 0.62, 0.59]),
        ("SUMMER (Llama-3-70B)", "dir", [0.64, 0.64, 0.66, 0.67]),
        ("GEARS", "dir", [0.67, 0.61, 0.52, 0.52]),
        ("GenePT-Prot", "de", [0.59, 0.56, 0.54, 0.55]),
        ("Retrieval only", "dir", [0.69, 0.63, 0.64, 0.61]),
    ],
)
def test_values_are_the_papers(system: str, task: str, values: list[float]) -> None:
    rows = [row for row in published_figures("official") if row["system"] == system and row["task"] == task]
    assert [row["value"] for row in rows] == values
    assert {row["metric"] for row in rows} == {f"{task}_per_gene_auroc"}


def test_gene_sets_have_every_system_for_both_tasks() -> None:
    rows = pd.DataFrame(published_figures("official", sets=True))
    assert list(rows.columns) == COLUMNS
    of_genes = pd.DataFrame(published_figures("official"))
    assert rows.groupby("task")["system"].agg(list).map(set).eq({*of_genes["system"]}).all()
    assert len(rows) == 9 * 2
    assert set(rows["note"]) == {WITHIN_K562}
    assert published_figures("holdout:perturbations", sets=True) == []


def test_rpe1_held_out_stands_beside_the_majority_class() -> None:
    rows = published_figures("holdout:rpe1")
    assert [(row["system"], row["value"]) for row in rows] == [("SynthPert", 0.87), ("majority class", 0.858)]
    assert {(row["task"], row["metric"], row["cell_line"]) for row in rows} == {("three_class", "accuracy", "rpe1")}
    assert rows[0]["note"] == HELD_OUT


def test_nothing_is_shown_where_nothing_was_published() -> None:
    assert published_figures("holdout:k562") == []


def test_metrics_are_those_of_the_report() -> None:
    rows = published_figures("official") + published_figures("official", sets=True) + published_figures("holdout:rpe1")
    for row in rows:
        assert find_metric(row["metric"], row["task"])
