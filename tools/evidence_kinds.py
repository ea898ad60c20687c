"""What is each kind of evidence worth without a language model? Fills the table of docs/evidence.md.

python -m tools.evidence_kinds [--gene-sets F.gmt] [--graph F.csv]    forecasts PerturbQA's official test split,
                                                                       writes the table and a JSON file beside it
python -m tools.evidence_kinds --line rpe1                             prints the table of one line, writes nothing
python -m tools.evidence_kinds --pages                                 writes the table from that JSON file again

It needs the full labels (`synthpert data fetch`).
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.evaluation.baselines import as_predictions, cross_line_neighbours
from benchmarks.evaluation.evidence_forecast import evidence_forecast
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.kinds.kind import read_evidence
from benchmarks.evidence.quote import quote_evidence
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from benchmarks.statistics.significance import confidence_interval
from rewards import InputError
from tools.pages import between, number

DOCS: Final = Path(__file__).parents[1] / "docs"
RESULT: Final = DOCS / "evidence.json"
MARK: Final = "<!-- kinds -->"
KINDS: Final = ("neighbours,k=5", "contrast,k=3", "other_lines", "similar_genes,k=6")
NEIGHBOURS: Final = "all neighbours, as the baseline weighs them"
_TASKS: Final = {"de_per_gene_auroc": "de", "dir_per_gene_auroc": "dir"}


def measure(corpus: Corpus, items: pd.DataFrame, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return what the JSON file holds: a row for each kind, for all together and for the neighbours.

    Args:
        corpus: the labels.
        items: test items to forecast.
        files: of the kinds that need one, by kind.
    """
    kinds = [*KINDS, *(f"{name},k=5,file={file}" for name, file in files.items())]
    shown = {kind: kind.partition(",file=")[0] for kind in kinds}
    settings = {"the gene's rate alone": [], **{shown[kind]: [kind] for kind in kinds}, "all of these": kinds}
    rows = []
    for name, texts in settings.items():
        found = [read_evidence(text) for text in texts]
        known = {item for kind in found for item in quote_evidence(corpus, items, kind)["item_id"]}
        row = {"evidence": name, "known": len(known) / len(items) if texts else None}
        rows.append(row | _scores(as_predictions(items, evidence_forecast(corpus, items, found))))
        sys.stderr.write(table({"rows": rows[-1:]}).splitlines()[-1] + "\n")
    rows.append({"evidence": NEIGHBOURS, "known": None} | _scores(
        as_predictions(items, cross_line_neighbours(corpus, items))
    ))  # fmt: skip
    return {"items": len(items), "split": corpus.split, "data": corpus.digest, "rows": rows}


def _scores(predictions: pd.DataFrame) -> dict[str, Any]:
    """Return each metric over all lines with its interval, and its value for each line."""
    found: dict[str, Any] = {}
    for metric, task in _TASKS.items():
        runs = prediction_arrays(predictions, metric)
        whole = estimate(runs, task, metric, None)
        interval = confidence_interval(runs, whole, metric)
        of_line = {}
        for line in dict.fromkeys(predictions["cell_line"]):
            here = prediction_arrays(predictions[predictions["cell_line"] == line], metric)
            of_line[line] = _finite(estimate(here, task, metric, None).value)
        values = {"value": whole.value, "low": interval.low, "high": interval.high}
        found[metric] = {key: _finite(value) for key, value in values.items()} | {"lines": of_line}
    return found


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def table(result: Mapping[str, Any]) -> str:
    """Return the table in Markdown."""
    head = "| evidence | test items with any | per-gene AUROC `de`, 95 % interval | by line | `dir` | by line |"
    lines = [head, "|---|---:|---:|---|---:|---|"]
    for row in result["rows"]:
        cells = [row["evidence"], "" if row["known"] is None else f"{row['known']:.0%}"]
        for metric in _TASKS:
            one = row[metric]
            cells.append(f"{_number(one['value'])} ({_number(one['low'])} to {_number(one['high'])})")
            cells.append(" ".join(_number(value) for value in one["lines"].values()))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else number(value)


def main(words: list[str] | None = None) -> None:
    """Measure, and write the page; see this script's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of PerturbQA's labels")
    parser.add_argument("--line", help="one cell line only; prints its table")
    parser.add_argument("--gene-sets", type=Path, help="GMT file of gene sets")
    parser.add_argument("--graph", type=Path, help="CSV of edges")
    parser.add_argument("--pages", action="store_true", help="write the table from the JSON file again")
    args = parser.parse_args(words)
    if not args.pages:
        corpus = open_corpus(args.data)
        items = corpus.test if args.line is None else corpus.test[corpus.test["cell_line"] == args.line]
        if items.empty:
            raise InputError(f"--line {args.line}: no test items; use one of {', '.join(corpus.lines)}")
        files = {"gene_sets": args.gene_sets, "graph": args.graph}
        result = measure(corpus, items, {name: file for name, file in files.items() if file is not None})
        if args.line is not None:
            sys.stdout.write(table(result) + "\n")
            return
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page = DOCS / "evidence.md"
    text = between(page.read_text(encoding="utf-8"), MARK, table(json.loads(RESULT.read_text(encoding="utf-8"))))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
