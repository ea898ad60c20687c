"""What a built-in reward tells `compose`, the check and stage two about itself, besides its scores.

What a reward needs of the data is a parameter of its class. `rewards/compose.py` makes three of them: `verifier`,
`train_counts` and `rates`.
"""


class Reward:
    """The base class of built-in rewards. Its defaults hold for most; a reward overrides those that do not hold for it.

    Attributes:
        may_gate: whether a right answer earns 1. Only such a reward can be a `gate`.
        weighs_groups: whether the score depends on the true label, which all completions of a group share.
    """

    may_gate = True
    weighs_groups = False

    @property
    def counts_tokens(self) -> bool:
        """Whether it counts tokens. Check and replay must estimate them where they have only text."""
        return False

    @property
    def wants_confidence(self) -> bool:
        """Whether it reads a stated confidence. The check's honest policy then states one."""
        return False

    def notes(self, prompt: str) -> list[str]:
        """Return warnings for a user who trains with this reward on prompts like this one.

        Args:
            prompt: the text of one prompt.
        """
        return []
