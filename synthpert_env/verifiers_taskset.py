"""PerturbQA as a taskset of verifiers 0.4. Its id is `synthpert-env`, as in `vf-eval synthpert-env`."""

from collections.abc import Iterator
from typing import Any, Literal

import verifiers.v1 as vf
from verifiers.v1.harnesses.null import NullHarness

from benchmarks.models.server import restore_think
from rewards import Status
from synthpert_env.items import Scored, gold_completion, score_completion, task_items

__all__ = ["NullHarness", "PerturbQATaskset"]


class PerturbQAConfig(vf.TasksetConfig):  # type: ignore[misc]
    """Which items are asked, and how: the arguments of `synthpert_env.items.task_items`."""

    data: str | None = None
    split: str = "official"
    cell_line: str | None = None
    items: int = 0
    item_seed: int = 0
    balance: bool = False
    template: Literal["three_class", "direction"] = "three_class"
    evidence: int | list[str] = 0
    lemmas: bool = False
    template_version: Literal[1, 2] = 2
    evidence_tokens: int | None = None
    evidence_from: str | None = None
    orthologs: str | None = None


class PerturbQAData(vf.TaskData):  # type: ignore[misc]
    """An item. `id` is its item_id; the prompt stands in `system_prompt` and `prompt`."""

    cell_line: str
    pert: str
    gene: str
    label: str


class PerturbQATask(vf.Task[PerturbQAData]):  # type: ignore[misc]
    """One item: a single turn, read by our parser."""

    @vf.reward(weight=1.0)  # type: ignore[untyped-decorator]
    async def accuracy(self, trace: Any) -> float:
        """1 if the answer is the true label, else 0. A rollout with an error is not scored: verifiers sees to that."""
        score = self._scored(trace).score
        assert score is not None
        return score

    @vf.metric  # type: ignore[untyped-decorator]
    async def answered(self, trace: Any) -> float:
        """1 if the parser reads a label, right or wrong, else 0."""
        return float(self._scored(trace).status == Status.ANSWERED)

    async def validate(self, runtime: Any) -> bool:
        """Whether a completion with the true label earns 1."""
        trace = vf.Trace(
            task=vf.TraceTask(type=type(self).__name__, data=self.data),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
        )
        reply = vf.AssistantMessage(content=gold_completion(self.data.label))
        trace.nodes.append(vf.MessageNode(message=reply, sampled=True))
        await self.score(trace)
        return bool(trace.reward == 1.0)

    def _scored(self, trace: Any) -> Scored:
        cut_off, replies, text = bool(trace.is_truncated), trace.assistant_messages, ""
        if replies:  # there is none where `vf-validate` scores a task that nobody has worked on
            text = restore_think(
                replies[-1].content or "", replies[-1].reasoning_content, "length" if cut_off else "stop"
            )
        return score_completion(text, self.data.label, cut_off=cut_off)


class PerturbQATaskset(vf.Taskset[PerturbQATask, PerturbQAConfig]):  # type: ignore[misc]
    """PerturbQA's test items, in the order of `synthpert eval`."""

    def load(self) -> Iterator[PerturbQATask]:
        """Yield a task for each item."""
        options = {name: getattr(self.config, name) for name in PerturbQAConfig.__annotations__}
        for item in task_items(**options):
            system, user = item["messages"]
            columns = {name: item[name] for name in ("cell_line", "pert", "gene", "label")}
            data = PerturbQAData(id=item["item_id"], system_prompt=system["content"], prompt=user["content"], **columns)
            yield PerturbQATask(data, self.config.task)
