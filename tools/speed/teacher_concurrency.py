"""How busy a teacher keeps a server of 200 slots that answers in one second, against a thread pool of 40; and memory.

python -m tools.speed.teacher_concurrency [--requests 4000] [--replay 100000] [--json FILE]
"""

import argparse
import asyncio
import functools
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SLOTS = 200
SECONDS = 1.0
TARGET = 0.95
THREADS = 40
LABEL = "upregulated"
REPLY = json.dumps(
    {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {
            "role": "assistant", "content": f"<think>{'it stalls translation ' * 50}</think><answer>{LABEL}</answer>",
        }}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 250, "total_tokens": 550},
    }
).encode()  # fmt: skip


class Answering(asyncio.Protocol):
    """Answers each request after a second; `GET` returns what was measured since the last `GET`."""

    serving = 0
    area = 0.0
    served = 0
    first = last = since = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
            length = int(lengths[0].split(b":")[1]) if lengths else 0
            if len(rest) < length:
                return
            self.buffer = rest[length:]
            if head.startswith(b"GET"):
                cls = Answering
                span = cls.last - cls.first
                self._send(json.dumps({"busy": cls.area / SLOTS / span if span else 0, "served": cls.served}).encode())
                cls.area, cls.served, cls.first = 0.0, 0, 0.0
                continue
            self._count(+1)
            asyncio.get_running_loop().call_later(SECONDS, self._answer)

    def _count(self, change: int) -> None:
        cls, now = Answering, time.perf_counter()
        cls.first = cls.first or now
        cls.area += cls.serving * (now - cls.since if cls.since else 0.0)
        cls.serving += change
        cls.since = cls.last = now
        cls.served += change < 0

    def _answer(self) -> None:
        self._count(-1)
        self._send(REPLY)

    def _send(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


async def serve() -> None:
    """Serve on a free port, which is printed."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def make_work(n: int) -> Any:
    """Return n items and prompts."""
    import pandas as pd

    from sft.teacher.questions import Work

    genes = [f"G{number}" for number in range(n)]
    items = pd.DataFrame({"cell_line": "rpe1", "pert": "AARS", "gene": genes, "label": LABEL, "split": "train"})
    items.insert(0, "item_id", "rpe1|AARS|" + items["gene"])
    prompts: list[Any] = [[{"role": "user", "content": f"What happens to {gene}? " + "x" * 800}] for gene in genes]
    return Work(items, prompts, {"split": "official"}, {})


def ours(url: str, n: int) -> None:
    """Ask for n traces with our teacher, its log on disk and all."""
    from sft.teacher.arguments import EndpointArguments
    from sft.teacher.ask import ask_teacher

    with tempfile.TemporaryDirectory() as folder:
        args = EndpointArguments(base_url=url, max_in_flight=SLOTS)
        assert ask_teacher(make_work(n), "m", args, Path(folder) / "t.jsonl") == n


def other(url: str, n: int) -> None:
    """Ask n questions from a pool of 40 threads and keep the replies in a list."""
    import openai

    client = openai.OpenAI(base_url=url, api_key="none")
    work = make_work(n)

    def ask(prompt: Any) -> str | None:
        reply = client.chat.completions.create(model="m", messages=prompt, max_tokens=2048)
        return str(reply.choices[0].message.content)

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(ask, work.prompts))


def busy(side: Any, url: str, n: int) -> tuple[float, float]:
    """Return the server's mean share of busy slots while `side` asked, and the seconds that took."""
    import urllib.request

    start = time.perf_counter()
    side(url, n)
    seconds = time.perf_counter() - start
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as reply:
        return float(json.loads(reply.read())["busy"]), seconds


def replay(n: int) -> list[float]:
    """Answer n questions from memory, without sockets; return resident MB at each tenth."""
    import openai

    from benchmarks.endpoint import client as endpoint
    from sft.teacher.arguments import EndpointArguments
    from sft.teacher.ask import ask_teacher

    http = endpoint._http()

    async def answer(request: Any) -> Any:
        return http.Response(200, content=REPLY, headers={"Content-Type": "application/json"})

    client: Any = openai.DefaultAsyncHttpxClient
    openai.DefaultAsyncHttpxClient = functools.partial(client, transport=http.MockTransport(answer))  # type: ignore[misc,assignment]
    sizes: list[float] = []

    def note(line: str) -> None:
        done = line.split(" of ")[0]
        if done.isdigit() and int(done) % max(n // 10, 100) == 0:
            gc.collect()
            sizes.append(resident_mb())

    with tempfile.TemporaryDirectory() as folder:
        args = EndpointArguments(base_url="http://localhost/v1", max_in_flight=SLOTS)
        assert ask_teacher(make_work(n), "m", args, Path(folder) / "t.jsonl", progress=note) == n
    return sizes


def resident_mb() -> float:
    """Return this process's resident memory; its peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Measure both sides against one server, then the replay."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--replay", type=int, default=100_000, help="replayed responses; 0 for none")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true")
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve())
    server = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        our_busy, our_s = busy(ours, url, args.requests)
        other_busy, other_s = busy(other, url, args.requests // 5)
    finally:
        server.kill()
    n_other = args.requests // 5
    print(f"{SLOTS} slots of {SECONDS:g} s")
    print(f"ours: {our_busy:.1%} busy (target {TARGET:.0%}), {args.requests} requests in {our_s:.1f} s")
    print(f"{THREADS} threads: {other_busy:.1%} busy, {n_other} requests in {other_s:.1f} s")
    sizes = replay(args.replay) if args.replay else []
    if sizes:
        print(f"{args.replay:,} replayed responses: resident MB at each tenth {', '.join(f'{s:.0f}' for s in sizes)}")
    if args.json:
        row = {"name": "teacher_concurrency", "prompt": 0, "completion": 0, "group": 0, "ours_s": our_s / args.requests,
               "other_s": other_s / n_other, "ours_busy": our_busy, "other_busy": other_busy,
               "ratio": our_busy / other_busy, "replay_mb": sizes}  # fmt: skip
        args.json.write_text(json.dumps([row], indent=2))


if __name__ == "__main__":
    main()
