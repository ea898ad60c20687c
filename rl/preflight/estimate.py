"""What samples of the SFT policy tell of a GRPO run: which prompts teach, how many groups do not, and the time."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Final

import pandas as pd

from benchmarks.progress import in_words
from rewards import LABELS
from rl.rollout_files import COMPONENT

_DIGITS: Final = 6  # rewards that differ by less are equal
_WIDTH: Final = 30  # characters of the longest bar of a histogram


def dead_probability(rewards: Iterable[Hashable], group_size: int) -> float:
    """Return how probable it is that a group of one prompt's completions has no advantages.

    That is so where all of the group have the same reward. With n samples, of which n_v have the reward v, the estimate
    is Σ_v C(n_v, G) / C(n, G): the share of all groups of G different samples that are equal. It is unbiased, since
    each such group is a random one.

    Args:
        rewards: n rewards of one prompt's completions, of those only that can be judged.
        group_size: G, completions per group. Of fewer samples, the group is all of them.

    Returns:
        The probability; 1 for fewer than two samples.
    """
    counts = Counter(rewards)
    n = counts.total()
    size = min(group_size, n)
    return 1.0 if n < 2 else sum(comb(count, size) for count in counts.values()) / comb(n, size)


def summarise(rollouts: pd.DataFrame, group_size: int, *, parts: bool = False) -> pd.DataFrame:
    """Sum up the samples of each prompt.

    Args:
        rollouts: as `rl.rollout_files.read_rollouts` returns them.
        group_size: completions per group.
        parts: whether two completions are equal only if all their rewards are, as for TRL's
            `multi_objective_aggregation: normalize_then_sum`, and not if their total is.

    Returns:
        A row for each prompt: `item_id`, `label`, `samples`, `pass_rate` (share of the samples with the right answer;
        NaN without a label), `mean_reward` (of the samples that can be judged; NaN where none can) and `dead` (see
        `dead_probability`).
    """
    compared = [name for name in rollouts if str(name).startswith(COMPONENT)] if parts else ["total_reward"]
    rows = []
    for item_id, samples in rollouts.groupby("item_id", sort=False):
        label = str(samples["label"].iloc[0])
        judged = samples[samples["total_reward"].notna()]
        keys = judged[compared].astype(float).round(_DIGITS).itertuples(index=False, name=None)
        rows.append({
            "item_id": item_id,
            "label": label,
            "samples": len(samples),
            "pass_rate": float((samples["answer"] == label).mean()) if label else float("nan"),
            "mean_reward": float(judged["total_reward"].mean()),
            "dead": dead_probability(keys, group_size),
        })  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Cost:
    """Measured times of the parts of a step, in seconds of wall-clock time, and how often each occurs.

    Attributes:
        rollout: of one completion.
        reward: of one completion's rewards.
        sync: of sending the weights to the engine, once for each batch of completions; 0 for transformers.
        scoring: of one forward pass over a batch's completions without a gradient; None where none was made.
        micro_batch: of one micro-batch, forward and backward, whose completions all have advantages.
        completions: in a generated batch.
        micro_batches: of an optimizer step.
        batches: generated for an optimizer step; less than 1 where a batch serves several.
        reference: whether the reference model scores each batch, which `beta` > 0 asks for.
        corrected: whether each batch is scored once more for TRL's importance correction.
        skipped: whether a dead group costs no training time.
        steps: optimizer steps of the run.
        evaluation: completions of one evaluation on held-out prompts; 0 where there is none.
    """

    rollout: float
    reward: float
    sync: float
    scoring: float | None
    micro_batch: float
    completions: int
    micro_batches: int
    batches: float
    reference: bool
    corrected: bool
    skipped: bool
    steps: int
    evaluation: int = 0

    def parts(self, dead: float) -> dict[str, float]:
        """Return the seconds of a step by its parts; `dead` is the share of groups without advantages."""
        generated = self.completions * self.batches
        passes = (self.scoring or 0.0) * self.batches
        found = {
            "rollouts": generated * self.rollout + self.sync * self.batches,
            "rewards": generated * self.reward,
            "importance correction": passes * self.corrected,
            "reference (beta > 0)": passes * self.reference,
            "training": self.micro_batches * self.micro_batch * (1 - dead if self.skipped else 1),
        }
        return {name: seconds for name, seconds in found.items() if seconds}


def histogram(values: Sequence[float], edges: Sequence[float], names: Sequence[str]) -> list[str]:
    """Return a line for each bin of a histogram: its name, how many values, their share, and a bar.

    Args:
        values: to count.
        edges: N upper ends of bins, each included, ascending; a value above all counts in the last bin.
        names: N names of the bins.
    """
    bins = [sum(value > edge for edge in edges[:-1]) for value in values]
    counts = [bins.count(at) for at in range(len(edges))]
    wide = max(map(len, names))
    return [
        f"  {name:{wide}}  {count:5}  {share(count / max(len(values), 1)):>5}  "
        f"{'#' * round(_WIDTH * count / max(max(counts), 1))}".rstrip()
        for name, count in zip(names, counts, strict=True)
    ]


def share(value: float) -> str:
    """Return a share in per cent, in the form `38 %`."""
    return f"{100 * value:.0f} %"


def describe_prompts(prompts: pd.DataFrame, group_size: int) -> list[str]:
    """Return what is to be said of the prompts, line by line; see `summarise`."""
    labelled = prompts[prompts["label"] != ""]
    lines = []
    if len(labelled):
        lines += [
            "pass rate: share of a prompt's samples with the right answer",
            *histogram(
                labelled["pass_rate"].tolist(),
                [0, 0.25, 0.5, 0.75, 1 - 1e-9, 1],
                ["0", "to 25 %", "to 50 %", "to 75 %", "below 100 %", "100 %"],
            ),
            "  mean: "
            + ", ".join(
                f"{share(rates.mean())} of {label}"
                for label in LABELS
                if len(rates := labelled.loc[labelled["label"] == str(label), "pass_rate"])
            ),
        ]
    rewards = prompts["mean_reward"].dropna()
    if len(rewards):
        low, high = float(rewards.min()), float(rewards.max())
        edges = [low + (high - low) * part / 5 for part in range(1, 6)] if high > low else [high]
        lines += [
            "mean reward of a prompt's samples",
            *histogram(rewards.tolist(), edges, [f"to {edge:.3g}" for edge in edges]),
        ]
    silent = float((prompts["dead"] >= 1).mean())
    return [
        *lines,
        f"{share(silent)} of your prompts can't teach: all of a prompt's samples earned the same",
        f"{share(prompts['dead'].mean())} of the groups will be dead (equal rewards, so no advantages) with "
        f"num_generations: {group_size}, as long as the policy is as it starts",
    ]


def describe_cost(cost: Cost, dead: float) -> list[str]:
    """Return what is to be said of the time, line by line; `dead` is the share of groups without advantages."""
    parts = cost.parts(dead)
    step = sum(parts.values())
    lines = [
        f"time, measured here and now: {cost.rollout:.3g} s a completion, {cost.micro_batch:.3g} s a micro-batch "
        "(forward and backward)",
        f"  a step: {step:.3g} s ({', '.join(f'{name} {seconds:.3g} s' for name, seconds in parts.items())})",
        f"  the run: {in_words(step * cost.steps)} for {cost.steps} steps, without start, evaluations and saving",
    ]
    if cost.evaluation:
        lines.append(
            f"  an evaluation on held-out prompts: {in_words(cost.evaluation * cost.rollout)} to write its answers"
        )
    if cost.reference and cost.scoring:
        lines.append(
            f"  beta > 0 takes {share(parts['reference (beta > 0)'] / step)} of a step for the reference model"
            + ("" if cost.skipped else ", and dead groups cost training time, which beta: 0 saves")
        )
    return lines
