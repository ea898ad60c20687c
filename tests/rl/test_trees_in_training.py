"""GRPO over prefix trees gives what TRL gives over padded rows: log-probabilities, entropies, losses and gradients."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lazily import Lazy

from rewards import CheckError, InputError
from sft.prefix_tree import fold

torch, tiny_policy, trainers = Lazy("torch"), Lazy("tiny_policy"), Lazy("rl.trainer")
tree_attention, trl_utils = Lazy("sft.tree_attention"), Lazy("trl.trainer.utils")

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo")
EXACT = 1e-9
GROUPS = {"num_generations": 4, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def patches() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory, patches: pytest.MonkeyPatch) -> Any:
    """One that always computes trees; its settings may be changed for a test."""
    made = tiny_policy.make_trainer(
        tmp_path_factory.mktemp("trainer"), patches, prefix_tree="on", temperature=0.7, **GROUPS
    )
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def assert_same(trainer: Any, rollouts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients by trees, which are computed, are those of TRL."""
    padded, computed = trainer.scorer.padded, trainer.scorer.computed
    results = []
    for scorer in (trainer.scorer, None):
        monkeypatch.setattr(trainer, "scorer", scorer)
        loss = trainer._compute_loss(trainer.model, rollouts)
        results.append((loss.detach(), tiny_policy.gradients(trainer.model, loss)))
    monkeypatch.undo()
    assert trainer.scorer.computed - computed < trainer.scorer.padded - padded
    (ours, our_gradient), (theirs, their_gradient) = results
    assert abs(ours - theirs) < EXACT
    assert their_gradient.norm() > 1e-4
    assert (our_gradient - their_gradient).norm() < EXACT * their_gradient.norm()


# --- Losses and gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_losses_and_gradients_are_trl_s(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, loss_type: str, beta: float
) -> None:
    monkeypatch.setattr(trainer, "loss_type", loss_type)
    monkeypatch.setattr(trainer, "beta", beta)
    assert_same(trainer, tiny_policy.make_rollouts(2, 4), monkeypatch)


@pytest.mark.parametrize(
    "settings",
    [
        {"importance_sampling_level": "sequence"},
        {"top_entropy_quantile": 0.5},
        {"_entropy_bonus_enabled": True, "entropy_coef": 0.1},
        {"temperature": 1.0},
        {"off_policy_mask_threshold": 0.5},
    ],
)
def test_other_terms_of_the_loss_are_trl_s(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    for name, value in settings.items():
        monkeypatch.setattr(trainer, name, value)
    assert_same(trainer, tiny_policy.make_rollouts(2, 4), monkeypatch)


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_are_computed_again_see_the_tree(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, reentrant: bool
) -> None:
    base = trainer.model.get_base_model()
    trainer.model.enable_input_require_grads()
    base.gradient_checkpointing_enable({"use_reentrant": reentrant})
    try:
        assert_same(trainer, tiny_policy.make_rollouts(2, 4), monkeypatch)
    finally:
        base.gradient_checkpointing_disable()
        base.disable_input_require_grads()


@pytest.mark.parametrize("rows", [slice(0, 3), slice(0, 8), slice(2, 7), slice(0, 1)])
def test_any_rows_of_any_groups_give_what_trl_gives(trainer: Any, monkeypatch: pytest.MonkeyPatch, rows: slice) -> None:
    part = {
        name: value[rows] if value.ndim else value for name, value in tiny_policy.make_rollouts(3, 3, same=0).items()
    }
    if rows == slice(0, 1):
        part["completion_mask"][:] = 1
    assert_same(trainer, part, monkeypatch)


def test_rows_of_which_none_has_a_completion_have_a_loss_without_gradient(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = tiny_policy.make_rollouts(2, 4)
    rollouts["completion_mask"].zero_()
    loss = trainer._compute_loss(trainer.model, rollouts)
    assert loss == 0 and tiny_policy.gradients(trainer.model, loss).norm() == 0


def test_log_probabilities_without_a_gradient_come_in_parts_as_trl_s(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the old policy and the reference are asked."""
    rollouts = tiny_policy.make_rollouts(3, 4)
    ids = torch.cat([rollouts["prompt_ids"], rollouts["completion_ids"]], dim=1)
    mask = torch.cat([rollouts["prompt_mask"], rollouts["completion_mask"]], dim=1)
    columns = rollouts["completion_ids"].shape[1]
    results = []
    with torch.no_grad():
        for scorer in (trainer.scorer, None):
            monkeypatch.setattr(trainer, "scorer", scorer)
            results.append(
                trainer._get_per_token_logps_and_entropies(
                    trainer.model, ids, mask, columns, batch_size=5, compute_entropy=True
                )
            )
    for ours, theirs in zip(*[result[:2] for result in results], strict=True):
        assert ours.shape == theirs.shape == (12, columns)
        assert (ours - theirs).abs().max() < EXACT


def test_in_bfloat16_they_agree_to_its_rounding(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = tiny_policy.make_rollouts(2, 4)
    losses = []
    for scorer in (trainer.scorer, None):
        monkeypatch.setattr(trainer, "scorer", scorer)
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(float(trainer._compute_loss(trainer.model, rollouts).detach()))
    assert losses[0] == pytest.approx(losses[1], abs=0.1)
    assert losses[0] != 0


# --- Completions without a gradient --------------------------------------------------------------------------------


def with_advantages(rollouts: dict[str, Any], dead: slice, *, old: bool) -> dict[str, Any]:
    """The rollouts without a gradient for some rows; their old log-probabilities are far off."""
    rollouts["advantages"][dead] = 0
    if old:
        rollouts["old_per_token_logps"][dead] = -800.0  # e to the 800 is no number
    else:
        del rollouts["old_per_token_logps"]
    return rollouts


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("old", [False, True])
def test_completions_without_an_advantage_are_left_out(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, loss_type: str, old: bool
) -> None:
    monkeypatch.setattr(trainer, "loss_type", loss_type)
    rollouts = with_advantages(tiny_policy.make_rollouts(2, 4), slice(4, 8), old=old)
    before = trainer.scorer.padded
    ours = trainer._compute_loss(trainer.model, rollouts)
    width = rollouts["prompt_ids"].shape[1] + rollouts["completion_ids"].shape[1]
    assert trainer.scorer.padded - before == 4 * width
    our_gradient = tiny_policy.gradients(trainer.model, ours)
    monkeypatch.setattr(trainer, "scorer", None)
    if old:
        rollouts["old_per_token_logps"][4:] = -3.0  # TRL computes them, and cannot with the others
    theirs = super(trainers.GRPOTrainer, trainer)._compute_loss(trainer.model, rollouts)
    their_gradient = tiny_policy.gradients(trainer.model, theirs)
    assert abs(ours - theirs) < EXACT and their_gradient.norm() > 0
    assert (our_gradient - their_gradient).norm() < EXACT * their_gradient.norm()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("mode", ["on", "off"])
def test_a_micro_batch_without_a_gradient_costs_two_tokens(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, mode: str, old: bool
) -> None:
    monkeypatch.setattr(trainer, "scorer", trainer.scorer if mode == "on" else None)
    seen: list[int] = []
    handle = trainer.model.get_base_model().model.register_forward_hook(
        lambda module, args, output: seen.append(output.last_hidden_state.shape[1])
    )
    loss = trainer._compute_loss(trainer.model, with_advantages(tiny_policy.make_rollouts(2, 4), slice(0, 8), old=old))
    trainer.model.zero_grad(set_to_none=True)
    loss.backward()
    handle.remove()
    assert seen == [2] and loss == 0
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in trained)


@pytest.mark.parametrize(
    "settings",
    [
        {"beta": 0.1}, {"_entropy_bonus_enabled": True, "entropy_coef": 0.1}, {"top_entropy_quantile": 0.5},
    ],
)  # fmt: skip
def test_a_completion_that_the_loss_looks_at_is_computed(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    for name, value in settings.items():
        monkeypatch.setattr(trainer, name, value)
    rollouts = with_advantages(tiny_policy.make_rollouts(2, 4), slice(4, 8), old=False)
    before = trainer.scorer.padded
    trainer._compute_loss(trainer.model, rollouts)
    assert trainer.scorer.padded - before == 8 * (rollouts["prompt_ids"].shape[1] + rollouts["completion_ids"].shape[1])


def test_what_is_not_computed_is_logged_as_what_is(trainer: Any) -> None:
    rollouts = with_advantages(tiny_policy.make_rollouts(2, 4), slice(4, 8), old=False)
    trainer._compute_loss(trainer.model, rollouts)
    alone = {name: value[:4] if value.ndim else value for name, value in rollouts.items()}
    trainer._compute_loss(trainer.model, alone)
    entropies = trainer._metrics["train"]["entropy"]
    assert entropies[-2] == pytest.approx(entropies[-1]) and entropies[-1] > 0


# --- Steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"beta": 0.1, "num_iterations": 2},
        {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2},
        {"mask_truncated_completions": True},
    ],
)
def test_five_steps_from_the_same_rollouts_give_the_same_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    adapters = []
    for mode in ("on", "off"):
        values = {"learning_rate": 1e-2, "max_steps": 5, "epsilon": 10.0, **GROUPS, **keys}
        trainer = tiny_policy.make_trainer(tmp_path / mode, monkeypatch, prefix_tree=mode, **values)
        batches = iter(range(99))

        def generate(inputs: Any, batches: Any = batches) -> dict[str, Any]:
            return tiny_policy.make_rollouts(2, 4, seed=next(batches))

        monkeypatch.setattr(trainer, "_generate_and_score_completions", generate)
        start = copy.deepcopy(trainer.model.state_dict())
        trainer.train()
        assert trainer.state.global_step == 5
        adapters.append({name: value for name, value in trainer.model.state_dict().items() if "lora_" in name})
        moved = {name for name, value in adapters[-1].items() if (value - start[name]).abs().max() > 1e-3}
        assert moved == {name for name in adapters[-1] if ".ref." not in name}
        if mode == "on":
            assert trainer.scorer.computed < trainer.scorer.padded
    for name, value in adapters[0].items():
        assert (value - adapters[1][name]).abs().max() < 1e-6, name


# --- Micro-batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "size", "micro_batch", "together"), [(6, 4, 8, 4), (6, 4, 4, 4), (6, 4, 2, 2), (6, 4, 6, 4)]
)
def test_whole_groups_are_shuffled_or_parts_of_a_micro_batch(
    groups: int, size: int, micro_batch: int, together: int
) -> None:
    rows = torch.arange(groups * size)
    batch = {"a": rows, "b": rows[:, None] * 10, "n": torch.tensor(7), "none": None, "list": rows.tolist()}
    torch.manual_seed(1)
    out = trainers.shuffle_groups(batch, size, micro_batch)
    parts = out["a"].view(-1, together)
    assert (parts == parts[:, :1] + torch.arange(together)).all()  # they stand together, in order
    assert (parts[:, 0] % together == 0).all() and out["a"].tolist() != rows.tolist()
    assert sorted(out["a"].tolist()) == rows.tolist()
    assert (out["b"][:, 0] == out["a"] * 10).all() and out["list"] == out["a"].tolist()
    assert out["n"] == 7 and out["none"] is None


def test_the_same_random_numbers_are_drawn_as_by_trl() -> None:
    after = []
    for shuffle in (trl_utils.shuffle_sequence_dict, lambda batch: trainers.shuffle_groups(batch, 4, 4)):
        torch.manual_seed(0)
        shuffle({"a": torch.arange(24)})
        after.append(torch.rand(1))
    assert after[0] == after[1]


def test_groups_that_processes_share_are_shuffled_as_trl_does() -> None:
    batch = {"a": torch.arange(6)}
    results = []
    for shuffle in (trl_utils.shuffle_sequence_dict, lambda rows: trainers.shuffle_groups(rows, 4, 2)):
        torch.manual_seed(0)
        results.append(shuffle(batch)["a"].tolist())
    assert results[0] == results[1]


# --- Models that cannot --------------------------------------------------------------------------------------------


def two_rows() -> Any:
    """Two rows that share three tokens."""
    return torch.tensor([[2, 3, 4, 5, 6], [2, 3, 4, 7, 8]])


def score(mode: str, model: Any, **settings: Any) -> Any:
    """A scorer that was asked once."""
    scorer = tree_attention.Scorer(mode, model)
    scorer.scores(model, model, two_rows(), torch.ones_like(two_rows()), 2)
    return scorer


def fused(policy: Any) -> Any:
    from trl.trainer.utils import add_fused_lm_head

    model = policy.get_base_model()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model


def test_a_model_that_can_is_checked_once_and_takes_trees(trainer: Any) -> None:
    model = fused(tiny_policy.make_policy())
    scorer = score("on", model)
    assert scorer.facts() == {"mode": "on", "padded_rows": None, "tokens": 10, "computed": 6}
    assert model.config._attn_implementation == tree_attention.ATTENTION


def test_where_a_tree_costs_more_padded_rows_are_computed(trainer: Any) -> None:
    """So few tokens are not worth the calls."""
    assert score("auto", fused(tiny_policy.make_policy())).facts()["computed"] == 10


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model.set_attn_implementation("eager"), "attn_implementation is eager, not sdpa"),
        (
            lambda model: setattr(model.config, "layer_types", ["full_attention", "linear_attention"]),
            "the model has layers of linear_attention",
        ),
    ],
)
def test_a_model_that_cannot_by_its_configuration(
    trainer: Any, caplog: pytest.LogCaptureFixture, change: Any, reason: str
) -> None:
    model = fused(tiny_policy.make_policy())
    change(model)
    with pytest.raises(InputError, match=f"prefix_tree: on, but {reason}; set prefix_tree: auto"):
        tree_attention.Scorer("on", model)
    with caplog.at_level(logging.WARNING, "synthpert.train"):
        assert tree_attention.Scorer("auto", model).reason == reason
    assert [record.getMessage() for record in caplog.records] == [
        f"prefix_tree: prompts are computed for each completion anew, since {reason}"
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"sliding_window": 3}, "the model has a sliding window of 3 tokens"),
        ({"s_aux": [0.0] * 4}, "the model has attention sinks"),
        ({"is_causal": False}, "the model's attention is not causal"),
    ],
)
def test_a_model_whose_attention_is_another_falls_back_at_the_first_tree(
    trainer: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], reason: str
) -> None:
    attention = tree_attention.tree_attention
    model = fused(tiny_policy.make_policy())

    def other(*args: Any, **kwargs: Any) -> Any:
        return attention(*args, **{**kwargs, **(given if kwargs.get("prefix_tree") else {})})

    monkeypatch.setattr("sft.tree_attention.tree_attention", other)
    monkeypatch.setattr("sft.prefix_tree.ModelCost.of_tree", lambda *_: 0.0)
    scorer = score("auto", model)
    assert scorer.facts() == {"mode": "auto", "padded_rows": reason, "tokens": 10, "computed": 10}
    with pytest.raises(InputError, match=reason):
        score("on", fused(tiny_policy.make_policy()))


def test_a_window_that_is_longer_than_every_sequence_is_none(trainer: Any) -> None:
    tree = fold(*tree_attention.split_rows(two_rows(), torch.ones_like(two_rows()), 2))
    states = torch.randn(1, 2, len(tree.tokens), 4)
    layer = tiny_policy.make_policy().get_base_model().model.layers[0].self_attn
    whole, _ = tree_attention.tree_attention(layer, states, states, states, None, prefix_tree=tree)
    windowed, _ = tree_attention.tree_attention(layer, states, states, states, None, prefix_tree=tree, sliding_window=4)
    assert torch.equal(whole, windowed)


def test_a_model_that_does_not_heed_the_tree_is_found_out(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = tree_attention.tree_attention

    def deaf(*args: Any, prefix_tree: Any = None, **kwargs: Any) -> Any:
        return attention(*args, **kwargs)

    monkeypatch.setattr("sft.tree_attention.tree_attention", deaf)
    monkeypatch.setattr("sft.prefix_tree.ModelCost.of_tree", lambda *_: 0.0)
    scorer = score("auto", fused(tiny_policy.make_policy()))
    assert scorer.reason is not None and "from those of padded rows" in scorer.reason
    assert scorer.facts()["computed"] == 10
    with pytest.raises(
        CheckError, match="prefix_tree: on, but its log-probabilities differ by .* set prefix_tree: auto"
    ):
        score("on", fused(tiny_policy.make_policy()))
