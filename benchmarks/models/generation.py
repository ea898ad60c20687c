"""What every generation engine takes and gives, and how label probabilities are read from answer tokens."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from benchmarks.chat import Message
from rewards import LABELS

TOP_LOGPROBS: Final = 20
Probabilities: TypeAlias = tuple[float, float, float]
# Told, while a batch is written, how many of its completions are finished and how many tokens it has so far.
Written: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """One prompt to complete.

    Attributes:
        messages: the chat so far, the last message from the user.
        seed: seed of this request's sampling; not used under greedy decoding.
    """

    messages: Sequence[Message]
    seed: int


@dataclass(frozen=True)
class Generation:
    """What an engine made of one request.

    Attributes:
        text: the completion with an opening think tag where the prompt ended in one; None if the request failed.
        finish_reason: `stop`, `length`, `error`, or what else a server says.
        completion_tokens: tokens generated, the end of the turn included.
        probabilities: of the three labels in the order of `rewards.LABELS`; None where there are none.
        error: why the request failed for good; None if it did not.
    """

    text: str | None
    finish_reason: str
    completion_tokens: int
    probabilities: Probabilities | None
    error: str | None = None


class Decoding(Protocol):
    """The part of `benchmarks.evaluation.protocol.Protocol` that an engine uses."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def scores(self) -> str: ...


class Engine(Protocol):
    """A source of completions."""

    @property
    def name(self) -> str:
        """`vllm`, `transformers` or `openai`."""

    @property
    def context(self) -> int | None:
        """Most tokens that prompt and completion may have together; None where only a server knows."""

    def prompt_tokens(self, messages: Sequence[Message]) -> int | None:
        """Return the length of a rendered prompt in tokens; None where only a server knows."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        """Complete the requests, one generation each, in their order. The same batch gives the same generations."""

    def facts(self) -> dict[str, Any]:
        """Return what tells this engine's completions apart from another's, JSON-able and without secrets."""

    def close(self) -> None:
        """Give memory and temporary files back."""


_LABEL: Final = re.compile(
    "|".join(re.escape(label).replace(r"\ ", r"\s*") for label in sorted(LABELS, key=len, reverse=True)), re.IGNORECASE
)
_ANSWER_TAG: Final = re.compile("<answer>", re.IGNORECASE)
_THINK_END: Final = re.compile("</think>", re.IGNORECASE)


def answer_start(pieces: Sequence[str]) -> tuple[int, str] | None:
    """Find the token at which the answer's label begins.

    Args:
        pieces: the generated tokens' texts, in order.

    Returns:
        The token's index, and what of its text stands before the label (a token may hold `>` and the label's first
        letters); None where no label follows the last `<answer>`, or the last `</think>` where there is no such tag.
    """
    text = "".join(pieces)
    tags = [*_ANSWER_TAG.finditer(text)] or [*_THINK_END.finditer(text)]
    match = _LABEL.search(text, tags[-1].end() if tags else 0)
    if match is None:
        return None
    end = 0
    for index, piece in enumerate(pieces):
        start, end = end, end + len(piece)
        if end > match.start():
            return index, piece[: match.start() - start]
    raise AssertionError("unreachable: the match lies within the pieces")


def label_probabilities(candidates: Sequence[tuple[str, float]], before: str = "") -> Probabilities | None:
    """Return the labels' probabilities from the candidates for the answer's first token.

    A candidate counts for the label that its text, without white space around it, is a prefix of; the labels begin
    with different letters, so it counts for one at most. A label without a candidate has 0. The three are
    normalised to add up to 1.

    Args:
        candidates: (token text, natural logprob) of the most likely tokens at that position.
        before: what of the generated token stands before the label; a candidate must begin with it too, white space
            aside.

    Returns:
        Probabilities in the order of `rewards.LABELS`; None if no candidate counts for any label.
    """
    mass = [0.0, 0.0, 0.0]
    head = before.strip()
    for text, logprob in candidates:
        candidate = text.strip()
        if not candidate.startswith(head):
            continue
        candidate = candidate.removeprefix(head).strip().lower()
        for index, label in enumerate(LABELS):
            if candidate and (label.startswith(candidate) or candidate.startswith(label)):
                mass[index] += math.exp(logprob)
    total = sum(mass)
    if total == 0:
        return None
    return (mass[0] / total, mass[1] / total, mass[2] / total)


def probabilities_of(
    pieces: Sequence[str], candidates_at: Callable[[int], Sequence[tuple[str, float]]]
) -> Probabilities | None:
    """Return the labels' probabilities at the answer's first token, or None.

    Args:
        pieces: the generated tokens' texts, in order.
        candidates_at: the (text, logprob) candidates at the token with that index; asked for one token only.
    """
    found = answer_start(pieces)
    return None if found is None else label_probabilities(candidates_at(found[0]), found[1])


def names_label(text: str) -> bool:
    """Return whether a label stands anywhere in the text: only then is it worth looking for probabilities."""
    return _LABEL.search(text) is not None


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]
