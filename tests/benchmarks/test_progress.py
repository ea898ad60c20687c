"""Progress in a log and on a terminal."""

import io
import itertools
import re
import time
from types import SimpleNamespace

import pytest

from benchmarks.progress import Pace, Progress, in_words


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def wait_for(stream: io.StringIO, pattern: str) -> str:
    """Return what the stream holds once it matches; pytest's own limit ends a wait in vain."""
    while not re.search(pattern, stream.getvalue()):
        time.sleep(0.001)
    return stream.getvalue()


def shown_on(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, every: float = 3600, passes: float = 0) -> None:
    """Let progress go to a stream, in a log with a line in so many seconds; `passes` from one look at the time on."""
    seconds = itertools.count(0.0, passes)
    monkeypatch.setattr("benchmarks.progress.time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr("tqdm.std.time", lambda: next(seconds))
    monkeypatch.setattr("benchmarks.progress._TICK", 0.01)
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("benchmarks.progress._EVERY", every)


def test_a_log_has_a_line_at_each_phase_and_then_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    shown_on(log, monkeypatch)
    with Progress("evaluation of SFT") as progress:
        progress.phase("loading the model")
        progress.phase("writing", 310, "completions", 78)
        progress.at(100, "1,234 tokens, 133 a second")
    assert log.getvalue().splitlines() == [
        "evaluation of SFT: loading the model",
        "evaluation of SFT: writing, 78 of 310 completions",
    ]
    log = io.StringIO()
    shown_on(log, monkeypatch, every=1, passes=1)
    with Progress("stage one") as progress:
        progress.phase("learning", 24, "steps", 12)
        progress.at(15, "loss 2.5")
        text = wait_for(log, "left")
    assert re.search(r"stage one: learning, 15 of 24 steps, loss 2\.5, \d+ s so far, about \d+ (s|min) .*left\n", text)
    assert "\r" not in text


def test_the_time_left_is_that_of_recent_steps() -> None:
    pace = Pace(0, 0)
    assert pace.left(50, 100) is None  # nothing done yet
    pace.report(500, 1)  # a slow start
    assert pace.left(500, 100) == pytest.approx(500 * 99)
    for step in range(2, 50):
        pace.report(500 + 10 * step, step)
    assert pace.left(990, 100) == pytest.approx(10 * 51)


def test_the_time_left_does_not_grow_while_a_slow_step_runs() -> None:
    pace = Pace(0, 4)  # a resumed run: 4 of 10 steps were done before
    pace.report(600, 5)
    pace.report(1200, 6)
    assert [pace.left(now, 10) for now in (1200, 1500, 1800, 3000)] == [2400, 2100, 1800, 1800]
    pace.report(1200, 6)
    assert pace.left(3000, 10) == 1800  # a report without progress changes nothing
    pace.report(3000, 10)
    assert pace.left(4000, 10) == 0


def test_many_reports_a_second_are_kept_as_a_few() -> None:
    pace = Pace(0, 0)
    for tick in range(1, 10_001):
        pace.report(tick / 1000, tick)
    assert len(pace._reports) < 20
    assert pace.left(10, 20_000) == pytest.approx(10, rel=0.01)


def test_a_terminal_has_a_bar_that_moves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    shown_on(screen, monkeypatch, passes=1)
    with Progress("stage two") as progress:
        progress.phase("loading")
        wait_for(screen, r"(?s)loading \[(\d\d:\d\d)\].*loading \[(?!\1)\d\d:\d\d\]")  # nothing was told in between
        progress.phase("learning", 5, "steps")
        progress.at(2.4, "reward 0.5")
        text = wait_for(screen, r"2 of 5 steps \[\d\d:\d\d, about .* left, reward 0\.5\]")
    assert "\n" not in text.strip("\n")
    assert screen.getvalue().endswith("\r")  # the bar is taken away


def test_a_process_that_is_not_the_first_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    shown_on(log, monkeypatch, every=0)
    with Progress("x", shown=False) as progress:
        progress.phase("loading")
        progress.at(1)
    assert log.getvalue() == ""


def test_an_error_goes_through_and_the_thread_ends() -> None:
    progress = Progress("x")
    with pytest.raises(KeyError), progress:
        progress.phase("loading")
        raise KeyError
    assert not progress._thread.is_alive()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7_500, "2 h 5 min")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
