"""The quadratic model of a linear objective in the coefficients of some features, and its minimum with an l1
penalty or sign constraint.

The intercept is eliminated: in terms of centred columns (by the mean under the model's weights) it does not
interact with the coefficients. The minimum is found in turns: sweeps of coordinate descent find out which
coefficients are zero and which sign the others have, and a Newton step for the others, as far as their signs
last, converges where columns are correlated and sweeps alone would creep.
"""

import numpy as np
from scipy.linalg.lapack import dposv

from .. import passes_linear as passes
from .._jit import frozen
from ..metrics import CholeskyMetric, Model
from ..objective import weighted_gram
from ..passes_coordinate import Columns, centred_gram, column_epochs, gram_epochs
from ..rows import as_rows
from ..validation import NotFinite
from .newton_cg import conjugate_gradients

GRAM_LIMIT = 2000  # features up to which the matrix of the model is formed
MAX_FACES = 3, 20  # Newton steps in a turn, and for ...
SMALL_FACE = 64  # ... so few coefficients that they cost nothing
# (dense, sparse): a variance that small relative to the square of the mean is rounding
SPREAD = 1e-24, 1e-13
FACE_SHARE = 0.1  # accuracy of conjugate gradients relative to the gradient


def build(objective, theta, features):
    """The model at ``theta`` of an objective on those features alone; ``theta`` is cut to them."""
    few = features.size <= GRAM_LIMIT or objective.blocks.remote
    make = _gram_model if few else _column_model
    model = make(objective, theta, features)
    if not np.isfinite(model.diag).all():
        raise NotFinite
    return model


def _finish(objective, raw, means, total):
    """Diagonal from the weighted squares of centred columns."""
    offset = objective.fit_intercept * total * means**2
    constant = raw <= SPREAD[objective.blocks.sparse] * offset
    return np.where(constant | (raw <= 0), 0.0, raw + objective.penalty.l2)


def _gram_model(objective, theta, features):
    blocks, fit_intercept, k = objective.blocks, objective.fit_intercept, features.size
    shift = np.zeros(k)
    if fit_intercept and not blocks.sparse:  # near the mean is enough to avoid cancellation
        shift[:] = blocks.head().mean(axis=0, dtype=np.float64)
    H = weighted_gram(blocks, objective.at(theta).curvature_weights, shift, True)
    total = max(float(H[k, k]), 1e-300)
    means = H[k, :k] / total if fit_intercept else np.zeros(k)
    # entries of a sparse row may come in any order, and then their products in either triangle
    H = centred_gram(H, means, blocks.weight)
    total, means = total / blocks.weight, means + shift
    diag = _finish(objective, H.diagonal(), means, total)
    H[diag == 0], H[:, diag == 0] = 0.0, 0.0
    H[np.diag_indices(k)] = diag
    return Model(features, means, total, diag, H, np.empty(0))


def _column_model(objective, theta, features):
    blocks = objective.blocks
    d = frozen(np.concatenate(objective.curvatures(theta)) / blocks.weight)

    def block_sum(block, sums):
        return passes.hessian_diagonal(block.rows, d[block.start : block.stop], sums[0], sums[1])

    total, (squares, cross) = blocks.total(block_sum, (2, features.size))
    total = max(total, 1e-300)
    means = cross / total if objective.fit_intercept else np.zeros(features.size)
    diag = _finish(objective, squares - total * means**2, means, total)
    return Model(features, means, total, diag, np.empty((0, 0)), d)


def problem(model, w, G, penalty, X):
    """The model around coefficients ``w`` with gradient ``G``; ``X`` holds the columns of its features."""
    return _Gram(model, w, G, penalty) if model.H.size or not w.size else _Columns(model, w, G, penalty, X)


class _Problem:
    """minimise G·δ + δ·H·δ/2 + l1·‖w + δ‖₁ with signs as the penalty has them."""

    def __init__(self, model, w, G, penalty):
        self.model, self.start, self.G0 = model, w, G
        self.smooth, self.l1, self.l2 = penalty.smooth, penalty.l1, penalty.l2
        self.penalty = penalty._replace(l2=0.0)  # the model's Hessian has it
        self.w = np.where(model.diag > 0, w, 0.0)

    def minimize(self, goal):
        """(coefficients, what they gain, what is left to gain): about ``goal`` or less is left."""
        left = 0.0
        for _ in range(self.max_turns):
            left = self.sweep(5 + np.count_nonzero(self.w) // 20, goal)
            if left <= goal:
                break
            self._face_steps(goal)
        delta, G = self.w - self.start, 0.5 * (self.G0 + self.gradient())
        gains = delta * G + self.l1 * (np.abs(self.w) - np.abs(self.start))
        return self.w, -float(gains.sum()), left

    def _face_steps(self, goal):
        """Newton's steps for the coefficients that are not zero, each up to the first change of a sign."""
        for k in range(MAX_FACES[1]):
            free = np.flatnonzero((self.model.diag > 0) & (self.smooth | (self.w != 0)))
            if not free.size or k >= MAX_FACES[free.size <= SMALL_FACE]:
                return
            w = self.w[free]
            step = self.solve(free, -(self.gradient()[free] + self.l1 * np.sign(w)), goal)
            crosses = (step * w < 0) & (not self.smooth)
            reach = np.divide(-w, step, out=np.full(free.size, np.inf), where=crosses)
            t = min(1.0, reach.min())
            moved = w + t * step
            if t < 1.0:
                moved[reach <= t] = 0.0
            self.move(free, moved - w)
            self.w[free] = moved
            if t == 1.0:
                return


class _Gram(_Problem):
    """With the matrix of the model."""

    max_turns = 60

    def __init__(self, model, w, G, penalty):
        super().__init__(model, w, G, penalty)
        self.G = G.copy()

    def sweep(self, n_epochs, goal):
        return gram_epochs(self.model.H, self.model.diag, self.penalty, n_epochs, goal, self.w, self.G)

    def gradient(self):
        return self.G

    def solve(self, free, r, goal):
        H = self.model.H if free.size == self.w.size else self.model.H[free[:, None], free]
        _, step, singular = dposv(H, r, lower=1)
        return step if not singular else CholeskyMetric(H).solve(r)

    def move(self, free, step):
        self.G += step @ self.model.H[free]


class _Columns(_Problem):
    """With the columns themselves: for so many features that the matrix would be larger than they are."""

    max_turns = 5  # each takes several reads of them

    def __init__(self, model, w, G, penalty, X):
        super().__init__(model, w, G, penalty)
        root = np.sqrt(model.d)
        if isinstance(X, np.ndarray):
            self.C = np.ascontiguousarray(X.T, dtype=np.float64) * root
        else:
            self.C = X.T.tocsr().astype(np.float64)
            self.C.data *= root[self.C.indices]
        sums = model.total * model.means
        self.q, self.offset = np.zeros(root.size), np.zeros(1)
        self.columns = Columns(as_rows(self.C), model.diag, sums, model.total, G - self.l2 * w, self.l2)

    def sweep(self, n_epochs, goal):
        n_epochs = min(n_epochs, 10)
        return column_epochs(self.columns, self.penalty, n_epochs, goal, self.w, self.q, self.offset)

    def gradient(self):
        return self.columns.g + self.C @ self.q + self.offset[0] * self.columns.sums + self.l2 * self.w

    def solve(self, free, r, goal):
        """By conjugate gradients, each product of which reads the columns twice."""
        diag = self.model.diag[free]

        def product(v):
            full = np.zeros(self.w.size)
            full[free] = v
            image = self.C @ (self.C.T @ full) - (self.model.means @ full) * self.columns.sums
            return image[free] + self.l2 * v

        return conjugate_gradients(product, lambda v: v / diag, -r, FACE_SHARE, goal).direction

    def move(self, free, step):
        full = np.zeros(self.w.size)
        full[free] = step
        self.q += self.C.T @ full
        self.offset[0] -= self.model.means @ full
