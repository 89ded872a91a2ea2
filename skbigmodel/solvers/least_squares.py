"""Least squares solved directly, as accurately as an orthogonal factorisation of the rows.

1. One pass gives the moments of the rows: Σ s·v·vᵀ of v = (x - shift, 1, y - shift). Centring with the
   weighted means eliminates the intercept; dividing by the columns' deviations makes their scale irrelevant.
2. Where the scaled Gram matrix is far from singular, its Cholesky factor solves the problem. What squaring
   the condition number cost is won back by refinement: a pass for the true gradient, and another solve.
3. Where it is close to singular, or there are fewer rows than columns, the R of a QR factorisation gathered
   block by block stands for the rows. Fewer rows than columns, if they are independent, are interpolated by
   one more QR; otherwise a singular value decomposition finds the solution of minimum norm.
4. With more columns than rows and a ridge penalty, or sparse rows, the system of the rows is solved in place
   of that of the columns.

References
----------
Å. Björck, "Numerical Methods for Least Squares Problems", SIAM (1996);
J. Demmel, L. Grigori, M. Hoemmen and J. Langou, "Communication-optimal parallel and sequential QR and LU
factorizations", SIAM J. Sci. Comput. 34 (2012).
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.linalg as la
from scipy.linalg.lapack import dgeqrf, dgeqrf_lwork, dormqr, dpocon, dpotrf, dpotrs, dtrcon, dtrtrs

from .. import passes_linear as passes
from ..objective import CHUNK_BYTES, folded
from ..rows import as_csr
from ..validation import NotFinite

SAFE = 1e-3  # reciprocal condition of the Gram matrix above which Cholesky needs no refinement
SINGULAR = 1e-9  # below: orthogonal factorisation
LARGE = 1e150  # numbers whose squares, summed, overflow
MAX_REFINEMENTS = 4
FAR = 10.0  # means larger than so many deviations are subtracted before squares are summed
DIRECT_COLUMNS = 1500  # up to which a triangle of that order may come from a cluster, however few the rows
SMALL = 200  # columns up to which a small matrix is no cost, however few the rows


@dataclass
class State:
    """Iterate with value and gradient of the objective."""

    theta: np.ndarray
    value: float = np.inf
    optimality: float = np.inf
    gap: float = np.inf
    stalled: bool = False


class LeastSquares:
    """The squared error with or without a ridge penalty."""

    name = "least-squares"
    State = State

    def __init__(self, objective, settings):
        self.objective, self.blocks = objective, objective.blocks
        self.l2 = objective.penalty.l2

    @staticmethod
    def refusal(objective):
        """Why the optimum is out of reach, or ``None``."""
        if not getattr(objective.loss, "quadratic", False):
            return "it solves for the squared error only"
        if not objective.penalty.smooth:
            return "it takes no l1 penalty and no positive=True"
        blocks = objective.blocks
        if blocks.remote and blocks.n_features > max(blocks.n_rows, DIRECT_COLUMNS):
            return "with more columns than rows it needs the rows themselves, which lie on a cluster"
        return None

    def init(self, theta):
        """The start; it does not matter and is not evaluated."""
        return State(theta)

    def advance(self, state):
        """Solve."""
        n_rows, n_features = self.blocks.n_rows, self.blocks.n_features
        if n_features <= n_rows or n_features <= SMALL:
            solved = self._by_columns()
        else:
            by_rows = (self.blocks.sparse or self.l2 > 0) and not self.blocks.remote
            solved = self._by_rows() if by_rows else self._orthogonal()
        state.theta, state.value, grad = solved
        state.optimality, state.gap = self.objective.optimality(state.theta, grad), 0.0

    # -- steps 1 and 2

    def _moments(self):
        """Σ s·v·vᵀ with v = (x - shift, 1, y - y_shift), and the shifts."""
        blocks, p = self.blocks, self.blocks.n_features
        shift, y_shift, shape = np.zeros(p), blocks.mean_target(), (p + 2, p + 2)
        if blocks.sparse:
            return folded(blocks.total(partial(_sparse_moments, y_shift), shape)[1]), shift, y_shift
        first = blocks.head().astype(np.float64)
        if blocks.s is None and (np.abs(first.mean(axis=0)) <= FAR * first.std(axis=0)).all():
            add = partial(_add_moments, y_shift)
            return blocks.total(add, shape, merged=True)[1], shift, y_shift
        shift[:] = first.mean(axis=0)
        return blocks.total(partial(_add_shifted_moments, shift, y_shift), shape)[1], shift, y_shift

    def _by_columns(self):
        """Steps 1 and 2; on to step 3 where the Gram matrix is close to singular."""
        p = self.blocks.n_features
        H, shift, y_shift = self._moments()
        if not np.isfinite(np.diag(H)).all():
            raise NotFinite
        G, c, total = H[:p, :p] / H[p, p], H[p + 1, :p] / H[p, p], H[p + 1, p + 1] / H[p, p]
        means, y_mean = np.zeros(p), 0.0
        if self.objective.fit_intercept:
            means, y_mean = H[p, :p] / H[p, p], H[p + 1, p] / H[p, p]
            G -= np.outer(means, means)
            c -= means * y_mean
            total -= y_mean * y_mean
        else:
            G, c, total = self._uncentred(H, shift, y_shift)
            shift, y_shift = np.zeros(p), 0.0
        self._centre = means + shift
        solve, condition = self._solver(G)
        if solve is None:
            return self._orthogonal()
        w = solve(c)
        theta = self._with_intercept(w, y_mean + y_shift - self._centre @ w)
        value = 0.5 * (total + w @ (G @ w - 2 * c) + self.l2 * w @ w)
        # sparse rows are centred after summing: digits that went with large means come back by refinement
        near_zero = (means * means <= 1e3 * np.diag(G)).all()
        exact = self.blocks.dtype == np.float64 and condition > SAFE and near_zero
        if exact and value > 1e-4 * total:  # else too much of it was lost in the subtraction
            return theta, float(value), self._with_intercept(G @ w - c + self.l2 * w, 0.0)
        return self._refine(theta, solve, MAX_REFINEMENTS if not exact else 0)

    def _uncentred(self, H, shift, y_shift):
        """Moments about zero from those about the shifts."""
        p, n = len(shift), H[-2, -2]
        m, ym = H[p, :p] / n, H[p + 1, p] / n
        G = H[:p, :p] / n + np.outer(m, shift) + np.outer(shift, m) + np.outer(shift, shift)
        c = H[p + 1, :p] / n + y_shift * m + ym * shift + y_shift * shift
        return G, c, H[p + 1, p + 1] / n + 2 * y_shift * ym + y_shift * y_shift

    def _solver(self, G):
        """(function that solves with the Gram matrix and the penalty, reciprocal condition of what it
        inverts).

        (None, 0) where the matrix is neither safely regular nor singular beyond doubt.
        """
        diagonal = np.diag(G) + self.l2
        floor = 1e-28 * max(diagonal.max(initial=0.0), 1e-300)
        empty = diagonal <= floor  # constant columns: their coefficient is 0
        scale = 1 / np.sqrt(np.where(empty, 1.0, diagonal))
        A = scale[:, None] * G * scale
        A[empty], A[:, empty] = 0.0, 0.0
        A[np.diag_indices(len(A))] = 1.0
        factor, info = dpotrf(A, lower=1, clean=0)
        condition = dpocon(factor, np.abs(A).sum(axis=0).max(initial=0.0), uplo="L")[0] if info == 0 else 0.0
        keep = np.where(empty, 0.0, scale)
        if condition >= SINGULAR:
            return lambda v: keep * dpotrs(factor, keep * v, lower=1)[0], condition
        return self._singular_solver(A, keep)

    def _singular_solver(self, A, scale):
        """As ``_solver``, for columns that depend on one another as one-hot groups do: minimum norm."""
        eigenvalues, V = la.eigh(A, check_finite=False)
        null = eigenvalues < len(A) * 1e-14 * eigenvalues[-1]
        if eigenvalues[~null][0] < SINGULAR * eigenvalues[-1] or self.l2 > 0:
            return None, 0.0
        N = scale[:, None] * V[:, null]
        if not all(self._vanishes(direction) for direction in N.T):
            return None, 0.0
        N = la.orth(N)
        kept, inverse = V[:, ~null], 1 / eigenvalues[~null]

        def solve(v):
            w = scale * (kept @ (inverse * (kept.T @ (scale * v))))
            return w - N @ (N.T @ w)

        return solve, eigenvalues[~null][0] / eigenvalues[-1]

    def _vanishes(self, w):
        """Whether the centred rows times w are zero to working precision."""
        theta = self._with_intercept(w, -self._centre @ w)
        squares = self.blocks.total(partial(_squared_predictions, theta, self.objective.fit_intercept), 0)[0]
        return squares <= 1e-22 * self.blocks.weight

    def _with_intercept(self, w, intercept):
        return np.append(w, intercept) if self.objective.fit_intercept else w

    def _refine(self, theta, solve, limit):
        """Step 2's refinement: Newton steps with true gradients, as long as they help."""
        p = self.blocks.n_features
        (value, grad), gain = self.objective.value_grad(theta), np.inf
        for _ in range(limit):
            # in centred coordinates the intercept does not interact with the coefficients
            pull = grad[:p] - (self._centre * grad[-1] if self.objective.fit_intercept else 0.0)
            w = -solve(pull)
            step = self._with_intercept(w, -grad[-1] - self._centre @ w)
            # the value would not tell: it is flat where the coefficients still lack half their digits
            before, gain = gain, 0.5 * abs(grad @ step)
            if not gain < before:
                break
            theta = theta + step
            value, grad = self.objective.value_grad(theta)
            if gain <= 1e-15 * abs(value):
                break
        return theta, value, grad

    # -- step 3

    def _orthogonal(self):
        """Minimum-norm solution from the R factor of the centred, weighted rows (x, y)."""
        blocks, p = self.blocks, self.blocks.n_features
        centre, y_centre = self._means() if self.objective.fit_intercept else (np.zeros(p), 0.0)
        R = blocks.reduce(partial(_triangle, centre, y_centre), _stack)
        if not np.abs(R).max(initial=0.0) < LARGE:
            raise NotFinite
        A, b = R[:, :p], R[:, p]
        if self.l2 > 0:
            w = ridge(A, b, self.l2 * blocks.weight)
        else:
            # where a plane meets every row, the mean makes one of them the sum of the others
            w = interpolation(A, b, len(A) - self.objective.fit_intercept) if blocks.n_rows <= p else None
            w = minimum_norm(A, b) if w is None else w
        theta = self._with_intercept(w, y_centre - centre @ w)
        return (theta, *self.objective.value_grad(theta))

    def _means(self):
        """Weighted means of the columns and of y."""
        sums = self.blocks.total(_weighted_sums, self.blocks.n_features + 1)[1] / self.blocks.weight
        return sums[:-1], sums[-1]

    # -- step 4

    def _by_rows(self):
        """w = Xcᵀ·a with (Xc·Xcᵀ + l2·Σs)·a = yc, for the centred rows times the roots of their weights."""
        blocks = self.blocks
        centre, y_centre = (
            self._means() if self.objective.fit_intercept else (np.zeros(blocks.n_features), 0.0)
        )
        root = np.sqrt(blocks.s) if blocks.s is not None else np.ones(blocks.n_rows)
        if blocks.sparse:
            X = blocks.matrix().astype(np.float64)
            across = X @ centre
            K = (X @ X.T).toarray() - across[:, None] - across + centre @ centre
        else:
            X = blocks.matrix().astype(np.float64) - centre
            K = X @ X.T
        K *= root[:, None] * root
        y = root * (blocks.y - y_centre)
        K[np.diag_indices(len(K))] += self.l2 * blocks.weight
        a = root * (la.solve(K, y, assume_a="pos") if self.l2 > 0 else minimum_norm(K, y))
        w = X.T @ a - (centre * a.sum() if blocks.sparse else 0.0)
        theta = self._with_intercept(w, y_centre - centre @ w)
        return (theta, *self.objective.value_grad(theta))


def _sparse_moments(y_shift, block, H):
    passes.sparse_moments(block.rows, block.y, block.s, y_shift, H)
    return 0.0


def _add_shifted_moments(shift, y_shift, block, H):
    X, p = block.rows.X, len(shift)
    size = min(max(2 * p, CHUNK_BYTES // (X.itemsize * (p + 2))), len(X))
    B = np.empty((size, p + 2), X.dtype)
    for start in range(0, len(X), size):
        part = B[: min(size, len(X) - start)]
        passes.moment_rows(block.rows, block.y, block.s, start, start + len(part), shift, y_shift, B)
        H += part.T @ part
    return 0.0


def _squared_predictions(theta, fit_intercept, block, _):
    z = np.empty(len(block.y))
    passes.decision(block.rows, theta, fit_intercept, z)
    return float((block.s * z) @ z)


def _weighted_sums(block, out):
    s = block.s if len(block.s) > 1 else np.broadcast_to(block.s, len(block.y))
    out[-1] += s @ block.y
    passes.add_weighted(block.rows, s, out)
    return 0.0


def _triangle(centre, y_centre, block):
    """At most p + 1 rows with the same moments as the centred, weighted rows (x, y) of the block."""
    p = len(centre)
    X = getattr(block.rows, "X", None)
    X = as_csr(block.rows, p).toarray() if X is None else X
    size, held = max(p + 1, CHUNK_BYTES * 8 // (8 * (p + 1))), np.empty((0, p + 1))
    for start in range(0, len(X), size):
        rows = slice(start, min(start + size, len(X)))
        B = np.column_stack([X[rows] - centre, block.y[rows] - y_centre])
        B *= np.sqrt(block.s[rows] if len(block.s) > 1 else block.s)[:, None]
        held = _stack(held, B)
    return held


def _stack(above, below):
    """Both, or the R of their QR factorisation where that is smaller."""
    both = np.concatenate([above, below])
    if len(both) <= both.shape[1]:
        return both
    return la.qr(both, mode="r", overwrite_a=True, check_finite=False)[0][: both.shape[1]]


def _add_moments(y_shift, block, H):
    """The moments of columns that need no shift, from the rows as they lie."""
    p = block.rows.X.shape[1]
    size = max(8 * p, CHUNK_BYTES // (block.rows.X.itemsize * p))  # read once for all: they stay in the cache
    for start in range(0, len(block.y), size):
        X, y = block.rows.X[start : start + size], block.y[start : start + size] - y_shift
        H[:p, :p] += X.T @ X
        H[p, :p] += np.ones(len(y), X.dtype) @ X
        H[p + 1, :p] += y.astype(X.dtype, copy=False) @ X
        H[p, p] += len(y)
        H[p + 1, p] += y.sum()
        H[p + 1, p + 1] += y @ y
    return 0.0


def ridge(A, b, strength):
    """argmin ‖A·x - b‖² + strength·‖x‖² by the singular value decomposition: exact for any strength > 0."""
    U, sigma, Vt = la.svd(A, full_matrices=False, check_finite=False)
    # not to magnify rounding
    sigma[sigma <= max(A.shape) * np.finfo(np.float64).eps * sigma.max(initial=0.0)] = 0.0
    return Vt.T @ (sigma / (sigma * sigma + strength) * (U.T @ b))


def interpolation(A, b, n):
    """The shortest x with A·x = b, from the first ``n`` rows; ``None`` unless they are safely independent."""
    if n == 0:  # a single row is its own mean
        return None
    factor, reflectors, _, info = dgeqrf(A[:n].T, lwork=int(dgeqrf_lwork(A.shape[1], n)[0]))
    R = factor[:n]
    lengths = np.sqrt((np.triu(R) ** 2).sum(axis=0))
    if info != 0 or not lengths.min() > 0 or dtrcon(R / lengths)[0] < SAFE**2:
        return None
    x = np.zeros((A.shape[1], 1), order="F")
    x[:n, 0] = dtrtrs(R, b[:n], trans=1)[0]
    return dormqr("L", "N", factor, reflectors, x, lwork=64 * n, overwrite_c=True)[0][:, 0]


def minimum_norm(A, b):
    """The shortest x that minimises ‖A·x - b‖; columns are scaled for the decision what is rank.

    Scaling makes the rank independent of units; the solution found in scaled coordinates is then projected on
    the orthogonal complement of the null space in the user's.
    """
    norms = np.sqrt((A * A).sum(axis=0))
    scale = 1 / np.where(norms > 0, norms, 1.0)
    U, sigma, Vt = la.svd(A * scale, full_matrices=False, check_finite=False)
    kept = sigma > max(A.shape) * np.finfo(np.float64).eps * sigma.max(initial=0.0)
    x = scale * (Vt[kept].T @ ((U[:, kept].T @ b) / sigma[kept]))
    if kept.sum() == A.shape[1]:
        return x
    # the row space in the user's coordinates is spanned by the rows of A: project on it
    basis = la.qr((Vt[kept] / scale).T, mode="economic", check_finite=False)[0]
    return basis @ (basis.T @ x)
