"""Hides messages of libraries that a user can do nothing about; all others are shown."""

import logging
import os
import sys
import warnings
from typing import Final

_LIBRARIES: Final = r"(torch|vllm|transformers|trl|peft|accelerate|datasets)(\.|$)"


def hide_library_noise() -> None:
    """Hide such messages in this process and in those it starts. Call it before the libraries are imported.

    Hidden are:

    - deprecation warnings within a library;
    - torch's message that it finds no Triton;
    - vLLM's messages on memory binding on a CPU and on how it was started;
    - progress bars that last less than a second;
    - all progress bars of libraries where standard error is no terminal, since a log would hold every state of them.

    Environment variables that are already set stay.
    """
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    # About a key of old tokenizers that transformers ignores. We never decode with it.
    logging.getLogger("transformers.tokenization_utils_tokenizers").addFilter(
        lambda record: not record.getMessage().startswith("Ignoring clean_up_tokenization_spaces")
    )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # about the NUMA binding
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # also for bars without a switch, such as that over GGUF tensors


def hide_loading_bars() -> None:
    """Hide transformers' bars over a model's tensors; those of a download come from the hub client and stay."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
