"""Gene embeddings from a file, such as GenePT's, and a logistic regression on them within a cell line."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.predictions import PROBABILITIES
from benchmarks.evidence.corpus import Corpus
from benchmarks.tables import check_kind, numbers, read_table
from rewards import LABELS, InputError

Floats = npt.NDArray[np.float32]

GENE_COLUMN: Final = "gene"
COMPONENTS: Final = 32
_UNNAMED: Final = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # names pandas gives a column of row numbers
_LEAST_ROWS: Final = 3  # with fewer rows, a column of row numbers cannot be recognised


@dataclass(frozen=True)
class Embeddings:
    """Gene embeddings.

    Attributes:
        path: the file they were read from.
        genes: (G,) their symbols, each once.
        vectors: (G, D) one row per symbol, finite.
    """

    path: Path
    genes: pd.Index
    vectors: Floats


def read_embeddings(path: Path) -> Embeddings:
    """Read gene embeddings.

    Args:
        path: a Parquet or CSV file with a column `gene` (symbols as in PerturbQA, each once). All other columns are
            numeric and form the embedding. Columns of row numbers that pandas wrote are ignored.

    Returns:
        The embeddings.

    Raises:
        InputError: one of these:
            - the file is missing, unreadable or of another kind (a pickle is refused, since reading it can run code);
            - a column or value is missing, or a value is not a finite number;
            - a symbol occurs twice;
            - a column holds row numbers.
    """
    check_kind(path, (".parquet", ".csv"))
    table = read_table(path)
    if GENE_COLUMN not in table.names:
        raise InputError(f"{path}: no column {GENE_COLUMN!r}, but {table.names[:5]}…; rename the symbols' column")
    genes = table.frame[GENE_COLUMN]
    names = [name for name in table.names if name != GENE_COLUMN and not _UNNAMED.fullmatch(name)]
    if not names or not len(genes):
        raise InputError(f"{path}: {len(genes)} rows, {len(names)} numeric columns; at least one of each is needed")
    if not pd.api.types.is_string_dtype(genes.dtype):
        raise InputError(f"{path}: column {GENE_COLUMN!r} is {genes.dtype}, not text; write gene symbols")
    table.refuse(genes.isna() | (genes == ""), "no symbol; each row has one")
    table.refuse(genes.duplicated(), "a symbol that is there twice; each has one row", GENE_COLUMN)
    vectors = np.empty((len(genes), len(names)), dtype=np.float32)
    for at, name in enumerate(names):
        vectors[:, at] = numbers(table.frame[name])
        table.refuse(~np.isfinite(vectors[:, at]), "not a finite number; correct it, or leave the column out", name)
        if _counts_rows(vectors[:, at]):
            raise InputError(f"{path}: column {name!r} holds row numbers, not an embedding; leave it out")
    return Embeddings(path, pd.Index(genes), vectors)


def _counts_rows(values_G: Floats) -> bool:
    """Whether values are consecutive whole numbers in any order, as row numbers are, even after a file was sorted."""
    ordered = np.sort(values_G)
    if len(ordered) < _LEAST_ROWS or ordered[0] != np.round(ordered[0]):
        return False
    return np.array_equal(ordered, np.arange(len(ordered)) + ordered[0])


def embedding_regression(embeddings: Embeddings, corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast items by multinomial logistic regression on the embeddings of knockdown and gene.

    Embeddings are reduced to 32 principal components over the symbols of the labels (no label is used), each scaled to
    unit variance. The features are the knockdown's components, the gene's, and their products component by component.
    One regression (scikit-learn, L2 with C = 1) is fitted per cell line, on its training rows. A line without training
    rows is forecast by a regression fitted on all training rows.

    Args:
        embeddings: from `read_embeddings`.
        corpus: labels under a split.
        items: N items with `item_id`, `cell_line`, `pert`, `gene`.

    Returns:
        `item_id, p_up, p_down, p_none`, one row per item in the order given.

    Raises:
        InputError: the file lacks symbols of the labels or items, or training rows have only one label.
    """
    train = corpus.train
    symbols = pd.Index(np.unique(np.concatenate([rows[name].astype(str).unique() for rows in (train, items)
                                                 for name in ("pert", "gene")])))  # fmt: skip
    at_S = embeddings.genes.get_indexer(symbols)
    if (at_S < 0).any():
        absent = symbols[at_S < 0]
        raise InputError(
            f"{embeddings.path}: no embedding for {len(absent)} of {len(symbols)} symbols (first: {absent[0]!r}); "
            "add a row for each (its alias's embedding, or the mean of all rows)"
        )
    reduced_SK = _principal_components(embeddings.vectors[at_S])
    lines = items["cell_line"].astype(str).to_numpy()
    train_lines = train["cell_line"].astype(str).to_numpy()
    probability_NL = np.empty((len(items), len(LABELS)))
    for line in np.unique(lines):
        rows = train[train_lines == line] if (train_lines == line).any() else train
        model = _fit(_features(reduced_SK, symbols, rows), rows["label"].astype(str).to_numpy(), embeddings.path)
        here = lines == line
        found = model.predict_proba(_features(reduced_SK, symbols, items[here]))
        probability_NL[here] = in_label_order(found, model.classes_)
    columns = dict(zip(PROBABILITIES, probability_NL.T, strict=True))
    return pd.DataFrame({"item_id": items["item_id"].to_numpy(), **columns})


def in_label_order(probability_NC: npt.NDArray[Any], classes: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return probabilities over `LABELS`, (N, 3), from those over a model's classes; 0 for a label without a class."""
    ordered = np.zeros((len(probability_NC), len(LABELS)))
    ordered[:, [LABELS.index(name) for name in classes]] = probability_NC
    return np.asarray(ordered / ordered.sum(axis=1, keepdims=True))  # in single precision they do not sum to 1 exactly


def _principal_components(vectors_SD: Floats) -> Floats:
    """Return scores on the first principal components, each of unit variance; constant ones are left out."""
    centred = vectors_SD.astype(np.float64) - vectors_SD.mean(axis=0, dtype=np.float64)
    variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    keep = np.argsort(-variance)[:COMPONENTS]
    keep = keep[variance[keep] > 1e-9 * max(float(variance.max()), 1e-300)]
    return np.asarray(centred @ axes[:, keep] / np.sqrt(variance[keep]), dtype=np.float32)


def _features(reduced_SK: Floats, symbols: pd.Index, rows: pd.DataFrame) -> Floats:
    pert = reduced_SK[symbols.get_indexer(pd.Index(rows["pert"].astype(str)))]
    gene = reduced_SK[symbols.get_indexer(pd.Index(rows["gene"].astype(str)))]
    return np.concatenate([pert, gene, pert * gene], axis=1)


def _fit(features: Floats, labels: npt.NDArray[Any], path: Path) -> Any:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        raise InputError(f"{path}: the training rows have only one label, a regression needs two; use more rows")
    return LogisticRegression(max_iter=500).fit(features, labels)
