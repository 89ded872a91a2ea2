"""Jitted passes of kernel machines: rows of the Gram matrix, sums of them, and the dual problem of few rows.

A dual variable ``beta`` of a row lies between ``lo`` and ``hi``: 0 and its cost for the positive class, minus
its cost and 0 for the negative one. ``g`` is the gradient of the dual objective in ``beta``.
"""

from typing import NamedTuple

import numpy as np

from ._jit import greater, jit, lesser
from .kernels import similarity
from .rows import gather, inner, lay_out, squared_norms

TILE = 16  # rows of the Gram matrix formed at a time; always as many, so that BLAS rounds them alike
IDLE = 1e-3  # violation of a variable at its bound, relative to the largest, below which it rests
ACCURACY = 0.1  # violation that a round leaves, relative to that at its beginning
FLAT = 1e-12  # least curvature of a step, for kernels that are not positive definite
FAR = 1e300  # a gradient beyond all


@jit
def inner_products(rows, wanted, columns, shift, T, a, b):
    """T = inner products of rows ``wanted`` with rows ``columns``, minus ``shift``; a, b = squared norms.

    The bits of an entry depend on its two rows and on all of ``columns``, but not on what else is wanted.
    """
    p = shift.shape[0]
    D, tile = np.zeros((TILE, p), T.dtype), np.empty((TILE, columns.shape[0]), T.dtype)
    squared_norms(rows, wanted, shift, a[: wanted.shape[0]])
    squared_norms(rows, columns, shift, b)
    laid = lay_out(rows, columns, shift, T)
    for first in range(0, wanted.shape[0], TILE):
        some = wanted[first : first + TILE]
        gather(rows, some, shift, D)
        inner(rows, D, columns, laid, tile)
        for j in range(some.shape[0]):  # an assignment of slices takes ten seconds to compile
            for i in range(columns.shape[0]):
                T[first + j, i] = tile[j, i]


@jit
def similarities(kernel, T, a, b, slots, start, store):
    """store[slots[j], start:start + len(b)] = kernel of inner products T[j] and squared norms a[j] and b."""
    for j in range(slots.shape[0]):
        out = store[slots[j], start : start + b.shape[0]]
        for i in range(b.shape[0]):
            out[i] = similarity(kernel, T[j, i], a[j], b[i])


@jit
def add_gram_rows(store, slots, delta, out):
    """Add Σ delta[j]·store[slots[j]] to ``out``, four rows at a time."""
    j = 0
    while j + 4 <= slots.shape[0]:
        d0, d1, d2, d3 = delta[j], delta[j + 1], delta[j + 2], delta[j + 3]
        k0, k1, k2, k3 = store[slots[j]], store[slots[j + 1]], store[slots[j + 2]], store[slots[j + 3]]
        for i in range(out.shape[0]):
            out[i] += (d0 * k0[i] + d1 * k1[i]) + (d2 * k2[i] + d3 * k3[i])
        j += 4
    while j < slots.shape[0]:
        row = store[slots[j]]
        for i in range(out.shape[0]):
            out[i] += delta[j] * row[i]
        j += 1


@jit
def extremes(beta, lo, hi, g, balanced):
    """Least g of what can grow and largest g of what can shrink; infinite where nothing can.

    Without the balance Σ beta = 0 there is no multiplier: they are compared with 0.
    """
    low, high = FAR, -FAR
    for k in range(g.shape[0]):
        slope, room = g[k], hi[k] - beta[k]
        low = lesser(low, slope if room > 0.0 else FAR)
    for k in range(g.shape[0]):  # one after the other they vectorise
        slope, room = g[k], beta[k] - lo[k]
        high = greater(high, slope if room > 0.0 else -FAR)
    if not balanced:
        return min(low, 0.0), max(high, 0.0)
    return low if low < FAR else np.inf, high if high > -FAR else -np.inf


@jit
def place(values, wanted):
    """Where the first entry ``wanted`` is."""
    k = 0
    while k < values.shape[0] - 1 and values[k] != wanted:
        k += 1
    return k


@jit
def diagonal(K):
    out = np.empty(K.shape[0])
    for k in range(K.shape[0]):
        out[k] = K[k, k]
    return out


@jit
def partner(row, curvatures, i, beta, lo, g, low, gain):
    """(row, curvature) whose step with row i gains most, to second order; ``row`` is row i of the matrix."""
    best, corner = 0.0, curvatures[i]
    for k in range(g.shape[0]):
        slope, room = g[k] - low, beta[k] - lo[k]
        slope = greater(slope, 0.0) if room > 0.0 else 0.0
        gain[k] = slope * slope / greater(corner + curvatures[k] - 2.0 * row[k], FLAT)
    for k in range(g.shape[0]):
        best = greater(best, gain[k])
    j = place(gain, best)
    return j, max(corner + curvatures[j] - 2.0 * row[j], FLAT)


@jit
def solve_pairs(K, beta, lo, hi, g, tol, max_steps):
    """Minimise over beta with Σ beta fixed, two variables at a time (SMO); K is their Gram matrix.

    The pair is the most violating row and the partner with which it gains most (Fan, Chen and Lin 2005).
    Returns the steps made.
    """
    curvatures, gain = diagonal(K), np.empty(g.shape[0])
    for step in range(max_steps):
        low, high = extremes(beta, lo, hi, g, True)
        if not high - low > tol:
            return step
        i = 0
        while g[i] != low or not beta[i] < hi[i]:
            i += 1
        j, bend = partner(K[i], curvatures, i, beta, lo, g, low, gain)
        d = (g[j] - low) / bend
        room_i, room_j = hi[i] - beta[i], beta[j] - lo[j]
        d = min(d, room_i, room_j)
        # at a bound exactly, not up to rounding: bounded rows are told by it
        beta[i] = hi[i] if d == room_i else beta[i] + d
        beta[j] = lo[j] if d == room_j else beta[j] - d
        row_i, row_j = K[i], K[j]
        for k in range(g.shape[0]):
            g[k] += d * (row_i[k] - row_j[k])
    return max_steps


@jit
def best_single(curvatures, beta, lo, hi, g, gain):
    """The row whose own step gains most, to second order."""
    best = 0.0
    for k in range(g.shape[0]):
        slope, above, below = g[k], hi[k] - beta[k], beta[k] - lo[k]
        room = above if slope < 0.0 else below
        slope = slope if room > 0.0 else 0.0
        gain[k] = slope * slope / greater(curvatures[k], FLAT)
    for k in range(g.shape[0]):
        best = greater(best, gain[k])
    return place(gain, best)


@jit
def solve_singles(K, beta, lo, hi, g, tol, max_steps):
    """As ``solve_pairs`` without a condition on Σ beta: one variable at a time."""
    curvatures, gain = diagonal(K), np.empty(g.shape[0])
    for step in range(max_steps):
        low, high = extremes(beta, lo, hi, g, False)
        if not max(high, -low) > tol:
            return step
        i = best_single(curvatures, beta, lo, hi, g, gain)
        new = min(max(beta[i] - g[i] / max(curvatures[i], FLAT), lo[i]), hi[i])
        d, beta[i] = new - beta[i], new
        row = K[i]
        for k in range(g.shape[0]):
            g[k] += d * row[k]
    return max_steps


class Box(NamedTuple):
    """The constants of a dual problem, an entry each row."""

    y: np.ndarray  # 1 or -1
    cost: np.ndarray  # of a unit of loss
    lo: np.ndarray
    hi: np.ndarray
    ridge: np.ndarray  # added to the diagonal of the Gram matrix; a single 0 for the hinge loss

    def cut(self, rows):
        """The entries of some rows."""
        ridge = self.ridge if self.ridge.size == 1 else self.ridge[rows]
        return Box(self.y[rows], self.cost[rows], self.lo[rows], self.hi[rows], ridge)


def make_box(y, cost, dual):
    """The box of labels 1 and -1 and a loss's ``dual``: its upper bound and curvature, per unit of cost."""
    limit = np.full(len(y), np.inf) if np.isinf(dual[0]) else dual[0] * cost
    ridge = dual[1] / cost if dual[1] else np.zeros(1)
    return Box(y, cost, np.where(y > 0, 0.0, -limit), np.where(y > 0, limit, 0.0), ridge)


@jit
def gradient(box, beta, z, g):
    """g = gradient of the dual objective at ``beta``, whose predictions without intercept are z."""
    for i in range(beta.shape[0]):
        ridge = box.ridge[i] if box.ridge.shape[0] > 1 else box.ridge[0]
        g[i] = z[i] + ridge * beta[i] - box.y[i]


@jit
def measure(box, beta, z, g, balanced):
    """Set g; return (low, high, intercept, ½·betaᵀ·K·beta, Σ loss, duality gap).

    The intercept, where it is free, makes the mean slope of the rows strictly between their bounds zero;
    without such rows it is halfway between the extremes, and that of one class alone is 1 or -1.
    """
    gradient(box, beta, z, g)
    low, high = extremes(beta, box.lo, box.hi, g, balanced)
    b = 0.0
    if balanced:
        total, count = 0.0, 0
        for i in range(beta.shape[0]):
            if box.lo[i] < beta[i] < box.hi[i]:
                total += g[i]
                count += 1
        if count > 0:
            b = -total / count
        elif np.isfinite(low) and np.isfinite(high):
            b = -0.5 * (low + high)
        elif np.isfinite(low) or np.isfinite(high):
            b = -low if np.isfinite(low) else -high
    norm, loss, gap = worth(box, beta, z, b)
    return low, high, b, norm, loss, gap


@jit
def worth(box, beta, z, b):
    """(½·betaᵀ·K·beta, Σ loss, duality gap) with the intercept b.

    Of the gap each row has its part, never negative: what its loss and its dual variable lack to agree.
    """
    norm, loss, gap = 0.0, 0.0, 0.0
    for i in range(beta.shape[0]):
        short, a = 1.0 - box.y[i] * (z[i] + b), abs(beta[i])
        over = max(short, 0.0)
        norm += beta[i] * z[i]
        if box.ridge.shape[0] > 1:
            loss += box.cost[i] * over * over
            gap += 0.5 * box.ridge[i] * (over / box.ridge[i] - a) ** 2 + a * (over - short)
        else:
            loss += box.cost[i] * over
            gap += box.cost[i] * over - a * short
    return 0.5 * norm, loss, gap


@jit
def solve_active(K, beta, lo, hi, g, tol, balanced, steps, work):
    """Minimise over beta: with Σ beta fixed two variables at a time, otherwise one; K is their Gram matrix.

    Each round takes only the variables between their bounds and those that violate the conditions there. A
    step costs as much as it has variables: returns what is left of ``work``, and ends where nothing is.
    """
    n = g.shape[0]
    for _ in range(steps):
        low, high = extremes(beta, lo, hi, g, balanced)
        violation = high - low if balanced else max(high, -low)
        if not violation > tol or not work > 0.0:
            break
        middle = 0.5 * (low + high) if balanced else 0.0
        active = np.empty(n, np.int64)
        m = 0
        for k in range(n):
            grows, shrinks, slope = beta[k] < hi[k], beta[k] > lo[k], g[k] - middle
            worst = max(-slope if grows else 0.0, slope if shrinks else 0.0)
            if (grows and shrinks) or worst > IDLE * violation:
                active[m] = k
                m += 1
        active = active[:m]
        part = K
        if m < n:
            part = np.empty((m, m))
            for i in range(m):
                row = K[active[i]]
                for j in range(m):
                    part[i, j] = row[active[j]]
        box = np.empty((4, m))  # entries of the active variables, side by side
        for i in range(m):
            k = active[i]
            box[0, i], box[1, i], box[2, i], box[3, i] = beta[k], lo[k], hi[k], g[k]
        target, most = max(tol, ACCURACY * violation), int(min(float(steps * m), work / m + 1.0))
        if balanced:
            done = solve_pairs(part, box[0], box[1], box[2], box[3], target, most)
        else:
            done = solve_singles(part, box[0], box[1], box[2], box[3], target, most)
        work -= float(m) * done
        delta = np.empty(m)
        for i in range(m):
            delta[i] = box[0, i] - beta[active[i]]
            beta[active[i]] = box[0, i]
        add_gram_rows(K, active, delta, g)
    return work
