"""Traces from elsewhere: each row becomes a trace or is refused with its reason."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.corpus import Corpus, open_corpus
from rewards import InputError
from sft.import_traces import Imported, import_traces
from sft.traces import read_traces


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus("sample")


def synthpert_row(row: Any, **changed: Any) -> dict[str, Any]:
    return {
        "pert": row.pert, "gene": row.gene, "cell_type": str(row.cell_line).upper(), "true_answer": str(row.label),
        "user_prompt": f"What does losing {row.pert} do to {row.gene}?", "assistant_response": "raw",
        "generated_thinking": "because,\nof \"this\"", "generated_answer": str(row.label),
        "critic_evaluation": "Excellent", "critic_reasoning": "sound", **changed,
    }  # fmt: skip


def rejects(done: Imported) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.rejects.read_text().splitlines()]


def test_synthpert_s_csv(corpus: Corpus, tmp_path: Path) -> None:
    rows = list(corpus.train.head(6).itertuples())
    test_row = next(corpus.test.itertuples())
    other = "upregulated" if str(rows[1].label) != "upregulated" else "downregulated"
    records = [
        synthpert_row(rows[0]),
        synthpert_row(rows[1], generated_answer=other),  # a wrong answer is a trace
        synthpert_row(rows[2], generated_answer="perhaps", critic_evaluation="", critic_reasoning=""),
        synthpert_row(rows[3], true_answer=other if str(rows[3].label) != other else "upregulated"),
        synthpert_row(test_row),
        synthpert_row(rows[0]),
        synthpert_row(rows[4], critic_evaluation="superb"),
        synthpert_row(rows[4], cell_type="hela"),
        synthpert_row(rows[4], gene="NOPE"),
        synthpert_row(rows[4], gene=""),
        synthpert_row(rows[4], user_prompt=""),
        synthpert_row(rows[4], generated_thinking="", assistant_response=""),
        synthpert_row(rows[4], generated_thinking="x" * 300_000),
    ]  # fmt: skip
    path = tmp_path / "s.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
        file.write("too,few\n")
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus, teacher="gpt")
    assert (done.rows, done.kept) == (14, 4)
    traces = read_traces(done.path)
    first = traces[0]
    assert first.completion == f'<think>because,\nof "this"</think><answer>{rows[0].label}</answer>'
    assert (first.item_id, first.teacher, first.mode) == (rows[0].item_id, "gpt", "blind")
    assert first.critic == {"verdict": "excellent", "reason": "sound"}
    assert first.prompt == [{"role": "user", "content": records[0]["user_prompt"]}]
    assert [trace.answer for trace in traces] == [str(rows[0].label), other, None, str(rows[4].label)]
    assert traces[2].critic is None
    assert (first.protocol["split"], first.protocol["data"]) == ("official", corpus.digest)
    reasons = [line["reason"].partition(":")[0] for line in rejects(done)]
    assert reasons == [
        "label is not the data's", "item is in test under split official", "item occurs twice", "unknown verdict",
        "unknown cell line", "item is not in the labels", "gene is missing", "prompt is missing",
        "completion is missing", "row has fewer values than the header",
    ]  # fmt: skip
    assert [line["row"] for line in rejects(done)][:2] == [8, 10]  # as an editor counts: each row has two lines
    assert sum(done.reasons.values()) == 10


def messages_of(row: Any) -> dict[str, Any]:
    chat = [
        {"role": "system", "content": "You are"}, {"role": "user", "content": "What happens?"},
        {"role": "assistant", "content": f"<think>so</think><answer>{row.label}</answer>"},
    ]  # fmt: skip
    return {"knockdown": row.pert, "gene": row.gene, "cell_line": str(row.cell_line), "messages": chat}


def write_jsonl(records: list[Any], path: Path) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_parquet(records: list[Any], path: Path) -> None:
    pd.DataFrame(records).to_parquet(path)


@pytest.mark.parametrize(("suffix", "write"), [("jsonl", write_jsonl), ("parquet", write_parquet)])
def test_messages_in_jsonl_and_parquet_with_a_column_renamed(
    suffix: str, write: Callable[[list[Any], Path], None], corpus: Corpus, tmp_path: Path
) -> None:
    rows = list(corpus.train.head(3).itertuples())
    path = tmp_path / f"m.{suffix}"
    write([messages_of(row) for row in rows], path)
    with pytest.raises(InputError, match="no column 'pert'; name it by --map pert=COLUMN"):
        import_traces(str(path), tmp_path / "t.jsonl", corpus)
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus, columns={"pert": "knockdown"})
    assert (done.rows, done.kept, done.reasons) == (3, 3, {})
    for trace, row in zip(read_traces(done.path), rows, strict=True):
        assert (trace.item_id, trace.label, trace.answer) == (row.item_id, row.label, row.label)
        assert [message["role"] for message in trace.prompt] == ["system", "user"]


def test_a_hugging_face_data_set(corpus: Corpus, tmp_path: Path) -> None:
    """A folder loads as an id does, without the network."""
    rows = list(corpus.train.head(3).itertuples())
    (tmp_path / "set").mkdir()
    write_parquet([messages_of(row) for row in rows], tmp_path / "set" / "train.parquet")
    done = import_traces(str(tmp_path / "set"), tmp_path / "t.jsonl", corpus, columns={"pert": "knockdown"})
    assert (done.rows, done.kept) == (3, 3)
    with pytest.raises(InputError, match="cannot be loaded as a data set") as caught:
        import_traces(str(tmp_path / "nowhere"), tmp_path / "u.jsonl", corpus)
    assert "\n" not in str(caught.value)


def test_broken_rows_of_a_jsonl_are_refused_one_by_one(corpus: Corpus, tmp_path: Path) -> None:
    rows = list(corpus.train.head(2).itertuples())
    good = [json.dumps({**messages_of(row), "pert": row.pert}).encode() for row in rows]
    bad = json.loads(good[1])
    lines = [
        good[0],
        b"{torn",
        b"[]",
        b'"\xff"',
        b"[" * 50_000,
        json.dumps({**bad, "messages": []}).encode(),
        json.dumps({**bad, "messages": [{"role": "robot", "content": "x"}]}).encode(),
        json.dumps({**bad, "messages": bad["messages"][:2]}).encode(),
        json.dumps({**bad, "pert": 5}).encode(),
        json.dumps({**bad, "mode": "guess"}).encode(),
    ]
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus)
    assert (done.rows, done.kept) == (10, 1)
    assert len(rejects(done)) == 9
    assert {"not JSON", "not an object", "not UTF-8 text", "messages are no list", "unknown mode"} <= set(done.reasons)


@pytest.mark.parametrize(
    ("make", "keys", "words"),
    [
        (None, {}, "no such file"),
        (b"", {}, "the file is empty"),
        (b"\xff\xfe\x00", {}, "not UTF-8"),
        (b"pert,gene,cell_line\na,b,c\n", {}, "none of 1 rows is a trace: unknown cell line"),
        (b"pert,gene,cell_line\na,b,c\n", {"columns": {"perturb": "x"}}, "--map perturb=…: is no column"),
        (b"pert,gene,cell_line\na,b,c\n", {"columns": {"gene": "x"}}, "has no column 'x'"),
        (b"pert,gene,cell_line\na,b,c\n", {"mode": "guess"}, "mode: 'guess' is unknown"),
    ],
)
def test_bad_sources_are_refused_in_one_line(
    make: bytes | None, keys: dict[str, Any], words: str, corpus: Corpus, tmp_path: Path
) -> None:
    path = tmp_path / "s.csv"
    if make is not None:
        path.write_bytes(make)
    with pytest.raises(InputError) as caught:
        import_traces(str(path), tmp_path / "t.jsonl", corpus, **keys)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t.jsonl").exists()
