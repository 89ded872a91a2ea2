"""Field reports WGT: rows of weight 0, classes of weight 0, inputs left alone, bad weights, class weights."""

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skbigmodel import GDLinearRegressor, GDLogisticClassifier

BAD_WEIGHTS = {
    "negative": np.where(np.arange(60) == 7, -1.0, 1.0),
    "all zero": np.zeros(60),
    "nan": np.where(np.arange(60) == 7, np.nan, 1.0),
    "inf": np.where(np.arange(60) == 7, np.inf, 1.0),
    "short": np.ones(59),
    "column": np.ones((60, 1)),
    "strings": np.array(["heavy"] * 60),
}


def test_wgt_01_weight_zero_is_a_row_left_out(case, solver, layout):
    """WGT-01: 20 wild rows (contradicting targets, X times 1000) of weight 0 do not move the optimum."""
    X, y = case.data(n=60)
    weight = np.random.default_rng(1).uniform(0.5, 2, 60)
    expected = case(solver=solver, random_state=0).fit(layout(X[:40]), y[:40], weight[:40])
    X[40:], y[40:], weight[40:] = 1e3 * X[40:], case.wrong(y[40:]), 0
    model = case(solver=solver, random_state=0).fit(layout(X), y, weight)
    assert_allclose(model.coef_, expected.coef_, rtol=1e-6)
    assert_allclose(model.intercept_, expected.intercept_, rtol=1e-6, atol=1e-7)


def test_wgt_01_integer_weights_are_repetitions(case, layout):
    """WGT-01: the kind's other half: weights 1..3 are rows repeated."""
    X, y = case.data(n=60)
    times = 1 + np.arange(60) % 3
    expected = case().fit(layout(np.repeat(X, times, axis=0)), np.repeat(y, times))
    model = case().fit(layout(X), y, times)
    assert_allclose(model.coef_, expected.coef_, rtol=1e-7)
    assert_allclose(model.intercept_, expected.intercept_, rtol=1e-6, atol=1e-7)


def test_wgt_02_a_class_of_weight_zero_keeps_its_column():
    """WGT-02: without an intercept the optimum exists: 3 classes, 3 columns, everywhere."""
    X = np.random.default_rng(0).standard_normal((6, 2))
    y, weight = np.repeat(["a", "b", "c"], 2), [1, 1, 1, 1, 0, 0]
    model = GDLogisticClassifier(fit_intercept=False).fit(X, y, sample_weight=weight)
    assert model.classes_.tolist() == ["a", "b", "c"]
    assert model.decision_function(X).shape == model.predict_proba(X).shape == (6, 3)
    assert set(model.predict(X)) <= {"a", "b", "c"}


def test_wgt_02_a_class_of_weight_zero_with_an_intercept():
    """WGT-02: a free intercept makes the class improbable; the other two share out as if alone.

    Softmax rows w_a = -w_b carry the penalty of a binary w = 2 w_a at twice the C.
    """
    X = np.random.default_rng(0).standard_normal((6, 2))
    y, weight = np.repeat(["a", "b", "c"], 2), [1, 1, 1, 1, 0, 0]
    model = GDLogisticClassifier().fit(X, y, sample_weight=weight)
    assert model.decision_function(X).shape == (6, 3)
    assert np.all(model.predict_proba(X)[:, 2] < 1e-4)
    pair = GDLogisticClassifier(C=2.0).fit(X[:4], y[:4])
    assert_allclose(2 * model.coef_[1], pair.coef_[0], atol=1e-3)
    assert_allclose(model.coef_[2], 0, atol=1e-4)


@pytest.mark.parametrize(
    "store, dtype",
    [
        (np.array, np.float64),
        (np.array, np.float32),
        (np.asfortranarray, np.float32),
        (sparse.csr_array, np.float64),
        (sparse.csc_array, np.float64),
    ],
)
def test_wgt_05_inputs_are_left_alone(case, solver, store, dtype):
    """WGT-05: X, y, weights and the start point are byte-identical after every method."""
    X, y = case.data(n=40)
    X, weight = store(X.astype(dtype)), np.linspace(0.5, 2, 40)
    start = np.full(case.make().fit(X, y).coef_.shape, 0.1)
    before = joblib.hash([X, y, weight, start])
    tol = 1e-3 if dtype == np.float32 else 1e-6
    model = case(solver=solver, random_state=0, tol=tol)
    model.fit(X, y, weight, coef_init=start, intercept_init=np.array([0.1])).predict(X)
    model.score(X, y, weight)
    case.make(random_state=0).partial_fit(X, y, sample_weight=weight, **case.classes(y))
    assert joblib.hash([X, y, weight, start]) == before


def test_wgt_06_minimum_norm_with_zero_weights():
    """WGT-06: 10x5 with 5 rows of weight 0: no residual on the others, minimum norm after centring."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((10, 5)), rng.standard_normal(10)
    weight = np.repeat([1.0, 0.0], 5)
    expected = np.linalg.lstsq(X[:5] - X[:5].mean(axis=0), y[:5] - y[:5].mean(), rcond=None)[0]
    model = GDLinearRegressor().fit(X, y, weight)
    assert_allclose(model.coef_, expected, atol=1e-8)
    assert_allclose(model.predict(X[:5]), y[:5], atol=1e-8)


def test_wgt_06_unit_weights_choose_no_other_solution(layout):
    """WGT-06: 100x100: weights None and 1 give the same bits, and the minimum-norm solution."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 100)) * (rng.random((100, 100)) < 0.3)
    y = rng.standard_normal(100)
    model = GDLinearRegressor().fit(layout(X), y)
    assert_array_equal(GDLinearRegressor().fit(layout(X), y, np.ones(100)).coef_, model.coef_)
    expected = np.linalg.lstsq(X - X.mean(axis=0), y - y.mean(), rcond=None)[0]
    assert_allclose(model.coef_, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert_allclose(model.predict(X), y, atol=1e-7)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("bad", BAD_WEIGHTS)
def test_wgt_08_bad_weights(case, method, bad):
    """WGT-08: bad weights are an error that names sample_weight and leaves a fitted model as it was."""
    X, y = case.data()
    model = case.make().fit(X, y)
    before = joblib.hash(vars(model))
    with pytest.raises(ValueError, match="sample_weight"):
        getattr(model, method)(X, y, sample_weight=BAD_WEIGHTS[bad])
    assert joblib.hash(vars(model)) == before


@pytest.mark.parametrize("kind", [np.int8, np.float32, list])
def test_wgt_08_weights_of_other_types(case, kind):
    """WGT-08: weights as int8, float32 or a list are those of float64."""
    X, y = case.data()
    weight = 1.0 + np.arange(60) % 3
    other = weight.tolist() if kind is list else weight.astype(kind)
    assert_array_equal(case.make().fit(X, y, other).coef_, case.make().fit(X, y, weight).coef_)


def test_wgt_08_a_number_is_every_rows_weight(case):
    """WGT-08: as in scikit-learn a number is the weight of every row."""
    X, y = case.data()
    assert_array_equal(case.make().fit(X, y, 2.0).coef_, case.make().fit(X, y, np.full(60, 2.0)).coef_)


def test_wgt_09_class_weights_are_sample_weights(classifier):
    """WGT-09: a key for a class that y lacks is ignored; the others weigh the rows of their classes."""
    X, y = classifier.data()
    expected = classifier.make().fit(X, y, sample_weight=1.0 + y)
    model = classifier.make(class_weight={0: 1, 1: 2, 7: 3}).fit(X, y)
    assert_array_equal(model.coef_, expected.coef_)
    balanced = classifier.make(class_weight="balanced").fit(X[:50], y[:50])
    counts = np.bincount(y[:50])
    expected = classifier.make().fit(X[:50], y[:50], sample_weight=(50 / (2 * counts))[y[:50]])
    assert_allclose(balanced.coef_, expected.coef_, rtol=1e-12)


@pytest.mark.parametrize(
    "labels, class_weight, missing",
    [
        (["cat", "dog"], {"dogs": 2, "cat": 1}, "dog"),
        ([0, 1], {"0": 1, "1": 2}, "0"),
    ],
)
def test_wgt_09_misspelt_class(classifier, labels, class_weight, missing):
    """WGT-09: where a key fits no class, a class without weight is an error that names it."""
    X, y = classifier.data()
    with pytest.raises(ValueError, match="class_weight") as error:
        classifier.make(class_weight=class_weight).fit(X, np.array(labels)[y])
    assert missing in str(error.value)
