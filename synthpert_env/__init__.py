"""PerturbQA's task for harnesses of others, with the prompts and the parser of `synthpert eval`.

- `items`: the items, their prompts, and the score of a completion; what all harnesses share

Imports `rewards` and `benchmarks`, and nothing heavy. A harness is imported only where it is used.
"""
