"""A forward pass over a prefix tree, and over padded rows, of which completions alone reach the head.

This module loads torch and transformers, so that others import it within functions only.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from peft import PeftModel
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from rewards import CheckError, InputError
from sft.flex_tree import attend, make_mask, why_not_flex
from sft.prefix_tree import WORTHWHILE, PrefixTree, fold, model_cost

_logger = logging.getLogger("synthpert.train")
ATTENTION: Final = "prefix_tree"  # its name among transformers' attention implementations
CHECKED_ROWS: Final = 4  # of the first tree
# By how much their log-probabilities may differ from those of padded rows, on average over the tokens.
TOLERANCE: Final = {torch.float64: 1e-6, torch.float32: 1e-4}
# In bfloat16 and float16. Rounding alone parts them by .044 to .051 (SmolLM2-135M in bfloat16, traces that it has not
# learnt), as far as each lies from float32. A tree whose structure attention does not heed lies .94 away.
HALF_TOLERANCE: Final = 0.15
# What attention is told by models that this one does not know: it computes none of it.
_UNKNOWN: Final = {"s_aux": "attention sinks", "position_bias": "position biases"}


class NoTreeError(Exception):
    """A model's attention cannot be computed over a tree; the message says why."""


@dataclass
class Scores:
    """What a model says of completions of C tokens in B rows; 0 where a row has no token.

    Attributes:
        log_probs: (B, C) log-probabilities of the tokens.
        entropy: (B, C) entropies of the distributions they come from, in nats; None where the head computes none.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor | None


def unwrapped(accelerator: Any, model: Any) -> Any:
    """Return the model of transformers within what accelerate and PEFT wrap it in for training."""
    model = accelerator.unwrap_model(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def enable(model: Any) -> str | None:
    """Let a model take trees: its attention stays transformers' SDPA for all else.

    Args:
        model: a causal language model of transformers.

    Returns:
        None, or why this model cannot.
    """
    reason = why_not(model)
    if reason is None:
        AttentionInterface.register(ATTENTION, tree_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        model.set_attn_implementation(ATTENTION)
    return reason


def why_not(model: Any) -> str | None:
    """Return why a model cannot take trees, as far as its configuration tells; None where it may."""
    config = model.config.get_text_config()
    used = model.config._attn_implementation
    kinds = {kind for kind in getattr(config, "layer_types", None) or ["full_attention"] if kind != "full_attention"}
    if used not in ("sdpa", ATTENTION):
        return f"attn_implementation is {used}, not sdpa"
    if kinds:
        return f"the model has layers of {', '.join(sorted(kinds))}"
    if not model._supports_attention_backend:
        return "the model's attention cannot be exchanged"
    return None


def tree_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    prefix_tree: PrefixTree | None = None,
    tree_mask: BlockMask | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers' SDPA does; over a tree, each segment with the keys of its path.

    Args:
        module: the attention layer.
        query: (1, H, T, D) queries of the T tokens of a tree.
        key, value: (1, K, T, D); H is a multiple of K.
        attention_mask: for SDPA alone.
        prefix_tree: None for plain rows.
        tree_mask: of the tree, where FlexAttention computes it.
        dropout, scaling: SDPA's `dropout_p` and `scale`.
        sliding_window: how many keys a query sees, if not all.
        kwargs: for SDPA alone.

    Returns:
        (1, T, H, D) values, and None for the weights.

    Raises:
        NoTreeError: a layer wants what is not computed over a tree.
    """
    if prefix_tree is None:
        if sliding_window is not None:
            kwargs["sliding_window"] = sliding_window
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    for name, thing in _UNKNOWN.items():
        if kwargs.get(name) is not None:
            raise NoTreeError(f"the model has {thing}")
    if sliding_window is not None and sliding_window < max(prefix_tree.depths):
        raise NoTreeError(f"the model has a sliding window of {sliding_window} tokens")
    if kwargs.get("is_causal") is False or not getattr(module, "is_causal", True):
        raise NoTreeError("the model's attention is not causal")
    if tree_mask is not None and not dropout:
        return attend(query, key, value, tree_mask, scaling).transpose(1, 2).contiguous(), None
    queries, keys, values = (torch.split(states, prefix_tree.lengths, dim=2) for states in (query, key, value))
    outputs = []
    for own, path in zip(queries, prefix_tree.paths, strict=True):
        path_key, path_value = (torch.cat([states[part] for part in path], dim=2) for states in (keys, values))
        outputs.append(
            scaled_dot_product_attention(
                own,
                path_key,
                path_value,
                attn_mask=_causal(own.shape[2], path_key.shape[2], query) if len(path) > 1 else None,
                is_causal=len(path) == 1,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _causal(queries: int, keys: int, like: torch.Tensor) -> torch.Tensor:
    """Return what is added to the scores of the last `queries` of `keys` tokens: nothing, or -inf for later keys."""
    mask = like.new_full((queries, keys), -torch.inf)
    return mask.triu(keys - queries + 1)


def split_rows(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, columns: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the prompts and the completions of padded rows.

    Args:
        input_ids: (B, L) token ids, a prompt's padding in front and a completion's behind.
        attention_mask: (B, L) 1 for a token, 0 for padding.
        columns: how many of the L are the completion's.
    """
    prompts, completions = [], []
    for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
        border = len(ids) - columns
        prompts.append([token for token, real in zip(ids[:border], mask[:border], strict=True) if real])
        completions.append([token for token, real in zip(ids[border:], mask[border:], strict=True) if real])
    return prompts, completions


def pad_rows(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return B prompts and completions as padded rows: what `split_rows` takes."""
    width, columns = max(map(len, prompts)), max(map(len, completions))
    rows, masks = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        front, behind = width - len(prompt), columns - len(completion)
        rows.append([0] * front + [*prompt, *completion] + [0] * behind)
        masks.append([0] * front + [1] * (len(prompt) + len(completion)) + [0] * behind)
    return torch.tensor(rows), torch.tensor(masks), columns


def tree_inputs(tree: PrefixTree, device: Any, *, flex: bool = False) -> dict[str, Any]:
    """Return what a model with TRL's fused head is called with to score a tree, within `head_sees`.

    Args:
        tree: of at least one completion.
        device: of the model.
        flex: whether FlexAttention computes attention.
    """
    tokens_T, positions_T, labels_N = (
        torch.tensor(numbers, device=device) for numbers in (tree.tokens, tree.positions, tree.labels)
    )
    return {
        "input_ids": tokens_T[None],
        # Without a mask, transformers would take places that begin anew for the beginnings of packed sequences.
        "attention_mask": torch.ones_like(tokens_T)[None],
        "position_ids": positions_T[None],
        "shift_labels": labels_N[None],
        "prefix_tree": tree,
        "tree_mask": make_mask(tree, device) if flex else None,
    }


def score_tree(model: Any, base: Any, tree: PrefixTree, shape: Sequence[int], *, flex: bool = False) -> Scores:
    """Return the scores of a tree's completions.

    Args:
        model: the model to call, as it is wrapped for training, with TRL's fused head.
        base: the same without what wraps it, a model of transformers.
        tree: of at least one completion.
        shape: B and C of the scores.
        flex: whether FlexAttention computes attention.

    Raises:
        NoTreeError: the model cannot take a tree.
    """
    device = base.device
    scored_N, rows_N, columns_N = (
        torch.tensor(numbers, device=device) for numbers in (tree.scored, tree.rows, tree.columns)
    )
    with head_sees(base, scored_N):
        outputs = model(**tree_inputs(tree, device, flex=flex), fused_lm_head=True)

    def spread(values_1N: torch.Tensor) -> torch.Tensor:
        return values_1N.new_zeros(tuple(shape)).index_put((rows_N, columns_N), values_1N[0])

    return Scores(spread(outputs.log_probs), None if outputs.entropy is None else spread(outputs.entropy))


def score_rows(model: Any, base: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, columns: int) -> Scores:
    """Return the scores of padded rows' completions; see `score_tree` and `split_rows`."""
    labels_BC = input_ids.masked_fill(attention_mask == 0, -100)[:, -columns:]
    with head_sees(base, slice(-columns - 1, -1)):
        outputs = model(input_ids=input_ids, attention_mask=attention_mask, shift_labels=labels_BC, fused_lm_head=True)
    return Scores(outputs.log_probs, outputs.entropy)


@contextmanager
def head_sees(base: Any, positions: Any) -> Iterator[None]:
    """Let the head have no other hidden states than those of some positions within the block.

    Args:
        base: a causal language model of transformers.
        positions: an index of the hidden states' second axis.
    """

    def select(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[:, positions]
        return output

    handle = base.base_model.register_forward_hook(select)
    try:
        yield
    finally:
        handle.remove()


class Scorer:
    """Says which completions are scored over a prefix tree: those where that costs less than padded rows.

    The first tree is checked: where its log-probabilities are not those of padded rows, there are no further trees.

    Args:
        mode: `auto` as above, `on` for trees in any case.
        model: a causal language model of transformers, without what wraps it.

    Attributes:
        reason: why there are no trees; None where there may be.
        padded: tokens of all sequences so far, with their padding.
        computed: tokens computed for them.
        flex: whether FlexAttention computes a tree's attention: on a GPU, where it can be compiled.

    Raises:
        InputError: `on`, and the model cannot take trees.
    """

    def __init__(self, mode: str, model: Any) -> None:
        self.mode = mode
        self.reason: str | None = None
        self.padded = 0
        self.computed = 0
        self.flex = False
        self._checked = False
        if reason := enable(model):
            self._give_up(reason)
        elif model.device.type == "cuda":
            without = why_not_flex(model)
            self.flex = without is None
            _logger.info("prefix_tree: attention by %s", "FlexAttention" if self.flex else f"segment, since {without}")
        self._cost = model_cost(model, model.device.type, flex=self.flex)

    def tree(
        self, model: Any, base: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], padded: int
    ) -> PrefixTree | None:
        """Return the tree of B sequences to compute; None where they are better computed as padded rows.

        Args:
            model, base: see `score_tree`.
            prompts, completions: B each; see `fold`.
            padded: tokens of the padded rows together.

        Raises:
            InputError: `on`, and the model cannot take trees.
            CheckError: `on`, and the first tree's log-probabilities are not those of padded rows.
        """
        self.padded += padded
        tree = self._worthwhile(prompts, completions, padded)
        if tree is not None and not self._checked:
            self._check(model, base, prompts, completions)
        if self.reason is not None:
            tree = None
        self.computed += padded if tree is None else len(tree.tokens)
        return tree

    def scores(
        self, model: Any, base: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, columns: int
    ) -> Scores:
        """Return the scores of padded rows' completions, computed either way; see `tree` and `split_rows`."""
        tree = self.tree(model, base, *split_rows(input_ids, attention_mask, columns), input_ids.numel())
        if tree is None:
            return score_rows(model, base, input_ids, attention_mask, columns)
        return score_tree(model, base, tree, (len(input_ids), columns), flex=self.flex)

    def facts(self) -> dict[str, Any]:
        """Say for a manifest how much was shared."""
        return {"mode": self.mode, "padded_rows": self.reason, "tokens": self.padded, "computed": self.computed}

    def _worthwhile(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], padded: int
    ) -> PrefixTree | None:
        # Rows without any completion have no gradient, but their backward pass, which several processes wait for.
        if self.reason is not None or not any(completions):
            return None
        tree, rows = fold(prompts, completions), len(prompts)
        as_rows = self._cost.of_rows(rows, padded // rows, max(map(len, completions)))
        return tree if self.mode == "on" or self._cost.of_tree(tree) <= WORTHWHILE * as_rows else None

    def _check(
        self, model: Any, base: Any, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> None:
        rows = [row for row, completion in enumerate(completions) if completion][:CHECKED_ROWS]
        ids, mask, columns = pad_rows([prompts[row] for row in rows], [completions[row] for row in rows])
        ids, mask = ids.to(base.device), mask.to(base.device)
        tree = fold(*split_rows(ids, mask, columns))
        self._checked, training = True, model.training
        model.eval()  # without dropout
        try:
            with torch.no_grad():
                folded = score_tree(model, base, tree, (len(ids), columns), flex=self.flex).log_probs
                padded = score_rows(model, base, ids, mask, columns).log_probs
        except NoTreeError as error:
            self._give_up(str(error))
            return
        finally:
            model.train(training)
        apart = float((folded - padded)[mask[:, -columns:] == 1].abs().mean())
        if not apart <= TOLERANCE.get(base.dtype, HALF_TOLERANCE):
            self._give_up(f"its log-probabilities differ by {apart:.2g} from those of padded rows", wrong=True)

    def _give_up(self, reason: str, *, wrong: bool = False) -> None:
        if self.mode == "on":
            raise (CheckError if wrong else InputError)(f"prefix_tree: on, but {reason}; set prefix_tree: auto")
        self.reason = reason
        _logger.warning("prefix_tree: prompts are computed for each completion anew, since %s", reason)
