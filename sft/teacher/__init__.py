"""Traces from a teacher: questions, endpoint, critic, request log; and the offline template. Imports `benchmarks`."""
