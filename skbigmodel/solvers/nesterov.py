"""Nesterov's accelerated gradient, in its optimised proximal form with restarts.

With L the largest curvature met so far, g the gradient at x, and t the clock of the momentum:

1. y⁺ = x - g/L; t⁺ = (1 + √(4t² + 1))/2; γ⁺ = (2t + t⁺ - 1)/(L·t⁺)
2. z⁺ = y⁺ + (t - 1)/t⁺·(y⁺ - y) + t/t⁺·(y⁺ - x) + (t - 1)/(L·γ·t⁺)·(z - x)
3. x⁺ = prox(z⁺) with step γ⁺

so that one gradient per iteration is taken, at the iterate itself. The momentum starts anew when it points uphill, when
the objective rises (that step is not taken), and when a larger curvature is met. All this happens in coordinates in
which the columns' units do not matter.

References
----------
A. Beck and M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems", SIAM J. Imaging
Sci. 2 (2009);
D. Kim and J. A. Fessler, "Adaptive restart of the optimized gradient method for convex optimization", J. Optim. Theory
Appl. 178 (2018);
A. B. Taylor, J. M. Hendrickx and F. Glineur, "Exact worst-case performance of first-order methods for composite convex
optimization", SIAM J. Optim. 27 (2017).
"""

from dataclasses import dataclass

import numpy as np

from .certificate import Certificate, Iterate

MARGIN = 1.05  # L over the largest curvature met


@dataclass
class State(Iterate):
    """Iterate and the sequences of the method, all but theta in the coordinates of the steps."""

    x: np.ndarray | None = None
    y: np.ndarray | None = None
    z: np.ndarray | None = None
    t: float = 1.0
    gamma: float = 0.0
    L: float = 1.0


class Nesterov:
    """Smooth losses with any penalty."""

    name = "nesterov"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings
        self.certificate = Certificate(objective, settings)

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        return None if getattr(objective.loss, "smooth", True) else "the loss has kinks"

    @property
    def _fixed(self):
        """Whether the user chose the step; then it is taken in theta itself."""
        return self.settings.learning_rate != "auto"

    def init(self, theta):
        """Evaluate the start, and the curvature along its gradient."""
        at = self.certificate.coordinates
        value, grad = self.objective.value_grad(theta)
        state = State(theta, value, grad, x=at.enter(theta))
        state.L = self._first_curvature(state)
        self._restart(state)
        self.certificate.judge(state)
        return state

    def _first_curvature(self, state):
        at = self.certificate.coordinates
        g = at.pull(state.grad)
        length = np.sqrt(g @ g)
        if length == 0.0:
            return 1.0
        probe = -1e-3 * g / length
        change = at.pull(self.objective.value_grad(state.theta + at.leave(probe))[1]) - g
        met = float(probe @ change) / float(probe @ probe)
        return MARGIN * met if np.isfinite(met) and met > 0.0 else 1.0

    @staticmethod
    def _restart(state):
        state.y = state.z = state.x
        state.t, state.gamma = 1.0, 1.0 / state.L

    def advance(self, state):
        """One iteration."""
        state.count += 1
        at = self.certificate.coordinates
        g = at.pull(state.grad)
        x, y, z, t, gamma = self._propose(state, g)
        theta = at.leave(x)
        value, grad = self.objective.value_grad(theta)
        step, change = x - state.x, at.pull(grad) - g
        met = self._curvature(step, change)
        if not met <= state.L or not np.isfinite(value):
            state.L = max(MARGIN * met, state.L) if np.isfinite(met) else 4.0 * state.L
            rises = True
        else:
            rises = value > state.value + 1e-14 * abs(state.value)
        if rises and (state.t > 1.0 or value > state.value + 1e-14 * abs(state.value) or not np.isfinite(value)):
            pass
        ...
