"""Protocols, predictions, evaluation runs and baselines. Imports `screens`, `evidence` and `models`."""
