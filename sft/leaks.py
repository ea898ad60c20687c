"""What must not stand in reasoning that a student learns: the label told as given, and text that is not reasoning."""

import re
import unicodedata
from functools import lru_cache
from typing import Final

_WORD: Final = r"(?:answer|label|outcome|effect(?! size)|solution|classification|conclusion)"
_GIVEN: Final = r"(?:given|provided|stated|supplied|specified|disclosed|revealed)"
_ARE: Final = r"(?: are| am| were| was| have been| had been|'re|'m|'ve been|’re|’m|’ve been)(?: already)?"
# On lower-case text with single spaces.
_LEAK: Final = re.compile(
    "|".join(
        (
            r"\bas (?:was )?(?:stated|given|provided|told|instructed|specified)\b",
            rf"\b(?:we|i|you){_ARE} (?:told|informed|instructed)\b",
            rf"\b(?:given|provided with) the (?:\w+ )?{_WORD}\b",
            rf"\b{_GIVEN} (?:final |correct |true |measured |observed )?{_WORD}\b",
            rf"\b{_WORD} (?:that )?(?:is|was|has been|had been)(?: already)? (?:{_GIVEN}|(?<=already )known)\b"
            r"(?! (?:in|by) (?:the )?(?:literature|previous|prior|earlier|published))",
            r"\b(?:known|true|gold|target|measured) (?:label|answer)\b",
            r"\b(?:according to|consistent with|to match|matching) the (?:label|answer)\b",
            r"\bmeasured effect\b(?! size)|\bground[- ]truth\b|\bpretend|\bfor (?:me|you) alone\b",
            r"\bnot supposed to know",
            r"\bwithout (?:mention|reveal|hint)ing\b|\b(?:never|must not|should not|cannot) mention\b",
            r"\b(?:prompt|question|user|instructions?|task)(?: itself| already)? (?:says?|states?|tells?|said|told|"
            rf"gives?|gave|provides?|specif(?:y|ies)|reveals?) (?:us |me )?(?:that )?(?:the )?(?:\w+ )?{_WORD}\b",
            r"\b(?:justify|justifying|rationali[sz]e|rationali[sz]ing|working? backwards? from) (?:the|this|that) "
            rf"(?:\w+ )?{_WORD}\b",
            rf"\balready kn(?:ow|ew)\b[^.]{{0,40}}\b{_WORD}\b",
        )
    )
)
# One of these stands in every leak; they are found far faster than the pattern, which then looks around them.
_ROOTS: Final = (
    "answer", "label", "outcome", "effect", "solution", "classif", "conclusion", " truth", "-truth", "pretend",
    " alone", "supposed to know", "mention", "revealing", "hinting", " told", " informed", " instructed", "as stated",
    "as given", "as provided", "as told", "as instructed", "as specified", "as was ",
)  # fmt: skip
_AROUND: Final = 80

_INJECTIONS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (word, re.compile(pattern))
    for word, pattern in (
        ("instruction", r"\b(?:ignore|disregard|forget|override|bypass|follow) (?:\w+ ){0,4}instructions?\b"),
        ("instruction", r"\bnew instructions?\b"),
        ("ignore", r"\bignore (?:all|any|everything|the) (?:\w+ ){0,2}(?:above|before|previous|prior|earlier)\b"),
        ("you are", r"\byou are (?:now|an? (?:ai|assistant|grader|reviewer|critic|language model))\b"),
        ("system prompt", r"\bsystem prompt\b"),
        ("verdict", r"\bverdict\b"),
        ("excellent", r"\b(?:grade|rate|mark|score|judge)(?: \w+){0,4} (?:as )?excellent\b"),
        ("critic", r"\b(?:dear|note to(?: the)?) (?:critic|grader|reviewer)\b"),
        ("grader", r"\b(?:dear|note to(?: the)?) (?:critic|grader|reviewer)\b"),
    )
)
# Control and invisible characters, surrogates, noncharacters, replacement; tab and line ends are allowed.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_MARKUP: Final = re.compile(
    r"<\|[^|>]{0,40}\|>|<｜|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>"
    r"|</?(?:think|answer|verdict|reason|tool_call|system|user|assistant)\b[^>]{0,40}>",
    re.IGNORECASE,
)


@lru_cache(maxsize=4)
def normalize(text: str) -> str:
    """Return lower-case text with single spaces, compatibility characters unified and invisible ones removed."""
    if not text.isascii():
        text = _UNPRINTABLE.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(text.lower().split())


def find_leak(reasoning: str) -> str | None:
    """Return the words in which reasoning treats its label as given ("as stated", "the given answer"), or None."""
    text = normalize(reasoning)
    for root in _ROOTS:
        at = text.find(root)
        while at >= 0:
            if match := _LEAK.search(text, max(0, at - _AROUND), at + _AROUND):
                return match[0]
            at = text.find(root, at + _AROUND)
    return None


def find_foreign(reasoning: str) -> str | None:
    """Return why a text is not plain reasoning, or None.

    `unprintable`: control characters, invisible characters or lone surrogates; `markup`: tags or tokens of chat
    templates; `instructions`: words meant for the model that reads them.
    """
    # Most text is printable, which is quick to tell.
    if not reasoning.replace("\n", " ").isprintable() and _UNPRINTABLE.search(reasoning):
        return "unprintable"
    if ("<" in reasoning or "[" in reasoning) and _MARKUP.search(reasoning):
        return "markup"
    text = normalize(reasoning)
    for word, pattern in _INJECTIONS:
        if word in text and pattern.search(text):
            return "instructions"
    return None
