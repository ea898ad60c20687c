"""Reading a batch as rewards see it: texts, parsed answers, labels, words. Rewards on the same batch read it once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from rewards.answer import Answer, is_missing, parse_answer
from rewards.errors import CheckError, InputError
from rewards.labels import Label, as_label

# A completion as TRL hands it over: plain text, a list of messages, or None where generation failed.
Completion: TypeAlias = str | Sequence[Mapping[str, Any]] | None
Scores: TypeAlias = list[float | None]
Read = TypeVar("Read")

_LABEL: Final = {str(label): label for label in Label}
_KEPT: Final = 4096  # the largest batch, in completions, that is kept for the next reward; a larger batch is read again


def completion_text(completion: Completion) -> str | None:
    """Return the text of a completion, plain or as messages (the last message's content).

    None, or one of pandas' missing values, stands for a completion that failed.

    Raises:
        InputError: `completion` is no list of messages, or the last message has no text content.
    """
    if isinstance(completion, str):
        return completion
    if is_missing(completion):
        return None
    try:
        content = completion[-1]["content"]  # type: ignore[index]
    except (TypeError, LookupError):  # no list, an empty list, or a message without content
        raise InputError(
            "completion: no message with content; pass a text, a list of messages, or None for a failed completion"
        ) from None
    if is_missing(content):
        return None
    if not isinstance(content, str):
        raise InputError(f"completion: content must be text, not {type(content).__name__}; pass text-only messages")
    return content


def read_texts(completions: Sequence[Completion]) -> list[str | None]:
    """Return the text of each of B completions."""
    return [completion_text(completion) for completion in completions]


class _Shared:
    """A function of a text, applied to a batch. It keeps the last batch, so that several rewards read a batch once.

    Batches are compared by their texts, so that a batch which was changed in place is read again.
    """

    def __init__(self, read: Callable[[str], Any]) -> None:
        self._read = read
        self._last: tuple[list[str | None], list[Any]] = ([], [])

    def __call__(self, texts: list[str | None]) -> list[Any]:
        before, found = self._last
        if before == texts:
            return found
        found = [None if text is None else self._read(text) for text in texts]
        if len(texts) <= _KEPT:
            self._last = (list(texts), found)  # one assignment: another thread sees the old pair or the new one
        return found


_answers = _Shared(parse_answer)
_words = _Shared(str.split)


def read_answers(completions: Sequence[Completion]) -> list[Answer | None]:
    """Parse each of B completions strictly; None where generation failed."""
    return _answers(read_texts(completions))


def read_words(completions: Sequence[Completion]) -> list[list[str] | None]:
    """Split each of B completions at white space; None where generation failed.

    Do not change the lists: rewards share them.
    """
    return _words(read_texts(completions))


def read_labels(label: Sequence[object], n: int) -> list[Label]:
    """Return n true labels.

    Raises:
        InputError: a label is unknown, or the number of labels is not n.
    """
    if len(label) != n:
        raise InputError(f"label: {len(label)} labels for {n} completions; pass one label per completion")
    found = [_LABEL.get(value) if isinstance(value, str) else None for value in label]
    return [
        as_label(value, f"label, row {row}") if known is None else known
        for row, (known, value) in enumerate(zip(found, label, strict=True))
    ]


def column(columns: Mapping[str, Any], name: str, n: int, reward: str) -> Sequence[Any]:
    """Return a dataset column of n values that a reward needs.

    Raises:
        InputError: the batch has no such column, or the column has another length.
    """
    values = columns.get(name)
    if values is None:
        raise InputError(f"{reward}: the batch has no column {name!r}, which this reward needs; add it to the dataset")
    if len(values) != n:
        raise InputError(f"{name}: {len(values)} values for {n} completions; pass one value per completion")
    return values  # type: ignore[no-any-return]


def prompt_text(prompt: Any) -> str:
    """Return a prompt's text. Messages become their contents, each on a new line."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content") or "") for message in prompt)


def returned_scores(found: Any, n: int, name: str) -> list[Any]:
    """Return what a reward returned for n completions as a list.

    Raises:
        CheckError: `found` is not a list, tuple or one-dimensional array of n scores.
    """
    listed: Any = found
    if getattr(found, "ndim", None) == 1:  # of NumPy, pandas or torch
        listed = found.tolist()
    if not isinstance(listed, list | tuple) or len(listed) != n:
        what = f"{len(listed)} scores" if isinstance(listed, list | tuple) else type(found).__name__
        raise CheckError(
            f"reward {name}: returned {what} for {n} completions; return a list of one score per completion"
        )
    return list(listed)


def is_column(value: Any, n: int) -> bool:
    """Return whether a keyword of a batch of n holds one value per completion, as a list, array or series does."""
    if isinstance(value, str | bytes | Mapping):
        return False
    try:
        return len(value) == n
    except TypeError:  # a trainer or a zero-dimensional array has no length
        return False
