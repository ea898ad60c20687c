"""The labels: PerturbQA's files, the sample that ships with the package, cell lines and splits. Imports `rewards`."""
