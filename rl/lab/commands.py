"""The reward lab: check a configuration's rewards for exploits, and replay them on stored rollouts, without a model."""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.config import read_yaml
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import PromptConfig, items_for_prompt, open_prompt_corpus
from benchmarks.keys import check_keys, from_keys, key_fields
from benchmarks.runs import CONFIG, MANIFEST, read_manifest, read_stored
from benchmarks.screens.labels import data_dir
from rewards import LABELS, InputError
from rewards.compose import REWARD_NAMES, compose
from rewards.composition import (
    Composition,
    check_scaling,
    prompt_notes,
    refuse_cancelled_weights,
    refuse_missing_columns,
    weight_notes,
)
from rl.lab.check import COMPARED, COMPARED_TEXTS, HONEST, TOLERANCE, Check, check_rewards, counts_tokens
from rl.lab.informed import Informed, informed_policies
from rl.lab.page import check_out, write_replay
from rl.lab.replay import SHIFT, Replayed, as_trained, replay, summarize_replay
from rl.lab.rows import check_rows, draw_checked
from rl.reward_context import reward_context
from rl.rollout_files import read_rollouts
from rl.unlabelled import check_verifiers

CHECKED_ROWS: Final = 300
SAMPLE_ONLY: Final = (
    "the rows are those of the sample that ships, so that the verdict holds for the sample only; for the rows that a "
    "run draws from, run `synthpert data fetch`, or give --data FOLDER"
)
ESTIMATED_TOKENS: Final = (
    "token ids are estimated, for rewards that read them: pieces of words of four characters at most"
)
_logger = logging.getLogger("synthpert.lab")


@dataclass(frozen=True)
class RewardConfig:
    """What a configuration says about its rewards. It may be a GRPO configuration, or have these keys only.

    Attributes:
        rewards: the list; see `rewards/compose.py`.
        reward_weights: TRL's key: a weight each, instead of weights in the list.
        scale_rewards: TRL's key.
        data, split, prompt, balance: as in a GRPO configuration.
        name: of the configuration, for pages and messages.
        folder: the configuration's. Files that rewards name are looked for there, then in the current directory.
    """

    rewards: Any
    reward_weights: Any = None
    scale_rewards: bool | str = "group"
    data: str | None = None
    split: str = "official"
    prompt: PromptConfig = field(default=PromptConfig())
    balance: bool = False
    name: str = field(default="", metadata={"key": False})
    folder: Path = field(default_factory=Path, metadata={"key": False})

    def compose(self, items: pd.DataFrame, corpus: Corpus, counts: Mapping[str, int] | None = None) -> Composition:
        """Make the rewards for a frame of items."""
        context = reward_context(items, corpus, folder=self.folder, counts=counts)
        where = f"{self.name}: rewards"
        composition = compose(self.rewards, context, weights=self.reward_weights, where=where)
        refuse_cancelled_weights(composition, self.scale_rewards, where)
        refuse_missing_columns(composition, where)
        return composition


def read_reward_config(source: str) -> RewardConfig:
    """Read a configuration's rewards.

    Args:
        source: a YAML file with a key `rewards`, or one reward: a built-in name, `package.module:function`, or
            `file.py:function`. One reward is taken with `scale_rewards: batch`, which keeps class weights.

    Raises:
        InputError: the source is neither, or the file has no rewards, a key twice, or a value of the wrong kind.
    """
    path = Path(source)
    if source in REWARD_NAMES or (":" in source and not path.is_file()):
        return RewardConfig([source], name=source, scale_rewards="batch")
    if not path.is_file():
        near = difflib.get_close_matches(source.lower(), REWARD_NAMES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"{source}: no such file or reward{hint}; give a YAML file with `rewards`, a built-in reward, or "
            "file.py:function"
        )
    if path.suffix == ".py":
        raise InputError(f"{source}: a Python file; say which function of it is the reward: {source}:function")
    return _read_file(path, source)


def _read_file(path: Path, source: str) -> RewardConfig:
    values = read_yaml(path)
    if "conditions" in values:
        raise InputError(
            f"{source}: a study's file; give a file with the `rewards` of one of its conditions, or one reward's name"
        )
    own = list(key_fields(RewardConfig))
    if "sft_run" not in values:  # a file of its own: every key must be one of ours
        check_keys([str(key) for key in values], own, source)
    if "rewards" not in values:
        raise InputError(f"{source}: has no key 'rewards'; write a list of rewards under it")
    if values.get("multi_objective_aggregation") == "normalize_then_sum":  # TRL then scales each reward by group
        values["scale_rewards"] = "group"
    known = {key: value for key, value in values.items() if key in own and (key == "rewards" or value is not None)}
    config: RewardConfig = from_keys(RewardConfig, known, source)
    check_scaling(config.scale_rewards, source)
    return replace(config, name=source, folder=path.parent)


@dataclass(frozen=True)
class Checked:
    """A check with its notes."""

    config: RewardConfig
    data: str
    check: Check
    notes: tuple[str, ...]
    informed: tuple[Informed, Informed]


def check_config(config: RewardConfig, data: str | None = None, rows: int = CHECKED_ROWS) -> Checked:
    """Check a configuration's rewards on training rows.

    Args:
        config: the configuration.
        data: folder of the labels or `sample`; by default the configuration's own, else `default_data`.
        rows: rows for the exploits, drawn at random; the gold answer is scored on every training row.

    Raises:
        InputError: bad configuration or data.
        CheckError: a reward raised an error.
    """
    corpus = open_prompt_corpus(data or config.data or default_data(), config.split, config.prompt)
    train = items_for_prompt(corpus.train, config.prompt)
    counts = dict.fromkeys(map(str, LABELS), 1) if config.balance else None  # stage two draws each label equally often
    drawn, weight = draw_checked(train, rows, balance=config.balance)
    composition = config.compose(train, corpus, counts)
    checked = check_rows(drawn, corpus, config.prompt, counts)
    check = check_rewards(composition, checked, gold_rows=check_rows(train, corpus, config.prompt), weight=weight)
    informed = informed_policies(composition, check, checked, corpus, weight=weight, counts=counts)
    notes = [
        *([SAMPLE_ONLY] if corpus.is_sample and config.data != "sample" else []),
        *weight_notes(composition, scale_rewards=str(config.scale_rewards)),
        *prompt_notes(composition, checked[0].prompt),
        *_check_notes(check),
        *([ESTIMATED_TOKENS] if counts_tokens(composition) else []),
        *_informed_notes(*informed),
    ]
    return Checked(config, corpus.source, check, tuple(notes), informed)


def _check_notes(check: Check) -> list[str]:
    """Return what a check found besides its verdict, and which rows and step its figures are from."""
    notes = [
        f"{name}: pays all {COMPARED_TEXTS} texts of an item the same; either it is {SHIFT}, or it pays for something "
        "that none of them has, and the check says nothing about it"
        for name in check.constant
    ]
    if check.soft and check.beaten:
        notes.append(f"a soft verifier decides: on {check.beaten} of {check.gold_rows} rows it pays another label more "
                     "than the gold one")  # fmt: skip
    if check.unjudged:
        names = ", ".join(one.name for one in check.unjudged[:4])
        notes.append(
            f"{len(check.unjudged)} exploits get None where an honest policy gets a score ({names}): GRPO takes them "
            "as average, which is more than a wrong answer earns; give what the model did wrong a score"
        )
    if check.unlabelled_rows == 0:
        notes.append("the table of the mixed verifier knows none of the rows: what it pays on unlabelled pairs is not "
                     "checked")  # fmt: skip
    elif check.unlabelled_rows is not None:
        worse = "emptied" if check.unlabelled else "given"
        notes.append(
            f"all is checked with labels, and with them emptied on the {check.unlabelled_rows} rows that the mixed "
            f"verifier's table knows; the figures are those with labels {worse}, the worse of the two"
        )
    if check.step is not None:
        notes.append(
            f"every step that schedules name is checked; the figures are those of step {check.step}, the worst"
        )
    return notes


def _informed_notes(likeliest: Informed, surprising: Informed) -> list[str]:
    """Warn if the reward would draw a policy away from the likeliest label."""
    if surprising.mean <= likeliest.mean or surprising.accuracy > likeliest.accuracy - TOLERANCE:
        return []
    return [
        f"{surprising.name} earns more than {likeliest.name} and is right less often ({surprising.accuracy:.0%} "
        f"against {likeliest.accuracy:.0%}): training towards this reward costs accuracy; give `accuracy` more "
        "weight"
    ]


def default_data() -> str | None:
    """Return None if the full labels are there (see `benchmarks.screens.labels.data_dir`), else `sample`."""
    return None if os.environ.get("SYNTHPERT_DATA") or data_dir().is_dir() else "sample"


def replay_configs(
    configs: Sequence[RewardConfig], rollouts: Path, out: Path, *, data: str | None = None, command: str = ""
) -> Path:
    """Apply one or two configurations' rewards to stored rollouts and write the page.

    Args:
        configs: one or two. A single one stands beside the rewards that the rollouts were stored with, if any.
        rollouts: a GRPO run's folder, or its Parquet files.
        out: folder for `replay.html` and `replay.json`; those of an earlier replay are replaced, with a line to say so.
        data: folder of the labels or `sample`; by default the run's own, then the configuration's, then
            `default_data`.
        command: shown on the page.

    Raises:
        InputError: bad configuration, rollouts or data, or a folder that is no replay's or cannot be written.
        CheckError: a reward raised an error.
    """
    if not 1 <= len(configs) <= 2:
        raise InputError(f"{len(configs)} configurations: give one, or two to see them side by side")
    if check_out(out):
        _logger.warning("%s: holds the page of an earlier replay, which this one replaces", out)
    frame = read_rollouts(rollouts)
    of_run = read_stored(rollouts / CONFIG, "restore it") if (rollouts / CONFIG).is_file() else {}
    named = data or of_run.get("data") or (None if of_run else configs[0].data)
    corpus = open_corpus(named or default_data(), of_run.get("split") or configs[0].split)
    counts = _drawn_labels(rollouts)
    replayed = [_replay_config(config, frame, corpus, counts) for config in configs]
    stored = as_trained(frame, _trained_weights(of_run))
    if len(replayed) == 1 and stored is not None:
        replayed.append(stored)
    rates, notes = None, []
    try:
        rates = corpus.rates(frame.drop_duplicates("item_id"))
    except InputError as error:  # of the page's own figures one is missing; a reward that needs rates has refused
        notes.append(f"The correlation with the gene's rate is left out: {error}")
    summary = summarize_replay(frame, replayed, rates, source=str(rollouts), command=command, notes=notes)
    return write_replay(summary, out)


def _drawn_labels(rollouts: Path) -> Mapping[str, int] | None:
    """Return the labels of all prompts that a run drew, also those it did not reach; None if no run says."""
    if not (rollouts / MANIFEST).is_file():
        return None
    labels: Mapping[str, int] | None = (read_manifest(rollouts).get("prompts") or {}).get("labels")
    return labels


def _replay_config(
    config: RewardConfig, frame: pd.DataFrame, corpus: Corpus, counts: Mapping[str, int] | None
) -> Replayed:
    composition = config.compose(frame, corpus, counts)
    if (frame["label"] == "").any():
        check_verifiers(composition.components)
    notes = weight_notes(composition, scale_rewards=str(config.scale_rewards))
    return replay(frame, composition, config.name, notes)


def _trained_weights(config: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights in a run's own configuration, by reward."""
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in config.get("rewards") or ()]
    weights = config.get("reward_weights") or [entry.get("weight", 1.0) for entry in entries]
    return {entry["name"]: float(weight) for entry, weight in zip(entries, weights, strict=False)}


def describe_check(checked: Checked, *, every: bool = False) -> list[str]:
    """Return what a check found as lines of text: what it rests on, mean rewards, notes, the verdict.

    Args:
        checked: the check.
        every: list all exploits, not only the best paid.
    """
    check = checked.check
    only = "; the verdict holds for the sample only" if SAMPLE_ONLY in checked.notes else ""
    lines = [
        f"{checked.config.name}: {check.rows} of {check.gold_rows} training rows of {checked.data}{only}",
        *_describe_basis(check),
        "mean reward:",
        f"  {'gold answer':46} {check.gold:8.3f}  {_unscorable(check.gold_unscorable)}".rstrip(),
        f"  {f'honest policy, right {HONEST:.0%} of the time':46} {check.honest:8.3f}  "
        f"{_unscorable(check.honest_unscorable)}".rstrip(),
    ]
    tied = [one for one in check.tied if one.knows]
    rest = [one for one in check.earnings if one not in check.found and one not in tied]
    shown = [*check.found, *(tied if every else ()), *(rest if every else rest[:12])]
    if tied and not every:
        names = ", ".join([*(one.name for one in tied[:4]), *(["…"] if len(tied) > 4 else [])])
        lines.append(f"  {f'{len(tied)} exploits that only write otherwise':46} {check.honest:8.3f}  {names}")
    for one in shown:
        mark = "MORE than honest" if one in check.found else "AS MUCH as honest" if one in check.unearned else ""
        kind = "as often right" if one.knows else "knows nothing"
        lines.append(f"  {one.name:46} {one.mean:8.3f}  {kind:14} {mark} {_unscorable(one.unscorable)}".rstrip())
    if not every and len(rest) > 12:
        lines.append(f"  {len(rest) - 12} more exploits earn less; --all prints them")
    lines.append("policies that know the cross-line neighbours, on the same rows:")
    lines += [f"  {one.name:46} {one.mean:8.3f}  right {one.accuracy:.0%}" for one in checked.informed]
    lines.append(f"share of the variance among {COMPARED_TEXTS} texts of an item ({', '.join(COMPARED)}):")
    lines += [f"  {name:46} {share:8.1%}" for name, share in check.effect.items()]
    lines += [f"note: {note}" for note in checked.notes]
    return [*lines, *_describe_verdict(check)]


def _describe_basis(check: Check) -> list[str]:
    """Say what the verdict rests on, and what it cannot rest on."""
    blind = sum(not one.knows for one in check.earnings)
    stated = f", and states the confidence {check.confidence}" if check.confidence else ""
    many = "sentence" if check.sentences == 1 else "sentences"
    return [
        "what the verdict rests on:",
        f"  gold answer: the true label on all {check.gold_rows} rows, against the other two labels with the same text",
        f"  honest policy: right {HONEST:.0%} of the time; it writes a template of {check.sentences} {many}, the "
        f"length that earns most{stated}",
        f"  exploits: {len(check.earnings)} on {check.rows} rows; {blind} know nothing, {len(check.earnings) - blind} "
        "are right as often as the honest policy and only write otherwise",
        "  not checked: whether the reward tells good reasoning from bad; the template names the genes and reasons "
        "about nothing",
    ]


def _describe_verdict(check: Check) -> list[str]:
    failures = check.failures()
    if failures:
        return ["verdict: fails", *(f"  {one}" for one in failures)]
    gold = "" if check.soft else f"no other label earns more than the gold one on any of {check.gold_rows} rows, and "
    return [
        f"verdict: passes; {gold}none of {len(check.earnings)} exploits earns more than the honest policy on "
        f"{check.rows} rows (by more than two standard errors)"
    ]


def _unscorable(share: float) -> str:
    return f"{share:.0%} unscorable" if share else ""
