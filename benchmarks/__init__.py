"""What a model is asked, who answers, and whether it is right.

`screens` (labels), `evidence` (and prompts), `endpoint` (one client for servers), `models` (folders and engines),
`evaluation` (protocol, predictions, baselines), `statistics` and `report`; each may import those before it, the
files beside them (messages, keys, tables, files, run folders, the machine), which stand below all of them, and
`rewards`.
"""

from benchmarks.evidence.neighbours import NeighbourModel, fit_neighbours
from benchmarks.screens.labels import load_labels
from benchmarks.statistics.areas import per_gene_auroc
from benchmarks.statistics.power import equivalence, perturbations_needed
from benchmarks.statistics.significance import Comparison, compare, compare_systems

__all__ = [
    "Comparison",
    "NeighbourModel",
    "compare",
    "compare_systems",
    "equivalence",
    "fit_neighbours",
    "load_labels",
    "per_gene_auroc",
    "perturbations_needed",
]
