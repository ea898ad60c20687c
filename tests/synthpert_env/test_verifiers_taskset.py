"""The taskset of verifiers, without it; `tests/slow/test_harnesses.py` runs it in verifiers."""

import ast
import inspect
from pathlib import Path

import synthpert_env
from synthpert_env.items import task_items


def test_its_configuration_has_the_task_s_arguments_with_their_defaults() -> None:
    path = Path(synthpert_env.__path__[0], "verifiers_taskset.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (config,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PerturbQAConfig")
    fields = [node for node in config.body if isinstance(node, ast.AnnAssign)]
    found = {ast.unparse(field.target): ast.literal_eval(field.value) for field in fields if field.value is not None}
    expected = {name: one.default for name, one in inspect.signature(task_items).parameters.items()}
    assert found == expected
