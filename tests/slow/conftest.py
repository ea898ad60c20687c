"""What slow tests of harnesses need: their environments, and the real model behind a server on loopback."""

import json
import os
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.evaluation.protocol import Protocol
from benchmarks.models.generation import Request
from benchmarks.models.transformers_engine import TransformersEngine
from tools.harness_envs import environment
from tools.run_harness import Messages, ModelServer


@pytest.fixture(scope="session")
def harness_python() -> Callable[[str], Path]:
    """Return a function from a harness's name to the Python of its environment, which is made on first use.

    The environments stay in `SYNTHPERT_HARNESSES`, by default in the user's cache.
    """
    folder = Path(os.environ.get("SYNTHPERT_HARNESSES") or Path.home() / ".cache" / "synthpert" / "harnesses")

    def python(harness: str) -> Path:
        try:
            return environment(harness, folder)
        except subprocess.CalledProcessError as error:
            if os.environ.get("SYNTHPERT_NO_SKIP"):
                pytest.fail(f"SYNTHPERT_NO_SKIP is set, but {harness} cannot be installed: {error}")
            pytest.skip(f"{harness} cannot be installed: {error}")

    return python


class RealModel:
    """SmolLM2-135M, decoded greedily. A chat is completed once; harnesses that ask it again get the same text.

    Untuned, a model of this size does not come to an answer. In every second chat, about, it therefore answers at once,
    after an empty thought.
    """

    def __init__(self, folder: Path) -> None:
        self.engine = TransformersEngine(folder, dtype="float32")
        self._said: dict[str, tuple[str, str]] = {}

    def reply(self, messages: Messages, max_tokens: int) -> tuple[str, str]:
        """Return the completion and its finish reason."""
        key = json.dumps([messages, max_tokens])
        if key not in self._said:
            if zlib.crc32(messages[-1]["content"].encode()) % 2:
                (found,) = self.engine.answer_directly([messages])
            else:
                protocol = Protocol(max_tokens=max_tokens, scores="votes")
                (found,) = self.engine.generate([Request(messages, 0)], protocol)
            assert found.text is not None
            self._said[key] = found.text, found.finish_reason
        return self._said[key]

    def log_probabilities(self, ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token but the first."""
        import torch

        row = torch.tensor([list(ids)])
        with torch.inference_mode():
            logprobs = self.engine._lm(input_ids=row).logits[0, :-1].float().log_softmax(-1)
        return [float(one) for one in logprobs.gather(-1, row[0, 1:, None])[:, 0]]


@pytest.fixture(scope="session")
def real_model(smollm2: Path) -> Iterator[RealModel]:
    """The model; loaded once."""
    model = RealModel(smollm2)
    yield model
    model.engine.close()


@pytest.fixture
def served_model(real_model: RealModel) -> Iterator[ModelServer]:
    """The model behind an OpenAI-compatible server on loopback."""
    with ModelServer(real_model.reply, real_model.log_probabilities) as server:
        yield server
