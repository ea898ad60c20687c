"""Engines that hold the model themselves: vLLM and transformers."""

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from benchmarks.chat import Message, encode_prompt, open_tokenizer, prefilled_think, render_prompt
from benchmarks.machine import resolve_dtype, use_cpu_well
from benchmarks.models.folders import ModelFolder, adapter_sha256, check_adapter, model_fingerprint, resolve_model
from benchmarks.models.generation import (
    TOP_LOGPROBS,
    Decoding,
    Generation,
    Request,
    Written,
    names_label,
    one_line,
    probabilities_of,
)
from benchmarks.quiet import hide_loading_bars
from rewards import CheckError, InputError

_TELL_EVERY: Final = 0.5  # seconds between reports of a batch that is being written


def has_vllm() -> bool:
    """Return whether vLLM is installed; it is not imported."""
    return importlib.util.find_spec("vllm") is not None


class _LocalModel:
    """What vLLM and transformers share: the folder, the tokenizer, prompts, and reading token ids back."""

    def __init__(self, model: str | Path, adapter: Path | None, revision: str | None) -> None:
        self.folder: Final[ModelFolder] = resolve_model(model, revision)
        self.adapter: Final = adapter
        self.adapter_config: Final = {} if adapter is None else check_adapter(adapter, self.folder.path)
        # vLLM loads its own, but is given token ids and gives them back: only this one touches text.
        self.tokenizer: Final[Any] = open_tokenizer(self.folder.path)
        self.stop_ids: Final = frozenset(self._stop_ids())
        self.piece: Final = lru_cache(maxsize=1 << 17)(lambda token: str(self.decode([token])))

    def _stop_ids(self) -> set[int]:
        ids = {self.tokenizer.eos_token_id}
        path = self.folder.path / "generation_config.json"
        if path.is_file():
            eos = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            ids |= set(eos) if isinstance(eos, list) else {eos}
        ids.discard(None)
        if not ids:
            raise InputError(
                f"{self.folder.path}: has no end-of-sequence token; set eos_token in tokenizer_config.json"
            )
        return {int(token) for token in ids}

    def decode(self, ids: Sequence[int]) -> str:
        # Special tokens are kept: in some vocabularies the think tags are special.
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        return len(encode_prompt(self.tokenizer, messages))

    def generation(
        self,
        messages: Sequence[Message],
        ids: Sequence[int],
        candidates: Callable[[int], Sequence[tuple[int, float]]] | None,
    ) -> Generation:
        """Read generated ids back: cut at the first stop token, put a prefilled think tag in front."""
        end = next((index for index, token in enumerate(ids) if token in self.stop_ids), None)
        kept = list(ids if end is None else ids[:end])
        text = self.decode(kept)
        probabilities = None
        if candidates is not None and names_label(text):
            at = candidates
            probabilities = probabilities_of(
                [self.piece(token) for token in kept],
                lambda index: [(self.piece(token), logprob) for token, logprob in at(index)],
            )
        return Generation(
            text=prefilled_think(render_prompt(self.tokenizer, messages)) + text,
            finish_reason="length" if end is None else "stop",
            completion_tokens=len(kept) + (end is not None),
            probabilities=probabilities,
        )

    def facts(self) -> dict[str, Any]:
        return {
            "model": self.folder.name,
            "revision": self.folder.revision,
            "model_fingerprint": model_fingerprint(self.folder.path),
            "adapter": None if self.adapter is None else self.adapter.resolve().name,
            "adapter_sha256": None if self.adapter is None else adapter_sha256(self.adapter),
        }


def set_vllm_environment() -> None:
    """Set what vLLM reads from the environment when it starts in this process; what is set already stays."""
    # In this process: a killed run leaves no engine process behind, and batches are formed the same way each time.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; read by the CPU build alone


class VLLMEngine:
    """vLLM in this process, on a GPU or on the CPU build.

    Args:
        model, adapter, revision, dtype, max_model_len, seed: see `open_engine`.
        merge_adapter: put the adapter's weights into a temporary copy of the model instead of applying them beside
            it; None: only where there is no GPU.
        gpu_memory_utilization: share of a GPU's memory that vLLM may take.

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
        seed: int = 0,
        merge_adapter: bool | None = None,
        gpu_memory_utilization: float = 0.9,
    ) -> None:
        if not has_vllm():
            raise InputError("engine: vllm is not installed; set engine: transformers, or install vllm")
        # An OpenMP thread that waits spins, by default long enough to starve whoever shares its core: on 2 cores with
        # one busy neighbour, generation took 10 times as long, with this 5 times. It works before torch is loaded.
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
        self._model = _LocalModel(model, adapter, revision)
        self._merged: tempfile.TemporaryDirectory[str] | None = None
        self._lora: Any = None
        self._llm: Any = None

        import torch

        gpu = torch.cuda.is_available()
        dtype = resolve_dtype(dtype)
        set_vllm_environment()
        use_cpu_well()
        from vllm import LLM

        options: dict[str, Any] = {"dtype": dtype}
        path = self._model.folder.path
        if adapter is not None:
            # Without a GPU, vLLM applies LoRA by gathering a copy of the adapter for every token: measured on 2 cores
            # (135M parameters, r 32, 64 prompts of 280 tokens, 64 new ones) 57 s against 5 s merged.
            if (not gpu) if merge_adapter is None else merge_adapter:
                self._merged = tempfile.TemporaryDirectory(prefix="synthpert-merged-")
                path = Path(self._merged.name)
                merge(self._model.folder.path, adapter, path, dtype)
            else:
                from vllm.lora.request import LoRARequest

                options |= {
                    "enable_lora": True,
                    "max_loras": 1,
                    "max_lora_rank": _lora_rank(self._model.adapter_config),
                }
                self._lora = LoRARequest("adapter", 1, str(adapter.resolve()))
        try:
            self._llm = LLM(
                model=str(path),
                tokenizer=str(self._model.folder.path),
                max_model_len=max_model_len,
                seed=seed,
                enforce_eager=not gpu,
                gpu_memory_utilization=gpu_memory_utilization,
                trust_remote_code=False,
                load_format="safetensors",
                disable_log_stats=False,  # they count the tokens while a batch is written
                use_tqdm_on_load=False,
                generation_config="vllm",  # decoding comes from the protocol alone, not from the model's defaults
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
        self._device = torch.cuda.get_device_name() if gpu else "cpu"

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
                logprobs=TOP_LOGPROBS if decoding.scores == "logprobs" else None,
                flat_logprobs=True,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [{"prompt_token_ids": encode_prompt(self._model.tokenizer, r.messages)} for r in requests]
        # A batch must not depend on what was cached before it: a resumed run has another past than an unbroken one.
        self._llm.reset_prefix_cache()
        self._llm.enqueue(prompts, params, use_tqdm=False, lora_request=self._lora)
        outputs = self._finish(written)
        return [self._generation(request, output.outputs[0]) for request, output in zip(requests, outputs, strict=True)]

    def _finish(self, written: Written | None) -> list[Any]:
        """Run the engine until nothing is left; return the outputs in the order in which they were asked for."""
        engine = self._llm.llm_engine
        outputs: list[Any] = []
        before, told = self._tokens_written(), time.monotonic()
        while engine.has_unfinished_requests():
            outputs += [output for output in engine.step() if output.finished]
            if written is not None and time.monotonic() - told >= _TELL_EVERY:
                written(len(outputs), self._tokens_written() - before)
                told = time.monotonic()
        return sorted(outputs, key=lambda output: int(output.request_id))  # they count up

    def _tokens_written(self) -> int:
        counters = [metric for metric in self._llm.get_metrics() if metric.name == "vllm:generation_tokens"]
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
        """Give memory and the merged model's folder back."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        if self._merged is not None:
            self._merged.cleanup()
        _free_memory()


def _lora_rank(config: Mapping[str, Any]) -> int:
    """The smallest rank that vLLM knows and that holds the adapter's."""
    rank = max([int(config["r"]), *(int(value) for value in (config.get("rank_pattern") or {}).values())])
    known = (8, 16, 32, 64, 128, 256, 320, 512)
    if rank > known[-1]:
        raise InputError(
            f"adapter: rank {rank} is above {known[-1]}, the most that vLLM takes; use engine: transformers"
        )
    return next(value for value in known if value >= rank)


def merge(base: Path, adapter: Path, out: Path, dtype: str) -> None:
    """Write a copy of `base` with `adapter` merged into its weights, as safetensors.

    Args:
        base: the model's folder.
        adapter: a LoRA adapter of it.
        out: an existing, empty folder.
        dtype: of the copy, `float32`, `bfloat16` or `float16`.

    Raises:
        InputError: the adapter does not fit the model.
    """
    model = _load_peft(base, adapter, dtype)
    model.merge_and_unload().save_pretrained(out)


def _load_causal_lm(path: Path, dtype: str) -> Any:
    from transformers import AutoModelForCausalLM

    hide_loading_bars()
    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: does not load ({one_line(error)}); give a causal language model") from error


def _load_peft(path: Path, adapter: Path, dtype: str) -> Any:
    from peft import PeftModel

    model = _load_causal_lm(path, dtype)
    try:
        return PeftModel.from_pretrained(model, str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{adapter}: does not load on {path} ({one_line(error)}); give the base it was trained on"
        ) from error


class TransformersEngine:
    """transformers' own generation: slower, and everywhere.

    Args:
        model, adapter, revision, dtype: see `open_engine`.
        batch_size: prompts generated together.

    Raises:
        InputError: a folder is missing, or the adapter does not fit the model.
    """

    name: Final = "transformers"

    def __init__(
        self,
        model: str | Path,
        adapter: Path | None = None,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        batch_size: int = 16,
    ) -> None:
        self._model = _LocalModel(model, adapter, revision)

        import torch

        use_cpu_well()
        dtype = resolve_dtype(dtype)
        path = self._model.folder.path
        # Merged, each token takes one matrix product a layer instead of three.
        lm = _load_causal_lm(path, dtype) if adapter is None else _load_peft(path, adapter, dtype).merge_and_unload()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._lm: Any = lm.to(self._device).eval()
        self._batch_size = batch_size
        limit = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
        self.context: int | None = None if limit is None else int(limit)

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the length of a rendered prompt in tokens."""
        return self._model.prompt_tokens(messages)

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        """Complete the requests; see `Engine.generate`. A batch is sampled under the seeds of all its requests."""
        prompts = [encode_prompt(self._model.tokenizer, request.messages) for request in requests]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # alike lengths: little padding
        done: dict[int, Generation] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            tokens = sum(generation.completion_tokens for generation in done.values())
            tell = None if written is None else partial(_tell_step, written, len(done), tokens)
            generations = self._generate_batch(
                [requests[i] for i in batch], [prompts[i] for i in batch], decoding, tell
            )
            done.update(zip(batch, generations, strict=True))
        return [done[index] for index in range(len(requests))]

    def _generate_batch(
        self,
        requests: Sequence[Request],
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        tell: Callable[[int], None] | None,
    ) -> list[Generation]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        stop = sorted(self._model.stop_ids)
        width = max(len(prompt) for prompt in prompts)
        # (batch, width), padded on the left
        ids = torch.tensor([[stop[0]] * (width - len(p)) + list(p) for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        sampling: dict[str, Any] = {"do_sample": False}
        if decoding.temperature > 0:
            sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        # Decoding comes from the protocol alone, not from the model's defaults.
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=decoding.max_tokens, eos_token_id=stop, pad_token_id=stop[0], **sampling
        )
        self._lm.generation_config = config
        recorder = _TopLogprobs() if decoding.scores == "logprobs" else None
        processors = [*([] if recorder is None else [recorder]), *([] if tell is None else [_Counter(tell)])]
        with torch.inference_mode(), torch.random.fork_rng(enabled=decoding.temperature > 0):
            if decoding.temperature > 0:
                torch.manual_seed(hash(tuple(request.seed for request in requests)) % 2**63)
            output = self._lm.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList(processors),
            )
        generated = output[:, width:].tolist()  # (batch, new tokens), padded behind each row's stop token
        return [
            self._model.generation(
                request.messages,
                generated[row],
                None if recorder is None else partial(recorder.candidates, row),
            )
            for row, request in enumerate(requests)
        ]

    def facts(self) -> dict[str, Any]:
        """Return the engine's facts; see `Engine.facts`."""
        import torch

        return {
            "name": self.name,
            **self._model.facts(),
            "dtype": str(self._lm.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name() if self._device == "cuda" else "cpu",
            "batch_size": self._batch_size,
        }

    def close(self) -> None:
        """Give memory back."""
        self._lm = None
        _free_memory()


def _tell_step(written: Written, finished: int, tokens: int, of_batch: int) -> None:
    written(finished, tokens + of_batch)


class _Counter:
    """A logits processor that changes nothing and tells how many tokens a batch has, ended rows counted on."""

    supports_continuous_batching = False

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._steps = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._tell(self._steps * len(scores))
        self._steps += 1
        return scores


class _TopLogprobs:
    """A logits processor that changes nothing and keeps the most likely tokens of each step, before any warping.

    Whole score tensors (`output_scores`) would take vocabulary × tokens × batch floats.
    """

    supports_continuous_batching = False

    def __init__(self) -> None:
        self._steps: list[tuple[Any, Any]] = []  # per step: token ids and logprobs, (batch, 20) each

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        values, tokens = scores.float().log_softmax(-1).topk(min(TOP_LOGPROBS, scores.shape[-1]), dim=-1)
        self._steps.append((tokens.cpu(), values.cpu()))
        return scores

    def candidates(self, row: int, index: int) -> list[tuple[int, float]]:
        tokens, values = self._steps[index]
        return list(zip(tokens[row].tolist(), values[row].tolist(), strict=True))


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
