"""Filters over traces: plain functions, applied in the order of a configuration, with a count after each.

A check looks at one trace and says why it is refused, or None. A selection looks at all traces that are left and says
which stay. Lines are passed on byte for byte.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import yaml

from benchmarks.runs import disk_errors
from rewards import Answer, InputError
from sft.config import check_keys, read_yaml
from sft.critic import VERDICTS
from sft.leaks import find_foreign, find_leak
from sft.near_duplicates import HASHES, digest, find_duplicates, mask, sketch
from sft.traces import Trace, iter_traces, parse_trace, write_lines

Check: TypeAlias = Callable[[Trace, Answer], str | None]
Rows: TypeAlias = npt.NDArray[np.intp]

_BATCH_BYTES: Final = 256 * 1024  # hashed at once: what fits into a processor's cache


@dataclass(frozen=True)
class Features:
    """What selections look at, of N traces.

    Attributes:
        item_id, label, cell_line, pert, gene: of each trace.
        digests, signatures: of its reasoning, see `sft.near_duplicates`; empty where no step needs them.
        text_of: masked reasoning of the trace at a position.
    """

    item_id: list[str]
    label: npt.NDArray[Any]
    cell_line: npt.NDArray[Any]
    pert: npt.NDArray[Any]
    gene: npt.NDArray[Any]
    digests: npt.NDArray[np.uint64]
    signatures: npt.NDArray[np.uint32]
    text_of: Callable[[int], bytes]


# checks


def parsed(trace: Trace, answer: Answer) -> str | None:
    """Refuse a completion that the strict parser reads no label from, or that has no reasoning."""
    return str(answer.status) if answer.label is None else None if answer.think else "no reasoning"


def label_correct(trace: Trace, answer: Answer) -> str | None:
    """Refuse an answer that is not the true label."""
    return None if answer.label == trace.label else "wrong answer"


def plain_text(trace: Trace, answer: Answer) -> str | None:
    """Refuse what is no plain reasoning; see `sft.leaks.find_foreign`."""
    return find_foreign(answer.think or "")


def no_leak(trace: Trace, answer: Answer) -> str | None:
    """Refuse reasoning that treats its label as given; see `sft.leaks.find_leak`."""
    return None if (found := find_leak(answer.think or "", trace.pert, trace.gene)) is None else f"leak: {found[:40]}"


def verdict_in(verdicts: Sequence[str]) -> Check:
    """Refuse a critic's verdict outside a set, and a trace that nobody graded."""

    def check(trace: Trace, answer: Answer) -> str | None:
        verdict = trace.critic.get("verdict") if trace.critic else None
        return None if verdict in verdicts else "not graded" if verdict is None else f"verdict {verdict}"

    return check


def length_within(shortest: int, longest: int) -> Check:
    """Refuse reasoning of fewer or more characters."""

    def check(trace: Trace, answer: Answer) -> str | None:
        n = len(answer.think or "")
        return "too short" if n < shortest else "too long" if n > longest else None

    return check


def tokens_within(model: str, longest: int) -> Check:
    """Refuse an example that training would refuse: of too many tokens, or not given back by the tokenizer.

    Args:
        model: folder or hub id of the model to train.
        longest: its `max_length`: tokens of prompt, completion and end of turn together.
    """
    from benchmarks.models import resolve_model
    from sft.train import load_tokenizer, tokenize_trace

    tokenizer = load_tokenizer(resolve_model(model).path)

    def check(trace: Trace, answer: Answer) -> str | None:
        try:
            n = len(tokenize_trace(tokenizer, trace).input_ids)
        except InputError as error:
            return str(error).removeprefix(f"{trace.item_id}: ").partition(";")[0]
        return "too many tokens" if n > longest else None

    return check


# selections


def distinct(features: Features, rows: Rows, similarity: float) -> Rows:
    """Keep the first of texts that repeat each other; see `find_duplicates`."""
    repeated = find_duplicates(
        features.digests[rows], features.signatures[rows], similarity, lambda at: features.text_of(int(rows[at]))
    )
    return rows[~repeated]


def balanced(features: Features, rows: Rows, salt: str) -> Rows:
    """Keep as many traces of each label as the rarest one has."""
    counts = Counter(features.label[rows].tolist())
    return capped(features, rows, "label", min(counts.values()), salt) if counts else rows


def capped(features: Features, rows: Rows, column: str, most: int, salt: str) -> Rows:
    """Keep at most so many traces of each value of a column, drawn by `salt`."""
    _, code = np.unique(getattr(features, column)[rows], return_inverse=True)
    order = np.lexsort((draw_order(features, rows, salt), code))
    sorted_code = code[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_code[1:] != sorted_code[:-1]]))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return np.sort(rows[order[rank < most]])


def fraction_of(features: Features, rows: Rows, fraction: float, salt: str) -> Rows:
    """Keep a share, drawn by `salt`; a larger share holds the smaller one."""
    order = np.argsort(draw_order(features, rows, salt), kind="stable")
    return np.sort(rows[order[: round(fraction * len(rows))]])


def draw_order(features: Features, rows: Rows, salt: str) -> npt.NDArray[np.uint64]:
    """Return a random number per row that depends on its item and `salt` only, not on its place in the file."""
    key = salt.encode()
    values = [
        hashlib.blake2b(features.item_id[row].encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
        for row in rows
    ]
    return np.frombuffer(b"".join(values), dtype="<u8")


# configuration


@dataclass(frozen=True)
class Step:
    """One step of a filter: a check or a selection, and how it was configured."""

    name: str
    value: Any
    check: Check | None
    select: Callable[[Features, Rows], Rows] | None


def read_steps(config: Sequence[Any], seed: int, where: str = "steps") -> list[Step]:
    """Read the steps of a configuration.

    Args:
        config: names, or mappings of one name to its setting: `parse`, `label`, `plain`, `leak`,
            `critic: [excellent, good]`, `length: {min: 20, max: 4000}` (characters of reasoning),
            `tokens: {max: 2048, model: FOLDER}` (below a thousand traces a second), `duplicates: 0.9`, `balance`,
            `cap: {gene: 5, pert: 20}`, `fraction: 0.02`.
        seed: of what is drawn.
        where: what to call the list in errors.

    Raises:
        InputError: a step is unknown or its setting out of range.
    """
    if not isinstance(config, Sequence) or isinstance(config, str) or not config:
        raise InputError(f"{where}: no list of steps; write one `- name` a line")
    steps = []
    for number, entry in enumerate(config, start=1):
        at = f"{where}, step {number}"
        if isinstance(entry, Mapping):
            if len(entry) != 1:
                raise InputError(f"{at}: {len(entry)} names; write one step per `-`")
            ((name, value),) = entry.items()
        else:
            name, value = entry, None
        steps.append(_read_step(str(name), value, f"{seed}|{number}", at))
    return steps


def _read_step(name: str, value: Any, salt: str, at: str) -> Step:
    checks = {"parse": parsed, "label": label_correct, "plain": plain_text, "leak": no_leak}
    if name in checks or name == "balance":
        if value is not None:
            raise InputError(f"{at}: {name} takes no setting")
        if name == "balance":
            return Step(name, None, None, lambda features, rows: balanced(features, rows, salt))
        return Step(name, None, checks[name], None)
    if name == "critic":
        if not isinstance(value, list) or not value or any(verdict not in VERDICTS for verdict in value):
            raise InputError(f"{at}: critic is {value!r}; give a list out of {', '.join(VERDICTS)}")
        return Step(name, value, verdict_in(value), None)
    if name == "length":
        shortest, longest = _pair(value, "min", "max", at)
        return Step(name, value, length_within(shortest or 0, longest or 2**62), None)
    if name == "tokens":
        valid = isinstance(value, Mapping) and set(value) == {"max", "model"} and isinstance(value["model"], str)
        if not valid or type(value["max"]) is not int or value["max"] < 1:
            raise InputError(f"{at}: tokens is {value!r}; give max, a whole number, and model, a folder or hub id")
        return Step(name, dict(value), tokens_within(value["model"], value["max"]), None)
    if name == "duplicates":
        similarity = 1.0 if value is None else _share(value, name, at)
        return Step(name, similarity, None, lambda features, rows: distinct(features, rows, similarity))
    if name == "cap":
        gene, pert = _pair(value, "gene", "pert", at)

        def cap(features: Features, rows: Rows) -> Rows:
            for column, most in (("gene", gene), ("pert", pert)):
                if most is not None and len(rows):
                    rows = capped(features, rows, column, most, f"{salt}|{column}")
            return rows

        return Step(name, value, None, cap)
    if name == "fraction":
        share = _share(value, name, at)
        return Step(name, share, None, lambda features, rows: fraction_of(features, rows, share, salt))
    known = "parse, label, plain, leak, critic, length, tokens, duplicates, balance, cap, fraction"
    raise InputError(f"{at}: {name!r} is no step; use {known}")


def _pair(value: Any, first: str, second: str, at: str) -> tuple[int | None, int | None]:
    valid = isinstance(value, Mapping) and value and set(value) <= {first, second}
    if not valid or not all(type(number) is int and number >= 0 for number in value.values()):
        raise InputError(f"{at}: is {value!r}; give {first} and {second}, or one of them, as whole numbers")
    return value.get(first), value.get(second)


def _share(value: Any, name: str, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise InputError(f"{at}: {name} is {value!r}; it must lie above 0 and at most at 1")
    return float(value)


# filtering


def filter_traces(path: Path, output: Path, steps: Sequence[Step]) -> dict[str, Any]:
    """Filter a file of traces.

    Args:
        path: the traces.
        output: JSONL file of those that pass, in their order; `.funnel.json` beside it holds what is returned.
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
    funnel = {"input": path.name, "rows": len(features.item_id), "steps": told, "kept": len(rows)}
    if not len(rows):
        worst = max(told, key=lambda one: int(one["dropped"]))
        raise InputError(
            f"{path}: none of {funnel['rows']} traces passes; step {worst['step']} dropped {worst['dropped']} "
            f"({', '.join(list(worst['reasons'])[:3])})"
        )
    keep = np.zeros(len(features.item_id), dtype=bool)
    keep[rows] = True
    with path.open("rb") as file:
        write_lines((line for line, use in zip(file, keep, strict=True) if use), output)
    with disk_errors(output):
        output.with_name(f"{output.name}.funnel.json").write_text(json.dumps(funnel, indent=2) + "\n", encoding="utf-8")
    return funnel


def run_filter(config: Path, overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """Filter traces as a configuration says.

    Args:
        config: YAML file with `input`, `output`, `steps` (see `read_steps`) and `seed`.
        overrides: command-line words `--key value` or `--key=value` that win over the file.

    Returns:
        The output and the funnel; see `filter_traces`.

    Raises:
        InputError: a key is unknown or missing, or see `read_steps` and `filter_traces`.
    """
    values = read_yaml(config)
    known = ("input", "output", "steps", "seed")
    given = _read_overrides(overrides)
    check_keys([str(key) for key in values], known, str(config))
    check_keys(list(given), known, "command line")
    values = {"seed": 0, **values, **given}
    for key in known[:3]:
        if key not in values:
            raise InputError(f"{config}: {key} is missing; set it")
    if type(values["seed"]) is not int:
        raise InputError(f"{config}: seed is {values['seed']!r}; give a whole number")
    output = Path(str(values["output"]))
    steps = read_steps(values["steps"], values["seed"], f"{config}: steps")
    return output, filter_traces(Path(str(values["input"])), output, steps)


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
            given[key] = text if key in ("input", "output") else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InputError(f"command line: --{key} is not YAML ({' '.join(str(error).split())[:100]})") from None
    return given


def _scan(path: Path, steps: Sequence[Step]) -> tuple[Features, dict[int, dict[int, str]]]:
    """Read the file once: run every check on every trace, and gather what selections need."""
    checks = [(number, step.check) for number, step in enumerate(steps) if step.check is not None]
    sketch_at = max((number for number, step in enumerate(steps) if step.name == "duplicates"), default=-1)
    refused: dict[int, dict[int, str]] = {number: {} for number, _ in checks}
    columns: dict[str, list[str]] = {name: [] for name in ("item_id", "label", "cell_line", "pert", "gene")}
    symbols: dict[str, str] = {}
    offsets, digests = [0], []
    parts: list[npt.NDArray[np.uint32]] = []
    waiting: list[bytes] = []
    waiting_bytes = 0

    def flush() -> None:
        nonlocal waiting_bytes
        if waiting:
            parts.append(sketch(waiting))
            waiting.clear()
            waiting_bytes = 0

    for row, (trace, answer, line) in enumerate(iter_traces(path)):
        offsets.append(offsets[-1] + len(line))
        gone = len(steps)
        for number, check in checks:
            if (reason := check(trace, answer)) is not None:
                refused[number][row] = symbols.setdefault(reason, reason)
                gone = number  # what an earlier step refuses never reaches a later one
                break
        for name, values in columns.items():
            value = getattr(trace, name)
            values.append(value if name == "item_id" else symbols.setdefault(value, value))
        if sketch_at >= 0:
            masked = mask(answer.think or "", (trace.pert, trace.gene)) if gone > sketch_at else b""
            digests.append(digest(masked))
            waiting.append(masked)
            waiting_bytes += len(masked)
            if waiting_bytes > _BATCH_BYTES:
                flush()
    flush()

    def text_of(row: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offsets[row])
            trace, answer = parse_trace(file.readline(), path, row + 1)
        return mask(answer.think or "", (trace.pert, trace.gene))

    features = Features(
        columns["item_id"],
        _codes(columns["label"]),
        _codes(columns["cell_line"]),
        _codes(columns["pert"]),
        _codes(columns["gene"]),
        digests=np.array(digests, dtype=np.uint64),
        signatures=np.concatenate(parts) if parts else np.empty((0, HASHES), dtype=np.uint32),
        text_of=text_of,
    )
    return features, refused


def _codes(values: list[str]) -> npt.NDArray[np.int32]:
    known: dict[str, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int32)
