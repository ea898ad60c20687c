"""What the scripts that fill the pages share: numbers and tables in Markdown, and figures as SVG."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any


def number(value: float, sign: str = "") -> str:
    """Write a number below 1 with three decimals and no leading 0; `sign` is that of a format, such as `+`."""
    return f"{value:{sign}.3f}".replace("0.", ".", 1).replace("-", "\N{MINUS SIGN}")


def with_interval(one: Mapping[str, float]) -> str:
    """Write a difference with its interval: `value`, `low` and `high`."""
    return f"{number(one['value'], '+')} ({number(one['low'], '+')} to {number(one['high'], '+')})"


def score(one: Mapping[str, float | None]) -> str:
    """Write a score with its interval, if it has one: `value`, `low` and `high`; a dash where there is no score."""
    value, low, high = (one[key] for key in ("value", "low", "high"))
    if value is None:
        return "\N{EN DASH}"
    return number(value) if low is None or high is None else f"{number(value)} ({number(low)} to {number(high)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Return a table in Markdown: so many columns of words first, then columns of numbers."""
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between(page: str, mark: str, text: str) -> str:
    """Return a page with a text between the two places of a mark."""
    before, _, after = page.split(mark)
    return f"{before}{mark}\n{text}\n{mark}{after}"


def svg(figure: Any, title: str) -> str:
    """Return a matplotlib figure as SVG, the same text for the same figure."""
    from matplotlib import rc_context

    out = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "synthpert"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Title": title})
    lines = out.getvalue().splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("<svg"))  # before it: a document type
    return "\n".join(line.rstrip() for line in lines[start:]) + "\n"
