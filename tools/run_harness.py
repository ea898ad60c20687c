"""Run our task in inspect, lm-evaluation-harness and verifiers, each in its environment, against a loopback server.

The slow tests do so with a real model. Run as a script, this makes the small logs of `tests/synthpert_env/logs`, where
the answers come from a rule that the tests know:

    python tools/run_harness.py ~/harnesses tests/synthpert_env/logs
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run by its path
    sys.path.insert(0, str(ROOT))

from benchmarks.comparison.inspect_logs import read_entry  # noqa: E402
from rewards import LABELS  # noqa: E402
from tools.harness_envs import environment  # noqa: E402

Messages = list[dict[str, str]]
ITEMS: Final = {"data": "sample", "items": 4, "balance": True}  # of the logs, in each cell line
MAX_TOKENS: Final = 64


class ModelServer:
    """An OpenAI-compatible server on loopback, which keeps what it is asked.

    Args:
        reply: returns a completion and its finish reason, `stop` or `length`, for a chat and a limit on tokens.
        log_probabilities: returns the natural log-probability of each token id but the first, given those before it;
            None if the server has no `/completions`.

    Attributes:
        asked: the chats, and the prompts of `/completions` as token ids, in the order of their arrival.
    """

    def __init__(
        self,
        reply: Callable[[Messages, int], tuple[str, str]],
        log_probabilities: Callable[[Sequence[int]], Sequence[float]] | None = None,
    ) -> None:
        self.asked: list[Any] = []
        lock = threading.Lock()  # one question at a time
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    if "prompt" in body:
                        assert log_probabilities is not None
                        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
                        asked.extend(prompts)
                        answer: dict[str, Any] = echoed(prompts, log_probabilities)
                    else:
                        asked.append(body["messages"])
                        answer = chat(*reply(body["messages"], body.get("max_tokens") or body["max_completion_tokens"]))
                if body.get("stream"):
                    self.send("text/event-stream", as_stream(answer))
                else:
                    self.send("application/json", json.dumps(answer))

            def send(self, kind: str, text: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def chat(text: str, finish_reason: str) -> dict[str, Any]:
    """Return a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


def as_stream(answer: dict[str, Any]) -> str:
    """Return a chat completion as the events of a stream."""
    head = {key: answer[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    (choice,) = answer["choices"]
    delta = {"index": 0, "delta": choice["message"], "finish_reason": choice["finish_reason"]}
    chunks = [head | {"choices": [delta]}, head | {"choices": [], "usage": answer["usage"]}]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def echoed(
    prompts: Sequence[Sequence[int]], log_probabilities: Callable[[Sequence[int]], Sequence[float]]
) -> dict[str, Any]:
    """Return completions of one token, with the log-probabilities of the prompt's tokens, as `echo` asks for."""
    choices = []
    for at, ids in enumerate(prompts):
        values = [None, *log_probabilities(ids), 0.0]  # the last is the new token's, which nobody reads
        top = [None if value is None else {"token": value} for value in values]
        choices.append({"index": at, "text": "", "logprobs": {"token_logprobs": values, "top_logprobs": top}})
    return {"id": "c", "object": "text_completion", "created": 0, "model": "m", "choices": choices}


def run_lm_eval(
    python: Path, task: str, url: str, out: Path, items: dict[str, Any], tokenizer: Path, max_tokens: int = MAX_TOKENS
) -> tuple[Path, dict[str, Any]]:
    """Run lm-eval's command with one of our tasks.

    Args:
        python: of its environment.
        task: `perturbqa` or `perturbqa_labels`.
        url: the server's, with `/v1`.
        out: an empty folder for what it writes.
        items: arguments of `synthpert_env.items.task_items`.
        tokenizer: a model's folder. `perturbqa_labels` renders and splits prompts with it.
        max_tokens: longest completion.

    Returns:
        The file with its samples, and the metrics that it reports.
    """
    words = ["--tasks", task, "--include_path", str(ROOT / "synthpert_env" / "lm_eval"), "--apply_chat_template"]
    words += ["--metadata", json.dumps({"perturbqa": items}), "--output_path", str(out), "--log_samples"]
    if task == "perturbqa":
        words += ["--model", "local-chat-completions", "--gen_kwargs", f"max_gen_toks={max_tokens}"]
        words += ["--model_args", f"model=m,base_url={url}/chat/completions"]
    else:
        words += ["--model", "local-completions", "--model_args"]
        words += [f"model=m,base_url={url}/completions,tokenizer_backend=huggingface,tokenizer={tokenizer}"]
    _run([str(python), "-m", "lm_eval", "run", *words], out)
    (samples,) = out.rglob(f"samples_{task}_*.jsonl")
    (results,) = out.rglob("results_*.json")
    return samples, json.loads(results.read_text(encoding="utf-8"))["results"][task]


def run_verifiers(
    python: Path, url: str, out: Path, items: dict[str, Any], rollouts: int = 1, max_tokens: int = MAX_TOKENS
) -> Path:
    """Run `vf-eval` with our taskset; see `run_lm_eval`. Returns the file with its traces."""
    options = {
        **{f"env.taskset.{name}": str(value).lower() for name, value in items.items()},
        **{"model": "m", "client.base-url": url, "client.api-key-var": "OPENAI_API_KEY"},
        **{"env.agent.runtime.type": "subprocess", "num-rollouts": rollouts, "output-dir": out},
        **{"sampling.temperature": 0.0, "sampling.max-tokens": max_tokens},
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    _run([str(python.parent / "vf-eval"), "synthpert-env", "--no-push", "--no-rich", *words], out)
    (traces,) = out.rglob("traces.jsonl")
    return traces


def run_inspect(
    python: Path, url: str, out: Path, items: dict[str, Any], task: str = "synthpert_env/perturbqa",
    max_tokens: int = MAX_TOKENS,
) -> Path:  # fmt: skip
    """Run `inspect eval`, by default with our task; see `run_lm_eval`. Returns its log."""
    words = [task, "--model", "openai-api/local/m", "--model-base-url", url, "--max-tokens", str(max_tokens)]
    words += ["--log-dir", str(out), "--display", "none"]
    words += [word for name, value in items.items() for word in ("-T", f"{name}={str(value).lower()}")]
    _run([str(python.parent / "inspect"), "eval", *words], out)
    (log,) = out.glob("*.eval")
    return log


def _run(command: list[str], out: Path) -> None:
    environment = os.environ | {
        "OPENAI_API_KEY": "none", "LOCAL_API_KEY": "none", "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")


def reply_by_rule(system: str, messages: Messages, max_tokens: int = 0) -> tuple[str, str]:
    """Return what a system answers to a chat, and the finish reason: any label, no label, or half a thought."""
    drawn = int(hashlib.sha256(f"{system}|{messages[-1]['content']}".encode()).hexdigest(), 16)
    said = (*map(str, LABELS), *map(str, LABELS), "no idea")[drawn % 7]
    if drawn // 7 % 8 == 0:
        return "<think>It depends", "length"
    return f"<think>A guess.</think><answer>{said}</answer>", "stop"


def rule_log_probabilities(system: str, ids: Sequence[int]) -> list[float]:
    """Return log-probabilities of tokens that depend on the system and on all tokens up to each."""
    found, state = [], hashlib.sha256(system.encode())
    for token in ids:
        state.update(token.to_bytes(4, "big"))
        found.append(-(int.from_bytes(state.digest()[:2], "big") + 1) / 20_000)
    return found[1:]


def copy_log(log: Path, out: Path) -> None:
    """Copy a log of inspect, without this machine's folder that it names as the place of the task."""
    with zipfile.ZipFile(log) as read, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as written:
        for name in read.namelist():
            written.writestr(name, read_entry(log, read, name).replace(f"{ROOT}/".encode(), b""))


def main() -> None:
    """Make the logs of systems a and b."""
    parser = argparse.ArgumentParser(description="Make small logs of our task with inspect, lm-eval and verifiers.")
    parser.add_argument("environments", type=Path, help="folder of the environments, as of tools/harness_envs.py")
    parser.add_argument("out", type=Path, help="where the logs go")
    args = parser.parse_args()
    folder = args.environments.expanduser()
    args.out.mkdir(parents=True, exist_ok=True)
    inspect, lm_eval, verifiers = (environment(one, folder) for one in ("inspect", "lm-eval", "verifiers"))
    tokenizer = ROOT / "models" / "smollm2-135m-instruct"
    for system in "ab":
        with (
            ModelServer(partial(reply_by_rule, system), partial(rule_log_probabilities, system)) as server,
            tempfile.TemporaryDirectory() as name,
        ):
            for task in ("perturbqa", "perturbqa_labels"):
                samples, _ = run_lm_eval(lm_eval, task, server.url, Path(name, task), ITEMS, tokenizer)
                shutil.copy(samples, args.out / f"lm-eval-{task}-{system}.jsonl")
            copy_log(
                run_inspect(inspect, server.url, Path(name, "inspect"), ITEMS), args.out / f"inspect-{system}.eval"
            )
            traces = run_verifiers(verifiers, server.url, Path(name, "verifiers"), ITEMS)
            text = traces.read_text(encoding="utf-8").replace(str(Path.home()), "~")  # it names folders of this machine
            (args.out / f"verifiers-{system}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
