"""A submission holds what an evaluation predicted of each test pair, in the form that the challenge reads."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from endpoint_server import RIGHT, Server, chat, http

from benchmarks.config import parse_config
from benchmarks.evaluation.run import EvalArguments, run_evaluation
from benchmarks.evaluation.submission import COLUMNS, Submission, check_submission, write_submission
from benchmarks.report.systems import read_runs
from benchmarks.runs import read_manifest
from benchmarks.screens import bioreasoning
from rewards import CheckError, InputError

PAIRS = [("Rprd2", "9930111J21Rik2"), ("Stat1", "Irf1"), ("Stat1", "NA"), ("Myd88", "Il6")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The challenge's two files, made up, with their description."""
    (tmp_path / "train.csv").write_text("id,pert,gene,label\nMyc_Il1b,Myc,Il1b,none\nMyc_Upp1,Myc,Upp1,up\n")
    rows = [f"{pert}_{gene},{pert},{gene}\n" for pert, gene in PAIRS]
    (tmp_path / "test.csv").write_text("id,pert,gene\n" + "".join(rows))
    text = bioreasoning.SHIPPED.read_text().replace(bioreasoning.FOLDER, "")
    (tmp_path / "bioreasoning.yaml").write_text(text)
    return tmp_path / "bioreasoning.yaml"


Predict = Callable[..., Path]


@pytest.fixture
def predict(data: Path, tmp_path: Path) -> Predict:
    """Return a function that evaluates a served model, whose answer is a function of the prompt."""

    def run(answer: Callable[[str], str | None], **keys: Any) -> Path:
        async def handler(request: dict[str, Any], headers: dict[str, str]) -> bytes:
            text = answer(request["messages"][-1]["content"])
            return http(400, b"{}") if text is None else http(200, chat(text))

        with Server(handler) as server:
            config = {
                "output_dir": str(tmp_path / "runs" / "test"), "model": "org/model", "engine": "openai",
                "base_url": server.url, "data": str(data), "evidence": 2, "scores": "votes", **keys,
            }  # fmt: skip
            return run_evaluation(parse_config(config, (), (EvalArguments,))[0])

    return run


def answers(prompt: str) -> str:
    if "Rprd2" in prompt:
        return RIGHT.format(reason='line\rone, "two"\nthree', label="upregulated")
    if "Myd88" in prompt:
        return "I do not know"
    return RIGHT.format(reason="so", label="not differentially expressed" if "Irf1" in prompt else "downregulated")


def content(written: Submission) -> tuple[pd.DataFrame, str]:
    with zipfile.ZipFile(written.path) as archive:
        assert archive.namelist() == ["submission.csv", "prompt.txt"]
        return pd.read_csv(io.BytesIO(archive.read("submission.csv"))), archive.read("prompt.txt").decode()


def test_each_test_pair_gets_the_shares_of_its_samples(predict: Predict, tmp_path: Path) -> None:
    run = predict(answers, samples=2, temperature=1.0)
    assert read_manifest(run)["stage"] == "predict"
    written = write_submission(run, tmp_path / "out" / "submission.zip")
    assert (written.rows, written.unreadable) == (4, 1)
    rows, prompt = content(written)
    assert tuple(rows.columns) == COLUMNS
    assert rows["id"].tolist() == ["Rprd2_9930111J21Rik2", "Stat1_Irf1", "Stat1_NA", "Myd88_Il6"]
    assert rows["prediction_up"].round(3).tolist() == [1, 0, 0, 0.333]
    assert rows["prediction_down"].round(3).tolist() == [0, 0, 1, 0.333]
    assert (rows["prediction_up"] + rows["prediction_down"] > 0).all()  # the challenge divides by it
    assert rows["tokens_used"].tolist() == [40] * 4
    assert set(rows["model_name"]) == {"org/model"}
    trace = rows["reasoning_trace"].iloc[0]
    assert trace.startswith("Sample 1 of 2:\n<think>line") and "Sample 2 of 2:" in trace and 'one, "two"' in trace
    assert "Rprd2 is knocked down by CRISPRi in mouse bone-marrow-derived macrophages" in prompt
    assert '"evidence": 2' in prompt
    again = write_submission(run, tmp_path / "again.zip")
    assert again.path.read_bytes() == written.path.read_bytes()


def test_what_pandas_reads_as_missing_is_none(predict: Predict, tmp_path: Path) -> None:
    texts = {"Rprd2": "", "Irf1": "NA", "Il6": " \n", "Stat1": "null, or none"}
    run = predict(lambda prompt: next(text for gene, text in texts.items() if gene in prompt))
    rows, _ = content(write_submission(run, tmp_path / "submission.zip"))
    assert rows["reasoning_trace"].tolist() == ["none", "none", "null, or none", "none"]


def test_pairs_that_lack_a_prediction_are_named(predict: Predict, tmp_path: Path) -> None:
    run = predict(answers, items=2)
    with pytest.raises(InputError, match=r"lacks 2 of 4 test pairs \(first: bmdm\|.*\); evaluate with items: 0 and an"):
        write_submission(run, tmp_path / "submission.zip")
    assert not (tmp_path / "submission.zip").exists()


def test_a_file_of_test_pairs_that_lost_rows_is_noticed(predict: Predict, tmp_path: Path) -> None:
    run = predict(answers)
    text = (tmp_path / "test.csv").read_text()
    (tmp_path / "test.csv").write_text(text.replace("Stat1_NA,Stat1,NA\n", ""))
    with pytest.raises(
        InputError, match=r"predicts 1 pairs that are no test pairs now \(first: bmdm\|Stat1\|NA\); bring"
    ):
        write_submission(run, tmp_path / "submission.zip")


def test_labels_that_a_relative_name_no_longer_finds_are_named(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = predict(answers, data="bioreasoning.yaml")
    monkeypatch.chdir(run)
    with pytest.raises(
        InputError, match=r"was evaluated on bioreasoning\.yaml, which is not there from here; submit fr"
    ):
        write_submission(run, tmp_path / "submission.zip")


def test_a_failed_request_never_becomes_a_prediction(predict: Predict, tmp_path: Path) -> None:
    run = predict(lambda prompt: None if "Myd88" in prompt else answers(prompt))
    with pytest.raises(InputError, match=r"all requests have failed for 1 test pairs \(first: bmdm\|Myd88\|Il6\)"):
        write_submission(run, tmp_path / "submission.zip")


def test_only_predictions_of_pairs_without_labels_are_submitted(predict: Predict, tmp_path: Path) -> None:
    run = predict(answers)
    with pytest.raises(InputError, match=r"write --out submission\.zip"):
        write_submission(run, tmp_path / "submission.csv")
    with pytest.raises(InputError, match="its items have no labels, so no report can score it"):
        read_runs([run])
    manifest = read_manifest(run)
    (run / "manifest.json").write_text(json.dumps({**manifest, "stage": "eval"}))
    with pytest.raises(InputError, match="a run of eval, not of predictions without labels; evaluate the model with"):
        write_submission(run, tmp_path / "submission.zip")
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    with pytest.raises(InputError, match="is not finished"):
        write_submission(run, tmp_path / "submission.zip")


HEAD = ",".join(COLUMNS)
GOOD = "A_B,0.2,0.3,so,3,m\nA_C,0.1,0,so,3,m\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id,prediction\nA_B,1\n", "has the columns id, prediction, not"),
        (f"{HEAD}\nA_B,0.2,0.3,so,3,m\nA_C,0.1,,so,3,m\n", "row 3: prediction_down reads as missing"),
        (f"{HEAD}\nA_B,0.2,0.3,NA,3,m\nA_C,0.1,0,so,3,m\n", "row 2: reasoning_trace reads as missing"),
        (f"{HEAD}\n{GOOD}A_B,0.2,0.3,so,3,m\n", "A_B stands there twice"),
        (f"{HEAD}\nA_B,0.2,0.3,so,3,m\n", "A_C is missing"),
        (f"{HEAD}\n{GOOD}A_D,0.2,0.3,so,3,m\n", "A_D is no test id"),
        (f"{HEAD}\nA_B,0.8,0.3,so,3,m\nA_C,0.1,0,so,3,m\n", r"row 2: .* are \[0\.8, 0\.3\]; give probabilities"),
        (f"{HEAD}\nA_B,0,0,so,3,m\nA_C,0.1,0,so,3,m\n", "row 2: .* with a sum above 0"),
        (f"{HEAD}\nA_B,-0.1,0.3,so,3,m\nA_C,0.1,0,so,3,m\n", "row 2"),
        (f"{HEAD}\nA_B,inf,0.3,so,3,m\nA_C,0.1,0,so,3,m\n", "row 2"),
    ],
)
def test_what_the_challenge_would_refuse_is_found(text: str, problem: str) -> None:
    check_submission(f"{HEAD}\n{GOOD}", ["A_B", "A_C"])
    with pytest.raises(CheckError, match=problem):
        check_submission(text, ["A_B", "A_C"])
