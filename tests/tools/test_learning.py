"""The page on learning says what its runs' JSON says; intervals are those of the answers."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus, open_corpus
from rewards import LABELS, InputError
from tools.learning import FIGURE, PAGES, RESULT, draw, filled, finished_seeds, gains, held_out_answers

UP = str(LABELS[0])


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


def write_answers(run: Path, corpus: Corpus, step: int, right: float, seed: int) -> None:
    """Write the answers to 60 held-out prompts, of which a share is right."""
    draw_right = np.random.default_rng([seed, step])
    rows = []
    for item in corpus.train[seed * 60 :].head(60).itertuples():  # each seed has its own items
        wrong = next(str(label) for label in LABELS if str(label) != str(item.label))
        given = [str(item.label) if one < right else wrong for one in draw_right.random(3)]
        rows.append({"item_id": item.item_id, "label": str(item.label), "sampled": given[:2], "greedy": given[2]})
    rows[0]["sampled"] = [None, None]
    folder = run / "held-out"
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"step-{step:07d}-0-rank0.jsonl").write_text(lines, encoding="utf-8")


def test_a_gain_is_told_by_seed_over_items_and_over_both(sample: Corpus, tmp_path: Path) -> None:
    frames = {}
    for seed in (0, 1):
        for step, right in ((0, 0.4), (10, 0.1), (20, 0.8)):
            write_answers(tmp_path / str(seed), sample, step, right, seed)
        frames[seed] = held_out_answers(tmp_path / str(seed), sample)
    assert len(frames[0]) == 3 * 60 * 3
    found = gains(frames, "sampled")
    for seed in (0, 1):
        mine = frames[seed][frames[seed]["how"] == "sampled"]
        rates = (mine["answer"] == mine["label"]).groupby(mine["step"]).mean()
        assert (found["before"][seed], found["after"][seed]) == pytest.approx((rates[0], rates[20]))
        assert found["per_seed"][seed]["value"] == pytest.approx(rates[20] - rates[0])
    mean = np.mean([one["value"] for one in found["per_seed"]])
    assert found["items"]["value"] == pytest.approx(mean) == found["items_and_seeds"]["value"]
    assert found["items"]["low"] > 0.1

    def width(one: dict[str, float]) -> float:
        return one["high"] - one["low"]

    assert width(found["items"]) < width(found["items_and_seeds"])
    assert width(found["items"]) < min(map(width, found["per_seed"]))


def test_a_study_without_a_finished_seed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sft-grpo" / "seed-0").mkdir(parents=True)
    with pytest.raises(InputError, match="no seed is finished"):
        finished_seeds(tmp_path)


def test_pages_and_figure_are_those_of_the_runs() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    for path in PAGES:
        assert filled(path, result) == path.read_text(encoding="utf-8")
    assert draw(result).count("<path") == FIGURE.read_text(encoding="utf-8").count("<path")


def test_what_the_page_says_of_the_tables_holds() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    sampled, greedy = result["held_out"]["sampled"], result["held_out"]["greedy"]
    assert all(one["low"] > 0 for one in (*sampled["per_seed"], sampled["items"], sampled["items_and_seeds"]))
    lost = [[g - s for g, s in zip(greedy[when], sampled[when], strict=True)] for when in ("before", "after")]
    assert all(0 < after < before for before, after in zip(*lost, strict=True))
    assert greedy["items"]["low"] > 0 and greedy["items_and_seeds"]["low"] > 0
    assert sum(one["low"] > 0 for one in greedy["per_seed"]) == 1

    def interval(rival: str, metric: str) -> tuple[float, float]:
        found = result["test"][rival][metric]["items_and_seeds"]
        return found["low"], found["high"]

    for rival in ("SFT", "SFT+labels", "cross-line neighbours"):
        for metric in ("accuracy", "de_auroc", "dir_auroc"):
            low, high = interval(rival, metric)
            better = (rival, metric) == ("cross-line neighbours", "de_auroc")
            assert high < 0 if better else low < 0 < high, (rival, metric)
    assert np.round(interval("SFT", "accuracy"), 3).tolist() == [-0.003, 0.031]
    ranks = {metric: result["test"]["SFT"][metric]["per_seed"] for metric in ("dir_auroc", "de_auroc")}
    assert [round(one["value"], 3) for one in ranks["de_auroc"]] == [0.011, 0.022, 0.049]
    assert [one["low"] > 0 for one in ranks["de_auroc"]] == [False, True, True]
    assert all(one["low"] < 0 < one["high"] for one in ranks["dir_auroc"])
    dead = result["curves"]["zero_variance_groups"]["runs"]
    early, late = ([float(np.mean(run[at])) for run in dead] for at in (slice(4), slice(-10, None)))
    assert [round(share, 1) for share in (*early, *late)] == [0.2, 0.4, 0.4, 0.8, 0.7, 0.7]


def test_frames_hold_answers_alone(sample: Corpus, tmp_path: Path) -> None:
    write_answers(tmp_path, sample, 0, 0.5, 0)
    frame = held_out_answers(tmp_path, sample)
    assert pd.unique(frame.loc[frame["answer"].isna(), "status"]).tolist() == ["malformed"]
