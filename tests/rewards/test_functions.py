"""Reward functions: a table of cases each, no score where generation failed, and weights that guessing cannot win."""

import pickle
from typing import Any

import pandas as pd
import pytest

import rewards
from rewards import LABELS, BalancedAccuracy, InputError, Label, accuracy, balanced_accuracy
from rewards.batch import completion_text
from rewards.functions import OFFICIAL_TRAIN_COUNTS

UP, DOWN, NONE = map(str, LABELS)
FUNCTIONS = [accuracy, balanced_accuracy, rewards.format]


def say(answer: str) -> str:
    return f"<think>because</think><answer>{answer}</answer>"


def weight(label: str) -> float:
    return sum(OFFICIAL_TRAIN_COUNTS.values()) / (3 * OFFICIAL_TRAIN_COUNTS[Label(label)])


# completion, true label, accuracy, balanced accuracy, format
TABLE = [
    (say(UP), UP, 1.0, weight(UP), 1.0),
    (say(DOWN), DOWN, 1.0, weight(DOWN), 1.0),
    (say(NONE), NONE, 1.0, weight(NONE), 1.0),
    (say(UP), DOWN, 0.0, 0.0, 1.0),
    (say(NONE), UP, 0.0, 0.0, 1.0),
    (say("not " + UP), UP, 0.0, 0.0, 0.0),
    (say("differentially expressed"), NONE, 0.0, 0.0, 0.0),
    (say(f"{UP} or {DOWN}"), UP, 0.0, 0.0, 0.0),
    (f"<answer>{UP}</answer>", UP, 0.0, 0.0, 0.0),
    (f"<think>{UP}</think><answer>{UP}", UP, 0.0, 0.0, 0.0),
    (UP, UP, 0.0, 0.0, 0.0),
    ("", UP, 0.0, 0.0, 0.0),
    (None, UP, None, None, None),
]


@pytest.mark.parametrize("as_messages", [False, True])
def test_scores(as_messages: bool) -> None:
    texts = [row[0] for row in TABLE]
    completions: list[Any] = [[{"role": "assistant", "content": text}] for text in texts] if as_messages else texts
    label = [row[1] for row in TABLE]
    for column, reward in zip((2, 3, 4), FUNCTIONS, strict=True):
        assert reward(completions=completions, label=label) == [row[column] for row in TABLE]


@pytest.mark.parametrize("reward", FUNCTIONS)
def test_other_dataset_columns_are_let_through(reward: Any) -> None:
    scores = reward(
        prompts=["p"], completions=[say(UP)], completion_ids=[[1]], label=[UP], item_id=["k562|A|B"], trainer_state=None
    )
    assert len(scores) == 1
    assert scores[0] > 0


@pytest.mark.parametrize("reward", FUNCTIONS)
def test_an_empty_batch_has_no_scores(reward: Any) -> None:
    assert reward(completions=[], label=[]) == []


@pytest.mark.parametrize("reward", [accuracy, balanced_accuracy])
@pytest.mark.parametrize(
    ("label", "words"),
    [
        (["up"], "label, row 0: 'up' is not a label"),
        ([1], "label, row 0: 1 is not a label"),
        ([None], "label, row 0: None is not a label"),
        (["Upregulated"], "'Upregulated' is not a label"),
        ([UP, UP], "2 labels for 1 completions"),
        ([], "0 labels for 1 completions"),
    ],
)
def test_a_wrong_label_column_is_an_error_not_a_score(reward: Any, label: list[Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        reward(completions=[say(UP)], label=label)


def test_a_wrong_label_beside_a_failed_generation_is_still_an_error() -> None:
    with pytest.raises(InputError):
        accuracy([None], ["up"])


def test_content_that_is_no_text_is_an_error_not_a_score() -> None:
    with pytest.raises(InputError, match="content must be text, not list"):
        accuracy([[{"role": "assistant", "content": [{"type": "text", "text": say(UP)}]}]], [UP])  # type: ignore[list-item]


def test_the_last_message_counts() -> None:
    first, last = {"role": "assistant", "content": say(UP)}, {"role": "assistant", "content": say(DOWN)}
    assert completion_text([first, last]) == say(DOWN)
    assert completion_text([{"role": "assistant", "content": None}]) is None


@pytest.mark.parametrize("counts", [dict(OFFICIAL_TRAIN_COUNTS), {UP: 5, DOWN: 2, NONE: 93}, {UP: 1, DOWN: 1, NONE: 1}])
def test_a_constant_answer_earns_a_third_and_a_perfect_one_1_on_average(counts: dict[Any, int]) -> None:
    reward, total = BalancedAccuracy(counts), sum(counts.values())

    def mean(answers: dict[str, str]) -> float:
        scores = {label: reward([say(answers[label])], [label])[0] for label in map(str, counts)}
        return sum(float(scores[str(label)] or 0.0) * count for label, count in counts.items()) / total

    for constant in LABELS:
        assert mean(dict.fromkeys(map(str, LABELS), str(constant))) == pytest.approx(1 / 3)
    assert mean({str(label): str(label) for label in LABELS}) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({UP: 1, DOWN: 1}, f"no training row is '{NONE}'"),
        ({UP: 0, DOWN: 1, NONE: 1}, f"no training row is '{UP}'"),
        ({UP: -1, DOWN: 1, NONE: 1}, f"no training row is '{UP}'"),
        ({UP: 1, DOWN: 1, NONE: 1, "up": 1}, "'up' is not a label"),
        ({}, "no training row"),
    ],
)
def test_class_counts_that_give_no_weights_are_refused(counts: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        BalancedAccuracy(counts)


def test_balanced_accuracy_survives_pickling_with_its_weights() -> None:
    reward = BalancedAccuracy({UP: 5, DOWN: 2, NONE: 93})
    copy = pickle.loads(pickle.dumps(reward))
    assert copy.__name__ == "balanced_accuracy"
    completions, label = [say(UP), say(DOWN), say(UP), None], [UP, DOWN, DOWN, NONE]
    assert copy(completions, label) == reward(completions, label)
    assert reward(completions, label)[1] == pytest.approx(100 / 6)


def test_every_reward_has_the_name_that_trl_logs() -> None:
    assert [reward.__name__ for reward in FUNCTIONS] == ["accuracy", "balanced_accuracy", "format"]


def test_official_train_counts_are_those_of_the_full_data(full_frame: pd.DataFrame) -> None:
    counts = full_frame.loc[full_frame["split"] == "train", "label"].value_counts()
    assert {str(label): n for label, n in OFFICIAL_TRAIN_COUNTS.items()} == counts.to_dict()
