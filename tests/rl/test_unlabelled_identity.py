"""A pair of PerturbQA is one under any of its gene's names and however these are written."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus
from rewards import InputError
from rl.unlabelled import read_unlabelled


@pytest.fixture
def corpus(make_labels: Callable[[int], pd.DataFrame]) -> Corpus:
    labels = make_labels(0)
    names = {"P0": "MARCH5", "P1": "AARS", "P2": "HIST1H1C", "P3": "SEPTIN2", "G1": "TAZ", "G2": "H3F3A", "G3": "NA"}
    labels["pert"] = labels["pert"].replace(names)
    labels["gene"] = labels["gene"].replace(names)
    labels["item_id"] = labels["cell_line"].astype(str) + "|" + labels["pert"] + "|" + labels["gene"]
    return Corpus("small", "official", labels)


def measured(corpus: Corpus, pert: str) -> tuple[str, str, str]:
    row = corpus.labels[(corpus.labels["pert"] == pert) & corpus.labels["gene"].str.match(r"G\d+$")].iloc[0]
    return str(row["cell_line"]), str(row["pert"]), str(row["gene"])


def write(path: Path, *pairs: tuple[str, str, str]) -> Path:
    pd.DataFrame(pairs, columns=["cell_line", "pert", "gene"]).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("pert", "written"),
    [
        ("MARCH5", "MARCHF5"),
        ("MARCH5", "marchf5"),
        ("AARS", "AARS1"),
        ("HIST1H1C", "H1-2"),
        ("SEPTIN2", "SEPT2"),
    ],
)
def test_a_labelled_pair_is_known_under_any_name(corpus: Corpus, tmp_path: Path, pert: str, written: str) -> None:
    line, _, gene = measured(corpus, pert)
    with pytest.raises(InputError, match=r"p\.csv, row 2: .* is an item of PerturbQA"):
        read_unlabelled(write(tmp_path / "p.csv", (line, written, gene)), corpus)


@pytest.mark.parametrize(
    "written",
    [
        "MARCH\u200b5", "\ufeffMARCH5", "MARCH5\u00ad", "MARCH\u00a05", "MARCH 5",
        "M\u0410RCH5",  # a Cyrillic A
        "\uff2dARCH5",  # a full-width M
        "H1\u20132",  # an en dash
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["pert", "gene"])
def test_characters_that_no_symbol_has_are_refused(corpus: Corpus, tmp_path: Path, written: str, column: str) -> None:
    pair = ("k562", written, "G5") if column == "pert" else ("k562", "P5", written)
    with pytest.raises(InputError, match=r"p\.csv, row 2: .*has the character U\+[0-9A-F]{4}"):
        read_unlabelled(write(tmp_path / "p.csv", pair), corpus)


@pytest.mark.parametrize(
    "date", ["5-Mar", "05-Mar", "Mar-05", "Mar-5", "2024-03-05", "3/5/2024", "2-Sep", "1-Dec", "44625"]
)
def test_a_date_that_a_spreadsheet_made_is_refused(corpus: Corpus, tmp_path: Path, date: str) -> None:
    with pytest.raises(InputError, match=r"p\.csv, row 2: .*a date"):
        read_unlabelled(write(tmp_path / "p.csv", ("k562", date, "G5")), corpus)


def test_two_names_of_one_gene_are_one_pair(corpus: Corpus, tmp_path: Path) -> None:
    pairs = [("k562", "NEW1", "TAFAZZIN"), ("k562", "NEW1", "TAZ")]
    with pytest.raises(InputError, match=r"p\.csv, row 3: .* occurs twice"):
        read_unlabelled(write(tmp_path / "p.csv", *pairs), corpus)


def test_other_genes_are_taken(corpus: Corpus, tmp_path: Path) -> None:
    found = read_unlabelled(write(tmp_path / "p.csv", ("k562", "NKX2-1", "H3-7"), ("k562", "MARCH1", "NA")), corpus)
    assert found["item_id"].tolist() == ["k562|NKX2-1|H3-7", "k562|MARCH1|NA"]


def test_rows_are_lines_of_the_file(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('cell_line,pert,gene,note\nk562,NEW1,G1,"a\nb"\n\nk562,,G1,\n')
    with pytest.raises(InputError, match=r"p\.csv, row 5: .*empty value"):
        read_unlabelled(tmp_path / "p.csv", corpus)


def test_a_column_that_is_there_twice_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("cell_line,pert,gene,gene\nk562,NEW1,G1,G2\n")
    with pytest.raises(InputError, match="'gene' .*twice"):
        read_unlabelled(tmp_path / "p.csv", corpus)
