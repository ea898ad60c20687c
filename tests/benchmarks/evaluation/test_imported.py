"""Predictions from elsewhere: what files of other systems look like, what they can say, and what does not match."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.imported import import_run, read_imported
from benchmarks.evaluation.predictions import check_predictions, read_facts, read_predictions
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.runs import read_manifest
from rewards import InputError

UP, DOWN, NONE = "upregulated", "downregulated", "not differentially expressed"
P = ["p_up", "p_down", "p_none"]
CORPUS = Corpus(
    "labels",
    "official",
    pd.DataFrame(
        {
            "item_id": ["rpe1|AARS|NA", "rpe1|AARS|1-Mar", "k562|TP53|CALR", "rpe1|AARS|TRAINED"],
            "cell_line": ["rpe1", "rpe1", "k562", "rpe1"],
            "pert": ["AARS", "AARS", "TP53", "AARS"],
            "gene": ["NA", "1-Mar", "CALR", "TRAINED"],
            "label": [UP, DOWN, NONE, UP],
            "split": ["test", "test", "test", "train"],
        }
    ),
)


def write_csv(path: Path, header: str, *rows: str) -> str:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(path)


def write_jsonl(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- files as other systems write them --------------------------------------------------------------------------------


def test_an_aroma_file_one_line_each_with_the_answer_in_the_text(tmp_path: Path) -> None:
    def output(text: str) -> str:
        return f"<think>First,\nsecond.</think>\n<answer>{text}</answer>"

    rpe1 = write_jsonl(
        tmp_path / "inference_results_RPE1.jsonl",
        {"pert": "AARS", "gene": "NA", "gold_label": 2, "model_output": output("upregulated")},
        {"pert": "AARS", "gene": "1-Mar", "error": "CUDA out of memory"},
    )
    k562 = write_jsonl(
        tmp_path / "inference_results_K562.jsonl",
        {"pert": "TP53", "gene": "CALR", "gold_label": 0, "model_output": output("not significantly changed")},
    )
    imported = read_imported(
        [f"RPE1={rpe1}", f"k562={k562}"], CORPUS,
        columns={"completion": "model_output"}, labels={"not significantly changed": NONE},
    )  # fmt: skip
    frame = imported.predictions
    check_predictions(frame)
    assert list(frame["item_id"]) == ["rpe1|AARS|NA", "rpe1|AARS|1-Mar", "k562|TP53|CALR"]
    assert list(frame["status"]) == ["answered", "error", "answered"]
    assert list(frame["answer"].fillna("")) == [UP, "", NONE]
    assert frame["completion"][0] == output("upregulated")
    assert frame[P].isna().all(axis=None)
    assert imported.tasks == ("three_class", "de", "dir")
    assert imported.missing == 0


@pytest.mark.parametrize(
    "text",
    ["up, or not", "not upregulated", "", "upregulated</answer> <answer>downregulated", "<answer>upregulated</answer>"],
)
def test_a_text_that_gives_no_one_answer_is_malformed(tmp_path: Path, text: str) -> None:
    row = {"pert": "AARS", "gene": "NA", "cell_line": "rpe1", "completion": f"<answer>{text}</answer>"}
    frame = read_imported([write_jsonl(tmp_path / "f.jsonl", row)], CORPUS).predictions
    assert list(frame["status"]) == ["malformed"]
    assert frame["answer"].isna().all()


def test_an_rbio_file_answers_differential_expression_alone(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "rbio.csv",
        "prompt,completion,answer,binary_answer,ground_truth,gene_perturbed,gene_monitored",
        '"a prompt\nof two lines",x,yes,1,1,AARS,NA',
        "a,x,no,0,1,AARS,1-Mar",
    )
    other = write_csv(
        tmp_path / "k.csv", "completion,answer,binary_answer,gene_perturbed,gene_monitored", "x,?,-1,TP53,CALR"
    )
    imported = read_imported(
        [f"rpe1={file}", f"k562={other}"], CORPUS,
        columns={"pert": "gene_perturbed", "gene": "gene_monitored", "answer": "binary_answer"},
        labels={"1": "differentially expressed", "0": NONE, "-1": "no answer"},
    )  # fmt: skip
    assert imported.tasks == ("de",)
    assert list(imported.predictions["status"]) == ["answered", "answered", "malformed"]
    assert list(imported.predictions["answer"].fillna("")) == [UP, NONE, ""]
    assert imported.predictions[P].isna().all(axis=None)


def test_a_summer_file_with_one_score_answers_differential_expression_alone(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "summer-rpe1.csv", "answer,binary_answer,gene_perturbed,gene_monitored", "0.7,1,AARS,NA",
        "0.2,0,AARS,1-Mar",
    )  # fmt: skip
    imported = read_imported(
        [f"rpe1={file}"], CORPUS, columns={"pert": "gene_perturbed", "gene": "gene_monitored", "p_de": "answer"}
    )
    frame = imported.predictions
    assert imported.tasks == ("de",)
    np.testing.assert_allclose(1 - frame["p_none"], [0.7, 0.2])
    np.testing.assert_array_equal(frame["p_up"], frame["p_down"])  # nothing is said of the direction
    assert list(frame["answer"]) == [UP, NONE]
    assert imported.missing == 1


def test_both_scores_give_three_probabilities_and_both_answers(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "f.csv", "pert,gene,cell_line,p_de,p_dir", "AARS,NA,rpe1,0.6,0.5", "AARS,1-Mar,rpe1,0,0.1",
        "TP53,CALR,k562,1,0.25",
    )  # fmt: skip
    imported = read_imported([file], CORPUS)
    frame = imported.predictions
    check_predictions(frame)
    assert imported.tasks == ("three_class", "de", "dir")
    np.testing.assert_allclose(1 - frame["p_none"], [0.6, 0, 1], atol=1e-8)
    np.testing.assert_allclose(
        frame["p_up"] / (frame["p_up"] + frame["p_down"]), [0.5, 0.1, 0.25]
    )  # even where p_de is 0
    assert list(frame["answer"]) == [UP, NONE, DOWN]  # a change is likelier than none, though no single label is


def test_a_direction_score_alone_is_asked_of_what_changes(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "f.csv", "pert,gene,cell_line,p_dir", "AARS,NA,rpe1,0.8", "AARS,1-Mar,rpe1,0.3", "TP53,CALR,k562,0.5"
    )
    imported = read_imported([file], CORPUS)
    assert imported.tasks == ("dir",)
    assert list(imported.predictions["answer"]) == [UP, DOWN]
    assert list(imported.unmatched["reason"]) == ["not differentially expressed, so it has no direction"]
    assert imported.missing == 0


def test_answers_without_direction_take_it_from_the_direction_score(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "f.csv", "pert,gene,cell_line,answer,p_de,p_dir", "AARS,NA,rpe1,YES,0.4,0.9",
        "AARS,1-Mar,rpe1,no,0.3,0.2",
    )  # fmt: skip
    labels = {"yes": "differentially expressed", "no": NONE}
    imported = read_imported([file], CORPUS, labels=labels)
    assert imported.tasks == ("three_class", "de", "dir")
    assert list(imported.predictions["answer"]) == [UP, NONE]


def test_answers_from_a_windows_csv_with_other_column_names(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_bytes(
        b"\xef\xbb\xbfpert,gene,cell_type,generated_answer\r\n"
        b"TP53,CALR,K562,upregulated\r\nAARS,NA,RPE1,Upregulated\r\nAARS,1-Mar,RPE1,\r\n"
    )
    columns = {"cell_line": "cell_type", "answer": "generated_answer"}
    frame = read_imported([str(path)], CORPUS, columns=columns, training_seed=3).predictions
    assert list(frame["item_id"]) == ["k562|TP53|CALR", "rpe1|AARS|NA", "rpe1|AARS|1-Mar"]
    assert list(frame["label"]) == [NONE, UP, DOWN]
    assert list(frame["status"]) == ["answered", "answered", "malformed"]
    assert set(frame["seed"]) == {3}
    assert frame["p_up"].isna().all()
    check_predictions(frame)


def test_scores_from_jsonl_and_parquet(tmp_path: Path) -> None:
    rows = [
        {"pert": "AARS", "gene": "NA", "cell_line": "rpe1", "p_up": 0.2, "p_down": 0.1, "p_none": 0.698},
        {"pert": "AARS", "gene": "1-Mar", "cell_line": "rpe1", "p_up": None, "p_down": None, "p_none": None},
    ]
    frame = read_imported([write_jsonl(tmp_path / "theirs.jsonl", *rows)], CORPUS).predictions
    assert frame["answer"].iloc[0] == NONE
    assert list(frame["status"]) == ["answered", "malformed"]
    assert frame[P].iloc[0].sum() == pytest.approx(1.0, abs=1e-12)
    pd.DataFrame(rows).to_parquet(tmp_path / "theirs.parquet")
    again = read_imported([str(tmp_path / "theirs.parquet")], CORPUS).predictions
    pd.testing.assert_frame_equal(again, frame)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("AARS,1-Mar,rpe1,up", "row 3: answer 'up' is no label; .*--label 'up=LABEL'"),
        ("AARS,1-Mar,rpe1,not upregulated", "row 3: answer 'not upregulated' is no label"),
        ("AARS,NA,rpe1,upregulated", "row 3: an earlier row has this item, sample and seed"),
        ("AARS,1-Mar,rpe1", "row 3: row has fewer values than the header"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, row: str, problem: str) -> None:
    file = write_csv(tmp_path / "theirs.csv", "pert,gene,cell_line,answer", "AARS,NA,rpe1,upregulated", row)
    with pytest.raises(InputError, match=problem):
        read_imported([file], CORPUS)


@pytest.mark.parametrize(
    ("header", "scores", "problem"),
    [
        ("p_up,p_down,p_none", "0.5,0.5,0.5", "add up to 1"),
        ("p_up,p_down,p_none", "-1,1,1", "p_up is not within 0 and 1"),
        ("p_up,p_down,p_none", "high,0,0", "p_up is not a number"),
        ("p_up,p_down,p_none", "1,0,", "some of the three scores"),
        ("p_de", "1.5", "p_de is not within"),
        ("answer,sample", "upregulated,1.5", "sample is not a whole number"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, header: str, scores: str, problem: str) -> None:
    file = write_csv(tmp_path / "theirs.csv", f"pert,gene,cell_line,{header}", f"AARS,NA,rpe1,{scores}")
    with pytest.raises(InputError, match=f"row 2: .*{problem}"):
        read_imported([file], CORPUS)


@pytest.mark.parametrize(
    ("header", "columns", "problem"),
    [
        ("pert,gene,answer", {}, "no column 'cell_line'; map it, or give LINE="),
        ("knockdown,gene,cell_line,answer", {}, "no column 'pert'; map it, --map pert=THEIRS .it has knockdown"),
        ("pert,gene,cell_line", {}, "has no answer, completion or scores"),
        ("pert,gene,cell_line,p_up", {}, "some of p_up, p_down, p_none, but not all"),
        ("pert,gene,cell_line,p_up,p_down,p_none,p_de", {}, "map only one kind"),
        ("pert,gene,cell_line,answer", {"answer": "reply"}, r"no column 'reply' \(for answer\)"),
        ("pert,gene,cell_line,answer", {"prediction": "answer"}, "'prediction' is unknown"),
    ],
)
def test_columns_that_are_missing(tmp_path: Path, header: str, columns: dict[str, str], problem: str) -> None:
    file = write_csv(tmp_path / "theirs.csv", header, ",".join("x" for _ in header.split(",")))
    with pytest.raises(InputError, match=problem):
        read_imported([file], CORPUS, columns=columns)


def test_a_label_that_means_nothing_is_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "f.csv", "pert,gene,cell_line,answer", "AARS,NA,rpe1,up")
    with pytest.raises(InputError, match="'up' means 'higher'; use one of 'upregulated'"):
        read_imported([file], CORPUS, labels={"up": "higher"})


def test_answers_with_and_without_direction_are_not_mixed(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "f.csv", "pert,gene,cell_line,answer", "AARS,NA,rpe1,upregulated", "AARS,1-Mar,rpe1,yes"
    )
    with pytest.raises(InputError, match="row 3: .*other rows have a direction"):
        read_imported([file], CORPUS, labels={"yes": "differentially expressed"})


def test_files_that_are_not_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_imported([str(tmp_path / "none.csv")], CORPUS)
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(InputError, match=r"empty\.csv: the file is empty"):
        read_imported([str(empty)], CORPUS)
    with pytest.raises(InputError, match="holds no rows"):
        read_imported([write_csv(tmp_path / "f.csv", "pert,gene,cell_line,answer")], CORPUS)
    pickled = tmp_path / "p.pkl"
    pickled.write_bytes(pickle.dumps(CORPUS.labels))
    with pytest.raises(InputError, match="pickles can run code and are never opened"):
        read_imported([str(pickled)], CORPUS)


# --- what does not match, and the run folder --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


def foreign(path: Path, items: pd.DataFrame, *more: dict[str, str]) -> str:
    rows = items[["pert", "gene", "cell_line"]].astype(str).assign(answer=UP)
    pd.concat([rows, pd.DataFrame(list(more))]).to_csv(path, index=False)
    return str(path)


def test_rows_that_match_nothing_are_an_error_with_a_list(tmp_path: Path, sample: Corpus) -> None:
    trained = sample.train.iloc[0]
    more = [
        {"pert": "AARS", "gene": "NOGENE", "cell_line": "rpe1", "answer": UP},
        {"pert": "AARS", "gene": "CALR", "cell_line": "hela", "answer": UP},
        {key: str(trained[key]) for key in ("pert", "gene", "cell_line")} | {"answer": UP},
    ]
    file, out = foreign(tmp_path / "f.csv", sample.test, *more), tmp_path / "run"
    first = len(sample.test) + 2
    with pytest.raises(
        InputError, match=rf"row {first}: the sample has no such .* 3 rows .*unmatched\.csv.*--allow-un"
    ):
        import_run([file], out, name="other", data="sample")
    listed = pd.read_csv(out / "unmatched.csv")
    assert list(listed["row"]) == [first, first + 1, first + 2]
    assert list(listed["gene"]) == ["NOGENE", "CALR", str(trained["gene"])]
    assert [reason[:20] for reason in listed["reason"]] == [
        "the sample has no su", "the cell line is non", "a training item unde",
    ]  # fmt: skip

    run = import_run([file], out, name="other", data="sample", allow_unmatched=True)
    manifest = read_manifest(run)
    assert (manifest["stage"], manifest["status"], manifest["name"]) == ("eval", "done", "other")
    assert sum(manifest["unmatched"].values()) == 3
    assert len(pd.read_csv(run / "unmatched.csv")) == 3
    assert manifest["rows"] == manifest["items"] == len(sample.test)
    assert manifest["items_missing"] == 0


def test_an_imported_run_says_what_it_is(tmp_path: Path, sample: Corpus) -> None:
    file = foreign(tmp_path / "f.csv", sample.test.iloc[:-7])
    run = import_run([file], tmp_path / "run", name="other", data="sample", training_seed=2)
    assert not (run / "unmatched.csv").exists()
    manifest, facts = read_manifest(run), read_facts(run / "predictions.parquet")
    assert manifest["items_missing"] == 7
    assert manifest["seeds"] == [2]
    assert facts["imported"]["files"][0]["sha256"]
    assert "protocol_fingerprint" not in facts
    assert len(read_predictions(run / "predictions.parquet")) == len(sample.test) - 7
    again = import_run([file], tmp_path / "run", name="other", data="sample", training_seed=2)
    assert again == run
    with pytest.raises(InputError, match="name changed"):
        import_run([file], tmp_path / "run", name="another", data="sample", training_seed=2)


@pytest.mark.parametrize(
    ("header", "cells", "against"),
    [
        ("answer,p_up,p_down,p_none", [f"{UP},0.2,0.1,0.7", f"{NONE},0.2,0.1,0.7", f"{DOWN},0.4,0.4,0.2"], [2]),
        ("answer,p_de,p_dir", [f"{UP},0.9,0.2", f"{NONE},0.9,0.2", f"{DOWN},0.9,0.2"], [2, 3]),
        ("answer,p_de", ["DE,0.6", "DE,0.4", f"{NONE},0.4"], [3]),
        ("answer,p_de", [f"{UP},0.6", f"{NONE},0.6", f"{NONE},0.4"], [3]),
        ("answer,p_up,p_down,p_none,error", [f"{UP},0,0,1,lost", ",0,0,1,", f"{NONE},,,,"], []),
    ],
)
def test_answers_against_their_own_probabilities_are_counted(
    tmp_path: Path, header: str, cells: list[str], against: list[int]
) -> None:
    items = zip(("NA,rpe1,AARS", "1-Mar,rpe1,AARS", "CALR,k562,TP53"), cells, strict=True)
    file = write_csv(tmp_path / "f.csv", f"gene,cell_line,pert,{header}", *(",".join(row) for row in items))
    labels = {"DE": "differentially expressed"} if "DE" in cells[0] else {}
    found = read_imported([file], CORPUS, labels=labels).contradictions
    assert list(found["row"]) == against
    assert set(found["file"]) <= {file}


def test_an_import_says_how_many_answers_contradict_their_probabilities(
    tmp_path: Path, sample: Corpus, caplog: pytest.LogCaptureFixture
) -> None:
    rows = sample.test[["pert", "gene", "cell_line"]].astype(str).assign(answer=UP, p_up=0.9, p_down=0.1, p_none=0.0)
    rows.iloc[3:5, -3:] = [0.1, 0.2, 0.7]
    rows.to_csv(tmp_path / "f.csv", index=False)
    run = import_run([str(tmp_path / "f.csv")], tmp_path / "run", name="other", data="sample")
    assert read_manifest(run)["contradictions"] == 2
    assert re.search(rf"f\.csv, row 5: .* 2 of {len(rows)} rows", caplog.text)


def test_no_row_that_matches_is_an_error_even_where_that_is_allowed(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "f.csv", "pert,gene,cell_line,answer", "X,Y,rpe1,upregulated")
    with pytest.raises(InputError, match="no row matches"):
        import_run([file], tmp_path / "run", name="other", data="sample", allow_unmatched=True)
    assert not (tmp_path / "run").exists()
