"""A reward of one's own, with a parameter: does a pathway that is named hold for the gene that is named with it?

It can see whether a gene is in a set. It cannot see what a sentence says of the two, nor sets under another name.
"""

import re
from pathlib import Path

from rewards import completion_text, parse_answer, read_gene_sets

SAMPLE = Path(__file__).with_name("gene_sets.gmt")


class Pathways:
    """Score the share of (gene, set) pairs that hold, among those a sentence of the reasoning names.

    Args:
        gene_sets: a GMT file, as MSigDB and Enrichr offer them.
    """

    __name__ = "pathways"
    range = (0.0, 1.0)  # a `gate` needs to know it

    def __init__(self, gene_sets=SAMPLE):
        self.sets = read_gene_sets(Path(gene_sets))

    def __call__(self, completions, pert, gene, **columns):
        """Return a score each: 0 where no pair is named, None where neither gene is in any set."""
        known = set().union(*self.sets.values())
        scores = []
        for completion, *symbols in zip(completions, pert, gene, strict=True):
            think = parse_answer(completion_text(completion)).think or ""
            holds = [
                symbol in members
                for sentence in re.split(r"[.!?]\s|\n", think)
                for symbol in symbols
                for name, members in self.sets.items()
                if name in sentence.lower() and symbol in re.findall(r"[\w-]+", sentence)
            ]
            score = sum(holds) / len(holds) if holds else 0.0
            scores.append(score if known.intersection(symbols) else None)
        return scores
