"""Trace files come back as they were written, and a broken line is an error with file and row."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rewards import LABELS, InputError
from sft.traces import Trace, read_traces, write_traces

UP, DOWN, NONE = map(str, LABELS)


def make_trace(gene: str = "CALR", **changed: Any) -> Trace:
    values: dict[str, Any] = {
        "item_id": f"rpe1|AARS|{gene}", "cell_line": "rpe1", "pert": "AARS", "gene": gene, "label": UP,
        "prompt": [{"role": "system", "content": "You are"}, {"role": "user", "content": f"{gene}?\n\u2028 é 基因"}],
        "completion": f"<think>because\nof é</think><answer>{UP}</answer>", "answer": UP, "teacher": "t",
        "mode": "rationalize", "critic": {"verdict": "good", "reason": "r"}, "created": "2026-11-23T00:00:00+00:00",
        "protocol": {"template": "three_class", "evidence": 3},
    }  # fmt: skip
    return Trace(**{**values, **changed})


def test_traces_come_back_as_written(tmp_path: Path) -> None:
    traces = [
        make_trace("A"),
        make_trace("NA", label=NONE, critic=None, mode="blind"),
        make_trace("1-Mar", completion="I do not know", answer=None),
        make_trace("D", label=DOWN),  # a wrong answer is a trace too: the filter's business
    ]
    path = tmp_path / "new" / "traces.jsonl"
    assert write_traces(traces, path) == 4
    assert read_traces(path) == traces
    assert len(path.read_bytes().split(b"\n")) == 5


def test_a_write_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    write_traces([make_trace("A")], path)

    def torn() -> Iterator[Trace]:
        yield make_trace("B")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_traces(torn(), path)
    assert [trace.gene for trace in read_traces(path)] == ["A"]


def record(**changed: Any) -> dict[str, Any]:
    return {**asdict(make_trace("B")), **changed}


def without(key: str) -> str:
    values = record()
    del values[key]
    return json.dumps(values)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (json.dumps(record())[:50], "not JSON"),
        ("", "not JSON"),
        ("[]", "keys differ"),
        ("null", "keys differ"),
        (without("critic"), "critic"),
        (json.dumps(record(extra=1)), "extra"),
        (json.dumps(record(label="up")), "'up' is not a label"),
        (json.dumps(record(label=None)), "None is not a label"),
        (json.dumps(record(mode="guess")), "mode 'guess' is unknown"),
        (json.dumps(record(answer=DOWN)), "does not give the answer"),
        (json.dumps(record(answer=None)), "does not give the answer"),
        (json.dumps(record(answer="up")), "up"),
        (json.dumps(record(completion=f"<answer>{UP}</answer>")), "does not give the answer"),
        (json.dumps(record(completion=None, answer=None)), "completion"),
        (json.dumps(record(completion=5)), "completion"),
        (json.dumps(record(prompt="text")), "prompt"),
        (json.dumps(record(critic={"verdict": "good", "given": True})), "critic's `given` is True; write yes or no"),
        (json.dumps(record(prompt=[])), "prompt"),
        (json.dumps(asdict(make_trace("A"))), "there twice (first in row 1)"),
    ],
)
def test_a_broken_line_is_an_error_with_file_and_row(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "traces.jsonl"
    lines = [json.dumps(asdict(make_trace("A"))), line, json.dumps(asdict(make_trace("C")))]
    path.write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_traces(path)
    assert str(error.value).startswith(f"{path}, row 2: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl"
    path.write_bytes(json.dumps(asdict(make_trace("A"))).encode() + b"\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"traces\.jsonl"):
        read_traces(path)


def test_no_file_and_no_traces_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_traces(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match="no traces"):
        read_traces(tmp_path / "empty.jsonl")
