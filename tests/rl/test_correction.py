"""TRL's correction for vLLM is made where sampler and trainer disagree, and seen to where they agree."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lazily import Lazy

from rewards import InputError
from rl.correction import AGREE, CANARIES, CANARY_EVERY, Correction
from rl.train import check_correction

torch, trl, tiny_policy = Lazy("torch"), Lazy("trl"), Lazy("tiny_policy")


def test_the_first_batch_is_corrected_and_the_others_where_it_differed() -> None:
    correction = Correction()
    assert correction.begin()
    correction.saw(AGREE / 2)
    assert not correction.begin()
    correction.saw(AGREE * 2)
    assert correction.begin()
    correction.saw(float("nan"))
    assert correction.begin()
    assert correction.facts()["corrected_batches"] == 3 and correction.facts()["uncorrected_batches"] == 1


def test_always_is_always() -> None:
    correction = Correction(always=True)
    correction.saw(0.0)
    assert correction.begin() and correction.begin()


def test_canaries_are_asked_once_in_some_batches() -> None:
    correction = Correction(difference=0.0)
    asked = []
    for _ in range(2 * CANARY_EVERY):
        correction.begin()
        asked.append(correction.asks_canaries)
    assert asked == [*[False] * (CANARY_EVERY - 1), True] * 2


@pytest.mark.parametrize("off", [0.0, 0.5])
def test_a_sampler_that_goes_wrong_is_seen_by_the_canaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    """TRL's part is played: rollouts with the policy's own log-probabilities, from the second batch on with others."""
    trainer: Any = tiny_policy.make_trainer(
        tmp_path, monkeypatch, prefix_tree="on", num_generations=4, per_device_train_batch_size=8
    )
    trainer.model.train()
    trainer.use_vllm, trainer.correction = True, Correction()
    flags: list[bool] = []

    def generate(self: Any, inputs: Any) -> dict[str, Any]:
        rollouts = tiny_policy.make_rollouts(2, 4)
        ids = torch.cat([rollouts["prompt_ids"], rollouts["completion_ids"]], dim=1)
        mask = torch.cat([rollouts["prompt_mask"], rollouts["completion_mask"]], dim=1)
        with torch.no_grad():
            own, _, _ = self._scores(self.model, ids, mask, rollouts["completion_ids"].shape[1])
        sampled = own + (off if flags else 0.0)
        sampled[0, 0] = torch.nan  # vLLM could not score it
        flags.append(self.vllm_importance_sampling_correction)
        if flags[-1]:
            apart = (own - sampled).abs().nanmean()
            self._metrics["train"]["sampling/sampling_logp_difference/mean"].append(float(apart))
        return {**rollouts, "sampling_per_token_logps": sampled, "none": None}

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_and_score_completions", generate)
    for _ in range(CANARY_EVERY + 3):
        trainer._generate_and_score_completions([])
    agreed = [True, *[False] * (CANARY_EVERY + 2)]
    assert flags == (agreed if off == 0 else [True, *[False] * CANARY_EVERY, True, True])
    metrics = trainer._metrics["train"]
    assert metrics["sampling/corrected"] == [float(flag) for flag in flags]
    assert metrics["sampling/canary_logp_difference"] == [pytest.approx(off, abs=1e-9)]
    assert CANARIES < 8


ARGS = {"top_p": 1.0, "top_k": 0, "min_p": None, "use_vllm": True, "vllm_importance_sampling_correction": True}


@pytest.mark.parametrize(("key", "value"), [("top_p", 0.9), ("top_k", 20), ("min_p", 0.1)])
def test_a_cut_of_the_tokens_is_refused_with_the_correction(key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{key}: {value} biases .* set vllm_importance_sampling_correction: false"):
        check_correction(SimpleNamespace(**{**ARGS, key: value}))
    check_correction(SimpleNamespace(**{**ARGS, key: value, "use_vllm": False}))
    check_correction(SimpleNamespace(**{**ARGS, key: value, "vllm_importance_sampling_correction": False}))


@pytest.mark.parametrize("keys", [{}, {"top_k": -1}, {"min_p": 0.0}])
def test_all_tokens_are_no_cut(keys: dict[str, Any]) -> None:
    check_correction(SimpleNamespace(**{**ARGS, **keys}))
