"""The transformers engine: slower than vLLM, and available everywhere."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.chat import Message, encode_prompt
from benchmarks.machine import resolve_dtype, use_cpu_well
from benchmarks.models.generation import TOP_LOGPROBS, Decoding, Generation, Request, Written
from benchmarks.models.local import LocalModel, free_memory, load_causal_lm, load_peft

_BATCH_SIZE: Final = 16  # prompts generated together


class TransformersEngine:
    """Generation by transformers: slower than vLLM, and available everywhere.

    Args:
        model, adapter, revision, dtype, max_model_len: see `open_engine`.

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
        max_model_len: int | None = None,
    ) -> None:
        self._model = LocalModel(model, adapter, revision)

        import torch

        use_cpu_well()
        dtype = resolve_dtype(dtype)
        path = self._model.folder.path
        # In a merged model each token takes one matrix product per layer instead of three.
        lm = load_causal_lm(path, dtype) if adapter is None else load_peft(path, adapter, dtype).merge_and_unload()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._lm: Any = lm.to(self._device).eval()
        limits = (getattr(lm.config.get_text_config(), "max_position_embeddings", None), max_model_len)
        self.context: int | None = min((int(limit) for limit in limits if limit is not None), default=None)

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the length of a rendered prompt in tokens."""
        return self._model.prompt_tokens(messages)

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, written: Written | None = None
    ) -> list[Generation]:
        """Complete the requests; see `Engine.generate`. The seeds of all requests in a batch seed its sampling."""
        prompts = [encode_prompt(self._model.tokenizer, request.messages) for request in requests]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))  # little padding within a batch
        done: dict[int, Generation] = {}
        for start in range(0, len(order), _BATCH_SIZE):
            batch = order[start : start + _BATCH_SIZE]
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
        from transformers import LogitsProcessorList

        stop = sorted(self._model.stop_ids)
        width = max(len(prompt) for prompt in prompts)
        # (batch, width), padded on the left
        ids = torch.tensor([[stop[0]] * (width - len(p)) + list(p) for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        config = _generation_config(decoding, stop)
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
        generated = output[:, width:].tolist()  # (batch, new tokens), padded after each row's stop token
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
            "batch_size": _BATCH_SIZE,
        }

    def close(self) -> None:
        """Release memory."""
        self._lm = None
        free_memory()


def _generation_config(decoding: Decoding, stop: Sequence[int]) -> Any:
    """Return decoding settings from the protocol alone, without the model's defaults."""
    from transformers import GenerationConfig

    sampling: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0:
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoding.max_tokens, eos_token_id=stop, pad_token_id=stop[0], **sampling
    )


def _tell_step(written: Written, finished: int, tokens: int, of_batch: int) -> None:
    written(finished, tokens + of_batch)


class _Counter:
    """A logits processor that changes nothing and reports the tokens of a batch so far; finished rows count too."""

    supports_continuous_batching = False

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell
        self._steps = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._tell(self._steps * len(scores))
        self._steps += 1
        return scores


class _TopLogprobs:
    """A logits processor that changes nothing and keeps the likeliest tokens of each step, before top-p.

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
