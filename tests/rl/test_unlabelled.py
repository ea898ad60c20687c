"""Pairs without labels: read from files, refused where they have labels, and taught by a table alone."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.screens.splits import apply_split
from rewards import LABELS, InputError
from rl.reward_context import reward_context
from rl.train import load_rewards
from rl.unlabelled import check_verifiers, read_unlabelled

MIXED = {"kind": "mixed", "table": "neighbours"}


@pytest.fixture
def corpus(make_labels: Callable[[int], pd.DataFrame]) -> Corpus:
    return Corpus("small", "official", make_labels(0))


def missing_pairs(corpus: Corpus, n: int) -> pd.DataFrame:
    """Pairs that were not measured."""
    known = set(corpus.labels["item_id"])
    pairs = [("k562", f"P{p}", f"G{g}") for p in range(16) for g in range(12) if f"k562|P{p}|G{g}" not in known]
    return pd.DataFrame(pairs[:n], columns=["cell_line", "pert", "gene"])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pairs_are_read_prompted_and_taught_by_the_table(corpus: Corpus, tmp_path: Path, suffix: str) -> None:
    pairs, path = missing_pairs(corpus, 5), tmp_path / f"pairs.{suffix}"
    pairs.to_csv(path, index=False) if suffix == "csv" else pairs.to_parquet(path)
    found = read_unlabelled(path, corpus)
    assert found["label"].tolist() == [""] * 5
    items = pd.concat([corpus.train.head(7).astype({"label": str}), found])
    assert len(build_prompts(items, corpus, PromptConfig(evidence=2))) == 12
    context = reward_context(items, corpus, folder=tmp_path)
    components = load_rewards([{"name": "accuracy", "parameters": {"verifier": MIXED}}], context, "group")
    check_verifiers(components)
    columns = {name: items[name].astype(str).tolist() for name in ("item_id", "label")}
    completions = [f"<think>a</think><answer>{LABELS[0]}</answer>"] * len(items)
    scores = components[0](completions=completions, **columns)
    forecast = corpus.neighbour_forecast(items)["p_up"].tolist()
    for label, score, p_up in zip(columns["label"], scores, forecast, strict=True):
        assert score == pytest.approx(p_up if label == "" else float(label == LABELS[0]))


def test_white_space_around_names_is_dropped(corpus: Corpus, tmp_path: Path) -> None:
    pairs, path = missing_pairs(corpus, 3), tmp_path / "pairs.csv"
    (" " + pairs + "\t").to_csv(path, index=False)
    found = read_unlabelled(path, corpus)
    pd.testing.assert_frame_equal(found[list(pairs)], pairs)
    assert found["item_id"].tolist() == ["|".join(pair) for pair in pairs.to_numpy()]


@pytest.mark.parametrize("reward", ["accuracy", "balanced_accuracy", "margin", "direction", "confidence"])
def test_rewards_that_need_labels_are_refused_by_name(corpus: Corpus, reward: str) -> None:
    context = reward_context(corpus.train, corpus, folder=Path())
    with pytest.raises(InputError, match=f"{reward} needs labels"):
        check_verifiers(load_rewards(["format", reward], context, "batch"))
    check_verifiers(load_rewards(["format", {"name": reward, "parameters": {"verifier": MIXED}}], context, "batch"))


def test_a_pair_with_a_symbol_that_is_held_out_is_refused(
    make_labels: Callable[[int], pd.DataFrame], corpus: Corpus, tmp_path: Path
) -> None:
    held_out = Corpus("small", "holdout:genes", apply_split(make_labels(0), "holdout:genes"))
    pairs, path = missing_pairs(corpus, 40), tmp_path / "pairs.csv"
    known = pairs[~pairs["gene"].isin(held_out.test["gene"])]
    known.to_csv(path, index=False)
    assert len(read_unlabelled(path, held_out)) == len(known) < len(pairs)
    pairs.to_csv(path, index=False)
    row = 2 + int(pairs["gene"].isin(held_out.test["gene"]).argmax())
    with pytest.raises(InputError, match=rf"row {row}: .* split holdout:genes holds out; remove the row"):
        read_unlabelled(path, held_out)


def test_wrong_files_are_refused_by_row(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    pairs = missing_pairs(corpus, 3)
    test_row = corpus.test.iloc[0]
    for frame, words in (
        (pairs.drop(columns="gene"), "no column 'gene'"),
        (pairs.head(0), "has no rows"),
        (pairs.assign(gene=["G1", "", "G2"]), "row 3: .* has an empty value"),
        (pairs.assign(cell_line="hela"), "row 2: .* unknown cell line"),
        (pd.concat([pairs, pairs.head(1)]), "row 5: .* occurs twice"),
        (
            pd.concat([pairs, pairs.head(1).assign(gene=f" {pairs['gene'].iloc[0].lower()}")]),
            "row 5: .* occurs twice",
        ),
        (pairs.assign(gene=["G1", " ", "G2"]), "row 3: .* has an empty value"),
        (pairs.assign(pert=["P1", "P1|G2", "P1"]), r"row 3: .* has a \| in a name"),
        (pd.DataFrame([test_row[["cell_line", "pert", "gene"]].astype(str).str.lower()]), "is an item of PerturbQA"),
        (pd.DataFrame([" " + test_row[["cell_line", "pert", "gene"]].astype(str)]), "is an item of PerturbQA"),
        (pd.DataFrame([test_row[["cell_line", "pert", "gene"]].astype(str)]), "row 2: .* is an item of PerturbQA"),
    ):
        frame.to_csv(path, index=False)
        with pytest.raises(InputError, match=words):
            read_unlabelled(path, corpus)
    with pytest.raises(InputError, match="no such file"):
        read_unlabelled(tmp_path / "none.csv", corpus)
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(InputError, match="cannot be read"):
        read_unlabelled(tmp_path / "bad.parquet", corpus)
