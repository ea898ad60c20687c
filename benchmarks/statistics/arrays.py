"""A system's predictions as checked arrays: samples combined, one column per item, one row per training run.

Several samples of one item are combined as follows:

- Probabilities are averaged over the samples that have them.
- The answer is the majority vote of the answered samples. A tie goes to the label with the higher mean probability,
  then to the earlier one in `rewards.LABELS`.
- An item is unscorable where all its samples have the status `error`. An item that is unscorable in one training run
  is left out in all runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluation.predictions import PROBABILITIES, TASKS
from rewards import LABELS, InputError, Label, Status

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.intp]
Bools: TypeAlias = npt.NDArray[np.bool_]

UP, DOWN, NONE = (LABELS.index(label) for label in (Label.UP, Label.DOWN, Label.NONE))
NO_ANSWER: Final = len(LABELS)
NEEDED: Final = ("item_id", "cell_line", "pert", "gene", "label", "answer", "status")


@dataclass(frozen=True)
class PredictionArrays:
    """A system's predictions: N items, K training runs, samples already combined.

    Attributes:
        item_id: (N,) unique ids.
        line, pert, gene: (N,) categories.
        label: (N,) true label as a position in `rewards.LABELS`.
        seeds: the K training runs.
        answer: (K, N) the label answered, as a position in `rewards.LABELS`; `NO_ANSWER` where there is none.
        prob: (K, N, 3) probabilities over `rewards.LABELS`; NaN for an item without a score.
        scorable: (N,) False where at least one run has only errors for the item.
        tasks: those of `TASKS` that the system answers; the others have no metrics.
    """

    item_id: "pd.Index[Any]"
    line: pd.Categorical
    pert: pd.Categorical
    gene: pd.Categorical
    label: Ints
    seeds: tuple[int, ...]
    answer: Ints
    prob: Floats
    scorable: Bools
    tasks: tuple[str, ...] = TASKS

    @cached_property
    def pair(self) -> Ints:
        """(N,) code of each item's perturbation and gene together; the same pair has one code in all cell lines."""
        both = self.pert.codes.astype(np.int64) * len(self.gene.categories) + self.gene.codes
        return pd.factorize(both)[0].astype(np.intp)

    def take(self, at: Ints) -> "PredictionArrays":
        """Return the items at positions `at`, in that order."""
        return PredictionArrays(
            self.item_id[at],
            self.line[at],
            self.pert[at],
            self.gene[at],
            self.label[at],
            self.seeds,
            self.answer[:, at],
            self.prob[:, at],
            self.scorable[at],
            self.tasks,
        )


def prediction_arrays(predictions: pd.DataFrame, name: str = "predictions") -> PredictionArrays:
    """Check a predictions frame and combine its samples.

    Args:
        predictions: one row per item, sample and training run. Needed columns: `item_id, cell_line, pert, gene, label,
            answer, status`. Optional columns: `sample` and `seed` (0 where absent), and `p_up, p_down, p_none` (all
            three or none of them).
        name: what to call the frame in errors.

    Returns:
        The predictions as arrays; items in the order of their first row.

    Raises:
        InputError: one of these:
            - a column or value is missing;
            - a label, answer or status is unknown, or an answer does not match its status;
            - an item occurs twice in one sample of one run, or its rows describe it differently;
            - a run lacks an item;
            - probabilities are not a distribution.
    """
    missing = [column for column in NEEDED if column not in predictions]
    if missing:
        raise InputError(f"{name}: no column {', '.join(missing)}; a predictions frame needs {', '.join(NEEDED)}")
    if predictions.empty:
        raise InputError(f"{name}: no rows; evaluate at least one item")

    rows = _Rows.of(predictions, name)
    label, answer, answered, heard = _answers(predictions, name)
    first = rows.first
    _refuse(label != label[first][rows.item], predictions, name, "the item has another label in an earlier row")
    described = {column: _described(predictions, column, rows, name) for column in ("cell_line", "pert", "gene")}
    prob = _mean_probabilities(predictions, name, answered, rows.cell, rows.n_cells)
    shape = (len(rows.seeds), len(rows.item_id))
    return PredictionArrays(
        item_id=rows.item_id,
        line=described["cell_line"],
        pert=described["pert"],
        gene=described["gene"],
        label=label[first],
        seeds=rows.seeds,
        answer=_vote(rows.cell[answered], answer[answered], prob).reshape(shape),
        prob=prob.reshape(*shape, len(LABELS)),
        scorable=np.asarray((np.bincount(rows.cell[heard], minlength=rows.n_cells) > 0).reshape(shape).all(axis=0)),
    )


@dataclass(frozen=True)
class _Rows:
    """The item and the training run of each row.

    Attributes:
        item_id: (N,) the items, in the order of their first row.
        seeds: the K training runs.
        item: (R,) position of each row's item.
        cell: (R,) position of its run and item together, out of `n_cells` = K N.
    """

    item_id: "pd.Index[Any]"
    seeds: tuple[int, ...]
    item: Ints
    cell: Ints

    @classmethod
    def of(cls, frame: pd.DataFrame, name: str) -> "_Rows":
        """Check that no item occurs twice in one sample of one run, and that every run has every item."""
        codes, ids = pd.factorize(frame["item_id"])
        _refuse(codes < 0, frame, name, "item_id is missing")
        item, item_id = codes.astype(np.intp), pd.Index(np.asarray(ids))
        n = len(item_id)
        seeds, run = np.unique(_integers(frame, "seed", name), return_inverse=True)
        rows = cls(item_id, tuple(int(seed) for seed in seeds), item, run * n + item)
        twice = pd.DataFrame({"cell": rows.cell, "sample": _integers(frame, "sample", name)}).duplicated().to_numpy()
        _refuse(twice, frame, name, "the item occurs twice in one sample of one run (seed)")
        absent = np.flatnonzero(np.bincount(rows.cell, minlength=rows.n_cells) == 0)
        if absent.size:
            at_run, at_item = divmod(int(absent[0]), n)
            raise InputError(
                f"{name}: seed {seeds[at_run]} lacks item {item_id[at_item]!r}; every run needs every item"
            )
        return rows

    @property
    def n_cells(self) -> int:
        """The number of pairs of a run and an item."""
        return len(self.seeds) * len(self.item_id)

    @cached_property
    def first(self) -> Ints:
        """(N,) position of each item's first row."""
        first = np.empty(len(self.item_id), dtype=np.intp)
        first[self.item[::-1]] = np.arange(len(self.item) - 1, -1, -1)
        return first


def _answers(frame: pd.DataFrame, name: str) -> tuple[Ints, Ints, Bools, Bools]:
    """Label and answer of each row as positions in `LABELS`, whether it is answered, and whether it is no error."""
    label = _positions(frame, "label", LABELS, name)
    _refuse(label < 0, frame, name, "label is missing")
    status = _positions(frame, "status", tuple(Status), name)
    _refuse(status < 0, frame, name, "status is missing")
    answer = _positions(frame, "answer", LABELS, name)
    answered = status == tuple(Status).index(Status.ANSWERED)
    _refuse((answer >= 0) != answered, frame, name, "answer must be set exactly where status is 'answered'")
    return label, answer, answered, status != tuple(Status).index(Status.ERROR)


def _described(frame: pd.DataFrame, column: str, rows: _Rows, name: str) -> pd.Categorical:
    """The value of a column for each item; all rows of an item must agree."""
    value, names = pd.factorize(frame[column])
    _refuse(value < 0, frame, name, f"{column} is missing")
    first = value[rows.first]
    _refuse(value != first[rows.item], frame, name, f"the item has another {column} in an earlier row")
    return pd.Categorical.from_codes(first, categories=pd.Index(np.asarray(names)))


def _refuse(wrong: Bools, frame: pd.DataFrame, name: str, problem: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{name}, row {row} (item {frame['item_id'].iloc[row]!r}): {problem}; fix the row")


def _integers(frame: pd.DataFrame, column: str, name: str) -> npt.NDArray[np.int64]:
    if column not in frame:
        return np.zeros(len(frame), dtype=np.int64)
    values = frame[column]
    _refuse(values.isna().to_numpy(), frame, name, f"{column} is missing")
    if not pd.api.types.is_integer_dtype(values.dtype):
        raise InputError(f"{name}: column {column} is {values.dtype}, not whole numbers; convert it")
    return values.to_numpy(dtype=np.int64)


def _positions(frame: pd.DataFrame, column: str, allowed: Sequence[str], name: str) -> Ints:
    """Position of each value in `allowed`; -1 where it is missing."""
    codes, found = pd.factorize(frame[column])
    spelt = [str(value) for value in found]
    for code, value in enumerate(spelt):
        if value not in allowed:
            choices = ", ".join(repr(str(choice)) for choice in allowed)
            _refuse(codes == code, frame, name, f"{column} {value!r} is unknown; use one of {choices}")
    # A missing value has the code -1, which indexes the last entry.
    lookup = np.array([*(allowed.index(value) for value in spelt), -1], dtype=np.intp)
    return lookup[codes]


def _mean_probabilities(frame: pd.DataFrame, name: str, answered: Bools, cell: Ints, n_cells: int) -> Floats:
    """(n_cells, 3) mean over an item's samples that have probabilities; NaN where no sample has them."""
    present = [column for column in PROBABILITIES if column in frame]
    if not present:
        return np.full((n_cells, len(LABELS)), np.nan)
    if len(present) < len(PROBABILITIES):
        raise InputError(f"{name}: column {present[0]} without all of {', '.join(PROBABILITIES)}; give all or none")
    prob = np.column_stack([frame[column].to_numpy(dtype=np.float64, na_value=np.nan) for column in PROBABILITIES])
    known = ~np.isnan(prob)
    whole, change_only = known.all(axis=1), (known == [False, False, True]).all(axis=1)
    _refuse(
        known.any(axis=1) & ~whole & ~change_only, frame, name,
        "some of p_up, p_down, p_none are NaN; give all, p_none alone where the direction is unknown, or none",
    )  # fmt: skip
    _refuse((whole | change_only) & ~answered, frame, name, "probabilities without an answer; p_* must be NaN there")
    outside = np.asarray(((prob < 0) | (prob > 1)).any(axis=1))
    _refuse(outside, frame, name, "a probability is not within 0 to 1")
    _refuse(whole & (np.abs(prob.sum(axis=1) - 1) > 1e-3), frame, name, "p_up + p_down + p_none is not 1")
    means = []
    for p in prob.T:
        there = ~np.isnan(p)
        total = np.bincount(cell[there], weights=p[there], minlength=n_cells)
        with np.errstate(invalid="ignore"):
            means.append(total / np.bincount(cell[there], minlength=n_cells))
    return np.column_stack(means)


def _vote(cell: Ints, answer: Ints, prob: Floats) -> Ints:
    """(n_cells,) majority of the answers in each cell."""
    votes = np.bincount(cell * len(LABELS) + answer, minlength=prob.size).reshape(prob.shape)
    # A vote counts 1 and a probability at most 1/2, so probabilities decide only between equal numbers of votes.
    majority: Ints = np.argmax(votes + 0.5 * np.nan_to_num(prob), axis=1)
    majority[votes.sum(axis=1) == 0] = NO_ANSWER
    return majority
