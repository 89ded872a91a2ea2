"""Losses: formulas against a second writing of them, derivatives against differences,
plain against jitted.
"""

import inspect

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skbigmodel import losses
from skbigmodel._jit import jit
from skbigmodel.losses import curvature, derivative, model_curvature, value

# every class of the module that is a loss: a new one is tested by being there
CLASSES = [cls for _, cls in inspect.getmembers(losses, inspect.isclass) if hasattr(cls, "derivative")]
VARIANTS = {
    "Huber": [{"delta": 0.4}],
    "Quantile": [{"quantile": 0.15}, {"quantile": 0.9}],
    "EpsilonInsensitive": [{"epsilon": 0.0}, {"epsilon": 0.6}],
}
ALL_LOSSES = [cls(**params) for cls in CLASSES for params in [{}, *VARIANTS.get(cls.__name__, [])]]
SMOOTH = [loss for loss in ALL_LOSSES if loss.smooth]
KINKED = [loss for loss in ALL_LOSSES if not loss.smooth]

# the value once more, in NumPy and in other words
FORMULAS = {
    "SquaredError": lambda _, y, z: (y - z) ** 2 / 2,
    "Huber": lambda loss, y, z: np.where(
        np.abs(y - z) < loss.delta, (y - z) ** 2 / 2, loss.delta * np.abs(y - z) - loss.delta**2 / 2
    ),
    "EpsilonInsensitive": lambda loss, y, z: np.clip(np.abs(y - z) - loss.epsilon, 0, None),
    "AbsoluteError": lambda _, y, z: np.abs(y - z),
    "Quantile": lambda loss, y, z: np.where(y > z, loss.quantile, 1 - loss.quantile) * np.abs(y - z),
    "Poisson": lambda _, y, z: np.exp(z) - y * z,
    "Gamma": lambda _, y, z: y / np.exp(z) + z,
    "Logistic": lambda _, y, z: np.logaddexp(0, z) - y * z,
    "Hinge": lambda _, y, z: np.where(y == 1, np.clip(1 - z, 0, None), np.clip(1 + z, 0, None)),
    "SquaredHinge": lambda _, y, z: np.clip(1 - np.where(y == 1, z, -z), 0, None) ** 2,
}


def named(loss):
    return f"{type(loss).__name__}{tuple(loss)}"


def points(loss, n=400):
    """Targets that the loss allows, and predictions; none within 1e-3 of a kink."""
    rng = np.random.default_rng(0)
    z = rng.uniform(-4, 4, n)
    y = rng.uniform(-4, 4, n)
    if type(loss).__name__ in ("Poisson", "Gamma"):
        y = np.abs(y) + 0.01
    if type(loss).__name__ in ("Logistic", "Hinge", "SquaredHinge"):
        y = (y > 0) * 1.0
        z = z[np.abs(np.abs(z) - 1) > 1e-3]
        y = y[: len(z)]
    bends = [0.0, *loss]  # |y - z| where a formula changes, for the losses of a residual
    far = np.all([np.abs(np.abs(y - z) - bend) > 1e-3 for bend in bends], axis=0)
    return y[far], z[far]


def evaluate(function, y, z):
    """A formula entry by entry: the methods are written for scalars."""
    return np.array([function(a, b) for a, b in zip(y.tolist(), z.tolist(), strict=True)])


@jit
def in_a_kernel(loss, y, z, out):
    for i in range(y.shape[0]):
        out[0, i] = value(loss, y[i], z[i])
        out[1, i] = derivative(loss, y[i], z[i])


@jit
def curved_in_a_kernel(loss, y, z, out):
    for i in range(y.shape[0]):
        out[0, i] = curvature(loss, y[i], z[i])
        out[1, i] = model_curvature(loss, y[i], z[i])


def test_every_loss_has_a_formula_here():
    """The list comes from the module, so that a new loss cannot be forgotten."""
    assert {cls.__name__ for cls in CLASSES} == set(FORMULAS)
    assert set(losses.REGRESSION_LOSSES.values()) < set(CLASSES)
    tables = {*losses.REGRESSION_LOSSES.values(), *losses.MARGIN_LOSSES.values()}
    assert tables | {losses.Logistic} == set(CLASSES)


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=named)
def test_value(loss):
    """The formula, to rounding."""
    y, z = points(loss)
    assert_allclose(
        evaluate(loss.value, y, z), FORMULAS[type(loss).__name__](loss, y, z), rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=named)
def test_derivative(loss):
    """The slope of the value, by central differences."""
    y, z = points(loss)
    h = 1e-5
    slope = (evaluate(loss.value, y, z + h) - evaluate(loss.value, y, z - h)) / (2 * h)
    assert_allclose(evaluate(loss.derivative, y, z), slope, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("loss", SMOOTH, ids=named)
def test_curvature(loss):
    """The slope of the derivative, by central differences; never negative, never above ``bend``."""
    y, z = points(loss)
    h = 1e-5
    slope = (evaluate(loss.derivative, y, z + h) - evaluate(loss.derivative, y, z - h)) / (2 * h)
    curved = evaluate(loss.curvature, y, z)
    assert_allclose(curved, slope, rtol=1e-8, atol=1e-8)
    assert curved.min() >= 0.0 and curved.max() <= loss.bend
    if np.isfinite(loss.bend):
        assert loss.curvature(0.0, 0.0) == loss.bend


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=named)
def test_convexity(loss):
    """A chord lies above the function."""
    y, z = points(loss)
    other = z[::-1]
    middle = evaluate(loss.value, y, (z + other) / 2)
    assert (middle <= (evaluate(loss.value, y, z) + evaluate(loss.value, y, other)) / 2 + 1e-12).all()


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=named)
def test_jitted_and_plain_agree(loss):
    """The same class in a kernel and as Python, for all its formulas."""
    y, z = points(loss)
    out = np.empty((2, len(y)))
    in_a_kernel(loss, y, z, out)
    assert_allclose(out[0], evaluate(loss.value, y, z), rtol=1e-14, atol=1e-14)
    assert_allclose(out[1], evaluate(loss.derivative, y, z), rtol=1e-14, atol=1e-14)
    if loss.smooth:
        curved_in_a_kernel(loss, y, z, out)
        assert_allclose(out[0], evaluate(loss.curvature, y, z), rtol=1e-14)
        assert_allclose(out[1], evaluate(lambda a, b: model_curvature(loss, a, b), y, z), rtol=1e-14)


@pytest.mark.parametrize("loss", SMOOTH, ids=named)
def test_model_curvature_never_vanishes(loss):
    """It is the curvature where that is positive, and positive where that is not, unless the loss is flat."""
    y, z = points(loss)
    curved, model = evaluate(loss.curvature, y, z), evaluate(lambda a, b: model_curvature(loss, a, b), y, z)
    assert_array_equal(model[curved > 0], curved[curved > 0])
    assert model[evaluate(loss.derivative, y, z) != 0].min() > 0


@pytest.mark.parametrize("loss", KINKED, ids=named)
def test_pieces_make_up_piecewise_linear_losses(loss):
    """Their sum is the value; at a kink the derivative is a subgradient."""
    y, z = points(loss)
    expected = sum(np.maximum(lo * (target - z), hi * (target - z)) for target, lo, hi in loss.pieces(y))
    assert_allclose(evaluate(loss.value, y, z), expected, rtol=1e-13, atol=1e-14)
    for target, lo, hi in loss.pieces(np.array([1.0])):
        assert -np.max(hi) <= loss.derivative(1.0, target[0]) <= -np.min(lo)


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=named)
def test_nan_is_not_lost(loss):
    """A prediction that is not a number makes the sum not a number, so divergence is seen."""
    out = np.empty((2, 1))
    in_a_kernel(loss, np.ones(1), np.array([np.nan]), out)
    assert np.isnan(out[0, 0])
    assert np.isnan(loss.value(1.0, np.nan))


@pytest.mark.parametrize("z", [0.0, 1e-300, 1.0, 36.0, 40.0, 700.0, 1e5, 1e300])
def test_logistic_is_exact_for_any_logit(z):
    """Both tails to a relative 1e-15 or so, down to where exp(-z) is no normal number; no overflow."""
    loss = losses.Logistic()
    tail = np.exp(-min(z, 708.0))
    for sign, y in ((1.0, 1.0), (-1.0, 0.0)):  # the right side of each class: a tiny loss
        assert_allclose(loss.value(y, sign * z), np.log1p(tail), rtol=1e-14)
        assert_allclose(abs(loss.derivative(y, sign * z)), tail / (1 + tail), rtol=1e-14, atol=2e-16)
        assert_allclose(loss.value(1 - y, sign * z), z + np.log1p(tail), rtol=1e-14)
    assert_allclose(loss.curvature(0.0, z), tail / (1 + tail) ** 2, rtol=1e-14)
    assert loss.curvature(1.0, -z) == loss.curvature(1.0, z)


@pytest.mark.parametrize(
    "loss, y, words",
    [
        (losses.Huber(delta=0.0), [1.0], "delta must be positive"),
        (losses.EpsilonInsensitive(epsilon=-0.1), [1.0], "epsilon must not be negative"),
        (losses.Quantile(quantile=1.0), [1.0], "strictly between 0 and 1"),
        (losses.Quantile(quantile=0.0), [1.0], "strictly between 0 and 1"),
        (losses.Poisson(), [1.0, -1e-9], "y >= 0"),
        (losses.Poisson(), [0.0, 0.0], "some y > 0"),
        (losses.Gamma(), [1.0, 0.0], "y > 0"),
    ],
)
def test_domain_errors(loss, y, words):
    """A sentence that names the parameter or what y must be."""
    assert words in loss.domain_error(np.array(y))


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=named)
def test_allowed_targets(loss):
    """What the loss is made for raises nothing."""
    assert loss.domain_error(points(loss)[0]) is None


@pytest.mark.parametrize("loss", [loss for loss in ALL_LOSSES if hasattr(loss, "mean")], ids=named)
def test_link(loss):
    """The link inverts the mean, and the loss of one target is least where the mean is the target."""
    y = np.array([0.3, 1.0, 7.0])
    assert_allclose(loss.mean(loss.link(y)), y, rtol=1e-14)
    assert_allclose(evaluate(loss.derivative, y, loss.link(y)), 0.0, atol=1e-14)
