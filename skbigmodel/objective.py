"""The function that a linear model minimises, in its mean form, as solvers see it.

    F(theta) = (1/Σs) Σ s·loss(y, x·w + b) + penalty(w),     theta = (w, b)

and its multinomial sibling. ``value_grad`` is all that a first-order method needs; ``metric`` gives
second-order ones a factorised (approximate) Hessian.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from . import passes_linear as passes
from ._jit import frozen
from .metrics import CholeskyMetric, DiagonalMetric, HeavyMetric

HEAVY_COLUMNS = 1000  # of sparse data, whose Hessian is factorised
CHUNK_BYTES = (
    1 << 20
)  # of scaled rows whose Gram matrix BLAS forms at a time: they stay in the second-level cache


class Objective:
    """What the objectives share.

    Parameters
    ----------
    blocks : a source of blocks (see ``blocks``)
    penalty : a NamedTuple of ``penalties``
    fit_intercept : bool
        Whether theta ends with an intercept per output.
    n_outputs : int
        Raw predictions per row.
    """

    def __init__(self, blocks, loss, penalty, fit_intercept, n_outputs=1):
        self.blocks, self.loss, self.penalty, self.fit_intercept = blocks, loss, penalty, fit_intercept
        self.n_features, self.n_outputs = blocks.n_features, n_outputs
        self.n_coefs = blocks.n_features * n_outputs
        self.n_params = self.n_coefs + fit_intercept * n_outputs
        self.n_passes = 0  # over the rows, for tests and logs

    def value_grad(self, theta):
        """Value, and gradient of the smooth part (loss and l2)."""
        self.n_passes += 1
        value, grad = self._sum(theta)
        grad /= self.blocks.weight
        grad += self.penalty_gradient(theta)
        return value / self.blocks.weight + self.penalty_value(theta), grad

    def penalty_value(self, theta):
        """What all parameters cost."""
        w, b = theta[: self.n_coefs], theta[self.n_coefs :]
        return self.penalty.value(w) + 0.5 * self.penalty.l2_intercept * np.dot(b, b)

    def penalty_gradient(self, theta):
        """Gradient of the l2 parts of the penalty."""
        w, b = theta[: self.n_coefs], theta[self.n_coefs :]
        return np.concatenate([self.penalty.gradient(w), self.penalty.l2_intercept * b])

    def sure_gap(self, estimate, grad):
        """The gap to the optimum that a quadratic model estimates, made safe where the curvature jumps.

        A model knows nothing of rows beyond the jump. What is sure is the bound by strong convexity.
        """
        if not getattr(self.loss, "jumps", False) or not self.penalty.l2 > 0:
            return estimate
        g = grad[: self.n_coefs]
        return max(estimate, float(g @ g) / (2.0 * self.penalty.l2))

    def optimality(self, theta, grad):
        """Largest entry of the smallest subgradient."""
        coefs = self.penalty.residual(theta[: self.n_coefs], grad[: self.n_coefs])
        return float(np.maximum(coefs.max(initial=0.0), np.abs(grad[self.n_coefs :]).max(initial=0.0)))


class LinearObjective(Objective):
    """One raw prediction z = x·w + b and any loss of ``losses``."""

    @property
    def metric_size(self):
        """Order of the largest matrix that ``metric`` factorises."""
        return self.n_params

    def _sum(self, theta):
        return self.blocks.total(partial(_loss_and_grad, self.at(theta)), self.n_params)

    def at(self, theta):
        """The model as passes over the blocks take it."""
        return LinearModel(self.loss, theta, self.fit_intercept)

    def hessian(self, theta):
        """Hessian of the smooth part."""
        weights = self.at(theta).curvature_weights
        H = weighted_gram(self.blocks, weights, np.zeros(self.n_features), self.fit_intercept)
        H /= self.blocks.weight
        H[np.diag_indices(len(H))] += self.curvature_of_penalty()
        return H

    def curvature_of_penalty(self):
        """Diagonal of the Hessian of the l2 parts of the penalty."""
        diagonal = np.full(self.n_params, self.penalty.l2)
        diagonal[self.n_coefs :] = self.penalty.l2_intercept
        return diagonal

    def metric(self, theta, ridge=0.0):
        """The Hessian, factorised, with a relative ``ridge`` on its diagonal."""
        return CholeskyMetric(self.hessian(theta), ridge)

    def curvatures(self, theta):
        """Weight times second derivative of the loss for each row, kept by the blocks."""
        return self.blocks.keep(partial(_curvatures, self.at(theta)))

    def hessian_dot(self, curvatures, v):
        """The Hessian with those curvatures times a flat parameter vector."""
        self.n_passes += 1
        product = self.blocks.total(
            partial(_hessian_product, v, self.fit_intercept), self.n_params, curvatures
        )[1]
        product /= self.blocks.weight
        product += self.penalty_gradient(v)
        return product

    def diagonal_metric(self, curvatures):
        """The diagonal of the Hessian in centred coordinates, as a metric."""
        total, (diagonal, cross) = self.blocks.total(_hessian_diagonal, (2, self.n_features), curvatures)
        diagonal, cross, total = (part / self.blocks.weight for part in (diagonal, cross, np.array([total])))
        total += self.penalty.l2_intercept  # as if further rows had all coefficients' columns at zero
        return DiagonalMetric(diagonal[:, None], cross[:, None], total, self.penalty.l2, self.fit_intercept)

    def largest_change(self, step):
        """Largest change of a raw prediction that a step in theta makes."""
        return max(self.blocks.map(partial(_largest_prediction, step, self.fit_intercept)))

    def heavy_metric(self, curvatures):
        """The Hessian among the columns that weigh most in it, factorised, and its diagonal elsewhere.

        For sparse rows, such as counts of words, where few columns hold most of the entries.
        """
        diagonal = self.diagonal_metric(curvatures).diagonal[:, 0]
        heavy = np.sort(np.argpartition(-diagonal, HEAVY_COLUMNS)[:HEAVY_COLUMNS])
        position = np.full(self.n_features, -1)
        position[heavy] = np.arange(HEAVY_COLUMNS)
        shape = HEAVY_COLUMNS + 1, HEAVY_COLUMNS + 1
        H = folded(self.blocks.total(partial(_heavy_gram, position), shape, curvatures)[1])
        H /= self.blocks.weight
        H[np.diag_indices(HEAVY_COLUMNS)] += self.penalty.l2
        H[-1, -1] += self.penalty.l2_intercept
        if self.fit_intercept:
            return HeavyMetric(H, np.append(heavy, self.n_features), np.append(diagonal, 1.0))
        return HeavyMetric(H[:-1, :-1], heavy, diagonal)

    def sample(self, step):
        """The same objective on every ``step``-th row."""
        return LinearObjective(self.blocks.sample(step), self.loss, self.penalty, self.fit_intercept)


# -- passes over a block, given what varies first


class LinearModel(NamedTuple):
    """A loss and where its raw predictions come from."""

    loss: object
    theta: np.ndarray
    fit_intercept: bool

    def curvature_weights(self, block, start, stop, d):
        """d[:stop - start] = weight times second derivative of the loss, for those rows of the block."""
        passes.curvature_weights(block.rows, block.y, block.s, *self, start, stop, d)


def _loss_and_grad(model, block, grad):
    return passes.loss_and_grad(block.rows, block.y, block.s, *model, grad)


def _curvatures(model, block):
    d = np.empty(len(block.y))
    model.curvature_weights(block, 0, len(d), d)
    return d


def _hessian_product(v, fit_intercept, block, d, out):
    passes.hessian_product(block.rows, d, v, fit_intercept, out)
    return 0.0


def _hessian_diagonal(block, d, out):
    return passes.hessian_diagonal(block.rows, frozen(d), out[0], out[1])


def _largest_prediction(theta, fit_intercept, block):
    z = np.empty(len(block.y))
    passes.decision(block.rows, theta, fit_intercept, z)
    return np.abs(z).max()


def _heavy_gram(position, block, d, H):
    passes.add_heavy_gram(block.rows, d, position, H)
    return 0.0


def folded(H):
    """The symmetric matrix whose entries were summed in either triangle, by their order in a row."""
    return H + H.T - np.diag(H.diagonal())


def weighted_gram(blocks, weights, shift, extra_column, *kept, dtype=None):
    """Σ d·(x - shift)(x - shift)ᵀ with d from ``weights(block, *parts, start, stop, d)``.

    ``extra_column`` appends a column of ones to x. Dense rows go through BLAS (a symmetric product), sparse
    ones are scattered; ``shift`` must be zero for those. ``dtype`` is that of the products; by default that
    of dense rows.
    """
    size = blocks.n_features + bool(extra_column)
    if blocks.sparse:
        return folded(blocks.total(partial(_sparse_gram, weights, shift), (size, size), *kept)[1])
    return blocks.total(partial(_dense_gram, weights, shift, dtype), (size, size), *kept)[1]


def _dense_gram(weights, shift, dtype, block, *parts):
    *parts, H = parts
    X, size = block.rows.X, len(H)
    chunk = min(max(2 * size, CHUNK_BYTES // (X.itemsize * size)), len(X))
    B, d = np.empty((chunk, size), dtype or X.dtype), np.empty(chunk)
    for start in range(0, len(X), chunk):
        stop = min(start + chunk, len(X))
        weights(block, *parts, start, stop, d)
        passes.scale_rows(block.rows, start, stop, d, shift, B)
        part = B[: stop - start]
        H += part.T @ part
    return 0.0


def _sparse_gram(weights, shift, block, *parts):
    *parts, H = parts
    d = np.empty(len(block.y))
    weights(block, *parts, 0, len(d), d)
    passes.add_sparse_gram(block.rows, d, shift, H)
    return 0.0
