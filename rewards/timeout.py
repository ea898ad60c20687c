"""A hard time limit for rewards that are not built in: each runs in its own process, which can be killed.

Python cannot kill a thread, and a signal does not interrupt a loop in C. A process can always be killed. The process
leads its own session, so that the processes which the reward starts are killed with it.

Process pools promise less. `concurrent.futures` kills no process at a time limit. pebble 5.2 does, but

- it leaves running what the killed process has started,
- it leaves the process itself running where the trainer is killed,
- it counts the time to load the reward again, after a cut-off, as part of the call,
- it does not work in a fork.
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
from rewards.foreign import needed_columns, one_line, stated_range

_STARTING: Final = 120.0  # seconds that the process may take to start and import the reward's module
_logger = logging.getLogger("synthpert.rewards")


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Let `spawn` start processes without running the main script again: the script may have no main guard."""
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
    """A reward in its own process. A call that takes too long is cut off, and all its completions get None.

    The reward gets `step` and the columns with one value per completion. It does not get the trainer and its callbacks.
    The process starts at once, so that a reward which does not load is refused before anything else starts.

    Args:
        make: makes the reward in the other process; a function that can be pickled.
        arguments: the arguments of `make`.
        name: the reward's name.
        seconds: the time that one call may take.

    Attributes:
        cut_off: number of scores that were cut off so far.
        range: the lowest and highest score that the reward states; None where it states none.
        needs: the keywords without a default that the reward takes.

    Raises:
        InputError: the reward does not load within two minutes.
    """

    range: tuple[float, float] | None
    needs: tuple[str, ...]

    def __init__(self, make: Callable[..., Any], arguments: Sequence[Any], name: str, seconds: float) -> None:
        self.__name__ = name
        self.seconds = seconds
        self.cut_off = 0
        self._make, self._arguments = make, tuple(arguments)
        self._lock = threading.Lock()  # one call at a time: answers come in the order of the calls
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
        """Forget the process, as after pickling or in a fork, whose parent owns it. The next call starts a new one."""
        self._end, self._pipe, self._lock = lambda: None, None, threading.Lock()

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None for each of them where the call took too long.

        Raises:
            CheckError: the reward raised an error, its process died, or a column cannot be sent to the process.
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
                    "reward %s: cut off after %g s; %d completions are unscorable", self.__name__, self.seconds, n
                )
                return [None] * n
            kind, found = pipe.recv()
        except BaseException as error:
            self._stop()  # after Ctrl-C too: the next call would read this batch's answer from the pipe
            if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
                raise CheckError(
                    f"reward {self.__name__}: its process died; call the function in a Python shell to see why"
                ) from None
            if isinstance(error, pickle.PicklingError | TypeError | AttributeError):
                raise CheckError(f"reward {self.__name__}: a column cannot be sent to its process ({error}); set "
                                 "timeout: 0 to run it in the trainer's process") from error  # fmt: skip
            raise
        if kind == "returned":
            raise CheckError(found)
        if kind == "error":
            raise CheckError(
                f"reward {self.__name__}: raised {found}; correct the function, or return None for what it cannot judge"
            )
        return found  # type: ignore[no-any-return]

    def _start(self) -> Connection:
        if multiprocessing.current_process().daemon:
            raise InputError(f"{self.__name__}: a time limit needs a process, which a daemonic worker may not start; "
                             "set timeout: 0 to run it in the worker's process")  # fmt: skip
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.__name__, self._make, self._arguments), daemon=True)
        with without_main():
            process.start()
        theirs.close()
        self._end = weakref.finalize(self, _end_group, process, ours, os.getpid())  # at exit too
        found: Any
        kind, found = "error", f"{self.__name__}: did not load within {_STARTING:g} s; let its module do less at import"
        try:
            if ours.poll(_STARTING):
                kind, found = ours.recv()
        except (EOFError, OSError):
            found = (
                f"{self.__name__}: its process died while loading the module; import the module in Python to see why"
            )
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
    """Kill a process and all processes that it has started. In a fork of its owner, do nothing."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it does not lead a group yet, or is gone
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    pipe.close()


def _serve(pipe: Connection, name: str, make: Callable[..., Any], arguments: Sequence[Any]) -> None:
    """Score the batches that come through the pipe until it closes."""
    os.setsid()  # the group can be killed as one, and Ctrl-C reaches the trainer alone
    _watch = _end_with_parent()  # kept: Python warns of a running process that nothing refers to
    try:
        reward = make(*arguments)
    except BaseException as error:
        said = str(error) if isinstance(error, InputError) else f"{name}: loading it raised {one_line(error)}"
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
        except Exception as error:  # a score that cannot be pickled
            pipe.send(("error", one_line(error)))


def _scored(reward: Any, name: str, completions: list[Completion], columns: dict[str, Any]) -> tuple[str, Any]:
    """Return what to send to the trainer, and its kind.

    The kind is `scores`, `returned` (a message: the value returned is no list of scores) or `error` (the error raised).
    """
    try:
        found = reward(completions=completions, **columns)
    except Exception as error:
        return "error", one_line(error)
    try:
        return "scores", [_plain(score) for score in returned_scores(found, len(completions), name)]
    except CheckError as error:
        return "returned", str(error)


def _end_with_parent() -> subprocess.Popen[bytes]:
    """Start a process that kills this group when the trainer is gone, even if the reward hangs.

    A thread would wait for ever where the reward holds the interpreter's lock, so this is a process; a shell is the
    smallest. The shell reads from a pipe that only the trainer can write to. Its `read` returns when the trainer ends,
    or at once if the trainer has ended before.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    return subprocess.Popen(
        ["/bin/sh", "-c", "read -r _; kill -s KILL 0"],
        stdin=parent.sentinel, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _plain(score: Any) -> Any:
    """Return a NumPy or torch number as a Python number."""
    return score.item() if hasattr(score, "item") else score
