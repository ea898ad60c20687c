"""Model and adapter folders that do not fit are refused before anything is loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.models import folders
from benchmarks.models.folders import (
    adapter_sha256,
    check_adapter,
    mark_adapter,
    model_fingerprint,
    resolve_model,
    tokenizer_sha256,
)
from rewards import InputError

Q_PROJ = "layers.0.self_attn.q_proj"
CONFIG = {
    "model_type": "llama", "vocab_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "transformers_version": "5.17.0",
}  # fmt: skip


def make_model(path: Path, hidden: int = 8, prefix: str = "model.") -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": hidden}))
    weights = {
        f"{prefix}embed_tokens.weight": np.zeros((32, hidden), np.float32),
        f"{prefix}{Q_PROJ}.weight": np.zeros((hidden, hidden), np.float32),
    }
    save_file(weights, path / "model.safetensors")
    return path


def make_adapter(path: Path, hidden: int = 8, module: str = f"model.{Q_PROJ}", peft_type: str = "LORA") -> Path:
    path.mkdir(parents=True)
    config = {
        "peft_type": peft_type, "task_type": "CAUSAL_LM", "r": 2, "target_modules": ["q_proj"],
        "base_model_name_or_path": str(path),
    }  # fmt: skip
    (path / "adapter_config.json").write_text(json.dumps(config))
    weights = {
        f"base_model.model.{module}.lora_A.weight": np.zeros((2, hidden), np.float32),
        f"base_model.model.{module}.lora_B.weight": np.ones((hidden, 2), np.float32),
    }
    save_file(weights, path / "adapter_model.safetensors")
    return path


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = resolve_model(make_model(tmp_path / "tiny"))
    assert (folder.path, folder.name, folder.revision) == (tmp_path / "tiny", "tiny", None)


@pytest.mark.parametrize("name", ["/no/such/folder", "./tiny", "tiny", "a/b/c", "-"])
def test_a_path_that_does_not_exist(name: str) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        resolve_model(name)


def test_a_relative_path_below_a_folder_that_exists_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match="models/smollm: no such model folder"):
        resolve_model("models/smollm")


def test_a_hub_id_that_is_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"^some-org/some-model: no such folder, and the hub does not return it \(\w+\);"
    ):
        resolve_model("some-org/some-model")


def test_a_folder_without_weights_config_or_with_a_revision(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny")
    with pytest.raises(InputError, match="has no revision 'main'"):
        resolve_model(model, "main")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds no \*\.safetensors"):
        resolve_model(model)
    (model / "config.json").unlink()
    with pytest.raises(InputError, match=r"holds no config\.json"):
        resolve_model(model)


def test_fingerprint_sees_weights_and_config_but_not_where_or_with_what_it_was_saved(tmp_path: Path) -> None:
    model = make_model(tmp_path / "a")
    first = model_fingerprint(model)
    config = {**CONFIG, "hidden_size": 8, "transformers_version": "9", "_name_or_path": "elsewhere"}
    (model / "config.json").write_text(json.dumps(config))
    assert model_fingerprint(model) == first
    (model / "config.json").write_text(json.dumps({**config, "hidden_size": 9}))
    assert model_fingerprint(model) != first
    (model / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("tensor", "row"), [("a", 0), ("a", 3 << 20), ("b", 5), ("c", 1999)])
def test_every_tensor_has_a_part_in_the_fingerprint(tmp_path: Path, tensor: str, row: int) -> None:
    model = make_model(tmp_path / "a")
    tensors = {name: np.zeros(size, np.float32) for name, size in (("a", 4 << 20), ("b", 6), ("c", 2000))}
    save_file(tensors, model / "model-2.safetensors")
    first = model_fingerprint(model)
    tensors[tensor][row] = 1
    save_file(tensors, model / "model-2.safetensors")
    assert model_fingerprint(model) != first


def test_a_truncated_weight_file_is_named(tmp_path: Path) -> None:
    model = make_model(tmp_path / "a")
    whole = (model / "model.safetensors").read_bytes()
    for length in (40, len(whole) - 1):
        (model / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"model\.safetensors: is no complete safetensors file"):
            model_fingerprint(model)


def test_an_adapter_of_this_base_fits(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    assert check_adapter(adapter, make_model(tmp_path / "base"))["r"] == 2
    # The base wrapped for several modalities names its modules otherwise.
    assert check_adapter(adapter, make_model(tmp_path / "wrapped", prefix="model.language_model."))["r"] == 2


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    with pytest.raises(InputError, match=r"adapter of another base model: layers\.0.* needs \(16, 16\).* has \(8, 8\)"):
        check_adapter(make_adapter(tmp_path / "wide", hidden=16), base)
    with pytest.raises(InputError, match=r"adapter of another base model: layers\.7.* has no such module"):
        check_adapter(make_adapter(tmp_path / "deep", module="model.layers.7.self_attn.q_proj"), base)


def test_an_adapter_of_a_base_of_the_same_shape_is_told_by_its_marks(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter")
    mark_adapter(adapter, base)
    check_adapter(adapter, base)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(InputError, match="adapter of another tokenizer or chat template .*; give the base it was"):
        check_adapter(adapter, base)
    # As adapters were marked before: the tokenizer not at all, the weights by another fingerprint.
    (adapter / "synthpert.json").write_text(json.dumps({"base_fingerprint": "0" * 64}))
    check_adapter(adapter, base)
    (adapter / "synthpert.json").write_text(json.dumps({"model_fingerprint": "0" * 64}))
    with pytest.raises(InputError, match="adapter of another base model .fingerprint 000000000000"):
        check_adapter(adapter, base)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "model.language_model."])
def test_an_adapter_whose_tensors_find_no_module_is_refused(tmp_path: Path, wrapper: str) -> None:
    base, adapter = make_model(tmp_path / "base"), make_adapter(tmp_path / "adapter", module=f"{wrapper}{Q_PROJ}")
    wanted = rf"adapter_model\.safetensors: 2 of 2 tensors belong to no module .* first base_model\.model\.{wrapper}"
    with pytest.raises(InputError, match=wanted):
        check_adapter(adapter, base)


def _rewrite(adapter: Path, weights: dict[str, np.ndarray], **config: object) -> None:
    save_file(weights, adapter / "adapter_model.safetensors")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


def test_tensors_and_configuration_of_an_adapter_name_the_same_modules(tmp_path: Path) -> None:
    base, adapter = make_model(tmp_path / "base"), make_adapter(tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    for config, problem in (
        ({"target_modules": ["v_proj"]}, r"2 of 2 tensors belong to no module that adapter_config\.json names"),
        ({"target_modules": ["q_proj", "v_proj"]}, r"lacks 2 tensors of .* first .*v_proj\.lora_A\.weight; copy"),
        ({"use_dora": True}, r"lacks 1 tensors of .* first .*q_proj\.lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, r"lacks .*lm_head\.weight; copy the whole file"),
        ({"r": 4}, r"does not load on .*size mismatch"),
        ({"target_modules": ["nothing"]}, r"does not load on .*nothing"),
    ):
        _rewrite(adapter, weights, **{"target_modules": ["q_proj"], "r": 2, "use_dora": False, **config})
        with pytest.raises(InputError, match=problem):
            check_adapter(adapter, base)
        _rewrite(adapter, weights, modules_to_save=None)
    _rewrite(adapter, {**weights, "x": np.zeros(1, np.float32)}, target_modules=["q_proj"], r=2)
    with pytest.raises(InputError, match=r"1 of 3 tensors belong to no module .* the first x;"):
        check_adapter(adapter, base)


def test_a_tokenizer_is_told_by_its_words_its_template_and_its_end_of_turn(tmp_path: Path) -> None:
    def digest(tokenizer: dict[str, object], config: dict[str, object], template: str | None = None) -> str:
        (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
        if template is not None:
            (tmp_path / "chat_template.jinja").write_text(template)
        return tokenizer_sha256(tmp_path)

    words, config = {"model": {"vocab": {"a": 0}}}, {"eos_token": "<end>", "chat_template": "t"}
    first = digest(words, config)
    # What saving again may change.
    assert digest({**words, "padding": {"strategy": "BatchLongest"}}, {**config, "tokenizer_class": "Other"}) == first
    assert digest(words, {"eos_token": {"content": "<end>"}}, "t") == first
    others = [
        digest({"model": {"vocab": {"b": 0}}}, config),
        digest(words, {**config, "eos_token": "<stop>"}),
        digest(words, config, "another"),
    ]
    assert len({first, *others}) == 4


def test_the_fingerprint_of_a_model_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = resolve_model(make_model(tmp_path / "a"))
    facts = folder.facts()
    assert facts["fingerprint"] == model_fingerprint(folder.path)
    monkeypatch.setattr(folders, "model_fingerprint", lambda path: "again")
    assert folder.fingerprint == facts["fingerprint"]


def test_what_is_no_adapter_folder(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base")
    with pytest.raises(InputError, match=r"holds no adapter_config\.json"):
        check_adapter(tmp_path, base)
    with pytest.raises(InputError, match=r"none: no such folder; give the folder of a PEFT adapter"):
        check_adapter(tmp_path / "none", base)
    adapter = make_adapter(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"holds no adapter_config\.json; did you mean .*/adapter\?"):
        check_adapter(tmp_path, base)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no adapter_model\.safetensors"):
        check_adapter(adapter, base)
    with pytest.raises(InputError, match="only LoRA"):
        check_adapter(make_adapter(tmp_path / "ia3", peft_type="IA3"), base)
    adapter = tmp_path / "ia3"
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json: cannot be read as JSON"):
        check_adapter(adapter, base)


def test_adapter_hash_does_not_depend_on_where_its_base_lay(tmp_path: Path) -> None:
    a, b = make_adapter(tmp_path / "a"), make_adapter(tmp_path / "b")
    assert adapter_sha256(a) == adapter_sha256(b)
    weights = bytearray((b / "adapter_model.safetensors").read_bytes())
    weights[-1] ^= 1
    (b / "adapter_model.safetensors").write_bytes(weights)
    assert adapter_sha256(a) != adapter_sha256(b)
