"""Sequences folded into a tree: each token once, each score in its place; and when that is worth while."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from without_clock import UNHURRIED

from sft.prefix_tree import WORTHWHILE, ModelCost, PrefixTree, fold

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)
ROWS = st.lists(st.tuples(TOKENS, st.lists(st.integers(0, 2), max_size=5)), min_size=1, max_size=7)


def path_tokens(tree: PrefixTree, index: int) -> list[int]:
    """The tokens that one token of a tree sees, itself last."""
    ends = [sum(tree.lengths[: segment + 1]) for segment in range(len(tree.lengths))]
    segment = next(segment for segment, end in enumerate(ends) if index < end)
    seen = [
        place
        for part in tree.paths[segment]
        for place in range(ends[part] - tree.lengths[part], ends[part])
        if place <= index
    ]
    assert [tree.positions[place] for place in seen] == list(range(len(seen)))
    return [tree.tokens[place] for place in seen]


@UNHURRIED
@given(ROWS)
def test_every_score_is_predicted_from_its_own_sequence(rows: list[tuple[list[int], list[int]]]) -> None:
    prompts, completions = [row[0] for row in rows], [row[1] for row in rows]
    tree = fold(prompts, completions)
    found = {}
    for index, label, row, column in zip(tree.scored, tree.labels, tree.rows, tree.columns, strict=True):
        assert path_tokens(tree, index) == prompts[row] + completions[row][:column]
        found[row, column] = label
    assert found == {(row, column): token for row, own in enumerate(completions) for column, token in enumerate(own)}


@UNHURRIED
@given(ROWS)
def test_what_prompts_begin_with_alike_is_there_once(rows: list[tuple[list[int], list[int]]]) -> None:
    scored = [(prompt, completion) for prompt, completion in rows if completion]
    tree = fold(*zip(*rows, strict=True))
    beginnings = {tuple(prompt[:end]) for prompt, _ in scored for end in range(1, len(prompt))}
    assert len(tree.tokens) == len(beginnings) + sum(len(completion) for _, completion in scored)
    assert len(tree.tokens) == len(tree.positions) == sum(tree.lengths)
    assert all(parent < segment for segment, parent in enumerate(tree.parents))


def test_a_group_computes_its_prompt_once() -> None:
    tree = fold([[1, 2, 3]] * 2, [[7, 8], [7]])
    assert tree.tokens == [1, 2, 3, 7, 3]  # the prompt's last token predicts each completion's first one
    assert (tree.lengths, tree.parents) == ([2, 2, 1], [-1, 0, 0])
    assert (tree.scored, tree.labels, tree.rows, tree.columns) == ([2, 3, 4], [7, 8, 7], [0, 0, 1], [0, 1, 0])
    assert tree.pairs == 2 * 2 + 2 * 4 + 1 * 3


def test_completions_are_never_shared() -> None:
    assert len(fold([[1, 2]] * 3, [[5, 6]] * 3).tokens) == 1 + 3 * 2


def test_rows_without_a_completion_take_no_part() -> None:
    assert fold([[1, 2], [1, 3]], [[], []]) == PrefixTree()
    assert fold([[1, 2], [9, 9, 9]], [[4], []]).tokens == [1, 2]


COST = ModelCost(token=1.0, pair=0.001, label=1.0, segment=5.0)


@pytest.mark.parametrize(
    ("prompt", "completion", "group", "cheaper"),
    [(400, 100, 8, True), (800, 100, 16, True), (50, 400, 8, True), (2, 400, 8, False), (50, 400, 1, False)],
)
def test_a_tree_costs_less_where_much_is_shared(prompt: int, completion: int, group: int, cheaper: bool) -> None:
    draw = random.Random(0)
    tree = fold([list(range(prompt))] * group, [[draw.randrange(99) for _ in range(completion)] for _ in range(group)])
    assert (COST.of_tree(tree) <= WORTHWHILE * COST.of_rows(group, prompt + completion, completion)) is cheaper


def test_the_cost_of_a_tree_counts_tokens_pairs_labels_and_segments() -> None:
    tree = fold([[1, 2, 3]] * 2, [[7, 8], [7]])
    assert ModelCost(1, 0, 0, 0).of_tree(tree) == 5
    assert ModelCost(0, 1, 0, 0).of_tree(tree) == tree.pairs
    assert ModelCost(0, 0, 1, 0).of_tree(tree) == 3
    assert ModelCost(0, 0, 0, 1).of_tree(tree) == 3
    assert ModelCost(1, 10, 100, 1000).of_rows(2, 5, 2) == 2 * (5 + 10 * 25 + 100 * 2)
