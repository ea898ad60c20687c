"""Reasoning traces: one JSON object a line, each a prompt, a completion and where it came from."""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.chat import Message
from rewards import InputError, as_label, parse_answer

MODES: Final = ("blind", "rationalize")


@dataclass(frozen=True)
class Trace:
    """One reasoning trace.

    Attributes:
        item_id, cell_line, pert, gene: the item.
        label: its true label.
        prompt: the messages the student will see.
        completion: `<think>…</think><answer>LABEL</answer>`.
        answer: the label that the completion gives.
        teacher: who wrote it.
        mode: `blind` (the teacher predicted) or `rationalize` (it was given the label).
        critic: a verdict and its reason, or None where nobody graded it.
        created: when, in UTC, ISO 8601.
        protocol: what the prompt was made with.
    """

    item_id: str
    cell_line: str
    pert: str
    gene: str
    label: str
    prompt: list[Message]
    completion: str
    answer: str | None
    teacher: str
    mode: Literal["blind", "rationalize"]
    critic: dict[str, str] | None
    created: str
    protocol: dict[str, Any]


def write_traces(traces: Iterable[Trace], path: Path) -> int:
    """Write traces as JSON lines under a temporary name, then give the file its name; return their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for trace in traces:
            count += 1
            file.write(json.dumps(asdict(trace), ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return count


def read_traces(path: Path) -> list[Trace]:
    """Read traces and check each line.

    Raises:
        InputError: the file is missing or empty, a line is no trace, an item comes twice, or a completion does
            not give the answer that the line states; the message names file and row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with `synthpert traces generate`")
    try:
        traces = list(_parse_lines(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); generate the traces again") from None
    if not traces:
        raise InputError(f"{path}: no traces; make them with `synthpert traces generate`")
    return traces


def _parse_lines(path: Path) -> Iterator[Trace]:
    names = {field.name for field in fields(Trace)}
    seen: dict[str, int] = {}
    with path.open(encoding="utf-8") as file:
        for row, line in enumerate(file, start=1):
            where = f"{path}, row {row}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{where}: not JSON ({error.msg}); the line is torn, generate the traces again"
                ) from None
            if not isinstance(record, dict) or set(record) != names:
                keys = set(record) if isinstance(record, dict) else set()
                raise InputError(f"{where}: keys differ from a trace's in {', '.join(sorted(keys ^ names))}")
            trace = Trace(**record)
            if not isinstance(trace.completion, str):
                raise InputError(f"{where}: completion is no text; remove the row")
            if not (isinstance(trace.prompt, list) and trace.prompt and all(isinstance(m, dict) for m in trace.prompt)):
                raise InputError(f"{where}: prompt is no list of messages; remove the row")
            as_label(trace.label, f"{where}: label")
            if trace.mode not in MODES:
                raise InputError(f"{where}: mode {trace.mode!r} is unknown; use {' or '.join(MODES)}")
            answer = as_label(trace.answer, f"{where}: answer") if trace.answer else None
            if parse_answer(trace.completion).label != answer:
                raise InputError(f"{where}: the completion does not give the answer {trace.answer!r}; remove the row")
            if trace.item_id in seen:
                raise InputError(f"{where}: {trace.item_id} is there twice (first in row {seen[trace.item_id]})")
            seen[trace.item_id] = row
            yield trace
