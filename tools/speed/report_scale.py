"""How long the full report takes, and how much memory: 12 systems × 5 training seeds × all official test items.

    SYNTHPERT_DATA=FOLDER python -m tools.speed.report_scale [--fractions 0.125 0.25 0.5 1] [--json F]

Writes synthetic predictions with completions as run folders, and reports each share of the items in a process of its
own. Exits with 1 where the whole takes more than 3 minutes or 8 GB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.evaluation.predictions import COLUMNS, PROBABILITIES, write_predictions
from benchmarks.evaluation.run import PREDICTIONS, EvalArguments, make_protocol
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.runs import open_run
from rewards import LABELS
from tools.speed.predictions_scale import WORDS, peak_gb

MAX_SECONDS = 180.0
MAX_GB = 8.0
N_WORDS = 100


def write_runs(corpus: Corpus, items: pd.DataFrame, n_systems: int, n_seeds: int, folder: Path) -> list[Path]:
    """Write an evaluation per system and training seed; later systems are better, items and seeds differ."""
    names = np.array([str(label) for label in LABELS])
    truth = np.eye(len(LABELS))[items["label"].astype("str").map(dict(zip(names, range(3), strict=True)))]
    prior = np.log([0.07, 0.07, 0.86])
    rng = np.random.default_rng(0)
    by_item = rng.gumbel(size=truth.shape)
    thoughts = np.array([" ".join(rng.choice(WORDS, N_WORDS)) for _ in range(4096)], dtype=object)
    keys = items[["item_id", "cell_line", "pert", "gene", "label"]].astype("str").reset_index(drop=True)
    paths = []
    for system in range(n_systems):
        for seed in range(n_seeds):
            path = folder / f"system-{system}" / f"seed-{seed}"
            arguments = EvalArguments(str(path), "synthetic", name=f"system {system}", training_seed=seed)
            protocol = make_protocol(arguments, corpus.digest)
            logits = prior + (0.5 + 0.15 * system) * truth + 0.6 * by_item + 0.4 * rng.gumbel(size=truth.shape)
            prob = np.exp(logits - logits.max(axis=1, keepdims=True))
            prob /= prob.sum(axis=1, keepdims=True)
            # The first system was asked through a server, where requests fail; a local engine has no errors.
            shares = [0.97, 0.02, 0.009, 0.001] if system == 0 else [0.97, 0.02, 0.01, 0.0]
            status = rng.choice(["answered", "malformed", "incomplete", "error"], len(items), p=shares)
            answered = status == "answered"
            answer = names[prob.argmax(axis=1)].astype(object)
            text = thoughts[rng.integers(0, len(thoughts), len(items))] + np.arange(len(items)).astype(str).astype(
                object
            )
            completion = "<think>" + text + "</think><answer>" + answer + "</answer>"
            completion[status == "error"] = None
            answer[~answered] = None
            prob[~answered] = np.nan
            frame = keys.assign(
                sample=0, seed=seed, completion=completion, answer=answer, status=status,
                completion_tokens=rng.integers(100, 400, len(items)),
                finish_reason=np.where(status == "error", "error", "stop"),
                **dict(zip(PROBABILITIES, prob.T, strict=True)),
            )  # fmt: skip
            run = open_run(path, "eval", vars(arguments))
            facts = {
                "protocol": json.loads(protocol.canonical_json()),
                "protocol_fingerprint": protocol.fingerprint,
                "engine": {"model": "synthetic", "adapter_sha256": f"{system}-{seed}"},
                "seed": seed,
            }
            write_predictions(frame[COLUMNS], path / PREDICTIONS, facts)
            run.finish(name=arguments.name)
            paths.append(path)
    return paths


def measure(folder: Path) -> int:
    """Report all runs in a folder, print seconds and GB as JSON."""
    from benchmarks.report.collect import report_runs

    paths = sorted(
        folder.glob("system-*/seed-*"), key=lambda path: [int(p.rpartition("-")[2]) for p in path.parts[-2:]]
    )
    start, cpu = time.perf_counter(), time.process_time()
    page = report_runs(paths, folder / "report", title="scale", command="")
    found = {"ours_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}
    print(json.dumps({**found, "peak_gb": peak_gb(), "page_mb": page.stat().st_size / 1e6}))
    return 0


def main() -> int:
    """Time the report at several sizes and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.125, 0.25, 0.5, 1.0], help="shares of the items"
    )
    parser.add_argument("--data", help="folder of the labels, or `sample`; SYNTHPERT_DATA by default")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        return measure(arguments.measure)
    corpus = open_corpus(arguments.data)
    rows: list[dict[str, float | str]] = []
    print(f"{arguments.systems} systems x {arguments.seeds} seeds")
    print(f"{'items':>8s} {'rows':>10s} {'seconds':>8s} {'CPU s':>8s} {'us a row':>9s} {'peak GB':>8s} {'page MB':>8s}")
    for fraction in sorted(arguments.fractions):
        items = corpus.test.sample(frac=fraction, random_state=0).sort_index()
        n = len(items) * arguments.systems * arguments.seeds
        with tempfile.TemporaryDirectory() as folder:
            write_runs(corpus, items, arguments.systems, arguments.seeds, Path(folder))
            words = [sys.executable, "-m", "tools.speed.report_scale", "--measure", folder]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append({"name": f"report of {n} rows", "rows": n, "items": len(items), "fraction": fraction, **found})
        print(
            f"{len(items):8,d} {n:10,d} {found['ours_s']:8.1f} {found['cpu_s']:8.1f} {found['ours_s'] / n * 1e6:9.2f} "
            f"{found['peak_gb']:8.2f} {found['page_mb']:8.2f}",
            flush=True,
        )
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    largest = rows[-1]
    return 0 if float(largest["ours_s"]) <= MAX_SECONDS and float(largest["peak_gb"]) <= MAX_GB else 1


if __name__ == "__main__":
    sys.exit(main())
