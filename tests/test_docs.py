"""Commands in the documentation exist, and the files and options they name do too."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from rl.cli import app

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md"]


def commands():
    for page in PAGES:
        for block in re.findall(r"```(?:\w*)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                if re.match(r"(\.venv/bin/)?synthpert |make ", line):
                    yield pytest.param(shlex.split(line, comments=True), id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("words", list(commands()))
def test_command_exists(words):
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
        return
    group = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(group, "commands"):
        assert rest[0] in group.commands, words
        group, rest = group.commands[rest[0]], rest[1:]
    options = {name for parameter in group.params for name in parameter.opts}
    passes_on = bool(group.context_settings.get("ignore_unknown_options"))
    for word in rest:
        if word.startswith("--") and not passes_on:
            assert word in options, words
    if "--config" in rest:
        assert (REPO / rest[rest.index("--config") + 1]).is_file(), words


def test_python_in_the_readme_runs():
    block = re.search(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    assert block
    scope: dict[str, object] = {}
    exec(block[1], scope)  # the README's own lines
    assert len(scope["forecast"]) > 0
