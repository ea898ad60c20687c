"""Answers in a file of predictions: a word for each row, or the text of a completion."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.imported.columns import as_objects, refuse_rows, text_column
from benchmarks.messages import MessageError, looks_like_messages, read_last_reply
from benchmarks.tables import label_words, normalize_word
from rewards import LABELS, InputError, Status, parse_answer
from rewards.answer import exact_label, is_missing, split_confidence, tagged_answers

# Meanings of an answer in a file, besides the three labels.
CHANGES: Final = "differentially expressed"
NO_ANSWER: Final = "no answer"
MEANINGS: Final = (*(str(label) for label in LABELS), CHANGES, NO_ANSWER)
# Values of `error` that mean no error.
_FALSE: Final = ("", "0", "0.0", "false", "no", "none", "null", "nan", "nat", "na", "<na>", "n/a", "[]", "{}")


def completions_of(table: pd.DataFrame) -> npt.NDArray[Any]:
    """(N,) the text of each row's completion, given as text or as messages, of which the last one is read."""
    found: list[str | None] = []
    for at, value in enumerate(table["completion"].astype(object) if "completion" in table else [None] * len(table)):
        text = isinstance(value, str) and not looks_like_messages(value)
        if text or is_missing(value):
            found.append(None if is_missing(value) else str(value).strip() or None)
            continue
        try:
            found.append(read_last_reply(value).whole.strip() or None)
        except MessageError as error:
            row = table.iloc[at]
            raise InputError(
                f"{row['file']}, row {row['row']}: completion is neither text nor a list of messages ({error}); fix it"
            ) from None
    return as_objects(found)


def failures_of(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """(N,) whether a row failed: its `error` holds something that does not mean "no error"."""
    if "error" not in table:
        return np.zeros(len(table), dtype=bool)
    return np.array([_is_true(value) for value in table["error"].astype(object)], dtype=bool)


def _is_true(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().casefold() not in _FALSE
    if isinstance(value, list | dict) or hasattr(value, "__len__"):
        return len(value) > 0
    return not is_missing(value) and bool(value)


def _meaning(labels: Mapping[str, str]) -> dict[str, str]:
    """The meaning of each answer, by its text in lower case."""
    for theirs, ours in labels.items():
        if ours not in MEANINGS:
            raise InputError(f"labels: {theirs!r} means {ours!r}; use one of {', '.join(repr(m) for m in MEANINGS)}")
    return label_words(labels)


def answers_of(
    table: pd.DataFrame, likeliest: npt.NDArray[Any], texts: npt.NDArray[Any], labels: Mapping[str, str]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(N,) each row's answer, None for none, and (N,) why there is none.

    The answer is the first of these that the row has: its `answer`, the likeliest label of its scores, the answer in
    its completion. In joined files, rows may have different ones.
    """
    meaning = _meaning(labels)
    answer, status = _parsed_answers(texts, {normalize_word(theirs): ours for theirs, ours in labels.items()})
    scored = np.array([one is not None for one in likeliest], dtype=bool)
    answer[scored] = likeliest[scored]
    if "answer" in table:
        given, is_given = _given_answers(table, meaning)
        answer[is_given] = given[is_given]
        status[is_given] = str(Status.MALFORMED)
    return answer, status


def _given_answers(table: pd.DataFrame, meaning: Mapping[str, str]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """(N,) the meaning of the column `answer`, None for no answer; and (N,) whether the column is filled."""
    texts = text_column(table, "answer")
    unknown = np.array([text is not None and normalize_word(text) not in meaning for text in texts], dtype=bool)
    if unknown.any():
        text = str(texts[unknown][0])[:60]
        refuse_rows(table, unknown, f"answer {text!r} is no label; say what it means: --label '{text}=LABEL'")
    meanings = [None if text is None else meaning[normalize_word(text)] for text in texts]
    return as_objects([None if one == NO_ANSWER else one for one in meanings]), np.array(
        [one is not None for one in meanings], dtype=bool
    )


def _parsed_answers(texts: npt.NDArray[Any], words: Mapping[str, str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(N,) the answer of each completion between its one pair of tags, None for none; and (N,) why there is none.

    An answer is a label as our own parser reads it, or one of the user's `words`. A text with no known answer, or with
    two, is malformed, as it would be from our own models.
    """
    answer, status = as_objects([None] * len(texts)), as_objects([str(Status.MALFORMED)] * len(texts))
    for at, text in enumerate(texts):
        between = [] if text is None else tagged_answers(text)
        if len(between) == 1:
            word = split_confidence(between[0])[0]
            label = exact_label(word)
            meaning = words.get(normalize_word(word)) if label is None else str(label)
            answer[at] = None if meaning == NO_ANSWER else meaning
        if text is not None and parse_answer(text).status is Status.INCOMPLETE:
            status[at] = str(Status.INCOMPLETE)
    return answer, status
