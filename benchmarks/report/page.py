"""The report: what each system scores, which differences are significant, and everything needed to doubt it.

One HTML page that needs nothing but itself, with Markdown, JSON and CSV beside it. The page is drawn from the JSON.
"""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from benchmarks.files import write_text
from benchmarks.report import wording
from benchmarks.report.charts import figures as report_figures
from benchmarks.report.charts.drawing import draw
from benchmarks.report.examples import SEED, DifferingItem, Item, first_completions
from benchmarks.report.export import COMPARISONS, SCORES, as_json, comparison_rows, csv_text, score_rows
from benchmarks.report.summarize import System, summarize
from benchmarks.report.summary import Summary
from benchmarks.report.wording import count_of, format_interval, format_number, known, verdict
from benchmarks.statistics.metrics import compared_metrics, find_metric
from rewards import LABELS

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["System", "summarize", "write_report"]

COMPLETION_LIMIT: Final = 4000
TEMPLATES: Final = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Shown:
    """An item with completions of it; `differing` says how two systems differ on it, where that is why it is shown."""

    item: Item
    entries: Sequence[Mapping[str, Any]]
    differing: DifferingItem | None = None


def _examples(summary: Summary, systems: Sequence[System]) -> dict[str, Any]:
    """The example items with their completions: those most different, and those drawn at random."""
    models = {
        one.name: one for one in systems if one.kind == "model" and (one.completions or "completion" in one.predictions)
    }
    drawn, most = summary.random_items if models else (), summary.most_different
    pair = [most.a, most.b] if most and {most.a, most.b} <= set(models) else []
    differing = most.items if most and pair else ()
    ids = {name: {item.item_id for item in drawn} for name in models}
    for name in pair:
        ids[name] |= {one.item.item_id for one in differing}
    found = {name: _completions(models[name], sorted(wanted)) for name, wanted in ids.items()}

    def entries(item: Item, names: Iterable[str]) -> list[dict[str, Any]]:
        return [_entry(name, item, found[name][item.item_id]) for name in names]

    return {
        "most_different": most if pair else None,
        "differing_items": [Shown(one.item, entries(one.item, pair), one) for one in differing],
        "random_items": [Shown(item, entries(item, models)) for item in drawn],
        "completion_seed": SEED,
    }


def _completions(system: System, item_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    if system.completions is not None:
        return first_completions(system.completions(item_ids))
    wanted = system.predictions["item_id"].isin(list(item_ids))
    return first_completions(system.predictions[wanted])


def _entry(name: str, item: Item, found: Mapping[str, Any]) -> dict[str, Any]:
    text = found["completion"]
    return {
        "name": name,
        "status": found["status"],
        "answer": found["answer"],
        "right": found["answer"] == item.label,
        "text": text if text is None else text[:COMPLETION_LIMIT],
        "n_hidden": 0 if text is None else max(len(text) - COMPLETION_LIMIT, 0),
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _fact(value: Any) -> str:
    """A recorded value as text: lists as JSON, numbers in full."""
    if value is None:
        return wording.DASH
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _facts(summary: Summary, kind: str) -> dict[str, Any]:
    """Facts of the systems of a kind that have any: those they share, and of the others a value per system."""
    facts = {name: _flat(one.facts) for name, one in summary.systems.items() if one.facts and one.kind == kind}
    keys = list(dict.fromkeys(key for one in facts.values() for key in one if key != "command"))
    shared, differing = {}, {}
    for key in keys:
        values = [one.get(key) for one in facts.values()]
        if all(key in one for one in facts.values()) and all(value == values[0] for value in values):
            shared[key] = values[0]
        else:
            differing[key] = values
    return {"names": list(facts), "shared": shared, "differing": differing}


def _commands(summary: Summary) -> list[tuple[str, str]]:
    recorded = [("protocol", summary.protocol), ("data", summary.data)]
    recorded += [(str(stage.get("stage", "stage")), stage) for stage in summary.stages]
    recorded += [(name, one.facts) for name, one in summary.systems.items()]
    return [(name, str(values["command"])) for name, values in recorded if values.get("command")]


def write_report(
    systems: Sequence[System],
    out: Path,
    *,
    title: str,
    protocol: Mapping[str, Any],
    data: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]] = (),
    strata: "Mapping[str, pd.Series[bool]] | None" = None,
    published: Sequence[Mapping[str, Any]] = (),
    pairwise: bool = False,
) -> Path:
    """Write `report.html`, `report.md`, `report.json`, `report.csv` and `comparisons.csv`.

    Args:
        systems: all on the same items unless `pairwise`. Models in the order of training: each is compared with those
            before it, and with every baseline.
        out: folder to write to; made if absent. Each file is replaced at once, never half written.
        title: of the page.
        protocol: how the models were asked; shown as it is.
        data: what was evaluated. `is_sample` (bool), `gene_sets` (how many, where readouts are sets), `notes` (list of
            sentences for the reader), `funnel` (a row per step, with the rows it took and of how many), `warnings`
            (sentences shown above all numbers) and `command` have a meaning; a list of mappings becomes a table; all
            others are shown as they are.
        stages: a mapping each of what a training stage did, `stage` naming it; shown as a table. `run` (the folder) and
            `log` (see `benchmarks.report.charts.training.read_log`) are drawn over its steps.
        strata: by name, whether each item belongs, indexed by item id; see `benchmarks.report.strata`.
        published: a row per published figure, as `benchmarks.report.published.published_figures` returns them; shown as
            they are beside the systems, never tested.
        pairwise: score each system on its own items, and each pair on those that both have; see `summarize`. The
            report says which systems were asked fewer items than there are.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: names repeat, a predictions frame is bad, the systems were not asked the same items (without
            `pairwise`), or a stratum does not say of each item whether it belongs.
    """
    summary = summarize(
        systems, title=title, protocol=protocol, data=data, stages=stages, strata=strata, published=published,
        pairwise=pairwise,
    )  # fmt: skip
    view = _view(summary, systems)
    pages = {
        "report.json": json.dumps(as_json(summary), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.csv": csv_text(score_rows(summary), SCORES),
        "comparisons.csv": csv_text(comparison_rows(summary), COMPARISONS),
        "report.md": _templates(markdown=True).get_template("report.md.j2").render(view),
        "report.html": _templates(markdown=False).get_template("report.html.j2").render(view),
    }
    for name, text in pages.items():
        write_text(out / name, text)
    return out / "report.html"


def _published_value(value: Any) -> str:
    """A published figure with the digits it has, two decimals at least."""
    return f"{value:.2f}" if isinstance(value, float) and round(value, 2) == value else _fact(value)


def _published(summary: Summary) -> list[dict[str, Any]]:
    """Published figures, a table per metric with a column per line, and the systems of this report below them."""
    tables = []
    for task, metric in dict.fromkeys((row["task"], row["metric"]) for row in summary.published):
        rows = [row for row in summary.published if (row["task"], row["metric"]) == (task, metric)]
        lines = list(dict.fromkeys(row["cell_line"] for row in rows))
        theirs: dict[tuple[str, str], dict[str, Any]] = {}
        notes: dict[str, list[str]] = {}
        for row in rows:
            theirs.setdefault((row["system"], row["source"]), {})[row["cell_line"]] = row["value"]
            if row["note"] and row["system"] not in notes.setdefault(row["note"], []):
                notes[row["note"]].append(row["system"])
        ours = {
            name: {line: cells[metric].value for line, cells in one.metrics[task].items() if line in lines}
            for name, one in summary.systems.items()
        }
        tables.append({"task": task, "metric": metric, "lines": lines, "theirs": theirs, "ours": ours, "notes": notes})
    return tables


def _view(summary: Summary, systems: Sequence[System]) -> dict[str, Any]:
    """What the templates show, by name."""
    return {
        "report": summary,
        "wording": wording,
        "metric_of": find_metric,
        "compared": compared_metrics(summary.screen, summary.task),
        "task_tables": {task: wording.metric_groups(task, summary.screen, summary.task) for task in summary.tasks},
        "styles": {name: report_figures.style(summary, name) for name in summary.systems},
        "strata": list(next(iter(summary.systems.values())).strata[summary.task]),
        "labels": [str(label) for label in (LABELS[:2] if summary.task == "dir" else LABELS)],
        "statuses": {str(status): meaning for status, meaning in wording.STATUS_NAMES.items()},
        "published": _published(summary),
        "fact_groups": [_facts(summary, kind) for kind in ("model", "baseline")],
        "commands": _commands(summary),
        **_assets(),
        **_sentences(summary),
        **_pairs(summary),
        **_figures(summary),
        **_examples(summary, systems),
        **_recorded(summary),
    }


def _assets() -> dict[str, str]:
    """Style, script, and the script's hash for the page's policy."""
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return {
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": script,
        "script_hash": b64encode(sha256(script.encode()).digest()).decode(),
    }


def _sentences(summary: Summary) -> dict[str, Any]:
    return {
        "headline": wording.headline(summary),
        "untested": wording.untested(summary),
        "n_tested": wording.n_tested(summary),
        "what": wording.what_was_compared(summary),
        "findings": wording.findings(summary),
        "shortcuts": wording.strongest_shortcuts(summary),
        "cautions": wording.cautions(summary),
        "declared": wording.declared(summary),
        "aa_sentence": wording.aa_sentence(summary),
        "notes": summary.data.get("notes") or [],
    }


def _pairs(summary: Summary) -> dict[str, Any]:
    """Which systems and comparisons there are, and how they were tested."""
    models, results = summary.named("model"), [one.result for one in summary.comparisons]
    return {
        "n_models": len(models),
        "several_runs": any(len(one.seeds) > 1 for one in summary.systems.values()),
        "verdicts": [[summary.find(a, b, name) for name in summary.headline] for a, b in wording.main_pairs(summary)],
        "n_model_pairs": sum(b in models for _, b in summary.pairs),
        "tests": list(dict.fromkeys(one.test for one in results if known(one.p_value))),
        "n_untested": sum(not known(one.p_value) for one in results),
    }


def _figures(summary: Summary) -> dict[str, Any]:
    return {
        "score_figure": report_figures.score_figure(summary),
        "main_figure": report_figures.main_figure(summary),
        "difference_figure": report_figures.difference_figure(summary),
        "part_figures": report_figures.part_figures(summary),
        "roc_figure": report_figures.roc_figure(summary),
        "reliability_figure": report_figures.reliability_figure(summary),
        "seed_figures": report_figures.seed_figures(summary),
        "training_figures": report_figures.training_figures(summary),
        "status_figure": report_figures.status_figure(summary),
        "draw": draw,
        "bins": [(name, row) for name, one in summary.systems.items() for row in one.reliability if row.n],
    }


def _recorded(summary: Summary) -> dict[str, Any]:
    """What was given with the predictions: data, protocol and training stages."""
    data, shown_apart = summary.data, ("notes", "warnings", "command", "funnel")
    stages = [
        _flat({key: value for key, value in stage.items() if key not in ("log", "alike")}) for stage in summary.stages
    ]
    return {
        "funnel": data.get("funnel") or [],
        "data_facts": _flat({k: v for k, v in data.items() if k not in shown_apart and not _is_table(v)}),
        "data_tables": {key: value for key, value in data.items() if key not in shown_apart and _is_table(value)},
        "protocol_facts": {key: value for key, value in _flat(summary.protocol).items() if key != "command"},
        "stages": stages,
        "stage_keys": list(dict.fromkeys(k for stage in stages for k in stage if k not in ("stage", "command"))),
    }


@cache
def _templates(*, markdown: bool) -> "Environment":
    """The templates, with values escaped for HTML or for Markdown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=not markdown,
        finalize=markdown_text if markdown else None,
    )
    environment.tests["known"] = known
    environment.globals |= {
        "number": format_number,
        "interval": format_interval,
        "p_value": wording.format_p,
        "share": wording.format_share,
        "thousands": lambda number: f"{number:,}",
        "count_of": count_of,
        "verdict": verdict,
        "fact": _fact,
        "published_value": _published_value,
    }
    return environment


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def markdown_text(value: Any) -> str:
    """Any value as Markdown text that stays text: no markup, no HTML, no table cell or line of its own."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#" else character for character in text)
