"""A reward of one's own: does what the reasoning quotes stand in the prompt?

It can see quotes in double quotation marks that were changed or made up. It cannot see claims without quotation marks,
nor whether a quote matters.
"""

import re

from rewards import completion_text, parse_answer

QUOTE = re.compile(r'["“]([^"“”\n]+)["”]')


def evidence_faithfulness(completions, prompts, **columns):
    """Score the share of quoted passages that stand in the prompt, letter case and spaces aside; 0 without a quote."""
    scores = []
    for completion, prompt in zip(completions, prompts, strict=True):
        think = parse_answer(completion_text(completion)).think or ""
        quotes = {plain(quote) for quote in QUOTE.findall(think)}
        given = " ".join(plain(message["content"]) for message in prompt)
        scores.append(sum(quote in given for quote in quotes) / len(quotes) if quotes else 0.0)
    return scores


evidence_faithfulness.range = (0.0, 1.0)  # a `gate` needs to know it


def plain(text):
    """Return a text in lower case with one space for each run of white space."""
    return " ".join(text.lower().split())
