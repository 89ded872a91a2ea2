"""Rows that are not one array in memory, in a form that ``fit`` and ``predict`` take.

All classes here have a shape, a dtype and slices of rows, which are read when they are asked for. Estimators
go through them block by block, the next block being read while the last one is worked on. One-dimensional
sources (targets, weights) are converted to an array by ``fit``: 8 bytes per row are taken to fit into memory.
"""

import itertools
import numbers
import os
import threading
from collections import OrderedDict

import numpy as np
from scipy.sparse import csr_matrix, issparse, load_npz

from .blocks import is_sparse
from .mapping import mapped
from .reading import ReadAhead
from .selection import Rows, SelectedRows, across, slice_of, stack
from .slices import block_rows, cut_pieces, is_plain, pieces

__all__ = ["StackedRows", "ArrowRows", "TransformedRows", "CachedRows", "SelectedRows"]
__all__ += ["iter_rows", "write_rows", "write_chunks"]

LOOKED_AT = 100  # rows that tell what a transformer makes
KEPT_PIECES = 2  # decoded pieces of a file that a source keeps: neighbouring slices share them


class Kept:
    """The last few results of a function of a number, for threads.

    Parameters
    ----------
    load : callable
    """

    def __init__(self, load):
        self._load, self._kept, self._lock = load, OrderedDict(), threading.Lock()

    def __call__(self, k):
        with self._lock:  # loading has threads of its own
            if k not in self._kept:
                while len(self._kept) >= KEPT_PIECES:
                    self._kept.popitem(last=False)
                self._kept[k] = self._load(k)
            self._kept.move_to_end(k)
            return self._kept[k]


class StackedRows(Rows):
    """Parts one below the other, as one.

    Parameters
    ----------
    parts : sequence
        Arrays, memory maps, arrays of HDF5 and Zarr files, sparse matrices, sources of this module, and
        paths: ``.npy`` files, which are mapped, ``.npz`` files of :func:`scipy.sparse.save_npz`, which are
        loaded one at a time, and Parquet or Arrow files, of which all columns are taken. All of one or of two
        dimensions and of the same width; all sparse or none.

    Attributes
    ----------
    shape : tuple
    dtype : dtype
        The one that holds the values of all parts.
    ends : list of int
        Where the rows of each part end; blocks are cut there.

    Examples
    --------
    >>> import numpy as np
    >>> from skbigmodel import GDLinearRegressor
    >>> from skbigmodel.sources import StackedRows
    >>> X = StackedRows([np.eye(3), 2 * np.eye(3)])
    >>> y = StackedRows([np.arange(3.0), 2 * np.arange(3.0)])
    >>> X
    <StackedRows of shape (6, 3), float64>
    >>> model = GDLinearRegressor(fit_intercept=False).fit(X, y)
    >>> model.coef_.round(6)
    array([0., 1., 2.])
    """

    def __init__(self, parts):
        self._given = list(parts)
        self._open()
        if not self.parts:
            raise ValueError("parts is empty: at least one array or file is needed")
        shapes = [part.shape for part in self.parts]
        for number, shape in enumerate(shapes):
            if len(shape) not in (1, 2) or shape[1:] != shapes[0][1:]:
                raise ValueError(
                    f"part {number} has shape {shape}, part 0 has {shapes[0]}: parts must have the same width"
                )
        self.ends = list(itertools.accumulate(shape[0] for shape in shapes))
        self.shape = (self.ends[-1], *shapes[0][1:])
        self.dtype = np.result_type(*(part.dtype for part in self.parts))
        if any(map(is_sparse, self.parts)):
            if not all(map(is_sparse, self.parts)):
                raise ValueError("either all parts must be sparse or none")
            self.nnz = sum(part.nnz for part in self.parts)

    @property
    def is_plain(self):
        """Whether all parts are arrays, in memory or mapped."""
        return all(map(is_plain, self.parts))

    def _open(self):
        kept = Kept(load_npz)
        self.parts = [_opened(part, kept) for part in self._given]

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "parts"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._open()

    def _read(self, start, stop):
        found = [slice_of(self.parts[k], a, b) for k, a, b in across(self.ends, start, stop)]
        return stack(found) if found else slice_of(self.parts[-1], 0, 0)


class TransformedRows(Rows):
    """Rows as a fitted transformer makes them, block by block: scaling and encoding for what is not in
    memory.

    A :class:`~sklearn.pipeline.Pipeline` transforms all rows at once and cannot ``partial_fit``. Fit the
    transformer first, with ``partial_fit`` over :func:`iter_rows` or on a part of the rows; its transform
    must treat each row alike, whatever the other rows are.

    Parameters
    ----------
    X : array, DataFrame or source
        Passed to ``transformer.transform`` in slices of rows.
    transformer : object with ``transform``
        Fitted; its output has as many rows as its input.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skbigmodel import GDLogisticClassifier
    >>> from skbigmodel.sources import TransformedRows, iter_rows
    >>> X = np.random.default_rng(0).normal(5.0, 3.0, size=(1000, 4))  # or a memory map
    >>> scaler = StandardScaler()
    >>> for rows in iter_rows(X):
    ...     scaler = scaler.partial_fit(rows)
    >>> scaled = TransformedRows(X, scaler)
    >>> model = GDLogisticClassifier().fit(scaled, X[:, 0] > 5)
    >>> model.score(scaled, X[:, 0] > 5) > 0.95
    True
    """

    def __init__(self, X, transformer):
        self.X, self.transformer = X, transformer
        first = self._read(0, min(LOOKED_AT, X.shape[0]))
        self.shape, self.dtype = (X.shape[0], *first.shape[1:]), first.dtype
        if issparse(first):
            self.nnz = max(1, int(first.nnz * X.shape[0] / first.shape[0]))

    def _read(self, start, stop):
        if start == stop:  # no transformer takes no rows
            return (csr_matrix if self.is_sparse else np.empty)((0, *self.shape[1:]), dtype=self.dtype)
        made = self.transformer.transform(slice_of(self.X, start, stop))
        made = made.tocsr() if issparse(made) else np.asarray(made)
        if made.shape[0] != stop - start:
            raise ValueError(f"{type(self.transformer).__name__} made {made.shape[0]} rows of {stop - start}")
        return made


class CachedRows(Rows):
    """Rows that stay in memory once they have been read, up to a number of bytes.

    A fit goes through the rows some times, to some tens of times. Where reading is slow (compressed files,
    Parquet, transformers, files in Fortran order), each pass takes as long as reading; here only the first
    does. Rows that find no more room are read each time they are needed.

    Parameters
    ----------
    X : array or source
        Of numbers. Cache what :class:`TransformedRows` makes of rows, not the rows that it takes.
    max_bytes : int
        Memory that the rows may take, beside the few blocks that every fit needs. Unless all rows fit,
        the saving is their share that does.

    Attributes
    ----------
    shape : tuple
    dtype : dtype
    kept_bytes : int
        Memory that the rows take now. They are kept as long as this object is, also between fits, and stay
        here when it is pickled.

    See Also
    --------
    write_rows : For rows that do not fit into memory; a memory map is read again at the speed of the disk.

    Notes
    -----
    What changes in ``X`` after it has been read is not seen. Coefficients are those of ``X``, bit for bit.

    Examples
    --------
    >>> import numpy as np
    >>> from skbigmodel import GDLogisticClassifier
    >>> from skbigmodel.sources import CachedRows
    >>> X = np.random.default_rng(0).normal(size=(1000, 4))  # or an HDF5 array with gzip, ArrowRows, ...
    >>> cached = CachedRows(X, max_bytes=2_000_000_000)
    >>> model = GDLogisticClassifier().fit(cached, X[:, 0] > 0)
    >>> cached.kept_bytes
    32000
    """

    def __init__(self, X, max_bytes):
        if not isinstance(max_bytes, numbers.Real) or not max_bytes >= 0:
            raise ValueError(f"max_bytes must be a number of bytes, got {max_bytes!r}")
        if np.dtype(X.dtype).kind not in "biuf":
            raise ValueError(f"X has dtype {X.dtype}: only rows of numbers are kept")
        self.X, self.max_bytes = mapped(X), max_bytes
        self.shape, self.dtype = tuple(X.shape), X.dtype
        if is_sparse(X):
            self.nnz = X.nnz
        # blocks of a fit are those of X, and each is a piece here
        self.from_map = getattr(self.X, "from_map", False)
        ends, self.packed = pieces(self.X)
        self.ends = cut_pieces(ends, block_rows(self.X), self.packed)[1:].tolist()
        self._begin()

    @property
    def is_plain(self):
        """Whether all rows are in memory by now."""
        return len(self._kept) == len(self.ends)

    def _begin(self):
        self._kept, self._lock, self._full, self.kept_bytes = {}, threading.Lock(), False, 0

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name not in ("_kept", "_lock")}

    def __setstate__(self, state):
        vars(self).update(state)
        self._begin()

    def _read(self, start, stop):
        found = [self._part(k, a, b) for k, a, b in across(self.ends, start, stop)]
        return stack(found) if found else slice_of(self.X, 0, 0)

    def _part(self, k, start, stop):
        offset = self.ends[k - 1] if k else 0
        piece = self._kept.get(k)
        if piece is None and not self._full:
            piece = _own(slice_of(self.X, offset, self.ends[k]))
            self._keep(k, piece)
        return slice_of(self.X, offset + start, offset + stop) if piece is None else piece[start:stop]

    def _keep(self, k, piece):
        arrays = (piece.data, piece.indices, piece.indptr) if issparse(piece) else (piece,)
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            self._full = self._full or self.kept_bytes + size > self.max_bytes
            if not self._full and k not in self._kept:
                self._kept[k] = piece
                self.kept_bytes += size


class ArrowRows(Rows):
    """Columns of Parquet or Arrow files, read row group by row group. Needs pyarrow.

    Parameters
    ----------
    source : str, path, list of these, pyarrow.dataset.Dataset or pyarrow.Table
        Files, or a folder of files, with the same columns; ``.arrow``, ``.ipc`` and ``.feather`` are Arrow
        files, all others Parquet.
    columns : str, list of str or None, default=None
        One name makes a one-dimensional source, such as the target; ``None`` means all columns.
    frames : bool, default=False
        Whether slices are pandas DataFrames, for a transformer that knows columns by name; see
        :class:`TransformedRows`. Otherwise they are arrays, and columns of a table must be numbers.

    Notes
    -----
    A row group is decoded as a whole and two are kept: write files with row groups of some 100,000 rows. A
    null in a column of numbers becomes NaN.

    Decoding takes longer than most passes. Fit :class:`CachedRows` of the rows where they fit into memory;
    else write them to a memory map with :func:`write_rows` and fit that.
    """

    def __init__(self, source, columns=None, *, frames=False):
        self._source, self._frames = source, frames
        self._dataset = _arrow_dataset(source)
        schema = self._dataset.schema
        self._flat = isinstance(columns, str)
        self.names = [columns] if self._flat else list(schema.names if columns is None else columns)
        missing = [name for name in self.names if name not in schema.names]
        if missing:
            raise ValueError(f"columns {missing} are not in {list(schema.names)}")
        self._begin()
        self.shape = (self._ends[-1] if self._ends else 0,) + (() if self._flat else (len(self.names),))
        types = [schema.field(name).type for name in self.names]
        self.dtype = np.dtype(object) if frames else _common_type(types)

    def _begin(self):
        fragments = self._dataset.get_fragments()
        self._pieces, counts = zip(*itertools.chain.from_iterable(map(_row_groups, fragments)), strict=True)
        self._ends = list(itertools.accumulate(counts))
        self._piece = Kept(self._load)

    def __getstate__(self):
        hidden = ("_pieces", "_piece")
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def __setstate__(self, state):
        vars(self).update(state)
        self._begin()

    def _read(self, start, stop):
        found = [slice_of(self._piece(k), a, b) for k, a, b in across(self._ends, start, stop)]
        if not found:
            return self._convert(self._dataset.schema.empty_table().select(self.names))
        return stack(found)

    def _load(self, k):
        return self._convert(self._pieces[k].to_table(columns=self.names))

    def _convert(self, table):
        if self._frames:
            frame = table.to_pandas()
            return frame[self.names[0]] if self._flat else frame
        if self._flat:
            column = table.column(0)
            value_type = getattr(column.type, "value_type", None)  # that of a dictionary
            return (column if value_type is None else column.cast(value_type)).to_numpy()
        out = np.empty((table.num_rows, table.num_columns), self.dtype)
        for j, column in enumerate(table.columns):
            out[:, j] = column.to_numpy()
        return out


def _arrow_dataset(source):
    try:
        import pyarrow.dataset as ds
    except ImportError as error:
        raise ImportError("ArrowRows needs pyarrow: pip install skbigmodel[io]") from error
    if isinstance(source, ds.Dataset):
        return source
    if not isinstance(source, (str, os.PathLike, list, tuple)):
        return ds.dataset(source)
    several = isinstance(source, (list, tuple))
    paths = [os.fspath(path) for path in (source if several else [source])]
    arrow = paths[0].endswith((".arrow", ".ipc", ".feather"))
    return ds.dataset(paths if several else paths[0], format="ipc" if arrow else "parquet")


def _row_groups(fragment):
    """(part, number of its rows) of the parts of a file that can be read by themselves."""
    if not hasattr(fragment, "split_by_row_group"):
        return [(fragment, fragment.count_rows())]
    parts = fragment.split_by_row_group()
    return [(part, sum(group.num_rows for group in part.row_groups)) for part in parts]


def _common_type(arrow_types):
    """The dtype that holds the values of all columns; object where they are not all numbers."""
    try:
        return np.result_type(*(np.dtype(one.to_pandas_dtype()) for one in arrow_types))
    except (NotImplementedError, TypeError):
        return np.dtype(object)


class SparseFile:
    """The CSR matrix of a file, which ``load`` loads when rows of it are asked for."""

    is_sparse = True

    def __init__(self, path, load):
        matrix = load(path)
        self.path, self.load = path, load
        self.shape, self.dtype, self.nnz = matrix.shape, matrix.dtype, matrix.nnz

    def __getitem__(self, rows):
        return self.load(self.path).tocsr()[rows]


def _own(part):
    """A slice of rows in C order that shares no memory with where it comes from, nor is written to."""
    if issparse(part):
        return part.tocsr()  # slices of sparse matrices are copies
    part = np.asarray(part)
    part = part if part.flags.owndata and part.flags.c_contiguous else np.array(part, order="C")
    part.flags.writeable = False
    return part


def _opened(part, load):
    """A part of a stack as something with a shape and slices; ``load`` loads sparse files."""
    if isinstance(part, (str, os.PathLike)):
        path = os.fspath(part)
        if path.endswith(".npz"):
            return SparseFile(path, load)
        return np.load(path, mmap_mode="r") if path.endswith(".npy") else ArrowRows(path)
    if not hasattr(part, "shape"):
        return np.asarray(part)
    return part.tocsr() if issparse(part) else mapped(part)


def iter_rows(*arrays, batch_rows=None):
    """Slices of rows, one after the other, the next being read while the last is used.

    Parameters
    ----------
    *arrays : arrays, DataFrames, sparse matrices or sources
        With the same number of rows: ``X``, or ``X, y``, or ``X, y, sample_weight``.
    batch_rows : int, default=None
        Rows of a slice; the last may have fewer. ``None`` means some 8 MB of numbers.

    Yields
    ------
    slice of the array, or a tuple of slices where there are several
    """
    n_rows = arrays[0].shape[0]
    for number, array in enumerate(arrays):
        if array.shape[0] != n_rows:
            raise ValueError(f"array {number} has {array.shape[0]} rows, array 0 has {n_rows}")
    batch_rows = batch_rows or block_rows(arrays[0])
    starts = range(0, n_rows, batch_rows)

    def read(k):
        start, stop = starts[k], min(starts[k] + batch_rows, n_rows)
        parts = tuple(slice_of(array, start, stop) for array in arrays)
        return parts if len(parts) > 1 else parts[0]

    with ReadAhead(read, range(len(starts))) as part:
        yield from map(part, range(len(starts)))


def write_rows(function, X, out=None, batch_rows=None):
    """``function`` of ``X``, slice by slice, into an array: predictions or features of more rows than memory.

    Parameters
    ----------
    function : callable
        Such as ``model.predict_proba`` or ``encoder.transform``; gets slices of rows.
    X : array, DataFrame or source
    out : array of shape (n_rows, ...), default=None
        Where the result goes: a memory map, or an array of an HDF5 or Zarr file. ``None`` makes an array in
        memory.
    batch_rows : int, default=None
        Rows of a slice; see :func:`iter_rows`.

    Returns
    -------
    out

    Examples
    --------
    >>> import numpy as np
    >>> from skbigmodel.sources import write_rows
    >>> X = np.arange(12.0).reshape(6, 2)
    >>> write_rows(lambda rows: rows.sum(axis=1), X, np.zeros(6, np.float32), batch_rows=4)
    array([ 1.,  5.,  9., 13., 17., 21.], dtype=float32)
    """
    start = 0
    for rows in iter_rows(X, batch_rows=batch_rows):
        part = function(rows)
        part = part.toarray() if issparse(part) else np.asarray(part)
        if part.shape[:1] != (rows.shape[0],):
            raise ValueError(f"function made shape {part.shape} of {rows.shape[0]} rows")
        if out is None:
            out = np.empty((X.shape[0], *part.shape[1:]), part.dtype)
        if out.shape != (X.shape[0], *part.shape[1:]):
            raise ValueError(f"out has shape {out.shape}, but {(X.shape[0], *part.shape[1:])} is needed")
        out[start : start + len(part)] = part
        start += len(part)
    return out


def write_chunks(chunks, path):
    """Gather rows that come in chunks: ``X`` into a file on disk, targets and weights into memory.

    Fits go through the rows many times; so the chunks, which may take long to make, are made once.

    Parameters
    ----------
    chunks : iterable of (X, y) or (X, y, sample_weight)
        Such as a generator that parses files. All ``X`` of the same width; sparse ones are written densely.
    path : str or path
        A ``.npy`` file to be written, of the dtype of the first ``X``.

    Returns
    -------
    X : memmap of shape (n_rows, n_features)
        The file, mapped for reading.
    y : ndarray of shape (n_rows, ...)
    sample_weight : ndarray of shape (n_rows,)
        Only where the chunks have it.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from skbigmodel import GDLinearRegressor
    >>> from skbigmodel.sources import write_chunks
    >>> def chunks():
    ...     for k in range(4):
    ...         X = np.arange(10.0 * k, 10 * k + 10)[:, None]
    ...         yield X, 3 * X[:, 0] + 1
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     X, y = write_chunks(chunks(), os.path.join(folder, "X.npy"))
    ...     model = GDLinearRegressor().fit(X, y)
    ...     del X
    >>> print(f"{model.coef_[0]:.3f} {model.intercept_:.3f}")
    3.000 1.000
    """
    n_rows, header, others = 0, None, []
    with open(path, "wb") as file:
        for number, (X, *rest) in enumerate(chunks):
            X = np.asarray(X.toarray() if issparse(X) else X)
            header = header or {"descr": X.dtype.str, "fortran_order": False, "shape": (0, *X.shape[1:])}
            if number == 0:
                np.lib.format.write_array_header_2_0(file, header)
            if X.ndim != 2 or X.shape[1:] != header["shape"][1:] or X.dtype.kind not in "biuf":
                raise ValueError(f"X of chunk {number} has shape {X.shape} and dtype {X.dtype}")
            rest = [np.asarray(part) for part in rest]
            if not 1 <= len(rest) <= 2 or any(part.shape[:1] != X.shape[:1] for part in rest):
                shapes = [part.shape for part in rest]
                raise ValueError(f"chunk {number} has {len(X)} rows of X, but y and weights of {shapes}")
            file.write(np.ascontiguousarray(X, dtype=header["descr"]).data)
            n_rows += len(X)
            others.append(rest)
        if header is None:
            raise ValueError("there are no chunks")
        file.seek(0)  # NumPy leaves room for the number of rows to grow
        np.lib.format.write_array_header_2_0(file, {**header, "shape": (n_rows, *header["shape"][1:])})
    return np.load(path, mmap_mode="r"), *(np.concatenate(parts) for parts in zip(*others, strict=True))
