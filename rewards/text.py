"""Rewards for the reasoning: length, use of genes, repetition, faithful quotes, pathways that hold.

The same signature as in `rewards/functions.py`. None of these knows whether the answer is right: give them a small
weight beside one that does, and run `synthpert rewards check`.
"""

import functools
import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from rewards.answer import NEGATION, Answer
from rewards.batch import Completion, Scores, column, read_answers, read_prompts, read_words
from rewards.errors import InputError
from rewards.labels import LABELS
from rewards.reward import Reward
from rewards.verifiers import GeneSets, sentences

__all__ = [
    "EvidenceFaithfulness",
    "GeneMention",
    "Length",
    "Pathways",
    "Repetition",
    "evidence_faithfulness",
    "gene_mention",
    "repetition",
]

UNITS: Final = ("words", "tokens")
_FEWEST_WORDS: Final = 5
_WORD: Final = re.compile(r"[^\W_][\w'’-]*")
# Words that hold a sentence together. A list of names and keywords has none; in English two of five words are such.
_FUNCTION_WORDS: Final = frozenset(re.findall(r"\w+", """
    a about after all also although an and any are as at be because been before being between both but by can could
    did do does during each either few for from had has have hence here how however i if in into is it its many may
    might more most must no nor not of on one only or other our over should since so some such than that the their
    them then there therefore these they this those though through thus to too under until upon via was we were what
    when where whether which while who whose why will with within without would yet
"""))  # fmt: skip
_FEWEST_FUNCTION: Final = 1 / 8  # share of a sentence's words
_JOINERS: Final = frozenset("-_")
_JOINED: Final = re.compile(r"[-_](?:like\b|(?![a-z]{3})[^\W_])")
# A gene counts as used where its sentence relates it to something; the bare name does not do that.
_RELATION: Final = re.compile(
    r"\b(?:activat|affect|bind|block|caus|chang|control|decreas|deplet|depend|differ|downregulat|driv|encod|express|"
    r"impair|increas|induc|inhibit|interact|knock|lead|level|los[est]|lower|modulat|mediat|participat|phosphorylat|promot|"
    r"rais|reduc|regulat|repress|requir|respon|silenc|spare|stabili[sz]|suppress|support|target|transcri|trigger|"
    r"upregulat)"
)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Length(Reward):
    """Score 1 within a band of lengths, and less in proportion outside: n / low below it, high / n above it.

    Range: 0 to 1. Source: ours; a two-sided form of DAPO's soft overlong punishment (arXiv 2503.14476).

    Args:
        low: lower end of the band, at least 1.
        high: upper end, at least `low`.
        unit: `words` (split at white space) or `tokens` (of the tokenizer, from the columns `completion_ids` or
            `completion_tokens`).

    Raises:
        InputError: no band of whole numbers, or an unknown unit.
    """

    __name__ = "length"
    low: int
    high: int
    unit: str = "words"
    range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (_is_whole(self.low) and _is_whole(self.high) and 1 <= self.low <= self.high):
            raise InputError(f"length: low {self.low!r}, high {self.high!r}; use whole numbers, 1 <= low <= high")
        if self.unit not in UNITS:
            raise InputError(f"length: unit {self.unit!r} is unknown; use {' or '.join(UNITS)}")

    @property
    def counts_tokens(self) -> bool:
        """Whether the unit is one of the tokenizer's."""
        return self.unit == "tokens"

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None, or its number of tokens is missing."""
        lengths: Sequence[int | None]
        words = read_words(completions)
        if self.unit == "words":
            lengths = [0 if found is None else len(found) for found in words]
        elif columns.get("completion_ids") is not None:
            lengths = [len(ids) for ids in column(columns, "completion_ids", len(completions), "length")]
        else:
            given = column(columns, "completion_tokens", len(completions), "length")
            lengths = [None if pd.isna(n) else int(n) for n in given]
        return [None if found is None or n is None else self._band(n) for found, n in zip(words, lengths, strict=True)]

    def _band(self, n: int) -> float:
        return 1.0 if self.low <= n <= self.high else n / self.low if n < self.low else self.high / n


@dataclass(frozen=True)
class GeneMention(Reward):
    """Score the share of the item's two genes that the reasoning uses: 0, 1/2 or 1.

    A gene is used where a sentence of the reasoning names it as a whole word ("AARS-mediated" does, "AARS2" does not),
    and the sentence has five words or more, fewer than half of them in threes that the prompt has too; besides the
    genes two different words of content, one of them of relation ("represses", "levels"); function words ("of", "the"),
    at least one in eight; and not the two genes side by side with nothing between them. A list of names or keywords and
    a copied question, with or without a word added, are no use. It cannot see whether a sentence makes sense or is
    true: words in any order that meet this count. An item whose two genes are one asks for that one. Range: 0 to 1.
    Source: ours; rbio's mention reward counts bare names (Istrate et al., 2025).
    """

    __name__ = "gene_mention"
    range = (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None. Needs `pert`, `gene` and `prompts` or `prompt`."""
        n = len(completions)
        perts, genes = (column(columns, name, n, self.__name__) for name in ("pert", "gene"))
        prompts = read_prompts(columns, n, self.__name__)
        plain = {prompt: f" {' '.join(_words(prompt))} " for prompt in set(prompts)}
        answers = read_answers(completions)
        scores: Scores = []
        for answer, pert, gene, prompt in zip(answers, perts, genes, prompts, strict=True):
            if answer is None:
                scores.append(None)
                continue
            names = dict.fromkeys((str(pert), str(gene)))
            scores.append(len(_used(names, answer.think or "", plain[prompt])) / len(names))
        return scores


def _used(names: Collection[str], think: str, prompt: str) -> set[str]:
    """The names that sentences use; see `GeneMention`."""
    used: set[str] = set()
    for sentence in sentences(think):
        named = [name for name in names if name in sentence and name not in used and _stands_in(name, sentence)]
        if named and _relates(sentence, names, prompt):
            used.update(named)
            if len(used) == len(names):
                break
    return used


def _relates(sentence: str, names: Collection[str], prompt: str) -> bool:
    """Whether a sentence relates its genes to something, in words of its own."""
    words = _words(sentence)
    if len(words) < _FEWEST_WORDS or 2 * _copied(words, prompt) >= len(words):
        return False
    distinct = set(words)
    content = distinct - _FUNCTION_WORDS
    if len(distinct) - len(content) < _FEWEST_FUNCTION * len(distinct):
        return False
    content.difference_update([name.lower() for name in names])
    if len(content) < 2 or not any(map(_is_relation, content)):
        return False
    if not all(name in sentence for name in names):
        return True
    plain = f" {' '.join(sentence.split())} "
    return not any(f" {one} {other} " in plain for one, other in itertools.permutations(names, 2))


def _copied(words: Sequence[str], prompt: str) -> int:
    """How many words stand in threes, one after the other, that a prompt has too."""
    threes = zip(words[::3], words[1::3], words[2::3], strict=False)
    return 3 * sum([f" {one} {two} {three} " in prompt for one, two, three in threes])


@functools.lru_cache(4096)
def _is_relation(word: str) -> bool:
    return _RELATION.search(word) is not None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _inside_word(text: str, left: int, right: int) -> bool:
    """Whether a span is part of a longer name: A in HLA-A, A-1, A2 and A-like, but not in A-mediated."""
    before, after = text[left - 1 : left], text[right : right + 1]
    if before.isalnum() or after.isalnum() or before in _JOINERS:
        return True
    return after in _JOINERS and _JOINED.match(text, right) is not None


def _stands_in(part: str, text: str) -> bool:
    """Whether a part stands in a text and does not begin or end within a word."""
    at = text.find(part)
    while at >= 0 and _inside_word(text, at, at + len(part)):
        at = text.find(part, at + 1)
    return at >= 0


@dataclass(frozen=True)
class Repetition(Reward):
    """Score the share of a completion's n-grams of words that are no repeats of earlier ones.

    Unique n-grams / all n-grams; a text without words earns 0, one of fewer than n words its share of unique words.
    Range: 0 to 1. Source: "Demystifying Long Chain-of-Thought Reasoning" (arXiv 2502.03373), appendix C.2, as credit
    instead of penalty.

    Args:
        n: words in an n-gram, at least 1.

    Raises:
        InputError: n is no whole number, or below 1.
    """

    __name__ = "repetition"
    n: int = 3
    range = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (_is_whole(self.n) and self.n >= 1):
            raise InputError(f"repetition: n {self.n!r}; use a whole number, at least 1")

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


# An apostrophe within a word ends no quote.
_QUOTES: Final = {
    '"': re.compile(r'"([^"\n]{1,400})"'),
    "“": re.compile(r"“([^”\n]{1,400})”"),
    "'": re.compile(r"(?<!\w)'((?:[^'\n]|(?<=\w)'(?=\w)){1,400})'(?!\w)"),
    "‘": re.compile(r"‘((?:[^’\n]|(?<=\w)’(?=\w)){1,400})’(?!\w)"),
}
_FEWEST_QUOTED: Final = 3
# Evidence is a name, a number and a label: LARS (0.67): upregulated; LARS (similarity .67) was strongly upregulated.
# The number is looked for first: it is rare. What stands around it is read within _NEAR characters.
_DECIMALS: Final = re.compile(r"\.[0-9]+")
_NEAR: Final = 80
_NAME: Final = re.compile(r"\s*([\w.-]+)")  # read backwards from a bracket
_SYMBOL: Final = re.compile(r"(?<![\w.-])([A-Z][A-Z0-9][\w.-]*)[\s:,=]*((?:[a-z]+[\s:,=]+){0,3})$")
_LABELS: Final = "|".join(LABELS)
# A word begins with a letter: a run of apostrophes could else be cut into words in endless ways.
_LABEL_AFTER: Final = re.compile(rf"[^\w.!?]*((?:[a-z][a-z'’]*[^\w.!?]+){{0,3}}?)({_LABELS})\b", re.IGNORECASE)
_LABEL_WITHIN: Final = re.compile(rf"()({_LABELS})\b", re.IGNORECASE)


@dataclass(frozen=True)
class EvidenceFaithfulness(Reward):
    """Score the share of what the reasoning quotes from the prompt that is really there.

    Quotes are passages of three words or more in quotation marks, which must stand in the prompt as whole words, and
    evidence: a name with a number and then a label, as in the prompt's `NAME (0.67): label` or otherwise, such as
    `NAME (similarity .67) was strongly upregulated`, whose name, number and label the prompt must give together. Letter
    case and white space do not count, and a quote counts once. No quote earns 0: there is nothing to believe. It cannot
    see claims without a number or quotation marks, nor whether what is quoted matters. Range: 0 to 1. Source: ours;
    quotation precision, as in attribution metrics.
    """

    __name__ = "evidence_faithfulness"
    range = (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None. Needs `prompts` or `prompt`."""
        prompts = read_prompts(columns, len(completions), self.__name__)
        known = {prompt: (" ".join(prompt.lower().split()), _evidence(prompt)) for prompt in set(prompts)}
        return [
            None if answer is None else _faithful_share(answer, *known[prompt])
            for answer, prompt in zip(read_answers(completions), prompts, strict=True)
        ]


def _faithful_share(answer: Answer, prompt: str, evidence: set[tuple[str, float, str]]) -> float:
    think = answer.think or ""
    quotes: set[str] = set()
    for mark, pattern in _QUOTES.items():
        if mark in think:
            quoted = (" ".join(one.lower().split()).strip(" .,;:") for one in pattern.findall(think))
            quotes |= {quote for quote in quoted if quote.count(" ") + 1 >= _FEWEST_QUOTED}
    claims = _evidence(think)
    if not quotes and not claims:
        return 0.0
    return (sum(_stands_in(quote, prompt) for quote in quotes) + len(claims & evidence)) / (len(quotes) + len(claims))


def _evidence(text: str) -> set[tuple[str, float, str]]:
    """Each name, number and label that a text gives as evidence, in lower case; the label with a "not" if negated."""
    found: set[tuple[str, float, str]] = set()
    for decimals in _DECIMALS.finditer(text):
        start, end = decimals.span()
        start -= text[start - 1 : start].isdecimal()
        start -= text[start - 1 : start] == "-"
        before, bracket, between = text[max(0, start - _NEAR) : start].replace("[", "(").rpartition("(")
        if bracket and ")" not in between:
            last = _NAME.match(before[::-1])
            name = last[1][::-1] if last else ""
        else:
            symbol = _SYMBOL.search(before + bracket + between)
            name, between = (symbol[1], symbol[2]) if symbol else ("", "")
        label = _LABEL_AFTER.match(text[end : end + _NEAR]) or _LABEL_WITHIN.search(between)
        if name and label:
            negated = "not " if NEGATION.search(label[1]) else ""
            found.add((name.lower(), float(text[start:end]), negated + label[2].lower()))
    return found


_FACTS: Final = 2  # pathways that an honest policy names for a gene
_PHRASES: Final = 30  # that an exploit names


@dataclass(frozen=True)
class Pathways(Reward):
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

    @property
    def phrases(self) -> tuple[str, ...]:
        """Names of the first sets."""
        return tuple(itertools.islice(self.gene_sets.sets, _PHRASES))

    def honest_sentences(self, pert: str, gene: str) -> tuple[str, ...]:
        """Return memberships that hold, of the two genes."""
        sets = self.gene_sets.sets
        return tuple(
            f"{name} takes part in {phrase}."
            for name in dict.fromkeys((pert, gene))
            for phrase in itertools.islice((phrase for phrase, genes in sets.items() if name in genes), _FACTS)
        )

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

REWARDS: Final = (Length, GeneMention, Repetition, EvidenceFaithfulness, Pathways)
