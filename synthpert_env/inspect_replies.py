"""The text that a model wrote, from the message that inspect makes of it.

inspect takes the think block out of a reply. `synthpert eval` scores the reply as it was written. Where the block stood
is not in the message: it is put in front, which is where it belongs.
"""

from collections.abc import Sequence
from typing import Any, Final

from benchmarks.chat import without_surrogates
from benchmarks.models.server import restore_think

# How a reply ends that `synthpert eval` counts as an error: a filter, a refused prompt, or nothing said.
FAILED: Final = ("content_filter", "model_length", "unknown")
CUT_OFF: Final = "max_tokens"


def written_text(content: str | Sequence[Any], stop_reason: str) -> str | None:
    """Return a reply as the model wrote it.

    Args:
        content: the content of an assistant's message of inspect: text, or parts with a `type`.
        stop_reason: why the reply ended, in inspect's words.

    Returns:
        The completion with its think block; None where the request failed or the model's server refused it.
    """
    parts: Sequence[Any] = () if isinstance(content, str) else content
    if stop_reason in FAILED or any(getattr(part, "refusal", None) for part in parts):
        return None
    text = content if isinstance(content, str) else "".join(part.text for part in parts if part.type == "text")
    thoughts = [part for part in parts if part.type == "reasoning"]
    reasoning = "".join(part.reasoning for part in thoughts)
    if any(part.internal == "think" for part in thoughts):  # tags that the model itself wrote into the reply
        whole = text.strip()
        # If nothing but the block was written, inspect leaves it in the text, too.
        alone = whole.startswith("<think") and whole.endswith("</think>") and reasoning in whole
        return without_surrogates(text if alone else f"<think>{reasoning}</think>{text}")
    return without_surrogates(restore_think(text, reasoning or None, "length" if stop_reason == CUT_OFF else "stop"))
