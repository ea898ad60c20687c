"""The engine behind an OpenAI-compatible server."""

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

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
)
from rewards import InputError

# What the protocol or the engine sets: under another value the protocol's fingerprint would be untrue.
_OWN: Final = frozenset(
    (
        "model", "messages", "n", "stream", "seed", "temperature", "top_p", "max_tokens", "max_completion_tokens",
        "logprobs", "top_logprobs",
    )
)  # fmt: skip
_SPELT: Final = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})  # in vocabularies of byte pairs and of pieces
_IN_FLIGHT: Final = 32  # requests open at a time
_ATTEMPTS: Final = 7  # tries per request
_logger = logging.getLogger("synthpert.engines")
_MAX_REPLY_BYTES: Final = 64 * 1024 * 1024  # twenty logprobs a token make a long reply longer


def restore_think(text: str, reasoning: str | None, finish_reason: str) -> str:
    """Return a server's completion with the think tags that a reasoning parser or a chat template took out.

    Args:
        text: the message's content.
        reasoning: the message's reasoning where the server keeps it apart; it goes in front of what the model then
            wrote into a think block as asked, as in traces with `thinking: keep`.
        finish_reason: a completion cut off (`length`) in its reasoning is left open.
    """
    if reasoning and not text and finish_reason == "length":
        return f"{THINK}{reasoning}"
    if reasoning:
        return join_think(reasoning, text)
    return THINK + text if "</think>" in text and THINK not in text else text


class OpenAIEngine:
    """A server that speaks OpenAI's chat completions: vLLM, llama.cpp, OpenAI, and others.

    What fails for a while is tried again, what fails for good is a `Generation` with `error`, and a server that cannot
    be asked at all stops the run; see `benchmarks.endpoint.client.Endpoint`. What of sampling neither the protocol nor
    `extra_body` says is the server's: vLLM's takes it from the model's generation_config.json unless it is started with
    `--generation-config vllm`.

    Args:
        base_url: the server's URL, with its `/v1`; without credentials.
        model: the model's name there.
        api_key_env: environment variable that holds the key; servers without keys need none.
        max_tokens_key: what the server calls the longest completion, `max_tokens` or `max_completion_tokens`.
        extra_body: further keys of each request, such as `{"chat_template_kwargs": {"enable_thinking": False}}`; none
            that the protocol sets.

    Raises:
        InputError: an argument is out of range, `base_url` is missing or no http(s) URL, or it or `extra_body` may hold
            a secret.
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
        # Over all batches: whether a reply told probabilities, why the last ones did not, and what was said of it.
        self._told = False
        self._untold: list[str] = []
        self._warned: set[str] = set()

    def prompt_tokens(self, messages: Sequence[Message]) -> None:
        """Return None: the server has the tokenizer."""
        return

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        """Complete the requests; see `Engine.generate`.

        Raises:
            InputError: the server refuses the key, does not know the model, or gives no reply logprobs that can be read
                where they are asked; where some have none, their probabilities are None.
            CheckError: the server cannot be reached, fails for many questions in a row, or keeps saying that there are
                too many requests.
        """
        return run_async(self._generate_all(requests, decoding, written))

    async def _generate_all(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None
    ) -> list[Generation]:
        logprobs = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if decoding.scores == "logprobs" else {}
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
            return Generation(None, "error", 0, None, reply.error)
        if len(reply.text) > (longest := self._settings.max_reply_bytes):
            return Generation(None, "error", 0, None, f"the reply is longer than {longest:,} characters")
        text = without_surrogates(restore_think(reply.text, reply.reasoning, reply.finish_reason))
        probabilities = self._probabilities(reply) if logprobs and names_label(text) else None
        return Generation(text, reply.finish_reason, reply.completion_tokens, probabilities)

    def _probabilities(self, reply: Reply) -> Probabilities | None:
        """Return the labels' probabilities in a reply that names one; None where it tells none.

        Raises:
            InputError: so far no reply tells any, of as many as are under way at a time.
        """
        try:
            found = self._read_probabilities(reply)
        except _LogprobsError as error:
            self._untold.append(str(error))
            if len(self._untold) >= _IN_FLIGHT:
                self._check_logprobs()
            return None
        self._told = True
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
        """The candidates for a token, the one that was written among them."""
        found = [(_plain(one["token"]), _logprob(one["logprob"])) for one in entry["top_logprobs"]]
        gives = f"gives {len(found)} of {TOP_LOGPROBS} top_logprobs"
        if len(found) < 2:  # every answer would be certain
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
        """Stop where no reply that names a label told its probabilities; warn of some."""
        if self._untold and not self._told:
            raise InputError(f"{self._settings.base_url}: {self._untold[0]}; set scores: votes")
        for reason in self._untold:
            self._warn(f"{reason} for some replies, whose labels count without probabilities")
        self._untold.clear()

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
        """Do nothing: connections are closed after each batch."""


class _LogprobsError(ValueError):
    """Why a reply tells no probabilities, in words that follow the server's URL. For control flow."""


def _plain(token: Any) -> str:
    """A token's text, also where a server gives it as vocabularies spell it."""
    if not isinstance(token, str):
        raise TypeError(token)
    return token.translate(_SPELT)


def _logprob(value: Any) -> float:
    if value is None:  # minus infinity, which JSON does not have
        return -math.inf
    value = float(value)
    if not value <= 1e-3:  # rounding may bring it above 0
        raise ValueError(value)
    return float(value)
