"""Files that a list of rewards names: a run notes their digests, so that a changed one is noticed."""

from pathlib import Path

import pytest

from rewards import InputError
from rewards.foreign import named_files


def test_files_are_found_wherever_an_entry_may_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "my").mkdir(parents=True)
    there.mkdir()
    monkeypatch.chdir(here)
    files = [there / "own.py", there / "gate.py", there / "p.parquet", here / "sets.gmt", here / "my" / "rewards.py"]
    for file in files:
        file.write_text("")
    entries = [
        "accuracy",
        "own.py:score",
        {"name": "margin", "gate": "gate.py:open", "parameters": {"verifier": {"kind": "soft", "table": "p.parquet"}}},
        {"name": "my.rewards:score", "weight": 0.5, "parameters": {"files": ["sets.gmt"], "text": "x" * 5000, "n": 3}},
        "trl.rewards:think_format_reward",
        {"name": "margin", "parameters": {"verifier": {"kind": "mixed", "table": "neighbours"}}},
    ]
    found = named_files(entries, there)
    assert sorted(path.resolve() for path in found.values()) == sorted(files)
    assert set(found) == {"own.py", "gate.py", "p.parquet", "sets.gmt", "my/rewards.py"}


def test_the_file_beside_the_configuration_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text("")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "own.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert named_files(["own.py:score"], tmp_path / "there") == {"own.py": tmp_path / "there" / "own.py"}
    with pytest.raises(InputError, match=r"none\.py: no such file in .*there .*; correct the path"):
        named_files([{"name": "none.py:score"}], tmp_path / "there")
