"""Geometry of the report's figures, in pixels; templates/figures.html.j2 draws it as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

WIDTH: Final = 1000
ROW: Final = 26
TOP: Final = 58
BOTTOM: Final = 34
GAP: Final = 48
MARGIN: Final = 20  # half a tick label at the right edge
# Mean width of a character of the labels' font; labels longer than the column end in an ellipsis.
CHARACTER: Final = 7.0
LABEL_SHARE: Final = 0.36


@dataclass(frozen=True)
class Row:
    """One line of a figure: a system or a comparison, or (without a style) a heading between them."""

    label: str
    style: str = ""


@dataclass(frozen=True)
class Value:
    """A value with its interval; NaN for what is unknown. `solid` fills the marker; `text` is its tooltip."""

    value: float
    low: float
    high: float
    solid: bool
    text: str


@dataclass(frozen=True)
class Panel:
    """One metric's column of a figure: a value per row (None for none) and a reference line."""

    title: str
    note: str
    values: Sequence[Value | None]
    reference: float
    reference_label: str


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
    solid: bool
    style: str
    text: str


@dataclass(frozen=True)
class DrawnPanel:
    title: str
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
    height: float
    rows: Sequence[DrawnRow]
    panels: Sequence[DrawnPanel]


def interval_figure(
    name: str, title: str, description: str, rows: Sequence[Row], panels: Sequence[Panel], *, signed: bool = False
) -> Figure:
    """Lay out values with their intervals, rows downwards and a panel per metric from left to right.

    Args:
        name: letters only; makes ids unique.
        title: what the figure shows.
        description: what can be read off it, for those who cannot see it.
        rows: R rows.
        panels: one or more, each with R values.
        signed: tick labels carry their sign (differences).
    """
    longest = max((len(row.label) for row in rows), default=0)
    label_width = min(longest * CHARACTER + 16, WIDTH * LABEL_SHARE)
    width = (WIDTH - MARGIN - label_width - GAP * len(panels)) / len(panels)
    n_characters = int((label_width - 16) / CHARACTER)
    drawn_rows = [
        DrawnRow(_shortened(row.label, n_characters), row.label, row.style, TOP + (at + 0.5) * ROW)
        for at, row in enumerate(rows)
    ]
    drawn_panels = []
    for at, panel in enumerate(panels):
        left = round(label_width + GAP + at * (width + GAP), 2)
        drawn_panels.append(_draw(panel, drawn_rows, left, round(left + width, 2), signed=signed))
    return Figure(name, title, description, TOP + len(rows) * ROW + BOTTOM, drawn_rows, drawn_panels)


def _draw(panel: Panel, rows: Sequence[DrawnRow], left: float, right: float, *, signed: bool) -> DrawnPanel:
    known = [panel.reference] + [
        number
        for value in panel.values
        if value is not None
        for number in (value.value, value.low, value.high)
        if np.isfinite(number)
    ]
    ticks = axis_ticks(min(known), max(known))
    low, high = min(ticks[0], *known), max(ticks[-1], *known)

    def at(number: float) -> float:
        return round(left + (number - low) / (high - low) * (right - left), 2)

    decimals = 2 if np.allclose(np.round(ticks, 2), ticks) else 3
    marks = [
        DrawnMark(
            x=at(value.value),
            y=row.y,
            low=at(value.low) if np.isfinite(value.low) else None,
            high=at(value.high) if np.isfinite(value.high) else None,
            solid=value.solid,
            style=row.style,
            text=value.text,
        )
        for row, value in zip(rows, panel.values, strict=True)
        if value is not None and np.isfinite(value.value)
    ]
    return DrawnPanel(
        title=panel.title,
        note=panel.note,
        left=left,
        right=right,
        ticks=[(at(tick), _tick_label(tick, decimals, signed=signed)) for tick in ticks],
        reference=at(panel.reference),
        reference_label=panel.reference_label,
        marks=marks,
    )


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


def _shortened(text: str, n: int) -> str:
    return text if len(text) <= n else text[: max(n - 1, 1)] + "…"
