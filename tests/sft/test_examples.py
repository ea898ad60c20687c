"""What stage one learns: each example is prompt + completion, and what would train the wrong tokens is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.chat import encode_prompt, prefilled_think, render_prompt
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from rewards import CheckError, InputError, parse_answer
from sft.examples import IGNORE, check_labels, draw_traces, tokenize_trace, tokenize_traces, without_reasoning
from sft.teacher.template import generate
from sft.training import load_tokenizer

PREFILLED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer):
    return load_tokenizer(tiny_tokenizer)


@pytest.fixture(scope="module")
def trace():
    corpus = open_corpus("sample")
    return generate(corpus.train.head(1), corpus, PromptConfig(evidence=3), seed=0)[0]


@pytest.mark.parametrize("template", [None, PREFILLED], ids=["plain", "prefilled think"])
def test_example_is_prompt_plus_completion_with_one_pair_of_tags(tokenizer, trace, template, monkeypatch):
    if template:
        monkeypatch.setattr(tokenizer, "chat_template", template)
    example = tokenize_trace(tokenizer, trace)
    prompt = render_prompt(tokenizer, trace.prompt)
    text = tokenizer.decode(example.input_ids, clean_up_tokenization_spaces=False)
    assert text.startswith(prompt) and text.endswith("</answer><|im_end|>")
    asked = prompt.count("<think>") - (template is not None)  # the instruction names the tags once
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert text.count(tag) == 1 + asked
    learnt = [t for t, m in zip(example.input_ids, example.completion_mask, strict=True) if m]
    wanted = trace.completion.removeprefix("<think>") if template else trace.completion
    assert tokenizer.decode(learnt, clean_up_tokenization_spaces=False) == wanted + "<|im_end|>"
    assert learnt[-1] == tokenizer.eos_token_id


def test_end_of_turn_is_what_the_chat_template_writes(tokenizer):
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": "<think>a<think>b</think><answer>upregulated</answer>"}, "2 times <think>"),
        ({"completion": "<answer>upregulated</answer>"}, "0 times"),
        ({"completion": "<think>" + "word " * 600 + "</think><answer>upregulated</answer>"}, "max_length"),
    ],
)
def test_refused_traces(tokenizer, trace, change, message):
    with pytest.raises(InputError, match=message):
        tokenize_traces(tokenizer, [replace(trace, **change)], 512)


def stub(example, labels):
    import torch

    batch = {"input_ids": torch.tensor([example.input_ids]), "labels": torch.tensor([labels])}
    return SimpleNamespace(args=SimpleNamespace(packing=False), train_dataset=[0], data_collator=lambda rows: batch)


def test_wrong_masks_stop_before_training(tokenizer, trace):
    example = tokenize_trace(tokenizer, trace)
    start = example.completion_mask.index(1)
    right = [IGNORE] * start + example.input_ids[start:]
    check_labels(stub(example, right), tokenizer, [example])
    for labels, message in (
        ([IGNORE] * len(right), "mask is empty"),
        ([*right[:-1], IGNORE], "not learnt"),
        (list(example.input_ids), "not the completion's"),
    ):
        with pytest.raises(CheckError, match=message):
            check_labels(stub(example, labels), tokenizer, [example])


def some_traces(trace, n):
    return [replace(trace, item_id=str(i)) for i in range(n)]


@pytest.mark.parametrize(("fraction", "n"), [(1.0, 50), (0.5, 25), (0.02, 1), (0.001, 1), (0.09, 4)])
def test_a_share_of_the_traces_is_drawn_in_their_order(trace, fraction, n):
    drawn = [int(one.item_id) for one in draw_traces(some_traces(trace, 50), fraction, seed=3)]
    assert len(drawn) == n
    assert drawn == sorted(set(drawn))


def test_the_draw_follows_the_seed_and_a_larger_share_holds_the_smaller(trace):
    traces = some_traces(trace, 50)
    tenth, half, other = (
        {one.item_id for one in draw_traces(traces, fraction, seed)}
        for fraction, seed in ((0.1, 0), (0.5, 0), (0.1, 1))
    )
    assert tenth < half
    assert tenth != other
    assert draw_traces(traces, 0.1, 0) == draw_traces(traces, 0.1, 0)


def shipped_template(name: str) -> str:
    """A model family's own chat template, as TRL ships it."""
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("template", "prefilled"),
    [("deepseek_r1_distill", True), ("qwen3_5_think", True), ("qwen3", False), ("llama3", False), ("SmolLM2's", False)],
)
@pytest.mark.parametrize("short", [False, True], ids=["reasoning", "answer only"])
def test_rendered_example_equals_generation_prompt_plus_completion(
    tokenizer, trace, template, prefilled, short, monkeypatch
):
    """Templates that drop or move the reasoning of past turns must not touch what is learnt."""
    if template != "SmolLM2's":
        monkeypatch.setattr(tokenizer, "chat_template", shipped_template(template))
    example = tokenize_trace(tokenizer, without_reasoning(trace) if short else trace)
    prompt = render_prompt(tokenizer, trace.prompt)
    assert prompt.rstrip().endswith("<think>") == prefilled
    wanted = f"<think></think><answer>{trace.label}</answer>" if short else trace.completion
    learnt = wanted.removeprefix("<think>") if prefilled else wanted
    text = tokenizer.decode(example.input_ids, clean_up_tokenization_spaces=False)
    assert text == prompt + learnt + tokenizer.eos_token
    start = example.completion_mask.index(1)
    assert example.input_ids[:start] == encode_prompt(tokenizer, trace.prompt)
    assert tokenizer.decode(example.input_ids[:start], clean_up_tokenization_spaces=False) == prompt
    assert parse_answer(prefilled_think(prompt) + learnt).label == trace.label


@pytest.mark.parametrize("template", ["deepseek_r1_distill", "qwen3"])
def test_a_think_tag_that_is_one_token_is_learnt_as_one(tiny_tokenizer, trace, template):
    """As in DeepSeek's and Qwen's vocabularies: an added token, but no special one."""
    tokenizer = load_tokenizer(tiny_tokenizer)
    tokenizer.add_tokens(["<think>", "</think>"])
    opening, closing = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    tokenizer.chat_template = shipped_template(template)
    example = tokenize_trace(tokenizer, trace)
    start = example.completion_mask.index(1)
    assert example.input_ids[:start] == encode_prompt(tokenizer, trace.prompt)
    learnt = example.input_ids[start:]
    assert learnt.count(opening) == (template == "qwen3")
    assert learnt.count(closing) == 1
    completion = trace.completion.removeprefix("<think>") if template != "qwen3" else trace.completion
    assert tokenizer.decode(learnt, clean_up_tokenization_spaces=False) == completion + tokenizer.eos_token


@pytest.mark.parametrize("before", ["", "\n"])
@pytest.mark.parametrize("after", ["", "\n", " \n\n"])
def test_white_space_around_a_think_tag_that_the_prompt_opens(tokenizer, trace, before, after, monkeypatch):
    """The prompt ends in the tag and its line end: another one would not be what the model writes on."""
    monkeypatch.setattr(tokenizer, "chat_template", PREFILLED)
    text = f"{before}<think>{after}so</think><answer>{trace.label}</answer>"
    assert str(parse_answer(text).label) == trace.label
    example = tokenize_trace(tokenizer, replace(trace, completion=text))
    learnt = example.input_ids[example.completion_mask.index(1) :]
    assert tokenizer.decode(learnt) == f"so</think><answer>{trace.label}</answer><|im_end|>"


def test_answer_only_learns_the_true_label_whatever_the_teacher_said(trace):
    wrong = replace(trace, completion="<think>a</think><answer>downregulated</answer>", answer="downregulated")
    short = without_reasoning(replace(wrong, label="upregulated"))
    assert short.completion == "<think></think><answer>upregulated</answer>"
    assert parse_answer(short.completion).label == short.answer == "upregulated"


@pytest.mark.parametrize("place", ["completion", "prompt"])
def test_a_lone_surrogate_is_refused_in_one_line(tokenizer, trace, place):
    text = "a\ud800b"
    change = {
        "completion": {"completion": f"<think>{text}</think><answer>upregulated</answer>"},
        "prompt": {"prompt": [{"role": "user", "content": text}]},
    }[place]
    with pytest.raises(InputError, match="lone surrogate"):
        tokenize_traces(tokenizer, [replace(trace, **change)], 512)


def test_traces_that_are_too_long_are_counted(tokenizer, trace):
    long = replace(trace, completion="<think>" + "word " * 600 + "</think><answer>upregulated</answer>")
    with pytest.raises(InputError, match=r"2 of 3 traces have more than max_length 512 tokens \(the longest \d+\)"):
        tokenize_traces(tokenizer, [trace, long, long], 512)


def packed(tokenizer, rows):
    return SimpleNamespace(args=SimpleNamespace(packing=True), train_dataset={"labels": rows})


def test_packed_completions_must_be_learnt_as_they_are(tokenizer, trace):
    example = tokenize_trace(tokenizer, trace)
    start = example.completion_mask.index(1)
    labels = [IGNORE] * start + example.input_ids[start:]
    check_labels(packed(tokenizer, [labels + labels]), tokenizer, [example, example])
    swapped = [*labels[:-3], labels[-2], labels[-3], labels[-1]]  # as many tokens, the same end
    for rows in ([labels], [labels + swapped], [labels + labels[:-1]], [labels + labels, labels]):
        with pytest.raises(CheckError, match="packing"):
            check_labels(packed(tokenizer, rows), tokenizer, [example, example])
