"""Field reports OPT, UX-09, FEA-05: the optimum is that of the documented objective, attributes tell it."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import brentq, nnls
from scipy.special import expit, log_softmax
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge

from skbigmodel import GDLinearRegressor, GDLogisticClassifier

EXACT = {"tol": 1e-10, "max_iter": 10_000, "random_state": 0}
TWO_POINTS = np.array([[-1.0], [1.0]])


SMOOTH_ONLY = ("gd", "lbfgs", "newton-cg", "adam")


def lands_or_names_others(model, X, y):
    """Fit with an l1 penalty, and return True; a solver for smooth objectives must say which are able."""
    if model.solver not in SMOOTH_ONLY:
        model.fit(X, y)
        return True
    able = "'auto', .*'nesterov', .*'saga'"
    with pytest.raises(ValueError, match=f"solver='{model.solver}' cannot reach.*{able}"):
        model.fit(X, y)
    return False


def test_opt_01_free_intercept_classifier(solver):
    """OPT-01: labels 3:1 and no informative column give ln 3, the unpenalised intercept."""
    X, y = np.zeros((4, 1)), [0, 1, 1, 1]
    model = GDLogisticClassifier(C=1.0, solver=solver, **EXACT).fit(X, y)
    assert_allclose(model.intercept_, [np.log(3)], rtol=1e-7)
    assert_allclose(model.predict_proba(X)[:, 1], 0.75, rtol=1e-7)
    assert_array_equal(model.coef_, [[0.0]])


def test_opt_01_free_intercept_multinomial(solver):
    """OPT-01: with 3 classes 1:2:3 the probabilities are the shares, and the intercepts sum to 0."""
    X, y = np.zeros((6, 1)), [0, 1, 1, 2, 2, 2]
    model = GDLogisticClassifier(C=1.0, solver=solver, **EXACT).fit(X, y)
    assert_allclose(model.predict_proba(X[:1]), [[1 / 6, 2 / 6, 3 / 6]], rtol=1e-7)
    assert_allclose(model.intercept_, np.log([1, 2, 3]) - np.log(6) / 3, atol=1e-7)


def test_opt_01_free_intercept_regression(solver):
    """OPT-01: a strong penalty leaves the mean 4 as the intercept."""
    model = GDLinearRegressor(alpha=100.0, solver=solver, **EXACT).fit(np.zeros((4, 1)), [1.0, 3.0, 5.0, 7.0])
    assert_allclose(model.intercept_, 4.0, rtol=1e-7)
    assert_array_equal(model.coef_, [0.0])


def test_opt_02_sparse_regression_with_intercept(layout, solver):
    """OPT-02: columns far from 0 and an intercept: w and 10 are recovered from each layout."""
    rng = np.random.default_rng(0)
    X = rng.normal(5, 1, (1000, 2))
    y = X @ [2.0, -3.0] + 10
    model = GDLinearRegressor(solver=solver, **EXACT).fit(layout(X), y)
    assert_allclose(model.coef_, [2, -3], rtol=1e-6)
    assert_allclose(model.intercept_, 10, rtol=1e-6)


@pytest.mark.parametrize("alpha, l1_ratio", [(0.5, 0.0), (0.5, 1.0), (0.5, 0.3)])
def test_opt_02_sparse_penalised_regression(layout, alpha, l1_ratio):
    """OPT-02: ridge, lasso and elastic net agree with scikit-learn's dense optimum from each layout."""
    rng = np.random.default_rng(0)
    X = rng.normal(5, 1, (1000, 2))
    y = X @ [2.0, -3.0] + 10
    twin = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, tol=1e-12, max_iter=100_000)
    if l1_ratio == 0:  # ElasticNet warns that it is not made for this
        twin = Ridge(alpha=alpha * len(X))
    twin.fit(X, y)
    model = GDLinearRegressor(alpha=alpha, l1_ratio=l1_ratio, **EXACT).fit(layout(X), y)
    assert_allclose(model.coef_, twin.coef_, rtol=1e-6)
    assert_allclose(model.intercept_, twin.intercept_, rtol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_opt_02_sparse_classification_with_intercept(layout, n_classes):
    """OPT-02: logistic regression on columns far from 0 agrees with scikit-learn from each layout."""
    rng = np.random.default_rng(0)
    X = rng.normal(5, 1, (1000, 2))
    score = X @ [2.0, -3.0] + 3 * rng.standard_normal(1000)
    y = np.digitize(score, np.quantile(score, np.arange(1, n_classes) / n_classes))
    twin = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)
    model = GDLogisticClassifier(**EXACT).fit(layout(X), y)
    assert_allclose(model.coef_, twin.coef_, rtol=1e-6)
    assert_allclose(model.intercept_, twin.intercept_, rtol=1e-6)


def test_opt_04_l1_ratio_regression(solver):
    """OPT-04: the elastic net of 5 points has the closed form (6 - 0.2) / (2 + 0.3)."""
    X = np.arange(-2.0, 3.0)[:, None]
    model = GDLinearRegressor(alpha=0.5, l1_ratio=0.4, fit_intercept=False, solver=solver, **EXACT)
    if lands_or_names_others(model, X, 3 * X[:, 0]):
        assert_allclose(model.coef_, [5.8 / 2.3], rtol=1e-8)


def test_opt_04_l1_ratio_classifier(solver):
    """OPT-04: two points, l1_ratio=0.4: 2/(1 + e^w) = 0.4 + 0.6 w."""
    w = brentq(lambda w: 2 / (1 + np.exp(w)) - 0.4 - 0.6 * w, 0, 2, xtol=1e-14)
    model = GDLogisticClassifier(C=1.0, l1_ratio=0.4, fit_intercept=False, solver=solver, **EXACT)
    if lands_or_names_others(model, TWO_POINTS, [0, 1]):
        assert_allclose(model.coef_, [[w]], rtol=1e-8)


def test_opt_04_end_points():
    """OPT-04: l1_ratio=1 is the lasso and 0 is ridge."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3))
    y = X @ [3.0, -1.0, 0.05] + rng.standard_normal(40)
    lasso = Lasso(alpha=0.2, tol=1e-14, max_iter=100_000).fit(X, y)
    ridge = Ridge(alpha=0.2 * 40, solver="cholesky").fit(X, y)
    for l1_ratio, twin in ((1.0, lasso), (0.0, ridge)):
        model = GDLinearRegressor(alpha=0.2, l1_ratio=l1_ratio, **EXACT).fit(X, y)
        assert_allclose(model.coef_, twin.coef_, atol=1e-8)
    # the lasso optimum of two points at C=2 is ln 3: 4/(1 + e^w) = 1; at C=1 it is exactly 0
    for C, w in ((2.0, np.log(3)), (1.0, 0.0)):
        model = GDLogisticClassifier(C=C, l1_ratio=1.0, fit_intercept=False, **EXACT).fit(TWO_POINTS, [0, 1])
        assert_allclose(model.coef_, [[w]], atol=1e-8)


def test_opt_07_binary_coefficient_is_not_halved(solver):
    """OPT-07: one row of coefficients with the root of w = 2/(1 + e^w)."""
    model = GDLogisticClassifier(C=1.0, solver=solver, **EXACT).fit(TWO_POINTS, [0, 1])
    assert model.coef_.shape == (1, 1)
    w = brentq(lambda w: w - 2 / (1 + np.exp(w)), 0, 1, xtol=1e-14)
    assert_allclose(model.coef_, [[w]], rtol=1e-8)
    assert_allclose(model.coef_, [[0.674832]], atol=5e-7)
    assert_allclose(model.intercept_, [0], atol=1e-8)
    score = model.decision_function(TWO_POINTS)
    assert_allclose(model.predict_proba(TWO_POINTS)[:, 1], expit(score), rtol=1e-14)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_opt_09_coefficients_match_predictions(case, layout, n_classes, fit_intercept):
    """OPT-09: the raw prediction is X·w + b with the public coefficients."""
    X, y = case.data(n=200, d=6, n_classes=n_classes)
    model = case(fit_intercept=fit_intercept).fit(layout(X), y)
    raw = case.raw(model, layout(X))
    expected = X @ model.coef_.T + model.intercept_
    assert_allclose(raw, expected.reshape(raw.shape), rtol=0, atol=1e-10)
    assert fit_intercept or not np.any(model.intercept_)


def test_opt_09_coefficients_stand_at_their_columns(layout):
    """OPT-09: six clearly different true weights come back at their own places."""
    X = np.random.default_rng(0).standard_normal((200, 6))
    truth = np.array([5.0, -1.0, 3.0, 0.5, -7.0, 2.0])
    assert_allclose(GDLinearRegressor(**EXACT).fit(layout(X), X @ truth - 4).coef_, truth, rtol=1e-8)
    y = (X @ truth - 4 > 0).astype(int)
    twin = LogisticRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)
    assert_allclose(GDLogisticClassifier(**EXACT).fit(layout(X), y).coef_, twin.coef_, rtol=1e-6)


def test_opt_10_feature_ranking_of_the_default_fit():
    """OPT-10: on a wide problem with default tol the ranking of |coef| is that of a converged reference."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 500))
    y = np.argmax(X[:, :3] + X[:, 3:6] + rng.standard_normal((300, 3)), axis=1)
    reference = np.abs(LogisticRegression(tol=1e-12, max_iter=10_000).fit(X, y).coef_[0])
    size = np.abs(GDLogisticClassifier().fit(X, y).coef_[0])
    top = set(np.argsort(size)[-20:]) & set(np.argsort(reference)[-20:])
    assert len(top) >= 19
    assert spearmanr(size, reference).statistic >= 0.999


@pytest.mark.parametrize("n_classes, shapes", [(2, [(1, 1), (1,)]), (3, [(3, 1), (3,)])])
def test_opt_12_one_feature_classifier(solver, n_classes, shapes):
    """OPT-12: one column and an intercept: the optimum in the documented shapes."""
    X = np.linspace(-1, 1, 20)[:, None]
    y = np.arange(20) % n_classes
    model = GDLogisticClassifier(solver=solver, **EXACT).fit(X, y)
    assert [model.coef_.shape, model.intercept_.shape] == shapes
    twin = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    assert_allclose(model.coef_, twin.coef_, atol=1e-7)
    assert_allclose(model.intercept_, twin.intercept_, atol=1e-7)


@pytest.mark.parametrize("n", [2, 20])
def test_opt_12_one_feature_regression(solver, n):
    """OPT-12: one column, also with two rows: the line through the points."""
    X = np.linspace(-1, 1, n)[:, None]
    model = GDLinearRegressor(solver=solver, **EXACT).fit(X, 2 * X[:, 0] + 1)
    assert model.coef_.shape == (1,)
    assert np.ndim(model.intercept_) == 0
    assert_allclose([model.coef_[0], model.intercept_], [2, 1], rtol=1e-7)


def test_opt_12_two_rows_classifier(solver):
    """OPT-12: two rows, one column shifted by 3: the same w as around 0, and b = -3 w."""
    model = GDLogisticClassifier(solver=solver, **EXACT).fit(TWO_POINTS + 3, ["a", "b"])
    assert_allclose(model.coef_, [[0.674832]], atol=1e-6)
    assert_allclose(model.intercept_, -3 * model.coef_[0], rtol=1e-6)


def test_opt_14_history_proves_the_stop_regression(solver):
    """OPT-14: raw data, default tol: the history ends in the objective of coef_, the gradient below tol."""
    rng = np.random.default_rng(0)
    X, y = rng.uniform(3, 40, (24, 3)), rng.uniform(30, 50, 24)
    model = GDLinearRegressor(alpha=0.1, solver=solver, max_iter=10_000, random_state=0).fit(X, y)
    residual = model.predict(X) - y
    objective = np.mean(residual**2) / 2 + 0.05 * model.coef_ @ model.coef_
    gradient = np.append(X.T @ residual / 24 + 0.1 * model.coef_, residual.mean())
    assert_allclose(model.loss_curve_[-1], objective, rtol=1e-9)
    assert model.optimality_ <= model.tol
    assert_allclose(np.abs(gradient).max(), model.optimality_, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_opt_14_history_proves_the_stop_classifier(solver, n_classes):
    """OPT-14: the same for the classifier, with the objective in its mean form."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    y = np.digitize(X[:, 0] + rng.standard_normal(60), [-0.5, 0.5][: n_classes - 1])
    model = GDLogisticClassifier(C=0.5, solver=solver, max_iter=10_000, random_state=0).fit(X, y)
    z = model.decision_function(X).reshape(60, -1)
    z = np.column_stack([np.zeros(60), z]) if n_classes == 2 else z
    log_loss = -np.mean(log_softmax(z, axis=1)[np.arange(60), y])
    assert_allclose(model.loss_curve_[-1], log_loss + np.sum(model.coef_**2) / 2 / (0.5 * 60), rtol=1e-9)
    assert model.optimality_ <= model.tol


@pytest.mark.parametrize("solver", ["gd", "nesterov", "saga", "sgd", "adam", "lbfgs"])
def test_opt_14_an_early_end_says_why(case, solver):
    """OPT-14: the budget as the reason is told, with the parameter to raise; n_iter_ and history show it."""
    X, y = case.data(n=24, d=3)
    model = case.make(solver=solver, max_iter=1, tol=1e-14, random_state=0)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model.fit(X, y)
    assert np.ravel(model.n_iter_).tolist() == [1]
    assert 1 <= len(model.loss_curve_) <= 2
    assert model.optimality_ > 1e-14


@pytest.mark.parametrize("n_classes", [2, 3])
def test_ux_09_type_of_n_iter_classifier(solver, n_classes):
    """UX-09: n_iter_ has one type and shape, that of scikit-learn's class."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 3)), np.arange(60) % n_classes
    model = GDLogisticClassifier(solver=solver, max_iter=10_000).fit(X, y)
    twin = LogisticRegression().fit(X, y)
    assert type(model.n_iter_) is type(twin.n_iter_)
    assert (model.n_iter_.shape, model.n_iter_.dtype) == (twin.n_iter_.shape, twin.n_iter_.dtype)
    assert 1 <= model.n_iter_[0] <= 10_000


def test_ux_09_type_of_n_iter_regressor(solver):
    """UX-09: the regressor's n_iter_ is a plain int, as in ElasticNet and SGDRegressor."""
    X = np.random.default_rng(0).standard_normal((60, 3))
    model = GDLinearRegressor(alpha=0.1, solver=solver, max_iter=10_000).fit(X, X[:, 0])
    assert type(model.n_iter_) is int
    assert 1 <= model.n_iter_ <= 10_000


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_fea_05_non_negative_weights(fit_intercept):
    """FEA-05: positive=True is non-negative least squares; the truly negative weight is exactly 0."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 4))
    y = X @ [1.0, -2.0, 0.5, 3.0] + 2 + 0.1 * rng.standard_normal(100)
    centre = X.mean(axis=0) if fit_intercept else np.zeros(4)
    expected, _ = nnls(X - centre, y - (y.mean() if fit_intercept else 0))
    model = GDLinearRegressor(positive=True, fit_intercept=fit_intercept, **EXACT).fit(X, y)
    assert_allclose(model.coef_, expected, atol=1e-8)
    assert model.coef_[1] == 0
