"""What requests may take in all: counted before they are sent, those under way included."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from rewards import CheckError, InputError

_MILLION: Final = 1_000_000


class BudgetSpentError(CheckError):
    """The next request would exceed the budget."""


@dataclass
class Budget:
    """What all requests together may take. A request that could exceed it is not sent.

    Attributes:
        max_requests, max_tokens: limits; 0 for none. Tokens are those of prompts and completions.
        max_cost: limit in the currency of the prices; 0 for none.
        price_in, price_out: per million tokens of prompts and completions.
        requests, prompt_tokens, completion_tokens: spent so far, earlier runs included.
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
                raise InputError(f"budget: {key} is {getattr(self, key)}; use 0 for none, or more")
        if self.max_cost and not (self.price_in or self.price_out):
            raise InputError("max_cost: needs price_in and price_out, per million tokens")

    @property
    def cost(self) -> float:
        """Money spent, in the currency of the prices."""
        return self._cost(self.prompt_tokens, self.completion_tokens)

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / _MILLION

    def _over(self, prompt_tokens: int, completion_tokens: int) -> str | None:
        """Which limit a request with so many tokens, on top of those under way, would exceed."""
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
        """Set tokens aside for one request, waiting for those under way where they may give some back.

        Raises:
            BudgetSpentError: nothing under way could make room.
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
        """Give a reservation back and note what was spent instead."""
        async with self._changed:
            self._open.remove(reserved)
            self.prompt_tokens += prompt_tokens
            self.completion_tokens += completion_tokens
            self._changed.notify_all()
