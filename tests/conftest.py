"""What several tests need: the full labels, the neighbour model fitted on them, a real small model, small labels."""

import json
import os
import shutil
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from xdist.scheduler import LoadFileScheduling

from benchmarks import NeighbourModel, fit_neighbours, load_labels
from benchmarks.models.engines import has_vllm
from benchmarks.screens.sample import load_sample
from benchmarks.screens.schema import CELL_LINES, LABEL_DTYPE, LINE_DTYPE, SPLIT_DTYPE
from rewards import LABELS

ROOT = Path(__file__).parents[1]
# Files whose tests load torch, transformers or TRL, which takes up to ten seconds: one process runs them all.
LOADS_TORCH = (
    "tests/benchmarks/evaluation/test_calibrate", "tests/benchmarks/evaluation/test_run", "tests/benchmarks/models/",
    "tests/benchmarks/test_chat", "tests/benchmarks/test_config", "tests/benchmarks/test_keys",
    "tests/benchmarks/test_machine", "tests/rl/lab/test_commands", "tests/rl/preflight/", "tests/rl/test_alarms",
    "tests/rl/test_correction", "tests/rl/test_levers", "tests/rl/test_recording", "tests/rl/test_study",
    "tests/rl/test_tr", "tests/sft/audit/", "tests/sft/filters/", "tests/sft/test_", "tests/test_configs",
    "tests/test_docs", "tests/test_remedies", "tests/test_traces_page",
)  # fmt: skip


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs vLLM where it is not installed; where nothing may be skipped, fail."""
    if item.get_closest_marker("needs_vllm") and not has_vllm():
        if os.environ.get("SYNTHPERT_NO_SKIP"):
            pytest.fail("SYNTHPERT_NO_SKIP is set, but vLLM is not installed: run make install")
        pytest.skip("vLLM is not installed")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out `tests/slow` in the fast suite: importing its files loads torch in each process."""
    return (config.option.markexpr == "not slow" and collection_path.name == "slow") or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files come first: of files that run side by side, none is left for the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class OneLoadsTorch(LoadFileScheduling):  # type: ignore[misc]
    """Gives each file to one process, and all of `LOADS_TORCH` to the same."""

    def _split_scope(self, nodeid: str) -> str:
        return "torch" if nodeid.startswith(LOADS_TORCH) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneLoadsTorch | None:
    """Choose the scheduler of `--dist loadfile`."""
    return OneLoadsTorch(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """What hundreds of tests load is read once: the sample, and the certificates of each client of a server."""
    sample, context = load_sample(), cache(ssl.create_default_context)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("benchmarks.screens.sample", "benchmarks.evidence.corpus"):
            patch.setattr(f"{module}.load_sample", sample.copy)
        patch.setattr(ssl, "create_default_context", context)
        yield


@pytest.fixture(scope="session")
def full_labels() -> Path:
    """The folder with PerturbQA's eight files."""
    folder = os.environ.get("SYNTHPERT_DATA")
    if not folder:
        if os.environ.get("SYNTHPERT_NO_SKIP"):
            pytest.fail("SYNTHPERT_NO_SKIP is set, but SYNTHPERT_DATA is not: point it at the full labels")
        pytest.skip("SYNTHPERT_DATA is not set: the full labels are not here")
    return Path(folder)


@pytest.fixture(scope="session")
def bioreasoning_files() -> Path:
    """The folder with the BioReasoning Challenge's files, which nobody may pass on: skipped where there is none."""
    folder = os.environ.get("SYNTHPERT_BIOREASONING")
    if not folder:
        pytest.skip("SYNTHPERT_BIOREASONING is not set: the challenge's files are not here")
    return Path(folder)


@pytest.fixture(scope="session")
def full_frame(full_labels: Path) -> pd.DataFrame:
    """All labels; not to be changed."""
    return load_labels(full_labels)


@pytest.fixture(scope="session")
def full_neighbours(full_frame: pd.DataFrame) -> NeighbourModel:
    """The neighbour model of the official training split."""
    return fit_neighbours(full_frame[full_frame["split"] == "train"])


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as safetensors, prepared on first use."""
    path = Path(os.environ.get("SYNTHPERT_MODEL") or ROOT / "models" / "smollm2-135m-instruct")
    if not path.is_dir():
        from rl.demo.model import prepare_smollm2

        prepare_smollm2(path)
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with SmolLM2's tokenizer and chat template, cut to its first 8,000 merges; not to be changed.

    It loads ten times as fast as the whole one, which is most of what a test of a tokenizer takes.
    """
    path = tmp_path_factory.mktemp("tiny-tokenizer")
    for name in ("config.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm2 / name, path)
    tokenizer = json.loads((smollm2 / "tokenizer.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    size = len(model["vocab"]) - len(model["merges"]) + 8000  # ids are special tokens, bytes, then merges in order
    model["merges"] = model["merges"][:8000]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < size}
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of two small layers and `tiny_tokenizer`; not to be changed."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny-model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=1024, bos_token_id=1,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
        dtype="float32",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def make_labels() -> Callable[[int], pd.DataFrame]:
    """Return a function that makes small labels from a seed, in the form of `load_labels`."""
    return _make_labels


def _make_labels(seed: int) -> pd.DataFrame:
    """Four lines, 16 perturbations, 12 genes; two families of knockdowns that act alike, every third label random.

    Awkward on purpose: `Psolo` is known in one line only, `Grare` has a single row in each line, `Gonly` is read
    out in one line only, and about a fifth of the pairs is missing.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for line in CELL_LINES:
        tested = set(rng.choice(16, size=4, replace=False))
        for p in range(16):
            for g in range(12):
                if rng.random() < 0.2:
                    continue
                truth = (p % 2 + g) % 3 if rng.random() < 0.67 else int(rng.integers(3))
                rows.append((line, f"P{p}", f"G{g}", str(LABELS[truth]), "test" if p in tested else "train"))
        trained = next(p for p in range(16) if p not in tested)
        rows.append((line, f"P{trained}", "Grare", str(LABELS[int(rng.integers(3))]), "train"))
    rows += [("rpe1", "Psolo", f"G{g}", str(LABELS[g % 3]), "train") for g in range(12)]
    rows += [("rpe1", f"P{p}", "Gonly", str(LABELS[p % 3]), "train") for p in _trained_perts(rows, "rpe1")[:3]]
    frame = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label", "split"])
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    return frame.astype({"cell_line": LINE_DTYPE, "label": LABEL_DTYPE, "split": SPLIT_DTYPE})


def _trained_perts(rows: list[tuple[str, str, str, str, str]], line: str) -> list[int]:
    return sorted({int(row[1][1:]) for row in rows if row[0] == line and row[4] == "train" and row[1] != "Psolo"})
