"""What the evidence of the evaluated prompts is worth without a language model: a baseline for each list of kinds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from benchmarks.evaluation.baselines import as_predictions, commoner_direction
from benchmarks.evaluation.evidence_forecast import evidence_forecast
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import prompt_config_of
from benchmarks.evidence.reference import open_reference
from benchmarks.report.summarize import System
from rewards import InputError


def evidence_alone(
    protocols: Sequence[Mapping[str, Any]], corpus: Corpus, items: pd.DataFrame, *, task: str = "three_class"
) -> tuple[list[System], list[str]]:
    """Return a baseline for each list of kinds of evidence that prompts quoted.

    There is none for `evidence: 5`: its similar knockdowns are those of the baseline `cross-line neighbours`.

    Args:
        protocols: of the evaluations.
        corpus: the labels.
        items: the items of the report, with their labels.
        task: what the report is about; see `as_predictions`.

    Returns:
        The baselines, and a sentence for each list that cannot be quoted here, for instance since a file is gone.
    """
    systems: dict[str, System] = {}
    notes = []
    for config in dict.fromkeys(filter(None, map(prompt_config_of, protocols))):
        if not isinstance(config.evidence, list):
            continue
        name = f"evidence alone: {'; '.join(map(_without_folder, config.evidence))}"
        try:
            reference = open_reference(config.evidence_from, config.orthologs)
            plain = corpus if corpus.reference is None else replace(corpus, reference=None)
            forecast = evidence_forecast(plain.with_reference(reference), items, config.kinds)
        except InputError as error:
            notes.append(f"The baseline “{name}” is left out: {error}.")
            continue
        answers = as_predictions(items, forecast, task, commoner_direction(corpus))
        systems[name] = System(name, "baseline", answers, {"fitted on": "training labels only"})
    return list(systems.values()), notes


def _without_folder(kind: str) -> str:
    """Write a kind of evidence with its file's name alone."""
    return re.sub(r"(?<=file=)[^,]*/", "", kind)
