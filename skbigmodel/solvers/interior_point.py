"""Primal-dual interior point for piecewise linear losses: the exact optimum in a dozen or two Newton systems."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotrs

from .. import passes_piecewise as passes
from ..objective import weighted_gram
from ..passes_linear import decision

BACK_OFF = 0.9995  # fraction of the way to the nearest bound
RIDGE = 1e-14  # relative, on the diagonal of a Newton system; its effect is refined away
PATIENCE = 12  # iterations without progress after which rounding is to blame


@dataclass
class State:
    """An iterate: ``theta`` and ``point`` are the same parameters, the latter in the frame's coordinates."""

    theta: np.ndarray
    value: float
    optimality: float
    gap: float
    point: np.ndarray = None
    residual: np.ndarray = None  # Σ m·d·x - l2·w in the frame's coordinates: zero in a solution
    pieces: list = None  # of passes.Pieces: over the rows, then one over the coefficients where the penalty needs it
    z: np.ndarray = None  # raw predictions
    best: float = np.inf  # smallest gap so far
    waited: int = 0  # iterations since
    stalled: bool = False


class Frame(NamedTuple):
    """Coordinates in which columns have mean zero (dense rows with an intercept) and unit scale.

    w = u/scale and b = c - shift·w for the point (u, c): no column has to be scaled by the user.
    """

    shift: np.ndarray
    scale: np.ndarray
    alive: np.ndarray  # columns that vary
    fit_intercept: bool

    @classmethod
    def of(cls, objective, m):
        blocks, p = objective.blocks, objective.n_features

        def mean(block, out):
            passes.add(block.rows, m[block.start : block.stop], out)
            return 0.0

        def squares(block, out):
            weight = m[block.start : block.stop]
            if blocks.sparse:
                rows = block.rows
                each = np.repeat(weight, np.diff(rows.indptr)) * np.square(
                    rows.data[rows.indptr[0] : rows.indptr[-1]], dtype=float
                )
                out += np.bincount(rows.indices[rows.indptr[0] : rows.indptr[-1]], each, p)
            else:
                out += weight @ np.square(block.rows.X - shift)
            return 0.0

        centred = objective.fit_intercept and not blocks.sparse
        shift = blocks.total(mean, p)[1] if centred else np.zeros(p)
        scale = np.sqrt(blocks.total(squares, p)[1])
        alive = scale > 1e-14 * np.abs(shift)
        return cls(shift, np.where(alive, scale, 1.0), alive, objective.fit_intercept)

    def theta(self, point):
        """Parameters as the user knows them."""
        p = len(self.scale)
        theta = point.copy()
        theta[:p] /= self.scale
        if self.fit_intercept:
            theta[p] -= self.shift @ theta[:p]
        return theta

    def point(self, theta):
        """The inverse of :meth:`theta`."""
        p = len(self.scale)
        point = theta.astype(np.float64)
        if self.fit_intercept:
            point[p] += self.shift @ point[:p]
        point[:p] *= self.scale
        point[:p][~self.alive] = 0.0
        return point

    def pulled(self, out, total):
        """Gradient in the point, from Σ g·x and Σ g."""
        grad = np.where(self.alive, (out - self.shift * total) / self.scale, 0.0)
        return np.append(grad, total) if self.fit_intercept else grad

    def raw(self, grad):
        """A gradient in the point as a gradient in theta."""
        p = len(self.scale)
        raw = grad.copy()
        raw[:p] *= self.scale
        if self.fit_intercept:
            raw[:p] += self.shift * grad[p]
        return raw


class NormalEquations:
    """The Newton system (GᵀQG + D) x = r, factorised; ``D`` is diagonal and zero at the intercept."""

    def __init__(self, H, diagonal):
        self.H = np.tril(H) + np.tril(H, -1).T
        index = np.diag_indices(len(H))
        self.H[index] += diagonal
        dead = self.H[index] <= 0.0
        self.H[index] = np.where(dead, 1.0, self.H[index])
        self.scale = 1.0 / np.sqrt(self.H[index])
        A = self.H * self.scale * self.scale[:, None]
        ridge = RIDGE
        while True:
            B = A.copy()
            B[index] += ridge
            self.factor, failed = dpotrf(B, lower=1, overwrite_a=1, clean=0)
            if not failed:
                break
            ridge *= 100
        self.A = A

    def _precondition(self, r):
        return dpotrs(self.factor, r, lower=1)[0]

    def solve(self, r):
        """Conjugate gradients, preconditioned by the factor: they undo what the ridge and rounding did."""
        r = r * self.scale
        x = self._precondition(r)
        left = r - self.A @ x
        goal = 1e-15 * np.linalg.norm(r)
        best, best_norm = x, np.linalg.norm(left)
        s = self._precondition(left)
        direction, rho = s, left @ s
        for _ in range(12):
            if best_norm <= goal or not rho > 0:
                break
            Ad = self.A @ direction
            curve = direction @ Ad
            if not curve > 0:
                break
            x = x + rho / curve * direction
            left = left - rho / curve * Ad
            norm = np.linalg.norm(left)
            if norm >= 0.5*best_norm:
                break
            best, best_norm = x, norm
            s = self._precondition(left)
            rho, before = left @ s, rho
            direction = s + rho / before * direction
        return best * self.scale


def pieces_of(loss):
    """(offset of the target, lo, hi) of the pieces of a piecewise linear loss."""
    above, below, half_width = loss.slopes()
    if half_width == 0.0:
        return [(0.0, -below, above)]
    return [(-half_width, 0.0, above), (half_width, -below, 0.0)]


class InteriorPoint:
    name = "interior-point"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.tol = objective, settings.tol
        blocks, p = objective.blocks, objective.n_features
        n = blocks.n_rows
        self.m = np.full(n, 1.0 / blocks.weight) if blocks.s is None else blocks.s / blocks.weight
        self.frame = Frame.of(objective, self.m)
        self.ridge = np.zeros(objective.n_params)
        self.ridge[:p] = objective.penalty.l2 / self.frame.scale**2
        self.pieces = pieces_of(objective.loss)

    @staticmethod
    def refusal(objective):
        if not hasattr(objective.loss, "slopes"):
            return "the loss is not piecewise linear"
        return None

    # -- start ---
    def init(self, theta):
        value, _ = self.objective.value_grad(theta)
        state = State(theta, value, np.inf, np.inf)
        point = self.frame.point(theta)
        guess = self._least_squares()
        if self.objective.value_grad(self.frame.theta(guess))[0] < value:
            point = guess
        self._start(state, point)
        return state

    def _gram(self, Q):
        def weights(block, start, stop, d):
            d[: stop - start] = Q[block.start + start : block.start + stop]

        frame = self.frame
        H = weighted_gram(self.objective.blocks, weights, frame.shift, frame.fit_intercept)
        unit = np.append(1.0 / frame.scale * frame.alive, np.ones(int(frame.fit_intercept)))
        return H * unit * unit[:, None]

    def _least_squares(self):
        y = np.empty(self.objective.blocks.n_rows)
        for block in self.objective.blocks.blocks:
            y[block.start : block.stop] = block.y
        self.y = y
        self.size = self.m @ np.abs(y - np.median(y)) + 1e-300
        return NormalEquations(self._gram(self.m), self.ridge).solve(self._pull(self.m * y))

    def _pull(self, g):
        def add(block, out):
            part = g[block.start : block.stop]
            passes.add(block.rows, part, out)
            return part.sum()

        total, out = self.objective.blocks.total(add, self.objective.n_features)
        return self.frame.pulled(out, total)

    def _push(self, direction):
        theta, z = self.frame.theta(direction), np.empty(self.objective.blocks.n_rows)
        self.objective.blocks.map(
            lambda block: decision(block.rows, theta, self.frame.fit_intercept, z[block.start : block.stop])
        )
        return z

    def _start(self, state, point):
        obj, n, p = self.objective, self.objective.blocks.n_rows, self.objective.n_features
        if obj.penalty.positive:
            point[:p] = np.maximum(point[:p], FLOOR * self.size)
        z = self._push(point)
        if QS and self.frame.fit_intercept:
            a,b,_=obj.loss.slopes(); sh=np.quantile(self.y-z, a/(a+b)); z=z+sh; point[-1]+=sh
        size = self.m @ np.abs(self.y - z)
        if size == 0.0: size = max(self.m @ np.abs(self.y), 1e-30) * 1e-8
        state.pieces = []
        mu = KAPPA * size * max(hi - lo for _, lo, hi in self.pieces)
        for offset, lo, hi in self.pieces:
            piece = passes.Pieces(self.y + offset, self.m, *(np.zeros(n) for _ in range(9)))
            passes.look(piece, z)
            passes.centre(piece, np.full(n, lo), np.full(n, hi), mu)
            state.pieces.append(piece)
        pen = obj.penalty
        if pen.l1 > 0 or pen.positive:
            lo = -pen.l1 / self.frame.scale * n
            hi = -lo
            if pen.positive:
                steepest = max(max(-a, b) for _, a, b in self.pieces)
                hi = np.maximum(0,-2*lo) + 2.0 * steepest * n
                hi = hi
            piece = passes.Pieces(np.zeros(p), np.full(p, 1.0 / n), *(np.zeros(p) for _ in range(9)))
            passes.look(piece, point[:p])
            passes.centre(piece, lo, hi, mu)
            state.pieces.append(piece)
        state.point = point
        self._evaluate(state, np.abs(point), count=False)

    def _all(self, state, z, point):
        K = len(self.pieces)
        return [(piece, z if k < K else point[: self.objective.n_features]) for k, piece in enumerate(state.pieces)]

    def _each(self, state, function, *vectors):
        """function(piece slice, *vector slices)"""
        K, p = len(self.pieces), self.objective.n_features
        bounds = [(b.start, b.stop) for b in self.objective.blocks.blocks]

        def rows(block):
            a, b = block.start, block.stop
            return [function(piece.cut(a, b), *(v[0][a:b] for v in vectors)) for piece in state.pieces[:K]]

        parts = [x for part in self.objective.blocks.map(rows) for x in part]
        for piece in state.pieces[K:]:
            parts.append(function(piece, *(v[1][:p] for v in vectors)))
        return parts

    # -- iteration
    def advance(self, state):
        obj, p, n = self.objective, self.objective.n_features, self.objective.blocks.n_rows
        # 1
        Q = (np.zeros(n), np.zeros(p))
        self._each(state, passes.stiffness, Q)
        D = self.ridge.copy()
        D[:p] += Q[1]
        system = NormalEquations(self._gram(Q[0]), D)
        # 2
        direction, primal, dual = self._direction(state, system, 0.0, 0.0)
        # 3
        weight = sum(piece.m.sum() for piece in state.pieces) * 2
        now = sum(self._each(state, lambda piece: passes.complementarity(piece, 0.0, 0.0)))
        then = sum(self._each(state, lambda piece: passes.complementarity(piece, primal, dual)))
        mu = (then / now) ** 3 * now / weight
        # 4
        direction, primal, dual = self._direction(state, system, mu, BEND(primal,dual))
        # 5
        self._each(state, lambda piece: passes.step(piece, primal, dual))
        state.point = state.point + primal * direction
        if DEBUG: print(f"mu {now/weight:.2e} sigma {(then/now)**3:.1e} steps {primal:.3f} {dual:.3f}", end=" ")
        self._snap(state)
        self._evaluate(state, np.abs(direction))

    def _direction(self, state, system, mu, bend):
        n, p = self.objective.blocks.n_rows, self.objective.n_features
        g = (np.zeros(n), np.zeros(p))
        self._each(state, lambda piece, g: passes.pull(piece, mu, bend, g), g)
        r = self._pull(g[0]) + state.residual
        r[:p] += g[1]
        direction = system.solve(r)
        dz = (self._push(direction), direction)
        limits = self._each(state, lambda piece, dz: passes.aim(piece, dz, mu, bend), dz)
        primal, dual = (BACK_OFF / max(BACK_OFF, max(part)) for part in zip(*limits))
        if self.objective.penalty.l2 > 0:
            primal = dual = min(primal, dual)
        return direction, primal, dual

    def _snap(self, state):
        K, p = len(self.pieces), self.objective.n_features
        for piece in state.pieces[K:]:
            width = piece.p + piece.q
            near = np.minimum(piece.p, piece.q) / width
            size = np.maximum(piece.u, piece.v) / self.size
            zero = (size < 1e-3 * near) 
            state.point[:p][zero] = 0.0
            if self.objective.penalty.positive:
                np.maximum(state.point[:p], 0.0, out=state.point[:p])

    def _evaluate(self, state, uncertain, count=True):
        obj, p, n = self.objective, self.objective.n_features, self.objective.blocks.n_rows
        theta = self.frame.theta(state.point)
        d = sum(piece.m * piece.d for piece in state.pieces[: len(self.pieces)])
        z = np.empty(n)
        b = theta[-1] if self.frame.fit_intercept else 0.0

        def both(block, out):
            a, c = block.start, block.stop
            passes.predict_and_add(block.rows, theta, b, d[a:c], z[a:c], out)
            return d[a:c].sum()

        total, out = obj.blocks.total(both, p)
        residual = self.frame.pulled(out, total) - self.ridge * state.point
        for piece in state.pieces[len(self.pieces):]:
            residual[:p] += piece.m * piece.d
        state.z, state.residual = z, residual
        if count:
            state.theta, state.value = theta, obj.value_grad(theta)[0]
        state.optimality = np.abs(self.frame.raw(residual)).max()
        comp = sum(self._each(state, passes.look, (z, state.point)))
        state.gap = comp + np.abs(residual) @ uncertain
        noise = self._noise(theta)
        if DEBUG: print(f"F {state.value:.15g} comp {comp:.2e} rd {np.abs(residual).max():.1e} extra {state.gap-comp:.1e} noise {noise:.1e}")
        if state.gap <= noise:
            state.gap = 0.0
        now = np.array([state.gap, state.optimality])
        state.waited = 0 if (now < 0.9 * state.best).any() else state.waited + 1
        state.best = np.minimum(state.best, now)
        state.stalled = state.waited >= PATIENCE

    def _noise(self, theta):
        p = self.objective.n_features
        steepest = max(max(-a, b) for _, a, b in self.pieces)
        size = self.m @ np.abs(self.y) + np.abs(theta[:p]) @ (np.abs(self.frame.shift) + self.frame.scale)
        return 2.2e-16 * steepest * (size + (abs(theta[-1]) if self.frame.fit_intercept else 0.0))

DEBUG = False
FLOOR = 0.01
KAPPA = 1.0
BEND=lambda a,b: 1.0 if min(a,b)>.2 else (a*b)**.5
QS=0
