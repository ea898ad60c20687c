"""The gate counts what a student wrote as it would be read, and shows the worst."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from rewards import CheckError
from sft.gate import run_gate
from sft.teacher.template import generate
from sft.training import load_tokenizer

PREFILLED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
GOOD = "so</think><answer>upregulated</answer><|im_end|>"
REPLIES = {
    "good": f"<think>{GOOD}",
    "never ends": "<think>so</think><answer>upregulated</answer> and and and",
    "answers and never ends": "<think>so</think><answer>upregulated</answer>",
    "answers with a special token": "<think>so</think><answer>upregulated<|im_start|></answer><|im_end|>",
    "ends without an answer": "<think>so</think><|im_end|>",
    "says more after its turn": f"<think>{GOOD}<|im_start|>user",
}


class Student:
    """A model that writes given texts, one a prompt; keeps what it was asked."""

    def __init__(self, tokenizer: Any, replies: list[str]) -> None:
        self.tokenizer, self.replies, self.asked = tokenizer, iter(replies), 0
        self.training, self.device = True, "cpu"
        self.generation_config = SimpleNamespace(eos_token_id=None)

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool) -> None:
        self.training = mode

    def generate(self, input_ids: Any, attention_mask: Any, generation_config: Any, **options: Any) -> Any:
        import torch

        assert not self.training
        assert generation_config.do_sample is False
        assert attention_mask[:, -1].all(), "padding must stand on the left"
        self.asked += len(input_ids)
        rows = [self.tokenizer(next(self.replies), add_special_tokens=False)["input_ids"] for _ in input_ids]
        assert all(len(row) <= generation_config.max_new_tokens for row in rows)
        width = max(map(len, rows))
        pad = generation_config.pad_token_id
        return torch.cat([input_ids, torch.tensor([row + [pad] * (width - len(row)) for row in rows])], dim=1)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Path) -> Any:
    return load_tokenizer(tiny_tokenizer)


def gate(tokenizer: Any, replies: list[str], n: int = 64) -> Any:
    corpus = open_corpus("sample")
    traces = generate(corpus.train.head(20), corpus, PromptConfig(evidence=3), seed=0)
    student = Student(tokenizer, replies)
    result = run_gate(student, tokenizer, traces, n=n, max_new_tokens=64, seed=0, batch=1)
    assert student.asked == result.prompts == min(n, 20)
    assert student.training
    return result


def test_shares_and_the_five_worst(tokenizer: Any) -> None:
    kinds = ["good"] * 10 + ["says more after its turn"] * 2 + ["never ends"] * 3 + ["ends without an answer"] * 5
    result = gate(tokenizer, [REPLIES[kind] for kind in kinds])
    assert (result.share, result.terminated) == (12 / 20, 17 / 20)
    assert [one["terminated"] for one in result.worst] == [False] * 3 + [True] * 2
    assert result.worst[0]["end"].endswith("and and and")
    result.require(0.6)
    with pytest.raises(CheckError, match="gate: 60% of 20 completions .* fewer than 90%.* Worst: ") as caught:
        result.require(0.9)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count("…") == 5


def test_fewer_prompts_are_drawn(tokenizer: Any) -> None:
    assert gate(tokenizer, [REPLIES["good"]] * 8, n=8).share == 1


def test_a_think_tag_in_the_prompt_counts(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", PREFILLED)
    assert gate(tokenizer, [GOOD] * 20).share == 1
    assert gate(tokenizer, [f"<think>{GOOD}"] * 20).share == 0


def test_an_answer_counts_only_where_its_turn_ends(tokenizer: Any) -> None:
    result = gate(tokenizer, [REPLIES["good"]] * 15 + [REPLIES["answers and never ends"]] * 5)
    assert (result.share, result.terminated) == (0.75, 0.75)
    assert {(one["status"], one["terminated"]) for one in result.worst} == {("answered", False)}


def test_special_tokens_are_read_as_evaluation_reads_them(tokenizer: Any) -> None:
    result = gate(tokenizer, [REPLIES["good"]] * 10 + [REPLIES["answers with a special token"]] * 10)
    assert (result.share, result.terminated) == (0.5, 1)


def test_the_model_s_own_decoding_defaults_do_not_count(tokenizer: Any, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    corpus = open_corpus("sample")
    traces = generate(corpus.train.head(2), corpus, PromptConfig(evidence=3), seed=0)
    plain = run_gate(model, tokenizer, traces, n=2, max_new_tokens=24, seed=0)
    model.generation_config.repetition_penalty = 100.0
    assert run_gate(model, tokenizer, traces, n=2, max_new_tokens=24, seed=0) == plain
    assert model.generation_config.repetition_penalty == 100.0
