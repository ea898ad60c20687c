"""Choose the neighbour model's settings by cross-validation over training perturbations, without test items.

python -m tools.choose_neighbours [FOLDER]           FOLDER holds the eight label files; SYNTHPERT_DATA by default
python -m tools.choose_neighbours [FOLDER] --test    only score the chosen settings on the official test split

Each training perturbation of each line is drawn into one of five folds, as PerturbQA draws its test perturbations per
line. A fold is withheld in all lines at once and forecast from the rest. Two of the five folds are used; each is as
large as the official test split.

The score is the mean per-gene AUROC. It has eight values: differential expression and direction, for each of the four
lines. One setting is changed at a time, and the settings with the best mean of the eight values are chosen. The outcome
is in docs/baselines.md. It takes about five minutes on one core.
"""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import fit_neighbours, load_labels, per_gene_auroc
from benchmarks.evidence.neighbours import SETTINGS, NeighbourModel, NeighbourSettings
from benchmarks.screens.labels import data_dir
from benchmarks.screens.schema import CELL_LINES
from rewards import Label

FOLDS, FOLDS_USED, SEED = 5, 2, 0
# `FITS` change the fit. `FORECASTS` change the forecast alone, so they share one fit.
FITS: list[dict[str, float]] = [
    {}, {"components": 40}, {"components": 120}, {"components": 160},
    {"least_similar": 0.1}, {"least_similar": 0.3}, {"least_similar": 2.0},
]  # fmt: skip
FORECASTS: list[dict[str, float]] = [
    {"sharpness": 4.0}, {"sharpness": 8.0}, {"sharpness": 10.0}, {"pseudo_counts": 20.0}, {"pseudo_counts": 50.0},
    {"pseudo_counts": 200.0}, {"ratio_counts": 1.0}, {"ratio_counts": 50.0}, {"rate_counts": 1.0},
    {"rate_counts": 10.0},
]  # fmt: skip

Floats = np.ndarray[Any, np.dtype[np.float64]]


def main(folder: Path, *, on_test: bool) -> None:
    """Print one row of scores per setting."""
    labels = load_labels(folder)
    train, test = (labels[labels["split"] == split] for split in ("train", "test"))
    sys.stdout.write(f"{'':24}{'de: ' + ' '.join(CELL_LINES):32}{'dir: the same':32}mean of 8\n")
    if on_test:
        show("plain formula", [score(test, plain_forecast(train, test))])
        show("the settings chosen", [score(test, fit_neighbours(train).predict(test))])
        return
    scores: dict[str, list[Floats]] = {}
    fold_N = folds(train)
    for fold in range(FOLDS_USED):
        rest, withheld = train[fold_N != fold], train[fold_N == fold]
        scores.setdefault("plain formula", []).append(score(withheld, plain_forecast(rest, withheld)))
        for change in FITS:
            model = fit_neighbours(rest, changed(change))
            scores.setdefault(name_of(change), []).append(score(withheld, model.predict(withheld)))
            for other in FORECASTS if not change else []:
                same_fit = with_settings(model, changed(other))
                scores.setdefault(name_of(other), []).append(score(withheld, same_fit.predict(withheld)))
    for name, rows in scores.items():
        show(name, rows)


def folds(train: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return (N,) the fold of each row, drawn once per cell line and perturbation in the order of their names."""
    pair, pairs = pd.factorize(train["cell_line"].astype(str) + "|" + train["pert"], sort=True)
    return np.random.default_rng(SEED).integers(FOLDS, size=len(pairs))[pair]


def changed(change: dict[str, float]) -> NeighbourSettings:
    """Return the chosen settings with some of them changed."""
    as_typed: dict[str, Any] = {name: int(value) if name == "components" else value for name, value in change.items()}
    return replace(SETTINGS, **as_typed)


def with_settings(model: NeighbourModel, settings: NeighbourSettings) -> NeighbourModel:
    """Return the model with other settings, for settings that the fit does not depend on."""
    other = copy.copy(model)
    other._settings = settings
    return other


def name_of(change: dict[str, float]) -> str:
    """Return the changed settings in words."""
    return ", ".join(f"{name} {value:g}" for name, value in change.items()) or "the settings chosen"


def score(items: pd.DataFrame, forecast: pd.DataFrame) -> Floats:
    """Return (8,) mean per-gene AUROC: `de` of the four lines, then `dir`."""
    p_up, p_down, p_none = (forecast[name].to_numpy() for name in ("p_up", "p_down", "p_none"))
    either = p_up + p_down
    up_share = np.divide(p_up, either, out=np.full(len(p_up), 0.5), where=either > 0)
    moved, up = (items["label"] != str(Label.NONE)).to_numpy(), (items["label"] == str(Label.UP)).to_numpy()
    gene, line = items["gene"].to_numpy(), items["cell_line"].astype(str).to_numpy()
    in_line = [line == name for name in CELL_LINES]
    de = [per_gene_auroc(moved[at], 1 - p_none[at], gene[at]) for at in in_line]
    direction = [per_gene_auroc(up[at & moved], up_share[at & moved], gene[at & moved]) for at in in_line]
    return np.array([*de, *direction])


def show(name: str, rows: list[Floats], write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print the means over the folds as one row."""
    mean = np.mean(rows, axis=0)
    cells = [f"{value:.3f}" for value in mean]
    write(f"{name:24}{'  '.join(cells[:4]):32}{'  '.join(cells[4:]):32}{mean.mean():.4f}\n")


def plain_forecast(train: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast with the plain formula: unweighted line x gene columns, 40 components, exp(6 cos), 2 pseudo-counts."""
    from scipy import sparse
    from scipy.sparse.linalg import svds

    signs = {str(Label.UP): 1.0, str(Label.DOWN): -1.0, str(Label.NONE): 0.0}
    sign = train["label"].map(signs).astype(float).to_numpy()
    perts, genes = np.unique(train["pert"]), np.unique(train["gene"])
    labels = (str(Label.UP), str(Label.DOWN), str(Label.NONE))
    forecast = np.empty((len(items), 3))
    for line in CELL_LINES:
        here = (train["cell_line"] == line).to_numpy()
        pert_N, gene_N = (
            pd.Index(perts).get_indexer(pd.Index(train["pert"])),
            pd.Index(genes).get_indexer(pd.Index(train["gene"])),
        )
        column_N = train["cell_line"].cat.codes.to_numpy().astype(np.int64) * len(genes) + gene_N
        shape = (len(perts), len(CELL_LINES) * len(genes))
        matrix = sparse.csr_array((sign[~here], (pert_N[~here], column_N[~here])), shape=shape)
        left, scale, _ = svds(matrix, k=40, v0=np.ones(min(shape)), tol=0)
        length = np.linalg.norm(left * scale, axis=1)
        known = length > 1e-9
        unit = left * scale / np.where(known, length, 1)[:, None]
        weight = np.exp(6 * unit @ unit.T) * known * known[:, None]
        np.fill_diagonal(weight, 0)
        at = np.flatnonzero((items["cell_line"] == line).to_numpy())
        asked_pert = pd.Index(perts).get_indexer(pd.Index(items["pert"].iloc[at]))
        asked_gene = pd.Index(genes).get_indexer(pd.Index(items["gene"].iloc[at]))
        if (asked_gene < 0).any():
            raise ValueError("an item's gene is in no training row of any line")
        rows, row_N = np.unique(asked_pert, return_inverse=True)
        counted, weighed = np.empty((len(at), 3)), np.empty((len(at), 3))
        for k, label in enumerate(labels):
            is_k = here & (train["label"] == label).to_numpy()
            said = sparse.csc_array((np.ones(is_k.sum()), (pert_N[is_k], gene_N[is_k])), shape=(len(perts), len(genes)))
            counted[:, k] = said.sum(axis=0)[asked_gene]
            weighed[:, k] = (weight[rows] @ said)[row_N, asked_gene] * (asked_pert >= 0)
        total = counted.sum(axis=1, keepdims=True)
        share = [float((train["label"] == label).mean()) for label in labels]
        rate = np.where(total > 0, counted / np.maximum(total, 1), share)
        forecast[at] = (weighed + 2 * rate) / (weighed.sum(axis=1, keepdims=True) + 2)
    return pd.DataFrame(forecast, columns=["p_up", "p_down", "p_none"])


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--test"]
    main(Path(words[0]) if words else data_dir(), on_test="--test" in sys.argv)
