"""The questions for a teacher and its critics, and their names in the request log."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from benchmarks.chat import Message
from benchmarks.endpoint.settings import EndpointSettings
from rewards import Answer, InputError
from sft.teacher.critic import critic_messages

RATIONALIZE: Final = (
    "\n\nFor you alone: the measured effect is {label}. Write the reasoning by which an expert who does not know it "
    "would arrive at it, from biology and what the question quotes. Never mention or hint that it was given, and end "
    "in <answer>{label}</answer>."
)


@dataclass(frozen=True)
class Work:
    """The items that a teacher writes about.

    Attributes:
        items: N training rows, in the order of the output.
        prompts: N prompts, as the student sees them.
        protocol: how the prompts were made.
        config: the whole configuration, which a resumed run is compared with.
    """

    items: pd.DataFrame
    prompts: Sequence[list[Message]]
    protocol: dict[str, Any]
    config: dict[str, Any]


def check_items(items: pd.DataFrame) -> None:
    """Raise an `InputError` if an item is in the test split, or drawn twice."""
    if (items["split"] != "train").any():
        found = items["item_id"][items["split"] != "train"].iloc[0]
        raise InputError(f"{found}: a test item; traces are written for training items only")
    twice = items["item_id"].duplicated()
    if twice.any():
        raise InputError(f"{items['item_id'][twice].iloc[0]}: is drawn twice; each item has one trace")


def request_shape(settings: EndpointSettings, messages: Sequence[Message]) -> list[Any]:
    """Return all that shapes a reply: settings of the endpoint, and the messages."""
    return [settings.model, settings.max_tokens, settings.temperature, settings.extra_body, *map(dict, messages)]


def teacher_question(item_id: str) -> str:
    """Name the teacher's question about an item."""
    return f"teacher|{item_id}"


def to_grade(label: str, prompt: Sequence[Message], answer: Answer) -> list[Message] | None:
    """Return the messages for critics, None if the answer is wrong or has no reasoning: such traces are not graded."""
    return None if answer.label != label or answer.think is None else critic_messages(prompt, answer.think)


def critic_questions(item_id: str, critic: EndpointSettings, messages: Sequence[Message]) -> tuple[str, str]:
    """Return the names of a critic's question and of its repetition, which is asked if the first reply has no verdict.

    The names contain a digest of all that shapes the reply. So a critic is asked again if the reasoning or a setting
    changed, and only then.
    """
    digest = hashlib.sha256(json.dumps(request_shape(critic, messages)).encode()).hexdigest()
    question = f"critic|{item_id}|{critic.model}|{digest[:16]}"
    return question, f"{question}|again"


def with_label(prompt: Sequence[Message], label: str) -> list[Message]:
    """Return the prompt for a teacher that is given the label (`mode: rationalize`)."""
    *earlier, last = prompt
    return [*earlier, {"role": last["role"], "content": last["content"] + RATIONALIZE.format(label=label)}]
