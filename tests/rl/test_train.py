"""What stage two settles before it trains: its rewards, its engine, and prompts that stage one has not seen."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.runs import open_run
from rewards import LABELS, BalancedAccuracy, Context, InputError, accuracy
from rl.rollout_files import FOLDER
from rl.train import (
    GRPOArguments,
    asked_items,
    check_batches,
    check_evidence,
    check_prompt,
    choose_engine,
    load_policy,
    load_rewards,
    read_arguments,
    read_stage,
    refuse_quantised,
    select_items,
    train,
)
from sft.traces import prompt_protocol

MODULE = sys.modules["rl.train"]  # the package's `train` is the function
UP, DOWN, NONE = map(str, LABELS)
COUNTS = {UP: 10, DOWN: 10, NONE: 80}
CONTEXT = Context(COUNTS)


# --- load_rewards --------------------------------------------------------------------------------------------------


def test_rewards_come_in_the_order_of_their_names() -> None:
    for names in (
        ["accuracy", "format"],
        ["format", "accuracy"],
        ["balanced_accuracy"],
        ["balanced_accuracy", "format"],
    ):
        assert [reward.__name__ for reward in load_rewards(names, CONTEXT, "none")] == names


def test_a_reward_on_the_command_line_may_be_a_mapping_as_a_study_writes_it() -> None:
    words = ["accuracy", '{"name": "margin", "weight": 0.5, "gate": "format"}']
    assert GRPOArguments("sft", rewards=[*words]).rewards == ["accuracy", json.loads(words[1])]
    with pytest.raises(InputError, match="is no JSON"):
        GRPOArguments("sft", rewards=["{name: margin}"])


def test_balanced_accuracy_weighs_by_the_counts_given() -> None:
    (component,) = load_rewards(["balanced_accuracy"], CONTEXT, "batch")
    assert isinstance(component.reward, BalancedAccuracy)
    assert component.reward([f"<think>a</think><answer>{UP}</answer>"], [UP]) == [pytest.approx(100 / 30)]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["acuracy"], "'acuracy' is unknown; did you mean 'accuracy'"),
        (["accuracy", "accuracy"], "'accuracy' is there twice"),
        ([], "at least one"),
    ],
)
def test_wrong_names_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_rewards(names, CONTEXT, "none")


@pytest.mark.parametrize("scale", ["group", "Group", True, "True", "true"])
def test_balanced_accuracy_is_refused_where_scaling_cancels_its_weights(scale: Any) -> None:
    with pytest.raises(InputError, match="set scale_rewards: batch or none"):
        load_rewards(["balanced_accuracy"], CONTEXT, scale)
    assert [one.reward for one in load_rewards(["accuracy"], CONTEXT, scale)] == [accuracy]


@pytest.mark.parametrize("scale", ["batch", "none", False, "False"])
def test_balanced_accuracy_goes_with_scaling_that_keeps_its_weights(scale: Any) -> None:
    assert len(load_rewards(["balanced_accuracy"], CONTEXT, scale)) == 1


def test_a_label_without_prompts_has_no_balanced_accuracy() -> None:
    with pytest.raises(InputError, match=f"no training row is '{UP}'"):
        load_rewards(["balanced_accuracy"], Context({**COUNTS, UP: 0}), "none")


# --- choose_engine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rollouts", "installed", "engine"),
    [
        ("auto", True, "vllm"),
        ("auto", False, "transformers"),
        ("vllm", True, "vllm"),
        ("transformers", True, "transformers"),
        ("transformers", False, "transformers"),
    ],
)
def test_choose_engine(monkeypatch: pytest.MonkeyPatch, rollouts: str, installed: bool, engine: str) -> None:
    monkeypatch.setattr(MODULE, "has_vllm", lambda: installed)
    assert choose_engine(rollouts) == engine


def test_vllm_where_it_is_not_installed_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "has_vllm", lambda: False)
    with pytest.raises(InputError, match="rollouts: transformers"):
        choose_engine("vllm")


@pytest.mark.parametrize("rollouts", ["VLLM", "hf", "", "Auto"])
def test_an_unknown_engine_is_refused(rollouts: str) -> None:
    with pytest.raises(InputError, match="use auto, vllm, transformers"):
        choose_engine(rollouts)


# --- refuse_quantised ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["load_in_4bit", "load_in_8bit", None])
def test_a_quantised_policy_has_no_rollouts_by_vllm(tmp_path: Path, key: str | None) -> None:
    (tmp_path / "config.json").write_text("{}" if key else '{"quantization_config": {}}')
    asked = SimpleNamespace(**{one: one == key for one in ("load_in_4bit", "load_in_8bit")})
    with pytest.raises(InputError, match=f"^{key or tmp_path}: .*rollouts: transformers"):
        refuse_quantised(asked, tmp_path)


def test_a_policy_in_full_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    asked = SimpleNamespace(load_in_4bit=False, load_in_8bit=False)
    refuse_quantised(asked, tmp_path)
    asked.load_in_8bit = True  # the same policy in fewer bits is
    with pytest.raises(InputError, match=r"^load_in_8bit: "):
        refuse_quantised(asked, tmp_path)


# --- paths and files -----------------------------------------------------------------------------------------------


@pytest.fixture
def stage(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A configuration with a reward of one's own, and the finished run of stage one that it names."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("def score(completions, **columns):\n    return [1.0] * len(completions)\n")
    Path("pairs.csv").write_text("pert,gene,cell_line\nA,B,rpe1\n")
    open_run(Path("sft"), "sft", {}).finish(adapter_sha256="abc", prompt={})
    return {
        "output_dir": "run", "model_name_or_path": str(tiny_model), "sft_run": "sft", "data": "sample",
        "rewards": ["own.py:score"], "unlabelled": "pairs.csv", "bf16": False, "use_cpu": True,
    }  # fmt: skip


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(("file", "told"), [("own.py", r"rewards: own\.py"), ("pairs.csv", r"unlabelled: pairs\.csv")])
def test_a_file_that_changed_since_the_run_began_is_noticed(
    stage: dict[str, Any], file: str, told: str, finished: bool
) -> None:
    read = read_stage(stage)
    run = open_run(Path("run"), "grpo", read.settings(), read.inputs())
    (run.path / "log.jsonl").write_text("{}\n")
    if finished:
        run.finish()
        assert train(stage) == run.path
    Path(file).write_text(Path(file).read_text() + "\n")
    with pytest.raises(InputError, match=rf"other files \(changed since: {told}\); bring them back"):
        train(stage)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("sft_run", "none", "none: no run folder"),
        ("sft_run", "sft/adapter", "sft/adapter: no run folder (no manifest.json); did you mean sft?"),
        ("model_name_or_path", "none", "none: no such model folder"),
        ("rewards", ["none.py:score"], "none.py: no such file in"),
        ("unlabelled", "none.csv", "unlabelled: none.csv: no such file"),
        ("output_dir", "own.py/run", "own.py: is a file"),
    ],
)
def test_a_wrong_path_is_told_before_anything_is_loaded_or_written(
    stage: dict[str, Any], capsys: pytest.CaptureFixture[str], key: str, value: Any, problem: str
) -> None:
    with pytest.raises(InputError, match=re.escape(problem)):
        train({**stage, key: value})
    assert "loading" not in capsys.readouterr().err
    assert not Path("run").exists()


def test_what_is_refused_while_the_stage_is_made_ready_leaves_no_run_folder(stage: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="sft/adapter: no such folder"):
        train(stage)
    assert not Path("run").exists()


# --- select_items --------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(make_labels: Callable[[int], pd.DataFrame]) -> Corpus:
    return Corpus("small", "official", make_labels(0))


@pytest.fixture
def sft_run(tmp_path: Path, corpus: Corpus) -> Path:
    """A stage-one run on every other training row."""
    (tmp_path / "items.txt").write_text("".join(f"{item}\n" for item in corpus.train["item_id"].iloc[::2]))
    return tmp_path


OURS = GRPOArguments(sft_run="unused")


def test_prompts_are_training_rows_that_stage_one_has_not_seen(corpus: Corpus, sft_run: Path) -> None:
    chosen, held_out = select_items(corpus, OURS, sft_run, seed=0)
    assert held_out.empty
    assert sorted(chosen["item_id"]) == sorted(corpus.train["item_id"].iloc[1::2])
    assert set(chosen["split"]) == {"train"}


@pytest.mark.parametrize("balance", [False, True])
def test_a_number_of_prompts_is_drawn_by_the_seed(corpus: Corpus, sft_run: Path, balance: bool) -> None:
    ours = replace(OURS, train_items=30, balance=balance)
    chosen, _ = select_items(corpus, ours, sft_run, seed=0)
    assert chosen["item_id"].tolist() == select_items(corpus, ours, sft_run, seed=0)[0]["item_id"].tolist()
    assert chosen["item_id"].tolist() != select_items(corpus, ours, sft_run, seed=1)[0]["item_id"].tolist()
    assert chosen["item_id"].is_unique
    assert set(chosen["item_id"]) <= set(corpus.train["item_id"].iloc[1::2])
    counts = [int((chosen["label"] == str(label)).sum()) for label in LABELS]
    assert sum(counts) == 30
    if balance:
        assert counts == [10, 10, 10]


@pytest.mark.parametrize("balance", [False, True])
def test_items_kept_apart_are_training_rows_that_are_not_trained_on(
    corpus: Corpus, sft_run: Path, balance: bool
) -> None:
    chosen, held_out = select_items(corpus, replace(OURS, held_out_items=12, balance=balance), sft_run, seed=0)
    assert len(held_out) == 12 and set(held_out["split"]) == {"train"}
    used = set((sft_run / "items.txt").read_text().split())
    assert not set(held_out["item_id"]) & (set(chosen["item_id"]) | used)


def test_too_many_items_kept_apart_are_refused(corpus: Corpus, sft_run: Path) -> None:
    left = len(corpus.train) - len(corpus.train.iloc[::2])
    for n, words in ((-1, "use 0 for none"), (left, "leaves no row"), (10_000, "there are")):
        with pytest.raises(InputError, match=words):
            select_items(corpus, replace(OURS, held_out_items=n), sft_run, seed=0)


def write_ids(path: Path, ids: Any) -> str:
    path.write_text("item_id\n" + "".join(f"{item_id}\n" for item_id in ids))
    return str(path)


def test_only_the_rows_of_a_file_of_chosen_prompts_are_drawn(corpus: Corpus, sft_run: Path) -> None:
    left = corpus.train["item_id"].iloc[1::2].tolist()
    ours = replace(OURS, train_on=write_ids(sft_run / "chosen.csv", left[:20]))
    chosen, _ = select_items(corpus, ours, sft_run, seed=0)
    assert sorted(chosen["item_id"]) == sorted(left[:20])
    with pytest.raises(InputError, match="there are only 20"):
        select_items(corpus, replace(ours, train_items=21), sft_run, seed=0)


def test_a_chosen_row_that_cannot_be_trained_on_is_refused_by_name(corpus: Corpus, sft_run: Path) -> None:
    test = corpus.labels.loc[corpus.labels["split"] == "test", "item_id"].iloc[0]
    _, held_out = select_items(corpus, replace(OURS, held_out_items=5), sft_run, seed=0)
    left = corpus.train["item_id"].iloc[1]
    for item_id, words in (
        (test, "is no training row of split official"),
        ("k562|none|none", "is no training row of split official"),
        (corpus.train["item_id"].iloc[0], "was trained on in stage one"),
        (held_out["item_id"].iloc[0], "is held out by held_out_items"),
    ):
        ours = replace(OURS, held_out_items=5, train_on=write_ids(sft_run / "chosen.csv", [item_id]))
        with pytest.raises(InputError, match=f"{re.escape(item_id)} {words}"):
            select_items(corpus, ours, sft_run, seed=0)
    kept = replace(OURS, train_on=write_ids(sft_run / "chosen.csv", [left]))
    assert select_items(corpus, kept, sft_run, seed=0)[0]["item_id"].tolist() == [left]


def test_prompts_chosen_for_another_sft_adapter_are_refused_before_the_labels_are_read(
    tmp_path: Path, tiny_model: Path
) -> None:
    manifest = {"stage": "sft", "status": "done", "adapter_sha256": "this one"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    config = {
        "output_dir": "x", "model_name_or_path": str(tiny_model), "sft_run": str(tmp_path), "bf16": False,
        "data": "none", "train_on": write_ids(tmp_path / "chosen.csv", ["k562|P|A"]),
    }  # fmt: skip
    facts = {"split": "official", "evidence": 0, "lemmas": False, "template": "three_class", "template_version": 2}
    beside = tmp_path / "chosen.csv.json"
    beside.write_text(json.dumps({**facts, "sft_adapter_sha256": "another"}))
    with pytest.raises(InputError, match="chosen with sft_adapter_sha256: 'another', but this run has 'this one'"):
        read_stage(config)
    beside.write_text(json.dumps({**facts, "sft_adapter_sha256": "this one"}))
    before = read_stage(config).inputs()["train_on"]
    write_ids(tmp_path / "chosen.csv", ["k562|P|B"])
    assert read_stage(config).inputs()["train_on"] != before  # a run does not go on with other prompts


def test_evidence_must_be_what_the_traces_quoted(corpus: Corpus, tmp_path: Path) -> None:
    sets = tmp_path / "sets.gmt"
    sets.write_text("a\t\tP\tG\n")
    prompt = PromptConfig(evidence=["neighbours,k=3", f"gene_sets,file={sets}"])
    ours, before = replace(OURS, prompt=prompt), prompt_protocol(prompt, corpus)
    check_prompt(ours, before)
    check_evidence(ours, corpus, before)
    with pytest.raises(InputError, match=r"evidence: \['neighbours,k=2'\], but the traces of .* were made with"):
        check_prompt(replace(ours, prompt=PromptConfig(evidence=["neighbours,k=2"])), before)
    sets.write_text("a\t\tP\tG\tH\n")
    with pytest.raises(InputError, match="has changed since the traces of .* were made; bring it back"):
        check_evidence(ours, corpus, before)


def test_an_alarm_that_does_something_else_is_refused() -> None:
    config = {"output_dir": "x", "model_name_or_path": "x", "sft_run": "x", "bf16": False, "alarms": "halt"}
    with pytest.raises(InputError, match="alarms is 'halt'; write one of off, warn, stop"):
        read_arguments(config)


def test_a_direction_prompt_is_about_changed_genes_only(corpus: Corpus, sft_run: Path) -> None:
    assert set(select_items(corpus, replace(OURS, prompt=PromptConfig("direction")), sft_run, seed=0)[0]["label"]) == {
        UP,
        DOWN,
    }


def test_a_run_that_does_not_say_what_it_trained_on_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must leave out the SFT rows"):
        select_items(corpus, OURS, tmp_path, seed=0)


def test_no_row_left_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "items.txt").write_text("\n".join(corpus.train["item_id"]))
    with pytest.raises(InputError, match="no training row is left"):
        select_items(corpus, OURS, tmp_path, seed=0)


def test_more_prompts_than_rows_are_refused(corpus: Corpus, sft_run: Path) -> None:
    for balance in (False, True):
        with pytest.raises(InputError, match="there are"):
            select_items(corpus, replace(OURS, train_items=10_000, balance=balance), sft_run, seed=0)


# --- the policy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "default", [{"min_p": 1.0}, {"suppress_tokens": [*range(6, 40_000)]}, {"forced_eos_token_id": 7}]
)
def test_the_policy_writes_by_the_configuration_and_not_by_the_model_s_defaults(
    tiny_model: Path, tmp_path: Path, default: dict[str, Any]
) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GenerationConfig
    from trl import ModelConfig

    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_model, base)
    lora = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(adapter)
    args = SimpleNamespace(use_vllm=False, seed=0, trust_remote_code=False)

    def written(defaults: dict[str, Any]) -> list[list[int]]:
        ends = {"eos_token_id": [2, 5], "pad_token_id": 2}
        (base / "generation_config.json").write_text(json.dumps({**ends, "do_sample": True, **defaults}))
        policy = load_policy(base, adapter, ModelConfig(str(base), dtype="float32"), args)
        assert policy.generation_config.eos_token_id == [2, 5]
        # As TRL asks for it, None being left out.
        config = GenerationConfig(
            max_new_tokens=8, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, min_p=None, **ends
        )
        torch.manual_seed(0)
        prompt = torch.arange(10, 20).repeat(8, 1)
        return policy.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=config
        ).tolist()

    assert written(default) == written({})


# --- what is asked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "batch"),
    [
        ({"per_device_train_batch_size": 8, "num_generations": 2}, 4),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_generations": 4}, 2),
        ({"per_device_train_batch_size": 4, "steps_per_generation": 3, "num_generations": 4}, 3),
        ({"per_device_train_batch_size": 4, "generation_batch_size": 24, "num_generations": 4}, 6),
    ],
)
def test_fewer_prompts_than_a_generation_batch_are_refused(
    keys: dict[str, int], batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"output_dir": "o", "model_name_or_path": "m", "sft_run": "s", "bf16": False, "use_cpu": True}
    _, args, _ = read_arguments({**config, **keys})
    with pytest.raises(InputError, match=f"train_items: {batch - 1} prompts, but each generation batch asks {batch} "):
        check_batches(args, batch - 1)
    check_batches(args, 2 * batch)
    assert not caplog.messages
    check_batches(args, 2 * batch + 1)
    assert caplog.messages == [
        f"train_items: each epoch leaves out 1 of the {2 * batch + 1} prompts, which do not fill a generation batch of "
        f"{batch}"
    ]


def test_items_are_counted_that_were_asked(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for rank, items in enumerate((["b", "b", "a"], ["d", "d"])):
        pd.DataFrame({"item_id": items, "x": 1}).to_parquet(tmp_path / FOLDER / f"step-1-0-rank{rank}.parquet")
    (tmp_path / FOLDER / "step-1-0-rank0 copy.parquet").write_text("no process wrote this")
    assert asked_items(tmp_path, ["a", "b", "c", "d", "e"]) == ["a", "b", "d"]


def test_where_the_first_rollouts_are_gone_all_items_count_as_asked(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    pd.DataFrame({"item_id": ["b"]}).to_parquet(tmp_path / FOLDER / "step-5-0-rank0.parquet")
    assert asked_items(tmp_path, ["a", "b", "c"]) == ["a", "b", "c"]
