"""preset="tuned": the form of its parameters, what it makes of the input, and whose parameters win."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from test_blocks import Foreign
from test_network import FORM, layers_of, problem

from skbigmodel import GDMLPClassifier
from skbigmodel.blocks import ArrayBlocks
from skbigmodel.network import NetworkObjective, encoded_rows
from skbigmodel.network_data import Coded
from skbigmodel.network_inputs import fit_encoding
from skbigmodel.network_training import smooth_accuracy
from skbigmodel.optimizers import Sgd
from skbigmodel.passes_parameters import spread_out
from skbigmodel.solvers.epochs import Epochs, Recipe

X, Y = make_classification(150, 6, n_informative=4, n_classes=3, random_state=0)
X[:, 1] *= 1000.0


def make(**params):
    """Small and quick."""
    return GDMLPClassifier(
        **{"preset": "tuned", "hidden_layer_sizes": (8,), "max_iter": 6, "random_state": 0, **params}
    )


def parameters(model):
    """All that a network has learnt."""
    return np.concatenate([array.ravel() for array in model.coefs_ + model.intercepts_])


# -- the form of the parameters


def test_spread_and_gather():
    """The formulas, and layers that come back."""
    objective, layers = problem()
    net = objective.net
    theta = FORM.gather(net, layers)
    assert theta.size == layers.size + 7
    assert_allclose(theta[-7:], 1 / 3)
    for form_theta in (theta, np.random.default_rng(0).standard_normal(theta.size)):
        out = spread_out(FORM, net, form_theta, np.empty_like(layers))
        assert_allclose(out, layers_of(net, form_theta), rtol=1e-12)
    assert_allclose(spread_out(FORM, net, theta, np.empty_like(layers)), layers, rtol=1e-12)


# -- the input


def expected(column, training, s=None):
    """Median to 0, quartiles 1 apart, softly clipped."""
    values = column[training] if s is None else np.repeat(column[training], s[training])
    lower, middle, upper = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    spread = upper - lower or (values.max() - values.min()) / 2
    z = (column - middle) / spread
    return z / np.sqrt(1 + (z / 3) ** 2)


def test_numbers_are_scaled_and_clipped():
    """By the training rows alone, weights as repetitions; constant columns become 0."""
    rng = np.random.default_rng(0)
    Z = np.column_stack([rng.standard_cauchy(99), 1e5 + rng.random(99), rng.random(99) < 0.1, np.full(99, 7)])
    training, s = rng.permutation(99)[:70], rng.integers(0, 4, 99)
    for weights in (None, s):
        places = training if weights is None else training[s[training] > 0]
        weights = None if weights is None else weights.astype(float)
        encoder = fit_encoding(Z, None, places, weights).encoder()
        out = encoded_rows(Z, encoder, np.float64)
        for j in range(3):
            s_j = None if weights is None else s
            assert_allclose(out[:, j], expected(Z[:, j], places, s_j), rtol=1e-9, atol=1e-9)
        assert_array_equal(out[:, 3], 0.0)
        assert np.abs(out).max() <= 3.0
    assert_allclose(encoded_rows(np.full((1, 4), 1e300), encoder, np.float32)[0, :3], 3.0, rtol=1e-6)


def test_sparse_rows_stay_sparse():
    """Zeros stay zeros; the others are divided by the median size of theirs."""
    Z = sparse.random_array((200, 5), density=0.2, rng=np.random.default_rng(0), format="csr") * 40
    encoder = fit_encoding(Z, None, np.arange(200), None).encoder()
    out, dense = encoded_rows(Z, encoder, np.float64).toarray(), Z.toarray()
    sizes = [np.median(np.abs(column[column != 0])) for column in dense.T]
    z = dense / sizes
    assert_allclose(out, z / np.sqrt(1 + z**2 / 9), rtol=1e-12)
    y = (dense[:, 0] > 0).astype(int)
    model = make(max_iter=100).fit(Z, y)
    assert model.score(Z, y) > 0.9
    assert_array_equal(model.predict(Z.tocsc()), model.predict(Z))


def test_gradient_through_the_encoding():
    """The kernel on encoded rows is the kernel on the rows they become."""
    objective, theta = problem(p=7)
    encoder = fit_encoding(objective.blocks.X, None, np.arange(40), None).encoder()
    results = []
    encoded = ArrayBlocks(encoded_rows(objective.blocks.X, encoder, np.float64), objective.blocks.y)
    for blocks in (objective.blocks.with_targets(objective.blocks.y).encoded(encoder), encoded):
        blocks.s, blocks.weight = objective.blocks.s, objective.blocks.weight
        blocks.blocks = blocks._blocks()
        results.append(NetworkObjective(blocks, objective.net, 0.3).value_grad(theta))
    assert_allclose(results[0][0], results[1][0], rtol=1e-13)
    assert_allclose(results[0][1], results[1][1], atol=1e-14)


def frame(kind, n=150):
    """A table with numbers, text and categories, its labels, and rows with what was never seen."""
    rng = np.random.default_rng(0)
    city, size = rng.choice(["Bonn", "Rome", "Oslo"], n), rng.choice([3, 1, 2], n)
    number = rng.standard_normal(n)
    y = (city == "Rome") ^ (size > 1)
    new = {"number": [0.5, -0.5, 0.0], "city": ["Paris", None, "Rome"], "size": [9, None, 1]}
    module = pytest.importorskip(kind)
    data = {"number": number, "city": city.astype(object), "size": size}
    if kind == "pandas":
        X, new = module.DataFrame(data), module.DataFrame(new)
        return X.astype({"size": "category"}), y, new.assign(size=module.Categorical([9, None, 1]))
    X, new = module.DataFrame({**data, "city": city.tolist()}), module.DataFrame(new)
    as_text = module.col("size").cast(str).cast(module.Categorical)
    return X.with_columns(as_text), y, new.with_columns(as_text)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_categories(kind):
    """Text and categories have a column for each value, unknown and missing ones none; others are free."""
    X, y, new = frame(kind)
    model = make(max_iter=150).fit(X, y)
    assert model.score(X, y) > 0.95
    assert list(model.feature_names_in_) == ["number", "city", "size"] and model.n_features_in_ == 3
    assert model.coefs_[0].shape == (7, 8)
    _, cities, sizes = model.encoding_.categories
    assert cities.tolist() == ["Bonn", "Oslo", "Rome"] and sizes.tolist() == ["1", "2", "3"]
    weights = model.coefs_[0].copy()
    model.coefs_[0][1:] = 0.0  # as zeros: an unknown city, an unknown size
    bare = model.decision_function(new)
    model.coefs_[0][:] = weights
    assert_allclose(model.decision_function(new)[:2], bare[:2], rtol=1e-6)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(new), model.predict_proba(new))
    with pytest.raises(ValueError, match="data frame"):
        model.predict(np.zeros((2, 3)))


def test_categories_are_those_of_rows_that_count():
    """One of weight 0 has no column; of very many the most frequent have one."""
    X, y, _ = frame("pandas")
    s = (X["city"] != "Oslo").to_numpy(float)
    some = make().fit(X, y, sample_weight=s)
    assert some.encoding_.categories[1].tolist() == ["Bonn", "Rome"]
    assert_array_equal(parameters(some), parameters(make().fit(X[s > 0], y[s > 0])))
    X["city"] = np.where(np.arange(150) % 3 == 0, "home", np.arange(150).astype(str))
    names = make().fit(X, y).encoding_.categories[1]
    assert len(names) == 100 and "home" in names


def test_the_same_columns_from_other_frames():
    """pandas and polars, and a Pipeline that passes on a few columns, give the same bits."""
    X, y, _ = frame("pandas")
    other, _, _ = frame("polars")
    model = make().fit(X, y)
    assert_array_equal(parameters(make().fit(other, y)), parameters(model))
    some = make_column_transformer(("passthrough", ["city", "size"])).set_output(transform="pandas")
    pipeline = make_pipeline(some, make()).fit(X, y)
    assert_array_equal(pipeline.predict(X), make().fit(X[["city", "size"]], y).predict(X[["city", "size"]]))


# -- training


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_checks():
    """All of them, with a preset; weights are repeated rows up to float32, beyond the check's tolerance."""
    kinds = ("dense", "sparse")
    names = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in kinds]
    check_estimator(make(max_iter=100), expected_failed_checks=dict.fromkeys(names, "float32"))


def test_what_the_user_sets_wins():
    """Parameters that differ from their defaults; the estimator's own are left as they are."""
    model = make().fit(X, Y)
    assert [W.shape for W in model.coefs_] == [(6, 8), (8, 3)] and model.n_iter_ == 6
    assert model.get_params() == make().get_params()
    assert model._settings.activation == "selu" and model._settings.learning_rate_init == 0.02
    others = {"activation": "gelu", "learning_rate_init": 0.01, "label_smoothing": 0.2, "beta_2": 0.9}
    explicit = make(**others)._settings
    assert {name: getattr(explicit, name) for name in others} == others
    defaults = {"dropout": 0, "alpha": np.float64(0.0001), "hidden_layer_sizes": [100], "weight_decay": 0}
    explicit = clone(make(**defaults, early_stopping=np.False_))
    assert {name: getattr(explicit._settings, name) for name in defaults} == defaults
    assert explicit.fit(X, Y).validation_scores_ is None and explicit.coefs_[0].shape == (6, 100)
    plain = GDMLPClassifier()
    assert plain._settings is plain


def test_the_start():
    """Normal weights in the neural tangent parametrisation, and a last layer of zeros."""
    model = GDMLPClassifier(preset="tuned", max_iter=1, learning_rate_init=1e-30, random_state=0).fit(X, Y)
    assert [W.shape for W in model.coefs_] == [(6, 256), (256, 256), (256, 256), (256, 3)]
    for W, b in zip(model.coefs_[:-1], model.intercepts_[:-1]):
        assert_allclose(W.std() * np.sqrt(len(W)), 1.0, rtol=0.06)
        assert_allclose(b.std(), 1.0, rtol=0.15)
    assert not model.coefs_[-1].any() and not model.intercepts_[-1].any()
    assert all(W.dtype == np.float32 for W in model.coefs_)


def test_the_last_best_epoch_is_kept():
    """Of equal validation scores the last; the score is that of the model returned: 1 - Brier score / 2."""
    model = make(max_iter=25).fit(X, Y, X_val=X[:40], y_val=Y[:40])
    scores = np.array(model.validation_scores_)
    assert len(scores) == 25
    last = 25 - int(np.argmax(scores[::-1]))
    stopped = Stop(last)
    other = make(max_iter=25).set_callbacks(stopped).fit(X, Y, X_val=X[:40], y_val=Y[:40])
    assert_array_equal(parameters(other), parameters(model))
    errors = model.predict_proba(X[:40]) - np.eye(3)[Y[:40]]
    assert_allclose(scores.max(), 1 - 0.5 * (errors**2).sum(axis=1).mean(), rtol=1e-6)
    held_out = make(max_iter=8).fit(X, Y)
    assert len(held_out.validation_scores_) == 8
    assert make(max_iter=8).fit(X[:30], Y[:30]).validation_scores_ is None  # too few rows
    lonely = make(max_iter=8).fit(X, np.arange(150) == 7)  # a class that cannot be on both sides
    assert len(lonely.validation_scores_) == 8


def test_smooth_accuracy():
    """Two classes, whose names are strings, and several labels; certain predictions make it the accuracy."""
    coded = Coded(np.array(["a", "b"]), np.zeros((3, 1)), None, None)
    z, names = np.array([[-1.0], [0.5], [2.0]]), np.array(["a", "a", "b"])
    p = 1 / (1 + np.exp(-z[:, 0]))
    assert_allclose(smooth_accuracy(z, names, coded), 1 - (p - [0, 0, 1]) ** 2)
    assert_allclose(smooth_accuracy(1e3 * z, names, coded), [1, 0, 1])
    several = np.array([[1, 0], [0, 0], [1, 1]])
    p = 1 / (1 + np.exp(-np.hstack([z, -z])))
    assert_allclose(
        smooth_accuracy(np.hstack([z, -z]), several, coded), 1 - ((p - several) ** 2).mean(axis=1)
    )


def test_the_mean_of_the_last_epochs():
    """Without validation rows: of all at first, then a running mean over a share of the epochs."""
    objective, theta = problem()
    recipe = Recipe("sgd", Sgd(), 0.1, horizon=30, batch_size=20, averaged=0.2)
    solver = Epochs(objective, recipe)
    state, mean = solver.begin(theta, np.random.RandomState(0), np.arange(40)), 0.0
    for epoch in range(1, 12):
        solver.advance(state)
        mean = mean + (state.theta - mean) * max(1 / epoch, 1 / 6)
        assert_allclose(state.judged, mean, rtol=1e-12)
        solver.judge(state, None)
        assert state.kept is state.judged


class Stop:
    """Stops a training after some epochs."""

    def __init__(self, after):
        self.after = after

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **kwargs):
        pass

    def on_fit_task_end(self, estimator, context, **kwargs):
        return context.task_name == "iteration" and context.task_id + 1 == self.after


def test_float64_rows_train_as_float32():
    """The scale is found in the data's own width, all else is float32: nearly the same."""
    narrow, wide = make().fit(X.astype(np.float32), Y), make().fit(X, Y)
    assert_allclose(narrow.loss_curve_, wide.loss_curve_, rtol=1e-3)
    assert wide.coefs_[0].dtype == wide.predict_proba(X).dtype == np.float32


def test_weights():
    """Constant ones change nothing; a row of weight 0 is absent, however wild."""
    model = make().fit(X, Y)
    assert_allclose(
        parameters(make().fit(X, Y, sample_weight=np.full(150, 2.0))), parameters(model), rtol=1e-3
    )
    wild, s = np.vstack([X, 1e6 * X[:20]]), np.r_[np.ones(150), np.zeros(20)]
    other = make().fit(wild, np.r_[Y, Y[:20]], sample_weight=s)
    assert_array_equal(parameters(other), parameters(model))


def test_sources(tmp_path):
    """A memory map and an array that has only slices are encoded as they are read: the same bits."""
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = make().fit(X, Y)
    for other in (mapped, np.asfortranarray(X), Foreign(X)):
        assert_array_equal(parameters(make().fit(other, Y)), parameters(model))
        assert_array_equal(model.predict(other), model.predict(X))


def test_resume():
    """Two fits are one, to the bit, where the schedule is a plain one; the encoding stays as it was."""
    params = {"warm_start": True, "lr_schedule": lambda t: 1.0}
    whole, part = make(max_iter=10, **params).fit(X, Y), make(max_iter=10, **params)
    part.set_callbacks(Stop(4)).fit(X, Y)
    assert part.n_iter_ == 4
    part.set_callbacks().fit(X, Y)
    assert part.n_iter_ == 6
    assert_array_equal(parameters(part), parameters(whole))
    changed = part.encoding_
    part.coefs_[0] += 0.01
    assert part.fit(2 * X, Y).encoding_ is changed


def test_streams():
    """The first batch tells the encoding, the rate stays, and the means of the parameters predict."""
    Z, y, new = frame("pandas")
    model = make(max_iter=100)
    for _ in range(40):
        for start in range(0, 150, 50):
            model.partial_fit(Z[start : start + 50], y[start : start + 50], classes=[False, True])
    first = fit_encoding(Z[["number"]].to_numpy(), None, np.arange(50), None)
    assert_array_equal(model.encoding_.center, first.center)
    assert model.score(Z, y) > 0.95 and model.predict(new).shape == (3,)
    assert model._resume["state"]["rate"] == 0.02 and model._resume["state"]["epochs"] == 120
    kept = model.encoding_
    again = pickle.loads(pickle.dumps(model))
    for each in (model, again):
        each.partial_fit(Z, y)
        assert each.encoding_.categories[0] is kept.categories[0] is None
    assert_array_equal(parameters(again), parameters(model))
    after = make().fit(Z, y).partial_fit(Z[:50], y[:50])
    assert after.n_iter_ == 1 and after._resume["state"]["epochs"] == 7


def test_in_a_search():
    """Pipelines, clones, searches and callbacks."""
    pipeline = make_pipeline(StandardScaler(), make())
    search = GridSearchCV(pipeline, {"gdmlpclassifier__preset": ["tuned", None]}, cv=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.fit(X, Y)
    assert clone(search.best_estimator_).get_params().keys() == pipeline.get_params().keys()
    frame_of, y, _ = frame("pandas")
    monitor = ScoringMonitor(scoring="accuracy")
    make().set_callbacks(monitor).fit(frame_of, y)


def test_lbfgs_and_several_labels():
    """Another solver keeps the encoding; a row may have several labels."""
    model = make(solver="lbfgs", max_iter=2000, alpha=0.1).fit(X, Y)
    assert model.solver_ == "lbfgs" and model.score(X, Y) > 0.9
    labels = np.column_stack([Y == 0, Y > 1]).astype(int)
    model = make(max_iter=600).fit(X, labels)
    assert model.predict(X).shape == (150, 2) and model.score(X, labels) > 0.7


def test_what_it_does_not_do():
    """scikit-learn has no twin; lbfgs has no streams."""
    assert not hasattr(make(solver="lbfgs"), "partial_fit")
    with pytest.raises(ValueError, match="preset"):
        make().fit(X, Y).to_sklearn()
    with pytest.raises(ValueError, match="preset"):
        GDMLPClassifier(preset="best").fit(X, Y)
