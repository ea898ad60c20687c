"""A reference screen: whose symbols are whose, which items it may not hold, and what its digest depends on."""

from pathlib import Path

import pytest

from benchmarks.evidence.corpus import label_inputs, open_corpus
from benchmarks.evidence.reference import Reference, open_reference
from rewards import InputError

OWN = "cell_line,pert,gene,label\nbmdm,Aars,Calr,upregulated\nbmdm,Gata1,Hbb,downregulated\n"
THEIRS = "cell_line,pert,gene,label\nk562,AARS,CALR,upregulated\nk562,GATA1,HBB,downregulated\n"


def reference_of(folder: Path, text: str = THEIRS, orthologs: str | Path | None = None) -> Reference:
    path = folder / "theirs.csv"
    path.write_text(text, encoding="utf-8")
    found = open_reference(path, orthologs)
    assert found is not None
    return found


def own_of(folder: Path, text: str = OWN) -> Path:
    path = folder / "own.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_orthologs_symbols_are_equal_and_upper_is_a_fallback(tmp_path: Path) -> None:
    assert reference_of(tmp_path).name_of("Gata1") == "Gata1"
    assert reference_of(tmp_path, orthologs="upper").name_of("Gata1") == "GATA1"


def test_a_table_of_symbols_says_what_ours_are_called_there(tmp_path: Path) -> None:
    table = tmp_path / "orthologs.csv"
    table.write_text("from,to\nHbb,HBB\nAdgre1,NA\n", encoding="utf-8")
    reference = reference_of(tmp_path, orthologs=table)
    assert [reference.name_of(name) for name in ("Hbb", "Adgre1", "Gata1")] == ["HBB", "NA", None]
    table.write_text("from,to\nHbb,HBB\nHbb,HBD\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"orthologs\.csv, row 3.*once"):
        reference_of(tmp_path, orthologs=table)


def test_no_reference_is_none_and_orthologs_alone_are_refused() -> None:
    assert open_reference(None) is None
    with pytest.raises(InputError, match="orthologs: is set, but no screen .* --evidence_from"):
        open_reference(None, "upper")


def test_all_rows_count_whatever_their_split(tmp_path: Path) -> None:
    text = "pert,gene,label,split\nAARS,CALR,upregulated,train\nGATA1,HBB,downregulated,test\n"
    assert len(reference_of(tmp_path, text).labels) == 2


@pytest.mark.parametrize(
    ("line", "pert", "gene", "orthologs"),
    [
        ("bmdm", "Aars", "Calr", None),
        ("BMDM", "AARS", "calr", None),  # letter case does not count
        ("bmdm", "AARS1", "CALR", "table"),  # another name there
    ],
)
def test_a_reference_may_not_hold_an_item(
    tmp_path: Path, line: str, pert: str, gene: str, orthologs: str | None
) -> None:
    table = tmp_path / "orthologs.csv"
    table.write_text("from,to\nAars,AARS1\nCalr,CALR\n", encoding="utf-8")
    text = f"{THEIRS}{line},{pert},{gene},downregulated\n"
    reference = reference_of(tmp_path, text, table if orthologs else None)
    with pytest.raises(InputError, match=r"holds 1 items of the labels \(first: bmdm\|Aars\|Calr\)"):
        open_corpus(own_of(tmp_path), "holdout:genes", reference)


def test_rows_of_the_same_line_that_are_no_items_are_allowed(tmp_path: Path) -> None:
    table = tmp_path / "orthologs.csv"
    table.write_text("from,to\nAars,AARS\n", encoding="utf-8")
    reference = reference_of(tmp_path, f"{THEIRS}bmdm,Aars,Hbb,upregulated\n", table)
    assert open_corpus(own_of(tmp_path), "holdout:genes", reference).reference is reference


@pytest.mark.parametrize(("changed", "copied"), [(20, True), (19, False)])
def test_a_copy_under_another_name_of_the_line_is_refused(tmp_path: Path, changed: int, copied: bool) -> None:
    """As where a description names the only line, and the reference is the table without its description."""
    rows = [f"P{at},G,{'upregulated' if at < changed else 'not differentially expressed'}\n" for at in range(40)]
    own = own_of(tmp_path, "cell_line,pert,gene,label\n" + "".join(f"bmdm,{row}" for row in rows))
    table = "pert,gene,label\n" + "".join(rows).lower()
    reference = reference_of(tmp_path, table)
    if copied:
        with pytest.raises(InputError, match=r"theirs\.csv: cells has the labels of bmdm in all 40 pairs that both"):
            open_corpus(own, "holdout:perturbations", reference)
    else:  # so few may agree by chance
        named = table.upper().replace("PERT,GENE,LABEL", "pert,gene,label")
        assert open_corpus(own, "holdout:perturbations", reference_of(tmp_path, named)).reference is not None
    part = reference_of(tmp_path, "".join(table.splitlines(keepends=True)[:31]))
    if copied:
        with pytest.raises(InputError, match="in all 30 pairs that both"):
            open_corpus(own, "holdout:perturbations", part)
    # Two screens may agree in what both measured, if each measured more.
    more = reference_of(tmp_path, "".join(table.splitlines(keepends=True)[:31]) + "P1,H,upregulated\n")
    assert open_corpus(own, "holdout:perturbations", more).reference is more
    other = reference_of(tmp_path, table.replace("p39,g,not differentially expressed", "P39,G,upregulated"))
    assert open_corpus(own, "holdout:perturbations", other).reference is other


def test_a_reference_that_knows_no_symbol_of_the_labels_is_refused(tmp_path: Path) -> None:
    own = own_of(tmp_path)
    with pytest.raises(
        InputError,
        match=r"has no perturbation and no gene of the labels \(whose genes are like Calr, .* like CALR\); say with",
    ):
        open_corpus(own, "holdout:genes", reference_of(tmp_path))
    assert open_corpus(own, "holdout:genes", reference_of(tmp_path, orthologs="upper")).reference is not None
    for word in ("Upper", str(tmp_path)):
        with pytest.raises(InputError, match="orthologs: .*: no such file; give a table with .* or `upper`"):
            reference_of(tmp_path, orthologs=word)


def test_the_sample_has_no_reference(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="evidence_from: the sample"):
        open_corpus("sample", reference=reference_of(tmp_path))


def test_the_digest_depends_on_labels_and_on_the_table_of_symbols(tmp_path: Path) -> None:
    table = tmp_path / "orthologs.csv"
    table.write_text("from,to\nHbb,HBB\n", encoding="utf-8")
    digests = {
        reference_of(tmp_path).digest,
        reference_of(tmp_path, THEIRS.replace("upregulated", "downregulated")).digest,
        reference_of(tmp_path, orthologs="upper").digest,
        reference_of(tmp_path, orthologs=table).digest,
    }
    assert len(digests) == 4
    assert reference_of(tmp_path).digest in digests


def test_the_files_of_a_reference_are_inputs_of_a_run(tmp_path: Path) -> None:
    table = tmp_path / "orthologs.csv"
    table.write_text("from,to\nHbb,HBB\n", encoding="utf-8")
    path = str(own_of(tmp_path))
    before = label_inputs("sample", "official", path, table)
    assert list(before) == ["evidence_from", "orthologs"]
    table.write_text("from,to\nHbb,HBD\n", encoding="utf-8")
    after = label_inputs("sample", "official", path, str(table))
    assert before["evidence_from"] == after["evidence_from"]
    assert before["orthologs"] != after["orthologs"]
    assert label_inputs("sample", "official", "sample", "upper") == {}
    with pytest.raises(InputError, match="orthologs: .*absent.csv: no such file"):
        label_inputs("sample", "official", path, tmp_path / "absent.csv")
