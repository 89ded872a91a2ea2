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
    """Pieces, one an entry: constants, the primal-dual point and its direction.

    In a solution e = u - v, u·p = 0 and v·q = 0. The slacks p and q are kept beside d, since near a bound
    their digits would be lost in a difference; e is kept, since where it is tiny two passes that round it
    differently would contradict each other.
    """

    m: np.ndarray  # weight, a single one if all have the same; 0 switches a piece off
    e: np.ndarray
    d: np.ndarray
    u: np.ndarray  # positive part of e
    v: np.ndarray  # negative part of e
    p: np.ndarray  # hi - d
    q: np.ndarray  # d - lo
    dd: np.ndarray  # direction of d, hence of -p and q
    du: np.ndarray
    dv: np.ndarray

    def cut(self, start, stop):
        """Entries start to stop, sharing memory."""
        m = self.m[start:stop] if len(self.m) > 1 else self.m
        return Pieces(m, *(array[start:stop] for array in self[1:]))


def make_pieces(n, m):
    """Pieces without a point yet."""
    return Pieces(m, *(np.zeros(n) for _ in Pieces._fields[1:]))


@part
def weight(pieces, i):
    return pieces.m[i] if pieces.m.shape[0] > 1 else pieces.m[0]


@jit
def look(pieces, target, z):
    """Set e = target - z; return Σ m·(max(lo·e, hi·e) - d·e), never negative: the pieces' duality gap."""
    total = 0.0
    for i in range(z.shape[0]):
        pieces.e[i] = target[i] - z[i]
    for i in range(z.shape[0]):  # apart from the loop that stores: see passes_linear
        e = pieces.e[i]
        total += weight(pieces, i) * (pieces.p[i] * max(e, 0.0) + pieces.q[i] * max(-e, 0.0))
    return total


@jit
def centre(pieces, lo, hi, mu):
    """Put the point where u·p = v·q = ``mu`` and u - v = e."""
    for i in range(lo.shape[0]):
        half, e = 0.5 * (hi[i] - lo[i]), pieces.e[i]
        root = np.sqrt(mu * mu + (e * half) ** 2)
        far = half + abs(e) * half * half / (mu + root)
        near = 2.0 * mu * half * half / ((mu + root) * far)  # 2·half - far, without cancellation
        if e > 0.0:
            pieces.p[i], pieces.q[i], pieces.d[i] = near, far, hi[i] - near
        else:
            pieces.p[i], pieces.q[i], pieces.d[i] = far, near, lo[i] + near
        pieces.u[i], pieces.v[i] = mu / pieces.p[i], mu / pieces.q[i]


@jit
def stiffness(pieces, Q):
    """Add to ``Q`` the weight that each piece gets in the Newton system."""
    for i in range(pieces.e.shape[0]):
        Q[i] += weight(pieces, i) / (pieces.u[i] / pieces.p[i] + pieces.v[i] / pieces.q[i])


@jit
def pull(pieces, mu, bend, g):
    """Add to ``g`` the change of m·d that each piece would make if z stood still."""
    for i in range(pieces.e.shape[0]):
        p, q = pieces.p[i], pieces.q[i]
        above = (mu + bend * pieces.dd[i] * pieces.du[i]) / p
        below = (mu - bend * pieces.dd[i] * pieces.dv[i]) / q
        g[i] += weight(pieces, i) * (pieces.e[i] + below - above) / (pieces.u[i] / p + pieces.v[i] / q)


@jit
def aim(pieces, dz, mu, bend):
    """Put the direction for the change ``dz`` of z; return what limits the steps of (u, v) and of (p, q).

    Those are the reciprocals of the longest steps. The second-order term is made of the direction that was
    there before.
    """
    primal, dual = 0.0, 0.0
    for i in range(pieces.e.shape[0]):
        u, v, p, q = pieces.u[i], pieces.v[i], pieces.p[i], pieces.q[i]
        above = (mu + bend * pieces.dd[i] * pieces.du[i]) / p
        below = (mu - bend * pieces.dd[i] * pieces.dv[i]) / q
        dd = (pieces.e[i] + below - above - dz[i]) / (u / p + v / q)
        du, dv = above - u + u / p * dd, below - v - v / q * dd
        if weight(pieces, i) == 0.0:
            dd = du = dv = 0.0
        pieces.dd[i], pieces.du[i], pieces.dv[i] = dd, du, dv
        primal = max(primal, max(-du / u, -dv / v))
        dual = max(dual, max(dd / p, -dd / q))
    return primal, dual


@jit
def complementarity(pieces, primal, dual):
    """Σ m·(u·p + v·q) after steps of those lengths."""
    total = 0.0
    for i in range(pieces.e.shape[0]):
        u, v = pieces.u[i] + primal * pieces.du[i], pieces.v[i] + primal * pieces.dv[i]
        p, q = pieces.p[i] - dual * pieces.dd[i], pieces.q[i] + dual * pieces.dd[i]
        total += weight(pieces, i) * (u * p + v * q)
    return total


@jit
def step(pieces, primal, dual):
    """Go those lengths, and forget the direction."""
    for i in range(pieces.e.shape[0]):
        pieces.u[i] += primal * pieces.du[i]
        pieces.v[i] += primal * pieces.dv[i]
        pieces.p[i] -= dual * pieces.dd[i]
        pieces.q[i] += dual * pieces.dd[i]
        pieces.d[i] += dual * pieces.dd[i]
        pieces.dd[i] = pieces.du[i] = pieces.dv[i] = 0.0


@jit
def predict_and_add(rows, theta, intercept, g, z, out):
    """z = raw predictions (n_rows,), and add Xᵀ·g to ``out``: one read of the rows."""
    for start in range(0, n_rows(rows), RUN):
        stop = min(start + RUN, n_rows(rows))
        dot_run(rows, start, stop, theta, intercept, z[start:stop])
        add_run(rows, start, stop, g[start:stop], out)
