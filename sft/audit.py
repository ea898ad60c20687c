"""The leakage audit: that nothing of the test split reached a file of traces. It runs before every stage one.

What is checked: each item is a training item of the split; no item is of a held-out line; id, line, perturbation and
gene agree; the label is the data's; and no prompt quotes a test label, neither in our evidence nor in anybody's words:
a line of a prompt that names a label and a perturbation whose effect on the trace's gene, in its line, is in test.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.corpus import Corpus, open_corpus
from benchmarks.perturbqa import CELL_LINES
from rewards import LABELS, CheckError, InputError
from sft.traces import Trace

_EXAMPLES: Final = 5
_TOKEN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_LABEL: Final = re.compile(
    "|".join(re.escape(label).replace(r"\ ", r"\s+") for label in sorted(LABELS, key=len, reverse=True)), re.IGNORECASE
)


@dataclass
class Finding:
    """One check: what it asserts, how often it looked, and what it found.

    Attributes:
        claim: what holds if nothing was found.
        checked: how many traces, or quotations, were looked at.
        failed: how many break the claim.
        examples: the first of these.
    """

    claim: str
    checked: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)

    def note(self, wrong: bool, example: str) -> None:
        """Count one look."""
        self.checked += 1
        if wrong:
            self.failed += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(example)


@dataclass(frozen=True)
class Audit:
    """What an audit checked and found.

    Attributes:
        split: against which split.
        data: SHA-256 of the labels.
        traces: how many were read.
        findings: by name.
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
            "checks": {one.claim: f"{one.failed} of {one.checked} fail" for one in self.findings.values()},
        }  # fmt: skip

    def require_clean(self, where: str) -> None:
        """Raise a `CheckError` that names the first leak, if there is one."""
        for name, finding in self.findings.items():
            if finding.failed:
                raise CheckError(
                    f"{where}: leak: {name}: {finding.failed} of {finding.checked} break “{finding.claim}” under split "
                    f"{self.split}, e.g. {finding.examples[0]}; remove these traces"
                )


def audit_traces(traces: Iterable[Trace], corpus: Corpus) -> Audit:
    """Audit traces against a split.

    Args:
        traces: the traces; read one by one.
        corpus: the labels under the split.
    """
    columns = (corpus.labels[name].astype("str") for name in ("item_id", "label", "split"))
    known = {item_id: (label, split == "test") for item_id, label, split in zip(*columns, strict=True)}
    held_out = corpus.split.partition(":")[2]
    findings = {
        "known": Finding("every item is in the labels"),
        "id": Finding("id, line, perturbation and gene agree"),
        "train": Finding("every item is a training item"),
        "line": Finding(f"no item is of the held-out line {held_out}" if held_out else "no line is held out"),
        "label": Finding("every label is the data's"),
        "quoted test label": Finding("no prompt quotes a test label"),
        "own label": Finding("no prompt quotes its own item's label"),
    }
    n = 0
    for trace in traces:
        n += 1
        # By its parts, so that an id cannot hide what the prompt is about.
        item_id = f"{trace.cell_line}|{trace.pert}|{trace.gene}"
        label, in_test = known.get(item_id, (trace.label, False))
        findings["known"].note(item_id not in known, item_id)
        findings["id"].note(trace.item_id != item_id, f"{trace.item_id} ({item_id})")
        findings["train"].note(in_test, item_id)
        findings["line"].note(bool(held_out) and trace.cell_line == held_out, item_id)
        findings["label"].note(label != trace.label, f"{item_id} ({trace.label})")
        for labels, names in _quotations(trace):
            findings["own label"].note(trace.pert in names and labels == {trace.label}, item_id)
            lines = [line for line in CELL_LINES if line in (name.lower() for name in names)] or [trace.cell_line]
            pairs = (f"{line}|{name}|{trace.gene}" for line in lines for name in names)
            tests = [pair for pair in pairs if pair != item_id and known.get(pair, ("", False))[1]]
            findings["quoted test label"].note(bool(tests), f"{item_id} quotes {tests[0]}" if tests else "")
    return Audit(corpus.split, corpus.digest, n, findings)


def _quotations(trace: Trace) -> Iterable[tuple[set[str], list[str]]]:
    """Yield, for each line of the prompt that names a label: the labels, and the words that may be perturbations.

    A line that names a cell line is about that one, any other about the trace's.
    """
    for message in trace.prompt:
        content = message["content"]
        if "regulated" not in content.lower() and "differentially" not in content.lower():
            continue
        for line in content.splitlines():
            quoted = {" ".join(label.lower().split()) for label in _LABEL.findall(line)}
            if not quoted:
                continue
            rest = _LABEL.sub(" ", line)
            names = list(dict.fromkeys(token.rstrip(".-") for token in _TOKEN.findall(rest)))
            names = [name for name in names if name != trace.gene]
            if names:
                yield quoted, names


def corpus_of(protocol: dict[str, Any], data: str | None, split: str | None) -> Corpus:
    """Open the labels that traces were made from, to audit them against.

    Args:
        protocol: of the traces; its `data` (digest) and `split` are used where the other arguments are None.
        data: folder of the labels or `sample`; None for the sample if the traces are of it, else the default folder.
        split: the split to audit against; None for the traces' own.

    Raises:
        InputError: the labels are not there, or the traces do not say under which split they were drawn.
    """
    split = split or protocol.get("split")
    if not isinstance(split, str):
        raise InputError("traces: do not say under which split they were drawn; set split")
    if data is None and split == "official":
        sample = open_corpus("sample")
        if sample.digest == protocol.get("data"):
            return sample
    return open_corpus(data, split)
