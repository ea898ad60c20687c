"""Scores from a file: a log of inspect, lm-eval or verifiers, or a table."""

import filecmp
import glob
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
from benchmarks.comparison.records import Record, score_value, scores_frame
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


def name_systems(words: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each system.

    Args:
        words: `FILE` or `NAME=FILE`, where FILE can be a pattern such as `logs/*.eval`. Files of one name are training
            runs of one system. A file without a name is a system of its own, named by its stem or, where another file
            has the same stem, by its path.

    Returns:
        Files by the system's name, in the order of the words; those of a pattern by name.

    Raises:
        InputError: no file matches a pattern, or a file without a name is given twice.
    """
    named: list[tuple[str, Path]] = []
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            name, path = "", word
        named += [(name, one) for one in _matching(path)]
    unnamed = [file for name, file in named if not name]
    if twice := next((file for file in unnamed if unnamed.count(file) > 1), None):
        raise InputError(f"{twice}: given twice; leave it out once, or give the file of the other system")
    stems = [file.stem for file in unnamed]
    files: dict[str, list[Path]] = {}
    for name, file in named:
        files.setdefault(name or (file.stem if stems.count(file.stem) == 1 else str(file)), []).append(file)
    return files


def _matching(path: str) -> list[Path]:
    """The file, or those that match a pattern."""
    if Path(path).exists() or not any(sign in path for sign in "*?["):
        return [Path(path)]
    found = sorted(glob.glob(path))
    if not found:
        raise InputError(f"{path}: no file matches this pattern; check the path")
    return [Path(one) for one in found]


def equal_files(files: Mapping[str, Sequence[Path]]) -> list[str]:
    """Return a sentence for each two files with the same content; all must exist."""
    named = [(name, path) for name, paths in files.items() for path in paths]
    return [
        f"{name_a} ({a}) and {name_b} ({b}) have the same content; check that each is the file of its own "
        f"{'training run' if name_a == name_b else 'system'}"
        for at, (name_b, b) in enumerate(named)
        for name_a, a in named[:at]
        if a.stat().st_size == b.stat().st_size and filecmp.cmp(a, b, shallow=False)
    ]


def read_systems(files: Mapping[str, Sequence[Path]], keys: Keys) -> tuple[dict[str, pd.DataFrame], list[ScoreFile]]:
    """Read the files of several systems.

    Args:
        files: by the system's name; several files of one are its training runs, numbered from 0.
        keys: where to look in each.

    Returns:
        The frames by name, and all files read.

    Raises:
        InputError: a file is bad, or a name has several files and its files have a seed of their own.
    """
    read = {name: [read_scores(path, keys) for path in paths] for name, paths in files.items()}
    systems = {}
    for name, runs in read.items():
        if len(runs) > 1 and keys.seed is not None:
            raise InputError(f"{name}: {len(runs)} files and --seed; give one file with all runs, or no --seed")
        frames = [one.frame if len(runs) == 1 else one.frame.assign(seed=at) for at, one in enumerate(runs)]
        systems[name] = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    return systems, [one for runs in read.values() for one in runs]


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
        found: list[Record] = list(records)
        frame, score = scores_frame(
            path, found, item=keys.item, score=keys.score, seed=keys.seed, clusters=keys.clusters
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not as {source} writes it ({type(error).__name__}: {error}); write a table with an item's id and "
            "score instead"
        ) from None
    merged = [] if keys.item is None else _merged(path, found, frame["item_id"], keys.item)
    return ScoreFile(frame, source, score, [*notes, *merged])


def _merged(path: Path, records: Sequence[Record], items: pd.Series, key: str) -> list[str]:
    """A sentence if `--id` gives one name to samples that ask different things."""
    asked = pd.Series([one.item if one.content is None else one.content for one in records])
    different = asked.groupby(items, sort=False).nunique()
    different = different[different > 1]
    if different.empty:
        return []
    return [
        f"{path.name}: --id {key} gives different questions the same name, which averages their scores as if they were "
        f"epochs of one item: {len(different):,} of {items.nunique():,} names, e.g. {different.index[0]!r} for "
        f"{different.iloc[0]:,} questions"
    ]


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
