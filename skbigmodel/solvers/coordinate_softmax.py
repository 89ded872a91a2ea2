"""Coordinate descent for the multinomial loss with an l1 part: Newton's method on a working set of features.

1. The working set holds the features with a coefficient that is not zero or wants to move, in any class.
2. The quadratic model on it couples the classes. Its intercepts are eliminated by the Schur complement of
   their block (which is singular: all may move together), and it is minimised as in ``quadratic``.
3. The step is taken, shortened until the objective falls.

References
----------
J. Friedman, T. Hastie and R. Tibshirani, "Regularization paths for generalized linear models via coordinate
descent", J. Stat. Softw. 33 (2010), for the problem; its partial Newton steps ignore the coupling of the
classes, this one does not.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.linalg as la

from ..rows import as_csr
from . import quadratic
from .coordinates import column_moments
from .driver import gap_tolerance
from .line_search import descend

DAMPING = 1e-8  # relative
SIZE_LIMIT = 1500  # coefficients of the model
CHUNK_BYTES = 1 << 22


@dataclass
class State:
    """Iterate with value and gradient of the smooth part, and the step that the model suggests."""

    theta: np.ndarray
    value: float
    grad: np.ndarray
    step: np.ndarray | None = None
    gap: float = np.inf
    optimality: float = np.inf
    stalled: bool = False


class SoftmaxCoordinateDescent:
    """The multinomial loss with any penalty, as long as few features take part."""

    name = "cd"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.settings = objective, settings

    def init(self, theta):
        """Evaluate the start."""
        value, grad = self.objective.value_grad(theta)
        state = State(theta, value, grad, optimality=self.objective.optimality(theta, grad))
        if np.isfinite(state.optimality):
            self._plan(state)
        return state

    def advance(self, state):
        """One iteration."""
        found = self._search(state)
        if found is None:
            state.stalled = True
            return
        fresh = State(*found, optimality=self.objective.optimality(found[0], found[2]))
        self._plan(fresh)
        vars(state).update(vars(fresh))

    def _search(self, state):
        """Step 3: the new iterate with value and gradient, or ``None``."""
        n, l1 = self.objective.n_coefs, self.objective.penalty.l1
        w, step = state.theta[:n], state.step
        slope = float(state.grad @ step) + l1 * float((np.abs(w + step[:n]) - np.abs(w)).sum())
        return descend(self.objective.value_grad, state, step, slope)

    def _plan(self, state):
        """Steps 1 and 2."""
        objective, K, n = self.objective, self.objective.n_outputs, self.objective.n_coefs
        w, g = state.theta[:n], state.grad[:n]
        residual = objective.penalty.residual(w, g)
        features = np.flatnonzero(((w != 0) | (residual > 0)).reshape(-1, K).any(axis=1))
        if features.size * K > SIZE_LIMIT:  # those in use, and the most eager of the others
            eager = np.where((w != 0).reshape(-1, K).any(axis=1), np.inf, residual.reshape(-1, K).max(axis=1))
            features = np.sort(np.argsort(-eager)[: max(SIZE_LIMIT // K, np.isinf(eager).sum())])
        places = (features[:, None] * K + np.arange(K)).ravel()
        H, border, inverse, shift = self._hessian(state.theta, features)
        g_b = state.grad[n:] if objective.fit_intercept else np.zeros(0)
        # the gradient in terms of shifted columns, then without the intercepts
        G = g[places] - np.outer(shift, g_b).ravel() - border @ (inverse @ g_b) if g_b.size else g[places]
        model = quadratic.Model(places, np.empty(0), 1.0, H.diagonal().copy(), H, np.empty(0))
        scale = max(abs(state.value), 1e-300)
        goal = 0.01 * gap_tolerance(self.settings.tol) * scale
        best, gain, left = quadratic.problem(model, w[places], G, objective.penalty, None).minimize(goal)
        state.step = np.zeros(state.theta.size)
        state.step[places] = best - w[places]
        if objective.fit_intercept:
            moved = state.step[places]
            state.step[n:] = -inverse @ (g_b + border.T @ moved) - shift @ moved.reshape(-1, K)
        missing = np.count_nonzero(residual) > np.count_nonzero(residual[places])
        state.gap = np.inf if missing else max(gain, 0.0) + left + 0.5 * float(g_b @ inverse @ g_b)

    def _hessian(self, theta, features):
        """Hessian of those features' coefficients without the intercepts, its border and the intercepts'
        inverse, in terms of columns minus a shift that keeps the subtraction exact; and the shift.
        """
        objective, K = self.objective, self.objective.n_outputs
        P, blocks, size = objective.curvatures(theta), self.objective.blocks, (features.size + 1) * K
        shift = np.zeros(features.size)
        if objective.fit_intercept and not blocks.sparse:
            shift[:] = column_moments(blocks)[0][features]
        curvature_sum = partial(_curvature_sum, features, shift, objective.n_features)
        H = blocks.total(curvature_sum, (size, size), P)[1] / blocks.weight
        H, border, corner = H[:-K, :-K], H[:-K, -K:], H[-K:, -K:]
        if not objective.fit_intercept:
            border, corner = np.zeros((len(H), 0)), np.zeros((0, 0))
        inverse = la.pinvh(corner) if corner.size else corner
        H = H - border @ inverse @ border.T
        # all classes may move together without a change of the loss: a little damping makes that direction
        # definite
        H[np.diag_indices(len(H))] += objective.penalty.l2 + DAMPING * H.diagonal()
        constant = H.diagonal() <= 1e-14 * max(H.diagonal().max(initial=0.0), 1e-300)
        H[constant], H[:, constant] = 0.0, 0.0
        return H, border, inverse, shift


def _curvature_sum(features, shift, n_features, block, P, H):
    X = getattr(block.rows, "X", None)
    dense = X is not None
    X = X if dense else as_csr(block.rows, n_features)
    step = max(32, CHUNK_BYTES // (8 * len(H)))
    for start in range(0, len(P), step):
        rows = slice(start, start + step)
        part = X[rows][:, features]
        s = block.s[rows] if len(block.s) > 1 else block.s
        add_curvature(part - shift if dense else part.toarray(), P[rows], s, H)
    return 0.0


def add_curvature(X, P, s, H):
    """Add Σ s·(x xᵀ ⊗ (diag(p) - p pᵀ)), with a 1 appended to x, to H; order (feature, class)."""
    n, K = P.shape
    X = np.column_stack([X, np.ones(n)])
    U = (X[:, :, None] * (np.sqrt(s)[:, None] * P)[:, None, :]).reshape(n, -1)
    H -= U.T @ U
    for k in range(K):
        V = X * np.sqrt(s * P[:, k])[:, None]
        H[k::K, k::K] += V.T @ V
