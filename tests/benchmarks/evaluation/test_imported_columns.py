"""Files of predictions as people write them: columns that are partly filled, differ between files, or are not used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.imported import Imported, read_imported
from benchmarks.evaluation.predictions import check_predictions
from benchmarks.evidence.corpus import Corpus
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from rewards import InputError

UP, DOWN, NONE = "upregulated", "downregulated", "not differentially expressed"
P = ["p_up", "p_down", "p_none"]
LABELS = (UP, DOWN, NONE, NONE, UP, NONE)
ITEMS = [f"k562|P{at % 2}|G{at}" for at in range(len(LABELS))]
CORPUS = Corpus(
    "labels",
    "official",
    pd.DataFrame(
        {
            "item_id": ITEMS,
            "cell_line": "k562",
            "pert": [item.split("|")[1] for item in ITEMS],
            "gene": [item.split("|")[2] for item in ITEMS],
            "label": LABELS,
            "split": "test",
        }
    ),
)
KEYS = "cell_line,pert,gene"


def write_csv(path: Path, columns: str, *values: str, items: list[str] | None = None) -> str:
    rows = [f"{item.replace('|', ',')},{value}" for item, value in zip(items or ITEMS, values, strict=False)]
    path.write_text("\n".join([f"{KEYS},{columns}", *rows]) + "\n", encoding="utf-8")
    return str(path)


def write_jsonl(path: Path, *values: dict[str, Any]) -> str:
    rows = [
        dict(zip(KEYS.split(","), item.split("|"), strict=True)) | value
        for item, value in zip(ITEMS, values, strict=False)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def value_of(imported: Imported, task: str, metric: str) -> float:
    arrays = prediction_arrays(imported.predictions)
    assert task in imported.tasks
    return estimate(arrays, task, metric).value


# --- a change is foretold for every pair, its direction for some ------------------------------------------------------


def test_a_direction_that_is_not_given_is_unknown_and_the_rest_is_kept(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "f.csv", "p_de,p_dir", "0.9,0.8", "0.8,0.1", "0.1,", "0.2,", "0.7,0.9", "0.3,")
    imported = read_imported([file], CORPUS)
    frame = imported.predictions
    check_predictions(frame)
    assert set(frame["status"]) == {"answered"}
    np.testing.assert_allclose(frame["p_none"], [0.1, 0.2, 0.9, 0.8, 0.3, 0.7])
    assert list(frame["answer"]) == list(LABELS)
    assert imported.tasks == ("three_class", "de", "dir")
    assert value_of(imported, "de", "de_auroc") == 1.0
    assert value_of(imported, "three_class", "accuracy") == 1.0
    assert value_of(imported, "dir", "dir_auroc") == 1.0
    # What an unknown direction leaves open is in equal parts: .05, .05 of the third item, .1, .1 and .15, .15.
    known = [(0.72, 0.18, 0.1), (0.08, 0.72, 0.2), (0.05, 0.05, 0.9), (0.1, 0.1, 0.8), (0.63, 0.07, 0.3),
             (0.15, 0.15, 0.7)]  # fmt: skip
    wanted = [(up - (label == UP)) ** 2 + (down - (label == DOWN)) ** 2 + (none - (label == NONE)) ** 2
              for (up, down, none), label in zip(known, LABELS, strict=True)]  # fmt: skip
    assert value_of(imported, "three_class", "brier") == pytest.approx(np.mean(wanted))


def test_changes_without_a_direction_are_no_wrong_answers(tmp_path: Path) -> None:
    """As PerturbQA's own files: the direction is asked of the pairs that change, whatever is foretold of the others."""
    file = write_csv(tmp_path / "f.csv", "p_de,p_dir", "0.9,0.8", "0.8,0.1", "0.6,", "0.2,", "0.7,0.9", "0.3,")
    imported = read_imported([file], CORPUS)
    assert set(imported.predictions["status"]) == {"answered"}
    assert "three_class" not in imported.tasks  # of one change nobody knows which it is
    assert value_of(imported, "de", "de_auroc") == 1.0
    assert value_of(imported, "de", "accuracy") == pytest.approx(5 / 6)
    assert value_of(imported, "dir", "dir_auroc") == 1.0


def test_an_unknown_direction_counts_one_half_in_every_pair(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "f.csv", "p_de,p_dir", "0.9,", "0.8,0.1", "0.1,", "0.2,", "0.7,0.9", "0.3,")
    assert value_of(read_imported([file], CORPUS), "dir", "dir_auroc") == 0.75  # .5 and 1


def test_a_direction_of_an_answer_that_changes_may_be_missing_too(tmp_path: Path) -> None:
    file = write_csv(
        tmp_path / "f.csv", "answer,p_de,p_dir", "yes,0.9,0.8", "yes,0.8,", "no,0.1,", "no,0.2,", "yes,0.7,0.9",
        "no,0.3,",
    )  # fmt: skip
    imported = read_imported([file], CORPUS, labels={"yes": "differentially expressed", "no": NONE})
    assert set(imported.predictions["status"]) == {"answered"}
    assert value_of(imported, "de", "accuracy") == 1.0


def test_a_direction_without_a_change_is_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "f.csv", "p_de,p_dir", "0.9,0.8", ",0.1")
    with pytest.raises(InputError, match=r"f\.csv, row 3: .*p_dir.*p_de"):
        read_imported([file], CORPUS)


def test_ranks_of_small_changes_are_kept_beside_a_direction(tmp_path: Path) -> None:
    values = ("3e-12,0.8", "2e-12,0.1", "1e-14,0.5", "1e-13,0.5", "1e-11,0.9", "0,0.5")
    imported = read_imported([write_csv(tmp_path / "f.csv", "p_de,p_dir", *values)], CORPUS)
    assert value_of(imported, "de", "de_auroc") == 1.0
    assert value_of(imported, "dir", "dir_auroc") == 1.0


# --- several files ----------------------------------------------------------------------------------------------------


def test_files_that_say_it_otherwise_are_each_read_by_what_they_hold(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", "p_de,p_dir", "0.9,0.8", "0.8,0.1", items=ITEMS[:2])
    second = write_csv(tmp_path / "b.csv", "p_up,p_down,p_none", "0.1,0.1,0.8", "0.1,0,0.9", items=ITEMS[2:4])
    frame = read_imported([first, second], CORPUS).predictions
    assert list(frame["answer"]) == [UP, DOWN, NONE, NONE]
    assert frame[P].notna().all(axis=None)


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("p_up,p_down,p_none", ("0.1,0.1,0.8", "0.1,0,0.9")),
        ("p_de", ("0.1", "0.2")),
    ],
)
@pytest.mark.parametrize("answers", [(UP, DOWN), (NONE, NONE)])
def test_files_that_tell_different_things_are_refused(
    tmp_path: Path, columns: str, values: tuple[str, ...], answers: tuple[str, ...]
) -> None:
    first = write_csv(tmp_path / "a.csv", "answer", *answers, items=ITEMS[:2])
    second = write_csv(tmp_path / "b.csv", columns, *values, items=ITEMS[2:4])
    with pytest.raises(InputError, match=r"[ab]\.csv.*[ab]\.csv.*import them separately"):
        read_imported([first, second], CORPUS)


def test_answers_in_one_file_and_texts_in_another_are_both_read(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", "answer", UP, DOWN, items=ITEMS[:2])
    second = write_csv(tmp_path / "b.csv", "completion", f"<answer>{NONE}</answer>", "cut", items=ITEMS[2:4])
    frame = read_imported([first, second], CORPUS).predictions
    assert list(frame["answer"].fillna("")) == [UP, DOWN, NONE, ""]


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [False, 0, None, "", "false", "None", [], {}, "NaT"])
def test_an_error_that_is_none_leaves_a_row_scorable(tmp_path: Path, nothing: object) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", {"answer": UP, "error": nothing})
    assert list(read_imported([file], CORPUS).predictions["status"]) == ["answered"]


@pytest.mark.parametrize("nothing", ["False", "0", "0.0", "nan", "null", "no", "NA", "<NA>", "[]", "{}"])
def test_an_error_that_is_none_in_a_csv_file(tmp_path: Path, nothing: str) -> None:
    file = write_csv(tmp_path / "f.csv", "answer,error", f"{UP},{nothing}", f"{UP},CUDA out of memory")
    assert list(read_imported([file], CORPUS).predictions["status"]) == ["answered", "error"]


def test_errors_of_two_types(tmp_path: Path) -> None:
    rows = [{"answer": UP, "error": False}, {"answer": DOWN, "error": "timeout"}, {"answer": NONE, "error": True}]
    frame = read_imported([write_jsonl(tmp_path / "f.jsonl", *rows)], CORPUS).predictions
    assert list(frame["status"]) == ["answered", "error", "error"]


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status", "answer"),
    [
        ("<answer>upregulated <confidence>0.8</confidence></answer>", "answered", UP),
        ("<think>a</think><answer> Upregulated\n<confidence> 1 </confidence></answer>", "answered", UP),
        ("<answer>up <confidence>0.3</confidence></answer>", "answered", UP),
        ("<answer>upregulated <confidence>8</confidence></answer>", "malformed", ""),
        ("<think>never ends", "incomplete", ""),
        ("<think>a</think><answer>upreg", "incomplete", ""),
    ],
)
def test_a_text_is_read_by_the_parser_of_completions(tmp_path: Path, text: str, status: str, answer: str) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", {"completion": text}, {"completion": "<answer>up</answer>"})
    frame = read_imported([file], CORPUS, labels={"up": UP}).predictions
    assert (frame["status"][0], frame["answer"].fillna("")[0]) == (status, answer)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_a_completion_may_be_messages(tmp_path: Path, key: str) -> None:
    text = f"<answer>{UP}</answer>"
    asked = {"role": "user", "content": "What happens?"}
    rows: list[dict[str, Any]] = [
        {"completion": [{"role": "assistant", "content": text}]},
        {"completion": [asked, {"role": "assistant", "content": [{"type": "text", "text": text}]}]},
        {"completion": [{"role": "assistant", key: "because", "content": text}]},
        {"completion": json.dumps([{"role": "assistant", "content": text}])},
    ]
    frame = read_imported([write_jsonl(tmp_path / "f.jsonl", *rows)], CORPUS).predictions
    assert list(frame["status"]) == ["answered"] * 4
    assert list(frame["completion"]) == [text, text, f"<think>because</think>{text}", text]


def test_a_completion_that_ends_in_a_question_is_refused(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", {"completion": [{"role": "user", "content": f"<answer>{UP}</answer>"}]})
    with pytest.raises(InputError, match="the last one must be the assistant's"):
        read_imported([file], CORPUS)


def test_json_that_is_no_message_is_a_text(tmp_path: Path) -> None:
    rows = [{"completion": f"<answer>{UP}</answer>"}, {"completion": '[{"answer": "upregulated"}]'}]
    frame = read_imported([write_jsonl(tmp_path / "f.jsonl", *rows)], CORPUS).predictions
    assert list(frame["status"]) == ["answered", "malformed"]


def test_a_text_s_label_is_read_as_our_own_parser_reads_it(tmp_path: Path) -> None:
    rows = [
        {"completion": f"<answer>{said}</answer>"} for said in (NONE.replace("ss", "ſſ"), "No  change", "NO change")
    ]
    file = write_jsonl(tmp_path / "f.jsonl", *rows)
    frame = read_imported([file], CORPUS, labels={"No  change": NONE}).predictions
    assert list(frame["status"]) == ["malformed", "answered", "answered"]


def test_messages_in_a_parquet_file(tmp_path: Path) -> None:
    text = f"<answer>{UP}</answer>"
    row = dict(zip(KEYS.split(","), ITEMS[0].split("|"), strict=True))
    row["completion"] = [{"role": "assistant", "content": text}, {"role": "assistant", "content": text}]  # type: ignore[assignment]
    pd.DataFrame([row]).to_parquet(tmp_path / "f.parquet")
    frame = read_imported([str(tmp_path / "f.parquet")], CORPUS).predictions
    assert list(frame["completion"]) == [text]


def test_a_completion_that_is_neither_is_refused_with_its_row(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", {"completion": "x"}, {"completion": {"text": "x"}})
    with pytest.raises(InputError, match=r"f\.jsonl, row 2: .*completion"):
        read_imported([file], CORPUS)


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [(1, "a"), ({"a": 1}, [1]), (True, "x"), ([1], 2.5)])
def test_a_column_of_two_types_that_is_not_used_is_not_read(tmp_path: Path, pair: tuple[object, object]) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", *({"answer": UP, "meta": one} for one in pair))
    assert len(read_imported([file], CORPUS).predictions) == 2


def test_scores_as_text_and_as_numbers(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", {"p_de": "0.9"}, {"p_de": 0.2})
    np.testing.assert_allclose(read_imported([file], CORPUS).predictions["p_none"], [0.1, 0.8])


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("csv", f"{KEYS},answer,answer\nk562,P0,G0,upregulated,downregulated\n"),
        ("csv", f"{KEYS},gene,answer\nk562,P0,G0,G0,upregulated\n"),
        ("jsonl", '{"cell_line": "k562", "pert": "P0", "gene": "G0", "answer": "no", "answer": "upregulated"}\n'),
    ],
)
def test_a_column_that_is_there_twice_is_refused_by_name(tmp_path: Path, suffix: str, text: str) -> None:
    path = tmp_path / f"f.{suffix}"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"f\.{suffix}.*'(answer|gene)' .*twice"):
        read_imported([str(path)], CORPUS)


def test_a_parquet_file_with_a_column_twice(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [*KEYS.split(","), "answer", "answer"]
    pq.write_table(pa.table([["k562"], ["P0"], ["G0"], [UP], [DOWN]], names=columns), tmp_path / "f.parquet")
    with pytest.raises(InputError, match="'answer' .*twice"):
        read_imported([str(tmp_path / "f.parquet")], CORPUS)


@pytest.mark.parametrize("row", ["0.33,0.33,0.33", "0.34,0.34,0.33", "0.335,0.335,0.34", "0.99,0,0"])
def test_scores_that_add_up_to_1_within_the_tolerance(tmp_path: Path, row: str) -> None:
    frame = read_imported([write_csv(tmp_path / "f.csv", "p_up,p_down,p_none", row)], CORPUS).predictions
    assert frame[P].sum(axis=1)[0] == pytest.approx(1)


@pytest.mark.parametrize("row", ["0.34,0.34,0.34", "0.33,0.33,0.32"])
def test_scores_that_do_not_add_up_are_refused(tmp_path: Path, row: str) -> None:
    with pytest.raises(InputError, match="do not add up"):
        read_imported([write_csv(tmp_path / "f.csv", "p_up,p_down,p_none", row)], CORPUS)


def test_rows_of_a_csv_file_are_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f'{KEYS},completion,answer\nk562,P0,G0,"a\nb\nc",{UP}\n\nk562,P1,G1,x,perhaps\n')
    with pytest.raises(InputError, match=r"f\.csv, row 6: answer 'perhaps'"):
        read_imported([str(path)], CORPUS)


def test_scores_of_32_bits_are_held_to_the_same_tolerance(tmp_path: Path) -> None:
    frame = pd.DataFrame([[0.34, 0.34, 0.33], [0.335, 0.335, 0.34]], columns=P, dtype=np.float32)
    frame = frame.assign(cell_line="k562", pert=["P0", "P1"], gene=["G0", "G1"])
    frame.to_parquet(tmp_path / "f.parquet")
    assert list(read_imported([str(tmp_path / "f.parquet")], CORPUS).predictions["status"]) == ["answered"] * 2


def test_a_word_that_no_row_has_is_refused(tmp_path: Path) -> None:
    rows = [{"answer": "up"}, {"completion": "<answer>Down <confidence>1</confidence></answer>"}]
    file = write_jsonl(tmp_path / "f.jsonl", *rows)
    labels = {"up": UP, "down": DOWN, "-1": "no answer"}
    assert list(read_imported([file], CORPUS, labels=labels).predictions["answer"]) == [UP, DOWN]
    with pytest.raises(InputError, match="--label dwon=downregulated: no row has 'dwon'"):
        read_imported([file], CORPUS, labels={**labels, "dwon": DOWN})


def test_a_row_without_an_answer_is_read_by_its_scores_or_its_text(tmp_path: Path) -> None:
    text = f"<think>a</think><answer>{UP}</answer>"
    scores = {"p_up": 0.1, "p_down": 0.8, "p_none": 0.1}
    rows = [
        {"answer": UP}, scores, {"answer": "", **scores}, {"answer": "", "completion": text}, {"completion": text},
        {"answer": "none", "completion": text, **scores},
    ]  # fmt: skip
    file = write_jsonl(tmp_path / "f.jsonl", *rows)
    frame = read_imported([file], CORPUS, labels={"none": "no answer"}).predictions
    assert list(frame["answer"].fillna("")) == [UP, DOWN, DOWN, UP, UP, ""]
    assert frame["status"].iloc[-1] == "malformed"
    assert list(frame["p_down"].notna()) == [False, True, True, False, False, False]
    check_predictions(frame, "f")


def test_labels_that_nothing_could_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="label"):
        read_imported([write_csv(tmp_path / "f.csv", "p_de", "0.9")], CORPUS, labels={"up": UP})


# --- what one type of file makes of another's values ------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_whole_numbers_are_kept_to_the_last_digit(tmp_path: Path, suffix: str) -> None:
    seeds = [2**53, 2**53 + 1, 2**63 - 1]
    path = tmp_path / f"f.{suffix}"
    if suffix == "csv":
        write_csv(path, "answer,seed", *(f"{UP},{seed}" for seed in seeds), items=ITEMS[:1] * 3)
    elif suffix == "jsonl":
        keys = dict(zip(KEYS.split(","), ITEMS[0].split("|"), strict=True))
        path.write_text("".join(json.dumps({**keys, "answer": UP, "seed": seed}) + "\n" for seed in seeds))
    else:
        keys = dict(zip(KEYS.split(","), ITEMS[0].split("|"), strict=True))
        pd.DataFrame([{**keys, "answer": UP, "seed": seed} for seed in seeds]).to_parquet(path)
    assert read_imported([str(path)], CORPUS).predictions["seed"].tolist() == seeds


@pytest.mark.parametrize("row", ["1.0", "1e0", "01", " 1 "])
def test_a_whole_number_may_be_written_otherwise(tmp_path: Path, row: str) -> None:
    frame = read_imported([write_csv(tmp_path / "f.csv", "answer,seed", f"{UP},{row}")], CORPUS).predictions
    assert frame["seed"].tolist() == [1]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("seed", "1e300", "not a whole number"), ("seed", "9223372036854775808", "not within 0 and 9223372036854775807"),
     ("sample", "3000000000", "not within 0 and 2147483647"), ("sample", "-1", "not within"),
     ("seed", "1.5", "not a whole"), ("seed", "nan", "not a whole"), ("seed", "inf", "not a whole"),
     ("seed", "x", "not a whole"), ("seed", "1e999999999", "not a whole")],
)  # fmt: skip
def test_a_number_that_nothing_could_store_is_refused_with_its_row(
    tmp_path: Path, column: str, value: str, words: str
) -> None:
    with pytest.raises(InputError, match=rf"f\.csv, row 2: {column} is {words}"):
        read_imported([write_csv(tmp_path / "f.csv", f"answer,{column}", f"{UP},{value}")], CORPUS)


def test_a_training_seed_that_nothing_could_store_is_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "f.csv", "answer", UP)
    with pytest.raises(InputError, match="training_seed: 9223372036854775808"):
        read_imported([file], CORPUS, training_seed=2**63)


@pytest.mark.parametrize(("column", "text"), [("answer", UP), ("completion", f"<think>x</think><answer>{UP}</answer>")])
def test_text_that_is_stored_as_bytes_is_text(tmp_path: Path, column: str, text: str) -> None:
    keys = {key: [value.encode()] for key, value in zip(KEYS.split(","), ITEMS[0].split("|"), strict=True)}
    pd.DataFrame({**keys, column: [text.encode()]}).to_parquet(tmp_path / "f.parquet")
    frame = read_imported([str(tmp_path / "f.parquet")], CORPUS).predictions
    assert frame["answer"].tolist() == [UP]
    assert frame["completion"][0] in (None, text)


def test_an_answer_with_white_space_of_another_kind(tmp_path: Path) -> None:
    text = "<answer>not\u00a0differentially\u202fexpressed</answer>"
    rows = [{"answer": "not\u00a0differentially expressed"}, {"answer": "NOT differentially\u2009expressed"}]
    assert (
        read_imported([write_jsonl(tmp_path / "a.jsonl", *rows)], CORPUS).predictions["answer"].tolist() == [NONE] * 2
    )
    file = write_jsonl(tmp_path / "c.jsonl", {"completion": text})
    assert read_imported([file], CORPUS).predictions["answer"].tolist() == [NONE]
