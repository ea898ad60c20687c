"""Replies that the server broke off, thoughts under any key, and refusals that concern one question alone."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from endpoint_server import RIGHT, Server, chat, error, http, respond_well

from benchmarks.endpoint.client import Endpoint, StoppedError
from benchmarks.endpoint.reply import Reply, retry_after
from benchmarks.endpoint.settings import EndpointSettings
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.evaluation.predictions import read_facts, read_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.models.generation import Request
from benchmarks.models.server import OpenAIEngine
from rewards import CheckError, InputError

PROTOCOL = Protocol(data="digest", max_tokens=32, scores="votes")
ANSWER = RIGHT.format(reason="because", label="upregulated")


def say(*responses: bytes) -> Callable[[dict[str, Any], dict[str, str]], Awaitable[bytes]]:
    given = iter(responses)

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return next(given, responses[-1])

    return handler


def ask(server: Server, *contents: str, **settings: Any) -> list[Reply]:
    async def main() -> list[Reply]:
        endpoint = Endpoint(EndpointSettings(server.url, "m", **{"backoff": 0.01, "attempts": 2, **settings}))
        try:
            return [await endpoint.ask([{"role": "user", "content": one}], one) for one in contents]
        finally:
            await endpoint.close()

    return asyncio.run(main())


def without_finish() -> bytes:
    body = json.loads(chat("half a text"))
    del body["choices"][0]["finish_reason"]
    return json.dumps(body).encode()


def with_beside(part: str, **keys: Any) -> bytes:
    """A reply that ends well, with more keys on the whole, on its choice or on its message."""
    body = json.loads(chat("half a text"))
    choice = body["choices"][0]
    {"reply": body, "choice": choice, "message": choice["message"]}[part].update(keys)
    return json.dumps(body).encode()


FAILURE = {"code": 502, "message": "upstream"}
BROKEN = {
    "error": chat("<think>half a tex", "error"),
    "abort": chat("half a text", "abort"),
    "insufficient_system_resource": chat("half a text", "insufficient_system_resource"),
    "network_error": chat("half a text", "network_error"),
    "not said": without_finish(),
    "an error beside the text": with_beside("choice", error=FAILURE),
    "an error beside the choices": with_beside("reply", error=FAILURE),
    "an error within the message": with_beside("message", error=FAILURE),
    "the upstream server's ending": with_beside("choice", native_finish_reason="error"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_reply_that_the_server_broke_off_is_asked_for_again(kind: str) -> None:
    with Server(say(http(200, BROKEN[kind]), http(200, chat(ANSWER)))) as server:
        (reply,) = ask(server, "q")
    assert (reply.text, reply.error, reply.requests) == (ANSWER, None, 2)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_reply_that_stays_broken_off_is_an_error(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.endpoint.client._LONGEST_PAUSE", 0.01)
    items = pd.DataFrame(
        {"item_id": ["rpe1|A|X"], "cell_line": "rpe1", "pert": "A", "gene": ["X"], "label": "upregulated"}
    )
    with Server(say(http(200, BROKEN[kind]))) as server:
        engine = OpenAIEngine(server.url, "m")
        path = evaluate(engine, items, [[{"role": "user", "content": "q"}]], PROTOCOL, tmp_path)
    assert list(read_predictions(path)["status"]) == ["error"]
    assert "broke" in next(iter(read_facts(path)["errors"]))


@pytest.mark.parametrize("part", ["reply", "choice", "message"])
def test_an_error_that_is_none_breaks_nothing_off(part: str) -> None:
    with Server(say(http(200, with_beside(part, error=None, native_finish_reason="STOP")))) as server:
        (reply,) = ask(server, "q")
    assert (reply.text, reply.requests) == ("half a text", 1)


@pytest.mark.parametrize("finish", ["stop", "length", "eos", "eos_token", "end_turn", "stop_sequence", "max_tokens"])
def test_the_model_s_own_endings(finish: str) -> None:
    with Server(say(http(200, chat(ANSWER, finish)))) as server:
        (reply,) = ask(server, "q")
    assert (reply.text, reply.error, reply.requests) == (ANSWER, None, 1)
    assert reply.finish_reason == ("length" if finish in ("length", "max_tokens") else "stop")


# --- thoughts ---------------------------------------------------------------------------------------------------------

REASONING: dict[str, dict[str, Any]] = {
    "reasoning_content": {"reasoning_content": "because"},
    "reasoning": {"reasoning": "because"},
    "thinking": {"thinking": "because"},
    "details": {"reasoning_details": [{"type": "reasoning.text", "text": "be"}, {"type": "x", "summary": "cause"}]},
    "both, alike": {"reasoning": "because", "reasoning_content": "because"},
    "null and text": {"reasoning": None, "reasoning_content": "because"},
    "parts": {"reasoning": [{"type": "text", "text": "because"}]},
    "blocks": {"thinking_blocks": [{"type": "thinking", "thinking": "because", "signature": "x"}]},
    "thoughts": {"thoughts": "because"},
}


@pytest.mark.parametrize("kind", REASONING)
def test_thoughts_are_read_under_any_key(kind: str) -> None:
    with Server(say(http(200, chat("<answer>upregulated</answer>", **REASONING[kind])))) as server:
        (reply,) = ask(server, "q")
    assert (reply.text, reply.reasoning) == ("<answer>upregulated</answer>", "because")


def test_thoughts_among_the_parts_of_a_message() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "because"}]},
        {"type": "text", "text": None},
        {"type": "text", "text": "<answer>upregulated</answer>"},
    ]
    body = json.loads(chat(None))
    body["choices"][0]["message"]["content"] = parts
    with Server(say(http(200, json.dumps(body).encode()))) as server:
        (reply,) = ask(server, "q")
    assert (reply.text, reply.reasoning) == ("<answer>upregulated</answer>", "because")


# --- one question's refusal -------------------------------------------------------------------------------------------


async def flag(request: dict[str, Any], headers: dict[str, str]) -> bytes:
    if "flagged" in request["messages"][-1]["content"]:
        return error(403, "input was flagged by moderation")
    return await respond_well(request, headers)


def test_a_refusal_of_one_question_after_others_were_answered_is_its_own() -> None:
    with Server(flag) as server:
        first, flagged, last = ask(server, "a", "flagged", "b")
    assert flagged.text is None
    assert "HTTP 403" in (flagged.error or "")
    assert first.error is None
    assert last.error is None


def test_a_refusal_of_the_first_question_is_its_own_too() -> None:
    """As after a restart, which asks the flagged question first, or alone."""
    with Server(flag) as server:
        flagged, last = ask(server, "flagged", "b")
        assert (flagged.text, last.error) == (None, None)
        (flagged,) = ask(server, "flagged")
        assert "HTTP 403" in (flagged.error or "")


def test_a_key_that_is_refused_for_every_question_stops_the_run() -> None:
    with Server(say(error(403, "no access"))) as server, pytest.raises(InputError, match="refuses the key"):
        ask(server, "a")


def test_a_plain_question_s_answer_is_none_to_a_question_of_the_run() -> None:
    """A server that refuses all but the plain question: the run stops, and is not done with errors alone."""

    async def refuse(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if request["messages"][-1]["content"] == "Say yes.":
            return http(200, chat("Yes."))
        return error(403, "not for you")

    with Server(refuse) as server:
        assert len(ask(server, *(f"q{at}" for at in range(49)))) == 49
        with pytest.raises(StoppedError, match="HTTP 403.* for 50 questions, and no answer yet"):
            ask(server, *(f"q{at}" for at in range(50)))


def test_a_key_that_is_refused_for_one_question_alone_is_that_question_s_failure() -> None:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if request["messages"][-1]["content"] == "routed elsewhere":
            return error(401, "no key for that upstream server")
        return await respond_well(request, headers)

    with Server(handler) as server:
        first, lost, last = ask(server, "a", "routed elsewhere", "b")
        assert (first.error, lost.text, last.error) == (None, None, None)
        assert "HTTP 401" in (lost.error or "")


def test_a_key_that_ends_within_a_run_stops_it() -> None:
    with (
        Server(say(http(200, chat(ANSWER)), error(401, "expired"))) as server,
        pytest.raises(InputError, match="refuses the key"),
    ):
        ask(server, "a", "b")


def test_a_model_that_is_gone_for_one_question_does_not_stop_the_others() -> None:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if request["messages"][-1]["content"] == "routed elsewhere":
            return error(404, "no endpoint takes this request")
        return await respond_well(request, headers)

    with Server(handler) as server:
        _, lost, last = ask(server, "a", "routed elsewhere", "b")
    assert lost.text is None
    assert last.error is None


# --- dates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["America/New_York", "UTC", "Asia/Kolkata"])
@pytest.mark.parametrize("ending", ["GMT", "-0000", "+0000", "UT", ""])
def test_a_date_is_utc_unless_it_says_otherwise(zone: str, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        date = time.strftime("%a, %d %b %Y %H:%M:%S", time.gmtime(time.time() + 100))
        wait = retry_after({"retry-after": f"{date} {ending}".strip()})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert wait == pytest.approx(100, abs=3)


def test_a_date_with_a_zone_of_its_own() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S", time.gmtime(time.time() + 100 - 5 * 3600))
    assert retry_after({"retry-after": f"{date} -0500"}) == pytest.approx(100, abs=3)


# --- candidates -------------------------------------------------------------------------------------------------------


def with_candidates(n: int) -> bytes:
    body = json.loads(chat(ANSWER))
    before, label, after = ANSWER.partition("upregulated")
    others = [("up", -0.2), ("down", -2.0), ("not", -3.0), *((f"x{at}", -9.0) for at in range(17))]
    entries: list[dict[str, Any]] = [
        {"token": one, "logprob": 0.0, "top_logprobs": []} for one in (before, "up", after)
    ]
    entries.insert(2, {"token": label.removeprefix("up"), "logprob": 0.0, "top_logprobs": []})
    for entry in entries:
        entry["top_logprobs"] = [{"token": token, "logprob": value} for token, value in others[:n]]
    body["choices"][0]["logprobs"] = {"content": entries}
    return json.dumps(body).encode()


def generate(n: int) -> Any:
    with Server(say(http(200, with_candidates(n)))) as server:
        protocol = Protocol(data="digest", max_tokens=32)
        return OpenAIEngine(server.url, "m").generate([Request([{"role": "user", "content": "q"}], 0)], protocol)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_candidates_are_no_probabilities(n: int) -> None:
    with pytest.raises((InputError, CheckError), match=rf"{n} of 20.*scores: votes"):
        generate(n)


def test_fewer_candidates_than_asked_for_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    (generation,) = generate(5)
    assert generation.probabilities is not None
    assert len([one for one in caplog.messages if "5 of 20" in one]) == 1


def test_all_candidates_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    generate(20)
    assert not caplog.messages
