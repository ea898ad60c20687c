"""The three labels of PerturbQA's joined task, spelt once for SFT, rewards and evaluation."""

from enum import StrEnum

from rewards.errors import InputError


class Label(StrEnum):
    """What knocking down one gene does to the expression of another."""

    UP = "upregulated"
    DOWN = "downregulated"
    NONE = "not differentially expressed"


LABELS: tuple[Label, ...] = tuple(Label)


def as_label(value: object, where: str = "label") -> Label:
    """Return the `Label` that `value` spells exactly.

    Args:
        value: a `Label` or its text, spelt as in `LABELS`.
        where: what to call the value in the error (a file and row, a column and row).

    Raises:
        InputError: `value` is none of the three labels.
    """
    try:
        return Label(value)  # type: ignore[arg-type]  # any other type is the ValueError below
    except ValueError:
        allowed = ", ".join(repr(str(label)) for label in LABELS)
        raise InputError(f"{where}: {value!r} is not a label; use one of {allowed}") from None
