"""Kernels: similarity of two rows, as a function of their inner product and squared norms.

Each class has the formula twice, side by side: ``similarity(t, a, b)`` for compiled loops, with t = x·z,
a = x·x and b = z·z, and ``similarities(t, a, b)`` for arrays, with which a fitted model predicts. A kernel of
your own is a ``NamedTuple`` with these two methods; any function ``kernel(X, Z)`` that returns the matrix of
similarities will do as well.

``centred`` says that the kernel depends on x - z alone, so that rows may be centred, which keeps digits.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import issparse

from ._jit import exp, expm1, method


@method
def similarity(self, t, a, b):
    """Kernel of two rows with inner product t and squared norms a and b."""
    return self.similarity(t, a, b)


class Linear(NamedTuple):
    """``x·z``."""

    centred = False

    def similarity(self, t, a, b):
        return t

    def similarities(self, t, a, b):
        return t


class RBF(NamedTuple):
    """``exp(-gamma·‖x - z‖²)``.

    Parameters
    ----------
    gamma : float, default=1.0
        Inverse of the squared distance, in the units of the features, at which similarity has fallen to 1/e.

    Examples
    --------
    >>> from skbigmodel.kernels import RBF
    >>> RBF(gamma=0.5).similarity(0.0, 0.0, 0.0)  # of a row with itself
    1.0
    """

    gamma: float = 1.0
    centred = True

    def similarity(self, t, a, b):
        return exp(-self.gamma * max(a + b - 2.0 * t, 0.0))

    def similarities(self, t, a, b):
        return np.exp(-self.gamma * np.maximum(a + b - 2.0 * t, 0.0))


class Poly(NamedTuple):
    """``(gamma·x·z + coef0)**degree``.

    Parameters
    ----------
    gamma : float, default=1.0
    coef0 : float, default=0.0
    degree : int, default=3
    """

    gamma: float = 1.0
    coef0: float = 0.0
    degree: int = 3
    centred = False

    def similarity(self, t, a, b):
        return (self.gamma * t + self.coef0) ** self.degree

    def similarities(self, t, a, b):
        return (self.gamma * t + self.coef0) ** self.degree


class Sigmoid(NamedTuple):
    """``tanh(gamma·x·z + coef0)``: not positive semidefinite, so an optimum may be a local one.

    Parameters
    ----------
    gamma : float, default=1.0
    coef0 : float, default=0.0
    """

    gamma: float = 1.0
    coef0: float = 0.0
    centred = False

    def similarity(self, t, a, b):
        e = expm1(2.0 * (self.gamma * t + self.coef0))
        return e / (e + 2.0)

    def similarities(self, t, a, b):
        return np.tanh(self.gamma * t + self.coef0)


def variance(X, s=None):
    """Variance over all entries of an array or sparse matrix, zeros included; weight 2 counts a row twice."""
    s = np.ones(X.shape[0]) if s is None else s
    size = s.sum() * X.shape[1]
    if issparse(X):
        squares, sums = X.multiply(X).sum(axis=1), X.sum(axis=1)
        mean = s @ np.ravel(sums) / size
        return max(s @ np.ravel(squares) / size - mean**2, 0.0)
    mean = s @ X.mean(axis=1, dtype=np.float64) / s.sum()
    step = max(1, (1 << 20) // X.shape[1])
    parts = range(0, len(X), step)
    return sum(s[a : a + step] @ ((X[a : a + step] - mean) ** 2).sum(axis=1) for a in parts) / size


def width(gamma, X, s=None):
    """``gamma`` as a number: ``"scale"`` is 1/(n_features·variance of X), ``"auto"`` 1/n_features."""
    if gamma == "scale":
        spread = variance(X, s)
        return float(1.0 / (X.shape[1] * spread)) if spread > 0 else 1.0
    return 1.0 / X.shape[1] if gamma == "auto" else float(gamma)


# name -> the kernel of a gamma, degree and coef0
KERNELS = {
    "linear": lambda gamma, degree, coef0: Linear(),
    "rbf": lambda gamma, degree, coef0: RBF(gamma),
    "poly": lambda gamma, degree, coef0: Poly(gamma, float(coef0), degree),
    "sigmoid": lambda gamma, degree, coef0: Sigmoid(gamma, float(coef0)),
}
