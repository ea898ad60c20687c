"""Predictions made elsewhere, read by column mapping and matched to the labelled items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.imported.answers import CHANGES, NO_ANSWER, answers_of, completions_of, failures_of
from benchmarks.evaluation.imported.columns import (
    KEYS,
    named_files,
    read_rows,
    refuse_rows,
    text_column,
    whole_number_column,
)
from benchmarks.evaluation.imported.expression import ScoredChanges, score_changes
from benchmarks.evaluation.imported.items import MatchedRows, match_rows
from benchmarks.evaluation.imported.scores import fill_directions, scores_of
from benchmarks.evaluation.predictions import COLUMNS, PROBABILITIES, TASKS
from benchmarks.evaluation.run import check_training_seed
from benchmarks.evidence.corpus import Corpus
from benchmarks.tables import normalize_word
from rewards import LABELS, InputError, Label, Status
from rewards.answer import split_confidence, tagged_answers

_TIE: Final = 1e-6  # smaller differences of two probabilities are rounding, 32 bits too


@dataclass(frozen=True)
class Imported:
    """The content of files of predictions.

    Attributes:
        predictions: a predictions frame, in the files' order.
        tasks: those of `TASKS` that the system answers.
        unmatched: rows that match no test item: `file, row, cell_line, pert, gene, reason`.
        missing: number of test items that the files lack.
        contradictions: rows whose answer has a smaller probability than another answer: `file, row`.
    """

    predictions: pd.DataFrame
    tasks: tuple[str, ...]
    unmatched: pd.DataFrame
    missing: int
    contradictions: pd.DataFrame


def read_imported(
    files: Sequence[str],
    corpus: Corpus,
    *,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    training_seed: int = 0,
) -> Imported:
    """Read predictions made elsewhere and match them to the test items of a corpus.

    Each row has `cell_line` (unless its file is given as `LINE=FILE`), `pert`, `gene`, and one or more of:

    - `answer`: a label, or a word that `labels` maps to a label, to `differentially expressed` (direction unknown) or
      to `no answer`. Letter case does not matter.
    - `completion`: the whole text. In a row without `answer` and scores, the answer is the text between its one pair
      of answer tags. A completion whose answer has no known meaning is malformed.
    - `p_up, p_down, p_none`: they sum to 1 within 0.01 and are normalised.
    - `p_de`, the probability of a change, and `p_dir`, the probability of up given a change. Together they give
      p_none = 1 - p_de and p_up = p_de p_dir.

    Some files answer one task only:

    - `p_de` alone, or answers without direction: the task `de`.
    - `p_dir` alone: the task `dir`, whose test items are those that change.

    An empty `answer` is filled from the scores: the likeliest label, on a tie the first of `LABELS`. From `p_de` and
    `p_dir` it is a change if p_de is at least 0.5, and up if p_dir is at least 0.5. A row whose `error` is not empty is
    unscorable. `sample` and `seed` are read if the file has them.

    Args:
        files: see `import_run`.
        corpus: labels under a split.
        columns: from our column names to those of the files.
        labels: from answers in the files to one of `MEANINGS`.
        training_seed: seed of all rows; must be 0 if the files have a column `seed`.

    Returns:
        The predictions, with the rows that match no test item.

    Raises:
        InputError: one of these (rows are counted as in `benchmarks.tables`):
            - a file cannot be read or is of another format (pickles are never opened);
            - a column is missing;
            - a row has an unknown answer, a bad score, or the item, sample and seed of another row;
            - no row matches a test item.
    """
    read = [read_rows(line, path, columns or {}) for line, path in named_files(files, corpus)]
    if not sum(map(len, read)):
        raise InputError(f"{files[0]}: holds no rows; give a file of predictions")
    if labels and not any({"answer", "completion"} & set(table) for table in read):
        raise InputError(f"labels: {next(iter(labels))!r} is no answer here, the files have only scores; leave it out")
    check_training_seed(training_seed)
    if training_seed and any("seed" in table for table in read):
        raise InputError(f"training_seed: {training_seed}, but the files have seeds of their own; leave it out")
    return _joined(files, read, corpus, labels or {}, training_seed)


def read_expression(
    files: Sequence[str],
    corpus: Corpus,
    *,
    columns: Mapping[str, str] | None = None,
    control: str | None = None,
    training_seed: int = 0,
) -> tuple[Imported, ScoredChanges]:
    """Read predicted changes of expression and score the test items of a corpus.

    Args:
        files: see `import_expression`.
        corpus: labels under a split.
        columns, control: see `score_changes`.
        training_seed: seed of all rows.

    Returns:
        The predictions, which answer all tasks, and what was made of the changes.

    Raises:
        InputError: see `score_changes`.
    """
    check_training_seed(training_seed)
    scored = score_changes(named_files(files, corpus), corpus, columns=columns, control=control)
    return _joined(files[:1], [scored.table], corpus, {}, training_seed), scored


def _joined(
    files: Sequence[str], tables: Sequence[pd.DataFrame], corpus: Corpus, labels: Mapping[str, str], training_seed: int
) -> Imported:
    """Match the rows of tables to items, parse them, and join them."""
    parts = [match_rows(table, corpus) for table in tables]
    parsed = [_parse_rows(part.rows, labels) for part in parts]
    if not any(len(part.rows) for part in parts):
        first = next(part.unmatched["reason"].iloc[0] for part in parts if len(part.unmatched))
        raise InputError(f"{files[0]}: no row matches a test item ({first}); check the columns and the split")
    _refuse_unused(parts, parsed, labels)
    _refuse_other_kinds(files, parsed)
    frames = [_frame(part, one, training_seed) for part, one in zip(parts, parsed, strict=True)]
    frame = pd.concat(frames, ignore_index=True)
    rows = pd.concat([part.rows[["file", "row"]] for part in parts], ignore_index=True)
    refuse_rows(
        rows,
        frame.duplicated(["item_id", "sample", "seed"]),
        "an earlier row has this item, sample and seed; remove one, or number the samples in `sample`",
    )
    tasks = tuple(task for task in TASKS if all(task in one.tasks for one in parsed))
    unmatched = pd.concat([part.unmatched for part in parts], ignore_index=True)
    missing = parts[0].n_items - frame["item_id"].nunique()
    return Imported(frame[COLUMNS], tasks, unmatched, missing, rows[np.concatenate([one.against for one in parsed])])


@dataclass(frozen=True)
class _Parsed:
    """The answers, scores and texts of a file's rows.

    Attributes:
        kind: the tasks answered, None where answers leave that open, and whether the file has scores.
        tasks: the tasks answered; not `three_class` where a change has no direction.
        prob: (N, 3) probabilities of the labels, NaN where unknown.
        answer: (N,) labels, None for no answer.
        status: (N,) values of `Status`.
        texts: (N,) completions, None where there are none.
        against: (N,) whether another answer has a larger probability.
    """

    kind: tuple[tuple[str, ...] | None, bool]
    tasks: tuple[str, ...]
    prob: npt.NDArray[np.float64]
    answer: npt.NDArray[Any]
    status: npt.NDArray[Any]
    texts: npt.NDArray[Any]
    against: npt.NDArray[np.bool_]


def _parse_rows(rows: pd.DataFrame, labels: Mapping[str, str]) -> _Parsed:
    """Read answers, scores, texts and errors of a file's rows."""
    texts = completions_of(rows)
    failed = failures_of(rows)
    prob, likeliest, kinds = scores_of(rows, failed)
    answer, status = answers_of(rows, likeliest, texts, labels)
    answer[failed] = None
    tasks = fill_directions(rows, answer, kinds, likeliest)
    status[[value is not None for value in answer]] = str(Status.ANSWERED)
    status[failed] = str(Status.ERROR)
    against = _against(prob, answer, likeliest, directed="de" not in tasks or "dir" in tasks)
    undirected = answer == CHANGES
    answer[undirected] = str(Label.UP)  # stands for a change; its direction is never scored
    is_open = kinds is None and not any(one not in (None, str(Label.NONE)) for one in answer)
    kind = None if is_open else tasks
    if undirected.any() and "three_class" in tasks:
        tasks = tuple(task for task in tasks if task != "three_class")
    prob[status != str(Status.ANSWERED)] = np.nan
    return _Parsed((kind, kinds is not None), tasks, prob, answer, status, texts, against)


def _against(
    prob: npt.NDArray[np.float64], answer: npt.NDArray[Any], likeliest: npt.NDArray[Any], *, directed: bool
) -> npt.NDArray[np.bool_]:
    """(N,) whether a row's answer has a smaller probability than the likeliest one by its scores.

    A row without an answer or scores never has. Without `directed`, up and down are one answer: a change.
    """
    by_answer: dict[str | None, npt.NDArray[np.float64]] = {
        None: np.full(len(prob), np.nan),
        CHANGES: prob[:, 0] + prob[:, 1],
    }
    for at, label in enumerate(map(str, LABELS)):
        by_answer[label] = prob[:, at] if directed or label == str(Label.NONE) else by_answer[CHANGES]
    given, most = (
        np.array([by_answer[one][row] for row, one in enumerate(answers)], dtype=float)
        for answers in (answer, likeliest)
    )
    return np.asarray(given < most - _TIE)


def _frame(part: MatchedRows, parsed: _Parsed, training_seed: int) -> pd.DataFrame:
    frame = pd.DataFrame({key: part.items[key].astype("str") for key in ("item_id", *KEYS, "label")})
    for key, default, most in (("sample", 0, 2**31 - 1), ("seed", training_seed, 2**63 - 1)):
        frame[key] = whole_number_column(part.rows, key, default, most)
    frame["completion"] = parsed.texts
    frame["answer"], frame["status"] = parsed.answer, parsed.status
    for at, key in enumerate(PROBABILITIES):
        frame[key] = parsed.prob[:, at]
    frame["completion_tokens"] = 0
    frame["prompt_tokens"] = pd.array([pd.NA] * len(frame), dtype="Int32")
    frame["finish_reason"] = np.where(parsed.status == str(Status.ERROR), "error", "imported")
    return frame


def _refuse_unused(parts: Sequence[MatchedRows], parsed: Sequence[_Parsed], labels: Mapping[str, str]) -> None:
    """Refuse an entry of `labels` that no row has, since it may be misspelt; a word for no answer may be absent."""
    used = {normalize_word(text) for part in parts for text in text_column(part.rows, "answer") if text is not None}
    texts = [text for one in parsed for text in one.texts if text is not None] if labels else []
    used.update(normalize_word(split_confidence(answer)[0]) for text in texts for answer in tagged_answers(text))
    for theirs, ours in labels.items():
        if ours != NO_ANSWER and normalize_word(theirs) not in used:
            raise InputError(
                f"--label {theirs}={ours}: no row has {theirs!r} as its answer; correct it, or leave it out"
            )


def _refuse_other_kinds(files: Sequence[str], parsed: Sequence[_Parsed]) -> None:
    """Refuse files of one system with different kinds of answers: tasks that one file lacks would count against it."""
    pairs = list(zip(files, parsed, strict=True))
    known, like = next(((file, one.kind) for file, one in pairs if one.kind[0] is not None), (files[0], parsed[0].kind))
    for file, one in pairs:
        tasks, scored = one.kind
        if scored != like[1] or tasks not in (None, like[0]):
            descriptions = [
                f"{name} tells {' and '.join(kind[0] or TASKS)} by {'scores' if kind[1] else 'answers'}"
                for name, kind in ((file, one.kind), (known, like))
            ]
            raise InputError(f"{', while '.join(descriptions)}; import them separately, or join them by item")
