"""Every key of TRL is used or refused, and a checkpoint is what the trainer called one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rewards import InputError
from rl.train import _IGNORED_KEYS as GRPO_IGNORED_KEYS
from rl.train import read_arguments as read_grpo
from sft.train import _IGNORED_KEYS as SFT_IGNORED_KEYS
from sft.train import read_arguments as read_sft
from sft.training import IGNORED_KEYS, last_checkpoint, trainer_arguments

SFT = {"model_name_or_path": "m", "traces": "t.jsonl", "output_dir": "out", "use_peft": True}
GRPO = {"model_name_or_path": "m", "sft_run": "s", "output_dir": "out"}


# Read by TRL 1.16's trainers, transformers 5.17's or by us, each looked up there: a new one is to be looked up, too.
_READ = """
accelerator_config activation_offloading adam_beta1 adam_beta2 adam_epsilon attn_implementation auto_find_batch_size
average_tokens_across_devices beta bf16 bnb_4bit_quant_storage bnb_4bit_quant_type cache_implementation
cast_lm_head_to_fp32 chat_template_kwargs chat_template_path completion_only_loss data_seed dataloader_drop_last
dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed delta ds3_gather_for_generation dtype
enable_jit_checkpoint entropy_coef entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target epsilon
epsilon_high fp16 fsdp fsdp_config full_determinism generation_batch_size generation_kwargs
gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs hub_always_push hub_model_id
hub_private_repo hub_revision hub_strategy hub_token ignore_data_skip importance_sampling_level
include_num_input_tokens_seen learning_rate liger_kernel_config load_in_4bit load_in_8bit log_completions
log_completions_hub_repo log_level log_level_replica log_on_each_node log_unique_prompts logging_nan_inf_filter
logging_steps logging_strategy loss_type lr_scheduler_kwargs lr_scheduler_type mask_truncated_completions
max_completion_length max_grad_norm max_length max_steps min_p model_name_or_path model_revision
multi_objective_aggregation neftune_noise_alpha num_completions_to_print num_generations num_generations_eval
num_iterations num_train_epochs off_policy_mask_threshold optim optim_args optim_target_modules output_dir packing
packing_strategy pad_to_multiple_of pad_token padding_free parallelism_config per_device_train_batch_size project
push_to_hub remove_unused_columns repetition_penalty report_to restore_callback_states_from_checkpoint
reward_weights router_aux_loss_coef run_name sapo_temperature_neg sapo_temperature_pos save_on_each_node
save_only_model save_steps save_strategy save_total_limit scale_rewards seed skip_memory_metrics
steps_per_generation temperature tf32 top_entropy_quantile top_k top_p torch_compile torch_compile_backend
torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id
transformers_continuous_batching_config trust_remote_code use_adaptive_entropy use_bias_correction_kl
use_bnb_nested_quant use_cache use_cpu use_liger_kernel use_peft use_transformers_continuous_batching
use_transformers_paged vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos vllm_enable_sleep_mode
vllm_gpu_memory_utilization vllm_group_port vllm_importance_sampling_cap vllm_importance_sampling_clip_max
vllm_importance_sampling_clip_min vllm_importance_sampling_correction vllm_importance_sampling_mode
vllm_max_model_length vllm_mode vllm_model_impl vllm_server_base_url vllm_server_host vllm_server_port
vllm_server_timeout vllm_structured_outputs_regex vllm_tensor_parallel_size warmup_steps weight_decay
"""
READ = set(_READ.split())


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_every_key_of_trl_is_known_to_be_read_or_refused(stage: str) -> None:
    from trl import GRPOConfig, ModelConfig, SFTConfig

    ignored = {**IGNORED_KEYS, **(SFT_IGNORED_KEYS if stage == "sft" else GRPO_IGNORED_KEYS)}
    kinds = (SFTConfig if stage == "sft" else GRPOConfig, ModelConfig)
    keys = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind) if field.init}
    elsewhere = {*SFT_IGNORED_KEYS, *GRPO_IGNORED_KEYS} - set(ignored)  # by one stage alone
    assert keys.keys() - ignored.keys() - READ - elsewhere == set()
    assert not ignored.keys() & READ
    assert set(ignored) <= {*keys, *IGNORED_KEYS}
    for key, (fixed, _) in ignored.items():
        if key not in ("disable_dropout", "logging_first_step", "use_vllm") and keys[key] is not dataclasses.MISSING:
            assert fixed == keys[key], key


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        *((stage, key, value) for stage in ("sft", "grpo") for key, value in (
            ("resume_from_checkpoint", "runs/x/checkpoint-3"), ("model_init_kwargs", {"attn_implementation": "eager"}),
            ("do_train", True), ("disable_tqdm", True), ("label_names", ["labels"]), ("batch_eval_metrics", True),
        )),
        ("sft", "dataset_text_field", "prompt"), ("sft", "assistant_only_loss", True), ("sft", "eos_token", "</s>"),
        ("sft", "eval_steps", 5), ("sft", "shuffle_dataset", True), ("sft", "truncation_mode", "keep_end"),
        ("grpo", "lora_r", 32), ("grpo", "use_dora", True), ("grpo", "disable_dropout", False),
        ("grpo", "use_vllm", False), ("grpo", "label_smoothing_factor", 0.1), ("grpo", "ref_model_sync_steps", 8),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_refused(stage: str, key: str, value: Any) -> None:
    read, base = (read_sft, SFT) if stage == "sft" else (read_grpo, GRPO)
    with pytest.raises(InputError, match=rf"{key} has no effect: .*; leave it out"):
        read({**base, key: value})
    read({**base, key: None})
    word = "x" if isinstance(value, list) else json.dumps(value) if isinstance(value, dict) else str(value)
    with pytest.raises(InputError, match=rf"{key} has no effect"):
        read(base, [f"--{key}", word])


def test_what_a_key_has_in_any_case_is_no_error() -> None:
    _, sft, _ = read_sft({**SFT, "do_train": False, "truncation_mode": "keep_start"})
    assert (sft.do_train, sft.truncation_mode) == (False, "keep_start")
    _, grpo, model = read_grpo({**GRPO, "disable_dropout": True, "lora_r": 16})
    assert (grpo.disable_dropout, model.lora_r) == (True, 16)


def test_reports_that_are_asked_for_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", lambda: ["tensorboard"])
    for keys, words in (({"report_to": "tensorboard"}, []), ({"report_to": ["tensorboard"]}, []),
                        ({}, ["--report_to", "tensorboard"]), ({}, ["--report_to=tensorboard"])):  # fmt: skip
        _, args, _ = read_sft({**SFT, **keys}, words)
        assert trainer_arguments(args, tmp_path).report_to == ["tensorboard"]


def test_reports_that_nobody_asked_for_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.is_kubeflow_available", lambda: True)
    for keys in ({}, {"report_to": "none"}, {"report_to": []}, {"run_name": "kubeflow"}):
        _, args, _ = read_sft({**SFT, **keys})
        assert trainer_arguments(args, tmp_path).report_to == []


@pytest.mark.parametrize("report_to", ["wandb", ["wandb", "tensorboard"]])
def test_reports_to_what_is_not_installed_are_refused_at_once(report_to: Any) -> None:
    with pytest.raises(InputError, match=r"report_to: wandb is not installed; install it"):
        read_sft({**SFT, "report_to": report_to})


def checkpoint(run: Path, name: str) -> Path:
    path = run / "checkpoints" / name
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": 1}))
    (path / "scheduler.pt").touch()
    return path


@pytest.mark.parametrize(
    "copied", ["checkpoint-10-backup", "checkpoint-best", "checkpoint-10 (copy)", "checkpoint-", "checkpoint-30.bak",
               "old-checkpoint-40", "checkpoint-\u0663"]
)  # fmt: skip
def test_a_copied_checkpoint_is_none(tmp_path: Path, copied: str) -> None:
    newest = checkpoint(tmp_path, "checkpoint-20")
    checkpoint(tmp_path, "checkpoint-9")
    checkpoint(tmp_path, copied)
    assert last_checkpoint(tmp_path) == str(newest)


def test_copies_alone_are_no_checkpoint(tmp_path: Path) -> None:
    checkpoint(tmp_path, "checkpoint-10-backup")
    assert last_checkpoint(tmp_path) is None


def test_a_checkpoint_without_its_schedule_is_no_start(tmp_path: Path) -> None:
    older = checkpoint(tmp_path, "checkpoint-3")
    (checkpoint(tmp_path, "checkpoint-6") / "scheduler.pt").unlink()
    assert last_checkpoint(tmp_path) == str(older)
    (tmp_path / "checkpoints" / "checkpoint-6" / "global_step6").mkdir()  # DeepSpeed's
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoints" / "checkpoint-6")


@pytest.mark.parametrize("read", [read_sft, read_grpo])
def test_checkpoints_of_the_model_alone_are_refused(read: Any) -> None:
    config = SFT if read is read_sft else GRPO
    read({**config, "save_only_model": False})
    with pytest.raises(InputError, match=r"save_only_model: .* set save_total_limit: 1 to save space"):
        read({**config, "save_only_model": True})
