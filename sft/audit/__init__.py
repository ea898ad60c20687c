"""The check that nothing of the test split is in the traces. Imports `sft.filters` and what it may."""
