"""Our task and our metrics in real inspect: prompts and scores are those of our own evaluation."""

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison.inspect_logs import read_entry, read_inspect
from benchmarks.comparison.records import score_value
from benchmarks.evaluation.predictions import read_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import EvalArguments, run_evaluation
from benchmarks.models.server import restore_think
from rewards import LABELS
from synthpert_env.estimates import clustered_mean
from synthpert_env.items import Scored, score_completion, task_items
from tools.run_harness import MAX_TOKENS, ModelServer, run_inspect

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PER_LINE = int(os.environ.get("SYNTHPERT_HARNESS_ITEMS") or 2)  # `make test-harness` asks 10 in each of four lines
ITEMS = {"data": "sample", "items": PER_LINE, "balance": True}
UP = "<answer>upregulated</answer>"
# What inspect takes apart: a think block in all its places but behind the answer, alone, empty, twice, unclosed.
REPLIES = [
    f"<think>It rises.</think>{UP}", f" <think>\nIt rises.\n</think>\n\n{UP}\n", f"<think></think>{UP}",
    f"Well. <think>It rises.</think>{UP}", f"<think>a</think><think>b</think>{UP}", f"<think>a</think>so{UP}",
    f"<think>a<think>b</think>c</think>{UP}", f"It rises.</think>{UP}", UP, "upregulated", "<think>It rises.</think>",
    "<think>It rises", "", f"<think><summary>s</summary>It rises.</think>{UP}", f"{UP}{UP}",
    "<think>It falls.</think><answer>not upregulated</answer>", "<think>a &lt; b</think><answer>Upregulated</answer>",
    "<think>It falls.</think><answer>downregulated</answer>",
    "<think>So.</think><answer>not differentially expressed</answer>",
]  # fmt: skip


def samples_of(path: Path) -> list[dict[str, Any]]:
    """The samples of a log, as inspect stores them."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("samples/")]
        return [json.loads(read_entry(path, archive, name)) for name in names]


def metrics_of(path: Path) -> dict[str, float]:
    """What inspect reports of the only scorer of a log."""
    with zipfile.ZipFile(path) as archive:
        header = json.loads(read_entry(path, archive, "header.json"))
    assert header["status"] == "success", header.get("error")
    scores = header["results"]["scores"]  # one entry of metrics over items, one of those over single completions
    assert len({one["name"] for one in scores}) == 1
    return {name: found["value"] for one in scores for name, found in one["metrics"].items()}


def check_metrics(
    path: Path, scores: Sequence[float], answered: Sequence[bool], metadata: Sequence[dict[str, str]]
) -> None:
    found = metrics_of(path)
    both, one = (clustered_mean(range(len(scores)), scores, metadata, keys) for keys in (("pert", "gene"), ("pert",)))
    expected = {
        "accuracy": both.difference, "stderr": one.se, "clustered_stderr": both.se, "lower": both.low,
        "upper": both.high, "answered": sum(answered) / len(answered),
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)  # equal scores have no interval


def test_inspect_asks_and_scores_as_we_do(
    served_model: ModelServer, harness_python: Callable[[str], Path], tmp_path: Path
) -> None:
    """The model is asked by inspect, then by `synthpert eval`, and each item has the same prompt and score.

    So small a model seldom keeps to the format. Read leniently, some of its answers count.
    """
    path = run_inspect(harness_python("inspect"), served_model.url, tmp_path / "theirs", ITEMS | {"parser": "lenient"})
    theirs = sorted(served_model.asked, key=str)
    served_model.asked.clear()
    protocol = Protocol(items=PER_LINE, balance=True, max_tokens=MAX_TOKENS, scores="votes", parser="lenient")
    arguments = EvalArguments(
        str(tmp_path / "ours"), "m", engine="openai", base_url=served_model.url, data="sample", protocol=protocol
    )
    ours = read_predictions(run_evaluation(arguments) / "predictions.parquet").set_index("item_id")
    assert theirs == sorted(served_model.asked, key=str)
    assert len(ours) == len(theirs) == 4 * PER_LINE
    records, notes = read_inspect(path)
    assert notes == []
    assert [one["item_id"] for one in task_items(**ITEMS)] == list(ours.index)
    records.sort(key=lambda one: ours.index.get_loc(one.item))  # inspect writes samples as they end
    assert [one.item for one in records] == list(ours.index)
    for record, row in zip(records, ours.itertuples(), strict=True):
        assert score_value(record.scores["right_label"]) == float(row.answer == row.label)
        assert record.incomplete == (row.finish_reason == "length")
        assert [record.fields[0][key] for key in ("cell_line", "pert", "gene")] == [row.cell_line, row.pert, row.gene]
    for sample in samples_of(path):
        assert sample["scores"]["right_label"]["metadata"]["status"] == ours.loc[sample["id"], "status"]
    metadata = [dict(one.fields[0]) for one in records]
    scores = [score_value(one.scores["right_label"]) for one in records]
    check_metrics(path, scores, list(ours["status"] == "answered"), metadata)


def test_replies_that_inspect_takes_apart_are_scored_as_they_were_written(
    harness_python: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"data": "sample", "items": 15, "balance": True}
    items = task_items(**asked)
    written = {one["messages"][-1]["content"]: REPLIES[at % len(REPLIES)] for at, one in enumerate(items)}
    assert len(written) == len(items) > 3 * len(REPLIES)

    def reply(messages: list[dict[str, str]], max_tokens: int) -> tuple[str, str]:
        text = written[messages[-1]["content"]]
        return text, "length" if text.endswith("rises") else "stop"

    def expected_of(item: Any, parser: Any) -> Scored:
        """The score that `synthpert eval` gives with a server."""
        text = written[item["messages"][-1]["content"]]
        cut_off = text.endswith("rises")
        text = restore_think(text, None, "length" if cut_off else "stop")
        return score_completion(text, item["label"], cut_off=cut_off, parser=parser)

    python = harness_python("inspect")
    with ModelServer(reply) as server:
        path = run_inspect(python, server.url, tmp_path, asked)
    samples = {one["id"]: one["scores"]["right_label"] for one in samples_of(path)}
    scores, answered = [], []
    for item in items:
        text, expected = written[item["messages"][-1]["content"]], expected_of(item, "strict")
        found = samples[item["item_id"]]
        assert score_value(found["value"]) == expected.score, text
        assert (found.get("answer"), found["explanation"], found["metadata"]["status"]) == (
            expected.answer, expected.reason, expected.status
        ), text  # fmt: skip
        scores.append(score_value(found["value"]))
        answered.append(expected.status == "answered")
    assert {score_completion(text, str(LABELS[0])).status for text in REPLIES} == {
        "answered", "malformed", "incomplete"
    }  # fmt: skip
    metadata = [{key: str(one[key]) for key in ("pert", "gene")} for one in items]
    check_metrics(path, scores, answered, metadata)

    # The log scored again: scorer and metric by their names, as a user of the command gives them.
    again = tmp_path / "again.eval"
    words = ["--scorer", "synthpert_env/right_label", "-S", "parser=lenient", "--action", "overwrite"]
    words += ["--metric", "synthpert_env/clustered_stderr", "--output-file", str(again)]
    monkeypatch.setenv("LOCAL_API_KEY", "none")  # inspect opens the log's model even if nothing is asked
    subprocess.run([str(python.parent / "inspect"), "score", str(path), *words], check=True, cwd=tmp_path)
    lenient = [expected_of(item, "lenient").score or 0.0 for item in items]
    assert sum(lenient) > sum(scores) > 0
    expected_se = clustered_mean(range(len(items)), lenient, metadata, ("pert", "gene")).se
    assert metrics_of(again) == pytest.approx({"clustered_stderr": expected_se}, abs=1e-12)


def test_a_failed_request_is_unscored_and_a_bad_argument_is_told_in_one_line(
    harness_python: Callable[[str], Path], tmp_path: Path
) -> None:
    asked = count()

    def reply(messages: list[dict[str, str]], max_tokens: int) -> tuple[str, str]:
        return (f"<think>a</think>{UP}", "stop") if next(asked) % 2 else ("", "content_filter")

    python = harness_python("inspect")
    with ModelServer(reply) as server:
        path = run_inspect(python, server.url, tmp_path / "log", {"data": "sample", "items": 2})
    values = [score_value(one.scores["right_label"]) for one in read_inspect(path)[0]]
    known = [value for value in values if value == value]
    assert len(known) == 4 < len(values) == 8
    assert metrics_of(path)["accuracy"] == pytest.approx(sum(known) / 4)
    assert metrics_of(path)["answered"] == 1  # of those that were scored

    command = [str(python.parent / "inspect"), "eval", "synthpert_env/perturbqa", "--model", "mockllm/model"]
    done = subprocess.run(
        [*command, "-T", "data=sample", "-T", "cell_line=hela", "--log-dir", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "cell_line is 'hela'" in said and "Traceback" not in said


def test_the_page_s_own_task_has_the_metric(harness_python: Callable[[str], Path], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "harnesses.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page.split("\n## inspect\n")[1].split("\n## ")[0], re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    with ModelServer(lambda messages, _: ("yes" if "4" in messages[-1]["content"] else "no", "stop")) as server:
        path = run_inspect(harness_python("inspect"), server.url, tmp_path, {}, task="mine.py")
    records = read_inspect(path)[0]
    scores = [score_value(one.scores["match"]) for one in records]
    expected = clustered_mean(range(30), scores, [dict(one.fields[0]) for one in records], ["document", "annotator"])
    assert metrics_of(path) == pytest.approx(
        {
            "accuracy": expected.difference,
            "clustered_stderr": expected.se,
            "lower": expected.low,
            "upper": expected.high,
        },
        abs=1e-12,
    )
    assert 0 < expected.se < 1
