"""Predictions survive kills and full disks, and what does not fit the schema is refused by row."""

import errno
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.predictions import (
    COLUMNS,
    PredictionLog,
    changed_keys,
    import_predictions,
    read_facts,
    read_predictions,
    write_predictions,
)
from rewards import CheckError, InputError

FACTS: dict[str, Any] = {"engine": {"model": "tiny", "revision": None}, "seed": 0}


def make_frame(genes: list[str]) -> pd.DataFrame:
    n = len(genes)
    frame = pd.DataFrame(
        {
            "item_id": [f"rpe1|AARS|{gene}" for gene in genes],
            "cell_line": "rpe1",
            "pert": "AARS",
            "gene": genes,
            "label": "upregulated",
            "sample": 0,
            "seed": 3,
            "completion": ["<think>a</think><answer>upregulated</answer>"] * n,
            "answer": "upregulated",
            "status": "answered",
            "p_up": 0.5,
            "p_down": 0.25,
            "p_none": 0.25,
            "completion_tokens": 7,
            "finish_reason": "stop",
        }
    )
    last = n - 1
    frame["completion"] = frame["completion"].astype(object)
    frame["answer"] = frame["answer"].astype(object)
    frame.loc[last, ["completion", "answer"]] = None
    frame.loc[last, ["status", "finish_reason"]] = "error"
    frame.loc[last, ["p_up", "p_down", "p_none"]] = np.nan
    return frame


def test_write_then_read_gives_the_same_rows_and_facts(tmp_path: Path) -> None:
    frame = make_frame(["NA", "1-Mar", "CALR"])
    path = tmp_path / "predictions.parquet"
    write_predictions(frame.astype({"label": "category", "cell_line": "category"}), path, FACTS)
    back = read_predictions(path)
    assert list(back.columns) == COLUMNS
    assert list(back["gene"]) == ["NA", "1-Mar", "CALR"]
    assert list(back["answer"].isna()) == [False, False, True]
    assert list(back["completion"].isna()) == [False, False, True]
    pd.testing.assert_frame_equal(back, frame.astype({"completion": "str", "answer": "str"}), check_dtype=False)
    assert read_facts(path) == FACTS


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("label", "up", "label is not one of"),
        ("answer", "up", "answer is not one of"),
        ("answer", None, "an answer goes with the status answered"),
        ("status", "done", "status is not one of"),
        ("status", "malformed", "an answer goes with the status answered"),
        ("p_up", np.nan, "either all three"),
        ("p_up", 0.6, "add up to 1"),
        ("p_up", -0.5, "add up to 1"),
        ("item_id", "rpe1|AARS|NA", "occur twice"),
    ],
)
def test_a_row_that_breaks_the_schema_is_named(
    tmp_path: Path, column: str, value: str | float | None, problem: str
) -> None:
    frame = make_frame(["NA", "1-Mar", "CALR"])
    frame[column] = frame[column].astype(object)
    frame.loc[1, column] = value
    with pytest.raises(InputError, match=rf"row 1 .*{problem}"):
        write_predictions(frame, tmp_path / "p.parquet", FACTS)
    assert not (tmp_path / "p.parquet").exists()


def test_probabilities_without_an_answer_are_refused(tmp_path: Path) -> None:
    frame = make_frame(["A", "B"])
    frame.loc[1, ["p_up", "p_down", "p_none"]] = 1 / 3
    with pytest.raises(InputError, match=r"row 1 .*probabilities go with the status answered only"):
        write_predictions(frame, tmp_path / "p.parquet", FACTS)


def test_a_missing_and_an_unknown_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column 'status'"):
        write_predictions(make_frame(["A"]).drop(columns="status"), tmp_path / "p.parquet", FACTS)
    with pytest.raises(InputError, match="unknown column 'extra'"):
        write_predictions(make_frame(["A"]).assign(extra=1), tmp_path / "p.parquet", FACTS)


def test_log_merges_parts_in_order_and_removes_them(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, FACTS) as log:
        log.append(1, make_frame(["C", "D"]), {"HTTP 500": 1})
        log.append(0, make_frame(["A", "B"]), {"HTTP 500": 1})
        assert log.parts() == {0, 1}
        path = log.finish(4)
    assert list(read_predictions(path)["gene"]) == ["A", "B", "C", "D"]
    assert read_facts(path) == {**FACTS, "errors": {"HTTP 500": 2}}
    assert [child.name for child in tmp_path.iterdir()] == ["predictions.parquet"]


def test_parts_outlive_the_log_and_a_torn_one_is_dropped(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, FACTS) as log:
        log.append(0, make_frame(["A", "B"]))
    torn = tmp_path / "predictions.parts" / "part-000001.parquet.partial"
    torn.write_bytes(b"PAR1 and then the power went")
    with PredictionLog(tmp_path, FACTS) as log:
        assert log.parts() == {0}
        assert not torn.exists()
        with pytest.raises(CheckError, match="2 of 4 rows"):
            log.finish(4)
        log.append(1, make_frame(["C", "D"]))
        assert len(read_predictions(log.finish(4))) == 4


def test_a_part_that_does_not_read_is_named(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, FACTS) as log:
        log.append(0, make_frame(["A", "B"]))
    part = tmp_path / "predictions.parts" / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"part-000000\.parquet: cannot be read"):
        PredictionLog(tmp_path, FACTS)


def test_a_log_of_another_run_is_refused_naming_the_keys(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, FACTS) as log:
        log.append(0, make_frame(["A", "B"]))
    other = {"engine": {"model": "large", "revision": None}, "seed": 1}
    with pytest.raises(InputError, match=r"part-000000\.parquet: is of a run with other engine\.model, seed;"):
        PredictionLog(tmp_path, other)
    with PredictionLog(tmp_path, FACTS) as log:
        log.finish(2)
    with pytest.raises(InputError, match=r"predictions\.parquet: is of a run with other engine\.model, seed;"):
        PredictionLog(tmp_path, other)


def test_changed_keys_sees_a_key_that_came_or_went() -> None:
    assert changed_keys({"a": 1, "b": {"c": 1}}, {"b": {"c": 2, "d": None}}) == ["a", "b.c", "b.d"]


def test_two_processes_never_append_to_one_run(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, FACTS), pytest.raises(InputError, match="another process is writing"):
        PredictionLog(tmp_path, FACTS)
    PredictionLog(tmp_path, FACTS).close()  # given free by then


def large_frame() -> pd.DataFrame:
    frame = make_frame([f"G{i}" for i in range(400)])
    noise = np.random.default_rng(0).bytes(400 * 40).hex()
    frame["completion"] = [noise[i * 80 : i * 80 + 80] for i in range(399)] + [None]
    return frame


# In a process of its own: the limit would hold for the test runner's output too, where that goes to a file.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import pandas as pd
from benchmarks.predictions import PredictionLog
from rewards import CheckError

folder = Path(sys.argv[1])
frame = pd.read_parquet(sys.argv[2])
with PredictionLog(folder, {}) as log:
    log.append(0, frame.iloc[:0])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # bytes: files that grow past it fail as on a full disk
    try:
        log.append(1, frame)
    except CheckError as error:
        sys.stdout.write(str(error))
    assert log.parts() == {0}
"""


def test_a_full_disk_names_file_and_remedy_and_keeps_finished_parts(tmp_path: Path) -> None:
    folder, rows = tmp_path / "run", tmp_path / "rows.parquet"
    large_frame().to_parquet(rows)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), str(rows)], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r".*part-000001\.parquet: cannot be written \(.*\); free some space.*", done.stdout)
    assert len(read_predictions(folder / "predictions.parts" / "part-000000.parquet")) == 0
    assert not list(folder.rglob("*.partial"))


def test_after_a_full_disk_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with PredictionLog(tmp_path, FACTS) as log:
        log.append(0, make_frame(["A", "B"]))
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(CheckError, match="No space left on device"):
                log.append(1, make_frame(["C", "D"]))
            with pytest.raises(CheckError, match="No space left on device"):
                log.finish(2)
        log.append(1, make_frame(["C", "D"]))
        assert len(read_predictions(log.finish(4))) == 4


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file, not a folder")
    with pytest.raises(CheckError, match="predictions.parts: cannot be written"):
        PredictionLog(tmp_path / "runs", FACTS)


@pytest.mark.parametrize("content", [b"", b"not parquet"])
def test_reading_what_is_no_predictions_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"p\.parquet: cannot be read"):
        read_predictions(path)
    with pytest.raises(InputError, match=r"p\.parquet: cannot be read"):
        read_facts(path)


def test_reading_another_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pd.DataFrame({"item_id": ["rpe1|A|B"]}).to_parquet(path)
    with pytest.raises(InputError, match="no column 'cell_line'"):
        read_predictions(path)
    with pytest.raises(InputError, match="holds no facts"):
        read_facts(path)


# --- predictions from elsewhere ---------------------------------------------------------------------------------------

ITEMS = pd.DataFrame(
    {
        "item_id": ["rpe1|AARS|NA", "rpe1|AARS|1-Mar", "k562|TP53|CALR"],
        "cell_line": ["rpe1", "rpe1", "k562"],
        "pert": ["AARS", "AARS", "TP53"],
        "gene": ["NA", "1-Mar", "CALR"],
        "label": ["upregulated", "downregulated", "not differentially expressed"],
    }
)


def test_answers_from_a_windows_csv_with_other_column_names(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_bytes(
        b"\xef\xbb\xbfpert,gene,cell_type,generated_answer\r\n"
        b"TP53,CALR,K562,upregulated\r\nAARS,NA,RPE1,upregulated\r\nAARS,1-Mar,RPE1,\r\n"
    )
    frame = import_predictions(path, ITEMS, {"cell_line": "cell_type", "answer": "generated_answer"})
    assert list(frame["item_id"]) == ["k562|TP53|CALR", "rpe1|AARS|NA", "rpe1|AARS|1-Mar"]
    assert list(frame["label"]) == ["not differentially expressed", "upregulated", "downregulated"]
    assert list(frame["status"]) == ["answered", "answered", "malformed"]
    assert frame["p_up"].isna().all()
    write_predictions(frame, tmp_path / "ours.parquet", {})


def test_scores_from_jsonl_and_parquet(tmp_path: Path) -> None:
    rows = [
        {"pert": "AARS", "gene": "NA", "cell_line": "rpe1", "p_up": 0.2, "p_down": 0.1, "p_none": 0.698},
        {"pert": "AARS", "gene": "1-Mar", "cell_line": "rpe1", "p_up": None, "p_down": None, "p_none": None},
    ]
    path = tmp_path / "theirs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    frame = import_predictions(path, ITEMS)
    assert frame["answer"].iloc[0] == "not differentially expressed"
    assert list(frame["status"]) == ["answered", "malformed"]
    assert frame[["p_up", "p_down", "p_none"]].iloc[0].sum() == pytest.approx(1.0, abs=1e-12)
    pd.DataFrame(rows).to_parquet(tmp_path / "theirs.parquet")
    pd.testing.assert_frame_equal(import_predictions(tmp_path / "theirs.parquet", ITEMS), frame)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("AARS,XYZ,rpe1,upregulated", "row 3: no such item"),
        ("AARS,1-Mar,hela,upregulated", "row 3: no such item"),
        ("AARS,1-Mar,rpe1,up", "row 3: answer is not one of"),
        ("AARS,1-Mar,rpe1,not upregulated", "row 3: answer is not one of"),
        ("AARS,NA,rpe1,upregulated", "row 3: the item, sample and seed occurred in an earlier row"),
        ("AARS,1-Mar,rpe1", "cannot be read"),
    ],
)
def test_a_foreign_row_that_does_not_fit_is_named(tmp_path: Path, row: str, problem: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(f"pert,gene,cell_line,answer\nAARS,NA,rpe1,upregulated\n{row}\n")
    with pytest.raises(InputError, match=problem):
        import_predictions(path, ITEMS)


@pytest.mark.parametrize(
    ("scores", "problem"),
    [("0.5,0.5,0.5", "add up to 1"), ("-1,1,1", "add up to 1"), ("high,0,0", "not a number"), ("1,0,", "not a number")],
)
def test_foreign_scores_that_are_no_distribution(tmp_path: Path, scores: str, problem: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(f"pert,gene,cell_line,p_up,p_down,p_none\nAARS,NA,rpe1,{scores}\n")
    with pytest.raises(InputError, match=f"row 2: .*{problem}"):
        import_predictions(path, ITEMS)


@pytest.mark.parametrize(
    ("header", "columns", "problem"),
    [
        ("pert,gene,answer", {}, "no column 'cell_line'"),
        ("pert,gene,cell_line,p_up", {}, "neither a column 'answer'"),
        ("pert,gene,cell_line,answer", {"answer": "reply"}, r"no column 'reply' \(for answer\)"),
    ],
)
def test_foreign_columns_that_are_missing(tmp_path: Path, header: str, columns: dict[str, str], problem: str) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text(header + "\n" + ",".join("x" for _ in header.split(",")) + "\n")
    with pytest.raises(InputError, match=problem):
        import_predictions(path, ITEMS, columns)


def test_foreign_files_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        import_predictions(tmp_path / "none.csv", ITEMS)
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(InputError, match=r"empty\.csv: cannot be read"):
        import_predictions(empty, ITEMS)
    pickled = tmp_path / "p.pkl"
    pickled.write_bytes(pickle.dumps(ITEMS))
    with pytest.raises(InputError, match="never pickles"):
        import_predictions(pickled, ITEMS)
