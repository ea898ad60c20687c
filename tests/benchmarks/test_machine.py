"""Which cores, abilities and number type a machine grants."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import machine
from benchmarks.machine import cpu_abilities, granted_cores, resolve_dtype, slow_dtype
from benchmarks.runs import open_run, run_dtype
from rewards import InputError

ROOT = Path(__file__).parents[2]
OLD_CPU = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}  # a modern CPU then computes as one without


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def groups(root: Path, lines: str, **files: str) -> Path:
    """A root with `/proc/self/cgroup` and control files, whose names have `__` for `/`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_max", ".max").replace("cfs_", "cpu.cfs_")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def in_new_process(code: str, env: dict[str, str]) -> str:
    """What a script prints: torch reads the environment once."""
    command = [sys.executable, "-c", code]
    env = {**os.environ, **env}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.strip()


class TestCores:
    def test_no_quota_is_the_affinity(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert granted_cores(tmp_path) == 8
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5})
        assert granted_cores(tmp_path) == 2

    @pytest.mark.parametrize(
        ("quota", "cores"), [("max 100000", 8), ("300000 100000", 3), ("150000 100000", 1), ("20000 100000", 1)]
    )
    def test_version_2(self, tmp_path: Path, quota: str, cores: int) -> None:
        assert granted_cores(groups(tmp_path, "0::/job\n", job__cpu_max=quota)) == cores

    def test_a_group_above_limits_too(self, tmp_path: Path) -> None:
        root = groups(tmp_path, "0::/user/job\n", user__cpu_max="200000 100000", user__job__cpu_max="max 100000")
        assert granted_cores(root) == 2

    def test_a_container_sees_its_own_group_as_the_root(self, tmp_path: Path) -> None:
        assert granted_cores(groups(tmp_path, "0::/docker/abc\n", cpu_max="400000 100000")) == 4

    @pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("250000", 2)])
    def test_version_1(self, tmp_path: Path, quota: str, cores: int) -> None:
        files = {"cpu,cpuacct__job__cfs_quota_us": quota, "cpu,cpuacct__job__cfs_period_us": "100000"}
        assert granted_cores(groups(tmp_path, "4:memory:/x\n3:cpu,cpuacct:/job\n0::/\n", **files)) == cores

    def test_threads_that_the_user_asks_for_are_an_upper_limit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for asked, cores in (("3", 3), ("64", 8), ("2,1", 2), ("", 8)):
            monkeypatch.setenv("OMP_NUM_THREADS", asked)
            assert granted_cores(tmp_path) == cores

    @pytest.mark.slow  # a new process with torch
    def test_torch_computes_with_them(self) -> None:
        code = "import os, torch; from benchmarks.machine import *; use_cpu_well(); print(torch.get_num_threads())"
        assert in_new_process(code, {"OMP_NUM_THREADS": "1"}) == "1"


class TestDtype:
    @pytest.fixture
    def no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    @pytest.mark.parametrize(
        ("abilities", "dtype"),
        [
            ((), "float32"),
            (("AVX2",), "float32"),
            (("AVX2", "AVX-512"), "float32"),
            (("AVX2", "AVX-512", "AVX512-BF16"), "bfloat16"),
            (("AVX2", "AVX-512", "AMX-BF16"), "bfloat16"),
        ],
    )
    def test_auto_on_a_cpu(
        self, no_gpu: None, monkeypatch: pytest.MonkeyPatch, abilities: tuple[str, ...], dtype: str
    ) -> None:
        monkeypatch.setattr(machine, "cpu_abilities", lambda: abilities)
        assert resolve_dtype("auto") == resolve_dtype(None) == dtype
        assert [resolve_dtype(asked) for asked in ("float32", "bfloat16")] == ["float32", "bfloat16"]
        line = slow_dtype("bfloat16")
        assert (line is None) == (dtype == "bfloat16")
        if line is not None:
            assert line.startswith("dtype: bfloat16 is several times slower than float32 on this CPU")

    @pytest.mark.parametrize("computes", [True, False])
    def test_auto_on_a_gpu(self, monkeypatch: pytest.MonkeyPatch, computes: bool) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: computes)
        assert resolve_dtype("auto") == ("bfloat16" if computes else "float32")
        assert (slow_dtype("bfloat16") is None) == computes
        assert slow_dtype("float16") is None

    def test_an_unknown_name(self) -> None:
        with pytest.raises(InputError, match="dtype: 'int4' is unknown; use one of auto, float32"):
            resolve_dtype("int4")

    @pytest.mark.parametrize(
        ("level", "most", "left"),
        [
            ("AVX512", "", ("AVX2", "AVX-512", "AVX512-BF16")),
            ("AVX512", "AVX512_CORE", ("AVX2", "AVX-512")),
            ("AVX2", "", ("AVX2",)),
            ("DEFAULT", "", ()),
        ],
    )
    def test_what_torch_and_onednn_are_held_to_is_left_out(
        self, monkeypatch: pytest.MonkeyPatch, level: str, most: str, left: tuple[str, ...]
    ) -> None:
        import torch

        able = {"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
        assert cpu_abilities() == left

    @pytest.mark.slow  # a new process with torch, which reads the environment once
    @pytest.mark.parametrize(
        "env", [OLD_CPU, {"ATEN_CPU_CAPABILITY": "default"}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}], ids=str
    )
    def test_what_the_environment_rules_out(self, env: dict[str, str]) -> None:
        code = "from benchmarks.machine import *; print(resolve_dtype('auto'), 'AVX512-BF16' in cpu_abilities())"
        assert in_new_process(code, env) == "float32 False"

    def test_abilities_are_known_ones(self) -> None:
        assert set(cpu_abilities()) <= {"AVX2", "AVX-512", "AVX512-BF16", "AMX-BF16"}


class TestSettled:
    def test_a_run_keeps_its_type_on_another_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(machine, "_computes_bf16", lambda: True)
        assert run_dtype("auto", tmp_path / "run") == "bfloat16"
        open_run(tmp_path / "run", "sft", {"dtype": "bfloat16"})
        monkeypatch.setattr(machine, "_computes_bf16", lambda: False)
        assert run_dtype("auto", tmp_path / "other") == "float32"
        assert not caplog.records
        with caplog.at_level(logging.WARNING):
            assert run_dtype("auto", tmp_path / "run") == "bfloat16"
            assert run_dtype(None, tmp_path / "run") == "bfloat16"
        assert ["slower than float32" in record.getMessage() for record in caplog.records] == [True, True]
        with pytest.raises(InputError, match="dtype changed"):
            (tmp_path / "run" / "log.jsonl").write_text("x")
            open_run(tmp_path / "run", "sft", {"dtype": run_dtype("float32", tmp_path / "run")})

    def test_a_run_from_before_types_were_settled_is_refused(self, tmp_path: Path) -> None:
        open_run(tmp_path / "run", "eval", {"dtype": "auto"}).finish()
        settled = run_dtype("auto", tmp_path / "run")
        with pytest.raises(InputError, match="dtype changed"):
            open_run(tmp_path / "run", "eval", {"dtype": settled})

    @pytest.mark.parametrize("stage", ["sft", "grpo"])
    def test_stages_take_auto_where_nothing_is_given(self, stage: str, tmp_path: Path) -> None:
        from benchmarks.config import resolved
        from rl.train import read_arguments as read_grpo
        from sft.train import read_arguments as read_sft

        values = yaml.safe_load((ROOT / "configs" / "smollm2-135m" / f"{stage}.yaml").read_text())
        del values["dtype"]
        read = read_sft if stage == "sft" else read_grpo
        for given, dtype in (({}, resolve_dtype("auto")), ({"dtype": "float16"}, "float16")):
            parts = read({**values, "output_dir": str(tmp_path / "run"), **given})
            assert parts[2].dtype == dtype
            assert resolved(*parts)["dtype"] == dtype  # part of what the run is
