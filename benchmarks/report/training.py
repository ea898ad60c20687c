"""What a training run logged over its steps: read from its folder, and which of it the report draws."""

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

from rewards import InputError

LOG: Final = "log.jsonl"


@dataclass(frozen=True)
class Logged:
    """A number of a training log.

    Attributes:
        key: its name there.
        title: what it is.
        spread: name of its standard deviation; empty for none.
        share: whether it is one, from 0 to 1.
    """

    key: str
    title: str
    spread: str = ""
    share: bool = False


LOGGED: Final = {
    "sft": (Logged("loss", "Loss"), Logged("mean_token_accuracy", "Share of tokens predicted", share=True)),
    "grpo": (
        Logged("reward", "Mean reward ± standard deviation", "reward_std"),
        Logged("answered_accuracy", "Share of right answers", share=True),
        Logged("zero_variance_groups", "Share of groups without variance", share=True),
    ),
}


def read_log(run: Path, stage: str) -> list[dict[str, float]]:
    """Return what a training run logged of the numbers that the report draws.

    Args:
        run: the run folder.
        stage: `sft` or `grpo`; other stages have no log.

    Returns:
        A row per logged step, in order: `step` and the numbers of `LOGGED` that are known; none without a log.

    Raises:
        InputError: a line is no JSON object.
    """
    path = run / LOG
    if stage not in LOGGED or not path.is_file():
        return []
    keys = [key for one in LOGGED[stage] for key in (one.key, one.spread) if key]
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        entry = _entry(path, number, line)
        found = {key: float(entry[key]) for key in keys if _is_number(entry.get(key))}
        if found and isinstance(entry.get("step"), int):
            rows[entry["step"]] = {"step": entry["step"], **found}
    return [rows[step] for step in sorted(rows)]


def _entry(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        raise InputError(f"{path}, line {number}: not a JSON object; remove the line, or the file to report without it")
    return entry


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
