"""Everything a report says, as numbers: metrics with intervals, paired comparisons, statuses and denominators."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from benchmarks.evaluation.predictions import TASKS, changed_keys
from benchmarks.report.examples import most_different, random_items
from benchmarks.statistics.arrays import Bools, PredictionArrays, prediction_arrays
from benchmarks.statistics.curves import reliability, roc_points
from benchmarks.statistics.metrics import Metric, compared_metrics, estimate, find_metric, metrics_of
from benchmarks.statistics.power import perturbations_needed
from benchmarks.statistics.significance import (
    Comparison,
    aa_checks,
    adjust,
    align_all,
    compare_pairs,
    confidence_interval,
)
from rewards import LABELS, InputError, Status

# The metric declared before any number is seen: a claim rests on it, the others put it in context.
PRIMARY: Final = "de_per_gene_auroc"
# For how many perturbations would show it, "a difference that matters": the same for all metrics, on their 0 to 1.
WANTED: Final = 0.02
# Of a protocol: which items were asked, not how. Systems that differ in these alone compare on their common items.
ITEM_KEYS: Final = ("items", "item_seed")


@dataclass(frozen=True)
class System:
    """One system of a report.

    Attributes:
        name: how the report calls it; unique.
        kind: `model`, or `baseline` for a shortcut without a language model.
        predictions: a predictions frame (see `prediction_arrays` for its columns); `completion` is shown.
        facts: run facts. `protocol_fingerprint` (or `fingerprint`) is compared between models, `command` goes under
            "how to reproduce"; all others are shown as they are. No secrets.
        completions: returns the rows `item_id, seed, sample, completion, status, answer` of the given items; None
            where `predictions` holds the completions itself.
    """

    name: str
    kind: Literal["model", "baseline"]
    predictions: pd.DataFrame
    facts: Mapping[str, Any]
    completions: Callable[[Sequence[str]], pd.DataFrame] | None = None


def summarize(
    systems: Sequence[System],
    *,
    title: str,
    protocol: Mapping[str, Any],
    data: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]] = (),
    strata: "Mapping[str, pd.Series[bool]] | None" = None,
    published: Sequence[Mapping[str, Any]] = (),
    pairwise: bool = False,
) -> dict[str, Any]:
    """Compute everything a report says, as plain JSON values; see `write_report` for the arguments.

    Where systems were asked other items (`pairwise`), what is told of one system is on its own items, what is told of
    two (comparisons, also by line, and where they differ most) on those that both have, and what is told of the data
    (`evaluated`, lines and strata) on all items, those that one system or more has. Examples are drawn at random among
    the items that every model has.

    Returns:
        `{"systems": {NAME: {"kind", "status", "tokens", "metrics": {TASK: {LINE or "all": {METRIC: {"value", "low",
        "high", "n", …}}}}, "strata": {TASK: {STRATUM: {METRIC: {…}}}}, "reliability", "roc", …}}, "comparisons": […],
        "exploratory": […], "protocol": {…}, "evaluated": […], "warnings": […], …}`. What cannot be told is null with
        a `reason` beside it. A system that was not asked all items has their number as `n_items`.

    Raises:
        InputError: names repeat, a predictions frame is bad, the systems were not asked the same items (without
            `pairwise`), or a stratum does not say of each item whether it belongs.
    """
    items, runs = _read_systems(systems, pairwise=pairwise)
    in_stratum = {name: _stratum(name, mask, items) for name, mask in (strata or {}).items()}
    in_line = {str(line): np.asarray(items.line == line) for line in items.line.categories}
    everywhere: dict[str, Bools | None] = {"all": None}
    models = [system.name for system in systems if system.kind == "model"]
    last_two = [(name, runs[name]) for name in models if "three_class" in runs[name].tasks][-2:]
    baselines = [system.name for system in systems if system.kind == "baseline"]
    pairs = [(later, earlier) for at, later in enumerate(models) for earlier in models[:at]]
    pairs += [(model, baseline) for model in models for baseline in baselines]
    comparisons = [_comparison(a, b, result) for a, b, result in compare_pairs(runs, pairs, compared_metrics())]
    summary = {
        "title": title,
        "warnings": [*_fewer_items(items, runs), *_warnings(systems, pairwise=pairwise), *data.get("warnings", ())],
        "primary": PRIMARY,
        "systems": {
            system.name: {
                "kind": system.kind,
                **_n_items(items, runs[system.name]),
                "fingerprint": _fingerprint(system),
                **_statuses(system.predictions),
                "tokens": _tokens(system),
                "n_unscorable": int((~runs[system.name].scorable).sum()),
                "seeds": list(runs[system.name].seeds),
                "metrics": _cells(runs[system.name], _own(everywhere | in_line, items, runs[system.name])),
                "strata": _cells(runs[system.name], _own(in_stratum, items, runs[system.name])),
                "reliability": reliability(runs[system.name]),
                "roc": {task: roc_points(runs[system.name], task) for task in ("de", "dir")},
                "facts": dict(system.facts),
            }
            for system in systems
        },
        "comparisons": comparisons,
        "wanted_difference": WANTED,
        "exploratory": _by_line(items, runs, pairs),
        "aa_checks": _aa_checks(systems),
        "protocol": dict(protocol),
        "data": dict(data),
        "evaluated": _evaluated(items, in_line),
        "published": [dict(row) for row in published],
        "stages": [dict(stage) for stage in stages],
        "examples": {
            "random": random_items([runs[name] for name in models]),
            "most_different": most_different(*last_two) if len(last_two) == 2 else None,
        },
    }
    plain: dict[str, Any] = _plain(summary)
    return plain


def _read_systems(systems: Sequence[System], *, pairwise: bool) -> tuple[PredictionArrays, dict[str, PredictionArrays]]:
    """All items, and each system on its own; see `align_all`."""
    if not systems:
        raise InputError("report: no systems; pass at least one run")
    runs: dict[str, PredictionArrays] = {}
    for system in systems:
        if system.name in runs:
            raise InputError(f"report: two systems are called {system.name!r}; name them apart")
        if system.kind not in ("model", "baseline"):
            raise InputError(f"report: {system.name!r} is of kind {system.kind!r}; use 'model' or 'baseline'")
        read = prediction_arrays(system.predictions, system.name)
        runs[system.name] = replace(read, tasks=tuple(system.facts.get("tasks", TASKS)))
    return align_all(runs, "drop" if pairwise else "error")


def _n_items(items: PredictionArrays, runs: PredictionArrays) -> dict[str, int]:
    """How many items a system was asked, where it was not asked all."""
    return {} if len(runs.item_id) == len(items.item_id) else {"n_items": len(runs.item_id)}


def _fewer_items(items: PredictionArrays, runs: Mapping[str, PredictionArrays]) -> list[str]:
    """Which scores do not compare, because they are on other items."""
    fewer = [f"{name}: {len(one.item_id):,}" for name, one in runs.items() if _n_items(items, one)]
    if not fewer:
        return []
    return [
        f"Not every system was asked all {len(items.item_id):,} items ({', '.join(fewer)}). Scores on fewer items do "
        "not compare with the others; each paired difference is on the items that both systems were asked."
    ]


def _own(
    masks: Mapping[str, Bools | None], items: PredictionArrays, runs: PredictionArrays
) -> Mapping[str, Bools | None]:
    """Masks over all items, on those of one system."""
    if not _n_items(items, runs):
        return masks
    at = items.item_id.get_indexer(runs.item_id)
    return {name: None if mask is None else mask[at] for name, mask in masks.items()}


def _warnings(systems: Sequence[System], *, pairwise: bool) -> list[str]:
    """What makes the models' numbers not comparable; `pairwise`, that they were asked other items does not."""
    found: dict[str | None, list[str]] = {}
    for system in systems:
        if system.kind == "model":
            found.setdefault(_fingerprint(system), []).append(system.name)
    warnings = []
    differing = _differing([one for one in systems if one.kind == "model" and _fingerprint(one)]) if pairwise else None
    if len([fingerprint for fingerprint in found if fingerprint]) > 1 and differing != []:
        groups = "; ".join(
            f"{', '.join(names)}: {str(fingerprint)[:12]}" for fingerprint, names in found.items() if fingerprint
        )
        keys = f" ({', '.join(differing)})" if differing else ""
        warnings.append(
            f"The models were evaluated under different protocols{keys}, so differences between them may come from the "
            f"protocol. Fingerprints: {groups}."
        )
    if found.get(None):
        warnings.append(
            f"No protocol fingerprint is known for {', '.join(found[None])}: whether the protocol was the same "
            "cannot be checked."
        )
    if len({_extra_body(system) for system in systems if system.kind == "model"}) > 1:
        told = "; ".join(f"{one.name}: {_extra_body(one)}" for one in systems if one.kind == "model")
        warnings.append(
            "The models' servers were sent different further keys (extra_body), which may change decoding under the "
            f"same protocol. {told}."
        )
    return warnings


def _differing(models: Sequence[System]) -> list[str] | None:
    """Keys of the models' protocols that differ, but for which items were asked; None where one is not recorded."""
    protocols = [one.facts["protocol"] for one in models if isinstance(one.facts.get("protocol"), Mapping)]
    if len(protocols) < len(models):
        return None
    return sorted({key for one in protocols for key in changed_keys(protocols[0], one)} - set(ITEM_KEYS))


def _extra_body(system: System) -> str:
    found = (system.facts.get("engine") or {}).get("extra_body")
    return json.dumps(found, sort_keys=True) if found else "none"


def _fingerprint(system: System) -> str | None:
    found = system.facts.get("protocol_fingerprint", system.facts.get("fingerprint"))
    return None if found is None else str(found)


def _statuses(predictions: pd.DataFrame) -> dict[str, Any]:
    found = {str(status): int(count) for status, count in predictions["status"].value_counts().items()}
    counts = {str(status): found.get(str(status), 0) for status in Status}
    n = len(predictions)
    return {"status": {status: count / n for status, count in counts.items()}, "status_counts": counts, "n_rows": n}


def _tokens(system: System) -> dict[str, Any]:
    """Tokens per completion, failed requests left out; null where nobody counted them."""
    nothing = {"mean": None, "median": None, "p95": None, "total": None}
    frame = system.predictions
    if system.kind == "baseline" or "completion_tokens" not in frame:
        return nothing
    tokens = frame["completion_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)
    tokens = tokens[~np.isnan(tokens) & (frame["status"] != str(Status.ERROR)).to_numpy()]
    if not tokens.any():
        return nothing
    median, p95 = np.quantile(tokens, [0.5, 0.95])
    return {"mean": tokens.mean(), "median": median, "p95": p95, "total": int(tokens.sum())}


def _stratum(name: str, mask: "pd.Series[bool]", items: PredictionArrays) -> Bools:
    at = pd.Index(mask.index).get_indexer(items.item_id)
    if (at < 0).any():
        raise InputError(f"stratum {name!r} says nothing of item {items.item_id[at < 0][0]!r}; give it every item")
    return np.asarray(mask.to_numpy(dtype=np.bool_)[at])


def _cells(runs: PredictionArrays, masks: Mapping[str, Bools | None]) -> dict[str, dict[str, dict[str, Any]]]:
    """`{TASK: {name of a mask: {METRIC: cell}}}`."""
    return {
        task: {where: {one.name: _cell(runs, one, use) for one in metrics_of(task)} for where, use in masks.items()}
        for task in TASKS
    }


def _cell(runs: PredictionArrays, metric: Metric, use: Bools | None) -> dict[str, Any]:
    estimated = estimate(runs, metric.task, metric.name, use)
    interval = confidence_interval(runs, estimated, metric.name)
    cell: dict[str, Any] = {
        "value": estimated.value,
        "low": interval.low,
        "high": interval.high,
        "n": len(estimated.rows),
        "n_perturbations": interval.n_perturbations,
    }
    if estimated.unit is not None and estimated.n_units is not None:
        units = {"gene": "n_genes", "pert": "n_perturbations"}[estimated.unit]
        cell |= {units: estimated.n_units, f"{units}_left_out": estimated.n_units_left_out}
    if len(estimated.values) > 1:
        cell["per_seed"] = list(estimated.values)
    if interval.reason:
        cell["reason"] = interval.reason
    return cell


def _comparison(a: str, b: str, result: Comparison) -> dict[str, Any]:
    needed = perturbations_needed(result, WANTED) if result.se > 0 else None
    return {"a": a, "b": b, "task": find_metric(result.metric).task, **asdict(result), "perturbations_needed": needed}


def _aa_checks(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Each model against itself, half of its samples against the other half; none with one sample an item."""
    return [
        {
            "system": system.name,
            "task": find_metric(result.metric).task,
            "metric": result.metric,
            **{key: getattr(result, key) for key in ("difference", "low", "high", "p_value", "p_holm", "n_items")},
            "note": result.test,
        }
        for system in systems
        if system.kind == "model"
        for result in aa_checks(system.predictions, compared_metrics())
    ]


def _by_line(
    items: PredictionArrays, runs: Mapping[str, PredictionArrays], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Every comparison on the primary metric again within each line, adjusted together (Benjamini & Hochberg)."""
    if len(items.line.categories) < 2 or not pairs:
        return []
    rows = []
    for line in items.line.categories:
        here = {name: one.take(np.flatnonzero(np.asarray(one.line == line))) for name, one in runs.items()}
        for a, b, result in compare_pairs(here, pairs, (PRIMARY,)):
            rows.append({"cell_line": str(line), **_comparison(a, b, result)})
    for row, p in zip(rows, adjust([row["p_value"] for row in rows], method="fdr_bh"), strict=True):
        del row["p_holm"]
        row["p_fdr"] = p
    return rows


def _evaluated(items: PredictionArrays, in_line: Mapping[str, Bools]) -> list[dict[str, Any]]:
    """Denominators: items, perturbations, genes and labels of each line and of all."""
    rows = []
    for line, mask in [*in_line.items(), ("all", np.ones(len(items.label), dtype=np.bool_))]:
        labels = np.bincount(items.label[mask], minlength=len(LABELS))
        rows.append(
            {
                "cell_line": line,
                "items": int(mask.sum()),
                "perturbations": len(np.unique(items.pert.codes[mask])),
                "genes": len(np.unique(items.gene.codes[mask])),
                **{str(label): int(count) for label, count in zip(LABELS, labels, strict=True)},
            }
        )
    return rows


def _plain(value: Any) -> Any:
    """JSON values only: NaN and infinity become null, numpy scalars numbers, what JSON has no type for its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)
