"""Newton's method with a Hessian that is kept while it serves.

1. On tall data, minimise over every k-th row first: a start near the optimum, and its Hessian, for a fraction
   of a pass.
2. The direction is that of L-BFGS with the factorised Hessian as the metric it starts from (so the columns'
   scales do not matter), and the unit step is tried first.
3. The Hessian is formed anew when that costs less than the iterations it is expected to save.

References
----------
J. Nocedal and S. J. Wright, "Numerical Optimization", 2nd ed., Springer (2006), chapters 6 and 7;
R. H. Byrd, G. M. Chin, W. Neveitt and J. Nocedal, "On the use of stochastic Hessian information in
optimization methods for machine learning", SIAM J. Optim. 21 (2011).
"""

from dataclasses import dataclass

import numpy as np

from .driver import gap_tolerance
from .line_search import descend

MEMORY = 10
SAMPLE_ROWS = 20  # per parameter, at least, in the first step's sample ...
SAMPLE_SHARE = 8  # ... which is at most this fraction of the rows
MIN_SAMPLE = 2000


@dataclass
class State:
    """Iterate, its value and gradient, the metric, L-BFGS pairs and the next direction."""

    theta: np.ndarray
    value: float
    grad: np.ndarray
    metric: object
    steps: np.ndarray  # (at most MEMORY, n_params): differences of iterates ...
    changes: np.ndarray  # ... and of gradients
    direction: np.ndarray | None = None
    gap: float = np.inf  # half the squared gradient in the metric: what a full step should gain
    optimality: float = np.inf
    stalled: bool = False


class Newton:
    """Smooth objectives whose Hessian fits in memory."""

    name = "newton"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings
        # formed on BLAS at some 10 to 20 times the speed of a pass per operation
        self.hessian_cost = 1.0 + objective.metric_size / 24

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        if objective.n_outputs > 1:
            return "it takes no multinomial loss"
        return Newton.needs(objective)

    @staticmethod
    def needs(objective):
        """What second-order steps lack here, or ``None``."""
        if not getattr(objective.loss, "smooth", True):
            return "the loss has kinks"
        if objective.loss is not None and not hasattr(objective.loss, "curvature"):
            return "the loss has no curvature method"
        if not objective.penalty.smooth:
            return "it takes no l1 penalty and no positive=True"
        return None

    def init(self, theta):
        """Steps 1 and 2 for the first iterate."""
        metric = None
        step = sample_step(self.objective)
        if step:
            theta, metric = self._minimize_sample(theta, step)
        value, grad = self.objective.value_grad(theta)
        if metric is None:
            metric = self.objective.metric(theta)
        empty = np.empty((0, theta.size))
        state = State(theta, value, grad, metric, empty, empty)
        self._aim(state)
        return state

    def _minimize_sample(self, theta, step):
        """Minimum over a sample, to its own statistical error, and the metric there."""
        sample = self.objective.sample(step)
        if sample.blocks.weight <= 0:
            return theta, None
        solver = Newton(sample, self.settings)
        state = solver.init(theta)
        goal = 0.01 * sample.n_params / sample.blocks.n_rows
        for _ in range(50):
            if state.gap <= goal * abs(state.value) or state.stalled:
                break
            solver.advance(state)
        return state.theta, sample.metric(state.theta)

    def _aim(self, state):
        """Step 2: direction, gap and optimality at the iterate."""
        state.direction = -two_loop(state.grad, state.steps, state.changes, state.metric.solve)
        state.gap = self.objective.sure_gap(-0.5 * float(state.grad @ state.direction), state.grad)
        state.optimality = self.objective.optimality(state.theta, state.grad)

    def advance(self, state):
        """One iteration."""
        slope = float(state.grad @ state.direction)
        found = descend(self.objective.value_grad, state, state.direction, slope)
        if found is None:
            state.stalled = not restart(self, state)
            return
        theta, value, grad = found
        step, change, before = theta - state.theta, grad - state.grad, state.gap
        if step @ change > 1e-12 * abs(grad @ step) + 1e-300:
            state.steps = np.vstack([state.steps[1 - MEMORY :], step])
            state.changes = np.vstack([state.changes[1 - MEMORY :], change])
        state.theta, state.value, state.grad = theta, value, grad
        self._aim(state)
        if self._worth_a_hessian(state, before):
            state.metric = self.objective.metric(theta)
            state.steps = state.changes = np.empty((0, theta.size))
            self._aim(state)

    def _worth_a_hessian(self, state, before):
        """Step 3: whether the passes to go at the present rate outnumber those with a new Hessian."""
        goal = gap_tolerance(self.settings.tol) * abs(state.value)
        if not state.gap > goal:
            return False
        rate = np.log(np.clip(state.gap / before, 1e-16, 0.999)) if before > 0 else -1.0
        return np.log(goal / state.gap) / rate > self.hessian_cost + 2


def sample_step(objective):
    """k of step 1, or 0 for none."""
    n_rows = objective.blocks.n_rows
    wanted = max(SAMPLE_ROWS * objective.metric_size, MIN_SAMPLE, n_rows // 32)
    return n_rows // wanted if wanted * SAMPLE_SHARE <= n_rows else 0


def restart(solver, state):
    """Begin again at zero if the objective is lower there, as from a far start whose curvature vanishes."""
    fresh = solver.init(np.zeros_like(state.theta))
    if not fresh.value < state.value:
        return False
    vars(state).update(vars(fresh))
    return True


def two_loop(grad, steps, changes, solve):
    """The L-BFGS inverse Hessian times ``grad``; ``solve`` is the inverse Hessian it starts from."""
    q = grad.copy()
    shares = np.empty(len(steps))
    for k in range(len(steps) - 1, -1, -1):
        shares[k] = (steps[k] @ q) / (steps[k] @ changes[k])
        q -= shares[k] * changes[k]
    q = solve(q)
    for k in range(len(steps)):
        q += (shares[k] - (changes[k] @ q) / (steps[k] @ changes[k])) * steps[k]
    return q
