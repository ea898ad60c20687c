"""TRL's own command trains with our rewards, by their dotted names and as docs/harnesses.md says."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "harnesses.md"


@pytest.mark.slow
def test_trl_takes_our_rewards_by_name(tiny_model: Path, tmp_path: Path) -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## TRL\n")[1].split("\n## ")[0]
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    rows = [json.loads(line) for line in (tmp_path / "runs" / "perturbqa" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 600
    (line,) = re.findall(r"^trl .*(?:\n .*)*", section, re.MULTILINE)
    words = shlex.split(line.replace("\\\n", " "))
    words[words.index("--model_name_or_path") + 1] = str(tiny_model)
    words[words.index("--max_completion_length") + 1] = "8"
    words += ["--max_steps", "1", "--logging_steps", "1", "--report_to", "none", "--use_cpu", "--bf16", "False"]
    command = [str(Path(sys.executable).parent / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    logged = done.stdout + done.stderr
    for reward in ("accuracy", "format"):
        (mean,) = re.findall(rf"'rewards/{reward}/mean': '?(-?[0-9.e-]+)'?", logged)
        assert float(mean) == 0  # random letters hold no answer, which earns 0 and not NaN
    assert (tmp_path / "runs" / "trl" / "adapter_model.safetensors").is_file()
