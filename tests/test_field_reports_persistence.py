"""Field reports PER: old pickles, pickles without compiled code, every way of copying, workers."""

import copy
import json
import pickle
import pickletools
from functools import partial

import joblib
import numpy as np
import pytest
from conftest import CASES
from numpy.testing import assert_array_equal

from skbigmodel import GDLinearRegressor
from skbigmodel.losses import Huber

cloudpickled = partial(joblib.wrap_non_picklable_objects, keep_wrapper=False)
ALLOWED = {"skbigmodel", "numpy", "builtins", "copyreg", "_codecs"}
COPIERS = {
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "old pickle": lambda model, path: pickle.loads(pickle.dumps(model, protocol=2)),
    "cloudpickle": lambda model, path: pickle.loads(pickle.dumps(cloudpickled(model))),
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "joblib": lambda model, path: joblib.load(*joblib.dump(model, path / "model.joblib")),
    "mapped": lambda model, path: joblib.load(*joblib.dump(model, path / "model.joblib"), mmap_mode="r"),
}


@pytest.fixture(params=["unfitted", "fitted", "partially fitted", "object loss"])
def stage(request, case):
    """A model before and after training, with X and y."""
    X, y = case.data()
    model = case.make(random_state=0)
    if request.param == "fitted":
        model.fit(X, y)
    elif request.param == "partially fitted":
        model.partial_fit(X, y, **case.classes(y))
    elif request.param == "object loss" and case.kind == "regressor":
        model.set_params(loss=Huber(delta=1.35)).fit(X, y)
    return case, model, X, y


def globals_of(data):
    """Top-level modules of the classes and functions that a pickle refers to."""
    strings, modules = [], set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            modules.add(argument.split(" ")[0])
        elif opcode.name == "STACK_GLOBAL":
            modules.add(strings[-2])
        if isinstance(argument, str):
            strings.append(argument)
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("copier", COPIERS)
def test_per_04_every_way_of_copying(stage, copier, tmp_path):
    """PER-04: copies predict the same, and go on training with the same bits."""
    case, model, X, y = stage
    twin = COPIERS[copier](model, tmp_path)
    assert repr(twin) == repr(model)
    if hasattr(model, "coef_"):
        assert_array_equal(case.raw(twin, X), case.raw(model, X))
    for each in (twin, model):
        each.partial_fit(X, y, **({} if hasattr(each, "coef_") else case.classes(y)))
    assert_array_equal(twin.coef_, model.coef_)
    assert_array_equal(twin.fit(X, y).coef_, model.fit(X, y).coef_)


def test_per_04_worker_processes(stage):
    """PER-04: a model goes to a worker process, is trained there, and comes back."""
    case, model, X, y = stage
    [back] = joblib.Parallel(n_jobs=2)([joblib.delayed(model.fit)(X, y)])
    assert_array_equal(back.coef_, model.fit(X, y).coef_)


def test_per_02_pickles_hold_only_arrays_and_plain_python(stage):
    """PER-02: the pickle names no module of numba, no code object, no compiled function."""
    _, model, _, _ = stage
    for protocol in (2, 5):
        assert globals_of(pickle.dumps(model, protocol=protocol)) - {"__builtin__", "copy_reg"} <= ALLOWED


def test_per_02_loads_where_numba_is_missing(run_python, tmp_path):
    """PER-02: pickles load with numba out of reach, also with a loss given as an object, and predict the same
    once it is back.
    """
    fits = [(case, case(), *case.data()) for case in CASES.values()]
    line = np.arange(10.0)[:, None], np.r_[np.arange(9.0), 100.0]
    fits.append((CASES["R"], GDLinearRegressor(loss=Huber(delta=1.0)), *line))
    pairs = [(model.fit(X, y), X) for _, model, X, y in fits]
    (tmp_path / "models.pkl").write_bytes(pickle.dumps(pairs))
    done = run_python(
        """
        import json, pickle, sys
        sys.modules["numba"] = None
        pairs = pickle.load(open(sys.argv[1], "rb"))
        [model.coef_.shape for model, _ in pairs]
        del sys.modules["numba"]
        raw = [getattr(model, "decision_function", model.predict)(X).tolist() for model, X in pairs]
        print(json.dumps(raw))
        """,
        tmp_path / "models.pkl",
    )
    for (case, model, X, _), found in zip(fits, json.loads(done.stdout), strict=True):
        assert_array_equal(found, case.raw(model, X))


def test_per_01_old_pickles(case):
    """PER-01: an older version's state, without a newer parameter and attribute: a warning, then it works."""
    X, y = case.data()
    model = case.make().fit(X, y)
    state = copy.deepcopy(model.__getstate__())
    [stamp] = [key for key in state if "version" in key]
    state[stamp] = "0.0.0"
    del state["max_time"], state["optimality_"]
    old = type(model).__new__(type(model))
    with pytest.warns(UserWarning, match=r"0\.0\.0"):
        old.__setstate__(state)
    assert_array_equal(case.raw(old, X), case.raw(model, X))
    assert old.get_params() == model.get_params()
    assert_array_equal(old.fit(X, y).coef_, model.coef_)


def test_per_01_same_version_is_silent(case):
    """PER-01: no warning where nothing has changed (warnings are errors here)."""
    X, y = case.data()
    model = pickle.loads(pickle.dumps(case.make().fit(X, y)))
    assert np.isfinite(model.coef_).all()


def test_per_04_object_parameters_survive(tmp_path):
    """PER-04: a loss given as an object is the same loss afterwards."""
    X, y = np.arange(10.0)[:, None], np.r_[np.arange(9.0), 100.0]
    model = GDLinearRegressor(loss=Huber(delta=1.0), tol=1e-8).fit(X, y)
    twin = pickle.loads(pickle.dumps(model))
    assert twin.loss == Huber(delta=1.0)
    assert_array_equal(twin.fit(X, y).coef_, model.coef_)
