"""A hard time limit for rewards that we did not write: they run in a process of their own, which can be ended.

A thread cannot be ended, and a signal does not interrupt a loop in C; a process always can. It leads a session of its
own, so that what it has started ends with it. Process pools promise less: `concurrent.futures` ends no process at a
time limit; pebble 5.2 does, but leaves behind what that has started, and the process itself where the trainer is
killed, counts loading again after a cut-off as part of the call, and serves no fork.
"""

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from rewards.batch import Completion, Scores, is_column, returned_scores
from rewards.errors import CheckError, InputError
from rewards.foreign import needed_columns, said_of, stated_range

_STARTING: Final = 120.0  # seconds for the process to start and to import the reward's module
_logger = logging.getLogger("synthpert.rewards")


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Start processes (`spawn`) that do not run this one's main script again: it may have no main guard."""
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
    try:
        for name in kept:
            with contextlib.suppress(AttributeError):
                setattr(main, name, None) if name == "__spec__" else delattr(main, name)
        yield
    finally:
        for name, value in kept.items():
            if value is not None:
                setattr(main, name, value)


class TimeLimited:
    """A reward in a process of its own; a call that takes too long is cut off, and all its completions get None.

    Only columns of one value per completion reach the reward (and `step`): not the trainer and its callbacks. The
    process starts at once, so that what does not load is told before anything else starts.

    Args:
        make: makes the reward in the other process; a function that can be pickled.
        arguments: of `make`.
        name: of the reward.
        seconds: a call may take.

    Attributes:
        cut_off: scores that were cut off.
        range: what the reward states as its lowest and highest score; None where it states none.
        needs: the keywords that it cannot be called without.

    Raises:
        InputError: the reward does not load, or not within two minutes.
    """

    range: tuple[float, float] | None
    needs: tuple[str, ...]

    def __init__(self, make: Callable[..., Any], arguments: Sequence[Any], name: str, seconds: float) -> None:
        self.__name__ = name
        self.seconds = seconds
        self.cut_off = 0
        self._make, self._arguments = make, tuple(arguments)
        self._lock = threading.Lock()  # one call at a time: the process answers in order
        self._end: Callable[[], object] = lambda: None
        self._pipe: Connection | None = self._start()
        _all.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_end", "_pipe", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
        _all.add(self)

    def _forget(self) -> None:
        """Have no process, as after pickling or in a fork, whose parent's it is: the next call starts one."""
        self._end, self._pipe, self._lock = lambda: None, None, threading.Lock()

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None for each of them where the reward did not come back in time.

        Raises:
            CheckError: the reward raised an error; the message names it.
        """
        n = len(completions)
        columns = {k: list(v) for k, v in columns.items() if is_column(v, n)} | {
            k: v for k, v in columns.items() if k == "step"
        }
        with self._lock:
            return self._score(list(completions), columns)

    def _score(self, completions: list[Completion], columns: dict[str, Any]) -> Scores:
        n = len(completions)
        pipe = self._pipe = self._pipe or self._start()
        try:
            pipe.send((completions, columns))
            if not pipe.poll(self.seconds):
                self._stop()
                self.cut_off += n
                _logger.warning(
                    "reward %s: cut off after %g s, %d completions are unscorable", self.__name__, self.seconds, n
                )
                return [None] * n
            kind, found = pipe.recv()
        except BaseException as error:
            self._stop()  # on Ctrl-C too: an answer left in the pipe would be taken for that of the next batch
            if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
                raise CheckError(
                    f"reward {self.__name__}: its process ended by itself; call it by hand to see why"
                ) from None
            if isinstance(error, pickle.PicklingError | TypeError | AttributeError):
                raise CheckError(f"reward {self.__name__}: a column cannot be sent to its process ({error}); set "
                                 "timeout: 0 to run it in the trainer's own") from error  # fmt: skip
            raise
        if kind == "returned":
            raise CheckError(found)
        if kind == "error":
            raise CheckError(f"reward {self.__name__}: raised {found}; an error is no score, mend the function")
        return found  # type: ignore[no-any-return]

    def _start(self) -> Connection:
        if multiprocessing.current_process().daemon:
            raise InputError(f"{self.__name__}: its time limit needs a process, which a daemonic worker may not start; "
                             "set timeout: 0 to run it in the worker's own")  # fmt: skip
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.__name__, self._make, self._arguments), daemon=True)
        with without_main():
            process.start()
        theirs.close()
        self._end = weakref.finalize(self, _end_group, process, ours, os.getpid())  # at exit too
        found: Any
        kind, found = "error", f"{self.__name__}: does not load within {_STARTING:g} s; mend the module"
        try:
            if ours.poll(_STARTING):
                kind, found = ours.recv()
        except (EOFError, OSError):
            found = f"{self.__name__}: its process ended while it loaded; mend the module"
        except BaseException:
            self._stop()
            raise
        if kind == "error":
            self._stop()
            raise InputError(found)
        self.__name__, self.range, self.needs = found
        return ours

    def _stop(self) -> None:
        self._end()
        self._pipe = None


_all: Final[weakref.WeakSet[TimeLimited]] = weakref.WeakSet()


def _forget_all() -> None:
    for one in _all:
        one._forget()


os.register_at_fork(after_in_child=_forget_all)


def _end_group(process: Any, pipe: Connection, owner: int) -> None:
    """End a process and all that it has started; in a fork of its owner, nothing."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has not come to lead a group, or is gone
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    pipe.close()


def _serve(pipe: Connection, name: str, make: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Score what comes through the pipe until it closes."""
    os.setsid()  # so that its group can be ended, and Ctrl-C, which is the trainer's, does not reach it
    _watch = _end_with_parent()  # kept: without a reference it would be warned of
    try:
        reward = make(*arguments)
    except BaseException as error:
        said = str(error) if isinstance(error, InputError) else f"{name}: loading it raised {said_of(error)}"
        pipe.send(("error", said))
        return
    pipe.send(("ready", (getattr(reward, "__name__", name), stated_range(reward), needed_columns(reward))))
    while True:
        try:
            completions, columns = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(_scored(reward, name, completions, columns))
        except Exception as error:  # a score that no pipe takes
            pipe.send(("error", said_of(error)))


def _scored(reward: Any, name: str, completions: list[Completion], columns: dict[str, Any]) -> tuple[str, Any]:
    """Return what to tell the trainer: `scores`, what it `returned` against the contract, or the `error` it raised."""
    try:
        found = reward(completions=completions, **columns)
    except Exception as error:
        return "error", said_of(error)
    try:
        return "scores", [_plain(score) for score in returned_scores(found, len(completions), name)]
    except CheckError as error:
        return "returned", str(error)


def _end_with_parent() -> subprocess.Popen[bytes]:
    """Start what ends the group when the trainer is gone, even if it was killed while the reward hangs.

    A process, since a thread waits for ever where the reward holds the interpreter's lock; a shell, as the smallest. It
    reads what only the trainer could write to, and so waits for its end, even one that came before.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    return subprocess.Popen(
        ["/bin/sh", "-c", "read -r _; kill -s KILL 0"],
        stdin=parent.sentinel, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _plain(score: Any) -> Any:
    """A score without its package: NumPy's and torch's numbers as Python's."""
    return score.item() if hasattr(score, "item") else score
