"""A tokenizer gives back the text it was given, whatever class its folder names; messages are read alike everywhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase

from benchmarks.chat import encode_prompt, open_tokenizer, read_message, read_messages
from benchmarks.models.engines import TransformersEngine
from rewards import InputError
from sft.training import load_tokenizer

MESSAGES = [{"role": "user", "content": "Does AARS  change\n\nCALR?"}]
END = {"content": "<|im_end|>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


@pytest.fixture
def misnamed(tiny_model: Path, tmp_path: Path) -> Path:
    """A model whose byte-level tokenizer.json is said to be Llama's, with the fields of DeepSeek-R1-Distill-Llama."""
    path = tmp_path / "misnamed"
    shutil.copytree(tiny_model, path)
    values: dict[str, Any] = {
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "legacy": True,
        "model_max_length": 16384, "sp_model_kwargs": {}, "unk_token": None, "tokenizer_class": "LlamaTokenizerFast",
        **{f"{name}_token": {"__type": "AddedToken", **END} for name in ("bos", "eos", "pad")},
    }  # fmt: skip
    (path / "tokenizer_config.json").write_text(json.dumps(values))
    return path


def test_the_tokenizer_file_decides_where_the_class_reads_text_otherwise(misnamed: Path, smollm2: Path) -> None:
    from transformers import AutoTokenizer

    right, wrong = open_tokenizer(smollm2), AutoTokenizer.from_pretrained(misnamed)
    assert encode_prompt(wrong, MESSAGES) != encode_prompt(right, MESSAGES)
    for tokenizer in (open_tokenizer(misnamed), load_tokenizer(misnamed)):
        assert encode_prompt(tokenizer, MESSAGES) == encode_prompt(right, MESSAGES)
        assert tokenizer.chat_template == right.chat_template
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
        assert tokenizer.padding_side == wrong.padding_side


def test_an_engine_reads_text_as_the_tokenizer_file_does(misnamed: Path, smollm2: Path) -> None:
    engine = TransformersEngine(misnamed)
    assert engine.prompt_tokens(MESSAGES) == len(encode_prompt(open_tokenizer(smollm2), MESSAGES))
    engine.close()


def test_a_tokenizer_that_loses_text_is_refused_by_the_model_s_name(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "lossy"
    shutil.copytree(tiny_model, path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.normalizer = Lowercase()
    tokenizer.save(str(path / "tokenizer.json"))
    for load in (load_tokenizer, TransformersEngine):
        with pytest.raises(InputError, match=r"lossy: its tokenizer reads 'a b  c\\nD' as 'a b  c\\nd'; use a model"):
            load(path)


def test_a_folder_without_a_tokenizer_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(InputError, match="its tokenizer does not load") as error:
        open_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


ASKED = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("message", "role", "text", "reasoning"),
    [
        ({"role": "assistant", "content": "a"}, "assistant", "a", None),
        ({"from": "gpt", "value": "a"}, "assistant", "a", None),
        ({"role": "assistant", "content": "a", "reasoning": "r"}, "assistant", "a", "r"),
        ({"role": "assistant", "content": None, "reasoning_content": "r"}, "assistant", None, "r"),
        ({"role": "assistant", "content": "a", "reasoning": None, "reasoning_content": "r"}, "assistant", "a", "r"),
        ({"role": "assistant", "content": "a", "reasoning": 5}, "assistant", "a", None),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            "user",
            "ab",
            None,
        ),
        ({"role": "tool", "content": "a"}, None, "a", None),
        ({"content": 5}, None, None, None),
        ({}, None, None, None),
    ],
)
def test_a_message_is_read_alike_from_servers_and_files(
    message: dict[str, Any], role: str | None, text: str | None, reasoning: str | None
) -> None:
    found = read_message(message)
    assert (found.role, found.text, found.reasoning, found.only_text) == (role, text, reasoning, True)


@pytest.mark.parametrize("part", [{"type": "image"}, None, 5, {"type": "text", "text": None}])
def test_a_part_that_is_no_text_is_told(part: Any) -> None:
    found = read_message({"role": "user", "content": [{"type": "text", "text": "a"}, part]})
    assert (found.text, found.only_text) == ("a", False)
    with pytest.raises(ValueError, match="a message has no role or no text"):
        read_messages([{"role": "user", "content": [part]}])


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_the_thinking_of_a_reply_in_a_file_becomes_its_think_block(key: str) -> None:
    reply = {"role": "assistant", "content": "<answer>a</answer>", key: "so"}
    wanted = [ASKED, {"role": "assistant", "content": "<think>so</think><answer>a</answer>"}]
    assert read_messages([ASKED, reply]) == wanted
    assert read_messages(json.dumps([ASKED, reply])) == wanted
    assert read_messages([{**ASKED, key: "so"}]) == [ASKED]  # what a user thinks is no reply's


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[{", "no JSON list"), ({"role": "user"}, "no list"), ([], "no list"), (5, "no list"),
        (["text"], "no role or no text"), ([{"role": "tool", "content": "a"}], "no role or no text"),
        ([{"role": "user"}], "no role or no text"),
    ],
)  # fmt: skip
def test_what_is_no_chat_is_refused(value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_messages(value)
