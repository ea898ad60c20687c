"""Stage two (GRPO with verifiable rewards) and the `synthpert` command."""

from rl.train import train

__all__ = ["train"]
