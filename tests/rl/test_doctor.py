"""What `synthpert doctor` says of the machine, in lines and as JSON."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rl.doctor as doctor
from benchmarks.machine import describe_machine
from rl.cli import app
from rl.demo.rates import Rates
from rl.doctor import Finding, diagnose

SLOW = Rates("float32", 2, 10.0, 150.0, 30.0, 48.0)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder that is there, measured at the rates of a slow machine."""
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(doctor, "measure_rates", lambda path: SLOW)
    monkeypatch.setattr(doctor, "_vllm", lambda path: Finding("vllm", True, "starts"))
    return tmp_path


def test_cpu_speed_and_times_are_told_as_lines_and_as_values(model: Path) -> None:
    found = {finding.name: finding for finding in diagnose(start_engine=True, model=model)}
    machine = describe_machine()
    for ability in machine.abilities:
        assert ability in found["cpu"].found
    assert found["cpu"].facts["cores"] == machine.cores
    assert found["dtype"].found == f"`dtype: auto` means {machine.dtype} here"
    assert "tokens a second: 150 read, 30 written, 48 trained on" in found["speed"].found
    assert found["speed"].facts["learn"] == 48.0
    demo = found["make demo"]
    assert "scaled down to this machine" in demo.found and "at full size" in demo.found
    assert demo.facts["seconds"] < 1200 < demo.facts["seconds_full_size"]
    assert found["make test"].facts["seconds"] < found["make test-all"].facts["seconds"]


def test_without_the_engine_nothing_is_measured(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure_rates", lambda path: pytest.fail("measured"))
    names = [finding.name for finding in diagnose(start_engine=False, model=model)]
    assert "speed" not in names and "make demo" not in names


@pytest.mark.parametrize("gap", [False, True])
def test_json_is_one_object_and_a_gap_is_exit_code_1(gap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("cpu", True, "some; 2 cores", facts={"cores": 2}), Finding("vllm", not gap, "x", "install it")]
    monkeypatch.setattr(doctor, "diagnose", lambda start_engine: iter(findings))
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == int(gap)
    told = json.loads(done.stdout)
    assert told["cpu"] == {"ok": True, "found": "some; 2 cores", "cores": 2}
    assert ("remedy" in told["vllm"]) == gap
    lines = CliRunner().invoke(app, ["doctor"]).stdout
    assert ("-> install it" in lines) == gap
