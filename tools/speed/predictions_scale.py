"""How long a million prediction rows take to append, write, read and score, and how much memory.

    python -m tools.speed.predictions_scale [--rows N] [--json F]

Exits with 1 where the whole takes 30 s or 4 GB and more (at a million rows).
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.evaluation.predictions import COLUMNS, PredictionLog, read_predictions, write_predictions
from benchmarks.screens.schema import CELL_LINES
from rewards import LABELS

SAMPLES = 4
PART_ROWS = 4096
MAX_SECONDS = 30.0
MAX_GB = 4.0
WORDS = ("the", "knockdown", "of", "this", "gene", "lowers", "its", "targets", "pathway", "cell", "stress", "response")


def make_predictions(n_rows: int, seed: int = 0) -> pd.DataFrame:
    """Return `n_rows` random predictions, four samples an item, with completions of some 400 characters."""
    rng = np.random.default_rng(seed)
    n_items = -(-n_rows // SAMPLES)
    line = np.array(CELL_LINES)[rng.integers(0, len(CELL_LINES), n_items)]
    pert = np.char.add("P", rng.integers(0, 2000, n_items).astype(str))
    gene = np.char.add("G", (np.arange(n_items) % 5000).astype(str))
    # (pert, gene, line) must not occur twice: the pert's number carries the item's where it would.
    pert = np.char.add(np.char.add(pert, "_"), (np.arange(n_items) // 5000).astype(str))
    label = rng.choice(3, n_items, p=[0.06, 0.08, 0.86])
    item = np.arange(n_rows) // SAMPLES
    names = np.array([str(one) for one in LABELS])
    status = rng.choice(["answered", "malformed", "incomplete", "error"], n_rows, p=[0.97, 0.01, 0.015, 0.005])
    answered = status == "answered"
    p = rng.dirichlet([1.0, 1.0, 6.0], n_rows)
    answer = names[p.argmax(axis=1)].astype(object)
    answer[~answered] = None
    thoughts = np.array([" ".join(rng.choice(WORDS, 60)) for _ in range(4096)], dtype=object)
    completion = "<think>" + thoughts[rng.integers(0, len(thoughts), n_rows)] + np.arange(n_rows).astype(str)
    completion = completion + "</think><answer>" + names[p.argmax(axis=1)].astype(object) + "</answer>"
    completion[status == "error"] = None
    p[~answered] = np.nan
    ids = np.char.add(np.char.add(np.char.add(line, "|"), np.char.add(pert, "|")), gene)
    frame = pd.DataFrame(
        {
            "item_id": ids[item],
            "cell_line": line[item],
            "pert": pert[item],
            "gene": gene[item],
            "label": names[label[item]],
            "sample": np.arange(n_rows) % SAMPLES,
            "seed": 0,
            "completion": completion,
            "answer": answer,
            "status": status,
            "p_up": p[:, 0],
            "p_down": p[:, 1],
            "p_none": p[:, 2],
            "completion_tokens": rng.integers(20, 200, n_rows),
            "finish_reason": np.where(status == "error", "error", "stop"),
        }
    )
    return frame[COLUMNS]


def main() -> int:
    """Time each step and return the exit code."""
    from benchmarks.report.summary import System, summarize

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="prediction rows (default: 1000000)")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    frame = make_predictions(arguments.rows)
    start_gb = peak_gb()
    results = []

    def timed(name: str, start: float) -> None:
        results.append(
            {"name": name, "rows": arguments.rows, "ours_s": time.perf_counter() - start, "peak_gb": peak_gb()}
        )
        print(f"{name:28s} {results[-1]['ours_s']:7.2f} s   peak {results[-1]['peak_gb']:.2f} GB", flush=True)

    print(f"{arguments.rows} rows made, peak {start_gb:.2f} GB")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with PredictionLog(Path(folder), {}) as log:
            for number, first in enumerate(range(0, len(frame), PART_ROWS)):
                log.append(number, frame.iloc[first : first + PART_ROWS])
            timed("append in parts", start)
            start = time.perf_counter()
            log.finish(len(frame))
            timed("merge the parts", start)
        path = Path(folder) / "written.parquet"
        start = time.perf_counter()
        write_predictions(frame, path, {})
        timed("write in one go", start)
        del frame
        start = time.perf_counter()
        read = read_predictions(path)
        timed("read", start)
    start = time.perf_counter()
    summarize([System("model", "model", read, {})], title="", protocol={}, data={})
    timed("score, every metric and line", start)
    total = sum(float(row["ours_s"]) for row in results)
    print(f"{'total':28s} {total:7.2f} s   peak {peak_gb():.2f} GB")
    results.append({"name": "total", "rows": arguments.rows, "ours_s": total, "peak_gb": peak_gb()})
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0 if total < MAX_SECONDS and peak_gb() < MAX_GB else 1


def peak_gb() -> float:
    """Most memory this process has held, in GB; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


if __name__ == "__main__":
    sys.exit(main())
