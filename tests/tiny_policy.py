"""A tiny policy in float64 and TRL's trainer around it, so that a test can tell a wrong sum from rounding."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

VOCABULARY = 24
PAD, END = 0, 1


class ExactNorm(torch.nn.Module):
    """A Llama's norm, in the number type of what it is given."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class ExactRotary(torch.nn.Module):
    """A Llama's rotary embedding in float64: with float32, left padding alone would change the sixth digit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


class ExactHead:
    """TRL's head without its float32: log-probabilities and entropies in the number type of the hidden states."""

    @staticmethod
    def apply(hidden: Any, weight: Any, bias: Any, labels: Any, temperature: float, *_: Any) -> Any:
        log_probs = torch.log_softmax(hidden @ weight.T / temperature, dim=-1)
        entropy, top = -(log_probs.exp() * log_probs).sum(-1), log_probs.argmax(-1) == labels
        return log_probs.gather(-1, labels[:, None])[:, 0], entropy, None, None, top


def make_policy(seed: int = 0, **config: Any) -> Any:
    """A random Llama of two layers in float64 with a LoRA whose weights are all random."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, num_hidden_layers=2, initializer_range=0.5, pad_token_id=PAD, eos_token_id=END,
            bos_token_id=END, **{**sizes, **config},
        )
    ).double()  # fmt: skip
    for layer in model.model.layers:
        layer.input_layernorm = ExactNorm(layer.input_layernorm)
        layer.post_attention_layernorm = ExactNorm(layer.post_attention_layernorm)
    model.model.norm = ExactNorm(model.model.norm)
    model.model.rotary_emb = ExactRotary(model.config.head_dim)
    policy = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    return policy.double()


def make_tokenizer() -> Any:
    """A tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(VOCABULARY)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, "w0")), pad_token="w0", eos_token="w1")


def make_trainer(folder: Path, monkeypatch: pytest.MonkeyPatch, *, prefix_tree: str, **keys: Any) -> Any:
    """A trainer of the policy, whose head is exact; its rollouts are the caller's."""
    from datasets import Dataset
    from trl import GRPOConfig

    from rewards import Component
    from rl.trainer import GRPOTrainer

    monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", ExactHead)

    def nothing(completions: Any, **columns: Any) -> list[float]:
        return [0.0] * len(completions)

    values: dict[str, Any] = {
        "use_cpu": True, "bf16": False, "report_to": "none", "disable_dropout": True, "logging_steps": 1,
        "save_strategy": "no", "max_completion_length": 4, "gradient_checkpointing": False, **keys,
    }  # fmt: skip
    policy = values.pop("policy", None) or make_policy()
    recorder: Any = SimpleNamespace(
        components=[Component("nothing", nothing)], prefix="", store=lambda advantages: None
    )
    return GRPOTrainer(
        recorder=recorder,
        prefix_tree=prefix_tree,
        model=policy,
        args=GRPOConfig(output_dir=str(folder), **values),
        train_dataset=Dataset.from_dict({"prompt": ["w2 w3"] * 16}),
        processing_class=make_tokenizer(),
    )


def make_rollouts(groups: int, group_size: int, *, same: int = 3, seed: int = 0) -> dict[str, Any]:
    """Rollouts as TRL keeps them, of prompts whose first tokens are the same; a group's rows stand together.

    Lengths differ; the second completion of the first group has no token left, as one that was masked.
    """
    draw = torch.Generator().manual_seed(seed)

    def tokens(length: int) -> list[int]:
        return torch.randint(2, VOCABULARY, (length,), generator=draw).tolist()

    begin = tokens(same)
    prompts = [begin + tokens(2 + group % 3) for group in range(groups)]
    prompts = [prompt for prompt in prompts for _ in range(group_size)]
    completions = [tokens(1 + int(torch.randint(0, 5, (), generator=draw))) for _ in prompts]
    width, columns = max(map(len, prompts)), max(map(len, completions))
    mask = torch.tensor([[1] * len(own) + [0] * (columns - len(own)) for own in completions])
    mask[1] = 0

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return {
        "prompt_ids": torch.tensor([[PAD] * (width - len(own)) + own for own in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in prompts]),
        "completion_ids": torch.tensor([own + [PAD] * (columns - len(own)) for own in completions]),
        "completion_mask": mask,
        "advantages": drawn(len(prompts)),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": drawn(len(prompts), columns) * 0.1 - 3,
        "ref_per_token_logps": drawn(len(prompts), columns) * 0.1 - 3,
    }


def gradients(model: Any, loss: torch.Tensor) -> torch.Tensor:
    """All gradients of the trained weights, in one vector."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([torch.zeros_like(one).flatten() if one.grad is None else one.grad.flatten() for one in trained])
