"""A model behind an OpenAI-compatible endpoint: teacher, critic or evaluated; asked with patience, within a budget."""

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
_QUOTA: Final = ("insufficient_quota", "billing_hard_limit_reached")  # codes of a 429 that waiting does not mend
_OUTAGE: Final = 20  # so many questions in a row that fail by 5xx are the server's fault, not theirs
_NEVER: Final = 50  # and so many that fail in any way before the first answer
_PLAIN: Final = ({"role": "user", "content": "Say yes."},)  # what no server turns away that lets anybody in


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


class StoppedError(CheckError):
    """The server cannot be asked any more, which is no item's fault."""


@dataclass
class _Question:
    """A question on its way.

    Attributes:
        messages, request_id, note, extra: see `Endpoint.ask`.
        estimate: tokens of its prompt.
        answers: questions that the endpoint had answered when this one was last tried.
        tries: requests sent for it.
        attempts: those of them that count against the settings' `attempts`.
        useless: whole replies to it that could not be used.
        spent_in, spent_out: tokens charged for them.
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
        """Its `Idempotency-Key`, another one after a reply of no use: under the same one it might come again."""
        return f"{self.request_id}-{self.useless}" if self.useless else self.request_id

    async def tell(self, event: str, tokens_in: int, tokens_out: int) -> None:
        """Note an event, where somebody keeps notes."""
        if self.note is not None:
            await self.note(event, tokens_in, tokens_out)


class Endpoint:
    """One model behind an endpoint.

    Failed attempts are made again: connection trouble, a timeout, 408, 409, 429, 5xx, a reply that is cut, is no UTF-8
    JSON, has no choice, or was broken off by the server. `Retry-After` is honoured, for all questions at once, and a
    429 is no attempt while the server answers other questions. A question that fails for good is a `Reply` with
    `error`. A server that is out of reach, answers nobody but with 429, fails for 20 questions in a row by 5xx or for
    the first 50 in any way, refuses the key or does not know the model stops the run: no item is to blame. A refusal
    (403, 404) of one question, while others or a plain one are answered, is that question's failure; so is one of the
    key (401) after others were answered, while a plain one still is.

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
        self._let_in = False
        self._knocking = asyncio.Lock()
        self._ending = asyncio.Event()
        self._failed: set[str] = set()  # questions that failed for good since the server last answered one
        self._down: set[str] = set()  # those of them that failed by 5xx
        self._errors: tuple[type[Exception], ...] = (openai.OpenAIError, *_transport_errors())
        self._client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=self._key or "none",  # the client wants one; servers without keys ignore it
            max_retries=0,
            timeout=settings.timeout,
            # Followed, a redirection may turn the question into a GET without its body.
            http_client=openai.DefaultAsyncHttpxClient(limits=_limits(connections), follow_redirects=False),
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
            request_id: sent as `Idempotency-Key`; a server that honours it charges for the question once. After a reply
                of no use a number is added.
            note: told `sent` before each attempt leaves, with the prompt and completion tokens set aside for it, and
                `failed` where it failed, with those it may have cost.
            extra: keys of this request alone, such as its seed.

        Raises:
            BudgetSpentError: the budget does not allow the next attempt.
            StoppedError: the server is out of reach, stays too busy, fails for many questions in a row, or asks to wait
                too long.
            InputError: it refuses the key, does not know the model, or redirects.
        """
        estimate = int(sum(len(message["content"]) for message in messages) * TOKENS_PER_CHARACTER) + 16
        question = _Question(messages, request_id, note, extra or {}, estimate, self._answers)
        while True:
            try:
                reply = await self._try(question)
            except AttemptError as failure:
                if failure.refused:
                    await self._check_let_in(failure.refused)
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
        """Send a question once, when it may be sent, and account for it."""
        await self._turn()
        reserved = await self.budget.reserve(question.estimate, self.settings.max_tokens)
        used = (0, 0)
        question.tries += 1
        try:
            await question.tell("sent", *reserved)
            reply = await self._attempt(question.messages, question.key, question.estimate, question.extra)
            used = (reply.prompt_tokens, reply.completion_tokens)
            return reply
        except AttemptError as failure:
            used = reserved if failure.charged else (0, 0)
            question.useless += failure.answered
            await question.tell("failed", *used)
            self._note_attempt(question, failure)
            raise
        except (InputError, StoppedError):
            await question.tell("failed", 0, 0)
            raise
        finally:
            await self.budget.settle(reserved, *used)
            question.spent_in += used[0]
            question.spent_out += used[1]

    async def _check_let_in(self, status: int) -> None:
        """Ask a plain question, unless the server has answered any: it may refuse one question, or all of them.

        Its answer is none to a question of the run, and does not count as one. A refusal of the key (401) is looked
        into each time, since a key may end within a run.

        Raises:
            InputError: it refuses the plain one, too: its key or model is wrong.
        """
        async with self._knocking:
            if status != 401 and (self._answers or self._let_in):
                return
            plain = _Question(_PLAIN, "plain question", None, {}, len(_PLAIN[0]["content"]), self._answers)
            try:
                await self._try(plain)
            except AttemptError as failure:
                if failure.refused:
                    raise self._turned_away(failure.refused) from None
            self._let_in = True  # or busy or broken, which says nothing of the key

    def _turned_away(self, status: int) -> InputError:
        settings = self.settings
        if status == 404:
            return InputError(
                f"{settings.base_url}: knows no model {settings.model!r} (HTTP 404); check the name and that the URL "
                "ends in /v1"
            )
        return InputError(
            f"{settings.base_url}: refuses the key (HTTP {status}); set {settings.api_key_env} in the environment"
        )

    def _redirected(self, response: Any, status: int) -> InputError:
        parts = urlsplit(urljoin(str(response.url), response.headers.get("location", "")))
        place = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        place = self.redact(place.removesuffix("/").removesuffix("/chat/completions"))
        return InputError(
            f"{self.settings.base_url}: redirects to {place} (HTTP {status}); set base_url to where it is"
        )

    async def _turn(self) -> None:
        """Wait for the time that the server named to any question."""
        while (wait := self._not_before - time.monotonic()) > 0 and not self._ending.is_set():
            await self._sleep(wait)
        if self._ending.is_set():
            raise StoppedError(f"{self.settings.base_url}: no further attempt, as the run is ending")

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    def _pause(self, tries: int, failure: AttemptError) -> float:
        """Seconds before the next try: growing, and different for each question, so that they do not come at once."""
        growing = min(_LONGEST_PAUSE, self.settings.backoff * 2.0 ** (tries - 1))
        return growing * random.uniform(0.5, 1.0) if failure.wait is None else failure.wait + growing * random.random()

    def _note_answer(self) -> None:
        self._answers += 1
        self._failed.clear()
        self._down.clear()

    def _note_attempt(self, question: _Question, failure: AttemptError) -> None:
        """Let all questions wait where the server asks for it, and count the attempt."""
        if failure.wait is not None:
            if failure.wait > self.settings.max_wait:
                raise StoppedError(
                    f"{self.settings.base_url}: asks to wait {failure.wait:g} s, and a run waits "
                    f"{self.settings.max_wait:g} s; run the same command again then"
                ) from None
            self._not_before = max(self._not_before, time.monotonic() + failure.wait)
        # Who is busy answering others has not turned this question down.
        question.attempts += not (failure.server and self._answers > question.answers)
        question.answers = self._answers

    def _give_up(self, question: _Question, failure: AttemptError) -> Reply:
        """Return the reply of a question that failed for good, or stop where the server is to blame."""
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
        """Return the request as a context, whose value is the response as it streams in."""
        settings = self.settings
        temperature = {} if settings.temperature is None else {"temperature": settings.temperature}
        return self._client.chat.completions.with_streaming_response.create(
            model=settings.model,
            messages=[],  # they go with the extra body, which spares the client's costly walk through them
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
        """Raise what an error of the client means: that another attempt may help, or that none will."""
        import openai

        settings = self.settings
        match error:
            case openai.AuthenticationError() if not self._answers:
                raise self._turned_away(error.status_code) from None
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
            raise self._redirected(error.response, status) from None
        wait = retry_after(error.response.headers)
        if status == 429:
            if getattr(error, "code", None) in _QUOTA:
                raise StoppedError(f"{self.settings.base_url}: the account's quota is used up (HTTP 429)") from None
            raise AttemptError("HTTP 429: too many requests", wait, server=True) from None
        if status == 402:
            raise StoppedError(f"{self.settings.base_url}: asks for payment (HTTP 402)") from None
        if status in (408, 409) or status >= 500:
            raise AttemptError(f"HTTP {status}", wait, outage=status >= 500) from None
        # Only a complaint about the request is worth quoting; other bodies may echo credentials.
        detail = f": {' '.join(str(error).split())}" if status in (400, 422) else ""
        said = f"HTTP {status}{detail}"
        said = said.replace(self._key, "[key]") if self._key else said  # a short one too: no answer is harmed here
        raise AttemptError(said[:300], final=True) from None


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
