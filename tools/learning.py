"""Did GRPO teach? Fills docs/learning.md and its part of the README from the runs of configs/study/learn.yaml.

python -m tools.learning [FOLDER]    reads the study's folder, writes docs/learning.json, the figure and the pages
python -m tools.learning --pages     writes figure and pages from docs/learning.json again

FOLDER is runs/studies/learn unless it is given. Seeds that are not finished are left out, and counted.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from benchmarks import compare
from benchmarks.evaluation.baselines import as_predictions, cross_line_neighbours
from benchmarks.evaluation.predictions import read_predictions
from benchmarks.evaluation.run import PREDICTIONS
from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.runs import CONFIG, MANIFEST, read_manifest, read_stored
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.metrics import estimate
from benchmarks.statistics.significance import Comparison, t_interval
from benchmarks.statistics.variance import add_seed_variance
from rewards import InputError
from rl.rollout_files import read_rollouts
from tools.pages import between, number, svg, with_interval

DOCS: Final = Path(__file__).parents[1] / "docs"
RESULT: Final = DOCS / "learning.json"
FIGURE: Final = DOCS / "learning.svg"
SYSTEMS: Final = {"SFT": "sft", "SFT+GRPO": "sft-grpo", "SFT+labels": "sft-labels"}  # by folder
RIVALS: Final = ("SFT", "SFT+labels", "cross-line neighbours")
METRICS: Final = {
    "accuracy": ("three_class", "accuracy"),
    "de_auroc": ("de", "AUROC `de`"),
    "dir_auroc": ("dir", "AUROC `dir`"),
}
CURVES: Final = {
    "reward": "mean reward",
    "eval_held_out_accuracy": "held-out accuracy, sampled",
    "eval_greedy_accuracy": "held-out accuracy, greedy",
    "zero_variance_groups": "share of dead groups",
    "entropy": "entropy per token",
    "completions/mean_length": "tokens of a completion",
    "eval_kl": "KL divergence from SFT per token",
}


def finished_seeds(folder: Path) -> list[int]:
    """Return the seeds whose three systems are all evaluated.

    Raises:
        InputError: there are none.
    """
    found = []
    for path in sorted((folder / SYSTEMS["SFT+GRPO"]).glob("seed-*")):
        runs = [folder / name / path.name / "eval" for name in SYSTEMS.values()]
        if all((run / MANIFEST).is_file() and read_manifest(run)["status"] == "done" for run in runs):
            found.append(int(path.name.partition("-")[2]))
    if not found:
        raise InputError(f"{folder}: no seed is finished; run `synthpert study configs/study/learn.yaml`")
    return found


def held_out_answers(run: Path, corpus: Corpus) -> pd.DataFrame:
    """Return the answers of a GRPO run to its held-out prompts as a predictions frame, with `step` and `how`.

    Each sampled answer is an item of its own, so that errors are clustered by perturbation and gene alone.
    """
    rows = []
    for path in sorted((run / "held-out").glob("step-*.jsonl")):
        step = int(path.name.split("-")[1])
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            answers = [("sampled", at, answer) for at, answer in enumerate(row["sampled"])]
            for how, at, answer in [*answers, ("greedy", 0, row["greedy"])]:
                rows.append({"step": step, "how": how, "sample": at, "answer": answer, "item": row["item_id"]})
    frame = pd.DataFrame(rows).merge(corpus.train, left_on="item", right_on="item_id", validate="many_to_one")
    status = frame["answer"].isna().map({True: "malformed", False: "answered"})
    kept = frame[["cell_line", "pert", "gene", "label", "answer", "step", "how", "item"]].astype({"label": str})
    return kept.assign(status=status, item_id=frame["item"] + "#" + frame["sample"].astype(str))


def gains(frames: Mapping[int, pd.DataFrame], how: str) -> dict[str, Any]:
    """Return the accuracy of sampled or of greedy answers before and after GRPO, with the intervals of its gain.

    Each seed has held-out items of its own. For other seeds, the variance between the seeds' gains is added to that
    over items, as for all our comparisons. Gains of different items differ a little more than those of the same items.

    Args:
        frames: by seed, from `held_out_answers`.
        how: `sampled` or `greedy`.
    """
    first, last = {}, {}
    for seed, frame in frames.items():
        mine = frame[frame["how"] == how].assign(seed=seed)
        first[seed], last[seed] = (mine[mine["step"] == step] for step in (mine["step"].min(), mine["step"].max()))
    per_seed = [_interval(compare(last[seed], first[seed], "accuracy")) for seed in frames]
    items = _over_items(last, first)
    over_both = None  # one seed tells nothing of seeds
    if len(per_seed) > 1:
        variance, df = add_seed_variance(items.se**2, items.df, [one["value"] for one in per_seed])
        low, high, p = t_interval(items.difference, variance**0.5, df)
        over_both = {"value": items.difference, "low": low, "high": high, "p": p}
    return {
        "before": [_accuracy(first[seed]) for seed in frames],
        "after": [_accuracy(last[seed]) for seed in frames],
        "per_seed": per_seed,
        "items": _interval(items),
        "items_and_seeds": over_both,
    }


def _accuracy(frame: pd.DataFrame) -> float:
    return float((frame["answer"] == frame["label"]).mean())


def _differences(a: Mapping[int, pd.DataFrame], b: Mapping[int, pd.DataFrame], metric: str) -> dict[str, Any]:
    """Compare two systems by seed, over items alone (the seeds' answers taken together), and over items and seeds."""
    per_seed = [_interval(compare(a[seed], b[seed], metric)) for seed in a]
    both = [pd.concat([frames[seed].assign(seed=seed) for seed in a]) for frames in (a, b)]
    over_both = _interval(compare(both[0], both[1], metric)) if len(a) > 1 else None  # one seed tells nothing of seeds
    items = per_seed[0] if len(a) == 1 else None
    if metric == "accuracy":
        items = _interval(_over_items(a, b))
    return {"per_seed": per_seed, "items": items, "items_and_seeds": over_both}


def _over_items(a: Mapping[int, pd.DataFrame], b: Mapping[int, pd.DataFrame]) -> Comparison:
    """Compare accuracies with the seeds as given: a mean over rows, so that all seeds' rows count as one run's."""
    apart = [
        pd.concat([frame.assign(item_id=frame["item_id"] + f"@{seed}", seed=0) for seed, frame in frames.items()])
        for frames in (a, b)
    ]
    return compare(apart[0], apart[1], "accuracy")


def _interval(found: Any) -> dict[str, float]:
    return {"value": found.difference, "low": found.low, "high": found.high, "p": found.p_value}


def curves(runs: Sequence[Path]) -> dict[str, Any]:
    """Return what the runs logged: by name, the steps, and the values of each run at these steps."""
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs]
    found = {}
    for key in CURVES:
        by_step = [{row["step"]: float(row[key]) for row in log if key in row} for log in logs]
        steps = sorted(set.intersection(*map(set, by_step)))
        found[key] = {"steps": steps, "runs": [[round(one[step], 5) for step in steps] for one in by_step]}
    return found


def measure(folder: Path) -> dict[str, Any]:
    """Return what docs/learning.json holds.

    Raises:
        InputError: no seed is finished, or its files do not fit.
    """
    seeds = finished_seeds(folder)
    grpo = [folder / SYSTEMS["SFT+GRPO"] / f"seed-{seed}" / "grpo" for seed in seeds]
    config = read_stored(grpo[0] / CONFIG, "run the study again")
    corpus = open_corpus(config["data"], config["split"])
    frames = {seed: held_out_answers(run, corpus) for seed, run in zip(seeds, grpo, strict=True)}
    answers = {
        system: {
            seed: read_predictions(folder / name / f"seed-{seed}" / "eval" / PREDICTIONS).assign(seed=0)
            for seed in seeds
        }
        for system, name in SYSTEMS.items()
    }
    one = answers["SFT"][seeds[0]]
    items = corpus.test[corpus.test["item_id"].isin(one["item_id"])]
    neighbours = as_predictions(items, cross_line_neighbours(corpus, items))
    answers["cross-line neighbours"] = dict.fromkeys(seeds, neighbours)
    manifests = [read_manifest(run) for run in grpo]
    return {
        "seeds": seeds,
        "steps": manifests[0]["steps"],
        "completions": len(read_rollouts(grpo[0]).query("step == 1")),
        "held_out_items": int(frames[seeds[0]]["item"].nunique()),
        "samples": int((frames[seeds[0]].groupby(["step", "how", "item"]).size()).max()),
        "test_items": int(one["item_id"].nunique()),
        "minutes": [round(manifest["seconds"] / 60, 1) for manifest in manifests],
        "prompts": [manifest["prompts"]["asked"] for manifest in manifests],
        "held_out": {how: gains(frames, how) for how in ("sampled", "greedy")},
        "scores": {
            system: {metric: [_score(frame, metric) for frame in of.values()] for metric in METRICS}
            for system, of in answers.items()
        },
        "test": {
            rival: {metric: _differences(answers["SFT+GRPO"], answers[rival], metric) for metric in METRICS}
            for rival in RIVALS
        },
        "curves": curves(grpo),
    }


def _score(frame: pd.DataFrame, metric: str) -> float:
    return float(estimate(prediction_arrays(frame), METRICS[metric][0], metric, None).value)


def held_out_table(result: Mapping[str, Any]) -> str:
    """Return the table of held-out answers before and after GRPO, in Markdown."""
    lines = ["| answers | seed | before | after | gain, 95 % over items |", "|---|---:|---:|---:|---:|"]
    for how, found in result["held_out"].items():
        for seed, before, after, gain in zip(
            result["seeds"], found["before"], found["after"], found["per_seed"], strict=True
        ):
            lines.append(f"| {how} | {seed} | {number(before)} | {number(after)} | {_with_interval(gain)} |")
        means = [number(sum(found[when]) / len(found[when])) for when in ("before", "after")]
        lines.append(f"| {how} | mean, items alone | {means[0]} | {means[1]} | {_with_interval(found['items'])} |")
        both = _with_interval(found["items_and_seeds"])
        lines.append(f"| {how} | mean, items and seeds | {means[0]} | {means[1]} | {both} |")
    return "\n".join(lines)


def test_table(result: Mapping[str, Any]) -> str:
    """Return the table of test scores, in Markdown: each system's, and GRPO's difference from it."""
    head = [f"{label} | GRPO minus it" for _, label in METRICS.values()]
    lines = [f"| system | {' | '.join(head)} |", "|---|" + "---:|" * (2 * len(head))]
    for system, scores in result["scores"].items():
        cells = []
        for metric in METRICS:
            cells.append(number(sum(scores[metric]) / len(scores[metric])))
            found = result["test"].get(system)
            cells.append("" if found is None else _with_interval(_widest(found[metric])))
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _widest(found: Mapping[str, Any]) -> Mapping[str, float]:
    """The interval over items and seeds; the one over items where there is one seed."""
    widest: Mapping[str, float] = found["items_and_seeds"] or found["items"]
    return widest


def _with_interval(one: Mapping[str, float] | None) -> str:
    if one is None:
        return "unknown from one seed"
    return with_interval(one)


def draw(result: Mapping[str, Any]) -> str:
    """Return the figure as SVG: a panel a curve, the mean of the runs and a band from the lowest to the highest."""
    from matplotlib.figure import Figure

    figure = Figure((9, 6.6), facecolor="white", layout="constrained")
    panels = figure.subplots(2, 3).flat
    titles = ("accuracy on held-out prompts", "mean reward", "share of dead groups", "entropy per token",
              "tokens of a completion", "KL divergence from SFT per token")  # fmt: skip
    keys = (("eval_held_out_accuracy", "eval_greedy_accuracy"), ("reward",), ("zero_variance_groups",), ("entropy",),
            ("completions/mean_length",), ("eval_kl",))  # fmt: skip
    for axes, title, names in zip(panels, titles, keys, strict=True):
        for name, colour, dash in zip(names, ("#0072B2", "#D55E00"), ("-", "--"), strict=False):
            steps, runs = result["curves"][name]["steps"], result["curves"][name]["runs"]
            at_step = list(zip(*runs, strict=True))
            axes.fill_between(steps, [min(one) for one in at_step], [max(one) for one in at_step],
                              color=colour, alpha=0.18, linewidth=0)  # fmt: skip
            axes.plot(steps, [sum(one) / len(one) for one in at_step], dash, color=colour, marker="o", markersize=3,
                      label=CURVES[name].rpartition(", ")[2])  # fmt: skip
        axes.set_title(title, size=10, loc="left")
        axes.set_xlabel("step", size=9)
        axes.tick_params(labelsize=8)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=9, loc="lower right")
    return svg(figure, f"{len(result['seeds'])} GRPO runs: mean, and band from the lowest to the highest run")


def summary(result: Mapping[str, Any]) -> str:
    """Return what came out as a list in Markdown, for the README."""
    held_out, test = result["held_out"], result["test"]
    lines = []
    for how, found in held_out.items():
        before, after = (sum(found[when]) / len(found[when]) for when in ("before", "after"))
        lines.append(
            f"- {how.capitalize()} answers to {result['held_out_items']} held-out prompts in each of "
            f"{len(result['seeds'])} runs: {number(before)} are right before GRPO and {number(after)} after. "
            f"The gain is {_with_interval(found['items'])} over items, and {_with_interval(found['items_and_seeds'])} "
            "over items and seeds."
        )
    for rival, words in (("SFT", "before GRPO"), ("SFT+labels", "after SFT on the labels that GRPO saw")):
        differences = [
            f"{label} {_with_interval(_widest(test[rival][metric]))}" for metric, (_, label) in METRICS.items()
        ]
        lines.append(f"- {result['test_items']} test items, GRPO minus the model {words}: {'; '.join(differences)}.")
    return "\n".join(lines)


PAGES: Final[dict[Path, dict[str, Callable[[Mapping[str, Any]], str]]]] = {
    DOCS / "learning.md": {"<!-- held-out -->": held_out_table, "<!-- test -->": test_table},
    DOCS.parent / "README.md": {"<!-- learning -->": summary},
}


def filled(path: Path, result: Mapping[str, Any]) -> str:
    """Return the text of a page with what is made from the result between its marks."""
    page = path.read_text(encoding="utf-8")
    for mark, table in PAGES[path].items():
        page = between(page, mark, table(result))
    return page


def main() -> None:
    """Measure a study's runs, unless only pages are asked for, and write figure and pages."""
    if "--pages" not in sys.argv:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/studies/learn")
        RESULT.write_text(json.dumps(measure(folder), indent=1) + "\n", encoding="utf-8")
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    FIGURE.write_text(draw(result), encoding="utf-8")
    for path in PAGES:
        path.write_text(filled(path, result), encoding="utf-8")


if __name__ == "__main__":
    main()
