"""The third command of docs/your-screen.md on a made-up screen: traces, both stages and a report, with a tiny model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner
from your_screen import write_screen

from benchmarks.evidence.corpus import open_corpus
from benchmarks.runs import read_manifest
from rl.cli import app

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
TINY = {
    "model": "tiny",
    "traces": {"config": "configs/demo/traces.yaml", "rows": 24},
    "sft": {
        "config": "configs/demo/sft.yaml", "max_steps": 2, "warmup_steps": 0, "logging_steps": 1, "gate_prompts": 0,
        "per_device_train_batch_size": 4, "lora_r": 4, "lora_alpha": 8,
    },
    "grpo": {
        "config": "configs/demo/grpo.yaml", "train_items": 6, "held_out_items": 3, "rollouts": "transformers",
        "max_steps": 1, "eval_steps": 1, "num_generations": 4, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1, "max_completion_length": 8,
    },
    "eval": {"config": "configs/demo/eval.yaml", "engine": "transformers", "items": 2, "max_tokens": 8, "chunk": 10},
}  # fmt: skip


def test_a_screen_of_one_s_own_is_trained_on_and_reported(tmp_path: Path, tiny_model: Path) -> None:
    write_screen(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_model)
    (tmp_path / "configs").symlink_to(REPO / "configs")
    study = yaml.safe_load((REPO / "configs" / "study" / "your-screen.yaml").read_text()) | TINY
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-m", "rl.cli", "study", "study.yaml"], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    out = tmp_path / study["output_dir"]
    corpus = open_corpus(tmp_path / "screen.yaml", study["split"])
    train, test = set(corpus.train["item_id"]), set(corpus.test["item_id"])
    for stage in ("sft/seed-0/sft", "sft-grpo/seed-0/grpo"):
        assert read_manifest(out / stage)["status"] == "done"
        assert set((out / stage / "items.txt").read_text().splitlines()) <= train
    report = json.loads((out / "report" / "report.json").read_text())
    assert [name for name, one in report["systems"].items() if one["kind"] == "model"] == list(study["conditions"])
    assert report["systems"]["SFT"]["metrics"]["three_class"].keys() == {*corpus.lines, "all"}
    assert report["protocol"]["split"] == study["split"]
    assert report["warnings"] == []
    page = (out / "report" / "report.html").read_text()
    assert "My screen" in page
    assert len(test) == 2400


def test_baselines_of_a_screen_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_screen(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["baselines", "--data", "screen.yaml", "--split", "holdout:K562", "--out", "runs/baselines"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert re.search(r"gene rate +three_class +accuracy +all 0\.\d+  K562 0\.\d", done.output)
    page = Path("runs/baselines/report.html").read_text(encoding="utf-8")
    assert "Baselines on My screen" in page
    assert "CC BY 4.0, my lab" in page
    assert "They are kept as they are" in page
    assert "SUMMER" not in page  # published figures are PerturbQA's
