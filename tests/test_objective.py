"""The objectives of linear models: value, gradient,
Hessian and metrics against NumPy and central differences.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import log_softmax
from test_losses import evaluate, named

from skbigmodel.blocks import ArrayBlocks
from skbigmodel.losses import AbsoluteError, Huber, Logistic, Poisson, SquaredError
from skbigmodel.metrics import CholeskyMetric, DiagonalMetric, RecycledMetric
from skbigmodel.objective import LinearObjective, weighted_gram
from skbigmodel.penalties import ElasticNet
from skbigmodel.softmax import SoftmaxObjective
from skbigmodel.validation import NotFinite

P, K = 5, 3
LAYOUTS = {"dense": np.asarray, "dense32": lambda X: X.astype(np.float32), "csr": sparse.csr_array}
LINEAR = {"linear": Logistic(), "linear with Poisson loss": Poisson()}
KINDS = [*LINEAR, "softmax"]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
either_intercept = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])


def data(n=60):
    """Half of the entries zero, all of them float32 numbers; class indices;
    weights of which some are zero.
    """
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(n, P)) + 0.4) * (rng.random((n, P)) < 0.5)
    s = rng.uniform(0.5, 2.0, n)
    s[::7] = 0.0
    return X.astype(np.float32).astype(np.float64), rng.integers(0, K, n), s


def make(kind, layout="dense", fit_intercept=True, weighted=True, l1=0.0, l2=0.3):
    X, y, s = data()
    y = y if kind == "softmax" else (y > 0) * 1.0
    blocks = ArrayBlocks(LAYOUTS[layout](X), y, s if weighted else None)
    penalty = ElasticNet(l1, l2)
    if kind == "softmax":
        return SoftmaxObjective(blocks, K, penalty, fit_intercept)
    return LinearObjective(blocks, LINEAR[kind], penalty, fit_intercept)


def point(objective, seed=1):
    return np.random.default_rng(seed).normal(scale=0.5, size=objective.n_params)


def mean_form(kind, theta, fit_intercept, weighted, l1, l2):
    """The objective, written down once more."""
    X, y, s = data()
    s = s if weighted else np.ones(len(y))
    n_outputs = K if kind == "softmax" else 1
    W = theta[: P * n_outputs].reshape(P, n_outputs)
    Z = X @ W + (theta[P * n_outputs :] if fit_intercept else 0.0)
    if kind == "softmax":
        losses = -log_softmax(Z, axis=1)[np.arange(len(y)), y]
    else:
        losses = evaluate(LINEAR[kind].value, (y > 0) * 1.0, Z[:, 0])
    return s @ losses / s.sum() + l1 * np.abs(W).sum() + l2 / 2 * (W * W).sum()


def differences(function, theta, h=1e-5):
    """Central differences along the axes, one a row."""
    steps = h * np.eye(theta.size)
    return np.array([(function(theta + step) - function(theta - step)) / (2 * h) for step in steps])


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@either_intercept
@every_layout
@every_kind
def test_value_and_gradient(kind, layout, fit_intercept, weighted):
    """The mean form, and its slopes; l1 counts in the value alone."""
    objective = make(kind, layout, fit_intercept, weighted, l1=0.2)
    theta = point(objective)
    value, grad = objective.value_grad(theta)
    assert_allclose(value, mean_form(kind, theta, fit_intercept, weighted, 0.2, 0.3), rtol=1e-12)
    smooth = differences(lambda t: mean_form(kind, t, fit_intercept, weighted, 0.0, 0.3), theta)
    assert_allclose(grad, smooth, atol=1e-8)
    assert objective.n_passes == 1


@either_intercept
@every_layout
@every_kind
def test_hessian_products(kind, layout, fit_intercept):
    """The change of the gradient along a direction, from the curvatures of the rows."""
    objective = make(kind, layout, fit_intercept)
    theta = point(objective)
    curvatures = objective.curvatures(theta)
    H = differences(lambda t: objective.value_grad(t)[1], theta)
    product = np.array([objective.hessian_dot(curvatures, v) for v in np.eye(theta.size)])
    # products of float32 rows may be float32 in the multinomial model
    assert_allclose(product, H, atol=1e-8 if layout != "dense32" or kind != "softmax" else 1e-6)


@either_intercept
@every_layout
@pytest.mark.parametrize("kind", LINEAR)
def test_hessian(kind, layout, fit_intercept):
    """The lower triangle of the whole matrix."""
    objective = make(kind, layout, fit_intercept)
    theta = point(objective)
    H = differences(lambda t: objective.value_grad(t)[1], theta)
    assert_allclose(np.tril(objective.hessian(theta)), np.tril(H), atol=1e-8 if layout != "dense32" else 1e-6)


@either_intercept
@every_layout
@pytest.mark.parametrize("kind", LINEAR)
def test_metric(kind, layout, fit_intercept):
    """The Hessian's inverse."""
    objective = make(kind, layout, fit_intercept)
    theta, v = point(objective), point(objective, 2)
    H = differences(lambda t: objective.value_grad(t)[1], theta)
    solved = objective.metric(theta).solve(v)
    assert_allclose(solved, np.linalg.solve(H, v), rtol=1e-6 if layout != "dense32" else 1e-4)


@either_intercept
@every_layout
def test_multinomial_metric(layout, fit_intercept):
    """Means over the rows of x·xᵀ, by curvature, and of diag(p) - p·pᵀ; the product has the Hessian's trace."""
    objective = make("softmax", layout, fit_intercept)
    theta, v = point(objective), point(objective, 2)
    X, _, s = data()
    Z = X @ theta[: P * K].reshape(P, K) + (theta[P * K :] if fit_intercept else 0.0)
    prob = np.exp(log_softmax(Z, axis=1))
    S = (np.diag(s @ prob) - prob.T @ (s[:, None] * prob)) / s.sum()
    x = np.column_stack([X, np.ones(len(X))])[:, : P + fit_intercept]
    curvature = s * (1.0 - (prob**2).sum(axis=1))
    A = x.T @ (curvature[:, None] * x) / curvature.sum()
    H = np.kron(A, S)
    H[np.diag_indices(P * K)] += objective.penalty.l2
    # the intercepts have no curvature in common: compare where there is some
    centred = v.reshape(-1, K) - v.reshape(-1, K).mean(axis=1)[:, None]
    solved = objective.metric(theta).solve(centred.ravel())
    assert_allclose(H @ solved, centred.ravel(), atol=1e-7 if layout != "dense32" else 1e-4)


def test_recycled_metric():
    """Exact along conjugate directions, for which the products are known."""
    rng = np.random.default_rng(0)
    H = (lambda A: A @ A.T + np.eye(6))(rng.standard_normal((6, 6)))
    directions = np.linalg.inv(np.linalg.cholesky(H))[:3]
    metric = RecycledMetric(CholeskyMetric(np.diag(np.diag(H))), directions, directions @ H)
    assert_allclose(
        metric.solve(H @ directions.T @ [1.0, 2.0, 3.0]), [1.0, 2.0, 3.0] @ directions, atol=1e-12
    )
    v, w = rng.standard_normal((2, 6))
    assert_allclose(v @ metric.solve(w), w @ metric.solve(v), atol=1e-12)
    assert v @ metric.solve(v) > 0


@either_intercept
@every_layout
@every_kind
def test_diagonal_metric(kind, layout, fit_intercept):
    """Diagonal in coordinates in which the intercept stands by itself: those of centred columns."""
    objective = make(kind, layout, fit_intercept)
    theta, v = point(objective), point(objective, 2)
    n_outputs = objective.n_outputs
    H = differences(lambda t: objective.value_grad(t)[1], theta)
    H[np.arange(P * n_outputs), np.arange(P * n_outputs)] -= 0.3  # the penalty is not centred
    expected = np.zeros_like(v)
    for k in range(n_outputs):
        of_class = np.arange(k, theta.size, n_outputs)
        block, part = H[np.ix_(of_class, of_class)], v[of_class]
        means = block[:P, P] / block[P, P] if fit_intercept else np.zeros(P)
        centred = np.diag(block)[:P] - (means * block[:P, P] if fit_intercept else 0.0) + 0.3
        w = (part[:P] - (means * part[P] if fit_intercept else 0.0)) / centred
        intercept = [part[P] / block[P, P] - means @ w] if fit_intercept else []
        expected[of_class] = np.append(w, intercept)
    assert_allclose(objective.diagonal_metric(objective.curvatures(theta)).solve(v), expected, rtol=1e-6)


@every_kind
def test_sample(kind):
    """Every third row is an objective of its own."""
    objective = make(kind)
    sample, theta = objective.sample(3), point(objective)
    X, y, s = data()
    assert sample.n_params == objective.n_params and sample.blocks.weight == s[::3].sum()
    assert type(sample) is type(objective) and sample.penalty == objective.penalty
    assert_array_equal(sample.blocks.X, X[::3])
    shared = ArrayBlocks(X[::3], sample.blocks.y, s[::3])
    twin = (
        SoftmaxObjective(shared, K, objective.penalty, True)
        if kind == "softmax"
        else LinearObjective(shared, objective.loss, objective.penalty, True)
    )
    assert sample.value_grad(theta)[0] == twin.value_grad(theta)[0]


@pytest.mark.parametrize("l1, positive", [(0.0, False), (0.1, False), (0.1, True)])
def test_optimality(l1, positive):
    """The largest smallest subgradient over coefficients and intercept."""
    X, y, s = data()
    objective = LinearObjective(
        ArrayBlocks(X, y * 1.0, s), SquaredError(), ElasticNet(l1, 0.0, positive), True
    )
    theta = np.array([0.0, 1.0, 0.0, 2.0, 0.0, 0.5])
    grad = np.array([0.05, -0.3, -0.2, 0.25, 1.5, -0.7])
    outside = np.maximum(np.abs(grad) - l1, 0.0)
    expected = [
        0.0 if positive else outside[0],
        abs(-0.3 + l1),
        outside[2],
        0.25 + l1,
        0.0 if positive else outside[4],
        0.7,
    ]
    assert_allclose(objective.optimality(theta, grad), max(expected))
    assert_allclose(objective.optimality(theta, np.append(grad[:5], 0.0)), max(expected[:5]))


@every_kind
def test_threads_do_not_matter(kind):
    """Value, gradient, products and metrics on data of several blocks, bit for bit."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200_000, P))
    y = rng.integers(0, K, len(X)) if kind == "softmax" else rng.integers(0, 2, len(X)) * 1.0
    runs = []
    for n_threads in (1, 2, 3):
        blocks, penalty = ArrayBlocks(X, y, None, n_threads), ElasticNet(0.0, 0.1)
        objective = (
            SoftmaxObjective(blocks, K, penalty, True)
            if kind == "softmax"
            else LinearObjective(blocks, LINEAR[kind], penalty, True)
        )
        theta = 0.1 * point(objective)
        curvatures = objective.curvatures(theta)
        value, grad = objective.value_grad(theta)
        runs.append(
            np.concatenate(
                [
                    [value],
                    grad,
                    objective.hessian_dot(curvatures, theta),
                    objective.metric(theta).solve(theta),
                    objective.diagonal_metric(curvatures).solve(theta),
                ]
            )
        )
    assert len(blocks.blocks) > 2
    assert_array_equal(runs[1], runs[0])
    assert_array_equal(runs[2], runs[0])


@pytest.mark.parametrize("loss", [Huber(0.2), AbsoluteError()], ids=named)
def test_no_curvature_of_its_own(loss):
    """Huber's model curvature is taken where its own vanishes;
    a loss with kinks has a value and a gradient.
    """
    X, y, s = data()
    objective = LinearObjective(ArrayBlocks(X, 10.0 * y, s), loss, ElasticNet(0.0, 0.0), True)
    theta = np.full(P + 1, 0.1)
    z = X @ theta[:P] + theta[P]
    value, grad = objective.value_grad(theta)
    assert_allclose(value, s @ evaluate(loss.value, 10.0 * y, z) / s.sum(), rtol=1e-13)
    assert_allclose(grad[P], s @ evaluate(loss.derivative, 10.0 * y, z) / s.sum(), rtol=1e-12)
    if loss.smooth:
        assert (objective.curvatures(theta)[0][s > 0] > 0).all()


def test_singular_metric():
    """As little is added to the diagonal as makes a matrix definite:
    directions with curvature are served.
    """
    H = np.array([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1e-6]])
    solved = CholeskyMetric(H).solve(np.array([4.0, 4.0, 1e-6]))
    assert_allclose(solved[:2].sum(), 1.0, rtol=1e-6)
    assert_allclose(solved[2], 1.0, rtol=1e-6)
    assert np.isfinite(CholeskyMetric(np.zeros((2, 2))).solve(np.ones(2))).all()
    with pytest.raises(NotFinite):
        CholeskyMetric(np.full((2, 2), np.nan))


def test_diagonal_metric_of_a_constant_column():
    """What centring leaves of it is nothing; the metric stays positive."""
    ones = np.ones((2, 1))
    metric = DiagonalMetric(ones * [[1.0], [9.0]], ones * [[1.0], [3.0]], np.ones(1), 0.0, True)
    assert (metric.diagonal > 0).all()
    assert np.isfinite(metric.solve(np.ones(3))).all()


@pytest.mark.parametrize("extra", [False, True])
@every_layout
def test_weighted_gram(layout, extra):
    """Σ d·(x - shift)(x - shift)ᵀ for any weights of the rows, in several chunks."""
    X, y, _ = data(60)
    X, y = np.tile(X, (2500, 1)), np.tile(y, 2500) + 1.0
    shift = np.zeros(P) if layout == "csr" else np.linspace(0, 1, P)

    def weights(block, start, stop, d):
        d[: stop - start] = block.y[start:stop]

    H = weighted_gram(ArrayBlocks(LAYOUTS[layout](X), y), weights, shift, extra, dtype=np.float64)
    A = np.column_stack([X - shift, np.ones(len(X))])[:, : P + extra]
    assert_allclose(np.tril(H), np.tril(A.T @ (y[:, None] * A)), rtol=1e-10)
