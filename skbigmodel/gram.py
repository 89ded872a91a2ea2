"""The Gram matrix of a kernel, a part at a time: never all of it where there are many rows.

A source fills parts of rows of the matrix into an array; :class:`GramRows` adds up weighted rows, block of
columns by block of columns on threads, and keeps the rows last used.
"""

import numpy as np
from scipy.sparse import issparse

from .passes_kernel import add_gram_rows, inner_products, similarities
from .rows import as_rows
from .threads import run_tasks

COLUMNS = 512  # of the Gram matrix in one task: a tile of them stays in the second-level cache
WHOLE = 2048  # rows of which the whole Gram matrix is formed at once
PASSING = 128  # rows that are used and not kept
WORTH_THREADS = 1 << 16  # entries of the Gram matrix


class KernelSource:
    """Entries of a kernel of :mod:`skbigmodel.kernels`; rows are centred where that changes nothing."""

    def __init__(self, X, kernel):
        self.rows, self.kernel, self.dtype = as_rows(X), kernel, X.dtype
        self.shift = np.zeros(X.shape[1])
        if getattr(kernel, "centred", False) and not issparse(X):
            self.shift[:] = X.mean(axis=0, dtype=np.float64)

    def fill(self, wanted, columns, slots, start, store):
        """store[slots[j], start:start + len(columns)] = kernel of row wanted[j] with the rows ``columns``."""
        T = np.empty((min(PASSING, len(wanted)), len(columns)), store.dtype)
        a, b = np.empty(PASSING), np.empty(len(columns))
        for j in range(0, len(wanted), PASSING):
            some = wanted[j : j + PASSING]
            inner_products(self.rows, some, columns, self.shift, T, a, b)
            similarities(self.kernel, T, a, b, slots[j : j + PASSING], start, store)


class FunctionSource:
    """Entries from a function ``kernel(X, Z)``, called with a few rows and a block of rows at a time."""

    def __init__(self, X, function):
        self.X, self.function, self.dtype = X, function, np.dtype(np.float64)

    def fill(self, wanted, columns, slots, start, store):
        """As in :class:`KernelSource`."""
        part = self.function(self.X[wanted], self.X[columns])
        part = part.toarray() if issparse(part) else np.asarray(part)
        if part.shape != (len(wanted), len(columns)):
            raise ValueError(
                f"kernel must return an array of shape {(len(wanted), len(columns))} for so many rows of its "
                f"two arguments, got shape {part.shape}"
            )
        if not np.isfinite(part).all():
            raise ValueError("kernel returned values that are not finite")
        store[slots, start : start + len(columns)] = part


class GivenSource:
    """Entries of a Gram matrix that the user computed."""

    def __init__(self, K):
        self.K, self.dtype = K, K.dtype

    def fill(self, wanted, columns, slots, start, store):
        """As in :class:`KernelSource`."""
        part = self.K[wanted][:, columns] if issparse(self.K) else self.K[np.ix_(wanted, columns)]
        store[slots, start : start + len(columns)] = part.toarray() if issparse(part) else part


def make_source(X, kernel):
    """The Gram matrix of the rows of X: of a kernel object, of a function, or X itself."""
    if isinstance(kernel, str):  # "precomputed"
        return GivenSource(X)
    return KernelSource(X, kernel) if hasattr(kernel, "similarity") else FunctionSource(X, kernel)


def gram_matrix(source, rows, columns=None, n_threads=1):
    """The entries of some rows in some columns; without ``columns`` the symmetric matrix of the rows.

    They are rounded to the type of the source and then float64, as rows that are kept are in sums.
    """
    symmetric = columns is None
    columns = rows if symmetric else columns
    K = np.empty((len(rows), len(columns)), source.dtype)
    starts = range(0, len(columns), COLUMNS)

    def task(k):
        a, b = starts[k], min(starts[k] + COLUMNS, len(columns))
        slots = np.arange(a if symmetric else 0, len(rows))  # the rest is mirrored
        source.fill(rows[slots], columns[a:b], slots, a, K)
        if symmetric:
            K[a:b, b:] = K[b:, a:b].T

    run_tasks(task, len(starts), n_threads if K.size > WORTH_THREADS else 1)
    return K.astype(np.float64, copy=False)


class GramRows:
    """Rows of the Gram matrix of the rows ``index``, of which the last used are kept.

    What is kept changes no result: an entry is the same, bit for bit, however often it is computed.

    Parameters
    ----------
    source : KernelSource, FunctionSource or GivenSource
    index : ndarray of int
        The rows of the data that take part; below, a row is a position in it.
    n_bytes : float
        Room for the rows that are kept.
    n_threads : int
    matrix : ndarray, default=None
        The whole matrix, where it is at hand.
    """

    def __init__(self, source, index, n_bytes, n_threads, matrix=None):
        self.source, self.index, self.n_bytes, self.n_threads = source, index, n_bytes, n_threads
        self.whole = matrix
        if matrix is None and len(index) <= WHOLE:
            self.whole = gram_matrix(source, index, None, n_threads)
        self.store = None

    def part(self, rows):
        """The same for some of the rows."""
        return GramRows(self.source, self.index[rows], self.n_bytes, self.n_threads)

    def matrix(self, rows):
        """The symmetric matrix of some rows."""
        return gram_matrix(self.source, self.index[rows], None, self.n_threads)

    def add(self, rows, delta, out, keep=True):
        """Add Σ delta[j]·(row rows[j] of the matrix) to ``out``."""
        if self.whole is not None:
            add_gram_rows(self.whole, rows, delta, out)
            return
        slots, missing = self._place(rows, keep)
        starts = range(0, len(self.index), COLUMNS)

        def task(k):
            columns = self.index[starts[k] : starts[k] + COLUMNS]
            place = slice(starts[k], starts[k] + len(columns))
            for j in range(0, len(rows), PASSING):
                some = slice(j, j + PASSING)
                new = missing[some]
                if new.any():
                    wanted = self.index[rows[some][new]]
                    self.source.fill(wanted, columns, slots[some][new], starts[k], self.store)
                add_gram_rows(self.store[:, place], slots[some], delta[some], out[place])

        run_tasks(task, len(starts), self.n_threads if self.index.size * len(rows) > WORTH_THREADS else 1)

    def _place(self, rows, keep):
        """Where each row is or will be, and whether it is yet to be computed."""
        if self.store is None:
            self._make_room()
        slots = self.slot[rows]
        missing = slots < 0
        self.clock += 1
        self.used[slots[~missing]] = self.clock
        n_new = 0
        if keep:
            # the places not used by these rows, the longest unused first
            free = np.argsort(self.used, kind="stable")[: self.n_kept - np.count_nonzero(~missing)]
            new = np.flatnonzero(missing)[: len(free)]
            n_new, free = len(new), free[: len(new)]
            evicted = self.owner[free]
            self.slot[evicted[evicted >= 0]] = -1
            self.owner[free], self.slot[rows[new]], self.used[free] = rows[new], free, self.clock
            slots[new] = free
        passing = np.flatnonzero(missing)[n_new:]
        slots[passing] = self.n_kept + passing % PASSING
        return slots, missing

    def _make_room(self):
        n = len(self.index)
        self.n_kept = int(min(n, self.n_bytes // (n * self.source.dtype.itemsize)))
        # of the memory only what is written to is really taken
        self.store = np.empty((self.n_kept + PASSING, n), self.source.dtype)
        self.slot = np.full(n, -1)  # of each row
        self.owner = np.full(self.n_kept, -1)
        self.used = np.zeros(self.n_kept, dtype=np.int64)  # when last
        self.clock = 0


class ClassPairs:
    """Gram matrices of pairs of classes; the part within a class is shared by all its pairs.

    Parameters
    ----------
    source : KernelSource, FunctionSource or GivenSource
    members : list of ndarray of int
        The rows of each class.
    n_bytes : float
        Room for the parts within classes; where they need more, none is kept.
    """

    def __init__(self, source, members, n_bytes):
        self.source, self.members = source, members
        self.keeps = sum(len(rows) ** 2 for rows in members) * 8 <= n_bytes
        self.within = {}

    def _of_class(self, k):
        if not self.keeps:
            return gram_matrix(self.source, self.members[k])
        if k not in self.within:  # two threads may both compute it, to the same bits
            self.within[k] = gram_matrix(self.source, self.members[k])
        return self.within[k]

    def matrix(self, i, j):
        """The matrix of the rows of class i and then those of class j."""
        first, second = self.members[i], self.members[j]
        m = len(first)
        K = np.empty((m + len(second),) * 2, self.source.dtype)
        for a in range(0, len(second), COLUMNS):
            self.source.fill(first, second[a : a + COLUMNS], np.arange(m), m + a, K)
        K[:m, :m], K[m:, m:], K[m:, :m] = self._of_class(i), self._of_class(j), K[:m, m:].T
        return K.astype(np.float64, copy=False)
