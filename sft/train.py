"""Stage one: supervised fine-tuning of a LoRA adapter on reasoning traces (TRL's `SFTTrainer`)."""

import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from benchmarks.chat import open_tokenizer, prefilled_think, render_prompt
from benchmarks.config import ConfigSource, parse_stage, resolved
from benchmarks.machine import use_cpu_well
from benchmarks.models.folders import (
    TRAINED_ITEMS,
    adapter_sha256,
    check_adapter,
    model_fingerprint,
    resolve_model,
    write_trained_items,
)
from benchmarks.models.generation import one_line
from benchmarks.progress import Progress
from benchmarks.quiet import hide_loading_bars
from benchmarks.runs import MANIFEST, disk_errors, file_sha256, is_main_process, open_run
from rewards import LABELS, CheckError, InputError
from rewards.answer import TAGS
from sft.audit.audit import audit_traces, corpus_of
from sft.gate import run_gate
from sft.traces import Trace, read_traces

ADAPTER: Final = "adapter"
LOG: Final = "log.jsonl"
IGNORE: Final = -100  # the label of a token that is not learnt


@dataclass
class SFTArguments:
    """Our own keys of an SFT configuration; all others are TRL's."""

    traces: str = field(metadata={"help": "JSONL file of traces to train on"})
    traces_fraction: float = field(default=1.0, metadata={"help": "share of them to train on, drawn by seed"})
    answer_only: bool = field(default=False, metadata={"help": "learn the true label without any reasoning"})
    keep_wrong: bool = field(default=False, metadata={"help": "learn traces whose answer is not the true label, too"})
    data: str | None = field(default=None, metadata={"help": "labels that the traces are audited against"})
    split: str | None = field(default=None, metadata={"help": "split of that audit; the traces' own by default"})
    gate_prompts: int = field(default=64, metadata={"help": "training prompts asked after training; 0 for none"})
    gate_share: float = field(default=0.9, metadata={"help": "share of them that must end and give an answer"})


@dataclass(frozen=True)
class Example:
    """A tokenised trace: T tokens, of which the last C are the completion with its end-of-turn token.

    Attributes:
        input_ids: (T,) token ids.
        completion_mask: (T,) 1 where a token is learnt.
    """

    input_ids: list[int]
    completion_mask: list[int]


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
        progress.phase("loading traces and model")
        return _train(config, overrides, progress)


def _train(config: ConfigSource, overrides: Sequence[str], progress: Progress) -> Path:
    from transformers import set_seed
    from trl import SFTTrainer, get_peft_config

    ours, args, model_args = read_arguments(config, overrides)
    traces_path, out = Path(ours.traces), Path(args.output_dir)
    if not traces_path.is_file():
        raise InputError(f"{traces_path}: no such file; make it with `synthpert traces generate`")
    base = resolve_model(model_args.model_name_or_path, model_revision(model_args))
    fingerprint = model_fingerprint(base.path)
    settings = resolved(ours, args, model_args)
    inputs = {"traces": file_sha256(traces_path), "model_name_or_path": fingerprint}
    if (out / MANIFEST).is_file() and open_run(out, "sft", settings, inputs).done:
        return out
    found = read_traces(traces_path)
    for trace in found:
        if trace.protocol != found[0].protocol:
            raise InputError(
                f"{traces_path}: {trace.item_id} has another prompt protocol than the first trace; split the file"
            )
    audit = audit_traces(found, corpus_of(found[0].protocol, ours.data, ours.split))
    audit.require_clean(str(traces_path))
    if not ours.answer_only:
        check_answers(found, str(traces_path), keep_wrong=ours.keep_wrong)
    traces = draw_traces(found, ours.traces_fraction, args.seed)
    if ours.answer_only:
        traces = [without_reasoning(trace) for trace in traces]
    tokenizer = load_tokenizer(base.path)
    examples = tokenize_traces(tokenizer, traces, args.max_length)
    run = open_run(out, "sft", settings, inputs)  # only now: what is refused above leaves no folder behind

    set_seed(args.seed)  # before the adapter is made, so that one seed gives one adapter
    with setting_errors():
        trainer = SFTTrainer(
            model=load_base(base.path, model_args, args),
            args=trainer_arguments(args, run.path),
            train_dataset=_dataset(examples),
            processing_class=tokenizer,
            peft_config=get_peft_config(model_args),
            callbacks=[log_callback(run.path)],
        )
    check_labels(trainer, tokenizer, examples)
    check_steps(trainer)
    show_with(trainer, progress)
    with disk_errors(run.path):
        trainer.train(resume_from_checkpoint=last_checkpoint(run.path))
        save_adapter(trainer, run.path / ADAPTER, base.path, [trace.item_id for trace in traces])
        write_items(run.path, [trace.item_id for trace in traces])
    trainer.accelerator.wait_for_everyone()
    if not is_main_process():  # no more to do together: a long gate must not let the others run into a timeout
        return run.path
    gate = None
    if ours.gate_prompts:
        progress.phase(f"asking it {min(ours.gate_prompts, len(traces))} training prompts")
        longest = max(sum(example.completion_mask) for example in examples)
        gate = run_gate(
            trainer.accelerator.unwrap_model(trainer.model), tokenizer, traces,
            n=ours.gate_prompts, max_new_tokens=longest + longest // 4 + 16, seed=args.seed,
        )  # fmt: skip
        (run.path / "gate.json").write_text(json.dumps(asdict(gate), indent=2) + "\n", encoding="utf-8")
        gate.require(ours.gate_share)
    run.finish(
        base={"name": base.name, "revision": base.revision, "fingerprint": fingerprint},
        adapter_sha256=adapter_sha256(run.path / ADAPTER),
        traces={
            "file": traces_path.name,
            "sha256": file_sha256(traces_path),
            "rows": len(found),
            "used": len(traces),
            "wrong_answers": sum(trace.answer != trace.label for trace in traces),
            "labels": {str(label): sum(trace.label == str(label) for trace in traces) for label in LABELS},
            "share_of_training_items": None if (n := found[0].protocol.get("train_items")) is None else len(traces) / n,
        },
        answer_only=ours.answer_only,
        audit=audit.facts(),
        gate=None if gate is None else {"prompts": gate.prompts, "share": gate.share, "terminated": gate.terminated},
        prompt=traces[0].protocol,
        teachers=sorted({trace.teacher for trace in traces}),
        tokens=sum(len(example.input_ids) for example in examples),
        learnt_tokens=sum(sum(example.completion_mask) for example in examples),
        steps=trainer.state.global_step,
        first_loss=_losses(trainer)[0],
        last_loss=_losses(trainer)[-1],
    )
    return run.path


def read_arguments(config: ConfigSource, overrides: Sequence[str] = ()) -> tuple[SFTArguments, Any, Any]:
    """Return a configuration of stage one as SFTArguments, SFTConfig and ModelConfig, or refuse it; see `train`."""
    from trl import SFTConfig

    ours, args, model_args = parse_stage(config, overrides, SFTArguments, SFTConfig)
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


def check_answers(traces: Sequence[Trace], where: str, *, keep_wrong: bool) -> None:
    """Refuse traces from which a student would learn to give no answer, or a wrong one.

    Args:
        traces: N traces.
        where: their file, for the message.
        keep_wrong: let wrong answers pass.

    Raises:
        InputError: some give no answer by the strict parser, or another one than the true label: how many of how many,
            and the first of them.
    """
    silent = [trace.item_id for trace in traces if not trace.answer]
    if silent:
        raise InputError(
            f"{where}: {len(silent)} of {len(traces)} traces give no answer, the first {silent[0]}; take them out by "
            "the filter step `parse`"
        )
    wrong = [trace.item_id for trace in traces if trace.answer != trace.label]
    if wrong and not keep_wrong:
        raise InputError(
            f"{where}: {len(wrong)} of {len(traces)} traces give a wrong answer, the first {wrong[0]}; take them out "
            "by the filter step `label`, or set keep_wrong: true"
        )


def draw_traces(traces: Sequence[Trace], fraction: float, seed: int) -> list[Trace]:
    """Draw a share of the traces at random, at least one; they stay in their order.

    Args:
        traces: N traces.
        fraction: in (0, 1]; round(fraction × N) are drawn.
        seed: of the draw; a larger share drawn with the same seed holds the smaller one.
    """
    order = random.Random(seed).sample(range(len(traces)), len(traces))
    return [traces[row] for row in sorted(order[: max(1, round(fraction * len(traces)))])]


def without_reasoning(trace: Trace) -> Trace:
    """Return the trace with an empty think block and the true label: what the paper's ablation learns."""
    return replace(trace, completion=f"<think></think><answer>{trace.label}</answer>", answer=trace.label)


def tokenize_traces(tokenizer: Any, traces: Sequence[Trace], max_length: int) -> list[Example]:
    """Tokenise traces; see `tokenize_trace`.

    Raises:
        InputError: a trace cannot be learnt, or some are longer than `max_length`: how many, and the first of them.
    """
    examples = [tokenize_trace(tokenizer, trace) for trace in traces]
    too_long = [row for row, example in enumerate(examples) if len(example.input_ids) > max_length]
    if too_long:
        longest = max(len(examples[row].input_ids) for row in too_long)
        raise InputError(
            f"{traces[too_long[0]].item_id}: {len(too_long)} of {len(traces)} traces have more than max_length "
            f"{max_length} tokens (the longest {longest}); their ends would not be learnt, so raise max_length or "
            "filter by the step `tokens`"
        )
    return examples


def tokenize_trace(tokenizer: Any, trace: Trace) -> Example:
    """Tokenise a trace exactly as generation would see it: prompt ids, then the completion's, then end of turn.

    The prompt comes from the chat template with its generation prompt; where that already opens the think block, the
    completion goes on inside it. The template's rendering of past turns is not used: many drop the reasoning.

    Raises:
        InputError: the example has more or fewer than one pair of each tag, or does not read back as prompt +
            completion.
    """
    prompt = render_prompt(tokenizer, trace.prompt)
    prefill = prefilled_think(prompt)
    completion = trace.completion
    if prefill:
        completion = completion.lstrip().removeprefix(prefill.strip()).lstrip()
    for tag in TAGS:
        if (found := (prefill + completion).count(tag)) != 1:
            raise InputError(f"{trace.item_id}: {found} times {tag} in its example, not once; mend or remove the trace")
    for text in (prompt, completion):
        if not _is_unicode(text):
            raise InputError(f"{trace.item_id}: holds a lone surrogate, which no tokenizer reads; remove the trace")
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
    for name, text, ids in (("prompt", prompt, prompt_ids), ("completion", completion, completion_ids)):
        if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != text:
            raise InputError(f"{trace.item_id}: its {name} does not survive the tokenizer; mend or remove the trace")
    return Example(
        [*prompt_ids, *completion_ids, tokenizer.eos_token_id], [0] * len(prompt_ids) + [1] * (len(completion_ids) + 1)
    )


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text) if not text.isascii() else True


def check_labels(trainer: Any, tokenizer: Any, examples: Sequence[Example]) -> None:
    """Stop before training unless the trainer's own batches learn each completion, its end of turn, and nothing else.

    Raises:
        CheckError: a batch has no label, learns a prompt token, or does not learn the end of turn.
    """
    dataset = trainer.train_dataset
    if trainer.args.packing:
        learnt_runs = Counter(run for row in dataset["labels"] for run in _learnt_runs(row))
        wanted_runs = Counter(tuple(one.input_ids[one.completion_mask.index(1) :]) for one in examples)
        if learnt_runs != wanted_runs:
            missing = (wanted_runs - learnt_runs).total()
            raise CheckError(
                f"packing: {missing} of {len(examples)} completions are not learnt as they are; set packing: false"
            )
        return
    if len(dataset) != len(examples):
        raise CheckError(f"traces: {len(examples)} given, but the trainer kept {len(dataset)}; raise max_length")
    for row, example in enumerate(examples):
        batch = trainer.data_collator([dataset[row]])
        labels = batch["labels"][0].tolist()
        learnt = [token for token in labels if token != IGNORE]
        start = example.completion_mask.index(1)
        if not learnt:
            raise CheckError(f"row {row + 1}: no token is learnt; the completion mask is empty")
        if learnt[-1] != tokenizer.eos_token_id:
            raise CheckError(f"row {row + 1}: the end of turn {tokenizer.eos_token!r} is not learnt; check eos_token")
        if learnt != example.input_ids[start:]:
            raise CheckError(
                f"row {row + 1}: {len(learnt)} tokens are learnt, not the completion's {len(labels) - start}"
            )
        if batch["input_ids"][0].tolist() != example.input_ids:
            raise CheckError(f"row {row + 1}: the trainer's tokens are not prompt + completion; do not shuffle_dataset")


def _learnt_runs(labels: Sequence[int]) -> list[tuple[int, ...]]:
    """The stretches of tokens that are learnt, between those that are not."""
    return [tuple(run) for learnt, run in groupby(labels, lambda label: label != IGNORE) if learnt]


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


def load_tokenizer(path: Path) -> Any:
    """Load a tokenizer to train with: `open_tokenizer`'s.

    Raises:
        InputError: as `open_tokenizer` does, or it has no end-of-turn token, or one of our tags is a special token.
    """
    tokenizer = open_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer has no end-of-turn token (eos_token); set one in its config")
    for tag in TAGS:
        ids = tokenizer(tag, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids, skip_special_tokens=True) != tag:
            raise InputError(
                f"{path}: {tag} is a special token of the tokenizer, which TRL removes before a reward reads a "
                "completion; make it an ordinary one (special: false in tokenizer_config.json)"
            )
    return tokenizer


@contextmanager
def setting_errors() -> Iterator[None]:
    """Turn a setting that the libraries refuse while they make model and trainer into one line."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, ImportError) as error:
        raise InputError(f"configuration: {one_line(error)}") from error


def load_base(path: Path, model_args: Any, args: Any) -> Any:
    """Load the base model that a stage trains an adapter on, in the number type that was settled for the run."""
    from transformers import AutoModelForCausalLM
    from trl import get_quantization_config

    use_cpu_well()
    hide_loading_bars()
    return AutoModelForCausalLM.from_pretrained(
        path,
        dtype=model_args.dtype,
        attn_implementation=model_args.attn_implementation,
        quantization_config=get_quantization_config(model_args),
        use_safetensors=True,
        trust_remote_code=args.trust_remote_code,
    )


def trainer_arguments(args: Any, run: Path) -> Any:
    """Point the trainer at the run folder, without reports to services nobody asked for."""
    args.output_dir = str(run / "checkpoints")
    args.report_to = []
    return args


def last_checkpoint(run: Path) -> str | None:
    """Return the newest whole checkpoint of an interrupted run, None where there is none to go on from."""
    # The trainer's state is written last: a folder without it was cut off while it was saved.
    whole = [state.parent for state in (run / "checkpoints").glob("checkpoint-*/trainer_state.json") if _reads(state)]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _reads(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def save_adapter(trainer: Any, path: Path, base: Path, item_ids: Sequence[str] | None) -> None:
    """Save the trained adapter as safetensors, with notes of its base model and of the items it learnt, where known."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.accelerator.is_main_process:
        model.save_pretrained(path, selected_adapters=["default"], safe_serialization=True)
        if item_ids is not None:
            write_trained_items(path, item_ids)
        (path / "synthpert.json").write_text(json.dumps({"base_fingerprint": model_fingerprint(base)}) + "\n")
        check_adapter(path, base)


def progress_callback(progress: Progress) -> Any:
    """Return a trainer callback that shows the steps as a phase of `progress`, with the last loss or reward."""
    from transformers import TrainerCallback

    class Show(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.phase("learning", state.max_steps, "steps", state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logged = state.log_history[-1] if state.log_history else {}
            notes = [f"{key} {float(logged[key]):.3g}" for key in ("loss", "reward") if key in logged]
            progress.at(state.global_step, ", ".join(notes))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.phase("saving")

    return Show()


def show_with(trainer: Any, progress: Progress) -> None:
    """Let `progress` show a trainer's steps instead of the bar and the printed logs of transformers."""
    from transformers import PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

    for callback in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(callback)
    trainer.add_callback(progress_callback(progress))


def log_callback(run: Path) -> Any:
    """Return a trainer callback that writes `log.jsonl` as the run goes, one JSON object a logged step.

    A run that ends early has the log of its steps; one that goes on begins with the entries up to its checkpoint.
    """
    from transformers import TrainerCallback

    path = run / LOG

    class Log(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._write("w", state, state.log_history)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self._write("a", state, state.log_history[-1:])

        def _write(self, mode: str, state: Any, entries: Sequence[Any]) -> None:
            if state.is_world_process_zero:
                with path.open(mode, encoding="utf-8") as file:
                    file.writelines(json.dumps(entry) + "\n" for entry in entries)

    return Log()


def write_items(run: Path, item_ids: Sequence[str]) -> None:
    """Write which items a stage was trained on, one id a line."""
    if is_main_process():
        (run / TRAINED_ITEMS).write_text("".join(f"{item_id}\n" for item_id in item_ids), encoding="utf-8")


def _losses(trainer: Any) -> list[float]:
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    if not losses:
        raise CheckError("logging_steps: no loss was logged; set it to at most the number of steps")
    return losses


def _dataset(examples: Sequence[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "completion_mask": [example.completion_mask for example in examples],
        }
    )


def model_revision(model_args: Any) -> str | None:
    """The hub revision asked for; TRL's default `main` means none for a folder."""
    revision = model_args.model_revision
    return None if Path(model_args.model_name_or_path).is_dir() and revision == "main" else revision
