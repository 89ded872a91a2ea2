"""Dask arrays and DataFrames: the same coefficients as in memory, with and without a cluster."""

import os
import pickle
import signal
import time

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from test_blocks import Foreign

from skbigmodel import (
    GDSVC,
    GDLinearRegressor,
    GDLogisticClassifier,
    GDMLPClassifier,
    blocks,
    slices,
    threads,
)
from skbigmodel.blocks import ArrayBlocks
from skbigmodel.losses import Huber, Quantile

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
distributed = pytest.importorskip("distributed")
pandas = pytest.importorskip("pandas")

RNG = np.random.default_rng(0)
N, P = 900, 6
X = RNG.normal(size=(N, P)) * [1, 1, 1e3, 1, 1e-2, 1] + [0, 0, 0, 50, 0, 0]
SCORE = (X - X.mean(axis=0)) / X.std(axis=0) @ [1, -1, 0.5, 0.5, 0, 0] + RNG.normal(size=N)
WEIGHT = RNG.uniform(size=N) * (np.arange(N) % 7 > 0)
SPARSE = sparse.random(N, 12, 0.2, format="csr", random_state=0)
TARGETS = {
    "number": SCORE,
    "two": np.column_stack([SCORE, np.abs(SCORE)]),
    "count": np.exp(0.3 * SCORE),
    "bool": SCORE > 0.3,
    "text": np.array(["a", "b", "c"])[np.digitize(SCORE, [-0.5, 0.5])],
    "of sparse": np.asarray(SPARSE @ np.arange(12)) + RNG.normal(size=N),
    "sparse bool": np.asarray(SPARSE @ np.arange(12)) > 2,
    "sparse text": np.array(["x", "y", "z"])[np.digitize(np.asarray(SPARSE @ np.arange(12)), [1, 4])],
}
R, L = GDLinearRegressor, GDLogisticClassifier
MODELS = {  # model, X, target, whether weighted
    "least squares": (R(), X, "number", False),
    "ridge": (R(alpha=0.1), X, "number", True),
    "two targets": (R(alpha=np.array([0.1, 0.2])), X, "two", False),
    "lasso": (R(alpha=0.02, l1_ratio=1), X, "number", True),
    "huber": (R(loss=Huber(1.0), alpha=1e-3), X, "number", True),
    "huber l1": (R(loss="huber", alpha=0.02, l1_ratio=0.5), X, "number", False),
    "poisson": (R(loss="poisson", alpha=1e-3), X, "count", False),
    "gamma": (R(loss="gamma"), X, "count", True),
    "logistic": (L(), X, "bool", False),
    "balanced": (L(class_weight="balanced"), X, "bool", True),
    "logistic l1": (L(C=0.1, l1_ratio=1), X, "bool", False),
    "softmax": (L(class_weight={"a": 2.0, "b": 1.0, "c": 0.5}), X, "text", True),
    "softmax l1": (L(C=0.1, l1_ratio=1), X, "text", False),
    "float32": (L(), X.astype(np.float32), "bool", False),
    "sparse squares": (R(alpha=0.01), SPARSE, "of sparse", False),
    "sparse lasso": (R(alpha=0.05, l1_ratio=1), SPARSE, "of sparse", True),
    "sparse softmax": (L(), SPARSE, "sparse text", True),
    "dependent columns": (R(), np.hstack([X, X[:, :2]]), "number", False),
    "more columns than rows": (R(), RNG.normal(size=(60, 210)), None, False),
    "wide ridge": (R(alpha=0.1), RNG.normal(size=(60, 210)), None, False),
    "absolute error": (R(loss="absolute_error"), X, "number", True),
    "quantile": (R(loss=Quantile(0.8), alpha=0.01, l1_ratio=1), X, "number", False),
    "tube, positive": (R(loss="epsilon_insensitive", positive=True), X, "number", False),
    "hinge": (GDSVC(C=0.1, class_weight="balanced"), X, "bool", True),
    "sparse hinge": (GDSVC(), SPARSE, "sparse bool", False),
    "squared hinge": (GDSVC(loss="squared_hinge", intercept_scaling=1), X, "text", True),
    "pairs": (GDSVC(loss="squared_hinge", multi_class="ovo"), X, "text", False),
    "nesterov": (L(solver="nesterov"), X, "bool", True),
    "lbfgs": (L(solver="lbfgs"), X, "text", False),
    "newton-cg": (L(solver="newton-cg"), X, "bool", False),
    "gd": (R(solver="gd", alpha=0.1), X, "number", True),
}
CUT = (250, 400, 250)
EVEN = X / X.std(axis=0)


@pytest.fixture(scope="module")
def client():
    """Two workers with a thread each, in this process."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(params=["threads", "cluster"])
def scheduler(request):
    """Dask with and without a cluster."""
    if request.param == "threads":
        with dask.config.set(scheduler="threads"):
            yield "threads"
    else:
        with request.getfixturevalue("client").as_current():
            yield "cluster"


@pytest.fixture
def cluster(client):
    """The cluster is the current one."""
    with client.as_current():
        yield client


def lazy(values, chunks=CUT):
    """A Dask array of values in memory; of a sparse matrix, one with sparse chunks."""
    if not sparse.issparse(values):
        if len(values) != sum(chunks):
            chunks = -(-len(values) // 3)
        return da.from_array(values, chunks=(chunks, *(3 for _ in values.shape[1:])))
    stops = np.cumsum(chunks)
    parts = [dask.delayed(values[stop - n : stop]) for stop, n in zip(stops, chunks)]
    return da.concatenate(
        [da.from_delayed(part, (n, values.shape[1]), meta=values[:0]) for part, n in zip(parts, chunks)]
    )


def fitted(model, X, *args, **kwargs):
    """A clone that has found the optimum to many digits."""
    return clone(model).set_params(tol=1e-9, max_iter=5000).fit(X, *args, **kwargs)


@pytest.mark.parametrize("name", MODELS)
def test_same_coefficients(scheduler, name):
    """As from arrays in memory, by the same solver; so are predictions and scores, chunk by chunk."""
    model, rows, target, weighted = MODELS[name]
    y = rows[:, 0] + np.sin(np.arange(len(rows))) if target is None else TARGETS[target]
    s = WEIGHT if weighted else None
    expected = fitted(model, rows, y, sample_weight=s)
    found = fitted(model, lazy(rows), lazy(y), sample_weight=None if s is None else lazy(s))
    for attribute in ("coef_", "intercept_"):
        values = getattr(expected, attribute)
        assert_allclose(getattr(found, attribute), values, rtol=1e-9, atol=1e-9 * np.abs(values).max())
    assert found.solver_ == expected.solver_ and found.coef_.dtype == expected.coef_.dtype
    predictions = found.predict(lazy(rows))
    assert isinstance(predictions, da.Array) and predictions.dtype == expected.predict(rows[:1]).dtype
    assert_array_equal(predictions.compute(), found.predict(rows))
    score = found.score(lazy(rows), lazy(y), None if s is None else lazy(s))
    assert isinstance(score, float)
    assert_allclose(score, found.score(rows, y, s), rtol=1e-10)


def test_hinge_is_exact_at_the_default_tol(scheduler):
    """The solution of linear equations, whose rows come from where they lie."""
    y, s = TARGETS["bool"], WEIGHT
    expected = GDSVC(C=0.3).fit(X, y, s)
    found = GDSVC(C=0.3).fit(lazy(X), lazy(y), lazy(s))
    assert_allclose(found.coef_, expected.coef_, rtol=1e-10)
    assert_allclose(found.intercept_, expected.intercept_, rtol=1e-10)


def bits(model):
    """All of a linear model."""
    return np.append(model.coef_, model.intercept_).tobytes()


def test_bits_do_not_depend_on_the_workers(client, monkeypatch):
    """One worker or two, persisted or not, and a file read in the same blocks: the same bits."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * P * 150)
    models = [R(), L(), L(C=0.1, l1_ratio=1), L(solver="newton-cg")]
    for model in models:
        y = SCORE if isinstance(model, R) else SCORE > 0
        expected = bits(model.fit(Foreign(X), y))
        lazily, labels = da.from_array(X, chunks=(150, -1)), da.from_array(y, chunks=150)
        with dask.config.set(scheduler="sync"):
            assert bits(model.fit(lazily, labels)) == expected
        with client.as_current():
            assert bits(model.fit(lazily, labels)) == expected
            assert bits(model.fit(*dask.persist(lazily, labels))) == expected
            one = list(client.nthreads())[:1]
            assert bits(model.fit(client.persist(lazily, workers=one), labels)) == expected


def test_no_row_leaves_its_worker(cluster, monkeypatch):
    """What comes back from a pass is of the size of the parameters."""
    sizes = []
    gather = type(cluster).gather

    def weigh(self, futures, *args, **kwargs):
        results = gather(self, futures, *args, **kwargs)
        sizes.append(len(pickle.dumps(results)))
        return results

    n = 40_000
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, 3))
    y = rows[:, 0] + rng.normal(size=n) > 0
    monkeypatch.setattr("skbigmodel.cluster.SAMPLE_ENTRIES", 0)
    monkeypatch.setattr(type(cluster), "gather", weigh)
    model = L().fit(da.from_array(rows, chunks=(5000, -1)), da.from_array(y, chunks=5000))
    assert len(sizes) > 10 and max(sizes) < 5000
    assert_allclose(model.coef_, L().fit(rows, y).coef_, rtol=1e-5)


def test_large_sums_are_combined_on_the_workers(cluster, monkeypatch):
    """With the same result."""
    expected = bits(R().fit(lazy(X), lazy(SCORE)))
    monkeypatch.setattr("skbigmodel.cluster.LARGE", 1)
    assert bits(R().fit(lazy(X), lazy(SCORE))) == expected


def test_large_messages_are_stored_first(cluster, monkeypatch):
    """So that a long parameter vector is not part of every task."""
    expected = bits(L().fit(lazy(X), lazy(SCORE > 0)))
    monkeypatch.setattr("skbigmodel.cluster.MESSAGE_BYTES", 10)
    assert bits(L().fit(lazy(X), lazy(SCORE > 0))) == expected


def test_sample_may_stay_on_the_workers(cluster, monkeypatch):
    """Sparse and dense, weighted or not, of every k-th row."""
    from skbigmodel.dask import column, take

    for rows in (X, SPARSE):
        found, y = take(lazy(rows), lazy(SCORE), np.dtype(float), np.asarray)
        for s in (None, WEIGHT):
            weights = None if s is None else column(found, lazy(s), "s", np.asarray)
            source = found.make_blocks(y, weights, 1)
            here = source.sample(4)
            monkeypatch.setattr("skbigmodel.cluster.SAMPLE_ENTRIES", 0)
            there = source.sample(4)
            monkeypatch.undo()
            assert isinstance(here, ArrayBlocks) and there.remote and there.n_rows == 225
            dense = rows[::4].toarray() if sparse.issparse(rows) else rows[::4]
            assert_array_equal(here.matrix().toarray() if here.sparse else here.matrix(), dense)
            for sample in (here, there):
                assert_allclose(sample.weight, 225 if s is None else s[::4].sum(), rtol=1e-14)
                assert_allclose(sample.total(column_sums, rows.shape[1])[1], dense.sum(axis=0), rtol=1e-10)


def column_sums(block, out):
    """A pass."""
    np.add.at(out, *columns_of(block.rows))
    return 0.0


def columns_of(rows):
    """(number of the column, value) of all entries."""
    if hasattr(rows, "X"):
        return np.tile(np.arange(rows.X.shape[1]), len(rows.X)), rows.X.ravel()
    return rows.indices[rows.indptr[0] : rows.indptr[-1]].astype(int), rows.values()


# -- containers


def test_dsk_04_dataframes_and_unknown_chunks(scheduler):
    """Lengths are found; column chunks are joined; a partition without rows is none. (DSK-04)"""
    frame = pandas.DataFrame(X, columns=list("abcdef")).assign(y=SCORE > 0, s=WEIGHT)
    frames = dd.from_pandas(frame, npartitions=4)
    expected = fitted(L(), frame[list("abcdef")], frame.y, frame.s)
    found = fitted(L(), frames[list("abcdef")], frames["y"], frames["s"])
    assert_allclose(found.coef_, expected.coef_, rtol=1e-8)
    assert_array_equal(found.feature_names_in_, list("abcdef"))
    predictions = found.predict(frames[list("abcdef")])
    assert_array_equal(predictions.compute(), expected.predict(frame[list("abcdef")]))
    assert found.score(frames[list("abcdef")], frames["y"]) == expected.score(frame[list("abcdef")], frame.y)
    some = frames[frames.a > frame.a[:300].max()]  # rows in some partitions only
    few = frame[frame.a > frame.a[:300].max()]
    assert_allclose(
        fitted(R(alpha=1.0), some[["b", "c"]], some["d"]).coef_,
        fitted(R(alpha=1.0), few[["b", "c"]], few.d).coef_,
        rtol=1e-8,
    )
    unknown = frames[list("abcdef")].to_dask_array()
    assert np.isnan(unknown.shape[0])
    assert_allclose(fitted(L(), unknown, frames["y"], frames["s"]).coef_, expected.coef_, rtol=1e-8)
    assert_allclose(fitted(L(), unknown, frame.y, WEIGHT).coef_, expected.coef_, rtol=1e-8)
    rechunked = da.from_array(SCORE > 0, chunks=100)
    assert_allclose(fitted(L(), unknown, rechunked, WEIGHT).coef_, expected.coef_, rtol=1e-8)
    proba = found.predict_proba(frames[list("abcdef")])
    assert_allclose(proba.compute(), expected.predict_proba(frame[list("abcdef")]), rtol=1e-6)
    with pytest.raises(ValueError, match="feature names"):
        found.predict(frames[list("fedcba")])
    with pytest.raises(TypeError, match="not numeric.*'text'"):
        R().fit(frames.assign(text="x")[["a", "text"]], frames["y"])


def test_nullable_columns(scheduler):
    """Missing values are named; without them pandas' own types are numbers like others."""
    frame = pandas.DataFrame({"a": np.arange(20), "b": np.arange(20) % 3}).astype({"b": "Int64"})
    frame["y"] = frame.a * 2.0 + 1.0
    frames = dd.from_pandas(frame, npartitions=2)
    assert_allclose(R().fit(frames[["a", "b"]], frames.y).coef_, [2.0, 0.0], atol=1e-9)
    frame.loc[15, "b"] = pandas.NA
    frames = dd.from_pandas(frame, npartitions=2)
    with pytest.raises(ValueError, match="NaN or infinity in block 1"):
        R().fit(frames[["a", "b"]], frames.y)


@pytest.mark.parametrize("dtype", [np.int16, bool, ">f8"])
def test_other_types(scheduler, dtype):
    """They become floats of the same value."""
    rows = np.round(X).astype(dtype)
    found, expected = fitted(R(alpha=0.1), lazy(rows), SCORE), fitted(R(alpha=0.1), rows, SCORE)
    assert_allclose(found.coef_, expected.coef_, rtol=1e-8)


def test_arrays_in_memory_beside(scheduler):
    """X on Dask with y and weights in memory, and the other way round."""
    expected = fitted(L(), X, SCORE > 0, WEIGHT)
    assert_allclose(fitted(L(), lazy(X), SCORE > 0, list(WEIGHT)).coef_, expected.coef_, rtol=1e-8)
    assert_allclose(fitted(L(), X, lazy(SCORE > 0), lazy(WEIGHT)).coef_, expected.coef_, rtol=1e-8)
    assert_allclose(fitted(R(), lazy(X), SCORE, 2.0).coef_, fitted(R(), X, SCORE).coef_, rtol=1e-8)


def test_fortran_chunks_and_coo(scheduler):
    """Any order, any sparse format."""
    expected = fitted(L(), X, SCORE > 0)
    assert_allclose(
        fitted(L(), lazy(X).map_blocks(np.asfortranarray), lazy(SCORE > 0)).coef_, expected.coef_, rtol=1e-8
    )
    coo = lazy(SPARSE).map_blocks(lambda part: part.tocoo(), dtype=float, meta=SPARSE[:0])
    expected = fitted(R(), SPARSE, SCORE)
    assert_allclose(fitted(R(), coo, lazy(SCORE)).coef_, expected.coef_, rtol=1e-7)


# -- labels and probabilities


def test_dsk_02_probabilities(scheduler):
    """(n, 2) for two classes, rows sum to 1, lazily. (DSK-02)"""
    model = L().fit(lazy(X), lazy(SCORE > 0))
    proba = model.predict_proba(lazy(X))
    assert isinstance(proba, da.Array) and proba.shape == (N, 2)
    assert_allclose(proba.sum(axis=1).compute(), 1.0, rtol=1e-14)
    assert roc_auc_score(SCORE > 0, proba[:, 1].compute()) > 0.8
    assert_allclose(np.exp(model.predict_log_proba(lazy(X)).compute()), model.predict_proba(X), rtol=1e-10)
    decisions = model.decision_function(lazy(X))
    assert decisions.shape == (N,)
    assert_array_equal(decisions.compute(), model.decision_function(X))
    three = L().fit(lazy(X), lazy(TARGETS["text"]))
    assert three.predict_proba(lazy(X)).shape == (N, 3)
    assert_array_equal(three.decision_function(lazy(X)).compute(), three.decision_function(X))


def test_dsk_03_a_chunk_without_a_class(scheduler):
    """Three classes, of which chunks lack some: the model of all. (DSK-03)"""
    order = np.argsort(TARGETS["text"], kind="stable")
    rows, y = X[order], TARGETS["text"][order]
    model = fitted(L(), lazy(rows), lazy(y))
    expected = fitted(L(), rows, y)
    assert list(model.classes_) == ["a", "b", "c"] and model.coef_.shape == (3, P)
    assert_allclose(model.coef_, expected.coef_, rtol=1e-6, atol=1e-9)


def test_dsk_09_intercept_is_not_penalised(scheduler):
    """Of a constant model the log-odds. (DSK-09)"""
    y = np.tile([0, 1, 1, 1], 25)
    model = fitted(L(C=1e-3), da.zeros((100, 1), chunks=(30, 1)), da.from_array(y, chunks=30))
    assert_allclose(model.intercept_, np.log(3), rtol=1e-6)


def test_dsk_11_score_reads_chunk_by_chunk(scheduler):
    """A chunk at a time is in memory: each exists when the one before is gone. (DSK-11)"""
    model = R().fit(X, SCORE)
    rows = da.concatenate([lazy(X)] * 3)
    y = da.concatenate([lazy(SCORE)] * 3)
    assert_allclose(model.score(rows, y), model.score(X, SCORE), rtol=1e-12)
    assert_allclose(model.score(rows, y.compute()), model.score(X, SCORE), rtol=1e-12)
    two = R().fit(X, TARGETS["two"])
    assert_allclose(two.score(lazy(X), lazy(TARGETS["two"])), two.score(X, TARGETS["two"]), rtol=1e-12)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.score(lazy(X), SCORE[:-1])


# -- streams


@pytest.mark.parametrize(
    "model",
    [R(random_state=0), L(random_state=0), GDSVC(random_state=0), GDMLPClassifier((5,), random_state=0)],
)
def test_partial_fit_visits_the_chunks(client, model):
    """Each row once; one seed gives the same bits with and without a cluster, and calls differ in order."""
    y = SCORE if isinstance(model, R) else TARGETS["text"]
    classes = {} if isinstance(model, R) else {"classes": np.unique(y)}
    weights = np.where(np.arange(N) < 300, 0.0, 1.0)

    def run():
        stream = clone(model)
        for _ in range(2):
            stream.partial_fit(lazy(X / 100), lazy(y), sample_weight=lazy(weights), **classes)
        return stream

    with dask.config.set(scheduler="sync"):
        expected = run()
    with client.as_current():
        found = run()
    assert 2 * 600 <= expected.t_ <= 2 * N  # rows of no weight need not count
    assert_array_equal(found.predict(X), expected.predict(X))
    assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=0)
    assert_array_equal(found.predict(lazy(X)).compute(), expected.predict(X))
    assert_allclose(found.score(lazy(X), lazy(y)), found.score(X, y), rtol=1e-12)
    before = pickle.dumps(found.loss_curve_)
    with dask.config.set(scheduler="sync"), pytest.raises(ValueError, match=r"block \d: .*NaN"):
        found.partial_fit(with_nan(slice(None)), lazy(y))
    assert pickle.dumps(found.loss_curve_) == before


def test_dsk_06_sorted_labels():
    """Rows sorted by label in ten chunks teach nearly what shuffled ones do, reproducibly. (DSK-06)"""
    rows, y = make_classification(5000, 10, n_informative=6, n_classes=3, random_state=0)
    order = np.argsort(y, kind="stable")

    def accuracy(order):
        model = L(random_state=0)
        with dask.config.set(scheduler="sync"):
            for _ in range(3):
                chunks = da.from_array(rows[order], chunks=(500, -1)), da.from_array(y[order], chunks=500)
                model.partial_fit(*chunks, classes=[0, 1, 2])
        return model.score(rows, y)

    found = accuracy(order)
    assert found > accuracy(np.random.default_rng(0).permutation(5000)) - 0.02
    assert accuracy(order) == found


# -- parameters that visit the chunks: mini-batches of linear models

STOCHASTIC = {
    "sgd": (L(solver="sgd", tol=1e-2), "bool"),
    "softmax": (L(solver="sgd", max_iter=4, class_weight={"a": 2.0, "b": 1.0, "c": 0.5}), "text"),
    "l1": (R(solver="sgd", alpha=0.02, l1_ratio=1.0, max_iter=4), "number"),
    "margin": (GDSVC(solver="sgd", loss="squared_hinge", max_iter=4), "bool"),
    "adam": (R(solver="adam", alpha=0.1, max_iter=4), "number"),
    "plain": (L(solver="adam", learning_rate=0.01, batch_size=7, average=True, max_iter=3), "bool"),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", STOCHASTIC)
def test_mini_batches_visit_the_chunks(client, monkeypatch, name):
    """The same bits from a file in the same blocks, from chunks in this process and on a cluster."""
    (model, target), s = STOCHASTIC[name], np.round(WEIGHT, 1)
    model, y = clone(model).set_params(random_state=0), TARGETS[target]
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * P * 150)
    expected = bits(model.fit(Foreign(EVEN), y, s))
    chunks = [da.from_array(values, chunks=(150, *values.shape[1:])) for values in (EVEN, y, s)]
    with dask.config.set(scheduler="sync"):
        assert bits(model.fit(*chunks)) == expected
    with client.as_current():
        assert bits(model.fit(*chunks)) == expected
    if name == "sgd":
        optimum = clone(model).set_params(solver="auto", tol=1e-6).fit(EVEN, y, s).loss_curve_[-1]
        assert model.optimality_ <= model.tol and model.loss_curve_[-1] < optimum * (1 + 1e-3)


# -- networks


NETWORKS = {
    "adam": ({"max_iter": 2, "class_weight": {"a": 2.0, "b": 1.0, "c": 0.5}}, 0),
    "lbfgs": ({"solver": "lbfgs", "alpha": 10.0, "max_iter": 6}, 1e-9),
    "in order": ({"max_iter": 2, "shuffle": False, "solver": "sgd", "learning_rate": "invscaling"}, 0),
    "large": ({"max_iter": 1, "hidden_layer_sizes": (250, 250), "batch_size": 400, "dropout": 0.1}, 0),
}


def network(**params):
    return GDMLPClassifier(**{"hidden_layer_sizes": (5,), "random_state": 0, **params})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_visit_the_chunks(client, name):
    """The same bits with and without a cluster; every row that counts takes part once in an epoch."""
    (params, accuracy), y = NETWORKS[name], TARGETS["text"]
    weights = np.where(np.arange(N) < 300, 0.0, WEIGHT)
    models = [network(**params), network(**params)]
    with dask.config.set(scheduler="sync"):
        models[0].fit(lazy(EVEN), lazy(y), lazy(weights))
    with client.as_current():
        models[1].fit(lazy(EVEN), lazy(y), lazy(weights))
    for a, b in zip(*(model.coefs_ + model.intercepts_ for model in models)):
        assert_array_equal(a, b)
    local = network(**params).fit(EVEN, y, weights)
    assert models[1].t_ == local.t_ and models[1].classes_.tolist() == local.classes_.tolist()
    if accuracy:
        assert_allclose(models[1].loss_curve_[-1], local.loss_curve_[-1], rtol=accuracy)
    assert_array_equal(models[1].predict(lazy(EVEN)).compute(), models[1].predict(EVEN))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_dsk_06_networks_on_sorted_labels():
    """Rows sorted by label in ten chunks teach a network nearly what it learns in memory. (DSK-06)"""
    rows, y = make_classification(5000, 10, n_informative=6, n_classes=3, random_state=0)
    order, model = np.argsort(y, kind="stable"), network(hidden_layer_sizes=(20,), max_iter=10)
    local = clone(model).fit(rows, y).score(rows, y)
    with dask.config.set(scheduler="sync"):
        model.fit(da.from_array(rows[order], chunks=(500, -1)), da.from_array(y[order], chunks=500))
    assert model.score(rows, y) > local - 0.02


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_networks_go_on(scheduler):
    """Epochs in two fits are those of one, to the bit; held-out rows are given."""
    y, val = TARGETS["bool"], (EVEN[:100], TARGETS["bool"][:100])
    whole, halves = network(max_iter=4), network(max_iter=2, warm_start=True)
    whole.fit(lazy(EVEN), lazy(y), X_val=val[0], y_val=val[1])
    for _ in range(2):
        halves.fit(lazy(EVEN), lazy(y), X_val=val[0], y_val=val[1])
    assert_array_equal(whole.coefs_[0], halves.coefs_[0])
    assert whole.loss_curve_ == halves.loss_curve_ and len(whole.validation_scores_) == 4
    halves.partial_fit(lazy(EVEN), lazy(y))


# -- what is refused, and how


def with_nan(where):
    """Rows with a hole."""
    rows = X.copy()
    rows[where, 1] = np.nan
    return lazy(rows)


def wide(part, block_id):
    """The second chunk has a column that was not announced."""
    return np.hstack([part, part[:, :1]]) if block_id[0] == 1 else part


LABELS = SCORE > 0
WRONG = {
    "NaN": (L(), lambda: with_nan(700), LABELS, {}, ValueError, "NaN or infinity in block 2"),
    "huge": (L(), lambda: lazy(X * 1e200), LABELS, {}, ValueError, r"block \d: .*too large"),
    "width": (
        L(), lambda: lazy(X).rechunk({1: -1}).map_blocks(wide, meta=X[:0], dtype=float), LABELS, {},
        ValueError, r"block 1 of X has shape \(400, 7\), but X has 6 columns",
    ),
    "rows": (L(), lambda: lazy(X), LABELS[:-1], {}, ValueError, "inconsistent numbers of samples"),
    "one class": (L(), lambda: lazy(X), np.zeros(N), {}, ValueError, "only one class"),
    "continuous": (L(), lambda: lazy(X), SCORE, {}, ValueError, "Unknown label type"),
    "NaN in y": (R(), lambda: lazy(X), np.where(SCORE > 2, np.nan, 0), {}, ValueError, "y contains NaN"),
    "domain": (R(loss="gamma"), lambda: lazy(X), SCORE, {}, ValueError, "gamma"),
    "negative weight": (
        L(), lambda: lazy(X), LABELS, {"sample_weight": -WEIGHT}, ValueError, "[Nn]egative .*weight",
    ),
    "zero weights": (
        L(), lambda: lazy(X), LABELS, {"sample_weight": 0 * WEIGHT}, ValueError, "all samples have zero",
    ),
    "text": (R(), lambda: lazy(X.astype(str)), SCORE, {}, TypeError, "not numeric"),
    "one dimension": (R(), lambda: lazy(SCORE), SCORE, {}, ValueError, "Reshape your data"),
    "no rows": (R(), lambda: lazy(X)[:0], SCORE[:0], {}, ValueError, "0 sample"),
    "early stopping": (L(early_stopping=True), lambda: lazy(X), LABELS, {}, ValueError, "X_val"),
    "validation rows": (
        L(), lambda: lazy(X), LABELS, {"X_val": lazy(X), "y_val": LABELS}, TypeError, "in memory",
    ),
    "network, early stopping": (
        GDMLPClassifier(early_stopping=True), lambda: lazy(X), LABELS, {}, ValueError, "X_val",
    ),
    "network, preset": (
        GDMLPClassifier(preset="tuned"), lambda: lazy(X), LABELS, {}, TypeError, "in memory",
    ),
    "network, several labels": (
        GDMLPClassifier(), lambda: lazy(X), np.eye(2, dtype=int)[LABELS * 1], {}, TypeError, "partial_fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors(scheduler, name):
    """They say what is wrong, in which block, and leave a fitted model as it was."""
    model, make, y, kwargs, error, message = WRONG[name]
    model = clone(model)
    if not isinstance(model, GDMLPClassifier):
        model.fit(X[:, :2], np.arange(N) % 3 + 1)
    before = pickle.dumps(vars(model))
    with pytest.raises(error, match=message):
        model.fit(make(), lazy(y) if len(y) == N else y, **kwargs)
    assert pickle.dumps(vars(model)) == before


def test_a_solver_that_needs_the_rows(cluster):
    """It is refused in a sentence which names those that work, and where the rows are here it works."""
    with pytest.raises(ValueError, match="on a cluster. Solvers that can: 'auto', .*'newton'.*'sgd', 'adam'"):
        L(solver="saga").fit(lazy(X), lazy(LABELS))
    with dask.config.set(scheduler="threads"):
        L(solver="saga", tol=0.1, random_state=0).fit(lazy(X), lazy(LABELS))


# -- what may happen to a cluster


@pytest.fixture
def processes():
    """Two workers that are processes of their own."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def after(monkeypatch, n_passes, action):
    """Let something happen between two passes."""
    from skbigmodel.cluster import Groups

    count, reduce = [0], Groups.reduce

    def disturbed(self, *args):
        count[0] += 1
        if count[0] == n_passes:
            action()
        return reduce(self, *args)

    monkeypatch.setattr(Groups, "reduce", disturbed)
    return count


def test_a_worker_is_killed(processes, monkeypatch):
    """Its rows are made anew elsewhere, and the result is the same to the bit."""
    rows = da.from_array(X, chunks=(250, -1))
    model = L(solver="newton-cg", tol=1e-9)
    expected = bits(model.fit(rows, lazy(LABELS)))
    hinge = GDSVC()  # whose state has parts by the blocks
    of_hinge = bits(hinge.fit(rows, lazy(LABELS)))
    for model, expected, n_passes in ((model, expected, 4), (hinge, of_hinge, 30)):
        victims = processes.run(os.getpid)

        def kill(pid=next(iter(victims.values()))):
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)

        count = after(monkeypatch, n_passes, kill)
        assert bits(model.fit(rows, lazy(LABELS))) == expected
        assert count[0] > n_passes and set(processes.run(os.getpid).values()) != set(victims.values())
        monkeypatch.undo()


def test_the_client_is_closed(monkeypatch):
    """An error that says what to do; the model of before is still there."""
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        model = L().fit(lazy(X), lazy(LABELS))
        before = bits(model)
        after(monkeypatch, 2, client.close)
        with pytest.raises(ConnectionError, match="connect a Client"):
            model.fit(lazy(X), lazy(~LABELS))
        assert bits(model) == before


def test_search_on_a_cluster(cluster):
    """GridSearchCV under joblib's Dask backend finds what it finds without."""
    rows, y = make_classification(200, 5, random_state=0)
    search = GridSearchCV(L(), {"C": [0.01, 1.0, 100.0]}, cv=3)
    expected = clone(search).fit(rows, y)
    with joblib.parallel_config("dask", wait_for_workers_timeout=20):
        found = search.fit(rows, y)
    assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    assert_array_equal(found.best_estimator_.coef_, expected.best_estimator_.coef_)


def test_dsk_10_threads_of_dask(scheduler, monkeypatch):
    """On many threads of Dask, results are the same and ours are no more than processors. (DSK-10)"""
    monkeypatch.setattr(threads, "_POOL", threads._Pool())
    monkeypatch.setattr(blocks, "THREAD_ENTRIES", 0)
    model = L(random_state=0).fit(X, TARGETS["text"])
    rows, labels = (np.tile(v, (8, 1)[: v.ndim]) for v in (X, TARGETS["text"]))
    lazily = da.from_array(rows, chunks=(900, -1)), da.from_array(labels, chunks=900)
    assert_array_equal(model.predict(lazily[0]).compute(), np.tile(model.predict(X), 8))
    streams = [
        L(random_state=0, n_jobs=n_jobs).partial_fit(*lazily, classes=["a", "b", "c"]) for n_jobs in (None, 1)
    ]
    assert bits(streams[0]) == bits(streams[1])
    assert threads._POOL._size < joblib.cpu_count()  # the caller's is one more


def test_no_optimum(scheduler):
    """Separable classes without a penalty: told as in memory."""
    with pytest.warns(ConvergenceWarning, match="told apart"):
        L(C=np.inf).fit(lazy(X), lazy(X[:, 0] > 0))
