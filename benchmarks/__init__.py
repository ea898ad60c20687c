"""Labels, prompts, engines, evaluation, statistics and reports.

Folders, in the order of import (each may import those before it):

- `screens`: labels and splits
- `evidence`: neighbours and prompts
- `endpoint`: one client for servers
- `models`: model folders and engines
- `evaluation`: protocol, predictions, baselines
- `statistics`
- `report`
- `comparison`: scores of any task, from logs of other harnesses

All of them may import `rewards` and the files beside this one (messages, keys, tables, files, run folders, machine).
"""

from benchmarks.comparison.compare import ScoreComparison, compare_score_systems, compare_scores
from benchmarks.evidence.neighbours import NeighbourModel, fit_neighbours
from benchmarks.screens.labels import load_labels
from benchmarks.statistics.areas import per_gene_auroc
from benchmarks.statistics.power import equivalence, perturbations_needed
from benchmarks.statistics.significance import Comparison, compare, compare_systems

__all__ = [
    "Comparison",
    "NeighbourModel",
    "ScoreComparison",
    "compare",
    "compare_score_systems",
    "compare_scores",
    "compare_systems",
    "equivalence",
    "fit_neighbours",
    "load_labels",
    "per_gene_auroc",
    "perturbations_needed",
]
