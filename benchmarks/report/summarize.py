"""From systems to the numbers of a report: metrics with intervals, paired comparisons, statuses and denominators."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from benchmarks.evaluation.predictions import TASKS, changed_keys
from benchmarks.report.examples import most_different, random_items
from benchmarks.report.export import plain_json
from benchmarks.report.summary import (
    HEADLINE,
    WANTED,
    Compared,
    Evaluated,
    Score,
    Scores,
    SelfCheck,
    Summary,
    SystemSummary,
    Tokens,
    screen_of,
)
from benchmarks.statistics.alignment import align_all
from benchmarks.statistics.arrays import NONE, Bools, PredictionArrays, prediction_arrays
from benchmarks.statistics.curves import reliability, roc_points
from benchmarks.statistics.metrics import Metric, compared_metrics, estimate, metrics_of, tasks_of
from benchmarks.statistics.power import perturbations_needed
from benchmarks.statistics.significance import (
    Comparison,
    aa_checks,
    adjust,
    compare_pairs,
    confidence_interval,
)
from rewards import LABELS, InputError, Label, Status

# Of a protocol: which items were asked, not how. Systems that differ in these alone compare on their common items.
ITEM_KEYS: Final = ("items", "item_seed", "balance")
_CERTAIN: Final = 0.99  # a score above it is that of an all but certain answer


@dataclass(frozen=True)
class System:
    """One system of a report.

    Attributes:
        name: how the report calls it; unique.
        kind: `model`, or `baseline` for a shortcut without a language model.
        predictions: a predictions frame (see `prediction_arrays` for its columns); `completion` is shown.
        facts: run facts. `protocol_fingerprint` (or `fingerprint`) is compared between models, `command` goes under
            "how to reproduce", `tasks` and the protocol's `template` say which tasks it answers; all others are shown
            as they are. No secrets.
        completions: returns the rows `item_id, seed, sample, completion, status, answer` of the given items; None
            where `predictions` holds the completions itself.
    """

    name: str
    kind: Literal["model", "baseline"]
    predictions: pd.DataFrame
    facts: Mapping[str, Any]
    completions: Callable[[Sequence[str]], pd.DataFrame] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Which of `TASKS` it answers: those that its facts name, `dir` alone if its prompts offered two labels."""
        if "tasks" in self.facts:
            return tuple(self.facts["tasks"])
        protocol = self.facts.get("protocol")
        asked_direction = isinstance(protocol, Mapping) and protocol.get("template") == "direction"
        return ("dir",) if asked_direction else TASKS


def asked_task(systems: Sequence[System]) -> str:
    """Return the task that a report on systems is about, one of `TASKS`.

    It is `de` or `dir` where the models answer that task alone. It is `three_class`, which stands for all tasks, where
    they answer more than one between them, and where there is no model.
    """
    answered = {task for system in systems if system.kind == "model" for task in system.tasks}
    return answered.pop() if len(answered) == 1 else "three_class"


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
) -> Summary:
    """Compute everything a report says; see `write_report` for the arguments.

    Where all models answer one task alone (`asked_task`), nothing is told of the other tasks. Of models that answer the
    direction alone, items whose expression did not change are left out and counted.

    Where systems were asked other items (`pairwise`), what is told of one system is on its own items, what is told of
    two (comparisons, also by line, and where they differ most) on those that both have, and what is told of the data
    (`evaluated`, lines and strata) on all items, those that one system or more has. Examples are drawn at random among
    the items that every model has.

    Raises:
        InputError: names repeat, a predictions frame is bad, there is no item to score, the systems were not asked the
            same items (without `pairwise`), or a stratum does not say of each item whether it belongs.
    """
    task = asked_task(systems)
    items, runs = _read_systems(systems, task, pairwise=pairwise)
    systems, left_out = _without_unchanged(systems) if task == "dir" else (systems, [])
    in_stratum = {name: _stratum(name, mask, items) for name, mask in (strata or {}).items()}
    in_line = {str(line): np.asarray(items.line == line) for line in items.line.categories}
    models = [system.name for system in systems if system.kind == "model"]
    pairs = _pairs(systems)
    screen = screen_of(data)
    directed = [(name, runs[name]) for name in models if task != "de" and task in runs[name].tasks]
    last_two = directed[-2:]
    compared = compared_metrics(screen, task)
    return Summary(
        title=title,
        warnings=[
            *left_out,
            *_fewer_items(items, runs),
            *_warnings(systems, pairwise=pairwise),
            *_certain_scores({name: runs[name] for name in models}),
            *data.get("warnings", ()),
        ],
        task=task,
        systems={one.name: _system(one, runs[one.name], items, in_line, in_stratum, screen, task) for one in systems},
        comparisons=[_compared(a, b, result) for a, b, result in compare_pairs(runs, pairs, compared)],
        wanted_difference=WANTED,
        exploratory=_by_line(items, runs, pairs, HEADLINE[task][0]),
        aa_checks=_aa_checks(systems, compared),
        protocol=plain_json(protocol),
        data=plain_json(data),
        evaluated=_evaluated(items, in_line),
        published=plain_json([row for row in published if row["task"] in tasks_of(task)]),
        stages=plain_json(list(stages)),
        random_items=random_items([runs[name] for name in models]),
        most_different=most_different(*last_two) if len(last_two) == 2 else None,
    )


def _pairs(systems: Sequence[System]) -> list[tuple[str, str]]:
    """Each model with those before it, then with every baseline."""
    models, baselines = ([one.name for one in systems if one.kind == kind] for kind in ("model", "baseline"))
    pairs = [(later, earlier) for at, later in enumerate(models) for earlier in models[:at]]
    return pairs + [(model, baseline) for model in models for baseline in baselines]


def _system(
    system: System,
    runs: PredictionArrays,
    items: PredictionArrays,
    in_line: Mapping[str, Bools],
    in_stratum: Mapping[str, Bools],
    screen: str,
    task: str,
) -> SystemSummary:
    """What is told of one system."""
    everywhere: dict[str, Bools | None] = {"all": None}
    counts = _status_counts(system.predictions)
    n_rows = len(system.predictions)
    return SystemSummary(
        kind=system.kind,
        n_items=_n_items(items, runs),
        fingerprint=_fingerprint(system),
        status={status: count / n_rows for status, count in counts.items()},
        status_counts=counts,
        n_rows=n_rows,
        tokens=_tokens(system),
        n_unscorable=int((~runs.scorable).sum()),
        seeds=runs.seeds,
        metrics=_scores(runs, _own({**everywhere, **in_line}, items, runs), screen, task),
        strata=_scores(runs, _own(in_stratum, items, runs), screen, task),
        reliability=reliability(runs),
        roc={shown: roc_points(runs, shown) for shown in tasks_of(task) if shown != "three_class"},
        facts=plain_json(system.facts),
    )


def _without_unchanged(systems: Sequence[System]) -> tuple[list[System], list[str]]:
    """The systems on items labelled up or down, and a sentence on how many others are left out, if any are."""
    unchanged = [one.predictions["label"] == str(Label.NONE) for one in systems]
    left_out = {item for one, none in zip(systems, unchanged, strict=True) for item in one.predictions["item_id"][none]}
    if not left_out:
        return list(systems), []
    kept = [replace(one, predictions=one.predictions[~none]) for one, none in zip(systems, unchanged, strict=True)]
    return kept, [
        "The models answer the direction alone, so items whose expression did not change are left out "
        f"({len(left_out):,})."
    ]


def _read_systems(
    systems: Sequence[System], task: str, *, pairwise: bool
) -> tuple[PredictionArrays, dict[str, PredictionArrays]]:
    """All items of the report's task, and each system on its own, with the tasks to be told; see `align_all`."""
    if not systems:
        raise InputError("report: no systems; pass at least one run")
    runs: dict[str, PredictionArrays] = {}
    for system in systems:
        if system.name in runs:
            raise InputError(f"report: two systems are called {system.name!r}; name them apart")
        if system.kind not in ("model", "baseline"):
            raise InputError(f"report: {system.name!r} is of kind {system.kind!r}; use 'model' or 'baseline'")
        read = prediction_arrays(system.predictions, system.name)
        if task == "dir":
            read = read.take(np.flatnonzero(read.label != NONE))
            if not len(read.item_id):
                raise InputError(
                    f"report: the models answer the direction alone, and no item of {system.name!r} changed; evaluate "
                    "items that are labelled up or down"
                )
        runs[system.name] = replace(read, tasks=tuple(one for one in system.tasks if one in tasks_of(task)))
    return align_all(runs, "drop" if pairwise else "error")


def _n_items(items: PredictionArrays, runs: PredictionArrays) -> int | None:
    """How many items a system was asked, where it was not asked all."""
    return None if len(runs.item_id) == len(items.item_id) else len(runs.item_id)


def _fewer_items(items: PredictionArrays, runs: Mapping[str, PredictionArrays]) -> list[str]:
    """Which scores do not compare, because they are on other items."""
    fewer = [f"{name}: {len(one.item_id):,}" for name, one in runs.items() if _n_items(items, one) is not None]
    if not fewer:
        return []
    return [
        f"Not every system was asked all {len(items.item_id):,} items ({', '.join(fewer)}). Scores on fewer items do "
        "not compare with the others. Each paired difference is on the items that both systems were asked."
    ]


def _own(
    masks: Mapping[str, Bools | None], items: PredictionArrays, runs: PredictionArrays
) -> Mapping[str, Bools | None]:
    """Masks over all items, on those of one system."""
    if _n_items(items, runs) is None:
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
            f"No protocol fingerprint is known for {', '.join(found[None])}. The report cannot check whether the "
            "protocol was the same."
        )
    if len({_extra_body(system) for system in systems if system.kind == "model"}) > 1:
        told = "; ".join(f"{one.name}: {_extra_body(one)}" for one in systems if one.kind == "model")
        warnings.append(
            "The requests to the models' servers had different extra keys (extra_body). These may change decoding "
            f"although the protocol is the same. {told}."
        )
    return warnings


def _certain_scores(models: Mapping[str, PredictionArrays]) -> list[str]:
    """Which models are all but certain of most items, so that their AUROC compares little more than answers."""
    shares = {}
    for name, one in models.items():
        highest = one.prob.max(axis=2)
        known = ~np.isnan(highest)
        if known.any():
            shares[name] = float((highest[known] > _CERTAIN).mean())
    told = [f"{name} {share:.0%}" for name, share in shares.items() if share > 0.5]
    if not told:
        return []
    return [
        f"More than half of the scores lie above {_CERTAIN:g} ({', '.join(told)} of the items). AUROC then ranks items "
        "that are scored alike. Evaluate with scores: direct, or with temperature: 1 and samples: 8, for scores that "
        "rank."
    ]


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


def _status_counts(predictions: pd.DataFrame) -> dict[str, int]:
    found = {str(status): int(count) for status, count in predictions["status"].value_counts().items()}
    return {str(status): found.get(str(status), 0) for status in Status}


def _tokens(system: System) -> Tokens:
    frame = system.predictions
    if system.kind == "baseline" or "completion_tokens" not in frame:
        return Tokens()
    frame = frame[frame["status"] != str(Status.ERROR)]
    tokens = frame["completion_tokens"].to_numpy(dtype=np.float64, na_value=np.nan)
    tokens = tokens[~np.isnan(tokens)]
    if not tokens.any():
        return Tokens()
    median, p95 = np.quantile(tokens, [0.5, 0.95])
    n_asked = len(frame[["item_id", "seed"] if "seed" in frame else ["item_id"]].drop_duplicates())
    counted = "prompt_tokens" in frame and bool(frame["prompt_tokens"].notna().all())
    return Tokens(
        mean=float(tokens.mean()),
        median=float(median),
        p95=float(p95),
        total=int(tokens.sum()),
        read_per_item=float(frame["prompt_tokens"].sum()) / n_asked if counted else float("nan"),
        written_per_item=float(tokens.sum()) / n_asked,
    )


def _stratum(name: str, mask: "pd.Series[bool]", items: PredictionArrays) -> Bools:
    at = pd.Index(mask.index).get_indexer(items.item_id)
    if (at < 0).any():
        raise InputError(f"stratum {name!r} says nothing of item {items.item_id[at < 0][0]!r}; give it every item")
    return np.asarray(mask.to_numpy(dtype=np.bool_)[at])


def _scores(runs: PredictionArrays, masks: Mapping[str, Bools | None], screen: str, asked: str) -> Scores:
    """By task, by name of a mask, by metric that reports on the screen show whose models were `asked` a task."""
    return {
        task: {
            where: {one.name: _score(runs, one, use) for one in metrics_of(task, screen, asked)}
            for where, use in masks.items()
        }
        for task in tasks_of(asked)
    }


def _score(runs: PredictionArrays, metric: Metric, use: Bools | None) -> Score:
    estimated = estimate(runs, metric.task, metric.name, use)
    interval = confidence_interval(runs, estimated, metric.name)
    over_genes, over_perturbations = estimated.unit == "gene", estimated.unit == "pert"
    n_averaged, n_left_out = estimated.n_units, estimated.n_units_left_out
    return Score(
        value=estimated.value,
        low=interval.low,
        high=interval.high,
        n=len(estimated.rows),
        n_perturbations=n_averaged if over_perturbations and n_averaged is not None else interval.n_perturbations,
        n_perturbations_left_out=n_left_out if over_perturbations else None,
        n_genes=n_averaged if over_genes else None,
        n_genes_left_out=n_left_out if over_genes else None,
        per_seed=tuple(estimated.values.tolist()) if len(estimated.values) > 1 else (),
        reason=interval.reason,
    )


def _compared(a: str, b: str, result: Comparison, cell_line: str = "all") -> Compared:
    needed = perturbations_needed(result, WANTED) if result.se > 0 else float("nan")
    return Compared(a, b, result, needed, cell_line)


def _aa_checks(systems: Sequence[System], compared: Sequence[str]) -> list[SelfCheck]:
    """Each model against itself, half of its samples against the other half; none with one sample an item."""
    return [
        SelfCheck(system.name, result)
        for system in systems
        if system.kind == "model"
        for result in aa_checks(system.predictions, compared)
    ]


def _by_line(
    items: PredictionArrays, runs: Mapping[str, PredictionArrays], pairs: Sequence[tuple[str, str]], primary: str
) -> list[Compared]:
    """Every comparison on the primary metric again within each line, adjusted together (Benjamini & Hochberg)."""
    if len(items.line.categories) < 2 or not pairs:
        return []
    rows = []
    for line in items.line.categories:
        here = {name: one.take(np.flatnonzero(np.asarray(one.line == line))) for name, one in runs.items()}
        rows += [_compared(a, b, result, str(line)) for a, b, result in compare_pairs(here, pairs, (primary,))]
    adjusted = adjust([row.result.p_value for row in rows], method="fdr_bh")
    return [replace(row, p_fdr=p) for row, p in zip(rows, adjusted, strict=True)]


def _evaluated(items: PredictionArrays, in_line: Mapping[str, Bools]) -> list[Evaluated]:
    rows = []
    for line, mask in [*in_line.items(), ("all", np.ones(len(items.label), dtype=np.bool_))]:
        labels = np.bincount(items.label[mask], minlength=len(LABELS))
        rows.append(
            Evaluated(
                cell_line=line,
                items=int(mask.sum()),
                perturbations=len(np.unique(items.pert.codes[mask])),
                genes=len(np.unique(items.gene.codes[mask])),
                labels={str(label): int(count) for label, count in zip(LABELS, labels, strict=True)},
            )
        )
    return rows
