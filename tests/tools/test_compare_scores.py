"""The table of scores is that of its JSON, and its rows are computed as `eval` computes them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.predictions import PROBABILITIES, write_predictions
from benchmarks.evaluation.scores import average_log_odds
from rewards import LABELS, InputError
from tools.compare_scores import DOCS, RANKS, RESULT, TABLES, WAYS, measure, read_ways, with_tables

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


def test_both_is_computed_from_a_run_with_reasoning_and_the_direct_run(folder: Path) -> None:
    ways = read_ways(folder)
    p = {way: frame[list(PROBABILITIES)].to_numpy() for way, frame in ways.items()}
    mean = p["sampled"].reshape(-1, SAMPLES, 3).mean(axis=1)
    assert p["both_sampled"][::SAMPLES] == pytest.approx(average_log_odds(mean, p["direct"]))
    assert p["both_greedy"] == pytest.approx(average_log_odds(p["greedy"], p["direct"]))
    tokens = {way: frame[["completion_tokens", "prompt_tokens"]].sum() for way, frame in ways.items()}
    for way in ("greedy", "sampled"):
        assert (tokens[f"both_{way}"] == tokens[way] + tokens["direct"]).all()


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
    assert rows["greedy"]["minus_greedy"] == dict.fromkeys((*RANKS, "brier"))
    assert [rows[way]["tokens_written"] for way in WAYS] == [10, 10, 20, 40, 50]
    assert [rows[way]["tokens_read"] for way in WAYS] == [30, 35, 65, 120, 155]
    assert rows["sampled"]["minus_greedy"]["brier"]["value"] == pytest.approx(
        rows["sampled"]["brier"]["value"] - rows["greedy"]["brier"]["value"]
    )
    for table in TABLES.values():
        lines = table({"one": result, "another": result}).splitlines()
        assert len(lines) == 2 + 2 * len(WAYS)
        assert len({line.count("|") for line in lines}) == 1


def test_what_items_do_not_tell_is_a_dash(folder: Path, tmp_path: Path) -> None:
    for run in folder.iterdir():
        frame = pd.read_parquet(run / "predictions.parquet")
        frame["gene"] = frame["item_id"]  # no gene has two items
        (tmp_path / run.name).mkdir()
        write_predictions(frame, tmp_path / run.name / "predictions.parquet", {"engine": {}, "protocol": {}})
    result = measure(tmp_path)
    greedy, direct, *_ = TABLES["<!-- scores: ranks -->"]({"one": result}).splitlines()[2:]
    assert [cell.strip() for cell in direct.split("|")[3:7]] == ["–", "", "–", ""]
    assert greedy.split("|")[10].strip() == "" != direct.split("|")[10].strip()


def test_the_tables_of_the_page_are_those_of_the_runs() -> None:
    page = (DOCS / "statistics.md").read_text(encoding="utf-8")
    assert with_tables(page, json.loads(RESULT.read_text(encoding="utf-8"))) == page


def test_what_the_page_says_of_the_tables_holds() -> None:
    models = json.loads(RESULT.read_text(encoding="utf-8"))
    assert {name: (one["items"], one["held_out_items"]) for name, one in models.items()} == {
        "demo": (310, 120),
        "GRPO": (400, 120),
    }
    rows = {(name, row["way"]): row for name, one in models.items() for row in one["rows"]}
    gains = {
        (name, metric): rows[name, "both_greedy"]["minus_greedy"][metric]["low"] > 0
        for name in models
        for metric in ("de_auroc", "dir_auroc")
    }
    assert gains == {
        ("demo", "de_auroc"): True,
        ("GRPO", "de_auroc"): True,
        ("demo", "dir_auroc"): False,
        ("GRPO", "dir_auroc"): True,
    }
    demo = [row for (name, way), row in rows.items() if name == "demo" and way != "greedy"]
    for metric in ("de_per_gene_auroc", "dir_per_gene_auroc"):
        assert all(row["minus_greedy"][metric]["low"] < 0 < row["minus_greedy"][metric]["high"] for row in demo)
    assert all(row["minus_greedy"]["de_per_gene_auroc"]["value"] > 0 for row in demo)
    for name in models:
        for metric in ("de_auroc", "dir_auroc"):
            one, other = (rows[name, way][metric]["value"] for way in ("direct", "both_greedy"))
            assert one > other - 0.006
        brier = {way: row["brier"]["value"] for (of, way), row in rows.items() if of == name}
        assert min(brier, key=lambda way: brier[way]) == "both_sampled"
        calibrated = {way: row["calibrated"]["brier"]["value"] for (of, way), row in rows.items() if of == name}
        assert all(calibrated[way] < brier[way] for way in ("greedy", "both_greedy", "direct"))
    assert rows["demo", "sampled"]["calibrated"]["brier"]["value"] > rows["demo", "sampled"]["brier"]["value"]
    for row in rows.values():
        for metric in RANKS:
            # A temperature can part scores that are all but 1, and so were equal.
            assert row["calibrated"][metric]["value"] == pytest.approx(row[metric]["value"], abs=0.003)
    assert round(rows["demo", "greedy"]["above_99"], 2) == 0.9
