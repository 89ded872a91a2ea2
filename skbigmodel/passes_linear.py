"""Jitted passes over one block of rows, for models with one raw prediction z = x·w + b.

``theta`` is the flat parameter vector: n_features coefficients, then the intercept where there is one. Sums
are not divided by the weight: that is the objective's business. ``s`` holds the weight of each row, or a
single 1.

A loop that stores into an array does not sum as well: whether the compiler's vectorised or its scalar version
of such a loop runs depends on how far apart the arrays lie in memory, and the two add in different orders. So
results would differ in the last bit from fit to fit.
"""

import numpy as np

from ._jit import jit
from .losses import derivative, model_curvature, value
from .rows import add_run, add_squares, curve_run, dot_run, n_rows

RUN = 256  # rows whose predictions are kept at a time: they stay in the first-level cache


@jit
def decision(rows, theta, has_intercept, z):
    """z = raw predictions (n_rows,)."""
    dot_run(rows, 0, n_rows(rows), theta, theta[-1] if has_intercept else 0.0, z)


@jit
def loss_and_grad(rows, y, s, loss, theta, has_intercept, grad):
    """Add the gradient of the weighted sum of losses to ``grad``; return the sum."""
    z, dz = np.empty(RUN), np.empty(RUN)
    intercept = theta[-1] if has_intercept else 0.0
    total, total_dz = 0.0, 0.0
    for start in range(0, n_rows(rows), RUN):
        stop = min(start + RUN, n_rows(rows))
        dot_run(rows, start, stop, theta, intercept, z)
        for i in range(stop - start):
            weight = s[start + i] if s.shape[0] > 1 else s[0]
            dz[i] = weight * derivative(loss, y[start + i], z[i])
            z[i] = weight * value(loss, y[start + i], z[i])
        for i in range(stop - start):  # apart from the loop that stores: see the module's docstring
            total += z[i]
            total_dz += dz[i]
        add_run(rows, start, stop, dz, grad)
    if has_intercept:
        grad[-1] += total_dz
    return total


@jit
def curvature_weights(rows, y, s, loss, theta, has_intercept, start, stop, d):
    """d[:stop - start] = weight times second derivative of the loss, for rows start to stop."""
    dot_run(rows, start, stop, theta, theta[-1] if has_intercept else 0.0, d)
    for i in range(start, stop):
        weight = s[i] if s.shape[0] > 1 else s[0]
        d[i - start] = weight * model_curvature(loss, y[i], d[i - start])


@jit
def scale_rows(rows, start, stop, d, shift, B):
    """B[i] = sqrt(d[i])·(row start + i minus ``shift``), then sqrt(d[i]) in a last column where B has one."""
    X = rows.X
    p = X.shape[1]
    for i in range(start, stop):
        a = np.sqrt(d[i - start])
        for j in range(p):
            B[i - start, j] = a * (X[i, j] - shift[j])
        if B.shape[1] > p:
            B[i - start, p] = a


@jit
def add_sparse_gram(rows, d, shift, H):
    """Add Σ d·x·xᵀ, with a last row for the intercept where H has one, to ``H``, of sparse rows in any order.

    Each pair of entries is added once, in the triangle that their order in the row has it: see
    ``objective.folded``.
    """
    p = shift.shape[0]
    for i in range(n_rows(rows)):
        a = d[i]
        for k in range(rows.indptr[i], rows.indptr[i + 1]):
            j, v = rows.indices[k], a * rows.data[k]
            for m in range(rows.indptr[i], k):
                H[j, rows.indices[m]] += v * rows.data[m]
            H[j, j] += v * rows.data[k]
            if H.shape[0] > p:
                H[p, j] += v
        if H.shape[0] > p:
            H[p, p] += a


@jit
def add_heavy_gram(rows, d, position, H):
    """As ``add_sparse_gram`` for columns with a ``position`` in H >= 0; the last row is the intercept's."""
    last = H.shape[0] - 1
    place, entry = np.empty(last + 1, np.int64), np.empty(last + 1)
    for i in range(n_rows(rows)):
        count = 0
        for k in range(rows.indptr[i], rows.indptr[i + 1]):
            j = position[rows.indices[k]]
            if j >= 0:
                place[count], entry[count] = j, rows.data[k]
                count += 1
        for a in range(count):
            v, row = d[i] * entry[a], place[a]
            for b in range(a + 1):
                H[row, place[b]] += v * entry[b]
            H[last, row] += v
        H[last, last] += d[i]


@jit
def hessian_product(rows, d, v, has_intercept, out):
    """Add Xᵀ·(d·(X·v + v_b)) to ``out``: one fused read of the rows."""
    z = np.empty(RUN)
    shift = v[-1] if has_intercept else 0.0
    total = 0.0
    for start in range(0, n_rows(rows), RUN):
        stop = min(start + RUN, n_rows(rows))
        curve_run(rows, start, stop, d[start:stop], v, shift, z, out)
        for i in range(stop - start):
            total += z[i]
    if has_intercept:
        out[-1] += total


@jit
def hessian_diagonal(rows, d, diagonal, cross):
    """Add Σ d·x² to ``diagonal`` and Σ d·x to ``cross``; return Σ d."""
    total = 0.0
    for i in range(n_rows(rows)):
        add_squares(rows, i, d[i], diagonal)
        total += d[i]
    add_run(rows, 0, n_rows(rows), d, cross)
    return total


@jit
def squared_norm(values):
    """Σ v²: not finite if an entry is not, or if its square overflows."""
    total = 0.0
    for k in range(values.shape[0]):
        total += values[k] * values[k]
    return total


@jit
def moment_rows(rows, y, s, start, stop, shift, y_shift, B):
    """B[i] = sqrt(s)·(x - shift, 1, y - y_shift) for rows start to stop of a dense block."""
    X = rows.X
    p = X.shape[1]
    for i in range(start, stop):
        a = np.sqrt(s[i] if s.shape[0] > 1 else s[0])
        for j in range(p):
            B[i - start, j] = a * (X[i, j] - shift[j])
        B[i - start, p] = a
        B[i - start, p + 1] = a * (y[i] - y_shift)


@jit
def sparse_moments(rows, y, s, y_shift, H):
    """As ``add_sparse_gram``: Σ s·v·vᵀ with v = (x, 1, y - y_shift)."""
    p = H.shape[0] - 2
    for i in range(n_rows(rows)):
        a = s[i] if s.shape[0] > 1 else s[0]
        r = y[i] - y_shift
        for k in range(rows.indptr[i], rows.indptr[i + 1]):
            j, v = rows.indices[k], a * rows.data[k]
            for m in range(rows.indptr[i], k):
                H[j, rows.indices[m]] += v * rows.data[m]
            H[j, j] += v * rows.data[k]
            H[p, j] += v
            H[p + 1, j] += v * r
        H[p, p] += a
        H[p + 1, p] += a * r
        H[p + 1, p + 1] += a * r * r


@jit
def add_weighted(rows, a, out):
    """Add Xᵀ·a to ``out``."""
    add_run(rows, 0, n_rows(rows), a, out)


@jit
def has_duplicates(rows, last_row):
    """Whether a row of a sparse block names a column twice; ``last_row`` (n_features,) must hold -1."""
    for i in range(n_rows(rows)):
        for k in range(rows.indptr[i], rows.indptr[i + 1]):
            if last_row[rows.indices[k]] == i:
                return True
            last_row[rows.indices[k]] = i
    return False
