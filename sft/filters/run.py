"""Filter a file of traces by the steps of a configuration, and count what each step drops.

The lines that pass are copied byte for byte. Several processes read a large file.
"""

import itertools
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks.config import name_out, parse_yaml, read_yaml
from benchmarks.files import write_text
from benchmarks.keys import check_keys, from_keys, key_fields
from rewards import Answer, CheckError, InputError
from rewards.timeout import without_main
from sft.filters.near_duplicates import HASHES, digest, mask, sketch
from sft.filters.steps import Check, Features, Rows, Step, read_step, read_steps
from sft.traces import Trace, iter_traces, parse_trace, write_lines

_PART_BYTES: Final = 32 * 1024 * 1024  # part of a file that one process reads at a time
_BATCH_BYTES: Final = 256 * 1024  # hashed at once; this fits into a processor's cache
_COLUMNS: Final = ("item_id", "label", "pert", "gene")


@dataclass
class FilterArguments:
    """The keys of a filter's configuration."""

    input: str = field(metadata={"help": "JSONL file of all traces"})
    output: str = field(metadata={"help": "JSONL file to write, of the traces that pass"})
    steps: Any = field(metadata={"help": "list of the steps; see docs/traces.md"})
    seed: int = field(default=0, metadata={"help": "seed of the steps that draw"})


def filter_traces(path: Path, output: Path, steps: Sequence[Step]) -> dict[str, Any]:
    """Filter a file of traces.

    Args:
        path: the traces.
        output: JSONL file to write, of the traces that pass, in the same order. `.funnel.json` beside it holds what is
            returned.
        steps: from `read_steps`.

    Returns:
        `{"input", "rows", "steps": [{"step", "setting", "left", "dropped", "reasons"}], "kept"}`.

    Raises:
        InputError: a line is no trace, no trace passes, or the output is a folder or the input.
    """
    if output.is_dir():
        raise InputError(f"{output}: is a folder; give a file, such as runs/traces/kept.jsonl")
    if output.resolve() == path.resolve():
        raise InputError(f"{output}: is the input; give another output")
    features, refused = _scan(path, steps)
    n = len(features.item_id)
    rows, told = _apply(steps, features, refused)
    if not len(rows):
        worst = max(told, key=lambda one: int(one["dropped"]))
        raise InputError(
            f"{path}: none of {n} traces passes; step {worst['step']} dropped {worst['dropped']} "
            f"({', '.join(list(worst['reasons'])[:3])})"
        )
    keep = np.zeros(n, dtype=bool)
    keep[rows] = True
    funnel = {"input": path.name, "rows": n, "steps": told, "kept": len(rows)}
    with path.open("rb") as file:
        write_lines((line for line, use in zip(file, keep, strict=True) if use), output)
    write_text(filter_file(output), json.dumps(funnel, indent=2) + "\n")
    return funnel


def _apply(
    steps: Sequence[Step], features: Features, refused: dict[int, dict[int, str]]
) -> tuple[Rows, list[dict[str, Any]]]:
    """Return the rows that pass all steps, and what each step dropped.

    Args:
        steps: the steps.
        features: of all traces.
        refused: by number of a step with a check, the refused rows and why.
    """
    rows: Rows = np.arange(len(features.item_id))
    told: list[dict[str, Any]] = []
    for number, step in enumerate(steps):
        before = rows
        reasons: Counter[str] = Counter()
        if step.check is not None:
            found = refused[number]
            rows = np.array([row for row in rows if row not in found], dtype=np.intp) if found else rows
            reasons.update(found[row] for row in before if row in found)
        elif step.select is not None:
            rows = step.select(features, rows) if len(rows) else rows
            if len(rows) < len(before):
                reasons[step.name] = len(before) - len(rows)
        told.append(
            {"step": step.name, "setting": step.value, "left": len(rows), "dropped": len(before) - len(rows),
             "reasons": dict(reasons.most_common(20))}
        )  # fmt: skip
    return rows, told


def filter_file(path: Path) -> Path:
    """Return the path of the funnel beside a filtered file."""
    return path.with_name(f"{path.name}.funnel.json")


def run_filter(config: Path, overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """Filter traces by a configuration.

    Args:
        config: YAML file with the keys of `FilterArguments`.
        overrides: words of the command line, `--key value` or `--key=value`, which take precedence over the file.

    Returns:
        The output and the funnel; see `filter_traces`.

    Raises:
        InputError: a key is unknown or missing, or for the reasons of `read_steps` and `filter_traces`.
    """
    values = read_yaml(config)
    known = list(key_fields(FilterArguments))
    given = _read_overrides(name_out(overrides, known))
    check_keys(list(given), known, "command line")
    args: FilterArguments = from_keys(FilterArguments, values | given, str(config))
    output = Path(args.output)
    return output, filter_traces(Path(args.input), output, read_steps(args.steps, args.seed, f"{config}: steps"))


def _read_overrides(words: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        key, equals, value = word.partition("=")
        text = value if equals else next(left, None)
        if not key.startswith("--") or text is None:
            raise InputError(f"command line: {word!r}; give --key value")
        key = key[2:]
        try:
            given[key] = text if key in ("input", "output") else parse_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(f"command line: --{key} is not YAML ({' '.join(str(error).split())[:100]})") from None
    return given


@dataclass(frozen=True)
class _Part:
    """What was read between two offsets of a file.

    Attributes:
        columns: by name, the values of all traces.
        lengths: length of each line in bytes.
        digests, signatures: see `Features`.
        refused: by number of a step, the refused rows of this part and why.
    """

    columns: dict[str, list[str]]
    lengths: list[int]
    digests: list[int]
    signatures: list[npt.NDArray[np.uint32]]
    refused: dict[int, dict[int, str]]


def _scan(path: Path, steps: Sequence[Step]) -> tuple[Features, dict[int, dict[int, str]]]:
    """Read the file once: run the checks on every trace, and collect what selections need."""
    try:
        parts = _read_parts(path, [(step.name, step.value) for step in steps])
        columns = {name: list(itertools.chain(*(part.columns[name] for part in parts))) for name in _COLUMNS}
        item_ids = columns["item_id"]
        if not item_ids or len({*item_ids}) < len(item_ids):
            raise InputError(f"{path}: no traces, or one of them twice")
    except InputError:
        for _ in iter_traces(path):  # raises an error that names the row of the file
            pass
        raise
    signatures = [one for part in parts for one in part.signatures]
    features = Features(
        item_ids,
        _codes(columns["label"]),
        _codes(columns["pert"]),
        _codes(columns["gene"]),
        digests=np.array([one for part in parts for one in part.digests], dtype=np.uint64),
        signatures=np.concatenate(signatures) if signatures else np.empty((0, HASHES), dtype=np.uint32),
        text_of=_reasoning_reader(path, [length for part in parts for length in part.lengths]),
    )
    return features, _refused_rows(parts, steps)


def _reasoning_reader(path: Path, lengths: Sequence[int]) -> Callable[[int], bytes]:
    """Return a function that reads the masked reasoning of a row. `lengths` are those of the file's lines, in bytes."""
    offsets = [0, *itertools.accumulate(lengths)]

    def text_of(row: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offsets[row])
            trace, answer = parse_trace(file.readline(), path, row + 1)
        return mask(answer.think or "", (trace.pert, trace.gene))

    return text_of


def _refused_rows(parts: Sequence[_Part], steps: Sequence[Step]) -> dict[int, dict[int, str]]:
    """Return, by number of a step with a check, the refused rows of the whole file and why."""
    refused: dict[int, dict[int, str]] = {number: {} for number, step in enumerate(steps) if step.check is not None}
    start = 0
    for part in parts:
        for number, found in part.refused.items():
            refused[number].update((start + row, reason) for row, reason in found.items())
        start += len(part.lengths)
    return refused


def _read_parts(path: Path, steps: Sequence[tuple[str, Any]]) -> list[_Part]:
    """Read a file in parts, several at a time on several processors."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    bounds = _bounds(path)
    n = min(len(bounds), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if n < 2:
        return [_read_part(path, steps, start, stop) for start, stop in bounds]
    pool = ProcessPoolExecutor(n, multiprocessing.get_context("spawn"), _leave_interrupts)
    try:
        with without_main():
            waiting = [pool.submit(_read_part, path, steps, start, stop) for start, stop in bounds]
        return [one.result() for one in waiting]
    except BrokenProcessPool:
        raise CheckError(f"{path}: a process that was reading it ended by itself; is there enough memory?") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _leave_interrupts() -> None:
    """Ignore Ctrl-C in a worker; the main process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _bounds(path: Path) -> list[tuple[int, int]]:
    """Return the offsets of parts that begin and end with a line."""
    size = path.stat().st_size
    cuts = {0, size}
    with path.open("rb") as file:
        for at in range(_PART_BYTES, size, _PART_BYTES):
            file.seek(at - 1)  # so that a line that begins at `at` stays whole
            file.readline()
            cuts.add(file.tell())
    return list(itertools.pairwise(sorted(cuts)))


def _read_part(path: Path, steps: Sequence[tuple[str, Any]], start: int, stop: int) -> _Part:
    """Read the lines between two offsets, and run the checks on each."""
    made = [read_step(name, value, "", name) for name, value in steps]  # functions cannot be sent to another process
    checks = [(number, step.check) for number, step in enumerate(made) if step.check is not None]
    # The first step `duplicates` sees the most traces; later ones use the same signatures.
    sketch_at = min((number for number, step in enumerate(made) if step.name == "duplicates"), default=-1)
    part = _Part({name: [] for name in _COLUMNS}, [], [], [], {number: {} for number, _ in checks})
    symbols: dict[str, str] = {}
    batch: list[bytes] = []
    batch_bytes = 0
    with path.open("rb") as file:
        file.seek(start)
        left, row = stop - start, 0
        while left > 0:
            line = file.readline()
            trace, answer = parse_trace(line, path, row + 1)
            part.lengths.append(len(line))
            for name, values in part.columns.items():
                value = getattr(trace, name)
                values.append(value if name == "item_id" else symbols.setdefault(value, value))
            gone = len(made)
            if (found := _first_refusal(checks, trace, answer)) is not None:
                gone, reason = found  # what a step refuses does not reach later steps
                part.refused[gone][row] = symbols.setdefault(reason, reason)
            if sketch_at >= 0:
                masked = mask(answer.think or "", (trace.pert, trace.gene)) if gone > sketch_at else b""
                part.digests.append(digest(masked))
                batch.append(masked)
                batch_bytes += len(masked)
                if batch_bytes > _BATCH_BYTES:
                    part.signatures.append(sketch(batch))
                    batch, batch_bytes = [], 0
            left -= len(line)
            row += 1
    if batch:
        part.signatures.append(sketch(batch))
    return part


def _first_refusal(checks: Sequence[tuple[int, Check]], trace: Trace, answer: Answer) -> tuple[int, str] | None:
    """Return the number of the first step that refuses a trace, and why. None if none does."""
    for number, check in checks:
        if (reason := check(trace, answer)) is not None:
            return number, reason
    return None


def _codes(values: list[str]) -> npt.NDArray[np.int32]:
    known: dict[str, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int32)
