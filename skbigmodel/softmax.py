"""The multinomial objective: softmax cross-entropy of one raw prediction per class."""

from functools import partial
from typing import NamedTuple

import numpy as np

from . import passes_softmax as passes
from .metrics import DiagonalMetric, KroneckerMetric
from .objective import CHUNK_BYTES, Objective, weighted_gram


class SoftmaxObjective(Objective):
    """theta = (W, b): W (n_features, n_classes) in C order, then the intercepts; y holds class indices."""

    def __init__(self, blocks, n_classes, penalty, fit_intercept):
        super().__init__(blocks, None, penalty, fit_intercept, n_classes)
        self.model = SoftmaxModel(self.n_features, n_classes, fit_intercept)

    @property
    def metric_size(self):
        """Order of the largest matrix that ``metric`` factorises."""
        return self.n_features + self.fit_intercept

    def unpack(self, theta):
        """W (n_features, n_classes) and b (n_classes,), views of theta."""
        return self.model.unpack(theta)

    def _sum(self, theta):
        return self.blocks.total(partial(self.model.loss_and_grad, theta), self.n_params)

    def metric(self, theta, ridge=0.0):
        """The Hessian with one matrix for the features and one for the classes, factorised."""
        P, K, weight = self.curvatures(theta), self.n_outputs, self.blocks.weight
        S = self.blocks.total(_class_curvature, (K, K), P)[1] / weight
        A = weighted_gram(self.blocks, _row_curvature, np.zeros(self.n_features), self.fit_intercept, P)
        A /= weight * max(np.trace(S), 1e-300)
        return KroneckerMetric(A, S, self.penalty.l2, self.n_features, ridge)

    def curvatures(self, theta):
        """Probabilities of the classes for each row, kept by the blocks."""
        return self.blocks.keep(partial(self.model.probabilities, theta))

    def hessian_dot(self, curvatures, v):
        """The Hessian with those probabilities times a flat parameter vector."""
        self.n_passes += 1
        product = self.blocks.total(partial(self.model.hessian_product, v), self.n_params, curvatures)[1]
        product /= self.blocks.weight
        product += self.penalty_gradient(v)
        return product

    def largest_change(self, step):
        """Largest change of the difference of two raw predictions of a row that a step in theta makes."""
        return max(self.blocks.map(partial(self.model.largest_difference, step)))

    def diagonal_metric(self, curvatures):
        """The diagonal of the Hessian in centred coordinates, as a metric."""
        p, K = self.n_features, self.n_outputs
        sums = self.blocks.total(_diagonal, (2 * p + 1, K), curvatures)[1] / self.blocks.weight
        return DiagonalMetric(sums[:p], sums[p : 2 * p], sums[-1], self.penalty.l2, self.fit_intercept)

    def sample(self, step):
        """The same objective on every ``step``-th row."""
        return SoftmaxObjective(self.blocks.sample(step), self.n_outputs, self.penalty, self.fit_intercept)


class SoftmaxModel(NamedTuple):
    """Sizes of the model, and its passes over a block, each given a flat parameter vector first."""

    n_features: int
    n_outputs: int
    fit_intercept: bool

    def unpack(self, theta):
        """W (n_features, n_outputs) and b (n_outputs,), views of theta."""
        n = self.n_features * self.n_outputs
        return theta[:n].reshape(-1, self.n_outputs), theta[n:] if self.fit_intercept else np.zeros(
            self.n_outputs
        )

    def predictions(self, theta, block, dtype=np.float64):
        """(start, chunk, Z) for runs of rows that fit the cache; ``chunk`` is None for sparse rows, taken
        whole.

        ``dtype`` is that of the product: the rows' own is enough where an approximation will do.
        """
        W, b = self.unpack(theta)
        X = getattr(block.rows, "X", None)
        if X is None:
            Z = np.empty((len(block.y), self.n_outputs))
            passes.sparse_product(block.rows, W, b, Z)
            yield 0, None, Z
            return
        size, W = max(64, CHUNK_BYTES // (X.itemsize * X.shape[1])), W.astype(dtype)
        for start in range(0, len(X), size):
            chunk = X[start : start + size].astype(dtype, copy=False)
            yield start, chunk, chunk @ W + b

    def add_transposed(self, block, chunk, D, out):
        """Add Xᵀ·D and the column sums of D to a flat parameter vector."""
        G, b = self.unpack(out)
        if chunk is None:
            passes.sparse_transposed_product(block.rows, D, G)
        else:
            G += (D.T.astype(chunk.dtype, copy=False) @ chunk).T
        b += D.sum(axis=0)

    def loss_and_grad(self, theta, block, grad):
        """Add the gradient of the weighted sum of losses to ``grad``; return the sum."""
        value = 0.0
        for start, chunk, Z in self.predictions(theta, block):
            value += passes.log_loss_inplace(Z, block.y, block.s, start)
            self.add_transposed(block, chunk, Z, grad)
        return value

    def probabilities(self, theta, block):
        """Of the classes, for each row (n_rows, n_outputs)."""
        P = np.empty((len(block.y), self.n_outputs))
        for start, _, Z in self.predictions(theta, block):
            passes.probabilities_inplace(Z)
            P[start : start + len(Z)] = Z
        return P

    def hessian_product(self, v, block, P, out):
        """Add the product of the Hessian of the summed losses, at probabilities ``P``, with v to ``out``."""
        for start, chunk, D in self.predictions(v, block, block.rows.values().dtype):
            passes.curvature_times(P[start : start + len(D)], D, block.s, start)
            self.add_transposed(block, chunk, D, out)
        return 0.0

    def largest_difference(self, theta, block):
        """Largest difference between two raw predictions of a row."""
        return max(np.ptp(Z, axis=1).max() for _, _, Z in self.predictions(theta, block))


# -- passes over a block, given the probabilities of its rows


def _row_curvature(block, P, start, stop, d):
    part = P[start:stop]
    d[: stop - start] = 1.0 - np.einsum("ij,ij->i", part, part)
    d[: stop - start] *= block.s if len(block.s) == 1 else block.s[start:stop]


def _class_curvature(block, P, out):
    sP = P * (block.s[:, None] if len(block.s) > 1 else block.s[0])
    out += np.diag(sP.sum(axis=0)) - sP.T @ P
    return 0.0


def _diagonal(block, P, out):
    p = len(out) // 2
    D = P * (1 - P) * (block.s[:, None] if len(block.s) > 1 else block.s[0])
    out[-1] += D.sum(axis=0)
    X = getattr(block.rows, "X", None)
    if X is None:
        passes.sparse_class_diagonals(block.rows, D, out[:p], out[p : 2 * p])
        return 0.0
    size = max(64, CHUNK_BYTES // (8 * p))
    for start in range(0, len(D), size):
        chunk = X[start : start + size].astype(np.float64)
        out[p : 2 * p] += chunk.T @ D[start : start + size]
        out[:p] += np.multiply(chunk, chunk, out=chunk).T @ D[start : start + size]
    return 0.0
