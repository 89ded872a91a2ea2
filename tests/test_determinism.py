"""The same bits wherever arrays lie in memory: kernels at many placements, whole fits between other allocations."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, losses
from skbigmodel import passes_coordinate, passes_linear, passes_piecewise, passes_softmax, passes_stochastic
from skbigmodel._jit import frozen
from skbigmodel.optimizers import Adam, Schedule, Sgd
from skbigmodel.penalties import ElasticNet
from skbigmodel.rows import as_rows

from test_rows_and_passes import N, block

RNG = np.random.default_rng(1)
L1 = ElasticNet(0.5, 0.0)


def uniform(*shape):
    return RNG.uniform(0.1, 2.0, shape)


def placed(node, place):
    """A tree of tuples with every array replaced by a copy, for which ``place`` finds the room."""
    if isinstance(node, tuple):
        parts = [placed(part, place) for part in node]
        return type(node)(*parts) if hasattr(node, "_fields") else tuple(parts)
    if not isinstance(node, np.ndarray):
        return node
    copy = place(node.nbytes).view(node.dtype).reshape(node.shape)
    copy[...] = node
    copy.flags.writeable = node.flags.writeable  # one specialisation
    return copy


def room(rng, gap):
    """A function that finds room in one buffer, on either side of what it gave before, up to ``gap`` words away."""
    buffer, ends = np.empty(1 << 21, np.uint8), [(1 << 20) + 8 * rng.integers(8)] * 2

    def place(size):
        away, words = 8 * rng.integers(gap + 1), -(-size // 8) * 8
        start = ends[1] + away if rng.integers(2) else ends[0] - away - words
        ends[:] = min(ends[0], start), max(ends[1], start + words)
        return buffer[start : start + size]

    return place


def contents(node):
    """The bits of all arrays in a tree of tuples, and what else is in it."""
    if isinstance(node, np.ndarray):
        return node.tobytes()
    return (*map(contents, node),) if isinstance(node, tuple) else node


def calls(p):
    """(kernel, argument, …) for kernels that sum or store; ``p`` columns, classes or pieces."""
    rows, X, y, s = block("dense", p=p)
    Z, H, diag, sums, labels = uniform(N, p), X.T @ X, (X * X).sum(axis=0), X.sum(axis=0), frozen(y > 1.0, float)
    y, s, theta, w = frozen(y), frozen(s), frozen(np.linspace(-1, 1, p + 1)), np.zeros(p)
    for loss in (losses.SquaredError(), losses.Logistic()):
        for weights in (s, frozen(np.ones(1))):
            yield passes_linear.loss_and_grad, rows, labels, weights, loss, theta, True, np.zeros(p + 1)
            yield passes_coordinate.loss_slopes, rows, labels, weights, loss, theta, True, np.zeros(N)
        yield passes_linear.curvature_weights, rows, labels, s, loss, theta, True, 0, N, np.zeros(N)
    yield passes_linear.hessian_product, rows, s, theta, True, np.zeros(p + 1)
    yield passes_linear.hessian_diagonal, rows, s, w, w
    yield passes_linear.moment_rows, rows, y, s, 0, 9, w, 0.7, np.zeros((9, p + 2))

    yield passes_softmax.log_loss_inplace, Z, frozen(RNG.integers(0, p, N)), s, 0
    yield passes_softmax.probabilities_inplace, Z
    yield passes_softmax.curvature_times, uniform(N, p), Z, s, 0
    yield passes_softmax.sparse_transposed_product, block("csr")[0], Z, np.zeros((7, p))

    yield passes_coordinate.gram_epochs, H, diag, L1, 3, 0.0, w, X.T @ y
    model = passes_coordinate.Columns(as_rows(X.T.copy()), diag, sums, float(N), X.T @ y, 0.1)
    yield passes_coordinate.column_epochs, model, L1, 3, 0.0, w, np.zeros(N), np.zeros(1)

    pieces = passes_piecewise.Pieces(*uniform(11, p))
    yield passes_piecewise.look, pieces, uniform(p)
    yield passes_piecewise.centre, pieces, -uniform(p), uniform(p), 0.1
    yield passes_piecewise.pull, pieces, 0.1, 1.0, uniform(p)
    yield passes_piecewise.aim, pieces, uniform(p), 0.1, 1.0
    yield passes_piecewise.complementarity, pieces, 0.5, 0.25

    none, one, many = np.empty((0, 0)), passes_stochastic.OneOutput(losses.Logistic()), passes_stochastic.Classes(20)
    saga = passes_stochastic.Anchor(none, uniform(20, p + 1), uniform(N, 20))
    for head, K, optimizer, targets, anchor in (
        (one, 1, Adam(), labels, passes_stochastic.Anchor(none, none, none)),
        (many, 20, Sgd(), frozen(RNG.integers(0, 20, N)), saga),
    ):
        W, scale, moments = np.zeros((K, p + 1)), uniform(p + 1), np.zeros((optimizer.n_moments, K * (p + 1)))
        plan = passes_stochastic.Plan(optimizer, Schedule(0.01), 8, 1.0, N, 0.1, L1, uniform(p), scale, True, True)
        walk = passes_stochastic.Walk(W, W, moments, W, np.array([0, 0, N, 0]))
        yield passes_stochastic.epoch, rows, targets, s, head, plan, anchor, walk, 5


@pytest.mark.parametrize("p", [5, 13, 45])
def test_kernels_at_many_placements(p):
    """Arrays adjacent, near and far in one buffer, of any alignment, or each allocated for itself: one result."""
    rng, junk, differing = np.random.default_rng(0), [], {}
    for kernel, *args in calls(p):
        found = set()
        for gap in [0] * 12 + [1, 2, 3, 8, 30, 64] * 2 + [3000] * 4 + [None] * 60:
            junk.append(np.empty(rng.integers(1, 3000)))
            place = room(rng, gap) if gap is not None else lambda size: np.empty(size, np.uint8)
            moved = placed(tuple(args), place)
            found.add(contents((kernel(*moved), moved)))
        if len(found) != 1:
            differing[kernel.__name__] = len(found)
    assert differing == {}


FITS = {
    "huber": GDLinearRegressor(loss="huber", alpha=0.01),
    "quantile": GDLinearRegressor(loss="quantile", alpha=0.01),
    "l1": GDLinearRegressor(alpha=0.01, l1_ratio=1.0),
    "saga": GDLinearRegressor(alpha=0.01, solver="saga", random_state=0),
    "newton": GDLogisticClassifier(solver="newton"),
    "newton-cg": GDLogisticClassifier(solver="newton-cg"),
    "cd": GDLogisticClassifier(l1_ratio=1.0, solver="cd"),
    "multinomial": GDLogisticClassifier(solver="newton-cg"),
}


@pytest.mark.parametrize("name", FITS)
def test_fits_between_other_allocations(name):
    """Forty fits of the same data, and then two at the same time, find the same coefficients."""
    rng, junk = np.random.default_rng(0), []
    X = rng.normal(size=(N, 11))
    y = X[:, 0] - X[:, 1] + rng.normal(size=N)
    if isinstance(FITS[name], GDLogisticClassifier):
        y = np.digitize(y, [-1.0, 0.0, 1.0] if name == "multinomial" else [0.0])

    def fit(_=None):
        junk.append(np.empty(rng.integers(1, 3000)))
        return clone(FITS[name]).fit(X.copy(), y.copy()).coef_.tobytes()

    assert {fit() for _ in range(40)} == {fit()}
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(fit, range(8))) == {fit()}
