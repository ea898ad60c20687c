"""Traces from elsewhere: each row becomes a trace or is refused with its reason."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.screens.splits import apply_split
from rewards import LABELS, InputError
from sft.audit.audit import audit_traces, corpus_of
from sft.filters.funnel import measure_funnel
from sft.import_traces import Imported, import_traces
from sft.teacher.outcomes import read_manifest
from sft.teacher.template import generate
from sft.traces import read_traces, write_traces


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
        synthpert_row(
            rows[2], generated_thinking="nan", assistant_response="<think>cut", critic_evaluation="N/A",
            critic_reasoning="",
        ),
        synthpert_row(rows[3], true_answer=other if str(rows[3].label) != other else "upregulated"),
        synthpert_row(test_row),
        synthpert_row(rows[0]),
        synthpert_row(rows[4], critic_evaluation="superb"),
        synthpert_row(rows[4], cell_type="hela"),
        synthpert_row(rows[4], gene="NOPE"),
        synthpert_row(rows[4], gene=""),
        synthpert_row(rows[4], generated_answer="perhaps"),
        synthpert_row(rows[4], generated_answer=f"<answer>{rows[4].label}</answer>"),
        synthpert_row(rows[4], generated_thinking="<think>so</think>"),
        synthpert_row(
            rows[5], true_answer=str(rows[5].label).capitalize(), generated_answer=str(rows[5].label).upper()
        ),
        synthpert_row(rows[4], true_answer="up"),
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
    assert (done.rows, done.kept) == (19, 5)
    traces = read_traces(done.path)
    first = traces[0]
    assert first.completion == f'<think>because,\nof "this"</think><answer>{rows[0].label}</answer>'
    assert (first.item_id, first.teacher, first.mode) == (rows[0].item_id, "gpt", "blind")
    assert first.critic == {"verdict": "excellent", "reason": "sound"}
    assert first.prompt == [{"role": "user", "content": records[0]["user_prompt"]}]
    assert [trace.answer for trace in traces] == [
        str(rows[0].label), other, None, str(rows[5].label), str(rows[4].label),
    ]  # fmt: skip
    assert traces[2].critic is None
    assert (first.protocol["imported_under"], first.protocol["data"]) == ("official", corpus.digest)
    reasons = [line["reason"].partition(":")[0] for line in rejects(done)]
    assert reasons == [
        "label is not the data's", "item is in test under split official", "item occurs twice", "unknown verdict",
        "unknown cell line", "item is not in the labels", "gene is missing",
        "answer is no label, say what it means by --label THEIRS=OURS",
        "answer is no label, say what it means by --label THEIRS=OURS", "thinking holds tags",
        "label is no label, say what it means by --label THEIRS=OURS",
        "prompt is missing, which --prompts ours would build", "completion is missing",
        "row has fewer values than the header",
    ]  # fmt: skip
    assert [line["row"] for line in rejects(done)][:2] == [7, 9]  # as an editor counts: each row has two lines
    assert sum(done.reasons.values()) == 14
    manifest = read_manifest(done.path)
    assert manifest is not None
    assert sum(cell["drawn"] for cell in manifest["cells"].values()) == 6  # one of which no row is accepted
    funnel = measure_funnel(done.path, corpus)
    drawn = funnel.table[(funnel.table["cell_line"] == "all") & (funnel.table["label"] == "all")]["drawn"]
    assert drawn.tolist() == [6]
    assert not any("No manifest" in note for note in funnel.notes)
    assert funnel.statuses["refused"] == 14
    assert any("14 of 19 imported rows were refused; teacher accuracy" in note for note in funnel.notes)


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
    protocol = read_traces(done.path)[0].protocol
    assert protocol["source_fingerprint"]
    assert protocol["source_revision"] is None  # a folder has none
    with pytest.raises(InputError, match="cannot be loaded as a data set") as caught:
        import_traces(str(tmp_path / "nowhere"), tmp_path / "u.jsonl", corpus)
    assert "\n" not in str(caught.value)


def test_chats_of_other_shapes(corpus: Corpus, tmp_path: Path) -> None:
    """ShareGPT's turns, a reply with its thinking apart, content in parts."""
    rows = list(corpus.train.head(4).itertuples())
    answers = [f"<answer>{row.label}</answer>" for row in rows]
    asked = {"role": "user", "content": "What happens?"}
    chats: list[dict[str, Any]] = [
        {"conversations": [{"from": "system", "value": "You are"}, {"from": "human", "value": "What happens?"},
                           {"from": "gpt", "value": f"<think>so</think>{answers[0]}"}]},
        {"messages": [asked, {"role": "assistant", "content": answers[1], "reasoning_content": "so"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": text} for text in ("What ", "happens?")]},
                      {"role": "assistant", "content": [{"type": "text", "text": f"<think>so</think>{answers[2]}"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "a"}]},
    ]  # fmt: skip
    path = tmp_path / "m.jsonl"
    items = [{"pert": row.pert, "gene": row.gene, "cell_line": str(row.cell_line)} for row in rows]
    write_jsonl([item | chat for item, chat in zip(items, chats, strict=True)], path)
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus)
    assert (done.kept, done.reasons) == (3, {"a part of a message is no text": 1})
    for trace, answer in zip(read_traces(done.path), answers, strict=False):
        assert trace.completion == f"<think>so</think>{answer}"
        assert trace.prompt[-1] == asked
    nested = tmp_path / "n.parquet"  # where a message has the fields of all, the missing ones empty
    write_parquet([items[1] | chats[1]], nested)
    assert import_traces(str(nested), tmp_path / "u.jsonl", corpus).kept == 1


def write_csv(records: list[dict[str, Any]], path: Path, delimiter: str = ",", encoding: str = "utf-8") -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8"), ("\t", "utf-8"), (",", "utf-8-sig")])
def test_csv_files_of_other_programs(delimiter: str, encoding: str, corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_csv([synthpert_row(row) for row in corpus.train.head(3).itertuples()], path, delimiter, encoding)
    assert import_traces(str(path), tmp_path / "t.jsonl", corpus).kept == 3


def test_other_words_for_labels(corpus: Corpus, tmp_path: Path) -> None:
    words = {"up": "upregulated", "Down": "downregulated", "none": "not differentially expressed"}
    theirs = {ours: word for word, ours in words.items()}
    rows = [next(corpus.train[corpus.train["label"] == label].itertuples()) for label in theirs]
    path = tmp_path / "s.csv"
    said = [theirs[str(row.label)].upper() for row in rows]
    write_csv(
        [synthpert_row(row, true_answer=word, generated_answer=word) for row, word in zip(rows, said, strict=True)],
        path,
    )
    with pytest.raises(InputError, match="none of 3 rows is a trace: label is no label, say what it means by --label"):
        import_traces(str(path), tmp_path / "t.jsonl", corpus)
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus, labels=words)
    assert done.kept == 3
    assert [trace.answer for trace in read_traces(done.path)] == [str(row.label) for row in rows]
    with pytest.raises(InputError, match="--label up=higher: means no label; use one of upregulated"):
        import_traces(str(path), tmp_path / "t.jsonl", corpus, labels={"up": "higher"})


def test_our_own_traces_keep_what_they_say_of_themselves(corpus: Corpus, tmp_path: Path) -> None:
    traces = generate(corpus.train.head(4), corpus, PromptConfig(evidence=3), seed=0)
    graded = [
        replace(trace, critic={"verdict": "good", "given": "no", "reason": "sound", "votes": "good, bad"})
        for trace in traces
    ]
    path = tmp_path / "own.jsonl"
    write_traces(graded, path)
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus)
    for trace, before in zip(read_traces(done.path), graded, strict=True):
        assert trace.protocol | before.protocol == trace.protocol
        assert replace(trace, protocol=before.protocol) == before
    assert audit_traces(read_traces(done.path), corpus).clean
    records = [json.loads(line) for line in path.read_text().splitlines()]
    flat = tmp_path / "own.csv"  # where values that are no text are written as JSON
    write_csv(
        [{key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in record.items()}
         for record in records],
        flat,
    )  # fmt: skip
    done = import_traces(str(flat), tmp_path / "f.jsonl", corpus)
    for trace, before in zip(read_traces(done.path), graded, strict=True):
        assert replace(trace, protocol=before.protocol) == before
        assert trace.protocol["split"] == "official"
    write_traces([replace(trace, protocol={**trace.protocol, "split": "holdout:rpe1"}) for trace in graded], path)
    with pytest.raises(InputError, match="none of 4 rows is a trace: prompt was made under another split"):
        import_traces(str(path), tmp_path / "u.jsonl", corpus)


@pytest.mark.parametrize("template", ["three_class", "direction"])
def test_prompts_of_our_template_in_place_of_theirs(template: str, corpus: Corpus, tmp_path: Path) -> None:
    rows = [next(corpus.train[corpus.train["label"] == label].itertuples()) for label in LABELS]
    path, config = tmp_path / "s.csv", PromptConfig(template, evidence=3, lemmas=True)
    write_csv([synthpert_row(row, user_prompt="" if at else "theirs") for at, row in enumerate(rows)], path)
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus, prompts=config)
    kept = [row for row in rows if template == "three_class" or row.label != LABELS[-1]]
    traces = read_traces(done.path)
    assert [trace.item_id for trace in traces] == [row.item_id for row in kept]
    ours = generate(corpus.train[corpus.train["item_id"].isin([row.item_id for row in kept])], corpus, config, seed=0)
    made = {trace.item_id: trace for trace in ours}
    for trace in traces:
        assert trace.prompt == made[trace.item_id].prompt
        assert trace.protocol | made[trace.item_id].protocol == trace.protocol  # as stage two asks
    audit = audit_traces(traces, corpus)
    assert audit.clean
    assert audit.findings["prompt"].checked == len(kept)


def test_what_was_there_stays_where_nothing_is_imported(corpus: Corpus, tmp_path: Path) -> None:
    output, path = tmp_path / "t.jsonl", tmp_path / "s.csv"
    write_csv([synthpert_row(row) for row in corpus.train.head(2).itertuples()], path)
    import_traces(str(path), output, corpus)
    before = output.read_bytes()
    write_csv([synthpert_row(row, gene="NOPE") for row in corpus.train.head(2).itertuples()], path)
    broken = tmp_path / "b.csv"
    broken.write_bytes(path.read_bytes() + b'"open')
    for source in (path, tmp_path / "no.csv", broken, tmp_path / "x.tsv"):
        with pytest.raises(InputError):
            import_traces(str(source), output, corpus)
        assert output.read_bytes() == before
    with pytest.raises(InputError, match="is the source"):
        import_traces(str(output), output, corpus)
    assert output.read_bytes() == before
    rejected = tmp_path / "t.jsonl.rejects.jsonl"
    rejected.write_bytes(before)
    with pytest.raises(InputError, match="is the source"):
        import_traces(str(rejected), output, corpus)
    assert rejected.read_bytes() == before
    with pytest.raises(InputError, match="is a folder"):
        import_traces(str(path), tmp_path, corpus)


@pytest.mark.parametrize("name", ["s.txt", "s.json", "s.xlsx", "s.csv.bz2", "s"])
def test_other_files_are_not_taken_for_a_data_set_s_id(
    name: str, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    path = tmp_path / name
    path.write_text("x")
    with pytest.raises(InputError, match=r"is not read; save it as \.csv or \.tsv or \.jsonl"):
        import_traces(str(path), tmp_path / "t.jsonl", corpus)
    path.unlink()
    if path.suffix:
        with pytest.raises(InputError, match="is not read"):
            import_traces(str(path), tmp_path / "t.jsonl", corpus)


def test_under_which_split_a_prompt_of_theirs_was_written_is_not_claimed(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    write_csv([synthpert_row(row) for row in corpus.train.head(3).itertuples()], path)
    traces = read_traces(import_traces(str(path), tmp_path / "t.jsonl", corpus).path)
    assert "split" not in traces[0].protocol
    assert corpus_of(traces[0].protocol, None, None).is_sample
    assert str(audit_traces(traces, corpus).findings["split"]) == "0 of 0 fail, 3 not audited"
    ours = import_traces(str(path), tmp_path / "t.jsonl", corpus, prompts=PromptConfig())
    assert str(audit_traces(read_traces(ours.path), corpus).findings["split"]) == "0 of 3 fail"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"protocol": "{torn"}, "protocol is no JSON object"),
        ({"protocol": "[1]"}, "protocol is no JSON object"),
        ({"protocol": '{"split": "holdout:rpe1"}'}, "prompt was made under another split"),
        ({"critic": "{torn"}, "critic is no JSON object"),
        ({"critic": '{"verdict": "superb"}'}, "unknown verdict"),
        ({"critic": '{"verdict": "good", "given": "maybe"}'}, "critic's `given` is neither yes nor no"),
        ({"user_prompt": '[{"role": "robot", "content": "x"}]'}, "unknown role of a message"),
        ({"user_prompt": "[{'role': 'user', 'content': 'x'}]"}, "messages are no JSON list"),
    ],
)
def test_json_in_a_csv_is_read_or_refused(changed: dict[str, str], reason: str, corpus: Corpus, tmp_path: Path) -> None:
    rows = list(corpus.train.head(2).itertuples())
    path = tmp_path / "s.csv"
    fine = {"protocol": "", "critic": '{"verdict": "good", "reason": "r"}', "critic_evaluation": "bad"}
    write_csv([synthpert_row(row, **fine) | more for row, more in zip(rows, ({}, changed), strict=True)], path)
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus)
    assert done.reasons == {reason: 1}
    assert read_traces(done.path)[0].critic == {"verdict": "good", "reason": "r"}


def test_a_jsonl_whose_first_row_lacks_a_key_is_read(corpus: Corpus, tmp_path: Path) -> None:
    rows = [{**messages_of(row), "pert": row.pert, "note": "n"} for row in corpus.train.head(3).itertuples()]
    path = tmp_path / "m.jsonl"
    write_jsonl([{"gene": "x"}, *rows], path)
    done = import_traces(str(path), tmp_path / "t.jsonl", corpus, columns={"teacher": "note"})
    assert (done.kept, done.reasons) == (3, {"pert is missing": 1})
    with pytest.raises(InputError, match="has no column 'noet'"):
        import_traces(str(path), tmp_path / "t.jsonl", corpus, columns={"teacher": "noet"})


def test_rejects_keep_what_stood_there(corpus: Corpus, tmp_path: Path) -> None:
    row = next(corpus.train.itertuples())
    path = tmp_path / "m.jsonl"
    path.write_bytes(json.dumps({**messages_of(row), "pert": row.pert}).encode() + b'\n{torn\n[5]\n"\xff"\n')
    records = [line["record"] for line in rejects(import_traces(str(path), tmp_path / "t.jsonl", corpus))]
    assert records == ["{torn\n", [5], '"\\xff"\n']
    path = tmp_path / "s.csv"
    write_csv([synthpert_row(row)], path)
    path.write_bytes(path.read_bytes() + b"too,few\r\n")
    records = [line["record"] for line in rejects(import_traces(str(path), tmp_path / "t.jsonl", corpus))]
    assert records == [{"pert": "too", "gene": "few"}]


def test_a_reason_is_counted_whole(corpus: Corpus, tmp_path: Path) -> None:
    held_out = replace(corpus, split="holdout:rpe1", labels=apply_split(corpus.labels, "holdout:rpe1"))
    rows = [next(corpus.train[corpus.train["cell_line"] == line].itertuples()) for line in ("k562", "rpe1")]
    path = tmp_path / "s.csv"
    write_csv([synthpert_row(row) for row in rows], path)
    done = import_traces(str(path), tmp_path / "t.jsonl", held_out)
    assert done.reasons == {"item is in test under split holdout:rpe1": 1}


def test_broken_rows_of_a_jsonl_are_refused_one_by_one(corpus: Corpus, tmp_path: Path) -> None:
    rows = list(corpus.train.head(2).itertuples())
    good = [json.dumps({**messages_of(row), "pert": row.pert}).encode() for row in rows]
    bad = json.loads(good[1])
    lines = [
        b"\xef\xbb\xbf" + good[0],
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
        (
            b'pert,gene,cell_line\na,b,c\na,"b,c\n',
            {},
            "s.csv, row 3: not CSV (unexpected end of data); close the quote",
        ),
        (b"pert,gene,cell_line\na,b,c\n", {}, "none of 1 rows is a trace: unknown cell line"),
        (b"pert,gene,pert\na,b,c\n", {}, "column 'pert' occurs twice"),
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


@pytest.mark.parametrize(
    "printed",
    ["array([{'content': 'q', 'role': 'user'}], dtype=object)", "[{'content': 'q', 'role': 'user'}\n {'content': 'z'}]",
     "({'role': 'user', 'content': 'q'},)", "{'role': 'user', 'content': 'q'}", "  array( [ {'role': 'user'}])"],
)  # fmt: skip
def test_lists_that_a_library_has_printed_into_a_csv_are_no_text(corpus: Corpus, tmp_path: Path, printed: str) -> None:
    row = next(corpus.train.itertuples())
    good = {**synthpert_row(row), "user_prompt": "[1] What {is} it?"}
    for name, record in (("good", good), ("bad", {**good, "user_prompt": printed})):
        pd.DataFrame([record]).to_csv(tmp_path / f"{name}.csv", index=False)
    assert import_traces(str(tmp_path / "good.csv"), tmp_path / "t.jsonl", corpus).kept == 1
    with pytest.raises(InputError, match="messages are no JSON list"):
        import_traces(str(tmp_path / "bad.csv"), tmp_path / "t.jsonl", corpus)


def test_traces_that_parquet_stores_as_bytes(corpus: Corpus, tmp_path: Path) -> None:
    row = synthpert_row(next(corpus.train.itertuples()))
    pd.DataFrame([{key: value.encode() for key, value in row.items()}]).to_parquet(tmp_path / "s.parquet")
    import_traces(str(tmp_path / "s.parquet"), tmp_path / "t.jsonl", corpus)
    (trace,) = read_traces(tmp_path / "t.jsonl")
    assert trace.prompt[-1]["content"] == row["user_prompt"]


def test_a_label_s_word_with_two_meanings_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    pd.DataFrame([synthpert_row(next(corpus.train.itertuples()))]).to_csv(path, index=False)
    with pytest.raises(InputError, match="--label UP=downregulated: 'UP' means 'upregulated' already"):
        import_traces(str(path), tmp_path / "t.jsonl", corpus, labels={"Up": "upregulated", "UP": "downregulated"})
