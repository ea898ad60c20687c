"""Chat messages as other tools and servers write them: one reader for files and for replies."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.chat import join_think
from rewards.answer import is_missing

# Roles in other tools' messages -> ours.
ROLES: Final[Mapping[str, str]] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "model": "assistant",
}  # fmt: skip
# Keys under which a reply's own thinking may stand; the first that holds text is read.
_THINKING: Final = (
    "reasoning", "reasoning_content", "thinking", "reasoning_details", "thinking_blocks", "thoughts",
)  # fmt: skip
_TEXT_PARTS: Final = (None, "text", "input_text", "output_text")
_THINKING_PARTS: Final = ("thinking", "reasoning", "redacted_thinking")
_AS_TEXT: Final = re.compile(r"\s*(?:array\()?\s*\[\s*\{|\s*\(?\s*\{\s*['\"](?:role|from|content)['\"]\s*:")
_KEYS: Final = ("role", "from", "content")  # every message has one of them
_KEY: Final = re.compile(rf"['\"](?:{'|'.join(_KEYS)})['\"]\s*:")
_OF_PART: Final = ("text", "thinking", "reasoning", "summary", "content")


class MessageError(ValueError):
    """A value is no message; says why, in words."""


@dataclass(frozen=True)
class Read:
    """The content of a message.

    Attributes:
        role: `system`, `user` or `assistant`.
        text: its text; empty where it has only thinking.
        thinking: a reply's own thinking that is separate from its text; empty where there is none.
    """

    role: str
    text: str
    thinking: str

    @property
    def whole(self) -> str:
        """The text, with separate thinking put at the beginning of its think block."""
        return join_think(self.thinking, self.text) if self.thinking.strip() else self.text


def looks_like_messages(text: str) -> bool:
    """Return whether a text looks like messages: as JSON, or as Python and NumPy print lists of them."""
    if _AS_TEXT.match(text) is None:
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _KEY.search(text) is not None
    items = value if isinstance(value, list) else [value]
    return all(isinstance(one, Mapping) and any(key in one for key in _KEYS) for one in items)


def read_messages(value: Any) -> list[Read]:
    """Read a list of messages, or JSON text of one.

    Raises:
        MessageError: the value is no list, is empty, or holds something that is no message.
    """
    value = _unpacked(value)
    if not isinstance(value, list) or not value:
        raise MessageError("messages are no list")
    return [read_message(message) for message in value]


def read_last_reply(value: Any) -> Read:
    """Read the last reply: of a list of messages (or JSON text of one), or a single message.

    Raises:
        MessageError: see `read_messages`; or the last message is not the assistant's.
    """
    value = _unpacked(value)
    last = read_messages([value] if isinstance(value, Mapping) else value)[-1]
    if last.role != "assistant":
        raise MessageError("messages do not end in a reply: the last one must be the assistant's")
    return last


def _unpacked(value: Any) -> Any:
    """A Python list from an array (Parquet's lists become arrays) or from JSON text; other values unchanged."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise MessageError("messages are no JSON list") from None


def read_message(message: Any) -> Read:
    """Read a message with the keys `role` and `content`, or `from` and `value`.

    Raises:
        MessageError: its role is missing or unknown, or it has neither text nor thinking.
    """
    if not isinstance(message, Mapping):
        raise MessageError(f"{str(message)[:40]!r} is no message")
    said = message.get("role") or message.get("from")
    if not said:
        raise MessageError("a message has no role")
    role = ROLES.get(str(said).strip().casefold())
    if role is None:
        raise MessageError(f"unknown role of a message: {said!r} is none of {', '.join(ROLES)}")
    content = message.get("value") if message.get("content") is None else message.get("content")
    text, thinking = read_content(content)
    if role == "assistant":
        thinking = thinking or read_thinking(message)
    if text is None and not thinking.strip():
        raise MessageError("a message has no text")
    return Read(role, text or "", thinking)


def read_content(content: Any, *, only_text: bool = True) -> tuple[str | None, str]:
    """Return the text of a message's content (None if it has none), and the thinking among its parts.

    Args:
        content: text, or a list of parts, each text or a mapping with a `type`.
        only_text: refuse parts that are no text; False ignores them.

    Raises:
        MessageError: the content is neither, or a part is no text.
    """
    content = content.tolist() if hasattr(content, "tolist") else content
    if is_missing(content):
        return None, ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise MessageError(f"a content is {type(content).__name__}, no text")
    texts, thoughts = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _THINKING_PARTS:
            thoughts.append(_plain(part))
        elif isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and kind in _TEXT_PARTS and isinstance(part.get("text"), str | None):
            texts += [] if part.get("text") is None else [str(part["text"])]
        elif only_text:
            raise MessageError(f"a part of a message is no text: {kind or type(part).__name__}")
    return "".join(texts) if texts else None, "".join(thoughts)


def read_thinking(message: Mapping[str, Any]) -> str:
    """Return the thinking that a reply holds apart from its content, under any of the known keys; "" for none."""
    return next((said for key in _THINKING if (said := _plain(message.get(key))).strip()), "")


def _plain(value: Any) -> str:
    """The text in a value as tools nest it: text, a part, or a list of either."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return next((said for key in _OF_PART if (said := _plain(value.get(key)))), "")
    return "".join(_plain(one) for one in value) if isinstance(value, list) else ""
