"""FlexAttention over a prefix tree: on a GPU, one call a layer instead of one for each segment.

It has not run on a GPU yet. On a CPU, where FlexAttention has no backward pass, tests compare its values with those of
the segments. This module loads torch, so that others import it within functions only.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, Final

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad

from sft.prefix_tree import BLOCK, PrefixTree, fold

_COMPILED_LENGTHS: Final = 64  # compiled at most, with and without a gradient


def why_not_flex(model: Any) -> str | None:
    """Return why FlexAttention cannot compute a model's attention; None where it did so in a trial.

    Args:
        model: a causal language model of transformers, on a GPU.
    """
    if model.dtype == torch.float64:
        return "Triton does not compute in float64"
    if find_spec("triton") is None:
        return "Triton is not installed"
    config = model.config.get_text_config()
    heads, key_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", None)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    tree = fold([[0, 0]] * 2, [[0], [0]])
    query, key, value = (
        torch.zeros(1, number or heads, len(tree.tokens), width, device=model.device, dtype=model.dtype)
        for number in (heads, key_heads, key_heads)
    )
    try:
        total = attend(query.requires_grad_(), key, value, make_mask(tree, model.device), None).sum()
        torch.autograd.grad(total, query)
    except Exception as error:  # whatever the compiler raises: it is not known to support this GPU
        return f"FlexAttention fails here ({type(error).__name__})"
    return None


def padded_length(tokens: int) -> int:
    """Return the length that attention pads T tokens to: one of four between two powers of 2, a multiple of `BLOCK`.

    FlexAttention is compiled for each length, so that there must be few of them.
    """
    step = max(BLOCK, 1 << max(0, (tokens - 1).bit_length() - 3))
    return -(-tokens // step) * step


def make_mask(tree: PrefixTree, device: Any) -> BlockMask:
    """Return which keys a query of a padded tree attends to: those of its path, up to itself.

    A tree is in the order of a walk, so that a branch is one stretch of tokens. A query attends to a key where it
    stands behind the key and within the branch of the key's segment.

    Args:
        tree: of T tokens.
        device: of the queries and the keys.
    """
    length = padded_length(len(tree.tokens))
    # Padding is a branch of its own behind all others: no token attends to it.
    ends_L = torch.tensor(tree.branch_ends + [length] * (length - len(tree.tokens)), device=device)

    def attends(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (key <= query) & (query < ends_L[key])

    return create_block_mask(attends, None, None, length, length, device=str(device), BLOCK_SIZE=BLOCK)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask, scaling: float | None
) -> torch.Tensor:
    """Compute attention over a tree.

    Args:
        query: (1, H, T, D) queries of the tree's T tokens.
        key, value: (1, K, T, D); H is a multiple of K.
        mask: of the tree.
        scaling: what scores are multiplied by; None for 1/√D.

    Returns:
        (1, H, T, D) values.
    """
    tokens, grouped = query.shape[2], query.shape[1] != key.shape[1]
    query, key, value = (pad(states, (0, 0, 0, mask.seq_lengths[0] - tokens)) for states in (query, key, value))
    compute = _compiled() if query.is_cuda else flex_attention
    output: torch.Tensor = compute(query, key, value, block_mask=mask, scale=scaling, enable_gqa=grouped)
    return output[:, :, :tokens]


@cache
def _compiled() -> Any:
    compile_it: Any = torch.compile  # its annotations lack the limit
    return compile_it(flex_attention, dynamic=False, recompile_limit=_COMPILED_LENGTHS)
