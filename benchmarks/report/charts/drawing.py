"""Drawing by matplotlib: a panel of a figure as one SVG, which a page lays out beside others.

A panel is WIDTH pixels wide and reads well from 300 to 440. One SVG serves light and dark pages, because its colours
become the variables of report.css. matplotlib is imported when the first panel is drawn.
"""

import re
from collections.abc import Callable, Sequence
from io import StringIO
from math import isfinite
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final
from warnings import catch_warnings, simplefilter
from xml.etree import ElementTree

from benchmarks.report.charts.panels import Bars, Curves, Intervals, Panel, Row, bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH: Final = 324
TEXT: Final = 12.5
SMALL: Final = 11.5
LINE: Final = 15  # from one line of text to the next
BAR: Final = 40  # a bar and its label
EDGE: Final = 18  # half a tick's label, beyond the axis
CHARACTER: Final = 6.9  # mean width of a character of TEXT pixels, in a wide font
LONGEST: Final = 44  # characters of a line across the panel
# The colours of report.css in light, by the names of their variables there.
COLOURS: Final = {
    "paper": "#ffffff", "ink": "#1c2127", "soft": "#5b6570", "line": "#dde2e7", "shortcut": "#6b7480",
    "m0": "#0072b2", "m1": "#d55e00", "m2": "#009e73", "m3": "#b85c92", "m4": "#a87700", "m5": "#1c2128",
    "malformed": "#bd8300", "incomplete": "#c86fa0",
}  # fmt: skip
VARIABLES: Final = {code: f"var(--{name})" for name, code in COLOURS.items()}
DASHES: Final[Sequence[Any]] = ("solid", (0, (5, 2)), (0, (1.4, 1.6)), (0, (6, 2, 1.4, 2)))
STEPS: Final = (1, 2, 2.5, 5, 10)  # of an axis


def draw(panel: Panel, figure: str = "") -> str:
    """Return a panel as an `<svg>` element for an HTML page, with its text alternative; all text is escaped.

    Args:
        panel: what it shows.
        figure: title of the figure that it is part of, for the text alternative.
    """
    name = f"{figure}: {panel.title}" if figure else panel.title
    with catch_warnings():
        simplefilter("ignore")  # of characters that matplotlib's own font lacks: a browser takes them from another
        if isinstance(panel, Intervals):
            return _intervals(panel).svg(panel, name)
        return (_curves(panel) if isinstance(panel, Curves) else _bars(panel)).svg(panel, name)


class _Sheet:
    """A matplotlib figure measured in pixels from below the panel's title; `height` is what it needs there."""

    def __init__(self, panel: Panel, height: float) -> None:
        from matplotlib.figure import Figure

        lines = wrap(_plain(panel.title).replace(" %", "\N{NO-BREAK SPACE}%"), LONGEST - 4)
        self.top = LINE * (len(lines) + bool(panel.note)) + 12.0
        self.height = self.top + height
        self.tips: list[str] = []
        self.figure = Figure((WIDTH / 72, self.height / 72), dpi=72, facecolor="none")
        for at, line in enumerate(lines):
            self.write(0, 12 + LINE * at - self.top, line, size=13, weight="bold")
        self.write(0, 12 + LINE * len(lines) - self.top, panel.note, size=SMALL, colour="soft")

    def axes(self, left: float, top: float, width: float, height: float, **limits: Any) -> "Axes":
        """Add axes without a frame."""
        place = (left / WIDTH, 1 - (self.top + top + height) / self.height, width / WIDTH, height / self.height)
        axes = self.figure.add_axes(place, frame_on=False, **limits)
        axes.tick_params(length=0, labelsize=SMALL, labelcolor=COLOURS["soft"], pad=5)
        axes.grid(color=COLOURS["line"], linewidth=1, clip_on=False)
        axes.set_axisbelow(True)
        return axes

    def write(
        self, x: float, y: float, text: str, *, size: float = TEXT, colour: str = "ink", tip: str = "", **how: Any
    ) -> None:
        """Write text as it is, with its baseline at y."""
        how |= {"size": size, "color": COLOURS[colour], "gid": self.tip(tip), "parse_math": False}
        if text := _plain(text):
            self.figure.text(x / WIDTH, 1 - (self.top + y) / self.height, text, **how)

    def line(self, x: tuple[float, float], y: float, colour: str, **how: Any) -> None:
        """Draw a level line."""
        from matplotlib.lines import Line2D

        at = 1 - (self.top + y) / self.height
        self.figure.add_artist(Line2D([one / WIDTH for one in x], (at, at), color=COLOURS[colour], **how))

    def tip(self, text: str) -> str | None:
        """Return the group id that becomes a tooltip."""
        if not text:
            return None
        self.tips.append(_plain(text))
        return f"tip-{len(self.tips) - 1}"

    def svg(self, panel: Panel, name: str) -> str:
        """Return the figure as markup for a page: ids of its own, the page's colours and font, text alternatives."""
        from matplotlib import rc_context

        out = StringIO()
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "synthpert"}):
            self.figure.savefig(out, format="svg", metadata={"Date": None})
        drawing = ElementTree.fromstring(out.getvalue())[-1]  # before it: metadata, and a style for all of the page
        for element in drawing.iter():
            element.tag = element.tag.rpartition("}")[2]
            element.text, element.tail = (element.text or "").strip(), None
            found = {key.rpartition("}")[2]: " ".join(value.split()) for key, value in element.items()}
            element.attrib.clear()
            group = found.pop("id", "")
            if element.tag == "g" and group.startswith("tip-"):
                tip = ElementTree.Element("title")
                tip.text = self.tips[int(group[4:])]
                element.insert(0, tip)
            elif element.tag != "g" and group:
                found["id"] = f"{panel.name}-{group}"
            if "href" in found:
                found["href"] = f"#{panel.name}-{found['href'][1:]}"
            if "style" in found:
                style = re.sub(r"font-family: [^;]*;? ?", "", found["style"])
                found["style"] = re.sub(r"#[0-9a-f]{6}", lambda code: VARIABLES.get(code[0], code[0]), style)
            if found.get("transform", "").startswith("rotate(-0 "):
                del found["transform"]
            element.attrib.update(found)
        title, description = f"{panel.name}-title", f"{panel.name}-desc"
        svg = ElementTree.Element(
            "svg", {
                "role": "img", "viewBox": f"0 0 {WIDTH} {self.height:g}", "aria-labelledby": title,
                "aria-describedby": description,
            },
        )  # fmt: skip
        ElementTree.SubElement(svg, "title", {"id": title}).text = _plain(name)
        ElementTree.SubElement(svg, "desc", {"id": description}).text = _plain(panel.description)
        svg.append(drawing)
        return ElementTree.tostring(svg, encoding="unicode")


def _intervals(panel: Intervals) -> _Sheet:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    longest = max((len(_joined(row)) for row in panel.rows if row.colour), default=0) * CHARACTER + 14
    beside = longest < WIDTH * 0.45
    left = longest + EDGE - 8 if beside else EDGE
    labels = [[_joined(row)] if beside else _in_two(row) for row in panel.rows]
    heights = [
        24 if beside or not row.colour else 20 + LINE * len(label) + 8 * bool(row.points)
        for row, label in zip(panel.rows, labels, strict=True)
    ]
    total, width = sum(heights), WIDTH - left - EDGE
    sheet = _Sheet(panel, total + 28 + (LINE if panel.reference_label else 0))
    low, high = panel.bounds or bounds([panel])
    middle, half = (low + high) / 2, max(high - low, 0.02) / 2
    ticks = MaxNLocator(4 if width > 200 else 3, steps=STEPS).tick_values(middle - half, middle + half)
    decimals = 2 if all(abs(round(tick, 2) - tick) < 1e-9 for tick in ticks) else 3
    axes = sheet.axes(left, 0, width, total, xlim=(ticks[0], ticks[-1]), ylim=(total, 0), yticks=[], xticks=ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(_tick(decimals, signed=panel.signed)))
    _dashed(axes, (panel.reference, panel.reference), (0, total))
    place = (panel.reference - ticks[0]) / (ticks[-1] - ticks[0])
    align = "left" if place < 0.2 else "right" if place > 0.8 else "center"
    sheet.write(left + place * width, total + 36, panel.reference_label, size=SMALL, colour="soft", ha=align)
    end = 0
    for row, label, height in zip(panel.rows, labels, heights, strict=True):
        start, end = end, end + height
        at = start + height / 2 if beside else end - 11
        tip = _joined(row) if any(line.endswith("…") for line in label) else ""
        for line, text in enumerate(label):
            if row.colour:
                sheet.write(0, at + 4 if beside else start + 13 + LINE * line, text, tip=tip)
            else:
                sheet.write(0, start + 17, text, colour="soft", weight="bold", tip=tip)
        sheet.line((0, WIDTH), end, "line", linewidth=1)
        if not isfinite(row.value):
            sheet.write(left, at + 4, row.unknown if row.colour else "", size=SMALL, colour="soft")
            continue
        how: dict[str, Any] = {"color": COLOURS[row.colour], "clip_on": False, "gid": sheet.tip(row.text)}
        if isfinite(row.low) and isfinite(row.high):
            axes.plot((row.low, row.high), (at, at), linewidth=2.2, solid_capstyle="round", **how)
        for point in row.points:
            axes.plot((point, point), (at - 11, at - 6), linewidth=1.6, **how)
        face = COLOURS[row.colour if row.solid else "paper"]
        marker, size = ("D", 6.8) if row.diamond else ("o", 8)
        axes.plot(row.value, at, marker, ms=size, markerfacecolor=face, markeredgewidth=2, **how)
    return sheet


def _curves(panel: Curves) -> _Sheet:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    left = 42
    width = WIDTH - left - EDGE
    height = width if panel.square else 150
    named = [curve for curve in panel.curves if curve.label]
    sheet = _Sheet(panel, height + 46 + 18 * len(named))
    axes = sheet.axes(left, 4, width, height)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=STEPS, min_n_ticks=3))
    for curve in panel.curves:
        x, y = zip(*curve.points, strict=True)
        how: dict[str, Any] = {"color": COLOURS[curve.colour], "clip_on": False}
        if curve.band:
            low, high = zip(*curve.band, strict=True)
            axes.fill_between(x, low, high, alpha=0.18, linewidth=0, **how)
        how["gid"] = sheet.tip(curve.text)
        axes.plot(x, y, linestyle=DASHES[curve.dash], linewidth=2, **how)
        if curve.sizes:
            axes.scatter(x, y, [(2 * radius) ** 2 for radius in curve.sizes], alpha=0.75, **how)
    ticks = (0, 0.25, 0.5, 0.75, 1)
    if panel.share or panel.square:
        axes.set(ylim=(0, 1), yticks=ticks)
    if panel.square:
        axes.set(xlim=(0, 1), xticks=ticks)
        _dashed(axes, (0, 1), (0, 1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_tick(None)))
    small: dict[str, Any] = {"size": SMALL, "colour": "soft", "ha": "center"}
    sheet.write(left + width / 2, height + 38, panel.x_label, **small)
    sheet.write(10, 4 + height / 2, panel.y_label, va="center", rotation=90, **small)
    for at, curve in enumerate(named):
        below = height + 58 + 18 * at
        sheet.line((0, 26), below - 4, curve.colour, linestyle=DASHES[curve.dash], linewidth=2)
        sheet.write(34, below, _shortened(curve.label, LONGEST - 5), tip=curve.label)
    return sheet


def _bars(panel: Bars) -> _Sheet:
    total = BAR * len(panel.rows)
    sheet = _Sheet(panel, total + 26)
    axes = sheet.axes(0, 22, WIDTH, total, xlim=(0, 1), ylim=(total, 0), xticks=[], yticks=[])
    x = 0.0
    for name, colour in panel.colours.items():
        axes.barh(-14, 11 / WIDTH, 11, x / WIDTH, color=COLOURS[colour], clip_on=False)
        sheet.write(x + 15, 12, name, size=SMALL, colour="soft")
        x += 28 + CHARACTER * len(name)
    for at, (label, note, parts) in enumerate(panel.rows):
        sheet.write(0, 22 + BAR * at + 13, _shortened(label, LONGEST - len(note) - 1), tip=label)
        sheet.write(WIDTH, 22 + BAR * at + 13, note, size=SMALL, colour="soft", ha="right")
        start = 0.0
        for name, share, text in parts:
            (bar,) = axes.barh(BAR * at + 27, share, 16, start, color=COLOURS[panel.colours[name]], clip_on=False)
            bar.set(edgecolor=COLOURS["paper"], gid=sheet.tip(text))
            start += share
    return sheet


def _dashed(axes: "Axes", x: tuple[float, float], y: tuple[float, float]) -> None:
    axes.plot(x, y, color=COLOURS["ink"], linewidth=1, linestyle=(0, (3, 3)), alpha=0.75, clip_on=False)


def _tick(decimals: int | None, *, signed: bool = False) -> Callable[[float, int | None], str]:
    """Return how a tick is written: with so many decimals, or as many as it needs, and a true minus sign."""

    def written(value: float, _: int | None) -> str:
        if decimals is None:
            return f"{value:g}".replace("-", "\N{MINUS SIGN}")
        rounded = round(value, decimals) + 0.0  # no minus zero
        return f"{rounded:{'+' if signed and rounded else ''}.{decimals}f}".replace("-", "\N{MINUS SIGN}")

    return written


def _plain(text: str) -> str:
    """Text on one line, without the characters that XML has no place for."""
    return " ".join("".join(one if one.isprintable() else " " for one in str(text)).split())


def _joined(row: Row) -> str:
    return _plain(f"{row.label} {row.against}")


def _in_two(row: Row) -> list[str]:
    """A row's label on one line or two, each cut off where it is too long."""
    lines = wrap(_joined(row), LONGEST, break_on_hyphens=False)
    if len(lines) > 1 and row.against:
        lines = [row.label, row.against]
    return [_shortened(line, LONGEST) for line in (lines or [""])[:2]]


def _shortened(text: str, n: int) -> str:
    text = _plain(text)
    return text if len(text) <= n else text[: n - 1] + "…"
