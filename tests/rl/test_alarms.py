"""Alarms go off where a run is gamed, and stay silent where it is not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rewards import LABELS, CheckError
from rl.alarms import alarm_callback, find_alarms, read_alarms

UP, DOWN, NONE = map(str, LABELS)
SHARES = {UP: 0.1, DOWN: 0.1, NONE: 0.8}


def step(at: int, **changed: Any) -> dict[str, Any]:
    entry = {"step": at, "reward": 0.5, "completions/mean_length": 100.0, "unscorable": 0.0,
             f"answer/{UP}": 0.2, f"answer/{DOWN}": 0.2, f"answer/{NONE}": 0.6}  # fmt: skip
    return {**entry, **changed}


def held_out(at: int, accuracy: float, n: int = 400) -> dict[str, Any]:
    return {"step": at, "eval_held_out_accuracy": accuracy, "eval_held_out_items": float(n)}


def kinds(history: list[dict[str, Any]]) -> list[str]:
    return [alarm.kind for alarm in find_alarms(history, SHARES)]


def test_a_calm_run_raises_none() -> None:
    assert kinds([]) == []
    assert kinds([held_out(0, 0.5)]) == []
    assert kinds([step(at, reward=0.5 + at / 100) for at in range(60)]) == []


@pytest.mark.parametrize(
    ("early", "late", "accuracies", "n", "alarms"),
    [
        (0.4, 0.6, (0.60, 0.40), 400, ["reward_without_accuracy"]),
        (0.4, 0.6, (0.60, 0.58), 400, []),  # within the noise of 400 items
        (0.4, 0.6, (0.60, 0.40), 4, []),  # and of 4
        (0.4, 0.6, (0.40, 0.60), 400, []),
        (0.6, 0.4, (0.60, 0.40), 400, []),  # reward falls too: no gaming
    ],
)
def test_reward_up_while_held_out_accuracy_falls(
    early: float, late: float, accuracies: tuple[float, float], n: int, alarms: list[str]
) -> None:
    history = [step(at, reward=early) for at in range(1, 11)] + [held_out(10, accuracies[0], n)]
    history += [step(at, reward=late) for at in range(11, 21)] + [held_out(20, accuracies[1], n)]
    assert kinds(history) == alarms


@pytest.mark.parametrize(("rise", "alarms"), [(0.02, ["reward_without_accuracy"]), (-0.02, [])])
@pytest.mark.parametrize("steps", [2, 8, 60])
def test_an_evaluation_before_the_first_step_counts(rise: float, alarms: list[str], steps: int) -> None:
    history = [
        held_out(0, 0.6),
        *(step(at, reward=0.3 + rise * at) for at in range(1, steps + 1)),
        held_out(steps, 0.3),
    ]
    assert kinds(history) == alarms


def share_alarmed(accuracies: list[float], items: int = 200, runs: int = 300) -> float:
    """The share of runs with rising reward that ever raise the alarm, whose accuracy is as given at each evaluation."""
    draw = np.random.default_rng(0)
    alarmed = 0
    for _ in range(runs):
        history: list[dict[str, Any]] = []
        for at, accuracy in enumerate(accuracies, start=1):
            history += [step(at, reward=at / 100), held_out(at, draw.binomial(items, accuracy) / items, items)]
            if "reward_without_accuracy" in kinds(history):
                alarmed += 1
                break
    return alarmed / runs


@pytest.mark.parametrize("evaluations", [10, 20, 50])
def test_honest_runs_raise_no_alarm_by_chance_and_a_true_fall_is_found(evaluations: int) -> None:
    assert share_alarmed([0.6] * evaluations) <= 0.04
    falling = [0.6 - 0.2 * at / (evaluations - 1) for at in range(evaluations)]
    assert share_alarmed(falling, runs=50) >= 0.95
    sudden = [0.6] * (evaluations // 2) + [0.4] * (evaluations - evaluations // 2)
    assert share_alarmed(sudden, runs=50) == 1.0


def test_an_evaluation_that_judged_nothing_does_not_count_and_0_does() -> None:
    early, late = step(1, reward=0.4), step(3, reward=0.6)
    assert (
        kinds([early, held_out(1, float("nan")), step(2, reward=0.5), held_out(2, 0.5), late, held_out(3, 0.5)]) == []
    )
    assert kinds([early, held_out(2, 0.5), late, held_out(3, 0.0)]) == ["reward_without_accuracy"]


@pytest.mark.parametrize(("last", "alarms"), [(160, ["length_drift"]), (140, []), (60, ["length_drift"]), (70, [])])
def test_length_drift(last: float, alarms: list[str]) -> None:
    history = [step(at, **{"completions/mean_length": 100.0 if at < 10 else float(last)}) for at in range(20)]
    assert kinds(history) == alarms
    assert kinds(history[1:]) == []  # too early to say


@pytest.mark.parametrize(("share", "alarms"), [(0.95, ["class_takeover"]), (0.89, [])])
def test_one_class_taking_over(share: float, alarms: list[str]) -> None:
    history = [
        step(at, **{f"answer/{NONE}": share, f"answer/{UP}": 1 - share, f"answer/{DOWN}": 0.0}) for at in range(10)
    ]
    assert kinds(history) == alarms
    assert kinds(history[1:]) == []  # too early to say
    assert all("margin" not in alarm.message for alarm in find_alarms(history, SHARES))


def test_a_class_that_most_prompts_have_may_have_most_answers() -> None:
    history = [step(at, **{f"answer/{NONE}": 0.92}) for at in range(10)]
    assert find_alarms(history, {UP: 0.05, DOWN: 0.05, NONE: 0.9}) == []


@pytest.mark.parametrize(("share", "alarms"), [(0.02, ["unscorable"]), (0.01, []), (0.0, [])])
def test_unscorable_completions(share: float, alarms: list[str]) -> None:
    assert kinds([step(1, unscorable=share)]) == alarms


def test_log_values_that_are_missing_raise_nothing() -> None:
    history = [
        {"step": at, "reward": float("nan"), "unscorable": None, f"answer/{UP}": float("nan")} for at in range(30)
    ]
    assert kinds(history) == []


STATE = SimpleNamespace(is_world_process_zero=True, log_history=[step(7, unscorable=0.5)])


def test_a_warning_is_given_and_stored_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = alarm_callback(tmp_path, "warn", SHARES)
    for _ in range(3):
        callback.on_log(None, STATE, None)
    (alarm,) = read_alarms(tmp_path)
    assert (alarm.kind, alarm.step) == ("unscorable", 7) and "50.0%" in alarm.message
    assert len(caplog.records) == 1
    alarm_callback(tmp_path, "stop", SHARES).on_log(None, STATE, None)  # known before a resume: not raised again


def test_stop_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="alarms: unscorable at step 7"):
        alarm_callback(tmp_path, "stop", SHARES).on_log(None, STATE, None)
    assert len(read_alarms(tmp_path)) == 1


def test_other_processes_say_nothing(tmp_path: Path) -> None:
    state = SimpleNamespace(is_world_process_zero=False, log_history=STATE.log_history)
    alarm_callback(tmp_path, "stop", SHARES).on_log(None, state, None)
    assert read_alarms(tmp_path) == []
