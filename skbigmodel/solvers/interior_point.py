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

Few rows may need none of this: ``few_rows`` solves most such problems, or step 6 from where it ends.

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
from functools import cached_property, partial
from operator import add

import numpy as np

from .. import passes_piecewise as passes
from ..sums import add_sums
from ..validation import NotFinite
from .coordinates import Coordinates
from .crossover import Guess, Point, cross_over, is_free
from .few_rows import are_few, solve
from .normal_equations import ColumnSystem, RowSystem
from .pieces import Facts, PieceModel, complementarity, pulls, size_of_errors, stiffness

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
    rows: list  # kept by the blocks: Pieces of their rows
    coefs: list  # Pieces of the coefficients: one or none of them
    residual: np.ndarray | None = None  # Σ m·d·x - l2·w in those coordinates
    optimality: float = np.inf
    gap: float = np.inf
    best_gap: float = np.inf
    best_optimality: float = np.inf
    waited: int = 0  # iterations without a new best
    stalled: bool = False
    n_at_kink: int = 0  # rows that seemed to lie there, at the last look
    # of the exact solution: rows at the kink, their dual variables, and the sides of all rows
    exact: tuple | None = None

    def duals(self, objective):
        """Dual variables of all rows per unit of weight; ``None`` where the solution is not exact."""
        if self.exact is None:
            return None
        blocks, (index, d, sides) = objective.blocks, self.exact
        model = PieceModel(objective.loss, blocks.weight, objective.fit_intercept)
        point = Point(model, objective.n_params, self.theta, index, d, 0.0, 0)
        return np.concatenate(blocks.map(point.duals, sides, rows=False))


class InteriorPoint:
    """Piecewise linear losses with any penalty."""

    name = "interior-point"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.coordinates = objective, Coordinates(objective)
        self.tol, blocks = settings.tol, objective.blocks
        self.ridge = objective.curvature_of_penalty() * self.coordinates.scale**2
        self.model = PieceModel(objective.loss, blocks.weight, objective.fit_intercept)
        self.facts = blocks.reduce(self.model.facts, Facts.joined, rows=False)
        self.size, self.steepest = self.facts.size / self.facts.m or 1.0, self.facts.steepest
        smooth = objective.penalty.smooth and objective.penalty.l2 > 0
        self.exact = self.facts.n_pieces == 1 and smooth
        self.system = ColumnSystem if blocks.n_rows >= objective.n_features else RowSystem

    @cached_property
    def spread(self):
        """Mean distance of the targets from their mean."""
        mean = partial(self.model.deviation, self.facts.mean / self.facts.m)
        deviation = self.objective.blocks.reduce(mean, add, rows=False) / self.facts.m
        return max(deviation, 1e-8 * self.facts.size / self.facts.m) or 1.0

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        blocks = objective.blocks
        if not hasattr(objective.loss, "pieces"):
            return "it takes piecewise linear losses only"
        if blocks.remote and blocks.n_rows < blocks.n_features:
            return "with more columns than rows it needs the rows themselves, which lie on a cluster"
        return None

    # -- the first point

    def init(self, theta):
        """A point with equal complementarity, at ``theta`` or at the least-squares fit if that is better."""
        objective, p = self.objective, self.objective.n_features
        value, _ = objective.value_grad(theta)
        if not np.isfinite(value):
            raise NotFinite
        point = self.coordinates.enter(theta.astype(np.float64))
        if self.exact and are_few(objective.blocks):
            state = State(theta, value, point, [], [])
            if self._solved(state):
                return state
        if self.system is ColumnSystem:
            fit = self._least_squares()
            if objective.value_grad(self.coordinates.leave(fit))[0] < value:
                point = fit
        if objective.penalty.positive:
            point[:p] = np.maximum(point[:p], FLOOR * self.spread)
        state = State(theta, value, point, objective.blocks.keep(self.model.pieces, rows=False), [])
        if not objective.penalty.smooth:
            m = np.full(p, 1.0 / self.facts.n_counting)  # as much as a row has
            lo, hi = self._bounds(m)
            state.coefs = [passes.make_pieces(p, m, hi - lo)]
        self._look(state)
        self._centre(state)
        self._measure(state, self._look(state), np.abs(point))
        state.value = value
        return state

    def _solved(self, state):
        """Whether the problem of few rows was solved otherwise; the state is then its solution."""
        blocks = self.objective.blocks
        rows = [np.concatenate(parts) for parts in zip(*blocks.map(self.model.one, rows=False), strict=True)]
        found = solve(self.objective, *rows)
        if found is None:
            return False
        d, at_kink, intercept = found
        guess = Guess(self.model, d, at_kink)
        if intercept is not None or not is_free(self.objective):
            self._take(state, guess.solution(self.objective, intercept))
        if not self._is_exact(state):
            self._take(state, guess.cross_over(self.objective, self._size()))
        return self._is_exact(state)

    def _is_exact(self, state):
        return state.exact is not None and state.gap == 0.0 and state.optimality <= self.tol

    def _least_squares(self):
        system = ColumnSystem(self.objective, self.coordinates, self.model.row_weights, self.ridge)
        raw = self.objective.blocks.total(self.model.weighted_targets, self.objective.n_params)[1]
        return system.solve(self.coordinates.pull(raw), None, 0.0)

    def _centre(self, state):
        """Dual variables and slacks for the point."""
        blocks = self.objective.blocks
        size = blocks.reduce(size_of_errors, add, state.rows, rows=False)
        mu = max(size, 1e-8 * self.spread) * self.facts.widest
        state.rows, _ = blocks.renew(partial(self.model.centre, mu), add, state.rows, rows=False)
        for pieces in state.coefs:
            passes.centre(pieces, mu)

    def _bounds(self, m):
        """lo and hi of the coefficients' pieces, in the solver's coordinates and per unit of their weight."""
        penalty = self.objective.penalty
        l1 = penalty.l1 * self.coordinates.scale[: len(m)] / m
        return -l1, l1 + WALL * self.steepest / m if penalty.positive else l1

    # -- the iteration

    def advance(self, state):
        """One predictor-corrector step; nothing where the problem is solved."""
        if not state.rows:
            return
        blocks, p = self.objective.blocks, self.objective.n_features
        diagonal = self.ridge.copy()
        for part in state.coefs:
            passes.stiffness(part, diagonal[:p])
        system = self.system(self.objective, self.coordinates, stiffness, diagonal, state.rows)  # 1
        _, primal, dual = self._direction(state, system, 0.0, 0.0)  # 2
        lengths = (0.0, 0.0), (primal, dual)
        now, then = blocks.reduce(partial(complementarity, lengths), add, state.rows, rows=False)
        for part in state.coefs:
            now += passes.complementarity(part, *lengths[0])
            then += passes.complementarity(part, *lengths[1])
        weight = self.facts.n_pieces * self.facts.m + sum(part.m.sum() for part in state.coefs)
        mu = (then / now) ** 3 * now / (2.0 * weight)  # 3
        mu = max(mu, ROUNDING * self.steepest * self.spread)
        bend = 1.0 if min(primal, dual) > SHORT else np.sqrt(primal * dual)
        direction, primal, dual = self._direction(state, system, mu, bend, final=True)  # 4
        step = mu, bend, primal, dual
        for part in state.coefs:
            passes.step(part, *step)
        state.point = self._settled(state, state.point + primal * direction)  # 5
        self._measure(state, self._look(state, step), np.abs(direction))
        if self.exact and state.gap <= NEAR * abs(state.value):
            self._cross_over(state)  # 6

    def _cross_over(self, state):
        """Step 6, once no more rows seem to lie at the kink than there are parameters, or always the same."""
        blocks, before = self.objective.blocks, state.n_at_kink
        sides = blocks.keep(partial(self.model.sides, self.spread), state.rows, rows=False)
        at_kink = blocks.map(self.model.kinks, state.rows, sides, rows=False)
        state.n_at_kink = sum(len(index) for index, _ in at_kink)
        if state.n_at_kink <= self.objective.n_params or state.n_at_kink == before:
            self._take(state, cross_over(self.objective, self.model, sides, at_kink, self._size()))

    def _size(self):
        """What is typical of the columns."""
        return np.abs(self.coordinates.mean) + 1.0 / self.coordinates.scale[: self.objective.n_features]

    def _take(self, state, found):
        """Report an exact solution instead of the iterate, which stays what the next step begins with."""
        objective, blocks = self.objective, self.objective.blocks
        if found is None:
            return
        solution, sides = found
        theta = solution.theta
        gap, residual = blocks.reduce(solution.lost, add_sums, sides)
        value, _ = objective.value_grad(theta)
        residual -= objective.penalty_gradient(theta)
        gap += np.abs(self.coordinates.pull(residual)) @ np.abs(self.coordinates.enter(theta))
        if gap < state.gap:
            state.theta, state.value, state.optimality = theta, value, float(np.abs(residual).max())
            state.gap = float(gap) if gap > self._rounding(theta) else 0.0
            state.exact = solution.index, solution.d, sides

    def _direction(self, state, system, mu, bend, final=False):
        """Steps 2 and 4: the direction of the point, and how far it and the dual variables can go."""
        objective, p, r, g = self.objective, self.objective.n_features, state.residual.copy(), None
        pull = partial(self.model.pull, mu, bend)
        pulled = self.coordinates.pull(objective.blocks.total(pull, objective.n_params, state.rows)[1])
        for pieces in state.coefs:
            passes.pull(pieces, mu, bend, r[:p])
        if self.system is RowSystem:
            g = np.concatenate(objective.blocks.map(partial(pulls, mu, bend), state.rows, rows=False))
        direction = system.solve(pulled, g, r)
        aim = partial(self.model.aim, self.coordinates.leave(direction), mu, bend, final)
        state.rows, limits = objective.blocks.renew(aim, np.maximum, state.rows)
        for pieces in state.coefs:
            limits = np.maximum(limits, passes.aim(pieces, direction[:p], mu, bend, final))
        primal, dual = (float(BACK_OFF / max(BACK_OFF, limit)) for limit in limits)
        if self.ridge.any():  # the residual couples the two
            primal = dual = min(primal, dual)
        return direction, primal, dual

    def _settled(self, state, point):
        """The point with exact zeros: in the end a coefficient is zero or its dual variable at a bound."""
        w = point[: self.objective.n_features]
        for pieces in state.coefs:
            inside = np.abs(pieces.slack) / pieces.width
            w[np.maximum(pieces.u, pieces.v) < ZERO * inside * self.spread] = 0.0
        if self.objective.penalty.positive:
            np.maximum(w, 0.0, out=w)
        return point

    # -- what is known of a point

    def _look(self, state, step=None):
        """Set theta, let the rows' pieces take the step, if any, and set their e.

        Returns Σ m·d·x - l2·w, coefficients' pieces included, and the pieces' gap.
        """
        objective, p = self.objective, self.objective.n_features
        theta = state.theta = self.coordinates.leave(state.point)
        look = partial(self.model.look, theta, step)
        state.rows, (gap, raw) = objective.blocks.renew(look, add_sums, state.rows)
        raw = raw - objective.penalty_gradient(theta)
        for pieces in state.coefs:
            gap += passes.look(pieces, np.zeros(p), state.point[:p])
            raw[:p] += pieces.m * pieces.duals(*self._bounds(pieces.m)) / self.coordinates.scale[:p]
        return raw, gap

    def _measure(self, state, seen, uncertain):
        """Everything but the point itself, from what ``_look`` saw.

        ``uncertain`` estimates how far the solution is away.
        """
        raw, gap = seen
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
