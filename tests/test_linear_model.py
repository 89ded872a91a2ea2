"""The linear models' contract: scikit-learn's checks, the twins' optima,
and what the fitted attributes mean.
"""

from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import log_softmax
from sklearn import linear_model as twins
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_losses import evaluate

from skbigmodel import GDLinearRegressor, GDLogisticClassifier
from skbigmodel.losses import REGRESSION_LOSSES, EpsilonInsensitive, Huber, Quantile
from skbigmodel.solvers.newton import Newton

EXACT = {"tol": 1e-12, "max_iter": 100_000}
NEWTON = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}
LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_array}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
either_weight = pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])


def data(n=80, p=5, seed=0):
    """Correlated columns, a noisy linear target, weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + 0.5 * rng.normal(size=(n, 1))
    y = X @ np.linspace(1.5, -1.0, p) + 0.7 + rng.normal(size=n)
    return X, y, rng.uniform(0.5, 2.0, n)


@parametrize_with_checks([GDLinearRegressor(), GDLogisticClassifier()])
def test_scikit_learn_checks(estimator, check):
    """All of them, with no expected failures."""
    check(estimator)


# -- twins -----------------------------------------------------------------------------------------

REGRESSORS = {
    "LinearRegression": (GDLinearRegressor(), twins.LinearRegression()),
    "LinearRegression, positive": (
        GDLinearRegressor(positive=True, **EXACT),
        twins.LinearRegression(positive=True),
    ),
    "Ridge": (GDLinearRegressor(alpha=0.3), twins.Ridge(alpha=0.3, tol=1e-14)),
    "Lasso": (GDLinearRegressor(alpha=0.1, l1_ratio=1.0, **EXACT), twins.Lasso(alpha=0.1, **EXACT)),
    "ElasticNet": (
        GDLinearRegressor(alpha=0.1, l1_ratio=0.4, **EXACT),
        twins.ElasticNet(0.1, l1_ratio=0.4, **EXACT),
    ),
    "ElasticNet, positive": (
        GDLinearRegressor(alpha=0.1, l1_ratio=0.4, positive=True, **EXACT),
        twins.ElasticNet(0.1, l1_ratio=0.4, positive=True, **EXACT),
    ),
    "PoissonRegressor": (
        GDLinearRegressor(loss="poisson", alpha=0.2, **EXACT),
        twins.PoissonRegressor(alpha=0.2, **NEWTON),
    ),
    "GammaRegressor": (
        GDLinearRegressor(loss="gamma", alpha=0.2, **EXACT),
        twins.GammaRegressor(alpha=0.2, **NEWTON),
    ),
}


@either_weight
@pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
@every_layout
@pytest.mark.parametrize("name", REGRESSORS)
def test_regression_twins(name, layout, fit_intercept, weighted):
    """The same objective with the same parameters: the same coefficients."""
    model, twin = (clone(one).set_params(fit_intercept=fit_intercept) for one in REGRESSORS[name])
    X, y, s = data()
    y = np.exp(y / 3) if name in ("PoissonRegressor", "GammaRegressor") else y
    s = s if weighted else None
    if name == "Ridge":  # its penalty is not divided by the weight of the data
        twin.set_params(alpha=0.3 * (len(y) if s is None else s.sum()))
    solvable = X if name == "LinearRegression, positive" else LAYOUTS[layout](X)
    model.fit(LAYOUTS[layout](X), y, sample_weight=s)
    twin.fit(X if layout == "csr" and name == "LinearRegression" else solvable, y, sample_weight=s)
    assert_allclose(model.coef_, twin.coef_, rtol=1e-6, atol=1e-7)
    assert_allclose(model.intercept_, twin.intercept_, rtol=1e-6, atol=1e-7)
    assert model.coef_.shape == twin.coef_.shape and np.ndim(model.intercept_) == 0
    assert_allclose(model.predict(X), twin.predict(X), rtol=1e-6)
    assert_allclose(model.to_sklearn().predict(X), model.predict(X), rtol=1e-12)


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_quantile_regression(quantile, alpha):
    """QuantileRegressor, with its l1 penalty."""
    X, y, s = data()
    model = GDLinearRegressor(loss=Quantile(quantile), alpha=alpha, l1_ratio=1.0, tol=1e-9).fit(X, y, s)
    # its alpha is the same, though its documentation puts it beside the mean of the losses
    twin = twins.QuantileRegressor(quantile=quantile, alpha=alpha).fit(X, y, s)
    assert_allclose(model.coef_, twin.coef_, atol=1e-5)
    assert_allclose(model.intercept_, twin.intercept_, atol=1e-5)
    assert_allclose(np.mean(s * (y <= model.predict(X) + 1e-4)) / s.mean(), quantile, atol=0.1)


@either_weight
@pytest.mark.parametrize(
    "class_weight", [None, "balanced", {0: 1.0, 1: 3.0, 2: 0.5}], ids=["none", "balanced", "dict"]
)
@pytest.mark.parametrize("C", [0.05, 1.0, np.inf])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_classification_twin(n_classes, C, class_weight, weighted):
    """LogisticRegression with the same C and weights; without a penalty, and binary and multinomial."""
    X, y, s = data(150, 4)
    y = np.digitize(y, np.quantile(y, np.arange(1, n_classes) / n_classes))
    class_weight = (
        {k: class_weight[k] for k in range(n_classes)} if isinstance(class_weight, dict) else class_weight
    )
    params = {"C": C, "class_weight": class_weight}
    model = GDLogisticClassifier(**params, **EXACT).fit(X, y, s if weighted else None)
    twin = twins.LogisticRegression(**params, **NEWTON).fit(X, y, s if weighted else None)
    for name in ("coef_", "intercept_"):
        ours, theirs = getattr(model, name), getattr(twin, name)
        if n_classes > 2:  # what the twin leaves undetermined without a penalty
            theirs = theirs - theirs.mean(axis=0)
        assert ours.shape == theirs.shape
        assert_allclose(ours, theirs, atol=1e-6)
    assert_allclose(model.predict_proba(X), twin.predict_proba(X), atol=1e-7)
    assert_array_equal(model.predict(X), twin.predict(X))
    exported = model.to_sklearn()
    assert_array_equal(exported.predict(X), model.predict(X))
    assert_allclose(exported.predict_proba(X), model.predict_proba(X), rtol=1e-12, atol=1e-15)


@every_layout
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_sparse_classification_twin(l1_ratio, n_classes, layout):
    """With an l1 part the objective is at most the twin's, and its zeros are zeros."""
    X, y, _ = data(150, 6)
    y = np.digitize(y, np.quantile(y, np.arange(1, n_classes) / n_classes))
    model = GDLogisticClassifier(C=0.05, l1_ratio=l1_ratio, tol=1e-9, max_iter=10_000).fit(
        LAYOUTS[layout](X), y
    )
    twin = twins.LogisticRegression(C=0.05, l1_ratio=l1_ratio, solver="saga", tol=1e-12, max_iter=50_000).fit(
        X, y
    )
    assert_allclose(model.coef_, twin.coef_, atol=1e-6)
    assert_array_equal(model.coef_ == 0, np.abs(twin.coef_) < 1e-9)
    assert (model.coef_ == 0).any()


# -- attributes ------------------------------------------------------------------------------------

LOSSES = {
    **REGRESSION_LOSSES,
    "huber with delta": lambda: Huber(0.5),
    "tube": lambda: EpsilonInsensitive(0.3),
}


@pytest.mark.parametrize("l1_ratio", [0.0, 0.6])
@pytest.mark.parametrize("name", LOSSES)
def test_curve_of_a_regressor(name, l1_ratio):
    """Its last entry is the mean form of the objective at the coefficients, and no entry before is lower."""
    X, y, s = data()
    y, loss = np.exp(y / 3), LOSSES[name]()
    given = name if name in REGRESSION_LOSSES else loss
    model = GDLinearRegressor(loss=given, alpha=0.2, l1_ratio=l1_ratio).fit(X, y, s)
    w = model.coef_
    penalty = 0.2 * (l1_ratio * np.abs(w).sum() + (1 - l1_ratio) / 2 * w @ w)
    expected = s @ evaluate(loss.value, y, X @ w + model.intercept_) / s.sum() + penalty
    assert_allclose(model.loss_curve_[-1], expected, rtol=1e-12)
    assert min(model.loss_curve_) >= expected * (1 - 1e-12)
    assert len(model.loss_curve_) == model.n_iter_ and model.optimality_ <= 1e-4
    assert model.dual_gap_ <= 1e-9 * expected


@pytest.mark.parametrize("C", [0.3, np.inf])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_curve_of_a_classifier(n_classes, C):
    """The same for log-losses: divided by C·Σs; the optimality is the largest entry of the gradient."""
    X, y, s = data()
    y = np.digitize(y, np.quantile(y, np.arange(1, n_classes) / n_classes))
    model = GDLogisticClassifier(C=C).fit(X, y, s)
    Z = model.decision_function(X)
    Z = np.column_stack([np.zeros(len(y)), Z]) if n_classes == 2 else Z
    expected = -s @ log_softmax(Z, axis=1)[np.arange(len(y)), y] / s.sum()
    expected += (model.coef_**2).sum() / 2 / (C * s.sum())
    # of the parameters that give the same probabilities coef_ has the smallest: the penalty may be a bit less
    assert_allclose(model.loss_curve_[-1], expected, rtol=1e-12 if n_classes == 2 else 1e-9)
    G = s[:, None] * (np.exp(log_softmax(Z, axis=1)) - np.eye(n_classes)[y]) / s.sum()
    G = G[:, 1:] if n_classes == 2 else G
    slopes = np.column_stack([G.T @ X + model.coef_ / (C * s.sum()), G.sum(axis=0)])
    assert_allclose(model.optimality_, np.abs(slopes).max(), atol=1e-12 if n_classes == 2 else 1e-6)
    assert model.optimality_ <= 1e-4 and model.n_iter_ == [len(model.loss_curve_)]


@pytest.mark.parametrize(
    "params, expected",
    [
        ({}, "least-squares"),
        ({"alpha": 1.0}, "least-squares"),
        ({"alpha": 1.0, "l1_ratio": 0.5}, "cd"),
        ({"positive": True}, "cd"),
        ({"loss": "huber"}, "newton"),
        ({"loss": "poisson"}, "newton"),
        ({"loss": "quantile"}, "interior-point"),
        ({"loss": EpsilonInsensitive(0.2)}, "interior-point"),
        ({"solver": "liblinear"}, "least-squares"),
        ({"solver": "lbfgs"}, "lbfgs"),
    ],
)
def test_solver(params, expected):
    """The choice of "auto", and the names that mean it."""
    X, y, _ = data()
    assert GDLinearRegressor(**params).fit(X, np.exp(y)).solver_ == expected


def test_solvers_that_cannot():
    """They are refused with the reason and the names of those that can."""
    X, y, _ = data()
    with pytest.raises(ValueError, match="'lbfgs' cannot reach the optimum.*l1 penalty.*'auto'.*'cd'"):
        GDLinearRegressor(solver="lbfgs", alpha=0.1, l1_ratio=1.0).fit(X, y)
    with pytest.raises(ValueError, match="'gd' cannot reach the optimum.*kinks.*'interior-point'"):
        GDLinearRegressor(solver="gd", loss="absolute_error").fit(X, y)
    with pytest.raises(ValueError, match="'nonsense' is not known.*'auto'"):
        GDLinearRegressor(solver="nonsense").fit(X, y)


@pytest.mark.parametrize("width", [np.float32, np.float64])
def test_width_of_coefficients(width):
    """That of X; predictions have it too."""
    X, y, _ = data()
    for model in (
        GDLinearRegressor().fit(X.astype(width), y),
        GDLogisticClassifier().fit(X.astype(width), y > 0),
        GDLinearRegressor(loss="huber").fit(sparse.csr_array(X.astype(width)), y),
    ):
        assert model.coef_.dtype == np.asarray(model.intercept_).dtype == width
    assert GDLinearRegressor().fit(X.astype(width), y).predict(X.astype(width)).dtype == width
    assert GDLinearRegressor().fit((10 * X).astype(int), y).coef_.dtype == np.float64


def test_several_targets():
    """Each is a fit of its own, with its own penalty; the curve is their sum."""
    X, y, s = data()
    Y, alphas = np.column_stack([y, -2 * y + X[:, 0] ** 2, np.abs(y)]), np.array([0.1, 0.0, 1.0])
    params = {"loss": "huber", "tol": 1e-10}
    model = GDLinearRegressor(alpha=alphas, **params).fit(X, Y, s)
    assert model.coef_.shape == (3, 5) and model.intercept_.shape == model.dual_gap_.shape == (3,)
    alone = [GDLinearRegressor(alpha=alpha, **params).fit(X, Y[:, t], s) for t, alpha in enumerate(alphas)]
    for t, single in enumerate(alone):
        assert_array_equal(model.coef_[t], single.coef_)
        assert model.intercept_[t] == single.intercept_
        assert_allclose(model.predict(X)[:, t], single.predict(X), rtol=1e-13)
    assert model.n_iter_ == max(single.n_iter_ for single in alone)
    assert_allclose(model.loss_curve_[-1], sum(single.loss_curve_[-1] for single in alone), rtol=1e-13)
    assert GDLinearRegressor().fit(X, Y[:, :1]).coef_.shape == (1, 5)


def test_sparsify():
    """Sparse coefficients and back: the same predictions."""
    X, y, _ = data()
    lasso = GDLinearRegressor(alpha=0.6, l1_ratio=1.0).fit(X, y)
    assert_array_equal(lasso.sparse_coef_.toarray(), lasso.coef_[None])
    for model in (lasso, GDLogisticClassifier(C=0.03, l1_ratio=1.0).fit(X, y > 0)):
        coef, predicted = model.coef_.copy(), model.predict(X)
        assert sparse.issparse(model.sparsify().coef_) and model.coef_.nnz < coef.size
        assert_allclose(model.predict(X), predicted, rtol=1e-12)
        assert_array_equal(model.densify().coef_.ravel(), coef.ravel())


# -- one's own -------------------------------------------------------------------------------------


class LogCosh(NamedTuple):
    """A user's own loss: log cosh(scale·(z - y))/scale²."""

    scale: float = 1.0
    smooth = True
    bend = 1.0

    def value(self, y, z):
        r = self.scale * abs(z - y)
        return (r + np.log1p(np.exp(-2 * r)) - np.log(2.0)) / self.scale**2

    def derivative(self, y, z):
        return np.tanh(self.scale * (z - y)) / self.scale

    def curvature(self, y, z):
        return 1.0 - np.tanh(self.scale * (z - y)) ** 2

    def domain_error(self, y):
        return None if self.scale > 0 else "scale must be positive"


class OwnSolver(Newton):
    """A user's own solver: Newton's method under another name."""

    name = "own"


@pytest.mark.parametrize("solver", ["auto", "gd", "lbfgs", "newton-cg", OwnSolver])
def test_own_loss_and_solver(solver):
    """A NamedTuple with three formulas serves in every smooth solver, a class as a solver:
    all find one optimum.
    """
    X, y, s = data()
    model = GDLinearRegressor(loss=LogCosh(2.0), solver=solver, tol=1e-8, max_iter=10_000).fit(X, y, s)
    slopes = s * np.tanh(2.0 * (model.predict(X) - y)) / 2.0
    assert_allclose(X.T @ slopes / s.sum(), 0.0, atol=1e-8)
    assert_allclose(slopes.sum() / s.sum(), 0.0, atol=1e-8)
    assert model.solver_ == {"auto": "newton", OwnSolver: "own"}.get(solver, solver)
    assert clone(model).loss == LogCosh(2.0)


def test_own_loss_with_l1():
    """Coordinate descent needs its curvature; the optimality conditions hold."""
    X, y, _ = data()
    model = GDLinearRegressor(loss=LogCosh(), alpha=0.4, l1_ratio=1.0, tol=1e-8).fit(X, y)
    grad = X.T @ np.tanh(model.predict(X) - y) / len(y)
    assert_allclose(grad[model.coef_ != 0], -0.4 * np.sign(model.coef_[model.coef_ != 0]), atol=1e-7)
    assert np.abs(grad).max() <= 0.4 + 1e-7 and (model.coef_ == 0).any()


def test_own_loss_refuses_targets():
    """Its sentence reaches the user with the name of the parameter."""
    X, y, _ = data()
    with pytest.raises(ValueError, match="loss=.*scale must be positive"):
        GDLinearRegressor(loss=LogCosh(-1.0)).fit(X, y)
