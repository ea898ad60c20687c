"""GRPO's training step over prefix trees against TRL's own trainer, on the same stored rollouts.

`python -m tools.speed.training_step [--json FILE] [--rounds N] [--memory GB] [--cases NAME …] [--layers N] [--tiny]
[--device cpu|cuda]`.

A step is what follows the rollouts: the split into micro-batches, the loss, its gradient and the optimizer. Every side
runs in a process of its own, at the largest micro-batch that fits the memory, in turn with the others:

- `trl`: TRL's trainer.
- `head`: the same padded rows, with a head that scores completions alone.
- `group`: a tree for each group.
- `tree`: a tree for each micro-batch.
- `auto`: `prefix_tree: auto`.
- `alive`: `tree`, with no group dead. It shows what dead groups save.

A ratio is another side's time by ours. The model has SmolLM2-135M's widths, random weights and a LoRA of rank 16. On a
GPU its weights are in bfloat16.
"""

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.machine import describe_machine, use_cpu_well
from tools.speed.sides import did_job, in_turn, make_parser, peak_memory, run_apart, write_results

LAYERS: Final = 30  # of SmolLM2-135M
STEPS: Final = 1  # timed in a process, after one that is not
AGREEMENT_STEPS: Final = 5
LEARNING_RATE: Final = 1e-4


@dataclass(frozen=True)
class Case:
    """A step to measure.

    Attributes:
        name: of the case.
        prompt: tokens of each prompt.
        completion: tokens of each completion.
        group: completions per prompt.
        groups: prompts.
        alike: tokens that all prompts begin with.
        layers: of the model's 30.
        dead: prompts whose completions all have the advantage 0. They are the first ones.
        measured: sides.
        memory: GiB that a side may take; None for those of `--memory`.
    """

    name: str
    prompt: int
    completion: int
    group: int
    groups: int
    alike: int = 0
    layers: int = LAYERS
    dead: int = 0
    measured: Sequence[str] = ("trl", "head", "tree", "auto")
    memory: float | None = None

    @property
    def rows(self) -> int:
        """Completions in the step."""
        return self.group * self.groups


CASES: Final = (
    Case("a group", 400, 100, 8, 2),
    Case("half of the groups dead", 400, 100, 8, 2, layers=6, dead=1, measured=("trl", "tree", "alive")),
    Case("a long prompt", 800, 100, 16, 1, layers=6),
    Case("instructions", 400, 60, 8, 8, alike=250, layers=6),
    Case("instructions, a tree for each group", 400, 60, 8, 8, alike=250, measured=("group", "tree")),
    Case("the same, in 16 GiB", 400, 60, 8, 8, alike=250, measured=("group", "tree"), memory=16.0),
    Case("a short prompt", 50, 400, 8, 1),
)
TINY: Final = Case("tiny", 48, 12, 4, 2, alike=16, layers=1)


def make_rollouts(case: Case) -> dict[str, Any]:
    """Return random rollouts as TRL keeps them; the same for every call."""
    import torch

    draw = torch.Generator().manual_seed(0)

    def tokens(*shape: int) -> Any:
        return torch.randint(10, 40_000, shape, generator=draw)

    prompts = tokens(case.groups, case.prompt)
    prompts[:, : case.alike] = tokens(case.alike)
    completions = tokens(case.rows, case.completion)
    advantages = torch.randn(case.rows, generator=draw)
    advantages[: case.dead * case.group] = 0
    return {
        "prompt_ids": prompts.repeat_interleave(case.group, dim=0),
        "prompt_mask": torch.ones(case.rows, case.prompt, dtype=torch.long),
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(completions.numel()),
    }


def make_trainer(case: Case, side: str, micro_batch: int, folder: Path, steps: int) -> Any:
    """Return a trainer of a side that takes the stored rollouts instead of writing any."""
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from rewards import Component
    from rl.trainer import GRPOTrainer

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=case.layers,
            num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
            bos_token_id=1, eos_token_id=2, pad_token_id=2, rope_theta=100000,
            initializer_range=0.1,  # so that log-probabilities are as far apart as a trained model's
        )
    )  # fmt: skip
    if torch.cuda.is_available():
        model = model.to(torch.bfloat16)
    policy = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, "a")), pad_token="c", eos_token="c"
    )
    args = trl.GRPOConfig(
        output_dir=str(folder), per_device_train_batch_size=micro_batch, num_generations=case.group,
        gradient_accumulation_steps=case.rows // micro_batch, max_steps=steps, learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant", max_grad_norm=0.0, beta=0.0, bf16=torch.cuda.is_available(), report_to="none",
        save_strategy="no", gradient_checkpointing=False, disable_tqdm=True, logging_strategy="no",
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip

    def nothing(completions: Any, **columns: Any) -> list[float]:
        return [0.0] * len(completions)

    common = {
        "model": policy, "args": args, "train_dataset": Dataset.from_dict({"prompt": ["a"] * case.rows}),
        "processing_class": tokenizer,
    }  # fmt: skip
    if side == "trl":
        trainer: Any = trl.GRPOTrainer(reward_funcs=[nothing], **common)
    else:
        recorder: Any = SimpleNamespace(components=[Component("nothing", nothing)], prefix="")
        trainer = GRPOTrainer(recorder=recorder, prefix_tree="auto" if side == "auto" else "on", **common)
    if side == "head":
        trainer.scorer.reason = "padded rows are measured"
    rollouts = {name: value.to(trainer.accelerator.device) for name, value in make_rollouts(case).items()}
    trainer._generate_and_score_completions = lambda inputs: rollouts
    return trainer


def measure(case: Case, side: str, micro_batch: int, steps: int, keep: Path | None) -> dict[str, Any]:
    """Train some steps in this process.

    Args:
        case, side, micro_batch: what to measure.
        steps: that are timed, after one that is not.
        keep: where log-probabilities before the first step, its gradient and the adapter after the last step are
            written; None for nowhere.

    Returns:
        Seconds of each step, the peak of memory in GiB, and the shares of tokens that were computed.
    """
    import torch
    from transformers import TrainerCallback

    use_cpu_well()
    seconds: list[float] = []
    kept: dict[str, Any] = {}

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
            if keep is not None and "gradient" not in kept:
                kept["gradient"] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.began)

    with TemporaryDirectory() as folder:
        trainer = make_trainer(case, side, micro_batch, Path(folder), steps + 1)
        trainer.add_callback(Watch())
        if keep is not None:
            kept["log_probs"] = log_probs_of(trainer)
        trainer.train()
    if keep is not None:
        weights = [p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]
        torch.save({**kept, "adapter": torch.cat(weights)}, keep)
    scorer = getattr(trainer, "scorer", None)
    shared = 1.0 if scorer is None else scorer.computed / scorer.padded
    return {"seconds": seconds[1:], "memory_gib": peak_memory(), "tokens_computed": shared}


def log_probs_of(trainer: Any) -> Any:
    """Return the log-probabilities of the stored rollouts."""
    import torch

    rollouts = trainer._generate_and_score_completions([])
    ids, mask = (
        torch.cat([rollouts[f"prompt_{kind}"], rollouts[f"completion_{kind}"]], dim=1) for kind in ("ids", "mask")
    )
    with torch.no_grad():
        log_probs, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, rollouts["completion_ids"].shape[1]
        )
    return log_probs


def measure_all(case: dict[str, Any], side: str, micro_batches: list[int], steps: int, keep: str | None) -> Any:
    """Measure each micro-batch in this process; see `measure`."""
    kept = None if keep is None else Path(keep)
    return [measure(Case(**case), side, size, steps, kept) for size in micro_batches]


def apart(
    case: Case, side: str, micro_batches: list[int], steps: int = 1, keep: Path | None = None
) -> list[dict[str, Any]]:
    """Measure one or more micro-batches in a process of its own, so that memory is that of one side."""
    job = {"case": asdict(case), "side": side, "micro_batches": micro_batches, "steps": steps}
    found: list[dict[str, Any]] = run_apart(
        "tools.speed.training_step", **job, keep=None if keep is None else str(keep)
    )
    return found


def fitting(case: Case, side: str, memory: float) -> int:
    """Return the largest micro-batch that fits the memory."""
    if side == "group":
        return case.group
    sizes = [size for size in range(1, case.rows + 1) if case.rows % size == 0]
    if side in ("tree", "auto", "alive"):  # rows share tokens, so that each size is tried, the largest first
        sizes = [size for size in sizes if size % case.group == 0 or case.group % size == 0]
        fits = (size for size in reversed(sizes) if apart(case, side, [size], steps=0)[0]["memory_gib"] <= memory)
        return next(fits, sizes[0])
    first, second = sizes[:2]  # memory grows with the rows: it is told from what two small ones take
    taken = [one["memory_gib"] for one in apart(case, side, [first, second], steps=0)]
    per_row = (taken[1] - taken[0]) / (second - first)
    return max([first, *(size for size in sizes if taken[0] + per_row * (size - first) <= memory)])


def measure_case(case: Case, rounds: int, memory: float) -> dict[str, Any]:
    """Measure all sides of a case in turn, and print it."""
    sizes: dict[str, int] = {}
    for side in case.measured:
        sizes[side] = sizes["tree"] if side in ("auto", "alive") else fitting(case, side, memory)
    print(f"{case.name}: prompt {case.prompt} ({case.alike} alike), completion {case.completion}, G = {case.group}, "
          f"{case.groups} prompts, {case.layers} of {LAYERS} layers", flush=True)  # fmt: skip

    def once(side: str) -> Any:
        measured = replace(case, dead=0) if side == "alive" else case
        return lambda: apart(measured, side, [sizes[side]], STEPS)[0]

    found = in_turn({side: once(side) for side in case.measured}, rounds)
    seconds = {side: [statistics.median(one["seconds"]) for one in found[side]] for side in case.measured}

    def ratio(other: str, side: str) -> float:
        return float(
            statistics.median(theirs / ours for theirs, ours in zip(seconds[other], seconds[side], strict=True))
        )

    row: dict[str, Any] = {**asdict(case), "sides": {}}
    for side in case.measured:
        row["sides"][side] = {
            "micro_batch": sizes[side],
            "seconds": statistics.median(seconds[side]),
            "by_tree": ratio(side, "tree"),
            "memory_gib": max(one["memory_gib"] for one in found[side]),
            "tokens_computed": found[side][0]["tokens_computed"],
        }
        print(
            f"  {side:5} {row['sides'][side]['seconds']:8.2f} s, by the tree's {row['sides'][side]['by_tree']:5.2f}, "
            f"micro-batch {sizes[side]:3}, {row['sides'][side]['memory_gib']:5.2f} GiB, "
            f"{row['sides'][side]['tokens_computed']:.0%} of the tokens computed",
            flush=True,
        )
    if "auto" in seconds:
        row["trl_by_auto"] = ratio("trl", "auto")
        print(f"  trl by auto: {row['trl_by_auto']:.2f}", flush=True)
    return row


def agreement(case: Case) -> dict[str, float]:
    """Return how far log-probabilities, gradients (by their norm) and the adapter after five steps lie from TRL's."""
    import torch

    with TemporaryDirectory() as folder:
        kept = []
        for side in ("trl", "tree"):
            path = Path(folder) / f"{side}.pt"
            apart(case, side, [case.rows], AGREEMENT_STEPS - 1, path)
            kept.append(torch.load(path))
    theirs, ours = kept
    result = {
        "log_probs": float((ours["log_probs"] - theirs["log_probs"]).abs().max()),
        "gradient": float((ours["gradient"] - theirs["gradient"]).norm() / theirs["gradient"].norm()),
        "adapter": float((ours["adapter"] - theirs["adapter"]).abs().max()),
    }
    print("agreement:", ", ".join(f"{name} {value:.1e}" for name, value in result.items()))
    return result


def kept_rows(path: Path | None) -> list[dict[str, Any]]:
    """Return the rows that a file of results has already; those of cases that are measured now take their place."""
    if path is None or not path.is_file():
        return []
    kept: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return kept


def main() -> None:
    """Measure the cases and print medians and ratios."""
    if did_job(measure_all):
        return
    parser = make_parser(__doc__)
    parser.add_argument("--memory", type=float, default=8.0, help="GiB that a side may take")
    parser.add_argument("--cases", nargs="*", default=[case.name for case in CASES])
    parser.add_argument("--layers", type=int, help="of the model, instead of each case's")
    parser.add_argument("--tiny", action="store_true", help="one case of a second, to see that all runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="by default a GPU where there is one")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch sees no GPU here; leave it out, or use --device cpu")
    machine = describe_machine()
    print(f"{machine.processor}, {machine.cores} cores, {', '.join(machine.abilities)}")
    cases = [TINY] if options.tiny else [case for case in CASES if case.name in options.cases]
    if options.layers is not None:
        cases = [replace(case, layers=options.layers) for case in cases]
    agreed = agreement(TINY if options.tiny else replace(CASES[0], layers=6))
    rows = {row["name"]: row for row in kept_rows(options.json)}
    for case in cases:
        rows[case.name] = measure_case(case, options.rounds, case.memory or options.memory)
        write_results(options.json, list(rows.values()), agreement=agreed)  # a run that is stopped leaves some


if __name__ == "__main__":
    main()
