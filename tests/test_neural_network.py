"""What GDMLPClassifier has beyond its twin: regularisation, schedules, control, resuming."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from test_network import differences, oracle

from skbigmodel import GDMLPClassifier
from skbigmodel.activations import Relu
from skbigmodel.blocks import ArrayBlocks
from skbigmodel.network import NetworkObjective, make_network
from skbigmodel.optimizers import Adam

X, Y = make_classification(200, 8, n_informative=6, n_classes=3, random_state=0)


def fit(max_iter=10, X=X, y=Y, expect=ConvergenceWarning, fit_params=None, **params):
    """A network trained for some epochs, which are too few."""
    model = GDMLPClassifier(
        **{"random_state": 0, "max_iter": max_iter, "hidden_layer_sizes": (16,), **params}
    )
    if expect is None:
        return model.fit(X, y, **(fit_params or {}))
    with pytest.warns(expect):
        return model.fit(X, y, **(fit_params or {}))


def parameters(model):
    """All that a network has learnt."""
    return np.concatenate([array.ravel() for array in model.coefs_ + model.intercepts_])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_scikit_learn_checks(solver):
    """All of them."""
    check_estimator(GDMLPClassifier(solver=solver))


def test_defaults_change_nothing():
    """The extra parameters, set to what means nothing, give the same bits."""
    plain = parameters(fit())
    assert_array_equal(parameters(fit(clip_norm=1e9, loss_threshold=0.0, max_time=1e9, n_jobs=1)), plain)
    assert_array_equal(parameters(fit(lr_schedule=lambda t: 1.0, expect=None)), plain)
    assert_array_equal(parameters(fit(activation=Relu(), solver=Adam())), plain)


class OwnSwish(NamedTuple):
    """An activation of a user's own."""

    scale: float = 1.0

    def forward(self, z):
        return z / (1.0 + np.exp(-self.scale * z))

    def backward(self, z, a):
        share = 1.0 / (1.0 + np.exp(-self.scale * z))
        return share + self.scale * a * (1.0 - share)


class Descent(NamedTuple):
    """An optimizer of a user's own: steps against the gradient, and half of the last step on top."""

    n_moments = 1

    def step(self, theta, grad, moments, t, rate):
        for j in range(theta.size):
            moments[0, j] = 0.5 * moments[0, j] - rate * grad[j]
            theta[j] += moments[0, j]


def test_own_activation_and_optimizer():
    """The steps are those that the objective's differences lead to; a pickle predicts alike."""
    params = {"activation": OwnSwish(1.5), "solver": Descent(), "batch_size": 200, "alpha": 0.1}
    model = fit(2, learning_rate_init=0.05, **params)
    assert model.solver_ == "descent"
    theta = parameters(fit(1, learning_rate_init=1e-300, **params))
    net = make_network((8, 16, 3), OwnSwish(1.5), True)
    objective = NetworkObjective(ArrayBlocks(X, Y[:, None].astype(np.int32)), net, 0.1)
    step = 0.0
    for _ in range(2):
        step = 0.5 * step - 0.05 * differences(lambda t: oracle(objective, t), theta)
        theta = theta + step
    assert_allclose(parameters(model), theta, rtol=1e-6, atol=1e-8)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_label_smoothing():
    """The optimum for a constant input: the smoothed frequencies."""
    y = np.repeat([0, 1, 2], [6, 3, 1])
    zeros = np.zeros((10, 1))
    params = {"solver": "lbfgs", "alpha": 0.0, "tol": 1e-9, "max_iter": 1000, "expect": None}
    model = fit(X=zeros, y=y, label_smoothing=0.3, **params)
    assert_allclose(model.predict_proba(zeros[:1])[0], 0.7 * np.array([0.6, 0.3, 0.1]) + 0.1, atol=1e-5)
    model = fit(X=zeros, y=(y > 0), label_smoothing=0.3, **params)
    assert_allclose(model.predict_proba(zeros[:1])[0], 0.7 * np.array([0.6, 0.4]) + 0.15, atol=1e-5)


def test_dropout():
    """Another course, repeatable; the loss of training lies above that of the whole network."""
    patient = {"tol": 0.0, "n_iter_no_change": 100}
    thin = fit(40, dropout=0.5, **patient)
    assert_array_equal(parameters(fit(40, dropout=0.5, **patient)), parameters(thin))
    loss = -np.mean(np.log(thin.predict_proba(X)[np.arange(200), Y]))
    assert thin.loss_curve_[-1] > loss + 0.05
    assert thin.loss_curve_[-1] > fit(40).loss_curve_[-1]


def test_weight_decay():
    """Weights shrink; without a gradient by (1 - rate·decay) in each step."""
    zeros = np.zeros((200, 8))
    start = fit(1, X=zeros, alpha=0.0, learning_rate_init=1e-300, batch_size=200)
    end = fit(3, X=zeros, alpha=0.0, weight_decay=20.0, batch_size=200)
    assert_allclose(end.coefs_[0], start.coefs_[0] * 0.98**3, rtol=1e-9)
    assert np.abs(parameters(fit(40, weight_decay=5.0))).sum() < np.abs(parameters(fit(40))).sum()


@pytest.mark.parametrize("schedule", ["cosine", "coslog4", "onecycle"])
def test_schedules(schedule):
    """The fit ends with the schedule, without a warning, and learns."""
    model = fit(
        60, lr_schedule=schedule, learning_rate_init=0.01, expect=None, tol=0.0, n_iter_no_change=1000
    )
    assert model.n_iter_ == 60 and model.loss_curve_[-1] < 0.5 * model.loss_curve_[0]


def test_own_schedule():
    """It gets the share of the way before each step; a rate of 0 keeps the parameters."""
    seen = []

    def half(t):
        seen.append(t)
        return 1.0 if t < 0.5 else 0.0

    model = fit(10, lr_schedule=half, batch_size=50, expect=None, tol=0.0)
    assert_allclose(seen, np.arange(40) / 40, atol=1e-12)
    assert_array_equal(parameters(model), parameters(fit(5, batch_size=50)))


def test_loss_threshold():
    """The first epoch at or below it is the last, without a warning."""
    whole = fit(30)
    model = fit(30, loss_threshold=whole.loss_curve_[12], expect=None)
    assert model.loss_curve_ == whole.loss_curve_[:13] and model.n_iter_ == 13
    assert_array_equal(parameters(model), parameters(fit(13)))


def test_max_time():
    """Ends after the epoch in which the time is over; the warning says what to do."""
    with pytest.warns(ConvergenceWarning, match="raise max_time"):
        model = GDMLPClassifier(max_time=0.0, max_iter=10**6, random_state=0).fit(X, Y)
    assert model.n_iter_ == 1 and model.predict(X).shape == (200,)


def test_given_validation_rows():
    """They are scored after each epoch, stop the fit, and choose the epoch; all other rows are used."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 3, 100)
    given = {"X_val": X[:100], "y_val": noise}
    model = fit(500, expect=None, fit_params=given, n_iter_no_change=5)
    scores = model.validation_scores_
    assert model.n_iter_ == len(scores) < 500 and model.t_ == 200 * len(scores)
    best = int(np.argmax(scores))
    assert model.best_validation_score_ == scores[best] == model.score(X[:100], noise)
    assert_array_equal(parameters(model), parameters(fit(best + 1)))
    weights = rng.integers(0, 3, 100)
    patient = {"n_iter_no_change": 50, "tol": 0}
    weighted = fit(20, fit_params={**given, "sample_weight_val": weights}, **patient)
    repeated = {"X_val": np.repeat(X[:100], weights, axis=0), "y_val": np.repeat(noise, weights)}
    same = fit(20, fit_params=repeated, **patient)
    assert_allclose(weighted.validation_scores_, same.validation_scores_, rtol=1e-12)


RESUMED = {
    "adam": {},
    "momentum": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.1, "tol": 0.05,
                 "n_iter_no_change": 2},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "validation": {"early_stopping": True, "n_iter_no_change": 50},
    "dropout": {"dropout": 0.3},
    "instance": {"random_state": None},
}  # fmt: skip


@pytest.mark.parametrize("name", RESUMED)
def test_exact_resume(name):
    """Pickled after 7 of 20 epochs, gone on with: the bits of a training without a break."""
    params = {"warm_start": True, "batch_size": 64, **RESUMED[name]}

    def seeded(max_iter):
        seed = {"random_state": np.random.RandomState(5)} if name == "instance" else {}
        return fit(max_iter, **{**params, **seed})

    whole, part = seeded(20), seeded(7)
    part = pickle.loads(pickle.dumps(part)).set_params(max_iter=13)
    with pytest.warns(ConvergenceWarning):
        part.fit(X, Y)
    assert_array_equal(parameters(part), parameters(whole))
    assert part.loss_curve_ == whole.loss_curve_ and part.n_iter_ == 13 and part.t_ == whole.t_
    assert part.validation_scores_ == whole.validation_scores_


class Stopper:
    """Asks to stop after some epochs."""

    def __init__(self, after):
        self.after = after

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **kwargs):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None, X=None, **kwargs):
        if context.task_name == "iteration":
            self.fitted = fitted_estimator.predict_proba(X)
        return context.task_name == "iteration" and context.task_id + 1 == self.after


def test_schedule_goes_on_where_it_was():
    """A training with a schedule that was stopped is gone on with to the schedule's end."""
    params = {"warm_start": True, "lr_schedule": "cosine", "expect": None, "tol": 0.0}
    whole = fit(20, **params)
    part = GDMLPClassifier(hidden_layer_sizes=(16,), random_state=0, max_iter=20, warm_start=True,
                           lr_schedule="cosine", tol=0.0).set_callbacks(Stopper(7)).fit(X, Y)  # fmt: skip
    assert part.n_iter_ == 7
    part = pickle.loads(pickle.dumps(part)).set_callbacks().fit(X, Y)
    assert part.n_iter_ == 13
    assert_array_equal(parameters(part), parameters(whole))


def test_callbacks():
    """Told of every epoch, with a model as it stands; a request to stop is obeyed without a warning."""
    stopper = Stopper(4)
    model = GDMLPClassifier(hidden_layer_sizes=(16,), random_state=0).set_callbacks(stopper).fit(X, Y)
    assert model.n_iter_ == 4
    assert_array_equal(stopper.fitted, model.predict_proba(X))
    assert_array_equal(parameters(model), parameters(fit(4)))
    for solver in ("adam", "lbfgs"):
        monitor = ScoringMonitor(scoring="accuracy")
        with pytest.warns(ConvergenceWarning):
            GDMLPClassifier(solver=solver, max_iter=5, random_state=0).set_callbacks(monitor).fit(X, Y)


def test_changed_weights_are_respected():
    """A warm fit starts from coefs_ as they are."""
    model = fit(3, warm_start=True)
    model.coefs_[0][:] = 0.0
    with pytest.warns(ConvergenceWarning):
        model.set_params(max_iter=1, learning_rate_init=1e-300).fit(X, Y)
    assert np.abs(model.coefs_[0]).max() < 1e-290


def test_another_architecture_in_a_warm_fit():
    """An error that names it; the model is as it was."""
    model = fit(3, warm_start=True)
    before = parameters(model)
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        model.set_params(hidden_layer_sizes=(5, 5)).fit(X, Y)
    assert_array_equal(parameters(model), before)


@pytest.mark.parametrize(
    "params, match",
    [
        ({"hidden_layer_sizes": (5, 0)}, "hidden_layer_sizes"),
        ({"activation": "rely"}, "activation"),
        ({"dropout": 1.0}, "dropout"),
        ({"label_smoothing": 1.5}, "label_smoothing"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"init": "zeros"}, "init"),
        ({"lr_schedule": "linear"}, "lr_schedule"),
        ({"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_bad_parameters(params, match):
    """Named in the error."""
    with pytest.raises(ValueError, match=match):
        GDMLPClassifier(**params).fit(X, Y)


def test_bad_targets():
    """Several columns that are no indicators; several labels with class weights."""
    with pytest.raises(ValueError, match="zeros and ones"):
        GDMLPClassifier().fit(X, np.column_stack([Y, Y]))
    with pytest.raises(ValueError, match="class_weight"):
        GDMLPClassifier(class_weight="balanced").fit(X, np.column_stack([Y == 0, Y == 1]))


def test_divergence_names_the_remedy():
    """No NaN is returned; a fitted model stays."""
    model = fit(2, warm_start=True, solver="sgd")
    before = parameters(model)
    with pytest.raises(ValueError, match="diverged. Lower learning_rate_init"):
        model.set_params(learning_rate_init=1e200).fit(X, Y)
    assert_array_equal(parameters(model), before)


def test_foreign_arrays():
    """Data that have only row slices are read block by block, and learnt."""

    class Slices:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return X[rows]

    model, reference = fit(30, X=Slices()), fit(30)
    assert_allclose(model.loss_curve_, reference.loss_curve_, rtol=1e-12)  # one block: the same steps
    assert_array_equal(model.predict(Slices()), reference.predict(X))


def test_in_a_search():
    """Pipelines, clones, searches over nested parameters."""
    network = GDMLPClassifier(solver="lbfgs", max_iter=5000, random_state=0)
    pipeline = make_pipeline(StandardScaler(), network)
    grid = {"gdmlpclassifier__alpha": [0.1, 10.0], "gdmlpclassifier__hidden_layer_sizes": [(4,), (8, 4)]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(X, Y)
    assert search.best_score_ > 0.7
    again = clone(search.best_estimator_).fit(X, Y)
    assert_array_equal(again.predict(X), search.best_estimator_.predict(X))


@pytest.mark.parametrize(
    "params", [{}, {"solver": "lbfgs"}, {"hidden_layer_sizes": (13, 7), "batch_size": 37}], ids=str
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fits_between_other_allocations(params, dtype):
    """Wherever arrays lie, and with another fit at the same time: the same bits."""
    rng, junk = np.random.default_rng(0), []

    def bits(_=None):
        junk.append(np.empty(rng.integers(1, 3000)))
        model = GDMLPClassifier(**{"hidden_layer_sizes": (16,), "random_state": 0, "max_iter": 5, **params})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return parameters(model.fit(X.astype(dtype), Y)).tobytes()

    assert {bits() for _ in range(30)} == {bits()}
    with warnings.catch_warnings(), ThreadPoolExecutor(2) as pool:
        warnings.simplefilter("ignore")
        assert set(pool.map(bits, range(8))) == {bits()}


def test_verbose(capsys):
    """Each epoch, and why it ended."""
    fit(3, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "Iteration 3, loss = " in lines[2] and "max_iter was reached" in lines[3]
