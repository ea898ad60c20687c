"""What are the baselines for unseen genes and perturbations worth? Fills two tables of docs/baselines.md.

python -m tools.unseen --bioreasoning TRAIN.csv    cross-validates on the BioReasoning Challenge's labels
python -m tools.unseen --perturbqa                 scores PerturbQA's official split and its genes held out
python -m tools.unseen                             writes the tables from docs/unseen.json again

The first two write their part of that file, too. They need PerturbQA's labels (`synthpert data fetch`), which are the
reference screen of the challenge's.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.baselines import BASELINES, UNSEEN, Baseline, as_predictions
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.reference import UPPER, Reference, open_reference
from benchmarks.screens.labels import DESCRIBED
from benchmarks.screens.splits import apply_split
from benchmarks.screens.table import LabelTable, read_screen
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from benchmarks.statistics.significance import confidence_interval
from rewards import InputError
from tools.pages import between, number, score

Bools = npt.NDArray[np.bool_]

DOCS: Final = Path(__file__).parents[1] / "docs"
RESULT: Final = DOCS / "unseen.json"
PAGE: Final = DOCS / "baselines.md"
FOLDS: Final = 5
SEEDS: Final = range(5)
POOLED: Final = {"de_auroc": "de", "dir_auroc": "dir"}
PER_GENE: Final = {"de_per_gene_auroc": "de", "dir_per_gene_auroc": "dir"}
SPLITS: Final = ("holdout:genes", "official")
# Those that know something of each split's test items.
COMPARED: Final = (
    "gene rate", "cross-line neighbours", "all shortcuts combined", *(one.name for one in UNSEEN if not
    one.needs_reference),
)  # fmt: skip


def cross_validate(
    screen_file: Path, reference: Reference, seeds: Sequence[int] = SEEDS, baselines: Sequence[Baseline] = UNSEEN
) -> dict[str, Any]:
    """Forecast the rows that `holdout:both,fold=K/5` holds out, all five folds together; once for each seed.

    Args:
        screen_file: train.csv of the BioReasoning Challenge, or another table in its form.
        reference: the other screen.
        seeds: of the folds. Intervals are of the first; each seed holds out about a fifth of the rows.
        baselines: what to forecast with.

    Returns:
        `rows`: for each baseline its metrics, on all rows held out and on those whose two genes the reference knows.
    """
    described = LabelTable(str(screen_file), cell_line="bmdm", labels=_words())
    screen, labels = read_screen(described)
    pooled: dict[str, list[pd.DataFrame]] = {one.name: [] for one in baselines}
    for seed in seeds:
        parts: dict[str, list[pd.DataFrame]] = {one.name: [] for one in baselines}
        for fold in range(1, FOLDS + 1):
            split = f"holdout:both,fold={fold}/{FOLDS},seed={seed}"
            corpus = Corpus(str(screen_file), split, apply_split(labels, split), screen).with_reference(reference)
            for one in baselines:
                parts[one.name].append(as_predictions(corpus.test, one.forecast(corpus, corpus.test)))
            sys.stderr.write(f"{split}: done\n")
        for name, frames in parts.items():
            pooled[name].append(pd.concat(frames, ignore_index=True))
    rows = []
    for name, of_seeds in pooled.items():
        row: dict[str, Any] = {"baseline": name}
        known = [frame[knows(reference, frame)] for frame in of_seeds]
        for subset, frames in (("known", known), ("all", of_seeds)):
            each = [scores(frame, POOLED) for frame in frames]
            row[subset] = {"items": len(frames[0]), "first": each[0], "mean": {}}
            for metric in POOLED:
                values = [one[metric]["value"] for one in each]
                row[subset]["mean"][metric] = {"value": float(np.mean(values)), "values": values}
        rows.append(row)
    return {"seeds": list(seeds), "folds": FOLDS, "labelled": len(labels), "rows": rows}


def _words() -> dict[str, str]:
    from benchmarks.config import read_yaml

    return dict(read_yaml(DESCRIBED["bioreasoning"])["labels"])


def knows(reference: Reference, items: pd.DataFrame) -> Bools:
    """Return which items have a perturbation and a gene that the reference has labels of, (N,)."""
    known = np.ones(len(items), dtype=bool)
    for column in ("pert", "gene"):
        there = set(reference.labels[column].astype(str))
        known &= np.array([reference.name_of(symbol) in there for symbol in items[column].astype(str)], dtype=bool)
    return known


def compare_on_perturbqa(corpus: Corpus) -> list[dict[str, Any]]:
    """Return, for each baseline in `COMPARED`, its metrics on the test items of a split of PerturbQA."""
    rows = []
    for one in (*BASELINES, *UNSEEN):
        if one.name in COMPARED:
            predictions = as_predictions(corpus.test, one.forecast(corpus, corpus.test))
            rows.append({"baseline": one.name, **scores(predictions, POOLED | PER_GENE)})
            sys.stderr.write(f"{corpus.split}, {one.name}: done\n")
    return rows


def scores(predictions: pd.DataFrame, metrics: Mapping[str, str]) -> dict[str, Any]:
    """Return each metric with its interval, clustered by perturbation and gene (docs/statistics.md)."""
    runs = prediction_arrays(predictions)
    found = {}
    for metric, task in metrics.items():
        one = estimate(runs, task, metric)
        interval = confidence_interval(runs, one, metric)
        values = {"value": one.value, "low": interval.low, "high": interval.high}
        found[metric] = {key: float(value) if np.isfinite(value) else None for key, value in values.items()}
    return found


def cross_validated_table(result: Mapping[str, Any]) -> str:
    """Return the table of the cross-validation in Markdown."""
    rows = result["rows"]
    of = {subset: rows[0][subset]["items"] for subset in ("known", "all")}
    head = [f"| | `de`, known ({of['known']:,} rows) | `dir` | `de`, all rows ({of['all']:,}) | `dir` |"]
    lines = [*head, "|---|---:|---:|---:|---:|"]
    for row in rows:
        cells = [
            f"{score(row[subset]['first'][metric])}; {number(row[subset]['mean'][metric]['value'])}"
            for subset in ("known", "all")
            for metric in POOLED
        ]
        lines.append(f"| {row['baseline']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def perturbqa_table(result: Mapping[str, Any]) -> str:
    """Return the table of PerturbQA's splits in Markdown, with what introduces it."""
    lines = [
        "**PerturbQA without a reference.** Pooled and per-gene AUROC over all four lines, with 95 % intervals.\n"
        "With genes held out, no row tells anything of a test gene. What is left is the knockdown. The gene rate\n"
        "is then the labels' shares without those of the item's own perturbation, and so leans away from it.\n",
        "| split | baseline | pooled AUROC `de` | `dir` | per-gene AUROC `de` | `dir` |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for split, rows in result.items():
        for row in rows:
            cells = [score(row[metric]) for metric in (*POOLED, *PER_GENE)]
            lines.append(f"| `{split}` | {row['baseline']} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: Final = {"bioreasoning": cross_validated_table, "perturbqa": perturbqa_table}


def _stored() -> dict[str, Any]:
    return dict(json.loads(RESULT.read_text(encoding="utf-8"))) if RESULT.is_file() else {}


def _store(name: str, result: Mapping[str, Any]) -> None:
    RESULT.write_text(json.dumps(_stored() | {name: result}, indent=1) + "\n", encoding="utf-8")


def main(words: list[str] | None = None) -> None:
    """Measure what is asked for, and write the tables; see this script's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bioreasoning", type=Path, help="train.csv of the challenge")
    parser.add_argument("--perturbqa", action="store_true", help="score PerturbQA's splits")
    parser.add_argument("--data", default="perturbqa", help="folder of PerturbQA's labels")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds of the cross-validation")
    args = parser.parse_args(words)
    if args.bioreasoning is not None:
        reference = open_reference(args.data, UPPER)
        if reference is None:
            raise InputError("--data: names no labels; give the folder of PerturbQA's")
        _store("bioreasoning", cross_validate(args.bioreasoning, reference, range(args.seeds)))
    found: dict[str, Any] = {}
    for split in SPLITS if args.perturbqa else ():
        found[split] = compare_on_perturbqa(open_corpus(args.data, split))
        _store("perturbqa", found)
    page = PAGE.read_text(encoding="utf-8")
    for name, result in _stored().items():
        page = between(page, f"<!-- unseen: {name} -->", TABLES[name](result))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
