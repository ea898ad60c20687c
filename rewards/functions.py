"""Rewards for the answer. Each takes a batch of completions and dataset columns, and returns a score or None for each.

The signature is TRL's. None means that the reward cannot judge a completion: its generation failed, or the verifier
does not know its item. None is never a score of 0. A completion without an answer earns the lowest score. A verifier
(`rewards/verifiers.py`) says what an answer is checked against. In the docstrings, p(a) is the verifier's probability
of the label answered; for a hard label it is 1 or 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rewards.answer import TAGS, Answer, Status, exact_label, split_confidence
from rewards.batch import Completion, Scores, read_answers, read_texts
from rewards.errors import InputError
from rewards.labels import LABELS, Label, as_label
from rewards.reward import Reward
from rewards.verifiers import INDEX, LabelTable, MixedRates, Target, Verifier, hard

__all__ = [
    "Accuracy",
    "BalancedAccuracy",
    "Confidence",
    "Direction",
    "Format",
    "GradedFormat",
    "Margin",
    "accuracy",
    "balanced_accuracy",
    "confidence",
    "direction",
    "format",
    "graded_format",
]

# Training rows of PerturbQA's official split, all four lines (`synthpert data stats`).
OFFICIAL_TRAIN_COUNTS: Mapping[Label, int] = {
    Label.UP: 30_790,
    Label.DOWN: 37_552,
    Label.NONE: 430_096,
}


def _judge(
    completions: Sequence[Completion],
    targets: Sequence[Target],
    score: Callable[[Answer, Label, tuple[float, float, float]], float],
    no_answer: float,
) -> Scores:
    """Score each answer; `no_answer` if it is malformed or cut off, None if the completion or its target is missing."""
    scores: Scores = []
    for answer, target in zip(read_answers(completions), targets, strict=True):
        if answer is None or target is None:
            scores.append(None)
        elif answer.label is None:
            scores.append(no_answer)
        else:
            scores.append(score(answer, answer.label, target))
    return scores


@dataclass(frozen=True)
class Accuracy(Reward):
    """Score p(a): with labels 1 for the right one and 0 for a wrong one or none; a probability under a soft verifier.

    Range: 0 to 1. Source: with labels, the accuracy reward of DeepSeek-R1 (arXiv 2501.12948); with a soft verifier,
    rbio's soft verification, which pays the world model's probability (Istrate et al., 2025).

    Args:
        verifier: what answers are checked against; labels by default.
    """

    __name__ = "accuracy"
    verifier: Verifier = hard
    range = (0.0, 1.0)

    def __call__(
        self, completions: Sequence[Completion], label: Sequence[object] | None = None, **columns: Any
    ) -> Scores:
        """Score B completions.

        Args:
            completions: B completions, each text, messages, or None.
            label: B true labels, spelt as in `rewards.LABELS`; a soft verifier needs none.
            **columns: dataset columns of B values. A verifier with a table reads `item_id`; others are ignored.

        Returns:
            B scores. A score is None if the completion is None or a soft verifier does not know the item.

        Raises:
            InputError: a label is unknown, or there is not one per completion.
        """
        targets = self.verifier.targets({**columns, "label": label}, len(completions))
        return _judge(completions, targets, lambda answer, given, p: p[INDEX[given]], 0.0)


class BalancedAccuracy(Reward):
    """Score p(a) times the weight of the label answered: rare labels weigh more.

    The weight of class c is N / (3 n_c), as in scikit-learn's `class_weight="balanced"`. Over the training distribution
    a perfect policy earns 1 on average, and each of the three constant answers earns 1/3. Range: 0 to the rarest
    class's weight.

    Train with `scale_rewards: none` or `batch`. With `group`, GRPO divides by the standard deviation within a group,
    which cancels the weight, because the completions of a group share their label.

    Args:
        train_counts: how often each label occurs among the training rows; all three above 0.
        verifier: what answers are checked against; labels by default.

    Raises:
        InputError: a label is missing, unknown, or has no training rows.
    """

    __name__ = "balanced_accuracy"
    may_gate = False
    weighs_groups = True

    def __init__(self, train_counts: Mapping[Any, int], verifier: Verifier = hard) -> None:
        counts = {as_label(name, "train_counts"): int(count) for name, count in train_counts.items()}
        for label in LABELS:
            if counts.get(label, 0) <= 0:
                raise InputError(f"train_counts: no training row is {str(label)!r}; balanced_accuracy needs all labels")
        total = sum(counts.values())
        self.verifier = verifier
        self.weight: dict[Label, float] = {label: total / (len(LABELS) * counts[label]) for label in LABELS}

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest score."""
        return 0.0, max(self.weight.values())

    def __call__(
        self, completions: Sequence[Completion], label: Sequence[object] | None = None, **columns: Any
    ) -> Scores:
        """Score B completions; see `Accuracy` for arguments, None and errors."""
        targets = self.verifier.targets({**columns, "label": label}, len(completions))
        return _judge(completions, targets, lambda answer, given, p: p[INDEX[given]] * self.weight[given], 0.0)


@dataclass(frozen=True)
class Margin(Reward):
    """Score p(a) - r(a), where r(a) is how often the item's gene shows the label: pays for what the rate does not know.

    A policy that knows only the gene's rates earns 0 on average, whatever it answers, because the mean of p(a) over the
    gene's prompts is r(a). This needs rates from the same prompts, the item itself included. `gene_rate` is made that
    way here; under a soft verifier it leaves the item out. If a mixed verifier uses its table, r is the table's mean
    for the gene (`rewards.verifiers.gene_means`). On the sample that ships the mean is not 0: its rows were chosen so
    that each gene shows every label. No answer earns -1, the least that a wrong one can. Range: -1 to 1. Source: ours;
    the advantage of an answer over its gene's base rate, which PerturbQA's per-gene AUROC asks for (Wu et al., ICLR
    2025).

    The best answer is the label whose probability is furthest above its rate. It need not be the likeliest label:
    alone, this reward raises per-gene AUROC and ruins accuracy. Put `accuracy` beside it. `synthpert rewards check`
    shows what a policy that knows the neighbours earns with either answer.

    Args:
        rates: label rates by item among the prompts.
        verifier: what answers are checked against; labels by default.
    """

    __name__ = "margin"
    may_gate = False
    rates: LabelTable | MixedRates
    verifier: Verifier = hard
    range = (-1.0, 1.0)

    def __call__(
        self, completions: Sequence[Completion], label: Sequence[object] | None = None, **columns: Any
    ) -> Scores:
        """Score B completions; see `Accuracy`. Needs `item_id` too; None for an item without rates."""
        n = len(completions)
        columns = {**columns, "label": label}
        targets = self.verifier.targets(columns, n)
        gains: list[Target] = [
            None if p is None or r is None else (p[0] - r[0], p[1] - r[1], p[2] - r[2])
            for p, r in zip(targets, self.rates.targets(columns, n), strict=True)
        ]
        return _judge(completions, gains, lambda answer, given, gain: gain[INDEX[given]], -1.0)


@dataclass(frozen=True)
class Direction(Reward):
    """Score p(a) / (p_up + p_down): credit for the direction alone.

    The score is None if the true label is `not differentially expressed`, because there is no direction to judge. That
    label as an answer, or no answer, earns 0. Range: 0 to 1. Source: PerturbQA's `dir` task as a reward.

    Args:
        verifier: what answers are checked against; labels by default.
    """

    __name__ = "direction"
    verifier: Verifier = hard
    range = (0.0, 1.0)

    def __call__(
        self, completions: Sequence[Completion], label: Sequence[object] | None = None, **columns: Any
    ) -> Scores:
        """Score B completions; see `Accuracy`."""
        directions: list[Target] = []
        for p in self.verifier.targets({**columns, "label": label}, len(completions)):
            changed = 0.0 if p is None else p[0] + p[1]
            directions.append((p[0] / changed, p[1] / changed, 0.0) if p is not None and changed > 0 else None)
        return _judge(completions, directions, lambda answer, given, p: p[INDEX[given]], 0.0)


RULES: Final = ("brier", "log")
_LEAST: Final = 0.01  # confidences closer to 0 or 1 than this count as this much under the log rule
_SCALE: Final = math.log((1 - _LEAST) / _LEAST)


@dataclass(frozen=True)
class Confidence(Reward):
    """Score whether the answer is right, and how well its stated confidence q fits, by a proper scoring rule.

    `brier`: right - (right - q)^2. `log`: right + ln(q if right else 1 - q) / ln(99), with q limited to 0.01 to 0.99.
    Without the first term, an answer that is surely wrong, stated with confidence 0, would earn most. With it, q = p(a)
    earns most, and a higher p(a) earns more (for `log` down to p(a) = 0.01, which sets its scale). No answer, or one
    without `<confidence>`, earns the lowest score. Range: -1 to 1 (`brier`), ln(0.01)/ln(99) to 1 + ln(0.99)/ln(99)
    (`log`). Source: RLCR for `brier` (Damani et al., 2025, arXiv 2507.16806).

    Args:
        rule: `brier` or `log`.
        verifier: what answers are checked against; labels by default. Under a soft one the score is its expectation.

    Raises:
        InputError: an unknown rule.
    """

    __name__ = "confidence"
    rule: str = "brier"
    verifier: Verifier = hard

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"confidence: rule {self.rule!r} is unknown; use {' or '.join(RULES)}")

    @property
    def wants_confidence(self) -> bool:
        """Always: an answer without a confidence earns the lowest score."""
        return True

    def notes(self, prompt: str) -> list[str]:
        """Warn if the prompt does not ask for a confidence."""
        if "<confidence>" in prompt:
            return []
        return [
            "the prompts do not ask for a <confidence>, and an answer without one earns the lowest score; first run "
            "SFT on traces that state it (docs/rewards.md)"
        ]

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest score."""
        if self.rule == "brier":
            return -1.0, 1.0
        return math.log(_LEAST) / _SCALE, 1.0 + math.log(1 - _LEAST) / _SCALE

    def __call__(
        self, completions: Sequence[Completion], label: Sequence[object] | None = None, **columns: Any
    ) -> Scores:
        """Score B completions; see `Accuracy`."""
        lowest = self.range[0]

        def score(answer: Answer, given: Label, p: tuple[float, float, float]) -> float:
            if answer.confidence is None:
                return lowest
            right, q = p[INDEX[given]], answer.confidence
            if self.rule == "brier":
                return right * (1.0 - (1.0 - q) ** 2) - (1.0 - right) * q**2
            q = min(max(q, _LEAST), 1 - _LEAST)
            return right * (1.0 + math.log(q) / _SCALE) + (1.0 - right) * math.log(1.0 - q) / _SCALE

        return _judge(completions, self.verifier.targets({**columns, "label": label}, len(completions)), score, lowest)


@dataclass(frozen=True)
class Format(Reward):
    """Score 1 if the strict parser reads a label from the completion, right or wrong, else 0.

    Range: 0 to 1. Source: the format reward of DeepSeek-R1 (arXiv 2501.12948), with our own parser.
    """

    __name__ = "format"
    range = (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None. No column is needed."""
        return [
            None if answer is None else float(answer.status is Status.ANSWERED) for answer in read_answers(completions)
        ]


@dataclass(frozen=True)
class GradedFormat(Reward):
    """Score the share of four demands met: one think pair, then one answer pair, nothing outside them, a whole label.

    A tag that occurs twice meets no demand that it is part of, so that repeating tags never pays. The score is 1
    exactly if that of `Format` is 1. Range: 0, 1/4, 1/2, 3/4, 1. Source: ours, after the partial credit of open-r1's
    `tag_count_reward`.
    """

    __name__ = "graded_format"
    range = (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions; None where the completion is None. No column is needed."""
        return [
            None if text is None or answer is None else 1.0 if answer.label is not None else _grade(text)
            for text, answer in zip(read_texts(completions), read_answers(completions), strict=True)
        ]


def _grade(text: str) -> float:
    """Return the share of demands met by a text from which the strict parser reads no label: 3/4 at most."""
    at = [text.find(tag) if text.count(tag) == 1 else -1 for tag in TAGS]
    think, answer = 0 <= at[0] < at[1], 0 <= at[2] < at[3]
    in_order = think and answer and at[1] < at[2]
    outside = in_order and text[: at[0]] + text[at[1] + len(TAGS[1]) : at[2]] + text[at[3] + len(TAGS[3]) :]
    clean = in_order and not str(outside).strip()
    label = answer and exact_label(split_confidence(text[at[2] + len(TAGS[2]) : at[3]])[0]) is not None
    return min((think + in_order + clean + label) / 4, 0.75)


accuracy = Accuracy()
balanced_accuracy = BalancedAccuracy(OFFICIAL_TRAIN_COUNTS)
direction = Direction()
confidence = Confidence()
format = Format()
graded_format = GradedFormat()

REWARDS: Final = (Accuracy, BalancedAccuracy, Margin, Direction, Confidence, Format, GradedFormat)
