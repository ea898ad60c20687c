"""Compare the scores of files, as `synthpert compare` does."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.comparison.compare import ScoreComparison, check_clusters, compare_arrays
from benchmarks.comparison.page import ComparedScores
from benchmarks.comparison.read import Keys, equal_files, name_systems, read_systems
from benchmarks.comparison.scores import ScoreArrays, score_arrays
from benchmarks.report.wording import count_of, format_number, known
from benchmarks.statistics.significance import FEW_CLUSTERS


def run_comparison(
    files: Sequence[str], keys: Keys, *, against: str | None = None, pairwise: bool = False, command: str = ""
) -> ComparedScores:
    """Read files of scores and compare their systems in pairs.

    Args:
        files: `FILE` or `NAME=FILE`; see `benchmarks.comparison.read.name_systems`.
        keys: where items, scores and clusters stand in the files.
        against: the system that is subtracted from each other one; None compares all pairs.
        pairwise: compare each pair on the items that both have; otherwise other items are an error.
        command: what is shown as the command that made the comparison.

    Returns:
        Systems, comparisons and notes.

    Raises:
        InputError: a file is bad, systems have other items (without `pairwise`), or keys or names are unknown.
    """
    check_clusters(keys.clusters)
    named = name_systems(files)
    frames, read = read_systems(named, keys)
    systems = {name: score_arrays(frame, keys.clusters, name) for name, frame in frames.items()}
    found = compare_arrays(systems, against=against, drop=pairwise)
    notes = [*equal_files(named), *(note for one in read for note in one.notes)]
    names = list(dict.fromkeys(one.score for one in read))
    if len(names) > 1:
        notes.append(
            f"the files call their scores by several names: {', '.join(names)}; check that they measure one thing"
        )
    return ComparedScores(systems, found, names[0], [*notes, *_constant(systems), *_few(found)], command)


def _constant(systems: Mapping[str, ScoreArrays]) -> list[str]:
    """A sentence for systems that all have one and the same score on every item: such scores tell nothing apart."""
    names: dict[float, list[str]] = {}
    for name, one in systems.items():
        scores = np.unique(one.score[:, one.scorable])
        if scores.size == 1:
            names.setdefault(float(scores[0]), []).append(name)
    return [
        f"Every score of {' and of '.join(group)} is {format_number(score)}; look at some completions and at how they "
        "are scored"
        for score, group in names.items()
        if len(group) > 1
    ]


def _few(comparisons: Sequence[ScoreComparison]) -> list[str]:
    """A sentence if a tested pair has few clusters: their variance, and with it the interval, is uncertain."""
    least: dict[str, int] = {}
    for one in comparisons:
        for key, count in (one.clusters or {"": one.n_items}).items():
            if known(one.p_value) and count < FEW_CLUSTERS:
                least[key] = min(count, least.get(key, count))
    counts = [
        f"{count_of(count, 'value')} of {key}" if key else count_of(count, "item") for key, count in least.items()
    ]
    if not counts:
        return []
    return [
        f"Only {' and '.join(counts)}: with fewer than {FEW_CLUSTERS}, intervals and p values are themselves uncertain"
    ]
