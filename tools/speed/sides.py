"""What the scripts share: each side in a process of its own, rounds in turn, medians of their ratios, and JSON."""

import json
import resource
import statistics
import subprocess
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import describe_machine


def make_parser(description: str | None, rounds: int = 3) -> ArgumentParser:
    """Return a parser with the options of all scripts."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--rounds", type=int, default=rounds, help="times that each side is measured")
    return parser


def run_apart(module: str, **job: Any) -> Any:
    """Run a job of a script in a process of its own, so that time and memory are those of one side.

    Args:
        module: the script, which calls `did_job`.
        job: arguments of its measurement.

    Raises:
        SystemExit: it failed; the message is the end of its output.
    """
    with TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        words = [sys.executable, "-m", module, "--job", json.dumps(job), str(result)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if not result.is_file():
            raise SystemExit(f"{module} {job}: {done.stdout[-3000:]}")
        return json.loads(result.read_text(encoding="utf-8"))


def did_job(measure: Callable[..., Any]) -> bool:
    """Do the job that this process was started for, if any, and return whether there was one."""
    if sys.argv[1:2] != ["--job"]:
        return False
    result = measure(**json.loads(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(result), encoding="utf-8")
    return True


def peak_memory() -> float:
    """Return the most memory that this process has taken, in GiB: of the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_turn(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Measure each side once in every round."""
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def compared(ours: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return both sides' median seconds, the median of their ratios, and the most memory of each.

    Args:
        ours, other: `seconds` and `memory_gib` of each round.
    """
    pairs = [(own["seconds"], theirs["seconds"]) for own, theirs in zip(ours, other, strict=True)]
    return {
        "ours_s": statistics.median(own for own, _ in pairs),
        "other_s": statistics.median(theirs for _, theirs in pairs),
        "ratio": statistics.median(theirs / own for own, theirs in pairs),
        "ours_gib": max(one["memory_gib"] for one in ours),
        "other_gib": max(one["memory_gib"] for one in other),
    }


def show(row: Mapping[str, Any]) -> None:
    """Print a row of `compared`."""
    print(
        f"{row['name']}: ours {row['ours_s']:.3g} s, the other {row['other_s']:.3g} s, ratio {row['ratio']:.2f}; "
        f"{row['ours_gib']:.2f} and {row['other_gib']:.2f} GiB",
        flush=True,
    )


def write_results(path: Path | None, rows: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Write rows and the kind of machine as JSON; do nothing without a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"machine": asdict(describe_machine()), **facts, "rows": list(rows)}
        path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
