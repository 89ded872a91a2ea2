"""Coordinate descent in the dual of a margin loss: one bounded variable a row, whose step is a formula.

Each iteration

1. sweeps over the rows in a random order, leaving out those that by their gradient will stay at a bound,
   until the gradient has fallen to a share of what it was;
2. forms the coefficients anew from the dual variables, measures value and duality gap over all rows, and
   takes all of them in again;
3. once the gap is small, goes on to the optimum at once if it can: for the hinge loss by crossing over to the
   exact solution (``crossover``); for its square, where sweeps are slow, by Newton's steps in the
   coefficients, whose products with the Hessian need only the rows with a loss.

A free intercept is the multiplier of the constraint Σ a·t = 0. It is found by the proximal point method: the
sweeps are about an intercept penalised for its distance from a centre, and the centre moves to where they
lead once they are that near to their optimum. What is reported then is feasible: the dual variables of one
class are scaled to meet the constraint, and the intercept is the best for the coefficients.

References
----------
C.-J. Hsieh, K.-W. Chang, C.-J. Lin, S. S. Keerthi and S. Sundararajan, "A dual coordinate descent method for
large-scale linear SVM", ICML (2008); R. T. Rockafellar, "Augmented Lagrangians and applications of the
proximal point algorithm in convex programming", Math. Oper. Res. 1 (1976).
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from .. import passes_dual as passes
from ..passes_linear import add_weighted, decision
from ..passes_stochastic import shuffled
from ..validation import NotFinite
from .coordinates import column_moments
from .crossover import Guess, crossing
from .driver import gap_tolerance
from .line_search import descend
from .newton_cg import conjugate_gradients
from .pieces import PieceModel

NEAR, NEAR_SMOOTH = 0.5, 1e-3  # relative gap at which step 3 is tried
SHARES = 0.01, 0.3  # of the gradient at the last look, between which the next one is taken
NEWTON_STEPS = 5
NEWTON_SHARES = 0.02, 0.1  # of the gradient, between which one of them leaves in its model
MAX_SWEEPS = 30  # between two looks
SETTLED = 0.5  # gradient, in units of the centre's move, below which the centre moves
PATIENCE = 60  # looks without progress after which rounding is to blame


class Point(NamedTuple):
    """Parameters, and the objective's value and gradient there."""

    theta: np.ndarray
    value: float
    grad: np.ndarray


@dataclass
class State:
    """Dual variables, the point they lead to, and what is reported of it."""

    theta: np.ndarray
    value: float
    a: np.ndarray
    point: np.ndarray  # coefficients and intercept of the sweeps
    centre: float  # of a free intercept
    violation: float = np.inf  # largest projected gradient in the last sweep
    gap: float = np.inf
    optimality: float = np.inf  # the gap, too: the gradient of such an iterate is zero
    grad: np.ndarray | None = None  # at theta
    best_gap: float = np.inf
    waited: int = 0
    count: int = 0  # sweeps
    stalled: bool = False
    feasible: np.ndarray | None = None  # the dual variables of theta, where the intercept is free

    def duals(self, objective):
        """Dual variables of all rows per unit of weight, with the signs of the classes."""
        return per_weight(objective.blocks, self.a if self.feasible is None else self.feasible)


class DualCoordinateDescent:
    """Margin losses with an l2 penalty."""

    name = "dual"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.tol = objective, settings.tol
        blocks, penalty = objective.blocks, objective.penalty
        # an order that mixes all rows: where they are sorted by class, sweeps over parts get nowhere
        self.blocks = blocks.wholes()
        self.free = objective.fit_intercept and not penalty.l2_intercept > 0
        cap, bend = objective.loss.dual
        scale, scale_b = 1.0 / penalty.l2, 0.0
        if objective.fit_intercept and not self.free:
            scale_b = 1.0 / penalty.l2_intercept
        self.margin = passes.Margin(cap, bend, scale, scale_b, blocks.weight)
        self.m = (np.ones(blocks.n_rows) if blocks.s is None else blocks.s) / blocks.weight
        self.diag = self._curvatures()
        if self.free:  # as if the intercept's column had the length of a row
            self.margin = self.margin._replace(scale_b=float(self.diag.mean()) or 1.0)
            self.diag += self.margin.scale_b

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        penalty = objective.penalty
        if objective.blocks.remote:
            return "it visits rows one after the other, and they lie on a cluster"
        if not hasattr(objective.loss, "dual"):
            return "it takes margin losses only"
        if not penalty.smooth or not penalty.l2 > 0:
            return "it needs an l2 penalty, and takes no other"
        if objective.fit_intercept and not penalty.l2_intercept > 0 and objective.loss.dual[0] == np.inf:
            return "it takes no squared hinge with an intercept that is not penalised"
        return None

    @cached_property
    def size(self):
        """What is typical of the columns."""
        mean, variance = column_moments(self.objective.blocks)
        return np.abs(mean) + np.sqrt(variance)

    def _curvatures(self):
        diag = np.empty(self.objective.blocks.n_rows)
        self.objective.blocks.map(
            lambda block: passes.curvatures(block.rows, block.s, self.margin, diag[block.start : block.stop])
        )
        return diag

    def init(self, theta):
        """The dual variables that ``theta`` implies."""
        value = self.objective.value_grad(theta)[0] if theta.any() else 0.0
        if not np.isfinite(value) or not np.isfinite(self.diag).all():
            raise NotFinite
        centre = float(theta[-1]) if self.free else 0.0
        a = self._implied(theta) if theta.any() else np.zeros(len(self.m))
        state = State(theta, value, a, theta, centre)
        self._look(state)
        return state

    def _implied(self, theta):
        """Minus the slopes of the loss at ``theta``."""
        objective, loss = self.objective, self.objective.loss
        a = np.empty(len(self.m))

        def of_block(block):
            part = a[block.start : block.stop]
            decision(block.rows, theta, objective.fit_intercept, part)
            passes.implied(block.y, block.s, loss, self.margin, part)

        objective.blocks.map(of_block)
        return a

    # -- the iteration

    def advance(self, state):
        """Sweeps, and a look at where they lead."""
        state.a, state.point = state.a.copy(), state.point.copy()
        order = [np.arange(block.stop - block.start) for block in self.blocks]
        active, bounds = np.array([len(part) for part in order]), np.array([0.0, 0.0, np.inf, -np.inf])
        # the gap falls with the square of the gradient
        share = 0.5 * np.sqrt(gap_tolerance(self.tol) * abs(state.value) / max(state.gap, 1e-300))
        share, before = np.clip(share, *SHARES), state.violation
        for _ in range(MAX_SWEEPS):
            self._sweep(state, order, active, bounds)
            before = before if np.isfinite(before) else state.violation  # nothing was known at the start
            if state.violation <= share * before:
                break
        self._look(state)
        slow = state.violation > share * before
        if self.margin.bend == 0.0 and state.gap <= NEAR * state.value:
            self._cross_over(state)
        elif self.margin.bend > 0.0 and slow and state.gap <= NEAR_SMOOTH * state.value:
            self._take_newton_steps(state)

    def _take_newton_steps(self, state):
        """Step 3 for a smooth loss; nothing changes unless they bring the gap down."""
        objective, goal = self.objective, gap_tolerance(self.tol) * abs(state.value)
        trial, gap = Point(state.theta, state.value, state.grad), self._sure_gap(state.grad)
        for _ in range(NEWTON_STEPS):
            curvatures = objective.curvatures(trial.theta)
            product, metric = (
                partial(objective.hessian_dot, curvatures),
                objective.diagonal_metric(curvatures),
            )
            share = np.clip(0.5 * np.sqrt(goal / max(gap, 1e-300)), *NEWTON_SHARES)
            direction = conjugate_gradients(product, metric.solve, trial.grad, share, 0.0).direction
            found = descend(objective.value_grad, trial, direction, float(trial.grad @ direction))
            if found is None:
                break
            before, trial = gap, Point(*found)
            gap = self._sure_gap(trial.grad)
            if gap <= goal or gap > 0.1 * before:
                break
        if gap < state.gap:
            state.theta, state.value, state.grad = trial
            state.gap, state.optimality = gap, objective.optimality(*trial[::2])
            state.a = self._implied(state.theta)
            state.point = state.theta - state.grad / objective.curvature_of_penalty()  # where a leads

    def _sure_gap(self, grad):
        """The gap between parameters with that gradient and the dual variables that they imply."""
        return 0.5 * float((grad**2 / self.objective.curvature_of_penalty()).sum())

    def _cross_over(self, state):
        """Step 3: the exact solution, if it can be guessed which rows lie at the margin."""
        objective, blocks = self.objective, self.objective.blocks
        model = PieceModel(objective.loss, blocks.weight, objective.fit_intercept)
        at_kink = (state.a > 0.0) & (state.a < self.m)
        found = Guess(model, per_weight(blocks, state.a), at_kink).cross_over(objective, self.size)
        if found is not None:
            point, sides = found
            d = np.concatenate(blocks.map(point.duals, sides, rows=False))
            state.a, state.violation = self.m * np.abs(d), 0.0
            state.centre = float(point.theta[-1]) if self.free else 0.0
            self._look(state)

    def _sweep(self, state, order, active, bounds):
        """Step 1: every row that is active, block by block."""
        state.count += 1
        bounds[:2] = -np.inf, np.inf
        for k in shuffled(len(active), state.count):
            k = int(k)
            if active[k]:
                block = self.blocks[k]
                part = slice(block.start, block.stop)
                change = passes.Sweep(state.a[part], order[k], active[k : k + 1], state.point, bounds)
                key = state.count * 1_048_583 + k
                passes.sweep(block.rows, block.y, block.s, self.margin, self.diag[part], change, key)
        high, low = max(bounds[passes.HIGH], 0.0), min(bounds[passes.LOW], 0.0)
        state.violation = float(high - low)
        bounds[2:] = high or np.inf, low or -np.inf

    # -- step 2

    def _look(self, state):
        """Coefficients from the dual variables, value and gap."""
        objective, a = self.objective, state.a
        state.point, mass = self._lead(a)
        theta = state.point.copy()
        if self.free:
            move = self.margin.scale_b * mass
            if state.violation <= SETTLED * abs(move):
                state.centre += move
            state.point[-1] = state.centre + move
            a = state.feasible = self._feasible(a, mass)
            theta = self._lead(a)[0]
        dual = a.sum() - objective.penalty_value(theta)
        if self.margin.bend > 0.0:
            counts = self.m > 0
            dual -= 0.5 * self.margin.bend * (a[counts] ** 2 / self.m[counts]).sum()
        if self.free:
            theta[-1] = self._best_intercept(theta)
        state.theta = theta
        state.value, state.grad = objective.value_grad(theta)
        state.gap = max(state.value - float(dual), 0.0)
        state.optimality = objective.optimality(theta, state.grad) if objective.loss.smooth else state.gap
        state.waited = 0 if state.gap < state.best_gap else state.waited + 1
        state.best_gap = min(state.gap, state.best_gap)
        state.stalled = state.waited >= PATIENCE

    def _lead(self, a):
        """The parameters that dual variables lead to, a free intercept being 0; and Σ a·t."""
        if not a.any():
            return np.zeros(self.objective.n_params), 0.0
        t_a = (2.0 * self.objective.blocks.y - 1.0) * a
        theta, mass = weighted_sum(self.objective, t_a), float(t_a.sum())
        theta *= self.margin.scale
        if self.objective.fit_intercept:
            theta[-1] = 0.0 if self.free else self.margin.scale_b * mass
        return theta, mass

    def _feasible(self, a, mass):
        """Dual variables with Σ a·t = 0: those of the heavier class scaled down."""
        heavier = (self.objective.blocks.y > 0.5) == (mass > 0)
        total = a[heavier].sum()
        return np.where(heavier, a * (1.0 - abs(mass) / total), a) if total > 0 else a

    def _best_intercept(self, theta):
        """The best intercept for the coefficients; the middle, where several are."""
        y, counts = self.objective.blocks.y, self.m > 0
        e = 2.0 * y - 1.0 - predict(self.objective, theta)
        return theta[-1] + crossing(e[counts], self.m[counts], self.m @ y)


def per_weight(blocks, a):
    """Dual variables per unit of weight, with the signs of the classes."""
    m = (np.ones(blocks.n_rows) if blocks.s is None else blocks.s) / blocks.weight
    return (2.0 * blocks.y - 1.0) * np.divide(a, m, out=np.zeros_like(m), where=m > 0)


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
