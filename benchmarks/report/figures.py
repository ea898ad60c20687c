"""The figures of the report: which of the numbers each shows, and its text alternative."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Final

from benchmarks.report.drawing import (
    Curve,
    Figure,
    Panel,
    Row,
    Square,
    SquareFigure,
    Value,
    interval_figure,
    square_figure,
)
from benchmarks.report.summary import Compared, Score, Scores, Summary
from benchmarks.report.wording import (
    HEADLINE,
    count_of,
    format_interval,
    format_number,
    main_pairs,
    shared_items,
    shown_as,
    verdict,
)
from benchmarks.statistics.metrics import METRICS, Metric, find_metric

N_COLOURS: Final = 6
N_DASHES: Final = 4
LARGEST_MARK: Final = 9.0


def style(summary: Summary, name: str) -> str:
    """CSS classes of a system: models take the palette's colours in turn; so do baselines, if alone, else one grey."""
    models = summary.named("model")
    if name not in models and models:
        return "shortcut"
    at = list(summary.systems).index(name)
    kind = "model" if name in models else "shortcut"
    return f"{kind} m{at % N_COLOURS} d{at % N_DASHES}"


def score_figure(summary: Summary) -> Figure:
    """Headline metrics of every system over all lines."""
    panels, spoken = [], []
    for metric in map(find_metric, HEADLINE):
        scores = {name: summary.score(name, metric.name) for name in summary.systems}
        values = _score_values(summary, scores)
        panels.append(Panel(metric.long_label, _counted(scores), values, *_reference(summary, metric)))
        spoken.append(f"{metric.long_label}: {'; '.join(value.text for value in values)}.")
    title = "Scores of each system with 95 % intervals, all cell lines"
    return interval_figure("scores", title, " ".join(spoken), _rows(summary, list(summary.systems)), panels)


def part_figures(summary: Summary) -> list[tuple[str, Figure]]:
    """PerturbQA's own metrics in each line and each stratum; a heading and a figure per metric and division."""
    figures = []
    for block, noun in (("metrics", "cell line"), ("strata", "stratum")):
        scores = {name: one.metrics if block == "metrics" else one.strata for name, one in summary.systems.items()}
        parts = [part for part in next(iter(next(iter(scores.values())).values())) if part != "all"]
        for metric in [one for one in METRICS if one.official and len(parts) > 1]:
            title = f"{metric.long_label} by {noun}, with 95 % intervals"
            name = f"{metric.name.replace('_', '')}{block}"
            figures.append((title, _part_figure(summary, name, title, metric, parts, scores)))
    return figures


def _part_figure(
    summary: Summary, name: str, title: str, metric: Metric, parts: Sequence[str], scores: Mapping[str, Scores]
) -> Figure:
    """A metric of every system, a panel per line or stratum, all on one scale."""
    panels, spoken = [], []
    for part in parts:
        here = {system: one[metric.task][part][metric.name] for system, one in scores.items()}
        panels.append(Panel(part, _counted(here), _score_values(summary, here), *_reference(summary, metric)))
        said = "; ".join(f"{shown_as(summary, system)} {format_number(one.value)}" for system, one in here.items())
        spoken.append(f"{part}: {said}.")
    return interval_figure(name, title, " ".join(spoken), _rows(summary, list(scores)), panels, shared=True)


def difference_figure(summary: Summary) -> Figure | None:
    """Forest plot: paired differences of the headline metrics; None where nothing was compared."""
    if not summary.pairs:
        return None
    models = summary.named("model")
    layout: list[tuple[str, str] | str] = []
    for heading, against_model in (("Model against earlier model", True), ("Model against shortcut", False)):
        of_kind = [pair for pair in summary.pairs if (pair[1] in models) == against_model]
        layout += [heading, *of_kind] if of_kind else []
    title = "Paired differences with 95 % intervals; filled where real after Holm's adjustment"
    return _pairs_figure(summary, "differences", title, layout)


def seed_figures(summary: Summary) -> list[Figure]:
    """Scores, and differences between models, of each training run; none where every system has one run."""
    several = [name for name, one in summary.systems.items() if len(one.seeds) > 1]
    if not several:
        return []
    panels, spoken = [], []
    for metric in map(find_metric, HEADLINE):
        scores = {name: summary.score(name, metric.name) for name in several}
        values = _score_values(summary, scores, with_runs=True)
        panels.append(Panel(metric.long_label, _counted(scores), values, *_reference(summary, metric)))
        runs = [f"{name} {', '.join(map(format_number, one.per_seed))}" for name, one in scores.items()]
        spoken.append(f"{metric.long_label} of each training run: {'; '.join(runs)}.")
    title = "Scores of each training run, and their mean with its 95 % interval"
    figures = [interval_figure("seedscores", title, " ".join(spoken), _rows(summary, several), panels)]
    pairs = [pair for pair in main_pairs(summary) if len(summary.find(*pair, HEADLINE[0]).result.per_seed) > 1]
    if pairs:
        title = "Paired differences of each training run, and their mean with its 95 % interval"
        figures.append(_pairs_figure(summary, "seeddifferences", title, pairs, with_runs=True))
    return figures


def roc_figure(summary: Summary) -> SquareFigure | None:
    """Pooled ROC curves of the models and of each task's strongest shortcut; of all shortcuts if alone."""
    squares, spoken = [], []
    for task, heading in (("de", "Changed or not"), ("dir", "Up or down")):
        curves = _roc_curves(summary, task)
        if curves:
            squares.append(Square(heading, "", curves))
            spoken.append(". ".join(curve.text for curve in curves) + ".")
    if not squares:
        return None
    title = "ROC curves, all cell lines pooled"
    return square_figure(
        "roc", title, " ".join(spoken), "false positive rate", "true positive rate", squares, legend=True
    )


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
            curves.append(Curve(label, style(summary, name), points, text))
    return curves


def reliability_figure(summary: Summary) -> SquareFigure | None:
    """How often the likeliest label is right, by its probability; a panel per model, or per shortcut if alone."""
    squares, spoken = [], []
    for name in summary.named("model") or summary.named("baseline"):
        bins = [one for one in summary.systems[name].reliability if one.n]
        if not bins:
            continue
        most = max(one.n for one in bins)
        ece = format_number(summary.score(name, "ece").value)
        said = "; ".join(
            f"{format_number(one.confidence)} said, {format_number(one.accuracy)} right of {one.n:,}" for one in bins
        )
        curve = Curve(
            name,
            style(summary, name),
            [(one.confidence, one.accuracy) for one in bins],
            f"{name}: {said}",
            [2 + (LARGEST_MARK - 2) * (one.n / most) ** 0.5 for one in bins],
        )
        squares.append(Square(name, f"ECE {ece}; {count_of(sum(one.n for one in bins), 'forecast')}", [curve]))
        spoken.append(f"{name}, ECE {ece}: {said}.")
    if not squares:
        return None
    title = "Reliability: how often the likeliest label is right, by the probability given to it"
    return square_figure(
        "reliability", title, " ".join(spoken), "probability of the likeliest label", "share right", squares
    )


def _pairs_figure(
    summary: Summary, name: str, title: str, layout: Sequence[tuple[str, str] | str], *, with_runs: bool = False
) -> Figure:
    """Differences of the headline metrics; `layout` holds pairs of systems and headings between them."""
    rows = [
        Row(entry) if isinstance(entry, str) else Row(_pair_label(summary, *entry), style(summary, entry[0]))
        for entry in layout
    ]
    panels, spoken = [], []
    for metric in map(find_metric, HEADLINE):
        found = [None if isinstance(entry, str) else summary.find(*entry, metric.name) for entry in layout]
        values = [None if one is None else _difference(one, with_runs=with_runs) for one in found]
        spoken += [f"{metric.long_label}, {value.text}." for value in values if value is not None]
        tested = {one.result.n_items for one in found if one is not None and not isnan(one.result.difference)}
        panels.append(Panel(metric.long_label, _items(tested), values, 0.0, "no difference"))
    return interval_figure(name, title, " ".join(spoken), rows, panels, signed=True)


def _difference(one: Compared, *, with_runs: bool) -> Value:
    result = one.result
    text = (
        f"{one.a} minus {one.b}: {format_number(result.difference, signed=True)} "
        f"({format_interval(result.low, result.high, signed=True)}), {verdict(result)}"
    )
    # From few items an interval goes beyond what a difference can be; drawn so, it would squeeze the others.
    low, high = (min(max(bound, -1.0), 1.0) for bound in (result.low, result.high))
    runs = result.per_seed if with_runs and len(result.per_seed) > 1 else ()
    return Value(result.difference, low, high, verdict(result) in ("higher", "lower"), text, runs)


def _pair_label(summary: Summary, a: str, b: str) -> str:
    shared = shared_items(summary, a, b)
    return f"{a} vs {b} ({shared})" if shared else f"{a} vs {b}"


def _rows(summary: Summary, names: Sequence[str]) -> list[Row]:
    return [Row(shown_as(summary, name), style(summary, name)) for name in names]


def _score_values(summary: Summary, scores: Mapping[str, Score], *, with_runs: bool = False) -> list[Value]:
    return [
        Value(
            one.value,
            one.low,
            one.high,
            summary.systems[name].kind == "model",
            f"{shown_as(summary, name)}: {format_number(one.value)} ({format_interval(one.low, one.high)})",
            one.per_seed if with_runs else (),
        )
        for name, one in scores.items()
    ]


def _reference(summary: Summary, metric: Metric) -> tuple[float, str]:
    """What no knowledge scores on a metric, and its name; the worst value where that is not known."""
    if metric.chance is None:
        return metric.range[0 if metric.higher_is_better else 1], ""
    value, name = metric.chance
    total = summary.total
    return value({label: count / total.items for label, count in total.labels.items()}), name


def _counted(scores: Mapping[str, Score]) -> str:
    return _items({one.n for one in scores.values() if not isnan(one.value)})


def _items(counts: set[int]) -> str:
    """How many items there are, or from how many to how many."""
    low, high = (min(counts), max(counts)) if counts else (0, 0)
    return count_of(low, "item") if low == high else f"{low:,} to {count_of(high, 'item')}"
