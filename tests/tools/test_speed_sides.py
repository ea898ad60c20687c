"""What the speed scripts share: a process for each side, turns, and medians of ratios."""

import sys
from pathlib import Path

import pytest

from tools.speed import sides
from tools.speed.sides import compared, did_job, in_turn, run_apart

SCRIPT = """
import sys
from tools.speed.sides import did_job
assert did_job(lambda number: {"twice": 2 * number})
"""


def test_a_job_runs_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_script.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    assert run_apart("a_script", number=21) == {"twice": 42}
    with pytest.raises(SystemExit, match="unexpected keyword argument 'digit'"):
        run_apart("a_script", digit=1)


def test_a_script_that_was_not_started_for_a_job_does_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--rounds", "2"])
    assert not did_job(lambda: pytest.fail("there is no job"))


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> str:
        order.append(name)
        return name

    assert in_turn({"a": lambda: side("a"), "b": lambda: side("b")}, 2) == {"a": ["a", "a"], "b": ["b", "b"]}
    assert order == ["a", "b", "a", "b"]


def test_the_ratio_is_the_median_over_rounds() -> None:
    ours = [{"seconds": seconds, "memory_gib": 1.0} for seconds in (1.0, 2.0, 10.0)]
    other = [{"seconds": seconds, "memory_gib": memory} for seconds, memory in ((3.0, 2.0), (8.0, 3.0), (20.0, 1.0))]
    row = compared(ours, other)
    assert row == {"ours_s": 2.0, "other_s": 8.0, "ratio": 3.0, "ours_gib": 1.0, "other_gib": 3.0}
    sides.show({"name": "a case", **row})
