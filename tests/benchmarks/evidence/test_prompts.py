"""Prompts name the item and the labels, quote only what may be known, and do not leak the answer."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest

from benchmarks.evidence import prompts
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import (
    LEMMAS,
    PromptConfig,
    build_prompts,
    rate_words,
)
from benchmarks.keys import from_keys
from benchmarks.screens.screen import PERTURBQA
from rewards import LABELS, InputError

ROOT = Path(__file__).parents[3]
UP, DOWN, NONE = map(str, LABELS)
FULL = PromptConfig(evidence=3, lemmas=True)
MakeLabels = Callable[[int], pd.DataFrame]


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


def asked(items: pd.DataFrame, corpus: Corpus, config: PromptConfig) -> list[str]:
    return [messages[-1]["content"] for messages in build_prompts(items, corpus, config)]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("template", ["three_class", "direction"])
def test_a_prompt_names_the_item_the_labels_and_the_form(
    sample: Corpus, template: Literal["three_class", "direction"], version: Literal[1, 2]
) -> None:
    items = sample.test.groupby("cell_line", observed=True).head(2)
    prompts = build_prompts(items, sample, PromptConfig(template, template_version=version))
    assert len(prompts) == len(items) == 8
    for messages, row in zip(prompts, items.itertuples(), strict=True):
        assert [message["role"] for message in messages] == ["system", "user"]
        system, text = (message["content"] for message in messages)
        assert "expert" in system
        assert "CRISPRi knockdown" in system
        assert f"{row.pert} is knocked down by CRISPRi in {PERTURBQA.words(str(row.cell_line))}" in text
        assert str(row.gene) in text
        assert UP in text
        assert DOWN in text
        assert (NONE in text) == (template == "three_class")
        assert text.index("<think>") < text.index("</think>") < text.index("<answer>") < text.index("</answer>")
        assert "{" not in text


def test_prompts_come_in_the_order_of_the_items(sample: Corpus) -> None:
    items = sample.labels.sample(20, random_state=0)
    for config in (PromptConfig(), FULL):
        one_by_one = [asked(items.iloc[[i]], sample, config)[0] for i in range(len(items))]
        assert asked(items, sample, config) == one_by_one


def test_the_eleven_lemmas_are_listed_on_request(sample: Corpus) -> None:
    assert len(LEMMAS) == 11
    item = sample.test.head(1)
    plain, listed = asked(item, sample, PromptConfig())[0], asked(item, sample, PromptConfig(lemmas=True))[0]
    assert "\n- " not in plain
    assert listed.count("\n- ") == 11
    for theme in ("gene function", "pathway", "knockdown phenotype", "position in the pathway", "locus regulation",
                  "direct regulation", "cell context", "compounds that act alike", "time course", "secondary effects",
                  "conflicting evidence"):  # fmt: skip
        assert f"- {theme}" in listed
        assert theme not in plain
    assert "{" not in listed


@pytest.mark.parametrize("k", [1, 3, 5])
def test_evidence_lists_the_nearest_knockdowns(sample: Corpus, k: int) -> None:
    items = sample.labels[sample.labels["evidence"].map(len) >= 5].sample(20, random_state=0)
    for text, row in zip(asked(items, sample, PromptConfig(evidence=k)), items.itertuples(), strict=True):
        lines = text.split(f"Similar knockdowns (similarity) and {row.gene}:\n")[1].split("\n")
        assert lines == [f"{pert} ({similarity:.1f}): {label}" for pert, similarity, label in list(row.evidence)[:k]]


def test_without_the_option_nothing_is_quoted(sample: Corpus) -> None:
    assert "Similar knockdowns" not in asked(sample.test.head(1), sample, PromptConfig())[0]


def test_an_item_without_known_neighbours_says_so(sample: Corpus) -> None:
    alone = sample.labels[sample.labels["evidence"].map(len) == 0]
    assert len(alone) > 0
    assert all("none known" in text for text in asked(alone, sample, PromptConfig(evidence=2)))


def test_evidence_never_quotes_the_items_own_perturbation(sample: Corpus) -> None:
    for text, pert in zip(asked(sample.labels, sample, FULL), sample.labels["pert"], strict=True):
        quoted = text.split("Similar knockdowns")[1].split("\n")[1:]
        assert not any(line.startswith(f"{pert} (") for line in quoted)


def test_no_prompt_changes_with_its_own_label(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    train = labels[labels["split"] == "train"]
    rows = [*train.sample(6, random_state=0).index, *train.index[train["gene"] == "Grare"]]
    rows += list(labels.index[labels["split"] == "test"][:5])
    before = asked(labels.loc[rows], Corpus("small", "official", labels), FULL)
    for row, text in zip(rows, before, strict=True):
        for other in {UP, DOWN, NONE} - {str(labels.loc[row, "label"])}:
            flipped = labels.copy()
            flipped.loc[row, "label"] = other
            assert asked(flipped.loc[[row]], Corpus("small", "official", flipped), FULL) == [text]


def test_a_training_item_is_prompted_as_a_test_item(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    here = labels[(labels["cell_line"] == "rpe1") & (labels["split"] == "train")]
    mine = here["pert"] == here["pert"].iloc[0]
    as_test = labels.copy()
    as_test.loc[mine[mine].index, "split"] = "test"
    items = here[mine]
    assert asked(items, Corpus("small", "official", labels), FULL) == asked(
        items, Corpus("small", "official", as_test), FULL
    )


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.0, "hardly any"), (0.049, "hardly any"), (0.05, "few"), (0.2, "some"), (0.4, "about half the"),
        (0.6, "many"), (0.8, "most"), (1.0, "most"), (1.0 + 1e-12, "most"),
    ],
)  # fmt: skip
def test_rates_in_words(rate: float, words: str) -> None:
    assert rate_words(rate) == words


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_none_is_an_error(rate: float) -> None:
    with pytest.raises(ValueError, match="not within 0 and 1"):
        rate_words(rate)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="prompt: template is 'binary'; write one of three_class, direction"):
        from_keys(PromptConfig, {"template": "binary"}, "prompt")
    with pytest.raises(InputError, match="evidence is -1; it must be at least 0"):
        PromptConfig(evidence=-1)


def test_the_wording_is_pinned_to_its_version(sample: Corpus) -> None:
    """Fails with any change of wording: add a version instead, and pin its text here."""
    item = pd.DataFrame({"item_id": ["k562|A|B"], "cell_line": ["k562"], "pert": ["A"], "gene": ["B"]})
    assert asked(item, sample, PromptConfig(template_version=1)) == [
        "A is knocked down by CRISPRi in K562 (chronic myeloid leukaemia). What happens to the expression of B?\n"
        "Labels: upregulated; downregulated; not differentially expressed.\n"
        "Think first, then answer: <think>reasoning</think><answer>one label</answer>"
    ]
    assert asked(item, sample, PromptConfig()) == [
        "One gene is knocked down by CRISPRi. What happens to the expression of another gene?\n"
        "Labels: upregulated; downregulated; not differentially expressed.\n"
        "Think first, then answer: <think>reasoning</think><answer>one label</answer>\n"
        "A is knocked down by CRISPRi in K562 (chronic myeloid leukaemia). What happens to B?"
    ]


@pytest.mark.parametrize("lemmas", [False, True])
def test_a_prompt_begins_with_what_all_prompts_share(sample: Corpus, lemmas: bool) -> None:
    texts = asked(sample.test, sample, PromptConfig(evidence=3, lemmas=lemmas))
    items = zip(texts, sample.test.itertuples(), strict=True)
    shared = {text.partition(f"{row.pert} is knocked down by CRISPRi in")[0] for text, row in items}
    assert len(shared) == 1
    (beginning,) = shared
    assert beginning.endswith("</answer>\n")
    assert ("Consider:" in beginning) == lemmas


def test_a_new_option_is_a_field_here_and_a_key_of_every_configuration_that_makes_prompts(tmp_path: Path) -> None:
    """CONTRIBUTING's recipe, followed: nothing but this module changes, and every holder of a prompt has the key."""
    source = Path(prompts.__file__).read_text(encoding="utf-8")
    option = '    units: bool = field(default=False, metadata={"help": "say what the numbers are"})\n'
    text = '        if config.units:\n            evidence += "\\nSimilarity lies between 0 and 1."\n'
    for before, added in (("\n    def __post_init__", option), ("        text = ", text)):
        assert source.count(before) == 1
        source = source.replace(before, added + before)
    copy = tmp_path / "copy"
    for folder in ("rewards", "benchmarks", "sft", "rl"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "benchmarks" / "evidence" / "prompts.py").write_text(source, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", WITH_UNITS], cwd=copy, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["followed"]), done.stderr


WITH_UNITS = """
from pathlib import Path
from benchmarks.config import parse_config
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import EvalArguments
from benchmarks.evidence import prompts
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts, prompt_config_of
from rl.lab.commands import read_reward_config
from rl.study import KEYS, TAKES
from rl.train import GRPOArguments
from sft.audit.audit import audit_traces
from sft.teacher.generate import TraceArguments, generate_traces
from sft.traces import read_traces

given = {
    TraceArguments: {"output": "t.jsonl", "data": "sample", "rows": 6},
    GRPOArguments: {"sft_run": "s"},
    EvalArguments: {"output_dir": "o", "model": "m"},
}
prompts = []
for holder, keys in given.items():
    (arguments,) = parse_config(keys, ("--units", "true"), (holder,))
    prompts.append(getattr(arguments, "protocol", arguments).prompt)
    if holder is TraceArguments:
        generate_traces(arguments)
assert all(prompt.units for prompt in prompts)
Path("r.yaml").write_text("rewards: [accuracy]\\nunits: true\\n")
assert read_reward_config("r.yaml").prompt.units
assert "units" in KEYS and all("units" in TAKES[kind] for kind in ("traces", "grpo", "eval"))
corpus, traces = open_corpus("sample"), read_traces(Path("t.jsonl"))
assert traces[0].protocol["units"] is True and prompt_config_of(traces[0].protocol) == prompts[0]
assert audit_traces(traces, corpus).findings["prompt"].checked == 6 and audit_traces(traces, corpus).clean
protocols = [Protocol(data="d", prompt=PromptConfig(units=units)) for units in (False, True)]
assert protocols[0].fingerprint != protocols[1].fingerprint
asked = build_prompts(corpus.test.head(1), corpus, PromptConfig(units=True))[0][-1]["content"]
assert "between 0 and 1" in asked
print("followed")
"""
