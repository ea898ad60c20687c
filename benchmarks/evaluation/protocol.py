"""The evaluation protocol: everything that must be equal before two models' scores may be compared."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Final, Literal

from benchmarks.evidence.prompts import PromptConfig
from benchmarks.keys import check_values, to_keys
from benchmarks.screens.splits import SPLIT_HELP, read_split
from rewards import InputError

_MAX_SEED: Final = 2**31 - 1
# Keys that are left out where they have no effect, as in protocols from before these keys.
_LEFT_OUT: Final = ("balance", "calibration", "evidence_tokens", "evidence_data", "evidence_from", "orthologs")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How prompts are made, completed and read. Two runs are comparable if their fingerprints are equal.

    Args:
        max_tokens: longest completion, in tokens; at least 1.
        split: `official` or what is held out; see `benchmarks.screens.splits`.
        items: number of test items per cell line; 0 for all of them.
        item_seed: seed of the draw of these items, 0 to 2^31 - 1.
        balance: whether each label is drawn equally often.
        prompt: what the prompts hold.
        temperature: 0 for greedy decoding, or above.
        top_p: nucleus sampling, in (0, 1]; must be 1 with greedy decoding.
        samples: completions per item, at least 1; must be 1 with greedy decoding.
        seed: seed of sampling, 0 to 2^31 - 1.
        scores: source of the label probabilities.
            - `logprobs`: those of the answer's first token, after the model's thought. The score of an item is their
              mean over its samples.
            - `direct`: the same after an empty thought, which is written for the model. Needs greedy decoding.
            - `both`: the mean of the two in log-odds.
            - `votes`: the share of samples that give the label.
        calibration: `temperature` applies the adapter's temperatures to the scores; see `synthpert calibrate`.
        parser: `strict` or `lenient`, see `rewards.parse_answer`.
        data: digest of the labels used. No configuration key: it is set when the labels are read.
        evidence_data: digest of what the evidence quotes besides these labels; empty for nothing. No configuration key.

    Raises:
        InputError: a value is of the wrong type or out of range, or two contradict each other; the message names the
            key.
    """

    max_tokens: int = field(default=1024, metadata={"help": "longest completion in tokens"})
    split: str = field(default="official", metadata={"help": SPLIT_HELP})
    items: int = field(default=0, metadata={"help": "test items per cell line; 0 takes all"})
    item_seed: int = field(default=0, metadata={"help": "seed that draws those items"})
    balance: bool = field(default=False, metadata={"help": "draw each label equally often"})
    prompt: PromptConfig = field(default=PromptConfig())
    temperature: float = field(default=0.0, metadata={"help": "0 decodes greedily"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus sampling: draw from this share of the probability"})
    samples: int = field(default=1, metadata={"help": "completions per item"})
    seed: int = field(default=0, metadata={"help": "seed of sampling"})
    scores: Literal["logprobs", "direct", "both", "votes"] = field(
        default="logprobs", metadata={"help": "logprobs after the thought, direct after an empty one, both, or votes"}
    )
    calibration: Literal["temperature"] | None = field(
        default=None, metadata={"help": "temperature applies what `synthpert calibrate` stored with the adapter"}
    )
    parser: Literal["strict", "lenient"] = field(
        default="strict", metadata={"help": "how answers are read: strict or lenient"}
    )
    data: str = field(default="", metadata={"key": False})
    evidence_data: str = field(default="", metadata={"key": False})

    def __post_init__(self) -> None:
        check_values(Protocol, vars(self), "protocol")
        for key in ("temperature", "top_p"):  # 1 and 1.0 must give the same fingerprint
            object.__setattr__(self, key, float(getattr(self, key)))
        for key, lowest in (("max_tokens", 1), ("samples", 1), ("items", 0), ("item_seed", 0), ("seed", 0)):
            if (value := getattr(self, key)) < lowest:
                raise InputError(f"protocol: {key} is {value}; it must be at least {lowest}")
        for key in ("item_seed", "seed"):
            if getattr(self, key) > _MAX_SEED:
                raise InputError(f"protocol: {key} is {getattr(self, key)}; it must be below 2**31")
        read_split(self.split)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"protocol: temperature is {self.temperature}; it must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise InputError(f"protocol: top_p is {self.top_p}; it must lie above 0 and at most at 1")
        if self.temperature == 0:
            if self.samples != 1:
                raise InputError(
                    f"protocol: samples is {self.samples} but temperature is 0: greedy samples are all alike; "
                    "set samples: 1 or a temperature"
                )
            if self.top_p != 1:
                raise InputError(
                    f"protocol: top_p is {self.top_p} but temperature is 0: greedy decoding has no nucleus; "
                    "set top_p: 1 or a temperature"
                )
        elif self.scores == "direct":
            raise InputError(
                f"protocol: temperature is {self.temperature} but scores is direct, which asks once and samples no "
                "thought; set temperature: 0, or scores: both"
            )
        if self.calibration is not None and self.scores == "votes":
            raise InputError(
                "protocol: calibration is set but scores is votes, which are shares of answers; set scores: logprobs, "
                "direct or both"
            )

    @property
    def whole_items(self) -> bool:
        """Whether a score is computed from all samples of an item together, not from each sample."""
        return self.scores == "both" or self.calibration is not None

    def canonical_json(self) -> str:
        """Return the protocol as JSON with sorted keys and no white space.

        Raises:
            ValueError: `data` is not set.
        """
        if not self.data:
            raise ValueError("the protocol does not say which labels it uses; set `data`")
        values = to_keys(self) | {"data": self.data, "evidence_data": self.evidence_data}
        for key in _LEFT_OUT:
            if not values[key]:
                del values[key]
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `canonical_json`, in hexadecimal."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()
