"""Apply a composition: gate, schedule and add up its components, and check what rewards return."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rewards.batch import Completion, Scores, completion_text, is_column, returned_scores
from rewards.errors import CheckError, InputError
from rewards.foreign import needed_columns, one_line
from rewards.reward import Reward

SCALINGS: Final = ("group", "batch", "none")  # of TRL's `scale_rewards`
# Keywords that rewards get beside the completions: in any process, and in the trainer's process only.
COLUMNS: Final = ("item_id", "cell_line", "pert", "gene", "label", "prompts", "completion_ids", "step")
OF_TRAINER: Final = ("trainer_state", "log_extra", "log_metric")
_PLAIN: Final = frozenset((int, float, str, bool, type(None)))
_LARGEST: Final = 3.4028234e38  # TRL keeps scores and sums as 32-bit floats; a larger one would become infinite


@dataclass
class Component:
    """One reward of a composition. It is a reward function for TRL, which multiplies its score by the weight.

    Attributes:
        name: as in the configuration.
        reward: the reward function.
        weight: of its score in the sum.
        schedule: (step, factor) pairs in order. The score is multiplied by the factor, which is linear between them.
        gate: a reward that must be 1 for this one to count. `reward` then has an attribute `range`.
        ours, gate_ours: whether the reward and the gate are built in. Others get messages, as from TRL, and no
            completion that failed.
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
        """What the reward tells about itself; the defaults if it is not built in."""
        return self.reward if isinstance(self.reward, Reward) else Reward()

    @property
    def cut_off(self) -> int:
        """How many scores the time limits of the reward and its gate have cut off."""
        return sum(int(getattr(one, "cut_off", 0)) for one in (self.reward, self.gate))

    def shut(self, factor: float) -> float:
        """Return the score for a closed gate: 0 or an end of the range, whichever pays least in the sum."""
        paid = (self.weight or 1.0) * factor
        return min((0.0, *map(float, self.reward.range)), key=lambda score: paid * score)

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions, gated and scheduled but not weighted.

        A schedule reads the step, counted from 1, from the column `step` (one number, or one for each row) or from
        TRL's `trainer_state`.

        Raises:
            CheckError: the function raised an error, or did not return one number or None for each completion.
            InputError: a schedule has no step, or a column that the reward needs is missing.
        """
        score = checked_scores if self.ours else _foreign_scores
        scores = score(self.reward, self.name, completions, columns)
        n = len(completions)
        factors = [self.factor(step) for step in _steps(columns, n, self.name)] if self.schedule else [1.0] * n
        if self.gate is not None:
            low, high = map(float, self.reward.range)
            if any(score is not None and not low - 1e-9 <= score <= high + 1e-9 for score in scores):
                raise CheckError(f"reward {self.name}: leaves its range ({low:g}, {high:g}), from which a closed gate "
                                 "takes the least score; correct the range")  # fmt: skip
            score = checked_scores if self.gate_ours else _foreign_scores
            open_ = score(self.gate, f"{self.name}'s gate", completions, columns)
            scores = [
                None if score is None or gate is None else score if gate >= 1 else self.shut(factor)
                for score, gate, factor in zip(scores, open_, factors, strict=True)
            ]
        return [None if score is None else score * at for score, at in zip(scores, factors, strict=True)]

    def factor(self, step: int) -> float:
        """Return the schedule's factor at a step: linear between its points, constant before and after them."""
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
    """A weighted sum of rewards. Make one with `compose`.

    Attributes:
        components: the rewards, in the order of the configuration.
    """

    components: tuple[Component, ...]
    __name__ = "composition"

    @property
    def weights(self) -> list[float]:
        """The weight of each component."""
        return [component.weight for component in self.components]

    @property
    def steps(self) -> list[int]:
        """The steps that schedules name, in order. The sum is linear in the step between two of them."""
        return sorted({point[0] for component in self.components for point in component.schedule})

    def scores(self, completions: Sequence[Completion], **columns: Any) -> dict[str, Scores]:
        """Return each component's scores, gated and scheduled but not weighted."""
        return {component.name: component(completions=completions, **columns) for component in self.components}

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> Scores:
        """Score B completions by the weighted sum; see `total`."""
        return self.total(self.scores(completions, **columns), columns.get("group", columns.get("item_id")))

    def total(self, scores: Mapping[str, Scores], group: Sequence[object] | None) -> Scores:
        """Add up the components' weighted scores.

        If a component judges no completion of a group, it is left out for that group, as TRL does. If it judges only
        some, the others get None, because their sum would lack a part.

        Args:
            scores: B scores by component.
            group: B values that tell groups apart; None if each completion is a group of its own.

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
                raise CheckError(f"row {at}: the weighted sum {total:g} is too large for a 32-bit float; use smaller "
                                 "weights or scores")  # fmt: skip
            totals.append(None if unscorable[at] or not parts else total)
        return totals


def partly_judged(scores: Scores, group: Sequence[object], unscorable: list[bool]) -> None:
    """Mark in `unscorable` each completion without a score in a group where another has one."""
    if all(score is not None for score in scores):
        return
    judged = {key for key, score in zip(group, scores, strict=True) if score is not None}
    for at, (key, score) in enumerate(zip(group, scores, strict=True)):
        if score is None and key in judged:
            unscorable[at] = True


def checked_scores(reward: Any, name: str, completions: Sequence[Completion], columns: Mapping[str, Any]) -> Scores:
    """Call a reward, and check that it returns one finite number or None for each completion.

    Raises:
        CheckError: it returned something else, or raised an error other than `InputError`.
    """
    try:
        found = reward(completions=completions, **columns)
    except (InputError, CheckError):
        raise
    except Exception as error:
        raise CheckError(f"reward {name}: raised {one_line(error)}; correct the function, or return None for what it "
                         "cannot judge") from error  # fmt: skip
    return [_checked(score, row, name) for row, score in enumerate(returned_scores(found, len(completions), name))]


def _foreign_scores(reward: Any, name: str, completions: Sequence[Completion], columns: Mapping[str, Any]) -> Scores:
    """Call a reward that is not built in, with messages. Completions that failed are left out and get None.

    The reward gets copies. If it changes them, the next rewards still read what the model wrote.
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
    """Copy nested lists, mappings and arrays. Other objects, such as the trainer's state, are passed on as they are."""
    if isinstance(value, list | tuple):
        if _PLAIN.issuperset(map(type, value)):  # token ids by the hundred thousand
            return list(value)
        return [_own(one) if isinstance(one, list | tuple | Mapping) else one for one in value]
    if isinstance(value, Mapping):
        return {key: one if type(one) in _PLAIN else _own(one) for key, one in value.items()}
    return copy.deepcopy(value) if hasattr(value, "__array__") else value


def _taken(values: Any, rows: Sequence[int]) -> list[Any]:
    """Return the values at these positions. A pandas series may have any index."""
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
    """Return notes on what the weights do to GRPO's advantages, which are relative to a group.

    Args:
        composition: the rewards.
        scale_rewards: TRL's key.
    """
    grouped = _by_group(scale_rewards)
    said = []
    for component in composition.components:
        if component.weight == 0:
            said.append(f"{component.name}: has weight 0, so that it is logged and rewards nothing")
    if grouped and len(composition.components) == 1 and composition.weights[0] not in (0, 1):
        said.append(f"{composition.components[0].name}: its weight does nothing, since scale_rewards: group divides "
                    "each group's advantages by their spread; only the weight's sign matters")  # fmt: skip
    elif grouped and len(composition.components) > 1:
        said.append("scale_rewards: group divides each group by its spread, so that only ratios of weights matter")
    return said


def _by_group(scale_rewards: Any) -> bool:
    """Return whether TRL divides each group's advantages by their spread."""
    return str(scale_rewards).lower() in ("group", "true")


def check_scaling(scale_rewards: Any, where: str) -> None:
    """Refuse a `scale_rewards` that TRL would refuse at the first step. True means `group`, false means `none`."""
    if not isinstance(scale_rewards, bool) and scale_rewards not in SCALINGS:
        raise InputError(f"{where}: scale_rewards: {scale_rewards!r} is unknown; use {', '.join(SCALINGS)}")


def refuse_cancelled_weights(composition: Composition, scale_rewards: Any, where: str = "rewards") -> None:
    """Refuse a reward that weighs whole groups if TRL's `scale_rewards` would cancel that weight."""
    for component in composition.components:
        if component.traits.weighs_groups and _by_group(scale_rewards):
            raise InputError(
                f"{where}: {component.name} has no effect with scale_rewards: group, which divides its weight out of "
                "each group; set scale_rewards: batch or none"
            )


def refuse_missing_columns(composition: Composition, where: str = "rewards") -> None:
    """Refuse a reward that is not built in and needs a column which no prompt has."""
    for component in composition.components:
        for name, inside in needed_by(component):
            there = (*COLUMNS, *OF_TRAINER) if inside else COLUMNS
            if name not in there:
                raise InputError(
                    f"{where}: {component.name} needs the column {name!r}, which no prompt has; there are "
                    f"{', '.join(there)}: use these, or give it a default"
                )


def needed_by(component: Component) -> list[tuple[str, bool]]:
    """Return the columns that a reward and a gate need if not built in, each with whether it runs in this process."""
    found = []
    for reward, ours in ((component.reward, component.ours), (component.gate, component.gate_ours)):
        if reward is not None and not ours:
            inside = not hasattr(reward, "needs")
            found += [(name, inside) for name in (needed_columns(reward) if inside else reward.needs)]
    return found


def prompt_notes(composition: Composition, prompt: str) -> list[str]:
    """Return what the rewards warn of for prompts like this one, given as text."""
    return [
        f"{component.name}: {note}" for component in composition.components for note in component.traits.notes(prompt)
    ]
