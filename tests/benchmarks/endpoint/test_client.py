"""Asking an endpoint: every way a server can fail ends in one outcome, within the budget, and without the key."""

import asyncio
import itertools
import json
import random
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from endpoint_server import Server, Unfinished, chat, error, http, respond_well
from without_clock import PATIENCE, Limits

from benchmarks.endpoint.budget import Budget, BudgetSpentError
from benchmarks.endpoint.client import Endpoint, StoppedError, run_async
from benchmarks.endpoint.reply import Reply, retry_after
from benchmarks.endpoint.settings import EndpointSettings, read_extra_body
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import EvalArguments, run_evaluation
from benchmarks.models.engines import open_engine
from benchmarks.models.generation import Request
from benchmarks.runs import read_manifest
from rewards import InputError

KEY = "sk-planted-4711"
QUESTION = [{"role": "user", "content": "What happens?"}]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    return Limits(monkeypatch)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The URL of a port that refuses: it is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def ask(
    server: Server | str,
    budget: Budget | None = None,
    times: int = 1,
    seen: list[Reply | BaseException] | None = None,
    **settings: Any,
) -> list[Reply]:
    """Ask at the same time; raise the first error once all have ended. `seen` takes replies and errors as they come."""
    url = server if isinstance(server, str) else server.url

    async def main() -> list[Any]:
        endpoint = Endpoint(EndpointSettings(url, "m", **{"backoff": 0.01, **settings}), budget)

        async def question(n: int) -> Reply:
            (reply,) = await asyncio.gather(endpoint.ask(QUESTION, f"q{n}"), return_exceptions=True)
            if seen is not None:
                seen.append(reply)
            if isinstance(reply, BaseException):
                raise reply
            return reply

        try:
            return await asyncio.gather(*(question(n) for n in range(times)), return_exceptions=True)
        finally:
            await endpoint.close()

    replies = asyncio.run(main())
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return replies


HANG = "nothing, until the client gives up"


def sequence(*responses: Any, limits: Limits | None = None) -> Any:
    """A handler that gives these responses in turn, the last one for ever.

    At a hang, or a response that does not end, the client's limit passes where `limits` are given.
    """
    given = iter(responses)
    last = responses[-1]

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes | None:
        response = next(given, last)
        if limits is not None and (response is HANG or isinstance(response, Unfinished)):
            limits.end(headers)
        if response is HANG:
            await asyncio.sleep(PATIENCE)
        return response

    return handler


async def until(seen: list[Any], n: int) -> None:
    """Wait until the client has n replies or errors: what the server has sent may still be under way."""
    while len(seen) < n:
        await asyncio.sleep(0.001)


GOOD = http(200, chat("fine"))
TRANSIENT = {
    "429 with Retry-After": error(429, "slow down", retry_after="0"),
    "429 without": error(429, "slow down"),
    "500": error(500, "oops"),
    "503": http(503, b"<html>busy</html>"),
    "a hang": HANG,
    "a cut connection": None,
    "half a JSON body": http(200, chat("fine")[:40]),
    "a body cut off": http(200, chat("fine")[:40], length=400),
    "a hang within the body": Unfinished(http(200, chat("fine")[:40], length=400)),
    "no choice": http(200, b'{"choices": []}'),
    "a choice that is none": http(200, b'{"choices": [null]}'),
    "a list": http(200, b"[]"),
    "wrong encoding": http(200, json.dumps({"choices": []}).encode("utf-16")),
    "Latin-1": http(200, '{"choices": [{"message": {"content": "é"}}]}'.encode("latin-1")),
    "nesting without end": http(200, b"[" * 100_000),
    "gzip that is none": http(200, b"no gzip", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_passing_fault_is_tried_again(fault: str, limits: Limits) -> None:
    with Server(sequence(TRANSIENT[fault], GOOD, limits=limits)) as server:
        (reply,) = ask(server)
        assert (reply.text, reply.error, reply.requests) == ("fine", None, 2)
        assert len(server.requests) == 2


@pytest.mark.parametrize("fault", [name for name in TRANSIENT if "429" not in name])
def test_a_fault_that_stays_is_the_item_s_error(fault: str) -> None:
    limit = {"timeout": 0.3} if fault.startswith("a hang") else {}
    with Server(sequence(TRANSIENT[fault])) as server:
        (reply,) = ask(server, attempts=2, **limit)
    assert reply.text is None
    assert reply.error
    assert reply.requests == 2


@pytest.mark.parametrize(
    ("response", "finish", "text", "words"),
    [
        (http(200, chat("<think>half", "length")), "length", "<think>half", None),
        (http(200, chat("secret", "content_filter")), "content_filter", None, "filtered"),
        (http(200, chat(None, refusal="I will not")), "content_filter", None, "filtered"),
        (http(200, chat("x" * 10_000_000)), "error", None, "longer than"),
        (error(400, "context too long"), "error", None, "context too long"),
        (error(422, "bad"), "error", None, "HTTP 422"),
        (http(200, chat("\ud800 lone")), "stop", "\ud800 lone", None),
        # All tokens went into thinking that the server keeps to itself, or the model ended at once: its own doing.
        (http(200, chat(None, "length")), "length", "", None),
        (http(200, chat(None)), "stop", "", None),
        (http(200, chat(None, "tool_calls", tool_calls=[{"id": "1"}])), "tool_calls", "", None),
    ],
)  # fmt: skip
def test_what_another_try_would_not_mend_is_settled_at_once(
    response: bytes, finish: str, text: str | None, words: str | None
) -> None:
    with Server(sequence(response)) as server:
        (reply,) = ask(server)
        assert len(server.requests) == 1
    assert (reply.finish_reason, reply.text) == (finish, text)
    assert (reply.error is None) == (words is None)
    assert (words or "") in (reply.error or "")


@pytest.mark.parametrize(
    ("response", "kind", "words"),
    [
        (error(401, f"Incorrect API key {KEY}"), InputError, "refuses the key"),
        (error(403, f"no {KEY}"), InputError, "refuses the key"),
        (error(404, "no such model"), InputError, "knows no model 'm'"),
        (error(402, "pay"), StoppedError, "payment"),
        (error(429, "quota", code="insufficient_quota"), StoppedError, "quota"),
        (error(429, "slow down"), StoppedError, "429"),
        (error(429, "slow down", retry_after="3600"), StoppedError, "asks to wait 3600 s"),
    ],
)
def test_a_server_that_cannot_be_asked_stops_the_run(
    response: bytes, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(sequence(response)) as server, pytest.raises(kind, match=words) as caught:
        ask(server, attempts=2)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_out_of_reach_stops_the_run(nowhere: str) -> None:
    with pytest.raises(StoppedError, match="cannot be reached"):
        ask(nowhere, attempts=2)


def test_retry_after_is_honoured_by_all_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's clock stands still until both questions wait."""
    now, waits, passed = [0.0], list[float](), asyncio.Event()
    first = iter([error(429, "slow down", retry_after="60")])
    times: list[float] = []

    async def handler(request: Any, headers: Any) -> bytes:
        times.append(now[0])
        return next(first, GOOD)

    async def wait(endpoint: Endpoint, seconds: float) -> None:
        waits.append(seconds)
        await passed.wait()

    monkeypatch.setattr(Endpoint, "_sleep", wait)
    monkeypatch.setattr("benchmarks.endpoint.client.time", SimpleNamespace(monotonic=lambda: now[0]))
    with Server(handler) as server:

        async def main() -> None:
            endpoint = Endpoint(EndpointSettings(server.url, "m", backoff=0.01))
            refused = asyncio.Event()

            async def note(event: str, prompt_tokens: int, completion_tokens: int) -> None:
                if event == "failed":
                    refused.set()

            early = asyncio.create_task(endpoint.ask(QUESTION, "a", note))
            await refused.wait()  # by now the server has asked to wait
            late = asyncio.create_task(endpoint.ask(QUESTION, "b"))
            while len(waits) < 2 and not late.done():
                await asyncio.sleep(0.001)
            now[0] = 61.0
            passed.set()
            await asyncio.gather(early, late)
            await endpoint.close()

        asyncio.run(main())
    assert times == [0.0, 61.0, 61.0]
    assert min(waits) >= 60


@pytest.mark.parametrize("named", [True, False])
def test_a_rate_limit_slows_a_run_and_does_not_stop_it(named: bool) -> None:
    """So many questions at once that most are refused more often than they have attempts.

    The limit's windows go by what is asked: in each, all questions that are left have asked before five are answered.
    """
    seen: list[Any] = []
    asking: list[asyncio.Future[bool]] = []
    left = 60

    async def handler(request: Any, headers: Any) -> bytes:
        nonlocal left
        mine = asyncio.get_running_loop().create_future()
        asking.append(mine)
        if len(asking) == left:
            left -= 5
            for at, question in enumerate(asking):
                question.set_result(at < 5)
            asking.clear()
        if await mine:
            return GOOD
        await until(seen, 60 - left)
        return error(429, "slow down", **({"retry_after": "0.001"} if named else {}))

    with Server(handler) as server:
        replies = ask(server, times=60, seen=seen, attempts=4, backoff=0.0001)
    assert all(reply.text == "fine" for reply in replies)
    assert Counter(reply.requests for reply in replies) == dict.fromkeys(range(1, 13), 5)


def test_a_wait_of_no_time_is_spread_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is busy for half a second, by a clock that only the client's pauses move."""
    pauses: list[float] = []

    async def pause(endpoint: Endpoint, seconds: float) -> None:
        pauses.append(seconds)

    async def handler(request: Any, headers: Any) -> bytes:
        return GOOD if sum(pauses) > 0.5 else error(429, "slow down", retry_after="0")

    monkeypatch.setattr(Endpoint, "_sleep", pause)
    monkeypatch.setattr("benchmarks.endpoint.client.random", random.Random(0))
    with Server(handler) as server:
        (reply,) = ask(server, backoff=0.2)
    assert reply.text == "fine"
    assert len(set(pauses)) == len(pauses) >= 2


@pytest.mark.parametrize("wait", [None, "0.01"])
def test_a_server_that_is_down_for_a_moment_stops_nothing(wait: str | None) -> None:
    """For so long that all questions are turned down twice before one is answered."""
    asked = Counter[str]()

    async def handler(request: Any, headers: Any) -> bytes:
        question = headers["idempotency-key"]
        asked[question] += 1
        if asked[question] <= 2:
            return error(503, "down", **({"retry_after": wait} if wait else {}))
        while len(asked) < 60 or min(asked.values()) <= 2:
            await asyncio.sleep(0.001)
        return GOOD

    with Server(handler) as server:
        replies = ask(server, times=60)
    assert all((reply.text, reply.requests) == ("fine", 3) for reply in replies)


def test_a_server_that_refuses_all_the_first_questions_stops_the_run() -> None:
    with Server(sequence(error(400, "no such parameter"))) as server:
        with pytest.raises(StoppedError, match=r"HTTP 400.*no such parameter.* for 50 questions"):
            ask(server, times=80)
        assert len(ask(server, times=49)) == 49
    seen: list[Any] = []

    async def answer_one(request: Any, headers: Any) -> bytes:
        if len(server.requests) == 1:
            return GOOD
        await until(seen, 1)
        return error(400, "too long")

    with Server(answer_one) as server:
        replies = ask(server, times=80, seen=seen)
    assert Counter(reply.text for reply in replies) == {"fine": 1, None: 79}


def test_a_lone_surrogate_in_a_question_reaches_the_server_as_a_replacement() -> None:
    async def echo(request: Any, headers: Any) -> bytes:
        return http(200, chat(request["messages"][0]["content"]))

    with Server(echo) as server:

        async def main() -> Reply:
            endpoint = Endpoint(EndpointSettings(server.url, "m"))
            try:
                return await endpoint.ask([{"role": "user", "content": "cut emoji \ud83d?"}], "a")
            finally:
                await endpoint.close()

        assert asyncio.run(main()).text == "cut emoji \ufffd\ufffd\ufffd?"


def test_content_in_parts_is_one_text() -> None:
    parts: Any = [{"type": "text", "text": "up"}, {"type": "text", "text": "regulated"}, {"type": "image"}, None]
    with Server(sequence(http(200, chat(parts)))) as server:
        (reply,) = ask(server)
    assert reply.text == "upregulated"


def test_tokens_beyond_reason_are_estimated_instead() -> None:
    body = json.loads(chat("fine"))
    body["usage"] = {"prompt_tokens": 10**400, "completion_tokens": 3}
    with Server(sequence(http(200, json.dumps(body).encode()))) as server:
        (reply,) = ask(server)
    assert reply.prompt_tokens < 100


def test_an_evaluation_that_a_server_s_missing_logprobs_stopped_goes_on_with_votes(tmp_path: Path) -> None:
    with Server(respond_well) as server:
        args = EvalArguments(
            output_dir=str(tmp_path / "run"),
            model="m",
            engine="openai",
            base_url=server.url,
            data="sample",
            protocol=Protocol(items=4),
        )
        with pytest.raises(InputError, match="gives no logprobs; set scores: votes"):
            run_evaluation(args)
        run = run_evaluation(replace(args, protocol=replace(args.protocol, scores="votes")))
    assert read_manifest(run)["status"] == "done"


def test_retry_after_is_read_in_all_its_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.0
    monkeypatch.setattr("benchmarks.endpoint.reply.time", SimpleNamespace(time=lambda: now))
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after": formatdate(now + 100, usegmt=True)}) == 100
    assert retry_after({"retry-after": formatdate(now - 100, usegmt=True)}) == 0
    for nonsense in ({}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": "-5"}):
        assert retry_after(nonsense) is None


@pytest.mark.parametrize(
    ("limits", "sent"),
    [
        ({"max_requests": 7}, 7),
        ({"max_tokens": 1000}, 7),  # 120 a reply; the last one needs room for its estimate and 100 tokens
        ({"max_cost": 0.01, "price_in": 1.0, "price_out": 20.0}, None),
    ],
)
def test_the_budget_is_never_exceeded(limits: dict[str, Any], sent: int | None) -> None:
    budget = Budget(**limits)
    with Server(respond_well) as server:
        with pytest.raises(BudgetSpentError):
            ask(server, budget, times=50, max_tokens=100)
        n = len(server.requests)
    assert 0 < n < 50
    if "max_requests" in limits:
        assert n == sent
    if "max_tokens" in limits:
        assert budget.prompt_tokens + budget.completion_tokens <= 1000
        assert n >= 7
    if "max_cost" in limits:
        assert budget.cost <= 0.01


def test_retries_count_in_the_budget() -> None:
    budget = Budget(max_requests=3)
    with Server(sequence(error(500, "oops"))) as server, pytest.raises(BudgetSpentError, match="max_requests 3"):
        ask(server, budget)
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", ["half a JSON body", "a hang", "a hang within the body", "no choice"])
def test_what_a_failed_attempt_may_have_cost_is_spent(fault: str, limits: Limits) -> None:
    """The server may have generated all that was allowed."""
    budget = Budget(max_cost=1.0, price_out=1000.0)  # of 200 tokens: 0.2
    handler = sequence(TRANSIENT[fault], limits=limits)
    with Server(handler) as server, pytest.raises(BudgetSpentError, match="max_cost 1"):
        ask(server, budget, times=20, max_tokens=200)
    assert len(server.requests) == 5
    assert budget.cost == pytest.approx(1.0)


def test_a_server_that_fails_for_many_questions_in_a_row_stops_the_run() -> None:
    with Server(sequence(error(503, "down"))) as server:
        with pytest.raises(StoppedError, match="HTTP 503 for 20 questions in a row"):
            ask(server, times=40)
        assert all(reply.error == "HTTP 503" for reply in ask(server, times=19, attempts=3))


def test_one_answer_breaks_the_row() -> None:
    seen: list[Any] = []
    asked = itertools.count(1)

    async def answer_each_sixteenth(request: Any, headers: Any) -> bytes:
        n = next(asked)
        if n > 16:
            await until(seen, 16)
        return GOOD if n % 16 == 0 else error(500, "oops")

    with Server(answer_each_sixteenth) as server:
        replies = ask(server, times=32, seen=seen, attempts=1)
    assert Counter(reply.error for reply in replies) == {"HTTP 500": 30, None: 2}


@pytest.mark.parametrize(
    "body",
    [
        {"api_key": KEY},
        {"apiKey": KEY},
        {"Authorization": f"Bearer {KEY}"},
        {"extra_headers": {"a": KEY}},
        {"X-Org": KEY},
        {"a": {"b": [{"hf_token": KEY}]}},
        {"PASSWORD": KEY},
        {"client_secret": KEY},
        json.dumps({"key": KEY}),
    ],
)
def test_further_keys_that_may_be_secrets_are_refused_and_not_repeated(body: Any) -> None:
    with pytest.raises(InputError, match=r"extra_body: '.*' is named like a secret.*api_key_env") as caught:
        read_extra_body(body)
    assert KEY not in str(caught.value)


def test_further_keys_that_are_none_are_taken() -> None:
    body = {"max_completion_tokens": 9, "thinking": {"budget_tokens": 5}, "stop_token_ids": [1], "logit_bias": {"1": 2}}
    assert read_extra_body(body) == read_extra_body(json.dumps(body)) == body
    assert read_extra_body(None) == {}


def test_an_evaluation_s_further_keys_are_sent_and_recorded_but_for_the_protocol_s_own() -> None:
    body = {"chat_template_kwargs": {"enable_thinking": False}}
    protocol = Protocol(data="d", max_tokens=16, scores="votes")
    with Server(respond_well) as server:
        engine = open_engine("openai", "m", base_url=server.url, extra_body=body)
        engine.generate([Request(QUESTION, 0)], protocol)
        assert server.requests[0]["chat_template_kwargs"] == body["chat_template_kwargs"]
        assert server.requests[0]["top_p"] == 1.0
    assert engine.facts()["extra_body"] == body
    for keys, words in (({"top_p": 0.9}, "'top_p' is set by the protocol"), ({"api_key": KEY}, "like a secret")):
        with pytest.raises(InputError, match=words):
            open_engine("openai", "m", base_url="http://localhost/v1", extra_body=keys)
    with pytest.raises(InputError, match="transformers takes no extra_body; leave it out, or use engine: openai"):
        open_engine("transformers", "m", extra_body=body)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{KEY}@host/v1",
        f"http://{KEY}@host/v1",
        f"https://host/v1?api-key={KEY}",
        f"https://host/v1#{KEY}",
        f"ftp://{KEY}",
        f"{KEY}",
        f"http://[{KEY}",
    ],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="base_url") as caught:
        EndpointSettings(url, "m")
    assert KEY not in str(caught.value)


def test_a_key_that_the_server_echoes_is_cut_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(sequence(http(200, chat(f"your key is {KEY}", reasoning_content=f"{KEY}!")))) as server:
        (reply,) = ask(server)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert (reply.text, reply.reasoning) == ("your key is [key]", "[key]!")
    with Server(sequence(error(400, f"bad header Bearer {KEY}"))) as server:
        (reply,) = ask(server)
    assert KEY not in str(reply)


def test_a_key_that_is_echoed_elsewhere_is_cut_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server(sequence(http(200, chat("fine", f"stop {KEY}")))) as server:
        (reply,) = ask(server, attempts=1)
    assert reply.error == "the server broke the reply off (finish_reason: stop [key])"


@pytest.mark.parametrize("key", ["x", "none", "test", "local"])
def test_a_short_key_changes_no_reply(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    text = "<think>no local test, none</think><answer>not differentially expressed</answer>"
    with Server(sequence(http(200, chat(text)))) as server:
        (reply,) = ask(server)
    assert reply.text == text


@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", "sk-plänted"])
def test_a_key_that_cannot_be_one_is_named_and_not_repeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with Server(respond_well) as server, pytest.raises(InputError, match="OPENAI_API_KEY: holds white space") as caught:
        ask(server)
    assert not server.requests
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize("name", ["model", "messages", "n", "stream", "temperature", "max_tokens"])
def test_further_keys_do_not_replace_what_is_recorded(name: str) -> None:
    with pytest.raises(InputError, match=f"extra_body: '{name}' is not taken from there"):
        EndpointSettings("http://localhost:8000/v1", "m", extra_body={name: 1})


@pytest.mark.parametrize(
    "settings",
    [{"base_url": f"http://localhost/{KEY}/v1"}, {"model": KEY}, {"extra_body": {"metadata": {"user": f"u {KEY}"}}}],
)
def test_a_key_in_what_is_stored_is_refused_and_not_repeated(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(InputError, match="holds the value of OPENAI_API_KEY") as caught:
        EndpointSettings(**{"base_url": "http://localhost/v1", "model": "m", **settings})
    assert KEY not in str(caught.value)


def test_a_question_keeps_its_idempotency_key() -> None:
    with Server(sequence(error(500, "x"), GOOD)) as server:
        ask(server)
    assert Counter(headers["idempotency-key"] for headers in server.headers) == {"q0": 2}


def keeping(*responses: bytes) -> Any:
    """A handler that gives the same response again to the same key."""
    kept: dict[str, bytes] = {}
    new = iter(responses)

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        key = headers["idempotency-key"]
        kept[key] = kept[key] if key in kept else next(new)
        return kept[key]

    return handler


@pytest.mark.parametrize("body", [b'{"choices": []}', b"<html>", chat("half", "error"), chat("half", "")])
def test_a_reply_of_no_use_is_not_asked_for_under_the_same_key(body: bytes) -> None:
    with Server(keeping(http(200, body), http(200, body), GOOD)) as server:
        (reply,) = ask(server)
    assert reply.error is None
    assert [headers["idempotency-key"] for headers in server.headers] == ["q0", "q0-1", "q0-2"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("place", ["/other/v1/chat/completions", "http://127.0.0.1:1/other/v1/chat/completions?a=b"])
def test_a_redirection_is_told_and_not_followed(status: int, place: str) -> None:
    with Server(sequence(http(status, b"", {"Location": place}))) as server:
        with pytest.raises(
            InputError, match=rf"/v1: redirects to http://127.*/other/v1 \(HTTP {status}\); set base_url"
        ):
            ask(server)
        assert len(server.requests) == 1


def test_ctrl_c_between_a_future_s_check_and_its_use_leaves_the_future_alone() -> None:
    """`Event.set` does both in one callback; asyncio's own handler cancels the future in between."""
    failures: list[dict[str, Any]] = []
    cancelled = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        answer: asyncio.Future[None] = loop.create_future()

        def receive() -> None:
            if not answer.done():
                signal.raise_signal(signal.SIGINT)
                answer.set_result(None)

        loop.call_soon(receive)
        try:
            await answer
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_async(work())
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert cancelled == [True]
    assert failures == []


@pytest.mark.parametrize("within", ["plain code", "a running loop", "a thread"])
def test_run_async_gives_the_result_and_lets_errors_through(within: str) -> None:
    async def work(value: int) -> int:
        await asyncio.sleep(0)
        return 10 // value

    async def notebook(value: int) -> int:
        return run_async(work(value))

    def run(value: int) -> int:
        if within == "a running loop":
            return asyncio.run(notebook(value))
        if within == "a thread":
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(run_async, work(value)).result()
        return run_async(work(value))

    assert run(5) == 2
    with pytest.raises(ZeroDivisionError):
        run(0)
