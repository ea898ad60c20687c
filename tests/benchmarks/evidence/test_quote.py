"""Kinds of evidence quote what they say, within one budget, and read their files strictly."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.kinds.graph import read_graph
from benchmarks.evidence.kinds.kind import EvidenceKind, read_evidence
from benchmarks.evidence.prompts import PromptConfig, build_prompts, prompt_config_of
from benchmarks.evidence.quote import TOKENS_PER_CHARACTER, evidence_digest, evidence_inputs
from benchmarks.keys import to_keys
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
PAGE = Path(__file__).parents[3] / "docs" / "evidence.md"
MakeLabels = Callable[[int], pd.DataFrame]


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


@pytest.fixture
def corpus(make_labels: MakeLabels) -> Corpus:
    return Corpus("small", "official", make_labels(0))


def parts_of(corpus: Corpus, items: pd.DataFrame, *kinds: str, tokens: int | None = None) -> list[str]:
    """Return what prompts say behind the question."""
    config = PromptConfig(evidence=list(kinds), evidence_tokens=tokens)
    texts = [messages[-1]["content"] for messages in build_prompts(items, corpus, config)]
    return [re.split(r"What happens to \S+\?\n", text)[1] for text in texts]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("neighbours,k=5", EvidenceKind("neighbours", 5)),
        ("neighbours", EvidenceKind("neighbours", 5)),
        ("contrast, k=2", EvidenceKind("contrast", 2)),
        ("other_lines", EvidenceKind("other_lines", 0)),
        ("gene_sets,file=F.gmt,k=1", EvidenceKind("gene_sets", 1, Path("F.gmt"))),
        ("graph,k=2,file=F.csv", EvidenceKind("graph", 2, Path("F.csv"))),
    ],
)
def test_a_kind_is_read_from_its_text(text: str, kind: EvidenceKind) -> None:
    assert read_evidence(text) == kind


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("neighbors,k=5", "is no kind; use neighbours, contrast, other_lines"),
        ("k=5", "in a list with brackets, put each kind in quotes"),
        ("[neighbours]", "on a command line, write the kinds one behind the other, without brackets"),
        ("neighbours,k=0", "k is '0'; write a whole number of at least 1"),
        ("neighbours,k=-1", "k is '-1'"),
        ("neighbours,k=5,k=6", "'k=6' is no option; neighbours takes k=NUMBER, each once"),
        ("neighbours,n=5", "'n=5' is no option"),
        ("neighbours,file=F.gmt", "'file=F.gmt' is no option"),
        ("other_lines,k=3", "other_lines takes no options"),
        ("graph,k=3", "names no file; write graph,file=FILE"),
        ("gene_sets,file=", "'file=' is no option; gene_sets takes k=NUMBER and file=FILE"),
    ],
)
def test_a_text_that_is_no_kind_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=re.escape(problem)):
        PromptConfig(evidence=[text])


def test_wrong_lists_and_budgets_are_refused() -> None:
    with pytest.raises(InputError, match="an empty list; write 0 for none"):
        PromptConfig(evidence=[])
    with pytest.raises(InputError, match="lists a kind twice"):
        PromptConfig(evidence=["neighbours,k=2", "neighbours,k=3"])
    assert len(PromptConfig(evidence=["graph,file=a.csv", "graph,file=b.csv"]).kinds) == 2
    with pytest.raises(InputError, match="evidence_from is set, but evidence is 0"):
        PromptConfig(evidence_from="perturbqa")
    with pytest.raises(InputError, match="orthologs is set without evidence_from"):
        PromptConfig(evidence=3, orthologs="upper")
    with pytest.raises(InputError, match="evidence_tokens is 0; it must be at least 1, or null"):
        PromptConfig(evidence=3, evidence_tokens=0)


def test_a_number_and_the_neighbours_give_the_same_prompt(sample: Corpus) -> None:
    items = sample.labels.iloc[::11]
    number, listed = PromptConfig(evidence=4), PromptConfig(evidence=["neighbours,k=4"])
    assert build_prompts(items, sample, number) == build_prompts(items, sample, listed)
    assert PromptConfig(evidence=["4"]) == number  # as the command line gives it
    assert listed != number
    assert prompt_config_of(to_keys(listed)) == listed
    assert hash(PromptConfig(evidence=["neighbours,k=4"])) == hash(listed)


def test_an_item_that_recurs_gets_its_prompt_each_time(corpus: Corpus) -> None:
    item = corpus.train.iloc[[3]]
    (once,) = parts_of(corpus, item, "neighbours,k=2", "other_lines")
    assert parts_of(corpus, pd.concat([item, item]), "neighbours,k=2", "other_lines") == [once, once]


def test_contrast_sets_what_changed_the_gene_beside_what_did_not(corpus: Corpus) -> None:
    items = corpus.test
    found = corpus.evidence(items, 100)
    short = 0
    for part, row in zip(parts_of(corpus, items, "contrast,k=2"), items.itertuples(), strict=True):
        of_item = found[found["item_id"] == row.item_id]
        sides = [of_item[of_item["label"] != NONE].head(2), of_item[of_item["label"] == NONE].head(2)]
        heading = f"Similar knockdowns (similarity) that change {row.gene} | that do not:\n"
        assert heading in part
        lines = part.split(heading)[1].split("\n")
        if of_item.empty:
            assert lines == ["none known"]
            continue
        left, right = zip(*(line.split(" | ") for line in lines), strict=True)
        assert [one for one in left if one != "-"] == [
            f"{pert} ({similarity:.1f}): {label}"
            for pert, similarity, label in sides[0][["pert", "similarity", "label"]].itertuples(index=False)
        ]
        assert [one for one in right if one != "-"] == [
            f"{pert} ({similarity:.1f})"
            for pert, similarity in sides[1][["pert", "similarity"]].itertuples(index=False)
        ]
        short += "-" in (*left, *right)
    assert 0 < short < len(items)


def test_the_sample_contrasts_what_it_carries(sample: Corpus) -> None:
    items = sample.labels[sample.labels["evidence"].map(len) == 5].head(50)
    for part, row in zip(parts_of(sample, items, "contrast,k=5"), items.itertuples(), strict=True):
        carried = [(pert, label) for pert, _, label in row.evidence]
        lines = [line.split(" | ") for line in part.split("do not:\n")[1].split("\n")]
        left, right = zip(*lines, strict=True)
        named = [one.split(" (")[0] for one in left if one != "-"], [one.split(" (")[0] for one in right if one != "-"]
        assert named == (
            [pert for pert, label in carried if label != NONE],
            [pert for pert, label in carried if label == NONE],
        )


def test_other_lines_tell_the_same_pair_elsewhere(corpus: Corpus, sample: Corpus) -> None:
    items, train = corpus.labels, corpus.train.astype(str)
    known = 0
    for part, row in zip(parts_of(corpus, items, "other_lines"), items.astype(str).itertuples(), strict=True):
        same = train[(train["pert"] == row.pert) & (train["gene"] == row.gene) & (train["cell_line"] != row.cell_line)]
        lines = part.split("in other cell lines:\n")[1].split("\n")
        expected = {f"{corpus.screen.words(one.cell_line)}: {one.label}" for one in same.itertuples()}
        assert len(lines) == max(len(same), 1)
        assert set(lines) == (expected or {"none known"})
        known += bool(expected)
    assert 0 < known < len(items)
    for kind in ("other_lines", "similar_genes"):
        with pytest.raises(InputError, match=f"{kind} needs the full labels, not the sample"):
            parts_of(sample, sample.test, kind)


def test_gene_sets_with_both_genes_are_named_with_their_sizes(corpus: Corpus, tmp_path: Path) -> None:
    file = tmp_path / "sets.gmt"
    file.write_text("KEGG_LARGE\t\tP0\tG0\tA\tB\nB small\t\tP0\tG0\tG1\nA small\t\tP0\tG0\tG2\nno pert\t\tG0\tG1\n")
    item = pd.DataFrame({"item_id": ["rpe1|P0|G0"], "cell_line": ["rpe1"], "pert": ["P0"], "gene": ["G0"]})
    other = item.assign(item_id="rpe1|P1|G0", pert="P1")
    first, second = parts_of(corpus, pd.concat([item, other]), f"gene_sets,file={file},k=2")
    assert first.endswith("Gene sets with both genes (size):\na small (3 genes)\nb small (3 genes)")
    assert second.endswith("Gene sets with both genes (size):\nnone known")
    (all_three,) = parts_of(corpus, item, f"gene_sets,file={file},k=5")
    assert all_three.endswith("b small (3 genes)\nlarge (4 genes)")
    file.write_text("KEGG_LARGE\t\tp0\tg0\n")
    with pytest.raises(InputError, match="holds none of the labels' genes"):
        parts_of(corpus, item, f"gene_sets,file={file}")


def test_a_graph_tells_the_edge_and_the_partners_of_both(corpus: Corpus, tmp_path: Path) -> None:
    file = tmp_path / "edges.csv"
    file.write_text(
        "gene1,gene2,score,source\nG0,P0,0.9,x\nP0,G0,0.4,y\nP0,A,0.8,\nA,G0,0.3,\nP0,B,0.5,\nG0,B,0.5,\nP0,P0,1,\n"
    )
    item = pd.DataFrame({"item_id": ["rpe1|P0|G0"], "cell_line": ["rpe1"], "pert": ["P0"], "gene": ["G0"]})
    other = item.assign(item_id="rpe1|P0|G1", gene="G1")
    first, second = parts_of(corpus, pd.concat([item, other]), f"graph,file={file},k=1")
    assert first.endswith("Network of P0 and G0 (score):\nP0 - G0 (0.9)\nboth with B (0.5)")
    assert second.endswith("Network of P0 and G1 (score):\nnone known")
    (two,) = parts_of(corpus, item, f"graph,file={file}")
    assert two.endswith("both with B (0.5)\nboth with A (0.3)")
    assert "P0" not in read_graph(file)["P0"]
    assert read_graph(file)["G0"]["P0"] == 0.9


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gene1,gene2\nA,B\n", "no column 'score'; name the columns gene1, gene2 and score"),
        ("gene1,gene2,score\nA,B,1\nA,C,\n", "row 3: no score; write a number above 0, or remove the row"),
        ("gene1,gene2,score\n", "has no edge"),
        ("gene1,gene2,score\nA,B,1\nA,,2\n", "row 3: no gene2; remove the row"),
        ("gene1,gene2,score\nA,B,high\n", "row 2: score is 'high': write a number above 0"),
        ("gene1,gene2,score\nA,B,-1\n", "row 2: score is '-1': write a number above 0"),
        ("gene1,gene2,score\nX,Y,1\n", "holds none of the labels' genes"),
    ],
)
def test_a_broken_edge_list_is_refused(corpus: Corpus, tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "edges.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(problem)):
        parts_of(corpus, corpus.test, f"graph,file={file}")


def test_a_file_s_content_is_part_of_what_runs_compare(tmp_path: Path) -> None:
    file = tmp_path / "sets.gmt"
    kinds = PromptConfig(evidence=["neighbours", f"gene_sets,file={file}"]).kinds
    with pytest.raises(InputError, match="sets.gmt: no such file"):
        evidence_inputs(kinds)
    file.write_text("a\t\tG0\n")
    before = evidence_digest(kinds)
    assert [*evidence_inputs(kinds)] == [f"evidence: {file}"]
    file.write_text("a\t\tG1\n")
    assert len({before, evidence_digest(kinds), evidence_digest(kinds[:1])}) == 3
    assert evidence_digest(kinds[:1]) == ""


@pytest.mark.parametrize("evidence", [3, ["contrast"], ["similar_genes"], ["other_lines"]])
def test_no_item_has_no_prompt(corpus: Corpus, evidence: int | list[str]) -> None:
    """GRPO that keeps no prompts apart asks for none."""
    assert build_prompts(corpus.test.head(0), corpus, PromptConfig(evidence=evidence)) == []


def test_a_budget_holds_for_all_kinds_together_and_tells_what_is_left_out(corpus: Corpus) -> None:
    kinds = ("neighbours,k=4", "contrast,k=3")
    items = corpus.test
    whole = parts_of(corpus, items, *kinds)
    longest = max(map(len, whole))
    assert parts_of(corpus, items, *kinds, tokens=round(longest * TOKENS_PER_CHARACTER) + 1) == whole
    tokens, cut = 160, 0
    for part, full in zip(parts_of(corpus, items, *kinds, tokens=tokens), whole, strict=True):
        assert len(part) * TOKENS_PER_CHARACTER <= tokens
        left = sum(map(int, re.findall(r"^\((\d+) (?:more )?left out\)$", part, re.MULTILINE)))
        kept = [line for line in part.split("\n") if not line.endswith("left out)")]
        if left:
            cut += 1
            assert len(kept) + left == len(full.split("\n"))
            shown = iter(full.split("\n"))
            assert all(line in shown for line in kept)  # the lines that are left, in their order
            (one, other) = (block.count("\n") for block in part.split("\nSimilar knockdowns"))
            assert abs(one - other) <= 2  # the kinds take turns
        else:
            assert part == full
    assert cut > len(items) / 2
    with pytest.raises(InputError, match=r"evidence_tokens: 20 tokens do not hold the headings .* \(item "):
        parts_of(corpus, items, *kinds, tokens=20)


def test_a_kind_without_room_is_said_to_be_left_out(corpus: Corpus) -> None:
    (item,) = (corpus.test[corpus.test["item_id"] == one] for one in corpus.evidence(corpus.test, 3)["item_id"].head(1))
    (full,) = parts_of(corpus, item, "neighbours,k=3")
    heading = full.split("\n")[0]
    (part,) = parts_of(corpus, item, "neighbours,k=3", tokens=round((len(heading) + 14) * TOKENS_PER_CHARACTER))
    assert part == f"{heading}\n(3 left out)"


@pytest.mark.slow
def test_the_page_s_example_is_what_the_prompt_says(full_labels: Path) -> None:
    corpus = open_corpus(full_labels)
    item = corpus.labels[corpus.labels["item_id"] == "jurkat|NVL|RPL12"]
    config = PromptConfig(evidence=["contrast,k=3", "similar_genes,k=2"])
    (prompt,) = build_prompts(item, corpus, config)
    (shown,) = re.findall(r"```text\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert prompt[-1]["content"].endswith("\n" + shown)
