"""Stage one's trainer: TRL's, which computes once what the prompts of a batch begin with alike.

This module loads TRL, so that others import it within functions only.
"""

from typing import Any, Final

import torch
import trl

from sft.tree_attention import Scorer, head_sees, tree_inputs, unwrapped

IGNORED: Final = -100  # the label of a token that is not learnt


class SFTTrainer(trl.SFTTrainer):  # type: ignore[misc]
    """TRL's `SFTTrainer` over prefix trees. Its metric `num_tokens` counts the tokens that were computed.

    Args:
        prefix_tree: `auto`, `on` or `off` (see `sft.tree_attention.Scorer`); `off` leaves all to TRL.
        **arguments: of TRL's trainer.

    Attributes:
        scorer: says what is computed as a tree; None where nothing is.
    """

    def __init__(self, *, prefix_tree: str = "off", **arguments: Any) -> None:
        super().__init__(**arguments)
        self.scorer = None if prefix_tree == "off" else Scorer(prefix_tree, unwrapped(self.accelerator, self.model))

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss of a batch, computed over its tree where that costs less."""
        others = self.aux_loss_enabled or self.compute_loss_func is not None or self.label_smoother is not None
        rows = None if others or return_outputs or not model.training else learnt_rows(inputs)
        if self.scorer is None or rows is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        base = unwrapped(self.accelerator, model)
        with self.compute_loss_context_manager():
            tree = self.scorer.tree(model, base, *rows, inputs["input_ids"].numel())
        if tree is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        device = inputs["input_ids"].device
        with head_sees(base, torch.tensor(tree.scored, device=device)):
            return super().compute_loss(
                model, tree_inputs(tree, device, flex=self.scorer.flex), return_outputs, num_items_in_batch
            )


def learnt_rows(inputs: Any) -> tuple[list[list[int]], list[list[int]]] | None:
    """Return the prompts and completions of a batch, which are learnt to their end.

    Args:
        inputs: `input_ids`, `attention_mask` and `labels`, each (B, L), with the padding behind.

    Returns:
        B prompts and B completions; None where a batch is anything else, such as packed.
    """
    if set(inputs) - {"use_cache"} != {"input_ids", "attention_mask", "labels"}:
        return None
    prompts, completions = [], []
    lists = (inputs[name].tolist() for name in ("input_ids", "attention_mask", "labels"))
    for ids, mask, labels in zip(*lists, strict=True):
        length = sum(mask)
        learnt = sum(label != IGNORED for label in labels)
        start = length - learnt
        if start < 1 or mask[:length] != [1] * length or labels[start:length] != ids[start:length]:
            return None
        prompts.append(ids[:start])
        completions.append(ids[start:length])
    return prompts, completions
