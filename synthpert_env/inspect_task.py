"""PerturbQA as a task of inspect, and metrics for any task of inspect whose errors are correlated.

inspect finds both by the entry point `synthpert_env`:

- `inspect eval synthpert_env/perturbqa` evaluates a model; `-T` sets the arguments of `perturbqa`.
- `synthpert_env/clustered_stderr`, `synthpert_env/clustered_ci` and `synthpert_env/answered` are metrics.

This module imports inspect, so nothing of ours imports it.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import (
    CORRECT,
    INCORRECT,
    Score,
    accuracy,
    metric,
    scorer,
    stderr,
    value_to_float,
)
from inspect_ai.solver import generate

from benchmarks import ScoreComparison
from benchmarks.evaluation.protocol import Protocol
from rewards import InputError
from synthpert_env.estimates import clustered_mean
from synthpert_env.inspect_replies import CUT_OFF, written_text
from synthpert_env.items import Item, score_completion, task_items

CLUSTERS: Final = ("pert", "gene")
# inspect puts a package's name before the names of what an installed package registers. It does not see that a package
# is installed if it was installed from a folder as editable.
_PREFIX: Final = "" if "site-packages" in __file__ else "synthpert_env/"
_MESSAGES: Final = {"system": ChatMessageSystem, "user": ChatMessageUser}


@metric(f"{_PREFIX}clustered_stderr")  # type: ignore[untyped-decorator]
def clustered_stderr(clusters: Sequence[str] = CLUSTERS) -> Any:
    """Standard error of the mean score, for errors correlated within one or two keys of the sample's metadata.

    Args:
        clusters: up to two keys. With one, it is inspect's `stderr(cluster=…)`.

    Returns:
        The metric: NaN where a key has a single value, or nothing was scored.
    """

    def compute(scores: list[Any]) -> float:
        return _estimate(scores, clusters).se if scores else math.nan

    return compute


@metric(f"{_PREFIX}clustered_ci")  # type: ignore[untyped-decorator]
def clustered_ci(clusters: Sequence[str] = CLUSTERS) -> Any:
    """95 % interval of the mean score, for errors correlated within one or two keys of the sample's metadata.

    Args:
        clusters: up to two keys.

    Returns:
        The metric, with the values `lower` and `upper`: NaN where a key has a single value, or nothing was scored.
    """

    def compute(scores: list[Any]) -> dict[str, float]:
        if not scores:
            return {"lower": math.nan, "upper": math.nan}
        found = _estimate(scores, clusters)
        return {"lower": found.low, "upper": found.high}

    return compute


# Over all epochs: inspect keeps of an item's mean score the answer of its first epoch only.
@metric(f"{_PREFIX}answered", scores="unreduced")  # type: ignore[untyped-decorator]
def answered() -> Any:
    """Share of the scored completions that give an answer to read.

    Returns:
        The metric: NaN where nothing was scored.
    """

    def compute(scores: list[Any]) -> float:
        return sum(one.score.answer is not None for one in scores) / len(scores) if scores else math.nan

    return compute


def _estimate(scores: Sequence[Any], clusters: Sequence[str]) -> ScoreComparison:
    to_float = value_to_float()
    return clustered_mean(
        [at if one.sample_id is None else one.sample_id for at, one in enumerate(scores)],
        [to_float(one.score.value) for one in scores],
        [one.sample_metadata or {} for one in scores],
        clusters,
    )


@scorer(  # type: ignore[untyped-decorator]
    metrics=[accuracy(), answered(), stderr(cluster="pert"), clustered_stderr(), clustered_ci()],
    name=f"{_PREFIX}right_label",
)
def right_label(parser: Literal["strict", "lenient"] = "strict") -> Any:
    """Score whether the label that a completion gives is the target, as `synthpert eval` reads it.

    Args:
        parser: `strict` or `lenient`; see `rewards.parse_answer`.

    Returns:
        The scorer. A failed request is unscored, never wrong.
    """

    async def score(state: Any, target: Any) -> Score:
        text = None
        if state.output.choices:
            text = written_text(state.output.message.content, state.output.stop_reason)
        found = score_completion(text, target.text, cut_off=state.output.stop_reason == CUT_OFF, parser=parser)
        kept = {"answer": found.answer, "explanation": found.reason, "metadata": {"status": found.status}}
        if found.score is None:
            return Score.unscored(reason="scoring_failed", **kept)
        reason = "invalid_response_format" if found.answer is None else None
        return Score(value=CORRECT if found.score else INCORRECT, reason=reason, **kept)

    return score


@task(name=f"{_PREFIX}perturbqa")  # type: ignore[untyped-decorator]
def perturbqa(
    data: str | None = None,
    split: str = "official",
    cell_line: str | None = None,
    items: int = 0,
    item_seed: int = 0,
    balance: bool = False,
    template: Literal["three_class", "direction"] = "three_class",
    evidence: int | list[str] = 0,
    lemmas: bool = False,
    template_version: Literal[1, 2] = 2,
    evidence_tokens: int | None = None,
    evidence_from: str | None = None,
    orthologs: str | None = None,
    parser: Literal["strict", "lenient"] = "strict",
) -> Task:
    """Which effect has the knockdown of one gene on another? Prompts and scores are those of `synthpert eval`.

    Decoding is greedy, with at most as many tokens as `synthpert eval` allows by default. inspect's own options, such
    as `--max-tokens` and `--temperature`, change that.

    Args:
        data, split, cell_line, items, item_seed, balance, template, evidence, lemmas, template_version,
            evidence_tokens, evidence_from, orthologs: see `synthpert_env.items.task_items`.
        parser: see `right_label`.
    """
    try:
        found = task_items(
            data=data, split=split, cell_line=cell_line, items=items, item_seed=item_seed, balance=balance,
            template=template, evidence=evidence, lemmas=lemmas, template_version=template_version,
            evidence_tokens=evidence_tokens, evidence_from=evidence_from, orthologs=orthologs,
        )  # fmt: skip
        protocol = Protocol(parser=parser)
    except InputError as error:
        from inspect_ai._util.error import PrerequisiteError  # inspect shows no traceback of this one

        raise PrerequisiteError(str(error)) from None
    return Task(
        dataset=MemoryDataset([_sample(item) for item in found], name="perturbqa"),
        solver=generate(),
        scorer=right_label(parser),
        config=GenerateConfig(temperature=protocol.temperature, max_tokens=protocol.max_tokens),
        version=template_version,
    )


def _sample(item: Item) -> Sample:
    return Sample(
        id=item["item_id"],
        input=[_MESSAGES[one["role"]](content=one["content"]) for one in item["messages"]],
        target=item["label"],
        metadata={"cell_line": item["cell_line"], "pert": item["pert"], "gene": item["gene"]},
    )
