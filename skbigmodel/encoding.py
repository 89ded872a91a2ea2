"""Encoded rows: a layout in which numbers are scaled and categories spread as a kernel reads the rows."""

from typing import NamedTuple

import numpy as np

from ._jit import frozen, jit
from .rows import Dense, product


class Encoder(NamedTuple):
    """What columns become: numbers are scaled and softly clipped, each category has a column of its own."""

    numeric: np.ndarray  # columns of numbers, ...
    center: np.ndarray  # ... of each its middle ...
    factor: np.ndarray  # ... and the inverse of its spread
    categorical: np.ndarray  # columns of codes 0, 1, …; -1 stands for none
    starts: np.ndarray  # (n_categorical + 1,) output columns of the codes 0, and their number


@jit
def clipped(z):
    """Nearly z for small z, and between -3 and 3 for any."""
    z = min(max(z, -1e6), 1e6)
    return z / np.sqrt(1.0 + z * z * (1.0 / 9.0))


@jit
def clipped_all(values, factors):
    """``clipped`` of each value times its factor."""
    out = np.empty_like(values)
    for k in range(values.size):
        out[k] = clipped(values[k] * factors[k])
    return out


@jit
def encode(X, order, encoder, out):
    """out (at least len(order), encoder.starts[-1]) = what the rows ``order`` of X become."""
    number, n_numeric = out.dtype.type, encoder.numeric.size
    for i in range(order.size):
        row = order[i]
        for j in range(n_numeric):
            out[i, j] = number(clipped((X[row, encoder.numeric[j]] - encoder.center[j]) * encoder.factor[j]))
        for j in range(n_numeric, encoder.starts[-1]):
            out[i, j] = 0.0
        for k in range(encoder.categorical.size):
            code = X[row, encoder.categorical[k]]
            if code >= 0.0:
                out[i, encoder.starts[k] + int(code)] = 1.0


class Encoded(NamedTuple):
    """A C-ordered array whose rows are encoded as they are read; for networks only."""

    X: np.ndarray
    encoder: Encoder

    def values(self):
        """All entries as one array (NumPy)."""
        return self.X.reshape(-1)

    def n_rows(self):
        return self.X.shape[0]

    def times(self, order, W, room, out):
        encode(self.X, order, self.encoder, room)
        product(room, W, out)

    def transposed_times(self, order, D, room, out):
        product(room.T, D, out)


def encoded(rows, encoder):
    """The rows as the encoder has them; of sparse ones, which have no categories, zeros stay zeros.

    Without an encoder they stay as they are.
    """
    if encoder is None:
        return rows
    if isinstance(rows, Dense):
        return Encoded(rows.X, encoder)
    factor = encoder.factor[rows.indices]
    return rows._replace(data=frozen(clipped_all(rows.data, factor)))
