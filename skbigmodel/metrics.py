"""Factorised approximations of a Hessian: what second-order solvers keep in their state.

Plain arrays and LAPACK: a pickled state can be loaded where Numba cannot.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from .validation import NotFinite


class Model(NamedTuple):
    """Second-order part of a model: what the state of a solver keeps of it."""

    features: np.ndarray  # ascending
    means: np.ndarray  # of their columns under the model's weights
    total: float  # mean weight
    diag: np.ndarray  # of the Hessian in centred coordinates, l2 included; 0 for constant columns
    H: np.ndarray  # that Hessian (k, k), or empty
    d: np.ndarray  # or the weights of the rows (n,), or empty


class CholeskyMetric:
    """A block-diagonal positive definite matrix, one block per output, in Cholesky form.

    A matrix that is singular to working precision gets as little added to its diagonal as makes it definite.
    """

    def __init__(self, H, ridge=0.0):
        self.factors = [_cholesky(block, ridge) for block in H]

    def solve(self, v):
        """The matrix's inverse times a flat parameter vector."""
        K = len(self.factors)
        if K == 1:
            return dpotrs(self.factors[0], v, lower=1)[0]
        V = v.reshape(-1, K)  # coefficients of all features, then the intercepts: each row holds the classes
        return np.stack(
            [dpotrs(factor, V[:, k], lower=1)[0] for k, factor in enumerate(self.factors)], axis=1
        ).ravel()


def _cholesky(H, ridge=0.0):
    if not np.isfinite(np.diag(H)).all():
        raise NotFinite
    diagonal = np.diag(H).copy()
    largest = diagonal.max()
    scale = np.where(diagonal > 0, diagonal, largest) if largest > 1e-200 else np.ones_like(diagonal)
    while True:
        A = H.copy()
        A[np.diag_indices(len(A))] = diagonal + ridge * scale
        factor, info = dpotrf(A, lower=1, overwrite_a=1, clean=0)
        if info == 0:
            return factor
        ridge = max(10 * ridge, 1e-13)


class HeavyMetric:
    """A positive definite matrix that is full among some parameters and diagonal among the others."""

    def __init__(self, H, heavy, diagonal):
        self.factor, self.heavy, self.diagonal = _cholesky(H), heavy, diagonal

    def solve(self, v):
        """The matrix's inverse times a flat parameter vector."""
        x = v / self.diagonal
        x[self.heavy] = dpotrs(self.factor, v[self.heavy], lower=1)[0]
        return x


class DiagonalMetric:
    """The diagonal of a Hessian, with the intercepts eliminated exactly.

    In the coordinates b' = b + m·w, where m is the weighted mean of the columns, the intercept does not
    interact with the coefficients, and what is left of their diagonal is that of the centred columns.

    Parameters
    ----------
    diagonal, cross : ndarrays of shape (n_features, n_outputs)
        Weighted means of x² and x.
    total : ndarray of shape (n_outputs,)
        Mean weights.
    """

    def __init__(self, diagonal, cross, total, l2, fit_intercept):
        self.fit_intercept = fit_intercept
        self.total = np.maximum(total, 1e-300)
        self.means = cross / self.total if fit_intercept else np.zeros_like(cross)
        centred = diagonal - self.means * cross if fit_intercept else diagonal
        diagonal = np.maximum(centred, 1e-10 * diagonal) + l2
        self.diagonal = np.where(diagonal > 0, diagonal, 1.0)

    def solve(self, v):
        """The metric's inverse times a flat parameter vector."""
        K = self.total.size
        V = v[: self.diagonal.size].reshape(-1, K)
        if not self.fit_intercept:
            return (V / self.diagonal).ravel()
        b = v[self.diagonal.size :]
        W = (V - self.means * b) / self.diagonal
        return np.concatenate([W.ravel(), b / self.total - (self.means * W).sum(axis=0)])
