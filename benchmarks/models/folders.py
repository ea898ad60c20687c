"""Model and adapter folders: find them, fingerprint them, and refuse a mismatch before anything is loaded."""

import hashlib
import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from benchmarks.files import write_text
from rewards import InputError

TRAINED_ITEMS: Final = "items.txt"
_MARKS: Final = "synthpert.json"
_TOKENIZER: Final = "tokenizer_config.json"
_VOCABULARIES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
# Further files that a tokenizer may consist of.
_FURTHER: Final = ("added_tokens.json", "special_tokens_map.json", "spiece.model", "sentencepiece.bpe.model")
# Keys of tokenizer_config.json that do not affect how text is read, or that change when it is saved again. The chat
# template has its own digest.
_UNREAD: Final = frozenset({
    "chat_template", "name_or_path", "tokenizer_file", "special_tokens_map_file", "transformers_version", "backend",
    "is_local", "local_files_only", "processor_class", "model_max_length", "max_length", "stride", "padding_side",
    "truncation_side", "truncation_strategy", "pad_to_multiple_of", "pad_token_type_id",
})  # fmt: skip
_BLOCK: Final = 4096  # bytes in each sample that a fingerprint reads
_STRIDE: Final = 4 << 20  # bytes between the starts of two samples within a tensor
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")
# Parts of parameter names in a PEFT model that only an adapter's tensors have.
_OF_ADAPTERS: Final = (".lora_", ".modules_to_save.")
# Keys of config.json that change when the same weights are saved again.
_VOLATILE: Final = ("_name_or_path", "_model_name_or_path", "transformers_version")


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk, with the fingerprints that every stage stores and compares.

    Attributes:
        path: the folder with `config.json`, the tokenizer and `*.safetensors`.
        name: what the user called it: a hub id, or the folder's name.
        revision: the hub's commit; None for a plain folder.
    """

    path: Path
    name: str
    revision: str | None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of configuration and weights; see `model_fingerprint`."""
        return model_fingerprint(self.path)

    @cached_property
    def tokenizer_sha256(self) -> str:
        """SHA-256 of tokenizer and chat template; see `tokenizer_sha256`."""
        return tokenizer_sha256(self.path)

    @cached_property
    def special_tokens_sha256(self) -> str:
        """SHA-256 of special tokens and the tokenizer's settings; see `special_tokens_sha256`."""
        return special_tokens_sha256(self.path)

    def inputs(self, key: str) -> dict[str, str]:
        """Return the fingerprints that must be unchanged when a run resumes; `key` is the configuration's key."""
        return {
            key: self.fingerprint,
            f"tokenizer and chat template of {key}": self.tokenizer_sha256,
            f"special tokens of {key}": self.special_tokens_sha256,
        }

    def facts(self) -> dict[str, Any]:
        """Return what the manifest of a training run stores about its base model."""
        return {
            "name": self.name,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "tokenizer_sha256": self.tokenizer_sha256,
            "special_tokens_sha256": self.special_tokens_sha256,
        }


def resolve_model(model: str | Path, revision: str | None = None) -> ModelFolder:
    """Return the folder of a model, given as a folder or as a hub id (downloaded unless it is in the cache).

    Args:
        model: a folder, or `organisation/name` on the Hugging Face hub.
        revision: branch, tag or commit on the hub; must be None for a folder.

    Returns:
        The folder.

    Raises:
        InputError: there is no such folder and no such model on the hub, or the folder holds no safetensors weights.
    """
    path = Path(model)
    if path.is_dir():
        if revision is not None:
            raise InputError(f"{model}: is a folder and has no revision {revision!r}; leave the revision out")
        folder = ModelFolder(path, path.resolve().name, None)
    elif not is_hub_id(model):
        raise InputError(
            f"{model}: no such model folder; give a folder with config.json and *.safetensors, or a hub id"
        )
    else:
        folder = _download(str(model), revision)
    if not (folder.path / "config.json").is_file():
        raise InputError(f"{model}: holds no config.json; give the folder of a model")
    if not any(folder.path.glob("*.safetensors")):
        raise InputError(f"{model}: holds no *.safetensors; other weight formats are not read, save it as safetensors")
    return folder


def is_hub_id(model: str | Path) -> bool:
    """Return whether a model is looked for on the hub: `organisation/name`, with no folder `organisation` here."""
    return isinstance(model, str) and bool(_HUB_ID.fullmatch(model)) and not Path(model).parent.is_dir()


def _download(model: str, revision: str | None) -> ModelFolder:
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(
            model, revision=revision, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
        )
    except Exception as error:  # errors of the hub client, of its HTTP client and of the system
        raise InputError(
            f"{model}: no such folder, and the hub does not return it ({type(error).__name__}); check the name, the "
            "network and HF_TOKEN, or give a folder"
        ) from error
    return ModelFolder(Path(path), model, Path(path).name)


def model_fingerprint(path: Path) -> str:
    """Return a SHA-256 that distinguishes models without reading all of their weights.

    It covers:

    - `config.json`, without the path and version, which change when the model is saved again;
    - the name, size and header of each `*.safetensors` file;
    - the first and the last 4 KiB of every tensor, and 4 KiB at every 4 MiB within it.

    Args:
        path: a model folder.

    Returns:
        The digest, in hexadecimal.

    Raises:
        InputError: `config.json` or a safetensors header cannot be read, or weights are cut off.
    """
    config = {key: value for key, value in read_json(path / "config.json").items() if key not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(path.glob("*.safetensors")):
        size, header = file.stat().st_size, _header_bytes(file)
        digest.update(f"\n{file.name}\n{size}\n".encode())
        digest.update(header)
        data = 8 + len(header)
        with file.open("rb", buffering=0) as weights:
            for start, end in sorted(entry.span for entry in _tensors(file).values()):
                if data + end > size:
                    raise InputError(f"{file}: is no complete safetensors file; copy or download it again")
                for offset in (*range(start, end, _STRIDE), max(start, end - _BLOCK)):
                    weights.seek(data + offset)
                    digest.update(weights.read(min(_BLOCK, end - offset)))
    return digest.hexdigest()


def tokenizer_sha256(path: Path) -> str:
    """Return the SHA-256 of how a model reads text and how a chat is rendered for it.

    It covers the tokenizer's vocabulary files, the chat template, and the token that ends a turn. The `padding` and
    `truncation` of `tokenizer.json` are left out: they are those of the last batch before it was saved.

    Args:
        path: a model folder.

    Returns:
        The digest, in hexadecimal.

    Raises:
        InputError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in _VOCABULARIES:
        if (file := path / name).is_file():
            digest.update(f"\n{name}\n".encode())
            if name == "tokenizer.json":
                read = {key: value for key, value in read_json(file).items() if key not in ("padding", "truncation")}
                digest.update(json.dumps(read, sort_keys=True).encode())
            else:
                digest.update(file.read_bytes())
    config = read_json(path / _TOKENIZER) if (path / _TOKENIZER).is_file() else {}
    file = path / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    end = config.get("eos_token")
    digest.update(json.dumps([template, end["content"] if isinstance(end, dict) else end], sort_keys=True).encode())
    return digest.hexdigest()


def special_tokens_sha256(path: Path) -> str:
    """Return the SHA-256 of the remaining settings that decide how a model reads text and where it stops.

    It covers:

    - `tokenizer_config.json` (class, special tokens, and which of them are added), without the chat template and
      without keys that change when it is saved again;
    - files of tokens that `tokenizer_sha256` leaves out;
    - the tokens that end a reply, from `generation_config.json`.

    It is separate from `tokenizer_sha256`, so that the digests that earlier runs stored still match.

    Args:
        path: a model folder.

    Returns:
        The digest, in hexadecimal.

    Raises:
        InputError: a file cannot be read.
    """
    config = _settings(path / _TOKENIZER)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in _FURTHER:
        if (file := path / name).is_file():
            digest.update(f"\n{name}\n".encode())
            is_json = file.suffix == ".json"
            digest.update(json.dumps(_settings(file), sort_keys=True).encode() if is_json else file.read_bytes())
    ends = _settings(path / "generation_config.json").get("eos_token_id", [])
    digest.update(json.dumps(sorted(ends if isinstance(ends, list) else [ends], key=str)).encode())
    return digest.hexdigest()


def _settings(file: Path) -> dict[str, Any]:
    """A tokenizer's settings, each token as its text without flags; empty where the file does not exist."""
    read = read_json(file) if file.is_file() else {}
    return {key: _text_of(value) for key, value in read.items() if key not in _UNREAD and value is not None}


def _text_of(value: Any) -> Any:
    if isinstance(value, list):
        return [_text_of(one) for one in value]
    return value["content"] if isinstance(value, dict) and "content" in value else value


def adapter_sha256(path: Path) -> str:
    """Return the SHA-256 of an adapter's configuration and weights (`adapter_config.json`, `*.safetensors`).

    The path of the base model in the configuration is left out. The configuration's lists are sorted: they are sets,
    which PEFT writes in any order. The same adapter therefore has the same hash on every machine.

    Args:
        path: an adapter folder.

    Raises:
        InputError: `adapter_config.json` cannot be read.
    """
    config = read_json(path / "adapter_config.json")
    config.pop("base_model_name_or_path", None)
    config = {key: sorted(value, key=str) if isinstance(value, list) else value for key, value in config.items()}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(path.glob("*.safetensors")):
        digest.update(f"\n{file.name}\n".encode())
        with file.open("rb") as weights:
            digest.update(hashlib.file_digest(weights, "sha256").digest())
    return digest.hexdigest()


def mark_adapter(adapter: Path, base: Path) -> None:
    """Write the fingerprints of the base model beside an adapter's weights, for `check_adapter`.

    Args:
        adapter: the adapter's folder.
        base: the folder of its base model.
    """
    marks = {
        "model_fingerprint": model_fingerprint(base),
        "tokenizer_sha256": tokenizer_sha256(base),
        "special_tokens_sha256": special_tokens_sha256(base),
    }
    write_text(adapter / _MARKS, json.dumps(marks) + "\n")


def write_trained_items(adapter: Path, item_ids: Iterable[str]) -> None:
    """Write the ids of all items an adapter was trained on, in all stages, beside its weights, one per line."""
    write_text(adapter / TRAINED_ITEMS, "".join(f"{item}\n" for item in sorted(set(item_ids))))


def read_trained_items(adapter: Path) -> frozenset[str] | None:
    """Return the ids of the items that an adapter was trained on; None where its folder does not say."""
    file = adapter / TRAINED_ITEMS
    return frozenset(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else None


def check_adapter_folder(adapter: Path) -> None:
    """Raise an `InputError` if a folder is missing or holds no adapter. It names an adapter in a subfolder."""
    if (adapter / "adapter_config.json").is_file():
        return
    what = "holds no adapter_config.json" if adapter.is_dir() else "no such folder"
    within = next((file.parent for file in sorted(adapter.glob("*/adapter_config.json"))), None)
    remedy = "give the folder of a PEFT adapter" if within is None else f"did you mean {within}?"
    raise InputError(f"{adapter}: {what}; {remedy}")


def check_adapter(adapter: Path, base: Path) -> dict[str, Any]:
    """Refuse an adapter folder that is not a LoRA adapter of `base`. Of the base only headers are read.

    Three things are checked:

    - The fingerprints in the adapter's `synthpert.json` (see `mark_adapter`), if it has one, are those of `base`.
    - Shapes agree, module by module. Quantised bases and fused experts are skipped: their files have another layout.
    - Each tensor belongs to a module when PEFT loads the adapter, and each module that the configuration names gets its
      tensors. PEFT itself only warns about tensors it leaves out, and vLLM ignores missing ones without a warning.

    Args:
        adapter: the adapter's folder.
        base: the model's folder.

    Returns:
        The adapter's configuration.

    Raises:
        InputError: a file is missing or cannot be read; the adapter was trained on another base model, tokenizer or
            chat template; or a tensor would not be loaded or is missing.
    """
    check_adapter_folder(adapter)
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():
        raise InputError(
            f"{adapter}: holds no adapter_model.safetensors; other weight formats are not read, save it as safetensors"
        )
    config = read_json(adapter / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise InputError(
            f"{adapter}: is a {config.get('peft_type')} adapter; only LoRA is supported; train a LoRA adapter"
        )
    if (adapter / _MARKS).is_file():
        _check_marks(adapter, base)
    if "quantization_config" not in read_json(base / "config.json"):
        _check_shapes(adapter, weights, base)
    _check_loads(adapter, weights, base)
    return config


def _check_marks(adapter: Path, base: Path) -> None:
    marks = read_json(adapter / _MARKS)
    # Older adapters lack some of these marks. Their `base_fingerprint` covers less of the weights and is not compared.
    for what, wanted, found in (
        ("base model", marks.get("model_fingerprint"), model_fingerprint(base)),
        ("tokenizer or chat template", marks.get("tokenizer_sha256"), tokenizer_sha256(base)),
        ("set of special tokens", marks.get("special_tokens_sha256"), special_tokens_sha256(base)),
    ):
        if wanted is not None and wanted != found:
            raise InputError(
                f"{adapter}: is an adapter of another {what} (fingerprint {str(wanted)[:12]}…, {base} has "
                f"{found[:12]}…); give the base it was trained on"
            )


def _check_shapes(adapter: Path, weights: Path, base: Path) -> None:
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for file in base.glob("*.safetensors"):
        for name, tensor in _tensors(file).items():
            shapes.setdefault(_module(name.removesuffix(".weight")), set()).add(tensor.shape)
    lora = {name: tensor.shape for name, tensor in _tensors(weights).items()}
    for name, a_shape in lora.items():
        if not name.endswith(".lora_A.weight") or ".experts." in name:
            continue
        module = _module(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        b_shape = lora.get(name.replace(".lora_A.", ".lora_B."), ())
        found = shapes.get(module)
        if found is None and module == "lm_head":
            found = {shape for key, all_of in shapes.items() if key.endswith("embed_tokens") for shape in all_of}
        # GPT-2's Conv1D stores its weight transposed.
        wanted = (b_shape[0], a_shape[1]) if len(a_shape) == 2 and len(b_shape) == 2 else None
        if not found or wanted is None or not ({wanted, wanted[::-1]} & found):
            has = f"has {min(found)} there" if found else "has no such module"
            raise InputError(
                f"{adapter}: is an adapter of another base model: {module} needs {wanted}, {base} {has}; give the base "
                "it was trained on"
            )


def _check_loads(adapter: Path, weights: Path, base: Path) -> None:
    """Load the adapter as PEFT does, on the model without its weights. Refuse tensors that are unused or missing."""
    import torch
    from peft import LoraConfig, PeftModelForCausalLM, load_peft_weights, set_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():  # all processes would have to build the model together; evaluation checks it later
        return
    if "auto_map" in read_json(base / "config.json"):  # the base has its own code, which only `load_base` may run
        return
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(base, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        lora = LoraConfig.from_pretrained(str(adapter))
        lora.init_lora_weights = False  # initial values would be computed from weights, which are not loaded
        model = PeftModelForCausalLM(model, lora, low_cpu_mem_usage=True)
        tensors = load_peft_weights(str(adapter), device="cpu")
        found = set_peft_model_state_dict(model, tensors, low_cpu_mem_usage=True)
    except KeyError as error:  # of a module that is stored whole (`modules_to_save`)
        raise InputError(f"{weights}: lacks {error.args[0]}; copy the whole file, or save the adapter again") from error
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{adapter}: does not load on {base} ({reason}); give the base it was trained on") from error
    if left := sorted(found.unexpected_keys):
        raise InputError(
            f"{weights}: {len(left)} of {len(tensors)} tensors belong to no module that adapter_config.json names in "
            f"{base}, the first {left[0]}; save the adapter again from PEFT's own model, not from a wrapper of it"
        )
    if absent := sorted(key for key in found.missing_keys if any(part in key for part in _OF_ADAPTERS)):
        raise InputError(
            f"{weights}: lacks {len(absent)} tensors of modules that adapter_config.json names, the first "
            f"{absent[0].replace('.default', '')}; copy the whole file, or save the adapter again"
        )


def _module(name: str) -> str:
    """A module's name from its layer number on; prefixes (`model.`, `language_model.`) differ between versions."""
    return name[name.rindex("layers.") :] if "layers." in name else name


def _header_bytes(file: Path) -> bytes:
    with file.open("rb") as weights:
        start = weights.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = weights.read(length) if length < 1 << 30 else b""
    if not length or len(header) != length:
        raise InputError(f"{file}: is no complete safetensors file; copy or download it again")
    return header


@dataclass(frozen=True)
class _Tensor:
    """A tensor's entry in a safetensors header: its shape, its first byte and the byte after its last."""

    shape: tuple[int, ...]
    span: tuple[int, int]


def _tensors(file: Path) -> dict[str, _Tensor]:
    try:
        header = json.loads(_header_bytes(file))
        return {
            name: _Tensor(tuple(entry["shape"]), (int(entry["data_offsets"][0]), int(entry["data_offsets"][1])))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: its safetensors header does not read; copy or download it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InputError: the file cannot be read or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())}); restore it") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, not a JSON object; restore it")
    return value
