"""What is each kind of evidence worth without a language model? Fills the table of docs/evidence.md.

python -m tools.evidence_kinds [--gene-sets F.gmt] [--graph F.csv]    forecasts PerturbQA's official test split,
                                                                       writes the table and a JSON file beside it;
                                                                       run again, it goes on after a stop
python -m tools.evidence_kinds --line rpe1                             prints the table of one line, writes nothing
python -m tools.evidence_kinds --pages                                 writes the table from that JSON file again

It needs the full labels (`synthpert data fetch`).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.evaluation.baselines import as_predictions, cross_line_neighbours
from benchmarks.evaluation.evidence_forecast import evidence_forecast
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.kinds.kind import EvidenceKind, read_evidence
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


def measure(
    corpus: Corpus, items: pd.DataFrame, files: Mapping[str, Path], before: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield what the JSON file holds, each time with a further row: of each kind, of all together, of the neighbours.

    Args:
        corpus: the labels.
        items: test items to forecast.
        files: of the kinds that need one, by kind.
        before: what an earlier run has stored; its rows are kept if it forecast the same items from the same labels.
    """
    kinds = [*KINDS, *(f"{name},k=5,file={file}" for name, file in files.items())]
    shown = {kind: kind.partition(",file=")[0] for kind in kinds}
    settings = {"the gene's rate alone": [], **{shown[kind]: [kind] for kind in kinds}, "all of these": kinds}
    facts = {"items": len(items), "split": corpus.split, "data": corpus.digest, "files": sorted(files)}
    same = before is not None and {key: before.get(key) for key in facts} == facts
    done = {row["evidence"]: row for row in before["rows"]} if same and before is not None else {}
    rows = []
    for name, texts in {**settings, NEIGHBOURS: None}.items():
        if name not in done:
            known, forecast = None, cross_line_neighbours
            if texts is not None:
                found = [read_evidence(text) for text in texts]
                forecast = partial(_of_kinds, kinds=found)
                with_any = {item for kind in found for item in quote_evidence(corpus, items, kind)["item_id"]}
                known = len(with_any) / len(items) if texts else None
            scores = _scores(as_predictions(items, forecast(corpus, items)))
            done[name] = {"evidence": name, "known": known, **scores}
            sys.stderr.write(_row(done[name]) + "\n")
        rows.append(done[name])
        yield {**facts, "rows": rows}


def _of_kinds(corpus: Corpus, items: pd.DataFrame, kinds: Sequence[EvidenceKind]) -> pd.DataFrame:
    return evidence_forecast(corpus, items, kinds)


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
    """Return the table in Markdown, and above it which items were forecast."""
    lines_of_items = ", ".join(result["rows"][0]["de_per_gene_auroc"]["lines"])
    caption = f"Test items: {result['items']:,}, of {lines_of_items}. The columns `by line` have this order."
    head = "| evidence | test items with any | per-gene AUROC `de`, 95 % interval | by line | `dir` | by line |"
    return "\n".join([caption, "", head, "|---|---:|---:|---|---:|---|", *map(_row, result["rows"])])


def _row(row: Mapping[str, Any]) -> str:
    cells = [row["evidence"], "" if row["known"] is None else f"{row['known']:.0%}"]
    for metric in _TASKS:
        one = row[metric]
        known = one["low"] is not None and one["high"] is not None
        interval = f" ({_number(one['low'])} to {_number(one['high'])})" if known else ""
        cells.append(_number(one["value"]) + interval)
        cells.append(" ".join(_number(value) for value in one["lines"].values()))
    return f"| {' | '.join(cells)} |"


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
        given = {name: file for name, file in files.items() if file is not None}
        before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() and args.line is None else None
        for result in measure(corpus, items, given, before):
            if args.line is None:
                RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if args.line is not None:
            sys.stdout.write(table(result) + "\n")
            return
    page = DOCS / "evidence.md"
    text = between(page.read_text(encoding="utf-8"), MARK, table(json.loads(RESULT.read_text(encoding="utf-8"))))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
