"""What the evidence of prompts is worth without a language model: forecasts from what the kinds quote, and no more.

A multinomial logistic regression (scikit-learn, L2 with C = 1, features scaled to unit variance) has these features:

- of the gene's label rates: ln((p_up + .01) / (p_none + .01)) and ln((p_down + .01) / (p_none + .01));
- of a kind that quotes labels: for each label, the sum of the similarities of its quotations (1 each for other lines);
- of `gene_sets`: ln(1 + quoted sets), and the sum of 1 / size over them;
- of `graph`: the score of the edge (0 for none), and the sum of the scores of the quoted partners.

Its rows are training items that were withheld and quoted about in the same way as test items (`Corpus.rehearsals`). No
forecast uses a label of the item's own knockdown in its line.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.embeddings import in_label_order
from benchmarks.evaluation.predictions import PROBABILITIES
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds.kind import EvidenceKind
from benchmarks.evidence.quote import quote_evidence
from rewards import LABELS, InputError

Floats = npt.NDArray[np.float64]

_FLOOR: Final = 0.01  # keeps the logarithm of a share finite


def evidence_forecast(corpus: Corpus, items: pd.DataFrame, kinds: Sequence[EvidenceKind]) -> pd.DataFrame:
    """Forecast items from what kinds of evidence quote about them.

    Args:
        corpus: labels under a split.
        items: N items with `item_id`, `cell_line`, `pert`, `gene`, each once.
        kinds: the kinds; none for the gene's rates alone.

    Returns:
        `item_id, p_up, p_down, p_none`, one row per item in the order given; the three sum to 1.

    Raises:
        InputError: see `quote_evidence`; or the withheld training rows have only one label.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features_RF = np.concatenate([_features(rehearsal, rehearsal.test, kinds) for rehearsal in corpus.rehearsals])
    labels = np.concatenate([rehearsal.test["label"].astype(str).to_numpy() for rehearsal in corpus.rehearsals])
    if len(np.unique(labels)) < 2:
        raise InputError("evidence: the withheld training rows have only one label; use more training rows")
    model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features_RF, labels)
    p_NL = in_label_order(model.predict_proba(_features(corpus, items, kinds)), model.classes_)
    columns = dict(zip(PROBABILITIES, p_NL.T, strict=True))
    return pd.DataFrame({"item_id": items["item_id"].to_numpy(), **columns})


def _features(corpus: Corpus, items: pd.DataFrame, kinds: Sequence[EvidenceKind]) -> Floats:
    """Return the features of N items, (N, F)."""
    rate_NL = np.log(corpus.rates(items)[list(PROBABILITIES)].to_numpy(dtype=np.float64) + _FLOOR)
    parts = [rate_NL[:, :2] - rate_NL[:, 2:]]
    at = pd.Index(items["item_id"].astype(str))
    for kind in kinds:
        quoted = quote_evidence(corpus, items, kind)
        row_Q = at.get_indexer(pd.Index(quoted["item_id"].astype(str)))
        value_Q = quoted["value"].to_numpy(dtype=np.float64)
        parts.append(
            np.column_stack([np.bincount(row_Q, weights, len(items)) for weights in _weights(kind, quoted, value_Q)])
        )
        if kind.name == "gene_sets":
            parts[-1][:, 0] = np.log1p(parts[-1][:, 0])
    return np.concatenate(parts, axis=1)


def _weights(kind: EvidenceKind, quoted: pd.DataFrame, value_Q: Floats) -> list[Floats]:
    """Return what each quotation adds to each feature of its item."""
    if kind.name == "gene_sets":
        return [np.ones(len(value_Q)), 1 / value_Q]
    if kind.name == "graph":
        is_edge = quoted["name"].to_numpy() == ""
        return [value_Q * is_edge, value_Q * ~is_edge]
    label = quoted["label"].astype(str).to_numpy()
    return [np.maximum(value_Q, 0.0) * (label == str(one)) for one in LABELS]
