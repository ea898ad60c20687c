"""The funnel: how many items were drawn, answered, answered right, accepted by the critic and used, and of how many."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.runs import file_sha256
from benchmarks.screens.schema import CELL_LINES
from benchmarks.statistics.arrays import prediction_arrays
from rewards import LABELS, InputError, Status
from sft.filters.run import filter_file
from sft.teacher.critic import VERDICTS
from sft.teacher.outcomes import manifest_file, read_manifest
from sft.traces import Trace, iter_traces

STAGES: Final = ("drawn", "answered", "correct", "accepted", "used")


@dataclass(frozen=True)
class Funnel:
    """What became of the items.

    Attributes:
        table: one row per line and label, per line, per label, and for all: `cell_line`, `label`, `train` (items in
            the training split), the counts of `STAGES`, and each as a share of `train` (`drawn_share`, …). A stage
            that does not apply (no critic, no file of used traces) is missing.
        accuracy: of the teacher in blind mode, per line and for all: `value, low, high, n`, with 95 % intervals
            clustered by perturbation and gene; empty where the teacher was given the label.
        statuses: of all items drawn.
        notes: what a reader must know.
    """

    table: pd.DataFrame
    accuracy: dict[str, dict[str, Any]]
    statuses: dict[str, int]
    notes: list[str]


def measure_funnel(
    path: Path, corpus: Corpus, used: Path | None = None, accept: Sequence[str] = ("excellent", "good")
) -> Funnel:
    """Measure the funnel of a file of traces.

    Args:
        path: traces as generated or imported; what stands beside them tells how many items were drawn.
        corpus: the labels and split they were drawn from.
        used: the filtered traces that training takes.
        accept: critic's verdicts that count as accepted.

    Raises:
        InputError: a file is no trace file, an item is not in the training split, a used one is not among the traces,
            or there is no such verdict.
    """
    if unknown := sorted({*accept} - {*VERDICTS}):
        raise InputError(f"accept: {unknown[0]!r} is no verdict; use some of {', '.join(VERDICTS)}")
    manifest = read_manifest(path)
    notes = [f"Shares are of the {len(corpus.train):,} training items of split {corpus.split}."]
    if manifest is not None and manifest.get("traces_sha256") != file_sha256(path):
        notes.append(f"{manifest_file(path).name} was written for other traces than these, and is left aside.")
        manifest = None
    train = corpus.train[["cell_line", "label"]].astype("str")
    counts: dict[str, Counter[tuple[str, str]]] = {name: Counter() for name in ("train", *STAGES)}
    counts["train"].update(zip(train["cell_line"], train["label"], strict=True))
    statuses: Counter[str] = Counter()
    modes: set[str] = set()
    rows: list[tuple[str, str, str, str, str, str | None, str]] = []
    items: set[str] = set()
    graded = False
    trained_on = set(corpus.train["item_id"].astype("str"))
    for trace, answer, _ in iter_traces(path):
        if trace.item_id not in trained_on:
            raise InputError(f"{path}: {trace.item_id} is no training item under split {corpus.split}; audit the file")
        cell = (trace.cell_line, trace.label)
        modes.add(trace.mode)
        rows.append(_prediction(trace, str(answer.status)))
        items.add(trace.item_id)
        statuses[str(answer.status)] += 1
        counts["drawn"][cell] += 1
        counts["answered"][cell] += answer.label is not None
        counts["correct"][cell] += answer.label == trace.label
        graded |= trace.critic is not None
        counts["accepted"][cell] += (
            answer.label == trace.label and trace.critic is not None and trace.critic.get("verdict") in accept
        )
    if corpus.is_sample:
        notes.append("The labels are the sample's, whose training items are a part of PerturbQA's.")
    if manifest is not None:
        counts["drawn"] = _drawn(manifest)
        failed = sum(cell.get("error", 0) for cell in manifest["cells"].values())
        waiting = sum(cell.get("not asked", 0) for cell in manifest["cells"].values())
        statuses[str(Status.ERROR)] = failed
        if failed or waiting:
            notes.append(f"{failed} requests failed and {waiting} items were not asked; neither is a wrong answer.")
        notes += _critic_notes(manifest)
        if refused := sum(manifest.get("refused", {}).values()):
            statuses["refused"] = refused
            notes.append(
                f"{refused:,} of {manifest['rows']:,} imported rows were refused; teacher accuracy is over the "
                "accepted ones only."
            )
    else:
        notes.append("Nothing beside the file tells how many items were drawn: its rows count as drawn.")
    if not graded:
        del counts["accepted"]
        notes.append("No critic graded these traces.")
    if used is not None:
        for trace, _, _ in iter_traces(used):
            if trace.item_id not in items:
                raise InputError(f"{used}: {trace.item_id} is not in {path}; give the file that it was filtered from")
            counts["used"][trace.cell_line, trace.label] += 1
    else:
        del counts["used"]
    accuracy = {}
    if (filtered := filter_file(path)).is_file():
        notes.append(
            f"These traces were filtered ({filtered.name}): what is left says nothing of the teacher's accuracy. Give "
            "the file they were filtered from, and this one as --used."
        )
    elif modes == {"blind"}:
        accuracy = _accuracy(rows)
        notes.append(
            "Teacher accuracy is over the items as drawn, which may be balanced, and leaves out failed requests."
        )
    else:
        notes.append("The teacher was given labels: its accuracy would say nothing.")
    return Funnel(_table(counts), accuracy, dict(statuses), notes)


def _drawn(manifest: dict[str, Any]) -> Counter[tuple[str, str]]:
    drawn: Counter[tuple[str, str]] = Counter()
    for key, cell in manifest["cells"].items():
        line, _, label = key.partition("|")
        drawn[line, label] += cell["drawn"]
    return drawn


def _critic_notes(manifest: dict[str, Any]) -> list[str]:
    critic = manifest["critic"]
    notes = []
    if failed := sum(manifest["critic_errors"].values()):
        notes.append(f"{failed} of {critic['asked']} requests to critics failed.")
    if critic.get("no verdict"):
        notes.append(f"{critic['no verdict']} of {critic['asked']} replies of critics hold no verdict.")
    if several := critic.get("graded by several"):
        split = critic["of these not unanimous"]
        notes.append(f"Critics disagreed on {split} of {several} traces that several graded ({split / several:.1%}).")
    return notes


def _prediction(trace: Trace, status: str) -> tuple[str, str, str, str, str, str | None, str]:
    return (trace.item_id, trace.cell_line, trace.pert, trace.gene, trace.label, trace.answer, status)


def _accuracy(rows: list[tuple[str, str, str, str, str, str | None, str]]) -> dict[str, dict[str, Any]]:
    from benchmarks.statistics.metrics import estimate
    from benchmarks.statistics.significance import confidence_interval

    columns = ["item_id", "cell_line", "pert", "gene", "label", "answer", "status"]
    runs = prediction_arrays(pd.DataFrame(rows, columns=columns), "traces")
    found: dict[str, dict[str, Any]] = {}
    lines = [line for line in CELL_LINES if (runs.line == line).any()]
    for name in ("all", *lines):
        use = None if name == "all" else runs.line == name
        one = estimate(runs, "three_class", "accuracy", use)
        interval = confidence_interval(runs, one, "accuracy")
        found[name] = {"value": one.value, "low": interval.low, "high": interval.high, "n": len(one.rows)}
        if interval.reason:
            found[name]["reason"] = interval.reason
    return found


def _table(counts: dict[str, Counter[tuple[str, str]]]) -> pd.DataFrame:
    lines = [line for line in CELL_LINES if any(cell[0] == line for cell in counts["train"])]
    labels = [str(label) for label in LABELS]
    cells = [(line, label) for line in lines for label in [*labels, "all"]]
    cells += [("all", label) for label in [*labels, "all"]]
    rows = []
    for line, label in cells:
        row: dict[str, Any] = {"cell_line": line, "label": label}
        for name, counter in counts.items():
            row[name] = sum(n for (at, of), n in counter.items() if line in (at, "all") and label in (of, "all"))
        for name in STAGES:
            if name in counts:
                row[f"{name}_share"] = row[name] / row["train"] if row["train"] else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def format_funnel(funnel: Funnel) -> str:
    """Return the funnel as text for a terminal."""
    stages = [name for name in STAGES if name in funnel.table]
    shown = funnel.table[["cell_line", "label", "train"]].copy()
    for name in stages:
        shown[name] = [
            f"{count:,} ({share:.1%})" if share == share else f"{count:,}"
            for count, share in zip(funnel.table[name], funnel.table[f"{name}_share"], strict=True)
        ]
    lines = [shown.to_string(index=False)]
    lines.append("status: " + ", ".join(f"{name} {count:,}" for name, count in sorted(funnel.statuses.items())))
    for name, one in funnel.accuracy.items():
        interval = one.get("reason") or f"95 % {one['low']:.3f} to {one['high']:.3f}"
        lines.append(f"teacher accuracy, {name}: {one['value']:.3f} ({interval}), {one['n']:,} items")
    return "\n".join([*lines, *funnel.notes])
