"""Logs of verifiers: `traces.jsonl` (from version 0.2 or so: an episode a line), and the older `results.jsonl`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from benchmarks.comparison.records import Record
from benchmarks.tables import BrokenRow, Row
from rewards import InputError

# As `Trace.is_truncated` of verifiers 0.4.0 counts them, besides a last call that ended at its token limit.
_LIMITS: Final = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "compaction_failed")


def is_traces(record: Mapping[str, Any]) -> bool:
    """Is this a line of `traces.jsonl`?"""
    return isinstance(record.get("traces"), list) and "ok" in record


def is_results(record: Mapping[str, Any]) -> bool:
    """Is this a line of `results.jsonl`?"""
    return {"example_id", "reward"} <= set(record)


def read_traces(path: Any, rows: Iterable[Row]) -> Iterator[Record]:
    """Yield a record per trace. Scores are `reward` (the weighted sum) and every reward and metric by its name.

    Raises:
        InputError: the episodes have several agents.
    """
    agents: set[str] = set()
    for row, episode in rows:
        assert not isinstance(episode, BrokenRow)  # the reader has refused those
        for trace in episode["traces"]:
            agents.add(str((trace.get("agent") or {}).get("name", "agent")))
            if len(agents) > 1:
                raise InputError(
                    f"{path}, row {row}: several agents ({', '.join(sorted(agents))}); write a table with one agent's "
                    "item_id and score"
                )
            yield _trace_record(row, episode, trace)


def _trace_record(row: int, episode: Mapping[str, Any], trace: Mapping[str, Any]) -> Record:
    task = trace.get("task") or {}
    data = task.get("data") or {}
    # A reward that was not computed is left out of the file, or null.
    rewards = {name: one for name, one in (trace.get("rewards") or {}).items() if one is not None}
    scores: dict[str, Any] = dict(trace.get("metrics") or {})
    scores |= {name: one["score"] for name, one in rewards.items()}
    if rewards:
        scores = {"reward": sum(one["score"] * one.get("weight", 1.0) for one in rewards.values())} | scores
    answered = [call for call in trace.get("calls") or () if not call.get("error")]
    at_limit = bool(answered) and answered[-1].get("finish_reason") == "length"
    return Record(
        where=f"row {row}",
        item=str(next(value for value in (data.get("id"), task.get("key"), data.get("idx"), row) if value is not None)),
        scores=scores,
        incomplete=at_limit or trace.get("stop_condition") in _LIMITS,
        error=not trace.get("ok", True) or not episode["ok"],
        content=None,
        fields=(data, _mapping(data.get("info")), _mapping(trace.get("info"))),
    )


def read_results(rows: Iterable[Row]) -> Iterator[Record]:
    """Yield a record per rollout. Scores are `reward` and every metric by its name."""
    for row, record in rows:
        assert not isinstance(record, BrokenRow)  # the reader has refused those
        yield Record(
            where=f"row {row}",
            item=str(record["example_id"]),
            scores={"reward": record["reward"]} | (record.get("metrics") or {}),
            incomplete=bool(record.get("is_truncated")),
            error=bool(record.get("error")),
            content=None,
            fields=(_mapping(record.get("info")), record),
        )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
