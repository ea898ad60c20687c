"""The report's words: names, definitions, formatted numbers, and sentences made from the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.metrics import task_of
from benchmarks.significance import FEW_CLUSTERS
from rewards import LABELS, Status

# What the summary and the figures show; every metric is in the tables.
HEADLINE: Final = ("de_per_gene_auroc", "accuracy", "balanced_accuracy")
ALPHA: Final = 0.05
DASH: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"

TASK_NAMES: Final = {
    "three_class": "Three classes: up, down or not differentially expressed",
    "de": "Differential expression: changed or not",
    "dir": "Direction: up or down, where expression changed",
}
METRIC_NAMES: Final = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "mcc": "MCC",
    "brier": "Brier score",
    "de_auroc": "Pooled AUROC",
    "de_per_gene_auroc": "Per-gene AUROC",
    "dir_auroc": "Pooled AUROC",
    "dir_per_gene_auroc": "Per-gene AUROC",
}
# Names where no task stands beside them.
LONG_NAMES: Final = METRIC_NAMES | {
    "de_auroc": "Pooled AUROC (DE)",
    "de_per_gene_auroc": "Per-gene AUROC (DE)",
    "dir_auroc": "Pooled AUROC (direction)",
    "dir_per_gene_auroc": "Per-gene AUROC (direction)",
}
_POOLED: Final = (
    "The chance that {one} gets a higher score ({score}) than {other}, over all pairs of items. {common} Pooled over "
    "genes, it rewards knowing which genes respond to anything."
)
_PER_GENE: Final = (
    "The chance that {one} gets a higher score than {other} of the same gene in the same cell line, averaged over the "
    "genes that have both: does the system know which knockdowns {verb} a gene? {common} The official metric of "
    "PerturbQA."
)
_COMMON: Final = "Ties, and pairs in which an item has no score, count half; 0.5 is chance."
_DE: Final = {"one": "a changed item", "other": "an unchanged one", "score": "1 less p(not DE)", "common": _COMMON}
_DIR: Final = {
    "one": "an upregulated item",
    "other": "a downregulated one",
    "score": "p(up) / (p(up) + p(down))",
    "common": _COMMON,
}
DEFINITIONS: Final = {
    "three_class": {
        "accuracy": "Share of items answered with the right label of the three. No answer is a wrong answer. "
        "Most items are “not differentially expressed”, so always saying that already scores high.",
        "balanced_accuracy": "Share answered right, taken within each true label and averaged over the three. "
        "A constant answer scores 1/3.",
        "macro_f1": "F1, which punishes missed and false alarms alike, averaged over the three labels.",
        "mcc": "Matthews correlation of answer and truth over three classes: 1 is perfect, 0 is no relation.",
        "brier": "Squared error of the three probabilities, summed: 0 is perfect, 0.667 is “one third each” (which "
        "an item without probabilities counts as). Lower is better.",
    },
    "de": {
        "accuracy": "Share of items where “changed or not” is right. No answer is a wrong answer.",
        "de_auroc": _POOLED.format(**_DE),
        "de_per_gene_auroc": _PER_GENE.format(**_DE, verb="change"),
    },
    "dir": {
        "dir_auroc": _POOLED.format(**_DIR),
        "dir_per_gene_auroc": _PER_GENE.format(**_DIR, verb="raise and which lower"),
    },
}
STATUS_NAMES: Final = {
    Status.ANSWERED: "a label could be read",
    Status.MALFORMED: "finished, but no single label could be read; counts as wrong",
    Status.INCOMPLETE: "cut off before the answer; counts as wrong",
    Status.ERROR: "the request failed; left out of all scores",
}


def format_number(value: float | None, *, signed: bool = False) -> str:
    """Three decimals and a true minus sign; a dash for None."""
    if value is None:
        return DASH
    # Adding 0 turns a rounded -0.0 into 0.0.
    rounded = round(value, 3) + 0.0
    return (f"{rounded:+.3f}" if signed and rounded else f"{rounded:.3f}").replace("-", MINUS)


def format_interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """`low to high`, or a dash where there is none."""
    if low is None or high is None:
        return DASH
    return f"{format_number(low, signed=signed)} to {format_number(high, signed=signed)}"


def format_p(value: float | None) -> str:
    """A p value to three decimals."""
    if value is None:
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_share(value: float) -> str:
    """A share in percent; 0 % and 100 % only where it is exactly that."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def count_of(number: int, noun: str) -> str:
    """`1 item`, `1,200 items`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def verdict(comparison: Mapping[str, Any]) -> str:
    """`higher`, `lower` (both real: Holm-adjusted p < 0.05), `not shown` or `not tested`."""
    if comparison["p_holm"] is None:
        return "not tested"
    if comparison["p_holm"] >= ALPHA:
        return "not shown"
    return "higher" if comparison["difference"] > 0 else "lower"


def what_was_compared(summary: Mapping[str, Any]) -> list[str]:
    """Systems, items and denominators, in sentences."""
    models, baselines = _named(summary, "model"), _named(summary, "baseline")
    total = summary["evaluated"][-1]
    lines = [row["cell_line"] for row in summary["evaluated"][:-1]]
    sentences = []
    if models:
        sentences.append(f"{count_of(len(models), 'model')}: {_listed(models)}.")
    if baselines:
        sentences.append(
            f"{count_of(len(baselines), 'shortcut')}, computed from training labels without a language model: "
            f"{_listed(baselines)}."
        )
    changed = 1 - total[str(LABELS[-1])] / total["items"]
    sentences.append(
        f"All were asked the same {count_of(total['items'], 'item')}: does knocking down one gene (CRISPRi) raise, "
        f"lower or not change the expression of another? They cover {count_of(len(lines), 'cell line')} "
        f"({_listed(lines)}), {count_of(total['perturbations'], 'perturbation')} and "
        f"{count_of(total['genes'], 'gene')} read out; expression changed (is “DE”) in "
        f"{format_share(changed)} of the items."
    )
    if summary["data"].get("is_sample"):
        sentences.append("The items are a sample of the test split: scores are not comparable with published ones.")
    return sentences


def findings(summary: Mapping[str, Any]) -> list[str]:
    """Which differences between models are real, a sentence per pair of models."""
    pairs = dict.fromkeys((one["a"], one["b"]) for one in summary["comparisons"])
    models = _named(summary, "model")
    sentences = []
    for a, b in (pair for pair in pairs if pair[1] in models):
        said: dict[str, list[str]] = {}
        for metric in HEADLINE:
            said.setdefault(verdict(find(summary, a, b, metric)), []).append(_spoken(metric))
        parts = [f"{way} on {_listed(said[way])}" for way in ("higher", "lower") if way in said]
        if "not shown" in said:
            parts.append(f"no real difference shown on {_listed(said['not shown'])}")
        if "not tested" in said:
            parts.append(f"not testable on {_listed(said['not tested'])}")
        sentences.append(f"{a} against {b}: {'; '.join(parts)}.")
    return sentences


def strongest_shortcuts(summary: Mapping[str, Any]) -> list[str]:
    """Per headline metric: the best baseline, and whether the best model differs from it."""
    sentences = []
    for metric in HEADLINE:
        best_baseline, best_model = (_best(summary, metric, kind) for kind in ("baseline", "model"))
        if best_baseline is None:
            continue
        name, value = best_baseline
        sentence = f"{LONG_NAMES[metric]}: {name} scores {format_number(value)}."
        if best_model is not None:
            model, score = best_model
            said = {
                "higher": "higher, and the difference is real",
                "lower": "lower, and the difference is real",
                "not shown": "no real difference is shown",
                "not tested": "the difference cannot be tested",
            }[verdict(find(summary, model, name, metric))]
            sentence += f" The best model, {model}, scores {format_number(score)}: {said}."
        sentences.append(sentence)
    return sentences


def cautions(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers."""
    models = {name: summary["systems"][name] for name in _named(summary, "model")}
    sentences = []
    single = [name for name, one in models.items() if len(one["seeds"]) == 1]
    if single:
        sentences.append(
            f"One training run each for {_listed(single)}: how far another run with a new seed would land is "
            "unknown, and no interval here includes it."
        )
    answered = [f"{name} {format_share(one['status']['answered'])}" for name, one in models.items()]
    if answered:
        sentences.append(f"Completions that hold an answer: {', '.join(answered)}. One without counts as wrong.")
    for name, one in summary["systems"].items():
        if one["status_counts"]["error"]:
            sentences.append(
                f"{name}: {one['status_counts']['error']:,} of {count_of(one['n_rows'], 'request')} failed; "
                f"{count_of(one['n_unscorable'], 'item')} cannot be scored and stay out of its scores and comparisons."
            )
    total = summary["evaluated"][-1]
    if min(total["perturbations"], total["genes"]) < FEW_CLUSTERS:
        sentences.append(
            f"Only {count_of(total['perturbations'], 'perturbation')} and {count_of(total['genes'], 'gene')}: with "
            f"fewer than {FEW_CLUSTERS} of either, intervals are themselves uncertain."
        )
    return sentences


def find(summary: Mapping[str, Any], a: str, b: str, metric: str) -> Mapping[str, Any]:
    """Return the comparison of `a` with `b` on `metric`."""
    found: Mapping[str, Any] = next(
        one for one in summary["comparisons"] if (one["a"], one["b"], one["metric"]) == (a, b, metric)
    )
    return found


def _spoken(metric: str) -> str:
    """A headline metric's name inside a sentence."""
    return LONG_NAMES[metric][0].lower() + LONG_NAMES[metric][1:]


def _named(summary: Mapping[str, Any], kind: str) -> list[str]:
    return [name for name, one in summary["systems"].items() if one["kind"] == kind]


def _best(summary: Mapping[str, Any], metric: str, kind: str) -> tuple[str, float] | None:
    values = {
        name: summary["systems"][name]["metrics"][task_of(metric)]["all"][metric]["value"]
        for name in _named(summary, kind)
    }
    known = [(name, float(value)) for name, value in values.items() if value is not None]
    return max(known, key=lambda pair: pair[1]) if known else None


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
