"""What a split leaves for shortcuts: how many test items each of them knows something about."""

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.reference import Reference
from rewards import LABELS

Bools = npt.NDArray[np.bool_]
_ITEM: Final = ["cell_line", "pert", "gene"]


def shortcut_reach(corpus: Corpus) -> pd.DataFrame:
    """Count the test items about which the training rows, or the reference's rows, tell a baseline something.

    Args:
        corpus: labels under a split; not the sample, whose rows are not all that its evidence was computed from.

    Returns:
        A row per shortcut, named after the baseline (docs/baselines.md): `test_items` and `percent` of all test items.
        Of `majority class`, the items that it is right about are counted.
    """
    train, test = (rows[[*_ITEM, "label"]].astype(str) for rows in (corpus.train, corpus.test))
    gene_here, pert_there = _known(train, test, ["cell_line", "gene"]), _known_elsewhere(train, test, ["pert"])
    common = train["label"].value_counts().reindex([str(label) for label in LABELS], fill_value=0).idxmax()
    reach = {
        "majority class": (test["label"] == common).to_numpy(),
        "gene rate": gene_here,
        "gene rate over all lines": _known(train, test, ["gene"]),
        "perturbation rate in other lines": pert_there,
        "label copied from other lines": _known_elsewhere(train, test, ["pert", "gene"]),
        "cross-line neighbours": gene_here & pert_there,
    }
    if corpus.reference is not None:
        reach |= _of_reference(corpus.reference, test)
    rows = [(name, int(mask.sum()), round(100 * float(mask.mean()), 1)) for name, mask in reach.items()]
    return pd.DataFrame(rows, columns=["shortcut", "test_items", "percent"]).set_index("shortcut")


def _of_reference(reference: Reference, test: pd.DataFrame) -> dict[str, Bools]:
    """Which test rows the reference knows: their perturbation, their gene, both of them, or the very pair."""
    named = pd.DataFrame(
        {
            column: test[column].map({symbol: reference.name_of(symbol) or "" for symbol in test[column].unique()})
            for column in ("pert", "gene")
        }
    )
    there = reference.labels[["pert", "gene"]].astype(str)
    pert, gene = (_known(there, named, [column]) for column in ("pert", "gene"))
    names = ("perturbation known", "gene known", "both known", "pair known")
    known = (pert, gene, pert & gene, _known(there, named, ["pert", "gene"]))
    return {f"transfer from the reference: {name}": mask for name, mask in zip(names, known, strict=True)}


def _keys(rows: pd.DataFrame, columns: list[str]) -> pd.Series:
    key = rows[columns[0]]
    for column in columns[1:]:
        key = key + "|" + rows[column]
    return key


def _known(train: pd.DataFrame, test: pd.DataFrame, columns: list[str]) -> Bools:
    """Which test rows share their values of `columns` with a training row."""
    return np.asarray(_keys(test, columns).isin(_keys(train, columns).unique()))


def _known_elsewhere(train: pd.DataFrame, test: pd.DataFrame, columns: list[str]) -> Bools:
    """Which test rows share their values of `columns` with a training row of another cell line."""
    n_lines = _keys(train.drop_duplicates(["cell_line", *columns]), columns).value_counts()
    here = _known(train, test, ["cell_line", *columns])
    return np.asarray(_keys(test, columns).map(n_lines).fillna(0).to_numpy() - here > 0)
