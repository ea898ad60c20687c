"""One reader of tables: text stays text, a row has the number that an editor shows, what is wrong is one line."""

import gzip
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import tables
from benchmarks.tables import KINDS, BrokenRow, check_kind, iter_rows, label_words, numbers, read_table
from rewards import InputError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_text_of_a_csv_stays_text_and_only_what_is_empty_is_missing(tmp_path: Path) -> None:
    text = "gene,x,y\nNA,1,\n1-Mar,nan,0.5\nnull,01,True\n"
    table = read_table(write(tmp_path / "t.csv", text))
    assert table.names == ["gene", "x", "y"]
    assert table.frame["gene"].tolist() == ["NA", "1-Mar", "null"]
    assert table.frame["x"].tolist() == ["1", "nan", "01"]
    assert table.frame["y"].isna().tolist() == [True, False, False]
    assert next(iter_rows(tmp_path / "t.csv"))[1] == {"gene": "NA", "x": "1", "y": ""}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n"),
        ("t.csv", b"a;b\n1;x\n2;y"),
        ("t.csv", b"a\tb\n1\tx\n2\ty\n"),
        ("t.tsv", b"a\tb\n1\tx\n2\ty\n"),
        ("t.jsonl", b'\xef\xbb\xbf{"a": "1", "b": "x"}\n\n{"a": "2", "b": "y"}\n'),
        ("t.ndjson", b'{"a": "1", "b": "x"}\n{"a": "2", "b": "y"}'),
        ("t.csv.gz", gzip.compress(b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n", mtime=0)),
        ("t.TSV.gz", gzip.compress(b"a\tb\n1\tx\n2\ty\n", mtime=0)),
        ("t.jsonl.gz", gzip.compress(b'{"a": "1", "b": "x"}\n{"a": "2", "b": "y"}', mtime=0)),
    ],
)
def test_the_kinds_hold_the_same(tmp_path: Path, name: str, content: bytes) -> None:
    table = read_table(write(tmp_path / name, content))
    assert table.frame["a"].tolist() == ["1", "2"] and table.frame["b"].tolist() == ["x", "y"]
    assert [record for _, record in iter_rows(tmp_path / name)] == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


def test_parquet_keeps_its_types_and_not_pandas_own_index(tmp_path: Path) -> None:
    frame = pd.DataFrame({"gene": ["NA", None], "n": [1, 2], "p": [0.5, np.nan]}, index=pd.Index([7, 9]))
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.names == list(table.frame) == ["gene", "n", "p"]
    assert table.frame["n"].tolist() == [1, 2] and table.rows.tolist() == [1, 2]
    assert table.frame["gene"].isna().tolist() == [False, True]


def read_both(path: Path, monkeypatch: pytest.MonkeyPatch, used: tuple[str, ...] | None) -> list[object]:
    """What the fast reader and the exact one make of a file."""
    found: list[object] = []
    for exact in (False, True):
        with monkeypatch.context() as patch:
            if exact:
                patch.setattr(tables, "_read_regular", lambda *_: None)
            try:
                table = read_table(path, used)
                columns = {
                    name: column.astype(object).where(column.notna(), None).tolist()
                    for name, column in table.frame.items()
                }
                found.append((table.names, columns, [str(one) for one in table.frame.dtypes], table.rows.tolist()))
            except InputError as error:
                found.append(str(error))
    return found


def test_the_fast_reader_finds_what_the_exact_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On texts of what means something in a CSV; about half of them are regular."""
    pick = random.Random(0)
    regular = ("x", "", '""', '"x"', '"x,y"', '"x""y"', "1-Mar", "é")
    odd = ('x"y', '"x', 'x"', ' "x"', '"x"y', '"x\ny"', '"x" ', "x;y")
    fast = 0
    for at in range(300):
        rows = [pick.choice(("a,b", '"a",b', "\ufeffa,b", "a;b", "a,b,c")) if pick.random() < 0.3 else "a,b"]
        for _ in range(pick.randrange(4)):
            values = [pick.choice(odd if pick.random() < 0.1 else regular) for _ in range(2)]
            rows.append(",".join(values if pick.random() < 0.95 else values[:1]))
        end = pick.choice(("\n", "\r\n")) if pick.random() < 0.9 else "\r"
        path = write(tmp_path / f"{at}.csv", end.join(rows) + pick.choice(("", "\n", "\n\n", "\r\n")))
        ours, exact = read_both(path, monkeypatch, pick.choice((None, ("b",), ("none",))))
        assert ours == exact, path.read_bytes()
        fast += tables._read_regular(path, ["a", "b"], ["a"]) is not None
    assert 100 < fast < 250


def test_a_row_has_the_number_of_the_line_where_it_begins(tmp_path: Path) -> None:
    text = '"a\nname",b\n\n1,"two\nlines"\n2,x\n\n\n3,y\n'
    assert read_table(write(tmp_path / "t.csv", text)).rows.tolist() == [4, 6, 9]
    lines = '{"a": 1}\n\n{"a": 2}\n'
    assert read_table(write(tmp_path / "t.jsonl", lines)).rows.tolist() == [1, 3]
    assert [row for row, _ in iter_rows(tmp_path / "t.csv")] == [4, 6, 9]


def test_a_file_longer_than_a_batch_is_whole(tmp_path: Path) -> None:
    n = 10_000
    path = write(tmp_path / "t.csv", "i,t\n" + "".join(f"{i},text {i}\n" for i in range(n)))
    table = read_table(path)
    assert numbers(table.frame["i"]).tolist() == list(range(n))
    assert table.rows.tolist() == list(range(2, n + 2))


def test_only_columns_that_are_used_are_read(tmp_path: Path) -> None:
    rows = [{"a": 1, "other": 5}, {"a": 2, "other": "text"}, {"a": 3, "other": {"deep": []}}, {"b": 4}]
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = read_table(path, {"a", "b", "c"})
    assert list(table.frame) == ["a", "b"] and table.names == ["a", "other", "b"]
    assert table.frame["a"].tolist() == [1, 2, 3, None]
    for name in ("t.csv", "t.parquet"):
        frame = pd.DataFrame({"a": [1], "b": [2]})
        frame.to_csv(tmp_path / name, index=False) if name == "t.csv" else frame.to_parquet(tmp_path / name)
        assert list(read_table(tmp_path / name, {"b"}).frame) == ["b"]


def test_a_header_alone_is_no_rows(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "a,b\n"))
    assert (table.names, list(table.frame), len(table.frame), len(table.rows)) == (["a", "b"], ["a", "b"], 0, 0)


BROKEN = [
    ("t.csv", "a,b\n1,2\n3\n", "row 3: row has fewer values than the header"),
    ("t.csv", "a,b\n1,2\n3,4,5\n", "row 3: row has more values than the header"),
    ("t.jsonl", '{"a": 1}\n{"a": \n', "row 2: not JSON"),
    ("t.jsonl", "[1]\n", "row 1: not an object"),
    ("t.jsonl", '{"a": 1, "a": 2}\n', "row 1: key 'a' is there twice"),
    ("t.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "row 2: not UTF-8 text"),
]


@pytest.mark.parametrize(("name", "content", "problem"), BROKEN)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        read_table(path)
    assert str(error.value) == f"{path}, {problem}; fix the row"
    (broken,) = (record for _, record in iter_rows(path) if isinstance(record, BrokenRow))
    assert broken.reason in problem


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", "", "the file is empty"),
        ("t.csv", "\n\na,b\n", "the first line is empty"),
        ("t.csv", "a,a\n1,2\n", "column 'a' occurs twice; rename one"),
        ("t.csv", 'a,b\n1,"open\n', "row 2: not CSV .*close the quote"),
        ("t.csv", b"a,b\n1,\xff\n", "not UTF-8 text .*save it as UTF-8"),
        ("t.parquet", "no table", "cannot be read .*write the file again"),
        ("t.csv.gz", "x", "cannot be read .*write the file again"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], "cannot be read .*write the file again"),
        ("t.parquet.gz", "x", r"\.gz is not read; save it as \.csv or"),
        ("t", "x", "a file without suffix is not read"),
        ("t.pkl", pickle.dumps({"a": 1}), "pickles can run code and are never opened"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path: Path, name: str, content: str | bytes, problem: str) -> None:
    path = write(tmp_path / name, content)
    for read in (read_table, lambda path: list(iter_rows(path))):
        with pytest.raises(InputError, match=problem) as error:
            read(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_what_is_not_used_may_be_there_twice(tmp_path: Path) -> None:
    text = '{"a": 1, "meta": {"deep": {"k": 1, "k": 2}}, "other": 1, "other": 2}\n'
    path = write(tmp_path / "t.jsonl", text)
    assert read_table(path, {"a"}).frame["a"].tolist() == [1]
    ((_, row),) = iter_rows(path, {"a"})
    assert isinstance(row, dict) and row["a"] == 1
    with pytest.raises(InputError, match="key 'other' is there twice"):
        read_table(path, {"other"})
    path = write(tmp_path / "t.csv", "a,,\n1,2,3\n")
    assert read_table(path, {"a"}).frame["a"].tolist() == ["1"]
    assert [record["a"] for _, record in iter_rows(path) if isinstance(record, dict)] == ["1"]


def test_parquet_with_a_column_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="column 'a' occurs twice"):
        read_table(tmp_path / "t.parquet")


def test_a_missing_file_and_another_kind_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match=r"no such file|is not read"):
            read_table(path)
    assert [check_kind(write(tmp_path / f"t{kind}", "x")) for kind in KINDS] == list(KINDS)
    with pytest.raises(InputError, match=r"\.csv is not read; save it as \.parquet"):
        check_kind(tmp_path / "t.csv", (".parquet",))


def test_the_first_wrong_row_is_named_with_its_value(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "a,b\n\n1,x\n2,y\n"))
    table.refuse([False, False], "fine")
    with pytest.raises(InputError, match=r"t\.csv, row 4: a is '2': too much$"):
        table.refuse(numbers(table.frame["a"]) > 1, "too much", "a")
    with pytest.raises(InputError, match=r"t\.csv, row 3: no good$"):
        table.refuse([True, True], "no good")


def test_what_is_no_number_is_missing() -> None:
    found = numbers(pd.Series(["1", "x", None, "1_0", "-2e-3", "inf"], dtype=object))
    np.testing.assert_array_equal(found, [1, np.nan, np.nan, np.nan, -2e-3, np.inf])


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_text_that_parquet_stores_as_bytes_is_text(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    of_bytes = getattr(pa, kind)()
    messages = pa.list_(pa.struct([("role", of_bytes), ("content", of_bytes)]))
    said = pa.array([[{"role": b"user", "content": "ü".encode()}]], messages)
    columns = {"a": pa.array(["ü".encode()], of_bytes), "m": said, "picture": pa.array([b"\xff\xd8"], of_bytes)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", {"a", "m"})
    assert table.frame["a"].tolist() == ["ü"]
    ((_, row),) = iter_rows(tmp_path / "t.parquet")
    assert row == {"a": "ü", "m": [{"role": "user", "content": "ü"}], "picture": b"\xff\xd8"}
    with pytest.raises(InputError, match="column 'picture' holds bytes that are not UTF-8 text"):
        read_table(tmp_path / "t.parquet", {"picture"})


@pytest.mark.parametrize(
    ("labels", "again"),
    [({"Up": "upregulated", "UP": "downregulated"}, "UP"), ({"upregulated": "downregulated"}, "upregulated"),
     ({"n\u00a0o": "upregulated", "N o ": "downregulated"}, "N o "),
     ({"Upregulated": "not differentially expressed"}, "Upregulated")],
)  # fmt: skip
def test_a_word_with_two_meanings_is_refused(labels: dict[str, str], again: str) -> None:
    with pytest.raises(InputError, match=f"--label {again}=.*means .* already"):
        label_words(labels)


def test_a_word_that_is_said_twice_alike_is_fine() -> None:
    found = label_words({"Up": "upregulated", "UP": "upregulated", "UPREGULATED": "upregulated"})
    assert found["up"] == found["upregulated"] == "upregulated"
