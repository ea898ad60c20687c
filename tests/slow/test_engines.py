"""The real engines on a real small model: they agree with each other, repeat themselves, and stop where they should."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evaluation.protocol import Protocol
from benchmarks.models.engines import Engine, Request, VLLMEngine, open_engine
from benchmarks.models.folders import adapter_sha256, mark_adapter, model_fingerprint
from rewards import CheckError

pytestmark = pytest.mark.slow

ENGINES: list[Any] = [
    "transformers",
    pytest.param("vllm", marks=pytest.mark.needs_vllm),
]
PROMPT = (
    "Reply only with <think>short reason</think><answer>LABEL</answer>, LABEL one of upregulated, downregulated, not "
    "differentially expressed. " + "Example reply: <think>x</think><answer>downregulated</answer>. " * 6
)
GREEDY = Protocol(data="digest", max_tokens=32)
SAMPLED = Protocol(data="digest", max_tokens=16, temperature=1.0, top_p=0.95)


def make_requests(n: int = 16) -> list[Request]:
    genes = ("AARS", "TP53", "MYC", "RPL3")
    texts = [f"{PROMPT}Knocking down {genes[i % 4]}{i // 4}: what happens to MYC?" for i in range(n)]
    return [Request([{"role": "user", "content": text}], seed) for seed, text in enumerate(texts)]


@pytest.fixture(scope="module")
def adapter(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    path = tmp_path_factory.mktemp("adapter")
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    torch.manual_seed(0)
    config = LoraConfig(r=32, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.008)
    adapted.save_pretrained(str(path))
    mark_adapter(path, smollm2)
    return path


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, smollm2: Path, adapter: Path) -> Iterator[Engine]:
    name: str = request.param
    opened = open_engine(name, smollm2, adapter, dtype="float32", max_model_len=1024)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def reference(smollm2: Path, adapter: Path) -> list[str]:
    """Greedy texts of PEFT in transformers, one prompt at a time, with nothing of ours in between."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    model: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32), str(adapter)
    )

    def complete(request: Request) -> str:
        ids = tokenizer.apply_chat_template(
            list(request.messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(**ids, max_new_tokens=GREEDY.max_tokens, do_sample=False)
        return str(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))

    requests = make_requests()
    texts = [complete(request) for request in requests]
    with model.disable_adapter():  # an adapter that changes nothing would not tell whether it is applied
        assert [complete(request) for request in requests[:4]] != texts[:4]
    return texts


def test_greedy_text_is_the_adapted_model_s(engine: Engine, reference: list[str]) -> None:
    generations = engine.generate(make_requests(), GREEDY)
    same = [generation.text == text for generation, text in zip(generations, reference, strict=True)]
    assert sum(same) >= 0.9 * len(same)  # ties in rounding may fall either way
    assert all(generation.error is None for generation in generations)
    assert all("<|im_end|>" not in (generation.text or "") for generation in generations)


def test_facts_name_model_and_adapter(engine: Engine, smollm2: Path, adapter: Path) -> None:
    facts = engine.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["model_fingerprint"] == model_fingerprint(smollm2)
    assert facts["adapter_sha256"] == adapter_sha256(adapter)
    assert facts["dtype"] == "float32"
    assert engine.context == 1024


def test_a_batch_repeats_itself_whatever_came_before(engine: Engine) -> None:
    requests = make_requests(8)
    first = engine.generate(requests, SAMPLED)
    engine.generate(list(reversed(requests)), GREEDY)
    assert engine.generate(requests, SAMPLED) == first
    other = engine.generate([Request(request.messages, request.seed + 100) for request in requests], SAMPLED)
    assert [generation.text for generation in other] != [generation.text for generation in first]
    assert len({generation.text for generation in first}) > 1


def test_a_sample_is_the_same_whatever_the_batch(engine: Engine) -> None:
    """Also where the prompts of a batch exceed the tokens that vLLM reads at once (4,096 here)."""
    requests = [  # what differs comes first, so that no prompt shares a cached prefix with another
        Request([{"role": "user", "content": f"Question {at}. {request.messages[0]['content']}"}], request.seed)
        for at, request in enumerate(make_requests(40))
    ]
    assert sum(engine.prompt_tokens(request.messages) or 0 for request in requests) > 4096
    whole = engine.generate(requests, SAMPLED)
    parts = [one for start in range(0, 40, 7) for one in engine.generate(requests[start : start + 7], SAMPLED)]
    same = [a.text == b.text for a, b in zip(whole, parts, strict=True)]
    assert sum(same) >= 0.95 * len(same)  # rounding differs with a batch's shape, and may turn a close draw


def test_direct_answers_are_those_of_a_forward_pass(engine: Engine, smollm2: Path, adapter: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.chat import render_prompt
    from benchmarks.models.generation import EMPTY_THOUGHT
    from rewards import LABELS

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    model: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32), str(adapter)
    )
    prompts = [request.messages for request in make_requests(6)]
    first = [tokenizer(str(label), add_special_tokens=False)["input_ids"][0] for label in LABELS]
    for prompt, generation in zip(prompts, engine.answer_directly(prompts), strict=True):
        text = render_prompt(tokenizer, prompt) + EMPTY_THOUGHT
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            p = model(input_ids=ids).logits[0, -1, first].softmax(-1).tolist()
        assert generation.probabilities == pytest.approx(p, abs=1e-3)
        assert (generation.completion_tokens, generation.prompt_tokens) == (1, ids.shape[1])


def test_probabilities_are_the_model_s(engine: Engine, smollm2: Path, adapter: Path) -> None:
    """Against a forward pass over the prompt and the completion up to its label."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.chat import encode_prompt
    from rewards import LABELS

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    model: Any = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32), str(adapter)
    )
    texts = [f"<think>{word}</think><answer>{label}</answer>" for word in ("a", "so it is") for label in LABELS]
    requests = [Request([{"role": "user", "content": f"Repeat this text exactly: {text}"}], 0) for text in texts]
    checked = 0
    for request, generation in zip(requests, engine.generate(requests, GREEDY), strict=True):
        text = generation.text or ""
        found = [text.find(label) for label in LABELS if label in text]
        if not found or "<answer>" in text:  # told apart by tags, the engine looks at a later label
            continue
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        at = next(i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > min(found))
        ids = encode_prompt(tokenizer, request.messages) + encoded["input_ids"][:at]
        with torch.inference_mode():
            p = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
        mass = [0.0, 0.0, 0.0]
        for token in p.topk(20).indices.tolist():
            piece = tokenizer.decode([token]).strip().lower()
            for index, label in enumerate(LABELS):
                if piece and label.startswith(piece):
                    mass[index] += float(p[token])
        assert generation.probabilities is not None
        assert list(generation.probabilities) == pytest.approx([m / sum(mass) for m in mass], abs=1e-3)
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("name", ENGINES)
def test_generation_ends_at_the_model_s_own_stop_ids(name: str, smollm2: Path, tmp_path: Path) -> None:
    """A second end-of-sequence id stands in generation_config.json only."""
    from transformers import AutoTokenizer

    model = tmp_path / "model"
    model.mkdir()
    for file in smollm2.iterdir():
        if file.name != "generation_config.json":
            (model / file.name).symlink_to(file.resolve())
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    (comma,) = tokenizer(",", add_special_tokens=False)["input_ids"]
    config = {"eos_token_id": [tokenizer.eos_token_id, comma], "temperature": 1.9, "do_sample": True, "top_k": 3}
    (model / "generation_config.json").write_text(json.dumps(config))
    opened = open_engine(name, model, max_model_len=512)
    try:
        requests = [
            Request(
                [{"role": "user", "content": "Count: one, two, three, four, five. Write it again, with commas."}], 0
            ),
            Request([{"role": "user", "content": "Say only the word yes."}], 0),
        ]
        protocol = Protocol(data="digest", max_tokens=48)
        listed, _ = first = opened.generate(requests, protocol)
        assert listed.finish_reason == "stop"
        assert "," not in (listed.text or "")
        assert 1 < listed.completion_tokens < 48
        assert opened.generate(requests, protocol) == first  # greedy, whatever the model's own defaults are
    finally:
        opened.close()


@pytest.mark.needs_vllm
def test_vllm_with_the_adapter_beside_the_model(smollm2: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: LoRA applied at run time says what the merged model says."""
    texts = ("Name a gene.", "What does the ribosome do?", "Is TP53 a gene?", "Write one sentence about cells.")
    requests = [Request([{"role": "user", "content": text}], 0) for text in texts]
    protocol = Protocol(data="digest", max_tokens=12)
    answers: list[list[str | None]] = []
    for merged in (False, True):
        monkeypatch.setattr("benchmarks.models.vllm_engine.merges_adapter", lambda config, merged=merged: merged)
        engine = VLLMEngine(smollm2, adapter, dtype="float32", max_model_len=256)
        assert engine.facts()["adapter_merged"] is merged
        answers.append([generation.text for generation in engine.generate(requests, protocol)])
        engine.close()
    plain = VLLMEngine(smollm2, dtype="float32", max_model_len=256)
    without = [generation.text for generation in plain.generate(requests, protocol)]
    plain.close()
    assert answers[0] == answers[1]
    assert answers[0] != without


@pytest.mark.needs_vllm
def test_vllm_reads_a_prompt_once_for_its_direct_answer_and_its_completion(smollm2: Path) -> None:
    """As `scores: both` asks. Whatever was asked before, the same two batches give the same."""
    opened: Any = VLLMEngine(smollm2, dtype="float32", max_model_len=1024)

    def prompts_found_read() -> int:
        hits = [metric.value for metric in opened._llm.get_metrics() if metric.name == "vllm:prefix_cache_hits"]
        return sum(map(int, hits))

    def ask(requests: list[Request]) -> tuple[Any, int]:
        direct = opened.answer_directly([request.messages for request in requests])
        before = prompts_found_read()
        generations = opened.generate(requests, GREEDY)
        return (direct, generations), prompts_found_read() - before

    try:
        first, others = make_requests()[:4], make_requests()[4:8]
        tokens = sum(opened.prompt_tokens(request.messages) for request in first)
        answers, found = ask(first)
        assert found > 0.85 * tokens  # whole blocks of 32 tokens
        ask(others)
        assert ask(first) == (answers, found)
        alone = opened.generate(first, GREEDY)
        assert [generation.text for generation in alone] == [generation.text for generation in answers[1]]
        opened.answer_directly([request.messages for request in first])
        before = prompts_found_read()
        opened.generate(others, GREEDY)
        assert prompts_found_read() - before < 0.85 * tokens  # other prompts, of which a beginning is alike
    finally:
        opened.close()


@pytest.mark.needs_vllm
def test_vllm_that_does_not_start_names_a_remedy(smollm2: Path) -> None:
    with pytest.raises(
        CheckError, match="vllm: does not start .*; set a smaller max_model_len, or engine: transf"
    ) as caught:
        open_engine("vllm", smollm2, max_model_len=10**6)
    assert "\n" not in str(caught.value)


def test_a_think_tag_in_the_prompt_is_put_in_front(tiny_model: Path, tmp_path: Path) -> None:
    """A template that opens the reasoning, as distilled reasoning models have."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path)
    engine = open_engine("transformers", tmp_path)
    requests = [Request([{"role": "user", "content": word}], 0) for word in ("one", "two, which is longer")]
    short, long = engine.generate(requests, Protocol(data="digest", max_tokens=4))
    assert (short.text or "").startswith("<think>\n")
    assert (long.text or "").startswith("<think>\n")
    assert short.finish_reason == "length"
    assert short.completion_tokens == 4
    assert engine.context == 1024
