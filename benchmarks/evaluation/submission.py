"""A submission to track C of the BioReasoning Challenge: what a model predicts of its test pairs, as a zip file.

The format is that of the README of Genentech/BioReasoningChallenge in June 2026: `submission.csv` with `COLUMNS`, each
test id once and no empty cell, and `prompt.txt`.
"""

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.evaluation.predictions import PROBABILITIES, read_facts, read_predictions
from benchmarks.evaluation.run import PREDICT, PREDICTIONS
from benchmarks.evaluation.scores import mean_over_samples
from benchmarks.files import whole_file
from benchmarks.runs import CONFIG, read_manifest, read_stored, refuse_unfinished
from benchmarks.screens.labels import data_source
from benchmarks.screens.table import read_unlabelled
from rewards import LABELS, CheckError, InputError, Label, Status

COLUMNS: Final = ("id", "prediction_up", "prediction_down", "reasoning_trace", "tokens_used", "model_name")
NO_TRACE: Final = "none"  # what the challenge wants where a trace is empty
# The challenge's own examples give an answer that cannot be read the same chance of each label.
_UNREADABLE: Final = 1 / 3
# The challenge divides by `prediction_up + prediction_down`. Smaller than any other sum, it leaves the order as it is.
_LEAST: Final = 1e-300
_UP, _DOWN = LABELS.index(Label.UP), LABELS.index(Label.DOWN)


@dataclass(frozen=True)
class Submission:
    """A submission that was written.

    Attributes:
        path: the zip file.
        rows: number of its rows.
        unreadable: number of rows for which no answer could be read, so that each label has the same chance.
    """

    path: Path
    rows: int
    unreadable: int


def write_submission(run: Path, out: Path) -> Submission:
    """Write the predictions of an evaluation as a submission.

    Args:
        run: folder of an evaluation under the split `official` of the challenge's labels, which tests its pairs
            without labels.
        out: the zip file to write; an earlier one is replaced.

    Returns:
        What was written. The bytes depend on the run alone.

    Raises:
        InputError: the folder holds no such evaluation, it is not finished, it lacks a test pair or has a strange one,
            or all requests for a pair have failed; or `out` is no name of a zip file.
        CheckError: what would be written is no valid submission, or the disk is full.
    """
    if out.suffix.lower() != ".zip" or out.is_dir():
        raise InputError(f"{out}: a submission is a zip file; write --out submission.zip")
    manifest = read_manifest(run)
    if manifest.get("stage") != PREDICT:
        raise InputError(
            f"{run}: a run of {manifest.get('stage')}, not of predictions without labels; evaluate the model with "
            "data: bioreasoning and split: official, and give that folder"
        )
    refuse_unfinished(run, manifest)
    config = read_stored(run / CONFIG, "evaluate again")
    facts, predictions = read_facts(run / PREDICTIONS), read_predictions(run / PREDICTIONS)
    if (template := facts["protocol"]["template"]) != "three_class":
        raise InputError(f"{run}: asked with template: {template}; a submission needs template: three_class")
    source = Path(data_source(config["data"]))
    if not source.is_file():
        raise InputError(f"{run}: was evaluated on {source}, which is not there from here; submit from where it is")
    items = read_unlabelled(source)
    rows, unreadable = _rows(run, predictions, items, model_name(facts["engine"]))
    text = _csv(rows)
    check_submission(text, challenge_ids(items))
    _write_zip(out, {"submission.csv": text, "prompt.txt": _prompt_text(facts, rows)})
    return Submission(out, len(rows), unreadable)


def challenge_ids(items: pd.DataFrame) -> list[str]:
    """Return the challenge's ids of items: `PERT_GENE`."""
    return [f"{pert}_{gene}" for pert, gene in zip(items["pert"], items["gene"], strict=True)]


def model_name(engine: Mapping[str, Any]) -> str:
    """Return the name of a model from an engine's facts, with `-lora` behind it where it has an adapter."""
    return f"{engine['model']}-lora" if engine.get("adapter_sha256") else str(engine["model"])


def check_submission(text: str, ids: Sequence[str]) -> None:
    """Check a submission as the challenge reads it: with `pandas.read_csv`, for which an empty cell or `NA` is missing.

    Args:
        text: of `submission.csv`.
        ids: the N test ids.

    Raises:
        CheckError: a column is missing or strange, a cell is missing, an id is missing, strange or there twice, or a
            prediction is no probability.
    """
    frame = pd.read_csv(io.StringIO(text), dtype={"id": "str"})
    where = "submission.csv"
    if tuple(frame.columns) != COLUMNS:
        raise CheckError(f"{where}: has the columns {', '.join(frame.columns)}, not {', '.join(COLUMNS)}; correct them")
    if (missing := frame.isna()).to_numpy().any():
        row, column = (int(at) for at in np.argwhere(missing.to_numpy())[0])
        raise CheckError(f"{where}, row {row + 2}: {COLUMNS[column]} reads as missing; fill it in")
    if frame["id"].duplicated().any():
        raise CheckError(f"{where}: {frame['id'][frame['id'].duplicated()].iloc[0]} stands there twice; give it once")
    for others, problem in (
        (set(ids) - set(frame["id"]), "is missing"),
        (set(frame["id"]) - set(ids), "is no test id"),
    ):
        if others:
            raise CheckError(f"{where}: {min(others)} {problem} ({len(others):,} such ids); give each test id once")
    p_N2 = frame[["prediction_up", "prediction_down"]].to_numpy(dtype=np.float64)
    total_N = p_N2.sum(axis=1)
    good_N = np.asarray((p_N2 >= 0).all(axis=1) & (total_N > 0) & (total_N <= 1 + 1e-6))
    if not good_N.all():
        row = int(np.flatnonzero(~good_N)[0])
        raise CheckError(
            f"{where}, row {row + 2}: prediction_up and prediction_down are {p_N2[row].tolist()}; give probabilities "
            "with a sum above 0 and at most at 1"
        )


def _rows(run: Path, predictions: pd.DataFrame, items: pd.DataFrame, model: str) -> tuple[pd.DataFrame, int]:
    """Return the rows of a submission in the order of the test pairs, and how many have no readable answer."""
    asked = predictions["item_id"].unique()
    lacking = items[~items["item_id"].isin(asked)]
    if len(lacking):
        raise InputError(
            f"{run}: lacks {len(lacking):,} of {len(items):,} test pairs (first: {lacking['item_id'].iloc[0]}); "
            "evaluate with items: 0 and another --out"
        )
    foreign = np.setdiff1d(asked.astype(str), items["item_id"].astype(str))
    if len(foreign):
        raise InputError(
            f"{run}: predicts {len(foreign):,} pairs that are no test pairs now (first: {foreign[0]}); bring back the "
            "file of test pairs that it was evaluated on"
        )
    samples = predictions.groupby("item_id", sort=False)
    failed = samples["status"].agg(lambda status: bool((status == Status.ERROR.value).all()))
    if failed.any():
        raise InputError(
            f"{run}: all requests have failed for {int(failed.sum()):,} test pairs (first: {failed.idxmax()}); "
            "evaluate again in another folder"
        )
    n_samples = int(predictions["sample"].max()) + 1
    p_NKL = predictions[list(PROBABILITIES)].to_numpy(dtype=np.float64).reshape(len(asked), n_samples, len(LABELS))
    p_NL = mean_over_samples(p_NKL)
    read_N = np.asarray(~np.isnan(p_NL).any(axis=1))
    p_N2 = np.where(read_N[:, None], p_NL[:, [_UP, _DOWN]], _UNREADABLE)
    p_N2 = np.where(p_N2.sum(axis=1, keepdims=True) > 0, p_N2, _LEAST)
    rows = pd.DataFrame(
        {
            "prediction_up": p_N2[:, 0],
            "prediction_down": p_N2[:, 1],
            "reasoning_trace": samples["completion"].agg(_trace).to_numpy(),
            "tokens_used": samples["completion_tokens"].sum().to_numpy(),
        },
        index=pd.Index(asked),
    )
    rows = rows.loc[items["item_id"]].reset_index(drop=True)
    rows.insert(0, "id", challenge_ids(items))
    return rows.assign(model_name=model), int((~read_N).sum())


def _trace(completions: "pd.Series[Any]") -> str:
    """Return what the model wrote about an item: all samples, numbered where there are several."""
    texts = ["" if pd.isna(text) else str(text) for text in completions]
    if len(texts) == 1:
        return texts[0]
    return "\n\n".join(f"Sample {at} of {len(texts)}:\n{text}" for at, text in enumerate(texts, start=1))


def _csv(rows: pd.DataFrame) -> str:
    """Return rows as CSV; a trace that pandas would read as missing becomes `none`."""
    read = pd.read_csv(io.StringIO(_as_csv(rows)))["reasoning_trace"]
    empty = read.isna() | (read.astype("str").str.strip() == "")
    return _as_csv(rows.assign(reasoning_trace=rows["reasoning_trace"].mask(empty.to_numpy(), NO_TRACE)))


def _as_csv(rows: pd.DataFrame) -> str:
    file = io.StringIO()
    # All texts in quotes, since a trace may hold any kind of line end; numbers with all their digits.
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    writer.writerows(zip(*(rows[name].tolist() for name in COLUMNS), strict=True))
    return file.getvalue()


def _prompt_text(facts: Mapping[str, Any], rows: pd.DataFrame) -> str:
    """Return what `prompt.txt` says: how each row was asked, and the whole prompt of the first one."""
    first = facts["run"]["first_prompt"]
    messages = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in first)
    return (
        f"Track C, model {rows['model_name'].iloc[0]}.\n\n"
        "All rows were asked with the same wording and the settings below. A prompt differs in the two genes and, "
        "where the settings name evidence, in the evidence about them, which comes from labelled rows.\n\n"
        f"Settings:\n{json.dumps(facts['protocol'], indent=2, sort_keys=True)}\n\n"
        f"The whole prompt of {rows['id'].iloc[0]}:\n\n{messages}\n"
    )


def _write_zip(out: Path, texts: Mapping[str, str]) -> None:
    with whole_file(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            entry = zipfile.ZipInfo(name)  # its date is 1980, so that the same run gives the same bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text.encode("utf-8", "replace"))
