"""The table on kinds of evidence is that of its JSON file, and its rows are forecasts from what is quoted."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.evidence.corpus import Corpus
from tools.evidence_kinds import DOCS, KINDS, MARK, NEIGHBOURS, RESULT, measure, table


def test_the_page_holds_the_table() -> None:
    page = (DOCS / "evidence.md").read_text(encoding="utf-8")
    assert page.split(MARK)[1].strip() == table(json.loads(RESULT.read_text(encoding="utf-8")))


def test_each_kind_has_a_row_with_intervals(make_labels: Callable[[int], pd.DataFrame], tmp_path: Path) -> None:
    corpus = Corpus("small", "official", make_labels(0))
    edges = "".join(f"P{at},G{at},{at + 1}\n" for at in range(12))
    (tmp_path / "edges.csv").write_text(f"gene1,gene2,score\n{edges}")
    files = {"graph": tmp_path / "edges.csv"}
    first, *_, result = (json.loads(json.dumps(one)) for one in measure(corpus, corpus.test, files))
    assert len(first["rows"]) == 1
    marked = {**result, "rows": [{**row, "known": 0.123} for row in result["rows"]]}
    (*_, again) = measure(corpus, corpus.test, files, marked)
    assert again == marked  # rows that are there are not computed again
    names = [row["evidence"] for row in result["rows"]]
    assert names == ["the gene's rate alone", *KINDS, "graph,k=5", "all of these", NEIGHBOURS]
    by_name = {row["evidence"]: row for row in result["rows"]}
    assert by_name["the gene's rate alone"]["de_per_gene_auroc"]["value"] == pytest.approx(0.5)
    for name in KINDS:
        found = by_name[name]["de_per_gene_auroc"]
        assert found["low"] < found["value"] < found["high"]
        assert list(found["lines"]) == corpus.lines
        assert 0 < by_name[name]["known"] <= 1
    assert str(tmp_path) not in json.dumps(result)
    caption, blank, *lines = table(result).splitlines()
    assert caption.startswith(f"Test items: {len(corpus.test)}, of {', '.join(corpus.lines)}.")
    assert blank == ""
    assert len(lines) == 2 + len(names)
    assert len({line.count("|") for line in lines}) == 1
