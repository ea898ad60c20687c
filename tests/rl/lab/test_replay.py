"""Replay: what rewards would have paid, by hand-made rollouts whose numbers are known."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from without_clock import PATIENCE

from rewards import LABELS, Component, Composition, Context, InputError, compose
from rl.lab.page import write_replay
from rl.lab.replay import (
    Replayed,
    as_trained,
    correlation,
    replay,
    summarize_replay,
    within_correlation,
    zero_variance,
)
from rl.rollout_files import ITEM

UP, DOWN, NONE = map(str, LABELS)


def say(answer: str, think: str = "because") -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


def rollouts(**changed: Any) -> pd.DataFrame:
    """Two groups of three: one mixed, one all right; labels up and down."""
    frame = pd.DataFrame(
        {
            "step": [1, 1, 1, 2, 2, 2], "group": ["a", "a", "a", "b", "b", "b"],
            "item_id": ["i"] * 3 + ["j"] * 3, "cell_line": ["k562"] * 3 + ["rpe1"] * 3, "pert": "P", "gene": "G",
            "label": [UP] * 3 + [DOWN] * 3, "prompt": "p",
            "completion": [say(UP), say(DOWN), "x", say(DOWN), say(DOWN), say(DOWN)],
            "completion_tokens": [4, 6, 2, 5, 5, 5],
            "reward/accuracy": [1.0, 0.0, 0.0, 1.0, 1.0, 1.0], "total_reward": [1.0, 0.0, 0.0, 1.0, 1.0, 1.0],
            "advantage": [1.0, -0.5, -0.5, 0.0, 0.0, 0.0],
        }
    )  # fmt: skip
    return frame.assign(**changed)


RATES = pd.DataFrame({"item_id": ["i", "j"], "p_up": [0.2, 0.1], "p_down": [0.3, 0.1], "p_none": [0.5, 0.8]})


def test_a_replay_pays_what_the_rewards_pay() -> None:
    frame = rollouts()
    composition = compose([{"name": "accuracy", "weight": 2.0}, "format"], Context())
    replayed = replay(frame, composition, "c")
    assert replayed.total_N.tolist() == [3.0, 1.0, 0.0, 3.0, 3.0, 3.0]
    assert replayed.parts["accuracy"].tolist() == as_trained(frame).parts["accuracy"].tolist()  # type: ignore[union-attr]


def spy(seen: list[dict[str, Any]]) -> Composition:
    """A foreign reward that keeps what it is given."""

    def reward(completions: Any, **columns: Any) -> list[float]:
        seen.append({"completions": completions, **columns})
        return [1.0] * len(completions)

    return Composition((Component("spy", reward, ours=False),))


def test_chunks_never_cut_a_group_and_hold_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.lab.replay.CHUNK", 2)
    seen: list[dict[str, Any]] = []
    replay(rollouts(), spy(seen), "c")
    assert [one["item_id"] for one in seen] == [["i"] * 3, ["j"] * 3]
    seen.clear()
    replay(rollouts(step=[2, 1, 2, 1, 1, 1]), spy(seen), "c")
    assert [(one["step"], one["item_id"]) for one in seen] == [(1, ["i", "j", "j", "j"]), (2, ["i", "i"])]


def test_scores_return_to_their_rows_when_steps_alternate() -> None:
    frame = rollouts(step=[2, 1, 2, 1, 2, 1])
    assert replay(frame, compose(["accuracy"], Context()), "c").total_N.tolist() == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_a_reward_of_ones_own_gets_what_training_gives_it() -> None:
    seen: list[dict[str, Any]] = []
    replayed = replay(rollouts(extra=1.0), spy(seen), "c")
    assert [type(one["step"]) for one in seen] == [int, int]
    assert set(seen[0]) == {"completions", "prompts", "completion_ids", "step", *ITEM}
    assert seen[0]["prompts"] == [[{"role": "user", "content": "p"}]] * 3
    assert seen[0]["completions"][0] == [{"role": "assistant", "content": say(UP)}]
    assert [len(ids) for ids in seen[0]["completion_ids"]] == [4, 6, 2]  # as many as the tokens stored
    assert any("estimated" in note for note in replayed.notes)


@pytest.mark.parametrize("ours", [["accuracy"], [{"name": "length", "parameters": {"low": 1, "high": 9}}]])
def test_token_ids_are_not_estimated_where_nothing_looks_at_them(ours: list[Any]) -> None:
    assert replay(rollouts(), compose(ours, Context()), "c").notes == ()


def test_token_ids_are_those_stored_or_without_a_stored_number_pieces_of_words() -> None:
    seen: list[dict[str, Any]] = []
    frame = rollouts().drop(columns="completion_tokens")
    replay(frame, spy(seen), "c")
    assert len(seen[0]["completion_ids"][0]) > len(seen[0]["completion_ids"][2]) == 1
    frame["completion_ids"] = [[7, 8]] * 6
    assert replay(frame, spy(seen), "c").notes == ()
    assert seen[-1]["completion_ids"] == [[7, 8]] * 3


@pytest.mark.parametrize("timeout", [0, PATIENCE])
def test_a_missing_prompt_column_is_named(tmp_path: Path, timeout: float) -> None:
    (tmp_path / "mine.py").write_text("def f(completions, prompts, **columns):\n    return [1.0] * len(completions)\n")
    composition = compose([{"name": "mine.py:f", "timeout": timeout}], Context(folder=tmp_path))
    with pytest.raises(InputError, match="mine.py:f: needs prompts, which the rollouts do not have; add a column"):
        replay(rollouts().drop(columns="prompt"), composition, "c")


def test_groups_without_variance_have_no_gradient() -> None:
    group = np.array([0, 0, 1, 1, 2, 3, 3])
    total = np.array([1.0, 0.0, 1.0, 1.0, 5.0, np.nan, 1.0])
    assert zero_variance(total, group) == (0.5, 2)  # groups 0 and 1 have two scored completions
    assert zero_variance(np.array([np.nan]), np.array([0])) == (None, 0)


def test_correlations_overall_and_within_groups() -> None:
    group = np.array([0, 0, 1, 1])
    a = np.array([0.0, 1.0, 10.0, 11.0])
    b = np.array([1.0, 0.0, 11.0, 10.0])
    assert correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert within_correlation(a, b, group) == pytest.approx(-1.0)
    assert correlation(a, np.ones(4)) is None
    assert correlation(a, np.array([np.nan, np.nan, 1.0, 2.0])) is None


def summary_of(frame: pd.DataFrame, *compositions: Any) -> dict[str, Any]:
    replayed = [replay(frame, compose(entries, Context()), f"c{at}") for at, entries in enumerate(compositions)]
    return summarize_replay(frame, replayed, RATES, source="s", command="synthpert rewards replay")


def test_a_summary_says_what_can_be_counted() -> None:
    summary = summary_of(rollouts(), ["accuracy"])
    assert summary["rollouts"]["accuracy"] == pytest.approx(4 / 6)
    assert (summary["rollouts"]["groups"], summary["rollouts"]["steps"], summary["rollouts"]["items"]) == (2, 2, 2)
    (one,) = summary["configs"]
    assert one["zero_variance"] == 0.5 and one["groups"] == 2
    assert one["correlations"]["correctness"]["overall"] == pytest.approx(1.0)
    assert one["paid_for_right"] == [1.0, 0.0]
    assert [(row["name"], row["n"], row["mean"]) for row in one["by_class"]] == [
        (UP, 3, pytest.approx(1 / 3)),
        (DOWN, 3, 1.0),
    ]
    assert [row["name"] for row in one["by_line"]] == ["k562", "rpe1"]
    assert one["by_line"][0]["within"]["correctness"] == pytest.approx(1.0)
    assert one["by_line"][1]["within"]["correctness"] is None  # all right, all paid alike
    assert sum(one["total"]["histogram"]) == 6
    assert one["by_step"] == [(1, pytest.approx(1 / 3)), (2, 1.0)]
    json.dumps(summary, allow_nan=False)


def test_the_genes_rate_is_that_of_the_answer() -> None:
    frame = rollouts(completion=[say(UP), say(DOWN), say(NONE), say(UP), say(DOWN), say(NONE)])
    by_rate = Replayed("c", np.array([0.2, 0.3, 0.5, 0.1, 0.1, 0.8]), {}, {})
    summary = summarize_replay(frame, [by_rate], RATES, source="s", command="")
    assert summary["configs"][0]["correlations"]["gene's rate"]["overall"] == pytest.approx(1.0)
    unknown = summarize_replay(frame, [by_rate], None, source="s", command="")
    assert unknown["configs"][0]["correlations"]["gene's rate"]["overall"] is None


def test_two_configurations_stand_side_by_side_with_what_they_differ_on() -> None:
    frame = rollouts()
    summary = summary_of(frame, ["accuracy"], ["format"])
    assert [one["name"] for one in summary["configs"]] == ["c0", "c1"]
    assert summary["comparison"]["other_order"] == 0.0
    assert len(summary["examples"]) <= 10
    assert summary["examples"][0]["text"] == say(DOWN)  # wrong but well formed: the two rewards part here
    same = summary_of(frame, ["accuracy"], ["accuracy"])
    assert same["examples"] == [] and same["comparison"]["correlation"] == pytest.approx(1.0)


def test_unscorable_completions_and_missing_labels_are_counted_not_scored() -> None:
    frame = rollouts(label=[UP, "", "", DOWN, DOWN, DOWN])
    frame["completion"] = frame["completion"].astype(object).where(frame.index != 3, None)
    summary = summary_of(frame, ["format"])
    assert summary["configs"][0]["total"]["unscorable"] == pytest.approx(1 / 6)
    assert summary["rollouts"]["status"]["error"] == pytest.approx(1 / 6)
    assert "no label" in [row["name"] for row in summary["configs"][0]["by_class"]]


def test_a_failed_generation_is_neither_right_nor_wrong_and_has_no_length() -> None:
    frame = rollouts(completion_tokens=[4, 6, 2, 0, 5, 5])
    frame["completion"] = frame["completion"].astype(object).where(frame.index != 3, None)
    summary = summary_of(frame, ["accuracy"])
    assert summary["rollouts"]["accuracy"] == pytest.approx(3 / 5)
    assert summary["rollouts"]["mean_length"] == pytest.approx(22 / 5)
    assert summary["rollouts"]["failed"] == 1 and summary["notes"][0].startswith("Failed generations: 1;")
    assert {row["name"]: row["accuracy"] for row in summary["configs"][0]["by_class"]}[DOWN] == 1.0


def test_a_component_that_is_constant_within_groups_is_said_to_do_nothing() -> None:
    (one,) = summary_of(rollouts(completion=[say(UP), say(DOWN), say(NONE), say(UP), say(DOWN), say(DOWN)]),
                        ["accuracy", "format"])["configs"]  # fmt: skip
    assert [note for note in one["notes"] if "constant shift" in note] == [
        "format: the same throughout each group, a constant shift: GRPO subtracts each group's mean, so it does nothing"
    ]


def test_a_completion_that_only_one_judges_is_among_those_that_differ(tmp_path: Path) -> None:
    frame = rollouts()
    flat = Replayed("flat", np.array([1.0, 1.0, np.nan, 1.0, 1.0, 1.0]), {}, {})
    other = Replayed("other", np.array([1.0] * 6), {}, {})
    summary = summarize_replay(frame, [flat, other], RATES, source="s", command="")
    assert [one["why"] for one in summary["examples"]] == ["+0.00 standard deviations, only other judges it"]
    assert summary["comparison"]["judged_by_one"] == 1
    assert "Only one of the two judges 1 completions" in write_replay(summary, tmp_path).read_text()
    spread = Replayed("spread", np.array([0.0, 0.0, 0.0, 0.0, 0.0, 6.0]), {}, {})
    judged = Replayed("judged", np.array([1.0, 2.0, 3.0, 3.0, 2.0, np.nan]), {}, {})
    summary = summarize_replay(frame, [spread, judged], RATES, source="s", command="")
    assert summary["examples"][0]["why"].endswith("only spread judges it")


def test_a_long_text_keeps_its_answer_and_says_that_it_is_cut() -> None:
    frame = rollouts(completion=[say(UP), say(DOWN, "word " * 2000), "x", *[say(DOWN)] * 3])
    (text,) = [one["text"] for one in summary_of(frame, ["accuracy"], ["format"])["examples"] if "word" in one["text"]]
    assert text.startswith("<think>word") and text.endswith(f"<answer>{DOWN}</answer>")
    assert "characters cut out" in text and len(text) < 3100


def test_weights_of_a_run_stand_beside_what_it_paid() -> None:
    frame = rollouts()
    stored = as_trained(frame, {"accuracy": 2.0})
    assert stored is not None
    (part,) = summarize_replay(frame, [stored], None, source="s", command="")["configs"][0]["components"].values()
    assert part["weight"] == 2.0 and part["share"] == 1.0
    assert as_trained(frame, {"margin": 2.0}).weights == {}  # type: ignore[union-attr]  # of other rewards


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)


def test_the_page_is_whole_and_escaped(tmp_path: Path) -> None:
    attack = say(UP, '<script>alert(1)</script><img src=x onerror="y">')
    frame = rollouts(completion=[attack, say(DOWN), "</pre><iframe>", say(DOWN), say(DOWN), say(DOWN)])
    frame["item_id"] = ["<b>i</b>"] * 3 + ["j"] * 3
    replayed = [replay(frame, compose(["accuracy"], Context()), "<i>c</i>"), as_trained(frame)]
    page = write_replay(
        summarize_replay(frame, replayed, None, source="<u>s</u>", command="<u>c</u>"), tmp_path  # type: ignore[list-item]
    )  # fmt: skip
    parser = _Tags()
    parser.feed(page.read_text())
    assert not parser.tags & {"script", "img", "iframe", "b", "i", "u", "think", "link"}
    assert {"svg", "rect", "table"} <= parser.tags
    assert "http" not in page.read_text().replace("http-equiv", "")
    assert json.loads((tmp_path / "replay.json").read_text())["configs"][1]["name"] == "as trained"


def test_a_page_of_one_step_one_value_and_one_configuration(tmp_path: Path) -> None:
    frame = rollouts(completion=["x"] * 6).drop(columns=["total_reward", "advantage"])
    assert as_trained(frame) is None
    replayed = [replay(frame, compose(["accuracy"], Context()), "c")]
    page = write_replay(summarize_replay(frame.assign(step=0), replayed, None, source="s", command=""), tmp_path)
    assert "100.0 %" in page.read_text()  # no group has variance
