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

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts, items_for_prompt, rate_words
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
        prompt: settings of the student's prompts; `evidence` must be at least 1.
        seed: seed of the choice among phrasings. The same seed gives the same text.

    Raises:
        InputError: the prompt quotes no evidence, or an item is not a training item.
    """
    check_items(items)
    _check_prompt(items, prompt)
    protocol, prompts = prompt_protocol(prompt, corpus), build_prompts(items, corpus, prompt)
    found = {str(item_id): rows for item_id, rows in corpus.evidence(items, prompt.evidence).groupby("item_id")}
    rates = 1.0 - corpus.rates(items)["p_none"].to_numpy()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    traces = []
    for row, messages, rate in zip(items.itertuples(), prompts, rates, strict=True):
        pert, gene, line, label = str(row.pert), str(row.gene), str(row.cell_line), Label(str(row.label))
        evidence = found.get(str(row.item_id))
        pairs = [] if evidence is None else list(zip(evidence["pert"], evidence["label"], strict=True))
        think = _think(pert, gene, line, label, pairs, float(rate), random.Random(f"{seed}|{row.item_id}"))
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
    """Refuse prompts without evidence, and prompts that do not offer an item's label."""
    if prompt.evidence < 1:
        raise InputError("evidence: the evidence-template teacher needs at least 1 similar knockdown in the prompt")
    unasked = items[~items["item_id"].isin(items_for_prompt(items, prompt)["item_id"])]
    if len(unasked):
        raise InputError(
            f"{unasked['item_id'].iloc[0]}: does not change, which a direction prompt does not offer as an answer; "
            "leave it out"
        )


def _think(
    pert: str, gene: str, line: str, label: Label, pairs: Sequence[tuple[str, str]], rate: float, pick: random.Random
) -> str:
    votes = Counter(Label(text) for _, text in pairs)
    leading = votes.most_common(1)[0][0] if votes else Label.NONE
    sentences = [pick.choice(_COUNT), pick.choice(_CLOSEST)] if pairs else [pick.choice(_NO_EVIDENCE)]
    sentences += [pick.choice(_RATE), pick.choice(_AGREE if leading is label else _DISAGREE)]
    return " ".join(sentences).format(
        pert=pert,
        gene=gene,
        line=line.upper(),
        label=label,
        rate=rate_words(rate),
        n=len(pairs),
        votes=", ".join(f"{count} {_VERB[vote]}{'s' * (count == 1)}" for vote, count in votes.items()),
        closest=pairs[0][0] if pairs else "",
        verb=_VERB[Label(pairs[0][1])] + "s" if pairs else "",
    )
