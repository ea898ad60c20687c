"""When TRL's importance correction for vLLM is worth its forward pass: only where sampler and trainer disagree.

The correction weighs each token by the ratio of its probability in the trainer to that in vLLM, and TRL runs all
completions through the model once more for it. Where both agree, all ratios are 1 and nothing is corrected.
"""

from dataclasses import dataclass
from typing import Any, Final

# Mean absolute difference of a token's log-probability, up to which sampler and trainer agree: ratios within 1 %.
AGREE: Final = 0.01
CANARIES: Final = 4  # completions that are asked again while nothing is corrected,
CANARY_EVERY: Final = 4  # once in so many batches


@dataclass
class Correction:
    """Decides for each generated batch whether it is corrected.

    Attributes:
        always: corrects every batch.
        corrected: batches that were corrected.
        uncorrected: batches that were not.
        difference: the last mean absolute difference seen; None before the first.
    """

    always: bool = False
    corrected: int = 0
    uncorrected: int = 0
    difference: float | None = None

    @property
    def corrects_next(self) -> bool:
        """Whether the next batch is corrected: the first is."""
        return self.always or self.difference is None or not self.difference <= AGREE

    def begin(self) -> bool:
        """Count a batch, and return whether it is corrected."""
        now = self.corrects_next
        self.corrected += now
        self.uncorrected += not now
        return now

    @property
    def asks_canaries(self) -> bool:
        """Whether some completions of the last batch, which was not corrected, are to be asked again."""
        return self.uncorrected % CANARY_EVERY == 0

    def saw(self, difference: float) -> None:
        """Take in by how much sampler and trainer differed in the last batch."""
        self.difference = difference

    def facts(self) -> dict[str, Any]:
        """Say for a manifest what was corrected."""
        return {
            "corrected_batches": self.corrected,
            "uncorrected_batches": self.uncorrected,
            "last_difference": self.difference,
        }
