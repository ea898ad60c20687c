"""Reasoning traces, from a `teacher` through `filters` and the `audit`, and stage one (SFT), which learns them.

Imports `rewards` and `benchmarks`.
"""

from sft.traces import Trace, read_traces, write_traces
from sft.train import train

__all__ = ["Trace", "read_traces", "train", "write_traces"]
