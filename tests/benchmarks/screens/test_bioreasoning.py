"""The BioReasoning Challenge's files are fetched as published, and read as a screen with a test part without labels."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import check_unseen, select_test_items
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.models.folders import write_trained_items
from benchmarks.screens import bioreasoning
from benchmarks.screens.labels import load_labels, load_screen
from rewards import LABELS, InputError
from rl.cli import app
from rl.study import Stage, check_stages
from rl.unlabelled import read_unlabelled

UP, DOWN, NONE = map(str, LABELS)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small files in the challenge's format, taken for the published ones; home is an empty folder."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "train.csv").write_text("id,pert,gene,label\nMyc_Il6,Myc,Il6,none\nMyc_Upp1,Myc,Upp1,up\n")
    (folder / "test.csv").write_text("id,pert,gene\nRprd2_9930111J21Rik2,Rprd2,9930111J21Rik2\nStat1_Irf1,Stat1,Irf1\n")
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in bioreasoning.FILES.sha256}
    monkeypatch.setattr(bioreasoning, "FILES", replace(bioreasoning.FILES, sha256=digests))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return folder


def test_what_is_fetched_is_what_the_name_reads(source: Path) -> None:
    done = CliRunner().invoke(app, ["data", "fetch", "bioreasoning", "--source", str(source)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "2 items; every file is as published" in done.output
    assert "states no licence" in done.output
    screen, labels = load_screen("bioreasoning")
    assert labels["item_id"].tolist() == ["bmdm|Myc|Il6", "bmdm|Myc|Upp1"]
    assert labels["label"].tolist() == [NONE, UP]
    assert "no licence" in screen.notice


def test_another_folder_has_a_description_of_its_own(source: Path, tmp_path: Path) -> None:
    folder = bioreasoning.fetch(source, tmp_path / "other")
    assert sorted(path.name for path in folder.iterdir()) == ["bioreasoning.yaml", "test.csv", "train.csv"]
    screen, labels = load_screen(folder / "bioreasoning.yaml")
    assert (screen.name, len(labels)) == (bioreasoning.SCREEN, 2)
    with pytest.raises(InputError, match=r"home/\.cache/synthpert/bioreasoning/train\.csv: no such file"):
        load_labels("bioreasoning")


def test_a_changed_or_missing_file_is_refused_and_takes_no_name(source: Path, tmp_path: Path) -> None:
    (source / "test.csv").write_text("id,pert,gene\nStat1_Irf1,Stat1,Irf1\n")
    with pytest.raises(InputError, match=r"test\.csv: SHA-256 is .* run `synthpert data fetch bioreasoning`"):
        bioreasoning.fetch(source, tmp_path / "out")
    assert not (tmp_path / "out" / "test.csv").exists()
    (source / "train.csv").unlink()
    with pytest.raises(
        InputError, match=r"train\.csv: no such file; --source must be the folder that holds train\.csv"
    ):
        bioreasoning.fetch(source, tmp_path / "new")


def test_official_tests_the_pairs_without_labels(source: Path, tmp_path: Path) -> None:
    data = bioreasoning.fetch(source, tmp_path / "other") / "bioreasoning.yaml"
    corpus = open_corpus(data)
    assert (len(corpus.train), len(corpus.test)) == (2, 0)
    assert corpus.unlabelled["item_id"].tolist() == ["bmdm|Rprd2|9930111J21Rik2", "bmdm|Stat1|Irf1"]
    assert set(corpus.unlabelled["label"]) == {""}
    assert open_corpus(data, "holdout:genes").unlabelled.empty
    chosen = select_test_items(corpus, Protocol(data=corpus.digest))
    assert list(chosen["item_id"]) == list(corpus.unlabelled["item_id"])
    prompts = build_prompts(chosen, corpus, PromptConfig(evidence=2))
    assert "Rprd2 is knocked down by CRISPRi in mouse bone-marrow-derived macrophages." in prompts[0][1]["content"]
    assert "Nothing is known of 9930111J21Rik2" in prompts[0][1]["content"]


@pytest.mark.parametrize(("key", "value"), [("balance", True), ("prompt", PromptConfig(template="direction"))])
def test_what_needs_labels_is_refused_without_them(source: Path, tmp_path: Path, key: str, value: object) -> None:
    corpus = open_corpus(bioreasoning.fetch(source, tmp_path / "other") / "bioreasoning.yaml")
    with pytest.raises(InputError, match="needs the labels of the test items, which BioReasoning Challenge withholds"):
        select_test_items(corpus, Protocol(data=corpus.digest, **{key: value}))


def test_an_adapter_that_was_trained_on_a_test_pair_is_refused(source: Path, tmp_path: Path) -> None:
    corpus = open_corpus(bioreasoning.fetch(source, tmp_path / "other") / "bioreasoning.yaml")
    write_trained_items(tmp_path, ["bmdm|Myc|Il6"])
    assert check_unseen(tmp_path, corpus) == 1
    write_trained_items(tmp_path, ["bmdm|Myc|Il6", "bmdm|Stat1|Irf1"])
    with pytest.raises(InputError, match=r"1 of the 2 items .* e\.g\. bmdm\|Stat1\|Irf1"):
        check_unseen(tmp_path, corpus)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("test.csv", "id,pert,gene\nMyc_Il6,Myc,Il6\n", r"bmdm\|Myc\|Il6 is among the rows of unlabelled, but has a"),
        ("test.csv", "pert,gene\nStat1,Irf1\nStat1,Irf1\n", "row 3: the pair stands there twice"),
        ("test.csv", "pert,gene\nStat1,\n", "row 2: .*gene is empty"),
        ("test.csv", "pert,gene\n", "has no rows; give a table of pairs"),
        ("test.csv", "id\nStat1_Irf1\n", "no column 'pert'"),
        ("train.csv", "pert,gene,label,split\nMyc,Il6,up,test\n", "has a column split, but unlabelled names"),
    ],
)
def test_pairs_that_cannot_be_test_items_are_refused(
    source: Path, tmp_path: Path, name: str, text: str, problem: str
) -> None:
    folder = bioreasoning.fetch(source, tmp_path / "other")
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=problem):
        open_corpus(folder / "bioreasoning.yaml").unlabelled  # noqa: B018 - reads the file


def test_commands_say_that_nothing_can_be_scored(source: Path, tmp_path: Path) -> None:
    data = str(bioreasoning.fetch(source, tmp_path / "other") / "bioreasoning.yaml")
    done = CliRunner().invoke(app, ["data", "stats", "--data", data], catch_exceptions=False)
    assert "test items without labels, which can be predicted but not scored: 2" in done.output
    with pytest.raises(InputError, match="split: 'official' has no test row with a label to score; use holdout:"):
        CliRunner().invoke(
            app, ["baselines", "--data", data, "--out", str(tmp_path / "report")], catch_exceptions=False
        )


def test_a_study_that_could_score_nothing_is_refused_before_it_begins(source: Path, tmp_path: Path) -> None:
    data = str(bioreasoning.fetch(source, tmp_path / "other") / "bioreasoning.yaml")
    (tmp_path / "eval.yaml").write_text(f"output_dir: run\nmodel: m\ndata: {data}\n")
    stage = Stage("eval", tmp_path / "run", tmp_path / "eval.yaml", {}, "study")
    with pytest.raises(InputError, match="split: official has no test item with a label, so the report could not"):
        check_stages([stage], dry_run=True)


def test_grpo_takes_no_test_pair_as_an_unlabelled_prompt(source: Path, tmp_path: Path) -> None:
    corpus = open_corpus(bioreasoning.fetch(source, tmp_path / "other") / "bioreasoning.yaml")
    file = tmp_path / "pairs.csv"
    file.write_text("cell_line,pert,gene\nbmdm,Jun,Il6\n")
    assert read_unlabelled(file, corpus)["item_id"].tolist() == ["bmdm|Jun|Il6"]
    file.write_text("cell_line,pert,gene\nbmdm,Jun,Il6\nbmdm,Stat1,Irf1\n")
    with pytest.raises(InputError, match="row 3: .* is a test item of BioReasoning Challenge; remove the row"):
        read_unlabelled(file, corpus)


def test_only_known_labels_are_fetched() -> None:
    assert CliRunner().invoke(app, ["data", "fetch", "replogle"]).exit_code == 2


def test_the_published_files_are_what_the_page_says(bioreasoning_files: Path, tmp_path: Path) -> None:
    labels = load_labels(bioreasoning.fetch(bioreasoning_files, tmp_path) / "bioreasoning.yaml")
    assert [int((labels["label"] == label).sum()) for label in (UP, DOWN, NONE)] == [2359, 1086, 4260]
    assert (labels["pert"].nunique(), labels["gene"].nunique()) == (386, 1570)
    pairs = open_corpus(tmp_path / "bioreasoning.yaml").unlabelled
    assert (len(pairs), pairs["pert"].nunique(), pairs["gene"].nunique()) == (1813, 96, 636)
    assert not {*pairs["pert"]} & {*labels["pert"]} and not {*pairs["gene"]} & {*labels["gene"]}
