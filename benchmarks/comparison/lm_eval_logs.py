"""Samples of lm-evaluation-harness (`--log_samples`): a JSON object a line, for each document and filter."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from benchmarks.comparison.records import Record
from benchmarks.tables import BrokenRow, Row


def is_lm_eval(record: Mapping[str, Any]) -> bool:
    """Is this a line of lm-eval's samples?"""
    return {"doc_id", "doc", "resps"} <= set(record)


def read_lm_eval(rows: Iterable[Row]) -> Iterator[Record]:
    """Yield a record per document: scores of all filters, named `metric`, or `metric,filter` where there are several.

    The log does not say whether a completion was cut off.
    """
    documents: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for row, record in rows:
        assert not isinstance(record, BrokenRow)  # the reader has refused those
        documents.setdefault(record["doc_id"], []).append((row, record))
    filters = {str(record.get("filter")) for lines in documents.values() for _, record in lines}
    for doc_id, lines in documents.items():
        scores: dict[str, Any] = {}
        for _, record in lines:
            for metric in record.get("metrics") or ():
                scores[metric if len(filters) == 1 else f"{metric},{record['filter']}"] = record.get(metric)
        row, first = lines[0]
        doc = first["doc"] if isinstance(first["doc"], Mapping) else {}
        yield Record(
            where=f"row {row}",
            item=str(doc_id),
            scores=scores,
            incomplete=False,
            error=False,
            content=first.get("doc_hash"),
            fields=(doc, first),
        )
