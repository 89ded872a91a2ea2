"""Whether a first-order method has arrived: the Newton decrement, measured where the gradient is already
small.

A small gradient says little where columns are nearly dependent: along a flat direction the objective can
still fall far. So before an iterate is called the optimum, half of v·H⁻¹·v is worked out by conjugate
gradients, with H the Hessian and v the smallest subgradient, over the coefficients that are free to move.
That is what Newton's step would still gain, whatever the units of the columns, and it costs a few passes.
The sum grows with each conjugate gradient, so a premature claim is refused after one or two.
"""

from dataclasses import dataclass

import numpy as np

from .coordinates import Coordinates
from .driver import gap_tolerance

MAX_PRODUCTS = 300
WAIT = 1.2  # after a refusal the next trial comes when the count of iterations has grown by this factor
ROUNDING = 1e-22  # of the objective at zero: a gap below that is none (noise-free data have an optimum of 0)
PATIENCE = 100  # iterations without progress, on top of as many as it took to come so far
HIDDEN = 1e-9  # a change of the value that is relatively smaller may be rounding
DIFFERENCE = 1e-4  # length of the difference quotient for losses that offer no curvature


@dataclass
class Iterate:
    """What the states of first-order methods share."""

    theta: np.ndarray
    value: float
    grad: np.ndarray  # of the smooth part
    optimality: float = np.inf
    gap: float = np.inf
    stalled: bool = False
    count: int = 0  # iterations so far
    next_trial: int = 0  # count at which the decrement is worth measuring again
    lowest: tuple = (np.inf, np.inf)  # value and optimality so far, and ...
    improved: int = 0  # ... the count when one of them last fell


def change_of_value(objective, state, theta, value, grad):
    """How much larger the objective is at ``theta`` than at the state's iterate.

    Where rounding hides that, it comes from the two gradients: the mean slope along the step, exact for a
    parabola.
    """
    difference = value - state.value
    if not abs(difference) <= HIDDEN * abs(state.value):
        return difference
    n, step = objective.n_coefs, theta - state.theta
    bent = objective.penalty.l1 * float((np.abs(theta[:n]) - np.abs(state.theta[:n])).sum())
    return 0.5 * float((grad + state.grad) @ step) + bent


class Certificate:
    """Judge of iterates of one objective."""

    def __init__(self, objective, settings):
        self.objective, self.tol, self.auto = objective, settings.tol, settings.learning_rate == "auto"
        self._coordinates = self._floor = None

    @property
    def coordinates(self):
        """The coordinates in which conjugate gradients run: made when first needed."""
        if self._coordinates is None:
            self._coordinates = Coordinates(self.objective)
        return self._coordinates

    def judge(self, state, expected=0.0):
        """Set optimality and gap of an iterate; ``expected`` is a cheap lower estimate of the gap."""
        state.optimality = self.objective.optimality(state.theta, state.grad)
        self._watch_progress(state)
        if not state.optimality <= self.tol or not np.isfinite(state.value):
            state.gap = np.inf
            return
        if not state.grad.any() and self.objective.penalty.smooth:
            state.gap = 0.0
            return
        goal = gap_tolerance(self.tol) * abs(state.value)
        if expected > max(goal, self._negligible()) or state.count < state.next_trial:
            state.gap = max(expected, state.gap)
            return
        state.gap = self.decrement(state.theta, state.grad, max(goal, self._negligible()))
        state.next_trial = int(WAIT * state.count) + 2
        if state.gap <= self._negligible():
            state.gap = 0.0

    def _watch_progress(self, state):
        """A method that chooses its own steps and improves nothing any more is stopped by rounding."""
        now = state.value, state.optimality
        if now[0] < state.lowest[0] or now[1] < state.lowest[1]:
            state.lowest, state.improved = tuple(map(min, now, state.lowest)), state.count
        elif self.auto and state.count > 2 * state.improved + PATIENCE:
            state.stalled = True

    def _negligible(self):
        if self._floor is None:
            origin, _ = self.objective.value_grad(np.zeros(self.objective.n_params))
            self._floor = ROUNDING * abs(origin)
        return self._floor

    def decrement(self, theta, grad, limit):
        """Half of v·H⁻¹·v; sure to be exact only up to ``limit``, beyond which it is a lower bound."""
        v, free = self.coordinates.subgradient(theta, grad)
        product = self._hessian(theta, grad)
        r, d = v.copy(), v.copy()
        rho, gained, gains = float(r @ r), 0.0, []
        for _ in range(min(MAX_PRODUCTS, 2 * v.size)):
            if rho <= 0.0:
                break
            Hd = np.where(free, product(d), 0.0)
            curvature = float(d @ Hd)
            if curvature <= 1e-14 * float(d @ d):  # flat to working precision: no gain can be seen
                break
            step = rho / curvature
            gains.append(0.5 * step * rho)
            gained += gains[-1]
            if gained > limit or len(gains) > 2 and sum(gains[-2:]) <= 0.01 * gained:
                break
            r -= step * Hd
            rho, before = float(r @ r), rho
            d = r + (rho / before) * d
        return gained

    def _hessian(self, theta, grad):
        """The Hessian as a function, in the coordinates (u, c)."""
        objective, at = self.objective, self.coordinates
        if objective.loss is None or hasattr(objective.loss, "curvature"):
            curvatures = objective.curvatures(theta)
            return lambda d: at.pull(objective.hessian_dot(curvatures, at.leave(d)))

        def quotient(d):
            length = DIFFERENCE / np.sqrt(d @ d)
            return at.pull(objective.value_grad(theta + length * at.leave(d))[1] - grad) / length

        return quotient
