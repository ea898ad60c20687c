"""The sample of real PerturbQA rows that ships with the package; `tools/make_sample.py` makes it from the full files.

The sample is chosen for density, not at random. It holds, for each cell line:

- a few genes that have every label among their rows, with up to a fixed number of rows per label;
- for the perturbations that recur most, some of their other genes.

Its label shares are therefore not PerturbQA's. Each row carries the training rates of its gene, the neighbour forecast
and the nearest similar knockdowns. All three were computed from the full training labels, so that evidence and
baselines on the sample are the real ones.
"""

import csv
from pathlib import Path
from typing import Final

import pandas as pd

from benchmarks.screens.schema import CELL_LINES, LABEL_DTYPE, LINE_DTYPE, SPLIT_DTYPE, SPLITS
from rewards import InputError, Label, as_label

SAMPLE_FILE: Final = Path(__file__).parent / "data" / "perturbqa_sample.csv"
EVIDENCE_PER_ITEM: Final = 5
COLUMNS: Final = [
    "cell_line", "pert", "gene", "label", "split", "rate_up", "rate_down", "p_up", "p_down", "evidence",
]  # fmt: skip
SHORT: Final = {Label.UP: "up", Label.DOWN: "down", Label.NONE: "none"}
_LONG: Final = {short: label for label, short in SHORT.items()}


def load_sample(path: Path = SAMPLE_FILE) -> pd.DataFrame:
    """Load the sample.

    Args:
        path: the sample's CSV file.

    Returns:
        One row per item: `item_id, cell_line, pert, gene, label, split` as in `load_labels`; `rate_up, rate_down` (the
        gene's training rates in its line); `p_up, p_down` (the neighbour forecast); `evidence` (a list of
        `(pert, similarity, label)`, most similar first, empty where the perturbation is unknown in the other lines).

    Raises:
        InputError: the file is missing or a row is broken; the message names file and row.
    """
    if not path.is_file():
        raise InputError(f"{path}: the sample is missing; install the package again")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != COLUMNS:
            raise InputError(f"{path}, row 1: the header is not {','.join(COLUMNS)}; install the package again")
        rows = []
        for number, row in enumerate(reader, start=2):
            if len(row) != len(COLUMNS):
                raise InputError(
                    f"{path}, row {number}: {len(row)} columns, not {len(COLUMNS)}; install the package again"
                )
            where = f"{path}, row {number}"
            if row[0] not in CELL_LINES or row[4] not in SPLITS:
                raise InputError(f"{where}: {row[0]}, {row[4]}: an unknown line or split; install the package again")
            try:
                numbers = [float(text) for text in row[5:9]]
            except ValueError:
                raise InputError(f"{where}: {row[5:9]} are not numbers; install the package again") from None
            rows.append([*row[:3], str(as_label(row[3], f"{path}, row {number}")), row[4], *numbers,
                         _parse_evidence(row[9], f"{path}, row {number}")])  # fmt: skip
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.insert(0, "item_id", frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"])
    return frame.astype({"cell_line": LINE_DTYPE, "label": LABEL_DTYPE, "split": SPLIT_DTYPE})


def _parse_evidence(text: str, where: str) -> list[tuple[str, float, str]]:
    if not text:
        return []
    try:
        entries = [entry.rsplit(":", 2) for entry in text.split(";")]
        return [(pert, float(similarity), str(_LONG[short])) for pert, similarity, short in entries]
    except (ValueError, KeyError) as error:
        raise InputError(f"{where}: evidence {text[:60]!r} is broken ({error}); install the package again") from error
