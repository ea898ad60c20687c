"""The check that nothing of the test split is in the traces. May import what `sft.filters` may, and `sft.filters`."""
