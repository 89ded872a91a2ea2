"""Field reports SPC and MEM-01: index widths, unsorted rows, dtypes, strides, read-only arrays, frames."""

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

FORMATS = [sparse.csr_array, sparse.csr_matrix, sparse.csc_array, sparse.csc_matrix]
INDEX_TYPES = [(np.int64, np.int64), (np.int32, np.int64), (np.int64, np.int32)]


def sparse_data(case, n=60, d=4):
    """X with two thirds of zeros, and its target."""
    X, y = case.data(n=n, d=d)
    return X * (np.random.default_rng(9).random(X.shape) < 0.34), y


def every_result(case, X, y, weight=None):
    """Coefficients of fit and of partial_fit, and what the methods say on X."""
    model = case.make(random_state=0).fit(X, y, weight)
    stream = case.make(random_state=0).partial_fit(X, y, sample_weight=weight, **case.classes(y))
    results = [model.coef_, model.intercept_, stream.coef_, stream.intercept_]
    results += [case.raw(model, X), model.predict(X), model.score(X, y)]
    return results + ([model.predict_proba(X)] if hasattr(model, "predict_proba") else [])


def assert_same(results, expected, **tolerance):
    """Equal bits, or closeness where a tolerance is given."""
    for result, value in zip(results, expected, strict=True):
        assert_allclose(result, value, **tolerance) if tolerance else assert_array_equal(result, value)


@pytest.mark.parametrize("indices, indptr", INDEX_TYPES)
@pytest.mark.parametrize("store", FORMATS)
def test_spc_01_wide_indices(case, store, indices, indptr):
    """SPC-01: indices and indptr of 64 bits, or mixed, give the bits of 32."""
    X, y = sparse_data(case)
    narrow, wide = store(X), store(X)
    wide.indices, wide.indptr = wide.indices.astype(indices), wide.indptr.astype(indptr)
    assert_same(every_result(case, wide, y), every_result(case, narrow, y))
    assert (wide.indices.dtype, wide.indptr.dtype) == (indices, indptr)


@pytest.mark.parametrize("store", [sparse.csr_array, sparse.csc_array])
def test_spc_02_unsorted_indices(case, store):
    """SPC-02: entries in reverse order inside each row (column) are the same matrix; it stays reversed."""
    X, y = sparse_data(case)
    ordered = store(X)
    turned = ordered.copy()
    for start, stop in zip(turned.indptr[:-1], turned.indptr[1:]):
        turned.indices[start:stop] = turned.indices[start:stop][::-1].copy()
        turned.data[start:stop] = turned.data[start:stop][::-1].copy()
    turned = store((turned.data, turned.indices, turned.indptr), shape=X.shape)
    kept = joblib.hash([turned.data, turned.indices, turned.indptr])
    assert_same(every_result(case, turned, y), every_result(case, ordered, y), rtol=1e-12, atol=1e-12)
    assert joblib.hash([turned.data, turned.indices, turned.indptr]) == kept


@pytest.mark.parametrize("store", [sparse.csr_array, sparse.coo_array])
def test_spc_02_repeated_and_stored_zero_entries(case, store):
    """SPC-02: an entry given in two halves, and a stored zero, are what they add up to."""
    X, y = sparse_data(case)
    half = sparse.csr_array(X / 2)
    half.data[0] = 0.0
    X = 2 * half.toarray()
    if store is sparse.coo_array:
        row, column = half.tocoo().coords
        doubled = store((np.tile(half.data, 2), (np.tile(row, 2), np.tile(column, 2))), shape=X.shape)
    else:
        twice = np.repeat(np.arange(half.nnz), 2)
        doubled = store((half.data[twice], half.indices[twice], 2 * half.indptr), shape=X.shape)
    assert doubled.nnz == 2 * half.nnz
    expected = every_result(case, sparse.csr_array(X), y)
    assert_same(every_result(case, doubled, y), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">i4", "i2", "u1", "f2", "g", "O", "?"])
def test_spc_04_unusual_dtypes(case, dtype):
    """SPC-04: small whole numbers are the same in every dtype; so are the results."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 2 if dtype == "?" else 5, (60, 4)), rng.integers(0, 2, 60)
    weight = rng.integers(1, 3, 60)
    wide = "f8" if dtype == "?" else dtype  # all weights of bool would be 1
    expected = every_result(case, X.astype("f8"), y, weight.astype("f8"))
    results = every_result(case, X.astype(dtype), y.astype(dtype), weight.astype(wide))
    tolerance = 1e-3 if dtype in ("f2", ">f4") else 1e-9
    assert_same(results, expected, rtol=tolerance, atol=tolerance)


def test_spc_04_complex(case):
    """SPC-04: complex values are a clear error in fit and in predict."""
    X, y = case.data()
    with pytest.raises(ValueError, match="(?i)complex"):
        case.make().fit(X + 1j, y)
    with pytest.raises(ValueError, match="(?i)complex"):
        case.make().fit(X, y).predict(X + 1j)


LAYOUT_VIEWS = {
    "Fortran": lambda X: np.asfortranarray(X),
    "every second row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "every second column": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed columns": lambda X: X[:, ::-1].copy()[:, ::-1],
    "reversed rows": lambda X: X[::-1].copy()[::-1],
    "transposed": lambda X: X.T.copy().T,
    "unaligned": lambda X: np.frombuffer(b"x" + X.tobytes(), offset=1, dtype=X.dtype).reshape(X.shape),
}


@pytest.mark.parametrize("view", LAYOUT_VIEWS)
def test_spc_05_strides(case, view):
    """SPC-05: Fortran order, strided, reversed and unaligned views give what contiguous copies give."""
    X, y = case.data()
    weight = np.linspace(1, 2, 60)
    strided = every_result(case, LAYOUT_VIEWS[view](X), np.repeat(y, 2)[::2], np.repeat(weight, 2)[::2])
    assert_same(strided, every_result(case, X, y, weight), rtol=1e-12, atol=1e-12)


def test_spc_05_data_frame(case, pandas):
    """SPC-05: a pandas DataFrame, whose blocks are of Fortran order."""
    X, y = case.data()
    frame = pandas.DataFrame(X, columns=list("abcd"))
    assert_same(every_result(case, frame, y), every_result(case, X, y), rtol=1e-12, atol=1e-12)


def test_spc_09_polars(case, polars):
    """SPC-09: polars frames and series in every method, and in the model selection tools."""
    X, y = case.data()
    frame, series = polars.DataFrame(X, schema=list("abcd")), polars.Series(y)
    assert_same(every_result(case, frame, series), every_result(case, X, y), rtol=1e-12, atol=1e-12)
    assert case.make().fit(frame, series).feature_names_in_.tolist() == list("abcd")
    scores = cross_val_score(case.make(), frame, series, cv=3)
    assert_allclose(scores, cross_val_score(case.make(), X, y, cv=3), rtol=1e-12)
    search = GridSearchCV(case.make(), {"fit_intercept": [True, False]}, cv=3)
    expected = clone(search).fit(X, y).cv_results_["mean_test_score"]
    assert_allclose(search.fit(frame, series).cv_results_["mean_test_score"], expected, rtol=1e-12)


def test_spc_09_pyarrow(case, pyarrow):
    """SPC-09: a pyarrow Table is fitted with its names."""
    X, y = case.data()
    model = case.make().fit(pyarrow.table(dict(zip("abcd", X.T))), pyarrow.array(y))
    assert_allclose(model.coef_, case.make().fit(X, y).coef_, rtol=1e-12)
    assert model.feature_names_in_.tolist() == list("abcd")


def read_only(array, tmp_path):
    """The array without permission to write."""
    array = array.copy()
    array.flags.writeable = False
    return array


def memory_mapped(array, tmp_path):
    """The array as a file mapped for reading."""
    path = tmp_path / f"{id(array)}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("protect", [read_only, memory_mapped])
def test_mem_01_read_only_arrays(case, protect, tmp_path):
    """MEM-01: read-only arrays and maps give the same bits in every method."""
    X, y = case.data()
    weight = np.linspace(1, 2, 60)
    protected = [protect(array, tmp_path) for array in (X, y, weight)]
    assert_same(every_result(case, *protected), every_result(case, X, y, weight))


@pytest.mark.parametrize("protect", [read_only, memory_mapped])
def test_mem_01_read_only_sparse(case, protect, tmp_path):
    """MEM-01: the same for the three arrays of a CSR matrix."""
    X, y = sparse_data(case)
    X = sparse.csr_array(X)
    parts = tuple(protect(part, tmp_path) for part in (X.data, X.indices, X.indptr))
    assert_same(every_result(case, sparse.csr_array(parts, shape=X.shape), y), every_result(case, X, y))


def test_mem_01_read_only_start(case, solver):
    """MEM-01: a read-only starting point works with every solver."""
    X, y = case.data()
    start = np.zeros(case.make().fit(X, y).coef_.shape)
    start.flags.writeable = False
    intercept = np.zeros(1)
    intercept.flags.writeable = False
    model = case(solver=solver, random_state=0).fit(X, y, coef_init=start, intercept_init=intercept)
    assert_allclose(model.coef_, case.optimum(solver).fit(X, y).coef_, rtol=1e-6)


def test_mem_01_search_over_worker_processes(case):
    """MEM-01: X of 2 MB reaches the workers as a read-only map; the scores are those of one process."""
    X, y = case.data(n=26_000, d=10)
    search = GridSearchCV(case.make(), {"fit_intercept": [True, False]}, cv=2)
    serial = clone(search).fit(X, y).cv_results_["split0_test_score"]
    assert_array_equal(search.set_params(n_jobs=2).fit(X, y).cv_results_["split0_test_score"], serial)
