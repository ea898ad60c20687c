"""PerturbQA's files: every inconsistency is an error with file and row, and nothing is lost on the way."""

import contextlib
import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from without_clock import PATIENCE, count_steps

from benchmarks import load_labels
from benchmarks.screens import labels as perturbqa
from benchmarks.screens.labels import SHA256, fetch, stats
from benchmarks.screens.schema import CELL_LINES, digest
from benchmarks.screens.splits import apply_split
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
DE = ["pert,gene,label,split", "AARS,CALR,1,train", "AARS,NA,0,train", "1-Mar,CALR,1,test", "NA,CALR,0,test"]
DIR = ["pert,gene,label,split", "AARS,CALR,1,train", "1-Mar,CALR,0,test"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight small valid files."""
    path = tmp_path / "labels"
    path.mkdir()
    for line in CELL_LINES:
        write(path / f"{line}-de.csv", DE)
        write(path / f"{line}-dir.csv", DIR)
    return path


@pytest.fixture
def pinned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small files, taken for the official ones: their hashes are the pinned ones."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in SHA256}
    monkeypatch.setattr(perturbqa, "SHA256", digests)
    return folder


def write(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def linked(full: Path, folder: Path, name: str, content: bytes) -> Path:
    """Return a folder with the full files, but `content` in the place of one of them."""
    folder.mkdir()
    for other in SHA256:
        if other != name:
            (folder / other).symlink_to((full / other).resolve())
    (folder / name).write_bytes(content)
    return folder


def refusal(folder: Path, *, verify: bool = False) -> str:
    with pytest.raises(InputError) as error:
        load_labels(folder, verify=verify)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_two_tasks_are_joined_into_three_class_items(folder: Path) -> None:
    labels = load_labels(folder, verify=False)
    assert list(labels.columns) == ["item_id", "cell_line", "pert", "gene", "label", "split"]
    assert list(labels["cell_line"].unique()) == list(CELL_LINES)
    rpe1 = labels[labels["cell_line"] == "rpe1"].astype(str)
    assert rpe1[["item_id", "label", "split"]].to_numpy().tolist() == [
        ["rpe1|AARS|CALR", UP, "train"],
        ["rpe1|AARS|NA", NONE, "train"],
        ["rpe1|1-Mar|CALR", DOWN, "test"],
        ["rpe1|NA|CALR", NONE, "test"],
    ]
    assert list(labels["label"].cat.categories) == [UP, DOWN, NONE]
    assert list(labels["split"].cat.categories) == ["train", "test"]


def test_symbols_that_look_like_a_missing_value_or_a_date_stay_text(folder: Path) -> None:
    labels = load_labels(folder, verify=False)
    assert set(labels["pert"]) == {"AARS", "1-Mar", "NA"}
    assert set(labels["gene"]) == {"CALR", "NA"}
    assert labels.notna().to_numpy().all()
    assert labels["item_id"].map(type).eq(str).all()


@pytest.mark.parametrize("symbol", ["NA", "1-Mar", "NULL", "nan", "None", "TRUE", "007", "1e5", "inf", "N/A"])
def test_any_symbol_is_text(folder: Path, symbol: str) -> None:
    write(folder / "k562-de.csv", [*DE, f"{symbol},XYZ,0,train", f"XYZ,{symbol},0,train"])
    labels = load_labels(folder, verify=False)
    assert {f"k562|{symbol}|XYZ", f"k562|XYZ|{symbol}"} <= set(labels["item_id"])


# what is done to a file's lines, the message's file and row, its words
BROKEN: list[tuple[str, str, Callable[[list[str]], list[str]], str, str]] = [
    ("DE row without direction", "k562-dir.csv", lambda x: x[:1] + x[2:], "k562-de.csv, row 2", "no direction"),
    ("last line's DE row, too", "jurkat-dir.csv", lambda x: x[:2], "jurkat-de.csv, row 4", "no direction"),
    (
        "direction row not in DE",
        "rpe1-dir.csv",
        lambda x: [*x, "XX,YY,1,train"],
        "rpe1-dir.csv, row 4",
        "not in rpe1-de",
    ),
    ("direction on label 0", "hepg2-dir.csv", lambda x: [*x, "AARS,NA,1,train"], "hepg2-dir.csv, row 4", "label 0"),
    ("split differs", "k562-dir.csv", lambda x: [*x[:2], "1-Mar,CALR,0,train"], "k562-dir.csv, row 3", "another split"),
    ("duplicate pair", "k562-de.csv", lambda x: [*x, x[2]], "k562-de.csv, row 6", "twice (first in row 3)"),
    ("pair with two labels", "k562-de.csv", lambda x: [*x, "AARS,NA,1,train"], "k562-de.csv, row 6", "twice"),
    ("duplicate direction", "k562-dir.csv", lambda x: [*x, x[1]], "k562-dir.csv, row 4", "twice (first in row 2)"),
    ("unknown split", "k562-de.csv", lambda x: [*x, "XX,YY,0,valid"], "k562-de.csv, row 6", "split 'valid'"),
    ("empty split", "k562-de.csv", lambda x: [*x, "XX,YY,0,"], "k562-de.csv, row 6", "split ''"),
    (
        "unknown direction split",
        "k562-dir.csv",
        lambda x: [*x[:2], "1-Mar,CALR,0,Test"],
        "k562-dir.csv, row 3",
        "'Test'",
    ),
    ("unknown label", "rpe1-de.csv", lambda x: [*x, "XX,YY,2,train"], "rpe1-de.csv, row 6", "label '2'"),
    ("label as decimal", "rpe1-de.csv", lambda x: [*x, "XX,YY,1.0,train"], "rpe1-de.csv, row 6", "label '1.0'"),
    ("empty label", "rpe1-de.csv", lambda x: [*x, "XX,YY,,train"], "rpe1-de.csv, row 6", "label ''"),
    (
        "unknown direction",
        "rpe1-dir.csv",
        lambda x: [x[0], "AARS,CALR,-1,train", x[2]],
        "rpe1-dir.csv, row 2",
        "label '-1'",
    ),
    (
        "a column too few",
        "hepg2-de.csv",
        lambda x: [*x[:2], "AARS,NA,0", *x[3:]],
        "hepg2-de.csv, row 3",
        "3 columns, not 4",
    ),
    ("a torn last row", "hepg2-de.csv", lambda x: [*x, "XX,Y"], "hepg2-de.csv, row 6", "2 columns, not 4"),
    (
        "a column too many",
        "hepg2-de.csv",
        lambda x: [x[0], x[1] + ",x", *x[2:]],
        "hepg2-de.csv, row 2",
        "5 columns, not 4",
    ),
    ("a blank line", "hepg2-de.csv", lambda x: [*x[:3], "", *x[3:]], "hepg2-de.csv, row 4", "empty or broken pert"),
    (
        "columns in another order",
        "k562-de.csv",
        lambda x: ["gene,pert,label,split", *x[1:]],
        "k562-de.csv, row 1",
        "header",
    ),
    (
        "header of another case",
        "k562-dir.csv",
        lambda x: ["Pert,gene,label,split", *x[1:]],
        "k562-dir.csv, row 1",
        "header",
    ),
    ("no header", "k562-dir.csv", lambda x: x[1:], "k562-dir.csv, row 1", "header"),
    ("a column without a name", "k562-de.csv", lambda x: ["pert,gene,label", *x[1:]], "k562-de.csv, row 1", "header"),
    ("header only", "jurkat-de.csv", lambda x: x[:1], "jurkat-de.csv", "no rows below the header"),
    ("direction header only", "jurkat-dir.csv", lambda x: x[:1], "jurkat-dir.csv", "no rows below the header"),
    ("empty file", "jurkat-de.csv", lambda x: [], "jurkat-de.csv", "the file is empty"),
    ("white space only", "jurkat-dir.csv", lambda x: [" ", ""], "jurkat-dir.csv", "the file is empty"),
    ("empty symbol", "k562-de.csv", lambda x: [*x, ",YY,0,train"], "k562-de.csv, row 6", "empty or broken pert"),
    ("symbol with a bar", "k562-de.csv", lambda x: [*x, "XX,Y|Y,0,train"], "k562-de.csv, row 6", "broken gene"),
    ("symbol with a space", "k562-de.csv", lambda x: [*x, "XX, YY,0,train"], "k562-de.csv, row 6", "broken gene"),
]


@pytest.mark.parametrize(
    ("name", "change", "where", "words"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_an_inconsistency_is_an_error_with_file_and_row(
    folder: Path, name: str, change: Callable[[list[str]], list[str]], where: str, words: str
) -> None:
    write(folder / name, change(DIR if "-dir" in name else DE))
    message = refusal(folder)
    assert message.startswith(f"{folder}/{where}")
    assert words in message


@pytest.mark.parametrize("name", sorted(SHA256))
def test_a_missing_file_is_an_error_and_no_line_is_skipped(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = refusal(folder)
    assert str(folder / name) in message
    assert "data fetch" in message


def test_a_missing_line_is_an_error(folder: Path) -> None:
    (folder / "rpe1-de.csv").unlink()
    (folder / "rpe1-dir.csv").unlink()
    assert "rpe1-de.csv" in refusal(folder)


def test_a_missing_folder_names_the_remedies(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert "nowhere" in message
    assert "data fetch" in message


def test_bytes_that_are_no_text_are_an_error(folder: Path) -> None:
    (folder / "k562-de.csv").write_bytes("\n".join(DE).encode() + b"\nXX,\xff\xfe,0,train\n")
    assert "k562-de.csv" in refusal(folder)


def test_a_last_row_without_line_end_is_read(folder: Path) -> None:
    (folder / "k562-de.csv").write_bytes("\n".join(DE).encode())
    assert len(load_labels(folder, verify=False)) == 16


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(folder: Path) -> None:
    clean = load_labels(folder, verify=False)
    for name in SHA256:
        path = folder / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(load_labels(folder, verify=False), clean)


def test_rows_are_counted_alike_under_windows_line_ends(folder: Path) -> None:
    text = "".join(f"{line}\r\n" for line in [*DE, "XX,YY,2,train"])
    (folder / "k562-de.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert "k562-de.csv, row 6: XX,YY has label '2'" in refusal(folder)


def test_changed_line_ends_are_told_from_changed_content(pinned: Path) -> None:
    assert len(load_labels(pinned)) == 16
    path = pinned / "k562-dir.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    message = refusal(pinned, verify=True)
    assert "k562-dir.csv" in message
    assert "line ends" in message
    write(path, [DIR[0], "AARS,CALR,0,train", DIR[2]])
    assert "line ends" not in refusal(pinned, verify=True)


def test_a_file_whose_hash_is_off_is_an_error(folder: Path) -> None:
    message = refusal(folder, verify=True)
    assert "k562-de.csv" in message
    assert "SHA-256" in message


def test_a_consistent_change_of_the_full_data_is_found_by_its_hash(full_labels: Path, tmp_path: Path) -> None:
    content = (full_labels / "rpe1-dir.csv").read_bytes()
    changed = re.sub(rb",1,train\n", b",0,train\n", content, count=1)
    assert changed != content
    message = refusal(linked(full_labels, tmp_path / "off", "rpe1-dir.csv", changed), verify=True)
    assert "rpe1-dir.csv: SHA-256" in message


def test_a_truncated_full_file_is_an_error_with_its_row(full_labels: Path, tmp_path: Path) -> None:
    content = (full_labels / "k562-de.csv").read_bytes()[:1_000_000]
    content = content[: content.rindex(b",")]  # in the middle of its last row
    message = refusal(linked(full_labels, tmp_path / "torn", "k562-de.csv", content), verify=True)
    row = content.count(b"\n") + 1
    assert f"k562-de.csv, row {row}: 3 columns, not 4" in message


def test_full_files_with_windows_line_ends_are_read_or_named(
    full_labels: Path, full_frame: pd.DataFrame, tmp_path: Path
) -> None:
    content = b"\xef\xbb\xbf" + (full_labels / "hepg2-dir.csv").read_bytes().replace(b"\n", b"\r\n")
    folder = linked(full_labels, tmp_path / "dos", "hepg2-dir.csv", content)
    message = refusal(folder, verify=True)
    assert "hepg2-dir.csv" in message
    assert "line ends" in message
    assert load_labels(folder, verify=False).equals(full_frame)


def test_the_sample_is_a_source(full_frame: pd.DataFrame) -> None:
    sample = load_labels("sample")
    assert list(sample.columns) == list(full_frame.columns)
    assert (sample.dtypes == full_frame.dtypes).all()


def test_the_default_folder_is_that_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHPERT_DATA", str(folder))
    assert len(load_labels(verify=False)) == 16
    monkeypatch.delenv("SYNTHPERT_DATA")
    assert perturbqa.data_dir().name == "perturbqa"


# rows, train, test, positive share in percent, test perturbations, direction rows: PerturbQA's own table
COUNTS = {
    "k562": (157_679, 134_467, 23_212, 12.7, 267, 19_980),
    "rpe1": (187_089, 149_147, 37_942, 14.2, 406, 26_652),
    "hepg2": (126_889, 101_140, 25_749, 14.1, 278, 17_860),
    "jurkat": (142_822, 113_684, 29_138, 14.0, 313, 20_058),
}


def test_counts_of_the_full_data(full_frame: pd.DataFrame) -> None:
    table = stats(full_frame)
    columns = ["rows", "train", "test", "positive_percent", "test_perturbations", "positives"]
    assert {line: tuple(table.loc[line, columns]) for line in CELL_LINES} == COUNTS
    assert table.loc["all", "rows"] == len(full_frame) == 614_479
    assert table.loc["all", "test_perturbations"] == 1_001 < table.loc[list(CELL_LINES), "test_perturbations"].sum()
    assert (table["upregulated"] + table["downregulated"] == table["positives"]).all()
    assert full_frame["item_id"].is_unique


def test_no_perturbation_is_in_both_splits_of_a_line(full_frame: pd.DataFrame) -> None:
    assert (full_frame.groupby(["cell_line", "pert"], observed=True)["split"].nunique() == 1).all()


def test_no_loop_in_python_goes_over_the_rows(folder: Path, full_labels: Path) -> None:
    """It would take many seconds."""
    of_16, of_all = (count_steps(partial(load_labels, rows, verify=False)) for rows in (folder, full_labels))
    assert of_all < 1.2 * of_16


def test_stats_count_a_small_table(folder: Path) -> None:
    table = stats(load_labels(folder, verify=False))
    assert table.loc["all"].to_dict() == {
        "rows": 16, "train": 8, "test": 8, "positives": 8, "positive_percent": 50.0,
        "upregulated": 4, "downregulated": 4, "test_perturbations": 2, "genes": 2, "unseen_genes": 0,
    }  # fmt: skip
    assert (table.loc[list(CELL_LINES), "test_perturbations"] == 2).all()  # the same two in each line


def test_unseen_genes_have_no_training_row_in_any_line(make_labels: Callable[[int], pd.DataFrame]) -> None:
    labels = make_labels(0)
    rpe1 = labels["cell_line"] == "rpe1"
    of_rpe1_alone = set(labels.loc[rpe1, "gene"]) - set(labels.loc[~rpe1, "gene"])
    assert 0 < len(of_rpe1_alone) < labels.loc[rpe1, "gene"].nunique()  # the other lines train on the others
    assert stats(apply_split(labels, "holdout:rpe1")).loc["rpe1", "unseen_genes"] == len(of_rpe1_alone)
    held = apply_split(labels, "holdout:genes,share=0.25")
    genes = held.loc[held["split"] == "test", "gene"]
    assert stats(held).loc["all", "unseen_genes"] == genes.nunique() == round(0.25 * labels["gene"].nunique())


def test_the_holdout_split_takes_all_of_one_line_out_of_training(folder: Path) -> None:
    labels = load_labels(folder, verify=False)
    held = apply_split(labels, "holdout:rpe1")
    assert set(held.loc[held["split"] == "test", "cell_line"]) == {"rpe1"}
    assert set(held.loc[held["split"] == "train", "cell_line"]) == set(CELL_LINES) - {"rpe1"}
    assert len(held) == len(labels)
    assert held["split"].dtype == labels["split"].dtype
    pd.testing.assert_frame_equal(apply_split(labels, "official"), labels)
    pd.testing.assert_frame_equal(held.drop(columns="split"), labels.drop(columns="split"))


@pytest.mark.parametrize("split", ["holdout:rpe2", "holdout", "holdout:", "rpe1", "Official", "", "random:rpe1"])
def test_an_unknown_split_names_those_there_are(folder: Path, split: str) -> None:
    with pytest.raises(InputError, match="holdout:rpe1" if split == "holdout:rpe2" else "holdout:perturbations"):
        apply_split(load_labels(folder, verify=False), split)


def test_holding_out_a_line_without_rows_is_refused(folder: Path) -> None:
    labels = load_labels(folder, verify=False)
    with pytest.raises(InputError, match="no row of rpe1"):
        apply_split(labels[labels["cell_line"] != "rpe1"], "holdout:rpe1")


def test_the_digest_changes_with_a_label_a_split_and_an_item(folder: Path) -> None:
    labels = load_labels(folder, verify=False)
    same = digest(labels)
    assert digest(load_labels(folder, verify=False)) == same
    assert digest(apply_split(labels, "holdout:rpe1")) != same
    assert digest(labels.iloc[:-1]) != same
    flipped = labels["label"].astype(str)
    flipped.iloc[1] = UP
    assert digest(labels.assign(label=flipped.astype(labels["label"].dtype))) != same


# --- fetch ---------------------------------------------------------------------------------------------------------


class Source:
    """A loopback server of the eight files, which can be made to misbehave for one of them."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.bad: dict[str, Callable[[BaseHTTPRequestHandler, bytes], None]] = {}
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[-1]
                source.requests.append(name)
                send = source.bad.get(name, whole)
                send(self, (folder / name).read_bytes())

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/datasets"


def respond(handler: BaseHTTPRequestHandler, body: bytes, length: int | None) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(body)


def whole(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    respond(handler, body, len(body))


def shorter_than_promised(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    respond(handler, body[:20], len(body))


def cut_without_a_length(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    respond(handler, body[:20], None)


def not_found(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_error(404)


def a_login_page(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    page = b"<html>please log in</html>"
    respond(handler, page, len(page))


def hangs_up(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    monkeypatch.setenv("no_proxy", "*")
    source = Source(pinned)
    thread = threading.Thread(target=source.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    with contextlib.closing(source.server.socket):
        yield source
        source.server.shutdown()
        thread.join()


def test_fetch_from_a_folder_gives_files_that_load(pinned: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "copy"
    assert fetch(pinned, out) == out
    assert sorted(path.name for path in out.iterdir()) == sorted(SHA256)
    pd.testing.assert_frame_equal(load_labels(out), load_labels(pinned))


def test_fetch_goes_to_the_default_folder(pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHPERT_DATA", str(tmp_path / "default"))
    assert fetch(str(pinned)) == tmp_path / "default"
    assert len(load_labels()) == 16


def test_fetch_the_full_files_from_a_folder(full_labels: Path, tmp_path: Path) -> None:
    fetch(full_labels, tmp_path)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == SHA256


@pytest.mark.parametrize("name", ["hepg2-de.csv", "rpe1-dir.csv"])
def test_fetch_from_a_folder_without_one_of_the_files(pinned: Path, tmp_path: Path, name: str) -> None:
    (pinned / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        fetch(pinned, tmp_path / "out")


def test_fetch_from_a_folder_whose_files_were_changed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hepg2-de\.csv: SHA-256"):
        fetch(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fetch_over_http(server: Source, pinned: Path, tmp_path: Path) -> None:
    out = fetch(server.url, tmp_path / "out")
    assert sorted(server.requests) == sorted(SHA256)
    pd.testing.assert_frame_equal(load_labels(out), load_labels(pinned))


def test_fetched_files_that_are_right_are_kept(server: Source, tmp_path: Path) -> None:
    out = fetch(server.url + "/", tmp_path / "out")
    server.requests.clear()
    fetch(server.url, out)
    assert server.requests == []
    (out / "k562-de.csv").write_text("pert,gene,label,split\n")
    (out / "rpe1-de.csv").unlink()
    fetch(server.url, out)
    assert sorted(server.requests) == ["k562-de.csv", "rpe1-de.csv"]
    assert len(load_labels(out)) == 16


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (shorter_than_promised, "truncated"),
        (cut_without_a_length, "truncated or was changed"),
        (not_found, "404"),
        (a_login_page, "SHA-256"),
        (hangs_up, "cannot be fetched"),
    ],
)
def test_a_bad_download_is_one_line_and_takes_no_files_name(
    server: Source, tmp_path: Path, send: Callable[[BaseHTTPRequestHandler, bytes], None], words: str
) -> None:
    server.bad["k562-de.csv"] = send
    out = tmp_path / "out"
    with pytest.raises(InputError) as error:
        fetch(server.url, out, timeout=PATIENCE)
    assert "k562-de.csv" in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    arrived = sorted(SHA256)[: sorted(SHA256).index("k562-de.csv")]
    assert sorted(path.name for path in out.iterdir()) == arrived

    server.bad.clear()  # a second try takes what is missing, and only that
    server.requests.clear()
    fetch(server.url, out)
    assert not set(server.requests) & set(arrived)
    assert len(load_labels(out)) == 16


def test_a_host_out_of_reach_names_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        with pytest.raises(InputError, match="--source FOLDER"):
            fetch(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path, timeout=PATIENCE)


@pytest.mark.parametrize("source", ["ftp://127.0.0.1/x", "file:///etc"])
def test_only_http_and_folders_are_sources(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match="http"):
        fetch(source, tmp_path)
