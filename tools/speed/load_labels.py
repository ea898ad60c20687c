"""Loading all labels, checked and joined, against the plain pandas way without any check.

python -m tools.speed.load_labels [--source FOLDER] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.screens.labels import data_dir, load_labels
from benchmarks.screens.schema import CELL_LINES

TARGET_S = 2.0


def plain(folder: Path) -> pd.DataFrame:
    """Read and join the files with pandas alone; nothing is verified."""
    frames = []
    for line in CELL_LINES:
        de = pd.read_csv(folder / f"{line}-de.csv", keep_default_na=False)
        direction = pd.read_csv(folder / f"{line}-dir.csv", keep_default_na=False)
        frames.append(de.merge(direction, on=["pert", "gene"], how="left").assign(cell_line=line))
    return pd.concat(frames, ignore_index=True)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median wall-clock time of `work`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Time both sides in this process and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=data_dir())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = len(load_labels(args.source))
    ours = median_seconds(lambda: load_labels(args.source), 5)
    other = median_seconds(lambda: plain(args.source), 5)
    print(f"{rows:,} rows: ours {ours:.2f} s, checked (target {TARGET_S} s); pandas {other:.2f} s, unchecked; "
          f"ratio {other / ours:.2f}")  # fmt: skip
    if args.json:
        row = {"name": "load_labels", "prompt": 0, "completion": 0, "group": 0, "rows": rows}
        args.json.write_text(json.dumps([{**row, "ours_s": ours, "other_s": other, "ratio": other / ours}], indent=2))


if __name__ == "__main__":
    main()
