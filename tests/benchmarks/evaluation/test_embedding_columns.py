"""What stands beside an embedding in the files that other tools write is no dimension of it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.embeddings import read_embeddings
from rewards import InputError

FRAME = pd.DataFrame({"gene": ["A", "B", "C"], "x": [0.5, 1.0, 2.0], "y": [1.0, 0.0, 3.0]})


def test_the_row_numbers_of_pandas_are_no_dimension(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "e.csv")
    np.testing.assert_allclose(read_embeddings(tmp_path / "e.csv").vectors, FRAME[["x", "y"]])
    pd.read_csv(tmp_path / "e.csv").to_csv(tmp_path / "f.csv")  # read and written again: Unnamed: 0, too
    np.testing.assert_allclose(read_embeddings(tmp_path / "f.csv").vectors, FRAME[["x", "y"]])


def test_an_index_in_a_parquet_file_is_no_dimension(tmp_path: Path) -> None:
    FRAME.iloc[[2, 0, 1]].to_parquet(tmp_path / "e.parquet")
    assert read_embeddings(tmp_path / "e.parquet").vectors.shape == (3, 2)


@pytest.mark.parametrize("numbers", [[0, 1, 2], [1, 2, 3], [7, 5, 6]])
@pytest.mark.parametrize("name", ["index", "id", "row_nr", "X", "...1", "#"])
def test_a_column_that_counts_the_rows_is_refused(tmp_path: Path, name: str, numbers: list[int]) -> None:
    FRAME.assign(**{name: numbers}).to_csv(tmp_path / "e.csv", index=False)
    with pytest.raises(InputError, match=rf"'{re.escape(name)}' holds row numbers"):
        read_embeddings(tmp_path / "e.csv")


def test_whole_numbers_are_dimensions(tmp_path: Path) -> None:
    FRAME.assign(z=[0, 1, 1]).to_csv(tmp_path / "e.csv", index=False)
    assert read_embeddings(tmp_path / "e.csv").vectors.shape == (3, 3)


def test_a_dimension_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("gene,x,x\nA,1,2\n")
    with pytest.raises(InputError, match="'x' .*twice"):
        read_embeddings(tmp_path / "e.csv")


def test_rows_of_a_csv_file_are_its_lines(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("gene,x\nA,1\n\nB,inf\n")
    with pytest.raises(InputError, match=r"e\.csv, row 4: .*not a finite number"):
        read_embeddings(tmp_path / "e.csv")
