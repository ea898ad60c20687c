"""The peers' rewards as the benchmark restates them pay what is published of them."""

import json

import pytest

from rewards.compose import BUILT_IN
from tools.speed.rewards import AROMA_NONE, UP, aroma, rbio


def say(answer: str, think: str = "AARS is lost, so CALR may change") -> str:
    return f"<think>{think}</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (say(UP), 6.0),  # the most there is
        (f"<reasoning>x</reasoning>\n<answer> {UP}\n</answer>", 6.0),
        (say("downregulated"), 0.0),
        (say(f"it is {UP}"), -0.5),  # the whole text counts, not a substring
        (say(UP.upper()), 0.0),  # a label in any case, but not the right text
        (say("downregulated") + f"<answer>{UP}</answer>", 6.0),  # the last answer
        (UP, -1.0),
        ("", -1.0),
    ],
)
def test_aroma(completion: str, score: float) -> None:
    assert aroma([completion], [UP]) == [score]
    assert aroma([say(AROMA_NONE)], [AROMA_NONE]) == [6.0]


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (say("yes"), 1.0 + 2.0 * 0.75 + 1.0),
        (say("no"), 1.0 + 2.0 * 0.25 + 1.0),
        (say("it is not known"), 1.0 + 2.0 * 0.25 + 1.0),  # by substring
        (say("maybe"), 1.0 + 1.0),  # no answer earns 0 for it
        (say("yes", "CALRETICULIN goes up, as it should"), 1.0 + 2.0 * 0.75 + 0.5),  # a mention by substring
        (say("yes", "word " * 201), 10 / 11 + 2.0 * 0.75),  # too long
        (say("yes", "short"), 10 / 11 + 2.0 * 0.75),
        ("yes", 1 / 11 + 2.0 * 0.75),  # without tags: not too long, and nothing else
    ],
)
def test_rbio(completion: str, score: float) -> None:
    assert rbio([completion], [0.75], [("AARS", "CALR")]) == [pytest.approx(score)]


def test_the_benchmark_compares_every_reward_with_both_peers(monkeypatch, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    from tools.speed import rewards as script

    monkeypatch.setattr(script, "BATCH", 20)
    monkeypatch.setattr("sys.argv", ["rewards", "--completions", "40", "--json", str(tmp_path / "speed.json")])
    script.main()
    rows = json.loads((tmp_path / "speed.json").read_text())
    assert {row["name"] for row in rows} == {
        f"{name}, {peer}" for name in (*BUILT_IN, f"all {len(BUILT_IN)} rewards") for peer in ("rbio", "AROMA")
    }
    assert all(row["ratio"] == pytest.approx(row["other_s"] / row["ours_s"]) for row in rows)
    assert "target" in capsys.readouterr().out
