"""The engine that is asked for is the one that runs, and synchronising weights leaves the policy untouched."""

import copy
from typing import Any

import pytest

import rl.rollouts
from rewards import InputError
from rl.rollouts import choose_engine, merged_parameters


@pytest.mark.parametrize(
    ("rollouts", "installed", "engine"),
    [
        ("auto", True, "vllm"),
        ("auto", False, "transformers"),
        ("vllm", True, "vllm"),
        ("transformers", True, "transformers"),
        ("transformers", False, "transformers"),
    ],
)
def test_choose_engine(monkeypatch: pytest.MonkeyPatch, rollouts: str, installed: bool, engine: str) -> None:
    monkeypatch.setattr(rl.rollouts, "has_vllm", lambda: installed)
    assert choose_engine(rollouts) == engine


def test_vllm_where_it_is_not_installed_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl.rollouts, "has_vllm", lambda: False)
    with pytest.raises(InputError, match="rollouts: transformers"):
        choose_engine("vllm")


@pytest.mark.parametrize("rollouts", ["VLLM", "hf", "", "Auto"])
def test_an_unknown_engine_is_refused(rollouts: str) -> None:
    with pytest.raises(InputError, match="use auto, vllm, transformers"):
        choose_engine(rollouts)


def make_policy(dtype: str, **lora: Any) -> Any:
    """A tiny random Llama with a LoRA whose two halves are both random, so that its delta is not 0."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=lora.pop("tied", False),
    )  # fmt: skip
    base = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **lora)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}, {"tied": True}], ids=["plain", "rslora", "tied"])
def test_merged_parameters_are_those_of_merge_and_unload(dtype: str, lora: dict[str, Any]) -> None:
    import torch

    model = make_policy(dtype, **lora)
    merged = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    ours = list(merged_parameters(model))
    assert sorted(name for name, _ in ours) == sorted(merged)  # each once, under the base model's names
    moved = 0
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in model.named_parameters()
    }
    for name, weight in ours:
        assert weight.dtype == merged[name].dtype
        tolerance = 1e-6 if dtype == "float32" else 2e-2
        torch.testing.assert_close(weight, merged[name].data, atol=tolerance, rtol=tolerance)
        moved += not torch.equal(weight, base[name])
    assert moved == 2 * 7  # all linear layers of both blocks, and no other weight


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_changes_no_weight_of_the_policy(dtype: str) -> None:
    import torch

    model = make_policy(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wants = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for _ in range(3):
        for _, weight in merged_parameters(model):
            assert not weight.requires_grad
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wants


def test_only_the_active_adapter_is_merged() -> None:
    """The frozen copy that serves as the reference must not reach the sampler."""
    import torch
    from peft import LoraConfig

    model = make_policy("float32")
    alone = {name: weight.clone() for name, weight in merged_parameters(model)}
    model.add_adapter("ref", LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.set_adapter("default")
    both = dict(merged_parameters(model))
    assert set(both) == set(alone)
    assert all(torch.equal(both[name], weight) for name, weight in alone.items())
