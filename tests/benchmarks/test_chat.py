"""A tokenizer gives back the text it was given, whatever class its folder names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase

from benchmarks.chat import encode_prompt, open_tokenizer, render_prompt
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


def test_the_tokenizer_file_decides_where_the_class_reads_text_otherwise(misnamed: Path, tiny_tokenizer: Path) -> None:
    from transformers import AutoTokenizer

    right, wrong = open_tokenizer(tiny_tokenizer), AutoTokenizer.from_pretrained(misnamed)
    assert encode_prompt(wrong, MESSAGES) != encode_prompt(right, MESSAGES)
    for tokenizer in (open_tokenizer(misnamed), load_tokenizer(misnamed)):
        assert encode_prompt(tokenizer, MESSAGES) == encode_prompt(right, MESSAGES)
        assert tokenizer.chat_template == right.chat_template
        assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
        assert tokenizer.padding_side == wrong.padding_side


def test_an_engine_reads_text_as_the_tokenizer_file_does(misnamed: Path, tiny_tokenizer: Path) -> None:
    engine = TransformersEngine(misnamed)
    assert engine.prompt_tokens(MESSAGES) == len(encode_prompt(open_tokenizer(tiny_tokenizer), MESSAGES))
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


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TURN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
USERS_ALONE = MISTRAL.replace("{% else %}", "{% else %}{{ raise_exception('no such role') }}")


@pytest.fixture
def with_template(tiny_model: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The tiny model's tokenizer with another chat template."""
    path = tmp_path / "other"
    shutil.copytree(tiny_model, path)

    def write(template: str) -> Path:
        (path / "chat_template.jinja").write_text(template)
        return path

    return write


@pytest.mark.parametrize(
    "template", [CHATML, "{{ messages[0].content }}\n{% if messages[1] %}Answer: {{ messages[1].content }}{% endif %}"]
)
def test_a_template_that_never_says_whose_turn_it_is_is_refused(
    template: str, with_template: Callable[[str], Path]
) -> None:
    with pytest.raises(InputError, match="its chat template ignores add_generation_prompt"):
        open_tokenizer(with_template(template))


@pytest.mark.parametrize("template", [CHATML + TURN, CHATML + TURN + "<think>\n", MISTRAL, USERS_ALONE])
def test_templates_that_say_it_in_their_own_way_are_taken(template: str, with_template: Callable[[str], Path]) -> None:
    tokenizer = open_tokenizer(with_template(template))
    assert "What happens?" in render_prompt(tokenizer, [{"role": "user", "content": "What happens?"}])


FAULTY = {
    "TypeError": "{{ messages[0].content + 1 }}",
    "ValueError": "{{ messages[0].content.index('no such words') }}",
    "AttributeError": "{{ messages[0].content | map(attribute=1) | sum }}",
    "ZeroDivisionError": "{{ 1 / 0 }}",
    "a template's own": "{{ raise_exception('no') }}",
}


@pytest.mark.parametrize("kind", FAULTY)
def test_what_a_template_raises_is_told_as_its_fault(kind: str, with_template: Callable[[str], Path]) -> None:
    tokenizer = open_tokenizer(with_template(FAULTY[kind]))
    with pytest.raises(InputError, match="its chat template does not take a chat of"):
        render_prompt(tokenizer, MESSAGES)


@pytest.mark.parametrize("end", ["<think>\n\n</think>\n\n", "<think></think>", "<think>No need.</think>"])
def test_training_refuses_a_template_that_closes_the_think_block(
    end: str, with_template: Callable[[str], Path]
) -> None:
    path = with_template(CHATML + TURN.replace("{% endif %}", end + "{% endif %}"))
    assert render_prompt(open_tokenizer(path), MESSAGES).endswith(end)  # asked as it is, it may be evaluated
    with pytest.raises(InputError, match="ends the prompt in a closed think block.*; change chat_template"):
        load_tokenizer(path)
