"""Mean per-gene AUROC on all official test rows, against a loop over genes with scikit-learn's `roc_auc_score`.

    python -m tools.speed.per_gene_auroc [--source FOLDER] [--json FILE]

Scores are random with a skill, to two digits, so that they tie. Exits with 1 below the target ratio.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.screens.labels import data_dir, load_labels
from benchmarks.statistics.areas import per_gene_auroc
from rewards import Label
from tools.speed.load_labels import median_seconds

TARGET_RATIO = 100.0


def loop(label: npt.NDArray[np.bool_], score: npt.NDArray[np.float64], gene: "pd.Series[str]") -> float:
    """Return the mean over genes with both classes of scikit-learn's AUROC."""
    from sklearn.metrics import roc_auc_score

    values = []
    for rows in gene.groupby(gene, sort=False).indices.values():
        own = label[rows]
        if own.any() and not own.all():
            values.append(roc_auc_score(own, score[rows]))
    return float(np.mean(values))


def main() -> int:
    """Time both sides in this process, print medians and their ratio and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=data_dir(), help="folder of the full labels")
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    labels = load_labels(args.source)
    test = labels[labels["split"] == "test"]
    label = (test["label"] != str(Label.NONE)).to_numpy()
    score = np.asarray(np.round(np.random.default_rng(0).normal(size=len(test)) + 0.5 * label, 2), dtype=np.float64)
    gene = (test["cell_line"].astype(str) + "|" + test["gene"]).reset_index(drop=True)

    value, expected = per_gene_auroc(label, score, gene), loop(label, score, gene)
    if abs(value - expected) > 1e-9:
        print(f"values differ: ours {value}, scikit-learn {expected}")
        return 1
    ours = median_seconds(lambda: per_gene_auroc(label, score, gene), 9)
    other = median_seconds(lambda: loop(label, score, gene), 3)
    print(f"{len(test):,} rows, both {value:.6f}: ours {ours * 1000:.1f} ms, loop over scikit-learn {other:.2f} s; "
          f"ratio {other / ours:.0f} (target {TARGET_RATIO:.0f})")  # fmt: skip
    if args.json:
        row = {"name": "per_gene_auroc", "prompt": 0, "completion": 0, "group": 0, "rows": len(test)}
        args.json.write_text(json.dumps([{**row, "ours_s": ours, "other_s": other, "ratio": other / ours}], indent=2))
    return 0 if other / ours >= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
