"""Rewards for the reasoning: length, use of genes, repetition, faithful quotes, pathways that hold.

The same signature as in `rewards/functions.py`. None of these knows whether the answer is right: give them a small
weight beside one that does, and run `synthpert rewards check`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rewards.answer import Answer
from rewards.batch import Completion, Scores, column, read_answers, read_prompts, read_words
from rewards.errors import InputError
from rewards.verifiers import SENTENCE_END, GeneSets

UNITS: Final = ("words", "tokens")
_FEWEST_WORDS: Final = 5
# A gene counts as used where its sentence relates it to something; the bare name does not do that.
_RELATION: Final = re.compile(
    r"\b(?:activat|affect|bind|block|caus|chang|control|decreas|deplet|depend|differ|downregulat|driv|encod|express|"
    r"impair|increas|induc|inhibit|interact|knock|lead|level|los[est]|lower|modulat|participat|phosphorylat|promot|"
    r"rais|reduc|regulat|repress|requir|respon|silenc|spare|stabili[sz]|suppress|support|target|transcri|trigger|"
    r"upregulat)"
)


@dataclass(frozen=True)
class Length:
    """Score 1 within a band of lengths, and less in proportion outside: n / low below it, high / n above it.

    Range: 0 to 1. Source: ours; a two-sided form of DAPO's soft overlong punishment (arXiv 2503.14476).

    Args:
        low: lower end of the band, at least 1.
        high: upper end, at least `low`.
        unit: `words` (split at white space) or `tokens` (of the tokenizer, from the columns `completion_ids` or
            `completion_tokens`).

    Raises:
        InputError: no band, or an unknown unit.
    """

    __name__ = "length"
    low: int
    high: int
    unit: str = "words"
    range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise InputError(f"length: low {self.low}, high {self.high}; use 1 <= low <= high")
        if self.unit not in UNITS:
            raise InputError(f"length: unit {self.unit!r} is unknown; use {' or '.join(UNITS)}")

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None."""
        lengths: Sequence[int]
        words = read_words(completions)
        if self.unit == "words":
            lengths = [0 if found is None else len(found) for found in words]
        elif columns.get("completion_ids") is not None:
            lengths = [len(ids) for ids in column(columns, "completion_ids", len(completions), "length")]
        else:
            lengths = column(columns, "completion_tokens", len(completions), "length")
        return [
            None if found is None else 1.0 if self.low <= n <= self.high else n / self.low if n < self.low else
            self.high / n
            for found, n in zip(words, lengths, strict=True)
        ]  # fmt: skip


@dataclass(frozen=True)
class GeneMention:
    """Score the share of the item's two genes that the reasoning uses: 0, 1/2 or 1.

    A gene is used where a sentence of the reasoning names it as a whole word, has five words or more, relates it to
    something (a verb such as "represses", a noun such as "levels"), and does not stand in the prompt. A list of names
    or a copied question is no use. An item whose two genes are one asks for that one. Range: 0 to 1. Source: ours;
    rbio's mention reward counts bare names (Istrate et al., 2025).
    """

    __name__ = "gene_mention"
    range = (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None. Needs `pert`, `gene` and `prompts` or `prompt`."""
        n = len(completions)
        perts, genes = (column(columns, name, n, self.__name__) for name in ("pert", "gene"))
        prompts = read_prompts(columns, n, self.__name__)
        answers = read_answers(completions)
        scores: Scores = []
        for answer, pert, gene, prompt in zip(answers, perts, genes, prompts, strict=True):
            if answer is None:
                scores.append(None)
                continue
            wanted = {str(pert), str(gene)}
            think = answer.think or ""
            scores.append(sum(_is_used(name, think, prompt) for name in wanted) / len(wanted))
        return scores


def _is_used(gene: str, think: str, prompt: str) -> bool:
    start = 0
    while (at := think.find(gene, start)) >= 0:
        start = at + len(gene)
        if _inside_word(think, at, start):
            continue
        left, right = _sentence(think, at, start)
        sentence = think[left:right].strip()
        start = max(start, right)
        if _RELATION.search(sentence.lower()) and len(sentence.split()) >= _FEWEST_WORDS and sentence not in prompt:
            return True
    return False


def _inside_word(text: str, left: int, right: int) -> bool:
    before, after = text[left - 1 : left], text[right : right + 1]
    joined = {"-", "_"}  # HLA-A is not A, and A-1 is not A
    return (
        before.isalnum()
        or after.isalnum()
        or before in joined
        or (after in joined and text[right + 1 : right + 2].isalnum())
    )


def _sentence(text: str, left: int, right: int) -> tuple[int, int]:
    """Where the sentence around a span begins and ends."""
    begin = 0
    for end in ("\n", ". ", "! ", "? "):
        found = text.rfind(end, 0, left)
        begin = max(begin, found + len(end) if found >= 0 else 0)
    found_end = SENTENCE_END.search(text, right)
    return begin, found_end.start() if found_end else len(text)


@dataclass(frozen=True)
class Repetition:
    """Score the share of a completion's n-grams of words that are no repeats of earlier ones.

    Unique n-grams / all n-grams; a text without words earns 0, one of fewer than n words its share of unique words.
    Range: 0 to 1. Source: "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373), appendix C.2, as credit
    instead of penalty.

    Args:
        n: words in an n-gram, at least 1.

    Raises:
        InputError: n below 1.
    """

    __name__ = "repetition"
    n: int = 3
    range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"repetition: n {self.n}; use at least 1")

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None. No column is needed."""
        return [None if words is None else _unique_share(words, self.n) for words in read_words(completions)]


def _unique_share(words: Sequence[str], n: int) -> float:
    if not words:
        return 0.0
    if len(words) < n:
        return len(set(words)) / len(words)
    total = len(words) - n + 1
    return len(set(zip(*(words[at:] for at in range(n)), strict=False))) / total


_QUOTES: Final = {'"': re.compile(r'"([^"\n]{1,400})"'), "“": re.compile(r"“([^”\n]{1,400})”")}
_LABELLED: Final = re.compile(r"\((-?[01]\.[0-9]+)\): (upregulated|downregulated|not differentially expressed)")
_FEWEST_QUOTED: Final = 3


@dataclass(frozen=True)
class EvidenceFaithfulness:
    """Score the share of what the reasoning quotes from the prompt that is really there.

    Quotes are passages of three words or more in quotation marks, and evidence in the prompt's own form
    `NAME (0.67): label`; letter case and white space do not count, and a quote counts once. No quote earns 0: there is
    nothing to believe. Range: 0 to 1. Source: ours; quotation precision, as in attribution metrics.
    """

    __name__ = "evidence_faithfulness"
    range = (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None. Needs `prompts` or `prompt`."""
        prompts = read_prompts(columns, len(completions), self.__name__)
        plain = {prompt: " ".join(prompt.lower().split()) for prompt in set(prompts)}
        return [
            None if answer is None else _faithful_share(answer, plain[prompt])
            for answer, prompt in zip(read_answers(completions), prompts, strict=True)
        ]


def _faithful_share(answer: Answer, prompt: str) -> float:
    think = answer.think or ""
    quotes: set[str] = set()
    for mark, pattern in _QUOTES.items():
        if mark in think:
            quoted = (" ".join(one.lower().split()).strip(" .,;:") for one in pattern.findall(think))
            quotes |= {quote for quote in quoted if quote.count(" ") + 1 >= _FEWEST_QUOTED}
    if "): " in think:
        for match in _LABELLED.finditer(think):
            name = think[: match.start()].rsplit(maxsplit=1)[-1:]
            quotes.add(f"{''.join(name)} {match[0]}".lower())
    return sum(quote in prompt for quote in quotes) / len(quotes) if quotes else 0.0


@dataclass(frozen=True)
class Pathways:
    """Score the share of (gene, pathway) pairs named in one sentence of the reasoning that hold in the gene sets.

    0 where no pair is named, or none of the item's own two genes. None where neither of these is in any set: then
    there is no knowledge to judge by. A sentence that denies membership counts as naming it. Range: 0 to 1. Source:
    ours; precision of the claims against a knowledge source, as rbio's knowledge verifier (Istrate et al., 2025).

    Args:
        gene_sets: what is known; from a GMT file in a configuration.
    """

    __name__ = "pathways"
    gene_sets: GeneSets
    range = (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; see above for None. Needs `pert` and `gene`."""
        n = len(completions)
        perts, genes = (column(columns, name, n, self.__name__) for name in ("pert", "gene"))
        scores: Scores = []
        for answer, pert, gene in zip(read_answers(completions), perts, genes, strict=True):
            own = {name for name in (str(pert), str(gene)) if self.gene_sets.knows(name)}
            if answer is None or not own:
                scores.append(None)
                continue
            claims = self.gene_sets.claims(answer.think or "")
            about_own = any(name in own for name, _, _ in claims)
            scores.append(sum(holds for _, _, holds in claims) / len(claims) if about_own else 0.0)
        return scores


gene_mention = GeneMention()
repetition = Repetition()
evidence_faithfulness = EvidenceFaithfulness()
