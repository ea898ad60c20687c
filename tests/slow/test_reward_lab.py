"""A composed reward in GRPO: rollouts stored and replayed, a hanging reward cut off, a stopped run goes on."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.runs import read_manifest
from rl.rollout_files import read_rollouts

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]

OWN = '''
"""Rewards of one's own."""
import time

from rewards import completion_text


def vowels(completions, **columns):
    texts = [completion_text(completion) for completion in completions]
    return [sum(text.lower().count(vowel) for vowel in "aeiou") / (1 + len(text)) for text in texts]


def hangs(completions, **columns):
    while True:
        time.sleep(1)


def same(completions, prompts, completion_ids, step, **columns):
    assert type(step) is int and step in (1, 2), step
    assert set(columns) == {"item_id", "cell_line", "pert", "gene", "label"}, sorted(columns)
    for completion, prompt, ids in zip(completions, prompts, completion_ids, strict=True):
        assert completion[-1]["role"] == "assistant" and isinstance(completion[-1]["content"], str)
        assert prompt[-1]["role"] == "user" and prompt[-1]["content"]
        assert len(ids) > 0 and all(type(one) is int for one in ids)
    return [float(step)] * len(completions)
'''


def run(*words, cwd, code=0):
    env = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "rl.cli", *map(str, words)], cwd=cwd, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout[-1500:] + done.stderr[-3000:]
    return done


COMMON = {
    "dtype": "float32", "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1,
    "gradient_checkpointing": False, "bf16": False, "use_cpu": True, "seed": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """A folder with a tiny model, a finished stage one, and a reward file."""
    from benchmarks.evidence.prompts import PromptConfig
    from sft.teacher.generate import TraceArguments, generate_traces

    folder = tmp_path_factory.mktemp("lab")
    (folder / "tiny").symlink_to(tiny_model)
    traces, _ = generate_traces(
        TraceArguments(str(folder / "traces.jsonl"), data="sample", rows=24, prompt=PromptConfig(evidence=3))
    )
    values = {
        "output_dir": str(folder / "sft"), "traces": str(traces), "model_name_or_path": str(folder / "tiny"),
        "use_peft": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": ["all-linear"],
        "max_length": 512, "max_steps": 2, "gate_prompts": 0, **COMMON,
    }  # fmt: skip
    (folder / "sft.yaml").write_text(yaml.safe_dump(values))
    run("sft", "--config", "sft.yaml", cwd=folder)
    (folder / "mine.py").write_text(OWN)
    return folder


def write_grpo(folder, name, **values):
    common = {
        "output_dir": name, "sft_run": "sft", "data": "sample", "evidence": 3, "train_items": 12, "balance": True,
        "rollouts": "transformers", "beta": 0.0, "model_name_or_path": str(folder / "tiny"), "max_steps": 4,
        "num_generations": 4, "max_completion_length": 24, "save_steps": 2, **COMMON,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**common, **values}))
    return path


REWARDS = [
    {"name": "mine.py:vowels", "weight": 2.0, "schedule": {1: 0.0, 3: 1.0}},
    {"name": "margin", "gate": "format"},
    "graded_format",
]


@pytest.fixture(scope="module")
def trained(folder):
    path = write_grpo(
        folder, "composed", rewards=REWARDS, held_out_items=4, eval_strategy="steps", eval_steps=2,
        eval_on_start=True, num_generations_eval=1, per_device_eval_batch_size=4,
    )  # fmt: skip
    run("grpo", "--config", path, cwd=folder)
    return folder / "composed"


def test_every_step_stores_its_rollouts_with_each_component(trained):
    frame = read_rollouts(trained)
    assert sorted(set(frame["step"])) == [1, 2, 3, 4]
    assert set(frame.groupby("group").size()) == {4}
    assert (frame.groupby("group")["item_id"].nunique() == 1).all()
    vowels = frame["reward/mine.py:vowels"]
    assert (vowels[frame["step"] == 1] == 0).all()  # the schedule begins at 0
    assert (vowels[frame["step"] >= 3] > 0).any()
    total = 2 * vowels + frame["reward/margin"] + frame["reward/graded_format"]
    assert total.to_numpy() == pytest.approx(frame["total_reward"].to_numpy(), abs=1e-5)
    centred = frame.groupby("group")["total_reward"].transform(lambda rows: rows - rows.mean())
    assert ((centred > 1e-4) == (frame["advantage"] > 1e-4)).all()  # paid above its group, pushed up


def test_the_log_tells_answers_statuses_variance_and_held_out_accuracy(trained):
    entries = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if "reward" in entry]
    assert len(steps) == 4
    for entry in steps:
        assert {"zero_variance_groups", "unscorable", "status/answered", "rewards/margin/mean"} <= set(entry)
    held_out = [entry for entry in entries if "eval_held_out_accuracy" in entry]
    assert [entry["step"] for entry in held_out] == [0, 2, 4]
    assert held_out[0]["eval_held_out_items"] == 4
    assert all(entry["eval_greedy_accuracy"] in (0, 0.25, 0.5, 0.75, 1) for entry in held_out)
    assert abs(held_out[0]["eval_kl"]) < 1e-6 < held_out[-1]["eval_kl"]  # from the SFT policy
    for entry in held_out:
        (path,) = (trained / "held-out").glob(f"step-{entry['step']:07d}-*")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == 4 and {len(row["sampled"]) for row in rows} == {1}
        assert sum(row["sampled"] == [row["label"]] for row in rows) / 4 == entry["eval_held_out_accuracy"]
        assert sum(row["greedy"] == row["label"] for row in rows) / 4 == entry["eval_greedy_accuracy"]
    assert sorted(path.name for path in (trained / "adapter").iterdir() if path.is_dir()) == []  # no reference in it
    assert read_manifest(trained)["alarms"] == []


def test_held_out_items_are_not_trained_on(trained):
    items = set((trained / "items.txt").read_text().split())
    rollouts = read_rollouts(trained)
    assert items == set(rollouts["item_id"]) and len(items) == read_manifest(trained)["prompts"]["asked"] < 12


def test_sft_learns_the_labels_that_grpo_saw_from_the_same_start(folder, trained):
    words = ("sft", "--config", "sft.yaml", "--labels_of", "composed", "--traces", "", "--output_dir", "rival")
    run(*words, cwd=folder)
    rival, grpo = read_manifest(folder / "rival"), read_manifest(trained)
    assert rival["start_adapter_sha256"] == grpo["sft_adapter_sha256"]
    asked = (trained / "items.txt").read_text().splitlines()
    assert (folder / "rival" / "items.txt").read_text().splitlines() == asked
    traces = [json.loads(line) for line in (trained / "labels.jsonl").read_text().splitlines()]
    assert {trace["completion"] for trace in traces} == {
        f"<think></think><answer>{trace['label']}</answer>" for trace in traces
    }
    stored = read_rollouts(trained).set_index("item_id")
    assert all(stored.loc[[trace["item_id"]], "label"].iloc[0] == trace["label"] for trace in traces)
    from benchmarks.models.folders import read_trained_items

    both = set((folder / "sft" / "items.txt").read_text().split()) | set(asked)
    assert read_trained_items(folder / "rival" / "adapter") == both
    run(*words, cwd=folder)  # finished: nothing is done again
    told = run(*words[:-1], "other", "--lora_r", "8", cwd=folder, code=2).stderr
    assert "lora_r: 8, but" in told and "has 4; use the same" in told


def test_what_was_trained_with_is_what_a_replay_pays(folder, trained):
    done = run("rewards", "replay", "composed.yaml", "--rollouts", "composed", "--out", "page", cwd=folder)
    assert "page/replay.html" in done.stdout
    summary = json.loads((folder / "page" / "replay.json").read_text())
    ours, stored = summary["configs"]
    assert stored["name"] == "as trained"
    assert ours["total"]["mean"] == pytest.approx(stored["total"]["mean"], abs=1e-5)
    assert summary["comparison"]["within"] == pytest.approx(1.0, abs=1e-4)
    for one in (ours, stored):
        weights = {name: part["weight"] for name, part in one["components"].items()}
        assert weights == {"mine.py:vowels": 2.0, "margin": 1.0, "graded_format": 1.0}


def test_a_resumed_run_has_the_rollouts_of_one_that_never_stopped(folder, trained):
    path = write_grpo(folder, "resumed", rewards=REWARDS, max_steps=4)
    run("grpo", "--config", path, cwd=folder)
    whole = read_rollouts(folder / "resumed")
    checkpoint = folder / "resumed" / "checkpoints" / "checkpoint-4"
    manifest = json.loads((folder / "resumed" / "manifest.json").read_text())
    (folder / "resumed" / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    for file in sorted(checkpoint.glob("*")):
        file.unlink() if file.is_file() else None
    shutil.rmtree(checkpoint)
    run("grpo", "--config", path, cwd=folder)
    again = read_rollouts(folder / "resumed")
    assert len(again) == len(whole)
    assert again["group"].tolist() == whole["group"].tolist()
    assert again["item_id"].tolist() == whole["item_id"].tolist()
    entries = [json.loads(line) for line in (folder / "resumed" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "reward" in entry] == [1, 2, 3, 4]


def test_the_pages_own_reward_trains_by_the_pages_commands(folder):
    page = (REPO / "docs" / "rewards.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("synthpert grpo")]
    own = folder / "page-command"
    own.mkdir()
    for name, text in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", page, re.DOTALL):
        (own / name).write_text(text)
    config = write_grpo(folder, "page-command/page", max_steps=1)
    for line, steps in zip(lines, (2, 1), strict=True):  # the page's trial, then the run of the configuration
        words = shlex.split(line)[1:]
        words[words.index("--config") + 1] = str(config)
        run(*words, "--sft_run", folder / "sft", cwd=own)
        frame = read_rollouts(own / words[words.index("--out") + 1])
        assert frame["reward/mine.py:right_and_brief"].notna().all()
        assert frame["step"].max() == steps


def test_a_reward_beside_the_configuration_sees_the_columns_of_check_and_replay(folder, tmp_path):
    path = write_grpo(
        folder, "beside", output_dir=str(folder / "beside"), sft_run=str(folder / "sft"), max_steps=2,
        rewards=["mine.py:same", "confidence", "graded_format"], scale_rewards="batch",
    )  # fmt: skip
    done = run("grpo", "--config", path, cwd=tmp_path)  # mine.py stands beside the configuration, not here
    assert "do not ask for a <confidence>" in done.stderr
    notes = read_manifest(folder / "beside")["reward_notes"]
    assert any("do not ask for a <confidence>" in note for note in notes)
    frame = read_rollouts(folder / "beside")
    assert (frame["reward/mine.py:same"] == frame["step"]).all()
    assert (frame["reward/confidence"] == -1).all()
    run("rewards", "replay", path, "--rollouts", folder / "beside", cwd=tmp_path)
    ours, stored = json.loads((tmp_path / "runs" / "replay" / "replay.json").read_text())["configs"]
    assert dict(ours["by_step"]) == pytest.approx(dict(stored["by_step"]), abs=1e-5)


def test_a_scaling_that_trl_does_not_know_ends_before_the_run(folder):
    path = write_grpo(folder, "bananas", rewards=["accuracy"], scale_rewards="bananas")
    done = run("grpo", "--config", path, cwd=folder, code=2)
    assert "scale_rewards: 'bananas' is unknown" in done.stderr
    assert not (folder / "bananas").exists()


def test_a_hanging_reward_is_cut_off_and_the_run_ends_by_its_alarm(folder):
    path = write_grpo(folder, "hanging", alarms="stop", max_steps=2, rewards=[
        {"name": "mine.py:hangs", "timeout": 0.5}, "graded_format"])  # fmt: skip
    done = run("grpo", "--config", path, cwd=folder, code=1)
    assert "unscorable" in done.stderr and "Traceback" not in done.stderr
    frame = read_rollouts(folder / "hanging")
    assert frame["reward/mine.py:hangs"].isna().all()
    assert frame["total_reward"].notna().all()  # the other reward still judges
    assert "unscorable" in (folder / "hanging" / "alarms.jsonl").read_text()
    (entry,) = [json.loads(line) for line in (folder / "hanging" / "log.jsonl").read_text().splitlines()]
    assert entry["step"] == 1 and "unscorable" in entry  # the step that raised it is in the log
