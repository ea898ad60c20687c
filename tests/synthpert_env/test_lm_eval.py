"""The tasks of lm-evaluation-harness, without it: what its files name, and how a document is scored."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lazily import Lazy

from benchmarks import per_gene_auroc
from benchmarks.models.generation import EMPTY_THOUGHT
from rewards import LABELS, InputError
from synthpert_env.items import gold_completion
from synthpert_env.lm_eval import perturbqa

FOLDER = Path(perturbqa.__file__).parent
UP, DOWN, NONE = map(str, LABELS)
metrics = Lazy("sklearn.metrics")


class Loader(yaml.SafeLoader):
    """Reads `!function module.name` as that function."""


Loader.add_constructor("!function", lambda loader, node: getattr(perturbqa, str(node.value).removeprefix("perturbqa.")))


def task(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), Loader)
    return read


@pytest.mark.parametrize("name", ["perturbqa", "perturbqa_labels"])
def test_a_task_names_functions_that_are_there(name: str) -> None:
    read = task(name)
    assert read["task"] == name
    assert read["custom_dataset"] is perturbqa.documents
    assert not any(metric["metric"] == metric["aggregation"] for metric in read["metric_list"])


def test_labels_are_asked_for_after_the_same_empty_thought_as_in_our_evaluation() -> None:
    read = task("perturbqa_labels")
    assert read["gen_prefix"] + read["target_delimiter"] == EMPTY_THOUGHT
    assert perturbqa.choices({}) == [UP, DOWN, NONE]


def test_nothing_but_the_end_of_the_turn_ends_a_completion() -> None:
    assert task("perturbqa")["generation_kwargs"]["until"] == []  # lm-eval's own default is an empty line


@pytest.mark.parametrize(
    ("completion", "accuracy", "answered"),
    [
        (gold_completion(UP), 1.0, 1.0),
        (gold_completion(DOWN), 0.0, 1.0),
        ("<think>x</think><answer>not upregulated</answer>", 0.0, 0.0),
        ("<think>upregulated", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_a_completion_is_scored_by_our_parser(completion: str, accuracy: float, answered: float) -> None:
    found = perturbqa.score_text({"label": UP}, [completion])
    assert found == {"accuracy": accuracy, "answered": answered}


def test_likelihoods_become_probabilities_and_the_likeliest_label_the_answer() -> None:
    doc = {"item_id": "rpe1|AARS|CALR", "label": DOWN}
    found = perturbqa.score_labels(doc, [(-900 + math.log(one), False) for one in (0.1, 0.3, 0.1)])
    assert found["accuracy"] == 1.0
    item_id, label, *p = found["de_auroc"]  # type: ignore[misc]
    assert (item_id, label) == ("rpe1|AARS|CALR", DOWN)
    assert p == pytest.approx([0.2, 0.6, 0.2])
    assert perturbqa.score_labels(doc | {"label": UP}, [(-2.0, False), (-1.0, True), (-3.0, False)])["accuracy"] == 0.0


def test_areas_are_those_of_our_report() -> None:
    rng, n = np.random.default_rng(0), 200
    label = rng.choice([UP, DOWN, NONE], n)
    gene = [f"G{at % 7}" for at in range(n)]
    documents = [{"item_id": f"k562|P{at}|{gene[at]}", "label": str(label[at])} for at in range(n)]
    scored = []
    for doc, logits in zip(documents, rng.normal(size=(n, 3)), strict=True):
        # A log holds lists, not tuples.
        scored.append(list(perturbqa.score_labels(doc, [(one, False) for one in logits])["de_auroc"]))
    up, down, none = np.array([one[2:] for one in scored]).T
    changed, direction = label != NONE, up / (up + down)
    assert perturbqa.de_auroc(scored) == pytest.approx(metrics.roc_auc_score(changed, 1 - none), abs=1e-12)
    assert perturbqa.dir_auroc(scored) == pytest.approx(
        metrics.roc_auc_score(label[changed] == UP, direction[changed]), abs=1e-12
    )
    assert perturbqa.de_per_gene_auroc(scored) == pytest.approx(per_gene_auroc(changed, 1 - none, gene), abs=1e-12)
    assert perturbqa.dir_per_gene_auroc(scored) == pytest.approx(
        per_gene_auroc(label[changed] == UP, direction[changed], np.array(gene)[changed]), abs=1e-12
    )
    assert math.isnan(perturbqa.dir_auroc(scored[:1]))


def test_an_option_that_the_task_does_not_have_is_named() -> None:
    with pytest.raises(InputError, match="metadata: perturbqa has no 'itmes'; use one of data, split"):
        perturbqa.documents({"itmes": 3}, version=1.0, pretrained="a model's argument")
