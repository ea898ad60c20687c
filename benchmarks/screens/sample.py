"""The sample of real PerturbQA rows that ships with the package, and how it is made from the full files.

It is drawn for density, not at random: per line a few genes with every label among their rows, for each gene up to a
fixed number of rows a label, and for the perturbations that recur most some of their other readouts. Label shares in
it are therefore not PerturbQA's. Each row carries its gene's
training rates, the neighbour forecast and the nearest similar knockdowns, all computed from the full training
labels, so that evidence and baselines on the sample are the real ones.
"""

import csv
import hashlib
import io
from pathlib import Path
from typing import Final

import pandas as pd

from benchmarks.evidence.neighbours import fit_neighbours
from benchmarks.screens.labels import CELL_LINES, LABEL_DTYPE, LINE_DTYPE, SPLIT_DTYPE, SPLITS
from rewards import LABELS, InputError, Label, as_label

SAMPLE_FILE: Final = Path(__file__).parent / "data" / "perturbqa_sample.csv"
EVIDENCE_PER_ITEM: Final = 5
GENES_PER_LINE: Final = {"train": 18, "test": 5}
ROWS_PER_GENE_AND_LABEL: Final = {"train": 8, "test": 4}
WIDE_PERTURBATIONS: Final = {"train": 6, "test": 3}
READOUTS_ADDED: Final = {"train": 12, "test": 6}
_COLUMNS: Final = [
    "cell_line", "pert", "gene", "label", "split", "rate_up", "rate_down", "p_up", "p_down", "evidence",
]  # fmt: skip
_SHORT: Final = {Label.UP: "up", Label.DOWN: "down", Label.NONE: "none"}
_LONG: Final = {short: label for label, short in _SHORT.items()}


def load_sample(path: Path = SAMPLE_FILE) -> pd.DataFrame:
    """Load the sample.

    Returns:
        `item_id, cell_line, pert, gene, label, split` as `load_labels` has them, and `rate_up, rate_down` (the
        gene's training rates in its line), `p_up, p_down` (the neighbour forecast), `evidence` (a list of
        `(pert, similarity, label)`, most similar first; empty where the perturbation is unknown elsewhere).

    Raises:
        InputError: the file is missing or a row is broken; the message names file and row.
    """
    if not path.is_file():
        raise InputError(f"{path}: the sample is missing; install the package again")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != _COLUMNS:
            raise InputError(f"{path}, row 1: the header is not {','.join(_COLUMNS)}; install the package again")
        rows = []
        for number, row in enumerate(reader, start=2):
            if len(row) != len(_COLUMNS):
                raise InputError(f"{path}, row {number}: {len(row)} columns, not {len(_COLUMNS)}; install again")
            where = f"{path}, row {number}"
            if row[0] not in CELL_LINES or row[4] not in SPLITS:
                raise InputError(f"{where}: {row[0]}, {row[4]}: an unknown line or split; install the package again")
            try:
                numbers = [float(text) for text in row[5:9]]
            except ValueError:
                raise InputError(f"{where}: {row[5:9]} are not numbers; install the package again") from None
            rows.append([*row[:3], str(as_label(row[3], f"{path}, row {number}")), row[4], *numbers,
                         _parse_evidence(row[9], f"{path}, row {number}")])  # fmt: skip
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    return frame.astype({"cell_line": LINE_DTYPE, "label": LABEL_DTYPE, "split": SPLIT_DTYPE})


def build_sample(labels: pd.DataFrame) -> bytes:
    """Return the sample's file content, the same bytes for the same labels.

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
            f"{pert}:{similarity:.2f}:{_SHORT[Label(label)]}"
            for pert, similarity, label in zip(found["pert"], found["similarity"], found["label"], strict=True)
        )
        for item_id, found in evidence
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row, rates, p_up, p_down in zip(rows.itertuples(), rate_NL, forecast["p_up"], forecast["p_down"], strict=True):
        numbers = [f"{value:.4f}" for value in (rates[0], rates[1], p_up, p_down)]
        writer.writerow([row.cell_line, row.pert, row.gene, row.label, row.split, *numbers,
                         quoted.get(str(row.item_id), "")])  # fmt: skip
    return text.getvalue().encode()


def _draw(labels: pd.DataFrame, line: str) -> pd.DataFrame:
    """Draw one line's rows: genes that show every label, then more readouts of the perturbations drawn most."""
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
    """Return further readouts of the most drawn perturbations, in an order that only the item ids set."""
    count = dense["pert"].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    wide = count.index[: WIDE_PERTURBATIONS[split]]
    others = here[here["pert"].isin(wide) & ~here["item_id"].isin(dense["item_id"])]
    shuffled = others.assign(at=[hashlib.sha256(item.encode()).hexdigest() for item in others["item_id"]])
    return shuffled.sort_values("at").groupby("pert").head(READOUTS_ADDED[split]).drop(columns="at")


def _genes(rows: pd.DataFrame, split: str, keep: list[str]) -> list[str]:
    """Return the genes with the most rows when each label counts up to its limit, `keep` first."""
    limit = ROWS_PER_GENE_AND_LABEL[split]
    counts = rows.groupby("gene", observed=True)["label"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=[str(label) for label in LABELS], fill_value=0)
    score = counts.clip(upper=limit).sum(axis=1) + counts.sum(axis=1) / 10_000
    ranked = score.sort_index().sort_values(ascending=False, kind="stable").index
    others = [str(gene) for gene in ranked if gene not in keep]
    return keep + others[: GENES_PER_LINE[split] - len(keep)]


def _parse_evidence(text: str, where: str) -> list[tuple[str, float, str]]:
    if not text:
        return []
    try:
        entries = [entry.rsplit(":", 2) for entry in text.split(";")]
        return [(pert, float(similarity), str(_LONG[short])) for pert, similarity, short in entries]
    except (ValueError, KeyError) as error:
        raise InputError(f"{where}: evidence {text[:60]!r} is broken ({error}); install the package again") from error
