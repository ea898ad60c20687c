"""What stage one learns: each example is prompt + completion, and what would train the wrong tokens is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.chat import encode_prompt, prefilled_think, render_prompt
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.runs import open_run
from rewards import LABELS, CheckError, InputError, parse_answer
from sft.teacher.template import generate
from sft.traces import write_traces
from sft.train import (
    IGNORE,
    check_labels,
    check_steps,
    draw_traces,
    load_tokenizer,
    log_callback,
    read_arguments,
    tokenize_trace,
    tokenize_traces,
    train,
    without_reasoning,
)

PREFILLED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return load_tokenizer(smollm2)


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


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(fraction):
    config = {
        "output_dir": "x", "traces": "x", "model_name_or_path": "x", "use_peft": True, "max_length": 512, "bf16": False,
        "traces_fraction": fraction,
    }  # fmt: skip
    with pytest.raises(InputError, match="traces_fraction: .*above 0 and at most at 1"):
        read_arguments(config)


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
def test_a_think_tag_that_is_one_token_is_learnt_as_one(smollm2, trace, template):
    """As in DeepSeek's and Qwen's vocabularies: an added token, but no special one."""
    tokenizer = load_tokenizer(smollm2)
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


def with_answer(trace, label):
    return replace(trace, completion=f"<think>a</think><answer>{label}</answer>", answer=label)


@pytest.mark.parametrize(
    ("change", "keys", "problem"),
    [
        (lambda one: with_answer(one, other_label(one)), {}, "2 of 4 traces give a wrong answer, the first {first};"),
        (lambda one: with_answer(one, other_label(one)), {"keep_wrong": True}, None),
        (lambda one: with_answer(one, other_label(one)), {"answer_only": True}, None),
        (lambda one: with_answer(one, one.label), {}, None),
        (lambda one: replace(one, completion="Sure! " + one.completion, answer=None), {"keep_wrong": True},
         "2 of 4 traces give no answer, the first {first};"),
        (lambda one: replace(one, completion="Sure! " + one.completion, answer=""), {"keep_wrong": True},
         "2 of 4 traces give no answer, the first {first};"),
        (lambda one: replace(one, completion="Sure! " + one.completion, answer=None), {"answer_only": True}, None),
    ],
    ids=["wrong", "wrong kept", "wrong, answer only", "right", "none", "empty", "none, answer only"],
)  # fmt: skip
def test_stage_one_refuses_traces_without_the_right_answer(tiny_model, tmp_path, change, keys, problem):
    corpus = open_corpus("sample")
    traces = generate(corpus.train.head(4), corpus, PromptConfig(evidence=3), seed=0)
    write_traces([*traces[:2], *map(change, traces[2:])], tmp_path / "t.jsonl")
    config = {"output_dir": str(tmp_path / "run"), "traces": str(tmp_path / "t.jsonl"), "data": "sample",
              "model_name_or_path": str(tiny_model), "use_peft": True, "bf16": False, "use_cpu": True}  # fmt: skip
    with pytest.raises(InputError) as error:
        train({**config, **keys, "max_length": 4})  # taken traces are stopped by their length
    wanted = "have more than max_length 4" if problem is None else problem.format(first=traces[2].item_id)
    assert wanted in str(error.value)
    assert not (tmp_path / "run").exists()


def other_label(trace):
    return next(str(label) for label in LABELS if str(label) != trace.label)


@pytest.mark.parametrize("place", ["completion", "prompt"])
def test_a_lone_surrogate_is_refused_in_one_line(tokenizer, trace, place):
    text = "a\ud800b"
    change = {
        "completion": {"completion": f"<think>{text}</think><answer>upregulated</answer>"},
        "prompt": {"prompt": [{"role": "user", "content": text}]},
    }[place]
    with pytest.raises(InputError, match="lone surrogate"):
        tokenize_traces(tokenizer, [replace(trace, **change)], 512)


def test_packing_that_cuts_examples_is_refused(tmp_path):
    config = {"output_dir": str(tmp_path / "run"), "traces": "t", "use_peft": True, "max_length": 512, "packing": True,
              "packing_strategy": "wrapped", "use_cpu": True, "bf16": False, "model_name_or_path": "m"}  # fmt: skip
    with pytest.raises(InputError, match="cuts examples in two; use bfd"):
        train(config)


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


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, None),
        ({"logging_steps": 11}, "logging_steps: 11, but there are 10 steps"),
        ({"logging_steps": 11, "batches": 21}, None),
        ({"logging_steps": 12, "batches": 21}, "logging_steps: 12, but there are 11 steps"),
        ({"warmup_steps": 10}, "warmup_steps: 10, but there are 10 steps"),
        ({"max_steps": 4}, "logging_steps: 5, but there are 4 steps"),
        ({"num_train_epochs": 0.3}, "but there are 3 steps"),
    ],
)
def test_too_few_steps_are_refused_before_training(keys, problem):
    values = {"logging_steps": 5, "warmup_steps": 2, "max_steps": -1, "num_train_epochs": 1.0, "batches": 20, **keys}
    args = SimpleNamespace(gradient_accumulation_steps=2, **values)
    trainer = SimpleNamespace(args=args, get_train_dataloader=lambda: range(args.batches))
    if problem is None:
        check_steps(trainer)
        return
    with pytest.raises(InputError, match=problem):
        check_steps(trainer)


def test_a_template_of_its_own_for_training_is_refused():
    config = {"output_dir": "x", "traces": "x", "model_name_or_path": "x", "use_peft": True, "max_length": 512,
              "bf16": False, "chat_template_path": "x.jinja"}  # fmt: skip
    with pytest.raises(InputError, match="chat_template_path: is not taken"):
        read_arguments(config)


def test_tags_that_are_special_tokens_are_refused(smollm2, tmp_path):
    from transformers import AutoTokenizer

    changed = AutoTokenizer.from_pretrained(smollm2)
    changed.add_special_tokens({"additional_special_tokens": ["</think>"]})
    changed.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="</think> is a special token"):
        load_tokenizer(tmp_path)


def test_a_setting_that_is_refused_late_is_one_line_and_can_be_corrected(tiny_model, trace, tmp_path):
    write_traces([trace], tmp_path / "t.jsonl")
    config = {"output_dir": str(tmp_path / "run"), "traces": str(tmp_path / "t.jsonl"), "data": "sample",
              "model_name_or_path": str(tiny_model), "use_peft": True, "max_length": 512, "bf16": False,
              "use_cpu": True, "logging_steps": 1, "lora_target_modules": ["all-linear"]}  # fmt: skip
    for keys, problem in (
        ({"dtype": "float33"}, "dtype: 'float33' is unknown; use one of auto, float32"),
        ({"lora_target_modules": ["nope"]}, "configuration: Target modules nope not found"),
        ({"attn_implementation": "nope"}, 'configuration: Specified `attn_implementation="nope"`'),
        ({"logging_steps": 500}, "logging_steps: 500, but there are 3 steps"),
    ):
        with pytest.raises(InputError) as error:
            train({**config, **keys})
        assert str(error.value).startswith(problem)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_another_base_model_under_the_same_path_is_refused(tiny_model, trace, tmp_path, stage):
    from rl.train import train as train_grpo

    model, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(tiny_model, model)
    config = {"output_dir": str(out), "model_name_or_path": str(model), "bf16": False, "use_cpu": True}
    if stage == "sft":
        write_traces([trace], tmp_path / "t.jsonl")
        config |= {"traces": str(tmp_path / "t.jsonl"), "data": "sample", "use_peft": True, "max_length": 512,
                   "logging_steps": 500}  # fmt: skip
    else:
        open_run(tmp_path / "sft", "sft", {}).finish(adapter_sha256="abc")
        config |= {"sft_run": str(tmp_path / "sft"), "data": "sample"}
    run_stage = train if stage == "sft" else train_grpo
    with pytest.raises(InputError, match="logging_steps" if stage == "sft" else "adapter_config"):
        run_stage(config)  # begins a run, and stops at something else
    (out / "log.jsonl").write_text("{}\n")
    values = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**values, "rope_theta": 1.0}))
    with pytest.raises(InputError, match=r"other files \(changed since: model_name_or_path: .*model\)"):
        run_stage(config)


def test_a_wrong_path_leaves_no_run_folder(tmp_path):
    config = {"output_dir": str(tmp_path / "run"), "traces": str(tmp_path / "t.jsonl"), "model_name_or_path": "x",
              "use_peft": True, "max_length": 512, "bf16": False, "use_cpu": True}  # fmt: skip
    with pytest.raises(InputError, match=r"t\.jsonl: no such file"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_the_log_is_written_as_the_run_goes_and_a_resumed_run_has_each_entry_once(tmp_path):
    def log(callback, state, step):
        state.log_history.append({"loss": 1.0, "step": step})
        callback.on_log(None, state, None)

    def steps():
        return [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    state = SimpleNamespace(is_world_process_zero=True, log_history=[])
    callback = log_callback(tmp_path)
    callback.on_train_begin(None, state, None)
    for step in (1, 2, 3):
        log(callback, state, step)
        assert steps() == list(range(1, step + 1))
    state.log_history = state.log_history[:2]  # resumed from the checkpoint of step 2
    callback.on_train_begin(None, state, None)
    log(callback, state, 3)
    assert steps() == [1, 2, 3]
    other = SimpleNamespace(is_world_process_zero=False, log_history=[])
    callback.on_train_begin(None, other, None)
    log(callback, other, 9)
    assert steps() == [1, 2, 3]
