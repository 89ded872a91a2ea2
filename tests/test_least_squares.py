"""Direct least squares: as accurate as orthogonal factorisations, for every shape, rank,
width and scale of the data.
"""

from fractions import Fraction

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import linalg, sparse

from skbigmodel.blocks import ArrayBlocks
from skbigmodel.losses import Huber, SquaredError
from skbigmodel.objective import LinearObjective
from skbigmodel.penalties import ElasticNet
from skbigmodel.solvers.driver import Control, Settings, minimize
from skbigmodel.solvers.least_squares import LeastSquares, interpolation, minimum_norm, ridge
from skbigmodel.validation import NotFinite

LAYOUTS = {"dense": np.asarray, "csr": sparse.csr_array, "fortran": np.asfortranarray}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
either_intercept = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])


def solve(X, y, s=None, l2=0.0, fit_intercept=True, n_threads=1):
    """(coefficients, intercept) and the result."""
    blocks = ArrayBlocks(np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X, y, s, n_threads)
    objective = LinearObjective(blocks, SquaredError(), ElasticNet(0.0, l2), fit_intercept)
    result = minimize(LeastSquares(objective, Settings()), np.zeros(objective.n_params), Control())
    p = X.shape[1]
    return result.theta[:p], result.theta[p] if fit_intercept else 0.0, result


def reference(X, y, s=None, fit_intercept=True):
    """LAPACK's minimum-norm solution for the centred, weighted rows."""
    X = X.toarray() if sparse.issparse(X) else np.asarray(X, dtype=np.float64)
    s = np.ones(len(y)) if s is None else s
    centre, y_centre = (s @ X / s.sum(), s @ y / s.sum()) if fit_intercept else (np.zeros(X.shape[1]), 0.0)
    root = np.sqrt(s)[:, None]
    w = linalg.lstsq(root * (X - centre), root[:, 0] * (y - y_centre), cond=1e-13)[0]
    return w, y_centre - centre @ w


def data(n=90, p=6, seed=0):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, p)) + 1.0) * (rng.random((n, p)) < 0.7)
    s = rng.uniform(0.5, 2.0, n)
    s[::7] = 0.0
    return X, X @ np.linspace(2, -1, p) + 5.0 + rng.normal(size=n), s


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@either_intercept
@every_layout
def test_regular(layout, fit_intercept, weighted):
    """LAPACK's solution, in one iteration, with the value and optimality of the objective there."""
    X, y, s = data()
    s = s if weighted else None
    w, b, result = solve(LAYOUTS[layout](X), y, s, 0.0, fit_intercept)
    assert_allclose(w, reference(X, y, s, fit_intercept)[0], rtol=1e-11)
    assert_allclose(b, reference(X, y, s, fit_intercept)[1], rtol=1e-11)
    r, s = y - X @ w - b, np.ones(len(y)) if s is None else s
    assert_allclose(result.curve, [s @ r**2 / s.sum() / 2], rtol=1e-12)
    assert (result.status, result.n_iter) == ("converged", 1) and result.optimality <= 1e-12


@either_intercept
@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("shape", [(90, 6), (20, 40), (20, 210)], ids=["tall", "wide", "very wide"])
def test_ridge(shape, layout, fit_intercept):
    """The rows of the penalty put beneath those of the data; from tiny to overwhelming strengths."""
    X, y, s = data(*shape)
    root, total = np.sqrt(s)[:, None], s.sum()
    centre, y_centre = (s @ X / total, s @ y / total) if fit_intercept else (np.zeros(X.shape[1]), 0.0)
    for l2 in (1e-10, 1e-4, 1.0, 1e6):
        tall = np.vstack([root * (X - centre), np.sqrt(l2 * total) * np.eye(X.shape[1])])
        expected = linalg.lstsq(tall, np.append(root[:, 0] * (y - y_centre), np.zeros(X.shape[1])))[0]
        w, b, result = solve(LAYOUTS[layout](X), y, s, l2, fit_intercept)
        assert_allclose(w, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())
        assert_allclose(b, y_centre - centre @ w, rtol=1e-10, atol=1e-10)
        assert result.optimality <= 1e-9 * max(1.0, l2)


def test_ridge_of_vanishing_strength_tends_to_the_minimum_norm():
    """alpha of 1e-12 on rank-deficient columns is no excuse for noise."""
    X, y, _ = data(60, 5)
    X = np.column_stack([X, X[:, 0] + X[:, 1], X[:, 2]])
    assert_allclose(solve(X, y, l2=1e-12)[0], solve(X, y)[0], atol=1e-6)
    assert_allclose(solve(X, y, l2=1e-12)[0], reference(X, y)[0], atol=1e-6)


# -- ill-conditioned -------------------------------------------------------------------------------


def exact(A, y):
    """Least squares in rational arithmetic: the normal equations by Gauss's elimination,
    without any rounding.
    """
    A = [[Fraction(float(a)) for a in row] for row in A]
    y = [Fraction(float(v)) for v in y]
    p = len(A[0])
    M = [[sum(row[i] * row[j] for row in A) for j in range(p)] for i in range(p)]
    for i in range(p):
        M[i].append(sum(row[i] * v for row, v in zip(A, y, strict=True)))
    for i in range(p):
        for k in range(p):
            if k != i:
                factor = M[k][i] / M[i][i]
                M[k] = [a - factor * b for a, b in zip(M[k], M[i], strict=True)]
    return np.array([float(M[i][p] / M[i][i]) for i in range(p)])


@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("degree", [4, 5, 6, 7, 10, 12])
def test_vandermonde(degree, noise):
    """Powers of x on [0, 1] (condition 6e2 to 7e8): no more digits lost than by LAPACK's QR and SVD."""
    x = np.linspace(0, 1, 30)
    A = x[:, None] ** np.arange(1, degree + 1)
    y = 1.0 + A.sum(axis=1) + noise * np.cos(50 * x)
    expected = exact(np.column_stack([A, np.ones(30)]), y)
    w, b, result = solve(A, y)
    lapack = linalg.lstsq(np.column_stack([A, np.ones(30)]), y, lapack_driver="gelsy")[0]
    error = np.abs(np.append(w, b) - expected).max() / np.abs(expected).max()
    theirs = np.abs(lapack - expected).max() / np.abs(expected).max()
    condition = np.linalg.cond(np.column_stack([A, np.ones(30)]))
    assert error <= 10 * max(theirs, 1e-16 * condition)
    r = y - np.column_stack([A, np.ones(30)]) @ expected
    assert 2 * result.curve[0] <= np.mean(r**2) * (1 + 1e-9) + 1e-24


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_longley(layout):
    """Nearly dependent columns in raw units with large means: 9 digits of the exact solution."""
    rng = np.random.default_rng(0)
    year = np.arange(1947.0, 1963.0)
    columns = [
        year,
        100.0 * year + rng.integers(-99, 99, 16),
        5e5 + 1e4 * (year - 1947) + rng.integers(-999, 999, 16),
    ]
    X = np.column_stack(columns)
    y = np.round(60_000 + 700 * (year - 1947) + 500 * rng.normal(size=16))
    expected = exact(np.column_stack([X, np.ones(16)]), y)
    w, b, _ = solve(LAYOUTS[layout](X), y)
    assert_allclose(np.append(w, b), expected, rtol=1e-9)


@every_layout
def test_scales_of_columns(layout):
    """Units from 1e-6 to 1e6 and offsets of a thousand deviations change the coefficients' units only."""
    X, y, s = data()
    scales = np.logspace(-6, 6, 6)
    w, b, _ = solve(LAYOUTS[layout](X), y, s)
    scaled, c, _ = solve(LAYOUTS[layout](X * scales), y, s)
    assert_allclose(scaled * scales, w, rtol=1e-10)
    assert_allclose(c, b, rtol=1e-10)
    moved, c, _ = solve(LAYOUTS[layout](X + 1e3), y, s)
    assert_allclose(moved, w, rtol=1e-8)
    assert_allclose(c + 1e3 * moved.sum(), b, rtol=1e-6)


def test_no_noise():
    """Targets that are exactly linear: the residual is rounding."""
    X, _, _ = data()
    y = X @ np.arange(1.0, 7.0) + 0.5
    w, b, result = solve(X, y)
    assert_allclose(np.append(w, b), [1, 2, 3, 4, 5, 6, 0.5], rtol=1e-12)
    assert result.curve[0] <= 1e-24


# -- rank-deficient --------------------------------------------------------------------------------


def dependent_columns(kind):
    X, y, s = data()
    extra = {
        "repeated": X[:, 2],
        "sum": X[:, 0] + X[:, 1],
        "zero": np.zeros(len(y)),
        "constant": np.full(len(y), 2.5),
        "repeated in another unit": 1e5 * X[:, 2],
    }[kind]
    return np.column_stack([X, extra]), y, s


@either_intercept
@every_layout
@pytest.mark.parametrize("kind", ["repeated", "sum", "zero", "constant", "repeated in another unit"])
def test_minimum_norm_of_dependent_columns(kind, layout, fit_intercept):
    """The solution of minimum norm, as LAPACK has it."""
    X, y, s = dependent_columns(kind)
    w, b, _ = solve(LAYOUTS[layout](X), y, s, 0.0, fit_intercept)
    expected = reference(X, y, s, fit_intercept)
    assert_allclose(w, expected[0], rtol=1e-8, atol=1e-9)
    assert_allclose(b, expected[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layout", ["dense", "csr"])
def test_one_hot_groups(layout):
    """Two groups of indicator columns and an intercept: rank is three short of the columns plus one."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    X = np.column_stack([np.eye(4)[first], np.eye(3)[second]])
    y = first - 2.0 * second + rng.normal(size=200)
    w, b, _ = solve(LAYOUTS[layout](X), y)
    assert_allclose(np.append(w, b), np.append(*reference(X, y)), atol=1e-11)


@either_intercept
@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("p", [25, 210])
def test_wide(p, layout, fit_intercept):
    """More columns than rows: interpolation with the smallest coefficients."""
    X, y, _ = data(20, p)
    w, b, result = solve(LAYOUTS[layout](X), y, None, 0.0, fit_intercept)
    expected = reference(X, y, None, fit_intercept)
    assert_allclose(w, expected[0], atol=1e-10)
    assert_allclose(b, expected[1], atol=1e-9)
    assert_allclose(X @ w + b, y, atol=1e-9)
    assert result.curve[0] <= 1e-20


@either_intercept
@pytest.mark.parametrize("n", [1, 2])
def test_very_wide(n, fit_intercept):
    """A row or two: with an intercept, one row alone asks for no coefficients."""
    X, y, _ = data(n, 210)
    w, b, _ = solve(X, y, None, 0.0, fit_intercept)
    assert_allclose(X @ w + b, y, atol=1e-12)
    assert_allclose(w, reference(X, y, None, fit_intercept)[0], atol=1e-12)


@either_intercept
def test_wide_with_repeated_rows(fit_intercept):
    """Rows that depend on one another cannot be met: least squares, with the smallest coefficients."""
    X, y, _ = data(20, 210)
    X[5] = X[3]
    w, b, _ = solve(X, y, None, 0.0, fit_intercept)
    expected = reference(X, y, None, fit_intercept)
    assert_allclose(w, expected[0], atol=1e-10)
    assert_allclose(b, expected[1], atol=1e-9)


def test_zero_weights_are_rows_left_out():
    """Also where that leaves fewer rows than columns."""
    X, y, _ = data(20, 8)
    s = np.zeros(20)
    s[:6] = 1.0
    w, b, _ = solve(X, y, s)
    expected = reference(X[:6], y[:6])
    assert_allclose(np.append(w, b), np.append(*expected), atol=1e-10)


# -- widths, threads, refusals ---------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dense", "csr"])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float32(layout, offset):
    """Sums of float32 rows are refined with float64 gradients: the float64 solution of the same numbers."""
    X, y, s = data(3000)
    X = (X + offset).astype(np.float32)
    w, b, _ = solve(LAYOUTS[layout](X), y, s)
    expected = reference(X.astype(np.float64), y, s)
    assert_allclose(w, expected[0], rtol=1e-9)
    assert_allclose(b, expected[1], rtol=1e-7)


def test_threads_do_not_matter():
    """Data of several blocks: the same bits for 1, 2 and 3 threads."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60_000, 10)), rng.normal(size=60_000)
    runs = [solve(X, y, n_threads=n)[0] for n in (1, 2, 3)]
    assert_array_equal(runs[1], runs[0])
    assert_array_equal(runs[2], runs[0])
    assert_allclose(runs[0], reference(X, y)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("shape", [(50, 3), (5, 210)])
def test_values_that_are_not_finite(bad, shape):
    """They are seen in the sums, whichever way is taken."""
    X, y, _ = data(*shape)
    X[3, 1] = bad
    with pytest.raises(NotFinite), np.errstate(all="ignore"):
        solve(X, y)


def test_refusals():
    """The squared error with at most a ridge penalty, nothing else."""
    blocks = ArrayBlocks(*data())
    assert LeastSquares.refusal(LinearObjective(blocks, SquaredError(), ElasticNet(0.0, 1.0), True)) is None
    assert "squared error" in LeastSquares.refusal(
        LinearObjective(blocks, Huber(), ElasticNet(0.0, 0.0), True)
    )
    for penalty in (ElasticNet(0.1, 0.0), ElasticNet(0.0, 0.0, True)):
        assert "l1" in LeastSquares.refusal(LinearObjective(blocks, SquaredError(), penalty, True))


@pytest.mark.parametrize("strength", [1e-12, 1.0])
def test_dense_helpers(strength):
    """The two dense solutions against their definitions."""
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(12, 5)), rng.normal(size=12)
    assert_allclose(A.T @ (A @ ridge(A, b, strength) - b) + strength * ridge(A, b, strength), 0, atol=1e-12)
    assert_allclose(interpolation(A.T, b[:5], 5), linalg.lstsq(A.T, b[:5])[0], atol=1e-12)
    A[:, 4] = A[:, 0] - A[:, 1]
    assert interpolation(A.T, b[:5], 5) is None
    assert_allclose(minimum_norm(A, b), linalg.lstsq(A, b, cond=1e-12)[0], atol=1e-12)
