"""Compare float32 with bfloat16 on this machine, by matrix products as large as a small model's layers.

`python -m tools.speed.number_types [--json FILE]` also prints which type `dtype: auto` means here. With
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 before the command, a CPU with AVX-512 computes like one without.
"""

import statistics
import time
from typing import Any

from benchmarks.machine import describe_machine, use_cpu_well
from tools.speed.sides import make_parser, write_results

ROWS = (16, 2000)  # tokens at once: in a step of generation, in a step of training
IN, OUT = 576, 1536  # SmolLM2-135M's MLP
ROUNDS = 7


def gflops(dtype: str, rows: int) -> float:
    """Return the GFLOP/s (10⁹ floating-point operations per second) of one linear layer."""
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
    """Measure both types alternately, and print their medians and the median of their ratios."""
    options = make_parser(__doc__, rounds=ROUNDS).parse_args()
    use_cpu_well()
    machine = describe_machine()
    print(f"{machine.processor}, {machine.cores} cores, {', '.join(machine.abilities)}; auto means {machine.dtype}")
    results: list[dict[str, Any]] = []
    for rows in ROWS:
        pairs = [(gflops("float32", rows), gflops("bfloat16", rows)) for _ in range(options.rounds)]
        float32, bfloat16 = (statistics.median(one) for one in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{rows:5} rows: float32 {float32:6.1f} GFLOP/s, bfloat16 {bfloat16:6.1f} GFLOP/s, ratio {ratio:.2f}")
        results.append({"name": "linear", "rows": rows, "float32": float32, "bfloat16": bfloat16, "ratio": ratio})
    write_results(options.json, results)


if __name__ == "__main__":
    main()
