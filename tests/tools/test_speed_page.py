"""The page on performance: its tables are those of the results, and its counts those of the cost model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sft.prefix_tree import WORTHWHILE
from tools.speed import page
from tools.speed.training_step import CASES, TINY, Case

FOUND = {"seconds": 2.0, "memory_gib": 1.5, "micro_batch": 8, "tokens_computed": 0.5}


def result_row(case: Case, **by_tree: float) -> dict[str, Any]:
    return {**vars(case), "sides": {name: {**FOUND, "by_tree": ratio} for name, ratio in by_tree.items()}}


def test_the_page_holds_the_tables_of_the_results() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.with_tables(text) == text, "run python -m tools.speed.page"


def test_another_figure_changes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    folder = tmp_path / "a machine"
    folder.mkdir()
    rows = [{**result_row(TINY, trl=3.0, head=2.0, group=1.5, tree=1.0), "trl_by_auto": 3.5}]
    found = {"agreement": {"log_probs": 1e-6, "gradient": 2e-6, "adapter": 3e-6}, "rows": rows}
    (folder / "training_step.json").write_text(json.dumps(found))
    after = page.with_tables(before)
    # TRL, rows, a tree a group and all groups alive, each by the tree; then TRL by auto
    line = "| tiny | 48 (16 alike) | 12 | 4 | 2 | 1 | 3.00 | 2.00 | 1.50 | – | 3.50 | 1.5 / 1.5 | a machine |"
    assert line in after and "the gradient by 2.0e-06 of its norm" in after
    assert line not in before


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(SystemExit, match="0 places for the table limits"):
        page.with_tables(re.sub("<!-- table: limits -->", "", page.PAGE.read_text(encoding="utf-8")))


def test_the_weights_are_those_of_the_models() -> None:
    assert page.SMOLLM2.weights == 106_168_320  # of its 134.5 million, without embeddings (28.3 million) and norms
    assert page.LLAMA_8B.weights == 6_979_321_856  # of 8.03 billion, without embeddings and head (525 million each)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_counts_are_those_of_the_case(case: Case) -> None:
    alive = case.groups - case.dead
    tree = page.tree_of(case, alive)
    shared = case.alike if alive > 1 else 0
    # A completion has the prompt's last token anew, and not its own last one.
    assert len(tree.tokens) == shared + alive * (case.prompt - 1 - shared + case.group * case.completion)
    assert len(tree.labels) == alive * case.group * case.completion


def test_every_case_is_expected_to_gain_by_a_tree() -> None:
    for case in CASES:
        costs = page.expected(case)
        assert costs["tree"] <= WORTHWHILE * costs["head"] < costs["trl"], case.name
        assert costs["tree"] <= costs["group"] * 1.0001, case.name
