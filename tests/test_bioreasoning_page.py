"""The commands of docs/bioreasoning.md, on made-up files in the challenge's format; training is in tests/slow."""

import json
import re
import shlex
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from challenge import NEW_GENES, NEW_PERTS, write_challenge
from command import synthpert
from endpoint_server import RIGHT, Server, chat, http

from benchmarks.config import parse_config, read_yaml
from benchmarks.evidence.corpus import open_corpus
from benchmarks.screens import bioreasoning
from sft.teacher.arguments import EndpointArguments
from sft.teacher.generate import TraceArguments

REPO = Path(__file__).parents[1]
PAGE = (REPO / "docs" / "bioreasoning.md").read_text(encoding="utf-8")
REFERENCE = ["--evidence_from", "reference.csv"]  # in place of PerturbQA, which tests need not have


def told(begin: str) -> list[str]:
    """Return the words of the page's first command that begins like this, without `synthpert`."""
    lines = [line for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    return shlex.split(next(line for line in lines if line.startswith(begin)), comments=True)[1:]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, which is home too, with the configurations and the published files, not yet fetched."""
    monkeypatch.setattr(
        bioreasoning, "FILES", replace(bioreasoning.FILES, sha256=write_challenge(tmp_path / "published"))
    )
    (tmp_path / "published" / "reference.csv").rename(tmp_path / "reference.csv")
    (tmp_path / "configs").symlink_to(REPO / "configs")
    return tmp_path


def run(folder: Path, *words: Any) -> str:
    done = synthpert(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def answer(request: dict[str, Any], headers: dict[str, str]) -> bytes:
    text = str(request["messages"][-1]["content"]).splitlines()[4]
    label = ("upregulated", "downregulated", "not differentially expressed")[len(text) % 3]
    return http(200, chat(RIGHT.format(reason="so", label=label)))


def test_from_download_to_traces_and_from_predictions_to_a_submission(folder: Path) -> None:
    said = run(folder, *told("synthpert data fetch bioreasoning"), "--source", "published")
    assert "400 items; every file is as published" in said
    said = run(folder, *told("synthpert data stats"))
    assert "rows left out, since only one of perturbation and gene is held out: 128" in said
    run(folder, *told("synthpert traces generate"), "--rows", 30, *REFERENCE)
    said = run(folder, *told("synthpert traces audit"))
    assert "LEAK" not in said
    traces = [json.loads(line) for line in (folder / "runs/bioreasoning/traces.jsonl").read_text().splitlines()]
    asked = traces[0]["prompt"][-1]["content"]
    assert "in mouse bone-marrow-derived macrophages" in asked and "Similar knockdowns on genes that respond" in asked
    final = told("synthpert eval --config configs/bioreasoning/smollm2-135m/eval.yaml --split official")
    del final[final.index("--adapter") : final.index("--adapter") + 2]  # a server has none of ours
    with Server(answer) as server:
        served = ["--engine", "openai", "--base_url", server.url, "--model", "org/model", "--scores", "votes"]
        run(folder, *final, *served, *REFERENCE)
    said = run(folder, *told("synthpert submit"))
    assert "submission.zip: 6 rows, checked as the challenge reads them" in said
    with zipfile.ZipFile(folder / "submission.zip") as archive, archive.open("submission.csv") as file:
        rows = pd.read_csv(file)
    assert rows["id"].tolist() == [f"{pert}_{gene}" for pert in NEW_PERTS for gene in NEW_GENES]


def test_a_real_teacher_is_asked_the_items_of_the_offline_one() -> None:
    real, offline = (
        parse_config(REPO / words[3], words[4:], (TraceArguments, EndpointArguments))[0]
        for words in (told("synthpert traces generate --config configs/traces/"), told("synthpert traces generate"))
    )
    for key in ("data", "split", "rows", "balance", "seed", "prompt"):
        assert getattr(real, key) == getattr(offline, key), key


def test_the_page_s_counts_are_those_of_the_files(bioreasoning_files: Path, tmp_path: Path) -> None:
    data = bioreasoning.fetch(bioreasoning_files, tmp_path) / "bioreasoning.yaml"
    corpora = [open_corpus(data, f"holdout:both,fold={fold}/5") for fold in range(1, 6)]
    first, n_tests = corpora[0], sum(len(corpus.test) for corpus in corpora)
    up, down, none = (int((first.test["label"] == label).sum()) for label in first.test["label"].cat.categories)
    for words in (
        f"neither is held out | {len(first.train):,} |",
        f"both are held out | {len(first.test)} ({up} up, {down} down, {none} none) |",
        f"is held out | {first.left_out:,} |",
        f"{len(first.test)} rows of {first.test['pert'].nunique()} perturbations are few. All five folds together have "
        f"{n_tests:,}",
    ):
        assert words in PAGE
    rarest, folder = int(first.train["label"].value_counts().min()), REPO / "configs" / "bioreasoning"
    n_traces = read_yaml(folder / "traces.yaml")["rows"]
    for model in ("qwen3-4b", "smollm2-135m"):  # both stages draw as many of each label, and no row twice
        assert n_traces + read_yaml(folder / model / "grpo.yaml")["train_items"] <= 3 * rarest
