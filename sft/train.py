"""Stage one: supervised fine-tuning of a LoRA adapter on reasoning traces (TRL's `SFTTrainer`)."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.config import ConfigSource, IgnoredKeys, parse_stage, resolved
from benchmarks.evidence.corpus import Corpus
from benchmarks.files import check_folder, file_sha256, write_text
from benchmarks.models.folders import ModelFolder, adapter_sha256, check_adapter, read_trained_items
from benchmarks.progress import Progress
from benchmarks.runs import MANIFEST, is_main_process, open_run
from rewards import LABELS, CheckError, InputError
from sft.audit.audit import Audit, audit_traces, corpus_of
from sft.examples import (
    Example,
    check_answers,
    check_labels,
    dataset_of,
    draw_traces,
    tokenize_traces,
    without_reasoning,
)
from sft.gate import GateResult, run_gate
from sft.labels import start_of, write_label_traces
from sft.traces import Trace, read_traces
from sft.training import (
    ADAPTER,
    IGNORED_KEYS,
    check_mergeable,
    find_base,
    load_base,
    load_tokenizer,
    log_callback,
    run_trainer,
    setting_errors,
    show_with,
    trainer_arguments,
)

_NO_EVALUATION: Final = "stage one has no rows apart to evaluate on"
_TOKENISED: Final = "traces are tokenised as they are read, with the tokenizer's own end of turn"
# Further keys of TRL 1.16 and transformers 5.17 that stage one does not read.
_IGNORED_KEYS: Final[IgnoredKeys] = {
    "eval_strategy": ("no", _NO_EVALUATION),
    "eval_steps": (None, _NO_EVALUATION),
    "eval_delay": (0, _NO_EVALUATION),
    "eval_on_start": (False, _NO_EVALUATION),
    "eval_packing": (None, _NO_EVALUATION),
    "eval_accumulation_steps": (None, _NO_EVALUATION),
    "eval_use_gather_object": (False, _NO_EVALUATION),
    "per_device_eval_batch_size": (8, _NO_EVALUATION),
    "bf16_full_eval": (False, _NO_EVALUATION),
    "fp16_full_eval": (False, _NO_EVALUATION),
    "load_best_model_at_end": (False, _NO_EVALUATION),
    "metric_for_best_model": (None, _NO_EVALUATION),
    "greater_is_better": (None, _NO_EVALUATION),
    "dataset_text_field": ("text", _TOKENISED),
    "dataset_kwargs": (None, _TOKENISED),
    "dataset_num_proc": (None, _TOKENISED),
    "eos_token": (None, _TOKENISED),
    "assistant_only_loss": (False, "the completion is learnt, and nothing else"),
    "truncation_mode": ("keep_start", "a trace that is longer than max_length is refused"),
    "shuffle_dataset": (False, "rows are drawn in an order by seed"),
}


@dataclass
class SFTArguments:
    """Our own keys of an SFT configuration; all others are TRL's."""

    traces: str = field(default="", metadata={"help": "JSONL file of traces to train on"})
    labels_of: str | None = field(
        default=None,
        metadata={"help": "GRPO run: go on from its SFT adapter, on the true labels of its prompts instead of traces"},
    )
    traces_fraction: float = field(default=1.0, metadata={"help": "share of them to train on, drawn by seed"})
    answer_only: bool = field(default=False, metadata={"help": "learn the true label without any reasoning"})
    keep_wrong: bool = field(default=False, metadata={"help": "learn traces whose answer is not the true label, too"})
    data: str | None = field(default=None, metadata={"help": "labels that the traces are audited against"})
    split: str | None = field(default=None, metadata={"help": "split of that audit; the traces' own by default"})
    prefix_tree: Literal["auto", "on", "off"] = field(
        default="auto", metadata={"help": "what prompts begin with alike is computed once: auto where it pays, on, off"}
    )
    gate_prompts: int = field(default=64, metadata={"help": "training prompts asked after training; 0 for none"})
    gate_share: float = field(default=0.9, metadata={"help": "share of them that must end and give an answer"})


def train(config: ConfigSource, overrides: Sequence[str] = ()) -> Path:
    """Run stage one.

    Args:
        config: a YAML file or mapping with the keys of `SFTArguments` and any key of TRL's SFTConfig and ModelConfig;
            `output_dir` is the run folder.
        overrides: command-line words `--key value`.

    Returns:
        The run folder: `config.yaml`, `manifest.json`, `adapter/`, `items.txt` (the items trained on), `log.jsonl`,
        `gate.json`. Of several processes, all but the first return when the adapter is saved, before the gate.

    Raises:
        InputError: bad configuration, traces, model, or a run folder of another configuration.
        CheckError: a trace is a leak, a token that must be learnt is masked, the disk is full, or the student fails
            the gate.
    """
    with Progress("stage one", shown=is_main_process()) as progress:
        progress.phase("reading the configuration")
        return _train(config, overrides, progress)


def _train(config: ConfigSource, overrides: Sequence[str], progress: Progress) -> Path:
    ours, args, model_args = read_arguments(config, overrides)
    start = None if ours.labels_of is None else start_of(Path(ours.labels_of))
    path = Path(ours.traces) if ours.labels_of is None else write_label_traces(Path(ours.labels_of))
    out = Path(args.output_dir)
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with `synthpert traces generate`")
    check_folder(out)
    base = find_base(model_args)
    progress.phase("loading traces and model")  # the paths are right
    settings = resolved(ours, args, model_args)
    inputs = {"traces": file_sha256(path), **base.inputs("model_name_or_path")}
    if (out / MANIFEST).is_file() and open_run(out, "sft", settings, inputs).done:
        return out
    found, audit, corpus = read_clean_traces(path, ours)
    traces = choose_traces(found, ours, args.seed)
    tokenizer = load_tokenizer(base.path)
    places = {trace.item_id: f"{path}, row {row}" for row, trace in enumerate(found, start=1)}
    examples = tokenize_traces(tokenizer, traces, args.max_length, places)
    run = open_run(out, "sft", settings, inputs)  # only now: what is refused above leaves no folder behind
    with run.failures_noted():
        trainer = make_trainer(base, examples, tokenizer, args, model_args, run.path, ours.prefix_tree, start)
        before = () if start is None else read_trained_items(start)
        check_labels(trainer, tokenizer, examples)
        check_steps(trainer)
        show_with(trainer, progress)
        run_trainer(trainer, run.path, base.path, lambda: [trace.item_id for trace in traces], before)
        if not is_main_process():  # no more to do together: a long gate must not let the others run into a timeout
            return run.path
        gate = pass_gate(trainer, tokenizer, traces, examples, ours, run.path, progress) if ours.gate_prompts else None
        run.finish(
            base=base.facts(),
            adapter_sha256=adapter_sha256(run.path / ADAPTER),
            start_adapter_sha256=None if start is None else adapter_sha256(start),
            screen=corpus.facts(),
            **trace_facts(path, found, traces),
            answer_only=ours.answer_only or ours.labels_of is not None,
            audit=audit.facts(),
            gate=gate and {"prompts": gate.prompts, "share": gate.share, "terminated": gate.terminated},
            prefix_tree={"mode": "off"} if trainer.scorer is None else trainer.scorer.facts(),
            **learning_facts(trainer, examples),
        )
    return run.path


def read_clean_traces(path: Path, ours: SFTArguments) -> tuple[list[Trace], Audit, Corpus]:
    """Read the file of traces, and hold it against the labels and the split that it was made under.

    Returns:
        All of its traces, the audit, and the labels that it was made against.

    Raises:
        InputError: a line does not read, the traces are of several prompt protocols, or one teaches a wrong answer.
        CheckError: a trace is a leak.
    """
    found = read_traces(path)
    for trace in found:
        if trace.protocol != found[0].protocol:
            raise InputError(
                f"{path}: {trace.item_id} has another prompt protocol than the first trace; split the file"
            )
    corpus = corpus_of(found[0].protocol, ours.data, ours.split)
    audit = audit_traces(found, corpus)
    audit.require_clean(str(path))
    if not ours.answer_only:
        check_answers(found, str(path), keep_wrong=ours.keep_wrong)
    return found, audit, corpus


def choose_traces(found: Sequence[Trace], ours: SFTArguments, seed: int) -> list[Trace]:
    """Return the traces to learn: the share that is asked for, without reasoning where answers alone are learnt."""
    traces = draw_traces(found, ours.traces_fraction, seed)
    return [without_reasoning(trace) for trace in traces] if ours.answer_only else traces


def make_trainer(
    base: ModelFolder,
    examples: Sequence[Example],
    tokenizer: Any,
    args: Any,
    model_args: Any,
    run: Path,
    prefix_tree: str = "off",
    start: Path | None = None,
) -> Any:
    """Make the trainer of an adapter on the base model: of a new one, or of one to go on from (`start`).

    Raises:
        InputError: the libraries refuse a setting, or stage two could not go on from the adapter.
    """
    from transformers import set_seed
    from trl import get_peft_config

    from sft.trainer import SFTTrainer

    set_seed(args.seed)  # before the adapter is made, so that one seed gives one adapter
    with setting_errors():
        model = load_base(base.path, model_args, args)
        if start is not None:
            from peft import PeftModel

            check_start(start, base.path, model_args)
            model = PeftModel.from_pretrained(model, start, is_trainable=True)
        trainer = SFTTrainer(
            prefix_tree=prefix_tree,
            model=model,
            args=trainer_arguments(args, run),
            train_dataset=dataset_of(examples),
            processing_class=tokenizer,
            peft_config=get_peft_config(model_args) if start is None else None,
            callbacks=[log_callback(run)],
        )
    check_mergeable(trainer.model)  # or it could not go on to stage two
    return trainer


def check_start(adapter: Path, base: Path, model_args: Any) -> None:
    """Refuse an adapter to go on from that is not of the base model, or not as the lora keys say."""
    found = check_adapter(adapter, base)
    for key, name in (("lora_r", "r"), ("lora_alpha", "lora_alpha")):
        if (asked := getattr(model_args, key)) != found[name]:
            raise InputError(f"{key}: {asked}, but {adapter} has {found[name]}; use the same")


def pass_gate(
    trainer: Any,
    tokenizer: Any,
    traces: Sequence[Trace],
    examples: Sequence[Example],
    ours: SFTArguments,
    run: Path,
    progress: Progress,
) -> GateResult:
    """Ask the student training prompts and write `gate.json`.

    Raises:
        CheckError: fewer than `gate_share` of its completions end and give an answer.
    """
    progress.phase(f"asking it {min(ours.gate_prompts, len(traces))} training prompts")
    longest = max(sum(example.completion_mask) for example in examples)
    gate = run_gate(
        trainer.accelerator.unwrap_model(trainer.model),
        tokenizer,
        traces,
        n=ours.gate_prompts,
        max_new_tokens=longest + longest // 4 + 16,
        seed=trainer.args.seed,
    )
    write_text(run / "gate.json", json.dumps(asdict(gate), indent=2) + "\n")
    gate.require(ours.gate_share)
    return gate


def trace_facts(path: Path, found: Sequence[Trace], traces: Sequence[Trace]) -> dict[str, Any]:
    """Say for the manifest which of the traces found were learnt, and how they were made."""
    n = found[0].protocol.get("train_items")
    return {
        "traces": {
            "file": path.name,
            "sha256": file_sha256(path),
            "rows": len(found),
            "used": len(traces),
            "wrong_answers": sum(trace.answer != trace.label for trace in traces),
            "labels": {str(label): sum(trace.label == str(label) for trace in traces) for label in LABELS},
            "share_of_training_items": None if n is None else len(traces) / n,
        },
        "prompt": traces[0].protocol,
        "teachers": sorted({trace.teacher for trace in traces}),
    }


def learning_facts(trainer: Any, examples: Sequence[Example]) -> dict[str, Any]:
    """Say for the manifest how much was learnt, and how the loss went."""
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    if not losses:
        raise CheckError("logging_steps: no loss was logged; set it to at most the number of steps")
    return {
        "tokens": sum(len(example.input_ids) for example in examples),
        "trained_tokens": sum(sum(example.completion_mask) for example in examples),
        "steps": trainer.state.global_step,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def read_arguments(config: ConfigSource, overrides: Sequence[str] = ()) -> tuple[SFTArguments, Any, Any]:
    """Return a configuration of stage one as SFTArguments, SFTConfig and ModelConfig, or refuse it; see `train`."""
    from trl import SFTConfig

    ours, args, model_args = parse_stage(config, overrides, SFTArguments, SFTConfig, {**IGNORED_KEYS, **_IGNORED_KEYS})
    if (ours.traces == "") == (ours.labels_of is None):
        raise InputError("traces: give a file of traces, or labels_of and a GRPO run; not both")
    if not model_args.use_peft:
        raise InputError("use_peft: must be true; stage one trains a LoRA adapter, which stage two starts from")
    if args.max_length is None:
        raise InputError("max_length: must be set; it is the longest example in tokens (the paper: 2048)")
    if args.completion_only_loss is False:
        raise InputError("completion_only_loss: must not be false; the prompt's tokens are not learnt")
    if not 0 < ours.traces_fraction <= 1:
        raise InputError(f"traces_fraction: {ours.traces_fraction}; it must lie above 0 and at most at 1 (2 %: 0.02)")
    if ours.gate_prompts < 0 or not 0 <= ours.gate_share <= 1:
        raise InputError("gate_prompts, gate_share: must be 0 or more, and a share between 0 and 1")
    if args.chat_template_path is not None:
        raise InputError(
            "chat_template_path: is not taken; training, gate, rollouts and evaluation all use the tokenizer's own "
            "template: save yours with the model"
        )
    if args.packing and not args.packing_strategy.startswith("bfd"):
        raise InputError(f"packing_strategy: {args.packing_strategy} cuts examples in two; use bfd")
    args.completion_only_loss = True  # by itself, TRL would learn the prompts of tokenised examples too
    return ours, args, model_args


def check_steps(trainer: Any) -> None:
    """Stop before training where there are too few steps to log a loss or to reach the learning rate.

    Raises:
        InputError: `logging_steps` or `warmup_steps` does not fit the number of steps.
    """
    args = trainer.args
    batches = len(trainer.get_train_dataloader())
    per_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)  # batches left over are a step, too
    steps = math.ceil(per_epoch * args.num_train_epochs)
    steps = args.max_steps if args.max_steps > 0 else steps
    if args.logging_steps > steps:
        raise InputError(f"logging_steps: {args.logging_steps:g}, but there are {steps} steps; set it to at most that")
    if 1 <= steps <= args.warmup_steps:
        raise InputError(
            f"warmup_steps: {args.warmup_steps:g}, but there are {steps} steps: the learning rate would not be "
            "reached, so set fewer"
        )
