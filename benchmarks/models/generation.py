"""The interface of all generation engines, and label probabilities from the logprobs of answer tokens."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from benchmarks.chat import THINK, Message
from rewards import LABELS

TOP_LOGPROBS: Final = 20
EMPTY_THOUGHT: Final = f"{THINK}</think><answer>"
Probabilities: TypeAlias = tuple[float, float, float]
# Called while a batch is written, with the number of finished completions and of tokens so far.
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
    """The outcome of one request.

    Attributes:
        text: the completion; if the prompt ended in an opening think tag, the tag is put in front. None if the request
            failed.
        finish_reason: `stop`, `length`, `error`, or another word of a server's.
        completion_tokens: number of tokens generated, the end of the turn included.
        probabilities: of the three labels in the order of `rewards.LABELS`; None where they are unknown.
        error: why the request failed for good; None if it did not.
        prompt_tokens: number of tokens that the model read; None where nobody counted them.
    """

    text: str | None
    finish_reason: str
    completion_tokens: int
    probabilities: Probabilities | None
    error: str | None = None
    prompt_tokens: int | None = None


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


def wants_logprobs(decoding: Decoding) -> bool:
    """Return whether the scores are read from logprobs; all are but votes."""
    return decoding.scores != "votes"


class Engine(Protocol):
    """A source of completions."""

    @property
    def name(self) -> str:
        """`vllm`, `transformers` or `openai`."""

    @property
    def context(self) -> int | None:
        """Largest number of tokens of prompt and completion together; None where only a server knows."""

    def prompt_tokens(self, messages: Sequence[Message]) -> int | None:
        """Return the length of a rendered prompt in tokens; None where only a server knows."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        """Complete the requests.

        Args:
            requests: prompts with their seeds. The same batch gives the same generations.
            decoding: how to sample, and whether label probabilities are wanted.
            written: called while the batch is written; None for no reports.

        Returns:
            One generation per request, in their order.
        """

    def answer_directly(self, prompts: Sequence[Sequence[Message]]) -> list[Generation]:
        """Answer after an empty thought, which is written for the model: `<think></think><answer>`.

        The model writes one token. The answer is the label whose first token is the likeliest, whatever other tokens
        the model would rather write.

        Args:
            prompts: messages, the last of each from the user.

        Returns:
            One generation per prompt, in their order, with the probabilities of the labels' first tokens, normalised
            over the three.

        Raises:
            InputError: the engine cannot begin the model's turn, or cannot tell the probability of a chosen token.
        """

    def facts(self) -> dict[str, Any]:
        """Return what identifies this engine and its model in stored runs: JSON values without secrets."""

    def close(self) -> None:
        """Release memory and temporary files."""


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
        The token's index, and the part of its text before the label (a token may hold `>` and the label's first
        letters). None where no label follows the last `<answer>`, or the last `</think>` where there is no such tag.
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

    A candidate counts for a label if its text, without white space around it, is the beginning of the label or begins
    with the label. The labels begin with different letters, so a candidate counts for at most one. A label without a
    candidate has probability 0. The three are normalised to sum to 1.

    Args:
        candidates: (token text, natural logprob) of the most likely tokens at that position.
        before: the part of the generated token's text before the label. Only candidates that begin with it count;
            white space around it is ignored.

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
    """Return the labels' probabilities at the answer's first token.

    Args:
        pieces: the generated tokens' texts, in order.
        candidates_at: returns the (text, logprob) candidates for the token of an index; called once at most.

    Returns:
        Probabilities in the order of `rewards.LABELS`; None where no label is found or no candidate counts for one.
    """
    found = answer_start(pieces)
    return None if found is None else label_probabilities(candidates_at(found[0]), found[1])


def names_label(text: str) -> bool:
    """Return whether the text contains a label. Without one there are no probabilities to read."""
    return _LABEL.search(text) is not None


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]
