"""Hides what libraries say and a user can do nothing about; everything else they say is shown."""

import logging
import os
import warnings
from typing import Final

_LIBRARIES: Final = r"(torch|vllm|transformers|trl|peft|accelerate|datasets)(\.|$)"


def hide_library_noise() -> None:
    """Hide it for this process and those that it starts. It must come before the libraries are loaded.

    Hidden are: deprecations within a library, that torch finds no Triton, how vLLM binds memory on a CPU, vLLM's advice
    on how it was started, and bars for parts of a second. What is set in the environment already stays.
    """
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    # A key of old tokenizers that transformers passes over. Nothing of ours decodes with it.
    logging.getLogger("transformers.tokenization_utils_tokenizers").addFilter(
        lambda record: not record.getMessage().startswith("Ignoring clean_up_tokenization_spaces")
    )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the NUMA binding
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def hide_loading_bars() -> None:
    """Hide transformers' bars over a model's tensors; those of a download are the hub client's and stay."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
