"""The reward lab: check whether a reward can be gamed, and replay it on stored rollouts.

It imports `rewards`, `benchmarks` and what rewards and rollouts share with training. It does not import training.
"""
