"""Sequences that begin alike, folded so that a token they share is computed once; and what that costs.

A group of completions shares its prompt, and prompts share their instructions. Folded, they are one row of segments: a
segment holds the tokens between two forks and attends to those of its path, from the beginning of the sequence on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, Final

# What a segment's attention costs beside its arithmetic, in floating-point operations a layer: what a device could
# compute while the calls are made. That of a GPU is an estimate: 1e-4 s at 1e14 operations a second.
SEGMENT_COST: Final = {"cpu": 4e6}
OTHER_SEGMENT_COST: Final = 1e10
BLOCK: Final = 128  # queries and keys that FlexAttention computes together
WORTHWHILE: Final = 0.95  # a tree is taken from this share of the padded rows' cost down


@dataclass
class PrefixTree:
    """B sequences, folded into S segments of T tokens together, of which N predict a token that is scored.

    Attributes:
        tokens: T token ids; a segment's stand together, and behind those of its parent.
        positions: T places in the sequence, from 0.
        lengths: tokens of each of the S segments.
        parents: the segment that each of the S goes on from, -1 for none.
        scored: N indices into the tokens, of those whose successor is scored.
        labels: N token ids, these successors.
        rows, columns: N places of the scores: the sequence, and the token of its completion.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)

    @cached_property
    def paths(self) -> list[list[int]]:
        """Of each segment, the segments whose tokens it attends to, itself last."""
        paths: list[list[int]] = []
        for segment, parent in enumerate(self.parents):
            paths.append([*(paths[parent] if parent >= 0 else []), segment])
        return paths

    @cached_property
    def depths(self) -> list[int]:
        """Of each segment, the tokens on its path, its own included."""
        return [sum(self.lengths[part] for part in path) for path in self.paths]

    @property
    def branch_ends(self) -> list[int]:
        """Of each of the T tokens, the index behind the last token that goes on from its segment."""
        starts = [0, *accumulate(self.lengths)]
        ends = starts[1:]
        for segment in reversed(range(len(ends))):
            if (parent := self.parents[segment]) >= 0:
                ends[parent] = max(ends[parent], ends[segment])
        return [end for end, length in zip(ends, self.lengths, strict=True) for _ in range(length)]

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that attention computes."""
        return sum(length * depth for length, depth in zip(self.lengths, self.depths, strict=True))

    def add(self, tokens: Sequence[int], start: int, parent: int) -> int:
        """Append a segment that begins at a place of the sequence; return its number, for an empty one its parent's."""
        if not tokens:
            return parent
        self.tokens.extend(tokens)
        self.positions.extend(range(start, start + len(tokens)))
        self.lengths.append(len(tokens))
        self.parents.append(parent)
        return len(self.lengths) - 1

    def add_completion(self, row: int, last: int, completion: Sequence[int], start: int, parent: int) -> None:
        """Append a completion, of which every token is scored.

        Args:
            row: of the sequence.
            last: the prompt's last token. It predicts the completion's first one, and so each completion has it anew:
                then every token that predicts has one label.
            completion: L tokens; the last of them predicts nothing and is left out.
            start: place of the prompt's last token in the sequence.
            parent: the segment that it goes on from.
        """
        first = len(self.tokens)
        self.add([last, *completion[:-1]], start, parent)
        self.scored.extend(range(first, first + len(completion)))
        self.labels.extend(completion)
        self.rows.extend([row] * len(completion))
        self.columns.extend(range(len(completion)))


def fold(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> PrefixTree:
    """Fold sequences into a tree. What prompts begin with alike is shared; completions are not.

    Args:
        prompts: B prompts of at least one token.
        completions: B completions; one without a token takes no part.

    Returns:
        The tree. Its segments stand in the order of a walk that ends a branch before it begins the next one.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        if completion:
            rows.setdefault(tuple(prompt[:-1]), []).append(row)
    tree = PrefixTree()

    def grow(shared: Sequence[tuple[int, ...]], start: int, parent: int) -> None:
        """Add sorted prompts, each without its last token, that are alike up to `start`, and their completions."""
        end = _common(shared[0], shared[-1])
        parent = tree.add(shared[0][start:end], start, parent)
        if len(shared[0]) == end:
            for row in rows[shared[0]]:
                tree.add_completion(row, prompts[row][-1], completions[row], end, parent)
            shared = shared[1:]
        for _, branch in groupby(shared, key=lambda prompt: prompt[end]):
            grow(list(branch), end, parent)

    if rows:
        grow(sorted(rows), 0, -1)
    return tree


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


@dataclass(frozen=True)
class ModelCost:
    """What a forward pass costs, in floating-point operations.

    Attributes:
        token: of the linear layers, a token.
        pair: of attention in all layers, a pair of a query and a key.
        label: of the head, a token that is scored.
        segment: of attention in all layers, a segment (see `SEGMENT_COST`).
    """

    token: float
    pair: float
    label: float
    segment: float

    def of_tree(self, tree: PrefixTree) -> float:
        """Return the cost of a tree."""
        return (
            len(tree.tokens) * self.token
            + tree.pairs * self.pair
            + len(tree.labels) * self.label
            + len(tree.lengths) * self.segment
        )

    def of_rows(self, rows: int, length: int, completion: int) -> float:
        """Return the cost of B padded rows of L tokens, whose last C are scored."""
        return rows * (length * self.token + length**2 * self.pair + completion * self.label)


def model_cost(model: Any, device: str, *, flex: bool = False) -> ModelCost:
    """Return what a model's forward pass costs, by its configuration and the number of its weights.

    Args:
        model: a causal language model of transformers.
        device: its type: `cpu`, `cuda` and so on.
        flex: whether FlexAttention computes a tree's attention. Then a segment costs a block of pairs more, which it
            fills in part only, and no call.
    """
    config = model.config.get_text_config()
    width, layers, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    weights = sum(parameter.numel() for parameter in model.base_model.parameters())
    weights -= model.get_input_embeddings().weight.numel()
    pair = 4.0 * layers * heads * (getattr(config, "head_dim", None) or width // heads)
    return ModelCost(
        token=2.0 * weights,
        pair=pair,
        label=2.0 * width * config.vocab_size,
        segment=pair * BLOCK**2 if flex else layers * SEGMENT_COST.get(device, OTHER_SEGMENT_COST),
    )
