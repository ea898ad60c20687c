"""Where a text says what a perturbation does to a gene: quotations of labels in prompts and in reasoning.

A perturbation is wholly in training or wholly in test within a line (none of PerturbQA's 6,737 is in both). So a
quotation of a test label is the symbol of a test perturbation that stands with the label it has there, for the trace's
gene or for another gene that is named. Labels count in their own words and in plain synonyms ("up", "raises",
"unchanged"), symbols in any letter case, and as siX or X-KD. What stands together is one sentence or line, or a label
alone on its line with the names around it. Questions and suppositions state nothing.

This finds what came about by accident, not what somebody hides: numbers, other languages, names of proteins, and cells
far apart in a table go unseen. Prompts of our own template are therefore built again, too; see `sft.audit`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from benchmarks.corpus import Corpus
from rewards import LABELS
from sft.leaks import visible
from sft.traces import Trace

Names = frozenset[str]

_UP, _DOWN, _NONE = (str(label) for label in LABELS)
_MEANING: Final = {"up": {_UP}, "down": {_DOWN}, "none": {_NONE}, "de": {_UP, _DOWN}, "negated": set[str]()}
_VALUE: Final = r"(?:[:=|>(\"'*]\s*|\b(?:is|are|was|were|goes|go|went|turned)\s+)"  # before a bare "up"
_LABEL: Final = re.compile(
    r"(?P<negated>(?:\b(?:not|never|neither|without)|n't)\s+(?:be\s+|significantly\s+)?(?:up|down)-?\s?regulat\w+)"
    r"|(?P<none>(?:\bnot|n't)\s+(?:be\s+|significantly\s+)*(?:differentially\s+expressed|de\b|changed?\b|affected)"
    rf"|\bnon-?de\b|\bunchanged\b|\bunaffected\b|\bno\s+(?:significant\s+)?change\b|{_VALUE}none\b(?!\s+known)"
    r"|\bde[\"']?\s*[:=]\s*[\"']?(?:no|false)\b)"
    r"|(?P<up>\bup-?\s?regulat\w+|\b(?:increas|rais|induc|elevat)(?:es?|ed|ing)\b|\b(?:rises?|rose)\b|[\u2191\u2b06]"
    rf"|{_VALUE}up\b(?!-)|\blog2?\s?fc\s*[:=]?\s*\+?[0-9])"
    r"|(?P<down>\bdown-?\s?regulat\w+|\b(?:decreas|reduc)(?:es?|ed|ing)\b|\b(?:lowers|lowered|falls?|fell|drops?)\b"
    rf"|[\u2193\u2b07]|{_VALUE}down\b(?!-)|\blog2?\s?fc\s*[:=]?\s*[-\u2212][0-9])"
    r"|(?P<de>\bdifferentially\s+expressed\b|\bde[\"']?\s*[:=]\s*[\"']?(?:yes|true)\b)",
    re.IGNORECASE,
)
_OWN_WORDS: Final = re.compile("regulat|expressed", re.IGNORECASE)
# Answers to choose from, side by side, state nothing.
_CHOICE: Final = (
    r"(?:not\s+differentially\s+expressed|(?:up|down)-?regulated|increased?|decreased?|unchanged|no\s+change|none|up|down)"
    r"\b"
)
_BETWEEN: Final = r"[\s,;/|\"'*`<>()-]*(?:\b(?:or|and|versus|vs)\b)?[\s,;/|\"'*`<>()-]*"
_CHOICES: Final = re.compile(rf"\b{_CHOICE}(?:{_BETWEEN}\b{_CHOICE})+", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+")
_SYMBOL: Final = re.compile(r"[A-Za-z0-9]+(?:[-.@][A-Za-z0-9]+)*")
_AFFIX: Final = re.compile(r"^(?:si|sh|sg)(?=[A-Z0-9])|-?(?:KD|KO|kd|ko)$|-[a-z]+$")
# Symbols that are English words count in capitals only.
_WORDS: Final = frozenset(
    ("ado", "cad", "cast", "clock", "cope", "ell", "impact", "kin", "mars", "max", "mice", "not", "poll", "prep", "ran",
     "rest", "set", "son", "strap", "tars", "timeless", "was", "wiz")
)  # fmt: skip
_LINES: Final = {
    line: re.compile(rf"\b{pattern}\b", re.IGNORECASE)
    for line, pattern in (("k562", "k-?562"), ("rpe1", "rpe-?1"), ("hepg2", "hep[- ]?g2"), ("jurkat", "jurkat"))
}
_SUPPOSED: Final = re.compile(r"\?|\b(?:whether|if|would|may|might|could|possibl[ey])\b", re.IGNORECASE)
_GUESSED: Final = re.compile(r"\b(?:should|likely|perhaps|expect\w*|predict\w*|suggest\w*)\b", re.IGNORECASE)
_KNOCKDOWN: Final = re.compile(r":|\b(?:knock\w*|kd|loss|losing|lost|deplet\w*|silenc\w*|without)\b", re.IGNORECASE)
_EXAMPLE: Final = re.compile(r"\b(?:examples?|e\.g|for instance|format|such as)\b", re.IGNORECASE)
_TOLD: Final = re.compile(
    r"\b(?:answer|label|effect|outcome|result|truth|direction|hint)\b\W{0,4}(?:(?:is|was|will be)\b\W{0,3})?"
    rf"(?:{_LABEL.pattern})",
    re.IGNORECASE,
)
_ASSERTED: Final = re.compile(
    r"(?P<symbol>[A-Za-z0-9.@-]+)(?:\s*\([^)]*\))?\W{0,3}(?:\b(?:is|was|will be|becomes)\b|[:=\u2192])\W{0,4}"
    rf"(?:{_LABEL.pattern})\W*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Unit:
    """A sentence or line: the labels it states, those of them in their own words, the symbols and lines it names."""

    text: str
    labels: Names
    spelt: Names
    symbols: Names
    capitals: Names
    lines: Names


class QuotationFinder:
    """Finds quotations of the labels under a split."""

    def __init__(self, corpus: Corpus) -> None:
        self._perts = {str(pert).casefold() for pert in corpus.labels["pert"].unique()}
        self._readouts = {str(gene).casefold() for gene in corpus.labels["gene"].unique()} - self._perts
        self._tests: dict[str, dict[str, dict[str, tuple[str, str]]]] = {line: {} for line in _LINES}
        columns = (corpus.test[name].astype("str") for name in ("item_id", "cell_line", "pert", "gene", "label"))
        for item_id, line, pert, gene, label in zip(*columns, strict=True):
            self._tests[line].setdefault(pert.casefold(), {})[gene.casefold()] = (label, item_id)

    def in_prompt(self, trace: Trace) -> Iterator[tuple[str | None, bool]]:
        """Yield, for each statement of a label in a prompt, the test item it quotes, and whether it tells its own."""
        pert, gene = trace.pert.casefold(), trace.gene.casefold()
        for message in trace.prompt:
            units = _units(message["content"])
            lines = frozenset((trace.cell_line,))
            for at, unit in enumerate(units):
                lines = unit.lines or lines  # a heading names the line for what follows
                if not unit.labels or _SUPPOSED.search(unit.text):
                    continue
                alone = not (unit.symbols & self._perts) - {pert, gene}
                near = [unit, *_around(units, at)] if alone else [unit]
                symbols = frozenset(name for one in near for name in one.symbols)
                genes = frozenset(name for one in near for name in one.capitals)
                genes = genes if genes & self._readouts else genes | {gene}  # where none is named, it is the trace's
                own = alone and lines == {trace.cell_line} and _tells(unit, trace)
                yield self._test_item(trace, lines, symbols, genes, unit.labels), own

    def in_reasoning(self, trace: Trace, reasoning: str) -> Iterator[str | None]:
        """Yield, for each statement of a knockdown's effect in reasoning, the test item it quotes.

        A teacher may know some biology: only a sentence that names a knockdown and a gene by symbol and a label in its
        own words, and does not guess, is a statement.
        """
        for unit in _units(reasoning):
            guess = _SUPPOSED.search(unit.text) or _GUESSED.search(unit.text)
            if unit.spelt and len(unit.capitals) > 1 and _KNOCKDOWN.search(unit.text) and not guess:
                lines = unit.lines or frozenset((trace.cell_line,))
                yield self._test_item(trace, lines, unit.capitals, unit.capitals, unit.spelt)

    def _test_item(self, trace: Trace, lines: Names, perts: Names, genes: Names, labels: Names) -> str | None:
        for line in sorted(lines):
            tests = self._tests[line]
            for pert in sorted(perts & tests.keys()):
                # The trace's gene is named anywhere; that it is also a perturbation is chance.
                if pert == trace.gene.casefold() or (line == trace.cell_line and pert == trace.pert.casefold()):
                    continue
                for gene in sorted(genes & tests[pert].keys()):
                    label, item_id = tests[pert][gene]
                    if label in labels:
                        return item_id
        return None


def _tells(unit: _Unit, trace: Trace) -> bool:
    """Whether a statement asserts the label of the trace."""
    if unit.labels != {trace.label} or _EXAMPLE.search(unit.text):
        return False
    own = {trace.pert.casefold(), trace.gene.casefold()}
    match = _ASSERTED.search(unit.text)
    asserted = match is not None and match["symbol"].casefold() in own
    return asserted or (bool(unit.spelt) and own <= unit.symbols) or _TOLD.search(unit.text) is not None


def _around(units: Sequence[_Unit], at: int) -> Iterator[_Unit]:
    """The names that a label alone belongs to: those just before it, or the list that it heads."""
    for unit in reversed(units[max(0, at - 2) : at]):
        if unit.labels or not unit.text:
            break
        yield unit
    if units[at].text.endswith(":"):
        for unit in units[at + 1 : at + 11]:
            if unit.labels or not unit.text:
                break
            yield unit


@lru_cache(maxsize=8)
def _units(text: str) -> tuple[_Unit, ...]:
    found = []
    for line in visible(text).splitlines():
        found += [_unit(part) for part in _SENTENCE_END.split(_CHOICES.sub(_without_choices, line).strip())]
    return tuple(found)


def _without_choices(match: re.Match[str]) -> str:
    kinds = {" ".join(word.lower().replace("-", "").split()) for word in re.findall(_CHOICE, match[0], re.IGNORECASE)}
    return " " if len(kinds) > (2 if "|" in match[0] else 1) else match[0]  # two cells of a table may be statements


def _unit(text: str) -> _Unit:
    labels: set[str] = set()
    spelt: set[str] = set()
    for match in _LABEL.finditer(text):
        meaning = _MEANING[str(match.lastgroup)]
        labels |= meaning
        if match.lastgroup != "de" and _OWN_WORDS.search(match[0]):
            spelt |= meaning
    symbols: set[str] = set()
    capitals: set[str] = set()
    for token in _SYMBOL.findall(text):
        for form in {token, _AFFIX.sub("", token)}:
            is_word = form.isalpha() and form.islower()
            if not is_word:
                capitals.add(form.casefold())
            if not is_word or form not in _WORDS:
                symbols.add(form.casefold())
    lines = frozenset(line for line, pattern in _LINES.items() if pattern.search(text))
    return _Unit(text, frozenset(labels), frozenset(spelt), frozenset(symbols), frozenset(capitals), lines)
