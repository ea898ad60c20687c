"""Evaluation runs refuse what they must: secrets in addresses, and adapters that learnt a test item."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from endpoint_server import RIGHT, Server, chat, error, http

from benchmarks.config import parse_config
from benchmarks.evaluation.predictions import read_predictions
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import PREDICTIONS, EvalArguments, check_unseen, run_evaluation, select_test_items
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.models.folders import write_trained_items
from benchmarks.runs import read_manifest
from benchmarks.screens.splits import apply_split
from rewards import CheckError, InputError


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


@pytest.mark.parametrize("url", ["http://me:planted@localhost:1/v1", "http://localhost:1/v1?key=planted"])
def test_a_server_s_url_with_a_secret_is_refused_and_written_nowhere(tmp_path: Path, url: str) -> None:
    run = tmp_path / "run"
    with pytest.raises(InputError, match="may be secret") as caught:
        run_evaluation(EvalArguments(str(run), "m", engine="openai", base_url=url, data="sample"))
    assert "planted" not in str(caught.value)
    assert not run.exists()


def test_a_line_with_too_few_test_items_is_named(sample: Corpus) -> None:
    counts = sample.test["cell_line"].value_counts()
    line, n = str(counts.idxmin()), int(counts.min())
    protocol = Protocol(items=n + 1, data=sample.digest)
    with pytest.raises(InputError, match=rf"^items \(in each line, here {line}\): {n + 1}, .*; ask for {n} at most$"):
        select_test_items(sample, protocol)
    assert len(select_test_items(sample, replace(protocol, items=n))) == n * len(counts)


def test_an_adapter_that_learnt_a_test_item_is_refused(sample: Corpus, tmp_path: Path) -> None:
    assert check_unseen(tmp_path, sample) is None
    write_trained_items(tmp_path, [*sample.train["item_id"].head(3), sample.train["item_id"].iloc[0]])
    assert check_unseen(tmp_path, sample) == 3
    item = str(sample.test["item_id"].iloc[0])
    write_trained_items(tmp_path, [*sample.train["item_id"].head(3), item])
    with pytest.raises(InputError, match=rf"1 of the 4 items .* under split official, e\.g\. {re.escape(item)}"):
        check_unseen(tmp_path, sample)


def test_an_adapter_of_one_split_is_refused_under_another(sample: Corpus, tmp_path: Path) -> None:
    """Its training items are fit for `official`, but one of them is of the line that is held out."""
    in_rpe1 = sample.train[sample.train["cell_line"] == "rpe1"]["item_id"].iloc[0]
    write_trained_items(tmp_path, [in_rpe1])
    assert check_unseen(tmp_path, sample) == 1
    with pytest.raises(InputError, match="under split holdout:rpe1"):
        held_out = (sample.labels["cell_line"] == "rpe1").map({True: "test", False: "train"})
        check_unseen(tmp_path, replace(sample, split="holdout:rpe1", labels=sample.labels.assign(split=held_out)))


def test_an_adapter_that_knows_a_gene_that_is_held_out_is_refused(
    make_labels: Callable[[int], pd.DataFrame], tmp_path: Path
) -> None:
    """The item is of no test row, and of no training row either: the split leaves it out."""
    labels = make_labels(0)
    corpus = Corpus("small", "holdout:both", apply_split(labels, "holdout:both"))
    crossing = labels[labels["gene"].isin(corpus.test["gene"]) & ~labels["pert"].isin(corpus.test["pert"])]
    write_trained_items(tmp_path, corpus.train["item_id"].head(3))
    assert check_unseen(tmp_path, corpus) == 3
    item = str(crossing["item_id"].iloc[0])
    write_trained_items(tmp_path, [*corpus.train["item_id"].head(3), item])
    with pytest.raises(
        InputError, match=rf"1 of the 4 items .* split holdout:both holds out, e\.g\. {re.escape(item)}"
    ):
        check_unseen(tmp_path, corpus)


def test_a_stopped_evaluation_goes_on_in_another_place_and_with_a_moved_server(
    sample: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def answer(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        nonlocal asked
        asked += 1
        return error(402, "pay") if asked == 9 else http(200, chat(RIGHT.format(reason="so", label="upregulated")))

    def evaluation(folder: Path | str, server: Server) -> EvalArguments:
        keys = {"output_dir": str(folder), "model": "m", "engine": "openai", "base_url": server.url, "data": "sample",
                "items": 4, "chunk": 4, "scores": "votes"}  # fmt: skip
        return parse_config(keys, (), (EvalArguments,))[0]

    monkeypatch.chdir(tmp_path)
    with Server(answer) as server:
        with pytest.raises(CheckError, match="asks for payment"):
            run_evaluation(evaluation("runs/a", server))
        manifest = read_manifest(Path("runs/a"))
        assert manifest["status"] == "failed" and "asks for payment" in manifest["error"]
        stored = len(list(Path("runs/a").rglob("part-*.parquet")))
        assert stored
    Path("runs").rename("moved")
    asked = 100
    with Server(answer) as server:
        for folder in ("./moved/a/", tmp_path / "moved" / "a"):
            path = run_evaluation(evaluation(folder, server))
            assert asked == 116 - 4 * stored
    assert len(read_predictions(path / PREDICTIONS)) == 16
    manifest = read_manifest(path)
    assert manifest["status"] == "done" and manifest["screen"] == open_corpus("sample").facts()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"model": "models/none"}, "models/none: no such model folder"),
        ({"model": "models"}, "models: holds no config.json"),
        ({"adapter": "none"}, "none: no such folder"),
        ({"adapter": "runs/sft"}, "runs/sft: holds no adapter_config.json; did you mean runs/sft/adapter?"),
        ({"output_dir": "a-file/run"}, "a-file: is a file"),
    ],
)
def test_a_wrong_path_is_told_before_anything_is_loaded_or_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keys: dict[str, str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("models", "runs/sft/adapter"):
        Path(folder).mkdir(parents=True)
    Path("runs/sft/adapter/adapter_config.json").write_text("{}")
    Path("a-file").write_text("")
    config = {"output_dir": "run", "model": "org/on-the-hub", "engine": "transformers", "data": "sample", **keys}
    (args,) = parse_config(config, (), (EvalArguments,))
    with pytest.raises(InputError, match=re.escape(problem)):
        run_evaluation(args)
    assert not Path("run").exists()
    assert capsys.readouterr().err == ""  # not even that it loads
