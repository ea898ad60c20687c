"""Evidence by kin: of a screen with one line through a reference of another species, and of genes that are held out."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.evidence.quote import evidence_digest
from benchmarks.evidence.reference import Reference
from benchmarks.screens.screen import PERTURBQA, Screen
from benchmarks.screens.splits import apply_split
from rewards import LABELS

MakeLabels = Callable[[int], pd.DataFrame]
OWN = Screen("mouse", {"bmdm": "BMDM (macrophages)"}, has_split=False)
SPLITS = ["holdout:perturbations", "holdout:genes", "holdout:both"]
KINDS = ["neighbours,k=3", "contrast,k=2", "other_lines", "similar_genes,k=4"]


def screens_of(labels: pd.DataFrame) -> tuple[pd.DataFrame, Reference]:
    """Return one line as a screen of mouse cells, and the others as the human reference."""
    texts = labels.astype(dict.fromkeys(("cell_line", "pert", "gene", "label"), str))
    here = texts["cell_line"] == "rpe1"
    own = texts[here].assign(cell_line="bmdm", pert=texts["pert"].str.lower(), gene=texts["gene"].str.lower())
    own["item_id"] = own["cell_line"] + "|" + own["pert"] + "|" + own["gene"]
    there = texts[~here].assign(pert=texts["pert"].str.upper(), gene=texts["gene"].str.upper())
    return own.reset_index(drop=True), Reference("human", PERTURBQA, there.reset_index(drop=True), "upper")


def corpus_of(labels: pd.DataFrame, reference: Reference | None, split: str) -> Corpus:
    kept = apply_split(labels, split)
    return Corpus("own", split, kept, OWN, len(labels) - len(kept), reference)


def texts_of(corpus: Corpus, items: pd.DataFrame, *kinds: str) -> list[str]:
    return [one[-1]["content"] for one in build_prompts(items, corpus, PromptConfig(evidence=list(kinds)))]


def other_label(labels: pd.DataFrame, rows: "pd.Series[bool]") -> pd.DataFrame:
    names = list(map(str, LABELS))
    other = labels["label"].map(dict(zip(names, names[1:] + names[:1], strict=True)))
    return labels.assign(label=labels["label"].where(~rows, other))


def cosines(corpus: Corpus, column: str, symbol: str) -> dict[str, float]:
    """Return how similar the training symbols of a column are to another one; only those that are known."""
    kin = corpus.kin("bmdm")
    vectors = kin.pert_vectors if column == "pert" else kin.gene_vectors
    names = sorted(set(corpus.train[column]) - {symbol})
    own, known = vectors([symbol])
    if not known[0]:
        return {}
    vector_NK, known_N = vectors(names)
    return {name: float(vector_NK[at] @ own[0]) for at, name in enumerate(names) if known_N[at]}


def test_the_nearest_knockdowns_are_found_through_a_reference(make_labels: MakeLabels) -> None:
    own, reference = screens_of(make_labels(0))
    corpus = corpus_of(own, reference, "holdout:perturbations")
    label_of = corpus.train.set_index(["pert", "gene"])["label"].to_dict()
    found = corpus.evidence(corpus.test, 3)
    assert list(dict.fromkeys(found["item_id"])) == [
        one for one in corpus.test["item_id"] if one in {*found["item_id"]}
    ]
    for item_id, pert, gene in corpus.test[["item_id", "pert", "gene"]].itertuples(index=False):
        near = cosines(corpus, "pert", pert)
        expected = sorted((-round(near[q], 12), q) for q in near if (q, gene) in label_of)[:3]
        rows = found[found["item_id"] == item_id]
        assert rows["rank"].tolist() == [1, 2, 3][: len(expected)]
        assert rows["similarity"].tolist() == pytest.approx([-cosine for cosine, _ in expected], abs=1e-9)
        assert all(label_of[q, gene] == label for q, label in rows[["pert", "label"]].itertuples(index=False))
    assert corpus_of(own, None, "holdout:perturbations").evidence(corpus.test, 3).empty


def test_similar_pairs_have_another_knockdown_and_another_gene(make_labels: MakeLabels) -> None:
    own, reference = screens_of(make_labels(0))
    corpus = corpus_of(own, reference, "holdout:both")
    label_of = corpus.train.set_index(["pert", "gene"])["label"].to_dict()
    items = pd.concat([corpus.test, corpus.train.iloc[::9]])
    found = corpus.similar_pairs(items, 4)
    known = 0
    for item_id, pert, gene in items[["item_id", "pert", "gene"]].itertuples(index=False):
        perts, genes = cosines(corpus, "pert", pert), cosines(corpus, "gene", gene)
        pairs = [(perts[q] * genes[h], q, h) for q, h in label_of if perts.get(q, 0) > 0 and genes.get(h, 0) > 0]
        expected = sorted((round(product, 9) for product, _, _ in pairs), reverse=True)[:4]
        rows = found[found["item_id"] == item_id]
        assert rows["similarity"].tolist() == pytest.approx(expected, abs=1e-8)
        for row in rows.itertuples():
            assert label_of[row.pert, row.gene] == row.label
            assert (row.pert, row.gene) != (pert, gene)
            assert row.pert != pert
            assert row.gene != gene
        known += len(rows)
    assert known > len(items)
    (text,) = texts_of(corpus, items.head(1), "similar_genes,k=1")
    first = found.iloc[0]
    assert text.endswith(
        f"(similarity):\n{first['pert']} on {first['gene']} ({first['similarity']:.1f}): {first['label']}"
    )


def test_a_gene_that_is_held_out_is_known_through_other_lines_or_a_reference_alone(make_labels: MakeLabels) -> None:
    own, reference = screens_of(make_labels(0))
    test = apply_split(own, "holdout:genes")
    test = test[test["split"] == "test"]
    alone, helped = corpus_of(own, None, "holdout:genes"), corpus_of(own, reference, "holdout:genes")
    assert all("none known" in text for text in texts_of(alone, test, "similar_genes"))
    assert sum("none known" in text for text in texts_of(helped, test, "similar_genes")) < len(test) / 5


def test_other_lines_are_those_of_the_reference_too(make_labels: MakeLabels) -> None:
    own, reference = screens_of(make_labels(0))
    corpus = corpus_of(own, reference, "holdout:genes")
    for item, text in zip(corpus.test.itertuples(), texts_of(corpus, corpus.test, "other_lines"), strict=True):
        there = reference.labels
        same = there[(there["pert"] == item.pert.upper()) & (there["gene"] == item.gene.upper())]
        said = text.split("in other cell lines:\n")[1].split("\n")
        expected = {f"{PERTURBQA.words(row.cell_line)}, PerturbQA: {row.label}" for row in same.itertuples()}
        assert set(said) == (expected or {"none known"})


@pytest.mark.parametrize("split", SPLITS)
def test_with_a_reference_no_prompt_moves_with_a_test_label_or_its_own(make_labels: MakeLabels, split: str) -> None:
    own, reference = screens_of(make_labels(0))
    corpus = corpus_of(own, reference, split)
    hidden = corpus_of(other_label(own, ~own["item_id"].isin(corpus.train["item_id"])), reference, split)
    assert (corpus.test["label"].to_numpy() != hidden.test["label"].to_numpy()).all()
    for items in (corpus.train, corpus.test):
        assert texts_of(corpus, items, *KINDS) == texts_of(hidden, items, *KINDS)
    for item in corpus.train["item_id"].iloc[[4, 40]]:
        changed = corpus_of(other_label(own, own["item_id"] == item), reference, split)
        row = corpus.train[corpus.train["item_id"] == item]
        assert texts_of(corpus, row, *KINDS) == texts_of(changed, row, *KINDS)
        assert texts_of(corpus, corpus.train, *KINDS) != texts_of(changed, corpus.train, *KINDS)


@pytest.mark.parametrize("split", SPLITS)
def test_a_training_item_is_asked_as_if_its_symbols_were_held_out(make_labels: MakeLabels, split: str) -> None:
    own, reference = screens_of(make_labels(0))
    corpus = corpus_of(own, reference, split)
    known = 0
    for item in corpus.train.iloc[[4, 40, 77]].itertuples():
        apart = own[own["item_id"] == item.item_id]
        unseen = pd.Series(False, index=own.index)
        for column in corpus.unseen_columns:
            unseen |= own[column] == getattr(item, column)
        other = pd.concat([own[~unseen], apart])  # no training row has its symbols, as for a test item
        kept = corpus.labels[corpus.labels["item_id"].isin(other["item_id"])]
        (before,), (after,) = (texts_of(one, apart, *KINDS) for one in (corpus, replace(corpus, labels=kept)))
        assert before == after
        known += before.count("none known") < len(KINDS)
    assert known


def test_no_items_have_no_prompts(make_labels: MakeLabels) -> None:
    own, reference = screens_of(make_labels(0))
    for one in (None, reference):
        corpus = corpus_of(own, one, "holdout:both")
        assert texts_of(corpus, corpus.test.head(0), *KINDS) == []


def test_another_reference_gives_another_digest_of_the_evidence(make_labels: MakeLabels) -> None:
    _, reference = screens_of(make_labels(0))
    other = replace(reference, labels=reference.labels.iloc[1:])
    kinds = PromptConfig(evidence=["similar_genes"]).kinds
    digests = {evidence_digest(kinds, one) for one in (None, reference, other)}
    assert len(digests) == 3
    assert "" in digests
    assert evidence_digest((), reference) == ""


def test_a_gene_whose_one_row_is_the_item_s_own_has_no_rate(make_labels: MakeLabels) -> None:
    own, _ = screens_of(make_labels(0))
    train = corpus_of(own, None, "holdout:perturbations").train
    alone, kept = train.iloc[0], train.iloc[-1]
    others = (own["gene"] == alone["gene"]) & (own["item_id"] != alone["item_id"])
    corpus = corpus_of(own[~others], None, "holdout:perturbations")
    items = corpus.train[corpus.train["item_id"].isin([alone["item_id"], kept["item_id"]])]
    assert kept["gene"] != alone["gene"]
    unknown, told = texts_of(corpus, items, "neighbours")
    assert f"\nNothing is known of {alone['gene']} in other knockdowns." in unknown
    assert f"\n{kept['gene']} changes in " in told
