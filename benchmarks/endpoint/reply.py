"""A server's reply to a question, or why an attempt failed and whether another may succeed."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from benchmarks.messages import MessageError, read_content, read_thinking

_LONGEST_REASON: Final = 40
# Servers' names for a reply that ended normally. With any other, `content_filter` apart, the server broke it off.
_ENDINGS: Final = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "model_length"), "length"),
    **dict.fromkeys(("tool_calls", "function_call", "tool_use"), "tool_calls"),
}
_MOST_TOKENS: Final = 10**9
# Used where the server reports no counts. Prose has 0.25 tokens per character, gene symbols more; 0.5 is a safe bound.
TOKENS_PER_CHARACTER: Final = 0.5


@dataclass(frozen=True)
class Reply:
    """The outcome of one question.

    Attributes:
        text: the message's content; None if the question failed.
        reasoning: the model's thinking, where the server returns it separately; None elsewhere.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter` or `error`.
        prompt_tokens, completion_tokens: tokens charged over all attempts; estimates where the server reports none.
        requests: number of attempts.
        error: why the question failed for good; None if it did not.
        logprobs: the server's entry for each generated token, unchanged; None where it gave none.
    """

    text: str | None
    reasoning: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    requests: int
    error: str | None = None
    logprobs: list[Any] | None = None


@dataclass(eq=False)
class AttemptError(Exception):
    """A failed attempt. Used for control flow; users never see it.

    Attributes:
        reason: why it failed, in words.
        wait: seconds that the server asks to wait; None where it names none.
        charged: whether the server may have charged for the attempt.
        server: whether the server as a whole is at fault, not this question.
        outage: whether the server is at fault if many questions in a row fail like this.
        final: whether another attempt cannot succeed.
        answered: whether a complete but unusable reply came.
        refused: HTTP status of a refusal (of this question or of all); 0 where it is none.
    """

    reason: str
    wait: float | None = None
    charged: bool = False
    server: bool = False
    outage: bool = False
    final: bool = False
    answered: bool = False
    refused: int = 0


def read_reply(body: bytes, estimate: int, redact: Callable[[str], str]) -> Reply:
    """Read the body of a server's reply. A reply without a word, ended by the model or the limit, has empty text.

    Args:
        body: the bytes received.
        estimate: estimated tokens of the prompt, used where the server reports none.
        redact: removes from a text what must not be stored.

    Returns:
        The reply, with `requests` 1.

    Raises:
        AttemptError: the body is not UTF-8 JSON, has no choice, or was broken off.
    """
    reply, choice, message = _first_choice(body)
    try:
        content, thinking = read_content(message.get("content"), only_text=False)
    except MessageError as error:
        raise AttemptError(f"the reply is no text ({error})", charged=True) from None
    text, reasoning = redact(content or ""), redact(thinking or read_thinking(message)) or None
    finish = str(choice.get("finish_reason") or "")
    usage = reply.get("usage")
    tokens_in, tokens_out = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if tokens_in is None or tokens_out is None:
        tokens_in, tokens_out = estimate, int((len(text) + len(reasoning or "")) * TOKENS_PER_CHARACTER)
    if finish == "content_filter" or message.get("refusal"):
        return Reply(None, None, "content_filter", tokens_in, tokens_out, 1, "the server filtered the content")
    ending = _ENDINGS.get(finish.lower())
    failed = any(part.get("error") for part in (reply, choice, message))
    if ending is None or failed or str(choice.get("native_finish_reason")).lower() == "error":
        said = f"finish_reason: {redact(finish)[:_LONGEST_REASON]}" if finish else "no finish_reason"
        said = said if ending is None else "it names an error"
        raise AttemptError(f"the server broke the reply off ({said})", charged=True)
    logprobs = choice.get("logprobs")
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    return Reply(
        text, reasoning, ending, tokens_in, tokens_out, 1, logprobs=entries if isinstance(entries, list) else None
    )


def _first_choice(body: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return a reply, its first choice, and the choice's message."""
    try:
        reply = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise AttemptError("the reply is no UTF-8 text", charged=True) from None
    except (ValueError, RecursionError):
        raise AttemptError("the reply is no JSON", charged=True) from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise AttemptError("the reply has no choice", charged=True)
    return reply, choice, message


def _count(usage: Any, key: str) -> int | None:
    value = usage.get(key) if isinstance(usage, dict) else None
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if is_count else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds a server asks to wait, or None: `retry-after-ms`, or `Retry-After` as seconds or a date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError, TypeError):
        return None
    date = date.replace(tzinfo=UTC) if date.tzinfo is None else date  # a zone of -0000 means UTC, too
    return max(0.0, date.timestamp() - time.time())
