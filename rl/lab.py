"""The reward lab: a configuration's rewards checked for exploits and replayed on stored rollouts, without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.corpus import Corpus, draw_items, open_corpus
from benchmarks.prompts import PromptConfig
from benchmarks.replay import as_trained, replay, summarize_replay
from benchmarks.replay_page import write_replay
from benchmarks.reward_data import check_rows, reward_context
from benchmarks.rollout_files import read_rollouts
from benchmarks.runs import CONFIG, MANIFEST, read_manifest
from rewards import LABELS, InputError
from rewards.check import HONEST, Check, check_rewards, counts_tokens
from rewards.compose import BUILT_IN, TRL_REWARDS, compose
from rewards.composition import Composition, weight_notes
from sft.config import check_keys, read_yaml

CHECKED_ROWS: Final = 300
SEED: Final = 0


@dataclass(frozen=True)
class RewardConfig:
    """What a configuration says of its rewards; a file of stage two serves, and so does one with these keys alone.

    Attributes:
        name: of the configuration, for pages and messages.
        rewards: the list; see `rewards/compose.py`.
        reward_weights: TRL's key: a weight each, instead of weights in the list.
        scale_rewards: TRL's key.
        data, split, template, evidence, lemmas, balance: as in stage two.
        folder: what files that it names are relative to.
    """

    name: str
    rewards: Any
    reward_weights: Any = None
    scale_rewards: Any = "group"
    data: str | None = None
    split: str = "official"
    template: str = "three_class"
    evidence: int = 0
    lemmas: bool = False
    balance: bool = False
    folder: Path = field(default_factory=Path)

    def compose(self, items: pd.DataFrame, corpus: Corpus, counts: Mapping[str, int] | None = None) -> Composition:
        """Make the rewards for a frame of items."""
        context = reward_context(items, corpus, folder=self.folder, counts=counts)
        return compose(self.rewards, context, weights=self.reward_weights, where=f"{self.name}: rewards")


def read_reward_config(source: str) -> RewardConfig:
    """Read a configuration's rewards.

    Args:
        source: a YAML file with a key `rewards`, or one reward: a built-in name, `package.module:function`, or
            `file.py:function`.

    Raises:
        InputError: neither, or the file has no rewards.
    """
    if source in BUILT_IN or source in TRL_REWARDS or (":" in source and not Path(source).is_file()):
        return RewardConfig(source, [source])
    if not Path(source).is_file():
        raise InputError(
            f"{source}: no such file; give a YAML file with `rewards`, a built-in reward, or file.py:function"
        )
    values = read_yaml(Path(source))
    own = [one.name for one in fields(RewardConfig) if one.name not in ("name", "folder")]
    if "sft_run" not in values:  # a file of its own: every key must be one of ours
        check_keys([str(key) for key in values], own, source)
    if "rewards" not in values:
        raise InputError(f"{source}: has no key 'rewards'; write a list of rewards under it")
    known = {key: value for key, value in values.items() if key in own}
    return RewardConfig(source, folder=Path(), **known)


@dataclass(frozen=True)
class Checked:
    """A check with what has to be said about it."""

    config: RewardConfig
    data: str
    check: Check
    notes: tuple[str, ...]


def check_config(config: RewardConfig, data: str | None = None, rows: int = CHECKED_ROWS) -> Checked:
    """Check a configuration's rewards on training rows.

    Args:
        config: the configuration.
        data: folder of the labels or `sample`; the configuration's own by default, and `sample` where it has none.
        rows: rows for the exploits, drawn at random; the gold answer is scored on every training row.

    Raises:
        InputError: bad configuration or data.
        CheckError: a reward raised an error.
    """
    corpus = open_corpus(data or config.data or "sample", config.split)
    train = corpus.train
    if config.template == "direction":
        train = train[train["label"] != str(LABELS[-1])]
    drawn, weight = draw_checked(train, rows, balance=config.balance)
    counts = None
    if config.balance:  # stage two draws each label equally often
        counts = dict.fromkeys(map(str, LABELS), 1)
    composition = config.compose(train, corpus, counts)
    prompt = PromptConfig(config.template, config.evidence, config.lemmas)
    checked = check_rows(drawn, corpus, prompt)
    check = check_rewards(
        composition,
        checked,
        gold_rows=check_rows(train, corpus, prompt),
        weight=weight,
    )
    notes = weight_notes(composition, scale_rewards=str(config.scale_rewards))
    for name in check.constant:
        notes.append(f"{name}: the same for every completion of an item, a constant shift: GRPO subtracts each group's "
                     "mean, so it does nothing")  # fmt: skip
    if check.soft and check.beaten:
        notes.append(f"a soft verifier decides: on {check.beaten} of {check.gold_rows} rows it pays another label more "
                     "than the gold one")  # fmt: skip
    if check.unjudged:
        names = ", ".join(one.name for one in check.unjudged[:4])
        notes.append(
            f"{len(check.unjudged)} exploits get None where an honest policy gets a score ({names}): GRPO takes them "
            "as average, which is more than a wrong answer earns; give what the model did wrong a score"
        )
    if composition.last_step:
        notes.append(f"schedules are taken at step {composition.last_step}, their last point")
    if counts_tokens(composition):
        notes.append("tokens, where a reward looks at them, are estimated: pieces of words of four characters at most")
    return Checked(config, corpus.source, check, tuple(notes))


def draw_checked(train: pd.DataFrame, rows: int, *, balance: bool) -> tuple[pd.DataFrame, list[float]]:
    """Draw rows for the exploits, as many of each label as there are, and weigh them as the prompts will be.

    Args:
        train: training rows.
        rows: how many to draw at most.
        balance: whether the prompts have each label equally often, or as often as the rows.

    Returns:
        The rows and a weight each: rare labels are drawn more often than they occur and count accordingly less.
    """
    labels = [str(label) for label in LABELS if (train["label"] == str(label)).any()]
    available = train["label"].astype(str).value_counts()
    drawn = [
        draw_items(train[train["label"] == label], min(-(-rows // len(labels)), int(available[label])), seed=SEED,
                   balance=False)
        for label in labels
    ]  # fmt: skip
    frame = pd.concat(drawn)
    share = {label: 1.0 if balance else float(available[label]) for label in labels}
    weight = [share[label] / len(part) for label, part in zip(labels, drawn, strict=True) for _ in range(len(part))]
    return frame, weight


def replay_configs(
    configs: Sequence[RewardConfig], rollouts: Path, out: Path, *, data: str | None = None, command: str = ""
) -> Path:
    """Apply one or two configurations' rewards to stored rollouts and write the page.

    Args:
        configs: one or two. A single one stands beside the rewards that the rollouts were stored with, if any.
        rollouts: a GRPO run's folder, or its Parquet files.
        out: folder for `replay.html` and `replay.json`.
        data: folder of the labels or `sample`; by default the run's own, then the configuration's, then `sample`.
        command: shown on the page.

    Raises:
        InputError: bad configuration, rollouts or data.
        CheckError: a reward raised an error.
    """
    if not 1 <= len(configs) <= 2:
        raise InputError(f"{len(configs)} configurations: give one, or two to see them side by side")
    frame = read_rollouts(rollouts)
    of_run = read_yaml(rollouts / CONFIG) if (rollouts / CONFIG).is_file() else {}
    source = data or of_run.get("data") or (None if of_run else configs[0].data or "sample")
    corpus = open_corpus(source, of_run.get("split") or configs[0].split)
    counts = None
    if (rollouts / MANIFEST).is_file():  # the prompts that the run drew, not only those it came to
        counts = (read_manifest(rollouts).get("prompts") or {}).get("labels")
    replayed = []
    for config in configs:
        composition = config.compose(frame, corpus, counts)
        notes = weight_notes(composition, scale_rewards=str(config.scale_rewards))
        replayed.append(replay(frame, composition, config.name, notes))
    stored = as_trained(frame)
    if len(replayed) == 1 and stored is not None:
        replayed.append(stored)
    rates = corpus.rates(frame.drop_duplicates("item_id"))
    summary = summarize_replay(frame, replayed, rates, source=str(rollouts), command=command)
    return write_replay(summary, out)


def describe_check(checked: Checked, *, every: bool = False) -> list[str]:
    """Say what a check found, as lines of text."""
    check = checked.check
    lines = [
        f"{checked.config.name}: {check.rows} of {check.gold_rows} training rows of {checked.data}",
        f"  {'gold answer':46} {check.gold:8.3f}",
        f"  {f'honest policy, right {HONEST:.0%} of the time':46} {check.honest:8.3f}",
    ]
    less = [one for one in check.earnings if one not in check.found and one not in check.tied]
    shown = [*check.found, *(check.tied if every else ()), *(less if every else less[:12])]
    if check.tied and not every:
        names = ", ".join(one.name for one in check.tied[:4])
        lines.append(f"  {f'{len(check.tied)} exploits that only write otherwise':46} {check.honest:8.3f}  {names}, …")
    for one in shown:
        mark = "MORE than honest" if one in check.found else ""
        none = f"{one.unscorable:.0%} unscorable" if one.unscorable else ""
        kind = "as often right" if one.knows else "knows nothing"
        lines.append(f"  {one.name:46} {one.mean:8.3f}  {kind:14} {mark} {none}".rstrip())
    if len(shown) < len(check.earnings):
        lines.append(f"  {len(check.earnings) - len(shown)} more exploits earn less; --all prints them")
    lines.append("share of the variance within groups, from which GRPO learns:")
    lines += [f"  {name:46} {share:8.1%}" for name, share in check.effect.items()]
    lines += [f"note: {note}" for note in checked.notes]
    return lines
