"""Checks of a text's form: hidden characters, look-alike letters and chat markup are no part of plain reasoning."""

import re
import unicodedata
from typing import Final

# Characters that show nothing although `str.isprintable` accepts them. U+FE0F may follow an emoji.
_HIDDEN: Final = re.compile(
    "(?<![\u2190-\u2bff\U0001f000-\U0001faff])\ufe0f"
    "|[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\uffa0\ufe00-\ufe0e\U000e0100-\U000e01ef]"
)
# A word in which Cyrillic letters, or Greek letters that look Latin, stand beside Latin letters. TNFα and ΔF508 pass.
_LOOK_ALIKE: Final = re.compile(
    "[A-Za-z][\u0400-\u052f]|[\u0400-\u052f][A-Za-z]|[a-z][\u0370-\u03ff][a-z]"
    "|[A-Za-z][\u0391\u0392\u0395-\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf]"
    "|[\u0391\u0392\u0395-\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf][A-Za-z]"
)
_MARKUP: Final = re.compile(
    r"<\s*\|[^|>]{0,40}\|\s*>|<｜|\[\s*/?\s*(?:INST|SYSTEM|SYS|USER|ASSISTANT)\s*\]|<<\s*/?\s*SYS\s*>>|<\s*/?\s*s\s*>"
    r"|<\s*(?:start|end)_of_turn\s*>"
    r"|<\s*/?\s*(?:think|answer|verdict|given|reason|tool_call|system|user|assistant)\b[^>]{0,40}>",
    re.IGNORECASE,
)


def visible(text: str) -> str:
    """Return a text in Unicode's NFKC form, without the characters that show nothing."""
    if text.isascii() and text.replace("\n", " ").isprintable():
        return text
    text = _HIDDEN.sub("", unicodedata.normalize("NFKC", text)).replace("\u2019", "'")
    if text.replace("\n", " ").isprintable():
        return text
    return "".join(one for one in text if one.isprintable() or one.isspace())


def find_foreign(reasoning: str) -> str | None:
    """Return what in a text is not plain reasoning, or None.

    Args:
        reasoning: the text that a student would learn.

    Returns:
        - `unprintable`: a control character other than tab and line ends, a character that shows nothing (a soft hyphen
          or a joiner, for example), a private or unassigned character, or a lone surrogate. The text is refused, not
          cleaned, because a filter does not change lines.
        - `look-alikes`: a Latin word with letters of another alphabet.
        - `markup`: tags or tokens of a chat template, in full-width letters too.
        - None: none of these.
    """
    # `isprintable` is fast, and true for most texts.
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
    return None


def _is_unprintable(character: str) -> bool:
    return not (character.isprintable() or character in "\t\n\r" or unicodedata.category(character) == "Zs")
