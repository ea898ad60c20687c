"""The protocol refuses contradictions and tells what was changed."""

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.evaluation.protocol import Protocol
from benchmarks.evidence.prompts import PromptConfig
from benchmarks.keys import from_keys, to_keys
from rewards import InputError

BASE: dict[str, Any] = {"data": "d" * 64, "max_tokens": 256}


def protocol_of(**keys: Any) -> Protocol:
    protocol: Protocol = replace(from_keys(Protocol, keys, "protocol"), data="d" * 64)
    return protocol


def test_canonical_json_holds_every_key_and_reads_back() -> None:
    sampled: dict[str, Any] = {**BASE, "temperature": 0.7, "top_p": 0.9, "samples": 4, "split": "holdout:rpe1"}
    prompt = PromptConfig(
        evidence=["contrast,k=3"], evidence_tokens=300, evidence_from="perturbqa", orthologs="upper"
    )  # fmt: skip
    protocol = Protocol(**sampled, scores="both", calibration="temperature", balance=True, prompt=prompt)
    values = json.loads(protocol.canonical_json())
    assert list(values) == sorted(values)
    kept = {key: values[key] for key in to_keys(protocol)}
    assert replace(from_keys(Protocol, kept, "protocol"), data=values["data"]) == protocol
    assert {*values} - {*kept} == {"data"}


def test_the_fingerprint_is_that_of_earlier_releases() -> None:
    protocol = protocol_of(
        max_tokens=256, temperature=0.7, top_p=0.9, samples=4, split="holdout:rpe1", scores="votes", evidence=3,
        lemmas=True, template="direction", template_version=1, items=10, item_seed=2, seed=7, parser="lenient",
    )  # fmt: skip
    assert protocol.canonical_json() == (
        '{"data":"' + "d" * 64 + '","evidence":3,"item_seed":2,"items":10,"lemmas":true,"max_tokens":256,'
        '"parser":"lenient","samples":4,"scores":"votes","seed":7,"split":"holdout:rpe1","temperature":0.7,'
        '"template":"direction","template_version":1,"top_p":0.9}'
    )
    assert (
        protocol_of(max_tokens=256, template_version=1).fingerprint
        == "5540a8de406c26a475c7d7eef11277db212ccbea20992ec403e76d13defd2055"
    )


def test_a_protocol_of_no_labels_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="which labels"):
        Protocol(max_tokens=8).canonical_json()


def test_a_whole_number_and_its_float_are_one_protocol() -> None:
    assert Protocol(**BASE, temperature=1).fingerprint == Protocol(**BASE, temperature=1.0).fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens", 257),
        ("template", "direction"),
        ("lemmas", True),
        ("template_version", 1),
        ("evidence", 3),
        ("evidence", ["neighbours,k=3"]),
        ("evidence_tokens", 300),
        ("temperature", 0.5),
        ("split", "holdout:k562"),
        ("items", 100),
        ("item_seed", 1),
        ("balance", True),
        ("seed", 1),
        ("scores", "votes"),
        ("scores", "direct"),
        ("scores", "both"),
        ("calibration", "temperature"),
        ("parser", "lenient"),
    ],
)
def test_every_key_moves_the_fingerprint(key: str, value: object) -> None:
    assert protocol_of(**{"max_tokens": 256, key: value}).fingerprint != Protocol(**BASE).fingerprint


def test_labels_and_files_of_evidence_move_the_fingerprint() -> None:
    assert Protocol(**{**BASE, "data": "e" * 64}).fingerprint != Protocol(**BASE).fingerprint
    assert Protocol(**BASE, evidence_data="e" * 64).fingerprint != Protocol(**BASE).fingerprint


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
        ({"template_version": 3}, "template_version"),
        ({"lemmas": 1}, "lemmas"),
        ({"split": "holdout:"}, "split"),
        ({"split": "random"}, "split"),
        ({"scores": "logits"}, "scores"),
        ({"parser": "loose"}, "parser"),
    ],
)
def test_a_value_that_is_not_allowed_names_its_key(values: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=rf"^((protocol|prompt): {key} is |{key}: )") as caught:
        protocol_of(**{"max_tokens": 256, **values})
    assert "\n" not in str(caught.value)
