"""Layouts of rows and the passes over one block: every kernel against one line of NumPy."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import log_softmax, softmax
from test_losses import ALL_LOSSES, evaluate, named

from skbigmodel import GDLinearRegressor, passes_linear, passes_softmax, rows
from skbigmodel._jit import frozen, jit
from skbigmodel.losses import Huber, Logistic, Poisson, SquaredError
from skbigmodel.rows import CSR, Dense, as_rows

N, P, K = 301, 7, 3  # more rows than a run has, and no multiple of four


LAYOUTS = {
    "dense": np.ascontiguousarray,
    "dense32": lambda X: X.astype(np.float32),
    "csr": sparse.csr_array,
    "csr32": lambda X: sparse.csr_array(X.astype(np.float32)),
    "csr with wide indices": sparse.csr_array,
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
either_kind = pytest.mark.parametrize("layout", ["dense", "csr"])


def block(layout, n=N, p=P):
    """Rows in a layout, the same as a float64 array (half of its entries zero), targets and weights."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, p)) * (rng.random((n, p)) < 0.5)
    X = X.astype(np.float32).astype(np.float64)  # so that all widths hold the same numbers
    s = rng.uniform(0.5, 2.0, n)
    s[::9] = 0.0
    made = as_rows(LAYOUTS[layout](X))
    if "wide" in layout:  # as of a matrix of very many entries
        made = made._replace(indices=frozen(made.indices, np.uint64))
    return made, X, rng.uniform(0.1, 3.0, n), s


# -- layouts ---------------------------------------------------------------------------------------


@jit
def in_a_kernel(block, w, a, z, out):
    """What each method of a layout gives, called through its stub."""
    n = rows.n_rows(block)
    z[0, 0] = n
    for i in range(n):
        z[1, i] = rows.dot(block, i, w)
        rows.add(block, i, a[i], out[0])
        rows.add_squares(block, i, a[i], out[1])
    rows.dot_run(block, 3, n, w, 0.25, z[2])
    rows.add_run(block, 3, n, a, out[2])


@pytest.mark.parametrize("compiled", [True, False], ids=["jitted", "plain"])
@every_layout
def test_layouts_read_rows(layout, compiled):
    """Number of rows, products, sums, sums of squares; one row at a time or a run that starts anywhere."""
    block_rows, X, a, _ = block(layout, n=30)
    w, z, out = np.linspace(-1, 2, P), np.zeros((3, 30)), np.zeros((3, P))
    (in_a_kernel if compiled else in_a_kernel.py_func)(block_rows, w, a, z, out)
    assert z[0, 0] == block_rows.n_rows() == 30
    assert_allclose(z[1], X @ w, atol=1e-14)
    assert_allclose(z[2, :27], X[3:] @ w + 0.25, atol=1e-14)
    assert_allclose(out[0], X.T @ a, rtol=1e-13)
    assert_allclose(out[1], (X * X).T @ a, rtol=1e-13)
    assert_allclose(out[2], X[3:].T @ a[:27], rtol=1e-13)


@pytest.mark.parametrize("n", range(6))
@either_kind
def test_runs_of_any_length(layout, n):
    """Also lengths that do not fill the four rows taken together, and none at all."""
    block_rows, X, _, _ = block(layout, n=n + 2)
    w, z, out = np.arange(1.0, P + 1), np.full(n, np.nan), np.zeros(P)
    block_rows.dot_run(1, n + 1, w, -1.0, z)
    assert_allclose(z, X[1 : n + 1] @ w - 1.0, atol=1e-14)
    block_rows.add_run(1, n + 1, z, out)
    assert_allclose(out, X[1 : n + 1].T @ z, atol=1e-13)


def test_as_rows_shares_memory():
    """No copy of X, and none that could be written to; indices are unsigned, offsets of 64 bits."""
    X = np.eye(4)
    dense = as_rows(X)
    assert isinstance(dense, Dense) and np.shares_memory(dense.X, X)
    assert not dense.X.flags.writeable and X.flags.writeable
    matrix = sparse.csr_matrix(X)
    csr = as_rows(matrix)
    assert isinstance(csr, CSR) and np.shares_memory(csr.data, matrix.data)
    assert np.shares_memory(csr.indices, matrix.indices) and csr.indices.dtype == np.uint32
    assert csr.indptr.dtype == np.uint64
    assert_array_equal(csr.values(), np.ones(4))
    assert_array_equal(csr._replace(indptr=csr.indptr[1:3]).values(), np.ones(1))
    assert_array_equal(dense.values(), X.ravel())


def test_wide_indices(monkeypatch):
    """Column numbers of 64 bits become such of 32, but for matrices that need them: those are not copied."""
    matrix = sparse.csr_matrix(np.eye(4))
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    narrow = as_rows(matrix)
    assert narrow.indices.dtype == np.uint32 and np.shares_memory(narrow.data, matrix.data)
    assert_array_equal(narrow.indices, matrix.indices)
    monkeypatch.setattr(rows, "WIDE", 4)
    large = as_rows(matrix)
    assert large.indices.dtype == np.uint64
    assert all(np.shares_memory(getattr(large, name), getattr(matrix, name)) for name in large._fields)
    y = np.arange(4.0)
    wide = GDLinearRegressor(loss="huber", alpha=0.1).fit(matrix, y)
    monkeypatch.undo()
    assert_array_equal(wide.coef_, GDLinearRegressor(loss="huber", alpha=0.1).fit(matrix, y).coef_)


# -- passes with one prediction --------------------------------------------------------------------


def loss_and_grad(block_rows, y, s, loss, theta, fit_intercept):
    grad = np.zeros(P + fit_intercept)
    total = passes_linear.loss_and_grad(
        block_rows, frozen(y), frozen(s), loss, frozen(theta), fit_intercept, grad
    )
    return total, grad


def check_loss_and_grad(layout, loss, fit_intercept, weighted):
    block_rows, X, y, s = block(layout)
    y = (y > 1.0) * 1.0 if isinstance(loss, Logistic) else y
    s = s if weighted else np.ones(1)
    theta = np.linspace(-0.6, 0.5, P + fit_intercept)
    z = X @ theta[:P] + (theta[-1] if fit_intercept else 0.0)
    slopes = s * evaluate(loss.derivative, y, z)
    total, grad = loss_and_grad(block_rows, y, s, loss, theta, fit_intercept)
    assert_allclose(total, (s * evaluate(loss.value, y, z)).sum(), rtol=1e-12)
    assert_allclose(grad, np.append(X.T @ slopes, [slopes.sum()] * fit_intercept), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=named)
def test_loss_and_grad_of_every_loss(loss):
    """Weighted sums of values and of derivatives times rows."""
    check_loss_and_grad("dense", loss, True, True)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("fit_intercept", [True, False])
@every_layout
def test_loss_and_grad_of_every_layout(layout, fit_intercept, weighted):
    """The same whatever holds the rows, with and without intercept and weights."""
    check_loss_and_grad(layout, Logistic(), fit_intercept, weighted)


def test_sums_are_added_to_what_is_there():
    """``grad`` is not set to zero, so that blocks can share it."""
    block_rows, _, y, s = block("dense")
    args = (block_rows, frozen(y), frozen(s), SquaredError(), frozen(np.ones(P + 1)), True)
    once, twice = np.zeros(P + 1), np.zeros(P + 1)
    passes_linear.loss_and_grad(*args, once)
    passes_linear.loss_and_grad(*args, twice)
    passes_linear.loss_and_grad(*args, twice)
    assert_allclose(twice, 2 * once, rtol=1e-14)


@either_kind
def test_sums_do_not_depend_on_where_memory_lies(layout):
    """The same bits for arrays at many addresses:
    a reduction that also stored could be added in two orders.
    """
    block_rows, _, y, s = block(layout)
    theta, kept, found = np.linspace(-0.6, 0.5, P + 1), [], set()
    for k in range(300):
        kept.append(np.empty(1 + 97 * k % 3001))
        total, grad = loss_and_grad(block_rows, y.copy(), s.copy(), SquaredError(), theta, True)
        product = np.zeros(P + 1)
        passes_linear.hessian_product(block_rows, frozen(s.copy()), frozen(theta), True, product)
        found.add((total, *grad, *product))
    assert len(found) == 1


@every_layout
def test_decision_and_sums(layout):
    """Raw predictions, Xᵀ·a, and the sum of squares that finds bad values."""
    block_rows, X, a, _ = block(layout)
    theta, z, out = frozen(np.linspace(0, 1, P + 1)), np.empty(N), np.ones(P)
    passes_linear.decision(block_rows, theta, True, z)
    assert_allclose(z, X @ theta[:P] + theta[P], atol=1e-13)
    passes_linear.add_weighted(block_rows, frozen(a), out)
    assert_allclose(out, X.T @ a + 1.0, rtol=1e-12)
    assert_allclose(passes_linear.squared_norm(block_rows.values()), (X * X).sum(), rtol=1e-5)
    bad = np.where(np.arange(40) == 17, np.nan, 1.0)
    assert np.isnan(passes_linear.squared_norm(frozen(bad)))
    assert np.isinf(passes_linear.squared_norm(frozen([1e200, 1.0])))


@pytest.mark.parametrize("loss", [Poisson(), Huber(0.5)], ids=named)
@either_kind
def test_curvatures(layout, loss):
    """Weights of a Hessian for some rows, that Hessian times a vector, and its diagonal."""
    block_rows, X, y, s = block(layout)
    theta, v = np.linspace(-0.5, 0.5, P + 1), np.linspace(1, -2, P + 1)
    curved = getattr(loss, "model_curvature", loss.curvature)
    d = s * evaluate(curved, y, X @ theta[:P] + theta[P])
    part = np.empty(40)
    passes_linear.curvature_weights(block_rows, frozen(y), frozen(s), loss, frozen(theta), True, 5, 45, part)
    assert_allclose(part, d[5:45], rtol=1e-12)
    out = np.zeros(P + 1)
    passes_linear.hessian_product(block_rows, frozen(d), frozen(v), True, out)
    A = np.column_stack([X, np.ones(N)])
    assert_allclose(out, A.T @ (d * (A @ v)), rtol=1e-11)
    diagonal, cross = np.zeros(P), np.zeros(P)
    total = passes_linear.hessian_diagonal(block_rows, frozen(d), diagonal, cross)
    assert_allclose(total, d.sum(), rtol=1e-13)
    assert_allclose(diagonal, (X * X).T @ d, rtol=1e-12)
    assert_allclose(cross, X.T @ d, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("extra", [0, 1], ids=["columns", "columns and ones"])
def test_weighted_rows_for_blas(extra):
    """sqrt(d)·(x - shift), with sqrt(d) beside it where there is room;
    the Gram matrix of sparse rows directly.
    """
    block_rows, X, y, _ = block("dense")
    shift, B = np.linspace(0, 1, P), np.empty((20, P + extra))
    passes_linear.scale_rows(block_rows, 4, 24, frozen(y[4:24]), shift, B)
    A = np.column_stack([X - shift, np.ones(N)])[:, : P + extra]
    assert_allclose(B, np.sqrt(y[4:24])[:, None] * A[4:24], atol=1e-14)
    csr, H = block("csr")[0], np.zeros((P + extra, P + extra))
    passes_linear.add_sparse_gram(csr, frozen(y), np.zeros(P), H)
    A = np.column_stack([X, np.ones(N)])[:, : P + extra]
    assert_allclose(np.tril(H), np.tril(A.T @ (y[:, None] * A)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighted", [True, False])
def test_moments(weighted):
    """Σ s·v·vᵀ of v = (x - shift, 1, y - shift): from rows for BLAS, or of sparse rows directly."""
    block_rows, X, y, s = block("dense")
    s = s if weighted else np.ones(1)
    shift, B = np.linspace(0, 1, P), np.empty((N, P + 2))
    passes_linear.moment_rows(block_rows, frozen(y), frozen(s), 0, N, shift, 0.7, B)
    V = np.column_stack([X - shift, np.ones(N), y - 0.7])
    assert_allclose(B, np.sqrt(s)[:, None] * V, atol=1e-14)
    H = np.zeros((P + 2, P + 2))
    passes_linear.sparse_moments(block("csr")[0], frozen(y), frozen(s), 0.7, H)
    V = np.column_stack([X, np.ones(N), y - 0.7])
    assert_allclose(np.tril(H), np.tril(V.T @ (s[:, None] * V)), rtol=1e-11, atol=1e-11)


# -- passes with one prediction per class ----------------------------------------------------------


def scores(spread=3.0, n=40):
    rng = np.random.default_rng(3)
    return rng.normal(scale=spread, size=(n, K)), rng.integers(0, K, n), rng.uniform(0, 2, n)


@pytest.mark.parametrize("spread", [3.0, 500.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_softmax_loss(weighted, spread):
    """Σ s·(logsumexp(z) - z_y), its gradient in place, and the probabilities, for any size of z."""
    Z, y, s = scores(spread)
    start, s_all = 2, frozen(np.append([5.0, 5.0], s)) if weighted else frozen(np.ones(1))
    s = s if weighted else np.ones(len(y))
    G, P_ = Z.copy(), Z.copy()
    total = passes_softmax.log_loss_inplace(G, frozen(np.append([0, 0], y)), s_all, start)
    assert_allclose(total, -(s * log_softmax(Z, axis=1)[np.arange(len(y)), y]).sum(), rtol=1e-13)
    assert_allclose(G, s[:, None] * (softmax(Z, axis=1) - np.eye(K)[y]), atol=1e-14)
    passes_softmax.probabilities_inplace(P_)
    assert_allclose(P_, softmax(Z, axis=1), rtol=1e-13, atol=1e-300)


def test_softmax_curvature():
    """s·(diag(p) - p·pᵀ)·d is how the gradient changes along d."""
    Z, y, s = scores()
    D = np.random.default_rng(4).normal(size=Z.shape)
    changes = s[:, None] * (softmax(Z + 1e-6 * D, axis=1) - softmax(Z - 1e-6 * D, axis=1)) / 2e-6
    product = D.copy()
    passes_softmax.curvature_times(softmax(Z, axis=1), product, frozen(s), 0)
    assert_allclose(product, changes, atol=1e-9)
    assert_allclose(product.sum(axis=1), 0.0, atol=1e-14)


def test_sparse_softmax_products():
    """X·W + b, Xᵀ·D, sums and sums of squares per feature and class."""
    csr, X, _, _ = block("csr")
    rng = np.random.default_rng(5)
    W, b, D = rng.normal(size=(P, K)), rng.normal(size=K), rng.uniform(0, 1, (N, K))
    Z, G = np.empty((N, K)), np.ones((P, K))
    passes_softmax.sparse_product(csr, W, b, Z)
    assert_allclose(Z, X @ W + b, atol=1e-13)
    passes_softmax.sparse_transposed_product(csr, D, G)
    assert_allclose(G, X.T @ D + 1.0, atol=1e-12)
    squares, sums = np.zeros((P, K)), np.zeros((P, K))
    passes_softmax.sparse_class_diagonals(csr, D, squares, sums)
    assert_allclose(squares, (X * X).T @ D, rtol=1e-12)
    assert_allclose(sums, X.T @ D, atol=1e-12)
