"""Compose rewards from a YAML list, each with a weight, parameters, a schedule over steps and a gate.

rewards:
  - name: margin                 # ours, one of trl.rewards, package.module:function, or file.py:function
    weight: 1.0
    parameters: {verifier: hard}
    schedule: {0: 0.0, 100: 1.0} # step: factor, linear between
    gate: format                 # margin counts only if this reward is 1; else it pays the least that it can
    timeout: 60                  # seconds a call may take; for rewards and gates that are not built in
  - format                       # the same as {name: format}
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rewards import functions, text
from rewards.composition import Component, Composition
from rewards.errors import InputError
from rewards.foreign import find_file, load_foreign, nearest, stated_range
from rewards.reward import Reward
from rewards.timeout import TimeLimited
from rewards.verifiers import (
    LabelTable,
    MixedRates,
    MixedVerifier,
    SoftVerifier,
    Verifier,
    gene_means,
    hard,
    label_table,
    read_label_table,
)

if TYPE_CHECKING:  # not imported here: each own reward starts a process that imports this package
    import pandas as pd

BUILT_IN: Final[Mapping[str, type[Reward]]] = {
    vars(made)["__name__"]: made for made in (*functions.REWARDS, *text.REWARDS)
}
# The names of TRL 1.16's trl.rewards. Importing that module takes seconds.
TRL_REWARDS: Final = (
    "accuracy_reward",
    "get_cosine_scaled_reward",
    "get_repetition_penalty_reward",
    "get_soft_overlong_punishment",
    "reasoning_accuracy_reward",
    "think_format_reward",
)
REWARD_NAMES: Final = (*BUILT_IN, *TRL_REWARDS)
KEYS: Final = ("name", "weight", "parameters", "schedule", "gate", "timeout")
VERIFIERS: Final = ("hard", "soft", "mixed")
TIMEOUT: Final = 60.0
LONGEST_TIMEOUT: Final = 86_400.0


@dataclass(frozen=True)
class Context:
    """What rewards need to know about the data.

    Attributes:
        train_counts: rows per label among the prompts.
        tables: functions by name (`neighbours`, `gene_rate` and others), each of which makes a frame
            `item_id, p_up, p_down, p_none`.
        folder: the configuration's folder. Files that it names are looked for there, then in the current directory.
        prompt_rates: makes such a frame of each gene's rates among the prompts, the item's own label included. It is
            a reward's `rates` unless the verifier is soft; None stands for the table `gene_rate`.
    """

    train_counts: Mapping[Any, int] | None = None
    tables: Mapping[str, Callable[[], "pd.DataFrame"]] = field(default_factory=dict)
    folder: Path = Path()
    prompt_rates: Callable[[], "pd.DataFrame"] | None = None


def compose(
    entries: Any, context: Context, *, weights: Sequence[float] | None = None, where: str = "rewards"
) -> Composition:
    """Make a composition from a configuration's list.

    Args:
        entries: names, or mappings with the keys `KEYS`.
        context: what the rewards need to know about the data.
        weights: TRL's `reward_weights`, one for each entry. No entry may then have a `weight` of its own.
        where: the file and key of the list, for messages.

    Raises:
        InputError: an entry is malformed, a name is unknown or occurs twice, or a parameter does not fit.
    """
    if isinstance(entries, str):
        entries = [entries]
    if not isinstance(entries, Sequence) or not entries:
        raise InputError(f"{where}: name at least one reward, each once")
    components = [_component(entry, context, f"{where}, entry {at}") for at, entry in enumerate(entries, start=1)]
    names = [component.name for component in components]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: {twice!r} is there twice; list each reward once")
    if weights is not None:
        _set_weights(components, weights, entries, where)
    if all(component.weight == 0 for component in components):
        raise InputError(f"{where}: every weight is 0, so that nothing is rewarded; give one reward another weight")
    return Composition(tuple(components))


def _set_weights(components: Sequence[Component], weights: Any, entries: Sequence[Any], where: str) -> None:
    """Give components TRL's `reward_weights`."""
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise InputError(f"reward_weights: {weights!r} is no list; give one number for each reward")
    if len(weights) != len(components):
        raise InputError(f"reward_weights: {len(weights)} weights for {len(components)} rewards; give one each")
    if any(isinstance(entry, Mapping) and "weight" in entry for entry in entries):
        raise InputError(f"{where}: has weights, and so has reward_weights; use one of the two")
    for component, weight in zip(components, weights, strict=True):
        component.weight = _number(weight, "reward_weights:")


def _component(entry: Any, context: Context, where: str) -> Component:
    values = _entry(entry, where)
    name = values["name"]
    where = f"{where} ({name})"
    parameters = _parameters(values.get("parameters"), where)
    weight = _number(values.get("weight", 1.0), f"{where}: weight")
    gate = _gate(values.get("gate"), where)
    ours, gate_ours = name in BUILT_IN, gate is None or gate in BUILT_IN
    seconds = _timeout(values.get("timeout"), ours and gate_ours, where)
    reward = make_reward(name, parameters, context, timeout=seconds, where=where)
    if gate is not None and stated_range(reward) is None:
        raise InputError(f"{where}: a closed gate pays the least that its reward can, which this one does not state; "
                         "give the function an attribute `range = (low, high)`")  # fmt: skip
    return Component(
        name=name,
        reward=reward,
        weight=weight,
        schedule=_schedule(values.get("schedule"), where),
        gate=None if gate is None else make_reward(gate, {}, context, timeout=seconds, where=f"{where}: gate"),
        ours=ours,
        gate_ours=gate_ours,
    )


def _entry(entry: Any, where: str) -> Mapping[str, Any]:
    """Return an entry of the list as a mapping, with a name and known keys only."""
    values: Mapping[str, Any] = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        raise InputError(f"{where}: {entry!r} is no reward; write a name, or a mapping with `name`")
    for key in values:
        if key not in KEYS:
            raise InputError(f"{where}: {key!r} is no key; did you mean {nearest(str(key), KEYS)!r}?")
    return values


def _parameters(parameters: Any, where: str) -> Mapping[str, Any]:
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise InputError(f"{where}: parameters {parameters!r} are no mapping of names; write `name: value` pairs")
    return parameters


def _gate(gate: Any, where: str) -> str | None:
    if gate is None:
        return None
    if not isinstance(gate, str):
        raise InputError(f"{where}: gate {gate!r}; name one reward, as in `gate: format`")
    if gate in BUILT_IN and not BUILT_IN[gate].may_gate:
        raise InputError(f"{where}: gate {gate!r} pays a right answer other than 1 and would stay closed; use `format`")
    return gate


def _timeout(timeout: Any, ours: bool, where: str) -> float:
    if timeout is not None and ours:
        raise InputError(f"{where}: timeout has no effect on a built-in reward; remove it")
    seconds = TIMEOUT if timeout is None else _number(timeout, f"{where}: timeout")
    if not 0 <= seconds <= LONGEST_TIMEOUT:
        raise InputError(f"{where}: timeout {timeout!r}; use seconds up to {LONGEST_TIMEOUT:.0f}, or 0 for no limit")
    return seconds


def make_reward(
    name: str, parameters: Mapping[str, Any], context: Context, *, timeout: float = TIMEOUT, where: str = "rewards"
) -> Any:
    """Make a reward by name.

    Args:
        name: one of `BUILT_IN` or `TRL_REWARDS`, `package.module:function`, or `file.py:function`.
        parameters: of the reward's class or of the function that makes it, as in a configuration.
        context: what built-in rewards need to know about the data.
        timeout: seconds a call may take. Rewards that are not built in are loaded and run in a process of their own; 0
            loads and runs them in this process without a limit.
        where: the file and key of the entry, for messages.

    Raises:
        InputError: the name or a parameter is unknown, or a parameter does not fit.
    """
    if name in BUILT_IN:
        return _built_in(name, parameters, context, where)
    if name in TRL_REWARDS:
        source = f"trl.rewards:{name}"
    elif ":" in name:
        source = name
    else:
        near = nearest(name, REWARD_NAMES)
        raise InputError(
            f"{where}: {name!r} is unknown; did you mean {near!r}? A reward of your own is file.py:function"
        )
    arguments = (source, dict(parameters), str(context.folder))
    return TimeLimited(load_foreign, arguments, name, timeout) if timeout else load_foreign(*arguments)


def _built_in(name: str, parameters: Mapping[str, Any], context: Context, where: str) -> Any:
    make: Callable[..., Any] = BUILT_IN[name]
    takes = inspect.signature(make).parameters
    known = [one for one in takes if one != "train_counts"]  # the context has it
    for key in parameters:
        if key not in known:
            hint = f"did you mean {nearest(key, known)!r}?" if known else "it takes none"
            raise InputError(f"{where}: {key!r} is no parameter; {hint}")
    given = {**parameters, **_needs(takes, parameters, context, where)}
    try:
        return make(**given)
    except TypeError as error:
        missing = [p.name for p in takes.values() if p.default is inspect.Parameter.empty and p.name not in given]
        said = f"needs the parameter {missing[0]!r}" if missing else " ".join(str(error).split())[:160]
        raise InputError(f"{where}: {said}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _needs(takes: Collection[str], given: Mapping[str, Any], context: Context, where: str) -> dict[str, Any]:
    """Make the parameters that a reward needs of the data; see `rewards/reward.py`."""
    made: dict[str, Any] = {}
    if "train_counts" in takes:
        if context.train_counts is None:
            raise InputError(f"{where}: the class counts are not known here; give the data (--data)")
        made["train_counts"] = context.train_counts
    if "verifier" in given:
        made["verifier"] = make_verifier(given["verifier"], context, f"{where}: verifier")
    if "rates" in takes:
        made["rates"] = _rates(given.get("rates"), made.get("verifier", hard), context, f"{where}: rates")
    return made


def _rates(name: Any, verifier: Verifier, context: Context, where: str) -> LabelTable | MixedRates:
    """Return a named table or the gene's rates. A mixed verifier also needs its table's means for each gene."""
    if name not in (None, "gene_rate"):
        return _table(name, context, where)
    if verifier.soft or context.prompt_rates is None:
        rates = _table("gene_rate", context, where)
    else:
        rates = label_table(context.prompt_rates(), "gene_rate")
    return MixedRates(rates, gene_means(verifier.table)) if isinstance(verifier, MixedVerifier) else rates


def make_verifier(spec: Any, context: Context, where: str = "verifier") -> Verifier:
    """Make a verifier.

    Args:
        spec: `hard`, or a mapping with `kind` (`hard`, `soft`, `mixed`) and `table`. The table is a name of the
            context's tables, or a Parquet file of `item_id, p_up, p_down, p_none`. With `none`, `mixed` judges labelled
            pairs only.
        context: has the named tables and the folder.
        where: the file and key, for messages.

    Raises:
        InputError: an unknown kind, key or table.
    """
    values = {"kind": spec} if isinstance(spec, str) else spec
    if not isinstance(values, Mapping) or values.get("kind") not in VERIFIERS:
        kind = values.get("kind") if isinstance(values, Mapping) else values
        raise InputError(f"{where}: {kind!r} is unknown; use {', '.join(VERIFIERS)}")
    for key in values:
        if key not in ("kind", "table"):
            raise InputError(f"{where}: {key!r} is no key; did you mean {nearest(str(key), ('kind', 'table'))!r}?")
    if values["kind"] == "hard":
        if "table" in values:
            raise InputError(f"{where}: a hard verifier takes no table; use kind: soft or mixed")
        return hard
    if "table" not in values:
        raise InputError(f"{where}: {values['kind']} needs a table: a Parquet file or one of {_names(context.tables)}")
    if values["kind"] == "mixed" and values["table"] == "none":
        return MixedVerifier(LabelTable("none", {}))
    table = _table(values["table"], context, f"{where}: table")
    return SoftVerifier(table) if values["kind"] == "soft" else MixedVerifier(table)


def _table(name: Any, context: Context, where: str) -> LabelTable:
    if isinstance(name, LabelTable):
        return name
    if isinstance(name, str) and name in context.tables:
        return label_table(context.tables[name](), str(name))
    if Path(str(name)).suffix != ".parquet":
        raise InputError(f"{where}: {name!r} is no Parquet file and none of {_names(context.tables)}")
    return read_label_table(find_file(str(name), context.folder))


def _schedule(values: Any, where: str) -> tuple[tuple[int, float], ...]:
    if values is None:
        return ()
    if not isinstance(values, Mapping) or not values:
        raise InputError(
            f"{where}: schedule {values!r} is no mapping; write {{step: factor}}, as in {{0: 0.0, 100: 1.0}}"
        )
    points: dict[int, float] = {}
    for step, factor in values.items():
        if isinstance(step, str) and step.isdecimal():  # as a run's stored configuration has it
            step = int(step)
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(f"{where}: schedule has the step {step!r}; steps are whole numbers from 0")
        if step in points:
            raise InputError(f"{where}: schedule has the step {step} twice; give it one factor")
        points[step] = _number(factor, f"{where}: schedule at step {step}")
    return tuple(sorted(points.items()))


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        raise InputError(f"{where} is larger than any float; give a smaller one") from None
    if not math.isfinite(number):
        raise InputError(f"{where} {value!r} is no number; give a finite one")
    return number


def _names(tables: Mapping[str, Any]) -> str:
    return ", ".join(tables) if tables else "no named tables here"
