"""Compare the scores of files, as `synthpert compare` does."""

from collections.abc import Sequence

from benchmarks.comparison.compare import check_clusters, compare_arrays
from benchmarks.comparison.page import ComparedScores
from benchmarks.comparison.read import Keys, read_systems
from benchmarks.comparison.scores import score_arrays


def run_comparison(
    files: Sequence[str], keys: Keys, *, against: str | None = None, pairwise: bool = False, command: str = ""
) -> ComparedScores:
    """Read files of scores and compare their systems in pairs.

    Args:
        files: `FILE` or `NAME=FILE`; see `benchmarks.comparison.read.read_systems`.
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
    frames, read = read_systems(files, keys)
    systems = {name: score_arrays(frame, keys.clusters, name) for name, frame in frames.items()}
    found = compare_arrays(systems, against=against, drop=pairwise)
    notes = [note for one in read for note in one.notes]
    names = list(dict.fromkeys(one.score for one in read))
    if len(names) > 1:
        notes.append(
            f"the files call their scores by several names: {', '.join(names)}; check that they measure one thing"
        )
    return ComparedScores(systems, found, names[0], notes, command)
