"""The engine for an OpenAI-compatible server."""

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from benchmarks.chat import THINK, Message, join_think, without_surrogates
from benchmarks.endpoint.client import Endpoint, run_async
from benchmarks.endpoint.reply import Reply
from benchmarks.endpoint.settings import EndpointSettings, read_extra_body
from benchmarks.models.generation import (
    TOP_LOGPROBS,
    Decoding,
    Generation,
    Probabilities,
    Request,
    Written,
    answer_start,
    names_label,
    probabilities_of,
    wants_logprobs,
)
from rewards import InputError

# Set by the protocol or the engine. Other values from `extra_body` would make the protocol's fingerprint wrong.
_OWN: Final = frozenset(
    (
        "model", "messages", "n", "stream", "seed", "temperature", "top_p", "max_tokens", "max_completion_tokens",
        "logprobs", "top_logprobs",
    )
)  # fmt: skip
_SPELT: Final = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})  # byte-pair and SentencePiece vocabularies write these
_IN_FLIGHT: Final = 32  # requests open at a time
_ATTEMPTS: Final = 7  # tries per request
_logger = logging.getLogger("synthpert.engines")
_MAX_REPLY_BYTES: Final = 64 * 1024 * 1024  # large, since 20 logprobs per token make replies long


def restore_think(text: str, reasoning: str | None, finish_reason: str) -> str:
    """Return a server's completion with the think tags restored that a reasoning parser or a chat template removed.

    Args:
        text: the message's content.
        reasoning: the message's reasoning, where the server returns it separately. It is put in front of what the model
            itself wrote into a think block, as in traces with `thinking: keep`.
        finish_reason: `length` leaves the think block of a completion open that was cut off in its reasoning.

    Returns:
        The completion.
    """
    if reasoning and not text and finish_reason == "length":
        return f"{THINK}{reasoning}"
    if reasoning:
        return join_think(reasoning, text)
    return THINK + text if "</think>" in text and THINK not in text else text


class OpenAIEngine:
    """A server that speaks OpenAI's chat completions: vLLM, llama.cpp, OpenAI, and others.

    Temporary failures are retried. A request that fails for good is a `Generation` with `error`. A server that cannot
    be used at all stops the run; see `benchmarks.endpoint.client.Endpoint`. Sampling settings that neither the protocol
    nor `extra_body` sets have the server's defaults. vLLM takes them from the model's generation_config.json, unless it
    is started with `--generation-config vllm`.

    Args:
        base_url: the server's URL, with its `/v1`; without credentials.
        model: the server's name of the model.
        api_key_env: environment variable that holds the key; servers without keys need none.
        max_tokens_key: the server's name of the limit on tokens, `max_tokens` or `max_completion_tokens`.
        extra_body: further keys of each request, such as `{"chat_template_kwargs": {"enable_thinking": False}}`; keys
            that the protocol sets are refused.

    Raises:
        InputError: an argument is out of range, `base_url` is missing or no http(s) URL, or one of them may hold a
            secret.
    """

    name: Final = "openai"
    context: int | None = None

    def __init__(
        self,
        base_url: str | None,
        model: str | Path,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        max_tokens_key: str = "max_tokens",
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        self._extra_body = read_extra_body(extra_body)
        if own := sorted(_OWN & set(self._extra_body)):
            raise InputError(f"extra_body: {own[0]!r} is set by the protocol; leave it out and use the protocol's key")
        if base_url is None:
            raise InputError("engine: openai needs base_url, such as http://localhost:8000/v1")
        self._settings = EndpointSettings(
            base_url, str(model), api_key_env, max_tokens_key=max_tokens_key, attempts=_ATTEMPTS
        )
        # Over all batches: whether a reply gave probabilities, why others did not, and the warnings given.
        self._had_logprobs = False
        self._logprob_errors: list[str] = []
        self._warned: set[str] = set()

    def prompt_tokens(self, messages: Sequence[Message]) -> None:
        """Return None, since only the server has the tokenizer."""
        return

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        """Complete the requests; see `Engine.generate`.

        Raises:
            InputError: the server refuses the key, does not know the model, or gives no usable logprobs in any reply
                although they are wanted. If only some replies lack them, the probabilities of these are None.
            CheckError: the server cannot be reached, fails for many questions in a row, or answers every one with 429.
        """
        return run_async(self._generate_all(requests, decoding, written))

    def answer_directly(self, prompts: Sequence[Sequence[Message]]) -> NoReturn:
        """Refuse: OpenAI's protocol cannot begin the model's turn.

        Raises:
            InputError: always.
        """
        raise InputError(
            "engine: openai cannot write an empty thought for the model, as scores: direct and both need; set scores: "
            "logprobs with temperature: 1 and samples: 8, or use engine: vllm or transformers"
        )

    async def _generate_all(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None
    ) -> list[Generation]:
        logprobs = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if wants_logprobs(decoding) else {}
        settings = replace(
            self._settings,
            max_reply_bytes=_MAX_REPLY_BYTES if logprobs else self._settings.max_reply_bytes,
            max_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            extra_body={"top_p": decoding.top_p, **logprobs, **self._extra_body},
        )
        endpoint = Endpoint(settings, connections=_IN_FLIGHT)
        gate = asyncio.Semaphore(_IN_FLIGHT)
        finished = tokens = 0

        async def one(request: Request) -> Generation:
            messages = [dict(message) for message in request.messages]
            shaping = (settings.model, settings.max_tokens, settings.temperature, settings.extra_body, request.seed)
            content = json.dumps([messages, *shaping])
            async with gate:
                reply = await endpoint.ask(
                    messages, hashlib.sha256(content.encode()).hexdigest(), extra={"seed": request.seed}
                )
            generation = self._generation(reply, bool(logprobs))
            nonlocal finished, tokens
            finished, tokens = finished + 1, tokens + generation.completion_tokens
            if written is not None:
                written(finished, tokens)
            return generation

        try:
            generations = list(await asyncio.gather(*(one(request) for request in requests)))
        finally:
            await endpoint.close()
        self._check_logprobs()
        return generations

    def _generation(self, reply: Reply, logprobs: bool) -> Generation:
        if reply.text is None:
            return Generation(None, "error", 0, None, reply.error, reply.prompt_tokens)
        if len(reply.text) > (longest := self._settings.max_reply_bytes):
            problem = f"the reply is longer than {longest:,} characters"
            return Generation(None, "error", 0, None, problem, reply.prompt_tokens)
        text = without_surrogates(restore_think(reply.text, reply.reasoning, reply.finish_reason))
        probabilities = self._probabilities(reply) if logprobs and names_label(text) else None
        return Generation(
            text, reply.finish_reason, reply.completion_tokens, probabilities, prompt_tokens=reply.prompt_tokens
        )

    def _probabilities(self, reply: Reply) -> Probabilities | None:
        """Return the labels' probabilities in a reply that names a label; None where the reply has none.

        Raises:
            InputError: no reply has had any so far, out of as many as are open at a time.
        """
        try:
            found = self._read_probabilities(reply)
        except _LogprobsError as error:
            self._logprob_errors.append(str(error))
            if len(self._logprob_errors) >= _IN_FLIGHT:
                self._check_logprobs()
            return None
        self._had_logprobs = True
        return found

    def _read_probabilities(self, reply: Reply) -> Probabilities | None:
        entries = reply.logprobs
        if not entries:
            raise _LogprobsError("gives no logprobs")
        try:
            pieces = [_plain(entry["token"]) for entry in entries]
            if answer_start(pieces) is None and answer_start([reply.text or ""]) is not None:
                raise _LogprobsError("its tokens do not spell the reply")
            return probabilities_of(pieces, lambda index: self._candidates(entries[index]))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, _LogprobsError):
                raise
            raise _LogprobsError("its logprobs have another form than OpenAI's") from None

    def _candidates(self, entry: Mapping[str, Any]) -> list[tuple[str, float]]:
        """The candidates for a token; the token that was written must be among them."""
        found = [(_plain(one["token"]), _logprob(one["logprob"])) for one in entry["top_logprobs"]]
        gives = f"gives {len(found)} of {TOP_LOGPROBS} top_logprobs"
        if len(found) < 2:  # every answer would look certain
            raise _LogprobsError(f"{gives}, which tells no probabilities")
        written = _plain(entry["token"])
        if written not in [text for text, _ in found]:
            logprob = _logprob(entry["logprob"])
            if logprob > min(value for _, value in found):
                raise _LogprobsError("its top_logprobs lack the token that was written")
            found.append((written, logprob))
        if len(found) < TOP_LOGPROBS:
            self._warn(f"{gives}: a label that is not among them has the probability 0")
        return found

    def _check_logprobs(self) -> None:
        """Stop if no reply that names a label had probabilities; warn if only some had."""
        if self._logprob_errors and not self._had_logprobs:
            raise InputError(f"{self._settings.base_url}: {self._logprob_errors[0]}; set scores: votes")
        for reason in self._logprob_errors:
            self._warn(f"{reason} for some replies; their labels count without probabilities")
        self._logprob_errors.clear()

    def _warn(self, words: str) -> None:
        if words not in self._warned:
            self._warned.add(words)
            _logger.warning("%s: %s", self._settings.base_url, words)

    def facts(self) -> dict[str, Any]:
        """Return the engine's facts; see `Engine.facts`."""
        extra = {"extra_body": self._extra_body} if self._extra_body else {}
        return {
            "name": self.name, "model": self._settings.model, "revision": None, "adapter_sha256": None,
            "url": self._settings.base_url, **extra,
        }  # fmt: skip

    def close(self) -> None:
        """Do nothing: each batch closes its connections."""


class _LogprobsError(ValueError):
    """Why a reply has no probabilities, in words that follow the server's URL. For control flow."""


def _plain(token: Any) -> str:
    """A token's text, with spaces and line ends where the vocabulary writes marks for them."""
    if not isinstance(token, str):
        raise TypeError(token)
    return token.translate(_SPELT)


def _logprob(value: Any) -> float:
    if value is None:  # minus infinity, which JSON cannot hold
        return -math.inf
    value = float(value)
    if not value <= 1e-3:  # rounding may give slightly more than 0
        raise ValueError(value)
    return float(value)
