"""What every estimator checks and how: data, weights, and the promise that a failed call changes nothing."""

import collections
import contextlib
from functools import partial
from numbers import Real

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, check_array, check_consistent_length
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_non_negative,
    column_or_1d,
    validate_data,
)

TOO_LARGE = (
    "X holds values too large for floating-point arithmetic: scale the features, for example with "
    "StandardScaler"
)
FLOATS = (np.float64, np.float32)
NO_WEIGHT = "Invalid input - all samples have zero or negative weights."


class NotFinite(ArithmeticError):
    """A sum over the rows is not finite: the data are not, or are too large to be squared."""


@contextlib.contextmanager
def unchanged_on_error(estimator):
    """Put the fitted attributes back if the block raises."""
    before = {name: value for name, value in vars(estimator).items() if _is_fitted_attribute(name)}
    try:
        yield
    except BaseException:  # KeyboardInterrupt too: whoever presses Ctrl-C keeps the model of before
        for name in [name for name in vars(estimator) if _is_fitted_attribute(name) and name not in before]:
            delattr(estimator, name)
        vars(estimator).update(before)
        raise


def _is_fitted_attribute(name):
    return name.endswith("_") and not name.startswith("__") or name in ("_resume", "_stream", "_seen")


def is_blockwise(X):
    """Whether X is read block by block, never as a whole: a memmap that kernels cannot use as it lies, or a
    foreign array (HDF5, Zarr, ...) that has only a shape, a dtype and slices of rows."""
    if isinstance(X, np.memmap):
        return X.ndim == 2 and (
            X.dtype.newbyteorder("=") not in FLOATS or not X.dtype.isnative or not X.flags.c_contiguous
        )
    if isinstance(X, np.ndarray) or issparse(X) or hasattr(X, "__array_namespace__") or hasattr(X, "iloc"):
        return False
    known = all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__"))
    return known and not hasattr(X, "columns") and len(X.shape) == 2 and not hasattr(X, "__dataframe__")


def is_dask(X):
    """Whether X is a Dask collection."""
    return hasattr(X, "__dask_graph__")


def is_mapped(X):
    """Whether X is a memory map, or an array that shows one, as checks make it."""
    while isinstance(X, np.ndarray) and not isinstance(X, np.memmap):
        X = X.base
    return isinstance(X, np.memmap)


def check_X(estimator, X, reset, finite=False):
    """X as an array (C order) or CSR matrix of float32 or float64, or as it is where it is read block by
    block.

    Unless ``finite``, that is not checked here but by :func:`check_finite`, on threads, or block by block.
    """
    if is_dask(X):
        raise TypeError("X is a Dask collection here, where only data in memory are taken: call X.compute()")
    if is_blockwise(X):
        return _check_blockwise(estimator, X, reset)
    return validate_data(
        estimator, X, reset=reset, accept_sparse="csr", dtype=FLOATS, order="C", ensure_all_finite=finite
    )


def check_Xy(estimator, X, y, multi_output=False, reset=True):
    """X as :func:`check_X` has it, and y of the same length: float64, or labels for a classifier.

    Of Dask collections they are what stands for them: see ``dask.take``.
    """
    if is_dask(X):
        X, y = _check_dask(estimator, X, y, float_targets if multi_output else as_labels, reset)
        return X, y
    y = y.compute() if is_dask(y) else y
    if is_blockwise(X):
        X = _check_blockwise(estimator, X, reset)
        y = check_array(y, ensure_2d=False, dtype=None, input_name="y") if multi_output else y
        check_consistent_length(X, y)
    else:
        X, y = validate_data(
            estimator,
            X,
            y,
            reset=reset,
            accept_sparse="csr",
            dtype=FLOATS,
            order="C",
            ensure_all_finite=False,
            multi_output=multi_output,
            y_numeric=multi_output,
        )
        X = canonical(X) if issparse(X) else X
    return X, np.asarray(y, dtype=np.float64) if multi_output else y


def _check_blockwise(estimator, X, reset):
    if X.dtype.kind not in "biuf":
        raise ValueError(f"X has dtype {X.dtype}, which is not numeric")
    if 0 in X.shape:
        raise ValueError(f"Found array X with shape {X.shape}: at least one row and one column are required")
    stand_in = np.zeros((1, X.shape[1]))  # lets scikit-learn check or set the number of features
    validate_data(estimator, stand_in, reset=reset)
    return X


def _check_dask(estimator, X, y, prepare, reset):
    from .dask import stand_in, take

    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    row, dtype = stand_in(X)
    validate_data(estimator, row, reset=reset)
    X, y = take(X, y, dtype, prepare)
    if not is_column(y):
        check_consistent_length(X, y)
    return X, y


def float_targets(y):
    """Targets as float64 of one or two dimensions."""
    y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if y.ndim > 2:
        raise ValueError(f"y must have one or two dimensions, got shape {y.shape}")
    return y


def is_column(y):
    """Whether an entry for each row lies with the rows on a cluster (a ``cluster.Column``)."""
    return hasattr(y, "collect")


def by_block(function, *columns):
    """[function(*parts)] over the blocks of columns on a cluster, or over arrays as one block.

    ``None`` among the columns stays ``None``.
    """
    if is_column(columns[0]):
        given = [column is not None for column in columns]
        return columns[0].collect(
            partial(_spread, function, given), *[c for c in columns[1:] if c is not None]
        )
    return [function(*columns)]


def by_row(function, *columns, dtype=np.float64):
    """function(*columns) of arrays or, where they lie on a cluster, the column of it."""
    if is_column(columns[0]):
        return columns[0].map(function, *columns[1:], dtype=dtype)
    return function(*columns)


def _spread(function, given, *parts):
    parts = iter(parts)
    return function(*(next(parts) if there else None for there in given))


def canonical(X):
    """CSR without duplicate entries, in any order; the caller's matrix is left alone."""
    from .passes_linear import has_duplicates
    from .rows import as_rows

    if not X.has_canonical_format and has_duplicates(as_rows(X), np.full(X.shape[1], -1)):
        X = X.copy()
        X.sum_duplicates()
    return X


def check_finite(estimator, blocks):
    """Raise scikit-learn's error if X holds NaN or infinity, or one of our own if its squares are not finite.

    A source that is read block by block checks each block itself, when it is first read without trust.
    """
    from .passes_linear import squared_norm

    X = blocks.X
    if getattr(X, "checked", False):
        return
    if is_blockwise(X):
        if blocks.trusted:
            blocks.trusted = False
            collections.deque(blocks.visit(), maxlen=0)
        return
    if all(np.isfinite(blocks.map(lambda block: squared_norm(block.rows.values())))):
        return
    assert_all_finite(X.data if issparse(X) else X, input_name="X", estimator_name=type(estimator).__name__)
    raise ValueError(TOO_LARGE)


def check_rows_at_hand(X):
    """Raise an error if no rows can be held out of X, which stands for a Dask collection."""
    if not hasattr(X, "__getitem__"):
        raise ValueError(
            "early_stopping takes its validation rows from X only in memory: pass X_val and y_val"
        )


def check_weights(sample_weight, X, name="sample_weight"):
    """Weights as float64 of shape (n,), or ``None``.

    Raises
    ------
    ValueError
        Naming the argument: wrong shape, not numbers, NaN, negative, or all zero.
    """
    if sample_weight is None:
        return None
    if hasattr(X, "groups"):
        return _check_column_of_weights(sample_weight, X, name)
    try:
        rows = np.broadcast_to(0.0, (X.shape[0], 1))
        s = _check_sample_weight(sample_weight, rows, dtype=np.float64, allow_all_zero_weights=True)
        if not (s > 0.0).any():
            raise ValueError(NO_WEIGHT)
        check_non_negative(s, "`sample_weight`")
    except (ValueError, TypeError) as error:
        raise ValueError(
            str(error) if "sample_weight" in str(error) and name == "sample_weight" else f"{name}: {error}"
        ) from error
    return None if (s == 1.0).all() else s  # the same fit, bit for bit


def _check_column_of_weights(sample_weight, X, name):
    from .dask import column

    given = np.full(X.shape[0], sample_weight) if isinstance(sample_weight, Real) else sample_weight
    s = column(X, given, name, _checked_weights)
    sums, ones = zip(*s.collect(_sum_and_ones), strict=True)
    if not any(sums):
        raise ValueError(f"{name}: {NO_WEIGHT}")
    return None if all(ones) else s


def _checked_weights(s):
    rows = np.broadcast_to(0.0, (len(s), 1))
    return _check_sample_weight(
        np.asarray(s), rows, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=True
    )


def _sum_and_ones(s):
    return float(s.sum()), bool((s == 1.0).all())


def as_labels(y):
    """Class labels as a 1-d array, whatever holds them; nullable pandas types become what they hold.

    Those of a Dask collection stay one.
    """
    if is_dask(y):
        return y
    dtype = getattr(y, "dtype", None)
    if type(y) is np.ndarray and y.ndim == 1 and dtype.kind != "O":
        return y
    if dtype is not None and not isinstance(dtype, np.dtype) and hasattr(y, "isna"):
        if y.isna().any():
            raise ValueError("y contains missing values (NaN or <NA>)")
        y = y.to_numpy() if hasattr(y, "to_numpy") else np.asarray(y)
        if y.dtype == object:
            y = np.array(y.tolist())
    elif isinstance(y, np.ndarray) and y.dtype == object and all(isinstance(label, Real) for label in y.flat):
        y = np.array(y.tolist())
    return column_or_1d(y, warn=True)


def encode(y):
    """Classes (sorted) and the index of each row's class, as an integer of few bytes."""
    if is_column(y):
        classes = np.unique(np.concatenate(y.collect(_classes_of)))
        check_classification_targets(classes)
        return classes, y.map(partial(_codes_of, classes), dtype=np.intp)
    # integers, strings and booleans are fine as they are; the check reads all labels several times
    if not (y.dtype.kind in "iubU" or y.dtype.kind == "f" and (y == np.floor(y)).all()):
        check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    return classes, codes.astype(np.min_scalar_type(-len(classes)))


def _classes_of(y):
    return encode(y)[0]


def _codes_of(classes, y):
    return np.searchsorted(classes, y)


def as_float(dtype):
    """The float width of a model of data of that dtype: float32 stays, all else is float64."""
    return np.dtype(np.float32) if np.dtype(dtype).newbyteorder("=") == np.float32 else np.dtype(np.float64)
