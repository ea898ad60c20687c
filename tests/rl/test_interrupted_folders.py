"""Folders that a kill or a copy left behind, and files where a folder is asked for: it goes on, or says what to do."""

from pathlib import Path

import pandas as pd
import pytest
from command import synthpert

from benchmarks.evaluation.predictions import COLUMNS, PredictionLog
from benchmarks.runs import open_run
from rewards import InputError


def test_a_kill_between_configuration_and_manifest_loses_nothing(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "sft", {"seed": 1})
    (run.path / "manifest.json").unlink()
    again = open_run(tmp_path / "run", "sft", {"seed": 1})
    assert again.manifest["status"] == "running"
    (run.path / "manifest.json").unlink()
    (run.path / "manifest.json.partial").write_text("{")
    assert open_run(tmp_path / "run", "sft", {"seed": 1}).manifest["status"] == "running"
    (run.path / "manifest.json").unlink()
    with pytest.raises(InputError, match="no run folder"):  # somebody's own file, for all that is known
        open_run(tmp_path / "run", "sft", {"seed": 2})


def test_a_folder_with_a_configuration_and_more_is_no_run(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "sft", {"seed": 1})
    (run.path / "manifest.json").unlink()
    (run.path / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="no run folder"):
        open_run(tmp_path / "run", "sft", {"seed": 1})


def test_a_broken_configuration_of_a_kill_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml.partial").write_text("se")
    assert open_run(tmp_path / "run", "sft", {"seed": 1}).manifest["status"] == "running"


@pytest.mark.parametrize("command", ["report", "baselines", "import", "replay"])
def test_a_file_where_a_folder_is_asked_for(tmp_path: Path, command: str) -> None:
    (tmp_path / "out").write_text("a file of mine")
    (tmp_path / "p.csv").write_text("cell_line,pert,gene,answer\nk562,A,B,upregulated\n")
    words = {
        "report": ("report", "."),
        "baselines": ("baselines", "--data", "sample"),
        "import": ("import", "p.csv", "--name", "x", "--data", "sample"),
        "replay": ("rewards", "replay", "accuracy", "--rollouts", "r.parquet", "--data", "sample"),
    }[command]
    done = synthpert(*words, "--out", "out", cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("synthpert: out: is a file; choose another folder for --out")
    assert (tmp_path / "out").read_text() == "a file of mine"


@pytest.mark.parametrize("name", ["part-000000 (copy).parquet", "part-000000-backup.parquet", "part-.parquet"])
def test_a_copied_part_of_an_evaluation_is_none(tmp_path: Path, name: str) -> None:
    empty = pd.DataFrame({column: [] for column in COLUMNS})
    with PredictionLog(tmp_path, {"a": 1}) as log:
        log.append(0, empty.astype({"sample": "int32"}))
        part = next((tmp_path / "predictions.parts").glob("part-*.parquet"))
        part.with_name(name).write_bytes(part.read_bytes())
        assert log.parts() == {0}
