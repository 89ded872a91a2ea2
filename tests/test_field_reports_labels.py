"""Field reports LAB and MLP-03: label types, one class, column vectors, lists, thresholds."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.exceptions import DataConversionWarning, FitFailedWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from skbigmodel import GDLinearRegressor, GDLogisticClassifier

# labels of two classes, as users have them, made from 0/1
LABELS = {
    "int64": lambda y: y.astype(np.int64) + 5,
    "int8": lambda y: y.astype(np.int8) - 1,
    "bool": lambda y: y.astype(bool),
    "float": lambda y: y.astype(np.float64),
    "str": lambda y: np.array(["no", "yes"])[y],
    "object": lambda y: np.array(["no", "yes"], dtype=object)[y],
}
COLUMNS = {"array": lambda y: y[:, None], "lists": lambda y: y[:, None].tolist()}


@pytest.fixture(params=LABELS)
def label(request):
    """A function from 0/1 to each kind of label in turn."""
    return LABELS[request.param]


def test_lab_01_multinomial_probabilities_are_a_softmax():
    """LAB-01: softmax of the decision function, and the data term of the reported objective."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 4))
    y = np.argmax(X[:, :3] + rng.standard_normal((120, 3)), axis=1)
    model = GDLogisticClassifier(C=2.0, tol=1e-10).fit(X, y)
    proba = model.predict_proba(X)
    assert_allclose(proba, softmax(model.decision_function(X), axis=1), rtol=0, atol=1e-12)
    penalty = np.sum(model.coef_**2) / 2 / (2.0 * 120)
    assert_allclose(log_loss(y, proba), model.loss_curve_[-1] - penalty, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string", "category"])
def test_lab_03_nullable_labels(classifier, dtype, pandas):
    """LAB-03: pandas' extension types as labels: the classes of the NumPy types."""
    X, y = classifier.data()
    plain = np.array(["no", "yes"])[y] if dtype == "string" else y.astype(bool) if dtype == "boolean" else y
    expected = classifier.make().fit(X, plain)
    model = classifier.make().fit(X, pandas.Series(plain).astype(dtype))
    assert_array_equal(model.predict(X), expected.predict(X))
    assert_array_equal(model.coef_, expected.coef_)


@pytest.mark.parametrize("dtype", ["Float64", "Int64"])
def test_lab_03_nullable_columns(case, dtype, pandas):
    """LAB-03: X of nullable columns is fitted like NumPy's; a missing value is named in the error."""
    X, y = case.data()
    X = np.round(10 * X)
    frame = pandas.DataFrame(X, columns=list("abcd")).astype(dtype)
    model = case.make().fit(frame, y)
    assert_allclose(model.coef_, case.make().fit(X, y).coef_, rtol=1e-12)
    frame.iloc[3, 1] = pandas.NA
    with pytest.raises(ValueError, match="(?i)missing|nan"):
        case.make().fit(frame, y)
    with pytest.raises(ValueError, match="(?i)missing|nan"):
        model.predict(frame)


def test_lab_03_missing_label(classifier, pandas):
    """LAB-03: a missing label is named in the error."""
    X, y = classifier.data()
    series = pandas.Series(y).astype("Int64")
    series[7] = pandas.NA
    with pytest.raises(ValueError, match="(?i)missing|nan"):
        classifier.make().fit(X, series)


def test_lab_05_predicted_labels_have_the_dtype_of_the_classes(classifier, label):
    """LAB-05: predict returns the dtype of classes_, which is that of y, and scorers work."""
    X, y = classifier.data(n=90)
    model = classifier.make().fit(X, label(y))
    assert model.predict(X).dtype == model.classes_.dtype == label(y).dtype
    assert_array_equal(model.classes_, np.unique(label(y)))
    scores = cross_val_score(classifier.make(), X, label(y), scoring="accuracy", cv=3)
    assert_array_equal(scores, cross_val_score(classifier.make(), X, y, scoring="accuracy", cv=3))


@pytest.mark.parametrize("only", [0, "cat"])
def test_lab_06_one_class(classifier, only):
    """LAB-06: one class is an error that says how many were found and which."""
    with pytest.raises(ValueError, match=rf"(?i)\b(1|one)\b.*class.*{only}"):
        classifier.make().fit(np.eye(4), [only] * 4)


def test_lab_06_one_class_in_a_fold(classifier):
    """LAB-06: with sorted labels the fold of one class gets nan, the other folds a score."""
    X, y = classifier.data(n=60)
    y = np.repeat([0, 1], [40, 20])
    with pytest.warns(FitFailedWarning, match="1 fits failed"):
        scores = cross_val_score(classifier.make(), X, y, cv=KFold(3), error_score=np.nan)
    assert_array_equal(np.isnan(scores), [False, False, True])


# the search itself says, too, that a mean score is not finite
@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
def test_lab_06_search_carries_on(classifier):
    """LAB-06: the search reports the failed fold and keeps the scores of the others."""
    X, y = classifier.data(n=60)
    y = np.repeat([0, 1], [40, 20])
    search = GridSearchCV(classifier.make(), {"C": [0.1, 1.0]}, cv=KFold(3), error_score=np.nan)
    with pytest.warns(FitFailedWarning, match="2 fits failed"):
        search.fit(X, y)
    assert np.isfinite(search.cv_results_["split0_test_score"]).all()
    assert np.isnan(search.cv_results_["split2_test_score"]).all()


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_lab_08_column_of_labels(classifier, column):
    """LAB-08: a column vector of labels warns and is fitted like the 1-d labels."""
    X, y = classifier.data()
    expected = classifier.make().fit(X, y)
    with pytest.warns(DataConversionWarning):
        model = classifier.make().fit(X, column(y))
    assert_array_equal(model.coef_, expected.coef_)
    assert model.predict(X).shape == (60,)


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_lab_08_column_of_targets(column):
    """LAB-08: a column vector of targets gives LinearRegression's shapes and the same numbers."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    y = X @ [1.0, 2.0, 3.0] + rng.standard_normal(60)
    expected = GDLinearRegressor().fit(X, y)
    model = GDLinearRegressor().fit(X, column(y))
    assert (model.coef_.shape, model.intercept_.shape, model.predict(X).shape) == ((1, 3), (1,), (60, 1))
    assert_array_equal(model.coef_[0], expected.coef_)
    assert_array_equal(model.predict(X)[:, 0], expected.predict(X))
    assert model.score(X, column(y)) == expected.score(X, y)


def test_lab_08_data_frame_of_one_column(case, pandas):
    """LAB-08: a DataFrame of one column is a column vector like any other."""
    X, y = case.data()
    model = case.make()
    if case.kind == "classifier":
        with pytest.warns(DataConversionWarning):
            model.fit(X, pandas.DataFrame({"y": y}))
    else:
        model.fit(X, pandas.DataFrame({"y": y}))
    assert_array_equal(model.coef_.ravel(), case.make().fit(X, y).coef_.ravel())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_lab_08_no_square_residual(case):
    """LAB-08: no n x n array (3 GB here) arises from a column vector, in fit or in score."""
    X, y = case.data(n=20_000, d=2)
    case.make().fit(X[:100], y[:100, None])  # compiling is not what is measured
    tracemalloc.start()
    try:
        case.make().fit(X, y[:, None]).score(X, y[:, None])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30e6


def test_lab_08_several_columns_of_labels(classifier):
    """LAB-08: two columns of labels are no column vector: an error that shows the shape."""
    X, y = classifier.data()
    with pytest.raises(ValueError, match=r"(?i)\by\b.*(shape|1d|2|multi)"):
        classifier.make().fit(X, np.column_stack([y, y]))


@pytest.mark.parametrize("kind", [list, tuple])
def test_lab_10_plain_python_labels(classifier, label, kind):
    """LAB-10: labels as a list or tuple and X as lists are fitted like arrays."""
    X, y = classifier.data()
    expected = classifier.make().fit(X, label(y))
    model = classifier.make().fit(X.tolist(), kind(label(y).tolist()))
    assert_array_equal(model.coef_, expected.coef_)
    assert_array_equal(model.predict(X.tolist()), expected.predict(X))


def test_lab_10_range_as_target():
    """LAB-10: a range is a target like any other sequence."""
    model = GDLinearRegressor().fit([[0.0], [1.0], [2.0], [3.0]], range(4))
    assert_allclose([model.coef_[0], model.intercept_], [1, 0], atol=1e-12)
    assert_array_equal(GDLogisticClassifier().fit(np.eye(3), range(3)).classes_, [0, 1, 2])


def test_lab_10_series_with_another_index(case, pandas):
    """LAB-10: rows are matched by place: the index of a Series plays no part."""
    X, y = case.data()
    expected = case.make().fit(X, y).coef_
    index = np.random.default_rng(0).permutation(60)
    frame = pandas.DataFrame(X, columns=list("abcd"), index=index[::-1])
    assert_allclose(case.make().fit(frame, pandas.Series(y, index=index)).coef_, expected, rtol=1e-12)


def test_lab_10_categorical(classifier, pandas):
    """LAB-10: a pandas Categorical of strings, with an unused category."""
    X, y = classifier.data()
    names = np.array(["no", "yes"])[y]
    model = classifier.make().fit(X, pandas.Categorical(names, categories=["yes", "never", "no"]))
    assert_array_equal(model.classes_, ["no", "yes"])
    assert_array_equal(model.predict(X), classifier.make().fit(X, names).predict(X))


@pytest.mark.parametrize("labels", [[0, 1], ["no", "yes"]])
def test_lab_11_threshold_is_in_the_space_of_the_score(labels):
    """LAB-11: score 0.337 is probability 0.58: the second label."""
    model = GDLogisticClassifier(C=1.0, fit_intercept=False, tol=1e-10).fit([[-1.0], [1.0]], labels)
    X = np.array([[0.5], [-0.5]])
    assert_allclose(model.coef_, [[0.674832]], atol=5e-7)
    assert_allclose(model.decision_function(X), [0.337416, -0.337416], atol=5e-7)
    assert_allclose(model.predict_proba(X)[0, 1], 0.583563, atol=5e-7)
    assert_array_equal(model.predict(X), labels[::-1])


def test_lab_11_predict_follows_the_score(classifier):
    """LAB-11: predict is classes_[score > 0], also classes_[argmax probability] where there is one."""
    X, y = classifier.data(n=500)
    model = classifier.make().fit(X, y)
    assert_array_equal(model.predict(X), model.classes_[(model.decision_function(X) > 0).astype(int)])
    if hasattr(model, "predict_proba"):
        assert_array_equal(model.predict(X), model.classes_[model.predict_proba(X).argmax(axis=1)])


def test_mlp_03_early_stopping_with_any_labels(classifier, label):
    """MLP-03: early stopping works with every kind of label and gives the scores of integer labels."""
    X, y = classifier.data(n=200)
    params = {"early_stopping": True, "random_state": 0, "max_iter": 1000}
    expected = classifier.make(**params).fit(X, y)
    model = classifier.make(**params).fit(X, label(y))
    assert_array_equal(model.validation_scores_, expected.validation_scores_)
    assert_array_equal(model.coef_, expected.coef_)
