"""Where a text says what a perturbation does to a gene: quotations of labels in prompts and in reasoning.

A perturbation is wholly in training or wholly in test within a line (none of PerturbQA's 6,737 is in both). So a
quotation of a test label is the symbol of a test perturbation that stands with the label it has there, for the trace's
gene or for another gene that is named. Labels count in their own words and in plain synonyms ("up", "raises",
"unchanged"), symbols in any letter case, and as siX or X-KD. What stands together is one sentence or line, a label
alone on its line with the names just before it, or a heading with the list below it. Questions and suppositions state
nothing.

This finds what came about by accident, not what somebody hides: numbers, other languages, names of proteins, and cells
far apart in a table go unseen. Prompts of our own template are therefore built again, too; see `sft.audit.audit`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from benchmarks.evidence.corpus import Corpus
from rewards import LABELS
from sft.filters.visible import visible
from sft.traces import Trace

Names = frozenset[str]

_UP, _DOWN, _NONE = (str(label) for label in LABELS)
_MEANING: Final = {"up": {_UP}, "down": {_DOWN}, "none": {_NONE}, "de": {_UP, _DOWN}, "negated": set[str]()}
_VALUE: Final = r"(?:[:=|>(\"'*\[]\s*|\b(?:is|are|was|were|goes|go|went|turned)\s+)"  # before a bare "up"
_CELL: Final = r"(?:[,;\t\u2013\u2014\u2192]\s{0,3}|\s-\s+)"  # before one that ends there, or stands before such a mark
_CELL_END: Final = r"(?=\s*(?:$|[\]),;|\t.*\"']))"
_HEAD_END: Final = r"(?=\W*(?:$|:))"  # after one that begins a line, as all of it or before a colon
_LFC: Final = r"\b(?:log2?\s?fc|lfc|log2?[\s-]fold[\s-]change)[\"']?(?:\s+of\b)?\s*[:=]?\s*"
_LEVELS: Final = r"\s+(?:\S+\s+)?(?:expression|levels?|abundance|transcription)\b"
_LABEL: Final = re.compile(
    r"(?P<negated>(?:\b(?:not|never|neither|without)|n't)\s+(?:be\s+|significantly\s+)?(?:up|down)-?\s?regulat\w+)"
    r"|(?P<none>(?:\bnot|n't)\s+(?:be\s+|significantly\s+)*(?:differentially\s+expressed|de\b|changed?\b|affected)"
    rf"|\bnon-?de\b|\bunchanged\b|\bunaffected\b|\bno\s+(?:significant\s+)?change\b|{_VALUE}none\b(?!\s+known)"
    r"|\bde[\"']?\s*[:=]\s*[\"']?(?:no|false)\b)"
    r"|(?P<up>\bup-?\s?regulat\w+|\b(?:increas|rais|induc|elevat)(?:es?|ed|ing)\b|\b(?:rises?|rose)\b|[\u2191\u2b06]"
    rf"|{_VALUE}up\b(?!-)|{_CELL}up\b{_CELL_END}|^\W*up\b{_HEAD_END}|{_LFC}\+?[0-9]"
    rf"|\bhigher{_LEVELS}|\b(?:expression|levels?)\s+(?:is|are)\s+higher\b)"
    r"|(?P<down>\bdown-?\s?regulat\w+|\b(?:decreas|reduc)(?:es?|ed|ing)\b|\b(?:lowers|lowered|falls?|fell|drops?)\b"
    rf"|[\u2193\u2b07]|{_VALUE}down\b(?!-)|{_CELL}down\b{_CELL_END}|^\W*down\b{_HEAD_END}|{_LFC}[-\u2212][0-9]"
    rf"|\blower{_LEVELS}|\b(?:expression|levels?)\s+(?:is|are)\s+lower\b)"
    r"|(?P<de>\bdifferentially\s+expressed\b|\bde[\"']?\s*[:=]\s*[\"']?(?:yes|true)\b)",
    re.IGNORECASE,
)
# These tell an effect only behind a loss: what activates a gene lowers it when it is lost.
_BY_LOSS: Final = re.compile(
    r"\b(?:knock\w*|kd|loss|losing|deplet\w*|silenc\w*)\b[^.;]{0,40}?"
    r"\b(?:(?P<up>(?:activat|boost)(?:es?|s|ed|ing)\b)|(?P<down>(?:repress|suppress)(?:es|ed|ing)\b))",
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
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])(?<!^\d\.)\s+(?![^()]{0,80}\))")  # not within brackets
_BRACKETS: Final = re.compile(r"\([^()]*\)")
_CLAUSE_END: Final = re.compile(r"[(,;]")
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
_SUPPOSED: Final = re.compile(r"\b(?:whether|if|would|may|might|could|possibl[ey])\b", re.IGNORECASE)
_GUESSED: Final = re.compile(r"\b(?:should|likely|perhaps|expect\w*|predict\w*|suggest\w*)\b", re.IGNORECASE)
_KNOCKDOWN: Final = re.compile(
    r":|\b(?:knock\w*|kd|ko|crispri|loss|losing|lost|deplet\w*|silenc\w*|without|inhibit\w*|ablat\w*|repress\w*"
    r"|suppress\w*|perturb\w*|targeting)\b",
    re.IGNORECASE,
)
_GENERAL: Final = re.compile(
    r"\b(?:examples?|e\.g|for instance|format|such as|prior|base[- ]rate|usually|most\s+(?:pairs|genes|items))\b",
    re.IGNORECASE,
)
_READOUT: Final = re.compile(r"\W*(?:gene|readout|target)\b", re.IGNORECASE)
_LIST_ITEM: Final = re.compile(r"[-*\u2022]\s|\d+[.)]\s")
_LIST_MARK: Final = re.compile(r"[\W\d]{0,12}(?:[A-Za-z][.):])?\W{0,4}(?:<\w+>)?")
_VERB: Final = re.compile(r"[.!?]$|\b(?:is|are|was|were|has|have|had|lacks?|does|do|shows?|differs?)\b", re.IGNORECASE)
_LOOK_BACK: Final = 8  # units before a label alone on its line
_LIST_LENGTH: Final = 200  # units below a heading
_TOLD: Final = re.compile(
    r"\b(?:answer|label|effect|outcome|result|truth|direction|hint)\b\W{0,4}(?:(?:is|was|will be)\b\W{0,3})?"
    rf"(?:{_LABEL.pattern})",
    re.IGNORECASE,
)
_ASSERTED: Final = re.compile(
    r"(?P<symbol>[A-Za-z0-9.@-]{1,40})(?:\s{0,3}\([^()]{0,80}\))?\W{0,3}"
    r"(?:\b(?:is|was|will be|becomes)\b|[:=\u2192])\W{0,4}"
    rf"(?:{_LABEL.pattern})\W*$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Unit:
    """A sentence or line.

    Attributes:
        text: as it is visible.
        labels, spelt: the labels it states, and those of them in their own words.
        symbols, capitals: the symbols it names, and those of them that are no lower-case words.
        outside: those of the latter that stand in no brackets.
        lines: the cell lines it names.
        label_first: whether it begins with a label.
        asserted, to_last: its beginning up to the end of the clause with the first label, and with the last one.
    """

    text: str
    labels: Names
    spelt: Names
    symbols: Names
    capitals: Names
    outside: Names
    lines: Names
    label_first: bool
    asserted: str
    to_last: str


class QuotationFinder:
    """Finds quotations of the labels under a split."""

    def __init__(self, corpus: Corpus) -> None:
        self._perts = {str(pert).casefold() for pert in corpus.labels["pert"].unique()}
        self._readouts = {str(gene).casefold() for gene in corpus.labels["gene"].unique()} - self._perts
        self._named = self._perts | self._readouts
        self._tests: dict[str, dict[str, dict[str, tuple[str, str]]]] = {line: {} for line in _LINES}
        columns = (corpus.test[name].astype("str") for name in ("item_id", "cell_line", "pert", "gene", "label"))
        for item_id, line, pert, gene, label in zip(*columns, strict=True):
            self._tests[line].setdefault(pert.casefold(), {})[gene.casefold()] = (label, item_id)

    def in_prompt(self, trace: Trace) -> Iterator[tuple[str | None, bool]]:
        """Yield, for each statement of a label in a prompt, the test item it quotes, and whether it tells its own."""
        pert, gene = trace.pert.casefold(), trace.gene.casefold()
        for message in trace.prompt:
            units = _units(message["content"])
            here = frozenset((trace.cell_line,))
            heading = here
            found: list[tuple[str | None, Names]] = []
            for at, unit in enumerate(units):
                if unit.lines == here or _is_heading(unit):
                    heading = unit.lines  # for what follows
                if (
                    not unit.labels
                    or "?" in unit.text
                    or _SUPPOSED.search(unit.asserted)
                    or self._is_choice(units, at, {pert, gene})
                ):
                    continue
                alone = not (unit.symbols & self._perts) - {pert, gene}
                near = [unit, *self._around(units, at, gene)] if alone else [unit]
                symbols = frozenset(name for one in near for name in one.symbols)
                genes = frozenset(name for one in near for name in one.capitals)
                if not any(one.outside & self._readouts for one in near):
                    genes |= {gene}  # where none is named, it is the trace's
                lines = next((one.lines for one in near if one.lines), heading)
                others = (symbols & self._named) - {pert, gene}
                own = alone and lines == here and (not others or {pert, gene} <= symbols)
                found.append(
                    (self._test_item(trace, lines, symbols, genes, unit.labels), _told(unit, trace) if own else Names())
                )
            # Two labels told of one item are answers to choose from.
            told = Names().union(*(labels for _, labels in found))
            for item_id, labels in found:
                yield item_id, bool(labels) and told == {trace.label}

    def _is_choice(self, units: Sequence[_Unit], at: int, own: set[str]) -> bool:
        """Whether a line that begins with a label, and names no other item, is beside another such: choices."""

        def begins(one: _Unit) -> bool:
            return one.label_first and not (one.symbols & self._named) - own

        beside = [*units[max(0, at - 1) : at], *units[at + 1 : at + 2]]
        return begins(units[at]) and any(begins(one) and one.labels != units[at].labels for one in beside)

    def _around(self, units: Sequence[_Unit], at: int, gene: str) -> Iterator[_Unit]:
        """The names that a label alone belongs to: those just before it, or the list that it heads."""
        above = units[max(0, at - _LOOK_BACK) : at]
        for unit in reversed(above[:-1] if above and not above[-1].text else above):
            if unit.labels or not unit.text:
                break
            yield unit
            if (unit.symbols & self._perts) - {gene} and not _READOUT.match(unit.text):
                break
        below = units[at + 1 : at + 1 + _LIST_LENGTH]
        if below and not below[0].text:
            below = below[1:]
        if below and _heads(units[at].text, below[0].text):
            for unit in below:
                if unit.labels or not unit.text:
                    break
                yield unit

    def in_reasoning(self, trace: Trace, reasoning: str) -> Iterator[str | None]:
        """Yield, for each statement of a knockdown's effect in reasoning, the test item it quotes.

        A teacher may know some biology: only a sentence that names a knockdown and a gene by symbol and a label in its
        own words, and does not guess, is a statement.
        """
        for unit in _units(reasoning):
            guess = "?" in unit.text or _SUPPOSED.search(unit.to_last) or _GUESSED.search(unit.to_last)
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


def _told(unit: _Unit, trace: Trace) -> Names:
    """The label that a statement asserts of the trace, if it does."""
    if len(unit.labels) != 1 or _GENERAL.search(unit.text):
        return Names()
    own = {trace.pert.casefold(), trace.gene.casefold()}
    match = _ASSERTED.search(unit.text)
    asserted = match is not None and match["symbol"].casefold() in own
    if asserted or (unit.spelt and own <= unit.symbols) or _TOLD.search(unit.text):
        return unit.labels
    return Names()


def _is_heading(unit: _Unit) -> bool:
    """Whether a unit names the cell line of what follows."""
    short = len(unit.text.split()) <= 5 and not _VERB.search(unit.text)
    return len(unit.lines) == 1 and not unit.labels and (unit.text.startswith("#") or unit.text.endswith(":") or short)


def _heads(text: str, below: str) -> bool:
    """Whether a unit with a label is the heading of a list."""
    short = len(text.split()) <= 8 and not _VERB.search(text)
    return (
        text.endswith(":")
        or text.startswith("#")
        or (short and bool(_LIST_ITEM.match(below)) and not _LIST_ITEM.match(text))
    )


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
    starts, ends = [], []
    for match in (*_LABEL.finditer(text), *_BY_LOSS.finditer(text)):
        meaning = _MEANING[str(match.lastgroup)]
        labels |= meaning
        starts.append(match.start())
        ends.append(match.end())
        if match.lastgroup != "de" and match.re is _LABEL and _OWN_WORDS.search(match[0]):
            spelt |= meaning
    symbols, capitals = _symbols(text)
    lines = frozenset(line for line, pattern in _LINES.items() if pattern.search(text))
    outside = _symbols(_BRACKETS.sub(" ", text))[1] if "(" in text else capitals
    label_first = bool(starts) and _LIST_MARK.fullmatch(text, 0, min(starts)) is not None
    asserted, to_last = (_clause(text, end) for end in (min(ends, default=0), max(ends, default=0)))
    return _Unit(
        text, frozenset(labels), frozenset(spelt), symbols, capitals, outside, lines, label_first, asserted, to_last
    )


def _clause(text: str, end: int) -> str:
    found = _CLAUSE_END.search(text, end)
    return text[: found.start()] if found else text


def _symbols(text: str) -> tuple[Names, Names]:
    symbols: set[str] = set()
    capitals: set[str] = set()
    for token in _SYMBOL.findall(text):
        for form in {token, _AFFIX.sub("", token)}:
            is_word = form.isalpha() and form.islower()
            if not is_word:
                capitals.add(form.casefold())
            if not is_word or form not in _WORDS:
                symbols.add(form.casefold())
    return frozenset(symbols), frozenset(capitals)
