"""The cards of a publication: what a model is and scores, what a data set holds, and under which licence."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from benchmarks.files import write_text
from benchmarks.models.folders import read_trained_items
from benchmarks.report import wording
from benchmarks.report.collect import collect_runs
from benchmarks.report.page import markdown_text
from benchmarks.report.summarize import summarize
from benchmarks.report.summary import Score, Summary
from benchmarks.runs import package_versions
from benchmarks.screens.labels import DESCRIBED, SAMPLE
from benchmarks.screens.table import is_table
from benchmarks.statistics.metrics import find_metric
from rewards import InputError
from rl.publish.content import EVALUATIONS, ROLLOUT_FILE, TRACE_TABLE, Data, Evaluation, TrainingRun
from rl.publish.private import without_places
from rl.rollout_files import FOLDER as ROLLOUTS
from sft.training import ADAPTER

if TYPE_CHECKING:
    from jinja2 import Environment

CARD: Final = "README.md"
TEMPLATES: Final = Path(__file__).parent / "templates"
METRICS: Final = {  # by what the models were asked; the first is on all items
    "three_class": ("accuracy", "de_per_gene_auroc", "dir_per_gene_auroc"),
    "de": ("de_auroc", "de_per_gene_auroc"),
    "dir": ("dir_accuracy", "dir_balanced_accuracy", "dir_per_gene_auroc"),
}
_LICENCE: Final = "cc-by-4.0"  # of PerturbQA's labels
_PERTURBQA: Final = (SAMPLE, "PerturbQA, full files")  # what reports call them
_TAGS: Final = ("biology", "gene-expression", "crispri", "synthpert-rl")
_HASHED: Final = "SHA-256 of the tensors and settings"  # of its files see SHA256SUMS
_STAGES: Final = {"sft": "supervised fine-tuning on reasoning traces", "grpo": "GRPO with verifiable rewards"}
_SETTINGS: Final = (
    "template", "template_version", "evidence", "split", "scores", "temperature", "samples", "max_tokens",
)  # fmt: skip


class _Raw(str):
    """Text that stands in a card as it is, not escaped."""


@dataclass(frozen=True)
class Labels:
    """The labels that a run learnt from.

    Attributes:
        name: what they are called; None where the run does not say.
        notice: their licence and attribution, where they are known.
    """

    name: str | None
    notice: str = ""

    @property
    def are_perturbqa(self) -> bool:
        """Whether they are PerturbQA's, or the sample of these."""
        return self.name in _PERTURBQA


_ATTRIBUTION: Final = _Raw(
    "The labels are PerturbQA's: Wu et al., *Contextualizing biological perturbation experiments through language*, "
    "ICLR 2025, <https://github.com/genentech/PerturbQA>. Its README puts the data under "
    "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). They derive from the screens of Replogle et al. 2022 "
    "and Nadig et al. 2024.\n\n"
    "Changes made here: the labels of the `-de` and `-dir` files were joined into one of three labels, spelt out. "
    "Prompts, evidence and answers were added. PerturbQA's authors do not endorse this."
)
_LIMITS: Final = (
    "The labels are of knockdowns in a few cell lines. Nothing here tells how the model does on other cells or "
    "perturbations.",
    "Accuracy rewards knowing what a gene does under any knockdown. Per-gene AUROC does not. Read both beside the "
    "shortcuts.",
    "Reasoning that the model writes is not shown to be the reason for its answer.",
    "This is a research model. Do not decide on anyone's health with it.",
)


def summarise(run: TrainingRun, evaluations: Sequence[Evaluation], *, given: bool) -> Summary | None:
    """Return the report's numbers on evaluations, with all shortcuts beside them; None where there are none.

    Args:
        run: the training run.
        evaluations: those to publish.
        given: whether the user named them.

    Raises:
        InputError: a report cannot be made of them; see `report_runs`.
    """
    if not any(one.own for one in evaluations):
        return None
    try:
        systems, told = collect_runs([*(one.path for one in evaluations), run.path], command="", pairwise=True)
        return summarize(systems, title="", pairwise=True, **told)
    except InputError as error:
        if given:
            raise
        raise InputError(f"{error}; or name the evaluations to publish after the run") from None


def write_model_card(
    run: TrainingRun, evaluations: Sequence[Evaluation], summary: Summary | None, data: Data, out: Path, *, place: str
) -> None:
    """Write the model card.

    Args:
        run: the training run.
        evaluations: those published.
        summary: their numbers.
        data: the data set published.
        out: folder of the card.
        place: where the adapter is loaded from: `ORG/NAME` on the Hub, or a folder's name.
    """
    name = place.rpartition("/")[2]
    labels = labels_of(run, summary)
    head: dict[str, Any] = {"library_name": "peft", "pipeline_tag": "text-generation"}
    head["license"] = _LICENCE if labels.are_perturbqa else "unknown"
    if run.base_id is not None:
        head |= {"base_model": run.base_id, "base_model_relation": "adapter"}
    if "/" in place and not data.empty:
        head["datasets"] = [data_repository(place)]
    head["tags"] = ["lora", run.stage, *_tags(labels)]
    own = [one.name for one in evaluations if one.own]
    view = {
        "head": _head(head),
        "name": name,
        "place": _Raw(f"hub:{place}" if "/" in place else place),
        "base": run.base_name,
        "base_facts": without_places(run.manifest["base"]),
        "training": f"It was trained by {_STAGES[run.stage]}, with synthpert-rl {package_versions()['synthpert-rl']}.",
        "base_code": _Raw(json.dumps(run.base_id or f"PATH/TO/{run.base_name}", ensure_ascii=False)),
        "place_code": _Raw(json.dumps(place)),
        "prompt": _prompt(run),
        "summary": summary,
        "metrics": [] if summary is None else [find_metric(metric) for metric in METRICS[summary.task]],
        "rows": [] if summary is None else _rows(summary, own),
        "findings": [] if summary is None else [*wording.findings(summary), *wording.strongest_shortcuts(summary)],
        "protocols": [] if summary is None else _protocols(summary, own),
        "limits": [*_LIMITS, *(() if summary is None else _cautions(summary))],
        "facts": _training_facts(run, data),
        "missing": data.missing,
        "licence": _licence(labels),
    }
    _write("model.md.j2", view, out / CARD)


def write_data_card(run: TrainingRun, summary: Summary | None, data: Data, out: Path, *, place: str) -> None:
    """Write the card of the data set; see `write_model_card` for the arguments."""
    labels = labels_of(run, summary)
    files = []
    if data.traces is not None:
        files.append(("traces", "train", TRACE_TABLE))
    if data.rollouts is not None:
        files.append(("rollouts", "train", f"{ROLLOUTS}/{ROLLOUT_FILE}"))
    files += [
        (f"predictions-{one.folder}", "test", f"{EVALUATIONS}/{one.folder}/predictions.parquet")
        for one in data.evaluations
    ]
    head = {
        "license": _LICENCE if labels.are_perturbqa else "unknown",
        "task_categories": ["text-generation"],
        "tags": _tags(labels),
        "configs": [
            {"config_name": config, "data_files": [{"split": split, "path": path}]} for config, split, path in files
        ],
    }
    name = place.rpartition("/")[2]
    view = {
        "head": _head(head),
        "name": name,
        "adapter": _Raw(
            f"[the adapter {markdown_text(name)}](https://huggingface.co/{place})"
            if "/" in place
            else f"the adapter {markdown_text(name)}, which lies in the folder above this one,"
        ),
        "version": package_versions()["synthpert-rl"],
        "data": data,
        "teachers": ", ".join(without_places(run.manifest).get("teachers") or ()),
        "rewards": ", ".join(data.rewards),
        "split": _prompt(run).get("split", "official"),
        "unlabelled": bool(run.config.get("unlabelled")),
        "limits": summary.data.get("notes") or () if summary is not None and not labels.are_perturbqa else (),
        "licence": _licence(labels),
    }
    _write("data.md.j2", view, out / CARD)


def labels_of(run: TrainingRun, summary: Summary | None) -> Labels:
    """Return the labels of a run.

    Its manifest says what they are. Earlier versions did not store it: then a report says it, or the key `data`, where
    a table or a screen that is known by name is itself and a folder is PerturbQA's. Without that key the labels were
    those of the machine's default, which nobody knows now.
    """
    if recorded := run.manifest.get("screen"):
        return Labels(str(recorded["name"]), str(recorded.get("notice") or ""))
    if summary is not None:
        return Labels(str(summary.data["source"]))
    data = str(run.config.get("data") or "")
    if not data:
        return Labels(None)
    if data in DESCRIBED or is_table(data):
        return Labels(Path(data).name)
    return Labels(SAMPLE if data == SAMPLE else _PERTURBQA[1])


def _licence(labels: Labels) -> _Raw:
    if labels.are_perturbqa:
        return _ATTRIBUTION
    if labels.name is None:
        told = (
            "The run does not say which labels it learnt from, so whose they are and their licence are not known here."
        )
    else:
        told = f"The labels are those of {markdown_text(labels.name)}. "
        told += (
            f"Their notice: {markdown_text(labels.notice)}."
            if labels.notice
            else "What is known of their licence stands under Limits, if anything."
        )
    return _Raw(f"{told} Whoever shares them must be allowed to.")


def data_repository(place: str) -> str:
    """Return the Hub's id of the data set that goes with an adapter's."""
    return f"{place}-data"


def _tags(labels: Labels) -> list[str]:
    return [*_TAGS, *(["perturbqa"] if labels.are_perturbqa else [])]


def _head(values: Mapping[str, Any]) -> _Raw:
    return _Raw(f"---\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)}---\n")


def _prompt(run: TrainingRun) -> Mapping[str, Any]:
    """How the prompts were made: of SFT its traces say it, of GRPO its configuration."""
    found: Mapping[str, Any] = run.manifest["prompt"] if run.stage == "sft" else run.config
    return found


def _rows(summary: Summary, own: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for name, one in summary.systems.items():
        mark = " (this adapter)" if name in own else " (shortcut)" if one.kind == "baseline" else ""
        scores = [summary.score(name, metric) for metric in METRICS[summary.task]]
        rows.append(
            {
                "name": f"{wording.shown_as(summary, name)}{mark}",
                "n": f"{scores[0].n:,}",
                "cells": [_cell(one) for one in scores],
            }
        )
    return rows


def _cell(score: Score) -> str:
    """A score with its interval; of a mean over genes also over how many, since few tell little."""
    told = f"{wording.format_number(score.value)} ({wording.format_interval(score.low, score.high)})"
    if score.n_genes is None:
        return told
    return f"{told}, {score.n:,} items in {wording.count_of(score.n_genes, 'gene')}"


def _protocols(summary: Summary, own: Sequence[str]) -> list[tuple[str, str, str]]:
    """Of each evaluation of the adapter: its name, the fingerprint of its protocol, and the settings."""
    found = []
    for name in own:
        protocol = summary.systems[name].facts.get("protocol") or {}
        settings = ", ".join(f"{key} {protocol[key]}" for key in _SETTINGS if key in protocol)
        found.append((name, str(summary.systems[name].fingerprint), settings))
    return found


def _cautions(summary: Summary) -> list[str]:
    return [*(summary.data.get("notes") or ()), *wording.cautions(summary)]


def _training_facts(run: TrainingRun, data: Data) -> list[tuple[str, str]]:
    """What the run's manifest says, for a reader."""
    manifest = without_places(run.manifest)
    trained = read_trained_items(run.path / ADAPTER)
    facts = [("steps", f"{manifest['steps']:,}")]
    if run.stage == "sft":
        traces = manifest["traces"]
        facts.append(("traces", f"{traces['used']:,} of {traces['rows']:,}, by {', '.join(manifest['teachers'])}"))
    else:
        rewards = [entry if isinstance(entry, str) else str(entry.get("name")) for entry in manifest["rewards"]]
        facts += [
            ("completions", _completions(manifest["rollouts"], data)),
            ("rewards", ", ".join(rewards)),
            (f"{_HASHED} of the SFT adapter that it started from", str(manifest["sft_adapter_sha256"])),
        ]
    facts += [
        ("items trained on, in all stages", "unknown" if trained is None else f"{len(trained):,}"),
        (f"{_HASHED} of the adapter", str(manifest["adapter_sha256"])),
        ("packages", ", ".join(f"{name} {version}" for name, version in (manifest.get("packages") or {}).items())),
    ]
    return facts


def _completions(rollouts: Mapping[str, Any], data: Data) -> str:
    """How many completions GRPO wrote, and to which prompts where that can be told."""
    written, begun = int(rollouts["completions"]), int(rollouts.get("from_step") or 0)
    if begun:  # what was written before the run was stopped is not counted
        return f"{written:,} after step {begun:,}, where the run was resumed, to training and held-out prompts"
    if data.rollouts is None or not data.rollouts < written:
        return f"{written:,}"
    return f"{written:,}: {data.rollouts:,} to training prompts, {written - data.rollouts:,} to held-out prompts"


def _write(template: str, view: Mapping[str, Any], path: Path) -> None:
    write_text(path, _templates().get_template(template).render(view).rstrip("\n") + "\n")


@cache
def _templates() -> "Environment":
    """The cards' templates, with values escaped for Markdown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, _Raw) else markdown_text(value),
    )
