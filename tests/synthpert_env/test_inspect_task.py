"""The task of inspect has the arguments of the items that it asks, and its page lists them; without inspect."""

import ast
import inspect
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from tomllib import loads

from synthpert_env.items import score_completion, task_items

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "synthpert_env" / "inspect_task.py"


def signature_of(name):
    """The defaults of a function of the module, by argument."""
    (found,) = [
        node
        for node in ast.walk(ast.parse(MODULE.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    values = [ast.literal_eval(one) for one in found.args.defaults]
    return dict(zip((one.arg for one in found.args.args), values, strict=True))


def test_the_task_takes_what_items_and_parser_take():
    items = {name: one.default for name, one in inspect.signature(task_items).parameters.items()}
    parser = inspect.signature(score_completion).parameters["parser"].default
    assert signature_of("perturbqa") == items | {"parser": parser}
    assert signature_of("right_label") == {"parser": parser}


def test_the_page_lists_each_argument_with_its_default():
    page = (ROOT / "docs" / "harnesses.md").read_text(encoding="utf-8")
    section = page.split("\n### Arguments of the task\n")[1].split("\n### ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", section, re.MULTILINE))
    expected = signature_of("perturbqa")
    assert list(rows) == list(expected)
    for name, default in expected.items():
        if default is not None:
            assert rows[name].strip("`") == str(default).lower(), name


def test_inspect_finds_the_module_by_its_entry_point():
    """inspect looks for an entry point called as the part of the task's name before the stroke."""
    (entry,) = loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"][
        "inspect_ai"
    ].items()
    module = EntryPoint(*entry, "inspect_ai").module
    assert entry[0] == "synthpert_env"
    assert ROOT / Path(*module.split(".")).with_suffix(".py") == MODULE
