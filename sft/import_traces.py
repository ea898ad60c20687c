"""Traces from elsewhere: SynthPert's CSV, JSONL or Parquet with messages, a data set of the Hugging Face hub.

A row that is refused goes to a rejects file with its reason; none is dropped in silence.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import pandas as pd

from benchmarks.chat import Message
from benchmarks.corpus import Corpus
from benchmarks.perturbqa import CELL_LINES
from benchmarks.runs import disk_errors, file_sha256
from rewards import InputError, parse_answer
from sft.critic import VERDICTS
from sft.traces import MODES, Trace, write_traces

# Ours, and what else a column is called; the first one that a row has is taken.
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "pert": ("pert", "perturbation"),
    "gene": ("gene",),
    "cell_line": ("cell_line", "cell_type"),
    "label": ("label", "true_answer", "solution"),
    "messages": ("messages", "conversations"),
    "prompt": ("prompt", "user_prompt"),
    "system": ("system", "system_prompt"),
    "completion": ("completion", "assistant_response"),
    "thinking": ("generated_thinking",),
    "answer": ("generated_answer",),
    "verdict": ("critic_evaluation", "verdict"),
    "reason": ("critic_reasoning", "reason"),
    "teacher": ("teacher",),
    "mode": ("mode",),
    "created": ("created",),
}


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        path, rejects: the traces, and the refused rows with their reasons.
        rows: read; `kept` of them became traces.
        reasons: how often each reason occurred.
    """

    path: Path
    rejects: Path
    rows: int
    kept: int
    reasons: dict[str, int]


class _RefusedError(ValueError):
    """Why a row becomes no trace."""


def import_traces(
    source: str,
    output: Path,
    corpus: Corpus,
    *,
    columns: Mapping[str, str] | None = None,
    teacher: str = "imported",
    mode: str = "blind",
    dataset_split: str = "train",
) -> Imported:
    """Read traces of another making.

    Args:
        source: a `.csv`, `.jsonl` or `.parquet` file, or the id (or folder) of a Hugging Face data set.
        output: JSONL file of traces; `.rejects.jsonl` beside it gets the rows that were refused.
        corpus: labels and split; a row must be a training item, and its label, where it has one, the data's.
        columns: ours to theirs, of the names in `COLUMNS`.
        teacher, mode: for rows that do not say.
        dataset_split: split of a data set from the hub.

    Raises:
        InputError: the source is not there or not readable, a column is unknown or missing, or no row is accepted.
    """
    for ours in columns or {}:
        if ours not in COLUMNS:
            raise InputError(f"--map {ours}=…: is no column; use one of {', '.join(COLUMNS)}")
    if mode not in MODES:
        raise InputError(f"mode: {mode!r} is unknown; use {' or '.join(MODES)}")
    names = {ours: ((columns or {})[ours],) if ours in (columns or {}) else theirs for ours, theirs in COLUMNS.items()}
    path = Path(source)
    is_file = path.suffix.lower() in (".csv", ".jsonl", ".parquet")
    protocol = {
        "source": path.name if is_file or path.exists() else source,
        "source_sha256": file_sha256(path) if is_file and path.is_file() else None,
        "split": corpus.split, "data": corpus.digest, "train_items": len(corpus.train),
    }  # fmt: skip
    reader = _Reader(names, corpus, teacher, mode, protocol)
    rejects = output.with_name(f"{output.name}.rejects.jsonl")
    reasons: Counter[str] = Counter()
    rows = 0
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with rejects.open("wb") as refused:

            def accepted() -> Iterator[Trace]:
                nonlocal rows
                for rows, (row, record) in enumerate(_read(source, path, dataset_split), start=1):
                    try:
                        if isinstance(record, str):
                            raise _RefusedError(record)
                        if rows == 1:
                            _check_columns(record, names, columns or {}, source)
                        yield reader.trace(row, record)
                    except _RefusedError as error:
                        reason = str(error)
                        reasons[reason.partition(":")[0]] += 1
                        line = {"row": row, "reason": reason, "record": None if isinstance(record, str) else record}
                        refused.write(json.dumps(line, default=str).encode("ascii") + b"\n")

            kept = write_traces(accepted(), output)
    if not kept:
        output.unlink()
        found = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        raise InputError(f"{source}: none of {rows} rows is a trace: {found or 'the file is empty'}; see {rejects}")
    return Imported(output, rejects, rows, kept, dict(reasons.most_common()))


def _check_columns(
    record: Mapping[str, Any], names: Mapping[str, Sequence[str]], mapped: Mapping[str, str], source: str
) -> None:
    for ours, theirs in mapped.items():
        if theirs not in record:
            raise InputError(f"{source}: has no column {theirs!r} (--map {ours}={theirs}); it has {', '.join(record)}")
    for ours in ("pert", "gene", "cell_line"):
        if not any(name in record for name in names[ours]):
            raise InputError(
                f"{source}: has no column {ours!r}; name it by --map {ours}=COLUMN (it has {', '.join(record)})"
            )


class _Reader:
    """Makes traces of rows."""

    def __init__(
        self, names: Mapping[str, Sequence[str]], corpus: Corpus, teacher: str, mode: str, protocol: dict[str, Any]
    ) -> None:
        self._names, self._teacher, self._mode, self._protocol = names, teacher, mode, protocol
        self._index = pd.Index(corpus.labels["item_id"])
        self._label = corpus.labels["label"].astype("str").to_numpy()
        self._in_test = (corpus.labels["split"] == "test").to_numpy()
        self._split = corpus.split
        self._seen: dict[str, int] = {}
        self._created = datetime.now(UTC).isoformat(timespec="seconds")

    def trace(self, row: int, record: Mapping[str, Any]) -> Trace:
        """Return the trace in a row, or raise why there is none."""
        pert, gene = self._symbol(record, "pert"), self._symbol(record, "gene")
        line = self._symbol(record, "cell_line").lower()
        if line not in CELL_LINES:
            raise _RefusedError(f"unknown cell line: {line!r}")
        item_id = f"{line}|{pert}|{gene}"
        at = self._index.get_indexer([item_id])[0]
        if at < 0:
            raise _RefusedError(f"item is not in the labels: {item_id}")
        if self._in_test[at]:
            raise _RefusedError(f"item is in test under split {self._split}: {item_id}")
        label = self._text(record, "label")
        if label is not None and label.strip() != self._label[at]:
            raise _RefusedError(f"label is not the data's: {label.strip()!r}, not {self._label[at]!r}")
        prompt, completion = self._chat(record)
        answer = parse_answer(completion)
        mode = self._text(record, "mode") or self._mode
        if mode not in MODES:
            raise _RefusedError(f"unknown mode: {mode!r}")
        if item_id in self._seen:
            raise _RefusedError(f"item occurs twice: {item_id}, first in row {self._seen[item_id]}")
        trace = Trace(
            item_id=item_id,
            cell_line=line,
            pert=pert,
            gene=gene,
            label=str(self._label[at]),
            prompt=prompt,
            completion=completion,
            answer=None if answer.label is None else str(answer.label),
            teacher=self._text(record, "teacher") or self._teacher,
            mode=cast(Any, mode),
            critic=self._critic(record),
            created=self._text(record, "created") or self._created,
            protocol=self._protocol,
        )
        self._seen[item_id] = row  # a refused row does not take its item from a later one
        return trace

    def _value(self, record: Mapping[str, Any], column: str) -> Any:
        for name in self._names[column]:
            value = record.get(name)
            if value is not None and not (isinstance(value, float) and value != value):
                return value
        return None

    def _text(self, record: Mapping[str, Any], column: str) -> str | None:
        value = self._value(record, column)
        if value is not None and not isinstance(value, str):
            raise _RefusedError(f"{column} is no text: {type(value).__name__}")
        return value or None

    def _symbol(self, record: Mapping[str, Any], column: str) -> str:
        text = (self._text(record, column) or "").strip()
        if not text:
            raise _RefusedError(f"{column} is missing")
        return text

    def _chat(self, record: Mapping[str, Any]) -> tuple[list[Message], str]:
        messages = self._value(record, "messages")
        if messages is not None:
            *prompt, last = self._messages(messages)
            if last["role"] != "assistant" or not prompt:
                raise _RefusedError("messages do not end in a reply: the last one must be the assistant's")
            return prompt, last["content"]
        value = self._value(record, "prompt")
        if value is None or (isinstance(value, str) and not value):
            raise _RefusedError("prompt is missing")
        prompt = [{"role": "user", "content": value}] if isinstance(value, str) else self._messages(value)
        if (system := self._text(record, "system")) is not None:
            prompt = [{"role": "system", "content": system}, *prompt]
        return prompt, self._completion(record)

    def _messages(self, value: Any) -> list[Message]:
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise _RefusedError("messages are no list") from None
        if not isinstance(value, list) or not value:
            raise _RefusedError("messages are no list")
        found: list[Message] = []
        for message in value:
            role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
            if role not in ("system", "user", "assistant") or not isinstance(content, str):
                raise _RefusedError("a message has no role or no text")
            found.append({"role": role, "content": content})
        return found

    def _completion(self, record: Mapping[str, Any]) -> str:
        thinking, answer = self._text(record, "thinking"), self._text(record, "answer")
        if thinking is not None and answer is not None:
            return f"<think>{thinking.strip()}</think><answer>{answer.strip()}</answer>"
        value = self._value(record, "completion")
        if isinstance(value, list):  # TRL's conversational form
            value = self._messages(value)[-1]["content"]
        if not isinstance(value, str) or not value:
            raise _RefusedError("completion is missing")
        return value

    def _critic(self, record: Mapping[str, Any]) -> dict[str, str] | None:
        verdict = (self._text(record, "verdict") or "").strip().lower()
        if not verdict:
            return None
        if verdict not in VERDICTS:
            raise _RefusedError(f"unknown verdict: {verdict!r}")
        return {"verdict": verdict, "reason": self._text(record, "reason") or ""}


def _read(source: str, path: Path, dataset_split: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each row's number, as an editor counts lines, and its values, or why it cannot be read."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".jsonl", ".parquet") and not path.is_file():
        raise InputError(f"{path}: no such file")
    if suffix == ".csv":
        yield from _read_csv(path)
    elif suffix == ".jsonl":
        yield from _read_jsonl(path)
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                batches = (record for batch in file.iter_batches(1024) for record in batch.to_pylist())
                yield from enumerate(batches, start=1)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: no Parquet file ({str(error)[:120]})") from None
    else:
        yield from _read_dataset(source, dataset_split)


def _read_csv(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    csv.field_size_limit(2**31 - 1)  # reasoning can be longer than the module's default of 128 kB
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not reader.fieldnames:
                raise InputError(f"{path}: the file is empty")
            row = 2
            for record in reader:
                broken = None in record or None in record.values()
                text = f"row has {'more' if None in record else 'fewer'} values than the header"
                yield row, text if broken else {str(key): value for key, value in record.items()}
                row = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from None


def _read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError:
                yield row, "not UTF-8 text"
            except (ValueError, RecursionError):
                yield row, "not JSON"
            else:
                yield row, record if isinstance(record, dict) else "not an object"


def _read_dataset(source: str, split: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source, split=split)
    except Exception as error:  # the library raises many kinds, all of which mean that it is not to be had
        raise InputError(
            f"{source}: cannot be loaded as a data set ({' '.join(str(error).split())[:200]}); give a .csv, .jsonl or "
            ".parquet file, or check the id and the network"
        ) from None
    for row, record in enumerate(rows, start=1):
        yield row, dict(record)
