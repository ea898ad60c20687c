"""Run folders of predictions made elsewhere."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.evaluation.imported.answers import CHANGES
from benchmarks.evaluation.imported.columns import named_files
from benchmarks.evaluation.imported.read import Imported, read_imported
from benchmarks.evaluation.predictions import write_predictions
from benchmarks.evaluation.run import PREDICTIONS
from benchmarks.evidence.corpus import open_corpus
from benchmarks.files import check_folder, file_sha256, write_text
from benchmarks.runs import open_run
from rewards import InputError, Label

_logger = logging.getLogger("synthpert.import")
UNMATCHED: Final = "unmatched.csv"


def import_run(
    files: Sequence[str],
    out: Path,
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    data: str | None = None,
    split: str = "official",
    training_seed: int = 0,
    allow_unmatched: bool = False,
) -> Path:
    """Write predictions from any other system as a run of stage `eval`.

    Args:
        files: `.csv`, `.jsonl` or `.parquet` files. A file of one cell line without a column for it is `LINE=FILE`.
        out: the run folder.
        name: what reports call the system.
        columns, labels, training_seed: see `read_imported`.
        data, split: labels and split; rows are matched to the split's test items.
        allow_unmatched: leave out rows that match no test item. They are listed in `unmatched.csv` in any case.

    Returns:
        The run folder: `config.yaml`, `manifest.json`, `predictions.parquet`, and `unmatched.csv` if rows were left
        out.

    Raises:
        InputError: see `read_imported`. Also where rows match no test item and `allow_unmatched` is not set (the
            message names the first and the list of all), or the folder holds a run of another configuration.
    """
    check_folder(out)
    corpus = open_corpus(data, split)
    imported = read_imported(files, corpus, columns=columns, labels=labels, training_seed=training_seed)
    if len(imported.unmatched) and not allow_unmatched:
        raise _unmatched_error(imported.unmatched, out)
    if out.is_dir() and [path.name for path in out.iterdir()] == [UNMATCHED]:
        (out / UNMATCHED).unlink()  # from an earlier attempt
    named = named_files(files, corpus)
    sources = [{"file": str(path), "cell_line": line, "sha256": file_sha256(path)} for line, path in named]
    how = {"files": sources, "columns": dict(columns or {}), "labels": dict(labels or {})}
    run = open_run(
        out, "eval", {"name": name, "data": data, "split": split, "training_seed": training_seed, "imported": how}
    )
    if run.done:
        return run.path
    facts = {
        "format": 1,
        "imported": how,
        "tasks": list(imported.tasks),
        "data": {"sha256": corpus.digest, "split": split},
        "run": {"name": name},
    }
    if imported.tasks == ("de",):
        facts["note"] = f"directions are unknown: the answer {Label.UP} stands for {CHANGES!r}"
    elif imported.tasks == ("de", "dir"):
        facts["note"] = f"some directions are unknown: there the answer {Label.UP} stands for {CHANGES!r}"
    write_predictions(imported.predictions, run.path / PREDICTIONS, facts)
    if len(wrong := imported.contradictions):
        _logger.warning(
            "%s, row %d: the answer is not the likeliest one by the row's own probabilities; %s of %s rows are like "
            "this, so accuracy (of the answers) and AUROC (of the probabilities) do not describe the same predictions",
            wrong["file"].iloc[0], wrong["row"].iloc[0], f"{len(wrong):,}", f"{len(imported.predictions):,}",
        )  # fmt: skip
    if len(imported.unmatched):
        write_text(run.path / UNMATCHED, imported.unmatched.to_csv(index=False))
    run.finish(name=name, imported=[path.name for _, path in named], **_counts(imported))
    return run.path


def _unmatched_error(unmatched: pd.DataFrame, out: Path) -> InputError:
    """List the rows that match no test item in a file, and return an error that names the first."""
    write_text(out / UNMATCHED, unmatched.to_csv(index=False))
    first = unmatched.iloc[0]
    return InputError(
        f"{first['file']}, row {first['row']}: {first['reason']}; {len(unmatched):,} rows do not match, all listed in "
        f"{out / UNMATCHED}; correct them, or leave them out with --allow-unmatched"
    )


def _counts(imported: Imported) -> dict[str, Any]:
    """The counts of an import, for its manifest."""
    frame = imported.predictions
    return {
        "tasks": list(imported.tasks),
        "seeds": sorted({int(seed) for seed in frame["seed"].unique()}),
        "rows": len(frame),
        "items": int(frame["item_id"].nunique()),
        "items_missing": imported.missing,
        "statuses": {str(status): int(count) for status, count in frame["status"].value_counts().items()},
        "unmatched": {str(one): int(count) for one, count in imported.unmatched["reason"].value_counts().items()},
        "contradictions": len(imported.contradictions),
    }
