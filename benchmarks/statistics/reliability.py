"""Calibration: how often forecasts of a given confidence come true, in bins, and the expected calibration error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

N_BINS: Final = 10
# Bin edges are compared after rounding to so many digits: 0.8 may be off in binary after arithmetic.
_EDGE_DIGITS: Final = 9


@dataclass(frozen=True)
class Bin:
    """Forecasts with a confidence in (low, high]: how many, their mean confidence, and the share that came true.

    The means are NaN in an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def reliability_bins(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> list[Bin]:
    """Group forecasts by confidence into ten equal bins, (low, high], as in Guo et al. 2017 (arXiv 1706.04599).

    A confidence within 1e-9 of an edge counts as on the edge: 1 - 0.2 is slightly above 0.8 in binary, and belongs to
    (0.7, 0.8].

    Args:
        confidence: (n,) from 0 to 1; 0 goes to the first bin.
        correct: (n,) whether the forecast came true.

    Returns:
        The bins, lowest first.
    """
    confidences, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    at = np.ceil(np.round(confidences * N_BINS, _EDGE_DIGITS)).astype(np.intp) - 1
    at = np.clip(at, 0, N_BINS - 1)
    counts = np.bincount(at, minlength=N_BINS)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(at, weights=confidences, minlength=N_BINS) / counts
        accuracy = np.bincount(at, weights=hits, minlength=N_BINS) / counts
    return [
        Bin(i / N_BINS, (i + 1) / N_BINS, int(counts[i]), float(mean_confidence[i]), float(accuracy[i]))
        for i in range(N_BINS)
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Mean of |accuracy - confidence| of a bin, weighted by its number of forecasts (Guo et al. 2017).

    Args:
        bins: from `reliability_bins`.

    Returns:
        The error, from 0 to 1.
    """
    n = sum(one.n for one in bins)
    return float(sum(one.n * abs(one.accuracy - one.confidence) for one in bins if one.n) / n)
