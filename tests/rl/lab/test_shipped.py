"""The shipped configurations' rewards, on every row of the sample."""

from pathlib import Path

import pytest
import yaml

from rl.lab.commands import check_config, describe_check, read_reward_config
from rl.lab.exploits import EXPLOITS

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*/*.yaml") if "rewards" in yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_exploit_beats_a_shipped_configuration(path: Path) -> None:
    checked = check_config(read_reward_config(str(path)), "sample", rows=60)
    assert checked.check.failures() == []
    lines = "\n".join(describe_check(checked, every=True))
    assert all(name in lines for name in EXPLOITS)
