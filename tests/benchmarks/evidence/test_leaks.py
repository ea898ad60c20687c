"""Under every split, no test label and no label of a row that is left out moves a prompt or a forecast."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.baselines import BASELINES
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.kinds.kind import NAMES
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.evidence.reach import shortcut_reach
from benchmarks.screens.splits import apply_split
from rewards import LABELS

MakeLabels = Callable[[int], pd.DataFrame]
FROM_FILES = ("gene_sets", "graph")
SPLITS = [
    "official", "holdout:rpe1", "holdout:perturbations", "holdout:genes", "holdout:both",
    "holdout:both,share=0.4,seed=2", "holdout:both,fold=2/3",
]  # fmt: skip


def corpus_of(labels: pd.DataFrame, split: str) -> Corpus:
    kept = apply_split(labels, split)
    return Corpus("small", split, kept, left_out=len(labels) - len(kept))


def relabelled(labels: pd.DataFrame, rows: "pd.Series[bool]") -> pd.DataFrame:
    """Give each of these rows another label than it has."""
    other = {str(label): str(LABELS[(at + 1) % len(LABELS)]) for at, label in enumerate(LABELS)}
    new = labels["label"].astype(str).where(~rows, labels["label"].astype(str).map(other))
    return labels.assign(label=new.astype(labels["label"].dtype))


@pytest.fixture(params=SPLITS, scope="module")
def pair(request: pytest.FixtureRequest, make_labels: MakeLabels) -> tuple[Corpus, Corpus]:
    """A corpus, and the same one with all labels changed that are not of training rows; not to be changed.

    Each keeps what was fitted on it, so that the tests of a split fit it once.
    """
    labels = make_labels(0)
    corpus = corpus_of(labels, request.param)
    changed = corpus_of(relabelled(labels, ~labels["item_id"].isin(corpus.train["item_id"])), request.param)
    assert (corpus.test["label"].to_numpy() != changed.test["label"].to_numpy()).all()
    return corpus, changed


@pytest.mark.parametrize("template_version", [1, 2])
def test_no_prompt_moves(pair: tuple[Corpus, Corpus], template_version: int) -> None:
    config = PromptConfig(evidence=4, template_version=template_version)  # type: ignore[arg-type]
    corpus, changed = pair
    for items in (corpus.train, corpus.test):
        assert build_prompts(items, corpus, config) == build_prompts(items, changed, config)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The kinds of evidence by name, as a configuration writes them."""
    folder = tmp_path_factory.mktemp("evidence")
    pairs = [(f"P{p}", f"G{g}") for p in range(16) for g in range(0, 12, 2)]
    (folder / "sets.gmt").write_text("".join(f"{pert} {gene}\t\t{pert}\t{gene}\n" for pert, gene in pairs))
    (folder / "edges.csv").write_text("gene1,gene2,score\n" + "".join(f"{pert},{gene},1\n" for pert, gene in pairs))
    options = {"gene_sets": f",file={folder / 'sets.gmt'}", "graph": f",file={folder / 'edges.csv'}"}
    return {name: name + options.get(name, "") for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_no_evidence_of_any_kind_moves(pair: tuple[Corpus, Corpus], kinds: dict[str, str], name: str) -> None:
    corpus, changed = pair
    config = PromptConfig(evidence=[kinds[name]])
    said = [prompt[-1]["content"] for prompt in build_prompts(corpus.train, corpus, config)]
    # Or the test could not fail. What labels of this screen tell of an unseen symbol is nothing; test_alike.py has a
    # reference.
    assert any("none known" not in text for text in said) is (not corpus.unseen_columns or name in FROM_FILES)
    assert said == [prompt[-1]["content"] for prompt in build_prompts(corpus.train, changed, config)]
    assert build_prompts(corpus.test, corpus, config) == build_prompts(corpus.test, changed, config)


@pytest.mark.parametrize("split", SPLITS)
def test_no_evidence_of_any_kind_moves_with_an_own_label(
    make_labels: MakeLabels, kinds: dict[str, str], split: str
) -> None:
    labels = make_labels(0)
    corpus = corpus_of(labels, split)
    config = PromptConfig(evidence=[*kinds.values()])
    moved = 0
    for item in corpus.train["item_id"].iloc[[7, 90, 150]]:
        rows = corpus.train[corpus.train["gene"] == item.rpartition("|")[2]]
        changed = corpus_of(relabelled(labels, labels["item_id"] == item), split)
        before, after = (build_prompts(rows, one, config) for one in (corpus, changed))
        differ = [own for own, old, new in zip(rows["item_id"], before, after, strict=True) if old != new]
        assert item not in differ
        moved += len(differ)
    assert bool(moved) is ("gene" not in corpus.unseen_columns)  # evidence about other knockdowns quotes these labels


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda one: one.name)
def test_no_forecast_moves(pair: tuple[Corpus, Corpus], baseline: object) -> None:
    one = next(each for each in BASELINES if each is baseline)
    corpus, changed = pair
    pd.testing.assert_frame_equal(one.forecast(corpus, corpus.test), one.forecast(changed, corpus.test))


def test_an_own_label_moves_no_prompt_of_its_item(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    for split in ("holdout:genes", "holdout:both"):
        corpus = corpus_of(labels, split)
        for item in corpus.train["item_id"].iloc[::40]:
            changed = corpus_of(relabelled(labels, labels["item_id"] == item), split)
            row = corpus.train[corpus.train["item_id"] == item]
            config = PromptConfig(evidence=4)
            assert build_prompts(row, corpus, config) == build_prompts(row, changed, config)


@pytest.mark.parametrize("split", ["holdout:genes", "holdout:both"])
def test_where_genes_are_held_out_no_prompt_tells_of_a_gene_s_own_rows(make_labels: MakeLabels, split: str) -> None:
    corpus = corpus_of(make_labels(0), split)
    for prompt in build_prompts(corpus.labels, corpus, PromptConfig(evidence=4)):  # training items are asked alike
        text = prompt[-1]["content"]
        assert "Nothing is known of G" in text
        assert "other knockdowns in this line" not in text
        assert text.endswith(":\nnone known")


def test_symbols_of_test_items_are_held_out_and_no_others(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    both, genes = corpus_of(labels, "holdout:both"), corpus_of(labels, "holdout:genes")
    pert, gene = str(both.test["pert"].iloc[0]), str(both.test["gene"].iloc[0])
    assert both.holds_out(f"k562|{pert}|any")
    assert both.holds_out(f"k562|any|{gene}")
    assert not genes.holds_out(f"k562|{pert}|any")
    assert genes.holds_out(f"k562|any|{gene}")
    assert not any(both.holds_out(item) for item in both.train["item_id"])
    assert not corpus_of(labels, "official").holds_out(str(labels["item_id"].iloc[0]))


@pytest.mark.parametrize("split", SPLITS)
def test_rehearsals_repeat_the_split_within_training(make_labels: MakeLabels, split: str) -> None:
    corpus = corpus_of(make_labels(0), split)
    for rehearsal in corpus.rehearsals:
        assert set(rehearsal.labels["item_id"]) <= set(corpus.train["item_id"])
        assert len(rehearsal.train)
        assert len(rehearsal.test)
        if "genes" in split or "both" in split:
            assert not set(rehearsal.train["gene"]) & set(rehearsal.test["gene"])
        if "perturbations" in split or "both" in split:
            assert not set(rehearsal.train["pert"]) & set(rehearsal.test["pert"])


def test_a_single_training_line_is_rehearsed_by_perturbations(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    corpus = corpus_of(labels[labels["cell_line"].isin(["rpe1", "k562"])], "holdout:rpe1")
    (rehearsal,) = corpus.rehearsals
    assert len(rehearsal.train)
    assert not set(rehearsal.train["pert"]) & set(rehearsal.test["pert"])


def test_reach_counts_what_training_rows_tell(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    official, genes, both = (
        shortcut_reach(corpus_of(labels, one)) for one in ("official", "holdout:genes", "holdout:both")
    )
    n = len(corpus_of(labels, "holdout:genes").test)
    assert genes["test_items"].to_dict() == {
        "majority class": genes.loc["majority class", "test_items"], "gene rate": 0, "gene rate over all lines": 0,
        "perturbation rate in other lines": genes.loc["perturbation rate in other lines", "test_items"],
        "label copied from other lines": 0, "cross-line neighbours": 0,
    }  # fmt: skip
    assert genes.loc["perturbation rate in other lines", "test_items"] >= 0.9 * n
    assert (both["test_items"].drop("majority class") == 0).all()
    corpus = corpus_of(labels, "official")
    items, train = corpus.test.astype(str), corpus.train.astype(str)
    elsewhere = [
        bool(((train["pert"] == row.pert) & (train["gene"] == row.gene) & (train["cell_line"] != row.cell_line)).any())
        for row in items.itertuples()
    ]
    assert official.loc["label copied from other lines", "test_items"] == sum(elsewhere)
    right = (items["label"] == train["label"].mode()[0]).sum()
    assert official.loc["majority class", "test_items"] == right
    assert np.allclose(official["percent"], 100 * official["test_items"] / len(items), atol=0.05)


def test_left_out_rows_are_counted(make_labels: MakeLabels) -> None:
    corpus = corpus_of(make_labels(0), "holdout:both")
    assert corpus.left_out == len(make_labels(0)) - len(corpus.labels) > 0
    assert replace(corpus, left_out=0).digest == corpus.digest
