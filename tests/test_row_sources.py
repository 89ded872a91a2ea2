"""Rows of several places as one: stacks, transformed and selected rows, Arrow files, slices in and out."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, GDMLPClassifier, GDSVC, slices, sources
from skbigmodel.sources import (
    ArrowRows,
    CachedRows,
    SelectedRows,
    StackedRows,
    TransformedRows,
    iter_rows,
    write_chunks,
    write_rows,
)

from test_blocks import Foreign


@pytest.fixture
def table():
    """X (1000, 6), a noisy target and labels."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 6))
    z = X[:, 0] - X[:, 1] + rng.normal(size=1000)
    return X, z, np.where(z > 0, "yes", "no")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """150 rows of six columns."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 6 * 150)


@pytest.fixture
def parquet(pyarrow, tmp_path_factory, table):
    """Two files of row groups of 130 rows: six columns, the target, labels in two forms, weights, a word."""
    import pyarrow.parquet as pq

    X, z, labels = table
    columns = {
        **{f"x{j}": X[:, j] for j in range(6)},
        "z": z,
        "label": labels,
        "code": pyarrow.array(labels).dictionary_encode(),
        "weight": np.linspace(0, 2, 1000),
        "word": np.array(["a", "b", "c", "d"])[np.arange(1000) % 4],
    }
    whole, folder = pyarrow.table(columns), tmp_path_factory.mktemp("parquet")
    pq.write_table(whole[:400], folder / "0.parquet", row_group_size=130)
    pq.write_table(whole[400:], folder / "1.parquet", row_group_size=130)
    return folder


FEATURES = [f"x{j}" for j in range(6)]


def check_reads(source, expected):
    """Slices, rows, index arrays, the whole, and all of it after pickling."""
    n = len(expected)
    for one in (source, pickle.loads(pickle.dumps(source))):
        assert one.shape == expected.shape and one.ndim == expected.ndim and len(one) == n
        assert_array_equal(one[:], expected)
        assert_array_equal(np.asarray(one), expected)
        bounds = [(0, 0), (0, 1), (100, 150), (n // 2 - 3, n // 2 + 200), (n - 5, n), (n - 5, n + 9), (-7, n)]
        for start, stop in bounds:
            part = one[start:stop]
            assert_array_equal(part, expected[start:stop])
            assert part.shape == expected[start:stop].shape
        assert_array_equal(one[5], expected[5])
        assert_array_equal(one[-1], expected[-1])
        assert_array_equal(one[10:n:7][:], expected[10::7])
        rows = np.random.default_rng(0).permutation(n)[: n // 3]
        assert_array_equal(one[rows][:], expected[rows])
        assert_array_equal(one[rows, ...][3:40], expected[rows][3:40])
        assert_array_equal(one[np.arange(n) % 3 == 0][:], expected[np.arange(n) % 3 == 0])
        with pytest.raises(IndexError):
            one[n]


# -- stacks ----------------------------------------------------------------------------------------


def test_stacks(tmp_path, table):
    """Arrays, lists, foreign arrays, other stacks and .npy files, one below the other."""
    X, z, _ = table
    np.save(tmp_path / "part.npy", X[600:])
    parts = [X[:100].tolist(), X[100:100], SelectedRows(X, np.arange(100, 300)), X[300:600]]
    check_reads(StackedRows([*parts, tmp_path / "part.npy"]), X)
    check_reads(StackedRows([z[:1], z[1:]]), z)
    assert_array_equal(StackedRows([Foreign(X[:600]), Foreign(X[600:])])[550:650], X[550:650])
    assert StackedRows([X.astype("f4"), X.astype("i4")]).dtype == np.float64
    assert repr(StackedRows([X, X])) == "<StackedRows of shape (2000, 6), float64>"


@pytest.mark.parametrize(
    "parts, message",
    [
        ([], "parts is empty"),
        ([np.zeros((2, 3)), np.zeros((2, 4))], r"part 1 has shape \(2, 4\), part 0 has \(2, 3\)"),
        ([np.zeros((2, 3)), np.zeros(2)], r"part 1 has shape \(2,\)"),
    ],
)
def test_stacks_of_unequal_parts(parts, message):
    """The message tells which part."""
    with pytest.raises(ValueError, match=message):
        StackedRows(parts)


def test_index_errors(table):
    """Rows that are not there, and indices of the wrong kind."""
    source = StackedRows([table[0]])
    for rows in ([1000], [-1001], np.zeros(3, bool), [[1, 2]], [0.5]):
        with pytest.raises(IndexError):
            source[rows]
    with pytest.raises(ValueError, match="copy"):
        np.array(source, copy=False)


MODELS = {
    "least squares": (GDLinearRegressor(alpha=0.01), 1),
    "lasso": (GDLinearRegressor(alpha=0.01, l1_ratio=1.0), 1),
    "logistic": (GDLogisticClassifier(), 2),
    "sgd": (GDLogisticClassifier(solver="sgd", random_state=0), 2),
    "hinge": (GDSVC(tol=1e-8), 2),
    "squared hinge": (GDSVC(loss="squared_hinge", tol=1e-8), 2),
    "network": (GDMLPClassifier((4,), random_state=0, loss_threshold=0.6), 2),
}


def coefficients(model):
    return np.concatenate([np.ravel(part) for part in getattr(model, "coefs_", None) or [model.coef_]])


@pytest.mark.parametrize("name", MODELS)
def test_sources_with_the_same_blocks_agree(name, table, tmp_path, parquet):
    """Bit for bit, with targets and weights from sources too; near those of memory for a convex model."""
    X, model, target = table[0], *MODELS[name]
    mapped = np.memmap(tmp_path / "X", "f8", "w+", shape=X.shape, order="F")
    mapped[:] = X
    weight = np.linspace(0, 2, 1000)
    fits = [
        model.__class__(**model.get_params()).fit(source, y, sample_weight=s)
        for source, y, s in [
            (mapped, table[target], weight),
            (Foreign(X), table[target], weight),
            (StackedRows([X[:300], X[300:]]), StackedRows([table[target][:5], table[target][5:]]), weight),
            (
                ArrowRows(parquet, FEATURES),
                ArrowRows(parquet, "label" if target == 2 else "z"),
                ArrowRows(parquet, "weight"),
            ),
        ]
    ]
    for other in fits[1:]:
        assert_array_equal(coefficients(other), coefficients(fits[0]))
        assert_array_equal(other.predict(Foreign(X)), fits[0].predict(mapped))
    if name not in ("sgd", "network"):
        inside = model.__class__(**model.get_params()).fit(X, table[target], sample_weight=weight)
        assert_allclose(coefficients(fits[0]), coefficients(inside), rtol=1e-8, atol=1e-12)


# -- sparse rows -----------------------------------------------------------------------------------


def sparse_table():
    """Counts of 30 words in 1000 texts, one entry stored in two parts, and targets."""
    rng = np.random.default_rng(0)
    X = sparse.random(1000, 30, density=0.2, format="csr", random_state=rng)
    indptr = np.append(X.indptr[:-1], X.indptr[-1] + 2)
    doubled = sparse.csr_matrix((np.append(X.data, [0.5, 0.25]), np.append(X.indices, [3, 3]), indptr))
    X = doubled.copy()
    X.sum_duplicates()
    z = X @ np.linspace(-2, 2, 30) + rng.normal(size=1000)
    return X, doubled, z


def test_sparse_stacks(tmp_path):
    """Matrices and files of them: slices are CSR, arrays are had by asking for them."""
    X, doubled, _ = sparse_table()
    sparse.save_npz(tmp_path / "a.npz", X[:300])
    sparse.save_npz(tmp_path / "b.npz", X[300:650].tocoo())
    source = StackedRows([tmp_path / "a.npz", str(tmp_path / "b.npz"), doubled[650:].tocsc()])
    assert source.is_sparse and source.shape == X.shape and source.nnz >= X.nnz and source.dtype == X.dtype
    for one in (source, pickle.loads(pickle.dumps(source))):
        for start, stop in [(0, 0), (0, 10), (250, 700), (999, 1000)]:
            assert sparse.issparse(one[start:stop])
            assert_array_equal(one[start:stop].toarray(), X[start:stop].toarray())
        assert_array_equal(np.asarray(one), X.toarray())
        rows = np.random.default_rng(0).permutation(1000)[:300]
        assert_array_equal(one[rows][:].toarray(), X[rows].toarray())
        assert one[rows].nnz == int(0.3 * one.nnz)
    with pytest.raises(ValueError, match="either all parts must be sparse or none"):
        StackedRows([X, X.toarray()])


SPARSE_MODELS = {
    "least squares": GDLinearRegressor(alpha=0.01),
    "minimum norm": GDLinearRegressor(),
    "lasso": GDLinearRegressor(alpha=0.001, l1_ratio=1.0),
    "huber": GDLinearRegressor(loss="huber", alpha=0.01, tol=1e-8),
    "quantile": GDLinearRegressor(loss="quantile", alpha=0.01),
    "logistic": GDLogisticClassifier(tol=1e-8),
    "logistic, cg": GDLogisticClassifier(tol=1e-8, solver="newton-cg"),
    "logistic, l1": GDLogisticClassifier(tol=1e-8, l1_ratio=1.0),
    "multinomial": GDLogisticClassifier(tol=1e-8, C=0.1),
    "multinomial, l1": GDLogisticClassifier(tol=1e-8, C=0.1, l1_ratio=1.0),
    "hinge": GDSVC(tol=1e-8),
    "squared hinge": GDSVC(loss="squared_hinge", tol=1e-8),
    "sgd": GDLogisticClassifier(solver="sgd", random_state=0, tol=1e-6),
}


@pytest.mark.parametrize(
    "name, n_rows",
    [
        *((name, 1000) for name in SPARSE_MODELS),
        ("least squares", 25),
        ("minimum norm", 25),
        ("quantile", 25),
    ],
)
def test_sparse_rows_from_elsewhere(name, n_rows):
    """The models of the matrix in memory, and its predictions, whether there are many rows or few."""
    X, doubled, z = (part[-n_rows:] for part in sparse_table())
    model = SPARSE_MODELS[name]
    y = (
        z
        if isinstance(model, GDLinearRegressor)
        else np.digitize(z, [-1, 1] if "multinomial" in name else [0])
    )
    cut = n_rows * 2 // 5
    source = StackedRows([doubled[:cut], doubled[cut:]])
    read = model.__class__(**model.get_params()).fit(source, y)
    inside = model.__class__(**model.get_params()).fit(X, y)
    tolerance = 1e-3 if name == "sgd" else 1e-6
    assert_allclose(read.coef_, inside.coef_, rtol=tolerance, atol=tolerance)
    assert_allclose(read.intercept_, inside.intercept_, rtol=tolerance, atol=tolerance)
    assert_allclose(inside.predict(source), inside.predict(X))


def test_bad_values_in_sparse_rows():
    """Named by their rows."""
    X, _, z = sparse_table()
    X.data[X.indptr[700]] = np.inf
    with pytest.raises(ValueError, match="NaN or infinity in rows"):
        GDLinearRegressor().fit(StackedRows([X]), z)


# -- Arrow -----------------------------------------------------------------------------------------


def test_arrow_rows(parquet, table, pyarrow):
    """A folder, files, a data set or a table; columns as arrays, labels as their values."""
    X, z, labels = table
    check_reads(ArrowRows(parquet, FEATURES), X)
    check_reads(ArrowRows(str(parquet), "z"), z)
    files = [parquet / "0.parquet", parquet / "1.parquet"]
    assert_array_equal(ArrowRows(files, ["x3", "x1"])[:], X[:, [3, 1]])
    assert_array_equal(StackedRows([ArrowRows(path, FEATURES) for path in files])[390:410], X[390:410])
    for name in ("label", "code"):
        assert_array_equal(ArrowRows(parquet, name)[:], labels)
    assert_array_equal(ArrowRows(pyarrow.table({"a": [1, 2], "b": [1.5, 2.5]}))[:], [[1, 1.5], [2, 2.5]])
    narrow = pyarrow.table({"a": np.float32([1, 2]), "b": np.float32([3, 4])})
    assert ArrowRows(narrow).dtype == np.float32
    with pytest.raises(ValueError, match=r"columns \['no'\] are not in"):
        ArrowRows(parquet, ["x1", "no"])


def test_arrow_files_of_other_formats(table, tmp_path, pyarrow):
    """Feather files are read, record batch by record batch."""
    import pyarrow.feather

    path = tmp_path / "a.feather"
    pyarrow.feather.write_feather(pyarrow.table({f"x{j}": table[0][:, j] for j in range(6)}), path)
    check_reads(ArrowRows(path), table[0])
    assert_array_equal(StackedRows([path])[:], table[0])


def test_few_row_groups_are_kept(parquet, monkeypatch):
    """Slices in order decode each row group once."""
    source, decoded = ArrowRows(parquet, FEATURES), []
    convert = source._convert
    monkeypatch.setattr(source, "_convert", lambda part: decoded.append(part.num_rows) or convert(part))
    for start in range(0, 1000, 50):
        source[start : start + 50]
    assert decoded == [130, 130, 130, 10, 130, 130, 130, 130, 80]
    assert len(source._piece._kept) == sources.KEPT_PIECES


def test_bad_columns(parquet, pyarrow):
    """Words among the features, and nulls, are found by the fit."""
    with pytest.raises(ValueError, match="X has dtype object, which is not numeric"):
        GDLinearRegressor().fit(ArrowRows(parquet, ["x1", "word"]), ArrowRows(parquet, "z"))
    holes = ArrowRows(pyarrow.table({"a": [1.0, None, 2.0]}))
    with pytest.raises(ValueError, match="NaN or infinity in rows 0 to 3"):
        GDLinearRegressor().fit(holes, np.zeros(3))


# -- transformed rows ------------------------------------------------------------------------------


def test_scaling_on_the_way(table):
    """A scaler fitted slice by slice, then model and predictions on its rows, as in memory."""
    X, z, labels = table
    X = X * [1, 10, 100, 1, 1, 1] + 5
    scaler = StandardScaler()
    for rows in iter_rows(Foreign(X)):
        scaler.partial_fit(rows)
    scaled = TransformedRows(StackedRows([X[:500], X[500:]]), scaler)
    check_reads(scaled, scaler.transform(X))
    model = GDLogisticClassifier(C=0.01).fit(scaled, labels)
    inside = GDLogisticClassifier(C=0.01).fit(StandardScaler().fit_transform(X), labels)
    assert_allclose(model.coef_, inside.coef_, rtol=1e-8)
    assert model.score(scaled, labels) == inside.score(scaler.transform(X), labels)


def test_encoding_on_the_way(parquet, table, pandas):
    """Columns by name through a column transformer, whether its output is sparse or not."""
    frames = ArrowRows(parquet, [*FEATURES, "word"], frames=True)
    assert frames[[900, 3, 3]][:].word.tolist() == ["a", "d", "d"]
    assert list(frames[:3].columns) == [*FEATURES, "word"] and frames.dtype == object
    encoder = make_column_transformer((OneHotEncoder(), ["word"]), (StandardScaler(), FEATURES))
    expected = encoder.fit_transform(frames[:])
    check_reads(TransformedRows(frames, encoder), expected)
    check_reads(TransformedRows(frames[:], encoder), expected)
    encoder = make_column_transformer((OneHotEncoder(), ["word"])).fit(frames[:])
    encoded = TransformedRows(frames, encoder)  # stays sparse
    assert encoded.is_sparse and encoded.nnz == 1000 and encoded.shape == (1000, 4)
    assert_array_equal(encoded[20:30].toarray(), encoder.transform(frames[20:30]).toarray())
    assert_array_equal(np.asarray(encoded), encoder.transform(frames[:]).toarray())
    assert encoded[:0].shape == (0, 4)


def test_transformers_that_drop_rows(table):
    """Rows and targets would no longer belong together."""

    class Drops:
        def transform(self, rows):
            return rows[1:]

    with pytest.raises(ValueError, match="Drops made 99 rows of 100"):
        TransformedRows(table[0], Drops())


# -- cached rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [GDLogisticClassifier(), GDLogisticClassifier(solver="lbfgs")])
def test_cached_rows_are_read_once(model, table):
    """All of them where they fit, else those that do not fit in every pass; the same model, bit for bit."""
    X, _, y = table
    plain = Foreign(np.asfortranarray(X))
    expected = model.fit(plain, y).coef_.copy()
    blocks = sorted(set(plain.asked))
    n_passes = len(plain.asked) // len(blocks)
    assert n_passes > 2
    for max_bytes, n_kept in [(X.nbytes, 7), (X.nbytes - 1, 6), (8 * 6 * 310, 2), (0, 0)]:
        source = Foreign(np.asfortranarray(X))
        cached = CachedRows(source, max_bytes)
        assert_array_equal(model.fit(cached, y).coef_, expected)
        assert cached.kept_bytes <= max_bytes
        read = len(source.asked)
        assert sorted(set(source.asked)) == blocks
        assert abs(read - (n_kept + (7 - n_kept) * n_passes)) <= 2  # what found no room was read, too
        model.fit(cached, y)
        assert len(source.asked) - read == (7 - n_kept) * n_passes
    check_reads(CachedRows(Foreign(X), X.nbytes), X)
    check_reads(CachedRows(X, 8 * 6 * 310), X)
    check_reads(CachedRows(X[:, 0], 5000), X[:, 0])


def test_cached_rows_are_copies(table):
    """What is kept neither changes with its source nor can be changed."""
    X = table[0].copy()
    cached = CachedRows(X, X.nbytes)
    before = cached[:].copy()
    X[:] = 0.0
    assert_array_equal(cached[:], before)
    with pytest.raises(ValueError, match="read-only"):
        cached[3:5][:] = 0.0


def test_cached_rows_of_other_sources(table, parquet):
    """Sparse rows, Parquet, what a transformer makes: their blocks, and their models."""
    X, z, _ = table
    matrix = sparse.random_array((1000, 40), density=0.2, rng=0, format="csr")
    scaler = StandardScaler().fit(X)
    stacked = StackedRows([matrix[:300], matrix[300:]])
    for source in (stacked, ArrowRows(parquet, FEATURES), TransformedRows(X, scaler)):
        cached = CachedRows(source, 1_000_000)
        expected = GDLinearRegressor(alpha=0.1).fit(source, z)
        assert_array_equal(GDLinearRegressor(alpha=0.1).fit(cached, z).coef_, expected.coef_)
        assert_array_equal(pickle.loads(pickle.dumps(cached))[5:400].sum(), source[5:400].sum())
        assert cached.kept_bytes >= (12 * matrix.nnz if source is stacked else X.nbytes)


def test_cached_rows_refuse(parquet):
    """Memory that is no number, rows that are none."""
    for max_bytes in ("1 GB", -1, None, np.nan):
        with pytest.raises(ValueError, match="max_bytes must be a number of bytes"):
            CachedRows(np.eye(3), max_bytes)
    with pytest.raises(ValueError, match="X has dtype object: only rows of numbers are kept"):
        CachedRows(ArrowRows(parquet, frames=True), 1000)


# -- in and out ------------------------------------------------------------------------------------


def test_iter_rows(table, pandas):
    """One array or several, in slices that together are the whole."""
    X, z, labels = table
    assert_array_equal(np.concatenate(list(iter_rows(Foreign(X)))), X)
    assert [len(rows) for rows in iter_rows(Foreign(X))] == [150] * 6 + [100]
    parts = list(iter_rows(pandas.DataFrame(X), z, labels, batch_rows=400))
    assert [len(part[1]) for part in parts] == [400, 400, 200]
    assert_array_equal(np.concatenate([part[0] for part in parts]), X)
    assert_array_equal(np.concatenate([part[2] for part in parts]), labels)
    assert [rows.shape for rows in iter_rows(sparse.eye_array(1000, format="csr"), batch_rows=600)] == [
        (600, 1000),
        (400, 1000),
    ]
    with pytest.raises(ValueError, match="array 1 has 999 rows, array 0 has 1000"):
        next(iter_rows(X, z[1:]))


def test_write_predictions(table, tmp_path):
    """Into a given memory map, an array of another type, or a new array."""
    X, z, labels = table
    model = GDLogisticClassifier().fit(X, labels)
    mapped = np.memmap(tmp_path / "out", "f4", "w+", shape=(1000, 2))
    assert write_rows(model.predict_proba, Foreign(X), mapped) is mapped
    assert_array_equal(mapped, model.predict_proba(X).astype("f4"))
    assert_array_equal(write_rows(model.predict, StackedRows([X]), batch_rows=7), model.predict(X))
    assert_array_equal(write_rows(sparse.csr_array, X), X)
    with pytest.raises(ValueError, match=r"out has shape \(1000,\), but \(1000, 2\) is needed"):
        write_rows(model.predict_proba, X, np.zeros(1000))
    with pytest.raises(ValueError, match=r"function made shape \(2,\) of 150 rows"):
        write_rows(lambda rows: rows[0, :2], X)


@pytest.mark.parametrize(
    "chunks, message",
    [
        ([], "there are no chunks"),
        ([(np.zeros((2, 3)), [1, 2]), (np.zeros((2, 4)), [1, 2])], r"X of chunk 1 has shape \(2, 4\)"),
        ([(np.zeros((2, 3)), [1, 2]), (np.zeros((3, 3)), [1, 2])], "chunk 1 has 3 rows of X, but y"),
        ([(np.zeros((2, 3)),)], "chunk 0 has 2 rows of X, but y"),
        ([(np.array([["a"]]), [1])], "X of chunk 0 has shape .* and dtype <U1"),
    ],
)
def test_bad_chunks(chunks, message, tmp_path):
    """The message tells which chunk."""
    with pytest.raises(ValueError, match=message):
        write_chunks(chunks, tmp_path / "X.npy")


# -- held-out rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [GDLinearRegressor, GDLogisticClassifier, GDMLPClassifier])
def test_validation_rows_are_not_loaded(make, table):
    """Held out from a source, or given as one: the scores are those of memory."""
    X, z, labels = table
    y = z if make is GDLinearRegressor else labels
    params = {"max_iter": 30, "random_state": 0, "n_iter_no_change": 2}
    kept = make(**params).fit(X[:700], y[:700], X_val=X[700:], y_val=y[700:])
    model = make(**params).fit(X[:700], y[:700], X_val=Foreign(X[700:]), y_val=y[700:])
    assert_array_equal(model.validation_scores_, kept.validation_scores_)
    model = make(early_stopping=True, **params).fit(Foreign(X), y)
    assert 0.2 < max(model.validation_scores_) < 1


@pytest.mark.parametrize("folds", [KFold(3), KFold(3, shuffle=True, random_state=0)])
def test_search_over_a_source(folds, table):
    """An index array makes a source of a source: folds are read from where the rows lie."""
    X, _, labels = table
    search = GridSearchCV(GDLogisticClassifier(tol=1e-8), {"C": [0.01, 1.0]}, cv=folds)
    inside = search.fit(X, labels).cv_results_["mean_test_score"]
    assert_array_equal(search.fit(StackedRows([X]), labels).cv_results_["mean_test_score"], inside)
