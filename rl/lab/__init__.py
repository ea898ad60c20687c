"""The reward lab: whether a reward can be gamed, and what it would have paid stored rollouts. Imports `benchmarks`."""
