"""The one parser of completions: what a model answered, and whether it answered at all."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rewards.labels import LABELS, Label


class Status(StrEnum):
    """What became of a completion. Only an `ERROR` is unscorable: the other statuses are the model's own doing."""

    ANSWERED = "answered"
    MALFORMED = "malformed"
    INCOMPLETE = "incomplete"
    ERROR = "error"


@dataclass(frozen=True)
class Answer:
    """One parsed completion.

    Attributes:
        label: the label given; None unless `status` is `ANSWERED`.
        status: what became of the completion.
        think: the reasoning between the think tags; None if the completion has no pair of think tags.
        confidence: the stated probability that the label is right, in [0, 1]; None if none is stated.
    """

    label: Label | None
    status: Status
    think: str | None
    confidence: float | None = None


TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Each tag is searched on its own. One pattern for an opening and a closing tag would take quadratic time on a text that
# opens a tag many times and never closes it.
_THINK, _END_THINK, _ANSWER, _END_ANSWER = (re.compile(tag, re.IGNORECASE) for tag in TAGS)
# The model may state its confidence after the label: `LABEL <confidence>0.8</confidence>`.
_CONFIDENCE_TAGS = ("<confidence>", "</confidence>")
_PROBABILITY = re.compile(r"[01](?:\.[0-9]+)?")
_BY_TEXT = {str(label): label for label in LABELS}
# Invisible characters that Python does not count as white space: zero-width characters and the byte-order mark.
_UNSEEN = "\u200b\u200c\u200d\u2060\ufeff"
_SPACE = re.compile(rf"[\s{_UNSEEN}]")
# Longest label first: "not differentially expressed" is matched as a whole, so no part of it is matched again.
_WHOLE_LABEL = re.compile(
    r"(?<![\w-])(?a:"  # ASCII: Unicode case folding would read the long s (ſ) as an s
    + "|".join(
        re.escape(label).replace(r"\ ", rf"(?u:[\s{_UNSEEN}]+)") for label in sorted(LABELS, key=len, reverse=True)
    )
    + r")(?![\w-])",
    re.IGNORECASE,
)
NEGATION = re.compile(
    r"\b(?:not|cannot|no|none|nothing|neither|nor|never|without|hardly|barely|scarcely|rarely|unlikely|fail(?:s|ed|ing)?|"
    r"rather\s+than|instead\s+of)\b|n['’]t\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=\s)|\n\s*\n")


def parse_answer(completion: str | None, *, strict: bool = True) -> Answer:
    """Read the label out of a completion `<think>…</think><answer>LABEL</answer>`.

    Labels are read as a whole, never as substrings. Neither "not upregulated" nor "is not expected to be upregulated"
    counts as "upregulated". A completion that names two different labels gives no answer.

    Args:
        completion: the model's text. None, or pandas' NaN, means that the request failed.
        strict: True requires

            - exactly one pair of each tag, with no text outside the tags,
            - exactly one of `LABELS` in the answer. `<confidence>P</confidence>` with P in [0, 1] may follow the label.

            Letter case does not matter, nor does the kind of white space (a line break, a no-break space).
            False also reads a label in brackets, a label in a sentence with no negation before the label, a completion
            without a think block, and a text without answer tags that names one label after the reasoning.

    Returns:
        An `Answer` with one of these statuses:

        - `answered`: the completion gives one label.
        - `incomplete`: the text stops before the answer is closed.
        - `error`: `completion` is None or NaN.
        - `malformed`: any other text.
    """
    if is_missing(completion):
        return Answer(None, Status.ERROR, None)
    assert completion is not None
    return _parse_strict(completion) if strict else _parse_lenient(completion)


def is_missing(value: Any) -> bool:
    """Return whether a value is None or one of pandas' missing values: NaN, NaT, NA."""
    if value is None or isinstance(value, str):
        return value is None
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # NA has no truth value; an array compares element by element
        return type(value).__name__ == "NAType"


def exact_label(text: str) -> Label | None:
    """Return the label that a text consists of, whatever its letter case and white space; None for any other text."""
    text = plain_space(text)
    found = _BY_TEXT.get(text)
    if found is None and text.isascii():  # `lower` would turn the Kelvin sign into a k
        found = _BY_TEXT.get(text.lower())
    return found


def plain_space(text: str) -> str:
    """Return a text with each white-space character (such as a line break) as a plain space, and none at its ends."""
    return _SPACE.sub(" ", text).strip()


def _parse_strict(text: str) -> Answer:
    # Plain searches are faster than one pattern, and rewards parse hundreds of thousands of long texts.
    whole = text.strip().strip(_UNSEEN).strip()
    if whole.startswith(TAGS[0]) and whole.endswith(TAGS[3]) and all(whole.count(tag) == 1 for tag in TAGS):
        think_end, answer_start = whole.find(TAGS[1]), whole.find(TAGS[2])
        between = whole[think_end + len(TAGS[1]) : answer_start]
        if think_end < answer_start and not (between and plain_space(between)):
            think = whole[len(TAGS[0]) : think_end].strip()
            answer, confidence = split_confidence(whole[answer_start + len(TAGS[2]) : -len(TAGS[3])])
            if (label := exact_label(answer)) is not None:
                return Answer(label, Status.ANSWERED, think, confidence)
    return Answer(None, _failure(text), _think(text))


def _parse_lenient(text: str) -> Answer:
    answers = tagged_answers(text)
    if answers:
        found = {label for answer in answers for label in _whole_labels(answer)}
    elif _failure(text) is Status.INCOMPLETE:
        found = set()
    else:
        found = _whole_labels(re.split("</think>", text, flags=re.IGNORECASE)[-1])
    if len(found) == 1:
        (label,) = found
        if label is not None:
            confidence = split_confidence(answers[0])[1] if len(answers) == 1 else None
            return Answer(label, Status.ANSWERED, _think(text), confidence)
    return Answer(None, _failure(text), _think(text))


def tagged_answers(text: str) -> list[str]:
    """Return the text between each opening answer tag and the next closing answer tag."""
    return list(_between(_ANSWER, _END_ANSWER, text))


def split_confidence(answer: str) -> tuple[str, float | None]:
    """Return an answer without its stated confidence, and the confidence.

    An answer that states no confidence, or none in [0, 1], is returned unchanged, with None.
    """
    opening, closing = _CONFIDENCE_TAGS
    whole = answer.rstrip()
    start = whole.rfind(opening)
    if start < 0 or not whole.endswith(closing):
        return answer, None
    stated = whole[start + len(opening) : -len(closing)].strip()
    if not _PROBABILITY.fullmatch(stated) or float(stated) > 1:
        return answer, None
    return whole[:start], float(stated)


def _whole_labels(text: str) -> set[Label | None]:
    """Return the labels named in `text`, with None for a label that follows a negation in the same sentence.

    Any number of words may stand between "not" and the label ("is not expected to be"), so the distance does not count.
    """
    found: set[Label | None] = set()
    for sentence in _SENTENCE_END.split(text):
        negated, start = False, 0
        for match in _WHOLE_LABEL.finditer(sentence):
            # Searched between labels only: "not differentially expressed" has a "not" of its own.
            negated = negated or NEGATION.search(sentence, start, match.start()) is not None
            found.add(None if negated else Label(" ".join(plain_space(match[0]).lower().split())))
            start = match.end()
    return found


def _failure(text: str) -> Status:
    """Return `INCOMPLETE` for a text that stops inside an open tag or right after its reasoning, else `MALFORMED`."""
    lowered = text.lower()
    if "</answer>" in lowered:
        return Status.MALFORMED
    opened = max(lowered.rfind("<think>"), lowered.rfind("<answer>"))
    if opened >= 0 and ("<answer>" in lowered or "</think>" not in lowered):
        return Status.INCOMPLETE
    tail = lowered.rsplit("</think>", 1)[-1].strip() if "</think>" in lowered else None
    if tail is not None and "<answer>".startswith(tail):
        return Status.INCOMPLETE
    return Status.MALFORMED


def _think(text: str) -> str | None:
    think = next(_between(_THINK, _END_THINK, text), None)
    return None if think is None else think.strip()


def _between(opening: re.Pattern[str], closing: re.Pattern[str], text: str) -> Iterator[str]:
    """Yield the text between each opening tag and the next closing tag, in linear time."""
    end: re.Match[str] | None
    start = opening.search(text)
    while start and (end := closing.search(text, start.end())):
        yield text[start.end() : end.start()]
        start = opening.search(text, end.end())
