"""What a report is made of: finished runs read back, their items held against each other, the baselines beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.evaluation.baselines import left_out, predict_baselines
from benchmarks.evaluation.predictions import changed_keys, read_answers, read_completions, read_facts
from benchmarks.evaluation.run import PREDICTIONS
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.report.page import write_report
from benchmarks.report.published import published_figures
from benchmarks.report.strata import strata
from benchmarks.report.summarize import ITEM_KEYS, System
from benchmarks.runs import CONFIG, read_manifest
from benchmarks.screens.labels import data_dir
from benchmarks.screens.schema import CELL_LINES
from rewards import LABELS, InputError


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
        """The labels' folder, or `sample`, and the split."""
        data = self.config["data"]
        folder = data if data == "sample" else str(Path(data_dir() if data is None else data).resolve())
        return str(folder), str(self.config["split"])


def report_runs(
    paths: Sequence[Path],
    out: Path,
    *,
    title: str,
    command: str,
    common: bool = False,
    pairwise: bool = False,
    embeddings: Path | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the report over evaluation runs, with every baseline beside them.

    Args:
        paths: run folders: evaluations become systems in the order given, several training seeds of one name one
            system; training runs are told of as stages.
        out: the report's folder.
        title: the page's title.
        command: how the report was made, shown under "how to reproduce".
        common: whether to keep only the items that every system has; the report says how many each has lost.
        pairwise: whether to score each system on its own items, and each pair on those that both have; the baselines
            forecast all of them.
        embeddings: file of gene embeddings (`benchmarks.evaluation.embeddings`); adds a regression on them to the
            baselines.
        notes: sentences on the runs that the report shows first among its notes on the data.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: a folder is no finished run, no evaluation is among them, two hold the same seed of one system,
            seeds of one system differ in protocol or model, or the systems were not asked the same items (without
            `common` or `pairwise`; with `common`, there are no common ones), or both of these are asked for.
    """
    if common and pairwise:
        raise InputError("report: --common and --pairwise score other items; give one of them")
    evaluations, stages = read_runs(paths)
    if not evaluations:
        raise InputError("report: no evaluation among the runs; give at least one folder that `synthpert eval` wrote")
    sources = {run.source for run in evaluations}
    if len(sources) > 1:
        found = "; ".join(" under ".join(source) for source in sorted(sources))
        raise InputError(f"report: the runs were evaluated on different data ({found}); report them apart")
    systems = [merge_seeds(name, runs) for name, runs in group_by_name(evaluations).items()]
    systems, warnings = (systems, []) if pairwise else same_items(systems, common=common)
    corpus = open_corpus(evaluations[0].config["data"], evaluations[0].config["split"])
    items = items_of([system.predictions for system in systems], corpus)
    for name, frame in predict_baselines(corpus, items, embeddings).items():
        systems.append(System(name, "baseline", frame, {"fitted on": "training labels only"}))
    data = describe(corpus, items, command)
    unseen, unknown = describe_training(evaluations)
    data["notes"] = [*notes, *data["notes"], *unseen]
    data["warnings"] = [*warnings, *unknown]
    data["funnel"] = data_funnel(corpus, len(items), stages)
    protocol = shown_protocol(evaluations, corpus, pairwise=pairwise)
    return write_report(
        systems, out, title=title, protocol=protocol, data=data, stages=stages, strata=strata(corpus, items),
        published=published_for(corpus), pairwise=pairwise,
    )  # fmt: skip


def shown_protocol(runs: Sequence[EvaluationRun], corpus: Corpus, *, pairwise: bool) -> dict[str, Any]:
    """Return the first protocol recorded; with `pairwise`, which items were asked by system where that differs."""
    protocols = {run.name: run.facts["protocol"] for run in runs if "protocol" in run.facts}
    if not protocols:
        return {"split": corpus.split, "data": corpus.digest}
    protocol = dict(next(iter(protocols.values())))
    for key in ITEM_KEYS if pairwise else ():
        values = {name: one.get(key) for name, one in protocols.items()}
        if len(set(values.values())) > 1:
            protocol[key] = values
    return protocol


def describe_training(runs: Sequence[EvaluationRun]) -> tuple[list[str], list[str]]:
    """Say of each system's adapters whether they were trained on test items; what is known first, then what is not."""
    known: dict[str, list[int]] = {}
    unknown: dict[str, None] = {}
    for run in runs:
        if (run.facts.get("engine") or {}).get("adapter_sha256") is None:
            continue
        trained = (run.facts.get("run") or {}).get("trained_items")
        if trained is None:
            unknown[run.name] = None
        else:
            known.setdefault(run.name, []).append(trained)
    unseen = [
        f"{name}: none of the {' and '.join(f'{n:,}' for n in dict.fromkeys(counts))} items that its adapter was "
        "trained on, in either stage, is a test item of this split."
        for name, counts in known.items()
    ]
    return unseen, [
        f"{name}: nothing beside its adapter says which items it was trained on; test items may be among them."
        for name in unknown
    ]


def read_runs(paths: Sequence[Path]) -> tuple[list[EvaluationRun], list[dict[str, Any]]]:
    """Return the evaluations among finished run folders, and what the other stages' manifests say."""
    evaluations: list[EvaluationRun] = []
    stages: list[dict[str, Any]] = []
    for path in paths:
        manifest = read_manifest(path)
        if manifest["status"] != "done":
            raise InputError(f"{path}: the {manifest.get('stage')} run is not finished; run it again to go on")
        if manifest.get("stage") != "eval":
            kept = {key: value for key, value in manifest.items() if key not in ("stage", "status", "packages")}
            stages.append({"stage": manifest.get("stage"), "run": str(path), **kept})
            continue
        config = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
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
            for key in ("model", "model_fingerprint", "tasks", "extra_body"):
                before, now = (one.facts.get(key, (one.facts.get("engine") or {}).get(key)) for one in (other, run))
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


def data_funnel(corpus: Corpus, n_evaluated: int, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how many rows each step took of how many.

    Args:
        corpus: the labels under the split of the report.
        n_evaluated: test items scored.
        stages: manifests of the training runs, with their folder as `run`; what is equal in several is told once.

    Returns:
        A row per step: `step`, `rows`, `of` (how many there were, of what), `share` (in [0, 1]), `run` (the folder).
    """
    n, n_train, n_test = len(corpus.labels), len(corpus.train), len(corpus.test)
    steps: dict[tuple[str, int, int, str], list[str]] = {
        ("training items of the split", n_train, n, "labels"): [],
        ("test items of the split", n_test, n, "labels"): [],
        ("test items evaluated", n_evaluated, n_test, "test items"): [],
    }
    for stage in stages:
        for step in _steps_of(stage, n_train):
            steps.setdefault(step, []).append(str(stage["run"]))
    return [
        {
            "step": step,
            "rows": rows,
            "of": f"{of:,} {what}",
            "share": round(rows / of, 4) if of else None,
            "run": "" if not runs else runs[0] if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more",
        }
        for (step, rows, of, what), runs in steps.items()
    ]


def _steps_of(stage: Mapping[str, Any], n_train: int) -> list[tuple[str, int, int, str]]:
    """What a training stage took: the step, its rows, of how many, of what."""
    if stage["stage"] == "grpo":
        return [("prompts of GRPO", stage["prompts"]["items"], n_train, "training items")]
    if stage["stage"] != "sft":
        return []
    there, used = stage["traces"]["rows"], stage["traces"].get("used", stage["traces"]["rows"])
    found = [
        ("traces in the file", there, n_train, "training items"),
        ("traces used for SFT", used, there, "traces in the file"),
        ("traces used for SFT", used, n_train, "training items"),
    ]
    if (wrong := stage["traces"].get("wrong_answers")) is not None:
        found.append(("traces used for SFT with a wrong answer", wrong, used, "traces used for SFT"))
    return found


def report_baselines(corpus: Corpus, out: Path, *, command: str, embeddings: Path | None = None) -> Path:
    """Write the baselines' own report on all test items of a corpus; return the path of the HTML page.

    `embeddings` is a file of gene embeddings (`benchmarks.evaluation.embeddings`); it adds a regression on them.
    """
    items = corpus.test
    systems = [
        System(name, "baseline", frame, {"fitted on": "training labels only"})
        for name, frame in predict_baselines(corpus, items, embeddings).items()
    ]
    return write_report(
        systems, out, title="Baselines on PerturbQA", protocol={"split": corpus.split, "data": corpus.digest},
        data=describe(corpus, items, command), strata=strata(corpus, items), published=published_for(corpus),
    )  # fmt: skip


def published_for(corpus: Corpus) -> list[dict[str, Any]]:
    """Return what others published for the corpus's split; nothing for the sample, where scores do not compare."""
    return [] if corpus.is_sample else published_figures(corpus.split)


def items_of(predictions: Sequence[pd.DataFrame], corpus: Corpus) -> pd.DataFrame:
    """Return the corpus's rows for every item of predictions frames, in the order in which they first occur."""
    found = [pd.Series(frame["item_id"].unique()).astype("str") for frame in predictions]
    wanted = pd.Index(pd.concat(found).unique())
    at = pd.Index(corpus.labels["item_id"]).get_indexer(wanted)
    if (at < 0).any():
        raise InputError(f"{wanted[at < 0][0]}: was evaluated, but is not among the labels of {corpus.source}")
    rows: pd.DataFrame = corpus.labels.iloc[at]
    return rows


def describe(corpus: Corpus, items: pd.DataFrame, command: str) -> dict[str, Any]:
    """Return what was evaluated, for the report: denominators per line, and what a reader must know of the data."""
    rows = []
    for line in CELL_LINES:
        here, asked = corpus.labels[corpus.labels["cell_line"] == line], items[items["cell_line"] == line]
        if here.empty:
            continue
        rows.append(
            {
                "cell line": line,
                "training rows": int((here["split"] == "train").sum()),
                "test rows": int((here["split"] == "test").sum()),
                "evaluated": len(asked),
                **{str(label): int((asked["label"] == str(label)).sum()) for label in LABELS},
                "perturbations": int(asked["pert"].nunique()),
                "genes": int(asked["gene"].nunique()),
            }
        )
    notes = []
    if corpus.is_sample:
        notes.append(
            "These are rows of the sample that ships with the package. They were chosen so that each gene shows every "
            "label: label shares, and what the gene's rate scores, are not those of the full benchmark. Gene rates and "
            "neighbours are computed from the full training labels."
        )
        notes.append(
            "The baselines forecast with PerturbQA's label shares, where 86 % of the items do not change. A model that "
            "was trained on balanced rows is nearer to this sample's shares, which favours it on accuracy, balanced "
            "accuracy and F1; AUROC is not affected."
        )
        notes.append(f"Left out, because they need the full labels: the baselines {', '.join(left_out(corpus))}.")
    return {
        "source": "sample" if corpus.is_sample else "PerturbQA, full files",
        "split": corpus.split,
        "sha256": corpus.digest,
        "is_sample": corpus.is_sample,
        "rows": rows,
        "notes": notes,
        "command": command,
    }
