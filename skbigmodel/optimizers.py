"""Optimizers: how a gradient becomes a step, for parameters that lie in one flat vector.

Each class has ``step(theta, grad, moments, t, rate)``, which moves ``theta`` in place: ``moments`` of shape
(n_moments, n_params) is its memory, zero at the start; ``t`` = 1, 2, … counts the steps; ``rate`` is the
learning rate of this step. :class:`Schedule` gives that rate.

Moments of units that no longer learn would fade into subnormal numbers, with which many processors are slow:
what is below :func:`negligible` counts as 0.
"""

from typing import NamedTuple

import numpy as np

from ._jit import jit, method


@jit
def negligible(itemsize):
    """Below this a number of so many bytes may count as 0; its square is not subnormal yet."""
    return 1e-16 if itemsize == 4 else 1e-140


@method
def step(self, theta, grad, moments, t, rate):
    """Move ``theta`` by step number ``t`` at the given rate, in place."""
    return self.step(theta, grad, moments, t, rate)


class Sgd(NamedTuple):
    """v ← momentum·v - rate·grad; theta ← theta + v, or theta + momentum·v - rate·grad with ``nesterov``.

    Parameters
    ----------
    momentum : float, default=0.0
        Share of the last step that is repeated; 0 is plain gradient descent.
    nesterov : bool, default=False
        Look one step of the momentum ahead.

    References
    ----------
    I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and momentum in
    deep learning", ICML (2013).

    Examples
    --------
    >>> import numpy as np
    >>> from skbigmodel.optimizers import Sgd
    >>> theta = np.array([1.0])
    >>> Sgd().step(theta, np.array([4.0]), np.zeros((1, 1)), 1, 0.25)
    >>> theta
    array([0.])
    """

    momentum: float = 0.0
    nesterov: bool = False
    n_moments = 1

    def step(self, theta, grad, moments, t, rate):
        v, number = moments[0], theta.dtype.type  # arithmetic in the width of theta
        momentum, rate = number(self.momentum), number(rate)
        small, zero = number(negligible(theta.itemsize) ** 2), number(0.0)
        for j in range(theta.size):
            moved = momentum * v[j] - rate * grad[j]
            v[j] = zero if abs(moved) < small else moved
            theta[j] += momentum * v[j] - rate * grad[j] if self.nesterov else v[j]


class Adam(NamedTuple):
    """theta ← theta - rate·m̂/(√v̂ + epsilon), with bias-corrected running means m̂ of grad and v̂ of grad².

    As in scikit-learn, the corrections are put into the rate, so that ``epsilon`` is compared with √v
    itself.

    Parameters
    ----------
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay per step of the two means.
    epsilon : float, default=1e-8
        Keeps the quotient finite.
    weight_decay : float, default=0.0
        Decoupled decay: theta also shrinks by rate·weight_decay·theta.

    References
    ----------
    D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR (2015);
    I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR (2019).

    Examples
    --------
    >>> import numpy as np
    >>> from skbigmodel.optimizers import Adam
    >>> theta = np.array([1.0])
    >>> Adam().step(theta, np.array([4.0]), np.zeros((2, 1)), 1, 0.1)
    >>> theta.round(6)
    array([0.9])
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    n_moments = 2

    def step(self, theta, grad, moments, t, rate):
        """Move ``theta`` and the running means in ``moments`` (2, n_params), as step number t."""
        m, v, number = moments[0], moments[1], theta.dtype.type  # arithmetic in the width of theta
        corrected = number(rate * np.sqrt(1.0 - self.beta_2**t) / (1.0 - self.beta_1**t))
        keep_m, keep_v, epsilon = number(self.beta_1), number(self.beta_2), number(self.epsilon)
        add_m, add_v = number(1.0 - self.beta_1), number(1.0 - self.beta_2)
        decay, small, zero = number(rate * self.weight_decay), number(negligible(theta.itemsize)), number(0.0)
        for j in range(theta.size):
            g = zero if abs(grad[j]) < small else grad[j]
            mean, square = keep_m * m[j] + add_m * g, keep_v * v[j] + add_v * (g * g)
            m[j] = zero if abs(mean) < small * small else mean
            v[j] = zero if square < small * small else square
            theta[j] -= corrected * m[j] / (np.sqrt(v[j]) + epsilon) + decay * theta[j]


@method
def at(self, t):
    """Rate of step number ``t``."""
    return self.at(t)


class Schedule(NamedTuple):
    """rate / (1 + t/horizon)**power: constant at first, then falling; the default is constant throughout.

    Parameters
    ----------
    rate : float
        Learning rate at the start.
    power : float, default=0.0
        1 is the classical rate of stochastic approximation, 1/2 < power < 1 goes with averaged iterates.
    horizon : float, default=1.0
        Steps after which the rate has fallen to rate/2**power.

    References
    ----------
    L. Bottou, "Stochastic gradient descent tricks", in "Neural Networks: Tricks of the Trade", Springer
    (2012).

    Examples
    --------
    >>> from skbigmodel.optimizers import Schedule
    >>> Schedule(rate=0.5, power=1.0, horizon=10.0).at(10)
    0.25
    """

    rate: float
    power: float = 0.0
    horizon: float = 1.0

    def at(self, t):
        return self.rate / (1.0 + t / self.horizon) ** self.power


# Shapes of a rate over a whole training: the factor of the first rate at a share t of the way, 0 <= t <= 1.


def cosine(t):
    """From 1 down to 0 along half a cosine."""
    return 0.5 * (1.0 + np.cos(np.pi * t))


def coslog4(t):
    """Four times up from 0 to 1 and down again, each time for longer (Holzmüller et al., 2024)."""
    return 0.5 * (1.0 - np.cos(2.0 * np.pi * np.log2(1.0 + 15.0 * t)))


def onecycle(t):
    """From 1/25 up to 1 in the first three tenths, then down to nearly 0 (Smith and Topin, 2018)."""
    up, down = 0.5 * (1.0 - np.cos(np.pi * t / 0.3)), cosine((t - 0.3) / 0.7)
    return np.where(t < 0.3, 0.04 + 0.96 * up, 4e-6 + (1.0 - 4e-6) * down)


SCHEDULES = {"cosine": cosine, "coslog4": coslog4, "onecycle": onecycle}
