"""A model behind an OpenAI-compatible endpoint: teacher, critic or evaluated; asked with patience, within a budget."""

import asyncio
import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Final, NoReturn, TypeVar

from benchmarks.chat import Message, read_message, without_surrogates
from benchmarks.endpoint.budget import Budget
from benchmarks.endpoint.settings import SHORTEST_KEY, EndpointSettings
from rewards import CheckError, InputError

_T = TypeVar("_T")
_LONGEST_PAUSE: Final = 60.0  # seconds between two attempts where the server names no time
_QUOTA: Final = ("insufficient_quota", "billing_hard_limit_reached")  # codes of a 429 that waiting does not mend
_OUTAGE: Final = 20  # so many questions in a row that fail by 5xx are the server's fault, not theirs
_NEVER: Final = 50  # and so many that fail in any way before the first answer
_LONGEST_REASON: Final = 40
_MOST_TOKENS: Final = 10**9
# Where the server does not say: prose has a token per four characters, gene symbols more; half errs on the safe side.
_TOKENS_PER_CHARACTER: Final = 0.5


def run_async(work: Coroutine[Any, Any, _T], on_interrupt: Callable[[], None] | None = None) -> _T:
    """Run `work` to its end from plain code; from within a running loop, such as a notebook's, in a thread.

    Args:
        work: what to run.
        on_interrupt: called at the first Ctrl-C, after which `work` is to end by itself; a second one cancels it.
            Without it the first one does.

    Raises:
        KeyboardInterrupt: Ctrl-C came; `work` was cancelled first. `asyncio.run` cancels from wherever the signal
            lands, also between a future's check and its use, which fails with a traceback; here the loop does it
            between two callbacks.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, work).result()
    interrupted = asked = False

    async def interruptible() -> _T:
        task = asyncio.current_task()
        assert task is not None

        def interrupt() -> None:
            nonlocal interrupted, asked
            if on_interrupt is not None and not asked:
                asked = True
                on_interrupt()
                return
            interrupted = True
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        return await work

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return asyncio.run(work)  # nohup and others set the signal aside on purpose
    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


@dataclass(frozen=True)
class Reply:
    """What became of one question.

    Attributes:
        text: the message's content; None if the question failed.
        reasoning: the model's own thinking where the server keeps it apart.
        finish_reason: `stop`, `length`, `content_filter`, `error`, or what else the server says.
        prompt_tokens, completion_tokens: charged over all attempts; estimates where the server did not say.
        requests: attempts made.
        error: why it failed for good; None if it did not.
        logprobs: the server's entry for each generated token, as it came; None where it gave none.
    """

    text: str | None
    reasoning: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    requests: int
    error: str | None = None
    logprobs: list[Any] | None = None


class StoppedError(CheckError):
    """The server cannot be asked any more, which is no item's fault."""


class _Again(Exception):  # noqa: N818 - control flow, never shown
    """An attempt failed in a way that another may not.

    Args:
        reason: in words.
        wait: seconds that the server asks to wait.
        charged: whether the server may have charged for it.
        server: whether the server as a whole is at fault, not this question.
        outage: whether the server is at fault if many questions in a row fail by this.
        final: whether no other attempt would mend it.
    """

    def __init__(
        self,
        reason: str,
        wait: float | None = None,
        *,
        charged: bool = False,
        server: bool = False,
        outage: bool = False,
        final: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason, self.wait, self.charged = reason, wait, charged
        self.server, self.outage, self.final = server, outage, final


class Endpoint:
    """One model behind an endpoint.

    Failed attempts are made again: connection trouble, a timeout, 408, 409, 429, 5xx, a reply that is cut, is no UTF-8
    JSON, or has no choice. `Retry-After` is honoured, for all questions at once, and a 429 is no attempt while the
    server answers other questions. A question that fails for good is a `Reply` with `error`. A server that is out of
    reach, answers nobody but with 429, fails for 20 questions in a row by 5xx or for the first 50 in any way, refuses
    the key or does not know the model stops the run: no item is to blame.

    Args:
        settings: how to ask.
        budget: shared with other endpoints; None for none.
        connections: connections kept open.

    Raises:
        InputError: the key in the environment cannot be one.
    """

    def __init__(self, settings: EndpointSettings, budget: Budget | None = None, connections: int = 100) -> None:
        import openai

        self.settings = settings
        self.budget = budget or Budget()
        self._key = os.environ.get(settings.api_key_env)
        if self._key and not (self._key.isascii() and self._key.isprintable() and " " not in self._key):
            raise InputError(
                f"{settings.api_key_env}: holds white space or other characters than a key has; set it again"
            )
        self._not_before = 0.0
        self._answers = 0
        self._ending = asyncio.Event()
        self._failed: set[str] = set()  # questions that failed for good since the server last answered one
        self._down: set[str] = set()  # those of them that failed by 5xx
        self._transport_errors = _transport_errors()
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=self._key or "none",  # the client wants one; servers without keys ignore it
            max_retries=0,
            timeout=settings.timeout,
            http_client=openai.DefaultAsyncHttpxClient(limits=_limits(connections)),
        )

    @property
    def failing(self) -> bool:
        """Whether the last questions failed by 5xx, or all so far in any way, so that the server may be at fault."""
        return bool(self._down) or (bool(self._failed) and not self._answers)

    def end(self) -> None:
        """Make no further attempts: a question raises `StoppedError` unless its attempt under way is answered."""
        self._ending.set()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def redact(self, text: str) -> str:
        """Return the text without the key, which servers may echo; one of fewer than 8 characters is left."""
        return text.replace(self._key, "[key]") if self._key and len(self._key) >= SHORTEST_KEY else text

    async def ask(
        self,
        messages: Sequence[Message],
        request_id: str,
        note: Callable[[str, int, int], Awaitable[None]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Ask one question.

        Args:
            messages: the chat, the last message from the user.
            request_id: sent as `Idempotency-Key`; a server that honours it charges for the question once.
            note: told `sent` before each attempt leaves, with the prompt and completion tokens set aside for it, and
                `failed` where it failed, with those it may have cost.
            extra: keys of this request alone, such as its seed.

        Raises:
            BudgetSpentError: the budget does not allow the next attempt.
            StoppedError: the server is out of reach, stays too busy, fails for many questions in a row, or asks to wait
                too long.
            InputError: it refuses the key or does not know the model.
        """
        estimate = int(sum(len(message["content"]) for message in messages) * _TOKENS_PER_CHARACTER) + 16
        spent_in = spent_out = attempts = tries = 0
        failure = _Again("no attempt")
        answers = self._answers
        while attempts < self.settings.attempts and not failure.final:
            if tries:
                await self._sleep(self._pause(tries, failure))
            while (wait := self._not_before - time.monotonic()) > 0 and not self._ending.is_set():
                await self._sleep(wait)
            if self._ending.is_set():
                raise StoppedError(f"{self.settings.base_url}: no further attempt, as the run is ending")
            reserved = await self.budget.reserve(estimate, self.settings.max_tokens)
            used = (0, 0)
            tries += 1
            try:
                if note is not None:
                    await note("sent", *reserved)
                reply = await self._attempt(messages, request_id, estimate, extra or {})
                self._answers += 1
                self._failed.clear()
                self._down.clear()
                used = (reply.prompt_tokens, reply.completion_tokens)
                return replace(
                    reply, prompt_tokens=spent_in + used[0], completion_tokens=spent_out + used[1], requests=tries
                )
            except _Again as again:
                failure = again
                used = reserved if again.charged else (0, 0)
                if note is not None:
                    await note("failed", *used)
                if again.wait is not None:
                    self._wait_for(again.wait)
                # Who is busy answering others has not turned this question down.
                attempts += not (again.server and self._answers > answers)
                answers = self._answers
            except (InputError, StoppedError):
                if note is not None:
                    await note("failed", 0, 0)
                raise
            finally:
                await self.budget.settle(reserved, *used)
            spent_in, spent_out = spent_in + used[0], spent_out + used[1]
        if failure.server:
            raise StoppedError(f"{self.settings.base_url}: {failure.reason} after {self.settings.attempts} attempts")
        self._note_failure(request_id, failure)
        return Reply(None, None, "error", spent_in, spent_out, tries, failure.reason)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def _wait_for(self, seconds: float) -> None:
        if seconds > self.settings.max_wait:
            raise StoppedError(
                f"{self.settings.base_url}: asks to wait {seconds:g} s, and a run waits {self.settings.max_wait:g} s; "
                "run the same command again then"
            ) from None
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _note_failure(self, request_id: str, failure: _Again) -> None:
        self._failed.add(request_id)
        if failure.outage:
            self._down.add(request_id)
        if len(self._down) >= _OUTAGE:
            raise StoppedError(f"{self.settings.base_url}: {failure.reason} for {_OUTAGE} questions in a row")
        if len(self._failed) >= _NEVER and not self._answers:
            raise StoppedError(f"{self.settings.base_url}: {failure.reason} for {_NEVER} questions, and no answer yet")

    def _pause(self, tries: int, failure: _Again) -> float:
        """Seconds before the next try: growing, and different for each question, so that they do not come at once."""
        growing = min(_LONGEST_PAUSE, self.settings.backoff * 2.0 ** (tries - 1))
        return growing * random.uniform(0.5, 1.0) if failure.wait is None else failure.wait + growing * random.random()

    async def _attempt(
        self, messages: Sequence[Message], request_id: str, estimate: int, extra: Mapping[str, Any]
    ) -> Reply:
        import openai

        settings = self.settings
        limit = {settings.max_tokens_key: settings.max_tokens}
        temperature = {} if settings.temperature is None else {"temperature": settings.temperature}
        body = bytearray()
        answering = False
        try:
            async with (
                asyncio.timeout(settings.timeout),
                self._client.chat.completions.with_streaming_response.create(
                    model=settings.model,
                    messages=[],  # they go with the extra body, which spares the client's costly walk through them
                    extra_headers={"Idempotency-Key": request_id},
                    extra_body={
                        "messages": [{key: without_surrogates(text) for key, text in one.items()} for one in messages],
                        **limit,
                        **temperature,
                        **settings.extra_body,
                        **extra,
                    },
                ) as response,
            ):
                answering = True
                async for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > settings.max_reply_bytes:
                        return _failed(f"the reply is longer than {settings.max_reply_bytes:,} bytes", estimate, self)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(
                f"{settings.base_url}: refuses the key (HTTP {error.status_code}); set {settings.api_key_env} in the "
                "environment"
            ) from None
        except openai.NotFoundError:
            raise InputError(
                f"{settings.base_url}: knows no model {settings.model!r} (HTTP 404); check the name and that the URL "
                "ends in /v1"
            ) from None
        except openai.APIStatusError as error:
            self._refused(error)
        except (TimeoutError, openai.APITimeoutError):
            raise _Again(f"no reply within {settings.timeout:g} s", charged=True) from None
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
                raise _Again("cannot be reached", server=True) from None
            raise _Again("the connection was cut", charged=True) from None
        except self._transport_errors:
            raise _Again("the connection was cut" if answering else "the connection failed", charged=True) from None
        return self._read(bytes(body), estimate)

    def _refused(self, error: Any) -> NoReturn:
        status = int(error.status_code)
        wait = retry_after(error.response.headers)
        if status == 429:
            if getattr(error, "code", None) in _QUOTA:
                raise StoppedError(f"{self.settings.base_url}: the account's quota is used up (HTTP 429)") from None
            raise _Again("HTTP 429: too many requests", wait, server=True) from None
        if status == 402:
            raise StoppedError(f"{self.settings.base_url}: asks for payment (HTTP 402)") from None
        if status in (408, 409) or status >= 500:
            raise _Again(f"HTTP {status}", wait, outage=status >= 500) from None
        # Only a complaint about the request is worth quoting; other bodies may echo credentials.
        detail = f": {' '.join(str(error).split())}" if status in (400, 422) else ""
        said = f"HTTP {status}{detail}"
        said = said.replace(self._key, "[key]") if self._key else said  # a short one too: no answer is harmed here
        raise _Again(said[:300], final=True) from None

    def _read(self, body: bytes, estimate: int) -> Reply:
        """Read the body of a reply; `estimate` are the prompt's tokens where the server does not count them."""
        choice, message, usage = _first_choice(body)
        said = read_message(message)
        finish = self.redact(str(choice.get("finish_reason") or "unknown"))[:_LONGEST_REASON]
        text = self.redact(said.text or "")
        reasoning = None if said.reasoning is None else self.redact(said.reasoning)
        tokens_in, tokens_out = (_count(usage, "prompt_tokens"), _count(usage, "completion_tokens"))
        if tokens_in is None or tokens_out is None:
            tokens_in = estimate
            tokens_out = int((len(text) + len(reasoning or "")) * _TOKENS_PER_CHARACTER)
        if finish == "content_filter" or message.get("refusal"):
            return Reply(None, None, "content_filter", tokens_in, tokens_out, 1, "the server filtered the content")
        if said.text is None and not reasoning:
            raise _Again("the reply has no content", charged=True)
        logprobs = choice.get("logprobs")
        entries = logprobs.get("content") if isinstance(logprobs, dict) else None
        return Reply(
            text, reasoning, finish, tokens_in, tokens_out, 1, logprobs=entries if isinstance(entries, list) else None
        )


def _first_choice(body: bytes) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Return a reply's first choice, the choice's message, and what the server says it used."""
    try:
        reply = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise _Again("the reply is no UTF-8 text", charged=True) from None
    except (ValueError, RecursionError):
        raise _Again("the reply is no JSON", charged=True) from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise _Again("the reply has no choice", charged=True)
    return choice, message, reply.get("usage")


def _failed(reason: str, estimate: int, endpoint: Endpoint) -> Reply:
    return Reply(None, None, "error", estimate, endpoint.settings.max_tokens, 1, reason)


def _count(usage: Any, key: str) -> int | None:
    value = usage.get(key) if isinstance(usage, dict) else None
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if is_count else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError, TypeError):
        return None


def _http() -> Any:
    try:
        import httpx2 as http
    except ImportError:  # the client before its version 3
        import httpx as http  # type: ignore[no-redef]
    return http


def _limits(connections: int) -> Any:
    return _http().Limits(max_connections=connections, max_keepalive_connections=connections)


def _transport_errors() -> tuple[type[Exception], ...]:
    http = _http()
    return (http.HTTPError, http.StreamError, OSError)
