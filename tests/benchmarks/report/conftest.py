"""Figures take most of a report's time, so that tests draw them only where they look at them."""

from html import escape

import pytest

from benchmarks.report import page
from benchmarks.report.charts.panels import Panel


@pytest.fixture
def drawn() -> None:
    """Ask for figures that are drawn, in a test that writes a report of its own."""


@pytest.fixture(autouse=True)
def sketched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put text alternatives in the place of figures; reports that a module shares are drawn."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(page, "draw", sketch)


def sketch(panel: Panel, figure: str) -> str:
    """Return a panel's SVG without the drawing."""
    return (
        f'<svg role="img" aria-labelledby="{panel.name}-title" aria-describedby="{panel.name}-desc">'
        f'<title id="{panel.name}-title">{escape(figure)}: {escape(panel.title)}</title>'
        f'<desc id="{panel.name}-desc">{escape(panel.description)}</desc></svg>'
    )
