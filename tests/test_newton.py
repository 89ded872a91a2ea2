"""Newton's method, with a factorised Hessian and with conjugate gradients: the optimum,
and honest estimates of the gap.
"""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import expit
from test_losses import SMOOTH, evaluate, named

from skbigmodel.blocks import ArrayBlocks
from skbigmodel.losses import AbsoluteError, Gamma, Huber, Logistic, Poisson, SquaredError
from skbigmodel.metrics import CholeskyMetric
from skbigmodel.objective import LinearObjective
from skbigmodel.penalties import ElasticNet
from skbigmodel.softmax import SoftmaxObjective
from skbigmodel.solvers.driver import Control, Settings, gap_tolerance, minimize
from skbigmodel.solvers.newton import Newton, two_loop
from skbigmodel.solvers.newton_cg import NewtonCG, conjugate_gradients

SOLVERS = [Newton, NewtonCG]
every_solver = pytest.mark.parametrize("cls", SOLVERS, ids=lambda cls: cls.name)
LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_array}
NO_PENALTY = ElasticNet(0.0, 0.0)


def data(loss, n=120, p=4, scales=None):
    """Rows with columns of the given scales, targets that suit the loss, weights of which some are zero."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p)) + 0.5 * rng.normal(size=(n, 1))
    z = 0.6 * X[:, 0] - 0.4 * X[:, -1] + 0.2
    classes = (z + rng.logistic(size=n) > 0) * 1.0
    targets = {
        "Logistic": classes,
        "SquaredHinge": classes,
        "Poisson": rng.poisson(np.exp(z)) * 1.0,
        "Gamma": np.exp(z) * rng.gamma(2.0, 0.5, n),
    }
    y = targets.get(type(loss).__name__, z + rng.standard_t(3, n))
    s = rng.uniform(0.5, 2.0, n)
    s[::11] = 0.0
    return X * (np.ones(p) if scales is None else scales), y, s


def make(loss, layout="dense", l2=0.02, n_threads=1, **shape):
    X, y, s = data(loss, **shape)
    return LinearObjective(ArrayBlocks(LAYOUTS[layout](X), y, s, n_threads), loss, ElasticNet(0.0, l2), True)


def run(cls, objective, tol=1e-10, start=None, max_iter=200):
    start = np.zeros(objective.n_params) if start is None else start
    return minimize(cls(objective, Settings(tol=tol)), start, Control(max_iter=max_iter, tol=tol))


def oracle(loss, l2, X, y, s):
    """The minimum and where it is: damped Newton steps in NumPy, in standardised coordinates."""
    centre, scale = X.mean(axis=0), X.std(axis=0)
    A, strength = np.column_stack([(X - centre) / scale, np.ones(len(X))]), np.append(l2 / scale**2, 0.0)

    def value(theta):
        return s @ evaluate(loss.value, y, A @ theta) / s.sum() + strength @ theta**2 / 2

    theta = np.zeros(A.shape[1])
    for _ in range(200):
        z = A @ theta
        grad = A.T @ (s * evaluate(loss.derivative, y, z)) / s.sum() + strength * theta
        d = s * evaluate(getattr(loss, "model_curvature", loss.curvature), y, z) / s.sum()
        step = np.linalg.solve(A.T @ (d[:, None] * A) + np.diag(strength), -grad)
        t = 1.0
        while value(theta + t * step) > value(theta) + 1e-15 and t > 1e-9:
            t /= 2
        theta = theta + t * step
    w = theta[:-1] / scale
    return value(theta), np.append(w, theta[-1] - centre @ w)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", SMOOTH, ids=named)
@every_solver
def test_every_smooth_loss(cls, loss, layout):
    """The minimum to 1e-12 and the minimiser, with and without a penalty, in few iterations."""
    for l2 in (0.0, 0.02):
        best, theta = oracle(loss, l2, *data(loss))
        result = run(cls, make(loss, layout, l2))
        assert result.status == "converged"
        assert result.n_iter <= 25
        assert abs(result.curve[-1] - best) <= 1e-12 * abs(best)
        assert_allclose(result.theta, theta, atol=2e-7)
        assert result.optimality <= 1e-10


@pytest.mark.parametrize("loss", [Logistic(), Poisson(), Huber(0.7)], ids=named)
@every_solver
def test_units_do_not_matter(cls, loss):
    """Columns of scales 1e-6 to 1e6: at the default tolerance within 1e-8 of the minimum."""
    scales = np.logspace(-6, 6, 4)
    best, _ = oracle(loss, 0.0, *data(loss, scales=scales))
    result = run(cls, make(loss, l2=0.0, scales=scales), tol=1e-4)
    assert result.status == "converged" and result.n_iter <= 30
    assert result.curve[-1] - best <= 1e-8 * abs(best)


@pytest.mark.parametrize("fit_intercept", [True, False])
@every_solver
def test_softmax(cls, fit_intercept):
    """Four classes: the gradient vanishes, the classes' coefficients sum to zero;
    two classes are the binary model.
    """
    X, y, s = data(SquaredError())
    labels = np.digitize(y, np.quantile(y, [0.2, 0.5, 0.8]))
    objective = SoftmaxObjective(ArrayBlocks(X, labels, s), 4, ElasticNet(0.0, 0.05), fit_intercept)
    result = run(cls, objective)
    assert result.status == "converged" and result.optimality <= 1e-10
    assert_allclose(result.theta.reshape(-1, 4)[:4].sum(axis=1), 0.0, atol=1e-8)
    two = SoftmaxObjective(ArrayBlocks(X, (labels > 1) * 1, s), 2, ElasticNet(0.0, 0.05), fit_intercept)
    one = LinearObjective(
        ArrayBlocks(X, (labels > 1) * 1.0, s), Logistic(), ElasticNet(0.0, 0.025), fit_intercept
    )
    theta = run(cls, two).theta.reshape(-1, 2)
    assert_allclose(theta[:, 1] - theta[:, 0], run(cls, one).theta, atol=1e-8)


@every_solver
def test_the_gap_is_honest(cls):
    """At every iterate but the first few the estimate is within a factor of 10 of the truth,
    or both are nothing.
    """
    loss = Logistic()
    objective = make(loss, n=400, p=12, l2=1e-3)
    best, _ = oracle(loss, 1e-3, *data(loss, n=400, p=12))
    solver = cls(objective, Settings(tol=1e-4))
    state = solver.init(np.zeros(objective.n_params))
    for _ in range(8):
        solver.advance(state)
        truth = state.value - best
        if truth > 1e-13 * best:
            assert truth / 10 <= state.gap <= 10 * truth + 1e-9


@every_solver
def test_tall_data_start_at_the_optimum_of_a_sample(cls):
    """With many rows per parameter it takes a handful of passes over all of them."""
    objective = make(Logistic(), n=40_000, p=3, l2=1e-4)
    best = run(cls, make(Logistic(), n=40_000, p=3, l2=1e-4), tol=1e-13)
    assert_allclose(objective.value_grad(best.theta)[1], 0.0, atol=1e-13)
    objective.n_passes = 0
    result = run(cls, objective, tol=1e-4)
    assert result.status == "converged" and result.curve[-1] <= (1 + 1e-9) * best.curve[-1]
    # conjugate gradients read the rows for each product
    assert objective.n_passes <= (8 if cls is Newton else 40)


@every_solver
def test_a_sample_of_rows_that_do_not_count(cls):
    """Weights of zero at every row that a sample would take: the metric comes of the rows that count."""
    objective = make(Logistic(), n=40_000)
    X, y, s = objective.blocks.X, objective.blocks.y, np.ones(40_000)
    s[::5] = 0.0  # samples take every 5th, 10th, 20th row
    result = run(cls, LinearObjective(ArrayBlocks(X, y, s), Logistic(), objective.penalty, True))
    counts = s > 0
    kept = LinearObjective(ArrayBlocks(X[counts], y[counts]), Logistic(), objective.penalty, True)
    assert_allclose(result.theta, run(cls, kept).theta, rtol=1e-7)


@every_solver
def test_from_the_optimum_nothing_moves(cls):
    """A start at the minimum is seen to be one."""
    objective = make(Logistic())
    best = run(cls, objective, tol=1e-13)
    again = run(cls, objective, tol=1e-8, start=best.theta)
    assert again.status == "converged" and again.n_iter <= 1
    assert_allclose(again.theta, best.theta, atol=1e-9)


@every_solver
@pytest.mark.parametrize("far", [30.0, 1e3, 1e5])
def test_a_far_start(cls, far):
    """Where all rows are saturated there is no curvature to go by; the optimum is found all the same."""
    objective = make(Logistic(), l2=0.0)
    best, _ = oracle(Logistic(), 0.0, *data(Logistic()))
    result = run(cls, objective, start=np.append(np.full(4, far), 0.0))
    assert result.status == "converged"
    assert abs(result.curve[-1] - best) <= 1e-12


@every_solver
def test_rank_deficient_columns(cls):
    """Repeated, zero and constant columns: the minimum that there is without them."""
    X, y, s = data(Logistic())
    wide = np.column_stack([X, X[:, 1], np.zeros(len(X)), np.full(len(X), 3.0), X[:, 0] + X[:, 1]])
    best, _ = oracle(Logistic(), 0.0, X, y, s)
    objective = LinearObjective(ArrayBlocks(wide, y, s), Logistic(), NO_PENALTY, True)
    result = run(cls, objective, tol=1e-6)
    assert result.status == "converged" and result.curve[-1] - best <= 1e-10
    assert np.abs(result.theta).max() < 100


@pytest.mark.parametrize("cls", [*SOLVERS])
def test_no_optimum(cls):
    """Separable classes without a penalty: the objective falls to nothing,
    and never is that called the optimum.
    """
    X = np.linspace(-1, 1, 40)[:, None]
    objective = LinearObjective(ArrayBlocks(X, (X[:, 0] > 0) * 1.0), Logistic(), NO_PENALTY, True)
    result = run(cls, objective, tol=1e-4, max_iter=30)
    assert np.isfinite(result.theta).all()
    assert result.status != "converged" or result.curve[-1] < 1e-12
    assert (np.diff(result.curve) <= 1e-15).all()


@every_solver
def test_a_pickled_state_goes_on_bit_for_bit(cls):
    """Three iterations, a pickle, and the rest: the same bits as in one run."""
    objective = make(Poisson(), n=300, p=6)
    start, settings = np.full(objective.n_params, 0.8), Settings(tol=1e-12)
    whole = minimize(cls(objective, settings), start, Control(max_iter=6, tol=1e-12))
    first = minimize(cls(objective, settings), start, Control(max_iter=2, tol=1e-12))
    state = pickle.loads(pickle.dumps(first.state))
    second = minimize(
        cls(make(Poisson(), n=300, p=6), settings), start, Control(max_iter=4, tol=1e-12), state
    )
    assert first.curve + second.curve == whole.curve
    assert_array_equal(second.theta, whole.theta)


@every_solver
def test_threads_do_not_matter(cls):
    """Data of several blocks: the same bits for 1, 2 and 3 threads."""
    runs = [run(cls, make(Logistic(), n=60_000, p=12, n_threads=n), tol=1e-6) for n in (1, 2, 3)]
    for other in runs[1:]:
        assert_array_equal(other.theta, runs[0].theta)
        assert other.curve == runs[0].curve


@every_solver
def test_refusals(cls):
    """No kinks, neither in the loss nor in the penalty."""
    blocks = ArrayBlocks(*data(SquaredError()))
    assert "kinks" in cls.refusal(LinearObjective(blocks, AbsoluteError(), NO_PENALTY, True))
    assert "l1" in cls.refusal(LinearObjective(blocks, SquaredError(), ElasticNet(0.1, 0.0), True))
    assert "positive" in cls.refusal(
        LinearObjective(blocks, SquaredError(), ElasticNet(0.0, 0.1, True), True)
    )
    for loss in (SquaredError(), Huber(), Poisson(), Gamma(), Logistic()):
        assert cls.refusal(LinearObjective(blocks, loss, ElasticNet(0.0, 0.1), True)) is None


def spd(n=8, seed=0):
    """A positive definite matrix and a vector."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n))
    return A @ A.T + 0.1 * np.eye(n), rng.normal(size=n)


def test_two_loop():
    """The BFGS update of the inverse metric, multiplied out as a matrix."""
    H, g = spd()
    M, steps = np.diag(np.diag(H)), np.random.default_rng(1).normal(size=(3, 8))
    changes = steps @ H
    inverse = np.linalg.inv(M)
    for s, y in zip(steps, changes, strict=True):
        V = np.eye(8) - np.outer(s, y) / (s @ y)
        inverse = V @ inverse @ V.T + np.outer(s, s) / (s @ y)
    assert_allclose(two_loop(g, steps, changes, CholeskyMetric(M).solve), inverse @ g, rtol=1e-10)
    assert_allclose(two_loop(g, steps[:0], changes[:0], lambda v: v / np.diag(M)), g / np.diag(M))


def test_conjugate_gradients():
    """To the end: minus the inverse times the gradient, and what that gains; by the way:
    an estimate of what is left.
    """
    H, g = spd()
    exact, preconditioner = -np.linalg.solve(H, g), np.diag(H)
    gain = -0.5 * g @ exact
    model = conjugate_gradients(lambda v: H @ v, lambda v: v / preconditioner, g, 1e-12, 1e-16 * gain)
    assert_allclose(model.direction, exact, rtol=1e-5)
    assert_allclose(model.gained, gain, rtol=1e-9)
    early = conjugate_gradients(lambda v: H @ v, lambda v: v / preconditioner, g, 0.5, 0.0)
    assert early.products <= model.products and early.gained <= gain
    assert_allclose(
        early.gained, -(g @ early.direction + early.direction @ H @ early.direction / 2), rtol=1e-9
    )
    assert conjugate_gradients(lambda v: H @ v, lambda v: v, np.zeros(8), 0.5, 0.0).products == 0


def test_the_stopping_gap_goes_with_tol():
    """One Newton step from where the gap is above what tol asks for, none from where it is below."""
    objective = make(Logistic())
    state = Newton(objective, Settings(tol=1e-2)).init(np.zeros(objective.n_params))
    X, y, s = data(Logistic())
    p = np.append(X.T @ (s * (expit(0) - y)), (s * (expit(0) - y)).sum()) / s.sum()
    assert_allclose(state.grad, p, rtol=1e-10)
    assert state.gap > gap_tolerance(1e-2) * state.value
    assert_allclose(state.gap, 0.5 * p @ objective.metric(np.zeros_like(p)).solve(p), rtol=1e-10)
