"""What a model reads belongs to what it is: its tokenizer and chat template as well as its weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.evaluation.evaluate import evaluate
from benchmarks.evaluation.predictions import read_facts, read_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.models.engines import Engine, open_engine
from benchmarks.models.folders import check_adapter, resolve_model
from benchmarks.runs import open_run
from rewards import InputError

ITEMS = pd.DataFrame({"cell_line": "rpe1", "pert": "A", "gene": [f"G{at}" for at in range(4)], "label": "upregulated"})
ITEMS["item_id"] = "rpe1|A|" + ITEMS["gene"]
MESSAGES = [[{"role": "user", "content": f"What happens to {gene}?"}] for gene in ITEMS["gene"]]
PROTOCOL = Protocol(data="digest", max_tokens=2, scores="votes")


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


class StoppedError(Exception):
    pass


def stop_after_the_first_chunk(engine: Engine, run: Path) -> None:
    def progress(done: float, total: int, tokens: int) -> None:
        if done >= 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        evaluate(engine, ITEMS, MESSAGES, PROTOCOL, run, chunk=2, progress=progress)


def edit_template(model: Path) -> None:
    file = model / "chat_template.jinja"
    file.write_text(file.read_text() + "{# edited #} Think hard.")


def edit_tokenizer(model: Path) -> None:
    file = model / "tokenizer.json"
    value = json.loads(file.read_text())
    merges = value["model"]["merges"]
    value["model"]["merges"] = merges[: len(merges) // 2]
    file.write_text(json.dumps(value))


def edit_json(model: Path, name: str, **keys: Any) -> None:
    file = model / name
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**before, **keys}))


def edit_special_tokens(model: Path) -> None:
    edit_json(model, "tokenizer_config.json", bos_token="<|endoftext|>")


@pytest.mark.parametrize(
    ("edit", "key"),
    [(edit_template, "tokenizer"), (edit_tokenizer, "tokenizer"), (edit_special_tokens, "special_tokens")],
)
def test_an_evaluation_does_not_go_on_with_another_reading(model: Path, tmp_path: Path, edit, key: str) -> None:  # type: ignore[no-untyped-def]
    run = tmp_path / "run"
    stop_after_the_first_chunk(open_engine("transformers", model, dtype="float32"), run)
    edit(model)
    engine = open_engine("transformers", model, dtype="float32")
    with pytest.raises(InputError, match=key):
        evaluate(engine, ITEMS, MESSAGES, PROTOCOL, run, chunk=2)


READINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "the first token": ("tokenizer_config.json", {"bos_token": "<|endoftext|>"}),
    "whether it is added": ("tokenizer_config.json", {"add_bos_token": True}),
    "the class": ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}),
    "further special tokens": ("tokenizer_config.json", {"additional_special_tokens": ["<x>"]}),
    "added tokens": ("added_tokens.json", {"<x>": 49152}),
    "the map of special tokens": ("special_tokens_map.json", {"bos_token": "<x>"}),
    "the end of a reply": ("generation_config.json", {"eos_token_id": [0, 2]}),
}


@pytest.mark.parametrize("what", READINGS)
def test_each_thing_that_changes_reading_or_stopping_is_told(what: str, model: Path) -> None:
    before = resolve_model(model).inputs("model")
    name, keys = READINGS[what]
    edit_json(model, name, **keys)
    after = resolve_model(model).inputs("model")
    assert {key for key in before if before[key] != after[key]} == {"special tokens of model"}


def test_a_vocabulary_of_another_name_is_told(model: Path) -> None:
    before = resolve_model(model).special_tokens_sha256
    (model / "spiece.model").write_bytes(b"words")
    assert resolve_model(model).special_tokens_sha256 != before


def test_what_saving_again_changes_is_no_other_reading(model: Path) -> None:
    before = resolve_model(model).inputs("model")
    bos = json.loads((model / "tokenizer_config.json").read_text())["bos_token"]
    edit_json(
        model, "tokenizer_config.json", name_or_path="elsewhere", local_files_only=True, padding_side="left",
        bos_token={"content": bos, "lstrip": False}, mask_token=None,
    )  # fmt: skip
    edit_json(model, "generation_config.json", transformers_version="9", temperature=0.6)
    assert resolve_model(model).inputs("model") == before


def test_an_evaluation_goes_on_as_it_was(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stop_after_the_first_chunk(open_engine("transformers", model, dtype="float32"), run)
    path = evaluate(open_engine("transformers", model, dtype="float32"), ITEMS, MESSAGES, PROTOCOL, run, chunk=2)
    assert sorted(read_predictions(path)["item_id"]) == sorted(ITEMS["item_id"])


def without(facts: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {**facts, "engine": {key: value for key, value in facts["engine"].items() if key not in keys}}


def test_an_evaluation_from_before_goes_on(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions wrote down less of what a model is."""
    run, engine = tmp_path / "run", open_engine("transformers", model, dtype="float32")
    facts = engine.facts()
    with monkeypatch.context() as before:
        old = without({"engine": facts}, "tokenizer_sha256", "special_tokens_sha256", "prompts_hold_date")["engine"]
        before.setattr(type(engine), "facts", lambda self: old)
        stop_after_the_first_chunk(engine, run)
    path = evaluate(engine, ITEMS, MESSAGES, PROTOCOL, run, chunk=2)
    assert read_facts(path)["engine"] == facts


def test_a_run_folder_holds_model_and_template(tmp_path: Path, model: Path) -> None:
    inputs = resolve_model(model).inputs("model")
    run = open_run(tmp_path / "run", "eval", {"model": str(model)}, inputs)
    run.finish()
    assert open_run(tmp_path / "run", "eval", {"model": str(model)}, inputs).done
    edit_template(model)
    with pytest.raises(InputError, match="changed since: tokenizer and chat template of model"):
        open_run(tmp_path / "run", "eval", {"model": str(model)}, resolve_model(model).inputs("model"))


def test_an_adapter_of_a_base_with_another_template_is_refused(model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from sft.training import save_adapter

    lm = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=2, target_modules=["q_proj"]))

    class Accelerator:
        is_main_process = True

        def unwrap_model(self, one: object) -> object:
            return one

    class Trainer:
        model = lm
        accelerator = Accelerator()

    save_adapter(Trainer(), tmp_path / "adapter", model, ["rpe1|A|G0"])
    check_adapter(tmp_path / "adapter", model)
    edit_template(model)
    with pytest.raises(InputError, match="chat template"):
        check_adapter(tmp_path / "adapter", model)


@pytest.mark.parametrize("call", ["strftime_now('%d %b %Y')", "strftime_now ( '%Y' )"])
def test_a_template_that_prints_the_date_is_told_of(model: Path, call: str, caplog: pytest.LogCaptureFixture) -> None:
    file = model / "chat_template.jinja"
    file.write_text("Today: {{ " + call + " }}\n" + file.read_text())
    engine = open_engine("transformers", model, dtype="float32")
    assert any("date" in message for message in caplog.messages)
    assert engine.facts()["prompts_hold_date"] is True


def test_a_template_without_a_date_says_nothing(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_engine("transformers", model, dtype="float32")
    assert not caplog.messages
