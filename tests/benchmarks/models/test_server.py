"""Label probabilities from a server's logprobs: read however tokens are spelt, and unknown where they are untrue."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from endpoint_server import Server, chat, http

from benchmarks.evaluation.protocol import Protocol
from benchmarks.models.generation import Generation, Request
from benchmarks.models.server import OpenAIEngine
from rewards import InputError

PROTOCOL = Protocol(data="digest", max_tokens=32)
NONE = "not differentially expressed"
REST = [(f"x{at}", -20.0) for at in range(17)]
THREE = [("up", -0.2), ("down", -2.0), ("not", -3.0), *REST]
Candidates = Sequence[tuple[str, float | None]]


def reply(pieces: Sequence[str], label: str, at: int, candidates: Candidates, own: float | None = -0.2) -> bytes:
    """A reply whose token `at` has the candidates, and the logprob `own`."""
    entries: list[dict[str, Any]] = [{"token": piece, "logprob": -0.1, "top_logprobs": []} for piece in pieces]
    entries[at]["logprob"] = own
    entries[at]["top_logprobs"] = [{"token": token, "logprob": logprob} for token, logprob in candidates]
    body = json.loads(chat(f"<think>a</think><answer>{label}</answer>"))
    body["choices"][0]["logprobs"] = {"content": entries}
    return json.dumps(body).encode()


def up(candidates: Candidates, own: float | None = -0.2) -> bytes:
    pieces = ["<think>", "a", "</think>", "<answer>", "up", "regulated", "</answer>"]
    return reply(pieces, "upregulated", 4, candidates, own)


def generate(*bodies: bytes) -> list[Generation]:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return http(200, bodies[int(request["messages"][0]["content"])])

    with Server(handler) as server:
        requests = [Request([{"role": "user", "content": str(at)}], at) for at in range(len(bodies))]
        return OpenAIEngine(server.url, "m").generate(requests, PROTOCOL)


@pytest.mark.parametrize("space", [" ", "Ġ", "▁", "ĊĠ"])
def test_tokens_as_vocabularies_spell_them_are_read(space: str) -> None:
    head = ["<think>", "a", "</think>", "<answer>"]
    pieces = [*head, f"{space}not", f"{space}different", "ially", f"{space}expressed", "</answer>"]
    spelt = [(f"{space}{token}", logprob) for token, logprob in THREE]
    (generation,) = generate(reply(pieces, NONE, 4, spelt, own=-3.0))
    total = sum(math.exp(logprob) for logprob in (-0.2, -2.0, -3.0))
    wanted = [math.exp(logprob) / total for logprob in (-0.2, -2.0, -3.0)]
    assert generation.probabilities == pytest.approx(wanted)


def test_tokens_that_do_not_spell_the_reply_tell_no_probabilities() -> None:
    pieces = [f"token_id:{at}" for at in range(6)]
    with pytest.raises(InputError, match="its tokens do not spell the reply; set scores: votes"):
        generate(reply(pieces, "upregulated", 4, THREE))


def test_the_token_that_was_written_is_a_candidate() -> None:
    likely = [("down", -0.5), ("not", -1.5), *((f"x{at}", -3.0) for at in range(18))]
    (generation,) = generate(up(likely, own=-4.0))
    total = sum(math.exp(logprob) for logprob in (-4.0, -0.5, -1.5))
    assert generation.probabilities == pytest.approx([math.exp(logprob) / total for logprob in (-4.0, -0.5, -1.5)])


def test_a_likely_token_that_is_not_among_the_likeliest_makes_them_unknown() -> None:
    others = [("not", -0.2), ("down", -2.0), *REST]
    broken, fine = generate(up(others, own=-0.1), up(THREE))
    assert (broken.text, broken.probabilities) == ("<think>a</think><answer>upregulated</answer>", None)
    assert fine.probabilities is not None


def test_a_candidate_without_a_logprob_is_impossible() -> None:
    (generation,) = generate(up([("up", -0.2), ("not", -0.2), ("down", None), *REST]))
    assert generation.probabilities == pytest.approx([0.5, 0.0, 0.5])


@pytest.mark.parametrize(
    "broken", [chat("<answer>upregulated</answer>"), up([("up", 5.0), ("not", 1.0)]), up([("up", -0.2)])]
)
def test_one_reply_without_probabilities_settles_itself_alone(broken: bytes, caplog: pytest.LogCaptureFixture) -> None:
    generations = generate(up(THREE), broken, broken, up(THREE))
    assert [generation.error for generation in generations] == [None] * 4
    assert [generation.probabilities is None for generation in generations] == [False, True, True, False]
    assert len([line for line in caplog.messages if "for some replies" in line]) == 1
    with pytest.raises(InputError, match="scores: votes"):
        generate(broken, broken)


def test_a_server_without_logprobs_is_not_asked_about_the_whole_batch() -> None:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return http(200, chat("<answer>upregulated</answer>"))

    with Server(handler) as server:
        requests = [Request([{"role": "user", "content": "q"}], at) for at in range(200)]
        with pytest.raises(InputError, match="gives no logprobs; set scores: votes"):
            OpenAIEngine(server.url, "m").generate(requests, PROTOCOL)
        assert len(server.requests) < 100
