"""The sample that ships is real, remade byte for byte, small, and carries what the full labels say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import NeighbourModel
from benchmarks.screens.sample import EVIDENCE_PER_ITEM, SAMPLE_FILE, load_sample
from benchmarks.screens.schema import CELL_LINES
from rewards import LABELS, InputError
from tools.make_sample import build_sample

CARRIED = ["rate_up", "rate_down", "p_up", "p_down"]


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    return load_sample()


@pytest.mark.slow
def test_the_sample_is_remade_byte_for_byte_from_the_full_labels(
    full_frame: pd.DataFrame, full_neighbours: NeighbourModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(train: pd.DataFrame) -> NeighbourModel:
        """The model of these rows, which is fitted once for all tests."""
        assert train.equals(full_frame[full_frame["split"] == "train"])
        return full_neighbours

    monkeypatch.setattr("tools.make_sample.fit_neighbours", fitted)
    assert build_sample(full_frame) == SAMPLE_FILE.read_bytes()


def test_the_sample_is_small_and_its_notice_lies_beside_it() -> None:
    assert SAMPLE_FILE.stat().st_size <= 400_000
    notice = " ".join((SAMPLE_FILE.parent / "NOTICE-PerturbQA.txt").read_text(encoding="utf-8").split())
    for said in ("Wu et al.", "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/", "were changed by"):
        assert said in notice


def test_every_line_and_split_has_every_label(sample: pd.DataFrame) -> None:
    counts = sample.groupby(["cell_line", "split", "label"], observed=False).size()
    assert len(counts) == len(CELL_LINES) * 2 * len(LABELS)
    assert counts.min() >= 5
    assert sample["item_id"].is_unique
    assert sample.notna().to_numpy().all()


@pytest.mark.parametrize("line", CELL_LINES)
def test_per_gene_auroc_means_something(sample: pd.DataFrame, line: str) -> None:
    test = sample[(sample["cell_line"] == line) & (sample["split"] == "test")]
    classes = test.groupby("gene")["label"].nunique()
    rows = test.groupby("gene").size()
    assert ((classes == 3) & (rows >= 9)).sum() >= 4  # genes with many perturbations
    assert (test.groupby("pert").size() >= 6).sum() >= 2  # perturbations with many readouts


def test_its_labels_and_splits_are_those_of_the_full_data(sample: pd.DataFrame, full_frame: pd.DataFrame) -> None:
    columns = ["cell_line", "pert", "gene", "label", "split"]
    full = full_frame.set_index("item_id").loc[sample["item_id"], columns]
    assert sample[columns].astype(str).to_numpy().tolist() == full.astype(str).to_numpy().tolist()


@pytest.mark.slow
def test_its_rates_forecasts_and_evidence_are_those_of_the_full_training_labels(
    sample: pd.DataFrame, full_neighbours: NeighbourModel
) -> None:
    items = sample[["item_id", "cell_line", "pert", "gene"]]
    computed = np.column_stack(
        [full_neighbours.rates(items)[:, :2], full_neighbours.predict(items)[["p_up", "p_down"]].to_numpy()]
    )
    assert np.abs(sample[CARRIED].to_numpy() - computed).max() <= 0.5e-4 + 1e-9

    found = full_neighbours.evidence(items, EVIDENCE_PER_ITEM)
    assert found["item_id"].nunique() > 0.8 * len(sample)
    for item_id, carried in zip(sample["item_id"], sample["evidence"], strict=True):
        assert all(pert != item_id.split("|")[1] for pert, _, _ in carried)
    quoted = [
        (item, *entry) for item, entries in zip(sample["item_id"], sample["evidence"], strict=True) for entry in entries
    ]
    assert [(item, pert, label) for item, pert, _, label in quoted] == list(
        found[["item_id", "pert", "label"]].itertuples(index=False, name=None)
    )
    assert np.abs(np.array([entry[2] for entry in quoted]) - found["similarity"].to_numpy()).max() <= 0.005 + 1e-9


def test_carried_numbers_are_probabilities(sample: pd.DataFrame) -> None:
    numbers = sample[CARRIED].to_numpy()
    assert numbers.min() >= 0
    assert (numbers[:, :2].sum(axis=1) <= 1 + 1e-4).all()
    assert (numbers[:, 2:].sum(axis=1) <= 1 + 1e-4).all()


def rewrite(tmp_path: Path, row: int, change: dict[int, str | None]) -> Path:
    """Return a copy of the sample's first rows in which columns of one row (the header is row 1) are changed."""
    lines = [line.split(",") for line in SAMPLE_FILE.read_text(encoding="utf-8").split("\n")[:6]]
    for column, value in sorted(change.items(), reverse=True):
        if value is None:
            del lines[row - 1][column]
        else:
            lines[row - 1][column] = value
    path = tmp_path / "sample.csv"
    path.write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_copy_loads(tmp_path: Path, sample: pd.DataFrame) -> None:
    copied = load_sample(rewrite(tmp_path, 2, {}))
    pd.testing.assert_frame_equal(copied, sample.head(5))


@pytest.mark.parametrize(
    ("row", "change", "words"),
    [
        (1, {0: "line"}, "row 1: the header"),
        (3, {9: None}, "row 3: 9 columns, not 10"),
        (4, {3: "up"}, "row 4: 'up' is not a label"),
        (4, {9: "AARS:0.5"}, "row 4: evidence"),
        (4, {9: "AARS:close:up"}, "row 4: evidence"),
        (4, {9: "AARS:0.5:sideways"}, "row 4: evidence"),
        (5, {5: "often"}, "row 5"),
        (5, {0: "hela"}, "row 5"),
        (5, {4: "valid"}, "row 5"),
    ],
)
def test_a_broken_row_is_an_error_with_file_and_row(
    tmp_path: Path, row: int, change: dict[int, str | None], words: str
) -> None:
    path = rewrite(tmp_path, row, change)
    with pytest.raises(InputError, match=words) as error:
        load_sample(path)
    assert str(path) in str(error.value)


def test_a_missing_sample_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        load_sample(tmp_path / "none.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match="header"):
        load_sample(tmp_path / "empty.csv")
