"""Verifiers: labels, tables of probabilities, and both; and what is wrong with a file."""

from pathlib import Path

import pandas as pd
import pytest

from rewards import (
    LABELS,
    Accuracy,
    Context,
    InputError,
    Label,
    Margin,
    MixedVerifier,
    SoftVerifier,
    compose,
    hard,
    label_table,
    read_label_table,
)
from rewards.compose import make_verifier
from rewards.verifiers import MixedRates, gene_means

UP, DOWN, NONE = map(str, LABELS)
FRAME = pd.DataFrame({"item_id": ["a", "b"], "p_up": [0.5, 0.0], "p_down": [0.25, 0.0], "p_none": [0.25, 1.0]})


def test_hard_gives_the_label_all_probability() -> None:
    assert hard.targets({"label": [UP, DOWN, NONE]}, 3) == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    for label in (None, "", "up"):
        with pytest.raises(InputError, match="is not a label"):
            hard.targets({"label": [label]}, 1)
    with pytest.raises(InputError, match="no column 'label'"):
        hard.targets({}, 1)


def test_soft_looks_items_up_and_says_none_where_it_knows_nothing() -> None:
    soft = SoftVerifier(label_table(FRAME, "t"))
    assert soft.targets({"item_id": ["b", "c", "a"]}, 3) == [(0, 0, 1), None, (0.5, 0.25, 0.25)]
    with pytest.raises(InputError, match="'item_id'"):
        soft.targets({}, 1)


def test_mixed_takes_labels_first_and_refuses_unknown_ones() -> None:
    mixed = MixedVerifier(label_table(FRAME, "t"))
    columns = {"item_id": ["a", "a", "c"], "label": [DOWN, None, None]}
    assert mixed.targets(columns, 3) == [(0, 1, 0), (0.5, 0.25, 0.25), None]
    with pytest.raises(InputError, match="is not a label"):
        mixed.targets({"item_id": ["a"], "label": ["upp"]}, 1)


def test_a_table_is_read_from_parquet_as_a_forecast_writes_it(tmp_path: Path) -> None:
    FRAME.assign(more=1).to_parquet(tmp_path / "gears.parquet")
    assert read_label_table(tmp_path / "gears.parquet").rows == {"a": (0.5, 0.25, 0.25), "b": (0.0, 0.0, 1.0)}


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (FRAME.drop(columns="p_none"), "no column 'p_none'"),
        (FRAME.assign(item_id=["a", "a"]), "a is there twice"),
        (FRAME.assign(p_up=[0.5, 0.4]), r"row 1: b has probabilities"),
        (FRAME.assign(p_up=[float("nan"), 0.0]), r"row 0: a has probabilities"),
        (FRAME.assign(p_up=[1.5, 0.0], p_down=[-0.75, 0.0]), r"row 0: a has"),
        (FRAME.assign(p_none=[0.252, 1.0]), r"row 0: a has"),
        (FRAME.assign(p_up=["0.5", "high"]), r"row 1: b has probabilities high, 0.0, 1.0"),
        (FRAME.assign(item_id=["a", None]), r"row 1: no item_id"),
        (FRAME.iloc[:0], "no rows"),
    ],
)
def test_a_wrong_table_is_refused_by_file_and_row(frame: pd.DataFrame, words: str, tmp_path: Path) -> None:
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=words) as told:
        read_label_table(tmp_path / "t.parquet")
    assert str(told.value).startswith(str(tmp_path / "t.parquet"))


def test_probabilities_that_nearly_add_up_are_scaled_to_do_so() -> None:
    frame = pd.DataFrame(
        {"item_id": ["a", "b"], "p_up": [1.0009, 0.5], "p_down": [-1e-10, 0.2], "p_none": [0.0, 0.3009]}
    )
    for p in label_table(frame, "t").rows.values():
        assert all(0.0 <= one <= 1.0 for one in p) and sum(p) == pytest.approx(1.0, abs=1e-12)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("item_id,p_up")
    with pytest.raises(InputError, match="not a Parquet file"):
        read_label_table(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no such file"):
        read_label_table(tmp_path / "none.parquet")


TABLE = pd.DataFrame(
    [("k562|A|G", 0.5, 0.2, 0.3), ("k562|B|G", 0.1, 0.2, 0.7), ("rpe1|A|G", 0.3, 0.3, 0.4)],
    columns=["item_id", "p_up", "p_down", "p_none"],
)


def test_under_a_table_margin_pays_what_it_knows_beyond_the_gene() -> None:
    table = label_table(TABLE, "t")
    rates = label_table(TABLE.assign(p_up=0.2, p_down=0.2, p_none=0.6), "rates")
    reward = Margin(MixedRates(rates, gene_means(table)), MixedVerifier(table))
    items = ["k562|A|G", "k562|B|G", "rpe1|A|G", "k562|A|G"]
    labels = ["", None, float("nan"), "upregulated"]
    paid = {}
    for answer in LABELS:
        said = [f"<think>so</think><answer>{answer}</answer>"] * 4
        paid[answer] = reward(completions=said, label=labels, item_id=items)
    assert paid[Label.UP] == pytest.approx([0.2, -0.2, 0.0, 0.8])
    for scores in paid.values():  # whichever answer a gene is always given
        assert sum(scores[:2]) == pytest.approx(0.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'AARS' is not line\|pert\|gene"):
        gene_means(label_table(TABLE.assign(item_id=["AARS", "b", "c"]), "t"))


def test_mixed_without_a_table_judges_labelled_pairs_alone() -> None:
    verifier = make_verifier({"kind": "mixed", "table": "none"}, Context())
    said = ["<think>so</think><answer>upregulated</answer>"] * 3
    label = ["upregulated", "", "downregulated"]
    assert Accuracy(verifier)(completions=said, label=label, item_id=["a", "b", "c"]) == [1.0, None, 0.0]


def test_margin_takes_off_what_its_verifier_knows_of_the_gene() -> None:
    context = Context(tables={"t": lambda: TABLE, "gene_rate": lambda: TABLE.assign(p_up=0.2, p_down=0.2, p_none=0.6)})
    said = ["<think>so</think><answer>upregulated</answer>"] * 2
    columns = {"item_id": ["k562|A|G", "k562|B|G"], "label": ["upregulated", ""]}
    for verifier, wanted in (
        ("hard", None),
        ({"kind": "soft", "table": "t"}, [0.3, -0.1]),
        ({"kind": "mixed", "table": "t"}, [0.8, -0.2]),
    ):
        reward = compose([{"name": "margin", "parameters": {"verifier": verifier}}], context).components[0]
        if wanted is None:
            assert reward(said[:1], **{name: values[:1] for name, values in columns.items()}) == pytest.approx([0.8])
        else:
            assert reward(said, **columns) == pytest.approx(wanted)
