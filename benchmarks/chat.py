"""A model's tokenizer and its prompts, the same in SFT, rollouts and evaluation."""

import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from rewards import InputError
from rewards.answer import TAGS

Message = Mapping[str, str]
THINK = "<think>"
_PROBE: Final = "a b  c\nD"  # a wrong pre-tokenizer loses white space
_TODAY: Final = re.compile(r"\bstrftime_now\s*\(")  # the function that gives chat templates the date
_logger = logging.getLogger("synthpert.chat")
_BLOCK: Final = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


def split_think(text: str) -> tuple[str | None, str]:
    """Return the think block at the beginning of a text, without its tags (None if there is none), and the rest."""
    match = _BLOCK.match(text)
    return (match[1], text[match.end() :]) if match else (None, text)


def join_think(own: str, text: str) -> str:
    """Put a model's own thinking, which a server returned separately, at the beginning of a text's think block.

    Args:
        own: the thinking.
        text: the rest, with or without the think block that the prompt asked for. A block that repeats `own` is left
            out.

    Returns:
        The completion with one think block.
    """
    written, rest = split_think(text)
    thoughts = dict.fromkeys(one for one in (own.strip(), (written or "").strip()) if one)
    return f"{THINK}{(chr(10) * 2).join(thoughts)}</think>{rest.strip()}"


def without_surrogates(text: str) -> str:
    """Return the text with a replacement character for each lone surrogate, which UTF-8 cannot encode."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def open_tokenizer(path: Path) -> Any:
    """Load a model's tokenizer, for SFT, GRPO and evaluation alike.

    If the class that transformers chooses reads text differently from the folder's `tokenizer.json`, the file decides.
    A chat template that prints the date gives a warning.

    Args:
        path: the model's folder.

    Returns:
        A Hugging Face tokenizer.

    Raises:
        InputError: the tokenizer cannot be loaded, does not return text unchanged, has no chat template, or its
            template ignores `add_generation_prompt`.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        # For some models with a wrong tokenizer_class (DeepSeek-R1's distills), transformers corrects it by their name
        # on the hub. A folder has no such name, and the wrong class would lose white space.
        if (path / "tokenizer.json").is_file():
            written = Tokenizer.from_file(str(path / "tokenizer.json")).encode(_PROBE, add_special_tokens=False).ids
            if _ids(tokenizer, _PROBE) != written:
                tokenizer = PreTrainedTokenizerFast.from_pretrained(path, padding_side=tokenizer.padding_side)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: its tokenizer does not load ({' '.join(str(error).split())[:200]}); download the model again, or "
            "use another"
        ) from error
    if tokenizer.chat_template is None:
        raise InputError(f"{path}: its tokenizer has no chat template; use an instruction-tuned model")
    back = tokenizer.decode(_ids(tokenizer, _PROBE), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if back != _PROBE:
        raise InputError(f"{path}: its tokenizer reads {_PROBE!r} as {back!r}; use a model whose tokenizer keeps text")
    if not _tells_whose_turn(tokenizer):
        raise InputError(
            f"{path}: its chat template ignores add_generation_prompt, so the model cannot see that it is its turn; "
            "take the original template of the model, or add the beginning of the assistant's turn to it"
        )
    if prints_date(tokenizer):
        _logger.warning("%s: its chat template prints today's date, so prompts differ from day to day", path)
    return tokenizer


def _tells_whose_turn(tokenizer: Any) -> bool:
    """Whether a prompt ends, white space aside, in what stands before the assistant's words in a rendered chat."""
    asked = [{"role": "user", "content": "Q"}]
    said = [*asked, {"role": "assistant", "content": _PROBE}]
    try:
        prompt = render_prompt(tokenizer, asked)
        if prompt != _apply_template(tokenizer, asked, add_generation_prompt=False):
            return True
        before, found, _ = _apply_template(tokenizer, said, add_generation_prompt=False).partition(_PROBE)
    except InputError:  # the template takes no such chat, so this cannot be checked
        return True
    # Templates such as Mistral's need no flag: the end of a user's turn is the beginning of the assistant's.
    return not found or before.strip() == prompt.strip()


def prints_date(tokenizer: Any) -> bool:
    """Return whether a tokenizer's chat template prints today's date."""
    return _TODAY.search(str(tokenizer.chat_template)) is not None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render_prompt(tokenizer: Any, messages: Sequence[Message]) -> str:
    """Return the text that a model continues: the chat template with its generation prompt.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        messages: `{"role", "content"}` each, the last one from the user.

    Returns:
        The prompt.

    Raises:
        InputError: a message holds a control token of the chat, or the template does not accept the messages.
    """
    for message in messages:
        refuse_control_tokens(tokenizer, message["content"])
    return _apply_template(tokenizer, messages, add_generation_prompt=True)


def _apply_template(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
    """Return a chat as its template renders it; any error that a template raises becomes an `InputError`."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"{tokenizer.name_or_path}: its chat template does not take a chat of {roles} "
            f"({' '.join(str(error).split())[:160]}); correct the template there, or use another model"
        ) from None
    if not isinstance(text, str):
        raise TypeError(f"chat template rendered {type(text).__name__}, not text")
    return text


def refuse_control_tokens(tokenizer: Any, text: str) -> None:
    """Refuse text with a control token of the chat, since a model would read it as the end of a turn.

    Control tokens are the special tokens and the tokens that the template names. Our own tags (`<think>`, `<answer>`)
    are none.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        text: the content of a message.

    Raises:
        InputError: the text holds a control token; the message names it.
    """
    if (found := _control_tokens(tokenizer, str(tokenizer.chat_template)).search(text)) is not None:
        raise InputError(f"its text holds the control token {found[0]!r} of the chat; remove it")


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: Any, template: str) -> re.Pattern[str]:
    added = tokenizer.added_tokens_decoder.values()
    tokens = {
        token.content for token in added if token.content.strip() and (token.special or token.content in template)
    }
    longest_first = sorted((tokens | set(tokenizer.all_special_tokens)) - set(TAGS), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Return the token ids of `render_prompt`; the template itself adds all special tokens."""
    return _ids(tokenizer, render_prompt(tokenizer, messages))


def prefilled_think(prompt: str) -> str:
    """Return the opening think tag, with its white space, that a chat template put at the end of `prompt`, or "".

    Templates of reasoning models (DeepSeek-R1 distills) end the generation prompt in `<think>`, so the model's text
    begins within the think block. Completions are stored and scored with the tag in front.
    """
    stripped = prompt.rstrip()
    return prompt[len(stripped) - len(THINK) :] if stripped.endswith(THINK) else ""
