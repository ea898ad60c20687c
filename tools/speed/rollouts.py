"""vLLM against transformers' `generate`, on the same prompts of the sample.

`python -m tools.speed.rollouts [--json FILE] [--rounds N] [--prompts N] [--samples N] [--tokens N] [--model PATH]`.

Each engine loads the model, warms up with one prompt, and is timed then. The untrained model seldom ends an answer, so
that both engines write about as many tokens. A row's seconds are those of a token. transformers generates 16
completions at a time, as in an evaluation with `engine: transformers`.
"""

import time
from types import SimpleNamespace
from typing import Any

from benchmarks.models.engines import Request, open_engine
from tools.speed.sides import compared, did_job, in_turn, make_parser, peak_memory, run_apart, show, write_results


def measure(engine: str, model: str, prompts: int, samples: int, tokens: int) -> dict[str, float]:
    """Return the seconds of a token, the memory, the mean tokens of a prompt, and the tokens written."""
    from benchmarks.evidence.corpus import draw_items, open_corpus
    from benchmarks.evidence.prompts import PromptConfig, build_prompts

    corpus = open_corpus("sample", "official")
    items = draw_items(corpus.train, prompts, seed=0, balance=True)
    messages = build_prompts(items, corpus, PromptConfig(evidence=5))
    decoding: Any = SimpleNamespace(temperature=1.0, top_p=1.0, max_tokens=tokens, scores="votes")
    opened = open_engine(engine, model, max_model_len=1024)
    opened.generate([Request(messages[0], seed) for seed in range(samples)], decoding)
    requests = [Request(message, seed) for message in messages for seed in range(samples)]
    began = time.perf_counter()
    written = sum(one.completion_tokens for one in opened.generate(requests, decoding))
    seconds = time.perf_counter() - began
    length = sum(opened.prompt_tokens(message) or 0 for message in messages) / prompts
    opened.close()
    return {"seconds": seconds / written, "memory_gib": peak_memory(), "prompt": length, "written": written}


def main() -> None:
    """Measure both engines in turn."""
    if did_job(measure):
        return
    parser = make_parser(__doc__)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    options = parser.parse_args()
    job = {name: getattr(options, name) for name in ("model", "prompts", "samples", "tokens")}

    def side(engine: str) -> Any:
        return lambda: run_apart("tools.speed.rollouts", engine=engine, **job)

    found = in_turn({name: side(name) for name in ("vllm", "transformers")}, options.rounds)
    row = {
        "name": f"rollouts, {options.prompts} prompts", "prompt": round(found["vllm"][0]["prompt"]),
        "completion": options.tokens, "group": options.samples, **compared(found["vllm"], found["transformers"]),
    }  # fmt: skip
    show(row)
    write_results(options.json, [row], unit="seconds of a token", written=found["vllm"][0]["written"])


if __name__ == "__main__":
    main()
