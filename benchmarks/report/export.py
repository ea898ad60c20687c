"""The report's numbers as files: report.json, and CSV with one row per score and one row per comparison."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final

import numpy as np

from benchmarks.report.examples import DifferingItem
from benchmarks.report.summary import Compared, Evaluated, Score, Scores, SelfCheck, Summary, SystemSummary
from benchmarks.statistics.metrics import find_metric
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


def as_json(summary: Summary) -> dict[str, Any]:
    """Return what report.json holds, as plain JSON values.

    `{"systems": {NAME: {"kind", "status", "tokens", "metrics": {TASK: {LINE or "all": {METRIC: {"value", "low", "high",
    "n", …}}}}, "strata": {TASK: {STRATUM: {METRIC: {…}}}}, "reliability", "roc", …}}, "comparisons": […],
    "exploratory": […], "protocol": {…}, "evaluated": […], "warnings": […], …}`. What cannot be told is null, with a
    `reason` beside a score. `task` says what the models were asked. If it is `three_class`, TASK is each of the three
    tasks; else it is the only TASK. A system that was not asked all items has their number as `n_items`.
    """
    most = summary.most_different
    shown: dict[str, Any] = {
        "title": summary.title,
        "warnings": summary.warnings,
        "task": summary.task,
        "primary": summary.primary,
        "systems": {name: _system_json(one) for name, one in summary.systems.items()},
        "comparisons": [comparison_json(one) for one in summary.comparisons],
        "wanted_difference": summary.wanted_difference,
        "exploratory": [comparison_json(one) for one in summary.exploratory],
        "aa_checks": [_check_json(one) for one in summary.aa_checks],
        "protocol": summary.protocol,
        "data": summary.data,
        "evaluated": [_evaluated_json(one) for one in summary.evaluated],
        "published": summary.published,
        "stages": summary.stages,
        "examples": {
            "random": [asdict(one) for one in summary.random_items],
            "most_different": most and asdict(most) | {"items": [_differing_json(one) for one in most.items]},
        },
    }
    plain: dict[str, Any] = plain_json(shown)
    return plain


def _system_json(one: SystemSummary) -> dict[str, Any]:
    fewer = {} if one.n_items is None else {"n_items": one.n_items}
    return {
        "kind": one.kind,
        **fewer,
        "fingerprint": one.fingerprint,
        "status": one.status,
        "status_counts": one.status_counts,
        "n_rows": one.n_rows,
        "tokens": asdict(one.tokens),
        "n_unscorable": one.n_unscorable,
        "seeds": one.seeds,
        "metrics": _scores_json(one.metrics),
        "strata": _scores_json(one.strata),
        "reliability": [asdict(row) for row in one.reliability],
        "roc": one.roc,
        "facts": one.facts,
    }


def _scores_json(scores: Scores) -> dict[str, Any]:
    return {
        task: {where: {name: score_json(one) for name, one in cells.items()} for where, cells in places.items()}
        for task, places in scores.items()
    }


def score_json(score: Score) -> dict[str, Any]:
    """Return a score as report.json has it: what does not go with the metric or the runs is left out."""
    return {name: value for name, value in asdict(score).items() if value not in (None, (), "")}


def comparison_json(one: Compared) -> dict[str, Any]:
    """Return a comparison as report.json has it: over all lines with Holm's p, in one line with its name and FDR's."""
    row = {"a": one.a, "b": one.b, "task": find_metric(one.result.metric).task, **asdict(one.result)}
    row["perturbations_needed"] = one.perturbations_needed
    if one.cell_line == "all":
        return row
    del row["p_holm"]
    return {"cell_line": one.cell_line, **row, "p_fdr": one.p_fdr}


def _check_json(one: SelfCheck) -> dict[str, Any]:
    kept = ("difference", "low", "high", "p_value", "p_holm", "n_items")
    return {
        "system": one.system,
        "task": find_metric(one.result.metric).task,
        "metric": one.result.metric,
        **{name: getattr(one.result, name) for name in kept},
        "note": one.result.test,
    }


def _evaluated_json(one: Evaluated) -> dict[str, Any]:
    row = {name: value for name, value in asdict(one).items() if name != "labels"}
    return row | dict(one.labels)


def _differing_json(one: DifferingItem) -> dict[str, Any]:
    row = {name: value for name, value in asdict(one).items() if name != "item"}
    return asdict(one.item) | row


def plain_json(value: Any) -> Any:
    """JSON values only: NaN and infinity become null, numpy scalars numbers, what JSON has no type for its text."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain_json(item) for item in value]
    if isinstance(value, np.generic):
        return plain_json(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)


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
