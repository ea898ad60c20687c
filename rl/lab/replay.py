"""Apply rewards to stored rollouts: what they would have paid, for what, and where two of them differ.

GRPO compares the completions of one prompt with each other. It can act only on correlations within groups.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from rewards import LABELS, InputError, Status, parse_answer
from rewards.composition import Composition, needed_by
from rl.lab.check import counts_tokens, estimated_ids
from rl.rollout_files import COMPONENT, ITEM, stored_components

CHUNK: Final = 1000
BINS: Final = 30
EXAMPLES: Final = 10
TEXT_LIMIT: Final = 3000
AS_TRAINED: Final = "as trained"
SHIFT: Final = "a constant shift: GRPO subtracts each group's mean, so it does nothing"
ESTIMATED_IDS: Final = (
    "Token ids are estimated: pieces of words of four characters at most, in the number of tokens where that is stored"
)
FACTORS: Final = {
    "correctness": "1 where the answer is the label, else 0; none where generation failed",
    "length": "tokens of the completion (words where tokens are not stored)",
    "gene's rate": "how often the gene shows the answered label in training, the item itself left out",
}

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Replayed:
    """One configuration's rewards on N stored rollouts.

    Attributes:
        name: of the configuration.
        total_N: weighted sum; NaN where it cannot be judged.
        parts: component to its scores, gated and scheduled but not weighted; NaN where it cannot judge.
        weights: component to its weight; empty where they are not known.
        notes: sentences about the weights.
    """

    name: str
    total_N: Floats
    parts: Mapping[str, Floats]
    weights: Mapping[str, float]
    notes: tuple[str, ...] = ()


def replay(frame: pd.DataFrame, composition: Composition, name: str, notes: Sequence[str] = ()) -> Replayed:
    """Apply rewards to rollouts: the rows of one step at a time, with the columns that training has.

    Args:
        frame: from `read_rollouts`.
        composition: the rewards.
        name: of the configuration, for pages.
        notes: sentences about the weights.

    Raises:
        InputError: a reward needs a column that the rollouts do not have.
        CheckError: a reward raised an error.
    """
    columns: dict[str, list[Any]] = {key: frame[key].tolist() for key in ITEM}
    for component in composition.components if "prompt" not in frame else ():
        if "prompts" in dict(needed_by(component)):
            raise InputError(f"{component.name}: needs prompts, which the rollouts do not have; add a column 'prompt'")
    if "prompt" in frame:
        messages = {text: [{"role": "user", "content": text}] for text in frame["prompt"].unique()}
        columns["prompts"] = [messages[text] for text in frame["prompt"]]
    if counts_tokens(composition):
        columns["completion_ids"] = _token_ids(frame)
        if "completion_ids" not in frame:
            notes = [*notes, ESTIMATED_IDS]
    completions = frame["completion"].tolist()
    parts: dict[str, list[float | None]] = {one.name: [None] * len(frame) for one in composition.components}
    for step, rows in _batches(frame):
        some = {key: [values[at] for at in rows] for key, values in columns.items()}
        for key, scores in composition.scores([completions[at] for at in rows], **some, step=step).items():
            for at, score in zip(rows, scores, strict=True):
                parts[key][at] = score
    total = composition.total(parts, frame["group"].tolist())
    weights = {component.name: component.weight for component in composition.components}
    return Replayed(name, _array(total), {key: _array(scores) for key, scores in parts.items()}, weights, tuple(notes))


def as_trained(frame: pd.DataFrame, weights: Mapping[str, float] | None = None) -> Replayed | None:
    """Return the rewards that rollouts were stored with, or None where there are none.

    Args:
        frame: the rollouts.
        weights: of the run's rewards, by name. They are ignored unless the names are those of the stored rewards.
    """
    if "total_reward" not in frame:
        return None
    parts = {name: frame[COMPONENT + name].to_numpy(dtype=np.float64) for name in stored_components(frame)}
    known = weights if weights is not None and set(weights) == set(parts) else {}
    return Replayed(AS_TRAINED, frame["total_reward"].to_numpy(dtype=np.float64), parts, known)


def _token_ids(frame: pd.DataFrame) -> list[list[int]]:
    """Return the stored token ids. If there are none, estimate them, as many as the stored number of tokens."""
    if "completion_ids" in frame:
        return [[] if ids is None else list(ids) for ids in frame["completion_ids"]]
    ids = [estimated_ids(text or "") for text in frame["completion"]]
    if "completion_tokens" not in frame:
        return ids
    counts = frame["completion_tokens"].tolist()
    return [
        one if n != n else one[: int(n)] + list(range(int(n) - len(one))) for one, n in zip(ids, counts, strict=True)
    ]


def _batches(frame: pd.DataFrame) -> Iterator[tuple[int, list[int]]]:
    """Yield steps with about `CHUNK` of their rows. A group whose rows are contiguous is not split."""
    group = frame["group"].to_numpy()
    for step, at_step in frame.groupby("step").indices.items():
        rows, start = [int(at) for at in at_step], 0
        for at in range(1, len(rows) + 1):
            if at == len(rows) or (at - start >= CHUNK and group[rows[at]] != group[rows[at - 1]]):
                yield int(str(step)), rows[start:at]
                start = at


def _array(scores: Sequence[float | None]) -> Floats:
    return np.asarray([np.nan if one is None else one for one in scores], dtype=np.float64)


def summarize_replay(
    frame: pd.DataFrame, replayed: Sequence[Replayed], rates: pd.DataFrame | None, *, source: str, command: str,
    notes: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return what the page shows, as JSON can hold it.

    Args:
        frame: the rollouts.
        replayed: one or two configurations on them.
        rates: `item_id, p_up, p_down, p_none` of the items' genes; None where they are not known.
        source: of the rollouts.
        command: that made the page.
        notes: sentences about the data.
    """
    read = _read(frame, rates)
    if read.failed_N.any():
        notes = [f"Failed generations: {read.failed_N.sum():,}; unscorable, neither right nor wrong", *notes]
    edges = _edges(replayed)
    if len(replayed) == 2:
        comparison, chosen = _compare(replayed[0], replayed[1], read.group_N)
    else:
        comparison, chosen = None, _surprising(replayed[0].total_N, read.right_N)
    return {
        "rollouts": _counted(read, source),
        "notes": list(notes),
        "command": command,
        "edges": edges.tolist(),
        "configs": [_one(one, read, edges) for one in replayed],
        "accuracy_by_step": _by_step(read.right_N, read.step_N),
        "comparison": comparison,
        "examples": [_example(read, replayed, at, why) for at, why in chosen],
    }


@dataclass(frozen=True)
class _Rollouts:
    """N stored rollouts with their parsed answers.

    Attributes:
        frame: the rollouts.
        status: of each answer.
        answer_N: label answered, as text; empty where there is none.
        failed_N: whether there is no completion.
        right_N: 1 where the answer is the label, else 0; NaN where it has none or generation failed.
        length_N: of the completion; NaN where generation failed.
        group_N: number of the group.
        step_N: of training.
        factors: by the names of `FACTORS`, what rewards are correlated with.
    """

    frame: pd.DataFrame
    status: Sequence[Status]
    answer_N: Any
    failed_N: Any
    right_N: Floats
    length_N: Floats
    group_N: Ints
    step_N: Any
    factors: Mapping[str, Floats]


def _read(frame: pd.DataFrame, rates: pd.DataFrame | None) -> _Rollouts:
    answers = [parse_answer(text) for text in frame["completion"]]
    failed_N = np.asarray([one.status is Status.ERROR for one in answers])
    label_N = frame["label"].astype(str).to_numpy()
    answer_N = np.asarray(["" if one.label is None else str(one.label) for one in answers], dtype=object)
    right_N = np.where((label_N == "") | failed_N, np.nan, (answer_N == label_N).astype(float))
    length_N = np.where(failed_N, np.nan, _lengths(frame))
    return _Rollouts(
        frame=frame,
        status=[one.status for one in answers],
        answer_N=answer_N,
        failed_N=failed_N,
        right_N=right_N,
        length_N=length_N,
        group_N=pd.factorize(frame["group"])[0],
        step_N=frame["step"].to_numpy(),
        factors={
            "correctness": right_N,
            "length": length_N,
            "gene's rate": _rate_of_answer(frame, answer_N, rates),
        },
    )


def _edges(replayed: Sequence[Replayed]) -> Floats:
    """Bounds of the histograms' bars, the same for all."""
    known = [one.total_N[~np.isnan(one.total_N)] for one in replayed]
    low = min((float(total.min()) for total in known if len(total)), default=0.0)
    high = max((float(total.max()) for total in known if len(total)), default=1.0)
    return np.linspace(low, high if high > low else low + 1.0, BINS + 1)


def _counted(read: _Rollouts, source: str) -> dict[str, Any]:
    status = pd.Series([str(one) for one in read.status])
    return {
        "source": source,
        "completions": len(read.frame),
        "groups": int(read.group_N.max()) + 1,
        "items": int(read.frame["item_id"].nunique()),
        "steps": len(np.unique(read.step_N)),
        "accuracy": _number(_mean_of(read.right_N, True)),
        "failed": int(read.failed_N.sum()),
        "status": {str(one): float((status == str(one)).mean()) for one in Status},
        "mean_length": _number(_mean_of(read.length_N, True)),
    }


def _example(read: _Rollouts, replayed: Sequence[Replayed], at: int, why: str) -> dict[str, Any]:
    row = read.frame.iloc[at]
    return {
        "item_id": str(row["item_id"]),
        "step": str(row["step"]),
        "label": str(row["label"]) or "none",
        "answer": str(read.answer_N[at]) or None,
        "status": str(read.status[at]),
        "rewards": [
            {"name": one.name, "total": _number(one.total_N[at]),
             "parts": {key: _number(part[at]) for key, part in one.parts.items()}}
            for one in replayed
        ],
        "text": _cut(row["completion"] or ""),
        "why": why,
    }  # fmt: skip


def _cut(text: str) -> str:
    """Shorten a long text to its beginning and its end, where the answer is."""
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters cut out …]\n{text[-half:]}"


def _lengths(frame: pd.DataFrame) -> Floats:
    if "completion_tokens" in frame and frame["completion_tokens"][frame["completion"].notna()].notna().all():
        return frame["completion_tokens"].to_numpy(dtype=np.float64)
    return np.asarray([0 if text is None else len(text.split()) for text in frame["completion"]], dtype=np.float64)


def _rate_of_answer(frame: pd.DataFrame, answer: Any, rates: pd.DataFrame | None) -> Floats:
    if rates is None:
        return np.full(len(frame), np.nan)
    table = rates.drop_duplicates("item_id").set_index("item_id")[["p_up", "p_down", "p_none"]]
    rate_NL = table.reindex(frame["item_id"]).to_numpy(dtype=np.float64)
    index = {str(label): at for at, label in enumerate(LABELS)}
    at_N = np.asarray([index.get(one, -1) for one in answer])
    return np.where(at_N >= 0, rate_NL[np.arange(len(frame)), at_N], np.nan)


def _one(one: Replayed, read: _Rollouts, edges: Floats) -> dict[str, Any]:
    group_N = read.group_N
    flat, n_groups = zero_variance(one.total_N, group_N)
    constant = [key for key, part in one.parts.items() if zero_variance(part, group_N)[0] == 1.0]
    return {
        "name": one.name,
        "notes": [*one.notes, *(f"{key}: the same throughout each group, {SHIFT}" for key in constant)],
        "total": _distribution(one.total_N, edges),
        "components": {
            key: {**_distribution(part, None), "weight": one.weights.get(key), "share": share}
            for (key, part), share in zip(one.parts.items(), _shares(one, group_N), strict=True)
        },
        "zero_variance": flat,
        "groups": n_groups,
        "correlations": {
            key: {
                "overall": correlation(one.total_N, factor),
                "within": within_correlation(one.total_N, factor, group_N),
            }
            for key, factor in read.factors.items()
        },
        "by_class": _by(one.total_N, read, "label"),
        "by_line": _by(one.total_N, read, "cell_line"),
        "by_step": _by_step(one.total_N, read.step_N),
        "paid_for_right": [
            _number(_mean_of(one.total_N, read.right_N == 1)),
            _number(_mean_of(one.total_N, read.right_N == 0)),
        ],
    }


def _distribution(score_N: Floats, edges: Floats | None) -> dict[str, Any]:
    known = score_N[~np.isnan(score_N)]
    found: dict[str, Any] = {"unscorable": float(1 - len(known) / len(score_N))}
    if not len(known):
        return {**found, "mean": None, "sd": None, "quantiles": [None] * 5, "histogram": [0] * BINS}
    found |= {
        "mean": float(known.mean()),
        "sd": float(known.std()),
        "quantiles": [float(q) for q in np.quantile(known, (0.0, 0.25, 0.5, 0.75, 1.0))],
    }
    if edges is not None:
        found["histogram"] = np.histogram(known, bins=edges)[0].tolist()
    return found


def zero_variance(total_N: Floats, group_N: Ints) -> tuple[float | None, int]:
    """Return the share of groups whose completions all earn the same, and the number of groups.

    Only groups with two scores or more count. A group whose scores are equal has advantages of 0 and no gradient.
    """
    known = ~np.isnan(total_N)
    frame = pd.DataFrame({"group": group_N[known], "total": total_N[known]})
    spread = frame.groupby("group")["total"].agg(["min", "max", "size"])
    spread = spread[spread["size"] >= 2]
    if spread.empty:
        return None, 0
    return float((spread["max"] - spread["min"] <= 1e-9).mean()), len(spread)


def correlation(a_N: Floats, b_N: Floats) -> float | None:
    """Return Pearson's correlation over rows known in both; None for fewer than three rows, or if one is constant."""
    known = ~(np.isnan(a_N) | np.isnan(b_N))
    a, b = a_N[known], b_N[known]
    if len(a) < 3 or a.std() < 1e-9 or b.std() < 1e-9:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def within_correlation(a_N: Floats, b_N: Floats, group_N: Ints) -> float | None:
    """Return Pearson's correlation of the deviations from each group's mean."""
    known = ~(np.isnan(a_N) | np.isnan(b_N))
    frame = pd.DataFrame({"a": a_N[known], "b": b_N[known], "group": group_N[known]})
    centred = frame[["a", "b"]] - frame.groupby("group")[["a", "b"]].transform("mean")
    return correlation(centred["a"].to_numpy(), centred["b"].to_numpy())


def _shares(one: Replayed, group_N: Ints) -> list[float | None]:
    """Each component's share of the variance within groups, weights included."""
    if not one.weights:
        return [None] * len(one.parts)
    spread = []
    for key, part in one.parts.items():
        frame = pd.DataFrame({"part": part, "group": group_N}).dropna()
        deviation = frame["part"] - frame.groupby("group")["part"].transform("mean")
        spread.append(one.weights[key] ** 2 * float((deviation**2).mean()) if len(frame) else 0.0)
    total = sum(spread)
    return [value / total if total else 0.0 for value in spread]


def _by(total_N: Floats, read: _Rollouts, column: str) -> list[dict[str, Any]]:
    """What is paid by the values of a column; labels in their order, others by name."""
    key = read.frame[column]
    name_N = key.astype(object).where(key.notna(), "").astype(str).to_numpy()
    labels = [str(label) for label in LABELS]
    names = [*(label for label in labels if label in name_N), *sorted(set(name_N) - set(labels))]
    return [{"name": name or "no label", **_of_some(total_N, read, name_N == name)} for name in names]


def _of_some(total_N: Floats, read: _Rollouts, mask: Any) -> dict[str, Any]:
    return {
        "n": int(mask.sum()),
        "mean": _number(_mean_of(total_N, mask)),
        "accuracy": _number(_mean_of(read.right_N, mask)),
        "unscorable": float(np.isnan(total_N[mask]).mean()),
        "within": {
            factor: within_correlation(total_N[mask], values[mask], read.group_N[mask])
            for factor, values in read.factors.items()
        },
    }


def _by_step(value_N: Floats, steps: Any) -> list[tuple[int, float | None]]:
    return [(int(step), _number(_mean_of(value_N, steps == step))) for step in np.unique(steps)]


def _mean_of(value_N: Floats, mask: Any) -> float:
    values = value_N[mask & ~np.isnan(value_N)]
    return float(values.mean()) if len(values) else float("nan")


def _number(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _standardised(total_N: Floats) -> Floats:
    sd = float(np.nanstd(total_N)) if not np.isnan(total_N).all() else 0.0
    standard: Floats = (total_N - np.nanmean(total_N)) / sd if sd > 1e-9 else np.zeros(len(total_N))
    return standard


def _compare(a: Replayed, b: Replayed, group_N: Ints) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """Compare two rewards, and choose the completions on which they differ most, each in its standard deviations.

    If only one of them judges a completion, it counts as average under the other: GRPO gives it an advantage of 0.
    """
    gap_N = (np.nan_to_num(_standardised(a.total_N)) - np.nan_to_num(_standardised(b.total_N))).round(9)
    one_N = np.isnan(a.total_N) != np.isnan(b.total_N)
    chosen = []
    for at in np.lexsort((~one_N, -np.abs(gap_N)))[:EXAMPLES].tolist():
        judge = b.name if np.isnan(a.total_N[at]) else a.name
        if one_N[at] or gap_N[at]:
            only = f", only {judge} judges it" if one_N[at] else ""
            chosen.append((at, f"{gap_N[at]:+.2f} standard deviations{only}"))
    found = {
        "a": a.name,
        "b": b.name,
        "correlation": correlation(a.total_N, b.total_N),
        "within": within_correlation(a.total_N, b.total_N, group_N),
        "other_order": _other_order(a.total_N, b.total_N, group_N),
        "judged_by_one": int(one_N.sum()),
    }
    return found, chosen


def _other_order(a_N: Floats, b_N: Floats, group_N: Ints) -> float | None:
    """Share of groups in which the best-paid completion under one reward is not best-paid under the other."""
    frame = pd.DataFrame({"a": a_N, "b": b_N, "group": group_N}).dropna()
    if frame.empty:
        return None
    best = frame.groupby("group")[["a", "b"]].transform("max")
    both = ((frame["a"] >= best["a"] - 1e-9) & (frame["b"] >= best["b"] - 1e-9)).groupby(frame["group"]).any()
    return float(1 - both.mean())


def _surprising(total_N: Floats, right_N: Floats) -> list[tuple[int, str]]:
    """The best-paid wrong completions and the worst-paid right ones."""
    chosen: list[tuple[int, str]] = []
    for right, sign, why in (
        (0.0, -1.0, "wrong, yet among the best paid"),
        (1.0, 1.0, "right, yet among the worst paid"),
    ):
        rows = np.flatnonzero((right_N == right) & ~np.isnan(total_N))
        order = rows[np.argsort(sign * total_N[rows], kind="stable")]
        chosen += [(int(at), why) for at in order[: EXAMPLES // 2]]
    return chosen
