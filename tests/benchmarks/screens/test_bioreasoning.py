"""The BioReasoning Challenge's files are fetched as published, and read as a screen with a test part without labels."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.screens import bioreasoning
from benchmarks.screens.labels import load_labels, load_screen
from rewards import LABELS, InputError
from rl.cli import app

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
    assert (screen.name, len(labels)) == ("BioReasoning Challenge", 2)
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


def test_only_known_labels_are_fetched() -> None:
    assert CliRunner().invoke(app, ["data", "fetch", "replogle"]).exit_code == 2


def test_the_published_files_are_what_the_page_says(bioreasoning_files: Path, tmp_path: Path) -> None:
    labels = load_labels(bioreasoning.fetch(bioreasoning_files, tmp_path) / "bioreasoning.yaml")
    assert [int((labels["label"] == label).sum()) for label in (UP, DOWN, NONE)] == [2359, 1086, 4260]
    assert (labels["pert"].nunique(), labels["gene"].nunique()) == (386, 1570)
