"""Import of predictions made elsewhere: read by column mapping, matched to the labelled items, stored as a run."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.predictions import COLUMNS, PROBABILITIES, TASKS, write_predictions
from benchmarks.evaluation.run import PREDICTIONS, check_training_seed
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.files import check_folder, file_sha256, write_text
from benchmarks.messages import MessageError, looks_like_messages, read_last_reply
from benchmarks.runs import open_run
from benchmarks.tables import label_words, normalize_word, numbers, read_table
from rewards import LABELS, InputError, Label, Status, parse_answer
from rewards.answer import exact_label, is_missing, split_confidence, tagged_answers

_logger = logging.getLogger("synthpert.import")
UNMATCHED: Final = "unmatched.csv"
KEYS: Final = ("cell_line", "pert", "gene")
# The columns of a file, under our names.
MAPPED: Final = (*KEYS, "answer", "completion", "error", "sample", "seed", *PROBABILITIES, "p_de", "p_dir")
SCORES: Final = frozenset({*PROBABILITIES, "p_de", "p_dir"})
# Meanings of an answer in a file, besides the three labels.
CHANGES: Final = "differentially expressed"
NO_ANSWER: Final = "no answer"
MEANINGS: Final = (*(str(label) for label in LABELS), CHANGES, NO_ANSWER)
# Smallest probability of a change that is kept where the direction is known too; with 0 the direction would be lost.
_LEAST_CHANGE: Final = 1e-200
_HUGE: Final = 10**30  # larger than any count, yet fast to print
_TOLERANCE: Final = 0.01 + 1e-6  # for a sum of decimals; the second term is for their rounding in binary, 32 bits too
_TIE: Final = 1e-6  # smaller differences of two probabilities are rounding, 32 bits too
# Values of `error` that mean no error.
_FALSE: Final = ("", "0", "0.0", "false", "no", "none", "null", "nan", "nat", "na", "<na>", "n/a", "[]", "{}")


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


def import_run(
    files: Sequence[str],
    out: Path,
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    data: str | None = None,
    split: str = "official",
    training_seed: int = 0,
    allow_unmatched: bool = False,
) -> Path:
    """Write predictions from any other system as a run of stage `eval`.

    Args:
        files: `.csv`, `.jsonl` or `.parquet` files. A file of one cell line without a column for it is `LINE=FILE`.
        out: the run folder.
        name: what reports call the system.
        columns, labels, training_seed: see `read_imported`.
        data, split: labels and split; rows are matched to the split's test items.
        allow_unmatched: leave out rows that match no test item. They are listed in `unmatched.csv` in any case.

    Returns:
        The run folder: `config.yaml`, `manifest.json`, `predictions.parquet`, and `unmatched.csv` if rows were left
        out.

    Raises:
        InputError: see `read_imported`. Also where rows match no test item and `allow_unmatched` is not set (the
            message names the first and the list of all), or the folder holds a run of another configuration.
    """
    check_folder(out)
    corpus = open_corpus(data, split)
    imported = read_imported(files, corpus, columns=columns, labels=labels, training_seed=training_seed)
    if len(imported.unmatched) and not allow_unmatched:
        raise _unmatched_error(imported.unmatched, out)
    if out.is_dir() and [path.name for path in out.iterdir()] == [UNMATCHED]:
        (out / UNMATCHED).unlink()  # from an earlier attempt
    named = _sources(files, corpus)
    sources = [{"file": str(path), "cell_line": line, "sha256": file_sha256(path)} for line, path in named]
    how = {"files": sources, "columns": dict(columns or {}), "labels": dict(labels or {})}
    run = open_run(
        out, "eval", {"name": name, "data": data, "split": split, "training_seed": training_seed, "imported": how}
    )
    if run.done:
        return run.path
    facts = {
        "format": 1,
        "imported": how,
        "tasks": list(imported.tasks),
        "data": {"sha256": corpus.digest, "split": split},
        "run": {"name": name},
    }
    if imported.tasks == ("de",):
        facts["note"] = f"directions are unknown: the answer {Label.UP} stands for {CHANGES!r}"
    elif imported.tasks == ("de", "dir"):
        facts["note"] = f"some directions are unknown: there the answer {Label.UP} stands for {CHANGES!r}"
    write_predictions(imported.predictions, run.path / PREDICTIONS, facts)
    if len(wrong := imported.contradictions):
        _logger.warning(
            "%s, row %d: the answer is not the likeliest one by the row's own probabilities; %s of %s rows are like "
            "this, so accuracy (of the answers) and AUROC (of the probabilities) do not describe the same predictions",
            wrong["file"].iloc[0], wrong["row"].iloc[0], f"{len(wrong):,}", f"{len(imported.predictions):,}",
        )  # fmt: skip
    if len(imported.unmatched):
        write_text(run.path / UNMATCHED, imported.unmatched.to_csv(index=False))
    run.finish(name=name, imported=[path.name for _, path in named], **_counts(imported))
    return run.path


def _unmatched_error(unmatched: pd.DataFrame, out: Path) -> InputError:
    """List the rows that match no test item in a file, and return an error that names the first."""
    write_text(out / UNMATCHED, unmatched.to_csv(index=False))
    first = unmatched.iloc[0]
    return InputError(
        f"{first['file']}, row {first['row']}: {first['reason']}; {len(unmatched):,} rows do not match, all listed in "
        f"{out / UNMATCHED}; correct them, or leave them out with --allow-unmatched"
    )


def _counts(imported: Imported) -> dict[str, Any]:
    """The counts of an import, for its manifest."""
    frame = imported.predictions
    return {
        "tasks": list(imported.tasks),
        "seeds": sorted({int(seed) for seed in frame["seed"].unique()}),
        "rows": len(frame),
        "items": int(frame["item_id"].nunique()),
        "items_missing": imported.missing,
        "statuses": {str(status): int(count) for status, count in frame["status"].value_counts().items()},
        "unmatched": {str(one): int(count) for one, count in imported.unmatched["reason"].value_counts().items()},
        "contradictions": len(imported.contradictions),
    }


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
    read = [_read_file(line, path, columns or {}) for line, path in _sources(files, corpus)]
    if not sum(map(len, read)):
        raise InputError(f"{files[0]}: holds no rows; give a file of predictions")
    if labels and not any({"answer", "completion"} & set(table) for table in read):
        raise InputError(f"labels: {next(iter(labels))!r} is no answer here, the files have only scores; leave it out")
    check_training_seed(training_seed)
    if training_seed and any("seed" in table for table in read):
        raise InputError(f"training_seed: {training_seed}, but the files have seeds of their own; leave it out")
    parts = [_match(table, corpus) for table in read]
    parsed = [_parse_rows(part.rows, labels or {}) for part in parts]
    if not any(len(part.rows) for part in parts):
        first = next(part.unmatched["reason"].iloc[0] for part in parts if len(part.unmatched))
        raise InputError(f"{files[0]}: no row matches a test item ({first}); check the columns and the split")
    _refuse_unused(parts, parsed, labels or {})
    _refuse_other_kinds(files, parsed)
    frames = [_frame(part, one, training_seed) for part, one in zip(parts, parsed, strict=True)]
    frame = pd.concat(frames, ignore_index=True)
    rows = pd.concat([part.rows[["file", "row"]] for part in parts], ignore_index=True)
    _refuse(
        rows,
        frame.duplicated(["item_id", "sample", "seed"]),
        "an earlier row has this item, sample and seed; remove one, or number the samples in `sample`",
    )
    tasks = tuple(task for task in TASKS if all(task in one.tasks for one in parsed))
    unmatched = pd.concat([part.unmatched for part in parts], ignore_index=True)
    missing = parts[0].n_items - frame["item_id"].nunique()
    return Imported(frame[COLUMNS], tasks, unmatched, missing, rows[np.concatenate([one.against for one in parsed])])


@dataclass(frozen=True)
class _Matched:
    """The rows of a file that match test items.

    Attributes:
        rows: N rows under our names.
        items: (N,) the items.
        unmatched: the other rows, with reasons.
        n_items: number of test items of the file's tasks.
    """

    rows: pd.DataFrame
    items: pd.DataFrame
    unmatched: pd.DataFrame
    n_items: int


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


def _match(table: pd.DataFrame, corpus: Corpus) -> _Matched:
    """Find the item of each row. A file with directions alone is matched to the items that change."""
    direction_only = SCORES & set(table) == {"p_dir"}
    reasons = _reasons(table, corpus, direction_only=direction_only)
    unmatched = table.loc[reasons != "", ["file", "row", *KEYS]].assign(reason=reasons[reasons != ""])
    rows = table[reasons == ""].reset_index(drop=True)
    candidates = corpus.test[corpus.test["label"].astype("str") != str(Label.NONE)] if direction_only else corpus.test
    at = pd.Index(candidates["item_id"]).get_indexer(pd.Index(_item_ids(rows, corpus)))
    items = candidates.iloc[at].reset_index(drop=True)
    return _Matched(rows, items, unmatched, len(candidates))


def _parse_rows(rows: pd.DataFrame, labels: Mapping[str, str]) -> _Parsed:
    """Read answers, scores, texts and errors of a file's rows."""
    texts = _completions(rows)
    failed = _failures(rows)
    prob, likeliest, kinds = _scores(rows, failed)
    answer, status = _answers(rows, likeliest, texts, labels)
    answer[failed] = None
    tasks = _directed(rows, answer, kinds, likeliest)
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


def _frame(part: _Matched, parsed: _Parsed, training_seed: int) -> pd.DataFrame:
    frame = pd.DataFrame({key: part.items[key].astype("str") for key in ("item_id", *KEYS, "label")})
    for key, default, most in (("sample", 0, 2**31 - 1), ("seed", training_seed, 2**63 - 1)):
        frame[key] = _whole_numbers(part.rows, key, default, most)
    frame["completion"] = parsed.texts
    frame["answer"], frame["status"] = parsed.answer, parsed.status
    for at, key in enumerate(PROBABILITIES):
        frame[key] = parsed.prob[:, at]
    frame["completion_tokens"] = 0
    frame["prompt_tokens"] = pd.array([pd.NA] * len(frame), dtype="Int32")
    frame["finish_reason"] = np.where(parsed.status == str(Status.ERROR), "error", "imported")
    return frame


def _refuse_unused(parts: Sequence[_Matched], parsed: Sequence[_Parsed], labels: Mapping[str, str]) -> None:
    """Refuse an entry of `labels` that no row has, since it may be misspelt; a word for no answer may be absent."""
    used = {normalize_word(text) for part in parts for text in _texts(part.rows, "answer") if text is not None}
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


def _sources(files: Sequence[str], corpus: Corpus) -> list[tuple[str | None, Path]]:
    """Cell line (None where the argument has none) and path of each file."""
    found: list[tuple[str | None, Path]] = []
    for word in files:
        line, equals, path = str(word).partition("=")
        known = corpus.line_names.get(line.casefold()) if equals else None
        found.append((None, Path(word)) if known is None else (known, Path(path)))
    return found


def _read_file(line: str | None, path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A file's rows under our names, with `file` and `row`; other columns are left out."""
    unknown = [key for key in columns if key not in MAPPED]
    if unknown:
        raise InputError(f"columns: {unknown[0]!r} is unknown; map one of {', '.join(MAPPED)}")
    read = read_table(path, {columns.get(key, key) for key in MAPPED})
    table = read.frame
    for ours, theirs in columns.items():
        if theirs not in table:
            raise InputError(f"{path}: no column {theirs!r} (for {ours}); it has {', '.join(read.names)}")
    kept = {key: table[columns.get(key, key)] for key in MAPPED if columns.get(key, key) in table}
    # A column that is mapped to another name is not also read under its own.
    kept = {key: column for key, column in kept.items() if key in columns or key not in columns.values()}
    if line is not None:
        if "cell_line" in kept:
            raise InputError(f"{path}: has a column of cell lines; give the file without {line}=")
        kept["cell_line"] = pd.Series(line, index=table.index)
    for key in KEYS:
        if key not in kept:
            hint = f"or give LINE={path}" if key == "cell_line" else f"--map {key}=THEIRS"
            raise InputError(f"{path}: no column {key!r}; map it, {hint} (it has {', '.join(read.names)})")
    scores = SCORES & set(kept)
    if not scores | {"answer", "completion"} & set(kept):
        raise InputError(
            f"{path}: has no answer, completion or scores; map one of answer, completion, p_de, p_dir, or "
            f"{', '.join(PROBABILITIES)}"
        )
    if 0 < len(scores & set(PROBABILITIES)) < len(PROBABILITIES):
        raise InputError(f"{path}: has some of {', '.join(PROBABILITIES)}, but not all; map all three")
    if scores & set(PROBABILITIES) and scores - set(PROBABILITIES):
        raise InputError(f"{path}: has both {', '.join(PROBABILITIES)} and p_de or p_dir; map only one kind")
    return pd.DataFrame(kept).assign(file=str(path), row=read.rows)


def _item_ids(table: pd.DataFrame, corpus: Corpus) -> pd.Series:
    line, pert, gene = (table[key].astype("str") for key in KEYS)
    return _lines(line, corpus) + "|" + pert.str.strip() + "|" + gene.str.strip()


def _lines(column: pd.Series, corpus: Corpus) -> pd.Series:
    """Cell lines as the labels write them, whichever letter case they have; others in lower case."""
    plain = column.str.strip()
    return plain.str.casefold().map(corpus.line_names).fillna(plain.str.lower()).astype("str")


def _reasons(table: pd.DataFrame, corpus: Corpus, *, direction_only: bool) -> npt.NDArray[Any]:
    """(N,) why a row matches no test item; "" where it matches one."""
    at = pd.Index(corpus.labels["item_id"]).get_indexer(pd.Index(_item_ids(table, corpus)))
    known = at >= 0
    line = _lines(table["cell_line"].astype("str"), corpus).isin(corpus.lines).to_numpy()
    is_test = np.where(known, (corpus.labels["split"] == "test").to_numpy()[at], False)
    reasons = np.full(len(table), "", dtype=object)
    reasons[~line] = f"the cell line is none of {', '.join(corpus.lines)}"
    where = "the sample" if corpus.is_sample else corpus.screen.name
    reasons[line & ~known] = f"{where} has no such perturbation and gene in this cell line"
    reasons[known & ~is_test] = f"a training item under the split {corpus.split}"
    if direction_only:
        unchanged = (corpus.labels["label"].astype("str") == str(Label.NONE)).to_numpy()[at]
        reasons[known & is_test & unchanged] = "not differentially expressed, so it has no direction"
    return reasons


def _texts(table: pd.DataFrame, key: str) -> npt.NDArray[Any]:
    """(N,) stripped texts, None where empty or absent; whole numbers have no decimal point."""
    found: list[str | None] = []
    for value in table[key].astype(object) if key in table else [None] * len(table):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        nested = isinstance(value, list | dict) or hasattr(value, "tolist")
        _refuse(
            table,
            [nested and at == len(found) for at in range(len(table))] if nested else [],
            f"{key} is no text; write text",
        )
        found.append(None if is_missing(value) else str(value).strip() or None)
    return _objects(found)


def _objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    """(N,) values unchanged; NumPy would turn some into text and some into an axis."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _completions(table: pd.DataFrame) -> npt.NDArray[Any]:
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
    return _objects(found)


def _failures(table: pd.DataFrame) -> npt.NDArray[np.bool_]:
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


def _answers(
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
    texts = _texts(table, "answer")
    unknown = np.array([text is not None and normalize_word(text) not in meaning for text in texts], dtype=bool)
    if unknown.any():
        text = str(texts[unknown][0])[:60]
        _refuse(table, unknown, f"answer {text!r} is no label; say what it means: --label '{text}=LABEL'")
    meanings = [None if text is None else meaning[normalize_word(text)] for text in texts]
    return _objects([None if one == NO_ANSWER else one for one in meanings]), np.array(
        [one is not None for one in meanings], dtype=bool
    )


def _parsed_answers(texts: npt.NDArray[Any], words: Mapping[str, str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(N,) the answer of each completion between its one pair of tags, None for none; and (N,) why there is none.

    An answer is a label as our own parser reads it, or one of the user's `words`. A text with no known answer, or with
    two, is malformed, as it would be from our own models.
    """
    answer, status = _objects([None] * len(texts)), _objects([str(Status.MALFORMED)] * len(texts))
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


def _scores(
    table: pd.DataFrame, failed: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any], tuple[str, ...] | None]:
    """(N, 3) probabilities over the labels, NaN where unknown; (N,) the likeliest answer; the tasks answered.

    A change without a direction is answered `CHANGES`. Without scores there are no tasks.
    """
    if PROBABILITIES[0] in table:
        return *_three_scores(table), TASKS
    p_de = _probability(table, "p_de") if "p_de" in table else None
    p_dir = _probability(table, "p_dir") if "p_dir" in table else None
    if p_de is not None and p_dir is not None and not np.isnan(p_dir).all():
        alone = np.isnan(p_de) & ~np.isnan(p_dir) & ~failed
        _refuse(table, alone, "p_dir without p_de, so a change has no probability; fill in p_de, or leave the row out")
        change = np.maximum(p_de, _LEAST_CHANGE)
        likeliest = np.where(p_de >= 0.5, _direction(p_dir), str(Label.NONE)).astype(object)
        likeliest[np.isnan(p_de)] = None
        return np.column_stack([change * p_dir, change * (1 - p_dir), 1 - change]), likeliest, TASKS
    if p_de is not None:
        likeliest = np.where(p_de >= 0.5, CHANGES, str(Label.NONE)).astype(object)
        likeliest[np.isnan(p_de)] = None
        return np.column_stack([p_de / 2, p_de / 2, 1 - p_de]), likeliest, ("de",)
    if p_dir is not None:
        likeliest = _direction(p_dir)
        likeliest[np.isnan(p_dir)] = None
        return np.column_stack([p_dir, 1 - p_dir, np.where(np.isnan(p_dir), np.nan, 0.0)]), likeliest, ("dir",)
    return np.full((len(table), len(LABELS)), np.nan), _objects([None] * len(table)), None


def _three_scores(table: pd.DataFrame) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    prob = np.column_stack([_probability(table, key) for key in PROBABILITIES])
    unknown = np.isnan(prob)
    _refuse(table, unknown.any(axis=1) & ~unknown.all(axis=1), "some of the three scores are missing; fix the row")
    total = prob.sum(axis=1, keepdims=True)
    _refuse(table, np.abs(total[:, 0] - 1) > _TOLERANCE, "the scores do not add up to 1; fix the row")
    likeliest = np.array(LABELS, dtype=object)[np.where(unknown, -1.0, prob / total).argmax(axis=1)].astype(str)
    likeliest = likeliest.astype(object)
    likeliest[unknown.any(axis=1)] = None
    return prob / total, likeliest


def _direction(p_dir: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """(N,) up or down; `CHANGES` where the direction is unknown."""
    direction = np.where(p_dir >= 0.5, str(Label.UP), str(Label.DOWN)).astype(object)
    direction[np.isnan(p_dir)] = CHANGES
    return direction


def _directed(
    table: pd.DataFrame, answer: npt.NDArray[Any], scored: tuple[str, ...] | None, likeliest: npt.NDArray[Any]
) -> tuple[str, ...]:
    """Give answers without direction the direction of the scores, and return the tasks that are answered."""
    undirected = answer == CHANGES
    if scored == TASKS and "p_dir" in table:
        direction = _direction(_probability(table, "p_dir"))
        answer[undirected] = direction[undirected]
        return TASKS
    if undirected.any() and np.isin(answer.astype(str), [str(Label.UP), str(Label.DOWN)]).any():
        _refuse(table, undirected, f"{CHANGES!r}, while other rows have a direction; import them separately")
    if scored is not None and scored != TASKS:
        return scored
    return ("de",) if undirected.any() else TASKS


def _probability(table: pd.DataFrame, key: str) -> npt.NDArray[np.float64]:
    """(N,) a column of probabilities, NaN where empty."""
    values = numbers(table[key])
    _refuse(table, np.isnan(values) & table[key].notna().to_numpy(), f"{key} is not a number; fix it")
    with np.errstate(invalid="ignore"):
        _refuse(table, (values < 0) | (values > 1), f"{key} is not within 0 and 1; rescale the column")
    return values


def _whole_numbers(table: pd.DataFrame, key: str, default: int, most: int) -> npt.NDArray[np.int64]:
    """(N,) a column of whole numbers from 0 to `most`, exact to the last digit: they are never converted to floats."""
    if key not in table:
        return np.full(len(table), default, dtype=np.int64)
    values = [_whole_number(value) for value in table[key].astype(object)]
    _refuse(table, [value is None for value in values], f"{key} is not a whole number; fix it")
    _refuse(table, [not 0 <= (value or 0) <= most for value in values], f"{key} is not within 0 and {most}; fix it")
    return np.array(values, dtype=np.int64)


def _whole_number(value: Any) -> int | None:
    if is_missing(value) or isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
        return int(number) if abs(number) < _HUGE and number == number.to_integral_value() else None
    except ArithmeticError:  # not a number
        return None


def _refuse(table: pd.DataFrame, wrong: Any, problem: str) -> None:
    rows = np.flatnonzero(np.asarray(wrong, dtype=bool))
    if rows.size:
        row = table.iloc[int(rows[0])]
        raise InputError(f"{row['file']}, row {row['row']}: {problem}")
