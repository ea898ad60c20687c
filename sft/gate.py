"""The gate after SFT: GRPO does not start from a student that does not end its turn or gives no answer."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.chat import prefilled_think, render_prompt
from rewards import CheckError, Status, parse_answer
from sft.traces import Trace

WORST: Final = 5  # failing completions that a result keeps
_SHOWN: Final = 120  # characters kept of a completion's end


@dataclass(frozen=True)
class GateResult:
    """What the student wrote on training prompts.

    Attributes:
        prompts: number of prompts asked.
        share: share of completions that end their turn and give an answer by the strict parser.
        terminated: share of completions that end their turn.
        worst: `item_id, status, terminated, end` of up to five completions that fail, the worst first.
    """

    prompts: int
    share: float
    terminated: float
    worst: list[dict[str, Any]]

    def require(self, least: float) -> None:
        """Raise a `CheckError` that shows the worst completions if the share is below `least`."""
        if self.share < least:
            shown = "; ".join(f"{one['item_id']} {one['status']} …{one['end']!r}" for one in self.worst)
            raise CheckError(
                f"gate: {self.share:.0%} of {self.prompts} completions on training prompts end and give an answer, "
                f"fewer than {least:.0%}; train longer or on more traces. Worst: {shown}"
            )


def run_gate(
    model: Any, tokenizer: Any, traces: Sequence[Trace], *, n: int, max_new_tokens: int, seed: int, batch: int = 16
) -> GateResult:
    """Ask a trained student training prompts, decode greedily, and read the completions as evaluation does.

    Args:
        model: a causal language model, with its adapter.
        tokenizer: the model's tokenizer.
        traces: the training traces, from which prompts are drawn.
        n: number of prompts asked, or all if there are fewer.
        max_new_tokens: longest completion; one that is cut there has not ended its turn.
        seed: seed of the draw.
        batch: prompts at a time.
    """
    drawn = random.Random(seed).sample(list(traces), min(n, len(traces)))
    drawn.sort(key=lambda trace: len(trace.prompt[-1]["content"]))  # similar lengths in a batch need little padding
    ends = {tokenizer.eos_token_id}
    configured = model.generation_config.eos_token_id
    ends.update(configured if isinstance(configured, list) else [] if configured is None else [configured])
    read: list[dict[str, Any]] = []
    with _greedy(model, tokenizer, ends, max_new_tokens):
        for start in range(0, len(drawn), batch):
            asked = drawn[start : start + batch]
            prompts = [render_prompt(tokenizer, trace.prompt) for trace in asked]
            rows = _write(model, tokenizer, prompts)
            read += [_read(tokenizer, *one, ends) for one in zip(asked, prompts, rows, strict=True)]
    failed = [one for one in read if not (one["terminated"] and one["status"] == str(Status.ANSWERED))]
    failed.sort(key=lambda one: (one["terminated"], one["status"] == str(Status.ANSWERED), one["item_id"]))
    share = (len(read) - len(failed)) / len(read)
    return GateResult(len(read), share, sum(one["terminated"] for one in read) / len(read), failed[:WORST])


@contextmanager
def _greedy(model: Any, tokenizer: Any, ends: set[int], max_new_tokens: int) -> Iterator[None]:
    """Set a model to greedy decoding within the block, as evaluation does."""
    from transformers import GenerationConfig

    was_training, own = model.training, model.generation_config
    model.eval()
    # A configuration of its own: generate() would fill gaps from the model's files, such as a repetition penalty.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(ends),
        pad_token_id=_pad(tokenizer),
        use_cache=True,
    )
    try:
        yield
    finally:
        model.train(was_training)
        model.generation_config = own


def _pad(tokenizer: Any) -> int:
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def _write(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Complete B prompts; return the new tokens of each."""
    import torch

    ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    width = max(map(len, ids))
    input_ids = torch.tensor([[_pad(tokenizer)] * (width - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    with torch.inference_mode():
        output = model.generate(input_ids=input_ids, attention_mask=mask, generation_config=model.generation_config)
    rows: list[list[int]] = output[:, width:].tolist()
    return rows


def _read(tokenizer: Any, trace: Trace, prompt: str, row: list[int], ends: set[int]) -> dict[str, Any]:
    at = next((position for position, token in enumerate(row) if token in ends), None)
    text = tokenizer.decode(row[:at], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    answer = parse_answer(prefilled_think(prompt) + text)
    return {
        "item_id": trace.item_id, "status": str(answer.status), "terminated": at is not None, "end": text[-_SHOWN:],
    }  # fmt: skip
