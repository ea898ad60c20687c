"""The report's numbers as CSV: one row per score, one row per comparison."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from benchmarks.report.summary import Summary, comparison_json, plain_json, score_json
from benchmarks.statistics.significance import Comparison

SCORES: Final = (
    "system", "kind", "task", "scope", "where", "metric", "value", "low", "high", "n", "n_perturbations",
    "n_perturbations_left_out", "n_genes", "n_genes_left_out", "n_seeds", "reason",
)  # fmt: skip
COMPARISONS: Final = (
    "cell_line",
    "a",
    "b",
    "task",
    *(one.name for one in fields(Comparison)),
    "perturbations_needed",
    "p_fdr",
)


def score_rows(summary: Summary) -> list[dict[str, Any]]:
    """Return a row per system, task, place and metric.

    `scope` is `all`, `line` or `stratum`, and `where` names which. What the metric does not have is None.
    """
    rows = []
    for name, system in summary.systems.items():
        for by_stratum, scores in ((False, system.metrics), (True, system.strata)):
            for task, by_where in scores.items():
                for where, cells in by_where.items():
                    scope = "stratum" if by_stratum else "all" if where == "all" else "line"
                    place = {"system": name, "kind": system.kind, "task": task, "scope": scope, "where": where}
                    for metric, score in cells.items():
                        row = place | {"metric": metric, "n_seeds": len(system.seeds)} | score_json(score)
                        rows.append({column: plain_json(row.get(column)) for column in SCORES})
    return rows


def comparison_rows(summary: Summary) -> list[dict[str, Any]]:
    """Return a row per comparison: those over all lines, adjusted by Holm's method within a metric, then each line's.

    `cell_line` is `all` or the line; lines are exploratory and have `p_fdr` (Benjamini & Hochberg) for `p_holm`.
    """
    rows = [{"cell_line": "all"} | comparison_json(one) for one in (*summary.comparisons, *summary.exploratory)]
    return [{column: plain_json(row.get(column)) for column in COMPARISONS} for row in rows]


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows, with these columns as keys, as CSV: null is empty, numbers have all their digits, lists are JSON."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()})
    return out.getvalue()
