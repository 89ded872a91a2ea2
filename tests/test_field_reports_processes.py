"""Field reports PAR, UX, FEA-09, MEM-10: threads, forks, unwritable caches, seeds, imports, warnings."""

import json
import shutil
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

import skbigmodel

PACKAGE = Path(skbigmodel.__file__).parent
# Two models on data of several blocks, their results, and a check that a fit elsewhere gives the same bits.
MODELS = """
import sys
import numpy as np
from sklearn.base import clone
from skbigmodel import GDLinearRegressor, GDLogisticClassifier

X = np.random.default_rng(0).standard_normal((20_000, 5))
y = (X[:, 0] + np.random.default_rng(1).standard_normal(len(X)) > 0).astype(int)
models = [GDLinearRegressor(), GDLogisticClassifier()]

def results(model):
    model = clone(model).fit(X, y)
    return np.concatenate([model.coef_.ravel(), np.ravel(model.intercept_), model.predict(X)])

def same(*_):
    return all(np.array_equal(results(model), value) for model, value in zip(models, expected))
"""


def test_par_01_workqueue_layer_from_several_threads(run_python):
    """PAR-01: four threads fit and predict 20 times under the workqueue layer: no abort, serial results."""
    run_python(
        MODELS
        + """
from concurrent.futures import ThreadPoolExecutor
from joblib import Parallel, delayed
expected = [results(model) for model in models]
with ThreadPoolExecutor(4) as pool:
    assert all(pool.map(same, range(20)))
assert all(Parallel(n_jobs=4, backend="threading")(delayed(same)() for _ in range(8)))
""",
        NUMBA_THREADING_LAYER="workqueue",
    )


FORKS = (
    MODELS
    + """
import multiprocessing, os
expected = [results(model) for model in models]
fork = multiprocessing.get_context("fork")
child = fork.Process(target=lambda: os._exit(0 if same() else 1))
child.start()
child.join(60)
with fork.Pool(2) as pool:
    pooled = pool.map_async(same, range(4)).get(60)
pid = os.fork()
if pid == 0:
    os._exit(0 if same() else 1)
print(child.exitcode, pooled, os.waitpid(pid, 0)[1])
"""
)


def test_par_02_forked_children(run_python):
    """PAR-02: after a fit in the parent, forks (Process, Pool, os.fork) fit and predict the same."""

    def told(layer):
        return run_python(FORKS, NUMBA_THREADING_LAYER=layer).stdout.split("\n")[0]

    with ThreadPoolExecutor() as pool:
        assert set(pool.map(told, ["default", "workqueue", "omp"])) == {"0 [True, True, True, True] 0"}


SMALL_FITS = """
import numpy as np
import skbigmodel
from skbigmodel import GDLinearRegressor, GDLogisticClassifier
assert sys.argv[1] in skbigmodel.__file__, skbigmodel.__file__
X = np.array([[-1.0], [1.0]])
assert abs(GDLinearRegressor().fit(X, [0, 2]).coef_[0] - 1) < 1e-9
assert abs(GDLogisticClassifier(tol=1e-10).fit(X, [0, 1]).coef_[0, 0] - 0.674832) < 1e-6
"""
NO_CACHE = {
    "HOME": "/dev/null",
    "XDG_CACHE_HOME": None,
    "NUMBA_CACHE_DIR": None,
    "PYTHONDONTWRITEBYTECODE": "1",
    "TMPDIR": "/dev/null",
}


def without_a_place(folder):
    """Where a copy of the package is that has no place for a cache beside its sources."""
    copy = folder / "site" / "skbigmodel"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for place in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        (place / "__pycache__").touch()  # a file of this name stops even root from making the folder
    return copy.parent


def zipped(folder):
    """A zip file with the package: numba finds no source file to put a cache beside."""
    archive = folder / "site.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in PACKAGE.rglob("*.py"):
            file.write(path, Path("skbigmodel") / path.relative_to(PACKAGE))
    return archive


def test_par_03_no_place_for_a_cache(run_python, tmp_path):
    """PAR-03: import and fit from a read-only install and from a zip file, without HOME or any folder for
    temporary files.
    """

    def warnings_of(place):  # first in sys.path: whatever finds an installed package comes later
        code = f"import sys\nsys.path.insert(0, {str(place)!r})\n" + SMALL_FITS
        return run_python(code, place, PYTHONPATH="", **NO_CACHE).stderr.count("Warning")

    with ThreadPoolExecutor() as pool:
        assert max(pool.map(warnings_of, [without_a_place(tmp_path), zipped(tmp_path)])) <= 1


def fitted_bits(model, X, y):
    """What a fit found, budget warnings aside: here only the sameness of the steps matters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    return np.append(model.coef_.ravel(), model.intercept_)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "nesterov", "saga", "sgd", "adam"])
def test_par_08_thread_counts(case, solver):
    """PAR-08, FEA-11: 1, 2, 3 and 4 threads on data of several blocks give the same bits in every run."""
    X, y = case.data(n=30_000, d=10)
    runs = [
        fitted_bits(case.make(solver=solver, random_state=0, n_jobs=n_jobs, max_iter=20), X, y)
        for n_jobs in (1, 2, 3, 4, 1, 2)
    ]
    for run in runs[1:]:
        assert_array_equal(run, runs[0])


def test_par_08_heap_layout(case, solver):
    """PAR-08: the same bits wherever malloc puts the buffers.

    Compiled loops are guarded by checks that arrays do not overlap, and neighbours can fail them: then
    another version of the loop runs, which must not add in another order.
    """
    X, y = case.data(n=600)
    model, rng, kept, results = case.make(solver=solver, random_state=0), np.random.default_rng(0), [], set()
    for _ in range(100):
        kept.append(np.empty(rng.integers(1, 3000)))
        results.add(fitted_bits(model, X[::-1][:400], y[:400]).tobytes())  # a view, so that each fit copies X
    assert len(results) == 1


@pytest.mark.parametrize("solver", ["sgd", "adam", "saga"])
def test_par_10_seeds(case, solver):
    """PAR-10: an int repeats and leaves NumPy's state alone; an instance advances; None follows NumPy."""
    X, y = case.data(n=200)

    def bits(seed):
        return fitted_bits(case.make(solver=solver, batch_size=20, max_iter=2, random_state=seed), X, y)

    before = np.random.get_state()[1].copy()
    assert_array_equal(bits(0), bits(0))
    assert_array_equal(np.random.get_state()[1], before)
    assert not np.array_equal(bits(0), bits(1))
    instance = np.random.RandomState(0)
    assert not np.array_equal(bits(instance), bits(instance))
    state = np.random.get_state()
    try:
        np.random.seed(0)
        first = bits(None)
        np.random.seed(0)
        assert_array_equal(bits(None), first)
    finally:
        np.random.set_state(state)


def test_par_11_import_compiles_nothing(run_python):
    """PAR-11: importing the package and making estimators loads and compiles no kernel, loads no extra."""
    done = run_python(
        """
        import gc, json, sys
        import skbigmodel
        repr([skbigmodel.GDLinearRegressor(), skbigmodel.GDLogisticClassifier()])
        kernels = [thing for thing in gc.get_objects() if type(thing).__name__ == "CPUDispatcher"]
        compiled = [str(kernel) for kernel in kernels if kernel.signatures]
        heavy = {"dask", "distributed", "matplotlib", "skbigmodel.passes_linear"}
        print(json.dumps(compiled + sorted(heavy & set(sys.modules))))
        """
    )
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("solver", ["sgd", "saga"])
def test_par_16_random_state_instance_with_threads(classifier, solver):
    """PAR-16: fresh instances of one seed, 1 and 2 threads: one result; one instance twice: two."""
    X, y = classifier.data(n=200, n_classes=3)
    params = {"solver": solver, "batch_size": 20, "max_iter": 2}

    def bits(instance, n_jobs):
        return fitted_bits(classifier.make(random_state=instance, n_jobs=n_jobs, **params), X, y)

    runs = [bits(np.random.RandomState(1), n_jobs) for n_jobs in (1, 2) * 10]
    for run in runs[1:]:
        assert_array_equal(run, runs[0])
    instance = np.random.RandomState(1)
    assert_array_equal(bits(instance, 1), runs[0])
    assert not np.array_equal(bits(instance, 1), runs[0])


@pytest.mark.parametrize("n_classes", [2, 5])
def test_ux_03_one_convergence_warning_per_fit(classifier, n_classes):
    """UX-03: a budget of 1 gives one warning of scikit-learn's class, however many classes there are."""
    X, y = classifier.data(n=2400, n_classes=n_classes)
    with pytest.warns(ConvergenceWarning) as seen:
        classifier.make(max_iter=1, tol=1e-14).fit(X, y)
    assert len(seen) == 1


def test_ux_03_mem_10_searches_over_worker_processes(run_python, tmp_path):
    """UX-03: a filter set in the parent silences the workers of a search. MEM-10: after a search with mapped
    data (20 MB) the temporary folder is empty.
    """
    folder = tmp_path / "joblib"
    folder.mkdir()
    done = run_python(
        """
        import warnings
        import numpy as np
        from sklearn.datasets import make_classification
        from sklearn.model_selection import GridSearchCV
        from skbigmodel import GDLogisticClassifier
        warnings.simplefilter("ignore")
        X, y = make_classification(random_state=0)
        search = GridSearchCV(GDLogisticClassifier(max_iter=1, tol=1e-14), {"C": [0.1, 1.0]}, cv=2, n_jobs=2)
        print(search.fit(X, y).best_score_ > 0.5)
        X = np.random.default_rng(0).random((50_000, 50))
        search.set_params(estimator=GDLogisticClassifier())
        print(search.fit(X, (X[:, 0] > 0.5).astype(int)).best_score_ > 0.9)
        """,
        JOBLIB_TEMP_FOLDER=str(folder),
    )
    assert done.stdout == "True\nTrue\n"
    assert "Convergence" not in done.stderr
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_fea_09_time_limit(case):
    """FEA-09: a fit that would never end stops at max_time, says so, and leaves a usable model."""
    X, y = case.data(n=200)
    with pytest.warns(ConvergenceWarning, match="max_time"):
        model = case.make(solver="gd", learning_rate=1e-5, tol=0, max_iter=10**9, max_time=0.2).fit(X, y)
    assert model.score(X, y) > 0
    assert model.loss_curve_[-1] < model.loss_curve_[0]
