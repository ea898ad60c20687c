"""A composition at work: components gated, scheduled and added up, and what may be returned as a score."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rewards.batch import Completion, Scores, completion_text, is_column, returned_scores
from rewards.errors import CheckError, InputError
from rewards.foreign import needed_columns
from rewards.reward import Reward

SCALINGS: Final = ("group", "batch", "none")  # of TRL's `scale_rewards`
# What rewards are called with beside the completions: in any process, and in the trainer's alone.
COLUMNS: Final = ("item_id", "cell_line", "pert", "gene", "label", "prompts", "completion_ids", "step")
OF_TRAINER: Final = ("trainer_state", "log_extra", "log_metric")
_PLAIN: Final = frozenset((int, float, str, bool, type(None)))
_LARGEST: Final = 3.4028234e38  # TRL keeps scores and their sum as 32-bit floats: more would become infinite there


@dataclass
class Component:
    """One reward of a composition; itself a reward function for TRL, which multiplies by the weight.

    Attributes:
        name: as in the configuration.
        reward: the reward function.
        weight: of its score in the sum.
        schedule: (step, factor) pairs by step; the score is multiplied by a factor linear between them.
        gate: a reward that must be 1 for this one to count; the reward then has an attribute `range`.
        ours, gate_ours: whether the reward and the gate are built in. Others get what TRL would give them for a
            conversation: messages, and no completion that failed.
    """

    name: str
    reward: Any
    weight: float = 1.0
    schedule: tuple[tuple[int, float], ...] = ()
    gate: Any = None
    ours: bool = True
    gate_ours: bool = True

    def __post_init__(self) -> None:
        self.__name__ = self.name

    @property
    def traits(self) -> Reward:
        """What the reward says of itself; nothing particular where it is not ours."""
        return self.reward if isinstance(self.reward, Reward) else Reward()

    @property
    def cut_off(self) -> int:
        """How many scores the time limits of the reward and its gate have cut off."""
        return sum(int(getattr(one, "cut_off", 0)) for one in (self.reward, self.gate))

    def shut(self, factor: float) -> float:
        """Return the score where the gate is shut: 0 or an end of the range, what pays least with weight and factor."""
        paid = (self.weight or 1.0) * factor
        return min((0.0, *map(float, self.reward.range)), key=lambda score: paid * score)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions, gated and scheduled but not weighted.

        The step of a schedule, counted from 1 as in logs, is the column `step` (a number or one a row), or comes from
        TRL's `trainer_state`.

        Raises:
            CheckError: the function raised an error, or what it returned is not one number or None a completion.
            InputError: a schedule without a step, or a column that the reward needs is missing.
        """
        score = checked_scores if self.ours else _foreign_scores
        scores = score(self.reward, self.name, completions, columns)
        n = len(completions)
        factors = [self.factor(step) for step in _steps(columns, n, self.name)] if self.schedule else [1.0] * n
        if self.gate is not None:
            low, high = map(float, self.reward.range)
            if any(score is not None and not low - 1e-9 <= score <= high + 1e-9 for score in scores):
                raise CheckError(f"reward {self.name}: leaves its range ({low:g}, {high:g}), from which a shut gate "
                                 "takes what pays least; mend the range")  # fmt: skip
            score = checked_scores if self.gate_ours else _foreign_scores
            open_ = score(self.gate, f"{self.name}'s gate", completions, columns)
            scores = [
                None if score is None or gate is None else score if gate >= 1 else self.shut(factor)
                for score, gate, factor in zip(scores, open_, factors, strict=True)
            ]
        return [None if score is None else score * at for score, at in zip(scores, factors, strict=True)]

    def factor(self, step: int) -> float:
        """The schedule's factor at a step: linear between its points, constant before and after them."""
        if not self.schedule:
            return 1.0
        before = [point for point in self.schedule if point[0] <= step]
        after = [point for point in self.schedule if point[0] > step]
        if not before or not after:
            return (after[0] if not before else before[-1])[1]
        (start, low), (end, high) = before[-1], after[0]
        return low + (high - low) * (step - start) / (end - start)


@dataclass(frozen=True)
class Composition:
    """A weighted sum of rewards; made by `compose`.

    Attributes:
        components: the rewards, in the order of the configuration.
    """

    components: tuple[Component, ...]
    __name__ = "composition"

    @property
    def weights(self) -> list[float]:
        """A weight per component."""
        return [component.weight for component in self.components]

    @property
    def steps(self) -> list[int]:
        """The steps that schedules name, in order; between two of them the sum is linear."""
        return sorted({point[0] for component in self.components for point in component.schedule})

    def scores(self, completions: Sequence[Completion], **columns: Any) -> dict[str, Scores]:
        """Return each component's scores, gated and scheduled but not weighted."""
        return {component.name: component(completions=completions, **columns) for component in self.components}

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions by the weighted sum; see `total`."""
        return self.total(self.scores(completions, **columns), columns.get("group", columns.get("item_id")))

    def total(self, scores: Mapping[str, Scores], group: Sequence[object] | None) -> Scores:
        """Add up scores by component.

        A component that judges no completion of a group is left out there, as TRL does it. Where it judges some, the
        others get None: their sum would lack a part that those of their rivals have.

        Args:
            scores: B scores by component.
            group: B values that tell groups apart; None where each completion stands alone.

        Raises:
            CheckError: a sum is too large for a 32-bit float.
        """
        rows = [scores[component.name] for component in self.components]
        n = len(rows[0])
        unscorable = [False] * n
        if group is not None:
            for row in rows:
                partly_judged(row, group, unscorable)
        totals: Scores = []
        for at in range(n):
            parts = [
                component.weight * value
                for component, row in zip(self.components, rows, strict=True)
                if (value := row[at]) is not None
            ]
            total = sum(parts)
            if not abs(total) <= _LARGEST:
                raise CheckError(f"row {at}: the weighted sum {total:g} is too large for a 32-bit float; make weights "
                                 "or scores smaller")  # fmt: skip
            totals.append(None if unscorable[at] or not parts else total)
        return totals


def partly_judged(scores: Scores, group: Sequence[object], unscorable: list[bool]) -> None:
    """Mark in `unscorable` the completions without a score in groups where others have one."""
    if all(score is not None for score in scores):
        return
    judged = {key for key, score in zip(group, scores, strict=True) if score is not None}
    for at, (key, score) in enumerate(zip(group, scores, strict=True)):
        if score is None and key in judged:
            unscorable[at] = True


def checked_scores(reward: Any, name: str, completions: Sequence[Completion], columns: Mapping[str, Any]) -> Scores:
    """Call a reward and hold what it returns against its contract: one finite number or None a completion.

    Raises:
        CheckError: it does not, or it raised an error that is not about the input.
    """
    try:
        found = reward(completions=completions, **columns)
    except (InputError, CheckError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise CheckError(
            f"reward {name}: raised {type(error).__name__}: {said}; an error is no score, mend the function"
        ) from error
    return [_checked(score, row, name) for row, score in enumerate(returned_scores(found, len(completions), name))]


def _foreign_scores(reward: Any, name: str, completions: Sequence[Completion], columns: Mapping[str, Any]) -> Scores:
    """Call a reward that is not ours: with messages, and without completions that failed, which get None.

    What it is handed is its own, so that the rewards after it read what the model wrote, whatever it does to that.
    """
    n = len(completions)
    texts = [completion_text(completion) for completion in completions]
    there = [at for at, text in enumerate(texts) if text is not None]
    messages: list[Completion] = [
        [{"role": "assistant", "content": texts[at]}] if isinstance(completions[at], str) else _own(completions[at])
        for at in there
    ]
    columns = {key: _own(value) for key, value in columns.items()}
    if len(there) < n:
        columns = {key: _taken(value, there) if is_column(value, n) else value for key, value in columns.items()}
    scores: Scores = [None] * n
    found = checked_scores(reward, name, messages, columns) if there else []
    for at, score in zip(there, found, strict=True):
        scores[at] = score
    return scores


def _own(value: Any) -> Any:
    """A copy down to the last list and mapping; what is no data, such as the trainer's state, is handed on as it is."""
    if isinstance(value, Mapping):
        return {key: _own(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        if _PLAIN.issuperset(map(type, value)):  # token ids by the hundred thousand
            return list(value)
        return [_own(one) if isinstance(one, Mapping | list | tuple) else one for one in value]
    return copy.deepcopy(value) if hasattr(value, "__array__") else value


def _taken(values: Any, rows: Sequence[int]) -> list[Any]:
    """The values at these rows, by position: a pandas series may have any index."""
    values = list(values)
    return [values[at] for at in rows]


def _checked(score: Any, row: int, name: str) -> float | None:
    if type(score) is float and -_LARGEST <= score <= _LARGEST:
        return score
    if score is None:
        return None
    try:
        number = float(score)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isnan(number) and not isinstance(score, str):
        return None  # TRL's sign for a completion that cannot be judged
    if not abs(number) <= _LARGEST or isinstance(score, str):
        said = f"{score!r}"[:60]
        raise CheckError(f"reward {name}: row {row} has the score {said}; return finite 32-bit floats or None")
    return number


def _steps(columns: Mapping[str, Any], n: int, name: str) -> list[int]:
    step: Any = columns.get("step")
    if step is None:
        state = columns.get("trainer_state")
        done = getattr(state, "global_step", None)
        step = None if done is None else int(done) + 1  # logs and stored rollouts count steps from 1
    if step is None:
        raise InputError(f"{name}: has a schedule, but the batch does not say its step; add a column 'step'")
    return [int(one) for one in step] if is_column(step, n) else [int(step)] * n


def weight_notes(composition: Composition, *, scale_rewards: str) -> list[str]:
    """Say what the weights do to GRPO's advantages, which are relative to a group.

    Args:
        composition: the rewards.
        scale_rewards: TRL's key.
    """
    grouped = _by_group(scale_rewards)
    said = []
    for component in composition.components:
        if component.weight == 0:
            said.append(f"{component.name}: weight 0, so it is logged and rewards nothing")
    if grouped and len(composition.components) == 1 and composition.weights[0] not in (0, 1):
        said.append(f"{composition.components[0].name}: its weight does nothing, since scale_rewards: group divides "
                    "each group's advantages by their spread; only its sign counts")  # fmt: skip
    elif grouped and len(composition.components) > 1:
        said.append("scale_rewards: group divides each group by its spread, so that only ratios of weights count")
    return said


def _by_group(scale_rewards: Any) -> bool:
    """Whether TRL divides each group's advantages by their spread."""
    return str(scale_rewards).lower() in ("group", "true")


def check_scaling(scale_rewards: Any, where: str) -> None:
    """Refuse a `scale_rewards` that TRL would refuse at the first step; true and false are `group` and `none`."""
    if not isinstance(scale_rewards, bool) and scale_rewards not in SCALINGS:
        raise InputError(f"{where}: scale_rewards: {scale_rewards!r} is unknown; use {', '.join(SCALINGS)}")


def refuse_cancelled_weights(composition: Composition, scale_rewards: Any, where: str = "rewards") -> None:
    """Refuse a reward that pays the same throughout a group where TRL's `scale_rewards` divides that out again."""
    for component in composition.components:
        if component.traits.weighs_groups and _by_group(scale_rewards):
            raise InputError(
                f"{where}: {component.name} has no effect with scale_rewards: group, which divides its weight out of "
                "each group; set scale_rewards: batch or none"
            )


def refuse_missing_columns(composition: Composition, where: str = "rewards") -> None:
    """Refuse a reward of others that cannot be called without a column which no prompt has."""
    for component in composition.components:
        for reward, ours in ((component.reward, component.ours), (component.gate, component.gate_ours)):
            if reward is None or ours:
                continue
            inside = not hasattr(reward, "needs")  # in the trainer's own process
            there = (*COLUMNS, *OF_TRAINER) if inside else COLUMNS
            missing = [name for name in (needed_columns(reward) if inside else reward.needs) if name not in there]
            if missing:
                raise InputError(
                    f"{where}: {component.name} needs the column {missing[0]!r}, which no prompt has; there are "
                    f"{', '.join(there)}: use these, or give it a default"
                )


def prompt_notes(composition: Composition, prompt: str) -> list[str]:
    """Say what rewards miss in prompts such as this one, given as text."""
    return [
        f"{component.name}: {note}" for component in composition.components for note in component.traits.notes(prompt)
    ]
