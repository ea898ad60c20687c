"""Our task in real lm-eval and verifiers, with a real model: prompts and scores are those of our own evaluation."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.chat import open_tokenizer, render_prompt
from benchmarks.comparison.read import Keys, read_scores
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import select_test_items
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import build_prompts
from benchmarks.models.generation import EMPTY_THOUGHT
from benchmarks.models.server import OpenAIEngine
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from rewards import LABELS
from synthpert_env.lm_eval.perturbqa import as_predictions
from tools.run_harness import MAX_TOKENS, ModelServer, run_lm_eval, run_verifiers

pytestmark = pytest.mark.slow

PER_LINE = int(os.environ.get("SYNTHPERT_HARNESS_ITEMS") or 2)  # `make test-harness` asks 10 in each of four lines
ITEMS = {"data": "sample", "items": PER_LINE, "balance": True}


@pytest.fixture(scope="module")
def asked() -> tuple[pd.DataFrame, list[list[dict[str, str]]], Protocol]:
    """The items and the prompts of our own evaluation."""
    corpus = open_corpus("sample")
    protocol = Protocol(items=PER_LINE, balance=True, max_tokens=MAX_TOKENS, scores="votes", data=corpus.digest)
    chosen = select_test_items(corpus, protocol)
    prompts = [[dict(message) for message in one] for one in build_prompts(chosen, corpus, protocol.prompt)]
    return chosen, prompts, protocol


def ours(asked: Any, server: ModelServer, folder: Path) -> pd.DataFrame:
    """Our own predictions, from the same server."""
    items, prompts, protocol = asked
    path = evaluate(OpenAIEngine(server.url, "m"), items, prompts, protocol, folder)
    assert sorted(server.asked, key=str) == sorted(prompts, key=str)
    server.asked.clear()
    frame = pd.read_parquet(path)
    assert {"answered", "incomplete"} <= set(frame["status"])
    right = (frame["answer"] == frame["label"]).astype(float)
    assert set(right[frame["status"] == "answered"]) == {0.0, 1.0}
    return frame.assign(right=right, answered=(frame["status"] == "answered").astype(float)).set_index("item_id")


def test_lm_eval_asks_and_scores_as_we_do(
    asked: Any, served_model: ModelServer, harness_python: Callable[[str], Path], smollm2: Path, tmp_path: Path
) -> None:
    expected = ours(asked, served_model, tmp_path / "ours")
    samples, results = run_lm_eval(
        harness_python("lm-eval"), "perturbqa", served_model.url, tmp_path / "theirs", ITEMS, smollm2
    )
    assert sorted(served_model.asked, key=str) == sorted(asked[1], key=str)
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(expected)
    for row in rows:
        item = expected.loc[row["doc"]["item_id"]]
        assert row["resps"] == [[item["completion"]]]
        assert (row["accuracy"], row["answered"]) == (item["right"], item["answered"])
    assert results["accuracy,none"] == pytest.approx(expected["right"].mean(), abs=1e-12)
    keys = Keys(item="item_id", score="accuracy", clusters=("pert", "gene"))
    assert read_scores(samples, keys).frame["score"].tolist() == [row["accuracy"] for row in rows]


def test_lm_eval_reads_labels_where_our_direct_scores_read_them(
    asked: Any, served_model: ModelServer, real_model: Any, harness_python: Callable[[str], Path], smollm2: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    items, prompts, _ = asked
    samples, results = run_lm_eval(
        harness_python("lm-eval"), "perturbqa_labels", served_model.url, tmp_path / "theirs", ITEMS, smollm2
    )
    tokenizer = open_tokenizer(smollm2)
    begun = [render_prompt(tokenizer, prompt) + EMPTY_THOUGHT for prompt in prompts]
    texts = [tokenizer.decode(ids) for ids in served_model.asked]
    assert sorted(texts) == sorted(text + str(label) for text in begun for label in LABELS)
    direct = [real_model.engine._model.encode_direct(prompt)[0] for prompt in prompts]
    assert {tuple(ids[: len(direct[0])]) for ids in served_model.asked} >= {tuple(direct[0])}
    rows = {row["doc"]["item_id"]: row for row in map(json.loads, samples.read_text(encoding="utf-8").splitlines())}
    assert sorted(rows) == sorted(items["item_id"])
    for item_id, text in zip(items["item_id"], begun, strict=True):
        start = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        likelihoods = [
            sum(
                real_model.log_probabilities(tokenizer(text + label, add_special_tokens=False)["input_ids"])[
                    start - 1 :
                ]
            )
            for label in LABELS
        ]
        found = [float(response[0][0]) for response in rows[item_id]["resps"]]
        assert found == pytest.approx(likelihoods, abs=1e-4)
    predictions = as_predictions([row["de_auroc"] for row in rows.values()])
    runs = prediction_arrays(predictions)
    for name in ("de_auroc", "dir_auroc"):
        expected = estimate(runs, name.partition("_")[0], name).value
        assert results[f"{name},none"] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert results["accuracy,none"] == pytest.approx((predictions["answer"] == predictions["label"]).mean(), abs=1e-12)


def test_verifiers_asks_and_scores_as_we_do(
    asked: Any, served_model: ModelServer, harness_python: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = ours(asked, served_model, tmp_path / "ours")
    path = run_verifiers(harness_python("verifiers"), served_model.url, tmp_path / "theirs", ITEMS)
    assert sorted(served_model.asked, key=str) == sorted(asked[1], key=str)
    episodes = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    traces = [trace for episode in episodes for trace in episode["traces"]]
    assert len(traces) == len(expected)
    for trace in traces:
        item = expected.loc[trace["task"]["data"]["id"]]
        assert trace["rewards"]["accuracy"]["score"] == item["right"]
        assert trace["metrics"]["answered"] == item["answered"]
    found = read_scores(path, Keys(score="reward", clusters=("pert", "gene"))).frame.set_index("item_id")
    assert found["score"].to_dict() == expected["right"].to_dict()
    cut = expected.index[expected["finish_reason"] == "length"]
    assert set(found.index[found["outcome"] == "incomplete"]) == set(cut)


def test_the_gold_answer_of_each_task_of_verifiers_earns_one_and_no_answer_none(
    harness_python: Callable[[str], Path], tmp_path: Path
) -> None:
    python = harness_python("verifiers")
    words = ["synthpert-env", "--taskset.data", "sample", "--taskset.items", str(PER_LINE), "--no-rich"]
    words += ["--runtime.type", "subprocess", "--output-dir", str(tmp_path)]
    environment = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
    subprocess.run([str(python.parent / "vf-validate"), *words], check=True, cwd=tmp_path, env=environment)
    (summary,) = tmp_path.rglob("summary.json")
    outcomes = json.loads(summary.read_text(encoding="utf-8"))["outcomes"]
    assert outcomes["valid"] == 4 * PER_LINE == sum(outcomes.values())
