"""What stage one refuses before it trains: settings, traces and models that would not do what they say."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.runs import open_run
from rewards import LABELS, InputError
from sft.teacher.template import generate
from sft.traces import write_traces
from sft.train import check_steps, read_arguments, train


@pytest.fixture(scope="module")
def trace():
    corpus = open_corpus("sample")
    return generate(corpus.train.head(1), corpus, PromptConfig(evidence=3), seed=0)[0]


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(fraction):
    config = {
        "output_dir": "x", "traces": "x", "model_name_or_path": "x", "use_peft": True, "max_length": 512, "bf16": False,
        "traces_fraction": fraction,
    }  # fmt: skip
    with pytest.raises(InputError, match="traces_fraction: .*above 0 and at most at 1"):
        read_arguments(config)


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


def test_packing_that_cuts_examples_is_refused(tmp_path):
    config = {"output_dir": str(tmp_path / "run"), "traces": "t", "use_peft": True, "max_length": 512, "packing": True,
              "packing_strategy": "wrapped", "use_cpu": True, "bf16": False, "model_name_or_path": "m"}  # fmt: skip
    with pytest.raises(InputError, match="cuts examples in two; use bfd"):
        train(config)


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


@pytest.mark.parametrize("given", [{}, {"traces": "t.jsonl", "labels_of": "runs/grpo"}])
def test_traces_or_the_labels_of_a_run_are_learnt_not_both(given):
    with pytest.raises(InputError, match="traces: give a file of traces, or labels_of and a GRPO run; not both"):
        read_arguments({"output_dir": "o", "model_name_or_path": "m", "use_peft": True, "bf16": False, **given})


def test_a_template_of_its_own_for_training_is_refused():
    config = {"output_dir": "x", "traces": "x", "model_name_or_path": "x", "use_peft": True, "max_length": 512,
              "bf16": False, "chat_template_path": "x.jinja"}  # fmt: skip
    with pytest.raises(InputError, match="chat_template_path: is not taken"):
        read_arguments(config)


def test_a_setting_that_is_refused_late_is_one_line_and_can_be_corrected(tiny_model, trace, tmp_path):
    write_traces([trace], tmp_path / "t.jsonl")
    config = {"output_dir": str(tmp_path / "run"), "traces": str(tmp_path / "t.jsonl"), "data": "sample",
              "model_name_or_path": str(tiny_model), "use_peft": True, "max_length": 512, "bf16": False,
              "use_cpu": True, "logging_steps": 1, "lora_target_modules": ["all-linear"]}  # fmt: skip
    for keys, problem in (
        ({"dtype": "float33"}, "dtype: 'float33' is unknown; use one of auto, float32"),
        ({"lora_target_modules": ["nope"]}, "configuration: Target modules nope not found"),
        ({"attn_implementation": "nope"}, 'configuration: Specified `attn_implementation="nope"`'),
        ({"lora_modules_to_save": ["lm_head"]}, "lora_modules_to_save: the base model's input and output embeddings"),
        ({"lora_modules_to_save": ["embed_tokens"]}, "lora_modules_to_save: the base model's input and output"),
        ({"lora_target_modules": ["q_proj", "lm_head"]}, "configuration: Applying a PEFT adapter to `lm_head` is not"),
        ({"lora_target_modules": ["q_proj", "embed_tokens"]}, "lora_target_modules: the base model's input and output"),
        (
            {"lora_target_modules": ["q_proj"], "lora_target_parameters": ["mlp.up_proj.weight"], "lora_dropout": 0.0},
            "lora_target_parameters: vLLM cannot be sent",
        ),
        ({"logging_steps": 500}, "logging_steps: 500, but there are 3 steps"),
    ):
        with pytest.raises(InputError) as error:
            train({**config, **keys})
        assert str(error.value).startswith(problem)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_another_base_model_under_the_same_path_is_refused(tiny_model, trace, tmp_path, stage):
    from rl.train import read_stage
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
    if stage == "sft":
        with pytest.raises(InputError, match="logging_steps"):
            run_stage(config)  # begins a run, and stops at something else
    else:
        read = read_stage(config)
        open_run(out, "grpo", read.settings(), read.inputs())
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
