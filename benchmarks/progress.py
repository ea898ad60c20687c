"""Shows the progress of long work: a bar on a terminal, a line per minute in a log."""

import os
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import Any, Final, Self

_TICK: Final = 0.5  # seconds between checks of whether to show something
_EVERY: Final = 60.0  # seconds between lines if standard error is no terminal
_RECENT: Final = 300.0  # seconds of reports that the time left is estimated from
_FEWEST: Final = 6  # reports that it is estimated from, if these take longer
_BAR: Final = "{desc} {percentage:3.0f}% |{bar}| {n:.0f} of {total:.0f} {unit} [{elapsed}{postfix}]"
_NO_BAR: Final = "{desc} [{elapsed}{postfix}]"


class Pace:
    """Estimates the time left from recent reports, so that a slow start or a change of speed is soon forgotten.

    Args:
        now: the time in seconds, of any clock.
        done: the amount done before.
    """

    def __init__(self, now: float, done: float) -> None:
        self._reports: deque[tuple[float, float]] = deque([(now, done)])  # time and amount done, oldest first

    def report(self, now: float, done: float) -> None:
        """Note the amount that is done now. A report without any progress changes nothing."""
        if done == self._reports[-1][1]:
            return
        if len(self._reports) > 2 and now - self._reports[-2][0] < 1:  # a few reports a second at most
            self._reports.pop()
        self._reports.append((now, done))
        while len(self._reports) > _FEWEST and now - self._reports[1][0] > _RECENT:
            self._reports.popleft()

    def left(self, now: float, total: float) -> float | None:
        """Return the seconds left, None before any progress. Between two reports the time runs down."""
        (began, first), (ended, done) = self._reports[0], self._reports[-1]
        if done <= first:
            return None
        between = (ended - began) / (len(self._reports) - 1)
        return max((ended - began) * (total - done) / (done - first) - min(now - ended, between), 0.0)


class Progress:
    """Shows what is being done, how much of it is finished, and how long the rest will take.

    Use it as a context manager. A thread of its own keeps the time moving when nothing is reported, for example while
    a library loads.

    Args:
        what: the work as a whole, such as `evaluation of SFT`; shown before each phase.
        shown: False for a process that must stay silent, such as all but the first of a distributed run.
    """

    def __init__(self, what: str, *, shown: bool = True) -> None:
        self.what: Final = what
        self._shown = shown
        self._stream = sys.stderr
        self._terminal = self._stream.isatty()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_moving, daemon=True)
        self._bar: Any = None
        self._phase, self._unit, self._note = "", "", ""
        self._total: float | None = None
        self._done = 0.0
        self._began = self._line_at = time.monotonic()
        self._pace = Pace(self._began, self._done)

    def __enter__(self) -> Self:
        if self._shown:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            self._close_bar()

    def phase(self, name: str, total: float | None = None, unit: str = "", done: float = 0.0) -> None:
        """Begin a part of the work.

        Args:
            name: what is done now.
            total: its amount; None if unknown.
            unit: unit of `total`, in the plural.
            done: amount done before, as in a resumed run.
        """
        with self._lock:
            self._phase, self._total, self._unit, self._note = name, total, unit, ""
            self._done, self._began = done, time.monotonic()
            self._pace = Pace(self._began, done)
            self._close_bar()
            if not self._shown:
                return
            if self._terminal:
                self._open_bar()
            else:
                self._write_line()

    def at(self, done: float, note: str = "") -> None:
        """Report how much of the phase is done, with a short note, such as a rate."""
        with self._lock:
            self._done, self._note = done, note
            self._pace.report(time.monotonic(), done)

    def _keep_moving(self) -> None:
        while not self._ended.wait(_TICK):
            with self._lock:
                if self._bar is not None:
                    self._bar.n = self._done
                    words = [*self._time_left(), *([self._note] if self._note else [])]
                    self._bar.set_postfix_str(", ".join(words), refresh=False)
                    self._bar.refresh()
                elif self._phase and not self._terminal and time.monotonic() - self._line_at >= _EVERY:
                    self._write_line()

    def _time_left(self) -> list[str]:
        left = None if self._total is None else self._pace.left(time.monotonic(), self._total)
        return [] if left is None else [f"about {in_words(left)} left"]

    def _open_bar(self) -> None:
        from tqdm import tqdm

        try:
            wide = os.get_terminal_size(self._stream.fileno()).columns > 0
        except (OSError, ValueError):
            wide = False  # a terminal without a width, such as a recorded one, on which tqdm shows nothing
        width: dict[str, Any] = {"dynamic_ncols": True} if wide else {"ncols": 100, "nrows": 20}
        self._bar = tqdm(
            desc=f"{self.what}: {self._phase}", total=self._total, initial=self._done, unit=self._unit,
            file=self._stream, leave=False, bar_format=_NO_BAR if self._total is None else _BAR, **width,
        )  # fmt: skip

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _write_line(self) -> None:
        self._line_at = time.monotonic()
        words = [f"{self.what}: {self._phase}"]
        if self._total is not None:
            words.append(f"{self._done:.0f} of {self._total:.0f} {self._unit}")
        words += [self._note] if self._note else []
        if (seconds := time.monotonic() - self._began) >= 1:
            words.append(f"{in_words(seconds)} so far")
            words += self._time_left()
        self._stream.write(", ".join(words) + "\n")
        self._stream.flush()


def in_words(seconds: float) -> str:
    """Return a time in the form `45 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
