"""What a training run logged over its steps: read from its folder, and which of it the report draws."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final

from benchmarks.runs import CONFIG, read_stored
from rewards import InputError

LOG: Final = "log.jsonl"


@dataclass(frozen=True)
class Drawn:
    """A panel over the steps of training.

    Attributes:
        title: what is drawn.
        lines: by its name in the log, what the legend calls a number; empty where the title says it.
        spread: name of the standard deviation of the first line; empty for none.
        share: whether the numbers are shares, from 0 to 1.
    """

    title: str
    lines: Mapping[str, str]
    spread: str = ""
    share: bool = False


DRAWN: Final = {
    "sft": (Drawn("Loss", {"loss": ""}), Drawn("Share of tokens predicted", {"mean_token_accuracy": ""}, share=True)),
    "grpo": (
        Drawn("Mean reward ± standard deviation", {"reward": ""}, "reward_std"),
        Drawn("Share of right answers", {"answered_accuracy": ""}, share=True),
        Drawn(
            "Share of right answers to held-out prompts",
            {"eval_held_out_accuracy": "sampled", "eval_greedy_accuracy": "greedy"},
            share=True,
        ),
        Drawn("Share of groups without variance", {"zero_variance_groups": ""}, share=True),
        Drawn("Entropy per token", {"entropy": ""}),
        Drawn("Tokens of a completion", {"completions/mean_length": ""}),
        Drawn("KL divergence from SFT per token, held out", {"eval_kl": ""}),
    ),
}
# Keys in which the training runs of one condition of a study differ.
_OF_A_SEED: Final = ("seed", "output_dir", "sft_run", "train_on", "traces", "labels_of", "run_name", "logging_dir")


def read_log(run: Path, stage: str) -> list[dict[str, float]]:
    """Return what a training run logged of the numbers that the report draws.

    Args:
        run: the run folder.
        stage: `sft` or `grpo`; other stages have no log.

    Returns:
        A row per logged step, in order: `step` and the numbers of `DRAWN` that are known; none without a log.

    Raises:
        InputError: a line is no JSON object.
    """
    path = run / LOG
    if stage not in DRAWN or not path.is_file():
        return []
    keys = [key for one in DRAWN[stage] for key in (*one.lines, one.spread) if key]
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        entry = _entry(path, number, line)
        found = {key: float(entry[key]) for key in keys if _is_number(entry.get(key))}
        if found and isinstance(entry.get("step"), int):
            rows[entry["step"]] = {"step": entry["step"], **rows.get(entry["step"], {}), **found}
    return [rows[step] for step in sorted(rows)]


def same_but_for_seed(run: Path) -> str | None:
    """Return the configuration of a run as text, without what differs between seeds; None where there is none."""
    if not (run / CONFIG).is_file():
        return None
    config = read_stored(run / CONFIG, "restore it, or leave the run out")
    return json.dumps({key: value for key, value in config.items() if key not in _OF_A_SEED}, sort_keys=True)


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
