"""Label probabilities of an item, from its samples: the mean over chains of thought, log-odds, temperatures."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.files import write_text
from rewards import InputError

Floats = npt.NDArray[np.float64]
CALIBRATION: Final = "calibration.json"
# Smallest probability in log-odds. A label that is not among a token's 20 likeliest has the probability 0.
_FLOOR: Final = 1e-12
_HIGHEST: Final = 50.0  # temperatures lie between 1/50 and 50
_FEWEST: Final = 20  # items to fit a temperature on


@dataclass(frozen=True)
class Calibration:
    """Two temperatures of one model, fitted on training perturbations that it was not trained on.

    The log-odds of differential expression are divided by one, those of the direction (up against down) by the other.
    Both keep the order of the items. AUROC of `de` and of `dir` therefore stay as they are; Brier score, log loss and
    calibration error change (Guo et al. 2017, arXiv 1706.04599).

    Attributes:
        de, dir: the temperatures, above 0. Above 1 they make scores less certain.
        items: number of items that they were fitted on.
        perturbations: number of pairs of cell line and perturbation among these.
        log_loss: mean of -log p(label) on these items, before and after, in nats.
        protocol: the protocol's facts under which the items were asked.
    """

    de: float
    dir: float
    items: int
    perturbations: int
    log_loss: Mapping[str, float]
    protocol: Mapping[str, Any]

    def apply(self, p: Floats) -> Floats:
        """Return calibrated probabilities.

        Args:
            p: (N, 3) in the order of `rewards.LABELS`; NaN where unknown.

        Returns:
            (N, 3) probabilities.
        """
        return from_log_odds(log_odds(p) / np.array([self.de, self.dir]))


def log_odds(p: Floats) -> Floats:
    """Return the log-odds of differential expression, and of up against down.

    Args:
        p: (N, 3) probabilities in the order of `rewards.LABELS`; NaN where unknown.

    Returns:
        (N, 2) log-odds in nats.
    """
    up, down, none = np.maximum(p, _FLOOR).T
    return np.column_stack([np.log(up + down) - np.log(none), np.log(up) - np.log(down)])


def from_log_odds(odds: Floats) -> Floats:
    """Return the (N, 3) probabilities that have the given (N, 2) log-odds; see `log_odds`."""
    from scipy.special import expit

    de, direction = odds.T
    return np.column_stack([expit(de) * expit(direction), expit(de) * expit(-direction), expit(-de)])


def mean_over_samples(p: Floats) -> Floats:
    """Return the mean over the samples that have probabilities.

    Args:
        p: (N, K, 3) probabilities of K samples of N items; NaN where a sample has none.

    Returns:
        (N, 3) means; NaN where no sample has probabilities.
    """
    known = ~np.isnan(p).any(axis=2, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, p, 0.0).sum(axis=1) / known.sum(axis=1))


def average_log_odds(p: Floats, q: Floats) -> Floats:
    """Return the probabilities whose log-odds are the means of those of `p` and `q`, both (N, 3); see `log_odds`."""
    return from_log_odds((log_odds(p) + log_odds(q)) / 2)


def fit_calibration(
    p: Floats, label: npt.NDArray[np.intp], perturbation: npt.NDArray[Any], protocol: Mapping[str, Any]
) -> Calibration:
    """Fit the temperatures that minimise log loss.

    Args:
        p: (N, 3) probabilities in the order of `rewards.LABELS`; rows with NaN are left out.
        label: (N,) positions of the items' labels in `rewards.LABELS`.
        perturbation: (N,) names of cell line and perturbation.
        protocol: facts to store.

    Returns:
        The calibration. A temperature that no item tells of is 1, such as that of the direction without up and down.

    Raises:
        InputError: fewer than 20 items have probabilities.
    """
    known = ~np.isnan(p).any(axis=1)
    p, label = p[known], label[known]
    if len(p) < _FEWEST:
        raise InputError(f"calibration: {len(p)} items have probabilities; ask at least {_FEWEST}: raise items")
    odds, changed = log_odds(p), label != 2
    temperatures = (_fit(odds[:, 0], changed), _fit(odds[changed, 1], label[changed] == 0))
    after = from_log_odds(odds / np.array(temperatures))
    loss = {"before": _log_loss(p, label), "after": _log_loss(after, label)}
    return Calibration(*temperatures, len(p), len(np.unique(perturbation[known])), loss, dict(protocol))


def _fit(odds: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """The temperature that minimises log loss of two classes; 1 if an item of one of them is missing."""
    from scipy.optimize import minimize_scalar

    if truth.all() or not truth.any():
        return 1.0
    signed = np.where(truth, odds, -odds)
    found = minimize_scalar(
        lambda log_t: float(np.logaddexp(0.0, -signed / np.exp(log_t)).mean()),
        bounds=(-np.log(_HIGHEST), np.log(_HIGHEST)), method="bounded",
    )  # fmt: skip
    return float(np.exp(found.x))


def _log_loss(p: Floats, label: npt.NDArray[np.intp]) -> float:
    return float(-np.log(np.maximum(p[np.arange(len(p)), label], _FLOOR)).mean())


def write_calibration(calibration: Calibration, adapter: Path) -> Path:
    """Write a calibration into its adapter's folder, as JSON; an earlier one is replaced. Return the file."""
    path = adapter / CALIBRATION
    write_text(path, json.dumps(asdict(calibration), indent=2) + "\n")
    return path


def read_calibration(adapter: Path) -> Calibration:
    """Read the calibration in an adapter's folder.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = adapter / CALIBRATION
    if not path.is_file():
        raise InputError(f"{adapter}: has no {CALIBRATION}; run `synthpert calibrate` first, or leave calibration out")
    try:
        found = Calibration(**json.loads(path.read_text(encoding="utf-8")))
        if min(found.de, found.dir) > 0:
            return found
    except (TypeError, ValueError):
        pass
    raise InputError(f"{path}: is no calibration; remove it and run `synthpert calibrate` again")
