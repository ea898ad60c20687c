"""What a batch's log tells, what is stored of it, and completions that are judged in part."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lazily import Lazy

from rewards import LABELS, CheckError, Component, Composition, accuracy, parse_answer
from rewards import format as format_reward
from rl.lab.replay import as_trained, replay
from rl.recording import Recorder, batch_metrics
from rl.rollout_files import read_rollouts

torch, tiny_policy, trainers = Lazy("torch"), Lazy("tiny_policy"), Lazy("rl.trainer")

UP, DOWN, NONE = map(str, LABELS)
NAN = float("nan")


def say(answer: str) -> str:
    return f"because</think><answer>{answer}</answer>"


def recorder(path: Path, rank: int = 0) -> Recorder:
    components = [Component("accuracy", accuracy, 2.0), Component("format", format_reward, 0.5)]
    return Recorder(path, components, prefix="<think>", rank=rank)


def take_in(one: Recorder, step: int) -> None:
    inputs: list[dict[str, Any]] = [
        {"item_id": f"k562|P|{gene}", "cell_line": "k562", "pert": "P", "gene": gene, "label": UP, "other": 1}
        for gene in ("A", "A", "B", "B")
    ]
    completions = [[{"role": "assistant", "content": say(answer)}] for answer in (UP, DOWN, UP, "x")]
    prompts = [[{"role": "user", "content": "why?"}]] * 4
    one.batch(step, inputs, prompts, completions, [5, 6, 7, 8], [[1.0, 1.0], [0.0, 1.0], [NAN, NAN], [NAN, 0.0]], 2)


def test_a_batch_is_stored_as_the_rewards_saw_it(tmp_path: Path) -> None:
    one = recorder(tmp_path)
    take_in(one, 3)
    assert not (tmp_path / "rollouts").exists()  # not before its advantages are known
    one.store([0.1, -0.1, 0.0, 0.0])
    frame = read_rollouts(tmp_path)
    assert frame["completion"].iloc[0] == "<think>" + say(UP)
    assert frame["answer"].tolist()[:3] == [UP, DOWN, UP]
    assert frame["status"].tolist() == ["answered", "answered", "answered", "malformed"]
    assert frame["group"].tolist() == ["3.0.0.0", "3.0.0.0", "3.0.0.1", "3.0.0.1"]
    assert frame["total_reward"].fillna(-1).tolist() == [2.5, 0.5, -1, 0.0]
    assert frame["reward/accuracy"].isna().tolist() == [False, False, True, True]
    assert frame["completion_tokens"].tolist() == [5, 6, 7, 8]
    assert frame["prompt"].tolist() == ["why?"] * 4
    assert frame["advantage"].tolist() == [0.1, -0.1, 0.0, 0.0]
    assert one.store([0.0] * 4) is None  # nothing taken in


def test_batches_of_one_step_and_of_other_processes_have_files_of_their_own(tmp_path: Path) -> None:
    for one in (recorder(tmp_path), recorder(tmp_path, rank=1)):
        for step in (1, 1, 2):
            take_in(one, step)
            one.store([0.0] * 4)
    frame = read_rollouts(tmp_path)
    assert len(frame) == 24 and frame["group"].nunique() == 12


def test_what_the_log_tells_of_a_batch() -> None:
    texts = ["<think>" + say(UP), "<think>" + say(UP), "<think>" + say(DOWN), "x", None, "<think>" + say(UP)]
    facts = batch_metrics(
        [parse_answer(text) for text in texts], [UP, UP, UP, UP, UP, None], [1, 1, 0, None, None, 1], 2, 0
    )
    assert facts["answered_accuracy"] == pytest.approx(2 / 4)  # a failed generation is neither right nor wrong
    assert facts[f"answer/{UP}"] == 0.75 and facts[f"answer/{DOWN}"] == 0.25
    assert facts["status/answered"] == pytest.approx(4 / 6) and facts["status/error"] == pytest.approx(1 / 6)
    assert facts["unscorable"] == pytest.approx(2 / 6)
    assert facts["zero_variance_groups"] == 1.0  # of the one group with two scores
    assert batch_metrics([parse_answer("x")], [None], [0.0], 1, 5)["unscorable"] == 1.0
    assert "answered_accuracy" not in batch_metrics([parse_answer(None)], [UP], [None], 1, 0)


def test_what_a_gate_cuts_off_is_counted_too(tmp_path: Path) -> None:
    limited, gate = SimpleNamespace(cut_off=2), SimpleNamespace(cut_off=3)
    one = Recorder(tmp_path, [Component("a", limited, gate=gate), Component("accuracy", accuracy)])
    assert one.newly_cut_off() == 5
    gate.cut_off = 4
    assert one.newly_cut_off() == 1


def test_a_completion_judged_in_part_is_taken_out_and_a_group_that_lacks_a_part_is_not() -> None:
    scores = torch.tensor([[1.0, NAN], [1.0, 0.5], [1.0, NAN], [0.0, NAN]])
    kept = trainers.without_partly_judged(scores, 2)
    assert all(math.isnan(value) for value in kept[0].tolist())
    assert kept[1].tolist() == [1.0, 0.5]
    assert kept[2:, 0].tolist() == [1.0, 0.0]
    assert torch.isnan(trainers.without_partly_judged(torch.full((2, 2), NAN), 2)).all()


def test_completions_are_kept_where_a_reward_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A corrected reward can then be tried on them."""

    def fails(completions: Any, **columns: Any) -> list[float]:
        raise ZeroDivisionError("division by zero")

    component = Component("fails", fails, ours=False)
    trainer = tiny_policy.make_trainer(
        tmp_path / "trainer", monkeypatch, prefix_tree="off", num_generations=2, per_device_train_batch_size=2
    )
    trainer.recorder = Recorder(tmp_path, [component])
    trainer.reward_funcs = [trainers.TrainerReward(component)]
    row = {"item_id": "k562|P|A", "cell_line": "k562", "pert": "P", "gene": "A", "label": UP, "prompt": "why?"}
    asked = ([row] * 2, ["why?"] * 2, ["<think>" + say(UP), "x"], [[1, 2, 3], [4]])
    trainer.model.eval()
    with pytest.raises(CheckError, match="division by zero"):
        trainer._calculate_rewards(*asked)
    assert not (tmp_path / "rollouts").exists()  # held-out completions never are
    trainer.model.train()
    with pytest.raises(CheckError, match="division by zero"):
        trainer._calculate_rewards(*asked)
    frame = read_rollouts(tmp_path)
    assert frame["completion"].tolist() == ["<think>" + say(UP), "x"]
    assert frame["completion_tokens"].tolist() == [3, 1]
    assert frame[["reward/fails", "total_reward", "advantage"]].isna().all(axis=None)
    scored = Composition((Component("accuracy", accuracy),))
    assert replay(frame, scored, "corrected").total_N.tolist() == [1.0, 0.0]
    assert all(math.isnan(total) for total in as_trained(frame).total_N)
