"""The multinomial objective: softmax cross-entropy of one raw prediction per class."""

import numpy as np

from . import passes_softmax as passes
from .metrics import DiagonalMetric, KroneckerMetric
from .objective import CHUNK_BYTES, Objective, weighted_gram


class SoftmaxObjective(Objective):
    """theta = (W, b): W (n_features, n_classes) in C order, then the intercepts; y holds class indices."""

    def __init__(self, blocks, n_classes, penalty, fit_intercept):
        super().__init__(blocks, None, penalty, fit_intercept, n_classes)

    @property
    def metric_size(self):
        """Order of the largest matrix that ``metric`` factorises."""
        return self.n_features + self.fit_intercept

    def unpack(self, theta):
        """W (n_features, n_classes) and b (n_classes,), views of theta."""
        W = theta[: self.n_coefs].reshape(self.n_features, self.n_outputs)
        return W, theta[self.n_coefs :] if self.fit_intercept else np.zeros(self.n_outputs)

    def predictions(self, block, W, b, dtype=np.float64):
        """(start, chunk, Z) for runs of rows that fit the cache; ``chunk`` is None for sparse rows, taken
        whole.

        ``dtype`` is that of the product: the rows' own is enough where an approximation will do.
        """
        if self.blocks.sparse:
            Z = np.empty((len(block.y), self.n_outputs))
            passes.sparse_product(block.rows, W, b, Z)
            yield 0, None, Z
            return
        X = block.rows.X
        size, W = max(64, CHUNK_BYTES // (X.itemsize * X.shape[1])), W.astype(dtype)
        for start in range(0, len(X), size):
            chunk = X[start : start + size].astype(dtype, copy=False)
            yield start, chunk, chunk @ W + b

    def add_transposed(self, block, chunk, D, out):
        """Add Xᵀ·D and the column sums of D to a flat parameter vector."""
        G = out[: self.n_coefs].reshape(self.n_features, self.n_outputs)
        if chunk is None:
            passes.sparse_transposed_product(block.rows, D, G)
        else:
            G += (D.T.astype(chunk.dtype, copy=False) @ chunk).T
        if self.fit_intercept:
            out[self.n_coefs :] += D.sum(axis=0)

    def _sum(self, theta):
        W, b = self.unpack(theta)

        def block_sum(block, grad):
            value = 0.0
            for start, chunk, Z in self.predictions(block, W, b):
                value += passes.log_loss_inplace(Z, block.y, block.s, start)
                self.add_transposed(block, chunk, Z, grad)
            return value

        return self.blocks.total(block_sum, self.n_params)

    def metric(self, theta, ridge=0.0):
        """The Hessian with one matrix for the features and one for the classes, factorised."""
        curvatures, offsets = self.curvatures(theta), self.blocks.positions

        def weights(block, start, stop, d):
            P = curvatures[offsets[block.start]][start:stop]
            d[: stop - start] = 1.0 - np.einsum("ij,ij->i", P, P)
            d[: stop - start] *= block.s if len(block.s) == 1 else block.s[start:stop]

        def classes(block, out):
            P = curvatures[offsets[block.start]]
            sP = P * (block.s[:, None] if len(block.s) > 1 else block.s[0])
            out += np.diag(sP.sum(axis=0)) - sP.T @ P
            return 0.0

        S = self.blocks.total(classes, (self.n_outputs, self.n_outputs))[1] / self.blocks.weight
        A = weighted_gram(self.blocks, weights, np.zeros(self.n_features), self.fit_intercept)
        A /= self.blocks.weight * max(np.trace(S), 1e-300)
        return KroneckerMetric(A, S, self.penalty.l2, self.n_features, ridge)

    def curvatures(self, theta):
        """Probabilities of the classes for each row, a list with an array per block."""
        W, b = self.unpack(theta)

        def of_block(block):
            P = np.empty((len(block.y), self.n_outputs))
            for start, _, Z in self.predictions(block, W, b):
                passes.probabilities_inplace(Z)
                P[start : start + len(Z)] = Z
            return P

        return self.blocks.map(of_block)

    def hessian_dot(self, curvatures, v):
        """The Hessian with those probabilities times a flat parameter vector."""
        self.n_passes += 1
        V, b = self.unpack(v)
        offsets = self.blocks.positions

        def block_sum(block, out):
            dtype = block.rows.values().dtype
            P = curvatures[offsets[block.start]]
            for start, chunk, D in self.predictions(block, V, b, dtype):
                passes.curvature_times(P[start : start + len(D)], D, block.s, start)
                self.add_transposed(block, chunk, D, out)
            return 0.0

        product = self.blocks.total(block_sum, self.n_params)[1]
        product /= self.blocks.weight
        product[: self.n_coefs] += self.penalty.gradient(v[: self.n_coefs])
        return product

    def largest_change(self, step):
        """Largest change of the difference of two raw predictions of a row that a step in theta makes."""
        W, b = self.unpack(step)

        def of_block(block):
            return max(np.ptp(Z, axis=1).max() for _, _, Z in self.predictions(block, W, b))

        return max(self.blocks.map(of_block))

    def diagonal_metric(self, curvatures):
        """The diagonal of the Hessian in centred coordinates, as a metric."""
        offsets, p, K = self.blocks.positions, self.n_features, self.n_outputs

        def block_sum(block, out):
            P = curvatures[offsets[block.start]]
            D = P * (1 - P) * (block.s[:, None] if len(block.s) > 1 else block.s[0])
            out[-1] += D.sum(axis=0)
            if self.blocks.sparse:
                passes.sparse_class_diagonals(block.rows, D, out[:p], out[p : 2 * p])
                return 0.0
            size = max(64, CHUNK_BYTES // (8 * p))
            for start in range(0, len(D), size):
                chunk = block.rows.X[start : start + size].astype(np.float64)
                out[p : 2 * p] += chunk.T @ D[start : start + size]
                out[:p] += np.multiply(chunk, chunk, out=chunk).T @ D[start : start + size]
            return 0.0

        sums = self.blocks.total(block_sum, (2 * p + 1, K))[1] / self.blocks.weight
        return DiagonalMetric(sums[:p], sums[p : 2 * p], sums[-1], self.penalty.l2, self.fit_intercept)

    def sample(self, step):
        """The same objective on every ``step``-th row."""
        return SoftmaxObjective(self.blocks.sample(step), self.n_outputs, self.penalty, self.fit_intercept)
