"""Forecasts from what prompts quote use that and no label of the item's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import per_gene_auroc
from benchmarks.evaluation.evidence_forecast import evidence_forecast
from benchmarks.evaluation.predictions import PROBABILITIES
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.kinds.kind import read_evidence
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
MakeLabels = Callable[[int], pd.DataFrame]


def forecast(corpus: Corpus, items: pd.DataFrame, *kinds: str) -> pd.DataFrame:
    return evidence_forecast(corpus, items, [read_evidence(kind) for kind in kinds])


def de_auroc(items: pd.DataFrame, found: pd.DataFrame) -> float:
    return per_gene_auroc((items["label"].astype(str) != NONE).to_numpy(), 1 - found["p_none"], items["gene"])


@pytest.mark.parametrize("kind", ["neighbours", "contrast", "other_lines", "similar_genes"])
def test_what_is_quoted_ranks_items_that_the_gene_s_rate_cannot(make_labels: MakeLabels, kind: str) -> None:
    corpus = Corpus("small", "official", make_labels(1))
    found, rates = forecast(corpus, corpus.test, kind), forecast(corpus, corpus.test)
    assert found["item_id"].tolist() == corpus.test["item_id"].tolist()
    assert found[list(PROBABILITIES)].sum(axis=1).to_numpy() == pytest.approx(np.ones(len(found)))
    assert de_auroc(corpus.test, found) > de_auroc(corpus.test, rates) + 0.02


def test_files_are_weighed_by_what_training_items_show(make_labels: MakeLabels, tmp_path: Path) -> None:
    """Of each gene's knockdowns, those that share a set or an edge with it change it."""
    labels = make_labels(0)
    family = labels["pert"].str.fullmatch(r"P\d*[02468]")
    labels = labels.assign(label=pd.Categorical(np.where(family, UP, NONE), categories=labels["label"].cat.categories))
    perts, genes = ([one for one in labels[column].unique() if one[1:].isdigit()] for column in ("pert", "gene"))
    even = [pert for pert in perts if int(pert[1:]) % 2 == 0]
    (tmp_path / "sets.gmt").write_text("\t".join(["family", "", *even, *genes]) + "\n")
    edges = [f"{pert},{gene},{900 if pert in even else 100}\n" for pert in perts for gene in genes]
    (tmp_path / "edges.csv").write_text("gene1,gene2,score\n" + "".join(edges))
    corpus = Corpus("small", "official", labels)
    for kind in (f"gene_sets,file={tmp_path / 'sets.gmt'}", f"graph,file={tmp_path / 'edges.csv'}"):
        assert de_auroc(corpus.test, forecast(corpus, corpus.test, kind)) == 1.0


def test_no_forecast_uses_a_label_of_its_own_knockdown(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    corpus = Corpus("small", "official", labels)
    hidden = labels["split"] == "test"
    other = labels["label"].astype(str).map({UP: DOWN, DOWN: NONE, NONE: UP})
    changed = labels.assign(label=labels["label"].astype(str).where(~hidden, other).astype(labels["label"].dtype))
    kinds = ("neighbours", "contrast", "other_lines", "similar_genes")
    before = forecast(corpus, corpus.test, *kinds)
    pd.testing.assert_frame_equal(before, forecast(Corpus("small", "official", changed), corpus.test, *kinds))


def test_the_sample_s_own_evidence_suffices() -> None:
    corpus = open_corpus("sample")
    assert len(forecast(corpus, corpus.test, "neighbours,k=5", "contrast,k=5")) == len(corpus.test)


def test_labels_of_one_kind_cannot_teach(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    same = labels.assign(label=pd.Categorical([NONE] * len(labels), categories=labels["label"].cat.categories))
    corpus = Corpus("small", "official", same)
    with pytest.raises(InputError, match="only one label"):
        forecast(corpus, corpus.test, "other_lines")
