"""Layouts: how a kernel reads the rows of a block. A kernel is compiled once per layout and float width."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from ._jit import called, frozen, method, part, prefetch


@called
def product(A, B, out):
    """out = A·B by BLAS, for arrays or transposed arrays in one piece."""
    np.dot(A, B, out)


@method
def n_rows(self):
    """Number of rows."""
    return self.n_rows()


@method
def dot(self, i, w):
    """Inner product of row i with the first n_features entries of ``w``."""
    return self.dot(i, w)


@method
def fetch(self, i):
    """Have row i, which is soon needed, loaded into the cache."""
    return self.fetch(i)


@method
def add(self, i, a, out):
    """Add ``a`` times row i to the first n_features entries of ``out``."""
    return self.add(i, a, out)


@method
def norm2(self, i):
    """Sum of the squared entries of row i."""
    return self.norm2(i)


@method
def add_squares(self, i, a, out):
    """Add ``a`` times the squared entries of row i to ``out``."""
    return self.add_squares(i, a, out)


@method
def dot_run(self, start, stop, w, shift, z):
    """z[:stop - start] = ``shift`` plus the inner products of rows start to stop with ``w``."""
    return self.dot_run(start, stop, w, shift, z)


@method
def add_run(self, start, stop, a, out):
    """Add rows start to stop, each times its entry of ``a[:stop - start]``, to ``out``."""
    return self.add_run(start, stop, a, out)


@method
def curve_run(self, start, stop, d, v, shift, z, out):
    """z[:stop - start] = d·(X·v + ``shift``) for rows start to stop, and add Xᵀ·z to ``out``."""
    return self.curve_run(start, stop, d, v, shift, z, out)


@method
def times(self, order, W, room, out):
    """out = rows ``order`` times W; ``room`` (len(order), n_features) may be overwritten."""
    return self.times(order, W, room, out)


@method
def transposed_times(self, order, D, room, out):
    """out = transposed rows ``order`` times D; ``room`` is as ``times`` left it."""
    return self.transposed_times(order, D, room, out)


@method
def gather(self, order, shift, D):
    """D[:len(order)] = rows ``order`` minus ``shift``, as floats of D's type."""
    return self.gather(order, shift, D)


@method
def squared_norms(self, order, shift, out):
    """out = squared norms of rows ``order`` minus ``shift``."""
    return self.squared_norms(order, shift, out)


@method
def lay_out(self, order, shift, like):
    """Rows ``order`` minus ``shift``, in the type of the array ``like``, as ``inner`` wants them."""
    return self.lay_out(order, shift, like)


@method
def inner(self, D, order, laid, T):
    """T = inner products of the rows of D with rows ``order``, which ``lay_out`` gave as ``laid``.

    The bits of an entry depend on its two rows alone, not on what else is in D.
    """
    return self.inner(D, order, laid, T)


WIDE = 1 << 31  # stored entries from which SciPy numbers them, and so the columns, with 64 bits
LINE = 8  # entries that a line of the cache holds, or a few more
NARROW = 32  # columns up to which a plain loop is quicker than BLAS


@part
def add_outer(D, Z, T):
    """Add D·Z to T, eight columns of D at a time."""
    k = 0
    while k + 8 <= D.shape[1]:
        z0, z1, z2, z3, z4, z5, z6, z7 = (
            Z[k], Z[k + 1], Z[k + 2], Z[k + 3], Z[k + 4], Z[k + 5], Z[k + 6], Z[k + 7]
        )  # fmt: skip
        for j in range(T.shape[0]):
            t, d = T[j], D[j, k : k + 8]
            d0, d1, d2, d3, d4, d5, d6, d7 = d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]
            for i in range(T.shape[1]):
                low = (d0 * z0[i] + d1 * z1[i]) + (d2 * z2[i] + d3 * z3[i])
                high = (d4 * z4[i] + d5 * z5[i]) + (d6 * z6[i] + d7 * z7[i])
                t[i] += low + high
        k += 8
    while k < D.shape[1]:
        for j in range(T.shape[0]):
            for i in range(T.shape[1]):
                T[j, i] += D[j, k] * Z[k, i]
        k += 1


class Dense(NamedTuple):
    """A C-ordered array (n_rows, n_features)."""

    X: np.ndarray

    def values(self):
        """All entries as one array (NumPy)."""
        return self.X.reshape(-1)

    def n_rows(self):
        return self.X.shape[0]

    def dot(self, i, w):
        total = 0.0
        for j in range(self.X.shape[1]):
            total += self.X[i, j] * w[j]
        return total

    def fetch(self, i):
        for j in range(0, self.X.shape[1], LINE):
            prefetch(self.X[i], j)

    def add(self, i, a, out):
        for j in range(self.X.shape[1]):
            out[j] += a * self.X[i, j]

    def norm2(self, i):
        total = 0.0
        for j in range(self.X.shape[1]):
            total += np.float64(self.X[i, j]) * self.X[i, j]
        return total

    def add_squares(self, i, a, out):
        for j in range(self.X.shape[1]):
            out[j] += a * self.X[i, j] * self.X[i, j]

    def dot_run(self, start, stop, w, shift, z):
        """Four rows at a time: each load of ``w`` serves four products."""
        X, i = self.X, start
        while i + 4 <= stop:
            z0 = z1 = z2 = z3 = 0.0
            for j in range(X.shape[1]):
                wj = w[j]
                z0 += X[i, j] * wj
                z1 += X[i + 1, j] * wj
                z2 += X[i + 2, j] * wj
                z3 += X[i + 3, j] * wj
            k = i - start
            z[k], z[k + 1], z[k + 2], z[k + 3] = z0 + shift, z1 + shift, z2 + shift, z3 + shift
            i += 4
        while i < stop:
            z0 = 0.0
            for j in range(X.shape[1]):
                z0 += X[i, j] * w[j]
            z[i - start] = z0 + shift
            i += 1

    def add_run(self, start, stop, a, out):
        """Four rows at a time: each load and store of ``out`` serves four products."""
        X, i = self.X, start
        while i + 4 <= stop:
            k = i - start
            a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
            for j in range(X.shape[1]):
                out[j] += (a0 * X[i, j] + a1 * X[i + 1, j]) + (a2 * X[i + 2, j] + a3 * X[i + 3, j])
            i += 4
        while i < stop:
            for j in range(X.shape[1]):
                out[j] += a[i - start] * X[i, j]
            i += 1

    def curve_run(self, start, stop, d, v, shift, z, out):
        dot_run(self, start, stop, v, shift, z)
        for i in range(stop - start):
            z[i] *= d[i]
        add_run(self, start, stop, z, out)

    def times(self, order, W, room, out):
        for i in range(order.size):  # side by side, in W's type, as BLAS wants them
            row = order[i]
            for j in range(room.shape[1]):
                room[i, j] = self.X[row, j]
        product(room, W, out)

    def transposed_times(self, order, D, room, out):
        product(room.T, D, out)

    def gather(self, order, shift, D):
        for i in range(order.size):
            for j in range(D.shape[1]):
                D[i, j] = self.X[order[i], j] - shift[j]

    def squared_norms(self, order, shift, out):
        for i in range(order.size):
            total = 0.0
            for j in range(self.X.shape[1]):
                total += (self.X[order[i], j] - shift[j]) ** 2
            out[i] = total

    def lay_out(self, order, shift, like):
        """Side by side, (n, n_features) for BLAS, or transposed for a plain loop where they are narrow."""
        n, p = order.size, self.X.shape[1]
        if p > NARROW:
            laid = np.empty((n, p), like.dtype)
            gather(self, order, shift, laid)
            return laid
        laid = np.empty((p, n), like.dtype)
        for i in range(n):
            for j in range(p):
                laid[j, i] = self.X[order[i], j] - shift[j]
        return laid

    def inner(self, D, order, laid, T):
        if D.shape[1] > NARROW:
            product(D, laid.T, T)
        else:
            T[:] = 0.0
            add_outer(D, laid, T)


class CSR(NamedTuple):
    """Compressed sparse rows; the index arrays are unsigned, which spares a test for negative ones per entry.

    (In arithmetic an unsigned integer and a signed one make a float: count with ``range``.)
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray

    def values(self):
        """All stored entries as one array (NumPy)."""
        return self.data[self.indptr[0] : self.indptr[-1]]

    def n_rows(self):
        return self.indptr.shape[0] - 1

    def dot(self, i, w):
        total = 0.0
        for k in range(self.indptr[i], self.indptr[i + 1]):
            total += self.data[k] * w[self.indices[k]]
        return total

    def fetch(self, i):
        for k in range(self.indptr[i], self.indptr[i + 1], LINE):
            prefetch(self.data, k)
            prefetch(self.indices, k)

    def add(self, i, a, out):
        for k in range(self.indptr[i], self.indptr[i + 1]):
            out[self.indices[k]] += a * self.data[k]

    def norm2(self, i):
        total = 0.0
        for k in range(self.indptr[i], self.indptr[i + 1]):
            total += np.float64(self.data[k]) * self.data[k]
        return total

    def add_squares(self, i, a, out):
        for k in range(self.indptr[i], self.indptr[i + 1]):
            out[self.indices[k]] += a * self.data[k] * self.data[k]

    def dot_run(self, start, stop, w, shift, z):
        for i in range(start, stop):
            total = 0.0
            for k in range(self.indptr[i], self.indptr[i + 1]):
                total += self.data[k] * w[self.indices[k]]
            z[i - start] = total + shift

    def add_run(self, start, stop, a, out):
        for i in range(start, stop):
            for k in range(self.indptr[i], self.indptr[i + 1]):
                out[self.indices[k]] += a[i - start] * self.data[k]

    def curve_run(self, start, stop, d, v, shift, z, out):
        """Row by row, each while it is in the first-level cache; those without a weight are passed over."""
        for i in range(start, stop):
            a = d[i - start]
            if a != 0.0:
                total = shift
                for k in range(self.indptr[i], self.indptr[i + 1]):
                    total += self.data[k] * v[self.indices[k]]
                a *= total
                for k in range(self.indptr[i], self.indptr[i + 1]):
                    out[self.indices[k]] += a * self.data[k]
            z[i - start] = a

    def times(self, order, W, room, out):
        out[:] = 0.0
        for i in range(order.size):
            for k in range(self.indptr[order[i]], self.indptr[order[i] + 1]):
                value, column = out.dtype.type(self.data[k]), self.indices[k]
                for j in range(out.shape[1]):
                    out[i, j] += value * W[column, j]

    def transposed_times(self, order, D, room, out):
        out[:] = 0.0
        for i in range(order.size):
            for k in range(self.indptr[order[i]], self.indptr[order[i] + 1]):
                value, column = out.dtype.type(self.data[k]), self.indices[k]
                for j in range(out.shape[1]):
                    out[column, j] += value * D[i, j]

    def gather(self, order, shift, D):
        D[:] = 0.0
        for i in range(order.size):
            for k in range(self.indptr[order[i]], self.indptr[order[i] + 1]):
                D[i, self.indices[k]] += self.data[k]

    def squared_norms(self, order, shift, out):
        for i in range(order.size):
            total = 0.0
            for k in range(self.indptr[order[i]], self.indptr[order[i] + 1]):
                total += self.data[k] * self.data[k]
            out[i] = total

    def lay_out(self, order, shift, like):
        return np.empty((1, 1), like.dtype)  # they are read where they lie

    def inner(self, D, order, laid, T):
        """Each stored entry times its column of D, whose entries lie side by side in a copy."""
        columns = D.T.copy()
        total = np.empty(D.shape[0])
        for i in range(order.size):
            total[:] = 0.0
            for k in range(self.indptr[order[i]], self.indptr[order[i] + 1]):
                value, column = self.data[k], self.indices[k]
                for j in range(total.size):
                    total[j] += value * columns[column, j]
            for j in range(total.size):
                T[j, i] = total[j]


def as_csr(rows, n_features):
    """SciPy's matrix of sparse rows, sharing their memory where they are all of it."""
    indices = rows.indices[rows.indptr[0] : rows.indptr[-1]]
    indptr = (rows.indptr - rows.indptr[0]).view(np.int64)
    indices = indices.view(f"i{indices.itemsize}")
    return csr_matrix((rows.values(), indices, indptr), shape=(rows.n_rows(), n_features))


def as_matrix(rows, n_features):
    """What :func:`as_rows` was given: an array, or SciPy's matrix."""
    return rows.X if isinstance(rows, Dense) else as_csr(rows, n_features)


def as_rows(X):
    """The layout of an array or a CSR matrix, sharing its memory.

    Column numbers of 64 bits are copied to 32 unless the matrix is so large that SciPy needs them: one
    specialisation, and less to read in each pass. Offsets always have 64 bits: room for any number.
    """
    if isinstance(X, np.ndarray):
        return Dense(frozen(X))
    width = 32 if X.indices.size < WIDE and X.shape[1] <= 1 << 31 else 8 * X.indices.itemsize
    indices, indptr = frozen(X.indices, f"i{width // 8}"), frozen(X.indptr, np.int64)
    return CSR(frozen(X.data), indices.view(f"u{width // 8}"), indptr.view(np.uint64))
