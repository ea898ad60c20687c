"""A dry run samples each prompt as often as asked, with the run's own trainer, and changes no weight."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from lazily import Lazy

from rewards import LABELS, CheckError, Component, InputError
from rl.chosen import facts_path, read_chosen
from rl.preflight import run
from rl.preflight.estimate import Cost
from rl.preflight.run import DryRun, dry_run
from rl.recording import Recorder
from rl.train import GRPOArguments

torch, tiny_policy, trainers = Lazy("torch"), Lazy("tiny_policy"), Lazy("rl.trainer")

ITEMS = [f"k562|P{number}|A" for number in range(5)]
FACTS = {"temperature": 1.0, "max_completion_length": 4}
COST = Cost(
    rollout=1, reward=1, sync=0, scoring=1, micro_batch=1, completions=4, micro_batches=1, batches=1, reference=False,
    corrected=False, skipped=True, steps=3,
)  # fmt: skip


def length(completions: Any, **columns: Any) -> list[float]:
    """A reward that random text varies in, but for one prompt."""
    return [
        0.0 if item == ITEMS[0] else float(len(text))
        for item, text in zip(columns["item_id"], completions, strict=True)
    ]


def measure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, samples: int, **keys: Any
) -> tuple[DryRun, Any, dict[str, Any]]:
    """A dry run of the tiny policy; what it found, its trainer, and the weights before."""
    from datasets import Dataset

    trainer = tiny_policy.make_trainer(
        folder / "trainer", monkeypatch, prefix_tree="auto", num_generations=2, per_device_train_batch_size=2,
        gradient_accumulation_steps=2, max_steps=7, **keys,
    )  # fmt: skip
    columns = {"item_id": ITEMS, "cell_line": ["k562"] * 5, "pert": ["P"] * 5, "gene": ["A"] * 5}
    trainer.train_dataset = Dataset.from_dict(
        {"prompt": ["w2 w3", "w4", "w5 w6 w7", "w8", "w9 w2"], **columns, "label": [str(LABELS[0])] * 5}
    )
    component = Component("length", length)
    trainer.recorder, trainer.reward_funcs = Recorder(folder, [component]), [trainers.TrainerReward(component)]
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    prompts = SimpleNamespace(corpus=SimpleNamespace(digest="data"))
    monkeypatch.setattr(run, "make_ready", lambda stage: (prompts, None, None, None))
    monkeypatch.setattr(run, "make_trainer", lambda *arguments: trainer)
    stage: Any = SimpleNamespace(args=trainer.args, ours=GRPOArguments("sft"), sft={"adapter_sha256": "abc"})
    progress: Any = SimpleNamespace(phase=lambda *words: None, at=lambda done: None)
    return run._measure(stage, samples, None, folder, progress), trainer, before


def test_each_prompt_is_sampled_as_often_as_asked_and_nothing_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, trainer, before = measure(tmp_path, monkeypatch, 4, beta=0.1)
    assert dict(zip(found.prompts["item_id"], found.prompts["samples"], strict=True)) == dict.fromkeys(ITEMS, 4)
    assert found.prompts.set_index("item_id")["dead"][ITEMS[0]] == 1
    assert found.prompts["dead"].min() < 1
    assert trainer.state.global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())
    assert all(value.grad is None for value in trainer.model.parameters())
    # The cost is that of the run's own parts.
    cost = found.cost
    assert (cost.completions, cost.micro_batches, cost.batches, cost.steps) == (4, 2, 1.0, 7)
    assert cost.reference and not cost.skipped and not cost.corrected
    assert cost.scoring is not None and min(cost.rollout, cost.scoring, cost.micro_batch) > 0 == cost.sync
    text = "\n".join(found.lines())
    assert "5 prompts, 20 completions of the SFT policy by transformers, temperature 1.0" in text
    assert "for 7 steps" in text
    assert "beta > 0 takes" in text


# --- what is written -----------------------------------------------------------------------------------------------


def dry(dead: list[float]) -> DryRun:
    frame = pd.DataFrame({"item_id": ITEMS[: len(dead)], "dead": dead})
    frame = frame.assign(label="", samples=4, pass_rate=[0.25, *[float("nan")] * (len(dead) - 1)], mean_reward=1 / 3)
    return DryRun(frame, COST, 2, 3.0, 0.0, "vllm", FACTS)


def test_the_prompts_that_can_teach_are_written_with_how_they_were_chosen(tmp_path: Path) -> None:
    path = tmp_path / "chosen.csv"
    assert dry([0.5, 1.0, 0.0]).write(path) == 2
    assert read_chosen(path) == [ITEMS[0], ITEMS[2]]
    lines = path.read_text().splitlines()
    assert lines[0].split(",") == ["item_id", "dead", "samples", "pass_rate", "mean_reward"]
    assert lines[2] == f"{ITEMS[2]},0.0,4,,0.333333"
    assert json.loads(facts_path(path).read_text()) == {**FACTS, "prompts": 3, "kept": 2}


def test_where_no_prompt_can_teach_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="not written, since all samples of each prompt earned the same"):
        dry([1.0, 1.0]).write(tmp_path / "chosen.csv")
    assert not [*tmp_path.iterdir()]


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [0, 1, 6])
def test_samples_are_whole_groups(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    stage = SimpleNamespace(args=SimpleNamespace(num_generations=4))
    monkeypatch.setattr(run, "read_stage", lambda *words: stage)
    with pytest.raises(InputError, match=rf"--samples {samples}: give a multiple of num_generations \(4\)"):
        dry_run({}, samples=samples)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="takes one process"):
        dry_run({})
