"""Modules that load where a test first uses them: collecting the tests then loads neither torch nor TRL."""

from importlib import import_module
from typing import Any


class Lazy:
    """Stands for a module, and imports it when an attribute of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith(("_", "pytest")):  # pytest looks whether this is a fixture
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
