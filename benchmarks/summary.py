"""Everything a report says, as numbers: metrics with intervals, paired comparisons, statuses and denominators."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from benchmarks.metrics import TASK_METRICS, estimate, task_of
from benchmarks.prediction_arrays import PredictionArrays, prediction_arrays
from benchmarks.significance import align, compare_pairs, confidence_interval
from rewards import LABELS, InputError, Status

# Metrics that models are compared on, with each other and with every baseline.
COMPARED: Final = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "mcc",
    "de_per_gene_auroc",
    "dir_per_gene_auroc",
    "de_auroc",
    "dir_auroc",
)


@dataclass(frozen=True)
class System:
    """One system of a report.

    Attributes:
        name: how the report calls it; unique.
        kind: `model`, or `baseline` for a shortcut without a language model.
        predictions: a predictions frame (see `prediction_arrays` for its columns); `completion` is shown.
        facts: run facts. `protocol_fingerprint` (or `fingerprint`) is compared between models, `command` goes under
            "how to reproduce"; all others are shown as they are. No secrets.
    """

    name: str
    kind: Literal["model", "baseline"]
    predictions: pd.DataFrame
    facts: Mapping[str, Any]


def summarize(
    systems: Sequence[System],
    *,
    title: str,
    protocol: Mapping[str, Any],
    data: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Compute everything a report says, as plain JSON values; see `write_report` for the arguments.

    Returns:
        `{"systems": {NAME: {"kind", "status", "metrics": {TASK: {LINE or "all": {METRIC: {"value", "low", "high",
        "n", …}}}}, …}}, "comparisons": […], "protocol": {…}, "evaluated": […], "warnings": […], …}`. What cannot
        be told is null with a `reason` beside it.

    Raises:
        InputError: names repeat, a predictions frame is bad, or the systems were not asked the same items.
    """
    runs = _read_systems(systems)
    models = [system.name for system in systems if system.kind == "model"]
    baselines = [system.name for system in systems if system.kind == "baseline"]
    pairs = [(later, earlier) for at, later in enumerate(models) for earlier in models[:at]]
    pairs += [(model, baseline) for model in models for baseline in baselines]
    comparisons = [
        {"a": a, "b": b, "task": task_of(result.metric), **asdict(result)}
        for a, b, result in compare_pairs(runs, pairs, COMPARED)
    ]
    summary = {
        "title": title,
        "warnings": _warnings(systems),
        "systems": {
            system.name: {
                "kind": system.kind,
                "fingerprint": _fingerprint(system),
                **_statuses(system.predictions),
                "n_unscorable": int((~runs[system.name].scorable).sum()),
                "seeds": list(runs[system.name].seeds),
                "metrics": _metrics(runs[system.name]),
                "facts": dict(system.facts),
            }
            for system in systems
        },
        "comparisons": comparisons,
        "protocol": dict(protocol),
        "data": dict(data),
        "evaluated": _evaluated(next(iter(runs.values()))),
        "stages": [dict(stage) for stage in stages],
    }
    plain: dict[str, Any] = _plain(summary)
    return plain


def _read_systems(systems: Sequence[System]) -> dict[str, PredictionArrays]:
    if not systems:
        raise InputError("report: no systems; pass at least one run")
    runs: dict[str, PredictionArrays] = {}
    for system in systems:
        if system.name in runs:
            raise InputError(f"report: two systems are called {system.name!r}; name them apart")
        if system.kind not in ("model", "baseline"):
            raise InputError(f"report: {system.name!r} is of kind {system.kind!r}; use 'model' or 'baseline'")
        read = prediction_arrays(system.predictions, system.name)
        if runs:
            name, first = next(iter(runs.items()))
            read = align(read, first, system.name, name)
        runs[system.name] = read
    return runs


def _warnings(systems: Sequence[System]) -> list[str]:
    """What makes the models' numbers not comparable."""
    found: dict[str | None, list[str]] = {}
    for system in systems:
        if system.kind == "model":
            found.setdefault(_fingerprint(system), []).append(system.name)
    warnings = []
    if len([fingerprint for fingerprint in found if fingerprint]) > 1:
        groups = "; ".join(
            f"{', '.join(names)}: {str(fingerprint)[:12]}" for fingerprint, names in found.items() if fingerprint
        )
        warnings.append(
            "The models were evaluated under different protocols, so differences between them may come from the "
            f"protocol. Fingerprints: {groups}."
        )
    if found.get(None):
        warnings.append(
            f"No protocol fingerprint is known for {', '.join(found[None])}: whether the protocol was the same "
            "cannot be checked."
        )
    return warnings


def _fingerprint(system: System) -> str | None:
    found = system.facts.get("protocol_fingerprint", system.facts.get("fingerprint"))
    return None if found is None else str(found)


def _statuses(predictions: pd.DataFrame) -> dict[str, Any]:
    counts = predictions["status"].astype("str").value_counts()
    n = len(predictions)
    return {
        "status": {str(status): int(counts.get(str(status), 0)) / n for status in Status},
        "status_counts": {str(status): int(counts.get(str(status), 0)) for status in Status},
        "n_rows": n,
    }


def _metrics(runs: PredictionArrays) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    lines = {"all": None} | {str(line): np.asarray(runs.line == line) for line in runs.line.categories}
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for task, metrics in TASK_METRICS.items():
        found[task] = {}
        for line, use in lines.items():
            found[task][line] = {}
            for metric in metrics:
                estimated = estimate(runs, task, metric, use)
                interval = confidence_interval(runs, estimated, metric)
                cell: dict[str, Any] = {
                    "value": estimated.value,
                    "low": interval.low,
                    "high": interval.high,
                    "n": len(estimated.rows),
                    "n_perturbations": interval.n_perturbations,
                }
                if estimated.n_genes is not None:
                    cell |= {"n_genes": estimated.n_genes, "n_genes_left_out": estimated.n_genes_left_out}
                if interval.reason:
                    cell["reason"] = interval.reason
                found[task][line][metric] = cell
    return found


def _evaluated(runs: PredictionArrays) -> list[dict[str, Any]]:
    """Denominators: items, perturbations, genes and labels of each line and of all."""
    rows = []
    masks = [(str(line), np.asarray(runs.line == line)) for line in runs.line.categories]
    for line, mask in [*masks, ("all", np.ones(len(runs.label), dtype=np.bool_))]:
        labels = np.bincount(runs.label[mask], minlength=len(LABELS))
        rows.append(
            {
                "cell_line": line,
                "items": int(mask.sum()),
                "perturbations": len(np.unique(runs.pert.codes[mask])),
                "genes": len(np.unique(runs.gene.codes[mask])),
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
