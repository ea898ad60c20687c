"""The report: what runs score, which differences are real, and the page that says so. Imports all of `benchmarks`."""
