"""Both stages on a tiny random Llama: what must move moves, what must not does not; and the whole path by command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from lazily import Lazy

from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.models.folders import adapter_sha256
from benchmarks.runs import read_manifest
from rl.rollout_files import read_rollouts

torch, safetensors = Lazy("torch"), Lazy("safetensors.torch")

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]


def run(*words, cwd, check=True, env=None):
    env = {**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1", **(env or {})}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


COMMON = {
    "dtype": "float32", "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1,
    "gradient_checkpointing": False, "bf16": False, "use_cpu": True, "seed": 3,
}  # fmt: skip


def write(path, **values):
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def sft(folder, tiny_model):
    """A finished stage one, and what its driver saw."""
    from sft.teacher.generate import TraceArguments, generate_traces

    traces, _ = generate_traces(
        TraceArguments(str(folder / "traces.jsonl"), data="sample", rows=24, prompt=PromptConfig(evidence=3))
    )
    config = write(
        folder / "sft.yaml", output_dir=str(folder / "sft"), traces=str(traces), model_name_or_path=str(tiny_model),
        use_peft=True, lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_target_modules=["all-linear"], max_length=512,
        max_steps=4, gate_prompts=0, **COMMON,
    )  # fmt: skip
    run(REPO / "tests/slow/driver.py", "sft", config, folder / "sft.json", cwd=folder)
    return folder / "sft", json.loads((folder / "sft.json").read_text()), config


def test_sft_moves_every_lora_weight_and_no_base_weight(sft):
    _, seen, _ = sft
    assert seen["lora"] == 2 * 2 * 7  # layers x (A, B) x linear layers
    assert seen["stuck"] == [] and seen["moved"] == [] and seen["base"] > 0


def test_a_student_that_gives_no_answer_fails_the_gate(sft, folder):
    _, _, config = sft
    out = folder / "gated"
    words = ["-m", "rl.cli", "sft", "--config", config, "--output_dir", out, "--gate_prompts", "8"]
    done = run(*words, cwd=folder, check=False)
    assert done.returncode == 1
    assert "synthpert: gate: 0% of 8 completions on training prompts end and give an answer" in done.stderr
    assert len(json.loads((out / "gate.json").read_text())["worst"]) == 5
    manifest = read_manifest(out)
    assert manifest["status"] == "failed" and manifest["error"].startswith("gate: 0% of 8 completions")
    assert run(*words, "--gate_share", "1.5", cwd=folder, check=False).returncode == 2


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_two_processes_leave_one_finished_run(sft, tiny_model, folder, stage):
    path, _, config = sft
    out = folder / f"two-{stage}"
    words = ["sft", "--config", config, "--max_steps", 2, "--gate_prompts", 4, "--gate_share", 0]
    if stage == "grpo":
        config = write(
            folder / "two-grpo.yaml", output_dir=str(out), sft_run=str(path), data="sample", evidence=3, train_items=12,
            rollouts="transformers", beta=0.0, model_name_or_path=str(tiny_model), max_steps=2, num_generations=4,
            max_completion_length=16, **COMMON,
        )  # fmt: skip
        words = ["grpo", "--config", config]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", "rl.cli"]
    on_cpu = ["--ddp_find_unused_parameters", "false", "--ddp_backend", "gloo"]
    done = run(*launcher, *words, "--output_dir", out, *on_cpu, cwd=folder, env={"ACCELERATE_USE_CPU": "true"})
    assert done.stdout.count(": done") == 1
    manifest = read_manifest(out)
    assert (manifest["status"], manifest["steps"]) == ("done", 2)
    assert manifest["adapter_sha256"] == adapter_sha256(out / "adapter")
    if stage == "sft":
        assert manifest["gate"]["prompts"] == 4 and (out / "gate.json").is_file()


def test_the_audit_is_in_the_manifest(sft):
    assert read_manifest(sft[0])["screen"] == open_corpus("sample").facts()
    audit = read_manifest(sft[0])["audit"]
    assert audit["clean"] is True and audit["split"] == "official" and audit["traces"] == 24
    assert audit["checks"]["every item is a training item"] == "0 of 24 fail"


def test_same_seed_same_adapter_and_another_seed_another(sft, folder):
    path, _, config = sft
    for name, seed in (("again", 3), ("other", 4)):
        run("-m", "rl.cli", "sft", "--config", config, "--output_dir", folder / name, "--seed", seed, cwd=folder)
    hashes = [read_manifest(p)["adapter_sha256"] for p in (path, folder / "again", folder / "other")]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.needs_vllm)])
def test_grpo_moves_every_lora_weight_from_the_sft_policy(sft, tiny_model, folder, engine):
    path, _, _ = sft
    config = write(
        folder / f"grpo-{engine}.yaml", output_dir=str(folder / f"grpo-{engine}"), sft_run=str(path), data="sample",
        evidence=3, train_items=12, balance=True, rollouts=engine, beta=0.1, model_name_or_path=str(tiny_model),
        max_steps=3, num_generations=4, max_completion_length=24, **COMMON,
    )  # fmt: skip
    run(REPO / "tests/slow/driver.py", "grpo", config, folder / "seen.json", cwd=folder)
    seen = json.loads((folder / "seen.json").read_text())
    assert seen["lora"] == 28 and seen["stuck"] == []
    assert seen["moved"] == [] and seen["base"] > 0
    assert seen["reference"] == 28 and seen["reference_moved"] == []  # the reference stays the SFT policy
    manifest = read_manifest(folder / f"grpo-{engine}")
    assert manifest["rollouts"]["engine"] == engine and manifest["rollouts"]["tokens"] > 0
    assert manifest["sft_audit"] == read_manifest(path)["audit"]
    assert abs(manifest["first_kl"]) < 1e-6
    if engine == "vllm":
        assert manifest["mean_abs_logprob_difference"] < 0.1
    trained = set((folder / f"grpo-{engine}" / "items.txt").read_text().split())
    assert len(trained) == manifest["prompts"]["asked"] < 12 == manifest["prompts"]["items"]
    assert not trained & set((path / "items.txt").read_text().split())
    both = set((folder / f"grpo-{engine}" / "adapter" / "items.txt").read_text().split())
    assert both == trained | set((path / "items.txt").read_text().split())


def test_another_trainer_class_is_an_argument(sft, tiny_model, folder):
    """What CONTRIBUTING's recipe does: a subclass, handed to `rl.train`."""
    from rl import train
    from rl.trainer import GRPOTrainer

    class NoAdvantage(GRPOTrainer):
        """Learns nothing: all completions are worth the same."""

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            return {**output, "advantages": output["advantages"] * 0}

    path, _, _ = sft
    config = {
        "output_dir": str(folder / "other-trainer"), "sft_run": str(path), "data": "sample", "evidence": 3,
        "train_items": 4, "rollouts": "transformers", "beta": 0.0, "model_name_or_path": str(tiny_model),
        "max_steps": 1, "num_generations": 4, "max_completion_length": 8, **COMMON,
    }  # fmt: skip
    out = train(config, trainer_class=NoAdvantage)
    manifest = read_manifest(out)
    assert manifest["status"] == "done" and manifest["rollouts"]["completions"] == 4
    assert len(list((out / "rollouts").glob("step-*.parquet"))) == 1
    before, after = (safetensors.load_file(run / "adapter" / "adapter_model.safetensors") for run in (path, out))
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.needs_vllm
def test_vllm_writes_by_the_policy_of_an_adapter_that_it_does_not_know(tiny_model, folder):
    """DoRA, and whole modules beside it: what vLLM has is what the trainer has, from the first step on."""
    from transformers import AutoModelForCausalLM

    from sft.teacher.generate import TraceArguments, generate_traces

    untied = folder / "untied"
    shutil.copytree(tiny_model, untied)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, tie_word_embeddings=False)
    model.lm_head.weight.data = model.model.embed_tokens.weight.data.clone()
    model.save_pretrained(untied)
    traces = TraceArguments(str(folder / "untied.jsonl"), data="sample", rows=24, prompt=PromptConfig(evidence=3))
    generate_traces(traces)
    config = write(
        folder / "dora.yaml", **{**COMMON, "learning_rate": 3e-2}, output_dir=str(folder / "dora"),
        traces=traces.output, model_name_or_path=str(untied), use_peft=True, lora_r=4, lora_alpha=8, lora_dropout=0.0,
        lora_target_modules=["all-linear"], lora_modules_to_save=["lm_head", "embed_tokens"], use_dora=True,
        max_length=512, max_steps=4, gate_prompts=0,
    )  # fmt: skip
    run("-m", "rl.cli", "sft", "--config", config, cwd=folder)
    config = write(
        folder / "dora-grpo.yaml", **{**COMMON, "learning_rate": 1e-2}, output_dir=str(folder / "dora-grpo"),
        sft_run=str(folder / "dora"), data="sample", evidence=3, train_items=12, rollouts="vllm", beta=0.1,
        model_name_or_path=str(untied), max_steps=3, num_generations=4, max_completion_length=24,
        rewards=["vowels.py:vowels"], correct_always=True,  # each step logs the difference
    )  # fmt: skip
    shutil.copy(REPO / "tests/slow/driver.py", folder / "vowels.py")
    run("-m", "rl.cli", "grpo", "--config", config, cwd=folder)
    steps = [json.loads(line) for line in (folder / "dora-grpo" / "log.jsonl").read_text().splitlines()]
    differences = [step["sampling/sampling_logp_difference/max"] for step in steps if "reward" in step]
    assert len(differences) == 3 and max(differences) < 1e-3
    assert abs(read_manifest(folder / "dora-grpo")["first_kl"]) < 1e-6


def test_eval_report_and_refusals_by_command(sft, tiny_model, folder, smollm2):
    path, _, _ = sft
    words = ["-m", "rl.cli", "eval", "--config", write(
        folder / "eval.yaml", output_dir=str(folder / "eval"), model=str(tiny_model), engine="transformers",
        data="sample", evidence=3, items=4, max_tokens=8, chunk=8,
    )]  # fmt: skip
    run(*words, cwd=folder)
    run(*words, "--output_dir", folder / "eval-sft", "--adapter", path / "adapter", "--name", "SFT", cwd=folder)
    run("-m", "rl.cli", "report", "eval", "eval-sft", "sft", "--out", "report", cwd=folder)
    report = json.loads((folder / "report" / "report.json").read_text())
    shortcuts = {"majority class", "class prior", "gene rate", "cross-line neighbours"}
    assert set(report["systems"]) == {"eval", "SFT", *shortcuts}
    page = (folder / "report" / "report.html").read_text()
    assert "every item is a training item" in page and "0 of 24 fail" in page  # the audit is told
    assert report["systems"]["SFT"]["metrics"]["three_class"]["all"]["accuracy"]["n"] == 16

    again = run(*words, cwd=folder)  # a finished run is kept
    assert "of 16 completions" not in again.stderr
    changed = run(*words, "--max_tokens", "9", cwd=folder, check=False)
    assert changed.returncode == 2 and "max_tokens" in changed.stderr and "Traceback" not in changed.stderr
    other = run(*words, "--output_dir", "x", "--model", smollm2, "--adapter", path / "adapter", cwd=folder, check=False)
    assert other.returncode == 2 and "another base model" in other.stderr
    missing = run(*words, "--output_dir", "y", "--model", "no/such/model", cwd=folder, check=False)
    assert missing.returncode == 2 and "no/such/model" in missing.stderr and "Traceback" not in missing.stderr


def test_a_reward_that_raises_leaves_its_completions_and_the_reason(sft, tiny_model, folder):
    path, _, _ = sft
    out = folder / "raises"
    (folder / "raises.py").write_text("def score(completions, **columns):\n    return [1 / 0 for _ in completions]\n")
    config = write(
        folder / "raises.yaml", output_dir=str(out), sft_run=str(path), data="sample", evidence=3, train_items=12,
        rollouts="transformers", beta=0.0, model_name_or_path=str(tiny_model), max_steps=2, num_generations=4,
        max_completion_length=16, rewards=["raises.py:score"], **COMMON,
    )  # fmt: skip
    words = ["-m", "rl.cli", "grpo", "--config", config]
    done = run(*words, cwd=folder, check=False)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    manifest = read_manifest(out)
    assert manifest["status"] == "failed" and "raises.py, line 2" in manifest["error"]
    frame = read_rollouts(out)
    assert (frame["step"] == 1).all() and frame["total_reward"].isna().all() and frame["completion"].notna().all()
    (folder / "raises.py").write_text("def score(completions, **columns):\n    return [1.0 for _ in completions]\n")
    done = run(*words, cwd=folder, check=False)
    assert done.returncode == 2 and "changed since: rewards: raises.py" in done.stderr


@pytest.mark.parametrize("stage", ["sft", "eval", "grpo"])
def test_ctrl_c_stops_in_one_line_and_the_same_command_goes_on(sft, tiny_model, folder, stage):
    path, _, sft_config = sft
    out = folder / f"stopped-{stage}"
    if stage == "sft":
        words = ["sft", "--config", sft_config, "--output_dir", out, "--max_steps", "40", "--save_steps", "2"]
        begun = out / "checkpoints" / "checkpoint-2"
    elif stage == "grpo":
        config = write(
            folder / "stop.yaml", output_dir=str(out), sft_run=str(path), data="sample", evidence=3, train_items=12,
            rollouts="transformers", beta=0.0, model_name_or_path=str(tiny_model), max_steps=6, num_generations=4,
            max_completion_length=24, save_steps=1, **COMMON,
        )  # fmt: skip
        words = ["grpo", "--config", config]
        begun = out / "checkpoints" / "checkpoint-1"
    else:
        config = write(folder / "stop-eval.yaml", output_dir=str(out), model=str(tiny_model), engine="transformers",
                       data="sample", evidence=3, items=40, max_tokens=48, chunk=8)  # fmt: skip
        words = ["eval", "--config", config]
        begun = out / "predictions.parts"
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-m", "rl.cli", *map(str, words)]
    process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (begun.is_dir() and any(begun.iterdir())) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors[-2000:]
    assert any(line.startswith("synthpert: stopped") for line in errors.splitlines())  # progress bars may follow
    assert "Traceback" not in errors
    assert read_manifest(out)["status"] == "running"
    run("-m", "rl.cli", *words, cwd=folder)
    assert read_manifest(out)["status"] == "done"
