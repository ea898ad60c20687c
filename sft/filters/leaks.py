"""Reasoning that treats its label as given, which a student must not learn to do."""

import re
from typing import Final

from sft.filters.visible import by_word, normalize

# Sentences are judged one by one: lower case, single spaces, no commas or brackets, the item's symbols replaced by
# `the gene` and `the knockdown`.
_ANSWER: Final = r"(?:answer|label)"
_OUTCOME: Final = r"(?:answer|label|outcome|result|effect|direction|conclusion|solution|classification)"
_GIVEN: Final = r"(?:given|provided|supplied|stated|specified|disclosed|revealed|indicated|told)"
_SURE: Final = r"(?:correct |true |actual |real |right |final |measured |observed |known |given |provided )?"
_NOUN: Final = r"(?:up-?regulation|down-?regulation|increase|decrease|rise|drop|fall|change|lack of change)"
_CHANGES: Final = (
    r"(?:up-?regulat|down-?regulat|not differentially|unchanged|no change|nothing changes|increas|decreas|"
    r"rises?\b|rose\b|falls?\b|fell\b|drops?\b|dropped|goes|went|up\b|down\b)"
)
_GENE: Final = r"(?:(?:the|this) (?:gene|expression|transcript|pair|item)|its?|expression)"
_ACTS: Final = r"(?:leaves?|raises?|lowers?|spares?|induces?|reduces?|increases|decreases)\b"
_IS: Final = r"(?:is|was|has been|had been|being)"
_ARGUE: Final = r"(?:argue|justify|explain|support|defend|reach|arrive|lead|end|finish|conclude|hide|rationali[sz]e)"
# A condition or a place after it makes it knowledge of biology.
_HERE: Final = r"\w*\b(?! (?:by|in|under|upon|when|during|after|through|via|as|across|with)\b)"

# What marks a leak wherever it stands: words of which a sentence must hold one, and the pattern, with @ for the word.
_ALWAYS: Final = (
    ("pretend pretending perturbqa ground-truth", r" @\b"),
    ("reverse ground truth", r" reverse[- ]engineer|(?<! no) ground[- ]truth| the truth is "),
    ("backward backwards", r" work(?:ing)? @\b"),
    ("key hand mind", rf" (?:answer|solution) key\b| with the {_SURE}{_OUTCOME} in @\b"),
    ("requested instructed told", r" as (?:(?:we |i )?was |we were )?@\b(?! by)"),
    (
        "gold secret hidden assigned reference expected given provided supplied stated specified",
        rf" @ {_ANSWER}\b(?! opt)",
    ),
    ("true actual real known measured", rf" @ (?:{_ANSWER}\b(?! of)|{_OUTCOME} (?:is|was|being) .{{0,20}}{_CHANGES})"),
    ("desired intended target required requested", rf" @ (?:{_OUTCOME}|output)\b"),
    (
        "answer label",
        rf" (?:as|with) the {_SURE}@ (?:is|was|being|must|has)\b| given \S+ as the @\b| have the {_SURE}@\b",
    ),
    ("answer label", r" @ (?:says|states|indicates|reads|tells) "),
    ("answer", r" correct answer .{0,40} (?:so let|so i|hence|and i|but i|now) "),
    (
        "label",
        r" (?:supports?|contradicts?|match|matches|fits?|confirms?|reach|explains?|according to|per|consistent with) "
        rf"the {_SURE}label\b(?! (?:up|down|not|that|opt))",
    ),
    (
        "since because given considering knowing",
        rf" @ (?:that )?the {_SURE}(?:{_ANSWER}\b(?! of| opt| distr)|{_OUTCOME} (?:is|was) .{{0,20}}{_CHANGES})",
    ),
    ("being", rf" with the {_SURE}{_OUTCOME} being .{{0,20}}{_CHANGES}"),
    ("outcome direction", rf" as the {_SURE}@ (?:is|was) .{{0,20}}{_CHANGES}"),
    (
        "given provided supplied stated specified disclosed revealed indicated told",
        rf" @ (?:final |correct |true |measured |observed )?{_OUTCOME}\b(?! of| on| by| size| opt| distr)",
    ),
    (
        "given provided supplied stated specified disclosed revealed indicated told",
        rf" {_OUTCOME}(?: of change)?(?: that)?(?: {_IS})?(?: already)? @\b(?! by| upon| in| only| above| as a)",
    ),
    ("known", rf" known {_OUTCOME}\b(?! of| on)| {_OUTCOME} {_IS} already known\b(?! to)"),
    ("alone", r" for (?:me|you) alone "),
    ("know", rf" (?:i|we)(?: already)? know (?:that |what )?(?:the |its )?{_SURE}{_OUTCOME}\b(?! of| on)"),
    ("know knowing", rf" @ (?:that )?{_GENE} (?:\w+ ){{0,3}}?{_CHANGES}{_HERE}"),
    ("knowing", rf" without knowing the {_SURE}{_ANSWER}"),
    ("know aware seen see", rf"n[o']t (?:yet )?@ (?:of |what )?(?:it\b|the {_SURE}{_OUTCOME}\b(?! of| on))"),
    (
        "justify justifying rationalize rationalise defend craft construct",
        r" (?:need|have|has|wants?|asked|supposed|required|trying|me|us|let's|task is|job is|now i|i) (?:\w+ )?"
        r"(?:to )?@\b(?! my)",
    ),
    ("justify rationalize rationalise defend", rf" how to @ .*(?:{_CHANGES}|{_ANSWER})"),
    (
        "given provided supplied stated specified",
        rf" (?:explain(?:s|ing)?|account(?:s|ing)? for|justif\w+|consistent with|match(?:es)?|fits?) the @ {_NOUN}\b",
    ),
    ("correct", rf"^ the @ label is {_CHANGES}"),
    ("explain argue", rf" (?:need|have|wants? me|asked|task is|job is) to @\b.*{_CHANGES}"),
    ("why", rf" let me explain why | why (?:is|does|did|was) {_GENE} .*{_CHANGES}"),
    (
        "justification rationale reason reasons reasoning argument explanation mechanism story",
        r" (?:(?<!would )need|find|craft|construct|produce|build|come up with|fill in|look for)s? "
        rf"(?:to produce |to give )?(?:an? |the )?(?:\w+ )?@ (?:for|that|which|to|by)\b.*(?:{_CHANGES}|{_ANSWER})",
    ),
    ("support back towards toward", rf" need to (?:back up|support) .*{_CHANGES}| reason towards? .*{_CHANGES}"),
    (
        "end conclude finish lead arrive land",
        r" (?:reasoning|explanation|argument|answer|conclusion|i|we|says|tells me) "
        r"(?:must|has to|have to|needs? to|should|to)(?: \w+)? @(?: up)? "
        rf"(?:(?:in|with|at|on|to)\b.*(?:{_CHANGES}|{_OUTCOME})|there|{_CHANGES})| have to arrive at (?:it|this) ",
    ),
    ("saying mentioning revealing hinting disclosing referring", r" without @\b(?! at a| a)"),
    ("hide", r" hide (?:that|the fact) "),
    ("say mention reveal", r" not allowed to @\b"),
    (
        "mention mentioning reveal revealing say saying hint hinting disclose admit away",
        r" (?:can't|cannot|must not|should not|shouldn't|never|avoid) (?:\w+ )?"
        r"(?:mention|reveal|say|hint|disclos|admit|giv(?:e|ing) away)\w* .*"
        rf"(?:{_OUTCOME}|{_GIVEN}|i know|(?:mention|reveal|disclose) (?:it|this)\b)",
    ),
    ("though if", r" as @ i "),
    ("look seem sound", r" @ like i | make it @\b"),
    ("who", r" who (?:(?:does|do|did|is|was|has|had)(?:n't| not)|never) (?:know|see|aware|told|been|given)"),
    ("supposed fixed settled", rf" (?:{_OUTCOME}|it|gene) {_IS} (?:already )?@\b"),
    ("labelled labeled", rf" @ (?:as )?{_CHANGES}"),
    (
        "user prompt question task instruction instructions they message",
        rf" @ (?:wants?|asks?|requires?|expects?|tells?|says?) (?:me |us )?to {_ARGUE}",
    ),
)
# What marks one only where the sentence also says what becomes of the gene, and does not speak of other knockdowns.
_CLAIMS: Final = (
    (
        "stated given provided specified mentioned noted indicated described observed measured",
        r" as (?:was |has been |already )?@\b",
    ),
    ("told informed given provided", r" (?:am|are|was|were|been|i'm|we're|you're) (?:already )?@\b"),
    ("told tell tells informed gave give gives", r" @ (?:me|us) "),
    ("stated disclosed specified given indicated revealed", r" it(?: is|'s| was| has been) @\b"),
    (
        "prompt question user instruction instructions task hint note message statement assignment they",
        r" @ (?:itself |already |has )*(?:says?|states?|tells?|said|told|gives?|gave|given|provides?|provided|"
        r"specif\w+|reveals?|indicates?|mentions?)\b",
    ),
    (
        "prompt question user instruction instructions task message information",
        r" (?:according to|per) the (?:given )?@\b",
    ),
    ("observed measured reported experimental", rf" @ (?:{_NOUN}|label|{_OUTCOME}(?! of| on| size))\b"),
    ("measured observed found", rf" (?:{_NOUN}|{_OUTCOME})(?: that)?(?: {_IS})? @\b| what was @\b"),
    (
        "found measured observed recorded listed annotated classified",
        rf" {_GENE} {_IS} @ (?:to be|as) {_CHANGES}{_HERE}",
    ),
    ("fact since because given considering", rf" @ (?:that )?{_GENE} (?:\w+ ){{0,3}}?{_CHANGES}{_HERE}"),
    (
        "given",
        r" @ that the knockdown (?:knockdown |loss |depletion )?(?:(?:up|down)-?regulates|raises|lowers|increases"
        r"|decreases|induces|reduces) the gene\b(?! (?:in|by|under)\b)",
    ),
    ("already", r" already know\b(?! of)"),
    ("experiment dataset data screen assay", rf" in (?:this|the) @\b.*{_GENE}.*{_CHANGES}{_HERE}"),
    (
        "experiment dataset measurement measurements screen assay",
        r" (?:the|this) @ (?:showed|shows|found|says?|reports?|has|indicates?|lists?|measured) ",
    ),
    ("explains explain", rf"(?<! would)(?<! could) @ why (?:{_GENE}|the knockdown|the experiment)\b"),
    ("reality turned turns", r" in reality\b| turn(?:s|ed) out\b"),
)
_CLAIM: Final = re.compile(
    rf"\b{_OUTCOME}\b(?! opt| distr)|\b{_GENE}\b.*{_CHANGES}|\bnothing changes|\b{_NOUN}\b|\b(?:up|down)-?reg"
    rf"|\bthe knockdown (?:loss |depletion )?{_ACTS}"
)
_ELSEWHERE: Final = re.compile(
    r"\b(?:knockdowns|neighbou?rs?|similar|evidence|literature|publish\w*|stud(?:y|ies)|paralogs?)\b"
    r"|\b(?!its? |this |that |which |knockdown |loss |the )[\w-]+ (?:knockdown |loss |depletion )?" + _ACTS
)
_ALWAYS_BY_WORD: Final = by_word(_ALWAYS)
_CLAIMS_BY_WORD: Final = by_word(_CLAIMS)
_WORDS: Final = frozenset((*_ALWAYS_BY_WORD, *_CLAIMS_BY_WORD))
_LONGEST: Final = 120  # characters of a sentence that are looked at on each side of a word


def find_leak(reasoning: str, pert: str, gene: str) -> str | None:
    """Return the words in which reasoning treats its label as given ("as stated", "the given answer"), or None.

    Each sentence is judged by itself, in English, by phrases: one that says it in a new way goes unseen, and an honest
    one may be refused; the tests hold the rates on a list of sentences. What is said of other knockdowns ("we are told
    that EPRS loss raises it") is evidence, not a leak. The label is not asked for: honest reasoning names it, too.
    A blind teacher's traces are judged alike: it was given no label, but a student would learn to write as if it was.

    Args:
        reasoning: the text between the think tags.
        pert, gene: symbols of the item.
    """
    text, found = normalize(reasoning)
    roles = [(f" {name.lower()} ", role) for name, role in ((gene, " the gene "), (pert, " the knockdown ")) if name]
    for word in sorted(found & _WORDS):
        always, claims = _ALWAYS_BY_WORD.get(word, ()), _CLAIMS_BY_WORD.get(word, ())
        at = text.find(f" {word} ")
        while at >= 0:
            start = max(text.rfind(". ", max(0, at - _LONGEST), at) + 1, at - _LONGEST, 0)
            stop = text.find(". ", at, at + _LONGEST) + 2
            sentence = text[start : stop if stop > 1 else at + _LONGEST]
            for name, role in roles:
                sentence = sentence.replace(name, role)
            for pattern in always:
                if match := pattern.search(sentence):
                    return match[0].strip()
            for pattern in claims:
                if (match := pattern.search(sentence)) and _is_claim(sentence, match.start()):
                    return match[0].strip()
            at = text.find(f" {word} ", at + 1)
    return None


def _is_claim(sentence: str, start: int) -> bool:
    return _CLAIM.search(sentence, start) is not None and _ELSEWHERE.search(sentence) is None
