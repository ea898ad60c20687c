"""Labels by their source: PerturbQA's files, its labels of gene sets, the sample, and label tables."""

import difflib
import os
from pathlib import Path
from typing import Final

import pandas as pd

from benchmarks.screens import bioreasoning, k562_set
from benchmarks.screens.perturbqa import OFFICIAL_URL, read_items
from benchmarks.screens.published import PublishedFiles
from benchmarks.screens.schema import CELL_LINES, lines_of
from benchmarks.screens.screen import PERTURBQA, Screen
from benchmarks.screens.table import LabelTable, is_table, read_screen, table_file
from benchmarks.tables import check_kind
from rewards import InputError, Label

SAMPLE: Final = "sample"  # stands for the rows that ship with the package, where a folder may be named

SHA256: Final = {
    "hepg2-de.csv": "f94045fb44dcca4af9c69bee5c87de624590061a1123d55d9ee42a9c1ca97932",
    "hepg2-dir.csv": "8c642ab6e6996887dce6c774d5fc58546970ba9216a636c7547b5039062a2cc3",
    "jurkat-de.csv": "cf993f77015bd7df9d71ce9cf1170f6c8e64a571dc6f9ba0aef411ffb103eec5",
    "jurkat-dir.csv": "8e17055a5bbf8c2751317db5284a9e793a2dc5aaccef0afbcdaf87daabc45709",
    "k562-de.csv": "e6ab095f3f970bb29f48427414904136785e8cd4945496f8d9a8fa6eab35ee67",
    "k562-dir.csv": "84a0bc9631b33b8720663ed69506a316dad0f686a51f702f277914cc722000f4",
    "rpe1-de.csv": "a66a86aac5db458e0703bccf7f2d638769400a7ccb9f2615cd9421c106b748ca",
    "rpe1-dir.csv": "25fa0b37c7e86cd73e8135b83513ea9d96c55e5a6c3f222ffbb531b91ab0fb0c",
}
DATA_HELP: Final = "labels: a folder, a table, a YAML file that describes one, or `sample`; none for the default"
# Screens that ship as a description of a table, which the user fetches.
DESCRIBED: Final = {bioreasoning.NAME: bioreasoning.SHIPPED}


def data_dir() -> Path:
    """Return the folder of the full labels: `SYNTHPERT_DATA` if it names one, else the folder that `data fetch` fills.

    `SYNTHPERT_DATA` may also be `sample`, which is no folder; see `data_source`.
    """
    override = os.environ.get("SYNTHPERT_DATA")
    named = override and override != SAMPLE
    return Path(str(override)).expanduser() if named else Path.home() / ".cache" / "synthpert" / "perturbqa"


def data_source(source: str | Path | None = None) -> str:
    """Return where labels come from: a folder, a label table, a file that describes one, or `sample`.

    Args:
        source: one of these; `perturbqa` for `data_dir()`; `k562_set` for the labels of gene sets there; a name in
            `DESCRIBED`; None for what `SYNTHPERT_DATA` names, else for `data_dir()`. A folder of such a name comes
            first if it holds these labels. A folder that `data fetch` filled stands for the description in it.

    Raises:
        InputError: labels in `DESCRIBED` were not fetched.
    """
    if source is None:
        return SAMPLE if os.environ.get("SYNTHPERT_DATA") == SAMPLE else str(data_dir())
    named, path = str(source), Path(source)
    for name, shipped in DESCRIBED.items():
        if (path / shipped.name).is_file():
            return str(path / shipped.name)
        if named == name and not path.is_file():
            if not (file := table_file(shipped)).is_file():
                raise InputError(f"{file}: no such file; run `synthpert data fetch {name}`")
            return str(shipped)
    if named == "perturbqa" and not (path / f"{CELL_LINES[0]}-de.csv").is_file():
        return str(data_dir())
    if named == k562_set.NAME:
        return str((path if (path / k562_set.MAPPING).is_file() else data_dir()) / named)
    return named


def fetch(source: str | Path | None = None, out: Path | None = None, *, timeout: float = 60.0) -> Path:
    """Copy the eight label files into `out`. Each is checked against its SHA-256 before it is put in place.

    Args:
        source: a folder, or the base URL of one; None for the official repository.
        out: the folder to fill; None for `data_dir()`. Correct files that are already there are kept.
        timeout: seconds to wait for the network, per file.

    Returns:
        The folder.

    Raises:
        InputError: a file is missing, truncated or changed at the source, or the network is out of reach.
        CheckError: a file cannot be written.
    """
    return _published().fetch(source, data_dir() if out is None else out, timeout)


def _published() -> PublishedFiles:
    """PerturbQA's files, with the digests that hold now: tests have files of their own."""
    return PublishedFiles(OFFICIAL_URL, SHA256, "the eight PerturbQA files", "synthpert data fetch")


def load_screen(source: str | Path | LabelTable | None = None) -> tuple[Screen, pd.DataFrame]:
    """Load labels, and what is known of them besides; see `load_labels`.

    Args:
        source: as in `load_labels`, or a `LabelTable`.
    """
    if isinstance(source, LabelTable):
        return read_screen(source)
    source = data_source(source)
    if is_k562_set(source):
        return k562_set.load_k562_set(Path(source).parent)
    return read_screen(source) if is_table(source) else (PERTURBQA, load_labels(source))


def is_k562_set(source: str) -> bool:
    """Tell whether a source is PerturbQA's labels of gene sets: their files in the folder above, by their name."""
    path = Path(source)
    return path.name == k562_set.NAME and not path.exists()


def load_labels(source: str | Path | None = None, *, verify: bool = True) -> pd.DataFrame:
    """Load labels as three-class items, all cell lines, with their own split.

    Args:
        source: a folder with PerturbQA's eight files, a label table or a file that describes one (see
            `benchmarks.screens.table`), `"k562_set"` for PerturbQA's labels of gene sets, or `"sample"` for the rows
            that ship with the package; None as in `data_source`.
        verify: check each file's SHA-256. The rows are checked first, so that an error names the row where it can.

    Returns:
        One row per item, in the files' order, PerturbQA's lines in the order of `CELL_LINES`: `item_id` (str,
        `line|pert|gene`), `cell_line`, `pert`, `gene`, `label` (category of `rewards.LABELS`), `split`
        (category of `train`, `test`; all `train` in a table without that column). Gene symbols are text: `NA` stays
        `NA`.

    Raises:
        InputError: a file is missing, empty or changed, or one of its rows is inconsistent. The message names file
            and row; rows are counted as in a text editor, the header being row 1.
    """
    source = data_source(source)
    if source == SAMPLE:
        from benchmarks.screens.sample import load_sample

        return load_sample()[["item_id", "cell_line", "pert", "gene", "label", "split"]]
    if is_k562_set(source):
        return k562_set.load_k562_set(Path(source).parent, verify=verify)[1]
    if is_table(source):
        return read_screen(source)[1]
    folder = Path(source)
    if folder.is_file():
        check_kind(folder)  # raises, since tables are read above
    if not folder.is_dir():
        near = difflib.get_close_matches(source, (SAMPLE, "perturbqa", k562_set.NAME, *DESCRIBED), n=1)
        remedy = (
            f"did you mean `{near[0]}`?"
            if near
            else "run `synthpert data fetch`, set SYNTHPERT_DATA, or take the sample by giving data as `sample`"
        )
        raise InputError(f"{folder}: no such folder; {remedy}")
    files = _published()
    parts = [read_items(folder, line, files, line=line, verify=verify) for line in CELL_LINES]
    return pd.concat(parts, ignore_index=True)


def stats(labels: pd.DataFrame) -> pd.DataFrame:
    """Count rows per cell line.

    Args:
        labels: a frame as from `load_labels`, under a split.

    Returns:
        One row per line and one for all. A symbol that occurs in several lines counts once in the row for all.

        - `rows`, `train`, `test`;
        - `positives` (differentially expressed), `positive_percent`, `upregulated`, `downregulated`;
        - `test_perturbations`: different perturbations of test rows;
        - `genes`: different genes;
        - `unseen_genes`: those of test rows that have no training row in any line.
    """
    trained = frozenset(labels.loc[labels["split"] == "train", "gene"].astype(str))
    positive = labels["label"] != str(Label.NONE)
    frame = labels.assign(positive=positive)
    groups = [(line, frame[frame["cell_line"] == line]) for line in lines_of(labels)]
    rows = []
    for name, group in [*groups, ("all", frame)]:
        test = group[group["split"] == "test"]
        rows.append(
            {
                "cell_line": name,
                "rows": len(group),
                "train": len(group) - len(test),
                "test": len(test),
                "positives": int(group["positive"].sum()),
                "positive_percent": round(100 * float(group["positive"].mean()), 1) if len(group) else float("nan"),
                "upregulated": int((group["label"] == str(Label.UP)).sum()),
                "downregulated": int((group["label"] == str(Label.DOWN)).sum()),
                "test_perturbations": test["pert"].nunique(),
                "genes": group["gene"].nunique(),
                "unseen_genes": len(set(test["gene"].astype(str)) - trained),
            }
        )
    return pd.DataFrame(rows).set_index("cell_line")
