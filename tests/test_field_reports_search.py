"""Field reports CVP: clone, tags, composition, feature names, searches over processes and threads."""

import inspect
import re

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils import get_tags

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, GDSVC


def test_cvp_01_constructor_only_stores(case):
    """CVP-01: every parameter is kept as the very object that was given, whatever its type."""
    for value in ([1, 2], (1, 2), np.arange(3), {"a": 1}, np.random.RandomState(0), None, "x", object()):
        names = [name for name in inspect.signature(case.make).parameters]
        model = case.make(**dict.fromkeys(names, value))
        assert all(model.get_params(deep=False)[name] is value for name in names)
        other = case.make().set_params(**dict.fromkeys(names, value))
        assert all(getattr(other, name) is value for name in names)
        assert set(vars(model)) == set(names)
        assert type(clone(model)) is type(model)


def test_cvp_01_parameters_are_untouched_by_fit(case):
    """CVP-01: fit replaces no parameter, so a fitted model can be cloned and searched over."""
    X, y = case.data()
    model = case.make(random_state=np.random.RandomState(0))
    before = model.get_params()
    model.fit(X, y)
    assert all(model.get_params()[name] is value for name, value in before.items())
    assert_array_equal(clone(model).fit(X, y).coef_, model.coef_)


def test_cvp_02_tags(case):
    """CVP-02: the kind, sparse input, several classes and the required y are told by the tags."""
    model = case.make()
    tags = get_tags(model)
    assert is_classifier(model) == (case.kind == "classifier")
    assert is_regressor(model) == (case.kind == "regressor")
    assert tags.estimator_type == case.kind
    assert tags.input_tags.sparse and tags.input_tags.two_d_array and not tags.input_tags.allow_nan
    assert tags.target_tags.required
    assert case.kind == "regressor" or tags.classifier_tags.multi_class


def test_cvp_02_representations(case):
    """CVP-02: text and HTML, of a model and of a pipeline, fitted or not."""
    X, y = case.data()
    model = case.make(max_iter=77)
    name = type(model).__name__
    assert repr(model) == f"{name}(max_iter=77)"
    with config_context(display="diagram"):
        assert re.search(f"{name}.*max_iter", model._repr_html_(), re.DOTALL)
        assert name in make_pipeline(StandardScaler(), model).fit(X, y)._repr_html_()


def test_cvp_02_pipeline_and_stacking(case):
    """CVP-02: inside a pipeline and a stack, next to and in place of scikit-learn's twin."""
    X, y = case.data(n=200)
    twins = {GDLogisticClassifier: LogisticRegression(tol=1e-10), GDLinearRegressor: Ridge(alpha=0.1 * 200),
             GDSVC: SVC(kernel="linear", tol=1e-10)}  # fmt: skip
    twin = twins[type(case())]
    Stack = StackingClassifier if case.kind == "classifier" else StackingRegressor
    scaled = make_pipeline(StandardScaler(), case()).fit(X, y)
    assert_allclose(scaled[-1].coef_, make_pipeline(StandardScaler(), twin).fit(X, y)[-1].coef_, rtol=1e-5)
    stack = Stack([("ours", case()), ("twin", clone(twin))], final_estimator=case(), cv=3).fit(X, y)
    assert stack.score(X, y) > 0.5
    assert stack.final_estimator_.n_features_in_ == 2


def test_cvp_04_no_spurious_feature_name_warnings(case, pandas):
    """CVP-04: early stopping, a given validation set, partial_fit, score on frames: silent, names kept."""
    X, y = case.data(n=200)
    frame = pandas.DataFrame(X, columns=list("abcd"))
    model = case.make(early_stopping=True, random_state=0, max_iter=1000).fit(frame, y)
    assert model.feature_names_in_.tolist() == list("abcd")
    assert len(model.validation_scores_) >= 1
    model.partial_fit(frame, y)
    assert np.isfinite(model.score(frame, y))
    validated = case.make(early_stopping=True, max_iter=1000)
    validated.fit(frame[:150], y[:150], X_val=frame[150:], y_val=y[150:])
    assert len(validated.validation_scores_) >= 1
    with pytest.warns(UserWarning, match="valid feature names"):  # scikit-learn's own: an array after a frame
        model.predict(X)


def test_cvp_04_wrong_feature_names(case, pandas):
    """CVP-04: names in another order are an error, also in the validation set."""
    X, y = case.data()
    frame = pandas.DataFrame(X, columns=list("abcd"))
    model = case.make().fit(frame, y)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("badc")])
    with pytest.raises(ValueError, match="feature names"):
        case.make(early_stopping=True).fit(frame, y, X_val=frame[list("badc")], y_val=y)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "saga", "sgd"])
def test_cvp_07_scores_do_not_depend_on_the_workers(case, solver):
    """CVP-07: six candidates and a seed: the same bits from one process, two, and threads."""
    X, y = case.data(n=600)
    grid = {"C": [0.1, 1.0, 10.0]} if case.kind == "classifier" else {"alpha": [0.01, 0.1, 1.0]}
    model = case.make(solver=solver, random_state=0, max_iter=1000)
    search = GridSearchCV(model, {**grid, "fit_intercept": [True, False]}, cv=KFold(3))

    def scores():
        results = clone(search).fit(X, y).cv_results_
        return np.array([results[f"split{k}_test_score"] for k in range(3)])

    serial = scores()
    search.set_params(n_jobs=2)
    assert_array_equal(scores(), serial)
    with joblib.parallel_backend("threading"):
        assert_array_equal(scores(), serial)
