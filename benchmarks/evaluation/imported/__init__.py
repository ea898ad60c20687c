"""Predictions made elsewhere, as a run.

Files, in the order of import:

- `columns`: columns of a file, under our names
- `items`: the items that its rows are about
- `answers`, `scores`: what its rows say
- `h5ad`, `expression`: tables of predicted changes of expression, and the scores that come of them
- `read`: the predictions of several files
- `run`: their run folder
"""

from benchmarks.evaluation.imported.read import Imported, read_expression, read_imported
from benchmarks.evaluation.imported.run import import_expression, import_run

__all__ = ["Imported", "import_expression", "import_run", "read_expression", "read_imported"]
