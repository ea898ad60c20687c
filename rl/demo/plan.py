"""How large the demo is on this machine: the time of each stage, and the largest size that fits into the minutes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.progress import in_words
from rl.demo.rates import COMPLETION, PROMPT, Rates

MAX_TOKENS: Final = 96  # most tokens of a completion, as in configs/demo/
LINES: Final = 4  # cell lines of the sample
ALL_ITEMS: Final = 310  # test items of the sample
GROUP: Final = 8  # completions of a prompt in GRPO
HELD_OUT: Final = 24 * (2 + 1)  # answers to held-out prompts, sampled and greedy, each time that GRPO asks them
STAGES: Final = ("base", "SFT", "evaluation of SFT", "GRPO", "evaluation of SFT+GRPO", "report")
# By stage: the keys of a size that must not change once it has begun.
FIXED_BY: Final = {
    "base": ("base_items",), "SFT": ("traces", "batch", "gate"), "evaluation of SFT": ("items",),
    "GRPO": ("steps", "completions"),
}  # fmt: skip
_MAX_FILL: Final = 0.9  # largest share of the time that a plan fills


@dataclass(frozen=True)
class Size:
    """How much each stage of the demo does.

    Attributes:
        base_items: test items per cell line that the base model is asked. They are few, because the base model never
            ends an answer and so writes the maximum of tokens for each. The report compares it on these items.
        traces: traces that SFT trains on.
        batch: traces per step of SFT.
        gate: training prompts that the model is asked after SFT, to check that it answers.
        items: test items per cell line that SFT and SFT+GRPO are asked; 0 for all.
        steps: steps of GRPO.
        completions: rollouts per step of GRPO, `GROUP` for each prompt.
    """

    base_items: int
    traces: int
    batch: int
    gate: int
    items: int
    steps: int
    completions: int

    @property
    def test_items(self) -> int:
        """Test items of SFT and SFT+GRPO, over all cell lines."""
        return self.items * LINES or ALL_ITEMS


FULL: Final = Size(base_items=12, traces=192, batch=8, gate=16, items=0, steps=12, completions=32)
# The smallest SFT that was tried after which the model answers at least 95 % of the test items. With 48 traces, the
# number of steps decides:
# - 24 steps of 2 traces: 60 of 60 test items were answered,
# - 16 steps of 3 traces: 58 of 60,
# - 12 steps of 4 traces: 31 of 160.
FLOOR: Final = Size(base_items=3, traces=48, batch=2, gate=8, items=15, steps=2, completions=8)
SIZES: Final = 11  # from the floor to full size


def size_at(rank: int) -> Size:
    """Return the size of a rank from 0 (the floor) to `SIZES` - 1 (full size)."""
    if rank == SIZES - 1:
        return FULL
    share = rank / (SIZES - 1)

    def between(low: int, high: int) -> int:
        return round(low + share * (high - low))

    traces = between(FLOOR.traces, FULL.traces)
    return Size(
        base_items=between(FLOOR.base_items, FULL.base_items),
        traces=traces,
        batch=traces // 24,  # 24 steps or a few more
        gate=between(FLOOR.gate, FULL.gate),
        items=between(FLOOR.items, ALL_ITEMS // LINES),
        steps=between(FLOOR.steps, FULL.steps),
        completions=GROUP * between(FLOOR.completions // GROUP, FULL.completions // GROUP),
    )


def predict(size: Size, rates: Rates) -> dict[str, float]:
    """Return the seconds that each of `STAGES` is expected to take.

    The rates were measured with torch and transformers, but the stages use vLLM and TRL. The factors between the two
    were fitted to whole demos. `python -m tools.demo_costs` prints predicted and actual times side by side.
    """
    engine, trainer = 3.0 * rates.load, 2.0 * rates.load
    ask = PROMPT / rates.read
    learn = (PROMPT + COMPLETION) / rates.learn

    def answers(items: int, tokens: int) -> float:
        return items * (ask + 0.5 * tokens / rates.write)  # vLLM writes more completions at a time

    evaluation = engine + answers(size.test_items, COMPLETION)
    # A step of GRPO computes a prompt once for its group: rollouts, a forward pass for log-probabilities, and a forward
    # and backward pass.
    group = PROMPT / rates.read + GROUP * 0.5 * COMPLETION / rates.write
    group += 1.4 * (PROMPT + GROUP * COMPLETION) / rates.learn
    step = size.completions / GROUP * group
    return {
        "base": engine + answers(size.base_items * LINES, MAX_TOKENS),
        "SFT": trainer + 1.1 * size.traces * learn + 2 * answers(size.gate, COMPLETION),
        "evaluation of SFT": evaluation,
        "GRPO": engine + trainer + size.steps * step + 2 * answers(HELD_OUT, COMPLETION),
        "evaluation of SFT+GRPO": evaluation,
        "report": 2.0 * rates.load,
    }


def fit(rates: Rates, seconds: float, to_do: Sequence[str], begun: Collection[str], kept: Size | None) -> Size:
    """Return the largest size whose stages fit into the time, or the floor if none does.

    Args:
        rates: the machine's measured rates.
        seconds: the time left.
        to_do: the stages of `STAGES` that are not done.
        begun: the stages that have begun; their part of the size stays unchanged.
        kept: the size that these stages have; None if none has begun.
    """
    fixed = [] if kept is None else [key for stage in begun for key in FIXED_BY.get(stage, ())]
    for rank in reversed(range(SIZES)):
        size = replace(size_at(rank), **{key: getattr(kept, key) for key in fixed})
        if sum(predict(size, rates)[stage] for stage in to_do) <= _MAX_FILL * seconds:
            break
    return size


def describe_plan(size: Size, seconds: Mapping[str, float], to_do: Sequence[str]) -> list[str]:
    """Return the plan as lines: what each stage does, and how long it is expected to take.

    Args:
        size: the demo's size.
        seconds: the expected seconds of each stage.
        to_do: the stages that are not done.
    """
    does = {
        "base": f"{size.base_items * LINES} test items",
        "SFT": f"{size.traces} traces, {size.batch} a step",
        "evaluation of SFT": f"{size.test_items} test items",
        "GRPO": f"{size.steps} steps of {size.completions} rollouts",
        "evaluation of SFT+GRPO": f"{size.test_items} test items",
        "report": "with the baselines",
    }
    total = sum(seconds[stage] for stage in to_do)
    lines = [f"  {stage:24} {does[stage]:28} {in_words(seconds[stage])}" for stage in to_do]
    return [*lines, f"  about {in_words(total)} in all{scaled(size, '; ')}"]


def scaled(size: Size, lead: str = "") -> str:
    """Return `lead` and what is smaller than at full size; an empty text for full size."""
    pairs = (
        ("traces", size.traces, FULL.traces),
        ("test items", size.test_items, FULL.test_items),
        ("test items of base", size.base_items * LINES, FULL.base_items * LINES),
        ("steps of GRPO", size.steps, FULL.steps),
        ("rollouts a step", size.completions, FULL.completions),
    )
    smaller = [f"{few} of {many} {what}" for what, few, many in pairs if few < many]
    return f"{lead}scaled down to this machine: {', '.join(smaller)}" if smaller else ""
