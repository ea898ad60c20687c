"""How long a table of labels takes to load and to forecast: python -m tools.speed.label_tables [--rows N] [--json F]

The table is made up: two cell lines, unquoted CSV, the columns pert, gene, label, cell_line. What is timed is
`open_corpus`, with a split that holds out perturbations and genes. Then the two-sided neighbours forecast every row of
the table, under a split that holds out perturbations. Each is timed in a process of its own, with the memory it takes.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

GENES: Final = 2000
SPLIT: Final = "holdout:both"
FORECAST_SPLIT: Final = "holdout:perturbations"  # it keeps every row
LABELS: Final = {"up": "upregulated", "down": "downregulated", "none": "not differentially expressed"}


def write_table(path: Path, rows: int) -> None:
    """Write a table of made-up labels; each pair is there once."""
    at = np.arange(rows)
    line, rest = at % 2, at // 2
    label = np.random.default_rng(0).choice(list(LABELS), size=rows, p=[0.08, 0.06, 0.86])
    frame = pd.DataFrame(
        {
            "pert": np.char.add("PERT", (rest // GENES).astype(str)),
            "gene": np.char.add("GENE", (rest % GENES).astype(str)),
            "label": label,
            "cell_line": np.array(["k562", "bmdm"])[line],
        }
    )
    frame.to_csv(path, index=False)


def load(path: Path) -> dict[str, float]:
    """Load a table; return seconds, and the largest memory of this process in GB, before and after."""
    from benchmarks.evidence.corpus import open_corpus
    from benchmarks.screens.table import LabelTable

    before = _memory()
    start, worked = time.perf_counter(), time.process_time()
    corpus = open_corpus(LabelTable(str(path), labels=LABELS), SPLIT)
    seconds, worked = time.perf_counter() - start, time.process_time() - worked
    used = _memory()
    start = time.perf_counter()
    _ = corpus.digest
    return {
        "rows": len(corpus.labels) + corpus.left_out,
        "load_s": seconds,
        "load_cpu_s": worked,
        "digest_s": time.perf_counter() - start,
        "imports_gb": before,
        "peak_gb": used,
    }


def forecast(path: Path) -> dict[str, float]:
    """Forecast all rows of a table; return seconds, those that chose the settings, and this process's memory in GB."""
    from benchmarks.evaluation.unseen import choose_two_sided, two_sided_neighbours
    from benchmarks.evidence.corpus import open_corpus
    from benchmarks.screens.table import LabelTable

    corpus = open_corpus(LabelTable(str(path), labels=LABELS), FORECAST_SPLIT)
    start, worked = time.perf_counter(), time.process_time()
    settings = choose_two_sided(corpus)
    chosen = time.perf_counter() - start
    rows = len(two_sided_neighbours(corpus, corpus.labels, settings))
    return {
        "forecast_rows": rows,
        "choose_s": chosen,
        "forecast_s": time.perf_counter() - start,  # with the choice of the settings
        "forecast_cpu_s": time.process_time() - worked,
        "forecast_peak_gb": _memory(),
    }


def _memory() -> float:
    """Return the most memory that this process has had, in GB, as Linux counts it since the process began."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[0]) * 1024 / 1e9


PARTS: Final = {"load": load, "forecast": forecast}


def in_new_process(part: str, path: Path) -> dict[str, float]:
    """Measure one part in a process of its own, so that its memory is that part's."""
    command = [sys.executable, "-m", "tools.speed.label_tables", "--part", part, "--table", str(path)]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def main() -> None:
    """Make the table, measure each part in a new process, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="rows of the table")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        sys.stdout.write(json.dumps(PARTS[asked.part](asked.table)) + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        write_table(path, asked.rows)
        found: dict[str, Any] = {"file_mb": round(path.stat().st_size / 1e6, 1)}
        for part in PARTS:
            found |= in_new_process(part, path)
    if asked.json:
        asked.json.write_text(json.dumps({"rows": [found]}, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(
        f"{found['rows']:,} rows, {found['file_mb']} MB: loaded in {found['load_s']:.1f} s "
        f"({found['load_cpu_s']:.1f} s of CPU), digest in {found['digest_s']:.1f} s; "
        f"at most {found['peak_gb']:.2f} GB, {found['imports_gb']:.2f} of it imports\n"
        f"{found['forecast_rows']:,} rows forecast by the two-sided neighbours in {found['forecast_s']:.1f} s "
        f"({found['forecast_cpu_s']:.1f} s of CPU), of which {found['choose_s']:.1f} s chose the settings; "
        f"at most {found['forecast_peak_gb']:.2f} GB\n"
    )


if __name__ == "__main__":
    main()
