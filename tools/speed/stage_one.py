"""Stage one with and without the prefix tree, on traces of the demo's teacher.

`python -m tools.speed.stage_one [--json FILE] [--rounds N] [--steps N] [--model PATH]`.

Rows: the demo's prompts, and prompts that list eleven angles to consider (`lemmas: true`).
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tools.speed.sides import compared, did_job, in_turn, make_parser, peak_memory, run_apart, show, write_results

BATCH = 8


def measure(side: str, traces: str, steps: int, model: str) -> dict[str, float]:
    """Return the median seconds of a step after the first, the memory, and the share of tokens that were computed."""
    from sft import train, trainer

    seconds: list[float] = []
    shares: list[float] = []

    class Timed(trainer.SFTTrainer):
        """Stage one's trainer with a clock."""

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            loss = super().training_step(*args, **kwargs)
            float(loss)  # waits for a GPU
            seconds.append(time.perf_counter() - began)
            shares.append(1.0 if self.scorer is None else self.scorer.computed / self.scorer.padded)
            return loss

    trainer.SFTTrainer = Timed  # type: ignore[misc]
    with TemporaryDirectory() as folder:
        words = ["--output_dir", f"{folder}/run", "--traces", traces, "--max_steps", str(steps + 1)]
        words += ["--gate_prompts", "0", "--save_strategy", "no", "--warmup_steps", "0", "--max_length", "1024"]
        words += ["--model_name_or_path", model]
        words += ["--per_device_train_batch_size", str(BATCH), "--prefix_tree", "auto" if side == "ours" else "off"]
        train(Path("configs/demo/sft.yaml"), words)
    return {"seconds": statistics.median(seconds[1:]), "memory_gib": peak_memory(), "computed": shares[-1]}


def write_traces(path: Path, rows: int, *, lemmas: bool) -> None:
    """Write traces of the demo's teacher."""
    words = ["--config", "configs/demo/traces.yaml", "--out", str(path), "--rows", str(rows)]
    words += ["--lemmas", str(lemmas).lower()]
    subprocess.run([sys.executable, "-m", "rl.cli", "traces", "generate", *words], check=True, capture_output=True)


def main() -> None:
    """Measure both sides in turn, with both kinds of prompts."""
    if did_job(measure):
        return
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=6, help="timed steps, after one that is not")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def side(name: str, traces: Path) -> Any:
        job = {"traces": str(traces), "steps": options.steps, "model": options.model}
        return lambda: run_apart("tools.speed.stage_one", side=name, **job)

    with TemporaryDirectory() as folder:
        for name, lemmas in (("SFT, the demo's prompts", False), ("SFT, prompts with lemmas", True)):
            traces = Path(folder) / f"{len(rows)}.jsonl"
            write_traces(traces, (options.steps + 1) * BATCH, lemmas=lemmas)
            found = in_turn({one: side(one, traces) for one in ("ours", "trl")}, options.rounds)
            computed = found["ours"][0]["computed"]
            rows.append({"name": name, "tokens_computed": computed, **compared(found["ours"], found["trl"])})
            show(rows[-1])
    write_results(options.json, rows)


if __name__ == "__main__":
    main()
