"""GDMLPClassifier beside MLPClassifier: from one seed the same course, up to rounding."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from skbigmodel import GDMLPClassifier
from skbigmodel.network_data import _stratified

SAME = ["n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"]


def data(n_classes=3, n=300):
    return make_classification(n, 12, n_informative=8, n_classes=n_classes, random_state=0)


def pair(X, y, weight=None, **params):
    """Both, fitted."""
    models = [cls(random_state=3, **params) for cls in (MLPClassifier, GDMLPClassifier)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [model.fit(X, y, sample_weight=weight) for model in models]


def assert_same(twin, ours, X, rtol=1e-9):
    """The same course, parameters and predictions."""
    for name in SAME:
        assert getattr(ours, name) == getattr(twin, name), name
    assert_array_equal(ours.classes_, twin.classes_)
    assert_allclose(ours.loss_, twin.loss_, rtol=rtol)
    for a, b in zip(ours.coefs_ + ours.intercepts_, twin.coefs_ + twin.intercepts_, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert_allclose(a, b, rtol=10 * rtol, atol=10 * rtol)
    assert_array_equal(ours.predict(X), twin.predict(X))
    assert_allclose(ours.predict_proba(X), twin.predict_proba(X), rtol=100 * rtol, atol=100 * rtol)
    if ours.solver == "lbfgs":
        return
    assert_allclose(ours.loss_curve_, twin.loss_curve_, rtol=rtol)
    for name in ("validation_scores_", "best_validation_score_", "best_loss_"):
        expected = getattr(twin, name)
        assert getattr(ours, name) is None if expected is None else True
        if expected is not None:
            assert_allclose(getattr(ours, name), expected, rtol=rtol)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"hidden_layer_sizes": (20, 10), "batch_size": 64, "alpha": 1.0},
        {"hidden_layer_sizes": 7, "shuffle": False, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3},
        {"early_stopping": True, "n_iter_no_change": 4, "validation_fraction": 0.2, "max_iter": 60},
        {"learning_rate_init": 0.05, "tol": 1e-2, "n_iter_no_change": 3, "max_iter": 300},
    ],
    ids=["default", "deep", "unshuffled", "early stopping", "converging"],
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_adam(params, n_classes):
    """Batches, shuffles, stopping and the held-out rows."""
    X, y = data(n_classes)
    assert_same(*pair(X, y, **{"max_iter": 15, **params}), X)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"nesterovs_momentum": False, "momentum": 0.5},
        {"learning_rate": "invscaling", "learning_rate_init": 0.05, "power_t": 0.3},
        {"learning_rate": "adaptive", "learning_rate_init": 0.2, "tol": 0.02, "n_iter_no_change": 1},
    ],
    ids=["nesterov", "momentum", "invscaling", "adaptive"],
)
def test_sgd(params):
    """Momenta and the three modes of the rate."""
    X, y = data()
    assert_same(*pair(X, y, solver="sgd", max_iter=40, **params), X)


@pytest.mark.parametrize("activation", ["tanh", "logistic"])
def test_activations(activation):
    """Logistic layers start from smaller weights. (Steps as those of the example of networks.)"""
    X, y = data()
    assert_same(*pair(X, y, activation=activation, solver="sgd", max_iter=20), X)


def test_held_out_rows():
    """Drawn as train_test_split draws them, for any share of the classes."""
    for seed in range(40):
        n, rare = 20 + 9 * seed, 0.05 + 0.02 * seed
        y = (np.random.default_rng(seed).random(n) < rare).astype(np.int32)
        y[:4] = 0, 0, 1, 1
        rng, other = np.random.RandomState(seed), np.random.RandomState(seed)
        expected = train_test_split(np.arange(n), test_size=0.13, stratify=y, random_state=rng)
        for part, places in zip(expected, _stratified(y, 0.13, other), strict=True):
            assert_array_equal(places, part)
        assert rng.rand() == other.rand()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_weights(early_stopping):
    """In the loss, in the penalty and in the validation score."""
    X, y = data()
    weight = np.random.default_rng(0).uniform(0.2, 3.0, len(y))
    assert_same(*pair(X, y, weight, max_iter=15, early_stopping=early_stopping, alpha=0.5), X)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_several_labels(early_stopping):
    """A logistic unit for each column."""
    X, Y = make_multilabel_classification(150, random_state=0)
    twin, ours = pair(X, Y, max_iter=15, early_stopping=early_stopping)
    assert_same(twin, ours, X)
    assert ours.score(X, Y) == twin.score(X, Y)


def test_sparse_rows():
    """CSR, CSC and COO."""
    X, y = data()
    X = np.where(np.abs(X) > 1, X, 0.0)
    for layout in (sparse.csr_matrix, sparse.csc_array, sparse.coo_array):
        twin, ours = (
            pair(sparse.csr_matrix(X), y, max_iter=10)[0],
            GDMLPClassifier(random_state=3, max_iter=10),
        )
        with pytest.warns(ConvergenceWarning):
            ours.fit(layout(X), y)
        assert_same(twin, ours, X)


def test_single_precision():
    """float32 stays."""
    X, y = data()
    twin, ours = pair(X.astype(np.float32), y, max_iter=5)
    assert ours.coefs_[0].dtype == ours.predict_proba(X.astype(np.float32)).dtype == np.float32
    assert_same(twin, ours, X.astype(np.float32), rtol=2e-6)


@pytest.mark.parametrize(
    "params", [{"max_iter": 20}, {"max_iter": 40, "alpha": 1.0}, {"max_fun": 12}], ids=str
)
def test_lbfgs(params):
    """The same local optimum, or the same iterate on the way to it."""
    X, y = data()
    weight = np.random.default_rng(0).uniform(0.2, 3.0, len(y))
    assert_same(*pair(X, y, weight, solver="lbfgs", activation="tanh", **params), X, rtol=1e-6)


def test_partial_fit():
    """One epoch per call, with the optimizer's memory; also after a fit."""
    X, y = data()
    for cls_before in (False, True):
        models = [cls(random_state=3, max_iter=5) for cls in (MLPClassifier, GDMLPClassifier)]
        for model in models:
            if cls_before:
                with pytest.warns(ConvergenceWarning):
                    model.fit(X, y)
            for k in range(6):
                model.partial_fit(X[k * 40 : k * 40 + 60], y[k * 40 : k * 40 + 60], classes=[0, 1, 2])
        assert_same(*models, X)


def test_warm_start_on_other_data():
    """Goes on from the weights, but unlike scikit-learn with the optimizer's memory."""
    X, y = data()
    model = GDMLPClassifier(random_state=3, max_iter=10, warm_start=True)
    for part in (slice(0, 150), slice(100, 300)):
        with pytest.warns(ConvergenceWarning):
            model.fit(X[part], y[part])
    assert model.n_iter_ == 10 and len(model.loss_curve_) == 20 and model.t_ == 10 * 150 + 10 * 200
    assert model.loss_curve_[-1] < model.loss_curve_[9] < model.loss_curve_[0]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_to_sklearn(n_classes):
    """The twin predicts the same; activations that it lacks are refused."""
    X, y = data(n_classes)
    y = np.array(["a", "b", "c"])[y]
    ours = pair(X, y, max_iter=5)[1]
    twin = ours.to_sklearn()
    assert type(twin) is MLPClassifier and twin.hidden_layer_sizes == ours.hidden_layer_sizes
    assert_array_equal(twin.predict(X), ours.predict(X))
    assert_allclose(twin.predict_proba(X), ours.predict_proba(X), rtol=1e-12)
    with pytest.raises(ValueError, match="activation='gelu'"):
        ours.set_params(activation="gelu").to_sklearn()


def test_to_sklearn_with_several_labels():
    """Matrices of zeros and ones stay such."""
    X, Y = make_multilabel_classification(60, random_state=0)
    ours = pair(X, Y, max_iter=5)[1]
    assert_array_equal(ours.to_sklearn().predict(X), ours.predict(X))
