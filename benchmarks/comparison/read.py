"""Scores from a file: a log of inspect, lm-eval or verifiers, or a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.comparison.inspect_logs import read_inspect
from benchmarks.comparison.lm_eval_logs import is_lm_eval, read_lm_eval
from benchmarks.comparison.records import score_value, scores_frame
from benchmarks.comparison.verifiers_logs import is_results, is_traces, read_results, read_traces
from benchmarks.tables import KINDS, BrokenRow, Row, Table, check_kind, iter_rows, numbers, read_table
from rewards import InputError

# Words of a table's status column. All others mean that the completion is complete.
INCOMPLETE: Final = ("incomplete", "truncated", "length", "max_tokens")
ERROR: Final = ("error", "unscorable")


@dataclass(frozen=True)
class Keys:
    """Names by which a file's columns, or fields of its samples, are found.

    Attributes:
        item: of the item; None for `item_id` in a table and for a log's own ids.
        score: of the score; None for `score` in a table and for a log's only one.
        seed: of the training run; None for a single run.
        status: of a table's status column; None for none.
        clusters: of the cluster keys.
    """

    item: str | None = None
    score: str | None = None
    seed: str | None = None
    status: str | None = None
    clusters: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreFile:
    """Scores as read from one file.

    Attributes:
        frame: see `benchmarks.comparison.scores`.
        source: kind of file: `inspect`, `lm-eval`, `verifiers` or `table`.
        score: name of the score in the file.
        notes: what a reader should know of the run, in sentences.
    """

    frame: pd.DataFrame
    source: str
    score: str
    notes: list[str] = field(default_factory=list)


def read_systems(words: Sequence[str], keys: Keys) -> tuple[dict[str, pd.DataFrame], list[ScoreFile]]:
    """Read the files of several systems.

    Args:
        words: `FILE`, or `NAME=FILE`. Files of one name are training runs of one system, numbered from 0.
        keys: where to look in each.

    Returns:
        The frames by name, and all files read.

    Raises:
        InputError: a file is bad, or a name has several files and its files have a seed of their own.
    """
    files: dict[str, list[Path]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        named = bool(equals) and not Path(word).exists()
        files.setdefault(name if named else _short_name(word, words), []).append(Path(path if named else word))
    read = {name: [read_scores(path, keys) for path in paths] for name, paths in files.items()}
    systems = {}
    for name, runs in read.items():
        if len(runs) > 1 and keys.seed is not None:
            raise InputError(f"{name}: {len(runs)} files and --seed; give one file with all runs, or no --seed")
        frames = [one.frame if len(runs) == 1 else one.frame.assign(seed=at) for at, one in enumerate(runs)]
        systems[name] = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    return systems, [one for runs in read.values() for one in runs]


def _short_name(word: str, words: Sequence[str]) -> str:
    """A file's stem where no other file has it, else its whole path."""
    stems = [Path(other).stem for other in words]
    return Path(word).stem if stems.count(Path(word).stem) == 1 else word


def read_scores(path: Path, keys: Keys) -> ScoreFile:
    """Read the scores of one file. Its kind is told by its suffix and its first line.

    Args:
        path: a log (`.eval`, `.jsonl`) or a table (`.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.parquet`).
        keys: where to look.

    Returns:
        The scores.

    Raises:
        InputError: the file is bad or of another kind, or a key is not in it.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file of scores (runs of `synthpert eval` go to `report`)")
    kind = check_kind(path, (".eval", *KINDS))
    if kind == ".eval":
        records, notes = read_inspect(path)
        return _log(path, records, "inspect", keys, notes)
    if kind in (".jsonl", ".ndjson"):
        first = next((record for _, record in islice(iter_rows(path, ()), 1)), {})
        if isinstance(first, Mapping) and is_lm_eval(first):
            return _log(path, read_lm_eval(_whole(path)), "lm-eval", keys)
        if isinstance(first, Mapping) and is_traces(first):
            return _log(path, read_traces(path, _whole(path)), "verifiers", keys)
        if isinstance(first, Mapping) and is_results(first):
            return _log(path, read_results(_whole(path)), "verifiers", keys)
    return _table(path, keys)


def _log(path: Path, records: Any, source: str, keys: Keys, notes: Sequence[str] = ()) -> ScoreFile:
    if keys.status is not None:
        raise InputError(f"{path}: a log of {source} has its own outcomes; leave --status to tables")
    try:
        frame, score = scores_frame(
            path, records, item=keys.item, score=keys.score, seed=keys.seed, clusters=keys.clusters
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not as {source} writes it ({type(error).__name__}: {error}); write a table with an item's id and "
            "score instead"
        ) from None
    return ScoreFile(frame, source, score, list(notes))


def _whole(path: Path) -> Iterator[Row]:
    """The rows of a file; the first that cannot be read is an error."""
    for row, record in iter_rows(path, ()):
        if isinstance(record, BrokenRow):
            raise InputError(f"{path}, row {row}: {record.reason}; fix the row, or run the evaluation again")
        yield row, record


def _table(path: Path, keys: Keys) -> ScoreFile:
    item, score = keys.item or "item_id", keys.score or "score"
    options = {"--id": item, "--score": score, "--seed": keys.seed, "--status": keys.status}
    wanted = [name for name in options.values() if name is not None]
    table = read_table(path, {*wanted, *keys.clusters})
    options |= {f"--cluster {key}": key for key in keys.clusters}
    for option, name in options.items():
        if name is not None and name not in table.names:
            raise InputError(
                f"{path}: no column {name!r} ({option.split()[0]}); it has {', '.join(map(repr, table.names))}"
            )
    columns: dict[str, Any] = {"item_id": _text(table, item), "score": _scores(table, score)}
    if keys.seed is not None:
        columns["seed"] = _text(table, keys.seed)
    if keys.status is not None:
        columns["outcome"] = _outcomes(table.frame[keys.status])
    return ScoreFile(pd.DataFrame(columns | {key: _text(table, key) for key in keys.clusters}), "table", score)


def _text(table: Table, column: str) -> pd.Series:
    """A column as text; 1, 1.0 and "1" are one value, so that files of several kinds agree."""
    values = table.frame[column]
    table.refuse(values.isna(), "fill it in, or leave the row out", column)
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        whole = values.to_numpy(dtype=np.float64)
        if (whole == np.floor(whole)).all() and np.abs(whole).max(initial=0) < 2**53:
            values = values.astype(np.int64)
    return values.astype(str)


def _scores(table: Table, column: str) -> npt.NDArray[np.float64]:
    values = table.frame[column]
    found = np.array(numbers(values.astype(np.float64) if pd.api.types.is_bool_dtype(values.dtype) else values))
    unread = np.isnan(found) & values.notna().to_numpy()
    words: dict[Any, float] = {}
    for word in values[unread].astype(str).unique():
        try:
            words[word] = score_value(word)
        except ValueError:
            wrong = unread & (values.astype(str) == word).to_numpy()
            table.refuse(wrong, "write a number, or leave it empty where there is no score", column)
    found[unread] = values[unread].astype(str).map(words).to_numpy(dtype=np.float64)
    return found


def _outcomes(status: pd.Series) -> npt.NDArray[Any]:
    word = status.fillna("").astype(str).str.strip().str.casefold().to_numpy(dtype=object)
    return np.where(np.isin(word, INCOMPLETE), "incomplete", np.where(np.isin(word, ERROR), "unscorable", "complete"))
