"""CONTRIBUTING's recipe for a reward that ships, acted out: one source file, and it is a reward like the others."""

import json
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
import contextlib, io, json, sys
from rewards import LineMention, compose
from rewards.compose import Context

think = "<think>In {} it falls.</think><answer>downregulated</answer>"
batch = {"completions": [think.format("K562"), think.format("vitro")]}
assert LineMention()(**batch, cell_line=["k562", "k562"]) == [1.0, 0.0]
gated = [{"name": "accuracy", "gate": "line_mention"}, {"name": "line_mention", "weight": 0.1}]
paid = compose(gated, Context())(**batch, cell_line=["k562", "k562"], label=["downregulated"] * 2)
assert paid == [1.1, 0.0], paid

from rl.cli import main

for source in ("line_mention", "both.yaml"):
    sys.argv = ["synthpert", "rewards", "check", source, "--data", "sample", "--rows", "60"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    print(json.dumps([source, code, said.getvalue()]))
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


def test_a_reward_that_ships_is_one_source_file(changed: Path) -> None:
    (changed / "both.yaml").write_text("rewards: [accuracy, {name: line_mention, weight: 0.1}]\nscale_rewards: batch\n")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=changed, env={**os.environ, "PYTHONPATH": str(changed)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone, beside = (json.loads(line) for line in done.stdout.splitlines())
    assert alone[:2] == ["line_mention", 1] and "pays a policy that knows nothing as much" in alone[2], alone
    assert beside[:2] == ["both.yaml", 0] and "line_mention" in beside[2], beside
