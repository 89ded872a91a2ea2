"""Newton's method with conjugate gradients: the Hessian is only ever multiplied with vectors.

1. Minimise the quadratic model at the iterate by preconditioned conjugate gradients: to a share of the gradient that
   shrinks as the optimum nears, or to the gap that is asked for.
2. Take the step, halved until the objective falls.
3. Estimate the gap left: the energy that the conjugate gradients had still to gain, scaled by how much larger the new
   gradient is than the model's.

References
----------
J. Nocedal and S. J. Wright, "Numerical Optimization", 2nd ed., Springer (2006), chapter 7;
C.-J. Lin, R. C. Weng and S. S. Keerthi, "Trust region Newton method for large-scale logistic regression", JMLR 9 (2008).
"""

from dataclasses import dataclass

import numpy as np

from .driver import gap_tolerance
from .newton import ARMIJO, MAX_HALVINGS, Newton

MAX_PRODUCTS = 500  # Hessian products per step


@dataclass
class State:
    """Iterate with value and gradient, and what the stopping test needs."""

    theta: np.ndarray
    value: float
    grad: np.ndarray
    first_norm: float  # of the gradient in the metric, at the start
    gap: float = np.inf
    optimality: float = np.inf
    stalled: bool = False


class NewtonCG:
    """Smooth objectives of any size."""

    name = "newton-cg"
    State = State
    refusal = staticmethod(Newton.refusal)

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings

    def init(self, theta):
        """Evaluate the start."""
        value, grad = self.objective.value_grad(theta)
        state = State(theta, value, grad, 0.0)
        state.optimality = self.objective.optimality(theta, grad)
        return state

    def _preconditioner(self, theta, curvatures):
        return self.objective.preconditioner(theta, curvatures)

    def advance(self, state):
        """One step."""
        objective = self.objective
        curvatures = objective.curvatures(state.theta)
        metric = self._preconditioner(state.theta, curvatures)
        norm = np.sqrt(max(float(state.grad @ metric.solve(state.grad)), 0.0))
        state.first_norm = state.first_norm or norm
        share = min(0.5, np.sqrt(norm / state.first_norm)) if state.first_norm > 0 else 0.5
        goal = 0.1 * gap_tolerance(self.settings.tol) * abs(state.value)
        direction, left, model_norm = conjugate_gradients(
            lambda v: objective.hessian_dot(curvatures, v), metric.solve, state.grad, share, goal
        )
        found = self._search(state, direction)
        if found is None:
            state.stalled = True
            return
        state.theta, state.value, state.grad = found
        norm = np.sqrt(max(float(state.grad @ metric.solve(state.grad)), 0.0))
        state.gap = left * (norm / model_norm) ** 2 if model_norm > 0 else 0.5 * norm**2
        state.optimality = objective.optimality(state.theta, state.grad)

    def _search(self, state, direction):
        """Step 2: the new iterate with value and gradient, or ``None``."""
        slope, t = float(state.grad @ direction), 1.0
        noise = 1e-15 * abs(state.value)
        for _ in range(MAX_HALVINGS):
            theta = state.theta + t * direction
            value, grad = self.objective.value_grad(theta)
            if value <= state.value + ARMIJO * t * slope + noise:
                return theta, value, grad
            t *= 0.5 if np.isfinite(value) else 0.1
        return None


def conjugate_gradients(product, solve, grad, share, goal):
    """Step 1: (approximate minimiser d of g·d + d·H·d/2, energy left to gain, norm of g + H·d in the metric)."""
    d, r = np.zeros_like(grad), -grad
    z = solve(r)
    direction, rho = z.copy(), float(r @ z)
    target, gained, gains = share * share * rho, 0.0, []
    for _ in range(MAX_PRODUCTS):
        if rho <= 0:
            break
        Hd = product(direction)
        curvature = float(direction @ Hd)
        if curvature <= 0:  # only rounding can do that to a convex model
            break
        step = rho / curvature
        d += step * direction
        r -= step * Hd
        gains.append(0.5 * step * rho)
        gained += gains[-1]
        z = solve(r)
        rho, before = float(r @ z), rho
        left = _energy_left(gains)
        if rho <= target and left <= 0.1 * gained or left <= goal:
            break
        direction = z + (rho / before) * direction
    return d, _energy_left(gains), np.sqrt(max(rho, 0.0))


def _energy_left(gains):
    """What further iterations would gain, by the rate of the last few."""
    if len(gains) < 4:
        return gains[-1] if gains else 0.0
    recent, before = sum(gains[-2:]), sum(gains[-4:-2])
    rate = min(recent / before, 0.95)
    return recent * rate / (1 - rate)
