"""Matrices in `.h5ad` files, read through h5py: anndata, which writes them, asks for another pandas than ours.

The format is that of anndata 0.8 and later (anndata.readthedocs.io, "On-disk format"): the matrix `X` is dense or
sparse (CSR, CSC); `obs` describes its rows, `var` its columns, each column of theirs being text or categories.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rewards import InputError

Floats = npt.NDArray[np.float64]
_BLOCK: Final = 4096  # rows of a dense matrix that are held at a time
_AGAIN: Final = "write the file again with anndata 0.8 or later"


class H5adFile:
    """An open `.h5ad` file; use it with `with`.

    Args:
        path: the file.

    Raises:
        InputError: there is no such file, it is no `.h5ad` file, or h5py is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import h5py
        except ImportError:
            raise InputError(
                f"{path}: .h5ad files are read with h5py, which is not installed; run `pip install h5py`, or save the "
                "table as .csv or .parquet"
            ) from None
        if not path.is_file():
            raise InputError(f"{path}: no such file; give a table of predicted changes")
        self.path = path
        try:
            self._file: Any = h5py.File(path, "r")
        except OSError as error:
            said = " ".join(str(error).split())[:160]
            raise InputError(f"{path}: cannot be read as HDF5 ({said}); write the file again") from None
        for name in ("X", "obs", "var"):
            if name not in self._file:
                self.close()
                raise InputError(f"{path}: holds no {name}, so it is no .h5ad file; {_AGAIN}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "H5adFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def columns(self, of: str) -> list[str]:
        """Return the names of the columns of `obs` or `var`, without their index."""
        index = self._index(of)
        return [str(name) for name in self._group(of) if name not in (index, "__categories")]

    def text(self, of: str, column: str | None = None) -> npt.NDArray[Any]:
        """Return a column of text of `obs` or `var`, or their index.

        Args:
            of: `obs` or `var`.
            column: its name; None for the index.

        Raises:
            InputError: there is no such column, or it is not text, or a value is missing.
        """
        name = self._index(of) if column is None else column
        group = self._group(of)
        if name not in group:
            raise InputError(f"{self.path}: {of} has no column {name!r}; it has {', '.join(self.columns(of))}")
        where, stored = f"{self.path}: column {name!r} of {of}", group[name]
        if isinstance(stored, type(self._file["/"])):  # a group: categories, or text with a mask
            if "categories" in stored and "codes" in stored:
                codes = stored["codes"][()]
                if (codes < 0).any():
                    raise InputError(f"{where}: row {int(np.flatnonzero(codes < 0)[0]) + 1} is empty; fill it in")
                return np.asarray(self._strings(stored["categories"], where)[codes])
            if "values" not in stored:
                raise InputError(f"{where} is stored in an unknown way; {_AGAIN}")
            if "mask" in stored and stored["mask"][()].any():
                row = int(np.flatnonzero(stored["mask"][()])[0]) + 1
                raise InputError(f"{where}: row {row} is empty; fill it in")
            stored = stored["values"]
        return self._strings(stored, where)

    def mean(self, group_N: npt.NDArray[np.int64], n_groups: int, columns: npt.NDArray[np.int64]) -> Floats:
        """Return the mean of the matrix over groups of its rows, (n_groups, C).

        Args:
            group_N: (N,) group of each row, from 0; each group has rows.
            n_groups: number of groups.
            columns: (C,) positions of the columns to read.

        Raises:
            InputError: the matrix has another number of rows, or is stored in an unknown way.
        """
        from scipy import sparse

        stored, n = self._file["X"], len(group_N)
        groups = sparse.csc_array((np.ones(n), (group_N, np.arange(n))), shape=(n_groups, n))
        if isinstance(stored, type(self._file["/"])):
            total_GC = (groups @ self._sparse(stored, n)[:, columns]).toarray()
        else:
            self._check_shape(stored.shape, n)
            total_GC = np.zeros((n_groups, len(columns)))
            for start in range(0, n, _BLOCK):
                end = min(start + _BLOCK, n)
                rows_BC = np.asarray(stored[start:end], dtype=np.float64)[:, columns]
                total_GC += np.asarray(groups[:, start:end] @ rows_BC)
        return np.asarray(total_GC / np.bincount(group_N, minlength=n_groups)[:, None])

    def _sparse(self, stored: Any, n: int) -> Any:
        """Return a stored sparse matrix of n rows, by columns."""
        from scipy import sparse

        kind = {"csr_matrix": sparse.csr_array, "csc_matrix": sparse.csc_array}.get(
            str(stored.attrs.get("encoding-type"))
        )
        if kind is None or "shape" not in stored.attrs:
            raise InputError(f"{self.path}: X is stored in an unknown way; {_AGAIN}")
        shape = tuple(int(size) for size in stored.attrs["shape"])
        self._check_shape(shape, n)
        parts = tuple(stored[name][()] for name in ("data", "indices", "indptr"))
        return kind(parts, shape=shape).astype(np.float64).tocsc()

    def _check_shape(self, shape: tuple[int, ...], n: int) -> None:
        wanted = (n, len(self.text("var")))
        if shape != wanted:
            raise InputError(f"{self.path}: X has the shape {shape}, but obs and var have {wanted} rows; {_AGAIN}")

    def _group(self, of: str) -> Any:
        group = self._file[of]
        if not hasattr(group, "keys") or not hasattr(group, "attrs") or "_index" not in group.attrs:
            raise InputError(f"{self.path}: {of} is stored as early versions of anndata did; {_AGAIN}")
        return group

    def _index(self, of: str) -> str:
        return str(self._group(of).attrs["_index"])

    def _strings(self, stored: Any, where: str) -> npt.NDArray[Any]:
        if stored.dtype.kind not in "OSU":
            raise InputError(f"{where} holds numbers, not text; name another column, or save it as text")
        values = stored.asstr()[()] if stored.dtype.kind != "U" else stored[()]
        return np.asarray(values, dtype=object)
