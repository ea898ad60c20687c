"""The generation engines, in one table: vLLM, transformers, any OpenAI-compatible server.

To add one, write it in a file of its own and add a line to `ENGINES`.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import check_dtype
from benchmarks.models.folders import model_fingerprint
from benchmarks.models.generation import Decoding, Engine, Generation, Request
from benchmarks.models.server import OpenAIEngine
from benchmarks.models.transformers_engine import TransformersEngine
from benchmarks.models.vllm_engine import VLLMEngine, has_vllm
from rewards import InputError

__all__ = [
    "ENGINES",
    "Decoding",
    "Engine",
    "Generation",
    "OpenAIEngine",
    "Request",
    "TransformersEngine",
    "VLLMEngine",
    "check_engine",
    "engine_names",
    "has_vllm",
    "model_fingerprint",
    "open_engine",
    "takes",
]

# By value of the key `engine`. An engine gets those arguments of `open_engine` that its own parameters name.
ENGINES: Final[dict[str, Callable[..., Engine]]] = {
    "vllm": VLLMEngine,
    "transformers": TransformersEngine,
    "openai": OpenAIEngine,
}


def engine_names() -> tuple[str, ...]:
    """Return the values that the key `engine` allows: `auto`, or one of the table."""
    return "auto", *ENGINES


def check_engine(name: str) -> None:
    """Raise an `InputError` if there is no engine of that name."""
    if name not in engine_names():
        raise InputError(f"engine: {name!r} is unknown; use one of {', '.join(engine_names())}")


def open_engine(
    name: str,
    model: str | Path,
    adapter: Path | None = None,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    max_model_len: int | None = None,
    base_url: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    max_tokens_key: str = "max_tokens",
    extra_body: Mapping[str, Any] | None = None,
) -> Engine:
    """Open a generation engine.

    Args:
        name: `vllm`, `transformers`, `openai`, or `auto`: vLLM where it is installed and transformers elsewhere
            (`Engine.facts` says which).
        model: a model folder or hub id; for `openai` the server's name of the model.
        adapter: folder of a PEFT LoRA adapter of that model.
        revision: the model's revision on the hub.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the fast one on this machine; see `benchmarks.machine`.
        max_model_len: largest number of tokens of prompt and completion together, at least 1; vLLM reserves memory for
            it. None for the model's own context.
        base_url: the OpenAI-compatible server's URL, with its `/v1`.
        api_key_env, max_tokens_key, extra_body: see `OpenAIEngine`.

    Returns:
        The engine; close it after use.

    Raises:
        InputError: an argument is unknown, does not fit the engine, or names something that does not exist.
        CheckError: vLLM does not start.
    """
    check_engine(name)
    check_dtype(dtype)
    if name == "auto":
        name = "vllm" if has_vllm() else "transformers"
    if max_model_len is not None and max_model_len < 1:
        raise InputError(f"max_model_len: is {max_model_len}; it must be at least 1")
    given = {
        "model": model, "adapter": adapter, "revision": revision, "dtype": dtype, "max_model_len": max_model_len,
        "base_url": base_url, "api_key_env": api_key_env, "max_tokens_key": max_tokens_key,
        "extra_body": extra_body or None,
    }  # fmt: skip
    known = signature(open_engine).parameters
    for key, value in given.items():
        if not takes(name, key) and value != known[key].default:
            raise InputError(f"engine: {name} takes no {key}; leave it out, or use engine: {_who_takes(key)}")
    return ENGINES[name](**{key: value for key, value in given.items() if takes(name, key)})


def takes(name: str, key: str) -> bool:
    """Return whether the engine of a name, which is not `auto`, has a parameter `key`."""
    return key in signature(ENGINES[name]).parameters


def _who_takes(key: str) -> str:
    return " or ".join(name for name in ENGINES if takes(name, key))
