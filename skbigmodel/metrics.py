"""Factorised approximations of a Hessian: what second-order solvers keep in their state.

Plain arrays and LAPACK: a pickled state can be loaded where Numba cannot.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.lapack import dpotrf, dpotrs, dtrtri

from .validation import NotFinite

NO_CURVATURE = 1e-8  # of a direction in the classes, relative to the largest


class Model(NamedTuple):
    """Second-order part of a model: what the state of a solver keeps of it."""

    features: np.ndarray  # ascending
    means: np.ndarray  # of their columns under the model's weights
    total: float  # mean weight
    diag: np.ndarray  # of the Hessian in centred coordinates, l2 included; 0 for constant columns
    H: np.ndarray  # that Hessian (k, k), or empty
    d: np.ndarray  # or the weights of the rows (n,), or empty


class CholeskyMetric:
    """A positive definite matrix in Cholesky form.

    A matrix that is singular to working precision gets as little added to its diagonal as makes it definite.
    """

    def __init__(self, H, ridge=0.0):
        self.factor = _cholesky(H, ridge)

    def solve(self, v):
        """The matrix's inverse times a flat parameter vector."""
        return dpotrs(self.factor, v, lower=1)[0]


class KroneckerMetric:
    """A ⊗ S plus l2 on the coefficients: features by features times classes by classes.

    The Hessian of a multinomial model, a sum of x·xᵀ ⊗ (diag(p) - p·pᵀ) over the rows, with the mean of each
    factor in place of the factors of each row (Martens and Grosse, "Optimizing neural networks with
    Kronecker-factored approximate curvature", ICML 2015). One basis V of the features has VᵀAV = 1 and the
    l2 part diagonal, another those of S, so that a solve is four matrix products. The Cholesky factor of A
    takes the scales out of the columns first.

    Parameters
    ----------
    A : ndarray of shape (n_features or n_features + 1, same)
        With the intercept's row last, where there is one.
    S : ndarray of shape (n_classes, n_classes)
    l2 : float
    n_features : int
    ridge : float
        As that of :class:`CholeskyMetric`, for A.
    """

    def __init__(self, A, S, l2, n_features, ridge):
        inverse = dtrtri(_cholesky(A, ridge), lower=1)[0]
        inverse = np.tril(inverse)
        l2_part, Q = eigh(l2 * inverse[:, :n_features] @ inverse[:, :n_features].T, driver="evd")
        self.features = inverse.T @ Q
        curvature, self.classes = np.linalg.eigh(S)
        # what is common to all classes has no curvature, and no gradient either
        curvature = np.maximum(curvature, NO_CURVATURE * max(curvature[-1], 1e-300))
        self.diagonal = curvature + np.maximum(l2_part, 0.0)[:, None]

    def solve(self, v):
        """The matrix's inverse times a flat parameter vector."""
        V, U = self.features, self.classes
        M = V.T @ (v.reshape(-1, len(U)) @ U)
        return (V @ (M / self.diagonal) @ U.T).ravel()


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


class RecycledMetric:
    """A metric set right along directions for which the products with the matrix are known.

    These are conjugate and of energy 1, as conjugate gradients make them: then the limited-memory BFGS
    formula with all of them, and ``metric`` to start from, comes down to four products.
    """

    def __init__(self, metric, directions, changes):
        self.metric, self.directions, self.changes = metric, directions, changes

    def solve(self, v):
        """The matrix's inverse times a flat parameter vector."""
        along = self.directions @ v
        x = self.metric.solve(v - along @ self.changes)
        return x + (along - self.changes @ x) @ self.directions


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
