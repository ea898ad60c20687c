"""The one parser of completions: what a model answered, and whether it answered at all."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rewards.labels import LABELS, Label


class Status(StrEnum):
    """What became of a completion. Only `ERROR` is unscorable: the others are the model's own doing."""

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
        think: the reasoning between the think tags; None if there is no such pair.
        confidence: the stated probability that the label is right, in [0, 1]; None if none is stated.
    """

    label: Label | None
    status: Status
    think: str | None
    confidence: float | None = None


TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Tags are searched one at a time: a pattern of a pair takes quadratic time where one is opened often and never closed.
_THINK, _END_THINK, _ANSWER, _END_ANSWER = (re.compile(tag, re.IGNORECASE) for tag in TAGS)
# A label may be followed by how sure the model is of it: `LABEL <confidence>0.8</confidence>`.
_CONFIDENCE_TAGS = ("<confidence>", "</confidence>")
_PROBABILITY = re.compile(r"[01](?:\.[0-9]+)?")
_BY_TEXT = {str(label): label for label in LABELS}
# Characters that nothing is seen of, which Python does not count as white space: zero-width ones, a byte-order mark.
_UNSEEN = "\u200b\u200c\u200d\u2060\ufeff"
_SPACE = re.compile(rf"[\s{_UNSEEN}]")
# Longest label first: "not differentially expressed" is consumed whole, so no part of it is read again.
_WHOLE_LABEL = re.compile(
    r"(?<![\w-])(?a:"  # ASCII: else case folding takes the long s for an s
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

    Labels are read whole, never as substrings: "not upregulated" is not "upregulated", nor is "is not expected to be
    upregulated". Two different labels in one answer are no answer.

    Args:
        completion: the model's text; None, or pandas' NaN, where there is none because the request failed.
        strict: True asks for exactly one pair of each tag, nothing outside them, and one of `LABELS` alone, with
            `<confidence>P</confidence>` after it, P in [0, 1], or nothing. Letter case and white space around it do not
            matter, nor whether a space within is of another kind (a line's end, a no-break space). False also reads a
            label in brackets or within a sentence that has no negation before it, a missing think block, and text
            without answer tags that names one label after the reasoning.

    Returns:
        An `Answer`. `error` for None; `incomplete` where the text stops before its answer is closed;
        `malformed` for any other text without one label.
    """
    if is_missing(completion):
        return Answer(None, Status.ERROR, None)
    assert completion is not None
    return _parse_strict(completion) if strict else _parse_lenient(completion)


def is_missing(value: Any) -> bool:
    """Return whether a value is None or one of pandas' marks for none: NaN, NaT, NA."""
    if value is None or isinstance(value, str):
        return value is None
    try:
        return bool(value != value)
    except (TypeError, ValueError):  # NA compares as neither; an array compares one by one
        return type(value).__name__ == "NAType"


def exact_label(text: str) -> Label | None:
    """Return the label that a text is, letter case and white space aside; None where it is more or less."""
    text = plain_space(text)
    found = _BY_TEXT.get(text)
    if found is None and text.isascii():  # else lower case would take the Kelvin sign for a k
        found = _BY_TEXT.get(text.lower())
    return found


def plain_space(text: str) -> str:
    """Return a text with a space for white space of any kind, such as a line's end, and none around it."""
    return _SPACE.sub(" ", text).strip()


def _parse_strict(text: str) -> Answer:
    # Searches for tags instead of one pattern: rewards parse long texts by the hundred thousand.
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
    """Return what stands between each opening answer tag and the next closing one."""
    return list(_between(_ANSWER, _END_ANSWER, text))


def split_confidence(answer: str) -> tuple[str, float | None]:
    """Return an answer without its stated confidence, and that; as it is where none is stated or it is no P."""
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
    """Labels named in `text`; one after a negation in its sentence counts as None: it is never the single label found.

    What stands between "not" and a label has no end of forms ("is not expected to be"), so the distance does not count.
    """
    found: set[Label | None] = set()
    for sentence in _SENTENCE_END.split(text):
        negated, start = False, 0
        for match in _WHOLE_LABEL.finditer(sentence):
            negated = negated or NEGATION.search(sentence, start, match.start()) is not None  # not in a label itself
            found.add(None if negated else Label(" ".join(plain_space(match[0]).lower().split())))
            start = match.end()
    return found


def _failure(text: str) -> Status:
    """Why a text holds no answer: it stops inside an open tag or right after its reasoning, or it is malformed."""
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
    """What stands between each opening tag and the next closing one, in linear time."""
    end: re.Match[str] | None
    start = opening.search(text)
    while start and (end := closing.search(text, start.end())):
        yield text[start.end() : end.start()]
        start = opening.search(text, end.end())
