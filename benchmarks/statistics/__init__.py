"""Metrics with their variances, paired differences and power. Imports `evaluation` for what predictions are."""
