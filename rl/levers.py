"""Keys of TRL's that do not do for this task what they seem to: a line for each that a configuration sets.

Read in TRL 1.16. What TRL refuses or warns of by itself is not here.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final

# Keys that have no effect, when that is so, and why. `{value}` is the key's value.
_NO_EFFECT: Final[Sequence[tuple[Sequence[str], Callable[[Any], bool], str]]] = (
    (
        ("vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
        lambda args: not args.use_vllm,
        "transformers writes the rollouts, which need no correction",
    ),
    (
        ("vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
        lambda args: args.use_vllm and not args.vllm_importance_sampling_correction,
        "vllm_importance_sampling_correction is false",
    ),
    (
        ("use_transformers_continuous_batching", "cache_implementation"),
        lambda args: args.use_vllm,
        "vLLM writes the rollouts; it is for rollouts: transformers",
    ),
    (("use_bias_correction_kl",), lambda args: args.beta == 0, "it corrects the KL term, and beta is 0"),
    (
        ("scale_rewards",),
        lambda args: args.multi_objective_aggregation == "normalize_then_sum",
        "normalize_then_sum scales each reward by group, then their sum by batch",
    ),
    (
        ("epsilon", "epsilon_high", "delta"),
        lambda args: _learns_a_batch_once(args) and args.loss_type != "cispo",
        "each batch is learnt from once, so that no ratio differs from 1; num_iterations above 1 would change that",
    ),
    (
        ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
        lambda args: not args.use_adaptive_entropy,
        "use_adaptive_entropy is false",
    ),
    *(
        (keys, lambda args, loss=loss: args.loss_type != loss, f"it is for loss_type: {loss}")  # type: ignore[misc]
        for loss, keys in {
            "sapo": ("sapo_temperature_neg", "sapo_temperature_pos"),
            "vespo": ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
        }.items()
    ),
)
_DEPRECATED: Final = {
    "vllm_importance_sampling_cap": "vllm_importance_sampling_clip_max",
    "use_transformers_paged": "use_transformers_continuous_batching",
}


def lever_notes(args: Any, n_rewards: int) -> list[str]:
    """Return a line for each key of TRL's that is set to no effect, is deprecated, or works against the task.

    Args:
        args: TRL's GRPOConfig, with `use_vllm` as the run has it. A key is set where its value is not TRL's default.
        n_rewards: number of rewards.
    """
    # scale_rewards: TRL turns a truth value into a word.
    set_keys = {one.name: getattr(args, one.name) for one in fields(args) if getattr(args, one.name) != one.default}
    replaced = {new for old, new in _DEPRECATED.items() if old in set_keys}  # TRL sets the new key from the old
    return [
        *(
            f"{key}: {set_keys[key]}: has no effect, since {reason}"
            for keys, useless, reason in _NO_EFFECT
            for key in keys
            if key in set_keys and key not in replaced and useless(args)
        ),
        *(f"{old}: is deprecated in TRL; use {new}" for old, new in _DEPRECATED.items() if old in set_keys),
        *_against_the_task(args, n_rewards),
    ]


def _against_the_task(args: Any, n_rewards: int) -> list[str]:
    notes = []
    if args.mask_truncated_completions:
        notes.append(
            "mask_truncated_completions: true: a completion without an answer that was cut off is not learnt from, so "
            "that no reward teaches the policy to end in time; watch completions/clipped_ratio"
        )
    if args.multi_objective_aggregation == "normalize_then_sum" and n_rewards == 1:
        notes.append(
            "multi_objective_aggregation: normalize_then_sum: is for several rewards, and there is one; use "
            "scale_rewards: group"
        )
    if args.beta != 0 and args.use_bias_correction_kl and args.importance_sampling_level == "sequence":
        notes.append(
            "use_bias_correction_kl: true: is unbiased with importance_sampling_level: token only; set it to false, or "
            "beta to 0"
        )
    if args.loss_type == "cispo" and args.epsilon_high is None:
        notes.append(
            f"loss_type: cispo: without epsilon_high, TRL clips every ratio at epsilon, {args.epsilon}, which scales "
            "all gradients by it; set epsilon_high: 5.0"
        )
    if args.repetition_penalty != 1:
        notes.append(
            f"repetition_penalty: {args.repetition_penalty}: completions are drawn from another distribution than the "
            "one that is trained; remove it"
        )
    return notes


def _learns_a_batch_once(args: Any) -> bool:
    """Whether completions are learnt from by the very policy that wrote them."""
    return bool(args.gradient_accumulation_steps % (args.steps_per_generation * args.num_iterations) == 0)
