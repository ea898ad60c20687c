"""What a reward that ships says of itself beside its scores: `compose`, the check and stage two ask it, not its name.

What it needs of the data it has as a parameter of that name: `verifier`, `train_counts`, `rates` and `gene_sets` are
made in `rewards/compose.py`, of what a configuration names and the prompts are.
"""


class Reward:
    """What holds of most rewards; one of which something else holds says so.

    Attributes:
        may_gate: whether a right answer earns 1, the score that opens a gate.
        weighs_groups: whether it pays by the true label, and so the same throughout a group.
    """

    may_gate = True
    weighs_groups = False

    @property
    def counts_tokens(self) -> bool:
        """Whether it looks at token ids, which have to be estimated where there is only text."""
        return False

    @property
    def wants_confidence(self) -> bool:
        """Whether an honest policy would state how sure it is."""
        return False

    @property
    def phrases(self) -> tuple[str, ...]:
        """A few of the phrases that it looks for, which an exploit then strings together."""
        return ()

    def honest_sentences(self, pert: str, gene: str) -> tuple[str, ...]:
        """Return what an honest policy would say of an item for this reward, beside its reasoning."""
        return ()

    def notes(self, prompt: str) -> list[str]:
        """Return what a user should know who trains with it on prompts such as this one, given as text."""
        return []
