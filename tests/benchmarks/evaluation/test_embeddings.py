"""Gene embeddings: read strictly, and a regression on them that learns what they tell."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.baselines import EMBEDDINGS, predict_baselines
from benchmarks.evaluation.embeddings import embedding_regression, read_embeddings
from benchmarks.evaluation.predictions import PROBABILITIES, check_predictions
from benchmarks.evidence.corpus import Corpus
from benchmarks.screens.schema import LABEL_DTYPE, LINE_DTYPE, SPLIT_DTYPE
from benchmarks.screens.splits import apply_split
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
MakeLabels = Callable[[int], pd.DataFrame]


def write(path: Path, frame: pd.DataFrame) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return path


def random_embeddings(labels: pd.DataFrame, n: int = 6) -> pd.DataFrame:
    symbols = sorted({*labels["pert"], *labels["gene"]})
    vectors = np.random.default_rng(0).normal(size=(len(symbols), n))
    return pd.DataFrame({"gene": symbols, **{f"e{i}": vectors[:, i] for i in range(n)}})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_symbols_and_numbers_are_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"x": [1, 2, 4], "gene": ["NA", "TP53", "1"], "y": [0.5, -1.25, 1e-3]})
    embeddings = read_embeddings(write(tmp_path / f"e{suffix}", frame))
    assert embeddings.genes.tolist() == ["NA", "TP53", "1"]
    np.testing.assert_allclose(embeddings.vectors, frame[["x", "y"]].to_numpy(), rtol=1e-6)


GOOD = pd.DataFrame({"gene": ["A", "B"], "x": [0.0, 1.0]})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (GOOD.rename(columns={"gene": "symbol"}), "no column .gene."),
        (GOOD[["gene"]], "0 numeric columns"),
        (GOOD.head(0).astype({"x": float}), "0 rows"),
        (GOOD.assign(gene="A"), "row [23]: gene is 'A': a symbol that is there twice"),
        (GOOD.assign(gene=["A", ""]), "row [23]: no symbol"),
        (GOOD.assign(y=["a", "b"]), "row [12]: y is 'a': not a finite number"),
        (GOOD.assign(y=[1.0, np.nan]), "row [23]: y is nan: not a finite number"),
        (GOOD.assign(y=[np.inf, 1.0]), "row [12]: y is '?inf'?: not a finite number"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, suffix: str, frame: pd.DataFrame, words: str) -> None:
    path = write(tmp_path / f"genes{suffix}", frame)
    with pytest.raises(InputError, match=words) as error:
        read_embeddings(path)
    assert str(path) in str(error.value)


def test_a_missing_or_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_embeddings(tmp_path / "none.csv")
    for name in ("text.parquet", "empty.csv", "empty.parquet"):
        (tmp_path / name).write_text("no table" if name.startswith("text") else "")
        with pytest.raises(InputError, match=name):
            read_embeddings(tmp_path / name)
    with pytest.raises(InputError, match="is not read; save it as .parquet or .csv"):
        read_embeddings(tmp_path / "genes.txt")


@pytest.mark.parametrize("name", ["genes.pkl", "genes.pickle", "genes.npy", "genes.npz", "genes.pt"])
def test_a_pickle_is_refused_unread(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"A": [1.0]}))
    with pytest.raises(InputError, match="is not read; .*pickles can run code and are never opened"):
        read_embeddings(tmp_path / name)


def test_a_pickle_under_another_name_is_not_loaded(tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"genes{suffix}"
        path.write_bytes(pickle.dumps({"A": [1.0]}))
        with pytest.raises(InputError):
            read_embeddings(path)


def test_missing_symbols_are_counted_and_the_first_is_named(tmp_path: Path, make_labels: MakeLabels) -> None:
    corpus = Corpus("small", "official", make_labels(0))
    frame = random_embeddings(corpus.labels)
    path = write(tmp_path / "genes.csv", frame[~frame["gene"].isin(["G3", "P1"])])
    with pytest.raises(InputError, match=f"no embedding for 2 of {len(frame)} symbols .first: 'G3'.") as error:
        predict_baselines(corpus, corpus.test, path)
    assert str(path) in str(error.value)


def effect_by_embedding(signal: bool) -> tuple[Corpus, pd.DataFrame]:
    """Up where knockdown and gene have embeddings of one sign, down where not; the genes' own rates tell nothing."""
    rng = np.random.default_rng(1)
    symbols = [f"P{i}" for i in range(40)] + [f"G{i}" for i in range(20)]
    sign = {name: (1 if i % 2 else -1) for i, name in enumerate(symbols)}
    rows = []
    for line in ("k562", "rpe1"):
        for p in range(40):
            for g in range(20):
                same = sign[f"P{p}"] == sign[f"G{g}"]
                rows.append((line, f"P{p}", f"G{g}", UP if same else DOWN, "test" if p >= 30 else "train"))
    labels = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label", "split"])
    labels.insert(0, "item_id", labels["cell_line"] + "|" + labels["pert"] + "|" + labels["gene"])
    labels = labels.astype({"cell_line": LINE_DTYPE, "label": LABEL_DTYPE, "split": SPLIT_DTYPE})
    first = [sign[name] if signal else float(rng.normal()) for name in symbols]
    return Corpus("small", "official", labels), pd.DataFrame(
        {"gene": symbols, "a": first, "b": rng.normal(size=len(symbols)), "same": 7.0}
    )


@pytest.mark.parametrize(("signal", "low", "high"), [(True, 0.99, 1.0), (False, 0.3, 0.7)])
def test_the_regression_learns_from_knockdown_and_gene_together(
    tmp_path: Path, signal: bool, low: float, high: float
) -> None:
    corpus, frame = effect_by_embedding(signal)
    found = predict_baselines(corpus, corpus.test, write(tmp_path / "genes.parquet", frame))[EMBEDDINGS]
    assert low <= (found["answer"] == found["label"]).mean() <= high
    check_predictions(found)
    assert (found["p_none"] == 0).all()  # a label that no training row has


@pytest.mark.parametrize("split", ["official", "holdout:rpe1"])
def test_test_labels_change_nothing(tmp_path: Path, make_labels: MakeLabels, split: str) -> None:
    labels = apply_split(make_labels(0), split)
    embeddings = read_embeddings(write(tmp_path / "genes.csv", random_embeddings(labels)))
    flipped = labels.copy()
    flipped.loc[flipped["split"] == "test", "label"] = UP
    before, after = (
        embedding_regression(embeddings, Corpus("small", split, one), labels[labels["split"] == "test"])
        for one in (labels, flipped)
    )
    np.testing.assert_array_equal(before[list(PROBABILITIES)].to_numpy(), after[list(PROBABILITIES)].to_numpy())


def test_one_training_label_only_is_an_error(tmp_path: Path, make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    labels["label"] = pd.Categorical([NONE] * len(labels), dtype=LABEL_DTYPE)
    embeddings = read_embeddings(write(tmp_path / "genes.csv", random_embeddings(labels)))
    corpus = Corpus("small", "official", labels)
    with pytest.raises(InputError, match="only one label"):
        embedding_regression(embeddings, corpus, corpus.test)
