"""Packing and grouping by length change how examples are batched, and nothing about the loss per token."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from sft.examples import IGNORE, check_labels, dataset_of, tokenize_trace
from sft.teacher.template import generate
from sft.training import load_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Any:
    """A tiny random model and its tokenizer."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval(), load_tokenizer(tiny_model)


def token_losses(tiny: Any, out: Path, **keys: Any) -> tuple[float, int, int]:
    """Return the summed loss over all learnt tokens of one epoch of batches, their number, and all places in them."""
    import torch
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = tiny
    corpus = open_corpus("sample")
    traces = generate(corpus.train.head(24), corpus, PromptConfig(evidence=5), seed=0)
    examples = [tokenize_trace(tokenizer, trace) for trace in traces]
    args = SFTConfig(
        output_dir=str(out), max_length=512, completion_only_loss=True, use_cpu=True, bf16=False, report_to=[],
        per_device_train_batch_size=2, gradient_checkpointing=False, **keys,
    )  # fmt: skip
    trainer = SFTTrainer(model=model, args=args, train_dataset=dataset_of(examples), processing_class=tokenizer)
    check_labels(trainer, tokenizer, examples)
    total, count, places = 0.0, 0, 0
    for batch in trainer.get_train_dataloader():
        with torch.no_grad():
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            logits = model(**inputs).logits[:, :-1].float()
        labels = batch["labels"][:, 1:]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORE
        )
        total, count = total + float(loss), count + int((labels != IGNORE).sum())
        places += batch["input_ids"].numel()
    return total, count, places


@pytest.mark.parametrize(
    "keys",
    [
        {"packing": True},
        {"train_sampling_strategy": "group_by_length"},
    ],
    ids=str,
)
def test_loss_per_token_is_that_of_plain_batches(keys: dict[str, Any], tiny: Any, tmp_path: Path) -> None:
    plain, n_plain, places_plain = token_losses(tiny, tmp_path / "plain")
    loss, n, places = token_losses(tiny, tmp_path / "other", **keys)
    assert places < places_plain  # other batches, or the test would show nothing
    assert n == n_plain
    assert loss / n == pytest.approx(plain / n_plain, abs=1e-5)
