"""Stage two: GRPO from the SFT adapter, with rewards that are checked against PerturbQA's labels (TRL)."""

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from benchmarks.chat import Message, encode_prompt, prefilled_think, refuse_control_tokens, render_prompt
from benchmarks.config import ConfigSource, IgnoredKeys, parse_stage, resolved
from benchmarks.endpoint.settings import check_base_url
from benchmarks.evidence.corpus import Corpus, draw_items
from benchmarks.evidence.prompts import (
    PromptConfig,
    build_prompts,
    items_for_prompt,
    open_prompt_corpus,
    prompt_config_of,
    prompt_inputs,
)
from benchmarks.evidence.quote import evidence_digest
from benchmarks.files import check_folder, file_sha256
from benchmarks.keys import to_keys
from benchmarks.models.folders import (
    TRAINED_ITEMS,
    ModelFolder,
    adapter_sha256,
    check_adapter,
    read_json,
    read_trained_items,
)
from benchmarks.models.vllm_engine import has_vllm, set_vllm_environment
from benchmarks.progress import Progress
from benchmarks.runs import MANIFEST, Run, is_main_process, open_run, require_done
from benchmarks.screens.labels import DATA_HELP
from benchmarks.screens.splits import SPLIT_HELP
from rewards import (
    CheckError,
    Component,
    Composition,
    Context,
    InputError,
    compose,
)
from rewards.batch import prompt_text
from rewards.composition import (
    check_scaling,
    prompt_notes,
    refuse_cancelled_weights,
    refuse_missing_columns,
    weight_notes,
)
from rewards.foreign import named_files
from rl.alarms import alarm_callback, read_alarms
from rl.chosen import check_chosen, read_chosen
from rl.levers import lever_notes
from rl.recording import Recorder
from rl.reward_context import label_counts, reward_context
from rl.rollout_files import drop_rollouts_after, items_by_step
from rl.unlabelled import check_verifiers, read_unlabelled
from sft.training import (
    ADAPTER,
    IGNORED_KEYS,
    check_mergeable,
    checkpoint_step,
    find_base,
    last_checkpoint,
    load_base,
    load_tokenizer,
    log_callback,
    run_trainer,
    setting_errors,
    show_with,
    trainer_arguments,
)

ENGINES: Final = ("auto", "vllm", "transformers")  # of `rollouts`
ITEM_COLUMNS: Final = ["item_id", "cell_line", "pert", "gene", "label"]
_logger = logging.getLogger("synthpert.train")
_ADAPTER: Final = "stage two goes on with the SFT adapter as it is"
_NO_SYNC: Final = "the SFT adapter stays the reference"
# Further keys of TRL 1.16 and transformers 5.17 that stage two does not read.
_IGNORED_KEYS: Final[IgnoredKeys] = {
    "lora_r": (16, _ADAPTER),
    "lora_alpha": (32, _ADAPTER),
    "lora_dropout": (0.05, _ADAPTER),
    "lora_target_modules": (None, _ADAPTER),
    "lora_target_parameters": (None, _ADAPTER),
    "lora_modules_to_save": (None, _ADAPTER),
    "lora_task_type": ("CAUSAL_LM", _ADAPTER),
    "use_rslora": (False, _ADAPTER),
    "use_dora": (False, _ADAPTER),
    "sync_ref_model": (False, _NO_SYNC),
    "ref_model_mixup_alpha": (0.6, _NO_SYNC),
    "ref_model_sync_steps": (512, _NO_SYNC),
    "use_vllm": (None, "the engine is chosen by rollouts: auto, vllm or transformers"),
    "disable_dropout": (True, "the policy must equal its reference at the first step, so there is none"),
    "logging_first_step": (True, "the first step is logged in any case"),
    "max_tool_calling_iterations": (None, "there are no tools"),
    "log_multimodal": (True, "there are no images"),
    "label_smoothing_factor": (0.0, "GRPO has no labels to smooth"),
    "train_sampling_strategy": ("random", "TRL draws whole groups"),
    "length_column_name": ("length", "TRL draws whole groups"),
}


@dataclass
class GRPOArguments:
    """Our own keys of a GRPO configuration; all others are TRL's."""

    sft_run: str = field(metadata={"help": "run folder of stage one: its adapter is the start and the reference"})
    data: str | None = field(default=None, metadata={"help": DATA_HELP})
    split: str = field(default="official", metadata={"help": SPLIT_HELP})
    prompt: PromptConfig = field(default=PromptConfig())
    train_items: int = field(default=0, metadata={"help": "prompts drawn from train; 0 takes all"})
    balance: bool = field(default=False, metadata={"help": "draw each label equally often"})
    # Names or, in a file, mappings: `name, weight, parameters, schedule, gate, timeout`.
    rewards: list[str | dict[str, Any]] = field(
        default_factory=lambda: ["accuracy", "format"], metadata={"help": "see docs/rewards.md"}
    )
    rollouts: str = field(default="auto", metadata={"help": "auto, vllm or transformers"})
    prefix_tree: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "a prompt is computed once a micro-batch: auto where it pays, on, or off"}
    )
    correct_always: bool = field(
        default=False,
        metadata={"help": "TRL's correction for vLLM in every batch, not only where sampler and trainer disagree"},
    )
    unlabelled: str | None = field(default=None, metadata={"help": "CSV or Parquet of pairs without labels to add"})
    train_on: str | None = field(
        default=None, metadata={"help": "CSV of `grpo --dry-run --write`: draw the prompts from its rows only"}
    )
    held_out_items: int = field(default=0, metadata={"help": "training rows kept apart to watch accuracy on"})
    alarms: Literal["off", "warn", "stop"] = field(default="warn", metadata={"help": "off, warn, or stop at the first"})

    def __post_init__(self) -> None:
        # On the command line, where a study's entries come from, too, a mapping is written as JSON.
        self.rewards = [
            _read_json(entry) if isinstance(entry, str) and entry.startswith("{") else entry for entry in self.rewards
        ]
        if self.held_out_items < 0:
            raise InputError(f"held_out_items: {self.held_out_items}; use 0 for none, or more")


def _read_json(entry: str) -> dict[str, Any]:
    try:
        return dict(json.loads(entry))
    except ValueError as error:
        raise InputError(f"rewards: {entry!r} is no JSON ({error}); write the mapping in the file instead") from None


def train(config: ConfigSource, overrides: Sequence[str] = (), *, trainer_class: Any = None) -> Path:
    """Run stage two.

    Args:
        config: a YAML file or mapping with the keys of `GRPOArguments` and any key of TRL's GRPOConfig and
            ModelConfig; `output_dir` is the run folder.
        overrides: command-line words `--key value`.
        trainer_class: a subclass of `rl.trainer.GRPOTrainer`; None for that one itself.

    Returns:
        The run folder: `config.yaml`, `manifest.json`, `adapter/`, `items.txt`, `log.jsonl`, `rollouts/`, and
        `alarms.jsonl` where there was one. Of several processes, only the first writes the manifest.

    Raises:
        InputError: bad configuration, data or model, or an SFT run that is missing, unfinished or of another base.
        CheckError: the reference is not the SFT policy, or the disk is full.
    """
    stage = read_stage(config, overrides)
    out, settings, inputs = Path(stage.args.output_dir), stage.settings(), stage.inputs()
    if (out / MANIFEST).is_file() and open_run(out, "grpo", settings, inputs).done:
        return out
    with Progress("stage two", shown=is_main_process()) as progress:
        progress.phase("loading labels and policy")
        ready = make_ready(stage)
        run = open_run(out, "grpo", settings, inputs)  # only now: what is refused above leaves no folder behind
        with run.failures_noted():
            return _train(stage, ready, run, trainer_class, progress)


def _train(stage: "Stage", ready: "Ready", run: Run, trainer_class: Any, progress: Progress) -> Path:
    ours, args = stage.ours, stage.args
    prompts, rewards, tokenizer, policy = ready
    for note in (unasked := prompt_notes(rewards, prompt_text(prompts.messages[0]))):
        _logger.warning("%s", note)
    from_step = go_back_to_checkpoint(run.path)
    trainer = make_trainer(trainer_class, policy, tokenizer, args, ours, prompts, rewards, run.path)
    show_with(trainer, progress)
    trained_before = read_trained_items(stage.adapter)
    asked = run_trainer(
        trainer, run.path, stage.base.path, lambda: asked_items(run.path, prompts.item_ids), trained_before
    )
    if not is_main_process():
        return run.path
    run.finish(
        base=stage.base.facts(),
        sft_adapter_sha256=stage.sft["adapter_sha256"],
        sft_audit=stage.sft.get("audit"),
        adapter_sha256=adapter_sha256(run.path / ADAPTER),
        reference="sft" if args.beta > 0 else None,
        rewards=ours.rewards,
        reward_notes=[*weight_notes(rewards, scale_rewards=_scaling(args)), *unasked],
        screen=prompts.corpus.facts(),
        prompts={**prompts.facts(), "asked": len(asked)},
        # A resumed run counts the rollouts since its checkpoint, and says from which step that is.
        rollouts={**asdict(trainer.cost), "mode": args.vllm_mode if args.use_vllm else None, "from_step": from_step},
        prefix_tree={"mode": "off"} if trainer.scorer is None else trainer.scorer.facts(),
        importance_correction=None if trainer.correction is None else trainer.correction.facts(),
        **step_metrics(trainer.state),
        alarms=[f"step {alarm.step}: {alarm.kind}: {alarm.message}" for alarm in read_alarms(run.path)],
    )
    return run.path


@dataclass(frozen=True)
class Stage:
    """A configuration of stage two, with the model and the run of stage one that it names.

    Attributes:
        ours, args, model_args: the configuration: our keys, TRL's GRPOConfig, and its ModelConfig.
        base: the base model.
        sft: the manifest of stage one.
        folder: of the configuration: files that rewards name are relative to it.
    """

    ours: GRPOArguments
    args: Any
    model_args: Any
    base: ModelFolder
    sft: Mapping[str, Any]
    folder: Path

    @property
    def adapter(self) -> Path:
        """Folder of the SFT adapter."""
        return Path(self.ours.sft_run) / ADAPTER

    def settings(self) -> dict[str, Any]:
        """Return the configuration as the run folder has it; see `open_run`."""
        return resolved(self.ours, self.args, self.model_args)

    def inputs(self) -> dict[str, str]:
        """Return the digests of the files that the configuration names; see `open_run`."""
        files = {"train_on": self.ours.train_on, "unlabelled": self.ours.unlabelled}
        return {
            "sft_run": str(self.sft["adapter_sha256"]),
            **self.base.inputs("model_name_or_path"),
            **{key: file_sha256(Path(name)) for key, name in files.items() if name is not None},
            **reward_inputs(self.ours, self.folder),
            **prompt_inputs(self.ours.data, self.ours.split, self.ours.prompt),
        }


def reward_inputs(ours: GRPOArguments, folder: Path) -> dict[str, str]:
    """Return the digests of the files that the rewards name, for `open_run`; `folder` is the configuration's."""
    return {f"rewards: {name}": file_sha256(path) for name, path in named_files(ours.rewards, folder).items()}


def read_stage(config: ConfigSource, overrides: Sequence[str] = ()) -> Stage:
    """Read a configuration of stage two and find what it names, or refuse it; see `train`."""
    ours, args, model_args = read_arguments(config, overrides)
    sft = require_done(Path(ours.sft_run), "sft")
    folder = Path() if isinstance(config, Mapping) else Path(config).parent
    check_folder(Path(args.output_dir))
    if ours.unlabelled is not None and not Path(ours.unlabelled).is_file():
        raise InputError(f"unlabelled: {ours.unlabelled}: no such file; give a CSV or Parquet file of pairs")
    stage = Stage(ours, args, model_args, find_base(model_args), sft, folder)
    if ours.train_on is not None:
        check_chosen(Path(ours.train_on), chosen_facts(stage), sampling_facts(stage))
    return stage


def chosen_facts(stage: Stage) -> dict[str, Any]:
    """Return what must be the same where prompts are chosen and where they are trained on; see `rl.preflight`."""
    ours = stage.ours
    return {"sft_adapter_sha256": stage.sft["adapter_sha256"], "split": ours.split, **to_keys(ours.prompt)}


def sampling_facts(stage: Stage) -> dict[str, Any]:
    """Return what the samples of a prompt, and what they earn, depend on beside `chosen_facts`."""
    keys = ("temperature", "top_p", "top_k", "min_p", "max_completion_length", "num_generations")
    return {**{key: getattr(stage.args, key) for key in keys}, "rewards": stage.ours.rewards}


def read_arguments(config: ConfigSource, overrides: Sequence[str] = ()) -> tuple[GRPOArguments, Any, Any]:
    """Return a configuration of stage two as GRPOArguments, GRPOConfig and ModelConfig, or refuse it; see `train`."""
    from trl import GRPOConfig

    ours, args, model_args = parse_stage(
        config, overrides, GRPOArguments, GRPOConfig, {**IGNORED_KEYS, **_IGNORED_KEYS}
    )
    if model_args.use_peft:
        raise InputError("use_peft: stage two goes on with the SFT adapter as it is; remove use_peft and the lora keys")
    if args.chat_template_kwargs:
        raise InputError("chat_template_kwargs: is not taken; stage one and evaluation render prompts without them")
    if args.vllm_server_base_url is not None:
        check_base_url(args.vllm_server_base_url, "vllm_server_base_url")
    if ours.correct_always and not args.vllm_importance_sampling_correction:
        raise InputError("correct_always: true, but vllm_importance_sampling_correction: false; remove one of them")
    check_scaling(args.scale_rewards, "configuration" if isinstance(config, Mapping) else str(config))
    if (ours.held_out_items > 0) != (str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no"):
        raise InputError(
            "held_out_items and eval_strategy go together: set both (eval_strategy: steps, eval_steps: N), or neither"
        )
    return ours, args, model_args


def check_prompt(ours: GRPOArguments, before: Mapping[str, Any]) -> None:
    """Refuse a prompt or a split that is not stage one's.

    Args:
        ours: the configuration.
        before: what stage one's manifest says of the prompts of its traces.
    """
    found = prompt_config_of(before)
    made = {**before, **({} if found is None else to_keys(found))}
    for key, value in {**to_keys(ours.prompt), "split": ours.split}.items():
        if made.get(key) != value:
            raise InputError(
                f"{key}: {value!r}, but the traces of {ours.sft_run} were made with {made.get(key)!r}; use the same"
            )


def check_evidence(ours: GRPOArguments, corpus: Corpus, before: Mapping[str, Any]) -> None:
    """Refuse files of evidence, or a reference, that have changed since the traces of stage one were made.

    Args:
        ours: the configuration.
        corpus: its labels, with the reference.
        before: what stage one's manifest says of the prompts of its traces.
    """
    if before.get("evidence_data", "") != evidence_digest(ours.prompt.kinds, corpus.reference):
        raise InputError(
            f"evidence: a file of {ours.prompt.evidence}, or the screen in evidence_from, has changed since the traces "
            f"of {ours.sft_run} were made; bring it back"
        )


def choose_engine(rollouts: str) -> str:
    """Return the engine for a config's `rollouts` key: `auto` takes vLLM where it is installed.

    Raises:
        InputError: the key is unknown, or vLLM is asked for and not installed.
    """
    if rollouts not in ENGINES:
        raise InputError(f"rollouts: {rollouts!r} is unknown; use {', '.join(ENGINES)}")
    if rollouts == "vllm" and not has_vllm():
        raise InputError("rollouts: vllm is not installed here; use rollouts: transformers, or install vLLM")
    if rollouts == "auto":
        return "vllm" if has_vllm() else "transformers"
    return rollouts


def refuse_quantised(model_args: Any, base: Path) -> None:
    """Refuse a base model in fewer bits where vLLM writes the rollouts: it takes the merged policy's whole weights."""
    for key in ("load_in_4bit", "load_in_8bit"):
        if getattr(model_args, key):
            raise InputError(
                f"{key}: vLLM cannot be sent the weights of a quantised policy; set {key}: false, or "
                "rollouts: transformers"
            )
    if "quantization_config" in read_json(base / "config.json"):
        raise InputError(
            f"{base}: is a quantised model, and vLLM cannot be sent such a policy's weights; set rollouts: transformers"
        )


def check_correction(args: Any) -> None:
    """Refuse to draw from a part of the tokens where vLLM's log-probabilities are corrected for.

    vLLM's are then those of that part, and the trainer's those of all tokens (TRL 1.16, huggingface/trl#6789).
    """
    cut = {"top_p": args.top_p < 1, "top_k": args.top_k > 0, "min_p": bool(args.min_p)}
    for key, draws_from_a_part in cut.items():
        if draws_from_a_part and args.use_vllm and args.vllm_importance_sampling_correction:
            raise InputError(
                f"{key}: {getattr(args, key)} biases TRL's importance correction for vLLM; remove {key}, or set "
                "vllm_importance_sampling_correction: false"
            )


@dataclass(frozen=True)
class Prompts:
    """What the policy is asked.

    Attributes:
        corpus: the labels under the run's split.
        items: N rows to train on; an empty label where there is none.
        held_out: M training rows kept apart to watch accuracy on.
        messages: N prompts.
        held_out_messages: M prompts.
    """

    corpus: Corpus
    items: pd.DataFrame
    held_out: pd.DataFrame
    messages: list[list[Message]]
    held_out_messages: list[list[Message]]

    @property
    def item_ids(self) -> list[str]:
        """Of those to train on."""
        return [str(item_id) for item_id in self.items["item_id"]]

    @property
    def counts(self) -> dict[str, int]:
        """How many of those to train on have each label."""
        return label_counts(self.items)

    def facts(self) -> dict[str, Any]:
        """Return what a manifest says of them."""
        return {
            "items": len(self.items),
            "unlabelled": len(self.items) - sum(self.counts.values()),
            "labels": self.counts,
            "data": self.corpus.digest,
            "split": self.corpus.split,
        }


def draw_prompts(ours: GRPOArguments, seed: int) -> Prompts:
    """Draw the items and write their prompts; see `select_items` and `read_unlabelled`."""
    corpus = open_prompt_corpus(ours.data, ours.split, ours.prompt)
    items, held_out = select_items(corpus, ours, Path(ours.sft_run), seed=seed)
    if ours.unlabelled is not None:
        items = pd.concat([items.astype({"label": str}), read_unlabelled(Path(ours.unlabelled), corpus)])
    messages, held_out_messages = (build_prompts(rows, corpus, ours.prompt) for rows in (items, held_out))
    return Prompts(corpus, items, held_out, messages, held_out_messages)


Ready = tuple[Prompts, Composition, Any, Any]  # what a trainer is made of; see `make_ready`


def make_ready(stage: Stage) -> Ready:
    """Check a stage, and make what its trainer is made of.

    Returns:
        The prompts, the rewards, the tokenizer, and the policy, which is that of stage one.

    Raises:
        InputError: the configuration, the data or the model do not fit.
    """
    ours, args = stage.ours, stage.args
    check_adapter(stage.adapter, stage.base.path)
    check_prompt(ours, stage.sft["prompt"])
    args.use_vllm = choose_engine(ours.rollouts) == "vllm"
    check_correction(args)
    prompts = draw_prompts(ours, args.seed)
    check_evidence(ours, prompts.corpus, stage.sft["prompt"])
    check_batches(args, len(prompts.items))
    tokenizer = load_tokenizer(stage.base.path)
    check_texts(prompts, tokenizer)
    rewards = read_rewards(ours, args, prompts, stage.folder)
    for note in lever_notes(args, len(rewards.components)):
        _logger.warning("%s", note)
    set_trainer_arguments(args, rewards, prompts, tokenizer)
    keep = ours.held_out_items > 0
    policy = load_policy(stage.base.path, stage.adapter, stage.model_args, args, keep_reference=keep)
    return prompts, rewards, tokenizer, policy


def check_batches(args: Any, n: int) -> None:
    """Refuse fewer prompts than a generation batch asks, of which TRL makes no step; say what is left over.

    Args:
        args: TRL's GRPOConfig.
        n: prompts to train on.
    """
    batch = args.generation_batch_size // args.num_generations
    if n < batch:
        raise InputError(
            f"train_items: {n} prompts, but each generation batch asks {batch} (per_device_train_batch_size × "
            "processes × steps_per_generation or else gradient_accumulation_steps, / num_generations); draw more, or "
            "make one of these smaller"
        )
    if n % batch:
        _logger.warning(
            "train_items: each epoch leaves out %d of the %d prompts, which do not fill a generation batch of %d",
            n % batch, n, batch,
        )  # fmt: skip


def asked_items(run: Path, drawn: Sequence[str]) -> list[str]:
    """Return which of the items drawn the policy was asked in the steps of a run, of all processes, in their order.

    Where the rollouts of the first step are gone, nobody can tell: then it is all that were drawn, so that none of them
    passes as unseen.
    """
    from accelerate.utils import gather_object

    stored = items_by_step(run)
    asked = {*gather_object(sorted(set().union(*stored.values())))}
    if not any(gather_object([1 in stored])):
        _logger.warning("%s: the first step's rollouts are gone; all %d items drawn count as asked", run, len(drawn))
        return list(drawn)
    return [item_id for item_id in drawn if item_id in asked]


def select_items(corpus: Corpus, ours: GRPOArguments, sft_run: Path, *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw the prompts' items and those kept apart: training rows only, without the rows of stage one.

    Returns:
        The items to train on, and `held_out_items` others with the same shares of labels; never test items.

    Raises:
        InputError: the SFT run does not say what it trained on, or too few items are left.
    """
    listed = sft_run / TRAINED_ITEMS
    if not listed.is_file():
        raise InputError(f"{listed}: no such file; stage two must leave out the SFT rows, so run stage one again")
    used = set(listed.read_text(encoding="utf-8").split("\n"))
    left = items_for_prompt(corpus.train[~corpus.train["item_id"].isin(used)], ours.prompt)
    if left.empty:
        raise InputError("train_items: no training row is left after the SFT rows; use fewer traces in stage one")
    held_out = left.head(0)
    if ours.held_out_items > 0:
        held_out = draw_items(left, ours.held_out_items, seed=seed, balance=ours.balance, key="held_out_items")
    rest = left[~left["item_id"].isin(held_out["item_id"])]
    if rest.empty:
        raise InputError(f"held_out_items: {ours.held_out_items} leaves no row to train on; keep fewer apart")
    if ours.train_on is not None:
        rest = choose(rest, Path(ours.train_on), corpus, used)
    return draw_items(rest, ours.train_items, seed=seed, balance=ours.balance, key="train_items"), held_out


def choose(items: pd.DataFrame, path: Path, corpus: Corpus, used: Collection[str]) -> pd.DataFrame:
    """Return the items that a file of chosen prompts lists; see `rl.chosen`.

    Args:
        items: that could be trained on.
        path: the file.
        corpus: the labels.
        used: the items of stage one.

    Raises:
        InputError: an item of the file cannot be trained on.
    """
    chosen, left, train = read_chosen(path), set(items["item_id"]), set(corpus.train["item_id"])
    for item_id in chosen:
        if item_id not in left:
            reason = f"is no training row of split {corpus.split}"
            if item_id in used:
                reason = "was trained on in stage one"
            elif item_id in train:
                reason = "is held out by held_out_items, or has no label of this prompt"
            raise InputError(
                f"{path}: {item_id} {reason}; write the file again with `synthpert grpo --dry-run --write` and the "
                "configuration that you train with"
            )
    return items[items["item_id"].isin(chosen)]


def check_texts(prompts: Prompts, tokenizer: Any) -> None:
    """Refuse prompts that hold a control token of the chat: TRL tokenises the text as it is rendered."""
    for rows, asked in ((prompts.items, prompts.messages), (prompts.held_out, prompts.held_out_messages)):
        for item_id, messages in zip(rows["item_id"], asked, strict=True):
            try:
                for message in messages:
                    refuse_control_tokens(tokenizer, message["content"])
            except InputError as error:
                raise InputError(f"{item_id}: {error}") from None


def read_rewards(ours: GRPOArguments, args: Any, prompts: Prompts, folder: Path) -> Composition:
    """Return the rewards of a configuration, made with what they need to know of the prompts.

    Args:
        ours, args: the configuration.
        prompts: that will be scored.
        folder: of the configuration: files that it names are relative to it.

    Raises:
        InputError: an entry is wrong, would have no effect, or cannot judge the prompts without a label.
    """
    scored = pd.concat([prompts.items, prompts.held_out])
    return compose_rewards(ours, args, reward_context(scored, prompts.corpus, folder=folder, counts=prompts.counts))


def compose_rewards(ours: GRPOArguments, args: Any, context: Context) -> Composition:
    """Return the rewards of a configuration.

    Args:
        ours, args: the configuration.
        context: what the rewards need to know of the prompts.

    Raises:
        InputError: as `read_rewards`.
    """
    components = load_rewards(ours.rewards, context, _scaling(args), args.reward_weights)
    if ours.unlabelled is not None:
        check_verifiers(components)
    return Composition(tuple(components))


def _scaling(args: Any) -> str:
    """How advantages are scaled: `normalize_then_sum` divides every reward by its spread in the group."""
    return "group" if args.multi_objective_aggregation == "normalize_then_sum" else str(args.scale_rewards)


def load_rewards(
    entries: Sequence[Any], context: Context, scale_rewards: str, weights: Sequence[float] | None = None
) -> list[Component]:
    """Return the rewards of a configuration, each a reward function for TRL with its weight.

    Args:
        entries: names or mappings; see `rewards/compose.py`.
        context: what they need to know of the prompts.
        scale_rewards: TRL's key; `group` cancels class weights.
        weights: TRL's `reward_weights`.

    Raises:
        InputError: an entry is wrong, or `balanced_accuracy` would have no effect.
    """
    composition = compose(entries, context, weights=weights)
    refuse_cancelled_weights(composition, scale_rewards)
    refuse_missing_columns(composition)
    return list(composition.components)


def set_trainer_arguments(args: Any, rewards: Composition, prompts: Prompts, tokenizer: Any) -> None:
    """Set the keys of TRL's GRPOConfig that follow from the others, and vLLM's environment."""
    args.reward_weights = [component.weight for component in rewards.components]
    args.disable_dropout = True  # the policy must equal its reference at the first step
    args.logging_first_step = True
    if args.use_vllm and args.vllm_max_model_length is None:
        asked = [*prompts.messages, *prompts.held_out_messages]
        longest = max(len(encode_prompt(tokenizer, messages)) for messages in asked)
        args.vllm_max_model_length = longest + args.max_completion_length
    if args.use_vllm and args.vllm_mode == "colocate":
        set_vllm_environment()


def load_policy(base: Path, adapter: Path, model_args: Any, args: Any, *, keep_reference: bool = False) -> Any:
    """Load the base model with a trainable copy of the SFT adapter; TRL keeps a frozen copy where `beta` is above 0.

    Args:
        base, adapter: folders of the base model and of the SFT adapter.
        model_args, args: the configuration.
        keep_reference: keep a frozen copy with `beta` 0, too, to measure the KL divergence from it on held-out prompts.
    """
    from peft import PeftModel
    from transformers import GenerationConfig, set_seed

    from rl.trainer import REFERENCE

    if args.use_vllm:
        refuse_quantised(model_args, base)
    set_seed(args.seed)
    with setting_errors():
        model = load_base(base, model_args, args)
        own = model.generation_config
        # Rollouts by transformers would fill in from the model's files what TRL leaves out, such as `min_p`.
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id
        )
        policy = PeftModel.from_pretrained(model, adapter, is_trainable=True)
        if keep_reference and args.beta == 0:
            policy.load_adapter(adapter, REFERENCE)
    if args.use_vllm:
        check_mergeable(policy)
    return policy


def go_back_to_checkpoint(run: Path) -> int:
    """Return the step that a run goes on from, 0 for a new one, and drop the rollouts after it: they come anew."""
    checkpoint = last_checkpoint(run)
    step = checkpoint_step(checkpoint)
    if is_main_process():
        drop_rollouts_after(run, step)
    return step


def make_trainer(
    trainer_class: Any,
    policy: Any,
    tokenizer: Any,
    args: Any,
    ours: GRPOArguments,
    prompts: Prompts,
    rewards: Composition,
    run: Path,
) -> Any:
    """Make the trainer of a run.

    Args:
        trainer_class: a subclass of `rl.trainer.GRPOTrainer`; None for that one itself.
        policy, tokenizer: to train, and its tokenizer.
        args, ours: the configuration.
        prompts, rewards: what is asked and how it is paid.
        run: the run folder.

    Raises:
        InputError: the libraries refuse a setting.
    """
    from rl.trainer import GRPOTrainer

    # A response template would let TRL take the reasoning out of the completion before the rewards see it.
    tokenizer.response_template = None
    tokenizer.response_schema = None
    prefix = prefilled_think(render_prompt(tokenizer, prompts.messages[0]))
    recorder = Recorder(run, rewards.components, prefix, int(os.environ.get("RANK", "0")))
    with setting_errors():
        return (trainer_class or GRPOTrainer)(
            recorder=recorder,
            prefix_tree=ours.prefix_tree,
            correct_always=ours.correct_always,
            model=policy,
            args=trainer_arguments(args, run),
            train_dataset=prompt_dataset(prompts.items, prompts.messages),
            eval_dataset=prompt_dataset(prompts.held_out, prompts.held_out_messages),
            processing_class=tokenizer,
            callbacks=run_callbacks(run, args, ours, prompts),
        )


def prompt_dataset(items: pd.DataFrame, messages: Sequence[Sequence[Message]]) -> Any:
    """Return N items and their prompts as a data set of TRL's, None where there are none."""
    from datasets import Dataset

    columns = {name: [str(value) for value in items[name]] for name in ITEM_COLUMNS}
    return Dataset.from_dict({"prompt": messages, **columns}) if len(items) else None


def run_callbacks(run: Path, args: Any, ours: GRPOArguments, prompts: Prompts) -> list[Any]:
    """Return what watches a run: its log, the check of the first step, and the alarms."""
    callbacks = [log_callback(run)]  # before those that may stop the run
    if args.beta > 0:
        callbacks.append(first_kl_check())
    if ours.alarms != "off":
        shares = {label: count / sum(prompts.counts.values()) for label, count in prompts.counts.items()}
        callbacks.append(alarm_callback(run, ours.alarms, shares))
    return callbacks


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


def step_metrics(state: Any) -> dict[str, Any]:
    """Say for the manifest how the steps went, by their log in the trainer's state."""
    steps = [entry for entry in state.log_history if "reward" in entry]
    return {
        "steps": state.global_step,
        "first_kl": steps[0].get("kl"),
        "mean_abs_logprob_difference": _mean(steps, "sampling/sampling_logp_difference/mean"),
        "first_reward": steps[0]["reward"],
        "last_reward": steps[-1]["reward"],
        "mean_scores": {  # by component, before its weight
            key.removeprefix("rewards/").removesuffix("/mean"): {"first": steps[0][key], "last": steps[-1].get(key)}
            for key in steps[0]
            if key.startswith("rewards/") and key.endswith("/mean")
        },
        "zero_variance_groups": _mean(steps, "zero_variance_groups"),
        "unscorable": _mean(steps, "unscorable"),
    }


def _mean(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [float(step[key]) for step in steps if key in step]
    return sum(values) / len(values) if values else None
