"""The teacher: a model behind an OpenAI-compatible endpoint writes traces, critics grade them, every request is logged.

Files, beside `output`: `.requests.jsonl` (the log a resumed run goes on from), `.config.yaml`, `.manifest.json`.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import yaml

from benchmarks.chat import Message
from benchmarks.endpoint import (
    Budget,
    BudgetSpentError,
    Endpoint,
    EndpointSettings,
    StoppedError,
    check_base_url,
)
from benchmarks.runs import disk_errors
from rewards import CheckError, InputError, Status, parse_answer
from sft.critic import VERSION as CRITIC_VERSION
from sft.critic import Verdict, combine, critic_messages, parse_verdict
from sft.request_log import RequestLog
from sft.traces import Trace, write_traces

Thinking = Literal["strip", "keep"]
Mode = Literal["blind", "rationalize"]

# These may change between a run and its resumption: they do not shape a reply.
_FREE: Final = frozenset(
    (
        "output", "retry_failed", "max_in_flight", "timeout", "attempts", "max_wait", "max_reply_bytes", "max_requests",
        "max_total_tokens", "max_cost", "price_in", "price_out", "api_key_env", "critic_api_key_env",
    )
)  # fmt: skip
_RATIONALIZE: Final = (
    "\n\nFor you alone: the measured effect is {label}. Write the reasoning by which an expert who does not know it "
    "would arrive at it, from biology and what the question quotes. Never mention or hint that it was given, and end "
    "in <answer>{label}</answer>."
)
_BLOCK: Final = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


@dataclass
class EndpointArguments:
    """The keys of a trace configuration that concern a teacher behind an endpoint, and its critics."""

    base_url: str | None = field(default=None, metadata={"help": "the teacher's endpoint, with its /v1"})
    mode: Mode = field(default="blind", metadata={"help": "blind, or rationalize: the teacher is given the label"})
    thinking: Thinking = field(default="strip", metadata={"help": "the teacher's own thinking: strip or keep"})
    api_key_env: str = field(default="OPENAI_API_KEY", metadata={"help": "environment variable that holds the key"})
    max_tokens: int = field(default=2048, metadata={"help": "longest completion in tokens"})
    max_tokens_key: str = field(default="max_tokens", metadata={"help": "or max_completion_tokens"})
    temperature: float | None = field(default=0.0, metadata={"help": "null leaves it to the server"})
    extra_body: str | None = field(default=None, metadata={"help": "further keys of the request, as JSON"})
    critics: list[str] = field(default_factory=list, metadata={"help": "models that grade the reasoning"})
    critic_base_url: str | None = field(default=None, metadata={"help": "their endpoint; the teacher's by default"})
    critic_api_key_env: str | None = field(default=None, metadata={"help": "their key's variable; the teacher's"})
    critic_max_tokens: int = field(default=1024, metadata={"help": "longest reply of a critic in tokens"})
    critic_extra_body: str | None = field(default=None, metadata={"help": "further keys of its request, as JSON"})
    retry_failed: bool = field(default=False, metadata={"help": "ask again what failed for good in an earlier run"})
    max_in_flight: int = field(default=64, metadata={"help": "questions under way at a time"})
    timeout: float = field(default=600.0, metadata={"help": "seconds per attempt"})
    attempts: int = field(default=6, metadata={"help": "tries per question"})
    max_wait: float = field(default=600.0, metadata={"help": "longest Retry-After that is waited for, in seconds"})
    max_reply_bytes: int = field(default=4 * 1024 * 1024, metadata={"help": "longest reply that is read"})
    max_requests: int = field(default=0, metadata={"help": "budget: requests in all; 0 for no limit"})
    max_total_tokens: int = field(default=0, metadata={"help": "budget: tokens in all; 0 for no limit"})
    max_cost: float = field(default=0.0, metadata={"help": "budget: money in all, at the prices given; 0 for no limit"})
    price_in: float = field(default=0.0, metadata={"help": "price of a million prompt tokens"})
    price_out: float = field(default=0.0, metadata={"help": "price of a million completion tokens"})

    def teacher_settings(self, model: str) -> EndpointSettings:
        """Return how the teacher is asked."""
        assert self.base_url is not None
        return self._settings(self.base_url, model, self.api_key_env, self.max_tokens, self.extra_body, "extra_body")

    def critic_settings(self, model: str) -> EndpointSettings:
        """Return how a critic is asked."""
        url, key = self.critic_base_url or self.base_url, self.critic_api_key_env or self.api_key_env
        assert url is not None
        check_base_url(url, "critic_base_url")
        return self._settings(url, model, key, self.critic_max_tokens, self.critic_extra_body, "critic_extra_body")

    def _settings(
        self, url: str, model: str, key: str, max_tokens: int, extra_body: str | None, name: str
    ) -> EndpointSettings:
        return EndpointSettings(
            url, model, key, max_tokens, self.max_tokens_key, self.temperature, self.timeout, self.attempts,
            max_wait=self.max_wait, max_reply_bytes=self.max_reply_bytes, extra_body=_json_object(extra_body, name),
        )  # fmt: skip

    def budget(self) -> Budget:
        """Return the budget of a run that has spent nothing yet."""
        return Budget(self.max_requests, self.max_total_tokens, self.max_cost, self.price_in, self.price_out)


def _json_object(text: str | None, key: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"{key}: no JSON ({error}); write an object such as '{{\"top_p\": 0.9}}'") from None
    if not isinstance(value, dict):
        raise InputError(f"{key}: is no JSON object; write one such as '{{\"top_p\": 0.9}}'")
    return value


@dataclass(frozen=True)
class Work:
    """What a teacher is to write.

    Attributes:
        items: N training rows, in the order of the output.
        prompts: N prompts, as the student sees them.
        protocol: what the prompts were made with.
        config: the whole configuration, for the resume check.
    """

    items: pd.DataFrame
    prompts: Sequence[list[Message]]
    protocol: dict[str, Any]
    config: dict[str, Any]


def ask_teacher(
    work: Work,
    teacher: str,
    args: EndpointArguments,
    path: Path,
    *,
    progress: Callable[[str], None] | None = None,
) -> int:
    """Ask the teacher about every item, have right answers graded, and write the traces.

    A stopped run goes on where it was: questions that have an outcome are not asked again.

    Args:
        work: the items and prompts.
        teacher: the model's name at the endpoint.
        args: the endpoint, critics, limits and budget.
        path: JSONL file of traces: every reply the teacher gave, right or wrong. Replies that failed are counted in
            the manifest.
        progress: told of repairs and of progress, a line at a time.

    Returns:
        The number of traces.

    Raises:
        InputError: bad settings, items that are no training items, or a log of another configuration.
        CheckError: the budget is spent or the server out of reach; what is there is kept, and written as far as it
            goes.
    """
    say = progress or (lambda line: None)
    _check_items(work)
    settings = args.teacher_settings(teacher)
    critics = [args.critic_settings(model) for model in args.critics]
    if args.max_in_flight < 1:
        raise InputError(f"max_in_flight: is {args.max_in_flight}; it must be at least 1")
    budget = args.budget()
    log_path = _beside(path, "requests.jsonl")
    _check_config(path, log_path, work)
    with RequestLog(log_path, retry_failed=args.retry_failed) as log:
        if log.repaired:
            say(f"{log_path}: a torn last line of {log.repaired} bytes was dropped; its question is asked again")
        if log.failed:
            say(f"{log_path}: {len(log.failed)} questions failed for good before; they are asked again")
        if log.interrupted:
            say(
                f"{log_path}: {len(log.interrupted)} questions were under way when the last run stopped; they are "
                "asked again and count in the budget"
            )
        budget.requests, budget.prompt_tokens, budget.completion_tokens = (
            log.requests, log.prompt_tokens, log.completion_tokens,
        )  # fmt: skip
        run = _Run(work, args, log, say)
        stopped: CheckError | None = None
        try:
            asyncio.run(run.ask_all(settings, critics, budget))
        except (BudgetSpentError, StoppedError) as error:
            stopped = error
        count = write_traces(_traces(work, teacher, args, log), path)
        _write_manifest(path, work, teacher, args, log, budget)
        if stopped is not None:
            done = sum(_question("teacher", str(item)) in log.done for item in work.items["item_id"])
            raise CheckError(
                f"{stopped}; {done} of {len(work.items)} items are done and written; mend that and run the same "
                "command again, it goes on from there"
            )
        return count


def _check_items(work: Work) -> None:
    items = work.items
    if (items["split"] != "train").any():
        found = items["item_id"][items["split"] != "train"].iloc[0]
        raise InputError(f"{found}: a test item; traces are written for training items only")
    twice = items["item_id"].duplicated()
    if twice.any():
        raise InputError(f"{items['item_id'][twice].iloc[0]}: is drawn twice; each item has one trace")


def _check_config(path: Path, log_path: Path, work: Work) -> None:
    """Refuse a log of another configuration; store the configuration of a new one."""
    shaping = {key: value for key, value in work.config.items() if key not in _FREE}
    items = "\n".join(work.items["item_id"].astype(str))
    shaping["items_sha256"] = hashlib.sha256(items.encode()).hexdigest()
    shaping["critic_version"] = CRITIC_VERSION
    digest_file = _beside(path, "config.yaml")
    if log_path.is_file() and log_path.stat().st_size and digest_file.is_file():
        before = yaml.safe_load(digest_file.read_text(encoding="utf-8"))
        before = before if isinstance(before, dict) else {}
        changed = sorted(k for k in {*before, *shaping} - _FREE if before.get(k) != shaping.get(k))
        if changed:
            raise InputError(
                f"{log_path}: was begun with another configuration ({', '.join(changed)} changed); change it back, or "
                "choose another output"
            )
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump({**work.config, **shaping}, sort_keys=False)
        digest_file.write_text(text, encoding="utf-8")


class _Run:
    """One pass over the items with a bounded number of questions under way."""

    def __init__(self, work: Work, args: EndpointArguments, log: RequestLog, say: Callable[[str], None]) -> None:
        self._work, self._args, self._log, self._say = work, args, log, say
        self._rows = iter(range(len(work.items)))
        self._records = work.items[["item_id", "label"]].astype("str").to_numpy()
        self._stopped: BaseException | None = None
        self._finished = 0

    async def ask_all(self, teacher: EndpointSettings, critics: Sequence[EndpointSettings], budget: Budget) -> None:
        n = self._args.max_in_flight
        endpoint = Endpoint(teacher, budget, n)
        graders = [Endpoint(settings, budget, n) for settings in critics]
        try:
            await asyncio.gather(*(self._worker(endpoint, graders) for _ in range(min(n, len(self._records)))))
        finally:
            for one in (endpoint, *graders):
                await one.close()
        if self._stopped is not None:
            raise self._stopped

    async def _worker(self, teacher: Endpoint, critics: Sequence[Endpoint]) -> None:
        for row in self._rows:  # shared: each worker takes the next row
            if self._stopped is not None:
                return
            try:
                await self._item(row, teacher, critics)
            except Exception as error:  # the others finish what they have under way: it may have been charged for
                self._stopped = self._stopped or error
                return
            self._finished += 1
            if self._finished % 100 == 0 or self._finished == len(self._records):
                self._say(f"{self._finished} of {len(self._records)} items")

    async def _item(self, row: int, teacher: Endpoint, critics: Sequence[Endpoint]) -> None:
        item_id, label = self._records[row]
        prompt = self._work.prompts[row]
        question = _question("teacher", item_id)
        if question in self._log.done:
            outcome = self._log.read(question) if critics else None
        else:
            asked = prompt if self._args.mode == "blind" else _with_label(prompt, label)
            outcome = await self._ask(teacher, asked, question)
        if not critics or outcome is None or outcome["text"] is None:
            return
        completion = assemble_completion(outcome["text"], outcome["reasoning"], self._args.thinking)
        answer = parse_answer(completion)
        if answer.label != label or answer.think is None:
            return  # only reasoning that ends in the truth is worth a critic's time
        messages = critic_messages(prompt, answer.think)
        for number, critic in enumerate(critics):
            question = _question(f"critic{number}", item_id)
            if question not in self._log.done:
                await self._ask(critic, messages, question)

    async def _ask(self, endpoint: Endpoint, messages: Sequence[Message], question: str) -> dict[str, Any]:
        async def note(event: str, prompt_tokens: int, completion_tokens: int) -> None:
            self._log.note(event, question, prompt_tokens, completion_tokens)

        content = json.dumps([question, endpoint.settings.model, [dict(message) for message in messages]])
        reply = await endpoint.ask(messages, hashlib.sha256(content.encode()).hexdigest(), note)
        outcome = {**asdict(reply), "created": datetime.now(UTC).isoformat(timespec="seconds")}
        del outcome["logprobs"]  # none were asked for
        await self._log.settle(question, outcome)
        return outcome


def _question(role: str, item_id: str) -> str:
    return f"{role}|{item_id}"


def _with_label(prompt: Sequence[Message], label: str) -> list[Message]:
    *earlier, last = prompt
    return [*earlier, {"role": last["role"], "content": last["content"] + _RATIONALIZE.format(label=label)}]


def assemble_completion(text: str, reasoning: str | None, thinking: Thinking) -> str:
    """Return the completion that a student learns from a teacher's reply.

    A reasoning model thinks before it writes the think block it was asked for: apart (`reasoning`), in a think block of
    its own in front, or up to a closing tag whose opening one the chat template held. Its own thinking is removed
    (`strip`) or becomes the think block, in front of the one it wrote as asked (`keep`).

    Args:
        text: the message's content.
        reasoning: the model's own thinking where the server keeps it apart.
        thinking: `strip` or `keep`.
    """
    own, rest = _split_thinking(text, reasoning)
    if own is None or thinking == "strip":
        return rest.strip()
    match = _BLOCK.match(rest)
    written, rest = (match[1].strip(), rest[match.end() :]) if match else ("", rest)
    return f"<think>{own.strip()}{chr(10) * 2 if written else ''}{written}</think>{rest.strip()}"


def _split_thinking(text: str, reasoning: str | None) -> tuple[str | None, str]:
    if reasoning:
        return reasoning, text
    first = _BLOCK.match(text)
    if first:
        rest = text[first.end() :]
        return (first[1], rest) if rest.startswith("<think>") else (None, text)
    head, closing, rest = text.partition("</think>")
    return (head, rest.lstrip()) if closing and "<think>" not in head else (None, text)


def _traces(work: Work, teacher: str, args: EndpointArguments, log: RequestLog) -> Iterator[Trace]:
    for row, prompt in zip(work.items.itertuples(), work.prompts, strict=True):
        item_id = str(row.item_id)
        if _question("teacher", item_id) not in log.done:
            continue  # only where the budget ended first
        outcome = log.read(_question("teacher", item_id))
        if outcome["text"] is None:
            continue
        completion = assemble_completion(outcome["text"], outcome["reasoning"], args.thinking)
        answer = parse_answer(completion)
        yield Trace(
            item_id=item_id,
            cell_line=str(row.cell_line),
            pert=str(row.pert),
            gene=str(row.gene),
            label=str(row.label),
            prompt=prompt,
            completion=completion,
            answer=None if answer.label is None else str(answer.label),
            teacher=teacher,
            mode=args.mode,
            critic=combine(_verdicts(item_id, args, log)),
            created=outcome["created"],
            protocol=work.protocol,
        )


def _verdicts(item_id: str, args: EndpointArguments, log: RequestLog) -> list[Verdict]:
    questions = [_question(f"critic{number}", item_id) for number in range(len(args.critics))]
    texts = [log.read(question)["text"] for question in questions if question in log.done]
    read = [parse_verdict(text) for text in texts if text is not None]
    return [one for one in read if one is not None]


def _write_manifest(
    path: Path, work: Work, teacher: str, args: EndpointArguments, log: RequestLog, budget: Budget
) -> None:
    """Count what became of every item and critic, for `traces stats`."""
    cells: dict[str, Counter[str]] = {}
    errors: Counter[str] = Counter()
    critic_counts: Counter[str] = Counter()
    split_votes = graded = 0
    for item_id, line, label in work.items[["item_id", "cell_line", "label"]].astype("str").itertuples(index=False):
        question = _question("teacher", item_id)
        cell = cells.setdefault(f"{line}|{label}", Counter())
        cell["drawn"] += 1
        if question not in log.done:
            cell["not asked"] += 1
            continue
        outcome = log.read(question)
        if outcome["text"] is None:
            errors[outcome["error"]] += 1
            cell[str(Status.ERROR)] += 1
            continue
        answer = parse_answer(assemble_completion(outcome["text"], outcome["reasoning"], args.thinking))
        cut = outcome["finish_reason"] == "length" and answer.status is Status.MALFORMED
        cell[str(Status.INCOMPLETE if cut else answer.status)] += 1
        asked = [q for n in range(len(args.critics)) if (q := _question(f"critic{n}", item_id)) in log.done]
        verdicts = _verdicts(item_id, args, log)
        critic_counts["asked"] += len(asked)
        critic_counts["no verdict"] += len(asked) - len(verdicts)
        graded += len(verdicts) > 1
        split_votes += len({one.verdict for one in verdicts}) > 1
    manifest = {
        "teacher": teacher,
        "critics": args.critics,
        "mode": args.mode,
        "protocol": work.protocol,
        "cells": {key: dict(cell) for key, cell in cells.items()},
        "errors": dict(errors),
        "critic": {**critic_counts, "graded by several": graded, "of these not unanimous": split_votes},
        "spent": {
            "requests": budget.requests,
            "prompt_tokens": budget.prompt_tokens,
            "completion_tokens": budget.completion_tokens,
            "cost": round(budget.cost, 6),
        },
    }
    with disk_errors(path):
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        _beside(path, "manifest.json").write_text(text + "\n", encoding="utf-8")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return what is known of how a file of traces was made; None where nothing beside it says so."""
    file = _beside(path, "manifest.json")
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{file}: not JSON; run `synthpert traces generate` again, which asks nothing anew") from None
    return manifest if isinstance(manifest, dict) else None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")
