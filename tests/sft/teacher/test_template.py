"""The offline teacher ends in the truth, quotes training labels only, and varies its words."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus, draw_items, open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from rewards import LABELS, InputError, Status, parse_answer
from sft.teacher.template import NAME, generate
from sft.traces import Trace, read_traces, write_traces

PROMPT = PromptConfig(evidence=3)
UP, DOWN, NONE = map(str, LABELS)
VERB = {UP: "raise", DOWN: "lower", NONE: "spare"}


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


@pytest.fixture(scope="module")
def items(sample: Corpus) -> pd.DataFrame:
    return draw_items(sample.train, 300, seed=0, balance=True)


@pytest.fixture(scope="module")
def traces(sample: Corpus, items: pd.DataFrame) -> list[Trace]:
    return generate(items, sample, PROMPT, seed=0)


def test_every_trace_is_well_formed_and_ends_in_the_true_label(items: pd.DataFrame, traces: list[Trace]) -> None:
    assert [trace.item_id for trace in traces] == items["item_id"].tolist()
    for trace, label in zip(traces, items["label"].astype(str), strict=True):
        answer = parse_answer(trace.completion)
        assert answer.status is Status.ANSWERED
        assert answer.label == trace.answer == trace.label == label
        assert answer.think
        assert "{" not in trace.completion
        assert (trace.teacher, trace.mode, trace.critic) == (NAME, "rationalize", None)


def test_the_prompt_is_the_students(sample: Corpus, items: pd.DataFrame, traces: list[Trace]) -> None:
    assert [trace.prompt for trace in traces] == build_prompts(items, sample, PROMPT)
    protocol = traces[0].protocol
    assert (protocol["evidence"], protocol["template"], protocol["lemmas"]) == (3, "three_class", False)
    assert (protocol["split"], protocol["data"]) == ("official", sample.digest)


def test_the_reasoning_counts_the_evidence_that_the_prompt_quotes(
    sample: Corpus, items: pd.DataFrame, traces: list[Trace]
) -> None:
    evidence = dict(list(sample.evidence(items, 3).groupby("item_id")))
    with_evidence = 0
    for trace in traces:
        think = str(parse_answer(trace.completion).think)
        found = evidence.get(trace.item_id)
        if found is None:
            assert re.search("No similar knockdown|Nothing like|no known neighbours", think)
            continue
        with_evidence += 1
        votes = Counter(found["label"])
        assert {verb: int(n) for n, verb in re.findall(r"\b(\d+) (raise|lower|spare)s?\b", think)} == {
            VERB[label]: n for label, n in votes.items()
        }
        nearest = found.iloc[0]
        assert nearest["pert"] in think
        assert f"{VERB[nearest['label']]}s it" in think
        assert nearest["pert"] != trace.pert
    assert with_evidence > 200


def test_the_cell_line_or_the_genes_rate_is_weighed(traces: list[Trace]) -> None:
    words = "hardly any|few|some|about half the|many|most"
    assert all(re.search(f"({words}) knockdowns", str(parse_answer(trace.completion).think)) for trace in traces)


def test_a_cell_line_of_one_s_own_keeps_its_letter_case(make_labels: Callable[[int], pd.DataFrame]) -> None:
    labels = make_labels(0)
    line = labels["cell_line"].iloc[0]
    mine = labels[labels["cell_line"] == line].assign(cell_line="h1-ESC")
    mine["item_id"] = "h1-ESC|" + mine["pert"] + "|" + mine["gene"]
    train = mine[mine["split"] == "train"].head(20)
    texts = [trace.completion for trace in generate(train, Corpus("small", "official", mine), PROMPT, seed=0)]
    assert any(" in h1-ESC" in text or "In h1-ESC," in text for text in texts)
    assert not any("H1-ESC" in text for text in texts)


def test_phrasing_varies(traces: list[Trace]) -> None:
    shapes = {
        re.sub(r"\d+", "N", re.sub("|".join(map(re.escape, {trace.pert, trace.gene})), "X", trace.completion))
        for trace in traces
    }
    assert len(shapes) > 150
    assert len({trace.completion.split()[0] for trace in traces}) >= 3


def test_one_seed_gives_one_text_whatever_the_order(sample: Corpus, items: pd.DataFrame, traces: list[Trace]) -> None:
    def texts(made: list[Trace]) -> dict[str, str]:
        return {trace.item_id: trace.completion for trace in made}

    assert texts(generate(items.iloc[::-1], sample, PROMPT, seed=0)) == texts(traces)
    other = texts(generate(items, sample, PROMPT, seed=1))
    assert sum(text != other[item] for item, text in texts(traces).items()) > 150


def test_traces_survive_a_file(tmp_path: Path, traces: list[Trace]) -> None:
    write_traces(traces, tmp_path / "traces.jsonl")
    assert read_traces(tmp_path / "traces.jsonl") == traces


def test_the_reasoning_leaves_its_label_to_the_end(make_labels: Callable[[int], pd.DataFrame]) -> None:
    """With another true label the evidence sentences stay the same: only the conclusion knows the truth."""
    labels = make_labels(0)
    train = labels[labels["split"] == "train"]
    for row in train.sample(5, random_state=1).index:
        texts = set()
        for label in (UP, DOWN, NONE):
            changed = labels.copy()
            changed.loc[row, "label"] = label
            (trace,) = generate(changed.loc[[row]], Corpus("small", "official", changed), PROMPT, seed=0)
            assert trace.answer == label
            texts.add(trace.completion.split(" knockdowns")[0])
        assert len(texts) == 1


def test_test_items_are_refused(sample: Corpus) -> None:
    mixed = pd.concat([sample.train.head(2), sample.test.head(1)])
    with pytest.raises(InputError, match="a test item") as error:
        generate(mixed, sample, PROMPT, seed=0)
    assert sample.test["item_id"].iloc[0] in str(error.value)


def test_a_prompt_that_quotes_no_labels_is_refused(sample: Corpus) -> None:
    for evidence in (0, ["graph,file=edges.csv"]):
        with pytest.raises(InputError, match="at least 1 similar knockdown"):
            generate(sample.train.head(1), sample, replace(PROMPT, evidence=evidence), seed=0)


def test_the_reasoning_leaves_out_what_a_budget_cut(make_labels: Callable[[int], pd.DataFrame]) -> None:
    corpus = Corpus("small", "official", make_labels(0))
    config, cut = PromptConfig(evidence=5, evidence_tokens=90), 0
    for trace in generate(corpus.train.iloc[::9], corpus, config, seed=0):
        shown = len(re.findall(r" \(-?\d\.\d\): ", trace.prompt[-1]["content"]))
        votes = map(int, re.findall(r"(\d+) (?:raise|lower|spare)s?", str(parse_answer(trace.completion).think)))
        assert sum(votes) == shown
        cut += "left out)" in trace.prompt[-1]["content"]
    assert cut > 10


def test_the_reasoning_counts_what_other_kinds_of_evidence_quote(make_labels: Callable[[int], pd.DataFrame]) -> None:
    corpus = Corpus("small", "official", make_labels(0))
    config = PromptConfig(evidence=["contrast,k=2", "other_lines"])
    counted = 0
    for trace in generate(corpus.train.iloc[::7], corpus, config, seed=0):
        contrast, elsewhere = trace.prompt[-1]["content"].split("The same knockdown and ")
        n = [len(re.findall(r" \(-?\d\.\d\)", contrast)), len(re.findall(": (up|down|not)", elsewhere))]
        think = str(parse_answer(trace.completion).think)
        if all(n):
            counted += 1
            sentences = re.split(r"(?<=\.) ", think)
            votes = [sum(map(int, re.findall(r"(\d+) (?:raise|lower|spare)s?", one))) for one in sentences]
            assert [one for one in votes if one] == n, think
    assert counted > 20


def test_a_direction_prompt_is_not_answered_with_a_label_it_does_not_offer(sample: Corpus) -> None:
    unchanged = sample.train[sample.train["label"] == NONE].head(1)
    with pytest.raises(InputError, match="direction"):
        generate(unchanged, sample, PromptConfig("direction", evidence=3), seed=0)
