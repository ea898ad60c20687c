"""Geometry of the report's figures, in pixels; templates/figures.html.j2 draws it as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Final

import numpy as np

WIDTH: Final = 1000
ROW: Final = 26
LINE: Final = 16  # of a panel's title
BOTTOM: Final = 34
GAP: Final = 48
MARGIN: Final = 20  # half a tick label at the right edge
# Mean width of a character of the labels' font; labels longer than the column end in an ellipsis.
CHARACTER: Final = 7.0
BOLD_CHARACTER: Final = 7.7
LABEL_SHARE: Final = 0.36
# Panels with axes from 0 to 1 both ways.
SQUARES: Final = 4
SQUARE_LEFT: Final = 46
SQUARE_TOP: Final = 44
SQUARE_BOTTOM: Final = 58


@dataclass(frozen=True)
class Row:
    """One line of a figure: a system or a comparison, or (without a style) a heading between them."""

    label: str
    style: str = ""


@dataclass(frozen=True)
class Value:
    """A value with its interval; NaN for what is unknown.

    `solid` fills the marker; `text` is its tooltip; `points` are small marks beside it (training runs).
    """

    value: float
    low: float
    high: float
    solid: bool
    text: str
    points: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """One column of a figure: a value per row (None for none) and a reference line."""

    title: str
    note: str
    values: Sequence[Value | None]
    reference: float
    reference_label: str


@dataclass(frozen=True)
class Curve:
    """A line through points (x, y) of a square panel, both from 0 to 1, or with `sizes` marks of those radii."""

    label: str
    style: str
    points: Sequence[tuple[float, float]]
    text: str
    sizes: Sequence[float] = ()


@dataclass(frozen=True)
class Square:
    """A square panel with its curves and a dashed diagonal."""

    title: str
    note: str
    curves: Sequence[Curve]


@dataclass(frozen=True)
class DrawnRow:
    label: str
    full_label: str
    style: str
    y: float


@dataclass(frozen=True)
class DrawnMark:
    x: float
    y: float
    low: float | None
    high: float | None
    points: Sequence[float]
    solid: bool
    style: str
    text: str


@dataclass(frozen=True)
class DrawnPanel:
    title: Sequence[str]
    note: str
    left: float
    right: float
    ticks: Sequence[tuple[float, str]]
    reference: float
    reference_label: str
    marks: Sequence[DrawnMark]


@dataclass(frozen=True)
class Figure:
    """A drawn figure; `name` makes its ids unique, `title` and `description` are its text alternative."""

    name: str
    title: str
    description: str
    top: float
    height: float
    rows: Sequence[DrawnRow]
    panels: Sequence[DrawnPanel]


@dataclass(frozen=True)
class DrawnCurve:
    path: str
    marks: Sequence[tuple[float, float, float]]
    style: str
    text: str


@dataclass(frozen=True)
class DrawnSquare:
    title: str
    full_title: str
    note: str
    left: float
    top: float
    side: float
    ticks: Sequence[tuple[float, float, str]]
    curves: Sequence[DrawnCurve]


@dataclass(frozen=True)
class SquareFigure:
    """A drawn figure of square panels; see `Figure`. `legend` is (y, style, label, full label) of each curve."""

    name: str
    title: str
    description: str
    height: float
    x_label: str
    y_label: str
    squares: Sequence[DrawnSquare]
    legend: Sequence[tuple[float, str, str, str]] = field(default_factory=tuple)
    legend_left: float = 0.0


def interval_figure(
    name: str,
    title: str,
    description: str,
    rows: Sequence[Row],
    panels: Sequence[Panel],
    *,
    signed: bool = False,
    shared: bool = False,
) -> Figure:
    """Lay out values with their intervals, rows downwards and panels from left to right.

    Args:
        name: letters only; makes ids unique.
        title: what the figure shows.
        description: what can be read off it, for those who cannot see it.
        rows: R rows.
        panels: one or more, each with R values.
        signed: tick labels carry their sign (differences).
        shared: all panels have one scale.
    """
    longest = max((len(row.label) for row in rows), default=0)
    label_width = min(longest * CHARACTER + 16, WIDTH * LABEL_SHARE)
    width = (WIDTH - MARGIN - label_width - GAP * len(panels)) / len(panels)
    n_characters = int((label_width - 16) / CHARACTER)
    titles = [_wrapped(panel.title, width + MARGIN) for panel in panels]
    top = 42 + LINE * max(len(lines) for lines in titles)
    drawn_rows = [
        DrawnRow(_shortened(row.label, n_characters), row.label, row.style, top + (at + 0.5) * ROW)
        for at, row in enumerate(rows)
    ]
    bounds = [_bounds([panel]) for panel in panels]
    if shared:
        bounds = [_bounds(panels)] * len(panels)
    n_ticks = 4 if width > 130 else 2
    drawn_panels = []
    for at, (panel, lines, bound) in enumerate(zip(panels, titles, bounds, strict=True)):
        left = round(label_width + GAP + at * (width + GAP), 2)
        right = round(left + width, 2)
        drawn_panels.append(_draw(panel, lines, drawn_rows, left, right, bound, n_ticks, signed=signed))
    return Figure(name, title, description, top, top + len(rows) * ROW + BOTTOM, drawn_rows, drawn_panels)


def _bounds(panels: Sequence[Panel]) -> tuple[float, float]:
    known = [panel.reference for panel in panels] + [
        number
        for panel in panels
        for value in panel.values
        if value is not None
        for number in (value.value, value.low, value.high, *value.points)
        if np.isfinite(number)
    ]
    return min(known), max(known)


def _draw(
    panel: Panel,
    title: Sequence[str],
    rows: Sequence[DrawnRow],
    left: float,
    right: float,
    bounds: tuple[float, float],
    n_ticks: int,
    *,
    signed: bool,
) -> DrawnPanel:
    ticks = axis_ticks(*bounds, n_ticks)
    low, high = min(ticks[0], bounds[0]), max(ticks[-1], bounds[1])

    def at(number: float) -> float:
        return round(left + (number - low) / (high - low) * (right - left), 2)

    decimals = 2 if np.allclose(np.round(ticks, 2), ticks) else 3
    marks = [
        DrawnMark(
            x=at(value.value),
            y=row.y,
            low=at(value.low) if np.isfinite(value.low) else None,
            high=at(value.high) if np.isfinite(value.high) else None,
            points=[at(point) for point in value.points],
            solid=value.solid,
            style=row.style,
            text=value.text,
        )
        for row, value in zip(rows, panel.values, strict=True)
        if value is not None and np.isfinite(value.value)
    ]
    return DrawnPanel(
        title=title,
        note=panel.note,
        left=left,
        right=right,
        ticks=[(at(tick), _tick_label(tick, decimals, signed=signed)) for tick in ticks],
        reference=at(panel.reference),
        reference_label=panel.reference_label,
        marks=marks,
    )


def square_figure(
    name: str,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    squares: Sequence[Square],
    *,
    legend: bool = False,
) -> SquareFigure:
    """Lay out square panels with axes from 0 to 1, up to four side by side.

    Args:
        name, title, description: as in `interval_figure`.
        x_label, y_label: what the axes show.
        squares: one or more.
        legend: name the curves of the first panel at the right, which leaves room for two panels.
    """
    columns = min(SQUARES, 2 if legend else len(squares) if len(squares) > 2 else 3)
    right = WIDTH * 0.76 if legend else WIDTH
    side = right / columns - SQUARE_LEFT - MARGIN
    step = SQUARE_TOP + side + SQUARE_BOTTOM
    drawn = []
    for at, square in enumerate(squares):
        left = round(SQUARE_LEFT + (at % columns) * right / columns, 2)
        drawn.append(_draw_square(square, left, round(SQUARE_TOP + (at // columns) * step, 2), round(side, 2)))
    named = dict.fromkeys((curve.style, curve.label) for square in squares for curve in square.curves) if legend else {}
    n_characters = int((WIDTH - right - 44) / CHARACTER)
    return SquareFigure(
        name=name,
        title=title,
        description=description,
        height=round(step * (-(-len(squares) // columns)), 2),
        x_label=x_label,
        y_label=y_label,
        squares=drawn,
        legend=[
            (SQUARE_TOP + 12 + at * 24, style, _shortened(label, n_characters), label)
            for at, (style, label) in enumerate(named)
        ],
        legend_left=right + 8,
    )


def _draw_square(square: Square, left: float, top: float, side: float) -> DrawnSquare:
    def at(point: tuple[float, float]) -> tuple[float, float]:
        return round(left + point[0] * side, 1), round(top + (1 - point[1]) * side, 1)

    curves = []
    for curve in square.curves:
        places = [at(point) for point in curve.points]
        path = "M" + "L".join(f"{x} {y}" for x, y in places)
        marks = [(x, y, size) for (x, y), size in zip(places, curve.sizes, strict=True)] if curve.sizes else []
        curves.append(DrawnCurve(path, marks, curve.style, curve.text))
    ticks = [(*at((tick, tick)), f"{tick:g}") for tick in (0.0, 0.25, 0.5, 0.75, 1.0)]
    title = _shortened(square.title, int((side + MARGIN) / CHARACTER))
    return DrawnSquare(title, square.title, square.note, left, top, side, ticks, curves)


def axis_ticks(low: float, high: float, n: int = 4) -> list[float]:
    """Round numbers, about `n` steps apart, from at or below `low` to at or above `high`."""
    span = max(high - low, 0.02)
    rough = span / n
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    # The tolerance keeps a bound that rounding has put just past a tick from adding another.
    first, last = int(np.floor(low / step + 1e-6)), int(np.ceil(high / step - 1e-6))
    return [round(at * step, 10) for at in range(first, max(last, first + 1) + 1)]


def _tick_label(value: float, decimals: int, *, signed: bool) -> str:
    text = f"{value:+.{decimals}f}" if signed and value != 0 else f"{value:.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _wrapped(title: str, width: float) -> list[str]:
    """A panel's title in lines; a percent sign stays with its number."""
    return wrap(title.replace(" %", "\N{NO-BREAK SPACE}%"), max(int(width / BOLD_CHARACTER), 8))


def _shortened(text: str, n: int) -> str:
    return text if len(text) <= n else text[: max(n - 1, 1)] + "…"
