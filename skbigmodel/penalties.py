"""Penalties on the coefficients: value, gradient of the smooth part and proximal operator side by side."""

from typing import NamedTuple

import numpy as np

from ._jit import method


@method
def prox(self, w, step):
    """argmin over u of (u - w)²/2 + step·penalty(u), for one coefficient."""
    return self.prox(w, step)


class ElasticNet(NamedTuple):
    """l1·‖w‖₁ + l2/2·‖w‖² + l2_intercept/2·b², with w >= 0 where ``positive`` is set.

    The methods are about the coefficients w; the objective adds what concerns the intercept b.
    """

    l1: float
    l2: float
    positive: bool = False
    l2_intercept: float = 0.0

    @property
    def smooth(self):
        """Whether plain gradient methods apply."""
        return self.l1 == 0.0 and not self.positive

    def value(self, w):
        return self.l1 * np.abs(w).sum() + 0.5 * self.l2 * np.dot(w, w)

    def gradient(self, w):
        """Gradient of the l2 part."""
        return self.l2 * w

    def prox(self, w, step):
        u = max(w - step * self.l1, 0.0)
        if not self.positive:
            u += min(w + step * self.l1, 0.0)
        return u / (1.0 + step * self.l2)

    def residual(self, w, grad):
        """Smallest subgradient of each coefficient; ``grad`` is of the smooth part. 0 at the optimum."""
        if self.smooth:
            return np.abs(grad)
        at_zero = np.maximum(-(grad + self.l1), 0.0)
        if not self.positive:
            at_zero = np.maximum(at_zero, grad - self.l1)
        return np.where(w == 0, at_zero, np.abs(grad + self.l1 * np.sign(w)))
