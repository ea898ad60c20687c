"""What the tasks of lm-evaluation-harness name: their documents, the scores of a document, and AUROC over documents.

lm-eval loads this file by its path. It hands each `aggregation` the values of all documents.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from benchmarks.evaluation.predictions import PROBABILITIES
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate, find_metric
from rewards import LABELS, InputError, Status
from synthpert_env.items import score_completion, task_items

# item_id, label, and the probabilities of up, down and none
LabelScores: TypeAlias = tuple[str, str, float, float, float]


def documents(perturbqa: Mapping[str, Any] | None = None, **_: Any) -> dict[str, Any]:
    """Return the test items as documents of lm-eval.

    Args:
        perturbqa: arguments of `synthpert_env.items.task_items`, from `--metadata '{"perturbqa": {…}}'`.
        **_: ignored: lm-eval passes the task's version and the model's arguments, too.

    Returns:
        A `datasets.Dataset` as the split `test`: the item's columns, and its prompt as `system` and `user`.

    Raises:
        InputError: an argument is unknown or has a bad value.
    """
    options = dict(perturbqa or {})
    known = inspect.signature(task_items).parameters
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"metadata: perturbqa has no {unknown[0]!r}; use one of {', '.join(known)}")
    rows = []
    for item in task_items(**options):
        system, user = item["messages"]
        columns = {name: value for name, value in item.items() if name != "messages"}
        rows.append(columns | {"system": system["content"], "user": user["content"]})
    from datasets import Dataset

    return {"test": Dataset.from_list(rows)}


def score_text(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return `accuracy` and `answered` of a document, each 0 or 1.

    Args:
        doc: the document.
        results: its completion. lm-eval stops if a request fails, so there is always one.
    """
    found = score_completion(results[0], doc["label"])
    assert found.score is not None
    return {"accuracy": found.score, "answered": float(found.status == Status.ANSWERED)}


def choices(doc: Mapping[str, Any]) -> list[str]:
    """Return the labels, in the order of `rewards.LABELS`."""
    return [str(label) for label in LABELS]


def score_labels(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float | LabelScores]:
    """Return `accuracy` of a document, and under each AUROC's name what it is computed from.

    Args:
        doc: the document.
        results: log-likelihood of each label, and whether greedy decoding would write it.

    Returns:
        `accuracy` is 1 if the likeliest label is the true one, else 0. The probabilities of the labels are their
        likelihoods, normalised to sum to 1.
    """
    log_likelihood = np.array([one[0] for one in results])
    p = np.exp(log_likelihood - log_likelihood.max())
    up, down, none = (p / p.sum()).tolist()
    scores: LabelScores = (doc["item_id"], doc["label"], up, down, none)
    right = LABELS[int(log_likelihood.argmax())] == doc["label"]
    aurocs = ("de_auroc", "de_per_gene_auroc", "dir_auroc", "dir_per_gene_auroc")
    return {"accuracy": float(right), **dict.fromkeys(aurocs, scores)}


def as_predictions(scored: Sequence[LabelScores]) -> pd.DataFrame:
    """Return a predictions frame, as `benchmarks.compare` takes it.

    Args:
        scored: of each document, as `score_labels` returns it and as the log holds it.
    """
    frame = pd.DataFrame([tuple(one) for one in scored], columns=["item_id", "label", *PROBABILITIES])
    frame[["cell_line", "pert", "gene"]] = frame["item_id"].str.split("|", expand=True)
    likeliest = frame[list(PROBABILITIES)].to_numpy().argmax(axis=1)
    return frame.assign(answer=[str(LABELS[at]) for at in likeliest], status=str(Status.ANSWERED))


def _metric(name: str, scored: Sequence[LabelScores]) -> float:
    return estimate(prediction_arrays(as_predictions(scored)), find_metric(name).task, name).value


def de_auroc(scored: Sequence[LabelScores]) -> float:
    """Return the pooled AUROC of "differentially expressed"; NaN where all items are of one class."""
    return _metric("de_auroc", scored)


def de_per_gene_auroc(scored: Sequence[LabelScores]) -> float:
    """Return the mean of AUROC within genes, PerturbQA's own metric; NaN where no gene has both classes."""
    return _metric("de_per_gene_auroc", scored)


def dir_auroc(scored: Sequence[LabelScores]) -> float:
    """Return the pooled AUROC of "up" among items that change; NaN where all of them are of one class."""
    return _metric("dir_auroc", scored)


def dir_per_gene_auroc(scored: Sequence[LabelScores]) -> float:
    """Return the mean of AUROC within genes of "up" among items that change; NaN where no gene has both classes."""
    return _metric("dir_per_gene_auroc", scored)
