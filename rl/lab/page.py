"""The page of a replay, drawn from its JSON."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from benchmarks.files import check_folder, write_text
from benchmarks.report.page import TEMPLATES as STYLE
from rewards import InputError
from rl.lab.replay import FACTORS

TEMPLATES: Final = Path(__file__).parent / "templates"


def check_out(out: Path) -> bool:
    """Return whether a folder holds the page of an earlier replay, which a new one would replace.

    Raises:
        InputError: it is a file, holds other files, or cannot be written.
    """
    check_folder(out)
    there = next((path for path in (out, *out.parents) if path.exists()), out)
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(f"{there}: cannot be written ({error.strerror}); choose another folder for --out") from None
    if (out / "replay.json").is_file():
        return True
    if there == out and any(not path.name.startswith(".") for path in out.iterdir()):
        raise InputError(f"{out}: holds other files than a replay's; choose another folder for --out")
    return False


def write_replay(summary: Mapping[str, Any], out: Path) -> Path:
    """Write `replay.html` and `replay.json`, and return the page's path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=True, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"number": _shown, "percent": _percent, "factors": FACTORS}
    page = environment.get_template("replay.html.j2").render(
        replay=summary,
        css=(STYLE / "report.css").read_text(encoding="utf-8"),
        histogram=_histogram(summary),
        lines=_lines(summary),
    )
    for name, text in (
        ("replay.json", json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"),
        ("replay.html", page),
    ):
        write_text(out / name, text, errors="replace")
    return out / "replay.html"


def _shown(value: float | None, digits: int = 3, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    return (f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}").replace("-", "\N{MINUS SIGN}")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _histogram(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bars in pixels, a panel for each configuration: x, width, y, height, tooltip."""
    edges = summary["edges"]
    left, right, top, bottom = 50.0, 980.0, 12.0, 150.0
    width = (right - left) / (len(edges) - 1)
    panels = []
    for config in summary["configs"]:
        counts = config["total"]["histogram"]
        most = max(counts) or 1
        bars = [
            {
                "x": round(left + at * width, 2),
                "width": round(width - 1, 2),
                "y": round(bottom - (bottom - top) * count / most, 2),
                "height": round((bottom - top) * count / most, 2),
                "text": f"{edges[at]:.3f} to {edges[at + 1]:.3f}: {count:,}",
            }
            for at, count in enumerate(counts)
            if count
        ]
        ticks = [(round(left + at * width, 2), _shown(edges[at], 2)) for at in range(0, len(edges), 5)]
        panels.append({"name": config["name"], "bars": bars, "ticks": ticks, "most": most})
    return panels


def _lines(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Curves over steps in pixels, each on its own scale; none for a single step."""
    curves = [(f"mean reward, {config['name']}", config["by_step"]) for config in summary["configs"]]
    curves.append(("accuracy", summary["accuracy_by_step"]))
    drawn = []
    for name, points in curves:
        known = [(step, value) for step, value in points if value is not None]
        if len(known) < 2:
            continue
        first, last = known[0][0], known[-1][0]
        low, high = min(v for _, v in known), max(v for _, v in known)
        span = high - low or 1.0
        path = " ".join(
            f"{50 + 930 * (step - first) / (last - first):.1f},{150 - 130 * (value - low) / span:.1f}"
            for step, value in known
        )
        drawn.append({"name": name, "points": path, "low": low, "high": high, "first": first, "last": last})
    return drawn
