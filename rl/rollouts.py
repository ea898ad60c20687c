"""Rollouts for GRPO: which engine writes them, how the policy's weights reach it, and what it cost."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from benchmarks.models.engines import has_vllm
from rewards import InputError
from rl.recording import Recorder, batch_facts, totals_of

ENGINES: Final = ("auto", "vllm", "transformers")


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


def choose_engine(rollouts: str) -> str:
    """Return the engine for a config's `rollouts` key: `auto` takes vLLM where it is installed.

    Raises:
        InputError: the key is unknown, or vLLM is asked for and not installed.
    """
    if rollouts not in ENGINES:
        raise InputError(f"rollouts: {rollouts!r} is unknown; use {', '.join(ENGINES)}")
    if rollouts == "vllm" and not has_vllm():
        raise InputError("rollouts: vllm is not installed here; use rollouts: transformers, or install vLLM")
    if rollouts == "auto":
        return "vllm" if has_vllm() else "transformers"
    return rollouts


def merged_parameters(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield a PEFT model's weights under the base model's names, the active adapter added, each once.

    Unlike `merge_adapter` and `unmerge_adapter`, which round the base weights in place at every synchronisation, this
    never changes the model.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if model.prefix in name:
                continue
            weight = parameter.data
            owner, _, kind = name.rpartition(".base_layer.")
            if kind == "weight" and owner in layers:
                for adapter in layers[owner].active_adapters:
                    delta = layers[owner].get_delta_weight(adapter)
                    weight = (weight.float() + delta.float()).to(weight.dtype)
            yield name.removeprefix("base_model.model.").replace(".base_layer", ""), weight


def grpo_trainer(cost: RolloutCost, recorder: Recorder, dtype: str, **arguments: Any) -> Any:
    """Make a TRL `GRPOTrainer` whose vLLM takes weights on the CPU too, and which measures and stores its rollouts.

    Args:
        cost: filled in as rollouts are written.
        recorder: stores the rollouts of training, and says what the log tells of a batch.
        dtype: the number type that a colocated vLLM computes in: the policy's.
        **arguments: `GRPOTrainer`'s own.
    """
    import torch
    import trl.generation.vllm_generation as trl_vllm
    import trl.trainer.grpo_trainer as trl_grpo
    from trl import GRPOTrainer

    class Generation(trl_grpo.VLLMGeneration):  # type: ignore[misc]
        def _init_vllm(self) -> None:
            # TRL hands on neither. vLLM's own `auto` makes bf16 of a float32 checkpoint, too; and without
            # `enforce_eager` it compiles C++ when it starts on a CPU, for which a laptop would need a compiler.
            original = trl_vllm.LLM
            eager = not torch.cuda.is_available()
            trl_vllm.LLM = partial(original, dtype=dtype, enforce_eager=eager, use_tqdm_on_load=False)
            try:
                super()._init_vllm()
            finally:
                trl_vllm.LLM = original

        def _iter_named_params(self) -> Iterator[tuple[str, Any]]:
            sharded = self._dist.is_fsdp or self.accelerator.state.deepspeed_plugin is not None
            if sharded or not hasattr(self.model, "peft_config"):
                yield from super()._iter_named_params()
            else:
                yield from merged_parameters(self.model)

        def sync_weights(self) -> None:
            if self.mode == "colocate" and self.accelerator.device.type == "cpu":
                # vLLM's CPU backend repacks weights: loading them one by one, as TRL does, finds no weight loader.
                runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
                runner.reload_weights(weights_iterator=self._iter_named_params(), is_checkpoint_format=True)
                self.llm.reset_prefix_cache()
            else:
                super().sync_weights()

    class Trainer(GRPOTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            start = time.monotonic()
            completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
            cost.seconds += time.monotonic() - start
            cost.completions += len(completion_ids)
            cost.tokens += sum(len(ids) for ids in completion_ids)
            return completion_ids, logprobs

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
            scores_BF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            training = self.model.training
            group_size = self.num_generations if training else self.num_generations_eval
            scores_BF = without_partly_judged(scores_BF, group_size)
            start = self.accelerator.process_index * len(prompts)
            own = scores_BF[start : start + len(prompts)].tolist()
            facts = batch_facts(
                recorder.read(completions), [row.get("label") for row in inputs], totals_of(recorder.components, own),
                group_size, recorder.newly_cut_off(),
            )  # fmt: skip
            if training:
                tokens = [len(ids) for ids in completion_ids_list]
                recorder.batch(self.state.global_step + 1, inputs, prompts, completions, tokens, own, group_size)
            else:
                facts["held_out_accuracy"] = facts.get("answered_accuracy", math.nan)
                facts["held_out_items"] = float(len(self.eval_dataset))
            for name, value in facts.items():
                self._log_metric(name, value)
            return scores_BF

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            output = super()._generate_and_score_completions(inputs)
            if self.model.training:
                recorder.store(output["advantages"].tolist())
            return output

    original = trl_grpo.VLLMGeneration
    trl_grpo.VLLMGeneration = Generation  # the trainer makes its own and offers no other way in
    try:
        return Trainer(**arguments)
    finally:
        trl_grpo.VLLMGeneration = original


def without_partly_judged(scores_BF: Any, group_size: int) -> Any:
    """Take a completion out of training where a reward cannot judge it but judges others of its group.

    TRL would add up what is left, and the missing part would count as 0 beside the others.

    Args:
        scores_BF: (B, F) scores of F rewards, NaN where one cannot judge; a group's rows stand together.
        group_size: completions per group.

    Returns:
        The scores, with NaN throughout such rows.
    """
    import torch

    missing_NGF = torch.isnan(scores_BF).view(-1, group_size, scores_BF.shape[1])
    partly_N1F = missing_NGF.any(dim=1, keepdim=True) & ~missing_NGF.all(dim=1, keepdim=True)
    rows_B = (missing_NGF & partly_N1F).any(dim=2).view(-1)
    return torch.where(rows_B.unsqueeze(1), torch.full_like(scores_BF, math.nan), scores_BF)
