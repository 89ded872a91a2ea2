"""Field reports SVM: support vector machines, the linear kernel."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import SGDClassifier

from skbigmodel import GDSVC

TWO_POINTS = np.array([[-1.0], [1.0]])


def overlapping(n=300, d=10, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    score = X @ np.linspace(1, -1, d) + 2 * rng.standard_normal(n)
    return X, np.digitize(score, np.quantile(score, np.arange(1, n_classes) / n_classes))


@pytest.mark.parametrize("scaling", [np.inf, 1.0], ids=["free", "scaled"])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_svm_01_two_points(layout, scaling):
    """SVM-01: w = 2C up to 1 for the hinge, 4C/(1 + 4C) for its square; b = 0."""
    X = layout(TWO_POINTS)
    for params, w in [({"C": 0.25}, 0.5), ({"C": 1.0}, 1.0), ({"loss": "squared_hinge"}, 0.8)]:
        model = GDSVC(intercept_scaling=scaling, **params).fit(X, ["no", "yes"])
        assert_allclose(model.coef_, [[w]], rtol=1e-7)
        assert_allclose(model.intercept_, [0.0], atol=1e-8)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_svm_01_a_shift_changes_the_intercept_only(loss):
    """SVM-01: data at X + 100."""
    X, y = overlapping()
    plain, shifted = (GDSVC(loss=loss, tol=1e-8).fit(data, y) for data in (X, X + 100.0))
    assert_allclose(shifted.coef_, plain.coef_, atol=1e-6)
    assert_allclose(shifted.intercept_, plain.intercept_ - 100.0 * plain.coef_.sum(), atol=1e-4)
    penalised = GDSVC(loss=loss, intercept_scaling=1.0).fit(X + 100.0, y)
    assert abs(penalised.coef_ - plain.coef_).max() > 1e-4


def test_svm_03_probabilities_agree_with_predictions():
    """SVM-03: there is no predict_proba of its own; calibrated, its largest is the class predicted."""
    assert not hasattr(GDSVC().fit([[-1.0, -1.0], [1.0, 1.0]], [0, 1]), "predict_proba")
    X, y = overlapping(30, 3, n_classes=3)
    model = CalibratedClassifierCV(GDSVC(), ensemble=False).fit(X, y)
    assert_array_equal(model.predict(X), model.classes_[model.predict_proba(X).argmax(axis=1)])
    with pytest.raises(ValueError, match="n_splits"):
        CalibratedClassifierCV(GDSVC()).fit([[-1.0, -1.0], [1.0, 1.0]], [0, 1])


@pytest.mark.parametrize("params", [
    {}, {"multi_class": "ovo"}, {"loss": "squared_hinge"}, {"solver": "dual"}, {"intercept_scaling": 1.0},
    {"loss": "squared_hinge", "multi_class": "ovo", "fit_intercept": False},
    {"loss": "squared_hinge", "l1_ratio": 1.0},
], ids=str)  # fmt: skip
def test_svm_06_iterations_are_counted(params):
    """SVM-06: the same number in every fit, at least 1 and at most max_iter, and no false warning."""
    X, y = overlapping(90, 4, n_classes=3)
    counts = [np.array(GDSVC(max_iter=10**7, C=0.1, **params).fit(X, y).n_iter_) for _ in range(5)]
    assert all(np.array_equal(count, counts[0]) for count in counts)
    assert (counts[0] >= 1).all() and (counts[0] <= 10**7).all()
    assert counts[0].shape == ((3,) if params.get("multi_class") == "ovo" else ())


def test_svm_07_alpha_of_stochastic_descent():
    """SVM-07: C = 1 / (alpha·n)."""
    X, y = overlapping()
    for alpha in (0.1, 1.0):
        model = GDSVC(C=1.0 / (alpha * len(y)), fit_intercept=False).fit(X, y)
        twin = SGDClassifier(alpha=alpha, fit_intercept=False, learning_rate="optimal", average=3_000_000,
                             max_iter=20_000, tol=None, random_state=0).fit(X, y)  # fmt: skip
        assert_allclose(model.coef_, twin.coef_, atol=1e-3)


def test_svm_09_defaults_converge_on_ordinary_data():
    """SVM-09: digits, and columns of scales 1e-3 to 1e3, without a warning (which would be an error)."""
    X, y = load_digits(return_X_y=True)
    assert GDSVC().fit(X[:1347], y[:1347]).score(X[1347:], y[1347:]) > 0.85
    X, y = load_breast_cancer(return_X_y=True)
    for loss in ("hinge", "squared_hinge"):
        assert GDSVC(loss=loss).fit(X, y).score(X, y) > 0.95


SOLVERS = ["auto", "gd", "nesterov", "lbfgs", "newton", "newton-cg", "saga", "cd", "sgd", "adam", "dual",
           "interior-point", "least-squares", "liblinear"]  # fmt: skip


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5])
def test_svm_12_every_pair_works_or_is_refused(loss, l1_ratio, solver):
    """SVM-12: the optimum, or an error that lists the solvers which reach it."""
    X, y = overlapping(80, 3)
    params = {"C": 0.1, "loss": loss, "l1_ratio": l1_ratio, "max_iter": 10_000, "random_state": 0}
    best = GDSVC(**params).fit(X, y)
    model = GDSVC(**params, solver=solver)
    try:
        model.fit(X, y)
    except ValueError as error:
        assert f"solver={solver!r} cannot reach the optimum" in str(error)
        assert f"'auto', {best.solver_!r}" in str(error) or repr(best.solver_) in str(error)
        assert solver not in ("auto", "liblinear", best.solver_)
    else:
        assert min(model.loss_curve_) == pytest.approx(min(best.loss_curve_), rel=1e-8)
