"""Messages of other tools: thoughts under any key, parts, roles; and every column that is mapped is used or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import PromptConfig
from rewards import InputError
from sft.import_traces import Imported, import_traces
from sft.traces import Trace, read_traces

ASKED = {"role": "user", "content": "What happens?"}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus("sample")


@pytest.fixture
def item(corpus: Corpus) -> dict[str, str]:
    row = next(corpus.train.itertuples())
    return {"pert": str(row.pert), "gene": str(row.gene), "cell_line": str(row.cell_line), "label": str(row.label)}


def bring(corpus: Corpus, tmp_path: Path, *rows: dict[str, Any], **keys: Any) -> Imported:
    path = tmp_path / "s.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return import_traces(str(path), tmp_path / "t.jsonl", corpus, **keys)


def trace_of(corpus: Corpus, tmp_path: Path, row: dict[str, Any], **keys: Any) -> Trace:
    (trace,) = read_traces(bring(corpus, tmp_path, row, **keys).path)
    return trace


def answer_of(item: dict[str, str]) -> str:
    return f"<answer>{item['label']}</answer>"


THOUGHTS: dict[str, dict[str, Any]] = {
    "reasoning_content": {"reasoning_content": "because"},
    "reasoning": {"reasoning": "because"},
    "thinking": {"thinking": "because"},
    "details": {"reasoning_details": [{"type": "reasoning.text", "text": "because"}]},
    "parts": {"reasoning": [{"type": "text", "text": "be"}, {"type": "text", "text": "cause"}]},
}


@pytest.mark.parametrize("kind", THOUGHTS)
def test_thoughts_are_kept_under_any_key(kind: str, corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    reply = {"role": "assistant", "content": answer_of(item), **THOUGHTS[kind]}
    wanted = f"<think>because</think>{answer_of(item)}"
    assert trace_of(corpus, tmp_path, {**item, "messages": [ASKED, reply]}).completion == wanted
    conversational = {**item, "prompt": [ASKED], "completion": [reply]}
    assert trace_of(corpus, tmp_path, conversational).completion == wanted


def test_thoughts_that_the_content_holds_too_are_kept_once(
    corpus: Corpus, item: dict[str, str], tmp_path: Path
) -> None:
    content = f"<think>because</think>{answer_of(item)}"
    reply = {"role": "assistant", "content": content, "reasoning": "because\n"}
    assert trace_of(corpus, tmp_path, {**item, "messages": [ASKED, reply]}).completion == content


def test_thoughts_among_the_parts(corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    parts = [{"type": "thinking", "thinking": "because", "signature": "x"}, {"type": "text", "text": answer_of(item)}]
    trace = trace_of(corpus, tmp_path, {**item, "messages": [ASKED, {"role": "assistant", "content": parts}]})
    assert trace.completion == f"<think>because</think>{answer_of(item)}"


@pytest.mark.parametrize("empty", [{"type": "text", "text": None}, {"type": "text"}, {"type": "text", "text": ""}])
def test_a_part_without_text_is_no_word(
    empty: dict[str, Any], corpus: Corpus, item: dict[str, str], tmp_path: Path
) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "What happens?"}, empty]}
    reply = {"role": "assistant", "content": f"<think>a</think>{answer_of(item)}"}
    trace = trace_of(corpus, tmp_path, {**item, "messages": [asked, reply]})
    assert trace.prompt == [ASKED]


@pytest.mark.parametrize("part", [{"type": "text", "text": 5}, {"type": "image_url", "image_url": "x"}, None, 5])
def test_a_part_that_is_no_text_is_refused(part: object, corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    reply = {"role": "assistant", "content": f"<think>a</think>{answer_of(item)}"}
    with pytest.raises(InputError, match="none of 1 rows is a trace"):
        bring(corpus, tmp_path, {**item, "messages": [{"role": "user", "content": [part]}, reply]})


@pytest.mark.parametrize(
    ("role", "ours"), [("developer", "system"), ("System", "system"), ("human", "user"), ("USER", "user")]
)
def test_roles_of_other_tools(role: str, ours: str, corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    reply = {"role": "assistant", "content": f"<think>a</think>{answer_of(item)}"}
    row = {**item, "messages": [{"role": role, "content": "Be brief."}, ASKED, reply]}
    assert trace_of(corpus, tmp_path, row).prompt[0] == {"role": ours, "content": "Be brief."}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "tool", "content": "x"}, "unknown role of a message"),
        ({"content": "x"}, "no role"),
        ({"role": "user"}, "no text"),
        ("x", "no message"),
    ],
)
def test_what_is_wrong_with_a_message_is_said(
    message: object, words: str, corpus: Corpus, item: dict[str, str], tmp_path: Path
) -> None:
    reply = {"role": "assistant", "content": f"<think>a</think>{answer_of(item)}"}
    with pytest.raises(InputError, match=words):
        bring(corpus, tmp_path, {**item, "messages": [message, ASKED, reply]})


# --- columns that are mapped ------------------------------------------------------------------------------------------


def test_thoughts_in_a_column_of_their_own_become_the_think_block(
    corpus: Corpus, item: dict[str, str], tmp_path: Path
) -> None:
    row = {**item, "prompt": "What happens?", "completion": answer_of(item), "reasoning_content": "because"}
    trace = trace_of(corpus, tmp_path, row, columns={"thinking": "reasoning_content"})
    assert trace.completion == f"<think>because</think>{answer_of(item)}"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_beside_a_completion_are_kept_under_any_name(
    name: str, corpus: Corpus, item: dict[str, str], tmp_path: Path
) -> None:
    row = {**item, "prompt": "What happens?", "completion": answer_of(item), name: "because"}
    assert trace_of(corpus, tmp_path, row).completion == f"<think>because</think>{answer_of(item)}"
    whole = f"<think>because</think>{answer_of(item)}"
    assert trace_of(corpus, tmp_path, {**row, "completion": whole}).completion == whole


@pytest.mark.parametrize(
    ("value", "said"), [([{"type": "text", "text": "because"}], "<think>because</think>"), (True, ""), (512, "")]
)
def test_a_column_called_thinking_may_hold_parts_or_a_flag(
    value: object, said: str, corpus: Corpus, item: dict[str, str], tmp_path: Path
) -> None:
    row = {**item, "prompt": "What happens?", "completion": answer_of(item), "thinking": value}
    assert trace_of(corpus, tmp_path, row).completion == f"{said}{answer_of(item)}"


def test_a_completion_is_the_assistant_s_message(corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    row = {**item, "prompt": "What happens?"}
    reply = {"role": "assistant", "content": f"<think>a</think>{answer_of(item)}"}
    assert trace_of(corpus, tmp_path, {**row, "completion": reply}).completion == reply["content"]
    with pytest.raises(InputError, match="messages do not end in a reply"):
        bring(corpus, tmp_path, {**row, "completion": [{**reply, "role": "user"}]})


def test_a_reason_without_a_verdict_is_refused(corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    row = {**item, "prompt": "What happens?", "completion": f"<think>a</think>{answer_of(item)}", "mine": "x"}
    with pytest.raises(InputError, match="--map reason=mine: goes with a verdict"):
        bring(corpus, tmp_path, row, columns={"reason": "mine"})


def test_a_word_that_no_row_has_is_refused(corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    row = {**item, "prompt": "What happens?", "completion": f"<think>a</think>{answer_of(item)}"}
    with pytest.raises(InputError, match="--label up=upregulated: no row has it"):
        bring(corpus, tmp_path, row, labels={"up": "upregulated"})
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.parametrize("ours", ["prompt", "system", "completion", "thinking", "answer"])
def test_a_column_beside_messages_is_refused(ours: str, corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    reply = {"role": "assistant", "content": f"<think>a</think>{answer_of(item)}"}
    with pytest.raises(InputError, match=rf"--map {ours}=mine: .*messages"):
        bring(corpus, tmp_path, {**item, "messages": [ASKED, reply], "mine": "x"}, columns={ours: "mine"})


@pytest.mark.parametrize("ours", ["prompt", "system"])
def test_a_prompt_beside_prompts_of_ours_is_refused(
    ours: str, corpus: Corpus, item: dict[str, str], tmp_path: Path
) -> None:
    row = {**item, "completion": f"<think>a</think>{answer_of(item)}", "mine": "x"}
    with pytest.raises(InputError, match=rf"--map {ours}=mine: .*ours"):
        bring(corpus, tmp_path, row, columns={ours: "mine"}, prompts=PromptConfig())


@pytest.mark.parametrize("ours", ["answer", "thinking"])
def test_an_answer_or_thoughts_without_their_other_half_are_refused(
    ours: str, corpus: Corpus, item: dict[str, str], tmp_path: Path
) -> None:
    row = {**item, "prompt": "What happens?", "mine": item["label"]}
    if ours == "answer":  # beside a whole text it would say nothing
        row["completion"] = f"<think>a</think>{answer_of(item)}"
    with pytest.raises(InputError, match=rf"--map {ours}=mine"):
        bring(corpus, tmp_path, row, columns={ours: "mine"})


@pytest.mark.parametrize("ours", ["verdict", "reason"])
def test_a_verdict_beside_a_critic_is_refused(ours: str, corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    row = {
        **item, "prompt": "What happens?", "completion": f"<think>a</think>{answer_of(item)}",
        "critic": {"verdict": "good", "reason": "x"}, "mine": "bad",
    }  # fmt: skip
    with pytest.raises(InputError, match=rf"--map {ours}=mine"):
        bring(corpus, tmp_path, row, columns={ours: "mine"})


def test_labels_that_nothing_could_use_are_refused(corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    row = {key: value for key, value in item.items() if key != "label"}
    row |= {"prompt": "What happens?", "completion": f"<think>a</think>{answer_of(item)}"}
    with pytest.raises(InputError, match="--label up="):
        bring(corpus, tmp_path, row, labels={"up": "upregulated"})


def test_a_column_of_two_types_that_is_not_used(corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    row = {**item, "prompt": "What happens?", "completion": f"<think>a</think>{answer_of(item)}", "meta": 1}
    assert bring(corpus, tmp_path, row, {**row, "meta": "a"}).kept == 1


def test_a_key_that_is_there_twice_is_refused(corpus: Corpus, item: dict[str, str], tmp_path: Path) -> None:
    row = {**item, "prompt": "What happens?", "completion": f"<think>a</think>{answer_of(item)}"}
    (tmp_path / "s.jsonl").write_text(json.dumps(row)[:-1] + ', "completion": "other"}\n')
    with pytest.raises(InputError, match="'completion' .*twice"):
        import_traces(str(tmp_path / "s.jsonl"), tmp_path / "t.jsonl", corpus)
