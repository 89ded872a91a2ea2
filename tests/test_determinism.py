"""The same bits wherever arrays lie in memory: kernels at many placements, whole fits between other allocations.

A loop that sums and also stores, say, is compiled twice, for arrays near each other and far apart, and the two add in
different orders.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, passes_coordinate, passes_linear, passes_piecewise
from skbigmodel import passes_softmax, passes_stochastic
from skbigmodel._jit import frozen
from skbigmodel.losses import Huber, Logistic
from skbigmodel.optimizers import Adam, Schedule, Sgd
from skbigmodel.passes_stochastic import Anchor, Classes, OneOutput, Plan, Walk
from skbigmodel.penalties import ElasticNet
from skbigmodel.rows import as_rows

from test_rows_and_passes import block

N, P, K = 301, 7, 3  # as there
WIDE = 45  # columns: more than one turn of a vectorised loop, and a rest
RNG = np.random.default_rng(1)


def uniform(*shape):
    return RNG.uniform(0.1, 2.0, shape)


def leaves(node):
    """All arrays of a tree of tuples."""
    return [node] if isinstance(node, np.ndarray) else sum(map(leaves, node), []) if isinstance(node, tuple) else []


def with_leaves(node, arrays):
    """The same tree with the next arrays of an iterator."""
    if isinstance(node, np.ndarray):
        return next(arrays)
    if not isinstance(node, tuple):
        return node
    parts = [with_leaves(part, arrays) for part in node]
    return type(node)(*parts) if hasattr(node, "_fields") else tuple(parts)


def placed(tree, rng, gap):
    """The tree with its arrays copied into one buffer: in any order, up to ``gap`` words apart, any alignment."""
    arrays = leaves(tree)
    words = [-(-a.nbytes // 8) for a in arrays]
    buffer, at, copies = np.zeros(sum(words) + (gap + 1) * len(arrays) + 8), rng.integers(8), [None] * len(arrays)
    for k in rng.permutation(len(arrays)):
        copies[k] = buffer[at : at + words[k]].view(arrays[k].dtype)[: arrays[k].size].reshape(arrays[k].shape)
        copies[k][...] = arrays[k]
        copies[k].flags.writeable = arrays[k].flags.writeable
        at += words[k] + rng.integers(gap + 1)
    return with_leaves(tree, iter(copies))


def linear():
    rows, _, y, s = block("dense", p=WIDE)
    y, s, theta, out = frozen(y), frozen(s), frozen(np.linspace(-1, 1, WIDE + 1)), np.zeros(WIDE + 1)
    shift, d, ones = np.linspace(0, 1, WIDE), uniform(N), frozen(np.ones(1))
    for weights in (s, ones):
        yield passes_linear.loss_and_grad, rows, y, weights, Huber(), theta, True, out
        yield passes_linear.curvature_weights, rows, y, weights, Huber(), theta, True, 0, N, d
    yield passes_linear.hessian_product, rows, s, theta, True, out
    yield passes_linear.hessian_diagonal, rows, s, out[:-1], out[1:]
    yield passes_linear.scale_rows, rows, 0, 9, d[:9], shift, np.zeros((9, WIDE + 1))
    yield passes_linear.moment_rows, rows, y, s, 0, 9, shift, 0.7, np.zeros((9, WIDE + 2))


def softmax():
    y, s = frozen(RNG.integers(0, K, N)), frozen(uniform(N))
    for n_classes in (K, WIDE):
        Z = RNG.normal(size=(N, n_classes))
        yield passes_softmax.log_loss_inplace, Z, y, s, 0
        yield passes_softmax.probabilities_inplace, Z
        yield passes_softmax.curvature_times, uniform(N, n_classes), Z, s, 0
    csr = block("csr")[0]
    yield passes_softmax.sparse_product, csr, uniform(P, WIDE), uniform(WIDE), np.zeros((N, WIDE))
    yield passes_softmax.sparse_transposed_product, csr, uniform(N, WIDE), np.zeros((P, WIDE))
    yield passes_softmax.sparse_class_diagonals, csr, uniform(N, WIDE), np.zeros((P, WIDE)), np.zeros((P, WIDE))


def coordinate():
    rows, X, y, s = block("dense", p=WIDE)
    H, l1, y, w = X.T @ X + np.eye(WIDE), ElasticNet(0.5, 0.0), frozen((y > 1.0) * 1.0), np.zeros(WIDE)
    theta, diag = frozen(np.linspace(-1, 1, WIDE + 1)), np.diag(H).copy()
    yield passes_coordinate.gram_epochs, H, diag, l1, 3, 0.0, w, X.T @ y
    model = passes_coordinate.Columns(as_rows(X.T.copy()), diag, X.sum(axis=0), float(N), X.T @ y, 0.1)
    yield passes_coordinate.column_epochs, model, l1, 3, 0.0, w, np.zeros(N), np.zeros(1)
    for weights in (frozen(s), frozen(np.ones(1))):
        yield passes_coordinate.loss_slopes, rows, y, weights, Logistic(), theta, True, np.zeros(N)
    yield passes_coordinate.centred_gram, uniform(WIDE + 1, WIDE + 1), True, uniform(WIDE), 2.0


def piecewise():
    for n in (WIDE, N):
        pieces = passes_piecewise.make_pieces(*uniform(2, n))
        pieces = type(pieces)(*(uniform(n) for _ in pieces))
        z, lo, hi = uniform(n), -uniform(n), uniform(n)
        yield passes_piecewise.look, pieces, z
        yield passes_piecewise.centre, pieces, lo, hi, 0.1
        yield passes_piecewise.stiffness, pieces, z
        yield passes_piecewise.pull, pieces, 0.1, 1.0, z
        yield passes_piecewise.aim, pieces, z, 0.1, 1.0
        yield passes_piecewise.complementarity, pieces, 0.5, 0.25
        yield passes_piecewise.step, pieces, 0.5, 0.25


def stochastic():
    rows, _, y, s = block("dense", p=WIDE)
    none, targets = np.empty((0, 0)), RNG.integers(0, 20, N)
    for head, k, y in ((OneOutput(Logistic()), 1, (y > 1.0) * 1.0), (Classes(20), 20, targets)):
        shape = k, WIDE + 1
        anchors = [Anchor(none, none, none), Anchor(uniform(*shape), uniform(*shape), none)]
        anchors += [Anchor(none, uniform(*shape), uniform(N, k))]
        for optimizer in (Sgd(), Adam()):
            proximal = ElasticNet(0.01, 0.0)
            plan = Plan(optimizer, Schedule(0.01), 8, 1.0, N, 0.1, proximal, uniform(WIDE), uniform(WIDE + 1), True, True)
            for anchor in anchors:
                moments, counts = np.zeros((optimizer.n_moments, k * (WIDE + 1))), np.array([0, 0, N, 0])
                walk = Walk(np.zeros(shape), np.zeros(shape), moments, np.zeros(shape), counts)
                yield passes_stochastic.epoch, rows, frozen(y), frozen(s), head, plan, anchor, walk, 5


@pytest.mark.parametrize("calls", [linear, softmax, coordinate, piecewise, stochastic])
def test_kernels_at_many_placements(calls):
    """Adjacent, near and far, in any order and alignment: one result and one content of all arrays."""
    rng, differing = np.random.default_rng(0), []
    for kernel, *args in calls():
        found = set()
        for gap in [0] * 15 + [1, 2, 3, 8, 30, 64] * 3 + [5000] * 7:
            moved = placed(tuple(args), rng, gap)
            result = np.array(kernel(*moved), dtype=float)
            found.add((result.tobytes(), *(array.tobytes() for array in leaves(moved))))
        if len(found) > 1:
            differing.append((kernel.__name__, len(found)))
    assert differing == []
