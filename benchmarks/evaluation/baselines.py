"""Baselines ("shortcuts") that a model must beat: forecasts from training labels alone, without a language model.

Each is a function of a corpus and items that returns `item_id, p_up, p_down, p_none`. docs/baselines.md has formulas
and figures. No baseline uses a test label. No forecast uses a label of an item's own perturbation in its own line; only
the weights of the regressions are learnt from all training items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.embeddings import embedding_regression, in_label_order, read_embeddings
from benchmarks.evaluation.predictions import COLUMNS, PROBABILITIES
from benchmarks.evaluation.unseen import choose_two_sided, has_kin, low_rank, transfer, two_sided_neighbours
from benchmarks.evidence.corpus import Corpus
from benchmarks.screens.splits import read_split
from rewards import LABELS, InputError, Label, Status

Floats = npt.NDArray[np.float64]
Forecaster = Callable[[Corpus, pd.DataFrame], pd.DataFrame]

PERTURBATION_PSEUDO_COUNTS: Final = 10.0
COPY_PSEUDO_COUNTS: Final = 0.5
_FLOOR: Final = 0.01  # keeps the logarithm of a share finite


def majority(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast the most common training label with probability 1, for every item.

    It gives the same answers as `class prior`. The difference of their Brier scores is the cost of full confidence. It
    gives up and down the same probability, so it has no score for direction.
    """
    counts = [corpus.train_counts[label] for label in LABELS]
    return _forecast(items, np.eye(len(LABELS))[[int(np.argmax(counts))] * len(items)])


def class_prior(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast the training shares of the labels, for every item: the constant forecast with the best Brier score."""
    counts = np.array([corpus.train_counts[label] for label in LABELS], dtype=np.float64)
    return _forecast(items, np.tile(counts / counts.sum(), (len(items), 1)))


def gene_rate(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast an item by the label shares of its gene under other knockdowns in the same line."""
    return corpus.rates(items)


def perturbation_rate(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast an item by what its perturbation does to any gene in the other lines.

    p_k = (n_k + A s_k) / (n + A). The perturbation has n training labels in the other lines, n_k of them k. s_k is the
    share of k among all training labels there. A = 10 pseudo-counts. A perturbation without labels there gets s_k.
    """
    other_NL = _counts_elsewhere(corpus.train, items, ["pert"])
    share_NL = _counts_elsewhere(corpus.train, items, [])
    total_N = share_NL.sum(axis=1, keepdims=True)
    share_NL = np.where(total_N > 0, share_NL / np.maximum(total_N, 1), 1 / len(LABELS))
    return _forecast(items, _shrink(other_NL, share_NL, PERTURBATION_PSEUDO_COUNTS))


def copied_label(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast an item by the training label of the same knockdown and gene in the other lines.

    p_k = (n_k + A r_k) / (n + A). The pair has n training labels in the other lines, n_k of them k. r_k is the
    gene's rate in the item's own line. A = 0.5. The answer is therefore the label of most other lines. Among equals it
    is the one with the higher rate here. The rate alone decides where no other line has the pair.
    """
    pair_NL = _counts_elsewhere(corpus.train, items, ["pert", "gene"])
    rate_NL = corpus.rates(items)[list(PROBABILITIES)].to_numpy(dtype=np.float64)
    return _forecast(items, _shrink(pair_NL, rate_NL, COPY_PSEUDO_COUNTS))


def cross_line_neighbours(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Forecast an item by what similar knockdowns did to the same gene; see `benchmarks.evidence.neighbours`."""
    return corpus.neighbour_forecast(items)


def combination(parts: Sequence[Forecaster], corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Combine other baselines, with weights learnt on withheld training perturbations.

    Multinomial logistic regression (scikit-learn, L2 with C = 1). Its features are ln((p_up + .01) / (p_none + .01))
    and ln((p_down + .01) / (p_none + .01)) of each baseline. Its rows are training items that were withheld and
    forecast in the same way as test items (`Corpus.rehearsals`). The floor of .01 was chosen on such rows too, from
    .01, .001, 1e-4 and 1e-6.

    Args:
        parts: the baselines to combine.
        corpus: labels under a split.
        items: the items to forecast.

    Returns:
        `item_id, p_up, p_down, p_none`, one row per item in the order given.

    Raises:
        InputError: the withheld training rows have only one label.
    """
    from sklearn.linear_model import LogisticRegression

    features_NF = np.concatenate([_log_odds(parts, rehearsal, rehearsal.test) for rehearsal in corpus.rehearsals])
    labels = np.concatenate([rehearsal.test["label"].astype(str).to_numpy() for rehearsal in corpus.rehearsals])
    if len(np.unique(labels)) < 2:
        raise InputError("baselines: the withheld training perturbations have only one label; use more training rows")
    model = LogisticRegression(max_iter=1000).fit(features_NF, labels)
    return _forecast(items, in_label_order(model.predict_proba(_log_odds(parts, corpus, items)), model.classes_))


def kin_combination(corpus: Corpus, items: pd.DataFrame) -> pd.DataFrame:
    """Combine all shortcuts with those for unseen perturbations and genes, as `combination` does.

    The settings of the two-sided neighbours are chosen once, on the rows that also teach the weights.
    """
    parts: list[Forecaster] = [*_FOUR, partial(two_sided_neighbours, settings=choose_two_sided(corpus)), low_rank]
    if corpus.reference is not None:
        parts.append(transfer)
    return combination(parts, corpus, items)


@dataclass(frozen=True)
class Baseline:
    """A baseline that reports show beside every model.

    Attributes:
        name: what reports call it.
        forecast: from a corpus and N items to `item_id, p_up, p_down, p_none`, one row per item in the order given.
        needs_full_labels: whether it needs more than the sample carries.
        needs_reference: whether it needs a reference screen.
    """

    name: str
    forecast: Forecaster
    needs_full_labels: bool = False
    needs_reference: bool = False


_TWO: Final = (cross_line_neighbours, gene_rate)
_FOUR: Final = (*_TWO, perturbation_rate, copied_label)
BASELINES: Final = (
    Baseline("majority class", majority),
    Baseline("class prior", class_prior),
    Baseline("gene rate", gene_rate),
    Baseline("perturbation rate in other lines", perturbation_rate, needs_full_labels=True),
    Baseline("label copied from other lines", copied_label, needs_full_labels=True),
    Baseline("cross-line neighbours", cross_line_neighbours),
    Baseline("neighbours + gene rate", partial(combination, _TWO), needs_full_labels=True),
    Baseline("all shortcuts combined", partial(combination, _FOUR), needs_full_labels=True),
)
# For perturbations and genes without training rows; see `shown`.
UNSEEN: Final = (
    Baseline("two-sided neighbours", two_sided_neighbours),
    Baseline("low-rank reconstruction", low_rank),
    Baseline("transfer from the reference", transfer, needs_reference=True),
    Baseline("shortcuts and kin combined", kin_combination),
)
EMBEDDINGS: Final = "logistic regression on embeddings"


def predict_baselines(
    corpus: Corpus, items: pd.DataFrame, embeddings: str | Path | None = None, *, task: str = "three_class"
) -> dict[str, pd.DataFrame]:
    """Return a predictions frame per baseline, fitted on the corpus's training labels.

    Args:
        corpus: labels under a split. The sample suffices for four of the baselines; `left_out` names those that a
            corpus lacks something for.
        items: the items to forecast, with `item_id`, `cell_line`, `pert`, `gene`, `label`.
        embeddings: a file of gene embeddings (`benchmarks.evaluation.embeddings`); adds a regression on them.
        task: what is asked; see `as_predictions`.

    Returns:
        Frames by name, in the order of `shown`, the regression on embeddings last.

    Raises:
        InputError: the embeddings cannot be read or lack a symbol, or are given with the sample.
    """
    left = left_out(corpus)
    forecasters = {one.name: one.forecast for one in shown(corpus) if one.name not in left}
    if embeddings is not None:
        if corpus.is_sample:
            raise InputError(f"{embeddings}: embeddings need the full training labels, not the sample; use --data")
        forecasters[EMBEDDINGS] = partial(embedding_regression, read_embeddings(Path(embeddings)))
    commoner = commoner_direction(corpus)
    return {
        name: as_predictions(items, forecast(corpus, items), task, commoner) for name, forecast in forecasters.items()
    }


def shown(corpus: Corpus) -> tuple[Baseline, ...]:
    """Return the baselines that concern a corpus.

    Those of `UNSEEN` do if the split holds out perturbations or genes, or if there is a reference screen.
    """
    unseen = bool(read_split(corpus.split).columns) or corpus.reference is not None
    return (*BASELINES, *UNSEEN) if unseen else BASELINES


def left_out(corpus: Corpus) -> dict[str, str]:
    """Return the baselines that concern a corpus but cannot be computed from it: by name, what it lacks."""
    lacking = {}
    for one in shown(corpus):
        if one.needs_full_labels and corpus.is_sample:
            lacking[one.name] = "the full labels (synthpert data fetch)"
        elif one.needs_reference and corpus.reference is None:
            lacking[one.name] = "a reference screen (--evidence_from)"
        elif one in UNSEEN and not has_kin(corpus):
            lacking[one.name] = "another cell line or a reference screen (--evidence_from)"
    return lacking


def lacking_words(corpus: Corpus) -> list[str]:
    """Return a text for each thing that baselines lack: `left out, since they need …: their names`."""
    lacking = left_out(corpus)
    return [
        f"left out, since they need {need}: {', '.join(name for name, other in lacking.items() if other == need)}"
        for need in dict.fromkeys(lacking.values())
    ]


def commoner_direction(corpus: Corpus) -> Label:
    """Return the commoner of up and down among a corpus's training labels, up if they are equally common."""
    return max((Label.UP, Label.DOWN), key=lambda label: corpus.train_counts[label])


def as_predictions(
    items: pd.DataFrame, forecast: pd.DataFrame, task: str = "three_class", commoner: Label = Label.UP
) -> pd.DataFrame:
    """Turn label probabilities into a predictions frame, which answers what the models beside it were asked.

    Args:
        items: N items with `item_id`, `cell_line`, `pert`, `gene`, `label`.
        forecast: N rows `item_id`, `p_up`, `p_down`, `p_none` in the same order.
        task: one of `benchmarks.evaluation.predictions.TASKS`.
            - `three_class`: the answer is the likeliest label, the first of equals.
            - `dir`: the answer is the likelier of up and down, given that expression changed.
            - `de`: the answer is the likelier of up and down where p_up + p_down is at least p_none, else none.
        commoner: with `dir` and `de`, the answer where up and down are equally likely.

    Returns:
        N rows with the columns of `benchmarks.evaluation.predictions.SCHEMA`. The probabilities are the forecast's.

    Raises:
        ValueError: a probability is not finite.
    """
    probability_NL = forecast[list(PROBABILITIES)].to_numpy(dtype=float)
    if not np.isfinite(probability_NL).all():
        raise ValueError(f"{forecast['item_id'][~np.isfinite(probability_NL).all(axis=1)].iloc[0]}: no finite forecast")
    frame = items[["item_id", "cell_line", "pert", "gene", "label"]].astype(str).reset_index(drop=True)
    return frame.assign(
        sample=0,
        seed=0,
        completion=None,
        answer=_answers(probability_NL, task, commoner),
        status=str(Status.ANSWERED),
        completion_tokens=0,
        prompt_tokens=0,
        finish_reason="stop",
        **dict(zip(PROBABILITIES, probability_NL.T, strict=True)),
    )[list(COLUMNS)]


def _answers(probability_NL: Floats, task: str, commoner: Label) -> npt.NDArray[Any]:
    """(N,) the labels that forecasts answer; see `as_predictions`."""
    if task == "three_class":
        labels_L = np.array([str(label) for label in LABELS], dtype=object)
        return np.asarray(labels_L[probability_NL.argmax(axis=1)])
    up_N, down_N, none_N = probability_NL.T
    either_N = np.where(up_N > down_N, str(Label.UP), str(Label.DOWN)).astype(object)
    either_N[up_N == down_N] = str(commoner)
    if task == "de":
        either_N[up_N + down_N < none_N] = str(Label.NONE)
    return either_N


def _forecast(items: pd.DataFrame, probability_NL: Floats) -> pd.DataFrame:
    columns = dict(zip(PROBABILITIES, probability_NL.T, strict=True))
    return pd.DataFrame({"item_id": items["item_id"].to_numpy(), **columns})


def _shrink(counts_NL: Floats, share_NL: Floats, pseudo: float) -> Floats:
    return np.asarray((counts_NL + pseudo * share_NL) / (counts_NL.sum(axis=1, keepdims=True) + pseudo))


def _counts_elsewhere(train: pd.DataFrame, items: pd.DataFrame, by: list[str]) -> Floats:
    """Count, for each item, the training labels in the other lines that share its `by` columns: (N, 3)."""
    rows = pd.concat([train[["cell_line", *by]], items[["cell_line", *by]]], ignore_index=True).astype(str)
    key = pd.Series("", index=rows.index)
    for column in by:
        key = key + "|" + rows[column]
    key_M, keys = pd.factorize(key)
    line_M, lines = pd.factorize(rows["cell_line"])
    code_T = pd.Index([str(label) for label in LABELS]).get_indexer(pd.Index(train["label"].astype(str)))
    n_train, shape = len(train), (len(keys), len(lines), len(LABELS))
    cell_T = (key_M[:n_train] * shape[1] + line_M[:n_train]) * shape[2] + code_T
    count_KCL = np.bincount(cell_T, minlength=int(np.prod(shape))).reshape(shape)
    asked_N, line_N = key_M[n_train:], line_M[n_train:]
    return np.asarray(count_KCL.sum(axis=1)[asked_N] - count_KCL[asked_N, line_N], dtype=np.float64)


def _log_odds(parts: Sequence[Forecaster], corpus: Corpus, items: pd.DataFrame) -> Floats:
    """Log-odds of up and of down against no change, of each forecast: (N, 2 x parts)."""
    shares = [
        np.log(forecast(corpus, items)[list(PROBABILITIES)].to_numpy(dtype=np.float64) + _FLOOR) for forecast in parts
    ]
    return np.column_stack([share_NL[:, :2] - share_NL[:, 2:] for share_NL in shares])
