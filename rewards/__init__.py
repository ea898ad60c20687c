"""What a completion says (labels, the answer parser) and what it earns: reward functions, verifiers, composition.

Imports nothing of ours, and no torch.
"""

from rewards.answer import Answer, Status, parse_answer
from rewards.batch import completion_text
from rewards.compose import Context, compose
from rewards.composition import Component, Composition
from rewards.errors import CheckError, InputError
from rewards.functions import (
    Accuracy,
    BalancedAccuracy,
    Confidence,
    Direction,
    Format,
    GradedFormat,
    Margin,
    accuracy,
    balanced_accuracy,
    confidence,
    direction,
    format,
    graded_format,
)
from rewards.labels import LABELS, Label, as_label
from rewards.text import (
    EvidenceFaithfulness,
    GeneMention,
    Length,
    Pathways,
    Repetition,
    evidence_faithfulness,
    gene_mention,
    repetition,
)
from rewards.verifiers import (
    GeneSets,
    HardVerifier,
    LabelTable,
    MixedVerifier,
    SoftVerifier,
    hard,
    label_table,
    read_gene_sets,
    read_label_table,
)

__all__ = [
    "LABELS",
    "Accuracy",
    "Answer",
    "BalancedAccuracy",
    "CheckError",
    "Component",
    "Composition",
    "Confidence",
    "Context",
    "Direction",
    "EvidenceFaithfulness",
    "Format",
    "GeneMention",
    "GeneSets",
    "GradedFormat",
    "HardVerifier",
    "InputError",
    "Label",
    "LabelTable",
    "Length",
    "Margin",
    "MixedVerifier",
    "Pathways",
    "Repetition",
    "SoftVerifier",
    "Status",
    "accuracy",
    "as_label",
    "balanced_accuracy",
    "completion_text",
    "compose",
    "confidence",
    "direction",
    "evidence_faithfulness",
    "format",
    "gene_mention",
    "graded_format",
    "hard",
    "label_table",
    "parse_answer",
    "read_gene_sets",
    "read_label_table",
    "repetition",
]
