"""The demo's whole GRPO step — rollouts, rewards, training — against TRL's with nothing but our weight sync.

`python -m tools.speed.whole_step [--json FILE] [--rounds N] [--steps N] [--demo FOLDER] [--rollouts ENGINE]`.

It goes on from the SFT run of a demo (`synthpert demo`). The learning rate is so small that all sides keep
writing with the same policy. Rows: the configuration, whose `beta` is 0, so that completions without an advantage are
not computed; and a `beta` above 0, with which they are, and with them the reference.
"""

import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tools.speed.sides import compared, did_job, in_turn, make_parser, peak_memory, run_apart, show, write_results

BETA = 0.04
PLAIN = ("--prefix_tree", "off", "--correct_always", "true")


def measure(side: str, beta: float | None, steps: int, demo: str, rollouts: str) -> dict[str, float]:
    """Return the median seconds of a step after the first, the memory, and mean tokens of a completion."""
    import trl

    from rl import train
    from rl.trainer import GRPOTrainer

    class Plain(GRPOTrainer):
        """TRL's loss, which computes completions without an advantage, too."""

        _compute_loss = trl.GRPOTrainer._compute_loss

    with TemporaryDirectory() as folder:
        words = ["--output_dir", f"{folder}/run", "--sft_run", f"{demo}/sft", "--max_steps", str(steps + 1)]
        words += ["--rollouts", rollouts, "--learning_rate", "1e-9", "--alarms", "off", "--save_strategy", "no"]
        words += ["--eval_strategy", "no", "--eval_on_start", "false", "--held_out_items", "0"]
        words += [] if beta is None else ["--beta", str(beta)]
        words += PLAIN if side == "trl" else []
        run = train(Path("configs/demo/grpo.yaml"), words, trainer_class=Plain if side == "trl" else None)
        log = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    timed = [entry for entry in log if "step_time" in entry][1:]
    return {
        "seconds": statistics.median(entry["step_time"] for entry in timed),
        "memory_gib": peak_memory(),
        "completion": statistics.mean(entry["completions/mean_length"] for entry in timed),
    }


def main() -> None:
    """Measure both sides in turn, with each `beta`."""
    if did_job(measure):
        return
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one that is not")
    parser.add_argument("--demo", default="runs/demo")
    parser.add_argument("--rollouts", default="auto", help="auto, vllm or transformers")
    options = parser.parse_args()
    rows = []

    def side(name: str, beta: float | None) -> Any:
        job = {"steps": options.steps, "demo": options.demo, "rollouts": options.rollouts}
        return lambda: run_apart("tools.speed.whole_step", side=name, beta=beta, **job)

    for name, beta in (("the demo's step", None), (f"the demo's step, beta {BETA}", BETA)):
        found = in_turn({one: side(one, beta) for one in ("ours", "trl")}, options.rounds)
        completion = round(statistics.mean(one["completion"] for one in found["ours"]))
        rows.append({"name": name, "completion": completion, "group": 8, **compared(found["ours"], found["trl"])})
        show(rows[-1])
    write_results(options.json, rows, rollouts=options.rollouts)


if __name__ == "__main__":
    main()
