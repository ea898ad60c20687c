"""Rollouts on disk: whole files, read back as written, dropped after a checkpoint, refused where they are broken."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rewards import InputError
from rl.rollout_files import FOLDER, drop_rollouts_after, read_rollouts, stored_components, write_rollouts


def columns(step: int, **changed: Any) -> dict[str, list[Any]]:
    values = {
        "step": [step] * 2, "group": [f"{step}.0"] * 2, "item_id": ["k562|A|B"] * 2, "cell_line": ["k562"] * 2,
        "pert": ["A"] * 2, "gene": ["B"] * 2, "label": ["upregulated"] * 2, "prompt": ["p"] * 2,
        "completion": ["<think>ü</think>", None], "answer": [None, None], "status": ["malformed", "error"],
        "completion_tokens": [3, 0], "reward/accuracy": [0.0, None], "total_reward": [0.0, None],
        "advantage": [0.0, 0.0],
    }  # fmt: skip
    return {**values, **changed}


def test_batches_are_read_back_in_order(tmp_path: Path) -> None:
    for step in (10, 2):
        write_rollouts(tmp_path, step, 0, 0, columns(step), ["accuracy"])
    write_rollouts(tmp_path, 2, 1, 0, columns(2, group=["2.1"] * 2), ["accuracy"])
    frame = read_rollouts(tmp_path)
    assert frame["step"].tolist() == [2, 2, 2, 2, 10, 10]
    assert frame["completion"].tolist() == ["<think>ü</think>", None] * 3
    assert stored_components(frame) == ["accuracy"]
    assert frame["reward/accuracy"].isna().tolist() == [False, True] * 3
    assert read_rollouts(tmp_path / FOLDER).equals(frame)
    assert not list((tmp_path / FOLDER).glob("*.partial"))


def test_later_steps_and_halves_of_files_are_dropped(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_rollouts(tmp_path, step, 0, 0, columns(step), ["accuracy"])
    (tmp_path / FOLDER / "step-0000001-0-rank0.partial").write_text("half")
    copy = tmp_path / FOLDER / "step-0000009-0-rank0 copy.parquet"  # of a user; it is nobody else's to remove, nor read
    copy.write_text("kept")
    drop_rollouts_after(tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == [
        "step-0000001-0-rank0.parquet", "step-0000002-0-rank0.parquet", copy.name,
    ]  # fmt: skip
    assert set(read_rollouts(tmp_path)["step"]) == {1, 2}
    drop_rollouts_after(tmp_path / "none", 0)


def test_a_file_of_ones_own_needs_items_labels_and_completions_only(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    keep = ["item_id", "cell_line", "pert", "gene", "label", "completion"]
    pd.DataFrame(columns(1))[keep].to_parquet(path)
    frame = read_rollouts(path)
    assert frame["group"].tolist() == ["k562|A|B"] * 2
    assert frame["step"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"label": ["up", "up"]}, "row 0: label: 'up' is no label"),
        ({"status": ["fine", "error"]}, "row 0: status: 'fine' is no status"),
        ({"item_id": ["a", None]}, "row 1: item_id: None is no name"),
        ({"item_id": [7, 8]}, "row 0: item_id: 7 is no name"),
        ({"gene": ["B", ""]}, "row 1: gene: '' is no name"),
        ({"completion": [5, 6]}, "row 0: completion: 5 is no text"),
        ({"completion": [[{"role": "assistant", "content": "x"}]] * 2}, "row 0: completion: .*for messages"),
        ({"prompt": ["p", None]}, "row 1: prompt: None is no text"),
        ({"step": [1, None]}, "row 1: step: None is no whole number"),
        ({"step": ["a", "b"]}, "row 0: step: 'a' is no whole number"),
        ({"step": [1.0, 1.5]}, "row 1: step: 1.5 is no whole number"),
        ({"completion_tokens": ["many", "few"]}, "row 0: completion_tokens: 'many' is no whole number"),
        ({"completion_ids": [3, 4]}, "row 0: completion_ids: 3 is no list of token ids"),
        ({"reward/accuracy": [float("inf"), None]}, "row 0: reward/accuracy: inf is no finite number"),
        ({"total_reward": ["x", "y"]}, "row 0: total_reward: 'x' is no finite number"),
    ],
)
def test_wrong_values_are_refused_by_file_row_and_column(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    pd.DataFrame({**columns(1), **changed}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=f"x.parquet, {words}"):
        read_rollouts(tmp_path / "x.parquet")


def test_of_several_files_the_one_with_the_wrong_row_is_named(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        path = write_rollouts(tmp_path, step, 0, 0, columns(step), ["accuracy"])
    pd.DataFrame(columns(3, gene=["B", None])).to_parquet(path)
    with pytest.raises(InputError, match=f"{path.name}, row 1: gene: None is no name"):
        read_rollouts(tmp_path)


def test_rows_without_a_group_are_grouped_by_their_items(tmp_path: Path) -> None:
    pd.DataFrame(columns(1, item_id=["a", "b"], group=[None, None])).to_parquet(tmp_path / "x.parquet")
    assert read_rollouts(tmp_path)["group"].tolist() == ["a", "b"]
    pd.DataFrame(columns(1, item_id=["a", "b"], group=["g", None])).to_parquet(tmp_path / "x.parquet")
    assert read_rollouts(tmp_path)["group"].tolist() == ["g", "b"]


def test_a_generation_that_failed_has_no_completion(tmp_path: Path) -> None:
    changed = columns(1, completion=["<think>half", "whole"], status=["error", "malformed"], prompt=[None, None])
    pd.DataFrame(changed).to_parquet(tmp_path / "x.parquet")
    frame = read_rollouts(tmp_path)
    assert frame["completion"].tolist() == [None, "whole"]
    assert "prompt" not in frame


def test_what_holds_no_rollouts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_rollouts(tmp_path / "none")
    with pytest.raises(InputError, match="no Parquet files"):
        read_rollouts(tmp_path)
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(InputError, match="not a Parquet file"):
        read_rollouts(tmp_path)
    pd.DataFrame(columns(1)).drop(columns="gene").to_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no column 'gene'"):
        read_rollouts(tmp_path)
    pd.DataFrame(columns(1)).head(0).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="has no rows"):
        read_rollouts(tmp_path)


def test_groups_that_are_numbered_anew_at_each_step_are_told_apart(tmp_path: Path) -> None:
    rows = [columns(step, group=[0, 0], item_id=[f"k562|A|{step}"] * 2) for step in (1, 2)]
    pd.concat([pd.DataFrame(one) for one in rows]).to_parquet(tmp_path / "own.parquet")
    assert read_rollouts(tmp_path / "own.parquet")["group"].tolist() == ["1.0", "1.0", "2.0", "2.0"]


@pytest.mark.parametrize("with_step", [True, False])
def test_a_group_of_two_items_is_refused(tmp_path: Path, with_step: bool) -> None:
    frame = pd.DataFrame(columns(1, group=[0, 0], item_id=["k562|A|B", "k562|A|C"]))
    (frame if with_step else frame.drop(columns="step")).to_parquet(tmp_path / "own.parquet")
    with pytest.raises(
        InputError, match=r"own\.parquet, row 1: group: 0 of step \d holds two items, k562\|A\|B and k562\|A\|C"
    ):
        read_rollouts(tmp_path / "own.parquet")
