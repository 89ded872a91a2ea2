"""Data as a fixed list of blocks of rows, and sums over them on threads.

The cut into blocks depends on the shape of the data, and of a file on its chunks; partial sums are added
along a tree that depends on their number alone, so that a result is the same, bit for bit, for any number of
threads. Blocks of arrays are made here, those that are read in :mod:`skbigmodel.slices`.
"""

import contextlib
import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse

from ._jit import frozen
from .encoding import encoded
from .rows import as_rows
from .sums import Tree, add_sums
from .threads import run_tasks
from .validation import as_float

BLOCK_ENTRIES = 1 << 18  # stored entries of X that are worth a block of their own
MAX_BLOCKS = 64
MIN_GROUPS = 8  # of blocks whose large sums are formed apart
THREAD_ENTRIES = 1 << 17  # below so many entries in all a pass is over before a second thread has started
ONE = frozen(np.ones(1))  # stands for "no weights"


class Block(NamedTuple):
    """Consecutive rows with their targets and weights, and where they start."""

    rows: object
    y: np.ndarray
    s: np.ndarray
    start: int
    stop: int


def block_bounds(n_rows, n_features, n_entries):
    """Cut 0 … n_rows: a function of the shape alone.

    Enough blocks to share the work, but so few that summing their gradients costs little beside a pass.
    """
    affordable = n_entries // (8 * (n_features + 1))
    n_blocks = int(max(1, min(MAX_BLOCKS, n_entries // BLOCK_ENTRIES, affordable, n_rows)))
    return np.linspace(0, n_rows, n_blocks + 1).astype(np.int64)


def is_sparse(X):
    """Whether rows are CSR matrices, wherever they lie."""
    return getattr(X, "is_sparse", issparse(X))


class Blocks:
    """What all sources share: the cut, the sums on threads, and the derived sources.

    Parameters
    ----------
    X : two-dimensional source of rows
    y : ndarray of shape (n_rows,)
    s : ndarray of shape (n_rows,), or None for weights of 1
    n_threads : int

    Attributes
    ----------
    blocks : sequence of :class:`Block`
    weight : float
        Sum of the weights.
    dtype : dtype
        Of the rows' entries.
    trusted : bool
        Whether entries that are not finite would be met by the sums, so that reading need not look for them.
    memo : dict
        For what solvers derive from the rows and weights alone; shared by sources that differ only in the
        targets.
    encoder : :class:`~skbigmodel.encoding.Encoder` or None
        As what the rows are read.
    """

    remote = False  # the blocks lie here, or can be had here
    scattered = False  # parameters of stochastic steps visit the blocks, rather than that rows are fetched

    def __init__(self, X, y, s=None, n_threads=1, memo=None, encoder=None):
        self.encoder = encoder
        self.X, self.y, self.s, self.n_threads = (
            X,
            frozen(y),
            None if s is None else frozen(s, np.float64),
            n_threads,
        )
        self.n_rows, self.n_features = X.shape
        self.sparse, self.dtype = is_sparse(X), as_float(X.dtype)
        self.n_entries = X.nnz if self.sparse else self.n_rows * self.n_features
        self.trusted = False
        self.memo = {} if memo is None else memo
        self._spare = {}  # shape -> arrays of sums that were added to others
        self.bounds = self._cut()
        self.weight = float(self.n_rows) if s is None else self._sum(self.s)
        self.blocks = self._blocks()

    def _targets(self, start, stop):
        return self.y[start:stop], ONE if self.s is None else self.s[start:stop]

    def with_targets(self, y):
        """The same rows and weights with other targets."""
        return type(self)(self.X, y, self.s, self.n_threads, self.memo, self.encoder)

    def encoded(self, encoder):
        """The same rows, read as an encoder has them."""
        return type(self)(self.X, self.y, self.s, self.n_threads, None, encoder)

    # ``function`` below is a module's function, or a method of a NamedTuple, with all it needs bound to it:
    # where the blocks lie on other machines, it travels.

    def map(self, function, *kept, rows=True):
        """[function(block, *parts) for each block], on threads where that pays, in the order of the blocks.

        ``kept`` are results of :meth:`keep`, of which each block gets its part. A function of targets,
        weights and parts alone needs no ``rows``: they are then not read.
        """
        results = [None] * len(self.blocks)
        with self._reader(range(len(results)), rows) as block:

            def one(k):
                results[k] = function(block(k), *(parts[k] for parts in kept))

            self._run(one, len(results))
        return results

    def keep(self, function, *kept, rows=True):
        """As :meth:`map`, for what later calls get back block by block and nobody else looks at."""
        return self.map(function, *kept, rows=rows)

    def reduce(self, function, combine, *kept, rows=True):
        """What ``function(block, *parts)`` returns for each block, combined pairwise along a fixed tree."""
        tree = Tree(len(self.blocks), combine)
        with self._reader(range(len(self.blocks)), rows) as block:

            def one(k):
                tree.add(function(block(k), *(parts[k] for parts in kept)), k)

            self._run(one, len(self.blocks))
        return tree.root

    def renew(self, function, combine, kept, rows=True):
        """As :meth:`reduce` for a function that changes the part it gets: (what is kept now, the result)."""
        return kept, self.reduce(function, combine, kept, rows=rows)

    def visit(self, order=None):
        """The blocks one after the other, in their own order or that of the given numbers."""
        order = range(len(self.blocks)) if order is None else [int(k) for k in order]
        with self._reader(order, one_by_one=True) as block:
            yield from map(block, order)

    def relay(self, function, state, visits):
        """``state`` after ``state = function(state, block, *args)`` for each visit (number, *args)."""
        blocks = self.visit([k for k, *_ in visits])
        for _, *args in visits:
            state = function(state, next(blocks), *args)
        return state

    def total(self, function, shape, *kept, merged=False):
        """Sum over the blocks of what ``function(block, *parts, out)`` returns and what it adds to ``out``.

        ``kept`` is as in :meth:`map`. Consecutive blocks share an ``out`` where that is large; the sums are
        added pairwise, as soon as both are there.
        """
        if len(self.blocks) == 1:
            out = np.zeros(shape)
            return function(self.blocks[0], *(parts[0] for parts in kept), out), out
        size = max(1, int(np.prod(shape)))
        n_groups = min(len(self.blocks), max(MIN_GROUPS, self.n_entries // (4 * size)))
        groups = np.array_split(np.arange(len(self.blocks)), n_groups)
        spare = self._spare.setdefault(shape, [])

        def add(left, right):
            both = add_sums(left, right)
            spare.append(right[1])  # not before: another thread may take it at once
            return both

        tree = Tree(n_groups, add)

        def one(g):
            out, value = _zeros(shape, spare), 0.0
            numbers = groups[g].tolist()
            if merged:
                value = sum(function(block, out) for block in self._merge(numbers, read))
            else:
                for k in numbers:
                    value += function(read(k), *(parts[k] for parts in kept), out)
            tree.add((value, out), g)

        with self._reader(range(len(self.blocks))) as read:
            self._run(one, n_groups)
        return tree.root

    def wholes(self):
        """The rows in as few blocks as can be had without reading more than one at a time."""
        return self.blocks

    def head(self):
        """The first rows, at most a hundred, of a source that is not sparse."""
        return self.blocks[0].rows.X[:100]

    def mean_target(self):
        """The mean of y, whatever the weights."""
        return self._sum(self.y) / self.n_rows

    def _sum(self, values):
        """Of an entry per row, with the same bits wherever the blocks lie."""
        return math.fsum(values[a:b].sum() for a, b in itertools.pairwise(self.bounds.tolist()))

    def smallest_weight(self):
        """The smallest weight above 0."""
        return 1.0 if self.s is None else float(self.s[self.s > 0].min())

    def _reader(self, order, rows=True, one_by_one=False):
        """Context of a function from a number to the block, called in about that order.

        ``one_by_one``: by one thread, however many there are.
        """
        return contextlib.nullcontext(self.blocks.__getitem__ if rows else self._without_rows)

    def _without_rows(self, k):
        start, stop = (int(bound) for bound in self.bounds[k : k + 2])
        return Block(None, *self._targets(start, stop), start, stop)

    def _merge(self, group, read):
        """Consecutive blocks, as they can be had at once."""
        return map(read, group)

    def _run(self, function, n_tasks):
        """function(0) … function(n_tasks - 1), on threads where that pays."""
        run_tasks(function, n_tasks, self.n_threads if self.n_entries >= THREAD_ENTRIES else 1)


def _zeros(shape, spare):
    """Zeros in memory that was in use before, if there is any: new memory takes longer than many a sum."""
    try:
        out = spare.pop()
    except IndexError:
        return np.zeros(shape)
    out[...] = 0.0
    return out


class ArrayBlocks(Blocks):
    """Blocks of a C-ordered array or memmap, or of a CSR matrix, float32 or float64, used where it lies."""

    def _cut(self):
        return block_bounds(self.n_rows, self.n_features, self.n_entries)

    def _blocks(self):
        rows = self.memo.get("rows")
        if rows is None:
            rows = self.memo["rows"] = encoded(as_rows(self.X), self.encoder)
        return [
            Block(self._slice(rows, a, b), *self._targets(a, b), a, b)
            for a, b in itertools.pairwise(self.bounds.tolist())
        ]

    def _slice(self, rows, start, stop):
        if (start, stop) == (0, self.n_rows):
            return rows
        if self.sparse:
            return rows._replace(indptr=rows.indptr[start : stop + 1])
        return rows._replace(X=rows.X[start:stop])

    def _merge(self, group, read):
        start, stop = int(self.bounds[group[0]]), int(self.bounds[group[-1] + 1])
        yield Block(self._slice(self.memo["rows"], start, stop), *self._targets(start, stop), start, stop)

    def wholes(self):
        """One block of all rows."""
        return [Block(self.memo["rows"], *self._targets(0, self.n_rows), 0, self.n_rows)]

    def matrix(self):
        """All rows as one array or CSR matrix."""
        return self.X

    def sample(self, step):
        """Every ``step``-th row, copied into memory."""
        return ArrayBlocks(
            self.X[::step], self.y[::step], None if self.s is None else self.s[::step], self.n_threads
        )
