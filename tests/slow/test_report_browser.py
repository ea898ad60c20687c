"""The report in a real headless browser: nothing is fetched, tables sort, figures speak, completions stay text."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.report.page import System, write_report
from benchmarks.report.published import published_figures
from rewards import LABELS

pytestmark = pytest.mark.slow

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def predict(skill: float, seed: int, completion: str | None) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    grid = [(line, f"P{p}", f"G{g}") for line in ("k562", "rpe1") for p in range(12) for g in range(8)]
    frame = pd.DataFrame(grid, columns=["cell_line", "pert", "gene"])
    label = np.random.default_rng(0).integers(3, size=len(frame))
    prob = rng.dirichlet((1, 1, 1), size=len(frame)) + skill * np.eye(3)[label]
    prob /= prob.sum(axis=1, keepdims=True)
    names = np.array([str(one) for one in LABELS], dtype=object)
    frame["item_id"] = frame["cell_line"] + "|" + frame["pert"] + "|" + frame["gene"]
    return frame.assign(
        label=names[label], answer=names[prob.argmax(axis=1)], status="answered", seed=0, sample=0,
        completion=completion, p_up=prob[:, 0], p_down=prob[:, 1], p_none=prob[:, 2], completion_tokens=40,
    )  # fmt: skip


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of everything that a report can hold: several runs, strata, published figures, hostile text."""

    def runs(skill: float, seed: int) -> pd.DataFrame:
        return pd.concat([predict(skill, seed + at, HOSTILE).assign(seed=at) for at in range(2)], ignore_index=True)

    weak = predict(0.1, 7, None).assign(p_up=np.nan, p_down=np.nan, p_none=np.nan)
    systems = [
        System("base", "model", weak, {"fingerprint": "ab" * 32, "command": HOSTILE}),
        System("SFT", "model", runs(0.4, 20), {"fingerprint": "ab" * 32}),
        System(f"GRPO {HOSTILE}", "model", runs(0.6, 30), {"fingerprint": "cd" * 32}),
        System("gene rate", "baseline", predict(0.3, 8, None), {}),
        System("neighbours", "baseline", predict(0.5, 9, None), {}),
    ]
    ids = systems[0].predictions["item_id"]
    known = pd.Series(ids.str.contains(r"\|P[0-5]\|").to_numpy(), index=ids)
    return write_report(
        systems, tmp_path_factory.mktemp("page"), title=f"A report {HOSTILE}", protocol={"template": HOSTILE},
        data={"notes": [HOSTILE], "funnel": [{"step": HOSTILE, "rows": 192, "of": "1,920 items", "share": 0.1}]},
        stages=[{"stage": "sft", "run": "SFT", "log": [{"step": 1, "loss": 2.0}]}],
        strata={"known": known, "unknown": ~known},
        published=published_figures("official"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def browser(page_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        chromium = None
    if not chromium or not chromedriver:
        lacking = "chromium, chromedriver (Debian: chromium, chromium-driver) or selenium (PyPI) is not installed"
        if os.environ.get("SYNTHPERT_NO_SKIP"):
            pytest.fail(f"SYNTHPERT_NO_SKIP is set, but {lacking}")
        pytest.skip(lacking)
    options = Options()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def page(browser: Any, page_path: Path) -> Any:
    """The report, freshly opened at desktop width, everything unfolded."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(page_path.as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    return browser


def test_nothing_is_fetched_and_nothing_fails(browser: Any, page_path: Path) -> None:
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # forgets what the browser's own start page did
    browser.get(page_path.as_uri())
    browser.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("chrome:")] == [page_path.as_uri()]
    assert browser.get_log("browser") == []
    # The policy lets the page's own script run, and would tell of any other.
    assert browser.execute_script("return document.querySelectorAll('th button').length") > 50


def number(text: str) -> float | None:
    """What a reader takes a cell's first line for; None for a dash."""
    first = text.split("\n")[0].replace(MINUS, "-").replace(",", "").replace(" %", "").replace("< ", "")
    return None if first in (DASH, "") else float(first)


def column(page: Any, table: int, at: int) -> list[str]:
    """Visible text of a column, row by row."""
    texts: list[str] = page.execute_script(
        "return [...document.querySelectorAll('table')[arguments[0]].tBodies[0].rows]"
        ".map((row) => row.cells[arguments[1]].innerText.trim())",
        table, at,
    )  # fmt: skip
    return texts


def find_table(page: Any, caption: str) -> int:
    captions: list[str] = page.execute_script(
        "return [...document.querySelectorAll('table')].map((one) => one.caption.innerText)"
    )
    return next(at for at, text in enumerate(captions) if text.startswith(caption))


def head(page: Any, table: int, at: int) -> Any:
    return page.execute_script(
        "return document.querySelectorAll('table')[arguments[0]].tHead.rows[0].cells[arguments[1]]", table, at
    )


def click(page: Any, table: int, at: int) -> Any:
    cell = head(page, table, at)
    page.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", cell)
    cell.find_element("css selector", "button").click()
    return cell


def assert_sorted(texts: list[str], sign: int) -> None:
    values = [number(text) for text in texts]
    known = [sign * value for value in values if value is not None]
    assert known == sorted(known)
    assert values[len(known) :] == [None] * (len(values) - len(known))  # what is unknown comes last


def test_scores_sort_as_numbers_with_dashes_last(page: Any) -> None:
    table = find_table(page, "All cell lines (5 rows) Differential expression")
    assert [number(text) for text in column(page, table, 3)].count(None) == 1  # the system without probabilities
    cell = click(page, table, 3)
    assert cell.get_attribute("aria-sort") == "ascending"
    assert_sorted(column(page, table, 3), 1)
    click(page, table, 3)
    assert cell.get_attribute("aria-sort") == "descending"
    assert_sorted(column(page, table, 3), -1)
    other = click(page, table, 2)
    assert other.get_attribute("aria-sort") == "ascending" and cell.get_attribute("aria-sort") is None
    assert_sorted(column(page, table, 2), 1)


def test_differences_sort_with_their_signs(page: Any) -> None:
    table = find_table(page, "Accuracy (9 rows) First minus second")

    def differences() -> list[str]:
        return [text.split("\n")[-2] for text in column(page, table, 3)]  # verdict, difference, interval

    before = differences()
    assert any(text.startswith(MINUS) for text in before) and any(text.startswith("+") for text in before)
    click(page, table, 3)
    assert_sorted(differences(), 1)
    assert sorted(differences()) == sorted(before)
    p = 7
    click(page, table, p)
    assert_sorted(column(page, table, p), 1)


def test_names_sort_as_text_and_groups_stay_apart(page: Any) -> None:
    table = find_table(page, "By cell line (10 rows) Differential expression")
    click(page, table, 0)
    groups = page.execute_script(
        "return [...document.querySelectorAll('table')[arguments[0]].tBodies].map((body) => [...body.rows]"
        ".map((row) => row.cells[0].dataset.sort ?? row.cells[0].innerText))",
        table,
    )
    assert [group[0] for group in groups] == ["k562", "rpe1"]
    assert all(group[1:] == ["base", "gene rate", f"GRPO {HOSTILE}", "neighbours", "SFT"] for group in groups)


def test_tables_sort_by_keyboard(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    table = find_table(page, "All cell lines (5 rows) Three classes")
    cell = head(page, table, 2)
    button = cell.find_element("css selector", "button")
    for key, way, sign in ((Keys.ENTER, "ascending", 1), (Keys.SPACE, "descending", -1)):
        button.send_keys(key)
        assert cell.get_attribute("aria-sort") == way
        assert_sorted(column(page, table, 2), sign)
    button.send_keys(Keys.TAB)
    focused = page.switch_to.active_element
    assert focused == head(page, table, 3).find_element("css selector", "button")


def test_every_column_of_every_table_sorts(page: Any) -> None:
    # Each column is clicked twice; rows must be neither lost nor doubled, nor leave their group.
    faults = page.execute_script("""
        const faults = [];
        for (const table of document.querySelectorAll("table.sortable")) {
          const before = [...table.tBodies].map((body) => [...body.rows].map((row) => row.innerText).sort().join());
          for (const head of table.tHead.rows[0].cells) {
            for (const way of ["ascending", "descending"]) {
              head.querySelector("button").click();
              if (head.getAttribute("aria-sort") !== way) faults.push([table.caption.innerText, way]);
              if (table.querySelectorAll("[aria-sort]").length !== 1) faults.push([table.caption.innerText, "two"]);
            }
          }
          const after = [...table.tBodies].map((body) => [...body.rows].map((row) => row.innerText).sort().join());
          if (JSON.stringify(before) !== JSON.stringify(after)) faults.push([table.caption.innerText, "rows"]);
        }
        return faults;
    """)
    assert faults == []


def test_figures_have_text_alternatives(page: Any) -> None:
    figures = page.find_elements("css selector", "svg")
    # Main differences, scores, all differences, scores and differences of each training run; two metrics by two lines
    # and by two strata; ROC of two tasks; reliability of the two models with probabilities; loss; statuses.
    assert len(figures) == 5 * 3 + 2 * 2 + 2 * 2 + 2 + 2 + 1 + 1
    names = [figure.accessible_name for figure in figures]
    assert all(figure.aria_role in ("img", "image") for figure in figures)
    assert len(set(names)) == len(names) and all(len(name) > 20 for name in names)
    descriptions = [figure.find_element("css selector", "desc").get_attribute("textContent") for figure in figures]
    assert all("SFT" in text or "GRPO" in text for text in descriptions)
    assert all(any(character.isdigit() for character in text) for text in descriptions)


def test_tables_are_named_and_their_heads_have_a_scope(page: Any) -> None:
    faults = page.execute_script("""
        return [...document.querySelectorAll("table")].filter((table) => !table.caption.innerText.trim() ||
          [...table.querySelectorAll("th")].some((head) => !head.scope || !head.innerText.trim())).length
    """)
    assert faults == 0


def test_text_from_models_stays_text(page: Any) -> None:
    assert page.execute_script("return window.hacked") is None
    shown = page.find_elements("css selector", ".completion pre")
    assert sum(HOSTILE in one.text for one in shown) >= 40
    assert page.find_elements("css selector", "img, iframe, body script:not(:last-child)") == []
    assert HOSTILE in page.title


@pytest.mark.parametrize("width", [1280, 768, 360])
def test_the_page_does_not_scroll_sideways(page: Any, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= width


def test_print_shows_everything(browser: Any, page_path: Path) -> None:
    width = 718  # A4 less the browser's own margins, at 96 pixels an inch
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get(page_path.as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") > 10
    cut, hidden = browser.execute_script(
        """
        const cut = [...document.querySelectorAll("table, svg, pre")].filter((one) =>
          one.getBoundingClientRect().right > arguments[0] + 1).map((one) => one.innerText || one.id);
        const hidden = [...document.querySelectorAll("table tr, .completion pre")].filter((one) =>
          !one.checkVisibility() || getComputedStyle(one).overflowY === "auto").length;
        return [cut, hidden];
        """,
        width,
    )
    assert cut == []
    assert hidden == 0
    assert browser.execute_cdp_cmd("Page.printToPDF", {})["data"]


def test_readable_without_javascript(browser: Any, page_path: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page_path.as_uri())
        assert browser.find_elements("css selector", "th button") == []
        rows = browser.find_elements("css selector", "#scores table tbody tr")
        assert len(rows) > 15 and "0." in rows[0].text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
