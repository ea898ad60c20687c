"""Which scores rank best? Compares the ways to a label's probability on some models, and fills their page's tables.

python -m tools.compare_scores NAME=FOLDER …    reads runs, writes docs/scores.json and the tables in docs/statistics.md
python -m tools.compare_scores                  writes the tables from docs/scores.json again

NAME is what the table calls the model. FOLDER holds six runs of one adapter. With C for
`--config configs/demo/eval.yaml --adapter runs/demo/sft/adapter`:

synthpert eval C --out FOLDER/greedy
synthpert eval C --out FOLDER/sampled --temperature 1 --samples 8
synthpert eval C --out FOLDER/direct --scores direct
synthpert calibrate C --items 30 --out FOLDER/held-out-greedy
synthpert calibrate C --items 30 --out FOLDER/held-out-sampled --temperature 1 --samples 8
synthpert calibrate C --items 30 --out FOLDER/held-out-direct --scores direct

The scores `both` are computed from the other runs, as `eval --scores both` computes them: once from `greedy` and
`direct`, once from `sampled` and `direct`. Temperatures are fitted on the items that all three held-out runs have.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.evaluation.calibrate import calibrate, item_scores
from benchmarks.evaluation.predictions import PROBABILITIES, read_facts, read_predictions
from benchmarks.evaluation.run import PREDICTIONS
from benchmarks.evaluation.scores import Floats, average_log_odds
from benchmarks.statistics.alignment import align
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from benchmarks.statistics.significance import compare_runs, confidence_interval
from rewards import InputError
from tools.pages import between, number, table, with_interval

DOCS: Final = Path(__file__).parents[1] / "docs"
RESULT: Final = DOCS / "scores.json"
WAYS: Final = {
    "greedy": "`logprobs`, one greedy completion",
    "direct": "`direct`",
    "both_greedy": "`both`, one greedy completion",
    "sampled": "`logprobs`, mean of {samples} samples",
    "both_sampled": "`both`, {samples} samples",
}
RUNS: Final = ("greedy", "sampled", "direct")
RANKS: Final = {
    "de_per_gene_auroc": "per-gene AUROC `de`",
    "dir_per_gene_auroc": "`dir`",
    "de_auroc": "pooled AUROC `de`",
    "dir_auroc": "`dir`",
}
_TASKS: Final = {metric: metric.split("_")[0] for metric in RANKS} | {"brier": "three_class", "ece": "three_class"}


def read_ways(folder: Path, prefix: str = "") -> dict[str, pd.DataFrame]:
    """Return the predictions of each way on the items that all have, in one order.

    Args:
        folder: where the runs lie.
        prefix: of their names.

    Raises:
        InputError: a run is missing, or the runs have no item in common.
    """
    frames = {way: read_predictions(folder / f"{prefix}{way}" / PREDICTIONS) for way in RUNS}
    shared = set.intersection(*(set(frame["item_id"]) for frame in frames.values()))
    if not shared:
        raise InputError(f"{folder}: its runs have no item in common; evaluate them on the same items")
    frames = {
        way: frame[frame["item_id"].isin(shared)].sort_values(["item_id", "sample"], ignore_index=True)
        for way, frame in frames.items()
    }
    for way in ("greedy", "sampled"):
        frames[f"both_{way}"] = _both(frames[way], frames["direct"])
    return {way: frames[way] for way in WAYS}


def _both(reasoned: pd.DataFrame, direct: pd.DataFrame) -> pd.DataFrame:
    """The frame of answers after reasoning, with scores and tokens of `scores: both`."""
    both = _with_scores(reasoned, average_log_odds(item_scores(reasoned), item_scores(direct)))
    first = (both["sample"] == 0).to_numpy()
    for column in ("completion_tokens", "prompt_tokens"):
        both.loc[first, column] += direct[column].to_numpy()
    return both


def _samples(frame: pd.DataFrame) -> int:
    return int(frame["sample"].max()) + 1


def _with_scores(frame: pd.DataFrame, scores: Floats) -> pd.DataFrame:
    """The frame with an item's score in each of its rows that has probabilities."""
    known = frame[list(PROBABILITIES)].notna().to_numpy()
    frame = frame.copy()
    frame[list(PROBABILITIES)] = np.where(known, scores.repeat(_samples(frame), axis=0), np.nan)
    return frame


def measure(folder: Path) -> dict[str, Any]:
    """Return what docs/scores.json holds of a model: facts of its runs, and a row per way.

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
        row["minus_greedy"] = {metric: _difference(frame, frames["greedy"], metric) for metric in (*RANKS, "brier")}
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
    """The difference of two ways; None of a way from itself, or where the items do not allow a test."""
    if a is b:
        return None
    runs_a, runs_b = (prediction_arrays(frame, metric) for frame in (a, b))
    found = compare_runs(runs_a, align(runs_b, runs_a, "b", "a"), metric)
    if not np.isfinite(found.low):
        return None
    return {"value": found.difference, "low": found.low, "high": found.high, "p": found.p_value}


def rank_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how well each way ranks, in Markdown; dashes where a way's score has no interval, for want of items.

    Args:
        models: by name, from `measure`.
    """
    head = ["model", "scores"]
    for name in RANKS.values():
        head += [name, "minus greedy"]
    rows = []
    for model, row in _rows(models):
        cells = [model, _way(row, models[model])]
        for metric in RANKS:
            against = row["minus_greedy"][metric]
            if all("low" in other[metric] for other in models[model]["rows"]):
                cells += [number(row[metric]["value"]), with_interval(against) if against else ""]
            else:
                cells += ["–", ""]
        rows.append(cells)
    return table(head, rows, words=2)


def cost_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how far each way's probabilities can be taken at their word, and what they cost; see `rank_table`."""
    head = ["model", "scores", "Brier", "minus greedy", "ECE", "calibrated: Brier", "ECE", "above .99"]
    rows = []
    for model, row in _rows(models):
        against, calibrated = row["minus_greedy"]["brier"], row["calibrated"]
        rows.append([
            model, _way(row, models[model]), number(row["brier"]["value"]), with_interval(against) if against else "",
            number(row["ece"]["value"]), number(calibrated["brier"]["value"]), number(calibrated["ece"]["value"]),
            f"{row['above_99']:.0%}", f"{row['tokens_written']:.0f}", f"{row['tokens_read']:.0f}",
        ])  # fmt: skip
    return table([*head, "tokens written per item", "read"], rows, words=2)


def _rows(models: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(model, row) for model, result in models.items() for row in result["rows"]]


def _way(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    return WAYS[row["way"]].format(samples=result["samples"])


TABLES: Final = {"<!-- scores: ranks -->": rank_table, "<!-- scores: costs -->": cost_table}


def with_tables(page: str, models: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a page with its tables written anew."""
    for mark, write in TABLES.items():
        page = between(page, mark, write(models))
    return page


def main() -> None:
    """Measure the runs of the folders, if any are given, and write the tables into their page."""
    if len(sys.argv) > 1:
        folders = dict(word.split("=", 1) for word in sys.argv[1:])
        models = {name: measure(Path(folder)) for name, folder in folders.items()}
        RESULT.write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")
    page = DOCS / "statistics.md"
    models = json.loads(RESULT.read_text(encoding="utf-8"))
    page.write_text(with_tables(page.read_text(encoding="utf-8"), models), encoding="utf-8")


if __name__ == "__main__":
    main()
