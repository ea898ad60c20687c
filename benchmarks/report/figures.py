"""The figures of the report: which of the numbers each shows, and its text alternative."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

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
from benchmarks.report.wording import (
    HEADLINE,
    best,
    count_of,
    find,
    format_interval,
    format_number,
    main_pairs,
    named,
    shared_items,
    shown_as,
    verdict,
)
from benchmarks.statistics.metrics import METRICS, find_metric
from rewards import LABELS

N_COLOURS: Final = 6
N_DASHES: Final = 4
LARGEST_MARK: Final = 9.0


def style(summary: Mapping[str, Any], name: str) -> str:
    """CSS classes of a system: models take the palette's colours in turn; so do baselines, if alone, else one grey."""
    models = named(summary, "model")
    if name not in models and models:
        return "shortcut"
    at = list(summary["systems"]).index(name)
    kind = "model" if name in models else "shortcut"
    return f"{kind} m{at % N_COLOURS} d{at % N_DASHES}"


def score_figure(summary: Mapping[str, Any]) -> Figure:
    """Headline metrics of every system over all lines."""
    panels, spoken = [], []
    for metric in HEADLINE:
        cells = {
            name: one["metrics"][find_metric(metric).task]["all"][metric] for name, one in summary["systems"].items()
        }
        values = _score_values(summary, cells)
        panels.append(
            Panel(find_metric(metric).long_label, _counted(cells.values()), values, *_reference(summary, metric))
        )
        spoken.append(f"{find_metric(metric).long_label}: {'; '.join(value.text for value in values)}.")
    title = "Scores of each system with 95 % intervals, all cell lines"
    return interval_figure("scores", title, " ".join(spoken), _rows(summary), panels)


def part_figures(summary: Mapping[str, Any]) -> list[tuple[str, Figure]]:
    """Per-gene AUROC of every system in each line and each stratum; a heading and a figure per task and division."""
    figures = []
    lines = [row["cell_line"] for row in summary["evaluated"][:-1]]
    for block, parts, noun in (("metrics", lines, "cell line"), ("strata", None, "stratum")):
        for metric in [one.name for one in METRICS if one.official]:
            by_system = {name: one[block][find_metric(metric).task] for name, one in summary["systems"].items()}
            shown = list(next(iter(by_system.values()))) if parts is None else parts
            if len(shown) < 2:
                continue
            panels, spoken = [], []
            for part in shown:
                cells = {name: by_part[part][metric] for name, by_part in by_system.items()}
                values = _score_values(summary, cells)
                panels.append(Panel(part, _counted(cells.values()), values, 0.5, "chance"))
                said = "; ".join(
                    f"{shown_as(summary, name)} {format_number(cell['value'])}" for name, cell in cells.items()
                )
                spoken.append(f"{part}: {said}.")
            title = f"{find_metric(metric).long_label} by {noun}, with 95 % intervals"
            name = f"{metric.replace('_', '')}{block}"
            figures.append((title, interval_figure(name, title, " ".join(spoken), _rows(summary), panels, shared=True)))
    return figures


def difference_figure(summary: Mapping[str, Any]) -> Figure | None:
    """Forest plot: paired differences of the headline metrics; None where nothing was compared."""
    pairs = list(dict.fromkeys((one["a"], one["b"]) for one in summary["comparisons"]))
    if not pairs:
        return None
    models = named(summary, "model")
    layout: list[tuple[str, str] | str] = []
    for heading, against_model in (("Model against earlier model", True), ("Model against shortcut", False)):
        of_kind = [pair for pair in pairs if (pair[1] in models) == against_model]
        layout += [heading, *of_kind] if of_kind else []
    title = "Paired differences with 95 % intervals; filled where real after Holm's adjustment"
    return _pairs_figure(summary, "differences", title, layout)


def seed_figures(summary: Mapping[str, Any]) -> list[Figure]:
    """Scores, and differences between models, of each training run; none where every system has one run."""
    several = [name for name, one in summary["systems"].items() if len(one["seeds"]) > 1]
    if not several:
        return []
    panels, spoken = [], []
    for metric in HEADLINE:
        cells = {name: summary["systems"][name]["metrics"][find_metric(metric).task]["all"][metric] for name in several}
        values = _score_values(summary, cells, with_runs=True)
        panels.append(
            Panel(find_metric(metric).long_label, _counted(cells.values()), values, *_reference(summary, metric))
        )
        runs = [f"{name} {', '.join(map(format_number, cell.get('per_seed', [])))}" for name, cell in cells.items()]
        spoken.append(f"{find_metric(metric).long_label} of each training run: {'; '.join(runs)}.")
    rows = [Row(shown_as(summary, name), style(summary, name)) for name in several]
    title = "Scores of each training run, and their mean with its 95 % interval"
    figures = [interval_figure("seedscores", title, " ".join(spoken), rows, panels)]
    pairs = [pair for pair in main_pairs(summary) if len(find(summary, *pair, HEADLINE[0])["per_seed"]) > 1]
    if pairs:
        title = "Paired differences of each training run, and their mean with its 95 % interval"
        figures.append(_pairs_figure(summary, "seeddifferences", title, pairs))
    return figures


def roc_figure(summary: Mapping[str, Any]) -> SquareFigure | None:
    """Pooled ROC curves of the models and of each task's strongest shortcut; of all shortcuts if alone."""
    squares, spoken = [], []
    for task, heading in (("de", "Changed or not"), ("dir", "Up or down")):
        metric = f"{task}_auroc"
        shown = named(summary, "model") or named(summary, "baseline")
        strongest = best(summary, metric, "baseline")
        if strongest is not None and strongest[0] not in shown:
            shown = [*shown, strongest[0]]
        curves = []
        for name in shown:
            points = [(x, y) for x, y in summary["systems"][name]["roc"][task]]
            value = summary["systems"][name]["metrics"][task]["all"][metric]["value"]
            if points:
                text = f"{shown_as(summary, name)}: {find_metric(metric).long_label} {format_number(value)}"
                curves.append(Curve(shown_as(summary, name), style(summary, name), points, text))
        if curves:
            squares.append(Square(heading, "", curves))
            spoken.append(". ".join(curve.text for curve in curves) + ".")
    if not squares:
        return None
    title = "ROC curves, all cell lines pooled"
    return square_figure(
        "roc", title, " ".join(spoken), "false positive rate", "true positive rate", squares, legend=True
    )


def reliability_figure(summary: Mapping[str, Any]) -> SquareFigure | None:
    """How often the likeliest label is right, by its probability; a panel per model, or per shortcut if alone."""
    squares, spoken = [], []
    for name in named(summary, "model") or named(summary, "baseline"):
        bins = [one for one in summary["systems"][name]["reliability"] if one["n"]]
        if not bins:
            continue
        most = max(one["n"] for one in bins)
        ece = format_number(summary["systems"][name]["metrics"]["three_class"]["all"]["ece"]["value"])
        said = [
            f"{format_number(one['confidence'])} said, {format_number(one['accuracy'])} right of {one['n']:,}"
            for one in bins
        ]
        curve = Curve(
            name,
            style(summary, name),
            [(one["confidence"], one["accuracy"]) for one in bins],
            f"{name}: {'; '.join(said)}",
            [2 + (LARGEST_MARK - 2) * (one["n"] / most) ** 0.5 for one in bins],
        )
        n = sum(one["n"] for one in bins)
        squares.append(Square(name, f"ECE {ece}; {count_of(n, 'forecast')}", [curve]))
        spoken.append(f"{name}, ECE {ece}: {'; '.join(said)}.")
    if not squares:
        return None
    title = "Reliability: how often the likeliest label is right, by the probability given to it"
    return square_figure(
        "reliability", title, " ".join(spoken), "probability of the likeliest label", "share right", squares
    )


def _pairs_figure(summary: Mapping[str, Any], name: str, title: str, layout: Sequence[tuple[str, str] | str]) -> Figure:
    """Differences of the headline metrics; `layout` holds pairs of systems and headings between them."""
    rows = [
        Row(entry) if isinstance(entry, str) else Row(_pair_label(summary, *entry), style(summary, entry[0]))
        for entry in layout
    ]
    panels, spoken = [], []
    for metric in HEADLINE:
        values: list[Value | None] = []
        found = []
        for entry in layout:
            if isinstance(entry, str):
                values.append(None)
                continue
            one = find(summary, *entry, metric)
            found.append(one)
            text = (
                f"{entry[0]} minus {entry[1]}: {format_number(one['difference'], signed=True)} "
                f"({format_interval(one['low'], one['high'], signed=True)}), {verdict(one)}"
            )
            # From few items an interval goes beyond what a difference can be; drawn so, it would squeeze the others.
            drawn = {key: None if one[key] is None else min(max(one[key], -1.0), 1.0) for key in ("low", "high")}
            cell = drawn | {"value": one["difference"]}
            runs = one["per_seed"] if len(one["per_seed"]) > 1 and name.startswith("seed") else ()
            values.append(_value(cell, solid=verdict(one) in ("higher", "lower"), text=text, points=runs))
            spoken.append(f"{find_metric(metric).long_label}, {text}.")
        note = _counted([{"n": one["n_items"], "value": one["difference"]} for one in found])
        panels.append(Panel(find_metric(metric).long_label, note, values, 0.0, "no difference"))
    return interval_figure(name, title, " ".join(spoken), rows, panels, signed=True)


def _pair_label(summary: Mapping[str, Any], a: str, b: str) -> str:
    shared = shared_items(summary, a, b)
    return f"{a} vs {b} ({shared})" if shared else f"{a} vs {b}"


def _rows(summary: Mapping[str, Any]) -> list[Row]:
    return [Row(shown_as(summary, name), style(summary, name)) for name in summary["systems"]]


def _score_values(
    summary: Mapping[str, Any], cells: Mapping[str, Mapping[str, Any]], *, with_runs: bool = False
) -> list[Value]:
    return [
        _value(
            cell,
            solid=summary["systems"][name]["kind"] == "model",
            text=f"{shown_as(summary, name)}: {format_number(cell['value'])} "
            f"({format_interval(cell['low'], cell['high'])})",
            points=cell.get("per_seed", ()) if with_runs else (),
        )
        for name, cell in cells.items()
    ]


def _value(cell: Mapping[str, Any], *, solid: bool, text: str, points: Sequence[float] = ()) -> Value:
    value, low, high = (float("nan") if cell[key] is None else cell[key] for key in ("value", "low", "high"))
    return Value(value, low, high, solid, text, points)


def _reference(summary: Mapping[str, Any], metric: str) -> tuple[float, str]:
    """What no knowledge scores on a metric, and its name; the worst value where that is not known."""
    entry = find_metric(metric)
    if entry.chance is None:
        return entry.range[0 if entry.higher_is_better else 1], ""
    total = summary["evaluated"][-1]
    value, name = entry.chance
    return value({str(label): total[str(label)] / total["items"] for label in LABELS}), name


def _counted(cells: Iterable[Mapping[str, Any]]) -> str:
    counts = sorted({cell["n"] for cell in cells if cell["value"] is not None}) or [0]
    return count_of(counts[0], "item") if len(counts) == 1 else f"{counts[0]:,} to {count_of(counts[-1], 'item')}"
