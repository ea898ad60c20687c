"""Label tables: what users' files hold is read as it is, or refused by row; a description says what it means."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from benchmarks import load_labels
from benchmarks.evidence.corpus import label_inputs, open_corpus
from benchmarks.screens import table as table_module
from benchmarks.screens.labels import data_source, load_screen
from benchmarks.screens.schema import LABEL_DTYPE, SPLIT_DTYPE
from benchmarks.screens.screen import PERTURBQA
from benchmarks.screens.table import LabelTable, is_table, read_screen
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
WORDS = {"up": UP, "down": DOWN, "none": NONE}


def write(path: Path, text: str, **keys: Any) -> LabelTable:
    """Write a table, and return it described by these keys."""
    path.write_bytes(text.encode())
    return LabelTable(str(path), **keys)


def read(table: LabelTable) -> pd.DataFrame:
    return read_screen(table)[1]


# --- what a table holds -----------------------------------------------------------------------------------------------


def test_a_table_is_in_the_form_of_other_labels(tmp_path: Path) -> None:
    table = write(
        tmp_path / "mine.csv",
        "pert,gene,label,cell_line,split,note\n"
        f"Psmd4,Actb,{UP},bmdm,train,x\nPsmd4,Gapdh,{NONE},bmdm,test,\nMyc,Actb,{DOWN},h1-esc,train,x\n",
    )
    screen, frame = read_screen(table)
    assert frame["item_id"].tolist() == ["bmdm|Psmd4|Actb", "bmdm|Psmd4|Gapdh", "h1-esc|Myc|Actb"]
    assert frame["label"].tolist() == [UP, NONE, DOWN]
    assert frame["split"].tolist() == ["train", "test", "train"]
    assert frame["cell_line"].cat.categories.tolist() == ["bmdm", "h1-esc"]
    assert frame.dtypes["label"] == LABEL_DTYPE
    assert frame.dtypes["split"] == SPLIT_DTYPE
    assert list(frame.dtypes) == [
        *(load_labels("sample").dtypes[["item_id"]]), frame["cell_line"].dtype,
        *load_labels("sample").dtypes[["pert", "gene", "label", "split"]],
    ]  # fmt: skip
    assert (screen.name, screen.notes, screen.has_split) == ("mine", (), True)
    pd.testing.assert_frame_equal(load_labels(table.file), frame)


def test_without_lines_and_splits_there_is_one_line_and_no_official_split(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", f"pert,gene,label\nA,B,{UP}\nC,D,{DOWN}\n", cell_line="bmdm")
    screen, frame = read_screen(table)
    assert frame["item_id"].tolist() == ["bmdm|A|B", "bmdm|C|D"]
    assert not screen.has_split
    with pytest.raises(
        InputError, match=r"has no column split, which 'official' means; map one, or use holdout:LINE, holdout:pert"
    ):
        open_corpus(table)
    assert len(open_corpus(table, "holdout:perturbations").test) == 1


def test_windows_line_ends_a_mark_and_quoted_commas_change_nothing(tmp_path: Path) -> None:
    plain = 'pert,gene,label,note\nNA,1-Mar,up,"a, b"\n9930111J21Rik,nan,none,"say ""no"""\nnull,TRUE,down,\n'
    expected = read(write(tmp_path / "plain.csv", plain, labels=WORDS))
    assert expected["pert"].tolist() == ["NA", "9930111J21Rik", "null"]
    assert expected["gene"].tolist() == ["1-Mar", "nan", "TRUE"]
    windows = "\ufeff" + plain.replace("\n", "\r\n")
    for name, text in (("w.csv", windows), ("w.tsv", plain.replace(",", "\t")), ("s.csv", plain.replace(",", ";"))):
        pd.testing.assert_frame_equal(read(write(tmp_path / name, text, labels=WORDS)), expected)
    (tmp_path / "w.csv.gz").write_bytes(gzip.compress(windows.encode(), mtime=0))
    pd.testing.assert_frame_equal(read(LabelTable(str(tmp_path / "w.csv.gz"), labels=WORDS)), expected)
    (tmp_path / "line-end.csv").write_text(plain.replace("a, b", "a,\nb"))  # read row by row
    pd.testing.assert_frame_equal(read(LabelTable(str(tmp_path / "line-end.csv"), labels=WORDS)), expected)


@pytest.mark.parametrize("kind", ["text", "categories", "bytes"])
def test_parquet_holds_the_same(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"pert": ["NA", "b"], "gene": ["1-Mar", "B"], "label": ["up", "down"]})
    stored = frame.astype("category") if kind == "categories" else frame
    if kind == "bytes":
        stored = frame.map(lambda text: text.encode())
    stored.to_parquet(tmp_path / "t.parquet")
    found = read(LabelTable(str(tmp_path / "t.parquet"), labels=WORDS))
    assert found["item_id"].tolist() == ["cells|NA|1-Mar", "cells|b|B"]
    assert found["label"].tolist() == [UP, DOWN]


@pytest.mark.parametrize("numbers", [[1, -1, 0], [1.0, -1.0, 0.0]])
def test_labels_may_be_numbers(tmp_path: Path, numbers: list[float]) -> None:
    frame = pd.DataFrame({"pert": list("abc"), "gene": list("xyz"), "label": numbers})
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.yaml").write_text(f"file: t.parquet\nlabels: {{1: {UP}, -1: {DOWN}, 0: {NONE}}}\n")
    assert load_labels(tmp_path / "t.yaml")["label"].tolist() == [UP, DOWN, NONE]


def test_letter_case_tells_symbols_apart_but_not_labels(tmp_path: Path) -> None:
    text = "pert,gene,label\nMyc,Actb,UP\nMYC,ACTB,Upregulated\nMyc,ACTB,not  differentially expressed\n"
    found = read(write(tmp_path / "t.csv", text, labels=WORDS))
    assert found["pert"].tolist() == ["Myc", "MYC", "Myc"]
    assert found["label"].tolist() == [UP, UP, NONE]


def test_columns_are_mapped(tmp_path: Path) -> None:
    text = "knockdown,readout,gene,label\nA,B,x,up\nC,D,y,none\n"
    columns = {"pert": "knockdown", "gene": "readout"}
    found = read(write(tmp_path / "t.csv", text, columns=columns, labels=WORDS))
    assert found["item_id"].tolist() == ["cells|A|B", "cells|C|D"]
    # `gene` is mapped to another column, so the file's own column of that name is somebody else's.
    with pytest.raises(InputError, match="no column 'gene'; map it"):
        read(write(tmp_path / "t.csv", text, columns={"pert": "gene", "label": "label"}, labels=WORDS))


def test_a_date_is_pointed_out_and_kept(tmp_path: Path) -> None:
    text = "pert,gene,label\nA,1-Mar,up\nB,Sep-2,none\n2-Dec,MARCH1,none\n"
    screen, found = read_screen(write(tmp_path / "t.csv", text, labels=WORDS))
    (note,) = screen.notes
    assert "1-Mar, 2-Dec, Sep-2. They are kept" in note
    assert found["gene"].tolist() == ["1-Mar", "Sep-2", "MARCH1"]


def test_symbols_are_changed_by_a_table_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "symbols.csv").write_text("from,to\nENSMUSG00000000001,Gnai3\n1-Mar,Marchf1\nGnai3,unused\n")
    text = "pert,gene,label\nENSMUSG00000000001,1-Mar,up\nMyc,Gnai3x,none\n"
    table = write(tmp_path / "t.csv", text, labels=WORDS, symbols=str(tmp_path / "symbols.csv"))
    screen, found = read_screen(table)
    assert found["item_id"].tolist() == ["cells|Gnai3|Marchf1", "cells|Myc|Gnai3x"]
    assert screen.notes[0].endswith("symbols.csv changes: 2.")
    assert len(screen.notes) == 1  # the date is a symbol now
    (tmp_path / "symbols.csv").write_text("from,to\na,b\na,c\n")
    with pytest.raises(InputError, match=r"symbols\.csv, row 3: from is 'a': stands there twice"):
        read(table)
    (tmp_path / "symbols.csv").write_text("old,new\na,b\n")
    with pytest.raises(InputError, match=r"symbols\.csv: no column 'from'"):
        read(table)


def test_two_symbols_that_become_one_repeat_their_pair(tmp_path: Path) -> None:
    (tmp_path / "symbols.csv").write_text("from,to\nMARCH1,MARCHF1\n")
    text = "pert,gene,label\nA,MARCH1,up\nA,MARCHF1,up\n"
    with pytest.raises(InputError, match="row 3: A and MARCHF1 in cells stand also in row 2"):
        read(write(tmp_path / "t.csv", text, labels=WORDS, symbols=str(tmp_path / "symbols.csv")))


# --- statistics instead of labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "fdr"),
    [("log2FoldChange", "padj"), ("logFC", "FDR"), ("logfoldchanges", "pvals_adj"), ("log_fc", "adj_p_value")],
    ids=["DESeq2", "edgeR", "scanpy", "pertpy"],
)
def test_statistics_become_labels(tmp_path: Path, change: str, fdr: str) -> None:
    rows = [  # pert, gene, log fold change, adjusted p value, label
        ("A", "up", "0.5", "0.01", UP), ("A", "down", "-0.5", "0.05", DOWN), ("A", "unsure", "2", "0.0501", NONE),
        ("A", "small", "0.49", "0", NONE), ("A", "still", "0", "0", NONE), ("A", "untested", "1", "NA", None),
        ("A", "empty", "1", "", None), ("A", "unknown", "NA", "0.9", NONE),
    ]  # fmt: skip
    text = f"pert,gene,{change},{fdr}\n" + "\n".join(",".join(row[:4]) for row in rows)
    columns = {"log_fold_change": change, "p_adj" if fdr == "padj" else "fdr": fdr}
    screen, found = read_screen(write(tmp_path / "t.csv", text, columns=columns, min_log_fold_change=0.5))
    assert found["gene"].tolist() == [row[1] for row in rows if row[4]]
    assert found["label"].tolist() == [row[4] for row in rows if row[4]]
    assert screen.notes == ("Rows left out because they have no adjusted p value, so were not tested: 2.",)
    lax = read(write(tmp_path / "t.csv", text, columns=columns, max_fdr=0.89))
    labels = dict(zip(lax["gene"], lax["label"], strict=True))
    assert (labels["small"], labels["unsure"], labels["still"]) == (UP, UP, NONE)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("A,B,1,1.5", r"row 2: fdr is '1\.5': an adjusted p value lies within 0 and 1"),
        ("A,B,1,0.1\nA,C,1,low", "row 3: fdr is 'low': not a number"),
        ("A,B,one,0.1", "row 2: log_fold_change is 'one': not a number"),
        ("A,B,,0.01", "row 2: log_fold_change is nan: no log fold change, but the change is significant"),
        ("A,B,1,NA", "no row has an adjusted p value"),
    ],
)
def test_bad_statistics_are_refused_by_row(tmp_path: Path, rows: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read(write(tmp_path / "t.csv", f"pert,gene,log_fold_change,fdr\n{rows}\n"))


def test_one_of_fdr_and_p_adj_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither fdr nor p_adj"):
        read(write(tmp_path / "t.csv", "pert,gene,log_fold_change\nA,B,1\n"))
    with pytest.raises(InputError, match="both fdr and p_adj"):
        read(write(tmp_path / "t.csv", "pert,gene,log_fold_change,fdr,p_adj\nA,B,1,0,0\n"))


# --- repeated pairs ---------------------------------------------------------------------------------------------------

REPEATED = "pert,gene,label\n" + "\n".join(
    f"{pert},G,{label}" for pert, label in
    [("A", "up"), ("B", "none"), ("A", "up"), ("C", "up"), ("C", "none"), ("C", "up"), ("D", "up"), ("D", "down")]
)  # fmt: skip


def test_a_repeated_pair_names_both_rows(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"t\.csv, row 4: A and G in cells stand also in row 2; remove one of the rows"
    ):
        read(write(tmp_path / "t.csv", REPEATED, labels=WORDS))
    text = f"pert,gene,label\nA,G,{UP}\n\nA,G,{DOWN}\n"
    with pytest.raises(InputError, match=r"row 4: .* row 2 with another label \(downregulated, there upregulated\)"):
        read(write(tmp_path / "t.csv", text))
    pair = "pert,gene,label,split\nA,G,up,train\nA,G,up,test\n"
    for duplicates in ("error", "majority", "drop"):
        with pytest.raises(InputError, match="row 3: .* row 2 in another split; give the pair one split"):
            read(write(tmp_path / "t.csv", pair, labels=WORDS, duplicates=duplicates))


def test_a_majority_keeps_the_commonest_label(tmp_path: Path) -> None:
    screen, found = read_screen(write(tmp_path / "t.csv", REPEATED, labels=WORDS, duplicates="majority"))
    assert dict(zip(found["pert"], found["label"], strict=True)) == {"A": UP, "B": NONE, "C": UP}
    assert screen.notes == (
        "Rows that repeat a pair: 4. Pairs with different labels: 2. Left out of these (duplicates: majority): 1.",
    )


def test_contradictions_can_be_dropped(tmp_path: Path) -> None:
    screen, found = read_screen(write(tmp_path / "t.csv", REPEATED, labels=WORDS, duplicates="drop"))
    assert dict(zip(found["pert"], found["label"], strict=True)) == {"A": UP, "B": NONE}
    assert "(duplicates: drop): 2." in screen.notes[0]
    with pytest.raises(InputError, match="leaves no pair"):
        read(write(tmp_path / "t.csv", "pert,gene,label\nA,G,up\nA,G,down\n", labels=WORDS, duplicates="drop"))


def test_the_same_pair_in_two_lines_is_no_repeat(tmp_path: Path) -> None:
    text = "pert,gene,label,cell_line\nA,G,up,x\nA,G,down,y\n"
    assert len(read(write(tmp_path / "t.csv", text, labels=WORDS))) == 2


def test_a_majority_of_many_is_what_counting_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"pert": rng.integers(20, size=2000), "gene": rng.integers(20, size=2000), "label": rng.choice([*WORDS], 2000)}
    ).astype(str)
    rows.to_csv(tmp_path / "t.csv", index=False)
    found = read(LabelTable(str(tmp_path / "t.csv"), labels=WORDS, duplicates="majority"))
    expected = {}
    for (pert, gene), group in rows.groupby(["pert", "gene"]):
        counts = group["label"].value_counts()
        if (counts == counts.iloc[0]).sum() == 1:
            expected[f"cells|{pert}|{gene}"] = WORDS[str(counts.index[0])]
    assert dict(zip(found["item_id"], found["label"], strict=True)) == expected


# --- what is pointed out ----------------------------------------------------------------------------------------------


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    text = "pert,gene,label,line,log_fold_change,split\nA,G,up,x,1,train\nB,G,down,y,-1,test\n"
    screen, _ = read_screen(write(tmp_path / "t.csv", text, labels=WORDS))
    assert screen.unread.startswith("Columns that are not read: line, log_fold_change. No column is read as")
    assert "all rows count as one line" in screen.unread and "--map cell_line=THEIRS" in screen.unread
    mapped = {"cell_line": "line"}
    for named in ({"columns": mapped}, {"cell_line": "bmdm", "columns": {"split": "line"}}):
        screen, _ = read_screen(
            write(tmp_path / "u.csv", text.replace(",x,", ",train,").replace(",y,", ",test,"), labels=WORDS, **named)
        )
        assert "No column" not in screen.unread
    screen, _ = read_screen(write(tmp_path / "t.csv", text, labels=WORDS, columns=mapped))
    assert screen.unread == "Columns that are not read: log_fold_change."
    assert screen.notes == ()  # a report does not repeat it
    text = text.replace(",log_fold_change", "").replace(",1,", ",").replace(",-1,", ",")
    assert read_screen(write(tmp_path / "t.csv", text, labels=WORDS, columns=mapped))[0].unread == ""


def test_a_repeat_across_lines_that_were_not_read_tells_how_to_read_them(tmp_path: Path) -> None:
    text = "pert,gene,label,line\nA,G,up,x\nA,G,down,y\n"
    with pytest.raises(
        InputError, match=r"remove one of the rows, .*\. No column is read as the cell line.*--map cell_line=THEIRS"
    ):
        read(write(tmp_path / "t.csv", text, labels=WORDS))


def test_all_unknown_words_are_named_at_once_as_they_are_typed(tmp_path: Path) -> None:
    text = "pert,gene,label\nA,B,upregulated\nA,C,Up here\nA,D,0\nA,E,0\n"
    with pytest.raises(InputError) as error:
        read(write(tmp_path / "t.csv", text))
    said = str(error.value)
    assert "row 3: label is 'Up here'" in said
    assert "with --label 'Up here=LABEL' --label 0=LABEL (in YAML labels: {Up here: LABEL, 0: LABEL})" in said
    assert said.endswith('--label "WORD=not differentially expressed"')
    many = "pert,gene,label\n" + "\n".join(f"A,G{at},w{at}" for at in range(9))
    with pytest.raises(InputError, match=r"--label w4=LABEL and 4 more words \(in YAML"):
        read(write(tmp_path / "t.csv", many))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pert,gene,label\n", "has no rows"),
        ("a,b\n1,2\n", "no column 'pert'; map it with columns: {pert: THEIRS} .* it has a, b"),
        (
            "pert,gene\nA,B\n",
            r"no column 'label', .*\(--map label=THEIRS\), or map log_fold_change and fdr or p_adj, it ",
        ),
        (
            "pert,gene,label\nA,B,up\nA,C,strong\n",
            r"row 3: label is 'strong': no label of ours; .* with --label strong=LABEL \(in YAML",
        ),
        ("pert,gene,label\nA,B,up\nA,,up\n", "row 3: gene is empty; fill it in"),
        ("pert,gene,label\nA,B,\n", "row 2: label is empty"),
        ("pert,gene,label\nA,B C,up\n", "row 2: gene is 'B C': a symbol has no white space"),
        ("pert,gene,label\nA|B,C,up\n", "row 2: pert is 'A|B'"),
        ("pert,gene,label,split\nA,B,up,val\n", "row 2: split is 'val': write train or test"),
        ("pert,gene,label,cell_line\nA,B,up,genes\n", "row 2: cell line 'genes' .* a word of splits"),
        ("pert,gene,label,cell_line\nA,B,up,K562\nA,B,up,k562\n", "row 2: cell line 'K562' is also written in another"),
        ("pert,gene,label\nA,B,up\nA,C\n", "row 3: row has fewer values than the header"),
        ('pert,gene,label\nA,B,up\n"A,C,up\n', "row 3: not CSV"),
    ],
)
def test_what_cannot_be_used_is_refused_by_row(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read(write(tmp_path / "t.csv", text, labels=WORDS))


def test_numbers_are_no_symbols_where_the_file_says_so(tmp_path: Path) -> None:
    pd.DataFrame({"pert": [1.5], "gene": ["a"], "label": ["up"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column 'pert' is float64, not text"):
        read(LabelTable(str(tmp_path / "t.parquet"), labels=WORDS))
    days = pd.DataFrame({"pert": ["a"], "gene": pd.to_datetime(["2026-03-01"]), "label": ["up"]})
    days.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column 'gene' is datetime64.*, not text"):
        read(LabelTable(str(tmp_path / "t.parquet"), labels=WORDS))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"columns": {"perturbation": "x"}}, "columns: 'perturbation' is unknown; map one of pert, gene"),
        ({"columns": {"pert": "x"}}, r"no column 'x' \(for pert\); it has pert, gene, label"),
        ({"labels": {"up": "rises"}}, "labels: 'up' means 'rises'; use one of upregulated"),
        ({"lines": {"k562": "K562"}}, "lines: 'k562' is no cell line of the table; it has cells"),
        ({"max_fdr": 2.0}, "max_fdr must lie within 0 and 1"),
        ({"min_log_fold_change": -1.0}, "min_log_fold_change at 0 or above"),
    ],
)
def test_a_wrong_key_is_refused(tmp_path: Path, keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read(write(tmp_path / "t.csv", f"pert,gene,label\nA,B,{UP}\n", **keys))


# --- descriptions and the one door ------------------------------------------------------------------------------------


def test_a_description_is_a_source_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "t.csv", "pert,gene,label,cell_line\nA,B,up,bmdm\nC,D,none,h1-esc\n")
    keys = {
        "file": "data/t.csv", "name": "My screen", "notice": "CC BY 4.0, me", "labels": WORDS,
        "lines": {"bmdm": "mouse macrophages"},
    }  # fmt: skip
    path = tmp_path / "screen.yaml"
    path.write_text(yaml.safe_dump(keys))
    monkeypatch.chdir("/")
    corpus = open_corpus(str(path), "holdout:bmdm")
    assert (corpus.source, corpus.screen.name, corpus.screen.notice) == (str(path), "My screen", "CC BY 4.0, me")
    assert corpus.lines == ["bmdm", "h1-esc"]
    assert (corpus.screen.words("bmdm"), corpus.screen.words("h1-esc")) == ("mouse macrophages", "h1-esc")
    assert not corpus.is_perturbqa
    assert corpus.test["item_id"].tolist() == ["bmdm|A|B"]
    monkeypatch.setenv("SYNTHPERT_DATA", str(path))
    pd.testing.assert_frame_equal(open_corpus(None, "holdout:bmdm").labels, corpus.labels)
    with pytest.raises(InputError, match=r"no row of rpe1; use holdout:bmdm, holdout:h1-esc"):
        open_corpus(str(path), "holdout:rpe1")


def test_the_words_for_a_line_are_part_of_the_digest(tmp_path: Path) -> None:
    text = f"pert,gene,label,split\nA,B,{UP},train\nC,D,{NONE},test\n"
    plain, again, told = (
        open_corpus(write(tmp_path / name, text, lines=lines)).digest
        for name, lines in (("a.csv", {}), ("b.csv", {}), ("c.csv", {"cells": "mouse macrophages"}))
    )
    assert plain == again != told


def test_what_a_run_was_read_from_is_pinned(tmp_path: Path) -> None:
    path = tmp_path / "screen.yaml"
    path.write_text("file: t.csv\nlabels: {up: upregulated}\n")
    write(tmp_path / "t.csv", "pert,gene,label\nA,B,up\n")
    before = label_inputs(str(path), "holdout:genes")
    assert list(before) == ["data"]
    write(tmp_path / "t.csv", "pert,gene,label\nA,C,up\n")
    after = label_inputs(str(path), "holdout:genes")
    path.write_text("file: t.csv\nlabels: {up: downregulated}\n")
    assert len({before["data"], after["data"], label_inputs(str(path), "holdout:genes")["data"]}) == 3
    (tmp_path / "held.txt").write_text("C\n")
    assert list(label_inputs(str(path), f"holdout:genes,file={tmp_path / 'held.txt'}")) == ["data", "split"]
    assert label_inputs("sample", "official") == {}
    (tmp_path / "t.csv").unlink()
    with pytest.raises(InputError, match=r"t\.csv: no such file"):
        label_inputs(str(path), "holdout:genes")


def test_an_unknown_key_of_a_description_suggests_another(tmp_path: Path) -> None:
    path = tmp_path / "screen.yaml"
    path.write_text("file: t.csv\nlabel: {up: upregulated}\n")
    with pytest.raises(InputError, match=r"screen\.yaml: 'label' is no key; did you mean 'labels'\?"):
        read_screen(path)
    path.write_text("labels: {up: upregulated}\n")
    with pytest.raises(InputError, match="file is missing; set it"):
        read_screen(path)
    path.write_text("file: t.csv\nduplicates: majoriti\n")
    with pytest.raises(InputError, match="duplicates is 'majoriti'; write one of error, majority, drop"):
        read_screen(path)


def test_a_description_whose_table_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "screen.yaml"
    with pytest.raises(InputError, match=r"screen\.yaml: no such file; give a table of labels, or a YAML file that"):
        read_screen(path)
    path.write_text("file: t.csv\n")
    with pytest.raises(
        InputError, match=r"t\.csv: no such file, but .*screen\.yaml names it; put it there, or correct"
    ):
        read_screen(path)
    with pytest.raises(InputError, match=r"t\.csv: no such file; give a table"):
        read_screen(tmp_path / "t.csv")


def test_tables_are_told_from_folders_by_their_names() -> None:
    for name in ("t.csv", "t.TSV", "t.csv.gz", "t.parquet", "screen.yaml", "a/b.yml", "t.jsonl"):
        assert is_table(name), name
    for name in ("sample", "shared/perturbqa", "t.xlsx", "t.parquet.gz", "t.gz", "perturbqa.v1"):
        assert not is_table(name), name


def test_names_stand_for_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SYNTHPERT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert data_source("perturbqa") == str(tmp_path / ".cache" / "synthpert" / "perturbqa")
    with pytest.raises(InputError, match=r"bioreasoning/train\.csv: no such file; run `synthpert data fetch bioreas"):
        load_screen("bioreasoning")
    folder = tmp_path / ".cache" / "synthpert" / "bioreasoning"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("id,pert,gene,label\nPsmd4_Actb,Psmd4,Actb,up\nMyc_Il6,Myc,Il6,none\n")
    screen, frame = load_screen("bioreasoning")
    assert screen.words("bmdm") == "mouse bone-marrow-derived macrophages"
    assert frame["item_id"].tolist() == ["bmdm|Psmd4|Actb", "bmdm|Myc|Il6"]
    assert frame["label"].tolist() == [UP, NONE]
    named = {name: data_source(name) for name in ("perturbqa", "bioreasoning", "k562_set")}
    for name in named:
        (tmp_path / name).mkdir()
        assert data_source(name) == named[name]  # a folder of this name that holds no labels does not count
    for name, file in (("perturbqa", "k562-de.csv"), ("k562_set", "k562_set-mapping.json")):
        (tmp_path / name / file).touch()
    assert [data_source(name) for name in ("perturbqa", "k562_set")] == ["perturbqa", "k562_set/k562_set"]
    (tmp_path / "bioreasoning" / "bioreasoning.yaml").write_text("file: train.csv\n")
    for source in ("bioreasoning", "bioreasoning/", tmp_path / "bioreasoning"):
        assert Path(data_source(source)) == Path(source) / "bioreasoning.yaml"
    assert load_screen("sample")[0] == PERTURBQA


def test_a_large_table_is_not_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import tables

    def refuse(*_: object) -> None:
        raise AssertionError("read row by row")

    monkeypatch.setattr(tables, "_iter_csv", refuse)
    rows = [f'"P{p}","G,{g}","up"\r\n' for p in range(50) for g in range(50)]
    found = read(write(tmp_path / "t.csv", '\ufeff"pert","gene","label"\r\n' + "".join(rows), labels=WORDS))
    assert len(found) == 2500
    assert found["gene"].iloc[1] == "G,1"
    assert table_module.read_table is tables.read_table
