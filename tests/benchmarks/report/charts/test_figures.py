"""Figures: which numbers their panels hold, and that a drawn panel is text, self-contained and the same each time."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from benchmarks.report.charts import figures
from benchmarks.report.charts.drawing import COLOURS, draw
from benchmarks.report.charts.panels import Bars, Curve, Curves, Intervals, Panel, Row
from benchmarks.report.charts.training import DRAWN, read_log
from benchmarks.report.page import TEMPLATES
from benchmarks.report.summarize import System, summarize
from benchmarks.report.summary import Summary
from benchmarks.report.wording import cautions, headline, n_tested, untested
from rewards import LABELS, InputError

NAMES = [str(label) for label in LABELS]
HOSTILE = '<b>$x_1$</b> & "q" ]]> id="m1" #0072b2 \x00\x1b\n漢'


def predictions(skill: float, seed: int, n_runs: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame([(f"P{p}", f"G{g}") for p in range(12) for g in range(8)], columns=["pert", "gene"])
    frame["item_id"] = "k562|" + frame["pert"] + "|" + frame["gene"]
    label = np.random.default_rng(0).integers(3, size=len(frame))
    frame = pd.concat([frame.assign(label=np.array(NAMES)[label], cell_line="k562", seed=at) for at in range(n_runs)])
    prob = rng.dirichlet([1, 1, 1], len(frame)) + skill * np.eye(3)[np.tile(label, n_runs)]
    prob /= prob.sum(axis=1, keepdims=True)
    return frame.assign(
        sample=0, status="answered", answer=np.array(NAMES)[prob.argmax(axis=1)], p_up=prob[:, 0], p_down=prob[:, 1],
        p_none=prob[:, 2],
    ).reset_index(drop=True)  # fmt: skip


def summary_of(*systems: tuple[str, float], baselines: int = 2, stages: Any = (), n_runs: int = 1) -> Summary:
    given = [System(name, "model", predictions(skill, at, n_runs), {}) for at, (name, skill) in enumerate(systems)]
    given += [System(f"shortcut {at}", "baseline", predictions(0.2 * at, 50 + at), {}) for at in range(baselines)]
    return summarize(given, title="t", protocol={}, data={}, stages=stages)


@pytest.fixture(scope="module")
def two() -> Summary:
    return summary_of(("base", 0.0), ("SFT", 1.0))


def rows_of(panel: Panel) -> list[Row]:
    assert isinstance(panel, Intervals)
    return list(panel.rows)


class TestWhatIsShown:
    def test_the_main_figure_holds_models_and_the_strongest_shortcut_of_each_metric(self, two: Summary) -> None:
        main = figures.main_figure(two)
        assert main is not None
        for panel, metric in zip(main.panels, two.headline, strict=True):
            best = two.best(metric, "baseline")
            assert best is not None
            rows = rows_of(panel)
            labels = [(row.label, row.against) for row in rows]
            assert labels == [("SFT", "vs base"), ("base", f"vs {best[0]}"), ("SFT", f"vs {best[0]}")]
            assert [row.diamond for row in rows] == [False, True, True]
            result = two.find("SFT", "base", metric).result
            assert (rows[0].value, rows[0].low, rows[0].high) == (result.difference, result.low, result.high)
            assert rows[0].solid == (result.p_holm < 0.05)

    def test_where_nothing_was_compared_there_is_none(self) -> None:
        alone = summary_of(baselines=2)
        assert figures.main_figure(alone) is None and figures.difference_figure(alone) is None
        assert len(figures.score_figure(alone).panels) == len(alone.headline)

    def test_of_many_models_the_best_alone_stands_against_the_shortcut(self) -> None:
        many = summary_of(*((f"m{at}", 0.2 * at) for at in range(6)))
        main = figures.main_figure(many)
        assert main is not None
        shortcuts = [row for row in rows_of(main.panels[1]) if row.diamond]
        best = many.best(many.headline[1], "model")
        assert best is not None and [row.label for row in shortcuts] == [best[0]]

    def test_all_differences_are_in_their_own_figure(self, two: Summary) -> None:
        figure = figures.difference_figure(two)
        assert figure is not None
        assert [bool(row.colour) for row in rows_of(figure.panels[0])] == [False, True, False, True, True, True, True]

    def test_training_runs_are_points(self) -> None:
        several = summary_of(("base", 0.0), ("SFT", 1.0), n_runs=3)
        scores, differences = figures.seed_figures(several)
        for panel in (*scores.panels, *differences.panels):
            assert all(len(row.points) == 3 for row in rows_of(panel))
            assert "Training runs:" in panel.description

    def test_panels_of_one_figure_share_a_scale(self) -> None:
        frame = predictions(1.0, 1)
        both = pd.concat([frame, frame.assign(cell_line="rpe1", item_id=frame["item_id"].str.replace("k562", "rpe1"))])
        lines = summarize([System("m", "model", both, {})], title="t", protocol={}, data={})
        for figure in figures.part_figures(lines):
            assert len({panel.bounds for panel in figure.panels if isinstance(panel, Intervals)}) == 1

    def test_the_reward_over_the_steps_of_every_training_run(self) -> None:
        log = [{"step": at, "reward": 0.1 * at, "reward_std": 0.5, "zero_variance_groups": 0.25} for at in range(1, 4)]
        stages = [
            {"stage": "sft", "run": "runs/a/sft", "log": [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 1.5}]},
            {"stage": "grpo", "run": "runs/a/one", "log": log},
            {"stage": "grpo", "run": "runs/a/two", "log": log},
            {"stage": "grpo", "run": "runs/a/without"},
        ]
        sft, one, two = figures.training_figures(summary_of(("m", 1.0), stages=stages))
        assert [panel.title for panel in sft.panels] == ["Loss"]
        assert "3.000 at step 2, 1.500 at step 4" in sft.panels[0].description
        assert [panel.title for panel in one.panels] == [DRAWN["grpo"][at].title for at in (0, 3)]
        reward = one.panels[0]
        assert isinstance(reward, Curves)
        assert reward.curves[0].points == [(at, pytest.approx(0.1 * at)) for at in range(1, 4)]
        assert reward.curves[0].band == [(pytest.approx(0.1 * at - 0.5), 0.1 * at + 0.5) for at in range(1, 4)]
        assert one.title == "GRPO run runs/a/one: 3 logged steps, the last is step 3" and "run runs/a/two" in two.title
        names = [panel.name for figure in (sft, one, two) for panel in figure.panels]
        assert len(set(names)) == len(names)

    def test_seeds_of_one_configuration_share_a_figure(self) -> None:
        def log(*accuracies: float) -> list[dict[str, float]]:
            return [
                {"step": 10 * at, "eval_held_out_accuracy": one, "eval_greedy_accuracy": 0.8}
                for at, one in enumerate(accuracies)
            ]

        stages = [
            {"stage": "grpo", "run": f"s/seed-{seed}/grpo", "alike": alike, "log": log(*accuracies)}
            for seed, alike, accuracies in [(0, "a", (0.5, 0.7)), (1, "a", (0.6, 0.9, 0.9)), (0, "b", (0.1,))]
        ]
        both, other = figures.training_figures(summary_of(("m", 1.0), stages=stages))
        assert both.title.startswith(
            "GRPO runs s/seed-0/grpo, s/seed-1/grpo, their mean and a band from lowest to high"
        )
        (panel,) = both.panels
        assert isinstance(panel, Curves)
        sampled, greedy = panel.curves
        assert sampled.points == [(0, pytest.approx(0.55)), (10, pytest.approx(0.8))]  # step 20 has one run only
        assert list(sampled.band) == [(0.5, 0.6), (0.7, 0.9)]
        assert (sampled.label, greedy.label) == ("sampled", "greedy")
        assert other.title.startswith("GRPO run s/seed-0/grpo:")


class TestCautions:
    def test_traces_that_were_not_audited(self) -> None:
        audit = {"clean": True, "not_audited": {"no prompt quotes a test label": 1200}}
        stages = [{"stage": "sft", "audit": audit}, {"stage": "grpo", "sft_audit": audit}]
        told = [one for one in cautions(summary_of(("m", 1.0), stages=stages)) if "audit" in one]
        assert told == ["The audit could not check of 1,200 training traces that no prompt quotes a test label."]
        clean = summary_of(("m", 1.0), stages=[{"stage": "sft", "audit": {"clean": True, "checks": {}}}])
        assert not any("audit" in one for one in cautions(clean))

    def test_a_primary_metric_over_few_genes(self, two: Summary) -> None:
        many = replace(two, evaluated=[replace(row, perturbations=300, genes=300) for row in two.evaluated])
        (told,) = [one for one in cautions(many) if "uncertain" in one]
        assert told == (
            "Per-gene AUROC (DE), the primary metric, is a mean over only 8 genes, those with both classes. With fewer "
            "than 20, its intervals are uncertain."
        )


class TestVerdict:
    def test_of_few_models_each_pair(self, two: Summary) -> None:
        first, second = headline(two)
        assert first.startswith("Significant differences between models: SFT is higher than base on ")
        best = two.best(two.primary, "baseline")
        assert best is not None
        assert second.startswith(
            f"On per-gene AUROC (DE), the primary metric, the strongest shortcut ({best[0]}) scores {best[1]:.3f}. "
            "The best model (SFT) scores "
        )

    def test_equal_models_differ_nowhere(self) -> None:
        same = summary_of(("a", 0.0), ("b", 0.0), baselines=0)
        assert headline(same)[0] == "No difference is shown between b and a."

    def test_of_many_models_a_count(self) -> None:
        many = summary_of(*((f"m{at}", 0.0) for at in range(5)), baselines=0)
        assert headline(many)[0].startswith(
            "Between each model and the one before it, none of 4 differences is significant"
        )

    def test_what_the_first_figure_cannot_test_has_its_reason_and_is_not_counted(self, two: Summary) -> None:
        """The other shortcut has no probabilities either, but the first figure does not show it."""
        columns = ["p_up", "p_down", "p_none"]
        given = [
            System("base", "model", predictions(0.0, 1).assign(**dict.fromkeys(columns, np.nan)), {}),
            System("SFT", "model", predictions(1.0, 2), {}),
            System("known", "baseline", predictions(0.9, 3), {}),
            System("mute", "baseline", predictions(0.0, 4).assign(**dict.fromkeys(columns, np.nan)), {}),
        ]
        summary = summarize(given, title="t", protocol={}, data={})
        assert untested(summary) == ["Not tested on per-gene AUROC (DE): base: no probabilities."]
        assert n_tested(summary) == "1 to 5 tested comparisons"
        assert untested(two) == [] and n_tested(two) == "5 tested comparisons"

    def test_shortcuts_alone(self) -> None:
        (only,) = headline(summary_of())
        assert "the strongest shortcut (shortcut" in only and "model" not in only


INTERVALS = Intervals(
    "some-panel", f"Title {HOSTILE}", HOSTILE, f"What it shows {HOSTILE}",
    [
        Row("a heading"),
        Row(f"first {HOSTILE}", f"vs {HOSTILE} " + "x" * 60, "m0", 0.1, -0.2, 0.4, text=f"tip {HOSTILE}"),
        Row("no interval", "", "shortcut", 0.2, diamond=True, solid=False, points=(0.1, 0.3)),
        Row("unknown", "", "m1"),
    ],
    0.0, "no difference", signed=True,
)  # fmt: skip
ROC = Curves(
    "roc", "Square", "note", "d", [Curve("a", "m2", [(0, 0), (0.2, 0.8), (1, 1)], "tip", 1)], "x", "y", square=True
)
STEPS = Curves(
    "steps",
    "Steps",
    "",
    "d",
    [Curve("", "m3", [(1, 0.5), (9, 0.7)], "tip", sizes=(2, 2), band=((0.4, 0.6), (0.5, 0.9)))],
    "step",
)
BARS = Bars("bars", "Bars", "", "d", [("a", "60.0 %", [("answered", 0.6, "t"), ("error", 0.4, "u")])],
    {"answered": "m0", "error": "m5"})  # fmt: skip


class Words(HTMLParser):
    """An SVG as a browser's HTML parser takes it: elements with attributes, and the text of each."""

    def __init__(self, svg: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(svg)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


class TestDrawing:
    @pytest.mark.parametrize("panel", [INTERVALS, ROC, STEPS, BARS], ids=lambda panel: panel.name)
    def test_a_panel_needs_nothing_and_is_the_same_each_time(self, panel: Panel) -> None:
        svg = draw(panel)
        assert draw(panel) == svg
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(set(ids)) == len(ids) and all(str(one).startswith(f"{panel.name}-") for one in ids)
        for element in root.iter():
            assert element.tag in {"svg", "title", "desc", "g", "path", "defs", "use", "text"}
            if reference := element.get("href"):
                assert reference[1:] in ids
            colours = set(re.findall(r"#[0-9a-f]{6}", element.get("style") or ""))
            assert not colours, "a colour that does not follow the page's"
        assert "url(" not in svg and "http" not in svg and "font-family" not in svg and "clip" not in svg

    def test_text_stays_text(self) -> None:
        page = Words(draw(INTERVALS))
        assert not {tag for tag, _ in page.elements} & {"b", "script"}
        shown = '<b>$x_1$</b> & "q" ]]> id="m1" #0072b2 漢'
        for start in ("Title ", "What it shows ", "tip "):
            assert any(f"{start}{shown}" in text for text in page.texts), start
        assert "unknown" in page.texts and "no value" in page.texts and "a heading" in page.texts
        assert "+0.40" in page.texts and "\N{MINUS SIGN}0.20" in page.texts

    def test_what_is_cut_off_is_whole_in_the_tooltip(self) -> None:
        page = Words(draw(INTERVALS))
        assert any(text.endswith("…") for text in page.texts)
        assert any("x" * 60 in text for text in page.texts)

    def test_every_run_has_a_mark(self) -> None:
        def marks(points: tuple[float, ...]) -> int:
            panel = Intervals("p", "t", "", "d", [Row("a", "", "m0", 0.2, text="tip", points=points)], 0.0, "")
            return draw(panel).count("<title>tip</title>")

        assert marks((0.1, 0.2, 0.3)) == marks(()) + 3

    def test_colours_are_those_of_the_style_sheet(self) -> None:
        css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
        light = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", css[: css.index("@media")]))
        assert {name: light[name] for name in COLOURS} == COLOURS

    def test_the_name_says_of_which_figure(self) -> None:
        assert '<title id="roc-title">Curves: Square</title>' in draw(ROC, "Curves")

    def test_nothing_known(self) -> None:
        nothing = Intervals("p", "t", "0 items", "d", [Row("a", "", "m0")], 0.5, "chance")
        assert "no value" in draw(nothing)


class TestLog:
    def test_steps_with_what_is_drawn(self, tmp_path: Path) -> None:
        entries: list[dict[str, Any]] = [
            {"eval_kl": 0.25, "step": 1},
            {"reward": 1.0, "reward_std": 0.5, "kl": 0.1, "step": 1},
            {"reward": float("nan"), "answered_accuracy": 0.25, "step": 2},
            {"train_runtime": 3.0, "step": 2},
        ]
        lines = "\n".join(json.dumps(entry) for entry in entries)
        (tmp_path / "log.jsonl").write_text(f"{lines}\n", encoding="utf-8")
        assert read_log(tmp_path, "grpo") == [
            {"step": 1, "eval_kl": 0.25, "reward": 1.0, "reward_std": 0.5},
            {"step": 2, "answered_accuracy": 0.25},
        ]
        assert read_log(tmp_path, "eval") == []

    def test_none(self, tmp_path: Path) -> None:
        assert read_log(tmp_path, "sft") == []

    def test_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "log.jsonl").write_text('{"loss": 1.0, "step": 1}\n{"loss"', encoding="utf-8")
        with pytest.raises(InputError, match=r"log.jsonl, line 2: not a JSON object; remove the line"):
            read_log(tmp_path, "sft")
