"""Strata of a report: how much training labels tell of an item's perturbation and of its gene."""

from typing import Final

import numpy as np
import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.statistics.arrays import Bools, Floats
from rewards import InputError

# The sample carries similar knockdowns instead of the other lines' rows; a knockdown without any effect in another
# line's training labels has none, so there "trained" can be told for those with an effect only.
TRAINED: Final = ("perturbation trained in another line", "perturbation trained in no other line")
WITH_EFFECT: Final = (
    "perturbation with an effect in another line's training labels",
    "perturbation without an effect in another line's training labels",
)
# Rates are ratios of counts; the same ratio reached in two ways may differ in the last digits.
_RATE_DIGITS: Final = 9


def strata(corpus: Corpus, items: pd.DataFrame) -> "dict[str, pd.Series[bool]]":
    """Tell for each stratum which items belong to it.

    Two strata divide the items by whether their perturbation has training labels in another line (in the sample:
    labels that show an effect). Three divide them by the response rate of their gene, the share of its training labels
    in the item's line, the item's own left out, that are up or down (over all lines where the line has none; see
    `Corpus.rates`): the lowest third of the items given, and the lower and the upper half of the others. The cut points
    stand in the names. Items with a rate equal to a cut point belong to the lower stratum: ties stay together, so the
    strata are thirds only where rates differ (on the official test split two items in three have a rate of 0).

    Args:
        corpus: labels under a split.
        items: N items with `item_id`, `cell_line`, `pert`, `gene`.

    Returns:
        A mask per stratum, (N,) and indexed by item id. A stratum without items is left out.

    Raises:
        InputError: there are no items, or the sample does not hold one of them.
    """
    if items.empty:
        raise InputError("strata: no items; pass at least one")
    masks = dict(zip(*_by_perturbation(corpus, items), strict=True)) | _by_rate(corpus, items)
    index = pd.Index(items["item_id"])
    return {name: pd.Series(mask, index=index) for name, mask in masks.items() if mask.any()}


def _by_perturbation(corpus: Corpus, items: pd.DataFrame) -> tuple[tuple[str, str], list[Bools]]:
    if corpus.is_sample:
        known = items["item_id"].isin(corpus.evidence(items, 1)["item_id"]).to_numpy()
        return WITH_EFFECT, [known, ~known]
    trained = corpus.train[["cell_line", "pert"]].drop_duplicates()
    n_lines = trained["pert"].value_counts()
    here = pd.MultiIndex.from_frame(items[["cell_line", "pert"]].astype(str)).isin(
        pd.MultiIndex.from_frame(trained.astype(str))
    )
    elsewhere = items["pert"].astype(str).map(n_lines).fillna(0).to_numpy() - here > 0
    return TRAINED, [elsewhere, ~elsewhere]


def _by_rate(corpus: Corpus, items: pd.DataFrame) -> dict[str, Bools]:
    rates = corpus.rates(items)
    rate = np.round((rates["p_up"] + rates["p_down"]).to_numpy(dtype=np.float64), _RATE_DIGITS)
    low = _cut(rate, 1 / 3)
    above = rate[rate > low]
    high = _cut(above, 1 / 2) if above.size else low
    at_most = f"at most {_percent(low)}" if low > 0 else _percent(low)
    return {
        f"gene response rate: low ({at_most})": rate <= low,
        f"gene response rate: middle (above {_percent(low)}, at most {_percent(high)})": (rate > low) & (rate <= high),
        f"gene response rate: high (above {_percent(high)})": rate > high,
    }


def _cut(values: Floats, share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return float(np.quantile(values, share, method="inverted_cdf"))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
