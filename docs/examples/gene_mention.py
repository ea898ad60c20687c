"""A reward of one's own: does the reasoning name both genes?

It can see whether a symbol stands in the reasoning as a whole word. It cannot see what is said of the gene.
"""

import re

from rewards import completion_text, parse_answer


def gene_mention(completions, pert, gene, **columns):
    """Score the share of the item's two genes that the reasoning names: 0, 0.5 or 1."""
    scores = []
    for completion, *symbols in zip(completions, pert, gene, strict=True):
        think = parse_answer(completion_text(completion)).think or ""
        scores.append(sum(names(think, symbol) for symbol in symbols) / 2)
    return scores


gene_mention.range = (0.0, 1.0)  # a `gate` needs to know it


def names(text, symbol):
    """Whether a symbol stands in a text as a whole word: AARS stands in AARS-dependent, not in AARS2."""
    return re.search(rf"(?<![\w-]){re.escape(symbol)}(?!\w|-\d)", text) is not None
