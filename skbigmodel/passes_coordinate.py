"""Jitted sweeps of coordinate descent over a quadratic model with an l1 penalty or sign constraint.

The model is g·δ + δ·H·δ/2 + penalty(w + δ) in the coefficients of k features. A sweep returns what its own
steps say is left to gain, Σ h·step²/2: a fraction of the true figure where columns are correlated. A feature
whose entry of ``diag`` is zero does not move.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit
from .losses import derivative, value
from .penalties import prox
from .rows import add, dot, dot_run, n_rows


@jit
def gram_epochs(H, diag, penalty, n_epochs, goal, w, G):
    """Sweeps with the matrix H (k, k); ``w`` and the gradient ``G`` = g + H·δ are kept up to date."""
    left = 0.0
    for _ in range(n_epochs):
        left = 0.0
        for j in range(w.size):
            if diag[j] <= 0.0:
                continue
            delta = prox(penalty, w[j] - G[j] / diag[j], 1.0 / diag[j]) - w[j]
            if delta != 0.0:
                w[j] += delta
                left += 0.5 * diag[j] * delta * delta
                for m in range(w.size):
                    G[m] += delta * H[j, m]
        if left <= goal:
            break
    return left


class Columns(NamedTuple):
    """A model held as the columns themselves.

    Row j of the layout ``rows`` is column j of the data times the roots of the model's weights; ``sums`` are
    the columns' weighted sums, ``total`` is that of the weights, ``g`` (k,) the gradient at δ = 0 without its
    l2 part.
    """

    rows: object
    diag: np.ndarray
    sums: np.ndarray
    total: float
    g: np.ndarray
    l2: float


@jit
def column_epochs(model, penalty, n_epochs, goal, w, q, offset):
    """Sweeps with the columns.

    ``w`` (k,), ``q`` (n_rows,), the columns times δ, and ``offset`` (1,), what centring adds to that, are
    kept up to date.
    """
    left, diag = 0.0, model.diag
    for _ in range(n_epochs):
        left = 0.0
        for j in range(w.size):
            if diag[j] <= 0.0:
                continue
            slope = model.g[j] + dot(model.rows, j, q) + offset[0] * model.sums[j] + model.l2 * w[j]
            delta = prox(penalty, w[j] - slope / diag[j], 1.0 / diag[j]) - w[j]
            if delta != 0.0:
                w[j] += delta
                left += 0.5 * diag[j] * delta * delta
                add(model.rows, j, delta, q)
                offset[0] -= delta * model.sums[j] / model.total
        if left <= goal:
            break
    return left


@jit
def take_sparse(rows, place):
    """(data, indices, lengths) of sparse rows cut to the columns with place[j] >= 0, from now on place[j]."""
    n_rows, size = rows.indptr.size - 1, np.int64(rows.indptr[-1] - rows.indptr[0])
    data, indices = np.empty(size, rows.data.dtype), np.empty(size, np.int32)
    lengths, filled = np.empty(n_rows, np.int64), 0
    for i in range(n_rows):
        before = filled
        for k in range(rows.indptr[i], rows.indptr[i + 1]):
            j = place[rows.indices[k]]
            data[filled], indices[filled] = rows.data[k], j
            filled += j >= 0  # without a branch, which could not be predicted
        lengths[i] = filled - before
    return data[:filled].copy(), indices[:filled].copy(), lengths


@jit
def loss_slopes(rows, y, s, loss, theta, has_intercept, slopes):
    """slopes (n_rows,) = weight times derivative of the loss; return the weighted sum of losses."""
    dot_run(rows, 0, n_rows(rows), theta, theta[-1] if has_intercept else 0.0, slopes)
    total = 0.0
    for i in range(slopes.size):
        weight = s[i] if s.shape[0] > 1 else s[0]
        total += weight * value(loss, y[i], slopes[i])
    for i in range(slopes.size):  # apart from the loop that sums: see passes_linear
        weight = s[i] if s.shape[0] > 1 else s[0]
        slopes[i] = weight * derivative(loss, y[i], slopes[i])
    return total


@jit
def centred_gram(G, means, weight):
    """(Σ d·x·xᵀ - Σd·means·meansᵀ) / weight of the sums of (x, 1), whose last row and column fall away."""
    k = means.size
    H, scale = np.empty((k, k)), 1.0 / weight
    for i in range(k):
        for j in range(k):
            H[i, j] = scale * (G[i, j] - G[k, k] * means[i] * means[j])
    return H
