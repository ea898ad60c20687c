"""The offline teacher `evidence-template`: it writes short reasoning from training labels, for the demo and for tests.

It is given the label (mode `rationalize`). Where the evidence points elsewhere, it says so and gives the true label. It
knows no biology: its student learns the format and to read evidence, nothing more. No critic judges its traces, so the
audit counts them as not audited.
"""

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import pandas as pd

from benchmarks.chat import Message
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds.kind import EvidenceKind
from benchmarks.evidence.prompts import PromptConfig, build_prompts, items_for_prompt, rate_words
from benchmarks.evidence.quote import quote_evidence
from benchmarks.screens.schema import CELL_LINES
from rewards import InputError, Label
from sft.teacher.questions import check_items
from sft.traces import Trace, prompt_protocol

NAME: Final = "evidence-template"

_VERB: Final = {Label.UP: "raise", Label.DOWN: "lower", Label.NONE: "spare"}
_COUNT: Final = (
    "Of {n} similar knockdowns, {votes} {gene}.",
    "Among {n} alike, {votes} {gene}.",
    "{n} alike: {votes} {gene}.",
)
_CLOSEST: Final = (
    "The closest, {closest}, {verb} it.",
    "{closest}, the nearest, {verb} it.",
    "Most alike is {closest}, which {verb} it.",
)
_NO_EVIDENCE: Final = (
    "No similar knockdown is known for {pert}.",
    "Nothing like {pert} was measured elsewhere.",
    "{pert} has no known neighbours.",
)
# What is said of kinds of evidence other than similar knockdowns: of N quotations, and where there are none.
_OTHER_KINDS: Final = {
    "other_lines": (
        ("Of {n} other lines, {votes} {gene}.", "{n} other lines have this pair: {votes} {gene}."),
        ("No other line has this pair.", "{pert} and {gene} were not measured together elsewhere."),
    ),
    "similar_genes": (
        ("Of {n} pairs like {pert} and {gene}, {votes}.", "{n} pairs are alike: {votes}."),
        ("No pair like {pert} and {gene} is known.", "Nothing like this pair was measured."),
    ),
}
_LABELLED: Final = ("neighbours", "contrast", *_OTHER_KINDS)  # kinds of evidence that quote labels
_RATE: Final = (
    "{gene} changes in {rate} knockdowns in {line}.",
    "In {line}, {rate} knockdowns change {gene}.",
    "{gene} responds to {rate} knockdowns here.",
)
_AGREE: Final = ("So {label}.", "That points to {label}.", "The likely effect is {label}.")
_DISAGREE: Final = (
    "Still, {pert} differs from them here: {label}.",
    "Yet that does not settle it; {label} fits {pert} better.",
    "The evidence is weak, and I settle on {label}.",
)


def generate(items: pd.DataFrame, corpus: Corpus, prompt: PromptConfig, *, seed: int) -> list[Trace]:
    """Write one trace per item.

    Args:
        items: training rows with their `label`.
        corpus: the labels; the evidence comes from those of the training split.
        prompt: settings of the student's prompts. Their evidence must quote labels.
        seed: seed of the choice among phrasings. The same seed gives the same text.

    Raises:
        InputError: the prompt quotes no labels, or an item is not a training item.
    """
    check_items(items)
    _check_prompt(items, prompt)
    protocol, prompts = prompt_protocol(prompt, corpus), build_prompts(items, corpus, prompt)
    quoted = [(kind.name, _labels_by_item(corpus, items, kind)) for kind in prompt.kinds if kind.name in _LABELLED]
    rates = 1.0 - corpus.rates(items)["p_none"].to_numpy()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    traces = []
    for row, messages, rate in zip(items.itertuples(), prompts, rates, strict=True):
        pert, gene, line, label = str(row.pert), str(row.gene), str(row.cell_line), Label(str(row.label))
        found = [(kind, _shown(by_item.get(str(row.item_id), []), messages)) for kind, by_item in quoted]
        think = _think(pert, gene, line, label, found, float(rate), random.Random(f"{seed}|{row.item_id}"))
        traces.append(
            Trace(
                item_id=str(row.item_id),
                cell_line=line,
                pert=pert,
                gene=gene,
                label=str(label),
                prompt=messages,
                completion=f"<think>{think}</think><answer>{label}</answer>",
                answer=str(label),
                teacher=NAME,
                mode="rationalize",
                critic=None,
                created=created,
                protocol=protocol,
            )
        )
    return traces


def _check_prompt(items: pd.DataFrame, prompt: PromptConfig) -> None:
    """Refuse prompts that quote no labels, and prompts that do not offer an item's label."""
    if not any(kind.name in _LABELLED for kind in prompt.kinds):
        raise InputError(
            "evidence: the evidence-template teacher needs at least 1 similar knockdown in the prompt, or another kind "
            f"that quotes labels ({', '.join(_LABELLED)})"
        )
    unasked = items[~items["item_id"].isin(items_for_prompt(items, prompt)["item_id"])]
    if len(unasked):
        raise InputError(
            f"{unasked['item_id'].iloc[0]}: does not change, which a direction prompt does not offer as an answer; "
            "leave it out"
        )


def _labels_by_item(corpus: Corpus, items: pd.DataFrame, kind: EvidenceKind) -> dict[str, list[tuple[str, str]]]:
    """Return what a kind of evidence names and its labels, by item, the most similar first."""
    rows = quote_evidence(corpus, items, kind).sort_values(["item_id", "value"], ascending=[True, False], kind="stable")
    found: dict[str, list[tuple[str, str]]] = {}
    for item_id, name, label in zip(rows["item_id"], rows["name"], rows["label"], strict=True):
        found.setdefault(str(item_id), []).append((str(name), str(label)))
    return found


def _shown(pairs: Sequence[tuple[str, str]], messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Return those of what is quoted that the prompt shows; a budget may have cut the others."""
    text = messages[-1]["content"]
    return [(name, label) for name, label in pairs if f"{name} (" in text or f"{name}: " in text]


def _think(
    pert: str,
    gene: str,
    line: str,
    label: Label,
    found: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    rate: float,
    pick: random.Random,
) -> str:
    """Write the reasoning; `found` has, for each kind of evidence, what it names and its labels."""
    votes = Counter(Label(text) for _, pairs in found for _, text in pairs)
    leading = votes.most_common(1)[0][0] if votes else Label.NONE
    sentences = []
    for kind, pairs in found:
        if kind in _OTHER_KINDS:
            chosen = [pick.choice(_OTHER_KINDS[kind][not pairs])]
        else:
            chosen = [pick.choice(_COUNT), pick.choice(_CLOSEST)] if pairs else [pick.choice(_NO_EVIDENCE)]
        counts = Counter(Label(text) for _, text in pairs)
        sentences.append(
            " ".join(chosen).format(
                pert=pert,
                gene=gene,
                n=len(pairs),
                votes=", ".join(f"{count} {_VERB[vote]}{'s' * (count == 1)}" for vote, count in counts.items()),
                closest=pairs[0][0] if pairs else "",
                verb=_VERB[Label(pairs[0][1])] + "s" if pairs else "",
            )
        )
    last = [pick.choice(_RATE), pick.choice(_AGREE if leading is label else _DISAGREE)]
    name = line.upper() if line in CELL_LINES else line  # the case of a name of one's own is as its owner wrote it
    last_words = " ".join(last).format(pert=pert, gene=gene, line=name, label=label, rate=rate_words(rate))
    return " ".join([*sentences, last_words])
