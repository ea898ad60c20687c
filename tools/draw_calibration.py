"""Draw docs/calibration.svg and fill the table in docs/statistics.md from docs/calibration.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.statistics.metrics import find_metric
from tools.pages import between, svg

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
BAND: Final = (0.035, 0.065)
TITLE: Final = "False positives of the default test at 5 %, by metric and scenario"
MARK: Final = "<!-- calibration -->"
# Okabe and Ito's colours, told apart by the colour-blind too; neighbouring cells have another shape besides.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#666666", "#882255")
SHAPES: Final = ("o", "s", "^", "D")
INCH: Final = 72  # points, which are pixels here


def cell_name(row: Mapping[str, Any]) -> str:
    """Return a scenario in words."""
    lines = "K562" if len(row["lines"]) == 1 else "all four lines"
    runs = "1 run" if row["n_seeds"] == 1 else f"{row['n_seeds']} runs"
    return f"{lines}, {runs}, correlation {row['icc_pert']:.2f} / {row['icc_gene']:.2f}"


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG: a row a metric, a mark a scenario, false positives at 5 % along the axis."""
    from matplotlib.figure import Figure

    metrics = list(rows[0]["metrics"])
    legend, body = 20 * -(-len(rows) // 2) + 30, 22 * len(metrics)
    width, height = 900, legend + body + 40
    figure = Figure((width / INCH, height / INCH), dpi=INCH, facecolor="white")
    axes = figure.add_axes((0.28, 40 / height, 0.7, body / height), frame_on=False)
    axes.set(xlim=(0, 0.1), ylim=(len(metrics) - 0.5, -0.5), xticks=(0, BAND[0], 0.05, BAND[1], 0.1))
    axes.set_yticks(range(len(metrics)), [find_metric(metric).long_label for metric in metrics])
    axes.tick_params(length=0, labelsize=13)
    axes.set_xlabel("share of simulations in which the test at 5 % finds a difference that is not there", size=13)
    axes.grid(color="#dddddd", linewidth=1)
    axes.set_axisbelow(True)
    axes.axvspan(*BAND, color="#e8f1e8", linewidth=0, zorder=0)
    axes.axvline(0.05, color="#888888", linewidth=1)
    for at, row in enumerate(rows):
        rates = [row["metrics"][metric]["rejected"] for metric in metrics]
        colour, shape = COLOURS[at % len(COLOURS)], SHAPES[at % len(SHAPES)]
        axes.plot(rates, range(len(metrics)), shape, color=colour, alpha=0.85, clip_on=False, label=cell_name(row))
    figure.legend(loc="upper left", ncols=2, frameon=False, fontsize=13, borderaxespad=0.5)
    return svg(figure, TITLE)


def _gap_and_power(found: Mapping[str, float]) -> tuple[str, str]:
    return f"{found['difference']:+.3f}", f"{100 * found['rejected']:.0f}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table: each scenario's false positives, coverage and power over all metrics."""
    lines = [
        "| scenario | simulations | false positives, % (lowest to highest metric) | coverage of 95 % intervals, % | "
        "power, % (accuracy / per-gene AUROC of `de`) |",
        "|---|---:|---|---|---|",
    ]
    for row in rows:
        found = list(row["metrics"].values())
        rejected, covered = ([100 * one[key] for one in found] for key in ("rejected", "covered"))
        name, false, power = cell_name(row), f"{min(rejected):.1f} to {max(rejected):.1f}", "–"
        if row["gap"]:
            both = [row["metrics"][metric] for metric in ("accuracy", "de_per_gene_auroc")]
            gaps, powers = (" / ".join(words) for words in zip(*map(_gap_and_power, both), strict=True))
            name, false, power = f"{name}, true difference {gaps}", "–", powers
        covers = f"{min(covered):.1f} to {max(covered):.1f}"
        lines.append(f"| {name} | {row['n_simulations']:,} | {false} | {covers} | {power} |")
    return "\n".join(lines)


def main() -> None:
    """Write both files."""
    rows = json.loads((DOCS / "calibration.json").read_text(encoding="utf-8"))
    page = DOCS / "statistics.md"
    (DOCS / "calibration.svg").write_text(draw([row for row in rows if not row["gap"]]), encoding="utf-8")
    page.write_text(between(page.read_text(encoding="utf-8"), MARK, table(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
