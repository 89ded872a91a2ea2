"""Field reports NUM: conditioning, overflow, zero penalties, divergence, memory order, constant columns."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning

from skbigmodel import GDLinearRegressor, GDLogisticClassifier


def newton_logistic(X, y, C):
    """(w, b) at the minimum of C Σ log-loss + ½‖w‖², b free: Newton with step halving in scaled columns."""
    scale, ones = X.std(axis=0), np.ones((len(X), 1))
    A = np.hstack([X / scale, ones])
    ridge = np.append(1 / scale**2, 0.0) / C  # ½‖w‖²/C in the coordinates u = w·scale

    def objective(theta):
        z = A @ theta
        return np.sum(np.logaddexp(0, z) - y * z) + ridge @ theta**2 / 2

    theta = np.zeros(A.shape[1])
    for _ in range(100):
        p = expit(A @ theta)
        gradient = A.T @ (p - y) + ridge * theta
        step = np.linalg.solve(A.T @ (A * (p * (1 - p))[:, None]) + np.diag(ridge), gradient)
        while objective(theta - step) > objective(theta) + 1e-12:
            step /= 2
        theta = theta - step
    return theta[:-1] / scale, theta[-1]


def badly_scaled(n, scale, seed):
    """Normal columns of the given spreads and labels from a logit in the standardised columns."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((n, len(scale)))
    y = (rng.random(n) < expit(u @ np.linspace(1, -1.5, len(scale)) + 0.5)).astype(int)
    return u * scale, y


def credit(n=2000):
    """A 0/1 flag, a balance and a raw income, with default drawn from a known logit."""
    rng = np.random.default_rng(3)
    X = np.column_stack([rng.integers(0, 2, n), rng.uniform(0, 2500, n), rng.uniform(1e4, 7e4, n)])
    return X, (rng.random(n) < expit(X @ [-0.6, 3e-3, 1e-5] - 4)).astype(int)


def test_num_01_unscaled_columns():
    """NUM-01: default settings reach Newton's coefficients on columns of spread 1e-3 and 1e4, silently."""
    scale = np.array([1e-3, 1e4])
    X, y = badly_scaled(400, scale, seed=0)
    w, b = newton_logistic(X, y, C=1.0)
    model = GDLogisticClassifier(C=1.0).fit(X, y)
    assert_allclose(model.coef_[0] * scale, w * scale, rtol=1e-3)
    assert_allclose(model.intercept_, [b], rtol=1e-3)


def test_num_03_probabilities_of_very_negative_scores():
    """NUM-03: softmax of far negative or far apart scores stays exact, finite and in step with predict."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 2))
    model = GDLogisticClassifier().fit(X, np.arange(60) % 3)
    model.coef_, model.intercept_ = np.zeros((3, 2)), np.array([-1000.0, -1001.0, -1002.0])
    proba = model.predict_proba(X)
    assert_allclose(proba, np.broadcast_to([0.665241, 0.244728, 0.090031], (60, 3)), atol=5e-7)
    assert_allclose(proba.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert_array_equal(model.predict(X), model.classes_[proba.argmax(axis=1)])
    model.intercept_ = np.array([1e4, 0.0, -1e4])
    assert_array_equal(model.predict_log_proba(X[:1]), [[0, -1e4, -2e4]])
    assert_array_equal(model.predict_proba(X[:1]), [[1, 0, 0]])


@pytest.mark.parametrize("score", [-1e4, -800.0, -40.0, 800.0])
def test_num_03_binary_log_probabilities(score):
    """NUM-03: with two classes, too, the smaller log-probability is the score and not -inf."""
    X = np.array([[-1.0], [1.0], [0.0], [0.5]])
    model = GDLogisticClassifier().fit(X, [0, 1, 1, 0])
    model.coef_, model.intercept_ = np.zeros((1, 1)), np.array([score])
    expected = [-np.logaddexp(0, score), -np.logaddexp(0, -score)]
    assert_allclose(model.predict_log_proba(X[:1]), [expected], rtol=1e-12)
    assert_allclose(model.predict_proba(X[:1]), [[expit(-score), expit(score)]], rtol=1e-12)


def test_num_04_zero_penalty_regression(solver):
    """NUM-04: alpha=0 is least squares for every solver, and the mixing of no penalty has no effect."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((50, 3))
    y = X @ [1.0, -2.0, 0.5] + 3 + rng.standard_normal(50)
    expected = np.linalg.lstsq(np.column_stack([X, np.ones(50)]), y, rcond=None)[0]
    params = {"alpha": 0.0, "solver": solver, "tol": 1e-8, "max_iter": 10_000, "random_state": 0}
    model = GDLinearRegressor(**params).fit(X, y)
    assert_allclose(np.append(model.coef_, model.intercept_), expected, rtol=1e-6)
    assert_array_equal(GDLinearRegressor(l1_ratio=0.7, **params).fit(X, y).coef_, model.coef_)


def test_num_04_zero_penalty_classification(solver):
    """NUM-04: C=inf is maximum likelihood for every solver, and the mixing of no penalty has no effect."""
    X, y = badly_scaled(50, np.ones(3), seed=5)
    w, b = newton_logistic(X, y, np.inf)
    params = {"C": np.inf, "solver": solver, "tol": 1e-8, "max_iter": 10_000, "random_state": 0}
    model = GDLogisticClassifier(**params).fit(X, y)
    assert_allclose(np.append(model.coef_, model.intercept_), np.append(w, b), rtol=1e-5)
    assert_array_equal(GDLogisticClassifier(l1_ratio=0.7, **params).fit(X, y).coef_, model.coef_)


@pytest.mark.parametrize("learning_rate", [0.1, 0.3, 0.5])
def test_num_04_step_sizes_without_penalty(case, learning_rate):
    """NUM-04: a step size given by the user does not need a penalty either."""
    X, y = case.data(n=50, d=3)
    expected = case(solver="newton-cg", **case.free).fit(X, y)
    model = case(solver="gd", learning_rate=learning_rate, max_iter=100_000, **case.free).fit(X, y)
    assert_allclose(model.coef_, expected.coef_, rtol=1e-6)
    assert_allclose(model.intercept_, expected.intercept_, rtol=1e-6)


def test_num_05_huge_values(case):
    """NUM-05: values of 1e200, whose squares overflow, are an error that says so; nothing is fitted."""
    X = 1e200 * np.random.default_rng(0).standard_normal((60, 4))
    model = case.make()
    with pytest.raises(ValueError, match="X holds values too large"):
        model.fit(X, (X[:, 0] > 0).astype(int))
    assert not hasattr(model, "coef_")


@pytest.mark.parametrize("solver", ["gd", "sgd"])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_num_08_large_constant_step(solver, layout):
    """NUM-08: steps so long that least squares diverges are an error that names the time and the cure."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 4))
    y = X @ [1.0, -1.0, 2.0, 0.0]
    model = GDLinearRegressor(solver=solver, learning_rate=1e3, random_state=0)
    with pytest.raises(ValueError, match=r"iteration \d+.*diverged.*learning_rate"):
        model.fit(layout(X), y)
    assert not hasattr(model, "coef_")


def test_num_08_bounded_gradients_with_a_large_step():
    """NUM-08: without a penalty the gradient of 3 classes is bounded: long steps wander, and that is told."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 4))
    y = np.digitize(X[:, 0] + rng.standard_normal(150), [-0.5, 0.5])
    with pytest.warns(ConvergenceWarning):
        model = GDLogisticClassifier(C=np.inf, solver="gd", learning_rate=1e3).fit(X, y)
    assert np.abs(model.coef_).max() < 1e4 and np.isfinite(model.predict_proba(X)).all()


def test_num_08_noise_free_large_scale(solver):
    """NUM-08: X of 1e3 and y of 1e6 times a column: every solver finds the column, without divergence."""
    u = np.random.default_rng(0).standard_normal((200, 4))
    X, y = 1e3 * u, 1e6 * u[:, 0]
    model = GDLinearRegressor(solver=solver, random_state=0).fit(X, y)
    assert_allclose(model.coef_, [1e3, 0, 0, 0], atol=1e-1)
    assert model.score(X, y) > 0.99999


def test_num_10_solvers_agree_on_raw_incomes(solver):
    """NUM-10: on raw credit data every solver gives the probabilities of Newton's method, silently."""
    X, y = credit()
    w, b = newton_logistic(X, y, np.inf)
    model = GDLogisticClassifier(C=np.inf, solver=solver, random_state=0).fit(X, y)
    assert_allclose(model.predict_proba(X)[:, 1], expit(X @ w + b), rtol=0, atol=1e-4)


def test_num_11_memory_order(case):
    """NUM-11: wide, nearly constant columns predict the same from C and Fortran order."""
    rng = np.random.default_rng(0)
    X = rng.normal(100, 0.1, (100, 1000))
    y = rng.standard_normal(100) if case.kind == "regressor" else np.arange(100) % 2
    c_order = case.make().fit(X, y)
    f_order = case.make().fit(np.asfortranarray(X), y)
    for data in (X, np.asfortranarray(X)):
        assert_allclose(case.raw(f_order, data), case.raw(c_order, X), rtol=1e-6, atol=1e-9)


def test_num_11_data_frame(case, pandas):
    """NUM-11: a pandas DataFrame of the same values predicts the same."""
    X, y = case.data(n=50, d=200)
    frame = pandas.DataFrame(X, columns=[f"x{j}" for j in range(200)])
    expected = case.raw(case.make().fit(X, y), X)
    assert_allclose(case.raw(case.make().fit(frame, y), frame), expected, rtol=1e-9, atol=1e-12)


def test_num_14_constant_and_zero_columns(case, solver, layout):
    """NUM-14: a zero column and a column of sevens change nothing and get no coefficient."""
    X, y = case.data(n=100, d=1)
    padded = np.column_stack([X, np.zeros(100), np.full(100, 7.0)])
    expected = case(solver=solver, random_state=0).fit(X, y)
    model = case(solver=solver, random_state=0).fit(layout(padded), y)
    assert model.coef_.ravel()[1] == 0
    assert_allclose(model.coef_.ravel()[2], 0, atol=1e-6)
    assert_allclose(case.raw(model, padded), case.raw(expected, X), rtol=1e-6, atol=1e-6)


def test_num_14_constant_columns_without_penalty(layout):
    """NUM-14: the same for plain least squares, where the padded problem has rank 1 + intercept."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 1))
    y = 2 * X[:, 0] + rng.standard_normal(100)
    slope, intercept = np.polyfit(X[:, 0], y, 1)
    model = GDLinearRegressor().fit(layout(np.column_stack([X, np.zeros(100), np.full(100, 7.0)])), y)
    assert_allclose(model.coef_, [slope, 0, 0], atol=1e-10)
    assert_allclose(model.intercept_, intercept, rtol=1e-10)
