"""The reward lab: whether a reward can be gamed, and what it would have paid stored rollouts.

It imports `rewards`, `benchmarks` and what rewards and rollouts share with training, but not training.
"""
