"""scikit-learn's callbacks: which hooks are called when, with what, and what a request to stop does."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skbigmodel import GDLinearRegressor, base


class Recorder:
    """Writes down every call; asks to stop at the end of iteration number ``stop_after``."""

    def __init__(self, stop_after=None):
        self.stop_after, self.calls, self.curve, self.fitted = stop_after, [], [], []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self.calls.append(f"begin {context.task_name} {context.task_id}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.calls.append(f"end {context.task_name} {context.task_id}")
        self.fitted.append((fitted_estimator, X, y, metadata))
        return context.task_name == "iteration" and context.task_id + 1 == self.stop_after


class Counter(Recorder):
    """The same for all estimators of a search or pipeline."""

    max_propagation_depth = None


def slow(case, **params):
    """A fit of exactly max_iter iterations."""
    return case.make(**{"solver": "gd", "learning_rate": 0.01, "tol": 0, "max_iter": 6, **params})


def fit(model, *args, **kwargs):
    with pytest.warns(ConvergenceWarning):
        return model.fit(*args, **kwargs)


def count(recorder, beginning):
    return sum(call.startswith(beginning) for call in recorder.calls)


def test_hooks(case):
    """One root task, in it one task per iteration, each begun and ended; then teardown."""
    X, y = case.data()
    recorder = Recorder()
    fit(slow(case).set_callbacks(recorder), X, y)
    iterations = [f"{what} iteration {k}" for k in range(6) for what in ("begin", "end")]
    assert recorder.calls == ["setup", "begin fit 0", *iterations, "end fit 0", "teardown"]


def test_fitted_estimators(case):
    """Each hook can ask for a model that predicts as if the fit had stopped there;
    the last one is the result.
    """
    X, y = case.data(n_classes=3 if case.joint else 2)
    recorder, weights = Recorder(), np.linspace(1, 2, len(y))
    model = fit(slow(case).set_callbacks(recorder), X, y, sample_weight=weights)
    *iterates, (last, *_) = recorder.fitted
    assert len(iterates) == 6
    for n, (fitted, seen_X, seen_y, metadata) in enumerate(iterates, start=1):
        stopped = fit(slow(case, max_iter=n), X, y, sample_weight=weights)
        assert_allclose(case.raw(fitted, X), case.raw(stopped, X), rtol=1e-13)
        assert_array_equal(fitted.predict(X), stopped.predict(X))
        assert_array_equal(seen_X, X)
        assert_array_equal(seen_y, y)
        assert_array_equal(metadata["sample_weight"], weights)
    assert_array_equal(case.raw(last, X), case.raw(model, X))
    assert_array_equal(case.raw(iterates[-1][0], X), case.raw(model, X))


@pytest.mark.parametrize("n", [1, 4])
def test_request_to_stop(case, n):
    """The fit ends after that iteration, without a warning: it was asked for."""
    X, y = case.data()
    recorder = Recorder(stop_after=n)
    model = slow(case, max_iter=1000).set_callbacks(recorder).fit(X, y)
    assert np.max(model.n_iter_) == n == len(model.loss_curve_)
    assert recorder.calls[-3:] == [f"end iteration {n - 1}", "end fit 0", "teardown"]


def test_every_target_is_watched():
    """Several targets are several fits: all of their iterations are told, however many they are."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    recorder = Recorder()
    model = GDLinearRegressor(solver="gd", learning_rate=0.01, tol=0, max_iter=4).set_callbacks(recorder)
    fit(model, X, Y)
    assert count(recorder, "end iteration") == 8
    assert all(fitted.predict(X).shape == (50, 2) for fitted, *_ in recorder.fitted)
    assert recorder.calls[-2:] == ["end fit 0", "teardown"]


def test_teardown_after_an_error(case):
    """A fit that fails leaves no context behind, and the callback is told."""
    X, y = case.data()
    recorder = Recorder()
    model = slow(case, learning_rate=1e9, max_iter=1000).set_callbacks(recorder)
    X[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.fit(X, y)
    assert recorder.calls[-1:] in ([], ["teardown"])
    assert not hasattr(model, "_callback_fit_ctx") and not hasattr(model, "coef_")


def test_scoring_monitor(case):
    """Its log holds a score per iteration, that of the training data, rising to the result's."""
    X, y = case.data()
    proper = hasattr(case.make, "predict_proba")
    scoring = "r2" if case.kind == "regressor" else "neg_log_loss" if proper else "accuracy"
    monitor = ScoringMonitor(scoring=scoring)
    model = fit(slow(case, learning_rate=0.1, max_iter=8).set_callbacks(monitor), X, y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "iteration"]
    scores = [row[scoring] for row in rows]
    assert [row["task_id"] for row in rows] == list(range(8))
    if scoring != "neg_log_loss":
        assert scores[-1] == model.score(X, y)
    else:
        assert_allclose(scores[-1], np.log(model.predict_proba(X)[np.arange(len(y)), y]).mean(), rtol=1e-12)
    assert scoring == "accuracy" or (np.diff(scores) > 0).all()


def test_progress_bar(case, capsys):
    """It draws to the end of the fit and leaves with it."""
    pytest.importorskip("rich")  # what ProgressBar itself needs
    X, y = case.data()
    fit(slow(case).set_callbacks(ProgressBar()), X, y)
    shown = capsys.readouterr().out
    assert type(slow(case)).__name__ in shown and "100%" in shown


def test_pipeline(case):
    """Set on the pipeline, callbacks hear of the iterations of its last step."""
    X, y = case.data()
    counter = Counter()
    pipeline = make_pipeline(StandardScaler(), slow(case)).set_callbacks(counter)
    fit(pipeline, X, y)
    assert counter.calls.count("setup") == counter.calls.count("teardown") == 1
    assert count(counter, "end iteration") == 6
    assert count(counter, "begin") == count(counter, "end")
    assert not hasattr(pipeline[-1], "_skl_callbacks") and not hasattr(pipeline[-1], "_parent_callback_ctx")


def test_search(case):
    """Every candidate, every fold and the refit."""
    X, y = case.data()
    counter = Counter()
    grid = {"fit_intercept": [True, False]}
    search = GridSearchCV(slow(case), grid, cv=3).set_callbacks(counter)
    fit(search, X, y)
    assert count(counter, "end iteration") == 6 * (2 * 3 + 1)
    assert count(counter, "begin") == count(counter, "end")


def test_nothing_is_prepared_for_nobody(case, monkeypatch):
    """Without a callback there is no context and no model per iteration."""

    def forbidden(*args, **kwargs):
        raise AssertionError("nobody listens")

    monkeypatch.setattr(base.GradientEstimator, "_init_callback_context", forbidden)
    X, y = case.data()
    model = fit(slow(case), X, y)
    assert_array_equal(model.coef_, fit(slow(case), X, y).coef_)
    with pytest.raises(AssertionError, match="nobody listens"):
        slow(case).set_callbacks(Recorder()).fit(X, y)


def test_callbacks_do_not_change_the_fit(case):
    """Bit for bit; and they are no parameters: a clone has none."""
    X, y = case.data()
    plain, watched = fit(slow(case), X, y), fit(slow(case).set_callbacks(Recorder()), X, y)
    assert_array_equal(plain.coef_, watched.coef_)
    assert plain.loss_curve_ == watched.loss_curve_
    assert "_skl_callbacks" not in vars(clone(slow(case)))
