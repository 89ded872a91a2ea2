"""Activations of hidden layers: what a unit makes of its raw input ``z``, and the derivative beside it.

Each class has ``forward(z)``, the output ``a``, and ``backward(z, a)``, the derivative there, which may use
``a = forward(z)``. An activation of your own is a ``NamedTuple`` with the same two methods of one number; it
runs jitted wherever the built-in ones do.

References
----------
D. Hendrycks and K. Gimpel, "Gaussian error linear units", arXiv:1606.08415 (2016);
S. Elfwing, E. Uchibe and K. Doya, "Sigmoid-weighted linear units", Neural Networks 107 (2018);
G. Klambauer et al., "Self-normalizing neural networks", NIPS (2017);
D. Misra, "Mish: a self regularized non-monotonic activation function", BMVC (2020).
"""

import math
from typing import NamedTuple

from ._jit import exp, expm1, log1p_unit, method


@method
def forward(self, z):
    """Output of a unit."""
    return self.forward(z)


@method
def backward(self, z, a):
    """Derivative of the output in ``z``, where ``a`` is the output there."""
    return self.backward(z, a)


class Identity(NamedTuple):
    """``z``: layers without a bend in between."""

    def forward(self, z):
        return z

    def backward(self, z, a):
        return 1.0


class Logistic(NamedTuple):
    """``1 / (1 + exp(-z))``."""

    glorot_share = 1 / 3  # of the usual variance of initial weights: as in scikit-learn

    def forward(self, z):
        e = exp(-abs(z))
        return (1.0 if z >= 0.0 else e) / (1.0 + e)

    def backward(self, z, a):
        return a * (1.0 - a)


class Tanh(NamedTuple):
    """The hyperbolic tangent."""

    def forward(self, z):
        e = expm1(2.0 * z)
        return e / (e + 2.0)

    def backward(self, z, a):
        return 1.0 - a * a


class Relu(NamedTuple):
    """``max(z, 0)``."""

    def forward(self, z):
        return 0.0 if z <= 0.0 else z  # NaN stays NaN

    def backward(self, z, a):
        return 1.0 if z > 0.0 else 0.0


class LeakyRelu(NamedTuple):
    """``z`` above 0, ``slope·z`` below.

    Parameters
    ----------
    slope : float, default=0.01
        Derivative for negative ``z``.

    Examples
    --------
    >>> from skbigmodel.activations import LeakyRelu
    >>> LeakyRelu(slope=0.25).forward(-2.0)
    -0.5
    """

    slope: float = 0.01

    def forward(self, z):
        return z if z > 0.0 else self.slope * z

    def backward(self, z, a):
        return 1.0 if z > 0.0 else self.slope


class Elu(NamedTuple):
    """``z`` above 0, ``alpha·(exp(z) - 1)`` below.

    Parameters
    ----------
    alpha : float, default=1.0
        Minus the limit for very negative ``z``.

    Examples
    --------
    >>> from skbigmodel.activations import Elu
    >>> round(Elu(alpha=2.0).forward(-100.0), 6)
    -2.0
    """

    alpha: float = 1.0

    def forward(self, z):
        e = self.alpha * expm1(z)
        return z if z > 0.0 else e

    def backward(self, z, a):
        return 1.0 if z > 0.0 else a + self.alpha


class Selu(NamedTuple):
    """``scale`` times ELU, with constants that keep mean 0 and variance 1 from layer to layer."""

    alpha: float = 1.6732632423543772
    scale: float = 1.0507009873554805

    def forward(self, z):
        e = self.alpha * expm1(z)
        return self.scale * (z if z > 0.0 else e)

    def backward(self, z, a):
        return self.scale if z > 0.0 else a + self.scale * self.alpha


class Gelu(NamedTuple):
    """``z·Φ(z)`` with the normal distribution function Φ."""

    def forward(self, z):
        return 0.5 * z * math.erfc(-z * 0.7071067811865476)  # exact in the tail, too

    def backward(self, z, a):
        density = 0.3989422804014327 * exp(-0.5 * z * z)
        return 0.5 * math.erfc(-z * 0.7071067811865476) + z * density


class Silu(NamedTuple):
    """``z / (1 + exp(-z))``, also called swish."""

    def forward(self, z):
        e = exp(-abs(z))
        return z * (1.0 if z >= 0.0 else e) / (1.0 + e)

    def backward(self, z, a):
        e = exp(-abs(z))
        p = (1.0 if z >= 0.0 else e) / (1.0 + e)
        return p + a * (1.0 - p)


class Mish(NamedTuple):
    """``z·tanh(log(1 + exp(z)))``."""

    def forward(self, z):
        softplus = max(z, 0.0) + log1p_unit(exp(-abs(z)))
        e = expm1(-2.0 * softplus)
        return -z * e / (e + 2.0)

    def backward(self, z, a):
        e = exp(-abs(z))
        softplus = max(z, 0.0) + log1p_unit(e)
        t = expm1(-2.0 * softplus)
        t = -t / (t + 2.0)
        return t + z * (1.0 - t * t) * (1.0 if z >= 0.0 else e) / (1.0 + e)


ACTIVATIONS = {
    "identity": Identity,
    "logistic": Logistic,
    "tanh": Tanh,
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "elu": Elu,
    "selu": Selu,
    "gelu": Gelu,
    "silu": Silu,
    "mish": Mish,
}
