"""All built-in rewards on completions of 300 tokens, one core, beside two peers' rewards in our own words.

The peers' rewards are restated from what is published of them: rbio (Istrate et al., 2025) pays a world model's
probability, mentions of the genes and tags that are there; AROMA pays +5 for a right answer, -1 for a wrong one and 0.5
for the format. Both look for substrings, and judge less than ours do: the ratio is of cost, not of worth.

python -m benchmarks.speed.rewards [--completions N] [--json FILE]
"""

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rewards import LABELS, Context, GeneSets, Pathways, compose
from rewards.compose import BUILT_IN
from rewards.composition import Component, Composition
from rewards.exploits import Row, honest_think, say

TARGET_S = 10.0  # for 100,000 completions
BATCH = 1000
WORDS = 215  # about 300 tokens
UP, DOWN, NONE = map(str, LABELS)


def rbio(completions: Sequence[str], pert: Sequence[str], gene: Sequence[str], p: Sequence[float]) -> list[float]:
    """A world model's probability for the answer, mentions by substring, tags by pattern."""
    scores = []
    for text, one, other, probability in zip(completions, pert, gene, p, strict=True):
        found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        answer = found.group(1).lower() if found else ""
        verified = probability if UP in answer or DOWN in answer else 1 - probability if answer else 0.0
        tags = all(tag in text for tag in ("<think>", "</think>", "<answer>", "</answer>"))
        scores.append(verified + 0.5 * (one in text) + 0.5 * (other in text) + tags)
    return scores


def aroma(completions: Sequence[str], label: Sequence[str]) -> list[float]:
    """+5 where the label is in the answer, -1 where it is not, 0.5 for the format."""
    scores = []
    for text, true in zip(completions, label, strict=True):
        found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
        right = found is not None and true in found.group(1)
        well_formed = re.match(r"^<think>.*?</think>\s*<answer>.*?</answer>$", text, re.DOTALL) is not None
        scores.append((5.0 if right else -1.0) + 0.5 * well_formed)
    return scores


def make_batch(n: int, seed: int) -> dict[str, Any]:
    """Return n different completions of about 300 tokens with their columns."""
    pick = random.Random(seed)
    rows, texts = [], []
    for at in range(n):
        p, g = f"PRT{pick.randrange(500)}", f"GEN{pick.randrange(500)}"
        prompt = f"{p} is knocked down by CRISPRi in K562. What happens to the expression of {g}?\nLARS (0.7): {UP}"
        label = pick.choice(LABELS)
        rows.append(Row(f"k562|{p}|{g}", "k562", p, g, label, prompt, label, label))
        text = honest_think(rows[-1], 24) + " PGK1 is needed in glycolysis."
        texts.append(say(" ".join(text.split()[:WORDS]) + f" Case {at}.", pick.choice(LABELS), "0.6"))
    return {
        "completions": texts,
        "label": [str(row.label) for row in rows],
        **{name: [getattr(row, name) for row in rows] for name in ("item_id", "cell_line", "pert", "gene")},
        "prompts": [row.prompt for row in rows],
    }


def all_rewards(item_ids: Sequence[str]) -> Composition:
    """Return every built-in reward as one composition."""
    table = pd.DataFrame({"item_id": sorted(set(item_ids)), "p_up": 0.2, "p_down": 0.2, "p_none": 0.6})
    context = Context(dict.fromkeys((UP, DOWN, NONE), 1), {"gene_rate": lambda: table})
    entries: list[Any] = [
        {"name": name, "parameters": {"low": 100, "high": 250} if name == "length" else {}}
        for name in BUILT_IN
        if name != "pathways"
    ]
    sets = {f"process {n} of cells": frozenset(f"GEN{g}" for g in range(n, 500, 50)) for n in range(49)}
    pathways = Component("pathways", Pathways(GeneSets({**sets, "glycolysis": frozenset({"PGK1", "GEN1"})})))
    return Composition((*compose(entries, context).components, pathways))


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of `work`: other programs on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Time both sides in this process, batch by batch, and print seconds and the ratio per completion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sums = {"ours": 0.0, "rbio": 0.0, "aroma": 0.0}
    words = 0
    for number in range(-(-args.completions // BATCH)):
        batch = make_batch(BATCH, number)
        completions, columns = batch["completions"], {k: v for k, v in batch.items() if k != "completions"}
        words += sum(len(text.split()) for text in completions)
        rewards = all_rewards(columns["item_id"])
        p = [0.5] * BATCH
        sums["ours"] += cpu_seconds(lambda: rewards(completions, **columns))  # noqa: B023 - called at once
        sums["rbio"] += cpu_seconds(lambda: rbio(completions, columns["pert"], columns["gene"], p))  # noqa: B023
        sums["aroma"] += cpu_seconds(lambda: aroma(completions, columns["label"]))  # noqa: B023
    n = BATCH * -(-args.completions // BATCH)
    count = len(BUILT_IN)
    print(f"{n:,} completions of {words / n:.0f} words, {count} rewards: {sums['ours']:.2f} s of one core "
          f"(target {TARGET_S * n / 100_000:.1f} s), {1e6 * sums['ours'] / n:.0f} us a completion")  # fmt: skip
    results = []
    for name in ("rbio", "aroma"):
        times = sums["ours"] / sums[name]
        print(f"{name}, restated: {sums[name]:.2f} s, {1e6 * sums[name] / n:.1f} us a completion; all of ours cost "
              f"{times:.1f} times that, {times / count:.2f} times per reward")  # fmt: skip
        results.append(
            {"name": f"rewards, {name}", "prompt": 0, "completion": 300, "group": 1, "completions": n,
             "ours_s": sums["ours"], "other_s": sums[name], "ratio": sums[name] / sums["ours"]}
        )  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
