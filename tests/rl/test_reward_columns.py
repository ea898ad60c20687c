"""A reward that needs a column which no prompt has is refused before a run begins, with what to do."""

from pathlib import Path

import pytest
import yaml
from command import synthpert


@pytest.mark.parametrize(
    ("name", "column"),
    [("accuracy_reward", "solution"), ("reasoning_accuracy_reward", "solution"), ("mine.py:reward", "solution"),
     ("mine.py:Reward", "answer_key")],
)  # fmt: skip
def test_a_column_that_never_exists(tmp_path: Path, name: str, column: str) -> None:
    (tmp_path / "mine.py").write_text(
        "def reward(completions, solution, **columns): return [1.0] * len(completions)\n"
        "class Reward:\n"
        "    __name__ = 'Reward'\n"
        "    def __call__(self, completions, *, answer_key, **columns): return [1.0] * len(completions)\n"
    )
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"rewards": [name, "format"], "data": "sample"}))
    done = synthpert("rewards", "check", "r.yaml", "--data", "sample", "--rows", 6, cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("synthpert: ") and repr(column) in last and "item_id" in last
