"""Metrics, their variances, paired comparisons and power. Imports `evaluation`, which defines predictions."""
