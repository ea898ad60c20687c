"""CONTRIBUTING's recipe for a reward that ships, acted out: one source file, and it is a reward like the others."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
from rewards import LineMention, compose
from rewards.compose import Context

think = "<think>In {} it falls.</think><answer>downregulated</answer>"
batch = {"completions": [think.format("K562"), think.format("vitro")]}
assert LineMention()(**batch, cell_line=["k562", "k562"]) == [1.0, 0.0]
gated = [{"name": "accuracy", "gate": "line_mention"}, {"name": "line_mention", "weight": 0.1}]
paid = compose(gated, Context())(**batch, cell_line=["k562", "k562"], label=["downregulated"] * 2)
assert paid == [1.1, 0.0], paid
"""


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """The packages with the recipe's reward in `rewards/text.py`."""
    recipe = (
        (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add a reward")[2].partition("\n## ")[0]
    )
    (code,) = re.findall(r"^   ```python\n(.*?)^   ```$", recipe, re.DOTALL | re.MULTILINE)
    for package in ("rewards", "benchmarks", "sft", "rl"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "rewards" / "text.py"
    text = module.read_text(encoding="utf-8")
    for at, new in (("REWARDS: Final = (", "LineMention, "), ("__all__ = [\n", '    "LineMention",\n')):
        assert text.count(at) == 1
        text = text.replace(at, at + new)
    head, at, end = text.rpartition("REWARDS: Final = (")
    module.write_text(f"{head}{textwrap.dedent(code)}\n\n{at}{end}", encoding="utf-8")
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_reward_that_ships_is_one_source_file(changed: Path) -> None:
    done = run(changed, "-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    (changed / "both.yaml").write_text("rewards: [accuracy, {name: line_mention, weight: 0.1}]\nscale_rewards: batch\n")
    for source, words in (("line_mention", "pays a policy that knows nothing as much"), ("both.yaml", "")):
        checked = run(changed, "-m", "rl.cli", "rewards", "check", source, "--data", "sample")
        assert (checked.returncode == 0) == (not words) and words in checked.stdout + checked.stderr, checked.stderr
        assert "line_mention" in checked.stdout
