"""A mean score with its clustered standard error, by the arithmetic of `benchmarks.compare_scores`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from benchmarks import ScoreComparison, compare_scores
from rewards import InputError


def clustered_mean(
    item_ids: Sequence[Any], scores: Sequence[float], metadata: Sequence[Mapping[str, Any]], clusters: Sequence[str]
) -> ScoreComparison:
    """Compare the scores of a system with 0 on each item, which gives their mean, its error and its interval.

    Args:
        item_ids: (N,) item of each score; several scores of one item are epochs, and their mean is its score.
        scores: (N,) numbers; NaN where there is none.
        metadata: (N,) what is known of each item; holds the cluster keys.
        clusters: up to two keys within whose values errors are correlated; none for independent items.

    Returns:
        The comparison. `difference` is the mean, with `se`, `low`, `high` (95 %) and `df`. The error is NaN where a
        key has a single value; the interval is NaN there, too, and where all scores are equal.

    Raises:
        InputError: an item has no value for a key, or the scores are bad.
    """
    if isinstance(clusters, str):
        raise InputError(f"clusters: {clusters!r} is a text; give a list, such as [{clusters!r}]")
    keys: dict[str, list[Any]] = {key: [] for key in clusters}
    for item_id, known in zip(item_ids, metadata, strict=True):
        for key, values in keys.items():
            if known.get(key) is None:
                raise InputError(
                    f"item {item_id!r}: its metadata has no {key!r} to cluster by; name one of "
                    f"{', '.join(map(repr, known)) or 'its keys (there are none)'}"
                )
            values.append(known[key])
    frame = pd.DataFrame({"item_id": list(item_ids), "score": list(scores), **keys})
    found = compare_scores(frame, frame.assign(score=0.0 * frame["score"]), clusters)
    if found.se == 0:  # that no item differs from 0 makes a difference of 0 certain, but not a mean
        return replace(found, low=float("nan"), high=float("nan"))
    return found
