"""The items of a task as `synthpert eval` asks them, and the score of a completion as it reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from benchmarks.evaluation.evaluate import read_generation
from benchmarks.evaluation.protocol import Protocol
from benchmarks.evaluation.run import select_test_items
from benchmarks.evidence.prompts import build_prompts, open_prompt_corpus
from benchmarks.keys import from_keys
from benchmarks.models.generation import Generation
from rewards import InputError, Status, as_label


class Item(TypedDict):
    """A test item, with plain values that JSON can hold.

    Keys:
        item_id: `cell_line|pert|gene`.
        cell_line, pert, gene: where it was measured, the gene knocked down, the gene read out.
        label: the true label, one of `rewards.LABELS`.
        messages: the prompt: `{"role", "content"}` of the system, then of the user.
    """

    item_id: str
    cell_line: str
    pert: str
    gene: str
    label: str
    messages: list[dict[str, str]]


@dataclass(frozen=True)
class Scored:
    """The score of a completion.

    Attributes:
        score: 1 if its label is right, 0 if it is wrong or there is none; None where the request failed.
        answer: the label it gives; None unless `status` is `answered`.
        status: `answered`, `malformed`, `incomplete` or `error`; see `rewards.Status`.
        reason: why it has this score, in words.
    """

    score: float | None
    answer: str | None
    status: str
    reason: str


def task_items(
    *,
    data: str | Path | None = None,
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
) -> list[Item]:
    """Return test items with their prompts. With the same values, `synthpert eval` asks the same, to the letter.

    Args:
        data: where the labels are, as in `benchmarks.load_labels`; `sample` for those that ship.
        split: name of a split; see `benchmarks.screens.splits`.
        cell_line: a cell line of the labels, to ask about this line only; None for all that the split tests.
        items: number of test items per cell line; 0 for all of them.
        item_seed: seed of the draw of these items, 0 to 2^31 - 1.
        balance: whether each label is drawn equally often.
        template: `three_class`, or `direction` for differentially expressed items only.
        evidence: number of similar knockdowns quoted in a prompt, at least 0; or a list of kinds of evidence, such as
            `["contrast,k=3"]`.
        lemmas: whether a prompt lists the eleven angles to consider.
        template_version: version of the wording, 1 or 2.
        evidence_tokens: most tokens of all evidence in a prompt; None for any number.
        evidence_from: another screen, whose labels evidence may use, in the words of `data`.
        orthologs: how symbols become those of that screen: `upper`, or a table.

    Returns:
        The items, in the order of `synthpert eval`.

    Raises:
        InputError: a value is unknown or out of range, the labels are missing, or there are too few items.
    """
    keys = {
        "split": split, "items": items, "item_seed": item_seed, "balance": balance, "template": template,
        "evidence": evidence, "lemmas": lemmas, "template_version": template_version,
        "evidence_tokens": evidence_tokens, "evidence_from": evidence_from, "orthologs": orthologs,
    }  # fmt: skip
    protocol: Protocol = from_keys(Protocol, keys, "task")
    corpus = open_prompt_corpus(data, protocol.split, protocol.prompt)
    if cell_line is not None and cell_line not in corpus.lines:
        raise InputError(f"task: cell_line is {cell_line!r}; use one of {', '.join(corpus.lines)}")
    chosen = select_test_items(corpus, protocol)
    if cell_line is not None:
        chosen = chosen[chosen["cell_line"] == cell_line]
        if chosen.empty:
            raise InputError(f"task: split {split!r} has no test items of {cell_line}; choose another cell_line")
    prompts = build_prompts(chosen, corpus, protocol.prompt)
    columns = [chosen[name].astype(str) for name in ("item_id", "cell_line", "pert", "gene", "label")]
    return [
        Item(
            item_id=item_id,
            cell_line=line,
            pert=pert,
            gene=gene,
            label=label,
            messages=[dict(message) for message in prompt],
        )
        for item_id, line, pert, gene, label, prompt in zip(*columns, prompts, strict=True)
    ]


def score_completion(
    completion: str | None,
    label: str,
    *,
    cut_off: bool = False,
    parser: Literal["strict", "lenient"] = "strict",
) -> Scored:
    """Score a completion as `synthpert eval` does.

    Args:
        completion: the model's text, think block included; None where the request failed.
        label: the true label, one of `rewards.LABELS`.
        cut_off: whether the limit on tokens ended the completion.
        parser: `strict` or `lenient`; see `rewards.parse_answer`.

    Returns:
        The score, and why.

    Raises:
        InputError: the label or the parser is unknown.
    """
    truth = as_label(label)
    error = None if completion is not None else "the request failed"
    generation = Generation(completion, "length" if cut_off else "stop", 0, None, error)
    answer, _ = read_generation(generation, Protocol(parser=parser))
    if answer.status is Status.ERROR:
        return Scored(None, None, str(answer.status), "not scored: the request failed")
    if answer.label is None:
        what = "was cut off before its answer" if answer.status is Status.INCOMPLETE else "gives no answer to read"
        return Scored(0.0, None, str(answer.status), f"unreadable: the completion {what}")
    right = answer.label is truth
    reason = f"{'right' if right else 'wrong'}: answered {str(answer.label)!r}, the label is {str(truth)!r}"
    return Scored(float(right), str(answer.label), str(answer.status), reason)


def gold_completion(label: str) -> str:
    """Return a completion that answers with a label; `score_completion` gives it 1.

    Args:
        label: one of `rewards.LABELS`.

    Raises:
        InputError: the label is unknown.
    """
    return f"<think>The label is known.</think><answer>{as_label(label)}</answer>"
