"""The engine behind an OpenAI-compatible server."""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from benchmarks.chat import THINK, Message
from benchmarks.generation import TOP_LOGPROBS, Decoding, Generation, Request, names_label, probabilities_of
from rewards import CheckError, InputError


def restore_think(text: str, reasoning: str | None, finish_reason: str) -> str:
    """Return a server's completion with the think tags that a reasoning parser or a chat template took out.

    Args:
        text: the message's content.
        reasoning: the message's reasoning where the server keeps it apart.
        finish_reason: a completion cut off (`length`) in its reasoning is left open.
    """
    if reasoning:
        closing = "" if finish_reason == "length" and not text else "</think>"
        return f"{THINK}{reasoning}{closing}{text}"
    return THINK + text if "</think>" in text and THINK not in text else text


def check_base_url(base_url: str, key: str = "base_url") -> None:
    """Refuse a URL that is none, or that holds what may be a secret; the message does not repeat it."""
    try:
        parts = urlsplit(base_url)
        host = parts.hostname
    except ValueError:
        raise InputError(f"{key}: is no URL; give one such as http://localhost:8000/v1") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{key}: is no http(s) URL; give one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"{key}: holds user, password, query or fragment, which may be secret; leave them out and set the key in "
            "the environment"
        )


class OpenAIEngine:
    """A server that speaks OpenAI's chat completions: vLLM, llama.cpp, OpenAI, and others.

    Failed requests are tried again (connection trouble, 408, 409, 429 and 5xx, with growing pauses). One that fails
    for good is a `Generation` with `error`. A server that is out of reach, stays too busy, refuses the key or does not
    know the model stops the run instead: no item is to blame.

    Args:
        base_url: the server's URL, with its `/v1`.
        model: the model's name there.
        api_key_env: environment variable that holds the key; servers without keys need none.
        max_in_flight: requests open at a time.
        max_retries: further attempts per request.
        timeout: seconds per attempt.

    Raises:
        InputError: `base_url` is no http(s) URL.
    """

    name: Final = "openai"
    context: int | None = None

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        max_in_flight: int = 32,
        max_retries: int = 6,
        timeout: float = 600.0,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"base_url: {_public_url(base_url)!r} is no http(s) URL; give one such as http://localhost:8000/v1"
            )
        self._base_url = base_url
        self._url = _public_url(base_url)
        self._model = model
        self._api_key_env = api_key_env
        self._max_in_flight = max_in_flight
        self._max_retries = max_retries
        self._timeout = timeout

    def prompt_tokens(self, messages: Sequence[Message]) -> None:
        """Return None: the server has the tokenizer."""
        return

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Generation]:
        """Complete the requests; see `Engine.generate`.

        Raises:
            InputError: the server refuses the key, does not know the model, or gives no logprobs where they are asked.
            CheckError: the server cannot be reached, or keeps saying that there are too many requests.
        """
        return _run(self._generate_all(requests, decoding))

    async def _generate_all(self, requests: Sequence[Request], decoding: Decoding) -> list[Generation]:
        import openai

        key = os.environ.get(self._api_key_env)
        gate = asyncio.Semaphore(self._max_in_flight)
        async with openai.AsyncOpenAI(
            base_url=self._base_url,
            api_key=key or "none",  # the client wants one; servers without keys ignore it
            max_retries=self._max_retries,
            timeout=self._timeout,
        ) as client:

            async def one(request: Request) -> Generation:
                async with gate:
                    return await self._complete(client, request, decoding, key)

            return list(await asyncio.gather(*(one(request) for request in requests)))

    async def _complete(self, client: Any, request: Request, decoding: Decoding, key: str | None) -> Generation:
        import openai

        logprobs = decoding.scores == "logprobs"
        try:
            reply = await client.chat.completions.create(
                model=self._model,
                messages=[dict(message) for message in request.messages],
                max_tokens=decoding.max_tokens,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                seed=request.seed,
                **({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if logprobs else {}),
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise InputError(
                f"{self._url}: refuses the key (HTTP {error.status_code}); set {self._api_key_env} in the environment"
            ) from None
        except openai.NotFoundError:
            raise InputError(
                f"{self._url}: knows no model {self._model!r} (HTTP 404); check the name and that the URL ends in /v1"
            ) from None
        except openai.RateLimitError:
            raise CheckError(
                f"{self._url}: still refuses requests as too many after {self._max_retries + 1} attempts; lower "
                "max_in_flight or wait, and run again"
            ) from None
        except openai.APITimeoutError:
            return _failed(f"timed out after {self._timeout:g} s")
        except openai.APIConnectionError:
            raise CheckError(
                f"{self._url}: cannot be reached; start the server or correct base_url, and run again"
            ) from None
        except openai.APIStatusError as error:
            # Only a complaint about the request is worth quoting; other bodies may echo credentials.
            if error.status_code not in (400, 422):
                return _failed(f"HTTP {error.status_code}")
            detail = " ".join(str(error).split())
            return _failed(f"HTTP {error.status_code}: {detail.replace(key, '[key]') if key else detail}"[:300])
        except openai.APIError as error:
            return _failed(type(error).__name__)
        return self._generation(reply, logprobs)

    def _generation(self, reply: Any, logprobs: bool) -> Generation:
        if not reply.choices:
            return _failed("reply without choices")
        choice = reply.choices[0]
        finish_reason = choice.finish_reason or "unknown"
        reasoning = getattr(choice.message, "reasoning", None) or getattr(choice.message, "reasoning_content", None)
        text = restore_think(choice.message.content or "", reasoning, finish_reason)
        probabilities = None
        if logprobs and names_label(text):
            content = choice.logprobs.content if choice.logprobs is not None else None
            if not content:
                raise InputError(f"{self._url}: gives no logprobs; set scores: votes")
            probabilities = probabilities_of(
                [token.token for token in content],
                lambda index: [(other.token, other.logprob) for other in content[index].top_logprobs],
            )
        tokens = reply.usage.completion_tokens if reply.usage is not None else 0
        return Generation(text, finish_reason, int(tokens), probabilities)

    def facts(self) -> dict[str, Any]:
        """Return the engine's facts; see `Engine.facts`."""
        return {"name": self.name, "model": self._model, "revision": None, "adapter_sha256": None, "url": self._url}

    def close(self) -> None:
        """Do nothing: connections are closed after each batch."""


def _failed(error: str) -> Generation:
    return Generation(None, "error", 0, None, error)


def _public_url(url: str) -> str:
    """A URL without user, password, query and fragment, any of which may hold a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _run(work: Coroutine[Any, Any, list[Generation]]) -> list[Generation]:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:  # called from a running loop, such as a notebook's
        return thread.submit(asyncio.run, work).result()
