"""Labels, the answer parser and reward functions: what a completion says and what it earns. No torch."""

from rewards.answer import Answer, Status, parse_answer
from rewards.errors import CheckError, InputError
from rewards.functions import BalancedAccuracy, accuracy, balanced_accuracy, completion_text, format
from rewards.labels import LABELS, Label, as_label

__all__ = [
    "LABELS",
    "Answer",
    "BalancedAccuracy",
    "CheckError",
    "InputError",
    "Label",
    "Status",
    "accuracy",
    "as_label",
    "balanced_accuracy",
    "completion_text",
    "format",
    "parse_answer",
]
