"""Splits keep what they hold out apart, in every line, and draw it from symbols alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.screens.splits import apply_split, read_split
from rewards import InputError

MakeLabels = Callable[[int], pd.DataFrame]


@pytest.fixture
def labels(make_labels: MakeLabels) -> pd.DataFrame:
    return make_labels(0)


def parts(labels: pd.DataFrame, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    found = apply_split(labels, split)
    return found[found["split"] == "train"], found[found["split"] == "test"]


@pytest.mark.parametrize(
    ("split", "columns"),
    [
        ("holdout:perturbations", ["pert"]),
        ("holdout:genes", ["gene"]),
        ("holdout:both", ["pert", "gene"]),
        ("holdout:both,share=0.5,seed=3", ["pert", "gene"]),
        ("holdout:both,fold=2/3", ["pert", "gene"]),
    ],
)
def test_what_is_held_out_is_in_no_training_row_of_any_line(
    labels: pd.DataFrame, split: str, columns: list[str]
) -> None:
    train, test = parts(labels, split)
    assert len(train)
    assert len(test)
    for column in columns:
        assert not set(train[column]) & set(test[column])
    assert test["cell_line"].nunique() == 4


def test_each_kept_row_is_as_it_was_but_for_its_split(labels: pd.DataFrame) -> None:
    kept = apply_split(labels, "holdout:both")
    before = labels.set_index("item_id").loc[kept["item_id"]].reset_index()
    pd.testing.assert_frame_equal(kept.drop(columns="split"), before[kept.columns].drop(columns="split"))
    assert kept["split"].dtype == labels["split"].dtype


def test_both_leaves_out_the_rows_that_cross_and_no_other(labels: pd.DataFrame) -> None:
    _, of_perts = parts(labels, "holdout:perturbations")
    _, of_genes = parts(labels, "holdout:genes")
    train, test = parts(labels, "holdout:both")
    perts, genes = set(of_perts["pert"]), set(of_genes["gene"])
    held = labels["pert"].isin(perts).to_numpy(), labels["gene"].isin(genes).to_numpy()
    assert list(test["item_id"]) == list(labels["item_id"][held[0] & held[1]])
    assert list(train["item_id"]) == list(labels["item_id"][~held[0] & ~held[1]])
    assert len(train) + len(test) == len(labels) - int((held[0] ^ held[1]).sum())


def test_the_share_and_the_seed_choose_the_symbols(labels: pd.DataFrame) -> None:
    def held(split: str) -> set[str]:
        return set(parts(labels, split)[1]["pert"])

    n = labels["pert"].nunique()
    assert len(held("holdout:perturbations")) == round(0.2 * n)
    assert len(held("holdout:perturbations,share=0.5")) == round(0.5 * n)
    assert held("holdout:perturbations") == held("holdout:perturbations,seed=0,share=0.2")
    assert held("holdout:perturbations") != held("holdout:perturbations,seed=1")
    assert len(held("holdout:perturbations,share=0.001")) == 1
    assert len(held("holdout:perturbations,share=0.999")) == n - 1


@pytest.mark.parametrize("split", ["holdout:perturbations", "holdout:genes", "holdout:both", "holdout:both,fold=1/3"])
def test_a_draw_depends_on_neither_labels_nor_the_order_of_rows(labels: pd.DataFrame, split: str) -> None:
    other = labels.assign(label=labels["label"].to_numpy()[::-1]).sample(frac=1.0, random_state=1)
    ours, theirs = (apply_split(rows, split).set_index("item_id")["split"].sort_index() for rows in (labels, other))
    pd.testing.assert_series_equal(ours, theirs)


@pytest.mark.parametrize(("held_out", "column"), [("perturbations", "pert"), ("genes", "gene")])
def test_each_symbol_is_in_one_fold(labels: pd.DataFrame, held_out: str, column: str) -> None:
    folds = [set(parts(labels, f"holdout:{held_out},fold={at}/3")[1][column]) for at in (1, 2, 3)]
    assert sorted(symbol for fold in folds for symbol in fold) == sorted(labels[column].unique())
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    assert folds[0] != set(parts(labels, f"holdout:{held_out},fold=1/3,seed=1")[1][column])


def test_a_fold_of_both_is_the_fold_of_perturbations_and_of_genes(labels: pd.DataFrame) -> None:
    _, test = parts(labels, "holdout:both,fold=2/3")
    alone = [parts(labels, f"holdout:{held_out},fold=2/3")[1] for held_out in ("perturbations", "genes")]
    assert set(test["item_id"]) == set(alone[0]["item_id"]) & set(alone[1]["item_id"])


def test_more_folds_than_symbols_are_refused(labels: pd.DataFrame) -> None:
    n = labels["gene"].nunique()
    assert parts(labels, f"holdout:genes,fold={n}/{n}")[1]["gene"].nunique() == 1
    with pytest.raises(InputError, match=f"the labels have only {n} genes; use fewer folds"):
        apply_split(labels, f"holdout:genes,fold=1/{n + 1}")


def test_a_file_names_what_is_held_out(labels: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "held.txt"
    file.write_bytes(b"\xef\xbb\xbfG1\r\n\r\nG3 \r\n")
    train, test = parts(labels, f"holdout:genes,file={file}")
    assert set(test["gene"]) == {"G1", "G3"}
    assert set(train["gene"]) == set(labels["gene"]) - {"G1", "G3"}
    file.write_text("P2\nP5")
    assert set(parts(labels, f"holdout:perturbations,file={file}")[1]["pert"]) == {"P2", "P5"}


def test_a_file_names_the_row_of_a_symbol_that_is_not_there(labels: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "held.txt"
    file.write_text("G1\ng3\n")
    with pytest.raises(InputError, match=r"held\.txt, row 2: 'g3' is none of the labels' genes \(letter case counts\)"):
        apply_split(labels, f"holdout:genes,file={file}")
    file.write_bytes(b"G1\n\xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        apply_split(labels, f"holdout:genes,file={file}")
    with pytest.raises(InputError, match="no such file"):
        apply_split(labels, "holdout:genes,file=none.txt")


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ("holdout:genes,share=2", "out of range"),
        ("holdout:genes,share=0", "out of range"),
        ("holdout:genes,share=nan", "out of range"),
        ("holdout:genes,seed=-1", "out of range"),
        ("holdout:genes,seed=1.5", "no number"),
        ("holdout:genes,shares=0.2", "'shares=0.2' is no option"),
        ("holdout:genes,seed", "'seed' is no option"),
        ("holdout:genes,seed=1,seed=2", "'seed=2' is no option"),
        ("holdout:genes,", "'' is no option"),
        ("holdout:rpe1,seed=1", "has no options; write holdout:rpe1"),
        ("holdout:pertubations,seed=1", r"has no options; did you mean holdout:perturbations\?"),
        ("holdout:both,file=a.txt", "file goes with perturbations or genes"),
        ("holdout:genes,file=a.txt,seed=1", "without share, fold and seed"),
        ("holdout:genes,file=a.txt,fold=1/5", "without share, fold and seed"),
        ("holdout:both,fold=1/5,share=0.2", "fold and share both say"),
        ("holdout:both,fold=0/5", "fold=0/5; write K/N"),
        ("holdout:both,fold=6/5", "fold=6/5; write K/N"),
        ("holdout:both,fold=1/1", "at least two folds"),
        ("holdout:both,fold=2", "fold=2; write K/N"),
        ("holdout:both,fold=1.5/5", "fold=1.5/5; write K/N"),
        ("holdout:both,fold=1/5,fold=2/5", "'fold=2/5' is no option"),
        ("holdout:rpe1,fold=1/5", "has no options; write holdout:rpe1"),
    ],
)
def test_a_bad_option_is_refused(split: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read_split(split)


def test_a_misspelt_split_is_not_taken_for_a_cell_line(labels: pd.DataFrame) -> None:
    for written, meant in {"pertubations": "perturbations", "gene": "genes", "Both": "both", "rpe": "rpe1"}.items():
        with pytest.raises(InputError, match=rf"did you mean holdout:{meant}\?"):
            apply_split(labels, f"holdout:{written}")
    with pytest.raises(InputError, match="no row of bmdm; use official, holdout:k562"):
        apply_split(labels, "holdout:bmdm")
    with pytest.raises(InputError, match="no row of bmdm; use holdout:k562"):  # there is no official split
        apply_split(labels.assign(split="train"), "holdout:bmdm")
    with pytest.raises(InputError, match="leaves no training row, since k562 is the only cell line; hold out"):
        apply_split(labels[labels["cell_line"] == "k562"], "holdout:k562")


def test_a_split_without_a_part_is_refused(labels: pd.DataFrame) -> None:
    one = labels[labels["gene"] == "G1"]
    with pytest.raises(InputError, match="needs at least two genes; the labels have 1"):
        apply_split(one, "holdout:genes")
    # One pair with each symbol: no row has both its symbols held out.
    apart = pd.concat([labels[(labels["pert"] == f"P{at}") & (labels["gene"] == f"G{at}")].head(1) for at in range(8)])
    splits = [f"holdout:both,seed={seed}" for seed in range(20)]
    with pytest.raises(InputError, match="leaves no test row"):
        for split in splits:
            apply_split(apart, split)


def test_the_share_of_rows_is_near_the_share_of_symbols() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"pert": rng.integers(500, size=20_000), "gene": rng.integers(500, size=20_000)}).astype(str)
    rows["split"] = "train"
    found = apply_split(rows, "holdout:both")
    test = int((found["split"] == "test").sum())
    assert abs(test / len(rows) - 0.04) < 0.005
    assert abs((len(found) - test) / len(rows) - 0.64) < 0.01
