"""Kin: who is alike, from the other lines and the reference only."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.kin import Kin, fit_kin
from benchmarks.evidence.reference import Reference
from benchmarks.screens.screen import Screen
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
MakeLabels = Callable[[int], pd.DataFrame]


@pytest.fixture
def labels(make_labels: MakeLabels) -> pd.DataFrame:
    return make_labels(0)


@pytest.fixture
def reference(make_labels: MakeLabels) -> Reference:
    """Another screen: what the second seed makes, with all symbols in upper case and one line."""
    there = make_labels(1)
    there = there[there["cell_line"] == "k562"].astype({"cell_line": str}).assign(cell_line="other")
    return Reference("there", Screen("There", {}), there.assign(pert=there["pert"].str.upper()), "upper")


def arrays_of(kin: Kin) -> list[np.ndarray]:
    return [kin.perts.to_numpy(), kin.vector_PK, kin.known_P, kin.genes.to_numpy(), kin.vector_GK, kin.known_G]


def test_vectors_have_unit_length_where_known_and_are_0_elsewhere(labels: pd.DataFrame) -> None:
    kin = fit_kin(labels, "k562")
    for vectors, known in ((kin.vector_PK, kin.known_P), (kin.vector_GK, kin.known_G)):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), known.astype(float), atol=1e-9)
        assert known.any()


def test_families_of_knockdowns_are_alike(labels: pd.DataFrame) -> None:
    even, odd = ([f"P{p}" for p in range(start, 16, 2)] for start in (0, 1))
    kin = fit_kin(labels, "k562")
    vectors, known = kin.pert_vectors(even + odd)
    assert known.all()
    cosine = vectors @ vectors.T
    within = (cosine[:8, :8].sum() - 8) / 56
    assert within > cosine[:8, 8:].mean() + 0.3


def test_the_lines_own_labels_do_not_matter(labels: pd.DataFrame, reference: Reference) -> None:
    own = labels["cell_line"] == "k562"
    turned = labels.assign(label=labels["label"].where(~own, UP))
    assert (turned["label"] != labels["label"]).any()
    for given in (None, reference):
        before, after = (arrays_of(fit_kin(frame, "k562", given)) for frame in (labels, turned))
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_test_label_does_not_matter(labels: pd.DataFrame) -> None:
    test = labels["split"] == "test"
    turned = labels.assign(label=labels["label"].where(~test, UP))
    before, after = (arrays_of(Corpus("small", "official", frame).kin("rpe1")) for frame in (labels, turned))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_without_another_line_or_a_reference_nothing_is_known(labels: pd.DataFrame) -> None:
    kin = fit_kin(labels[labels["cell_line"] == "k562"], "k562")
    assert kin.pert_at(["P1"]).tolist() == [-1]
    vectors, known = kin.gene_vectors(["G1", "G2"])
    assert vectors.shape == (2, 1)
    assert not known.any()


def test_a_reference_knows_what_no_training_row_does(labels: pd.DataFrame, reference: Reference) -> None:
    one_line = labels[labels["cell_line"] == "k562"].query("pert != 'P3'").assign(pert=lambda f: f["pert"].str.lower())
    kin = fit_kin(one_line, "k562", reference)
    assert kin.pert_at(["p3", "P3"]).tolist() == [kin.perts.get_loc("P3")] * 2
    assert kin.gene_at(["g3", "nothing"])[1] == -1


def test_lines_and_reference_describe_one_gene_together(labels: pd.DataFrame, reference: Reference) -> None:
    together = fit_kin(labels.assign(pert=labels["pert"].str.lower()), "k562", reference)
    assert set(together.perts) == {*labels["pert"].str.upper(), *reference.labels["pert"]}
    alone = fit_kin(labels, "k562")
    assert not np.array_equal(together.pert_vectors(["P1"])[0], alone.pert_vectors(["P1"])[0])


def test_a_symbol_without_counterpart_is_known_by_the_lines_alone(labels: pd.DataFrame, reference: Reference) -> None:
    table = Reference("there", reference.screen, reference.labels, {"P1": "P9"})
    kin = fit_kin(labels, "k562", table)
    assert kin.pert_at(["P1"]).tolist() == kin.perts.get_indexer(["P9"]).tolist()
    assert kin.perts[kin.pert_at(["P9"])[0]] == "P9 (no counterpart)"


def test_the_sample_has_no_kin() -> None:
    with pytest.raises(InputError, match="kin: the sample lacks"):
        open_corpus("sample").kin("k562")


def test_a_rehearsal_keeps_the_reference_and_forgets_what_it_withholds(
    labels: pd.DataFrame, reference: Reference
) -> None:
    corpus = Corpus("small", "holdout:perturbations", labels.assign(split="train"), reference=reference)
    (rehearsal,) = corpus.rehearsals
    assert rehearsal.reference is reference
    held = set(rehearsal.test["pert"])
    alone = Corpus("small", "holdout:perturbations", labels.assign(split="train")).rehearsals[0].kin("k562")
    assert (alone.pert_at(sorted(held)) == -1).all()
