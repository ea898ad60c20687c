"""What both stages of training share: how a model is loaded, and how a run goes on, is shown, logged and saved."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.chat import THINK, open_tokenizer, render_prompt
from benchmarks.config import IgnoredKeys
from benchmarks.files import disk_errors, write_text
from benchmarks.machine import use_cpu_well
from benchmarks.models.folders import (
    TRAINED_ITEMS,
    ModelFolder,
    check_adapter,
    mark_adapter,
    resolve_model,
    write_trained_items,
)
from benchmarks.models.generation import one_line
from benchmarks.progress import Progress
from benchmarks.quiet import hide_loading_bars
from benchmarks.runs import is_main_process
from rewards import InputError
from rewards.answer import TAGS

ADAPTER: Final = "adapter"
LOG: Final = "log.jsonl"
_CHECKPOINT: Final = re.compile(r"checkpoint-[0-9]+")  # as the trainer calls it, and no copy of one
_NO_METRICS: Final = "nothing is computed from a trainer's predictions"
# Keys of TRL 1.16 and transformers 5.17 that neither stage reads.
IGNORED_KEYS: Final[IgnoredKeys] = {
    "resume_from_checkpoint": (None, "a run goes on from its own last checkpoint by itself"),
    "model_init_kwargs": (None, "model_revision, dtype and attn_implementation say how the model is loaded"),
    "do_train": (False, "a stage trains"),
    "do_eval": (False, "eval_strategy says whether there are evaluations"),
    "do_predict": (False, "a stage trains"),
    "disable_tqdm": (None, "the command shows by itself how far it is"),
    "local_rank": (-1, "a launcher tells each process its rank"),
    "include_for_metrics": ([], _NO_METRICS),
    "batch_eval_metrics": (False, _NO_METRICS),
    "eval_do_concat_batches": (True, _NO_METRICS),
    "prediction_loss_only": (False, _NO_METRICS),
    "label_names": (None, _NO_METRICS),
}


def load_tokenizer(path: Path) -> Any:
    """Load a tokenizer to train with: `open_tokenizer`'s.

    Raises:
        InputError: as `open_tokenizer` does, or it has no end-of-turn token, or one of our tags is a special token, or
            the chat template closes the think block before the model writes.
    """
    tokenizer = open_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer has no end-of-turn token (eos_token); set one in its config")
    prompt = render_prompt(tokenizer, [{"role": "user", "content": "Q"}])
    if prompt.rstrip().endswith("</think>"):
        raise InputError(
            f"{path}: its chat template ends the prompt in a closed think block, so that a completion would have a "
            f"second one; change chat_template to its form with thinking on, whose prompt ends in {THINK} or no tag"
        )
    for tag in TAGS:
        ids = tokenizer(tag, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids, skip_special_tokens=True) != tag:
            raise InputError(
                f"{path}: {tag} is a special token of the tokenizer, which TRL removes before a reward reads a "
                "completion; make it an ordinary one (special: false in tokenizer_config.json)"
            )
    return tokenizer


def find_base(model_args: Any) -> ModelFolder:
    """Return the base model of a configuration; an `InputError` where there is none (see `resolve_model`)."""
    name, revision = model_args.model_name_or_path, model_args.model_revision
    if Path(name).is_dir() and revision == "main":  # TRL's default, which a folder does not have
        revision = None
    return resolve_model(name, revision)


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


def check_mergeable(model: Any) -> None:
    """Refuse an adapter that no merge into the base model's tensors can stand for, as vLLM would be sent it.

    Args:
        model: a PEFT model.

    Raises:
        InputError: it adapts single parameters, or one of two embeddings that are the same tensor.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if model.active_peft_config.target_parameters:
        raise InputError("lora_target_parameters: vLLM cannot be sent such an adapter; use lora_target_modules alone")
    if not model.config.get_text_config().tie_word_embeddings:
        return
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
            key = "lora_modules_to_save" if isinstance(module, ModulesToSaveWrapper) else "lora_target_modules"
            raise InputError(
                f"{key}: the base model's input and output embeddings are one tensor, which an adapter of one of them "
                "would part, and a merge would not; leave both out of it"
            )


@contextmanager
def setting_errors() -> Iterator[None]:
    """Turn a setting that the libraries refuse while they make model and trainer into one line."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, ImportError) as error:
        raise InputError(f"configuration: {one_line(error)}") from error


def trainer_arguments(args: Any, run: Path) -> Any:
    """Point the trainer at the run folder."""
    args.output_dir = str(run / "checkpoints")
    return args


def last_checkpoint(run: Path) -> str | None:
    """Return the newest whole checkpoint of an interrupted run, None where there is none to go on from."""
    # The trainer's state is written last: a folder without it was cut off while it was saved.
    states = (run / "checkpoints").glob("checkpoint-*/trainer_state.json")
    saved = [state.parent for state in states if _CHECKPOINT.fullmatch(state.parent.name) and _reads(state)]
    # Without the schedule and the optimizer's moments, which DeepSpeed keeps elsewhere, both would begin anew.
    whole = [path for path in saved if (path / "scheduler.pt").is_file() or any(path.glob("global_step*"))]
    return str(max(whole, key=lambda path: checkpoint_step(str(path)))) if whole else None


def checkpoint_step(checkpoint: str | None) -> int:
    """Return the step after which a checkpoint was saved; 0 for none."""
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


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
        mark_adapter(path, base)
        check_adapter(path, base)


def write_items(run: Path, item_ids: Sequence[str]) -> None:
    """Write which items a stage was trained on, one id a line."""
    if is_main_process():
        write_text(run / TRAINED_ITEMS, "".join(f"{item_id}\n" for item_id in item_ids))


def run_trainer(
    trainer: Any,
    run: Path,
    base: Path,
    trained_items: Callable[[], Sequence[str]],
    trained_before: Iterable[str] | None = (),
) -> Sequence[str]:
    """Train, from the run's last checkpoint on if it has one; save the adapter, and which items it was trained on.

    All processes return together.

    Args:
        trainer: one of TRL's.
        run: the run folder.
        base: the base model's folder.
        trained_items: called after training, returns the items trained on.
        trained_before: those of the adapter that the stage starts from; None where that one does not say.

    Returns:
        The items trained on.

    Raises:
        CheckError: the disk is full.
    """
    with disk_errors(run):
        trainer.train(resume_from_checkpoint=last_checkpoint(run))
        item_ids = trained_items()
        save_adapter(trainer, run / ADAPTER, base, None if trained_before is None else [*trained_before, *item_ids])
        write_items(run, item_ids)
    trainer.accelerator.wait_for_everyone()
    return item_ids


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
    hide_bars(trainer)
    trainer.add_callback(progress_callback(progress))


def hide_bars(trainer: Any) -> None:
    """Let a trainer show neither the bar nor the printed logs of transformers."""
    from transformers import PrinterCallback
    from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

    for callback in (PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(callback)


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
