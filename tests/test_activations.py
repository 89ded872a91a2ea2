"""Activations: values against SciPy, derivatives against differences, in kernels as in plain Python."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import special

from skbigmodel import _jit
from skbigmodel.activations import ACTIVATIONS, Elu, LeakyRelu
from skbigmodel.passes_network import activate

Z = np.concatenate([np.linspace(-30, 30, 2001) + 1e-3, [-800.0, 800.0, -1e-12, 1e-12]])
SOFTPLUS = np.logaddexp(0, Z)
SELU = 1.0507009873554805 * np.where(Z > 0, Z, 1.6732632423543772 * np.expm1(np.minimum(Z, 0)))
VALUES = {
    "identity": Z,
    "logistic": special.expit(Z),
    "tanh": np.tanh(Z),
    "relu": np.maximum(Z, 0),
    "leaky_relu": np.where(Z > 0, Z, 0.01 * Z),
    "elu": np.where(Z > 0, Z, np.expm1(np.minimum(Z, 0))),
    "selu": SELU,
    "gelu": Z * special.ndtr(Z),
    "silu": Z * special.expit(Z),
    "mish": Z * np.tanh(SOFTPLUS),
}
ALL = [*(cls() for cls in ACTIVATIONS.values()), LeakyRelu(slope=0.3), Elu(alpha=2.5)]


def test_every_activation_has_a_reference():
    """A new one must be added here, too."""
    assert set(VALUES) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values(name):
    """To the last digits, in the tails as well; compiled code rounds no worse."""
    activation = ACTIVATIONS[name]()
    assert_allclose([activation.forward(z) for z in Z], VALUES[name], rtol=1e-13, atol=1e-300)
    compiled = Z[:, None].copy()
    activate(compiled, _jit.frozen(np.zeros(1)), activation)
    assert_allclose(compiled[:, 0], VALUES[name], rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_derivatives(activation):
    """Central differences of the value."""
    for z in np.linspace(-6, 6, 101) + 1e-3:
        difference = (activation.forward(z + 1e-5) - activation.forward(z - 1e-5)) / 2e-5
        assert_allclose(activation.backward(z, activation.forward(z)), difference, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_is_seen(name):
    """A diverged network must not look healthy."""
    assert np.isnan(ACTIVATIONS[name]().forward(np.nan))


def test_corner_of_relu():
    """At 0 the derivative is 0, as in scikit-learn; no negative zeros."""
    relu = ACTIVATIONS["relu"]()
    assert relu.backward(0.0, 0.0) == 0.0
    assert_array_equal(np.signbit([relu.forward(-3.0), relu.forward(0.0)]), False)


def test_leaky_relu_without_a_leak():
    """It is the plain one, derivative included."""
    plain, leaky = ACTIVATIONS["relu"](), LeakyRelu(slope=0.0)
    for z in Z:
        assert (leaky.forward(z), leaky.backward(z, 0.0)) == (plain.forward(z), plain.backward(z, 0.0))


def test_expm1():
    """As exact near 0 as elsewhere."""
    x = np.concatenate([np.linspace(-40, 40, 4001), np.logspace(-300, 2, 500), -np.logspace(-300, 2, 500)])
    assert_allclose([_jit.expm1(v) for v in x], np.expm1(x), rtol=4e-16)
