"""A study's plan, what it runs and does not run again, and what it refuses before anything is run."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import synthpert
from without_clock import PATIENCE, wait_for

import rl.study
from benchmarks.config import parse_config
from benchmarks.evaluation.run import EvalArguments, with_run_dtype
from benchmarks.keys import to_keys
from benchmarks.runs import open_run
from rewards import CheckError, InputError
from rl.study import check_stages, read_study, run_command, run_study

ROOT = Path(__file__).parents[2]
TRAINING = {
    "output_dir": "unused", "model_name_or_path": "unused", "bf16": False, "use_cpu": True, "max_steps": 1,
}  # fmt: skip
CONDITIONS: dict[str, Any] = {
    "base": {},
    "SFT": {"sft": {}},
    "SFT 2 %": {"sft": {"traces_fraction": 0.02}},
    "SFT+GRPO": {"from": "SFT", "grpo": {"learning_rate": 1e-6}},
    "teacher": {"eval": {"engine": "openai", "base_url": "http://localhost:1", "model": "large"}},
}


@pytest.fixture
def write_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes a study with the given keys on top of a small one; None leaves a key out."""
    monkeypatch.chdir(tmp_path)

    def write(**values: Any) -> Path:
        stages = {
            "traces": {"output": "unused.jsonl", "data": "sample", "rows": 12, "evidence": 3},
            "sft": {**TRAINING, "traces": "unused.jsonl", "use_peft": True, "max_length": 512},
            "grpo": {**TRAINING, "sft_run": "unused", "data": "sample", "evidence": 3},
            "eval": {"output_dir": "unused", "model": "unused", "max_tokens": 8, "data": "sample"},
        }
        for name, keys in stages.items():
            Path(f"{name}.yaml").write_text(yaml.safe_dump(keys))
        study = {
            "output_dir": "out", "title": "A study", "seeds": [0, 1], "model": "tiny", "data": "sample", "evidence": 2,
            **{name: f"{name}.yaml" for name in stages}, "conditions": CONDITIONS, **values,
        }  # fmt: skip
        path = Path("study.yaml")
        path.write_text(yaml.safe_dump({k: v for k, v in study.items() if v is not None}, sort_keys=False))
        return path

    return write


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that the study ran: each only makes the folder that it would make, finished."""
    commands: list[list[str]] = []

    def run(words: Sequence[str], where: str) -> None:
        commands.append(list(words))
        if words[0] == "report":
            return
        config, rest = Path(words[words.index("--config") + 1]), list(words[words.index("--config") + 2 :])
        if words[0] == "traces":
            from sft.teacher.generate import TraceArguments, generate_traces

            generate_traces(*parse_config(config, rest, (TraceArguments,)))
            return
        folder = Path(rest[rest.index("--output_dir") + 1])
        stage = next(s for s in read_study(Path("study.yaml")).stages if s.path == folder)
        if words[0] == "eval":
            (arguments,) = parse_config(config, rest, (EvalArguments,))
            values = to_keys(with_run_dtype(arguments))
        else:
            from benchmarks.config import resolved
            from rl.train import read_arguments as read_grpo
            from sft.train import read_arguments as read_sft

            values = resolved(*(read_sft if stage.kind == "sft" else read_grpo)(config, rest))
        open_run(folder, words[0], values).finish(name=stage.where)

    monkeypatch.setattr(rl.study, "run_command", run)
    monkeypatch.setattr(rl.study, "_in_new_process", lambda function, *arguments: function(*arguments))
    return commands


def option(words: Sequence[str], key: str) -> str | None:
    return words[words.index(key) + 1] if key in words else None


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_out_stands_in_for_the_output_dir(write_study: Callable[..., Path], ran: list[list[str]]) -> None:
    config, said = write_study(), []
    run_study(config, said.append, dry_run=True, out=Path("elsewhere"))
    assert said and not any(" out/" in line for line in said)
    assert all(stage.path.parts[0] == "elsewhere" for stage in read_study(config, Path("elsewhere")).stages)


def test_each_condition_has_a_cell_a_seed_and_one_where_nothing_is_trained(write_study: Callable[..., Path]) -> None:
    study = read_study(write_study())
    assert [(cell.condition, cell.seed) for cell in study.cells] == [
        ("base", None), ("SFT", 0), ("SFT 2 %", 0), ("SFT+GRPO", 0), ("teacher", None),
        ("SFT", 1), ("SFT 2 %", 1), ("SFT+GRPO", 1),
    ]  # fmt: skip
    assert [stage.kind for stage in study.stages][:8] == [
        "traces",
        "eval",
        "sft",
        "eval",
        "sft",
        "eval",
        "grpo",
        "eval",
    ]
    assert len({stage.path for stage in study.stages}) == len(study.stages)


def test_seeds_go_to_training_and_names_and_seeds_to_the_evaluation(write_study: Callable[..., Path]) -> None:
    study = read_study(write_study())
    cells = {
        (cell.condition, cell.seed): {stage.kind: stage.arguments for stage in cell.stages} for cell in study.cells
    }
    for seed in (0, 1):
        sft, percent, grpo = (cells[name, seed] for name in ("SFT", "SFT 2 %", "SFT+GRPO"))
        assert option(sft["sft"], "--seed") == option(grpo["grpo"], "--seed") == str(seed)
        assert option(grpo["grpo"], "--sft_run") == option(sft["sft"], "--output_dir")
        assert option(percent["sft"], "--traces_fraction") == "0.02"
        assert option(percent["sft"], "--traces") == option(sft["sft"], "--traces") == "out/traces.jsonl"
        for name, words, trained in (("SFT", sft, "sft"), ("SFT 2 %", percent, "sft"), ("SFT+GRPO", grpo, "grpo")):
            assert option(words["eval"], "--adapter") == f"{option(words[trained], '--output_dir')}/adapter"
            assert (option(words["eval"], "--name"), option(words["eval"], "--training_seed")) == (name, str(seed))
    assert option(cells["base", None]["eval"], "--adapter") is None
    assert study.traces is not None and "--seed" not in study.traces.arguments  # drawn once, whatever the training seed


def test_a_rival_learns_the_labels_of_the_grpo_run_of_its_seed(write_study: Callable[..., Path]) -> None:
    study = read_study(write_study(conditions={**CONDITIONS, "labels": {"labels_of": "SFT+GRPO", "sft": {}}}))
    for cell in (one for one in study.cells if one.condition == "labels"):
        sft, evaluation = cell.stages
        assert sft.values["labels_of"] == Path(f"out/sft-grpo/seed-{cell.seed}/grpo")
        assert sft.values["traces"] == ""
        assert evaluation.values["adapter"] == Path(f"out/labels/seed-{cell.seed}/sft/adapter")
    check_stages([stage for stage in study.stages if stage.kind == "sft"], dry_run=True)


def test_a_preflight_chooses_the_prompts_that_grpo_trains_on(write_study: Callable[..., Path]) -> None:
    conditions = {"SFT": {"sft": {}}, "SFT+GRPO": {"from": "SFT", "preflight": 24, "grpo": {}}}
    study = read_study(write_study(conditions=conditions))
    preflight, grpo, _ = study.cells[1].stages
    assert (preflight.kind, preflight.path) == ("preflight", Path("out/sft-grpo/seed-0/prompts.csv"))
    assert (preflight.values["train_items"], grpo.values["train_items"]) == (24, 0)
    assert grpo.values["train_on"] == preflight.path
    assert preflight.arguments[0] == "grpo"
    assert preflight.arguments[-3:] == ["--dry-run", "--write", str(preflight.path)]
    check_stages([preflight, grpo], dry_run=True)


def test_shared_keys_reach_every_stage_that_knows_them_and_a_condition_wins(write_study: Callable[..., Path]) -> None:
    study = read_study(write_study(eval={"config": "eval.yaml", "items": 7}, split="official"))
    for stage in study.stages:
        assert option(stage.arguments, "--evidence") == (None if stage.kind == "sft" else "2")
        assert option(stage.arguments, "--items") == ("7" if stage.kind == "eval" else None)
        key = {"traces": "--none", "eval": "--model"}.get(stage.kind, "--model_name_or_path")
        model = "large" if "teacher" in stage.where else "tiny"
        assert option(stage.arguments, key) == (None if stage.kind == "traces" else model)


def test_lists_and_truth_values_become_words(write_study: Callable[..., Path]) -> None:
    grpo = {"config": "grpo.yaml", "rewards": ["accuracy", "format"], "balance": True}
    study = read_study(write_study(grpo=grpo))
    words = next(stage.arguments for stage in study.stages if stage.kind == "grpo")
    assert "--rewards accuracy format --balance true" in " ".join(words)
    check_stages(study.stages, dry_run=True)


def test_traces_can_be_a_file_that_is_there(write_study: Callable[..., Path]) -> None:
    study = read_study(
        write_study(traces="mine.jsonl", conditions={"SFT": {"sft": {}}, "B": {"sft": {"traces": "b.jsonl"}}})
    )
    assert study.traces is None
    assert [option(stage.arguments, "--traces") for stage in study.stages if stage.kind == "sft"][:2] == [
        "mine.jsonl",
        "b.jsonl",
    ]


def test_without_training_no_traces_are_made(write_study: Callable[..., Path]) -> None:
    assert read_study(write_study(conditions={"base": {}})).traces is None


def test_the_report_takes_the_evaluations_in_order_then_the_training(write_study: Callable[..., Path]) -> None:
    words = read_study(write_study(seeds=[5], runs=["imported"], embeddings="genes.parquet")).report_arguments
    assert words == [
        "report", "out/base/eval", "out/sft/seed-5/eval", "out/sft-2/seed-5/eval", "out/sft-grpo/seed-5/eval",
        "out/teacher/eval", "imported", "out/sft/seed-5/sft", "out/sft-2/seed-5/sft", "out/sft-grpo/seed-5/grpo",
        "--out", "out/report", "--title", "A study", "--embeddings", "genes.parquet",
    ]  # fmt: skip


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"seed": [0]}, "'seed' is no key; did you mean 'seeds'"),
        ({"output_dir": None}, "output_dir is missing"),
        ({"conditions": {}}, "conditions: there are none"),
        ({"conditions": ["base"]}, "conditions is .*; write a mapping"),
        ({"seeds": 3}, "seeds is 3; write a list"),
        ({"seeds": []}, r"seeds: \[\]; give at least one"),
        ({"seeds": [0, -1]}, "seeds: .*; give at least one, each 0 or more"),
        ({"seeds": [{"a": 1}]}, "seeds is .*; write a list such as"),
        ({"seeds": [0, 1, 0]}, "holds one twice"),
        ({"runs": "one"}, "runs is 'one'; write a list"),
        ({"eval": None}, "base: eval has no configuration file"),
        ({"conditions": {"A": {"sfd": {}}}}, "A: 'sfd' is no key; did you mean 'sft'"),
        ({"conditions": {"A": {"grpo": {}}}}, "A: grpo starts from an SFT run"),
        ({"conditions": {"A": {"from": "B", "grpo": {}}, "B": {"sft": {}}}}, "A: from: 'B' is no condition above it"),
        ({"conditions": {"B": {"sft": {}}, "A": {"from": "B"}}}, "A: `from` starts GRPO from another condition's SFT"),
        (
            {"conditions": {"B": {"sft": {}}, "A": {"labels_of": "B"}}},
            "A: `labels_of` starts SFT on another condition's",
        ),
        (
            {"conditions": {"B": {"sft": {}}, "A": {"labels_of": "B", "sft": {}}}},
            "A: labels_of: 'B' is no condition above it that has grpo; name one of those .there are none yet",
        ),
        ({"conditions": {"A b": {}, "a-B": {}}}, "'a-B' would have the folder of 'A b'"),
        ({"conditions": {"%": {}}}, "'%' has no letter or digit to name a folder"),
        ({"conditions": {"Report": {}}}, r"'Report' would have the folder of the report \(report\)"),
        ({"conditions": {"A": {"sft": {"seed": 4}}}}, "A: sft: seed is set by the study"),
        ({"conditions": {"A": {"sft": {}, "eval": {"adapter": "x"}}}}, "A: eval: adapter is set by the study"),
        ({"sft": {"config": "sft.yaml", "traces": "x.jsonl"}}, "SFT: sft: traces is set by the study"),
        ({"conditions": {"A": {"eval": {"base_url": None}}}}, "A: eval: base_url has no value"),
    ],
)
def test_a_study_that_cannot_be_run_is_refused(
    write_study: Callable[..., Path], values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem):
        read_study(write_study(**values))


@pytest.mark.parametrize(
    ("stage", "keys", "problem"),
    [
        ("sft", {"learning_rat": 1}, "SFT: sft: command line: 'learning_rat' is no key; did you mean 'learning_rate'"),
        ("sft", {"traces_fraction": 2}, "SFT: sft: traces_fraction: 2.0; it must lie above 0"),
        ("grpo", {"use_peft": True}, "SFT.GRPO: grpo: use_peft"),
        ("grpo", {"rewards": ["acuracy"]}, r"SFT.GRPO: grpo: rewards, entry 1 .*did you mean 'accuracy'"),
        ("grpo", {"rewards": [{"name": "mine.py:short", "timeout": 0}]}, r"SFT.GRPO: grpo: mine\.py: no such file"),
        ("grpo", {"rewards": ["margin", "format"], "reward_weights": [1]}, "reward_weights: 1 weights for 2 rewards"),
        ("grpo", {"rewards": ["balanced_accuracy"]}, "balanced_accuracy has no effect with scale_rewards: group"),
        ("grpo", {"rewards": ["accuracy"], "unlabelled": "p.csv"}, "accuracy needs labels"),
        ("eval", {"temperature": -1}, "base: eval: protocol: temperature is -1"),
        ("eval", {"max_tokens": "many"}, "base: eval: .*max_tokens"),
        ("traces", {"row": 1}, "traces: command line: 'row' is no key"),
    ],
)
def test_a_stage_that_cannot_be_run_is_refused_before_any_is(
    write_study: Callable[..., Path], ran: list[list[str]], stage: str, keys: dict[str, Any], problem: str
) -> None:
    path = write_study(**{stage: {"config": f"{stage}.yaml", **keys}})
    for dry_run in (True, False):
        with pytest.raises(InputError, match=problem):
            run_study(path, lambda text: None, dry_run=dry_run)
    assert ran == []


def test_rewards_are_made_once_for_all_cells_that_share_them(
    write_study: Callable[..., Path], ran: list[list[str]]
) -> None:
    Path("mine.py").write_text(
        "open('loaded', 'a').write('x')\ndef fair(completions, **columns):\n    return [0.0 for _ in completions]\n"
    )
    rewards = ["margin", {"name": "mine.py:fair", "timeout": 0}]
    path = write_study(grpo={"config": "grpo.yaml", "rewards": rewards}, seeds=[0, 1, 2])
    run_study(path, lambda text: None, dry_run=True)
    assert Path("loaded").read_text() == "x"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"traces": "mine.jsonl"}, r"mine\.jsonl: no such file, but the study needs it"),
        ({"conditions": {"A": {"sft": {"traces": "b.jsonl"}}}}, r"b\.jsonl: no such file"),
        ({"embeddings": "genes.parquet"}, r"genes\.parquet: no such file"),
        ({"runs": ["elsewhere"]}, "elsewhere: no run folder"),
        ({"runs": ["begun"]}, "begun: is one of the study's runs, but not finished"),
    ],
)
def test_what_must_be_there_is_looked_for_at_the_beginning(
    write_study: Callable[..., Path], ran: list[list[str]], values: dict[str, Any], problem: str
) -> None:
    path = write_study(**values)
    open_run(Path("begun"), "eval", {})
    with pytest.raises(InputError, match=problem):
        run_study(path, lambda text: None)
    assert ran == []


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_the_commands_and_leaves_nothing(write_study: Callable[..., Path], ran: list[list[str]]) -> None:
    path, said = write_study(), []
    run_study(path, said.append, dry_run=True)
    assert said[0] == "study: A study: 8 cells, 0 done"
    commands = [shlex.split(line) for line in said if line.startswith("synthpert")]
    study = read_study(path)
    assert [command[1:] for command in commands] == [
        *(stage.arguments for stage in study.stages),
        study.report_arguments,
    ]
    assert ran == []
    assert not Path("out").exists()


def test_a_study_runs_each_stage_once_and_then_only_the_report(
    write_study: Callable[..., Path], ran: list[list[str]]
) -> None:
    path = write_study()
    run_study(path, lambda text: None)
    study = read_study(path)
    assert ran == [*(stage.arguments for stage in study.stages), study.report_arguments]
    ran.clear()
    said: list[str] = []
    run_study(path, said.append)
    assert said[0] == "study: A study: 8 cells, 8 done"
    assert ran == [study.report_arguments]


def test_a_further_seed_and_condition_reuse_what_is_there(
    write_study: Callable[..., Path], ran: list[list[str]]
) -> None:
    run_study(write_study(seeds=[0], conditions={"base": {}, "SFT": {"sft": {}}}), lambda text: None)
    ran.clear()
    run_study(
        write_study(seeds=[0, 1], conditions={"base": {}, "SFT": {"sft": {}}, "C": {"sft": {}}}), lambda text: None
    )
    assert [option(words, "--output_dir") for words in ran[:-1]] == [
        "out/c/seed-0/sft", "out/c/seed-0/eval", "out/sft/seed-1/sft", "out/sft/seed-1/eval", "out/c/seed-1/sft",
        "out/c/seed-1/eval",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"sft": {"config": "sft.yaml", "learning_rate": 0.5}}, r"out/sft/seed-0/sft: .*\(learning_rate changed\)"),
        ({"evidence": 1}, r"out/traces\.jsonl: .*\(evidence changed\)"),
        ({"eval": {"config": "eval.yaml", "items": 3}}, r"out/base/eval: .*\(items changed\)"),
    ],
)
def test_a_changed_configuration_is_refused_before_anything_runs(
    write_study: Callable[..., Path], ran: list[list[str]], values: dict[str, Any], problem: str
) -> None:
    run_study(write_study(), lambda text: None)
    ran.clear()
    with pytest.raises(InputError, match=problem):
        run_study(write_study(**values), lambda text: None)
    assert ran == []


def test_traces_of_unknown_origin_are_not_used(write_study: Callable[..., Path], ran: list[list[str]]) -> None:
    Path("out").mkdir()
    Path("out/traces.jsonl").write_text("")
    with pytest.raises(InputError, match=r"out/traces\.jsonl: no file beside it says how"):
        run_study(write_study(), lambda text: None)
    assert ran == []


@pytest.mark.parametrize("data", ["k562_set", "screen.csv"])
def test_stage_one_is_told_of_labels_that_its_audit_does_not_look_for(
    write_study: Callable[..., Path], data: str
) -> None:
    stages = {stage.kind: stage for stage in read_study(write_study(data=data)).stages}
    assert option(stages["sft"].arguments, "--data") == option(stages["traces"].arguments, "--data") == data
    others = {stage.kind: stage for stage in read_study(write_study(data="sample")).stages}
    assert option(others["sft"].arguments, "--data") is None


def test_what_is_done_on_other_labels_of_a_table_is_refused(
    write_study: Callable[..., Path], ran: list[list[str]]
) -> None:
    """The name of the screen may change: then only the report is made again."""
    rows = [f"P{p},G{g},{('upregulated', 'downregulated')[(p + g) % 2]}" for p in range(10) for g in range(4)]
    table, described = Path("screen.csv"), Path("screen.yaml")
    table.write_text("\n".join(["pert,gene,label", *rows]))
    described.write_text("file: screen.csv\n")
    path = write_study(
        data="screen.yaml", split="holdout:perturbations", conditions={"base": {}, "SFT": {"sft": {}}}, seeds=[0]
    )
    run_study(path, lambda text: None)
    before = len(ran)
    described.write_text("file: screen.csv\nname: Mine\n")
    run_study(path, lambda text: None)
    assert [words[0] for words in ran[before:]] == ["report"]
    table.write_text("\n".join(["pert,gene,label", *rows[1:]]))
    with pytest.raises(InputError, match=r"out/traces\.jsonl: was made from other labels than screen\.yaml has now"):
        run_study(path, lambda text: None)
    assert len(ran) == before + 1


def test_a_failing_cell_stops_the_study_and_the_same_command_goes_on(
    write_study: Callable[..., Path], ran: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed = rl.study.run_command

    def fail(words: Sequence[str], where: str) -> None:
        if words[0] == "grpo":
            raise CheckError(f"{where}: no memory")
        succeed(words, where)

    monkeypatch.setattr(rl.study, "run_command", fail)
    path = write_study()
    with pytest.raises(CheckError, match=r"study: SFT\+GRPO, seed 0: no memory"):
        run_study(path, lambda text: None)
    assert option(ran[-1], "--name") == "SFT 2 %"  # what comes before the failing cell was run, nothing after it
    before = len(ran)
    monkeypatch.setattr(rl.study, "run_command", succeed)
    run_study(path, lambda text: None)
    assert ran[before][0] == "grpo"
    assert ran[-1][0] == "report"


# --- the processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error", "problem"),
    [
        ("sys.exit(2)", InputError, "study: SFT, seed 1: `synthpert sft` refused its input"),
        ("sys.exit(1)", CheckError, r"study: SFT, seed 1: `synthpert sft` failed \(exit code 1\)"),
        ("os.kill(os.getpid(), 9)", CheckError, "`synthpert sft` was ended by signal 9"),
        ("sys.exit(130)", KeyboardInterrupt, ""),
    ],
)
def test_how_a_command_ends_is_how_the_study_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, error: type[BaseException], problem: str
) -> None:
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "__init__.py").touch()
    (tmp_path / "rl" / "cli.py").write_text(f"import os, sys\nassert sys.argv[1:] == ['sft', '--x', 'a b']\n{body}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(error, match=problem or None):
        run_command(["sft", "--x", "a b"], "study: SFT, seed 1")


def test_a_signal_to_the_study_alone_reaches_the_command(tmp_path: Path) -> None:
    """What the study waits before it sends the signal on passes at once here, and before it kills, never."""
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "__init__.py").touch()
    (tmp_path / "rl" / "cli.py").write_text(
        "import pathlib, time\n"
        "try:\n    pathlib.Path('begun').touch()\n    time.sleep(3600)\n"
        "except KeyboardInterrupt:\n    pathlib.Path('told').touch()\n    raise SystemExit(130)\n"
    )
    code = (
        "import os, pathlib, subprocess, sys\nsys.path.insert(0, sys.argv[1])\nfrom rl.study import run_command\n"
        "os.environ['PYTHONPATH'] = ''\nwait, waits = subprocess.Popen.wait, iter([None, 0.01])\n"
        "def unhurried(process, seconds=None):\n"
        "    pathlib.Path('waits').touch()\n    return wait(process, next(waits, None))\n"
        "subprocess.Popen.wait = unhurried\nrun_command(['sft'], 'study')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT)], cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        for file in ("waits", "begun"):
            wait_for(lambda file=tmp_path / file: file.exists() or process.poll() is not None)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) != 0
    finally:
        process.kill()
    assert (tmp_path / "told").exists()


def test_the_command_says_what_is_wrong_in_one_line(write_study: Callable[..., Path], tmp_path: Path) -> None:
    path = write_study(conditions={"base": {"evel": {}}})
    done = synthpert("study", path, "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "synthpert: study.yaml: base: 'evel' is no key; did you mean 'eval'?\n"
    assert done.stdout == ""
