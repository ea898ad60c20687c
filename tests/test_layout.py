"""Imports never point upwards, and heavy packages load only where they are used."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("rewards", "benchmarks", "sft", "rl")  # each may import those to its left
HEAVY = {"torch", "transformers", "trl", "vllm", "peft", "datasets", "accelerate", "sklearn", "matplotlib"}
FILES = sorted(path.relative_to(ROOT) for folder in ORDER for path in (ROOT / folder).rglob("*.py"))
MODULES = [file for file in FILES if "speed" not in file.parts]  # those are scripts that measure any part


def imported(node: ast.AST) -> set[str]:
    """Return the top-level packages that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import hides which folder it reaches"
        return {str(node.module).split(".")[0]}
    return set()


def on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when a module is imported: no function bodies, no blocks for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from on_import(child)


def tree_of(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def test_all_folders_have_files() -> None:
    assert {file.parts[0] for file in FILES} == set(ORDER)


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_an_import_never_points_upwards(file: Path) -> None:
    above = set(ORDER[ORDER.index(file.parts[0]) + 1 :])
    for node in ast.walk(tree_of(file)):
        assert not imported(node) & above, f"line {getattr(node, 'lineno', 0)}"


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_heavy_packages_are_not_imported_at_the_top_of_a_module(file: Path) -> None:
    for node in on_import(tree_of(file)):
        assert not imported(node) & HEAVY, f"line {getattr(node, 'lineno', 0)}"


def test_importing_everything_loads_nothing_heavy() -> None:
    modules = [".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in MODULES]
    code = f"import sys\nfor name in {modules!r}: __import__(name)\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
