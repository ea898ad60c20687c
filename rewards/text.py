"""Rewards for the form of a completion: its length, and how little it repeats itself.

They have the signature of `rewards/functions.py`. Neither knows whether the answer is right. Give such a reward a small
weight beside one that does, and run `synthpert rewards check`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rewards.answer import is_missing
from rewards.batch import Completion, Scores, column, read_words
from rewards.errors import InputError
from rewards.reward import Reward

__all__ = [
    "Length",
    "Repetition",
    "repetition",
]

UNITS: Final = ("words", "tokens")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Length(Reward):
    """Score 1 within a band of lengths, and less in proportion outside: n / low below it, high / n above it.

    Range: 0 to 1. Source: ours; a two-sided form of DAPO's soft overlong punishment (arXiv 2503.14476).

    Args:
        low: lower end of the band, at least 1.
        high: upper end, at least `low`.
        unit: `words` (split at white space) or `tokens` (of the tokenizer, from the columns `completion_ids` or
            `completion_tokens`).

    Raises:
        InputError: `low` and `high` are not whole numbers with 1 <= low <= high, or the unit is unknown.
    """

    __name__ = "length"
    low: int
    high: int
    unit: str = "words"
    range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (_is_whole(self.low) and _is_whole(self.high) and 1 <= self.low <= self.high):
            raise InputError(f"length: low {self.low!r}, high {self.high!r}; use whole numbers, 1 <= low <= high")
        if self.unit not in UNITS:
            raise InputError(f"length: unit {self.unit!r} is unknown; use {' or '.join(UNITS)}")

    @property
    def counts_tokens(self) -> bool:
        """Whether the unit is one of the tokenizer's."""
        return self.unit == "tokens"

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None, or its number of tokens is missing."""
        lengths: Sequence[int | None]
        words = read_words(completions)
        if self.unit == "words":
            lengths = [0 if found is None else len(found) for found in words]
        elif columns.get("completion_ids") is not None:
            lengths = [len(ids) for ids in column(columns, "completion_ids", len(completions), "length")]
        else:
            given = column(columns, "completion_tokens", len(completions), "length")
            lengths = [None if is_missing(n) else int(n) for n in given]
        return [None if found is None or n is None else self._band(n) for found, n in zip(words, lengths, strict=True)]

    def _band(self, n: int) -> float:
        return 1.0 if self.low <= n <= self.high else n / self.low if n < self.low else self.high / n


@dataclass(frozen=True)
class Repetition(Reward):
    """Score the share of a completion's n-grams of words that do not repeat an earlier one.

    The score is unique n-grams / all n-grams. A text without words earns 0. A text of fewer than n words earns its
    share of unique words. Range: 0 to 1. Source: "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373),
    appendix C.2, as credit instead of penalty.

    Args:
        n: words in an n-gram, at least 1.

    Raises:
        InputError: n is not a whole number, or is below 1.
    """

    __name__ = "repetition"
    n: int = 3
    range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (_is_whole(self.n) and self.n >= 1):
            raise InputError(f"repetition: n {self.n!r}; use a whole number, at least 1")

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None. No column is needed."""
        return [None if words is None else _unique_share(words, self.n) for words in read_words(completions)]


def _unique_share(words: Sequence[str], n: int) -> float:
    if not words:
        return 0.0
    if len(words) < n:
        return len(set(words)) / len(words)
    total = len(words) - n + 1
    return len(set(zip(*(words[at:] for at in range(n)), strict=False))) / total


repetition = Repetition()

REWARDS: Final = (Length, Repetition)
