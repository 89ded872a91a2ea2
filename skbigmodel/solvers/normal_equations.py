"""The Newton system of an interior-point iteration, factorised once and solved for two right-hand sides.

    (GᵀQG + D)·x = Gᵀg + r

with G the rows in centred and scaled coordinates (and a column for the intercept), Q >= 0 a weight per row,
D >= 0 a diagonal. Near the optimum Q spans many orders of magnitude; this is harmless to the direction
(Wright), but the matrix may be singular to working precision, also because columns are collinear.

References
----------
S. J. Wright, "Ill-conditioning and computational error in interior methods for nonlinear programming",
SIAM J. Optim. 9 (1998).
"""

from functools import partial

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from ..objective import weighted_gram
from ..validation import NotFinite

RIDGE = 1e-14  # added to the diagonal of the scaled matrix; conjugate gradients undo its effect
MAX_REFINEMENTS = 12
MAX_MISSES = 2  # steps in a row that do not halve the residual
ROUNDING = 1e-15
PROXIMAL = 1e-10  # of ΣQ: stands in for D where there is no penalty


def _factor(A):
    """Lower Cholesky factor of a matrix with unit diagonal; a ridge is added until there is one."""
    if not np.isfinite(A).all():
        raise NotFinite
    ridge = RIDGE
    while True:
        B = A.copy()
        B[np.diag_indices(len(B))] += ridge
        factor, failed = dpotrf(B, lower=1, overwrite_a=1, clean=0)
        if not failed:
            return factor
        ridge *= 100


def _refined(x, right, product, precondition):
    """The best of some preconditioned conjugate gradient steps from ``x``."""
    left = right - product(x)
    best, lowest, goal = x, np.linalg.norm(left), ROUNDING * np.linalg.norm(right)
    direction = s = precondition(left)
    rho, misses = left @ s, 0
    for _ in range(MAX_REFINEMENTS):
        image = product(direction)
        curved = direction @ image
        if lowest <= goal or misses > MAX_MISSES or not (rho > 0 and curved > 0):
            break
        x, left = x + rho / curved * direction, left - rho / curved * image
        norm = np.linalg.norm(left)
        misses = misses + 1 if norm > 0.5 * lowest else 0
        if norm < lowest:
            best, lowest = x, norm
        s = precondition(left)
        rho, before = left @ s, rho
        direction = s + rho / before * direction
    return best


class ColumnSystem:
    """In the unknowns of the columns: for data with more rows than columns.

    Parameters
    ----------
    objective : LinearObjective
    coordinates : Coordinates
    weights : callable ``weights(block, *parts, start, stop, Q)``
        Sets Q[:stop - start] to the weights of those rows.
    diagonal : ndarray of shape (n_params,)
    kept : what the blocks keep for ``weights``
    """

    def __init__(self, objective, coordinates, weights, diagonal, *kept):
        H = _gram(objective, coordinates, weights, kept)
        index = np.diag_indices(len(H))
        # what centring leaves of a constant column is rounding: take such columns out
        lost = np.zeros(len(H))
        if objective.fit_intercept:
            offset = coordinates.mean * coordinates.scale[:-1] / coordinates.scale[-1]
            lost[:-1] = (1e-14 * offset) ** 2 * H[-1, -1]
        H[index] += diagonal
        self.dead = H[index] <= lost
        H[self.dead], H[:, self.dead] = 0.0, 0.0
        H[self.dead, self.dead] = 1.0
        self.scale = 1.0 / np.sqrt(H[index])
        H *= self.scale * self.scale[:, None]
        self.matrix, self.factor = H, _factor(H)

    def solve(self, pulled, g, r):
        """x, where ``pulled`` is Gᵀg."""
        right = (pulled + r) * self.scale
        right[self.dead] = 0.0
        x = self._precondition(right)
        return _refined(x, right, self.matrix.__matmul__, self._precondition) * self.scale

    def _precondition(self, r):
        return dpotrs(self.factor, r, lower=1)[0]


def _gram(objective, coordinates, weights, kept):
    """GᵀQG, both triangles."""
    blocks, fit_intercept = objective.blocks, objective.fit_intercept
    shift = np.zeros(blocks.n_features) if blocks.sparse else coordinates.mean
    H = weighted_gram(blocks, weights, shift, fit_intercept, *kept, dtype=np.float64)
    H = np.tril(H) + np.tril(H, -1).T
    if blocks.sparse and fit_intercept:  # centred afterwards: the rows are not
        across = np.outer(coordinates.mean, H[-1, :-1])
        H[:-1, :-1] += np.outer(coordinates.mean, coordinates.mean) * H[-1, -1] - across - across.T
        H[-1, :-1] = H[:-1, -1] = H[-1, :-1] - coordinates.mean * H[-1, -1]
    return H * coordinates.scale * coordinates.scale[:, None]


def _weights_of(weights, block, *parts):
    Q = np.empty(len(block.y))
    weights(block, *parts, 0, len(Q), Q)
    return Q


class RowSystem:
    """In the unknowns of the rows: for fewer rows than columns. Parameters as of :class:`ColumnSystem`.

    With R² = Q, X the columns of the coefficients and t = g - QGx = R·a, the change of the rows' dual
    variables:

        (I + R·X·D⁻¹·Xᵀ·R)·a = R⁻¹·g - R·X·D⁻¹·r - R·b,    w = D⁻¹·(Xᵀt + r),    Σt = -r_b

    Where D is zero, something small stands in for it: this shortens steps along which nothing changes.
    Under an l1 penalty D tends to zero where a coefficient is free, and would be lost in rounding: there
    the remedy is the same, and conjugate gradients undo it. A penalised intercept counts as a coefficient,
    of a column of ones.
    """

    def __init__(self, objective, coordinates, weights, diagonal, *kept):
        blocks, p = objective.blocks, objective.n_features
        self.sparse, self.mean = blocks.sparse, coordinates.mean
        self.unit, self.unit_b = coordinates.scale[:p], coordinates.scale[p:]
        free = objective.fit_intercept and not objective.penalty.l2_intercept > 0
        self.k = p + objective.fit_intercept - free  # columns with a diagonal
        if blocks.sparse:
            self.X = blocks.matrix()
        else:
            self.X = blocks.matrix() - self.mean
        Q = np.concatenate(blocks.map(partial(_weights_of, weights), *kept, rows=False))
        self.root, floor = np.sqrt(Q), PROXIMAL * Q.sum()
        self.ones = self.root * self.unit_b if free else None
        self.D = np.where(diagonal[: self.k] > 0, diagonal[: self.k], floor)
        self.near_D = self.D if objective.penalty.smooth else np.maximum(self.D, floor)
        A = self._across() * self.root * self.root[:, None]
        A[np.diag_indices(len(A))] += 1.0
        self.scale = 1.0 / np.sqrt(np.diag(A))
        self.factor = _factor(A * self.scale * self.scale[:, None])

    def _across(self):
        """X·D⁻¹·Xᵀ."""
        share = self.unit**2 / self.near_D[: len(self.unit)]
        by_ones = (self.unit_b**2 / self.D[len(self.unit) :]).sum() if self.ones is None else 0.0
        if not self.sparse:
            B = self.X * np.sqrt(share)
            return B @ B.T + by_ones
        offset = self.X @ (share * self.mean)
        K = (self.X.multiply(share).tocsr() @ self.X.T).toarray()
        return K - offset - offset[:, None] + self.mean @ (share * self.mean) + by_ones

    def _rows_times(self, w):
        p, b = len(self.unit), 0.0
        if self.ones is None:
            b = self.unit_b @ w[p:]
        w = self.unit * w[:p]
        return self.X @ w + b - (self.mean @ w if self.sparse else 0.0)

    def _columns_times(self, t):
        w = self.unit * (self.X.T @ t - (self.mean * t.sum() if self.sparse else 0.0))
        return np.append(w, self.unit_b * t.sum()) if self.k > len(w) else w

    def _product(self, x):
        """(GᵀQG + D)·x."""
        k = self.k
        t = self.root**2 * (self._rows_times(x[:k]) + (self.unit_b * x[k:]).sum())
        out = self._columns_times(t) + self.D * x[:k]
        return out if self.ones is None else np.append(out, self.unit_b * t.sum())

    def _inner(self, right):
        return self.scale * dpotrs(self.factor, self.scale * right, lower=1)[0]

    def _once(self, g_by_root, r):
        k = self.k
        a = self._inner(g_by_root - self.root * self._rows_times(r[:k] / self.near_D))
        b = r[k:]
        if self.ones is not None:
            by_b = self._inner(self.ones)
            b = (self.ones @ a + b) / (self.ones @ by_b)
            a -= b * by_b
        return np.append((self._columns_times(self.root * a) + r[:k]) / self.near_D, b)

    def solve(self, pulled, g, r):
        """x, where ``pulled`` is Gᵀg."""
        nothing = np.zeros_like(g)
        x = self._once(np.divide(g, self.root, out=nothing.copy(), where=self.root > 0), r)
        return _refined(x, pulled + r, self._product, lambda left: self._once(nothing, left))
