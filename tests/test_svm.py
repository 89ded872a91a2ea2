"""GDSVC: scikit-learn's checks, the optima of its twins and of a quadratic program, schemes of classes."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from skbigmodel import GDSVC
from skbigmodel.solvers.dual import DualCoordinateDescent
from skbigmodel.multiclass import binary_problems, count_votes, scores_of_pairs
from skbigmodel.validation import is_mapped

LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_array, "float32": lambda X: X.astype(np.float32)}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_loss = pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
SCALINGS = {"free": np.inf, "scaled": 1.0, "none": None}
every_intercept = pytest.mark.parametrize("intercept", SCALINGS)


def data(n=120, p=5, n_classes=2, seed=0):
    """Classes that overlap."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)).round(3) + 0.5
    score = X @ np.linspace(1.0, -0.5, p) + rng.normal(size=n)
    return X, np.digitize(score, np.quantile(score, np.arange(1, n_classes) / n_classes))


def make(intercept="free", **params):
    params = {"tol": 1e-8, **params}
    if SCALINGS[intercept] is None:
        return GDSVC(fit_intercept=False, **params)
    return GDSVC(intercept_scaling=SCALINGS[intercept], **params)


def dense(A):
    return A.toarray() if sparse.issparse(A) else A


def objective(model, X, y, s=None, coef=None, intercept=None):
    """What a binary model minimises, once more in NumPy, at its own or other parameters."""
    w = np.ravel(model.coef_ if coef is None else coef).astype(float)
    b = float(np.ravel(model.intercept_ if intercept is None else intercept)[0])
    short = np.maximum(0.0, 1.0 - np.where(y == model.classes_[1], 1.0, -1.0) * (X @ w + b))
    short = short**2 if model.loss == "squared_hinge" else short
    ridge = (b / model.intercept_scaling) ** 2 if model.fit_intercept else 0.0
    return 0.5 * (w @ w + ridge) + model.C * (short if s is None else s * short).sum()


@parametrize_with_checks(
    [GDSVC(), GDSVC(loss="squared_hinge", intercept_scaling=1.0), GDSVC(multi_class="ovo")]
)
def test_scikit_learn_checks(estimator, check):
    """All of them, with no expected failures."""
    check(estimator)


# -- optima ----------------------------------------------------------------------------------------


@every_loss
@every_intercept
@every_layout
@pytest.mark.parametrize("C", [0.01, 1.0, 30.0])
def test_linear_twins(C, layout, intercept, loss):
    """LinearSVC, and SVC where the intercept is free: the same parameters, and no larger an objective."""
    if intercept == "free" and loss == "squared_hinge":
        pytest.skip("scikit-learn has no such model")
    X, y = data()
    model = make(intercept, C=C, loss=loss).fit(LAYOUTS[layout](X), y)
    twin = LinearSVC(C=C, loss=loss, fit_intercept=intercept != "none", tol=1e-10, max_iter=10**6)
    twin = SVC(C=C, kernel="linear", tol=1e-10) if intercept == "free" else twin
    twin.fit(LAYOUTS[layout](X).astype(float), y)
    X = LAYOUTS[layout](X).astype(float)
    twin_coef = twin.coef_.toarray() if sparse.issparse(twin.coef_) else twin.coef_
    ours = objective(model, X, y)
    theirs = objective(model, X, y, coef=twin_coef, intercept=twin.intercept_)
    assert ours <= theirs * (1 + (1e-6 if layout == "float32" else 1e-12))
    # libsvm's coefficients are sums over its support vectors, which lose digits for large C
    tolerance = 1e-4 if layout == "float32" or C == 30.0 else 1e-5
    assert_allclose(model.coef_, twin_coef, atol=tolerance)
    assert_allclose(model.intercept_, np.ravel(twin.intercept_), atol=tolerance)
    assert model.coef_.shape == twin_coef.shape and model.intercept_.shape == (1,)
    assert model.coef_.dtype == (np.float32 if layout == "float32" else np.float64)


@every_intercept
@every_loss
@pytest.mark.parametrize("shape", [(14, 2), (6, 20)], ids=str)
def test_quadratic_program(shape, loss, intercept):
    """The minimum found by SLSQP over coefficients, intercept and one slack a row, with weights."""
    X, y = data(*shape, seed=1)
    s = np.random.default_rng(2).uniform(0.2, 3.0, len(y))
    model = make(intercept, C=0.7, loss=loss, tol=1e-10).fit(X, y, s)
    (n, p), t, power = X.shape, 2.0 * y - 1.0, 2 if loss == "squared_hinge" else 1
    ridge = {"free": 0.0, "scaled": 1.0, "none": 1e6}[intercept]

    def cost(v):
        return 0.5 * (v[:p] @ v[:p] + ridge * v[p] ** 2) + 0.7 * s @ v[p + 1 :] ** power

    margins = {"type": "ineq", "fun": lambda v: t * (X @ v[:p] + v[p]) - 1.0 + v[p + 1 :]}
    bounds = [(None, None)] * p + [(0, 0) if intercept == "none" else (None, None)] + [(0, None)] * n
    start = np.r_[np.zeros(p + 1), np.ones(n)]
    program = minimize(cost, start, method="SLSQP", constraints=margins, bounds=bounds,
                       options={"ftol": 1e-14, "maxiter": 2000})  # fmt: skip
    assert objective(model, X, y, s) == pytest.approx(program.fun, rel=1e-6)
    assert objective(model, X, y, s) <= program.fun * (1 + 1e-9)


SOLVERS = {
    "hinge": ["interior-point", "dual"],
    "squared_hinge": ["dual", "newton", "newton-cg", "lbfgs", "gd", "nesterov", "saga", "sgd"],
}


@every_intercept
@pytest.mark.parametrize("loss", SOLVERS)
@pytest.mark.parametrize("shape", [(150, 3), (25, 60)], ids=str)
def test_every_solver_reaches_the_optimum(shape, loss, intercept):
    """The objective that ``"auto"`` finds, to the promised 1e-8, and a small ``optimality_``."""
    X, y = data(*shape, seed=3)
    params = {"C": 0.05, "loss": loss, "max_iter": 20_000, "random_state": 0}
    best = objective(make(intercept, **params).fit(X, y), X, y)
    for solver in SOLVERS[loss]:
        model = make(intercept, **{**params, "tol": 1e-4}, solver=solver)
        if solver == "dual" and loss == "squared_hinge" and intercept == "free":
            with pytest.raises(ValueError, match="cannot reach the optimum.*'newton-cg'"):
                model.fit(X, y)
            continue
        for layout in (np.asarray, sparse.csr_array):
            model.fit(layout(X), y)
            assert objective(model, X, y) <= best * (1 + 1e-8), solver
            assert model.solver_ == solver and model.optimality_ <= 1e-4


@every_intercept
@every_loss
def test_separable_and_wide(loss, intercept):
    """More columns than rows and a weak penalty: the gap is the duality gap, computed here."""
    X, y = data(60, 200, seed=4)
    C, t = 100.0, 2.0 * y - 1.0
    for solver in ("auto", "newton") if loss == "squared_hinge" else ("auto", "dual"):
        model = make(intercept, C=C, loss=loss, tol=1e-4, solver=solver).fit(X, y)
        value = objective(model, X, y)
        short = 1.0 - t * (X @ model.coef_[0] + model.intercept_[0])
        assert model.score(X, y) == 1.0
        if loss == "squared_hinge":  # its dual variables are known
            a = 2.0 * C * np.maximum(short, 0.0)
            w, mass = X.T @ (a * t), a @ t
            dual = a.sum() - a @ a / (4 * C) - 0.5 * (w @ w) - (0.5 * mass**2 if intercept == "scaled" else 0)
            assert intercept != "free" or abs(mass) < 1e-7
            assert value - dual <= 1e-7 * value
        else:
            twin = SVC(kernel="linear", C=C, tol=1e-9) if intercept == "free" else LinearSVC(
                loss=loss, C=C, tol=1e-10, max_iter=10**6, fit_intercept=intercept != "none")  # fmt: skip
            twin.fit(X, y)
            assert value <= objective(model, X, y, coef=twin.coef_, intercept=twin.intercept_) * (1 + 1e-9)
            assert short.max() < 1e-4


@every_loss
def test_which_solver_is_picked(loss):
    X, y = data(80, 30)
    wide = sparse.random_array((80, 2000), density=0.02, rng=np.random.default_rng(0), format="csr")
    assert GDSVC(loss=loss).fit(X, y).solver_ == {"hinge": "interior-point", "squared_hinge": "newton"}[loss]
    assert GDSVC(loss=loss, intercept_scaling=1.0).fit(wide, y).solver_ == (
        "interior-point" if loss == "hinge" else "dual"
    )
    tall = sparse.vstack([wide] * 5).tocsr()
    tall.data[:] += np.random.default_rng(1).normal(size=tall.nnz)
    assert GDSVC(loss=loss).fit(tall, np.tile(y, 5)).solver_ == ("dual" if loss == "hinge" else "newton-cg")


def test_slow_sweeps_of_the_squared_hinge_end_in_newton_steps(monkeypatch):
    C, kept = 1e3, []
    implied = DualCoordinateDescent._implied
    monkeypatch.setattr(DualCoordinateDescent, "_implied", lambda *a: kept.append(1) or implied(*a))
    rng = np.random.default_rng(0)
    X = sparse.random(400, 300, 0.05, format="csr", random_state=0)
    y = (X @ rng.normal(size=300) + 0.3 * rng.normal(size=400) > 0).astype(int)
    model = GDSVC(C=C, loss="squared_hinge", intercept_scaling=1.0, solver="dual", tol=1e-6).fit(X, y)
    assert kept  # Newton's steps were taken
    t, w = 2.0 * y - 1.0, np.append(model.coef_, model.intercept_)
    A = np.column_stack([X.toarray(), np.ones(400)])
    over = np.maximum(1.0 - t * (A @ w), 0.0)
    assert_allclose(w, 2 * C * A.T @ (t * over), rtol=1e-5, atol=1e-5 * np.abs(w).max())


@pytest.mark.parametrize("intercept", ["free", "scaled"])
def test_dual_solver_of_sparse_rows(intercept):
    """Many columns, more rows than the interior point method is used for: within 1e-8 of it."""
    rng = np.random.default_rng(5)
    X = sparse.random_array((500, 3000), density=0.01, rng=rng, format="csr")
    y = (X @ rng.normal(size=3000) + 0.3 * rng.normal(size=500) > 0.1) * 1
    s = rng.integers(0, 3, 500)
    solvers = ("auto", "interior-point")
    fits = [make(intercept, C=3.0, solver=solver, tol=1e-4).fit(X, y, s) for solver in solvers]
    assert fits[0].solver_ == "dual"
    values = [objective(model, X, y, s) for model in fits]
    assert abs(values[0] - values[1]) <= 1e-8 * values[1]
    assert_allclose(fits[0].coef_, fits[1].coef_, atol=1e-4)


def test_l1_penalty():
    """LinearSVC with penalty="l1": the same coefficients, and zeros that are zeros."""
    X, y = data(150, 12, seed=6)
    model = GDSVC(C=0.05, l1_ratio=1.0, loss="squared_hinge", fit_intercept=False, tol=1e-9).fit(X, y)
    twin = LinearSVC(C=0.05, penalty="l1", dual=False, fit_intercept=False, tol=1e-10, max_iter=10**6)
    twin.fit(X, y)
    assert model.solver_ == "cd"
    assert_allclose(model.coef_, twin.coef_, atol=1e-6)
    assert_array_equal(model.coef_ == 0.0, twin.coef_ == 0.0)
    assert 0 < (model.coef_ == 0.0).sum() < 12


def test_weights_are_repetitions_and_class_weights_multiply():
    X, y = data(90)
    s = np.random.default_rng(0).integers(0, 3, 90)
    repeated = make().fit(np.repeat(X, s, axis=0), np.repeat(y, s))
    for model in (make().fit(X, y, s), make().fit(X, np.where(s > 0, y, 1 - y), s)):
        assert_allclose(model.coef_, repeated.coef_, atol=1e-6)
        assert_allclose(model.intercept_, repeated.intercept_, atol=1e-6)
    weighted = make(class_weight={0: 1.0, 1: 2.5}).fit(X, y)
    by_hand = make().fit(X, y, np.where(y == 1, 2.5, 1.0))
    assert_allclose(weighted.coef_, by_hand.coef_, atol=1e-7)
    assert_array_equal(weighted.class_weight_, [1.0, 2.5])


@every_loss
def test_a_class_without_weight(loss):
    """Its scores are there, and it is never predicted."""
    X, y = data(60, n_classes=3)
    for scheme in ("ovr", "ovo"):
        model = GDSVC(loss=loss, multi_class=scheme).fit(X, y, (y < 2) * 1.0)
        assert model.decision_function(X).shape == (60, 3)
        assert set(model.predict(X)) == {0, 1}


# -- classes ---------------------------------------------------------------------------------------


@every_loss
def test_one_class_against_the_rest(loss):
    """LinearSVC on three classes: coefficients, scores, labels."""
    X, y = load_iris(return_X_y=True)
    y = np.array(["a", "b", "c"])[y]
    model = GDSVC(loss=loss, intercept_scaling=1.0, tol=1e-8).fit(X, y)
    twin = LinearSVC(loss=loss, tol=1e-10, max_iter=10**6).fit(X, y)
    assert model.multi_class_ == "ovr" and isinstance(model.n_iter_, int)
    assert model.coef_.shape == (3, 4) and model.intercept_.shape == (3,)
    assert_allclose(model.coef_, twin.coef_, atol=1e-4)
    assert_allclose(model.decision_function(X), twin.decision_function(X), atol=1e-3)
    assert_array_equal(model.predict(X), twin.predict(X))
    exported = model.to_sklearn()
    assert_array_equal(exported.predict(X), model.predict(X))
    assert_allclose(exported.decision_function(X), model.decision_function(X), rtol=1e-12)


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_pairs_of_classes(n_classes, layout):
    """SVC(kernel="linear"): coefficients, both shapes of scores, votes and ties."""
    X, y = data(150, n_classes=n_classes)
    s = np.random.default_rng(0).integers(0, 3, len(y))
    model = GDSVC(multi_class="ovo", tol=1e-8).fit(LAYOUTS[layout](X), y, s)
    twin = SVC(kernel="linear", tol=1e-10).fit(X, y, s)
    assert_allclose(dense(model.coef_), twin.coef_, atol=1e-5)
    assert_allclose(model.intercept_, twin.intercept_, atol=1e-5)
    assert model.n_iter_.shape == twin.n_iter_.shape
    for shape in ("ovr", "ovo"):
        model.set_params(decision_function_shape=shape)
        twin.set_params(decision_function_shape=shape)
        assert_allclose(model.decision_function(X), twin.decision_function(X), atol=1e-4)
        assert_array_equal(model.predict(X), twin.predict(X))
    if n_classes == 2:
        return
    for one in (model, twin):
        one.set_params(break_ties=True)
        with pytest.raises(ValueError, match="break_ties must be False"):
            one.predict(X)
        one.set_params(decision_function_shape="ovr")
    assert_array_equal(model.predict(X), twin.predict(X))
    assert_array_equal(model.predict(X), model.decision_function(X).argmax(axis=1))
    other = model.to_sklearn()
    assert isinstance(other, SVC)
    assert_allclose(other.decision_function(X), model.decision_function(X), atol=1e-9)
    with pytest.raises(ValueError, match="multi_class='ovr'"):
        model.set_params(loss="squared_hinge").fit(X, y).to_sklearn()


@pytest.mark.parametrize("solver, n_classes", [("auto", 2), ("auto", 3), ("dual", 2)])
@every_layout
def test_support_vectors(layout, solver, n_classes):
    """SVC(kernel="linear"): support vectors and dual variables, with weights; coefficients as it has them."""
    X, y = data(100, n_classes=n_classes)
    X, s = LAYOUTS[layout](X), np.random.default_rng(0).integers(1, 3, len(y))
    model = GDSVC(multi_class="ovo", solver=solver).fit(X, y, s)
    twin = SVC(kernel="linear", tol=1e-10).fit(X, y, s)
    assert_array_equal(model.support_, twin.support_)
    assert_array_equal(model.n_support_, twin.n_support_)
    assert_array_equal(dense(model.support_vectors_), dense(twin.support_vectors_))
    # of SVC they are no nearer to the optimum
    assert_allclose(dense(model.dual_coef_), dense(twin.dual_coef_), atol=1e-4)
    for name in ("support_vectors_", "dual_coef_", "coef_"):
        assert sparse.issparse(getattr(model, name)) == sparse.issparse(getattr(twin, name))


def test_where_support_vectors_are_not_kept(tmp_path):
    """Rows in a file stay there; fits of each class against the rest, other losses, other ends have none."""
    X, y = data(100)
    model = GDSVC(multi_class="ovo", intercept_scaling=1.0).fit(X, y)
    assert_allclose(model.dual_coef_ @ model.support_vectors_, model.coef_, atol=1e-12)
    assert_allclose(model.dual_coef_.sum(axis=1), model.intercept_, atol=1e-12)
    assert not hasattr(model.partial_fit(X, y), "dual_coef_")
    for params in ({"multi_class": "auto"}, {"loss": "squared_hinge"}):
        model.set_params(**params).fit(X, y)
        assert not any(hasattr(model, name) for name in ("support_", "support_vectors_", "dual_coef_"))
    mapped = np.memmap(tmp_path / "X", np.float64, "w+", shape=X.shape)
    mapped[:] = X
    model = GDSVC(multi_class="ovo").fit(mapped, y)
    assert not hasattr(model, "support_")
    pairs = model._sources(np.asarray(mapped), np.arange(100) % 3, None, binary_problems(3, "ovo"))
    assert all(is_mapped(blocks.X) for blocks in pairs)
    with pytest.warns(ConvergenceWarning):
        model = GDSVC(multi_class="ovo", solver="interior-point", max_iter=1).fit(*data(2400))
    assert not hasattr(model, "support_")


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_hard_margin(kernel):
    """C=inf: the largest margin of classes that can be told apart, as SVC has it."""
    X, y = load_iris(return_X_y=True)
    X, y = X[:100], y[:100]
    model = GDSVC(C=np.inf, kernel=kernel, gamma=0.5, multi_class="ovo").fit(X, y)
    twin = SVC(C=np.inf, kernel=kernel, gamma=0.5, tol=1e-10).fit(X, y)
    assert_allclose(model.decision_function(X), twin.decision_function(X), atol=1e-5)
    assert_allclose(np.abs(model.decision_function(X)).min(), 1.0, atol=1e-6)


def test_votes():
    """Three classes that each win one pair: the tie is broken by the sums of the raw predictions."""
    assert [tuple(problem) for problem in binary_problems(3, "ovo")] == [(0, 1), (0, 2), (1, 2)]
    z = np.array([[1.0, -2.0, 3.0], [2.0, 1.0, -1.0]])  # 0 beats 1, 2 beats 0, 1 beats 2; 0 beats both
    assert_array_equal(count_votes(z, 3), [[1, 1, 1], [2, 0, 1]])
    sums = np.array([[-1.0, 2.0, -1.0], [3.0, -3.0, 0.0]])
    assert_allclose(scores_of_pairs(z, 3), count_votes(z, 3) + sums / (3 * (abs(sums) + 1)))
    zero = np.zeros((1, 3))  # as in SVC, votes alone are for the second of a pair, and scores for the first
    assert_array_equal(count_votes(zero, 3), [[0, 1, 2]])
    assert_array_equal(scores_of_pairs(zero, 3), [[2, 1, 0]])


# -- the rest of the contract ----------------------------------------------------------------------


@pytest.mark.parametrize("labels", [(0, 1), (1, -1), ("no", "yes")])
def test_tutorial(labels):
    """The soft margin of the tutorial: any two labels, sign of the raw prediction, all points separated."""
    np.random.seed(0)
    x = np.random.rand(100, 1)
    y = np.array(labels)[(x[:, 0] > 0.5).astype(int)]
    model = GDSVC(C=1000).fit(x, y)
    assert model.score(x, y) == 1.0
    assert_array_equal(model.predict(x), model.classes_[(model.decision_function(x) > 0) * 1])


def test_loss_curve_is_the_mean_objective():
    X, y = data()
    for loss in ("hinge", "squared_hinge"):
        model = GDSVC(C=0.3, loss=loss).fit(X, y)
        assert min(model.loss_curve_) == pytest.approx(objective(model, X, y) / (0.3 * len(y)), rel=1e-9)
        assert len(model.loss_curve_) == model.n_iter_


def test_calibrated_probabilities():
    X, y = data(200, n_classes=3)
    model = CalibratedClassifierCV(GDSVC(), ensemble=False).fit(X, y)
    probabilities = model.predict_proba(X)
    assert_allclose(probabilities.sum(axis=1), 1.0)
    assert model.score(X, y) > 0.6
    assert not hasattr(GDSVC(), "predict_proba")


@pytest.mark.parametrize("params, words", [
    ({"kernel": "rfb"}, "kernel='rfb'"),
    ({"loss": "log_loss"}, "'hinge', 'squared_hinge'"),
    ({"C": 0.0}, "'C'"),
    ({"C": np.nan}, "'C'"),
    ({"intercept_scaling": 0.0}, "'intercept_scaling'"),
    ({"multi_class": "crammer_singer"}, "'multi_class'"),
    ({"solver": "newton"}, "the loss has kinks.*'interior-point', 'dual'"),
    ({"solver": "dual", "l1_ratio": 0.5}, "l2 penalty"),
    ({"solver": "dual", "loss": "squared_hinge"}, "not penalised"),
    ({"solver": "cd", "loss": "squared_hinge", "intercept_scaling": 1.0}, "penalty on the intercept"),
])  # fmt: skip
def test_parameters_that_are_refused(params, words):
    """A sentence that names the argument; a fitted model stays as it was."""
    X, y = data()
    model = GDSVC().fit(X, y)
    before = model.coef_.copy()
    with pytest.raises(ValueError, match=words):
        model.set_params(**params).fit(X, y)
    assert_array_equal(model.coef_, before)


@every_loss
@pytest.mark.parametrize("n_classes", [2, 3])
def test_warm_start_goes_on(n_classes, loss):
    """A fit in two parts is the fit in one, for every problem; a fit at the optimum is over at once."""
    X, y = data(200, n_classes=n_classes)
    whole = GDSVC(loss=loss).fit(X, y)
    parts = GDSVC(loss=loss, warm_start=True, max_iter=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        parts.fit(X, y)
    parts.set_params(max_iter=1000).fit(X, y)
    assert_array_equal(parts.coef_, whole.coef_)
    assert_array_equal(parts.intercept_, whole.intercept_)
    assert parts.fit(X, y).n_iter_ <= 2


@every_loss
@pytest.mark.parametrize("scheme", ["ovr", "ovo"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_streams(n_classes, scheme, loss):
    """Batches in which a class may be missing lead near the optimum of all rows."""
    X, y = data(3000, n_classes=n_classes)
    exact = GDSVC(loss=loss, multi_class=scheme).fit(X, y)
    model = GDSVC(loss=loss, multi_class=scheme, random_state=0, average=True)
    model.partial_fit(X[y == 0][:20], y[y == 0][:20], classes=np.arange(n_classes))
    for _ in range(3):
        for start in range(0, 3000, 300):
            model.partial_fit(X[start : start + 300], y[start : start + 300])
    assert model.coef_.shape == exact.coef_.shape
    assert model.score(X, y) > exact.score(X, y) - 0.02


@every_loss
def test_validation_rows_stop_and_choose(loss):
    X, y = data(300, n_classes=3)
    model = GDSVC(loss=loss, early_stopping=True, n_iter_no_change=2, random_state=0, multi_class="ovo")
    model.fit(X, y)
    assert len(model.validation_scores_) == 3
    assert all(len(scores) >= 1 for scores in model.validation_scores_)
    clone(model).fit(X, y, X_val=X[:50], y_val=y[:50])
