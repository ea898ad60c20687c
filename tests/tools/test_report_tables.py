"""Tables of reports: differences have the table's sign, and the pages hold what the kept figures say."""

import json
from pathlib import Path
from typing import Any

import pytest

from rewards import InputError
from tools.pages import between
from tools.report_tables import DOCS, RESULT, TABLES, Table, read_report, rows_of

TABLE = Table("a page", {("three_class", "accuracy"): "accuracy", ("de", "de_auroc"): "`de`"}, "B", ("accuracy",))


def scored(accuracy: float, auroc: float | None) -> dict[str, Any]:
    def all_lines(value: float | None) -> dict[str, Any]:
        low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
        return {"all": {"value": value, "low": low, "high": high, "n": 4}}

    metrics = {"three_class": {"accuracy": accuracy}, "de": {"de_auroc": auroc}}
    found: dict[str, Any] = {task: {"all": {}} for task in metrics}
    for task, values in metrics.items():
        for metric, value in values.items():
            found[task]["all"][metric] = all_lines(value)["all"]
    return {"kind": "model", "seeds": [0, 1], "metrics": found}


def compared(a: str, b: str, difference: float, metric: str = "accuracy") -> dict[str, Any]:
    return {
        "a": a, "b": b, "metric": metric, "difference": difference, "low": difference - 0.2, "high": difference + 0.1,
        "p_value": 0.04,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    report = {
        "systems": {"A": scored(0.5, 0.6), "B": scored(0.75, None), "C": scored(0.25, 0.5)},
        "comparisons": [compared("B", "A", 0.25), compared("C", "B", -0.5), compared("C", "A", 9.0)],
        "evaluated": [{"cell_line": "k562", "items": 1}, {"cell_line": "all", "items": 4, "perturbations": 3}],
    }
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return tmp_path


def test_a_row_per_system_with_differences_of_one_sign(folder: Path) -> None:
    report = read_report(folder, TABLE)
    assert (report["items"], report["perturbations"]) == (4, 3)
    assert rows_of(report, TABLE).splitlines() == [
        "| system | accuracy | B minus it | `de` |",
        "| --- | ---: | ---: | ---: |",
        "| A | .500 (.400 to .600) | +.250 (+.050 to +.350) | .600 (.500 to .700) |",
        "| B | .750 (.650 to .850) |  | – |",
        "| C | .250 (.150 to .350) | +.500 (+.400 to +.700) | .500 (.400 to .600) |",
    ]


def test_a_folder_that_holds_no_such_report_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/report.json: No such file.*; write the report first"):
        read_report(folder / "nowhere", TABLE)
    with pytest.raises(InputError, match=r"report.json: has no system contrast; it has A, B, C"):
        read_report(folder, TABLES["evidence"])


def test_the_pages_hold_the_kept_figures() -> None:
    for name, report in json.loads(RESULT.read_text(encoding="utf-8")).items():
        table = TABLES[name]
        page = (DOCS / table.page).read_text(encoding="utf-8")
        assert between(page, f"<!-- report: {name} -->", rows_of(report, table)) == page, "run tools.report_tables"


def test_what_the_challenge_s_page_says_of_its_table_holds() -> None:
    systems = json.loads(RESULT.read_text(encoding="utf-8"))["bioreasoning"]["systems"]
    assert all(systems[name]["scores"]["challenge_score"]["low"] > 0.5 for name in ("SFT", "SFT+GRPO"))
    (alone,) = (one["scores"]["challenge_score"] for name, one in systems.items() if name.startswith("evidence alone"))
    assert alone["low"] < 0.5 < alone["high"]
    unseen = ("two-sided neighbours", "low-rank reconstruction", "transfer from the reference")
    for name in ("SFT", *unseen, "shortcuts and kin combined"):
        minus = systems[name]["minus"]["challenge_score"]
        assert minus["low"] < 0 < minus["high"], name
    accuracy = systems["SFT"]["minus"]["accuracy"]
    assert [round(accuracy[key], 3) for key in ("value", "low", "high")] == [-0.12, -0.194, -0.046]


def test_what_the_page_says_of_direction_holds() -> None:
    report = json.loads(RESULT.read_text(encoding="utf-8"))["direction"]
    assert report["items"] == 200
    seeing = ("SFT", "SFT+labels", "label copied from other lines", "cross-line neighbours", "neighbours + gene rate")
    for name in seeing:
        for minus in report["systems"][name]["minus"].values():
            assert minus["low"] < 0 < minus["high"], name
    for metric in ("dir_accuracy", "dir_auroc"):
        scores = {name: one["scores"][metric]["value"] or 0.0 for name, one in report["systems"].items()}
        assert max(scores, key=lambda name: scores[name]) == "all shortcuts combined"


def test_what_the_page_says_of_two_kinds_of_evidence_holds() -> None:
    report = json.loads(RESULT.read_text(encoding="utf-8"))["evidence"]
    systems = report["systems"]
    assert (report["items"], systems["neighbours"]["seeds"], systems["contrast"]["seeds"]) == (400, 3, 3)
    for minus in systems["neighbours"]["minus"].values():
        assert minus["value"] < 0 < minus["high"] and minus["low"] < 0
    for kind, quoted in (("neighbours", "neighbours,k=5"), ("contrast", "contrast,k=3")):
        alone, model = (systems[name]["scores"] for name in (f"evidence alone: {quoted}", kind))
        assert all(alone[metric]["value"] > model[metric]["value"] for metric in ("de_auroc", "dir_auroc"))
    for metric in ("de_auroc", "dir_auroc"):  # of the model that reads `contrast`, by an interval
        assert systems["evidence alone: contrast,k=3"]["minus"][metric]["high"] < 0
