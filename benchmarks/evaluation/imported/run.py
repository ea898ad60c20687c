"""Run folders of predictions made elsewhere."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks.evaluation.imported.answers import CHANGES
from benchmarks.evaluation.imported.columns import named_files
from benchmarks.evaluation.imported.expression import RULE
from benchmarks.evaluation.imported.read import Imported, read_expression, read_imported
from benchmarks.evaluation.predictions import write_predictions
from benchmarks.evaluation.run import PREDICTIONS
from benchmarks.evidence.corpus import Corpus, open_corpus
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
    how = {
        "files": _sources(files, corpus),
        "columns": dict(columns or {}),
        "labels": dict(labels or {}),
    }
    config = {"name": name, "data": data, "split": split, "training_seed": training_seed, "imported": how}
    return _write_run(out, config, imported, corpus, {"unmatched": _by_reason(imported.unmatched)})


def import_expression(
    files: Sequence[str],
    out: Path,
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    control: str | None = None,
    data: str | None = None,
    split: str = "official",
    training_seed: int = 0,
) -> Path:
    """Write predicted changes of expression as a run of stage `eval`; see `benchmarks.evaluation.imported.expression`.

    Args:
        files: `.csv`, `.tsv`, `.parquet` or `.h5ad` files. A file of one cell line that does not tell it is
            `LINE=FILE`.
        out: the run folder.
        name: what reports call the system.
        columns: from `cell_line`, `pert`, `gene`, `change` to names in the files.
        control: name of the unperturbed cells, if the files hold levels of expression.
        data, split: labels and split, whose test items are scored.
        training_seed: seed of the training run.

    Returns:
        The run folder. Its manifest counts the test items without a change by reason (`missing`).

    Raises:
        InputError: see `read_changes`. Also where no test item has a change, or the folder holds a run of another
            configuration.
    """
    check_folder(out)
    corpus = open_corpus(data, split)
    imported, scored = read_expression(files, corpus, columns=columns, control=control, training_seed=training_seed)
    how = {
        "files": _sources(files, corpus),
        "columns": dict(columns or {}),
        "expression": {"control": control, "rule": RULE},
    }
    config = {"name": name, "data": data, "split": split, "training_seed": training_seed, "imported": how}
    told = {
        "missing": scored.missing,
        "unused_perturbations": scored.unused,
        "smallest_change": scored.smallest_change,
    }
    return _write_run(out, config, imported, corpus, told)


def _sources(files: Sequence[str], corpus: Corpus) -> list[dict[str, Any]]:
    """Return path, cell line and hash of each file."""
    return [
        {"file": str(path), "cell_line": line, "sha256": file_sha256(path)} for line, path in named_files(files, corpus)
    ]


def _write_run(
    out: Path, config: Mapping[str, Any], imported: Imported, corpus: Corpus, told: Mapping[str, Any]
) -> Path:
    """Write a run folder; `told` goes into its manifest."""
    run = open_run(out, "eval", config)
    if run.done:
        return run.path
    facts = {
        "format": 1,
        "imported": config["imported"],
        "tasks": list(imported.tasks),
        "data": {"sha256": corpus.digest, "split": config["split"]},
        "run": {"name": config["name"]},
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
    names = [Path(source["file"]).name for source in config["imported"]["files"]]
    run.finish(name=config["name"], screen=corpus.facts(), imported=names, **_counts(imported), **told)
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
        "contradictions": len(imported.contradictions),
    }


def _by_reason(unmatched: pd.DataFrame) -> dict[str, int]:
    return {str(one): int(count) for one, count in unmatched["reason"].value_counts().items()}
