"""The funnel's counts, shares and accuracy, against counting by hand."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Server, error, is_critic, respond_well
from typer.testing import CliRunner

from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from rewards import InputError
from rl.cli import app
from sft.filters.funnel import STAGES, format_funnel, measure_funnel
from sft.filters.run import filter_traces
from sft.filters.steps import read_steps
from sft.teacher.arguments import EndpointArguments
from sft.teacher.generate import TraceArguments, generate_traces
from sft.teacher.template import generate
from sft.traces import read_traces, write_traces


def test_drawn_to_used_per_line_and_label(tmp_path: Path) -> None:
    async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        if not is_critic(request) and sum(request["messages"][-1]["content"].encode()) % 10 == 0:
            return error(400, "no")
        return await respond_well(request, headers)

    path, used = tmp_path / "t.jsonl", tmp_path / "used.jsonl"
    with Server(handler) as server:
        args = TraceArguments(str(path), teacher="m", data="sample", prompt=PromptConfig(), rows=150)
        generate_traces(args, EndpointArguments(base_url=server.url, critics=["c"]))
    filter_traces(path, used, read_steps(["label", {"critic": ["good"]}, {"fraction": 0.5}], 0))
    corpus = open_corpus("sample")
    funnel = measure_funnel(path, corpus, used, ["good"])
    traces = read_traces(path)
    table = funnel.table.set_index(["cell_line", "label"])
    right = [trace for trace in traces if trace.answer == trace.label]
    whole = table.loc[("all", "all")]
    assert [whole[name] for name in STAGES] == [150, len(traces), len(right), len(right), len(read_traces(used))]
    assert 0 < len(right) < len(traces) < 150
    assert whole["drawn_share"] == 150 / len(corpus.train)
    for line, label in ((line, label) for line, label in table.index if "all" not in (line, label)):
        train = corpus.train[(corpus.train["cell_line"] == line) & (corpus.train["label"] == label)]
        row = table.loc[(line, label)]
        assert row["train"] == len(train)
        assert row["correct"] == sum((trace.cell_line, trace.label) == (line, label) for trace in right)
        assert row["correct_share"] == row["correct"] / len(train)
    for name in STAGES:
        cells = [table.loc[(line, "all")][name] for line in ("k562", "rpe1", "hepg2", "jurkat")]
        assert sum(cells) == whole[name]
    accuracy = funnel.accuracy["all"]
    assert accuracy["value"] == len(right) / len(traces)
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert accuracy["n"] == len(traces)
    assert funnel.statuses == {"answered": len(traces), "error": 150 - len(traces)}
    text = format_funnel(funnel)
    assert "teacher accuracy, all: 0." in text
    assert f"{150 - len(traces)} requests failed" in text
    # Of the filtered file itself all answers are right, which says nothing of the teacher.
    filtered = measure_funnel(used, corpus)
    assert filtered.accuracy == {}
    assert any("were filtered (used.jsonl.funnel.json)" in note for note in filtered.notes)


def test_a_teacher_that_was_given_labels_has_no_accuracy_and_no_critic_no_accepted(tmp_path: Path) -> None:
    corpus = open_corpus("sample")
    traces = generate(corpus.train.head(20), corpus, PromptConfig(evidence=1), seed=0)
    path = tmp_path / "t.jsonl"
    write_traces(traces, path)
    funnel = measure_funnel(path, corpus)
    assert not funnel.accuracy
    assert "accepted" not in funnel.table
    assert "used" not in funnel.table
    assert any("rows of the file count as drawn" in note for note in funnel.notes)
    row = next(corpus.test.itertuples())
    item = {name: str(getattr(row, name)) for name in ("item_id", "cell_line", "pert", "gene", "label")}
    write_traces([replace(traces[0], **item)], path)
    with pytest.raises(InputError, match="no training item under split official"):
        measure_funnel(path, corpus)


def test_a_manifest_of_other_traces_is_left_aside_and_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with Server(respond_well) as server:
        args = TraceArguments(str(path), teacher="m", data="sample", prompt=PromptConfig(), rows=30)
        generate_traces(args, EndpointArguments(base_url=server.url))
    corpus = open_corpus("sample")
    assert not any("other traces" in note for note in measure_funnel(path, corpus).notes)
    write_traces(read_traces(path)[:9], path)
    funnel = measure_funnel(path, corpus)
    assert "t.jsonl.manifest.json was written for other traces than these, so it is ignored." in funnel.notes
    assert funnel.table.set_index(["cell_line", "label"]).loc[("all", "all")]["drawn"] == 9


def test_verdicts_and_used_traces_that_are_none_are_refused(tmp_path: Path) -> None:
    corpus = open_corpus("sample")
    traces = generate(corpus.train.head(20), corpus, PromptConfig(evidence=1), seed=0)
    path, used = tmp_path / "t.jsonl", tmp_path / "used.jsonl"
    write_traces(traces[:10], path)
    write_traces(traces[5:11], used)
    with pytest.raises(InputError, match="accept: 'excelent' is no verdict; use some of excellent, good"):
        measure_funnel(path, corpus, accept=["excelent", "good"])
    with pytest.raises(InputError, match=rf"used\.jsonl: {re.escape(traces[10].item_id)} is not in .*t\.jsonl"):
        measure_funnel(path, corpus, used)
    result = CliRunner().invoke(app, ["traces", "stats", str(path), "--accept", "excellent, good", "--data", "sample"])
    assert result.exit_code == 0, result.exception
