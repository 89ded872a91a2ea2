"""GDSVC with kernels: the optima of SVC and of a quadratic program, the Gram matrix, layouts, controls."""

import copy
import pickle
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel, sigmoid_kernel
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from skbigmodel import GDSVC
from skbigmodel.gram import ClassPairs, GramRows, KernelSource, gram_matrix
from skbigmodel.kernels import RBF, Linear, Poly, Sigmoid, width
from skbigmodel.passes_kernel import make_box
from skbigmodel.solvers.driver import Control, Settings
from skbigmodel.solvers.driver import minimize as run
from skbigmodel.solvers.working_set import DualProblem, WorkingSet, balance
from skbigmodel.sources import StackedRows

HINGE, SQUARED = (1.0, 0.0), (np.inf, 0.5)  # the duals of the losses
LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_array, "float32": lambda X: X.astype(np.float32)}
KERNELS = {
    "rbf": (RBF(0.3), lambda X, Z: rbf_kernel(X, Z, gamma=0.3)),
    "poly": (Poly(0.3, 1.0, 3), lambda X, Z: polynomial_kernel(X, Z, degree=3, gamma=0.3, coef0=1.0)),
    "sigmoid": (Sigmoid(0.1, -0.2), lambda X, Z: sigmoid_kernel(X, Z, gamma=0.1, coef0=-0.2)),
    "linear": (Linear(), lambda X, Z: X @ Z.T),
}


def data(n=150, p=4, n_classes=2, seed=0):
    """Classes that overlap."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)).round(3) + 0.5
    score = X[:, 0] * X[:, 1] + X @ np.linspace(1.0, -0.5, p) + 0.5 * rng.normal(size=n)
    return X, np.digitize(score, np.quantile(score, np.arange(1, n_classes) / n_classes))


def dual_of(model, n):
    """dual_coef_ with a column for every row."""
    dual = np.zeros((model.dual_coef_.shape[0], n))
    columns = model.dual_coef_.toarray() if sparse.issparse(model.dual_coef_) else model.dual_coef_
    dual[:, model.support_] = columns
    return dual


def assert_same_machine(model, twin, X, tol=1e-5):
    """The same support vectors, in the same order, with the same dual variables and predictions."""
    assert_array_equal(model.support_, twin.support_)
    assert_array_equal(model.n_support_, twin.n_support_)
    scale = np.abs(twin.dual_coef_).max()
    assert_allclose(dual_of(model, X.shape[0]), dual_of(twin, X.shape[0]), atol=30 * tol * scale)
    assert_allclose(model.intercept_, twin.intercept_, atol=tol)
    expected = twin.decision_function(X)  # SVC keeps its kernel in single precision
    assert_allclose(model.decision_function(X), expected, atol=tol * max(1.0, np.abs(expected).max()))
    assert_array_equal(model.predict(X), twin.predict(X))


@parametrize_with_checks(
    [GDSVC(kernel="rbf"), GDSVC(kernel="poly", loss="squared_hinge"), GDSVC(kernel="precomputed")]
)
def test_scikit_learn_checks(estimator, check):
    """All of them, with no expected failures."""
    check(estimator)


# -- the Gram matrix -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("p", [3, 19, 70])  # plain loops, with and without a rest, and BLAS
@pytest.mark.parametrize("name", KERNELS)
def test_gram_matrix(name, p, layout):
    """Entries of each kernel, of rows and columns in any order."""
    kernel, reference = KERNELS[name]
    X = np.random.default_rng(0).normal(size=(600, p)) / np.sqrt(p)
    X = X.astype(np.float32).astype(float)
    source = KernelSource(LAYOUTS[layout](X), kernel)
    rows, columns = np.array([5, 500, 7]), np.arange(599, 40, -1)
    tol = 2e-6 if layout == "float32" else 1e-13
    assert_allclose(gram_matrix(source, rows, columns), reference(X[rows], X[columns]), rtol=tol, atol=tol)
    K = gram_matrix(source, columns, n_threads=2)
    assert_allclose(K, K.T, rtol=tol, atol=tol)
    assert_allclose(K, reference(X[columns], X[columns]), rtol=tol, atol=tol)
    assert_allclose(
        kernel.similarities(X @ X[0], (X * X).sum(axis=1), X[0] @ X[0]), reference(X, X[:1])[:, 0]
    )


def test_far_from_the_origin():
    """Squared distances keep their digits."""
    X = np.random.default_rng(0).normal(size=(50, 3))
    source = KernelSource((X + 1000.0).astype(np.float32), RBF(0.5))
    expected = rbf_kernel((X + 1000.0).astype(np.float32).astype(float) - 1000.0, gamma=0.5)
    assert_allclose(gram_matrix(source, np.arange(50)), expected, atol=1e-6)


@pytest.mark.parametrize("p", [5, 70])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_of_rows_have_the_same_bits(layout, p):
    """For any room, number of threads and order of calls, rows kept or computed again."""
    X = LAYOUTS[layout](np.random.default_rng(0).normal(size=(1500, p)))
    source, index = KernelSource(X, RBF(0.1)), np.arange(1499, -1, -1)
    rng = np.random.default_rng(1)
    calls = [(np.sort(rng.choice(1500, k, replace=False)), rng.normal(size=k)) for k in (300, 7, 150, 300)]
    sums = []
    for n_bytes, n_threads in [(0, 1), (400 * 1500 * 8, 2), (1e9, 1), (20 * 1500 * 8, 2)]:
        gram = GramRows(source, index, n_bytes, n_threads)
        out = np.zeros(1500)
        for rows, delta in calls:
            gram.add(rows, delta, out)
            gram.add(rows, delta, out, keep=False)
        sums.append(out)
    for other in sums[1:]:
        assert_array_equal(sums[0], other)
    dense = np.asarray(X.todense() if sparse.issparse(X) else X, dtype=float)[index]
    exact = sum(2.0 * delta @ rbf_kernel(dense[rows], dense, gamma=0.1) for rows, delta in calls)
    assert_allclose(sums[0], exact, atol=1e-4 if layout == "float32" else 1e-10)


def test_pairs_of_classes():
    """The same matrix, whether the parts within classes are kept or not."""
    X, y = data(90, n_classes=3)
    source = KernelSource(X, RBF(0.3))
    members = [np.flatnonzero(y == k) for k in range(3)]
    for n_bytes in (0, 1e9):
        pairs = ClassPairs(source, members, n_bytes)
        for i, j in [(0, 1), (1, 2), (0, 2)]:
            rows = np.concatenate([members[i], members[j]])
            assert_allclose(pairs.matrix(i, j), rbf_kernel(X[rows], gamma=0.3), rtol=1e-12)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_width(convert):
    """``"scale"`` divides by the variance of all entries, zeros included; 1 for constant rows."""
    X = np.random.default_rng(0).uniform(size=(50, 4)) * (np.arange(200).reshape(50, 4) % 3)
    assert width("scale", convert(X)) == pytest.approx(1.0 / (4 * X.var()))
    s = np.arange(50) % 3
    assert width("scale", convert(X), s) == pytest.approx(width("scale", np.repeat(X, s, axis=0)))
    assert width("auto", convert(X)) == 0.25 and width(2, convert(X)) == 2.0
    assert width("scale", convert(np.ones((5, 4)))) == 1.0


# -- optima ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", ["free", "scaled", "none"])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_quadratic_program(loss, intercept):
    """The primal minimum found by SLSQP, over the coefficients of all rows, an intercept and slacks."""
    X, y = data(16, 2, seed=1)
    s = np.random.default_rng(2).uniform(0.2, 3.0, len(y))
    scaling = {"free": np.inf, "scaled": 1.5, "none": np.inf}[intercept]
    model = GDSVC(kernel="rbf", gamma=0.5, C=0.7, loss=loss, tol=1e-9, intercept_scaling=scaling,
                  fit_intercept=intercept != "none").fit(X, y, s)  # fmt: skip
    K, t, n, power = rbf_kernel(X, gamma=0.5), 2.0 * y - 1.0, len(y), 2 if loss == "squared_hinge" else 1
    ridge = 0.0 if intercept == "free" else scaling**-2.0

    def cost(v):
        return 0.5 * (v[:n] @ K @ v[:n] + ridge * v[n] ** 2) + 0.7 * s @ v[n + 1 :] ** power

    def slope(v):
        loss = power * 0.7 * s * v[n + 1 :] ** (power - 1)
        return np.r_[K @ v[:n], ridge * v[n], loss]

    sides = np.hstack([t[:, None] * K, t[:, None], np.eye(n)])
    margins = {"type": "ineq", "fun": lambda v: sides @ v - 1.0, "jac": lambda v: sides}
    bounds = [(None, None)] * n + [(0, 0) if intercept == "none" else (None, None)] + [(0, None)] * n
    start = np.r_[np.zeros(n + 1), np.ones(n)]
    program = minimize(cost, start, jac=slope, method="SLSQP", constraints=margins, bounds=bounds,
                       options={"ftol": 1e-13, "maxiter": 500})  # fmt: skip
    beta, b = dual_of(model, n)[0], model.intercept_[0]
    short = np.maximum(0.0, 1.0 - t * (K @ beta + b))
    value = 0.5 * (beta @ K @ beta + ridge * b**2) + 0.7 * s @ short**power
    assert value == pytest.approx(program.fun, rel=1e-6) and value <= program.fun * (1 + 1e-8)
    assert model.loss_curve_[-1] == pytest.approx(value / (0.7 * s.sum()), rel=1e-9)
    assert abs(model.decision_function(X) - (K @ beta + b)).max() < 1e-12


@pytest.mark.parametrize("C", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("name", ["rbf", "poly"])
def test_twin(name, n_classes, C):
    """SVC at a tight tolerance, with two and with four classes."""
    X, y = data(160, n_classes=n_classes)
    params = {"kernel": name, "C": C, "gamma": 0.3, "coef0": 1.0}
    model, twin = GDSVC(tol=1e-8, **params).fit(X, y), SVC(tol=1e-10, **params).fit(X, y)
    assert_same_machine(model, twin, X, tol=2e-5 * max(1.0, C / 10))
    assert model.dual_coef_.shape == twin.dual_coef_.shape and model.n_iter_.shape == twin.n_iter_.shape
    assert_allclose(model.support_vectors_, twin.support_vectors_)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("free", [False, True])
def test_working_sets(monkeypatch, free, squared):
    """Of more rows than are solved at once: the same optimum, for any room and threads to the bit."""
    monkeypatch.setattr("skbigmodel.gram.WHOLE", 100)
    monkeypatch.setattr("skbigmodel.solvers.working_set.USUAL", 100)
    monkeypatch.setattr("skbigmodel.solvers.working_set.LARGEST", 400)
    monkeypatch.setattr("skbigmodel.solvers.working_set.FEWEST", 30)
    X, y = data(500)
    t, dual = 2.0 * y - 1.0, SQUARED if squared else HINGE
    source = KernelSource(X, RBF(0.3))

    def solve(n_bytes, n_threads, start=None):
        rows = GramRows(source, np.arange(500), n_bytes, n_threads)
        problem = DualProblem(rows, make_box(t, np.full(500, 2.0), dual), dual, free)
        return run(
            WorkingSet(problem, Settings(1e-6)), np.zeros(501) if start is None else start, Control(tol=1e-6)
        )

    result = solve(1e9, 2)
    assert result.status == "converged" and result.n_iter > 2
    for n_bytes, n_threads in [(0, 1), (1e5, 2), (1e6, 1)]:
        assert_array_equal(solve(n_bytes, n_threads).theta, result.theta)
    K, beta, b = rbf_kernel(X, gamma=0.3), result.theta[:-1], result.theta[-1]
    z = K @ beta
    ridge = 0.25 if squared else 0.0
    g = z + ridge * beta - t + b
    limit = np.inf if squared else 2.0
    grows, shrinks = beta < np.where(t > 0, limit, 0.0), beta > np.where(t > 0, 0.0, -limit)
    assert g[grows].min() > -1e-6 and g[shrinks].max() < 1e-6
    assert (abs(beta.sum()) < 1e-9) if free else b == 0.0
    again = solve(1e9, 2, result.theta)  # from the solution
    assert again.n_iter == 1
    assert_allclose(again.theta, result.theta, atol=1e-5)


def test_balance():
    """Rows of the heavier side are taken out in the given order, the last in part."""
    beta = np.array([1.0, 1.0, 1.0, -0.5])
    balance(beta, np.array([3.0, 1.0, 2.0, 0.0]))
    assert_allclose(beta, [0.5, 0.0, 0.0, -0.5])
    beta = np.array([-1.0, -1.0, 0.5])
    balance(beta, np.array([0.0, 1.0, 2.0]))
    assert_allclose(beta, [0.0, -0.5, 0.5])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    """CSR gives the same machine, float32 one nearby, kept in float32."""
    X, y = data(160, n_classes=3)
    params = {"kernel": "rbf", "gamma": 0.3, "tol": 1e-8}
    dense, other = GDSVC(**params).fit(X, y), GDSVC(**params).fit(LAYOUTS[layout](X), y)
    tol = 1e-4 if layout == "float32" else 1e-9
    assert_allclose(other.decision_function(LAYOUTS[layout](X)), dense.decision_function(X), atol=tol)
    assert sparse.issparse(other.support_vectors_) == (layout == "csr")
    assert other.support_vectors_.dtype == LAYOUTS[layout](X).dtype


class Laplace(NamedTuple):
    """A kernel of the user's: exp(-gamma·‖x - z‖)."""

    gamma: float = 0.5

    def similarity(self, t, a, b):
        return np.exp(-self.gamma * np.sqrt(max(a + b - 2.0 * t, 0.0)))

    def similarities(self, t, a, b):
        return np.exp(-self.gamma * np.sqrt(np.maximum(a + b - 2.0 * t, 0.0)))


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_own_kernels(convert):
    """A name, a kernel object, a function and the matrix itself make the same machine."""
    X, y = data(120, n_classes=3)
    named = GDSVC(kernel="rbf", gamma=0.3, tol=1e-8).fit(X, y)
    assert named.kernel_ == RBF(0.3)
    K = rbf_kernel(X, gamma=0.3)
    own = GDSVC(kernel=RBF(0.3), tol=1e-8).fit(convert(X), y)
    called = GDSVC(kernel=lambda A, B: rbf_kernel(A, B, gamma=0.3), tol=1e-8).fit(convert(X), y)
    given = GDSVC(kernel="precomputed", tol=1e-8).fit(convert(K), y)
    for model, rows in [(own, convert(X)), (called, convert(X)), (given, convert(K))]:
        assert_same_machine(model, named, X if model is not given else K) if model is not given else None
        assert_allclose(model.decision_function(rows), named.decision_function(X), atol=1e-6)
        assert_array_equal(model.support_, named.support_)
    laplace = GDSVC(kernel=Laplace(), tol=1e-8).fit(convert(X), y)
    distance = np.sqrt(np.maximum(((X[:, None] - X) ** 2).sum(axis=2), 0.0))
    twin = SVC(kernel="precomputed", tol=1e-10).fit(np.exp(-0.5 * distance), y)
    assert_allclose(
        laplace.decision_function(convert(X)), twin.decision_function(np.exp(-0.5 * distance)), atol=1e-5
    )


# -- several classes -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["ovr", "ovo"])
@pytest.mark.parametrize("break_ties", [False, True])
def test_shapes_of_scores(shape, break_ties):
    """Those of SVC, and its ties."""
    X, y = load_iris(return_X_y=True)
    params = {"kernel": "rbf", "C": 0.1, "decision_function_shape": shape}
    model, twin = GDSVC(tol=1e-8, **params).fit(X, y), SVC(tol=1e-10, **params).fit(X, y)
    assert_allclose(model.decision_function(X), twin.decision_function(X), atol=1e-4)
    if not (break_ties and shape == "ovo"):
        assert_array_equal(model.set_params(break_ties=break_ties).predict(X),
                           twin.set_params(break_ties=break_ties).predict(X))  # fmt: skip


def test_one_against_the_rest():
    """A binary machine for each class."""
    X, y = data(150, n_classes=3)
    model = GDSVC(kernel="rbf", multi_class="ovr", tol=1e-8).fit(X, y)
    assert model.dual_coef_.shape == (3, len(model.support_)) and model.multi_class_ == "ovr"
    for k in range(3):
        one = GDSVC(kernel="rbf", tol=1e-8).fit(X, y == k)
        assert_allclose(model.decision_function(X)[:, k], one.decision_function(X), atol=1e-6)
    assert_array_equal(model.predict(X), model.decision_function(X).argmax(axis=1))


# -- weights, controls, errors ---------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ovo", "ovr"])
def test_weights(scheme):
    """Weight 2 is the row twice, weight 0 the row absent; class weights multiply."""
    X, y = data(120, n_classes=3)
    s = np.random.default_rng(1).integers(0, 3, len(y)).astype(float)
    params = {"kernel": "rbf", "tol": 1e-9, "multi_class": scheme, "class_weight": {0: 2.0, 1: 1.0, 2: 0.5}}
    weighted, repeated = GDSVC(**params).fit(X, y, s), np.repeat(np.arange(len(y)), s.astype(int))
    plain = GDSVC(**params).fit(X[repeated], y[repeated])
    assert_allclose(weighted.decision_function(X), plain.decision_function(X), atol=1e-5)
    assert not (s[weighted.support_] == 0).any()


def test_warm_start():
    """The same data: nothing is left to do. Another C: the same optimum as from the beginning."""
    X, y = data(200, n_classes=3)
    model = GDSVC(kernel="rbf", warm_start=True, tol=1e-8).fit(X, y)
    before = model.dual_coef_.copy()
    model.fit(X, y)
    assert model.n_iter_.max() == 1
    assert_allclose(model.dual_coef_, before, atol=1e-5)
    fresh = GDSVC(kernel="rbf", C=0.3, tol=1e-8).fit(X, y)
    assert_same_machine(model.set_params(C=0.3).fit(X, y), fresh, X)
    model.fit(X[:100], y[:100])  # other rows: from the beginning
    assert_same_machine(model, GDSVC(kernel="rbf", C=0.3, tol=1e-8).fit(X[:100], y[:100]), X[:100])


def test_limits():
    """max_iter and max_time end with a warning; the machine predicts all the same."""
    X, y = data(2300)
    for limit in ({"max_iter": 1}, {"max_time": 0.0}):
        with pytest.warns(ConvergenceWarning, match=next(iter(limit))):
            model = GDSVC(kernel="rbf", **limit).fit(X, y)
        assert model.n_iter_.tolist() == [1] and model.predict(X).shape == y.shape


def test_callback_and_verbose(capsys):
    """A callback that stops is obeyed; verbose prints each iteration."""
    X, y = data(2300)
    seen = []

    class Stop:
        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "iteration":
                seen.append(fitted_estimator.score(X, y))
            return len(seen) >= 2

    model = GDSVC(kernel="rbf", verbose=2)
    model.set_callbacks(Stop())
    model.fit(X, y)
    assert model.n_iter_.tolist() == [2] and len(seen) == 2 and min(seen) > 0.5
    assert capsys.readouterr().out.count("iteration") >= 2


def test_errors_name_the_argument():
    """And leave a fitted machine as it was."""
    X, y = data(60)
    model = GDSVC(kernel="rbf").fit(X, y)
    before = pickle.dumps(model)
    bad = {
        "kernel": {"kernel": "rfb"},
        "square": {"kernel": "precomputed"},
        "shape": {"kernel": lambda A, B: np.ones(3)},
        "finite": {"kernel": lambda A, B: np.full((len(A), len(B)), np.nan)},
        "solver": {"solver": "lbfgs"},
        "l1_ratio": {"l1_ratio": 0.5},
        "early_stopping": {"early_stopping": True},
    }
    for message, params in bad.items():
        other = pickle.loads(before).set_params(**params)
        with pytest.raises(ValueError, match=message):
            other.fit(X, y)
        assert_array_equal(other.set_params(**model.get_params()).predict(X), model.predict(X))
    with pytest.raises(ValueError, match="X_val"):
        model.fit(X, y, X_val=X, y_val=y)


def test_attributes_that_are_not_there():
    """The error says how to come by them; before a fit, and of other names, it is Python's own."""
    X, y = data(60)
    linear, kernel = GDSVC().fit(X, y), GDSVC(kernel="rbf").fit(X, y)
    absent = {
        "support_vectors_": (linear, "multi_class='ovo'"),
        "dual_coef_": (linear, "loss='hinge'"),
        "kernel_": (linear, "linear"),
        "coef_": (kernel, "needs kernel='linear'"),
        "partial_fit": (kernel, "needs kernel='linear', got kernel='rbf'"),
    }
    for name, (model, words) in absent.items():
        for one in (model, copy.copy(model), pickle.loads(pickle.dumps(model))):
            assert not hasattr(one, name)
            with pytest.raises(AttributeError, match=f"'GDSVC' object has no attribute '{name}': .*{words}"):
                getattr(one, name)
    for model in (GDSVC(), clone(kernel), linear, copy.deepcopy(kernel)):
        for name in ("n_outputs_",) if hasattr(model, "classes_") else ("support_vectors_", "coef_"):
            with pytest.raises(AttributeError, match=f"^'GDSVC' object has no attribute '{name}'$"):
                getattr(model, name)
    with pytest.raises(NotFittedError):
        GDSVC(kernel="rbf").predict(X)


def test_from_one_kernel_to_another():
    """A fit keeps nothing of another kind of kernel."""
    X, y = data(80)
    model = GDSVC(kernel="rbf").fit(X, y)
    model.set_params(kernel="linear").fit(X, y)
    assert not hasattr(model, "dual_coef_") and model.coef_.shape == (1, 4)
    assert_array_equal(model.predict(X), GDSVC().fit(X, y).predict(X))
    model.set_params(kernel="rbf").fit(X, y)
    assert not hasattr(model, "coef_")
    assert_array_equal(model.predict(X), GDSVC(kernel="rbf").fit(X, y).predict(X))


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_to_sklearn(n_classes, layout):
    """An SVC that predicts the same."""
    X, y = data(100, n_classes=n_classes)
    X = LAYOUTS[layout](X)
    model = GDSVC(kernel="poly", coef0=1.0).fit(X, y)
    twin = model.to_sklearn()
    assert isinstance(twin, SVC)
    assert_allclose(twin.decision_function(X), model.decision_function(X), atol=1e-9)
    assert_array_equal(twin.predict(X), model.predict(X))


def test_pairwise():
    """A Gram matrix is cut in both directions by cross-validation."""
    X, y = data(90)
    K = rbf_kernel(X, gamma=0.3)
    direct = cross_val_score(GDSVC(kernel="rbf", gamma=0.3), X, y, cv=3)
    assert_allclose(cross_val_score(GDSVC(kernel="precomputed"), K, y, cv=3), direct)
    assert clone(GDSVC(kernel="precomputed")).__sklearn_tags__().input_tags.pairwise
    with pytest.raises(ValueError, match="features"), warnings.catch_warnings():
        GDSVC(kernel="precomputed").fit(K, y).predict(K[:, :50])


# -- field reports ---------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_scale_of_the_data(convert):
    """SVM-04: with gamma="scale" ten times X is the same machine; constant rows get gamma = 1."""
    X = np.random.default_rng(0).uniform(size=(100, 10))
    y = X[:, 0] * X[:, 1] > np.median(X[:, 0] * X[:, 1])
    one, ten = (GDSVC(kernel="rbf", tol=1e-8).fit(convert(factor * X), y) for factor in (1.0, 10.0))
    assert_allclose(one.decision_function(convert(X)), ten.decision_function(convert(10.0 * X)), atol=1e-6)
    assert GDSVC(kernel="rbf").fit(np.ones((10, 3)), np.arange(10) % 2).kernel_ == RBF(1.0)


@pytest.mark.parametrize("multi_class", ["ovo", "ovr"])
def test_iterations_are_counted(multi_class):
    """SVM-06: n_iter_ is the same each time, at least 1, and no converged fit warns."""
    X, y = load_iris(return_X_y=True)
    fits = [GDSVC(kernel="rbf", multi_class=multi_class, max_iter=10**7).fit(X, y).n_iter_ for _ in range(5)]
    assert all((n == fits[0]).all() for n in fits) and fits[0].min() >= 1


def test_order_within_sparse_rows():
    """SPC-02: entries of a sparse row may be in any order, and stay as they are."""
    X, y = data(80)
    ordered = sparse.csr_array(X)
    turned = ordered.copy()
    for a, b in zip(ordered.indptr[:-1], ordered.indptr[1:], strict=True):
        turned.indices[a:b], turned.data[a:b] = ordered.indices[a:b][::-1], ordered.data[a:b][::-1]
    before = turned.indices.copy()
    one, other = GDSVC(kernel="rbf").fit(ordered, y), GDSVC(kernel="rbf").fit(turned, y)
    assert_allclose(other.decision_function(turned), one.decision_function(ordered), atol=1e-12)
    assert_array_equal(turned.indices, before)


def test_kernel_of_texts():
    """A function takes rows that are no numbers: the machine is that of their Gram matrix."""

    def common(A, B):
        return np.array([[sum(min(a.count(c), b.count(c)) for c in "abc") for b in B] for a in A], float)

    texts, y = ["ab", "abb", "c", "ccb", "aab", "cc", "bbc", "aa"], [0, 0, 1, 1, 0, 1, 1, 0]
    model = GDSVC(kernel=common).fit(texts, y)
    K = common(texts, texts)
    given = GDSVC(kernel="precomputed").fit(K, y)
    assert_allclose(model.decision_function(texts), given.decision_function(K), atol=1e-12)
    assert_array_equal(model.support_vectors_, np.array(texts)[given.support_])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(texts, y[1:])
    with pytest.raises(ValueError, match="could not convert string"):
        GDSVC(kernel="rbf").fit(texts, y)


@pytest.mark.parametrize("multi_class", ["ovo", "ovr"])
def test_class_without_weight(multi_class):
    """WGT-02: a class whose rows have all weight 0 keeps its place and its scores."""
    X = np.arange(12.0).reshape(6, 2)
    y, s = np.array([0, 0, 1, 1, 2, 2]), np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    model = GDSVC(kernel="rbf", multi_class=multi_class).fit(X, y, s)
    assert model.decision_function(X).shape == (6, 3) and len(model.classes_) == 3
    assert_array_equal(model.predict(X[:4]), y[:4])


def test_copies_and_pickles():
    """PER-02, PER-04, MEM-10: a pickled machine has its support vectors, not the data, and predicts alike."""
    X, y = data(2000)
    X[:, 0] += 4.0 * (y - 0.5)  # few support vectors
    model = GDSVC(kernel="rbf", warm_start=True).fit(X, y)
    text = pickle.dumps(model)
    assert b"numba" not in text and len(text) < 0.5 * X.nbytes
    assert_array_equal(pickle.loads(text).predict(X), model.predict(X))


@pytest.mark.parametrize("kernel", ["rbf", "poly"])
def test_calibrated_probabilities(kernel):
    """FEA-13: CalibratedClassifierCV gives probabilities that rise with the score."""
    X, y = data(300)
    model = CalibratedClassifierCV(GDSVC(kernel=kernel), ensemble=False).fit(X, y)
    score = model.calibrated_classifiers_[0].estimator.decision_function(X)
    assert (np.diff(model.predict_proba(X)[np.argsort(score), 1]) >= 0).all()


@pytest.mark.parametrize("store", [np.asarray, sparse.csr_array])
def test_rows_that_are_read_block_by_block(store):
    """They are taken into memory: the same machine."""
    X, y = load_iris(return_X_y=True)
    rows = StackedRows([store(X[:70]), store(X[70:])])
    model, other = GDSVC(kernel="rbf").fit(store(X), y), GDSVC(kernel="rbf").fit(rows, y)
    assert_array_equal(other.support_, model.support_)
    assert_array_equal(other.decision_function(rows), model.decision_function(store(X)))
