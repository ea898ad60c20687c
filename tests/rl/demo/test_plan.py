"""The demo's size: as large as the minutes allow, never below what teaches the model to answer."""

from dataclasses import astuple, replace
from itertools import pairwise
from pathlib import Path

import pytest

import rl.demo.run as demo
from rewards import InputError
from rl.demo.plan import (
    ALL_ITEMS,
    FIXED_BY,
    FLOOR,
    FULL,
    SIZES,
    STAGES,
    Size,
    describe_plan,
    fit,
    predict,
    scaled,
    size_at,
)
from rl.demo.rates import Rates
from rl.demo.run import Planner, _read_plan, run_demo

# What was measured on two cores with AVX2 alone, and on two with AVX512-BF16.
SLOW = Rates("float32", 2, 10.0, 150.0, 30.0, 48.0)
FAST = Rates("bfloat16", 2, 4.0, 1550.0, 136.0, 490.0)


def total(size: Size, rates: Rates) -> float:
    return sum(predict(size, rates).values())


def test_sizes_grow_from_the_floor_to_full_size() -> None:
    sizes = [size_at(rank) for rank in range(SIZES)]
    assert (sizes[0], sizes[-1]) == (FLOOR, FULL)
    for smaller, larger in pairwise(sizes):
        grown = replace(larger, items=larger.items or ALL_ITEMS)
        assert all(few <= many for few, many in zip(astuple(smaller), astuple(grown), strict=True))
        assert smaller.test_items < larger.test_items
        assert total(smaller, SLOW) < total(larger, SLOW)
    for size in sizes:
        assert size.traces // size.batch >= 24, "fewer steps do not teach the model to answer"
        assert size.completions % 8 == 0
        assert size.base_items <= (size.items or 76), "the base model is asked items that the others are asked"


def test_a_fast_machine_runs_at_full_size_and_a_slow_one_within_its_time() -> None:
    assert fit(FAST, 1200, STAGES, (), None) == FULL
    for minutes in (20, 30, 45, 60):
        size = fit(SLOW, minutes * 60, STAGES, (), None)
        assert size != FULL
        assert total(size, SLOW) <= minutes * 60
    assert fit(SLOW, 10**6, STAGES, (), None) == FULL


def test_where_nothing_fits_the_floor_runs() -> None:
    assert fit(SLOW, 60, STAGES, (), None) == FLOOR
    assert fit(SLOW, -5, STAGES, (), None) == FLOOR


def test_what_was_begun_stays_as_it_was() -> None:
    begun = ("base", "SFT", "evaluation of SFT")
    size = fit(FAST, 1200, ("GRPO", "evaluation of SFT+GRPO", "report"), begun, FLOOR)
    fixed = {key for stage in begun for key in FIXED_BY[stage]}
    assert all(getattr(size, key) == getattr(FLOOR, key) for key in fixed)
    assert (size.steps, size.completions) == (FULL.steps, FULL.completions)


def test_the_plan_says_what_was_scaled_and_how_long_each_stage_takes() -> None:
    lines = describe_plan(FLOOR, predict(FLOOR, SLOW), STAGES)
    assert len(lines) == len(STAGES) + 1
    assert "48 traces, 2 a step" in lines[1]
    assert "scaled down to this machine: 48 of 192 traces, 60 of 310 test items" in lines[-1]
    assert scaled(FULL) == ""
    assert "scaled" not in describe_plan(FULL, predict(FULL, FAST), STAGES)[-1]


def test_a_plan_is_made_anew_by_how_long_the_stages_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "measure_rates", lambda model: SLOW)
    now = [1000.0]
    monkeypatch.setattr(demo.time, "monotonic", lambda: now[0])
    said: list[str] = []
    planner = Planner(tmp_path, tmp_path, 0, 40, said.append)
    first = planner.size_for("base")
    assert first == fit(SLOW, 2400, STAGES, (), None) == _read_plan(tmp_path, tmp_path, 0)[0]
    told = len(said)
    took = 3 * predict(first, SLOW)["base"]  # a third as fast as was measured
    now[0] += took
    planner.record("base", took)
    monkeypatch.setattr(demo, "_has_begun", lambda out, stage: stage == "base")
    second = planner.size_for("SFT")
    assert second.base_items == first.base_items
    assert second.traces < first.traces
    assert any("have passed" in line for line in said[told:])
    assert planner.size_for("report") == second


def test_a_machine_below_the_floor_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "measure_rates", lambda model: replace(SLOW, learn=5.0))
    said: list[str] = []
    planner = Planner(tmp_path, tmp_path, 0, 20, said.append)
    assert planner.size_for("base") == FLOOR
    assert "longer than the time asked for" in said[-1]


def test_bad_minutes_and_a_broken_plan_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--minutes: 0 is no time; give a number above 0"):
        run_demo(tmp_path, tmp_path, 0, print, minutes=0)
    (tmp_path / demo.PLAN).write_text('{"size": {"traces": 3}}')
    with pytest.raises(InputError, match=r"plan\.json: is no plan"):
        run_demo(tmp_path, tmp_path, 0, print)


def test_a_demo_of_another_seed_model_or_version_is_not_taken_for_this_one(tmp_path: Path) -> None:
    Planner(tmp_path, Path("models/a"), 0, 20, print, FLOOR).size_for("base")
    assert _read_plan(tmp_path, Path("models/a"), 0) == (FLOOR, {}, None)
    with pytest.raises(InputError, match="holds a demo with seed 0, not 1"):
        run_demo(tmp_path, Path("models/a"), 1, print)
    with pytest.raises(InputError, match="holds a demo with model models/a, not models/b"):
        run_demo(tmp_path, Path("models/b"), 0, print)
    (tmp_path / demo.PLAN).unlink()
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "manifest.json").write_text('{"status": "done"}')
    with pytest.raises(InputError, match=r"holds a demo without a plan\.json; give another folder with --out"):
        run_demo(tmp_path, Path("models/a"), 0, print)
