"""Reading a stage's configuration: YAML keys of TRL's own dataclasses and ours, command-line values on top."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from benchmarks.machine import resolve_dtype
from benchmarks.runs import settle_dtype
from rewards import InputError

ConfigSource = str | Path | Mapping[str, Any]

_WORDS: Final = {
    str: "text (in quotes, if YAML reads it as something else)", int: "a whole number", float: "a number",
    bool: "true or false", NoneType: "null", dict: "a mapping",
}  # fmt: skip


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which would take the last value of a key that is given twice; this one refuses it."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        InputError: the file is missing, is not YAML, holds no mapping, or gives a key twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file; give a YAML file, as in configs/")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date such as 2026-99-99
        raise InputError(f"{path}: not YAML ({_yaml_problem(error)}); mend the file") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no keys; write one `key: value` a line")
    return values


def _yaml_problem(error: Exception) -> str:
    """What is wrong and where, without the line itself, which may hold a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())[:160]
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def check_keys(keys: Sequence[str], known: Sequence[str], where: str) -> None:
    """Refuse a key that is not known, with the nearest one that is."""
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise InputError(f"{where}: {key!r} is no key; did you mean {near[0]!r}?")


def _refuse_credentials(values: Mapping[str, Any], words: Sequence[str], where: str) -> None:
    """Refuse TRL's keys that hold the hub's token, which run folder and checkpoints would keep as plain text."""
    options = values.get("model_init_kwargs")
    for key, given in (
        ("hub_token", values.get("hub_token") is not None or "hub_token" in words),
        ("model_init_kwargs: token", isinstance(options, Mapping) and "token" in options),
    ):
        if given:
            raise InputError(
                f"{where}: {key} is a credential, and configurations are stored; leave it out and set HF_TOKEN in the "
                "environment"
            )


def parse_stage(source: ConfigSource, overrides: Sequence[str], ours: type, theirs: type) -> tuple[Any, Any, Any]:
    """Read a training stage's configuration: our keys, TRL's, and those of its ModelConfig; see `parse_config`.

    Keys that depend on the machine need not be given: `dtype` is `auto` (TRL: float32), which is settled here, and
    where there is no GPU `use_cpu` is true and `bf16`, which stands for mixed precision, false.

    Args:
        source, overrides: see `parse_config`.
        ours: our arguments' dataclass.
        theirs: TRL's; its `output_dir` is the run folder.

    Returns:
        One instance of each, and the ModelConfig.
    """
    import torch
    from trl import ModelConfig

    defaults: dict[str, Any] = {"dtype": "auto"}
    if not torch.cuda.is_available():
        defaults |= {"use_cpu": True, "bf16": False}
    elif resolve_dtype("auto") != "bfloat16":
        defaults["bf16"] = False
    own, args, model_args = parse_config(source, overrides, (ours, theirs, ModelConfig), defaults)
    model_args.dtype = settle_dtype(model_args.dtype, Path(args.output_dir))
    return own, args, model_args


def parse_config(
    source: ConfigSource,
    overrides: Sequence[str],
    dataclass_types: Sequence[type],
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Read a configuration into dataclasses through TRL's parser.

    Args:
        source: a YAML file, or a mapping of the same keys.
        overrides: command-line words `--key value` that win over the file.
        dataclass_types: ours and TRL's; their fields are the allowed keys.
        defaults: values of keys that neither gives.

    Returns:
        One instance per dataclass.

    Raises:
        InputError: a key is unknown (the nearest is suggested), holds a credential, or a value does not fit; ours are
            held against their annotations, as argparse checks no value that comes from a file.
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
    _refuse_credentials(values, words, where)
    parser = Parser(dataclass_types=list(dataclass_types), allow_abbrev=False)
    parser.set_defaults_with_config(**{**(defaults or {}), **values})
    try:
        read = vars(parser.parse_known_args(list(overrides))[0])
        for cls in dataclass_types:
            if _is_ours(cls):
                _check_values(cls, read, where)
        parts = tuple(parser.parse_args_into_dataclasses(args=list(overrides)))
    except InputError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())[:300]}") from error
    for part in parts:  # mappings may come as text
        _refuse_credentials(vars(part), (), where)
    return parts


def _check_values(cls: type, values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(cls)
    for entry in dataclasses.fields(cls):
        if entry.name in values and not _fits(values[entry.name], hints[entry.name]):
            # What holds a URL or a key may hold a secret.
            hidden = entry.name.endswith(("base_url", "extra_body", "api_key_env"))
            value = values[entry.name]
            shown = f"of type {type(value).__name__}" if hidden else repr(value)[:80]
            raise InputError(f"{where}: {entry.name} is {shown}; write {_allowed(hints[entry.name])}")


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is list:  # a mapping in a list is for the list's own reader, such as that of rewards
        return isinstance(value, list) and all(isinstance(one, dict) or _fits(one, get_args(hint)[0]) for one in value)
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


def _is_ours(cls: type) -> bool:
    return not cls.__module__.startswith("trl.")


def resolved(*parts: Any) -> dict[str, Any]:
    """Return what a run is defined by: every field of ours, `dtype`, and each of TRL's that is not its default."""
    values: dict[str, Any] = {}
    for part in parts:
        ours = _is_ours(type(part))
        for entry in dataclasses.fields(part):
            if not entry.init:
                continue
            value = getattr(part, entry.name)
            default = entry.default
            always = ours or entry.name == "dtype"  # what `auto` came to on this machine
            if always or (default is not dataclasses.MISSING and value != default):
                values[entry.name] = value if _is_plain(value) else str(value)
    return values


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, dict))
