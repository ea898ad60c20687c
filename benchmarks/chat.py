"""Rendering a prompt once, the same way for SFT, rollouts and evaluation."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

Message = Mapping[str, str]
THINK = "<think>"
_BLOCK: Final = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


def split_think(text: str) -> tuple[str | None, str]:
    """Return the think block that a text begins with, without its tags, and the rest; None where there is none."""
    match = _BLOCK.match(text)
    return (match[1], text[match.end() :]) if match else (None, text)


def join_think(own: str, text: str) -> str:
    """Return a text whose think block begins with a model's own thinking, which came apart from it.

    Args:
        own: the thinking.
        text: the rest, with the think block that the prompt asked for, or without one.
    """
    written, rest = split_think(text)
    written = (written or "").strip()
    return f"{THINK}{own.strip()}{chr(10) * 2 if written else ''}{written}</think>{rest.strip()}"


def without_surrogates(text: str) -> str:
    """Return the text with a replacement character for each lone surrogate, which UTF-8 cannot hold."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return the text a model continues: the chat template with its generation prompt.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: `{"role", "content"}` each, the last one from the user.
    """
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    if not isinstance(text, str):
        raise TypeError(f"chat template rendered {type(text).__name__}, not text")
    return text


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the token ids of `render_prompt`; the template itself brings all special tokens."""
    return list(tokenizer(render_prompt(tokenizer, messages), add_special_tokens=False)["input_ids"])


def prefilled_think(prompt: str) -> str:
    """Return the opening think tag, with its white space, that a chat template put at the end of `prompt`, or "".

    Templates of reasoning models (DeepSeek-R1 distills) end the generation prompt in `<think>`; what the model
    writes then starts inside it. Completions are stored and scored with the tag in front.
    """
    stripped = prompt.rstrip()
    return prompt[len(stripped) - len(THINK) :] if stripped.endswith(THINK) else ""
