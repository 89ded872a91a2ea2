"""A primal-dual interior point method for piecewise linear losses: the exact optimum in a few Newton steps.

The objective is a sum of pieces max(lo·e, hi·e), e = target - z, one or two for each row, plus l2/2·‖w‖². A
coefficient's l1 penalty is a piece too, with z = w, and so is w >= 0: its multiplier cannot exceed the
steepest gradient, so that an infinite wall and a steep enough slope have the same optimum. With a dual
variable d for each piece, the optimality conditions are

    Σ m·d·x = l2·w,    u - v = e,    u·(hi - d) = 0,    v·(d - lo) = 0,    u, v, hi - d, d - lo >= 0

Each iteration

1. forms and factorises the Newton system of these conditions, (GᵀQG + D)·x = …, with a weight Q per row;
2. predicts: the direction straight to the solution, and how far it can be followed;
3. from that chooses the complementarity to aim at (Mehrotra), and less of the second-order term where the
   predictor was stopped early (Colombo and Gondzio);
4. corrects: the direction actually taken, with the same factor, as far as the bounds let it;
5. sets to zero the coefficients whose piece says so, and measures value, residual and duality gap at the new
   point;
6. with an l2 penalty and one piece a row, once the gap is small, crosses over to the exact solution if it can
   (see ``crossover``).

Columns are seen in centred and scaled coordinates, so their units do not matter. For d within its bounds
and any theta,

    F(theta) - F* <= Σ m·(max(lo·e, hi·e) - d·e) + residual·(theta* - theta)

so the gap is known and not guessed; theta* - theta is taken for the last direction.

References
----------
S. Portnoy and R. Koenker, "The Gaussian hare and the Laplacian tortoise: computability of squared-error
versus absolute-error estimators", Statist. Sci. 12 (1997);
S. Mehrotra, "On the implementation of a primal-dual interior point method", SIAM J. Optim. 2 (1992);
M. Colombo and J. Gondzio, "Further development of multiple centrality correctors for interior point
methods", Comput. Optim. Appl. 41 (2008).
"""

from dataclasses import dataclass

import numpy as np

from .. import passes_piecewise as passes
from ..passes_linear import add_weighted, decision
from ..validation import NotFinite
from .coordinates import Coordinates
from .crossover import Rows, cross_over, weighted_sum
from .normal_equations import ColumnSystem, RowSystem

BACK_OFF = 0.9995  # fraction of the way to the nearest bound
SHORT = 0.2  # predictor steps below this cast doubt on the second-order term
FLOOR = 0.01  # first value of a coefficient that must not be negative, in units of the spread of y
WALL = 2.0  # slope of the piece for w >= 0, in units of the steepest gradient there can be
ZERO = 1e-3  # how much nearer to its bound, relatively, the coefficient must be than its dual variable
NEAR = 0.03  # relative gap at which step 6 is tried
ROUNDING = 1e-18  # complementarity, relative to the spread of y, below which nothing is left to gain
PATIENCE = 15  # iterations without progress after which rounding is to blame


@dataclass
class State:
    """An iterate, its dual variables, and what the optimality conditions lack there."""

    theta: np.ndarray
    value: float
    point: np.ndarray  # the parameters in the solver's coordinates
    rows: list  # Pieces of the rows
    coefs: list  # Pieces of the coefficients: one or none of them
    residual: np.ndarray | None = None  # Σ m·d·x - l2·w in those coordinates
    optimality: float = np.inf
    gap: float = np.inf
    best_gap: float = np.inf
    best_optimality: float = np.inf
    waited: int = 0  # iterations without a new best
    stalled: bool = False


class InteriorPoint:
    """Piecewise linear losses with any penalty."""

    name = "interior-point"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.coordinates = objective, Coordinates(objective)
        blocks, p = objective.blocks, objective.n_features
        self.m = (np.ones(blocks.n_rows) if blocks.s is None else blocks.s) / blocks.weight
        self.ridge = objective.curvature_of_penalty() * self.coordinates.scale**2
        pieces, n = objective.loss.pieces(blocks.y), blocks.n_rows
        self.pieces = [[np.broadcast_to(part, n) for part in piece] for piece in pieces]
        self.steepest = max(max(-lo.min(), hi.max()) for _, lo, hi in self.pieces)
        self.widest = max((hi - lo).max() for _, lo, hi in self.pieces)
        self.target = sum(target for target, _, _ in self.pieces) / len(self.pieces)
        size = self.m @ np.abs(self.target)
        self.spread = max(self.m @ np.abs(self.target - self.m @ self.target), 1e-8 * size) or 1.0
        self.size = max(size, self.spread)
        self.exact = len(self.pieces) == 1 and objective.penalty.smooth and objective.penalty.l2 > 0
        self.system = ColumnSystem if blocks.n_rows >= p else RowSystem

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        if objective.blocks.remote:
            return "it keeps its state in one place, and the rows lie on a cluster"
        return None if hasattr(objective.loss, "pieces") else "it takes piecewise linear losses only"

    # -- the first point

    def init(self, theta):
        """A point with equal complementarity, at ``theta`` or at the least-squares fit if that is better."""
        objective, p = self.objective, self.objective.n_features
        value, _ = objective.value_grad(theta)
        if not np.isfinite(value):
            raise NotFinite
        point = self.coordinates.enter(theta.astype(np.float64))
        if self.system is ColumnSystem:
            fit = self._least_squares()
            if objective.value_grad(self.coordinates.leave(fit))[0] < value:
                point = fit
        if objective.penalty.positive:
            point[:p] = np.maximum(point[:p], FLOOR * self.spread)
        rows = [passes.make_pieces(np.array(target), self.m) for target, _, _ in self.pieces]
        state = State(theta, value, point, rows, [])
        if not objective.penalty.smooth:
            weight = np.full(p, 1.0 / np.count_nonzero(self.m))  # as much as a row has
            state.coefs = [passes.make_pieces(np.zeros(p), weight)]
        self._look(state)
        self._centre(state)
        self._measure(state, np.abs(point))
        state.value = value
        return state

    def _least_squares(self):
        def weights(start, stop, Q):
            Q += self.m[start:stop]

        def pull(block, out):
            g = self.m[block.start : block.stop] * self.target[block.start : block.stop]
            return self._add(block, g, out)

        system = ColumnSystem(self.objective, self.coordinates, weights, self.ridge)
        raw = self.objective.blocks.total(pull, self.objective.n_params)[1]
        return system.solve(self.coordinates.pull(raw), None, 0.0)

    def _centre(self, state):
        """Dual variables and slacks for the point."""
        penalty = self.objective.penalty
        size = max(self.m @ np.abs(state.rows[0].e), 1e-8 * self.spread)
        mu = size * self.widest
        for pieces, (_, lo, hi) in zip(state.rows, self.pieces):
            passes.centre(pieces, np.array(lo), np.array(hi), mu)
        for pieces in state.coefs:
            # in the solver's coordinates, and per unit of the pieces' weight
            l1 = penalty.l1 * self.coordinates.scale[: len(pieces.m)] / pieces.m
            hi = l1 + WALL * self.steepest / pieces.m if penalty.positive else l1
            passes.centre(pieces, -l1, hi, mu)

    # -- the iteration

    def advance(self, state):
        """One predictor-corrector step."""
        pieces, p = state.rows + state.coefs, self.objective.n_features
        diagonal = self.ridge.copy()
        for part in state.coefs:
            passes.stiffness(part, diagonal[:p])

        def weights(start, stop, Q):
            for part in state.rows:
                passes.stiffness(part.cut(start, stop), Q)

        system = self.system(self.objective, self.coordinates, weights, diagonal)  # 1
        _, primal, dual = self._direction(state, system, 0.0, 0.0)  # 2
        now = sum(passes.complementarity(part, 0.0, 0.0) for part in pieces)
        then = sum(passes.complementarity(part, primal, dual) for part in pieces)
        mu = (then / now) ** 3 * now / (2.0 * sum(part.m.sum() for part in pieces))  # 3
        mu = max(mu, ROUNDING * self.steepest * self.spread)
        bend = 1.0 if min(primal, dual) > SHORT else np.sqrt(primal * dual)
        direction, primal, dual = self._direction(state, system, mu, bend)  # 4
        for part in pieces:
            passes.step(part, primal, dual)
        state.point = self._settled(state, state.point + primal * direction)  # 5
        self._measure(state, np.abs(direction))
        if self.exact and state.gap <= NEAR * abs(state.value):
            self._cross_over(state)  # 6

    def _cross_over(self, state):
        """Report the exact solution instead of the iterate, which stays what the next step begins with."""
        (pieces,), ((target, lo, hi),) = state.rows, self.pieces
        size = np.abs(self.coordinates.mean) + 1.0 / self.coordinates.scale[: self.objective.n_features]
        at_kink = (pieces.u < pieces.p * self.spread) & (pieces.v < pieces.q * self.spread)
        found = cross_over(self.objective, Rows(target, self.m, lo, hi), pieces.d, at_kink, size)
        if found is None:
            return
        theta, e, d = found
        value, _ = self.objective.value_grad(theta)
        residual = weighted_sum(self.objective, self.m * d) - self.objective.penalty_gradient(theta)
        gap = self.m @ (np.maximum(lo * e, hi * e) - d * e)
        gap += np.abs(self.coordinates.pull(residual)) @ np.abs(self.coordinates.enter(theta))
        if gap < state.gap:
            state.theta, state.value, state.optimality = theta, value, float(np.abs(residual).max())
            state.gap = float(gap) if gap > self._rounding(theta) else 0.0

    def _direction(self, state, system, mu, bend):
        """Steps 2 and 4: the direction of the point, and how far it and the dual variables can go."""
        objective, p = self.objective, self.objective.n_features
        g, r = np.zeros(objective.blocks.n_rows), state.residual.copy()

        def pull(block, out):
            part = g[block.start : block.stop]
            for pieces in state.rows:
                passes.pull(pieces.cut(block.start, block.stop), mu, bend, part)
            return self._add(block, part, out)

        def aim(block):
            dz = np.empty(block.stop - block.start)
            decision(block.rows, theta, objective.fit_intercept, dz)
            return [passes.aim(pieces.cut(block.start, block.stop), dz, mu, bend) for pieces in state.rows]

        pulled = self.coordinates.pull(objective.blocks.total(pull, objective.n_params)[1])
        for pieces in state.coefs:
            passes.pull(pieces, mu, bend, r[:p])
        direction = system.solve(pulled, g, r)
        theta = self.coordinates.leave(direction)
        limits = sum(objective.blocks.map(aim), [])
        limits += [passes.aim(pieces, direction[:p], mu, bend) for pieces in state.coefs]
        primal, dual = (BACK_OFF / max(BACK_OFF, *limit) for limit in zip(*limits))
        if self.ridge.any():  # the residual couples the two
            primal = dual = min(primal, dual)
        return direction, primal, dual

    def _add(self, block, g, out):
        """Add Σ g·(x, 1) over the rows of a block to ``out``."""
        add_weighted(block.rows, g, out)
        if self.objective.fit_intercept:
            out[-1] += g.sum()
        return 0.0

    def _settled(self, state, point):
        """The point with exact zeros: in the end a coefficient is zero or its dual variable at a bound."""
        w = point[: self.objective.n_features]
        for pieces in state.coefs:
            inside = np.minimum(pieces.p, pieces.q) / (pieces.p + pieces.q)
            w[np.maximum(pieces.u, pieces.v) < ZERO * inside * self.spread] = 0.0
        if self.objective.penalty.positive:
            np.maximum(w, 0.0, out=w)
        return point

    # -- what is known of a point

    def _look(self, state):
        """Set theta and e; return Σ m·d·x - l2·w, coefficients' pieces included, and the pieces' gap."""
        objective, p = self.objective, self.objective.n_features
        theta = state.theta = self.coordinates.leave(state.point)
        intercept = theta[-1] if objective.fit_intercept else 0.0

        def block_sum(block, out):
            rows = [pieces.cut(block.start, block.stop) for pieces in state.rows]
            d = sum(pieces.m * pieces.d for pieces in rows)
            z = np.empty(len(d))
            passes.predict_and_add(block.rows, theta, intercept, d, z, out)
            if objective.fit_intercept:
                out[-1] += d.sum()
            return sum(passes.look(pieces, z) for pieces in rows)

        gap, raw = objective.blocks.total(block_sum, objective.n_params)
        raw -= objective.penalty_gradient(theta)
        for pieces in state.coefs:
            gap += passes.look(pieces, state.point[:p])
            raw[:p] += pieces.m * pieces.d / self.coordinates.scale[:p]
        return raw, gap

    def _measure(self, state, uncertain):
        """Everything but the point itself; ``uncertain`` estimates how far the solution is away."""
        raw, gap = self._look(state)
        state.value, _ = self.objective.value_grad(state.theta)
        state.residual = self.coordinates.pull(raw)
        state.optimality = float(np.abs(raw).max())
        gap = float(gap + np.abs(state.residual) @ uncertain)
        # predictions are rounded: a gap below what this can do is none, where no more is gained
        noise = self._rounding(state.theta) * (1.0 if state.waited > 1 else 0.01)
        state.gap = gap if gap > noise else 0.0
        state.waited += 1
        if state.gap < 0.9 * state.best_gap or state.optimality < 0.9 * state.best_optimality:
            state.waited = 0
        state.best_gap = min(state.gap, state.best_gap)
        state.best_optimality = min(state.optimality, state.best_optimality)
        state.stalled = state.waited >= PATIENCE

    def _rounding(self, theta):
        """What rounding of the predictions can do to the objective."""
        p = self.objective.n_features
        z = np.abs(theta[:p]) @ (np.abs(self.coordinates.mean) + 1.0 / self.coordinates.scale[:p])
        return np.finfo(np.float64).eps * self.steepest * (self.size + z + np.abs(theta[p:]).sum())
