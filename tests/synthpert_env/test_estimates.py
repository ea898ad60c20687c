"""A mean with its clustered error is what a comparison with nothing gives, and what formulas of others give."""

import math

import numpy as np
import pandas as pd
import pytest

from benchmarks import compare_scores
from rewards import InputError
from synthpert_env.estimates import clustered_mean


def made(n=60, seed=0):
    rng = np.random.default_rng(seed)
    metadata = [{"pert": f"P{rng.integers(7)}", "gene": int(rng.integers(9)), "line": "rpe1"} for _ in range(n)]
    scores = [float(rng.random() < 0.3 + 0.05 * int(one["pert"][1:])) for one in metadata]
    return [f"i{at}" for at in range(n)], scores, metadata


def one_way(scores, codes):
    """The variance of the mean with a key's clusters, as written in Miller 2024 with the finite correction."""
    values, found = np.array(scores), pd.factorize(np.array(codes))[0]
    sums = np.bincount(found, weights=values - values.mean())
    n = len(sums)
    return float((sums**2).sum() * n / (n - 1)) / len(values) ** 2


def test_one_key_gives_the_clustered_error_that_harnesses_know():
    ids, scores, metadata = made()
    found = clustered_mean(ids, scores, metadata, ["pert"])
    assert found.difference == pytest.approx(np.mean(scores), abs=1e-15)
    assert found.se == pytest.approx(math.sqrt(one_way(scores, [one["pert"] for one in metadata])), abs=1e-15)
    assert found.df == len({one["pert"] for one in metadata}) - 1


def test_two_keys_add_both_and_take_off_the_pairs():
    ids, scores, metadata = made()
    keys = [[one["pert"] for one in metadata], [str(one["gene"]) for one in metadata]]
    parts = [one_way(scores, codes) for codes in (*keys, ["|".join(pair) for pair in zip(*keys, strict=True)])]
    expected = max(parts[0] + parts[1] - parts[2], *parts[:2])
    assert clustered_mean(ids, scores, metadata, ["pert", "gene"]).se == pytest.approx(math.sqrt(expected), abs=1e-15)


def test_a_system_minus_a_constant_has_the_error_of_its_mean():
    ids, scores, metadata = made()
    frame = pd.DataFrame({"item_id": ids, "score": scores}).join(pd.DataFrame(metadata))
    other = compare_scores(frame, frame.assign(score=0.25), ["pert", "gene"])
    found = clustered_mean(ids, scores, metadata, ["pert", "gene"])
    assert (found.se, found.df) == (pytest.approx(other.se, abs=1e-15), other.df)
    assert found.low - 0.25 == pytest.approx(other.low, abs=1e-15)


def test_no_key_gives_the_usual_error_and_epochs_are_averaged():
    ids, scores, metadata = made()
    found = clustered_mean(ids, scores, metadata, [])
    assert found.se == pytest.approx(np.std(scores, ddof=1) / math.sqrt(len(scores)), abs=1e-15)
    twice = clustered_mean(ids * 2, scores * 2, metadata * 2, [])
    assert (twice.se, twice.n_items) == (pytest.approx(found.se, abs=1e-15), len(scores))


def test_an_item_without_a_score_is_left_out():
    ids, scores, metadata = made()
    found = clustered_mean(ids, [math.nan, *scores[1:]], metadata, ["pert"])
    assert (found.n_items, found.difference) == (59, pytest.approx(np.mean(scores[1:])))
    assert found.se == pytest.approx(clustered_mean(ids[1:], scores[1:], metadata[1:], ["pert"]).se, abs=1e-15)


def test_one_cluster_gives_no_error():
    """inspect gives 0 there, which would say that the mean is certain."""
    found = clustered_mean(*made(), ["line"])
    assert math.isnan(found.se) and math.isnan(found.low)
    assert "one line" in found.test


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_equal_scores_give_no_interval(score):
    ids, _, metadata = made()
    found = clustered_mean(ids, [score] * len(ids), metadata, ["pert", "gene"])
    assert (found.difference, found.se) == (score, 0.0)
    assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("value", [{}, {"gene": None}])
def test_a_missing_key_is_named_with_the_keys_there_are(value):
    ids, scores, metadata = made()
    metadata[3] = {"pert": "P1", **value}
    with pytest.raises(InputError, match=r"'i3'.*no 'gene'.*'pert'"):
        clustered_mean(ids, scores, metadata, ["pert", "gene"])


def test_a_text_is_no_list_of_keys():
    with pytest.raises(InputError, match=r"\['pert'\]"):
        clustered_mean(*made(), "pert")
