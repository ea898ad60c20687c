"""Which scores rank best? Compares the ways to a label's probability on one model, and fills the table of its page.

python -m tools.compare_scores FOLDER    reads runs, writes docs/scores.json and the table in docs/statistics.md
python -m tools.compare_scores           writes the table from docs/scores.json again

FOLDER holds six runs of one adapter. With C for `--config configs/demo/eval.yaml --adapter runs/demo/sft/adapter`:

synthpert eval C --out FOLDER/greedy
synthpert eval C --out FOLDER/sampled --temperature 1 --samples 8
synthpert eval C --out FOLDER/direct --scores direct
synthpert calibrate C --items 30 --out FOLDER/held-out-greedy
synthpert calibrate C --items 30 --out FOLDER/held-out-sampled --temperature 1 --samples 8
synthpert calibrate C --items 30 --out FOLDER/held-out-direct --scores direct

The scores `both` are computed from those of `sampled` and `direct`, as `eval --scores both` computes them. Temperatures
are fitted on the items that all three held-out runs have.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks import compare
from benchmarks.evaluation.calibrate import calibrate, item_scores
from benchmarks.evaluation.predictions import PROBABILITIES, read_facts, read_predictions
from benchmarks.evaluation.run import PREDICTIONS
from benchmarks.evaluation.scores import Floats, average_log_odds
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from benchmarks.statistics.significance import confidence_interval
from rewards import InputError
from tools.pages import between, number, with_interval

DOCS: Final = Path(__file__).parents[1] / "docs"
RESULT: Final = DOCS / "scores.json"
MARK: Final = "<!-- scores -->"
WAYS: Final = {
    "greedy": "`logprobs`, one greedy completion",
    "sampled": "`logprobs`, mean of {samples} samples",
    "direct": "`direct`",
    "both": "`both`, {samples} samples",
}
_RANKS: Final = ("de_per_gene_auroc", "dir_per_gene_auroc")
_TASKS: Final = {"de_per_gene_auroc": "de", "dir_per_gene_auroc": "dir", "brier": "three_class", "ece": "three_class"}


def read_ways(folder: Path, prefix: str = "") -> dict[str, pd.DataFrame]:
    """Return the predictions of each way, `both` included, on the items that all have, in one order.

    Args:
        folder: where the runs lie.
        prefix: of their names.

    Raises:
        InputError: a run is missing, or the runs have no item in common.
    """
    frames = {way: read_predictions(folder / f"{prefix}{way}" / PREDICTIONS) for way in WAYS if way != "both"}
    shared = set.intersection(*(set(frame["item_id"]) for frame in frames.values()))
    if not shared:
        raise InputError(f"{folder}: its runs have no item in common; evaluate them on the same items")
    frames = {
        way: frame[frame["item_id"].isin(shared)].sort_values(["item_id", "sample"], ignore_index=True)
        for way, frame in frames.items()
    }
    both, direct = frames["sampled"].copy(), frames["direct"]
    scored = average_log_odds(item_scores(both), item_scores(direct))
    frames["both"] = _with_scores(both, scored)
    first = (both["sample"] == 0).to_numpy()
    for column in ("completion_tokens", "prompt_tokens"):
        frames["both"].loc[first, column] += direct[column].to_numpy()
    return frames


def _samples(frame: pd.DataFrame) -> int:
    return int(frame["sample"].max()) + 1


def _with_scores(frame: pd.DataFrame, scores: Floats) -> pd.DataFrame:
    """The frame with an item's score in each of its rows that has probabilities."""
    known = frame[list(PROBABILITIES)].notna().to_numpy()
    frame = frame.copy()
    frame[list(PROBABILITIES)] = np.where(known, scores.repeat(_samples(frame), axis=0), np.nan)
    return frame


def measure(folder: Path) -> dict[str, Any]:
    """Return what docs/scores.json holds: facts of the runs, and a row per way.

    Raises:
        InputError: a run is missing or does not fit.
    """
    frames, held_out = read_ways(folder), read_ways(folder, "held-out-")
    facts = read_facts(folder / "sampled" / PREDICTIONS)
    n_items = frames["greedy"]["item_id"].nunique()
    rows = []
    for way, frame in frames.items():
        calibration = calibrate(held_out[way], {})
        calibrated = _with_scores(frame, calibration.apply(item_scores(frame)))
        row: dict[str, Any] = {"way": way, "calibration": {"de": calibration.de, "dir": calibration.dir}}
        row |= {metric: _estimate(frame, metric) for metric in _TASKS}
        row["calibrated"] = {metric: _estimate(calibrated, metric) for metric in _TASKS}
        row["minus_greedy"] = {metric: _difference(frame, frames["greedy"], metric) for metric in (*_RANKS, "brier")}
        row["above_99"] = float((np.nan_to_num(item_scores(frame)).max(axis=1) > 0.99).mean())
        row["tokens_written"] = float(frame["completion_tokens"].sum()) / n_items
        row["tokens_read"] = float(frame["prompt_tokens"].sum()) / n_items
        rows.append(row)
    return {
        "items": n_items,
        "held_out_items": held_out["greedy"]["item_id"].nunique(),
        "samples": _samples(frames["sampled"]),
        "engine": {key: facts["engine"].get(key) for key in ("name", "dtype", "model_fingerprint", "adapter_sha256")},
        "protocol": facts["protocol"],
        "rows": rows,
    }


def _estimate(frame: pd.DataFrame, metric: str) -> dict[str, float]:
    runs = prediction_arrays(frame, metric)
    found = estimate(runs, _TASKS[metric], metric, None)
    interval = confidence_interval(runs, found, metric)
    known = {"value": found.value, "low": interval.low, "high": interval.high}
    return {key: float(value) for key, value in known.items() if np.isfinite(value)}


def _difference(a: pd.DataFrame, b: pd.DataFrame, metric: str) -> dict[str, float] | None:
    if a is b:
        return None
    found = compare(a, b, metric)
    return {"value": found.difference, "low": found.low, "high": found.high, "p": found.p_value}


def table(result: Mapping[str, Any]) -> str:
    """Return the table in Markdown."""
    head = (
        "| scores | per-gene AUROC `de` | minus greedy | per-gene AUROC `dir` | minus greedy | Brier | ECE "
        "| calibrated: Brier | ECE | above .99 | tokens written per item | read |"
    )
    lines = [head, "|---|" + "---:|" * (head.count("|") - 2)]
    for row in result["rows"]:
        de, direction = (row[metric] for metric in _RANKS)
        against = [row["minus_greedy"][metric] for metric in _RANKS]
        cells = [
            WAYS[row["way"]].format(samples=result["samples"]),
            number(de["value"]), _interval(against[0]), number(direction["value"]), _interval(against[1]),
            number(row["brier"]["value"]), number(row["ece"]["value"]),
            number(row["calibrated"]["brier"]["value"]), number(row["calibrated"]["ece"]["value"]),
            f"{row['above_99']:.0%}", f"{row['tokens_written']:.0f}", f"{row['tokens_read']:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(one: Mapping[str, float] | None) -> str:
    if one is None:
        return ""
    return with_interval(one)


def main() -> None:
    """Measure the runs of a folder, if one is given, and write the table into its page."""
    if len(sys.argv) > 1:
        RESULT.write_text(json.dumps(measure(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
    page = DOCS / "statistics.md"
    rows = table(json.loads(RESULT.read_text(encoding="utf-8")))
    page.write_text(between(page.read_text(encoding="utf-8"), MARK, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
