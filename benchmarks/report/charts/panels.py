"""What a figure's panels show: values with intervals, curves, or shares. The module `drawing` draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TypeAlias


@dataclass(frozen=True)
class _Panel:
    """What panels have in common.

    Attributes:
        name: letters, digits and hyphens; makes ids unique on the page.
        title, note: stand above the panel.
        description: what can be read off it, for those who cannot see it.
    """

    name: str
    title: str
    note: str
    description: str


@dataclass(frozen=True)
class Row:
    """A value with its interval, NaN where unknown; without a colour, a heading.

    Attributes:
        label: stands at the left, or above where that leaves no room.
        against: the rest of the label; on a second line where both need one.
        colour: a name of `COLOURS` of the module `drawing`.
        diamond, solid: shape of the marker, and whether it is filled.
        text: the tooltip.
        points: small marks above it, one per training run.
        unknown: what stands in the place of a value that is unknown.
    """

    label: str
    against: str = ""
    colour: str = ""
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    diamond: bool = False
    solid: bool = True
    text: str = ""
    points: Sequence[float] = ()
    unknown: str = "no value"


@dataclass(frozen=True)
class Intervals(_Panel):
    """Rows of values with intervals, and a dashed line at `reference`; the axis holds `bounds`, if given."""

    rows: Sequence[Row]
    reference: float
    reference_label: str
    signed: bool = False
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Curve:
    """A line through points (x, y).

    Attributes:
        label: in the legend; empty for none.
        colour: a name of `COLOURS` of the module `drawing`.
        text: the tooltip.
        dash: which of the dash patterns.
        sizes: radii in pixels of the points' marks; empty for no marks.
        band: the lower and the upper end of a band at each point; empty for none.
    """

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    text: str = ""
    dash: int = 0
    sizes: Sequence[float] = ()
    band: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Curves(_Panel):
    """Curves; `share` lets the y axis run from 0 to 1, and `square` the x axis too, with a dashed diagonal."""

    curves: Sequence[Curve]
    x_label: str
    y_label: str = ""
    share: bool = False
    square: bool = False


@dataclass(frozen=True)
class Bars(_Panel):
    """A bar of 100 % per row: its label, what stands at the right, and its parts (name, share, tooltip)."""

    rows: Sequence[tuple[str, str, Sequence[tuple[str, float, str]]]]
    colours: Mapping[str, str]


Panel: TypeAlias = Intervals | Curves | Bars


def bounds(panels: Sequence[Intervals]) -> tuple[float, float]:
    """Return the smallest and the largest number that panels show."""
    shown = [number for panel in panels for row in panel.rows for number in (row.value, row.low, row.high, *row.points)]
    known = [number for number in (*shown, *(panel.reference for panel in panels)) if isfinite(number)]
    return min(known), max(known)
