"""What a network with a preset makes of its input: categories as columns, numbers on one scale.

The scaling and its clipping are those of Holzmüller et al. (2024): a column's median goes to 0, its quartiles
lie 1 apart, and ``z / sqrt(1 + (z/3)**2)`` bounds what is left.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse

CATEGORICAL = ("category", "categorical", "enum", "str", "utf8")  # how the names of such dtypes begin
MAX_CATEGORIES = 100  # of a column; rarer ones have no column of their own
SAMPLED = 1 << 20  # entries of X from which quartiles are taken


class Encoding(NamedTuple):
    """What was learnt of the input; arrays have an entry for each column of numbers."""

    categories: tuple  # of each column of X: its categories (names, sorted), or None for numbers
    center: np.ndarray
    factor: np.ndarray

    def encoder(self):
        """As the kernels want it."""
        from ._jit import frozen
        from .encoding import Encoder

        numeric = [j for j, names in enumerate(self.categories) if names is None]
        categorical = [j for j, names in enumerate(self.categories) if names is not None]
        sizes = [len(self.categories[j]) for j in categorical]
        integers = numeric, categorical, len(numeric) + np.cumsum([0, *sizes])
        numeric, categorical, starts = (frozen(part, np.int64) for part in integers)
        return Encoder(numeric, frozen(self.center), frozen(self.factor), categorical, starts)


def find_categories(X, sample_weight):
    """A tuple with the categories of each column of a data frame, None for numbers; None without a frame."""
    if not hasattr(X, "columns") or not hasattr(X, "dtypes"):
        return None
    try:
        counts = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, np.float64) > 0
    except (TypeError, ValueError):  # to be met, and named, by the check of the weights
        counts = np.ones(len(X))
    columns = (_column(X, j) for j in range(X.shape[1]))
    return tuple(_frequent(*_names(part), counts) if _is_categorical(part) else None for part in columns)


def code_categories(X, categories):
    """A data frame (or None) with numbers for its categories: their place in the list, -1 if not in it."""
    if X is None or categories is None or all(names is None for names in categories):
        return X
    if not hasattr(X, "columns") or X.shape[1] != len(categories):
        raise ValueError(
            f"X must be a data frame of {len(categories)} columns as in fit, where some held categories"
        )
    for j, known in enumerate(categories):
        if known is not None:
            X = _with_column(X, j, _codes(*_names(_column(X, j)), known))
    return X


def _column(X, j):
    return X.iloc[:, j] if hasattr(X, "iloc") else X[:, j]


def _with_column(X, j, codes):
    if hasattr(X, "iloc"):
        X = X.copy(deep=False)
        X.isetitem(j, codes)
        return X
    column = X[:, j]
    return X.with_columns(type(column)(column.name, codes))


def _is_categorical(column):
    name = str(column.dtype).lower()
    if name == "object":
        return any(isinstance(value, str) for value in column)
    return name.startswith(CATEGORICAL)


def _names(column):
    """Names (sorted), and of each row the index of its name, -1 where it is missing."""
    if hasattr(getattr(column, "cat", None), "codes"):  # of pandas; with missing ones integers become floats
        names, codes = np.asarray(column.cat.categories).astype(str), np.asarray(column.cat.codes)
        order = np.argsort(names)
        places = np.append(np.argsort(order), -1)
        return names[order], places[codes]
    missing = np.asarray(column.isna() if hasattr(column, "isna") else column.is_null())
    values = np.asarray(column if hasattr(column, "isna") else column.cast(str), dtype=object)
    codes = np.full(len(values), -1)
    names, codes[~missing] = np.unique(values[~missing].astype(str), return_inverse=True)
    return names, codes


def _frequent(names, codes, counts):
    """Names that occur, the most frequent if they are too many."""
    known = codes >= 0
    counts = np.bincount(codes[known], counts[known] if len(counts) == len(codes) else None, len(names))
    places = np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]
    return names[np.sort(places[counts[places] > 0])]


def _codes(names, codes, known):
    """Codes that count the names ``known`` instead of ``names``."""
    if not len(known):
        return np.full(len(codes), -1.0)
    places = np.searchsorted(known, names).clip(max=len(known) - 1)
    return np.append(np.where(known[places] == names, places, -1), -1)[codes].astype(np.float64)


def fit_encoding(X, categories, rows, s):
    """The :class:`Encoding` for the given rows of checked data, with weights s of all rows or None."""
    from .selection import take_rows

    categories = (None,) * X.shape[1] if categories is None else categories
    numeric = [j for j, names in enumerate(categories) if names is None]
    step = max(1, -(-len(rows) * X.shape[1] // SAMPLED))
    rows = np.sort(rows)[::step]
    sample, weights = take_rows(X, rows), None if s is None else s[rows]
    if issparse(sample):
        return Encoding(categories, np.zeros(len(numeric)), _sizes(sample.tocsc()))
    scales = [_scale(sample[:, j].astype(np.float64), weights) for j in numeric]
    return Encoding(categories, *np.array(scales).reshape(-1, 2).T)


def _sizes(X):
    """Inverse of the median size of the entries that are not 0, of each column."""
    sizes = [np.abs(X.data[a:b]) for a, b in zip(X.indptr, X.indptr[1:])]
    return np.array([1.0 / np.median(part[part > 0]) if part.any() else 0.0 for part in sizes])


def _scale(values, weights):
    """Median and the inverse of the distance of the quartiles; where that is 0, of half the range."""
    order = np.argsort(values, kind="stable")
    values = values[order]
    mass = np.arange(1, len(values) + 1) if weights is None else np.cumsum(weights[order])
    lower, middle, upper = values[np.searchsorted(mass, np.array([0.25, 0.5, 0.75]) * mass[-1])]
    spread = upper - lower or 0.5 * (values[-1] - values[0])
    return middle, 1.0 / spread if spread > 0 else 0.0
