"""Stage two's trainer: TRL's, which also stores and sums up its rollouts, and whose vLLM runs on a CPU, too.

This module loads TRL, so that others import it within functions only.
"""

import copy
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
from trl.trainer.utils import shuffle_sequence_dict, use_adapter

from benchmarks.models.vllm_engine import reload_weights, start_options
from rewards import completion_text
from rl.correction import CANARIES, Correction
from rl.recording import Recorder, batch_metrics, totals_of
from sft.tree_attention import ATTENTION, Scorer, unwrapped

# What we override, call and replace of TRL beside its documented interface, as `module:Class.attribute` with the
# arguments of methods, and the version it was read in.
READ_IN: Final = "1.16.0"
_GRPO: Final = "trl.trainer.grpo_trainer"
_UTILS: Final = "trl.trainer.utils"
_VLLM: Final = "trl.generation.vllm_generation"
REFERENCE: Final = "ref"  # TRL's name of the frozen copy of the adapter that GRPO starts from
KL_ROWS: Final = 16  # held-out completions of a batch that tell the KL divergence from the reference
PRIVATE_NAMES: Final = {
    f"{_GRPO}:GRPOTrainer._generate": ("self", "prompts"),  # called by `rl.preflight`
    f"{_GRPO}:GRPOTrainer._generate_single_turn": (
        "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images=False",
    ),
    f"{_GRPO}:GRPOTrainer._calculate_rewards": ("self", "inputs", "prompts", "completions", "completion_ids_list"),
    f"{_GRPO}:GRPOTrainer._generate_and_score_completions": ("self", "inputs"),
    f"{_GRPO}:GRPOTrainer._tokenize_prompts": ("self", "prompts"),
    f"{_GRPO}:GRPOTrainer._compute_loss": ("self", "model", "inputs"),
    f"{_GRPO}:GRPOTrainer._get_per_token_logps_and_entropies": (
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size=None", "compute_entropy=False",
        "compute_aux_loss=False", "pixel_values=None", "image_grid_thw=None", "num_images=None",
        "pixel_attention_mask=None", "spatial_shapes=None", "num_tiles=None", "image_sizes=None",
        "token_type_ids=None", "mm_token_type_ids=None", "image_position_ids=None",
    ),
    f"{_GRPO}:GRPOTrainer._prepare_inputs": ("self", "generation_batch"),
    f"{_GRPO}:shuffle_sequence_dict": ("seq_dict",),  # called by the latter, before the split into micro-batches
    # The head that `sft.tree_attention` calls by `fused_lm_head` and `shift_labels`.
    f"{_UTILS}:add_fused_lm_head": (
        "model", "temperature=1.0", "cast_lm_head_to_fp32=False", "outputs=('log_probs',)",
    ),
    f"{_UTILS}:FusedCausalLMOutput": None,
    f"{_UTILS}:use_adapter": ("model", "adapter_name"),
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
        prefix_tree: `auto`, `on` or `off`: whether a prompt is computed once for all completions of a micro-batch
            (see `sft.tree_attention.Scorer`); `off` leaves all to TRL.
        correct_always: whether TRL's importance correction for vLLM is made in every batch (see `rl.correction`).
        **arguments: of TRL's trainer, but for `reward_funcs`.

    Attributes:
        cost: what the rollouts took so far.
        scorer: computes log-probabilities; None where TRL does.
        correction: says which batches are corrected; None where none are.
    """

    vllm_importance_sampling_correction: bool  # TRL's

    def __init__(
        self, *, recorder: Recorder, prefix_tree: str = "off", correct_always: bool = True, **arguments: Any
    ) -> None:
        self.recorder = recorder
        self.cost = RolloutCost("vllm" if arguments["args"].use_vllm else "transformers")
        rewards = [TrainerReward(component, recorder.prefix) for component in recorder.components]
        # It makes its own, and offers no other way in.
        with _replaced(trl_grpo, "VLLMGeneration", Rollouts):
            super().__init__(reward_funcs=rewards, **arguments)
        corrects = self.use_vllm and self.vllm_importance_sampling_correction
        self.correction = Correction(correct_always) if corrects else None
        # Which completions of a micro-batch have a gradient, and all old log-probabilities; None: all are computed.
        self._learnt: tuple[Any, Any] | None = None
        self._entropy = 0.0  # mean of the last micro-batch's completions with a gradient
        self.scorer = None if prefix_tree == "off" else Scorer(prefix_tree, unwrapped(self.accelerator, self.model))

    @property
    def skips_dead(self) -> bool:
        """Whether a completion whose advantage is 0 is not computed: it has no gradient if only the reward counts."""
        looked_at = self.beta != 0 or self._entropy_bonus_enabled or self.aux_loss_enabled
        return not looked_at and self.top_entropy_quantile == 1

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self.scorer is None or self.scorer.reason is not None:
            return super()._prepare_inputs(generation_batch)
        shuffle = partial(
            shuffle_groups, group_size=self.num_generations, micro_batch=self.args.per_device_train_batch_size
        )
        with _replaced(trl_grpo, "shuffle_sequence_dict", shuffle):
            return super()._prepare_inputs(generation_batch)

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        if self.model.training and self.skips_dead:
            self._learnt = inputs["advantages"] != 0, inputs.get("old_per_token_logps")
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._learnt = None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        if self._learnt is None:
            return self._scores(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        learnt_B, old_BC = self._learnt
        rows_N, shape = learnt_B.nonzero()[:, 0], (len(input_ids), logits_to_keep)
        if len(rows_N):
            log_probs_NC, entropies_NC, _ = self._scores(
                model, input_ids[rows_N], attention_mask[rows_N], logits_to_keep, *args, **kwargs
            )
            tokens_NC = attention_mask[rows_N, -logits_to_keep:]
            self._entropy = float((entropies_NC.detach() * tokens_NC).sum() / tokens_NC.sum().clamp(min=1))
        else:
            # Two tokens, so that there is a backward pass, which other processes may wait for.
            ids = input_ids[:1, -logits_to_keep - 1 :][:, :2]
            log_probs, _, _ = super()._get_per_token_logps_and_entropies(model, ids, torch.ones_like(ids), 1)
            log_probs_NC = entropies_NC = (log_probs * 0).expand(0, logits_to_keep)
            old_BC = (log_probs * 0).expand(shape) if old_BC is None else old_BC + log_probs * 0
        # The old log-probabilities stand for those that are not computed, and the mean entropy for theirs, in the log.
        log_probs_BC = log_probs_NC.new_zeros(shape) if old_BC is None else old_BC.to(log_probs_NC.dtype)
        entropies_BC = entropies_NC.new_full(shape, self._entropy)
        return log_probs_BC.index_copy(0, rows_N, log_probs_NC), entropies_BC.index_copy(0, rows_N, entropies_NC), None

    def _scores(
        self,
        model: Any,
        input_ids: Any,
        attention_mask: Any,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> Any:
        base = unwrapped(self.accelerator, model)
        pictured = any(value is not None for value in images.values())
        # Where a router's loss is asked for, it counts every token of the padded rows.
        if self.scorer is None or pictured or compute_aux_loss or base.config._attn_implementation != ATTENTION:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss,
                **images,
            )  # fmt: skip
        size = batch_size or len(input_ids)
        with self.accelerator.autocast():
            parts = [
                self.scorer.scores(model, base, ids, mask, logits_to_keep)
                for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True)
            ]
        entropies = [part.entropy for part in parts if part.entropy is not None]
        return torch.cat([part.log_probs for part in parts]), torch.cat(entropies) if compute_entropy else None, None

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        start = time.monotonic()
        completion_ids, logprobs = super()._generate_single_turn(*args, **kwargs)
        if not self.model.training:  # answers to held-out prompts are no rollouts
            return completion_ids, logprobs
        self.cost.seconds += time.monotonic() - start
        self.cost.completions += len(completion_ids)
        self.cost.tokens += sum(len(ids) for ids in completion_ids)
        return completion_ids, logprobs

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Any:
        training = self.model.training
        group_size = self.num_generations if training else self.num_generations_eval
        step, tokens = self.state.global_step + 1, [len(ids) for ids in completion_ids_list]
        try:
            scores_BF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        except Exception:
            if training:  # the completions are stored without scores, so that a corrected reward can be tried on them
                unknown = [[math.nan] * len(self.recorder.components)] * len(prompts)
                self.recorder.batch(step, inputs, prompts, completions, tokens, unknown, group_size)
                self.recorder.store([None] * len(prompts))
            raise
        scores_BF = without_partly_judged(scores_BF, group_size)
        start = self.accelerator.process_index * len(prompts)
        own = scores_BF[start : start + len(prompts)].tolist()
        totals = totals_of(self.recorder.components, own)
        labels = [row.get("label") for row in inputs]
        cut_off = self.recorder.newly_cut_off()
        facts = batch_metrics(self.recorder.read(completions), labels, totals, group_size, cut_off)
        if training:
            self.recorder.batch(step, inputs, prompts, completions, tokens, own, group_size)
        else:
            facts["held_out_accuracy"] = facts.get("answered_accuracy", math.nan)
            facts["held_out_items"] = float(len(self.eval_dataset))
            self.recorder.held_out(self.state.global_step, inputs, completions, group_size)
        for name, value in facts.items():
            self._log_metric(name, value)
        return scores_BF

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        training = self.model.training
        if training and self.correction is not None:
            # TRL reads it as it takes the batch in and as it computes the losses, which end before the next batch.
            self.vllm_importance_sampling_correction = self.correction.begin()
        if not training:
            # Without an update nothing is to be corrected, and TRL would pass all completions through the model.
            with _replaced(self, "vllm_importance_sampling_correction", False):
                output = super()._generate_and_score_completions(inputs)
            self._ask_greedily(inputs)
            return output
        output = super()._generate_and_score_completions(inputs)
        self.recorder.store(output["advantages"].tolist())
        if self.correction is not None:
            self._compare_with_sampler(self.correction, output)
        return output

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[None, None, None]:
        """Ask a batch of held-out prompts. Without an update there is no loss to compute."""
        with torch.no_grad():
            output = self._prepare_inputs(inputs)
            if REFERENCE in getattr(self.accelerator.unwrap_model(self.model), "peft_config", {}):
                self._log_kl(output)
        return None, None, None

    def _ask_greedily(self, inputs: Any) -> None:
        """Log the accuracy of greedy answers to held-out prompts, and store all answers to them."""
        rows = inputs[:: self.num_generations_eval]
        prompt_ids, images, fields = self._tokenize_prompts([row["prompt"] for row in rows])
        if self.use_vllm:
            greedy = _replaced(self.vllm_generation, "temperature", 0.0)
        else:
            config = copy.deepcopy(self.generation_config)
            config.update(do_sample=False, temperature=1.0, top_p=1.0, top_k=0, min_p=None)
            greedy = _replaced(self, "generation_config", config)
        with greedy:
            completion_ids, _ = self._generate_single_turn(prompt_ids, images, fields, 1)
        answers = self.recorder.read(self.processing_class.batch_decode(completion_ids, skip_special_tokens=True))
        right = [answer.label == row["label"] for answer, row in zip(answers, rows, strict=True)]
        self._log_of_all("greedy_accuracy", sum(right) / len(right))
        self.recorder.store_held_out(answers)

    def _log_kl(self, output: Any) -> None:
        """Log the KL divergence from the reference per token, by Schulman's estimator, as TRL's `kl` of a batch."""
        few = {name: value[:KL_ROWS] for name, value in output.items() if value is not None and value.ndim}
        with use_adapter(self.accelerator.unwrap_model(self.model), REFERENCE):
            reference_BC = self._log_probs(few)
        apart_BC, mask_BC = reference_BC - self._log_probs(few), few["completion_mask"]
        kl_BC = torch.exp(apart_BC) - apart_BC - 1
        self._log_of_all("kl", float((kl_BC * mask_BC).sum() / mask_BC.sum()))

    def _log_probs(self, rows: Any) -> Any:
        mask_BC = rows["completion_mask"]
        log_probs_BC, _, _ = self._scores(
            self.model,
            torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1),
            torch.cat([rows["prompt_mask"], mask_BC], dim=1),
            mask_BC.shape[1],
        )
        return log_probs_BC

    def _log_of_all(self, name: str, value: float) -> None:
        """Log the mean of what all processes found in a batch of held-out prompts."""
        found = self.accelerator.gather(torch.tensor(value, device=self.accelerator.device))
        self._metrics["eval"][name].append(float(found.float().mean()))

    def _compare_with_sampler(self, correction: Correction, output: Any) -> None:
        """Tell by how much sampler and trainer differ in a batch: as TRL logged it, or by a few of its completions."""
        metrics = self._metrics["train"]
        if self.vllm_importance_sampling_correction:
            correction.saw(metrics["sampling/sampling_logp_difference/mean"][-1])
        elif correction.asks_canaries:
            few = {name: value[:CANARIES] for name, value in output.items() if value is not None and value.ndim}
            with torch.no_grad():
                apart = (self._log_probs(few) - few["sampling_per_token_logps"]).abs()
            known = (few["completion_mask"] == 1) & ~torch.isnan(apart)
            mean = apart[known].mean() if known.any() else torch.zeros((), device=apart.device)
            correction.saw(float(self.accelerator.gather(mean).max()))
            metrics["sampling/canary_logp_difference"].append(correction.difference)
        metrics["sampling/corrected"].append(float(self.vllm_importance_sampling_correction))


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


def shuffle_groups(batch: dict[str, Any], group_size: int, micro_batch: int) -> dict[str, Any]:
    """Shuffle completions as TRL does, but whole groups of them, so that a micro-batch has few prompts.

    A group that is larger than a micro-batch is shuffled in parts of a micro-batch each. The random numbers drawn are
    those that TRL draws.

    Args:
        batch: of B rows, as TRL keeps it; a group's rows stand together.
        group_size: completions per group.
        micro_batch: rows of a micro-batch.

    Returns:
        The batch in another order; in TRL's where processes share a group.
    """
    rows = len(next(value for value in batch.values() if value is not None))
    together = micro_batch if group_size % micro_batch == 0 else group_size
    if rows % group_size:
        return shuffle_sequence_dict(batch)  # type: ignore[no-any-return]
    drawn = torch.randperm(rows)
    first_rows = dict.fromkeys((drawn // together * together).tolist())
    order = torch.tensor([row for first in first_rows for row in range(first, first + together)])

    def ordered(value: Any) -> Any:
        if value is None or (isinstance(value, torch.Tensor) and value.ndim == 0):
            return value
        return value[order] if isinstance(value, torch.Tensor) else [value[row] for row in order]

    return {name: ordered(value) for name, value in batch.items()}


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
