"""Processes of our own."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Start processes (`spawn`) that do not run this one's main script again: it may have no main guard."""
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
    try:
        for name in kept:
            with contextlib.suppress(AttributeError):
                setattr(main, name, None) if name == "__spec__" else delattr(main, name)
        yield
    finally:
        for name, value in kept.items():
            if value is not None:
                setattr(main, name, value)
