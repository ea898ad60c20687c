"""PerturbQA's labels with sets of genes as readouts: what a knockdown in K562 does to each of 20 sets.

`gene` is the name of a set, such as `7-translation`; `k562_set-mapping.json` lists its genes.
"""

import json
from pathlib import Path
from typing import Final

import pandas as pd

from benchmarks.screens.perturbqa import OFFICIAL_URL, read_items
from benchmarks.screens.published import PublishedFiles
from benchmarks.screens.screen import PERTURBQA, Screen
from rewards import InputError

NAME: Final = "k562_set"
TITLE: Final = "PerturbQA, gene sets in K562"  # what reports call the labels
LINE: Final = "k562"
MAPPING: Final = f"{NAME}-mapping.json"
FILES: Final = PublishedFiles(
    OFFICIAL_URL,
    {
        "k562_set-de.csv": "d51faff9a337d111ff2f0858890bbf3207669925f26c0ba75164bc7217872c54",
        "k562_set-dir.csv": "3298d18708d82bd0852e9f6a91b9c5b56a000a2183375457143ccab7f218cb7f",
        MAPPING: "dd6368b07d81fa134cd0e9558f81f44b809015193bc2350c1367c4d9b925e066",
    },
    "PerturbQA's three k562_set files",
    f"synthpert data fetch {NAME}",
)


def load_k562_set(folder: Path, *, verify: bool = True) -> tuple[Screen, pd.DataFrame]:
    """Load the labels.

    Args:
        folder: where the three files are.
        verify: check each file's SHA-256, after its rows.

    Returns:
        The screen, whose `sets` have the genes of every set with labels, and the labels as from `load_labels`.

    Raises:
        InputError: a file is missing or changed, or a row or set is inconsistent.
    """
    labels = read_items(folder, NAME, FILES, line=LINE, verify=verify, sets=True)
    path = folder / MAPPING
    genes, content = _read_mapping(path)
    named = [str(name) for name in labels["gene"].unique()]
    for name in named:
        if name not in genes:
            raise InputError(f"{path}: has no set {name!r}, which {NAME}-de.csv asks about; run `{FILES.command}`")
    if verify:
        FILES.check(str(path), path.name, content)
    screen = Screen(
        TITLE,
        {LINE: PERTURBQA.words(LINE)},
        PERTURBQA.notice,
        notes=(
            f"The readouts are {len(named)} sets of genes. Where other labels have a gene, these have the name of a "
            "set. Per-gene AUROC is AUROC per set.",
        ),
        sets={name: genes[name] for name in named},
    )
    return screen, labels


def _read_mapping(path: Path) -> tuple[dict[str, tuple[str, ...]], bytes]:
    """Read the genes of each set, and the file's bytes for the hash."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {FILES.words} are needed, run `{FILES.command}`")
    content = path.read_bytes()
    try:
        read = json.loads(content)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); run `{FILES.command}`") from None
    if not isinstance(read, dict) or not all(isinstance(genes, list) and genes for genes in read.values()):
        raise InputError(f"{path}: is no object of sets with their genes; run `{FILES.command}`")
    return {str(name): tuple(map(str, genes)) for name, genes in read.items()}, content
