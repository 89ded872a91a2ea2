"""L-BFGS: the inverse Hessian as the last ten steps tell it, in coordinates that do not depend on the
columns' units.

The step length satisfies the weak Wolfe conditions, so that each step meets a positive curvature.

References
----------
D. C. Liu and J. Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Program. 45
(1989); A. S. Lewis and M. L. Overton, "Nonsmooth optimization via quasi-Newton methods", Math. Program. 141
(2013), for the search.
"""

from dataclasses import dataclass

import numpy as np

from .certificate import Certificate, Iterate, change_of_value
from .gradient_descent import smooth_refusal
from .line_search import ARMIJO, MAX_TRIALS
from .newton import MEMORY, two_loop

WOLFE = 0.9  # share of the slope that a step must take away


@dataclass
class State(Iterate):
    """Iterate, and (at most MEMORY, n_params) differences of iterates and gradients in ``Coordinates``."""

    steps: np.ndarray | None = None
    changes: np.ndarray | None = None


class LBFGS:
    """Smooth objectives. The learning rate has no say: the search finds the step."""

    name = "lbfgs"
    State = State
    refusal = staticmethod(smooth_refusal)

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings
        self.certificate = Certificate(objective, settings)

    def init(self, theta):
        """Evaluate the start."""
        value, grad = self.objective.value_grad(theta)
        empty = np.empty((0, theta.size))
        state = State(theta, value, grad, steps=empty, changes=empty)
        self.certificate.judge(state)
        return state

    def advance(self, state):
        """One step."""
        state.count += 1
        at = self.certificate.coordinates
        g = at.pull(state.grad)
        direction = self._direction(state, g)
        found = self._search(state, g, direction)
        if found is None and len(state.steps):  # once more from steepest descent
            state.steps = state.changes = np.empty((0, g.size))
            direction = -g
            found = self._search(state, g, direction)
        if found is None:
            state.stalled = True
            return
        t, state.theta, state.value, state.grad = found
        pulled = at.pull(state.grad)
        step, change = t * direction, pulled - g
        if step @ change > 1e-14 * np.sqrt((step @ step) * (change @ change)):
            state.steps = np.vstack([state.steps[1 - MEMORY :], step])
            state.changes = np.vstack([state.changes[1 - MEMORY :], change])
        self.certificate.judge(state, -0.5 * float(pulled @ self._direction(state, pulled)))

    @staticmethod
    def _direction(state, g):
        if not len(state.steps):
            return -g
        step, change = state.steps[-1], state.changes[-1]
        size = float(step @ change) / float(change @ change)
        return -two_loop(g, state.steps, state.changes, lambda q: size * q)

    def _search(self, state, g, direction):
        """(t, theta, value, gradient) with enough decrease and a flatter slope; ``None`` if there is none."""
        at = self.certificate.coordinates
        move = at.leave(direction)
        slope = float(g @ direction)
        t, low, high, best = 1.0, 0.0, np.inf, None
        for _ in range(MAX_TRIALS):
            theta = state.theta + t * move
            value, grad = self.objective.value_grad(theta)
            new_slope = float(grad @ move)
            rise = change_of_value(self.objective, state, theta, value, grad)
            if not rise <= ARMIJO * t * slope:
                high = t
                curved = rise - t * slope
                guess = -0.5 * t * t * slope / curved if np.isfinite(curved) else 0.0
            else:
                best = t, theta, value, grad
                if new_slope >= WOLFE * slope:
                    break
                low = t
                guess = t * slope / (slope - new_slope) if new_slope > slope else 4.0 * t
            if high - low <= 1e-12 * high:
                break
            top = min(high, 10.0 * max(t, low))
            nearest, farthest = (0.1, 0.9) if np.isfinite(high) else (0.1, 1.0)
            t = min(max(guess, low + nearest * (top - low)), low + farthest * (top - low))
        return best
