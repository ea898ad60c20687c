"""The log of all requests: one JSON object a line, appended and synced to disk, so that no request is paid for twice.

There are four kinds of lines:

- `sent`, before an attempt leaves, with the tokens reserved for it;
- `failed`, for an attempt that failed, with the tokens that it may have cost;
- `outcome`, for a question that is settled, with the tokens of all its attempts;
- `lost`, for a question that was sent and has no outcome because the process ended.

A question with an outcome is not asked again. A lost one is, and its reserved tokens count as spent, since the server
may have charged for them.
"""

import asyncio
import fcntl
import json
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import disk_errors
from rewards import InputError


@dataclass
class _Cost:
    """The (prompt, completion) tokens of a question under way, for failed attempts and for the one that was sent."""

    failed: tuple[int, int] = (0, 0)
    sent: tuple[int, int] = (0, 0)


class RequestLog:
    """An open log. Use it as a context manager.

    Args:
        path: the file, which is created if absent. It is locked, so that two processes cannot append to one log.

    Attributes:
        done: by settled question, the byte offset of its outcome.
        interrupted: questions that were sent but not settled when the log was opened.
        failed: settled questions whose outcome was an error when the log was opened.
        outcomes: number of outcomes of each question when the log was opened, with those forgotten since.
        repaired: bytes of an incomplete last line that was dropped; 0 if there was none.
        requests, prompt_tokens, completion_tokens: spent when the log was opened.

    Raises:
        InputError: another process writes to the log, or a line in the middle is broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, int] = {}
        self.interrupted: set[str] = set()
        self.failed: set[str] = set()
        self.outcomes: Counter[str] = Counter()
        self._open: dict[str, _Cost] = {}
        self.repaired = 0
        self.requests = self.prompt_tokens = self.completion_tokens = 0
        self._durable = 0
        self._lock = asyncio.Lock()
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise InputError(f"{path}: another process is writing here; wait for it or stop it") from None
        try:
            self._size = self._read_back()
            for question, cost in self._open.items():
                prompt_tokens, completion_tokens = (sum(tokens) for tokens in zip(cost.failed, cost.sent, strict=True))
                self.note("lost", question, prompt_tokens, completion_tokens)
                self.prompt_tokens += prompt_tokens
                self.completion_tokens += completion_tokens
            self.interrupted = set(self._open)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "RequestLog":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def forget(self, questions: Collection[str]) -> int:
        """Forget the outcomes of questions, so that they are asked again. Return their number."""
        for question in questions:
            del self.done[question]
        return len(questions)

    def _read_back(self) -> int:
        offset = 0
        size = os.fstat(self._fd).st_size
        with self.path.open("rb") as file:
            for row, line in enumerate(file, start=1):
                try:
                    if not line.endswith(b"\n"):
                        raise ValueError("torn")
                    record = json.loads(line)
                    self._count(record, offset)
                except (ValueError, KeyError, TypeError, RecursionError):
                    if offset + len(line) < size:
                        raise InputError(
                            f"{self.path}, row {row}: not a line of a request log; restore the file, or remove it to "
                            "ask everything again"
                        ) from None
                    self.repaired = len(line)
                    os.ftruncate(self._fd, offset)
                    os.fsync(self._fd)
                    break
                offset += len(line)
        return offset

    def _count(self, record: dict[str, Any], offset: int) -> None:
        question, event = str(record["question"]), record["event"]
        prompt_tokens, completion_tokens = int(record["prompt_tokens"]), int(record["completion_tokens"])
        if event == "sent":
            self.requests += 1
            self._open.setdefault(question, _Cost()).sent = (prompt_tokens, completion_tokens)
        elif event == "failed":
            cost = self._open[question]
            cost.failed = (cost.failed[0] + prompt_tokens, cost.failed[1] + completion_tokens)
            cost.sent = (0, 0)
        elif event in ("lost", "outcome"):
            self._open.pop(question, None)
            self.prompt_tokens += prompt_tokens
            self.completion_tokens += completion_tokens
        else:
            raise ValueError(event)
        if event == "outcome":
            (self.failed.discard if record["error"] is None else self.failed.add)(question)
            self.done[question] = offset
            self.outcomes[question] += 1

    def note(self, event: str, question: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Append what became of an attempt. The line survives a kill of this process."""
        tokens = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        self._append({"event": event, "question": question, **tokens})

    async def settle(self, question: str, outcome: dict[str, Any]) -> None:
        """Append an outcome. Once this returns, neither a kill nor a power cut loses it."""
        if question in self.done:
            raise AssertionError(f"{question} is settled already")
        offset = self._append({"event": "outcome", "question": question, **outcome})
        ticket = self._size
        async with self._lock:  # one sync serves all who wait
            if self._durable < ticket:
                size = self._size
                with disk_errors(self.path):
                    await asyncio.to_thread(os.fdatasync, self._fd)
                self._durable = size
        self.done[question] = offset

    def _append(self, record: dict[str, Any]) -> int:
        # ASCII only, because a lone surrogate in a reply has no UTF-8 bytes.
        line = json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
        offset = self._size
        with disk_errors(self.path):
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._fd, line[written:])
            except OSError:
                os.ftruncate(self._fd, offset)
                raise
        self._size += len(line)
        return offset

    def read(self, question: str) -> dict[str, Any]:
        """Return a settled question's outcome."""
        with self.path.open("rb") as file:
            file.seek(self.done[question])
            record: dict[str, Any] = json.loads(file.readline())
        return record
