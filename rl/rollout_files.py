"""Rollouts on disk: what GRPO's policy wrote and what it earned, one Parquet file per generated batch.

A file is written whole or not at all, so that a stopped run leaves no partial file. A resumed run removes the batches
after its checkpoint and writes them again.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.files import whole_file
from rewards import LABELS, CheckError, InputError, Status

FOLDER: Final = "rollouts"
COMPONENT: Final = "reward/"  # prefix of a component's column
ITEM: Final = ("item_id", "cell_line", "pert", "gene", "label")
_FIXED: Final = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        *(pa.field(name, pa.string()) for name in ITEM),
        pa.field("prompt", pa.string()),
        pa.field("completion", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
    ]
)
_AFTER: Final = pa.schema([pa.field("total_reward", pa.float64()), pa.field("advantage", pa.float64())])
_FILE: Final = re.compile(r"step-(\d+)-(\d+)-rank(\d+)\.parquet")


def rollout_schema(components: list[str]) -> pa.Schema:
    """Return the columns of rollouts. Each component has a column `reward/NAME`, null where it cannot judge."""
    parts = [pa.field(COMPONENT + name, pa.float64()) for name in components]
    return pa.schema([*_FIXED, *parts, *_AFTER])


def write_rollouts(
    run: Path, step: int, batch: int, rank: int, columns: Mapping[str, Any], components: list[str]
) -> Path:
    """Write one generated batch, whole or not at all, and return the path of its file.

    Args:
        run: the run folder.
        step: the optimizer step that the batch is for, from 1.
        batch: number of the batch within the step, from 0.
        rank: rank of the process.
        columns: the columns of `rollout_schema`, B values each.
        components: names of the rewards.
    """
    folder = run / FOLDER
    path = folder / f"step-{step:07d}-{batch}-rank{rank}.parquet"
    table = pa.table(dict(columns), schema=rollout_schema(components))
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")
    return path


def drop_rollouts_after(run: Path, step: int) -> None:
    """Remove the batches of later steps. A run resumed from a checkpoint writes them again."""
    for path in (run / FOLDER).glob("step-*"):
        match = _FILE.fullmatch(path.name)  # a copy with another name stays
        if path.suffix == ".partial" or (match and int(match[1]) > step):
            path.unlink()


def items_by_step(run: Path) -> dict[int, set[str]]:
    """Return the ids of the items in a run's stored rollouts, by step. Other Parquet files in the folder do not count.

    Raises:
        CheckError: a file cannot be read.
    """
    found: dict[int, set[str]] = {}
    for path in (run / FOLDER).glob("step-*"):
        if match := _FILE.fullmatch(path.name):
            try:
                items = pq.read_table(path, columns=["item_id"])["item_id"].to_pylist()
            except (pa.ArrowException, OSError) as error:
                said = " ".join(str(error).split())[:120]
                raise CheckError(f"{path}: cannot be read ({said}); remove it and run the stage again") from error
            found.setdefault(int(match[1]), set()).update(items)
    return found


def read_rollouts(source: Path) -> pd.DataFrame:
    """Read stored rollouts.

    Args:
        source: a run folder, its folder of rollouts, or one Parquet file with the same columns. Only the item's columns
            (`ITEM`) and `completion` are required, so that an evaluation's predictions file will do.

    Returns:
        The columns of `rollout_schema` that the source has, with these defaults:

        - `step` is 0 where none is stored.
        - `group` is the item where none is stored. The same group in two steps becomes two groups.
        - `completion` is None where generation failed.

    Raises:
        InputError: there are no rollouts, a file is broken, a value does not fit its column, or a group holds two
            items. The message names file, row (from 0) and column.
    """
    if source.is_dir():
        folder = source / FOLDER if (source / FOLDER).is_dir() else source
        paths = sorted(folder.glob("*.parquet"))
        paths = [
            path for path in paths if _FILE.fullmatch(path.name)
        ] or paths  # other files in the folder, such as copies, do not count
        if not paths:
            raise InputError(f"{source}: no Parquet files in {folder}; give the folder of a GRPO run")
    elif source.is_file():
        paths = [source]
    else:
        raise InputError(f"{source}: no such folder or file; give the folder of a GRPO run")
    tables = []
    for path in paths:
        try:
            tables.append(pq.ParquetFile(path).read())
        except (pa.ArrowException, OSError) as error:
            said = " ".join(str(error).split())[:120]
            remedy = "write it with pandas' to_parquet" if path == source else "remove the file, or run the stage again"
            raise InputError(f"{path}: not a Parquet file ({said}); {remedy}") from None
    try:
        frame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    except pa.ArrowException as error:
        raise InputError(
            f"{source}: its files have different columns ({error}); give the rollouts of one run"
        ) from None
    ends = np.cumsum([table.num_rows for table in tables])

    def place(row: int) -> str:
        at = int(np.searchsorted(ends, row, side="right"))
        return f"{paths[at]}, row {row - (int(ends[at - 1]) if at else 0)}"

    return _checked(frame, source, place)


def _checked(frame: pd.DataFrame, source: Path, place: Callable[[int], str]) -> pd.DataFrame:
    for name in (*ITEM, "completion"):
        if name not in frame:
            raise InputError(
                f"{source}: no column {name!r}; rollouts need {', '.join((*ITEM, 'completion'))}; docs/rewards.md "
                "lists the optional columns"
            )
    if frame.empty:
        raise InputError(f"{source}: has no rows; give the folder of a GRPO run that made at least one step")
    if "prompt" in frame and frame["prompt"].isna().all():
        frame = frame.drop(columns="prompt")
    rewards = [name for name in frame if str(name).startswith(COMPONENT) or name == "total_reward"]
    for name, (fits, wanted) in [*_RULES.items(), *((str(name), _SCORE) for name in rewards)]:
        if name not in frame:
            continue
        for row, value in enumerate(_values(frame[name])):
            if not fits(value):
                raise InputError(f"{place(row)}: {name}: {repr(value)[:60]} is no {wanted}; correct the file")
    item, completion = frame["item_id"], _values(frame["completion"])
    if "status" in frame:
        failed = frame["status"] == str(Status.ERROR)
        completion = [None if no else text for no, text in zip(failed, completion, strict=True)]
    step = frame["step"].astype(int) if "step" in frame else pd.Series(0, index=frame.index)
    group = _values(frame["group"]) if "group" in frame else [None] * len(frame)
    _check_groups([*zip(step, group, strict=True)], _values(item), place)
    if len({*zip(step, group, strict=True)}) > len({*group}):  # group numbers start again at each step
        group = [key if key is None else f"{at}.{key}" for at, key in zip(step, group, strict=True)]
    return frame.assign(
        step=step,
        group=[str(one if key is None else key) for key, one in zip(group, item, strict=True)],
        label=[label or "" for label in _values(frame["label"])],
        completion=pd.Series(completion, index=frame.index, dtype=object),
    )


def _check_groups(group: Sequence[tuple[int, Any]], item: Sequence[str], place: Callable[[int], str]) -> None:
    """Refuse a group of two items: GRPO compares the completions of one prompt with each other."""
    first: dict[tuple[int, Any], str] = {}
    for row, (key, one) in enumerate(zip(group, item, strict=True)):
        if key[1] is not None and first.setdefault(key, one) != one:
            raise InputError(
                f"{place(row)}: group: {key[1]!r} of step {key[0]} holds two items, {first[key]} and {one}; give each "
                "prompt its own group, or leave the column out"
            )


def _values(column: pd.Series) -> list[Any]:
    """Return a column's values, with None for a missing value."""
    values: list[Any] = column.astype(object).where(column.notna(), None).tolist()
    return values


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and float(value).is_integer()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


# What the values of each column must be, if the column is there.
_SCORE: Final = (_or_none(_is_number), "finite number or null")
_RULES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(("item_id", "cell_line", "pert", "gene"), (_is_name, "name")),
    "label": (_or_none(_one_of("", *LABELS)), f"label ({', '.join(LABELS)}, or null)"),
    "prompt": (lambda value: isinstance(value, str), "text (for messages, their contents)"),
    "completion": (_or_none(lambda value: isinstance(value, str)), "text (for messages, the content of the last one)"),
    "completion_ids": (_or_none(lambda value: isinstance(value, list | np.ndarray)), "list of token ids"),
    "status": (_one_of(*Status), f"status ({', '.join(Status)})"),
    "step": (_is_count, "whole number"),
    "completion_tokens": (_or_none(_is_count), "whole number or null"),
}


def stored_components(frame: pd.DataFrame) -> list[str]:
    """Return the names of the rewards that rollouts have columns of."""
    return [str(name)[len(COMPONENT) :] for name in frame if str(name).startswith(COMPONENT)]
