"""The check finds what can be gamed, and passes what cannot."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig
from rewards import LABELS, CheckError, Context, InputError, Label, compose, text
from rewards.timeout import TimeLimited
from rl.lab.check import HONEST, LENGTHS, check_rewards
from rl.lab.exploits import BLIND, EXPLOITS, FORM, honest_think, say
from rl.lab.rows import Row, check_rows

UP, DOWN, NONE = map(str, LABELS)
PROMPT = (
    "{p} is knocked down by CRISPRi in K562. What happens to the expression of {g}?\n"
    f"Labels: {UP}; {DOWN}; {NONE}.\nSimilar knockdowns:\nLARS (0.7): {UP}\n"
    "Think first, then answer: <think>reasoning</think><answer>one label</answer>"
)
OWN = '''
import re
import time
from rewards import accuracy, completion_text

def contains(completions, label, **columns):
    """A substring match, as naive graders do it."""
    return [float(true in completion_text(c)) for c, true in zip(completions, label)]

def tags(completions, **columns):
    """The count of tags."""
    return [completion_text(c).count("<answer>") / 5 for c in completions]

def mentions(completions, pert, gene, **columns):
    """Bare names, counted."""
    texts = [completion_text(c) for c in completions]
    return [(text.count(p) + text.count(g)) / 10 for text, p, g in zip(texts, pert, gene)]

def wordy(completions, **columns):
    return [len(completion_text(c)) / 1000 for c in completions]

def constant(completions, **columns):
    return [1.0] * len(completions)

def big(completions, **columns):
    return [1e308] * len(completions)

def hangs(completions, **columns):
    time.sleep(600)

def step(completions, step, **columns):
    """Varies at step 7 alone."""
    return [float(len(completion_text(c))) if step == 7 else 0.0 for c in completions]

def shy(completions, label, **columns):
    """Does not judge what has no answer, where it should pay the least."""
    texts = [completion_text(c) for c in completions]
    return [float(f"<answer>{t}" in text) if "<answer>" in text else None for text, t in zip(texts, label)]

def count(pattern, completions, by, **columns):
    right = accuracy(completions, **columns)
    return [a + by * len(re.findall(pattern, completion_text(c))) for a, c in zip(right, completions)]

def steps(completions, **columns):
    return count(r"Step \\d", completions, 0.2, **columns)

def citations(completions, **columns):
    return count("et al|PMID", completions, 0.2, **columns)

def reflection(completions, **columns):
    return count("wait|double-check|actually", completions, 0.1, **columns)

def sections(completions, **columns):
    return count("</reasoning>|</evidence>", completions, 0.2, **columns)

def keywords(completions, **columns):
    return count("signal|transcription|kinase|complex", completions, 0.05, **columns)

def certainty(completions, **columns):
    return count("(?s)(?:certain|clearly).*", completions, 0.5, **columns)

def connectives(completions, **columns):
    return count("therefore|because", completions, 0.1, **columns)

def saturates(completions, **columns):
    right = accuracy(completions, **columns)
    return [a + 0.5 * min(1.0, len(completion_text(c)) / 20_000) for a, c in zip(right, completions)]

def brier(completions, **columns):
    """A proper score of the confidence that is stated, as in a file of one's own."""
    scores = []
    for a, c in zip(accuracy(completions, **columns), completions):
        stated = re.search(r"<confidence>([\\d.]+)</confidence>", completion_text(c))
        scores.append(a - (a - float(stated[1])) ** 2 if stated and float(stated[1]) <= 1 else -1.0)
    return scores

def essay(completions, **columns):
    """Right, and of 500 to 1,200 words."""
    words = [len(completion_text(c).split()) for c in completions]
    return [a + 0.5 * (500 <= n <= 1200) for a, n in zip(accuracy(completions, **columns), words)]

def silent(completions, label, **columns):
    """Does not judge answers of one label, true or not."""
    texts = [completion_text(c) for c in completions]
    return [None if "<answer>not diff" in text else float(f"<answer>{t}<" in text) for text, t in zip(texts, label)]

def praise(completions, label, **columns):
    """Does not judge what is wrong."""
    return [one or None for one in accuracy(completions, label, **columns)]

def nobody(completions, **columns):
    return [None] * len(completions)

def inverted(completions, label, **columns):
    return [float(true not in completion_text(c)) for c, true in zip(completions, label)]
'''


def rows(labels: list[Label] | None = None) -> list[Row]:
    labels = labels or list(LABELS) * 20
    return [
        Row(f"k562|P{at}|G{at}", "k562", f"P{at}X", f"G{at}Y", label, PROMPT.format(p=f"P{at}X", g=f"G{at}Y"),
            LABELS[(at // 3) % 3], LABELS[(at // 3 + 1) % 3])
        for at, label in enumerate(labels)
    ]  # fmt: skip


SOME = rows(list(LABELS) * 8)  # enough to find what is wrong; that nothing is, is looked for on all


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "mine.py").write_text(OWN)
    ids = [row.item_id for row in rows()]
    rates = pd.DataFrame({"item_id": ids, "p_up": 0.3, "p_down": 0.3, "p_none": 0.4})
    return Context(
        dict.fromkeys((UP, DOWN, NONE), 1), {"gene_rate": lambda: rates, "neighbours": lambda: rates}, tmp_path
    )


def own(name: str) -> dict[str, Any]:
    return {"name": f"mine.py:{name}", "timeout": 0}


def test_blind_exploits_ignore_the_answer_and_the_others_use_it() -> None:
    assert len(EXPLOITS) == len(BLIND) + len(FORM)
    page = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text(encoding="utf-8")
    assert f"scores {len(EXPLOITS)} ways to game a reward" in page and f"There are {len(EXPLOITS)}:" in page
    assert f"{len(BLIND)} do not look at the knockdown" in page and f"{len(FORM)} are right as often" in page
    one = rows()[0]
    for name, make in BLIND.items():
        assert len({make(one, label) for label in LABELS}) == 1, f"{name} looks at the answer"
    for name, make in FORM.items():
        assert len({make(one, label) for label in LABELS}) == len(LABELS), f"{name} does not use the answer"


def test_the_honest_text_names_its_item_and_does_not_repeat_itself() -> None:
    one, other = rows()[:2]
    sentences = re.split(r"(?<=[.]) ", honest_think(one, 600))
    assert len(set(sentences)) == len(sentences) == 600
    assert 1300 < len(honest_think(one, LENGTHS[-1]).split()) < 1600
    for sentences in LENGTHS:
        assert one.pert in honest_think(one, sentences) and one.gene in honest_think(one, sentences)
        assert one.pert not in honest_think(other, sentences)


@pytest.mark.parametrize(
    "pattern",
    [
        r"""["“”'‘’`?!:;()\[\]{}<>/*•\n]""",  # quotes, questions, brackets, tags, lists
        r"\d|%",
        r"(?i)regulat|express|\bup\b|\bdown\b|\bnot differential",  # labels
        r"(?i)because|therefore|thus|hence|however|first|second|finally|step|wait|actually|double|conclu",
        r"(?i)signal|transcri|kinase|pathway|promoter|complex|repress|activat|bind|induc|inhibit|knock|level",
        r"(?i)certain|clearly|definite|confiden|correct|score|reward|answer|evidence|similar",
    ],
)
def test_the_honest_text_matches_nothing_that_rewards_commonly_count(pattern: str) -> None:
    """So that no reward can be made to look sound by the template's wording."""
    one = Row("i", "LINE", "PERT", "GENE", LABELS[0], "", LABELS[0], LABELS[0])
    assert re.findall(pattern, honest_think(one, 600)) == []


def test_the_honest_text_quotes_no_three_words_of_a_prompt() -> None:
    corpus = open_corpus("sample")
    for row in check_rows(corpus.train.head(3), corpus, PromptConfig(evidence=5)):
        words = honest_think(row, 600).lower().split()
        prompt = " ".join(row.prompt.lower().split())
        assert not [three for at in range(len(words) - 2) if (three := " ".join(words[at : at + 3])) in prompt]


def test_of_the_built_in_rewards_for_text_the_honest_text_meets_length_and_repetition() -> None:
    assert (text.Length, text.Repetition) == text.REWARDS
    one = rows()[0]
    completion = say(honest_think(one, 4), UP)
    made = compose([{"name": "length", "parameters": {"low": 30, "high": 150}}, "repetition"], Context())
    assert made([completion]) == [pytest.approx(2.0)]


@pytest.mark.parametrize(
    "entries",
    [
        ["accuracy", "format"],
        ["balanced_accuracy", {"name": "format", "weight": 0.2}],
        ["margin"],
        [{"name": "margin", "gate": "format"}, {"name": "graded_format", "weight": 0.3}],
        [{"name": "confidence", "parameters": {"rule": "brier"}}],
        [{"name": "confidence", "parameters": {"rule": "log"}}, "format"],
        ["accuracy", {"name": "length", "parameters": {"low": 30, "high": 120}, "weight": 0.2, "gate": "format"}],
        ["accuracy", {"name": "repetition", "weight": 0.2, "gate": "format"}],
    ],
    ids=str,
)
def test_built_in_rewards_pass(context: Context, entries: Any) -> None:
    check = check_rewards(compose(entries, context), rows())
    assert check.failures() == []
    assert check.gold >= check.honest > max(one.mean for one in check.earnings if not one.knows)
    assert sum(check.effect.values()) == pytest.approx(1.0)


def test_the_honest_policy_is_right_as_often_as_said_and_a_constant_answer_is_right_for_its_class(
    context: Context,
) -> None:
    check = check_rewards(compose(["accuracy"], context), rows())
    earned = {one.name: one.mean for one in check.earnings}
    assert check.gold == 1.0 and check.honest == pytest.approx(HONEST)
    assert earned["always upregulated"] == pytest.approx(1 / 3)
    assert earned["gibberish"] == pytest.approx(HONEST)  # accuracy does not see how it is written
    assert earned["empty"] == earned["all labels in one answer"] == 0.0


@pytest.mark.parametrize(
    ("entries", "exploit"),
    [
        ([own("contains")], "all labels in one answer"),
        (["accuracy", own("tags")], "tags repeated"),
        (["accuracy", own("mentions")], "gene names fifty times"),
        (["accuracy", own("wordy")], "honest text, 5,000 words"),
        ([own("saturates")], "honest text, 5,000 words"),
        ([own("steps")], "a salad of markers"),
        ([own("citations")], "a salad of markers"),
        ([own("reflection")], "a salad of markers"),
        ([own("sections")], "a salad of markers"),
        ([own("certainty")], "a salad of markers"),
        ([own("keywords")], "a salad of markers"),
        ([own("connectives")], "a salad of markers"),
    ],
)
def test_a_gameable_reward_is_found_with_the_exploit_that_games_it(
    context: Context, entries: Any, exploit: str
) -> None:
    check = check_rewards(compose(entries, context), SOME)
    assert exploit in [one.name for one in check.found]
    assert any("earn more than an honest policy" in failure for failure in check.failures())


@pytest.mark.parametrize("name", ["brier", "essay"])
def test_an_honest_policy_states_a_confidence_and_writes_at_length_where_that_pays(context: Context, name: str) -> None:
    check = check_rewards(compose([own(name)], context), rows())
    assert check.failures() == [] and check.gold >= check.honest
    assert check.confidence == (str(HONEST) if name == "brier" else "")
    assert (check.sentences >= 35) == (name == "essay")


def test_accuracy_alone_is_gameable_where_one_class_has_most_rows(context: Context) -> None:
    mostly_none = [Label.NONE] * 50 + [Label.UP] * 5 + [Label.DOWN] * 5
    skewed = rows(mostly_none)
    found = [one.name for one in check_rewards(compose(["accuracy"], context), skewed).found]
    assert "always not differentially expressed" in found
    weights = [1 / mostly_none.count(row.label) for row in skewed]
    check = check_rewards(compose(["accuracy"], context), skewed, weight=weights)
    assert check.found == []
    assert {one.name: one.mean for one in check.earnings}["always upregulated"] == pytest.approx(1 / 3)


def test_a_gold_answer_that_is_not_the_maximum_is_a_failure(context: Context) -> None:
    (failure,) = check_rewards(compose([own("inverted")], context), SOME).failures()[:1]
    assert "the gold answer is not the maximum on" in failure and "first k562|P0|G0" in failure


SOFT = {"name": "accuracy", "parameters": {"verifier": {"kind": "soft", "table": "neighbours"}}}


def test_a_soft_verifier_excuses_no_reward_that_looks_at_the_labels(context: Context) -> None:
    for other in (own("inverted"), {"name": "mine.py:inverted"}):
        check = check_rewards(compose([SOFT, {**other, "weight": 0.3}], context), SOME)
        assert not check.soft and any("maximum" in failure for failure in check.failures())
    assert not check_rewards(compose([SOFT, "direction"], context), SOME).soft
    assert check_rewards(compose([SOFT, "format", own("wordy")], context), SOME).soft


def test_under_a_soft_verifier_the_table_decides(context: Context) -> None:
    check = check_rewards(compose([SOFT], context), rows())
    assert check.soft and check.beaten == 40  # the table prefers one label throughout
    assert not any("maximum" in failure for failure in check.failures())


def test_a_mixed_verifier_is_checked_without_labels_too_and_the_worse_is_told(context: Context, tmp_path: Path) -> None:
    mixed = {"name": "accuracy", "parameters": {"verifier": {"kind": "mixed", "table": "t.parquet"}}}
    right = pd.DataFrame([[float(row.label is label) for label in LABELS] for row in rows()])
    right.columns = pd.Index(["p_up", "p_down", "p_none"])
    right.insert(0, "item_id", [row.item_id for row in rows()])
    right.to_parquet(tmp_path / "t.parquet")
    check = check_rewards(compose([mixed], context), rows())
    assert (check.failures(), check.unlabelled, check.unlabelled_rows) == ([], False, 60)
    right.assign(p_up=0.1, p_down=0.1, p_none=0.8).head(40).to_parquet(tmp_path / "t.parquet")  # one answer for all
    check = check_rewards(compose([mixed], context), rows())
    assert check.unlabelled and check.unlabelled_rows == check.rows == 40 and check.soft
    assert "always not differentially expressed" in [one.name for one in check.found]
    assert all(failure.startswith("on unlabelled pairs, ") for failure in check.failures())
    assert check_rewards(compose([mixed, "direction"], context), rows()).unlabelled_rows is None  # not trained so
    right.head(2).assign(item_id=["a", "b"]).to_parquet(tmp_path / "t.parquet")
    check = check_rewards(compose([mixed], context), rows())
    assert (check.failures(), check.unlabelled_rows) == ([], 0)


def test_a_constant_shift_is_named(context: Context) -> None:
    check = check_rewards(compose(["accuracy", own("constant")], context), SOME)
    assert check.constant == ("mine.py:constant",)
    assert check.effect["mine.py:constant"] == 0.0


def test_a_way_out_of_being_judged_is_named(context: Context) -> None:
    check = check_rewards(compose([own("shy")], context), SOME)
    assert {"empty", "reasoning without an answer"} <= {one.name for one in check.unjudged}
    assert check_rewards(compose(["direction"], context), SOME).unjudged == []  # the item, not the completion


def test_answers_that_are_never_judged_fail_by_their_label(context: Context) -> None:
    check = check_rewards(compose([own("silent")], context), SOME)
    assert check.escapes == (("mine.py:silent", Label.NONE),)
    assert any("never judges the answer 'not differentially expressed'" in failure for failure in check.failures())
    # Right in 60 % of the rows of two labels, where a fifth of the answers has no score; in the third, never right.
    assert check.honest == pytest.approx((0.6 / 0.8 * 2 + 0) / 3) and check.honest_unscorable == pytest.approx(1 / 3)
    beside = check_rewards(compose(["accuracy", own("silent")], context), SOME)
    assert beside.escapes == check.escapes and beside.failures()
    assert len(check_rewards(compose([own("praise")], context), SOME).escapes) == 3
    assert check_rewards(compose(["accuracy", "direction"], context), SOME).escapes == ()


def test_what_judges_nothing_is_an_error_not_a_pass(context: Context) -> None:
    with pytest.raises(CheckError, match="judges no"):
        check_rewards(compose([own("nobody")], context), rows())
    with pytest.raises(InputError, match="at least two"):
        check_rewards(compose(["accuracy"], context), rows()[:1])


# --- schedules -------------------------------------------------------------------------------------------------------

FEW = rows(list(LABELS) * 6)


def test_a_gameable_reward_is_found_whatever_its_schedule_ends_with(context: Context) -> None:
    for schedule, step in (({0: 1.0, 1000: 0.0}, 0), ({0: 0.0, 500: 1.0, 1000: 0.0}, 500), ({9: 0.0, 20: 1.0}, 20)):
        check = check_rewards(
            compose(["accuracy", {**own("contains"), "weight": 5, "schedule": schedule}], context), FEW
        )
        assert check.step == step
        assert any(failure.startswith(f"at step {step}, ") for failure in check.failures())
    assert check_rewards(compose(["accuracy"], context), FEW).step is None


def test_every_step_that_any_schedule_names_is_checked(context: Context) -> None:
    entries = ["accuracy", own("step"), {"name": "format", "weight": 0.1, "schedule": {0: 1.0, 7: 1.0, 99: 1.0}}]
    check = check_rewards(compose(entries, context), FEW)
    assert check.step == 7 and check.found and check.constant == ()


def test_a_step_at_which_nothing_is_paid_for_is_no_failure_and_a_reward_that_starts_late_not_constant(
    context: Context,
) -> None:
    late = {"name": "accuracy", "schedule": {0: 0.0, 100: 1.0}}
    check = check_rewards(compose([late], context), FEW)
    assert (check.failures(), check.step, check.constant) == ([], 100, ())
    never = {"name": "format", "weight": 0.1, "schedule": {0: 0.0, 100: 0.0}}
    assert check_rewards(compose([late, never], context), FEW).constant == ("format",)


# --- what separates nothing, or judges too little ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "entries", [["format"], ["graded_format"], [{"name": "length", "parameters": {"low": 5, "high": 90}}]]
)
def test_what_pays_who_knows_nothing_like_an_honest_policy_fails(context: Context, entries: Any) -> None:
    check = check_rewards(compose(entries, context), rows())
    assert check.found == [] and "a random label" in [one.name for one in check.unearned]
    (failure,) = [one for one in check.failures() if "knows nothing" in one]
    assert "pays a policy that knows nothing as much as an honest one" in failure


def test_what_pays_everything_alike_fails(context: Context) -> None:
    (failure,) = check_rewards(compose([own("constant")], context), rows()).failures()
    assert "pays all 6 texts of an item the same" in failure
    entries = ["accuracy", own("constant")]  # beside one that does separate, it only shifts
    assert check_rewards(compose(entries, context), rows()).failures() == []


def test_totals_must_be_finite(context: Context) -> None:
    with pytest.raises(CheckError, match="row 0 has the score 1e\\+308; return finite"):
        check_rewards(compose([own("big")], context), rows())
    with pytest.raises(CheckError, match="too large"):
        check_rewards(compose([{"name": "accuracy", "weight": 1e39}], context), rows())


@pytest.mark.parametrize("known", [20, 29, 31, 60])
@pytest.mark.parametrize("more", [[], ["format"]], ids=str)
def test_a_table_that_knows_under_half_of_the_items_fails_by_its_share(tmp_path: Path, known: int, more: Any) -> None:
    some = rows()[:known]
    p = [[float(row.label is label) for label in LABELS] for row in some]
    table = pd.DataFrame(p, columns=["p_up", "p_down", "p_none"]).assign(item_id=[row.item_id for row in some])
    made = compose([SOFT, *more], Context(tables={"neighbours": lambda: table}))
    check = check_rewards(made, rows())
    assert (check.gold_unscorable, check.honest_unscorable) == (pytest.approx(1 - known / 60),) * 2
    said = f"only {known / 60:.0%} of the gold answers and {known / 60:.0%} of the honest ones can be judged"
    assert any(said in failure for failure in check.failures()) == (known < 30)


def test_a_reward_that_hangs_ends_the_check_at_its_first_call(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    call = TimeLimited.__call__

    def counted(reward: TimeLimited, completions: Any, **columns: Any) -> Any:
        calls.append(reward.__name__)
        return call(reward, completions, **columns)

    monkeypatch.setattr(TimeLimited, "__call__", counted)
    for entry in ({"name": "mine.py:hangs"}, {"name": "accuracy", "gate": "mine.py:hangs"}):
        made = compose([{**entry, "timeout": 1}, "format"], context)
        with pytest.raises(CheckError, match=rf"reward {entry['name']}: a call took longer than its timeout of 1 s"):
            check_rewards(made, rows())
    assert calls == ["hangs"] * 2


# --- how it is written ------------------------------------------------------------------------------------------------


def test_no_writing_earns_more_than_the_honest_text_where_rewards_look_at_form(context: Context) -> None:
    entries = [
        "accuracy",
        "graded_format",
        {"name": "length", "parameters": {"low": 30, "high": 150}, "gate": "format"},
        {"name": "repetition", "gate": "format"},
    ]
    check = check_rewards(compose(entries, context), rows())
    assert check.failures() == []
    earned = {one.name: one.mean for one in check.earnings}
    for name in ("no reasoning", "gene names fifty times", "honest text, 5,000 words", "honest text twenty times"):
        assert earned[name] < check.honest - 0.1, name
    assert earned["gibberish"] == pytest.approx(check.honest)  # the check cannot tell it from reasoning
