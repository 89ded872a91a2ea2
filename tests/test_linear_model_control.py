"""How a fit of a linear model begins, goes on and ends: starts, warm starts, thresholds, limits,
validation.
"""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split

from skbigmodel import GDLinearRegressor, GDLogisticClassifier

GD = {"solver": "gd", "learning_rate": 0.05, "tol": 0}
RESUMABLE = ["gd", "nesterov", "lbfgs", "newton", "newton-cg", "cd", "saga", "sgd", "adam"]


def warned(model, *args, match="max_iter", **kwargs):
    with pytest.warns(ConvergenceWarning, match=match):
        return model.fit(*args, **kwargs)


def bits(model):
    return np.append(model.coef_.ravel(), model.intercept_)


# -- starts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_start(case, n_classes):
    """Without an iteration the model is the start that was given; half a start is completed with zeros."""
    X, y = case.data(n_classes=n_classes)
    shape = (1 if n_classes == 2 else 3, 4)
    if case.kind == "regressor":
        shape = (4,)
    coef, intercept = np.arange(np.prod(shape)).reshape(shape) - 5.0, np.arange(1.0, shape[0] + 1)
    intercept = 0.5 if case.kind == "regressor" else intercept - (intercept.mean() if n_classes == 3 else 0.0)
    coef = coef - coef.mean(axis=0) if n_classes == 3 and case.kind == "classifier" else coef
    model = case.make(solver="gd", max_iter=0)
    warned(model, X, y, coef_init=coef, intercept_init=intercept)
    assert_allclose(model.coef_, coef, atol=1e-15)
    assert_allclose(model.intercept_, intercept, atol=1e-15)
    assert_allclose(warned(model, X, y, coef_init=coef).intercept_, 0.0)
    assert_allclose(warned(model, X, y, intercept_init=intercept).coef_, 0.0)
    assert not bits(warned(model, X, y)).any()


def test_random_start(case):
    """Drawn from random_state."""
    X, y = case.data()
    one, same, other = (
        warned(case.make(solver="gd", max_iter=0, init="random", random_state=seed), X, y)
        for seed in (0, 0, 1)
    )
    assert_array_equal(bits(one), bits(same))
    assert bits(one).any() and not np.array_equal(bits(one), bits(other))


@pytest.mark.parametrize(
    "init",
    [{"coef_init": [1.0, 2.0]}, {"coef_init": np.full(4, np.nan)}, {"intercept_init": [1.0, 2.0]}],
    ids=str,
)
def test_bad_starts(case, init):
    """The message names the argument; a fitted model stays as it was."""
    X, y = case.data()
    model = case.make().fit(X, y)
    before = bits(model)
    with pytest.raises(ValueError, match=next(iter(init))):
        model.fit(X, y, **init)
    assert_array_equal(bits(model), before)


# -- warm starts -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("solver", RESUMABLE)
def test_exact_resume(case, solver, n_classes):
    """Fits of 3 and 4 iterations are one of 7, bit for bit, also if a pickle lies between."""
    # it takes no multinomial loss; and where rounding ends one of several problems depends on its start
    if solver == "newton" or solver == "cd" and not case.joint:
        n_classes = 2
    X, y = case.data(n=200, d=6, n_classes=n_classes)
    params = {"solver": solver, "tol": 0, "warm_start": True, "random_state": 0}
    if case.kind == "regressor":
        params["loss"] = "huber"
    if solver in ("newton", "newton-cg", "cd"):
        X = X * np.logspace(0, 3, 6) + 5.0  # so that more than three iterations are needed
    whole = case.make(**params, max_iter=7).fit(X, y)
    halves = case.make(**params, max_iter=3).fit(X, y)
    first = list(halves.loss_curve_)
    assert len(first) == 3 < len(whole.loss_curve_)
    halves = pickle.loads(pickle.dumps(halves)).set_params(max_iter=4).fit(X, y)
    assert first + halves.loss_curve_ == whole.loss_curve_
    assert_array_equal(bits(halves), bits(whole))


def test_warm_start_after_a_change(case):
    """Other data, penalty or weights are another problem: the start is the last model,
    the optimum the new one's.
    """
    X, y = case.data()
    cold = case(warm_start=False).fit(X, case.wrong(y))
    model = case(warm_start=True).fit(X, y).fit(X, case.wrong(y))
    assert_allclose(bits(model), bits(cold), rtol=1e-6, atol=1e-6)
    s = np.linspace(0.1, 2, len(y))
    assert_allclose(bits(model.fit(X, y, s)), bits(case(warm_start=False).fit(X, y, s)), rtol=1e-6, atol=1e-6)


def test_without_warm_start_each_fit_begins_anew(case):
    """The same bits every time, and nothing kept from the fit before."""
    X, y = case.data()
    model = case.make(solver="lbfgs").fit(X, y)
    before = bits(model), model.loss_curve_
    model.fit(X, y)
    assert_array_equal(bits(model), before[0])
    assert model.loss_curve_ == before[1] and not hasattr(model, "_resume")


def test_warm_start_leaves_room_for_a_given_start(case):
    """coef_init goes before what is kept."""
    X, y = case.data()
    model = case.make(warm_start=True, solver="lbfgs").fit(X, y)
    given = np.zeros_like(model.coef_)
    model.set_params(solver="gd", max_iter=0)
    assert not warned(
        model, X, y, coef_init=given, intercept_init=np.zeros_like(model.intercept_)
    ).coef_.any()


# -- ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_loss_threshold(case, share):
    """The fit ends at the first iterate that is low enough, silently."""
    X, y = case.data()
    whole = warned(case.make(**GD, max_iter=60), X, y)
    threshold = (1 - share) * whole.loss_curve_[0] + share * whole.loss_curve_[-1]
    model = case.make(**GD, max_iter=60, loss_threshold=threshold).fit(X, y)
    first = int(np.argmax(np.array(whole.loss_curve_) <= threshold))
    assert model.loss_curve_ == whole.loss_curve_[: first + 1]
    assert_array_equal(bits(model), bits(warned(case.make(**GD, max_iter=first + 1), X, y)))


def test_max_time(case):
    """It ends soon after, with a warning that names the parameter, and a better model than the start."""
    X, y = case.data()
    endless = {**GD, "learning_rate": 1e-6, "max_iter": 10**9}
    model = warned(case.make(**endless, max_time=0.1), X, y, match="max_time=0.1")
    assert model.loss_curve_[-1] < model.loss_curve_[0] and len(model.loss_curve_) > 1
    assert len(warned(case.make(**GD, max_time=0), X, y, match="max_time").loss_curve_) == 1


@pytest.mark.parametrize("n", [1, 3])
def test_max_iter(case, n):
    """The warning names the class, what was reached and what to do;
    n_iter_ and the curve have that length.
    """
    X, y = case.data()
    match = (
        rf"{type(case.make()).__name__} did not converge \(optimality .*tol=0.*max_iter={n}.*raise max_iter"
    )
    model = warned(case.make(**GD, max_iter=n), X, y, match=match)
    assert np.max(model.n_iter_) == n == len(model.loss_curve_)


def test_tol(case):
    """The gradient is that small; a tighter one takes at least as many iterations."""
    X, y = case.data()
    counts = []
    for tol in (1e-2, 1e-5, 1e-8):
        model = case.make(solver="lbfgs", tol=tol).fit(X, y)
        assert model.optimality_ <= tol
        counts.append(int(np.max(model.n_iter_)))
    assert counts == sorted(counts) and counts[0] < counts[-1]


def test_separable_classes():
    """Without a penalty there is no optimum: a warning, and finite coefficients that separate."""
    X = np.linspace(-1, 1, 30)[:, None]
    with pytest.warns(ConvergenceWarning):
        model = GDLogisticClassifier(C=np.inf).fit(X, X[:, 0] > 0)
    assert np.isfinite(bits(model)).all() and model.score(X, X[:, 0] > 0) == 1.0


# -- validation ------------------------------------------------------------------------------------


def test_early_stopping_on_given_rows(case):
    """The best iterate on them is kept, the score of each is told,
    and the fit ends when none got better for long.
    """
    X, y = case.data(n=40, d=12)
    X_val, y_val = case.data(n=30, d=12, seed=5)
    s_val = np.linspace(0.5, 2, 30)
    fitting = {**GD, "learning_rate": 0.2, **case.free}
    model = case.make(**fitting, max_iter=2000, n_iter_no_change=10)
    model.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=s_val)
    scores = np.array(model.validation_scores_)
    best = int(scores.argmax())
    assert len(scores) == len(model.loss_curve_) == np.max(model.n_iter_) == best + 11
    metric = r2_score if case.kind == "regressor" else accuracy_score
    assert_allclose(metric(y_val, model.predict(X_val), sample_weight=s_val), scores[best], rtol=1e-12)
    twin = warned(case.make(**fitting, max_iter=best + 1), X, y)
    assert_array_equal(bits(model), bits(twin))
    for k in (0, best // 2, len(scores) - 1):
        stopped = warned(case.make(**fitting, max_iter=k + 1), X, y)
        assert_allclose(metric(y_val, stopped.predict(X_val), sample_weight=s_val), scores[k], rtol=1e-10)


@pytest.mark.filterwarnings("ignore:.*max_iter:sklearn.exceptions.ConvergenceWarning")
def test_early_stopping_on_a_fraction(case):
    """The rows held out take no part in the fit: the model is that of the others, at the best score."""
    X, y = case.data(n=80)
    params = {"early_stopping": True, "validation_fraction": 0.25, "n_iter_no_change": 4, "random_state": 0}
    model, again = (case.make(**GD, max_iter=15, **params).fit(X, y) for _ in range(2))
    assert_array_equal(bits(model), bits(again))
    stratify = y if case.kind == "classifier" else None
    train, held_out = train_test_split(np.arange(80), test_size=0.25, stratify=stratify, random_state=0)
    best = int(np.argmax(model.validation_scores_))
    twin = warned(case.make(**GD, max_iter=best + 1), X[train], y[train])
    assert_allclose(bits(model), bits(twin), rtol=1e-9, atol=1e-12)
    assert_allclose(twin.score(X[held_out], y[held_out]), model.validation_scores_[best], rtol=1e-9)


def test_validation_rows_come_in_pairs(case):
    """Half of them is an error that names both."""
    X, y = case.data()
    with pytest.raises(ValueError, match="X_val and y_val must be given together"):
        case.make().fit(X, y, X_val=X)
    with pytest.raises(ValueError, match="sample_weight_val needs X_val and y_val"):
        case.make().fit(X, y, sample_weight_val=np.ones(len(y)))
    with pytest.raises(ValueError, match="features"):
        case.make().fit(X, y, X_val=X[:, :2], y_val=y)


def test_no_scores_without_validation(case):
    """The attribute is there only where rows were scored, not left over from a fit before."""
    X, y = case.data()
    model = case.make().fit(X, y, X_val=X, y_val=y)
    assert len(model.validation_scores_) == np.max(model.n_iter_)
    assert not hasattr(model.fit(X, y), "validation_scores_")


@pytest.mark.parametrize("make", [GDLinearRegressor, GDLogisticClassifier])
def test_verbose(make, capsys):
    """1 says how it ended, 2 tells of every iteration, 0 nothing."""
    X, y = np.arange(6.0)[:, None], np.array([0, 1, 0, 1, 0, 1])
    for verbose, lines in ((0, 0), (1, 1), (2, 4)):
        warned(make(**GD, max_iter=3, verbose=verbose), X, y)
        shown = capsys.readouterr().out.splitlines()
        assert len(shown) == lines
        assert all(line.startswith(f"[{make.__name__}]") for line in shown)
