"""The evaluation protocol: everything that must be equal before two models' scores may be compared."""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.screens.schema import CELL_LINES
from rewards import InputError

TEMPLATES: Final = ("three_class", "direction")
SCORES: Final = ("logprobs", "votes")
PARSERS: Final = ("strict", "lenient")
_MAX_SEED: Final = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How items are asked, decoded and read. Two runs are comparable where their fingerprints are equal.

    Args:
        data: digest of the labels used.
        max_tokens: longest completion, in tokens; at least 1.
        template: prompt template, `three_class` or `direction`.
        template_version: version of that template; at least 1.
        lemmas: whether the prompt lists the biological considerations.
        evidence: similar knockdowns quoted per prompt; 0 for none.
        temperature: 0 for greedy decoding.
        top_p: nucleus, in (0, 1]; 1 under greedy decoding.
        samples: completions per item; 1 under greedy decoding.
        split: `official`, or `holdout:LINE` with a cell line of PerturbQA.
        items: test items per cell line; 0 for all of them.
        item_seed: seed that draws those items.
        seed: seed of sampling.
        scores: where the label probabilities come from, `logprobs` of the answer's first token or `votes`.
        parser: `strict` or `lenient`, see `rewards.parse_answer`.

    Raises:
        InputError: a value is of the wrong type or out of range, or two contradict each other; names the key.
    """

    data: str
    max_tokens: int
    template: str = "three_class"
    template_version: int = 1
    lemmas: bool = False
    evidence: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    split: str = "official"
    items: int = 0
    item_seed: int = 0
    seed: int = 0
    scores: str = "logprobs"
    parser: str = "strict"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_type(field.name, field.type)
        for key, lowest in (
            ("max_tokens", 1),
            ("samples", 1),
            ("template_version", 1),
            ("evidence", 0),
            ("items", 0),
            ("item_seed", 0),
            ("seed", 0),
        ):
            value = getattr(self, key)
            if value < lowest:
                raise InputError(f"protocol: {key} is {value}; it must be at least {lowest}")
        for key in ("item_seed", "seed"):
            if getattr(self, key) > _MAX_SEED:
                raise InputError(f"protocol: {key} is {getattr(self, key)}; it must be below 2**31")
        for key, allowed in (("template", TEMPLATES), ("scores", SCORES), ("parser", PARSERS)):
            if getattr(self, key) not in allowed:
                raise InputError(f"protocol: {key} is {getattr(self, key)!r}; use one of {', '.join(allowed)}")
        splits = ("official", *(f"holdout:{line}" for line in CELL_LINES))
        if self.split not in splits:
            raise InputError(f"protocol: split is {self.split!r}; use one of {', '.join(splits)}")
        if not self.data:
            raise InputError("protocol: data is empty; give the digest of the labels")
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

    def _check_type(self, key: str, wanted: Any) -> None:
        value = getattr(self, key)
        if wanted is float and type(value) is int:
            object.__setattr__(self, key, float(value))  # 1 and 1.0 are one protocol: one fingerprint
        elif type(value) is not wanted:
            raise InputError(f"protocol: {key} is {value!r}; it must be of type {wanted.__name__}")

    def canonical_json(self) -> str:
        """Return the protocol as JSON with sorted keys and no white space."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `canonical_json`, in hexadecimal."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def load_protocol(values: Mapping[str, Any], where: str = "protocol") -> Protocol:
    """Build a `Protocol` from a mapping, as read from YAML or JSON.

    Args:
        values: keys and values as in `Protocol`.
        where: what to call the mapping in an error (a file).

    Raises:
        InputError: a key is unknown (the nearest name is suggested) or missing, or a value is not allowed.
    """
    names = [field.name for field in dataclasses.fields(Protocol)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(names)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
    for field in dataclasses.fields(Protocol):
        if field.default is dataclasses.MISSING and field.name not in values:
            raise InputError(f"{where}: {field.name} is missing; set it")
    return Protocol(**{str(key): value for key, value in values.items()})
