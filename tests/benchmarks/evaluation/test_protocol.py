"""The protocol refuses contradictions and tells what was changed."""

import json
from typing import Any

import pytest

from benchmarks.evaluation.protocol import Protocol, load_protocol
from rewards import InputError

BASE: dict[str, Any] = {"data": "d" * 64, "max_tokens": 256}


def test_canonical_json_holds_every_key_and_reads_back() -> None:
    protocol = Protocol(**BASE, temperature=0.7, top_p=0.9, samples=4, split="holdout:rpe1", scores="votes")
    values = json.loads(protocol.canonical_json())
    assert list(values) == sorted(values)
    assert load_protocol(values) == protocol
    assert load_protocol(values).fingerprint == protocol.fingerprint


def test_a_whole_number_and_its_float_are_one_protocol() -> None:
    assert Protocol(**BASE, temperature=1).fingerprint == Protocol(**BASE, temperature=1.0).fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", "e" * 64),
        ("max_tokens", 257),
        ("template", "direction"),
        ("template_version", 2),
        ("lemmas", True),
        ("evidence", 3),
        ("temperature", 0.5),
        ("split", "holdout:k562"),
        ("items", 100),
        ("item_seed", 1),
        ("seed", 1),
        ("scores", "votes"),
        ("parser", "lenient"),
    ],
)
def test_every_key_moves_the_fingerprint(key: str, value: object) -> None:
    assert load_protocol({**BASE, key: value}).fingerprint != Protocol(**BASE).fingerprint


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"samples": 4}, "samples"),  # greedy samples are all alike
        ({"top_p": 0.9}, "top_p"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p"),
        ({"temperature": 1.0, "samples": 0}, "samples"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"evidence": -1}, "evidence"),
        ({"evidence": True}, "evidence"),
        ({"items": -1}, "items"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"item_seed": -1}, "item_seed"),
        ({"template": "two_class"}, "template"),
        ({"template_version": 0}, "template_version"),
        ({"lemmas": 1}, "lemmas"),
        ({"split": "holdout:hela"}, "split"),
        ({"split": "random"}, "split"),
        ({"scores": "logits"}, "scores"),
        ({"parser": "loose"}, "parser"),
        ({"data": ""}, "data"),
    ],
)
def test_a_value_that_is_not_allowed_names_its_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=rf"^protocol: {key} is ") as caught:
        load_protocol({**BASE, **values})
    assert "\n" not in str(caught.value)


def test_a_mistyped_key_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"eval\.yaml: unknown key 'temprature'; did you mean temperature\?"):
        load_protocol({**BASE, "temprature": 0.0}, "eval.yaml")


def test_a_key_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown key 'zzz'; known keys: data, max_tokens"):
        load_protocol({**BASE, "zzz": 0})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="data is missing"):
        load_protocol({"max_tokens": 8})
