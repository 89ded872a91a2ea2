"""From an approximate solution of a ridge problem with a piecewise linear loss to the exact one.

Of each row only one thing matters: whether it lies on one side of the kink, on the other or on it. Then

    l2·w = Σ a·x,    x·w + b = target for rows at the kink,    a = m·lo or m·hi for all others

are linear equations, and Σ a = 0 for a free intercept. Each round

1. solves them, by a QR decomposition of the rows at the kink; of those that depend on others, the dual
   variables stay as they were;
2. moves off the kink the rows whose dual variable leaves its bounds, or that the equations of the others keep
   away from it; and onto it those that turn out to lie on the other side than was assumed.

If nothing moves, the solution is exact (Hintermüller, Ito and Kunisch, "The primal-dual active set strategy as
a semismooth Newton method", SIAM J. Optim. 13 (2002)).
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg import qr, solve_triangular

from ..passes_linear import add_weighted, decision

MAX_ROUNDS = 12
MAX_AT_KINK = 1000  # rows
SINGULAR = 1e-11  # relative: a diagonal entry of R below this stands for a dependent row
TIED = 1e-12  # relative: sums of weights that differ by less are the same
INSIDE = 1e-9  # how far a dual variable per unit of weight may be out of its bounds
ROUNDING = 1e-13  # of a prediction, relative to its terms


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
    before = np.inf
    d = np.where(at_kink, d, np.where(2.0 * d > rows.lo + rows.hi, rows.hi, rows.lo))
    for _ in range(MAX_ROUNDS):
        system = Kinks(objective, rows, d, np.flatnonzero(at_kink & (rows.m > 0)))
        theta = system.solve(d) if len(system.index) <= MAX_AT_KINK else None  # 1
        if theta is None:
            return None
        e = rows.target - predict(objective, theta)
        p = objective.n_features
        tiny = ROUNDING * (np.abs(rows.target) + np.abs(theta[:p]) @ size + np.abs(theta[p:]).sum())
        apart = at_kink & (np.abs(e) > tiny)  # 2
        leaves = apart | at_kink & ((d > rows.hi + INSIDE) | (d < rows.lo - INSIDE))
        crosses = ~at_kink & (np.where(d == rows.hi, -e, e) > tiny)
        moved = np.count_nonzero((leaves | crosses) & (rows.m > 0))
        d = np.where(apart, np.where(e > 0, rows.hi, rows.lo), np.clip(d, rows.lo, rows.hi))
        if not moved:
            return Solution(*(_centred(rows, theta, e) if system.free else (theta, e)), d)
        if moved >= 2 * before:
            return None
        before = min(moved, before)
        at_kink = (at_kink & ~leaves) | crosses
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

    def solve(self, d):
        """The parameters; ``d`` gets the dual variables of the rows at the kink. ``None`` if there are none."""
        if not len(self.index):
            return self._all_aside()
        rows, p = self.rows, self.objective.n_features
        X = take(self.objective.blocks, self.index)
        B, ones = X * self.scale[:p], np.ones((len(X), 1))
        centre = B.mean(axis=0) if self.free else np.zeros(p)
        B -= centre
        stiff = 1.0  # of the sum of the dual variables, which is known where the intercept is free
        if self.free:
            stiff = np.sqrt((B * B).sum() / len(B)) or 1.0
            B = np.hstack([B, stiff * ones])
        elif self.objective.fit_intercept:
            B = np.hstack([B, self.scale[p] * ones])
        Q, R, order = qr(B.T, mode="economic", pivoting=True)
        diagonal = np.abs(np.diag(R))
        rank = np.count_nonzero(diagonal > SINGULAR * diagonal[0])
        kept, rest = order[:rank], order[rank:]
        a_rest = rows.m[self.index[rest]] * d[self.index[rest]]
        known = self.base[: len(self.scale)] * self.scale  # in units in which the ridge is 1
        known[:p] += (X[rest] * self.scale[:p]).T @ a_rest
        R, Q = R[:rank, :rank], Q[:, :rank]
        right = rows.target[self.index[kept]] - X[kept] @ (self.scale[:p] * known[:p])
        if self.free:
            total = -(self.base[-1] + a_rest.sum())
            right += stiff**2 * total - B[kept, :p] @ centre * total
            known[:p] += centre * total
        elif self.objective.fit_intercept:
            known[p] += self.scale[p] * a_rest.sum()
            right -= self.scale[p] * known[p]
        y = solve_triangular(R, right, trans="T")
        if self.free:
            by_b = solve_triangular(R, np.ones(rank), trans="T")
            y -= by_b * (by_b @ y - total) / (by_b @ by_b)
        d[self.index[kept]] = solve_triangular(R, y) / rows.m[self.index[kept]]
        theta = (known + (Q @ y)[: len(known)]) * self.scale
        if self.free:
            theta = np.append(theta, (rows.target[self.index[kept]] - X[kept] @ theta).mean())
        return theta

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
    blocks.map(lambda block: decision(block.rows, theta, objective.fit_intercept, z[block.start : block.stop]))
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


def take(blocks, index):
    """Those rows, in ascending order, as a dense array."""
    if blocks.sparse:
        return blocks.matrix()[index].toarray().astype(np.float64)

    def of_block(block):
        inside = index[(index >= block.start) & (index < block.stop)]
        return block.rows.X[inside - block.start]

    return np.concatenate(blocks.map(of_block)).astype(np.float64)
