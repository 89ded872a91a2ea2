"""Jitted passes for the multinomial model: one raw prediction per class, W of shape (n_features, n_classes).

Dense rows go through BLAS for the two matrix products; the kernels here do the rest. ``y`` holds class
indices.
"""

import numpy as np

from ._jit import exp, jit
from .rows import n_rows


@jit
def log_loss_inplace(Z, y, s, start):
    """Turn raw predictions Z into the gradient s·(softmax - onehot) in place; return Σ s·loss.

    Row i of ``Z`` belongs to entry ``start + i`` of ``y`` and ``s``.
    """
    total = 0.0
    for i in range(Z.shape[0]):
        k = y[start + i]
        weight = s[start + i] if s.shape[0] > 1 else s[0]
        top = Z[i, 0]
        for j in range(1, Z.shape[1]):
            top = max(top, Z[i, j])
        at_target, mass = Z[i, k] - top, 0.0
        for j in range(Z.shape[1]):
            Z[i, j] = exp(Z[i, j] - top)
        for j in range(Z.shape[1]):  # apart from the loop that stores: see passes_linear
            mass += Z[i, j]
        total += weight * (np.log(mass) - at_target)
        scale = weight / mass
        for j in range(Z.shape[1]):
            Z[i, j] *= scale
        Z[i, k] -= weight
    return total


@jit
def probabilities_inplace(Z):
    """Turn raw predictions into probabilities in place."""
    for i in range(Z.shape[0]):
        top, mass = Z[i, 0], 0.0
        for j in range(1, Z.shape[1]):
            top = max(top, Z[i, j])
        for j in range(Z.shape[1]):
            Z[i, j] = exp(Z[i, j] - top)
        for j in range(Z.shape[1]):  # apart from the loop that stores: see passes_linear
            mass += Z[i, j]
        for j in range(Z.shape[1]):
            Z[i, j] /= mass


@jit
def curvature_times(P, D, s, start):
    """D = s·(diag(p) - p·pᵀ)·d for each row in place: the curvature of the log-loss times a direction."""
    for i in range(P.shape[0]):
        weight = s[start + i] if s.shape[0] > 1 else s[0]
        mean = 0.0
        for j in range(P.shape[1]):
            mean += P[i, j] * D[i, j]
        for j in range(P.shape[1]):
            D[i, j] = weight * P[i, j] * (D[i, j] - mean)


@jit
def sparse_product(rows, W, b, Z):
    """Z = X·W + b for sparse rows."""
    for i in range(n_rows(rows)):
        for j in range(Z.shape[1]):
            Z[i, j] = b[j]
        for k in range(rows.indptr[i], rows.indptr[i + 1]):
            v, row = rows.data[k], rows.indices[k]
            for j in range(Z.shape[1]):
                Z[i, j] += v * W[row, j]


@jit
def sparse_transposed_product(rows, D, G):
    """G += Xᵀ·D for sparse rows."""
    for i in range(n_rows(rows)):
        for k in range(rows.indptr[i], rows.indptr[i + 1]):
            v, row = rows.data[k], rows.indices[k]
            for j in range(D.shape[1]):
                G[row, j] += v * D[i, j]


@jit
def sparse_class_diagonals(rows, D, squares, sums):
    """Add Σ d_c·x² and Σ d_c·x to ``squares`` and ``sums`` (n_features, n_classes)."""
    for i in range(n_rows(rows)):
        for k in range(rows.indptr[i], rows.indptr[i + 1]):
            j, v = rows.indices[k], rows.data[k]
            for c in range(D.shape[1]):
                sums[j, c] += v * D[i, c]
                squares[j, c] += v * v * D[i, c]
