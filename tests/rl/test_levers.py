"""Keys of TRL's that do not do what they seem to: each is told in one line, and shipped configurations set none."""

from pathlib import Path
from typing import Any

import pytest

from rl.levers import lever_notes
from rl.train import read_arguments

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("**/grpo.yaml"))


def notes(rewards: int = 2, *, vllm: bool = True, **keys: Any) -> list[str]:
    from trl import GRPOConfig

    args = GRPOConfig("out", bf16=False, use_cpu=True, report_to="none", **keys)
    args.use_vllm = vllm
    return lever_notes(args, rewards)


@pytest.mark.parametrize("vllm", [False, True])
def test_trl_s_own_values_need_no_note(vllm: bool) -> None:
    assert notes(vllm=vllm) == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.parent.name)
@pytest.mark.parametrize("vllm", [False, True])
def test_shipped_configurations_need_no_note(config: Path, vllm: bool) -> None:
    ours, args, _ = read_arguments(config)
    args.use_vllm = vllm
    assert lever_notes(args, len(ours.rewards)) == []


@pytest.mark.parametrize(
    ("keys", "words", "without"),
    [
        (
            {"vllm": False, "vllm_importance_sampling_mode": "token_mask"},
            "no effect, since transformers",
            {"vllm": True},
        ),
        (
            {"vllm_importance_sampling_clip_max": 2.0, "vllm_importance_sampling_correction": False},
            "no effect, since vllm_importance_sampling_correction is false",
            {"vllm_importance_sampling_correction": True},
        ),
        ({"cache_implementation": "static"}, "no effect, since vLLM", {"vllm": False}),
        ({"use_bias_correction_kl": False}, "no effect, since it corrects the KL term", {"beta": 0.1}),
        (
            {"scale_rewards": "none", "multi_objective_aggregation": "normalize_then_sum"},
            "scale_rewards: none: has no effect",
            {"multi_objective_aggregation": "sum_then_normalize"},
        ),
        ({"epsilon": 0.1}, "epsilon: 0.1: has no effect", {"num_iterations": 2}),
        ({"epsilon_high": 0.28}, "epsilon_high: 0.28: has no effect", {"steps_per_generation": 3}),
        ({"entropy_target": 1.0}, "use_adaptive_entropy is false", {"use_adaptive_entropy": True}),
        ({"sapo_temperature_neg": 2.0}, "it is for loss_type: sapo", {"loss_type": "sapo"}),
        ({"vespo_k_pos": 1.0}, "it is for loss_type: vespo", {"loss_type": "vespo"}),
        (
            {"mask_truncated_completions": True},
            "teaches the policy to end in time",
            {"mask_truncated_completions": False},
        ),
        (
            {"rewards": 1, "multi_objective_aggregation": "normalize_then_sum"},
            "is for several rewards",
            {"rewards": 2},
        ),
        (
            {"beta": 0.1, "importance_sampling_level": "sequence"},
            "is unbiased with importance_sampling_level: token only",
            {"use_bias_correction_kl": False},
        ),
        ({"loss_type": "cispo"}, "set epsilon_high: 5.0", {"epsilon_high": 5.0}),
        ({"repetition_penalty": 1.1}, "another distribution", {"repetition_penalty": 1.0}),
    ],
)
def test_a_key_is_told_only_where_it_matters(keys: dict[str, Any], words: str, without: dict[str, Any]) -> None:
    (line,) = notes(**keys)
    assert words in line
    assert notes(**{**keys, **without}) == []


@pytest.mark.parametrize(
    ("old", "value", "new"),
    [
        ("vllm_importance_sampling_cap", 2.0, "vllm_importance_sampling_clip_max"),
        ("use_transformers_paged", True, "use_transformers_continuous_batching"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_deprecated_key_is_told_with_its_successor_and_once(old: str, value: Any, new: str) -> None:
    assert notes(**{old: value}) == [f"{old}: is deprecated in TRL; use {new}"]
