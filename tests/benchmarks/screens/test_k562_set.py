"""PerturbQA's labels of gene sets: fetched as published, read with their genes, and asked about as sets."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmarks.evaluation.baselines import predict_baselines
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.evidence.reach import shortcut_reach
from benchmarks.evidence.reference import Reference
from benchmarks.report.collect import describe, published_for
from benchmarks.screens import k562_set
from benchmarks.screens.labels import load_labels, load_screen
from benchmarks.screens.screen import PERTURBQA
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from rewards import LABELS, InputError
from rl.cli import app
from sft.audit.quotations import QuotationFinder
from sft.teacher.template import generate

UP, DOWN, NONE = map(str, LABELS)
SETS = {
    "7-translation": ["RPL18", "RPL31"],
    "10-unfolded protein response and mTORC1 signaling": [f"G{at}" for at in range(10)],
    "18-cell cycle": ["TPR"],
}
NAMES = list(SETS)
PERTS = [f"P{at}" for at in range(10)]
TESTED = PERTS[:4]


def write_files(folder: Path, seed: int = 0) -> None:
    """Write the three files: all pairs, with labels drawn by a seed."""
    drawn = np.random.default_rng(seed).choice([UP, DOWN, NONE], size=(len(PERTS), len(NAMES)))
    de, direction = ["pert,gene,label,split"], ["pert,gene,label,split"]
    for p, pert in enumerate(PERTS):
        for s, name in enumerate(NAMES):
            split = "test" if pert in TESTED else "train"
            de.append(f"{pert},{name},{int(drawn[p, s] != NONE)},{split}")
            if drawn[p, s] != NONE:
                direction.append(f"{pert},{name},{int(drawn[p, s] == UP)},{split}")
    folder.mkdir(exist_ok=True)
    (folder / "k562_set-de.csv").write_text("\n".join(de) + "\n")
    (folder / "k562_set-dir.csv").write_text("\n".join(direction) + "\n")
    (folder / "k562_set-mapping.json").write_text(json.dumps({**SETS, "1-mitochondrial respiratory chain": ["MT-CO1"]}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The three small files, taken for the published ones, where `SYNTHPERT_DATA` points."""
    path = tmp_path / "labels"
    write_files(path)
    take(path, monkeypatch)
    monkeypatch.setenv("SYNTHPERT_DATA", str(path))
    return path


def take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in k562_set.FILES.sha256}
    monkeypatch.setattr(k562_set, "FILES", replace(k562_set.FILES, sha256=digests))


def asked(items: pd.DataFrame, corpus: Corpus, config: PromptConfig) -> list[str]:
    return [messages[-1]["content"] for messages in build_prompts(items, corpus, config)]


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_name_stands_for_the_files(folder: Path) -> None:
    screen, labels = load_screen("k562_set")
    assert len(labels) == 30
    assert labels["item_id"].iloc[1] == "k562|P0|10-unfolded protein response and mTORC1 signaling"
    assert set(labels["cell_line"]) == {"k562"}
    assert set(labels.loc[labels["split"] == "test", "pert"]) == set(TESTED)
    assert {name: list(genes) for name, genes in screen.sets.items()} == SETS  # of the sets with labels
    assert "CC BY 4.0" in screen.notice
    pd.testing.assert_frame_equal(load_labels("k562_set"), labels)


def test_they_are_fetched_and_verified(folder: Path, tmp_path: Path) -> None:
    words = ["data", "fetch", "k562_set", "--source", str(folder), "--out", str(tmp_path / "new")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert f"{tmp_path / 'new'}: 30 items; every file is as published" in done.output
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(k562_set.FILES.sha256)
    done = CliRunner().invoke(app, ["data", "verify", "--data", "k562_set"], catch_exceptions=False)
    assert "The readouts are 3 sets of genes." in done.output
    assert "30 items, no fault found" in done.output


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("k562_set-mapping.json", '{"7-translation": ["RPL18"]}', "has no set '10-unfolded protein response"),
        ("k562_set-mapping.json", "[1]", "is no object of sets with their genes"),
        ("k562_set-mapping.json", "{", "not JSON"),
        ("k562_set-mapping.json", None, "no such file; PerturbQA's three k562_set files are needed"),
        ("k562_set-dir.csv", None, "no such file; PerturbQA's three k562_set files are needed"),
        ("k562_set-de.csv", "pert,gene,label,split\nP0, 7-translation,0,train\n", "row 2: P0, 7-translation has an"),
    ],
)  # fmt: skip
def test_a_fault_is_named_with_its_remedy(folder: Path, name: str, content: str | None, words: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(InputError) as error:
        load_labels("k562_set")
    assert str(folder / name) in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(k562_set.FILES.sha256))
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    path.write_text(path.read_text().replace("test", "train").replace("TPR", "CLSPN"))
    if name.endswith("csv"):  # consistent with each other, so that only the digests tell
        for other in ("k562_set-de.csv", "k562_set-dir.csv"):
            (folder / other).write_text((folder / other).read_text().replace("test", "train"))
    with pytest.raises(InputError, match=r"SHA-256 is .* run `synthpert data fetch k562_set`"):
        load_labels("k562_set")


def test_a_misspelt_name_is_met_with_the_right_one(folder: Path) -> None:
    with pytest.raises(InputError, match="did you mean `k562_set`"):
        load_labels("k562_sets")


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_a_prompt_asks_about_a_set_and_names_its_first_genes(folder: Path) -> None:
    corpus = open_corpus("k562_set")
    seven, ten = asked(corpus.labels.iloc[:2], corpus, PromptConfig())
    assert seven == (
        "One gene is knocked down by CRISPRi. What happens to the expression of a set of genes?\n"
        f"Labels: {UP}; {DOWN}; {NONE}.\n"
        "Think first, then answer: <think>reasoning</think><answer>one label</answer>\n"
        "P0 is knocked down by CRISPRi in K562 (chronic myeloid leukaemia). What happens to the gene set 7-translation "
        "(RPL18, RPL31)?"
    )
    assert ten.endswith(
        "the gene set 10-unfolded protein response and mTORC1 signaling (G0, G1, G2, G3, G4, G5, G6, G7 and 2 more)?"
    )


def test_other_wordings_read_right_for_a_set(folder: Path) -> None:
    corpus = open_corpus("k562_set")
    items = corpus.labels.iloc[[2]]
    (direction,) = asked(items, corpus, PromptConfig("direction", lemmas=True))
    assert "the expression of a set of genes changes. In which direction?" in direction
    assert "- gene function: what the knocked-down gene and the genes of the set do" in direction
    assert "whether the knocked-down gene acts before or after the gene set" in direction
    assert "both genes" not in direction
    assert "the other gene" not in direction
    (first,) = asked(items, corpus, PromptConfig("direction", template_version=1))
    assert "and the expression of the gene set 18-cell cycle (TPR) changes. In which direction?" in first
    (known,) = asked(items, corpus, PromptConfig(evidence=2))
    assert "18-cell cycle changes in " in known
    assert "Similar knockdowns (similarity) and 18-cell cycle:\nnone known" in known


@pytest.mark.parametrize("split", ["official", "holdout:perturbations", "holdout:genes", "holdout:both,share=0.4"])
def test_no_test_label_moves_a_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    corpus, config = open_corpus("k562_set", split), PromptConfig(evidence=3, lemmas=True)
    labels = corpus.labels.copy()
    tested = labels["split"] == "test"
    labels.loc[tested, "label"] = labels.loc[tested, "label"].map({UP: DOWN, DOWN: NONE, NONE: UP})
    changed = replace(corpus, labels=labels)
    assert asked(corpus.labels, corpus, config) == asked(corpus.labels, changed, config)


def test_the_genes_of_a_set_are_part_of_the_data_s_digest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_corpus("k562_set").digest
    path = folder / "k562_set-mapping.json"
    path.write_text(path.read_text().replace("RPL31", "RPL32"))
    take(folder, monkeypatch)
    assert open_corpus("k562_set").digest != before


# --- what works over sets as readouts ---------------------------------------------------------------------------------


def test_baselines_forecast_sets_and_are_scored_per_set(folder: Path) -> None:
    corpus = open_corpus("k562_set")
    forecasts = predict_baselines(corpus, corpus.test)
    assert {"gene rate", "cross-line neighbours", "all shortcuts combined"} <= set(forecasts)
    rate = forecasts["gene rate"].set_index("item_id")
    trained = corpus.train[corpus.train["gene"] == "7-translation"]["label"]
    assert rate.loc["k562|P0|7-translation", "p_up"] == pytest.approx((trained == UP).mean())
    per_set = estimate(prediction_arrays(forecasts["gene rate"]), "de", "de_per_gene_auroc").value
    assert per_set == 0.5  # one forecast for all knockdowns of a set
    reach = shortcut_reach(corpus)
    assert reach.loc["gene rate", "test_items"] == 12
    assert reach.loc["label copied from other lines", "test_items"] == 0


def test_a_report_says_that_readouts_are_sets_and_shows_what_was_published_of_them(folder: Path) -> None:
    corpus = open_corpus("k562_set")
    told = describe(corpus, corpus.test, "command")
    assert told["source"] == "PerturbQA, gene sets in K562"
    assert any("Per-gene AUROC is AUROC per set." in note for note in told["notes"])
    assert told["gene_sets"] == len(corpus.screen.sets)
    assert told["notes"][0].startswith("Labels: PerturbQA, gene sets in K562. PerturbQA (Wu et al., ICLR 2025)")
    published = {(row["system"], row["task"]): row["value"] for row in published_for(corpus)}
    assert published["Retrieval only", "de"] == published["Retrieval only", "dir"] == 0.66
    assert published["GEARS", "dir"] == 0.7
    assert {row["cell_line"] for row in published_for(corpus)} == {"k562"}
    assert published_for(open_corpus("k562_set", "holdout:perturbations")) == []


def reference_of(labels: pd.DataFrame) -> Reference:
    """Gene-level labels of other readouts, of K562 and RPE1."""
    return Reference("perturbqa", PERTURBQA, labels)


@pytest.fixture
def gene_level() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [(line, pert, f"G{at}", "train") for line in ("k562", "rpe1") for pert in PERTS for at in range(12)]
    frame = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "split"])
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    return frame.assign(label=rng.choice([UP, DOWN, NONE], size=len(frame)))


def test_a_reference_is_used_without_its_rows_of_the_same_cells(folder: Path, gene_level: pd.DataFrame) -> None:
    corpus = open_corpus("k562_set", reference=reference_of(gene_level))
    assert corpus.reference is not None
    assert set(corpus.reference.labels["cell_line"]) == {"rpe1"}
    assert corpus.screen.notes[-1] == "120 rows of PerturbQA are not used as evidence: they are of k562, too."
    here = gene_level["cell_line"] == "k562"
    other = gene_level.assign(label=gene_level["label"].where(~here, UP))
    changed = open_corpus("k562_set", reference=reference_of(other))
    np.testing.assert_array_equal(corpus.kin("k562").vector_PK, changed.kin("k562").vector_PK)
    assert corpus.kin("k562").known_P.all()
    forecast, again = (predict_baselines(one, one.test)["two-sided neighbours"] for one in (corpus, changed))
    pd.testing.assert_frame_equal(forecast, again)
    forecasts = forecast.groupby("gene")["p_none"].nunique()
    assert (forecasts > 1).all()  # unlike a set's rate, it tells one knockdown from another
    with pytest.raises(InputError, match="has only rows of k562. Genes and sets of genes in the same cells"):
        open_corpus("k562_set", reference=reference_of(gene_level[here]))


def test_kinds_of_evidence_quote_what_similar_knockdowns_did_to_the_set(folder: Path, gene_level: pd.DataFrame) -> None:
    corpus = open_corpus("k562_set", reference=reference_of(gene_level))
    config = PromptConfig(evidence=["neighbours,k=2", "contrast,k=1"])
    known = asked(corpus.test, corpus, config)
    quoted = known[0].split("Similar knockdowns (similarity) and 7-translation:\n")[1].splitlines()[:2]
    label = corpus.train.set_index("item_id")["label"]
    for line in quoted:
        pert, _, said = line.partition(" (")
        assert said.partition(": ")[2] == label[f"k562|{pert}|7-translation"]
    labels = corpus.labels.copy()
    tested = labels["split"] == "test"
    labels.loc[tested, "label"] = labels.loc[tested, "label"].map({UP: DOWN, DOWN: NONE, NONE: UP})
    assert asked(corpus.test, replace(corpus, labels=labels), config) == known


def test_sets_are_no_reference_for_genes_of_the_same_cells(
    folder: Path, gene_level: pd.DataFrame, tmp_path: Path
) -> None:
    gene_level.to_csv(tmp_path / "genes.csv", index=False)
    screen, labels = load_screen("k562_set")
    with pytest.raises(InputError, match="k562_set has only rows of k562, rpe1"):
        open_corpus(tmp_path / "genes.csv", reference=Reference("k562_set", screen, labels))


def test_the_template_teacher_and_the_audit_know_names_of_several_words(folder: Path) -> None:
    corpus = open_corpus("k562_set")
    (trace,) = generate(corpus.train.iloc[[1]], corpus, PromptConfig(evidence=2), seed=0)
    assert trace.gene == "10-unfolded protein response and mTORC1 signaling"
    assert f"{trace.gene} changes in" in trace.prompt[-1]["content"]
    told = corpus.test.iloc[1]
    finder = QuotationFinder(corpus)
    assert finder.in_reasoning(trace, f"Of {told['pert']}, {told['gene']} is {told['label']}.") == {told["item_id"]}
    assert finder.in_reasoning(trace, f"Of {told['pert']}, unfolded protein response is {told['label']}.") == set()


def test_the_published_files(full_labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHPERT_DATA", str(full_labels))
    screen, labels = load_screen("k562_set")
    assert len(labels) == 25_841
    assert (labels["split"] == "test").sum() == 5_235
    assert (labels["label"] != NONE).sum() == 14_071
    assert labels["pert"].nunique() == 1_758
    assert len(screen.sets) == labels["gene"].nunique() == 20
    assert len(screen.sets["7-translation"]) == 16
