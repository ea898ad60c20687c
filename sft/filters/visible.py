"""What a reader sees of a text, and what in it is no plain reasoning: hidden characters, look-alikes, chat markup,
words meant for the model that grades it.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

# Words meant for whoever reads the reasoning.
_INJECTIONS: Final = (
    (
        "instruction instructions",
        r"\b(?:ignore|disregard|forget|override|bypass) (?:\w+ ){0,4}instructions?\b"
        r"|\bfollow (?:these|my|the following|the new) (?:\w+ )?instructions?\b",
    ),
    ("ignore", r"\bignore (?:all|any|everything|the) (?:\w+ ){0,2}(?:above|before|previous|prior|earlier)\b"),
    ("you", r"\byou are (?:now|an? (?:ai|assistant|grader|reviewer|critic|language model))\b"),
    ("prompt", r"\bsystem prompt\b"),
    (
        "excellent",
        r"(?<!\bi )\b(?:grade|rate|mark|score|judge|output|reply|verdict)(?: \w+){0,4}:? (?:as )?excellent\b",
    ),
    (
        "grade score mark marks",
        r"\b(?:give|assign|award|deserves?)(?: \w+){0,3} (?:top|highest|best|full|perfect|maximum) @\b",
    ),
    ("critic grader reviewer", r"\b(?:dear|note to(?: the)?) @\b|\b@:"),
)
_MARKS: Final = str.maketrans("?!\u2013\u2014", "..  ", ',;()"*_\u201c\u201d')
# Marks and letters that show nothing, though `str.isprintable` takes them; U+FE0F may follow an emoji.
_HIDDEN: Final = re.compile(
    "(?<![\u2190-\u2bff\U0001f000-\U0001faff])\ufe0f"
    "|[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\uffa0\ufe00-\ufe0e\U000e0100-\U000e01ef]"
)
# A word that mixes Latin letters with Cyrillic ones, or with Greek ones in the place of Latin; TNFα and ΔF508 do not.
_LOOK_ALIKE: Final = re.compile(
    "[A-Za-z][\u0400-\u052f]|[\u0400-\u052f][A-Za-z]|[a-z][\u0370-\u03ff][a-z]"
    "|[A-Za-z][\u0391\u0392\u0395-\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf]"
    "|[\u0391\u0392\u0395-\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf][A-Za-z]"
)
_MARKUP: Final = re.compile(
    r"<\s*\|[^|>]{0,40}\|\s*>|<｜|\[\s*/?\s*(?:INST|SYSTEM|SYS|USER|ASSISTANT)\s*\]|<<\s*/?\s*SYS\s*>>|<\s*/?\s*s\s*>"
    r"|<\s*(?:start|end)_of_turn\s*>"
    r"|<\s*/?\s*(?:think|answer|verdict|reason|tool_call|system|user|assistant)\b[^>]{0,40}>",
    re.IGNORECASE,
)


def visible(text: str) -> str:
    """Return a text with compatibility characters unified (NFKC) and without those that show nothing."""
    if text.isascii() and text.replace("\n", " ").isprintable():
        return text
    text = _HIDDEN.sub("", unicodedata.normalize("NFKC", text)).replace("\u2019", "'")
    if text.replace("\n", " ").isprintable():
        return text
    return "".join(one for one in text if one.isprintable() or one.isspace())


@lru_cache(maxsize=4)
def normalize(text: str) -> tuple[str, frozenset[str]]:
    """Return `visible` lower-case text with single spaces and full stops only, and the words that it holds."""
    words = visible(text).lower().translate(_MARKS).split()
    return f" {' '.join(words)} ", frozenset(words)


def by_word(rules: Iterable[tuple[str, str]]) -> dict[str, list[re.Pattern[str]]]:
    """Return patterns by the words of which a sentence must hold one; @ in a pattern stands for the word."""
    patterns: dict[str, list[re.Pattern[str]]] = {}
    for words, pattern in rules:
        for word in words.split():
            compiled = re.compile(pattern.replace("@", word))
            for mark in ("", ".", ":"):
                patterns.setdefault(word + mark, []).append(compiled)
    return patterns


_INJECTIONS_BY_WORD: Final = by_word(_INJECTIONS)


def find_foreign(reasoning: str) -> str | None:
    """Return why a text is not plain reasoning, or None.

    `unprintable`: control characters but tab and line ends, characters that show nothing (soft hyphens and joiners too:
    a filter passes lines on as they are and cannot take them out), private and unassigned ones, lone surrogates;
    `look-alikes`: letters of another alphabet in a Latin word; `markup`: tags or tokens of chat templates, also in wide
    letters; `instructions`: words meant for the model that reads them. These are told by English phrases, which whoever
    wants to gets around: what protects a critic is the fence in its prompt, not this.
    """
    # Most text is printable, which is quick to tell.
    if not reasoning.replace("\n", " ").isprintable() and any(map(_is_unprintable, set(reasoning))):
        return "unprintable"
    text = reasoning
    if not reasoning.isascii():
        if _HIDDEN.search(reasoning):
            return "unprintable"
        if _LOOK_ALIKE.search(reasoning):
            return "look-alikes"
        text = visible(reasoning)
    if ("<" in text or "[" in text) and _MARKUP.search(text):
        return "markup"
    text, found = normalize(reasoning)
    patterns = (pattern for word in found & _INJECTIONS_BY_WORD.keys() for pattern in _INJECTIONS_BY_WORD[word])
    return "instructions" if any(pattern.search(text) for pattern in patterns) else None


def _is_unprintable(character: str) -> bool:
    return not (character.isprintable() or character in "\t\n\r" or unicodedata.category(character) == "Zs")
