"""Make an environment for inspect, lm-evaluation-harness or verifiers, with this package in it.

    python tools/harness_envs.py ~/harnesses lm-eval verifiers    # or inspect; prints the Python of each

What these harnesses require cannot stand beside what this package requires: inspect-ai wants an older fsspec, verifiers
an older openai. Each therefore has an environment of its own, a folder within the one that you name. It holds what
`synthpert_env` imports and no torch: the model runs on a server. An environment that is there already is left as it is.
"""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # run by its path
    sys.path.insert(0, str(ROOT))

from tools.install import UV, pip_settings, reason_for_pip, uv_env  # noqa: E402

OURS: Final = ("numpy>=2", "pandas>=3", "pyarrow>=21", "pyyaml>=6", "scipy>=1.15", "setuptools>=77")
HARNESSES: Final = {
    "inspect": ("inspect-ai==0.3.285", "openai>=2.25"),
    "lm-eval": ("lm-eval[api]==0.4.13", "transformers==5.17.0"),  # transformers for the tokenizer of log-likelihoods
    "verifiers": ("verifiers==0.4.0", UV),  # verifiers runs uv
}


def environment(harness: str, folder: Path) -> Path:
    """Make a harness's environment if it is not there yet.

    Args:
        harness: one of `HARNESSES`.
        folder: where the environments are, one folder each.

    Returns:
        The Python of the environment.

    Raises:
        subprocess.CalledProcessError: the packages cannot be installed; the installer has printed why.
    """
    path, wanted = folder / harness, json.dumps([*HARNESSES[harness], *OURS, sys.version, str(ROOT)])
    python, stamp = path / "bin" / "python", path / "made.json"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{harness}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be making it
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(path, ignore_errors=True)
            _make(path, [*HARNESSES[harness], *OURS])
            stamp.write_text(wanted, encoding="utf-8")
    return python


def _make(path: Path, packages: Sequence[str]) -> None:
    """Make an environment with uv if `make install` has left one and it can be given pip's settings; else with pip."""
    uv, python = ROOT / ".venv" / "bin" / "uv", path / "bin" / "python"
    settings = pip_settings() if uv.is_file() else {}
    ours = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    if uv.is_file() and not reason_for_pip(settings):
        env = uv_env(settings)
        subprocess.run([str(uv), "venv", "--quiet", "--python", sys.executable, str(path)], env=env, check=True)
        install = [str(uv), "pip", "install", "--quiet", "--python", str(python)]
    else:
        env = dict(os.environ)
        subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
    for words in (packages, ours):
        subprocess.run([*install, *words], env=env, check=True)


def main() -> None:
    """Make the environments that the command line names."""
    parser = argparse.ArgumentParser(description="Make environments for inspect, lm-eval and verifiers.")
    parser.add_argument("folder", type=Path, help="where the environments are, one folder each")
    parser.add_argument("harness", nargs="+", choices=sorted(HARNESSES))
    args = parser.parse_args()
    for harness in args.harness:
        sys.stdout.write(f"{harness}: {environment(harness, args.folder.expanduser())}\n")


if __name__ == "__main__":
    main()
