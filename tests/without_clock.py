"""What tests have instead of a clock, so that none depends on how fast the machine is."""

import asyncio
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

from benchmarks.endpoint.client import Endpoint

PATIENCE: Final = 600.0  # seconds for what must happen: they bound a failure, and nothing else
UNHURRIED: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def wait_for(happened: Callable[[], object]) -> None:
    """Return once something has happened; fail after ten minutes."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "it did not happen within ten minutes"
        time.sleep(0.01)


def count_steps(work: Callable[[], object]) -> int:
    """Count the lines of Python that run and the calls they make: a loop over rows has some for each of them."""
    steps = 0

    def step(frame: Any, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        return step

    tracing, profiling = sys.gettrace(), sys.getprofile()
    sys.settrace(step)
    sys.setprofile(step)
    try:
        work()
    finally:
        sys.setprofile(profiling)
        sys.settrace(tracing)
    return steps


class Limits:
    """The time limits of an `Endpoint`'s attempts: one passes when the server says so, and none by the clock.

    A server that leaves a request hanging lets its limit pass; a reply that is merely late is waited for.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._open: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Timeout]] = {}
        asked: ContextVar[str] = ContextVar("asked")
        attempt = Endpoint._attempt

        async def noted(endpoint: Endpoint, messages: Any, request_id: str, *rest: Any) -> Any:
            asked.set(request_id)
            return await attempt(endpoint, messages, request_id, *rest)

        def limit(seconds: float) -> asyncio.Timeout:
            made = asyncio.timeout(seconds)
            self._open[asked.get()] = (asyncio.get_running_loop(), made)
            return made

        monkeypatch.setattr(Endpoint, "_attempt", noted)
        monkeypatch.setattr(
            "benchmarks.endpoint.client.asyncio", SimpleNamespace(**{**vars(asyncio), "timeout": limit})
        )

    def end(self, headers: dict[str, str]) -> None:
        """Let the limit of the attempt pass that sent these headers."""
        loop, made = self._open[headers["idempotency-key"]]
        loop.call_soon_threadsafe(made.reschedule, 0.0)
