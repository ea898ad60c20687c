"""A comparison of scores in words and tables: as text, Markdown, HTML and JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from math import isnan
from pathlib import Path
from typing import Any, Final

from benchmarks.comparison.compare import NO_ITEM_DIFFERS, ScoreComparison
from benchmarks.comparison.scores import OUTCOMES, ScoreArrays
from benchmarks.files import check_folder, write_text
from benchmarks.report.page import TEMPLATES, markdown_text
from benchmarks.report.wording import ALPHA, DASH, count_of, format_interval, format_number, format_p, known

_TERMS: Final = (
    "Difference: mean score of the first system minus that of the second on the same items, with a 95 % interval that "
    "is not adjusted.",
    "Detectable: the true difference that this test finds in 80 of 100 benchmarks of this size, 2.80 standard errors.",
    "Incomplete: cut off by a limit; the score counts as the harness gave it. Unscorable: an error or no score. An "
    "item that is unscorable in all its rows of a training run is left out.",
)
_PAIR_HEAD: Final = (
    "Pair", "Difference", "95 % interval", "p", "p, Holm", "Standard error", "df", "Detectable", "Items",
)  # fmt: skip


@dataclass(frozen=True)
class ComparedScores:
    """What a comparison shows.

    Attributes:
        systems: by name.
        comparisons: of pairs of them.
        score: name of the score.
        notes: what a reader should know of the files, in sentences.
        command: the command that made it.
    """

    systems: Mapping[str, ScoreArrays]
    comparisons: Sequence[ScoreComparison]
    score: str
    notes: Sequence[str]
    command: str


def as_json(compared: ComparedScores) -> str:
    """The comparison as one JSON object: `systems`, `comparisons`, and with a single pair its own keys too."""
    pairs = [_finite(asdict(one)) for one in compared.comparisons]
    result: dict[str, Any] = {
        "score": compared.score,
        "systems": {name: _system(one) for name, one in compared.systems.items()},
        "comparisons": pairs,
        "notes": list(compared.notes),
        "command": compared.command,
    }
    if len(pairs) == 1:
        result = pairs[0] | result
    return json.dumps(_finite(result), indent=1, ensure_ascii=False, allow_nan=False)


def as_text(compared: ComparedScores) -> str:
    """The comparison for a terminal."""
    lines = list(compared.notes)
    for one in compared.comparisons:
        lines += [_sentence(one), f"  {_counts(one)}", f"  {one.test}"]
    for head, rows in _tables(compared):
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines.append("")
        for first, *others in [head, *rows]:
            cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def write_comparison(compared: ComparedScores, out: Path) -> Path:
    """Write `comparison.html`, `comparison.md` and `comparison.json` into a folder, and return the page's path."""
    check_folder(out)
    write_text(out / "comparison.json", as_json(compared) + "\n")
    write_text(out / "comparison.md", _markdown(compared))
    write_text(out / "comparison.html", _html(compared))
    return out / "comparison.html"


def _system(one: ScoreArrays) -> dict[str, Any]:
    scored = one.score[:, one.scorable]
    return {
        "mean": float(scored.mean()) if scored.size else None,
        "items": len(one.item_id),
        "items_scorable": int(one.scorable.sum()),
        "runs": len(one.seeds),
        "epochs": one.epochs,
        "outcomes": one.outcomes,
    }


def _finite(value: Any) -> Any:
    """A value with None in place of NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and isnan(value) else value


def _sentence(one: ScoreComparison) -> str:
    difference = format_number(one.difference, signed=True)
    if not known(one.p_value):
        return f"{one.a} minus {one.b}: {difference}, {one.test}"
    if one.test == NO_ITEM_DIFFERS:
        return f"{one.a} minus {one.b}: {difference}, {NO_ITEM_DIFFERS}"
    p = one.p_holm
    told = "no difference is shown" if p >= ALPHA else f"{one.a} scores {'higher' if one.difference > 0 else 'lower'}"
    interval = format_interval(one.low, one.high, signed=True)
    adjusted = "" if p == one.p_value else " after Holm's method"
    return f"{one.a} minus {one.b}: {difference} (95 % interval {interval}), p {format_p(p)}{adjusted}: {told}"


def _counts(one: ScoreComparison) -> str:
    parts = [
        count_of(one.n_items, "item"),
        *(f"{count_of(count, 'value')} of {key}" for key, count in one.clusters.items()),
    ]
    if one.n_unscorable:
        parts.append(f"{count_of(one.n_unscorable, 'unscorable item')} left out")
    if one.n_missing:
        parts.append(f"{count_of(one.n_missing, 'item')} of only one system left out")
    if known(one.minimum_detectable):
        parts.append(f"detectable difference {format_number(one.minimum_detectable)}")
    return "; ".join(parts)


def _tables(compared: ComparedScores) -> list[tuple[Sequence[str], list[list[str]]]]:
    """Head and rows of each table: the systems, and the pairs with their clusters."""
    systems = []
    for name, one in compared.systems.items():
        facts = _system(one)
        counts = [facts["items"], facts["runs"], facts["epochs"], *(one.outcomes[outcome] for outcome in OUTCOMES)]
        systems.append([name, format_number(facts["mean"]), *(f"{count:,}" for count in counts)])
    keys = list(compared.comparisons[0].clusters)
    pairs = [
        [
            f"{one.a} minus {one.b}",
            format_number(one.difference, signed=True),
            format_interval(one.low, one.high, signed=True),
            format_p(one.p_value),
            format_p(one.p_holm),
            format_number(one.se),
            f"{one.df:.1f}" if known(one.df) else DASH,
            format_number(one.minimum_detectable),
            *(f"{count:,}" for count in (one.n_items, *one.clusters.values())),
        ]
        for one in compared.comparisons
    ]
    head = ["System", f"Mean {compared.score}", "Items", "Runs", "Epochs", *(f"Rows {outcome}" for outcome in OUTCOMES)]
    return [(head, systems), ([*_PAIR_HEAD, *keys], pairs)]


def _tests(compared: ComparedScores) -> list[str]:
    return list(dict.fromkeys(one.test for one in compared.comparisons))


def _markdown(compared: ComparedScores) -> str:
    lines = ["# Comparison of scores", ""]
    lines += [f"**Read this first.** {markdown_text(note)}\n" for note in compared.notes]
    lines += [f"- {markdown_text(f'{_sentence(one)}. {_counts(one)}.')}" for one in compared.comparisons]
    for head, rows in _tables(compared):
        lines += ["", f"| {' | '.join(map(markdown_text, head))} |", f"|---|{'---:|' * (len(head) - 1)}"]
        lines += [f"| {' | '.join(map(markdown_text, row))} |" for row in rows]
    lines += ["", *(f"- Test: {markdown_text(test)}." for test in _tests(compared))]
    lines += [f"- {markdown_text(term)}" for term in _TERMS]
    return "\n".join([*lines, "", f"Command: {markdown_text(compared.command)}", ""])


def _html(compared: ComparedScores) -> str:
    def listed(sentences: Sequence[str]) -> str:
        return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in sentences)}</ul>"

    def row(cells: Sequence[str], tag: str) -> str:
        first, *others = map(escape, cells)
        scope = "row" if tag == "td" else "col"
        return (
            f'<tr><th scope="{scope}" class="system">{first}</th>'
            + "".join(f'<{tag} class="n">{cell}</{tag}>' for cell in others)
            + "</tr>"
        )

    def table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        body = "".join(row(cells, "td") for cells in rows)
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="Table: {name}"><table>'
            f"<caption><span><strong>{name}</strong></span></caption>"
            f"<thead>{row(head, 'th')}</thead><tbody>{body}</tbody></table></div>"
        )

    tables = "".join(
        table(name, head, rows) for name, (head, rows) in zip(("Systems", "Pairs"), _tables(compared), strict=True)
    )
    warning = f'<div class="warning" role="note">{listed(compared.notes)}</div>' if compared.notes else ""
    told = listed([f"{_sentence(one)}. {_counts(one)}." for one in compared.comparisons])
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Comparison of scores</title>
<style>
{css}
</style>
</head>
<body>
<header><p class="eyebrow">synthpert compare</p><h1>Comparison of scores</h1>{warning}</header>
<main>
<section>{told}</section>
<section>{tables}</section>
<section><h2>How to read this</h2>{listed([*(f"Test: {test}." for test in _tests(compared)), *_TERMS])}</section>
</main>
<footer><code>{escape(compared.command)}</code></footer>
</body>
</html>
"""
