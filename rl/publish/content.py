"""What is published of a training run: its adapter, its run folder, and its data."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.evaluation.predictions import read_facts, read_predictions, write_predictions
from benchmarks.evaluation.run import PREDICTIONS
from benchmarks.evaluation.scores import CALIBRATION
from benchmarks.files import file_sha256, whole_file, write_text
from benchmarks.models.folders import TRAINED_ITEMS, adapter_sha256, check_adapter_folder, read_json
from benchmarks.runs import CONFIG, MANIFEST, read_manifest, read_stored, refuse_unfinished
from rewards import InputError
from rl.publish.private import without_places
from rl.rollout_files import FOLDER as ROLLOUTS
from sft.training import ADAPTER

STAGES: Final = ("sft", "grpo")
RUN: Final = "run"  # folder of the run's own files in a publication
DATA: Final = "data"  # folder of the data set
EVALUATIONS: Final = "evaluations"
TRACES: Final = "traces.jsonl"  # as SFT read them, among the run's own files
TRACE_TABLE: Final = "traces.parquet"  # in the data set, all of whose files must have one format
ROLLOUT_FILE: Final = "rollouts.parquet"
_ADAPTER_CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
ADAPTER_FILES: Final = (_ADAPTER_CONFIG, WEIGHTS, "synthpert.json", TRAINED_ITEMS, CALIBRATION)
_TEXT: Final = pa.string()
_TRACE_SCHEMA: Final = pa.schema(
    [
        *((name, _TEXT) for name in ("item_id", "cell_line", "pert", "gene", "label")),
        ("prompt", pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))),
        *((name, _TEXT) for name in ("completion", "answer", "teacher", "mode")),
        ("critic", pa.struct([(name, _TEXT) for name in ("verdict", "reason", "given")])),
        ("created", _TEXT),
        ("protocol", _TEXT),  # as JSON: its keys differ between versions and sources
    ]
)
RUN_FILES: Final = (CONFIG, MANIFEST, TRAINED_ITEMS, "log.jsonl")


@dataclass(frozen=True)
class TrainingRun:
    """A finished run of stage one or two.

    Attributes:
        path: the run folder.
        manifest, config: what it holds.
    """

    path: Path
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def stage(self) -> str:
        """`sft` or `grpo`."""
        return str(self.manifest["stage"])

    @property
    def base_name(self) -> str:
        """The base model: its hub id, or the name of its folder."""
        return str(self.manifest["base"]["name"])

    @property
    def base_id(self) -> str | None:
        """The base model's hub id; None where it was a folder."""
        return None if self.manifest["base"]["revision"] is None else self.base_name


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation to publish.

    Attributes:
        path: the run folder.
        name: what reports call the system.
        own: whether it is of the adapter to publish.
    """

    path: Path
    name: str
    own: bool

    @property
    def folder(self) -> str:
        """Name of its folder in the publication."""
        return re.sub(r"[^\w.-]", "-", self.path.resolve().name)


@dataclass(frozen=True)
class Data:
    """The data set of a publication.

    Attributes:
        traces: number of traces; None where there are none.
        rollouts: number of completions; None where there are none.
        rewards: names of the rollouts' rewards.
        evaluations: those whose predictions are in it.
        missing: what could not be published, and why, in one line each.
    """

    traces: int | None
    rollouts: int | None
    rewards: Sequence[str]
    evaluations: Sequence[Evaluation]
    missing: Sequence[str]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to publish."""
        return self.traces is None and self.rollouts is None and not self.evaluations


def read_training(path: Path) -> TrainingRun:
    """Return a finished training run with the adapter that it made.

    Raises:
        InputError: the folder holds no finished run of SFT or GRPO, or its adapter is missing or has changed.
    """
    inner = [path / stage for stage in reversed(STAGES) if (path / stage / MANIFEST).is_file()]
    if inner and not (path / MANIFEST).is_file():
        raise InputError(f"{path}: holds several runs; give the one to publish, such as {inner[0]}")
    manifest = read_manifest(path)
    if manifest.get("stage") not in STAGES:
        raise InputError(f"{path}: a run of {manifest.get('stage')}, which made no adapter; give a run of sft or grpo")
    refuse_unfinished(path, manifest)
    adapter = path / ADAPTER
    check_adapter_folder(adapter)
    if not (adapter / WEIGHTS).is_file():
        raise InputError(f"{adapter}: holds no {WEIGHTS}; only safetensors are published, train the run again")
    if adapter_sha256(adapter) != manifest.get("adapter_sha256"):
        raise InputError(f"{adapter}: is no longer the adapter that the run made; restore it, or train the run again")
    return TrainingRun(path, manifest, read_stored(path / CONFIG, "restore it, or train the run again"))


def find_evaluations(run: TrainingRun, given: Sequence[Path] = ()) -> list[Evaluation]:
    """Return the evaluations to publish, in the order of training: base model, start, the adapter itself.

    Args:
        run: the training run.
        given: run folders of evaluations. None: the finished ones beside the run that are of its adapter, of the
            adapter that it started from, or of its base model alone.

    Raises:
        InputError: a given folder is no finished evaluation, none of them is of the adapter, or two have one name.
    """
    started_from = run.manifest.get("sft_adapter_sha256") or run.manifest.get("start_adapter_sha256")
    order = [None, started_from, run.manifest["adapter_sha256"]]
    found: list[tuple[int, Evaluation]] = []
    for path in given or sorted(folder.parent for folder in run.path.resolve().parent.glob(f"*/{MANIFEST}")):
        try:
            manifest = read_manifest(path)
        except InputError:
            if given:
                raise
            continue
        if given and manifest.get("stage") != "eval":
            raise InputError(f"{path}: a run of {manifest.get('stage')}; give the folders of evaluations after the run")
        if manifest.get("stage") != "eval" or (manifest["status"] != "done" and not given):
            continue
        refuse_unfinished(path, manifest)
        engine = manifest.get("engine") or {}
        adapter = engine.get("adapter_sha256")
        of_base = engine.get("model_fingerprint") == run.manifest["base"]["fingerprint"]
        if not given and (adapter not in order or (adapter is None and not of_base)):
            continue
        rank = order.index(adapter) if adapter in order else 0
        found.append((rank, Evaluation(path, str(manifest.get("name", path.name)), own=rank == 2)))
    evaluations = [one for _, one in sorted(found, key=lambda pair: pair[0])]
    if not any(one.own for one in evaluations):
        if given:
            raise InputError(f"{run.path}: none of the evaluations given is of its adapter; give one that is")
        return []
    folders = [run.stage, *(one.folder for one in evaluations)]
    if twice := next((name for name in folders if folders.count(name) > 1), None):
        raise InputError(f"{run.path}: two folders to publish are called {twice}; rename one of them")
    return evaluations


def write_adapter(run: TrainingRun, out: Path) -> None:
    """Write the adapter: its weights as they are, its configuration with the base model's name in place of a path."""
    adapter = run.path / ADAPTER
    for name in ADAPTER_FILES:
        if (adapter / name).is_file():
            _copy(adapter / name, out / name)
    config = read_json(adapter / _ADAPTER_CONFIG) | {"base_model_name_or_path": run.base_name}
    _write_json(config, out / _ADAPTER_CONFIG)


def write_run(run: TrainingRun, out: Path) -> None:
    """Write the run's own files, without the places on its machine, and the traces of SFT byte for byte."""
    for name in RUN_FILES:
        if (run.path / name).is_file():
            _copy(run.path / name, out / name)
    if (traces := _find_traces(run)) is not None:
        _copy(traces, out / TRACES)
    config = dict(run.config)
    if config.get("traces"):
        config["traces"] = TRACES
    _write_yaml(config, out / CONFIG)
    _write_json(run.manifest, out / MANIFEST)


def write_data(run: TrainingRun, evaluations: Sequence[Evaluation], out: Path) -> Data:
    """Write a run's traces or rollouts, and the predictions of its evaluations.

    Args:
        run: the training run.
        evaluations: those to publish.
        out: folder to write; nothing is written where there is no data.

    Returns:
        What was written.
    """
    traces = rollouts = None
    rewards: list[str] = []
    missing = []
    if run.stage == "sft":
        source = _find_traces(run)
        if source is None:
            missing.append(f"traces: {run.manifest['traces']['file']} is gone or has changed since the run")
        else:
            table = _trace_table(source)
            with whole_file(out / TRACE_TABLE) as file:
                pq.write_table(table, file, compression="zstd")
            traces = table.num_rows
    elif tables := _read_rollouts(run.path):
        table = pa.concat_tables(tables, promote_options="permissive")
        with whole_file(out / ROLLOUTS / ROLLOUT_FILE) as file:
            pq.write_table(table, file, compression="zstd")
        rollouts, rewards = table.num_rows, [name for name in table.column_names if name.startswith("reward/")]
    else:
        missing.append("rollouts: the run has stored none")
    for one in evaluations:
        folder = out / EVALUATIONS / one.folder
        predictions = one.path / PREDICTIONS
        facts = without_places(read_facts(predictions))
        write_predictions(read_predictions(predictions), folder / PREDICTIONS, facts)
        _write_yaml(read_stored(one.path / CONFIG, "restore it, or run the evaluation again"), folder / CONFIG)
        _write_json(read_manifest(one.path), folder / MANIFEST)
    if not any(one.own for one in evaluations):
        missing.append("predictions: no finished evaluation of the adapter lies beside the run")
    return Data(traces, rollouts, [name.partition("/")[2] for name in rewards], evaluations, missing)


def _find_traces(run: TrainingRun) -> Path | None:
    """The traces that the run learnt, byte for byte, where its configuration says or beside the run."""
    if run.stage != "sft":
        return None
    wanted = (run.manifest.get("inputs") or {}).get("traces")
    name = str(run.manifest["traces"]["file"])
    named, labels_of = str(run.config.get("traces") or name), run.config.get("labels_of")
    places = [Path(named), run.path.resolve().parent / Path(named).name, run.path.resolve().parent / TRACES]
    if labels_of:
        places.insert(0, Path(labels_of) / name)
    return next((path for path in places if path.is_file() and file_sha256(path) == wanted), None)


def _trace_table(path: Path) -> pa.Table:
    """A file of traces as a table."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        row["protocol"] = json.dumps(row["protocol"])
    return pa.Table.from_pylist(rows, schema=_TRACE_SCHEMA)


def _read_rollouts(run: Path) -> list[pa.Table]:
    """The rollouts of a run, file by file in the order of its steps; copies under other names do not count."""
    folder = run / ROLLOUTS
    paths = sorted(folder.glob("step-*.parquet")) or sorted(folder.glob("*.parquet"))
    return [pq.ParquetFile(path).read() for path in paths]


def _copy(source: Path, out: Path) -> None:
    with source.open("rb") as found, whole_file(out) as file:
        while block := found.read(1 << 20):
            file.write(block)


def _write_json(values: Mapping[str, Any], path: Path) -> None:
    write_text(path, json.dumps(without_places(values), indent=2, ensure_ascii=False) + "\n")


def _write_yaml(values: Mapping[str, Any], path: Path) -> None:
    write_text(path, yaml.safe_dump(without_places(values), sort_keys=False, allow_unicode=True))
