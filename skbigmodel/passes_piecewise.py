"""Jitted passes of the interior-point solver over bounded dual variables.

A piecewise linear function of e = target - z is a sum of pieces max(lo·e, hi·e), lo <= hi, and each of
those is the maximum of d·e over a dual variable lo <= d <= hi. A piece belongs to one row of the data or to
one coefficient; all passes but the last are elementwise. ``mu`` is the complementarity aimed at, ``bend``
the share of the second-order term.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit, part
from .rows import add_run, dot_run, n_rows

RUN = 256  # rows whose predictions are kept at a time: they stay in the first-level cache


class Pieces(NamedTuple):
    """Pieces, one an entry: constants, the primal-dual point and its direction, in as few numbers as will do.

    In a solution e = u - v, u·(hi - d) = 0 and v·(d - lo) = 0. Of d its distance to the nearer bound is kept,
    since near a bound its digits would be lost in a difference; e is kept, since where it is tiny two passes
    that round it differently would contradict each other. The directions of u and v follow from the rest.
    """

    m: np.ndarray  # weight, a single one if all have the same; 0 switches a piece off
    width: np.ndarray  # hi - lo, a single one if all have the same
    e: np.ndarray  # once all directions are known, that of d takes its place until ``look``
    u: np.ndarray  # positive part of e
    v: np.ndarray  # negative part of e
    slack: np.ndarray  # hi - d if that is the nearer bound, else lo - d
    # direction of d that was predicted, per unit of width: float32, for second-order terms alone
    dd: np.ndarray

    def cut(self, start, stop):
        """Entries start to stop, sharing memory."""
        constants = (array[start:stop] if len(array) > 1 else array for array in self[:2])
        return Pieces(*constants, *(array[start:stop] for array in self[2:]))

    def duals(self, lo, hi):
        """d."""
        return np.where(self.slack > 0.0, hi, lo) - self.slack

    def distances(self):
        """(hi - d, d - lo)."""
        near = np.abs(self.slack)
        far, above = self.width - near, self.slack > 0.0
        return np.where(above, near, far), np.where(above, far, near)


def make_pieces(n, m, width):
    """Pieces of that ``hi - lo``, without a point yet."""
    width = width[:1].copy() if (width == width[0]).all() else width
    return Pieces(m, width, *(np.zeros(n) for _ in Pieces._fields[2:-1]), np.zeros(n, np.float32))


@part
def constant(values, i):
    """That of an entry, where a single one may stand for all."""
    return values[i] if values.shape[0] > 1 else values[0]


@part
def distances(pieces, i):
    """hi - d and d - lo."""
    slack = pieces.slack[i]
    far = constant(pieces.width, i) - abs(slack)
    return (slack, far) if slack > 0.0 else (far, -slack)


@part
def predicted(pieces, i):
    """Direction of d."""
    return pieces.dd[i] * constant(pieces.width, i)


@part
def forces(pieces, i, mu, bend):
    """What u and v would be at the bounds' distances of now: ``mu`` and the second-order term over those."""
    p, q = distances(pieces, i)
    dd = predicted(pieces, i)
    above = (mu + bend * dd * pieces.u[i] * (dd / p - 1.0)) / p
    below = (mu + bend * dd * pieces.v[i] * (dd / q + 1.0)) / q
    return above, below


@jit
def look(pieces, target, z):
    """Set e = target - z; return Σ m·(max(lo·e, hi·e) - d·e), never negative: the pieces' duality gap."""
    total = 0.0
    for i in range(z.shape[0]):
        pieces.e[i] = target[i] - z[i]
    for i in range(z.shape[0]):  # apart from the loop that stores: see passes_linear
        e = pieces.e[i]
        p, q = distances(pieces, i)
        total += constant(pieces.m, i) * (p * max(e, 0.0) + q * max(-e, 0.0))
    return total


@jit
def centre(pieces, mu):
    """Put the point where u·(hi - d) = v·(d - lo) = ``mu`` and u - v = e."""
    for i in range(pieces.e.shape[0]):
        half, e = 0.5 * constant(pieces.width, i), pieces.e[i]
        root = np.sqrt(mu * mu + (e * half) ** 2)
        far = half + abs(e) * half * half / (mu + root)
        near = 2.0 * mu * half * half / ((mu + root) * far)  # 2·half - far, without cancellation
        pieces.slack[i] = near if e > 0.0 else -near
        pieces.u[i] = mu / (near if e > 0.0 else far)
        pieces.v[i] = mu / (far if e > 0.0 else near)


@jit
def stiffness(pieces, Q):
    """Add to ``Q`` the weight that each piece gets in the Newton system."""
    for i in range(pieces.e.shape[0]):
        p, q = distances(pieces, i)
        Q[i] += constant(pieces.m, i) / (pieces.u[i] / p + pieces.v[i] / q)


@jit
def pull(pieces, mu, bend, g):
    """Add to ``g`` the change of m·d that each piece would make if z stood still."""
    for i in range(pieces.e.shape[0]):
        p, q = distances(pieces, i)
        above, below = forces(pieces, i, mu, bend)
        lacking = pieces.e[i] + below - above
        g[i] += constant(pieces.m, i) * lacking / (pieces.u[i] / p + pieces.v[i] / q)


@jit
def aim(pieces, dz, mu, bend, final):
    """Put the direction for the change ``dz`` of z; return what limits the steps of (u, v) and of d.

    Those are the reciprocals of the longest steps. The second-order term is made of the predicted direction;
    the ``final`` one takes the place of e.
    """
    primal, dual = 0.0, 0.0
    for i in range(pieces.e.shape[0]):
        u, v = pieces.u[i], pieces.v[i]
        p, q = distances(pieces, i)
        above, below = forces(pieces, i, mu, bend)
        dd = (pieces.e[i] + below - above - dz[i]) / (u / p + v / q)
        by_u, by_v = 1.0 - above / u - dd / p, 1.0 - below / v + dd / q
        if constant(pieces.m, i) == 0.0:
            dd = by_u = by_v = 0.0
        if final:
            pieces.e[i] = dd
        else:
            pieces.dd[i] = dd / constant(pieces.width, i)
        primal = max(primal, max(by_u, by_v))
        dual = max(dual, max(dd / p, -dd / q))
    return primal, dual


@jit
def complementarity(pieces, primal, dual):
    """Σ m·(u·(hi - d) + v·(d - lo)) after steps of those lengths in the predicted direction."""
    total = 0.0
    for i in range(pieces.e.shape[0]):
        p, q = distances(pieces, i)
        dd = predicted(pieces, i)
        u = pieces.u[i] * (1.0 + primal * (dd / p - 1.0))
        v = pieces.v[i] * (1.0 - primal * (dd / q + 1.0))
        total += constant(pieces.m, i) * (u * (p - dual * dd) + v * (q + dual * dd))
    return total


@jit
def step(pieces, mu, bend, primal, dual):
    """Go those lengths in the final direction, and forget it."""
    for i in range(pieces.e.shape[0]):
        u, v, dd = pieces.u[i], pieces.v[i], pieces.e[i]
        p, q = distances(pieces, i)
        above, below = forces(pieces, i, mu, bend)
        if constant(pieces.m, i) > 0.0:
            pieces.u[i] = u + primal * (above - u + u / p * dd)
            pieces.v[i] = v + primal * (below - v - v / q * dd)
        slack, width = pieces.slack[i] - dual * dd, constant(pieces.width, i)
        if abs(slack) > 0.5 * width:  # the other bound is nearer now
            slack = slack - width if slack > 0.0 else slack + width
        pieces.slack[i], pieces.dd[i] = slack, 0.0


@jit
def predict_and_add(rows, theta, intercept, g, z, out):
    """z = raw predictions (n_rows,), and add Xᵀ·g to ``out``: one read of the rows."""
    for start in range(0, n_rows(rows), RUN):
        stop = min(start + RUN, n_rows(rows))
        dot_run(rows, start, stop, theta, intercept, z[start:stop])
        add_run(rows, start, stop, g[start:stop], out)
