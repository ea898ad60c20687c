"""The labels: PerturbQA's files, the sample that ships, and what a table of labels is made of. Imports `rewards`."""
