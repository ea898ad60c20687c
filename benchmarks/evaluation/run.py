"""One evaluation run: a model under a protocol, in a run folder."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.endpoint.settings import check_base_url, check_no_key, read_extra_body
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.evaluation.predictions import changed_keys, read_facts, read_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.scores import CALIBRATION, Calibration, read_calibration
from benchmarks.evidence.corpus import Corpus, draw_items
from benchmarks.evidence.prompts import build_prompts, items_for_prompt, open_prompt_corpus, prompt_inputs
from benchmarks.evidence.quote import evidence_digest
from benchmarks.files import check_folder
from benchmarks.keys import to_keys
from benchmarks.models.engines import check_engine, engine_names, open_engine, takes
from benchmarks.models.folders import (
    adapter_sha256,
    check_adapter_folder,
    is_hub_id,
    read_trained_items,
    resolve_model,
)
from benchmarks.progress import Progress
from benchmarks.runs import MANIFEST, Run, open_run, run_dtype
from benchmarks.screens.labels import DATA_HELP
from benchmarks.screens.schema import lines_of
from benchmarks.screens.splits import HOLDOUT_FORMS
from rewards import InputError

PREDICTIONS = "predictions.parquet"
PREDICT: Final = "predict"  # the stage of an evaluation whose items have no labels, so that nothing scores it
# Keys of a protocol that may differ between a calibration and the evaluation that applies it.
_NOT_OF_SCORES: Final = ("balance", "calibration", "data", "item_seed", "items", "seed")


@dataclass
class EvalArguments:
    """The configuration keys of an evaluation, those of the protocol included."""

    output_dir: str = field(metadata={"help": "run folder; --out is the same"})
    model: str = field(metadata={"help": "folder or hub id of the model; its name where a server runs it"})
    name: str | None = field(default=None, metadata={"help": "what reports call the system; the folder by default"})
    adapter: str | None = field(default=None, metadata={"help": "folder of a LoRA adapter"})
    revision: str | None = field(default=None, metadata={"help": "hub revision of the model"})
    engine: str = field(default="auto", metadata={"help": f"what runs the model: {', '.join(engine_names())}"})
    base_url: str | None = field(default=None, metadata={"help": "OpenAI-compatible server, for engine: openai"})
    api_key_env: str = field(default="OPENAI_API_KEY", metadata={"help": "environment variable with the server's key"})
    max_tokens_key: str = field(default="max_tokens", metadata={"help": "or max_completion_tokens, for such a server"})
    extra_body: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "further keys of the server's request: a mapping, or JSON"}
    )
    dtype: str = field(default="auto", metadata={"help": "auto (what is fast here), bfloat16, float16 or float32"})
    max_model_len: int | None = field(
        default=None, metadata={"help": "most tokens of prompt and completion together; the model's context by default"}
    )
    chunk: int = field(default=64, metadata={"help": "completions requested from the engine at once"})
    training_seed: int = field(default=0, metadata={"help": "distinguishes training runs of one system"})
    data: str | None = field(default=None, metadata={"help": DATA_HELP})
    protocol: Protocol = field(default=Protocol())

    def __post_init__(self) -> None:
        check_engine(self.engine)
        check_training_seed(self.training_seed)
        self.extra_body = read_extra_body(self.extra_body, "extra_body")
        if not self.api_key_env.isidentifier():  # it may be the key itself, which would be written to the run folder
            raise InputError("api_key_env: is no variable's name; put the key in the environment and its name here")


def check_training_seed(seed: int) -> None:
    """Refuse a training seed that does not fit into a predictions file (64 bits)."""
    if not abs(seed) < 2**63:
        raise InputError(f"training_seed: {seed}; give one below 2**63")


def run_evaluation(args: EvalArguments) -> Path:
    """Evaluate a model on test items and store its predictions.

    Args:
        args: the configuration.

    Returns:
        The run folder: `config.yaml`, `manifest.json`, `predictions.parquet`.

    Raises:
        InputError: the configuration, data, model or adapter is bad; the adapter was trained on a test item; or the
            folder holds a run of another configuration.
        CheckError: the disk is full, or a server cannot be reached; what is stored stays.
    """
    check_paths(args)
    with Progress(f"evaluation of {args.name or Path(args.output_dir).name}") as progress:
        progress.phase("loading labels and model")
        return _evaluate(args, progress)


def check_paths(args: EvalArguments) -> None:
    """Refuse an output folder, an adapter or a model that cannot be one, before anything is loaded or written."""
    check_folder(Path(args.output_dir))
    if args.adapter is not None:
        check_adapter_folder(Path(args.adapter))
    begun = (Path(args.output_dir) / MANIFEST).is_file()  # a finished run needs no model
    if args.engine in ("auto", "vllm", "transformers") and not begun and not is_hub_id(args.model):
        resolve_model(args.model, args.revision)


def _evaluate(args: EvalArguments, progress: Progress) -> Path:
    corpus = open_prompt_corpus(args.data, args.protocol.split, args.protocol.prompt)
    quoted = evidence_digest(args.protocol.prompt.kinds, corpus.reference)
    protocol = replace(args.protocol, data=corpus.digest, evidence_data=quoted)
    if args.base_url is not None:
        check_base_url(args.base_url)  # before it is written anywhere
        check_no_key(args.api_key_env, to_keys(args))
    adapter = None if args.adapter is None else Path(args.adapter)
    trained = None if adapter is None else check_unseen(adapter, corpus)
    calibration = None if protocol.calibration is None else find_calibration(adapter, protocol)
    items = select_test_items(corpus, protocol)
    inputs = digests(args)
    if calibration is not None and adapter is not None:
        inputs["calibration"] = hashlib.sha256((adapter / CALIBRATION).read_bytes()).hexdigest()
    args = with_run_dtype(args)
    stage = "eval" if _has_labels(items) else PREDICT
    run = open_run(Path(args.output_dir), stage, to_keys(args), inputs)
    if run.done and (run.path / PREDICTIONS).is_file():
        return run.path
    with run.failures_noted():
        path = ask(args, run, corpus, items, protocol, calibration, trained, progress)
        frame = read_predictions(path)
        facts = read_facts(path)
        run.finish(
            name=args.name or run.path.name,
            protocol_fingerprint=protocol.fingerprint,
            screen=corpus.facts(),
            engine=facts["engine"],
            rows=len(frame),
            statuses={str(status): int(count) for status, count in frame["status"].value_counts().items()},
            errors=facts["errors"],
            completion_tokens=int(frame["completion_tokens"].sum()),
            prompt_tokens=int(frame["prompt_tokens"].sum()),
        )
    return run.path


def digests(args: EvalArguments) -> dict[str, str]:
    """Return the digests of an evaluation's adapter, model, label table and evidence files, for `open_run`."""
    inputs = prompt_inputs(args.data, args.protocol.split, args.protocol.prompt)
    if args.adapter is not None:
        inputs["adapter"] = adapter_sha256(Path(args.adapter))
    if args.engine != "openai" and Path(args.model).is_dir():
        inputs |= resolve_model(args.model, args.revision).inputs("model")
    return inputs


def ask(
    args: EvalArguments,
    run: Run,
    corpus: Corpus,
    items: pd.DataFrame,
    protocol: Protocol,
    calibration: Calibration | None,
    trained: int | None,
    progress: Progress,
) -> Path:
    """Open the engine, ask the items and store the predictions in a run folder.

    Args:
        args: which model and engine.
        run: the run.
        corpus: the labels that the prompts' evidence comes from.
        items: the items to ask.
        protocol: how to ask them.
        calibration: the model's temperatures, if the protocol wants them.
        trained: number of items that the adapter was trained on, if known; stored.
        progress: where to show it.

    Returns:
        The path of the predictions.
    """
    adapter = None if args.adapter is None else Path(args.adapter)
    prompts = build_prompts(items, corpus, protocol.prompt)
    facts: dict[str, Any] = {"name": args.name, "trained_items": trained}
    if not _has_labels(items):
        facts["first_prompt"] = prompts[0]  # a submission tells it
    engine = open_engine(
        args.engine, args.model, adapter, revision=args.revision, dtype=args.dtype, max_model_len=args.max_model_len,
        base_url=args.base_url, api_key_env=args.api_key_env, max_tokens_key=args.max_tokens_key,
        extra_body=read_extra_body(args.extra_body),
    )  # fmt: skip
    try:
        return evaluate(
            engine, items, prompts, protocol, run.path,
            seed=args.training_seed, chunk=args.chunk, calibration=calibration,
            facts=facts, progress=show_writing(progress),
        )  # fmt: skip
    finally:
        engine.close()


def _has_labels(items: pd.DataFrame) -> bool:
    return bool((items["label"].astype("str") != "").all())


def show_writing(progress: Progress) -> Callable[[float, int, int], None]:
    """Return a callback for `evaluate` that shows completions, tokens and their rate as a phase of `progress`."""
    began: list[float] = []

    def show(done: float, total: int, tokens: int) -> None:
        if not began:
            progress.phase("writing", total, "completions", done)
            began.append(time.monotonic())
        seconds = max(time.monotonic() - began[0], 1e-9)
        progress.at(done, f"{tokens:,} tokens, {tokens / seconds:.0f} a second" if tokens else "")

    return show


def with_run_dtype(args: EvalArguments) -> EvalArguments:
    """Return the arguments with `dtype: auto` replaced by the type used in this run; a server chooses its own."""
    if args.engine != "auto" and not takes(args.engine, "dtype"):
        return args
    return replace(args, dtype=run_dtype(args.dtype, Path(args.output_dir)))


def check_unseen(adapter: Path, corpus: Corpus) -> int | None:
    """Return the number of items that an adapter was trained on; None where its folder does not say.

    Args:
        adapter: the adapter's folder.
        corpus: labels under the split of the evaluation.

    Raises:
        InputError: a training item of the adapter is a test item of the split, or has a symbol that the split holds
            out.
    """
    items = read_trained_items(adapter)
    if items is None:
        return None
    seen = sorted(items & corpus.test_ids)
    if seen:
        raise InputError(
            f"{adapter}: {len(seen)} of the {len(items)} items that it was trained on are test items under split "
            f"{corpus.split}, e.g. {seen[0]}; evaluate it under the split that its stages were trained with"
        )
    if known := sorted(item for item in items if corpus.holds_out(item)):
        raise InputError(
            f"{adapter}: {len(known)} of the {len(items)} items that it was trained on have a perturbation or gene "
            f"that split {corpus.split} holds out, e.g. {known[0]}; evaluate it under the split that its stages were "
            "trained with"
        )
    return len(items)


def find_calibration(adapter: Path | None, protocol: Protocol) -> Calibration:
    """Return the calibration stored with an adapter.

    Raises:
        InputError: there is no adapter or no calibration, or it was fitted on answers to another protocol.
    """
    if adapter is None:
        raise InputError("calibration: temperatures are stored with an adapter; set adapter, or leave calibration out")
    calibration = read_calibration(adapter)
    ours = json.loads(protocol.canonical_json())
    if keys := [key for key in changed_keys(calibration.protocol, ours) if key not in _NOT_OF_SCORES]:
        raise InputError(
            f"{adapter / CALIBRATION}: was fitted under another protocol ({', '.join(keys)}); run "
            "`synthpert calibrate` with these settings"
        )
    return calibration


def draw_per_line(items: pd.DataFrame, protocol: Protocol) -> pd.DataFrame:
    """Draw `protocol.items` items of each cell line, 0 for all of them, in the order of the rows.

    Raises:
        InputError: a line has fewer.
    """
    if not protocol.items and not protocol.balance:
        return items
    drawn = [
        draw_items(
            items[items["cell_line"] == line], protocol.items, seed=protocol.item_seed, balance=protocol.balance,
            key=f"items (in each line, here {line})",
        )
        for line in lines_of(items)
    ]  # fmt: skip
    return pd.concat(drawn).sort_index()


def select_test_items(corpus: Corpus, protocol: Protocol) -> pd.DataFrame:
    """Return the test items of a protocol, in the order of evaluation; where none has a label, those without.

    Raises:
        InputError: there are none, or they have no label, which the protocol needs.
    """
    if corpus.test.empty and len(corpus.unlabelled):
        for key, needed in (("balance", protocol.balance), ("template", protocol.prompt.template == "direction")):
            if needed:
                raise InputError(
                    f"{key}: {key} needs the labels of the test items, which {corpus.screen.name} withholds under "
                    f"split {corpus.split}; leave {key} out, or use another split"
                )
        return draw_per_line(corpus.unlabelled, protocol)
    if corpus.test.empty:
        raise InputError(f"split: {protocol.split!r} has no test row; use {HOLDOUT_FORMS}")
    test = draw_per_line(items_for_prompt(corpus.test, protocol.prompt), protocol)
    if test.empty:
        raise InputError(
            f"split: {protocol.split!r} has no test items for template {protocol.prompt.template!r}; set template: "
            "three_class, or another split"
        )
    return test
