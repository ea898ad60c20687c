"""A budget for requests: each is counted before it is sent, so that the requests under way are included."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from rewards import CheckError, InputError

_MILLION: Final = 1_000_000


class BudgetSpentError(CheckError):
    """The next request would exceed the budget."""


@dataclass
class Budget:
    """Limits on all requests together. A request that could exceed one is not sent.

    Attributes:
        max_requests: largest number of requests; 0 for no limit.
        max_tokens: largest number of tokens, prompts and completions together; 0 for no limit.
        max_cost: largest cost, in the currency of the prices; 0 for no limit.
        price_in, price_out: prices per million tokens of prompts and of completions.
        requests, prompt_tokens, completion_tokens: spent so far, earlier runs included.

    Raises:
        InputError: a limit or price is negative, or `max_cost` is set without prices.
    """

    max_requests: int = 0
    max_tokens: int = 0
    max_cost: float = 0.0
    price_in: float = 0.0
    price_out: float = 0.0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _open: list[tuple[int, int]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        for key in ("max_requests", "max_tokens", "max_cost", "price_in", "price_out"):
            if not getattr(self, key) >= 0:
                raise InputError(f"budget: {key} is {getattr(self, key)}; it must be 0 (none) or above")
        if self.max_cost and not (self.price_in or self.price_out):
            raise InputError("max_cost: needs price_in and price_out, per million tokens; set them")

    @property
    def cost(self) -> float:
        """Money spent, in the currency of the prices."""
        return self._cost(self.prompt_tokens, self.completion_tokens)

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / _MILLION

    def _over(self, prompt_tokens: int, completion_tokens: int) -> str | None:
        """The limit that a request with so many tokens would exceed, requests under way included; None for none."""
        tokens_in = self.prompt_tokens + sum(one[0] for one in self._open) + prompt_tokens
        tokens_out = self.completion_tokens + sum(one[1] for one in self._open) + completion_tokens
        if self.max_requests and self.requests + 1 > self.max_requests:
            return f"max_requests {self.max_requests}"
        if self.max_tokens and tokens_in + tokens_out > self.max_tokens:
            return f"max_total_tokens {self.max_tokens}"
        if self.max_cost and self._cost(tokens_in, tokens_out) > self.max_cost:
            return f"max_cost {self.max_cost:g}"
        return None

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> tuple[int, int]:
        """Set tokens aside for one request.

        Where the limit would be exceeded, this waits for requests under way, which may use less than they reserved.

        Args:
            prompt_tokens, completion_tokens: the most that the request can use.

        Returns:
            The reservation, for `settle`.

        Raises:
            BudgetSpentError: the limit would be exceeded, and no request under way can make room.
        """
        async with self._changed:
            while over := self._over(prompt_tokens, completion_tokens):
                if not self._open or over.startswith("max_requests"):
                    raise BudgetSpentError(f"the budget is spent ({over})")
                await self._changed.wait()
            self.requests += 1
            self._open.append((prompt_tokens, completion_tokens))
        return prompt_tokens, completion_tokens

    async def settle(self, reserved: tuple[int, int], prompt_tokens: int, completion_tokens: int) -> None:
        """Release a reservation, and add the tokens that were really spent."""
        async with self._changed:
            self._open.remove(reserved)
            self.prompt_tokens += prompt_tokens
            self.completion_tokens += completion_tokens
            self._changed.notify_all()
