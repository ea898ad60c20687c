"""What a teacher and its critics are asked, and the names by which the request log knows each question."""

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
    """What a teacher is to write.

    Attributes:
        items: N training rows, in the order of the output.
        prompts: N prompts, as the student sees them.
        protocol: what the prompts were made with.
        config: the whole configuration, for the resume check.
    """

    items: pd.DataFrame
    prompts: Sequence[list[Message]]
    protocol: dict[str, Any]
    config: dict[str, Any]


def check_items(items: pd.DataFrame) -> None:
    """Refuse items of the test split, and items drawn twice."""
    if (items["split"] != "train").any():
        found = items["item_id"][items["split"] != "train"].iloc[0]
        raise InputError(f"{found}: a test item; traces are written for training items only")
    twice = items["item_id"].duplicated()
    if twice.any():
        raise InputError(f"{items['item_id'][twice].iloc[0]}: is drawn twice; each item has one trace")


def request_shape(settings: EndpointSettings, messages: Sequence[Message]) -> list[Any]:
    """Return what shapes a reply: the endpoint's settings and the messages."""
    return [settings.model, settings.max_tokens, settings.temperature, settings.extra_body, *map(dict, messages)]


def teacher_question(item_id: str) -> str:
    """Name the teacher's question about an item."""
    return f"teacher|{item_id}"


def to_grade(label: str, prompt: Sequence[Message], answer: Answer) -> list[Message] | None:
    """Return what critics are asked; None where they are not: only reasoning that ends in the truth is worth it."""
    return None if answer.label != label or answer.think is None else critic_messages(prompt, answer.think)


def critic_questions(item_id: str, critic: EndpointSettings, messages: Sequence[Message]) -> tuple[str, str]:
    """Name a critic's question, and the same asked once more, for where the first reply holds no verdict.

    The digest stands for the reasoning and what shapes the reply: what changed is graded anew, what did not is not paid
    for twice.
    """
    digest = hashlib.sha256(json.dumps(request_shape(critic, messages)).encode()).hexdigest()
    question = f"critic|{item_id}|{critic.model}|{digest[:16]}"
    return question, f"{question}|again"


def with_label(prompt: Sequence[Message], label: str) -> list[Message]:
    """Return the prompt with the label told to the teacher alone (`mode: rationalize`)."""
    *earlier, last = prompt
    return [*earlier, {"role": last["role"], "content": last["content"] + RATIONALIZE.format(label=label)}]
