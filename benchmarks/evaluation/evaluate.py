"""Evaluation: an engine completes the prompts of items under a protocol, and the results are stored as they come."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks.chat import Message
from benchmarks.evaluation.predictions import COLUMNS, PROBABILITIES, PredictionLog
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.scores import Calibration, Floats, average_log_odds, mean_over_samples
from benchmarks.evidence.prompts import items_for_prompt
from benchmarks.models.engines import Engine, Generation, Request
from benchmarks.models.generation import EMPTY_THOUGHT, Written
from benchmarks.runs import package_versions
from rewards import LABELS, Answer, InputError, Status, parse_answer

_ITEM_COLUMNS: Final = ("item_id", "cell_line", "pert", "gene", "label")


def evaluate(
    engine: Engine,
    items: pd.DataFrame,
    messages: Sequence[Sequence[Message]],
    protocol: Protocol,
    run_dir: Path,
    *,
    seed: int = 0,
    chunk: int = 64,
    calibration: Calibration | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: Callable[[float, int, int], None] | None = None,
) -> Path:
    """Generate, read and store predictions. A run that was stopped can be resumed.

    The rows (item × sample) are divided into fixed chunks. Each chunk is stored durably when it is finished. A resumed
    run forms the same batches as an unbroken one, so both give the same predictions.

    Args:
        engine: the source of completions.
        items: N items: `item_id`, `cell_line`, `pert`, `gene`, `label`.
        messages: N prompts, one per item.
        protocol: decoding, samples, scores and parser; its fingerprint is stored.
        run_dir: the run's folder; `predictions.parquet` is written there.
        seed: distinguishes training runs; stored with each row.
        chunk: rows per chunk, at least 1; a chunk is also the batch given to the engine. Where a score is computed from
            all samples of an item, a chunk holds whole items: the most that fit, and at least one.
        calibration: the model's temperatures, if and only if `protocol.calibration` is set.
        facts: further facts of the run, JSON values without secrets, stored under `run`.
        progress: called with (rows done, all rows, tokens written) at the start, within a chunk and after it. Rows
            being written count as fractions, by their tokens so far and the length expected.

    Returns:
        The path of `predictions.parquet`. If it exists and belongs to the same run, nothing is generated.

    Raises:
        InputError: items and prompts do not match, a prompt exceeds the model's context, or the folder holds
            predictions of a run with other facts (the message names the keys that differ).
        CheckError: the disk is full, or a server cannot be reached; finished chunks stay.
    """
    _check_items(items, messages, protocol, chunk)
    if (protocol.calibration is None) != (calibration is None):
        raise ValueError("give a calibration if and only if the protocol asks for one")
    n_rows = len(items) * protocol.samples
    stored_facts = _facts(engine, items, messages, protocol, seed, chunk, calibration, facts)
    if protocol.whole_items:
        chunk = max(chunk // protocol.samples, 1) * protocol.samples
    with PredictionLog(run_dir, stored_facts) as log:
        if not log.complete:
            _check_context(engine, items, messages, protocol)
            bounds = range(0, n_rows, chunk)
            stored = log.parts()
            before = done = sum(min(chunk, n_rows - start) for number, start in enumerate(bounds) if number in stored)
            tokens = 0
            if progress is not None:
                progress(done, n_rows, 0)
            for number, start in enumerate(bounds):
                if number in stored:
                    continue
                rows = range(start, min(start + chunk, n_rows))  # row = item × samples + sample
                expected = tokens / (done - before) if done > before else float(protocol.max_tokens)

                def written(finished: int, so_far: int) -> None:
                    if progress is not None:
                        share = min(so_far / max(expected, 1.0), float(len(rows)))  # noqa: B023 - called within the turn
                        progress(done + max(finished, share), n_rows, tokens + so_far)  # noqa: B023

                frame, errors = _predict(engine, items, messages, protocol, calibration, seed, rows, written)
                log.append(number, frame, errors)
                done += len(rows)
                tokens += int(frame["completion_tokens"].sum())
                if progress is not None:
                    progress(done, n_rows, tokens)
        return log.finish(n_rows)


def request_seed(protocol: Protocol, item_id: str, sample: int) -> int:
    """Return the sampling seed of one sample; it depends only on the protocol's seed, the item and the sample."""
    digest = hashlib.sha256(f"{protocol.seed}|{item_id}|{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: accepted by every engine


def read_generation(generation: Generation, protocol: Protocol) -> tuple[Answer, tuple[float, float, float]]:
    """Return the answer of a generation, and its three label probabilities.

    Args:
        generation: from an engine.
        protocol: its `parser` and `scores`.

    Returns:
        The answer, and probabilities in the order of `rewards.LABELS`. A text without an answer that the token limit
        cut off is `incomplete`. The probabilities are the engine's; with `scores: votes` the label given has 1, so that
        the mean over samples is the share of votes. They are NaN where the engine has none or the status is not
        `answered`.
    """
    none = (np.nan, np.nan, np.nan)
    if generation.error is not None:
        return Answer(None, Status.ERROR, None), none
    text = generation.text
    answer = parse_answer(text, strict=protocol.parser == "strict")
    if answer.status is not Status.ANSWERED:
        cut = generation.finish_reason == "length" and text is not None and "</answer>" not in text.lower()
        return (Answer(None, Status.INCOMPLETE, answer.think) if cut else answer), none
    if protocol.scores == "votes":
        up, down, unchanged = (float(label is answer.label) for label in LABELS)
        return answer, (up, down, unchanged)
    return answer, generation.probabilities or none


def _predict(
    engine: Engine,
    items: pd.DataFrame,
    messages: Sequence[Sequence[Message]],
    protocol: Protocol,
    calibration: Calibration | None,
    seed: int,
    rows: range,
    written: Written,
) -> tuple[pd.DataFrame, Counter[str]]:
    at = [row // protocol.samples for row in rows]
    samples = [row % protocol.samples for row in rows]
    chosen = items.iloc[at]
    direct: list[Generation] = []
    if protocol.scores in ("direct", "both"):
        direct = engine.answer_directly([messages[item] for item in dict.fromkeys(at)])
    if protocol.scores == "direct":
        generations = direct
    else:
        requests = [
            Request(messages[item], request_seed(protocol, item_id, sample))
            for item, item_id, sample in zip(at, chosen["item_id"], samples, strict=True)
        ]
        generations = engine.generate(requests, protocol, written)
    read = [
        read_generation(generation, protocol)
        for _, generation in zip(rows, generations, strict=True)  # fails if the engine left a request out
    ]
    frame = pd.DataFrame({name: chosen[name].astype("str").to_numpy(dtype=object) for name in _ITEM_COLUMNS})
    frame["sample"] = samples
    frame["seed"] = seed
    frame["completion"] = [generation.text for generation in generations]
    frame["answer"] = [None if answer.label is None else str(answer.label) for answer, _ in read]
    frame["status"] = [str(answer.status) for answer, _ in read]
    p = np.array([probabilities for _, probabilities in read], dtype=np.float64)
    if protocol.whole_items:
        p = _scores_of_items(p, direct, protocol, calibration)
    for column, name in enumerate(PROBABILITIES):
        frame[name] = p[:, column]
    frame["completion_tokens"] = [generation.completion_tokens for generation in generations]
    frame["finish_reason"] = [generation.finish_reason for generation in generations]
    prompt_tokens = [generation.prompt_tokens for generation in generations]
    frame["prompt_tokens"] = pd.array(prompt_tokens, dtype="Int32")
    if protocol.scores == "both":  # the direct answer's tokens are counted with the item's first sample
        first = (frame["sample"] == 0).to_numpy()
        frame.loc[first, "completion_tokens"] += [generation.completion_tokens for generation in direct]
        frame.loc[first, "prompt_tokens"] += [generation.prompt_tokens or 0 for generation in direct]
    errors = Counter(generation.error for generation in generations if generation.error is not None)
    return frame[COLUMNS], errors


def _scores_of_items(
    p: Floats, direct: Sequence[Generation], protocol: Protocol, calibration: Calibration | None
) -> Floats:
    """Compute an item's score from its samples, and give it to each sample that has probabilities.

    Args:
        p: (N x K, 3) probabilities of K samples of each item; NaN where a sample has none.
        direct: N direct answers, with `scores: both`.
        protocol: its `samples` and `scores`.
        calibration: the model's temperatures, if they are wanted.

    Returns:
        (N x K, 3) probabilities, the same for all samples of an item that have any.
    """
    score = mean_over_samples(p.reshape(-1, protocol.samples, len(LABELS)))
    if protocol.scores == "both":
        nothing = (np.nan,) * len(LABELS)
        score = average_log_odds(score, np.array([one.probabilities or nothing for one in direct], dtype=np.float64))
    if calibration is not None:
        score = calibration.apply(score)
    return np.where(np.isnan(p), np.nan, score.repeat(protocol.samples, axis=0))


def _check_items(items: pd.DataFrame, messages: Sequence[Sequence[Message]], protocol: Protocol, chunk: int) -> None:
    missing = [name for name in _ITEM_COLUMNS if name not in items]
    if missing:
        raise InputError(f"items: no column {missing[0]!r}; evaluation needs {', '.join(_ITEM_COLUMNS)}")
    if items.empty:
        raise InputError("items: none given; widen the split or the item subset")
    if len(messages) != len(items):
        raise InputError(f"messages: {len(messages)} prompts for {len(items)} items; pass one each")
    twice = items["item_id"].duplicated()
    if twice.any():
        raise InputError(f"items: {items['item_id'][twice].iloc[0]} occurs twice; remove one of its rows")
    if chunk < 1:
        raise InputError(f"chunk: is {chunk}; it must be at least 1")
    unasked = items[~items["item_id"].isin(items_for_prompt(items, protocol.prompt)["item_id"])]
    if len(unasked):
        raise InputError(
            f"items: {unasked['item_id'].iloc[0]} is {unasked['label'].iloc[0]}, which template: "
            f"{protocol.prompt.template} does not offer as an answer; pass the differentially expressed items only"
        )


def _check_context(
    engine: Engine, items: pd.DataFrame, messages: Sequence[Sequence[Message]], protocol: Protocol
) -> None:
    if engine.context is None:
        return
    begun = len(EMPTY_THOUGHT) if protocol.scores in ("direct", "both") else 0  # more than its tokens
    for item_id, prompt in zip(items["item_id"], messages, strict=True):
        try:
            tokens = engine.prompt_tokens(prompt)
        except InputError as error:
            raise InputError(f"item {item_id}: {error}") from None
        if tokens is not None and tokens + max(protocol.max_tokens, begun) > engine.context:
            raise InputError(
                f"item {item_id}: {tokens} prompt tokens and max_tokens {protocol.max_tokens} exceed the model's "
                f"context of {engine.context}; lower max_tokens or evidence, or raise max_model_len if it is set"
            )


def _facts(
    engine: Engine,
    items: pd.DataFrame,
    messages: Sequence[Sequence[Message]],
    protocol: Protocol,
    seed: int,
    chunk: int,
    calibration: Calibration | None,
    facts: Mapping[str, Any] | None,
) -> dict[str, Any]:
    rows = "\n".join(f"{item}\t{label}" for item, label in zip(items["item_id"], items["label"], strict=True))
    prompts = json.dumps([[dict(message) for message in prompt] for prompt in messages], sort_keys=True)
    return {
        "format": 1,
        "protocol": json.loads(protocol.canonical_json()),
        "protocol_fingerprint": protocol.fingerprint,
        "items": {"n": len(items), "sha256": hashlib.sha256(rows.encode()).hexdigest()},
        "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
        "engine": engine.facts(),
        "scores": {
            "logprobs": "probabilities of the answer's first token, normalised over the labels",
            "direct": "probabilities of the labels' first tokens after an empty thought, normalised over the labels",
            "both": "mean log-odds of the samples' mean (logprobs) and of the answer after an empty thought (direct)",
            "votes": "share of samples that give the label (one-hot per sample)",
        }[protocol.scores],
        "seed": seed,
        "chunk": chunk,
        "packages": package_versions(),
        "run": dict(facts or {}),
        **({} if calibration is None else {"calibration": asdict(calibration)}),
    }
