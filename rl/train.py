"""Stage two: GRPO from the SFT adapter, with rewards that are checked against PerturbQA's labels (TRL)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.chat import encode_prompt, prefilled_think, render_prompt
from benchmarks.corpus import Corpus, draw_items, open_corpus
from benchmarks.local_engines import set_vllm_environment
from benchmarks.models import adapter_sha256, check_adapter, model_fingerprint, resolve_model
from benchmarks.prompts import PromptConfig, build_prompts
from benchmarks.runs import disk_errors, open_run, require_done
from rewards import LABELS, BalancedAccuracy, CheckError, InputError, accuracy, completion_text, format
from rl.rollouts import RolloutCost, choose_engine, grpo_trainer
from sft.config import ConfigSource, parse_config, resolved
from sft.train import (
    ADAPTER,
    ITEMS,
    last_checkpoint,
    load_base,
    load_tokenizer,
    model_revision,
    save_adapter,
    trainer_arguments,
    write_items,
    write_log,
)

REWARDS = ("accuracy", "balanced_accuracy", "format")


@dataclass
class GRPOArguments:
    """Our own keys of a GRPO configuration; all others are TRL's."""

    sft_run: str = field(metadata={"help": "run folder of stage one: its adapter is the start and the reference"})
    data: str | None = field(default=None, metadata={"help": "folder of the labels, `sample`, or none for the default"})
    split: str = field(default="official", metadata={"help": "official or holdout:LINE"})
    template: str = field(default="three_class", metadata={"help": "three_class or direction"})
    evidence: int = field(default=0, metadata={"help": "similar knockdowns quoted in a prompt"})
    lemmas: bool = field(default=False, metadata={"help": "list the eleven angles to consider"})
    train_items: int = field(default=0, metadata={"help": "prompts drawn from train; 0 takes all"})
    balance: bool = field(default=False, metadata={"help": "draw each label equally often"})
    rewards: list[str] = field(default_factory=lambda: ["accuracy", "format"], metadata={"help": ", ".join(REWARDS)})
    rollouts: str = field(default="auto", metadata={"help": "auto, vllm or transformers"})


@dataclass
class PrefilledReward:
    """A reward that sees completions with the think tag which the chat template had already opened.

    Attributes:
        reward: the reward function.
        prefix: the tag to put in front of each completion.
    """

    reward: Any
    prefix: str

    def __post_init__(self) -> None:
        self.__name__ = self.reward.__name__

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Score B completions with the tag in front."""
        texts = [completion_text(completion) for completion in completions]
        scores: list[float | None] = self.reward(
            completions=[None if text is None else self.prefix + text for text in texts], **columns
        )
        return scores


def train(config: ConfigSource, overrides: Sequence[str] = ()) -> Path:
    """Run stage two.

    Args:
        config: a YAML file or mapping with the keys of `GRPOArguments` and any key of TRL's GRPOConfig and
            ModelConfig; `output_dir` is the run folder.
        overrides: command-line words `--key value`.

    Returns:
        The run folder: `config.yaml`, `manifest.json`, `adapter/`, `items.txt`, `log.jsonl`.

    Raises:
        InputError: bad configuration, data or model, or an SFT run that is missing, unfinished or of another base.
        CheckError: the reference is not the SFT policy, or the disk is full.
    """
    from datasets import Dataset
    from transformers import set_seed

    ours, args, model_args = read_arguments(config, overrides)
    run = open_run(Path(args.output_dir), "grpo", resolved(ours, args, model_args))
    if run.done:
        return run.path
    sft_run = Path(ours.sft_run)
    sft = require_done(sft_run, "sft")
    base = resolve_model(model_args.model_name_or_path, model_revision(model_args))
    check_adapter(sft_run / ADAPTER, base.path)
    for key in ("template", "evidence", "lemmas", "split"):
        if (before := sft["prompt"].get(key)) != getattr(ours, key):
            raise InputError(
                f"{key}: {getattr(ours, key)!r}, but the traces of {sft_run} were made with {before!r}; use the same"
            )
    engine = choose_engine(ours.rollouts)

    corpus = open_corpus(ours.data, ours.split)
    items = select_items(corpus, ours, sft_run, seed=args.seed)
    tokenizer = load_tokenizer(base.path)
    prompts = build_prompts(items, corpus, PromptConfig(ours.template, ours.evidence, ours.lemmas))
    counts = {str(label): int((items["label"] == str(label)).sum()) for label in LABELS}
    reward_funcs = load_rewards(ours.rewards, counts, args.scale_rewards)
    if prefix := prefilled_think(render_prompt(tokenizer, prompts[0])):
        reward_funcs = [PrefilledReward(reward, prefix) for reward in reward_funcs]

    args.disable_dropout = True  # the policy must equal its reference at the first step
    args.logging_first_step = True
    args.use_vllm = engine == "vllm"
    longest = max(len(encode_prompt(tokenizer, messages)) for messages in prompts)
    if args.use_vllm and args.vllm_max_model_length is None:
        args.vllm_max_model_length = longest + args.max_completion_length
    if args.use_vllm and args.vllm_mode == "colocate":
        set_vllm_environment()

    set_seed(args.seed)
    model = load_policy(base.path, sft_run / ADAPTER, model_args, args)
    cost = RolloutCost(engine)
    columns = items[["item_id", "cell_line", "pert", "gene", "label"]].astype(str)
    # A response template would let TRL take the reasoning out of the completion before the rewards see it.
    tokenizer.response_template = None
    tokenizer.response_schema = None
    trainer = grpo_trainer(
        cost,
        model=model,
        reward_funcs=reward_funcs,
        args=trainer_arguments(args, run.path),
        train_dataset=Dataset.from_dict({"prompt": prompts, **columns.to_dict("list")}),
        processing_class=tokenizer,
        callbacks=[first_kl_check()] if args.beta > 0 else None,
    )
    checkpoint = last_checkpoint(run.path)
    with disk_errors(run.path):
        trainer.train(resume_from_checkpoint=checkpoint)
        save_adapter(trainer, run.path / ADAPTER, base.path)
        write_items(run.path, [str(item_id) for item_id in items["item_id"]])
        write_log(trainer, run.path)
    steps = [entry for entry in trainer.state.log_history if "reward" in entry]
    run.finish(
        base={"name": base.name, "revision": base.revision, "fingerprint": model_fingerprint(base.path)},
        sft_adapter_sha256=sft["adapter_sha256"],
        adapter_sha256=adapter_sha256(run.path / ADAPTER),
        reference="sft" if args.beta > 0 else None,
        rewards=ours.rewards,
        prompts={"items": len(items), "labels": counts, "data": corpus.digest, "split": corpus.split},
        # A resumed run counts the rollouts since its checkpoint, and says from which step that is.
        rollouts={
            **asdict(cost),
            "mode": args.vllm_mode if args.use_vllm else None,
            "from_step": int(checkpoint.rpartition("-")[2]) if checkpoint else 0,
        },
        steps=trainer.state.global_step,
        first_kl=steps[0].get("kl"),
        mean_abs_logprob_difference=_mean(steps, "sampling/sampling_logp_difference/mean"),
        first_reward=steps[0]["reward"],
        last_reward=steps[-1]["reward"],
        zero_variance_groups=_mean(steps, "frac_reward_zero_std"),
    )
    return run.path


def read_arguments(config: ConfigSource, overrides: Sequence[str] = ()) -> tuple[GRPOArguments, Any, Any]:
    """Return a configuration of stage two as GRPOArguments, GRPOConfig and ModelConfig, or refuse it; see `train`."""
    from trl import GRPOConfig, ModelConfig

    ours, args, model_args = parse_config(config, overrides, (GRPOArguments, GRPOConfig, ModelConfig))
    if model_args.use_peft:
        raise InputError("use_peft: stage two goes on with the SFT adapter as it is; remove use_peft and the lora keys")
    if args.use_vllm:
        raise InputError("use_vllm: the engine is chosen by rollouts: auto, vllm or transformers; remove use_vllm")
    return ours, args, model_args


def select_items(corpus: Corpus, ours: GRPOArguments, sft_run: Path, *, seed: int) -> pd.DataFrame:
    """Draw the prompts' items: training rows only, without the rows of stage one.

    Raises:
        InputError: the SFT run does not say what it trained on, or too few items are left.
    """
    listed = sft_run / ITEMS
    if not listed.is_file():
        raise InputError(f"{listed}: no such file; stage two must leave out the SFT rows, so run stage one again")
    used = set(listed.read_text(encoding="utf-8").split("\n"))
    left = corpus.train[~corpus.train["item_id"].isin(used)]
    if ours.template == "direction":
        left = left[left["label"] != str(LABELS[-1])]
    if left.empty:
        raise InputError("train_items: no training row is left after the SFT rows; use fewer traces in stage one")
    return draw_items(left, ours.train_items, seed=seed, balance=ours.balance)


def load_rewards(names: Sequence[str], train_counts: Mapping[str, int], scale_rewards: str) -> list[Any]:
    """Return reward functions by name.

    Args:
        names: of `REWARDS`, each at most once.
        train_counts: rows per label among the prompts, for `balanced_accuracy`.
        scale_rewards: TRL's key; `group` cancels the class weights.

    Raises:
        InputError: a name is unknown or repeated, or `balanced_accuracy` would have no effect.
    """
    if not names or len(set(names)) != len(names):
        raise InputError("rewards: name at least one reward, each once")
    known: dict[str, Any] = {"accuracy": accuracy, "format": format}
    for name in names:
        if name not in REWARDS:
            raise InputError(f"rewards: {name!r} is unknown; use {', '.join(REWARDS)}")
    if "balanced_accuracy" in names:
        if str(scale_rewards).lower() in ("group", "true"):
            raise InputError(
                "rewards: balanced_accuracy has no effect with scale_rewards: group, which divides its weight out of "
                "each group; set scale_rewards: batch or none"
            )
        known["balanced_accuracy"] = BalancedAccuracy(train_counts)
    return [known[name] for name in names]


def load_policy(base: Path, adapter: Path, model_args: Any, args: Any) -> Any:
    """Load the base model with a trainable copy of the SFT adapter; TRL keeps a frozen copy as the reference."""
    from peft import PeftModel

    return PeftModel.from_pretrained(load_base(base, model_args, args), adapter, is_trainable=True)


def first_kl_check() -> Any:
    """Return a trainer callback that stops a run whose policy did not start at its reference.

    It raises a `CheckError` at the first step unless the KL divergence from the reference is below 1e-6.
    """
    from transformers import TrainerCallback

    class FirstKL(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if state.global_step == 1 and logs and "reward" in logs and not abs(logs.get("kl", 1.0)) < 1e-6:
                raise CheckError(
                    f"kl: {logs.get('kl')} at the first step; the reference is not the SFT policy, so nothing that "
                    "follows would mean what it says"
                )

    return FirstKL()


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [float(step[key]) for step in steps if key in step]
    return sum(values) / len(values) if values else None
