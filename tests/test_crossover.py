"""Crossing over from an approximate solution: linear equations that hold exactly, or no solution at all."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse
from sklearn.svm import SVC

from skbigmodel import GDSVC, blocks
from skbigmodel.blocks import make_blocks
from skbigmodel.losses import AbsoluteError, Hinge, Quantile
from skbigmodel.objective import LinearObjective
from skbigmodel.penalties import ElasticNet
from skbigmodel.solvers.crossover import Rows, cross_over, crossing
from skbigmodel.solvers.dual import DualCoordinateDescent
from skbigmodel.solvers.driver import Control, Settings, minimize
from skbigmodel.solvers.interior_point import InteriorPoint

LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_array, "float32": lambda X: X.astype(np.float32)}
INTERCEPTS = {"free": (True, 0.0), "penalised": (True, 0.01), "none": (False, 0.0)}


def make(X, y, loss=Hinge(), intercept="free", l2=0.01, s=None):
    fit_intercept, l2_intercept = INTERCEPTS[intercept]
    penalty = ElasticNet(0.0, l2, False, l2_intercept)
    return LinearObjective(make_blocks(X, y, s, 1), loss, penalty, fit_intercept)


def data(n, p, loss, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)).round(3) + 0.3
    y = X @ np.linspace(1.0, -1.0, p) + rng.normal(size=n)
    s = rng.integers(0, 3, n) * 1.0
    return X, (y > 0) * 1.0 if isinstance(loss, Hinge) else y, s


def rows_of(objective):
    source = objective.blocks
    ((target, lo, hi),) = objective.loss.pieces(source.y)
    m = (np.ones(source.n_rows) if source.s is None else source.s) / source.weight
    return Rows(np.array(target), m, *(np.broadcast_to(bound, len(m)) for bound in (lo, hi)))


def check_optimal(objective, rows, found, accuracy=1e-13):
    """Feasible, complementary, and the parameters are what the dual variables lead to: each to rounding."""
    theta, e, d = found
    X = objective.blocks.X
    X = np.asarray(X.todense() if sparse.issparse(X) else X, float)
    z = X @ theta[: X.shape[1]] + (theta[-1] if objective.fit_intercept else 0.0)
    assert_allclose(e, rows.target - z, atol=1e-12)
    assert (d >= rows.lo).all() and (d <= rows.hi).all()
    lost = rows.m @ (np.maximum(rows.lo * e, rows.hi * e) - d * e)
    assert 0.0 <= lost + 1e-16 and lost <= accuracy
    pull = X.T @ (rows.m * d)
    if objective.fit_intercept:
        pull = np.append(pull, rows.m @ d)
    assert_allclose(pull, objective.penalty_gradient(theta), atol=accuracy)


@pytest.mark.parametrize("loss", [Hinge(), AbsoluteError(), Quantile(0.3)], ids=str)
@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(200, 6), (20, 40)], ids=str)
def test_optimality_conditions_hold_exactly(shape, layout, intercept, loss):
    """From a few interior-point iterations, whatever those have got wrong."""
    X, y, s = data(*shape, loss)
    objective = make(LAYOUTS[layout](X), y, loss, intercept, s=s)
    solver = InteriorPoint(objective, Settings())
    solver.exact = False
    state, rows = solver.init(np.zeros(objective.n_params)), rows_of(objective)
    for _ in range(20):
        solver.advance(state)
        ((pieces,),) = state.rows  # of the only block
        at_kink = (pieces.u < pieces.p) & (pieces.v < pieces.q)
        found = cross_over(objective, rows, pieces.d, at_kink, np.ones(shape[1]))
        if found is not None:
            check_optimal(objective, rows, found)
            break
    assert found is not None and state.gap > 1e-9 * state.value


@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_rows_that_depend_on_each_other(intercept):
    """Every row three times, and half of the columns twice: the minimum of the plain rows."""
    X, y, _ = data(80, 4, Hinge(), seed=1)
    plain, thrice = make(X, y, intercept=intercept), None
    X = np.hstack([X, X[:, :2]])
    thrice = make(np.tile(X, (3, 1)), np.tile(y, 3), intercept=intercept)
    results = [minimize(InteriorPoint(one, Settings()), np.zeros(one.n_params), Control(50))
               for one in (make(X, y, intercept=intercept), thrice)]  # fmt: skip
    assert [result.status for result in results] == ["converged"] * 2
    assert results[0].curve[-1] == pytest.approx(results[1].curve[-1], rel=1e-13)
    assert_allclose(results[0].theta, results[1].theta, atol=1e-11)
    assert results[0].curve[-1] < plain.value_grad(np.zeros(plain.n_params))[0]


def test_a_wrong_guess_is_put_right_or_refused():
    X, y, _ = data(60, 3, Hinge(), seed=2)
    objective = make(X, y)
    rows = rows_of(objective)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = cross_over(objective, rows, rng.uniform(rows.lo, rows.hi), rng.random(60) < 0.1, np.ones(3))
        if found is not None:
            check_optimal(objective, rows, found)


@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_wide_sparse_rows_by_conjugate_gradients(intercept):
    """The same conditions, from the dual variables of coordinate descent; rows of any length, one of zeros."""
    rng = np.random.default_rng(3)
    X = sparse.random_array((300, 1500), density=0.02, rng=rng, format="csr")
    X = X.multiply(10.0 ** rng.uniform(-1, 1, (300, 1))).tocsr()
    X.data[X.indptr[5] : X.indptr[6]] = 0.0
    y = (X @ rng.normal(size=1500) > 0.2) * 1.0
    objective = make(X, y, Hinge(), intercept, l2=0.05)
    solver = DualCoordinateDescent(objective, Settings())
    state, rows = solver.init(np.zeros(objective.n_params)), rows_of(objective)
    for _ in range(5):
        solver.advance(state)
    d = state.a / rows.m * rows.target
    found = cross_over(objective, rows, d, (state.a > 0) & (state.a < rows.m), solver.size)
    check_optimal(objective, rows, found, 1e-11)


def test_dual_solver_of_rows_sorted_by_class(monkeypatch):
    """All rows are mixed, also where they make several blocks: else sweeps get nowhere."""
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 1 << 14)
    rng = np.random.default_rng(0)
    X = sparse.random_array((4000, 500), density=0.05, rng=rng, format="csr")
    y = (X @ rng.normal(size=500) + 0.5 * rng.normal(size=4000) > 0) * 1.0
    order = np.argsort(y, kind="stable")
    for loss in ("hinge", "squared_hinge"):
        model = GDSVC(C=0.1, loss=loss, intercept_scaling=1.0, solver="dual").fit(X[order], y[order])
        assert model.n_iter_ <= 12


def test_fits_are_exact_at_the_default_tol():
    """The gap closes: a smaller tol changes nothing but the last digits, in few iterations."""
    X, y, s = data(300, 5, Hinge(), seed=3)
    model, tight = GDSVC(C=2.0).fit(X, y, s), GDSVC(C=2.0, tol=1e-10).fit(X, y, s)
    assert_allclose(model.coef_, tight.coef_, rtol=1e-11)
    assert_allclose(model.intercept_, tight.intercept_, atol=1e-11)
    assert model.optimality_ < 1e-13 and model.n_iter_ <= 12


def test_intercept_in_the_middle_of_the_optimal_ones():
    """All rows within the margin: libsvm's choice, too."""
    X, y, _ = data(100, 3, Hinge(), seed=4)
    X, y = np.vstack([X, -X]), np.r_[y, 1 - y]
    model, twin = GDSVC(C=1e-4).fit(X, y), SVC(kernel="linear", C=1e-4, tol=1e-10).fit(X, y)
    assert_allclose(model.coef_, twin.coef_, rtol=1e-8)
    assert_allclose(model.intercept_, twin.intercept_, atol=1e-8)


def test_crossing():
    """The weighted quantile; in the middle where the sum hits the level."""
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 1.0])
    assert [crossing(values, weights, level) for level in (0.0, 1.0, 2.0, 2.5, 3.0, 4.0)] == [
        1.0, 1.0, 1.5, 2.0, 2.5, 3.0
    ]  # fmt: skip
