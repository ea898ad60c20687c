"""Traces from a teacher: every item is accounted for once, whatever the server does and whenever the process dies."""

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command import synthpert
from endpoint_server import FAULTS, RIGHT, Server, chat, error, faulty, forward, http, is_critic, respond_well
from without_clock import PATIENCE, Limits, wait_for

from benchmarks.evidence.corpus import draw_items, open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.keys import from_keys
from rewards import LABELS, CheckError, InputError
from sft.teacher.arguments import EndpointArguments
from sft.teacher.ask import ask_teacher
from sft.teacher.generate import TraceArguments, generate_traces
from sft.teacher.outcomes import read_manifest
from sft.teacher.questions import Work
from sft.teacher.replies import assemble_completion
from sft.teacher.request_log import RequestLog
from sft.traces import read_traces

ROOT = Path(__file__).parents[3]
KEY = "sk-planted-4711"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.endpoint.client._LONGEST_PAUSE", 0.01)


def make_work(n: int, **config: Any) -> Work:
    corpus = open_corpus("sample")
    items = draw_items(corpus.train, n, seed=0, balance=False)
    prompts = build_prompts(items, corpus, PromptConfig())
    return Work(items, prompts, {"data": corpus.digest, "split": "official", "train_items": len(corpus.train)}, config)


def generate(server: Server, path: Path, n: int = 30, **keys: Any) -> list[str]:
    said: list[str] = []
    args = EndpointArguments(base_url=server.url, **{"max_in_flight": 8, **keys})
    ask_teacher(make_work(n), "teacher", args, path, progress=said.append)
    return said


def test_blind_traces_are_the_teacher_s_own_predictions(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with Server(respond_well) as server:
        args = TraceArguments(str(path), teacher="m", data="sample", prompt=PromptConfig(evidence=3), rows=30)
        assert generate_traces(args, EndpointArguments(base_url=server.url, critics=["c"])) == (path, 30)
        asked = [request for request in server.requests if not is_critic(request)]
        critics = [request for request in server.requests if is_critic(request)]
    traces = read_traces(path)
    corpus = open_corpus("sample")
    items = draw_items(corpus.train, 30, seed=0, balance=True)
    assert [trace.item_id for trace in traces] == items["item_id"].tolist()
    prompts = build_prompts(items, corpus, PromptConfig(evidence=3))
    assert [trace.prompt for trace in traces] == prompts
    assert sorted(map(str, (request["messages"] for request in asked))) == sorted(map(str, prompts))
    right = [trace for trace in traces if trace.answer == trace.label]
    assert 0 < len(right) < 30
    assert len(critics) == len(right)  # wrong answers are not graded
    for trace in traces:
        assert (trace.critic or {}).get("verdict") == ("good" if trace in right else None)
        assert (trace.teacher, trace.mode) == ("m", "blind")
    assert all(str(label) not in request["messages"][0]["content"] for request in critics for label in LABELS)


def test_a_rationalizing_teacher_is_given_the_label_and_the_student_is_not(tmp_path: Path) -> None:
    with Server(respond_well) as server:
        generate(server, tmp_path / "t.jsonl", mode="rationalize", critics=["c"])
        asked = {request["messages"][-1]["content"] for request in server.requests}
    traces = read_traces(tmp_path / "t.jsonl")
    assert {(trace.critic or {}).get("given") for trace in traces if trace.answer == trace.label} == {"no"}
    for trace in traces:
        assert trace.mode == "rationalize"
        student = trace.prompt[-1]["content"]
        assert "the measured effect is" not in student
        assert any(text.startswith(student) and f"the measured effect is {trace.label}." in text for text in asked)


def test_rationalized_traces_need_a_critic() -> None:
    with pytest.raises(InputError, match="mode: rationalize .* name a model under critics, or use mode: blind"):
        EndpointArguments(mode="rationalize")


@pytest.mark.parametrize(
    ("text", "reasoning", "strip", "keep"),
    [
        ("<think>a</think><answer>x</answer>", None, "<think>a</think><answer>x</answer>", None),
        ("<think>own</think>\n\n<think>a</think><answer>x</answer>", None, "<think>a</think><answer>x</answer>",
         "<think>own\n\na</think><answer>x</answer>"),
        ("own</think><think>a</think><answer>x</answer>", None, "<think>a</think><answer>x</answer>",
         "<think>own\n\na</think><answer>x</answer>"),
        ("own</think>\n<answer>x</answer>", None, "<answer>x</answer>", "<think>own</think><answer>x</answer>"),
        ("<answer>x</answer>", "own", "<answer>x</answer>", "<think>own</think><answer>x</answer>"),
        ("<think>a</think><answer>x</answer>", "own", "<think>a</think><answer>x</answer>",
         "<think>own\n\na</think><answer>x</answer>"),
        ("no tags", None, "no tags", None),
        ("", "cut off in its own", "", "<think>cut off in its own</think>"),
        ("<think>never closed", None, "<think>never closed", None),
    ],
)  # fmt: skip
def test_a_reasoning_model_s_own_thinking(text: str, reasoning: str | None, strip: str, keep: str | None) -> None:
    assert assemble_completion(text, reasoning, "strip") == strip
    assert assemble_completion(text, reasoning, "keep") == (strip if keep is None else keep)


def test_several_critics_and_their_disagreement(tmp_path: Path) -> None:
    votes = {"a": "good", "b": "good", "c": "terrible"}

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if is_critic(request):
            return http(200, chat(f"<verdict>{votes[request['model']]}</verdict><reason>{request['model']}</reason>"))
        return await respond_well(request, headers)

    path = tmp_path / "t.jsonl"
    with Server(handler) as server:
        generate(server, path, critics=list(votes))
    graded = [trace.critic for trace in read_traces(path) if trace.critic]
    assert graded
    assert all(one == {"verdict": "good", "reason": "a", "votes": "good, good, terrible"} for one in graded)
    manifest = read_manifest(path)
    assert manifest
    assert manifest["critic"]["of these not unanimous"] == manifest["critic"]["graded by several"] == len(graded)


def test_a_lone_surrogate_in_a_reply_stops_no_critic(tmp_path: Path) -> None:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if is_critic(request):
            return await respond_well(request, headers)
        return http(200, chat(RIGHT.format(reason="a cut emoji \ud83d", label=LABELS[0])))

    path = tmp_path / "t.jsonl"
    with Server(handler) as server:
        generate(server, path, critics=["c"])
    traces = read_traces(path)
    assert len(traces) == 30
    assert all((trace.critic is not None) == (trace.label == LABELS[0]) for trace in traces)
    assert any(trace.critic for trace in traces)


def test_the_critics_host_is_not_sent_the_teacher_s_key_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    path = tmp_path / "t.jsonl"
    with Server(respond_well) as server, Server(respond_well) as other:
        with pytest.raises(InputError, match="critic_api_key_env: is not set") as caught:
            generate(server, path, critics=["c"], critic_base_url=other.url)
        assert KEY not in str(caught.value)
        assert not server.requests and not other.requests
        generate(server, path, critics=["c"], critic_base_url=other.url, critic_api_key_env="OTHER_KEY")
        assert other.headers and not any(KEY in str(headers) for headers in other.headers)
        assert all(KEY in str(headers) for headers in server.headers)


def test_replies_of_which_nobody_knows_the_question_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with Server(respond_well) as server:
        generate(server, path)
        config = path.with_name("t.jsonl.config.yaml")
        kept = config.read_text()
        config.unlink()
        with pytest.raises(InputError, match="is missing, so that nobody knows"):
            generate(server, path)
        config.write_text("a: [")
        with pytest.raises(InputError, match="not a configuration"):
            generate(server, path)
        config.write_text(kept)
        n = len(server.requests)
        generate(server, path)
        assert len(server.requests) == n


def test_items_with_30_percent_faults_are_each_accounted_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault proxy stands between the client and the server that answers."""
    path, n = tmp_path / "t.jsonl", 200
    used: Counter[str] = Counter()
    limits = Limits(monkeypatch)
    with (
        Server(respond_well) as server,
        Server(faulty(forward(server.url), 1, used=used, give_up=limits.end)) as proxy,
    ):
        generate(proxy, path, n=n, attempts=4, max_in_flight=64)
        asked = Counter(request["messages"][-1]["content"] for request in proxy.requests)
        reached = {request["messages"][-1]["content"] for request in server.requests}
        assert 0.7 * n < len(reached) < n  # some questions never got through
    assert set(used) == set(FAULTS)
    manifest = read_manifest(path)
    assert manifest
    counts: Counter[str] = Counter()
    for cell in manifest["cells"].values():
        counts.update(cell)
    assert counts["drawn"] == n
    settled = {name: count for name, count in counts.items() if name != "drawn"}
    assert sum(settled.values()) == n
    assert {"answered", "incomplete", "error"} == set(settled)
    traces = read_traces(path)  # refuses an item that comes twice
    assert len(traces) == n - counts["error"]
    assert sum(manifest["errors"].values()) == counts["error"]
    assert len(asked) == n
    assert max(asked.values()) <= 4
    assert n < sum(asked.values()) == manifest["spent"]["requests"]
    log = [json.loads(line) for line in (tmp_path / "t.jsonl.requests.jsonl").read_text().splitlines()]
    outcomes = Counter(line["question"] for line in log if line["event"] == "outcome")
    assert len(outcomes) == n
    assert set(outcomes.values()) == {1}


def run_generate(config: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "rl.cli", "traces", "generate", "--config", str(config)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=config.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def hold(released: threading.Event, after: int = 0) -> Any:
    """A handler that answers so many questions, and the others once they are released."""
    asked = itertools.count()

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        held = next(asked) >= after
        while held and not released.is_set():
            await asyncio.sleep(0.01)
        return await respond_well(request, headers)

    return handler


KILLED = """
import itertools, os, random, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import openai
from test_ask import make_work
from sft.teacher.ask import ask_teacher
from sft.teacher.arguments import EndpointArguments
url, path = sys.argv[1], Path(sys.argv[2])
work = make_work({items})
pick = random.Random(20)
write, lines = os.write, itertools.count(1)

def die_at(last, share):
    def dying(file, line):  # the log is what is written so
        if next(lines) < last:
            return write(file, line)
        write(file, line[: int(share * len(line))])
        os.kill(os.getpid(), signal.SIGKILL)
    os.write = dying

for death in range({deaths} + 1):  # one import, many deaths
    last, share = pick.randrange(1, {longest}), pick.choice((0, 0.5, 1))
    child = os.fork()
    if child == 0:
        if death < {deaths}:
            die_at(last, share)
        ask_teacher(work, "teacher", EndpointArguments(base_url=url, critics=["c"], max_in_flight=8), path)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(os.WIFSIGNALED(status), os.WEXITSTATUS(status) if os.WIFEXITED(status) else "", flush=True)
"""


@pytest.mark.slow  # 20 processes
def test_killed_at_20_random_moments_it_ends_as_if_unbroken(tmp_path: Path) -> None:
    """Each life ends at a random line of its log: before it is written, in the middle, or after."""
    path, unbroken = tmp_path / "killed.jsonl", tmp_path / "unbroken.jsonl"
    items, deaths, longest, in_flight = 250, 20, 25, 8
    assert deaths * longest <= 2 * items  # an item has two lines and more: no life comes to the end
    with Server(respond_well) as server:
        script = tmp_path / "killed.py"
        tests = Path(__file__).parent
        paths = [str(tests), str(tests.parents[1])]
        script.write_text(KILLED.format(paths=paths, items=items, deaths=deaths, longest=longest))
        done = subprocess.run(
            [sys.executable, str(script), server.url, str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.stdout.splitlines() == ["True "] * deaths + ["False 0"], done.stderr[-2000:]
        answered = Counter(server.answered)
        generate(server, unbroken, n=items, critics=["c"])
    strip = [{**trace.__dict__, "created": ""} for trace in read_traces(path)]
    assert strip == [{**trace.__dict__, "created": ""} for trace in read_traces(unbroken)]
    # Only what was under way at a death may have been asked again.
    assert sum(answered.values()) - len(answered) <= deaths * in_flight
    log = [json.loads(line) for line in path.with_name(path.name + ".requests.jsonl").read_text().splitlines()]
    settled = Counter(line["question"] for line in log if line["event"] == "outcome")
    assert set(settled.values()) == {1}


def test_a_torn_last_line_is_repaired_and_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    log = tmp_path / "t.jsonl.requests.jsonl"
    with Server(respond_well) as server:
        generate(server, path)
        whole = path.read_text()
        lines = log.read_bytes().splitlines(keepends=True)
        last = max(i for i, line in enumerate(lines) if b'"outcome"' in line)
        log.write_bytes(b"".join(lines[:last]) + lines[last][:40])
        before = len(server.requests)
        said = generate(server, path)
        assert len(server.requests) == before + 1
    assert any("torn last line of 40 bytes was dropped" in line for line in said)
    assert any("1 questions were under way" in line for line in said)
    assert len(read_traces(path)) == len(whole.splitlines())


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.with_name(f"{path.name}.requests.jsonl").read_text().splitlines()]


def test_what_was_under_way_at_a_death_stays_spent(tmp_path: Path) -> None:
    """After a failed attempt that may have cost its reservation, a second was under way with its own."""
    path = tmp_path / "t.jsonl"
    path.with_name("t.jsonl.requests.jsonl").write_text(
        "".join(
            json.dumps({"event": event, "question": "teacher|x", "prompt_tokens": a, "completion_tokens": b}) + "\n"
            for event, a, b in (("sent", 70, 500), ("failed", 70, 500), ("sent", 70, 500))
        )
    )
    for _ in range(2):  # opening it once more does not count it once more
        with RequestLog(path.with_name("t.jsonl.requests.jsonl")) as log:
            assert (log.requests, log.prompt_tokens, log.completion_tokens) == (2, 140, 1000)
    assert [line["event"] for line in read_log(path)] == ["sent", "failed", "sent", "lost"]


def test_attempts_that_cost_nothing_leave_the_budget_alone(tmp_path: Path) -> None:
    """A server that stays too busy stops the run; its refusals are not charged, now or after the next start."""

    async def busy(request: Any, headers: Any) -> bytes:
        return error(429, "busy", retry_after="0.01")

    path = tmp_path / "t.jsonl"
    with Server(busy) as server, pytest.raises(CheckError, match="429"):
        generate(server, path, attempts=2)
    with RequestLog(path.with_name("t.jsonl.requests.jsonl")) as log:
        assert log.requests >= 2
        assert (log.prompt_tokens, log.completion_tokens) == (0, 0)


def test_failed_questions_are_asked_again_only_where_that_is_wanted(tmp_path: Path) -> None:
    async def partly_broken(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        broken = sum(request["messages"][-1]["content"].encode()) % 3 == 0
        return error(500, "oops") if broken else await respond_well(request, headers)

    path = tmp_path / "t.jsonl"
    with Server(partly_broken) as server:
        said = generate(server, path, attempts=1)
    failed = 30 - len(read_traces(path))
    assert 3 < failed <= 15
    assert said[-1] == f"{failed} of 30 questions failed: HTTP 500 ×{failed}; `--retry_failed true` asks them again"
    with Server(respond_well) as server:
        generate(server, path)
        assert not server.requests
        said = generate(server, path, retry_failed=True)
        assert len(server.requests) == failed
        assert any(f"{failed} questions failed for good before" in line for line in said)
        generate(server, path, retry_failed=True)
        assert len(server.requests) == failed
    assert len(read_traces(path)) == 30
    manifest = read_manifest(path)
    assert manifest
    assert manifest["errors"] == {}
    assert manifest["spent"]["requests"] == 30 + failed


@pytest.mark.parametrize(
    "first", [http(200, chat(None, "content_filter")), http(200, chat("half", "error")), http(200, b'{"choices": []}')]
)
def test_what_is_asked_again_on_purpose_gets_no_stored_reply(tmp_path: Path, first: bytes) -> None:
    kept: dict[str, bytes] = {}
    mended = False

    async def keeping(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        reply = await respond_well(request, headers) if mended else first
        return kept.setdefault(headers["idempotency-key"], reply)

    path = tmp_path / "t.jsonl"
    with Server(keeping) as server:
        for _ in range(2):
            with pytest.raises(CheckError, match="5 of 5 questions failed"):
                generate(server, path, 5, attempts=2, retry_failed=True)
        mended = True
        generate(server, path, 5, retry_failed=True)
    assert len(read_traces(path)) == 5


def refuse(status: int, message: str) -> Any:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return error(status, message)

    return handler


def test_more_failures_than_replies_are_an_error_that_says_why(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    with Server(refuse(400, "Unsupported value: temperature")) as server:
        text = f"output: t.jsonl\nteacher: m\nbase_url: {server.url}\ndata: sample\nevidence: 0\nrows: 30\n"
        config.write_text(text)
        words = ("traces", "generate", "--config", config)
        done = synthpert(*words, cwd=tmp_path)
        assert done.returncode == 1
        errors = done.stderr
        assert "30 of 30 questions failed: HTTP 400: Error code: 400" in errors
        assert "Unsupported value: temperature" in errors
        assert "×30" in errors
        assert "--retry_failed true" in errors
        manifest = read_manifest(tmp_path / "t.jsonl")
        assert manifest
        assert sum(manifest["errors"].values()) == 30
        # Nothing was paid for: the configuration may change, and what failed is asked again.
        server.handler = respond_well
        config.write_text(text + "temperature: null\n")
        assert synthpert(*words, cwd=tmp_path).returncode == 0
        assert "temperature" not in server.requests[-1]
        config.write_text(text + "temperature: 1\n")
        done = synthpert(*words, cwd=tmp_path)
        assert "another configuration (temperature changed)" in done.stderr
        assert done.returncode == 2
    assert len(read_traces(tmp_path / "t.jsonl")) == 30


@pytest.mark.parametrize(("in_flight", "attempts"), [(3, 1), (8, 3), (64, 2)])
def test_a_server_that_fails_for_all_questions_settles_none(tmp_path: Path, in_flight: int, attempts: int) -> None:
    path = tmp_path / "t.jsonl"
    keys: dict[str, Any] = {"max_in_flight": in_flight, "attempts": attempts}
    with Server(refuse(503, "down")) as server:
        with pytest.raises(CheckError, match=r"HTTP 503 for 20 questions in a row; 0 of 30 items are done"):
            generate(server, path, **keys)
        assert not [line for line in read_log(path) if line["event"] == "outcome"]
        server.handler = respond_well
        generate(server, path, **keys)
    assert len(read_traces(path)) == 30
    manifest = read_manifest(path)
    assert manifest
    assert manifest["errors"] == {}


def test_failures_before_and_after_an_answer_are_the_questions_own(tmp_path: Path) -> None:
    """One answer in between, and those that failed before it are settled, though 24 failed in all."""
    count = 0

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        nonlocal count
        count += 1
        return await respond_well(request, headers) if count == 13 else error(503, "down")

    path = tmp_path / "t.jsonl"
    with Server(handler) as server, pytest.raises(CheckError, match=r"24 of 25 questions failed: HTTP 503 ×24"):
        generate(server, path, n=25, max_in_flight=1, attempts=1)
    assert sum(line["event"] == "outcome" for line in read_log(path)) == 25


async def apart(request: dict[str, Any], headers: dict[str, str]) -> bytes:
    """A server with a reasoning parser: everything but the answer comes apart."""
    if is_critic(request):
        return await respond_well(request, headers)
    text = request["messages"][-1]["content"]
    return http(200, chat(f"\n\n<answer>{LABELS[sum(text.encode()) % 3]}</answer>", reasoning=f"Stress, {len(text)}."))


def test_reasoning_that_comes_apart_is_told_and_kept_without_asking_anew(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with Server(apart) as server:

        def run(**keys: Any) -> tuple[list[str], int]:
            """What is said, and how many requests are made."""
            before, said = len(server.requests), []
            args = TraceArguments(str(path), teacher="m", data="sample", prompt=PromptConfig(), rows=60)
            generate_traces(args, EndpointArguments(base_url=server.url, critics=["c"], **keys), said.append)
            return said, len(server.requests) - before

        said, requests = run()
        assert requests == 60
        assert said[0].startswith("0 of 50 replies give an answer")
        assert "With `thinking: keep` 50 would" in said[0]
        assert said[-1].startswith("0 of 60 replies give an answer")
        assert not any(trace.answer for trace in read_traces(path))
        said, requests = run(thinking="keep")
        assert not any("thinking" in line for line in said)
        traces = read_traces(path)
        right = [trace for trace in traces if trace.answer == trace.label]
        assert requests == len(right) > 0  # the critic's; the teacher is not asked again
        assert all(trace.answer and trace.completion.startswith("<think>Stress, ") for trace in traces)
        assert all((trace.critic or {}).get("verdict") == "good" for trace in right)
        assert run(thinking="keep")[1] == 0


def test_a_teacher_that_answers_in_no_form_is_not_said_to_need_its_thinking(tmp_path: Path) -> None:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return http(200, chat("upregulated", reasoning="Stress."))

    with Server(handler) as server:
        assert not any("thinking" in line for line in generate(server, tmp_path / "t.jsonl", n=60))


def test_critics_grade_each_completion_once(tmp_path: Path) -> None:
    """Whatever is turned on and off: a completion that changed is graded anew, one that did not is not paid for."""

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if is_critic(request):
            verdict = "bad" if "Wait, own thoughts" in request["messages"][-1]["content"] else "good"
            return http(200, chat(f"<verdict>{verdict}</verdict><reason>{request['model']}</reason>"))
        text = RIGHT.format(reason="Stress.", label="upregulated")
        return http(200, chat(text, reasoning="Wait, own thoughts."))

    path = tmp_path / "t.jsonl"
    work = make_work(30)
    right = int((work.items["label"] == "upregulated").sum())
    assert right
    with Server(handler) as server:

        def run(**keys: Any) -> int:
            before = len(server.requests)
            ask_teacher(work, "m", EndpointArguments(base_url=server.url, **keys), path)
            return len(server.requests) - before

        def graded() -> list[Any]:
            return [trace.critic for trace in read_traces(path) if trace.critic]

        assert run() == 30
        assert run(critics=["c"]) == right
        assert graded() == [{"verdict": "good", "reason": "c"}] * right
        assert run(critics=["d", "c"]) == right  # d's; c's place among them has changed, its grades have not
        assert graded() == [{"verdict": "good", "reason": "d", "votes": "good, good"}] * right
        assert run(critics=["c"], thinking="keep") == right
        assert graded() == [{"verdict": "bad", "reason": "c"}] * right
        assert run(critics=["c"], critic_max_tokens=64) == right  # shapes its reply
        assert run(critics=["c"]) == 0
        assert graded() == [{"verdict": "good", "reason": "c"}] * right
        assert run(critics=["c"], critic_api_key_env="OTHER", critic_base_url=server.url) == 0
        assert run() == 0
        assert graded() == []


def test_a_critic_without_a_verdict_is_asked_once_more(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if not is_critic(request):
            return await respond_well(request, headers)
        text = request["messages"][-1]["content"]
        seen[text] += 1
        if seen[text] == 1 or sum(text.encode()) % 2:
            return http(200, chat("I cannot say."))
        return http(200, chat("<verdict>good</verdict><reason>Sound.</reason>"))

    path = tmp_path / "t.jsonl"
    with Server(handler) as server:
        for _ in range(2):  # the second run asks nothing
            with contextlib.suppress(CheckError):  # about half of the grades are missing
                generate(server, path, n=60, critics=["c"])
            right = [trace for trace in read_traces(path) if trace.label == trace.answer]
            assert len(seen) == len(right)
            assert set(seen.values()) == {2}
    graded = sum(trace.critic is not None for trace in right)
    assert 0 < graded < len(right)
    manifest = read_manifest(path)
    assert manifest
    assert manifest["critic"]["asked"] == 2 * len(right)
    assert manifest["critic"]["no verdict"] == 2 * len(right) - graded
    assert manifest["spent"]["requests"] == 60 + 2 * len(right)
    assert manifest["critic"]["grades wanted"] == len(right)
    assert manifest["critic"]["asked in vain"] == len(right) - graded


def test_critics_without_verdicts_are_an_error_and_asked_again_where_that_is_wanted(tmp_path: Path) -> None:
    async def wordless(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return http(200, chat("verdict: good")) if is_critic(request) else await respond_well(request, headers)

    path = tmp_path / "t.jsonl"
    with Server(wordless) as server:
        with pytest.raises(CheckError, match=r"(\d+) of \1 grades are missing: no <verdict>.*--retry_failed true"):
            generate(server, path, critics=["c"])
        server.handler = respond_well
        with pytest.raises(CheckError):
            generate(server, path, critics=["c"])
        n = len(server.requests)
        said = generate(server, path, critics=["c"], retry_failed=True)
        assert any("hold no verdict; they are asked again" in line for line in said)
        right = [trace for trace in read_traces(path) if trace.label == trace.answer]
        assert len(server.requests) - n == len(right)
    assert right and all(trace.critic for trace in right)


def test_a_server_may_move(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with Server(respond_well) as server:
        generate(server, path, n=20)
    with Server(respond_well) as elsewhere:
        generate(elsewhere, path, n=30)
        assert len(elsewhere.requests) == 10
        manifest = read_manifest(path)
        assert manifest and manifest["base_url"] == elsewhere.url


def test_as_many_questions_are_under_way_as_allowed(tmp_path: Path) -> None:
    full = asyncio.Event()

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if server.busy == 40:
            full.set()
        await asyncio.wait_for(full.wait(), PATIENCE)  # nobody is answered before 40 have asked
        return await respond_well(request, headers)

    with Server(handler) as server:
        generate(server, tmp_path / "t.jsonl", n=100, max_in_flight=40)
        assert server.most == 40


def test_failed_critics_are_told(tmp_path: Path) -> None:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return error(400, "no") if is_critic(request) else await respond_well(request, headers)

    with Server(handler) as server, pytest.raises(CheckError, match=r"\d+ of \d+ critics' questions failed: HTTP 400"):
        generate(server, tmp_path / "t.jsonl", critics=["c"])
    assert len(read_traces(tmp_path / "t.jsonl")) == 30


@pytest.mark.parametrize("balance", [True, False])
def test_more_rows_ask_about_the_new_ones_only(tmp_path: Path, balance: bool) -> None:
    path = tmp_path / "t.jsonl"
    with Server(respond_well) as server:

        def run(rows: int, **keys: Any) -> None:
            args = TraceArguments(
                str(path),
                teacher="m",
                data="sample",
                prompt=PromptConfig(),
                **{"rows": rows, "balance": balance, **keys},
            )
            generate_traces(args, EndpointArguments(base_url=server.url))

        run(30)
        first = {trace.item_id for trace in read_traces(path)}
        run(47)
        assert len(server.requests) == 47
        assert first < {trace.item_id for trace in read_traces(path)}
        with pytest.raises(InputError, match=r"another configuration \(rows changed\)"):
            run(30)
        with pytest.raises(InputError, match=r"another configuration \(seed changed\)"):
            run(47, seed=1)
    assert len(read_traces(path)) == 47


def test_the_offline_teacher_leaves_paid_traces_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    args = TraceArguments(str(path), data="sample", prompt=PromptConfig(evidence=3), rows=9)
    with Server(respond_well) as server:
        remote = EndpointArguments(base_url=server.url)
        generate_traces(TraceArguments(str(path), teacher="m", data="sample", rows=30), remote)
        before = path.read_bytes()
        with pytest.raises(InputError, match=r"another teacher's.*remove t\.jsonl\.requests\.jsonl"):
            generate_traces(args)
        assert path.read_bytes() == before
        generate_traces(TraceArguments(str(path), teacher="m", data="sample", rows=30), remote)
        assert len(server.requests) == 30
    (tmp_path / "t.jsonl.requests.jsonl").unlink()
    assert generate_traces(args) == (path, 9)
    assert read_manifest(path) is None  # it was of the traces that were there before


@pytest.mark.parametrize("output", [".", "", "folder"])
def test_an_output_that_is_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="output: .* is a folder"):
        generate_traces(TraceArguments(output, data="sample", rows=9))


@pytest.mark.parametrize(("key", "value"), [("seed", -1), ("seed", 2**32), ("rows", -3), ("evidence", -1)])
def test_numbers_out_of_range_are_refused(tmp_path: Path, key: str, value: int) -> None:
    keys = {"output": str(tmp_path / "t.jsonl"), "data": "sample", "rows": 9, key: value}
    with pytest.raises(InputError, match=str(value)):
        generate_traces(from_keys(TraceArguments, keys, "configuration"))
    assert not list(tmp_path.iterdir())


def test_a_log_broken_in_its_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    log = tmp_path / "t.jsonl.requests.jsonl"
    with Server(respond_well) as server:
        generate(server, path)
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join([lines[0], b"\0\0\0\n", *lines[1:]]))
        with pytest.raises(InputError, match=r"requests\.jsonl, row 2: not a line"):
            generate(server, path)


def test_two_processes_do_not_write_one_log(tmp_path: Path) -> None:
    with RequestLog(tmp_path / "log"), pytest.raises(InputError, match="another process"):
        RequestLog(tmp_path / "log")


def test_a_changed_configuration_is_refused_and_a_changed_budget_is_not(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with Server(respond_well) as server:

        def run(mode: Any, budget: int, critics: list[str] | None = None) -> None:
            args = EndpointArguments(base_url=server.url, mode=mode, critics=critics or [], max_requests=budget)
            config = {"mode": mode, "max_requests": budget}
            ask_teacher(make_work(30, **config), "m", args, path)

        with pytest.raises(CheckError, match=r"budget is spent \(max_requests 10\); 10 of 30 items are done"):
            run("blind", 10)
        assert len(read_traces(path)) == 10
        with pytest.raises(InputError, match=r"another configuration \(mode changed\)"):
            run("rationalize", 10, ["c"])
        run("blind", 30)
        assert len(server.requests) == 30
    assert len(read_traces(path)) == 30


def test_a_server_that_refuses_the_key_stops_at_once(tmp_path: Path) -> None:
    async def handler(request: Any, headers: Any) -> bytes:
        return error(401, "who are you")

    with Server(handler) as server, pytest.raises(InputError, match="refuses the key"):
        generate(server, tmp_path / "t.jsonl", n=200)
    assert len(server.requests) <= 16


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"extra_body": "{"}, "extra_body: no JSON"),
        ({"extra_body": "[]"}, "no JSON object"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"timeout": 0.0}, "timeout"),
        ({"max_cost": 1.0}, "price_in"),
        ({"max_requests": -1}, "max_requests"),
        ({"temperature": -1.0}, "temperature: is -1.0"),
        ({"temperature": float("nan")}, "temperature: is nan"),
        ({"critics": ["c", "c"]}, "name each model once"),
        ({"extra_body": {"nested": [{"X-Api-Key": KEY}]}}, "extra_body: 'X-Api-Key' is named like a secret"),
        ({"critic_extra_body": f'{{"Authorization": "{KEY}"}}'}, "critic_extra_body: 'Authorization'"),
        ({"api_key_env": KEY}, "api_key_env: is no name"),
        ({"critics": ["c"], "critic_api_key_env": KEY}, "api_key_env: is no name"),
        ({"critics": ["c"], "critic_base_url": f"http://a:{KEY}@b/v1"}, "critic_base_url"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_asked(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with Server(respond_well) as server:
        with pytest.raises(InputError, match=words) as caught:
            generate(server, tmp_path / "t.jsonl", **keys)
        assert not server.requests
    assert KEY not in str(caught.value)
    assert not list(tmp_path.iterdir())  # a configuration with a secret is never stored


def test_further_keys_of_a_request_are_a_mapping_or_json(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with Server(respond_well) as server:
        for body in ({"top_p": 0.9}, '{"top_p": 0.9}'):  # one configuration, written in two ways
            args = TraceArguments(str(path), teacher="m", data="sample", prompt=PromptConfig(), rows=3)
            generate_traces(args, EndpointArguments(base_url=server.url, extra_body=body))
        assert [request["top_p"] for request in server.requests] == [0.9] * 3


def test_a_test_item_is_never_asked_about(tmp_path: Path) -> None:
    corpus = open_corpus("sample")
    items = corpus.test.head(3)
    work = Work(items, build_prompts(items, corpus, PromptConfig()), {}, {})
    with Server(respond_well) as server:
        with pytest.raises(InputError, match="a test item"):
            ask_teacher(work, "m", EndpointArguments(base_url=server.url), tmp_path / "t.jsonl")
        assert not server.requests


def test_no_key_is_in_any_file_log_or_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server echoes the key in replies and errors, and the client's own debug log is on."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("openai", "httpx", "httpcore"):
        caplog.set_level(logging.DEBUG, logger=name)
    seen: Counter[str] = Counter()

    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        text = request["messages"][-1]["content"]
        seen[text] += 1
        header = headers["authorization"]
        kind = sum(text.encode()) % 4
        if kind == 0:
            return error(400, f"bad request with {header}")
        if kind == 1 and seen[text] == 1:
            return error(500, f"oops {header}")
        if is_critic(request):
            return http(200, chat(f"<verdict>good</verdict><reason>{header}</reason>"))
        return http(200, chat(RIGHT.format(reason=f"{header} was sent", label=LABELS[kind % 3])))

    config = tmp_path / "c.yaml"
    with Server(handler) as server:
        text = f"output: run/t.jsonl\nteacher: m\nbase_url: {server.url}\ndata: sample\nevidence: 0\nrows: 60\n"
        config.write_text(text + "critics: [c]\n")
        done = synthpert("traces", "generate", "--config", config, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "HTTP Request" in caplog.text  # the client's own
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) >= 5
    for text in (done.stdout, done.stderr, caplog.text, *(file.read_text(encoding="utf-8") for file in files)):
        assert KEY not in text
        assert "Bearer sk" not in text
    assert "[key]" in (tmp_path / "run" / "t.jsonl").read_text()


WAITING = "waiting for the questions under way"


def interrupt(process: "subprocess.Popen[str]") -> str:
    """Send Ctrl-C; return what is said until it is heard."""
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    said = ""
    while WAITING not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    return said


def test_ctrl_c_says_so_in_one_line_and_the_next_run_goes_on(tmp_path: Path) -> None:
    config, released = tmp_path / "c.yaml", threading.Event()
    with Server(hold(released, after=20)) as server:
        text = f"output: t.jsonl\nteacher: m\nbase_url: {server.url}\ndata: sample\nevidence: 0\nrows: 90\n"
        config.write_text(text + "max_in_flight: 8\n")
        process = run_generate(config)
        assert process.stderr is not None
        wait_for(lambda: len(server.requests) > 20 or process.poll() is not None)
        errors = interrupt(process)
        released.set()
        errors += process.stderr.read()
        assert process.wait(PATIENCE) == 130
        assert 20 <= len(server.answered) <= 28
        assert "Traceback" not in errors
        assert "stopped" in errors
        assert synthpert("traces", "generate", "--config", config, cwd=tmp_path).returncode == 0
        assert set(server.answered.values()) == {1}  # what was under way was waited for, and is not paid for again
    assert len(read_traces(tmp_path / "t.jsonl")) == 90


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    with Server(hold(threading.Event())) as server:
        text = f"output: t.jsonl\nteacher: m\nbase_url: {server.url}\ndata: sample\nevidence: 0\nrows: 90\n"
        config.write_text(text)
        process = run_generate(config)
        assert process.stderr is not None
        wait_for(lambda: server.requests or process.poll() is not None)
        errors = interrupt(process)
        process.send_signal(signal.SIGINT)
        errors += process.stderr.read()
        assert process.wait(PATIENCE) == 130
    assert "Traceback" not in errors
