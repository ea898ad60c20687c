"""Each batch that GRPO's policy generates, with its rewards: stored as rollouts, and summed up for the step's log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.files import write_text
from rewards import LABELS, Answer, Status, completion_text, parse_answer
from rewards.batch import prompt_text
from rewards.composition import Component
from rl.rollout_files import COMPONENT, ITEM, write_rollouts

HELD_OUT: Final = "held-out"  # folder of the answers to held-out prompts


@dataclass
class Recorder:
    """Stores each generated batch in the run folder; one per process.

    Attributes:
        run: the run folder.
        components: the rewards with their weights.
        prefix: the opening think tag, if the chat template ends the prompt with one; else empty. It is put before each
            completion, as it is for the rewards.
        rank: rank of this process.
    """

    run: Path
    components: Sequence[Component]
    prefix: str = ""
    rank: int = 0
    _last: tuple[int, int] = (0, -1)  # step and number of the last batch written
    _pending: dict[str, Any] | None = field(default=None, repr=False)
    _cut_off: int = 0
    _held_out: tuple[int, list[dict[str, Any]]] = field(default=(0, []), repr=False)
    _held_out_batches: tuple[int, int] = (-1, -1)  # step and number of the last one written

    def batch(
        self,
        step: int,
        inputs: Sequence[Mapping[str, Any]],
        prompts: Sequence[Any],
        completions: Sequence[Any],
        tokens: Sequence[int],
        scores: Sequence[Sequence[float]],
        group_size: int,
    ) -> None:
        """Keep a batch of B scored completions until `store` writes it with its advantages.

        Args:
            step: the optimizer step that the batch is for, from 1.
            inputs: B dataset rows.
            prompts, completions: B each, as TRL hands them over.
            tokens: B completion lengths in tokens.
            scores: B rows of one score per component; NaN where a component cannot judge.
            group_size: completions per group; the completions of a group follow each other.
        """
        number = self._last[1] + 1 if self._last[0] == step else 0
        self._last = (step, number)
        texts = [self._text(completion) for completion in completions]
        answers = [parse_answer(text) for text in texts]
        columns: dict[str, Any] = {
            "step": [step] * len(texts),
            "group": [f"{step}.{number}.{self.rank}.{at // group_size}" for at in range(len(texts))],
            **{name: [row.get(name) for row in inputs] for name in ITEM},
            "prompt": [prompt_text(prompt) for prompt in prompts],
            "completion": texts,
            "answer": [_label(answer) for answer in answers],
            "status": [str(answer.status) for answer in answers],
            "completion_tokens": list(tokens),
        }
        for at, component in enumerate(self.components):
            columns[COMPONENT + component.name] = [_known(row[at]) for row in scores]
        columns["total_reward"] = [_total(self.components, row) for row in scores]
        self._pending = columns

    def store(self, advantages: Sequence[float | None]) -> Path | None:
        """Write the batch that `batch` kept, with its B advantages. Without one, write nothing and return None.

        Advantages are None where the rewards could not be computed.
        """
        if self._pending is None:
            return None
        columns, self._pending = self._pending, None
        columns["advantage"] = list(advantages)
        names = [component.name for component in self.components]
        return write_rollouts(self.run, *self._last, self.rank, columns, names)

    def held_out(
        self, step: int, inputs: Sequence[Mapping[str, Any]], completions: Sequence[Any], group_size: int
    ) -> None:
        """Keep the sampled answers to a batch of held-out prompts until `store_held_out` writes them.

        Args:
            step: the steps that the policy has learnt for, from 0.
            inputs: B dataset rows.
            completions: B, as TRL hands them over.
            group_size: samples of a prompt; they follow each other.
        """
        labels = [_label(answer) for answer in self.read(completions)]
        self._held_out = (
            step,
            [
                {
                    "item_id": inputs[at]["item_id"],
                    "label": inputs[at]["label"],
                    "sampled": labels[at : at + group_size],
                }
                for at in range(0, len(labels), group_size)
            ],
        )

    def store_held_out(self, greedy: Sequence[Answer]) -> Path:
        """Write the answers that `held_out` kept, with the greedy answer to each of the prompts."""
        step, rows = self._held_out
        rows = [{**row, "greedy": _label(answer)} for row, answer in zip(rows, greedy, strict=True)]
        number = self._held_out_batches[1] + 1 if self._held_out_batches[0] == step else 0
        self._held_out_batches = (step, number)
        path = self.run / HELD_OUT / f"step-{step:07d}-{number}-rank{self.rank}.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        return path

    def read(self, completions: Sequence[Any]) -> list[Answer]:
        """Parse B completions as the rewards see them."""
        return [parse_answer(self._text(completion)) for completion in completions]

    def newly_cut_off(self) -> int:
        """Return how many scores the time limits of rewards and gates have cut off since the last call."""
        now = sum(component.cut_off for component in self.components)
        new, self._cut_off = now - self._cut_off, now
        return new

    def _text(self, completion: Any) -> str | None:
        text = completion_text(completion)
        return None if text is None else self.prefix + text


def batch_metrics(
    answers: Sequence[Answer], labels: Sequence[Any], totals: Sequence[float | None], group_size: int, cut_off: int
) -> dict[str, float]:
    """Sum up a batch for the step's log.

    Args:
        answers: B parsed completions.
        labels: B true labels; None for a prompt without a label.
        totals: B total rewards; None for a completion that no component can judge.
        group_size: completions per group.
        cut_off: number of scores that a time limit cut off.

    Returns:
        - `answered_accuracy`: accuracy over the labelled rows. A completion without an answer counts as wrong; a failed
          generation does not count.
        - `answer/LABEL`: share of each label among the answers.
        - `status/STATUS`: share of each status among the completions.
        - `unscorable`: share of the completions that could not be judged or were cut off.
        - `zero_variance_groups`: share of the groups whose completions all have the same reward. Such a group has no
          advantages, so it does not change the policy.
    """
    n = len(answers)
    given = [answer.label for answer in answers if answer.label is not None]
    labelled = [
        (answer.label, label)
        for answer, label in zip(answers, labels, strict=True)
        if label and answer.status is not Status.ERROR
    ]
    metrics = {f"status/{status}": sum(answer.status is status for answer in answers) / n for status in Status}
    if given:
        metrics |= {f"answer/{label}": given.count(label) / len(given) for label in LABELS}
    if labelled:
        metrics["answered_accuracy"] = sum(answer == label for answer, label in labelled) / len(labelled)
    metrics["unscorable"] = min(sum(total is None for total in totals) + cut_off, n) / n
    groups = [totals[start : start + group_size] for start in range(0, n, group_size)]
    judged = [[one for one in group if one is not None] for group in groups]
    judged = [group for group in judged if len(group) >= 2]
    if judged:
        metrics["zero_variance_groups"] = sum(max(group) - min(group) <= 1e-6 for group in judged) / len(judged)
    return metrics


def _label(answer: Answer) -> str | None:
    return None if answer.label is None else str(answer.label)


def totals_of(components: Sequence[Component], scores: Sequence[Sequence[float]]) -> list[float | None]:
    """Return the weighted sums of B rows of scores; None where no component judges."""
    return [_total(components, row) for row in scores]


def _total(components: Sequence[Component], row: Sequence[float]) -> float | None:
    parts = [c.weight * value for c, value in zip(components, row, strict=True) if value == value]
    return sum(parts) if parts else None


def _known(value: float) -> float | None:
    return None if value != value else float(value)
