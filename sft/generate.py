"""Making traces: draw training items and let a teacher write about them."""

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.corpus import draw_items, open_corpus
from benchmarks.prompts import PromptConfig
from rewards import InputError
from sft import template_teacher
from sft.traces import write_traces


@dataclass
class TraceArguments:
    """The keys of a trace configuration."""

    output: str = field(metadata={"help": "JSONL file to write"})
    teacher: str = field(default=template_teacher.NAME, metadata={"help": "who writes: evidence-template"})
    data: str | None = field(default=None, metadata={"help": "folder of the labels, `sample`, or none for the default"})
    split: str = field(default="official", metadata={"help": "official or holdout:LINE"})
    template: str = field(default="three_class", metadata={"help": "three_class or direction"})
    evidence: int = field(default=5, metadata={"help": "similar knockdowns quoted in a prompt"})
    lemmas: bool = field(default=False, metadata={"help": "list the eleven angles to consider"})
    rows: int = field(default=0, metadata={"help": "training items drawn; 0 takes all"})
    balance: bool = field(default=True, metadata={"help": "draw each label equally often"})
    seed: int = field(default=0, metadata={"help": "of the draw and of the phrasing"})


def generate_traces(args: TraceArguments) -> tuple[Path, int]:
    """Write traces for training items; return the file and the number of its rows.

    Raises:
        InputError: the teacher is unknown, or there are too few training items.
    """
    if args.teacher != template_teacher.NAME:
        raise InputError(f"teacher: {args.teacher!r} is unknown; use {template_teacher.NAME}")
    corpus = open_corpus(args.data, args.split)
    train = corpus.train
    if args.template == "direction":
        train = train[train["label"] != "not differentially expressed"]
    items = draw_items(train, args.rows, seed=args.seed, balance=args.balance)
    prompt = PromptConfig(args.template, args.evidence, args.lemmas)
    path = Path(args.output)
    return path, write_traces(template_teacher.generate(items, corpus, prompt, seed=args.seed), path)
