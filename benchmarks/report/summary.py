"""Everything a report says, as numbers: what page, files, words and figures share. What cannot be told is NaN."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, Final, Literal, TypeAlias

from benchmarks.report.examples import Item, MostDifferent
from benchmarks.statistics.metrics import find_metric, tasks_of
from benchmarks.statistics.reliability import Bin
from benchmarks.statistics.significance import Comparison

# What summary and figures show, by what the models were asked; every metric is in the tables. The first is the primary
# one, declared before any number is seen: a claim rests on it, the others put it in context.
HEADLINE: Final[Mapping[str, tuple[str, ...]]] = {
    "three_class": ("de_per_gene_auroc", "accuracy", "balanced_accuracy"),
    "de": ("de_per_gene_auroc", "de_auroc"),
    "dir": ("dir_per_gene_auroc", "dir_accuracy", "dir_balanced_accuracy"),
}
# For how many perturbations would show it, "a difference that matters": the same for all metrics, on their 0 to 1.
WANTED: Final = 0.02


@dataclass(frozen=True)
class Score:
    """A metric of one system on some items, with its 95 % interval.

    Attributes:
        n: items it is computed on.
        n_perturbations: their perturbations; of a mean over perturbations, those averaged over.
        n_perturbations_left_out: perturbations with one class only, where it is such a mean.
        n_genes, n_genes_left_out: genes averaged over and left out, where it is a mean over genes.
        per_seed: the value in each training run, where there are several.
        reason: why there is no value or no interval.
    """

    value: float
    low: float
    high: float
    n: int
    n_perturbations: int
    n_perturbations_left_out: int | None = None
    n_genes: int | None = None
    n_genes_left_out: int | None = None
    per_seed: tuple[float, ...] = ()
    reason: str = ""


# By task, by where ("all", a line, a stratum), by metric.
Scores: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Score]]]


@dataclass(frozen=True)
class Tokens:
    """Tokens that a system cost, failed requests left out; NaN where nobody counted them.

    Attributes:
        mean, median, p95, total: tokens written per completion, and in all.
        read_per_item, written_per_item: tokens of prompts and of completions per item and training run.
    """

    mean: float = float("nan")
    median: float = float("nan")
    p95: float = float("nan")
    total: float = float("nan")
    read_per_item: float = float("nan")
    written_per_item: float = float("nan")


@dataclass(frozen=True)
class SystemSummary:
    """What is told of one system, on its own items.

    Attributes:
        kind: as `benchmarks.report.summarize.System` has it, and `facts`.
        n_items: how many items it was asked, where it was not asked all.
        fingerprint: of its protocol, where known.
        status, status_counts: share and number of its rows by `rewards.Status`; `n_rows`, all of them.
        n_unscorable: items with nothing but errors.
        seeds: its training runs.
        metrics, strata: scores over all items and by line, and by stratum, of the tasks that the report shows.
        reliability: see `benchmarks.statistics.curves`, and `roc`, by task.
    """

    kind: Literal["model", "baseline"]
    n_items: int | None
    fingerprint: str | None
    status: Mapping[str, float]
    status_counts: Mapping[str, int]
    n_rows: int
    tokens: Tokens
    n_unscorable: int
    seeds: tuple[int, ...]
    metrics: Scores
    strata: Scores
    reliability: Sequence[Bin]
    roc: Mapping[str, Sequence[tuple[float, float]]]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Compared:
    """Two systems compared, a minus b.

    Attributes:
        a, b: their names.
        result: the comparison.
        perturbations_needed: for a difference of `WANTED`; NaN where the comparison has no error.
        cell_line: "all", or the one line whose items are compared.
        p_fdr: of one line's comparison, p adjusted over all lines' (Benjamini & Hochberg); NaN otherwise.
    """

    a: str
    b: str
    result: Comparison
    perturbations_needed: float
    cell_line: str = "all"
    p_fdr: float = float("nan")


@dataclass(frozen=True)
class SelfCheck:
    """A system compared with itself, half of each item's samples against the other half."""

    system: str
    result: Comparison


@dataclass(frozen=True)
class Evaluated:
    """How many items, perturbations, genes and items of each label a cell line has, or all lines together."""

    cell_line: str
    items: int
    perturbations: int
    genes: int
    labels: Mapping[str, int]


def screen_of(data: Mapping[str, Any]) -> str:
    """Return the name of the screen from what a report was given about its data; "" where that does not tell."""
    return str(data.get("source", ""))


@dataclass(frozen=True)
class Summary:
    """Everything a report says.

    Attributes:
        title: of the page; `protocol`, `data`, `stages` and `published` as they were given, as plain JSON values.
        warnings: what stands above all numbers.
        task: what the models were asked, one of `TASKS`: `de` or `dir` where all of them answer that task alone.
        systems: by name, in the order given.
        comparisons: metric by metric, all lines together.
        wanted_difference: for which perturbations needed are told.
        exploratory: comparisons on the primary metric, line by line.
        aa_checks: each model with several samples an item against itself.
        evaluated: denominators of each line and, last, of all.
        random_items: items drawn to be shown.
        most_different: items on which the last two models differ most; None with fewer than two.
    """

    title: str
    warnings: Sequence[str]
    task: str
    systems: Mapping[str, SystemSummary]
    comparisons: Sequence[Compared]
    wanted_difference: float
    exploratory: Sequence[Compared]
    aa_checks: Sequence[SelfCheck]
    protocol: Mapping[str, Any]
    data: Mapping[str, Any]
    evaluated: Sequence[Evaluated]
    published: Sequence[Mapping[str, Any]]
    stages: Sequence[Mapping[str, Any]]
    random_items: Sequence[Item]
    most_different: MostDifferent | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose scores are told."""
        return tasks_of(self.task)

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that summary and figures show, the primary one first."""
        return HEADLINE[self.task]

    @property
    def primary(self) -> str:
        """The metric declared in advance."""
        return self.headline[0]

    @property
    def screen(self) -> str:
        """Name of the screen evaluated, as reports call it."""
        return screen_of(self.data)

    @property
    def total(self) -> Evaluated:
        """Denominators of all lines together."""
        return self.evaluated[-1]

    @property
    def lines(self) -> list[str]:
        """The cell lines evaluated."""
        return [row.cell_line for row in self.evaluated[:-1]]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of systems compared."""
        return list(dict.fromkeys((one.a, one.b) for one in self.comparisons))

    @property
    def fewer_items(self) -> list[str]:
        """Names of the systems that were not asked all items."""
        return [name for name, one in self.systems.items() if one.n_items is not None]

    def named(self, kind: str) -> list[str]:
        """Return the names of the systems of a kind."""
        return [name for name, one in self.systems.items() if one.kind == kind]

    def find(self, a: str, b: str, metric: str) -> Compared:
        """Return the comparison of `a` with `b` on `metric`."""
        return next(one for one in self.comparisons if (one.a, one.b, one.result.metric) == (a, b, metric))

    def score(self, system: str, metric: str) -> Score:
        """Return a system's score over all its items."""
        return self.systems[system].metrics[find_metric(metric).task]["all"][metric]

    def best(self, metric: str, kind: str) -> tuple[str, float] | None:
        """Return the best system of a kind over all lines, and its value; None where none has one.

        Where some were asked all items, it is one of them: a value on fewer does not compare.
        """
        values = [(name, self.score(name, metric).value) for name in self.named(kind)]
        known = [pair for pair in values if not isnan(pair[1])]
        of_all = [pair for pair in known if pair[0] not in self.fewer_items]
        sign = 1 if find_metric(metric).higher_is_better else -1
        return max(of_all or known, key=lambda pair: sign * pair[1]) if known else None
