"""Answers after an empty thought, and samples that depend on their own request alone, with a tiny model."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chat import encode_prompt, render_prompt
from benchmarks.evaluation.protocol import Protocol
from benchmarks.models.engines import OpenAIEngine, Request, TransformersEngine
from benchmarks.models.generation import EMPTY_THOUGHT
from benchmarks.models.local import LocalModel
from rewards import LABELS, InputError, parse_answer

PROMPTS = [[{"role": "user", "content": "What happens to " + "MYC " * n}] for n in range(1, 20)]
TEMPERATURE = 0.15  # so cold that a few tokens have most of the probability
SAMPLED = Protocol(data="digest", max_tokens=6, temperature=1.3, top_p=0.9)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[TransformersEngine]:
    opened = TransformersEngine(tiny_model, dtype="float32")
    yield opened
    opened.close()


def test_the_probabilities_are_those_of_the_labels_after_the_empty_thought(
    engine: TransformersEngine, tiny_model: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    lm = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    generations = engine.answer_directly(PROMPTS)
    for prompt, generation in zip(PROMPTS, generations, strict=True):
        ids = tokenizer(render_prompt(tokenizer, prompt) + EMPTY_THOUGHT, add_special_tokens=False)["input_ids"]
        first = [tokenizer(str(label), add_special_tokens=False)["input_ids"][0] for label in LABELS]
        with torch.inference_mode():
            p = lm(torch.tensor([ids])).logits[0, -1, first].softmax(-1).tolist()
        assert generation.probabilities == pytest.approx(p, rel=1e-3)
        assert parse_answer(generation.text).label == LABELS[p.index(max(p))]
        assert (generation.completion_tokens, generation.prompt_tokens) == (1, len(ids))


def test_a_prompt_that_opened_the_thought_has_it_closed(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if add_generation_prompt %}<think>\n{% endif %}")
    model = LocalModel(folder, None, None)
    ids, _ = model.encode_direct(PROMPTS[0])
    assert model.decode(ids).endswith("<think>\n</think><answer>")
    assert model.decode(ids).count("<think>") == 1


def test_a_vocabulary_that_joins_the_tag_with_the_label(tiny_model: Path) -> None:
    """The ids end before the `>`, which is part of the label's first token."""
    model = LocalModel(tiny_model, None, None)
    plain = model.tokenizer

    class Joined:
        """Reads `>` and the letter after it as one token."""

        def __getattr__(self, name: str) -> Any:
            return getattr(plain, name)

        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            ids = list(plain(text, **options)["input_ids"])
            head = plain(text.rpartition(">")[0], **options)["input_ids"]
            return {"input_ids": [*head, 1000 + ids[len(head) + 1]] if text.endswith(tuple(LABELS)) else ids}

    before, _ = model.encode_direct(PROMPTS[0])
    model.__dict__["tokenizer"] = Joined()
    after, labels = model.encode_direct(PROMPTS[0])
    assert model.decode(before).removesuffix(model.decode(after)) == model.decode(before)
    assert model.decode(after) + ">" == model.decode(before)
    assert len(set(labels)) == 3
    assert min(labels) >= 1000


def test_a_sample_depends_on_its_own_seed_and_not_on_its_batch(engine: TransformersEngine) -> None:
    requests = [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    whole = engine.generate(requests, SAMPLED)
    apart = [generation for request in requests for generation in engine.generate([request], SAMPLED)]
    assert [one.text for one in apart] == [one.text for one in whole]
    assert len({one.text for one in whole}) > len(whole) / 2
    other = engine.generate([Request(PROMPTS[0], 99)], SAMPLED)
    assert other[0].text != whole[0].text


def test_samples_follow_the_model_s_distribution(engine: TransformersEngine, tiny_model: Path) -> None:
    """The first token over 400 seeds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    ids = encode_prompt(tokenizer, PROMPTS[0])
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)(torch.tensor([ids])).logits[
            0, -1
        ]
    cold = Protocol(data="digest", max_tokens=1, temperature=TEMPERATURE)
    p, token = (logits / cold.temperature).softmax(-1).max(-1)
    n = 400
    texts = [one.text for one in engine.generate([Request(PROMPTS[0], seed) for seed in range(n)], cold)]
    share = texts.count(tokenizer.decode([int(token)], skip_special_tokens=False)) / n
    assert 0.05 < float(p) < 0.95
    assert share == pytest.approx(float(p), abs=4 * (float(p) * (1 - float(p)) / n) ** 0.5)


def test_a_server_cannot_begin_the_model_s_turn() -> None:
    with pytest.raises(InputError, match="cannot write an empty thought .* or use engine: vllm or transformers"):
        OpenAIEngine("http://localhost:9/v1", "m").answer_directly(PROMPTS)
