"""All built-in rewards on completions of 300 tokens, one core, beside two peers' rewards in our own words.

The peers' rewards are restated from their published code. rbio (Istrate et al., 2025; the demo in czi-ai/rbio,
`training/`): the mean of eleven checks of the format, twice a world model's probability of the yes or no that it finds
as a substring of the answer, and the share of keywords that are substrings of the reasoning. AROMA (blazerye/AROMA,
`aroma/train_grpo.py`): +5 where the whole text of the last answer is the label and -1 where it is not, 0.5 for the
format, 0.5 for an answer that is one of its three labels. Each is given answers as its own prompts ask for them. They
judge less than ours do: the ratio is of cost, not of worth.

python -m tools.speed.rewards [--completions N] [--json FILE]
"""

import argparse
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from rewards import LABELS, Context, GeneSets, Pathways, compose
from rewards.compose import BUILT_IN
from rewards.composition import Component, Composition
from rl.lab.exploits import Row, honest_think, say

TARGET_S: Final = 10.0  # for 100,000 completions
BATCH: Final = 1000
ALONE: Final = 10  # batches on which each reward is timed by itself
WORDS: Final = 215  # about 300 tokens
UP, DOWN, NONE = map(str, LABELS)
AROMA_NONE: Final = "not significantly changed"
_TAG: Final = re.compile(r"<(/?)(think|answer)>", re.IGNORECASE)
_PAIR: Final = re.compile(r"<(think|answer)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_WORD: Final = re.compile(r"\b\w+\b")
_AROMA: Final = re.compile(r"<(?:think|reasoning)>.*?</(?:think|reasoning)>\s*<answer>.*?</answer>", re.DOTALL)


def rbio(completions: Sequence[str], p_yes: Sequence[float], keywords: Sequence[Sequence[str]]) -> list[float]:
    """Format, answer and mentions: 0 to 4 each completion.

    Args:
        completions: B texts, with yes or no in the answer.
        p_yes: B probabilities of yes, by the world model.
        keywords: B lists of what the reasoning is to mention.
    """
    scores = []
    for text, p, words in zip(completions, p_yes, keywords, strict=True):
        pairs = [(name.lower(), inside) for name, inside in _PAIR.findall(text)]
        think = " ".join(inside for name, inside in pairs if name == "think")
        said = _yes(next((inside for name, inside in pairs if name == "answer"), ""), text)
        answer = 0.0 if said is None else p if said else 1.0 - p
        scores.append(_rbio_format(text, pairs, think) + 2.0 * answer + sum(w in think for w in words) / len(words))
    return scores


def _yes(answer: str, text: str) -> bool | None:
    """Whether an answer is yes; where it says neither, whether the text says one and not the other."""
    if "yes" in answer.lower():
        return True
    if "no" in answer.lower():
        return False
    yes, no = "yes" in text.lower(), "no" in text.lower()
    return yes if yes != no else None


def _rbio_format(text: str, pairs: Sequence[tuple[str, str]], think: str) -> float:
    tags = [(bool(tag[1]), tag[2].lower(), tag.start()) for tag in _TAG.finditer(text)]
    thinks, answers = ([at for closing, one, at in tags if one == name and not closing] for name in ("think", "answer"))
    ends = [at for closing, one, at in tags if closing and one == "think"]
    words = len(_WORD.findall(_TAG.sub("", text)))
    checks = (
        bool(thinks),
        sum(len(_WORD.findall(inside)) for _, inside in pairs) / words if words else 0.0,
        len(_WORD.findall(text)) <= 200,
        len(answers) == 1,
        bool(answers) and bool(ends) and answers[0] > ends[-1],
        len(think.strip()) > 10,
        bool(tags) and not any(_TAG.search(inside) for _, inside in pairs),
        0 < len(thinks) <= 3,
        bool(tags) and _nested_well(tags),
        text.rstrip().endswith("</answer>"),
        text.lstrip().startswith("<think>"),
    )
    return sum(checks) / len(checks)


def _nested_well(tags: Sequence[tuple[bool, str, int]]) -> bool:
    """Whether each tag is closed by its own kind, the last opened first."""
    still_open: list[str] = []
    for closing, name, _ in tags:
        if not closing:
            still_open.append(name)
        elif not still_open or still_open.pop() != name:
            return False
    return not still_open


def aroma(completions: Sequence[str], label: Sequence[str]) -> list[float]:
    """Right or wrong, the format, and an answer that is a label: -1 to 6 each completion.

    Args:
        completions: B texts.
        label: B true labels, as AROMA spells them.
    """
    scores = []
    for text, true in zip(completions, label, strict=True):
        tagged = "<answer>" in text and "</answer>" in text
        answer = text.rpartition("<answer>")[2].partition("</answer>")[0].strip() if tagged else ""
        score = 5.0 if answer == true else -1.0
        score += 0.5 * (_AROMA.fullmatch(text.strip()) is not None)
        scores.append(score + 0.5 * (answer.lower() in (UP, DOWN, AROMA_NONE)))
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


def columns_of(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch's columns, without its completions."""
    return {key: values for key, values in batch.items() if key != "completions"}


def time_each(batches: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return seconds a completion for each of our rewards by itself: nothing that another one read helps it."""
    composition = all_rewards([item for batch in batches for item in batch["item_id"]])
    n = sum(len(batch["completions"]) for batch in batches)
    return {
        component.name: sum(
            cpu_seconds(lambda: component(batch["completions"], **columns_of(batch)))  # noqa: B023 - called at once
            for batch in batches
        )
        / n
        for component in composition.components
    }


def main() -> None:
    """Time both sides in this process, batch by batch, and print seconds and the ratios per completion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--completions", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sums = {"ours": 0.0, "rbio": 0.0, "AROMA": 0.0}
    words, n_batches = 0, -(-args.completions // BATCH)
    for number in range(n_batches):
        batch = make_batch(BATCH, number)
        completions, columns = batch["completions"], columns_of(batch)
        words += sum(len(text.split()) for text in completions)
        rewards = all_rewards(columns["item_id"])
        # In the answers alone: the reasoning stays as it is.
        yes_no = [re.sub(rf"<answer>({UP}|{DOWN}|{NONE})", _yes_or_no, text) for text in completions]
        theirs = [text.replace(f"<answer>{NONE}", f"<answer>{AROMA_NONE}") for text in completions]
        keywords = list(zip(columns["pert"], columns["gene"], strict=True))
        labels = [AROMA_NONE if label == NONE else label for label in columns["label"]]
        p_yes = [0.5] * BATCH
        sums["ours"] += cpu_seconds(lambda: rewards(completions, **columns))  # noqa: B023 - called at once
        sums["rbio"] += cpu_seconds(lambda: rbio(yes_no, p_yes, keywords))  # noqa: B023
        sums["AROMA"] += cpu_seconds(lambda: aroma(theirs, labels))  # noqa: B023
    n = BATCH * n_batches
    seconds = {f"all {len(BUILT_IN)} rewards": sums["ours"] / n}
    seconds |= time_each([make_batch(BATCH, number) for number in range(min(ALONE, n_batches))])
    other = {name: sums[name] / n for name in ("rbio", "AROMA")}
    print(f"{n:,} completions of {words / n:.0f} words, {len(BUILT_IN)} rewards: {sums['ours']:.2f} s of one core "
          f"(target {TARGET_S * n / 100_000:.1f} s)")  # fmt: skip
    print("us of one core a completion, and how many times the peers' whole rewards cost that")
    print(f"{'':24} {'us':>8}" + "".join(f" {name:>8}" for name in other))
    for name, one in other.items():
        print(f"{f'{name}, restated':24} {1e6 * one:8.1f}")
    results = []
    for name, one in seconds.items():
        print(f"{name:24} {1e6 * one:8.1f}" + "".join(f" {theirs_s / one:8.2f}" for theirs_s in other.values()))
        results += [
            {"name": f"{name}, {peer}", "prompt": 0, "completion": 300, "group": 1, "completions": n,
             "ours_s": one * n, "other_s": theirs_s * n, "ratio": theirs_s / one}
            for peer, theirs_s in other.items()
        ]  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


def _yes_or_no(answer: re.Match[str]) -> str:
    return "<answer>no" if answer[1] == NONE else "<answer>yes"


if __name__ == "__main__":
    main()
