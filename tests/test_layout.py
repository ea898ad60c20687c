"""Imports never point upwards, and heavy packages load only where they are used."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each may import those to its left. Within a folder, what is not named stands below all that is.
ORDER = ("rewards", "benchmarks", "synthpert_env", "sft", "rl", "tools")
WITHIN = {
    "benchmarks": ("screens", "evidence", "endpoint", "models", "evaluation", "statistics", "report", "comparison"),
    "sft": (
        "traces",
        "examples",
        "prefix_tree",
        "flex_tree",
        "tree_attention",
        "trainer",
        "training",
        "teacher",
        "import_traces",
        "filters",
        "audit",
        "gate",
        "labels",
        "train",
    ),
    "rl": ("lab", "train", "preflight", "study", "publish", "demo", "doctor", "cli"),
}
HEAVY = {"torch", "transformers", "trl", "vllm", "peft", "datasets", "accelerate", "sklearn", "matplotlib"}
# Classes of TRL's, and attention of transformers', in modules of their own, which others import within functions only.
TRAINING = {"rl.trainer", "sft.trainer", "sft.flex_tree", "sft.tree_attention"}
# Classes of a harness that is installed in an environment of its own; that harness alone imports them.
HARNESSES = {"synthpert_env.inspect_task", "synthpert_env.verifiers_taskset"}
FILES = sorted(path.relative_to(ROOT) for folder in ORDER for path in (ROOT / folder).rglob("*.py"))
NAMES = {".".join(file.with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def imported_modules(node: ast.AST) -> set[str]:
    """Return the modules that an import statement names, in full."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import hides which folder it reaches"
        whole = {f"{node.module}.{alias.name}" for alias in node.names}
        return {name if name in NAMES else str(node.module) for name in whole}
    return set()


def imported(node: ast.AST) -> set[str]:
    """Return the top-level packages that an import statement names."""
    return {name.split(".")[0] for name in imported_modules(node)}


def rank(module: str) -> tuple[int, int]:
    """Return where a module of ours stands: of two, the higher one may import the lower."""
    top, *rest = module.split(".")
    within = WITHIN.get(top, ())
    return ORDER.index(top), within.index(rest[0]) if rest and rest[0] in within else -1


def on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when a module is imported: no function bodies, no blocks for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from on_import(child)


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def test_all_folders_have_files() -> None:
    assert {file.parts[0] for file in FILES} == set(ORDER)


def test_an_import_never_points_upwards() -> None:
    upwards = [
        f"{NAMES[module]}, line {getattr(node, 'lineno', 0)}: {name}"
        for module in sorted(NAMES)
        if module not in ORDER  # a folder's own `__init__` hands on names of all that is in it
        for node in ast.walk(tree_of(NAMES[module]))
        for name in imported_modules(node)
        if name.split(".")[0] in ORDER and rank(name) > rank(module)
    ]
    assert upwards == []


def test_no_imports_form_a_circle() -> None:
    """Imports within functions count: they hide a circle from Python, not from a reader."""
    graph = {
        module: {name for node in ast.walk(tree_of(file)) for name in imported_modules(node) if name in NAMES}
        for module, file in NAMES.items()
    }
    try:
        order = tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
    assert set(order) == set(NAMES)


def test_heavy_packages_are_not_imported_at_the_top_of_a_module() -> None:
    heavy = [
        f"{NAMES[module]}, line {getattr(node, 'lineno', 0)}"
        for module in sorted({*NAMES} - TRAINING)
        for node in on_import(tree_of(NAMES[module]))
        if imported_modules(node) & TRAINING or imported(node) & HEAVY
    ]
    assert heavy == []


def test_importing_everything_loads_nothing_heavy() -> None:
    names = sorted({*NAMES} - TRAINING - HARNESSES)
    code = f"import sys\nfor name in {names!r}: __import__(name)\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_importing_rewards_loads_no_pandas() -> None:
    """Each reward of one's own has a process, which imports this package."""
    code = "import sys, rewards.timeout\nprint(*sorted({'numpy', 'pandas', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
