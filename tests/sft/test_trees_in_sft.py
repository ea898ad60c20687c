"""SFT over prefix trees gives TRL's losses, tiny_policy.gradients and metrics."""

from pathlib import Path
from typing import Any

import pytest
from lazily import Lazy

torch, tiny_policy, trainers = Lazy("torch"), Lazy("tiny_policy"), Lazy("sft.trainer")

EXACT = 1e-9


def make_batch() -> dict[str, Any]:
    """Rows of prompts that begin alike, with the padding behind, as TRL's collator makes them."""
    rollouts = tiny_policy.make_rollouts(4, 1)
    rollouts["completion_mask"][1, 0] = 1
    rows = []
    for row in range(4):
        prompt = rollouts["prompt_ids"][row][rollouts["prompt_mask"][row] == 1].tolist()
        completion = rollouts["completion_ids"][row][rollouts["completion_mask"][row] == 1].tolist()
        rows.append((prompt, completion))
    width = max(len(prompt) + len(completion) for prompt, completion in rows)

    def padded(values: list[int], padding: int) -> list[int]:
        return values + [padding] * (width - len(values))

    return {
        "input_ids": torch.tensor([padded(prompt + completion, tiny_policy.PAD) for prompt, completion in rows]),
        "attention_mask": torch.tensor([padded([1] * len(prompt + completion), 0) for prompt, completion in rows]),
        "labels": torch.tensor([padded([-100] * len(prompt) + completion, -100) for prompt, completion in rows]),
    }


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from datasets import Dataset
    from trl import SFTConfig

    monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", tiny_policy.ExactHead)
    args = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
        completion_only_loss=True,
    )  # fmt: skip
    rows = {"input_ids": [[2, 3, 4]] * 4, "completion_mask": [[0, 1, 1]] * 4}
    made = trainers.SFTTrainer(
        prefix_tree="on", model=tiny_policy.make_policy(), args=args, train_dataset=Dataset.from_dict(rows),
        processing_class=tiny_policy.make_tokenizer(),
    )  # fmt: skip
    made.model.train()
    return made


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
@pytest.mark.parametrize("items", [None, 7])
def test_losses_gradients_and_metrics_are_trl_s(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, loss_type: str, items: int | None
) -> None:
    monkeypatch.setattr(trainer.args, "loss_type", loss_type)
    number = None if items is None else torch.tensor(items)
    results = []
    for scorer in (trainer.scorer, None):
        monkeypatch.setattr(trainer, "scorer", scorer)
        loss = trainer.compute_loss(trainer.model, make_batch(), num_items_in_batch=number)
        results.append((loss.detach(), tiny_policy.gradients(trainer.model, loss)))
    monkeypatch.undo()
    (ours, our_gradient), (theirs, their_gradient) = results
    assert abs(ours - theirs) < EXACT and their_gradient.norm() > 1e-3
    assert (our_gradient - their_gradient).norm() < EXACT * their_gradient.norm()
    assert trainer.scorer.computed < trainer.scorer.padded
    for name in ("entropy", "mean_token_accuracy"):
        (own, other) = trainer._metrics["train"][name]
        assert own == pytest.approx(other, abs=EXACT)


@pytest.mark.parametrize("change", ["packed", "learnt in the middle", "no prompt", "padding in front"])
def test_other_batches_are_left_to_trl(change: str) -> None:
    batch = make_batch()
    assert trainers.learnt_rows(batch) is not None
    if change == "packed":
        batch = {"input_ids": batch["input_ids"], "position_ids": batch["labels"], "labels": batch["labels"]}
    elif change == "learnt in the middle":
        batch["labels"][0] = -100
        batch["labels"][0, 1] = batch["input_ids"][0, 1]
    elif change == "no prompt":
        batch["labels"] = torch.where(batch["attention_mask"] == 1, batch["input_ids"], -100)
    else:
        batch["attention_mask"][0, 0] = 0
    assert trainers.learnt_rows(batch) is None


def test_prompts_and_completions_are_parted_at_the_first_learnt_token() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8], [5, 9, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, 7, 8], [-100, 9, -100, -100]]),
    }
    assert trainers.learnt_rows(batch) == ([[5, 6], [5]], [[7, 8], [9]])
