"""Evaluation keeps what is done, goes on where it stopped, and tells failures from wrong answers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.evaluate import evaluate, read_generation, request_seed
from benchmarks.evaluation.predictions import read_facts, read_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.keys import from_keys
from benchmarks.models.engines import Decoding, Generation, Request
from benchmarks.models.generation import Written
from rewards import LABELS, InputError

N = 23
LINES = ("k562", "rpe1")


def make_items(n: int = N) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "cell_line": [LINES[i % 2] for i in range(n)],
            "pert": [f"P{i % 5}" for i in range(n)],
            "gene": [f"G{i}" for i in range(n)],
            "label": [str(LABELS[i % 3]) for i in range(n)],
        },
        index=pd.Index([100 - i for i in range(n)]),  # rows are taken by position, not by this
    )
    return frame.assign(item_id=frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])


def make_messages(items: pd.DataFrame) -> list[list[Mapping[str, str]]]:
    return [[{"role": "user", "content": item}] for item in items["item_id"]]


def make_protocol(**changed: Any) -> Protocol:
    keys = {"max_tokens": 16, "temperature": 1.0, "samples": 3, **changed}
    return replace(from_keys(Protocol, keys, "protocol"), data="digest")


class FakeEngine:
    """Answers by the request's seed, and by its place in the batch: batches formed otherwise answer otherwise."""

    name = "fake"
    context: int | None = 64

    def __init__(self, fail_at: int | None = None, error: type[BaseException] = RuntimeError) -> None:
        self.batches: list[int] = []
        self.fail_at = fail_at
        self.error = error
        self.model = "fake-1"

    def prompt_tokens(self, messages: Sequence[Mapping[str, str]]) -> int:
        return len(messages[-1]["content"])

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        if len(self.batches) == self.fail_at:
            raise self.error("stopped")
        self.batches.append(len(requests))
        if written is not None:
            written(0, 9)
        return [self.answer(place, request) for place, request in enumerate(requests)]

    def answer(self, place: int, request: Request) -> Generation:
        kind = (request.seed + place) % 6
        if kind == 4:
            return Generation("<think>so long", "length", 16, None)
        if kind == 5:
            return Generation(None, "error", 0, None, "HTTP 500")
        label = LABELS[kind % 3]
        up = (request.seed % 97) / 100
        return Generation(
            f"<think>{place}</think><answer>{label}</answer>", "stop", 9, (up, 1 - up, 0.0) if kind < 3 else None
        )

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "model": self.model}

    def close(self) -> None:
        pass


def run(engine: FakeEngine, run_dir: Path, **changed: Any) -> Path:
    items = make_items()
    return evaluate(engine, items, make_messages(items), make_protocol(**changed), run_dir, seed=7, chunk=8)


def test_one_row_per_item_and_sample_in_order(tmp_path: Path) -> None:
    frame = read_predictions(run(FakeEngine(), tmp_path))
    items = make_items()
    assert list(frame["item_id"]) == [item for item in items["item_id"] for _ in range(3)]
    assert list(frame["sample"]) == [0, 1, 2] * N
    assert set(frame["seed"]) == {7}
    assert dict(zip(frame["item_id"], frame["label"], strict=True)) == dict(
        zip(items["item_id"], items["label"], strict=True)
    )
    assert set(frame["status"]) == {"answered", "incomplete", "error"}


def test_a_failed_request_is_an_error_not_an_answer(tmp_path: Path) -> None:
    path = run(FakeEngine(), tmp_path)
    frame = read_predictions(path)
    failed = frame[frame["finish_reason"] == "error"]
    assert len(failed) > 0
    assert set(failed["status"]) == {"error"}
    assert failed[["completion", "answer", "p_up", "p_down", "p_none"]].isna().all(axis=None)
    assert read_facts(path)["errors"] == {"HTTP 500": len(failed)}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("fail_at", [0, 1, 5])
def test_a_stopped_run_goes_on_to_the_same_result(tmp_path: Path, error: type[BaseException], fail_at: int) -> None:
    whole = FakeEngine()
    unbroken = read_predictions(run(whole, tmp_path / "whole"))

    stopped = FakeEngine(fail_at, error)
    with pytest.raises(error):
        run(stopped, tmp_path / "stopped")
    rest = FakeEngine()
    resumed = read_predictions(run(rest, tmp_path / "stopped"))
    assert stopped.batches + rest.batches == whole.batches  # nothing lost, nothing repeated
    assert len(stopped.batches) == fail_at
    pd.testing.assert_frame_equal(resumed, unbroken)
    assert read_facts(tmp_path / "stopped" / "predictions.parquet") == read_facts(
        tmp_path / "whole" / "predictions.parquet"
    )


def test_a_complete_run_is_reused(tmp_path: Path) -> None:
    path = run(FakeEngine(), tmp_path)
    before = path.read_bytes()
    again = FakeEngine()
    assert run(again, tmp_path) == path
    assert again.batches == []
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["predictions.parquet"]


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused_naming_the_keys(tmp_path: Path, complete: bool) -> None:
    if complete:
        run(FakeEngine(), tmp_path)
    else:
        with pytest.raises(RuntimeError):
            run(FakeEngine(2), tmp_path)
    stored = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    with pytest.raises(InputError, match=r"other protocol\.parser, protocol\.top_p, protocol_fingerprint;"):
        run(FakeEngine(), tmp_path, parser="lenient", top_p=0.9)
    other = FakeEngine()
    other.model = "fake-2"
    with pytest.raises(InputError, match=r"other engine\.model;"):
        run(other, tmp_path)
    items = make_items(N - 1)
    with pytest.raises(InputError, match=r"other items\.n, items\.sha256, prompts_sha256;"):
        evaluate(FakeEngine(), items, make_messages(items), make_protocol(), tmp_path, seed=7, chunk=8)
    items = make_items()
    with pytest.raises(InputError, match=r"other chunk, run\.note, seed;"):
        evaluate(
            FakeEngine(), items, make_messages(items), make_protocol(), tmp_path, seed=8, chunk=4, facts={"note": "x"}
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == stored


def test_facts_say_what_was_run(tmp_path: Path) -> None:
    items = make_items()
    protocol = make_protocol(scores="votes")
    path = evaluate(
        FakeEngine(), items, make_messages(items), protocol, tmp_path, facts={"config": "eval.yaml"}, chunk=8
    )
    facts = read_facts(path)
    assert facts["protocol_fingerprint"] == protocol.fingerprint
    assert facts["protocol"]["data"] == "digest"
    assert facts["engine"] == {"name": "fake", "model": "fake-1"}
    assert facts["run"] == {"config": "eval.yaml"}
    assert facts["items"]["n"] == N
    assert facts["scores"].startswith("share of samples")
    assert facts["packages"]["transformers"] == metadata.version("transformers")
    assert None not in facts["packages"].values()


def test_votes_are_one_hot_where_answered(tmp_path: Path) -> None:
    frame = read_predictions(run(FakeEngine(), tmp_path, scores="votes"))
    answered = frame[frame["status"] == "answered"]
    p = answered[["p_up", "p_down", "p_none"]].to_numpy()
    given = [LABELS[k] for k in p.argmax(axis=1)]
    assert [str(label) for label in given] == list(answered["answer"])
    assert set(np.unique(p)) == {0.0, 1.0}


def test_progress_counts_rows_from_where_the_run_was_and_within_chunks(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run(FakeEngine(2), tmp_path)
    seen: list[tuple[float, int, int]] = []
    items = make_items()
    evaluate(
        FakeEngine(),
        items,
        make_messages(items),
        make_protocol(),
        tmp_path,
        seed=7,
        chunk=8,
        progress=lambda *told: seen.append(told),
    )
    assert seen[0] == (16, 69, 0)
    assert seen[-1][:2] == (69, 69)
    assert seen[-1][2] == sum(read_predictions(tmp_path / "predictions.parquet")["completion_tokens"][16:])
    assert len(seen) == 1 + 2 * 7
    # At first a completion is expected to be as long as it may be, then as long as those so far.
    assert seen[1] == (pytest.approx(16 + 9 / make_protocol().max_tokens), 69, 9)
    within, tokens = seen[3], seen[2][2]
    assert within == (pytest.approx(24 + 9 / (tokens / 8)), 69, tokens + 9)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_seeds_differ_by_item_sample_and_protocol_only() -> None:
    protocol = make_protocol()
    seeds = {request_seed(protocol, item, sample) for item in make_items()["item_id"] for sample in range(3)}
    assert len(seeds) == 3 * N
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert request_seed(protocol, "a", 0) == request_seed(make_protocol(parser="lenient"), "a", 0)
    assert request_seed(protocol, "a", 0) != request_seed(make_protocol(seed=1), "a", 0)


CUT = "<think>a</think>\nThe answer is"
P = (0.2, 0.3, 0.5)


@pytest.mark.parametrize(
    ("text", "finish_reason", "parser", "status"),
    [
        ("<think>a</think><answer>upregulated</answer>", "stop", "strict", "answered"),
        ("<think>a</think><answer>upregulated</answer>", "length", "strict", "answered"),
        (CUT, "stop", "strict", "malformed"),
        (CUT, "length", "strict", "incomplete"),
        (CUT, "length", "lenient", "incomplete"),
        ("no tags at all, upregulated", "length", "strict", "incomplete"),
        ("<think>a</think><answer>up</answer> and so on", "length", "strict", "malformed"),
        ("<think>a</think><ANSWER>Upregulated</ANSWER>", "stop", "strict", "malformed"),
        ("<think>a</think><ANSWER>Upregulated</ANSWER>", "stop", "lenient", "answered"),
    ],
)
def test_status_of_a_generation(
    text: str, finish_reason: str, parser: Literal["strict", "lenient"], status: str
) -> None:
    answer, p = read_generation(Generation(text, finish_reason, 5, P), make_protocol(parser=parser))
    assert answer.status == status
    assert (p == P) if status == "answered" else bool(np.isnan(p).all())


def test_an_answer_without_probabilities_has_none() -> None:
    generation = Generation("<think>a</think><answer>upregulated</answer>", "stop", 5, None)
    assert np.isnan(read_generation(generation, make_protocol())[1]).all()


def test_a_prompt_beyond_the_context_is_refused_before_generating(tmp_path: Path) -> None:
    items = make_items()
    messages = make_messages(items)
    messages[13] = [{"role": "user", "content": "x" * 49}]
    engine = FakeEngine()
    with pytest.raises(InputError, match=r"item rpe1\|P3\|G13: 49 prompt tokens and max_tokens 16 exceed .* 64"):
        evaluate(engine, items, messages, make_protocol(), tmp_path)
    assert engine.batches == []
    messages[13] = [{"role": "user", "content": "x" * 48}]
    evaluate(engine, items, messages, make_protocol(), tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"items": make_items().drop(columns="pert")}, "no column 'pert'"),
        ({"items": make_items().iloc[:0], "messages": []}, "none given"),
        ({"messages": make_messages(make_items())[:-1]}, "22 prompts for 23 items"),
        ({"items": pd.concat([make_items(22), make_items(1)])}, r"k562\|P0\|G0 occurs twice"),
        ({"chunk": 0}, "chunk: is 0"),
        ({"protocol": make_protocol(template="direction")}, "which template: direction does not offer"),
    ],
)
def test_items_that_do_not_fit(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    items = make_items()
    arguments = {"items": items, "messages": make_messages(items), "protocol": make_protocol(), **change}
    with pytest.raises(InputError, match=problem):
        evaluate(FakeEngine(), run_dir=tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
