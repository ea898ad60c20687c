"""The page on a screen of one's own: its description, tables and commands, on a made-up screen."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner
from your_screen import DESCRIPTION, PAGE, write_screen

from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import select_test_items
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from benchmarks.keys import key_fields
from benchmarks.screens.splits import read_split
from benchmarks.screens.table import COLUMNS, LabelTable
from rewards import InputError
from rl.cli import app
from rl.study import read_study
from sft.audit.audit import audit_traces
from sft.traces import read_traces

REPO = Path(__file__).parents[1]
STUDY = REPO / "configs" / "study" / "your-screen.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("screen")
    write_screen(path)
    (path / "configs").symlink_to(REPO / "configs")
    return path


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def commands() -> list[list[str]]:
    blocks = [text for language, text in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL) if not language]
    return [shlex.split(line, comments=True) for line in "".join(blocks).splitlines()]


def test_the_page_goes_from_a_table_to_a_report_in_three_commands() -> None:
    made, stats, study, *_ = commands()
    assert made == ["make", "demo"]
    assert stats[:5] == ["synthpert", "data", "stats", "--data", "screen.yaml"]
    assert study == ["synthpert", "study", str(STUDY.relative_to(REPO))]
    values = yaml.safe_load(STUDY.read_text())
    assert (values["data"], values["split"]) == (stats[4], stats[6])


def test_the_second_command_says_what_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    said = run(*commands()[1][1:])
    assert "look like a date which a spreadsheet made of a gene symbol: 1-Mar. They are kept" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith(("bmdm ", "all "))}
    assert rows["bmdm"][:3] == ["2400", "1920", "480"]  # a fifth of 40 perturbations
    assert rows["all"][:3] == ["12000", "9600", "2400"]
    assert re.search(r"gene rate +2400 +100\.0", said)
    assert re.search(r"cross-line neighbours +0 +0\.0", said)


def test_the_command_for_a_first_look_needs_no_description(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = ["screen.csv" if word == "train.csv" else word for word in commands()[3][1:]]
    said = run(*words)
    left = open_corpus("screen.yaml", "holdout:both").left_out
    assert left == 12000 - 5 * (32 * 48 + 8 * 12)
    assert f"is held out: {left:,}\n" in said
    assert "Columns that are not read: description.\n" in said
    with pytest.raises(InputError, match="label is 'up': no label of ours"):
        open_corpus("screen.csv", "holdout:both")
    with pytest.raises(InputError, match="--map and --label explain a table"):
        run("data", "stats", "--data", "sample", "--label", "up=upregulated")


def test_a_column_split_without_a_test_row_is_said_to_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("screen.csv").write_text("pert,gene,label,split\nA,G,upregulated,train\nB,G,downregulated,train\n")
    assert "no test items, since the column split calls no row test" in run("data", "stats", "--data", "screen.csv")
    with pytest.raises(InputError, match=r"split: 'official' has no test row; use holdout:LINE, holdout:pert"):
        select_test_items(open_corpus("screen.csv"), Protocol())


def test_a_spreadsheet_s_own_format_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    (tmp_path / "screen.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"screen\.xlsx: \.xlsx is not read; save it as \.csv"):
        open_corpus(tmp_path / "screen.xlsx", "holdout:genes")


def test_the_study_s_stages_read_the_screen(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    stages = read_study(STUDY).stages
    assert {stage.kind for stage in stages} == {"traces", "sft", "grpo", "eval"}
    for stage in stages:
        assert stage.values["data"] == "screen.yaml"
        if stage.kind != "sft":  # it takes the split of its traces
            assert stage.values["split"] == "holdout:perturbations"


def test_traces_of_the_screen_are_made_and_audited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    words = ["--data", "screen.yaml", "--split", "holdout:K562", "--rows", "30", "--out", "runs/traces.jsonl"]
    run("traces", "generate", "--config", "configs/demo/traces.yaml", *words)
    said = run("traces", "audit", "runs/traces.jsonl", "--data", "screen.yaml")
    assert "ok    no item is of the held-out line K562: 0 of 30 fail" in said
    traces = read_traces(Path("runs/traces.jsonl"))
    texts = [trace.prompt[-1]["content"] for trace in traces if trace.cell_line == "bmdm"]
    assert texts
    assert all(" in mouse bone-marrow-derived macrophages. What" in text for text in texts)
    audit = audit_traces(traces, open_corpus("screen.yaml", "holdout:genes"))
    assert not audit.clean


@pytest.mark.parametrize("split", ["holdout:perturbations", "holdout:genes", "holdout:both", "holdout:line 4"])
def test_no_test_label_moves_a_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    monkeypatch.chdir(folder)
    corpus = open_corpus("screen.yaml", split)
    other = pd.read_csv("screen.csv", dtype=str, keep_default_na=False)
    train = set(corpus.train["item_id"])
    item = other["cell_line"] + "|" + other["pert"] + "|" + other["gene"]
    other["label"] = other["label"].where(item.isin(train), "down")
    other.to_csv("other.csv", index=False)
    Path("other.yaml").write_text(DESCRIPTION.replace("screen.csv", "other.csv"))
    changed = open_corpus("other.yaml", split)
    assert (corpus.test["label"].to_numpy() != changed.test["label"].to_numpy()).mean() > 0.5
    items = pd.concat([corpus.test, corpus.train]).iloc[::23]
    config = PromptConfig(evidence=3)
    assert build_prompts(items, corpus, config) == build_prompts(items, changed, config)


def test_repeated_and_contradictory_rows_of_the_screen(tmp_path: Path) -> None:
    write_screen(tmp_path, "Pert1,Gene1,up,bmdm,", "Pert1,Gene1,down,bmdm,", "Pert2,Gene2,up,K562,")
    with pytest.raises(InputError, match=r"screen\.csv, row 12002: Pert1 and Gene1 in bmdm stand also in row 185"):
        open_corpus(tmp_path / "screen.yaml", "holdout:genes")
    for duplicates in ("majority", "drop"):
        (tmp_path / "screen.yaml").write_text(f"{DESCRIPTION}duplicates: {duplicates}\n")
        corpus = open_corpus(tmp_path / "screen.yaml", "holdout:genes")
        assert 11998 <= len(corpus.labels) <= 12000
        assert corpus.screen.notes[-1].startswith("Rows that repeat a pair: 3.")


def test_the_page_lists_every_key_column_and_split() -> None:
    def first_cells(begin: str, end: str) -> list[str]:
        return re.findall(r"^\| `(\w+)` \|", PAGE.split(begin)[1].split(end)[0], re.MULTILINE)

    keys = key_fields(LabelTable)
    assert set(first_cells("### Keys", "To look at")) == set(keys)
    assert first_cells("## What a table holds", "A table whose") == ["pert", "gene", "label", "cell_line", "split"]
    for mapping in re.findall(r"`(\{.*?\})` \|$", PAGE, re.MULTILINE):
        assert set(yaml.safe_load(mapping)) <= set(COLUMNS), mapping
    for split in re.findall(r"`(official|holdout:[^`]+)`", PAGE):
        assert read_split(split).name == split
