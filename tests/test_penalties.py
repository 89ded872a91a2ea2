"""Penalties: value, gradient, proximal operator and optimality residual against their definitions."""

import inspect

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skbigmodel import penalties
from skbigmodel._jit import jit
from skbigmodel.penalties import ElasticNet, prox

# parameters with which to try each class of the module; a new class fails here until it is listed
PARAMETERS = {
    "ElasticNet": [(l1, l2, positive) for l1 in (0.0, 0.3) for l2 in (0.0, 0.7) for positive in (False, True)]
}
CLASSES = [cls for _, cls in inspect.getmembers(penalties, inspect.isclass) if hasattr(cls, "prox")]
ALL_PENALTIES = [cls(*params) for cls in CLASSES for params in PARAMETERS[cls.__name__]]
every_penalty = pytest.mark.parametrize("penalty", ALL_PENALTIES, ids=str)


def coefficients(penalty, n=31):
    """Some of either sign, some zero; none negative where that is forbidden."""
    w = np.random.default_rng(0).normal(size=n)
    w[::4] = 0.0
    return np.abs(w) if penalty.positive else w


@jit
def prox_in_a_kernel(penalty, w, step, out):
    for j in range(w.shape[0]):
        out[j] = prox(penalty, w[j], step)


def test_every_penalty_is_listed():
    """No class without parameters to try it with."""
    assert {cls.__name__ for cls in CLASSES} == set(PARAMETERS)


@every_penalty
def test_value(penalty):
    """l1·Σ|w| + l2/2·Σw²."""
    w = coefficients(penalty)
    expected = sum(penalty.l1 * abs(v) + penalty.l2 * v * v / 2 for v in w)
    assert_allclose(penalty.value(w), expected, rtol=1e-13)


@every_penalty
def test_gradient_is_that_of_the_l2_part(penalty):
    """Central differences of the value without its l1 part."""
    w, smooth = coefficients(penalty), penalty._replace(l1=0.0)
    step = 1e-5 * np.eye(len(w))
    slopes = [(smooth.value(w + h) - smooth.value(w - h)) / 2e-5 for h in step]
    assert_allclose(penalty.gradient(w), slopes, atol=1e-9)


@every_penalty
@pytest.mark.parametrize("step", [0.01, 1.0, 20.0])
def test_prox_minimises(penalty, step):
    """No u on a fine grid around it has a smaller (u - w)²/2 + step·penalty(u)."""
    grid = np.concatenate([np.linspace(-3, 3, 601), np.linspace(-0.01, 0.01, 401)])
    grid = grid[grid >= 0] if penalty.positive else grid

    def costs(u, w):
        return (u - w) ** 2 / 2 + step * (penalty.l1 * np.abs(u) + penalty.l2 * u * u / 2)

    for w in (-2.5, -0.3, -0.002, 0.0, 0.001, 0.3, 1.7):
        u = penalty.prox(w, step)
        assert u >= 0 or not penalty.positive
        assert costs(u, w) <= costs(grid, w).min() + 1e-15
        assert costs(u, w) <= costs(np.array([0.999 * u, 1.001 * u]), w).min() + 1e-15


@every_penalty
def test_prox_in_a_kernel(penalty):
    """Jitted and plain agree to rounding, and in what is exactly zero."""
    w = np.random.default_rng(1).normal(size=50)
    out = np.empty_like(w)
    prox_in_a_kernel(penalty, w, 0.8, out)
    plain = np.array([penalty.prox(v, 0.8) for v in w])
    assert_allclose(out, plain, rtol=1e-15)
    assert_array_equal(out == 0, plain == 0)


@every_penalty
def test_residual_is_the_smallest_subgradient(penalty):
    """Where w = 0 the penalty has an interval of slopes:
    of all sums with the gradient the nearest to 0 counts.
    """
    w = coefficients(penalty)
    grad = np.random.default_rng(2).normal(size=len(w))
    # slopes of l1·|w| and of the bound w >= 0, whose slopes at 0 are all numbers <= 0
    least = np.where(w > 0, penalty.l1, -penalty.l1)
    most = np.where(w < 0, -penalty.l1, penalty.l1)
    if penalty.positive:
        least[w == 0] = -np.inf
    nearest = np.clip(0.0, grad + least, grad + most)
    assert_allclose(penalty.residual(w, grad), np.abs(nearest), rtol=1e-14, atol=1e-15)


@every_penalty
def test_residual_vanishes_at_fixed_points_of_the_prox(penalty):
    """w is optimal exactly where a proximal gradient step does not move it."""
    w = coefficients(penalty)
    grad = -penalty.l1 * np.sign(w)  # optimal where w is not 0, ...
    grad[w == 0] = np.linspace(-1.0, 1.0, (w == 0).sum())  # ... here and there where it is
    step, ridge = 0.5, penalty._replace(l2=0.0)
    moved = np.array([ridge.prox(v, step) for v in w - step * grad])
    assert_array_equal(penalty.residual(w, grad) < 1e-15, np.abs(moved - w) < 1e-15)
    assert (penalty.residual(w, grad) > 0.1).any() and (penalty.residual(w, grad) == 0).any()


def test_smooth():
    """Only l2 alone, with free signs, suits plain gradient methods."""
    assert [
        penalty.smooth for penalty in (ElasticNet(0.0, 1.0), ElasticNet(0.1, 1.0), ElasticNet(0.0, 1.0, True))
    ] == [True, False, False]
