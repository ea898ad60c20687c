"""PerturbQA's task for harnesses of others, with the prompts and the parser of `synthpert eval`.

What they share:

- `items`: the items, their prompts, and the score of a completion
- `estimates`: a mean score with its clustered standard error

One module per harness imports it, and is found by the harness itself:

- `inspect_task`: the task and metrics of inspect; `inspect_replies` restores what a model wrote

All else imports `rewards` and `benchmarks`, and nothing heavy.
"""
