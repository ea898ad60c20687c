"""The parser reads whole labels, tells a wrong form from a missing end, and never guesses."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from without_clock import UNHURRIED

from rewards import LABELS, Answer, Label, Status, parse_answer
from rewards.answer import TAGS

UP, DOWN, NONE = Label.UP, Label.DOWN, Label.NONE


def wrap(answer: str, think: str = "reasoning") -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


def read(text: str | None, *, strict: bool) -> tuple[str, str | None]:
    answer = parse_answer(text, strict=strict)
    return str(answer.status), None if answer.label is None else str(answer.label)


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("strict", [True, False])
def test_a_well_formed_completion_gives_its_label_and_reasoning(label: Label, strict: bool) -> None:
    assert parse_answer(wrap(label, " because "), strict=strict) == Answer(label, Status.ANSWERED, "because")


def test_a_label_of_the_answer_is_the_enum_itself() -> None:
    assert parse_answer(wrap("upregulated")).label is Label.UP


# text, what strict reads, what lenient reads; a label means answered
CASES = [
    # near misses: a label is never read out of another word or its negation
    (wrap("not upregulated"), "malformed", "malformed"),
    (wrap("not downregulated"), "malformed", "malformed"),
    (wrap("is not significantly upregulated"), "malformed", "malformed"),
    (wrap("neither upregulated nor downregulated"), "malformed", "malformed"),
    (wrap("cannot be upregulated"), "malformed", "malformed"),
    (wrap("isn't upregulated"), "malformed", "malformed"),
    (wrap("isn\u2019t upregulated"), "malformed", "malformed"),
    (wrap("not strongly upregulated"), "malformed", "malformed"),
    (wrap("The gene is unlikely to be upregulated"), "malformed", "malformed"),
    (wrap("hardly upregulated"), "malformed", "malformed"),
    (wrap("no longer upregulated"), "malformed", "malformed"),
    (wrap("is not expected to be upregulated"), "malformed", "malformed"),
    (wrap("unchanged rather than upregulated"), "malformed", "malformed"),
    (wrap("unchanged instead of upregulated"), "malformed", "malformed"),
    (wrap("fails to be upregulated"), "malformed", "malformed"),
    (wrap("not (upregulated)"), "malformed", "malformed"),
    (wrap("**not** upregulated"), "malformed", "malformed"),
    (wrap("not up- or downregulated"), "malformed", "malformed"),
    (wrap("not, as one might think,\nupregulated"), "malformed", "malformed"),
    (wrap("not significantly upregulated nor downregulated"), "malformed", "malformed"),
    ("<think>a</think>It wouldn't, I think, be upregulated.", "malformed", "malformed"),
    (wrap("knockdown"), "malformed", "malformed"),
    (wrap("no"), "malformed", "malformed"),
    (wrap("none"), "malformed", "malformed"),
    (wrap("up"), "malformed", "malformed"),
    (wrap("unregulated"), "malformed", "malformed"),
    (wrap("upregulate"), "malformed", "malformed"),
    (wrap("co-upregulated"), "malformed", "malformed"),
    (wrap("upregulatedx"), "malformed", "malformed"),
    (wrap("xupregulated"), "malformed", "malformed"),
    (wrap("upregulated-like"), "malformed", "malformed"),
    (wrap("differentially expressed"), "malformed", "malformed"),
    (wrap("not differentially"), "malformed", "malformed"),
    (wrap("not not differentially expressed"), "malformed", "malformed"),
    (wrap(""), "malformed", "malformed"),
    # two labels are none
    (wrap("upregulated or downregulated"), "malformed", "malformed"),
    (wrap("upregulated, not differentially expressed"), "malformed", "malformed"),
    (wrap("upregulated, not downregulated"), "malformed", "malformed"),
    (wrap("not differentially expressed, not upregulated"), "malformed", "malformed"),
    (wrap("upregulated") + "<answer>downregulated</answer>", "malformed", "malformed"),
    # what only the lenient parser forgives
    (wrap("upregulated."), "malformed", UP),
    (wrap("Upregulated"), UP, UP),
    (wrap("NOT DIFFERENTIALLY EXPRESSED"), NONE, NONE),
    (wrap("not  differentially\nexpressed"), "malformed", NONE),
    (wrap("not differentially\nexpressed"), NONE, NONE),
    (wrap("not\u00a0differentially\u202fexpressed"), NONE, NONE),
    (wrap("not\u2009differentially\u200bexpressed\u2060"), NONE, NONE),
    (wrap("\u200b\ufeffupregulated\u3000"), UP, UP),
    ("\ufeff" + wrap("upregulated") + "\u200b", UP, UP),
    (wrap("up\u200bregulated"), "malformed", "malformed"),
    (wrap("notdifferentially expressed"), "malformed", "malformed"),
    (wrap("not\u00a0upregulated"), "malformed", "malformed"),
    (wrap("The gene is downregulated here."), "malformed", DOWN),
    (wrap("**upregulated**"), "malformed", UP),
    (wrap("The gene is not differentially expressed."), "malformed", NONE),
    (wrap("not differentially expressed, so not differentially expressed"), "malformed", NONE),
    # a negation ends with its sentence
    (wrap("The link is not direct. It is upregulated."), "malformed", UP),
    (wrap("There is no direct link\n\nupregulated"), "malformed", UP),
    (wrap('"upregulated"'), "malformed", UP),
    (wrap("upregulated; upregulated"), "malformed", UP),
    ("<answer>upregulated</answer>", "malformed", UP),
    ("<THINK>a</THINK><ANSWER>upregulated</ANSWER>", "malformed", UP),
    ("<think>a</think>upregulated", "malformed", UP),
    ("It is downregulated.", "malformed", DOWN),
    ("It is upregulated, or downregulated.", "malformed", "malformed"),
    (wrap("upregulated") + "<answer>upregulated</answer>", "malformed", UP),
    (wrap("upregulated") + wrap("upregulated"), "malformed", UP),
    ("Sure! " + wrap("upregulated"), "malformed", UP),
    (wrap("upregulated") + " I hope this helps.", "malformed", UP),
    ("<think>a</think>b<answer>upregulated</answer>", "malformed", UP),
    ("<think>a<think>b</think><answer>upregulated</answer>", "malformed", UP),
    ("<think>a</think></think><answer>upregulated</answer>", "malformed", UP),
    (wrap("<answer>upregulated"), "malformed", UP),
    # the reasoning is no answer, whichever labels it weighs
    (wrap("downregulated", think="upregulated? not differentially expressed?"), DOWN, DOWN),
    ("<think>upregulated</think>", "incomplete", "incomplete"),
    ("<think>upregulated</think>I do not know", "malformed", "malformed"),
    ("<think>It is upregulated", "incomplete", "incomplete"),
    ("<think>It is <answer>upregulated", "incomplete", "incomplete"),
    # cut off at any place before the answer is closed
    ("<think>", "incomplete", "incomplete"),
    ("<think>because </thi", "incomplete", "incomplete"),
    ("<think>a</think>", "incomplete", "incomplete"),
    ("<think>a</think>\n", "incomplete", "incomplete"),
    ("<think>a</think><ans", "incomplete", "incomplete"),
    ("<think>a</think><answer>", "incomplete", "incomplete"),
    ("<think>a</think><answer>upregulated", "incomplete", "incomplete"),
    ("<think>a</think><answer>upregulated</answer", "incomplete", "incomplete"),
    ("<answer>not differentially", "incomplete", "incomplete"),
    # no form at all
    ("", "malformed", "malformed"),
    ("   \n", "malformed", "malformed"),
    ("I cannot help with that.", "malformed", "malformed"),
    ("</answer>", "malformed", "malformed"),
    ("<answer>upregulated</answer><think>a</think>", "malformed", UP),
    # white space around a label is no fault
    ("\n <think>\na\n</think>\n\n<answer>\n upregulated \n</answer>\n", UP, UP),
    ("<think></think><answer>upregulated</answer>", UP, UP),
    ("<think>a</think>\u00a0<answer>\u2003upregulated\u00a0</answer>", UP, UP),
    # unicode: look-alikes are not the label, and other scripts in the reasoning do not matter
    (wrap("upregulаted"), "malformed", "malformed"),
    (wrap("not differentially expre\u017f\u017fed"), "malformed", "malformed"),  # long s: equal to s but for case
    (wrap("not d\u0131fferentially expressed"), "malformed", "malformed"),  # dotless i, likewise
    (wrap("upregulated\u200b"), UP, UP),
    (wrap("éupregulated"), "malformed", "malformed"),
    (wrap("upregulatedé"), "malformed", "malformed"),
    (wrap("上調"), "malformed", "malformed"),
    (wrap("downregulated", think="基因敲低 🧬 \x00 \ud83e"), DOWN, DOWN),
]


@pytest.mark.parametrize(("text", "strict", "lenient"), CASES)
def test_status_and_label(text: str, strict: str, lenient: str) -> None:
    for expected, is_strict in ((strict, True), (lenient, False)):
        label = str(expected) if isinstance(expected, Label) else None
        status = "answered" if isinstance(expected, Label) else expected
        assert read(text, strict=is_strict) == (status, label), f"strict={is_strict}"


@pytest.mark.parametrize("strict", [True, False])
def test_no_completion_is_an_error_and_no_wrong_answer(strict: bool) -> None:
    for nothing in (None, float("nan")):  # as pandas gives it
        assert parse_answer(nothing, strict=strict) == Answer(None, Status.ERROR, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("strict", [True, False])
def test_every_proper_prefix_of_a_completion_has_no_label(label: Label, strict: bool) -> None:
    whole = f"<think>It could be {label}.</think>\n<answer>{label}</answer>"
    for cut in range(len("<think>"), len(whole)):
        answer = parse_answer(whole[:cut], strict=strict)
        assert (answer.label, answer.status) == (None, Status.INCOMPLETE), whole[:cut]


def test_strict_is_the_default() -> None:
    assert parse_answer(wrap("upregulated.")).status is Status.MALFORMED


def test_reasoning_is_kept_when_the_answer_is_not() -> None:
    assert parse_answer("<think> why </think><answer>perhaps</answer>").think == "why"
    assert parse_answer("<answer>upregulated</answer>", strict=False).think is None


PIECES = st.sampled_from([*TAGS, *map(str, LABELS), "not ", "no ", " ", "\n", ".", "<", ">", "/", "é", "<ANSWER>"])


@UNHURRIED
@given(st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)))
def test_any_text_has_a_status_and_a_label_only_when_answered(text: str) -> None:
    strict, lenient = parse_answer(text), parse_answer(text, strict=False)
    for answer in (strict, lenient):
        assert answer.status in (Status.ANSWERED, Status.MALFORMED, Status.INCOMPLETE)
        assert (answer.label in LABELS) == (answer.status is Status.ANSWERED)
        assert (answer.label is None) == (answer.status is not Status.ANSWERED)
    if strict.status is Status.ANSWERED and "<ANSWER>" not in text:  # lenient reads more, not otherwise
        assert lenient == strict


@UNHURRIED
@given(
    think=st.text().filter(lambda text: not any(tag in text.casefold() for tag in TAGS)),
    label=st.sampled_from(LABELS),
    spaces=st.tuples(*[st.text(alphabet=" \n\t", max_size=3)] * 5),
)
def test_any_well_formed_completion_gives_its_label(think: str, label: Label, spaces: tuple[str, ...]) -> None:
    a, b, c, d, e = spaces
    text = f"{a}<think>{think}</think>{b}<answer>{c}{label}{d}</answer>{e}"
    assert parse_answer(text) == Answer(label, Status.ANSWERED, think.strip())
    assert parse_answer(text, strict=False).label is label


PAIRED = st.lists(
    st.one_of(
        PIECES,
        st.sampled_from(
            ["<confidence>", "</confidence>", "0.8", "1", "1.2", "<THINK>", "</ThinK>", "</thin\u212a>", "\x1c"]
        ),
    ),
    max_size=14,
).map("".join)


@UNHURRIED
@given(text=PAIRED, answer=PAIRED)
def test_pairs_of_tags_are_read_as_their_patterns_say(text: str, answer: str) -> None:
    think = re.search("<think>(.*?)</think>", text, re.DOTALL | re.IGNORECASE)
    assert parse_answer(text).think == (think[1].strip() if think else None)
    stated = re.search(r"\s*<confidence>\s*([01](?:\.[0-9]+)?)\s*</confidence>\s*$", answer)
    whole = f"<think>a</think><answer>{UP}{answer}</answer>"
    if stated and float(stated[1]) <= 1 and not answer[: stated.start()].strip():
        assert parse_answer(whole) == Answer(UP, Status.ANSWERED, "a", float(stated[1]))
    else:
        assert parse_answer(whole).confidence is None


@pytest.mark.parametrize(
    "text",
    [
        wrap(UP + " " * 5_000_000 + "<confidence>x</confidence>"),
        wrap(UP + "<confidence>0.1" * 150_000),
        "<think>" * 1_000_000,
        "<answer>" * 1_000_000,
        "<think></think>" + "<answer>" * 1_000_000,
        "not " * 600_000 + UP,
        "not " + f"{UP} " * 200_000,
        "not differentially" + " " * 2_000_000 + "rather" + " " * 2_000_000,
        "\n" * 2_000_000 + "no. " * 600_000,
    ],
    ids=lambda text: text[:30],
)
def test_long_texts_are_read_in_linear_time(text: str) -> None:
    """In quadratic time each would take so long that pytest's limit ends it."""
    assert parse_answer(text).label is None
    parse_answer(text, strict=False)
