"""This machine: the cores it grants, the CPU's instruction sets, and the number type that is fast here."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rewards import InputError

DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
# oneDNN multiplies torch's bf16 matrices on a CPU. An environment variable can limit it to an older instruction set.
# These values (oneDNN developer guide, "CPU Dispatcher Control") are older than bf16.
_BEFORE_BF16: Final = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


@dataclass(frozen=True)
class Machine:
    """The hardware of this machine, as torch may use it.

    Attributes:
        processor: the CPU's name.
        cores: number of cores granted to the process; see `granted_cores`.
        abilities: instruction sets of the CPU that matter for speed and that torch may use.
        gpus: names of the GPUs that torch sees.
        dtype: the number type that `auto` means here.
    """

    processor: str
    cores: int
    abilities: tuple[str, ...]
    gpus: tuple[str, ...]
    dtype: str


def describe_machine() -> Machine:
    """Return this machine's hardware; imports torch."""
    import torch

    found = torch.cpu.get_capabilities()
    return Machine(
        processor=str(found.get("cpu_name", "unknown")),
        cores=granted_cores(),
        abilities=cpu_abilities(),
        gpus=tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
        dtype=resolve_dtype("auto"),
    )


def resolve_dtype(dtype: str | None) -> str:
    """Return the number type to compute in. Every stage and engine decides it here.

    Args:
        dtype: `float32`, `bfloat16` or `float16`, which are returned as they are. `auto` or None choose:
            - bfloat16 on a GPU that computes in it, and on a CPU with AVX512-BF16 or AMX;
            - float32 elsewhere.

    Returns:
        The type's name.

    Raises:
        InputError: the name is unknown.
    """
    check_dtype(dtype)
    if dtype is not None and dtype != "auto":
        return dtype
    return "bfloat16" if _computes_bf16() else "float32"


def check_dtype(dtype: str | None) -> None:
    """Raise an `InputError` if a number type is unknown."""
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is unknown; use one of {', '.join(DTYPES)}")


def slow_dtype(dtype: str) -> str | None:
    """Return a warning of one line if a number type is known to be slow on this machine, else None."""
    import torch

    if torch.cuda.is_available():
        if dtype == "bfloat16" and not _computes_bf16():
            return "dtype: bfloat16 is emulated by this GPU, which is slow; dtype: auto takes float32 here"
        return None
    if dtype == "float16" or (dtype == "bfloat16" and not _computes_bf16()):
        best = resolve_dtype("auto")
        return f"dtype: {dtype} is several times slower than {best} on this CPU; dtype: auto takes {best} here"
    return None


def _computes_bf16() -> bool:
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"AVX512-BF16", "AMX-BF16"} & set(cpu_abilities()))


def cpu_abilities() -> tuple[str, ...]:
    """Return which of AVX2, AVX-512, AVX512-BF16 and AMX-BF16 torch uses on this CPU, in that order.

    Instruction sets that `ATEN_CPU_CAPABILITY` or `ONEDNN_MAX_CPU_ISA` exclude are left out.
    """
    import torch

    found = torch.cpu.get_capabilities()
    names = {"avx2": "AVX2", "avx512_f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16"}
    able = [name for key, name in names.items() if found.get(key)]
    level = torch.backends.cpu.get_cpu_capability()  # honours ATEN_CPU_CAPABILITY
    if level in ("DEFAULT", "NO AVX"):
        return ()
    if level == "AVX2":
        return tuple(name for name in able if name == "AVX2")
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _BEFORE_BF16:
        return tuple(name for name in able if "BF16" not in name)
    return tuple(able)


def granted_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may really use: the least of its affinity and its control groups' quotas.

    A quota of 1.5 cores counts as one: a second thread would be stopped half of the time, and the first would wait for
    it. `OMP_NUM_THREADS`, if set, is an upper limit too.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    limits = [int(quota) for quota in _quotas(root)]
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if threads.isdigit():
        limits.append(int(threads))
    return max(1, min([cores, *limits]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas, in cores, of the process's control groups and their parents (versions 1 and 2)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / controllers
        folder = mount / path.lstrip("/")
        for group in [folder, *folder.parents]:
            if not group.is_relative_to(mount):
                break
            if (quota := _quota(group)) is not None:
                yield quota


def _quota(group: Path) -> float | None:
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def use_cpu_well() -> None:
    """Set torch to use as many threads as cores are granted, compile nothing, and keep freed memory.

    Call it before vLLM starts in this process.
    """
    import torch

    cores = granted_cores()
    if torch.get_num_threads() != cores:
        torch.set_num_threads(cores)
    if torch.cuda.is_available():
        return
    # Compiling needs a C++ compiler, and compiled code may be wrong: see `benchmarks.models.vllm_engine`.
    torch.compiler.set_stance("force_eager")
    if sys.platform == "linux":
        # glibc returns a large block to the system as soon as it is freed. Allocating it again took a third of a
        # training step's CPU time (measured with SmolLM2-135M, 8 x 240 tokens). The names are those of mallopt(3).
        # -1 returns none: with a threshold of 2 GiB, a step that frees more than that had 70 times the page faults.
        m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
        with suppress(AttributeError, OSError):  # another C library without mallopt
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(m_mmap_threshold, 1 << 30)
            mallopt(m_trim_threshold, -1)
            mallopt(m_top_pad, 1 << 28)
