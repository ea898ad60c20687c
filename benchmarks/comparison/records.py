"""What one scored sample of a harness's log says, and how samples become a frame of scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, Final

import pandas as pd

from rewards import InputError

# How inspect counts these words: right, partly right, wrong, no answer.
_WORDS: Final = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_YES_NO: Final = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


@dataclass(frozen=True)
class Record:
    """A sample as a log has it.

    Attributes:
        where: the sample or row, for messages.
        item: the item's id in the log.
        scores: the sample's scores by name; empty where it has none.
        incomplete: whether the harness says that the completion was cut off by a limit.
        error: whether the sample ended in an error.
        content: what the item asks; None where the log does not say.
        fields: where other keys are looked up, the first that has one.
    """

    where: str
    item: str
    scores: Mapping[str, Any]
    incomplete: bool
    error: bool
    content: str | None
    fields: tuple[Mapping[str, Any], ...]


def score_value(value: Any) -> float:
    """Return a score as a number: numbers, booleans, yes/no, true/false, and inspect's C, P, I, N; None is NaN.

    Raises:
        ValueError: it is none of these.
    """
    if value is None:
        return float("nan")
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str):
        if value in _WORDS:
            return _WORDS[value]
        word = value.strip().casefold()
        return _YES_NO[word] if word in _YES_NO else float(word)
    raise ValueError(f"{type(value).__name__} is not a number")


def scores_frame(
    path: Path,
    records: Sequence[Record],
    *,
    item: str | None,
    score: str | None,
    seed: str | None,
    clusters: Sequence[str],
) -> tuple[pd.DataFrame, str]:
    """Turn records into a frame of scores (see `benchmarks.comparison.scores`).

    Args:
        path: the log, for messages.
        records: its samples.
        item: the field that names items; None for the log's own ids.
        score: the score's name; None where the log has a single one.
        seed: the field that tells training runs apart; None for a single run.
        clusters: the fields that hold cluster keys.

    Returns:
        The frame, and the score's name.

    Raises:
        InputError: the log is empty or has several scores and none is named; or a field or score is missing or bad.
    """
    if not records:
        raise InputError(f"{path}: no sample; run the evaluation again")
    name = _score_name(path, records, score)
    rows = []
    for one in records:
        scored = one.scores.get(name)
        try:
            value = score_value(scored)
        except ValueError:
            raise InputError(
                f"{path}, {one.where}: score {name!r} is {str(scored)[:60]!r}, not a number; choose another by --score"
            ) from None
        unscorable = one.error or isnan(value)
        row = {
            "item_id": one.item if item is None else _field(path, one, item),
            "score": value,
            "outcome": "unscorable" if unscorable else "incomplete" if one.incomplete else "complete",
            "content": None if item is not None else one.content,
        }
        if seed is not None:
            row["seed"] = _field(path, one, seed)
        rows.append(row | {key: _field(path, one, key) for key in clusters})
    frame = pd.DataFrame(rows)
    return (frame if frame["content"].notna().all() else frame.drop(columns="content")), name


def _score_name(path: Path, records: Sequence[Record], score: str | None) -> str:
    names = list(dict.fromkeys(name for one in records for name in one.scores))
    if not names:
        raise InputError(f"{path}: no sample has a score; score the log, or run the evaluation again")
    if score is None and len(names) == 1:
        return names[0]
    if score not in names:
        problem = "several scores" if score is None else f"no score {score!r}"
        raise InputError(f"{path}: {problem}; choose with --score one of {', '.join(names)}")
    return score


def _field(path: Path, record: Record, key: str) -> str:
    """The value of a key as text; `a.b` is key b within a."""
    for fields in record.fields:
        value: Any = fields
        for part in [key] if key in fields else key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    names = ", ".join(dict.fromkeys(name for fields in record.fields for name in fields))
    raise InputError(f"{path}, {record.where}: no {key!r}; the sample has {names or 'no other field'}")
