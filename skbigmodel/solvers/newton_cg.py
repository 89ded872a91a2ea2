"""Newton's method with conjugate gradients: the Hessian is only ever multiplied with vectors.

1. Minimise the quadratic model at the iterate by preconditioned conjugate gradients: to a share of the
   gradient that shrinks as the optimum nears, or to the gap that is asked for. The directions of the last
   step, along which the Hessian is known, improve the preconditioner (Morales and Nocedal).
2. Take the step, shortened until the objective falls.
3. Estimate the gap left: the energy that the conjugate gradients had still to gain, scaled by how much larger
   the new gradient is than the model's.

References
----------
J. Nocedal and S. J. Wright, "Numerical Optimization", 2nd ed., Springer (2006), chapter 7;
C.-J. Lin, R. C. Weng and S. S. Keerthi, "Trust region Newton method for large-scale logistic regression",
JMLR 9 (2008);
J. L. Morales and J. Nocedal, "Automatic preconditioning by limited memory quasi-Newton updating", SIAM J.
Optim. 10 (2000).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..metrics import RecycledMetric
from .driver import gap_tolerance
from .line_search import descend
from .newton import Newton, restart

MAX_PRODUCTS = 500  # Hessian products per step
METRIC_LIMIT = 1500  # parameters per output up to which a metric may be factorised
GRAM_RATE = 24  # columns whose products with each other cost as much, on BLAS, as a pass for one output
FACTOR_RATE = 0.2  # square of the columns, per row and output, whose factors for several classes cost a pass
SAMPLE_ROWS = 4  # per parameter, at least, in a metric's sample
CHEAP_METRIC = 3.0  # passes
PRECONDITIONER_RIDGE = 1e-9  # keeps rounding in directions that the loss does not see from being magnified
HEAVY_COST = 7.0  # passes, of a metric of the heavy columns of sparse data
MIN_PRODUCTS = 7  # that a metric should save, whatever it costs
KEPT = 24  # conjugate directions that serve the next step's preconditioner ...
KEPT_SHARE = 32  # ... and hold together at most the entries of X divided by this


@dataclass
class State:
    """Iterate with value and gradient, the preconditioner if one is kept, what the stopping test needs."""

    theta: np.ndarray
    value: float
    grad: np.ndarray
    metric: object = None  # None: the Hessian's diagonal, anew in each step
    products: int = 0  # of the last step
    products_due: int = (
        0  # that a metric would have helped: those of all steps without one, or of the last step
    )
    directions: np.ndarray | None = None  # the first of the last step's conjugate directions ...
    changes: np.ndarray | None = None  # ... and the Hessian times each
    first_norm: float = 0.0  # of the gradient in the metric, at the start
    gap: float = np.inf
    optimality: float = np.inf
    stalled: bool = False


class NewtonCG:
    """Smooth objectives of any size."""

    name = "newton-cg"
    State = State
    refusal = staticmethod(Newton.needs)

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings
        n_rows, size, K = objective.blocks.n_rows, objective.metric_size, objective.n_outputs
        self.sample_step = max(1, n_rows // max(SAMPLE_ROWS * size, 2000))  # a metric takes every k-th row
        self.heavy = size > METRIC_LIMIT
        if not self.heavy:
            self.metric_cost = size / (GRAM_RATE * self.sample_step * K)
            self.metric_cost += size**2 / (FACTOR_RATE * n_rows * K) if K > 1 else 0.0
        else:
            self.metric_cost = HEAVY_COST if objective.blocks.sparse and K == 1 else np.inf
        self.n_kept = min(KEPT, objective.blocks.n_entries // (KEPT_SHARE * objective.n_params))

    def init(self, theta):
        """Evaluate the start."""
        value, grad = self.objective.value_grad(theta)
        return State(theta, value, grad, optimality=self.objective.optimality(theta, grad))

    def _preconditioner(self, state, curvatures):
        """The kept metric; a new one where products have come to cost more; else the diagonal."""
        due = max(self.metric_cost, MIN_PRODUCTS) * (1 if state.metric is None else 2)
        if state.products_due > due or self.metric_cost < CHEAP_METRIC:
            if self.heavy:
                state.metric = self.objective.heavy_metric(curvatures)
            else:
                step = self.sample_step
                sample = self.objective if step == 1 else self.objective.sample(step)
                if not sample.blocks.weight > 0.0:  # every k-th row may be one that does not count
                    sample = self.objective
                state.metric = sample.metric(state.theta, PRECONDITIONER_RIDGE)
        return state.metric or self.objective.diagonal_metric(curvatures)

    def advance(self, state):
        """One step."""
        objective = self.objective
        curvatures = objective.curvatures(state.theta)
        metric = self._preconditioner(state, curvatures)
        if state.directions is not None:
            metric = RecycledMetric(metric, state.directions, state.changes)
        before = max(float(state.grad @ metric.solve(state.grad)), 0.0)
        state.first_norm = state.first_norm or np.sqrt(before)
        share = min(0.5, np.sqrt(np.sqrt(before) / state.first_norm)) if before > 0 else 0.5
        # of the model's gap; where that is not to be relied on, the gradient has to fall
        goal = 0.0 if getattr(objective.loss, "jumps", False) else 0.1 * gap_tolerance(self.settings.tol)
        goal *= abs(state.value)
        model = conjugate_gradients(
            lambda v: objective.hessian_dot(curvatures, v), metric.solve, state.grad, share, goal, self.n_kept
        )
        found = descend(objective.value_grad, state, model.direction, float(state.grad @ model.direction))
        if found is None:
            state.stalled = not restart(self, state)
            return
        state.theta, state.value, state.grad = found
        state.products = model.products
        state.products_due = model.products + (state.products_due if state.metric is None else 0)
        state.directions, state.changes = model.directions, model.changes
        after = max(float(state.grad @ metric.solve(state.grad)), 0.0)
        state.gap = objective.sure_gap(model.gap(before, after), state.grad)
        state.optimality = objective.optimality(state.theta, state.grad)


class Model(NamedTuple):
    """What conjugate gradients found: a direction, and how well it minimises the model."""

    direction: np.ndarray
    gained: float  # decrease of the model
    left: float  # what further iterations should still gain
    residual: float  # squared norm of the model's gradient there, in the metric
    products: int
    directions: np.ndarray | None  # the first ones searched, of energy 1, ...
    changes: np.ndarray | None  # ... and their products

    def gap(self, before, after):
        """Step 3, from the squared norms of the gradient in the metric before and after the step.

        The metric under- or overstates the gap; by how much is known for the first gradient, and for the
        model's last one, which is richer in what the metric gets wrong.
        """
        by_first = after * (self.gained + self.left) / before if before > 0 else 0.0
        by_last = after * self.left / self.residual if self.products > 3 and self.residual > 0 else by_first
        return min(by_last, 10 * by_first)


def conjugate_gradients(product, solve, grad, share, goal, n_kept=0):
    """Step 1: minimise g·d + d·H·d/2; keep the first directions."""
    d, r = np.zeros_like(grad), -grad
    z = solve(r)
    direction, rho = z.copy(), float(r @ z)
    target, gains, kept = share * share * rho, [], []
    while rho > 0 and len(gains) < MAX_PRODUCTS:
        Hd = product(direction)
        curvature = float(direction @ Hd)
        if curvature <= 0:  # only rounding can do that to a convex model
            break
        step = rho / curvature
        d += step * direction
        r -= step * Hd
        gains.append(0.5 * step * rho)
        if len(kept) < n_kept:
            kept.append((direction / np.sqrt(curvature), Hd / np.sqrt(curvature)))
        z = solve(r)
        rho, before = float(r @ z), rho
        left = _energy_left(gains)
        if rho <= target and left <= 0.1 * sum(gains) or left <= goal:
            break
        direction = z + (rho / before) * direction
    directions, changes = map(np.array, zip(*kept, strict=True)) if kept else (None, None)
    return Model(d, sum(gains), _energy_left(gains), max(rho, 0.0), len(gains), directions, changes)


def _energy_left(gains):
    """What further iterations would gain, by the rate of the last few."""
    if len(gains) < 4:
        return gains[-1] if gains else 0.0
    recent = sum(gains[-2:])
    # the slower of two rates: one large gain is followed by many small ones
    rate = max(recent / sum(gains[-4:-2]), (recent / sum(gains[-3:-1])) ** 2)
    rate = min(rate, 0.95)
    return recent * rate / (1 - rate)
