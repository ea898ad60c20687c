"""Reads a stage's configuration: YAML keys of TRL's own dataclasses and ours, with command-line values on top."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from benchmarks.files import at_home
from benchmarks.keys import (
    WORDS,
    check_keys,
    check_values,
    fit_value,
    flat_class,
    from_keys,
    key_fields,
    takes,
    to_keys,
)
from benchmarks.machine import resolve_dtype
from benchmarks.runs import run_dtype
from rewards import InputError

ConfigSource = str | Path | Mapping[str, Any]


_DIGITS: Final = "[0-9][0-9_]*"
# The core schema of YAML 1.2, and `_` within numbers. PyYAML follows YAML 1.1: `off` is false, `1:30` is 90, `010` is
# 8, and `1e-5` is text.
_PLAIN: Final = {
    r"~|null|Null|NULL|": "tag:yaml.org,2002:null",
    r"true|True|TRUE|false|False|FALSE": "tag:yaml.org,2002:bool",
    r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+": "tag:yaml.org,2002:int",
    rf"[-+]?(?:{_DIGITS}\.[0-9_]*|\.{_DIGITS})(?:[eE][-+][0-9]+)?": "tag:yaml.org,2002:float",
    r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)": "tag:yaml.org,2002:float",
    rf"[-+]?(?:{_DIGITS}\.?[0-9_]*|\.{_DIGITS})[eE][-+]?[0-9]+": "!exponent",
    "|".join(one for word in WORDS for one in (word, word.capitalize(), word.upper())): "!word",
    "<<": "tag:yaml.org,2002:merge",
}
# Keys whose values other libraries read. No annotation says whether `no` is text there.
_UNTYPED: Final = re.compile(r"parameters|.*_body|.*_kwargs")


class _Word(str):
    """An unquoted `yes`, `no`, `on` or `off`: text, or a truth value if the key allows one."""


class _Exponent(float):
    """A number such as `1e-5`, with its text, for keys that allow text."""

    text: str


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain values of YAML 1.2; a key given twice is refused."""

    def construct_word(self, node: Any) -> _Word:
        return _Word(node.value)

    def construct_exponent(self, node: Any) -> _Exponent:
        number = _Exponent(node.value.replace("_", ""))
        number.text = node.value
        return number

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    problem = f"key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
for _pattern, _tag in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), None)
_Loader.add_constructor("!word", _Loader.construct_word)
_Loader.add_constructor("!exponent", _Loader.construct_exponent)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, by YAML 1.2: `yes`, `no`, `on` and `off` are text, `1e-5` is a number.

    `~` at the beginning of a path is the home folder.

    Args:
        path: the file.

    Raises:
        InputError: the file is missing, is not YAML, holds no mapping, or gives a key twice; or an unquoted `yes`,
            `no`, `on` or `off` stands where no annotation says whether it is text.
    """
    return {str(key) if isinstance(key, _Word) else key: _plain(one, f"{path}: {key}", key)
            for key, one in _load(path).items()}  # fmt: skip


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text, with values as in `read_yaml`; raise YAMLError or ValueError otherwise."""
    return _plain(yaml.load(text, _Loader), text[:60], "")


def _load(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file; give a YAML file, as in configs/")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, or a date such as 2026-99-99
        raise InputError(f"{path}: not YAML ({_yaml_problem(error)}); correct the file") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no keys; write one `key: value` per line")
    return values


def _plain(value: Any, where: str, key: Any) -> Any:
    """A value as plain Python types, with the home folder in place of `~` at the beginning of a path."""
    if isinstance(value, _Word):
        if _UNTYPED.fullmatch(str(key)):
            raise InputError(
                f"{where}: {value} is text in YAML 1.2 and was a truth value before; write true or false, or quotes "
                "around it"
            )
        return str(value)
    if isinstance(value, _Exponent):
        return float(value)
    if isinstance(value, str):
        return at_home(value)
    if isinstance(value, Mapping):
        return {
            str(name) if isinstance(name, _Word) else name: _plain(
                one, f"{where}: {name}", key if _UNTYPED.fullmatch(str(key)) else name
            )
            for name, one in value.items()
        }
    return [_plain(one, where, key) for one in value] if isinstance(value, list) else value


def _yaml_problem(error: Exception) -> str:
    """What is wrong and where. The line itself is not shown, since it may hold a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())[:160]
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def name_out(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """Let `--out`, the same in every command, stand for the configuration's own key of the output folder or file.

    Args:
        words: command-line words, `--key value` or `--key=value`.
        known: the configuration's keys.

    Returns:
        The words, with that key in place of `--out`.
    """
    key = next((name for name in ("output_dir", "output") if name in known), "out")
    return [re.sub(r"^--out(?=$|=)", f"--{key}", word) for word in words]


def _refuse_credentials(values: Mapping[str, Any], words: Sequence[str], where: str) -> None:
    """Refuse TRL's keys that hold the hub's token: the run folder and checkpoints would store it as plain text."""
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


# Keys that a stage does not read. By key: the fixed value, and the reason why there is no other.
IgnoredKeys = Mapping[str, tuple[Any, str]]


def _refuse_ignored(values: Mapping[str, Any], words: Sequence[str], ignored: IgnoredKeys, where: str) -> None:
    """Refuse keys that would be stored without effect."""
    for key, (fixed, why) in ignored.items():
        if key in words or values.get(key) not in (None, fixed):
            raise InputError(f"{where}: {key} has no effect: {why}; leave it out")


def _asked_reports(values: Mapping[str, Any], words: Sequence[str], found: Sequence[str], where: str) -> list[str]:
    """Return the services that a run reports to; only those that the user named.

    Args:
        values: the configuration.
        words: command-line words.
        found: `report_to` as transformers resolves it; on a cluster it adds services by itself.
        where: what errors call the configuration.
    """
    from transformers.integrations import get_available_reporting_integrations

    given = values.get("report_to") or []
    asked = {*_values_of(words, "report_to"), *([given] if isinstance(given, str) else given)}
    reports = [name for name in found if name in asked or "all" in asked]
    for name in reports:
        if name not in get_available_reporting_integrations():
            raise InputError(f"{where}: report_to: {name} is not installed; install it, or leave report_to out")
    return reports


def _values_of(words: Sequence[str], key: str) -> list[str]:
    """Return the values that command-line words give a key: `--key value …` or `--key=value`."""
    found: list[str] = []
    here = False
    for word in words:
        name, sign, value = word.partition("=")
        if word.startswith("--"):
            here = name == f"--{key}"
            found += [value] if here and sign else []
        elif here:
            found.append(word)
    return found


def parse_stage(
    source: ConfigSource, overrides: Sequence[str], ours: type, theirs: type, ignored: IgnoredKeys
) -> tuple[Any, Any, Any]:
    """Read a training stage's configuration: our keys, TRL's, and those of its ModelConfig; see `parse_config`.

    Keys that depend on the machine may be left out. `dtype` is then `auto` (TRL's default is float32), and is resolved
    here. Without a GPU `use_cpu` is true, and `bf16` (mixed precision) is false.

    Args:
        source, overrides: see `parse_config`.
        ours: our arguments' dataclass.
        theirs: TRL's; its `output_dir` is the run folder.
        ignored: TRL's keys that the stage does not read.

    Returns:
        One instance of each, and the ModelConfig.

    Raises:
        InputError: see `parse_config`. Also where a key has no effect, checkpoints could not be resumed, or a service
            in `report_to` is not installed.
    """
    import torch
    from trl import ModelConfig

    defaults: dict[str, Any] = {"dtype": "auto"}
    if not torch.cuda.is_available():
        defaults |= {"use_cpu": True, "bf16": False}
    elif resolve_dtype("auto") != "bfloat16":
        defaults["bf16"] = False
    where, values = _read(source, (ours, theirs, ModelConfig))
    own, args, model_args = parse_config(source, overrides, (ours, theirs, ModelConfig), defaults)
    _refuse_ignored(values, [word[2:].split("=")[0] for word in overrides if word.startswith("--")], ignored, where)
    if args.save_only_model:
        raise InputError(
            f"{where}: save_only_model: a run cannot resume from a checkpoint without optimizer and schedule; leave it "
            "out, and set save_total_limit: 1 to save space"
        )
    args.report_to = _asked_reports(values, overrides, args.report_to, where)
    model_args.dtype = run_dtype(model_args.dtype, Path(args.output_dir))
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
        overrides: command-line words `--key value`, which take precedence over the file; `--out` is the output's key.
        dataclass_types: ours and TRL's; their fields are the allowed keys.
        defaults: values of keys that neither gives.

    Returns:
        One instance per dataclass.

    Raises:
        InputError: a key is unknown (the message suggests the nearest) or holds a credential, or a value does not fit.
            Values for our dataclasses are checked against the annotations, since argparse checks none from a file.
    """
    from trl import TrlParser

    class Parser(TrlParser):  # type: ignore[misc]  # argparse would print its usage and exit; we raise one line
        def error(self, message: str) -> NoReturn:
            raise InputError(f"{where}: {message}")

    where, values = _read(source, dataclass_types)
    known = [name for cls in dataclass_types for name in key_fields(cls)]
    overrides = name_out(overrides, known)
    check_keys(list(values), known, where)
    words = [word[2:].split("=")[0] for word in overrides if word.startswith("--")]
    check_keys(words, known, "command line")
    _refuse_credentials(values, words, where)
    flat = [flat_class(cls) if _is_ours(cls) else cls for cls in dataclass_types]
    parser = Parser(dataclass_types=flat, allow_abbrev=False)
    parser.set_defaults_with_config(**{**(defaults or {}), **values})
    try:
        read = vars(parser.parse_known_args(list(overrides))[0])
        for cls in dataclass_types:
            if _is_ours(cls):
                check_values(cls, read, where)
        parts = parser.parse_args_into_dataclasses(args=list(overrides))
    except InputError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())[:300]}") from error
    for part in parts:  # a mapping may be given as text
        _refuse_credentials(vars(part), (), where)
    return tuple(
        from_keys(cls, vars(part), where) if _is_ours(cls) else part
        for cls, part in zip(dataclass_types, parts, strict=True)
    )


def _read(source: ConfigSource, dataclass_types: Sequence[type]) -> tuple[str, dict[str, Any]]:
    """What errors call a configuration, and its values by key, each converted for the key's annotation."""
    where = "configuration" if isinstance(source, Mapping) else str(source)
    given = source if isinstance(source, Mapping) else _load(Path(source))
    hints = {name: hint for cls in dataclass_types for name, (hint, _) in key_fields(cls).items()}
    hints["scale_rewards"] = bool | str  # TRL's annotation allows only text
    return where, {str(key): _as_key(str(key), one, hints.get(str(key), Any), where) for key, one in given.items()}


def _as_key(key: str, value: Any, hint: Any, where: str) -> Any:
    if isinstance(value, _Exponent) and not takes(hint, float):
        if takes(hint, int):
            return int(value) if value.is_integer() else value.text  # text, which the check for a whole number refuses
        if takes(hint, str):
            return value.text
    return fit_value(_plain(value, f"{where}: {key}", key), hint, f"{where}: {key}")


def _is_ours(cls: type) -> bool:
    return not cls.__module__.startswith("trl.")


def resolved(*parts: Any) -> dict[str, Any]:
    """Return what defines a run: every field of ours, `dtype`, and each field of TRL's that is not its default."""
    values: dict[str, Any] = {}
    for part in parts:
        if _is_ours(type(part)):
            kept = to_keys(part)
        else:  # `dtype` is what `auto` resolved to on this machine
            fields = [one for one in dataclasses.fields(part) if one.init and one.default is not dataclasses.MISSING]
            kept = {one.name: getattr(part, one.name) for one in fields}
            kept = {one.name: kept[one.name] for one in fields if one.name == "dtype" or kept[one.name] != one.default}
        values |= {name: value if _is_plain(value) else str(value) for name, value in kept.items()}
    return values


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, dict))
