"""Nesterov's accelerated gradient, in its optimised proximal form with restarts.

With L the largest curvature met so far, g the gradient at x, and t the clock of the momentum:

1. y⁺ = x - g/L; t⁺ = (1 + √(4t² + 1))/2; γ⁺ = (2t + t⁺ - 1)/(L·t⁺)
2. z⁺ = y⁺ + (t - 1)/t⁺·(y⁺ - y) + t/t⁺·(y⁺ - x) + (t - 1)/(L·γ·t⁺)·(z - x)
3. x⁺ = prox(z⁺) with step γ⁺

so that one gradient per iteration is taken, at the iterate itself. The momentum starts anew when it points
uphill, when the objective rises (that step is not taken), and when a larger curvature is met. All this
happens in coordinates in which the columns' units do not matter.

References
----------
A. Beck and M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
SIAM J. Imaging Sci. 2 (2009); D. Kim and J. A. Fessler, "Adaptive restart of the optimized gradient method
for convex optimization", J. Optim. Theory Appl. 178 (2018); A. B. Taylor, J. M. Hendrickx and F. Glineur,
"Exact worst-case performance of first-order methods for composite convex optimization", SIAM J. Optim. 27
(2017).
"""

from dataclasses import dataclass

import numpy as np

from .certificate import Certificate, Iterate, change_of_value
from .coordinates import Coordinates

MARGIN = 1.1  # L over the largest curvature met
MAX_TRIALS = 60


@dataclass
class State(Iterate):
    """Iterate and the sequences of the method, all but theta in the coordinates of the steps."""

    x: np.ndarray | None = None
    y: np.ndarray | None = None
    z: np.ndarray | None = None
    target: np.ndarray | None = None  # where a gradient step that includes the penalty would lead
    t: float = 1.0
    gamma: float = 0.0
    L: float = 1.0


class Nesterov:
    """Smooth losses with any penalty. A number as learning rate is 1/L, for steps in theta itself."""

    name = "nesterov"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings
        self.certificate = Certificate(objective, settings)
        self.fixed = settings.learning_rate != "auto"
        self.coordinates = Coordinates(objective, plain=True) if self.fixed else self.certificate.coordinates

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        return None if getattr(objective.loss, "smooth", True) else "the loss has kinks"

    def init(self, theta):
        """Evaluate the start, and the curvature along its gradient."""
        value, grad = self.objective.value_grad(theta)
        state = State(theta, value, grad, x=self.coordinates.enter(theta))
        if self.fixed:
            state.L = 1.0 / self.settings.learning_rate
        else:
            state.L = MARGIN * self.coordinates.curvature_near(theta, self.coordinates.pull(grad))
        self._restart(state)
        self.certificate.judge(state)
        return state

    @staticmethod
    def _restart(state):
        state.y = state.z = state.target = state.x
        state.t, state.gamma = 1.0, 1.0 / state.L

    def advance(self, state):
        """One iteration."""
        state.count += 1
        at = self.coordinates
        g = at.pull(state.grad)
        for _ in range(MAX_TRIALS):
            new = self._propose(state, g)
            theta = at.leave(new["x"])
            value, grad = self.objective.value_grad(theta)
            bent = not self.fixed and self._meet_curvature(state, new["x"] - state.x, at.pull(grad) - g)
            rise = change_of_value(self.objective, state, theta, value, grad)
            if rise <= 0.0 or self.fixed and state.t == 1.0:
                break
            if state.t == 1.0 and not bent:
                state.L *= 2.0
            self._restart(state)
        else:
            state.stalled = True
            return
        vars(state).update(new, theta=theta, value=value, grad=grad)
        if bent:
            self._restart(state)
        pulled, _ = at.subgradient(theta, grad)
        self.certificate.judge(state, 0.5 * float(pulled @ pulled) / state.L)

    def _propose(self, state, g):
        """Steps 1 to 3; a plain proximal gradient step where the momentum points uphill."""
        x, t, L = state.x, state.t, state.L
        y = x - g / L
        whole = g + (state.z - x) / state.gamma  # with the penalty's subgradient that the last prox chose
        target = x - whole / L
        if whole @ (target - state.target) > 0.0:
            x = self.coordinates.prox(y, 1.0 / L)
            return {"x": x, "y": x, "z": x, "target": x, "t": 1.0, "gamma": 1.0 / L}
        t_next = 0.5 * (np.sqrt(4.0 * t * t + 1.0) + 1.0)
        gamma = (2.0 * t + t_next - 1.0) / (L * t_next)
        drift = (t - 1.0) * (y - state.y) + t * (y - x) + (t - 1.0) / (L * state.gamma) * (state.z - x)
        z = y + drift / t_next
        x = self.coordinates.prox(z, gamma)
        return {"x": x, "y": y, "z": z, "target": target, "t": t_next, "gamma": gamma}

    @staticmethod
    def _meet_curvature(state, step, change):
        """Raise L if the curvature along the step is larger, and tell whether it is."""
        along = float(step @ change)
        met = float(change @ change) / along if along > 0.0 else 0.0
        if not np.isfinite(met):
            state.L *= 4.0
            return True
        if met <= state.L or not along > 1e-12 * float(step @ step) * state.L:
            return False
        state.L = MARGIN * met
        return True
