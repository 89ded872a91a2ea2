"""Dask arrays and DataFrames: how they become blocks, and how they are predicted and scored chunk by chunk.

On a cluster the rows stay where they are: see ``cluster``. Without one Dask computes in this process; the
chunks are then kept as they come and are the blocks of an ordinary source.
"""

import contextlib
import copy
import itertools
import pickle
import uuid
from functools import partial

import cloudpickle
import dask
import numpy as np
from scipy import sparse

from .blocks import ArrayBlocks, Block, Blocks
from .cluster import Column, DaskRows, Groups, sampled
from .passes_linear import squared_norm
from .rows import as_csr, as_rows
from .validation import TOO_LARGE, as_float, canonical


@contextlib.contextmanager
def reported():
    """Errors of the cluster itself as sentences that say what to do."""
    from distributed import CancelledError, KilledWorker, client
    from distributed.comm import CommClosedError

    closed = getattr(client, "ClosedClientError", CancelledError)  # new in 2026
    try:
        yield
    except KilledWorker as error:
        raise RuntimeError(
            "a block of rows was lost with several workers in a row, which its size may have killed: rechunk "
            "X into smaller blocks, or give the workers more memory"
        ) from error
    except (closed, CancelledError, CommClosedError, TimeoutError) as error:
        raise ConnectionError(
            "the connection to the Dask scheduler was lost, or data was that it cannot compute anew (such as "
            "scattered arrays): connect a Client, create the data again, and fit anew"
        ) from error


ROUNDS = 8  # in which partial_fit visits each chunk


def active_client():
    """The client of the cluster that computes Dask collections, or ``None`` where this process does."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if hasattr(client, "who_has") else None


def stand_in(X):
    """One row of zeros with the columns of X, and the float type for all of them.

    Raises
    ------
    TypeError, ValueError
        If X is no table of numbers.
    """
    if len(X.shape) != 2 or not isinstance(X.shape[1], int | np.integer):
        raise ValueError(
            f"X must have two dimensions and a known number of columns, got {X.shape}. Reshape your data "
            "either using array.reshape(-1, 1) if it has a single feature or array.reshape(1, -1) if it is "
            "one sample"
        )
    row = np.zeros((1, X.shape[1]))
    if not hasattr(X, "columns"):
        if X.dtype.kind not in "biuf":
            raise TypeError(f"X has dtype {X.dtype}, which is not numeric")
        return row, as_float(X.dtype)
    wrong = [name for name, dtype in X.dtypes.items() if dtype.kind not in "biuf"]
    if wrong:
        raise TypeError(f"X has columns that are not numeric: {wrong}")
    kinds = {np.dtype(getattr(dtype, "numpy_dtype", dtype)) for dtype in X.dtypes}
    return type(X._meta)(row, columns=X.columns), as_float(np.float32 if kinds == {np.dtype("f4")} else float)


def _chunks(values, lengths, name):
    """The parts of ``values`` that belong to chunks of so many rows: delayed ones, or arrays.

    Where lengths are not known (NaN), the same number of chunks is taken for the same lengths, which is
    checked when they are there.
    """
    known = not np.isnan(lengths).any()
    if not hasattr(values, "__dask_graph__"):
        values = np.asarray(values)
        if values.ndim == 0 or len(values) != sum(lengths):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: X has {int(sum(lengths))} "
                f"rows, {name} has shape {values.shape}"
            )
        return np.split(values, np.cumsum(lengths[:-1]).astype(np.int64))
    if hasattr(values, "npartitions") and not hasattr(values, "chunks"):
        if values.npartitions == len(lengths):
            return values.to_delayed()
        values = values.to_dask_array()
    own = values.chunks[0]
    if len(own) != len(lengths) or known and not np.isnan(own).any() and list(own) != list(lengths):
        values = values.compute_chunk_sizes() if np.isnan(own).any() else values
        if len(values) != sum(lengths):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: X has {sum(lengths)} rows, "
                f"{name} has {len(values)}"
            )
        values = values.rechunk({0: tuple(map(int, lengths))})
    return list(values.rechunk({1: -1} if values.ndim > 1 else {}).to_delayed().ravel())


def _rows_of(X):
    """(delayed chunks of rows, their lengths, NaN where they are not known)."""
    if not hasattr(X, "chunks"):
        return X.to_delayed(), [np.nan] * X.npartitions
    return _chunks(X, X.chunks[0], "X"), list(X.chunks[0])


def take(X, y, dtype, prepare):
    """Checked rows and targets of Dask collections: a :class:`DaskRows` and a :class:`Column`.

    Without a cluster, a :class:`LocalRows` and the targets as they are in memory.

    Parameters
    ----------
    X : Dask array or DataFrame
    y : Dask collection or array
    dtype : dtype
        Of the rows.
    prepare : callable
        Checks the targets of a block and makes an array of them.
    """
    chunks, lengths = _rows_of(X)
    client = active_client()
    if client is None:
        check = dask.delayed(_checked_rows)
        own = _rows_of(y)[0] if hasattr(y, "__dask_graph__") else [y]
        rows, y = dask.compute([check(chunk, k, X.shape[1], dtype) for k, chunk in enumerate(chunks)], own)
        rows = LocalRows([part for part in rows if part.n_rows()], X.shape[1], dtype)
        return rows, np.concatenate([prepare(part) for part in y if len(part)] or [np.empty(0)])
    alike = hasattr(y, "__dask_graph__") and getattr(y, "npartitions", 0) == len(chunks)
    with reported():
        # what y and X are made of is computed once for both
        together = client.compute([*chunks, *(_chunks(y, lengths, "y") if alike else ())])
        rows = _group_rows(client, together[: len(chunks)], X.shape[1], dtype)
    return rows, column(rows, y, "y", prepare)


def column(rows, values, name, prepare):
    """The :class:`~skbigmodel.cluster.Column` of a Dask collection or array with an entry for each row.

    ``prepare(values)`` checks the part of a block and makes an array of it.
    """
    groups = rows.groups
    with reported():
        chunks = [
            chunk for chunk, n in zip(_chunks(values, rows.lengths, name), rows.lengths, strict=True) if n
        ]
        futures = iter(
            groups.client.compute([chunk for chunk in chunks if not isinstance(chunk, np.ndarray)])
        )
        chunks = [chunk if isinstance(chunk, np.ndarray) else next(futures) for chunk in chunks]
        described = groups.split([(k, int(n)) for k, n in enumerate(rows.sizes[:, 0])])
        message = cloudpickle.dumps((name, prepare))
        # beside the rows, which are larger
        parts = groups.submit(_prepared_column, message, described, rows.parts, groups.split(chunks))
    width, dtype = groups.collect(_form, parts)[0]
    return Column(groups, parts, (rows.shape[0], *width), dtype)


def _group_rows(client, futures, n_features, dtype):
    """The rows of the chunks, in groups of those that lie together."""
    from distributed import wait

    wait(futures)
    numbers, workers = _neighbours(client, futures)
    groups = Groups(client, numbers, reported)
    parts = [
        client.submit(
            _prepared_rows, list(zip(group, (futures[k] for k in group), strict=True)), n_features, dtype,
            key=f"skbigmodel_rows-{uuid.uuid4().hex}", pure=False, workers=worker, allow_other_workers=True,
        )
        for group, worker in zip(numbers, workers, strict=True)
    ]  # fmt: skip
    sizes = np.array(groups.collect(_sizes_and_form, parts))
    lengths = sizes[:, 0].tolist()
    if not any(lengths):
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required: X has no rows")
    filled = np.flatnonzero(lengths)
    if len(np.unique(sizes[filled, 2])) > 1:
        raise ValueError("some blocks of X are sparse and some dense: make all of them alike")
    if len(filled) < len(lengths):
        place = dict(zip(filled.tolist(), range(len(filled)), strict=True))
        chosen = [[i for i, k in enumerate(group) if k in place] for group in numbers]
        some = [g for g, which in enumerate(chosen) if which]
        parts = groups.submit(_chosen, None, [parts[g] for g in some], [chosen[g] for g in some])
        groups = Groups(client, [[place[k] for k in numbers[g] if k in place] for g in some], reported)
    return DaskRows(groups, parts, sizes[filled, :2], n_features, dtype, bool(sizes[filled[0], 2]), lengths)


def _neighbours(client, futures):
    """Numbers of the futures that lie together, a list for each thread of a worker, and the workers."""
    where, threads, lying = client.who_has(futures), client.nthreads(), {}
    for k, future in enumerate(futures):
        lying.setdefault(next(iter(where.get(future.key, ())), None), []).append(k)
    groups, workers = [], []
    for worker, numbers in lying.items():
        for part in np.array_split(numbers, min(len(numbers), threads.get(worker, 1))):
            groups.append(part.tolist())
            workers.append(worker)
    return groups, workers


def _prepared_rows(chunks, n_features, dtype):
    return [_checked_rows(chunk, k, n_features, dtype) for k, chunk in chunks]


def _checked_rows(chunk, number, n_features, dtype):
    """A chunk as rows of that type, with neither NaN nor infinity.

    Raises
    ------
    ValueError
        Naming the block.
    """
    if hasattr(chunk, "to_numpy"):
        chunk = chunk.to_numpy(dtype=dtype, na_value=np.nan)
    if sparse.issparse(chunk):
        chunk = canonical(chunk.tocsr().astype(dtype, copy=False))
    else:
        chunk = np.asarray(chunk)
    if chunk.ndim != 2 or chunk.shape[1] != n_features:
        raise ValueError(f"block {number} of X has shape {chunk.shape}, but X has {n_features} columns")
    rows = as_rows(chunk if sparse.issparse(chunk) else np.asarray(chunk, dtype=dtype, order="C"))
    if not np.isfinite(squared_norm(rows.values())):
        if np.isfinite(rows.values()).all():
            raise ValueError(f"block {number}: {TOO_LARGE}")
        raise ValueError(f"Input X contains NaN or infinity in block {number}")
    return rows


def _sizes_and_form(rows):
    return rows.n_rows(), rows.values().size, not hasattr(rows, "X")


def _chosen(_, parts, which):
    return [parts[i] for i in which]


def _prepared_column(message, described, rows, chunks):
    name, prepare = pickle.loads(message)
    return [_checked_part(name, prepare, *one, chunk) for one, chunk in zip(described, chunks, strict=True)]


def _checked_part(name, prepare, number, n_rows, chunk):
    if len(chunk) != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: block {number} of X has {n_rows} "
            f"rows, that of {name} has {len(chunk)}"
        )
    try:
        return prepare(chunk)
    except (ValueError, TypeError) as error:
        raise type(error)(f"block {number} of {name}: {error}") from error


def _form(values):
    return values.shape[1:], values.dtype.str


class LocalRows:
    """Checked rows in the memory of this process, in the chunks in which they came: stands for X."""

    checked = True

    def __init__(self, parts, n_features, dtype):
        if not parts:
            raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required: X has no rows")
        self.parts, self.dtype = parts, np.dtype(dtype)
        self.bounds = np.append(0, np.cumsum([part.n_rows() for part in parts]))
        self.shape, self.nnz = (int(self.bounds[-1]), n_features), sum(part.values().size for part in parts)
        forms = {hasattr(part, "X") for part in parts}
        if len(forms) > 1:
            raise ValueError("some blocks of X are sparse and some dense: make all of them alike")
        self.is_sparse = forms == {False}

    def make_blocks(self, y, s, n_threads):
        """The source of blocks."""
        return LocalBlocks(self, y, s, n_threads)


class LocalBlocks(Blocks):
    """Blocks that are the chunks of a Dask collection."""

    scattered = True

    def _cut(self):
        return self.X.bounds

    def _blocks(self):
        bounds = itertools.pairwise(self.bounds.tolist())
        return [
            Block(rows, *self._targets(*span), *span) for rows, span in zip(self.X.parts, bounds, strict=True)
        ]

    def matrix(self):
        """All rows as one array or CSR matrix."""
        if self.sparse:
            return sparse.vstack([as_csr(rows, self.n_features) for rows in self.X.parts], format="csr")
        return np.concatenate([rows.X for rows in self.X.parts])

    def sample(self, step):
        """Every ``step``-th row, copied."""
        parts = [sampled(step, self.n_features, block) for block in self.blocks]
        rows = [part[0] for part in parts]
        rows = sparse.vstack(rows, format="csr") if self.sparse else np.concatenate(rows)
        return ArrayBlocks(rows, self.y[::step], None if self.s is None else self.s[::step], self.n_threads)


# -- predictions and scores


def map_rows(model, name, X):
    """The method of that name of a fitted model on each chunk of X, lazily: a Dask array."""
    row, _ = stand_in(X)
    example = getattr(model, name)(row)
    predict = partial(_predicted, model, name, example[:0])
    if hasattr(X, "columns"):
        return X.map_partitions(predict, meta=example[:0])
    X = X.rechunk({1: -1})
    if example.ndim == 1:
        return X.map_blocks(predict, drop_axis=1, dtype=example.dtype, meta=example[:0])
    return X.map_blocks(
        predict, chunks=(X.chunks[0], example.shape[1:]), dtype=example.dtype, meta=example[:0]
    )


def _predicted(model, name, nothing, chunk):
    return getattr(model, name)(chunk) if chunk.shape[0] else nothing


def _aligned(X, y, sample_weight):
    """Chunks of X, and those of the others that belong to them, for each of the others that is there."""
    chunks, lengths = _rows_of(X)
    columns = [c for c in (y, sample_weight) if c is not None]
    if any(not hasattr(c, "__dask_graph__") or c.npartitions != len(chunks) for c in columns):
        lengths = dask.compute([dask.delayed(_length)(chunk) for chunk in chunks])[0]
    return chunks, [_chunks(c, lengths, n) for c, n in zip(columns, ("y", "sample_weight"), strict=False)]


def over_chunks(function, X, y, sample_weight=None):
    """[function(rows, y, weights) for each chunk that has rows]: X stays where it is."""
    chunks, columns = _aligned(X, y, sample_weight)
    visit = dask.delayed(_visited)
    found = dask.compute(
        [visit(function, k, *parts) for k, parts in enumerate(zip(chunks, *columns, strict=True))]
    )
    return [result for result in found[0] if result is not None]


def visit(model, seed, X, y, sample_weight=None, **kwargs):
    """``partial_fit`` with the rows of one chunk after the other, each where it lies.

    The model travels; it gets what it has learnt when the last rows have been seen. Each chunk is visited
    several times, each time for a share of its rows: what one chunk teaches is not forgotten in the next,
    though all rows of a chunk may be alike. The order is drawn with the seed.
    """
    stand_in(X)
    chunks, columns = _aligned(X, y, sample_weight)
    learn, learnt = dask.delayed(_learnt, pure=False), copy.deepcopy(model)
    rng = np.random.default_rng(seed)
    for r in range(ROUNDS):
        for k in rng.permutation(len(chunks)).tolist():
            share = [*seed, k], r
            learnt = learn(learnt, share, k, chunks[k], *(parts[k] for parts in columns), **kwargs)
    vars(model).update(vars(learnt.compute()))


def _learnt(model, share, number, rows, *columns, **kwargs):
    """The model after one share of ``ROUNDS`` of the rows."""
    seed, r = share
    chosen = np.sort(np.random.default_rng(seed).permutation(rows.shape[0])[r::ROUNDS])
    if not chosen.size:
        return model
    model = copy.deepcopy(model)  # the one of before may be asked for again
    rows, *columns = (_taken(values, chosen) for values in (rows, *columns))
    names = ("y", "sample_weight")
    if len(columns) > 1 and not np.any(columns[1]):  # no row of this share counts
        return model
    try:
        return model.partial_fit(rows, **dict(zip(names, columns, strict=False)), **kwargs)
    except (ValueError, TypeError) as error:
        raise type(error)(f"block {number}: {error}") from error


def _length(rows):
    return rows.shape[0]


def _visited(function, number, rows, *columns):
    n_rows = rows.shape[0]
    if any(len(column) != n_rows for column in columns):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: block {number} of X has {n_rows} "
            f"rows, those of y and sample_weight have {[len(column) for column in columns]}"
        )
    return function(rows, *columns) if n_rows else None


def _taken(values, chosen):
    """Those rows of a part of a Dask collection."""
    return values.iloc[chosen] if hasattr(values, "iloc") else values[chosen]
