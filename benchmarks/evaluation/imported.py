"""Predictions made elsewhere: read by column mapping, matched to PerturbQA's items, kept as a run that reports take."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.predictions import COLUMNS, PROBABILITIES, TASKS, write_predictions
from benchmarks.evaluation.run import PREDICTIONS
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.files import file_sha256, write_text
from benchmarks.runs import open_run
from benchmarks.screens.schema import CELL_LINES
from benchmarks.tables import numbers, read_table
from rewards import LABELS, InputError, Label, Status

UNMATCHED: Final = "unmatched.csv"
KEYS: Final = ("cell_line", "pert", "gene")
# What a file can hold, under our names.
MAPPED: Final = (*KEYS, "answer", "completion", "error", "sample", "seed", *PROBABILITIES, "p_de", "p_dir")
SCORES: Final = frozenset({*PROBABILITIES, "p_de", "p_dir"})
# What a foreign answer can mean, besides one of the labels.
CHANGES: Final = "differentially expressed"
NO_ANSWER: Final = "no answer"
MEANINGS: Final = (*(str(label) for label in LABELS), CHANGES, NO_ANSWER)
# Where the direction is known too, the least probability of a change that is kept: at 0 it would be lost.
_LEAST_CHANGE: Final = 1e-9
_ANSWER: Final = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Imported:
    """What files of predictions hold.

    Attributes:
        predictions: a predictions frame, in the files' order.
        tasks: those of `TASKS` that the system answers.
        unmatched: rows that are of no item asked for: `file, row, cell_line, pert, gene, reason`.
        missing: number of items asked for that the files lack.
    """

    predictions: pd.DataFrame
    tasks: tuple[str, ...]
    unmatched: pd.DataFrame
    missing: int


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
        files: `.csv`, `.jsonl` or `.parquet` files, `LINE=FILE` for one that holds one cell line without saying so.
        out: the run folder.
        name: what reports call the system.
        columns, labels, training_seed: see `read_imported`.
        data, split: of the labels; only the split's test items are asked for.
        allow_unmatched: leave out rows that are of no such item; they are listed in `unmatched.csv` in any case.

    Returns:
        The run folder: `config.yaml`, `manifest.json`, `predictions.parquet`, and `unmatched.csv` where rows were left
        out.

    Raises:
        InputError: see `read_imported`; or rows match no item (without `allow_unmatched`; the message names the first,
            and where all are listed), or the folder holds a run of another configuration.
    """
    corpus = open_corpus(data, split)
    imported = read_imported(files, corpus, columns=columns, labels=labels, training_seed=training_seed)
    if len(imported.unmatched) and not allow_unmatched:
        first = imported.unmatched.iloc[0]
        write_text(out / UNMATCHED, imported.unmatched.to_csv(index=False))
        raise InputError(
            f"{first['file']}, row {first['row']}: {first['reason']}; {len(imported.unmatched):,} rows do not match, "
            f"all listed in {out / UNMATCHED}; mend them, or leave them out with --allow-unmatched"
        )
    if out.is_dir() and [path.name for path in out.iterdir()] == [UNMATCHED]:
        (out / UNMATCHED).unlink()  # the list of an earlier attempt
    sources = [{"file": str(path), "cell_line": line, "sha256": file_sha256(path)} for line, path in _sources(files)]
    how = {"files": sources, "columns": dict(columns or {}), "labels": dict(labels or {})}
    run = open_run(
        out, "eval", {"name": name, "data": data, "split": split, "training_seed": training_seed, "imported": how}
    )
    if run.done:
        return run.path
    frame = imported.predictions
    facts = {
        "format": 1,
        "imported": how,
        "tasks": list(imported.tasks),
        "data": {"sha256": corpus.digest, "split": split},
        "run": {"name": name},
    }
    if imported.tasks == ("de",):
        facts["note"] = f"no direction is told: the answer {Label.UP} stands for {CHANGES!r}"
    write_predictions(frame, run.path / PREDICTIONS, facts)
    if len(imported.unmatched):
        write_text(run.path / UNMATCHED, imported.unmatched.to_csv(index=False))
    run.finish(
        name=name,
        imported=[path.name for _, path in _sources(files)],
        tasks=list(imported.tasks),
        seeds=sorted({int(seed) for seed in frame["seed"].unique()}),
        rows=len(frame),
        items=int(frame["item_id"].nunique()),
        items_missing=imported.missing,
        statuses={str(status): int(count) for status, count in frame["status"].value_counts().items()},
        unmatched={str(reason): int(count) for reason, count in imported.unmatched["reason"].value_counts().items()},
    )
    return run.path


def read_imported(
    files: Sequence[str],
    corpus: Corpus,
    *,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    training_seed: int = 0,
) -> Imported:
    """Read predictions made elsewhere and match them to the test items of a corpus.

    Each row says its `cell_line` (or its file does), `pert` and `gene`, and one or more of:

    - `answer`: a label, or what `labels` maps to one, to `differentially expressed` (direction unknown) or to
      `no answer`; empty is no answer. Letter case does not matter.
    - `completion`: the whole text. Without `answer` and scores, the answer is what stands between its one pair of
      answer tags; a text whose answer means nothing is malformed.
    - `p_up, p_down, p_none`: they add up to 1 within 0.01 and are normalised.
    - `p_de`, the probability of a change, and `p_dir`, that of up given a change: together p_none = 1 - p_de,
      p_up = p_de p_dir. `p_de` alone, or answers without direction, answer the task `de` alone; `p_dir` alone answers
      the task `dir` alone, which is asked of the items that change.

    Where no answer is given, it is the likeliest label, the first of `LABELS` on a tie; from `p_de` and `p_dir`, a
    change where p_de is at least 0.5, up where p_dir is. `error`, where not empty, makes a row unscorable. `sample` and
    `seed` are read where there.

    Args:
        files: see `import_run`.
        corpus: labels under a split.
        columns: our column name -> the files'.
        labels: an answer of the files -> one of `MEANINGS`.
        training_seed: of all rows; 0 where the files have a `seed`.

    Raises:
        InputError: a file does not read or is of another format (pickles are never opened), a column is missing, a row
            has an unknown answer, a bad score or the same item, sample and seed as another, or no row matches. Rows are
            counted as in `benchmarks.tables`.
    """
    table = pd.concat([_read_file(line, path, columns or {}) for line, path in _sources(files)], ignore_index=True)
    if table.empty:
        raise InputError(f"{files[0]}: holds no rows; give a file of predictions")
    direction_only = SCORES & set(table) == {"p_dir"}
    reasons = _reasons(table, corpus, direction_only=direction_only)
    unmatched = table.loc[reasons != "", ["file", "row", *KEYS]].assign(reason=reasons[reasons != ""])
    matched = table[reasons == ""].reset_index(drop=True)
    if matched.empty:
        raise InputError(f"{files[0]}: no row matches a test item ({reasons[0]}); check the columns and the split")

    asked = corpus.test[corpus.test["label"].astype("str") != str(Label.NONE)] if direction_only else corpus.test
    items = asked.iloc[pd.Index(asked["item_id"]).get_indexer(pd.Index(_item_ids(matched)))].reset_index(drop=True)
    frame = pd.DataFrame({key: items[key].astype("str") for key in ("item_id", *KEYS, "label")})
    for key, default in (("sample", 0), ("seed", training_seed)):
        frame[key] = _whole_numbers(matched, key, default)
    if "seed" in matched and training_seed:
        raise InputError(f"training_seed: {training_seed}, but the files have seeds of their own; leave it out")
    frame["completion"] = _texts(matched, "completion") if "completion" in matched else None
    given_answers, undirected = _answers(matched, labels or {})
    prob, answer, tasks = _scores(matched, given_answers, undirected=undirected)
    failed = np.array([text is not None for text in _texts(matched, "error")], dtype=bool)
    answer[failed] = None
    given = np.array([value is not None for value in answer], dtype=bool)
    frame["answer"] = answer
    frame["status"] = np.where(failed, str(Status.ERROR), np.where(given, str(Status.ANSWERED), str(Status.MALFORMED)))
    for at, key in enumerate(PROBABILITIES):
        frame[key] = np.where(given, prob[:, at], np.nan)
    frame["completion_tokens"] = 0
    frame["finish_reason"] = np.where(failed, "error", "imported")
    _refuse(matched, frame.duplicated(["item_id", "sample", "seed"]), "the item, sample and seed are in an earlier row")
    missing = len(asked) - frame["item_id"].nunique()
    return Imported(frame[COLUMNS], tasks, unmatched.reset_index(drop=True), missing)


def _sources(files: Sequence[str]) -> list[tuple[str | None, Path]]:
    """Cell line, where the word gives it, and path of each file."""
    found: list[tuple[str | None, Path]] = []
    for word in files:
        line, equals, path = str(word).partition("=")
        known = bool(equals) and line.lower() in CELL_LINES
        found.append((line.lower(), Path(path)) if known else (None, Path(word)))
    return found


def _read_file(line: str | None, path: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """A file's rows under our names, with `file` and `row`; columns that mean nothing to us are left out."""
    unknown = [key for key in columns if key not in MAPPED]
    if unknown:
        raise InputError(f"columns: {unknown[0]!r} is none of ours; map one of {', '.join(MAPPED)}")
    read = read_table(path, {columns.get(key, key) for key in MAPPED})
    table = read.frame
    for ours, theirs in columns.items():
        if theirs not in table:
            raise InputError(f"{path}: no column {theirs!r} (for {ours}); it has {', '.join(read.names)}")
    kept = {key: table[columns.get(key, key)] for key in MAPPED if columns.get(key, key) in table}
    # A column that is mapped to another name does not also count under its own.
    kept = {key: column for key, column in kept.items() if key in columns or key not in columns.values()}
    if line is not None:
        if "cell_line" in kept:
            raise InputError(f"{path}: says its cell lines itself; give the file without {line}=")
        kept["cell_line"] = pd.Series(line, index=table.index)
    for key in KEYS:
        if key not in kept:
            hint = f"or give LINE={path}" if key == "cell_line" else f"--map {key}=THEIRS"
            raise InputError(f"{path}: no column {key!r}; map it, {hint} (it has {', '.join(read.names)})")
    scores = SCORES & set(kept)
    if not scores | {"answer", "completion"} & set(kept):
        raise InputError(
            f"{path}: neither an answer, a completion nor scores; map one of answer, completion, p_de, p_dir, or "
            f"{', '.join(PROBABILITIES)}"
        )
    if 0 < len(scores & set(PROBABILITIES)) < len(PROBABILITIES):
        raise InputError(f"{path}: some of {', '.join(PROBABILITIES)}, but not all; map all three")
    if scores & set(PROBABILITIES) and scores - set(PROBABILITIES):
        raise InputError(f"{path}: {', '.join(PROBABILITIES)} and p_de or p_dir; map one kind")
    return pd.DataFrame(kept).assign(file=str(path), row=read.rows)


def _item_ids(table: pd.DataFrame) -> pd.Series:
    line, pert, gene = (table[key].astype("str") for key in KEYS)
    return line.str.strip().str.lower() + "|" + pert.str.strip() + "|" + gene.str.strip()


def _reasons(table: pd.DataFrame, corpus: Corpus, *, direction_only: bool) -> npt.NDArray[Any]:
    """(N,) why a row is of no item asked for; "" where it is of one."""
    at = pd.Index(corpus.labels["item_id"]).get_indexer(pd.Index(_item_ids(table)))
    known = at >= 0
    line = table["cell_line"].astype("str").str.strip().str.lower().isin(CELL_LINES).to_numpy()
    is_test = np.where(known, (corpus.labels["split"] == "test").to_numpy()[at], False)
    reasons = np.full(len(table), "", dtype=object)
    reasons[~line] = f"the cell line is none of {', '.join(CELL_LINES)}"
    where = "the sample" if corpus.is_sample else "PerturbQA"
    reasons[line & ~known] = f"{where} has no such perturbation and gene in this cell line"
    reasons[known & ~is_test] = f"a training item under the split {corpus.split}"
    if direction_only:
        unchanged = (corpus.labels["label"].astype("str") == str(Label.NONE)).to_numpy()[at]
        reasons[known & is_test & unchanged] = "not differentially expressed, so that it has no direction"
    return reasons


def _texts(table: pd.DataFrame, key: str) -> npt.NDArray[Any]:
    """(N,) stripped texts, None where empty or absent; whole numbers without a decimal point."""
    if key not in table:
        return np.full(len(table), None, dtype=object)
    found = []
    for value in table[key].astype(object):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        text = "" if value is None or value is pd.NA or value != value else str(value).strip()
        found.append(text or None)
    return np.array(found, dtype=object)


def _answers(table: pd.DataFrame, labels: Mapping[str, str]) -> tuple[npt.NDArray[Any] | None, bool]:
    """(N,) what each row answers, None for nothing; and whether direction is untold. None where scores must tell."""
    for theirs, ours in labels.items():
        if ours not in MEANINGS:
            raise InputError(f"labels: {theirs!r} means {ours!r}; use one of {', '.join(repr(m) for m in MEANINGS)}")
    meaning = {**{str(label): str(label) for label in LABELS}, **labels}
    meaning = {theirs.strip().casefold(): ours for theirs, ours in meaning.items()}
    if "answer" in table:
        texts = _texts(table, "answer")
        unknown = np.array([text is not None and text.casefold() not in meaning for text in texts], dtype=bool)
        if unknown.any():
            text = str(texts[unknown][0])[:60]
            _refuse(table, unknown, f"answer {text!r} is no label; say what it means: --label '{text}=LABEL'")
    elif SCORES & set(table):
        return None, False
    else:
        found = [_ANSWER.findall(text or "") for text in _texts(table, "completion")]
        # A text that says nothing known, or two things, is malformed, as one of our own models' would be.
        texts = np.array([one[0].strip() if len(one) == 1 else None for one in found], dtype=object)
        texts = np.array([t if t is not None and t.casefold() in meaning else None for t in texts], dtype=object)
    answer = np.array([None if text is None else meaning[text.casefold()] for text in texts], dtype=object)
    answer[answer == NO_ANSWER] = None
    undirected = np.array([value == CHANGES for value in answer], dtype=bool)
    directed = np.isin(answer.astype(str), [str(Label.UP), str(Label.DOWN)])
    if undirected.any() and directed.any():
        _refuse(table, undirected, f"{CHANGES!r}, while other rows tell the direction; import them apart")
    return answer, bool(undirected.any())


def _scores(
    table: pd.DataFrame, answer: npt.NDArray[Any] | None, *, undirected: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any], tuple[str, ...]]:
    """(N, 3) probabilities over the labels, NaN where there are none; (N,) answers as labels; what is answered."""
    up, down, unchanged = (str(label) for label in LABELS)
    prob = np.full((len(table), len(LABELS)), np.nan)
    likeliest = np.full(len(table), None, dtype=object)
    tasks: tuple[str, ...] = ("de",) if undirected else TASKS
    if PROBABILITIES[0] in table:
        prob = np.column_stack([_probability(table, key) for key in PROBABILITIES])
        unknown = np.isnan(prob)
        _refuse(table, unknown.any(axis=1) & ~unknown.all(axis=1), "some of the three scores are missing; mend the row")
        total = prob.sum(axis=1, keepdims=True)
        _refuse(table, np.abs(total[:, 0] - 1) > 0.01, "the scores do not add up to 1; mend the row")
        prob = prob / total
        likeliest = np.array(LABELS, dtype=object)[np.where(unknown, -1.0, prob).argmax(axis=1)].astype(str)
    elif "p_de" in table and "p_dir" in table:
        tasks = TASKS
        p_de, p_dir = _probability(table, "p_de"), _probability(table, "p_dir")
        change = np.maximum(p_de, _LEAST_CHANGE)
        prob = np.column_stack([change * p_dir, change * (1 - p_dir), 1 - change])
        direction = np.where(p_dir >= 0.5, up, down).astype(object)
        direction[np.isnan(p_dir)] = None
        likeliest = np.where(p_de >= 0.5, direction, unchanged)
        if answer is not None:
            answer = np.where(answer == CHANGES, direction, answer)
    elif "p_de" in table:
        tasks, p_de = ("de",), _probability(table, "p_de")
        prob = np.column_stack([p_de / 2, p_de / 2, 1 - p_de])
        likeliest = np.where(p_de >= 0.5, up, unchanged)
    elif "p_dir" in table:
        tasks, p_dir = ("dir",), _probability(table, "p_dir")
        prob = np.column_stack([p_dir, 1 - p_dir, np.where(np.isnan(p_dir), np.nan, 0.0)])
        likeliest = np.where(p_dir >= 0.5, up, down)
    if answer is None:
        answer = likeliest.astype(object)
        answer[np.isnan(prob).any(axis=1)] = None
    if tasks == ("de",):
        answer = np.where(answer == CHANGES, up, answer)  # stands for a change; its direction is never scored
    return prob, answer, tasks


def _probability(table: pd.DataFrame, key: str) -> npt.NDArray[np.float64]:
    """(N,) a column of probabilities, NaN where empty."""
    values = numbers(table[key])
    _refuse(table, np.isnan(values) & table[key].notna().to_numpy(), f"{key} is not a number; mend it")
    with np.errstate(invalid="ignore"):
        _refuse(table, (values < 0) | (values > 1), f"{key} is not within 0 and 1; rescale the column")
    return values


def _whole_numbers(table: pd.DataFrame, key: str, default: int) -> npt.NDArray[np.int64]:
    if key not in table:
        return np.full(len(table), default, dtype=np.int64)
    values = numbers(table[key])
    _refuse(table, np.isnan(values) | (values % 1 != 0) | (values < 0), f"{key} is not a whole number; mend it")
    return values.astype(np.int64)


def _refuse(table: pd.DataFrame, wrong: Any, problem: str) -> None:
    rows = np.flatnonzero(np.asarray(wrong, dtype=bool))
    if rows.size:
        row = table.iloc[int(rows[0])]
        raise InputError(f"{row['file']}, row {row['row']}: {problem}")
