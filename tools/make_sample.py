"""Make the sample that ships with the package again, byte for byte, from PerturbQA's full files.

python -m tools.make_sample [FOLDER]      FOLDER holds the eight files; SYNTHPERT_DATA by default
"""

import csv
import hashlib
import io
import sys
from pathlib import Path
from typing import Final

import pandas as pd

from benchmarks.evidence.neighbours import fit_neighbours
from benchmarks.screens.labels import data_dir, load_labels
from benchmarks.screens.sample import COLUMNS, EVIDENCE_PER_ITEM, SAMPLE_FILE, SHORT
from benchmarks.screens.schema import CELL_LINES
from rewards import LABELS, Label

GENES_PER_LINE: Final = {"train": 18, "test": 5}
ROWS_PER_GENE_AND_LABEL: Final = {"train": 8, "test": 4}
WIDE_PERTURBATIONS: Final = {"train": 6, "test": 3}
READOUTS_ADDED: Final = {"train": 12, "test": 6}


def build_sample(labels: pd.DataFrame) -> bytes:
    """Return the content of the sample's file. The same labels give the same bytes.

    Args:
        labels: the full labels with the official split.
    """
    train = labels[labels["split"] == "train"]
    model = fit_neighbours(train)
    rows = pd.concat([_draw(labels, line) for line in CELL_LINES], ignore_index=True)
    rate_NL = model.rates(rows)
    forecast = model.predict(rows)
    evidence = model.evidence(rows, EVIDENCE_PER_ITEM).groupby("item_id", sort=False)
    quoted = {
        str(item_id): ";".join(
            f"{pert}:{similarity:.2f}:{SHORT[Label(label)]}"
            for pert, similarity, label in zip(found["pert"], found["similarity"], found["label"], strict=True)
        )
        for item_id, found in evidence
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, rates, p_up, p_down in zip(rows.itertuples(), rate_NL, forecast["p_up"], forecast["p_down"], strict=True):
        numbers = [f"{value:.4f}" for value in (rates[0], rates[1], p_up, p_down)]
        writer.writerow([row.cell_line, row.pert, row.gene, row.label, row.split, *numbers,
                         quoted.get(str(row.item_id), "")])  # fmt: skip
    return text.getvalue().encode()


def _draw(labels: pd.DataFrame, line: str) -> pd.DataFrame:
    """Draw a line's rows: genes that show every label, then more genes of the perturbations with most rows so far."""
    here = labels[labels["cell_line"] == line]
    test_genes = _genes(here[here["split"] == "test"], "test", keep=[])
    train_genes = _genes(here[here["split"] == "train"], "train", keep=test_genes)
    drawn = []
    for split, genes in (("train", train_genes), ("test", test_genes)):
        rows = here[(here["split"] == split) & here["gene"].isin(genes)]
        degree = rows["pert"].map(rows["pert"].value_counts())
        rows = rows.assign(degree=degree).sort_values(
            ["gene", "label", "degree", "pert"], ascending=[True, True, False, True]
        )
        dense = rows.groupby(["gene", "label"], observed=True).head(ROWS_PER_GENE_AND_LABEL[split])
        drawn += [dense, _more_readouts(here, dense, split)]
    return pd.concat(drawn).sort_values(["split", "pert", "gene"]).drop(columns="degree")


def _more_readouts(here: pd.DataFrame, dense: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return more genes of the perturbations with most rows, in the order of the hashes of the item ids."""
    count = dense["pert"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    wide = count.index[: WIDE_PERTURBATIONS[split]]
    others = here[here["pert"].isin(wide) & ~here["item_id"].isin(dense["item_id"])]
    shuffled = others.assign(at=[hashlib.sha256(item.encode()).hexdigest() for item in others["item_id"]])
    return shuffled.sort_values("at").groupby("pert").head(READOUTS_ADDED[split]).drop(columns="at")


def _genes(rows: pd.DataFrame, split: str, keep: list[str]) -> list[str]:
    """Return `keep` and then the genes with the most rows, where each label counts up to its limit."""
    limit = ROWS_PER_GENE_AND_LABEL[split]
    counts = rows.groupby("gene", observed=True)["label"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=[str(label) for label in LABELS], fill_value=0)
    score = counts.clip(upper=limit).sum(axis=1) + counts.sum(axis=1) / 10_000
    ranked = score.sort_index().sort_values(ascending=False, kind="stable").index
    others = [str(gene) for gene in ranked if gene not in keep]
    return keep + others[: GENES_PER_LINE[split] - len(keep)]


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else data_dir()
    content = build_sample(load_labels(source))
    SAMPLE_FILE.write_bytes(content)
    sys.stdout.write(f"{SAMPLE_FILE}: {len(content):,} bytes\n")
