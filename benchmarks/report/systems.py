"""Finished runs read back as systems: training runs of one name joined, items held against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.evaluation.predictions import changed_keys, read_answers, read_completions, read_facts
from benchmarks.evaluation.run import PREDICT, PREDICTIONS
from benchmarks.report.charts.training import read_log, same_but_for_seed
from benchmarks.report.summarize import System
from benchmarks.runs import CONFIG, read_manifest, read_stored, refuse_unfinished
from benchmarks.screens.labels import SAMPLE, data_source
from rewards import InputError


@dataclass(frozen=True)
class EvaluationRun:
    """A finished evaluation, or predictions imported as one.

    Attributes:
        path: the run folder.
        name: what the report calls its system; runs of one name are training runs of one system.
        seeds: the training runs its rows are of.
        config: `data` and `split` among other keys.
        facts: of its predictions file.
    """

    path: Path
    name: str
    seeds: tuple[int, ...]
    config: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def source(self) -> tuple[str, str]:
        """The labels' folder, or `sample`, and the split: as the configuration names them."""
        source = data_source(self.config["data"])
        return source if source == SAMPLE else str(Path(source).resolve()), str(self.config["split"])

    @property
    def digest(self) -> str | None:
        """SHA-256 of the labels under their split; None where the run does not say."""
        data, protocol = self.facts.get("data") or {}, self.facts.get("protocol") or {}
        return data.get("sha256") or protocol.get("data") or None


def read_runs(paths: Sequence[Path]) -> tuple[list[EvaluationRun], list[dict[str, Any]]]:
    """Return the evaluations among finished run folders, and of the other stages what their manifests and logs say."""
    evaluations: list[EvaluationRun] = []
    stages: list[dict[str, Any]] = []
    for path in paths:
        manifest = read_manifest(path)
        refuse_unfinished(path, manifest)
        if manifest.get("stage") == PREDICT:
            raise InputError(
                f"{path}: its items have no labels, so no report can score it; `synthpert submit` writes them down"
            )
        if manifest.get("stage") != "eval":
            kept = {key: value for key, value in manifest.items() if key not in ("stage", "status", "packages")}
            stage: dict[str, Any] = {"stage": manifest.get("stage"), "run": str(path), **kept}
            if log := read_log(path, str(manifest.get("stage"))):
                stage |= {"log": log, "alike": same_but_for_seed(path)}
            stages.append(stage)
            continue
        config = read_stored(path / CONFIG, "restore it, or run the evaluation again")
        seeds = manifest.get("seeds") or [config["training_seed"]]
        facts = read_facts(path / PREDICTIONS)
        evaluations.append(EvaluationRun(path, str(manifest["name"]), tuple(seeds), config, facts))
    return evaluations, stages


def group_by_name(runs: Sequence[EvaluationRun]) -> dict[str, list[EvaluationRun]]:
    """Group training runs of one system, in the order in which systems first occur.

    Raises:
        InputError: two runs of one name hold the same seed, or differ in protocol or model; both folders are named.
    """
    groups: dict[str, list[EvaluationRun]] = {}
    for run in runs:
        for other in groups.setdefault(run.name, []):
            pair = f"{other.path} and {run.path}: both are called {run.name!r}"
            if shared := sorted(set(other.seeds) & set(run.seeds)):
                raise InputError(
                    f"{pair} and hold training seed {shared[0]}; leave one out, or evaluate it under another name or "
                    "training_seed"
                )
            if other.facts.get("protocol_fingerprint") != run.facts.get("protocol_fingerprint"):
                keys = changed_keys(other.facts.get("protocol") or {}, run.facts.get("protocol") or {})
                raise InputError(
                    f"{pair}, but were asked under different protocols ({', '.join(keys) or 'one has none'}); training "
                    "runs of one system need one protocol"
                )
            for key in ("model", "model_fingerprint", "tokenizer_sha256", "tasks", "extra_body"):
                before, now = (one.facts.get(key, (one.facts.get("engine") or {}).get(key)) for one in (other, run))
                if key == "tokenizer_sha256" and None in (before, now):  # earlier versions did not store it
                    continue
                if before != now:
                    raise InputError(f"{pair}, but have another {key} ({before}, {now}); give them names of their own")
        groups[run.name].append(run)
    return groups


def merge_seeds(name: str, runs: Sequence[EvaluationRun]) -> System:
    """Return the training runs of one system as one: rows one after another, completions left on disk."""
    files = [run.path / PREDICTIONS for run in runs]
    labels = [f"seed {', '.join(str(seed) for seed in run.seeds)}" for run in runs]
    facts = _merge_facts(labels, [run.facts for run in runs])
    if len(runs) > 1:
        facts["seed"] = [seed for run in runs for seed in run.seeds]
    return System(name, "model", read_answers(files), facts, partial(read_completions, files))


def _merge_facts(labels: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Facts that are equal in all runs as they are; of the others, each run's under its label."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for one in facts for key in one):
        values = [one.get(key) for one in facts]
        if all(value == values[0] for value in values):
            merged[key] = values[0]
        elif len(maps := [value for value in values if isinstance(value, Mapping)]) == len(values):
            merged[key] = _merge_facts(labels, maps)
        else:
            merged[key] = dict(zip(labels, values, strict=True))
    return merged


def same_items(systems: Sequence[System], *, common: bool) -> tuple[list[System], list[str]]:
    """Hold the systems' items against each other.

    Args:
        systems: at least one.
        common: keep the items that every training run of every system has, instead of an error.

    Returns:
        The systems, and a sentence on how many items each has lost, if any has.

    Raises:
        InputError: the systems have other items (without `common`), or none in common.
    """
    if not common:
        _refuse_other_items(systems)
        return list(systems), []
    shared = _shared_items(systems)
    kept, lost = [], []
    for system in systems:
        ids = system.predictions["item_id"].astype("str")
        n = ids.nunique()
        if n > len(shared):
            lost.append(f"{system.name} {n - len(shared):,} of {n:,}")
            system = replace(system, predictions=system.predictions[ids.isin(shared)])
        kept.append(system)
    scored = f"Only the {len(shared):,} items that every system has are scored. Items left out: {', '.join(lost)}."
    return kept, [scored] if lost else []


def _refuse_other_items(systems: Sequence[System]) -> None:
    """Raise where a system lacks an item of the first one, or has one more."""
    first = systems[0]
    wanted = pd.Index(first.predictions["item_id"].astype("str").unique())
    for system in systems[1:]:
        here = pd.Index(system.predictions["item_id"].astype("str").unique())
        for lacks, having, difference in (
            (system.name, first.name, wanted.difference(here)),
            (first.name, system.name, here.difference(wanted)),
        ):
            if len(difference):
                raise InputError(
                    f"report: {lacks!r} lacks {len(difference):,} items that {having!r} has (first: "
                    f"{difference[0]}); evaluate both on the same items, or report the common ones with --common, "
                    "or each pair on those that both have with --pairwise"
                )


def _shared_items(systems: Sequence[System]) -> "pd.Index[Any]":
    """The items that every training run of every system has; at least one."""
    shared: pd.Index[Any] | None = None
    for system in systems:
        for _, rows in system.predictions.groupby("seed")["item_id"]:
            ids = pd.Index(rows.astype("str").unique())
            shared = ids if shared is None else shared.intersection(ids, sort=False)
    if shared is None or shared.empty:
        raise InputError("report: the systems have no item in common; check their splits and item subsets")
    return shared
