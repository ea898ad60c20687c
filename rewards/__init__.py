"""What a completion says (labels, the answer parser) and what it earns (reward functions, verifiers, composition).

Imports no other folder of this project, and no torch.
"""

from rewards import functions, text
from rewards.answer import Answer, Status, parse_answer
from rewards.batch import completion_text
from rewards.compose import Context, compose
from rewards.composition import Component, Composition
from rewards.errors import CheckError, InputError
from rewards.functions import *  # noqa: F403 - every reward, as the module lists them
from rewards.gene_sets import read_gene_sets
from rewards.labels import LABELS, Label, as_label
from rewards.text import *  # noqa: F403
from rewards.verifiers import (
    HardVerifier,
    LabelTable,
    MixedVerifier,
    SoftVerifier,
    hard,
    label_table,
    read_label_table,
)

__all__ = [
    "LABELS",
    "Answer",
    "CheckError",
    "Component",
    "Composition",
    "Context",
    "HardVerifier",
    "InputError",
    "Label",
    "LabelTable",
    "MixedVerifier",
    "SoftVerifier",
    "Status",
    "as_label",
    "completion_text",
    "compose",
    "hard",
    "label_table",
    "parse_answer",
    "read_gene_sets",
    "read_label_table",
]
__all__ += functions.__all__
__all__ += text.__all__
