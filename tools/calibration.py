"""Check the significance tests by simulation: their false positives, their power and the coverage of their intervals.

Perturbations, genes, cell lines and labels are those of PerturbQA's test split. Each simulation makes two systems.
Their errors are correlated within perturbations and within genes, as strongly as a scenario says. The two are equally
good, or differ by a known amount. `benchmarks.statistics.significance.compare_runs` compares them, as in every report.

python -m tools.calibration docs/calibration.json
python -m tools.calibration docs/calibration-fold.json --data bioreasoning --split holdout:both,fold=1/5
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.statistics.arrays import Floats, Ints, PredictionArrays
from benchmarks.statistics.metrics import find_metric, metric_names
from benchmarks.statistics.significance import compare_runs
from rewards import LABELS, InputError

TESTED: Final = tuple(
    metric
    for metric in metric_names()
    if not (find_metric(metric).no_interval or find_metric(metric).screen or find_metric(metric).alone)
)
# Chosen so that, on K562's test split,
# - a system is right on 69 % of the items,
# - its DE AUROC is .65,
# - two systems disagree on 30 % of the items.
SIGNAL: Final = 0.45
BIAS: Final = (-0.42, -0.42, 0.6)  # of up, down, none
OWN: Final = 0.55  # share of the noise that is a system's own; both systems share the rest, as from hard items
ANEW: Final = 0.5  # share of a single item's noise that each training run draws for itself


@dataclass(frozen=True)
class Scenario:
    """How two simulated systems err.

    Attributes:
        lines: the cell lines whose test items are used.
        icc_pert, icc_gene: share of a system's own latent variance that the items of a perturbation, or of a gene, have
            in common; their sum is at most 1.
        n_seeds: training runs per system.
        seed_sd: standard deviation of the signal between training runs. Use 0 with one run, which cannot show it.
        gap: how much more signal the first system has; 0 makes both equally good.
    """

    lines: tuple[str, ...]
    icc_pert: float
    icc_gene: float
    n_seeds: int = 1
    seed_sd: float = 0.0
    gap: float = 0.0


@dataclass(frozen=True)
class Items:
    """The N real items: label, perturbation and gene as codes, and a PredictionArrays without answers."""

    label: Ints
    pert: Ints
    gene: Ints
    empty: PredictionArrays


def real_items(labels: pd.DataFrame, lines: Sequence[str]) -> Items:
    """Return the test items of some cell lines.

    Args:
        labels: from `benchmarks.load_labels`, with any split.
        lines: cell lines.

    Raises:
        InputError: a line has no test items.
    """
    test = labels[(labels["split"] == "test") & labels["cell_line"].isin(list(lines))]
    absent = set(lines) - set(test["cell_line"].astype(str))
    if absent:
        raise InputError(f"cell_line: {min(absent)!r} has no test items among the labels; load the full labels")
    label = pd.Categorical(test["label"].astype(str), categories=[str(name) for name in LABELS]).codes.astype(np.intp)
    columns: dict[str, Any] = {name: pd.Categorical(test[name].astype(str)) for name in ("cell_line", "pert", "gene")}
    empty = PredictionArrays(
        item_id=pd.Index(test["item_id"].astype(str)),
        line=columns["cell_line"],
        pert=columns["pert"],
        gene=columns["gene"],
        label=label,
        seeds=(),
        answer=np.empty((0, len(test)), dtype=np.intp),
        prob=np.empty((0, len(test), len(LABELS))),
        scorable=np.ones(len(test), dtype=np.bool_),
    )
    return Items(label, columns["pert"].codes.astype(np.intp), columns["gene"].codes.astype(np.intp), empty)


def simulate_pair(rng: np.random.Generator, items: Items, scenario: Scenario) -> tuple[PredictionArrays, ...]:
    """Return the simulated answers and probabilities of two systems.

    Each label of an item has a utility, the sum of a bias, a signal (on the true label) and noise. The answer is the
    label of highest utility; the probabilities are the softmax of the utilities.

    The noise has these parts:

    - One part is the same for both systems, as from hard items.
    - The share `OWN` is a system's own. Of that, the shares `icc_pert` and `icc_gene` are common to the items of a
      perturbation and of a gene, and the rest belongs to single items.
    - The training runs of a system have all this in common, except for the share `ANEW` of the single items' noise.
      Each run draws that share for itself.
    """
    n = len(items.label)
    shape = (n, len(LABELS))

    def normal(*size: int) -> Any:
        return rng.standard_normal(size, dtype=np.float32)

    common = np.float32((1 - OWN) ** 0.5) * normal(*shape) + np.asarray(BIAS, dtype=np.float32)
    alone = 1 - scenario.icc_pert - scenario.icc_gene
    systems = []
    for gap in (scenario.gap, 0.0):
        own = np.zeros(shape, dtype=np.float32)
        for share, code in ((scenario.icc_pert, items.pert), (scenario.icc_gene, items.gene)):
            if share:
                own += np.float32(share**0.5) * normal(int(code.max()) + 1, len(LABELS))[code]
        kept = np.float32((alone * (1 - ANEW)) ** 0.5) * normal(*shape)
        answers, probabilities = [], []
        for _ in range(scenario.n_seeds):
            noise = own + kept + np.float32((alone * ANEW) ** 0.5) * normal(*shape)
            utility = common + np.float32(OWN**0.5) * noise
            signal = SIGNAL + gap + scenario.seed_sd * float(rng.standard_normal())
            utility[np.arange(n), items.label] += np.float32(signal)
            answers.append(utility.argmax(axis=1).astype(np.intp))
            odds = np.exp(utility)
            probabilities.append((odds / odds.sum(axis=1, keepdims=True)).astype(np.float64))
        systems.append(
            replace(
                items.empty,
                seeds=tuple(range(scenario.n_seeds)),
                answer=np.stack(answers),
                prob=np.stack(probabilities),
            )
        )
    return tuple(systems)


def calibrate(
    labels: pd.DataFrame,
    scenario: Scenario,
    n_simulations: int,
    *,
    metrics: Sequence[str] = TESTED,
    seed: int = 0,
    processes: int = 1,
) -> dict[str, Any]:
    """Simulate pairs of systems and count the verdicts of the default test.

    Args:
        labels: from `benchmarks.load_labels`.
        scenario: how the systems err.
        n_simulations: number of pairs of systems.
        metrics: names from `TESTED`.
        seed: seed of all simulations. The counts do not depend on the number of processes.
        processes: number of processes.

    Returns:
        The scenario's fields, `n_simulations`, and `metrics`, which holds for each metric:

        - `rejected`: share of the pairs called different at 5 %. It is the rate of false positives if `gap` is 0, else
          the power.
        - `difference`: mean difference over all simulations.
        - `covered`: share of the 95 % intervals that contain this mean.
        - `se_ratio`: root mean square of the standard errors, divided by the standard deviation of the differences. It
          should be 1.
    """
    items = real_items(labels, scenario.lines)
    parts = np.array_split(np.arange(n_simulations), processes * 4 if processes > 1 else 1)
    jobs = [(items, scenario, tuple(metrics), seed, part.tolist()) for part in parts if part.size]
    if processes == 1:
        found = [_simulate_many(*job) for job in jobs]
    else:
        with ProcessPoolExecutor(processes) as pool:
            found = list(pool.map(_simulate_many, *zip(*jobs, strict=True)))
    values = np.concatenate(found)  # (S, M, 5): difference, low, high, p, se
    told: dict[str, dict[str, float]] = {}
    for at, metric in enumerate(metrics):
        difference, low, high, p, se = values[:, at].T
        centre = float(difference.mean())
        told[metric] = {
            "rejected": float((p < 0.05).mean()),
            "covered": float(((low <= centre) & (centre <= high)).mean()),
            "difference": centre,
            "se_ratio": float(np.sqrt((se**2).mean()) / difference.std()),
        }
    return {**asdict(scenario), "n_simulations": n_simulations, "metrics": told}


def _simulate_many(items: Items, scenario: Scenario, metrics: Sequence[str], seed: int, at: Sequence[int]) -> Floats:
    found = np.empty((len(at), len(metrics), 5))
    for row, simulation in enumerate(at):
        a, b = simulate_pair(np.random.default_rng([seed, simulation]), items, scenario)
        for column, metric in enumerate(metrics):
            one = compare_runs(a, b, metric)
            if np.isnan(one.p_value):
                raise InputError(f"calibrate, {metric}, simulation {simulation}: {one.test}; use more items")
            found[row, column] = one.difference, one.low, one.high, one.p_value, one.se
    return found


ALL_LINES: Final = ("k562", "rpe1", "hepg2", "jurkat")
LEVELS: Final = ((0.0, 0.0), (0.05, 0.15), (0.15, 0.0), (0.0, 0.45), (0.15, 0.45))
SEED_SD: Final = 0.03
GAP: Final = 0.06


def scenarios() -> list[Scenario]:
    """Return the rows of the calibration table: no to strong correlation, one or five runs, one or four cell lines."""
    none, strong = LEVELS[0], LEVELS[-1]
    one, four = ("k562",), ALL_LINES
    five: dict[str, Any] = {"n_seeds": 5, "seed_sd": SEED_SD}
    return [
        *(Scenario(one, *level) for level in LEVELS),
        Scenario(one, *strong, gap=GAP),
        Scenario(one, *none, **five),
        Scenario(one, *strong, **five),
        Scenario(one, *strong, **five, gap=GAP),
        Scenario(four, *strong),
        Scenario(four, *strong, **five),
        Scenario(four, *none),
        Scenario(four, *strong, gap=GAP),
    ]


def fold_scenarios(labels: pd.DataFrame) -> list[Scenario]:
    """Return the rows for the test items of another screen: equally good systems, no to strong correlation."""
    lines = tuple(dict.fromkeys(labels["cell_line"].astype(str)))
    return [Scenario(lines, *level) for level in LEVELS]


def main() -> None:
    """Run every scenario that a file of results lacks."""
    import argparse
    import json
    import sys
    import time

    from benchmarks.evidence.corpus import open_corpus
    from benchmarks.screens.labels import data_dir, load_labels
    from benchmarks.statistics.metrics import compared_metrics

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the file of results")
    parser.add_argument("simulations", type=int, nargs="?", default=2000, help="pairs of systems in each scenario")
    parser.add_argument("--data", help="the test items of this screen instead of PerturbQA's, and its compared metrics")
    parser.add_argument("--split", default="official")
    asked = parser.parse_args()
    if asked.data is None:
        labels, rows, metrics = load_labels(data_dir()), scenarios(), TESTED
    else:
        corpus = open_corpus(asked.data, asked.split)
        labels = corpus.test.assign(split="test")
        rows, metrics = fold_scenarios(labels), tuple(compared_metrics(corpus.screen.name))
    done = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else []
    for scenario in rows:
        key = json.loads(json.dumps(asdict(scenario)))
        if any(all(row[name] == value for name, value in key.items()) for row in done):
            continue
        start = time.monotonic()
        done.append(calibrate(labels, scenario, asked.simulations, metrics=metrics, processes=2))
        asked.out.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        rates = [row["rejected"] for row in done[-1]["metrics"].values()]
        sys.stdout.write(f"{key}: {min(rates):.3f} to {max(rates):.3f}, {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
