"""Each reward of docs/examples pays what the page's tables say, right and wrong alike."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewards.foreign import load_foreign

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"
PROMPT = "AARS is knocked down by CRISPRi in K562. What happens to the expression of CALR?\nLARS (0.7): upregulated"
NAMES = {"gene_mention": "gene_mention", "evidence_faithfulness": "evidence_faithfulness", "pathways": "Pathways"}


def table_rows() -> Iterator[Any]:
    """Yield the example, its reasoning and what it pays, for each row of the page's tables."""
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for section in page.split("\n## ")[1:]:
        example = section.partition(".py")[0]
        for think, paid, right in re.findall(r"^\| (?!the reasoning)(.+) \| ([01]) \| (yes|no: .+) \|$", section, re.M):
            yield pytest.param(example, think, float(paid), id=f"{example}: {think[:40]} ({right[:3]})")


def score(example: str, think: str, **changed: Any) -> float | None:
    reward = load_foreign(f"{EXAMPLES / example}.py:{NAMES[example]}", {})
    columns = {"pert": "AARS", "gene": "CALR", "prompts": [{"role": "user", "content": PROMPT}], **changed}
    completion = [{"role": "assistant", "content": f"<think>{think}</think><answer>upregulated</answer>"}]
    (paid,) = reward(completions=[completion], **{key: [value] for key, value in columns.items()})
    return paid  # type: ignore[no-any-return]


@pytest.mark.parametrize(("example", "think", "paid"), list(table_rows()))
def test_an_example_pays_what_the_page_says(example: str, think: str, paid: float) -> None:
    assert score(example, think) == paid


def test_every_example_has_two_rows_that_it_gets_right_and_two_that_it_gets_wrong() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NAMES)
    ids = [row.id for row in table_rows()]
    for example in NAMES:
        assert [one[-4:-1] for one in ids if one.startswith(example)].count("no:") == 2
        assert [one[-4:-1] for one in ids if one.startswith(example)].count("yes") == 2


@pytest.mark.parametrize("example", NAMES)
def test_an_example_pays_for_the_reasoning_alone_and_within_its_range(example: str) -> None:
    low, high = load_foreign(f"{EXAMPLES / example}.py:{NAMES[example]}", {}).range
    everything = 'AARS falls. "LARS (0.7): upregulated". CALR serves the unfolded protein response.'
    assert low == 0.0 == score(example, f"</think>{everything}") and score(example, everything) == high == 1.0


def test_pathways_cannot_judge_genes_that_no_set_holds() -> None:
    assert score("pathways", "X1 serves glycolysis.", pert="X1", gene="Y1") is None
    assert score(
        "pathways", "AARS and CALR serve glycolysis. CALR serves the unfolded protein response."
    ) == pytest.approx(1 / 3)
