"""A dry run of GRPO: the run up to its first update, then more samples of each prompt, in a folder that is removed.

The trainer is that of the run. It generates and scores, so that engine, prompts, temperature and rewards are the run's.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pandas as pd

from benchmarks.config import ConfigSource
from benchmarks.progress import Progress
from rewards import CheckError, InputError
from rl.chosen import ITEM, write_chosen
from rl.preflight.estimate import Cost, describe_cost, describe_prompts, share, summarise
from rl.rollout_files import read_rollouts
from rl.train import Stage, chosen_facts, make_ready, make_trainer, read_stage, sampling_facts
from sft.training import hide_bars

_TIMED: Final = 3  # micro-batches whose training is timed, at most


@dataclass(frozen=True)
class DryRun:
    """What a dry run found.

    Attributes:
        prompts: a row for each prompt; see `rl.preflight.estimate.summarise`.
        cost: of the run's parts.
        group_size: completions per group.
        tokens: mean tokens of a completion.
        cut_off: share of the completions that ended at `max_completion_length`.
        engine: `vllm` or `transformers`.
        facts: what a choice of these prompts holds for, and how they were sampled.
    """

    prompts: pd.DataFrame
    cost: Cost
    group_size: int
    tokens: float
    cut_off: float
    engine: str
    facts: dict[str, Any]

    def lines(self) -> list[str]:
        """Return the findings as text, a line each."""
        return [
            f"{len(self.prompts)} prompts, {self.prompts['samples'].sum()} completions of the SFT policy by "
            f"{self.engine}, temperature {self.facts['temperature']}",
            *describe_prompts(self.prompts, self.group_size),
            f"completions: {self.tokens:.0f} tokens on average, {share(self.cut_off)} cut off at "
            f"max_completion_length: {self.facts['max_completion_length']}",
            *describe_cost(self.cost, float(self.prompts["dead"].mean())),
        ]

    def write(self, path: Path) -> int:
        """Write the prompts whose samples did not all earn the same, for the key `train_on`; return how many.

        Raises:
            CheckError: there are none.
        """
        kept = self.prompts[self.prompts["dead"] < 1].drop(columns="label").round(6)
        if kept.empty:
            raise CheckError(
                f"{path}: not written, since all samples of each prompt earned the same; raise --samples or "
                "temperature, or change the rewards"
            )
        rows = [{**row, "pass_rate": "" if math.isnan(row["pass_rate"]) else row["pass_rate"]} for row in _rows(kept)]
        write_chosen(path, rows, {**self.facts, "prompts": len(self.prompts), "kept": len(kept)})
        return len(kept)


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def dry_run(
    config: ConfigSource, overrides: Sequence[str] = (), *, samples: int | None = None, trainer_class: Any = None
) -> DryRun:
    """Sample from the SFT policy as GRPO would, and measure what a step costs. Writes nothing.

    Args:
        config, overrides: see `rl.train`.
        samples: completions of each prompt, a multiple of `num_generations`; None for `num_generations`.
        trainer_class: see `rl.train`.

    Raises:
        InputError: as `rl.train`; or a bad number of samples, or there are several processes.
        CheckError: as `rl.train`.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("--dry-run: takes one process; start it without `accelerate launch`")
    stage = read_stage(config, overrides)
    group = stage.args.num_generations
    samples = group if samples is None else samples
    if samples < group or samples % group:
        raise InputError(
            f"--samples {samples}: give a multiple of num_generations ({group}), such as {group} or {4 * group}"
        )
    with Progress("dry run") as progress, TemporaryDirectory() as folder:
        progress.phase("loading labels and policy")
        return _measure(stage, samples, trainer_class, Path(folder), progress)


def _measure(stage: Stage, samples: int, trainer_class: Any, folder: Path, progress: Progress) -> DryRun:
    args, group = stage.args, stage.args.num_generations
    prompts, rewards, tokenizer, policy = make_ready(stage)
    args.report_to, args.eval_on_start = [], False
    trainer = make_trainer(trainer_class, policy, tokenizer, args, stage.ours, prompts, rewards, folder)
    hide_bars(trainer)
    progress.phase("first step, without its update")
    batches = _first_step(trainer)
    training, scoring = _time_training(trainer, batches)
    first = trainer.cost.seconds, trainer.cost.completions
    sync = _seconds(trainer.vllm_generation.sync_weights) if args.use_vllm else 0.0

    todo = _still_to_sample(trainer, folder, samples)
    progress.phase("sampling", len(todo) * group, "completions")
    size = args.generation_batch_size // group
    rewarding = 0.0
    for start in range(0, len(todo), size):
        rewarding += _sample(trainer, [row for row in todo[start : start + size] for _ in range(group)])
        progress.at(min(start + size, len(todo)) * group)

    seconds, completions = trainer.cost.seconds, trainer.cost.completions
    if todo:  # the first batch includes the engine's start
        seconds, completions = seconds - first[0], completions - first[1]
    rollouts = read_rollouts(folder)
    cost = Cost(
        rollout=seconds / completions,
        reward=rewarding / max(len(todo) * group, 1),
        sync=sync,
        scoring=scoring * args.generation_batch_size / args.per_device_train_batch_size,
        micro_batch=training,
        completions=args.generation_batch_size,
        micro_batches=args.gradient_accumulation_steps,
        batches=args.gradient_accumulation_steps / (args.steps_per_generation * args.num_iterations),
        reference=args.beta != 0,
        corrected=trainer.correction is not None and trainer.correction.corrects_next,
        skipped=trainer.skips_dead,
        steps=trainer.state.max_steps,
        # Each held-out prompt is answered once more greedily.
        evaluation=stage.ours.held_out_items * (trainer.num_generations_eval + 1),
    )
    return DryRun(
        prompts=summarise(rollouts, group, parts=args.multi_objective_aggregation == "normalize_then_sum"),
        cost=cost,
        group_size=group,
        tokens=float(rollouts["completion_tokens"].mean()),
        cut_off=float((rollouts["completion_tokens"] >= args.max_completion_length).mean()),
        engine=trainer.cost.engine,
        facts={**chosen_facts(stage), **sampling_facts(stage), "samples": samples, "data": prompts.corpus.digest},
    )


class _StoppedError(Exception):
    """The first update is about to be made."""


def _first_step(trainer: Any) -> list[tuple[Any, Any]]:
    """Let a trainer run up to its first update; return its micro-batches, each with the model as it is called."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):  # type: ignore[misc]
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise _StoppedError

    batches: list[tuple[Any, Any]] = []
    compute_loss = trainer.compute_loss

    def keep(model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        batches.append((model, inputs))
        return compute_loss(model, inputs, *rest, **named)

    trainer.add_callback(Stop())
    trainer.compute_loss = keep
    with suppress(_StoppedError):
        trainer.train()
    trainer.compute_loss = compute_loss
    return batches


def _time_training(trainer: Any, batches: Sequence[tuple[Any, Any]]) -> tuple[float, float]:
    """Return the mean seconds of a micro-batch's training, and of scoring its completions without a gradient.

    Each completion gets an advantage, since those without one may be skipped.
    """
    import torch

    def train(model: Any, inputs: Any) -> None:
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(model, {**inputs, "advantages": torch.ones_like(inputs["advantages"])})
        trainer.accelerator.backward(loss)

    def score(model: Any, inputs: Any) -> None:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with torch.no_grad():
            trainer._get_per_token_logps_and_entropies(model, ids, mask, inputs["completion_ids"].shape[1])

    timed = batches[-_TIMED:]
    times = [[_seconds(work, model, inputs) for model, inputs in timed] for work in (train, score)]
    trainer.model.zero_grad(set_to_none=True)
    return sum(times[0]) / len(timed), sum(times[1]) / len(timed)


def _seconds(work: Any, *arguments: Any) -> float:
    """Return how long a call takes, the work that it leaves to a GPU included."""
    import torch

    start = time.monotonic()
    work(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - start


def _still_to_sample(trainer: Any, folder: Path, samples: int) -> list[Any]:
    """Return the rows to sample a group of each: each row as often as it takes, without those of the first step."""
    group = trainer.num_generations
    sampled = Counter({item: n // group for item, n in Counter(read_rollouts(folder)["item_id"]).items()})
    return [row for number in range(samples // group) for row in trainer.train_dataset if sampled[row[ITEM]] <= number]


def _sample(trainer: Any, inputs: Sequence[Any]) -> float:
    """Let a trainer write and score a batch of completions, which its recorder stores; return the rewards' seconds."""
    trainer.model.train()  # else it is an evaluation
    prompts = [row["prompt"] for row in inputs]
    _, completion_ids, _, completions, *_ = trainer._generate(prompts)
    seconds = _seconds(trainer._calculate_rewards, inputs, prompts, completions, completion_ids)
    trainer.recorder.store([math.nan] * len(inputs))  # no update, so no advantages
    return seconds
