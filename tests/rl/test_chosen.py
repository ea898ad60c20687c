"""Prompts chosen before GRPO: what is written is read again, and refused for another policy, prompt or split."""

import json
from pathlib import Path
from typing import Any

import pytest

from rewards import InputError
from rl.chosen import check_chosen, check_target, facts_path, read_chosen, write_chosen

FACTS = {"sft_adapter_sha256": "abc", "split": "official", "evidence": 5}
SAMPLING = {"temperature": 1.0, "rewards": ["accuracy"]}


@pytest.fixture
def chosen(tmp_path: Path) -> Path:
    rows = [{"item_id": name, "samples": 8, "pass_rate": 0.5} for name in ("rpe1|A|B", "k562|C|D")]
    write_chosen(tmp_path / "chosen.csv", rows, {**FACTS, **SAMPLING, "samples": 8})
    return tmp_path / "chosen.csv"


def test_what_is_written_is_read_again(chosen: Path) -> None:
    assert read_chosen(chosen) == ["rpe1|A|B", "k562|C|D"]
    assert chosen.read_text().splitlines()[0] == "item_id,samples,pass_rate"
    check_chosen(chosen, FACTS, SAMPLING)


@pytest.mark.parametrize("key", FACTS)
def test_another_policy_prompt_or_split_is_refused_by_name(chosen: Path, key: str) -> None:
    with pytest.raises(InputError, match=f"chosen with {key}: .*, but this run has 'other'"):
        check_chosen(chosen, {**FACTS, key: "other"}, SAMPLING)


def test_another_temperature_is_told(chosen: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_chosen(chosen, FACTS, SAMPLING)
    assert not caplog.records
    check_chosen(chosen, FACTS, {**SAMPLING, "temperature": 0.7})
    assert "other values of temperature, so its pass rates may differ" in caplog.text


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_without_its_facts_a_choice_is_refused(chosen: Path, text: str | None) -> None:
    facts_path(chosen).unlink()
    if text is not None:
        facts_path(chosen).write_text(text)
    with pytest.raises(InputError, match="nobody knows whom"):
        check_chosen(chosen, FACTS, SAMPLING)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train_on: .*none.csv: no such file"):
        check_chosen(tmp_path / "none.csv", FACTS, SAMPLING)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id\nrpe1|A|B\n", "no column 'item_id'"),
        ("item_id\n", "has no rows"),
        ("item_id\nrpe1|A|B\nrpe1|A|B\n", "row 3: its item_id occurs twice"),
    ],
)
def test_a_file_that_lists_no_prompts_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "chosen.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        read_chosen(tmp_path / "chosen.csv")


@pytest.mark.parametrize(
    ("name", "words"), [("new.parquet", "name of a .csv file"), ("chosen.csv", "exists; remove it")]
)
def test_only_a_new_csv_file_is_written(chosen: Path, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_target(chosen.with_name(name))
    check_target(chosen.with_name("new.csv"))


def test_facts_that_were_left_alone_are_not_overwritten(chosen: Path) -> None:
    chosen.unlink()
    with pytest.raises(InputError, match="exists; remove it"):
        check_target(chosen)


def test_facts_are_json_beside_the_file(chosen: Path) -> None:
    facts: dict[str, Any] = json.loads((chosen.parent / "chosen.csv.json").read_text())
    assert facts["rewards"] == ["accuracy"]
