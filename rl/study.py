"""A study: conditions × training seeds, then one report. Each cell runs the commands that a user would run by hand."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from benchmarks.config import parse_config, read_yaml, resolved
from benchmarks.evaluation.run import EvalArguments, with_run_dtype
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.keys import check_keys, from_keys, key_fields, to_keys
from benchmarks.runs import MANIFEST, open_run, read_manifest
from benchmarks.screens.labels import data_source, is_k562_set
from benchmarks.screens.splits import OFFICIAL
from benchmarks.screens.table import is_table, tests_unlabelled
from rewards import CheckError, InputError
from sft.teacher.arguments import EndpointArguments
from sft.teacher.generate import TraceArguments, config_of, made_with
from sft.traces import iter_traces
from sft.training import ADAPTER

STAGES: Final = ("sft", "grpo", "eval")  # the stages of a condition, in the order in which they run
SHARED: Final = ("model", "data", "split", *key_fields(PromptConfig))
CONDITION_KEYS: Final = ("from", "labels_of", "preflight", *STAGES)
# The shared keys that each stage takes: the study's name of the key, then the stage's.
TAKES: Final[dict[str, dict[str, str]]] = {
    "traces": {key: key for key in SHARED if key != "model"},
    "sft": {"model": "model_name_or_path"},
    "grpo": {**{key: key for key in SHARED}, "model": "model_name_or_path"},
    "eval": {key: key for key in SHARED},
}


@dataclass
class StudyArguments:
    """The keys of a study's file, apart from those of `SHARED`; see `read_study`."""

    output_dir: str
    conditions: dict[str, Any]
    title: str | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    traces: dict[str, Any] | str | None = None
    sft: dict[str, Any] | str | None = None
    grpo: dict[str, Any] | str | None = None
    eval: dict[str, Any] | str | None = None
    runs: list[str] = field(default_factory=list)
    embeddings: str | None = None


KEYS: Final = (*key_fields(StudyArguments), *SHARED)
_ON_CPU: Final = ("--use_cpu", "true")  # a dry run need not have a GPU, and TRL refuses bf16 without one


@dataclass(frozen=True)
class Stage:
    """One command of a study.

    Attributes:
        kind: `traces`, `sft`, `preflight`, `grpo` or `eval`.
        path: what the stage writes: a JSONL file of traces, a CSV file of prompts that can teach, or a run folder.
        config: the configuration file.
        values: keys that override those of the file.
        where: how error messages name the stage.
    """

    kind: str
    path: Path
    config: Path
    values: Mapping[str, Any]
    where: str

    @property
    def options(self) -> list[str]:
        """`values` as command-line arguments."""
        arguments: list[str] = []
        for key, value in self.values.items():
            arguments.append(f"--{key}")
            arguments += [_as_argument(one) for one in value] if isinstance(value, list) else [_as_argument(value)]
        return arguments

    @property
    def arguments(self) -> list[str]:
        """The command, without `synthpert`."""
        if self.kind == "preflight":
            return ["grpo", "--config", str(self.config), *self.options, "--dry-run", "--write", str(self.path)]
        command = ["traces", "generate"] if self.kind == "traces" else [self.kind]
        return [*command, "--config", str(self.config), *self.options]

    @property
    def done(self) -> bool:
        """Whether the stage has run to its end."""
        if self.kind in ("traces", "preflight"):
            return self.path.is_file()
        return (self.path / MANIFEST).is_file() and read_manifest(self.path)["status"] == "done"


@dataclass(frozen=True)
class Cell:
    """A condition with one training seed: its training stages and its evaluation.

    Attributes:
        condition: the condition's name, which the report gives to the system.
        seed: the training seed; None for a condition that trains nothing and so runs once.
        stages: the stages in the order in which they run.
    """

    condition: str
    seed: int | None
    stages: tuple[Stage, ...]

    @property
    def name(self) -> str:
        """How messages name the cell."""
        return self.condition if self.seed is None else f"{self.condition}, seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether all stages of the cell are done."""
        return all(stage.done for stage in self.stages)


@dataclass(frozen=True)
class Study:
    """What a study's file asks for.

    Attributes:
        title: the report's title.
        report: the report's folder.
        traces: the stage that makes the traces; None if no condition needs it.
        cells: the cells in the order in which they run: all conditions with the first seed, then with the second.
        runs: further run folders for the report.
        embeddings: file of gene embeddings for the report's baselines.
    """

    title: str
    report: Path
    traces: Stage | None
    cells: tuple[Cell, ...]
    runs: tuple[Path, ...]
    embeddings: Path | None

    @property
    def stages(self) -> list[Stage]:
        """Every stage, in the order in which they run."""
        first = [] if self.traces is None else [self.traces]
        return [*first, *(stage for cell in self.cells for stage in cell.stages)]

    @property
    def report_arguments(self) -> list[str]:
        """The command that makes the report, without `synthpert`."""
        evaluations = [stage.path for stage in self.stages if stage.kind == "eval"]
        training = [stage.path for stage in self.stages if stage.kind in ("sft", "grpo")]
        folders = [str(path) for path in (*evaluations, *self.runs, *training)]
        more = [] if self.embeddings is None else ["--embeddings", str(self.embeddings)]
        return ["report", *folders, "--out", str(self.report), "--title", self.title, *more]


def run_study(
    config: Path, report_line: Callable[[str], None], *, dry_run: bool = False, out: Path | None = None
) -> Path:
    """Run every cell of a study that is not done yet, then write the report.

    Args:
        config: the study's YAML file, as described in `read_study`.
        report_line: called with the lines of the plan, and with a line as each stage begins.
        dry_run: check the configuration and say the commands that are left, without running them.
        out: overrides `output_dir`.

    Returns:
        The path of the report's page.

    Raises:
        InputError: the configuration of the study or of a stage is wrong, a run folder has another configuration, or a
            stage refused its input.
        CheckError: a stage failed. The same command continues with that stage.
    """
    study = read_study(config, out)
    _check_inputs(study)
    _in_new_process(check_stages, study.stages, dry_run)
    done = sum(cell.done for cell in study.cells)
    report_line(f"study: {study.title}: {len(study.cells)} cells, {done} done")
    if study.traces is not None:
        report_line(f"  traces: {study.traces.path}{' (done)' if study.traces.done else ''}")
    for cell in study.cells:
        report_line(f"  {cell.name}: " + ", ".join(stage.kind + " (done)" * stage.done for stage in cell.stages))
    page = study.report / "report.html"
    if dry_run:
        report_line("commands left to run:")
        for arguments in [*(stage.arguments for stage in study.stages if not stage.done), study.report_arguments]:
            report_line(shlex.join(["synthpert", *arguments]))
        return page
    if study.traces is not None and not study.traces.done:
        report_line("traces")
        run_command(study.traces.arguments, "study: traces")
    for at, cell in enumerate(study.cells, start=1):
        for stage in cell.stages:
            if not stage.done:
                report_line(f"cell {at} of {len(study.cells)}, {cell.name}: {stage.kind}")
                run_command(stage.arguments, f"study: {cell.name}")
    report_line("report")
    run_command(study.report_arguments, "study: report")
    return page


def read_study(path: Path, out: Path | None = None) -> Study:
    """Read a study's YAML file.

    The keys of the file:

    - `output_dir`: the study's folder (required).
    - `conditions`: the conditions by name, see below (required).
    - `title`: the report's title.
    - `seeds`: the training seeds.
    - `traces`, `sft`, `grpo`, `eval`: a configuration file, or `{config: FILE, KEY: VALUE, …}` with keys that override
      those of the file. `traces` can also be a JSONL file of traces.
    - `model`, `data`, `split` and the keys of a prompt: they override the same key in each of these files.
    - `runs`: further run folders for the report.
    - `embeddings`: a file of gene embeddings for the report's baselines.

    A condition names its stages, with keys that override all others:

    - `{}`: the model itself, without training.
    - `{sft: {}}`: SFT.
    - `{from: NAME, grpo: {}}`: GRPO after the SFT of the condition NAME with the same seed. NAME must stand above.
    - `{from: NAME, preflight: N, grpo: {}}`: the same, but GRPO trains on those of N prompts that its dry run finds to
      teach.
    - `{labels_of: NAME, sft: {}}`: SFT on the true labels of the prompts that the GRPO of the condition NAME was asked
      with the same seed, from the same start. NAME must stand above.

    Each condition is evaluated at its end. The traces are made once for all seeds. Paths are relative to the current
    directory.

    Args:
        path: the YAML file.
        out: overrides `output_dir`.

    Raises:
        InputError: a key is unknown, missing or set by the study itself, or a condition cannot be run.
    """
    args, values = _read_keys(path, out)
    out, conditions = Path(args.output_dir), _conditions(args.conditions, str(path))
    folders = _folders(conditions, out, str(path))
    traces, trace_file = _traces(values, out, str(path))
    cells = tuple(
        _cell(name, seed, values, conditions, folders, trace_file, f"{path}: {name}")
        for seed in args.seeds
        for name in conditions
        if seed == args.seeds[0] or _trained(conditions[name])
    )
    needed = any(stage.values.get("traces") == trace_file for cell in cells for stage in cell.stages)
    return Study(
        args.title or out.name,
        out / "report",
        traces if needed else None,
        cells,
        tuple(Path(run) for run in args.runs),
        None if args.embeddings is None else Path(args.embeddings),
    )


def _read_keys(path: Path, out: Path | None) -> tuple[StudyArguments, dict[str, Any]]:
    """Return the study's own keys, checked, and all keys as they are in the file."""
    values = read_yaml(path) | ({} if out is None else {"output_dir": str(out)})
    check_keys([str(key) for key in values], KEYS, str(path))
    own = {key: value for key, value in values.items() if key not in SHARED and value is not None}
    args: StudyArguments = from_keys(StudyArguments, own, str(path))
    for key, given in (("seeds", args.seeds), ("runs", args.runs)):
        if len({*given}) < len(given):
            raise InputError(f"{path}: {key}: {given} holds one twice; list each once")
    if not args.seeds or min(args.seeds) < 0:
        raise InputError(f"{path}: seeds: {args.seeds}; give at least one, each 0 or more")
    if not args.conditions:
        raise InputError(f"{path}: conditions: there are none; name at least one")
    return args, values


def check_stages(stages: Sequence[Stage], dry_run: bool) -> None:
    """Check each stage's configuration, make its rewards, and compare it with the run that is in its folder.

    Args:
        stages: the stages of a study.
        dry_run: parse the training stages for the CPU, which every machine has. Their folders are not compared then.

    Raises:
        InputError: a stage's configuration is wrong, a reward cannot be made, or what is in the stage's place has
            another configuration, or is of other labels than its table holds now.
    """
    from rl.reward_context import stand_in_context
    from rl.train import compose_rewards, reward_inputs
    from rl.train import read_arguments as read_grpo
    from sft.train import read_arguments as read_sft

    composed: set[str] = set()  # cells may share their rewards, and loading a user's file takes seconds
    digests: dict[tuple[str, str], str] = {}  # of label tables under a split
    for stage in stages:
        inputs: dict[str, str] = {}
        arguments = [*stage.options, *(_ON_CPU if dry_run and stage.kind in ("sft", "preflight", "grpo") else ())]
        try:
            if stage.kind == "traces":
                config = made_with(*parse_config(stage.config, arguments, (TraceArguments, EndpointArguments)))
            elif stage.kind == "eval":
                (eval_args,) = parse_config(stage.config, arguments, (EvalArguments,))
                _check_scorable(eval_args)
                config = to_keys(with_run_dtype(eval_args))
            elif stage.kind == "sft":
                config = resolved(*read_sft(stage.config, arguments))
            else:  # grpo, or the dry run before it
                ours, args, model_args = read_grpo(stage.config, arguments)
                config = resolved(ours, args, model_args)
                folder = stage.config.parent
                inputs = reward_inputs(ours, folder)
                rewards = repr((folder, ours.rewards, args.reward_weights, args.scale_rewards, ours.unlabelled))
                if not stage.done and rewards not in composed:
                    compose_rewards(ours, args, stand_in_context(folder))
                    composed.add(rewards)
        except InputError as error:
            raise InputError(f"{stage.where}: {stage.kind}: {error}") from None
        if stage.kind == "traces":
            _check_traces(stage, config)
        elif (
            stage.kind != "preflight"
            and stage.path.is_dir()
            and any(stage.path.iterdir())
            and not (dry_run and stage.kind != "eval")
        ):
            open_run(stage.path, stage.kind, config, inputs)
        _check_labels(stage, config, digests)


def _check_labels(stage: Stage, config: Mapping[str, Any], digests: dict[tuple[str, str], str]) -> None:
    """Refuse what is done on other labels than its table holds now, before further stages run on these.

    Args:
        stage: the stage.
        config: its configuration.
        digests: gains the SHA-256 of a table's labels by table and split.
    """
    if stage.kind not in ("traces", "grpo", "eval") or not stage.done or not is_table(data_source(config["data"])):
        return
    here = (str(config["data"]), str(config["split"]))
    if here not in digests:
        digests[here] = open_corpus(*here).digest
    if stage.kind == "traces":
        before = next((trace.protocol.get("data") for trace, _, _ in iter_traces(stage.path)), None)
    else:
        before = (read_manifest(stage.path).get("screen") or {}).get("sha256")
    if before not in (None, digests[here]):
        raise InputError(
            f"{stage.path}: was made from other labels than {here[0]} has now; bring them back, or choose another "
            "folder with --out"
        )


def _check_scorable(args: EvalArguments) -> None:
    """Refuse an evaluation on items without labels, which the study's report could not score."""
    if args.protocol.split == OFFICIAL and tests_unlabelled(data_source(args.data)):
        raise InputError(
            f"split: {OFFICIAL} has no test item with a label, so the report could not score one; hold some out, such "
            "as holdout:both,fold=1/5"
        )


def run_command(arguments: Sequence[str], where: str) -> None:
    """Run `synthpert WORDS` in a separate process, which returns its memory when it ends.

    Args:
        arguments: the command, without `synthpert`.
        where: how error messages name the command.

    Raises:
        InputError: the command refused its input (exit code 2). Its own message says why.
        CheckError: the command failed.
        KeyboardInterrupt: the command or this process was stopped.
    """
    process = subprocess.Popen([sys.executable, "-m", "rl.cli", *arguments])
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # Ctrl-C reaches the command too, which then ends. A signal to this process alone does not reach the command.
        for patience, further in ((5, signal.SIGINT), (30, signal.SIGKILL)):
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.send_signal(further)
        process.wait()
        raise
    if code == 2:
        raise InputError(
            f"{where}: `synthpert {arguments[0]}` refused its input, see above; correct it and run the same command "
            "again"
        )
    if code in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    if code:
        how = f"was ended by signal {-code}" if code < 0 else f"failed (exit code {code})"
        raise CheckError(
            f"{where}: `synthpert {arguments[0]}` {how}, see above; once that is mended, the same command goes on from "
            "there"
        )


def _check_inputs(study: Study) -> None:
    """Refuse a study that lacks a file or run which a later stage will read."""
    made = None if study.traces is None else study.traces.path
    given = [Path(stage.values["traces"]) for stage in study.stages if stage.values.get("traces")]
    for path in [*(path for path in given if path != made), *filter(None, [study.embeddings])]:
        if not path.is_file():
            raise InputError(f"{path}: no such file, but the study needs it; make it, or correct the path in the study")
    for run in study.runs:
        if read_manifest(run)["status"] != "done":
            raise InputError(
                f"{run}: is one of the study's runs, but not finished; finish it, or remove it from `runs`"
            )


def _in_new_process(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a separate process: loading TRL takes memory, on a GPU too, until its process ends."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(function, *arguments).result()


def _conditions(given: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return the conditions by name, after checking that the stages of each can follow each other."""
    conditions = _mapping(given, f"{where}: conditions")
    for name, condition in conditions.items():
        conditions[name] = _mapping(condition, f"{where}: {name}")
        check_keys(list(conditions[name]), CONDITION_KEYS, f"{where}: {name}")
        _check_stages_of(name, conditions, f"{where}: {name}")
    return conditions


def _trained(condition: Mapping[str, Any]) -> list[str]:
    """Return the training stages of a condition."""
    return [kind for kind in STAGES if kind in condition and kind != "eval"]


def _cell(
    name: str,
    seed: int,
    values: Mapping[str, Any],
    conditions: Mapping[str, Mapping[str, Any]],
    folders: Mapping[str, Path],
    trace_file: Path | None,
    where: str,
) -> Cell:
    """Return a condition's cell for a seed. A condition that trains nothing has its evaluation as the only stage."""
    condition = conditions[name]
    trained = _trained(condition)
    if not trained:
        fixed = {"output_dir": folders[name] / "eval", "name": name, "training_seed": 0}
        return Cell(name, None, (_stage("eval", values, condition, fixed, where),))
    folder, stages = folders[name] / f"seed-{seed}", []
    for kind in trained:
        fixed = {"output_dir": folder / kind, "seed": seed}
        if "labels_of" in condition:
            fixed |= {"labels_of": folders[condition["labels_of"]] / f"seed-{seed}" / "grpo", "traces": ""}
        elif kind == "sft" and trace_file is not None and "traces" not in _mapping(condition["sft"], ""):
            fixed["traces"] = trace_file
        if kind == "grpo":
            source = folders[condition["from"]] / f"seed-{seed}" if "from" in condition else folder
            fixed["sft_run"] = source / "sft"
            if condition.get("preflight"):
                sampled = {**fixed, "train_items": condition["preflight"]}
                probe = _stage("grpo", values, condition, sampled, where)
                prompts = folder / "prompts.csv"
                stages.append(replace(probe, kind="preflight", path=prompts))
                fixed |= {"train_items": 0, "train_on": prompts}
        stages.append(_stage(kind, values, condition, fixed, where))
    fixed = {
        "output_dir": folder / "eval",
        "name": name,
        "training_seed": seed,
        "adapter": folder / trained[-1] / ADAPTER,
    }
    return Cell(name, seed, (*stages, _stage("eval", values, condition, fixed, where)))


def _stage(
    kind: str, values: Mapping[str, Any], condition: Mapping[str, Any], fixed: Mapping[str, Any], where: str
) -> Stage:
    """Return a stage.

    Its keys override each other in this order: the stage's file, the study's shared keys, the study's section of the
    stage, the condition's section, and the keys that the study sets itself (`fixed`).
    """
    section, here = _section(values.get(kind), where), _section(condition.get(kind), where)
    config = here.pop("config", section.pop("config", None))
    section.pop("config", None)
    if config is None:
        raise InputError(f"{where}: {kind} has no configuration file; add `{kind}: FILE` to the study's file")
    shared = {name: values[key] for key, name in TAKES[kind].items() if values.get(key) is not None}
    if kind == "sft" and (data := values.get("data")) is not None:
        labels = data_source(str(data))
        if is_table(labels) or is_k562_set(labels):  # the audit finds PerturbQA's labels of genes by itself
            shared["data"] = data
    wanted = {**shared, **section, **here}
    for key, value in wanted.items():
        if key in fixed:
            raise InputError(f"{where}: {kind}: {key} is set by the study; remove it")
        if value is None:
            raise InputError(f"{where}: {kind}: {key} has no value; give it one, or remove it")
    merged = {**wanted, **fixed}
    return Stage(kind, Path(merged["output" if kind == "traces" else "output_dir"]), Path(config), merged, where)


def _section(value: Any, where: str) -> dict[str, Any]:
    return {"config": value} if isinstance(value, str) else _mapping(value, where)


def _traces(values: Mapping[str, Any], out: Path, where: str) -> tuple[Stage | None, Path | None]:
    """Return the stage that makes the traces, and their file; None for what the study does not have."""
    given = values.get("traces")
    if given is None:
        return None, None
    if isinstance(given, str) and given.endswith(".jsonl"):
        return None, Path(given)
    stage = _stage("traces", values, {}, {"output": out / "traces.jsonl"}, where)
    return stage, stage.path


def _check_traces(stage: Stage, config: Mapping[str, Any]) -> None:
    if not stage.path.is_file():
        return
    before = config_of(stage.path)
    if before is None:
        raise InputError(
            f"{stage.path}: no file beside it says how these traces were made; remove them, or name this file as the "
            "study's `traces`"
        )
    # The stored configuration of an endpoint's traces also holds `protocol`, which is no key of a configuration.
    keys = {*before} & {*config} if config.get("base_url") else {*before, *config}
    if changed := sorted(key for key in keys if before.get(key) != config.get(key)):
        raise InputError(
            f"{stage.path}: was made with another configuration ({', '.join(changed)} changed); change it back, or "
            "choose another folder with --out"
        )


def _check_stages_of(name: str, conditions: Mapping[str, Mapping[str, Any]], where: str) -> None:
    condition = conditions[name]
    above = list(conditions)[: list(conditions).index(name)]
    trained = [other for other in above if "sft" in conditions[other]]
    learnt = [other for other in above if "grpo" in conditions[other]]
    if "labels_of" in condition:
        if "sft" not in condition or "grpo" in condition or "from" in condition:
            raise InputError(
                f"{where}: `labels_of` starts SFT on another condition's prompts; give sft alone beside it"
            )
        if condition["labels_of"] not in learnt:
            raise InputError(
                f"{where}: labels_of: {condition['labels_of']!r} is no condition above it that has grpo; name one of "
                f"those ({', '.join(learnt) or 'there are none yet'})"
            )
    if "preflight" in condition:
        number = condition["preflight"]
        if type(number) is not int or number < 1 or "grpo" not in condition:
            raise InputError(f"{where}: preflight: {number!r}; give a number of prompts to sample, beside grpo")
    if "from" in condition:
        if "sft" in condition or "grpo" not in condition:
            raise InputError(f"{where}: `from` starts GRPO from another condition's SFT; give grpo, and no sft")
        if condition["from"] not in trained:
            raise InputError(
                f"{where}: from: {condition['from']!r} is no condition above it that has sft; name one of those "
                f"({', '.join(trained) or 'there are none yet'})"
            )
    elif "grpo" in condition and "sft" not in condition:
        raise InputError(f"{where}: grpo starts from an SFT run; add `from: CONDITION`, or `sft: {{}}`")


def _folders(conditions: Mapping[str, Any], out: Path, where: str) -> dict[str, Path]:
    """Return a folder for each condition, named after the condition."""
    folders: dict[str, Path] = {}
    for name in conditions:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        same = [other for other, folder in folders.items() if folder == out / slug]
        if not slug or slug == "report" or same:
            taken = repr(same[0]) if same else "the report"
            problem = (
                f"would have the folder of {taken} ({slug})" if slug else "has no letter or digit to name a folder"
            )
            raise InputError(f"{where}: condition {name!r} {problem}; rename it")
        folders[name] = out / slug
    return folders


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {value!r} is no mapping; write `key: value` lines, or {{}}")
    return {str(key): one for key, one in value.items()}


def _as_argument(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, dict) else str(value)
