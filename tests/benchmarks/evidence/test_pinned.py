"""What PerturbQA and the sample gave before other screens could be read: items, prompts and protocols, to the digit."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.evaluation.protocol import Protocol
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts

PROMPTS = (
    PromptConfig(),
    PromptConfig(evidence=5),
    PromptConfig(evidence=3, lemmas=True, template_version=1),
    PromptConfig(template="direction", evidence=1),
)


def digest_of_prompts(corpus: Corpus, items: pd.DataFrame) -> str:
    prompts = [build_prompts(items, corpus, config) for config in PROMPTS]
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def digest_of_items(items: pd.DataFrame) -> str:
    columns = items[["item_id", "cell_line", "pert", "gene", "label", "split"]].astype(str)
    return hashlib.sha256(columns.to_csv(index=False).encode()).hexdigest()


def test_the_sample() -> None:
    corpus = open_corpus("sample")
    assert corpus.digest == "e3a2396ca46631efac07a9e6d5021425623ff288b5f8fbb56ba735fb0daae0ea"
    assert digest_of_items(corpus.labels) == "bf33d99ef987c1afc7f94ee3ed1df0fd426e2c63c329e87aeba81d2637f6548f"
    assert (
        digest_of_prompts(corpus, corpus.labels.iloc[::3])
        == "5a28e6a37bdd19c7180517fee78c0591777b31ee2221c108035d75a0f91df54f"
    )
    protocol = Protocol(data=corpus.digest, prompt=PromptConfig(evidence=5))
    assert protocol.fingerprint == "2d53305f806329b3aa11e4bc23885d265f63e66dcf88409ea758c86a49825c8f"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "digest", "items", "prompts"),
    [
        (
            "official",
            "7844ecc5586a5f909b0638ff4ed6d8375f8fe8687115ce70077184482aaeb1d6",
            "984bdac4b7fb735c7d649da67d8e2152f5d714c45e3c0365756001e65d94e160",
            "610ca7e806a3015c331de99acae82fa19d44db00229b6ba8130ce587d8f733eb",
        ),
        (
            "holdout:rpe1",
            "0ceb06ed5807efddb2a5a69df7afe2605f949f1fe06d1051abb6d5a164014b2b",
            "0e828f8283b341a2b5db3acc454ff35fc02a87635530e02ecfa9214fcb808a11",
            "8eb0f07adcc0f4669c9668c7e8820696d2e35ab37f0b88a8c6529a8c1e4ec697",
        ),
    ],
)
def test_the_full_labels(full_labels: Path, split: str, digest: str, items: str, prompts: str) -> None:
    corpus = open_corpus(full_labels, split)
    assert corpus.digest == digest
    assert digest_of_items(corpus.labels.iloc[::7]) == items
    assert digest_of_prompts(corpus, corpus.labels.iloc[::499]) == prompts
