"""Rendering a prompt once, the same way for SFT, rollouts and evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, str]
THINK = "<think>"


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
