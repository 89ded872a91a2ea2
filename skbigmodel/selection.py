"""Rows of a source by their numbers, in slices and picked one by one, whatever holds them."""

import bisect
import itertools

import numpy as np
from scipy.sparse import issparse, vstack

from .blocks import is_sparse
from .slices import block_rows, is_plain
from .validation import is_blockwise, is_mapped

SMALL_GAP = 64  # rows between two that are wanted


def across(ends, start, stop):
    """(k, first, last) of the parts that rows start to stop lie in, which end at ``ends``: rows of part k."""
    for k in range(bisect.bisect_right(ends, start), len(ends)):
        offset = ends[k - 1] if k else 0
        if offset >= stop:
            break
        yield k, max(start - offset, 0), min(stop, ends[k]) - offset


class Rows:
    """What the sources share. A subclass sets ``shape`` and ``dtype`` and has ``_read(start, stop)``.

    Where slices are CSR matrices it sets ``nnz`` too, the number of stored entries, about.
    """

    nnz = None
    is_plain = False  # see slices.is_plain

    @property
    def is_sparse(self):
        """Whether slices are CSR matrices."""
        return self.nnz is not None

    @property
    def ndim(self):
        """Number of axes."""
        return len(self.shape)

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"<{type(self).__name__} of shape {self.shape}, {self.dtype}>"

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("rows of a source cannot be had without a copy")
        whole = self[:]
        return np.asarray(whole.toarray() if self.is_sparse else whole, dtype=dtype)

    def __getitem__(self, key):
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                return self._read(start, max(start, stop))
            key = np.arange(start, stop, step)
        if np.ndim(key) == 0:
            place = range(len(self))[key]
            return self._read(place, place + 1)[0]
        return SelectedRows(self, key)


class SelectedRows(Rows):
    """Some rows of a source, by their numbers: what an index array makes of a source.

    A search over folds so copies no rows: ``GridSearchCV(model, ...).fit(StackedRows([X]), y)`` reads each
    fold from where ``X`` lies. Rows in ascending order are read in slices; others one run at a time.

    Parameters
    ----------
    X : array or source
    rows : array-like of int or bool
        Numbers of the rows, negative ones from the end, or which ones.
    """

    from_map = False  # then they are picked one by one, and small slices take no longer than large ones

    def __init__(self, X, rows):
        rows = np.asarray(rows)
        if rows.dtype == bool:
            if rows.shape != (X.shape[0],):
                raise IndexError(f"{X.shape[0]} rows, but a boolean index of shape {rows.shape}")
            rows = np.flatnonzero(rows)
        if rows.ndim != 1 or rows.size and rows.dtype.kind not in "iu":
            raise IndexError("rows are chosen by slices or one-dimensional arrays of integers or booleans")
        rows = rows.astype(np.int64)
        rows = np.where(rows < 0, rows + X.shape[0], rows)
        if rows.size and not 0 <= rows.min() <= rows.max() < X.shape[0]:
            raise IndexError(f"row numbers must be below {X.shape[0]}, the number of rows")
        self.X, self.rows = X, rows
        self.shape, self.dtype = (rows.size, *X.shape[1:]), X.dtype
        if is_sparse(X):
            self.nnz = int(X.nnz * rows.size / max(1, X.shape[0]))

    @property
    def is_plain(self):
        """Whether the rows are picked from memory or a memory map."""
        return is_plain(self.X)

    def _read(self, start, stop):
        return take_rows(self.X, self.rows[start:stop])


def some_rows(X, rows):
    """Rows of those numbers: a copy of what is in memory, a source of what is not."""
    if not (is_mapped(X) or is_blockwise(X)):
        return X[rows]
    chosen = SelectedRows(X, rows)
    chosen.from_map = is_mapped(X)
    return chosen


def take_rows(X, rows):
    """Rows of those numbers as an array, whatever holds them; a source is read in runs of rows."""
    steps = np.diff(rows)
    # of what is read no more at a time than a block, by which errors name the rows
    if rows.size and (steps == 1).all() and (isinstance(X, np.ndarray) or rows.size <= block_rows(X)):
        return slice_of(X, int(rows[0]), int(rows[-1]) + 1)
    if isinstance(X, np.ndarray) or issparse(X):
        return X[rows]
    if (steps <= 0).any():
        ascending, places = np.unique(rows, return_inverse=True)
        return _pick(take_rows(X, ascending), places)
    if not rows.size:
        return slice_of(X, 0, 0)
    found = _runs(X, rows)
    read, places = next(found)
    if not isinstance(read, np.ndarray):
        return stack([_pick(read, places), *itertools.starmap(_pick, found)])
    out, done = np.empty((rows.size, *read.shape[1:]), X.dtype), 0
    for read, places in itertools.chain([(read, places)], found):
        part = out[done : done + places.size]
        if read.dtype == out.dtype and len(read) > places[-1]:
            np.take(read, places, axis=0, out=part, mode="clip")  # other modes make a copy first
        else:
            part[...] = read[places]
        done += places.size
    return out


def _runs(X, rows):
    """(slice, places in it) of the parts in which rows in ascending order are read."""
    # small gaps are read along, but no more than a block at a time
    per_block = block_rows(X)
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > SMALL_GAP) + 1):
        for part in np.split(run, np.flatnonzero(np.diff((run - run[0]) // per_block)) + 1):
            yield slice_of(X, int(part[0]), int(part[-1]) + 1), part - part[0]


def slice_of(X, start, stop):
    """Rows start to stop, whatever holds them."""
    return X.iloc[start:stop] if hasattr(X, "iloc") else X[start:stop]


def stack(parts):
    """Slices one below the other."""
    if len(parts) == 1:
        return parts[0]
    if issparse(parts[0]):
        return vstack(parts, format="csr")
    if hasattr(parts[0], "iloc"):
        import pandas

        return pandas.concat(parts)
    return np.concatenate([np.asarray(part) for part in parts])


def _pick(part, places):
    """Rows of a slice."""
    return part.iloc[places] if hasattr(part, "iloc") else part[places]
