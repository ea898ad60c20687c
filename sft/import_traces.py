"""Import traces of others: SynthPert's CSV, JSONL or Parquet with messages, a data set of the Hugging Face hub.

Every row that is refused is written to a rejects file with the reason.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pandas as pd

from benchmarks.chat import Message, join_think, split_think
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.files import disk_errors, file_sha256
from benchmarks.messages import MessageError, looks_like_messages, read_last_reply, read_messages, read_thinking
from benchmarks.tables import KINDS, BrokenRow, Row, check_kind, iter_rows, label_words, normalize_word
from rewards import LABELS, InputError, parse_answer
from sft.teacher.critic import GIVEN, VERDICTS
from sft.teacher.outcomes import Outcomes, write_manifest
from sft.traces import MODES, Trace, prompt_protocol, write_traces

# Our names of columns, and the names they may have in a source. Of several, the first that a row has is read.
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "pert": ("pert", "perturbation"),
    "gene": ("gene",),
    "cell_line": ("cell_line", "cell_type"),
    "label": ("label", "true_answer", "solution"),
    "messages": ("messages", "conversations"),
    "prompt": ("prompt", "user_prompt"),
    "system": ("system", "system_prompt"),
    "completion": ("completion", "assistant_response"),
    "thinking": ("generated_thinking", "reasoning_content", "reasoning", "thinking"),
    "answer": ("generated_answer",),
    "critic": ("critic",),
    "verdict": ("critic_evaluation", "verdict"),
    "reason": ("critic_reasoning", "reason"),
    "teacher": ("teacher",),
    "mode": ("mode",),
    "created": ("created",),
    "protocol": ("protocol",),
}
# Suffixes of files that are not read. A source with one of them is no data set's id.
_OTHER_SUFFIXES: Final = (
    ".txt", ".json", ".xlsx", ".xls", ".gz", ".bz2", ".xz", ".zst", ".zip", ".arrow", ".feather",
    ".pkl", ".pickle",
)  # fmt: skip
_CHAT: Final = ("prompt", "system", "completion", "thinking", "answer")  # what messages contain as well
_MISSING: Final = ("", "nan")
_NO_VERDICT: Final = ("none", "n/a", "na", "null")
_COMMIT: Final = re.compile(r"@([0-9a-f]{40})/")
_BATCH: Final = 2000  # traces whose prompts are built at once
_HEAD: Final = 1000  # rows whose keys make up the columns, because a JSON row leaves out missing values


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        path: the file of traces.
        rejects: the file of refused rows with their reasons.
        rows: number of rows read.
        kept: number of rows that became traces.
        reasons: number of refused rows by reason.
    """

    path: Path
    rejects: Path
    rows: int
    kept: int
    reasons: dict[str, int]


class _RefusedError(ValueError):
    """A row cannot become a trace; the message is the reason."""


def import_traces(
    source: str,
    output: Path,
    corpus: Corpus,
    *,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    prompts: PromptConfig | None = None,
    teacher: str = "imported",
    mode: str = "blind",
    dataset_split: str | None = None,
) -> Imported:
    """Import traces that were not made by `traces generate`.

    Args:
        source: a `.csv` (with commas, semicolons or tabs), `.jsonl` or `.parquet` file, or the id (or folder) of a
            Hugging Face data set.
        output: JSONL file of traces to write. `.rejects.jsonl` beside it gets the refused rows, `.manifest.json` the
            number of items by line and label. An existing file stays if no row is accepted.
        corpus: labels and split. A row must be a training item, and its label, if it has one, must be the data's.
        columns: our names of columns (`COLUMNS`) to theirs.
        labels: their words for labels, in `label` and `answer`, to ours. Letter case does not matter.
        prompts: settings of prompts of our template, which replace theirs; None keeps theirs. Reasoning that was
            written for another prompt may mention what our prompt does not say.
        teacher, mode: for rows that do not name them.
        dataset_split: split of a data set, `train` by default; not for a file.

    Returns:
        The files, and how many rows were read, kept and refused.

    Raises:
        InputError: the source does not exist or cannot be read, a column or label is unknown or missing, or no row is
            accepted.
    """
    columns, labels = columns or {}, labels or {}
    _check_settings(columns, labels, mode)
    path, rejects = Path(source), output.with_name(f"{output.name}.rejects.jsonl") if output.name else output
    if output.is_dir():
        raise InputError(f"{output}: is a folder; give a file, such as runs/traces/imported.jsonl")
    if path.resolve() in (output.resolve(), rejects.resolve()):
        raise InputError(f"{output}: it or its rejects file is the source; give another output")
    names = {ours: (columns[ours],) if ours in columns else theirs for ours, theirs in COLUMNS.items()}
    facts, records = _open(source, path, dataset_split, {one for theirs in names.values() for one in theirs})
    head = list(islice(records, _HEAD))
    if keys := {key: None for _, record in head if isinstance(record, dict) for key in record}:
        _check_columns(list(keys), names, columns, source)
        there = {ours for ours, theirs in names.items() if any(name in keys for name in theirs)}
        _check_effect(columns, labels, there, ours_prompts=prompts is not None)
    reader = _Reader(names, columns, labels, corpus, prompts, teacher, mode, facts)
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with rejects.open("wb") as file:
            sorter = _Sorter(reader, file)
            traces = sorter.accepted(chain(head, records))
            traces = traces if prompts is None else _with_our_prompts(traces, corpus, prompts)
            first = next(traces, None)  # before the output is touched
            unused = _refuse_unused(labels, reader)
            kept = 0 if first is None else write_traces(chain((first,), traces, unused), output)
    if not kept:
        found = ", ".join(f"{reason} ({count})" for reason, count in sorter.reasons.most_common(3))
        raise InputError(
            f"{source}: none of {sorter.rows} rows is a trace: {found or 'the file is empty'}; see {rejects}"
        )
    told = {**facts, "rows": sorter.rows, "refused": dict(sorter.reasons)}
    write_manifest(output, Outcomes(cells=reader.cells), told)
    return Imported(output, rejects, sorter.rows, kept, dict(sorter.reasons.most_common()))


def _check_settings(columns: Mapping[str, str], labels: Mapping[str, str], mode: str) -> None:
    """Refuse unknown names of columns, labels and modes."""
    for ours in columns:
        if ours not in COLUMNS:
            raise InputError(f"--map {ours}=…: is no column; use one of {', '.join(COLUMNS)}")
    for theirs, ours in labels.items():
        if ours not in LABELS:
            raise InputError(f"--label {theirs}={ours}: means no label; use one of {', '.join(LABELS)}")
    if mode not in MODES:
        raise InputError(f"mode: {mode!r} is unknown; use {' or '.join(MODES)}")


def _check_columns(
    found: Sequence[str], names: Mapping[str, Sequence[str]], mapped: Mapping[str, str], source: str
) -> None:
    for ours, theirs in mapped.items():
        if theirs not in found:
            raise InputError(f"{source}: has no column {theirs!r} (--map {ours}={theirs}); it has {', '.join(found)}")
    for ours in ("pert", "gene", "cell_line"):
        if not any(name in found for name in names[ours]):
            raise InputError(
                f"{source}: has no column {ours!r}; name it by --map {ours}=COLUMN (it has {', '.join(found)})"
            )


def _check_effect(
    columns: Mapping[str, str], labels: Mapping[str, str], there: Collection[str], *, ours_prompts: bool
) -> None:
    """Refuse columns and labels that are named but would not be read.

    Args:
        columns, labels: see `import_traces`.
        there: our names of the columns that the source has.
        ours_prompts: whether our template replaces the prompts.
    """
    for ours in columns:
        if "messages" in there and ours in _CHAT:
            problem = "the messages hold the whole chat; leave it out, or take their column out"
        elif ours_prompts and ours in ("prompt", "system", "protocol"):
            problem = "--prompts ours writes it anew; leave it out"
        elif ours == "answer" and "thinking" not in there:
            problem = "goes with thinking; a completion has its answer in itself"
        elif ours == "thinking" and not {"answer", "completion"} & set(there):
            problem = "goes with answer or completion; name its column, too"
        elif ours == "reason" and not {"verdict", "critic"} & set(there):
            problem = "goes with a verdict; name its column, too"
        else:
            continue
        raise InputError(f"--map {ours}={columns[ours]}: {problem}")
    if labels and not {"label", "answer"} & set(there):
        theirs, ours = next(iter(labels.items()))
        raise InputError(f"--label {theirs}={ours}: there is no column of labels or answers; leave it out")


def _refuse_unused(labels: Mapping[str, str], reader: "_Reader") -> Iterator[Trace]:
    """Yield nothing. Raise, after the last row, if no row has the word of a `--label`."""
    for theirs, ours in labels.items():
        if normalize_word(theirs) not in reader.words:
            raise InputError(f"--label {theirs}={ours}: no row has it as a label or an answer; leave it out")
    yield from ()


def _with_our_prompts(traces: Iterator[Trace], corpus: Corpus, config: PromptConfig) -> Iterator[Trace]:
    """Replace prompts by those of our template, and add the keys of generated traces to the protocol."""
    index = pd.Index(corpus.labels["item_id"])
    made = prompt_protocol(config, corpus)
    while batch := list(islice(traces, _BATCH)):
        items = corpus.labels.iloc[index.get_indexer(pd.Index([trace.item_id for trace in batch]))]
        for trace, prompt in zip(batch, build_prompts(items, corpus, config), strict=True):
            yield replace(trace, prompt=prompt, protocol={**trace.protocol, **made})


class _Sorter:
    """Yields the traces of rows, and writes the refused rows to a file.

    Attributes:
        rows: number of rows read.
        reasons: number of refused rows by reason.
    """

    def __init__(self, reader: "_Reader", rejects: BinaryIO) -> None:
        self._reader, self._rejects = reader, rejects
        self.rows = 0
        self.reasons: Counter[str] = Counter()

    def accepted(self, records: Iterable[Row]) -> Iterator[Trace]:
        """Yield the trace of each row that is not refused."""
        for row, record in records:
            self.rows += 1
            try:
                if isinstance(record, BrokenRow):
                    raise _RefusedError(record.reason)
                yield self._reader.trace(row, record)
            except _RefusedError as error:
                self._refuse(row, record.content if isinstance(record, BrokenRow) else record, str(error))

    def _refuse(self, row: int, record: Any, reason: str) -> None:
        self.reasons[reason.partition(": ")[0]] += 1
        line = {"row": row, "reason": reason, "record": record}
        self._rejects.write(json.dumps(line, default=str).encode("ascii") + b"\n")


class _Reader:
    """Makes traces of rows.

    Attributes:
        cells: by `line|label`, the number of training items in the rows (`drawn`), refused rows included.
        words: the words for labels that occurred.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[str]],
        mapped: Mapping[str, str],
        labels: Mapping[str, str],
        corpus: Corpus,
        prompts: PromptConfig | None,
        teacher: str,
        mode: str,
        facts: Mapping[str, Any],
    ) -> None:
        self._names, self._teacher, self._mode, self._prompts = names, teacher, mode, prompts
        self._mapped = mapped
        self._labels = label_words(labels)
        self._index = pd.Index(corpus.labels["item_id"])
        self._lines = corpus.line_names
        self._label = corpus.labels["label"].astype("str").to_numpy()
        self._in_test = (corpus.labels["split"] == "test").to_numpy()
        self._split = corpus.split
        # The split under which their prompt was written is unknown unless the row names it.
        split = "imported_under" if prompts is None else "split"
        self._protocol = {**facts, split: corpus.split, "data": corpus.digest, "train_items": len(corpus.train)}
        self._drawn: set[str] = set()
        self._seen: dict[str, int] = {}
        self._created = datetime.now(UTC).isoformat(timespec="seconds")
        self.cells: dict[str, Counter[str]] = {}
        self.words: set[str] = set()

    def trace(self, row: int, record: Mapping[str, Any]) -> Trace:
        """Return the trace of a row, or raise the reason why there is none."""
        said = (self._value(record, column) for column in ("label", "answer"))
        self.words.update(
            word for one in said if isinstance(one, str) and (word := normalize_word(one)) in self._labels
        )
        pert, gene = self._symbol(record, "pert"), self._symbol(record, "gene")
        named = self._symbol(record, "cell_line")
        line = self._lines.get(named.casefold())
        if line is None:
            raise _RefusedError(f"unknown cell line: {named.lower()!r}")
        item_id = f"{line}|{pert}|{gene}"
        true = self._true_label(item_id)
        if item_id not in self._drawn:
            self._drawn.add(item_id)
            self.cells.setdefault(f"{line}|{true}", Counter())["drawn"] += 1
        self._check_label(record, true)
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
            label=true,
            prompt=prompt,
            completion=completion,
            answer=None if answer.label is None else str(answer.label),
            teacher=self._text(record, "teacher") or self._teacher,
            mode=cast(Any, mode),
            critic=self._critic(record),
            created=self._text(record, "created") or self._created,
            protocol=self._own_protocol(record),
        )
        self._seen[item_id] = row  # not for a refused row: a later row may be of the same item
        return trace

    def _true_label(self, item_id: str) -> str:
        """Return the data's label of a training item; refuse any other item."""
        at = self._index.get_indexer([item_id])[0]
        if at < 0:
            raise _RefusedError(f"item is not in the labels: {item_id}")
        if self._in_test[at]:
            raise _RefusedError(f"item is in test under split {self._split}: {item_id}")
        return str(self._label[at])

    def _check_label(self, record: Mapping[str, Any], true: str) -> None:
        """Refuse a label that is not the data's, or that our prompts do not offer."""
        label = self._label_in(record, "label")
        if label is not None and label != true:
            raise _RefusedError(f"label is not the data's: {label!r}, not {true!r}")
        if self._prompts is not None and self._prompts.template == "direction" and true == LABELS[-1]:
            raise _RefusedError("label is none that a direction prompt offers")

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
        return None if value is None or value.strip().casefold() in _MISSING else value

    def _symbol(self, record: Mapping[str, Any], column: str) -> str:
        value = self._value(record, column)
        if not isinstance(value, str):
            raise _RefusedError(f"{column} is {'missing' if value is None else 'no text'}")
        if not value.strip():
            raise _RefusedError(f"{column} is missing")
        return value.strip()  # NA and NAN are symbols, not missing values

    def _label_in(self, record: Mapping[str, Any], column: str) -> str | None:
        value = self._value(record, column)
        if isinstance(value, str) and (ours := self._labels.get(normalize_word(value))):
            return ours
        text = self._text(record, column)
        if text is None:
            return None
        raise _RefusedError(f"{column} is no label, say what it means by --label THEIRS=OURS: {text[:60]!r}")

    def _chat(self, record: Mapping[str, Any]) -> tuple[list[Message], str]:
        messages = self._value(record, "messages")
        if messages is not None:
            *prompt, last = _read_messages(messages)
            if last["role"] != "assistant" or not prompt:
                raise _RefusedError("messages do not end in a reply: the last one must be the assistant's")
            return prompt, last["content"]
        value = self._value(record, "prompt")
        if value is None or (isinstance(value, str) and not value):
            if self._prompts is None:
                raise _RefusedError("prompt is missing, which --prompts ours would build")
            return [], self._completion(record)
        plain = isinstance(value, str) and not looks_like_messages(value)
        prompt = [{"role": "user", "content": value}] if plain else _read_messages(value)
        if (system := self._text(record, "system")) is not None:
            prompt = [{"role": "system", "content": system}, *prompt]
        return prompt, self._completion(record)

    def _completion(self, record: Mapping[str, Any]) -> str:
        thinking, answer = self._thinking(record), self._label_in(record, "answer")
        if thinking is not None and answer is not None:
            completion = f"<think>{thinking.strip()}</think><answer>{answer}</answer>"
            if parse_answer(completion).label != answer:
                raise _RefusedError("thinking holds tags")
            return completion
        value = self._value(record, "completion")
        nested = isinstance(value, list | Mapping) or hasattr(value, "tolist")
        if nested or (isinstance(value, str) and looks_like_messages(value)):  # TRL's conversational form
            try:
                value = read_last_reply(value).whole
            except MessageError as error:
                raise _RefusedError(str(error)) from None
        if not isinstance(value, str) or value.strip().casefold() in _MISSING:
            raise _RefusedError("completion is missing")
        return value if thinking is None else self._with_thinking(thinking, value)

    def _thinking(self, record: Mapping[str, Any]) -> str | None:
        """Return the thinking in a column of its own, as text or in parts. A flag under such a name is no thinking."""
        value = self._value(record, "thinking")
        if value is None or isinstance(value, str) or "thinking" in self._mapped:
            return self._text(record, "thinking")
        return read_thinking({"thinking": value}) or None

    def _with_thinking(self, thinking: str, completion: str) -> str:
        """Put thinking from a column of its own in front of the completion, unless the completion contains it."""
        own, _ = split_think(completion)
        holds_it = own is not None and ("thinking" not in self._mapped or own.strip() == thinking.strip())
        return completion if holds_it else join_think(thinking, completion)

    def _critic(self, record: Mapping[str, Any]) -> dict[str, str] | None:
        own = self._value(record, "critic")
        said = own if isinstance(own, str) and "{" not in own else None  # a verdict by itself
        if said is None and (graded := self._mapping(record, "critic")) is not None:
            critic = {str(key): str(value) for key, value in graded.items() if value is not None}
            for ours in ("verdict", "reason"):
                if ours in self._mapped:
                    raise _RefusedError(f"critic holds it, leave out --map {ours}={self._mapped[ours]}")
        else:
            verdict = self._text(record, "verdict") or said or ""
            critic = {"verdict": verdict, "reason": self._text(record, "reason") or ""}
        verdict = critic.get("verdict", "").strip("*\"'`. \n").lower()
        if not verdict or verdict in _NO_VERDICT:
            return None
        if verdict not in VERDICTS:
            raise _RefusedError(f"unknown verdict: {verdict!r}")
        if "given" in critic:
            critic["given"] = critic["given"].strip("*\"'`. \n").lower()
            if critic["given"] not in GIVEN:
                raise _RefusedError(f"critic's `given` is neither yes nor no: {critic['given']!r}")
        return {**critic, "verdict": verdict}

    def _mapping(self, record: Mapping[str, Any], column: str) -> dict[str, Any] | None:
        value = self._value(record, column)
        if isinstance(value, str):
            if value.strip().casefold() in (*_MISSING, *_NO_VERDICT):
                return None
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise _RefusedError(f"{column} is no JSON object") from None
        if value is not None and not isinstance(value, dict):
            raise _RefusedError(f"{column} is no JSON object")
        return value

    def _own_protocol(self, record: Mapping[str, Any]) -> dict[str, Any]:
        own = self._mapping(record, "protocol")
        if self._prompts is not None or own is None:
            return self._protocol
        own = {key: value for key, value in own.items() if value is not None}  # Parquet adds keys of other rows
        if own.get("split", self._split) != self._split:
            raise _RefusedError(f"prompt was made under another split: {own['split']}")
        return {**self._protocol, **own}


def _read_messages(value: Any) -> list[Message]:
    try:
        return [{"role": one.role, "content": one.whole} for one in read_messages(value)]
    except MessageError as error:
        raise _RefusedError(str(error)) from None


def _open(
    source: str, path: Path, dataset_split: str | None, used: Collection[str]
) -> tuple[dict[str, Any], Iterator[Row]]:
    """Return facts on the source, and an iterator over each row's number (as an editor counts lines) and values."""
    if path.suffix.lower() in (*KINDS, *_OTHER_SUFFIXES) or path.is_file():
        check_kind(path)
        if dataset_split is not None:
            raise InputError(f"--dataset-split {dataset_split}: {path} is a file and has no splits; leave it out")
        return {"source": path.name, "source_sha256": file_sha256(path)}, iter_rows(path, used)
    return _read_dataset(source, path, dataset_split or "train")


def _read_dataset(source: str, path: Path, split: str) -> tuple[dict[str, Any], Iterator[Row]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source, split=split)
    except Exception as error:  # the library raises many kinds; all mean that the data set cannot be loaded
        raise InputError(
            f"{source}: cannot be loaded as a data set ({' '.join(str(error).split())[:200]}); give a .csv, .jsonl or "
            ".parquet file, or check the id and the network"
        ) from None
    commits = {match[1] for file in rows.info.download_checksums or () if (match := _COMMIT.search(str(file)))}
    facts = {
        "source": path.name if path.exists() else source,
        "source_split": split,
        "source_fingerprint": rows._fingerprint,
        "source_revision": commits.pop() if len(commits) == 1 else None,
    }
    return facts, ((row, dict(record)) for row, record in enumerate(rows, start=1))
