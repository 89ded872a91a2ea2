"""First-order and stochastic solvers: they reach the optimum, say so honestly, and repeat bit for bit."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, sparse

from skbigmodel import optimizers
from skbigmodel.blocks import ArrayBlocks
from skbigmodel.losses import AbsoluteError, Huber, Logistic, Poisson, SquaredError, SquaredHinge
from skbigmodel.objective import LinearObjective
from skbigmodel.penalties import ElasticNet
from skbigmodel.softmax import SoftmaxObjective
from skbigmodel.solvers import solver_class
from skbigmodel.solvers.driver import Control, Settings, is_converged, minimize

SMOOTH = ["gd", "lbfgs", "adam"]
COMPOSITE = ["nesterov", "saga", "sgd"]
PENALTIES = {
    "none": ElasticNet(0.0, 0.0),
    "l2": ElasticNet(0.0, 0.03),
    "l1": ElasticNet(0.05, 0.0),
    "elastic": ElasticNet(0.04, 0.02),
    "positive": ElasticNet(0.01, 0.0, True),
    "intercept": ElasticNet(0.0, 0.03, False, 0.4),
}
# (value, derivative) in the raw prediction, written down once more
LOSSES = {
    "squared": (SquaredError(), lambda y, z: ((z - y) ** 2 / 2, z - y)),
    "huber": (
        Huber(1.0),
        lambda y, z: (np.where(abs(z - y) <= 1, (z - y) ** 2 / 2, abs(z - y) - 0.5), np.clip(z - y, -1, 1)),
    ),
    "logistic": (Logistic(), lambda y, z: (np.logaddexp(0, z) - y * z, 1 / (1 + np.exp(-z)) - y)),
    "squared_hinge": (
        SquaredHinge(),
        lambda y, z: (
            np.maximum(0, 1 - (2 * y - 1) * z) ** 2,
            2 * (1 - 2 * y) * np.maximum(0, 1 - (2 * y - 1) * z),
        ),
    ),
    "poisson": (Poisson(), lambda y, z: (np.exp(z) - y * z, np.exp(z) - y)),
}
LAYOUTS = {"dense": np.asarray, "float32": lambda X: X.astype(np.float32), "csr": sparse.csr_array}
# each pair costs compilation, so not all of them
GRID = [("squared", "dense"), ("huber", "dense"), ("logistic", "dense"), ("poisson", "dense"),
        ("logistic", "csr"), ("squared_hinge", "dense"), ("squared", "float32")]  # fmt: skip


def data(loss, layout="dense", n=300, p=8):
    """Standardised, mildly correlated columns, targets that suit the loss, weights with some zeros."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p)) + 0.5 * rng.standard_normal((n, 1))
    z = X @ np.linspace(0.8, -0.6, p) + 0.3
    classes = z + rng.logistic(size=n) > 0
    y = {"logistic": classes, "squared_hinge": classes, "poisson": rng.poisson(np.exp(0.3 * z))}.get(
        loss, z + rng.standard_normal(n)
    )
    s = rng.uniform(0.5, 2.0, n)
    s[::17] = 0.0
    return LAYOUTS[layout](X), y.astype(float), s


def make_objective(loss, penalty, layout="dense", n_threads=1, **shape):
    X, y, s = data(loss, layout, **shape)
    return LinearObjective(ArrayBlocks(X, y, s, n_threads), LOSSES[loss][0], PENALTIES[penalty], True)


def reference(loss, penalty, layout):
    """(minimum, minimiser) by SciPy: w as a difference of two vectors that are not negative."""
    X, y, s = data(loss, layout)
    X = np.asarray(X.todense() if layout == "csr" else X, float)
    l1, l2, positive, l2_intercept = PENALTIES[penalty]
    p = X.shape[1]

    def function(v):
        w, b = v[:p] - v[p : 2 * p], v[-1]
        value, slope = LOSSES[loss][1](y, X @ w + b)
        g = X.T @ (s * slope) / s.sum() + l2 * w
        total = s @ value / s.sum() + l1 * v[:-1].sum() + l2 / 2 * w @ w + l2_intercept / 2 * b * b
        return total, np.concatenate([g + l1, l1 - g, [s @ slope / s.sum() + l2_intercept * b]])

    bounds = [(0, None)] * p + [(0, 0 if positive else None)] * p + [(None, None)]
    found = optimize.minimize(
        function,
        np.full(2 * p + 1, 0.01),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 1e-17, "gtol": 1e-11, "maxiter": 5000, "maxcor": 30},
    )
    return found.fun, np.append(found.x[:p] - found.x[p : 2 * p], found.x[-1])


def run(name, objective, tol=1e-9, max_iter=3000, start=None, **settings):
    solver = solver_class(name)(objective, Settings(tol=tol, **settings))
    start = np.zeros(objective.n_params) if start is None else start
    return minimize(solver, start, Control(max_iter=max_iter, tol=tol))


@pytest.mark.parametrize("loss, layout", GRID, ids=map("-".join, GRID))
def test_every_solver_reaches_the_optimum(loss, layout):
    """All losses, layouts and penalties: the minimum to 1e-9, the minimiser, not too many passes."""
    for penalty in PENALTIES:
        best, theta = reference(loss, penalty, layout)
        objective = make_objective(loss, penalty, layout)
        names = COMPOSITE + (SMOOTH[:2] if objective.penalty.smooth else [])
        if objective.penalty.smooth and (loss, layout) in (("logistic", "dense"), ("squared", "float32")):
            names = names + ["adam"]
        for name in names:
            before = objective.n_passes
            result = run(name, objective)
            assert result.status == "converged", (name, penalty, result.status)
            assert (result.curve[-1] - best) <= 1e-9 * abs(best), (name, penalty)
            assert_allclose(result.theta, theta, atol=1e-4, err_msg=f"{name} {penalty}")
            assert result.optimality <= 1e-9
            assert objective.n_passes - before <= 400, (name, penalty)
            if objective.penalty.l1 > 0:
                assert_array_equal(result.theta == 0, np.abs(theta) < 1e-7)


@pytest.mark.parametrize("name", SMOOTH + COMPOSITE)
def test_claims_at_the_default_tol_are_true(name):
    """Nearly dependent raw columns of spread 1e-3 to 1e4: a solver that says converged is within 1e-8."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 8))
    X[:, 4:] = X[:, :4] + 3e-3 * X[:, 4:]
    X, y = X * np.logspace(-3, 4, 8) + 2.0, X[:, 0] + X[:, 4:] @ [30, -20, 0, 10] + rng.standard_normal(400)
    objective = LinearObjective(ArrayBlocks(X, y), SquaredError(), ElasticNet(0.0, 0.0), True)
    columns = np.column_stack([(X - X.mean(0)) / X.std(0), np.ones(400)])
    best = np.linalg.lstsq(columns, y, rcond=None)[1]
    result = run(name, objective, tol=1e-4, max_iter=30_000 if name in ("gd", "nesterov", "lbfgs") else 300)
    gap = result.curve[-1] / (best[0] / 800) - 1
    assert gap <= 1e-8 if result.status == "converged" else result.status == "max_iter"
    assert result.status == "converged" or name in ("saga", "sgd", "adam")


@pytest.mark.parametrize("name", ["gd", "nesterov", "saga"])
def test_softmax(name):
    """Three classes: the minimum that L-BFGS of this package finds, and a small gradient."""
    X, y, _ = data("squared")
    labels = np.digitize(y, np.quantile(y, [0.3, 0.7]))
    objective = SoftmaxObjective(ArrayBlocks(X, labels), 3, ElasticNet(0.0, 0.01), True)
    best = run("lbfgs", objective)
    result = run(name, objective)
    assert result.status == best.status == "converged"
    assert_allclose(result.theta, best.theta, atol=1e-6)
    assert_allclose(result.theta.reshape(-1, 3).sum(axis=1), 0, atol=1e-8)


def test_gradient_descent_is_the_textbook_loop():
    """The two tutorial runs: 1000 steps of 0.01 from a given start, to the last digit."""
    np.random.seed(0)
    x = np.random.rand(100, 1)
    y = (2 * x + 1 + np.random.randn(100, 1)).ravel()
    objective = LinearObjective(ArrayBlocks(x, y), SquaredError(), ElasticNet(0.0, 0.0), True)
    steps = {"learning_rate": 0.01, "max_iter": 1000, "tol": 0.0}
    result = run("gd", objective, start=np.array([-1.37495129, -0.35399391]), **steps)
    assert_allclose(result.theta, [0.9144811, 1.74029182], atol=1e-7)
    y = (x[:, 0] > 0.5) * 1.0
    objective = LinearObjective(ArrayBlocks(x, y), Logistic(), ElasticNet(0.0, 0.0), True)
    result = run("gd", objective, start=np.array([0.90082649, -1.16514984]), **steps)
    assert_allclose(result.theta, [1.98079617, -0.8766377], atol=1e-7)


def test_refusals():
    """Kinks are refused by all, l1 and signs by those that need a gradient."""
    kinked = LinearObjective(ArrayBlocks(*data("squared")), AbsoluteError(), ElasticNet(0.0, 0.0), True)
    for name in SMOOTH + COMPOSITE:
        assert "kinks" in solver_class(name).refusal(kinked)
        for penalty in ("l1", "positive"):
            reason = solver_class(name).refusal(make_objective("squared", penalty))
            assert (reason is None) == (name in COMPOSITE)
        assert solver_class(name).refusal(make_objective("squared", "l2")) is None


def momentum_oracle(theta, grads, rate, momentum, nesterov):
    """Sutskever's two forms."""
    v = 0 * theta
    for g in grads:
        v = momentum * v - rate * g
        theta = theta + (momentum * v - rate * g if nesterov else v)
    return theta


def adam_oracle(theta, grads, rate, decay):
    """The loop of the paper, with epsilon compared with the uncorrected root, and AdamW's decay."""
    m = v = 0 * theta
    for t, g in enumerate(grads, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        corrected = m / (1 - 0.9**t) * np.sqrt(1 - 0.999**t)
        theta = theta - rate * corrected / (np.sqrt(v) + 1e-8) - rate * decay * theta
    return theta


@pytest.mark.parametrize("optimizer, oracle", [
    (optimizers.Sgd(), lambda *a: momentum_oracle(*a, 0.0, False)),
    (optimizers.Sgd(0.9), lambda *a: momentum_oracle(*a, 0.9, False)),
    (optimizers.Sgd(0.9, True), lambda *a: momentum_oracle(*a, 0.9, True)),
    (optimizers.Adam(), lambda *a: adam_oracle(*a, 0.0)),
    (optimizers.Adam(weight_decay=0.1), lambda *a: adam_oracle(*a, 0.1)),
])  # fmt: skip
def test_optimizer_steps(optimizer, oracle):
    """Ten steps of each optimizer against a NumPy loop."""
    rng = np.random.default_rng(0)
    grads, theta = rng.standard_normal((10, 5)), rng.standard_normal(5)
    moved, moments = theta.copy(), np.zeros((optimizer.n_moments, 5))
    for t, grad in enumerate(grads, 1):
        optimizer.step(moved, grad, moments, t, 0.05)
    assert_allclose(moved, oracle(theta, grads, 0.05), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, 300])
def test_sgd_with_a_rate_is_plain_sgd(batch_size):
    """Each row once per epoch, steps along weighted batch gradients; the last batch is shorter."""
    from skbigmodel.passes_stochastic import shuffled

    objective = make_objective("logistic", "l2")
    X, y, s = data("logistic")
    solver = solver_class("sgd")(objective, Settings(learning_rate=0.1, batch_size=batch_size, seed=3))
    state = solver.init(np.zeros(9))
    solver.advance(state)
    order = shuffled(300, (3 * 1_048_583 + 1) * 1021 + 1)
    assert sorted(order) == list(range(300))
    w, b = np.zeros(8), 0.0
    for start in range(0, 300, batch_size):
        rows = order[start : start + batch_size]
        r = s[rows] * (1 / (1 + np.exp(-(X[rows] @ w + b))) - y[rows]) / (len(rows) * s.mean())
        w, b = w - 0.1 * (X[rows].T @ r + 0.03 * w), b - 0.1 * r.sum()
    assert_allclose(state.theta, np.append(w, b), rtol=1e-10)


def test_batches_run_across_blocks():
    """A batch as large as the data is one step of gradient descent, however many blocks there are."""
    X, y, s = data("logistic", n=80_000)
    objective = LinearObjective(ArrayBlocks(X, y, s), Logistic(), PENALTIES["l2"], True)
    assert len(objective.blocks.blocks) > 1
    settings = {"learning_rate": 0.2, "max_iter": 3}
    whole = run("sgd", objective, batch_size=80_000, **settings)
    assert_allclose(whole.theta, run("gd", objective, **settings).theta, rtol=1e-10)


def test_averaging():
    """With a constant rate the mean of the iterates is much nearer to the optimum than the last."""
    objective = make_objective("logistic", "l2")
    best, _ = reference("logistic", "l2", "dense")
    settings = {"learning_rate": 0.3, "batch_size": 4, "max_iter": 40}
    runs = [run("sgd", objective, average=average, **settings) for average in (False, 5)]
    last, mean = (result.curve[-1] - best for result in runs)
    assert 0 < mean < 0.2 * last
    assert run("sgd", objective, average=True).status == "converged"


@pytest.mark.parametrize("name", SMOOTH + COMPOSITE)
def test_a_pickled_state_goes_on_bit_for_bit(name):
    """Six iterations are three, a pickle, and three; earlier iterates are left alone."""
    solver = solver_class(name)(make_objective("logistic", "l2"), Settings(seed=1))
    whole, parts, kept = solver.init(np.zeros(9)), solver.init(np.zeros(9)), []
    for k in range(6):
        solver.advance(whole)
        kept.append((whole.theta, whole.theta.copy()))
        if k == 3:
            solver = solver_class(name)(make_objective("logistic", "l2"), Settings(seed=1))
            parts = pickle.loads(pickle.dumps(parts))
        solver.advance(parts)
    assert_array_equal(parts.theta, whole.theta)
    for now, then in kept:
        assert_array_equal(now, then)


@pytest.mark.parametrize("name", ["gd", "nesterov", "lbfgs", "saga", "sgd"])
def test_threads_do_not_matter(name):
    """One and three threads take the same steps on data of several blocks."""
    runs = [run(name, make_objective("logistic", "l2", n_threads=k, n=80_000), max_iter=5) for k in (1, 3)]
    assert_array_equal(runs[0].theta, runs[1].theta)


@pytest.mark.parametrize("name", ["gd", "sgd"])
def test_divergence_is_seen(name):
    """A far too long step ends in a value that is not finite, and the driver says so."""
    with pytest.raises(ValueError, match="diverged.*learning_rate"):
        run(name, make_objective("squared", "none"), learning_rate=1e3)


def test_default_batches_of_wide_sparse_rows():
    """A step that touches all columns is spread over as many stored entries."""
    X = sparse.random_array((5000, 4096), density=0.005, format="csr", rng=np.random.default_rng(0))
    objective = LinearObjective(ArrayBlocks(X, np.zeros(5000)), Logistic(), PENALTIES["l2"], True)
    assert 150 < solver_class("sgd")(objective, Settings()).batch_size < 300
    assert solver_class("sgd")(make_objective("squared", "l2"), Settings()).batch_size == 18


def stream_over(name, batches, loss="logistic", between=lambda state: state, **settings):
    """The state after one call per batch of rows."""
    X, y, s = data(loss)
    state = None
    for rows in batches:
        blocks = ArrayBlocks(X[rows], y[rows], s[rows])
        objective = LinearObjective(blocks, LOSSES[loss][0], PENALTIES["l2"], True)
        solver = solver_class(name)(objective, Settings(seed=2, **settings))
        state = between(solver.stream(state, np.zeros(9)))
    return state


@pytest.mark.parametrize("name", ["sgd", "adam", "saga"])
def test_a_stream_learns_and_repeats(name):
    """60 passes in pieces come near the optimum, and a pickle between the calls changes no bit."""
    batches = [slice(k, k + 100) for k in (0, 100, 200)] * 60
    best, theta = reference("logistic", "l2", "dense")
    state = stream_over(name, batches)
    assert_allclose(state.theta, theta, atol=0.15)
    again = stream_over(name, batches, between=lambda state: pickle.loads(pickle.dumps(state)))
    assert_array_equal(again.theta, state.theta)
    averaged = stream_over(name, batches, average=20)
    assert_allclose(averaged.theta, theta, atol=0.1)


def test_a_stream_of_single_rows():
    """Rows one by one: nothing blows up while there are hardly any moments."""
    state = stream_over("sgd", [slice(k, k + 1) for k in range(1, 300) if k % 17], loss="squared")
    best, theta = reference("squared", "l2", "dense")
    assert_allclose(state.theta, theta, atol=0.7)


def test_a_stream_with_a_rate_is_gradient_descent():
    """One batch per call: k calls are k steps."""
    state = stream_over("sgd", [slice(0, 300)] * 4, learning_rate=0.2, batch_size=300)
    descent = run("gd", make_objective("logistic", "l2"), learning_rate=0.2, max_iter=4)
    assert_allclose(state.theta, descent.theta, rtol=1e-10)


def test_convergence_is_judged_by_the_driver_s_rule():
    """A start at the optimum is recognised without a step."""
    objective = make_objective("logistic", "l2")
    theta = run("lbfgs", objective, tol=1e-10).theta
    for name in ("gd", "nesterov", "lbfgs"):
        state = solver_class(name)(objective, Settings()).init(theta)
        assert is_converged(state, 1e-4)
