"""Reasoning traces: a prompt, a completion and its origin, stored as one JSON object a line."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.chat import Message
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig, items_for_prompt
from benchmarks.evidence.quote import evidence_digest
from benchmarks.files import whole_file
from benchmarks.keys import to_keys
from rewards import LABELS, Answer, InputError, as_label, parse_answer

MODES: Final = ("blind", "rationalize")


@dataclass(frozen=True)
class Trace:
    """One reasoning trace.

    Attributes:
        item_id, cell_line, pert, gene: the item.
        label: its true label.
        prompt: the messages that the student will see.
        completion: `<think>…</think><answer>LABEL</answer>`.
        answer: the label that the completion gives.
        teacher: the name of the model that wrote it.
        mode: `blind` (the teacher predicted) or `rationalize` (it was given the label).
        critic: what critics say of the reasoning, None where none was asked: `verdict`, `reason`, and `given` (`yes` if
            the reasoning treats its answer as given, else `no`; missing where no critic said).
        created: date and time in UTC, ISO 8601.
        protocol: how the prompt was made.
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


def prompt_protocol(prompt: PromptConfig, corpus: Corpus) -> dict[str, Any]:
    """Return the protocol of traces with our prompts: its settings, labels, evidence files, split and training items.

    Settings that are null are left out, as in traces from before these settings.
    """
    n = len(items_for_prompt(corpus.train, prompt))
    settings = {key: value for key, value in to_keys(prompt).items() if value is not None}
    files = {"evidence_data": digest} if (digest := evidence_digest(prompt.kinds, corpus.reference)) else {}
    return {**settings, "split": corpus.split, "data": corpus.digest, **files, "train_items": n}


_NAMES: Final = {field.name: None for field in fields(Trace)}.keys()  # a set that keeps the order
_TEXTS: Final = ("completion", "item_id", "cell_line", "pert", "gene", "teacher", "created")
_LABELS: Final = frozenset(map(str, LABELS))
_FINAL: Final = re.compile(rf"<answer>\s*(?:{'|'.join(LABELS)})\s*</answer>")


def write_traces(traces: Iterable[Trace], path: Path) -> int:
    """Write traces as JSON lines and return their number. The file appears under its name when it is complete."""
    return write_lines((format_trace(trace) for trace in traces), path)


def write_lines(lines: Iterable[bytes], path: Path) -> int:
    """Write lines, line ends included, and return their number. The file appears under its name when it is complete."""
    count = 0
    with whole_file(path) as file:
        for line in lines:
            count += 1
            file.write(line)
    return count


def format_trace(trace: Trace) -> bytes:
    """Return a trace as a line of JSON in UTF-8."""
    values = {name: getattr(trace, name) for name in _NAMES}
    try:
        return json.dumps(values, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 bytes; it is escaped, and the filters refuse it later
        return json.dumps(values).encode("ascii") + b"\n"


def read_traces(path: Path) -> list[Trace]:
    """Read a file of traces and check each line.

    Raises:
        InputError: the file is missing or empty, a line is no trace, an item occurs twice, or a completion does not
            give the answer that its line states. The message names file and row.
    """
    return [trace for trace, _, _ in iter_traces(path)]


def iter_traces(path: Path) -> Iterator[tuple[Trace, Answer, bytes]]:
    """Yield each trace of a file with its parsed completion and its line. Raises as `read_traces` does."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with `synthpert traces generate`")
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            trace, parsed = parse_trace(line, path, row)
            if trace.item_id in seen:
                raise InputError(
                    f"{path}, row {row}: {trace.item_id} is there twice (first in row {seen[trace.item_id]})"
                )
            seen[trace.item_id] = row
            yield trace, parsed, line
    if not seen:
        raise InputError(f"{path}: no traces; make them with `synthpert traces generate`")


def parse_trace(line: bytes, path: Path, row: int) -> tuple[Trace, Answer]:
    """Read and check one line, and parse its completion. The messages of errors name `path` and `row`."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, row {row}: not UTF-8 text ({error.reason}); generate the traces again") from None
    except (ValueError, RecursionError) as error:
        message = getattr(error, "msg", type(error).__name__)
        raise InputError(
            f"{path}, row {row}: not JSON ({message}); the line is torn, generate the traces again"
        ) from None
    if not isinstance(record, dict) or record.keys() != _NAMES:
        keys = set(record) if isinstance(record, dict) else set()
        raise _error(path, row, f"keys differ from a trace's in {', '.join(sorted(keys ^ _NAMES))}")
    trace = Trace(**record)
    for name in _TEXTS:
        if not isinstance(record[name], str):
            raise _error(path, row, f"{name} is no text; remove the row")
    if not (isinstance(trace.prompt, list) and trace.prompt and all(map(_is_message, trace.prompt))):
        raise _error(path, row, "prompt is no list of messages; remove the row")
    if not isinstance(trace.protocol, dict) or not (trace.critic is None or isinstance(trace.critic, dict)):
        raise _error(path, row, "protocol or critic is no mapping; remove the row")
    if trace.critic and trace.critic.get("given", "no") not in ("yes", "no"):
        raise _error(path, row, f"critic's `given` is {trace.critic['given']!r}; write yes or no, or remove it")
    if not isinstance(trace.label, str) or trace.label not in _LABELS:
        as_label(trace.label, f"{path}, row {row}: label")
    if trace.mode not in MODES:
        raise _error(path, row, f"mode {trace.mode!r} is unknown; use {' or '.join(MODES)}")
    answer = as_label(trace.answer, f"{path}, row {row}: answer") if trace.answer else None
    parsed = parse_answer(trace.completion)
    if parsed.label != answer:
        raise _error(path, row, f"the completion does not give the answer {trace.answer!r}; remove the row")
    return trace, parsed


def treats_as_given(trace: Trace) -> bool | None:
    """Return whether a critic found that a trace treats its answer as given, None where no critic said."""
    given = (trace.critic or {}).get("given")
    return None if given is None else given == "yes"


def learnt_text(trace: Trace, answer: Answer) -> str:
    """Return the text that a student learns.

    Args:
        trace: the trace.
        answer: its parsed completion.

    Returns:
        The reasoning. Where the completion gives no label, all of it, without the first of each tag and the final
        label.
    """
    if answer.label is not None:
        return answer.think or ""
    text = _FINAL.sub("\n", trace.completion, count=1)
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        text = text.replace(tag, "\n", 1)
    return text


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str) and isinstance(value.get("role"), str)


def _error(path: Path, row: int, problem: str) -> InputError:
    return InputError(f"{path}, row {row}: {problem}")
