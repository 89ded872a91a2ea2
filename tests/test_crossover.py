"""Crossing over from an approximate solution: linear equations that hold exactly, or no solution at all."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse
from sklearn.svm import SVC

from skbigmodel import GDSVC, blocks
from skbigmodel.losses import AbsoluteError, Hinge, Quantile
from skbigmodel.objective import LinearObjective
from skbigmodel.penalties import ElasticNet
from skbigmodel.slices import make_blocks
from skbigmodel.solvers import few_rows
from skbigmodel.solvers.crossover import KINK, cross_over, crossing, sides_of
from skbigmodel.solvers.dual import DualCoordinateDescent
from skbigmodel.solvers.driver import Control, Settings, minimize
from skbigmodel.solvers.interior_point import InteriorPoint
from skbigmodel.solvers.pieces import PieceModel

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


def crossed(objective, d, at_kink, size):
    """(parameters, dual variables per unit of weight), or ``None``."""
    source = objective.blocks
    model = PieceModel(objective.loss, source.weight, objective.fit_intercept)

    def sides(block):
        _, m, lo, hi = model.one(block)
        part = slice(block.start, block.stop)
        return sides_of(d[part], lo, hi, at_kink[part] & (m > 0))

    def kinks(block, side):
        at = block.start + np.flatnonzero(side == KINK)
        return at, d[at]

    kept = source.keep(sides)
    found = cross_over(objective, model, kept, source.map(kinks, kept), size)
    return found and (found[0].theta, np.concatenate(source.map(found[0].duals, found[1])))


def rows_of(objective):
    """(target, m, lo, hi) of all rows."""
    source = objective.blocks
    model = PieceModel(objective.loss, source.weight, objective.fit_intercept)
    return [np.concatenate(parts) for parts in zip(*source.map(model.one), strict=True)]


def state_of(objective, state):
    """Dual variables per unit of weight, and which rows seem to be at the kink."""
    at_kink, (_, _, lo, hi) = [], rows_of(objective)
    for (pieces,) in state.rows:
        p, q = pieces.distances()
        at_kink.append((pieces.u < p) & (pieces.v < q))
    slack = np.concatenate([pieces.slack for (pieces,) in state.rows])
    return np.where(slack > 0.0, hi, lo) - slack, np.concatenate(at_kink)


def check_optimal(objective, found, accuracy=1e-13):
    """Feasible, complementary, and the parameters are what the dual variables lead to: each to rounding."""
    (theta, d), (target, m, lo, hi) = found, rows_of(objective)
    X = objective.blocks.X
    X = np.asarray(X.todense() if sparse.issparse(X) else X, float)
    e = target - X @ theta[: X.shape[1]] - (theta[-1] if objective.fit_intercept else 0.0)
    assert (d >= lo).all() and (d <= hi).all()
    lost = m @ (np.maximum(lo * e, hi * e) - d * e)
    assert 0.0 <= lost + 1e-16 and lost <= accuracy
    pull = X.T @ (m * d)
    if objective.fit_intercept:
        pull = np.append(pull, m @ d)
    assert_allclose(pull, objective.penalty_gradient(theta), atol=accuracy)


@pytest.mark.parametrize("loss", [Hinge(), AbsoluteError(), Quantile(0.3)], ids=str)
@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(200, 6), (20, 40)], ids=str)
def test_optimality_conditions_hold_exactly(shape, layout, intercept, loss, monkeypatch):
    """From a few interior-point iterations, whatever those have got wrong; in several blocks."""
    monkeypatch.setattr(blocks, "BLOCK_ENTRIES", 64)
    X, y, s = data(*shape, loss)
    objective = make(LAYOUTS[layout](X), y, loss, intercept, s=s)
    solver = InteriorPoint(objective, Settings())
    solver.exact = False
    state = solver.init(np.zeros(objective.n_params))
    for _ in range(20):
        solver.advance(state)
        d, at_kink = state_of(objective, state)
        found = crossed(objective, d, at_kink, np.ones(shape[1]))
        if found is not None:
            check_optimal(objective, found)
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
    _, _, lo, hi = rows_of(objective)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = crossed(objective, rng.uniform(lo, hi), rng.random(60) < 0.1, np.ones(3))
        if found is not None:
            check_optimal(objective, found)


@pytest.mark.parametrize("intercept", INTERCEPTS)
def test_wide_sparse_rows_by_conjugate_gradients(intercept):
    """The same conditions, from the dual variables of coordinate descent; rows of any length, one zeros."""
    rng = np.random.default_rng(3)
    X = sparse.random_array((300, 1500), density=0.02, rng=rng, format="csr")
    X = X.multiply(10.0 ** rng.uniform(-1, 1, (300, 1))).tocsr()
    X.data[X.indptr[5] : X.indptr[6]] = 0.0
    y = (X @ rng.normal(size=1500) > 0.2) * 1.0
    objective = make(X, y, Hinge(), intercept, l2=0.05)
    solver = DualCoordinateDescent(objective, Settings())
    state = solver.init(np.zeros(objective.n_params))
    for _ in range(5):
        solver.advance(state)
    target, m, _, _ = rows_of(objective)
    found = crossed(objective, state.a / m * target, (state.a > 0) & (state.a < m), solver.size)
    check_optimal(objective, found, 1e-11)


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


@pytest.mark.parametrize("intercept_scaling", [np.inf, 1.0])
def test_columns_of_different_units(intercept_scaling):
    """The coefficients of all columns have all their digits."""
    X, y, _ = data(300, 5, Hinge(), seed=5)
    X *= 10.0 ** np.arange(-2, 3)
    model, tight = (GDSVC(C=0.3, intercept_scaling=intercept_scaling, tol=tol) for tol in (1e-4, 1e-11))
    assert_allclose(model.fit(X, y).coef_, tight.fit(X, y).coef_, rtol=1e-10)
    margins = (2 * y - 1) * model.decision_function(X)
    assert np.count_nonzero(np.abs(margins - 1) < 1e-12) >= 3  # rows that lie at the kink do


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


@pytest.mark.parametrize("loss", [Hinge(), AbsoluteError(), Quantile(0.3)], ids=str)
@pytest.mark.parametrize("intercept", INTERCEPTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_few_rows(monkeypatch, layout, intercept, loss):
    """The solution by the dual is exact, and that of interior points; with few steps there is none."""
    X, y, s = data(80, 4, loss)
    objective = make(LAYOUTS[layout](X), y, loss, intercept, 0.05, s)

    def solve():
        solver = InteriorPoint(objective, Settings(1e-8))
        return minimize(solver, np.zeros(objective.n_params), Control(100, 1e-8))

    direct = solve()
    assert direct.state.gap == 0.0 and (direct.n_iter == 1 or not isinstance(loss, Hinge))
    monkeypatch.setattr(few_rows, "FEW_ROWS", 0)
    usual = solve()
    assert usual.n_iter > 1
    assert_allclose(direct.theta, usual.theta, atol=1e-10)
    duals = (s * result.state.duals(objective) for result in (direct, usual))
    assert_allclose(*duals, atol=1e-8)
    monkeypatch.setattr(few_rows, "FEW_ROWS", 1000)
    monkeypatch.setattr(few_rows, "WORK", (100.0, 0.0))
    hard = solve()
    assert hard.n_iter == usual.n_iter
    assert_allclose(hard.theta, usual.theta, atol=0)
