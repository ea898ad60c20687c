"""Prompts that were chosen for GRPO before it starts: a CSV file, and a JSON file beside it that says how.

The choice holds for one SFT adapter and one prompt, so that GRPO refuses it for another.
"""

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.files import write_text
from benchmarks.tables import check_kind, read_table
from rewards import InputError

ITEM: Final = "item_id"
_logger = logging.getLogger("synthpert.preflight")


def facts_path(path: Path) -> Path:
    """Return the path of the JSON file beside a file of chosen prompts."""
    return path.with_name(path.name + ".json")


def check_target(path: Path) -> None:
    """Refuse a file to write that is no CSV file, or that is there."""
    if path.suffix.lower() != ".csv":
        raise InputError(f"--write {path}: give the name of a .csv file")
    for file in (path, facts_path(path)):
        if file.exists():
            raise InputError(f"--write {path}: {file} exists; remove it, or choose another name")


def write_chosen(path: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write chosen prompts.

    Args:
        path: the CSV file.
        rows: of the same keys, `item_id` among them; at least one.
        facts: what the choice holds for, and how it was made.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(facts_path(path), json.dumps(dict(facts), indent=2, ensure_ascii=False) + "\n")
    write_text(path, text.getvalue())


def read_chosen(path: Path) -> list[str]:
    """Return the ids of chosen prompts, in their order.

    Raises:
        InputError: the file is missing or empty, has no column `item_id`, or an id twice.
    """
    check_kind(path, (".csv",))
    table = read_table(path, (ITEM,))
    if ITEM not in table.frame:
        raise InputError(f"{path}: no column {ITEM!r}; write the file with `synthpert grpo --dry-run --write`")
    ids = table.frame[ITEM].fillna("").astype(str).reset_index(drop=True)
    if ids.empty:
        raise InputError(f"{path}: has no rows; add prompts, or remove the key train_on")
    table.refuse(ids.duplicated(), "its item_id occurs twice; remove one of the rows")
    return ids.tolist()


def check_chosen(path: Path, expected: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Refuse prompts that were chosen for another policy or another prompt.

    Args:
        path: the CSV file.
        expected: facts that must be those of the choice.
        sampling: further facts; a warning names those that differ.

    Raises:
        InputError: the JSON file is missing or broken, or an expected fact differs.
    """
    beside = facts_path(path)
    again = "write the file again with `synthpert grpo --dry-run --write`"
    if not path.is_file():
        raise InputError(f"train_on: {path}: no such file; {again}")
    try:
        facts = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = None
    if not isinstance(facts, dict):
        raise InputError(f"{beside}: missing, or no JSON, so that nobody knows whom {path} was chosen for; {again}")
    for key, value in expected.items():
        if facts.get(key) != value:
            raise InputError(f"{path}: was chosen with {key}: {facts.get(key)!r}, but this run has {value!r}; {again}")
    if other := [key for key, value in sampling.items() if facts.get(key) != value]:
        _logger.warning("%s: was chosen with other values of %s, so its pass rates may differ", path, ", ".join(other))
