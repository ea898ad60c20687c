"""Compare scores of any task, from logs of inspect, lm-eval and verifiers and from tables. Imports `report`."""
