"""The prompts about an item. A change of the wording is a new version; the wording of earlier versions stays."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from benchmarks.chat import Message
from benchmarks.evidence.corpus import Corpus, label_inputs, open_corpus
from benchmarks.evidence.kinds.kind import EvidenceKind, read_evidence
from benchmarks.evidence.quote import evidence_inputs, evidence_parts
from benchmarks.evidence.reference import EVIDENCE_FROM_HELP, ORTHOLOGS_HELP, open_reference
from benchmarks.keys import check_values, from_keys
from rewards import InputError, Label

_SYSTEM: Final = "You are an expert on CRISPRi knockdown and gene regulation."
_LABELS: Final = {
    "three_class": f"Labels: {Label.UP}; {Label.DOWN}; {Label.NONE}.",
    "direction": f"Labels: {Label.UP}; {Label.DOWN}.",
}
_ITEM: Final = "{pert} is knocked down by CRISPRi in {cell}"
# Version 1 asks about the item at once. Version 2 begins with what all prompts share, so that it is computed once.
_ASK_1: Final = {
    "three_class": _ITEM + ". What happens to the expression of {asked}?",
    "direction": _ITEM + ", and the expression of {asked} changes. In which direction?",
}
_TASK_2: Final = {
    "three_class": "One gene is knocked down by CRISPRi. What happens to the expression of another gene?",
    "direction": "One gene is knocked down by CRISPRi, and the expression of another changes. In which direction?",
}
_TASK_SETS: Final = {
    "three_class": "One gene is knocked down by CRISPRi. What happens to the expression of a set of genes?",
    "direction": (
        "One gene is knocked down by CRISPRi, and the expression of a set of genes changes. In which direction?"
    ),
}
_ASK_2: Final = _ITEM + ". What happens to {asked}?"
_FORMAT: Final = "Think first, then answer: <think>reasoning</think><answer>one label</answer>"

# The eleven angles that SynthPert (arXiv 2509.25346) makes its teacher consider, in our words.
LEMMAS: Final = (
    "gene function: what both genes do",
    "pathway: which processes they share",
    "knockdown phenotype: what losing {pert} does to the cell",
    "position in the pathway: whether {pert} acts before or after {gene}",
    "locus regulation: whether the two genes lie close together or share a promoter",
    "direct regulation: whether {pert} controls {gene} itself",
    "cell context: what is particular to {cell}",
    "compounds that act alike: what inhibitors of {pert} do to {gene}",
    "time course: what changes early and what only later",
    "secondary effects: stress, growth arrest or compensation",
    "conflicting evidence: what speaks against the likely answer",
)
_WHOLE: Final = re.compile(r"-?\d+")
_ANY_ITEM: Final = {"pert": "the knocked-down gene", "gene": "the other gene", "cell": "the cell line"}
# Where the readout is a set of genes, these angles replace those about two genes.
_FOR_SETS: Final = {
    "gene function: what both genes do": "gene function: what the knocked-down gene and the genes of the set do",
    "locus regulation: whether the two genes lie close together or share a promoter": (
        "locus regulation: whether the knocked-down gene lies close to genes of the set"
    ),
}


@dataclass(frozen=True)
class PromptConfig:
    """What a prompt holds. Each field is a key of every configuration that makes prompts.

    Attributes:
        template: `three_class`, or `direction` (for differentially expressed items only).
        evidence: number of similar knockdowns quoted, at least 0; or a list of kinds of evidence, as texts of
            `benchmarks.evidence.kinds.kind`. N and `[neighbours,k=N]` give the same prompt.
        lemmas: whether the prompt lists eleven angles to consider (`LEMMAS`).
        template_version: version of the wording. 2 puts what all prompts share before the item; 1 puts it after.
        evidence_tokens: most tokens of all evidence together, estimated from above (`benchmarks.evidence.quote`), at
            least 1; None for any number.
        evidence_from: another screen, whose labels evidence may use, in the words of `data`; None for none.
        orthologs: how our symbols become those of that screen; see `benchmarks.evidence.reference`.
    """

    template: Literal["three_class", "direction"] = field(
        default="three_class", metadata={"help": "three_class or direction"}
    )
    evidence: int | list[str] = field(
        default=0, metadata={"help": "similar knockdowns quoted in a prompt, or a list of kinds; see docs/evidence.md"}
    )
    lemmas: bool = field(default=False, metadata={"help": "list the eleven angles to consider"})
    template_version: Literal[1, 2] = field(
        default=2, metadata={"help": "wording of the prompt: 2, or 1 as in earlier releases"}
    )
    evidence_tokens: int | None = field(
        default=None, metadata={"help": "most tokens of all evidence in a prompt; null for any number"}
    )
    evidence_from: str | None = field(default=None, metadata={"help": EVIDENCE_FROM_HELP})
    orthologs: str | None = field(default=None, metadata={"help": ORTHOLOGS_HELP})

    def __post_init__(self) -> None:
        check_values(PromptConfig, vars(self), "prompt")
        if isinstance(self.evidence, list) and len(self.evidence) == 1 and _WHOLE.fullmatch(self.evidence[0]):
            object.__setattr__(self, "evidence", int(self.evidence[0]))  # words of the command line come as a list
        if isinstance(self.evidence, int) and self.evidence < 0:
            raise InputError(f"prompt: evidence is {self.evidence}; it must be at least 0")
        if self.evidence == []:
            raise InputError("prompt: evidence is an empty list; write 0 for none")
        if len({(kind.name, kind.file) for kind in self.kinds}) < len(self.kinds):
            raise InputError(f"prompt: evidence is {self.evidence}, which lists a kind twice; list each once")
        if self.evidence_tokens is not None and self.evidence_tokens < 1:
            raise InputError(f"prompt: evidence_tokens is {self.evidence_tokens}; it must be at least 1, or null")

        if self.evidence_from is not None and not self.kinds:
            raise InputError("prompt: evidence_from is set, but evidence is 0, which quotes nothing; list kinds there")
        if self.orthologs is not None and self.evidence_from is None:
            raise InputError("prompt: orthologs is set without evidence_from; name the screen there")

    def __hash__(self) -> int:  # a list, which `evidence` may be, has none
        return hash(repr(self))

    @property
    def kinds(self) -> tuple[EvidenceKind, ...]:
        """The kinds of evidence that a prompt quotes, in its order; none for `evidence: 0`."""
        if isinstance(self.evidence, int):
            return (EvidenceKind("neighbours", self.evidence),) if self.evidence else ()
        return tuple(read_evidence(text) for text in self.evidence)


def prompt_config_of(facts: Mapping[str, Any]) -> PromptConfig | None:
    """Return the prompt that stored facts describe; None where they describe no prompt of this package."""
    if "template" not in facts:
        return None
    own = {one.name: facts[one.name] for one in fields(PromptConfig) if one.name in facts}
    try:
        found: PromptConfig = from_keys(PromptConfig, own, "prompt")
    except InputError:
        return None
    return found


def open_prompt_corpus(source: str | Path | None, split: str, config: PromptConfig) -> Corpus:
    """Load labels under a split, with the reference screen that prompts may quote; see `open_corpus`."""
    return open_corpus(source, split, open_reference(config.evidence_from, config.orthologs))


def prompt_inputs(source: str | Path | None, split: str, config: PromptConfig) -> dict[str, str]:
    """Return the digests of all files that prompts are made from, for `open_run`: labels, reference and evidence.

    Raises:
        InputError: a file of the evidence is missing.
    """
    return label_inputs(source, split, config.evidence_from, config.orthologs) | evidence_inputs(config.kinds)


def items_for_prompt(items: pd.DataFrame, config: PromptConfig) -> pd.DataFrame:
    """Return the items that suit a prompt: `direction` leaves out unchanged items, which it has no label for."""
    return items if config.template != "direction" else items[items["label"].astype("str") != str(Label.NONE)]


def build_prompts(items: pd.DataFrame, corpus: Corpus, config: PromptConfig) -> list[list[Message]]:
    """Write one prompt per item.

    Args:
        items: rows with `item_id`, `cell_line`, `pert`, `gene`, from training or test.
        corpus: the labels whose training part gives the evidence.
        config: what the prompts hold.

    Returns:
        One list of `system` and `user` messages per item, in the order given.

    Raises:
        ValueError: the prompts name a reference that the corpus was not opened with.
        InputError: evidence cannot be quoted; see `benchmarks.evidence.quote.evidence_parts`.
    """
    if config.evidence_from is not None and corpus.reference is None:
        raise ValueError("the corpus has no reference; open it with open_prompt_corpus")
    parts: dict[str, str] = {}
    if config.kinds:
        parts = evidence_parts(corpus, items, config.kinds, _openings(items, corpus), config.evidence_tokens)
    sets = bool(corpus.screen.sets)
    prompts: list[list[Message]] = []
    for row in items[["item_id", "cell_line", "pert", "gene"]].itertuples():
        names = {"pert": row.pert, "gene": row.gene, "cell": corpus.screen.words(str(row.cell_line))}
        names["asked"] = corpus.screen.readout(str(row.gene))
        evidence = parts.get(str(row.item_id), "")
        text = "\n".join(part for part in _parts(config, names, evidence, sets=sets) if part)
        prompts.append([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}])
    return prompts


def _openings(items: pd.DataFrame, corpus: Corpus) -> dict[str, str]:
    """Return the sentence that evidence begins with, by item id: how often the gene changes in other knockdowns."""
    openings = {
        str(item_id): f"Nothing is known of {gene} in other knockdowns."
        for item_id, gene in zip(items["item_id"], items["gene"], strict=True)
    }
    rated = items[corpus.has_rate(items)]
    for gene, row in zip(rated["gene"], corpus.rates(rated).itertuples(), strict=True):
        rate = rate_words(1.0 - float(str(row.p_none)))
        openings[str(row.item_id)] = f"{gene} changes in {rate} other knockdowns in this line."
    return openings


def _parts(config: PromptConfig, names: Mapping[str, Any], evidence: str, *, sets: bool) -> list[str]:
    """Return the parts of a prompt in the order of its version; an empty one where there is nothing to say."""
    labels = _LABELS[config.template]
    if config.template_version == 1:
        lemmas = _lemmas(config, names, sets=sets)
        return [_ASK_1[config.template].format(**names), labels, lemmas, evidence, _FORMAT]
    task = (_TASK_SETS if sets else _TASK_2)[config.template]
    any_item = {**_ANY_ITEM, "gene": "the gene set"} if sets else _ANY_ITEM
    shared = [task, labels, _lemmas(config, any_item, sets=sets), _FORMAT]
    return [*shared, _ASK_2.format(**names), evidence]


def _lemmas(config: PromptConfig, names: Mapping[str, Any], *, sets: bool) -> str:
    if not config.lemmas:
        return ""
    lemmas = [_FOR_SETS.get(lemma, lemma) if sets else lemma for lemma in LEMMAS]
    return "Consider:\n" + "\n".join(f"- {lemma.format(**names)}" for lemma in lemmas)


def rate_words(rate: float) -> str:
    """Put a rate in [0, 1] into words, so coarse that they do not reveal whether one label was left out.

    Raises:
        ValueError: the rate is not in [0, 1].
    """
    if not 0.0 <= rate <= 1.0 + 1e-9:
        raise ValueError(f"a rate of {rate} is not within 0 and 1")
    for limit, words in ((0.05, "hardly any"), (0.2, "few"), (0.4, "some"), (0.6, "about half the"), (0.8, "many")):
        if rate < limit:
            return words
    return "most"
