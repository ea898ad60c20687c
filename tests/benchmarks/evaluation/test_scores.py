"""Scores of items: means over samples, log-odds, and temperatures that move no item past another."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chat import Message
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.evaluation.predictions import PROBABILITIES, read_facts, read_predictions
from benchmarks.evaluation.scores import (
    CALIBRATION,
    Calibration,
    average_log_odds,
    fit_calibration,
    from_log_odds,
    log_odds,
    mean_over_samples,
    read_calibration,
    write_calibration,
)
from benchmarks.models.engines import Generation
from benchmarks.statistics.areas import per_gene_auroc
from rewards import LABELS, InputError
from tests.benchmarks.evaluation.test_evaluate import FakeEngine, make_items, make_messages, make_protocol

RNG = np.random.default_rng(0)
P = RNG.dirichlet((0.3, 0.3, 0.3), 400)
LOSS = {"before": 1.0, "after": 0.5}


def temperatures(de: float, direction: float) -> Calibration:
    return Calibration(de, direction, 400, 40, LOSS, {"scores": "logprobs"})


def test_log_odds_read_back() -> None:
    assert from_log_odds(log_odds(P)) == pytest.approx(P, abs=1e-9)
    assert from_log_odds(log_odds(P)).sum(axis=1) == pytest.approx(np.ones(len(P)))
    certain = from_log_odds(log_odds(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])))
    assert certain == pytest.approx(np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), abs=1e-9)


def test_the_mean_log_odds_of_opposite_scores_are_undecided() -> None:
    p = np.array([[0.7, 0.1, 0.2]])
    q = np.array([[0.1 / 4, 0.7 / 4, 0.8]])  # DE and direction turned round
    assert average_log_odds(p, q) == pytest.approx(np.array([[0.25, 0.25, 0.5]]))
    assert average_log_odds(p, p) == pytest.approx(p)


def test_samples_without_probabilities_do_not_count() -> None:
    nothing = [np.nan] * 3
    mean = mean_over_samples(np.array([[[0.2, 0.2, 0.6], nothing, [0.4, 0.4, 0.2]], [nothing] * 3]))
    assert mean[0] == pytest.approx([0.3, 0.3, 0.4])
    assert np.isnan(mean[1]).all()


@pytest.mark.parametrize("temperature", [0.3, 3.0, 20.0])
def test_a_temperature_changes_no_auroc(temperature: float) -> None:
    after = temperatures(temperature, 1.7).apply(P)
    assert not np.allclose(after, P, atol=0.01)
    de = RNG.random(len(P)) < P[:, :2].sum(axis=1)
    up = RNG.random(len(P)) < 0.5
    gene = np.arange(len(P)) % 20
    assert per_gene_auroc(de, 1 - after[:, 2], gene) == per_gene_auroc(de, 1 - P[:, 2], gene)
    before, now = (p[:, 0] / p[:, :2].sum(axis=1) for p in (P, after))
    assert per_gene_auroc(up, now, gene) == per_gene_auroc(up, before, gene)


def test_the_temperatures_of_overconfident_scores_are_found() -> None:
    """Labels are drawn from the true probabilities; the scores' log-odds are 4 and 2 times as large."""
    rng = np.random.default_rng(1)
    odds = rng.normal(size=(4000, 2))
    label = np.array([rng.choice(3, p=p) for p in from_log_odds(odds)])
    pairs = np.arange(4000) // 10
    found = fit_calibration(from_log_odds(odds * np.array([4.0, 2.0])), label, pairs, {"seed": 3})
    assert (found.de, found.dir) == (pytest.approx(4.0, rel=0.1), pytest.approx(2.0, rel=0.15))
    assert found.log_loss["after"] < found.log_loss["before"] - 0.1
    assert (found.items, found.perturbations, found.protocol) == (4000, 400, {"seed": 3})


def test_a_temperature_without_evidence_is_one_and_few_items_are_refused() -> None:
    label = np.where(np.arange(400) % 3 == 0, 2, 0)  # no item is downregulated
    assert fit_calibration(P, label, label, {}).dir == 1.0
    p = P.copy()
    p[19:] = np.nan
    with pytest.raises(InputError, match="19 items have probabilities; ask at least 20: raise items"):
        fit_calibration(p, label, label, {})


def test_a_calibration_is_stored_with_its_adapter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no calibration.json; run `synthpert calibrate` first"):
        read_calibration(tmp_path)
    path = write_calibration(temperatures(2.0, 3.0), tmp_path)
    assert path.name == CALIBRATION
    assert read_calibration(tmp_path) == temperatures(2.0, 3.0)
    stored = json.loads(path.read_text())
    for broken in ("{", "[]", json.dumps(stored | {"de": 0.0}), json.dumps(stored | {"more": 1})):
        path.write_text(broken)
        with pytest.raises(InputError, match="is no calibration; remove it and run `synthpert calibrate` again"):
            read_calibration(tmp_path)


class DirectEngine(FakeEngine):
    """Also answers after an empty thought, from the length of the item's name."""

    def __init__(self) -> None:
        super().__init__()
        self.direct: list[int] = []

    def answer_directly(self, prompts: Sequence[Sequence[Message]]) -> list[Generation]:
        self.direct.append(len(prompts))
        return [self.one(str(messages[-1]["content"])) for messages in prompts]

    def one(self, item_id: str) -> Generation:
        p = (len(item_id) / 20, 0.1, 0.9 - len(item_id) / 20)
        text = f"<think></think><answer>{LABELS[int(np.argmax(p))]}</answer>"
        return Generation(text, "stop", 1, p, None, 5)


def run(engine: FakeEngine, run_dir: Path, calibration: Calibration | None = None, **changed: Any) -> Path:
    items = make_items()
    protocol = make_protocol(calibration=None if calibration is None else "temperature", **changed)
    return evaluate(
        engine, items, make_messages(items), protocol, run_dir, seed=7, chunk=8, calibration=calibration
    )  # fmt: skip


def chances(path: Path, samples: int) -> Any:
    return read_predictions(path)[list(PROBABILITIES)].to_numpy().reshape(-1, samples, 3)


def test_direct_scores_ask_once_and_write_no_thought(tmp_path: Path) -> None:
    engine = DirectEngine()
    path = run(engine, tmp_path, scores="direct", temperature=0.0, samples=1)
    frame = read_predictions(path)
    assert (engine.batches, engine.direct) == ([], [8, 8, 7])
    expected = [engine.one(item) for item in make_items()["item_id"]]
    assert frame[list(PROBABILITIES)].to_numpy() == pytest.approx(np.array([one.probabilities for one in expected]))
    assert list(frame["completion"]) == [one.text for one in expected]
    assert set(frame["status"]) == {"answered"}
    assert frame[["completion_tokens", "prompt_tokens"]].sum().tolist() == [23, 5 * 23]


def test_both_scores_are_the_mean_of_the_log_odds_and_cost_both(tmp_path: Path) -> None:
    """A chunk holds whole items, so that the mean over an item's samples comes first."""
    engine = DirectEngine()
    path = run(engine, tmp_path / "both", scores="both")
    assert (engine.batches, engine.direct) == ([6] * 11 + [3], [2] * 11 + [1])  # 8 rows hold two items of 3 samples
    chains_only = DirectEngine()
    items = make_items()
    alone = evaluate(chains_only, items, make_messages(items), make_protocol(), tmp_path / "chains", seed=7, chunk=6)
    chains, both = chances(alone, 3), chances(path, 3)
    assert np.array_equal(np.isnan(chains), np.isnan(both))
    direct = np.array([engine.one(item).probabilities for item in items["item_id"]])
    expected = average_log_odds(mean_over_samples(chains), direct)
    known = ~np.isnan(both)
    assert known.any(axis=(1, 2)).sum() > 15
    assert both[known] == pytest.approx(np.broadcast_to(expected[:, None], both.shape)[known])
    tokens = [read_predictions(one)["completion_tokens"].sum() for one in (path, alone)]
    assert tokens[0] == tokens[1] + 23


def test_calibrated_scores_are_those_of_the_mean_over_samples(tmp_path: Path) -> None:
    calibration = temperatures(3.0, 2.0)
    path = run(FakeEngine(), tmp_path / "calibrated", calibration)
    items = make_items()
    plain = evaluate(FakeEngine(), items, make_messages(items), make_protocol(), tmp_path / "plain", seed=7, chunk=6)
    expected = calibration.apply(mean_over_samples(chances(plain, 3)))
    after = chances(path, 3)
    known = ~np.isnan(after)
    assert after[known] == pytest.approx(np.broadcast_to(expected[:, None], after.shape)[known])
    assert read_facts(path)["calibration"]["de"] == 3.0
    assert read_facts(path)["protocol"]["calibration"] == "temperature"
    assert "calibration" not in read_facts(plain)["protocol"]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"scores": "direct", "temperature": 1.0}, "asks once and samples no thought; set temperature: 0"),
        ({"scores": "votes", "calibration": "temperature"}, "set scores: logprobs, direct or both"),
        ({"calibration": "platt"}, "calibration is 'platt'; write one of temperature or null"),
    ],
)
def test_scores_that_contradict(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        make_protocol(**keys)
