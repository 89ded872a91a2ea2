"""Field reports MLP, and those of NUM, LAB, WGT, INC, PAR, MEM, PER, DSK, FEA that concern networks."""

import copy
import json
import pickle
import pickletools
import warnings

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_breast_cancer, make_classification
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, FitFailedWarning
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier

from test_blocks import Foreign

from skbigmodel import GDLogisticClassifier, GDMLPClassifier
from skbigmodel.sources import StackedRows

RNG = np.random.default_rng(0)
X = RNG.standard_normal((120, 4))
SCORE = X @ np.linspace(1.5, -1.0, 4) + RNG.standard_normal(120)
Y2, Y3 = (SCORE > 0).astype(int), np.digitize(SCORE, [-0.7, 0.7])


def make(**params):
    return GDMLPClassifier(**{"hidden_layer_sizes": (12,), "random_state": 0, "max_iter": 8, **params})


def fit(model, *args, **kwargs):
    """Whatever it says about convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*args, **kwargs)


def parameters(model):
    return np.concatenate([array.ravel() for array in model.coefs_ + model.intercepts_])


def assert_unchanged(model, call, match):
    """The call raises and leaves every attribute of the model as it was."""
    before = joblib.hash(vars(model))
    with pytest.raises(ValueError, match=match):
        call()
    assert joblib.hash(vars(model)) == before


# -- MLP


def test_mlp_01_the_documented_objective():
    """MLP-01: identity layers and all rows at a time: mean loss + alpha/(2n)·Σ W², biases free.

    With one unit the coefficients are w = u·v, and of all such pairs the penalty is least for ‖u‖ = |v|:
    (alpha/n)·‖w‖. At the optimum its gradient is that of ‖w‖²·alpha/(2n·‖w*‖): C = ‖w*‖/alpha.
    """
    n, alpha = len(Y2), 3.0
    params = {"activation": "identity", "hidden_layer_sizes": (1,), "solver": "lbfgs", "alpha": alpha,
              "tol": 1e-9, "max_iter": 5000, "max_fun": 50_000}  # fmt: skip
    model = fit(make(**params), X, Y2)
    (W, V), z = model.coefs_, model.decision_function(X)
    w = (W @ V)[:, 0]
    loss = np.mean(np.logaddexp(0, z) - Y2 * z)
    assert_allclose(model.loss_, loss + alpha / (2 * n) * ((W**2).sum() + (V**2).sum()), rtol=1e-12)
    linear = GDLogisticClassifier(C=np.linalg.norm(w) / alpha, tol=1e-10).fit(X, Y2)
    assert_allclose(w, linear.coef_[0], rtol=1e-4)
    assert_allclose(z, linear.decision_function(X), rtol=1e-3, atol=1e-5)
    twice = fit(make(**{**params, "alpha": 2 * alpha}), np.repeat(X, 2, axis=0), np.repeat(Y2, 2))
    assert_allclose(twice.decision_function(X), z, atol=1e-4)


def test_mlp_01_the_batch_divides_the_penalty():
    """MLP-01: of batches half as large the penalty is twice as strong."""
    zeros, y = np.zeros((100, 4)), np.arange(100) % 2
    for batch_size in (100, 50):
        model = make(solver="sgd", momentum=0.0, alpha=1.0, batch_size=batch_size, shuffle=False, max_iter=1)
        start = fit(make(solver="sgd", learning_rate_init=1e-300, batch_size=100, max_iter=1), zeros, y)
        steps = 100 // batch_size
        expected = start.coefs_[0] * (1 - 0.001 / batch_size) ** steps
        assert_allclose(fit(model, zeros, y).coefs_[0], expected, rtol=1e-12)


@pytest.mark.parametrize("labels", [["no", "yes", "maybe"], [True, False], [3, 1, 2]], ids=str)
@pytest.mark.parametrize("dtype", [None, object])
def test_mlp_03_early_stopping_with_any_labels(labels, dtype):
    """MLP-03: the validation scores of integer labels."""
    codes = Y2 if len(labels) == 2 else Y3
    y = np.array(sorted(labels), dtype)[codes]
    model = fit(make(early_stopping=True), X, y)
    assert model.validation_scores_ == fit(make(early_stopping=True), X, codes).validation_scores_


def test_mlp_05_partial_fit_after_early_stopping():
    """MLP-05: refused before anything changes; without it a fit can be gone on with."""
    model = fit(make(early_stopping=True), X, Y2)
    assert_unchanged(model, lambda: model.partial_fit(X, Y2), "partial_fit does not support early_stopping")
    with pytest.raises(ValueError, match="early_stopping"):
        make(early_stopping=True).partial_fit(X, Y2, classes=[0, 1])
    model.set_params(early_stopping=False).partial_fit(X, Y2)
    assert model.n_iter_ == 1 and len(model.loss_curve_) == 9


def test_mlp_06_iterations_of_warm_fits():
    """MLP-06: n_iter_ is that of the last fit, the loss curve goes on."""
    model, lengths, counts = make(max_iter=10, warm_start=True), [], []
    for max_iter in (10, 10, 20):
        fit(model.set_params(max_iter=max_iter), X, Y3)
        counts.append(model.n_iter_)
        lengths.append(len(model.loss_curve_))
    assert counts == [10, 10, 20] and lengths == [10, 20, 40]


def test_mlp_09_batch_sizes():
    """MLP-09: defaults never warn; too large a batch does, and is clipped; the last may be smaller."""
    params = {"loss_threshold": 100.0}  # one epoch, no warning about convergence
    whole = make(**params).fit(X[:30], Y2[:30])
    with pytest.warns(UserWarning, match="batch_size=1000 is larger"):
        clipped = make(batch_size=1000, **params).fit(X[:30], Y2[:30])
    assert_array_equal(parameters(clipped), parameters(whole))
    ragged = make(batch_size=7, **params).fit(X[:30], Y2[:30])
    assert ragged.t_ == 30


@pytest.mark.parametrize("params", [{"solver": "lbfgs", "max_iter": 15}, {"batch_size": 10_000}], ids=str)
@pytest.mark.filterwarnings("ignore:batch_size")
def test_mlp_10_weights_in_the_objective(params):
    """MLP-10: weights 1 to 3 are repeated rows; without a penalty a constant factor means nothing."""
    weight = RNG.integers(1, 4, len(X))
    model = fit(make(alpha=0.01, shuffle=False, **params), X, Y3, sample_weight=weight)
    repeated = fit(
        make(alpha=0.01, shuffle=False, **params), np.repeat(X, weight, axis=0), np.repeat(Y3, weight)
    )
    assert_allclose(parameters(model), parameters(repeated), rtol=1e-6, atol=1e-9)
    free = fit(make(alpha=0.0, **params), X, Y3)
    sevens = fit(make(alpha=0.0, **params), X, Y3, sample_weight=np.full(len(X), 7.0))
    assert_allclose(parameters(sevens), parameters(free), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["balanced", "dict"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_mlp_13_class_weight(kind, solver):
    """MLP-13, FEA-03: the same parameters as with the weights given row by row."""
    y = (SCORE > np.quantile(SCORE, 0.95)).astype(int)
    of_class = len(y) / (2 * np.bincount(y))
    class_weight = "balanced" if kind == "balanced" else dict(enumerate(of_class))
    model = fit(make(solver=solver, class_weight=class_weight), X, y)
    by_row = fit(make(solver=solver), X, y, sample_weight=of_class[y])
    assert_array_equal(parameters(model), parameters(by_row))
    assert_allclose(model.class_weight_, of_class)


def test_mlp_14_unscaled_columns():
    """MLP-14: a warning where columns differ much in scale, none where they do not."""
    raw = X @ RNG.standard_normal((4, 30)) * np.logspace(-3, 3, 30)
    with pytest.warns(UserWarning, match="differ in scale"):
        fit(make(), raw, Y2)
    cancer, y = load_breast_cancer(return_X_y=True)
    with pytest.warns(UserWarning, match="StandardScaler"):
        fit(make(), cancer, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(make(), raw / raw.std(axis=0), Y2)
        fit(make(), np.column_stack([X, np.zeros(120), np.full(120, 7.0)]), Y2)


# -- NUM


def test_num_03_softmax_of_large_scores():
    """NUM-03: shifts do not matter; logarithms stay finite."""
    model = fit(make(), X, Y3)
    for array in model.coefs_ + model.intercepts_:
        array[:] = 0.0
    model.intercepts_[-1][:] = [-1000.0, -1001.0, -1002.0]
    assert_allclose(model.predict_proba(X[:1])[0], [0.665241, 0.244728, 0.090031], atol=5e-7)
    model.intercepts_[-1][:] = [1e4, 0.0, -1e4]
    assert_allclose(model.predict_log_proba(X[:1])[0], [0.0, -1e4, -2e4])
    p = model.predict_proba(X[:1])[0]
    assert p[0] == 1.0 and p[1] > p[2] > 0 and model.predict(X[:1])[0] == 0


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("scale", [1e200, 1e300])
@pytest.mark.filterwarnings("ignore:The columns of X differ")
def test_num_05_huge_values(solver, scale):
    """NUM-05: an error, never NaN."""
    with pytest.raises(ValueError, match="too large|not finite|diverged"):
        fit(make(solver=solver), X * scale, Y2)


def test_num_11_memory_order(tmp_path):
    """NUM-11: C order, Fortran order and a memory map give the same bits."""
    reference = fit(make(), X, Y3)
    np.save(tmp_path / "X.npy", X)
    for other in (np.asfortranarray(X), np.load(tmp_path / "X.npy", mmap_mode="r"), X.tolist()):
        model = fit(make(), other, Y3)
        assert_array_equal(parameters(model), parameters(reference))
        assert_array_equal(model.predict_proba(other), reference.predict_proba(X))


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array])
def test_num_14_constant_columns(layout):
    """NUM-14: finite everywhere; nothing is learnt of a column of zeros."""
    wide = np.column_stack([X, np.zeros(120), np.full(120, 7.0)])
    model = fit(make(alpha=0.0, max_iter=30), layout(wide), Y3)
    start = fit(make(alpha=0.0, max_iter=1, learning_rate_init=1e-300), layout(wide), Y3)
    assert np.isfinite(parameters(model)).all()
    assert_array_equal(model.coefs_[0][4], start.coefs_[0][4])


# -- LAB


def test_lab_01_probabilities_are_a_softmax():
    """LAB-01: of the decision function; their log loss is the data term of the objective."""
    model = fit(make(solver="lbfgs", alpha=0.0), X, Y3)
    z = model.decision_function(X)
    assert_allclose(model.predict_proba(X), softmax(z, axis=1), rtol=1e-12)
    assert_allclose(model.predict_log_proba(X), log_softmax(z, axis=1), rtol=1e-12)
    assert_allclose(model.loss_, -np.mean(log_softmax(z, axis=1)[np.arange(120), Y3]), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["Int64", "boolean", "string", "category"])
def test_lab_03_nullable_labels(dtype, pandas):
    """LAB-03: pandas' extension types as labels; a missing one is named."""
    codes = Y2 == 1 if dtype == "boolean" else Y2.astype(str) if dtype == "string" else Y2
    y = pandas.Series(codes, dtype=dtype, index=np.arange(120)[::-1])
    model = fit(make(early_stopping=True), X, y)
    assert_array_equal(parameters(model), parameters(fit(make(early_stopping=True), X, Y2)))
    assert model.score(X, y) == np.mean(model.predict(X) == np.asarray(y))
    if dtype != "category":
        y = y.copy()
        y.iloc[3] = pandas.NA
        with pytest.raises(ValueError, match="missing values"):
            make().fit(X, y)


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool", "float64", "U3"])
def test_lab_05_dtype_of_predictions(dtype):
    """LAB-05: that of the labels; scorers work."""
    model = fit(make(), X, Y2.astype(dtype))
    assert model.predict(X).dtype == model.classes_.dtype == np.dtype(dtype)
    network = make(loss_threshold=100.0)
    assert np.isfinite(cross_val_score(network, X, Y2.astype(dtype), scoring="accuracy")).all()


def test_lab_06_one_class():
    """LAB-06: an error that says which; a search gives nan to that fold."""
    with pytest.raises(ValueError, match="only one class: .*0"):
        make().fit(X, np.zeros(120, int))
    order = np.argsort(Y2)
    y = np.sort(np.arange(120) >= 80).astype(int)
    with pytest.warns(FitFailedWarning):
        scores = cross_val_score(make(loss_threshold=100.0), X[order], y, cv=KFold(3))
    assert np.isnan(scores).sum() == 1


def test_lab_08_column_of_labels(pandas):
    """LAB-08: a column vector warns and is fitted like 1-d labels."""
    reference = parameters(fit(make(), X, Y3))
    for column in (Y3[:, None], pandas.DataFrame({"y": Y3}), Y3[:, None].tolist()):
        with pytest.warns(DataConversionWarning):
            model = fit(make(), X, column)
        assert_array_equal(parameters(model), reference)
        assert model.predict(X).shape == (120,)


def test_lab_10_plain_python_labels():
    """LAB-10: lists and tuples."""
    names = np.array(["x", "y", "z"])[Y3]
    for y in (names.tolist(), tuple(names)):
        assert_array_equal(parameters(fit(make(), X.tolist(), y)), parameters(fit(make(), X, Y3)))


# -- WGT


@pytest.mark.parametrize(
    "params", [{}, {"solver": "lbfgs"}, {"early_stopping": True}, {"batch_size": 13}], ids=str
)
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array])
def test_wgt_01_weight_zero_is_absence(params, layout):
    """WGT-01: also of wild rows, in batches, shuffles and the validation split."""
    weight, wild, y = RNG.uniform(0.5, 2.0, 120), X.copy(), Y3.copy()
    weight[::3] = 0.0
    keep = weight > 0
    wild[~keep] *= 1e3
    y[~keep] = 2 - y[~keep]
    model = fit(make(**params), layout(wild), y, sample_weight=weight)
    left = fit(make(**params), layout(X[keep]), Y3[keep], sample_weight=weight[keep])
    assert_allclose(parameters(model), parameters(left), rtol=1e-9, atol=1e-11)
    assert model.validation_scores_ == left.validation_scores_


def test_wgt_02_a_class_of_weight_zero():
    """WGT-02: it keeps its column."""
    x = np.arange(12.0).reshape(6, 2) / 6
    model = fit(make(), x, [0, 0, 1, 1, 2, 2], sample_weight=[1, 1, 1, 1, 0, 0])
    assert model.classes_.tolist() == [0, 1, 2] and model.predict_proba(x).shape == (6, 3)


def test_wgt_05_arguments_are_left_alone():
    """WGT-05: no array of the caller's is written to."""
    arrays = [X.copy(), Y3.copy(), np.linspace(1, 2, 120)]
    before = [array.tobytes() for array in arrays]
    model = fit(make(early_stopping=True), *arrays)
    model.predict_proba(arrays[0]), model.score(*arrays)
    model.set_params(early_stopping=False).partial_fit(*arrays)
    assert [array.tobytes() for array in arrays] == before


def test_wgt_08_bad_weights():
    """WGT-08: named; harmless types are the same as float64."""
    ones = np.ones(120)
    for bad in (-ones, 0 * ones, ones * np.nan, ones[1:], ones[:, None], ["a"] * 120):
        with pytest.raises(ValueError, match="sample_weight"):
            make().fit(X, Y3, sample_weight=bad)
    weight = RNG.integers(1, 4, 120)
    reference = parameters(fit(make(), X, Y3, sample_weight=weight.astype(float)))
    for same in (weight.astype(np.int8), weight.astype(np.float32), weight.tolist()):
        assert_array_equal(parameters(fit(make(), X, Y3, sample_weight=same)), reference)
    assert_array_equal(parameters(fit(make(), X, Y3, sample_weight=ones)), parameters(fit(make(), X, Y3)))


def test_wgt_09_keys_of_class_weight():
    """WGT-09: a class that is not there is ignored; one without a weight is named."""
    model = fit(make(class_weight={0: 1, 1: 2, 7: 3}), X, Y2)
    assert_array_equal(model.class_weight_, [1, 2])
    with pytest.raises(ValueError, match="dog"):
        make(class_weight={"dogs": 2, "cat": 1}).fit(X, np.array(["cat", "dog"])[Y2])


# -- INC


def test_inc_01_a_class_announced_but_not_seen():
    """INC-01: its column is there from the start; the first batch may hold one class only."""
    model = make().partial_fit(X[:3], ["a", "b", "c"], classes=list("abcd"))
    assert model.predict_proba(X).shape == (120, 4)
    model.partial_fit(X[3:4], ["d"])
    assert model.predict_proba(X).shape == (120, 4)
    assert make().partial_fit(X[:5], [1] * 5, classes=[0, 1]).predict_proba(X).shape == (120, 2)


def test_inc_02_unknown_labels():
    """INC-02: listed; the model is unchanged and can go on."""
    model = make().partial_fit(X[:60], Y2[:60] + 5, classes=[5, 6])
    assert_unchanged(model, lambda: model.partial_fit(X[:1], [8]), "8")
    assert_unchanged(model, lambda: model.partial_fit(X[:1], [8], classes=[5, 6, 8]), "classes")
    model.partial_fit(X[60:], Y2[60:] + 5)


@pytest.mark.parametrize("mode", ["constant", "invscaling"])
def test_inc_05_the_rate_goes_on(mode):
    """INC-05: a warm fit at the optimum stays there."""
    params = {"solver": "sgd", "learning_rate": mode, "learning_rate_init": 0.2, "batch_size": 120,
              "alpha": 1.0, "tol": 0, "n_iter_no_change": np.inf}  # fmt: skip
    model = fit(make(warm_start=True, max_iter=1000, **params), X, Y3)
    before = model.loss_
    fit(model.set_params(max_iter=5), X, Y3)
    assert max(model.loss_curve_[-5:]) <= before + 1e-4


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_inc_06_inc_12_passes_are_epochs(solver):
    """INC-06, INC-12: k calls of partial_fit are a fit of k epochs, and so are k warm fits of one."""
    params = {"solver": solver, "shuffle": False, "tol": 0, "n_iter_no_change": np.inf}
    whole = fit(make(**params), X, Y3)
    stream, warm = make(**params), make(**{**params, "max_iter": 1, "warm_start": True})
    for _ in range(8):
        stream.partial_fit(X, Y3, classes=[0, 1, 2])
        fit(warm, X, Y3)
    assert_array_equal(parameters(stream), parameters(whole))
    assert_array_equal(parameters(warm), parameters(whole))
    assert stream.loss_curve_ == warm.loss_curve_ == whole.loss_curve_


@pytest.mark.parametrize("labels", [[0, 1], [0, 2], [0, 1, 2, 3], ["a", "b", "c"]], ids=str)
def test_inc_07_other_classes_in_a_warm_fit(labels):
    """INC-07: an error that shows both; nothing is mixed."""
    model = fit(make(warm_start=True), X, Y3)
    y = np.array(labels)[np.arange(120) % len(labels)]
    assert_unchanged(model, lambda: model.fit(X, y), "same classes as in the previous call")


@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array])
def test_inc_11_another_number_of_columns(layout):
    """INC-11: refused, the state unchanged."""
    model = make().partial_fit(layout(X), Y3, classes=[0, 1, 2])
    for columns in ([0, 1, 2], [0, 1, 2, 3, 3]):
        other = layout(X[:, columns])
        assert_unchanged(model, lambda other=other: model.partial_fit(other, Y3), "features")


def test_inc_13_warm_fits_have_an_effect():
    """INC-13: ten more epochs are not worse than ten."""
    model = fit(make(max_iter=10, warm_start=True), X, Y3)
    first = model.loss_
    assert fit(model, X, Y3).loss_ < first
    assert model.loss_ == fit(make(max_iter=20), X, Y3).loss_


def test_inc_14_balanced_streams():
    """INC-14: running counts: after the last batch the weights of all rows at once."""
    y = (SCORE > np.quantile(SCORE, 0.9)).astype(int)
    model = make(class_weight="balanced")
    for part in np.array_split(np.arange(120), 6):
        model.partial_fit(X[part], y[part], classes=[0, 1])
    assert_allclose(model.class_weight_, 120 / (2 * np.bincount(y)))


# -- PAR, UX


def test_par_10_random_state():
    """PAR-10: a seed repeats and leaves NumPy's own generator alone; a generator goes on."""
    state = np.random.get_state()[1].copy()
    assert_array_equal(parameters(fit(make(), X, Y3)), parameters(fit(make(), X, Y3)))
    assert_array_equal(np.random.get_state()[1], state)
    generator = np.random.RandomState(0)
    one, two = (parameters(fit(make(random_state=generator), X, Y3)) for _ in range(2))
    assert (one != two).any()


def test_par_16_threads_do_not_matter():
    """PAR-16, PAR-08: the same bits for every n_jobs, also of a network whose batches are cut."""
    big, y = make_classification(500, 300, n_informative=20, n_classes=3, random_state=0)
    params = {"hidden_layer_sizes": (200,), "batch_size": 400, "max_iter": 2}
    assert_array_equal(*(parameters(fit(make(n_jobs=n, **params), big, y)) for n in (1, 2)))


INTERRUPTED = """
import json, os, signal, threading, time, warnings
import numpy as np
from skbigmodel import GDMLPClassifier

rng = np.random.default_rng(0)
X = rng.normal(size=(2000, 20))
y = (X[:, 0] > 0).astype(int)
report = []
for params in ({"tol": 0.0, "n_iter_no_change": np.inf}, {"solver": "lbfgs", "tol": 0.0, "max_fun": 10**9}):
    make = lambda max_iter: GDMLPClassifier(random_state=0, max_iter=max_iter, warm_start=True, **params)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        make(2).fit(X, rng.permutation(y))
        seen.clear()
        sent = []
        send = lambda: (sent.append(time.monotonic()), os.kill(os.getpid(), signal.SIGINT))
        threading.Timer(0.7, send).start()
        model = make(10**9).fit(X, rng.permutation(y))
        late = time.monotonic() - sent[0]
    text = [str(w.message) for w in seen]
    usable = model.n_iter_ == len(model.loss_curve_) and model.loss_curve_[-1] < model.loss_curve_[0]
    report.append([late, text, bool(usable and model.predict(X).shape == (2000,))])
print(json.dumps(report))
"""


def test_ux_01_interrupt(run_python):
    """UX-01: Ctrl-C ends a fit soon, with one warning and a model."""
    for late, text, usable in json.loads(run_python(INTERRUPTED).stdout):
        assert late < 2.0 and len(text) == 1 and "interrupted" in text[0] and usable


# -- MEM


def test_mem_10_pickles_hold_parameters_only():
    """MEM-10: they are as large for a hundred times the rows, after a fit and in a stream."""
    many, labels, sizes = np.tile(X, (100, 1)), np.tile(Y3, 100), []
    for data in ((X, Y3), (many, labels)):
        models = [
            fit(make(**params), *data) for params in ({}, {"early_stopping": True}, {"solver": "lbfgs"})
        ]
        models.append(make().partial_fit(*data, classes=[0, 1, 2]))
        sizes.append([len(pickle.dumps(model)) for model in models])
    assert np.abs(np.diff(sizes, axis=0)).max() < 500, sizes


# -- DSK


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"preset": "tuned"}], ids=str)
def test_dsk_06_rows_sorted_by_label(kind, params, monkeypatch):
    """DSK-06: batches mix the rows of a source as those in memory: the same bits, however they are sorted."""
    monkeypatch.setattr("skbigmodel.slices.SLICE_BYTES", 8 * 4 * 5)  # 5 rows in a block, 40 at a time
    order = np.argsort(Y3)
    rows, y, s = X[order], Y3[order], RNG.uniform(0.5, 2.0, 120)
    source = Foreign(rows)
    if kind == "sparse":
        rows = sparse.csr_array(np.where(rows > 0.3, rows, 0.0))
        source = StackedRows([rows[:50], rows[50:]])
    model, other = (fit(make(batch_size=15, **params), Z, y, sample_weight=s) for Z in (rows, source))
    assert_array_equal(parameters(other), parameters(model))
    assert_allclose(other.loss_curve_, model.loss_curve_, rtol=1e-13)  # sums of other parts
    if model.validation_scores_ is not None:
        assert_allclose(other.validation_scores_, model.validation_scores_, rtol=1e-5)


# -- FEA


def test_fea_14_the_same_network_and_dropout():
    """FEA-14: many rows of 8 columns: scikit-learn's accuracy at its settings, and dropout besides."""
    many = np.random.default_rng(0).standard_normal((6000, 8))
    y = (many[:, 0] * many[:, 1] + many[:, 2] > 0).astype(int)
    params = {"hidden_layer_sizes": (32,), "learning_rate_init": 0.01, "max_iter": 8, "random_state": 0}
    twin, ours = fit(MLPClassifier(**params), many[:4000], y[:4000]), GDMLPClassifier(**params)
    fit(ours, many[:4000], y[:4000])
    assert_allclose(ours.loss_curve_, twin.loss_curve_, rtol=1e-9)
    assert ours.score(many[4000:], y[4000:]) == twin.score(many[4000:], y[4000:]) > 0.9
    dropping = fit(GDMLPClassifier(**params, dropout=0.2), many[:4000], y[:4000])
    assert dropping.loss_ > ours.loss_ and dropping.score(many[4000:], y[4000:]) > 0.85
    assert_array_equal(dropping.predict(many), dropping.predict(many))


# -- PER


@pytest.fixture(params=["unfitted", "fitted", "partially fitted", "lbfgs"])
def model(request):
    """Before and after training."""
    network = make(solver="lbfgs" if request.param == "lbfgs" else "adam")
    if request.param == "partially fitted":
        return network.partial_fit(X, Y3, classes=[0, 1, 2])
    return network if request.param == "unfitted" else fit(network, X, Y3)


def test_per_01_older_pickles(model):
    """PER-01: a parameter that did not exist has its default; the version is named."""
    state = model.__getstate__()
    del state["dropout"]
    state["_skbigmodel_version"] = "0.0.1"
    other = GDMLPClassifier()
    with pytest.warns(UserWarning, match="0.0.1"):
        other.__setstate__(state)
    assert other.dropout == 0.0
    if hasattr(model, "coefs_"):
        assert_array_equal(other.predict(X), model.predict(X))


def test_per_02_pickles_hold_only_arrays_and_plain_python(model):
    """PER-02: no compiled object, no class of the engine."""
    names = [
        str(argument) for _, argument, _ in pickletools.genops(pickle.dumps(model)) if argument is not None
    ]
    assert not [name for name in names if "numba" in name or "skbigmodel.passes" in name or "solvers" in name]


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_per_04_copies_go_on_alike(model, copier):
    """PER-04: copies predict the same and train on with the same bits."""
    twin = copier(model)
    assert repr(twin) == repr(model)
    if model.solver != "lbfgs":
        for each in (twin, model):
            each.partial_fit(X, Y3, classes=[0, 1, 2])
        assert_array_equal(parameters(twin), parameters(model))
    assert_array_equal(parameters(fit(twin, X, Y3)), parameters(fit(model, X, Y3)))
