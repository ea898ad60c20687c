"""What harnesses get is what `synthpert eval` asks and how it reads answers."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import select_test_items
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.keys import key_fields
from rewards import LABELS, InputError
from synthpert_env.items import gold_completion, score_completion, task_items

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "keys",
    [
        {"items": 5},
        {"items": 4, "balance": True, "item_seed": 3, "evidence": 2},
        {"items": 3, "template": "direction", "lemmas": True, "template_version": 1},
    ],
)
def test_items_and_prompts_are_those_of_eval(keys):
    prompt = PromptConfig(**{key: value for key, value in keys.items() if key in PromptConfig.__dataclass_fields__})
    own = {key: value for key, value in keys.items() if key in ("items", "balance", "item_seed")}
    corpus = open_corpus("sample")
    expected = select_test_items(corpus, Protocol(prompt=prompt, **own))
    found = task_items(data="sample", **keys)
    for column in ("item_id", "cell_line", "pert", "gene", "label"):
        assert [one[column] for one in found] == expected[column].astype(str).tolist()
    assert [one["messages"] for one in found] == build_prompts(expected, corpus, prompt)
    assert json.loads(json.dumps(found)) == found


def test_one_cell_line_has_the_items_that_it_has_among_all():
    every = task_items(data="sample", items=6)
    assert task_items(data="sample", items=6, cell_line="rpe1") == [one for one in every if one["cell_line"] == "rpe1"]


def test_defaults_are_those_of_eval():
    keys = key_fields(Protocol)
    for name, parameter in inspect.signature(task_items).parameters.items():
        if name not in ("data", "cell_line"):
            assert parameter.default == keys[name][1].default, name


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"cell_line": "hela"}, "cell_line"),
        ({"split": "holdout:hela"}, "split"),
        ({"items": -1}, "items"),
        ({"evidence": "few"}, "evidence"),
        ({"template_version": 3}, "template_version"),
    ],
)
def test_a_bad_value_is_named(keys, named):
    with pytest.raises(InputError, match=named):
        task_items(data="sample", **keys)


def test_every_gold_answer_scores_1_and_no_other_does():
    for label in map(str, LABELS):
        for truth in map(str, LABELS):
            scored = score_completion(gold_completion(label), truth)
            assert (scored.score, scored.answer, scored.status) == (float(label == truth), label, "answered")
            assert scored.reason.startswith("right" if label == truth else "wrong")


@pytest.mark.parametrize(
    ("completion", "keys", "score", "status"),
    [
        (None, {}, None, "error"),
        ("", {}, 0.0, "malformed"),
        ("<think>so", {}, 0.0, "incomplete"),
        ("no tags at all", {}, 0.0, "malformed"),
        ("no tags at all", {"cut_off": True}, 0.0, "incomplete"),
        ("It is upregulated.", {}, 0.0, "malformed"),
        ("It is upregulated.", {"parser": "lenient"}, 1.0, "answered"),
        ("<think>not upregulated</think><answer>not upregulated</answer>", {}, 0.0, "malformed"),
    ],
)
def test_what_cannot_be_read_is_told_apart_from_what_failed(completion, keys, score, status):
    scored = score_completion(completion, "upregulated", **keys)
    assert (scored.score, scored.status) == (score, status)
    assert scored.reason.startswith({None: "not scored", 0.0: "unreadable", 1.0: "right"}[score])


def test_no_unknown_label_or_parser_is_scored():
    with pytest.raises(InputError, match="label"):
        score_completion("x", "up")
    with pytest.raises(InputError, match="parser"):
        score_completion("x", "upregulated", parser="loose")


def test_it_needs_none_of_what_harnesses_environments_lack():
    """A harness's environment has pandas, NumPy, SciPy, PyYAML and pyarrow of our requirements, and no other."""
    absent = [
        "torch", "transformers", "trl", "vllm", "peft", "datasets", "accelerate", "sklearn", "matplotlib", "openai",
        "jinja2", "typer", "tokenizers",
    ]  # fmt: skip
    code = (
        f"import sys\nfor name in {absent!r}: sys.modules[name] = None\n"
        "from synthpert_env.items import gold_completion, score_completion, task_items\n"
        "items = task_items(data='sample', items=1, evidence=1)\n"
        "assert all(score_completion(gold_completion(one['label']), one['label']).score == 1 for one in items)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
