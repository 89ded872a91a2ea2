"""Coordinates in which first-order methods see columns of spread 1 and mean 0, whatever the units of X.

With column means m and spreads d⁻¹ the parameters theta = (w, b) are written as

    u = w / d,    c = (b + m·w) / d₀,

an invertible linear map, so that the function and its minimum are the same: nothing is done to X, and a
penalty or sign constraint still acts on each coefficient separately. Models without an intercept, or with a
penalty on it, keep m = 0.
"""

import numpy as np

from ..passes_linear import hessian_diagonal
from ..passes_stochastic import prox_inplace

RELATIVE_SPREAD = 1e-11  # a smaller variance, relative to the second moment, is taken for rounding
PROBE = 1e-3  # length of the step over which a curvature is measured


def column_moments(blocks):
    """Weighted mean and variance of each column, in one pass that is kept with the blocks."""
    if "moments" not in blocks.memo:
        with np.errstate(over="ignore", invalid="ignore"):
            square, mean = blocks.total(_squares_and_sums, (2, blocks.n_features))[1] / blocks.weight
            variance = square - mean**2
        variance[variance <= RELATIVE_SPREAD * square] = 0.0
        blocks.memo["moments"] = mean, variance
    return blocks.memo["moments"]


def _squares_and_sums(block, sums):
    s = np.ones(len(block.y)) if len(block.s) == 1 else block.s
    return hessian_diagonal(block.rows, s, sums[0], sums[1])


def mean_curvature(objective):
    """A typical second derivative of the loss: of its order, no more is needed."""
    bend = 0.25 if objective.loss is None else getattr(objective.loss, "bend", 1.0)
    return bend if np.isfinite(bend) and bend > 0 else 1.0


class Coordinates:
    """The map between theta and (u, c); each works on flat vectors and on several outputs at once.

    Parameters
    ----------
    objective : an ``Objective``
    moments : pair of ndarrays (n_features,), optional
        Mean and variance of the columns; those of the objective's rows by default.
    plain : bool, default=False
        The identity instead: for steps whose length the user gave.
    """

    def __init__(self, objective, moments=None, plain=False):
        self.objective, self.K, self.n_coefs = objective, objective.n_outputs, objective.n_coefs
        if plain:
            self.mean, self.scale = np.zeros(objective.n_features), np.ones(objective.n_params)
            return
        mean, variance = column_moments(objective.blocks) if moments is None else moments
        l2_intercept = objective.penalty.l2_intercept
        if not objective.fit_intercept or l2_intercept > 0:
            mean, variance = np.zeros_like(mean), variance + mean**2
        h = mean_curvature(objective)
        stiffness = h * variance + objective.penalty.l2
        d = np.divide(1.0, np.sqrt(stiffness), out=np.ones_like(stiffness), where=stiffness > 0)
        self.mean = mean
        self.scale = np.repeat(
            np.append(d, 1.0 / np.sqrt(h + l2_intercept)) if objective.fit_intercept else d, self.K
        )

    def enter(self, theta):
        """(u, c) of theta."""
        u = theta / self.scale
        if self.objective.fit_intercept:
            u[self.n_coefs :] += (self.mean @ theta[: self.n_coefs].reshape(-1, self.K)) / self.scale[-1]
        return u

    def leave(self, u):
        """theta of (u, c); also of a difference of such."""
        theta = u * self.scale
        if self.objective.fit_intercept:
            theta[self.n_coefs :] -= self.mean @ theta[: self.n_coefs].reshape(-1, self.K)
        return theta

    def pull(self, grad):
        """The gradient in (u, c) from the gradient in theta."""
        g = grad.copy()
        if self.objective.fit_intercept:
            g[: self.n_coefs].reshape(-1, self.K)[...] -= np.outer(self.mean, grad[self.n_coefs :])
        return g * self.scale

    def curvature_near(self, theta, g):
        """A large second derivative: two steps of the power method from the gradient ``g`` in (u, c).

        1 where there is none to be seen.
        """
        met, direction = 0.0, g
        for _ in range(2):
            if not direction.any():
                break
            probe = -PROBE * direction / np.sqrt(direction @ direction)
            direction = self.pull(self.objective.value_grad(theta + self.leave(probe))[1]) - g
            met = max(met, float(probe @ direction) / PROBE**2)
        return met if np.isfinite(met) and met > 1e-12 else 1.0

    def prox(self, u, step):
        """The proximal operator of ``step`` times the penalty without its smooth l2 part."""
        penalty = self.objective.penalty
        if penalty.smooth:
            return u
        d, u = self.scale[: self.n_coefs], u.copy()
        w = u[: self.n_coefs] * d
        prox_inplace(penalty._replace(l2=0.0), w, step * d * d)
        u[: self.n_coefs] = w / d
        return u

    def subgradient(self, theta, grad):
        """The smallest subgradient in (u, c), and which coordinates are free to move."""
        n, penalty, g = self.n_coefs, self.objective.penalty, self.pull(grad)
        free = np.ones(theta.size, bool)
        if not penalty.smooth:
            w, slope = theta[:n], g[:n] / self.scale[:n]
            side = np.where(w == 0, slope, slope + penalty.l1 * np.sign(w))
            slope = np.copysign(penalty.residual(w, slope), side)
            g[:n], free[:n] = slope * self.scale[:n], (w != 0) | (slope != 0)
        return g, free
