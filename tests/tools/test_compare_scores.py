"""The table of scores is that of its JSON, and its rows are computed as `eval` computes them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.predictions import PROBABILITIES, write_predictions
from benchmarks.evaluation.scores import average_log_odds
from rewards import LABELS, InputError
from tools.compare_scores import DOCS, MARK, RESULT, measure, read_ways, table

SAMPLES = 4


def predict(seed: int, samples: int, prompt_tokens: int, n: int = 96) -> pd.DataFrame:
    """Items of eight perturbations and twelve genes, with random scores that know something of the label."""
    at = np.arange(n)
    label = np.random.default_rng(0).integers(0, 3, n)
    rng = np.random.default_rng(seed)
    p = rng.dirichlet((0.4, 0.4, 0.4), n * samples)
    p[:, :] = (p + 0.5 * np.eye(3)[label].repeat(samples, axis=0)) / 1.5
    frame = pd.DataFrame({"cell_line": "rpe1", "pert": [f"P{i % 8}" for i in at], "gene": [f"G{i // 8}" for i in at]})
    frame["item_id"] = frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"]
    frame["label"] = [str(LABELS[k]) for k in label]
    frame = frame.loc[frame.index.repeat(samples)].reset_index(drop=True)
    return frame.assign(
        sample=np.tile(np.arange(samples), n), seed=0, completion="x", status="answered", finish_reason="stop",
        answer=[str(LABELS[k]) for k in p.argmax(axis=1)], completion_tokens=10, prompt_tokens=prompt_tokens,
        **dict(zip(PROBABILITIES, p.T, strict=True)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    facts = {"engine": {"name": "none"}, "protocol": {"samples": SAMPLES}}
    for seed, prefix in enumerate(("", "held-out-")):
        for way, samples, tokens in (("greedy", 1, 30), ("sampled", SAMPLES, 30), ("direct", 1, 35)):
            frame = predict(10 * seed + len(way), samples, tokens)
            (path / f"{prefix}{way}").mkdir()
            shown = frame if way == "sampled" else frame[::-1]  # runs need not have one order
            write_predictions(shown, path / f"{prefix}{way}" / "predictions.parquet", facts)
    return path


def test_both_is_computed_from_the_sampled_and_the_direct_run(folder: Path) -> None:
    ways = read_ways(folder)
    p = {way: frame[list(PROBABILITIES)].to_numpy() for way, frame in ways.items()}
    mean = p["sampled"].reshape(-1, SAMPLES, 3).mean(axis=1)
    assert p["both"][::SAMPLES] == pytest.approx(average_log_odds(mean, p["direct"]))
    tokens = {way: frame[["completion_tokens", "prompt_tokens"]].sum() for way, frame in ways.items()}
    assert (tokens["both"] == tokens["sampled"] + tokens["direct"]).all()


def test_runs_of_other_items_are_refused(folder: Path, tmp_path: Path) -> None:
    for way in ("greedy", "sampled", "direct"):
        (tmp_path / way).mkdir()
        frame = predict(1, 1, 30)
        frame["item_id"] = way + frame["item_id"]
        write_predictions(frame, tmp_path / way / "predictions.parquet", {})
    with pytest.raises(InputError, match="have no item in common; evaluate them on the same items"):
        read_ways(tmp_path)


def test_a_row_per_way_with_its_cost(folder: Path) -> None:
    result = measure(folder)
    assert json.loads(json.dumps(result)) == result
    assert (result["items"], result["held_out_items"], result["samples"]) == (96, 96, SAMPLES)
    rows = {row["way"]: row for row in result["rows"]}
    assert rows["greedy"]["minus_greedy"] == {"de_per_gene_auroc": None, "dir_per_gene_auroc": None, "brier": None}
    assert [rows[way]["tokens_written"] for way in ("greedy", "sampled", "direct", "both")] == [10, 40, 10, 50]
    assert [rows[way]["tokens_read"] for way in ("greedy", "sampled", "direct", "both")] == [30, 120, 35, 155]
    assert rows["sampled"]["minus_greedy"]["brier"]["value"] == pytest.approx(
        rows["sampled"]["brier"]["value"] - rows["greedy"]["brier"]["value"]
    )
    lines = table(result).splitlines()
    assert len(lines) == 6
    assert len({line.count("|") for line in lines}) == 1


def test_the_table_of_the_page_is_that_of_the_runs() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert f"{MARK}\n{table(result)}\n{MARK}" in (DOCS / "statistics.md").read_text(encoding="utf-8")


def test_what_the_page_says_of_the_table_holds() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    greedy, *others = result["rows"]
    assert (result["items"], result["held_out_items"]) == (310, 120)
    assert all(row["minus_greedy"]["brier"]["high"] < 0 for row in others)
    assert all(row["minus_greedy"]["de_per_gene_auroc"]["low"] < 0 for row in others)
    assert all(0.09 < row["minus_greedy"]["de_per_gene_auroc"]["value"] < 0.11 for row in others)
    above = [row["way"] for row in others if row["minus_greedy"]["dir_per_gene_auroc"]["low"] > 0]
    assert above == ["both"]
    improved = [row["way"] for row in result["rows"] if row["calibrated"]["brier"]["value"] < row["brier"]["value"]]
    assert improved == ["greedy", "direct", "both"]
    for row in result["rows"]:
        for metric in ("de_per_gene_auroc", "dir_per_gene_auroc"):
            assert row["calibrated"][metric]["value"] == pytest.approx(row[metric]["value"], abs=1e-12)
    assert round(greedy["tokens_written"]) == 64 * round(others[1]["tokens_written"])
