"""GMT files: names without collection and accession, sets of one name merged, and what is wrong with a file."""

from pathlib import Path

import pytest

from rewards import InputError, read_gene_sets


def test_a_gmt_file_has_a_set_on_each_line(tmp_path: Path) -> None:
    path = tmp_path / "sets.gmt"
    path.write_text("HALLMARK_OXIDATIVE_PHOSPHORYLATION\thttp\tNDUFA1\tCOX4I1\n\nGlycolysis\t\tPGK1\n")
    assert read_gene_sets(path) == {
        "oxidative phosphorylation": frozenset({"NDUFA1", "COX4I1"}),
        "glycolysis": frozenset({"PGK1"}),
    }


@pytest.mark.parametrize(
    "name",
    [
        "GLYCOLYSIS",
        "\ufeffHALLMARK_GLYCOLYSIS",
        " Glycolysis ",
        "glycolysis (GO:0006096)",
        "Glycolysis WP534",
        "Glycolysis R-HSA-70171",
        "Glycolysis Homo sapiens hsa00010",
    ],
)
def test_a_set_is_named_by_its_words_without_marks_and_accessions(name: str, tmp_path: Path) -> None:
    (tmp_path / "sets.gmt").write_text(f"{name}\t\tPGK1 \r\n", encoding="utf-8")
    assert read_gene_sets(tmp_path / "sets.gmt") == {"glycolysis": frozenset({"PGK1"})}


def test_sets_of_one_name_are_merged_and_a_bare_accession_stays(tmp_path: Path) -> None:
    (tmp_path / "sets.gmt").write_text("KEGG_APOPTOSIS\t\tA1\nHALLMARK_APOPTOSIS\t\tB1\nWP534\t\tC1\n")
    assert read_gene_sets(tmp_path / "sets.gmt") == {
        "apoptosis": frozenset({"A1", "B1"}),
        "wp534": frozenset({"C1"}),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no gene set"),
        ("A\tb\tC\nbroken line\n", "line 2"),
        ("A\tb\n", "line 1"),
        ("A\tb\tC\nD\t\tPGK1,1.0\tGPI,1.0\n", r"line 2: 'PGK1,1.0' is no gene symbol; drop Enrichr's weights"),
        ("A\tb\tPGK1 GPI ALDOA\n", r"line 1: 'PGK1 GPI ALDOA' is no gene symbol; put a tab"),
    ],
)
def test_a_wrong_gmt_file_is_refused_by_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "sets.gmt").write_text(text)
    with pytest.raises(InputError, match=words):
        read_gene_sets(tmp_path / "sets.gmt")
    with pytest.raises(InputError, match="no such file"):
        read_gene_sets(tmp_path / "none.gmt")
