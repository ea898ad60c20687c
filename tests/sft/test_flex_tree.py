"""FlexAttention over a tree: the values of the segments, at few lengths."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazily import Lazy
from without_clock import UNHURRIED

from sft.prefix_tree import BLOCK, fold, model_cost

torch, tiny_policy = Lazy("torch"), Lazy("tiny_policy")
flex_tree, tree_attention = Lazy("sft.flex_tree"), Lazy("sft.tree_attention")

PROMPTS = [[1, 2, 3, 4, 5]] * 2 + [[1, 2, 3, 9]] * 2 + [[1, 2]] + [[7, 8]]
COMPLETIONS = [[1, 2, 3], [1], [4, 4], [5, 6, 7], [1, 2], [3, 3]]
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6)


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile")
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_its_values_are_those_of_the_segments(key_heads: int) -> None:
    tree = fold(PROMPTS, COMPLETIONS)
    draw = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, len(tree.tokens), 8, generator=draw, dtype=torch.float64)
        for heads in (4, key_heads, key_heads)
    )
    layer: Any = SimpleNamespace(is_causal=True)
    given_: dict[str, Any] = {"prefix_tree": tree, "scaling": 0.3}
    whole, _ = tree_attention.tree_attention(layer, query, key, value, None, **given_)
    mask = flex_tree.make_mask(tree, "cpu")
    flexed, _ = tree_attention.tree_attention(layer, query, key, value, None, tree_mask=mask, **given_)
    assert (whole - flexed).abs().max() < 1e-12
    dropped, _ = tree_attention.tree_attention(layer, query, key, value, None, tree_mask=mask, dropout=0.9, **given_)
    assert (whole - dropped).abs().max() > 0.01  # FlexAttention has no dropout, so that the segments are computed


@UNHURRIED
@given(st.lists(st.tuples(TOKENS, st.lists(st.integers(0, 2), max_size=5)), min_size=1, max_size=7))
def test_a_query_stands_in_the_branches_of_its_path(rows: list[tuple[list[int], list[int]]]) -> None:
    tree = fold(*zip(*rows, strict=True))
    segments = [segment for segment, length in enumerate(tree.lengths) for _ in range(length)]
    for query, segment in enumerate(segments):
        seen = [key for key in range(query + 1) if query < tree.branch_ends[key]]
        assert seen == [key for key in range(query + 1) if segments[key] in tree.paths[segment]]


def test_padding_is_attended_to_by_padding_alone() -> None:
    tree = fold(PROMPTS, COMPLETIONS)
    mask, length, tokens = flex_tree.make_mask(tree, "cpu"), flex_tree.padded_length(len(tree.tokens)), len(tree.tokens)
    places = torch.arange(length)
    attended = mask.mask_mod(0, 0, places[:, None], places[None])
    assert attended.diagonal().all()  # a query without any key would give NaN
    assert not attended[:tokens, tokens:].any() and not attended[tokens:, :tokens].any()


@pytest.mark.parametrize(("tokens", "length"), [(1, 128), (129, 256), (1024, 1024), (1025, 1280), (5290, 6144)])
def test_lengths_are_few(tokens: int, length: int) -> None:
    assert flex_tree.padded_length(tokens) == length


def test_at_most_four_lengths_lie_between_powers_of_two() -> None:
    assert {flex_tree.padded_length(tokens) for tokens in range(4097, 8193)} == {5120, 6144, 7168, 8192}


def test_where_it_fails_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_policy.make_policy().get_base_model()
    assert flex_tree.why_not_flex(model) == "Triton does not compute in float64"
    model = model.float()
    monkeypatch.setattr("sft.flex_tree.find_spec", lambda name: None)
    assert flex_tree.why_not_flex(model) == "Triton is not installed"
    monkeypatch.setattr("sft.flex_tree.find_spec", lambda name: name)
    assert (
        flex_tree.why_not_flex(model) == "FlexAttention fails here (NotImplementedError)"
    )  # no backward pass on a CPU


def test_a_segment_costs_a_block_of_pairs_and_no_call() -> None:
    model = tiny_policy.make_policy().get_base_model()
    cost = model_cost(model, "cuda", flex=True)
    assert cost.segment == cost.pair * BLOCK**2 < model_cost(model, "cuda").segment
