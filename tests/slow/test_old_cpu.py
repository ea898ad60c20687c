"""What a CPU with AVX2 alone computes: a modern one is held to that by the environment."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.needs_vllm]
REPO = Path(__file__).resolve().parents[2]
OLD_CPU = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
N = 256
SAMPLE = """
import json
import math
import sys

from benchmarks.chat import encode_prompt, open_tokenizer
from benchmarks.models.engines import VLLMEngine
from pathlib import Path
from vllm import SamplingParams

if __name__ == "__main__":
    model, n = Path(sys.argv[1]), int(sys.argv[2])
    engine = VLLMEngine(model, max_model_len=256)
    tokenizer = open_tokenizer(model)
    for text in ("Repeat this text exactly: upregulated", "What is 2+2? Answer with one number only."):
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": text}])
        # As stage two asks: no request has a seed of its own.
        params = SamplingParams(max_tokens=1, temperature=1.0, logprobs=5, detokenize=False)
        outputs = engine._llm.generate([{"prompt_token_ids": prompt}] * n, params, use_tqdm=False)
        told = {token: math.exp(one.logprob) for token, one in outputs[0].outputs[0].logprobs[0].items()}
        likeliest = max(told, key=told.get)
        drawn = sum(output.outputs[0].token_ids[0] == likeliest for output in outputs)
        print(json.dumps({"dtype": engine.facts()["dtype"], "p": told[likeliest], "drawn": drawn}))
    engine.close()
"""


def test_rollouts_are_drawn_from_the_probabilities_that_are_told(smollm2: Path, tmp_path: Path) -> None:
    """vLLM's sampler, compiled for such a CPU and two threads, never drew these prompts' likeliest first tokens."""
    script = tmp_path / "sample.py"
    script.write_text(SAMPLE)
    env = {
        **os.environ, **OLD_CPU, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script), str(smollm2), str(N)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(rows) == 2
    for row in rows:
        assert row["dtype"] == "float32"
        p = row["p"]
        assert 0.1 < p < 0.9
        # Five standard deviations of a binomial count.
        assert abs(row["drawn"] - N * p) <= 5 * math.sqrt(N * p * (1 - p)), row
