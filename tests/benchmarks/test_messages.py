"""Messages are read alike everywhere: roles, parts, and a reply's own thinking."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.messages import (
    MessageError,
    Read,
    looks_like_messages,
    read_last_reply,
    read_message,
    read_messages,
)

ASKED = {"role": "user", "content": "q"}
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("message", "role", "text", "thinking"),
    [
        ({"role": "assistant", "content": "a"}, "assistant", "a", ""),
        ({"from": "gpt", "value": "a"}, "assistant", "a", ""),
        ({"role": "developer", "content": "a"}, "system", "a", ""),
        ({"role": "USER", "content": "a"}, "user", "a", ""),
        ({"role": "assistant", "content": "a", "reasoning": "r"}, "assistant", "a", "r"),
        ({"role": "assistant", "content": None, "reasoning_content": "r"}, "assistant", "", "r"),
        ({"role": "assistant", "content": "a", "reasoning": None, "reasoning_content": "r"}, "assistant", "a", "r"),
        ({"role": "assistant", "content": "a", "reasoning": 5}, "assistant", "a", ""),
        ({"role": "assistant", "content": "a", "reasoning_details": [{"type": "x", "summary": "r"}]}, "assistant", "a",
         "r"),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": "r"}, "a"]}, "assistant", "a", "r"),
        ({"role": "assistant", "content": "a", "thinking_blocks": [{"type": "thinking", "thinking": "r"}]}, "assistant",
         "a", "r"),
        ({"role": "assistant", "content": "a", "thoughts": "r"}, "assistant", "a", "r"),
        ({"role": "user", "content": PARTS}, "user", "ab", ""),
        ({"role": "user", "content": [*PARTS, {"type": "text", "text": None}]}, "user", "ab", ""),
        ({"role": "user", "content": np.array(PARTS, dtype=object)}, "user", "ab", ""),
        ({"role": "user", "content": "q", "reasoning": "r"}, "user", "q", ""),  # what a user thinks is no reply's
    ],
)  # fmt: skip
def test_a_message_is_read_alike_from_servers_and_files(
    message: dict[str, Any], role: str, text: str, thinking: str
) -> None:
    assert read_message(message) == Read(role, text, thinking)


@pytest.mark.parametrize("part", [{"type": "image"}, None, 5, {"type": "text", "text": 5}])
def test_a_part_that_is_no_text_is_told(part: Any) -> None:
    with pytest.raises(MessageError, match="a part of a message is no text"):
        read_messages([{"role": "user", "content": [*PARTS, part]}])


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_the_thinking_of_a_reply_becomes_its_think_block(key: str) -> None:
    chat = [ASKED, {"role": "assistant", "content": "<answer>a</answer>", key: "so"}]
    for value in (chat, json.dumps(chat), np.array(chat, dtype=object)):
        assert [one.whole for one in read_messages(value)] == ["q", "<think>so</think><answer>a</answer>"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[{", "no JSON list"), ({"role": "user"}, "no list"), ([], "no list"), (5, "no list"),
        (["text"], "'text' is no message"), ([{"role": "tool", "content": "a"}], "unknown role of a message: 'tool'"),
        ([{"content": "a"}], "no role"), ([{"role": "user"}], "no text"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "no text"),
    ],
)  # fmt: skip
def test_what_is_no_chat_is_refused(value: Any, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        read_messages(value)


@pytest.mark.parametrize(
    ("text", "is_meant"),
    [
        ('[{"role": "user", "content": "q"}]', True), ('{"role": "user", "content": "q"}', True),
        ("[{'content': 'q', 'role': 'user'}]", True), ("[{'id': 1, 'role': 'user'}]", True),
        ('[{"answer": "upregulated"}]', False), ('[{"answer": 1}] is my answer', False), ("<think>", False),
    ],
)  # fmt: skip
def test_only_what_has_messages_keys_is_meant_as_messages(text: str, is_meant: bool) -> None:
    assert looks_like_messages(text) is is_meant


def test_a_reply_is_the_last_message_and_the_assistant_s() -> None:
    reply = {"role": "assistant", "content": "a"}
    for value in ([ASKED, reply], reply, json.dumps(reply), np.array([reply], dtype=object)):
        assert read_last_reply(value).text == "a"
    for value in ([ASKED], [reply, ASKED], ASKED):
        with pytest.raises(MessageError, match="the last one must be the assistant's"):
            read_last_reply(value)
