"""Reading from where data lie: slices of rows as checked arrays, and one block ahead of the computation."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.sparse import issparse

from .validation import as_float


class ReadAhead:
    """Items of a known order, each read by whoever asks for it or, before that, by a thread in the
    background.

    When an item is handed out, the first one after it that nobody has asked for yet is begun, so that it is
    read while its predecessor is computed with; only one such item waits at a time, so that few are in
    memory. What goes wrong in reading is raised where the item is asked for.

    Parameters
    ----------
    read : callable
        The item of a number.
    order : sequence of int
        Numbers in the order in which they will be asked for, more or less: a caller may be ahead of others.

    A context manager: leaving it waits for what is being read and drops it.
    """

    def __init__(self, read, order):
        self._read, self._order = read, list(order)
        self._place = {k: place for place, k in enumerate(self._order)}
        self._asked = [False] * len(self._order)
        self._lock, self._waiting, self._executor = threading.Lock(), {}, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with self._lock:
            self._order = []  # nothing more is begun
            executor, self._executor = self._executor, None
            self._waiting.clear()
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def __call__(self, k):
        """The item of that number."""
        with self._lock:
            place = self._place[k]
            self._asked[place] = True
            begun = self._waiting.pop(place, None)
            if begun is not None and begun.cancel():
                begun = None  # not even started: faster here
            self._begin_after(place)
        return self._read(k) if begun is None else begun.result()

    def _begin_after(self, place):
        while place < len(self._order) and (self._asked[place] or place in self._waiting):
            place += 1
        if place < len(self._order) and not self._waiting:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="skbigmodel-reader")
            self._waiting[place] = self._executor.submit(self._read, self._order[place])


class Buffers:
    """Arrays that serve again once nobody holds a view of them.

    Memory that threads allocate and free in turn is not given back at once, and each new page costs time.

    Parameters
    ----------
    n_kept : int
        How many; further ones are allocated for one use.
    """

    def __init__(self, n_kept):
        self._kept, self._n_kept, self._lock, self._unused = [], n_kept, threading.Lock(), None

    def __call__(self, shape, dtype):
        """An array of that shape, with any content."""
        size = int(np.prod(shape))
        with self._lock:
            for k in range(len(self._kept)):
                fits = self._kept[k].dtype == dtype and self._kept[k].size >= size
                if fits and self._holders(k) == self._unused:
                    return self._kept[k][:size].reshape(shape)
            if len(self._kept) == self._n_kept:
                return np.empty(shape, dtype)
            self._kept.append(np.empty(size, dtype))
            self._unused = self._holders(-1)  # what it is while there is no view
            return self._kept[-1][:size].reshape(shape)

    def _holders(self, k):
        return sys.getrefcount(self._kept[k])


def read_rows(X, start, stop, checked=False, room=np.empty):
    """Rows of a source as a C-ordered array of float32 or float64, or as a CSR matrix.

    ``checked`` says that they have been found finite before; ``room(shape, dtype)`` makes the arrays they are
    copied to, where they must be copied.

    Raises
    ------
    ValueError
        If they cannot be read, have another shape, or are not finite; the message names the rows. (OSError
        where the source raises that.)
    """
    rows, shape, dtype = f"rows {start} to {stop} of X", (stop - start, X.shape[1]), as_float(X.dtype)
    try:
        if hasattr(X, "read_direct") and X.dtype == dtype:  # HDF5
            part = room(shape, dtype)
            X.read_direct(part, np.s_[start:stop])
        else:
            part = X.read(start, stop, room) if hasattr(X, "read") else X[start:stop]
            part = part.tocsr() if issparse(part) else np.asarray(part)
    except Exception as error:  # whatever a foreign array raises
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{rows} cannot be read: {type(error).__name__}: {error}") from error
    if part.shape != shape:
        raise ValueError(f"{rows} have shape {part.shape}, not {stop - start} rows of {X.shape[1]} columns")
    if issparse(part):
        part = part.astype(dtype, copy=False)
        part.sum_duplicates()
    elif part.dtype != dtype or not (part.flags.c_contiguous and part.flags.aligned):
        copy = room(shape, dtype)
        copy[:] = part
        part = copy
    if not checked:
        values = part.data if issparse(part) else part
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(values.sum())
        if not finite and not np.isfinite(values).all():
            raise ValueError(f"Input X contains NaN or infinity in rows {start} to {stop}")
    return part
