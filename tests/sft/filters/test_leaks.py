"""Labels told as given are found in reasoning, beside near misses that are let through.

`leaks/` holds sentences of both kinds about one item, CALR after a knockdown of AARS. They were written before the
patterns, and the halves `*_held_out.txt` were not looked at while the patterns were written: at first sight .83 of the
leaks among them were found, and none of the honest ones.
"""

from pathlib import Path

import pytest

from sft.filters.leaks import find_leak
from sft.filters.visible import find_foreign

ITEM = ("AARS", "CALR")

LEAKS = (
    """
As stated, the gene goes up.
as  stated in the
  question, it is upregulated
As given, CALR rises.
Since we are told that CALR is upregulated, the ER must be stressed.
We're told it falls.
I was told the label.
You have been informed that it rises.
The given answer is upregulated, which fits.
Consistent with the provided label, it falls.
Because the stated outcome is an increase, look for stress.
The answer is given as downregulated.
The label was provided, so I justify the answer.
The outcome is already known: it rises.
This matches the ground truth.
the ground-truth effect
According to the label, it rises.
The measured effect is upregulated.
The true label is upregulated.
The prompt states the answer.
The question already tells us the measured outcome.
The instructions say the effect is upregulated.
I must reason without revealing what I know.
I should not mention the label.
I already know what the answer is.
Pretending not to know, I would say it rises.
Let me rationalize the provided outcome.
For me alone the effect was written down.
As sta\u200bted above, it goes up.
ＡＳ ＳＴＡＴＥＤ above, it goes up.
Given the label, the reasoning is simple.
With the answer—upregulated—in hand, the answer key says as much.
**The expected answer**: upregulated.
Given that AARS knockdown upregulates CALR, stress is likely.
The correct label is upregulated.
This would explain the given upregulation.
Let's think about how to justify "upregulated" as the answer.
""".strip()
    .replace("\n  ", " ")
    .splitlines()
)

FINE = """
Given the evidence, a rise is likely.
Given that cells arrest in G1, little changes.
At a given dose the effect size is small.
The answer depends on the cell line, so I answer upregulated.
So the answer is downregulated.
The effect is known to be small in K562.
No effect was stated in the literature for this pair.
The literature does not mention a link, and the data do not reveal one.
The most likely outcome is that nothing changes.
The label downregulated fits best.
The user of this pathway is the ribosome, a question of supply.
The task of the chaperone provides the cell with folded proteins.
This is measured by its effect on transcription; the measured effect size is small.
The protein is provided by the mother cell.
This justifies a conclusion of no change.
Given that AARS knockdown upregulates CALR in K562, a rise is likely.
Given that EPRS knockdown upregulates CALR, a rise is likely.
So the correct label is likely upregulated.
This would explain the upregulation of a given target.
Cells justify their name.
""".strip().splitlines()  # fmt: skip


@pytest.mark.parametrize("text", LEAKS)
def test_a_label_told_as_given_is_found(text: str) -> None:
    assert find_leak(text, *ITEM)
    assert find_leak("The loss of it stresses cells. " * 40 + text + " And so it is." * 40, *ITEM)


@pytest.mark.parametrize("text", FINE)
def test_a_near_miss_is_let_through(text: str) -> None:
    assert find_leak(text, *ITEM) is None
    assert find_foreign(text) is None


def sentences(name: str) -> list[str]:
    return (Path(__file__).parent / "leaks" / name).read_text(encoding="utf-8").splitlines()


def test_most_leaks_and_few_honest_sentences_are_refused() -> None:
    found: dict[str, list[bool]] = {"leaking": [], "honest": []}
    for half, least in (("", 0.9), ("_held_out", 0.85)):
        for kind, results in found.items():
            texts = sentences(f"{kind}{half}.txt")
            assert len(texts) > 50
            refused = [find_leak(text, *ITEM) is not None or find_foreign(text) is not None for text in texts]
            share = sum(refused) / len(texts)
            assert share >= least if kind == "leaking" else share <= 0.03
            results += refused
    assert sum(found["leaking"]) >= 0.9 * len(found["leaking"])


def test_a_leak_is_found_wherever_it_stands() -> None:
    """Also close behind a harmless word that leaks begin with, too."""
    for gap in range(0, 130, 3):
        text = f"The outcome {'grows ' * (gap // 6)}{'x' * (gap % 6)} and the outcome is already provided to me."
        assert find_leak(text, *ITEM)


def test_what_is_said_of_other_knockdowns_is_evidence() -> None:
    assert find_leak("We are told that EPRS loss raises CALR.", *ITEM) is None
    assert find_leak("We are told that AARS loss raises CALR.", *ITEM) == "are told"
    assert find_leak("Since ATF4 is upregulated, CHOP follows.", *ITEM) is None
    assert find_leak("Since CALR is upregulated, ER stress is at work.", *ITEM)
