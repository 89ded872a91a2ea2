"""From an approximate solution of a ridge problem with a piecewise linear loss to the exact one.

Of each row only one thing matters: whether it lies on one side of the kink, on the other or on it. Then

    l2·w = Σ a·x,    x·w + b = target for rows at the kink,    a = m·lo or m·hi for all others

are linear equations, and Σ a = 0 for a free intercept. Each round

1. solves them, by a QR decomposition of the rows at the kink, where of those that depend on others the dual
   variables stay as they were; for sparse rows by conjugate gradients;
2. moves off the kink the rows whose dual variable leaves its bounds, or that the equations of the others keep
   away from it; and onto it those that turn out to lie on the other side than was assumed.

If nothing moves, the solution is exact (Hintermüller, Ito and Kunisch, "The primal-dual active set strategy as
a semismooth Newton method", SIAM J. Optim. 13 (2002)).
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import qr, solve_triangular
from scipy.sparse import issparse, vstack

from ..passes_linear import add_weighted, decision
from ..rows import as_matrix

MAX_ROUNDS = 12
MAX_AT_KINK = 1000  # rows; four times as many sparse ones
MAX_PRODUCTS = 1000
ACCURACY = 1e-4, 1e-13  # of predictions, by conjugate gradients: while rows move, and in the end
SINGULAR = 1e-11  # relative: a diagonal entry of R below this stands for a dependent row
TIED = 1e-12  # relative: sums of weights that differ by less are the same
INSIDE = 1e-9  # how far a dual variable per unit of weight may be out of its bounds


class Rows(NamedTuple):
    """The loss of each row: m·max(lo·e, hi·e) with e = target - z."""

    target: np.ndarray
    m: np.ndarray
    lo: np.ndarray
    hi: np.ndarray


class Solution(NamedTuple):
    """Parameters, residuals e, and dual variables per unit of weight."""

    theta: np.ndarray
    e: np.ndarray
    d: np.ndarray


def cross_over(objective, rows, d, at_kink, size):
    """The exact :class:`Solution`, or ``None``.

    ``d`` are approximate dual variables, ``at_kink`` is a guess which rows lie at the kink, ``size``
    (n_features,) what is typical of the columns.
    """
    before, accuracy, limit = np.inf, ACCURACY[-1], MAX_AT_KINK
    if is_wide(objective.blocks):
        accuracy, limit = ACCURACY[0], 4 * MAX_AT_KINK
    d = np.where(at_kink, d, np.where(2.0 * d > rows.lo + rows.hi, rows.hi, rows.lo))
    for _ in range(MAX_ROUNDS):
        system = Kinks(objective, rows, d, np.flatnonzero(at_kink & (rows.m > 0)))
        theta = system.solve(d, accuracy) if len(system.index) <= limit else None  # 1
        if theta is None:
            return None
        e = rows.target - predict(objective, theta)
        p = objective.n_features
        tiny = 10 * accuracy * (np.abs(rows.target) + np.abs(theta[:p]) @ size + np.abs(theta[p:]).sum())
        apart = at_kink & (np.abs(e) > tiny)  # 2
        leaves = apart | at_kink & ((d > rows.hi + INSIDE) | (d < rows.lo - INSIDE))
        crosses = ~at_kink & (np.where(d == rows.hi, -e, e) > tiny)
        moved = np.count_nonzero((leaves | crosses) & (rows.m > 0))
        d = np.where(apart, np.where(e > 0, rows.hi, rows.lo), np.clip(d, rows.lo, rows.hi))
        if not moved and accuracy > ACCURACY[-1]:
            accuracy = ACCURACY[-1]
        elif not moved:
            return Solution(*(_centred(rows, theta, e) if system.free else (theta, e)), d)
        if moved >= 2 * before:
            return None
        before = min(moved, before) or before
        at_kink = (at_kink & ~leaves) | crosses
    return None


def _independent(columns):
    """R of a QR decomposition of as many columns as are independent, and the order that puts them first."""
    R, order = qr(columns, mode="r", pivoting=True)
    diagonal = np.abs(np.diag(R))
    rank = np.count_nonzero(diagonal > SINGULAR * diagonal[0])
    return R[:rank, :rank], order


def _conjugate_gradients(product, right, x, limits):
    """The solution to within ``limits``, an array, or ``None``."""
    r = right - product(x)
    direction, rho = r, r @ r
    for _ in range(MAX_PRODUCTS):
        if (np.abs(r) <= limits).all():
            return x
        image = product(direction)
        step = rho / (direction @ image)
        x, r = x + step * direction, r - step * image
        rho, before = r @ r, rho
        direction = r + rho / before * direction
    return None


def _centred(rows, theta, e):
    """The solution with the free intercept in the middle, where an interval of them is optimal."""
    weights = rows.m * (rows.hi - rows.lo)
    counts = weights > 0
    shift = crossing(e[counts], weights[counts], rows.m @ rows.hi)
    if abs(shift) <= INSIDE * np.abs(e).max():
        return theta, e
    return np.append(theta[:-1], theta[-1] + shift), e - shift


class Kinks:
    """The equations of step 1, for rows ``index`` at the kink and dual variables ``d`` of all others."""

    def __init__(self, objective, rows, d, index):
        penalty = objective.penalty
        self.objective, self.rows, self.index = objective, rows, index
        self.free = objective.fit_intercept and not penalty.l2_intercept > 0
        a = rows.m * d
        a[index] = 0.0
        self.base = weighted_sum(objective, a)
        self.scale = 1.0 / np.sqrt(objective.curvature_of_penalty()[: objective.n_params - self.free])

    def solve(self, d, accuracy):
        """The parameters; ``d`` gets the dual variables of the rows at the kink. ``None`` if there are none."""
        if not len(self.index):
            return self._all_aside()
        X = take(self.objective.blocks, self.index)
        return self._iteratively(X, d, accuracy) if issparse(X) else self._directly(X, d)

    def _directly(self, X, d):
        rows, p, index = self.rows, self.objective.n_features, self.index
        B = X * self.scale[:p]  # coefficients in units in which the ridge is 1
        centre = B.mean(axis=0) if self.free else np.zeros(p)
        B -= centre
        extra = 0.0  # square of a further column; where the intercept is free, that of its dual is known
        if self.objective.fit_intercept:
            extra = ((B * B).sum() / len(B) or 1.0) if self.free else self.scale[p] ** 2
        R, order = _independent(np.vstack([B.T, np.full(len(B), np.sqrt(extra))]))
        kept, rest = order[: len(R)], order[len(R) :]
        a_rest = rows.m[index[rest]] * d[index[rest]]
        known = self.base[: len(self.scale)] * self.scale
        known[:p] += self.scale[:p] * (X[rest].T @ a_rest)
        right = rows.target[index[kept]] - X[kept] @ (self.scale[:p] * known[:p])
        if self.free:
            total = -(self.base[-1] + a_rest.sum())
            right += (extra - B[kept] @ centre) * total
            known[:p] += centre * total
        elif self.objective.fit_intercept:
            known[p] += self.scale[p] * a_rest.sum()
            right -= self.scale[p] * known[p]
        y = solve_triangular(R, right, trans="T")
        if self.free:
            by_b = solve_triangular(R, np.ones(len(R)), trans="T")
            y -= by_b * (by_b @ y - total) / (by_b @ by_b)
        a = solve_triangular(R, y)
        d[index[kept]] = a / rows.m[index[kept]]
        known[:p] += B[kept].T @ a
        return self._parameters(known, a, X[kept], rows.target[index[kept]])

    def _iteratively(self, X, d, accuracy):
        """By conjugate gradients from ``d``, scaled by the rows' lengths; ``None`` if they do not converge."""
        rows, p, index = self.rows, self.objective.n_features, self.index
        B = X.multiply(self.scale[:p]).tocsr()
        B_transposed, extra = B.T.tocsr(), self.scale[p:].sum() ** 2
        known, m = self.base[: len(self.scale)] * self.scale, rows.m[index]
        right = rows.target[index] - B @ known[:p] - (self.scale[p:] * known[p:]).sum()
        root = 1.0 / np.sqrt(np.maximum(np.asarray(B.multiply(B).sum(axis=1)).ravel() + extra, 1e-300))
        a = m * d[index]
        q = np.zeros_like(root)
        if self.free:  # steps leave the sum as it is
            q = root / np.sqrt(root @ root)
            a += (-self.base[-1] - a.sum()) * q * q

        def product(v):
            v = root * v
            v = root * (B @ (B_transposed @ v) + extra * v.sum())
            return v - q * (q @ v)

        right = root * right
        x = _conjugate_gradients(product, right - q * (q @ right), a / root, accuracy * root)
        if x is None:
            return None
        a = root * x
        d[index] = a / m
        known[:p] += B_transposed @ a
        return self._parameters(known, a, X, rows.target[index])

    def _parameters(self, known, a, X, target):
        """Theta of the coefficients ``known``, in units of the ridge."""
        p = self.objective.n_features
        if self.free:
            w = known * self.scale
            return np.append(w, (target - X @ w).mean())
        known[p:] += self.scale[p:] * a.sum()
        return known * self.scale

    def _all_aside(self):
        """No row at the kink."""
        theta = self.base[: len(self.scale)] * self.scale**2
        if not self.free:
            return theta
        weights = self.rows.m * (self.rows.hi - self.rows.lo)
        if abs(self.base[-1]) > TIED * weights.sum():  # no intercept makes that up
            return None
        theta = np.append(theta, 0.0)
        return _centred(self.rows, theta, self.rows.target - predict(self.objective, theta))[0]


def crossing(values, weights, level):
    """Where the sum of the weights of the smaller values comes to ``level``: the middle, of an interval."""
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(weights[order])
    k = min(int(np.searchsorted(sums, level - TIED * sums[-1])), len(order) - 1)
    right = k + 1 if sums[k] <= level + TIED * sums[-1] and k + 1 < len(order) else k
    return 0.5 * float(values[order[k]] + values[order[right]])


def predict(objective, theta):
    """Raw predictions of all rows."""
    blocks, z = objective.blocks, np.empty(objective.blocks.n_rows)
    blocks.map(
        lambda block: decision(block.rows, theta, objective.fit_intercept, z[block.start : block.stop])
    )
    return z


def weighted_sum(objective, a):
    """Σ a·(x, 1) over all rows."""

    def block_sum(block, out):
        part = a[block.start : block.stop]
        add_weighted(block.rows, part, out)
        if objective.fit_intercept:
            out[-1] += part.sum()
        return 0.0

    return objective.blocks.total(block_sum, objective.n_params)[1]


def is_wide(blocks):
    """Whether rows are sparse and have so many columns that they stay so."""
    return blocks.sparse and blocks.n_features > MAX_AT_KINK


def take(blocks, index):
    """Those rows, in ascending order, in memory; dense where they have few columns."""

    def of_block(block):
        inside = index[(index >= block.start) & (index < block.stop)]
        return as_matrix(block.rows, blocks.n_features)[inside - block.start]

    parts = blocks.map(of_block)
    if not blocks.sparse:
        return np.concatenate(parts).astype(np.float64)
    X = vstack(parts, format="csr", dtype=np.float64)
    return X if is_wide(blocks) else X.toarray()
