"""How fast this machine reads prompts, writes completions and trains with the demo's model, by short measurements."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

PROMPT: Final = 175  # mean length of the demo's prompts, in tokens of SmolLM2
COMPLETION: Final = 60  # mean length of the demo's traces, in tokens
_LONG_ENOUGH: Final = 2.0  # least seconds of a measurement
_MOST_ROWS: Final = 8
_NEW: Final = 8  # tokens written in a measurement
LORA: Final[dict[str, Any]] = {"r": 32, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@dataclass(frozen=True)
class Rates:
    """The machine's rates, measured with transformers in the number type of `dtype: auto`.

    Attributes:
        dtype: the number type.
        cores: number of cores used.
        load: seconds to load the libraries and the model.
        read: prompt tokens per second in a forward pass.
        write: generated tokens per second, with 8 completions at a time.
        learn: tokens per second in a forward and backward pass, with a LoRA adapter on all linear layers.
    """

    dtype: str
    cores: int
    load: float
    read: float
    write: float
    learn: float


def measure_rates(model: Path) -> Rates:
    """Measure this machine's rates in a separate process, which returns its memory when it ends.

    Args:
        model: the model's folder.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, model).result()


def _measure(model: Path) -> Rates:
    from benchmarks.quiet import hide_library_noise

    hide_library_noise()
    began = time.monotonic()

    from peft import LoraConfig, get_peft_model

    from benchmarks.machine import granted_cores, resolve_dtype, use_cpu_well

    use_cpu_well()
    dtype = resolve_dtype("auto")
    lm = _load(model, dtype)
    load = time.monotonic() - began
    learner = get_peft_model(lm, LoraConfig(**LORA))
    with learner.disable_adapter():
        reading, writing = _rate(partial(_read, lm)), _rate(partial(_write, lm), _MOST_ROWS)
    return Rates(dtype, granted_cores(), load, reading, writing, _rate(partial(_learn, learner)))


def _load(model: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from benchmarks.quiet import hide_loading_bars

    hide_loading_bars()
    lm: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, use_safetensors=True)
    return lm.to("cuda" if torch.cuda.is_available() else "cpu")


def _tokens(lm: Any, rows: int, length: int) -> Any:
    import torch

    return torch.randint(0, lm.config.vocab_size, (rows, length), device=lm.device)


def _read(lm: Any, rows: int) -> int:
    import torch

    with torch.inference_mode():
        lm(input_ids=_tokens(lm, rows, PROMPT), logits_to_keep=1)
    return rows * PROMPT


def _write(lm: Any, rows: int) -> int:
    import torch

    ids = _tokens(lm, rows, 8)
    with torch.inference_mode():
        lm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=_NEW, min_new_tokens=_NEW,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip
    return rows * _NEW


def _learn(learner: Any, rows: int) -> int:
    ids = _tokens(learner, rows, PROMPT + COMPLETION)
    learner(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return int(ids.numel())


def _rate(work: Callable[[int], int], rows: int = 1) -> float:
    """Return tokens per second, the best of a few runs: other work on the machine can only make a run slower.

    Each number of rows runs once before it is measured, so that its kernels are ready. If a run is too short to measure
    well, the next has more rows.

    Args:
        work: takes a number of rows and returns the number of tokens processed.
        rows: the number of rows to begin with.
    """
    while True:
        work(rows)
        best = total = 0.0
        while total < _LONG_ENOUGH:
            began = time.monotonic()
            tokens = work(rows)
            seconds = time.monotonic() - began
            best, total = max(best, tokens / seconds), total + seconds
            if seconds < _LONG_ENOUGH / 4 and rows < _MOST_ROWS:
                break
        else:
            return best
        rows = min(rows * 4, _MOST_ROWS)
