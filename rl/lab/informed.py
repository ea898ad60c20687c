"""Score two policies that know the cross-line neighbours: one answers the likeliest label, one the most surprising.

Both know the same and differ in what they answer. If the second earns more, training towards the reward costs accuracy.
The exploits cannot show that, because they know nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.evidence.corpus import Corpus
from rewards import LABELS, Composition
from rewards.verifiers import PROBABILITIES
from rl.lab.check import Check, score_answers
from rl.lab.rows import Row
from rl.reward_context import label_counts, shift_rates


@dataclass(frozen=True)
class Informed:
    """One policy that knows the neighbours.

    Attributes:
        name: which label it answers.
        accuracy: how often that label is the true one, over the prompts.
        mean: what it earns on average; NaN if nothing could be judged.
    """

    name: str
    accuracy: float
    mean: float


def informed_policies(
    composition: Composition,
    check: Check,
    rows: Sequence[Row],
    corpus: Corpus,
    *,
    weight: Sequence[float],
    counts: Mapping[str, int] | None = None,
) -> tuple[Informed, Informed]:
    """Score both policies. They write what the check's honest policy writes.

    Args:
        composition: the rewards.
        check: their check on the same rows.
        rows: the items.
        corpus: has the neighbours and the rates.
        weight: of each row.
        counts: rows per label among the prompts; None if the prompts are the training rows as they come.

    Returns:
        The policy of the likeliest label, and that of the label that stands most above its gene's rate.
    """
    items = pd.DataFrame([(row.item_id, row.cell_line, row.pert, row.gene) for row in rows])
    items.columns = pd.Index(["item_id", "cell_line", "pert", "gene"])
    forecast, rates = corpus.neighbour_forecast(items), corpus.rates(items)
    if counts is not None:
        trained = label_counts(corpus.train)
        forecast, rates = (shift_rates(one, counts, trained) for one in (forecast, rates))
    p_NL, r_NL = (one[list(PROBABILITIES)].to_numpy() for one in (forecast, rates))
    truth_N = np.array([LABELS.index(row.label) for row in rows])

    def policy(name: str, answer_N: "np.ndarray[tuple[int], np.dtype[np.intp]]") -> Informed:
        mean = score_answers(composition, check, rows, [LABELS[at] for at in answer_N], weight)
        return Informed(name, float(np.average(answer_N == truth_N, weights=weight)), mean)

    return (
        policy("the neighbours' likeliest label", p_NL.argmax(axis=1)),
        policy("the label they raise most above its rate", (p_NL - r_NL).argmax(axis=1)),
    )
