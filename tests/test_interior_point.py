"""The interior point solver: optima of piecewise linear losses against those of other algorithms."""

import pickle

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog
from sklearn.svm import LinearSVR

from skbigmodel.losses import AbsoluteError, EpsilonInsensitive, Quantile, SquaredError
from skbigmodel.objective import LinearObjective
from skbigmodel.penalties import ElasticNet
from skbigmodel.slices import make_blocks
from skbigmodel.solvers import interior_point
from skbigmodel.solvers.driver import Control, Settings, minimize
from skbigmodel.solvers.interior_point import InteriorPoint

LOSSES = [AbsoluteError(), Quantile(0.5), Quantile(0.9), EpsilonInsensitive(0.0), EpsilonInsensitive(0.7)]
PENALTIES = {
    "none": ElasticNet(0.0, 0.0),
    "l1": ElasticNet(0.08, 0.0),
    "positive": ElasticNet(0.0, 0.0, True),
    "l1 and positive": ElasticNet(0.05, 0.0, True),
}


def make_objective(X, y, loss, penalty=PENALTIES["none"], s=None, fit_intercept=True, n_threads=1):
    return LinearObjective(make_blocks(X, y, s, n_threads), loss, penalty, fit_intercept)


def solve(objective, tol=1e-4, theta=None, max_iter=60):
    theta = np.zeros(objective.n_params) if theta is None else theta
    return minimize(InteriorPoint(objective, Settings(tol)), theta, Control(max_iter, tol))


def fit(*args, tol=1e-4, **kwargs):
    result = solve(make_objective(*args, **kwargs), tol)
    assert result.status == "converged"
    assert result.optimality <= tol
    return result


def data(n=150, p=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    return X, X @ np.linspace(2.0, -1.0, p) + 0.5 + rng.standard_t(2, n)


def lowest(objective):
    """The minimum, by the simplex method; l2 must be 0."""
    blocks, penalty = objective.blocks, objective.penalty
    n, p = blocks.X.shape
    X, y = np.asarray(blocks.X.todense() if blocks.sparse else blocks.X, dtype=np.float64), blocks.y
    m = (np.ones(n) if blocks.s is None else blocks.s) / blocks.weight
    target, lo, hi = (np.ravel(np.broadcast_arrays(*part, y)[:-1]) for part in zip(*objective.loss.pieces(y)))
    k = len(target) // n
    m = np.tile(m, k)
    G = np.tile(np.hstack([X, -X, np.ones((n, 1)), -np.ones((n, 1))]), (k, 1))
    A = sparse.hstack([G, sparse.eye(n * k), -sparse.eye(n * k)], format="csr")
    bounds = np.r_[np.full(p, np.inf), np.full(p, 0.0 if penalty.positive else np.inf)]
    bounds = np.r_[bounds, np.full(2, np.inf if objective.fit_intercept else 0.0), np.full(2 * n * k, np.inf)]
    costs = np.r_[np.full(2 * p, penalty.l1), 0.0, 0.0, hi * m, -lo * m]
    bounds = np.c_[np.zeros_like(bounds), bounds]
    program = linprog(costs, A_eq=A, b_eq=target, bounds=bounds, method="highs-ds")
    assert program.status == 0
    return program.fun


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_minimum_of_linear_programs(loss, penalty, fit_intercept):
    objective = make_objective(*data(), loss, PENALTIES[penalty], fit_intercept=fit_intercept)
    result = solve(objective)
    assert result.status == "converged"
    assert result.optimality <= 1e-4
    expected = lowest(objective)
    assert min(result.curve) <= expected * (1 + 1e-9)
    assert objective.value_grad(result.theta)[0] == pytest.approx(expected, rel=1e-8)
    # a small tol reaches rounding
    value = objective.value_grad(solve(objective, 1e-9).theta)[0]
    assert value == pytest.approx(expected, rel=3e-13)


LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_array, "float32": np.float32}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", [(80, 5), (12, 40), (3, 3), (2, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("penalty", ["none", "l1", "l1 and positive"])
def test_shapes_and_layouts(layout, shape, penalty):
    X, y = data(*shape, seed=1)
    s = np.random.default_rng(0).integers(0, 3, len(y)) + np.eye(len(y))[0]
    objective = make_objective(layout(X), y, Quantile(0.3), PENALTIES[penalty], s)
    result = solve(objective)
    assert result.status == "converged"
    scale = np.abs(y).mean()
    assert min(result.curve) == pytest.approx(lowest(objective), rel=1e-8, abs=1e-11 * scale)
    assert np.abs(result.theta).max() < 1e3


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(300, 5), (15, 40)], ids=str)
def test_ridge_penalty_against_liblinear(epsilon, shape):
    X, y = data(*shape, seed=2)
    n, C = len(y), 0.02
    twin = LinearSVR(C=C, epsilon=epsilon, fit_intercept=False, tol=1e-10, max_iter=10**6, random_state=0)
    twin.fit(X, y)
    penalty = ElasticNet(0.0, 1.0 / (C * n))
    result = fit(X, y, EpsilonInsensitive(epsilon), penalty, fit_intercept=False, tol=1e-9)
    np.testing.assert_allclose(result.theta, twin.coef_, atol=2e-6)
    objective = make_objective(X, y, EpsilonInsensitive(epsilon), penalty, fit_intercept=False)
    assert min(result.curve) <= objective.value_grad(twin.coef_)[0]


@pytest.mark.parametrize("positive", [False, True])
def test_optimality_conditions_with_every_penalty(positive):
    """What no row or coefficient at a kink decides is checked by moving each coordinate both ways."""
    penalty = ElasticNet(0.05, 0.3, positive)
    objective = make_objective(*data(seed=3), Quantile(0.8), penalty)
    theta = solve(objective, 1e-9).theta
    value = objective.value_grad(theta)[0]
    rng = np.random.default_rng(0)
    for size in (1e-1, 1e-3, 1e-5):
        for step in np.vstack(
            [np.eye(theta.size), -np.eye(theta.size), rng.standard_normal((20, theta.size))]
        ):
            other = theta + size * step
            if positive:
                other[:-1] = np.maximum(other[:-1], 0.0)
            assert objective.value_grad(other)[0] >= value * (1 - 1e-14)


def test_coefficients_at_zero_are_zero():
    theta = fit(*data(seed=4), AbsoluteError(), ElasticNet(0.2, 0.0)).theta
    assert np.count_nonzero(theta[:-1] == 0.0) == 2
    assert np.abs(theta[theta != 0]).min() > 1e-2
    theta = fit(*data(seed=4), AbsoluteError(), ElasticNet(100.0, 0.0)).theta
    assert not theta[:-1].any()
    X, y = data(seed=4)
    assert (y < theta[-1]).sum() <= 75 <= (y <= theta[-1] + 1e-12).sum()


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_units_and_offsets_of_columns_do_not_matter(layout):
    X, y = data(300, 6, seed=5)
    plain = fit(X, y, Quantile(0.7), tol=1e-8)
    units = np.array([1e-3, 1.0, 1e4, 1e2, 1e-2, 10.0])
    offsets = np.array([0.0, 1e3, 1e4, -50.0, 1.0, 0.0])
    result = fit(layout(X * units + offsets), y, Quantile(0.7))
    assert min(result.curve) == pytest.approx(min(plain.curve), rel=1e-8)
    np.testing.assert_allclose(result.theta[:-1] * units, plain.theta[:-1], atol=1e-6)


def test_weights_are_repetitions_and_zero_is_absence():
    X, y = data(200, 4, seed=6)
    s = np.random.default_rng(1).integers(0, 4, 200)
    weighted = fit(X, y, Quantile(0.2), PENALTIES["l1"], s.astype(float), tol=1e-8)
    repeated = fit(np.repeat(X, s, axis=0), np.repeat(y, s), Quantile(0.2), PENALTIES["l1"], tol=1e-8)
    np.testing.assert_allclose(weighted.theta, repeated.theta, atol=1e-8)
    wild = fit(X, np.where(s > 0, y, 1e6), Quantile(0.2), PENALTIES["l1"], s.astype(float), tol=1e-8)
    np.testing.assert_allclose(wild.theta, weighted.theta, atol=1e-8)


@pytest.mark.parametrize("loss", [AbsoluteError(), Quantile(0.9), EpsilonInsensitive(0.3)], ids=str)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_degenerate_data(loss, penalty):
    X, y = data(40, 3, seed=7)
    tied = np.round(y)
    cases = {
        "constant y": (X, np.full(40, 3.0)),
        "zero y": (X, np.zeros(40)),
        "rows identical": (np.ones((40, 3)), y),
        "all identical": (np.ones((40, 3)), np.ones(40)),
        "zero columns": (X * [1.0, 0.0, 0.0], y),
        "constant column": (X * [1.0, 1.0, 0.0] + [0.0, 0.0, 5.0], y),
        "collinear": (X[:, [0, 1, 1]], y),
        "nearly collinear": (X[:, [0, 1, 1]] + 1e-9 * X[:, [2, 2, 0]], y),
        "ties": (np.round(X), tied),
        "no noise": (X, X @ [1.0, 2.0, 3.0] + 4.0),
        "outlier": (X, np.where(np.arange(40) == 7, 1e9, y)),
        "large y": (X, 1e8 + y),
    }
    for name, (X, y) in cases.items():
        objective = make_objective(X, y, loss, PENALTIES[penalty])
        result = solve(objective)
        assert result.status == "converged", name
        assert np.isfinite(result.theta).all(), name
        expected, floor = lowest(objective), 1e-10 * np.abs(y - np.median(y)).mean() + 1e-12
        if name != "nearly collinear":  # which the simplex method solves less well
            assert min(result.curve) == pytest.approx(expected, rel=1e-8, abs=floor), name
        assert min(result.curve) <= expected * (1 + 1e-8) + floor, name  # 1e8 + y has lost that many digits


def test_any_number_of_threads_gives_the_same_bits():
    X, y = data(30_000, 20, seed=8)
    one, three = (fit(X, y, AbsoluteError(), PENALTIES["l1"], n_threads=k) for k in (1, 3))
    assert np.array_equal(one.theta, three.theta)
    assert one.curve == three.curve


def test_pickled_state_goes_on_bit_for_bit():
    objective = make_objective(*data(), Quantile(0.6), PENALTIES["l1"])
    whole = solve(objective, 1e-9)
    solver = InteriorPoint(objective, Settings(1e-9))
    part = minimize(solver, np.zeros(objective.n_params), Control(4, 1e-9))
    assert part.status == "max_iter"
    state = pickle.loads(pickle.dumps(part.state))
    rest = minimize(solver, part.theta, Control(60, 1e-9), state)
    assert part.curve + rest.curve == whole.curve
    assert np.array_equal(rest.theta, whole.theta)


def test_value_and_gap_are_honest_at_every_iterate():
    objective = make_objective(*data(seed=9), Quantile(0.3))
    expected = lowest(objective)
    solver = InteriorPoint(objective, Settings(1e-9))
    state = solver.init(np.zeros(objective.n_params))
    for _ in range(12):
        solver.advance(state)
        assert state.value == objective.value_grad(state.theta)[0]
        if state.optimality < 1e-12:
            assert -1e-14 <= state.value - expected <= state.gap + 1e-14
    assert state.gap <= 1e-12


def test_a_good_start_is_kept():
    objective = make_objective(*data(seed=10), Quantile(0.3))
    result = solve(objective)
    again = solve(objective, theta=result.theta)
    assert again.status == "converged"
    np.testing.assert_allclose(again.theta, result.theta, atol=1e-7)


def test_smooth_losses_are_refused():
    assert "piecewise linear" in InteriorPoint.refusal(make_objective(*data(), SquaredError()))
    assert InteriorPoint.refusal(make_objective(*data(), Quantile(0.1))) is None


def test_when_the_crossover_is_tried(monkeypatch):
    """Near the optimum, but not before as few rows seem to lie at the kink as there are parameters."""
    looks, tried = [], []

    def look(self, state):
        real_look(self, state)
        looks.append(state.n_at_kink)

    def cross(objective, model, sides, at_kink, size):
        tried.append(sum(len(index) for index, _ in at_kink))
        return real_cross(objective, model, sides, at_kink, size)

    real_look, real_cross = InteriorPoint._cross_over, interior_point.cross_over
    monkeypatch.setattr(InteriorPoint, "_cross_over", look)
    monkeypatch.setattr(interior_point, "cross_over", cross)
    objective = make_objective(*data(6000, 6), Quantile(0.3), ElasticNet(0.0, 0.01))
    result = solve(objective, 1e-9)
    assert result.status == "converged" and result.state.gap == 0.0
    assert looks[0] > objective.n_params >= tried[0]
    assert len(tried) < len(looks)
