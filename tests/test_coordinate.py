"""Coordinate descent: the optimum for every smooth loss, penalty and layout, and a gap to be trusted."""

import pickle
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

from skbigmodel import GDLogisticClassifier, losses, penalties
from skbigmodel._jit import exp
from skbigmodel.blocks import ArrayBlocks
from skbigmodel.objective import LinearObjective
from skbigmodel.rows import as_csr
from skbigmodel.slices import SlicedBlocks
from skbigmodel.solvers import coordinate, coordinate_softmax, quadratic
from skbigmodel.solvers.coordinate import CoordinateDescent
from skbigmodel.solvers.driver import Control, Settings, gap_tolerance, is_converged, minimize
from skbigmodel.threads import single_threaded_blas

LAYOUTS = {"dense": np.ascontiguousarray, "csr": sparse.csr_array}
SHAPES = {"tall": (300, 12), "wide": (60, 400)}
PENALTIES = {
    "l1": penalties.ElasticNet(0.05, 0.0),
    "elastic": penalties.ElasticNet(0.03, 0.02),
    "l1_positive": penalties.ElasticNet(0.02, 0.0, positive=True),
    "ridge_positive": penalties.ElasticNet(0.0, 0.1, positive=True),
    "ridge": penalties.ElasticNet(0.0, 0.1),
}


class LogCosh(NamedTuple):
    """A loss of a user's own: log cosh of the residual."""

    smooth = True
    bend = 1.0

    def value(self, y, z):
        r = abs(z - y)
        return r + np.log1p(exp(-2.0 * r)) - np.log(2.0)

    def derivative(self, y, z):
        return np.tanh(z - y)

    def curvature(self, y, z):
        return 1.0 - np.tanh(z - y) ** 2


LOSSES = {
    "squared_error": losses.SquaredError(),
    "huber": losses.Huber(0.5),
    "logistic": losses.Logistic(),
    "poisson": losses.Poisson(),
    "gamma": losses.Gamma(),
    "own": LogCosh(),
}


def data(shape, loss="squared_error", seed=0):
    """Sparse rows whose columns have different scales, and targets that the loss allows."""
    rng = np.random.default_rng(seed)
    n, p = SHAPES[shape]
    X = rng.standard_normal((n, p)) * (rng.random((n, p)) < 0.5) + 0.2
    score = X[:, :6] @ [1.0, -1.0, 0.5, 0.5, -0.3, 0.8] + 0.5 * rng.standard_normal(n)
    y = {
        "logistic": (score > np.median(score)) * 1.0,
        "poisson": rng.poisson(np.exp(score)) * 1.0,
        "gamma": np.exp(score) + 0.1,
    }.get(loss, score)
    return X, y


def make(X, y, loss, penalty, fit_intercept=True, s=None, n_threads=1, blocks=ArrayBlocks):
    """The objective of those data."""
    return LinearObjective(blocks(X, y, s, n_threads), loss, penalty, fit_intercept)


def solve(objective, tol=1e-8, theta=None, max_iter=300):
    """Run the solver from zero."""
    theta = np.zeros(objective.n_params) if theta is None else theta
    solver, control = CoordinateDescent(objective, Settings(tol=tol)), Control(max_iter=max_iter, tol=tol)
    with single_threaded_blas:
        result = minimize(solver, theta, control)
    assert result.status == "converged", result
    return result


def residual(objective, theta):
    """Largest violation of the optimality conditions, by a gradient worked out anew."""
    return objective.optimality(theta, objective.value_grad(theta)[1])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
def test_optimality_conditions_hold(loss, layout, shape, penalty, fit_intercept):
    """For every penalty and layout; with a convex objective nothing more is needed."""
    X, y = data(shape, loss)
    objective = make(LAYOUTS[layout](X), y, LOSSES[loss], PENALTIES[penalty], fit_intercept)
    theta = solve(objective).theta
    assert residual(objective, theta) <= 1e-8
    if PENALTIES[penalty].positive:
        assert theta[: X.shape[1]].min() >= 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_smooth_loss(loss, shape):
    """Also losses without a bound on their curvature, without any in places, and a user's own."""
    X, y = data(shape, loss)
    objective = make(X, y, LOSSES[loss], PENALTIES["l1"])
    assert residual(objective, solve(objective).theta) <= 1e-8


@pytest.mark.parametrize("shape", SHAPES)
def test_twins_of_least_squares(shape):
    """Lasso, elastic net and non-negative lasso of scikit-learn."""
    X, y = data(shape)
    exact = {"tol": 1e-13, "max_iter": 200_000}
    for twin, penalty in (
        (Lasso(alpha=0.05, **exact), PENALTIES["l1"]),
        (ElasticNet(alpha=0.05, l1_ratio=0.6, **exact), PENALTIES["elastic"]),
        (Lasso(alpha=0.02, positive=True, **exact), PENALTIES["l1_positive"]),
    ):
        twin.fit(X, y)
        theta = solve(make(X, y, LOSSES["squared_error"], penalty)).theta
        assert_allclose(theta[:-1], twin.coef_, atol=1e-6)
        assert_allclose(theta[-1], twin.intercept_, atol=1e-6)


def test_twin_of_logistic_regression():
    """liblinear without an intercept, which it would penalise."""
    X, y = data("tall", "logistic")
    exact = {"tol": 1e-12, "max_iter": 100_000}
    twin = LogisticRegression(C=0.2, l1_ratio=1.0, solver="liblinear", fit_intercept=False, **exact).fit(X, y)
    penalty = penalties.ElasticNet(1 / (0.2 * len(y)), 0.0)
    theta = solve(make(X, y, LOSSES["logistic"], penalty, fit_intercept=False)).theta
    assert_allclose(theta, twin.coef_[0], atol=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
def test_weights_are_repetitions(loss):
    """A row of weight 2 counts twice, one of weight 0 not at all."""
    X, y = data("tall", loss)
    s = np.random.default_rng(1).integers(0, 3, len(y))
    weighted = solve(make(X, y, LOSSES[loss], PENALTIES["l1"], s=s.astype(float)))
    repeated = solve(make(np.repeat(X, s, axis=0), np.repeat(y, s), LOSSES[loss], PENALTIES["l1"]))
    assert_allclose(weighted.theta, repeated.theta, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("limit", [quadratic.GRAM_LIMIT, 5])
def test_matrix_and_columns_agree(limit, layout, loss, monkeypatch):
    """Beyond GRAM_LIMIT features the model is held as columns."""
    X, y = data("wide", loss)
    objective = make(LAYOUTS[layout](X), y, LOSSES[loss], penalties.ElasticNet(0.01, 0.001))
    reference = solve(objective).theta
    monkeypatch.setattr(quadratic, "GRAM_LIMIT", limit)
    theta = solve(objective).theta
    assert residual(objective, theta) <= 1e-8
    assert_allclose(theta, reference, atol=1e-5)


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
def test_float32_is_used_as_it_is(loss):
    """The optimum of float32 data, to the accuracy of float64."""
    X, y = data("wide", loss)
    X = X.astype(np.float32)
    objective = make(X, y, LOSSES[loss], PENALTIES["l1"])
    theta = solve(objective).theta
    assert_allclose(theta, solve(make(X.astype(float), y, LOSSES[loss], PENALTIES["l1"])).theta, atol=1e-6)


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6, 1e-10])
def test_gap_is_honest(loss, tol):
    """What is left to gain is what the solver says, and below what tol promises."""
    X, y = data("wide", loss)
    objective = make(X, y, LOSSES[loss], PENALTIES["l1"])
    best = solve(objective, tol=1e-10).state.value
    solver = CoordinateDescent(objective, Settings(tol=tol))
    state = solver.init(np.zeros(objective.n_params))
    for _ in range(50):
        excess = state.value - best
        assert excess <= 3 * state.gap + 1e-14 * best
        if is_converged(state, tol):
            break
        solver.advance(state)
    assert excess <= max(2 * gap_tolerance(tol), 1e-14) * best


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_columns_of_any_unit(shape, loss):
    """Columns scaled by 1e-3 to 1e4 and far from their zero, to the last digits of the gap."""
    X, y = data(shape, loss)
    units = 10.0 ** np.random.default_rng(2).integers(-3, 5, X.shape[1])
    objective = make((X + 3.0) * units, y, LOSSES[loss], PENALTIES["l1"])
    solver = CoordinateDescent(objective, Settings(tol=1e-4))
    result = minimize(solver, np.zeros(objective.n_params), Control(tol=1e-4))
    assert result.status == "converged" and result.n_iter <= 40
    assert result.state.gap <= 1e-9 * result.state.value


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
@pytest.mark.parametrize("penalty", ["l1", "ridge_positive", "ridge"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_constant_columns_get_zero(layout, penalty, loss):
    """A constant column is the intercept's; an empty one is nobody's. Also when the start says otherwise."""
    X, y = data("tall", loss)
    X[:, 0], X[:, 1] = 0.0, 12345.6
    objective = make(LAYOUTS[layout](X), y, LOSSES[loss], PENALTIES[penalty])
    for theta in (np.zeros(13), np.ones(13)):
        assert_array_equal(solve(objective, theta=theta, tol=1e-7).theta[:2], 0.0)


def test_equal_columns():
    """Duplicates make the problem degenerate, not hard."""
    X, y = data("tall")
    X = np.hstack([X, X, 2 * X])
    objective = make(X, y, LOSSES["squared_error"], PENALTIES["l1"])
    assert residual(objective, solve(objective).theta) <= 1e-8


def test_correlated_columns_take_few_iterations():
    """Sweeps alone would creep: powers of one variable."""
    x = np.linspace(0, 1, 200)
    X = np.vander(x, 10)[:, :-1]
    y = np.sin(6 * x)
    objective = make(X, y, LOSSES["squared_error"], penalties.ElasticNet(1e-5, 0.0))
    result = solve(objective, tol=1e-7)
    assert result.n_iter <= 10 and residual(objective, result.theta) <= 1e-7


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
def test_without_any_penalty(loss):
    """It is slower than others at that, but as exact."""
    X, y = data("tall", loss)
    y = np.where(np.random.default_rng(0).random(y.size) < 0.2, 1 - y, y)
    objective = make(X, y, LOSSES[loss], penalties.ElasticNet(0.0, 0.0))
    assert residual(objective, solve(objective, tol=1e-9).theta) <= 1e-9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_change_nothing(layout):
    """Not a single bit."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 400)) * (rng.random((2000, 400)) < 0.5)
    y = (X[:, :5].sum(axis=1) > 0) * 1.0
    objectives = [
        make(LAYOUTS[layout](X), y, LOSSES["logistic"], PENALTIES["l1"], n_threads=k) for k in (1, 2, 3)
    ]
    thetas = [solve(objective, tol=1e-5).theta for objective in objectives]
    assert_array_equal(thetas[0], thetas[1])
    assert_array_equal(thetas[0], thetas[2])


def test_rows_read_in_slices():
    """Data that are read block by block give the same."""
    X, y = data("wide")
    whole = solve(make(X, y, LOSSES["squared_error"], PENALTIES["l1"])).theta
    sliced = solve(make(X, y, LOSSES["squared_error"], PENALTIES["l1"], blocks=SlicedBlocks)).theta
    assert_allclose(sliced, whole, atol=1e-9)


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("limit", [quadratic.GRAM_LIMIT, 5])
def test_a_pickled_state_goes_on_bit_for_bit(shape, loss, limit, monkeypatch):
    """With a new solver on the same data; and earlier iterates are not written to."""
    monkeypatch.setattr(quadratic, "GRAM_LIMIT", limit)
    X, y = data(shape, loss)
    objective, same = (make(X, y, LOSSES[loss], PENALTIES["l1"]) for _ in range(2))
    first, second = CoordinateDescent(objective, Settings()), CoordinateDescent(same, Settings())
    state = first.init(np.zeros(X.shape[1] + 1))
    for _ in range(2):
        other = pickle.loads(pickle.dumps(state))
        before, copied = state.theta, state.theta.copy()
        first.advance(state)
        second.advance(other)
        assert_array_equal(before, copied)
        for name, value in vars(state).items():
            if name != "model":
                assert_array_equal(value, getattr(other, name), err_msg=name)


def test_tall_data_start_from_a_sample():
    """A few passes over the rows are enough."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40_000, 10))
    y = (X @ np.linspace(-1, 1, 10) + rng.logistic(size=40_000) > 0) * 1.0
    objective = make(X, y, LOSSES["logistic"], PENALTIES["l1"])
    theta = solve(objective, tol=1e-6).theta
    assert residual(objective, theta) <= 1e-6
    assert objective.n_passes <= 8


@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_penalty_leaves_the_intercept(shape, loss):
    """All coefficients are zero; also from a start where none is."""
    X, y = data(shape, loss)
    objective = make(X, y, LOSSES[loss], penalties.ElasticNet(100.0, 0.0))
    for theta in (np.zeros(objective.n_params), np.ones(objective.n_params)):
        theta = solve(objective, theta=theta).theta
        assert not theta[:-1].any()
        assert residual(objective, theta) <= 1e-8


def test_what_is_refused():
    """Kinks and several outputs."""
    X, y = data("tall")
    assert "kinks" in CoordinateDescent.refusal(make(X, y, losses.AbsoluteError(), PENALTIES["l1"]))
    assert CoordinateDescent.refusal(make(X, y, losses.Huber(), PENALTIES["ridge"])) is None


def test_values_that_are_not_finite_do_not_hang():
    """The driver turns them into an error."""
    X, y = data("wide")
    X[3, 5] = np.nan
    objective = make(X, y, LOSSES["squared_error"], PENALTIES["l1"])
    state = CoordinateDescent(objective, Settings()).init(np.zeros(401))
    assert np.isnan(state.optimality)


def test_columns_are_taken_in_order():
    """As indexing does, for both layouts."""
    X, y = data("wide")
    features = np.array([3, 50, 51, 399])
    for layout in LAYOUTS.values():
        blocks = ArrayBlocks(layout(X), y)
        few = coordinate.take_columns(blocks, features)
        assert_array_equal(few.toarray() if sparse.issparse(few) else few, X[:, features])


def test_sparse_rows_of_chosen_columns_are_whole(monkeypatch):
    """The matrix of which columns are taken is as wide as the rows: SciPy writes beyond a narrower one."""
    made = []

    def watched(rows, n_features):
        matrix = as_csr(rows, n_features)
        matrix.check_format(full_check=True)
        made.append(n_features)
        return matrix

    monkeypatch.setattr(coordinate_softmax, "as_csr", watched)
    rng = np.random.default_rng(0)
    X = sparse.random_array((300, 12), density=0.5, rng=rng, format="csr")
    y = np.digitize((X @ np.r_[3.0, -3.0, np.zeros(10)]), [-0.3, 0.3])  # the last columns are of no use
    model = GDLogisticClassifier(C=0.1, l1_ratio=1.0).fit(X, y)
    assert made == [12] * len(made) and made
    assert not model.coef_[:, -1].any()
