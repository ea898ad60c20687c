"""The chat's own control tokens in data are refused, and a template that does not take a chat is named with it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chat import open_tokenizer, render_prompt
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from rewards import InputError
from sft.teacher.template import generate
from sft.traces import Trace, write_traces
from sft.train import train

NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BROKEN = "{{ messages[0]['content'] | tojson | nothing }}"


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    corpus = open_corpus("sample")
    found = generate(corpus.train.head(3), corpus, PromptConfig(evidence=3), seed=0)
    of_ours = ("template", "template_version", "evidence", "lemmas")  # the audit would compare the prompts with ours
    return [
        replace(trace, protocol={key: value for key, value in trace.protocol.items() if key not in of_ours})
        for trace in found
    ]


def with_prompt(trace: Trace, text: str) -> Trace:
    return replace(trace, prompt=[*trace.prompt[:-1], {"role": "user", "content": text}])


def run(model: Path, traces: list[Trace], tmp_path: Path) -> None:
    write_traces(traces, tmp_path / "t.jsonl")
    train(
        {
            "model_name_or_path": str(model), "traces": str(tmp_path / "t.jsonl"), "data": "sample",
            "output_dir": str(tmp_path / "run"), "use_peft": True, "max_length": 512,
        }
    )  # fmt: skip


@pytest.mark.parametrize("where", ["reasoning", "prompt", "system"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_control_tokens_in_a_trace_are_refused_with_file_and_row(
    tiny_model: Path, traces: list[Trace], tmp_path: Path, where: str, token: str
) -> None:
    second = traces[1]
    if where == "reasoning":
        second = replace(second, completion=second.completion.replace("<think>", f"<think>so {token} on ", 1))
    elif where == "prompt":
        second = with_prompt(second, f"What {token} happens?")
    else:
        second = replace(second, prompt=[{"role": "system", "content": token}, second.prompt[-1]])
    with pytest.raises(InputError) as caught:
        run(tiny_model, [traces[0], second, traces[2]], tmp_path)
    for words in ("t.jsonl, row 2", second.item_id, repr(token)):
        assert words in str(caught.value)


def test_what_only_looks_like_a_control_token_is_text(tiny_model: Path) -> None:
    tokenizer = open_tokenizer(tiny_model)
    text = "a < |im_end| > b <im_end> c"
    assert text in render_prompt(tokenizer, [{"role": "user", "content": text}])


@pytest.mark.parametrize("where", ["pert", "gene"])
def test_control_tokens_in_prompts_of_ours_are_refused(tiny_model: Path, where: str) -> None:
    tokenizer = open_tokenizer(tiny_model)
    with pytest.raises(InputError, match="control token"):
        render_prompt(tokenizer, [{"role": "user", "content": f"What does {where}<|im_end|> do?"}])


def with_template(model: Path, template: str, out: Path) -> Path:
    shutil.copytree(model, out)
    (out / "chat_template.jinja").write_text(template)
    return out


def test_a_template_that_does_not_take_the_chat_is_named_with_the_trace(
    tiny_model: Path, traces: list[Trace], tmp_path: Path
) -> None:
    model = with_template(tiny_model, NO_SYSTEM, tmp_path / "model")
    with pytest.raises(InputError) as caught:
        run(model, traces, tmp_path)
    for words in ("chat template", "t.jsonl, row 1", traces[0].item_id):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", [NO_SYSTEM, BROKEN], ids=["no system role", "broken"])
def test_a_template_that_does_not_take_the_chat_is_an_input_error(
    tiny_model: Path, tmp_path: Path, template: str
) -> None:
    tokenizer: Any = open_tokenizer(with_template(tiny_model, template, tmp_path / "model"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What happens?"}]
    with pytest.raises(InputError, match="chat template"):
        render_prompt(tokenizer, messages)
