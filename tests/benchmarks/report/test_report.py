"""The report's numbers, words and page: what is shown, that it stays text, and that it needs nothing but itself."""

import csv
import json
import os
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.evaluation.predictions import PROBABILITIES, TASKS
from benchmarks.report.examples import N_MOST_DIFFERENT, most_different
from benchmarks.report.export import as_json
from benchmarks.report.page import COMPLETION_LIMIT, System, markdown_text, write_report
from benchmarks.report.published import published_figures
from benchmarks.report.summarize import summarize
from benchmarks.report.summary import HEADLINE
from benchmarks.report.wording import (
    aa_sentence,
    format_number,
    format_p,
    format_share,
    headline,
    metric_groups,
    reason_in_words,
    strongest_shortcuts,
    what_was_compared,
)
from benchmarks.screens import bioreasoning
from benchmarks.statistics import metrics
from benchmarks.statistics.arrays import prediction_arrays
from benchmarks.statistics.estimates import of_confusion
from benchmarks.statistics.metrics import METRICS, Metric, compared_metrics, find_metric, metrics_of
from benchmarks.statistics.power import equivalence
from benchmarks.statistics.significance import adjust, compare
from rewards import LABELS, InputError

NAMES = [str(label) for label in LABELS]
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"&|`"
LINES = ("k562", "rpe1")
FILES = ["comparisons.csv", "report.csv", "report.html", "report.json", "report.md"]
FACTS = {"protocol_fingerprint": "ab" * 32, "packages": {"torch": "2.13.0"}, "command": "synthpert eval --model x"}


@cache
def items() -> pd.DataFrame:
    """Not to be changed."""
    rng = np.random.default_rng(0)
    grid = [(line, f"P{p}", f"G{g}") for line in LINES for p in range(12) for g in range(8)]
    frame = pd.DataFrame(grid, columns=["cell_line", "pert", "gene"])
    frame["item_id"] = frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"]
    return frame.assign(label=rng.choice(NAMES, size=len(frame), p=[0.2, 0.2, 0.6]))


def predict(
    skill: float, seed: int, *, answered: float = 1.0, error: float = 0.0, completion: str = ""
) -> pd.DataFrame:
    return predicted(skill, seed, answered, error, completion).copy()


@cache  # most tests take these predictions
def predicted(skill: float, seed: int, answered: float, error: float, completion: str) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = items()
    logits = rng.normal(size=(len(frame), 3)) + skill * np.eye(3)[frame["label"].map(NAMES.index)]
    prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    draw = rng.random(len(frame))
    status = np.where(draw < answered, "answered", np.where(rng.random(len(frame)) < 0.5, "malformed", "incomplete"))
    status = np.where(rng.random(len(frame)) < error, "error", status)
    answer = np.array(NAMES, dtype=object)[logits.argmax(axis=1)]
    answer[status != "answered"] = None
    prob[status != "answered"] = np.nan
    text = [
        f"{completion}<think>about {i}</think><answer>{a}</answer>"
        for i, a in zip(frame["item_id"], answer, strict=True)
    ]
    return frame.assign(
        sample=0, seed=0, completion=text, answer=answer, status=status, p_up=prob[:, 0], p_down=prob[:, 1],
        p_none=prob[:, 2], completion_tokens=9, finish_reason="stop",
    )  # fmt: skip


def systems() -> list[System]:
    return [
        System("base", "model", predict(0.0, 1, answered=0.3), FACTS | {"adapter": None}),
        System("SFT", "model", predict(1.5, 2, answered=0.95), FACTS | {"adapter": "sft"}),
        System("SFT+GRPO", "model", predict(1.7, 3, error=0.05), FACTS | {"adapter": "grpo"}),
        System("gene rate", "baseline", predict(0.5, 4), {}),
        System("neighbours", "baseline", predict(1.0, 5), {}),
    ]


def strata() -> "dict[str, pd.Series[bool]]":
    frame = items()
    known = pd.Series(frame["pert"].isin([f"P{p}" for p in range(6)]).to_numpy(), index=frame["item_id"])
    return {"known": known, "unknown": ~known, f"{HOSTILE} third": known.iloc[::-1]}


def runs(skill: float, seed: int, n: int = 3, **options: Any) -> pd.DataFrame:
    """Predictions of several training runs."""
    return pd.concat([predict(skill, seed + 10 * at, **options).assign(seed=at) for at in range(n)], ignore_index=True)


def report(out: Path, given: list[System] | None = None, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "title": "A test",
        "protocol": {"template": "three_class/1", "decoding": {"greedy": True}},
        "data": {
            "source": "sample",
            "is_sample": True,
            "notes": ["A note."],
            "rows": [{"line": "k562", "n": 96}],
            "funnel": [{"step": "test items evaluated", "rows": 192, "of": "1,920 test items", "share": 0.1}],
        },
        "stages": [{"stage": "sft", "seconds": 12.5}, {"stage": "grpo", "rollout_engine": "vllm"}],
        "strata": strata(),
    }
    return write_report(systems() if given is None else given, out, **(arguments | changes))


def summarized(given: list[System], **changes: Any) -> dict[str, Any]:
    """What report.json would hold."""
    return as_json(summarize(given, **{"title": "t", "protocol": {}, "data": {}} | changes))


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, text, tables with their rows and captions."""

    VOID = frozenset({"meta", "br", "img", "link", "hr", "input"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.tables: list[dict[str, Any]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append({"caption": "", "rows": 0, "head": 0})
        if tag == "tr" and "thead" in self.open:
            self.tables[-1]["head"] += 1
        elif tag == "tr":
            self.tables[-1]["rows"] += 1
        if tag == "th" and dict(attrs).get("scope") == "rowgroup":
            self.tables[-1]["rows"] -= 1  # a heading within the body

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)
        if self.open and "caption" in self.open:
            self.tables[-1]["caption"] += data

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written)


@pytest.fixture(scope="module")
def summary(written: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written.with_name("report.json").read_text(encoding="utf-8"))
    return found


class TestNumbers:
    def test_shape(self, summary: dict[str, Any]) -> None:
        assert list(summary["systems"]) == [system.name for system in systems()]
        for one in summary["systems"].values():
            assert set(one["status"]) == {"answered", "malformed", "incomplete", "error"}
            assert sum(one["status"].values()) == pytest.approx(1)
            for task in TASKS:
                assert set(one["metrics"][task]) == {"all", *LINES}
                for by_metric in one["metrics"][task].values():
                    assert list(by_metric) == [metric.name for metric in metrics_of(task)]
                    assert all({"value", "low", "high", "n"} <= set(cell) for cell in by_metric.values())
            for task in TASKS:
                assert set(one["strata"][task]) == set(strata())
                assert list(one["strata"][task]["known"]) == [metric.name for metric in metrics_of(task)]
            assert set(one["tokens"]) == {"mean", "median", "p95", "total", "read_per_item", "written_per_item"}
            assert set(one["roc"]) == {"de", "dir"}
            assert all(set(row) == {"low", "high", "n", "confidence", "accuracy"} for row in one["reliability"])
        assert summary["protocol"] == {"template": "three_class/1", "decoding": {"greedy": True}}

    def test_strata_are_aligned_by_item(self, summary: dict[str, Any]) -> None:
        frame = systems()[1].predictions
        for name, mask in strata().items():
            here = frame[frame["item_id"].map(mask)]
            cell = summary["systems"]["SFT"]["strata"]["three_class"][name]["accuracy"]
            assert cell["n"] == len(here)
            assert cell["value"] == pytest.approx((here["answer"] == here["label"]).mean())

    def test_curves_agree_with_the_metrics(self, summary: dict[str, Any]) -> None:
        for one in summary["systems"].values():
            for task in ("de", "dir"):
                x, y = np.array(one["roc"][task]).T
                assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
                auroc = one["metrics"][task]["all"][f"{task}_auroc"]["value"]
                assert np.trapezoid(y, x) == pytest.approx(auroc, abs=0.005)
            bins = [row for row in one["reliability"] if row["n"]]
            gap = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in bins) / sum(
                row["n"] for row in bins
            )
            assert gap == pytest.approx(one["metrics"]["three_class"]["all"]["ece"]["value"])

    def test_tokens(self) -> None:
        counted = predict(1.0, 1, error=0.2).assign(completion_tokens=np.arange(192), prompt_tokens=30)
        twice = pd.concat([counted.assign(sample=sample) for sample in range(2)])
        heard = counted.loc[counted["status"] != "error", "completion_tokens"]
        given = [
            System("m", "model", counted, {}),
            System("twice", "model", twice, {}),
            System("uncounted", "model", counted.drop(columns="prompt_tokens"), {}),
            System("none", "model", predict(1.0, 2).drop(columns="completion_tokens"), {}),
            System("zero", "model", predict(1.0, 2).assign(completion_tokens=0), {}),
            System("b", "baseline", predict(1.0, 3), {}),
        ]
        found = summarized(given)["systems"]
        expected = {
            "mean": heard.mean(), "median": heard.median(), "p95": heard.quantile(0.95), "total": heard.sum(),
            "read_per_item": 30, "written_per_item": heard.mean(),
        }  # fmt: skip
        assert found["m"]["tokens"] == pytest.approx(expected)
        per_item = {key: found["twice"]["tokens"][key] for key in ("read_per_item", "written_per_item")}
        assert per_item == pytest.approx({"read_per_item": 60, "written_per_item": 2 * heard.mean()})
        assert found["uncounted"]["tokens"] == pytest.approx(expected | {"read_per_item": None})
        unknown = dict.fromkeys(expected)
        assert all(found[name]["tokens"] == unknown for name in ("none", "zero", "b"))

    def test_scores_that_are_all_but_certain_are_a_warning(self) -> None:
        """Of 192 items, more than half above .99; a baseline may be as certain as it likes."""

        def scored(n_certain: int) -> pd.DataFrame:
            frame = predict(1.0, 1)
            answers = frame["answer"].to_numpy()
            highest = np.where(np.arange(len(frame)) < n_certain, 0.995, 0.985)
            for label, column in zip(LABELS, PROBABILITIES, strict=True):
                frame[column] = np.where(answers == str(label), highest, (1 - highest) / 2)
            return frame

        given = [System(f"{n}", "model", scored(n), FACTS) for n in (96, 97, 144)]
        (warning,) = summarized([*given, System("b", "baseline", scored(192), {})])["warnings"]
        assert "lie above 0.99 (97 51%, 144 75% of the items)" in warning
        assert "scores: direct" in warning and "samples: 8" in warning
        assert summarized(given[:1])["warnings"] == []

    def test_values_of_each_training_run(self) -> None:
        frame = runs(1.0, 1)
        given = [System("a", "model", runs(0.5, 5), FACTS), System("b", "model", frame, FACTS)]
        found = summarized(given)
        cell = found["systems"]["b"]["metrics"]["three_class"]["all"]["accuracy"]
        each = [(one["answer"] == one["label"]).mean() for _, one in frame.groupby("seed")]
        assert cell["per_seed"] == pytest.approx(each)
        assert cell["value"] == pytest.approx(np.mean(each))
        one = next(one for one in found["comparisons"] if one["metric"] == "accuracy")
        assert one["difference"] == pytest.approx(np.mean(one["per_seed"]))
        assert 0 <= one["p_same_items"] <= 1

    def test_lines_are_compared_apart_and_adjusted_together(self, summary: dict[str, Any]) -> None:
        rows = summary["exploratory"]
        assert len(rows) == 9 * len(LINES)
        frames = {system.name: system.predictions for system in systems()}
        for row in rows[:2] + rows[-2:]:
            here = {name: frame[frame["cell_line"] == row["cell_line"]] for name, frame in frames.items()}
            alone = compare(here[row["a"]], here[row["b"]], "de_per_gene_auroc")
            assert (row["difference"], row["p_value"]) == pytest.approx((alone.difference, alone.p_value))
        assert [row["p_fdr"] for row in rows] == pytest.approx(adjust([row["p_value"] for row in rows], "fdr_bh"))
        assert not any("p_holm" in row for row in rows)

    def test_a_system_with_several_samples_is_compared_with_itself(self) -> None:
        two = pd.concat([predict(1.0, 1), predict(1.0, 2).assign(sample=1)], ignore_index=True)
        given = [System("m", "model", two, FACTS), System("one", "model", predict(1.0, 3), FACTS)]
        summary = summarize(given, title="t", protocol={}, data={})
        found = as_json(summary)["aa_checks"]
        assert {row["system"] for row in found} == {"m"}
        assert [row["metric"] for row in found] == compared_metrics()
        assert "no difference is found" in aa_sentence(summary)
        failed = [
            replace(row, result=replace(row.result, p_holm=0.001)) if row.result.metric == "mcc" else row
            for row in summary.aa_checks
        ]
        said = aa_sentence(replace(summary, aa_checks=failed))
        assert "1 difference found where there is none to find (m, MCC)" in said

    def test_values_lie_within_their_intervals_and_lines_add_up(self, summary: dict[str, Any]) -> None:
        for one in summary["systems"].values():
            for by_line in one["metrics"].values():
                for cells in by_line.values():
                    for cell in cells.values():
                        if cell["low"] is not None:
                            assert cell["low"] <= cell["value"] <= cell["high"]
            three = one["metrics"]["three_class"]
            assert three["all"]["accuracy"]["n"] == sum(three[line]["accuracy"]["n"] for line in LINES)
            right = sum(three[line]["accuracy"]["n"] * three[line]["accuracy"]["value"] for line in LINES)
            assert right / three["all"]["accuracy"]["n"] == pytest.approx(three["all"]["accuracy"]["value"])

    def test_errors_are_left_out_and_counted(self, summary: dict[str, Any]) -> None:
        frame = systems()[2].predictions
        n_errors = int((frame["status"] == "error").sum())
        one = summary["systems"]["SFT+GRPO"]
        assert n_errors > 0
        assert one["status"]["error"] == pytest.approx(n_errors / len(frame))
        assert one["metrics"]["three_class"]["all"]["accuracy"]["n"] == len(frame) - n_errors
        kept = frame[frame["status"] != "error"]
        expected = (kept["answer"] == kept["label"]).mean()
        assert one["metrics"]["three_class"]["all"]["accuracy"]["value"] == pytest.approx(expected)

    def test_comparisons_are_those_of_compare(self, summary: dict[str, Any]) -> None:
        expected = [("SFT", "base"), ("SFT+GRPO", "base"), ("SFT+GRPO", "SFT")]
        expected += [
            (model, shortcut) for model in ("base", "SFT", "SFT+GRPO") for shortcut in ("gene rate", "neighbours")
        ]
        assert [(one["a"], one["b"], one["metric"]) for one in summary["comparisons"]] == [
            (a, b, metric) for metric in compared_metrics() for a, b in expected
        ]
        frames = {system.name: system.predictions for system in systems()}
        for one in summary["comparisons"][:9]:
            alone = compare(frames[one["a"]], frames[one["b"]], one["metric"])
            assert one["difference"] == pytest.approx(alone.difference)
            assert (one["low"], one["high"], one["p_value"]) == pytest.approx((alone.low, alone.high, alone.p_value))

    def test_system_without_scores_has_null_and_a_reason(self, tmp_path: Path) -> None:
        frame = predict(1.0, 1).drop(columns=["p_up", "p_down", "p_none"])
        found = summarized([System("m", "model", frame, {})])
        cell = found["systems"]["m"]["metrics"]["de"]["all"]["de_auroc"]
        assert (cell["value"], cell["low"], cell["reason"]) == (None, None, "no probabilities")
        assert found["systems"]["m"]["metrics"]["three_class"]["all"]["accuracy"]["value"] > 0
        page = Page(report(tmp_path, [System("m", "model", frame, {}), *systems()[3:]]))
        assert "no probabilities" in page.words

    def test_values_json_has_no_type_for(self) -> None:
        facts = {"path": Path("a/b"), "nan": float("nan"), "count": np.int64(3), "nested": {"x": (1, 2)}}
        found = summarized([System("m", "model", predict(1.0, 1), facts)])
        assert found["systems"]["m"]["facts"] == {"path": "a/b", "nan": None, "count": 3, "nested": {"x": [1, 2]}}


class TestWords:
    def test_what_was_compared(self, page: Page) -> None:
        assert "3 models: base, SFT and SFT+GRPO." in page.words
        assert "2 shortcuts" in page.words
        assert "the same 192 items" in page.words
        assert "2 cell lines (k562 and rpe1), 12 perturbations and 8 genes" in page.words
        assert "not comparable with published ones" in page.words
        assert "A note." in page.words

    def test_readouts_that_are_sets_of_genes_are_called_so(self) -> None:
        told = summarize(systems(), title="t", protocol={}, data={"gene_sets": 8})
        (question,) = [sentence for sentence in what_was_compared(told) if "CRISPRi" in sentence]
        assert "change the expression of a set of genes?" in question
        assert "12 perturbations and 8 gene sets read out" in question

    def test_the_verdict_says_where_no_system_has_a_score(self) -> None:
        frame = predict(1.0, 1)
        changed = frame[frame["label"] != str(LABELS[-1])]
        told = summarize([System("m", "baseline", changed, {})], title="t", protocol={}, data={})
        reason = "needs differentially expressed items and others"
        assert headline(told) == [f"No system has a score on per-gene AUROC (DE), the primary metric ({reason})."]

    def test_differences_that_are_significant_and_that_are_not(self, page: Page, summary: dict[str, Any]) -> None:
        found = {(one["a"], one["b"]): one for one in summary["comparisons"] if one["metric"] == "accuracy"}
        assert found["SFT", "base"]["p_holm"] < 0.05 < found["SFT+GRPO", "SFT"]["p_holm"]
        assert re.search(r"SFT against base: higher on [^.]*accuracy", page.words)
        assert re.search(r"SFT\+GRPO against SFT: [^.]*no difference shown on [^.]*accuracy", page.words)

    def test_of_many_models_each_is_told_of_beside_the_one_before(self, tmp_path: Path) -> None:
        given = [System(f"m{at}", "model", predict(0.3 * at, at), FACTS) for at in range(5)]
        path = report(tmp_path, given)
        words = Page(path).words
        assert [f"m{at} against m{at - 1}:" in words for at in range(1, 5)] == [True] * 4
        assert "m4 against m2" not in words
        assert "All 10 pairs stand under" in words
        assert len(json.loads(path.with_name("report.json").read_text())["comparisons"]) == 10 * len(compared_metrics())

    def test_a_system_that_answers_one_task_only(self, tmp_path: Path) -> None:
        given = [*systems()[:2], System("outside", "model", predict(1.0, 9), FACTS | {"tasks": ["de"]}), *systems()[3:]]
        path = report(tmp_path, given)
        found = json.loads(path.with_name("report.json").read_text())
        metrics = found["systems"]["outside"]["metrics"]
        assert metrics["three_class"]["all"]["accuracy"]["value"] is None
        assert metrics["de"]["all"]["de_auroc"]["value"] > 0.5
        assert {found["examples"]["most_different"][side] for side in ("a", "b")} == {"base", "SFT"}
        assert "the system answers de only" in Page(path).words

    def test_strongest_shortcut(self, page: Page, summary: dict[str, Any]) -> None:
        scores = {
            name: summary["systems"][name]["metrics"]["three_class"]["all"]["accuracy"]["value"]
            for name in ("gene rate", "neighbours")
        }
        best = max(scores, key=lambda name: scores[name])
        assert f"Accuracy: {best} scores {scores[best]:.3f}." in page.words

    def test_training_variance_is_unknown_with_one_run(self, page: Page, tmp_path: Path) -> None:
        assert "One training run each for base, SFT and SFT+GRPO" in page.words
        two = pd.concat([predict(1.0, 1), predict(1.0, 2).assign(seed=1)])
        both = Page(report(tmp_path, [System("m", "model", two, FACTS), *systems()[3:]]))
        assert "One training run each" not in both.words

    def test_page_shows_the_json_numbers(self, page: Page, summary: dict[str, Any]) -> None:
        for one in summary["systems"].values():
            for by_line in one["metrics"].values():
                for cells in by_line.values():
                    for cell in cells.values():
                        assert format_number(cell["value"]) in page.words

    def test_completions_are_the_same_items_whatever_the_order(self, page: Page, tmp_path: Path) -> None:
        shuffled = [
            System(one.name, one.kind, one.predictions.sample(frac=1, random_state=at), one.facts)
            for at, one in enumerate(systems())
        ]
        chosen = [
            [re.findall(r"about (\S+\|P\d+\|G\d+)", part) for part in each.words.split("Drawn at random")]
            for each in (page, Page(report(tmp_path, shuffled)))
        ]
        assert chosen[0] == chosen[1]
        most, drawn = chosen[0]
        assert len(set(most)) == N_MOST_DIFFERENT and len(most) == 2 * N_MOST_DIFFERENT
        assert len(set(drawn)) == 5 and len(drawn) == 15

    def test_items_that_differ_most(self, page: Page, summary: dict[str, Any]) -> None:
        found = summary["examples"]["most_different"]
        assert (found["a"], found["b"]) == ("SFT", "SFT+GRPO")
        rows = found["items"]
        gaps = [(abs(row["right_a"] - row["right_b"]), abs((row["p_a"] or 0) - (row["p_b"] or 0))) for row in rows]
        assert gaps[0][0] == 1 and gaps[0][1] > 0.5
        right = [gap[0] for gap in gaps]
        assert right == sorted(right, reverse=True)
        frames = [system.predictions.set_index("item_id") for system in systems()[1:3]]
        heard = (frames[0]["status"] != "error") & (frames[1]["status"] != "error")
        a, b = (frame["answer"] == frame["label"] for frame in frames)
        assert (found["n_a_only"], found["n_b_only"]) == ((a & ~b & heard).sum(), (b & ~a & heard).sum())
        assert f"SFT is right more often than SFT+GRPO on {found['n_a_only']} items" in page.words
        assert all(f"{row['pert']} knocked down, {row['gene']} read out" in page.words for row in rows)

    def test_equal_systems_differ_nowhere(self) -> None:
        same = prediction_arrays(predict(1.0, 1))
        assert most_different(("a", same), ("b", same)).items == []

    def test_completions_come_from_the_reader_and_only_for_the_items_shown(self, tmp_path: Path) -> None:
        asked: list[str] = []
        full = predict(1.0, 1)

        def read(item_ids: Sequence[str]) -> pd.DataFrame:
            asked.extend(item_ids)
            rows = full[full["item_id"].isin(item_ids)]
            later = rows.assign(sample=1, completion="second sample")
            return pd.concat([later, rows.assign(completion="read from the file")], ignore_index=True)

        given = [
            System("a", "model", full.drop(columns="completion"), FACTS, read),
            System("b", "model", predict(0.5, 2).assign(completion=None), FACTS),
        ]
        page = Page(report(tmp_path, given))
        assert len(asked) == len(set(asked)) <= 25
        assert page.words.count("read from the file") == 25
        assert page.words.count("(no completion was stored)") == 25
        assert "second sample" not in page.words

    def test_long_completion_says_how_much_is_hidden(self, tmp_path: Path) -> None:
        long = predict(1.0, 1).assign(completion="x" * (COMPLETION_LIMIT + 1234))
        assert "1,234 more characters" in Page(report(tmp_path, [System("m", "model", long, FACTS)])).words

    def test_stages_protocol_facts_and_commands(self, page: Page) -> None:
        for shown in (
            "rollout_engine",
            "vllm",
            "12.5",
            "decoding.greedy",
            "packages.torch",
            "synthpert eval --model x",
        ):
            assert shown in page.words


DIRECTION = FACTS | {"protocol": {"template": "direction"}}


def directed(frame: pd.DataFrame) -> pd.DataFrame:
    """The items that changed, each answered up or down by its probabilities."""
    changed = frame[frame["label"] != NAMES[2]].reset_index(drop=True)
    answer = np.where(changed["p_up"] >= changed["p_down"], NAMES[0], NAMES[1]).astype(object)
    answer[changed["status"] != "answered"] = None
    return changed.assign(answer=answer)


def asked_direction() -> list[System]:
    given = systems()
    facts = [DIRECTION] * 3 + [{}] * 2
    return [replace(one, predictions=directed(one.predictions), facts=facts[at]) for at, one in enumerate(given)]


@pytest.fixture(scope="module")
def directed_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tmp_path_factory.mktemp("direction"), asked_direction(), published=published_figures("official"))


@pytest.fixture(scope="module")
def told(directed_path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(directed_path.with_name("report.json").read_text(encoding="utf-8"))
    return loaded


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 12) if isinstance(value, float) else value


class TestDirectionAlone:
    """A report on models that were asked up or down is about that question and no other."""

    def test_the_metrics_are_those_of_direction(self, told: dict[str, Any]) -> None:
        assert (told["task"], told["primary"]) == ("dir", "dir_per_gene_auroc")
        for name, one in told["systems"].items():
            assert list(one["metrics"]) == list(one["strata"]) == list(one["roc"]) == ["dir"]
            cells = one["metrics"]["dir"]["all"]
            assert list(cells) == [metric.name for metric in metrics_of("dir", asked="dir")]
            frame = next(given.predictions for given in asked_direction() if given.name == name)
            frame = frame[frame["status"] != "error"]
            right = frame["answer"] == frame["label"]
            assert cells["dir_accuracy"]["value"] == pytest.approx(right.mean())
            by_label = right.groupby(frame["label"]).mean()
            assert len(by_label) == 2
            assert cells["dir_balanced_accuracy"]["value"] == pytest.approx(by_label.mean())
        assert {one["metric"] for one in told["comparisons"]} == set(compared_metrics(asked="dir"))
        assert {one["metric"] for one in told["exploratory"]} == {"dir_per_gene_auroc"}
        assert {row["task"] for row in told["published"]} == {"dir"}
        assert told["examples"]["most_different"]["b"] == "SFT+GRPO"

    def test_areas_are_those_of_a_report_on_three_classes(self, told: dict[str, Any]) -> None:
        three = [replace(one, facts=FACTS if one.kind == "model" else {}) for one in asked_direction()]
        other = summarized(three, strata=strata())
        assert other["task"] == "three_class"
        areas = [metric.name for metric in metrics_of("dir")]
        for name, one in other["systems"].items():
            for block in ("metrics", "strata"):
                for where, cells in one[block]["dir"].items():
                    now = told["systems"][name][block]["dir"][where]
                    assert {area: cells[area] for area in areas} == {area: now[area] for area in areas}
        before = [one for one in other["comparisons"] if one["metric"] in areas]
        assert before == [one for one in told["comparisons"] if one["metric"] in areas]

    def test_the_words_are_those_of_the_question(self, directed_path: Path) -> None:
        words = " ".join(directed_path.with_name("report.md").read_text(encoding="utf-8").split())
        assert "| upregulated | downregulated |" in words and "| not differentially expressed |" not in words
        for text in (Page(directed_path).words, words):
            assert "changes the expression of another. Does the knockdown raise or lower it?" in text
            assert "expression went up in " in text
            assert "On per-gene AUROC (direction), the primary metric, the strongest shortcut" in text
            assert "Direction: up or down, where expression changed" in text
            assert "Accuracy (direction): " in text and "Balanced accuracy (direction): " in text
            for other in ("(DE)", "three labels", "Three classes", "Differential expression", "Macro F1", "is “DE”"):
                assert other not in text, other

    @pytest.mark.parametrize("facts", [FACTS | {"tasks": ["dir"]}, DIRECTION])
    def test_items_that_did_not_change_are_left_out_and_counted(self, facts: dict[str, Any]) -> None:
        outside = System("outside", "model", predict(1.0, 9), facts)
        found = summarized([outside, *systems()[3:]], strata=strata())
        changed = [replace(one, predictions=one.predictions[one.predictions["label"] != NAMES[2]]) for one in systems()]
        alone = summarized(
            [replace(outside, predictions=predict(1.0, 9)[items()["label"] != NAMES[2]]), *changed[3:]], strata=strata()
        )
        n = int((items()["label"] == NAMES[2]).sum())
        assert found.pop("warnings")[0] == (
            f"The models answer the direction alone, so items whose expression did not change are left out ({n})."
        )
        assert alone.pop("warnings") == []
        assert rounded(found) == rounded(alone)  # sums are in another order

    def test_no_item_that_changed_is_an_error(self) -> None:
        frame = predict(1.0, 9)
        given = [System("outside", "model", frame[frame["label"] == NAMES[2]], FACTS | {"tasks": ["dir"]})]
        with pytest.raises(InputError, match="no item of 'outside' changed; evaluate items that are labelled up or"):
            summarized(given)


class TestChangeAlone:
    def test_a_report_on_models_that_answer_it_alone(self, tmp_path: Path) -> None:
        given = [System("outside", "model", predict(1.0, 9), FACTS | {"tasks": ["de"]}), *systems()[3:]]
        path = report(tmp_path, given, published=published_figures("official"))
        found = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
        assert (found["task"], found["primary"]) == ("de", "de_per_gene_auroc")
        assert {one["metric"] for one in found["comparisons"]} == {"de_per_gene_auroc", "de_auroc"}
        assert {row["task"] for row in found["published"]} == {"de"}
        assert all(list(one["metrics"]) == ["de"] for one in found["systems"].values())
        words = Page(path).words
        assert "does knocking down one gene (CRISPRi) change the expression of another?" in words
        assert "Balanced accuracy" not in words and "(direction)" not in words

    def test_of_models_that_answer_different_tasks_all_are_told(self) -> None:
        asked = [
            System(name, "model", predict(1.0, at), FACTS | {"tasks": [name]}) for at, name in enumerate(("de", "dir"))
        ]
        assert summarized(asked)["task"] == "three_class"
        assert summarized(systems()[3:])["task"] == "three_class"


class TestFingerprints:
    def test_equal_ones_raise_no_flag(self, page: Page) -> None:
        assert "Read this first" not in page.words

    def test_unequal_ones_are_flagged_before_any_number(self, tmp_path: Path) -> None:
        given = systems()[:2]
        given[1] = System("SFT", "model", given[1].predictions, {"fingerprint": "cd" * 32})
        path = report(tmp_path, given)
        words = Page(path).words
        assert "evaluated under different protocols" in words
        assert "SFT: cdcdcdcdcdcd" in words
        assert words.index("Read this first") < words.index("192 items")
        markdown = path.with_name("report.md").read_text(encoding="utf-8")
        assert markdown.index("Read this first") < markdown.index("192 items")

    def test_unknown_one_is_flagged(self, tmp_path: Path) -> None:
        given = [System("a", "model", predict(1.0, 1), FACTS), System("b", "model", predict(1.0, 2), {})]
        assert "No protocol fingerprint is known for b" in Page(report(tmp_path, given)).words


class TestPage:
    def test_needs_nothing_but_itself(self, page: Page, written: Path) -> None:
        assert [attributes for tag, attributes in page.elements if tag == "script"] == [{}]
        for tag, attributes in page.elements:
            assert tag not in ("link", "img", "iframe", "object", "embed")
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href", "xlink:href", "action"):
                assert (attributes.get(name) or "#").startswith("#")
        text = written.read_text(encoding="utf-8")
        assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text
        script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
        policy = next(str(attributes["content"]) for tag, attributes in page.elements if "http-equiv" in attributes)
        assert f"script-src 'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy
        assert policy.startswith("default-src 'none';")

    def test_every_table_names_its_rows(self, page: Page) -> None:
        assert len(page.tables) > 15
        for table in page.tables:
            stated = re.search(r"\((\d+) rows?\)", table["caption"])
            assert stated, table
            assert int(stated[1]) == table["rows"], table
            assert table["head"] == 1

    def test_headers_have_a_scope(self, page: Page) -> None:
        assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")

    def test_figures_have_text_alternatives(self, page: Page) -> None:
        ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
        assert max(ids.values()) == 1
        figures = [attributes for tag, attributes in page.elements if tag == "svg"]
        # Main differences, scores, all differences; two metrics by two lines and by three strata; ROC of two tasks,
        # reliability of three models; statuses.
        assert len(figures) == 3 * 3 + 2 * 2 + 2 * 3 + 2 + 3 + 1
        for attributes in figures:
            assert attributes["role"] == "img"
            for name in ("aria-labelledby", "aria-describedby"):
                assert attributes[name] in ids

    def test_links_point_somewhere(self, page: Page) -> None:
        ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
        assert {(attributes["href"] or "")[1:] for tag, attributes in page.elements if tag == "a"} <= ids

    @pytest.mark.usefixtures("drawn")
    def test_text_from_models_and_files_stays_text(self, tmp_path: Path) -> None:
        given = [
            System(HOSTILE, "model", predict(1.0, 1, completion=HOSTILE), {HOSTILE: HOSTILE, "command": HOSTILE}),
            System("m", "model", predict(1.0, 2), {"fingerprint": HOSTILE}),
            System(f"{HOSTILE}2", "baseline", predict(0.5, 3), {}),
        ]
        hostile = {HOSTILE: HOSTILE}
        figure = dict.fromkeys(("system", "cell_line", "source", "note", "value"), HOSTILE)
        path = report(
            tmp_path, given, title=HOSTILE, protocol=hostile,
            data=hostile | {"notes": [HOSTILE], "t": [hostile], "funnel": [hostile]},
            stages=[hostile | {"stage": HOSTILE}],
            published=[figure | {"task": "de", "metric": "de_per_gene_auroc"}],
        )  # fmt: skip
        page = Page(path)
        assert [tag for tag, _ in page.elements if tag in ("script", "img")] == ["script"]
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert page.words.count("<script>alert('x')</script>") > 20
        markdown = path.with_name("report.md").read_text(encoding="utf-8")
        assert "<script" not in markdown and "<img" not in markdown
        json.loads(path.with_name("report.json").read_text(encoding="utf-8"))

    def test_markdown_tables_are_rectangular(self, written: Path) -> None:
        block: list[int] = []
        for line in [*written.with_name("report.md").read_text(encoding="utf-8").splitlines(), ""]:
            if line.startswith("|"):
                block.append(len(re.findall(r"(?<!\\)\|", line)))
            elif block:
                assert len(block) > 2 and len(set(block)) == 1
                block = []

    def test_models_alone_baselines_alone_one_line(self, tmp_path: Path) -> None:
        for name, given in (("models", systems()[:1]), ("baselines", systems()[3:])):
            page = Page(report(tmp_path / name, given, data={}, protocol={}, stages=[]))
            assert "No protocol was recorded" in page.words
            assert "Which differences are significant" not in page.words
        one_line = [
            System(one.name, one.kind, one.predictions[one.predictions["cell_line"] == "rpe1"], one.facts)
            for one in systems()
        ]
        assert "By cell line." not in Page(report(tmp_path / "line", one_line)).words


class TestFiles:
    def test_a_failed_write_leaves_the_old_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = report(tmp_path, systems()[:1])
        before = path.read_bytes()

        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            report(tmp_path, systems()[:1], title="Another")
        assert path.read_bytes() == before
        assert sorted(file.name for file in tmp_path.iterdir()) == FILES

    def test_returns_the_page_and_makes_the_folder(self, tmp_path: Path) -> None:
        assert report(tmp_path / "a" / "b") == tmp_path / "a" / "b" / "report.html"


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file; numbers, lists and null as JSON would have them, all else as text."""

    def value(text: str) -> Any:
        if text == "":
            return None
        try:
            return json.loads(text)
        except ValueError:
            return text

    with path.open(encoding="utf-8", newline="") as file:
        return [{key: value(text) for key, text in row.items()} for row in csv.DictReader(file)]


class TestCsv:
    def test_scores_equal_the_json(self, written: Path, summary: dict[str, Any]) -> None:
        rows = read_csv(written.with_name("report.csv"))
        n_metrics = sum(len(metrics_of(task)) for task in TASKS)
        assert len(rows) == len(systems()) * n_metrics * (1 + len(LINES) + len(strata()))
        assert len({tuple(row[key] for key in ("system", "task", "scope", "where", "metric")) for row in rows}) == len(
            rows
        )
        for row in rows:
            one = summary["systems"][row["system"]]
            cell = one["strata" if row["scope"] == "stratum" else "metrics"][row["task"]][row["where"]][row["metric"]]
            assert row["scope"] == (
                "stratum" if row["where"] in strata() else "all" if row["where"] == "all" else "line"
            )
            assert row["kind"] == one["kind"] and row["n_seeds"] == len(one["seeds"])
            for key in ("value", "low", "high", "n", "n_perturbations", "n_genes", "n_genes_left_out", "reason"):
                assert row[key] == cell.get(key)

    def test_comparisons_equal_the_json(self, written: Path, summary: dict[str, Any]) -> None:
        rows = read_csv(written.with_name("comparisons.csv"))
        expected = [{"cell_line": "all", **one} for one in summary["comparisons"]] + summary["exploratory"]
        assert len(rows) == len(expected) == 9 * (len(compared_metrics()) + len(LINES))
        for row, one in zip(rows, expected, strict=True):
            assert {key: value for key, value in row.items() if value is not None} == {
                key: value for key, value in one.items() if value is not None
            }

    def test_names_with_separators_survive(self, tmp_path: Path) -> None:
        name = 'a,"b"\nc'
        path = report(tmp_path, [System(name, "model", predict(1.0, 1), FACTS), *systems()[3:]])
        assert {row["system"] for row in read_csv(path.with_name("report.csv"))} == {name, "gene rate", "neighbours"}


class TestPublished:
    def test_stands_beside_and_is_never_tested(self, tmp_path: Path) -> None:
        path = report(tmp_path, published=published_figures("official"))
        page = Page(path)
        assert page.words.count("GEARS") == 2 + page.words.count("GEARS;")  # a row per task, and the note that names it
        assert "Built and evaluated within one cell line" in page.words
        compared = {row["a"] for row in read_csv(path.with_name("comparisons.csv"))}
        assert compared == {"base", "SFT", "SFT+GRPO"}
        values = {row["system"]: row["value"] for row in published_figures("official") if row["cell_line"] == "k562"}
        assert str(values["GEARS"]) in page.words

    def test_none(self, page: Page) -> None:
        assert "ublished figures" not in page.words


class TestTrainingRuns:
    def test_seed_plots_stand_only_where_there_are_several_runs(self, page: Page, tmp_path: Path) -> None:
        assert not any((attributes.get("id") or "").startswith("seed") for _, attributes in page.elements)
        given = [System("a", "model", runs(0.5, 1), FACTS), System("b", "model", runs(1.5, 2), FACTS), *systems()[3:]]
        path = report(tmp_path, given)
        several = Page(path)
        ids = {attributes.get("id") for _, attributes in several.elements}
        assert {"seedscores-accuracy-title", "seeddifferences-accuracy-title"} <= ids
        assert "these items, new runs" in several.words and "these items, new runs" not in page.words
        one = json.loads(path.with_name("report.json").read_text())["comparisons"][0]
        assert format_p(one["p_same_items"]) in several.words


class TestWordsOfMetrics:
    def test_every_metric_has_a_name_and_a_definition(self) -> None:
        for task in TASKS:
            shown = [metric.name for group in metric_groups(task) for metric in group["metrics"]]
            assert sorted(shown) == sorted(metric.name for metric in metrics_of(task))
        assert all(metric.label and metric.definition.endswith(".") for metric in METRICS)
        assert len({metric.long_label for metric in METRICS}) == len(METRICS)

    def test_the_headline_metrics_say_what_no_knowledge_scores(self) -> None:
        for asked, names in HEADLINE.items():
            assert all(find_metric(name).chance for name in names)
            assert set(names) <= set(compared_metrics(asked=asked))

    def test_definitions_stand_on_the_page(self, page: Page) -> None:
        for task in TASKS:
            for group in metric_groups(task):
                for name, meaning in group["definitions"]:
                    assert name in page.words and " ".join(meaning.split()) in page.words

    def test_declared_family_and_power(self, page: Page) -> None:
        assert "Per-gene AUROC (DE) is the primary metric" in page.words
        assert "Within each metric, the 9 comparisons of two systems are one family" in page.words
        assert "Not run. With one sample an item" in page.words
        assert "There is no adjustment across metrics." in page.words


class TestAnotherMetric:
    """The recipe in CONTRIBUTING.md, acted out: one entry, and it is everywhere."""

    def test_one_entry_is_all_it_takes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def changed(confusion: Any) -> Any:
            return confusion[:, :2].sum() / confusion.sum()

        entry = Metric(
            "share_changed",
            "three_class",
            "Share called changed",
            "Share of items answered “upregulated” or “downregulated”. Lower is better.",
            of_confusion(changed),
            higher_is_better=False,
            compared=True,
        )
        monkeypatch.setattr(metrics, "METRICS", (*METRICS, entry))
        a, b = systems()[1].predictions, systems()[0].predictions
        expected = [float((one["answer"].isin(NAMES[:2])).mean()) for one in (a, b)]
        alone = compare(a, b, "share_changed")
        assert (alone.value_a, alone.value_b) == pytest.approx(expected)
        assert alone.low < alone.difference < alone.high
        far = equivalence(alone, 2.0)  # beyond what it can differ by
        assert far.p_no_worse < 0.05

        path = report(tmp_path)
        found = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
        cell = found["systems"]["SFT"]["metrics"]["three_class"]["k562"]["share_changed"]
        assert cell["low"] < cell["value"] < cell["high"]
        pairs = [one for one in found["comparisons"] if one["metric"] == "share_changed"]
        assert len(pairs) == 9
        assert {row["metric"] for row in read_csv(path.with_name("report.csv"))} >= {"share_changed"}
        page, markdown = Page(path), path.with_name("report.md").read_text(encoding="utf-8")
        for text in (page.words, markdown):
            assert f"{entry.label}" in text and entry.definition in text
        assert "Share called changed lower is better" in page.words
        assert re.search(r"\| System \(5 rows\) \| Items \|.*\| Share called changed \|", markdown)
        assert "| SFT | 192 |" in markdown and format_number(expected[0]) in markdown


class TestChallengeScore:
    def test_it_stands_in_reports_on_the_challenge_alone(self, tmp_path: Path) -> None:
        elsewhere = report(tmp_path / "a", published=[]).with_name("report.json").read_text(encoding="utf-8")
        assert "challenge_score" not in elsewhere
        path = report(tmp_path / "b", data={"source": bioreasoning.SCREEN})
        found = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
        cell = found["systems"]["SFT"]["metrics"]["three_class"]["all"]["challenge_score"]
        parts = [found["systems"]["SFT"]["metrics"][task]["all"][f"{task}_auroc"]["value"] for task in ("de", "dir")]
        assert cell["value"] == pytest.approx(sum(parts) / 2)
        assert cell["low"] < cell["value"] < cell["high"] and cell["n"] == len(items())
        assert len([one for one in found["comparisons"] if one["metric"] == "challenge_score"]) == 9
        for text in (Page(path).words, path.with_name("report.md").read_text(encoding="utf-8")):
            assert "What the BioReasoning Challenge ranks by: the mean of two pooled AUROCs." in text


PROTOCOL = {"template": "three_class", "max_tokens": 96, "items": 0, "item_seed": 0}
FEW = 40


def first(n: int) -> list[str]:
    """The first items of an order that has nothing to do with their perturbations, genes and lines."""
    return list(items().sample(frac=1, random_state=3)["item_id"].iloc[:n])


def with_few_for_base() -> list[System]:
    """Three models and two shortcuts; base was asked a subset of the others' items."""
    given = systems()
    frame = given[0].predictions
    facts = FACTS | {"protocol": PROTOCOL | {"items": 20}, "protocol_fingerprint": "cd" * 32}
    few = System("base", "model", frame[frame["item_id"].isin(first(FEW))].reset_index(drop=True), facts)
    rest = [replace(one, facts={**one.facts, "protocol": PROTOCOL}) for one in given[1:]]
    return [few, *rest]


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tmp_path_factory.mktemp("pairwise"), with_few_for_base(), pairwise=True)


@pytest.fixture(scope="module")
def found(unequal: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(unequal.with_name("report.json").read_text(encoding="utf-8"))
    return loaded


class TestPairwise:
    @pytest.mark.usefixtures("drawn")
    def test_same_input_same_bytes_whether_or_not_pairs_have_their_own_items(
        self, written: Path, tmp_path: Path
    ) -> None:
        again = report(tmp_path, pairwise=True)
        for name in FILES:
            assert again.with_name(name).read_bytes() == written.with_name(name).read_bytes()

    def test_scores_are_those_of_a_report_on_its_own_items(
        self, found: dict[str, Any], summary: dict[str, Any], tmp_path: Path
    ) -> None:
        base = with_few_for_base()[0]
        alone = json.loads(report(tmp_path, [base]).with_name("report.json").read_text(encoding="utf-8"))
        assert found["systems"]["base"] == approximately({**alone["systems"]["base"], "n_items": FEW})
        for name in ("SFT", "SFT+GRPO", "gene rate", "neighbours"):
            assert "n_items" not in found["systems"][name]
            for key in ("metrics", "strata", "status", "reliability", "roc"):
                assert found["systems"][name][key] == approximately(summary["systems"][name][key])

    def test_comparisons_are_on_the_shared_items_and_one_family(
        self, found: dict[str, Any], summary: dict[str, Any]
    ) -> None:
        frames = {system.name: system.predictions for system in with_few_for_base()}
        for one, before in zip(found["comparisons"], summary["comparisons"], strict=True):
            assert (one["a"], one["b"], one["metric"]) == (before["a"], before["b"], before["metric"])
            if "base" not in (one["a"], one["b"]):
                assert {**one, "p_holm": 0} == approximately({**before, "p_holm": 0})
                continue
            alone = compare(frames[one["a"]], frames[one["b"]], one["metric"], missing="drop")
            assert (one["n_items"], one["n_missing"]) == (alone.n_items, 192 - FEW)
            for key in ("difference", "low", "high", "p_value", "value_a", "value_b"):
                assert one[key] == approximately(getattr(alone, key)), key
        for metric in compared_metrics():
            family = [one for one in found["comparisons"] if one["metric"] == metric]
            p = [np.nan if one["p_value"] is None else one["p_value"] for one in family]
            assert [np.nan if one["p_holm"] is None else one["p_holm"] for one in family] == pytest.approx(
                adjust(p), nan_ok=True
            )

    def test_lines_are_compared_on_the_shared_items(self, found: dict[str, Any]) -> None:
        frames = {system.name: system.predictions for system in with_few_for_base()}
        n = {line: int((frames["base"]["cell_line"] == line).sum()) for line in LINES}
        rows = [row for row in found["exploratory"] if (row["a"], row["b"]) == ("SFT", "base")]
        assert {row["cell_line"]: row["n_missing"] for row in rows} == {line: 96 - n[line] for line in LINES}

    def test_denominators_are_of_all_items(self, found: dict[str, Any], summary: dict[str, Any]) -> None:
        by_line = {row["cell_line"]: row for row in found["evaluated"]}
        assert by_line == {row["cell_line"]: row for row in summary["evaluated"]}
        cells = found["systems"]["base"]["metrics"]["three_class"]
        assert cells["all"]["accuracy"]["n"] == FEW == sum(cells[line]["accuracy"]["n"] for line in LINES)

    def test_nobody_takes_few_items_for_all(self, unequal: Path, found: dict[str, Any]) -> None:
        page, markdown = Page(unequal), unequal.with_name("report.md").read_text(encoding="utf-8")
        warning = "Not every system was asked all 192 items (base: 40)."
        assert found["warnings"][0].startswith(warning)
        assert len(found["warnings"]) == 1
        for text in (page.words, markdown):
            assert text.index(warning) < text.index("In one minute")
            assert "Together they were asked 192 items" in text and "asked the same" not in text
            assert "SFT against base (40 shared items):" in text
            assert "SFT+GRPO against SFT:" in text
            assert "The best model that was asked all items, SFT" in text
            assert "152 not shared" in text
            assert "paired on the items that both were asked" in text
            assert "SFT (" not in text
        # Beside its name in every row: fingerprints, scores, statuses and tokens.
        assert page.words.count("40 of 192 items") > 10
        rows = [line for line in markdown.splitlines() if line.startswith("| base")]
        assert len(rows) > 4 and all(line.startswith("| base (40 of 192 items)") for line in rows)
        labels = re.findall(r"<text[^>]*>([^<]*)</text>", unequal.read_text(encoding="utf-8"))
        assert "base (40 of 192 items)" in labels and "SFT vs base (40 shared)" in labels
        assert "SFT+GRPO vs SFT" in labels

    def test_the_best_model_is_one_that_was_asked_all(self) -> None:
        given = with_few_for_base()
        perfect = given[0].predictions.assign(answer=given[0].predictions["label"], status="answered")
        perfect[["p_up", "p_down", "p_none"]] = np.eye(3)[perfect["label"].map(NAMES.index)]
        best_of = [replace(given[0], predictions=perfect), *given[1:3]]
        found = summarize(best_of, title="t", protocol={}, data={}, pairwise=True)
        assert found.score("base", "accuracy").value == 1
        assert found.best("accuracy", "model") != ("base", 1.0)
        alone = [replace(given[0], predictions=perfect), *given[3:]]
        only = summarize(alone, title="t", protocol={}, data={}, pairwise=True)
        assert only.best("accuracy", "model") == ("base", 1.0)
        assert "The best model, base (40 of 192 items), scores 1.000" in " ".join(strongest_shortcuts(only))

    def test_a_line_and_a_stratum_that_a_system_was_not_asked(self, tmp_path: Path) -> None:
        given = with_few_for_base()
        frame = given[0].predictions
        given[0] = replace(given[0], predictions=frame[(frame["cell_line"] == "k562") & (frame["pert"] < "P2")])
        path = report(tmp_path, given, pairwise=True)
        found = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
        base = found["systems"]["base"]
        assert base["metrics"]["three_class"]["rpe1"]["accuracy"]["reason"] == "no item to score"
        row = next(one for one in found["exploratory"] if (one["cell_line"], one["b"]) == ("rpe1", "base"))
        assert row["test"] == "not tested: no item in common"
        assert "no item in common" in Page(path).words

    def test_examples_are_items_that_all_models_were_asked(self, found: dict[str, Any]) -> None:
        assert {one["item_id"] for one in found["examples"]["random"]} <= set(first(FEW))
        two = with_few_for_base()[:2]
        pair = summarized(two, pairwise=True)["examples"]["most_different"]
        assert {one["item_id"] for one in pair["items"]} <= set(first(FEW))
        a, b = (one.predictions.set_index("item_id") for one in two)
        b = b.loc[a.index]
        assert pair["n_b_only"] == int(((b["answer"] == b["label"]) & (a["answer"] != a["label"])).sum())

    def test_models_without_a_common_item(self, tmp_path: Path) -> None:
        given = with_few_for_base()
        other = given[1].predictions
        given[1] = replace(given[1], predictions=other[~other["item_id"].isin(first(FEW))])
        path = report(tmp_path, [given[0], given[1], *given[3:]], pairwise=True)
        words = Page(path).words
        assert "(base: 40, SFT: 152)" in words
        assert "SFT against base (no shared item): not testable" in words
        assert "no item in common" in words
        assert "SFT against base (no shared item)" in path.with_name("report.md").read_text(encoding="utf-8")
        found = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
        assert found["examples"]["random"] == []
        assert [one["items"] for one in found["evaluated"]] == [96, 96, 192]

    def test_training_runs(self) -> None:
        several = runs(1.5, 2)
        given = [with_few_for_base()[0], System("SFT", "model", several, FACTS), *systems()[3:]]
        found = summarized(given, pairwise=True)
        alone = compare(several, given[0].predictions, missing="drop")
        one = next(one for one in found["comparisons"] if (one["a"], one["metric"]) == ("SFT", "accuracy"))
        assert (one["n_seeds"], one["n_missing"]) == (3, 192 - FEW)
        assert one["per_seed"] == approximately(list(alone.per_seed))
        assert one["p_value"] == approximately(alone.p_value)

    def test_which_items_were_asked_is_no_other_protocol_and_all_else_is_named(self) -> None:
        given = with_few_for_base()[:2]
        with_items = summarized(given, pairwise=True)["warnings"]
        assert not any("protocol" in warning for warning in with_items)
        shorter = PROTOCOL | {"max_tokens": 48, "temperature": 1.0}
        given[1] = replace(given[1], facts={**given[1].facts, "protocol": shorter, "protocol_fingerprint": "ef" * 32})
        warning = next(one for one in summarized(given, pairwise=True)["warnings"] if "protocol" in one)
        assert "different protocols (max_tokens, temperature), so" in warning
        assert "SFT: efefefefefef" in warning
        # Where a protocol is not recorded, its fingerprint is all there is to compare.
        given[1] = replace(given[1], facts={"protocol_fingerprint": "ef" * 32})
        assert any("different protocols, so" in one for one in summarized(given, pairwise=True)["warnings"])

    def test_without_it_fingerprints_are_compared_as_they_are(self) -> None:
        given = systems()[:2]
        given[0] = replace(given[0], facts=with_few_for_base()[0].facts)
        warnings = summarized(given)["warnings"]
        assert len(warnings) == 1 and "under different protocols, so" in warnings[0]


def approximately(value: Any) -> Any:
    """Equal but for the last digits of sums in another order; NaN and None alike."""
    if isinstance(value, dict):
        return {key: approximately(one) for key, one in value.items()}
    if isinstance(value, list):
        return [approximately(one) for one in value]
    if isinstance(value, float):
        return None if np.isnan(value) else pytest.approx(value, rel=1e-9, abs=1e-12)
    return value


UNKNOWN = dict.fromkeys(("answer", "p_up", "p_down", "p_none"), None)


@pytest.mark.filterwarnings("error")
class TestLittleToSay:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda frame: frame.iloc[:1], "no interval from one perturbation"),
            (lambda frame: frame.iloc[:3], "the same 3 items"),
            (lambda frame: frame[frame["label"] == NAMES[2]], "needs differentially expressed items and others"),
            (lambda frame: frame[frame["label"] == NAMES[0]], "needs items up and down"),
            (lambda frame: frame.assign(status="error", **UNKNOWN), "no item to score"),
            (lambda frame: frame.assign(status="malformed", **UNKNOWN), "no probabilities"),
        ],
        ids=["one item", "three items", "unchanged only", "up only", "errors only", "no answer"],
    )
    def test_says_so(self, change: Callable[[pd.DataFrame], pd.DataFrame], said: str, tmp_path: Path) -> None:
        given = [System(f"m{at}", "model", change(predict(1.0, at)), FACTS) for at in range(2)]
        given.append(System("b", "baseline", change(predict(0.5, 9)), {}))
        assert said in Page(report(tmp_path, given, strata=None)).words


class TestBadInput:
    def test_stratum_that_leaves_an_item_out(self, tmp_path: Path) -> None:
        short = {"known": strata()["known"].iloc[1:]}
        with pytest.raises(InputError, match=r"stratum 'known' says nothing of item 'k562.P0.G0'"):
            report(tmp_path, strata=short)
        assert not list(tmp_path.iterdir())

    def test_systems_on_other_items(self, tmp_path: Path) -> None:
        given = systems()
        given[1] = System("SFT", "model", given[1].predictions.iloc[1:], FACTS)
        with pytest.raises(InputError, match=r"SFT lacks 1 of base's items, e\.g\. 'k562.P0.G0'"):
            report(tmp_path, given)
        assert not list(tmp_path.iterdir())

    def test_names_and_kinds(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no systems"):
            report(tmp_path, [])
        with pytest.raises(InputError, match="two systems are called 'base'"):
            report(tmp_path, [systems()[0], systems()[0]])
        with pytest.raises(InputError, match="of kind 'teacher'"):
            report(tmp_path, [System("t", "teacher", predict(1.0, 1), {})])  # type: ignore[arg-type]

    def test_bad_frame_names_the_system(self, tmp_path: Path) -> None:
        bad = predict(1.0, 1).assign(label="up")
        with pytest.raises(InputError, match=r"SFT, row 0 .*label 'up' is unknown"):
            report(tmp_path, [System("SFT", "model", bad, {})])


class TestFormats:
    @pytest.mark.parametrize(
        ("value", "signed", "text"),
        [
            (0.12345, False, "0.123"),
            (-0.0001, True, "0.000"),
            (0.5, True, "+0.500"),
            (-0.5, True, "\N{MINUS SIGN}0.500"),
            (None, False, "\N{EN DASH}"),
        ],
    )
    def test_numbers(self, value: float | None, signed: bool, text: str) -> None:
        assert format_number(value, signed=signed) == text

    def test_reasons_name_the_systems(self) -> None:
        assert reason_in_words("not tested: a: no probabilities; b: none", "x", "y") == "x: no probabilities; y: none"
        assert reason_in_words("two-way; one run", "x", "y") == "two-way; one run"

    def test_shares_are_never_rounded_to_all_or_none(self) -> None:
        assert [format_share(share) for share in (0, 0.0001, 0.5, 0.9999, 1)] == [
            "0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %",
        ]  # fmt: skip

    def test_p(self) -> None:
        assert [format_p(p) for p in (0.0001, 0.05, None)] == ["< 0.001", "0.050", "\N{EN DASH}"]

    def test_markdown_text_is_one_line_without_markup(self) -> None:
        assert markdown_text("a|b\n# <i>*c*") == r"a\|b \# &lt;i&gt;\*c\*"
