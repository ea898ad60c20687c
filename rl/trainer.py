"""Stage two's trainer: TRL's, which also stores and sums up its rollouts, and whose vLLM runs on a CPU, too.

This module loads TRL, so that others import it within functions only.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
import trl
import trl.generation.vllm_generation as trl_vllm
import trl.trainer.grpo_trainer as trl_grpo
from accelerate.utils import DistributedType
from peft.tuners.lora import LoraLayer

from benchmarks.models.vllm_engine import reload_weights, start_options
from rewards import completion_text
from rl.recording import Recorder, batch_facts, totals_of

# What we override, call and replace of TRL beside its documented interface, as `module:Class.attribute` with the
# arguments of methods, and the version it was read in.
READ_IN: Final = "1.16.0"
_GRPO: Final = "trl.trainer.grpo_trainer"
_VLLM: Final = "trl.generation.vllm_generation"
PRIVATE_NAMES: Final = {
    f"{_GRPO}:GRPOTrainer._generate_single_turn": (
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images=False",
    ),
    f"{_GRPO}:GRPOTrainer._calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    f"{_GRPO}:GRPOTrainer._generate_and_score_completions": ("self", "inputs"),
    # What reward functions are given as `log_metric`; what is logged of a batch needs the scores of all of them.
    f"{_GRPO}:GRPOTrainer._log_metric": ("self", "name", "value"),
    f"{_GRPO}:VLLMGeneration": None,
    f"{_VLLM}:VLLMGeneration._init_vllm": ("self",),
    f"{_VLLM}:VLLMGeneration._iter_named_params": ("self",),
    f"{_VLLM}:VLLMGeneration.sync_weights": ("self",),
    f"{_VLLM}:LLM": None,  # there where vLLM is installed
}  # fmt: skip


@dataclass
class RolloutCost:
    """What the rollouts of a run took.

    Attributes:
        engine: `vllm` or `transformers`.
        completions: how many completions were written.
        tokens: their tokens, end of turn included.
        seconds: wall-clock time of generation, weight synchronisation included.
    """

    engine: str
    completions: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class TrainerReward:
    """A reward as the trainer calls it: with the think tag that the chat template had opened, and with the step.

    Attributes:
        reward: the reward function.
        prefix: the tag to put in front of each completion; empty where the template opens none.
    """

    reward: Any
    prefix: str = ""

    def __post_init__(self) -> None:
        self.__name__ = self.reward.__name__

    def __call__(self, completions: Sequence[Any], trainer_state: Any, **columns: Any) -> list[float | None]:
        """Score B completions with the tag in front, and with `step`, counted from 1 as in logs and rollouts."""
        if self.prefix:
            texts = [completion_text(completion) for completion in completions]
            completions = [None if text is None else self.prefix + text for text in texts]
        scores: list[float | None] = self.reward(
            completions=completions, trainer_state=trainer_state, step=trainer_state.global_step + 1, **columns
        )
        return scores


class GRPOTrainer(trl.GRPOTrainer):  # type: ignore[misc]
    """TRL's `GRPOTrainer` with the rewards of a recorder, which stores every batch of rollouts.

    Args:
        recorder: stores the rollouts of training, and says what the log tells of a batch.
        **arguments: of TRL's trainer, but for `reward_funcs`.

    Attributes:
        cost: what the rollouts took so far.
    """

    def __init__(self, *, recorder: Recorder, **arguments: Any) -> None:
        self.recorder = recorder
        self.cost = RolloutCost("vllm" if arguments["args"].use_vllm else "transformers")
        rewards = [TrainerReward(component, recorder.prefix) for component in recorder.components]
        # It makes its own, and offers no other way in.
        with _replaced(trl_grpo, "VLLMGeneration", Rollouts):
            super().__init__(reward_funcs=rewards, **arguments)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        start = time.monotonic()
        completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        self.cost.seconds += time.monotonic() - start
        self.cost.completions += len(completion_ids)
        self.cost.tokens += sum(len(ids) for ids in completion_ids)
        return completion_ids, logprobs

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        scores_BF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        training = self.model.training
        group_size = self.num_generations if training else self.num_generations_eval
        scores_BF = without_partly_judged(scores_BF, group_size)
        start = self.accelerator.process_index * len(prompts)
        own = scores_BF[start : start + len(prompts)].tolist()
        totals = totals_of(self.recorder.components, own)
        labels = [row.get("label") for row in inputs]
        cut_off = self.recorder.newly_cut_off()
        facts = batch_facts(self.recorder.read(completions), labels, totals, group_size, cut_off)
        if training:
            tokens = [len(ids) for ids in completion_ids_list]
            self.recorder.batch(self.state.global_step + 1, inputs, prompts, completions, tokens, own, group_size)
        else:
            facts["held_out_accuracy"] = facts.get("answered_accuracy", math.nan)
            facts["held_out_items"] = float(len(self.eval_dataset))
        for name, value in facts.items():
            self._log_metric(name, value)
        return scores_BF

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            self.recorder.store(output["advantages"].tolist())
        return output


class Rollouts(trl_vllm.VLLMGeneration):  # type: ignore[misc]
    """TRL's vLLM, in the policy's number type, with weights that PEFT merges, and on a CPU, too."""

    def _init_vllm(self) -> None:
        if self.mode != "colocate":
            super()._init_vllm()
            return
        options = start_options(str(self.model.dtype).removeprefix("torch."))
        with _replaced(trl_vllm, "LLM", partial(trl_vllm.LLM, **options)):
            super()._init_vllm()

    def _iter_named_params(self) -> Iterator[tuple[str, Any]]:
        sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if sharded or not hasattr(self.model, "peft_config"):
            yield from super()._iter_named_params()
        else:
            yield from merged_parameters(self.model)

    def sync_weights(self) -> None:
        """Send the policy's weights to vLLM."""
        if self.mode == "colocate" and self.accelerator.device.type == "cpu":
            reload_weights(self.llm, self._iter_named_params())
        else:
            super().sync_weights()


def merged_parameters(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield a PEFT model's weights under the base model's names, the active adapter merged in, each once.

    They are those of PEFT's own merge, bit for bit. Unlike `merge_adapter` and `unmerge_adapter`, which round the base
    weights in place at every synchronisation, this leaves the model as it was, and holds one merged layer at a time.

    Args:
        model: with LoRA layers (DoRA and rank patterns, too), and whole modules that are trained beside them.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, parameter in model.named_parameters():
        if model.prefix in name or ".original_module." in name:
            continue
        module, trained, rest = name.partition(".modules_to_save.")
        if trained:
            adapter, _, rest = rest.partition(".")
            if adapter not in model.active_adapters:
                continue
            name = f"{module}.{rest}"
        with _merged(layers.get(name.rpartition(".base_layer.")[0])):
            yield name.removeprefix("base_model.model.").replace(".base_layer", ""), parameter.data


@contextmanager
def _merged(layer: Any | None) -> Iterator[None]:
    """Let a layer's base weights be the merged ones within the block; None for one without an adapter."""
    if layer is None:
        yield
        return
    base = layer.get_base_layer()
    before = {name: parameter.data for name, parameter in base.named_parameters(recurse=False)}
    for name, data in before.items():
        getattr(base, name).data = data.clone()
    try:
        with torch.no_grad():
            layer.merge()
        yield
    finally:
        for name, data in before.items():
            getattr(base, name).data = data
        layer.merged_adapters.clear()


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Let a module's name stand for another value within the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def without_partly_judged(scores_BF: Any, group_size: int) -> Any:
    """Take a completion out of training where a reward cannot judge it but judges others of its group.

    TRL would add up what is left, and the missing part would count as 0 beside the others.

    Args:
        scores_BF: (B, F) scores of F rewards, NaN where one cannot judge; a group's rows stand together.
        group_size: completions per group.

    Returns:
        The scores, with NaN throughout such rows.
    """
    missing_NGF = torch.isnan(scores_BF).view(-1, group_size, scores_BF.shape[1])
    partly_N1F = missing_NGF.any(dim=1, keepdim=True) & ~missing_NGF.all(dim=1, keepdim=True)
    rows_B = (missing_NGF & partly_N1F).any(dim=2).view(-1)
    return torch.where(rows_B.unsqueeze(1), torch.full_like(scores_BF, math.nan), scores_BF)
