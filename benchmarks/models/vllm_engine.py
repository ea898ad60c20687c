"""The vLLM engine, and everything specific to vLLM: its environment, its CPU build, its private names."""

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.chat import Message, encode_prompt
from benchmarks.machine import resolve_dtype, use_cpu_well
from benchmarks.models.generation import (
    TOP_LOGPROBS,
    Decoding,
    Generation,
    Request,
    Written,
    one_line,
    wants_logprobs,
)
from benchmarks.models.local import LocalModel, free_memory, load_peft
from rewards import CheckError, InputError

_TELL_EVERY: Final = 0.5  # seconds between reports of a batch that is being written
_GPU_SHARE: Final = 0.9  # of a GPU's memory
_CPU_BLOCK: Final = 32  # tokens; the smallest that the CPU's attention takes
_RANKS: Final = (8, 16, 32, 64, 128, 256, 320, 512)  # the LoRA ranks that vLLM has kernels for
# With these keys in its configuration, an adapter must be merged. vLLM refuses to apply it beside the model, or applies
# it wrongly: vLLM scales all layers of an adapter by `lora_alpha / r`.
_MERGED_ONLY: Final = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias")
# Undocumented names of vLLM that we use, as `module:Class.attribute`, and the version in which they were read.
READ_IN: Final = "0.31.0"
PRIVATE_NAMES: Final = (
    "vllm.entrypoints.llm:LLM.llm_engine",
    "vllm.v1.engine.llm_engine:LLMEngine.model_config",
    "vllm.v1.engine.llm_engine:LLMEngine.has_unfinished_requests",
    "vllm.v1.engine.llm_engine:LLMEngine.step",
    "vllm.v1.engine.llm_engine:LLMEngine.engine_core",
    "vllm.v1.engine.core_client:InprocClient.shutdown",
    # for `reload_weights`
    "vllm.v1.engine.llm_engine:LLMEngine.model_executor",
    "vllm.v1.executor.uniproc_executor:UniProcExecutor.driver_worker",
    "vllm.v1.worker.cpu_worker:CPUWorker.model_runner",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.reload_weights",
)
_TOKENS_WRITTEN: Final = "vllm:generation_tokens"  # the name of a metric
ENVIRONMENT: Final = {
    # vLLM runs in this process: no engine process survives a kill, and batches are formed the same way each time.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; only the CPU build reads it
}


def has_vllm() -> bool:
    """Return whether vLLM is installed; it is not imported."""
    return importlib.util.find_spec("vllm") is not None


def set_vllm_environment() -> None:
    """Set the environment variables that vLLM reads at its start in this process; variables already set stay."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def start_options(dtype: str) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM` common to every vLLM in this process.

    Args:
        dtype: `float32`, `bfloat16` or `float16`. (vLLM's own `auto` turns a float32 checkpoint into bfloat16.)
    """
    import torch

    options: dict[str, Any] = {"dtype": dtype, "use_tqdm_on_load": False}
    if not torch.cuda.is_available():
        # Without `enforce_eager`, vLLM compiles C++ at its start on a CPU, which needs a compiler. Prompts share whole
        # blocks only, and the CPU's default block of 128 tokens is half a prompt.
        options |= {"enforce_eager": True, "block_size": _CPU_BLOCK}
    return options


def reload_weights(llm: Any, weights: Iterator[tuple[str, Any]]) -> None:
    """Replace the weights of a vLLM that runs on a CPU.

    The CPU backend repacks weights. Loading them one by one, as TRL does, finds no weight loader there.

    Args:
        llm: a `vllm.LLM` of this process.
        weights: all tensors of the model, under the names of its checkpoint.
    """
    runner = llm.llm_engine.model_executor.driver_worker.model_runner
    runner.reload_weights(weights_iterator=weights, is_checkpoint_format=True)
    llm.reset_prefix_cache()


class VLLMEngine:
    """vLLM in this process, on a GPU or on the CPU build.

    Args:
        model, adapter, revision, dtype, max_model_len: see `open_engine`.

    Raises:
        InputError: vLLM is not installed, a folder is missing, or the adapter does not fit the model.
        CheckError: vLLM does not start.
    """

    name: Final = "vllm"

    def __init__(
        self,
        model: str | Path,
        adapter: Path | None = None,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        max_model_len: int | None = None,
    ) -> None:
        if not has_vllm():
            raise InputError("engine: vllm is not installed; set engine: transformers, or install vllm")
        # A waiting OpenMP thread spins, by default so long that it starves other processes on its core. On 2 cores with
        # one busy neighbour, generation took 10 times as long; with this setting, 5 times. It must come before torch.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
        self._model = LocalModel(model, adapter, revision)
        self._merged: tempfile.TemporaryDirectory[str] | None = None
        self._lora: Any = None
        self._llm: Any = None
        self._answered: set[tuple[int, ...]] = set()  # the prompts of the last batch, where it was of direct answers
        dtype = resolve_dtype(dtype)
        set_vllm_environment()
        # This must come before vLLM starts. On a CPU, vLLM disables `torch.set_num_threads`. It also compiles its
        # sampler, and the compiled sampler is wrong for AVX2 with two threads: it never draws some likely tokens
        # (tests/slow/test_old_cpu.py).
        use_cpu_well()
        path, options = self._model.folder.path, start_options(dtype)
        if adapter is not None and merges_adapter(self._model.adapter_config):
            self._merged = tempfile.TemporaryDirectory(prefix="synthpert-merged-")
            path = Path(self._merged.name)
            merge(self._model.folder.path, adapter, path, dtype)
        elif adapter is not None:
            from vllm.lora.request import LoRARequest

            self._lora = LoRARequest("adapter", 1, str(adapter.resolve()))
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(self._model.adapter_config)}
        self._start(path, max_model_len, options)

    def _start(self, path: Path, max_model_len: int | None, options: Mapping[str, Any]) -> None:
        """Start vLLM on the model in `path`."""
        import torch
        from vllm import LLM

        try:
            self._llm = LLM(
                model=str(path),
                tokenizer=str(self._model.folder.path),
                max_model_len=max_model_len,
                seed=0,  # each request has its own seed
                gpu_memory_utilization=_GPU_SHARE,
                trust_remote_code=False,
                load_format="safetensors",
                disable_log_stats=False,  # the statistics count tokens while a batch is written
                generation_config="vllm",  # decoding settings come from the protocol, not from the model's defaults
                # Read a prompt at once, never in parts. After a part, vLLM rewinds the request's random generator,
                # which torch cannot do on a CPU ("CPU Generator does not use offset").
                enable_chunked_prefill=torch.cuda.is_available(),
                **options,
            )
        except Exception as error:
            self.close()
            raise CheckError(
                f"vllm: does not start ({type(error).__name__}: {one_line(error)}); set a smaller max_model_len, or "
                "engine: transformers; on Linux it also needs libnuma (Debian: libnuma1)"
            ) from error
        config = self._llm.llm_engine.model_config
        self.context: int | None = int(config.max_model_len)
        self._dtype = str(config.dtype).removeprefix("torch.")
        self._device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the length of a rendered prompt in tokens."""
        return self._model.prompt_tokens(messages)

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        """Complete the requests; see `Engine.generate`."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                max_tokens=decoding.max_tokens,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                seed=request.seed if decoding.temperature > 0 else None,
                stop_token_ids=sorted(self._model.stop_ids),
                logprobs=TOP_LOGPROBS if wants_logprobs(decoding) else None,
                flat_logprobs=True,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [encode_prompt(self._model.tokenizer, request.messages) for request in requests]
        read = self._answered == {tuple(prompt) for prompt in prompts}
        outputs = self._run(prompts, params, written, keep_prefixes=read)
        return [self._generation(request, output.outputs[0]) for request, output in zip(requests, outputs, strict=True)]

    def answer_directly(self, prompts: Sequence[Sequence[Message]]) -> list[Generation]:
        """Answer after an empty thought; see `Engine.answer_directly`."""
        from vllm import SamplingParams

        if not hasattr(SamplingParams, "logprob_token_ids"):
            raise InputError(
                "vllm: this version tells no probabilities of chosen tokens, as scores: direct and both need; update "
                "it to 0.31, set engine: transformers, or set scores: logprobs"
            )
        encoded = [self._model.encode_direct(messages) for messages in prompts]
        params = [
            SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=labels, detokenize=False)
            for _, labels in encoded
        ]
        outputs = self._run([ids for ids, _ in encoded], params)
        self._answered = {tuple(encode_prompt(self._model.tokenizer, messages)) for messages in prompts}
        return [
            self._model.direct_generation(len(ids), [output.outputs[0].logprobs[0][token].logprob for token in labels])
            for (ids, labels), output in zip(encoded, outputs, strict=True)
        ]

    def _run(
        self,
        prompts: Sequence[list[int]],
        params: Sequence[Any],
        written: Written | None = None,
        *,
        keep_prefixes: bool = False,
    ) -> list[Any]:
        """Run the engine until all prompts are finished; return the outputs in the order of the prompts.

        Results must not depend on what happens to be cached: a resumed run has cached other prompts than an unbroken
        one. So each batch begins without cached prefixes, but for the prompts that were answered directly just before.
        """
        if not keep_prefixes:
            self._llm.reset_prefix_cache()
        self._answered = set()
        tokens = [{"prompt_token_ids": ids} for ids in prompts]
        self._llm.enqueue(tokens, list(params), use_tqdm=False, lora_request=self._lora)
        engine = self._llm.llm_engine
        outputs: list[Any] = []
        before, told = self._tokens_written(), time.monotonic()
        while engine.has_unfinished_requests():
            outputs += [output for output in engine.step() if output.finished]
            if written is not None and time.monotonic() - told >= _TELL_EVERY:
                written(len(outputs), self._tokens_written() - before)
                told = time.monotonic()
        return sorted(outputs, key=lambda output: int(output.request_id))  # ids count up

    def _tokens_written(self) -> int:
        counters = [metric for metric in self._llm.get_metrics() if metric.name == _TOKENS_WRITTEN]
        return sum(int(counter.value) for counter in counters)

    def _generation(self, request: Request, output: Any) -> Generation:
        logprobs = output.logprobs

        def candidates(index: int) -> list[tuple[int, float]]:
            return [(token, entry.logprob) for token, entry in logprobs[index].items()]

        return self._model.generation(
            request.messages, list(output.token_ids), None if logprobs is None else candidates
        )

    def facts(self) -> dict[str, Any]:
        """Return the engine's facts; see `Engine.facts`."""
        return {
            "name": self.name,
            **self._model.facts(),
            "adapter_merged": self._merged is not None,
            "dtype": self._dtype,
            "device": self._device,
        }

    def close(self) -> None:
        """Release memory, and remove the merged model's folder."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        if self._merged is not None:
            self._merged.cleanup()
        free_memory()


def merges_adapter(config: Mapping[str, Any]) -> bool:
    """Return whether an adapter is merged into a temporary copy of the model instead of applied beside it.

    Without a GPU, vLLM applies LoRA by copying the adapter for every token. Measured on 2 cores (135M parameters, r 32,
    64 prompts of 280 tokens, 64 new ones): 57 s, against 5 s with a merged adapter.

    Args:
        config: the adapter's configuration.
    """
    import torch

    return not torch.cuda.is_available() or any(config.get(key) for key in _MERGED_ONLY)


def _lora_rank(config: Mapping[str, Any]) -> int:
    """The smallest rank with vLLM kernels that is at least the adapter's rank."""
    rank = int(config["r"])
    if rank > _RANKS[-1]:
        raise InputError(
            f"adapter: rank {rank} is above {_RANKS[-1]}, the most that vLLM takes; use engine: transformers"
        )
    return next(value for value in _RANKS if value >= rank)


def merge(base: Path, adapter: Path, out: Path, dtype: str) -> None:
    """Write a copy of `base` with `adapter` merged into its weights, as safetensors.

    Args:
        base: the model's folder.
        adapter: a LoRA adapter of it.
        out: an existing, empty folder.
        dtype: number type of the copy: `float32`, `bfloat16` or `float16`.

    Raises:
        InputError: the adapter does not fit the model.
    """
    model = load_peft(base, adapter, dtype)
    model.merge_and_unload().save_pretrained(out)
