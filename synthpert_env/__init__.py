"""PerturbQA's task for harnesses of others, with the prompts and the parser of `synthpert eval`.

What they share:

- `items`: the items, their prompts, and the score of a completion
- `estimates`: a mean score with its clustered standard error

One module per harness imports it, and is found by the harness itself:

- `inspect_task`: the task and metrics of inspect; `inspect_replies` restores what a model wrote
- `lm_eval/`: the tasks of lm-evaluation-harness, for its `--include_path`
- `verifiers_taskset`: the taskset of verifiers

All else imports `rewards` and `benchmarks`, and nothing heavy.
"""

from typing import Any

# verifiers looks for a taskset by its package's name, and in there for the classes that `__all__` names.
__all__ = ["NullHarness", "PerturbQATaskset"]


def __getattr__(name: str) -> Any:
    """Import the taskset once verifiers asks for it. Nobody else needs verifiers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from synthpert_env import verifiers_taskset

    return getattr(verifiers_taskset, name)
