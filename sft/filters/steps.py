"""The steps of a filter, and how a configuration names them.

A check takes one trace and returns why it is refused, or None. A selection takes all traces that are left and returns
those that stay.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from rewards import Answer, InputError
from sft.filters.near_duplicates import find_duplicates
from sft.filters.visible import find_foreign
from sft.teacher.critic import VERDICTS
from sft.traces import Trace, learnt_text, treats_as_given

Check: TypeAlias = Callable[[Trace, Answer], str | None]
Rows: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Features:
    """What selections need of N traces.

    Attributes:
        item_id: N ids.
        label, pert, gene: (N,) codes, equal where the values are equal.
        digests, signatures: (N,) and (N, HASHES) of the reasoning, see `sft.filters.near_duplicates`. Empty where no
            step needs them.
        text_of: returns the masked reasoning of the trace at a position.
    """

    item_id: list[str]
    label: npt.NDArray[Any]
    pert: npt.NDArray[Any]
    gene: npt.NDArray[Any]
    digests: npt.NDArray[np.uint64]
    signatures: npt.NDArray[np.uint32]
    text_of: Callable[[int], bytes]


# checks


def parsed(trace: Trace, answer: Answer) -> str | None:
    """Refuse a completion without a label that the strict parser reads, or without reasoning."""
    return str(answer.status) if answer.label is None else None if answer.think else "no reasoning"


def label_correct(trace: Trace, answer: Answer) -> str | None:
    """Refuse a wrong answer."""
    return None if answer.label == trace.label else "wrong answer"


def plain_text(trace: Trace, answer: Answer) -> str | None:
    """Refuse text that is not plain reasoning; see `sft.filters.visible.find_foreign`."""
    return find_foreign(learnt_text(trace, answer))


def no_leak(trace: Trace, answer: Answer) -> str | None:
    """Refuse reasoning that treats its answer as given, according to its critic.

    A rationalized trace that no critic judged is refused, too. A blind one passes: its teacher had no answer.
    """
    given = treats_as_given(trace)
    if given is None and trace.mode == "rationalize":
        return "no critic said whether the answer is treated as given"
    return "answer treated as given" if given else None


def verdict_in(verdicts: Sequence[str]) -> Check:
    """Return a check that refuses other verdicts of a critic, and traces that no critic graded."""

    def check(trace: Trace, answer: Answer) -> str | None:
        verdict = trace.critic.get("verdict") if trace.critic else None
        return None if verdict in verdicts else "not graded" if verdict is None else f"verdict {verdict}"

    return check


def length_within(shortest: int, longest: int) -> Check:
    """Return a check that refuses reasoning of fewer or more characters."""

    def check(trace: Trace, answer: Answer) -> str | None:
        n = len(answer.think or "")
        return "too short" if n < shortest else "too long" if n > longest else None

    return check


def tokens_within(model: str, longest: int) -> Check:
    """Return a check that refuses what SFT would refuse: too many tokens, or text that the tokenizer changes.

    Args:
        model: folder or hub id of the model to train.
        longest: the training's `max_length`, in tokens of prompt, completion and end of turn together.
    """
    from benchmarks.models.folders import resolve_model
    from sft.examples import tokenize_trace
    from sft.training import load_tokenizer

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
    """Keep the first of texts that are alike; see `find_duplicates`."""
    repeated = find_duplicates(
        features.digests[rows], features.signatures[rows], similarity, lambda at: features.text_of(int(rows[at]))
    )
    return rows[~repeated]


def balanced(features: Features, rows: Rows, salt: str) -> Rows:
    """Keep as many traces of each label as of the rarest label."""
    counts = Counter(features.label[rows].tolist())
    return capped(features, rows, "label", min(counts.values()), salt) if counts else rows


def capped(features: Features, rows: Rows, column: str, most: int, salt: str) -> Rows:
    """Keep at most `most` traces of each value of a column, drawn by `salt`."""
    _, code = np.unique(getattr(features, column)[rows], return_inverse=True)
    order = np.lexsort((draw_order(features, rows, salt), code))
    sorted_code = code[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_code[1:] != sorted_code[:-1]]))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return np.sort(rows[order[rank < most]])


def fraction_of(features: Features, rows: Rows, fraction: float, salt: str) -> Rows:
    """Keep a share of the traces, drawn by `salt`. A larger share contains the smaller one."""
    order = np.argsort(draw_order(features, rows, salt), kind="stable")
    return np.sort(rows[order[: round(fraction * len(rows))]])


def draw_order(features: Features, rows: Rows, salt: str) -> npt.NDArray[np.uint64]:
    """Return a random number for each row. It depends on the item and `salt`, not on the place in the file."""
    key = salt.encode()
    values = [
        hashlib.blake2b(features.item_id[row].encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
        for row in rows
    ]
    return np.frombuffer(b"".join(values), dtype="<u8")


# configuration


@dataclass(frozen=True)
class Step:
    """One step of a filter, as configured: either a check or a selection."""

    name: str
    value: Any
    check: Check | None
    select: Callable[[Features, Rows], Rows] | None


def read_steps(config: Sequence[Any], seed: int, where: str = "steps") -> list[Step]:
    """Read the steps of a configuration.

    Args:
        config: names, or mappings of one name to its setting, out of `parse`, `label`, `plain`, `leak`,
            `critic: [excellent, good]`, `length: {min: 20, max: 4000}` (characters of reasoning),
            `tokens: {max: 2048, model: FOLDER}` (slow: below a thousand traces a second), `duplicates: 0.9`, `balance`,
            `cap: {gene: 5, pert: 20}`, `fraction: 0.02`.
        seed: seed of the steps that draw.
        where: the name of the list in errors.

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
        steps.append(read_step(str(name), value, f"{seed}|{number}", at))
    return steps


def read_step(name: str, value: Any, salt: str, at: str) -> Step:
    """Make one step.

    Args:
        name, value: as in a configuration; see `read_steps`.
        salt: seed of what it draws.
        at: the name of the step in errors.

    Raises:
        InputError: the step is unknown or its setting out of range.
    """
    if name not in STEPS:
        raise InputError(f"{at}: {name!r} is no step; use {', '.join(STEPS)}")
    if value is not None and name in _WITHOUT_SETTING:
        raise InputError(f"{at}: {name} takes no setting")
    return STEPS[name](value, salt, at)


def _critic(value: Any, salt: str, at: str) -> Step:
    if not isinstance(value, list) or not value or any(verdict not in VERDICTS for verdict in value):
        raise InputError(f"{at}: critic is {value!r}; give a list out of {', '.join(VERDICTS)}")
    return Step("critic", value, verdict_in(value), None)


def _length(value: Any, salt: str, at: str) -> Step:
    shortest, longest = _pair(value, "min", "max", at)
    if shortest is not None and longest is not None and shortest > longest:
        raise InputError(f"{at}: length is {value!r}; min must be at most max")
    return Step("length", value, length_within(shortest or 0, longest or 2**62), None)


def _tokens(value: Any, salt: str, at: str) -> Step:
    valid = isinstance(value, Mapping) and set(value) == {"max", "model"} and isinstance(value["model"], str)
    if not valid or type(value["max"]) is not int or value["max"] < 1:
        raise InputError(f"{at}: tokens is {value!r}; give max, a whole number, and model, a folder or hub id")
    return Step("tokens", dict(value), tokens_within(value["model"], value["max"]), None)


def _duplicates(value: Any, salt: str, at: str) -> Step:
    similarity = 1.0 if value is None else _share(value, "duplicates", at)
    return Step("duplicates", similarity, None, lambda features, rows: distinct(features, rows, similarity))


def _cap(value: Any, salt: str, at: str) -> Step:
    gene, pert = _pair(value, "gene", "pert", at)

    def cap(features: Features, rows: Rows) -> Rows:
        for column, most in (("gene", gene), ("pert", pert)):
            if most is not None and len(rows):
                rows = capped(features, rows, column, most, f"{salt}|{column}")
        return rows

    return Step("cap", value, None, cap)


def _fraction(value: Any, salt: str, at: str) -> Step:
    share = _share(value, "fraction", at)
    return Step("fraction", share, None, lambda features, rows: fraction_of(features, rows, share, salt))


# For each name, a function that makes the step. Its arguments are those of `read_step` without the name.
STEPS: Final[Mapping[str, Callable[[Any, str, str], Step]]] = {
    "parse": lambda value, salt, at: Step("parse", None, parsed, None),
    "label": lambda value, salt, at: Step("label", None, label_correct, None),
    "plain": lambda value, salt, at: Step("plain", None, plain_text, None),
    "leak": lambda value, salt, at: Step("leak", None, no_leak, None),
    "critic": _critic,
    "length": _length,
    "tokens": _tokens,
    "duplicates": _duplicates,
    "balance": lambda value, salt, at: Step("balance", None, None, lambda of, rows: balanced(of, rows, salt)),
    "cap": _cap,
    "fraction": _fraction,
}
_WITHOUT_SETTING: Final = ("parse", "label", "plain", "leak", "balance")


def _pair(value: Any, first: str, second: str, at: str) -> tuple[int | None, int | None]:
    valid = isinstance(value, Mapping) and value and set(value) <= {first, second}
    if not valid or not all(type(number) is int and number >= 0 for number in value.values()):
        raise InputError(f"{at}: is {value!r}; give {first} and {second}, or one of them, as whole numbers")
    return value.get(first), value.get(second)


def _share(value: Any, name: str, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise InputError(f"{at}: {name} is {value!r}; it must lie above 0 and at most at 1")
    return float(value)
