"""A screen: what is known of a set of labels besides its rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

GENES_SHOWN: Final = 8  # genes of a set that a question names


@dataclass(frozen=True)
class Screen:
    """What is known of a set of labels besides its rows.

    Attributes:
        name: what reports call it.
        lines: what prompts call each cell line; a line that is not there goes by its name.
        notice: licence and attribution of the labels; empty where they are not known.
        notes: sentences about the file that a reader of its labels should know, such as what was left out.
        has_split: whether the labels have a split of their own, which is `official`. Its test rows may lack labels.
        unread: a sentence on the columns of the file that were not read; empty where all were.
        sets: where readouts are sets of genes: the genes of each set, by its name, which stands where others have a
            gene. Empty where readouts are genes.
    """

    name: str
    lines: Mapping[str, str]
    notice: str = ""
    notes: tuple[str, ...] = ()
    has_split: bool = True
    unread: str = ""
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def words(self, line: str) -> str:
        """Return what prompts call a cell line."""
        return self.lines.get(line, line)

    def readout(self, gene: str) -> str:
        """Return what a question calls a readout: a gene by its symbol; a set by its name and its first genes."""
        genes = self.sets.get(gene)
        if genes is None:
            return gene
        more = f" and {len(genes) - GENES_SHOWN} more" if len(genes) > GENES_SHOWN else ""
        return f"the gene set {gene} ({', '.join(genes[:GENES_SHOWN])}{more})"


PERTURBQA: Final = Screen(
    "PerturbQA",
    {
        "k562": "K562 (chronic myeloid leukaemia)",
        "rpe1": "RPE1 (retinal pigment epithelium)",
        "hepg2": "HepG2 (hepatocellular carcinoma)",
        "jurkat": "Jurkat (T-cell leukaemia)",
    },
    notice="PerturbQA (Wu et al., ICLR 2025), from Replogle et al. 2022 and Nadig et al. 2024; CC BY 4.0",
)
