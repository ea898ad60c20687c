"""A whole study of a tiny random Llama by command: made, run again, one cell more, and its report."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.runs import read_manifest

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rl.cli", *map(str, words)],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder with a tiny model and the stages' configurations."""
    path = tmp_path_factory.mktemp("study")
    (path / "tiny").symlink_to(tiny_model)
    common = {
        "output_dir": "unused", "dtype": "float32", "per_device_train_batch_size": 4, "learning_rate": 1e-3,
        "logging_steps": 1, "gradient_checkpointing": False, "bf16": False, "use_cpu": True, "save_strategy": "no",
        "model_name_or_path": "unused",
    }  # fmt: skip
    lora = {"use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": ["all-linear"]}
    stages: dict[str, dict[str, Any]] = {
        "traces": {"output": "unused", "rows": 24},
        "sft": {**common, **lora, "traces": "unused", "max_length": 512, "max_steps": 2, "gate_prompts": 0},
        "grpo": {
            **common, "sft_run": "unused", "train_items": 6, "rollouts": "transformers", "beta": 0.1, "max_steps": 1,
            "num_generations": 4, "max_completion_length": 8,
        },
        "eval": {
            "output_dir": "unused", "model": "unused", "engine": "transformers", "items": 4, "max_tokens": 8,
            "chunk": 16,
        },
    }  # fmt: skip
    for name, values in stages.items():
        (path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return path


def test_a_study_from_traces_to_report(folder: Path) -> None:
    study: dict[str, Any] = {
        "output_dir": "out", "title": "A tiny study", "seeds": [0], "model": "tiny", "data": "sample", "evidence": 3,
        **{stage: f"{stage}.yaml" for stage in ("traces", "sft", "grpo", "eval")},
        "conditions": {
            "base": {},
            "SFT": {"sft": {}},
            "SFT 25 %": {"sft": {"traces_fraction": 0.25}},
            "SFT+GRPO": {"from": "SFT", "grpo": {}},
        },
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False))
    said = run("study", path.name, cwd=folder)
    assert "4 cells, 0 done" in said
    out = folder / "out"
    whole, quarter = (read_manifest(out / name / "seed-0" / "sft") for name in ("sft", "sft-25"))
    assert (whole["traces"]["rows"], whole["traces"]["used"]) == (24, 24)
    assert (quarter["traces"]["rows"], quarter["traces"]["used"]) == (24, 6)
    assert sum(quarter["traces"]["labels"].values()) == 6
    assert quarter["traces"]["share_of_training_items"] == pytest.approx(6 / 1999)
    items = (out / "sft-25" / "seed-0" / "sft" / "items.txt").read_text().split()
    assert len(items) == 6
    grpo = read_manifest(out / "sft-grpo" / "seed-0" / "grpo")
    assert grpo["sft_adapter_sha256"] == whole["adapter_sha256"]
    report = json.loads((out / "report" / "report.json").read_text())
    assert [name for name, one in report["systems"].items() if one["kind"] == "model"] == list(study["conditions"])
    assert report["warnings"] == []
    assert (out / "report" / "report.html").is_file()

    # A second seed of what is cheap: what is there is not made again.
    before = {file: file.stat().st_mtime_ns for file in out.glob("*/**/manifest.json")}
    del study["conditions"]["SFT+GRPO"], study["conditions"]["SFT 25 %"]
    path.write_text(yaml.safe_dump(study | {"seeds": [0, 1]}, sort_keys=False))
    said = run("study", path.name, cwd=folder)
    assert "3 cells, 2 done" in said
    assert {file: file.stat().st_mtime_ns for file in before} == before
    hashes = [read_manifest(out / "sft" / f"seed-{seed}" / "sft")["adapter_sha256"] for seed in (0, 1)]
    assert hashes[0] != hashes[1]
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["systems"]["SFT"]["seeds"] == [0, 1]
