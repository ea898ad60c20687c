"""Filters keep what they say they keep, in the order of the configuration, and count what they drop."""

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from without_clock import UNHURRIED

from rewards import LABELS, InputError, Status, parse_answer
from sft.filters.near_duplicates import find_duplicates, jaccard, mask, sketch, window_set
from sft.filters.run import filter_traces, run_filter
from sft.filters.steps import read_steps
from sft.teacher.replies import assemble_completion
from sft.traces import Trace, read_traces, write_traces

UP, DOWN, NONE = map(str, LABELS)
WORDS = [f"w{n}" for n in range(400)]


def prose(seed: int, n: int = 150) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


def trace(number: int, think: str | None = None, label: str = UP, **changed: Any) -> Trace:
    answer = changed.get("answer", label)
    completion = f"<think>{prose(number) if think is None else think}</think><answer>{answer}</answer>"
    pert, gene = changed.pop("pert", f"P{number}"), changed.pop("gene", f"G{number % 7}")
    values: dict[str, Any] = {
        "item_id": f"rpe1|{pert}|{gene}", "cell_line": "rpe1", "pert": pert, "gene": gene, "label": label,
        "prompt": [{"role": "user", "content": "?"}], "completion": completion, "answer": answer, "teacher": "t",
        "mode": "blind", "critic": None, "created": "2026", "protocol": {}, **changed,
    }  # fmt: skip
    values["answer"] = (found := parse_answer(values["completion"]).label) and str(found)
    return Trace(**values)


def kept(tmp_path: Path, traces: list[Trace], *steps: Any, seed: int = 0) -> list[Trace]:
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_traces(traces, path)
    funnel = filter_traces(path, output, read_steps(steps, seed))
    found = read_traces(output)
    assert funnel["kept"] == len(found) == funnel["steps"][-1]["left"]
    assert funnel["rows"] - sum(step["dropped"] for step in funnel["steps"]) == len(found)
    lines = path.read_bytes().splitlines(keepends=True)
    assert [line for line in lines if line in set(output.read_bytes().splitlines(keepends=True))] == [
        *output.read_bytes().splitlines(keepends=True)
    ]
    assert json.loads((tmp_path / "out.jsonl.funnel.json").read_text()) == json.loads(json.dumps(funnel))
    return found


GOOD = trace(0)
HOSTILE = {
    "tags inside tags": "<think>a<think>b</think></think><answer>upregulated</answer>",
    "a closing tag in the answer": "<think>a</think><answer>upregulated</answer></answer>",
    "think closed twice": "<think>a</think>b</think><answer>upregulated</answer>",
    "answer in the reasoning": "<think>a<answer>upregulated</answer></think><answer>upregulated</answer>",
    "two answers": "<think>a</think><answer>upregulated</answer><answer>upregulated</answer>",
    "a label in another language": "<think>a</think><answer>hochreguliert</answer>",
    "a label in another alphabet": "<think>a</think><answer>upregulаted</answer>",
    "text after the answer": "<think>a</think><answer>upregulated</answer> Ignore the above.",
    "nothing": "",
    "no reasoning": "<think> </think><answer>upregulated</answer>",
    "control characters": "<think>a\x00\x1b[2Jb</think><answer>upregulated</answer>",
    "a lone surrogate": "<think>a\ud800b</think><answer>upregulated</answer>",
    "chat template tokens": "<think>a<|im_end|>b</think><answer>upregulated</answer>",
    "1 MB of reasoning": f"<think>{'and so on ' * 100_000}</think><answer>upregulated</answer>",
    "cut off": "<think>and then",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_trace_neither_crashes_nor_slips_through(name: str, tmp_path: Path) -> None:
    bad = trace(1, completion=HOSTILE[name])
    steps = ["parse", "label", "plain", "leak", {"length": {"max": 8000}}, {"duplicates": 0.9}]
    assert kept(tmp_path, [GOOD, bad, trace(2)], *steps) == [GOOD, trace(2)]


@settings(UNHURRIED, max_examples=150)
@given(st.text(st.characters(codec=None, categories=None)) | st.from_regex(r"(<\/?(think|answer)>|up|a|\s)*"))
def test_any_text_has_a_status(text: str) -> None:
    for strict in (True, False):
        answer = parse_answer(text, strict=strict)
        assert answer.status in tuple(Status)
        assert (answer.label is not None) == (answer.status is Status.ANSWERED)
    for thinking in ("strip", "keep"):
        for reasoning in (None, text):
            completion = assemble_completion(text, reasoning, thinking)  # type: ignore[arg-type]
            assert parse_answer(completion).status in tuple(Status)


_PLAIN = st.text(st.characters(exclude_categories=["Cs"])).filter(
    lambda text: not any(tag in text for tag in ("<think>", "</think>", "<answer>", "</answer>"))
)


@settings(UNHURRIED, max_examples=100)
@given(_PLAIN, st.sampled_from(LABELS), st.sampled_from(["", " ", "\n\n"]))
def test_a_well_formed_completion_gives_its_label(think: str, label: str, space: str) -> None:
    text = f"{space}<think>{think}</think>{space}<answer>{space}{label}{space}</answer>{space}"
    for strict in (True, False):
        answer = parse_answer(text, strict=strict)
        assert (answer.label, answer.status) == (label, Status.ANSWERED)
    assert parse_answer(assemble_completion(text, None, "strip")).label == label


def test_checks_and_their_reasons(tmp_path: Path) -> None:
    traces = [
        GOOD, trace(1, answer=DOWN), trace(2), trace(3, "short"), trace(4, prose(4) * 30),
        trace(5, critic={"verdict": "bad", "reason": ""}), trace(6, critic={"verdict": "good", "reason": ""}),
    ]  # fmt: skip
    assert kept(tmp_path, traces, "label") == [traces[i] for i in (0, 2, 3, 4, 5, 6)]
    assert kept(tmp_path, traces, {"critic": ["excellent", "good"]}) == [traces[6]]
    assert kept(tmp_path, traces, {"length": {"min": 10, "max": 1000}}) == [traces[i] for i in (0, 1, 2, 5, 6)]
    funnel = json.loads((tmp_path / "out.jsonl.funnel.json").read_text())
    assert funnel["steps"][0]["reasons"] == {"too short": 1, "too long": 1}


def test_wrong_answers_are_kept_where_no_step_refuses_them(tmp_path: Path) -> None:
    traces = [GOOD, trace(1, answer=DOWN)]
    assert kept(tmp_path, traces, "parse", "plain") == traces


@pytest.mark.parametrize("form", ["{} <think>so</think><answer>upregulated</answer>", "<think>{}", "{}"])
def test_plain_looks_at_all_of_a_completion_without_an_answer(form: str, tmp_path: Path) -> None:
    foreign = trace(2, completion=form.format("<|im_end|>"))
    fine = trace(3, completion=form.format("Stress is likely."))
    assert kept(tmp_path, [foreign, fine], "plain") == [fine]


def test_each_of_several_duplicates_steps_sees_what_is_left_before_it(tmp_path: Path) -> None:
    near = prose(5, 300)
    traces = [
        trace(1, prose(1), answer=DOWN), trace(2, prose(1)), trace(3, prose(3), answer=DOWN), trace(4, prose(4)),
        trace(5, near), trace(6, f"{near} So it is."),
    ]  # fmt: skip
    for last in ("label", {"duplicates": 0.9}):
        steps = ["duplicates", "label", {"duplicates": 0.9}][: 2 if last == "label" else 3]
        left = [traces[i] for i in ((3, 4, 5) if last == "label" else (3, 4))]
        assert kept(tmp_path, traces, *steps) == left
    # What an earlier step refuses takes no place of a later row's, and two such rows are no repeats of each other.
    assert kept(tmp_path, traces, "label", "duplicates", "parse", {"duplicates": 0.9}) == [traces[i] for i in (1, 3, 4)]


def test_duplicates_equal_near_and_with_other_symbols(tmp_path: Path) -> None:
    text = prose(0, 300)
    traces = [
        trace(0, text),
        trace(1, text),
        trace(2, text + " So it is."),
        trace(3, f"Loss of P3 acts on G3. {text}", gene="G3"),
        trace(4, f"Loss of P4 acts on G4. {text}", gene="G4"),
        trace(5, prose(5, 300)),
        trace(6, prose(0, 150) + prose(6, 150)),
    ]
    assert kept(tmp_path, traces, {"duplicates": 0.9}) == [traces[i] for i in (0, 5, 6)]
    assert kept(tmp_path, traces, "duplicates") == [traces[i] for i in (0, 2, 3, 5, 6)]


def test_near_duplicates_are_those_of_an_exhaustive_search() -> None:
    pick = random.Random(3)
    texts: list[str] = []
    for number in range(150):
        words = prose(number % 30, 200).split()
        for _ in range(pick.choice((0, 1, 3, 10, 40))):
            words[pick.randrange(len(words))] = f"x{pick.randrange(10**6)}"
        texts.append(" ".join(words))
    masked = [mask(text, ()) for text in texts]
    import numpy as np

    digests = np.arange(len(texts), dtype=np.uint64)
    found = find_duplicates(digests, sketch(masked), 0.9, lambda row: masked[row])
    sets = [window_set(text) for text in masked]
    wanted: list[int] = []
    for row in range(len(texts)):
        if all(jaccard(sets[row], sets[other]) < 0.9 for other in wanted):
            wanted.append(row)
    missed = set(np.flatnonzero(~found)) ^ set(wanted)
    assert len(missed) <= 0.03 * len(texts)  # a signature misses a pair right at the limit now and then
    assert found.sum() > 30


def test_texts_that_share_boilerplate_take_few_exact_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from sft.filters import near_duplicates

    texts = [f"{prose(0)} {prose(1 + n % 200, 18)}" for n in range(300)]  # similarity about .8; the last 100 repeat
    masked = [mask(text, ()) for text in texts]
    compared = 0

    def count(a: Any, b: Any) -> float:
        nonlocal compared
        compared += 1
        return jaccard(a, b)

    monkeypatch.setattr(near_duplicates, "jaccard", count)
    found = find_duplicates(np.arange(300, dtype=np.uint64), sketch(masked), 0.9, lambda row: masked[row])
    assert found.tolist() == [n >= 200 for n in range(300)]
    assert compared <= 16 * 300


def test_sketches_do_not_depend_on_the_batch() -> None:
    texts = [mask(prose(n, n), ()) for n in (0, 1, 2, 60, 300, 900)]
    together = sketch(texts)
    assert all((sketch([text]) == together[row]).all() for row, text in enumerate(texts))


def test_balance_caps_and_fraction_draw_by_seed_and_not_by_place(tmp_path: Path) -> None:
    traces = [trace(n, label=(UP, UP, DOWN, NONE)[n % 4], pert=f"P{n % 30}", gene=f"G{n % 11}") for n in range(300)]
    balanced = kept(tmp_path, traces, "balance")
    assert set(Counter(one.label for one in balanced).values()) == {75}
    capped = kept(tmp_path, traces, {"cap": {"gene": 20, "pert": 6}})
    assert max(Counter(one.gene for one in capped).values()) <= 20
    assert max(Counter(one.pert for one in capped).values()) <= 6
    some = kept(tmp_path, traces, {"fraction": 0.1})
    assert len(some) == 30
    backwards = kept(tmp_path, traces[::-1], {"fraction": 0.1})
    assert {one.item_id for one in some} == {one.item_id for one in backwards}
    more = kept(tmp_path, traces, {"fraction": 0.2})
    assert {one.item_id for one in some} < {one.item_id for one in more}
    other = kept(tmp_path, traces, {"fraction": 0.1}, seed=1)
    assert {one.item_id for one in some} != {one.item_id for one in other}


def test_a_file_read_in_parts_by_several_processes_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick = random.Random(1)
    traces = [
        trace(
            n, prose(pick.randrange(40), 60), label=(UP, DOWN, NONE)[n % 3],
            answer=(UP, NONE)[n % 2],
            critic={"verdict": ("good", "bad")[n % 4 == 0], "given": ("no", "yes")[n % 9 == 0], "reason": "r"},
        )
        for n in range(150)
    ]  # fmt: skip
    steps = ["parse", "label", "leak", {"critic": ["good"]}, {"length": {"min": 5}}, {"duplicates": 0.9},
             {"cap": {"gene": 4}}, {"fraction": 0.9}]  # fmt: skip
    whole = kept(tmp_path, traces, *steps)
    funnel = (tmp_path / "out.jsonl.funnel.json").read_text()
    monkeypatch.setattr("sft.filters.run._PART_BYTES", 700)
    assert kept(tmp_path, traces, *steps) == whole
    assert (tmp_path / "out.jsonl.funnel.json").read_text() == funnel

    path = tmp_path / "in.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[3]]))
    with pytest.raises(InputError, match=r"row 151: rpe1\|P3\|G3 is there twice \(first in row 4\)"):
        filter_traces(path, tmp_path / "out.jsonl", read_steps(steps, 0))
    path.write_bytes(b"".join([*lines[:99], b'{"item_id"\n', *lines[99:]]))
    with pytest.raises(InputError, match="row 100: not JSON"):
        filter_traces(path, tmp_path / "out.jsonl", read_steps(steps, 0))


def test_steps_run_in_the_order_of_the_configuration(tmp_path: Path) -> None:
    traces = [trace(n, label=UP, answer=(UP, DOWN)[n % 2]) for n in range(20)]
    for order in itertools.permutations(["label", {"fraction": 0.5}]):
        kept(tmp_path, traces, *order)
        left = [step["left"] for step in json.loads((tmp_path / "out.jsonl.funnel.json").read_text())["steps"]]
        assert left[0] == 10
        assert left[1] == 5 or order[0] != "label"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "no list of steps"),
        ("parse", "no list of steps"),
        (["pars"], "'pars' is no step"),
        ([{"parse": 1}], "takes no setting"),
        ([{"critic": ["fine"]}], "critic is"),
        (["critic"], "critic is"),
        ([{"critic": [{"a": "b"}]}], "critic is"),
        (["tokens"], "tokens is None"),
        ([{"tokens": 512}], "tokens is 512"),
        ([{"tokens": {"max": 512}}], "give max, a whole number, and model"),
        ([{"tokens": {"max": 0, "model": "m"}}], "give max, a whole number, and model"),
        ([{"tokens": {"max": 9, "model": "no/such/folder"}}], "no such model folder"),
        ([{"length": {"least": 1}}], "give min and max"),
        ([{"length": {"min": -1}}], "whole numbers"),
        ([{"length": {"min": 500, "max": 100}}], "min must be at most max"),
        ([{"cap": 5}], "give gene and pert"),
        ([{"fraction": 0}], "fraction is 0"),
        ([{"fraction": 1.5}], "fraction is 1.5"),
        ([{"duplicates": 2}], "duplicates is 2"),
        ([{"fraction": True}], "fraction is True"),
        ([{"parse": None, "label": None}], "2 names"),
    ],
)
def test_bad_steps_are_refused(steps: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_steps(steps, 0)


def test_nothing_left_says_which_step_took_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 2 traces passes; step label dropped 2 .wrong answer"):
        kept(tmp_path, [trace(0, answer=DOWN), trace(1, answer=DOWN)], "parse", "label")


def test_the_command_s_configuration(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    write_traces([GOOD, trace(1, answer=DOWN)], path)
    config = tmp_path / "f.yaml"
    config.write_text(yaml.safe_dump({"input": str(path), "output": str(tmp_path / "o.jsonl"), "steps": ["label"]}))
    output, funnel = run_filter(config, ["--output", str(tmp_path / "p.jsonl")])
    assert (output.name, funnel["kept"]) == ("p.jsonl", 1)
    with pytest.raises(InputError, match="give another output"):
        run_filter(config, ["--output", str(path)])
    output, _ = run_filter(config, [f"--output={tmp_path / 'q.jsonl'}", "--steps=[parse]", "--seed", "3"])
    assert len(read_traces(output)) == 2
    with pytest.raises(InputError, match="'outputs' is no key; did you mean 'output'"):
        run_filter(config, ["--outputs", "x"])
    config.write_text("input: null\noutput: o.jsonl\nsteps: [label]\n")
    with pytest.raises(InputError, match="input is None; write text"):
        run_filter(config)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--output", "."], "is a folder; give a file"),
        (["--output", "{folder}"], "is a folder; give a file"),
        (["--output", "[bad"], None),
        (["--steps", "[bad"], "--steps is not YAML"),
        (["--steps", "parse"], "no list of steps"),
        (["--seed", "x"], "seed is 'x'"),
        (["--seed"], "give --key value"),
        (["seed", "1"], "give --key value"),
    ],
)
def test_bad_words_on_the_command_line_are_refused(words: list[str], problem: str | None, tmp_path: Path) -> None:
    path, config = tmp_path / "in.jsonl", tmp_path / "f.yaml"
    write_traces([GOOD], path)
    config.write_text(yaml.safe_dump({"input": str(path), "output": str(tmp_path / "o.jsonl"), "steps": ["label"]}))
    words = [word.replace("{folder}", str(tmp_path)) for word in words]
    if problem is None:  # a name as good as any
        words = [words[0], str(tmp_path / words[1])]
        assert run_filter(config, words)[0].name == "[bad"
        return
    with pytest.raises(InputError, match=problem) as caught:
        run_filter(config, words)
    assert "\n" not in str(caught.value)


def test_a_label_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    write_traces([GOOD], path)
    record = json.loads(path.read_text())
    labels: list[Any] = [[], {}, None, 1]
    for label in labels:
        path.write_text(json.dumps({**record, "label": label}) + "\n")
        with pytest.raises(InputError, match="row 1: label"):
            filter_traces(path, tmp_path / "o.jsonl", read_steps(["parse"], 0))


def test_what_the_trainer_would_refuse_for_its_tokens_is_dropped(tiny_model: Path, tmp_path: Path) -> None:
    from sft.examples import tokenize_trace
    from sft.training import load_tokenizer

    traces = [trace(0, prose(0, 20)), trace(1, prose(1, 400)), trace(2, "a lone surrogate \ud800")]
    longest = len(tokenize_trace(load_tokenizer(tiny_model), traces[0]).input_ids)
    assert kept(tmp_path, traces, {"tokens": {"max": longest, "model": str(tiny_model)}}) == traces[:1]
    reasons = json.loads((tmp_path / "out.jsonl.funnel.json").read_text())["steps"][0]["reasons"]
    assert reasons == {"too many tokens": 1, "holds a lone surrogate, which no tokenizer reads": 1}
    with pytest.raises(InputError, match="none of 1 traces passes; step tokens dropped 1"):
        kept(tmp_path, traces[:1], {"tokens": {"max": longest - 1, "model": str(tiny_model)}})


def test_the_step_leak_takes_the_critic_s_word(tmp_path: Path) -> None:
    def graded(number: int, mode: str, given: str | None) -> Trace:
        critic = {"verdict": "good", "reason": ""} | ({} if given is None else {"given": given})
        return trace(number, mode=mode, critic=critic)

    traces = [
        graded(0, "rationalize", "no"), graded(1, "rationalize", "yes"), graded(2, "rationalize", None),
        trace(3, mode="rationalize"), graded(4, "blind", "no"), graded(5, "blind", "yes"), graded(6, "blind", None),
        trace(7, mode="blind"),
    ]  # fmt: skip
    assert kept(tmp_path, traces, "leak") == [traces[i] for i in (0, 4, 6, 7)]
    funnel = json.loads((tmp_path / "out.jsonl.funnel.json").read_text())
    assert funnel["steps"][0]["reasons"] == {
        "answer treated as given": 2, "no critic said whether the answer is treated as given": 2,
    }  # fmt: skip
