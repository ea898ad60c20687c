"""The prompts about an item. Any change of their wording must raise `VERSION`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

import pandas as pd

from benchmarks.chat import Message
from benchmarks.evidence.corpus import Corpus
from benchmarks.keys import check_values, from_keys, to_keys
from rewards import InputError, Label

VERSION: Final = 1

CELL_CONTEXT: Final = {
    "k562": "K562 (chronic myeloid leukaemia)",
    "rpe1": "RPE1 (retinal pigment epithelium)",
    "hepg2": "HepG2 (hepatocellular carcinoma)",
    "jurkat": "Jurkat (T-cell leukaemia)",
}

_SYSTEM: Final = "You are an expert on CRISPRi knockdown and gene regulation."
_QUESTION: Final = {
    "three_class": (
        "{pert} is knocked down by CRISPRi in {cell}. What happens to the expression of {gene}?\n"
        f"Labels: {Label.UP}; {Label.DOWN}; {Label.NONE}."
    ),
    "direction": (
        "{pert} is knocked down by CRISPRi in {cell}, and the expression of {gene} changes. In which direction?\n"
        f"Labels: {Label.UP}; {Label.DOWN}."
    ),
}
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


@dataclass(frozen=True)
class PromptConfig:
    """What a prompt holds. Each field is a key of every configuration that makes prompts.

    Attributes:
        template: `three_class`, or `direction` (for differentially expressed items only).
        evidence: number of similar knockdowns quoted, at least 0.
        lemmas: whether the prompt lists eleven angles to consider (`LEMMAS`).
    """

    template: Literal["three_class", "direction"] = field(
        default="three_class", metadata={"help": "three_class or direction"}
    )
    evidence: int = field(default=0, metadata={"help": "similar knockdowns quoted in a prompt"})
    lemmas: bool = field(default=False, metadata={"help": "list the eleven angles to consider"})

    def __post_init__(self) -> None:
        check_values(PromptConfig, vars(self), "prompt")
        if self.evidence < 0:
            raise InputError(f"prompt: evidence is {self.evidence}; it must be at least 0")

    def facts(self) -> dict[str, Any]:
        """Return what run facts store about a prompt: its keys and the version of its wording."""
        return {"template": self.template, "template_version": VERSION} | to_keys(self)


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
    """
    quoted: dict[str, list[str]] = {}
    rates = dict.fromkeys(items["item_id"], "")
    if config.evidence:
        for row in corpus.evidence(items, config.evidence).itertuples():
            quoted.setdefault(str(row.item_id), []).append(f"{row.pert} ({row.similarity:.1f}): {row.label}")
        for row in corpus.rates(items).itertuples():
            rates[str(row.item_id)] = rate_words(1.0 - float(str(row.p_none)))
    prompts: list[list[Message]] = []
    for row in items[["item_id", "cell_line", "pert", "gene"]].itertuples():
        names = {"pert": row.pert, "gene": row.gene, "cell": CELL_CONTEXT[str(row.cell_line)]}
        parts = [_QUESTION[config.template].format(**names)]
        if config.lemmas:
            parts.append("Consider:\n" + "\n".join(f"- {lemma.format(**names)}" for lemma in LEMMAS))
        if config.evidence:
            found = "\n".join(quoted.get(str(row.item_id), ["none known"]))
            parts.append(
                f"{row.gene} changes in {rates[str(row.item_id)]} other knockdowns in this line. "
                f"Similar knockdowns (similarity) and {row.gene}:\n{found}"
            )
        parts.append(_FORMAT)
        prompts.append([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n".join(parts)}])
    return prompts


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
