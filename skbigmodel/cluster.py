"""Rows that lie on a Dask cluster: passes travel to them, and only small results come back.

1. The chunks of X are computed where the scheduler wants them, or lie there already. Those that lie together
   form a group, one for each thread of a worker, and become one value there: the checked rows of its blocks.
2. What belongs to the rows (targets, weights, what solvers keep of each) are columns: a list per group.
3. A pass is one task per group. Its results are combined along a fixed binary tree of all blocks, so that
   they do not depend, bit for bit, on which worker had which block. What is small is combined by the caller,
   what is large on the workers.

Every task is a function of its arguments alone. If a worker is lost, Dask computes anew what lay there, and
the result is the same.
"""

import copy
import itertools
import math
import pickle
import uuid
from functools import partial

import cloudpickle
import numpy as np
from scipy import sparse

from ._jit import frozen
from .blocks import ONE, ArrayBlocks, Block
from .rows import as_csr, as_rows
from .sums import Tree
from .threads import single_threaded_blas
from .validation import as_float

MESSAGE_BYTES = (
    1 << 20
)  # of a function and what is bound to it, above which it is stored on the workers first
LARGE = 1 << 15  # entries of a sum above which the workers combine it
SAMPLE_ENTRIES = 1 << 22  # of a sample of the rows that is worth having here


# -- functions on the way to the blocks


def _each(message, *lists):
    """The function on the parts of each block of a group."""
    function = pickle.loads(message)
    with single_threaded_blas:
        return [function(*parts) for parts in zip(*lists, strict=True)]


def _nodes(message, n_blocks, numbers, *lists):
    """As ``_each``, combined as far as blocks of the group are neighbours in the tree."""
    function, combine = pickle.loads(message)
    tree = Tree(n_blocks, combine)
    with single_threaded_blas:
        for number, *parts in zip(numbers, *lists, strict=True):
            tree.add(function(*parts), number)
    return tree.nodes


def _renewed(message, n_blocks, numbers, kept, *lists):
    """(nodes, parts as the function leaves them)."""
    function, combine = pickle.loads(message)
    tree, kept = Tree(n_blocks, combine), copy.deepcopy(kept)
    with single_threaded_blas:
        for number, part, *parts in zip(numbers, kept, *lists, strict=True):
            tree.add(function(*parts, part), number)
    return tree.nodes, kept


def _item(which, pair):
    return pair[which]


def _joined(message, n_blocks, several):
    """The nodes of several groups, combined as far as they are neighbours."""
    _, combine = pickle.loads(message)
    tree = Tree(n_blocks, combine)
    for nodes in several:
        for (level, number), part in nodes.items():
            tree.add(part, number, level)
    return tree.nodes


def _sum_anew(left, right):
    """As ``add_sums``, leaving both as they are: they may be asked for again."""
    return left[0] + right[0], left[1] + right[1]


def _summed(function, shape, block, *parts):
    out = np.zeros(shape)
    return function(block, *parts, out), out


def _visited(message, state, which, args, *lists):
    """The state after a visit to one block of a group; the one of before stays as it is."""
    function, parts = pickle.loads(message), [parts[which] for parts in lists]
    with single_threaded_blas:
        return _on_block(partial(function, copy.deepcopy(state)), *parts, *args)


def _on_block(function, rows, y, s, span, *parts):
    rows = type(rows)(*map(frozen, rows))  # what was sent or on disk comes back in another kind of array
    return function(Block(rows, frozen(y), ONE if s is None else frozen(s), *span), *parts)


class Groups:
    """Which blocks lie together, and the way to them.

    Parameters
    ----------
    client : distributed.Client
    numbers : list of lists
        Of the blocks of each group.
    reported : callable
        A context in which errors of the cluster itself become sentences.
    """

    def __init__(self, client, numbers, reported):
        self.client, self.numbers, self.reported = client, numbers, reported
        self.n_blocks = sum(map(len, numbers))

    def split(self, values):
        """A list with an entry per block as lists per group."""
        return [[values[k] for k in numbers] for numbers in self.numbers]

    def submit(self, task, message, *lists):
        """Futures of task(message, *args) for each tuple of the lists zipped, in one graph.

        Their keys are new: what is like another task by chance may lie elsewhere.
        """
        name = f"skbigmodel{task.__name__}-{uuid.uuid4().hex}"
        keys = [(name, k) for k in range(len(lists[0]))]
        return self.client.map(task, [message] * len(keys), *lists, key=keys, pure=False)

    def _message(self, function):
        # in one piece: arrays come out writable, of the types for which there are kernels
        message = cloudpickle.dumps(function)
        if len(message) <= MESSAGE_BYTES:
            return message
        return self.client.scatter(message, broadcast=True, hash=False)

    def each(self, function, *columns):
        """Futures of function(*parts) for the blocks of each group, one per group."""
        with self.reported():
            return self.submit(_each, self._message(function), *columns)

    def collect(self, function, *columns):
        """[function(*parts) for each block]."""
        futures = self.each(function, *columns)
        with self.reported():
            lists = self.client.gather(futures)
        found = dict(zip(itertools.chain(*self.numbers), itertools.chain(*lists), strict=True))
        return [found[k] for k in range(self.n_blocks)]

    def reduce(self, function, combine, large, *columns):
        """function(*parts) of all blocks, combined along the tree."""
        with self.reported():
            message, sizes = self._message((function, combine)), [self.n_blocks] * len(self.numbers)
            futures = self.submit(_nodes, message, sizes, self.numbers, *columns)
            while large and len(futures) > 1:
                pairs = [futures[k : k + 2] for k in range(0, len(futures), 2)]
                futures = self.submit(_joined, message, sizes[: len(pairs)], pairs)
            results = self.client.gather(futures)
        return self._combined(results, combine)

    def renew(self, function, combine, kept, *columns):
        """As ``reduce`` of columns and ``kept``, whose parts the function changes: (new parts, result)."""
        with self.reported():
            message, sizes = self._message((function, combine)), [self.n_blocks] * len(self.numbers)
            pairs = self.submit(_renewed, message, sizes, self.numbers, kept, *columns)
            results = self.client.gather(self.submit(_item, 0, pairs))
            return self.submit(_item, 1, pairs), self._combined(results, combine)

    def relay(self, function, state, visits, *columns):
        """``state`` after the function of it and of the parts of one block after the other."""
        place = {k: (g, i) for g, numbers in enumerate(self.numbers) for i, k in enumerate(numbers)}
        with self.reported():
            message = self._message(function)
            name = f"skbigmodel_visited-{uuid.uuid4().hex}"
            for n, (k, *args) in enumerate(visits):
                group, which = place[k]
                parts = [column[group] for column in columns]
                state = self.client.submit(
                    _visited, message, state, which, args, *parts, key=(name, n), pure=False
                )
            return self.client.gather(state)

    def _combined(self, results, combine):
        tree = Tree(self.n_blocks, combine)
        for nodes in results:
            for (level, number), part in nodes.items():
                tree.add(part, number, level)
        return tree.root


class Column:
    """An array with an entry, or a row of entries, for each row of X, of which each block's part lies by it.

    It offers what the estimators ask of an array of targets or weights.
    """

    def __init__(self, groups, parts, shape, dtype):
        self.groups, self.parts, self.shape, self.dtype = groups, parts, shape, np.dtype(dtype)

    @property
    def ndim(self):
        """Number of axes."""
        return len(self.shape)

    def __len__(self):
        return self.shape[0]

    def map(self, function, *others, shape=None, dtype=None):
        """The column of function(*parts)."""
        parts = self.groups.each(function, self.parts, *(column.parts for column in others))
        return Column(self.groups, parts, shape or self.shape, dtype or self.dtype)

    def collect(self, function, *others):
        """[function(*parts) for each block]."""
        return self.groups.collect(function, self.parts, *(column.parts for column in others))

    def astype(self, dtype):
        """The column with another type."""
        return self.map(partial(np.asarray, dtype=dtype), dtype=dtype)

    def reshape(self, n_rows, _):
        """A matrix with a column per target."""
        width = self.shape[1] if self.ndim > 1 else 1
        return self.map(_as_matrix, shape=(n_rows, width))

    def __getitem__(self, key):
        return self.map(partial(_taken, key[1]), shape=self.shape[:1])


def _as_matrix(y):
    return y.reshape(len(y), -1)


def _taken(target, y):
    return np.ascontiguousarray(y[:, target])


# -- the source of blocks


class DaskRows:
    """Checked rows on a cluster: stands for X.

    Parameters
    ----------
    groups : Groups
    parts : list
        A future of a list of rows for each group.
    sizes : ndarray of shape (n_blocks, 2)
        Rows and stored entries of each block.
    lengths : list
        Rows of each chunk; those without are no blocks.
    """

    checked = True  # for NaN and infinity

    def __init__(self, groups, parts, sizes, n_features, dtype, is_sparse, lengths=None):
        self.groups, self.parts, self.sizes, self.lengths = groups, parts, np.asarray(sizes), lengths
        self.dtype, self.is_sparse = np.dtype(dtype), is_sparse
        self.bounds = np.append(0, np.cumsum(self.sizes[:, 0]))
        self.shape, self.nnz = (int(self.bounds[-1]), n_features), int(self.sizes[:, 1].sum())
        self.spans = groups.split(list(itertools.pairwise(self.bounds.tolist())))

    def changed(self, function, n_features=None):
        """Other rows, made of these by ``function(rows, (start, stop))``."""
        parts = self.groups.each(function, self.parts, self.spans)
        sizes = self.groups.collect(_sizes, parts)
        n_features = self.shape[1] if n_features is None else n_features
        return DaskRows(self.groups, parts, sizes, n_features, self.dtype, self.is_sparse)

    def make_blocks(self, y, s, n_threads):
        """The source of blocks."""
        return ClusterBlocks(self, y, s)


def _sizes(rows):
    return rows.n_rows(), rows.values().size


class ClusterBlocks:
    """The blocks of a :class:`DaskRows`; what it offers is described at ``blocks.Blocks``."""

    remote = scattered = True
    n_threads = 1  # of a pass over a block

    def __init__(self, X, y, s=None, memo=None):
        self.X, self.y, self.s, self.memo = X, y, s, {} if memo is None else memo
        self.n_rows, self.n_features = X.shape
        self.sparse, self.dtype, self.bounds = X.is_sparse, as_float(X.dtype), X.bounds
        self.n_entries = X.nnz
        self._n_blocks = X.groups.n_blocks
        self.weight = float(self.n_rows) if s is None else math.fsum(s.collect(np.sum))
        self._columns = (
            X.parts, y.parts, [[None] * len(k) for k in X.groups.numbers] if s is None else s.parts, X.spans,
        )  # fmt: skip

    def with_targets(self, y):
        """The same rows and weights with other targets."""
        return ClusterBlocks(self.X, y, self.s, self.memo)

    # ``rows`` of the methods spares a file from being read; here they are at hand

    def map(self, function, *kept, rows=True):
        """[function(block, *parts) for each block]."""
        return self.X.groups.collect(partial(_on_block, function), *self._columns, *kept)

    def keep(self, function, *kept, rows=True):
        """function(block, *parts) for each block, which stays there."""
        return self.X.groups.each(partial(_on_block, function), *self._columns, *kept)

    def reduce(self, function, combine, *kept, rows=True):
        """function(block, *parts) of all blocks, combined pairwise along a fixed tree."""
        large = self.n_features**2 > LARGE and not kept
        return self.X.groups.reduce(partial(_on_block, function), combine, large, *self._columns, *kept)

    def renew(self, function, combine, kept, rows=True):
        """As :meth:`reduce` for a function that changes the part it gets: (what is kept now, the result).

        The part of before stays as it is, so that what is lost can be made again.
        """
        return self.X.groups.renew(partial(_on_block, function), combine, kept, *self._columns)

    def relay(self, function, state, visits):
        """``state`` after ``state = function(state, block, *args)`` for each of the visits (number, *args).

        It travels from block to block; one task runs at a time.
        """
        return self.X.groups.relay(function, state, visits, *self._columns)

    def total(self, function, shape, *kept, merged=False):
        """Sum of what ``function(block, *parts, out)`` returns for each block, and of what it adds."""
        of_block = partial(_on_block, partial(_summed, function, shape))
        large = np.prod(shape) > LARGE
        return self.X.groups.reduce(of_block, _sum_anew, large, *self._columns, *kept)

    def head(self):
        """The first rows, at most a hundred."""
        if "head" not in self.memo:
            self.memo["head"] = self.X.groups.collect(_first_rows, *self._columns[::3])[0]
        return self.memo["head"]

    def mean_target(self):
        """The mean of y, whatever the weights."""
        return math.fsum(self.y.collect(np.sum)) / self.n_rows

    def smallest_weight(self):
        """The smallest weight above 0."""
        return 1.0 if self.s is None else min(self.s.collect(_smallest_positive))

    def sample(self, step):
        """Every ``step``-th row: here if those are few."""
        X, y = self.X, self.y
        if self.n_entries // step > SAMPLE_ENTRIES:
            rows = X.changed(partial(_every, step))
            columns = [
                c and c.map(partial(_every, step), Column(X.groups, X.spans, (), int)) for c in (y, self.s)
            ]
            return ClusterBlocks(rows, *columns)
        parts = self.map(partial(sampled, step, self.n_features))
        rows, y, s = zip(*parts, strict=True)
        rows = sparse.vstack(rows, format="csr") if self.sparse else np.concatenate(rows)
        s = None if self.s is None else np.concatenate(s)
        return ArrayBlocks(rows, np.concatenate(y), s)

    def columns(self, features):
        """The same rows with those features alone."""
        rows = self.X.changed(partial(_cut, features, self.n_features), features.size)
        return ClusterBlocks(rows, self.y, self.s)


def _first_rows(rows, span):
    return rows.X[:100] if span[0] == 0 else None


def _smallest_positive(s):
    return float(s[s > 0].min(initial=np.inf))


def _every(step, values, span):
    """Every ``step``-th of all rows, of which these are those of ``span``."""
    first = -span[0] % step
    if isinstance(values, np.ndarray):
        return values[first::step].copy()
    if hasattr(values, "X"):
        return as_rows(values.X[first::step].copy())
    return as_rows(as_csr(values, int(values.indices.max(initial=0)) + 1)[first::step])


def sampled(step, n_features, block):
    span = block.start, block.stop
    rows = _every(step, block.rows, span)
    rows = rows.X if hasattr(rows, "X") else as_csr(rows, n_features)
    return rows, _every(step, block.y, span), _every(step, block.s, span) if len(block.s) > 1 else None


def _cut(features, n_features, rows, span):
    if hasattr(rows, "X"):
        return as_rows(np.ascontiguousarray(rows.X[:, features]))
    return as_rows(as_csr(rows, n_features)[:, features])
