"""From an approximate solution of a ridge problem with a piecewise linear loss to the exact one.

Of each row only one thing matters: whether it lies on one side of the kink, on the other or on it. Then

    l2·w = Σ a·x,    x·w + b = target for rows at the kink,    a = m·lo or m·hi for all others

are linear equations, and Σ a = 0 for a free intercept. Each round

1. solves them for what the dual variables lack, by a QR decomposition of the rows at the kink, where those of
   rows that depend on others stay as they were; for sparse rows by conjugate gradients;
2. moves off the kink the rows whose dual variable leaves its bounds, or that the equations of the others keep
   away from it; and onto it those that turn out to lie on the other side than was assumed.

If nothing moves, the solution is exact (Hintermüller, Ito and Kunisch, "The primal-dual active set strategy
as a semismooth Newton method", SIAM J. Optim. 13 (2002)).

Of a row a byte is kept, where it lies, with the others of its block. A round reads the rows once: step 2, the
sum over the rows aside and the rows at the kink, which are few, come from the same pass.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import qr, solve_triangular
from scipy.sparse import csr_matrix, issparse, vstack

from ..passes_linear import add_weighted, decision
from ..rows import as_matrix, as_rows

BELOW, KINK, ABOVE = -1, 0, 1  # where a row lies: its dual variable is lo, between them, or hi
MAX_ROUNDS = 12
MAX_AT_KINK = 1000  # rows; four times as many sparse ones
MAX_PRODUCTS = 1000
REFINEMENTS = 2  # of the solution of the equations
ACCURACY = 1e-4, 1e-13  # of predictions, by conjugate gradients: while rows move, and in the end
SINGULAR = 1e-11  # relative: a diagonal entry of R below this stands for a dependent row
TIED = 1e-12  # relative: sums of weights that differ by less are the same
INSIDE = 1e-9  # how far a dual variable per unit of weight may be out of its bounds


def sides_of(d, lo, hi, at_kink):
    """Where rows with those dual variables lie, one byte each."""
    side = np.where(2.0 * d > lo + hi, ABOVE, BELOW).astype(np.int8)
    side[at_kink] = KINK
    return side


def cross_over(objective, model, sides, at_kink, size):
    """The exact solution as a :class:`Point`, and the sides on which the rows then lie; or ``None``.

    Parameters
    ----------
    objective : LinearObjective
    model : PieceModel
        Of a loss with one piece for each row.
    sides : kept by the blocks
        Where the rows seem to lie; only rows that count may be at the kink. It is changed.
    at_kink : list of (ndarray, ndarray)
        Numbers of the rows at the kink, and approximate dual variables per unit of weight, of each block.
    size : ndarray of shape (n_features,)
        What is typical of the columns.
    """
    blocks, p = objective.blocks, objective.n_features
    before, accuracy, limit = np.inf, ACCURACY[-1], MAX_AT_KINK
    if is_wide(blocks):
        accuracy, limit = ACCURACY[0], 4 * MAX_AT_KINK
    index, d = (np.concatenate(parts) for parts in zip(*at_kink, strict=True))
    if len(index) > limit:
        return None
    point, join = Point(model, objective.n_params, None, index, d, 0.0, limit), partial(_joined, limit)
    sides, seen = blocks.renew(point.look, join, sides)
    for _ in range(MAX_ROUNDS):
        if len(seen.kinks.index) > limit:
            return None
        theta, d = System(objective, seen).solve(accuracy)  # 1
        if theta is not None and not len(d) and is_free(objective):
            theta = _between(objective, point._replace(theta=theta), sides)
        if theta is None:
            return None
        reach = np.abs(theta[:p]) @ size + np.abs(theta[p:]).sum()
        point = point._replace(theta=theta, index=seen.kinks.index, d=d, accuracy=10 * accuracy, reach=reach)
        sides, seen = blocks.renew(point.look, join, sides)  # 2
        moved = seen.sums[0]
        if not moved and accuracy == ACCURACY[-1]:
            theta = _centred(seen, theta) if is_free(objective) else theta
            return point._replace(theta=theta, d=seen.kinks.d), sides
        if not moved:
            accuracy = ACCURACY[-1]
        if moved >= 2 * before:
            return None
        before = min(moved, before) or before
    return None


class Guess(NamedTuple):
    """What :func:`cross_over` begins with, from arrays of all rows."""

    model: object
    d: np.ndarray  # dual variables per unit of weight
    at_kink: np.ndarray

    def sides(self, block):
        """Where the rows of a block seem to lie."""
        _, _, lo, hi = self.model.one(block)
        part = slice(block.start, block.stop)
        return sides_of(self.d[part], lo, hi, self.at_kink[part])

    def kinks(self, block, side):
        """Numbers of the rows at the kink, and their dual variables."""
        at = block.start + np.flatnonzero(side == KINK)
        return at, self.d[at]

    def lead(self, block, out):
        """Add Σ m·d·(x, 1) to ``out``."""
        return self.model.add_rows(block, self.model.weights(block) * self.d[block.start : block.stop], out)

    def solution(self, objective, intercept):
        """The guess as it is, in the form of :func:`cross_over`; ``intercept`` is one without a penalty."""
        theta = objective.blocks.total(self.lead, objective.n_params)[1]
        n = objective.n_params - is_free(objective)
        theta[:n] /= objective.curvature_of_penalty()[:n]
        theta[n:] = intercept
        index = np.flatnonzero(self.at_kink)
        point = Point(self.model, objective.n_params, theta, index, self.d[index], 0.0, 0)
        return point, objective.blocks.keep(self.sides, rows=False)

    def cross_over(self, objective, size):
        """The exact solution, as :func:`cross_over` has it."""
        sides = objective.blocks.keep(self.sides, rows=False)
        at_kink = objective.blocks.map(self.kinks, sides, rows=False)
        return cross_over(objective, self.model, sides, at_kink, size)


def is_free(objective):
    """Whether there is an intercept without a penalty."""
    return objective.fit_intercept and not objective.penalty.l2_intercept > 0


# -- what is seen in the rows


class Kinks(NamedTuple):
    """Rows at the kink, in ascending order."""

    index: np.ndarray  # numbers among all rows
    target: np.ndarray
    m: np.ndarray  # weights
    d: np.ndarray  # dual variables per unit of weight
    e: np.ndarray  # residuals
    width: np.ndarray  # hi - lo


class Seen(NamedTuple):
    """Of the rows of one or more blocks."""

    base: np.ndarray  # Σ a·(x, 1) over the rows aside
    sums: np.ndarray  # rows that moved; Σ m·(hi - lo) of those below and of those above; Σ m·hi of all
    ends: np.ndarray  # largest e below the kink, largest -e above it, largest |e|
    kinks: Kinks
    X: object  # their rows; None if they are too many


def _joined(limit, a, b):
    """Of two sets of rows, the first before the second."""
    kinks = Kinks(*map(np.concatenate, zip(a.kinks, b.kinks, strict=True)))
    X = None
    if a.X is not None and b.X is not None and len(kinks.index) <= limit:
        X = vstack([a.X, b.X], format="csr") if issparse(a.X) else np.concatenate([a.X, b.X])
    return Seen(a.base + b.base, a.sums + b.sums, np.maximum(a.ends, b.ends), kinks, X)


class Point(NamedTuple):
    """Parameters, dual variables of the rows at the kink, and what tells which rows lie elsewhere."""

    model: object
    n_params: int
    theta: np.ndarray | None  # none yet: nothing moves
    index: np.ndarray  # of the rows at the kink
    d: np.ndarray  # their dual variables per unit of weight
    accuracy: float  # of predictions, relative to target and reach
    limit: int  # of rows that are taken
    reach: float = 0.0

    def look(self, block, side):
        """Put the rows where they belong; :class:`Seen`."""
        target, m, lo, hi = self.model.one(block)
        d, e, moved = self._duals(block, side, lo, hi), np.zeros(len(m)), 0
        if self.theta is not None:
            e = target - self._predictions(block)
            moved = self._move(side, target, m, lo, hi, d, e)
        at, width = np.flatnonzero(side == KINK), hi - lo
        sums = [moved, *(m[side == place] @ width[side == place] for place in (BELOW, ABOVE)), m @ hi]
        kinks = Kinks(block.start + at, *(values[at] for values in (target, m, d, e, width)))
        a = m * d
        a[at] = 0.0
        X = None
        if len(at) <= self.limit:
            X = as_matrix(block.rows, self.n_params - self.model.fit_intercept)[at].astype(np.float64)
        return Seen(self._sum(block, a), np.array(sums), _ends(side, m, e), kinks, X)

    def _move(self, side, target, m, lo, hi, d, e):
        tiny = self.accuracy * (np.abs(target) + self.reach)
        at_kink = side == KINK
        apart = at_kink & (np.abs(e) > tiny)
        leaves = apart | at_kink & ((d > hi + INSIDE) | (d < lo - INSIDE))
        crosses = ~at_kink & (np.where(side == ABOVE, -e, e) > tiny) & (m > 0)
        d[:] = np.where(apart, np.where(e > 0, hi, lo), np.clip(d, lo, hi))
        side[leaves] = np.where(d == hi, ABOVE, BELOW)[leaves]
        side[crosses] = KINK
        return np.count_nonzero(leaves | crosses)

    def lost(self, block, side):
        """Σ m·(max(lo·e, hi·e) - d·e), which is the duality gap of the rows, and Σ m·d·(x, 1)."""
        target, m, lo, hi = self.model.one(block)
        d, e = self._duals(block, side, lo, hi), target - self._predictions(block)
        return float(m @ (np.maximum(lo * e, hi * e) - d * e)), self._sum(block, m * d)

    def duals(self, block, side):
        """Dual variables of all rows per unit of weight."""
        _, _, lo, hi = self.model.one(block)
        return self._duals(block, side, lo, hi)

    def ends(self, block, side):
        """As :class:`Seen` has them."""
        target, m, _, _ = self.model.one(block)
        return _ends(side, m, target - self._predictions(block))

    def _duals(self, block, side, lo, hi):
        d = np.where(side == ABOVE, hi, lo)
        here = slice(*np.searchsorted(self.index, [block.start, block.stop]))
        d[self.index[here] - block.start] = self.d[here]
        return d

    def _predictions(self, block):
        z = np.empty(len(block.y))
        decision(block.rows, self.theta, self.model.fit_intercept, z)
        return z

    def _sum(self, block, a):
        out = np.zeros(self.n_params)
        add_weighted(block.rows, a, out)
        if self.model.fit_intercept:
            out[-1] += a.sum()
        return out


def _ends(side, m, e):
    counts = m > 0
    below, above = e[counts & (side == BELOW)], -e[counts & (side == ABOVE)]
    return np.array([part.max(initial=-np.inf) for part in (below, above, np.abs(e))])


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


def _centred(seen, theta):
    """The parameters with the free intercept in the middle, where an interval of them is optimal."""
    _, below, above, level = seen.sums
    highest, lowest, largest = seen.ends * (1.0, -1.0, 1.0)
    # of the rows aside only the next ones matter
    values = np.concatenate([[highest], seen.kinks.e, [lowest]])
    weights = np.concatenate([[below], seen.kinks.m * seen.kinks.width, [above]])
    shift = crossing(values[weights > 0], weights[weights > 0], level)
    return theta if abs(shift) <= INSIDE * largest else np.append(theta[:-1], theta[-1] + shift)


def _between(objective, point, sides):
    """The parameters with an intercept between the rows on either side, of which none is at the kink."""
    highest, lowest, _ = objective.blocks.reduce(point.ends, np.maximum, sides) * (1.0, -1.0, 1.0)
    return np.append(point.theta[:-1], 0.5 * (highest + lowest)) if np.isfinite(highest - lowest) else None


class System:
    """The equations of step 1, for what was seen of the rows."""

    def __init__(self, objective, seen):
        self.objective, self.free = objective, is_free(objective)
        self.kinks, self.base, self.sums = seen.kinks, seen.base, seen.sums
        self.scale = 1.0 / np.sqrt(objective.curvature_of_penalty()[: objective.n_params - self.free])
        self.X = seen.X.toarray() if issparse(seen.X) and not is_wide(objective.blocks) else seen.X

    def solve(self, accuracy):
        """The parameters and the dual variables of the rows at the kink; no parameters if there are none."""
        d = self.kinks.d.copy()
        if not len(d):
            return self._all_aside(), d
        return (self._iteratively(d, accuracy) if issparse(self.X) else self._directly(d)), d

    def _directly(self, d):
        X, target, m, p = self.X, self.kinks.target, self.kinks.m, self.objective.n_features
        B = X * self.scale[:p]  # coefficients in units in which the ridge is 1
        centre = B.mean(axis=0) if self.free else np.zeros(p)
        centred = B - centre
        total = extra = 0.0  # the square of a further column; where the intercept is free, its dual is known
        if self.objective.fit_intercept:
            extra = ((centred * centred).sum() / len(B) or 1.0) if self.free else self.scale[p] ** 2
        R, order = _independent(np.vstack([centred.T, np.full(len(B), np.sqrt(extra))]))
        kept = order[: len(R)]
        theta = self._parameters(self.base[: len(self.scale)] * self.scale, B, m * d, X[kept], target[kept])
        if self.free:
            total = -(self.base[-1] + (m * d).sum())
        for k in range(1 + REFINEMENTS):  # sums of the dual variables lose digits that the equations have
            left = target[kept] - X[kept] @ theta[:p] - theta[p:].sum()
            if self.free:
                left += (extra - centred[kept] @ centre) * total
            change = self._multipliers(R, left, total)
            known = theta[: len(self.scale)] / self.scale
            theta = self._parameters(known, B[kept], change, X[kept], target[kept])
            if k == 0:
                d[kept] += change / m[kept]
            total = 0.0
        return theta

    def _multipliers(self, R, right, total):
        """a with RᵀR·a = right; where the intercept is free, up to what it adds, and with that sum."""
        y = solve_triangular(R, right, trans="T")
        if self.free:
            by_b = solve_triangular(R, np.ones(len(R)), trans="T")
            y -= by_b * (by_b @ y - total) / (by_b @ by_b)
        return solve_triangular(R, y)

    def _iteratively(self, d, accuracy):
        """By conjugate gradients from ``d``, scaled by the rows' lengths; ``None`` without convergence."""
        X, target, m, p = self.X, self.kinks.target, self.kinks.m, self.objective.n_features
        B = csr_matrix((X.data * self.scale[X.indices], X.indices, X.indptr), X.shape)
        rows, extra = as_rows(B), self.scale[p:].sum() ** 2
        known = self.base[: len(self.scale)] * self.scale
        right = target - B @ known[:p] - (self.scale[p:] * known[p:]).sum()
        root = 1.0 / np.sqrt(np.maximum(np.asarray(B.multiply(B).sum(axis=1)).ravel() + extra, 1e-300))
        a = m * d
        q = np.zeros_like(root)
        if self.free:  # steps leave the sum as it is
            q = root / np.sqrt(root @ root)
            a += (-self.base[-1] - a.sum()) * q * q

        def product(v):
            v, w, out = root * v, np.zeros(p), np.empty_like(v)
            add_weighted(rows, v, w)
            decision(rows, w, False, out)
            out = root * (out + extra * v.sum())
            return out - q * (q @ out)

        right = root * right
        x = _conjugate_gradients(product, right - q * (q @ right), a / root, accuracy * root)
        if x is None:
            return None
        a = root * x
        d[:] = a / m
        return self._parameters(known, B, a, X, target)

    def _parameters(self, known, B, a, X, target):
        """Theta, after adding the rows ``a`` of B to the coefficients ``known``, in units of the ridge."""
        p = self.objective.n_features
        known[:p] += B.T @ a
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
        if abs(self.base[-1]) > TIED * self.sums[1:3].sum():  # no intercept makes that up
            return None
        return np.append(theta, 0.0)


def crossing(values, weights, level):
    """Where the sum of the weights of the smaller values comes to ``level``: the middle, of an interval."""
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(weights[order])
    k = min(int(np.searchsorted(sums, level - TIED * sums[-1])), len(order) - 1)
    right = k + 1 if sums[k] <= level + TIED * sums[-1] and k + 1 < len(order) else k
    return 0.5 * float(values[order[k]] + values[order[right]])


def is_wide(blocks):
    """Whether rows are sparse and have so many columns that they stay so."""
    return blocks.sparse and blocks.n_features > MAX_AT_KINK
