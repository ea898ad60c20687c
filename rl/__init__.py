"""Stage two (GRPO with verifiable rewards), the reward `lab`, studies, the `demo`, and the command `synthpert`.

Imports `rewards`, `benchmarks` and `sft`, none of which imports `rl`.
"""

from rl.train import train

__all__ = ["train"]
