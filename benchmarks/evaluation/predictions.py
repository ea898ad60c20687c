"""Predictions on disk: one Parquet row per item and sample, appended durably, with the run's facts in the metadata."""

import fcntl
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.files import PARTIAL, disk_errors, whole_file
from rewards import LABELS, CheckError, InputError, Status

TASKS: Final = ("three_class", "de", "dir")
PROBABILITIES: Final = ("p_up", "p_down", "p_none")  # in the order of `rewards.LABELS`
SCHEMA: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("cell_line", pa.string(), nullable=False),
        pa.field("pert", pa.string(), nullable=False),
        pa.field("gene", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("completion", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("p_up", pa.float64()),
        pa.field("p_down", pa.float64()),
        pa.field("p_none", pa.float64()),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32()),
    ]
)
COLUMNS: Final[list[str]] = list(SCHEMA.names)
_OPTIONAL: Final = "prompt_tokens"
# Facts of an engine that earlier versions did not store.
_LATER: Final = ("tokenizer_sha256", "special_tokens_sha256", "prompts_hold_date")
_PART: Final = re.compile(r"part-[0-9]+\.parquet")
_FACTS_KEY: Final = b"synthpert"
_ERRORS_KEY: Final = b"synthpert_errors"
_GROUP_ROWS: Final = 16_384  # small, since a report reads only the groups that hold the few items it shows


def check_predictions(frame: pd.DataFrame, where: str = "predictions") -> None:
    """Check a predictions frame against the schema.

    Args:
        frame: columns as in `SCHEMA`, with or without `prompt_tokens`; other columns are not allowed.
        where: what to call the frame in an error (a file).

    Raises:
        InputError: one of these. The message names the first such row, counted from 0.
            - a column is missing or unknown;
            - a label, answer or status is unknown;
            - `answer` is set and the status is not `answered`, or the reverse;
            - probabilities do not sum to 1;
            - an (item, sample, seed) occurs twice.
    """
    missing = [name for name in COLUMNS if name not in frame.columns and name != _OPTIONAL]
    unknown = [str(name) for name in frame.columns if name not in COLUMNS]
    if missing or unknown:
        problem = f"no column {missing[0]!r}" if missing else f"unknown column {unknown[0]!r}"
        raise InputError(f"{where}: {problem}; predictions have the columns {', '.join(COLUMNS)}")
    _check_rows(frame, where)


def _check_rows(frame: pd.DataFrame, where: str) -> None:
    labels = [str(label) for label in LABELS]
    answered = (frame["status"] == Status.ANSWERED.value).to_numpy(dtype=bool)
    given = frame["answer"].notna().to_numpy()
    p = frame[list(PROBABILITIES)].to_numpy(dtype=np.float64)
    known = ~np.isnan(p)
    change_only = (known == [False, False, True]).all(axis=1)  # the probability of a change is known, the direction not
    scored = known.all(axis=1) | change_only
    with np.errstate(invalid="ignore"):
        total = np.where(change_only, 1.0, p.sum(axis=1))
        outside = scored & ((p < 0).any(axis=1) | (p > 1).any(axis=1) | (np.abs(total - 1) > 1e-6))
    for wrong, problem in (
        (~frame["label"].isin([*labels, ""]).to_numpy(), "label is not one of rewards.LABELS, nor empty"),
        (~frame["status"].isin([str(status) for status in Status]).to_numpy(), "status is not one of rewards.Status"),
        (given & ~frame["answer"].isin(labels).to_numpy(), "answer is not one of rewards.LABELS"),
        (given != answered, "an answer goes with the status answered, and only with it"),
        (scored & ~answered, "probabilities go with the status answered only"),
        (~scored & known.any(axis=1), "either all three probabilities, p_none alone, or none"),
        (outside, "probabilities must lie in [0, 1] and add up to 1"),
        (frame.duplicated(["item_id", "sample", "seed"]).to_numpy(), "item, sample and seed occur twice"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(f"{where}: row {row} ({frame['item_id'].iloc[row]}): {problem}; correct the row")


def write_predictions(frame: pd.DataFrame, path: Path, facts: Mapping[str, Any]) -> None:
    """Write a predictions frame with its run's facts. The file appears under its name only when it is complete.

    Args:
        frame: as `check_predictions` requires.
        path: the Parquet file; replaced if it exists.
        facts: facts of the run, JSON values. Never a secret.

    Raises:
        InputError: the frame violates the schema.
        CheckError: the disk is full or the file cannot be written.
    """
    check_predictions(frame, str(path))
    _write_table(_to_table(frame, str(path)), path, facts, {})


def read_predictions(path: Path) -> pd.DataFrame:
    """Read a predictions file.

    Args:
        path: the Parquet file.

    Returns:
        One row per item × sample with the columns of `SCHEMA`: text as pandas `str` (missing where there is none),
        probabilities float64 (NaN where not answered), `prompt_tokens` missing where nobody counted them.

    Raises:
        InputError: the file is missing, is no Parquet file, or violates the schema.
    """
    frame: pd.DataFrame = _read_table(path).to_pandas()
    check_predictions(frame, str(path))
    return frame


def read_answers(paths: Sequence[Path]) -> pd.DataFrame:
    """Read predictions files as one frame without their completions, which are most of their bytes.

    Args:
        paths: files of training runs or systems; their rows are concatenated.

    Returns:
        The columns of `SCHEMA` without `completion`; text as categories, a few bytes per row.

    Raises:
        InputError: a file is missing, is no Parquet file, or violates the schema.
    """
    tables = [_read_table(path, [name for name in COLUMNS if name != "completion"]) for path in paths]
    for table, path in zip(tables, paths, strict=True):
        _check_rows(table.to_pandas(), str(path))
    frame: pd.DataFrame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
    return frame


def read_completions(paths: Sequence[Path], item_ids: Sequence[str]) -> pd.DataFrame:
    """Read the completions of a few items, without loading whole files.

    Args:
        paths: predictions files.
        item_ids: the items wanted.

    Returns:
        `item_id, seed, sample, completion, status, answer`, files in the order given, rows in the order of each file.

    Raises:
        InputError: a file is missing or is no Parquet file.
    """
    columns = ["item_id", "seed", "sample", "completion", "status", "answer"]
    wanted = pa.array(list(item_ids), type=pa.string())
    found = []
    for path in paths:
        with readable(path), pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["item_id"])["item_id"]
                rows = pc.indices_nonzero(pc.is_in(ids, value_set=wanted))
                if len(rows):
                    found.append(file.read_row_group(group, columns=columns).take(rows))
    empty = pa.schema([SCHEMA.field(name) for name in columns]).empty_table()
    frame: pd.DataFrame = pa.concat_tables([table.cast(empty.schema) for table in found] or [empty]).to_pandas()
    return frame[columns]


def read_facts(path: Path) -> dict[str, Any]:
    """Return the run's facts stored in a predictions file.

    Args:
        path: the Parquet file.

    Raises:
        InputError: the file is missing, is no Parquet file, or holds no facts.
    """
    with readable(path):
        metadata = pq.read_schema(path).metadata or {}
    if _FACTS_KEY not in metadata:
        raise InputError(f"{path}: holds no facts of its run, so it is no predictions file of synthpert; import it")
    facts: dict[str, Any] = json.loads(metadata[_FACTS_KEY])
    return facts


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the keys (dotted where nested) whose values differ between two runs' facts."""
    keys: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            keys += [f"{key}.{inner}" for inner in changed_keys(a, b)]
        elif a != b or (key in old) != (key in new):
            keys.append(key)
    return keys


class PredictionLog:
    """Predictions of one run, appended in numbered parts that survive a kill, and merged into one file at the end.

    A part is written under a temporary name, flushed to disk and renamed. A part under its final name is therefore
    complete. The folder is locked while the log is open, so two processes never append to one run.

    Args:
        run_dir: the run's folder; created if it does not exist.
        facts: facts of the run, JSON values; a log that was begun with other facts is refused.

    Raises:
        InputError: the folder holds predictions of another run (the message names the keys that differ), a part cannot
            be read, or another process is writing here.
        CheckError: the folder cannot be written.
    """

    def __init__(self, run_dir: Path, facts: Mapping[str, Any]) -> None:
        self.path: Final = run_dir / "predictions.parquet"
        self._parts_dir = run_dir / "predictions.parts"
        # Facts are compared as read back from JSON, where tuples and lists are the same.
        self._facts: dict[str, Any] = json.loads(_facts_json(facts))
        self._lock: int | None = None
        if self.path.exists():
            self._refuse_other(read_facts(self.path), self.path)
        with disk_errors(self._parts_dir):
            self._parts_dir.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._parts_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise InputError(f"{run_dir}: another process is writing predictions here; wait for it") from None
        try:
            for torn in self._parts_dir.glob(f"*{PARTIAL}"):
                torn.unlink()
            for part in self._part_files():
                self._refuse_other(read_facts(part), part)
        except BaseException:
            self.close()
            raise

    def _refuse_other(self, facts: Mapping[str, Any], path: Path) -> None:
        engine = dict(self._facts.get("engine") or {})
        for key in _LATER:
            if key not in (facts.get("engine") or {}):
                engine.pop(key, None)
        ours = {**self._facts, "errors": None, **({"engine": engine} if "engine" in self._facts else {})}
        keys = changed_keys({**facts, "errors": None}, ours)
        keys = [key for key in keys if key != "engine.url"]  # a server may move to another URL
        if keys:
            raise InputError(
                f"{path}: belongs to a run with other {', '.join(keys)}; keep the settings or choose another run folder"
            )

    def _part(self, number: int) -> Path:
        return self._parts_dir / f"part-{number:06d}.parquet"

    @property
    def complete(self) -> bool:
        """Whether the merged file exists."""
        return self.path.exists()

    def parts(self) -> set[int]:
        """Return the numbers of the parts that are on disk."""
        return {int(path.stem.removeprefix("part-")) for path in self._part_files()}

    def _part_files(self) -> list[Path]:
        """The parts; files with other names, such as copies, are left out."""
        return [path for path in self._parts_dir.glob("part-*.parquet") if _PART.fullmatch(path.name)]

    def append(self, number: int, frame: pd.DataFrame, errors: Mapping[str, int] | None = None) -> None:
        """Write part `number`. Once this returns, a kill or a power cut does not lose it.

        Args:
            number: number of the part, from 0.
            frame: its rows, with the columns of `SCHEMA`.
            errors: how often each error message occurred among its rows.

        Raises:
            InputError: the frame violates the schema.
            CheckError: the disk is full or the file cannot be written. Earlier parts stay.
        """
        path = self._part(number)
        check_predictions(frame, str(path))
        _write_table(_to_table(frame, str(path)), path, self._facts, errors or {})

    def finish(self, n_rows: int) -> Path:
        """Merge all parts into `predictions.parquet`, remove them, and return its path.

        The facts in the file gain `errors`: how often each error message occurred.

        Args:
            n_rows: number of rows that all parts must hold together.

        Raises:
            InputError: a part cannot be read or violates the schema.
            CheckError: rows are missing, or the disk is full (the parts stay).
        """
        if not self.path.exists():
            numbers = sorted(self.parts())
            tables = [_read_table(self._part(number)) for number in numbers]
            found = sum(table.num_rows for table in tables)
            if found != n_rows:
                raise CheckError(
                    f"{self._parts_dir}: holds {found} of {n_rows} rows; run the evaluation again to fill the rest"
                )
            errors: Counter[str] = Counter()
            for table in tables:
                errors.update(json.loads((table.schema.metadata or {}).get(_ERRORS_KEY, b"{}")))
            merged = pa.concat_tables([table.cast(SCHEMA) for table in tables]) if tables else SCHEMA.empty_table()
            check_predictions(merged.to_pandas(), str(self._parts_dir))
            _write_table(merged, self.path, {**self._facts, "errors": dict(errors)}, {})
        for part in self._parts_dir.glob("part-*.parquet"):
            part.unlink()
        (self._parts_dir / "lock").unlink(missing_ok=True)
        self._parts_dir.rmdir()
        self.close()
        return self.path

    def close(self) -> None:
        """Unlock the folder; parts stay."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _facts_json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _to_table(frame: pd.DataFrame, where: str) -> pa.Table:
    columns = []
    for field in SCHEMA:
        if field.name not in frame:  # the optional one
            columns.append(pa.nulls(len(frame), field.type))
            continue
        values = frame[field.name]
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = values.astype("str")
        try:
            array = pa.Array.from_pandas(values, type=field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"{where}: column {field.name} is not {field.type}: {_one_line(error)}") from None
        if not field.nullable and array.null_count:
            raise InputError(f"{where}: column {field.name} has {array.null_count} missing values; fill them")
        columns.append(array)
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _write_table(table: pa.Table, path: Path, facts: Mapping[str, Any], errors: Mapping[str, int]) -> None:
    metadata = {_FACTS_KEY: _facts_json(facts), _ERRORS_KEY: _facts_json(errors)}
    with whole_file(path) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd", row_group_size=_GROUP_ROWS)


def _read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a predictions file: all of it, or some columns with text as dictionaries."""
    with readable(path):
        names = pq.read_schema(path).names
        if columns is None:
            table = pq.read_table(path)
        else:
            texts = [field.name for field in SCHEMA if pa.types.is_string(field.type)]
            table = pq.read_table(path, columns=[name for name in columns if name in names], read_dictionary=texts)
    missing = [name for name in COLUMNS if name not in names and name != _OPTIONAL]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}, so it is no predictions file of synthpert; import it")
    if _OPTIONAL not in names:  # a file of an earlier version
        table = table.append_column(SCHEMA.field(_OPTIONAL), pa.nulls(table.num_rows, SCHEMA.field(_OPTIONAL).type))
    return table


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an error of reading `path` into one line that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({_one_line(error)}); remove it and make it again") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
