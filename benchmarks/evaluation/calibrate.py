"""Temperatures of a model, fitted on training perturbations that it was not trained on, and stored with its adapter."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.evaluation.predictions import PROBABILITIES, read_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import (
    EvalArguments,
    ask,
    check_paths,
    check_unseen,
    digests,
    draw_per_line,
    with_run_dtype,
)
from benchmarks.evaluation.scores import Calibration, Floats, fit_calibration, mean_over_samples, write_calibration
from benchmarks.evidence.corpus import Corpus
from benchmarks.evidence.prompts import items_for_prompt, open_prompt_corpus
from benchmarks.keys import to_keys
from benchmarks.models.folders import read_trained_items
from benchmarks.progress import Progress
from benchmarks.runs import open_run
from rewards import LABELS, InputError


def run_calibration(args: EvalArguments) -> tuple[Path, Calibration]:
    """Ask a model about held-out training perturbations, fit its temperatures, and store them with its adapter.

    Args:
        args: an evaluation's configuration. `items` is the number of training items per cell line. The run folder,
            `output_dir`, must not be that of the evaluation.

    Returns:
        The file in the adapter's folder, and the calibration.

    Raises:
        InputError: the configuration, data, model or adapter is bad; or no training perturbation is held out.
        CheckError: the disk is full; what is stored stays.
    """
    if args.adapter is None:
        raise InputError("calibrate: temperatures are stored with an adapter; set adapter")
    if args.protocol.scores == "votes":
        raise InputError("calibrate: scores: votes are shares of answers; set scores: logprobs, direct or both")
    check_paths(args)
    with Progress(f"calibration of {args.name or Path(args.output_dir).name}") as progress:
        progress.phase("loading labels and model")
        adapter = Path(args.adapter)
        corpus = open_prompt_corpus(args.data, args.protocol.split, args.protocol.prompt)
        protocol = replace(args.protocol, data=corpus.digest, calibration=None)
        args = with_run_dtype(replace(args, protocol=protocol))
        trained = check_unseen(adapter, corpus)
        items = held_out_items(corpus, adapter, protocol)
        run = open_run(Path(args.output_dir), "calibrate", to_keys(args), digests(args))
        with run.failures_noted():
            predictions = ask(args, run, corpus, items, protocol, None, trained, progress)
            calibration = calibrate(read_predictions(predictions), json.loads(protocol.canonical_json()))
            path = write_calibration(calibration, adapter)
            run.finish(**asdict(calibration), screen=corpus.facts())
    return path, calibration


def calibrate(predictions: pd.DataFrame, protocol: Mapping[str, Any]) -> Calibration:
    """Fit temperatures to predictions.

    Args:
        predictions: as `read_predictions` returns them, the samples of an item one behind the other.
        protocol: facts to store.

    Raises:
        InputError: too few items have probabilities; see `fit_calibration`.
    """
    items = predictions[predictions["sample"] == 0]
    label = pd.Index([str(label) for label in LABELS]).get_indexer(pd.Index(items["label"].astype(str)))
    return fit_calibration(item_scores(predictions), label, _pairs(items).to_numpy(), protocol)


def item_scores(predictions: pd.DataFrame) -> Floats:
    """Return the (N, 3) score of each of N items: the mean over its samples, which stand one behind the other."""
    p = predictions[list(PROBABILITIES)].to_numpy(dtype=np.float64)
    return mean_over_samples(p.reshape(-1, int(predictions["sample"].max()) + 1, len(LABELS)))


def held_out_items(corpus: Corpus, adapter: Path, protocol: Protocol) -> pd.DataFrame:
    """Return training items of perturbations (in their cell line) of which an adapter was trained on no item.

    Args:
        corpus: labels under the split of the adapter's training.
        adapter: the adapter's folder.
        protocol: its `items` and `item_seed` draw the items; its prompt may leave some out.

    Raises:
        InputError: the folder does not name the items of the training, or no perturbation is held out.
    """
    trained = read_trained_items(adapter)
    if trained is None:
        raise InputError(f"{adapter}: does not name the items it was trained on; train it with this package")
    items = items_for_prompt(corpus.train, protocol.prompt)
    seen = set(_pairs(items)[items["item_id"].astype(str).isin(trained)])
    items = items[~_pairs(items).isin(seen)]
    if items.empty:
        raise InputError(
            f"{adapter}: was trained on every training perturbation; leave some out of the traces and train again"
        )
    return draw_per_line(items, protocol)


def _pairs(items: pd.DataFrame) -> "pd.Series[str]":
    """The cell line and perturbation of each item."""
    return items["cell_line"].astype(str) + "|" + items["pert"].astype(str)
