"""The report: what runs score, which differences are significant, and their page. Imports all of `benchmarks`."""
