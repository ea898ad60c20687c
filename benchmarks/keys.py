"""Configuration keys: the fields of a dataclass, with those of nested dataclasses on the same level.

A key is defined once, in its own dataclass. Every configuration that holds this dataclass has the key. A nested key's
default comes from the default of the nested value, so configurations may have different defaults. A field with the
metadata `key: False` is no key: the program sets it.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from types import GenericAlias, NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from rewards import InputError

WORDS: Final = {"yes": True, "on": True, "no": False, "off": False}
_LEADING_ZERO: Final = re.compile(r"[-+]?0[0-9_]+")
_WORDS: Final = {
    str: "text (in quotes, if YAML reads it as something else)", int: "a whole number", float: "a number",
    bool: "true or false", NoneType: "null", dict: "a mapping",
}  # fmt: skip


def key_fields(cls: type, given: Any = None) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Return the keys of a dataclass, in order: for each its annotation, and its field with its default.

    Args:
        cls: the dataclass.
        given: an instance whose values are used as defaults; None for the defaults of the fields.
    """
    hints = get_type_hints(cls)
    found: dict[str, tuple[Any, dataclasses.Field[Any]]] = {}
    for entry in dataclasses.fields(cls):
        if not entry.init or not entry.metadata.get("key", True):
            continue
        hint = hints[entry.name]
        if dataclasses.is_dataclass(hint):
            found |= key_fields(hint, entry.default if given is None else getattr(given, entry.name))  # type: ignore[arg-type]
        elif given is None:
            found[entry.name] = hint, entry
        else:
            found[entry.name] = hint, dataclasses.field(default=getattr(given, entry.name), metadata=entry.metadata)
    return found


def describe_keys(cls: type) -> list[tuple[str, str]]:
    """Return each key of a dataclass with its help and its default, which is left out where it is null or empty."""
    described = []
    for name, (_, entry) in key_fields(cls).items():
        default = entry.default
        if entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        if default is dataclasses.MISSING:
            note = "required"
        elif default in (None, "", []):
            note = ""
        else:
            text = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
            note = f"default: {text.lower() if isinstance(default, bool) else text}"
        described.append((name, f"{entry.metadata.get('help', '')} {f'[{note}]' if note else ''}".strip()))
    return described


def flat_class(cls: type) -> type:
    """Return a dataclass whose fields are the keys of `cls`, for a parser that cannot read nested ones."""
    fields = []
    for name, (hint, entry) in key_fields(cls).items():
        own = dataclasses.field(default=entry.default, default_factory=entry.default_factory, metadata=entry.metadata)  # type: ignore[call-overload]
        if takes(hint, list):  # words of the command line are text, even if a file may hold other types
            kind = next(get_args(one)[0] for one in _options(hint) if get_origin(one) is list)
            hint = GenericAlias(list, (kind if isinstance(kind, type) else str,))
            if entry.default is not dataclasses.MISSING:  # the parser takes a list's default from a factory only
                own = dataclasses.field(default_factory=partial(_same, entry.default), metadata=entry.metadata)
        fields.append((name, hint, own))
    return dataclasses.make_dataclass(cls.__name__, fields, kw_only=True)


def _same(value: Any) -> Any:
    return value


def from_keys(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Make an instance from keys, each checked against its annotation.

    Args:
        cls: a dataclass.
        values: by key; keys left out have their defaults.
        where: what errors call the values, such as a file.

    Returns:
        The instance of `cls`.

    Raises:
        InputError: a key is unknown or missing, or a value does not fit.
    """
    fields = key_fields(cls)
    check_keys([str(key) for key in values], list(fields), where)
    values = {str(key): fit_value(one, fields[str(key)][0], f"{where}: {key}") for key, one in values.items()}
    check_values(cls, values, where)
    for name, (_, entry) in fields.items():
        missing = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if missing and name not in values:
            raise InputError(f"{where}: {name} is missing; set it")
    return _nest(cls, values)


def _nest(cls: type, values: Mapping[str, Any], given: Any = None) -> Any:
    hints = get_type_hints(cls)
    own: dict[str, Any] = {}
    for entry in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[entry.name]):
            inner = entry.default if given is None else getattr(given, entry.name)
            own[entry.name] = _nest(hints[entry.name], values, inner)
        elif entry.init and entry.metadata.get("key", True) and entry.name in values:
            own[entry.name] = values[entry.name]
    return cls(**own) if given is None else dataclasses.replace(given, **own)


def to_keys(instance: Any) -> dict[str, Any]:
    """Return the values of an instance by key, in order; `from_keys` takes them back."""
    values: dict[str, Any] = {}
    for entry in dataclasses.fields(instance):
        value = getattr(instance, entry.name)
        if dataclasses.is_dataclass(value):
            values |= to_keys(value)
        elif entry.init and entry.metadata.get("key", True):
            values[entry.name] = value
    return values


def check_keys(keys: Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse an unknown key, and suggest the nearest known one."""
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise InputError(f"{where}: {key!r} is no key; did you mean {near[0]!r}?")


def check_values(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Check values against the annotations of a dataclass's keys: int, float, str, bool, Literal, list, dict, None.

    Args:
        cls: the dataclass.
        values: by key; keys that `cls` does not have are ignored.
        where: what errors call the values.

    Raises:
        InputError: a value is of the wrong type, or not one of those allowed.
    """
    for name, (hint, _) in key_fields(cls).items():
        if name in values and not _fits(values[name], hint):
            # A URL or the name of a key may hold a secret.
            hidden = name.endswith(("base_url", "extra_body", "api_key_env"))
            shown = f"of type {type(values[name]).__name__}" if hidden else repr(values[name])[:80]
            raise InputError(f"{where}: {name} is {shown}; write {_allowed(hint)}")


def fit_value(value: Any, hint: Any, where: str) -> Any:
    """Convert a value read from YAML for the annotation of its key.

    `yes`, `no`, `on` and `off` become truth values if the key allows one.

    Args:
        value: the value.
        hint: the key's annotation.
        where: what errors call the key.

    Raises:
        InputError: a number begins with 0, which some read as base 8.
    """
    if isinstance(value, list) and takes(hint, list):
        inner = next((get_args(one)[0] for one in _options(hint) if get_origin(one) is list), Any)
        return [fit_value(one, inner, where) for one in value]
    if isinstance(value, str) and takes(hint, bool) and value.lower() in WORDS:
        return WORDS[value.lower()]
    number = (takes(hint, int) or takes(hint, float)) and not takes(hint, str)
    if isinstance(value, str) and number and _LEADING_ZERO.fullmatch(value.strip()):
        raise InputError(f"{where}: {value} begins with a 0, which some read as base 8; write the number without it")
    return value


def takes(hint: Any, kind: type) -> bool:
    """Return whether an annotation allows values of a type."""
    return any((get_origin(one) or one) is kind for one in _options(hint))


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if origin is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, get_args(hint)[0]) for one in value)
    if origin in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if origin is float else origin)


def _allowed(hint: Any) -> str:
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        return " or ".join(_allowed(one) for one in get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if origin is list:
        return f"a list such as [a, b], each {_allowed(get_args(hint)[0])}"
    return _WORDS[origin]
