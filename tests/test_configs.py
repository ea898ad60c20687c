"""Every configuration that ships parses through TRL's own dataclasses, and a model's two stages fit together."""

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.config import parse_config, read_yaml
from benchmarks.evaluation.run import EvalArguments
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.keys import to_keys
from benchmarks.models.folders import resolve_model
from rewards import LABELS, Context, InputError
from rl.study import check_stages, read_study
from rl.train import ENGINES, GRPOArguments, load_rewards
from rl.train import read_arguments as read_grpo
from sft.examples import tokenize_traces
from sft.filters.steps import read_steps
from sft.teacher import template as offline_teacher
from sft.teacher.arguments import EndpointArguments
from sft.teacher.generate import TraceArguments
from sft.train import SFTArguments
from sft.train import read_arguments as read_sft
from sft.training import load_tokenizer

CONFIGS = Path(__file__).parents[1] / "configs"
STUDIES = sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml"))
AFTER_THE_PAPER = ["rpe1-held-out", "table-de", "table-direction", "two-percent"]
TEACHER = CONFIGS / "traces" / "teacher.yaml"
MODELS = sorted(
    {str(path.parent.relative_to(CONFIGS)) for stage in ("sft", "grpo") for path in CONFIGS.glob(f"**/{stage}.yaml")}
)
RATES = pd.DataFrame({"item_id": ["i"], "p_up": [0.2], "p_down": [0.2], "p_none": [0.6]})
CONTEXT = Context(dict.fromkeys(LABELS, 1), {"gene_rate": lambda: RATES, "neighbours": lambda: RATES})
# TRL refuses bf16 on a machine without a GPU unless the CPU is asked for; every other check stays as it is.
ON_CPU = ("--use_cpu", "true")


def parse_sft(path: Path) -> tuple[Any, ...]:
    """Return a stage-one configuration as SFTArguments, SFTConfig, ModelConfig."""
    from trl import ModelConfig, SFTConfig

    return parse_config(path, ON_CPU, (SFTArguments, SFTConfig, ModelConfig))


def parse_grpo(path: Path) -> tuple[Any, ...]:
    """Return a stage-two configuration as GRPOArguments, GRPOConfig, ModelConfig."""
    from trl import GRPOConfig, ModelConfig

    return parse_config(path, ON_CPU, (GRPOArguments, GRPOConfig, ModelConfig))


def test_the_promised_models_have_configs() -> None:
    assert {"deepseek-r1-distill-llama-8b", "qwen3-4b", "smollm2-135m"} <= set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_sft_is_the_papers_lora(model: str) -> None:
    ours, args, model_args = parse_sft(CONFIGS / model / "sft.yaml")
    assert ours.traces.endswith(".jsonl")
    assert model_args.use_peft
    assert (model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout) == (32, 32, 0.0)
    assert model_args.lora_target_modules == "all-linear"
    if model != "demo":  # its traces are short, and it is sized for a CPU
        assert args.max_length == 2048


@pytest.mark.parametrize("model", MODELS)
def test_grpo_rewards_rollouts_and_reference_work(model: str) -> None:
    path = CONFIGS / model / "grpo.yaml"
    ours, args, _ = parse_grpo(path)
    rewards = load_rewards(ours.rewards, CONTEXT, args.scale_rewards)
    assert args.reward_weights is None or len(args.reward_weights) == len(rewards)
    assert ours.rollouts in ENGINES
    # Without a pull towards stage one's policy, at least its distance from it is measured.
    assert args.beta > 0 or ours.held_out_items > 0
    steps = args.max_steps if args.max_steps > 0 else ours.train_items
    assert steps > 0, "neither train_items nor max_steps bounds the run"
    # These would have no effect: `rollouts` decides on vLLM, and the adapter's shape is stage one's.
    assert not {key for key in read_yaml(path) if key in ("use_vllm", "use_peft") or key.startswith("lora_")}


@pytest.mark.parametrize("model", MODELS)
def test_both_stages_train_the_same_model(model: str) -> None:
    _, sft_args, sft_model = parse_sft(CONFIGS / model / "sft.yaml")
    ours, grpo_args, grpo_model = parse_grpo(CONFIGS / model / "grpo.yaml")
    assert sft_model.model_name_or_path is not None
    for key in ("model_name_or_path", "model_revision", "dtype"):
        assert getattr(sft_model, key) == getattr(grpo_model, key), key
    assert ours.sft_run == sft_args.output_dir
    assert grpo_args.output_dir != sft_args.output_dir


def test_a_model_is_added_by_its_configurations_alone(tiny_model: Path, tmp_path: Path) -> None:
    """CONTRIBUTING's recipe, with a model that no other configuration names."""
    for stage in ("sft", "grpo", "eval"):
        text = (CONFIGS / "smollm2-135m" / f"{stage}.yaml").read_text(encoding="utf-8")
        text = text.replace("models/smollm2-135m-instruct", str(tiny_model)).replace("runs/smollm2-135m", "runs/new")
        (tmp_path / f"{stage}.yaml").write_text(text, encoding="utf-8")
    sft, sft_args, model = parse_sft(tmp_path / "sft.yaml")
    grpo, _, policy = parse_grpo(tmp_path / "grpo.yaml")
    (evaluation,) = parse_config(tmp_path / "eval.yaml", (), (EvalArguments,))
    named = {model.model_name_or_path, policy.model_name_or_path, evaluation.model}
    assert (named, grpo.sft_run) == ({str(tiny_model)}, sft_args.output_dir)
    corpus = open_corpus("sample")
    traces = offline_teacher.generate(corpus.train.head(4), corpus, grpo.prompt, seed=0)
    tokenizer = load_tokenizer(resolve_model(model.model_name_or_path).path)
    examples = tokenize_traces(tokenizer, traces, sft_args.max_length)
    assert all(example.input_ids[-1] == tokenizer.eos_token_id for example in examples)
    assert sft.traces == "runs/new/traces.jsonl"


@pytest.mark.parametrize("model", ["qwen3-4b", "smollm2-135m"])
def test_the_challenge_s_stages_ask_alike_on_the_same_fold(model: str) -> None:
    """SFT takes split and prompts from its traces; GRPO and evaluation must name the same."""
    folder = CONFIGS / "bioreasoning"
    traces, _ = parse_config(folder / "traces.yaml", (), (TraceArguments, EndpointArguments))
    grpo, *_ = parse_grpo(folder / model / "grpo.yaml")
    sft, *_ = parse_sft(folder / model / "sft.yaml")
    (evaluation,) = parse_config(folder / model / "eval.yaml", (), (EvalArguments,))
    assert sft.traces == traces.output
    assert {one.data for one in (traces, grpo, sft, evaluation)} == {"bioreasoning"}
    assert {one.split for one in (traces, grpo, evaluation.protocol)} == {"holdout:both,fold=1/5"}
    assert to_keys(traces.prompt) == to_keys(grpo.prompt) == to_keys(evaluation.protocol.prompt)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_mistyped_key_is_refused_with_the_nearest(stage: str, tmp_path: Path) -> None:
    text = (CONFIGS / "qwen3-4b" / f"{stage}.yaml").read_text(encoding="utf-8")
    path = tmp_path / "typo.yaml"
    path.write_text(text.replace("\nlearning_rate:", "\nlearning_rat:"), encoding="utf-8")
    with pytest.raises(InputError, match=r"typo\.yaml.*'learning_rat'.*'learning_rate'"):
        (parse_sft if stage == "sft" else parse_grpo)(path)


@pytest.mark.parametrize(("name", "kind", "processes"), [("single_gpu", "NO", 1), ("multi_gpu", "MULTI_GPU", 8)])
def test_accelerate_reads_its_configs(name: str, kind: str, processes: int) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / "accelerate" / f"{name}.yaml"))  # raises on an unknown key
    assert str(config.distributed_type).rsplit(".", 1)[-1] == kind
    assert (config.num_machines, config.num_processes, config.mixed_precision) == (1, processes, "bf16")


def test_the_papers_tables_have_a_study_each() -> None:
    assert {*AFTER_THE_PAPER, "smollm2-demo"} <= set(STUDIES)


def commands_told_in(path: Path) -> list[list[str]]:
    """Return the commands that a configuration's comments tell, as words."""
    text = re.sub(r"\\\n#\s+", "", path.read_text(encoding="utf-8"))
    return [shlex.split(line, comments=True) for line in re.findall(r"^#\s+synthpert (.*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("name", AFTER_THE_PAPER)
def test_a_study_after_the_paper_learns_from_a_teacher_that_is_not_given_the_label(name: str) -> None:
    path = CONFIGS / "study" / f"{name}.yaml"
    study = read_yaml(path)
    made, kept = (words for words in commands_told_in(path) if words[0] == "traces")
    assert made[:4] == ["traces", "generate", "--config", "configs/traces/teacher.yaml"]
    arguments, endpoint = parse_config(TEACHER, made[4:], (TraceArguments, EndpointArguments))
    assert endpoint.base_url is not None and endpoint.mode == "blind" and arguments.teacher != offline_teacher.NAME
    shared = {**to_keys(arguments.prompt), "split": arguments.split}
    for key, value in shared.items():  # as the study's own prompts
        default = to_keys(PromptConfig(evidence=5)).get(key, "official")
        assert value == study.get(key, default), key
    assert kept[:3] == ["traces", "filter", "--config"]
    values = read_yaml(CONFIGS.parent / kept[3]) | dict(zip(kept[4::2], kept[5::2], strict=True))
    assert values.get("--input", values["input"]) == arguments.output
    assert values.get("--out", values["output"]) == study["traces"]


def test_what_trains_on_the_offline_teacher_s_traces_does_not_claim_the_paper_s_experiment() -> None:
    offline = {path: read_yaml(path)["output"] for path in CONFIGS.glob("**/traces.yaml")}
    for path, output in offline.items():
        assert read_yaml(path)["teacher"] == offline_teacher.NAME
        assert "given the label" in path.read_text(encoding="utf-8"), path
        users = [one for one in CONFIGS.rglob("*.yaml") if one != path]
        users = [
            one for one in users if str(path.relative_to(CONFIGS.parent)) in (text := one.read_text()) or output in text
        ]
        assert users
        for one in users:
            assert not re.search(r"After SynthPert|SynthPert's (model|table|experiment)", one.read_text()), one


@pytest.mark.parametrize("name", STUDIES)
def test_every_stage_of_a_study_is_a_valid_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONFIGS.parent)  # the paths in a study are relative to where the command runs
    study = read_study(CONFIGS / "study" / f"{name}.yaml")
    check_stages(study.stages, dry_run=True)
    assert len({cell.condition for cell in study.cells}) > 2
    rivals = any("labels_of" in stage.values for stage in study.stages)
    assert rivals or any(cell.seed is None for cell in study.cells), "there is nothing to hold training against"
    for cell in study.cells:
        for stage in cell.stages:
            if stage.kind == "grpo":
                ours, args, _ = read_grpo(stage.config, [*stage.options, *ON_CPU])
                labels = LABELS[:-1] if ours.prompt.template == "direction" else LABELS
                counts = {str(label): int(label in labels) for label in LABELS}
                rewards = load_rewards(ours.rewards, Context(counts, CONTEXT.tables), args.scale_rewards)
                assert args.reward_weights is None or len(args.reward_weights) == len(rewards)
                made = {} if study.traces is None else study.traces.values
                for key, value in {**to_keys(ours.prompt), "split": ours.split}.items():  # as the traces were made
                    assert value == made.get(key, value), key
            if stage.kind == "sft":
                ours, args, _ = read_sft(stage.config, [*stage.options, *ON_CPU])
                n_traces = left_of_the_teacher_s()
                if study.traces is not None:
                    n_traces = int(study.traces.values.get("rows", read_yaml(study.traces.config)["rows"]))
                batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
                steps = round(ours.traces_fraction * n_traces) * args.num_train_epochs / batch
                steps = args.max_steps if args.max_steps > 0 else steps
                assert steps >= args.logging_steps, "no loss would be logged"
                assert steps > args.warmup_steps, "the learning rate would never be reached"


@pytest.mark.parametrize("name", ["answer-only", "2-percent", "wrong-kept"])
def test_an_ablation_differs_from_its_stage_in_what_it_learns_only(name: str) -> None:
    folder = CONFIGS / "deepseek-r1-distill-llama-8b"
    plain, changed = read_yaml(folder / "sft.yaml"), read_yaml(folder / f"sft-{name}.yaml")
    parse_sft(folder / f"sft-{name}.yaml")
    differing = {key for key in {*plain, *changed} if plain.get(key) != changed.get(key)}
    few_steps = {"warmup_steps", "logging_steps", "gate_share"} if name == "2-percent" else set()
    assert differing <= {"output_dir", "traces", "answer_only", "keep_wrong"} | few_steps
    assert changed.get("keep_wrong", False) == (name == "wrong-kept")
    assert "output_dir" in differing


def left_of_the_teacher_s() -> int:
    """Return how many of a teacher's traces a filter may leave."""
    # A teacher that is right on half of the items, as many of each label as of the rarest: a fifth may be left.
    return math.ceil(read_yaml(TEACHER)["rows"] / 5)


def test_two_percent_of_the_teacher_s_traces_are_enough_steps_to_log_and_warm_up() -> None:
    fraction = next(step["fraction"] for step in read_yaml(CONFIGS / "traces" / "filter-2-percent.yaml")["steps"]
                    if isinstance(step, dict) and "fraction" in step)  # fmt: skip
    values = read_yaml(CONFIGS / "deepseek-r1-distill-llama-8b" / "sft-2-percent.yaml")
    batch = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"]
    steps = math.ceil(left_of_the_teacher_s() * fraction / batch) * values["num_train_epochs"]
    assert steps >= values["logging_steps"]
    assert steps > values["warmup_steps"]


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("**/filter*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_filter_configs_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sft.filters.steps.tokens_within", lambda model, longest: lambda trace, answer: None)  # no hub
    values = read_yaml(path)
    assert set(values) == {"input", "output", "seed", "steps"}
    steps = read_steps(values["steps"], values["seed"])
    assert ("label" in [step.name for step in steps]) == ("wrong" not in path.stem)


def test_a_model_s_filter_leaves_what_its_stage_one_takes() -> None:
    for path in CONFIGS.glob("**/filter.yaml"):
        if (path.parent / "sft.yaml").is_file():
            filters, sft = read_yaml(path), read_yaml(path.parent / "sft.yaml")
            tokens = next(step["tokens"] for step in filters["steps"] if isinstance(step, dict) and "tokens" in step)
            assert tokens == {"max": sft["max_length"], "model": sft["model_name_or_path"]}
            assert filters["output"] == sft["traces"]


def test_the_teacher_s_config_reads() -> None:
    arguments, endpoint = parse_config(CONFIGS / "traces" / "teacher.yaml", (), (TraceArguments, EndpointArguments))
    settings = endpoint.teacher_settings(arguments.teacher)
    assert (settings.base_url, settings.max_tokens) == ("http://localhost:8000/v1", 4096)
    assert endpoint.critics
