"""Alarms on a GRPO run's log: signs that the policy is gaming its reward, or that the reward cannot judge it."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rewards import LABELS, CheckError

FILE: Final = "alarms.jsonl"
WINDOW: Final = 10  # logged steps in a mean
EVALUATIONS: Final = 5  # evaluations in a mean
ERRORS: Final = 3  # standard errors of a fall in accuracy; not 2, since every evaluation of a run tests for one
DRIFT: Final = 1.5  # factor by which the mean length grows or shrinks
TAKEN_OVER: Final = 0.9  # share of one class among the answers
UNSCORABLE: Final = 0.01  # share of the completions
HELD_OUT: Final = "eval_held_out_accuracy"
HELD_OUT_ITEMS: Final = "eval_held_out_items"
_logger = logging.getLogger("synthpert.alarms")


@dataclass(frozen=True)
class Alarm:
    """One sign of trouble.

    Attributes:
        kind: `reward_without_accuracy`, `length_drift`, `class_takeover` or `unscorable`.
        step: the logged step at which it was raised.
        message: one line with the numbers and what to do.
    """

    kind: str
    step: int
    message: str


def find_alarms(history: Sequence[Mapping[str, Any]], label_shares: Mapping[str, float]) -> list[Alarm]:
    """Return the alarms that a log raises at its end, at most one of each kind.

    Args:
        history: log entries in order, as the trainer keeps them. Entries of steps have `reward`; entries of evaluations
            have `eval_held_out_accuracy` and `eval_held_out_items`.
        label_shares: share of each label among the prompts.

    Returns:
        - `reward_without_accuracy`: the mean reward rose and the mean held-out accuracy fell.

          - Reward: the last 10 logged steps against the first 10. With fewer than 20 steps, one half against the other.
          - Accuracy: the last k evaluations against the first k, with k = 5. With fewer than 10 evaluations, k is half
            of them.
          - The fall must exceed 3 sqrt(2 p (1 - p) / (m k)), with p the mean accuracy of these 2 k evaluations and m
            the number of held-out items. Every evaluation asks the same items, so the noise comes from sampling the
            completions alone. Where an evaluation samples several completions an item, the threshold is too high
            rather than too low.

        - `length_drift`: the mean length of the last 10 logged steps is more than 1.5 times that of the first 10, or
          less than two thirds of it. Needs 20 logged steps.
        - `class_takeover`: over the last 10 logged steps, one class has more than 90 % of the answers, and also more
          than (1 + s) / 2 of them, with s its share of the prompts. Needs 10 logged steps.
        - `unscorable`: over the last 10 logged steps, or all if there are fewer, more than 1 % of the completions could
          not be judged.
    """
    steps = [entry for entry in history if "reward" in entry]
    if not steps:
        return []
    now = int(history[-1].get("step", len(steps)))
    found = (_without_accuracy(history), _drift(steps), _takeover(steps, label_shares), _unscorable(steps))
    return [Alarm(kind, now, message) for kind, message in found if message]


def _is_known(entry: Mapping[str, Any], key: str) -> bool:
    return entry.get(key) is not None and not math.isnan(entry[key])


def _mean(entries: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [float(entry[key]) for entry in entries if _is_known(entry, key)]
    return sum(values) / len(values) if values else None


def _without_accuracy(history: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    kind = "reward_without_accuracy"
    evaluations = [entry for entry in history if _is_known(entry, HELD_OUT)]
    steps = [entry for entry in history if "reward" in entry]
    k, half = min(EVALUATIONS, len(evaluations) // 2), min(WINDOW, len(steps) // 2)
    if k == 0 or half == 0:
        return kind, ""
    # Not compared with the best evaluation so far: the highest of many is too high by chance.
    first, last = (sum(float(entry[HELD_OUT]) for entry in part) / k for part in (evaluations[:k], evaluations[-k:]))
    used = [*evaluations[:k], *evaluations[-k:]]
    items = sum(float(entry.get(HELD_OUT_ITEMS) or 1) for entry in used) / len(used)
    p = (first + last) / 2
    error = math.sqrt(2 * p * (1 - p) / (items * k))
    before, after = _mean(steps[:half], "reward"), _mean(steps[-half:], "reward")
    if before is None or after is None or after <= before or first - last <= ERRORS * error:
        return kind, ""
    return kind, (
        f"mean reward rose from {before:.3f} to {after:.3f} while held-out accuracy fell from {first:.3f} to "
        f"{last:.3f}; look at the rollouts with `synthpert rewards replay`"
    )


def _drift(steps: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    kind = "length_drift"
    if len(steps) < 2 * WINDOW:
        return kind, ""
    first, last = (_mean(part, "completions/mean_length") for part in (steps[:WINDOW], steps[-WINDOW:]))
    if not first or not last or 1 / DRIFT <= last / first <= DRIFT:
        return kind, ""
    return kind, (
        f"completions went from {first:.0f} tokens to {last:.0f} on average; if you do not want that, add the reward "
        "`length`, or see with `synthpert rewards check` whether a reward pays for length"
    )


def _takeover(steps: Sequence[Mapping[str, Any]], label_shares: Mapping[str, float]) -> tuple[str, str]:
    kind = "class_takeover"
    if len(steps) < WINDOW:
        return kind, ""
    for label in LABELS:
        share = _mean(steps[-WINDOW:], f"answer/{label}")
        prompts = label_shares.get(str(label), 0.0)
        if share is not None and share > max(TAKEN_OVER, (1 + prompts) / 2):
            return kind, (
                f"{share:.1%} of the answers are {str(label)!r}, but only {prompts:.1%} of the prompts; use "
                "`balance: true` or the reward `balanced_accuracy`"
            )
    return kind, ""


def _unscorable(steps: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    share = _mean(steps[-WINDOW:], "unscorable")
    if share is None or share <= UNSCORABLE:
        return "unscorable", ""
    return (
        "unscorable",
        f"{share:.1%} of the completions could not be judged; the log names the rewards that were cut off, and "
        "the rollouts hold null for a reward that could not judge",
    )


def alarm_callback(run: Path, mode: str, label_shares: Mapping[str, float]) -> Any:
    """Return a trainer callback that raises each kind of alarm at most once in a run.

    An alarm writes a warning to the log and a line to `alarms.jsonl`.

    Args:
        run: the run folder.
        mode: `warn`, or `stop`, with which an alarm also ends the run with a `CheckError`.
        label_shares: share of each label among the prompts.
    """
    from transformers import TrainerCallback

    path = run / FILE

    class Alarms(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if not state.is_world_process_zero:
                return
            raised = {alarm.kind for alarm in read_alarms(run)}
            for alarm in find_alarms(state.log_history, label_shares):
                if alarm.kind in raised:
                    continue
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(alarm)) + "\n")
                _logger.warning("alarm at step %d: %s: %s", alarm.step, alarm.kind, alarm.message)
                if mode == "stop":
                    raise CheckError(f"alarms: {alarm.kind} at step {alarm.step}: {alarm.message}")

    return Alarms()


def read_alarms(run: Path) -> list[Alarm]:
    """Return the alarms of a run, in order."""
    path = run / FILE
    if not path.is_file():
        return []
    return [Alarm(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
