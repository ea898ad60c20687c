"""Reward functions with TRL's signature: a batch of completions, dataset columns by keyword, a score or None each.

None means that the reward cannot judge a completion (its generation failed). It is never a score of 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from rewards.answer import Answer, Status, parse_answer
from rewards.errors import InputError
from rewards.labels import LABELS, Label, as_label

# A completion as TRL hands it over: plain text, a list of messages, or None where generation failed.
Completion: TypeAlias = str | Sequence[Mapping[str, Any]] | None

# Training rows of PerturbQA's official split, all four lines (`synthpert data stats`).
OFFICIAL_TRAIN_COUNTS: Mapping[Label, int] = {
    Label.UP: 30_790,
    Label.DOWN: 37_552,
    Label.NONE: 430_096,
}


def completion_text(completion: Completion) -> str | None:
    """Return the text of a completion, plain or as messages (the last message's content)."""
    if completion is None or isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    if content is not None and not isinstance(content, str):
        raise InputError(f"completion: content must be text, not {type(content).__name__}; pass text-only messages")
    return content


def _answers(completions: Sequence[Completion]) -> list[Answer]:
    return [parse_answer(completion_text(completion)) for completion in completions]


def _labels(label: Sequence[object], n: int) -> list[Label]:
    if len(label) != n:
        raise InputError(f"label: {len(label)} labels for {n} completions; pass one each")
    return [as_label(value, f"label, row {row}") for row, value in enumerate(label)]


def accuracy(completions: Sequence[Completion], label: Sequence[object], **columns: Any) -> list[float | None]:
    """Score 1 for the right label and 0 for a wrong one or none.

    Args:
        completions: B completions, each text, messages, or None.
        label: B true labels, spelt as in `rewards.LABELS`.
        **columns: other dataset columns; not used.

    Returns:
        B scores in {0.0, 1.0}; None where the completion is None.

    Raises:
        InputError: a label is unknown, or there is not one per completion.
    """
    truth = _labels(label, len(completions))
    return [
        None if answer.status is Status.ERROR else float(answer.label is true)
        for answer, true in zip(_answers(completions), truth, strict=True)
    ]


class BalancedAccuracy:
    """Score a right label by its inverse frequency in training, so that guessing the majority pays no more.

    The weight of class c is N / (3 n_c): over the training distribution a perfect policy earns 1 on average, and
    each of the three constant answers earns 1/3 (scikit-learn's `class_weight="balanced"`).

    GRPO's normalisation by the standard deviation within a group cancels this weight, since a group shares its
    label: train with `scale_rewards: none` or `batch`.

    Args:
        train_counts: how often each label occurs among the training rows; all three above 0.

    Raises:
        InputError: a label is missing, unknown, or has no training rows.
    """

    __name__ = "balanced_accuracy"

    def __init__(self, train_counts: Mapping[Any, int]) -> None:
        counts = {as_label(name, "train_counts"): int(count) for name, count in train_counts.items()}
        for label in LABELS:
            if counts.get(label, 0) <= 0:
                raise InputError(f"train_counts: no training row is {str(label)!r}; balanced_accuracy needs all labels")
        total = sum(counts.values())
        self.weight: dict[Label, float] = {label: total / (len(LABELS) * counts[label]) for label in LABELS}

    def __call__(
        self, completions: Sequence[Completion], label: Sequence[object], **columns: Any
    ) -> list[float | None]:
        """Score B completions; see `accuracy` for the arguments. Range: 0 to the rarest class's weight."""
        truth = _labels(label, len(completions))
        right = accuracy(completions, truth)
        return [None if score is None else score * self.weight[true] for score, true in zip(right, truth, strict=True)]


balanced_accuracy = BalancedAccuracy(OFFICIAL_TRAIN_COUNTS)


def format(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
    """Score 1 for a completion that the strict parser reads a label from, right or wrong, and 0 for any other.

    Args:
        completions: B completions, each text, messages, or None.
        **columns: dataset columns; not used.

    Returns:
        B scores in {0.0, 1.0}; None where the completion is None.
    """
    return [
        None if answer.status is Status.ERROR else float(answer.status is Status.ANSWERED)
        for answer in _answers(completions)
    ]
