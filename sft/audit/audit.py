"""The leakage audit: whether anything of the test split reached a file of traces. It runs before every stage one.

The audit checks that

- the traces were drawn under the split that is audited,
- each item is a training item, and of no held-out line,
- id, line, perturbation and gene agree, and the label is the data's,
- a prompt of our template is exactly what the training labels give,
- no line of another prompt, nor of a completion, states a test label beside its symbols; see `sft.audit.quotations`,
- no critic found that a rationalized trace treats its answer as given.

What the audit cannot check is counted as not audited: prompts of another template, traces that do not say their split,
and rationalized traces that no critic judged.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts, prompt_config_of
from benchmarks.evidence.quote import evidence_digest
from benchmarks.evidence.reference import open_reference
from benchmarks.screens.splits import WORDS, read_split
from rewards import CheckError, InputError, parse_answer
from sft.audit.quotations import QuotationFinder
from sft.traces import Trace, learnt_text, treats_as_given

_EXAMPLES: Final = 1000  # `traces audit` prints them, so that they can be removed
_BLOCK: Final = 10_000  # prompts rebuilt at once


@dataclass
class Finding:
    """One check and what it found.

    Attributes:
        claim: what the check asserts.
        checked: number of traces that it looked at.
        failed: number of traces that break the claim.
        skipped: number of traces that it could not check.
        examples: the first of the traces that break the claim.
    """

    claim: str
    checked: int = 0
    failed: int = 0
    skipped: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, wrong: bool, example: str) -> None:
        """Count one trace, and keep the example if it is wrong."""
        self.checked += 1
        if wrong:
            self.failed += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(example)

    def __str__(self) -> str:
        skipped = f", {self.skipped} not audited" if self.skipped else ""
        return f"{self.failed} of {self.checked} fail{skipped}"


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        split: the split that the traces were held against.
        data: SHA-256 of the labels.
        traces: number of traces read.
        findings: the checks by name.
    """

    split: str
    data: str
    traces: int
    findings: dict[str, Finding]

    @property
    def clean(self) -> bool:
        """Whether every claim holds."""
        return not any(finding.failed for finding in self.findings.values())

    def facts(self) -> dict[str, Any]:
        """Return the audit for a manifest."""
        return {
            "clean": self.clean, "split": self.split, "data": self.data, "traces": self.traces,
            "not_audited": {one.claim: one.skipped for one in self.findings.values() if one.skipped},
            "checks": {one.claim: str(one) for one in self.findings.values()},
        }  # fmt: skip

    def require_clean(self, where: str) -> None:
        """Raise a `CheckError` that names the first leak, if there is one.

        Args:
            where: the file of traces, for the message.
        """
        for name, finding in self.findings.items():
            if finding.failed:
                raise CheckError(
                    f"{where}: leak: {name}: {finding.failed} of {finding.checked} break “{finding.claim}” under split "
                    f"{self.split}, e.g. {finding.examples[0]}; remove these traces (synthpert traces audit lists them)"
                )


def audit_traces(traces: Iterable[Trace], corpus: Corpus) -> Audit:
    """Audit traces against a split.

    Args:
        traces: the traces, which are read one by one.
        corpus: the labels under the split.

    Raises:
        InputError: a file that the evidence of our prompts quotes is missing, or is not the one they were made with.
    """
    columns = (corpus.labels[name].astype("str") for name in ("item_id", "label", "split"))
    known = {item_id: (label, split == "test") for item_id, label, split in zip(*columns, strict=True)}
    findings = _claims(corpus.split)
    finder = QuotationFinder(corpus)
    prompts: dict[tuple[PromptConfig, str], dict[str, bytes]] = {}
    n = 0
    for trace in traces:
        n += 1
        # Made from the parts: the id in the file could name another item than the prompt is about.
        item_id = f"{trace.cell_line}|{trace.pert}|{trace.gene}"
        _check_item(trace, item_id, known, corpus, findings)
        _check_reasoning(trace, item_id, finder, findings["reasoning quotes a test label"])
        _check_given(trace, item_id, findings["given"])
        config = _our_prompt(trace.protocol, corpus)
        if config is not None and item_id in known:
            files = str(trace.protocol.get("evidence_data", ""))
            prompts.setdefault((config, files), {})[item_id] = _digest(trace.prompt)
        else:
            _check_other_prompt(trace, item_id, finder, findings)
    for (config, files), digests in prompts.items():
        if files != evidence_digest(config.kinds, corpus.reference):
            raise InputError(
                f"traces: a file of {config.evidence}, or the screen in evidence_from, has changed since they were "
                "made; bring it back"
            )
        for item_id, wrong in _differing(digests, corpus, config):
            findings["prompt"].note(wrong, item_id)
    return Audit(corpus.split, corpus.digest, n, findings)


def _claims(split: str) -> dict[str, Finding]:
    """Return the checks under a split, by name, before any trace is read."""
    held_out, columns = read_split(split).line, read_split(split).columns
    words = " or ".join(WORDS[column] for column in columns) or "symbols"
    return {
        "split": Finding(f"the traces were drawn under split {split}"),
        "known": Finding("every item is in the labels"),
        "id": Finding("id, line, perturbation and gene agree"),
        "train": Finding("every item is a training item"),
        "line": Finding(f"no item is of the held-out line {held_out}" if held_out else "no line is held out"),
        **({"held out": Finding(f"no item has held-out {words}")} if columns else {}),
        "label": Finding("every label is the data's"),
        "prompt": Finding("every prompt of our template is what the training labels give"),
        "quoted test label": Finding("no line of another prompt states a test label beside its symbols"),
        "own label": Finding("no line of another prompt states its own item's label"),
        "reasoning quotes a test label": Finding("no line of a completion states a test label beside its symbols"),
        "given": Finding("no rationalized reasoning treats its answer as given, says its critic"),
    }


def _check_item(
    trace: Trace, item_id: str, known: dict[str, tuple[str, bool]], corpus: Corpus, findings: dict[str, Finding]
) -> None:
    """Compare a trace's item with the data. `known` maps an item's id to its label and to whether it is a test item."""
    split = corpus.split
    label, in_test = known.get(item_id, (trace.label, False))
    drawn_under = trace.protocol.get("split")
    if drawn_under is None:
        findings["split"].skipped += 1
    else:
        # A prompt's evidence comes from the training labels of its split, which may be test labels of another split.
        findings["split"].note(drawn_under != split, f"{item_id} (drawn under {drawn_under})")
    findings["known"].note(item_id not in known, item_id)
    findings["id"].note(trace.item_id != item_id, f"{trace.item_id} ({item_id})")
    findings["train"].note(in_test, item_id)
    findings["line"].note(trace.cell_line == read_split(split).line, item_id)
    if "held out" in findings:
        findings["held out"].note(corpus.holds_out(item_id), item_id)
    findings["label"].note(label != trace.label, f"{item_id} ({trace.label})")


def _check_reasoning(trace: Trace, item_id: str, finder: QuotationFinder, finding: Finding) -> None:
    """Look for test labels that a trace's completion states."""
    quoted = finder.in_reasoning(trace, learnt_text(trace, parse_answer(trace.completion)))
    finding.note(bool(quoted), f"{item_id} states that of {min(quoted, default='')}")


def _check_other_prompt(trace: Trace, item_id: str, finder: QuotationFinder, findings: dict[str, Finding]) -> None:
    """Count a prompt that cannot be built again, and look for labels that it states."""
    findings["prompt"].skipped += 1
    quoted = finder.in_prompt(trace)
    findings["own label"].note(item_id in quoted, item_id)
    others = quoted - {item_id}
    findings["quoted test label"].note(bool(others), f"{item_id} states that of {min(others, default='')}")


def _check_given(trace: Trace, item_id: str, finding: Finding) -> None:
    """Check what the critic said of a rationalized trace. A blind teacher was not given the answer."""
    if trace.mode == "rationalize":
        if (given := treats_as_given(trace)) is None:
            finding.skipped += 1
        else:
            finding.note(given, item_id)


def _our_prompt(protocol: dict[str, Any], corpus: Corpus) -> PromptConfig | None:
    """Return how a prompt was made, None if not by our template from these labels."""
    return prompt_config_of(protocol) if protocol.get("data") == corpus.digest else None


def _differing(digests: dict[str, bytes], corpus: Corpus, config: PromptConfig) -> Iterator[tuple[str, bool]]:
    items = corpus.labels[corpus.labels["item_id"].isin(digests)]
    for start in range(0, len(items), _BLOCK):
        block = items.iloc[start : start + _BLOCK]
        for item_id, prompt in zip(block["item_id"], build_prompts(block, corpus, config), strict=True):
            yield str(item_id), _digest(prompt) != digests[str(item_id)]


def _digest(prompt: Any) -> bytes:
    return hashlib.blake2b(json.dumps(prompt).encode(), digest_size=16).digest()


def corpus_of(protocol: dict[str, Any], data: str | None, split: str | None) -> Corpus:
    """Open the labels to audit traces against.

    Args:
        protocol: the traces' protocol, which tells the digest of their labels and their split.
        data: folder of the labels, or `sample`. None takes the sample if the traces were made from it, else the default
            folder.
        split: the split to audit against. None takes the split that the traces were drawn or imported under.

    Raises:
        InputError: the labels are not there; without `data`, they are others than the traces'; or neither `split` nor
            the traces name a split.
    """
    split = split or protocol.get("split") or protocol.get("imported_under")
    if not isinstance(split, str):
        raise InputError("traces: do not say under which split they were drawn; set split")
    if data is None and split == "official":
        sample = open_corpus("sample")
        if sample.digest == protocol.get("data"):
            return sample
    corpus, prompt = open_corpus(data, split), prompt_config_of(protocol) or PromptConfig()
    if data is None and split == protocol.get("split") and protocol.get("data", corpus.digest) != corpus.digest:
        raise InputError(f"traces: were made from other labels than those of {corpus.source}; name theirs with data")
    return corpus.with_reference(open_reference(prompt.evidence_from, prompt.orthologs))
