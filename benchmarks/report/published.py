"""Figures that others published for the same splits: shown as published, never tested, never recomputed."""

from typing import Any, Final

from benchmarks.screens.schema import CELL_LINES

PERTURBQA: Final = "Wu et al., PerturbQA, ICLR 2025, Table 1"
SYNTHPERT: Final = "SynthPert, arXiv 2509.25346"
LABELS_COUNTED: Final = "counted in PerturbQA's labels"
WITHIN_LINE: Final = (
    "Built and evaluated within one cell line, without cross-line information. The neighbour baselines here, and "
    "SynthPert, were trained on all lines, so they know what a knockdown did in the others."
)
HELD_OUT: Final = (
    "Trained on the other three lines, so with cross-line information. No interval was published; the majority answer "
    "beside it scores nearly as much."
)
WITHIN_K562: Final = "Built and evaluated on K562 alone. No interval was published; there are 20 sets of genes."
_MAJORITY: Final = "The share of the commonest label in the line: no model."

# Mean per-gene AUROC in the order of CELL_LINES: `de`, then `dir`.
_TABLE_1: Final[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "MLP": ((0.48, 0.51, 0.51, 0.49), (0.53, 0.51, 0.49, 0.45)),
    "GAT": ((0.53, 0.55, 0.58, 0.51), (0.59, 0.60, 0.63, 0.58)),
    "GEARS": ((0.55, 0.49, 0.48, 0.51), (0.67, 0.61, 0.52, 0.52)),
    "GenePT-Gene": ((0.57, 0.55, 0.56, 0.55), (0.49, 0.61, 0.61, 0.57)),
    "GenePT-Prot": ((0.59, 0.56, 0.54, 0.55), (0.55, 0.61, 0.55, 0.60)),
    "LLM, no chain of thought": ((0.52, 0.52, 0.51, 0.52), (0.50, 0.49, 0.49, 0.50)),
    "LLM, no retrieval": ((0.52, 0.48, 0.49, 0.49), (0.50, 0.52, 0.53, 0.54)),
    "Retrieval only": ((0.58, 0.59, 0.56, 0.56), (0.69, 0.63, 0.64, 0.61)),
    "SUMMER (Llama-3-70B)": ((0.62, 0.59, 0.62, 0.59), (0.64, 0.64, 0.66, 0.67)),
}
# The same for the gene sets in K562: `de`, then `dir`; the last column of the table that PerturbQA's notebook
# examples/results.ipynb prints, where the data are called k562_gw_path.
_TABLE_1_SETS: Final[dict[str, tuple[float, float]]] = {
    "MLP": (0.49, 0.48),
    "GAT": (0.55, 0.51),
    "GEARS": (0.50, 0.70),
    "GenePT-Gene": (0.58, 0.54),
    "GenePT-Prot": (0.59, 0.57),
    "LLM, no chain of thought": (0.51, 0.50),
    "LLM, no retrieval": (0.50, 0.49),
    "Retrieval only": (0.66, 0.66),
    "SUMMER (Llama-3-70B)": (0.62, 0.70),
}
_HELD_OUT: Final[dict[str, list[tuple[str, float, str, str]]]] = {
    "rpe1": [
        ("SynthPert", 0.87, SYNTHPERT, HELD_OUT),
        ("majority class", 0.858, LABELS_COUNTED, _MAJORITY),
    ],
}


def published_figures(split: str, *, sets: bool = False) -> list[dict[str, Any]]:
    """Return what others published for a split.

    Args:
        split: `official` (mean per-gene AUROC of PerturbQA's Table 1) or `holdout:LINE` (three-class accuracy).
        sets: of PerturbQA's labels of gene sets, in place of those of genes.

    Returns:
        Rows `system, task, metric` (names as in report.json), `cell_line, value, source, note`; none where nothing
        was published.
    """
    if sets:
        return [
            _row(system, task, f"{task}_per_gene_auroc", "k562", values[at], PERTURBQA, WITHIN_K562)
            for task, at in (("de", 0), ("dir", 1))
            for system, values in _TABLE_1_SETS.items()
            if split == "official"
        ]
    if split == "official":
        return [
            _row(system, task, f"{task}_per_gene_auroc", line, value, PERTURBQA, WITHIN_LINE)
            for task, at in (("de", 0), ("dir", 1))
            for system, values in _TABLE_1.items()
            for line, value in zip(CELL_LINES, values[at], strict=True)
        ]
    _, _, line = split.partition(":")
    return [
        _row(system, "three_class", "accuracy", line, value, source, note)
        for system, value, source, note in _HELD_OUT.get(line, [])
    ]


def _row(system: str, task: str, metric: str, line: str, value: float, source: str, note: str) -> dict[str, Any]:
    return {
        "system": system,
        "task": task,
        "metric": metric,
        "cell_line": line,
        "value": value,
        "source": source,
        "note": note,
    }
