"""Check what a reward pays for before a training run: gold answers, exploits and an honest policy, without a model."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any, Final, TypeAlias

import numpy as np

from rewards.batch import Scores
from rewards.composition import Component, Composition
from rewards.errors import CheckError, InputError
from rewards.labels import LABELS, Label
from rewards.verifiers import HardVerifier, LabelTable, MixedVerifier
from rl.lab.exploits import BLIND, EXPLOITS, honest_think, say
from rl.lab.rows import Row

HONEST: Final = 0.6  # accuracy of the honest policy
# Lengths of the honest text in sentences, up to about 1,400 words. The honest policy takes the one that earns most.
LENGTHS: Final = (1, 2, 4, 7, 11, 17, 27, 42, 65, 110)
COVERED: Final = 0.5  # share of gold and of honest completions that must be judged
TOLERANCE: Final = 1e-9
# The texts of an item that tell what each component adds to the variance within a group.
COMPARED: Final = ("the honest text with each of three labels", "an empty one", "the majority", "the prompt")
COMPARED_TEXTS: Final = 6
_CHUNK: Final = 1000
_TRIED: Final = 30  # rows, or a few more, on which the length of the honest text is chosen

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
# Of N rows and a completion each: the total reward (NaN where there is none) over whether its answer is judged, (2, N).
Score: TypeAlias = Callable[[Sequence[Row], Sequence[str]], Floats]


@dataclass(frozen=True)
class Earning:
    """What one exploit earns on average.

    Attributes:
        name: of the exploit.
        mean: of the total reward over the rows scored; NaN if no row could be scored.
        error: standard error over rows of its difference from the honest policy.
        knows: True if it is right as often as the honest policy and games by writing; False if it knows nothing.
        unscorable: share of its completions whose answer the reward could not judge.
    """

    name: str
    mean: float
    error: float
    knows: bool
    unscorable: float


@dataclass(frozen=True)
class Check:
    """The outcome of a check. `check_rewards` makes it.

    Attributes:
        step: the step it was made at, the worst of those that schedules name; None without schedules.
        rows: how many rows the exploits were scored on.
        gold_rows: how many rows the gold answer was scored on.
        gold: mean reward of the gold answer.
        gold_unscorable: share of gold answers that the reward could not judge. An answer is judged if a component with
            a verifier has a score for it, or any component if none has a verifier.
        honest: mean reward of the honest policy.
        honest_unscorable: share of its completions whose answer the reward could not judge.
        sentences: how many sentences the honest policy writes.
        confidence: what it states, as text; empty if it states none.
        beaten: number of rows on which another label earns more than the gold one with the same text.
        first_beaten: the first such row in words; empty if there is none.
        earnings: of every exploit, highest first.
        effect: each component's share of the variance among the texts of an item (`COMPARED`).
        escapes: components that judge some answers to an item and never another label, with that label.
        constant: components that give all these texts the same score, at every step checked.
        soft: whether a table alone decides which label is best. The gold label need not earn most then. It is so with a
            soft verifier, or a mixed one without labels, if no component's scores depend on the labels.
        unlabelled: whether it was made without the rows' labels, so that a mixed verifier uses its table.
        unlabelled_rows: how many rows were also scored without labels; None if no verifier is mixed.
    """

    step: int | None
    rows: int
    gold_rows: int
    gold: float
    gold_unscorable: float
    honest: float
    honest_unscorable: float
    sentences: int
    confidence: str
    beaten: int
    first_beaten: str
    earnings: tuple[Earning, ...]
    effect: Mapping[str, float]
    escapes: tuple[tuple[str, Label], ...]
    constant: tuple[str, ...]
    soft: bool
    unlabelled: bool = False
    unlabelled_rows: int | None = None

    @property
    def found(self) -> list[Earning]:
        """Exploits that earn more than the honest policy by more than two standard errors over rows."""
        return [one for one in self.earnings if one.mean > self.honest + TOLERANCE + 2 * one.error]

    @property
    def unearned(self) -> list[Earning]:
        """Exploits that know nothing and earn at least what the honest policy does."""
        return [one for one in self.earnings if not one.knows and one.mean >= self.honest - TOLERANCE]

    @property
    def tied(self) -> list[Earning]:
        """Exploits that earn what the honest policy does: the reward does not look at how they write."""
        return [one for one in self.earnings if abs(one.mean - self.honest) <= TOLERANCE]

    @property
    def unjudged(self) -> list[Earning]:
        """Exploits that are judged less often than the honest policy: they get no reward, but no penalty either."""
        return [one for one in self.earnings if one.unscorable > self.honest_unscorable + TOLERANCE]

    def failures(self) -> list[str]:
        """What is wrong, a sentence each, with the rows that it rests on; empty where the reward passes."""
        said = []
        if self.beaten and not self.soft:
            said.append(f"the gold answer is not the maximum on {self.beaten} of {self.gold_rows} rows, first "
                        f"{self.first_beaten}")  # fmt: skip
        if self.found:
            said.append(f"{len(self.found)} of {len(self.earnings)} exploits earn more than an honest policy that is "
                        f"right {HONEST:.0%} of the time ({self.honest:.3f}), by more than two standard errors over "
                        f"{self.rows} rows: {_names(self.found)}")  # fmt: skip
        unearned = [one for one in self.unearned if one not in self.found]
        if len(self.constant) == len(self.effect):
            said.append(f"every component pays all {COMPARED_TEXTS} texts of an item the same ({', '.join(COMPARED)}), "
                        "on each row, so that it does not tell a right answer from a wrong one; put a reward for the "
                        "right answer beside it")  # fmt: skip
        elif unearned:
            said.append(f"it pays a policy that knows nothing as much as an honest one ({self.honest:.3f} on "
                        f"{self.rows} rows): {_names(unearned)}; put a reward for the right answer beside "
                        "it")  # fmt: skip
        said += [
            f"{name} never judges the answer {str(label)!r} where it judges others, so that a policy can avoid being "
            "judged; give that answer a score"
            for name, label in self.escapes
        ]
        if max(self.gold_unscorable, self.honest_unscorable) > 1 - COVERED:
            said.append(f"only {1 - self.gold_unscorable:.0%} of the gold answers and {1 - self.honest_unscorable:.0%} "
                        "of the honest ones can be judged, and half of them should be; use a table that knows the "
                        "items, or prompts that the reward can judge")  # fmt: skip
        where = ["on unlabelled pairs"] * self.unlabelled + ([] if self.step is None else [f"at step {self.step}"])
        return [", ".join([*where, one]) for one in said]


def _names(earnings: Sequence[Earning]) -> str:
    more = f" and {len(earnings) - 3} more" if len(earnings) > 3 else ""
    return ", ".join(f"{one.name!r} ({one.mean:.3f})" for one in earnings[:3]) + more


def check_rewards(
    composition: Composition, rows: Sequence[Row], *, gold_rows: Sequence[Row] = (), weight: Sequence[float] = ()
) -> Check:
    """Score gold answers, exploits and an honest policy, without a model.

    The honest policy writes a template about the item. It is right with probability 0.6 for every label, and its errors
    are equally often either other label. Exploits that take an answer get the same mixture, so that only their writing
    differs.

    - If schedules name steps, everything is scored at each of them, except steps at which nothing is paid for.
    - If a verifier is mixed, everything is scored again without labels, on the rows that its table has. The right
      answer is then the one that earns most under the table.

    Args:
        composition: the rewards.
        rows: items for the exploits, at least two.
        gold_rows: items for the gold answer; `rows` by default.
        weight: of each of `rows` in the means; equal by default.

    Returns:
        The worst check over steps, with and without labels: the one with most failures, and among equals the one whose
        best exploit is furthest above the honest policy.

    Raises:
        InputError: fewer than two rows.
        CheckError: a reward raised an error or was cut off by its timeout, a sum is not finite, or no gold or no honest
            answer could be judged.
    """
    if len(rows) < 2:
        raise InputError(f"rows: {len(rows)}; the check needs at least two, to give one item another's reasoning")
    weight_N = np.asarray(weight if len(weight) else np.ones(len(rows)), dtype=np.float64)
    weight_N = weight_N / weight_N.sum()
    gold_rows = gold_rows if len(gold_rows) else rows
    checks = [_check_at(composition, rows, gold_rows, weight_N, step) for step in composition.steps or (None,)]
    emptied, hidden = _with_labels_emptied(composition, rows, weight_N)
    checks += emptied
    paying = [check for check in checks if len(check.constant) < len(composition.components)] or checks
    constant = tuple(name for name in checks[0].constant if all(name in check.constant for check in checks))
    worst = max(paying, key=_badness)
    return replace(worst, constant=constant, unlabelled_rows=hidden)


def _with_labels_emptied(
    composition: Composition, rows: Sequence[Row], weight_N: Floats
) -> tuple[list[Check], int | None]:
    """Check without labels on the rows that mixed verifiers' tables have, and count these; None if none is mixed."""
    tables = _mixed_tables(composition)
    if tables is None:
        return [], None
    known = [at for at, row in enumerate(rows) if all(row.item_id in table.rows for table in tables)]
    if len(known) < 2:
        return [], 0
    rows = [replace(rows[at], labelled=False) for at in known]
    rows = [replace(row, label=label) for row, label in zip(rows, _best_paid(composition, rows), strict=True)]
    weight_N = weight_N[known] / weight_N[known].sum()
    return [_check_at(composition, rows, rows, weight_N, step) for step in composition.steps or (None,)], len(known)


def _badness(check: Check) -> tuple[int, float, int]:
    most = max((one.mean - check.honest for one in check.earnings if not np.isnan(one.mean)), default=0.0)
    return len(check.failures()), most, check.step or 0


def _best_paid(composition: Composition, rows: Sequence[Row]) -> list[Label]:
    """Return the answer that earns most on each row: what a policy could learn without labels."""
    step = composition.steps[-1] if composition.steps else None
    paid_LN = [
        np.nan_to_num(score_rows(composition, step, rows, [_honest(row, label, 1) for row in rows])[0], nan=-np.inf)
        for label in LABELS
    ]
    return [LABELS[at] for at in np.argmax(paid_LN, axis=0)]


def _mixed_tables(composition: Composition) -> list[LabelTable] | None:
    """Return the tables of mixed verifiers; None if no verifier is mixed, or a reward needs labels."""
    rewards = [one for component in composition.components for one in (component.reward, component.gate)]
    verifiers = [getattr(reward, "verifier", None) for reward in rewards]
    if any(isinstance(one, HardVerifier) for one in verifiers):
        return None  # `grpo` then refuses unlabelled pairs
    return [one.table for one in verifiers if isinstance(one, MixedVerifier) and one.table.rows] or None


def _check_at(
    composition: Composition, rows: Sequence[Row], gold_rows: Sequence[Row], weight_N: Floats, step: int | None
) -> Check:
    score = partial(score_rows, composition, step)
    sentences, confidence = _honest_writing(composition, score, rows, weight_N)
    rows, gold_rows = (
        [replace(row, confidence=confidence) for row in part] if confidence else part for part in (rows, gold_rows)
    )
    honest_2N = _mixture(score, rows, lambda row, answer: _honest(row, answer, sentences))
    honest, honest_unscorable = _mean(honest_2N, weight_N)
    if np.isnan(honest):
        raise CheckError("the reward judges no honest completion: every score is None; look at its columns and tables")

    gold, gold_unscorable, beaten, first = _gold(score, gold_rows, sentences)
    thinks = [honest_think(row, sentences) for row in rows]
    rows = [replace(row, think=thinks[at], other=thinks[at - 1]) for at, row in enumerate(rows)]
    earnings = []
    for name, make in EXPLOITS.items():
        blind = name in BLIND
        scores = _mixture(score, rows, make, answers=1 if blind else len(LABELS))
        mean, unscorable = _mean(scores, weight_N)
        error = _error(scores[0] - honest_2N[0], weight_N)
        earnings.append(Earning(name, mean, error, not blind, unscorable))
    earnings.sort(key=lambda one: (-one.mean if one.mean == one.mean else np.inf, one.name))
    effect, escapes, constant = _effects(composition, rows, sentences, step)
    return Check(
        step=step, rows=len(rows), gold_rows=len(gold_rows), gold=gold, gold_unscorable=gold_unscorable, honest=honest,
        honest_unscorable=honest_unscorable, sentences=sentences, confidence=confidence, beaten=beaten,
        first_beaten=first, earnings=tuple(earnings), effect=effect, escapes=escapes,
        constant=constant, soft=_is_soft(composition, rows, step), unlabelled=not rows[0].labelled,
    )  # fmt: skip


def _honest_writing(composition: Composition, score: Score, rows: Sequence[Row], weight_N: Floats) -> tuple[int, str]:
    """Return the number of sentences and the stated confidence that earn an honest policy most; the first of equals."""
    few = slice(None, None, max(1, len(rows) // _TRIED))

    def earned(sentences: int, confidence: str) -> float:
        scores = _mixture(score, rows[few], lambda row, answer: _honest(row, answer, sentences, confidence))
        mean, _ = _mean(scores, weight_N[few])
        return mean if mean == mean else -np.inf

    def best(confidence: str) -> tuple[int, float]:
        means = {sentences: earned(sentences, confidence) for sentences in LENGTHS}
        sentences = max(means, key=lambda one: means[one])
        return sentences, means[sentences]

    stated = str(HONEST)
    if any(component.traits.wants_confidence for component in composition.components):
        return best(stated)[0], stated
    sentences, mean = best("")
    if any(not component.ours for component in composition.components) and earned(sentences, stated) > mean:
        return best(stated)[0], stated
    return sentences, ""


def _is_soft(composition: Composition, rows: Sequence[Row], step: int | None) -> bool:
    """Return whether a table judges answers and no component's scores change when the labels change."""
    verifiers = [_verifier(component) for component in composition.components]
    if rows[0].labelled and not any(getattr(one, "soft", False) for one in verifiers):
        return False
    completions = [_honest(row, row.label, 1) for row in rows]
    turned = [replace(row, label=LABELS[LABELS.index(row.label) - 1]) for row in rows]
    return _component_scores(composition, step, rows, completions) == _component_scores(
        composition, step, turned, completions
    )


def _verifier(component: Component) -> Any:
    return getattr(component.reward, "verifier", None)


def _honest(row: Row, answer: Label, sentences: int, confidence: str | None = None) -> str:
    return say(honest_think(row, sentences), answer, row.confidence if confidence is None else confidence)


def score_answers(
    composition: Composition, check: Check, rows: Sequence[Row], answers: Sequence[Label], weight: Sequence[float]
) -> float:
    """Return what given answers earn on average, with the honest policy's text and at the check's step.

    Args:
        composition: the rewards.
        check: their check.
        rows: N items.
        answers: N labels.
        weight: of each row.
    """
    rows = [replace(row, confidence=check.confidence, labelled=not check.unlabelled) for row in rows]
    completions = [_honest(row, answer, check.sentences) for row, answer in zip(rows, answers, strict=True)]
    return _mean(score_rows(composition, check.step, rows, completions), np.asarray(weight, dtype=np.float64))[0]


def score_rows(composition: Composition, step: int | None, rows: Sequence[Row], completions: Sequence[str]) -> Floats:
    """Score one completion per row; see `Score` for what is returned."""
    totals: list[float | None] = []
    judged: list[bool] = []
    judges = [one.name for one in composition.components if _verifier(one) is not None and one.weight]
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        scores = _component_scores(composition, step, rows[part], completions[part])
        totals += composition.total(scores, None)
        answers = zip(*(scores[name] for name in judges or scores), strict=True)
        judged += [any(score is not None for score in row) for row in answers]
    return np.asarray([[np.nan if one is None else one for one in totals], judged], dtype=np.float64)


def _component_scores(
    composition: Composition, step: int | None, rows: Sequence[Row], completions: Sequence[str]
) -> dict[str, Scores]:
    columns = {
        **{name: [getattr(row, name) for row in rows] for name in ("item_id", "cell_line", "pert", "gene")},
        "label": [str(row.label) if row.labelled else "" for row in rows],
        "prompts": [[{"role": "user", "content": row.prompt}] for row in rows],  # as a trainer hands them over
        **({"completion_ids": [estimated_ids(text) for text in completions]} if counts_tokens(composition) else {}),
        "step": step or 0,
    }
    scores = {}
    for component in composition.components:
        before = component.cut_off
        scores[component.name] = component(completions=list(completions), **columns)
        if component.cut_off > before:
            seconds = max(getattr(one, "seconds", 0.0) for one in (component.reward, component.gate))
            raise CheckError(f"reward {component.name}: a call took longer than its timeout of {seconds:g} s; make it "
                             "faster, or give it more")  # fmt: skip
    return scores


def counts_tokens(composition: Composition) -> bool:
    """Return whether a reward may read token ids, which the check must estimate."""
    parts = composition.components
    return any(not one.ours or one.traits.counts_tokens for one in parts)


def estimated_ids(text: str) -> list[int]:
    """Return estimated token ids of a text: one for each piece of a word, of four characters at most."""
    return list(chain.from_iterable(map(_word_ids, text.split())))


@lru_cache(1 << 16)  # texts of the check repeat their words
def _word_ids(word: str) -> tuple[int, ...]:
    return tuple(zlib.crc32(word[at : at + 4].encode("utf-8", "surrogatepass")) for at in range(0, len(word), 4))


def _mixture(score: Score, rows: Sequence[Row], make: Any, answers: int = len(LABELS)) -> Floats:
    """Return the expected score of each row if `make` gets the right answer with probability `HONEST`.

    The total is over answers that have a score. The second row of the result is the share of answers judged.
    """
    if answers == 1:
        return score(rows, [make(row, row.label) for row in rows])
    wrong = (1 - HONEST) / (len(LABELS) - 1)
    total_N, scored_N, judged_N = np.zeros((3, len(rows)))
    for turn in range(len(LABELS)):
        given = [LABELS[(LABELS.index(row.label) + turn) % len(LABELS)] for row in rows]
        completions = [make(row, answer) for row, answer in zip(rows, given, strict=True)]
        share = HONEST if turn == 0 else wrong
        scores_N, judges_N = score(rows, completions)
        total_N += share * np.nan_to_num(scores_N)
        scored_N += share * ~np.isnan(scores_N)
        judged_N += share * judges_N
    scored_N[scored_N == 0] = np.nan
    return np.stack([total_N / scored_N, judged_N])


def _mean(scores_2N: Floats, weight_N: Floats) -> tuple[float, float]:
    """Return the weighted mean over scored rows, and the weight of the answers that were not judged."""
    total_N, judged_N = scores_2N
    unscorable = round(float(1 - np.average(judged_N, weights=weight_N)), 12)
    known = ~np.isnan(total_N)
    if not known.any():
        return float("nan"), unscorable
    return float(np.average(total_N[known], weights=weight_N[known])), unscorable


def _error(difference_N: Floats, weight_N: Floats) -> float:
    """Standard error of a weighted mean over rows."""
    known = ~np.isnan(difference_N)
    if not known.any():
        return 0.0
    d, w = difference_N[known], weight_N[known]
    return float(np.sqrt(np.sum((w * (d - np.average(d, weights=w))) ** 2)) / w.sum())


def _gold(score: Score, rows: Sequence[Row], sentences: int) -> tuple[float, float, int, str]:
    """Return the gold answer's mean and unjudged share, the number of rows where another earns more, and the first."""
    parts = []
    for start in range(0, len(rows), _CHUNK):
        thrice = [row for row in rows[start : start + _CHUNK] for _ in LABELS]  # the gold label first, on one prompt
        thinks = [honest_think(row, sentences) for row in thrice[:: len(LABELS)]]
        completions = [
            say(thinks[at // len(LABELS)], LABELS[(LABELS.index(row.label) + at) % len(LABELS)], row.confidence and "1")
            for at, row in enumerate(thrice)
        ]
        parts.append(score(thrice, completions).reshape(2, -1, len(LABELS)))
    total_NL, judged_NL = np.concatenate(parts, axis=1)
    gold_N, best_N = total_NL[:, 0], np.fmax(total_NL[:, 1], total_NL[:, 2])
    if np.isnan(gold_N).all():
        raise CheckError("the reward judges no gold answer: every score is None; look at its columns and tables")
    beaten_N = (best_N > gold_N + TOLERANCE) | (np.isnan(gold_N) & ~np.isnan(best_N))
    first = ""
    if beaten_N.any():
        at = int(np.flatnonzero(beaten_N)[0])
        first = f"{rows[at].item_id} ({rows[at].label}: {gold_N[at]:.3f}, another label: {best_N[at]:.3f})"
    return float(np.nanmean(gold_N)), float(1 - judged_NL[:, 0].mean()), int(beaten_N.sum()), first


def _effects(
    composition: Composition, rows: Sequence[Row], sentences: int, step: int | None
) -> tuple[dict[str, float], tuple[tuple[str, Label], ...], tuple[str, ...]]:
    """Score the texts of `COMPARED` for each row, as a group of GRPO.

    Returns:
        Each component's share of the variance within groups; components that never judge a label, with that label; and
        components that pay all texts the same.
    """
    spread: dict[str, float] = {}
    group: list[list[str]] = [[_honest(row, label, sentences) for row in rows] for label in LABELS]  # as in COMPARED
    group += [["" for _ in rows], [say("because", row.majority, row.confidence) for row in rows]]
    group.append([row.prompt for row in rows])
    by_name: dict[str, list[Floats]] = {component.name: [] for component in composition.components}
    for completions in group:
        scores = _component_scores(composition, step, rows, completions)
        for name, row_scores in scores.items():
            by_name[name].append(np.asarray([np.nan if s is None else s for s in row_scores], dtype=np.float64))
    constant, escapes = [], []
    truth_N = np.array([LABELS.index(row.label) for row in rows])
    for component in composition.components:
        scores_GN = np.stack(by_name[component.name])
        judged_LN = ~np.isnan(scores_GN[: len(LABELS)])  # one honest text, a label each
        for label, judged_N in zip(LABELS, judged_LN, strict=True):
            # Over the rows of one true label: what a reward cannot judge may depend on that, not on the answer.
            if any(judged_LN[:, truth_N == true].any() and not judged_N[truth_N == true].any() for true in range(3)):
                escapes.append((component.name, label))
        several = (~np.isnan(scores_GN)).sum(axis=0) > 1  # completions that are not judged are not trained on
        within = float(np.nanvar(scores_GN[:, several], axis=0).mean()) if several.any() else 0.0
        spread[component.name] = component.weight**2 * within
        if within <= TOLERANCE:
            constant.append(component.name)
    total = sum(spread.values())
    effect = {name: value / total if total else 0.0 for name, value in spread.items()}
    return effect, tuple(escapes), tuple(constant)
