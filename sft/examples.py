"""Training examples from traces: choose and tokenise them, and check the trainer's batches against them."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

from benchmarks.chat import prefilled_think, refuse_control_tokens, render_prompt
from rewards import CheckError, InputError
from rewards.answer import TAGS
from sft.traces import Trace

IGNORE: Final = -100  # the label of a token that is not learnt


@dataclass(frozen=True)
class Example:
    """A tokenised trace of T tokens. The last C are the completion with its end-of-turn token.

    Attributes:
        input_ids: (T,) token ids.
        completion_mask: (T,) 1 for the C tokens that are learnt, else 0.
    """

    input_ids: list[int]
    completion_mask: list[int]


def check_answers(traces: Sequence[Trace], where: str, *, keep_wrong: bool) -> None:
    """Refuse traces with no answer, or with a wrong one.

    Args:
        traces: N traces.
        where: their file, for the message.
        keep_wrong: accept wrong answers.

    Raises:
        InputError: the strict parser reads no answer from some traces, or a wrong one. The message says from how many,
            and names the first.
    """
    silent = [trace.item_id for trace in traces if not trace.answer]
    if silent:
        raise InputError(
            f"{where}: {len(silent)} of {len(traces)} traces give no answer, the first {silent[0]}; remove them by the "
            "filter step `parse`"
        )
    wrong = [trace.item_id for trace in traces if trace.answer != trace.label]
    if wrong and not keep_wrong:
        raise InputError(
            f"{where}: {len(wrong)} of {len(traces)} traces give a wrong answer, the first {wrong[0]}; remove them by "
            "the filter step `label`, or set keep_wrong: true"
        )


def draw_traces(traces: Sequence[Trace], fraction: float, seed: int) -> list[Trace]:
    """Draw a share of the traces at random, at least one, and keep their order.

    Args:
        traces: N traces.
        fraction: in (0, 1]; round(fraction × N) are drawn.
        seed: seed of the draw. A larger share drawn with the same seed contains the smaller one.
    """
    order = random.Random(seed).sample(range(len(traces)), len(traces))
    return [traces[row] for row in sorted(order[: max(1, round(fraction * len(traces)))])]


def without_reasoning(trace: Trace) -> Trace:
    """Return the trace with an empty think block and the true label, as in the paper's ablation."""
    return replace(trace, completion=f"<think></think><answer>{trace.label}</answer>", answer=trace.label)


def tokenize_traces(
    tokenizer: Any, traces: Sequence[Trace], max_length: int, places: Mapping[str, str] | None = None
) -> list[Example]:
    """Tokenise traces; see `tokenize_trace`.

    Args:
        tokenizer: the model's tokenizer.
        traces: N traces.
        max_length: most tokens that an example may have.
        places: by item id, the file and row of a trace, for errors.

    Returns:
        N examples.

    Raises:
        InputError: a trace cannot be learnt, or some are longer than `max_length`. The message says how many, and names
            the first.
    """
    examples = []
    for trace in traces:
        try:
            examples.append(tokenize_trace(tokenizer, trace))
        except InputError as error:
            place = f"{places[trace.item_id]}: " if places else ""
            raise InputError(f"{place}{trace.item_id}: {str(error).removeprefix(f'{trace.item_id}: ')}") from None
    too_long = [row for row, example in enumerate(examples) if len(example.input_ids) > max_length]
    if too_long:
        longest = max(len(examples[row].input_ids) for row in too_long)
        raise InputError(
            f"{traces[too_long[0]].item_id}: {len(too_long)} of {len(traces)} traces have more than max_length "
            f"{max_length} tokens (the longest {longest}), and their ends would not be learnt; raise max_length, or "
            "filter by the step `tokens`"
        )
    return examples


def tokenize_trace(tokenizer: Any, trace: Trace) -> Example:
    """Tokenise a trace as generation would see it: the ids of the prompt, of the completion, and the end of turn.

    The chat template renders the prompt with its generation prompt. Where that opens the think block, the completion
    continues inside it. The template does not render the completion: many templates drop the reasoning of past turns.

    Raises:
        InputError: the example does not have exactly one pair of each tag, contains a control token of the chat, or
            does not decode to prompt + completion; or the chat template refuses the prompt.
    """
    prompt = render_prompt(tokenizer, trace.prompt)
    refuse_control_tokens(tokenizer, trace.completion)
    prefill = prefilled_think(prompt)
    completion = trace.completion
    if prefill:
        completion = completion.lstrip().removeprefix(prefill.strip()).lstrip()
    for tag in TAGS:
        if (found := (prefill + completion).count(tag)) != 1:
            raise InputError(f"{trace.item_id}: {found} times {tag} in its example, not once; mend or remove the trace")
    for text in (prompt, completion):
        if not _is_unicode(text):
            raise InputError(f"{trace.item_id}: holds a lone surrogate, which no tokenizer reads; remove the trace")
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    for name, text, ids in (("prompt", prompt, prompt_ids), ("completion", completion, completion_ids)):
        if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
            raise InputError(f"{trace.item_id}: its {name} does not survive the tokenizer; mend or remove the trace")
    return Example(
        [*prompt_ids, *completion_ids, tokenizer.eos_token_id], [0] * len(prompt_ids) + [1] * (len(completion_ids) + 1)
    )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else True


def check_labels(trainer: Any, tokenizer: Any, examples: Sequence[Example]) -> None:
    """Check that the trainer's batches learn each completion, its end of turn, and nothing else.

    Raises:
        CheckError: a batch has no label, learns a prompt token, or does not learn the end of turn.
    """
    dataset = trainer.train_dataset
    if trainer.args.packing:
        learnt_runs = Counter(run for row in dataset["labels"] for run in _learnt_runs(row))
        wanted_runs = Counter(tuple(one.input_ids[one.completion_mask.index(1) :]) for one in examples)
        if learnt_runs != wanted_runs:
            missing = (wanted_runs - learnt_runs).total()
            raise CheckError(
                f"packing: {missing} of {len(examples)} completions are not learnt as they are; set packing: false"
            )
        return
    if len(dataset) != len(examples):
        raise CheckError(f"traces: {len(examples)} given, but the trainer kept {len(dataset)}; raise max_length")
    for row, example in enumerate(examples):
        batch = trainer.data_collator([dataset[row]])
        labels = batch["labels"][0].tolist()
        learnt = [token for token in labels if token != IGNORE]
        start = example.completion_mask.index(1)
        if not learnt:
            raise CheckError(f"row {row + 1}: no token is learnt; the completion mask is empty")
        if learnt[-1] != tokenizer.eos_token_id:
            raise CheckError(f"row {row + 1}: the end of turn {tokenizer.eos_token!r} is not learnt; check eos_token")
        if learnt != example.input_ids[start:]:
            raise CheckError(
                f"row {row + 1}: {len(learnt)} tokens are learnt, not the completion's {len(labels) - start}"
            )
        if batch["input_ids"][0].tolist() != example.input_ids:
            raise CheckError(f"row {row + 1}: the trainer's tokens are not prompt + completion; do not shuffle_dataset")


def _learnt_runs(labels: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the runs of consecutive tokens that are learnt."""
    return [tuple(run) for learnt, run in groupby(labels, lambda label: label != IGNORE) if learnt]


def dataset_of(examples: Sequence[Example]) -> Any:
    """Return examples as a data set for TRL's SFTTrainer."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "completion_mask": [example.completion_mask for example in examples],
        }
    )
