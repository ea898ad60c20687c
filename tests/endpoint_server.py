"""A small OpenAI-compatible server for tests: asyncio, HTTP/1.1, kept alive; its replies and faults are functions.

With `forward` and `faulty` it is a proxy that spoils a share of what another server answers. Run as a script it serves
`respond_well` on a free port and prints it.
"""

import asyncio
import json
import random
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

RIGHT = "<think>{reason}</think><answer>{label}</answer>"
# What a handler returns: a whole HTTP response, or None to close the connection without one.
Handler = Callable[[dict[str, Any], dict[str, str]], Awaitable[bytes | None]]
PATIENCE = 600.0  # seconds; nothing but a failure takes as long


def http(status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {length or len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Unfinished(bytes):
    """A response shorter than it says, after which the connection stays open; without this it closes."""


def is_cut(response: bytes) -> bool:
    head, _, body = response.partition(b"\r\n\r\n")
    return f"Content-Length: {len(body)}\r\n" not in f"{head.decode('latin-1')}\r\n"


def chat(text: str | None, finish: str = "stop", **message: Any) -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(reply).encode()


def error(status: int, message: str, code: str | None = None, **headers: str) -> bytes:
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    return http(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class Server:
    """Serves a handler from a thread of its own; counts what it is asked."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()  # by the last message
        self.busy = self.most = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = json.loads(body)
                self.requests.append(request)
                self.headers.append(headers)
                self.busy += 1
                self.most = max(self.most, self.busy)
                try:
                    response = await self.handler(request, headers)
                finally:
                    self.busy -= 1
                if response is None:
                    break
                writer.write(response)
                await writer.drain()
                if b" 200 X" in response[:20]:
                    self.answered[request["messages"][-1]["content"]] += 1
                if is_cut(response) and not isinstance(response, Unfinished):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def is_critic(request: dict[str, Any]) -> bool:
    return "<verdict>" in request["messages"][-1]["content"]


async def respond_well(request: dict[str, Any], headers: dict[str, str]) -> bytes:
    """Answer by the question alone: a critic says good; a teacher's label depends on the text's length."""
    if is_critic(request):
        return http(200, chat("<verdict>good</verdict><given>no</given><reason>Sound.</reason>"))
    text = request["messages"][-1]["content"]
    label = ("upregulated", "downregulated", "not differentially expressed")[sum(text.encode()) % 3]
    return http(200, chat(RIGHT.format(reason=f"Loss of it stresses the cell {sum(text.encode())}.", label=label)))


def forward(url: str) -> Handler:
    """A handler that hands each request on to the server at `url` and returns what that one answers."""

    def post(request: dict[str, Any], authorization: str) -> bytes:
        headers = {"Content-Type": "application/json", "Authorization": authorization}
        asked = urllib.request.Request(f"{url}/chat/completions", json.dumps(request).encode(), headers)
        with urllib.request.urlopen(asked, timeout=PATIENCE) as reply:
            return http(200, reply.read())

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return await asyncio.to_thread(post, request, headers.get("authorization", ""))

    return handler


SPOILT = {  # None cuts the connection
    "429 with Retry-After": error(429, "busy", retry_after="0.05"),
    "429": error(429, "busy"),
    "500": error(500, "oops"),
    "a hang": None,  # first
    "a cut connection": None,
    "half a JSON body": None,  # of what the upstream server answers
    "a body cut off": http(200, b"", length=500),
    "an empty choice": http(200, b'{"choices": []}'),
    "length": http(200, chat("<think>never", "length")),
    "content filtered": http(200, chat("no", "content_filter")),
    "wrong encoding": http(200, '{"é"'.encode("latin-1")),
    "10 MB": http(200, chat("x" * 10_000_000)),
}
FAULTS = tuple(SPOILT)


def faulty(
    upstream: Handler,
    seed: int,
    share: float = 0.3,
    used: Counter[str] | None = None,
    give_up: Callable[[dict[str, str]], object] | None = None,
) -> Handler:
    """A handler that spoils what `upstream` answers on a share of the questions, each with a fault of its own.

    Once, twice or for ever; `used` counts the faults. A request left hanging is cut off after half a minute, or is told
    to `give_up` by its headers, which makes the client do so at once.
    """
    seen: Counter[str] = Counter()

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes | None:
        text = request["messages"][-1]["content"]
        pick = random.Random(f"{seed}|{text}")
        seen[text] += 1
        spoilt, times, fault = pick.random() < share, pick.choice((1, 1, 2, 99)), pick.choice(FAULTS)
        if fault.startswith("429"):
            times = min(times, 2)  # a server that stays too busy stops the run, as it should
        if not spoilt or seen[text] > times:
            return await upstream(request, headers)
        if used is not None:
            used[fault] += 1
        if fault == "a hang":
            if give_up is not None:
                give_up(headers)
            await asyncio.sleep(30 if give_up is None else PATIENCE)
        if fault == "half a JSON body":
            body = (await upstream(request, headers) or b"").split(b"\r\n\r\n", 1)[1]
            return http(200, body[: len(body) // 2])
        return SPOILT[fault]

    return handler


async def _main(delay: float) -> None:
    async def slow(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        await asyncio.sleep(delay)
        return await respond_well(request, headers)

    server = Server(slow)
    listening = await asyncio.start_server(server._connection, "127.0.0.1", 0, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))
