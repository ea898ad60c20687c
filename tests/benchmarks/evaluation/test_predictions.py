"""Predictions survive kills and full disks, and what does not fit the schema is refused by row."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmarks.evaluation.predictions import (
    COLUMNS,
    PredictionLog,
    changed_keys,
    read_answers,
    read_completions,
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
            "prompt_tokens": 30,
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


def test_a_file_from_before_prompt_tokens_were_counted_is_read(tmp_path: Path) -> None:
    path, again = tmp_path / "predictions.parquet", tmp_path / "again.parquet"
    write_predictions(make_frame(["CALR", "MYC"]), path, FACTS)
    pq.write_table(pq.read_table(path).drop_columns(["prompt_tokens"]), path)
    back = read_predictions(path)
    assert list(back.columns) == COLUMNS
    assert back["prompt_tokens"].isna().all()
    assert read_answers([path])["prompt_tokens"].isna().all()
    write_predictions(back.drop(columns="prompt_tokens"), again, FACTS)
    pd.testing.assert_frame_equal(read_predictions(again), back)


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
    with pytest.raises(InputError, match=r"part-000000\.parquet: belongs to a run with other engine\.model, seed;"):
        PredictionLog(tmp_path, other)
    with PredictionLog(tmp_path, FACTS) as log:
        log.finish(2)
    with pytest.raises(InputError, match=r"predictions\.parquet: belongs to a run with other engine\.model, seed;"):
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
from benchmarks.evaluation.predictions import PredictionLog
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
    assert re.fullmatch(r".*part-000001\.parquet: cannot be written \(.*\); make room.*", done.stdout)
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


# --- reading for a report ---------------------------------------------------------------------------------------------


def test_answers_of_several_files_are_read_without_their_completions(tmp_path: Path) -> None:
    one, two = make_frame(["A", "B"]), make_frame(["C", "NA"]).assign(seed=4)
    for frame, name in ((one, "1"), (two, "2")):
        write_predictions(frame, tmp_path / name, FACTS)
    read = read_answers([tmp_path / "1", tmp_path / "2"])
    assert list(read.columns) == [name for name in COLUMNS if name != "completion"]
    expected = pd.concat([one, two], ignore_index=True).drop(columns="completion")
    assert isinstance(read["item_id"].dtype, pd.CategoricalDtype)
    texts = {name: "str" for name in expected if read[name].dtype == "category"}
    pd.testing.assert_frame_equal(read.astype(texts), expected.astype(texts), check_dtype=False)


def test_answers_that_break_the_schema_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write_predictions(make_frame(["A", "B"]), path, FACTS)
    table = pq.read_table(path)
    pq.write_table(table.set_column(14, "finish_reason", table["gene"]), path)  # any text will do there
    assert len(read_answers([path])) == 2
    pq.write_table(table.set_column(9, table.schema.field("status"), table["gene"]), path)
    with pytest.raises(InputError, match=r"p\.parquet: row 0 .*status is not one of"):
        read_answers([path])


def test_completions_of_a_few_items_come_from_every_file(tmp_path: Path) -> None:
    for seed in (1, 2):
        frame = make_frame(["A", "B", "C"]).assign(seed=seed)
        frame.loc[0, "completion"] = f"of seed {seed}"
        write_predictions(frame, tmp_path / str(seed), FACTS)
    files = [tmp_path / "1", tmp_path / "2"]
    read = read_completions(files, ["rpe1|AARS|C", "rpe1|AARS|A", "rpe1|AARS|none"])
    assert list(read.columns) == ["item_id", "seed", "sample", "completion", "status", "answer"]
    assert list(read["item_id"]) == ["rpe1|AARS|A", "rpe1|AARS|C"] * 2
    assert list(read["seed"]) == [1, 1, 2, 2]
    assert list(read["completion"].fillna("")) == ["of seed 1", "", "of seed 2", ""]
    assert read_completions(files, []).empty


def test_completions_are_found_beyond_the_first_row_group(tmp_path: Path) -> None:
    frame = make_frame([f"G{i}" for i in range(40_000)])
    frame["completion"] = [f"about {gene}" for gene in frame["gene"]]
    frame.loc[39_999, ["answer", "status"]] = ["upregulated", "answered"]
    write_predictions(frame, tmp_path / "p.parquet", FACTS)
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups > 1
    read = read_completions([tmp_path / "p.parquet"], ["rpe1|AARS|G39999", "rpe1|AARS|G3"])
    assert list(read["completion"]) == ["about G3", "about G39999"]
