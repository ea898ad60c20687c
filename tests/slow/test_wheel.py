"""The wheel holds every package with its data and the configurations, and nothing else."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGES = ("rewards", "benchmarks", "synthpert_env", "sft", "rl", "configs")


@pytest.mark.slow
def test_the_wheel_holds_all_that_git_tracks_of_the_packages(tmp_path: Path) -> None:
    for name in ("pip", "setuptools"):  # looked up, not imported: setuptools does not bear to come after distutils
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, check=True, text=True)
    source = tmp_path / "source"  # a build writes beside what it builds
    for name in filter(None, listed.stdout.split("\0")):
        if (REPO / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((REPO / name).read_bytes())
    words = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, source]
    subprocess.run([sys.executable, *map(str, words)], check=True)
    (wheel,) = tmp_path.glob("synthpert_rl-*.whl")
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    assert held == {
        str(path.relative_to(source))
        for package in PACKAGES
        for path in (source / package).rglob("*")
        if path.is_file()
    }
