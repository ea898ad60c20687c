"""The audit finds each kind of leak, wherever it was put, and a leak stops training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.screens.splits import apply_split
from rewards import LABELS, CheckError, InputError
from sft.audit.audit import audit_traces, corpus_of
from sft.teacher.template import generate
from sft.traces import Trace, write_traces


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus("sample")


@pytest.fixture(scope="module")
def traces(corpus: Corpus) -> list[Trace]:
    return generate(corpus.train.sample(100, random_state=0), corpus, PromptConfig(evidence=5), seed=0)


def failing(traces: list[Trace], corpus: Corpus) -> set[str]:
    audit = audit_traces(traces, corpus)
    assert audit.clean == (not any(one.failed for one in audit.findings.values()))
    return {name for name, one in audit.findings.items() if one.failed}


def ask(trace: Trace, text: str) -> Trace:
    """The trace with more in its prompt, which is then no longer of our template."""
    prompt = [*trace.prompt[:-1], {"role": "user", "content": trace.prompt[-1]["content"] + text}]
    return replace(trace, prompt=prompt, protocol={"split": trace.protocol["split"]})


def say(trace: Trace, reasoning: str) -> Trace:
    return replace(trace, completion=f"<think>{reasoning}</think><answer>{trace.label}</answer>", answer=trace.label)


def moved(trace: Trace, row: Any) -> Trace:
    return replace(
        trace, item_id=str(row.item_id), cell_line=str(row.cell_line), pert=str(row.pert), gene=str(row.gene),
        label=str(row.label),
    )  # fmt: skip


def test_our_own_traces_are_clean_and_all_of_them_are_looked_at(traces: list[Trace], corpus: Corpus) -> None:
    audit = audit_traces(traces, corpus)
    assert audit.clean
    audit.require_clean("file")
    assert audit.traces == 100
    checks = audit.facts()["checks"]
    assert checks["every item is a training item"] == "0 of 100 fail"
    assert checks["every prompt of our template is what the training labels give"] == "0 of 100 fail"
    assert checks["no line of a completion states a test label beside its symbols"] == "0 of 100 fail"


def test_what_is_not_audited_is_counted(traces: list[Trace], corpus: Corpus) -> None:
    audit = audit_traces([replace(traces[0], protocol={}), ask(traces[1], "!"), *traces[2:5]], corpus)
    assert audit.clean
    assert audit.facts()["not_audited"] == {
        "the traces were drawn under split official": 1,
        "every prompt of our template is what the training labels give": 2,
        "no rationalized reasoning treats its answer as given, says its critic": 5,
    }
    assert audit.findings["quoted test label"].checked == 2  # the others were built again


def test_each_leak_is_found_among_100_traces(traces: list[Trace], corpus: Corpus) -> None:
    test_row = next(corpus.test.itertuples())
    leak = moved(traces[0], test_row)
    leak = replace(leak, protocol={})
    assert failing([*traces, leak], corpus) == {"train"}
    hidden = replace(leak, item_id=traces[1].item_id)
    assert failing([*traces[2:], hidden], corpus) == {"train", "id"}
    unknown = replace(traces[0], item_id="rpe1|NOPE|CALR", cell_line="rpe1", pert="NOPE", gene="CALR")
    assert failing([*traces, unknown], corpus) == {"known"}
    wrong = next(label for label in ("upregulated", "downregulated") if label != traces[0].label)
    assert failing([replace(traces[0], label=wrong)], corpus) == {"label"}


def test_a_prompt_of_our_template_is_built_again(traces: list[Trace], corpus: Corpus) -> None:
    def changed(old: str, new: str) -> Trace:
        trace = next(trace for trace in traces if old in trace.prompt[-1]["content"])
        content = trace.prompt[-1]["content"].replace(old, new)
        return replace(trace, prompt=[*trace.prompt[:-1], {"role": "user", "content": content}])

    assert failing([*traces, changed("): not differentially expressed", "): upregulated")], corpus) == {"prompt"}
    assert failing([changed("hardly any other", "most other")], corpus) == {"prompt"}
    assert failing([replace(traces[0], prompt=traces[1].prompt)], corpus) >= {"prompt"}
    foreign = replace(traces[0], protocol={**traces[0].protocol, "template": None})
    other_labels = replace(traces[1], protocol={**traces[1].protocol, "data": "0" * 64})
    nonsense = replace(traces[2], protocol={**traces[2].protocol, "evidence": "five"})
    audit = audit_traces([foreign, other_labels, nonsense, traces[3]], corpus)
    assert str(audit.findings["prompt"]) == "0 of 1 fail, 3 not audited"


def test_traces_drawn_under_another_split_are_refused(traces: list[Trace], corpus: Corpus) -> None:
    """Evidence in them was computed from that split's training labels."""
    other = replace(traces[0], protocol={**traces[0].protocol, "split": "holdout:rpe1"})
    silent = replace(traces[1], protocol={})
    assert failing([*traces, other], corpus) == {"split"}
    audit = audit_traces([silent, traces[2]], corpus)
    assert str(audit.findings["split"]) == "0 of 1 fail, 1 not audited"


def row_of(corpus: Corpus, traces: list[Trace], label: str) -> tuple[Trace, Any]:
    """A trace, and a test item of its line and gene that has a label."""
    trained = {(trace.cell_line, trace.gene): trace for trace in traces}
    for row in corpus.test[corpus.test["label"] == label].itertuples():
        trace = trained.get((str(row.cell_line), str(row.gene)))
        if trace is not None:
            return trace, row
    raise AssertionError(f"no trace of a test gene that is {label}")


QUOTES = {
    "upregulated": (
        "\n{pert} (0.9): upregulated",
        "\nIt is known that {pert}, when lost, makes it up-regulated.",
        "\nSimilar: FOO, {pert}, BAR -> UPREGULATED",
        "\nIn {line}, {pert}: upregulated",
        "\n| {pert} | upregulated |",
        '\n{{"pert": "{pert}", "gene": "{gene}", "label": "upregulated"}}',
        "\n{pert}_KD: upregulated",
        "\n{pert}-KD: upregulated",
        "\n{pert}/FOO: upregulated",
        "\nThe upregulated one is {pert}.",
        "\n{pert}: up\u200bregulated",
        "\n{pert}: \uff35pregulated",
        "\n{pert}: **upregulated**",
        "\n{id}: upregulated",
        "\n{pert} knockdown: upregulation of {gene}",
        "\n{pert} (a synthetase; similar to ACTB and GAPDH): upregulated (may reflect stress)",
        "\nFOO is downregulated. {pert} upregulates it. Is BAR?",
    ),
    "downregulated": ("\n{pert}: downregulated", "\nLosing {pert} down-regulates {gene}."),
    "not differentially expressed": ("\n{pert}: Not Differentially Expressed",),
}


@pytest.mark.parametrize(("label", "quote"), [(label, quote) for label, quotes in QUOTES.items() for quote in quotes])
def test_a_test_label_on_one_line_of_a_prompt_is_found(
    label: str, quote: str, traces: list[Trace], corpus: Corpus
) -> None:
    trace, row = row_of(corpus, traces, label)
    line = str(row.cell_line).upper()
    text = quote.format(pert=row.pert, gene=row.gene, line=line, id=row.item_id)
    assert failing([ask(trace, text)], corpus) == {"quoted test label"}
    system = replace(ask(trace, ""), prompt=[{"role": "system", "content": text}, *trace.prompt])
    assert failing([system], corpus) == {"quoted test label"}


def test_a_test_label_of_another_gene_or_line_is_found(traces: list[Trace], corpus: Corpus) -> None:
    trace = traces[0]
    here, there = corpus.test["cell_line"] == trace.cell_line, corpus.test["cell_line"] != trace.cell_line
    other = corpus.test["gene"] != trace.gene
    for row in corpus.test[here & other].head(20).itertuples():
        assert failing([ask(trace, f"\n{row.pert} -> {row.gene}: {row.label}")], corpus) == {"quoted test label"}
    for row in corpus.test[there & other].head(20).itertuples():
        text = f"\nIn {str(row.cell_line).upper()}, {row.pert} leaves {row.gene} {row.label}"
        assert failing([ask(trace, text)], corpus) == {"quoted test label"}


@pytest.mark.parametrize(
    "text",
    [
        "\nIs {gene} upregulated by knockdown of {pert}?",
        "\n{pert} is a neighbour in function. Labels: upregulated; downregulated; not differentially expressed",
        "\n{pert} is alike.\nAnswer with one of: upregulated, downregulated, not differentially expressed",
        "\nIf FOO were essential, targets of BAR may be upregulated.",
        "\n{pert} was knocked down in similar work.",
        "\n{pert}: downregulated",
        "\n{pert} is alike.\nOptions:\n1. upregulated\n2. downregulated\n3. not differentially expressed",
        "\n- upregulated: {gene} goes up after {pert} loss\n- downregulated: {gene} goes down after {pert} loss",
        "\nFOO-{pert}X: upregulated",
    ],
)
def test_a_prompt_that_states_no_test_label_is_let_through(text: str, traces: list[Trace], corpus: Corpus) -> None:
    trace, row = row_of(corpus, traces, "upregulated")
    assert not failing([ask(trace, text.format(pert=row.pert, gene=row.gene))], corpus)


def test_a_symbol_within_another_symbol_is_not_named(corpus: Corpus) -> None:
    """NEDD8 is a test perturbation where NEDD8-MDP1, its neighbour, is a training one."""
    labels = corpus.labels.astype({"pert": str})
    test = next(corpus.test.itertuples())
    here = (labels["split"] == "train") & (labels["cell_line"] == test.cell_line) & (labels["gene"] == test.gene)
    trace = generate(labels[here].head(1), corpus, PromptConfig(evidence=1), seed=0)[0]
    joined = f"{test.pert}-MDP1"
    known = pd.concat([labels, labels[here].tail(1).assign(pert=joined)])
    asked = ask(trace, f"\n{joined}: {test.label}")
    assert not failing([asked], Corpus(corpus.source, corpus.split, known))
    assert failing([asked], corpus) == {"quoted test label"}


@pytest.mark.parametrize(
    ("reasoning", "found"),
    [
        ("Knockdown of {pert} leaves {gene} upregulated in this line, so here too.", True),
        ("{pert} (0.9): {gene} upregulated.", True),
        ("Loss of {pert} upregulates {gene}.", True),
        ("{gene} is upregulated upon {pert} KO.", True),
        ("It was {pert}-depleted, and {gene} up-regulated.", True),
        ("Knockdown of {pert} leaves {gene} downregulated.", False),
        ("Loss of {pert} stresses cells. {gene} is upregulated.", False),
        ("Loss of {pert} stresses cells.\n{gene} is upregulated.", False),
        ("Does loss of {pert} leave {gene} upregulated?", False),
        ("{pert}: upregulated.", False),
        ("Loss of {pert} leaves {gene} upregulated or downregulated.", False),
        ("Loss of {own} leaves {gene} upregulated.", False),
    ],
)
def test_reasoning_that_states_a_test_label(reasoning: str, found: bool, traces: list[Trace], corpus: Corpus) -> None:
    trace, row = row_of(corpus, traces, "upregulated")
    text = reasoning.format(pert=row.pert, gene=row.gene, own=trace.pert)
    assert failing([say(trace, text)], corpus) == ({"reasoning quotes a test label"} if found else set())


@pytest.mark.parametrize(
    "completion",
    [
        "{leak}<think>So.</think><answer>{label}</answer>",
        "<think>So.</think>{leak}<answer>{label}</answer>",
        "<think>So.</think><answer>{label}</answer>{leak}",
        "<think>So.</think><answer>{leak}</answer>",
        "<think>{leak}",
        "{leak}",
    ],
)
def test_a_test_label_is_found_anywhere_in_a_completion(completion: str, traces: list[Trace], corpus: Corpus) -> None:
    trace, row = row_of(corpus, traces, "upregulated")
    for leak, found in ((f"Knockdown of {row.pert} leaves {row.gene} upregulated.", True), ("It is known.", False)):
        changed = replace(trace, completion=completion.format(leak=leak, label=trace.label), answer=None)
        assert failing([changed], corpus) == ({"reasoning quotes a test label"} if found else set())


def test_a_training_label_of_another_line_is_no_leak(corpus: Corpus) -> None:
    """The same pair can be test in one line and training in another."""
    both = corpus.test.merge(corpus.train, on=["pert", "gene"], suffixes=("_test", "_train"))
    row = next(both.itertuples())
    here = corpus.train[(corpus.train["cell_line"] == row.cell_line_test) & (corpus.train["gene"] == row.gene)]
    trace = generate(here.head(1), corpus, PromptConfig(evidence=1), seed=0)[0]
    assert not failing([ask(trace, f"\nIn {row.cell_line_train}, {row.pert}: {row.label_train}")], corpus)
    assert failing([ask(trace, f"\nIn {row.cell_line_test}, {row.pert}: {row.label_test}")], corpus)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\n{pert} (1.0): {label}", True),
        ("\n{pert} (1.0): {label}\nFOO (0.9): {other}", True),
        ("\nHint: {pert} knockdown makes {gene} {label}", True),
        ("\nDoes knockdown of {pert} result in {label} {gene}?", False),
        ("\nAn example of the format: <answer>{label}</answer>", False),
        ("\nMost pairs are {label}, so the base-rate answer is {label}.", False),
        ("\nEnd with one of:\n<answer>{up}</answer>\n<answer>{down}</answer>\n<answer>{none}</answer>", False),
        (
            "\n- {up}: knockdown of {pert} increases {gene}\n- {down}: knockdown of {pert} decreases {gene}"
            "\n- {none}: knockdown of {pert} leaves {gene} unchanged",
            False,
        ),
    ],
)
def test_an_item_s_own_label_on_one_line_of_its_prompt_is_found(
    text: str, found: bool, traces: list[Trace], corpus: Corpus
) -> None:
    for trace in traces[:20]:
        up, down, none = LABELS
        other = LABELS[trace.label == up]
        told = text.format(
            pert=trace.pert, gene=trace.gene, label=trace.label, up=up, down=down, none=none, other=other
        )
        assert failing([ask(trace, told)], corpus) == ({"own label"} if found else set())


@pytest.mark.parametrize(
    "form",
    [
        "Perturbation: {pert}\nGene: {gene}\nCell line: {line}\nAnswer: {label}\n\n",
        "What happens to {gene} when {pert} is knocked down in {line}?\nAnswer: {label}\n\n",
        "Knockdown: {pert}\n\nLabel: {label}\n\n",
    ],
)
def test_training_examples_in_a_prompt_are_no_leak(form: str, traces: list[Trace], corpus: Corpus) -> None:
    several, asked = 0, []
    for trace in traces[:60]:
        here = (corpus.train["gene"] == trace.gene) & (corpus.train["cell_line"] == trace.cell_line)
        rows = corpus.train[here & (corpus.train["pert"] != trace.pert)].head(3)
        shown = "".join(
            form.format(pert=row.pert, gene=row.gene, line=trace.cell_line.upper(), label=row.label)
            for row in rows.itertuples()
        )
        question = f"What happens to {trace.gene} when {trace.pert} is knocked down in {trace.cell_line.upper()}?"
        asked.append(replace(trace, prompt=[{"role": "user", "content": shown + question}], protocol={}))
        several += len(rows) > 1
    assert not failing(asked, corpus)
    assert several > 20


def test_a_held_out_gene_must_not_appear(make_labels: Callable[[int], pd.DataFrame]) -> None:
    labels = make_labels(0)
    official, held_out = (Corpus("small", split, apply_split(labels, split)) for split in ("official", "holdout:both"))
    kept = generate(held_out.train.head(50), held_out, PromptConfig(evidence=3), seed=0)
    assert not failing(kept, held_out)
    traces = generate(official.train, official, PromptConfig(evidence=3), seed=0)
    named = [replace(trace, protocol={**trace.protocol, "split": "holdout:both"}) for trace in traces]
    assert failing(named, held_out) >= {"held out", "train", "known"}
    crossing = [trace for trace in named if trace.gene in set(held_out.test["gene"])]
    crossing = [trace for trace in crossing if trace.pert not in set(held_out.test["pert"])]
    assert "held out" in failing(crossing, held_out)
    finding = audit_traces(named, held_out).findings["held out"]
    assert finding.claim == "no item has held-out perturbations or genes"


def test_a_held_out_line_must_not_appear(full_frame: pd.DataFrame) -> None:
    of_some_genes = full_frame[full_frame["gene"].isin(full_frame["gene"].unique()[:150])]
    official = Corpus("some genes", "official", of_some_genes)
    held_out = Corpus(official.source, "holdout:rpe1", apply_split(official.labels, "holdout:rpe1"))
    rows = official.train[official.train["cell_line"].isin(["rpe1", "k562"])].sample(400, random_state=0)
    traces = generate(rows, official, PromptConfig(evidence=3), seed=0)
    assert not failing(traces, official)
    assert failing(traces, held_out) >= {"train", "line", "split"}
    # Their evidence was computed with that line's labels: leaving its rows out does not make them fit.
    assert failing([trace for trace in traces if trace.cell_line != "rpe1"], held_out) == {"split"}
    with pytest.raises(
        CheckError, match=r"t\.jsonl: leak: split: 400 of 400 break .* under split holdout:rpe1"
    ) as caught:
        audit_traces(traces, held_out).require_clean("t.jsonl")
    assert "\n" not in str(caught.value)


def test_a_critic_s_word_on_rationalized_traces_is_audited(traces: list[Trace], corpus: Corpus) -> None:
    def said(trace: Trace, given: str, mode: Any = "rationalize") -> Trace:
        return replace(trace, mode=mode, critic={"verdict": "good", "given": given, "reason": ""})

    kept = [said(traces[0], "no"), said(traces[1], "yes", "blind"), *traces[2:5]]
    audit = audit_traces(kept, corpus)
    assert audit.clean
    assert str(audit.findings["given"]) == "0 of 1 fail, 3 not audited"
    assert failing([*kept, said(traces[5], "yes")], corpus) == {"given"}


def test_labels_are_found_from_the_traces_own_protocol(traces: list[Trace], corpus: Corpus) -> None:
    assert corpus_of(traces[0].protocol, None, None).is_sample
    with pytest.raises(InputError, match="set split"):
        corpus_of({}, "sample", None)


def test_a_leak_stops_training_before_the_model_is_touched(
    traces: list[Trace], corpus: Corpus, tmp_path: Path, tiny_model: Path
) -> None:
    from sft.train import train

    path = tmp_path / "t.jsonl"
    write_traces([*traces[:8], moved(traces[8], next(corpus.test.itertuples()))], path)
    config = {
        "output_dir": str(tmp_path / "run"), "traces": str(path), "model_name_or_path": str(tiny_model),
        "use_peft": True, "max_length": 512, "use_cpu": True, "bf16": False,
    }  # fmt: skip
    with pytest.raises(CheckError, match="leak: train: 1 of 9"):
        train(config)
    assert not (tmp_path / "run" / "adapter").exists()


def test_prompts_with_a_list_of_kinds_are_built_again_from_the_same_files(corpus: Corpus, tmp_path: Path) -> None:
    sets = tmp_path / "sets.gmt"
    row = corpus.train.iloc[0]
    sets.write_text(f"both\t\t{row['pert']}\t{row['gene']}\n")
    config = PromptConfig(evidence=["contrast,k=2", f"gene_sets,file={sets}"], evidence_tokens=150)
    made = generate(corpus.train.head(3), corpus, config, seed=0)
    assert "both (2 genes)" in made[0].prompt[-1]["content"]
    found = audit_traces(made, corpus)
    assert found.clean
    assert found.findings["prompt"].checked == 3
    said = made[0].prompt[-1]["content"].replace("both (2 genes)", "both (3 genes)")
    other = replace(made[0], prompt=[made[0].prompt[0], {"role": "user", "content": said}])
    assert audit_traces([other], corpus).findings["prompt"].failed == 1
    sets.write_text(f"both\t\t{row['pert']}\t{row['gene']}\tHSPA5\n")
    with pytest.raises(InputError, match="has changed since they were made; bring it back"):
        audit_traces(made, corpus)
    sets.unlink()
    with pytest.raises(InputError, match=r"sets\.gmt: no such file"):
        audit_traces(made, corpus)


def test_labels_that_the_traces_were_not_made_from_are_not_taken_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where they quote the default labels as their reference, which would then seem to hold its own items."""
    rows = "".join(f"P{at},G{at},upregulated\n" for at in range(5))
    for name, line in (("theirs.csv", "a"), ("default.csv", "b")):
        (tmp_path / name).write_text(f"pert,gene,label,cell_line\n{rows}".replace("ed\n", f"ed,{line}\n"))
    theirs, split = str(tmp_path / "theirs.csv"), "holdout:perturbations"
    monkeypatch.setenv("SYNTHPERT_DATA", str(tmp_path / "default.csv"))
    corpus = open_corpus(theirs, split)
    protocol = {"template": "three_class", "evidence": 1, "evidence_from": str(tmp_path / "default.csv")}
    protocol |= {"split": split, "data": corpus.digest}
    with pytest.raises(InputError, match=r"were made from other labels than those of .*default\.csv; name theirs with"):
        corpus_of(protocol, None, None)
    audited = corpus_of(protocol, theirs, None)
    assert audited.digest == corpus.digest
    assert audited.reference is not None
