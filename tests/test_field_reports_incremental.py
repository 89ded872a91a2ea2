"""Field reports INC: announced classes, unknown labels, warm starts, batch widths, passes, balance."""

import copy
import pickle

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from skbigmodel import GDLinearRegressor, GDLogisticClassifier

STREAM_SOLVERS = ["sgd", "adam", "saga"]


@pytest.fixture(params=STREAM_SOLVERS)
def stream_solver(request):
    """Every solver of partial_fit in turn."""
    return request.param


def raises_unchanged(model, call, match):
    """The call raises, and leaves every attribute of the model as it was."""
    before = joblib.hash(vars(model))
    with pytest.raises(ValueError, match=match):
        call()
    assert joblib.hash(vars(model)) == before


def parameters(model):
    """All that a linear model has learnt."""
    return np.append(np.ravel(model.coef_), model.intercept_)


def ill_conditioned(case, n=500, d=50):
    """Columns of spreads 1 to 1e3."""
    X, y = case.data(n=n, d=d)
    return X * np.logspace(0, 3, d), y


def test_inc_01_a_class_announced_but_not_seen(stream_solver):
    """INC-01: four classes announced, three seen, then the fourth: four columns throughout."""
    X, y = np.random.default_rng(0).standard_normal((4, 2)), np.array(list("abcd"))
    model = GDLogisticClassifier(solver=stream_solver, random_state=0)
    model.partial_fit(X[:3], y[:3], classes=list("abcd"))
    assert model.predict_proba(X).shape == (4, 4)
    before = model.predict_proba(X[3:])[0, 3]
    model.partial_fit(X[3:], y[3:])
    assert model.classes_.tolist() == list("abcd")
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
    assert model.predict_proba(X[3:])[0, 3] > before


def test_inc_01_a_first_batch_of_one_class(classifier, stream_solver):
    """INC-01: the first batch may hold one class only; then the other is learnt."""
    X, y = classifier.data(n=200)
    model = classifier.make(solver=stream_solver, random_state=0)
    model.partial_fit(X[y == 1], y[y == 1], classes=[0, 1])
    assert_array_equal(model.classes_, [0, 1])
    for _ in range(20):
        model.partial_fit(X, y)
    assert model.score(X, y) > classifier().fit(X, y).score(X, y) - 0.03


def test_inc_01_the_first_call_needs_the_classes(classifier):
    """INC-01: without classes the first call is an error that asks for them."""
    X, y = classifier.data()
    model = classifier.make()
    raises_unchanged(model, lambda: model.partial_fit(X, y), "classes")


def test_inc_02_an_unknown_label(classifier, stream_solver):
    """INC-02: the error lists the label, the model is as before, and goes on as if nothing had happened."""
    X, y = classifier.data()
    y = y + 5
    model = classifier.make(solver=stream_solver, random_state=0).partial_fit(X, y, classes=[5, 6])
    undisturbed = copy.deepcopy(model).partial_fit(X, y)
    raises_unchanged(model, lambda: model.partial_fit(X, np.where(y == 5, 5, 8)), "8")
    raises_unchanged(model, lambda: model.partial_fit(X, y, classes=[5, 6, 8]), "8")
    assert_array_equal(model.partial_fit(X, y, classes=[5, 6]).coef_, undisturbed.coef_)


def test_inc_02_a_failed_first_call_leaves_no_trace(classifier):
    """INC-02: an unknown label in the very first batch, then the right one."""
    X, y = classifier.data()
    model = classifier.make(random_state=0)
    raises_unchanged(model, lambda: model.partial_fit(X, y + 1, classes=[0, 1]), "2")
    fresh = classifier.make(random_state=0).partial_fit(X, y, classes=[0, 1])
    assert_array_equal(model.partial_fit(X, y, classes=[0, 1]).coef_, fresh.coef_)


def test_inc_05_a_warm_fit_stays_at_the_optimum(case, solver):
    """INC-05: a warm fit from a converged point raises the loss by no more than tol."""
    X, y = case.data()
    model = case(solver=solver, warm_start=True, random_state=0, tol=1e-6).fit(X, y)
    first = model.loss_curve_[-1]
    assert model.fit(X, y).loss_curve_[-1] <= first + 1e-6
    assert_allclose(model.coef_, case.optimum(solver).fit(X, y).coef_, atol=1e-4)


def test_inc_05_partial_fit_does_not_leave_the_optimum(case, stream_solver):
    """INC-05: passes over the same data lead to the optimum and stay near it."""
    X, y = case.data(n=300)
    best = case(solver="newton-cg", **case.free).fit(X, y)
    model = case.make(solver=stream_solver, random_state=0, **case.free)
    for _ in range(200):
        model.partial_fit(X, y, **case.classes(y))
    assert_allclose(parameters(model), parameters(best), atol=0.1)


@pytest.mark.parametrize("labels", [[0, 1], [0, 2], [0, 1, 2, 3], ["a", "b", "c"]])
def test_inc_07_another_label_set_in_a_warm_fit(classifier, labels):
    """INC-07: an error that shows old and new classes, and an unchanged model."""
    X, y = classifier.data(n=90, n_classes=3)
    model = classifier.make(warm_start=True).fit(X, y)
    names = np.array(labels)[np.arange(90) % len(labels)]
    old, new = "0.*1.*2", ".*".join(map(str, labels))
    raises_unchanged(model, lambda: model.fit(X, names), f"{old}.*{new}|{new}.*{old}")
    assert model.set_params(warm_start=False).fit(X, names).classes_.tolist() == labels


@pytest.mark.parametrize("width", [3, 5])
def test_inc_11_batches_of_another_width(case, layout, width):
    """INC-11: 3 or 5 columns after 4 are an error that names both numbers; nothing is learnt from them."""
    X, y = case.data()
    model = case.make(random_state=0).partial_fit(layout(X), y, **case.classes(y))
    other = layout(np.ones((60, width)))
    raises_unchanged(model, lambda: model.partial_fit(other, y), f"{width} features.*4 features")
    raises_unchanged(model, lambda: model.predict(other), f"{width} features.*4 features")


def test_inc_11_renamed_columns(case, pandas):
    """INC-11: a frame of other names is an error, as in predict."""
    X, y = case.data()
    model = case.make(random_state=0)
    model.partial_fit(pandas.DataFrame(X, columns=list("abcd")), y, **case.classes(y))
    renamed = pandas.DataFrame(X, columns=list("abxd"))
    raises_unchanged(model, lambda: model.partial_fit(renamed, y), "feature names")


def test_inc_12_a_pass_is_a_gradient_step_for_a_full_batch(case):
    """INC-12: one call is one pass: with the whole batch at once, k calls are k steps of gradient descent."""
    X, y = case.data()
    stream = case.make(solver="sgd", batch_size=60, learning_rate=0.1, random_state=0, **case.free)
    for _ in range(7):
        stream.partial_fit(X, y, **case.classes(y))
    descent = case.make(solver="gd", learning_rate=0.1, max_iter=7, tol=0, **case.free)
    with pytest.warns(ConvergenceWarning):
        descent.fit(X, y)
    assert_allclose(parameters(stream), parameters(descent), rtol=1e-10)


def test_inc_12_the_penalty_of_alpha_is_the_same_in_every_pass():
    """INC-12: alpha belongs to the mean loss, so k calls are k steps with a penalty, too."""
    X, y = np.random.default_rng(0).standard_normal((60, 3)), np.arange(60.0)
    stream = GDLinearRegressor(alpha=0.5, solver="sgd", batch_size=60, learning_rate=0.1, random_state=0)
    theta, A = np.zeros(4), np.column_stack([X, np.ones(60)])
    for _ in range(7):
        stream.partial_fit(X, y)
        theta -= 0.1 * (A.T @ (A @ theta - y) / 60 + 0.5 * np.append(theta[:3], 0))
    assert_allclose(parameters(stream), theta, rtol=1e-10)


def test_inc_12_the_penalty_of_c_is_spread_over_the_rows_seen():
    """INC-12: C belongs to the sum of the losses: call j weighs the penalty against the rows of j calls."""
    X, y = np.random.default_rng(0).standard_normal((60, 3)), np.arange(60) % 2
    stream = GDLogisticClassifier(C=0.1, solver="sgd", batch_size=60, learning_rate=0.1, random_state=0)
    theta, A = np.zeros(4), np.column_stack([X, np.ones(60)])
    for call in range(1, 8):
        stream.partial_fit(X, y, classes=[0, 1])
        theta -= 0.1 * (A.T @ (expit(A @ theta) - y) / 60 + np.append(theta[:3], 0) / (0.1 * 60 * call))
    assert_allclose(parameters(stream), theta, rtol=1e-10)


def test_inc_12_interrupted_by_a_pickle(case, stream_solver):
    """INC-12: the clock, the seeds and the moments travel in a pickle between any two calls."""
    X, y = case.data(n=500)
    whole = case.make(solver=stream_solver, batch_size=32, random_state=0)
    parts = case.make(solver=stream_solver, batch_size=32, random_state=0)
    for _ in range(10):
        whole.partial_fit(X, y, **case.classes(y))
        parts = pickle.loads(pickle.dumps(parts.partial_fit(X, y, **case.classes(y))))
    assert_array_equal(parameters(parts), parameters(whole))


def test_inc_12_partial_fit_goes_on_from_fit(case):
    """INC-12: partial_fit after fit starts at the fitted model: a pass does not undo it."""
    X, y = case.data(n=300)
    model = case(random_state=0).fit(X, y)
    best = model.loss_curve_[-1]
    before = parameters(model)
    model.partial_fit(X, y)
    assert_allclose(parameters(model), before, atol=0.2)
    assert case(init="zeros", warm_start=True).fit(X, y).loss_curve_[-1] <= best + 1e-9


@pytest.mark.parametrize("solver", ["gd", "nesterov", "lbfgs", "saga", "sgd"])
def test_inc_13_more_iterations(case, solver):
    """INC-13: three more warm iterations start at the last loss and do not end above it."""
    X, y = ill_conditioned(case)
    model = case.make(solver=solver, max_iter=3, tol=1e-13, warm_start=True, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    cold, first = list(model.loss_curve_), model.loss_curve_[-1]
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    assert model.loss_curve_[-1] <= first
    assert model.loss_curve_[0] < cold[0]


def test_inc_13_three_and_three_are_six(case):
    """INC-13: plain steps of a given size, stopped and gone on with, are those of one longer fit."""
    X, y = case.data()
    params = {"solver": "gd", "learning_rate": 0.1, "tol": 0}
    halves, whole = case.make(max_iter=3, warm_start=True, **params), case.make(max_iter=6, **params)
    for model in (halves, halves, whole):
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y)
    assert_allclose(parameters(halves), parameters(whole), rtol=1e-12)


@pytest.mark.parametrize("solver", ["gd", "nesterov", "saga"])
def test_inc_13_a_path_of_penalties(solver):
    """INC-13: ten penalties one after the other take clearly fewer iterations warm than cold."""
    X, y = np.random.default_rng(0).standard_normal((200, 10)), np.arange(200) % 2
    X[:, 0] += y

    def total(warm_start):
        model = GDLogisticClassifier(solver=solver, warm_start=warm_start, max_iter=100_000, random_state=0)
        return sum(model.set_params(C=C).fit(X, y).n_iter_[0] for C in np.logspace(-1, 1, 10))

    assert total(warm_start=True) < 0.8 * total(warm_start=False)


def test_inc_13_warm_start_is_a_start(case):
    """INC-13: coef_init and warm_start begin at the same point."""
    X, y = case.data()
    other = case(**({"alpha": 0.5} if case.kind == "regressor" else {"C": 0.2})).fit(X, y)
    given = case().fit(X, y, coef_init=other.coef_, intercept_init=other.intercept_)
    params = {"warm_start": True, **({"alpha": 0.1} if case.kind == "regressor" else {"C": 1.0})}
    warm = other.set_params(**params).fit(X, y)
    assert_array_equal(warm.loss_curve_, given.loss_curve_)
    assert_array_equal(parameters(warm), parameters(given))


def test_inc_14_balanced_streams(classifier, stream_solver):
    """INC-14: 'balanced' in partial_fit is the running n / (K n_k), after each batch's rows are counted."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((1000, 3)), (rng.random(1000) < 0.05).astype(int)
    X[:, 0] += y
    model = classifier.make(solver=stream_solver, class_weight="balanced", random_state=0)
    by_hand = classifier.make(solver=stream_solver, random_state=0)
    for stop in range(100, 1001, 100):
        batch = slice(stop - 100, stop)
        counts = np.bincount(y[:stop], minlength=2)
        model.partial_fit(X[batch], y[batch], classes=[0, 1])
        weight = (stop / (2 * np.maximum(counts, 1)))[y[batch]]
        by_hand.partial_fit(X[batch], y[batch], classes=[0, 1], sample_weight=weight)
    assert_allclose(parameters(model), parameters(by_hand), rtol=1e-10)


def test_fea_01_scaling_and_training_on_a_stream():
    """FEA-01: a scaler and a model fed chunk by chunk stay close to the model of all the data."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 3)) * [1e-3, 1, 1e3] + [0, 5, 1e4]
    y = (X @ [1e3, 1.0, -1e-3] + 5 + rng.standard_normal(2000) > 0).astype(int)
    scaler, model = StandardScaler(), GDLogisticClassifier(random_state=0)
    for start in range(0, 2000, 200):
        chunk = slice(start, start + 200)
        model.partial_fit(scaler.partial_fit(X[chunk]).transform(X[chunk]), y[chunk], classes=[0, 1])
    whole = GDLogisticClassifier().fit(scaler.transform(X), y)
    assert model.score(scaler.transform(X), y) > whole.score(scaler.transform(X), y) - 0.02


def test_mlp_05_partial_fit_after_early_stopping(case):
    """MLP-05: fit with early stopping leaves nothing behind that trips partial_fit, in either order."""
    X, y = case.data(n=200)
    params = {"early_stopping": True, "random_state": 0, "max_iter": 1000}
    model = case.make(**params).fit(X, y)
    fitted, score = model.coef_, model.score(X, y)
    assert model.partial_fit(X, y).score(X, y) > score - 0.1
    other = case.make(**params).partial_fit(X, y, **case.classes(y))
    assert_array_equal(other.fit(X, y).coef_, fitted)


def test_inc_regressor_needs_no_classes():
    """INC-12: a regressor's stream finds the line, pass after pass."""
    X = np.linspace(-1, 1, 50)[:, None]
    model = GDLinearRegressor(random_state=0)
    for _ in range(200):
        model.partial_fit(X, 2 * X[:, 0] + 1)
    assert_allclose([model.coef_[0], model.intercept_], [2, 1], atol=1e-2)
