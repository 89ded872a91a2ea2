"""The numbers of a well-known tutorial on gradient descent, through the estimators."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression

from skbigmodel import GDLinearRegressor, GDLogisticClassifier

STEPS = {"solver": "gd", "learning_rate": 0.01, "max_iter": 1000, "tol": 0}
LINE = {"coef_init": [-1.37495129], "intercept_init": -0.35399391}
CLASSES = {"coef_init": [0.90082649], "intercept_init": -1.16514984}


@pytest.fixture
def tutorial():
    """100 points on a line with noise, and whether x lies in the right half."""
    state = np.random.get_state()
    np.random.seed(0)
    x = np.random.rand(100, 1)
    y = 2 * x + 1 + np.random.randn(100, 1)
    np.random.set_state(state)
    return x, y.ravel(), (x > 0.5).ravel().astype(int)


def test_line(tutorial):
    """1000 steps of 0.01 from a given start, to seven digits."""
    x, y, _ = tutorial
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model = GDLinearRegressor(**STEPS).fit(x, y, **LINE)
    assert_allclose(model.intercept_, 1.74029182, atol=1e-7)
    assert_allclose(model.coef_, [0.9144811], atol=1e-7)
    assert model.n_iter_ == len(model.loss_curve_) == 1000 and model.solver_ == "gd"
    assert_allclose(model.loss_curve_[-1], np.mean((y - model.predict(x)) ** 2) / 2, rtol=1e-12)


def test_line_as_a_loop(tutorial):
    """Each entry of the curve is that of the loop written out."""
    x, y, _ = tutorial
    w, b, curve = -1.37495129, -0.35399391, []
    for _ in range(50):
        r = w * x[:, 0] + b - y
        w, b = w - 0.01 * np.mean(r * x[:, 0]), b - 0.01 * np.mean(r)
        curve.append(np.mean((w * x[:, 0] + b - y) ** 2) / 2)
    with pytest.warns(ConvergenceWarning):
        model = GDLinearRegressor(**{**STEPS, "max_iter": 50}).fit(x, y, **LINE)
    assert_allclose(model.loss_curve_, curve, rtol=1e-13)
    assert_allclose([model.coef_[0], model.intercept_], [w, b], rtol=1e-13)


def test_line_to_the_optimum(tutorial):
    """What the loop was heading for."""
    x, y, _ = tutorial
    model, twin = GDLinearRegressor().fit(x, y), LinearRegression().fit(x, y)
    assert_allclose(model.coef_, twin.coef_, rtol=1e-12)
    assert_allclose(model.intercept_, twin.intercept_, rtol=1e-12)


def test_classes(tutorial):
    """The same for the logistic loss, without a penalty."""
    x, _, y = tutorial
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model = GDLogisticClassifier(C=np.inf, **STEPS).fit(x, y, **CLASSES)
    assert_allclose(model.intercept_, [-0.8766377], atol=1e-7)
    assert_allclose(model.coef_, [[1.98079617]], atol=1e-7)
    assert model.n_iter_ == len(model.loss_curve_) == 1000


@pytest.mark.parametrize("threshold", [0.6, 0.55])
def test_stop_at_a_loss(tutorial, threshold):
    """The first of the loop's iterates whose loss is low enough, and no warning: that was the aim."""
    x, y, _ = tutorial
    with pytest.warns(ConvergenceWarning):
        whole = GDLinearRegressor(**STEPS).fit(x, y, **LINE)
    model = GDLinearRegressor(loss_threshold=threshold, **STEPS).fit(x, y, **LINE)
    first = int(np.argmax(np.array(whole.loss_curve_) <= threshold))
    assert 0 < first < 999
    assert model.loss_curve_ == whole.loss_curve_[: first + 1] and model.n_iter_ == first + 1
    assert model.loss_curve_[-1] <= threshold < model.loss_curve_[-2]


def test_network(monkeypatch, tmp_path, capsys):
    """The example's loop by hand and the estimator end at the same epoch with the same loss."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "train_a_network.py"))
    assert_allclose(found["model"].loss_curve_, found["losses"], rtol=1e-9)
    assert found["model"].loss_ <= 0.1 and (tmp_path / "network_loss.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("471 epochs") == 2
