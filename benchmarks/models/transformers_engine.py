"""The transformers engine: slower than vLLM, and available everywhere."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.chat import Message, encode_prompt
from benchmarks.machine import resolve_dtype, use_cpu_well
from benchmarks.models.generation import TOP_LOGPROBS, Decoding, Generation, Request, Written, wants_logprobs
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
        """Complete the requests; see `Engine.generate`."""
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
        ids, mask = self._pad(prompts)
        width = ids.shape[1]
        config = _generation_config(decoding, stop)
        self._lm.generation_config = config
        recorder = _TopLogprobs() if wants_logprobs(decoding) else None
        processors: list[Any] = [*([] if recorder is None else [recorder]), *([] if tell is None else [_Counter(tell)])]
        if decoding.temperature > 0:
            processors += _sampling(decoding, [request.seed for request in requests])
        with torch.inference_mode():
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

    def answer_directly(self, prompts: Sequence[Sequence[Message]]) -> list[Generation]:
        """Answer after an empty thought; see `Engine.answer_directly`."""
        encoded = [self._model.encode_direct(messages) for messages in prompts]
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index][0]))
        done: dict[int, Generation] = {}
        for start in range(0, len(order), _BATCH_SIZE):
            batch = order[start : start + _BATCH_SIZE]
            logprobs = self._next_logprobs([encoded[index][0] for index in batch])
            for row, index in enumerate(batch):
                ids, labels = encoded[index]
                done[index] = self._model.direct_generation(len(ids), logprobs[row, labels].tolist())
        return [done[index] for index in range(len(encoded))]

    def _next_logprobs(self, prompts: Sequence[Sequence[int]]) -> Any:
        """Return the logprobs of the token after each prompt, as a tensor (batch, vocabulary)."""
        import torch

        ids, mask = self._pad(prompts)
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        with torch.inference_mode():
            logits = self._lm(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits
        return logits[:, -1].float().log_softmax(-1)

    def _pad(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        """Return the prompts' ids and their attention mask, (batch, width) each, padded on the left."""
        import torch

        pad = min(self._model.stop_ids)
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=self._device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device)
        return ids, mask

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
    """Return decoding settings from the protocol alone, without the model's defaults; `_sampling` does the sampling."""
    from transformers import GenerationConfig

    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=decoding.max_tokens, eos_token_id=stop, pad_token_id=stop[0], do_sample=False
    )


def _sampling(decoding: Decoding, seeds: Sequence[int]) -> list[Any]:
    """Return logits processors after which the largest score of each row is a sample."""
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    nucleus = [TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1 else []
    return [TemperatureLogitsWarper(decoding.temperature), *nucleus, _GumbelNoise(seeds)]


class _GumbelNoise:
    """A logits processor that adds Gumbel noise, so that the largest score is a sample of the softmax.

    Each row has a random generator of its own. A sample then depends on its request alone and not on its batch.
    `torch.multinomial` has one generator for all rows.
    """

    supports_continuous_batching = False

    def __init__(self, seeds: Sequence[int]) -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        noise = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=one) for one in self._generators])
        return scores - noise.clamp_min(torch.finfo(noise.dtype).tiny).log().to(scores.device)


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
