"""The training commands of docs/bioreasoning.md on made-up files: both stages on a fold, a report, a submission."""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from challenge import write_challenge

from benchmarks.runs import read_manifest

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs" / "bioreasoning.md").read_text(encoding="utf-8")
REFERENCE = ["--evidence_from", "reference.csv"]  # in place of PerturbQA, which tests need not have
TINY: dict[str, list[Any]] = {
    "traces": ["--rows", 24, *REFERENCE],
    "sft": [
        "--model_name_or_path", "tiny", "--max_steps", 2, "--warmup_steps", 0, "--logging_steps", 1,
        "--gate_prompts", 0, "--per_device_train_batch_size", 4, "--lora_r", 4, "--lora_alpha", 8,
    ],
    "grpo": [
        "--model_name_or_path", "tiny", "--train_items", 6, "--rollouts", "transformers", "--max_steps", 1,
        "--num_generations", 4, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 1,
        "--max_completion_length", 8, *REFERENCE,
    ],
    "eval": [
        "--model", "tiny", "--engine", "transformers", "--samples", 2, "--max_tokens", 8, "--chunk", 20, *REFERENCE,
    ],
    "baselines": REFERENCE,
    "report": [],
    "submit": [],
}  # fmt: skip


def commands() -> list[list[str]]:
    """Return the page's commands from the first traces on, but for those of a real teacher."""
    lines = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if "configs/traces/teacher.yaml" not in line]
    return [line[1:] for line in words if line[1] in TINY and line[1:3] != ["traces", "audit"]]


def test_both_stages_a_report_and_a_submission(tmp_path: Path, tiny_model: Path) -> None:
    write_challenge(tmp_path / ".cache" / "synthpert" / "bioreasoning")
    (tmp_path / ".cache" / "synthpert" / "bioreasoning" / "reference.csv").rename(tmp_path / "reference.csv")
    (tmp_path / "tiny").symlink_to(tiny_model)
    (tmp_path / "configs").symlink_to(REPO / "configs")
    told = commands()
    assert [line[0] for line in told] == [
        "baselines", "traces", "sft", "grpo", "eval", "eval", "report", "traces", "sft", "grpo", "eval", "submit",
    ]  # fmt: skip
    for line in told:
        done = subprocess.run(
            [sys.executable, "-m", "rl.cli", *line, *map(str, TINY[line[0]])], cwd=tmp_path, capture_output=True,
            text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, (line, done.stdout[-1500:] + done.stderr[-3000:])
    runs = tmp_path / "runs" / "bioreasoning"
    report = json.loads((runs / "smollm2-135m" / "report" / "report.json").read_text())
    assert [name for name, one in report["systems"].items() if one["kind"] == "model"] == ["SFT", "SFT+GRPO"]
    assert report["systems"]["SFT"]["metrics"]["three_class"]["all"]["challenge_score"]["n"] == 16
    assert any(one["metric"] == "challenge_score" for one in report["comparisons"])
    assert read_manifest(runs / "final" / "test")["stage"] == "predict"
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive, archive.open("submission.csv") as file:
        rows = pd.read_csv(file)
    assert len(rows) == 6
    assert set(rows["model_name"]) == {f"{tiny_model.name}-lora"}  # where the link points
