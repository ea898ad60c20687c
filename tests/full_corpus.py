"""All labels as one corpus for a process's tests: what it computes of them, which is costly, it computes once."""

import pandas as pd

from benchmarks import NeighbourModel
from benchmarks.evidence.corpus import Corpus

_made: list[Corpus] = []


def full_corpus(full_frame: pd.DataFrame, neighbours: NeighbourModel | None = None) -> Corpus:
    """Return the corpus of the fixture `full_frame`; not to be changed. Tests that forecast pass `full_neighbours`."""
    if not _made:
        _made.append(Corpus("full", "official", full_frame))
    if neighbours is not None:
        vars(_made[0])["_neighbours"] = neighbours
    return _made[0]
