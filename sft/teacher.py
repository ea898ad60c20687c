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
    read_extra_body,
    run_async,
)
from rewards import Answer, CheckError, InputError, Status, parse_answer
from sft.critic import Verdict, combine, critic_messages, parse_verdict
from sft.outcomes import ENOUGH, Outcomes, Parsed, manifest_file, write_manifest
from sft.request_log import RequestLog
from sft.traces import Trace, write_lines, write_traces

Thinking = Literal["strip", "keep"]
Mode = Literal["blind", "rationalize"]

# These may change between a run and its resumption. They do not shape a teacher's reply: completions are assembled from
# the log, a critic's questions are named by what shapes its replies, and `rows` may grow.
_FREE: Final = frozenset(
    (
        "output", "rows", "thinking", "critics", "critic_base_url", "critic_max_tokens", "critic_extra_body",
        "retry_failed", "max_in_flight", "timeout", "attempts", "max_wait", "max_reply_bytes", "max_requests",
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
    extra_body: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "further keys of the request: a mapping, or JSON"}
    )
    critics: list[str] = field(default_factory=list, metadata={"help": "models that grade the reasoning"})
    critic_base_url: str | None = field(default=None, metadata={"help": "their endpoint; the teacher's by default"})
    critic_api_key_env: str | None = field(default=None, metadata={"help": "their key's variable; the teacher's"})
    critic_max_tokens: int = field(default=1024, metadata={"help": "longest reply of a critic in tokens"})
    critic_extra_body: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "further keys of its request: a mapping, or JSON"}
    )
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

    def __post_init__(self) -> None:
        self.extra_body = read_extra_body(self.extra_body, "extra_body")
        self.critic_extra_body = read_extra_body(self.critic_extra_body, "critic_extra_body")
        if not all(isinstance(name, str) for name in self.critics) or len({*self.critics}) < len(self.critics):
            raise InputError(f"critics: {self.critics}; name each model once, since each has one vote")

    def teacher_settings(self, model: str) -> EndpointSettings:
        """Return how the teacher is asked."""
        assert self.base_url is not None
        return self._settings(self.base_url, model, self.api_key_env, self.max_tokens, self.extra_body)

    def critic_settings(self, model: str) -> EndpointSettings:
        """Return how a critic is asked."""
        url, key = self.critic_base_url or self.base_url, self.critic_api_key_env or self.api_key_env
        assert url is not None
        check_base_url(url, "critic_base_url")
        return self._settings(url, model, key, self.critic_max_tokens, self.critic_extra_body)

    def _settings(
        self, url: str, model: str, key: str, max_tokens: int, extra_body: dict[str, Any] | str | None
    ) -> EndpointSettings:
        return EndpointSettings(
            url, model, key, max_tokens, self.max_tokens_key, self.temperature, self.timeout, self.attempts,
            max_wait=self.max_wait, max_reply_bytes=self.max_reply_bytes, extra_body=read_extra_body(extra_body),
        )  # fmt: skip

    def budget(self) -> Budget:
        """Return the budget of a run that has spent nothing yet."""
        return Budget(self.max_requests, self.max_total_tokens, self.max_cost, self.price_in, self.price_out)


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
        CheckError: the budget is spent, the server is out of reach, or more than half of the questions failed; what is
            there is kept, and written as far as it goes.
    """
    say = progress or (lambda line: None)
    _check_items(work)
    settings = args.teacher_settings(teacher)
    critics = [args.critic_settings(model) for model in args.critics]
    if args.max_in_flight < 1:
        raise InputError(f"max_in_flight: is {args.max_in_flight}; it must be at least 1")
    budget = args.budget()
    with RequestLog(log_file(path)) as log:
        if log.repaired:
            say(f"{log.path}: a torn last line of {log.repaired} bytes was dropped; its question is asked again")
        changed = _check_config(path, log, work)
        if (args.retry_failed or changed) and log.forget_failed():
            say(f"{log.path}: {len(log.failed)} questions failed for good before; they are asked again")
        if log.interrupted:
            say(
                f"{log.path}: {len(log.interrupted)} questions were under way when the last run stopped; they are "
                "asked again and count in the budget"
            )
        budget.requests, budget.prompt_tokens, budget.completion_tokens = (
            log.requests, log.prompt_tokens, log.completion_tokens,
        )  # fmt: skip
        run = _Run(work, args, log, say)
        stopped: CheckError | None = None
        try:
            run_async(run.ask_all(settings, critics, budget))
        except (BudgetSpentError, StoppedError) as error:
            stopped = error
        outcomes = Outcomes()
        count = write_traces(_traces(work, teacher, args, critics, log, outcomes), path)
        write_manifest(
            path,
            outcomes,
            {
                "teacher": teacher,
                "critics": args.critics,
                "mode": args.mode,
                "protocol": work.protocol,
                "spent": {
                    "requests": budget.requests,
                    "prompt_tokens": budget.prompt_tokens,
                    "completion_tokens": budget.completion_tokens,
                    "cost": round(budget.cost, 6),
                },
            },
        )
    if hint := outcomes.parsed.hint():
        say(hint)
    failures = outcomes.failures()
    if failures and stopped is None and outcomes.mostly_failed():
        raise CheckError(f"{failures} (what came is written)")
    if failures:
        say(failures)
    if stopped is not None:
        raise CheckError(
            f"{stopped}; {outcomes.asked} of {len(work.items)} items are done and written; mend that and run the same "
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


def _check_config(path: Path, log: RequestLog, work: Work) -> bool:
    """Refuse a log of another configuration, unless all its questions failed; store ours; return whether it differs."""
    # The protocol holds what the configuration does not: the labels' digest and the prompts' version.
    shaping = {**{key: value for key, value in work.config.items() if key not in _FREE}, "protocol": work.protocol}
    file = path.with_name(f"{path.name}.config.yaml")
    changed: list[str] = []
    if log.done and file.is_file():
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        before = before if isinstance(before, dict) else {}
        changed = sorted(key for key in {*before, *shaping} - _FREE if before.get(key) != shaping.get(key))
        settled = {question for question in log.done if question.startswith("teacher|")}
        if settled - {_question(str(item)) for item in work.items["item_id"]}:
            changed = changed or ["rows"]  # fewer of them: some that were asked about would be left out
        if changed and len(log.failed) < len(log.done):
            raise InputError(
                f"{log.path}: was begun with another configuration ({', '.join(changed)} changed); change it back, or "
                "choose another output"
            )
    if not log.done:
        manifest_file(path).unlink(missing_ok=True)  # of another making
    write_lines([yaml.safe_dump({**work.config, **shaping}, sort_keys=False).encode()], file)
    return bool(changed)


class _Run:
    """One pass over the items with a bounded number of questions under way."""

    def __init__(self, work: Work, args: EndpointArguments, log: RequestLog, say: Callable[[str], None]) -> None:
        self._work, self._args, self._log, self._say = work, args, log, say
        self._rows = iter(range(len(work.items)))
        self._records = work.items[["item_id", "label"]].astype("str").to_numpy()
        self._stopped: BaseException | None = None
        self._finished = 0
        self._parsed = Parsed()
        # Failures of an endpoint that may be down. Settled once it answers or the run ends; never if it turns out down.
        self._held: dict[Endpoint, list[tuple[str, dict[str, Any]]]] = {}

    async def ask_all(self, teacher: EndpointSettings, critics: Sequence[EndpointSettings], budget: Budget) -> None:
        n = self._args.max_in_flight
        endpoint = Endpoint(teacher, budget, n)
        graders = [Endpoint(settings, budget, n) for settings in critics]
        self._held = {one: [] for one in (endpoint, *graders)}
        try:
            await asyncio.gather(*(self._worker(endpoint, graders) for _ in range(min(n, len(self._records)))))
        finally:
            for one in self._held:
                await one.close()
        if self._stopped is not None:
            raise self._stopped
        for one in self._held:
            await self._settle_held(one)

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
        question = _question(item_id)
        new = question not in self._log.done
        if new:
            asked = prompt if self._args.mode == "blind" else _with_label(prompt, label)
            outcome = await self._ask(teacher, asked, question)
        elif critics:
            outcome = self._log.read(question)
        else:
            return
        if outcome["text"] is None:
            return
        answer = parse_answer(assemble_completion(outcome["text"], outcome["reasoning"], self._args.thinking))
        if new and self._parsed.replies < ENOUGH:
            _count_reply(self._parsed, outcome, answer)
            if self._parsed.replies == ENOUGH and (hint := self._parsed.hint()):
                self._say(hint)
        messages = _to_grade(label, prompt, answer)
        if messages is None:
            return
        for critic in critics:
            for question in _critic_questions(item_id, critic.settings, messages):
                done = question in self._log.done
                reply = self._log.read(question) if done else await self._ask(critic, messages, question)
                if reply["text"] is None or parse_verdict(reply["text"]) is not None:
                    break

    async def _ask(self, endpoint: Endpoint, messages: Sequence[Message], question: str) -> dict[str, Any]:
        async def note(event: str, prompt_tokens: int, completion_tokens: int) -> None:
            self._log.note(event, question, prompt_tokens, completion_tokens)

        key = json.dumps([question, _request(endpoint.settings, messages)])
        reply = await endpoint.ask(messages, hashlib.sha256(key.encode()).hexdigest(), note)
        outcome = {**asdict(reply), "created": datetime.now(UTC).isoformat(timespec="seconds")}
        del outcome["logprobs"]  # none were asked for
        self._held[endpoint].append((question, outcome))
        if reply.error is None or not endpoint.failing:
            await self._settle_held(endpoint)
        return outcome

    async def _settle_held(self, endpoint: Endpoint) -> None:
        held, self._held[endpoint] = self._held[endpoint], []
        for question, outcome in held:
            await self._log.settle(question, outcome)


def _request(settings: EndpointSettings, messages: Sequence[Message]) -> list[Any]:
    """What shapes a reply."""
    return [settings.model, settings.max_tokens, settings.temperature, settings.extra_body, *map(dict, messages)]


def _question(item_id: str) -> str:
    return f"teacher|{item_id}"


def _to_grade(label: str, prompt: Sequence[Message], answer: Answer) -> list[Message] | None:
    """Return what critics are asked; None where they are not: only reasoning that ends in the truth is worth it."""
    return None if answer.label != label or answer.think is None else critic_messages(prompt, answer.think)


def _critic_questions(item_id: str, critic: EndpointSettings, messages: Sequence[Message]) -> tuple[str, str]:
    """Name a critic's question, and the same asked once more, for where the first reply holds no verdict.

    The digest stands for the reasoning and what shapes the reply: what changed is graded anew, what did not is not paid
    for twice.
    """
    digest = hashlib.sha256(json.dumps(_request(critic, messages)).encode()).hexdigest()
    question = f"critic|{item_id}|{critic.model}|{digest[:16]}"
    return question, f"{question}|again"


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


def _count_reply(parsed: Parsed, outcome: dict[str, Any], answer: Answer) -> None:
    text, reasoning = outcome["text"], outcome["reasoning"]
    apart = answer.label is None and _split_thinking(text, reasoning)[0] is not None
    kept = apart and parse_answer(assemble_completion(text, reasoning, "keep")).label is not None
    parsed.replies += 1
    parsed.answered += answer.label is not None
    parsed.only_if_kept += kept


def _traces(
    work: Work,
    teacher: str,
    args: EndpointArguments,
    critics: Sequence[EndpointSettings],
    log: RequestLog,
    outcomes: Outcomes,
) -> Iterator[Trace]:
    """Yield the trace of every reply, and count what became of all items."""
    for row, prompt in zip(work.items.itertuples(), work.prompts, strict=True):
        item_id, line, label = str(row.item_id), str(row.cell_line), str(row.label)
        cell = outcomes.cells.setdefault(f"{line}|{label}", Counter())
        cell["drawn"] += 1
        if _question(item_id) not in log.done:
            cell["not asked"] += 1  # only where the run was stopped
            continue
        outcome = log.read(_question(item_id))
        if outcome["text"] is None:
            outcomes.errors[outcome["error"]] += 1
            cell[str(Status.ERROR)] += 1
            continue
        completion = assemble_completion(outcome["text"], outcome["reasoning"], args.thinking)
        answer = parse_answer(completion)
        cut = outcome["finish_reason"] == "length" and answer.status is Status.MALFORMED
        cell[str(Status.INCOMPLETE if cut else answer.status)] += 1
        _count_reply(outcomes.parsed, outcome, answer)
        messages = _to_grade(label, prompt, answer) if critics else None
        verdicts = [] if messages is None else _verdicts(item_id, messages, critics, log, outcomes)
        yield Trace(
            item_id=item_id,
            cell_line=line,
            pert=str(row.pert),
            gene=str(row.gene),
            label=label,
            prompt=prompt,
            completion=completion,
            answer=None if answer.label is None else str(answer.label),
            teacher=teacher,
            mode=args.mode,
            critic=combine(verdicts),
            created=outcome["created"],
            protocol=work.protocol,
        )


def _verdicts(
    item_id: str,
    messages: Sequence[Message],
    critics: Sequence[EndpointSettings],
    log: RequestLog,
    outcomes: Outcomes,
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for critic in critics:
        for question in _critic_questions(item_id, critic, messages):
            if question not in log.done:
                break
            outcomes.critic["asked"] += 1
            reply = log.read(question)
            if reply["text"] is None:
                outcomes.critic_errors[reply["error"]] += 1
                break
            if (verdict := parse_verdict(reply["text"])) is not None:
                verdicts.append(verdict)
                break
            outcomes.critic["no verdict"] += 1
    outcomes.critic["graded by several"] += len(verdicts) > 1
    outcomes.critic["of these not unanimous"] += len({one.verdict for one in verdicts}) > 1
    return verdicts


def log_file(path: Path) -> Path:
    """Return where the log of a file of traces lies."""
    return path.with_name(f"{path.name}.requests.jsonl")
