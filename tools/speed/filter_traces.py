"""Reading and filtering traces with every step, against the plain way: pandas, and exact duplicates only.

python -m tools.speed.filter_traces [--rows 500000] [--json FILE]
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_S = 60.0
TARGET_GB = 4.0
STEPS = [
    "parse", "label", "plain", "leak", {"critic": ["excellent", "good"]}, {"length": {"min": 20, "max": 6000}},
    {"duplicates": 0.9}, {"cap": {"gene": 500, "pert": 500}}, "balance", {"fraction": 0.5},
]  # fmt: skip
PROSE = (
    "the loss of this subunit stalls translation and so raises stress response transcripts while growth signals fade "
    "because mitochondria import fewer proteins chromatin opens near immediate early genes and p53 targets rise but "
    "ribosome biogenesis slows therefore histone output falls given that cells arrest in G1 we expect little change "
    "an answer may depend on cell context splicing factors feed back on their own messages kinase activity drops"
)
LETTERS = random.Random(1)
# "given" and "answer" come about once a text, as in prose.
WORDS = [*PROSE.split(), *("".join(LETTERS.choices("aeiorstnlcdmpu", k=LETTERS.randint(3, 11))) for _ in range(500))]


def write_traces(path: Path, rows: int) -> None:
    """Write traces of about 3 kB; one in eleven is nearly equal to an earlier one."""
    pick = random.Random(0)
    labels = ("upregulated", "downregulated", "not differentially expressed")
    earlier: list[str] = []
    with path.open("w") as file:
        for row in range(rows):
            if earlier and row % 11 == 0:
                think = pick.choice(earlier) + " So it is."
            else:
                think = " ".join(pick.choices(WORDS, k=240))
                if len(earlier) < 5000:
                    earlier.append(think)
            label, answer = labels[row % 3], labels[(row + (row % 4 == 0)) % 3]
            pert, gene = f"P{row % 2500}", f"G{row // 2500}"
            prompt = (
                f"{pert} is knocked down by CRISPRi in RPE1. What happens to the expression of {gene}?" + " x" * 300
            )
            trace = {
                "item_id": f"rpe1|{pert}|{gene}", "cell_line": "rpe1", "pert": pert, "gene": gene, "label": label,
                "prompt": [{"role": "system", "content": "You are an expert."}, {"role": "user", "content": prompt}],
                "completion": f"<think>{think}</think><answer>{answer}</answer>", "answer": answer, "teacher": "t",
                "mode": "blind", "critic": {"verdict": ("good", "bad")[row % 5 == 0], "reason": "r"},
                "created": "2026-11-23T00:00:00+00:00", "protocol": {"template": "three_class", "evidence": 5},
            }  # fmt: skip
            file.write(json.dumps(trace) + "\n")


def ours(path: Path) -> None:
    """Run every step."""
    from sft.filters.run import filter_traces
    from sft.filters.steps import read_steps

    filter_traces(path, path.with_name("kept.jsonl"), read_steps(STEPS, 0))


def other(path: Path) -> None:
    """Read with pandas, keep right and well graded answers of distinct reasoning; no other step, and no check."""
    import pandas as pd

    parts = []
    for frame in pd.read_json(path, lines=True, chunksize=20000):
        right = frame[frame["answer"] == frame["label"]]
        good = right[[critic["verdict"] in ("excellent", "good") for critic in right["critic"]]]
        parts.append(good[["item_id", "completion"]])  # the whole frame would take more memory than most machines have
    kept = pd.concat(parts)
    think = kept["completion"].str.extract(r"<think>(.*)</think>")[0]
    kept[~think.duplicated()].to_json(path.with_name("plain.jsonl"), orient="records", lines=True)


def measure(side: str, path: Path) -> tuple[float, float]:
    """Return seconds and peak memory (GB) of one side in a process of its own."""
    command = [sys.executable, "-m", "tools.speed.filter_traces", "--side", side, "--file", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = done.stdout.split()
    return float(seconds), float(memory)


def main() -> None:
    """Time both sides, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=("ours", "other"))
    parser.add_argument("--file", type=Path)
    args = parser.parse_args()
    if args.side:
        start = time.perf_counter()
        (ours if args.side == "ours" else other)(args.file)
        scale = 1e9 if sys.platform == "darwin" else 1e6  # ru_maxrss is in bytes there, in kB elsewhere
        seconds = time.perf_counter() - start
        own, largest = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        children = (os.cpu_count() or 1) * largest if args.side == "ours" else 0  # each as large as the largest
        print(seconds, (own + children) / scale)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "traces.jsonl"
        write_traces(path, args.rows)
        size = path.stat().st_size / 1e9
        (our_s, our_gb), (other_s, other_gb) = measure("ours", path), measure("other", path)
    print(f"{args.rows:,} traces, {size:.2f} GB")
    print(f"ours, all steps: {our_s:.1f} s, {our_gb:.2f} GB (targets {TARGET_S:g} s, {TARGET_GB:g} GB)")
    print(f"pandas, three steps: {other_s:.1f} s, {other_gb:.2f} GB; ratio {other_s / our_s:.2f}")
    if args.json:
        row = {"name": "filter_traces", "prompt": 0, "completion": 0, "group": 0, "rows": args.rows, "ours_s": our_s,
               "other_s": other_s, "ratio": other_s / our_s, "ours_gb": our_gb, "other_gb": other_gb}  # fmt: skip
        args.json.write_text(json.dumps([row], indent=2))


if __name__ == "__main__":
    main()
