"""What both stages share: the tokenizer to train with, and the log of a run."""

import json
from types import SimpleNamespace

import pytest

from rewards import InputError
from sft.training import load_tokenizer, log_callback


def test_tags_that_are_special_tokens_are_refused(tiny_tokenizer, tmp_path):
    from transformers import AutoTokenizer

    changed = AutoTokenizer.from_pretrained(tiny_tokenizer)
    changed.add_special_tokens({"additional_special_tokens": ["</think>"]})
    changed.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="</think> is a special token"):
        load_tokenizer(tmp_path)


def test_the_log_is_written_as_the_run_goes_and_a_resumed_run_has_each_entry_once(tmp_path):
    def log(callback, state, step):
        state.log_history.append({"loss": 1.0, "step": step})
        callback.on_log(None, state, None)

    def steps():
        return [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    state = SimpleNamespace(is_world_process_zero=True, log_history=[])
    callback = log_callback(tmp_path)
    callback.on_train_begin(None, state, None)
    for step in (1, 2, 3):
        log(callback, state, step)
        assert steps() == list(range(1, step + 1))
    state.log_history = state.log_history[:2]  # resumed from the checkpoint of step 2
    callback.on_train_begin(None, state, None)
    log(callback, state, 3)
    assert steps() == [1, 2, 3]
    other = SimpleNamespace(is_world_process_zero=False, log_history=[])
    callback.on_train_begin(None, other, None)
    log(callback, other, 9)
    assert steps() == [1, 2, 3]
