"""Messages of libraries that stay out of a log."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BAR = "from tqdm.auto import tqdm; [_ for _ in tqdm(range(3), mininterval=0)]"


@pytest.mark.parametrize("hidden", [True, False])
def test_a_log_holds_no_progress_bar_of_a_library(hidden: bool) -> None:
    before = "from benchmarks.quiet import hide_library_noise; hide_library_noise(); " if hidden else ""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TQDM_")}
    done = subprocess.run(
        [sys.executable, "-c", before + BAR], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert ("3/3" in done.stderr) is not hidden
