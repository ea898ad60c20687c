"""The demo from model to report in a small size, as a CPU without AVX-512 runs it, and where vLLM is not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.runs import read_manifest

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
OLD_CPU = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
# The random model gives no answer: without the gate, in a few steps, all the rest is the demo's own way.
DEMO = """
import sys
from pathlib import Path

from rl.demo.run import run_demo
from rl.demo.plan import Size

if __name__ == "__main__":
    size = Size(base_items=1, traces=16, batch=4, gate=0, items=2, steps=2, completions=8)
    report_line = lambda line: print(line, flush=True)
    print("page:", run_demo(Path("runs/demo"), Path(sys.argv[1]), 0, report_line, size=size))
"""
# Python imports `sitecustomize` when it starts: in this process and in every command that the demo runs.
WITHOUT_VLLM = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec


def find_others(cls, name, path=None, target=None):
    return None if name.split(".")[0] == "vllm" else find(name, path, target)


PathFinder.find_spec = classmethod(find_others)
"""


def run_small_demo(model: Path, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (folder / "demo.py").write_text(DEMO)
    path = os.pathsep.join([*filter(None, [env.get("PYTHONPATH")]), str(REPO)])
    return subprocess.run(
        [sys.executable, "demo.py", str(model)], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env, "PYTHONPATH": path},
    )  # fmt: skip


def check_demo(folder: Path, engine: str, dtype: str) -> None:
    out = folder / "runs" / "demo"
    for stage in ("eval-base", "eval-sft", "eval-grpo", "sft", "grpo"):
        manifest = read_manifest(out / stage)
        assert manifest["status"] == "done"
        assert yaml.safe_load((out / stage / "config.yaml").read_text())["dtype"] == dtype
        if stage.startswith("eval"):
            assert (manifest["engine"]["name"], manifest["engine"]["dtype"]) == (engine, dtype)
    rollouts = read_manifest(out / "grpo")["rollouts"]
    assert (rollouts["engine"], rollouts["completions"]) == (engine, 16)
    report = json.loads((out / "report.json").read_text())
    n = {name: one["metrics"]["three_class"]["all"]["accuracy"]["n"] for name, one in report["systems"].items()}
    assert {name: n[name] for name in ("base", "SFT", "SFT+GRPO", "gene rate")} == {
        "base": 4, "SFT": 8, "SFT+GRPO": 8, "gene rate": 8,
    }  # fmt: skip
    page = (out / "report.html").read_text()
    assert "scaled down to this machine: 16 of 192 traces, 8 of 310 test items, 4 of 48 test items of base" in page


@pytest.mark.needs_vllm
def test_a_short_demo_on_a_cpu_without_avx512(tiny_model: Path, tmp_path: Path) -> None:
    done = run_small_demo(tiny_model, tmp_path, OLD_CPU)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    check_demo(tmp_path, "vllm", "float32")
    difference = read_manifest(tmp_path / "runs" / "demo" / "grpo")["mean_abs_logprob_difference"]
    assert difference < 1e-3  # rollouts are written in float32 too: in bf16 they would be off by 0.02
    said = done.stdout.splitlines()
    assert said[0] == "1 of 6  base" and said[-1] == "page: runs/demo/report.html"
    for told in (
        "evaluation of SFT: writing",
        "stage one: learning, 0 of 4 steps",
        "stage two: learning, 0 of 2 steps",
    ):
        assert told in done.stderr
    for noise in ("Warning", "WARNING", "Triton", "NUMA", "it/s]", "Ignoring"):
        assert noise not in done.stderr, done.stderr
    folders = ("eval-base", "eval-sft", "eval-grpo", "sft", "grpo")
    kept = [tmp_path / "runs" / "demo" / name / "manifest.json" for name in folders]
    before = [path.stat().st_mtime_ns for path in kept]
    again = run_small_demo(tiny_model, tmp_path, OLD_CPU)
    assert again.returncode == 0
    assert again.stdout.count("already done") == 5
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_short_demo_without_vllm(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(WITHOUT_VLLM)
    done = run_small_demo(tiny_model, tmp_path, {**OLD_CPU, "PYTHONPATH": str(tmp_path / "hide")})
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    check_demo(tmp_path, "transformers", "float32")
