"""The figures of the report: which of the numbers each shows, and its text alternative."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Any, Final

from benchmarks.report.charts.drawing import COLOURS, DASHES
from benchmarks.report.charts.panels import Bars, Curve, Curves, Intervals, Panel, Row, bounds
from benchmarks.report.charts.training import DRAWN, Drawn
from benchmarks.report.summary import Compared, Score, Summary
from benchmarks.report.wording import (
    count_of,
    first_pairs,
    format_interval,
    format_number,
    format_share,
    main_pairs,
    shared_items,
    shown_as,
    verdict,
)
from benchmarks.statistics.metrics import METRICS, Metric, find_metric

N_COLOURS: Final = sum(name[0] == "m" and name[1:].isdigit() for name in COLOURS)
LARGEST_MARK: Final = 9.0
FEW_STEPS: Final = 40  # of a log, to mark each

STATUS_COLOURS: Final = {"answered": "m0", "malformed": "malformed", "incomplete": "incomplete", "error": "m5"}


@dataclass(frozen=True)
class Figure:
    """Panels beside each other; `title` says what all of them show."""

    title: str
    panels: Sequence[Panel]


def style(summary: Summary, name: str) -> str:
    """CSS classes of a system: its kind and its colour."""
    kind = "model" if name in summary.named("model") else "shortcut"
    colour = _colour(summary, name)
    return kind if colour == kind else f"{kind} {colour}"


def _colour(summary: Summary, name: str) -> str:
    """Models take the palette's colours in turn; so do baselines, if alone, else one grey."""
    models = summary.named("model")
    return "shortcut" if models and name not in models else f"m{list(summary.systems).index(name) % N_COLOURS}"


def score_figure(summary: Summary) -> Figure:
    """Headline metrics of every system over all lines."""
    panels = [
        _scores(summary, "scores", metric.long_label, metric, _of_all(summary, metric, summary.systems))
        for metric in map(find_metric, summary.headline)
    ]
    return Figure("Scores of each system with 95 % intervals, all cell lines", panels)


def part_figures(summary: Summary) -> list[Figure]:
    """PerturbQA's own metrics in each line and each stratum: a figure per metric and division, on one scale."""
    figures = []
    for block, noun in (("metrics", "cell line"), ("strata", "stratum")):
        scores = {name: one.metrics if block == "metrics" else one.strata for name, one in summary.systems.items()}
        parts = [part for part in next(iter(next(iter(scores.values())).values())) if part != "all"]
        for metric in [one for one in METRICS if one.official and one.task in summary.tasks and len(parts) > 1]:
            panels = []
            for at, part in enumerate(parts):
                here = {system: one[metric.task][part][metric.name] for system, one in scores.items()}
                panels.append(_scores(summary, f"{block}{at}", part, metric, here))
            title = f"{metric.long_label} by {noun}, with 95 % intervals"
            figures.append(Figure(title, [replace(panel, bounds=bounds(panels)) for panel in panels]))
    return figures


def main_figure(summary: Summary) -> Figure | None:
    """The differences that a reader asks for first (`first_pairs`); None where nothing was compared."""
    if not summary.pairs:
        return None
    panels: list[Panel] = [
        _differences(summary, "main", metric, first_pairs(summary, metric.name))
        for metric in map(find_metric, summary.headline)
    ]
    return Figure("Paired differences with 95 % intervals", panels)


def difference_figure(summary: Summary) -> Figure | None:
    """Every paired difference of the headline metrics; None where nothing was compared."""
    if not summary.pairs:
        return None
    models = summary.named("model")
    layout: list[tuple[str, str] | str] = []
    for heading, against_model in (("Model against earlier model", True), ("Model against shortcut", False)):
        of_kind = [pair for pair in summary.pairs if (pair[1] in models) == against_model]
        layout += [heading, *of_kind] if of_kind else []
    panels = [_differences(summary, "differences", metric, layout) for metric in map(find_metric, summary.headline)]
    return Figure("All paired differences with 95 % intervals", panels)


def seed_figures(summary: Summary) -> list[Figure]:
    """Scores, and differences between models, of each training run; none where every system has one run."""
    several = [name for name, one in summary.systems.items() if len(one.seeds) > 1]
    if not several:
        return []
    metrics = [find_metric(name) for name in summary.headline]
    panels = [
        _scores(summary, "seedscores", metric.long_label, metric, _of_all(summary, metric, several), with_runs=True)
        for metric in metrics
    ]
    figures = [Figure("Scores of each training run, and their mean with its 95 % interval", panels)]
    pairs = [pair for pair in main_pairs(summary) if len(summary.find(*pair, summary.primary).result.per_seed) > 1]
    if pairs:
        panels = [_differences(summary, "seeddifferences", metric, pairs, with_runs=True) for metric in metrics]
        title = "Paired differences of each training run, and their mean with its 95 % interval"
        figures.append(Figure(title, panels))
    return figures


def training_figures(summary: Summary) -> list[Figure]:
    """What training logged over its steps: the loss, or reward, accuracy and what may go wrong.

    Runs that differ in nothing but the seed share a figure.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for stage in (one for one in summary.stages if one.get("log")):
        groups.setdefault((stage["stage"], stage.get("alike") or stage["run"]), []).append(stage)
    figures = []
    for number, ((kind, _), stages) in enumerate(groups.items()):
        logs = [stage["log"] for stage in stages]
        named = ", ".join("/".join(Path(str(stage["run"])).parts[-3:]) for stage in stages)
        found = [
            _over_steps(f"training{number}-{at}", drawn, logs, f"{kind.upper()} {named}")
            for at, drawn in enumerate(DRAWN[kind])
        ]
        steps = f"{count_of(len(logs[0]), 'logged step')}, the last is step {logs[0][-1]['step']:,}"
        runs = f"run {named}" if len(stages) == 1 else f"runs {named}, their mean and a band from lowest to highest"
        figures.append(Figure(f"{kind.upper()} {runs}: {steps}", [panel for panel in found if panel is not None]))
    return figures


def _over_steps(name: str, drawn: Drawn, logs: Sequence[Sequence[Mapping[str, float]]], of: str) -> Curves | None:
    """Draw numbers of the logs of runs that are alike, `of` in words; None where none of the numbers is logged."""
    curves = []
    for at, (key, label) in enumerate(drawn.lines.items()):
        by_step: dict[float, list[Mapping[str, float]]] = {}
        for row in (row for log in logs for row in log if key in row):
            by_step.setdefault(row["step"], []).append(row)
        rows = {step: found for step, found in sorted(by_step.items()) if len(found) == len(logs)}
        if not rows:
            continue
        values = {step: [row[key] for row in found] for step, found in rows.items()}
        means = {step: sum(found) / len(found) for step, found in values.items()}
        band = [(min(found), max(found)) for found in values.values()]
        if len(logs) == 1:
            spread = [found[0].get(drawn.spread, 0.0) for found in rows.values()] if drawn.spread else []
            band = [(mean - by, mean + by) for mean, by in zip(means.values(), spread, strict=False)]  # none: no band
        first, last = min(means), max(means)
        said = (
            f"{drawn.title}{f', {label}' if label else ''}, {of}: {format_number(means[first])} at step {first:,}, "
            f"{format_number(means[last])} at step {last:,}; lowest {format_number(min(means.values()))}, highest "
            f"{format_number(max(means.values()))}."
        )
        sizes = [2.5] * len(means) if len(means) <= FEW_STEPS else ()
        curves.append(Curve(label, f"m{at}", list(means.items()), said, dash=at, sizes=sizes, band=band))
    if not curves:
        return None
    return Curves(name, drawn.title, "", " ".join(c.text for c in curves), curves, "step", share=drawn.share)


def roc_figure(summary: Summary) -> Figure | None:
    """Pooled ROC curves of the models and of each task's strongest shortcut; of all shortcuts if alone."""
    panels = []
    for task, heading in (("de", "Changed or not"), ("dir", "Up or down")):
        if task in summary.tasks and (curves := _roc_curves(summary, task)):
            said = ". ".join(curve.text for curve in curves) + "."
            axes = ("false positive rate", "true positive rate")
            panels.append(Curves(f"roc-{task}", heading, "", said, curves, *axes, square=True))
    return Figure("ROC curves, all cell lines pooled", panels) if panels else None


def _roc_curves(summary: Summary, task: str) -> list[Curve]:
    """The curves of one task, of the systems that have one."""
    metric = find_metric(f"{task}_auroc")
    shown = summary.named("model") or summary.named("baseline")
    strongest = summary.best(metric.name, "baseline")
    if strongest is not None and strongest[0] not in shown:
        shown = [*shown, strongest[0]]
    curves = []
    for name in shown:
        points = summary.systems[name].roc[task]
        if points:
            label = shown_as(summary, name)
            text = f"{label}: {metric.long_label} {format_number(summary.score(name, metric.name).value)}"
            colour = _colour(summary, name)
            dash = 0 if colour == "shortcut" else list(summary.systems).index(name) % len(DASHES)
            curves.append(Curve(label, colour, points, text, dash))
    return curves


def reliability_figure(summary: Summary) -> Figure | None:
    """How often the likeliest label is right, by its probability; a panel per model, or per shortcut if alone."""
    panels: list[Panel] = []
    for name in summary.named("model") or summary.named("baseline"):
        bins = [one for one in summary.systems[name].reliability if one.n]
        if not bins:
            continue
        most = max(one.n for one in bins)
        ece = format_number(summary.score(name, "ece").value)
        said = "; ".join(
            f"{format_number(one.confidence)} said, {format_number(one.accuracy)} right of {one.n:,}" for one in bins
        )
        points = [(one.confidence, one.accuracy) for one in bins]
        sizes = [2 + (LARGEST_MARK - 2) * (one.n / most) ** 0.5 for one in bins]
        curve = Curve("", _colour(summary, name), points, f"{name}: {said}", sizes=sizes)
        note = f"ECE {ece}; {count_of(sum(one.n for one in bins), 'forecast')}"
        axes = ("probability of the likeliest label", "share right")
        panels.append(
            Curves(f"reliability-{len(panels)}", name, note, f"{name}, ECE {ece}: {said}.", [curve], *axes, square=True)
        )
    title = "Reliability: how often the likeliest label is right, by the probability given to it"
    return Figure(title, panels) if panels else None


def status_figure(summary: Summary) -> Figure:
    """What became of the completions of each model; of each shortcut, if alone."""
    rows, spoken = [], []
    for name in summary.named("model") or summary.named("baseline"):
        one = summary.systems[name]
        shown = shown_as(summary, name)
        parts = [
            (status, share, f"{shown}, {status}: {one.status_counts[status]:,} of {one.n_rows:,}")
            for status, share in one.status.items()
            if share > 0
        ]
        rows.append((shown, f"{format_share(one.status['answered'])} answered", parts))
        spoken.append(f"{shown}: {', '.join(f'{status} {format_share(share)}' for status, share, _ in parts)}.")
    title = "Completions by status"
    return Figure(title, [Bars("status", title, "", " ".join(spoken), rows, STATUS_COLOURS)])


def _scores(
    summary: Summary, name: str, title: str, metric: Metric, scores: Mapping[str, Score], *, with_runs: bool = False
) -> Intervals:
    """A metric of some systems."""
    rows = [
        Row(
            shown_as(summary, system),
            colour=_colour(summary, system),
            value=one.value,
            low=one.low,
            high=one.high,
            diamond=summary.systems[system].kind != "model",
            solid=summary.systems[system].kind == "model",
            text=f"{shown_as(summary, system)}: {format_number(one.value)} ({format_interval(one.low, one.high)})",
            points=one.per_seed if with_runs else (),
        )
        for system, one in scores.items()
    ]
    said = "; ".join(row.text for row in rows)
    if with_runs:
        said += f". Training runs: {_runs((system, one.per_seed) for system, one in scores.items())}"
    counted = _items({one.n for one in scores.values() if not isnan(one.value)})
    name = f"{name}-{metric.name.replace('_', '-')}"
    return Intervals(name, title, counted, f"{metric.long_label}: {said}.", rows, *_reference(summary, metric))


def _differences(
    summary: Summary,
    name: str,
    metric: Metric,
    layout: Sequence[tuple[str, str] | str],
    *,
    with_runs: bool = False,
) -> Intervals:
    """Differences on a metric; `layout` holds pairs of systems and headings between them."""
    rows, tested, runs = [], set(), []
    for entry in layout:
        if isinstance(entry, str):
            rows.append(Row(entry))
            continue
        one = summary.find(*entry, metric.name)
        rows.append(_difference(summary, one, with_runs=with_runs))
        if not isnan(one.result.difference):
            tested.add(one.result.n_items)
        runs.append((f"{one.a} minus {one.b}", one.result.per_seed))
    said = f"{metric.long_label}: {'; '.join(row.text for row in rows if row.text)}."
    if with_runs:
        said += f" Training runs: {_runs(runs)}."
    name = f"{name}-{metric.name.replace('_', '-')}"
    return Intervals(name, metric.long_label, _items(tested), said, rows, 0.0, "no difference", signed=True)


def _difference(summary: Summary, one: Compared, *, with_runs: bool) -> Row:
    result = one.result
    shared = shared_items(summary, one.a, one.b).replace(" items", "").replace(" item", "")
    # From few items an interval goes beyond what a difference can be; drawn so, it would squeeze the others.
    low, high = (min(max(bound, -1.0), 1.0) for bound in (result.low, result.high))
    return Row(
        one.a,
        f"vs {one.b}{f' ({shared})' if shared else ''}",
        _colour(summary, one.a),
        result.difference,
        low,
        high,
        diamond=summary.systems[one.b].kind != "model",
        solid=verdict(result) in ("higher", "lower"),
        text=f"{one.a} minus {one.b}: {format_number(result.difference, signed=True)} "
        f"({format_interval(result.low, result.high, signed=True)}), {verdict(result)}",
        points=result.per_seed if with_runs and len(result.per_seed) > 1 else (),
        unknown="not tested",
    )


def _runs(values: Iterable[tuple[str, Sequence[float]]]) -> str:
    return "; ".join(f"{name} {', '.join(map(format_number, each))}" for name, each in values)


def _of_all(summary: Summary, metric: Metric, names: Iterable[str]) -> dict[str, Score]:
    return {name: summary.score(name, metric.name) for name in names}


def _reference(summary: Summary, metric: Metric) -> tuple[float, str]:
    """What no knowledge scores on a metric, and its name; the worst value where that is not known."""
    if metric.chance is None:
        return metric.range[0 if metric.higher_is_better else 1], ""
    value, name = metric.chance
    total = summary.total
    return value({label: count / total.items for label, count in total.labels.items()}), name


def _items(counts: set[int]) -> str:
    """How many items there are, or from how many to how many."""
    low, high = (min(counts), max(counts)) if counts else (0, 0)
    return count_of(low, "item") if low == high else f"{low:,} to {count_of(high, 'item')}"
