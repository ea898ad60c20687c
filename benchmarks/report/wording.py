"""The report's words: names, definitions, formatted numbers, and sentences made from the numbers."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, isnan
from typing import Any, Final, TypeGuard

from benchmarks.report.summary import Summary
from benchmarks.statistics.metrics import find_metric, metrics_of
from benchmarks.statistics.significance import FEW_CLUSTERS, Comparison
from rewards import Label, Status

ALPHA: Final = 0.05
MANY_PAIRS: Final = 6
MANY_MODELS: Final = 4
FEW_PAIRS: Final = 3
UNTESTED: Final = "not tested: "
DASH: Final = "\N{EN DASH}"
MINUS: Final = "\N{MINUS SIGN}"

TASK_NAMES: Final = {
    "three_class": "Three classes: up, down or not differentially expressed",
    "de": "Differential expression: changed or not",
    "dir": "Direction: up or down, where expression changed",
}
# By what the models were asked.
_QUESTIONS: Final = {
    "three_class": "does knocking down one gene (CRISPRi) raise, lower or not change the expression of {other}?",
    "de": "does knocking down one gene (CRISPRi) change the expression of {other}?",
    "dir": "knocking down one gene (CRISPRi) changes the expression of {other}. Does the knockdown raise or lower it?",
}
POSITIVES: Final = {"three_class": "changed (or went up)", "de": "changed", "dir": "went up"}
HEADLINE_TERMS: Final = {
    "three_class": "Accuracy is the share of right answers over all items; balanced accuracy is the mean of that share "
    "over the three labels. Per-gene AUROC (DE) measures, within a gene, whether items whose expression changed get "
    "higher scores than the others (0.5 is chance). It was declared as the primary metric.",
    "de": "Pooled AUROC (DE) measures whether items whose expression changed get higher scores than the others (0.5 is "
    "chance). Per-gene AUROC (DE) measures the same within a gene. It was declared as the primary metric.",
    "dir": "Accuracy (direction) is the share of right answers over all items; balanced accuracy (direction) is the "
    "mean of that share over the two labels. Per-gene AUROC (direction) measures, within a gene, whether items whose "
    "expression went up get higher scores than those whose expression went down (0.5 is chance). It was declared as "
    "the primary metric.",
}
TEST_TERMS: Final = (
    ("Difference", "The first system’s score minus the second’s on the same items, with a 95 % interval."),
    (
        "Standard error",
        "How far the difference would vary from one draw of perturbations and genes (and, with several seeds, training "
        "runs) to the next.",
    ),
    (
        "Higher, lower",
        "The difference is significant: its adjusted p is below 0.05. “None shown” does not mean that there is none.",
    ),
    (
        "Detectable",
        "The smallest true difference that this test finds in 80 of 100 benchmarks of this size: 2.80 standard errors. "
        "Smaller differences may exist without being shown.",
    ),
    (
        "Perturbations needed",
        "How many test perturbations would make a true difference of the size named in the head detectable, with the "
        "same genes and training runs. “These are enough”: the perturbations of this report already do. “No number is "
        "enough”: the variation between genes or training runs alone hides such a difference.",
    ),
    ("p", "Tests whether the systems would be equal on new perturbations and genes (and new training runs)."),
    ("p, adjusted", "The same p, adjusted for all comparisons on this metric by Holm’s method."),
)
SAME_ITEMS_TERM: Final = (
    "p, these items, new runs",
    "A plain paired t test over training runs. It asks whether new training runs would differ on exactly these items, "
    "and says nothing about other perturbations or genes.",
)
_TOLD: Final = {
    "higher": "higher, and the difference is significant",
    "lower": "lower, and the difference is significant",
    "not shown": "no difference is shown",
    "not tested": "the difference cannot be tested",
}
STATUS_NAMES: Final = {
    Status.ANSWERED: "a label could be read",
    Status.MALFORMED: "finished, but no single label could be read; counts as wrong",
    Status.INCOMPLETE: "cut off before the answer; counts as wrong",
    Status.ERROR: "the request failed; left out of all scores",
}


def metric_groups(task: str, screen: str = "", asked: str = "three_class") -> list[dict[str, Any]]:
    """Return the tables that a task's metrics fill: `title`, `metrics`, and `definitions` (name and meaning).

    `screen` is the name of the screen, and `asked` what the models were asked; either may have metrics of its own.
    """
    groups = []
    for title, by_label in (("", False), ("By label", True)):
        metrics = [metric for metric in metrics_of(task, screen, asked) if metric.by_label == by_label]
        # Metrics that differ only in the label they look at share their definition.
        names = [metric.label.partition(", ")[0] if by_label else metric.label for metric in metrics]
        defined = dict(zip(names, (metric.definition for metric in metrics), strict=True))
        if metrics:
            groups.append({"title": title, "metrics": metrics, "definitions": list(defined.items())})
    return groups


def known(value: float | None) -> TypeGuard[float]:
    """Is it a number, neither None nor NaN nor infinite?"""
    return value is not None and isfinite(value)


def format_number(value: float | None, *, signed: bool = False) -> str:
    """Three decimals and a true minus sign; a dash for what is not known."""
    if not known(value):
        return DASH
    # Adding 0 turns a rounded -0.0 into 0.0.
    rounded = round(value, 3) + 0.0
    return (f"{rounded:+.3f}" if signed and rounded else f"{rounded:.3f}").replace("-", MINUS)


def format_interval(low: float | None, high: float | None, *, signed: bool = False) -> str:
    """`low to high`, or a dash where there is none."""
    if not (known(low) and known(high)):
        return DASH
    return f"{format_number(low, signed=signed)} to {format_number(high, signed=signed)}"


def format_p(value: float | None) -> str:
    """A p value to three decimals."""
    if not known(value):
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


def verdict(comparison: Comparison) -> str:
    """`higher`, `lower` (both significant: Holm-adjusted p < 0.05), `not shown` or `not tested`."""
    if isnan(comparison.p_holm):
        return "not tested"
    if comparison.p_holm >= ALPHA:
        return "not shown"
    return "higher" if comparison.difference > 0 else "lower"


def reason_in_words(test: str, a: str, b: str) -> str:
    """What `Comparison.test` says, with the systems' names for its `a` and `b`."""
    names = {"a: ": f"{a}: ", "b: ": f"{b}: "}
    parts = test.removeprefix(UNTESTED).split("; ")
    return "; ".join(names[part[:3]] + part[3:] if part[:3] in names else part for part in parts)


def what_was_compared(summary: Summary) -> list[str]:
    """Systems, items and denominators, in sentences."""
    models, baselines = summary.named("model"), summary.named("baseline")
    total = summary.total
    sentences = []
    if models:
        sentences.append(f"{count_of(len(models), 'model')}: {_listed(models)}.")
    if baselines:
        sentences.append(
            f"{count_of(len(baselines), 'shortcut')}, computed from training labels without a language model: "
            f"{_listed(baselines)}."
        )
    asked = "Together they were asked" if summary.fewer_items else "All were asked the same"
    other, readout = ("a set of genes", "gene set") if summary.data.get("gene_sets") else ("another", "gene")
    sentences.append(
        f"{asked} {count_of(total.items, 'item')}: {_QUESTIONS[summary.task].format(other=other)} "
        f"They cover {count_of(len(summary.lines), 'cell line')} "
        f"({_listed(summary.lines)}), {count_of(total.perturbations, 'perturbation')} and "
        f"{count_of(total.genes, readout)} read out; {_share_of_labels(summary)} of the items."
    )
    if summary.data.get("is_sample"):
        sentences.append("The items are a sample of the test split: scores are not comparable with published ones.")
    return sentences


def _share_of_labels(summary: Summary) -> str:
    """In how many items expression changed; of models that answer the direction alone, in how many it went up."""
    total = summary.total
    if summary.task == "dir":
        return f"expression went up in {format_share(total.labels[str(Label.UP)] / total.items)}"
    return f"expression changed (is “DE”) in {format_share(1 - total.labels[str(Label.NONE)] / total.items)}"


def main_pairs(summary: Summary) -> list[tuple[str, str]]:
    """Pairs of models to tell of first: all, or where they are many, each model with the one before it."""
    models = summary.named("model")
    pairs = [pair for pair in summary.pairs if pair[1] in models]
    return pairs if len(pairs) <= MANY_PAIRS else [(later, earlier) for earlier, later in pairwise(models)]


def first_pairs(summary: Summary, metric: str) -> list[tuple[str, str]]:
    """Pairs that the first figure shows on a metric: those of models, and each model with the strongest shortcut.

    Where models are many, only the best of them stands beside the shortcut.
    """
    models, pairs = summary.named("model"), main_pairs(summary)
    best, shortcut = (summary.best(metric, kind) for kind in ("model", "baseline"))
    if shortcut is None:
        return pairs
    shown = models if len(models) <= MANY_MODELS or best is None else [best[0]]
    return [*pairs, *((name, shortcut[0]) for name in shown)]


def headline(summary: Summary) -> list[str]:
    """The verdict: which differences between models are significant, and what the strongest shortcut scores."""
    pairs = main_pairs(summary)
    told = [] if not pairs else _few_pairs(summary, pairs) if len(pairs) <= FEW_PAIRS else [_many_pairs(summary, pairs)]
    shortcut, model = (summary.best(summary.primary, kind) for kind in ("baseline", "model"))
    on = f"On {_spoken(summary.primary)}, the primary metric, the"
    scores: list[str] = []
    fewer = set(summary.named("model")) & set(summary.fewer_items)
    all_asked = " that was asked all items" if fewer and model is not None and model[0] not in fewer else ""
    for kind, best in (("strongest shortcut", shortcut), (f"best model{all_asked}", model)):
        if best is not None:
            start = f"The {kind}" if scores else f"{on} {kind}"
            scores.append(f"{start} ({shown_as(summary, best[0])}) scores {format_number(best[1])}")
    if shortcut is not None and model is not None:
        scores[-1] += f": {_TOLD[verdict(summary.find(model[0], shortcut[0], summary.primary).result)]}"
    if not scores:
        reason = summary.score(next(iter(summary.systems)), summary.primary).reason
        why = f" ({reason})" if reason else ""
        return [*told, f"No system has a score on {_spoken(summary.primary)}, the primary metric{why}."]
    return [*told, f"{'. '.join(scores)}."]


def _few_pairs(summary: Summary, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Of each pair of models, on which headline metrics they differ; equal verdicts are told at once."""
    differing: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for a, b in pairs:
        said: dict[str, list[str]] = {}
        for metric in summary.headline:
            said.setdefault(verdict(summary.find(a, b, metric).result), []).append(_spoken(metric))
        ways = [f"{way} than {b} on {_listed(said[way])}" for way in ("higher", "lower") if way in said]
        if ways:
            differing.setdefault(" and ".join(ways), []).append(a)
        else:
            others.setdefault("not shown" if "not shown" in said else "not tested", []).append(f"{a} and {b}")
    told = [f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {ways}" for ways, names in differing.items()]
    sentences = [f"Significant differences between models: {'; '.join(told)}."] if told else []
    for way, start in (("not shown", "No difference is shown"), ("not tested", "No difference can be tested")):
        if way in others:
            sentences.append(f"{start} between {', nor between '.join(others[way])}.")
    return [" ".join(sentences)]


def _many_pairs(summary: Summary, pairs: Sequence[tuple[str, str]]) -> str:
    """How many pairs of models differ on the primary metric, and which, where they are few."""
    said = {(a, b): verdict(summary.find(a, b, summary.primary).result) for a, b in pairs}
    differing = [f"{a} is {way} than {b}" for (a, b), way in said.items() if way in ("higher", "lower")]
    which = f": {'; '.join(differing)}" if 0 < len(differing) <= FEW_PAIRS else ""
    n_models = len(summary.named("model"))
    between = "models" if len(pairs) == n_models * (n_models - 1) / 2 else "each model and the one before it"
    return (
        f"Between {between}, {len(differing) or 'none'} of {count_of(len(pairs), 'difference')} "
        f"{'are' if len(differing) > 1 else 'is'} significant on {_spoken(summary.primary)}{which}."
    )


def untested(summary: Summary) -> list[str]:
    """Why differences of the first figure have no test, a sentence per metric."""
    sentences = []
    for metric in summary.headline if summary.pairs else ():
        shown = [summary.find(a, b, metric) for a, b in first_pairs(summary, metric)]
        reasons = [reason_in_words(one.result.test, one.a, one.b) for one in shown if not known(one.result.p_value)]
        if reasons:
            sentences.append(f"Not tested on {_spoken(metric)}: {'; '.join(dict.fromkeys(reasons))}.")
    return sentences


def n_tested(summary: Summary) -> str:
    """How many comparisons of a headline metric have a p value, which is the number that Holm's method adjusts for."""
    counts = [
        sum(one.result.metric == metric and known(one.result.p_value) for one in summary.comparisons)
        for metric in summary.headline
    ]
    low, high = min(counts), max(counts)
    return count_of(high, "tested comparison") if low == high else f"{low} to {high} tested comparisons"


def findings(summary: Summary) -> list[str]:
    """Which differences between models are significant, a sentence per pair."""
    sentences = []
    for a, b in main_pairs(summary):
        said: dict[str, list[str]] = {}
        for metric in summary.headline:
            said.setdefault(verdict(summary.find(a, b, metric).result), []).append(_spoken(metric))
        parts = [f"{way} on {_listed(said[way])}" for way in ("higher", "lower") if way in said]
        if "not shown" in said:
            parts.append(f"no difference shown on {_listed(said['not shown'])}")
        if "not tested" in said:
            parts.append(f"not testable on {_listed(said['not tested'])}")
        shared = shared_items(summary, a, b)
        sentences.append(f"{a} against {b}{f' ({shared})' if shared else ''}: {'; '.join(parts)}.")
    return sentences


def strongest_shortcuts(summary: Summary) -> list[str]:
    """Per headline metric: the best baseline, and whether the best model differs from it."""
    sentences = []
    fewer = summary.fewer_items
    all_asked = " that was asked all items" if set(summary.named("model")) & set(fewer) else ""
    for metric in summary.headline:
        best_baseline, best_model = (summary.best(metric, kind) for kind in ("baseline", "model"))
        if best_baseline is None:
            continue
        name, value = best_baseline
        sentence = f"{find_metric(metric).long_label}: {shown_as(summary, name)} scores {format_number(value)}."
        if best_model is not None:
            model, score = best_model
            said = _TOLD[verdict(summary.find(model, name, metric).result)]
            best_of = "" if model in fewer else all_asked
            sentence += f" The best model{best_of}, {shown_as(summary, model)}, scores {format_number(score)}: {said}."
        sentences.append(sentence)
    return sentences


def cautions(summary: Summary) -> list[str]:
    """What a reader must know before believing the numbers."""
    failed = [one for one in summary.aa_checks if one.result.p_holm < ALPHA]
    return [
        *_of_completions(summary),
        *_not_audited(summary),
        *([f"The A/A check failed. {aa_sentence(summary)}"] if failed else ()),
        *_few_clusters(summary),
    ]


def _of_completions(summary: Summary) -> list[str]:
    """Single training runs, completions without an answer, and failed requests."""
    models = {name: summary.systems[name] for name in summary.named("model")}
    sentences = []
    single = [name for name, one in models.items() if len(one.seeds) == 1]
    if single:
        sentences.append(
            f"One training run each for {_listed(single)}. How much another run with a new seed would differ is "
            "unknown, and the intervals do not include it."
        )
    answered = [f"{shown_as(summary, name)} {format_share(one.status['answered'])}" for name, one in models.items()]
    if answered:
        sentences.append(
            f"Completions that hold an answer: {', '.join(answered)}. A completion without an answer counts as wrong."
        )
    for name, one in summary.systems.items():
        if one.status_counts["error"]:
            sentences.append(
                f"{name}: {one.status_counts['error']:,} of {count_of(one.n_rows, 'request')} failed; "
                f"{count_of(one.n_unscorable, 'item')} cannot be scored and are left out of its scores and comparisons."
            )
    return sentences


def _not_audited(summary: Summary) -> list[str]:
    """Which claims about a run's traces, such as that none quotes a test label, the audit could not check."""
    sentences = []
    for stage in summary.stages:
        audit = stage.get("audit") or stage.get("sft_audit") or {}
        for claim, n in (audit.get("not_audited") or {}).items():
            sentences.append(f"The audit could not check of {count_of(n, 'training trace')} that {claim}.")
    return list(dict.fromkeys(sentences))  # GRPO repeats the audit of the SFT run that it starts from


def _few_clusters(summary: Summary) -> list[str]:
    """Where perturbations or genes are too few for an interval to be trusted: everywhere, or in some pairs."""
    total = summary.total
    if min(total.perturbations, total.genes) < FEW_CLUSTERS:
        return [
            f"Only {count_of(total.perturbations, 'perturbation')} and {count_of(total.genes, 'gene')}: with "
            f"fewer than {FEW_CLUSTERS} of either, the intervals are uncertain, too."
        ]
    averaged = [n for name in summary.systems if (n := summary.score(name, summary.primary).n_genes) is not None]
    sentences = []
    if averaged and max(averaged) < FEW_CLUSTERS:
        sentences.append(
            f"{find_metric(summary.primary).long_label}, the primary metric, is a mean over only "
            f"{count_of(max(averaged), 'gene')}, those with both classes. With fewer than {FEW_CLUSTERS}, its "
            "intervals are uncertain."
        )
    tested = [one for one in summary.comparisons if one.result.n_missing and known(one.result.p_value)]
    few = [one for one in tested if min(one.result.n_perturbations, one.result.n_genes) < FEW_CLUSTERS]
    if few:
        compared = {name for one in few for name in (one.a, one.b)}
        names = [name for name in summary.fewer_items if name in compared]
        sentences.append(
            f"{count_of(len(few), 'comparison')} with {_listed(names)} share items of fewer than {FEW_CLUSTERS} "
            "perturbations or genes: their intervals are uncertain, too."
        )
    return sentences


def declared(summary: Summary) -> list[str]:
    """How the tests were declared: who is compared, the primary metric, the families, the variance."""
    n_pairs = len(summary.pairs)
    paired = "the items that both were asked" if summary.fewer_items else "the same items"
    sentences = [
        f"Every model against each earlier model and each shortcut, paired on {paired}. The variance allows for items "
        "that share perturbations or genes (Cameron, Gelbach and Miller’s two-way cluster-robust variance; the "
        "interval is a t interval). With several training runs, the variance between them is added.",
        f"Declared in advance: {find_metric(summary.primary).long_label} is the primary metric, and claims rest on it. "
        f"The other metrics are secondary. Within each metric, the {count_of(n_pairs, 'comparison')} of "
        "two systems are one family, adjusted by Holm’s method. There is no adjustment across metrics.",
    ]
    return sentences


def aa_sentence(summary: Summary) -> str:
    """What came of comparing each system with itself."""
    rows = summary.aa_checks
    if not rows:
        return "Not run. With one sample an item, a system cannot be compared with itself."
    systems = list(dict.fromkeys(row.system for row in rows))
    found = [row for row in rows if row.result.p_holm < ALPHA]
    how = f"Each half of the samples of {_listed(systems)} against the other half, {count_of(len(rows), 'test')}: "
    if not found:
        return f"{how}no difference is found, as it should be."
    named_here = "; ".join(f"{row.system}, {_spoken(row.result.metric)}" for row in found)
    return (
        f"{how}{count_of(len(found), 'difference')} found where there is none to find ({named_here}). Check how the "
        "answers were sampled before you trust differences on these metrics."
    )


def _spoken(metric: str) -> str:
    """A metric's name inside a sentence; an acronym stays one."""
    name = find_metric(metric).long_label
    return name if name[:2].isupper() else name[0].lower() + name[1:]


def shown_as(summary: Summary, name: str) -> str:
    """A system's name, and how many items it was asked where that is not all: its scores do not compare."""
    n_items = summary.systems[name].n_items
    return name if n_items is None else f"{name} ({n_items:,} of {count_of(summary.total.items, 'item')})"


def shared_items(summary: Summary, a: str, b: str) -> str:
    """How many items two compared systems share, in words; nothing where that is all that either was asked."""
    n_missing = next(one.result.n_missing for one in summary.comparisons if {one.a, one.b} == {a, b})
    if not n_missing:
        return ""
    asked = [summary.systems[name].n_items for name in (a, b)]
    n_asked = sum(summary.total.items if n is None else n for n in asked)
    n_shared = (n_asked - n_missing) // 2  # what one of them lacks, the other was asked alone
    return count_of(n_shared, "shared item") if n_shared else "no shared item"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
