"""Generate traces: draw training items and let a teacher write about them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.evidence.corpus import draw_items
from benchmarks.evidence.prompts import PromptConfig, build_prompts, items_for_prompt, open_prompt_corpus
from benchmarks.files import disk_errors, write_text
from benchmarks.keys import to_keys
from benchmarks.runs import read_stored
from benchmarks.screens.labels import DATA_HELP
from benchmarks.screens.splits import SPLIT_HELP
from rewards import InputError
from sft.teacher import template as template_teacher
from sft.teacher.arguments import EndpointArguments
from sft.teacher.ask import ask_teacher, log_file
from sft.teacher.outcomes import config_file, manifest_file
from sft.teacher.questions import Work
from sft.traces import prompt_protocol, write_traces


@dataclass
class TraceArguments:
    """The keys of a trace configuration."""

    output: str = field(metadata={"help": "JSONL file to write"})
    teacher: str = field(
        default=template_teacher.NAME, metadata={"help": "who writes: evidence-template, or a model at base_url"}
    )
    data: str | None = field(default=None, metadata={"help": DATA_HELP})
    split: str = field(default="official", metadata={"help": SPLIT_HELP})
    prompt: PromptConfig = field(default=PromptConfig(evidence=5))
    rows: int = field(default=0, metadata={"help": "training items drawn; 0 takes all"})
    balance: bool = field(default=True, metadata={"help": "draw each label equally often"})
    seed: int = field(default=0, metadata={"help": "of the draw and of the phrasing"})


def generate_traces(
    args: TraceArguments, endpoint: EndpointArguments | None = None, progress: Callable[[str], None] | None = None
) -> tuple[Path, int]:
    """Write traces of training items, and beside them the configuration.

    Args:
        args: the items and the prompt.
        endpoint: the teacher's endpoint. None, or one without `base_url`, for the offline teacher.
        progress: called with each line on repairs and progress.

    Returns:
        The file, and its number of rows.

    Raises:
        InputError: the teacher is unknown, there are too few training items, `output` is a folder, or the offline
            teacher would overwrite another teacher's traces.
        CheckError: see `sft.teacher.ask.ask_teacher`.
    """
    remote = endpoint if endpoint is not None and endpoint.base_url is not None else None
    path = Path(args.output)
    _check(args, path, offline=remote is None)
    corpus = open_prompt_corpus(args.data, args.split, args.prompt)
    there = items_for_prompt(corpus.train, args.prompt)
    items = draw_items(there, args.rows, seed=args.seed, balance=args.balance, key="rows")
    if remote is not None:
        prompts, protocol = build_prompts(items, corpus, args.prompt), prompt_protocol(args.prompt, corpus)
        work = Work(items, prompts, protocol, made_with(args, remote))
        return path, ask_teacher(work, args.teacher, remote, path, progress=progress)  # writes the configuration, too
    traces = template_teacher.generate(items, corpus, args.prompt, seed=args.seed)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(
            missing_ok=True
        )  # old traces must not stand beside a new configuration, nor an old manifest beside new traces
        manifest_file(path).unlink(missing_ok=True)
    write_text(config_file(path), yaml.safe_dump(to_keys(args), sort_keys=False))
    return path, write_traces(traces, path)


def _check(args: TraceArguments, path: Path, *, offline: bool) -> None:
    """Refuse a teacher that does not fit its server, an output that is a folder or of another teacher, a bad seed."""
    if offline != (args.teacher == template_teacher.NAME):
        raise InputError(
            f"teacher: {args.teacher!r} goes with {'a' if offline else 'no'} base_url; see configs/traces/teacher.yaml"
        )
    if path.is_dir():
        raise InputError(f"output: {args.output!r} is a folder; give a file, such as runs/traces/t.jsonl")
    if offline and log_file(path).is_file() and log_file(path).stat().st_size:
        raise InputError(
            f"output: {path} is another teacher's, whose paid replies are beside it; choose another output, or remove "
            f"{log_file(path).name} to give them up"
        )
    if not 0 <= args.seed < 2**32:
        raise InputError(f"seed: {args.seed}; use 0 or more, below 2**32")


def made_with(args: TraceArguments, endpoint: EndpointArguments | None) -> dict[str, Any]:
    """Return the configuration of the traces, with the endpoint's keys if one is asked."""
    return to_keys(args) if endpoint is None or endpoint.base_url is None else to_keys(args) | to_keys(endpoint)


def config_of(traces: Path) -> dict[str, Any] | None:
    """Return the configuration of a file of traces, None if there is none beside it."""
    file = config_file(traces)
    if not file.is_file():
        return None
    return read_stored(file, "remove it and the traces, and generate them again")
