"""Reading a stage's configuration: YAML keys of TRL's own dataclasses and ours, command-line values on top."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rewards import InputError

ConfigSource = str | Path | Mapping[str, Any]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        InputError: the file is missing, is not YAML, or holds no mapping.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file; give a YAML file, as in configs/")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())[:160]}); mend the file") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no keys; write one `key: value` a line")
    return values


def check_keys(keys: Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse a key that is not known, with the nearest one that is."""
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise InputError(f"{where}: {key!r} is no key; did you mean {near[0]!r}?")


def parse_config(source: ConfigSource, overrides: Sequence[str], dataclass_types: Sequence[type]) -> tuple[Any, ...]:
    """Read a configuration into dataclasses through TRL's parser.

    Args:
        source: a YAML file, or a mapping of the same keys.
        overrides: command-line words `--key value` that win over the file.
        dataclass_types: ours and TRL's; their fields are the allowed keys.

    Returns:
        One instance per dataclass.

    Raises:
        InputError: a key is unknown (the nearest is suggested) or a value does not fit.
    """
    from trl import TrlParser

    class Parser(TrlParser):  # type: ignore[misc]  # argparse prints its usage and exits; we want one line
        def error(self, message: str) -> NoReturn:
            raise InputError(f"{where}: {message}")

    where = "configuration" if isinstance(source, Mapping) else str(source)
    values = dict(source) if isinstance(source, Mapping) else read_yaml(Path(source))
    known = [field.name for cls in dataclass_types for field in dataclasses.fields(cls) if field.init]
    check_keys([str(key) for key in values], known, where)
    words = [word[2:].split("=")[0] for word in overrides if word.startswith("--")]
    check_keys(words, known, "command line")
    parser = Parser(dataclass_types=list(dataclass_types), allow_abbrev=False)
    parser.set_defaults_with_config(**values)
    try:
        return tuple(parser.parse_args_into_dataclasses(args=list(overrides)))
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())[:300]}") from error


def resolved(*parts: Any) -> dict[str, Any]:
    """Return what a run is defined by: every field of ours, and each of TRL's that differs from its default."""
    values: dict[str, Any] = {}
    for part in parts:
        ours = not type(part).__module__.startswith("trl.")
        for entry in dataclasses.fields(part):
            if not entry.init:
                continue
            value = getattr(part, entry.name)
            default = entry.default
            if ours or (default is not dataclasses.MISSING and value != default):
                values[entry.name] = value if _is_plain(value) else str(value)
    return values


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, dict))
