"""Reasoning traces and stage one (SFT)."""

from sft.traces import Trace, read_traces, write_traces
from sft.train import train

__all__ = ["Trace", "read_traces", "train", "write_traces"]
