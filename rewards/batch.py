"""Reading a batch as rewards see it: texts, parsed answers, labels, words. Rewards in a row share what was read."""

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
_KEPT: Final = 4096  # completions of a batch that is kept for the next reward; larger ones are read again


def completion_text(completion: Completion) -> str | None:
    """Return the text of a completion, plain or as messages (the last message's content).

    None, or one of pandas' marks for a missing value, stands for a completion that failed.

    Raises:
        InputError: there is no message, or the last one has no content or none of text.
    """
    if isinstance(completion, str):
        return completion
    if is_missing(completion):
        return None
    try:
        content = completion[-1]["content"]  # type: ignore[index]
    except (TypeError, LookupError):  # no list of messages; none in it; one without content
        raise InputError(
            "completion: no message with content; pass text, a list of messages, or None where it failed"
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
    """The last batch read by a function, so that several rewards on one batch read it once.

    Texts are compared, not objects, so that a batch which was changed in place is read again.
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
    """Parse each of B completions strictly; None where there is none because generation failed."""
    return _answers(read_texts(completions))


def read_words(completions: Sequence[Completion]) -> list[list[str] | None]:
    """Split each of B completions at white space; None where there is none. The lists are shared: not to be changed."""
    return _words(read_texts(completions))


def read_labels(label: Sequence[object], n: int) -> list[Label]:
    """Return n true labels.

    Raises:
        InputError: a label is unknown, or there is not one per completion.
    """
    if len(label) != n:
        raise InputError(f"label: {len(label)} labels for {n} completions; pass one each")
    found = [_LABEL.get(value) if isinstance(value, str) else None for value in label]
    return [
        as_label(value, f"label, row {row}") if known is None else known
        for row, (known, value) in enumerate(zip(found, label, strict=True))
    ]


def column(columns: Mapping[str, Any], name: str, n: int, reward: str) -> Sequence[Any]:
    """Return a dataset column of n values that a reward needs.

    Raises:
        InputError: it is not there, or has another length.
    """
    values = columns.get(name)
    if values is None:
        raise InputError(f"{reward}: needs the column {name!r}, which the batch does not have; add it to the dataset")
    if len(values) != n:
        raise InputError(f"{name}: {len(values)} values for {n} completions; pass one each")
    return values  # type: ignore[no-any-return]


def prompt_text(prompt: Any) -> str:
    """Return a prompt's text: as it is, or the contents of its messages on lines of their own."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content") or "") for message in prompt)


def read_prompts(columns: Mapping[str, Any], n: int, reward: str) -> list[str]:
    """Return n prompts as text, from TRL's `prompts` or a column `prompt`."""
    name = "prompts" if columns.get("prompts") is not None else "prompt"
    return [prompt_text(prompt) for prompt in column(columns, name, n, reward)]


def returned_scores(found: Any, n: int, name: str) -> list[Any]:
    """Return what a reward returned for n completions as a list.

    Raises:
        CheckError: it is no list, tuple or array of n scores; a mapping, a set or a text is none.
    """
    listed: Any = found
    if getattr(found, "ndim", None) == 1:  # of NumPy, pandas or torch
        listed = found.tolist()
    if not isinstance(listed, list | tuple) or len(listed) != n:
        what = f"{len(listed)} scores" if isinstance(listed, list | tuple) else type(found).__name__
        raise CheckError(f"reward {name}: returned {what} for {n} completions; return a list, one each")
    return list(listed)


def is_column(value: Any, n: int) -> bool:
    """Whether a keyword of a batch of n holds a value per completion: lists, arrays, series and the like do."""
    if isinstance(value, str | bytes | Mapping):
        return False
    try:
        return len(value) == n
    except TypeError:  # no length, as of a trainer or an array of no dimension
        return False
