"""Protocols, predictions, evaluation runs and baselines. Imports the folders of labels, evidence and models."""
