"""An evaluation that is killed in its middle and run again ends in what an unbroken one ends in."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.evaluation.predictions import read_facts, read_predictions

pytestmark = pytest.mark.slow

N_ITEMS = 24
SCRIPT = """
import os
import signal
import sys
from pathlib import Path

import pandas as pd

from benchmarks.models.engines import open_engine
from benchmarks.evaluation.evaluate import evaluate
from benchmarks.evaluation.protocol import Protocol


def main() -> None:
    name, model, run_dir = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    n_items, last = int(sys.argv[4]), int(sys.argv[5])
    genes = [f"G{i}" for i in range(n_items)]
    items = pd.DataFrame({"cell_line": "rpe1", "pert": "AARS", "gene": genes, "label": "upregulated"})
    items["item_id"] = "rpe1|AARS|" + items["gene"]
    text = (
        "Answer <think>reason</think><answer>upregulated</answer> "
        "or <think>reason</think><answer>downregulated</answer>. "
    )
    messages = [[{"role": "user", "content": text + f"What happens to {gene}?"}] for gene in genes]
    protocol = Protocol(data="digest", max_tokens=32, temperature=0.8, top_p=0.95, samples=2, parser="lenient")
    engine = open_engine(name, model, max_model_len=512)

    def progress(done: float, total: int, tokens: int) -> None:
        print(done, flush=True)
        if done > last:  # within a chunk where the engine tells of one that early, else after it
            os.kill(os.getpid(), signal.SIGKILL)

    evaluate(engine, items, messages, protocol, run_dir, chunk=6, progress=progress)
    engine.close()


if __name__ == "__main__":
    main()
"""


def run(script: Path, name: str, model: Path, run_dir: Path, last: int, code: int = 0) -> list[float]:
    """Run the evaluation, killed once more than `last` rows are done; return the rows done that it told of."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    # With several threads, torch on a busy machine changed the last bits of a batch, and with them sampled texts.
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if name == "transformers" else {}
    done = subprocess.run(
        [sys.executable, str(script), name, str(model), str(run_dir), str(N_ITEMS), str(last)],
        env={**os.environ, **one_thread, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code
    return [float(line) for line in done.stdout.splitlines() if line.replace(".", "", 1).isdigit()]


@pytest.mark.parametrize(
    "name",
    [
        "transformers",
        pytest.param("vllm", marks=pytest.mark.needs_vllm),
    ],
)
def test_killed_then_resumed_equals_unbroken(name: str, tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "evaluate_once.py"
    script.write_text(SCRIPT)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    never = 2 * N_ITEMS
    assert run(script, name, tiny_model, unbroken, never)[0] == 0

    run(script, name, tiny_model, broken, 18, code=-signal.SIGKILL)
    assert not (broken / "predictions.parquet").exists()
    kept = len(list((broken / "predictions.parts").glob("part-*.parquet")))
    assert kept in (3, 4)
    # What a kill in the middle of a write leaves behind.
    (broken / "predictions.parts" / "part-000007.parquet.partial").write_bytes(b"PAR1")

    seen = run(script, name, tiny_model, broken, never)
    assert seen[0] == 6 * kept  # nothing is generated again
    assert seen[-1] == 2 * N_ITEMS

    expected: dict[str, Any] = read_facts(unbroken / "predictions.parquet")
    assert read_facts(broken / "predictions.parquet") == expected
    frame = read_predictions(unbroken / "predictions.parquet")
    assert len(frame) == 2 * N_ITEMS
    pd.testing.assert_frame_equal(read_predictions(broken / "predictions.parquet"), frame, check_exact=True)
    assert frame["completion"].nunique() > N_ITEMS  # sampled texts, not one text again and again
    assert [child.name for child in broken.iterdir()] == ["predictions.parquet"]
