"""Draw docs/calibration.svg and fill the table in docs/statistics.md from docs/calibration.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.statistics.metrics import find_metric

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
BAND: Final = (0.035, 0.065)
MARK: Final = "<!-- calibration -->"
# Okabe and Ito's colours, which the colour-blind can tell apart. Each scenario also has its own shape.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#666666", "#882255")
SHAPES: Final = ("circle", "square", "triangle", "diamond")
LEFT, RIGHT, TOP, STEP, WIDTH = 250, 30, 150, 22, 900


def cell_name(row: Mapping[str, Any]) -> str:
    """Return a scenario in words."""
    lines = "K562" if len(row["lines"]) == 1 else "all four lines"
    runs = "1 run" if row["n_seeds"] == 1 else f"{row['n_seeds']} runs"
    return f"{lines}, {runs}, correlation {row['icc_pert']:.2f} / {row['icc_gene']:.2f}"


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the false positives at 5 %, with a row for each metric and a mark for each scenario."""
    metrics = list(rows[0]["metrics"])
    top = TOP + 8 * max(len(rows) - 9, 0)
    height = top + STEP * len(metrics) + 40

    def x(rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * rate / 0.1

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="13">',
        "<title>False positives of the default test at 5 %, by metric and scenario</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<rect x="{x(BAND[0]):.1f}" y="{top - 14}" width="{x(BAND[1]) - x(BAND[0]):.1f}" '
        f'height="{STEP * len(metrics) + 6}" fill="#e8f1e8"/>',
    ]
    for at, row in enumerate(rows):
        px, py = 20 + (at % 2) * 440, 22 + (at // 2) * 20
        parts.append(_mark(at, px, py) + f'<text x="{px + 14}" y="{py + 4}">{cell_name(row)}</text>')
    for at, metric in enumerate(metrics):
        y = top + STEP * at
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{find_metric(metric).long_label}</text>')
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts += [_mark(i, x(row["metrics"][metric]["rejected"]), y) for i, row in enumerate(rows)]
    bottom = top + STEP * len(metrics)
    for rate in (0.0, 0.035, 0.05, 0.065, 0.1):
        parts.append(
            f'<line x1="{x(rate):.1f}" x2="{x(rate):.1f}" y1="{top - 14}" y2="{bottom - 8}" stroke="#888" '
            f'stroke-dasharray="{"none" if rate == 0.05 else "2 3"}"/>'
            f'<text x="{x(rate):.1f}" y="{bottom + 12}" text-anchor="middle">{rate:g}</text>'
        )
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _mark(at: int, x: float, y: float) -> str:
    colour, shape = COLOURS[at % len(COLOURS)], SHAPES[at % len(SHAPES)]
    style = f'fill="{colour}" fill-opacity="0.85"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y}" r="4.5" {style}/>'
    if shape == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4}" width="8" height="8" {style}/>'
    outline = {"triangle": ((-5, 4), (5, 4), (0, -5)), "diamond": ((-5, 0), (0, -5), (5, 0), (0, 5))}[shape]
    return f'<polygon points="{" ".join(f"{x + dx:.1f},{y + dy}" for dx, dy in outline)}" {style}/>'


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table: each scenario's false positives, coverage and power over all metrics."""
    lines = [
        "| scenario | simulations | false positives, % (lowest to highest metric) | coverage of 95 % intervals, % | "
        "power, % (accuracy; per-gene AUROC) |",
        "|---|---:|---|---|---|",
    ]
    for row in rows:
        found = list(row["metrics"].values())
        rejected, covered = ([100 * one[key] for one in found] for key in ("rejected", "covered"))
        false, power = f"{min(rejected):.1f} to {max(rejected):.1f}", "–"
        if row["gap"]:
            accuracy, auroc = (row["metrics"][name] for name in ("accuracy", "de_per_gene_auroc"))
            false = "–"
            power = "; ".join(f"{100 * x['rejected']:.0f} at {x['difference']:+.3f}" for x in (accuracy, auroc))
        covers = f"{min(covered):.1f} to {max(covered):.1f}"
        lines.append(f"| {cell_name(row)} | {row['n_simulations']:,} | {false} | {covers} | {power} |")
    return "\n".join(lines)


def main() -> None:
    """Write both files."""
    rows = json.loads((DOCS / "calibration.json").read_text(encoding="utf-8"))
    page = DOCS / "statistics.md"
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    (DOCS / "calibration.svg").write_text(draw([row for row in rows if not row["gap"]]), encoding="utf-8")
    page.write_text(f"{before}{MARK}\n{table(rows)}\n{MARK}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
