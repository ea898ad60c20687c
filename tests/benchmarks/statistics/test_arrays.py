"""Text columns and their categories mean the same, whatever the order of the categories and however many are unused."""

import numpy as np
import pandas as pd

from benchmarks.statistics.arrays import prediction_arrays


def test_categories_are_read_as_their_text() -> None:
    frame = pd.DataFrame(
        {
            "item_id": ["z", "b", "a", "c"],
            "cell_line": ["rpe1", "k562", "rpe1", "hepg2"],
            "pert": ["Q", "P", "P", "X"],
            "gene": ["H", "G", "H", "G"],
            "label": "upregulated",
            "answer": ["upregulated", "downregulated", None, "upregulated"],
            "status": ["answered", "answered", "malformed", "answered"],
        }
    )
    text, categories = frame.iloc[:3], frame.astype("category").iloc[:3]  # the last row leaves unused categories
    of_text, of_categories = prediction_arrays(text), prediction_arrays(categories)
    assert list(of_categories.item_id) == list(of_text.item_id) == ["z", "b", "a"]
    for column, expected in (("line", ["rpe1", "k562", "rpe1"]), ("pert", ["Q", "P", "P"]), ("gene", ["H", "G", "H"])):
        assert list(getattr(of_text, column)) == list(getattr(of_categories, column)) == expected
    np.testing.assert_array_equal(of_categories.answer, of_text.answer)
