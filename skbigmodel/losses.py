"""Losses: what one row costs, as a function of its target ``y`` and raw prediction ``z``.

Each class holds the formulas of one loss side by side, so that they cannot drift apart:

- ``value(y, z)``, ``derivative(y, z)`` and ``curvature(y, z)``, with respect to ``z``;
- ``domain_error(y)``: a sentence about targets that the loss does not allow, or ``None``.

Class attributes tell solvers what they may rely on: ``smooth`` (the derivative is Lipschitz), ``bend``
(largest curvature, infinite where there is no bound); ``jumps`` (the curvature is not continuous, and zero on
one side) where that holds. A loss that is piecewise linear offers ``pieces(y)`` in
place of the curvature: a list of (target, lo, hi) that make it the sum of max(lo·e, hi·e), e = target - z.
A loss of your own is a ``NamedTuple`` with the same methods; it runs jitted wherever the built-in ones do.
"""

from typing import NamedTuple

import numpy as np

from ._jit import exp, log1p_unit, method


@method
def value(self, y, z):
    """Loss of one row."""
    return self.value(y, z)


@method
def derivative(self, y, z):
    """First derivative in the raw prediction."""
    return self.derivative(y, z)


@method
def curvature(self, y, z):
    """Second derivative in the raw prediction."""
    return self.curvature(y, z)


def model_curvature(self, y, z):
    """Curvature for quadratic models: the second derivative, or a little more where that vanishes."""
    return getattr(self, "model_curvature", self.curvature)(y, z)


method(model_curvature, fallback="curvature")


class SquaredError(NamedTuple):
    """``(z - y)² / 2``: the optimum is the conditional mean."""

    smooth = True
    quadratic = True
    bend = 1.0

    def value(self, y, z):
        return 0.5 * (z - y) * (z - y)

    def derivative(self, y, z):
        return z - y

    def curvature(self, y, z):
        return 1.0

    def domain_error(self, y):
        return None


class Huber(NamedTuple):
    """``r²/2`` for ``|r| <= delta``, ``delta·(|r| - delta/2)`` beyond, with ``r = z - y``.

    Parameters
    ----------
    delta : float, default=1.35
        Residual, in the units of y, beyond which the loss is linear.

    References
    ----------
    .. [1] Huber, P. J. (1964). "Robust estimation of a location parameter". Ann. Math. Statist. 35.

    Examples
    --------
    >>> from skbigmodel.losses import Huber
    >>> Huber(delta=1.0).value(0.0, 3.0)
    2.5
    """

    delta: float = 1.35
    smooth = True
    bend = 1.0

    def value(self, y, z):
        r = abs(z - y)
        q = min(r, self.delta)
        return q * (r - 0.5 * q)

    def derivative(self, y, z):
        return min(max(z - y, -self.delta), self.delta)

    def curvature(self, y, z):
        return 1.0 if abs(z - y) <= self.delta else 0.0

    def model_curvature(self, y, z):
        # beyond delta a share of delta/|r|, the curvature of the touching parabola from above: never singular
        r = abs(z - y)
        return 1.0 if r <= self.delta else 0.05 * self.delta / r

    def domain_error(self, y):
        return None if self.delta > 0 else f"delta must be positive, got {self.delta}"


class EpsilonInsensitive(NamedTuple):
    """``max(0, |z - y| - epsilon)``: piecewise linear.

    Parameters
    ----------
    epsilon : float, default=0.1
        Half the width of the tube in which a residual costs nothing, in the units of y.

    References
    ----------
    .. [1] Vapnik, V. (1995). "The Nature of Statistical Learning Theory". Springer.

    Examples
    --------
    >>> from skbigmodel.losses import EpsilonInsensitive
    >>> EpsilonInsensitive(epsilon=0.5).value(0.0, 2.0)
    1.5
    """

    epsilon: float = 0.1
    smooth = False
    bend = np.inf

    def value(self, y, z):
        return max(abs(z - y) - self.epsilon, 0.0)

    def derivative(self, y, z):
        r = z - y
        return (1.0 if r > self.epsilon else 0.0) - (1.0 if r < -self.epsilon else 0.0)

    def pieces(self, y):
        """[(target, lo, hi), …] of the linear pieces; one where the tube has no width."""
        if self.epsilon == 0.0:
            return [(y, -1.0, 1.0)]
        return [(y - self.epsilon, 0.0, 1.0), (y + self.epsilon, -1.0, 0.0)]

    def domain_error(self, y):
        return None if self.epsilon >= 0 else f"epsilon must not be negative, got {self.epsilon}"


class AbsoluteError(NamedTuple):
    """``|z - y|``: the optimum is a conditional median."""

    smooth = False
    bend = np.inf

    def value(self, y, z):
        return abs(z - y)

    def derivative(self, y, z):
        return (1.0 if z > y else 0.0) - (1.0 if z < y else 0.0)

    def pieces(self, y):
        """[(target, lo, hi)] of the linear pieces."""
        return [(y, -1.0, 1.0)]

    def domain_error(self, y):
        return None


class Quantile(NamedTuple):
    """``quantile·r`` for ``r >= 0`` and ``(quantile - 1)·r`` below, with ``r = y - z``: conditional
    quantiles.

    Parameters
    ----------
    quantile : float, default=0.5
        Which quantile, strictly between 0 and 1.

    References
    ----------
    .. [1] Koenker, R. and Bassett, G. (1978). "Regression quantiles". Econometrica 46.

    Examples
    --------
    >>> from skbigmodel.losses import Quantile
    >>> Quantile(quantile=0.9).value(2.0, 0.0)
    1.8
    """

    quantile: float = 0.5
    smooth = False
    bend = np.inf

    def value(self, y, z):
        r = y - z
        return max(self.quantile * r, (self.quantile - 1.0) * r)

    def derivative(self, y, z):
        return (1.0 - self.quantile if z > y else 0.0) - (self.quantile if z < y else 0.0)

    def pieces(self, y):
        """[(target, lo, hi)] of the linear pieces."""
        return [(y, self.quantile - 1.0, self.quantile)]

    def domain_error(self, y):
        return (
            None
            if 0 < self.quantile < 1
            else f"quantile must lie strictly between 0 and 1, got {self.quantile}"
        )


class Poisson(NamedTuple):
    """exp(z) - y·z: half the Poisson deviance up to a constant; the mean is exp(z), y >= 0."""

    smooth = True
    bend = np.inf

    def value(self, y, z):
        return exp(z) - y * z

    def derivative(self, y, z):
        return exp(z) - y

    def curvature(self, y, z):
        return exp(z)

    def domain_error(self, y):
        if y.min() < 0:
            return "the Poisson loss needs y >= 0"
        return (
            None if y.max() > 0 else "the Poisson loss needs some y > 0: for y = 0 alone there is no optimum"
        )

    def mean(self, z):
        """The prediction in the units of y (NumPy)."""
        return np.exp(z)

    def link(self, mean):
        """The raw prediction whose mean is the given one."""
        return np.log(mean)


class Gamma(NamedTuple):
    """z + y·exp(-z): half the gamma deviance up to a constant; the mean is exp(z), y > 0."""

    smooth = True
    bend = np.inf

    def value(self, y, z):
        return z + y * exp(-z)

    def derivative(self, y, z):
        return 1.0 - y * exp(-z)

    def curvature(self, y, z):
        return y * exp(-z)

    def domain_error(self, y):
        return None if y.min() > 0 else "the gamma loss needs y > 0"

    def mean(self, z):
        """The prediction in the units of y (NumPy)."""
        return np.exp(z)

    def link(self, mean):
        """The raw prediction whose mean is the given one."""
        return np.log(mean)


class Logistic(NamedTuple):
    """log(1 + exp(z)) - y·z for y in {0, 1}: the binary log-loss of the logit z, exact for any z."""

    smooth = True
    bend = 0.25

    def value(self, y, z):
        # the terms in z cancel exactly on the right side of a class, so that a tiny loss keeps its digits
        return log1p_unit(exp(-abs(z))) + z * ((1.0 if z > 0.0 else 0.0) - y)

    def derivative(self, y, z):
        e = exp(-abs(z))
        return (1.0 if z >= 0.0 else e) / (1.0 + e) - y

    def curvature(self, y, z):
        e = exp(-abs(z))
        return e / ((1.0 + e) * (1.0 + e))

    def domain_error(self, y):
        return None


class Hinge(NamedTuple):
    """``max(0, 1 - t·z)`` with t = 2y - 1 for y in {0, 1}: the loss of the support vector machine.

    ``dual`` holds, for the dual problem per unit of weight, the upper bound of a variable and the curvature
    of its cost.

    References
    ----------
    .. [1] Cortes, C. and Vapnik, V. (1995). "Support-vector networks". Machine Learning 20.

    Examples
    --------
    >>> from skbigmodel.losses import Hinge
    >>> Hinge().value(1.0, -0.5)
    1.5
    """

    smooth = False
    bend = np.inf
    dual = (1.0, 0.0)

    def value(self, y, z):
        return max(1.0 + z - 2.0 * y * z, 0.0)

    def derivative(self, y, z):
        return 1.0 - 2.0 * y if 1.0 + z - 2.0 * y * z > 0.0 else 0.0

    def pieces(self, y):
        """[(target, lo, hi)] of the linear pieces."""
        return [(2.0 * y - 1.0, y - 1.0, y)]

    def domain_error(self, y):
        return None


class SquaredHinge(NamedTuple):
    """``max(0, 1 - t·z)²`` with t = 2y - 1 for y in {0, 1}: smooth, and steeper for rows far on the wrong
    side.

    ``dual`` is as that of :class:`Hinge`.

    Examples
    --------
    >>> from skbigmodel.losses import SquaredHinge
    >>> SquaredHinge().value(1.0, -0.5)
    2.25
    """

    smooth = True
    jumps = True
    bend = 2.0
    dual = (np.inf, 0.5)

    def value(self, y, z):
        short = max(1.0 + z - 2.0 * y * z, 0.0)
        return short * short

    def derivative(self, y, z):
        return 2.0 * (1.0 - 2.0 * y) * max(1.0 + z - 2.0 * y * z, 0.0)

    def curvature(self, y, z):
        return 2.0 if 1.0 + z - 2.0 * y * z > 0.0 else 0.0

    def domain_error(self, y):
        return None


REGRESSION_LOSSES = {
    "squared_error": SquaredError,
    "huber": Huber,
    "absolute_error": AbsoluteError,
    "quantile": Quantile,
    "epsilon_insensitive": EpsilonInsensitive,
    "poisson": Poisson,
    "gamma": Gamma,
}

MARGIN_LOSSES = {"hinge": Hinge, "squared_hinge": SquaredHinge}
