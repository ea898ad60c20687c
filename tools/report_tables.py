"""Scores of reports as tables in the pages.

python -m tools.report_tables NAME=FOLDER …    reads report.json of each folder, writes docs/reports.json and the tables
python -m tools.report_tables                  writes the tables from docs/reports.json again

NAME is one of `TABLES`; the page of a table says how its report is made.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rewards import InputError
from tools.pages import between, score, table, with_interval

DOCS: Final = Path(__file__).parents[1] / "docs"
RESULT: Final = DOCS / "reports.json"


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        page: its file in docs/.
        metrics: what columns are called, by (task, metric).
        minus: the model that others are subtracted from.
        by: the metrics of these differences; each is also a column.
    """

    page: str
    metrics: Mapping[tuple[str, str], str]
    minus: str
    by: tuple[str, ...]


TABLES: Final = {
    "bioreasoning": Table(
        "bioreasoning.md",
        {
            ("three_class", "challenge_score"): "challenge score",
            ("de", "de_auroc"): "pooled AUROC `de`",
            ("dir", "dir_auroc"): "`dir`",
            ("three_class", "accuracy"): "accuracy",
        },
        "SFT+GRPO",
        ("challenge_score", "accuracy"),
    ),
    "direction": Table(
        "learning.md",
        {("dir", "dir_accuracy"): "accuracy", ("dir", "dir_auroc"): "AUROC"},
        "SFT+GRPO",
        ("dir_accuracy", "dir_auroc"),
    ),
    "evidence": Table(
        "evidence.md",
        {
            ("three_class", "accuracy"): "accuracy",
            ("de", "de_auroc"): "pooled AUROC `de`",
            ("dir", "dir_auroc"): "`dir`",
        },
        "contrast",
        ("accuracy", "de_auroc", "dir_auroc"),
    ),
}


def read_report(folder: Path, shown: Table) -> dict[str, Any]:
    """Return what a table needs of a report.

    Args:
        folder: of the report.
        shown: the table.

    Returns:
        `items`, `perturbations`, and by system its `kind`, `seeds`, `scores` by metric and `minus`, the differences.

    Raises:
        InputError: there is no report, or its models do not include the table's `minus`.
    """
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; write the report first") from error
    if shown.minus not in report["systems"]:
        raise InputError(f"{path}: has no system {shown.minus}; it has {', '.join(report['systems'])}")
    everywhere = next(row for row in report["evaluated"] if row["cell_line"] == "all")
    systems = {
        name: {
            "kind": system["kind"],
            "seeds": len(system["seeds"]),
            "scores": {metric: _value(system["metrics"][task]["all"][metric]) for task, metric in shown.metrics},
            "minus": {metric: _difference(report["comparisons"], shown.minus, name, metric) for metric in shown.by},
        }
        for name, system in report["systems"].items()
    }
    return {"items": everywhere["items"], "perturbations": everywhere["perturbations"], "systems": systems}


def _value(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("value", "low", "high")}


def _difference(comparisons: list[dict[str, Any]], a: str, b: str, metric: str) -> dict[str, Any] | None:
    """What `a` scores above `b`; None of a system against itself, or where the two cannot be compared."""
    for one in comparisons:
        if one["metric"] == metric and {one["a"], one["b"]} == {a, b} and one["difference"] is not None:
            values = [one["difference"], one["low"], one["high"]]
            if one["b"] == a:
                values = [-value for value in (values[0], values[2], values[1])]
            return {**dict(zip(("value", "low", "high"), values, strict=True)), "p": one["p_value"]}
    return None


def rows_of(report: Mapping[str, Any], shown: Table) -> str:
    """Return a table in Markdown: a row per system, models first."""
    systems = report["systems"]
    head = ["system"]
    for (_, metric), name in shown.metrics.items():
        head += [name, f"{shown.minus} minus it"] if metric in shown.by else [name]
    rows = []
    for name, system in systems.items():
        cells = [name]
        for _, metric in shown.metrics:
            cells.append(score(system["scores"][metric]))
            if metric in shown.by:
                minus = system["minus"][metric]
                cells.append(with_interval(minus) if minus else "")
        rows.append(cells)
    return table(head, rows)


def main() -> None:
    """Read the reports that are given, and write every table that there are figures for into its page."""
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for word in sys.argv[1:]:
        name, _, folder = word.partition("=")
        if name not in TABLES or not folder:
            raise SystemExit(f"{word}: write NAME=FOLDER, with NAME one of {', '.join(TABLES)}")
        known[name] = read_report(Path(folder), TABLES[name])
    RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    for name, report in known.items():
        page = DOCS / TABLES[name].page
        text = between(page.read_text(encoding="utf-8"), f"<!-- report: {name} -->", rows_of(report, TABLES[name]))
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
