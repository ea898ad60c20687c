"""The funnel: how many items were drawn, answered, answered right, accepted by the critic and used for training."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.evidence.corpus import Corpus
from benchmarks.files import file_sha256
from benchmarks.statistics.arrays import prediction_arrays
from rewards import LABELS, InputError, Status
from sft.filters.run import filter_file
from sft.teacher.critic import VERDICTS
from sft.teacher.outcomes import manifest_file, read_manifest
from sft.traces import iter_traces

STAGES: Final = ("drawn", "answered", "correct", "accepted", "used")
_Row = tuple[str, str, str, str, str, str | None, str]


@dataclass(frozen=True)
class Funnel:
    """What became of the items.

    Attributes:
        table: one row per line and label, per line, per label, and for all. Columns: `cell_line`, `label`, `train`
            (items in the training split), the counts of `STAGES`, and each count as a share of `train` (`drawn_share`,
            …). A stage that does not apply (no critic, no file of used traces) is missing.
        accuracy: a blind teacher's, per line and for all: `value, low, high, n`, with 95 % intervals clustered by
            perturbation and gene. Empty where the teacher was given the label.
        statuses: number of items drawn, by status.
        notes: sentences that a reader needs to read the numbers right.
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
        path: traces as generated or imported. The manifest beside them tells how many items were drawn.
        corpus: the labels and the split that they were drawn from.
        used: the filtered traces that training takes.
        accept: the critic's verdicts that count as accepted.

    Raises:
        InputError: a file is no trace file, an item is not in the training split, a used item is not among the traces,
            or a verdict is unknown.
    """
    if unknown := sorted({*accept} - {*VERDICTS}):
        raise InputError(f"accept: {unknown[0]!r} is no verdict; use some of {', '.join(VERDICTS)}")
    notes = [f"Shares are of the {len(corpus.train):,} training items of split {corpus.split}."]
    manifest = _manifest_of(path, notes)
    counted = _count(path, corpus, accept)
    if corpus.is_sample:
        notes.append("The labels are the sample's; its training items are a part of PerturbQA's.")
    if manifest is None:
        notes.append("No manifest tells how many items were drawn, so the rows of the file count as drawn.")
    else:
        notes += _add_manifest(manifest, counted)
    if not counted.graded:
        del counted.cells["accepted"]
        notes.append("No critic graded these traces.")
    if used is not None:
        counted.cells["used"] = _count_used(used, path, {row[0] for row in counted.rows})
    accuracy = _teacher_accuracy(path, counted, corpus.lines, notes)
    return Funnel(_table(counted.cells, corpus.lines), accuracy, dict(counted.statuses), notes)


@dataclass
class _Counted:
    """What a file of traces holds.

    Attributes:
        cells: by stage, the number of items of each line and label. `train` counts the training split.
        statuses: number of completions by status.
        modes: the modes of the traces.
        graded: whether a critic graded any trace.
        rows: for each trace `item_id, cell_line, pert, gene, label, answer, status`.
    """

    cells: dict[str, Counter[tuple[str, str]]]
    statuses: Counter[str]
    modes: set[str]
    graded: bool
    rows: list[_Row]


def _manifest_of(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """Return the manifest beside a file of traces, None where there is none or it belongs to other traces."""
    manifest = read_manifest(path)
    if manifest is not None and manifest.get("traces_sha256") != file_sha256(path):
        notes.append(f"{manifest_file(path).name} was written for other traces than these, so it is ignored.")
        return None
    return manifest


def _count(path: Path, corpus: Corpus, accept: Sequence[str]) -> _Counted:
    """Count the traces of a file. Each must be of a training item."""
    train = corpus.train[["cell_line", "label"]].astype("str")
    counted = _Counted({name: Counter() for name in ("train", *STAGES[:-1])}, Counter(), set(), False, [])
    counted.cells["train"].update(zip(train["cell_line"], train["label"], strict=True))
    trained_on = set(corpus.train["item_id"].astype("str"))
    for trace, answer, _ in iter_traces(path):
        if trace.item_id not in trained_on:
            raise InputError(f"{path}: {trace.item_id} is no training item under split {corpus.split}; audit the file")
        cell, right = (trace.cell_line, trace.label), answer.label == trace.label
        status = str(answer.status)
        counted.rows.append((trace.item_id, trace.cell_line, trace.pert, trace.gene, trace.label, trace.answer, status))
        counted.modes.add(trace.mode)
        counted.statuses[status] += 1
        counted.graded |= trace.critic is not None
        counted.cells["drawn"][cell] += 1
        counted.cells["answered"][cell] += answer.label is not None
        counted.cells["correct"][cell] += right
        accepted = trace.critic is not None and trace.critic.get("verdict") in accept
        counted.cells["accepted"][cell] += right and accepted
    return counted


def _count_used(used: Path, path: Path, items: set[str]) -> Counter[tuple[str, str]]:
    """Count the traces that training takes. Each must be in `path`, too."""
    cells: Counter[tuple[str, str]] = Counter()
    for trace, _, _ in iter_traces(used):
        if trace.item_id not in items:
            raise InputError(f"{used}: {trace.item_id} is not in {path}; give the file that it was filtered from")
        cells[trace.cell_line, trace.label] += 1
    return cells


def _add_manifest(manifest: dict[str, Any], counted: _Counted) -> list[str]:
    """Add a manifest's counts of items that have no trace (failed, not asked, refused), and return notes on them."""
    notes = []
    counted.cells["drawn"] = _drawn(manifest)
    failed = sum(cell.get("error", 0) for cell in manifest["cells"].values())
    waiting = sum(cell.get("not asked", 0) for cell in manifest["cells"].values())
    counted.statuses[str(Status.ERROR)] = failed
    if failed or waiting:
        notes.append(f"{failed} requests failed and {waiting} items were not asked; neither is a wrong answer.")
    notes += _critic_notes(manifest)
    if refused := sum(manifest.get("refused", {}).values()):
        counted.statuses["refused"] = refused
        notes.append(
            f"{refused:,} of {manifest['rows']:,} imported rows were refused; teacher accuracy is over the "
            "accepted ones only."
        )
    return notes


def _teacher_accuracy(
    path: Path, counted: _Counted, lines: Sequence[str], notes: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the teacher's accuracy, and add a note. It is empty where the traces do not show it."""
    if (filtered := filter_file(path)).is_file():
        notes.append(
            f"These traces were filtered ({filtered.name}), so they do not show the teacher's accuracy. Give the file "
            "that they were filtered from, and this one as --used."
        )
        return {}
    if counted.modes != {"blind"}:
        notes.append("The teacher was given labels, so its accuracy is not shown.")
        return {}
    notes.append("Teacher accuracy is over the items drawn, which may be balanced. It leaves out failed requests.")
    return _accuracy(counted.rows, lines)


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


def _accuracy(rows: list[_Row], lines: Sequence[str]) -> dict[str, dict[str, Any]]:
    from benchmarks.statistics.metrics import estimate
    from benchmarks.statistics.significance import confidence_interval

    columns = ["item_id", "cell_line", "pert", "gene", "label", "answer", "status"]
    runs = prediction_arrays(pd.DataFrame(rows, columns=columns), "traces")
    found: dict[str, dict[str, Any]] = {}
    for name in ("all", *(line for line in lines if (runs.line == line).any())):
        use = None if name == "all" else runs.line == name
        one = estimate(runs, "three_class", "accuracy", use)
        interval = confidence_interval(runs, one, "accuracy")
        found[name] = {"value": one.value, "low": interval.low, "high": interval.high, "n": len(one.rows)}
        if interval.reason:
            found[name]["reason"] = interval.reason
    return found


def _table(counts: dict[str, Counter[tuple[str, str]]], lines: Sequence[str]) -> pd.DataFrame:
    lines = [line for line in lines if any(cell[0] == line for cell in counts["train"])]
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
