"""What a reward returned is held against the contract, in a process of its own as in the trainer."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rewards import CheckError, InputError, accuracy
from rewards.answer import Status, parse_answer
from rewards.compose import Context, compose

NONE = "not differentially expressed"
RIGHT = "<think>a</think><answer>upregulated</answer>"


def score(tmp_path: Path, body: str, timeout: float, n: int = 2) -> list[float | None]:
    (tmp_path / "mine.py").write_text(f"import numpy as np\nimport multiprocessing as mp\n{body}\n")
    entry = {"name": "mine.py:reward", "timeout": timeout}
    composition = compose([entry], Context(folder=tmp_path))
    return composition.components[0](completions=[RIGHT] * n, label=["upregulated"] * n)


@pytest.mark.parametrize("timeout", [30, 0], ids=["own process", "trainer's"])
@pytest.mark.parametrize(
    "returned",
    [
        "{0: 1.0, 1: 0.5}",
        "{1.0, 0.5}",
        "'11'",
        "(one for one in (1.0, 0.5))",
        "None",
        "1.0",
        "np.ones((2, 2))",
        "dict.fromkeys(range(2), 0.5).items()",
    ],
)
def test_what_is_no_list_of_scores_is_refused(tmp_path: Path, timeout: float, returned: str) -> None:
    with pytest.raises(CheckError, match=r"returned .* for 2 completions; return a list of one score per completion"):
        score(tmp_path, f"def reward(completions, **columns): return {returned}", timeout)


@pytest.mark.parametrize("timeout", [30, 0], ids=["own process", "trainer's"])
@pytest.mark.parametrize("returned", ["[1, None]", "(np.float32(1), None)", "np.array([1.0, np.nan])"])
def test_lists_and_arrays_of_scores_are_taken(tmp_path: Path, timeout: float, returned: str) -> None:
    assert score(tmp_path, f"def reward(completions, **columns): return {returned}", timeout) == [1.0, None]


@pytest.mark.parametrize(
    "body",
    [
        "def reward(completions, **columns):\n    with mp.Pool(1) as pool: return pool.map(float, [1, 1])",
        "def reward(completions, **columns):\n    one = mp.Process(target=float); one.start(); return [1.0, 1.0]",
        "from concurrent.futures import ProcessPoolExecutor\n"
        "def reward(completions, **columns):\n    return list(ProcessPoolExecutor(1).map(float, [1, 1]))",
    ],
)
def test_a_reward_that_starts_processes_is_told_of_timeout_0(tmp_path: Path, body: str) -> None:
    with pytest.raises(CheckError, match="timeout: 0"):
        score(tmp_path, body, 30)


def test_a_reward_that_starts_processes_as_it_loads_is_told_of_timeout_0(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="timeout: 0"):
        score(tmp_path, "mp.Process(target=float).start()\ndef reward(completions, **columns): return [1.0]", 30)


@pytest.mark.parametrize("missing", [None, float("nan"), np.nan, pd.NA, pd.NaT])
def test_a_missing_completion_is_unscorable(missing: object) -> None:
    frame = pd.DataFrame({"completion": [RIGHT, missing, RIGHT]}, dtype=object)
    assert accuracy(frame["completion"], ["upregulated", "upregulated", NONE]) == [1.0, None, 0.0]
    assert accuracy([[{"role": "assistant", "content": missing}]], ["upregulated"]) == [None]
    assert parse_answer(missing).status is Status.ERROR  # type: ignore[arg-type]


def test_a_missing_completion_of_a_text_column() -> None:
    frame = pd.DataFrame({"completion": pd.array([RIGHT, None], dtype="str")})
    assert accuracy(frame["completion"], ["upregulated", "upregulated"]) == [1.0, None]


def test_messages_in_an_array_as_parquet_gives_them() -> None:
    message = {"role": "assistant", "content": RIGHT}
    assert accuracy([np.array([message, message], dtype=object)], ["upregulated"]) == [1.0]


@pytest.mark.parametrize(
    "answer",
    ["Upregulated", " UPREGULATED ", "\nupRegulated\t", "Upregulated <confidence>0.8</confidence>"],
)
def test_letter_case_and_white_space_around_are_no_part_of_an_answer(answer: str) -> None:
    found = parse_answer(f"<think>a</think><answer>{answer}</answer>")
    assert (found.label, found.status) == ("upregulated", Status.ANSWERED)
    none = parse_answer("<think>a</think><answer>Not Differentially Expressed</answer>")
    assert none.label == NONE


@pytest.mark.parametrize(
    "answer", ["upregulated.", "(upregulated)", "**upregulated**", "it is upregulated", "\u017fupregulated",
               "not differentially expre\u017fsed", "not  differentially expressed", "up regulated", ""]
)  # fmt: skip
def test_anything_else_is_for_the_lenient_parser(answer: str) -> None:
    assert parse_answer(f"<think>a</think><answer>{answer}</answer>").status is Status.MALFORMED


def test_tags_are_as_they_were() -> None:
    assert parse_answer("<Think>a</Think><Answer>upregulated</Answer>").label is None
