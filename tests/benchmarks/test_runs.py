"""A run folder is never overwritten in silence, and a resume with another configuration names the keys."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.runs import Run, open_run, package_versions, read_manifest, read_stored, require_done
from rewards import CheckError, InputError

CONFIG: dict[str, Any] = {"seed": 0, "learning_rate": 1e-05, "rewards": ["accuracy"], "data": None, "name": "Zoë: 1"}


def test_a_new_run_holds_its_configuration_and_a_manifest(tmp_path: Path) -> None:
    run = open_run(tmp_path / "a" / "b", "sft", CONFIG)
    assert not run.done
    assert not run.resumed
    assert yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8")) == CONFIG
    manifest = read_manifest(run.path)
    assert (manifest["stage"], manifest["status"]) == ("sft", "running")
    assert manifest["packages"]["torch"] == package_versions()["torch"]
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "manifest.json"]


def test_an_empty_folder_is_a_new_run(tmp_path: Path) -> None:
    assert not open_run(tmp_path, "sft", CONFIG).resumed


def test_an_unfinished_run_goes_on(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "sft", CONFIG)
    again = open_run(tmp_path / "run", "sft", dict(reversed(CONFIG.items())))
    assert again.resumed
    assert not again.done


def end(run: Run, finished: bool) -> None:
    """Finish a run, or stop it when it has written something."""
    if finished:
        run.finish()
    else:
        (run.path / "checkpoints" / "checkpoint-1").mkdir(parents=True)
        (run.path / "checkpoints" / "checkpoint-1" / "state").write_text("{}")


@pytest.mark.parametrize("finished", [False, True])
def test_a_file_replaced_under_the_same_name_is_refused(tmp_path: Path, finished: bool) -> None:
    config = {**CONFIG, "traces": "t.jsonl"}
    run = open_run(tmp_path / "run", "sft", config, {"traces": "abc"})
    end(run, finished)
    assert open_run(tmp_path / "run", "sft", config, {"traces": "abc"}).done == finished
    with pytest.raises(InputError, match=r"other files \(changed since: traces: t\.jsonl\)"):
        open_run(tmp_path / "run", "sft", config, {"traces": "abd"})


def test_a_finished_run_is_done_and_keeps_its_facts(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "sft", CONFIG).finish(steps=7, loss=0.5)
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    again = open_run(tmp_path / "run", "sft", CONFIG)
    assert again.done
    assert not again.resumed
    assert (again.manifest["steps"], again.manifest["loss"]) == (7, 0.5)
    assert again.manifest["seconds"] >= 0
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
    assert require_done(tmp_path / "run", "sft")["steps"] == 7


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({**CONFIG, "seed": 1}, "(seed changed)"),
        ({**CONFIG, "seed": 1, "learning_rate": 2e-5}, "(learning_rate, seed changed)"),
        ({**CONFIG, "rewards": ["accuracy", "format"]}, "(rewards changed)"),
        ({**CONFIG, "data": "sample"}, "(data changed)"),
        ({**CONFIG, "beta": 0.1}, "(beta changed)"),
        ({key: value for key, value in CONFIG.items() if key != "seed"}, "(seed changed)"),
    ],
)
def test_a_changed_configuration_is_refused_naming_the_keys(
    tmp_path: Path, config: dict[str, Any], keys: str, finished: bool
) -> None:
    run = open_run(tmp_path / "run", "sft", CONFIG)
    end(run, finished)
    before = (run.path / "config.yaml").read_bytes(), (run.path / "manifest.json").read_bytes()
    with pytest.raises(InputError) as error:
        open_run(tmp_path / "run", "sft", config)
    assert str(tmp_path / "run") in str(error.value)
    assert keys in str(error.value)
    assert ((run.path / "config.yaml").read_bytes(), (run.path / "manifest.json").read_bytes()) == before


@pytest.mark.parametrize(
    ("config", "inputs"), [({**CONFIG, "seed": 1}, {"traces": "abc"}), (CONFIG, {"traces": "abd"})]
)
def test_a_run_that_wrote_nothing_gives_way_to_a_corrected_one(
    tmp_path: Path, config: dict[str, Any], inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_run(tmp_path / "run", "sft", CONFIG, {"traces": "abc"})
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "lock").touch()  # an evaluation's
    monkeypatch.setenv("RANK", "1")
    assert not open_run(tmp_path / "run", "sft", config, inputs).done  # leaves writing to the first process
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")) == CONFIG
    monkeypatch.setenv("RANK", "0")
    assert not open_run(tmp_path / "run", "sft", config, inputs).resumed
    assert open_run(tmp_path / "run", "sft", config, inputs).resumed
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")) == config
    assert read_manifest(tmp_path / "run")["inputs"] == inputs
    with pytest.raises(InputError, match="holds a run of sft"):
        open_run(tmp_path / "run", "grpo", config)


def test_a_run_of_another_stage_is_refused(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "sft", CONFIG).finish()
    with pytest.raises(InputError, match="holds a run of sft, not of grpo"):
        open_run(tmp_path / "run", "grpo", CONFIG)
    with pytest.raises(InputError, match="a run of sft, not of grpo"):
        require_done(tmp_path / "run", "grpo")


@pytest.mark.parametrize("name", ["notes.txt", "config.yaml", "manifest.json"])
def test_a_folder_with_files_that_are_no_run_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="is no run folder"):
        open_run(tmp_path, "sft", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_an_output_dir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises((InputError, CheckError), match="run"):
        open_run(tmp_path / "run", "sft", CONFIG)


def test_an_unfinished_run_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    open_run(tmp_path / "run", "sft", CONFIG)
    with pytest.raises(InputError, match="not finished; run it again"):
        require_done(tmp_path / "run", "sft")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CheckError("reward x: raised ZeroDivisionError"), "reward x: raised ZeroDivisionError"),
        (RuntimeError("out of\nmemory"), "RuntimeError: out of memory"),
    ],
)
def test_a_failed_run_says_why_and_goes_on(tmp_path: Path, error: Exception, line: str) -> None:
    run = open_run(tmp_path / "run", "grpo", CONFIG)
    (run.path / "log.jsonl").write_text("{}\n")
    with pytest.raises(type(error)), run.failures_noted():
        raise error
    manifest = read_manifest(run.path)
    assert (manifest["status"], manifest["error"]) == ("failed", line)
    with pytest.raises(InputError, match=re.escape(f"the grpo run has failed ({line}); correct that and run it again")):
        require_done(run.path, "grpo")
    again = open_run(run.path, "grpo", CONFIG)
    assert again.resumed
    with again.failures_noted():
        assert read_manifest(run.path)["status"] == "running"
        again.finish(steps=3)
    manifest = read_manifest(run.path)
    assert manifest["status"] == "done" and "error" not in manifest


def test_a_run_that_is_stopped_has_not_failed(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "grpo", CONFIG)
    with pytest.raises(KeyboardInterrupt), run.failures_noted():
        raise KeyboardInterrupt
    assert read_manifest(run.path)["status"] == "running"


def test_a_folder_within_a_run_names_the_run(tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", "sft", CONFIG)
    with pytest.raises(InputError, match=r"run/adapter: no run folder .*; did you mean .*/run\?"):
        require_done(run.path / "adapter", "sft")


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), ("[]", "not a manifest"), ("{}", "not a manifest")])
def test_a_broken_manifest_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    open_run(tmp_path / "run", "sft", CONFIG)
    (tmp_path / "run" / "manifest.json").write_text(text)
    for read in (read_manifest, lambda path: open_run(path, "sft", CONFIG)):
        with pytest.raises(InputError, match=words):
            read(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "a: [", "- 1"])
def test_a_broken_configuration_of_a_run_is_an_error(tmp_path: Path, text: str) -> None:
    open_run(tmp_path / "run", "sft", CONFIG)
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml|another configuration"):
        open_run(tmp_path / "run", "sft", CONFIG)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="no run folder"):
            require_done(path, "sft")


def test_a_full_disk_is_one_line_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = open_run(tmp_path / "run", "sft", CONFIG)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckError, match="No space left on device"):
        run.finish()
    assert json.loads((run.path / "manifest.json").read_bytes())["status"] == "running"


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_that_was_moved_goes_on(tmp_path: Path, finished: bool) -> None:
    config = {**CONFIG, "output_dir": "runs/a", "base_url": "http://h:1/v1"}
    end(open_run(tmp_path / "a", "eval", config), finished)
    (tmp_path / "a").rename(tmp_path / "b")
    for place, url in (("runs/b/", "http://h:1/v1"), (str(tmp_path / "b"), "http://other:2/v1")):
        moved = {**config, "output_dir": place, "base_url": url}
        again = open_run(tmp_path / "b", "eval", moved)
        assert (again.done, again.resumed) == (finished, not finished)
        stored = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text(encoding="utf-8"))
        assert stored == (config if finished else moved)
    with pytest.raises(InputError, match=r"\(seed changed\)"):
        open_run(tmp_path / "b", "eval", {**config, "seed": 7, "output_dir": "c"})


def test_a_stored_configuration_is_read_by_the_rules_it_was_written_by(tmp_path: Path) -> None:
    values = {"a": "1e5", "b": "no", "c": "010", "d": "1:30", "e": 1e-5}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert read_stored(tmp_path / "c.yaml", "") == values
    (tmp_path / "c.yaml").write_text("- a")
    with pytest.raises(InputError, match=r"c\.yaml: not a configuration; restore it$"):
        read_stored(tmp_path / "c.yaml", "restore it")
