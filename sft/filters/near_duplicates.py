"""Find reasoning that repeats earlier reasoning, exactly or nearly.

A text is compared as the set of all its windows of eight bytes, with the item's own gene symbols masked. MinHash
signatures in bands give candidates (Broder 1997, 10.1109/SEQUEN.1997.666900; Leskovec et al., Mining of Massive
Datasets, chapter 3). The exact Jaccard similarity of the two sets then decides.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

HASHES: Final = 64
# Hashes per band, by similarity. With w hashes a band, a pair of similarity s becomes a candidate with probability
# 1 - (1 - s^w)^(64/w). This is 97 % at .88 (w = 8), 96 % at .65 (w = 4) and 95 % at .3 (w = 2), and more at a higher s.
# More hashes a band give fewer candidates, so each w is the largest with such a share.
_ROWS: Final = ((0.88, 8), (0.65, 4), (0.0, 2))
_WINDOW: Final = 8
# Texts that share boilerplate fall into crowded buckets. A text that repeats one of them shares other buckets with it.
_BUCKET: Final = 100  # texts remembered per band and key
_COMPARED: Final = 16  # exact comparisons per text, beginning with the most similar signature
_SAMPLE_FROM: Final = 512  # in a text of more windows, only one window in eight is hashed, chosen by its own hash
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_FACTORS: Final = np.random.default_rng(20261123).integers(1, 2**63, HASHES, dtype=np.uint64) * np.uint64(
    2
) + np.uint64(1)

Signatures = npt.NDArray[np.uint32]


def mask(text: str, names: Sequence[str]) -> bytes:
    """Return the text without the item's own symbols and in lower case, as bytes to compare."""
    for number, name in enumerate(names, start=1):
        text = text.replace(name, chr(number))
    return " ".join(text.lower().split()).encode("utf-8", "surrogatepass")


def digest(masked: bytes) -> int:
    """Return a 64-bit hash of a masked text."""
    return int.from_bytes(hashlib.blake2b(masked, digest_size=8).digest(), "little")


def sketch(texts: Sequence[bytes]) -> Signatures:
    """Return the MinHash signatures of masked texts, (N, HASHES)."""
    padded = [text if len(text) >= _WINDOW else text.ljust(_WINDOW, b"\0") for text in texts]
    buffer = b"".join(padded)
    lengths = np.array([len(text) for text in padded])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    windows = np.ndarray(shape=(len(buffer) - _WINDOW + 1,), dtype="<u8", buffer=buffer, strides=(1,))
    with np.errstate(over="ignore"):
        hashed = windows * _MIX
        hashed ^= hashed >> np.uint64(29)
        hashed *= _FACTORS[0]
    across = (ends[:-1, None] - np.arange(1, _WINDOW)[None]).ravel()
    long = np.repeat(lengths > _SAMPLE_FROM, lengths)[: len(hashed)]
    use = ~long | (hashed >> np.uint64(61) == 0)
    use[starts] = True  # each text needs at least one window
    use[across] = False
    at = np.flatnonzero(use)
    chosen, first = hashed[at], np.searchsorted(at, starts)
    signatures = np.empty((len(texts), HASHES), dtype=np.uint32)
    with np.errstate(over="ignore"):
        for number, factor in enumerate(_FACTORS):
            values = ((chosen ^ (chosen >> np.uint64(31))) * factor >> np.uint64(32)).astype(np.uint32)
            signatures[:, number] = np.minimum.reduceat(values, first)
    return signatures


def jaccard(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Return the Jaccard similarity of two sorted arrays of distinct values."""
    if len(a) > len(b):
        a, b = b, a
    at = np.searchsorted(b, a)
    common = int(np.count_nonzero(b[np.minimum(at, len(b) - 1)] == a))
    return common / (len(a) + len(b) - common)


def window_set(masked: bytes) -> npt.NDArray[np.uint64]:
    """Return the distinct windows of a masked text, sorted."""
    text = masked if len(masked) >= _WINDOW else masked.ljust(_WINDOW, b"\0")
    return np.unique(np.ndarray(shape=(len(text) - _WINDOW + 1,), dtype="<u8", buffer=text, strides=(1,)))


def find_duplicates(
    digests: npt.NDArray[np.uint64], signatures: Signatures, similarity: float, text_of: Callable[[int], bytes]
) -> npt.NDArray[np.bool_]:
    """Find the texts that repeat an earlier text that is kept.

    Args:
        digests: (N,) from `digest`.
        signatures: (N, HASHES) from `sketch`.
        similarity: Jaccard similarity from which a text counts as a repeat; 1 finds equal texts only.
        text_of: returns the masked text at a position; called for candidates only.

    Returns:
        (N,) True for a repeat.
    """
    n = len(digests)
    duplicate = np.ones(n, dtype=bool)
    duplicate[np.unique(digests, return_index=True)[1]] = False
    if similarity >= 1 or n < 2:
        return duplicate
    rows = np.flatnonzero(~duplicate)
    keys, shared = _band_keys(signatures, rows, next(width for limit, width in _ROWS if similarity >= limit))
    windows = lru_cache(maxsize=4096)(lambda row: window_set(text_of(row)))
    # A pair whose estimated similarity is five standard errors below the limit is not compared exactly.
    least = similarity - 5 * (similarity * (1 - similarity) / HASHES) ** 0.5
    kept: dict[int, list[int]] = {}
    for at in np.flatnonzero(shared.any(axis=1)):
        row = int(rows[at])
        mine = [int(one) for one in keys[at, shared[at]]]
        candidates = np.array(sorted({other for one in mine for other in kept.get(one, ())}), dtype=np.intp)
        alike = (signatures[candidates] == signatures[row]).mean(axis=1)
        order = np.argsort(-alike, kind="stable")[:_COMPARED]
        likely = candidates[order[alike[order] >= least]]
        if any(jaccard(windows(row), windows(int(other))) >= similarity for other in likely):
            duplicate[row] = True
            continue
        for one in mine:
            bucket = kept.setdefault(one, [])
            if len(bucket) < _BUCKET:
                bucket.append(row)
    return duplicate


def _band_keys(
    signatures: Signatures, rows: npt.NDArray[np.intp], width: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Return the keys of N signatures in B bands of `width` hashes, (N, B), and which keys occur more than once."""
    shape = (len(rows), HASHES // width)
    keys, shared = np.empty(shape, dtype=np.uint64), np.empty(shape, dtype=bool)
    with np.errstate(over="ignore"):
        for band in range(HASHES // width):
            key = np.full(len(rows), band, dtype=np.uint64)
            for column in range(band * width, (band + 1) * width):
                key = (key ^ signatures[rows, column]) * _MIX
                key ^= key >> np.uint64(32)
            _, code, counts = np.unique(key, return_inverse=True, return_counts=True)
            keys[:, band], shared[:, band] = key, counts[code] > 1
    return keys, shared
