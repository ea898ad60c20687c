"""Rollouts on disk: what GRPO's policy wrote and what it earned, one Parquet file per generated batch.

A batch's file is written whole or not at all, so that a stopped run leaves no half of one. A resumed run drops the
batches after its checkpoint and writes them anew.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.runs import disk_errors
from rewards import LABELS, InputError, Status

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
    """Return the columns of rollouts with these components: `reward/NAME` each, null where a reward cannot judge."""
    parts = [pa.field(COMPONENT + name, pa.float64()) for name in components]
    return pa.schema([*_FIXED, *parts, *_AFTER])


def write_rollouts(
    run: Path, step: int, batch: int, rank: int, columns: Mapping[str, Any], components: list[str]
) -> Path:
    """Write one generated batch, whole or not at all.

    Args:
        run: the run folder.
        step: the optimizer step that it is for, from 1.
        batch: its number within the step, from 0.
        rank: of the process.
        columns: the columns of `rollout_schema`, B values each.
        components: names of the rewards.
    """
    folder = run / FOLDER
    path = folder / f"step-{step:07d}-{batch}-rank{rank}.parquet"
    table = pa.table(dict(columns), schema=rollout_schema(components))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, path)
    return path


def drop_rollouts_after(run: Path, step: int) -> None:
    """Remove the batches of later steps: a run resumed from a checkpoint writes them anew."""
    for path in (run / FOLDER).glob("step-*"):
        match = _FILE.fullmatch(path.name)
        if match is None or int(match[1]) > step:
            path.unlink()


def read_rollouts(source: Path) -> pd.DataFrame:
    """Read stored rollouts.

    Args:
        source: a run folder, its folder of rollouts, or a Parquet file with the same columns (`step`, `group`,
            `prompt` and what stands after `status` may be missing; a predictions file of an evaluation will do).

    Returns:
        The columns of `rollout_schema`; `group` is the item where none is stored, `step` 0.

    Raises:
        InputError: there are no rollouts, a file is broken, or a label or status is unknown.
    """
    if source.is_dir():
        folder = source / FOLDER if (source / FOLDER).is_dir() else source
        paths = sorted(folder.glob("*.parquet"))
        if not paths:
            raise InputError(f"{source}: no rollouts (no Parquet files in {folder}); give the folder of a GRPO run")
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
            raise InputError(f"{path}: not a Parquet file ({said}); remove it, or run the stage again") from None
    try:
        frame = pa.concat_tables(tables, promote_options="default").to_pandas()
    except pa.ArrowException as error:
        raise InputError(f"{source}: its files do not fit together ({error}); give one run's rollouts") from None
    return _checked(frame, source)


def _checked(frame: pd.DataFrame, source: Path) -> pd.DataFrame:
    for name in (*ITEM, "completion"):
        if name not in frame:
            raise InputError(f"{source}: no column {name!r}; rollouts have {', '.join(_FIXED.names)}")
    if frame.empty:
        raise InputError(f"{source}: no rollouts in it; give the folder of a GRPO run that made a step")
    if "step" not in frame:
        frame["step"] = 0
    if "group" not in frame:
        frame["group"] = frame["item_id"].astype(str)
    if frame["item_id"].isna().any():
        row = int(frame["item_id"].isna().to_numpy().argmax())
        raise InputError(f"{source}, row {row}: has no item_id; rollouts belong to an item")
    known = frame["label"].isin([str(label) for label in LABELS]) | frame["label"].isna() | (frame["label"] == "")
    if not known.all():
        row = int((~known).to_numpy().argmax())
        raise InputError(f"{source}, row {row}: label {frame['label'].iloc[row]!r} is unknown; use {', '.join(LABELS)}")
    if "status" in frame and not frame["status"].isin([str(status) for status in Status]).all():
        row = int((~frame["status"].isin([str(status) for status in Status])).to_numpy().argmax())
        raise InputError(f"{source}, row {row}: status {frame['status'].iloc[row]!r} is unknown")
    frame["completion"] = frame["completion"].astype(object).where(frame["completion"].notna(), None)
    return frame


def stored_components(frame: pd.DataFrame) -> list[str]:
    """Return the names of the rewards that rollouts were trained with."""
    return [str(name)[len(COMPONENT) :] for name in frame if str(name).startswith(COMPONENT)]
