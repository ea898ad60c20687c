"""How sure and how right: bins of confidence, and the expected calibration error over them."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

N_BINS: Final = 10
# What a decimal edge such as 0.8 may be off in binary, after arithmetic.
_EDGE_DIGITS: Final = 9


def reliability_bins(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = N_BINS) -> list[dict[str, float]]:
    """Group forecasts by confidence into bins of equal width, (low, high], as Guo et al. 2017 (arXiv 1706.04599) do.

    A confidence within 1e-9 of an edge is on it: 1 - 0.2, a little above 0.8 in binary, belongs to (0.7, 0.8].

    Args:
        confidence: (n,) from 0 to 1; 0 goes to the first bin.
        correct: (n,) whether the forecast came true.
        n_bins: bins from 0 to 1.

    Returns:
        A dict per bin, lowest first: `low, high, n` and the means `confidence, accuracy`, NaN in an empty bin.
    """
    confidences, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    at = np.ceil(np.round(confidences * n_bins, _EDGE_DIGITS)).astype(np.intp) - 1
    at = np.clip(at, 0, n_bins - 1)
    counts = np.bincount(at, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(at, weights=confidences, minlength=n_bins) / counts
        accuracy = np.bincount(at, weights=hits, minlength=n_bins) / counts
    return [
        {
            "low": i / n_bins,
            "high": (i + 1) / n_bins,
            "n": int(counts[i]),
            "confidence": float(mean_confidence[i]),
            "accuracy": float(accuracy[i]),
        }
        for i in range(n_bins)
    ]


def expected_calibration_error(bins: Sequence[Mapping[str, float]]) -> float:
    """Mean over forecasts of |accuracy - confidence| of their bin; `bins` as `reliability_bins` returns them."""
    n = sum(one["n"] for one in bins)
    return float(sum(one["n"] * abs(one["accuracy"] - one["confidence"]) for one in bins if one["n"]) / n)
