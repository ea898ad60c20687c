"""The shipped configurations' rewards, on every row of the sample."""

from pathlib import Path

import pytest
import yaml

from rl.lab.commands import check_config, describe_check, read_reward_config
from rl.lab.exploits import EXPLOITS

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
REWARDED = {
    path: values
    for path in sorted(CONFIGS.glob("**/*.yaml"))
    if "rewards" in (values := yaml.safe_load(path.read_text()))
}
# A configuration with a reference screen needs the full labels. It has the rewards of another, which is checked here.
SHIPPED = [path for path, values in REWARDED.items() if "evidence_from" not in values]


def test_what_is_not_checked_here_has_rewards_that_are() -> None:
    keys = ("rewards", "reward_weights", "scale_rewards")
    checked = [[REWARDED[path].get(key) for key in keys] for path in SHIPPED]
    assert all([values.get(key) for key in keys] in checked for values in REWARDED.values())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_exploit_beats_a_shipped_configuration(path: Path) -> None:
    checked = check_config(read_reward_config(str(path)), "sample", rows=60)
    assert checked.check.failures() == []
    lines = "\n".join(describe_check(checked, every=True))
    assert all(name in lines for name in EXPLOITS)
