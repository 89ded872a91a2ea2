"""The same bits wherever arrays lie in memory: kernels at many placements, fits amid other allocations."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from test_rows_and_passes import N, block

from skbigmodel import (
    GDLinearRegressor,
    GDLogisticClassifier,
    passes_coordinate,
    passes_linear,
    passes_piecewise,
    passes_softmax,
)
from skbigmodel._jit import frozen
from skbigmodel.losses import Logistic, SquaredError
from skbigmodel.optimizers import Adam, Schedule, Sgd
from skbigmodel.passes_stochastic import Anchor, Classes, OneOutput, Plan, Walk, epoch
from skbigmodel.penalties import ElasticNet
from skbigmodel.rows import as_rows

RNG, L1 = np.random.default_rng(1), ElasticNet(0.5, 0.0)


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
    """A function that finds room in one buffer, next to what it gave before, up to ``gap`` words away."""
    buffer, ends = np.empty(1 << 21, np.uint8), [(1 << 20) + 8 * rng.integers(8)] * 2

    def place(size):
        away, words = 8 * rng.integers(gap + 1), -(-size // 8) * 8
        start = ends[1] + away if rng.integers(2) else ends[0] - away - words
        ends[:] = min(ends[0], start), max(ends[1], start + words)
        return buffer[start : start + size]

    return place


def calls(p):
    """(kernel, argument, …) for kernels that sum or store; ``p`` columns, classes or pieces."""
    rows, X, y, s = block("dense", p=p)
    Z, w, theta, diag = uniform(N, p), np.zeros(p), np.linspace(-1, 1, p + 1), (X * X).sum(axis=0)
    labels, s = frozen(y > 1.0, float), frozen(s)
    for loss in (SquaredError(), Logistic()):
        for weights in (s, frozen(np.ones(1))):
            yield passes_linear.loss_and_grad, rows, labels, weights, loss, theta, True, np.zeros(p + 1)
            yield passes_coordinate.loss_slopes, rows, labels, weights, loss, theta, True, np.zeros(N)
        yield passes_linear.curvature_weights, rows, labels, s, loss, theta, True, 0, N, np.zeros(N)
    yield passes_linear.hessian_product, rows, uniform(N), theta, True, np.zeros(p + 1)
    yield passes_linear.hessian_diagonal, rows, s, w, w
    yield passes_softmax.log_loss_inplace, Z, frozen(RNG.integers(0, p, N)), s, 0
    yield passes_softmax.probabilities_inplace, Z
    yield passes_softmax.curvature_times, uniform(N, p), Z, s, 0
    yield passes_coordinate.gram_epochs, X.T @ X, diag, L1, 3, 0.0, w, X.T @ y
    model = passes_coordinate.Columns(as_rows(X.T.copy()), diag, X.sum(axis=0), float(N), X.T @ y, 0.1)
    yield passes_coordinate.column_epochs, model, L1, 3, 0.0, w, np.zeros(N), np.zeros(1)
    pieces = passes_piecewise.Pieces(*uniform(6, p), uniform(p).astype(np.float32))
    yield passes_piecewise.look, pieces, uniform(p), uniform(p)
    yield passes_piecewise.pull, pieces, 0.1, 1.0, uniform(p)
    yield passes_piecewise.aim, pieces, uniform(p), 0.1, 1.0, True
    yield passes_piecewise.complementarity, pieces, 0.5, 0.25
    none, classes = np.empty((0, 0)), frozen(RNG.integers(0, 20, N))
    plain, saga = Anchor(none, none, none), Anchor(none, uniform(20, p + 1), uniform(N, 20))
    for head, targets, K, optimizer, anchor in ((OneOutput(Logistic()), labels, 1, Adam(), plain),
                                                (Classes(20), classes, 20, Sgd(), saga)):  # fmt: skip
        W, moments = np.zeros((K, p + 1)), np.zeros((optimizer.n_moments, K * (p + 1)))
        plan = Plan(optimizer, Schedule(0.01), 8, 1.0, N, 0.1, L1, uniform(p), uniform(p + 1), True, True)
        yield epoch, rows, targets, s, head, plan, anchor, Walk(W, W, moments, W, np.array([0, 0, N, 0])), 5


@pytest.mark.parametrize("p", [5, 13, 45])
def test_kernels_at_many_placements(p):
    """Adjacent, near and far in one buffer, at any alignment, or each array allocated for itself."""
    rng, junk = np.random.default_rng(0), []
    for kernel, *args in calls(p):
        found = set()
        for gap in [0] * 12 + [1, 2, 3, 8, 30, 64] * 2 + [3000] * 4 + [None] * 60:
            junk.append(np.empty(rng.integers(1, 3000)))
            moved = placed(tuple(args), (lambda n: np.empty(n, np.uint8)) if gap is None else room(rng, gap))
            found.add(pickle.dumps((kernel(*moved), moved)))
        assert len(found) == 1, kernel.__name__


@pytest.mark.parametrize("model, levels", [
    *((GDLinearRegressor(alpha=0.01, random_state=0, **params), None)
      for params in ({"loss": "huber"}, {"loss": "quantile"}, {"l1_ratio": 1.0}, {"solver": "saga"})),
    *((GDLogisticClassifier(solver=solver), [0.0]) for solver in ("newton", "newton-cg")),
    (GDLogisticClassifier(solver="cd", l1_ratio=1.0), [0.0]),
    (GDLogisticClassifier(solver="newton-cg"), [-1.0, 0.0, 1.0]),
], ids=["huber", "quantile", "l1", "saga", "newton", "newton-cg", "cd", "multinomial"])  # fmt: skip
def test_fits_between_other_allocations(model, levels):
    """Forty fits of the same data, and then two at the same time, find the same coefficients."""
    rng, junk = np.random.default_rng(0), []
    X = rng.normal(size=(N, 11))
    y = X[:, 0] - X[:, 1] + rng.normal(size=N)
    y = np.digitize(y, levels) if levels else y

    def fit(_=None):
        junk.append(np.empty(rng.integers(1, 3000)))
        return clone(model).fit(X.copy(), y.copy()).coef_.tobytes()

    assert {fit() for _ in range(40)} == {fit()}
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(fit, range(8))) == {fit()}
