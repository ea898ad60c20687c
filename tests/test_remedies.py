"""Every key, option and variable that a message names is one that its reader can reach.

Read are all texts of the package: its string literals of more than a word, docstrings aside. A word of a text is such
a name where it has an underscore or begins with `--`, or where the remedy, behind the semicolon, says `set name: value`
or the like. It must be a key of the configurations that the text is about, an option of the command line, a variable
of the environment that we read, a reward, or one of REVIEWED. In front of the first colon, where a message says what is
wrong, it may also be a function of the file or one's parameter; behind it, it may not.
"""

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import pytest

from benchmarks.evaluation.run import EvalArguments
from benchmarks.keys import key_fields
from benchmarks.models.engines import engine_names
from benchmarks.screens.table import LabelTable
from rewards.compose import BUILT_IN
from rl.train import GRPOArguments
from sft.teacher.arguments import EndpointArguments
from sft.teacher.generate import TraceArguments
from sft.train import SFTArguments

ROOT: Final = Path(__file__).parents[1]
FILES: Final = sorted(
    file.relative_to(ROOT)
    for top in ("rewards", "benchmarks", "synthpert_env", "sft", "rl")
    for file in (ROOT / top).rglob("*.py")
)
NAME: Final = re.compile(r"--[a-z][\w-]*|\b(?!\w+\.(?:json|py|yaml|safetensors|parquet)\b)[A-Za-z]\w*_\w+")
KEY_VALUE: Final = re.compile(r"\b(?:set|use|choose|give|remove|with|and|or|by) ([a-z]\w*): ([a-z]\w*)?")
# Which configurations the texts of a file are about, by the longest path that fits; any where none does.
STAGES: Final = ("traces", "sft", "grpo", "evaluation")
ABOUT: Final = {
    "benchmarks/models": ("evaluation",), "benchmarks/evaluation": ("evaluation",), "sft/teacher": ("traces",),
    "sft/train.py": ("sft",), "sft/examples.py": ("sft",), "sft/gate.py": ("sft",), "sft/training.py": ("sft", "grpo"),
    "rewards": ("grpo",), "rl/train.py": ("grpo",), "rl/trainer.py": ("grpo",), "rl/unlabelled.py": ("grpo",),
    "rl/levers.py": ("grpo",), "benchmarks/screens/table.py": ("screen",),
}  # fmt: skip
REVIEWED: Final = {
    "a column": ("item_id", "cell_line", "p_up", "p_down", "p_none", "p_de", "p_dir", "log_fold_change", "p_adj"),
    "a column of a submission": ("prediction_up", "prediction_down"),
    "a value": ("max_completion_tokens", "fdr_bh", "normalize_then_sum"),
    "what stands for any key": ("--key",),
    "an option of pip": ("--no-deps",),
    "labels that are known by name": ("k562_set",),
    "a kind of evidence": ("other_lines", "similar_genes"),
    "a key of a tokenizer's file": ("eos_token", "chat_template"),
    "a variable of chat templates": ("add_generation_prompt",),
    "a key of a reward's entry": ("timeout", "kind"),
    "pandas": ("to_parquet", "rename_axis"),
    "a page of TRL's documentation": ("sft_trainer", "grpo_trainer"),
    "a number of TRL's log": ("clipped_ratio",),
    "a field of a log of lm-eval": ("doc_id",),
    "a key of a server's reply": ("finish_reason", "top_logprobs"),
    "our own code": ("open_engine", "clean_up_tokenization_spaces"),
}  # fmt: skip


@cache
def keys(stage: str) -> dict[str, Any]:
    """Return the keys of a stage's configuration with their types, TRL's among them."""
    from trl import GRPOConfig, ModelConfig, SFTConfig

    ours: dict[str, tuple[type, ...]] = {
        "traces": (TraceArguments, EndpointArguments), "sft": (SFTArguments,), "grpo": (GRPOArguments,),
        "evaluation": (EvalArguments,), "screen": (LabelTable,),
    }  # fmt: skip
    theirs: dict[str, tuple[Any, ...]] = {"sft": (SFTConfig, ModelConfig), "grpo": (GRPOConfig, ModelConfig)}
    own = {name: hint for cls in ours[stage] for name, (hint, _) in key_fields(cls).items()}
    return own | {entry.name: entry.type for cls in theirs.get(stage, ()) for entry in dataclasses.fields(cls)}


@cache
def options() -> frozenset[str]:
    """Return the options of all commands."""
    import typer

    from rl.cli import app

    def walk(command: Any) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        for inner in getattr(command, "commands", {}).values():
            yield from walk(inner)

    return frozenset(walk(typer.main.get_command(app))) | {"--help", "--debug"}


@cache
def variables() -> frozenset[str]:
    """Return the variables of the environment: what our code has as a text of its own, and the hub client's."""
    nodes = (node for file in FILES for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))))
    values = (node.value for node in nodes if isinstance(node, ast.Constant))
    return frozenset(
        {value for value in values if isinstance(value, str) and value.isupper()} | {"HF_TOKEN", "HF_ENDPOINT"}
    )


def stages_of(file: Path) -> tuple[str, ...]:
    fitting = [path for path in ABOUT if file.is_relative_to(path)]
    return ABOUT[max(fitting, key=len)] if fitting else STAGES


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of each literal of more than one word that is no docstring, `{}` standing for values."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        text = None
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        if text is None:
            yield from texts(node)
        elif " " in text.strip():
            yield node.lineno, text  # type: ignore[attr-defined]


def own_names(tree: ast.AST) -> set[str]:
    """Return the functions of a file and their parameters."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    parameters = [
        name.arg for node in functions for name in (*node.args.args, *node.args.kwonlyargs, *node.args.posonlyargs)
    ]
    return {*parameters, *(node.name for node in functions)}


def values_of(name: str, hint: Any) -> tuple[str, ...] | None:
    """Return what a key may be where it is one of a few words."""
    known = {
        "engine": engine_names(),
        "rollouts": ("auto", "vllm", "transformers"),
        "scale_rewards": ("group", "batch", "none"),
    }
    if name in known:
        return known[name]
    if hint is bool:
        return ("true", "false")
    return tuple(map(str, get_args(hint))) if get_origin(hint) is Literal else None


def problems(source: str, file: Path) -> list[str]:
    """Return what the texts of a source file name that is not there."""
    tree = ast.parse(source)
    known = {name: hint for stage in stages_of(file) for name, hint in keys(stage).items()}
    values = {value for name, hint in known.items() for value in values_of(name, hint) or ()}
    others = {word for words in REVIEWED.values() for word in words} | options() | variables() | set(BUILT_IN) | values
    own = own_names(tree)
    found = []
    for line, text in texts(tree):
        what, _, _ = text.partition(":")
        for match in NAME.finditer(text):
            name = match[0]
            if match.end() <= len(what) and name in own:
                continue
            if name not in others and name.removeprefix("--") not in known:
                found.append(f"{file}:{line}: no {name} is there ({text})")
        for name, value in KEY_VALUE.findall(text.partition(";")[2]):
            allowed = values_of(name, known.get(name))
            if name not in known and name not in others:
                found.append(f"{file}:{line}: no key {name} is there ({text})")
            elif value and allowed is not None and value not in allowed:
                found.append(f"{file}:{line}: {name} is never {value} ({text})")
    return found


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_a_message_names_is_there(file: Path) -> None:
    assert problems((ROOT / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    ("file", "before", "after", "problem"),
    [
        ("benchmarks/evaluation/evaluate.py", "raise max_model_len", "raise max_context_len", "no max_context_len"),
        (
            "benchmarks/evaluation/evaluate.py",
            "lower max_tokens",
            "lower max_completion_length",
            "max_completion_length",
        ),
        ("benchmarks/models/vllm_engine.py", "set engine: transformers", "set engine: hf", "engine is never hf"),
        ("benchmarks/models/server.py", "set scores: votes", "set score: votes", "no key score "),
        ("benchmarks/screens/labels.py", "set SYNTHPERT_DATA", "set SYNTHPERT_LABELS", "no SYNTHPERT_LABELS"),
        ("rl/demo/run.py", "--minutes", "--limit", "no --limit"),
        ("benchmarks/models/folders.py", "leave the revision out", "leave model_revision out", "no model_revision"),
    ],
)
def test_a_remedy_that_is_not_there_is_found(file: str, before: str, after: str, problem: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert before in source
    assert any(problem in found for found in problems(source.replace(before, after), Path(file)))


def test_what_was_reviewed_is_still_named() -> None:
    named = set()
    for file in FILES:
        for _, text in texts(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            named |= {*NAME.findall(text), *(name for name, _ in KEY_VALUE.findall(text.partition(";")[2]))}
    assert {word for words in REVIEWED.values() for word in words} <= named
