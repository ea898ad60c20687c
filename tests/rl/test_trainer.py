"""The trainer: what of TRL it stands on, the weights that vLLM is sent, and rewards as TRL calls them."""

import copy
import inspect
import json
from importlib import import_module, metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lazily import Lazy
from without_clock import PATIENCE

from benchmarks.models.vllm_engine import has_vllm
from rewards import LABELS, BalancedAccuracy, Context, accuracy
from rewards import format as format_reward
from rl.recording import Recorder
from rl.train import load_rewards

trainers = Lazy("rl.trainer")

UP, DOWN, NONE = map(str, LABELS)
COUNTS = {UP: 10, DOWN: 10, NONE: 80}
CONTEXT = Context(COUNTS)


# --- TRL -----------------------------------------------------------------------------------------------------------


def test_the_private_names_were_read_in_the_version_installed() -> None:
    assert metadata.version("trl") == trainers.READ_IN, "read the names again in the new version, then change READ_IN"


def test_the_private_names_are_there_with_their_arguments() -> None:
    for name, arguments in trainers.PRIVATE_NAMES.items():
        module, _, path = name.partition(":")
        if path == "LLM" and not has_vllm():
            continue
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        if arguments is not None:
            bare = (str(one.replace(annotation=one.empty)) for one in inspect.signature(found).parameters.values())
            assert tuple(bare) == arguments, name


def test_what_is_overridden_is_listed() -> None:
    """All that our class defines and TRL's has, too, but for the constructor."""
    listed = {name.rpartition(".")[2] for name in trainers.PRIVATE_NAMES if ":GRPOTrainer." in name}
    ours = {name for name in vars(trainers.GRPOTrainer) if name.startswith("_") and not name.startswith("__")}
    assert {name for name in ours if any(name in vars(base) for base in trainers.GRPOTrainer.__mro__[1:])} <= listed


# --- merged_parameters ---------------------------------------------------------------------------------------------


def make_base(dtype: str, *, tied: bool = False, biased: bool = False, **_: Any) -> Any:
    """A tiny random Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=tied, attention_bias=biased,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(getattr(torch, dtype))


def make_policy(dtype: str, **kind: Any) -> Any:
    """The Llama with a LoRA whose trained weights are all random, so that its delta is not 0."""
    import torch
    from peft import LoraConfig, get_peft_model

    lora = {name: value for name, value in kind.items() if name not in ("tied", "biased")}
    lora = {"target_modules": "all-linear", **lora}
    model = get_peft_model(make_base(dtype, **kind), LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **lora))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


KINDS: dict[str, tuple[dict[str, Any], int]] = {  # to how many weights each changes
    "plain": ({}, 14),  # all linear layers of both blocks, and no other weight
    "rslora": ({"use_rslora": True}, 14),
    "tied": ({"tied": True}, 14),
    "rank pattern": ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 3}}, 14),
    "DoRA": ({"use_dora": True}, 14),
    "DoRA, rank pattern": ({"use_dora": True, "rank_pattern": {"q_proj": 8}}, 14),
    "biases": ({"biased": True, "lora_bias": True, "target_modules": ["q_proj", "o_proj"]}, 8),
    "head and embeddings": ({"modules_to_save": ["lm_head", "embed_tokens"]}, 16),
    "head and embeddings by LoRA": ({"target_modules": ["q_proj", "lm_head", "embed_tokens"]}, 4),
    "a norm": ({"modules_to_save": ["model.norm"], "tied": True}, 15),
    "a block": ({"modules_to_save": ["layers.0"], "target_modules": ["q_proj"]}, 10),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_parameters_are_those_of_peft_s_merge(dtype: str, kind: str) -> None:
    import torch

    lora, changed = KINDS[kind]
    model = make_policy(dtype, **lora)
    merged = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    ours = [(name, weight.clone()) for name, weight in trainers.merged_parameters(model)]
    assert sorted(name for name, _ in ours) == sorted(merged)  # each once, under the base model's names
    for name, weight in ours:
        assert weight.dtype == merged[name].dtype
        assert torch.equal(weight, merged[name].data), name
    base = dict(make_base(dtype, **lora).named_parameters())
    assert sum(not torch.equal(weight, base[name]) for name, weight in ours) == changed


@pytest.mark.parametrize("kind", ["plain", "DoRA", "biases", "head and embeddings"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_changes_nothing_of_the_policy(dtype: str, kind: str) -> None:
    import torch

    model = make_policy(dtype, **KINDS[kind][0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wants = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    logits = model(input_ids=torch.arange(8)[None]).logits
    for _ in range(3):
        for _, weight in trainers.merged_parameters(model):
            assert not weight.requires_grad
    after = model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wants
    assert torch.equal(model(input_ids=torch.arange(8)[None]).logits, logits)  # no layer takes itself for merged


@pytest.mark.parametrize("kind", ["plain", "DoRA", "head and embeddings"])
def test_only_the_active_adapter_is_merged(kind: str) -> None:
    """The frozen copy that serves as the reference must not reach the sampler."""
    import torch

    model = make_policy("float32", **KINDS[kind][0])
    alone = {name: weight.clone() for name, weight in trainers.merged_parameters(model)}
    model.add_adapter("ref", model.peft_config["default"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ref." in name:
                parameter.normal_()
    model.set_adapter("default")
    both = dict(trainers.merged_parameters(model))
    assert set(both) == set(alone)
    assert all(torch.equal(both[name], weight) for name, weight in alone.items())


# --- TrainerReward -------------------------------------------------------------------------------------------------

STATE = SimpleNamespace(global_step=6)


@pytest.mark.parametrize("as_messages", [False, True])
def test_a_trainers_reward_sees_the_tag_that_the_template_opened(as_messages: bool) -> None:
    texts = [f"because</think><answer>{UP}</answer>", f"<think>a</think><answer>{UP}</answer>", "because"]
    completions: list[Any] = [[{"role": "assistant", "content": text}] for text in texts] if as_messages else texts
    for reward in (accuracy, format_reward):
        scores = trainers.TrainerReward(reward, "<think>\n")(
            completions=completions, trainer_state=STATE, label=[UP] * 3
        )
        assert scores == [1.0, 0.0, 0.0]


def test_a_trainers_reward_leaves_a_failed_generation_unscored() -> None:
    reward = trainers.TrainerReward(accuracy, "<think>")
    failed: list[Any] = [None, [{"role": "assistant", "content": None}]]
    assert reward(completions=failed, trainer_state=STATE, label=[UP, UP]) == [None, None]


def test_a_trainers_reward_keeps_its_rewards_name() -> None:
    balanced = BalancedAccuracy(COUNTS)
    assert [trainers.TrainerReward(reward, "<think>").__name__ for reward in (accuracy, format_reward, balanced)] == [
        "accuracy", "format", "balanced_accuracy",
    ]  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "<think>"])
@pytest.mark.parametrize("timeout", [0, PATIENCE])
def test_a_trainers_reward_hands_on_what_trl_gives_and_the_step(tmp_path: Path, prefix: str, timeout: float) -> None:
    (tmp_path / "same.py").write_text(
        "def same(completions, prompts, completion_ids, step, label, **columns):\n"
        "    assert type(step) is int and step == 7\n"
        "    return [float(len(c[-1]['content']) + len(p[-1]['content']) + len(ids))\n"
        "            for c, p, ids in zip(completions, prompts, completion_ids, strict=True)]\n"
    )
    (component,) = load_rewards([{"name": f"{tmp_path}/same.py:same", "timeout": timeout}], CONTEXT, "none")
    scores = trainers.TrainerReward(component, prefix)(
        completions=[[{"role": "assistant", "content": "abc"}]], prompts=[[{"role": "user", "content": "de"}]],
        completion_ids=[[1, 2, 3, 4]], label=[UP], trainer_state=STATE, log_metric=print,
    )  # fmt: skip
    assert scores == [9.0 + len(prefix)]


# --- Held-out prompts ----------------------------------------------------------------------------------------------


def test_held_out_prompts_are_answered_greedily_once_each(tmp_path: Path) -> None:
    vllm, logged, asked = SimpleNamespace(temperature=0.9), {}, []
    texts = {"one": f"<think></think><answer>{UP}</answer>", "two": "none of them"}

    def generate(prompts: list[str], images: Any, fields: Any, n: int) -> tuple[list[str], None]:
        asked.append((vllm.temperature, prompts, n))
        return prompts, None

    trainer: Any = SimpleNamespace(
        num_generations_eval=2,
        use_vllm=True,
        vllm_generation=vllm,
        recorder=Recorder(tmp_path, []),
        processing_class=SimpleNamespace(batch_decode=lambda ids, **_: [texts[one] for one in ids]),
        _tokenize_prompts=lambda prompts: (prompts, None, {}),
        _generate_single_turn=generate,
        _log_of_all=logged.__setitem__,
    )
    rows = [{"prompt": name, "item_id": name, "label": UP} for name in ("one", "one", "two", "two")]
    trainer.recorder.held_out(10, rows, [texts[one] for one in ("two", "one", "two", "two")], 2)
    trainers.GRPOTrainer._ask_greedily(trainer, rows)
    assert asked == [(0.0, ["one", "two"], 1)]
    assert logged == {"greedy_accuracy": 0.5}
    assert vllm.temperature == 0.9
    (path,) = (tmp_path / "held-out").iterdir()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"item_id": "one", "label": UP, "sampled": [None, UP], "greedy": UP},
        {"item_id": "two", "label": UP, "sampled": [None, None], "greedy": None},
    ]
