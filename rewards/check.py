"""What a reward would pay for, before a training run is spent on it: gold answers, exploits, an honest policy."""

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from rewards.composition import Composition
from rewards.errors import CheckError, InputError
from rewards.exploits import BLIND, EXPLOITS, Row, honest_think, say
from rewards.functions import Confidence
from rewards.labels import LABELS, Label
from rewards.text import Length, Pathways
from rewards.verifiers import GeneSets

HONEST: Final = 0.6  # accuracy of the honest policy
LENGTHS: Final = (1, 2, 4, 7, 11, 16, 24)  # sentences; the honest policy writes as much as pays best
TOLERANCE: Final = 1e-9
_CHUNK: Final = 1000
_FACTS: Final = 2  # pathways that an honest policy names for a gene
_PIECE: Final = re.compile(r"\s?\S{1,4}")

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Earning:
    """What one way of answering earns on average.

    Attributes:
        name: of the exploit.
        mean: of the total reward over the rows scored; NaN where none could be.
        error: standard error of its difference from the honest policy, over rows.
        knows: whether it answers right as often as the honest policy (it games by writing), or knows nothing.
        unscorable: share of its completions that the reward could not judge.
    """

    name: str
    mean: float
    error: float
    knows: bool
    unscorable: float


@dataclass(frozen=True)
class Check:
    """The outcome of a check; made by `check_rewards`.

    Attributes:
        rows: how many rows the exploits were scored on.
        gold_rows: how many rows the gold answer was scored on.
        gold: mean reward of the gold answer.
        honest: mean reward of the honest policy.
        honest_unscorable: share of its completions that the reward could not judge.
        sentences: how much the honest policy writes.
        beaten: rows where another label earns more than the gold one, with the same reasoning.
        first_beaten: the first such row in words; empty where there is none.
        earnings: of every exploit, highest first.
        effect: component to its share of the variance within groups, from which GRPO learns.
        constant: components that give all completions of an item the same score.
        soft: whether a table decides which label is best, so that the gold one need not be.
    """

    rows: int
    gold_rows: int
    gold: float
    honest: float
    honest_unscorable: float
    sentences: int
    beaten: int
    first_beaten: str
    earnings: tuple[Earning, ...]
    effect: Mapping[str, float]
    constant: tuple[str, ...]
    soft: bool

    @property
    def found(self) -> list[Earning]:
        """Exploits that earn more than the honest policy, by more than chance among rows explains (two errors)."""
        return [one for one in self.earnings if one.mean > self.honest + TOLERANCE + 2 * one.error]

    @property
    def tied(self) -> list[Earning]:
        """Exploits that earn what the honest policy does: the reward does not see how they write."""
        return [one for one in self.earnings if abs(one.mean - self.honest) <= TOLERANCE]

    @property
    def unjudged(self) -> list[Earning]:
        """Exploits that cannot be judged where an honest policy can: no reward, but no penalty either."""
        return [one for one in self.earnings if one.unscorable > self.honest_unscorable + TOLERANCE]

    def failures(self) -> list[str]:
        """What is wrong, a sentence each; empty where the reward passes."""
        said = []
        if self.beaten and not self.soft:
            said.append(f"the gold answer is not the maximum on {self.beaten} of {self.gold_rows} rows, first "
                        f"{self.first_beaten}")  # fmt: skip
        if self.found:
            names = ", ".join(f"{one.name!r} ({one.mean:.3f})" for one in self.found[:3])
            more = f" and {len(self.found) - 3} more" if len(self.found) > 3 else ""
            said.append(f"{len(self.found)} of {len(self.earnings)} exploits earn more than an honest policy that is "
                        f"right {HONEST:.0%} of the time ({self.honest:.3f}): {names}{more}")  # fmt: skip
        return said


def check_rewards(
    composition: Composition, rows: Sequence[Row], *, gold_rows: Sequence[Row] = (), weight: Sequence[float] = ()
) -> Check:
    """Score gold answers, exploits and an honest policy, without a model.

    The honest policy reasons about the item and is right with probability 0.6 whatever the label; its errors are
    equally often either other label. Exploits that take an answer are given the same mixture, so that only their
    writing differs. A reward whose schedule changes is scored at its last step.

    Args:
        composition: the rewards.
        rows: items for the exploits, at least two.
        gold_rows: items for the gold answer; `rows` by default.
        weight: of each of `rows` in the means; equal by default.

    Raises:
        InputError: fewer than two rows.
        CheckError: a reward raised an error, or could not judge a single gold answer.
    """
    if len(rows) < 2:
        raise InputError(f"rows: {len(rows)}; the check needs at least two, to give one item another's reasoning")
    weight_N = np.asarray(weight if len(weight) else np.ones(len(rows)), dtype=np.float64)
    weight_N = weight_N / weight_N.sum()
    rows = prepare(composition, rows)
    gold_rows = prepare(composition, gold_rows) if len(gold_rows) else rows

    means, by_length = [], []
    for sentences in LENGTHS:
        by_length.append(_mixture(composition, rows, lambda row, answer, n=sentences: _honest(row, answer, n)))
        means.append(_mean(by_length[-1], weight_N))
    if all(np.isnan(mean) for mean, _ in means):
        raise CheckError("the reward judges no honest completion: every score is None; look at its columns and tables")
    best = int(np.nanargmax([mean for mean, _ in means]))
    (honest, honest_unscorable), sentences = means[best], LENGTHS[best]

    gold, beaten, first = _gold(composition, gold_rows, sentences)
    rows = [replace(row, other=honest_think(rows[at - 1], sentences)) for at, row in enumerate(rows)]
    earnings = []
    for name, make in EXPLOITS.items():
        blind = name in BLIND
        scores = _mixture(composition, rows, make, answers=1 if blind else len(LABELS))
        mean, unscorable = _mean(scores, weight_N)
        error = _error(scores - by_length[best], weight_N)
        earnings.append(Earning(name, mean, error, not blind, unscorable))
    earnings.sort(key=lambda one: (-one.mean if one.mean == one.mean else np.inf, one.name))
    effect, constant = _effects(composition, rows, sentences)
    soft = any(getattr(getattr(one.reward, "verifier", None), "soft", False) for one in composition.components)
    return Check(
        rows=len(rows), gold_rows=len(gold_rows), gold=gold, honest=honest, honest_unscorable=honest_unscorable,
        sentences=sentences, beaten=beaten, first_beaten=first, earnings=tuple(earnings), effect=effect,
        constant=constant, soft=soft,
    )  # fmt: skip


def prepare(composition: Composition, rows: Sequence[Row]) -> list[Row]:
    """Give rows what an honest policy would write under these rewards: a confidence, facts from the gene sets."""
    rewards = [component.reward for component in composition.components]
    sets = next((one.gene_sets for one in rewards if isinstance(one, Pathways)), None)
    asked = any(isinstance(one, Confidence) for one in rewards)
    prepared = []
    for row in rows:
        facts = () if sets is None else _facts(sets, row)
        phrases = () if sets is None else tuple(list(sets.sets)[:30])
        prepared.append(replace(row, confidence=str(HONEST) if asked else "", facts=facts, pathways=phrases))
    return prepared


def _facts(sets: GeneSets, row: Row) -> tuple[str, ...]:
    return tuple(
        f"{gene} takes part in {phrase}."
        for gene in dict.fromkeys((row.pert, row.gene))
        for phrase in [phrase for phrase, genes in sets.sets.items() if gene in genes][:_FACTS]
    )


def _honest(row: Row, answer: Label, sentences: int, confidence: str | None = None) -> str:
    return say(honest_think(row, sentences), answer, row.confidence if confidence is None else confidence)


def score_rows(composition: Composition, rows: Sequence[Row], completions: Sequence[str]) -> Floats:
    """Return the total reward of one completion per row; NaN where it cannot be judged."""
    totals: list[float | None] = []
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        scores = composition.scores(list(completions[part]), **_columns(composition, rows[part], completions[part]))
        totals += composition.total(scores, None)
    return np.asarray([np.nan if one is None else one for one in totals], dtype=np.float64)


def _columns(composition: Composition, rows: Sequence[Row], completions: Sequence[str]) -> dict[str, Any]:
    return {
        **{name: [getattr(row, name) for row in rows] for name in ("item_id", "cell_line", "pert", "gene")},
        "label": [str(row.label) for row in rows],
        "prompts": [row.prompt for row in rows],
        **({"completion_ids": [_pieces(text) for text in completions]} if counts_tokens(composition) else {}),
        "step": composition.last_step,
    }


def counts_tokens(composition: Composition) -> bool:
    """Whether a reward may look at tokens, which the check estimates: pieces of words, four characters at most."""
    parts = composition.components
    return any(not one.ours or (isinstance(one.reward, Length) and one.reward.unit == "tokens") for one in parts)


def _pieces(text: str) -> list[int]:
    return [zlib.crc32(piece.encode("utf-8", "surrogatepass")) for piece in _PIECE.findall(text)]


def _mixture(composition: Composition, rows: Sequence[Row], make: Any, answers: int = len(LABELS)) -> Floats:
    """The expected reward of each row when `make` is given the right answer with probability `HONEST`."""
    if answers == 1:
        return score_rows(composition, rows, [make(row, row.label) for row in rows])
    wrong = (1 - HONEST) / (len(LABELS) - 1)
    expected_N = np.zeros(len(rows))
    for turn in range(len(LABELS)):
        given = [LABELS[(LABELS.index(row.label) + turn) % len(LABELS)] for row in rows]
        completions = [make(row, answer) for row, answer in zip(rows, given, strict=True)]
        expected_N += (HONEST if turn == 0 else wrong) * score_rows(composition, rows, completions)
    return expected_N


def _mean(scores_N: Floats, weight_N: Floats) -> tuple[float, float]:
    """Weighted mean over what was scored, and the share that was not."""
    known = ~np.isnan(scores_N)
    if not known.any():
        return float("nan"), 1.0
    return float(np.average(scores_N[known], weights=weight_N[known])), float(1 - known.mean())


def _error(difference_N: Floats, weight_N: Floats) -> float:
    """Standard error of a weighted mean over rows."""
    known = ~np.isnan(difference_N)
    if not known.any():
        return 0.0
    d, w = difference_N[known], weight_N[known]
    return float(np.sqrt(np.sum((w * (d - np.average(d, weights=w))) ** 2)) / w.sum())


def _gold(composition: Composition, rows: Sequence[Row], sentences: int) -> tuple[float, int, str]:
    """Mean reward of the gold answer, on how many rows another label earns more, and the first of these."""
    by_turn = []
    for turn in range(len(LABELS)):
        given = [LABELS[(LABELS.index(row.label) + turn) % len(LABELS)] for row in rows]
        completions = [
            _honest(row, answer, sentences, "1" if row.confidence else "")
            for row, answer in zip(rows, given, strict=True)
        ]
        by_turn.append(score_rows(composition, rows, completions))
    gold_N, best_N = by_turn[0], np.fmax(by_turn[1], by_turn[2])
    if np.isnan(gold_N).all():
        raise CheckError("the reward judges no gold answer: every score is None; look at its columns and tables")
    beaten_N = best_N > gold_N + TOLERANCE
    first = ""
    if beaten_N.any():
        at = int(np.flatnonzero(beaten_N)[0])
        first = f"{rows[at].item_id} ({rows[at].label}: {gold_N[at]:.3f}, another label: {best_N[at]:.3f})"
    return float(np.nanmean(gold_N)), int(beaten_N.sum()), first


def _effects(composition: Composition, rows: Sequence[Row], sentences: int) -> tuple[dict[str, float], tuple[str, ...]]:
    """Each component's share of the variance within groups, over a group of honest and careless completions a row."""
    spread: dict[str, float] = {}
    group: list[list[str]] = [[_honest(row, label, sentences) for row in rows] for label in LABELS]
    group += [["" for _ in rows], [say("because", row.majority, row.confidence) for row in rows]]
    group.append([row.prompt for row in rows])
    by_name: dict[str, list[Floats]] = {component.name: [] for component in composition.components}
    for completions in group:
        scores = composition.scores(completions, **_columns(composition, rows, completions))
        for name, row_scores in scores.items():
            by_name[name].append(np.asarray([np.nan if s is None else s for s in row_scores], dtype=np.float64))
    constant = []
    for component in composition.components:
        scores_GN = np.stack(by_name[component.name])
        judged = ~np.isnan(scores_GN).any(axis=0)
        within = float(scores_GN[:, judged].var(axis=0).mean()) if judged.any() else 0.0
        spread[component.name] = component.weight**2 * within
        if within <= TOLERANCE:
            constant.append(component.name)
    total = sum(spread.values())
    return {name: value / total if total else 0.0 for name, value in spread.items()}, tuple(constant)
