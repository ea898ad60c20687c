"""Make small logs with the real harnesses, for the tests of `synthpert compare`. No model: answers come from a rule.

Each harness runs in an environment of its own, since their requirements differ from this package's. Run this file with
that environment's Python, from the repository's root:

    python tools/make_harness_logs.py inspect tests/benchmarks/comparison/logs      # inspect-ai 0.3.285, openai
    python tools/make_harness_logs.py lm-eval tests/benchmarks/comparison/logs      # lm-eval 0.4.13
    python tools/make_harness_logs.py verifiers tests/benchmarks/comparison/logs    # verifiers 0.4.0, uv on the path

The task has 6 items in 3 perturbations and 2 genes. Systems a and b answer `yes` or `no` by a rule that both the
script and the tests know (`answer`). In inspect
and verifiers item 1 ends in an error, item 4 is cut off, and system a has two epochs.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

N_ITEMS: Final = 6
EPOCHS: Final = {"a": 2, "b": 1}
FAILS, CUT_OFF = 1, 4  # items


def item(at: int) -> dict[str, Any]:
    """Return an item: question, gold answer and cluster keys."""
    return {
        "id": f"i{at}", "question": f"Question {at}?", "answer": ("yes", "no")[at % 2], "pert": f"P{at // 2}",
        "gene": f"G{at % 2}",
    }  # fmt: skip


def answer(system: str, at: int, epoch: int) -> str:
    """Return what a system answers to an item; epochs count from 1."""
    right = (at * 5 + epoch * 7) % 12 < {"a": 9, "b": 4}[system]
    gold = str(item(at)["answer"])
    return gold if right else {"yes": "no", "no": "yes"}[gold]


def make_inspect(system: str, out: Path) -> None:
    """Write `inspect-<system>.eval`."""
    from inspect_ai import Task, eval  # type: ignore[import-not-found]
    from inspect_ai.dataset import MemoryDataset, Sample  # type: ignore[import-not-found]
    from inspect_ai.model import (  # type: ignore[import-not-found]
        ChatCompletionChoice,
        ChatMessageAssistant,
        ModelOutput,
        ModelUsage,
    )
    from inspect_ai.scorer import exact, includes  # type: ignore[import-not-found]
    from inspect_ai.solver import solver  # type: ignore[import-not-found]

    @solver  # type: ignore[untyped-decorator]
    def by_rule() -> Any:
        async def solve(state: Any, generate: Any) -> Any:
            await asyncio.sleep(0)
            at = int(state.sample_id[1:])
            if at == FAILS:
                raise RuntimeError("the server went away")
            message = ChatMessageAssistant(content=answer(system, at, state.epoch))
            choice = ChatCompletionChoice(message=message, stop_reason="max_tokens" if at == CUT_OFF else "stop")
            state.output = ModelOutput(
                model="rule", choices=[choice], usage=ModelUsage(input_tokens=3, output_tokens=1)
            )
            state.messages.append(message)
            return state

        return solve

    samples = [
        Sample(
            id=one["id"],
            input=one["question"],
            target=one["answer"],
            metadata={key: one[key] for key in ("pert", "gene")},
        )
        for one in map(item, range(N_ITEMS))
    ]
    with tempfile.TemporaryDirectory() as folder:
        task = Task(
            dataset=MemoryDataset(samples, name="toy"), solver=by_rule(), scorer=[exact(), includes()],
            epochs=EPOCHS[system], name="toy", fail_on_error=False,
        )  # fmt: skip
        eval(task, model="mockllm/model", log_dir=folder, display="none", log_format="eval")
        (log,) = Path(folder).glob("*.eval")
        shutil.copy(log, out / f"inspect-{system}.eval")


def make_lm_eval(system: str, out: Path) -> None:
    """Write `lm-eval-<system>.jsonl`: log-likelihoods of two choices, by the rule for epoch 1."""
    from lm_eval import simple_evaluate  # type: ignore[import-not-found]
    from lm_eval.api.model import LM  # type: ignore[import-not-found]
    from lm_eval.loggers import EvaluationTracker  # type: ignore[import-not-found]
    from lm_eval.tasks import TaskManager  # type: ignore[import-not-found]

    class Rule(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            chosen = [answer(system, int(one.args[0].split()[1][:-1]), 1) for one in requests]
            return [
                (-0.5 if one.args[1].strip() == word else -2.0, False)
                for one, word in zip(requests, chosen, strict=True)
            ]

        def loglikelihood_rolling(self, requests: Any, **_: Any) -> list[float]:
            raise NotImplementedError

        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            raise NotImplementedError

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "toy.jsonl").write_text("".join(json.dumps(item(at)) + "\n" for at in range(N_ITEMS)))
        metrics = [{"metric": one, "aggregation": "mean", "higher_is_better": True} for one in ("acc", "acc_norm")]
        config = {
            "task": "toy", "dataset_path": "json", "dataset_kwargs": {"data_files": str(folder / "toy.jsonl")},
            "test_split": "train", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
            "doc_to_target": "{{['yes','no'].index(answer)}}", "doc_to_choice": ["yes", "no"], "metric_list": metrics,
        }  # fmt: skip
        (folder / "toy.yaml").write_text(json.dumps(config))
        tracker = EvaluationTracker(output_path=name)
        results = simple_evaluate(
            Rule(), tasks=["toy"], task_manager=TaskManager(include_path=name), log_samples=True,
            evaluation_tracker=tracker, bootstrap_iters=0,
        )  # fmt: skip
        tracker.save_results_aggregated(results=results, samples=results["samples"])
        tracker.save_results_samples(task_name="toy", samples=results["samples"]["toy"])
        (log,) = folder.rglob("samples_toy_*.jsonl")
        shutil.copy(log, out / f"lm-eval-{system}.jsonl")


_TASKSET: Final = """
import sys

import verifiers.v1 as vf

sys.path.insert(0, {tools!r})
from make_harness_logs import N_ITEMS, item


class ToyData(vf.TaskData):
    answer: str
    pert: str
    gene: str


class ToyTask(vf.Task[ToyData]):
    @vf.reward(weight=1.0)
    async def right(self, trace: vf.Trace) -> float:
        return float(trace.last_reply == self.data.answer)

    @vf.metric
    async def reply_length(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply))


class ToyTaskset(vf.Taskset[ToyTask, vf.TasksetConfig]):
    def load(self):
        for one in map(item, range(N_ITEMS)):
            kept = {{key: one[key] for key in ("id", "answer", "pert", "gene")}}
            data = ToyData(prompt=one["question"], **kept)
            yield ToyTask(data, self.config.task)


__all__ = ["ToyTaskset"]
"""


def make_verifiers(system: str, out: Path) -> None:
    """Write `verifiers-<system>.jsonl`, from `vf-eval` against a server on loopback that answers by the rule."""
    asked: dict[int, int] = {}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            at = int(str(body["messages"][-1]["content"]).split()[1].rstrip('?"]}'))
            with lock:
                epoch = asked[at] = asked.get(at, 0) + 1
            if at == FAILS:
                error = {"error": {"message": "the server went away", "type": "bad_request"}}
                self.send(400, "application/json", json.dumps(error))
                return
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "rule"}
            delta = {"role": "assistant", "content": answer(system, at, epoch)}
            choice = {"index": 0, "delta": delta, "finish_reason": "length" if at == CUT_OFF else "stop"}
            usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
            chunks = [chunk | {"choices": [choice]}, chunk | {"choices": [], "usage": usage}]
            lines = [f"data: {json.dumps(one)}\n\n" for one in chunks]
            self.send(200, "text/event-stream", "".join([*lines, "data: [DONE]\n\n"]))

        def send(self, status: int, kind: str, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "toy_set.py").write_text(_TASKSET.format(tools=str(Path(__file__).parent.resolve())))
        script = "import sys; sys.path.insert(0, '.'); from verifiers.v1.cli.eval.main import main; main()"
        environment = os.environ | {"OPENAI_API_KEY": "none", "PYTHONPATH": name, "HOME": name}
        options = {
            "model": "rule",
            "client.base-url": f"http://127.0.0.1:{server.server_port}/v1",
            "client.api-key-var": "OPENAI_API_KEY",
            "num-rollouts": str(EPOCHS[system]),
            "output-dir": str(folder / "out"),
            "env.agent.harness.id": "null",
            "env.agent.runtime.type": "subprocess",
        }
        words = ["toy_set", "--no-push", "--no-rich", *(f"--{key}={value}" for key, value in options.items())]
        subprocess.run([sys.executable, "-c", script, *words], cwd=folder, check=True, env=environment)
        (log,) = (folder / "out").rglob("traces.jsonl")
        shutil.copy(log, out / f"verifiers-{system}.jsonl")
    server.shutdown()


if __name__ == "__main__":
    make = {"inspect": make_inspect, "lm-eval": make_lm_eval, "verifiers": make_verifiers}[sys.argv[1]]
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for system in "ab":
        make(system, folder)
