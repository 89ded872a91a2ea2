"""The same model from every kind of source: in memory, or read block by block from elsewhere."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_blocks import Foreign

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, GDMLPClassifier, slices

MODELS = {
    "least squares": (GDLinearRegressor(), "target"),
    "huber": (GDLinearRegressor(loss="huber", alpha=0.01), "target"),
    "quantile": (GDLinearRegressor(loss="quantile"), "target"),
    "lasso": (GDLinearRegressor(alpha=0.01, l1_ratio=1.0), "target"),
    "several targets": (GDLinearRegressor(alpha=0.1), "targets"),
    "logistic": (GDLogisticClassifier(), "sides"),
    "logistic, cg": (GDLogisticClassifier(solver="newton-cg"), "sides"),
    "logistic, l1": (GDLogisticClassifier(l1_ratio=1.0), "sides"),
    "multinomial": (GDLogisticClassifier(C=0.1), "classes"),
    "multinomial, lbfgs": (GDLogisticClassifier(C=0.1, solver="lbfgs"), "classes"),
    "multinomial, l1": (GDLogisticClassifier(C=0.1, l1_ratio=1.0), "classes"),
    "network": (GDMLPClassifier((5,), max_iter=3, random_state=0), "classes"),
}


@pytest.fixture(scope="module")
def table():
    """Small whole numbers, which every dtype holds exactly, and targets of each kind."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 9, size=(400, 6))
    z = X - 4.0
    noise = rng.normal(size=(400, 3))
    raw = z[:, :3] + 3 * noise
    return X, {
        "target": raw[:, 0],
        "targets": raw[:, :2],
        "sides": np.where(raw[:, 0] > 0, "yes", "no"),
        "classes": np.array(["a", "b", "c"])[raw.argmax(axis=1)],
    }


def fitted(name, X, targets):
    """The model fitted, and its coefficients in one array."""
    model, kind = MODELS[name]
    model = model.__class__(**{**model.get_params(), "tol": model.tol * 1e-6})
    with warnings.catch_warnings():
        if name == "network":
            warnings.simplefilter("ignore")
        model.fit(X, targets[kind])
    parts = model.coefs_ + model.intercepts_ if name == "network" else [model.coef_, model.intercept_]
    return model, np.concatenate([np.ravel(part) for part in parts])


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "f2", ">f4", ">f8", "f8"])
@pytest.mark.parametrize("name", MODELS)
def test_memmaps(name, dtype, table, tmp_path, monkeypatch):
    """Whatever type and order a file has."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 6 * 150)  # three blocks
    X, targets = table
    mapped = np.memmap(tmp_path / "X", dtype, "w+", shape=X.shape, order="F")
    mapped[:] = X
    # the batches of a network are drawn within blocks
    in_memory = Foreign(X.astype("f8")) if name == "network" else X.astype("f8")
    single = np.dtype(dtype).itemsize == 4 and np.dtype(dtype).kind == "f"
    tolerance = 2e-6 if single else 1e-8  # the coefficients are float32 then
    model, result = fitted(name, mapped, targets)
    assert_allclose(result, fitted(name, in_memory, targets)[1], rtol=tolerance, atol=tolerance)
    seen, known = model.predict(mapped), model.predict(X.astype("f4" if single else "f8"))
    if seen.dtype.kind == "f":
        assert_allclose(seen, known, atol=tolerance)
    else:
        assert_array_equal(seen, known)


@pytest.mark.parametrize("name", MODELS)
def test_foreign_arrays(name, table, tmp_path, monkeypatch):
    """Sources with the same blocks: the same coefficients, bit for bit."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 6 * 150)
    X, targets = table
    mapped = np.memmap(tmp_path / "X", "f8", "w+", shape=X.shape, order="F")
    mapped[:] = X
    assert_array_equal(fitted(name, Foreign(X), targets)[1], fitted(name, mapped, targets)[1])
