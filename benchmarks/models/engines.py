"""Generation engines: one interface over vLLM, transformers and any OpenAI-compatible server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from benchmarks.machine import check_dtype
from benchmarks.models.folders import model_fingerprint
from benchmarks.models.generation import Decoding, Engine, Generation, Request
from benchmarks.models.server import OpenAIEngine
from benchmarks.models.transformers_engine import TransformersEngine
from benchmarks.models.vllm_engine import VLLMEngine, has_vllm
from rewards import InputError

__all__ = [
    "Decoding",
    "Engine",
    "EngineName",
    "Generation",
    "OpenAIEngine",
    "Request",
    "TransformersEngine",
    "VLLMEngine",
    "has_vllm",
    "model_fingerprint",
    "open_engine",
]

EngineName: TypeAlias = Literal["auto", "vllm", "transformers", "openai"]
ENGINES: Final = ("auto", "vllm", "transformers", "openai")


def open_engine(
    name: EngineName,
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
        name: `auto` takes vLLM where it is installed and transformers elsewhere; `Engine.facts` says which.
        model: a model folder or hub id; for `openai` the name the server knows the model by.
        adapter: a PEFT LoRA adapter of that model.
        revision: the model's revision on the hub.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for what is fast here; see `benchmarks.machine`.
        max_model_len: tokens that vLLM makes room for per sequence; None for the model's own context.
        base_url: the OpenAI-compatible server's URL, with its `/v1`.
        api_key_env, max_tokens_key, extra_body: see `OpenAIEngine`.

    Raises:
        InputError: an argument is unknown, does not fit the engine, or names something that is not there.
        CheckError: vLLM does not start.
    """
    if name not in ENGINES:
        raise InputError(f"engine: {name!r} is unknown; use one of {', '.join(ENGINES)}")
    check_dtype(dtype)
    if name == "openai":
        if base_url is None:
            raise InputError("engine: openai needs base_url, such as http://localhost:8000/v1")
        if adapter is not None or revision is not None:
            raise InputError("engine: openai takes no adapter or revision; let the server load it and give its name")
        return OpenAIEngine(
            base_url, str(model), api_key_env=api_key_env, max_tokens_key=max_tokens_key, extra_body=extra_body
        )
    if extra_body:
        raise InputError(f"extra_body: is for engine: openai, not {name}; leave it out")
    if base_url is not None:
        raise InputError(f"base_url: is for engine: openai, not {name}; leave it out")
    if name == "transformers" or (name == "auto" and not has_vllm()):
        return TransformersEngine(model, adapter, revision=revision, dtype=dtype)
    return VLLMEngine(model, adapter, revision=revision, dtype=dtype, max_model_len=max_model_len)
