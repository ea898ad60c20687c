"""Make traces of the replies in a request log: the teacher's own thinking, its answer, the critics' verdicts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.chat import THINK, Message, join_think, split_think
from benchmarks.endpoint.settings import EndpointSettings
from rewards import Answer, Status, parse_answer
from sft.teacher.arguments import EndpointArguments, Thinking
from sft.teacher.critic import Verdict, combine, parse_verdict
from sft.teacher.outcomes import Outcomes, Parsed
from sft.teacher.questions import Work, critic_questions, teacher_question, to_grade
from sft.teacher.request_log import RequestLog
from sft.traces import Trace


def assemble_completion(text: str, reasoning: str | None, thinking: Thinking) -> str:
    """Return the completion that a student learns from a teacher's reply.

    A reasoning model thinks before it writes the think block that it was asked for. Its own thinking comes in a field
    of its own (`reasoning`), in a first think block, or up to a closing tag whose opening tag the chat template added.

    Args:
        text: the message's content.
        reasoning: the model's own thinking, if the server returns it in a field of its own.
        thinking: `strip` removes that thinking; `keep` puts it into the think block, in front of what was asked for.
    """
    own, rest = _split_thinking(text, reasoning)
    return rest.strip() if own is None or thinking == "strip" else join_think(own, rest)


def _split_thinking(text: str, reasoning: str | None) -> tuple[str | None, str]:
    if reasoning:
        return reasoning, text
    first, rest = split_think(text)
    if first is not None:
        return (first, rest) if rest.startswith(THINK) else (None, text)
    head, closing, rest = text.partition("</think>")
    return (head, rest.lstrip()) if closing and "<think>" not in head else (None, text)


def count_reply(parsed: Parsed, outcome: dict[str, Any], answer: Answer) -> None:
    """Count a reply: whether it gives an answer, or would give one with the teacher's own thinking kept."""
    text, reasoning = outcome["text"], outcome["reasoning"]
    apart = answer.label is None and _split_thinking(text, reasoning)[0] is not None
    kept = apart and parse_answer(assemble_completion(text, reasoning, "keep")).label is not None
    parsed.replies += 1
    parsed.answered += answer.label is not None
    parsed.only_if_kept += kept


def make_traces(
    work: Work,
    teacher: str,
    args: EndpointArguments,
    critics: Sequence[EndpointSettings],
    log: RequestLog,
    outcomes: Outcomes,
) -> Iterator[Trace]:
    """Yield a trace for every reply, and count the outcomes of all items."""
    for row, prompt in zip(work.items.itertuples(), work.prompts, strict=True):
        item_id, line, label = str(row.item_id), str(row.cell_line), str(row.label)
        reply = _read_reply(item_id, outcomes.cells.setdefault(f"{line}|{label}", Counter()), args, log, outcomes)
        if reply is None:
            continue
        completion, answer, created = reply
        messages = to_grade(label, prompt, answer) if critics else None
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
            critic=combine(verdicts, len(critics)),
            created=created,
            protocol=work.protocol,
        )


def _read_reply(
    item_id: str, cell: Counter[str], args: EndpointArguments, log: RequestLog, outcomes: Outcomes
) -> tuple[str, Answer, str] | None:
    """Count an item's outcome. Return the completion, the parsed answer and the time, None if there is no reply."""
    cell["drawn"] += 1
    if teacher_question(item_id) not in log.done:
        cell["not asked"] += 1  # the run was stopped before
        return None
    outcome = log.read(teacher_question(item_id))
    if outcome["text"] is None:
        outcomes.errors[outcome["error"]] += 1
        cell[str(Status.ERROR)] += 1
        return None
    completion = assemble_completion(outcome["text"], outcome["reasoning"], args.thinking)
    answer = parse_answer(completion)
    cut = outcome["finish_reason"] == "length" and answer.status is Status.MALFORMED
    cell[str(Status.INCOMPLETE if cut else answer.status)] += 1
    count_reply(outcomes.parsed, outcome, answer)
    return completion, answer, outcome["created"]


def _verdicts(
    item_id: str,
    messages: Sequence[Message],
    critics: Sequence[EndpointSettings],
    log: RequestLog,
    outcomes: Outcomes,
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for critic in critics:
        outcomes.critic["grades wanted"] += 1
        for question in critic_questions(item_id, critic, messages):
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
        else:
            outcomes.critic["asked in vain"] += 1
    outcomes.critic["graded by several"] += len(verdicts) > 1
    outcomes.critic["of these not unanimous"] += len({one.verdict for one in verdicts}) > 1
    return verdicts
