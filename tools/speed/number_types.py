"""float32 against bfloat16 on this machine: products of the size of a small model's layers, and what `auto` takes.

`python -m tools.speed.number_types [--json FILE]`. ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 before it
makes a CPU with AVX-512 compute as one without.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, use_cpu_well

ROWS = (16, 2000)  # tokens at once: a step of writing, a step of learning
IN, OUT = 576, 1536  # SmolLM2-135M's MLP
ROUNDS = 7


def gflops(dtype: str, rows: int) -> float:
    """Return 10⁹ floating-point operations a second of one linear layer."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x_TI = torch.randn(rows, IN, device=device, dtype=getattr(torch, dtype))
    w_OI = torch.randn(OUT, IN, device=device, dtype=getattr(torch, dtype))
    torch.nn.functional.linear(x_TI, w_OI)
    began, times = time.perf_counter(), 0
    while (seconds := time.perf_counter() - began) < 0.3:
        torch.nn.functional.linear(x_TI, w_OI)
        times += 1
    return 2 * rows * IN * OUT * times / seconds / 1e9


def main() -> None:
    """Measure both types in turn and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    out = parser.parse_args().json
    use_cpu_well()
    machine = describe_machine()
    print(f"{machine.processor}, {machine.cores} cores, {', '.join(machine.abilities)}; auto is {machine.dtype}")
    results: list[dict[str, Any]] = []
    for rows in ROWS:
        pairs = [(gflops("float32", rows), gflops("bfloat16", rows)) for _ in range(ROUNDS)]
        float32, bfloat16 = (statistics.median(one) for one in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{rows:5} rows: float32 {float32:6.1f} GFLOP/s, bfloat16 {bfloat16:6.1f} GFLOP/s, ratio {ratio:.2f}")
        results.append({"name": "linear", "rows": rows, "float32": float32, "bfloat16": bfloat16, "ratio": ratio})
    if out is not None:
        out.write_text(json.dumps({"auto": machine.dtype, "rows": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
