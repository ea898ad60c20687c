"""Real logs of our task in three harnesses (`tools/run_harness.py` made them) against our own predictions."""

import json
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import compare, compare_scores
from benchmarks.comparison.inspect_logs import read_entry
from benchmarks.comparison.read import Keys, read_scores
from benchmarks.evaluation.evaluate import read_generation
from benchmarks.evaluation.protocol import Protocol
from benchmarks.models.generation import Generation
from synthpert_env.items import Item, task_items
from synthpert_env.lm_eval.perturbqa import as_predictions
from tools.run_harness import ITEMS, reply_by_rule

LOGS = Path(__file__).parent / "logs"
BOTH = ("pert", "gene")
FIGURES = ("value_a", "value_b", "difference", "low", "high", "p_value", "se", "df", "n_items", "minimum_detectable")
COMPLETIONS = [
    ("inspect-{}.eval", Keys(clusters=BOTH)),
    ("lm-eval-perturbqa-{}.jsonl", Keys(item="item_id", score="accuracy", clusters=BOTH)),
    ("verifiers-{}.jsonl", Keys(score="reward", clusters=BOTH)),
]


@cache
def asked() -> list[Item]:
    return task_items(**ITEMS)


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (LOGS / name).read_text(encoding="utf-8").splitlines()]


def predictions(system: str) -> pd.DataFrame:
    """What our evaluation makes of the answers that the logs hold."""
    rows = []
    for item in asked():
        text, finish_reason = reply_by_rule(system, item["messages"])
        answer, _ = read_generation(Generation(text, finish_reason, 1, None), Protocol(scores="votes"))
        columns = {name: value for name, value in item.items() if name != "messages"}
        label = None if answer.label is None else str(answer.label)
        rows.append(columns | {"answer": label, "status": str(answer.status)})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("name", "keys"), COMPLETIONS)
def test_compare_finds_in_logs_what_our_report_finds_in_the_predictions(name: str, keys: Keys) -> None:
    a, b = (read_scores(LOGS / name.format(system), keys).frame for system in "ab")
    expected = compare(predictions("a"), predictions("b"))
    found = compare_scores(a, b, BOTH)
    assert 0 < found.p_value < 1
    for figure in FIGURES:
        assert getattr(found, figure) == pytest.approx(getattr(expected, figure), rel=1e-12, abs=1e-12), figure


@pytest.mark.parametrize(("name", "keys"), COMPLETIONS)
@pytest.mark.parametrize("system", ["a", "b"])
def test_each_item_has_the_score_of_our_parser(name: str, keys: Keys, system: str) -> None:
    found = read_scores(LOGS / name.format(system), keys).frame
    ours = predictions(system)
    assert set(ours["status"]) == {"answered", "malformed", "incomplete"}
    scores = (ours["answer"] == ours["label"]).astype(float)
    assert found.set_index("item_id")["score"].to_dict() == dict(zip(ours["item_id"], scores, strict=True))


def test_each_prompt_is_ours_to_the_letter() -> None:
    prompts = {item["item_id"]: item["messages"] for item in asked()}
    for row in rows_of("lm-eval-perturbqa-a.jsonl"):
        assert json.loads(row["arguments"]["gen_args_0"]["arg_0"][0]) == prompts.pop(row["doc"]["item_id"])
    assert not prompts
    prompts = {item["item_id"]: item["messages"] for item in asked()}
    for row in rows_of("verifiers-a.jsonl"):
        (trace,) = row["traces"]
        sent = [{key: node["message"][key] for key in ("role", "content")} for node in trace["nodes"]]
        assert sent[:-1] == prompts.pop(trace["task"]["data"]["id"])
    assert not prompts
    log = LOGS / "inspect-a.eval"
    with zipfile.ZipFile(log) as archive:
        for item in asked():
            sample = json.loads(read_entry(log, archive, f"samples/{item['item_id']}_epoch_1.json"))
            assert [{key: one[key] for key in ("role", "content")} for one in sample["input"]] == item["messages"]


def test_likelihoods_of_labels_make_predictions_for_our_report() -> None:
    keys = Keys(item="item_id", score="accuracy", clusters=BOTH)
    names = [f"lm-eval-perturbqa_labels-{system}.jsonl" for system in "ab"]
    a, b = (as_predictions([row["de_auroc"] for row in rows_of(name)]) for name in names)
    expected = compare(a, b)
    found = compare_scores(*(read_scores(LOGS / name, keys).frame for name in names), BOTH)
    for figure in FIGURES:
        assert getattr(found, figure) == pytest.approx(getattr(expected, figure), rel=1e-12, abs=1e-12), figure
    assert compare(a, b, "de_auroc").n_items == len(asked())
