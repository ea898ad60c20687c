"""Label probabilities are read from the right token, and servers' troubles never become answers or leak a key."""

import json
import math
import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from without_clock import PATIENCE

from benchmarks.chat import Message
from benchmarks.config import parse_config
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.evaluation.predictions import read_facts, read_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import PREDICTIONS, EvalArguments, run_evaluation
from benchmarks.models import engines
from benchmarks.models.engines import Decoding, Generation, OpenAIEngine, Request, open_engine
from benchmarks.models.generation import Written, answer_start, label_probabilities
from benchmarks.models.server import restore_think
from rewards import CheckError, InputError

KEY = "sk-very-secret-0123456789"


# --- label probabilities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["<think>", "a", "</think>", "<", "answer", ">", "up", "regulated", "</", "answer", ">"], (6, "")),
        (["<answer>", "\n", "down", "regulated"], (2, "")),
        (["<answer>", " not", " different", "ially", " expressed"], (1, " ")),
        (["<answer>", "not", "different", "ially", "expressed"], (1, "")),  # vocabularies that drop leading spaces
        (["<answer", ">up", "regulated"], (1, ">")),
        (["<answer", ">\n", "up", "regulated"], (2, "")),
        (["<answer>upregulated</answer>"], (0, "<answer>")),
        (["<answer>", "up", "regulated", "</answer>", "<answer>", "down", "regulated"], (5, "")),  # the last counts
        (["upregulated", "?", "<answer>", "down", "regulated"], (3, "")),
        (["<answer>", "It", " is", " up", "regulated"], (3, " ")),  # as the lenient parser reads it
        (["<think>", "up", "regulated", "</think>", "Down", "regulated"], (4, "")),
        (["<ANSWER>", "Up", "regulated"], (1, "")),
        (["İ", "<answer>", "up", "regulated"], (2, "")),  # a letter whose lower case is longer
        (["<answer>", "up"], None),
        (["upregulated", "<answer>", "maybe"], None),
        (["nothing"], None),
        ([], None),
    ],
)
def test_where_the_answer_begins(pieces: list[str], expected: tuple[int, str] | None) -> None:
    assert answer_start(pieces) == expected


@pytest.mark.parametrize(
    ("candidates", "before", "expected"),
    [
        ([("up", 0.5), ("down", 0.25), ("not", 0.25)], "", (0.5, 0.25, 0.25)),
        ([("up", 0.3), ("u", 0.1), (" Up", 0.1), ("down", 0.25), ("n", 0.25)], "", (0.5, 0.25, 0.25)),
        ([("up", 0.2), ("down", 0.2), ("the", 0.5), ("\n", 0.05), ("", 0.05)], "", (0.5, 0.5, 0.0)),
        ([("up", 0.2), ("upper", 0.6), ("none", 0.1), ("not", 0.2)], "", (0.5, 0.0, 0.5)),
        ([("upregulated</", 0.2), ("not", 0.2)], "", (0.5, 0.0, 0.5)),
        ([(">up", 0.2), (">down", 0.2), ("down", 0.6)], ">", (0.5, 0.5, 0.0)),
        ([(" up", 0.2), ("not", 0.2)], " ", (0.5, 0.0, 0.5)),
        ([("yes", 0.5), (" ", 0.5)], "", None),
        ([("up", 0.0)], "", None),
        ([], "", None),
    ],
)
def test_probabilities_of_the_labels(
    candidates: list[tuple[str, float]], before: str, expected: tuple[float, float, float] | None
) -> None:
    logprobs = [(text, math.log(p) if p else -math.inf) for text, p in candidates]
    found = label_probabilities(logprobs, before)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("text", "reasoning", "finish_reason", "expected"),
    [
        ("<think>a</think>b", None, "stop", "<think>a</think>b"),
        ("a</think>b", None, "stop", "<think>a</think>b"),
        ("b", None, "stop", "b"),
        ("b", "a", "stop", "<think>a</think>b"),
        ("b", "a", "length", "<think>a</think>b"),
        ("", "a", "length", "<think>a"),
        ("", "a", "stop", "<think>a</think>"),
        ("<think>c</think><answer>b</answer>", "a", "stop", "<think>a\n\nc</think><answer>b</answer>"),
        ("<think>cut", "a", "length", "<think>a</think><think>cut"),
    ],
)
def test_think_tags_are_put_back(text: str, reasoning: str | None, finish_reason: str, expected: str) -> None:
    assert restore_think(text, reasoning, finish_reason) == expected


# --- a server on the loopback interface -------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Speaks chat completions; the last message's content says what to do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.seen: set[str] = set()
        self.busy = 0
        self.most_busy = 0
        self.three_busy = threading.Event()
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        with self.server.guard:
            self.server.requests.append(body)
            self.server.authorizations.append(self.headers.get("Authorization"))
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
            if self.server.busy == 3:
                self.server.three_busy.set()
            first = content not in self.server.seen
            self.server.seen.add(content)
        try:
            if content == "busy once" and first:
                self.reply(429, {"error": {"message": "slow down"}})
            elif content == "one of many":
                self.server.three_busy.wait(PATIENCE)
                threading.Event().wait(0.05)  # for more to come, if they do
                self.reply(200, completion(body, "<think>a</think><answer>upregulated</answer>"))
            elif content.startswith("status "):
                self.reply(int(content.split()[1]), {"error": {"message": f"no: {self.headers.get('Authorization')}"}})
            elif content == "garbage":
                self.reply(200, {"choices": []})
            elif content == "reasoning":
                self.reply(200, completion(body, "<answer>upregulated</answer>", reasoning_content="because"))
            elif content == "cut":
                self.reply(200, completion(body, None, finish_reason="length", reasoning="because"))
            elif content == "nothing":
                self.reply(200, completion({}, ""))
            elif content == "odd logprobs":
                odd = completion(body, "<think>a</think><answer>upregulated</answer>")
                odd["choices"][0]["logprobs"] = {"content": ["upregulated"]}
                self.reply(200, odd)
            elif content == "no logprobs":
                self.reply(200, completion({}, "<think>a</think><answer>upregulated</answer>"))
            else:
                self.reply(200, completion(body, "<think>a</think><answer>upregulated</answer>"))
        finally:
            with self.server.guard:
                self.server.busy -= 1

    def reply(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(data)


def completion(body: dict[str, Any], text: str | None, finish_reason: str = "stop", **message: str) -> dict[str, Any]:
    logprobs = None
    if body.get("logprobs") and text is not None:
        assert body["top_logprobs"] == 20
        entries: list[dict[str, Any]] = [
            {"token": piece, "logprob": 0.0, "bytes": None, "top_logprobs": []} for piece in pieces_of(text)
        ]
        for entry in entries:
            if entry["token"] == "up":
                entry["top_logprobs"] = [
                    {"token": token, "logprob": math.log(p), "bytes": None}
                    for token, p in (("up", 0.4), ("down", 0.3), ("not", 0.1), ("maybe", 0.2))
                ]
        logprobs = {"content": entries, "refusal": None}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "logprobs": logprobs,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 11, "total_tokens": 16},
    }


def pieces_of(text: str) -> list[str]:
    return [piece for part in text.replace("upregulated", "\0up\0regulated").split("\0") for piece in [part] if piece]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("benchmarks.models.server._ATTEMPTS", 2)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def ask(*contents: str) -> list[Request]:
    return [Request([{"role": "user", "content": content}], seed) for seed, content in enumerate(contents)]


PROTOCOL = Protocol(data="digest", max_tokens=32, temperature=0.5, top_p=0.9)


def test_replies_come_back_in_order_with_probabilities(server: Server) -> None:
    engine = OpenAIEngine(server.url, "m")
    plain, thought, cut = engine.generate(ask("plain", "reasoning", "cut"), PROTOCOL)
    assert plain.text == "<think>a</think><answer>upregulated</answer>"
    assert plain.probabilities == pytest.approx((0.5, 0.375, 0.125))
    assert (plain.finish_reason, plain.completion_tokens, plain.error) == ("stop", 11, None)
    assert thought.text == "<think>because</think><answer>upregulated</answer>"
    assert (cut.text, cut.finish_reason) == ("<think>because", "length")
    sent = {body["messages"][0]["content"]: body for body in server.requests}["plain"]
    assert {key: sent[key] for key in ("model", "max_tokens", "temperature", "top_p", "seed")} == {
        "model": "m",
        "max_tokens": 32,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 0,
    }
    assert set(server.authorizations) == {f"Bearer {KEY}"}


def test_a_busy_server_is_asked_again(server: Server) -> None:
    (generation,) = OpenAIEngine(server.url, "m").generate(ask("busy once"), PROTOCOL)
    assert generation.error is None
    assert len(server.requests) == 2


def test_no_more_requests_in_flight_than_allowed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = ["one of many"] * 12
    monkeypatch.setattr("benchmarks.models.server._IN_FLIGHT", 3)
    OpenAIEngine(server.url, "m").generate(ask(*contents), PROTOCOL)
    assert len(server.requests) == 12
    assert server.most_busy == 3


def test_a_request_that_fails_for_good_is_an_error_status(server: Server, tmp_path: Path) -> None:
    items = pd.DataFrame(
        {
            "item_id": ["rpe1|A|X", "rpe1|A|Y", "rpe1|A|Z"],
            "cell_line": "rpe1",
            "pert": "A",
            "gene": ["X", "Y", "Z"],
            "label": "upregulated",
        }
    )
    messages = [[{"role": "user", "content": content}] for content in ("fine", "status 500", "status 400")]
    engine = OpenAIEngine(server.url, "m")
    path = evaluate(engine, items, messages, PROTOCOL, tmp_path)
    frame = read_predictions(path)
    assert list(frame["status"]) == ["answered", "error", "error"]
    assert frame["completion"].isna().tolist() == [False, True, True]
    errors = read_facts(path)["errors"]
    assert sorted(errors) == ["HTTP 400: Error code: 400 - no: Bearer [key]", "HTTP 500"]
    assert KEY.encode() not in path.read_bytes()


def test_a_reply_without_choices_is_an_error(server: Server) -> None:
    (generation,) = OpenAIEngine(server.url, "m").generate(ask("garbage"), PROTOCOL)
    assert (generation.text, generation.finish_reason) == (None, "error")
    assert generation.error == "the reply has no choice"


def test_an_empty_completion_is_the_model_s_own(server: Server) -> None:
    (generation,) = OpenAIEngine(server.url, "m").generate(ask("nothing"), PROTOCOL)
    assert (generation.text, generation.finish_reason, generation.error) == ("", "stop", None)
    assert len(server.requests) == 1


def test_logprobs_of_another_form_stop_the_run(server: Server) -> None:
    with pytest.raises(InputError, match="another form than OpenAI's; set scores: votes"):
        OpenAIEngine(server.url, "m").generate(ask("odd logprobs"), PROTOCOL)


def test_the_longest_completion_is_called_as_the_server_does(server: Server) -> None:
    OpenAIEngine(server.url, "m", max_tokens_key="max_completion_tokens").generate(ask("fine"), PROTOCOL)
    assert server.requests[0]["max_completion_tokens"] == 32
    assert "max_tokens" not in server.requests[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("status 401", r"refuses the key \(HTTP 401\); set OPENAI_API_KEY"),
        ("no logprobs", "gives no logprobs; set scores: votes"),
    ],
)
def test_trouble_that_is_no_item_s_stops_the_run(server: Server, content: str, problem: str) -> None:
    engine = OpenAIEngine(server.url, "m")
    with pytest.raises(InputError, match=problem) as caught:
        engine.generate(ask(content, content), PROTOCOL)
    assert KEY not in str(caught.value)


def test_a_server_that_stays_busy_stops_the_run(server: Server) -> None:
    with pytest.raises(CheckError, match="too many requests after 2 attempts"):
        OpenAIEngine(server.url, "m").generate(ask("status 429"), PROTOCOL)
    assert len(server.requests) == 2


def test_a_server_without_keys_needs_none(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    fine, refused = OpenAIEngine(server.url, "m").generate(ask("fine", "status 400"), PROTOCOL)
    assert fine.error is None
    assert refused.error == "HTTP 400: Error code: 400 - no: Bearer none"


def test_votes_need_no_logprobs(server: Server) -> None:
    protocol = Protocol(data="digest", max_tokens=32, temperature=0.5, scores="votes")
    (generation,) = OpenAIEngine(server.url, "m").generate(ask("no logprobs"), protocol)
    assert generation.probabilities is None
    assert generation.error is None
    assert "logprobs" not in server.requests[0]


def test_a_server_out_of_reach_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("benchmarks.models.server._ATTEMPTS", 1)
    with socket.socket() as taken, pytest.raises(CheckError, match="cannot be reached") as caught:
        taken.bind(("127.0.0.1", 0))  # and does not listen: it refuses
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        OpenAIEngine(url, "m").generate(ask("fine"), PROTOCOL)
    assert KEY not in str(caught.value)


def test_a_url_that_may_hold_a_secret_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="may be secret") as caught:
        OpenAIEngine(f"https://user:secret-word@host.example:8000/v1?api-key={KEY}#{KEY}", "m")
    assert "secret-word" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_generate_works_within_a_running_loop(server: Server) -> None:
    import asyncio

    async def notebook() -> object:
        return OpenAIEngine(server.url, "m").generate(ask("fine"), PROTOCOL)[0].error

    assert asyncio.run(notebook()) is None


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"name": "vlm"}, "engine: 'vlm' is unknown"),
        ({"name": "transformers", "dtype": "int4"}, "dtype: 'int4' is unknown"),
        ({"name": "openai"}, "needs base_url"),
        ({"name": "openai", "base_url": "localhost:8000"}, r"base_url: is no http\(s\) URL"),
        (
            {"name": "openai", "base_url": "http://h/v1", "adapter": Path("a")},
            "openai takes no adapter; leave it out, or use engine: vllm or transformers",
        ),
        ({"name": "openai", "base_url": "http://h/v1", "revision": "main"}, "openai takes no revision"),
        ({"name": "openai", "base_url": "http://h/v1", "max_model_len": 512}, "openai takes no max_model_len"),
        (
            {"name": "openai", "base_url": "http://h/v1", "dtype": "bfloat16"},
            "openai takes no dtype; leave it out, or use engine: vllm or transformers",
        ),
        (
            {"name": "transformers", "api_key_env": "MY_KEY"},
            "takes no api_key_env; leave it out, or use engine: openai",
        ),
        ({"name": "transformers", "max_tokens_key": "max_completion_tokens"}, "takes no max_tokens_key"),
        ({"name": "transformers", "base_url": "http://h/v1"}, "takes no base_url; leave it out, or use engine: openai"),
        ({"name": "transformers", "max_model_len": 0}, "max_model_len: is 0; it must be at least 1"),
        ({"name": "transformers"}, "no such model folder"),
        ({"name": "auto"}, "no such model folder"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        open_engine(model="/no/such/model", **arguments)


def test_vllm_that_is_not_installed_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.models.vllm_engine.has_vllm", lambda: False)
    with pytest.raises(InputError, match="vllm is not installed; set engine: transformers, or install vllm"):
        open_engine("vllm", "/no/such/model")


def test_auto_takes_transformers_where_there_is_no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    for name in ("vllm", "transformers"):
        monkeypatch.setitem(engines.ENGINES, name, lambda model, _name=name: opened.append(_name))
    for installed in (True, False):
        monkeypatch.setattr(engines, "has_vllm", lambda installed=installed: installed)
        open_engine("auto", "model")
    assert opened == ["vllm", "transformers"]


class Parrot:
    """An engine as CONTRIBUTING.md says to add one: nothing else of the package knows of it."""

    name = "parrot"
    context = 4096

    def __init__(self, model: str, *, dtype: str = "auto", max_model_len: int | None = None) -> None:
        self.model, self.dtype = model, dtype
        self.context = max_model_len or self.context

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message["content"].split()) for message in messages)

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        text = "<think>as ever</think><answer>downregulated</answer>"
        return [Generation(text, "stop", 7, (0.0, 1.0, 0.0)) for _ in requests]

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "model": self.model, "dtype": self.dtype}

    def close(self) -> None:
        pass


def evaluation(folder: Path, **keys: Any) -> Path:
    config = {"output_dir": str(folder), "model": "polly", "data": "sample", "items": 2, "engine": "parrot", **keys}
    (args,) = parse_config(config, (), (EvalArguments,))
    return run_evaluation(args)


def test_an_engine_is_a_file_and_a_line_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="engine: 'parrot' is unknown; use one of auto, vllm, transformers, openai"):
        evaluation(tmp_path / "run")
    monkeypatch.setitem(engines.ENGINES, "parrot", Parrot)
    run = evaluation(tmp_path / "run", dtype="float32")
    assert set(read_predictions(run / PREDICTIONS)["answer"]) == {"downregulated"}
    assert read_facts(run / PREDICTIONS)["engine"] == {"name": "parrot", "model": "polly", "dtype": "float32"}
    monkeypatch.setitem(engines.ENGINES, "parrot", lambda model: Parrot(model, dtype="bits"))
    run = evaluation(tmp_path / "another")  # an engine without a `dtype` needs none
    assert read_facts(run / PREDICTIONS)["engine"]["dtype"] == "bits"
    with pytest.raises(InputError, match="parrot takes no adapter; leave it out, or use engine: vllm or transformers"):
        open_engine("parrot", "polly", tmp_path)


def test_the_context_is_a_key_of_the_evaluation_and_no_part_of_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engines.ENGINES, "parrot", Parrot)
    with pytest.raises(InputError, match="context of 1030; lower max_tokens .* or raise max_model_len if it is set"):
        evaluation(tmp_path / "short", max_model_len=1030)
    long = evaluation(tmp_path / "short", max_model_len=2000)  # it had written nothing yet
    whole = evaluation(tmp_path / "whole")
    assert (
        read_facts(long / PREDICTIONS)["protocol_fingerprint"]
        == (read_facts(whole / PREDICTIONS)["protocol_fingerprint"])
    )


def test_a_run_from_before_the_key_was_there_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engines.ENGINES, "parrot", Parrot)
    run = evaluation(tmp_path / "run")
    stored = run / "config.yaml"
    stored.write_text(stored.read_text().replace("max_model_len: null\n", ""))
    assert evaluation(tmp_path / "run") == run
