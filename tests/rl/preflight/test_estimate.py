"""What samples say of a GRPO run: the chance of a dead group, the table of prompts, the time of a step."""

from dataclasses import replace
from itertools import combinations

import pandas as pd
import pytest

from rewards import LABELS
from rl.preflight.estimate import Cost, dead_probability, describe_cost, describe_prompts, histogram, summarise

UP, DOWN, NONE = map(str, LABELS)


# --- dead_probability ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewards", [[0, 0, 0, 1, 1, 2], [0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1, 1, 1, 1]])
@pytest.mark.parametrize("group_size", [2, 3, 4])
def test_the_dead_share_is_that_of_all_groups_of_different_samples(rewards: list[int], group_size: int) -> None:
    groups = list(combinations(rewards, group_size))
    equal = sum(len({*group}) == 1 for group in groups)
    assert dead_probability(rewards, group_size) == pytest.approx(equal / len(groups))


def test_with_as_many_samples_as_a_group_it_is_whether_they_are_equal() -> None:
    assert dead_probability([1, 1, 1], 3) == 1
    assert dead_probability([1, 1, 0], 3) == 0


def test_fewer_samples_than_a_group_are_the_group_and_one_alone_is_dead() -> None:
    assert dead_probability([1, 0], 4) == 0
    assert dead_probability([1, 1], 4) == 1
    assert dead_probability([1], 4) == dead_probability([], 4) == 1


# --- summarise -----------------------------------------------------------------------------------------------------


def rollouts(rows: list[tuple[str, str, str | None, float | None, float | None]]) -> pd.DataFrame:
    """Samples of (item, label, answer, accuracy, format); the total is their sum."""
    frame = pd.DataFrame(rows, columns=["item_id", "label", "answer", "reward/accuracy", "reward/format"])
    frame["total_reward"] = frame["reward/accuracy"] + frame["reward/format"]
    return frame


def test_a_prompt_is_summed_up_over_its_samples_wherever_they_stand() -> None:
    found = summarise(
        rollouts([("a", UP, UP, 1, 1), ("b", DOWN, UP, 0, 1), ("a", UP, None, 0, 0), ("b", DOWN, UP, 0, 1)]), 2
    )
    assert found.to_dict("records") == [
        {"item_id": "a", "label": UP, "samples": 2, "pass_rate": 0.5, "mean_reward": 1.0, "dead": 0.0},
        {"item_id": "b", "label": DOWN, "samples": 2, "pass_rate": 0.0, "mean_reward": 1.0, "dead": 1.0},
    ]


def test_equal_totals_of_other_parts_differ_only_where_each_part_is_scaled() -> None:
    frame = rollouts([("a", UP, UP, 1, 0), ("a", UP, None, 0, 1)])
    assert summarise(frame, 2)["dead"].tolist() == [1.0]
    assert summarise(frame, 2, parts=True)["dead"].tolist() == [0.0]


def test_what_no_reward_judges_does_not_count_and_a_pair_without_label_has_no_pass_rate() -> None:
    found = summarise(rollouts([("a", "", UP, 1, 1), ("a", "", UP, None, None), ("a", "", UP, 1, 1)]), 2)
    assert found["samples"].tolist() == [3]
    assert found["mean_reward"].tolist() == [2.0]
    assert found["dead"].tolist() == [1.0]
    assert found["pass_rate"].isna().all()


# --- Cost ----------------------------------------------------------------------------------------------------------

COST = Cost(
    rollout=2.0, reward=0.5, sync=3.0, scoring=7.0, micro_batch=10.0, completions=16, micro_batches=4, batches=1.0,
    reference=True, corrected=False, skipped=False, steps=60,
)  # fmt: skip


def test_a_step_has_rollouts_rewards_reference_and_micro_batches() -> None:
    assert COST.parts(dead=0.75) == {
        "rollouts": 16 * 2.0 + 3.0, "rewards": 8.0, "reference (beta > 0)": 7.0, "training": 40.0
    }  # fmt: skip


def test_without_beta_dead_groups_cost_no_training_and_there_is_no_reference() -> None:
    found = replace(COST, reference=False, skipped=True, corrected=True).parts(dead=0.75)
    assert found == {"rollouts": 35.0, "rewards": 8.0, "importance correction": 7.0, "training": 10.0}


def test_a_batch_that_serves_two_steps_costs_each_of_them_half() -> None:
    assert replace(COST, batches=0.5).parts(0)["rollouts"] == 17.5


def test_the_time_of_the_run_is_that_of_its_steps() -> None:
    text = "\n".join(describe_cost(COST, dead=0.0))
    assert "a step: 90 s" in text
    assert "the run: 1 h 30 min for 60 steps" in text
    assert "beta > 0 takes 8 % of a step" in text
    assert "beta" not in "\n".join(describe_cost(replace(COST, reference=False), dead=0.0))


def test_an_evaluation_is_told_where_there_is_one() -> None:
    assert "evaluation on held-out" not in "\n".join(describe_cost(COST, dead=0.0))
    assert "an evaluation on held-out prompts: 2 min" in "\n".join(
        describe_cost(replace(COST, evaluation=60), dead=0.0)
    )


# --- text ----------------------------------------------------------------------------------------------------------


def test_a_histogram_counts_each_value_once_and_its_upper_ends_are_included() -> None:
    lines = histogram([0, 0, 0.5, 0.51, 1], [0, 0.5, 1], ["none", "to half", "to all"])
    assert [line.split()[-4:-1] for line in lines] == [["2", "40", "%"], ["1", "20", "%"], ["2", "40", "%"]]
    assert [line.count("#") for line in lines] == [30, 15, 30]


def test_prompts_are_described_by_their_pass_rates_and_what_cannot_teach() -> None:
    frame = summarise(
        rollouts([("a", UP, UP, 1, 1), ("a", UP, DOWN, 0, 1), ("b", NONE, UP, 0, 1), ("b", NONE, UP, 0, 1)]), 2
    )
    text = "\n".join(describe_prompts(frame, 2))
    assert f"50 % of {UP}, 0 % of {NONE}" in text
    assert "50 % of your prompts can't teach" in text
    assert "50 % of the groups will be dead" in text
