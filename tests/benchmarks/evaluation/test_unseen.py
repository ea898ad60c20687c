"""Forecasts for unseen perturbations and genes: formulas against a slow loop, leaks, and when they apply."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.evaluation import unseen
from benchmarks.evaluation.baselines import BASELINES, UNSEEN, lacking_words, left_out, predict_baselines, shown
from benchmarks.evaluation.predictions import PROBABILITIES
from benchmarks.evaluation.unseen import TwoSidedSettings, low_rank, transfer, two_sided_neighbours
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.reach import shortcut_reach
from benchmarks.evidence.reference import Reference
from benchmarks.screens.screen import Screen
from benchmarks.screens.splits import apply_split
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
SPLITS = ["holdout:perturbations", "holdout:genes", "holdout:both"]
SETTINGS = TwoSidedSettings(2.0, 3.0, 1.5)
MakeLabels = Callable[[int], pd.DataFrame]


@cache
def world(n_perts: int = 45, n_genes: int = 36) -> pd.DataFrame:
    """Make labels in which what knockdowns do depends on their family and the gene's: one line ours, one elsewhere."""
    rng = np.random.default_rng(0)
    rows = []
    for line, case in (("bmdm", str.capitalize), ("k562", str.upper)):
        for p in range(n_perts):
            for g in range(n_genes):
                if rng.random() < 0.3:
                    continue
                truth = [(UP, NONE, DOWN), (DOWN, UP, NONE), (NONE, DOWN, UP)][p % 3][g % 3]
                label = truth if rng.random() < 0.8 else str(rng.choice([UP, DOWN, NONE]))
                rows.append((line, case(f"P{p}x"), case(f"G{g}x"), label, "train"))
    frame = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label", "split"])
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    return frame


def corpus_of(split: str, labels: pd.DataFrame | None = None) -> Corpus:
    """Return our line's labels under a split, with the other line as their reference."""
    there = world().query("cell_line == 'k562'")
    ours = (world() if labels is None else labels).query("cell_line == 'bmdm'").reset_index(drop=True)
    reference = Reference("there", Screen("There", {}, "a licence"), there, "upper")
    return Corpus("ours", split, apply_split(ours, split), Screen("Ours", {})).with_reference(reference)


def shares(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    return frame[list(PROBABILITIES)].to_numpy(dtype=np.float64)


def forecasts_of(corpus: Corpus, items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {one.name: one.forecast(corpus, items) for one in UNSEEN}


@pytest.mark.parametrize("split", SPLITS)
def test_they_tell_the_families_of_what_no_training_row_knows(split: str) -> None:
    corpus = corpus_of(split)
    for name, forecast in forecasts_of(corpus, corpus.test).items():
        assert forecast["item_id"].tolist() == corpus.test["item_id"].tolist()
        np.testing.assert_allclose(shares(forecast).sum(axis=1), 1.0)
        assert roc_auc_score(corpus.test["label"] == UP, forecast["p_up"]) > 0.75, name
        assert roc_auc_score(corpus.test["label"] == DOWN, forecast["p_down"]) > 0.75, name


@pytest.mark.parametrize("split", ["official", *SPLITS])
def test_a_test_label_never_matters(make_labels: MakeLabels, split: str) -> None:
    labels = make_labels(0)
    corpus = Corpus("small", split, apply_split(labels, split))
    items = corpus.test.drop(columns="label")
    turned = corpus.labels.assign(label=corpus.labels["label"].where(corpus.labels["split"] == "train", UP))
    for forecast in (two_sided_neighbours, low_rank):
        before, after = (forecast(Corpus("small", split, one), items) for one in (corpus.labels, turned))
        pd.testing.assert_frame_equal(before, after)


def test_a_test_label_never_matters_with_a_reference() -> None:
    corpus = corpus_of("holdout:genes")
    items = corpus.test.drop(columns="label")
    turned = replace(corpus, labels=corpus.labels.assign(
        label=corpus.labels["label"].where(corpus.labels["split"] == "train", UP)
    ))  # fmt: skip
    before, after = (forecasts_of(one, items) for one in (corpus, turned))
    for name, forecast in before.items():
        pd.testing.assert_frame_equal(forecast, after[name])


def test_own_labels_of_a_perturbation_in_its_line_never_matter(make_labels: MakeLabels) -> None:
    corpus = Corpus("small", "official", make_labels(0))
    one = corpus.train[["cell_line", "pert"]].iloc[0]
    own = ((corpus.labels[["cell_line", "pert"]] == one).all(axis=1)) & (corpus.labels["split"] == "train")
    items = corpus.labels[own].drop(columns="label")
    turned = corpus.labels.assign(label=corpus.labels["label"].where(~own, UP))
    assert (turned["label"] != corpus.labels["label"]).any()
    before, after = (
        two_sided_neighbours(Corpus("small", "official", labels), items, SETTINGS) for labels in (corpus.labels, turned)
    )
    pd.testing.assert_frame_equal(before, after)


def test_two_sided_neighbours_are_the_formula(make_labels: MakeLabels) -> None:
    corpus = Corpus("small", "holdout:genes", apply_split(make_labels(0), "holdout:genes"))
    train, items = corpus.train, pd.concat([corpus.test.iloc[::7], corpus.train.iloc[::31]])
    found = shares(two_sided_neighbours(corpus, items, SETTINGS))
    for item, told in zip(items.itertuples(), found, strict=True):
        rows = train[(train["cell_line"] == item.cell_line) & (train["pert"] != item.pert)]
        kin = corpus.kin(str(item.cell_line))
        (pert,), _ = kin.pert_vectors([str(item.pert)])
        (gene,), _ = kin.gene_vectors([str(item.gene)])
        cos_gene = np.where(rows["gene"] == item.gene, 1.0, kin.gene_vectors(rows["gene"])[0] @ gene)
        weight = np.exp(2.0 * (kin.pert_vectors(rows["pert"])[0] @ pert - 1) + 3.0 * (cos_gene - 1))
        n = np.array([weight[(rows["label"] == label).to_numpy()].sum() for label in (UP, DOWN, NONE)])
        r = np.array([(rows["label"] == label).mean() for label in (UP, DOWN, NONE)])
        np.testing.assert_allclose(told, (n + 1.5 * r) / (n.sum() + 1.5), rtol=1e-4)


def test_blocks_of_perturbations_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of("holdout:genes")
    whole = shares(two_sided_neighbours(corpus, corpus.test, SETTINGS))
    monkeypatch.setattr(unseen, "_BLOCK", 4)
    np.testing.assert_allclose(shares(two_sided_neighbours(corpus, corpus.test, SETTINGS)), whole, rtol=1e-5)


def test_a_line_without_training_rows_gets_the_shares_of_all(make_labels: MakeLabels) -> None:
    labels = apply_split(make_labels(0), "holdout:rpe1")
    corpus = Corpus("small", "holdout:rpe1", labels)
    expected = [(corpus.train["label"] == label).mean() for label in (UP, DOWN, NONE)]
    found = shares(two_sided_neighbours(corpus, corpus.test, SETTINGS))
    np.testing.assert_allclose(found, np.tile(expected, (len(found), 1)))


def test_settings_are_those_of_the_smallest_loss_on_withheld_training_rows() -> None:
    corpus = corpus_of("holdout:both")
    chosen = unseen.choose_two_sided(corpus)
    turned = corpus_of("holdout:both").labels.assign(
        label=lambda frame: frame["label"].where(frame["split"] == "train", UP)
    )
    assert unseen.choose_two_sided(Corpus("ours", "holdout:both", turned, reference=corpus.reference)) == chosen

    def loss(settings: TwoSidedSettings) -> float:
        total = 0.0
        for rehearsal in corpus.rehearsals:
            p_NL = shares(two_sided_neighbours(rehearsal, rehearsal.test, settings))
            total -= np.log(p_NL[np.arange(len(p_NL)), unseen.label_codes(rehearsal.test)]).sum()
        return total

    others = [TwoSidedSettings(2.0, 2.0, 30.0), TwoSidedSettings(12.0, 12.0, 0.3), TwoSidedSettings(2.0, 12.0, 3.0)]
    assert all(loss(chosen) <= loss(other) + 1e-6 for other in others)


def test_transfer_reads_gene_perturbation_and_pair_of_the_reference() -> None:
    rows = [("k562", "A", "X", UP), ("k562", "A", "Y", NONE), ("rpe1", "B", "X", UP), ("rpe1", "B", "Y", DOWN)]
    there = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label"]).assign(item_id="", split="train")
    reference = Reference("there", Screen("There", {}), there)
    items = pd.DataFrame([("A", "X"), ("B", "unknown"), ("unknown", "unknown")], columns=["pert", "gene"])
    s_up, s_down = 2 / 4, 1 / 4
    gene_up, gene_down = (2 + 5 * s_up) / 7, (0 + 5 * s_down) / 7
    pert_a = (1 + 5 * s_up) / 7, (0 + 5 * s_down) / 7
    pert_b = (1 + 5 * s_up) / 7, (1 + 5 * s_down) / 7
    pair = (1 + 0.5 * gene_up) / 1.5, (0 + 0.5 * gene_down) / 1.5
    told = np.exp(unseen._told(reference, items))
    expected = [
        [gene_up / s_up, gene_down / s_down, pert_a[0] / s_up, pert_a[1] / s_down, pair[0] / gene_up,
         pair[1] / gene_down],
        [1, 1, pert_b[0] / s_up, pert_b[1] / s_down, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]  # fmt: skip
    np.testing.assert_allclose(told, expected, rtol=1e-6)


def test_transfer_without_a_reference_is_an_error(make_labels: MakeLabels) -> None:
    corpus = Corpus("small", "holdout:genes", apply_split(make_labels(0), "holdout:genes"))
    with pytest.raises(InputError, match="transfer: there is no reference screen; name one with --evidence_from"):
        transfer(corpus, corpus.test)


def test_one_label_alone_gives_its_share() -> None:
    labels = world().assign(label=UP)
    corpus = corpus_of("holdout:genes", labels)
    np.testing.assert_allclose(shares(low_rank(corpus, corpus.test)), np.tile([1.0, 0.0, 0.0], (len(corpus.test), 1)))


def test_they_are_shown_where_something_is_held_out_or_a_reference_is_given(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    assert shown(Corpus("small", "official", labels)) == BASELINES
    assert shown(Corpus("small", "holdout:rpe1", apply_split(labels, "holdout:rpe1"))) == BASELINES
    corpus = corpus_of("holdout:genes")
    assert shown(corpus) == (*BASELINES, *UNSEEN)
    assert not left_out(corpus)
    frames = predict_baselines(corpus, corpus.test)
    assert list(frames) == [one.name for one in (*BASELINES, *UNSEEN)]


def test_what_a_baseline_lacks_is_named() -> None:
    ours = world().query("cell_line == 'bmdm'").reset_index(drop=True)
    corpus = Corpus("ours", "holdout:both", apply_split(ours, "holdout:both"), Screen("Ours", {}))
    kin = "another cell line or a reference screen (--evidence_from)"
    assert left_out(corpus) == {
        "two-sided neighbours": kin, "low-rank reconstruction": kin,
        "transfer from the reference": "a reference screen (--evidence_from)", "shortcuts and kin combined": kin,
    }  # fmt: skip
    assert lacking_words(corpus)[1] == (
        "left out, since they need a reference screen (--evidence_from): transfer from the reference"
    )
    assert list(predict_baselines(corpus, corpus.test)) == [one.name for one in BASELINES]


def test_reach_counts_what_the_reference_knows() -> None:
    corpus = corpus_of("holdout:both")
    reach = shortcut_reach(corpus)["test_items"]
    assert reach["transfer from the reference: both known"] == len(corpus.test)
    pairs = set(zip(*(corpus.reference.labels[name] for name in ("pert", "gene")), strict=True))  # type: ignore[union-attr]
    known = sum((p.upper(), g.upper()) in pairs for p, g in zip(corpus.test["pert"], corpus.test["gene"], strict=True))
    assert 0 < reach["transfer from the reference: pair known"] == known < len(corpus.test)
