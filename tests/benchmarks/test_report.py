"""The report's numbers, words and page: what is shown, that it stays text, and that it needs nothing but itself."""

import json
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.figures import axis_ticks
from benchmarks.metrics import TASK_METRICS
from benchmarks.report import COMPLETION_LIMIT, System, markdown_text, write_report
from benchmarks.significance import compare
from benchmarks.summary import COMPARED, summarize
from benchmarks.wording import format_number, format_p, format_share
from rewards import LABELS, InputError

NAMES = [str(label) for label in LABELS]
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"&|`"
LINES = ("k562", "rpe1")
FACTS = {"protocol_fingerprint": "ab" * 32, "packages": {"torch": "2.13.0"}, "command": "synthpert eval --model x"}


def items() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    grid = [(line, f"P{p}", f"G{g}") for line in LINES for p in range(12) for g in range(8)]
    frame = pd.DataFrame(grid, columns=["cell_line", "pert", "gene"])
    frame["item_id"] = frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"]
    return frame.assign(label=rng.choice(NAMES, size=len(frame), p=[0.2, 0.2, 0.6]))


def predict(
    skill: float, seed: int, *, answered: float = 1.0, error: float = 0.0, completion: str = ""
) -> pd.DataFrame:
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


def report(out: Path, given: list[System] | None = None, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "title": "A test",
        "protocol": {"template": "three_class/1", "decoding": {"greedy": True}},
        "data": {"source": "sample", "is_sample": True, "notes": ["A note."], "rows": [{"line": "k562", "n": 96}]},
        "stages": [{"stage": "sft", "seconds": 12.5}, {"stage": "grpo", "rollout_engine": "vllm"}],
    }
    return write_report(systems() if given is None else given, out, **(arguments | changes))


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
        if "style" not in self.open:
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
            for task, metrics in TASK_METRICS.items():
                assert set(one["metrics"][task]) == {"all", *LINES}
                for by_metric in one["metrics"][task].values():
                    assert set(by_metric) == set(metrics)
                    assert all({"value", "low", "high", "n"} <= set(cell) for cell in by_metric.values())
        assert summary["protocol"] == {"template": "three_class/1", "decoding": {"greedy": True}}

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
            (a, b, metric) for metric in COMPARED for a, b in expected
        ]
        frames = {system.name: system.predictions for system in systems()}
        for one in summary["comparisons"][:9]:
            alone = compare(frames[one["a"]], frames[one["b"]], one["metric"])
            assert one["difference"] == pytest.approx(alone.difference)
            assert (one["low"], one["high"], one["p_value"]) == pytest.approx((alone.low, alone.high, alone.p_value))

    def test_system_without_scores_has_null_and_a_reason(self, tmp_path: Path) -> None:
        frame = predict(1.0, 1).drop(columns=["p_up", "p_down", "p_none"])
        found = summarize([System("m", "model", frame, {})], title="t", protocol={}, data={})
        cell = found["systems"]["m"]["metrics"]["de"]["all"]["de_auroc"]
        assert (cell["value"], cell["low"], cell["reason"]) == (None, None, "no probabilities")
        assert found["systems"]["m"]["metrics"]["three_class"]["all"]["accuracy"]["value"] > 0
        page = Page(report(tmp_path, [System("m", "model", frame, {}), *systems()[3:]]))
        assert "no probabilities" in page.words

    def test_values_json_has_no_type_for(self) -> None:
        facts = {"path": Path("a/b"), "nan": float("nan"), "count": np.int64(3), "nested": {"x": (1, 2)}}
        found = summarize([System("m", "model", predict(1.0, 1), facts)], title="t", protocol={}, data={})
        assert found["systems"]["m"]["facts"] == {"path": "a/b", "nan": None, "count": 3, "nested": {"x": [1, 2]}}

    def test_same_input_same_bytes(self, written: Path, tmp_path: Path) -> None:
        again = report(tmp_path)
        for name in ("report.html", "report.md", "report.json"):
            assert again.with_name(name).read_bytes() == written.with_name(name).read_bytes()


class TestWords:
    def test_what_was_compared(self, page: Page) -> None:
        assert "3 models: base, SFT and SFT+GRPO." in page.words
        assert "2 shortcuts" in page.words
        assert "the same 192 items" in page.words
        assert "2 cell lines (k562 and rpe1), 12 perturbations and 8 genes" in page.words
        assert "not comparable with published ones" in page.words
        assert "A note." in page.words

    def test_real_and_unreal_differences(self, page: Page, summary: dict[str, Any]) -> None:
        found = {(one["a"], one["b"]): one for one in summary["comparisons"] if one["metric"] == "accuracy"}
        assert found["SFT", "base"]["p_holm"] < 0.05 < found["SFT+GRPO", "SFT"]["p_holm"]
        assert re.search(r"SFT against base: higher on [^.]*accuracy", page.words)
        assert re.search(r"SFT\+GRPO against SFT: no real difference shown on", page.words)

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
            re.findall(r"about (\S+\|P\d+\|G\d+)", each.words) for each in (page, Page(report(tmp_path, shuffled)))
        ]
        assert chosen[0] == chosen[1]
        assert len(set(chosen[0])) == 5 and len(chosen[0]) == 15

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


class TestFingerprints:
    def test_equal_ones_raise_no_flag(self, page: Page) -> None:
        assert "Not comparable" not in page.words

    def test_unequal_ones_are_flagged_before_any_number(self, tmp_path: Path) -> None:
        given = systems()
        given[1] = System("SFT", "model", given[1].predictions, {"fingerprint": "cd" * 32})
        path = report(tmp_path, given)
        words = Page(path).words
        assert "evaluated under different protocols" in words
        assert "SFT: cdcdcdcdcdcd" in words
        assert words.index("Not comparable") < words.index("192 items")
        markdown = path.with_name("report.md").read_text(encoding="utf-8")
        assert markdown.index("Not comparable") < markdown.index("192 items")

    def test_unknown_one_is_flagged(self, tmp_path: Path) -> None:
        given = [System("a", "model", predict(1.0, 1), FACTS), System("b", "model", predict(1.0, 2), {})]
        assert "No protocol fingerprint is known for b" in Page(report(tmp_path, given)).words


class TestPage:
    def test_needs_nothing_but_itself(self, page: Page, written: Path) -> None:
        for tag, attributes in page.elements:
            assert tag not in ("script", "link", "img", "iframe", "object", "embed")
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href", "xlink:href", "action"):
                assert (attributes.get(name) or "#").startswith("#")
        text = written.read_text(encoding="utf-8")
        assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text

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
        assert len(figures) == 3
        for attributes in figures:
            assert attributes["role"] == "img"
            assert all(name in ids for name in (attributes["aria-labelledby"] or "").split())

    def test_links_point_somewhere(self, page: Page) -> None:
        ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
        assert {(attributes["href"] or "")[1:] for tag, attributes in page.elements if tag == "a"} <= ids

    def test_text_from_models_and_files_stays_text(self, tmp_path: Path) -> None:
        given = [
            System(HOSTILE, "model", predict(1.0, 1, completion=HOSTILE), {HOSTILE: HOSTILE, "command": HOSTILE}),
            System("m", "model", predict(1.0, 2), {"fingerprint": HOSTILE}),
            System(f"{HOSTILE}2", "baseline", predict(0.5, 3), {}),
        ]
        hostile = {HOSTILE: HOSTILE}
        path = report(
            tmp_path, given, title=HOSTILE, protocol=hostile,
            data=hostile | {"notes": [HOSTILE], "t": [hostile]}, stages=[hostile | {"stage": HOSTILE}],
        )  # fmt: skip
        page = Page(path)
        assert not any(tag in ("script", "img") for tag, _ in page.elements)
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
            assert "Which differences are real" not in page.words
        one_line = [
            System(one.name, one.kind, one.predictions[one.predictions["cell_line"] == "rpe1"], one.facts)
            for one in systems()
        ]
        assert "By cell line." not in Page(report(tmp_path / "line", one_line)).words


class TestFiles:
    def test_a_failed_write_leaves_the_old_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = report(tmp_path)
        before = path.read_bytes()

        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            report(tmp_path, title="Another")
        assert path.read_bytes() == before
        assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]

    def test_returns_the_page_and_makes_the_folder(self, tmp_path: Path) -> None:
        assert report(tmp_path / "a" / "b") == tmp_path / "a" / "b" / "report.html"


class TestBadInput:
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

    def test_shares_are_never_rounded_to_all_or_none(self) -> None:
        assert [format_share(share) for share in (0, 0.0001, 0.5, 0.9999, 1)] == [
            "0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %",
        ]  # fmt: skip

    def test_p(self) -> None:
        assert [format_p(p) for p in (0.0001, 0.05, None)] == ["< 0.001", "0.050", "\N{EN DASH}"]

    def test_markdown_text_is_one_line_without_markup(self) -> None:
        assert markdown_text("a|b\n# <i>*c*") == r"a\|b \# &lt;i&gt;\*c\*"

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.03, 0.021), (0.5, 0.5), (-1, 1), (0.333, 0.334)])
    def test_ticks_enclose_the_values(self, low: float, high: float) -> None:
        ticks = axis_ticks(low, high)
        assert ticks[0] <= low + 1e-6 and ticks[-1] >= high - 1e-6
        assert 2 <= len(ticks) <= 8
        assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])
