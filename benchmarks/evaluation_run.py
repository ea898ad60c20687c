"""One evaluation run: a model under a protocol, in a run folder; and the report over several of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from benchmarks.baselines import predict_baselines
from benchmarks.corpus import Corpus, draw_items, open_corpus
from benchmarks.engines import open_engine
from benchmarks.evaluate import evaluate
from benchmarks.perturbqa import CELL_LINES
from benchmarks.predictions import read_facts, read_predictions
from benchmarks.prompts import VERSION, PromptConfig, build_prompts
from benchmarks.protocol import Protocol
from benchmarks.report import write_report
from benchmarks.runs import CONFIG, open_run, read_manifest
from benchmarks.summary import System
from rewards import LABELS, InputError

PREDICTIONS = "predictions.parquet"


@dataclass
class EvalArguments:
    """The keys of an evaluation's configuration. `max_tokens` and what follows it make up the protocol."""

    output_dir: str = field(metadata={"help": "run folder"})
    model: str = field(metadata={"help": "folder or hub id of the model; its name where a server runs it"})
    name: str | None = field(default=None, metadata={"help": "what reports call the system; the folder by default"})
    adapter: str | None = field(default=None, metadata={"help": "folder of a LoRA adapter"})
    revision: str | None = field(default=None, metadata={"help": "hub revision of the model"})
    engine: Literal["auto", "vllm", "transformers", "openai"] = field(
        default="auto", metadata={"help": "auto, vllm, transformers or openai"}
    )
    base_url: str | None = field(default=None, metadata={"help": "OpenAI-compatible server, for engine: openai"})
    dtype: str = field(default="auto", metadata={"help": "auto, bfloat16, float16 or float32"})
    chunk: int = field(default=64, metadata={"help": "items handed to the engine at once"})
    training_seed: int = field(default=0, metadata={"help": "tells training runs of one system apart"})
    data: str | None = field(default=None, metadata={"help": "folder of the labels, `sample`, or none for the default"})
    max_tokens: int = field(default=1024, metadata={"help": "longest completion in tokens"})
    split: str = field(default="official", metadata={"help": "official or holdout:LINE"})
    items: int = field(default=0, metadata={"help": "test items per cell line; 0 takes all"})
    item_seed: int = field(default=0, metadata={"help": "seed that draws those items"})
    template: str = field(default="three_class", metadata={"help": "three_class or direction"})
    evidence: int = field(default=0, metadata={"help": "similar knockdowns quoted in a prompt"})
    lemmas: bool = field(default=False, metadata={"help": "list the eleven angles to consider"})
    temperature: float = field(default=0.0, metadata={"help": "0 decodes greedily"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus"})
    samples: int = field(default=1, metadata={"help": "completions per item"})
    seed: int = field(default=0, metadata={"help": "seed of sampling"})
    scores: str = field(default="logprobs", metadata={"help": "logprobs or votes"})
    parser: str = field(default="strict", metadata={"help": "strict or lenient"})


def run_evaluation(args: EvalArguments, progress: Callable[[int, int], None] | None = None) -> Path:
    """Evaluate a model on test items and store its predictions.

    Args:
        args: the configuration.
        progress: called with (rows done, rows in all).

    Returns:
        The run folder: `config.yaml`, `manifest.json`, `predictions.parquet`.

    Raises:
        InputError: bad configuration, data, model or adapter, or a folder of another configuration.
        CheckError: the disk is full, or a server is out of reach; what is stored stays.
    """
    corpus = open_corpus(args.data, args.split)
    protocol = Protocol(
        data=corpus.digest, max_tokens=args.max_tokens, template=args.template, template_version=VERSION,
        lemmas=args.lemmas, evidence=args.evidence, temperature=args.temperature, top_p=args.top_p,
        samples=args.samples, split=args.split, items=args.items, item_seed=args.item_seed, seed=args.seed,
        scores=args.scores, parser=args.parser,
    )  # fmt: skip
    run = open_run(Path(args.output_dir), "eval", asdict(args))
    if run.done and (run.path / PREDICTIONS).is_file():
        return run.path
    items = select_test_items(corpus, protocol)
    prompts = build_prompts(items, corpus, PromptConfig(args.template, args.evidence, args.lemmas))
    adapter = None if args.adapter is None else Path(args.adapter)
    engine = open_engine(
        args.engine, args.model, adapter, revision=args.revision, dtype=args.dtype, base_url=args.base_url
    )
    try:
        path = evaluate(
            engine, items, prompts, protocol, run.path,
            seed=args.training_seed, chunk=args.chunk, facts={"name": args.name}, progress=progress,
        )  # fmt: skip
    finally:
        engine.close()
    frame = read_predictions(path)
    facts = read_facts(path)
    run.finish(
        name=args.name or run.path.name,
        protocol_fingerprint=protocol.fingerprint,
        engine=facts["engine"],
        rows=len(frame),
        statuses={str(status): int(count) for status, count in frame["status"].value_counts().items()},
        completion_tokens=int(frame["completion_tokens"].sum()),
    )
    return run.path


def select_test_items(corpus: Corpus, protocol: Protocol) -> pd.DataFrame:
    """Return the test items that a protocol names, in the order in which they are asked."""
    test = corpus.test
    if protocol.template == "direction":
        test = test[test["label"] != str(LABELS[-1])]
    if protocol.items:
        lines = [test[test["cell_line"] == line] for line in CELL_LINES if (test["cell_line"] == line).any()]
        drawn = [draw_items(rows, protocol.items, seed=protocol.item_seed, balance=False) for rows in lines]
        test = pd.concat(drawn).sort_index()
    if test.empty:
        raise InputError(f"split: {protocol.split!r} has no test items for template {protocol.template!r}")
    return test


def report_runs(paths: Sequence[Path], out: Path, *, title: str, command: str) -> Path:
    """Write the report over evaluation runs, with every baseline beside them.

    Args:
        paths: run folders: evaluations become systems in the order given, training runs are told of as stages.
        out: the report's folder.
        title: the page's title.
        command: how the report was made, shown under "how to reproduce".

    Returns:
        The path of the HTML page.

    Raises:
        InputError: a folder is no finished run, no evaluation is among them, or they were not asked the same items.
    """
    systems: list[System] = []
    stages: list[Mapping[str, Any]] = []
    configs: list[dict[str, Any]] = []
    for path in paths:
        manifest = read_manifest(path)
        if manifest["status"] != "done":
            raise InputError(f"{path}: the {manifest.get('stage')} run is not finished; run it again to go on")
        if manifest.get("stage") != "eval":
            stages.append({key: value for key, value in manifest.items() if key not in ("status", "packages")})
            continue
        configs.append(yaml.safe_load((path / CONFIG).read_text(encoding="utf-8")))
        file = path / PREDICTIONS
        systems.append(System(str(manifest["name"]), "model", read_predictions(file), read_facts(file)))
    if not systems:
        raise InputError("report: no evaluation among the runs; give at least one folder that `synthpert eval` wrote")
    sources = {(config["data"], config["split"]) for config in configs}
    if len(sources) > 1:
        raise InputError(f"report: the runs were evaluated on different data ({sources}); report them apart")
    corpus = open_corpus(configs[0]["data"], configs[0]["split"])
    items = items_of(systems[0].predictions, corpus)
    for name, frame in predict_baselines(corpus, items).items():
        systems.append(System(name, "baseline", frame, {"fitted on": "training labels only"}))
    protocol = dict(systems[0].facts["protocol"])
    return write_report(
        systems, out, title=title, protocol=protocol, data=describe(corpus, items, command), stages=stages
    )


def report_baselines(corpus: Corpus, out: Path, *, command: str) -> Path:
    """Write the baselines' own report on all test items of a corpus; return the path of the HTML page."""
    items = corpus.test
    systems = [
        System(name, "baseline", frame, {"fitted on": "training labels only"})
        for name, frame in predict_baselines(corpus, items).items()
    ]
    return write_report(
        systems, out, title="Baselines on PerturbQA", protocol={"split": corpus.split, "data": corpus.digest},
        data=describe(corpus, items, command),
    )  # fmt: skip


def items_of(predictions: pd.DataFrame, corpus: Corpus) -> pd.DataFrame:
    """Return the corpus's rows for the items of a predictions frame, in its order."""
    wanted = predictions["item_id"].drop_duplicates()
    at = pd.Index(corpus.labels["item_id"]).get_indexer(wanted)
    if (at < 0).any():
        raise InputError(
            f"{wanted.to_numpy()[at < 0][0]}: was evaluated, but is not among the labels of {corpus.source}"
        )
    rows: pd.DataFrame = corpus.labels.iloc[at]
    return rows


def describe(corpus: Corpus, items: pd.DataFrame, command: str) -> dict[str, Any]:
    """Return what was evaluated, for the report: denominators per line, and what a reader must know of the data."""
    rows = []
    for line in CELL_LINES:
        here, asked = corpus.labels[corpus.labels["cell_line"] == line], items[items["cell_line"] == line]
        if here.empty:
            continue
        rows.append(
            {
                "cell line": line,
                "training rows": int((here["split"] == "train").sum()),
                "test rows": int((here["split"] == "test").sum()),
                "evaluated": len(asked),
                **{str(label): int((asked["label"] == str(label)).sum()) for label in LABELS},
                "perturbations": int(asked["pert"].nunique()),
                "genes": int(asked["gene"].nunique()),
            }
        )
    notes = []
    if corpus.is_sample:
        notes.append(
            "These are rows of the sample that ships with the package. They were chosen so that each gene shows every "
            "label: label shares, and what the gene's rate scores, are not those of the full benchmark. Gene rates and "
            "neighbours are computed from the full training labels."
        )
        notes.append(
            "The baselines forecast with PerturbQA's label shares, where 86 % of the items do not change. A model that "
            "was trained on balanced rows is nearer to this sample's shares, which favours it on accuracy, balanced "
            "accuracy and F1; AUROC is not affected."
        )
    return {
        "source": "sample" if corpus.is_sample else "PerturbQA, full files",
        "split": corpus.split,
        "sha256": corpus.digest,
        "is_sample": corpus.is_sample,
        "rows": rows,
        "notes": notes,
        "command": command,
    }
