"""Composition: names, weights, parameters, schedules, gates, time limits; what is wrong is named with its remedy."""

import gc
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from without_clock import PATIENCE, wait_for

from rewards import LABELS, CheckError, Context, InputError, compose
from rewards.batch import is_column
from rewards.compose import BUILT_IN, TRL_REWARDS
from rewards.composition import check_scaling, prompt_notes, weight_notes

UP, DOWN, NONE = map(str, LABELS)
FORECAST = pd.DataFrame({"item_id": ["k562|P|G"], "p_up": [0.6], "p_down": [0.1], "p_none": [0.3]})
CONTEXT = Context({UP: 1, DOWN: 1, NONE: 2}, {"neighbours": lambda: FORECAST, "gene_rate": lambda: FORECAST})

OWN = """
import time
from rewards import completion_text

def short(completions, **columns):
    return [1 / (1 + len(completion_text(c))) for c in completions]

short.range = (0.0, 1.0)

def far(completions, **columns):
    return [float(len(completion_text(c))) for c in completions]

far.range = (0.0, 1.0)

def numbers(completions, values, **columns):
    return values

class Scaled:
    __name__ = "scaled"
    def __init__(self, by):
        self.by = by
    def __call__(self, completions, **columns):
        return [float(self.by)] * len(completions)

def get_short(completions, **columns):
    return short(completions)

def crashes(completions, **columns):
    return [1 / 0 for _ in completions]

def hangs(completions, **columns):
    while True:
        try:
            time.sleep(10)
        except BaseException:
            pass

def exits(completions, **columns):
    import os
    os._exit(3)

async def later(completions, **columns):
    return [1.0]

constant = 3
"""


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "mine.py").write_text(OWN)
    FORECAST.to_parquet(tmp_path / "gears.parquet")
    return Context(CONTEXT.train_counts, CONTEXT.tables, tmp_path)


def say(answer: str) -> str:
    return f"<think>because</think><answer>{answer}</answer>"


def columns(n: int = 1, label: str = UP) -> dict[str, Any]:
    return {
        "label": [label] * n,
        "item_id": ["k562|P|G"] * n,
        "pert": ["P"] * n,
        "gene": ["G"] * n,
        "prompts": ["p q"] * n,
    }


# --- weights, gates, schedules --------------------------------------------------------------------------------------


def test_a_composition_is_a_weighted_sum() -> None:
    made = compose([{"name": "accuracy", "weight": 2.0}, {"name": "format", "weight": 0.5}], CONTEXT)
    assert made([say(UP), say(DOWN), "x", None], **columns(4)) == [2.5, 0.5, 0.0, None]
    assert made.weights == [2.0, 0.5]


def test_reward_weights_of_trl_are_taken_and_not_mixed() -> None:
    assert compose(["accuracy", "format"], CONTEXT, weights=[1.0, 0.2])([say(UP)], **columns()) == [1.2]
    with pytest.raises(InputError, match="3 weights for 2 rewards"):
        compose(["accuracy", "format"], CONTEXT, weights=[1.0, 0.2, 3])
    with pytest.raises(InputError, match="no list"):
        compose(["accuracy"], CONTEXT, weights=1.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no number"):
        compose(["accuracy"], CONTEXT, weights=["x"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="use one of the two"):
        compose([{"name": "accuracy", "weight": 1}], CONTEXT, weights=[1.0])


def test_a_shut_gate_pays_the_least_a_reward_can_not_0() -> None:
    made = compose([{"name": "margin", "gate": "format"}], CONTEXT)
    right, wrong, broken = made([say(UP), say(DOWN), UP], **columns(3))
    assert (right, wrong, broken) == (pytest.approx(0.4), pytest.approx(-0.1), -1.0)
    length = compose([{"name": "length", "parameters": {"low": 1, "high": 9}, "gate": "format"}], CONTEXT)
    assert length([say(UP), "one two"], **columns(2)) == [1.0, 0.0]


@pytest.mark.parametrize(("weight", "factor"), [(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (1.0, 1.0)])
def test_breaking_the_format_never_pays_whatever_the_sign_of_the_weight(weight: float, factor: float) -> None:
    entry = {"name": "repetition", "weight": weight, "gate": "format", "schedule": {0: factor}}
    repeats, varied, broken = compose([entry], CONTEXT)(
        [f"<think>{'a ' * 50}</think><answer>{UP}</answer>", say(UP), "a b c"], **columns(3), step=1
    )
    assert broken <= min(repeats, varied)  # type: ignore[operator, type-var]


def test_a_gate_needs_to_know_what_its_reward_pays_at_least(context: Context) -> None:
    for name in ("mine.py:numbers", "think_format_reward"):
        with pytest.raises(InputError, match=r"give the function an attribute `range = \(low, high\)`"):
            compose([{"name": name, "gate": "format"}], context)
    for timeout in (0, PATIENCE):
        made = compose([{"name": "mine.py:short", "gate": "format", "weight": -1, "timeout": timeout}], context)
        assert made(["x" * 9], **columns()) == [-1.0]
    with pytest.raises(CheckError, match=r"far: leaves its range \(0, 1\)"):
        compose([{"name": "mine.py:far", "gate": "format"}], context)(["x" * 9], **columns())


@pytest.mark.parametrize(("step", "factor"), [(0, 0.0), (100, 0.0), (150, 0.5), (200, 1.0), (500, 1.0)])
def test_a_schedule_is_linear_between_its_points(step: int, factor: float) -> None:
    made = compose([{"name": "accuracy", "schedule": {200: 1.0, 100: 0.0}}], CONTEXT)
    assert made([say(UP)], **columns(), step=step) == [pytest.approx(factor)]
    assert made([say(UP)], **columns(), step=[step]) == [pytest.approx(factor)]
    state = SimpleNamespace(global_step=step - 1)  # of the trainer: steps that are done
    assert made([say(UP)], **columns(), trainer_state=state) == [pytest.approx(factor)]


def test_a_schedule_without_a_step_is_an_error() -> None:
    made = compose([{"name": "accuracy", "schedule": {0: 1.0}}], CONTEXT)
    with pytest.raises(InputError, match="schedule"):
        made([say(UP)], **columns())


def test_a_stored_configuration_has_its_steps_as_text() -> None:
    made = compose([{"name": "accuracy", "schedule": {"0": 0.0, "10": 1.0}}], CONTEXT)
    assert made([say(UP)], **columns(), step=5) == [0.5]


# --- what cannot be judged ------------------------------------------------------------------------------------------


def test_a_part_that_judges_nobody_of_a_group_is_left_out() -> None:
    made = compose(["direction", "format"], CONTEXT)
    cols = {**columns(2), "label": [NONE, NONE], "group": ["g", "g"]}
    assert made([say(NONE), "x"], **cols) == [1.0, 0.0]


def test_a_completion_that_lacks_a_part_its_rivals_have_is_unscorable(context: Context) -> None:
    made = compose([{"name": "mine.py:numbers", "timeout": 0}, "format"], context)
    cols = {**columns(4), "group": ["g", "g", "h", "h"], "values": [None, 0.5, 0.5, float("nan")]}
    assert made([say(UP)] * 4, **cols) == [None, 1.5, 1.5, None]
    alone = {key: value for key, value in cols.items() if key not in ("group", "item_id")}
    assert made([say(UP)] * 4, **alone) == [1.0, 1.5, 1.5, 1.0]


# --- names ----------------------------------------------------------------------------------------------------------


def test_rewards_of_ones_own_get_messages_and_parameters(context: Context) -> None:
    made = compose(["mine.py:short", {"name": "mine.py:Scaled", "parameters": {"by": 3}, "weight": 0.1}], context)
    assert made(["abc", None], **columns(2)) == [pytest.approx(0.25 + 0.3), None]
    assert [one.name for one in made.components] == ["mine.py:short", "mine.py:Scaled"]
    assert compose([{"name": "mine.py:get_short", "timeout": 0}], context)(["abc"], **columns()) == [0.25]


@pytest.mark.parametrize("timeout", [0, PATIENCE])
@pytest.mark.parametrize("kind", [list, np.array, lambda values: pd.Series(values, index=[2, 0, 7])])
def test_columns_of_any_kind_keep_to_their_completions_where_one_failed(
    context: Context, timeout: float, kind: Callable[[list[float]], Any]
) -> None:
    made = compose([{"name": "mine.py:numbers", "timeout": timeout, "schedule": {1: 1.0, 3: 3.0}}], context)
    columns = {"values": kind([0.1, 0.2, 0.3]), "step": kind([1, 2, 3])}
    assert made([None, say(UP), say(DOWN)], **columns) == [None, pytest.approx(0.4), pytest.approx(0.9)]


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ([1, 2], True), ((1, 2), True), (np.ones((2, 3)), True), (pd.Series([1, 2]), True), ([1], False),
        ("ab", False), (b"ab", False), ({"a": 1, "b": 2}, False), (np.array(2), False), (2, False), (None, False),
    ],
)  # fmt: skip
def test_what_holds_a_value_per_completion_is_a_column(value: Any, held: bool) -> None:
    assert is_column(value, 2) is held


def test_a_module_on_the_path_serves_too(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(context.folder)
    (context.folder / "own_rewards.py").write_text(OWN)
    made = compose([{"name": "own_rewards:short", "timeout": 0}], context)
    assert made(["abc"], **columns()) == [0.25]


def test_the_names_of_trl_are_known() -> None:
    import trl.rewards

    assert sorted(TRL_REWARDS) == sorted(name for names in trl.rewards._import_structure.values() for name in names)
    entry = {"name": "get_soft_overlong_punishment", "parameters": {"max_completion_len": 10, "soft_punish_cache": 4}}
    made = compose([{**entry, "timeout": 0}, {"name": "think_format_reward", "timeout": 0}], CONTEXT)
    text = "<think>a</think>b"
    assert made([text, text], **columns(2), completion_ids=[[1] * 8, [1] * 11]) == [0.5, 0.0]


def test_built_in_rewards_are_made_with_what_the_data_knows(context: Context) -> None:
    entries: list[Any] = [
        "balanced_accuracy",
        {"name": "accuracy", "parameters": {"verifier": {"kind": "soft", "table": "gears.parquet"}}},
        {"name": "margin", "parameters": {"verifier": {"kind": "mixed", "table": "neighbours"}}},
        {"name": "direction", "parameters": {"verifier": "hard"}},
        {"name": "length", "parameters": {"low": 1, "high": 2}},
    ]
    scores = compose(entries, context).scores([say(UP)], **columns())
    assert scores["balanced_accuracy"] == [pytest.approx(4 / 3)]
    assert scores["accuracy"] == [0.6]
    assert scores["margin"] == [pytest.approx(0.4)]
    assert scores["direction"] == [1.0]


def test_a_composition_survives_pickling(context: Context) -> None:
    made = compose(["accuracy", {"name": "mine.py:short", "gate": "format"}], context)
    before = made([say(UP)], **columns())
    assert pickle.loads(pickle.dumps(made))([say(UP)], **columns()) == before


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "at least one"),
        ({"accuracy": 1}, "at least one"),
        ([3], "is no reward"),
        ([{"weight": 1.0}], "is no reward"),
        (["acuracy"], "did you mean 'accuracy'"),
        (["think_format_rewards"], "did you mean 'think_format_reward'"),
        (["accuracy", "accuracy"], "'accuracy' is there twice"),
        ([{"name": "accuracy", "wieght": 1}], "did you mean 'weight'"),
        ([{"name": "accuracy", "weight": "high"}], "weight 'high' is no number"),
        ([{"name": "accuracy", "weight": math.inf}], "no number"),
        ([{"name": "accuracy", "weight": True}], "no number"),
        ([{"name": "accuracy", "weight": 0}], "every weight is 0"),
        ([{"name": "accuracy", "timeout": 3}], "no effect on a built-in"),
        ([{"name": "accuracy", "timeout": 3, "gate": "format"}], "no effect on a built-in"),
        ([{"name": "mine.py:short", "timeout": -5}], "timeout -5; use seconds up to"),
        ([{"name": "mine.py:short", "timeout": 1e9}], "timeout 1000000000.0; use seconds up to"),
        ([{"name": "accuracy", "weight": 10**400}], "weight is larger than any float"),
        ([{"name": "accuracy", "gate": 3}], "gate 3"),
        ([{"name": "accuracy", "gate": "margin"}], "pays a right answer other than 1"),
        ([{"name": "accuracy", "gate": "formt"}], "did you mean 'format'"),
        ([{"name": "accuracy", "schedule": [1]}], "is no mapping"),
        ([{"name": "accuracy", "schedule": {-1: 1.0}}], "whole numbers from 0"),
        ([{"name": "accuracy", "schedule": {"soon": 1.0}}], "whole numbers from 0"),
        ([{"name": "accuracy", "schedule": {"²": 1.0}}], "whole numbers from 0"),
        ([{"name": "accuracy", "schedule": {1: "x"}}], "no number"),
        ([{"name": "accuracy", "schedule": {"10": 0.0, 10: 1.0}}], "the step 10 twice"),
        ([{"name": "accuracy", "parameters": [1]}], "no mapping"),
        ([{"name": "accuracy", "parameters": []}], "no mapping"),
        ([{"name": "accuracy", "parameters": 0}], "no mapping"),
        ([{"name": "accuracy", "parameters": {1: 2}}], "no mapping"),
        ([{"name": "accuracy", "parameters": {"verifer": "hard"}}], "did you mean 'verifier'"),
        ([{"name": "format", "parameters": {"x": 1}}], "it takes none"),
        ([{"name": "length"}], "needs the parameter 'low'"),
        ([{"name": "length", "parameters": {"low": 9, "high": 3}}], "1 <= low <= high"),
        ([{"name": "length", "parameters": {"low": 1, "high": 3, "unit": "lines"}}], "use words or tokens"),
        ([{"name": "length", "parameters": {"low": True, "high": 3}}], "use whole numbers"),
        ([{"name": "length", "parameters": {"low": 1, "high": 3.7}}], "use whole numbers"),
        ([{"name": "repetition", "parameters": {"n": 0}}], "use a whole number, at least 1"),
        ([{"name": "repetition", "parameters": {"n": 2.5}}], "use a whole number, at least 1"),
        ([{"name": "repetition", "parameters": {"n": True}}], "use a whole number, at least 1"),
        ([{"name": "confidence", "parameters": {"rule": "crps"}}], "use brier or log"),
        ([{"name": "accuracy", "parameters": {"verifier": "firm"}}], "use hard, soft, mixed"),
        ([{"name": "accuracy", "parameters": {"verifier": {"kind": "soft"}}}], "needs a table"),
        ([{"name": "accuracy", "parameters": {"verifier": {"kind": "hard", "table": "neighbours"}}}], "takes no table"),
        ([{"name": "accuracy", "parameters": {"verifier": {"kind": "soft", "tabel": "x"}}}], "did you mean 'table'"),
        ([{"name": "accuracy", "parameters": {"verifier": {"kind": "soft", "table": "x"}}}], "none of neighbours"),
        ([{"name": "accuracy", "parameters": {"verifier": {"kind": "soft", "table": "x.parquet"}}}], "no such file"),
        ([{"name": "accuracy", "parameters": {"verifier": {"kind": "soft", "table": ["x"]}}}], "none of neighbours"),
        (["mine.py:shrot"], "did you mean 'short'"),
        (["mine.py:constant"], "is int, not a function"),
        (["mine.py:later"], "asynchronous"),
        (["mine.py:Scaled"], "does not take its parameters"),
        ([{"name": "mine.py:short", "parameters": {"by": 1}}], "takes completions and no parameters"),
        (["nowhere.py:short"], "nowhere.py: no such file"),
        (["no_such_module:short"], "cannot be loaded"),
        ([{"name": "mine.py:Scaled", "parameters": {"bye": 1}}], "does not take its parameters"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_remedy(context: Context, entries: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as told:
        compose(entries, context)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("timeout", [60, 0])
def test_an_error_of_a_reward_names_its_line(context: Context, timeout: int) -> None:
    """Also if the error comes up in a library that the reward calls."""
    text = "import json\n\ndef f(completions, **columns):\n    return [json.loads('{') for one in completions]\n"
    (context.folder / "odd.py").write_text(text)
    rewards = compose([{"name": "odd.py:f", "timeout": timeout}], context)
    with pytest.raises(CheckError, match=r"raised JSONDecodeError: .* \(odd\.py, line 4\); correct the function"):
        rewards(["a"])


def test_a_file_that_does_not_load_is_bad_input(context: Context) -> None:
    (context.folder / "broken.py").write_text("import nothing_like_this")
    with pytest.raises(InputError, match=r"broken\.py:f: cannot be loaded \(ModuleNotFoundError"):
        compose(["broken.py:f"], context)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys; sys.exit(3)", r"odd\.py:f: cannot be loaded \(SystemExit: 3 \(odd\.py, line 1\)\)"),
        ("import os; os._exit(3)", r"odd\.py:f: its process died while loading"),
        ("import time; time.sleep(600)", r"odd\.py:f: did not load within 0.5 s"),
        ("raise KeyboardInterrupt", r"odd\.py:f: loading it raised KeyboardInterrupt"),
    ],
)
def test_a_file_is_loaded_in_the_limited_process_and_told_in_one_line(
    context: Context, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    if "sleep" in text:
        monkeypatch.setattr("rewards.timeout._STARTING", 0.5)
    (context.folder / "odd.py").write_text(text)
    with pytest.raises(InputError, match=words) as told:
        compose(["odd.py:f"], context)
    assert "\n" not in str(told.value)


def test_balanced_accuracy_needs_class_counts() -> None:
    with pytest.raises(InputError, match="class counts"):
        compose(["balanced_accuracy"], Context())


# --- rewards that go wrong ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, PATIENCE])
def test_an_exception_is_never_a_score(context: Context, timeout: float) -> None:
    made = compose([{"name": "mine.py:crashes", "timeout": timeout}], context)
    with pytest.raises(CheckError, match=r"mine\.py:crashes|crashes.*ZeroDivisionError"):
        made([say(UP)], **columns())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, 2.0], "2 scores for 1 completions"),
        (3.0, "returned float"),
        (["1.0"], "row 0 has the score '1.0'"),
        (["nan"], "row 0 has the score 'nan'"),
        ([math.inf], "finite"),
        ([[1.0]], "row 0"),
        ([1e308], "32-bit"),
        ([10**400], "32-bit"),
    ],
)
def test_what_is_no_number_is_never_a_score(context: Context, values: Any, words: str) -> None:
    made = compose([{"name": "mine.py:numbers", "timeout": 0}], context)
    with pytest.raises(CheckError, match=words):
        made([say(UP)], **columns(), values=values)


def test_a_sum_that_no_32_bit_float_holds_is_an_error(context: Context) -> None:
    made = compose([{"name": "mine.py:numbers", "timeout": 0, "weight": 1e30}], context)
    with pytest.raises(CheckError, match="row 1: the weighted sum 1e\\+40 is too large"):
        made([say(UP)] * 2, **columns(2), values=[0.0, 1e10])


def test_a_reward_that_hangs_is_cut_off_and_unscorable_and_the_next_batch_is_scored_anew(context: Context) -> None:
    made = compose([{"name": "mine.py:hangs", "timeout": 0.5}, "format"], context)
    for _ in range(2):
        assert made.scores([say(UP), say(UP)], **columns(2)) == {"mine.py:hangs": [None, None], "format": [1.0, 1.0]}
    assert made.components[0].reward.cut_off == made.components[0].cut_off == 4


def test_a_gate_that_hangs_is_cut_off_and_counted_even_on_a_built_in_reward(context: Context) -> None:
    made = compose([{"name": "accuracy", "gate": "mine.py:hangs", "timeout": 0.5}], context)
    assert made.scores([say(UP), say(UP)], **columns(2)) == {"accuracy": [None, None]}
    assert made.components[0].cut_off == 2


def is_running(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_written(file: Path) -> bool:
    return file.is_file() and file.read_text() != ""


STARTS = """
import subprocess
from pathlib import Path

def waits(completions, **columns):
    child = subprocess.Popen(["sleep", "600"])
    Path(__file__).with_name("child").write_text(str(child.pid))
    child.wait()
"""


def test_what_a_reward_has_started_ends_when_it_is_cut_off(context: Context) -> None:
    (context.folder / "starts.py").write_text(STARTS)
    child = context.folder / "child"
    for seconds in (1, 10, 100, PATIENCE):  # a slow machine has not started it within the first
        made = compose([{"name": "starts.py:waits", "timeout": seconds}], context)
        assert made.scores([say(UP)], **columns()) == {"starts.py:waits": [None]}
        if is_written(child):
            break
    process = int(child.read_text())
    wait_for(lambda: not is_running(process))


# What holds the interpreter's lock lets no other thread of its process run.
HOLDS = """
import os, re
from pathlib import Path

def waits(completions, **columns):
    Path(__file__).with_name("child").write_text(str(os.getpid()))
    re.match("(a+)+$", "a" * 60 + "b")
"""


@pytest.mark.parametrize("text", [STARTS, HOLDS], ids=["starts", "holds"])
def test_a_hanging_reward_and_what_it_has_started_end_when_the_trainer_is_killed(context: Context, text: str) -> None:
    (context.folder / "starts.py").write_text(text)
    trainer = subprocess.Popen(
        [sys.executable, "-c", "from rewards import Context, compose\n"
         "compose([{'name': 'starts.py:waits', 'timeout': 3600}], Context())(['a'])"],
        cwd=context.folder, env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )  # fmt: skip
    child = context.folder / "child"
    wait_for(lambda: is_written(child) or trainer.poll() is not None)
    process = int(child.read_text())
    group = [leader := psutil.Process(os.getsid(process)), *leader.children(recursive=True)]
    trainer.kill()
    trainer.wait()
    assert process in [one.pid for one in group]
    for one in group:
        wait_for(lambda pid=one.pid: not is_running(pid))


def test_a_process_ends_with_its_composition(context: Context) -> None:
    (context.folder / "own.py").write_text(
        "import os\n\ndef process(completions, **columns):\n    return [float(os.getpid())]\n"
    )
    made = compose(["own.py:process"], context)
    ((process,),) = made.scores(["a"]).values()
    assert process != os.getpid()
    del made
    gc.collect()
    wait_for(lambda: not is_running(int(process or 0)))


def test_threads_share_a_process_without_mixing_their_scores(context: Context) -> None:
    made = compose(["mine.py:numbers"], context)

    def score(value: float) -> Any:
        return made([say(UP)], **columns(), values=[value])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(score, [at / 7 for at in range(60)])) == [[at / 7] for at in range(60)]


# It says that it has begun, and scores what is worth 1 or more only once it may.
HELD = """
import time
from pathlib import Path

def held(completions, values, **columns):
    Path(__file__).with_name("begun").touch()
    while values[0] >= 1 and not Path(__file__).with_name("free").exists():
        time.sleep(0.01)
    return values
"""


def test_an_interrupted_batch_leaves_no_answer_for_the_next(context: Context) -> None:
    (context.folder / "held.py").write_text(HELD)
    made = compose([{"name": "held.py:held", "timeout": PATIENCE}], context)
    main = threading.get_ident()

    def interrupt() -> None:
        wait_for((context.folder / "begun").exists)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        made([say(UP)], **columns(), values=[1.5])
    (context.folder / "free").touch()  # what still waits would answer now
    assert made([say(UP)], **columns(), values=[0.25]) == [0.25]


def in_a_fork(work: Callable[[], object], *, daemon: bool) -> Any:
    """What `work` returns, or the error that it raises as text, in a forked process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def tell() -> None:
        try:
            theirs.send(work())
        except Exception as error:
            theirs.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=tell, daemon=daemon)
    process.start()
    try:
        assert ours.poll(PATIENCE), "the fork hangs"
        return ours.recv()
    finally:
        process.terminate()
        process.join()


def test_a_fork_starts_a_process_of_its_own(context: Context) -> None:
    (context.folder / "held.py").write_text(HELD)
    made = compose([{"name": "held.py:held", "timeout": PATIENCE}], context)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(made, [say(UP)], **columns(), values=[2.0])
        wait_for((context.folder / "begun").exists)
        try:
            assert in_a_fork(lambda: made([say(UP)], **columns(), values=[0.1]), daemon=False) == [0.1]
        finally:
            (context.folder / "free").touch()
        assert busy.result() == [2.0]


def test_a_daemonic_worker_is_told_that_it_cannot_have_a_time_limit(context: Context) -> None:
    made = compose(["mine.py:short"], context)
    said = in_a_fork(lambda: made([say(UP)], **columns()), daemon=True)
    assert said.startswith("InputError: short: ") and "timeout: 0" in said and "\n" not in said


def test_a_process_that_ends_by_itself_is_an_error(context: Context) -> None:
    with pytest.raises(CheckError, match="died"):
        compose(["mine.py:exits"], context)([say(UP)], **columns())


# --- notes ----------------------------------------------------------------------------------------------------------


def test_the_effect_of_weights_is_said() -> None:
    one = compose([{"name": "accuracy", "weight": 3.0}], CONTEXT)
    assert any("its weight does nothing" in note for note in weight_notes(one, scale_rewards="group"))
    assert weight_notes(one, scale_rewards="none") == []
    two = compose([{"name": "accuracy", "weight": 3.0}, {"name": "format", "weight": 0}], CONTEXT)
    notes = weight_notes(two, scale_rewards="group")
    assert any("ratios" in note for note in notes) and any("format: has weight 0" in note for note in notes)


def test_every_built_in_name_is_that_of_its_reward() -> None:
    for name, made in BUILT_IN.items():
        assert made.__dict__["__name__"] == name


def test_a_file_may_import_what_stands_beside_it(context: Context) -> None:
    (context.folder / "beside_own_reward.py").write_text("VALUE = 0.25\n")
    (context.folder / "uses.py").write_text(
        "from beside_own_reward import VALUE\n\ndef f(completions, **columns):\n    return [VALUE] * len(completions)\n"
    )
    assert compose(["uses.py:f"], context)(["a"], **columns()) == [0.25]


# --- what TRL's scaling and the prompts do to a composition ---------------------------------------------------------


@pytest.mark.parametrize("scale", ["bananas", "Group", "False", 1.5, None])
def test_a_scaling_that_trl_would_refuse_at_the_first_step_is_refused_at_once(scale: Any) -> None:
    with pytest.raises(InputError, match=r"c.yaml: scale_rewards: .* is unknown; use group, batch, none"):
        check_scaling(scale, "c.yaml")
    for known in ("group", "batch", "none", True, False):
        check_scaling(known, "c.yaml")


def test_a_confidence_is_noted_unless_the_prompt_asks_for_it() -> None:
    composition = compose(["confidence", "format"], CONTEXT)
    (note,) = prompt_notes(composition, "Answer with a label.")
    assert note.startswith("confidence: the prompts do not ask")
    assert prompt_notes(composition, "Answer LABEL <confidence>P</confidence>.") == []


MUTATE = """
def mutate(completions, prompts=(), **columns):
    for message in completions:
        message[-1]["content"] = "<think>x</think><answer>upregulated</answer>"
        message.append({"role": "user", "content": "more"})
    for prompt in prompts:
        prompt.clear()
    for values in columns.values():
        if isinstance(values, list):
            values.clear()
    return [0.0] * len(completions)
"""


@pytest.mark.parametrize("timeout", [0, 60])
def test_what_a_reward_does_to_its_arguments_stays_with_it(tmp_path: Path, timeout: float) -> None:
    (tmp_path / "m.py").write_text(MUTATE)
    entries = [{"name": "m.py:mutate", "timeout": timeout}, "accuracy"]
    composition = compose(entries, Context(folder=tmp_path))
    wrong = "<think>x</think><answer>downregulated</answer>"
    for completion in (wrong, [{"role": "assistant", "content": wrong}]):
        prompts, labels, pairs = [[{"role": "user", "content": "q"}]], ["upregulated"], [(1, [2])]
        scores = composition.scores([completion], label=labels, prompts=prompts, pairs=pairs)
        assert scores["accuracy"] == [0.0]
        assert (prompts, labels, pairs) == ([[{"role": "user", "content": "q"}]], ["upregulated"], [(1, [2])])
    assert completion == [{"role": "assistant", "content": wrong}]
