"""Temperatures come from training perturbations that the adapter has not seen, and suit one protocol only."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.chat import Message
from benchmarks.config import parse_config
from benchmarks.evaluation.calibrate import held_out_items, run_calibration
from benchmarks.evaluation.predictions import PROBABILITIES, read_facts, read_predictions
from benchmarks.evaluation.run import PREDICTIONS, EvalArguments, run_evaluation
from benchmarks.evaluation.scores import CALIBRATION, read_calibration
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.models import engines
from benchmarks.models.engines import Decoding, Generation, Request
from benchmarks.models.folders import write_trained_items
from benchmarks.models.generation import Written
from benchmarks.runs import read_manifest
from rewards import LABELS, InputError


class Overconfident:
    """Knows nothing, and is all but certain of a label drawn from the prompt."""

    name = "overconfident"
    context = None

    def __init__(self, model: str, adapter: Path | None = None) -> None:
        self.model = model

    def prompt_tokens(self, messages: Sequence[Message]) -> None:
        return

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        return [self.answer(request.messages, request.seed) for request in requests]

    def answer(self, messages: Sequence[Message], seed: int) -> Generation:
        digest = hashlib.sha256(f"{messages[-1]['content']}{seed % 2}".encode()).digest()
        p = np.full(3, 0.001 + digest[1] / 1e5)
        p[digest[0] % 3] = 1 - 2 * p[0]
        text = f"<think>so</think><answer>{LABELS[digest[0] % 3]}</answer>"
        return Generation(text, "stop", 4, (p[0], p[1], p[2]), None, 50)

    def facts(self) -> dict[str, Any]:
        return {"name": self.name, "model": self.model}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


@pytest.fixture
def adapter(sample: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(engines.ENGINES, "overconfident", Overconfident)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    write_trained_items(folder, sample.train["item_id"].head(200))
    return folder


def arguments(folder: Path, adapter: Path | None, **keys: Any) -> EvalArguments:
    config = {
        "output_dir": str(folder), "model": "m", "data": "sample", "engine": "overconfident", "items": 30,
        "temperature": 1.0, "samples": 2, **keys,
    }  # fmt: skip
    (args,) = parse_config(config | ({} if adapter is None else {"adapter": str(adapter)}), (), (EvalArguments,))
    return args


def test_a_calibration_is_fitted_on_unseen_perturbations_and_applied_when_asked(
    sample: Corpus, adapter: Path, tmp_path: Path
) -> None:
    path, found = run_calibration(arguments(tmp_path / "calibration", adapter))
    assert path == adapter / CALIBRATION
    assert read_calibration(adapter) == found
    assert found.items == 120
    assert found.de > 2  # a guesser's certainty is worth little
    assert found.log_loss["after"] < found.log_loss["before"]
    assert read_manifest(tmp_path / "calibration")["status"] == "done"
    asked = set(read_predictions(tmp_path / "calibration" / PREDICTIONS)["item_id"])
    train = sample.train.assign(pair=sample.train["cell_line"].astype(str) + "|" + sample.train["pert"].astype(str))
    assert not set(train["pair"].head(200)) & set(train["pair"][train["item_id"].isin(asked)])
    assert asked <= set(train["item_id"])

    plain = run_evaluation(arguments(tmp_path / "plain", adapter))
    calibrated = run_evaluation(arguments(tmp_path / "calibrated", adapter, calibration="temperature"))
    before, after = (read_predictions(run / PREDICTIONS) for run in (plain, calibrated))
    highest = [frame[list(PROBABILITIES)].to_numpy().max(axis=1) for frame in (before, after)]
    assert (highest[0] > 0.99).mean() > 0.7
    assert highest[1].max() < 0.9
    assert list(after["answer"]) == list(before["answer"])
    assert read_facts(calibrated / PREDICTIONS)["calibration"]["de"] == found.de
    run_calibration(arguments(tmp_path / "other", adapter, item_seed=3))
    with pytest.raises(InputError, match=r"was started on other files \(changed since: calibration: temperature\)"):
        run_evaluation(arguments(tmp_path / "calibrated", adapter, calibration="temperature"))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"scores": "votes"}, "calibrate: scores: votes are shares of answers; set scores: logprobs, direct or both"),
        ({"adapter": None}, "calibrate: temperatures are stored with an adapter; set adapter"),
    ],
)
def test_what_cannot_be_calibrated(keys: dict[str, Any], problem: str, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=problem):
        run_calibration(arguments(tmp_path / "run", keys.pop("adapter", adapter), **keys))


def test_a_calibration_of_another_protocol_or_of_none_is_refused(adapter: Path, tmp_path: Path) -> None:
    asked = {"calibration": "temperature"}
    with pytest.raises(InputError, match=r"has no calibration.json; run `synthpert calibrate` first"):
        run_evaluation(arguments(tmp_path / "run", adapter, **asked))
    run_calibration(arguments(tmp_path / "calibration", adapter))
    with pytest.raises(InputError, match=r"under another protocol \(samples\); run `synthpert calibrate` with these"):
        run_evaluation(arguments(tmp_path / "run", adapter, samples=4, **asked))
    with pytest.raises(InputError, match="stored with an adapter; set adapter, or leave calibration out"):
        run_evaluation(arguments(tmp_path / "run", None, **asked))
    assert not (tmp_path / "run").exists()


def test_an_adapter_without_held_out_perturbations_is_refused(sample: Corpus, adapter: Path, tmp_path: Path) -> None:
    protocol = arguments(tmp_path, adapter).protocol
    assert len(held_out_items(sample, adapter, protocol)) == 120
    write_trained_items(adapter, sample.train["item_id"])
    with pytest.raises(InputError, match="was trained on every training perturbation; leave some out of the traces"):
        held_out_items(sample, adapter, protocol)
    (adapter / "items.txt").unlink()
    with pytest.raises(InputError, match="does not name the items it was trained on; train it with this package"):
        held_out_items(sample, adapter, protocol)
