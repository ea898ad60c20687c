"""The report: what each system scores, which differences are real, and everything needed to doubt it.

One HTML page that needs nothing but itself, with Markdown and JSON beside it. The page is drawn from the JSON.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from benchmarks import wording
from benchmarks.figures import Figure, Panel, Row, Value, interval_figure
from benchmarks.metrics import TASK_METRICS, task_of
from benchmarks.summary import COMPARED, System, summarize
from benchmarks.wording import HEADLINE, LONG_NAMES, count_of, find, format_interval, format_number, verdict
from rewards import LABELS

__all__ = ["System", "summarize", "write_report"]

N_COMPLETIONS: Final = 5
COMPLETION_SEED: Final = 0
COMPLETION_LIMIT: Final = 4000
N_COLOURS: Final = 6
TEMPLATES: Final = Path(__file__).parent / "templates"


def _style(summary: Mapping[str, Any], name: str) -> str:
    """CSS class of a system: models take the palette's colours in turn, baselines are one grey."""
    if summary["systems"][name]["kind"] == "baseline":
        return "shortcut"
    models = [other for other, one in summary["systems"].items() if one["kind"] == "model"]
    return f"model m{models.index(name) % N_COLOURS}"


def _score_figure(summary: Mapping[str, Any]) -> Figure:
    names = list(summary["systems"])
    total = summary["evaluated"][-1]
    majority = max(total[str(label)] for label in LABELS) / total["items"]
    references = {
        "de_per_gene_auroc": (0.5, "chance"),
        "accuracy": (majority, "majority class"),
        "balanced_accuracy": (1 / len(LABELS), "constant answer"),
    }
    panels, spoken = [], []
    for metric in HEADLINE:
        cells = [summary["systems"][name]["metrics"][task_of(metric)]["all"][metric] for name in names]
        texts = [
            f"{name}: {format_number(cell['value'])} ({format_interval(cell['low'], cell['high'])})"
            for name, cell in zip(names, cells, strict=True)
        ]
        values = [
            _value(cell, solid=summary["systems"][name]["kind"] == "model", text=text)
            for name, cell, text in zip(names, cells, texts, strict=True)
        ]
        panels.append(Panel(LONG_NAMES[metric], _counted(cells), values, *references[metric]))
        spoken.append(f"{LONG_NAMES[metric]}: {'; '.join(texts)}.")
    rows = [Row(name, _style(summary, name)) for name in names]
    title = "Scores of each system with 95 % intervals, all cell lines"
    return interval_figure("scores", title, " ".join(spoken), rows, panels)


def _difference_figure(summary: Mapping[str, Any]) -> Figure:
    by_metric = {
        metric: {(c["a"], c["b"]): c for c in summary["comparisons"] if c["metric"] == metric} for metric in HEADLINE
    }
    pairs = list(by_metric[HEADLINE[0]])
    kind = {name: one["kind"] for name, one in summary["systems"].items()}
    layout: list[tuple[str, str] | str] = []
    for heading, wanted in (("Model against earlier model", "model"), ("Model against shortcut", "baseline")):
        of_kind = [pair for pair in pairs if kind[pair[1]] == wanted]
        layout += [heading, *of_kind] if of_kind else []
    rows = [
        Row(entry) if isinstance(entry, str) else Row(f"{entry[0]} vs {entry[1]}", _style(summary, entry[0]))
        for entry in layout
    ]
    panels, spoken = [], []
    for metric in HEADLINE:
        values: list[Value | None] = []
        for entry in layout:
            if isinstance(entry, str):
                values.append(None)
                continue
            found = by_metric[metric][entry]
            text = (
                f"{entry[0]} minus {entry[1]}: {format_number(found['difference'], signed=True)} "
                f"({format_interval(found['low'], found['high'], signed=True)}), {verdict(found)}"
            )
            cell = {"value": found["difference"], "low": found["low"], "high": found["high"]}
            values.append(_value(cell, solid=verdict(found) in ("higher", "lower"), text=text))
            spoken.append(f"{LONG_NAMES[metric]}, {text}.")
        note = _counted([{"n": c["n_items"]} for c in by_metric[metric].values()])
        panels.append(Panel(LONG_NAMES[metric], note, values, 0.0, "no difference"))
    title = "Paired differences with 95 % intervals; filled where real after Holm's adjustment"
    return interval_figure("differences", title, " ".join(spoken), rows, panels, signed=True)


def _value(cell: Mapping[str, Any], *, solid: bool, text: str) -> Value:
    value, low, high = (float("nan") if cell[key] is None else cell[key] for key in ("value", "low", "high"))
    return Value(value, low, high, solid, text)


def _counted(cells: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({cell["n"] for cell in cells})
    items = count_of(counts[0], "item") if len(counts) == 1 else f"{counts[0]:,} to {count_of(counts[-1], 'item')}"
    genes = {cell["n_genes"] for cell in cells if "n_genes" in cell}
    return f"{items}, {count_of(max(genes), 'gene')}" if genes else items


def _completions(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Random items, the same for the same items whatever their order, with each model's first completion."""
    models = [system for system in systems if system.kind == "model" and "completion" in system.predictions]
    if not models:
        return []
    first = models[0].predictions.drop_duplicates("item_id").sort_values("item_id")
    n = min(N_COMPLETIONS, len(first))
    chosen = first.iloc[np.random.default_rng(COMPLETION_SEED).choice(len(first), size=n, replace=False)]
    shown = []
    for _, item in chosen.iterrows():
        entries = []
        for system in models:
            rows = system.predictions[system.predictions["item_id"] == item["item_id"]]
            keys = [key for key in ("seed", "sample") if key in rows]
            row = (rows.sort_values(keys) if keys else rows).iloc[0]
            text = "" if pd.isna(row["completion"]) else str(row["completion"])
            entries.append(
                {
                    "name": system.name,
                    "status": str(row["status"]),
                    "answer": None if pd.isna(row["answer"]) else str(row["answer"]),
                    "right": str(row["answer"]) == str(row["label"]),
                    "text": text[:COMPLETION_LIMIT],
                    "n_hidden": max(len(text) - COMPLETION_LIMIT, 0),
                }
            )
        shown.append(
            {key: str(item[key]) for key in ("item_id", "cell_line", "pert", "gene", "label")} | {"entries": entries}
        )
    return shown


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


def _facts(summary: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], dict[str, list[Any]]]:
    """Facts shared by all systems that have any, and for the others the systems and a value each."""
    facts = {name: _flat(one["facts"]) for name, one in summary["systems"].items() if one["facts"]}
    keys = list(dict.fromkeys(key for one in facts.values() for key in one if key != "command"))
    shared, differing = {}, {}
    for key in keys:
        values = [one.get(key) for one in facts.values()]
        if all(key in one for one in facts.values()) and all(value == values[0] for value in values):
            shared[key] = values[0]
        else:
            differing[key] = values
    return shared, list(facts), differing


def _commands(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = [("protocol", summary["protocol"]), ("data", summary["data"])]
    named += [(str(stage.get("stage", "stage")), stage) for stage in summary["stages"]]
    named += [(name, one["facts"]) for name, one in summary["systems"].items()]
    return [(name, str(values["command"])) for name, values in named if values.get("command")]


def write_report(
    systems: Sequence[System],
    out: Path,
    *,
    title: str,
    protocol: Mapping[str, Any],
    data: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write `report.html`, `report.md` and `report.json`.

    Args:
        systems: all on the same items. Models in the order of training: each is compared with those before it, and
            with every baseline.
        out: folder to write to; made if absent. Each file is replaced at once, never half written.
        title: of the page.
        protocol: how the models were asked; shown as it is.
        data: what was evaluated. `is_sample` (bool), `notes` (list of sentences for the reader) and `command` have
            a meaning; a list of mappings becomes a table; all others are shown as they are.
        stages: a mapping each of what a training stage did, `stage` naming it; shown as a table.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: names repeat, a predictions frame is bad, or the systems were not asked the same items.
    """
    summary = summarize(systems, title=title, protocol=protocol, data=data, stages=stages)
    view = _view(summary, systems)
    pages = {
        "report.json": json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": _render("report.md.j2", view, autoescape=False, finalize=markdown_text),
        "report.html": _render("report.html.j2", view, autoescape=True),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        _write(out / name, text)
    return out / "report.html"


def _view(summary: Mapping[str, Any], systems: Sequence[System]) -> dict[str, Any]:
    """What the templates show, by name."""
    shared, fact_systems, differing = _facts(summary)
    stages = [_flat(stage) for stage in summary["stages"]]
    pairs = list(dict.fromkeys((one["a"], one["b"]) for one in summary["comparisons"]))
    between_models = [(a, b) for a, b in pairs if summary["systems"][b]["kind"] == "model"]
    data, shown_apart = summary["data"], ("notes", "command")
    return {
        "report": summary,
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "wording": wording,
        "what": wording.what_was_compared(summary),
        "findings": wording.findings(summary),
        "shortcuts": wording.strongest_shortcuts(summary),
        "cautions": wording.cautions(summary),
        "verdicts": [[find(summary, a, b, metric) for metric in HEADLINE] for a, b in between_models],
        "n_pairs": len(pairs),
        "tests": list(dict.fromkeys(one["test"] for one in summary["comparisons"])),
        "styles": {name: _style(summary, name) for name in summary["systems"]},
        "score_figure": _score_figure(summary),
        "difference_figure": _difference_figure(summary) if pairs else None,
        "completions": _completions(systems),
        "completion_seed": COMPLETION_SEED,
        "notes": data.get("notes") or [],
        "data_facts": _flat({k: v for k, v in data.items() if k not in shown_apart and not _is_table(v)}),
        "data_tables": {key: value for key, value in data.items() if key not in shown_apart and _is_table(value)},
        "protocol_facts": {key: value for key, value in _flat(summary["protocol"]).items() if key != "command"},
        "stages": stages,
        "stage_keys": list(dict.fromkeys(k for stage in stages for k in stage if k not in ("stage", "command"))),
        "shared_facts": shared,
        "fact_systems": fact_systems,
        "differing_facts": differing,
        "commands": _commands(summary),
        "compared": COMPARED,
        "task_metrics": TASK_METRICS,
        "labels": [str(label) for label in LABELS],
        "statuses": {str(status): meaning for status, meaning in wording.STATUS_NAMES.items()},
    }


def _render(name: str, view: Mapping[str, Any], **options: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )
    environment.globals |= {
        "number": format_number,
        "interval": format_interval,
        "p_value": wording.format_p,
        "share": wording.format_share,
        "thousands": lambda number: f"{number:,}",
        "verdict": verdict,
        "fact": _fact,
    }
    return environment.get_template(name).render(view)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, Mapping) for row in value)


def markdown_text(value: Any) -> str:
    """Any value as Markdown text that stays text: no markup, no HTML, no table cell or line of its own."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#" else character for character in text)


def _write(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old text or the new."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as partial:
        try:
            partial.write(text)
            partial.flush()
            os.chmod(partial.name, 0o644)
            os.replace(partial.name, path)
        except BaseException:
            Path(partial.name).unlink(missing_ok=True)
            raise
