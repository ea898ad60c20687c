"""What a report is made of: systems from finished runs, the baselines beside them, and what data they were asked of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.evaluation.baselines import lacking_words, left_out, predict_baselines
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.reference import open_reference
from benchmarks.files import check_folder
from benchmarks.report.evidence_alone import evidence_alone
from benchmarks.report.page import write_report
from benchmarks.report.published import published_figures
from benchmarks.report.strata import strata
from benchmarks.report.summarize import ITEM_KEYS, System, asked_task
from benchmarks.report.systems import EvaluationRun, group_by_name, merge_seeds, read_runs, same_items
from benchmarks.runs import MANIFEST, read_manifest
from benchmarks.screens.k562_set import TITLE as K562_SETS
from benchmarks.screens.labels import SAMPLE, data_dir, data_source
from benchmarks.screens.splits import HOLDOUT_FORMS
from benchmarks.screens.table import is_table
from rewards import LABELS, InputError


def report_runs(
    paths: Sequence[Path],
    out: Path,
    *,
    title: str,
    command: str,
    common: bool = False,
    pairwise: bool = False,
    embeddings: Path | None = None,
    evidence_from: str | None = None,
    orthologs: str | None = None,
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
        evidence_from, orthologs: reference screen of the baselines (`benchmarks.evidence.reference`); by default that
            of the first evaluation that has one.
        notes: sentences on the runs that the report shows first among its notes on the data.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: a folder is no finished run, no evaluation is among them, two hold the same seed of one system,
            seeds of one system differ in protocol or model, or the systems were not asked the same items (without
            `common` or `pairwise`; with `common`, there are no common ones), both of these are asked for, or `out`
            holds a run.
    """
    _check_target(out)
    systems, told = collect_runs(
        paths, command=command, common=common, pairwise=pairwise, embeddings=embeddings, evidence_from=evidence_from,
        orthologs=orthologs, notes=notes,
    )  # fmt: skip
    return write_report(systems, out, title=title, pairwise=pairwise, **told)


def collect_runs(
    paths: Sequence[Path],
    *,
    command: str,
    common: bool = False,
    pairwise: bool = False,
    embeddings: Path | None = None,
    evidence_from: str | None = None,
    orthologs: str | None = None,
    notes: Sequence[str] = (),
) -> tuple[list[System], dict[str, Any]]:
    """Return what a report over evaluation runs tells, before it is summarised or written.

    Args:
        paths, command, common, pairwise, embeddings, evidence_from, orthologs, notes: as in `report_runs`.

    Returns:
        The systems, baselines last, and the further arguments of `write_report` and `summarize` by name: `protocol`,
        `data`, `stages`, `strata` and `published`.

    Raises:
        InputError: as in `report_runs`.
    """
    if common and pairwise:
        raise InputError("report: --common and --pairwise score different items; give only one of them")
    evaluations, stages = read_runs(paths)
    _refuse_unless_one_source(evaluations)
    systems = [merge_seeds(name, runs) for name, runs in group_by_name(evaluations).items()]
    systems, warnings = (systems, []) if pairwise else same_items(systems, common=common)
    corpus, absent = _with_reference(_find_corpus(evaluations[0]), evaluations, evidence_from, orthologs)
    items = items_of([system.predictions for system in systems], corpus)
    task = asked_task(systems)
    systems += _baselines(corpus, items, embeddings, task)
    protocols = [run.facts.get("protocol") or {} for run in evaluations]
    quoted, unquoted = evidence_alone(protocols, corpus, items, task=task)
    systems += quoted
    balanced = any(run.facts.get("protocol", {}).get("balance") for run in evaluations)
    data = describe(corpus, items, command, balanced=balanced, task=task)
    unseen, unknown = describe_training(evaluations)
    data["notes"] = [*notes, *data["notes"], *unseen, *unquoted]
    data["warnings"] = [*warnings, *unknown, *absent]
    data["funnel"] = data_funnel(corpus, len(items), stages)
    return systems, {
        "protocol": shown_protocol(evaluations, corpus, pairwise=pairwise),
        "data": data,
        "stages": stages,
        "strata": strata(corpus, items),
        "published": published_for(corpus),
    }


def _refuse_unless_one_source(evaluations: Sequence[EvaluationRun]) -> None:
    if not evaluations:
        raise InputError("report: no evaluation among the runs; give at least one folder that `synthpert eval` wrote")
    first: dict[Any, EvaluationRun] = {}  # by labels: the same may lie in two folders, and a table may change
    for run in evaluations:
        first.setdefault(run.digest or run.source, run)
    if len(first) > 1:
        runs = sorted(first.values(), key=lambda run: run.source)
        found = "; ".join(f"{run.path} on {' under '.join(run.source)}" for run in runs)
        changed = len({run.source for run in runs}) < len(runs)
        remedy = "the labels have changed in between, so evaluate all on the same" if changed else "report them apart"
        raise InputError(f"report: the runs were evaluated on different data ({found}); {remedy}")


def _find_corpus(run: EvaluationRun) -> Corpus:
    """Open the labels that a run was evaluated on, wherever the report runs and whereto the run was moved.

    They lie where its configuration says, seen from here or from a folder above the run, or where labels do by default.
    A table that the configuration names by a whole path may also lie in these folders by its name.

    Raises:
        InputError: they are in none of these places, or what is there does not read or is something else.
    """
    data, split = run.config["data"], str(run.config["split"])
    if data is None or data == SAMPLE or data_source(data) != data:
        corpus = open_corpus(data, split)
        if run.digest in (None, corpus.digest):
            return corpus
        raise InputError(
            f"{run.path}: was evaluated on other labels than those of {corpus.source}{_called(run)}; set "
            "SYNTHPERT_DATA to where they are"
        )
    names = [data, Path(data).name] if is_table(data) and Path(data).is_absolute() else [data]
    places = [folder / name for name in names for folder in (Path(), *run.path.resolve().parents)]
    places += [] if is_table(data) else [data_dir()]
    found = [place for place in places if place.exists()]
    for place in found:
        if run.digest in (None, (corpus := open_corpus(place, split)).digest):
            return corpus
    if found and is_table(data):
        raise InputError(
            f"{run.path}: was evaluated on other labels than {found[0]} has now{_called(run)}; bring them back, or "
            "evaluate again with another --out"
        )
    if is_table(data):
        raise InputError(
            f"{run.path}: the labels that it was evaluated on, {data}, are neither in the working directory nor in a "
            "folder above the run; put the file there, with the table that it may name"
        )
    raise InputError(
        f"{run.path}: the labels that it was evaluated on, {data}, are neither in the working directory, nor in "
        f"a folder above the run, nor in {data_dir()}; set SYNTHPERT_DATA to their folder"
    )


def _called(run: EvaluationRun) -> str:
    """What the labels of a run are called, where its manifest says so."""
    name = (read_manifest(run.path).get("screen") or {}).get("name")
    return f" (on {name})" if name else ""


def _with_reference(
    corpus: Corpus, runs: Sequence[EvaluationRun], evidence_from: str | None, orthologs: str | None
) -> tuple[Corpus, list[str]]:
    """Return a corpus with its reference screen, and a warning where that of a run is no longer there."""
    if evidence_from is not None or orthologs is not None:
        return corpus.with_reference(open_reference(evidence_from, orthologs)), []
    for run in runs:
        if (named := run.config.get("evidence_from")) is not None:
            try:
                return corpus.with_reference(open_reference(named, run.config.get("orthologs"))), []
            except InputError as error:
                return corpus, [f"Baselines that use the reference screen of {run.name} are left out: {error}."]
    return corpus, []


def _baselines(corpus: Corpus, items: pd.DataFrame, embeddings: Path | None, task: str = "three_class") -> list[System]:
    return [
        System(name, "baseline", frame, {"fitted on": "training labels only"})
        for name, frame in predict_baselines(corpus, items, embeddings, task=task).items()
    ]


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
        f"{name}: nothing beside its adapter says which items it was trained on. Test items may be among them."
        for name in unknown
    ]


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
        prompts = stage["prompts"]  # those drawn; how many of them were asked, older runs do not say
        return [("prompts of GRPO", prompts.get("asked", prompts["items"]), n_train, "training items")]
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

    Raises:
        InputError: no test item has a label, or `out` is a file or holds a run.
    """
    _check_target(out)
    items = corpus.test
    if items.empty:
        raise InputError(f"split: {corpus.split!r} has no test row with a label to score; use {HOLDOUT_FORMS}")
    return write_report(
        _baselines(corpus, items, embeddings),
        out,
        title=f"Baselines on {corpus.screen.name}",
        protocol={"split": corpus.split, "data": corpus.digest},
        data=describe(corpus, items, command),
        strata=strata(corpus, items),
        published=published_for(corpus),
    )


def _check_target(out: Path) -> None:
    check_folder(out)
    if (out / MANIFEST).is_file():
        raise InputError(f"{out}: holds a run, whose files a report would join; choose another folder with --out")


def published_for(corpus: Corpus) -> list[dict[str, Any]]:
    """Return what others published for the corpus's split; nothing for the sample and for other screens."""
    if corpus.screen.name == K562_SETS:
        return published_figures(corpus.split, sets=True)
    return published_figures(corpus.split) if corpus.is_perturbqa else []


def items_of(predictions: Sequence[pd.DataFrame], corpus: Corpus) -> pd.DataFrame:
    """Return the corpus's rows for every item of predictions frames, in the order in which they first occur."""
    found = [pd.Series(frame["item_id"].unique()).astype("str") for frame in predictions]
    wanted = pd.Index(pd.concat(found).unique())
    at = pd.Index(corpus.labels["item_id"]).get_indexer(wanted)
    if (at < 0).any():
        raise InputError(f"{wanted[at < 0][0]}: was evaluated, but is not among the labels of {corpus.source}")
    rows: pd.DataFrame = corpus.labels.iloc[at]
    return rows


def describe(
    corpus: Corpus, items: pd.DataFrame, command: str, *, balanced: bool = False, task: str = "three_class"
) -> dict[str, Any]:
    """Return what was evaluated, for the report: denominators per line, and what a reader must know of the data.

    Args:
        corpus: the labels.
        items: those evaluated.
        command: how the report was made.
        balanced: whether the items were drawn by label.
        task: what the report is about, one of `benchmarks.evaluation.predictions.TASKS`.
    """
    return {
        "source": corpus.name,
        "split": corpus.split,
        "sha256": corpus.digest,
        "is_sample": corpus.is_sample,
        **({"gene_sets": len(corpus.screen.sets)} if corpus.screen.sets else {}),
        "rows": _rows_by_line(corpus, items),
        "notes": [*_notes_on_labels(corpus, task, balanced=balanced), *_ANSWERS_OF_BASELINES.get(task, ())],
        "command": command,
    }


def _rows_by_line(corpus: Corpus, items: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for line in corpus.lines:
        here, asked = corpus.labels[corpus.labels["cell_line"] == line], items[items["cell_line"] == line]
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
    return rows


_OTHER_SHARES: Final = (
    "The items do not have PerturbQA's label shares, with which the baselines forecast: 86 % of its items do not "
    "change. A model that was trained on balanced rows does not forecast so. So a difference between the two in "
    "accuracy, balanced accuracy or F1 says little about the full benchmark."
)


_OTHER_SHARES_OF_DIRECTION: Final = (
    "The items do not have the shares of up and down of all test rows that change. The baselines forecast with the "
    "shares of the training labels. So a difference between a model and a baseline in accuracy says little about all "
    "test rows that change."
)
_ANSWERS_OF_BASELINES: Final = {
    "dir": [
        "The models answer up or down, and so do the shortcuts: each answers the label to which it gives the higher "
        "probability, or, if both are equal, the commoner one of the training labels."
    ],
    "de": [
        "The models answer whether expression changes, and so do the shortcuts: each answers that it does if it gives "
        "up and down together at least the probability of no change."
    ],
}


def _notes_on_labels(corpus: Corpus, task: str, *, balanced: bool) -> list[str]:
    """What a reader must know of the labels: licence, rows left out, shares that differ."""
    if corpus.is_sample:
        return _notes_on_sample(corpus, task)
    screen = corpus.screen
    notes = [] if corpus.is_perturbqa else [f"Labels: {screen.name}. {screen.notice}".strip(), *screen.notes]
    if (reference := corpus.reference) is not None:
        (perts, all_perts), (genes, all_genes) = reference.known(corpus.labels).values()
        told = (
            f"{reference.screen.name}, {len(reference.labels):,} labelled rows. It knows {perts:,} of {all_perts:,} "
            f"perturbations and {genes:,} of {all_genes:,} genes of the labels. {reference.screen.notice}"
        )
        notes.append(f"Baselines for unseen genes and perturbations use a reference screen: {told.strip()}")
    notes += [f"Baselines {words}." for words in lacking_words(corpus)]
    if corpus.left_out:
        notes.append(
            f"{corpus.left_out:,} rows are left out: one of their perturbation and gene is held out, the other is not."
        )
    if balanced:
        notes.append(_other_shares(task, _OTHER_SHARES if corpus.is_perturbqa else _OTHER_SHARES_OF_TABLE))
    return notes


def _other_shares(task: str, of_three: str) -> str:
    return _OTHER_SHARES_OF_DIRECTION if task == "dir" else of_three


_OTHER_SHARES_OF_TABLE: Final = (
    "The items were drawn with each label equally often, so they do not have the table's label shares, with which the "
    "baselines forecast. A difference between a model and a baseline in accuracy, balanced accuracy or F1 says little "
    "about all test rows."
)


def _notes_on_sample(corpus: Corpus, task: str) -> list[str]:
    return [
        "The items are of the sample that ships with the package. It was chosen so that each gene has every label. So "
        "label shares, and the scores of the gene rate, differ from the full benchmark. The sample carries the gene "
        "rates and neighbours of its items, which were computed from the full training labels.",
        _other_shares(task, _OTHER_SHARES),
        "The sample does not carry what these baselines need of the full labels, so they are left out: "
        f"{', '.join(left_out(corpus))}.",
    ]
