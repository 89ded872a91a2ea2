"""Blocks that are read: files and foreign arrays, of which rows come as slices."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import vstack

from .blocks import ArrayBlocks, Block, Blocks, is_sparse
from .encoding import encoded
from .mapping import mapped
from .reading import Buffers, ReadAhead, read_rows
from .rows import as_matrix, as_rows
from .validation import is_blockwise

MAX_WHOLE = 4  # blocks' worth of rows that are unpacked at once
SLICE_BYTES = 1 << 23  # of float64 per block that is read


def block_rows(X):
    """Rows of a block that is read from elsewhere."""
    entries = X.nnz // max(1, X.shape[0]) if is_sparse(X) else int(np.prod(X.shape[1:]))
    size = SLICE_BYTES // 4 if getattr(X, "from_map", False) else SLICE_BYTES
    return max(1, size // (8 * max(1, entries)))


def is_plain(X):
    """Whether to read rows is to copy them, from memory or a memory map."""
    return isinstance(X, np.ndarray) or getattr(X, "is_plain", False)


def pieces(X):
    """Where the pieces end in which a source is stored, and whether to read them whole: they are packed."""
    chunks = getattr(X, "chunks", None)
    if chunks and isinstance(chunks[0], int):
        return np.append(np.arange(chunks[0], X.shape[0], chunks[0]), X.shape[0]), True
    return getattr(X, "ends", X.shape[:1]), getattr(X, "packed", False)


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

    def _reader(self, order, rows=True, one_by_one=False):
        # a copy takes a processor, not time to wait: all of them are busy with it and with the passes
        needless = is_plain(self.X) and self.n_threads > 1 and not one_by_one
        if rows and not needless:
            return ReadAhead(self.blocks.__getitem__, order)
        return super()._reader(order, rows)

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
        rows = encoded(as_rows(self.source.read(start, stop)), self.source.encoder)
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
