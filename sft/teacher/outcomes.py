"""Counts of what became of the questions for a teacher and its critics. The manifest keeps them."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.files import file_sha256
from rewards import InputError
from sft.traces import write_lines

ENOUGH: Final = 50  # replies after which it is clear that hardly any parses
_FEW: Final = 0.05
_REASONS: Final = 3  # reasons of failures named in a message
_REASON_WIDTH: Final = 120


@dataclass
class Parsed:
    """Counts of replies: all, those with an answer, and those that would have one under `thinking: keep` only."""

    replies: int = 0
    answered: int = 0
    only_if_kept: int = 0

    def hint(self) -> str | None:
        """Return a line that recommends `thinking: keep` if under 5 % of the replies parse and others would with it."""
        if not self.only_if_kept or self.answered >= _FEW * self.replies:
            return None
        return (
            f"{self.answered} of {self.replies} replies give an answer: the teacher's reasoning came apart and is "
            f"stripped. With `thinking: keep` {self.answered + self.only_if_kept} would; change it and run the same "
            "command again, which asks the teacher nothing anew"
        )


@dataclass
class Outcomes:
    """What became of every item and critic.

    Attributes:
        cells: by `line|label`, the number of items drawn, and of each status, with `error` and `not asked`.
        errors, critic_errors: by reason, the number of questions that failed for good.
        critic: numbers of `grades wanted`, and of those `asked in vain` (twice without a verdict); of replies `asked`
            for, and of those with `no verdict`; of items `graded by several`, and `of these not unanimous`.
        parsed: counts of replies with an answer.
    """

    cells: dict[str, Counter[str]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    critic_errors: Counter[str] = field(default_factory=Counter)
    critic: Counter[str] = field(default_factory=Counter)
    parsed: Parsed = field(default_factory=Parsed)

    @property
    def asked(self) -> int:
        """Number of the teacher's questions that are settled."""
        return self.errors.total() + self.parsed.replies

    def mostly_failed(self) -> bool:
        """Whether more than half of the teacher's questions, or of the critics', failed or hold no verdict."""
        useless = self.critic_errors.total() + self.critic["asked in vain"]
        return 2 * self.errors.total() > self.asked or 2 * useless > self.critic["grades wanted"]

    def failures(self) -> str | None:
        """Return a line on questions that failed for good and grades that are missing, None if there are none."""
        counted = (
            ("questions", self.asked, self.errors),
            ("critics' questions", self.critic["asked"], self.critic_errors),
        )
        found = [
            f"{errors.total()} of {asked} {kind} failed: {_reasons(errors)}"
            for kind, asked, errors in counted
            if errors
        ]
        if vain := self.critic["asked in vain"]:
            found.append(
                f"{vain} of {self.critic['grades wanted']} grades are missing: no <verdict>…</verdict> in reply"
            )
        if not found:
            return None
        return f"{'; '.join(found)}; `--retry_failed true` asks them again"


def _reasons(errors: Counter[str]) -> str:
    short: Counter[str] = Counter()
    for reason, count in errors.items():
        short[reason[:_REASON_WIDTH]] += count
    shown = [f"{reason} ×{count}" for reason, count in short.most_common(_REASONS)]
    return ", ".join([*shown, f"{len(short) - _REASONS} other reasons"] if len(short) > _REASONS else shown)


def write_manifest(path: Path, outcomes: Outcomes, facts: dict[str, Any]) -> None:
    """Write the manifest beside a file of traces: the outcomes and further facts. `traces stats` reads it."""
    manifest = {
        **facts,
        "traces_sha256": file_sha256(path),
        "cells": {key: dict(cell) for key, cell in outcomes.cells.items()},
        "errors": dict(outcomes.errors),
        "critic": {"asked": 0, "no verdict": 0, **outcomes.critic},
        "critic_errors": dict(outcomes.critic_errors),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    write_lines([text.encode() + b"\n"], manifest_file(path))


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest beside a file of traces, None if there is none."""
    file = manifest_file(path)
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{file}: not JSON; run `synthpert traces generate` again, which asks nothing anew") from None
    return manifest if isinstance(manifest, dict) else None


def config_file(path: Path) -> Path:
    """Return the path of the configuration of a file of traces."""
    return path.with_name(f"{path.name}.config.yaml")


def manifest_file(path: Path) -> Path:
    """Return the path of the manifest of a file of traces."""
    return path.with_name(f"{path.name}.manifest.json")
