"""A client for one model (teacher, critic or model under evaluation) behind an OpenAI-compatible endpoint."""

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import urljoin, urlsplit

from benchmarks.chat import Message, without_surrogates
from benchmarks.endpoint.budget import Budget
from benchmarks.endpoint.reply import TOKENS_PER_CHARACTER, AttemptError, Reply, read_reply, retry_after
from benchmarks.endpoint.settings import SHORTEST_KEY, EndpointSettings
from rewards import CheckError, InputError

_T = TypeVar("_T")
_LONGEST_PAUSE: Final = 60.0  # seconds between two attempts where the server names no time
_QUOTA: Final = ("insufficient_quota", "billing_hard_limit_reached")  # codes of a 429 that waiting does not help
_OUTAGE: Final = 20  # if so many questions in a row fail by 5xx, the server is at fault, not the questions
_NEVER: Final = 50  # likewise if so many fail in any way before the first answer
_PLAIN: Final = ({"role": "user", "content": "Say yes."},)  # a question that no server refuses if the key is right


def run_async(work: Coroutine[Any, Any, _T], on_interrupt: Callable[[], None] | None = None) -> _T:
    """Run a coroutine to its end from synchronous code. Within a running loop (a notebook's), it runs in a thread.

    `asyncio.run` cancels at the point where the signal arrives. That can be between the check of a future and its use,
    which then fails with a traceback. Here the loop itself cancels, between two callbacks.

    Args:
        work: the coroutine.
        on_interrupt: called at the first Ctrl-C, after which `work` should end by itself; a second Ctrl-C cancels it.
            None: the first Ctrl-C cancels it.

    Returns:
        What `work` returns.

    Raises:
        KeyboardInterrupt: Ctrl-C cancelled `work`.
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
        return asyncio.run(work)  # SIGINT is handled elsewhere, or ignored on purpose (nohup)
    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise


class StoppedError(CheckError):
    """The server takes no more questions. No item is at fault."""


@dataclass
class _Question:
    """A question under way.

    Attributes:
        messages, request_id, note, extra: see `Endpoint.ask`.
        estimate: estimated tokens of its prompt.
        answers: number of questions that the endpoint had answered when this one was last tried.
        tries: requests sent for it.
        attempts: tries that count against the `attempts` of the settings.
        useless: complete replies to it that could not be used.
        spent_in, spent_out: prompt and completion tokens charged for it.
    """

    messages: Sequence[Message]
    request_id: str
    note: Callable[[str, int, int], Awaitable[None]] | None
    extra: Mapping[str, Any]
    estimate: int
    answers: int
    tries: int = 0
    attempts: int = 0
    useless: int = 0
    spent_in: int = 0
    spent_out: int = 0

    @property
    def key(self) -> str:
        """Its `Idempotency-Key`. It changes after an unusable reply: with the same key the server may repeat it."""
        return f"{self.request_id}-{self.useless}" if self.useless else self.request_id

    async def report(self, event: str, tokens_in: int, tokens_out: int) -> None:
        """Report an event to `note`, if there is one."""
        if self.note is not None:
            await self.note(event, tokens_in, tokens_out)


class Endpoint:
    """One model behind an endpoint.

    An attempt is repeated after:

    - a connection error or a timeout;
    - HTTP 408, 409, 429 or 5xx (a 429 does not count as an attempt while the server answers other questions);
    - a reply that is cut off, is not UTF-8 JSON, or has no choice.

    `Retry-After` holds for all questions at once. A question that fails for good gives a `Reply` with `error`.

    The run stops where the server is at fault, not an item. That is the case if the server:

    - cannot be reached, or answers every question with 429;
    - fails by 5xx for 20 questions in a row, or in any way for the first 50;
    - refuses the key or does not know the model.

    A refusal (401, 403 or 404) may concern one question or all. A plain question decides: if it is answered, only the
    refused question has failed. After a 403 or 404 it is not sent if any question has been answered.

    Args:
        settings: how to send requests.
        budget: may be shared with other endpoints; None for no limits.
        connections: number of connections kept open.

    Raises:
        InputError: the key in the environment has characters that no key has.
    """

    def __init__(self, settings: EndpointSettings, budget: Budget | None = None, connections: int = 100) -> None:
        import openai

        self.settings = settings
        self.budget = budget or Budget()
        self._key = os.environ.get(settings.api_key_env)
        if self._key and not (self._key.isascii() and self._key.isprintable() and " " not in self._key):
            raise InputError(
                f"{settings.api_key_env}: holds white space or other characters that no key has; set it again"
            )
        self._not_before = 0.0
        self._answers = 0
        self._access_checked = False
        self._access_lock = asyncio.Lock()
        self._ending = asyncio.Event()
        self._failed: set[str] = set()  # questions that failed for good since the server last answered one
        self._down: set[str] = set()  # those of them that failed by 5xx
        self._errors: tuple[type[Exception], ...] = (openai.OpenAIError, *_transport_errors())
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=self._key or "none",  # the client needs one; servers without keys ignore it
            max_retries=0,
            timeout=settings.timeout,
            # A redirection that is followed may turn the request into a GET without its body.
            http_client=openai.DefaultAsyncHttpxClient(limits=_limits(connections), follow_redirects=False),
        )

    @property
    def failing(self) -> bool:
        """Whether the server may be at fault: the last questions failed by 5xx, or all so far failed in any way."""
        return bool(self._down) or (bool(self._failed) and not self._answers)

    def end(self) -> None:
        """Make no further attempts. A question then raises `StoppedError`, unless its current attempt is answered."""
        self._ending.set()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def redact(self, text: str) -> str:
        """Return the text without the key, which servers may echo; a key of fewer than 8 characters is not removed."""
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
            messages: the chat; its last message is the user's.
            request_id: sent as `Idempotency-Key`; a server that supports it charges for the question once. After an
                unusable reply a number is added.
            note: called with `sent` before each attempt, with the prompt and completion tokens reserved for it, and
                with `failed` after a failed one, with the tokens it may have cost.
            extra: keys of this request alone, such as its seed.

        Returns:
            The reply. A question that failed for good has `error` set.

        Raises:
            BudgetSpentError: the budget does not allow the next attempt.
            StoppedError: the server cannot be reached, stays busy, fails for many questions in a row, or asks to wait
                longer than `max_wait`.
            InputError: the server refuses the key, does not know the model, or redirects.
        """
        estimate = int(sum(len(message["content"]) for message in messages) * TOKENS_PER_CHARACTER) + 16
        question = _Question(messages, request_id, note, extra or {}, estimate, self._answers)
        while True:
            try:
                reply = await self._try(question)
            except AttemptError as failure:
                if failure.refused:
                    await self._check_access(failure.refused)
                if failure.final or question.attempts >= self.settings.attempts:
                    return self._give_up(question, failure)
                await self._sleep(self._pause(question.tries, failure))
            else:
                self._note_answer()
                return replace(
                    reply,
                    prompt_tokens=question.spent_in,
                    completion_tokens=question.spent_out,
                    requests=question.tries,
                )

    async def _try(self, question: _Question) -> Reply:
        """Send a question once, as soon as it may be sent, and account for its tokens."""
        await self._wait_for_turn()
        reserved = await self.budget.reserve(question.estimate, self.settings.max_tokens)
        used = (0, 0)
        question.tries += 1
        try:
            await question.report("sent", *reserved)
            reply = await self._attempt(question.messages, question.key, question.estimate, question.extra)
            used = (reply.prompt_tokens, reply.completion_tokens)
            return reply
        except AttemptError as failure:
            used = reserved if failure.charged else (0, 0)
            question.useless += failure.answered
            await question.report("failed", *used)
            self._note_attempt(question, failure)
            raise
        except (InputError, StoppedError):
            await question.report("failed", 0, 0)
            raise
        finally:
            await self.budget.settle(reserved, *used)
            question.spent_in += used[0]
            question.spent_out += used[1]

    async def _check_access(self, status: int) -> None:
        """After a refusal, send a plain question to learn whether the server refuses one question or all.

        It is not sent if a question has been answered before, except after a 401: a key may expire within a run. Its
        answer does not count as an answer to a question of the run.

        Raises:
            InputError: the server refuses the plain question too, so the key or the model is wrong.
        """
        async with self._access_lock:
            if status != 401 and (self._answers or self._access_checked):
                return
            plain = _Question(_PLAIN, "plain question", None, {}, len(_PLAIN[0]["content"]), self._answers)
            try:
                await self._try(plain)
            except AttemptError as failure:
                if failure.refused:
                    raise self._access_error(failure.refused) from None
            self._access_checked = True  # also where the server is busy or broken, which says nothing about the key

    def _access_error(self, status: int) -> InputError:
        settings = self.settings
        if status == 404:
            return InputError(
                f"{settings.base_url}: knows no model {settings.model!r} (HTTP 404); check the name and that the URL "
                "ends in /v1"
            )
        return InputError(
            f"{settings.base_url}: refuses the key (HTTP {status}); set {settings.api_key_env} in the environment"
        )

    def _redirection_error(self, response: Any, status: int) -> InputError:
        parts = urlsplit(urljoin(str(response.url), response.headers.get("location", "")))
        place = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        place = self.redact(place.removesuffix("/").removesuffix("/chat/completions"))
        return InputError(
            f"{self.settings.base_url}: redirects to {place} (HTTP {status}); set base_url to that address"
        )

    async def _wait_for_turn(self) -> None:
        """Wait until the time that the server asked any question to wait for."""
        while (wait := self._not_before - time.monotonic()) > 0 and not self._ending.is_set():
            await self._sleep(wait)
        if self._ending.is_set():
            raise StoppedError(f"{self.settings.base_url}: no further attempt, as the run is ending")

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def _pause(self, tries: int, failure: AttemptError) -> float:
        """Seconds before the next try. They grow, and differ at random, so that questions do not return all at once."""
        growing = min(_LONGEST_PAUSE, self.settings.backoff * 2.0 ** (tries - 1))
        return growing * random.uniform(0.5, 1.0) if failure.wait is None else failure.wait + growing * random.random()

    def _note_answer(self) -> None:
        self._answers += 1
        self._failed.clear()
        self._down.clear()

    def _note_attempt(self, question: _Question, failure: AttemptError) -> None:
        """Count a failed attempt. If the server asks to wait, all questions wait."""
        if failure.wait is not None:
            if failure.wait > self.settings.max_wait:
                raise StoppedError(
                    f"{self.settings.base_url}: asks to wait {failure.wait:g} s, more than max_wait "
                    f"({self.settings.max_wait:g} s); run the same command again later"
                ) from None
            self._not_before = max(self._not_before, time.monotonic() + failure.wait)
        # A server that is busy answering other questions has not refused this one.
        question.attempts += not (failure.server and self._answers > question.answers)
        question.answers = self._answers

    def _give_up(self, question: _Question, failure: AttemptError) -> Reply:
        """Return the reply of a question that failed for good, or stop the run where the server is at fault."""
        url, reason = self.settings.base_url, failure.reason
        if failure.server:
            raise StoppedError(f"{url}: {reason} after {self.settings.attempts} attempts")
        self._failed.add(question.request_id)
        if failure.outage:
            self._down.add(question.request_id)
        if len(self._down) >= _OUTAGE:
            raise StoppedError(f"{url}: {reason} for {_OUTAGE} questions in a row")
        if len(self._failed) >= _NEVER and not self._answers:
            raise StoppedError(f"{url}: {reason} for {_NEVER} questions, and no answer yet")
        return Reply(None, None, "error", question.spent_in, question.spent_out, question.tries, reason)

    async def _attempt(
        self, messages: Sequence[Message], request_id: str, estimate: int, extra: Mapping[str, Any]
    ) -> Reply:
        settings = self.settings
        body = bytearray()
        answering = False
        try:
            async with asyncio.timeout(settings.timeout), self._request(messages, request_id, extra) as response:
                answering = True
                async for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > settings.max_reply_bytes:
                        reason = f"the reply is longer than {settings.max_reply_bytes:,} bytes"
                        return Reply(None, None, "error", estimate, settings.max_tokens, 1, reason)
        except self._errors as error:
            self._explain(error, answering)
        try:
            return read_reply(bytes(body), estimate, self.redact)
        except AttemptError as failure:
            raise replace(failure, answered=True) from None

    def _request(self, messages: Sequence[Message], request_id: str, extra: Mapping[str, Any]) -> Any:
        """Return the request as an async context, whose value is the streamed response."""
        settings = self.settings
        temperature = {} if settings.temperature is None else {"temperature": settings.temperature}
        return self._client.chat.completions.with_streaming_response.create(
            model=settings.model,
            messages=[],  # they are in `extra_body`, since the client's own validation of messages is slow
            extra_headers={"Idempotency-Key": request_id},
            extra_body={
                "messages": [{key: without_surrogates(text) for key, text in one.items()} for one in messages],
                settings.max_tokens_key: settings.max_tokens,
                **temperature,
                **settings.extra_body,
                **extra,
            },
        )

    def _explain(self, error: Exception, answering: bool) -> NoReturn:
        """Raise what an error of the client means: that another attempt may succeed, or that none will."""
        import openai

        settings = self.settings
        match error:
            case openai.AuthenticationError() if not self._answers:
                raise self._access_error(error.status_code) from None
            case openai.AuthenticationError() | openai.PermissionDeniedError() | openai.NotFoundError():
                status = error.status_code
                raise AttemptError(
                    f"HTTP {status}: the server refuses this question", final=True, refused=status
                ) from None
            case openai.APIStatusError():
                self._refused(error)
            case TimeoutError() | openai.APITimeoutError():
                raise AttemptError(f"no reply within {settings.timeout:g} s", charged=True) from None
            case openai.APIConnectionError():
                if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
                    raise AttemptError("cannot be reached", server=True) from None
                raise AttemptError("the connection was cut", charged=True) from None
            case openai.OpenAIError():
                raise error
        raise AttemptError("the connection was cut" if answering else "the connection failed", charged=True) from None

    def _refused(self, error: Any) -> NoReturn:
        status = int(error.status_code)
        if 300 <= status < 400:
            raise self._redirection_error(error.response, status) from None
        wait = retry_after(error.response.headers)
        if status == 429:
            if getattr(error, "code", None) in _QUOTA:
                raise StoppedError(
                    f"{self.settings.base_url}: the account's quota is used up (HTTP 429); raise it and run again"
                ) from None
            raise AttemptError("HTTP 429: too many requests", wait, server=True) from None
        if status == 402:
            raise StoppedError(f"{self.settings.base_url}: asks for payment (HTTP 402); pay and run again") from None
        if status in (408, 409) or status >= 500:
            raise AttemptError(f"HTTP {status}", wait, outage=status >= 500) from None
        # Only the server's complaint about the request is quoted; other bodies may echo credentials.
        detail = f": {' '.join(str(error).split())}" if status in (400, 422) else ""
        said = f"HTTP {status}{detail}"
        said = said.replace(self._key, "[key]") if self._key else said  # short keys too, since this is no answer
        raise AttemptError(said[:300], final=True) from None


def _http() -> Any:
    try:
        import httpx2 as http
    except ImportError:  # openai before version 3
        import httpx as http  # type: ignore[no-redef]
    return http


def _limits(connections: int) -> Any:
    return _http().Limits(max_connections=connections, max_keepalive_connections=connections)


def _transport_errors() -> tuple[type[Exception], ...]:
    http = _http()
    return (http.HTTPError, http.StreamError, OSError)
