"""Every built-in reward passes the same tests: kinds of completion, batches, columns, threads, processes, any text."""

import inspect
import itertools
import math
import multiprocessing
import pickle
import random
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from without_clock import UNHURRIED

from rewards import (
    LABELS,
    Accuracy,
    BalancedAccuracy,
    Confidence,
    Direction,
    Format,
    GradedFormat,
    InputError,
    Length,
    Margin,
    MixedVerifier,
    Repetition,
    SoftVerifier,
    label_table,
)
from rewards.compose import BUILT_IN
from rewards.reward import Reward
from rl.lab.exploits import EXPLOITS
from rl.lab.rows import Row

UP, DOWN, NONE = map(str, LABELS)
TABLE = label_table(pd.DataFrame({"item_id": ["k562|AARS|CALR"], "p_up": 0.5, "p_down": 0.2, "p_none": 0.3}), "table")
REWARDS = [
    Accuracy(),
    Accuracy(SoftVerifier(TABLE)),
    BalancedAccuracy({UP: 5, DOWN: 2, NONE: 93}),
    BalancedAccuracy({UP: 5, DOWN: 2, NONE: 93}, MixedVerifier(TABLE)),
    Margin(TABLE),
    Direction(),
    Confidence(),
    Confidence("log", SoftVerifier(TABLE)),
    Format(),
    GradedFormat(),
    Length(3, 8),
    Length(3, 8, "tokens"),
    Repetition(),
]
# No address in a name: processes that run tests side by side must find the same names.
EVERY = pytest.mark.parametrize(
    "reward", REWARDS, ids=lambda reward: re.sub(r" object at 0x\w+", "", repr(reward))[:60]
)
PROMPT = (
    "AARS is knocked down by CRISPRi in K562. What happens to CALR?\n"
    "LARS (0.7): upregulated\nSHARED (0.4): downregulated"
)


def say(think: str, answer: str) -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


def batch(n: int, **changed: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "label": [UP] * n, "item_id": ["k562|AARS|CALR"] * n, "pert": ["AARS"] * n, "gene": ["CALR"] * n,
        "cell_line": ["k562"] * n, "prompts": [PROMPT] * n, "completion_ids": [[1, 2, 3]] * n,
    }  # fmt: skip
    return {**columns, **changed}


TEXTS: list[str | None] = [
    say("AARS loss would raise CALR levels in stress.", UP),
    say("AARS loss would raise CALR levels in stress.", UP + " <confidence>0.9</confidence>"),
    say("because", DOWN),
    say("", "not " + UP),
    say(f'It says "is knocked down by CRISPRi" and LARS (0.7): {UP}. CALR is in the unfolded protein response.', NONE),
    f"<answer>{UP}</answer>",
    f"<think>a</think><answer>{UP}",
    "",
    " ",
    None,
    "上调 ↑ \u200b " + UP,
    say("ﬁ 𝔸𝔸ℝ𝕊 ​", UP.upper()),
    "\ud800 broken",
]


def test_the_list_here_holds_every_built_in_reward() -> None:
    assert {reward.__name__ for reward in REWARDS} == set(BUILT_IN)


@pytest.mark.parametrize("made", BUILT_IN.values(), ids=list(BUILT_IN))
def test_a_reward_says_of_itself_only_what_somebody_asks(made: type[Reward]) -> None:
    said = {name for name in vars(made) if not name.startswith("_")} - set(inspect.signature(made).parameters)
    assert said - {"range"} <= set(vars(Reward))  # a misspelt one would be heard by nobody


@EVERY
def test_each_kind_of_completion_has_a_score_within_the_range_or_none_where_it_failed(reward: Any) -> None:
    scores = reward(completions=TEXTS, **batch(len(TEXTS)))
    low, high = reward.range
    assert len(scores) == len(TEXTS)
    for text, score in zip(TEXTS, scores, strict=True):
        if text is None:
            assert score is None
        else:
            assert isinstance(score, float) and low <= score <= high


@EVERY
def test_messages_score_as_their_text_does(reward: Any) -> None:
    messages = [[{"role": "assistant", "content": text}] for text in TEXTS]
    columns = batch(len(TEXTS))
    assert reward(completions=messages, **columns) == reward(completions=TEXTS, **columns)


@EVERY
def test_a_batch_of_one_of_none_and_of_a_thousand(reward: Any) -> None:
    (alone,) = reward(completions=TEXTS[:1], **batch(1))
    assert reward(completions=[], **batch(0)) == []
    assert reward(completions=TEXTS[:1] * 1000, **batch(1000)) == [alone] * 1000


@EVERY
def test_other_columns_change_nothing(reward: Any) -> None:
    columns = batch(len(TEXTS))
    plain = reward(completions=TEXTS, **columns)
    assert reward(completions=TEXTS, **columns, trainer_state=None, log_metric=print, other=["x"] * 13) == plain


@EVERY
def test_permuting_a_batch_permutes_its_scores(reward: Any) -> None:
    order = list(range(len(TEXTS)))
    random.Random(0).shuffle(order)
    columns = batch(len(TEXTS), label=[LABELS[at % 3] for at in range(len(TEXTS))])
    scores = reward(completions=TEXTS, **columns)
    turned = {key: [values[at] for at in order] for key, values in columns.items()}
    assert reward(completions=[TEXTS[at] for at in order], **turned) == [scores[at] for at in order]


@EVERY
def test_a_batch_changed_in_place_is_read_again(reward: Any) -> None:
    completions = [TEXTS[0], TEXTS[2]]
    reward(completions=completions, **batch(2))
    completions[0] = ""
    fresh = reward(completions=["", TEXTS[2]], **batch(2))
    assert reward(completions=completions, **batch(2)) == fresh


@EVERY
def test_pickling_keeps_the_scores(reward: Any) -> None:
    copy = pickle.loads(pickle.dumps(reward))
    columns = batch(len(TEXTS))
    assert copy.__name__ == reward.__name__
    assert copy(completions=TEXTS, **columns) == reward(completions=TEXTS, **columns)


@EVERY
def test_threads_score_alike(reward: Any) -> None:
    columns = batch(len(TEXTS))
    expected = reward(completions=TEXTS, **columns)
    turned = reward(completions=TEXTS[::-1], **columns)
    with ThreadPoolExecutor(8) as pool:
        work = [pool.submit(reward, completions=TEXTS[:: 1 - 2 * (at % 2)], **columns) for at in range(40)]
        assert [done.result() for done in work] == [turned if at % 2 else expected for at in range(40)]


def score_all(texts: list[str | None], columns: dict[str, Any]) -> list[list[float | None]]:
    return [reward(completions=texts, **columns) for reward in REWARDS]


def test_a_worker_process_scores_alike() -> None:
    columns = batch(len(TEXTS))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(score_all, (TEXTS, columns)) == score_all(TEXTS, columns)


texts = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<answer>", "</answer>", "<confidence>", "</confidence>", UP, DOWN, NONE, "not",
             "0.5", "1", "2", "AARS", "CALR", " ", ". ", '"', "regulates", "LARS (0.7): upregulated", "glycolysis",
             "\n"]
        ),
        max_size=40,
    ).map("".join),
)  # fmt: skip


@EVERY
@settings(UNHURRIED, max_examples=60)
@given(completions=st.lists(texts, min_size=1, max_size=4), label=st.sampled_from(LABELS))
def test_any_text_has_a_score_within_the_range(reward: Any, completions: list[str], label: Any) -> None:
    low, high = reward.range
    n = len(completions)
    for score in reward(completions=completions, **batch(n, label=[label] * n)):
        assert score is None or (math.isfinite(score) and low - 1e-12 <= score <= high + 1e-12)


@EVERY
def test_no_exploit_leaves_the_range(reward: Any) -> None:
    row = Row("k562|AARS|CALR", "k562", "AARS", "CALR", LABELS[0], PROMPT, LABELS[2], LABELS[1], "0.6")
    completions = [make(row, answer) for make in EXPLOITS.values() for answer in LABELS]
    low, high = reward.range
    for score in reward(completions=completions, **batch(len(completions), completion_ids=[[1]] * len(completions))):
        assert score is not None and low <= score <= high


# --- what each pays --------------------------------------------------------------------------------------------------


def one(reward: Any, text: str | None, **changed: Any) -> float | None:
    columns = {key: [value] for key, value in changed.items()}
    (score,) = reward(completions=[text], **batch(1, **columns))
    return score  # type: ignore[no-any-return]


def test_soft_accuracy_pays_the_probability_of_the_answer() -> None:
    soft = Accuracy(SoftVerifier(TABLE))
    assert [one(soft, say("a", label)) for label in LABELS] == [0.5, 0.2, 0.3]
    assert one(soft, say("a", UP), item_id="k562|X|Y") is None
    assert one(soft, "nothing") == 0.0


def test_mixed_pays_the_label_where_there_is_one_and_the_table_elsewhere() -> None:
    mixed = Accuracy(MixedVerifier(TABLE))
    assert one(mixed, say("a", DOWN), label=DOWN) == 1.0
    for missing in (None, "", float("nan"), pd.NA):
        assert one(mixed, say("a", DOWN), label=missing) == 0.2


def test_margin_pays_nothing_on_average_for_any_answer_that_knows_the_rate_alone() -> None:
    for label in LABELS:
        earned = [one(Margin(TABLE), say("a", label), label=truth) for truth in LABELS]
        assert sum(p * float(e or 0.0) for p, e in zip((0.5, 0.2, 0.3), earned, strict=True)) == pytest.approx(0.0)
    assert one(Margin(TABLE), "nothing") == -1.0
    assert one(Margin(TABLE), say("a", UP), item_id="k562|X|Y") is None


def test_direction_judges_changed_genes_only() -> None:
    assert one(Direction(), say("a", UP), label=NONE) is None
    scores = [one(Direction(), say("a", answer), label=DOWN) for answer in LABELS]
    assert scores == [0.0, 1.0, 0.0]
    soft = Direction(SoftVerifier(TABLE))
    assert one(soft, say("a", UP)) == pytest.approx(0.5 / 0.7)


@pytest.mark.parametrize("rule", ["brier", "log"])
def test_stating_the_true_probability_pays_best_and_more_the_higher_it_is(rule: str) -> None:
    grid = [at / 20 for at in range(21)]

    def expected(p: float, q: float) -> float:
        stated = f"{UP} <confidence>{q:.2f}</confidence>"
        right, wrong = (one(Confidence(rule), say("a", stated), label=truth) for truth in (UP, DOWN))
        return p * float(right or 0.0) + (1 - p) * float(wrong or 0.0)

    best = [max(grid, key=lambda q, p=p: expected(p, q)) for p in grid]  # type: ignore[misc]
    assert best == pytest.approx(grid)
    honest = [expected(p, p) for p in grid]
    assert all(later >= earlier - 1e-12 for earlier, later in itertools.pairwise(honest))


@pytest.mark.parametrize("rule", ["brier", "log"])
def test_an_unstated_or_impossible_confidence_earns_the_least(rule: str) -> None:
    reward = Confidence(rule)
    for stated in (
        "",
        " <confidence>1.2</confidence>",
        " <confidence>high</confidence>",
        " <confidence>-0.2</confidence>",
    ):
        assert one(reward, say("a", UP + stated)) == reward.range[0]


def test_graded_format_is_1_exactly_where_format_is_and_never_rises_by_repeating() -> None:
    graded = GradedFormat()
    for text in TEXTS:
        assert (one(graded, text) == 1.0) == (one(Format(), text) == 1.0)
    assert one(graded, say("a", UP)) == 1.0
    assert one(graded, say("a", "perhaps")) == 0.75
    assert one(graded, say("a", UP) + " end") == 0.75
    assert one(graded, say("a", UP + " <confidence>0.9</confidence>") + " end") == 0.75
    assert one(graded, "<think>a</think>") == 0.25
    assert one(graded, f"<answer>{UP}</answer>") == 0.25
    assert one(graded, "<think></think><answer></answer>" * 9) == 0.0


@pytest.mark.parametrize(("n", "score"), [(0, 0.0), (5, 0.5), (9, 0.9), (10, 1.0), (20, 1.0), (21, 20 / 21), (40, 0.5)])
def test_length_has_a_band(n: int, score: float) -> None:
    assert one(Length(10, 20), "word " * n) == pytest.approx(score)
    assert one(Length(10, 20, "tokens"), "x", completion_ids=list(range(n))) == pytest.approx(score)
    assert Length(10, 20, "tokens")(completions=["x"], completion_tokens=[n]) == [pytest.approx(score)]


def test_a_missing_number_of_tokens_is_not_judged() -> None:
    lengths = [None, float("nan"), 5]
    assert Length(2, 9, "tokens")(completions=["x"] * 3, completion_tokens=lengths) == [None, None, 1.0]


@pytest.mark.parametrize("completion", [[], [{"role": "assistant"}]])
def test_a_completion_without_content_is_bad_input(completion: Any) -> None:
    with pytest.raises(InputError, match="no message with content"):
        one(Accuracy(), completion)


@pytest.mark.parametrize(
    ("text", "score"),
    [("a b c d", 1.0), ("a b c a b c", 0.75), ("a a a a a a", 0.25), ("a a", 0.5), ("a", 1.0), ("", 0.0)],
)
def test_repetition_is_the_share_of_unique_trigrams(text: str, score: float) -> None:
    assert one(Repetition(), text) == pytest.approx(score)
