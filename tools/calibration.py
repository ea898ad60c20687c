"""Do the tests keep their promises? Simulated systems on PerturbQA's real test split, many times over.

Perturbations, genes, lines and labels are the real ones. Two systems are made that err together on the items of a
perturbation and of a gene, as strongly as asked for, and that are equally good, or differ by a known amount. Each
simulation goes through `benchmarks.statistics.significance.compare_runs`, the code that every report uses.
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

TESTED: Final = tuple(metric for metric in metric_names() if not find_metric(metric).no_interval)
# Chosen so that on K562's test split a system is right on 69 % of the items, has a DE AUROC of .65, and two of them
# disagree on 30 % of the items.
SIGNAL: Final = 0.45
BIAS: Final = (-0.42, -0.42, 0.6)  # of up, down, none
OWN: Final = 0.55  # share of the noise that is a system's own; the rest, hard items, both systems have
ANEW: Final = 0.5  # share of what single items add that each training run draws anew


@dataclass(frozen=True)
class Scenario:
    """How two simulated systems err.

    Attributes:
        lines: cell lines whose test items are used.
        icc_pert, icc_gene: share of a system's own latent variance that all items of a perturbation, or of a gene,
            have in common; their sum is at most 1.
        n_seeds: training runs of each system.
        seed_sd: standard deviation between training runs of the signal, 0 for none; only with several runs, as one
            run cannot tell it.
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
    """The real structure: N items as codes, and a PredictionArrays without answers to fill in."""

    label: Ints
    pert: Ints
    gene: Ints
    empty: PredictionArrays


def real_items(labels: pd.DataFrame, lines: Sequence[str]) -> Items:
    """Take the test items of some cell lines.

    Args:
        labels: from `benchmarks.load_labels`, under any split.
        lines: cell lines.

    Raises:
        InputError: there are no test items of a line.
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
    """Make the answers and probabilities of two systems.

    The utility of each label is a bias, a signal on the true one, and noise: part of it the same for both systems
    (hard items), part (`OWN`) a system's own, of which `icc_pert` and `icc_gene` are shared within perturbations and
    genes. The answer is the label of highest utility, the probabilities its softmax. Training runs of a system share
    what perturbations and genes add; of what single items add, each draws a part (`ANEW`) for itself.
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
    """Simulate pairs of systems and count what the default test says of them.

    Args:
        labels: from `benchmarks.load_labels`.
        scenario: how the systems err.
        n_simulations: pairs of systems.
        metrics: names out of `TESTED`.
        seed: of all simulations; the same seed gives the same counts, however many processes share them.
        processes: how many to run at once.

    Returns:
        The scenario, `n_simulations`, and per metric under `metrics`: `rejected` (share of pairs called different at
        5 %: false positives if `gap` is 0, else power), `covered` (share of 95 % intervals that hold the mean
        difference over all simulations), `difference` (that mean) and `se_ratio` (root mean square of the standard
        errors over the standard deviation of the differences; 1 is right).
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
    """The cells of the calibration table: correlation from none to strong, one and five runs, one line and four."""
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


def main() -> None:
    """Run every scenario and keep the counts: `python -m tools.calibration OUT.json [SIMULATIONS]`."""
    import json
    import sys
    import time

    from benchmarks.screens.labels import data_dir, load_labels

    out = Path(sys.argv[1])
    n_simulations = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    labels = load_labels(data_dir())
    done = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
    for scenario in scenarios():
        key = json.loads(json.dumps(asdict(scenario)))
        if any(all(row[name] == value for name, value in key.items()) for row in done):
            continue
        start = time.monotonic()
        done.append(calibrate(labels, scenario, n_simulations, processes=2))
        out.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
        rates = [row["rejected"] for row in done[-1]["metrics"].values()]
        sys.stdout.write(f"{key}: {min(rates):.3f} to {max(rates):.3f}, {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
