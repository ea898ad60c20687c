"""What inspect makes of a reply is turned back into what the model wrote. Its messages are imitated here.

`tests/slow/test_inspect.py` does the same with inspect itself.
"""

from types import SimpleNamespace

import pytest

from benchmarks.models.server import restore_think
from synthpert_env.inspect_replies import written_text


def text(words, refusal=None):
    return SimpleNamespace(type="text", text=words, refusal=refusal)


def reasoning(words, source="think"):
    return SimpleNamespace(type="reasoning", reasoning=words, internal=source)


@pytest.mark.parametrize(
    ("content", "stop_reason", "written"),
    [
        ("upregulated", "stop", "upregulated"),
        ([reasoning("So."), text("<answer>x</answer>")], "stop", "<think>So.</think><answer>x</answer>"),
        ([reasoning(""), text("<answer>x</answer>")], "stop", "<think></think><answer>x</answer>"),
        ([reasoning("So."), text("<think>So.</think>")], "stop", "<think>So.</think>"),  # nothing else was written
        ([reasoning("So."), text("<think>No.</think>x")], "stop", "<think>So.</think><think>No.</think>x"),
        ("<think>It depends", "max_tokens", "<think>It depends"),
        ("It does.</think><answer>x</answer>", "stop", "<think>It does.</think><answer>x</answer>"),
        ([text("up"), text("regulated")], "stop", "upregulated"),
        ("", "stop", ""),
        ("a \ud800 b", "stop", "a ��� b"),  # one for each of its bytes
    ],
)
def test_a_reply_is_restored(content, stop_reason, written):
    assert written_text(content, stop_reason) == written


@pytest.mark.parametrize("said", ["<answer>x</answer>", "<think>Own.</think><answer>x</answer>", ""])
@pytest.mark.parametrize(("stop_reason", "finish"), [("stop", "stop"), ("max_tokens", "length")])
def test_thinking_that_a_server_returns_apart_is_put_where_our_evaluation_puts_it(said, stop_reason, finish):
    content = [reasoning("Apart.", "reasoning_content"), text(said)]
    assert written_text(content, stop_reason) == restore_think(said, "Apart.", finish)


@pytest.mark.parametrize(
    ("content", "stop_reason"),
    [
        ("prompt too long", "model_length"),
        ("", "content_filter"),
        ([text("I cannot.", refusal=True)], "stop"),
        ("<answer>upregulated</answer>", "unknown"),
    ],
)
def test_a_refused_request_has_no_text(content, stop_reason):
    assert written_text(content, stop_reason) is None
