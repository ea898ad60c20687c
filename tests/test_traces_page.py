"""docs/traces.md is true: its commands run in their order, and it names every key, step and column."""

import dataclasses
import random
import re
import shlex
from pathlib import Path
from typing import Any

from command import synthpert
from endpoint_server import RIGHT, Server, chat, http, is_critic, respond_well

from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from rewards import LABELS
from sft.filters.steps import STEPS
from sft.import_traces import COLUMNS
from sft.teacher.arguments import EndpointArguments
from sft.teacher.generate import TraceArguments
from tools.critic_recall import main as critic_recall

REPO = Path(__file__).parents[1]
PAGE = (REPO / "docs" / "traces.md").read_text(encoding="utf-8")
TABLED = {name for cell in re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`([^`]+)`", cell)}
WORDS = [
    "loss", "stress", "folding", "complex", "ribosome", "chromatin", "growth", "arrest", "repair", "export", "signal",
]  # fmt: skip


def test_every_key_is_told() -> None:
    keys = {field.name for one in (TraceArguments, EndpointArguments) for field in dataclasses.fields(one)}
    assert keys <= TABLED


def test_every_column_and_its_other_names_are_told() -> None:
    assert set(COLUMNS) <= TABLED
    assert {name for names in COLUMNS.values() for name in names} <= set(re.findall(r"`(\w+)`", PAGE)) | TABLED


def test_every_step_is_told_as_it_is_written() -> None:
    assert {entry.partition(":")[0] for entry in TABLED} >= set(STEPS)


async def teacher(request: dict[str, Any], headers: dict[str, str]) -> bytes:
    """A teacher who writes at some length and is right on a third; a critic who likes all of it."""
    if is_critic(request):
        return await respond_well(request, headers)
    pick = random.Random(request["messages"][-1]["content"])
    reason = f"Weighing {' '.join(pick.choices(WORDS, k=40))}."
    return http(200, chat(RIGHT.format(reason=reason, label=pick.choice(LABELS))))


def test_the_commands_run_in_their_order(tmp_path: Path) -> None:
    corpus = open_corpus("sample")
    theirs = corpus.train.head(20)[["cell_line", "pert", "gene", "label"]].astype(str)
    theirs["label"] = theirs["label"].replace("upregulated", "up")
    theirs["prompt"] = [one[-1]["content"] for one in build_prompts(corpus.train.head(20), corpus, PromptConfig())]
    theirs["completion"] = [f"<think>so</think><answer>{label}</answer>" for label in corpus.train.head(20)["label"]]
    theirs.rename(columns={"pert": "knockdown"}).to_csv(tmp_path / "theirs.csv", index=False)
    (tmp_path / "configs").symlink_to(REPO / "configs")
    added = {
        "generate": "--data sample --rows 90", "filter": "", "stats": "", "audit": "", "import": "--data sample",
        "eval": "--data sample --items 10", "report": "",
    }  # fmt: skip
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 9
    with Server(teacher) as server:
        for line in lines:
            words = shlex.split(line)
            if words[:3] == ["python", "-m", "tools.critic_recall"]:
                assert critic_recall([server.url if "://" in word else word for word in words[3:]]) == 0
                continue
            assert words[0] == "synthpert"
            command = words[2] if words[1] == "traces" else words[1]
            words += shlex.split(added[command])
            if command == "generate" or (command == "eval" and "--base_url" not in words):
                words += ["--base_url", "http://localhost:8000/v1"]  # the student too is behind it here
            if command == "eval" and "--engine" not in words:
                words += ["--engine", "openai"]
            words = [server.url if word == "http://localhost:8000/v1" else word for word in words]
            done = synthpert(*words[1:], cwd=tmp_path)
            assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    traces = tmp_path / "runs" / "traces"
    assert sum(1 for _ in (traces / "kept.jsonl").open()) >= 9
    assert sum(1 for _ in (traces / "theirs.jsonl").open()) == 20
    page = (tmp_path / "runs" / "teacher-report" / "report.html").read_text(encoding="utf-8")
    assert "different protocols" not in page
