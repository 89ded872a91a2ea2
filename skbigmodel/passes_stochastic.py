"""Jitted passes of the stochastic solvers over one block of rows: epochs of mini-batch steps.

Parameters are held as (n_outputs, n_features + 1): a row per output, its intercept last. The same epoch
serves plain mini-batches and two kinds of variance reduction, which subtract from each row's gradient what
it was at an earlier point and add the mean of those.
"""

from typing import NamedTuple

import numpy as np

from ._jit import exp, jit, method
from .losses import derivative
from .optimizers import at, step
from .penalties import prox
from .rows import add, dot, n_rows

# Walk.counts: steps taken, rows in the batch being filled, rows left in the epoch, iterates in the sum
STEPS, ROWS_IN_BATCH, ROWS_LEFT, AVERAGED = range(4)


@method
def slopes(self, y, z, out):
    """out[k] = derivative of the loss of a row in its raw prediction z[k]."""
    return self.slopes(y, z, out)


class OneOutput(NamedTuple):
    """Rows with one raw prediction and a loss of ``losses``."""

    loss: object

    def slopes(self, y, z, out):
        out[0] = derivative(self.loss, y, z[0])


class Classes(NamedTuple):
    """Rows with one raw prediction per class and the softmax cross-entropy; y holds class indices."""

    n_classes: int

    def slopes(self, y, z, out):
        """out = softmax(z) - onehot(y), without overflow."""
        top, mass = z[0], 0.0
        for k in range(1, z.size):
            top = max(top, z[k])
        for k in range(z.size):
            out[k] = exp(z[k] - top)
        for k in range(z.size):  # apart from the loop that stores: see passes_linear
            mass += out[k]
        for k in range(z.size):
            out[k] /= mass
        out[y] -= 1.0


class Plan(NamedTuple):
    """What stays fixed in an epoch."""

    optimizer: object
    schedule: object
    batch_size: int
    weight: float  # mean weight of a row: a batch's gradient is divided by it times the size of the batch
    n_rows: int  # of all blocks
    l2: float
    proximal: object  # the rest of the penalty
    mean: np.ndarray  # (n_features,) means and ...
    scale: np.ndarray  # ... (n_features + 1,) scales of the coordinates in which steps are taken
    has_intercept: bool
    average: bool
    l2_intercept: float = 0.0


class Anchor(NamedTuple):
    """The earlier point of variance reduction; empty arrays for plain mini-batches.

    SVRG keeps ``theta`` and its gradient. SAGA keeps in ``table`` the slopes of each row when it was last
    visited, and in ``grad`` their mean gradient.
    """

    theta: np.ndarray  # (n_outputs, n_features + 1)
    grad: np.ndarray  # the same shape: gradient of the mean loss there, without penalty
    table: np.ndarray  # (n_rows, n_outputs)


class Walk(NamedTuple):
    """What an epoch changes."""

    theta: np.ndarray  # (n_outputs, n_features + 1)
    batch_grad: np.ndarray  # the same shape: sum over the batch that is being filled
    moments: np.ndarray  # (n_moments, size of theta) of the optimizer
    total: np.ndarray  # the same shape as theta: sum of the iterates, where they are averaged
    counts: np.ndarray  # four integers, indexed by STEPS and so on


@jit
def mix(x):
    """A well-scrambled 64-bit number from a counter (SplitMix64)."""
    x = np.uint64(x) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@jit
def shuffled(n, key):
    """A permutation of 0 … n - 1 that is a function of ``key`` alone (Fisher and Yates)."""
    order = np.arange(n)
    for i in range(n - 1, 0, -1):
        j = np.int64(mix(np.uint64(key) ^ mix(np.uint64(i))) % np.uint64(i + 1))
        order[i], order[j] = order[j], order[i]
    return order


@jit
def row_slopes(rows, i, y, head, theta, z, out):
    """out = derivatives of the loss of row i in its raw predictions, for which ``z`` is room."""
    for k in range(theta.shape[0]):
        z[k] = dot(rows, i, theta[k]) + theta[k, -1]
    slopes(head, y, z, out)


@jit
def fill_table(rows, y, head, theta, table):
    """table[i] = slopes of row i at ``theta``."""
    z = np.empty(theta.shape[0])
    for i in range(n_rows(rows)):
        row_slopes(rows, i, y[i], head, theta, z, table[i])


@jit
def epoch(rows, y, s, head, plan, anchor, walk, key):
    """Mini-batch steps over all rows, shuffled by ``key``; a batch may begin in the block before."""
    K, p, counts = walk.theta.shape[0], walk.theta.shape[1] - 1, walk.counts
    z, dz, old, move = np.empty(K), np.empty(K), np.zeros(K), np.empty(K * (p + 1))
    order = shuffled(n_rows(rows), key)
    for i in order:
        weight = s[i] if s.shape[0] > 1 else s[0]
        row_slopes(rows, i, y[i], head, walk.theta, z, dz)
        if anchor.table.shape[0] > 0:
            for k in range(K):
                old[k], anchor.table[i, k] = anchor.table[i, k], dz[k]
        elif anchor.theta.size > 0:
            row_slopes(rows, i, y[i], head, anchor.theta, z, old)
        for k in range(K):
            a = weight * (dz[k] - old[k])
            add(rows, i, a, walk.batch_grad[k])
            if plan.has_intercept:
                walk.batch_grad[k, p] += a
        counts[ROWS_IN_BATCH] += 1
        counts[ROWS_LEFT] -= 1
        if counts[ROWS_IN_BATCH] == plan.batch_size or counts[ROWS_LEFT] == 0:
            batch_gradient(plan, anchor, walk)
            take_step(plan, walk, move)


@jit
def batch_gradient(plan, anchor, walk):
    """Turn the batch's sum into an estimate of the mean loss's gradient; refresh SAGA's mean gradient."""
    share = 1.0 / (walk.counts[ROWS_IN_BATCH] * plan.weight)
    whole = 1.0 / (plan.n_rows * plan.weight)
    walk.counts[ROWS_IN_BATCH] = 0
    anchored, remembering = anchor.grad.size > 0, anchor.table.shape[0] > 0
    for k in range(walk.theta.shape[0]):
        for j in range(walk.theta.shape[1]):
            change = walk.batch_grad[k, j]
            walk.batch_grad[k, j] = share * change
            if anchored:
                walk.batch_grad[k, j] += anchor.grad[k, j]
            if remembering:
                anchor.grad[k, j] += whole * change


@jit
def take_step(plan, walk, move):
    """One step in the coordinates u = w/scale, c = (b + mean·w)/scale₀; ``move`` is room for it."""
    K, p, counts, theta, grad = walk.theta.shape[0], plan.mean.size, walk.counts, walk.theta, walk.batch_grad
    rate = at(plan.schedule, counts[STEPS])
    counts[STEPS] += 1
    for k in range(K):
        grad[k, p] += plan.l2_intercept * theta[k, p]
        for j in range(p):
            grad[k, j] = plan.scale[j] * (grad[k, j] + plan.l2 * theta[k, j] - plan.mean[j] * grad[k, p])
        grad[k, p] *= plan.scale[p]
    for j in range(move.size):
        move[j] = 0.0
    step(plan.optimizer, move, grad.reshape(-1), walk.moments, counts[STEPS], rate)
    for k in range(K):
        shift = 0.0
        for j in range(p):
            before, scale = theta[k, j], plan.scale[j]
            theta[k, j] = prox(plan.proximal, before + scale * move[k * (p + 1) + j], rate * scale * scale)
            move[k * (p + 1) + j] = theta[k, j] - before
        for j in range(p):  # apart from the loop that stores: see passes_linear
            shift += plan.mean[j] * move[k * (p + 1) + j]
        if plan.has_intercept:
            theta[k, p] += plan.scale[p] * move[k * (p + 1) + p] - shift
        for j in range(p + 1):
            grad[k, j] = 0.0
            if plan.average:
                walk.total[k, j] += theta[k, j]
    counts[AVERAGED] += 1


@jit
def prox_inplace(penalty, w, steps):
    """Apply the proximal operator of the penalty to each coefficient with its own step."""
    for j in range(w.size):
        w[j] = prox(penalty, w[j], steps[j])
