"""Where rows come from: data as a fixed list of blocks, and sums over them on threads.

The cut into blocks depends on the shape of the data, and of a file on its chunks; partial sums are added
along a tree that depends on their number alone, so that a result is the same, bit for bit, for any number of
threads.
"""

import contextlib
import itertools
import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import joblib
import numpy as np
from scipy.sparse import issparse, vstack
from threadpoolctl import ThreadpoolController

from ._jit import frozen
from .mapping import mapped
from .reading import Buffers, ReadAhead, read_rows
from .rows import as_matrix, as_rows
from .validation import as_float, is_blockwise

BLOCK_ENTRIES = 1 << 18  # stored entries of X that are worth a block of their own
MAX_BLOCKS = 64
MIN_GROUPS = 8  # of blocks whose large sums are formed apart
MAX_WHOLE = 4  # blocks' worth of rows that are unpacked at once
SLICE_BYTES = 1 << 23  # of float64 per block that is read from elsewhere
THREAD_ENTRIES = 1 << 17  # below so many entries in all a pass is over before a second thread has started
ONE = frozen(np.ones(1))  # stands for "no weights"


class Block(NamedTuple):
    """Consecutive rows with their targets and weights, and where they start."""

    rows: object
    y: np.ndarray
    s: np.ndarray
    start: int
    stop: int


def resolve_threads(n_jobs):
    """Threads for one fit: ``None`` means the processors this process may use, capped by what it was granted.

    Within a joblib worker the grant is what joblib put into the environment (processes) or one (threads).
    """
    if n_jobs is not None and n_jobs > 0:
        return n_jobs
    granted = [
        int(v) for v in map(os.environ.get, ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")) if v and v.isdigit()
    ]
    backend, _ = joblib.parallel.get_active_backend()
    if (backend.nesting_level or 0) > 0 and backend.uses_threads:
        granted.append(1)
    available = max(1, min([joblib.cpu_count(), *granted]))
    return available if n_jobs is None else max(1, available + 1 + n_jobs)


class _Pool:
    """Worker threads kept for the process; a forked child, where they do not live on, gets its own."""

    def __init__(self):
        self._lock, self._pid, self._executor, self._size = threading.Lock(), None, None, 0

    def get(self, n_threads):
        with self._lock:
            if self._pid != os.getpid() or self._size < n_threads:
                self._executor = ThreadPoolExecutor(n_threads, thread_name_prefix="skbigmodel")
                self._pid, self._size = os.getpid(), n_threads
            return self._executor


_POOL = _Pool()
os.register_at_fork(after_in_child=_POOL.__init__) if hasattr(os, "register_at_fork") else None


def run_tasks(function, n_tasks, n_threads):
    """function(0) … function(n_tasks - 1), on at most that many threads, of which the caller's is one."""
    n_threads = min(n_threads, n_tasks)
    if n_threads <= 1:
        for k in range(n_tasks):
            function(k)
        return
    todo = iter(range(n_tasks))

    def work():
        for k in todo:  # handing out the next number is atomic
            function(k)

    futures = [_POOL.get(n_threads - 1).submit(work) for _ in range(n_threads - 1)]
    try:
        work()
    finally:
        for _ in todo:  # after an error or Ctrl-C nothing more is handed out
            pass
        for future in futures:
            future.result()


class Tree:
    """Combines numbered parts along a fixed binary tree.

    So the result is the same, bit for bit, in whatever order the parts come and wherever pairs are combined.

    Parameters
    ----------
    n_parts : int
    combine : callable
        ``combine(left, right)``; it may overwrite ``left``.

    Attributes
    ----------
    nodes : dict
        (level, number) -> what waits there for its sibling; in the end the root alone.
    """

    def __init__(self, n_parts, combine):
        self.n_parts, self.combine, self.nodes, self._lock = n_parts, combine, {}, threading.Lock()

    def add(self, part, number, level=0):
        """Put the part into its place, and combine what is complete."""
        while last := (self.n_parts - 1) >> level:  # else there is but one node on this level
            sibling = number ^ 1
            if sibling <= last:
                with self._lock:
                    other = self.nodes.pop((level, sibling), None)
                    if other is None:
                        self.nodes[level, number] = part
                        return
                part = self.combine(part, other) if number < sibling else self.combine(other, part)
            level, number = level + 1, number >> 1
        self.nodes[level, number] = part

    @property
    def root(self):
        """All parts combined."""
        (part,) = self.nodes.values()
        return part


def add_sums(left, right):
    """Add two results of a pass: a number and an array each."""
    return left[0] + right[0], np.add(left[1], right[1], out=left[1])


class _SingleThreadedBLAS:
    """Context in which BLAS keeps to the calling thread: ours are the threads, whose number changes nothing.

    The setting is one for the process, so fits that overlap in time share it: the first in sets it, the last
    out restores it.
    """

    def __init__(self):
        self._lock, self._depth, self._libraries, self._before = threading.Lock(), 0, None, ()

    def __enter__(self):
        with self._lock:
            self._depth += 1
            if self._depth > 1:
                return
            # their setters are called directly: a fit may take no longer than a search
            if self._libraries is None:
                found = ThreadpoolController().lib_controllers
                self._libraries = [library for library in found if library.user_api == "blas"]
            self._before = [library.num_threads for library in self._libraries]
            for library in self._libraries:
                library.set_num_threads(1)

    def __exit__(self, *error):
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                for library, n_threads in zip(self._libraries, self._before, strict=True):
                    library.set_num_threads(n_threads)


single_threaded_blas = _SingleThreadedBLAS()
os.register_at_fork(after_in_child=single_threaded_blas.__init__) if hasattr(os, "register_at_fork") else None


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
    encoder : :class:`~skbigmodel.rows.Encoder` or None
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

        ``kept`` are results of :meth:`keep`, of which each block gets its part. A function of targets, weights
        and parts alone needs no ``rows``: they are then not read.
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
        with self._reader(order) as block:
            yield from map(block, order)

    def relay(self, function, state, visits):
        """``state`` after ``state = function(state, block, *args)`` for each of the visits (number, *args)."""
        blocks = self.visit([k for k, *_ in visits])
        for _, *args in visits:
            state = function(state, next(blocks), *args)
        return state

    def total(self, function, shape, *kept, merged=False):
        """Sum over the blocks of what ``function(block, *parts, out)`` returns and of what it adds to ``out``.

        ``kept`` is as in :meth:`map`. Consecutive blocks share an ``out`` where that is large; the sums are
        added pairwise, as soon as both are there.
        """
        if len(self.blocks) == 1:
            out = np.zeros(shape)
            return function(self.blocks[0], *(parts[0] for parts in kept), out), out
        size = max(1, int(np.prod(shape)))
        n_groups = min(len(self.blocks), max(MIN_GROUPS, self.n_entries // (4 * size)))
        groups = np.array_split(np.arange(len(self.blocks)), n_groups)
        tree = Tree(n_groups, add_sums)

        def one(g):
            out, value = np.zeros(shape), 0.0
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

    def _reader(self, order, rows=True):
        """Context of a function from a number to the block, called in about that order."""
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


class ArrayBlocks(Blocks):
    """Blocks of a C-ordered array or memmap, or of a CSR matrix, float32 or float64, used where it lies."""

    def _cut(self):
        return block_bounds(self.n_rows, self.n_features, self.n_entries)

    def _blocks(self):
        rows = self.memo.get("rows")
        if rows is None:
            rows = self.memo["rows"] = as_rows(self.X, self.encoder)
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


def block_rows(X):
    """Rows of a block that is read from elsewhere."""
    entries = X.nnz // max(1, X.shape[0]) if is_sparse(X) else int(np.prod(X.shape[1:]))
    size = SLICE_BYTES // 4 if getattr(X, "from_map", False) else SLICE_BYTES
    return max(1, size // (8 * max(1, entries)))


def pieces(X):
    """Where the pieces end in which a source is stored, and whether to read them whole: they are packed."""
    chunks = getattr(X, "chunks", None)
    if chunks and isinstance(chunks[0], int):
        return np.append(np.arange(chunks[0], X.shape[0], chunks[0]), X.shape[0]), True
    return getattr(X, "ends", X.shape[:1]), False


def cut_pieces(ends, size, whole):
    """Bounds of blocks of about ``size`` rows, which go beyond a piece only where pieces are small."""
    bounds, limit = [0], (MAX_WHOLE if whole else 1.25) * size
    for end in ends:
        while end - bounds[-1] > limit:
            bounds.append(bounds[-1] + size)
        if end - bounds[-1] >= 0.5 * size:
            bounds.append(int(end))
    if bounds[-1] < ends[-1]:
        bounds.append(int(ends[-1]))
    return np.array(bounds)


class SlicedBlocks(Blocks):
    """Blocks read as slices ``X[a:b]`` of a file or foreign array, converted and checked at each read."""

    def _cut(self):
        ends, whole = pieces(self.X)
        return cut_pieces(ends, block_rows(self.X), whole)

    def _blocks(self):
        self._room = Buffers(self.n_threads + 2)  # those of the threads, one ahead, one just done with
        return _Slices(self)

    def _reader(self, order, rows=True):
        return ReadAhead(self.blocks.__getitem__, order) if rows else super()._reader(order, rows)

    def read(self, start, stop):
        """Rows as a C-ordered float array, which are checked when they are first read without trust."""
        checked = self.memo.setdefault("checked", set())
        part = read_rows(self.X, start, stop, self.trusted or start in checked, self._room)
        if not self.trusted:
            checked.add(start)
        return part

    def matrix(self):
        """All rows as one array or CSR matrix, in memory."""
        return self._stacked(lambda part, start: part)

    def _stacked(self, pick):
        """What ``pick`` takes of each block, one below the other."""
        # a copy frees the block
        parts = [pick(as_matrix(b.rows, self.n_features), b.start).copy() for b in self.visit()]
        return vstack(parts, format="csr") if self.sparse else np.concatenate(parts)

    def sample(self, step):
        """Every ``step``-th row, in memory."""
        X = self._stacked(lambda part, start: part[-start % step :: step])
        return ArrayBlocks(X, self.y[::step], None if self.s is None else self.s[::step], self.n_threads)


class _Slices(Sequence):
    """The blocks of a :class:`SlicedBlocks`, read when asked for."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source.bounds) - 1

    def __getitem__(self, k):
        if not 0 <= k < len(self):
            raise IndexError(k)  # ends an iteration
        start, stop = (int(bound) for bound in self.source.bounds[k : k + 2])
        rows = as_rows(self.source.read(start, stop), self.source.encoder)
        return Block(rows, *self.source._targets(start, stop), start, stop)


def make_blocks(X, y, s, n_threads):
    """The source of blocks for validated data."""
    if hasattr(X, "make_blocks"):  # stands for a Dask collection
        return X.make_blocks(y, s, n_threads)
    X = mapped(X) if is_blockwise(X) else X
    return (SlicedBlocks if is_blockwise(X) else ArrayBlocks)(X, y, s, n_threads)


def in_slices(function, X):
    """function(X); where X is read block by block, its results for the blocks, one below the other."""
    if not is_blockwise(X):
        return function(X)
    out = None
    for block in SlicedBlocks(mapped(X), np.broadcast_to(0.0, X.shape[0])).visit():
        part = function(as_matrix(block.rows, X.shape[1]))
        out = np.empty((X.shape[0], *part.shape[1:]), part.dtype) if out is None else out
        out[block.start : block.stop] = part
        del block  # its rows are freed before the next are read
    return out
