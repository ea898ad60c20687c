"""The audit finds each kind of leak, wherever it was put, and a leak stops training."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus import Corpus, open_corpus
from benchmarks.perturbqa import apply_split
from benchmarks.prompts import PromptConfig
from rewards import CheckError, InputError
from sft.audit import audit_traces, corpus_of
from sft.template_teacher import generate
from sft.traces import Trace, write_traces


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus("sample")


@pytest.fixture(scope="module")
def traces(corpus: Corpus) -> list[Trace]:
    return generate(corpus.train.sample(300, random_state=0), corpus, PromptConfig(evidence=5), seed=0)


def failing(traces: list[Trace], corpus: Corpus) -> set[str]:
    audit = audit_traces(traces, corpus)
    assert audit.clean == (not any(one.failed for one in audit.findings.values()))
    return {name for name, one in audit.findings.items() if one.failed}


def ask(trace: Trace, text: str) -> Trace:
    return replace(trace, prompt=[*trace.prompt[:-1], {"role": "user", "content": trace.prompt[-1]["content"] + text}])


def moved(trace: Trace, row: Any) -> Trace:
    return replace(
        trace, item_id=str(row.item_id), cell_line=str(row.cell_line), pert=str(row.pert), gene=str(row.gene),
        label=str(row.label),
    )  # fmt: skip


def test_our_own_traces_are_clean_and_all_of_them_are_looked_at(traces: list[Trace], corpus: Corpus) -> None:
    audit = audit_traces(traces, corpus)
    assert audit.clean
    audit.require_clean("file")
    assert audit.traces == 300
    quoted = sum(trace.prompt[-1]["content"].count("): ") for trace in traces)
    assert audit.findings["quoted test label"].checked >= quoted > 300
    assert audit.facts()["checks"]["every item is a training item"] == "0 of 300 fail"


def test_each_leak_is_found_among_300_traces(traces: list[Trace], corpus: Corpus) -> None:
    test_row = next(corpus.test.itertuples())
    leak = moved(traces[0], test_row)
    assert failing([*traces, leak], corpus) == {"train"}
    hidden = replace(leak, item_id=traces[1].item_id)
    assert failing([*traces[2:], hidden], corpus) == {"train", "id"}
    unknown = replace(traces[0], item_id="rpe1|NOPE|CALR", cell_line="rpe1", pert="NOPE", gene="CALR")
    assert failing([*traces, unknown], corpus) == {"known"}
    wrong = next(label for label in ("upregulated", "downregulated") if label != traces[0].label)
    assert failing([replace(traces[0], label=wrong)], corpus) == {"label"}


@pytest.mark.parametrize(
    "quote",
    [
        "\n{pert} (0.9): {label}",
        "\nIt is known that {pert}, when lost, makes it {label}.",
        "\nSimilar: FOO, {pert}, BAR -> {label}",
        "\n{pert}: not  Differentially Expressed",
        "\n{pert} is {label} and FOO is downregulated",
        "\nIn {line}, {pert}: {label}",
    ],
)
def test_a_test_label_quoted_in_a_prompt_is_found_in_any_words(quote: str, traces: list[Trace], corpus: Corpus) -> None:
    trained = {(trace.cell_line, trace.gene): trace for trace in traces}
    row = next(row for row in corpus.test.itertuples() if (str(row.cell_line), str(row.gene)) in trained)
    trace = trained[str(row.cell_line), str(row.gene)]
    leaking = ask(trace, quote.format(pert=row.pert, label=row.label, line=str(row.cell_line).upper()))
    assert failing([*traces, leaking], corpus) == {"quoted test label"}


def test_a_training_label_of_another_line_is_no_leak(corpus: Corpus) -> None:
    """The same pair can be test in one line and training in another."""
    both = corpus.test.merge(corpus.train, on=["pert", "gene"], suffixes=("_test", "_train"))
    row = next(both.itertuples())
    here = corpus.train[(corpus.train["cell_line"] == row.cell_line_test) & (corpus.train["gene"] == row.gene)]
    trace = generate(here.head(1), corpus, PromptConfig(evidence=1), seed=0)[0]
    assert not failing([ask(trace, f"\nIn {row.cell_line_train}, {row.pert}: {row.label_train}")], corpus)
    assert failing([ask(trace, f"\nIn {row.cell_line_test}, {row.pert}: {row.label_test}")], corpus)


def test_an_item_s_own_label_in_its_prompt_is_found(traces: list[Trace], corpus: Corpus) -> None:
    trace = traces[0]
    assert failing([ask(trace, f"\n{trace.pert} (1.0): {trace.label}")], corpus) == {"own label"}


def test_a_held_out_line_must_not_appear(full_labels: Path) -> None:
    official = open_corpus(full_labels)
    held_out = Corpus(official.source, "holdout:rpe1", apply_split(official.labels, "holdout:rpe1"))
    rows = official.train[official.train["cell_line"].isin(["rpe1", "k562"])].sample(400, random_state=0)
    traces = generate(rows, official, PromptConfig(evidence=3), seed=0)
    assert not failing(traces, official)
    assert failing(traces, held_out) >= {"train", "line"}
    others = [trace for trace in traces if trace.cell_line != "rpe1"]
    assert not failing(others, held_out)
    with pytest.raises(
        CheckError, match=r"t\.jsonl: leak: train: \d+ of 400 break .* under split holdout:rpe1"
    ) as caught:
        audit_traces(traces, held_out).require_clean("t.jsonl")
    assert "\n" not in str(caught.value)


def test_labels_are_found_from_the_traces_own_protocol(traces: list[Trace], corpus: Corpus) -> None:
    assert corpus_of(traces[0].protocol, None, None).is_sample
    with pytest.raises(InputError, match="set split"):
        corpus_of({}, "sample", None)


def test_a_leak_stops_training_before_the_model_is_touched(
    traces: list[Trace], corpus: Corpus, tmp_path: Path, smollm2: Path
) -> None:
    from sft.train import train

    path = tmp_path / "t.jsonl"
    write_traces([*traces[:8], moved(traces[8], next(corpus.test.itertuples()))], path)
    config = {
        "output_dir": str(tmp_path / "run"), "traces": str(path), "model_name_or_path": str(smollm2), "use_peft": True,
        "max_length": 512, "use_cpu": True, "bf16": False,
    }  # fmt: skip
    with pytest.raises(CheckError, match="leak: train: 1 of 9"):
        train(config)
    assert not (tmp_path / "run" / "adapter").exists()
