"""Ask a teacher behind an OpenAI-compatible endpoint for traces, and critics for grades.

Files beside `output`: `.requests.jsonl` (the log of all requests, from which a stopped run continues), `.config.yaml`
and `.manifest.json`.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from benchmarks.chat import Message
from benchmarks.endpoint.budget import Budget, BudgetSpentError
from benchmarks.endpoint.client import Endpoint, StoppedError, run_async
from benchmarks.endpoint.settings import EndpointSettings
from benchmarks.runs import read_stored
from rewards import Answer, CheckError, InputError, parse_answer
from sft.teacher.arguments import FREE, EndpointArguments
from sft.teacher.critic import parse_verdict
from sft.teacher.outcomes import ENOUGH, Outcomes, Parsed, config_file, manifest_file, write_manifest
from sft.teacher.questions import (
    Work,
    check_items,
    critic_questions,
    request_shape,
    teacher_question,
    to_grade,
    with_label,
)
from sft.teacher.replies import assemble_completion, count_reply, make_traces
from sft.teacher.request_log import RequestLog
from sft.traces import write_lines, write_traces


def log_file(path: Path) -> Path:
    """Return the path of the log of a file of traces."""
    return path.with_name(f"{path.name}.requests.jsonl")


def ask_teacher(
    work: Work,
    teacher: str,
    args: EndpointArguments,
    path: Path,
    *,
    progress: Callable[[str], None] | None = None,
) -> int:
    """Ask the teacher about every item, let critics grade right answers, and write the traces.

    A stopped run continues where it was: a question with an outcome is not asked again.

    Args:
        work: the items and prompts.
        teacher: the model's name at the endpoint.
        args: the endpoint, critics, limits and budget.
        path: JSONL file to write: a trace for every reply of the teacher, right or wrong. Questions that failed are
            counted in the manifest.
        progress: called with each line on repairs and progress.

    Returns:
        The number of traces.

    Raises:
        InputError: bad settings, items that are no training items, or a log of another configuration.
        CheckError: the budget is spent, the server is out of reach, or more than half of the questions failed. What
            came before is kept, and written.
    """
    report_line = progress or (lambda line: None)
    check_items(work.items)
    settings = args.teacher_settings(teacher)
    critics = [args.critic_settings(model) for model in args.critics]
    if args.max_in_flight < 1:
        raise InputError(f"max_in_flight: is {args.max_in_flight}; it must be at least 1")
    budget = args.budget()
    outcomes = Outcomes()
    with RequestLog(log_file(path)) as log:
        _take_up(log, path, work, args, report_line)
        budget.requests, budget.prompt_tokens, budget.completion_tokens = (
            log.requests, log.prompt_tokens, log.completion_tokens,
        )  # fmt: skip
        stopped = _ask(_Run(work, args, log, report_line), settings, critics, budget)
        count = write_traces(make_traces(work, teacher, args, critics, log, outcomes), path)
        write_manifest(path, outcomes, _facts(work, teacher, args, budget))
    _conclude(outcomes, stopped, len(work.items), report_line)
    return count


def _take_up(
    log: RequestLog, path: Path, work: Work, args: EndpointArguments, report_line: Callable[[str], None]
) -> None:
    """Continue an earlier run: compare its configuration, and forget the outcomes of questions to ask again."""
    if log.repaired:
        report_line(f"{log.path}: a torn last line of {log.repaired} bytes was dropped; its question is asked again")
    changed = _check_config(path, log, work)
    if (args.retry_failed or changed) and log.forget(log.failed):
        report_line(f"{log.path}: {len(log.failed)} questions failed for good before; they are asked again")
    if args.retry_failed and (unread := log.forget(_without_verdict(log))):
        report_line(f"{log.path}: {unread} replies of critics hold no verdict; they are asked again")
    if log.interrupted:
        report_line(
            f"{log.path}: {len(log.interrupted)} questions were under way when the last run stopped; they are "
            "asked again and count in the budget"
        )


def _ask(
    run: "_Run", teacher: EndpointSettings, critics: Sequence[EndpointSettings], budget: Budget
) -> CheckError | None:
    """Ask all questions that are not settled. Return the error that stopped the run early, None if none did."""
    stopped: CheckError | None = None
    try:
        run_async(run.ask_all(teacher, critics, budget), run.interrupt)
    except (BudgetSpentError, StoppedError) as error:
        stopped = error
    if run.interrupted:
        raise KeyboardInterrupt
    return stopped


def _facts(work: Work, teacher: str, args: EndpointArguments, budget: Budget) -> dict[str, Any]:
    """Return the manifest's facts besides the outcomes."""
    return {
        "teacher": teacher,
        "critics": args.critics,
        "base_url": args.base_url,
        "critic_base_url": args.critic_base_url or args.base_url,
        "mode": args.mode,
        "protocol": work.protocol,
        "spent": {
            "requests": budget.requests,
            "prompt_tokens": budget.prompt_tokens,
            "completion_tokens": budget.completion_tokens,
            "cost": round(budget.cost, 6),
        },
    }


def _conclude(outcomes: Outcomes, stopped: CheckError | None, n_items: int, report_line: Callable[[str], None]) -> None:
    """Report what failed. Raise if that was more than half, or if the run stopped early."""
    if hint := outcomes.parsed.hint():
        report_line(hint)
    failures = outcomes.failures()
    if failures and stopped is None and outcomes.mostly_failed():
        raise CheckError(f"{failures} (what came is written)")
    if failures:
        report_line(failures)
    if stopped is not None:
        raise CheckError(
            f"{stopped}; {outcomes.asked} of {n_items} items are done and written; mend that and run the same "
            "command again, which continues from there"
        )


def _check_config(path: Path, log: RequestLog, work: Work) -> bool:
    """Refuse a log of another configuration, unless all its questions failed. Store ours; return whether it differs."""
    # The protocol adds what the configuration does not contain: the labels' digest and the prompts' version.
    shaping = {**{key: value for key, value in work.config.items() if key not in FREE}, "protocol": work.protocol}
    file = config_file(path)
    changed = _changed(file, log, work, shaping) if log.done else []
    if changed and len(log.failed) < len(log.done):
        raise InputError(
            f"{log.path}: was begun with another configuration ({', '.join(changed)} changed); change it back, or "
            "choose another output"
        )
    if not log.done:
        manifest_file(path).unlink(missing_ok=True)  # of another making
    write_lines([yaml.safe_dump({**work.config, **shaping}, sort_keys=False).encode()], file)
    return bool(changed)


def _changed(file: Path, log: RequestLog, work: Work, shaping: dict[str, Any]) -> list[str]:
    """Return the keys in which the configuration of a log differs from ours."""
    if not file.is_file():
        raise InputError(
            f"{file}: is missing, so that nobody knows what the replies in {log.path.name} were asked for; restore "
            "it, or choose another output"
        )
    before = read_stored(file, "restore it, or choose another output")
    changed = sorted(key for key in {*before, *shaping} - FREE if before.get(key) != shaping.get(key))
    settled = {question for question in log.done if question.startswith("teacher|")}
    fewer = settled - {teacher_question(str(item)) for item in work.items["item_id"]}
    return changed or (["rows"] if fewer else [])  # some that were asked about would be left out


def _without_verdict(log: RequestLog) -> list[str]:
    """Return the critics' questions whose replies have no verdict that can be read."""
    questions = [question for question in log.done if question.startswith("critic|")]
    texts = ((question, log.read(question)["text"]) for question in questions)
    return [question for question, text in texts if text is not None and parse_verdict(text) is None]


class _Run:
    """One pass over the items with a bounded number of questions under way."""

    def __init__(
        self, work: Work, args: EndpointArguments, log: RequestLog, report_line: Callable[[str], None]
    ) -> None:
        self._work, self._args, self._log, self._report_line = work, args, log, report_line
        self._rows = iter(range(len(work.items)))
        self._records = work.items[["item_id", "label"]].astype("str").to_numpy()
        self._stopped: BaseException | None = None
        self.interrupted = False
        self._finished = 0
        self._parsed = Parsed()
        # Failures of an endpoint that may be down. They are settled when it answers or the run ends. If it is down,
        # they are not, so that the questions are asked again.
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

    def interrupt(self) -> None:
        """Finish the questions under way, which may cost money, and ask no others."""
        self.interrupted = True
        self._stopped = self._stopped or StoppedError("interrupted")
        for endpoint in self._held:
            endpoint.end()
        self._report_line(
            "stopping: waiting for the questions under way, which are paid for; Ctrl-C again stops at once"
        )

    async def _worker(self, teacher: Endpoint, critics: Sequence[Endpoint]) -> None:
        for row in self._rows:  # shared: each worker takes the next row
            if self._stopped is not None:
                return
            try:
                await self._item(row, teacher, critics)
            except Exception as error:  # the other workers finish their questions, which may cost money
                self._stopped = self._stopped or error
                return
            self._finished += 1
            if self._finished % 100 == 0 or self._finished == len(self._records):
                self._report_line(f"{self._finished} of {len(self._records)} items")

    async def _item(self, row: int, teacher: Endpoint, critics: Sequence[Endpoint]) -> None:
        item_id, label = self._records[row]
        prompt = self._work.prompts[row]
        question = teacher_question(item_id)
        new = question not in self._log.done
        if not new and not critics:
            return
        if new:
            asked = prompt if self._args.mode == "blind" else with_label(prompt, label)
            outcome = await self._ask(teacher, asked, question)
        else:
            outcome = self._log.read(question)
        if outcome["text"] is None:
            return
        answer = parse_answer(assemble_completion(outcome["text"], outcome["reasoning"], self._args.thinking))
        if new:
            self._count(outcome, answer)
        if (messages := to_grade(label, prompt, answer)) is not None:
            await self._grade(item_id, messages, critics)

    def _count(self, outcome: dict[str, Any], answer: Answer) -> None:
        """Count one of the first replies. Recommend `thinking: keep` if hardly any of them parses without it."""
        if self._parsed.replies < ENOUGH:
            count_reply(self._parsed, outcome, answer)
            if self._parsed.replies == ENOUGH and (hint := self._parsed.hint()):
                self._report_line(hint)

    async def _grade(self, item_id: str, messages: Sequence[Message], critics: Sequence[Endpoint]) -> None:
        """Ask each critic once, and once more if the reply has no verdict."""
        for critic in critics:
            for question in critic_questions(item_id, critic.settings, messages):
                done = question in self._log.done
                reply = self._log.read(question) if done else await self._ask(critic, messages, question)
                if reply["text"] is None or parse_verdict(reply["text"]) is not None:
                    break

    async def _ask(self, endpoint: Endpoint, messages: Sequence[Message], question: str) -> dict[str, Any]:
        async def note(event: str, prompt_tokens: int, completion_tokens: int) -> None:
            self._log.note(event, question, prompt_tokens, completion_tokens)

        # A question that is asked again gets another key: a server may repeat its reply under the same one.
        again = [before] if (before := self._log.outcomes[question]) else []
        key = json.dumps([question, request_shape(endpoint.settings, messages), *again])
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
