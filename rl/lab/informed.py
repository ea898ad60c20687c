"""What a reward pays policies that know the cross-line neighbours, for the likeliest label or the most surprising one.

An exploit knows nothing. These two know as much as each other, and differ in what they answer: where the second earns
more, training towards the reward costs accuracy, and nothing else in the check would show it.
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
    """One way of answering with what the neighbours say.

    Attributes:
        name: which label it answers.
        accuracy: how often that is the true one, over the prompts.
        mean: what it earns on average; NaN where nothing could be judged.
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
    """Score both policies, who write as much as the check's honest policy does.

    Args:
        composition: the rewards.
        check: their check on the same rows.
        rows: the items.
        corpus: whose neighbours and rates are known.
        weight: of each row.
        counts: rows per label among the prompts; None where these are the training rows as they come.

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
