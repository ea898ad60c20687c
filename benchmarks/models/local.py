"""Shared by the engines that hold the model themselves: its folder, tokenizer, prompts and weights."""

import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from benchmarks.chat import Message, encode_prompt, open_tokenizer, prefilled_think, prints_date, render_prompt
from benchmarks.models.folders import ModelFolder, adapter_sha256, check_adapter, resolve_model
from benchmarks.models.generation import (
    EMPTY_THOUGHT,
    Generation,
    names_label,
    one_line,
    probabilities_of,
)
from benchmarks.quiet import hide_loading_bars
from rewards import LABELS, InputError


class LocalModel:
    """A model for vLLM or transformers: its folder and tokenizer, prompts, and reading of generated token ids."""

    def __init__(self, model: str | Path, adapter: Path | None, revision: str | None) -> None:
        self.folder: Final[ModelFolder] = resolve_model(model, revision)
        self.adapter: Final = adapter
        self.adapter_config: Final = {} if adapter is None else check_adapter(adapter, self.folder.path)
        # vLLM loads a tokenizer of its own, but takes and returns token ids here. All text goes through this one.
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
        """Return the text of token ids, special tokens included: in some vocabularies the think tags are special."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Return the length of a rendered prompt in tokens."""
        return len(encode_prompt(self.tokenizer, messages))

    def encode_direct(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Return the ids of a prompt with an empty thought, and the three labels' first tokens after it.

        Some vocabularies join the `>` of the answer's tag with the first letters of a label. The ids therefore end
        where they are the same before every label.
        """
        prompt = render_prompt(self.tokenizer, messages)
        begun = prompt + EMPTY_THOUGHT.removeprefix(prefilled_think(prompt).strip())
        encoded = [self.tokenizer(begun + label, add_special_tokens=False)["input_ids"] for label in LABELS]
        columns = list(zip(*encoded, strict=False))
        n_shared = next(at for at, column in enumerate(columns) if len(set(column)) > 1)
        return [int(token) for token in encoded[0][:n_shared]], [int(token) for token in columns[n_shared]]

    def direct_generation(self, prompt_tokens: int, logprobs: Sequence[float]) -> Generation:
        """Make the generation of a direct answer.

        Args:
            prompt_tokens: number of tokens of the prompt with its empty thought.
            logprobs: natural logprobs of the three labels' first tokens, in the order of `rewards.LABELS`.
        """
        highest = max(logprobs)
        mass = [math.exp(logprob - highest) for logprob in logprobs]
        up, down, none = (one / sum(mass) for one in mass)
        answer = LABELS[logprobs.index(highest)]
        return Generation(f"{EMPTY_THOUGHT}{answer}</answer>", "stop", 1, (up, down, none), None, prompt_tokens)

    def generation(
        self,
        messages: Sequence[Message],
        ids: Sequence[int],
        candidates: Callable[[int], Sequence[tuple[int, float]]] | None,
    ) -> Generation:
        """Make a generation from token ids: cut at the first stop token, with a prefilled think tag in front."""
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
            prompt_tokens=self.prompt_tokens(messages),
        )

    def facts(self) -> dict[str, Any]:
        """Return what identifies the model in stored runs; see `Engine.facts`."""
        return {
            "model": self.folder.name,
            "revision": self.folder.revision,
            "model_fingerprint": self.folder.fingerprint,
            "tokenizer_sha256": self.folder.tokenizer_sha256,
            "special_tokens_sha256": self.folder.special_tokens_sha256,
            "prompts_hold_date": prints_date(self.tokenizer),
            "adapter": None if self.adapter is None else self.adapter.resolve().name,
            "adapter_sha256": None if self.adapter is None else adapter_sha256(self.adapter),
        }


def load_causal_lm(path: Path, dtype: str) -> Any:
    """Load a causal language model from a folder, in the number type `dtype`.

    Raises:
        InputError: transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM

    hide_loading_bars()
    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: does not load ({one_line(error)}); give a causal language model") from error


def load_peft(path: Path, adapter: Path, dtype: str) -> Any:
    """Load a model with a LoRA adapter on it, in the number type `dtype`.

    Raises:
        InputError: the model cannot be loaded, or the adapter does not fit it.
    """
    from peft import PeftModel

    model = load_causal_lm(path, dtype)
    try:
        return PeftModel.from_pretrained(model, str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{adapter}: does not load on {path} ({one_line(error)}); give the base it was trained on"
        ) from error


def free_memory() -> None:
    """Collect garbage and release the GPU memory that torch has cached."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
