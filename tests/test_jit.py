"""Compilation: elementary functions to the last digit, one specialisation per layout,
a cache that is never stale.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

import skbigmodel
from skbigmodel import GDLinearRegressor, _jit, passes_linear
from skbigmodel._jit import compiled_signatures, exp, frozen, jit, log1p_unit, method, power_of_two
from skbigmodel.rows import as_rows

PACKAGE = Path(skbigmodel.__file__).parent


def map_jitted(function, x):
    return np.array([function(v) for v in x])


# -- elementary functions --------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda f: f, lambda f: f.py_func], ids=["jitted", "plain"])
def test_exp(form):
    """Within 2 ulp of NumPy's over the whole range; clipped at its ends; NaN stays."""
    x = np.concatenate([np.linspace(-708, 708, 4001), np.linspace(-1, 1, 1001), [0.0, -0.0, 1e-300, 5e-324]])
    assert_allclose(map_jitted(form(exp), x), np.exp(x), rtol=5e-16)
    assert_array_equal(map_jitted(form(exp), [-1e300, -np.inf, -709.0]), [form(exp)(-708.0)] * 3)
    assert_array_equal(map_jitted(form(exp), [1e300, np.inf, 709.0]), [form(exp)(708.0)] * 3)
    assert np.isnan(exp(np.nan)) and form(exp)(0.0) == 1.0


@pytest.mark.parametrize("form", [lambda f: f, lambda f: f.py_func], ids=["jitted", "plain"])
def test_log1p(form):
    """Within 2 ulp of NumPy's on [0, 1], tiny arguments included."""
    x = np.concatenate([np.linspace(0, 1, 4001), np.logspace(-300, 0, 1001)])
    assert_allclose(map_jitted(form(log1p_unit), x), np.log1p(x), rtol=5e-16)
    assert np.isnan(form(log1p_unit)(np.nan))


def test_power_of_two():
    """Exactly, over the range of normal numbers."""
    k = np.arange(-1022.0, 1024.0)
    assert_array_equal(map_jitted(power_of_two, k), np.exp2(k))


# -- frozen ----------------------------------------------------------------------------------------


def test_frozen():
    """A read-only view; a copy only where layout or dtype differ; the caller's array stays as it was."""
    X = np.arange(12.0).reshape(3, 4)
    view = frozen(X)
    assert np.shares_memory(view, X) and not view.flags.writeable and X.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0.0
    X[0, 0] = 7.0
    assert view[0, 0] == 7.0
    for other in (X.T, X[:, ::2], np.asfortranarray(X)):
        assert frozen(other).flags.c_contiguous and not np.shares_memory(frozen(other), X)
        assert_array_equal(frozen(other), other)
    assert frozen([1, 2], np.float64).dtype == np.float64
    assert type(frozen(np.ma.array([[1.0]]))) is np.ndarray


# -- methods of NamedTuples in kernels -------------------------------------------------------------


@method
def area(self, scale):
    """Called by the kernel below."""
    return self.area(scale)


def outline(self, scale):
    return getattr(self, "outline", self.area)(scale)


method(outline, fallback="area")


class Square(NamedTuple):
    side: float

    def area(self, scale):
        return scale * self.side * self.side


class Disc(NamedTuple):
    radius: float

    def area(self, scale):
        return scale * 3.0 * self.radius * self.radius

    def outline(self, scale):
        return scale * 6.0 * self.radius


@jit
def measure(shape):
    return area(shape, 10.0), outline(shape, 1.0)


def test_methods():
    """Chosen by the class of the object; a class without one uses the other's name."""
    assert measure(Square(2.0)) == measure.py_func(Square(2.0)) == (40.0, 4.0)
    assert measure(Disc(1.0)) == measure.py_func(Disc(1.0)) == (30.0, 6.0)


def test_only_namedtuples_have_methods():
    """Anything else is an error while compiling, not a wrong result."""
    with pytest.raises(Exception, match="area"):
        measure(1.0)


# -- specialisations -------------------------------------------------------------------------------


@jit
def sum_of_rows(rows, s, out):
    total = 0.0
    for i in range(rows.X.shape[0]):
        total += s[i] * rows.X[i, 0]
    out[0] = total


def test_one_specialisation_for_every_kind_of_array(tmp_path):
    """Writable, read-only, sliced and memory-mapped arrays, whatever their memory order,
    are one to a kernel.
    """
    X, s, out = np.arange(6.0).reshape(3, 2), np.ones(3), np.empty(1)
    mapped = np.memmap(tmp_path / "X", np.float64, "w+", shape=X.shape)
    mapped[:] = X
    read_only = X.copy()
    read_only.flags.writeable = False
    mapped_to_read = np.memmap(tmp_path / "X", np.float64, "r", shape=X.shape)
    for kind in (X, read_only, mapped, mapped_to_read, np.asfortranarray(X), np.vstack([X, X])[:3]):
        sum_of_rows(as_rows(kind), frozen(s), out)
        assert out[0] == 6.0
    assert compiled_signatures(sum_of_rows) == 1
    sum_of_rows(as_rows(X.astype(np.float32)), frozen(s), out)
    assert compiled_signatures(sum_of_rows) == 2


def test_fits_share_their_kernels(tmp_path, run_python):
    """A fit of each kind of float64 array compiles a pass once, of float32 and of CSR once more each."""
    done = run_python(
        """
        import sys
        import numpy as np
        from scipy import sparse
        from skbigmodel import GDLinearRegressor
        X = np.random.default_rng(0).normal(size=(40, 2))
        y = X[:, 0] + np.random.default_rng(1).normal(size=40)
        mapped = np.memmap(sys.argv[1], np.float64, "w+", shape=X.shape)
        mapped[:] = X
        fixed = X.copy()
        fixed.flags.writeable = False
        wide = sparse.csr_matrix(X)
        wide.indptr = wide.indptr.astype(np.int64)
        from skbigmodel import passes_linear
        from skbigmodel._jit import compiled_signatures
        counts = []
        dense = [X, fixed, mapped, X[::-1], np.asfortranarray(X)]
        for kinds in (dense, [X.astype(np.float32)], [sparse.csr_array(X), wide]):
            for kind in kinds:
                GDLinearRegressor(loss="huber").fit(kind, y)
                GDLinearRegressor(loss="huber").fit(kind, y, sample_weight=np.arange(40))
            counts.append(compiled_signatures(passes_linear.loss_and_grad))
        print(counts)
        """,
        tmp_path / "X",
    )
    assert json.loads(done.stdout) == [1, 2, 3]


# -- the cache on disk -----------------------------------------------------------------------------

RUN = """
import json
import numpy as np
from skbigmodel import losses, passes_linear
from skbigmodel._jit import frozen
from skbigmodel.rows import as_rows

rows, one, theta = as_rows(np.ones((1, 1))), frozen([1.0]), frozen([3.0])
value = passes_linear.loss_and_grad(rows, frozen([0.0]), one, losses.Huber(1.0), theta, False, np.zeros(1))
passes_linear.decision(rows, theta, False, np.empty(1))
kernels = [passes_linear.loss_and_grad, passes_linear.decision]
names = ("cache_hits", "cache_misses")
counts = [sum(len(getattr(kernel.stats, name)) for kernel in kernels) for name in names]
print(json.dumps([*counts, value]))
"""


def copy_of_package(folder):
    """The folder of a copy: sources only, of which the kernels alone are imported and not scikit-learn."""
    copy = folder / "site" / "skbigmodel"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__init__.py").write_text("__version__ = '0'\n")
    return copy


def run_copy(run_python, package, cache, code=RUN, **env):
    code = f"import sys\nsys.path.insert(0, {str(package.parent)!r})\n" + code
    return json.loads(
        run_python(code, NUMBA_CACHE_DIR=str(cache), PYTHONPATH=str(package.parent), **env).stdout
    )


@pytest.fixture(scope="module")
def first_run(run_python, tmp_path_factory):
    """A copy of the package, and the cache that a first process has filled."""
    folder = tmp_path_factory.mktemp("first")
    package = copy_of_package(folder)
    assert run_copy(run_python, package, folder / "cache") == [0, 2, 2.5]
    return package, folder / "cache"


@pytest.fixture
def cached(first_run, tmp_path):
    """The copy of the package, and a cache of this test's own as the first process has left it."""
    package, cache = first_run
    return package, shutil.copytree(cache, tmp_path / "cache")


def test_cache_between_processes(run_python, cached):
    """The second process compiles nothing; after an edit of a loss the next one runs the new formula."""
    package, cache = cached
    assert run_copy(run_python, package, cache) == [2, 0, 2.5]
    losses = package / "losses.py"
    source = losses.read_text(encoding="utf-8")
    assert source.count("return q * (r - 0.5 * q)") == 1
    edited = source.replace("return q * (r - 0.5 * q)", "return 2.0 * q * (r - 0.5 * q)")
    try:
        losses.write_text(edited, encoding="utf-8")
        assert run_copy(run_python, package, cache) == [0, 2, 5.0]
    finally:
        losses.write_text(source, encoding="utf-8")


def test_damaged_cache(run_python, cached):
    """Files cut short or filled with rubbish cost a compilation, nothing else."""
    package, cache = cached
    files = sorted(path for path in cache.rglob("*") if path.suffix in (".nbi", ".nbc"))
    assert len(files) >= 4
    for k, path in enumerate(files):
        path.write_bytes(path.read_bytes()[:20] if k % 2 else b"rubbish")
    assert run_copy(run_python, package, cache) == [0, 2, 2.5]


OWN_LOSS = """
from typing import NamedTuple

class Own(NamedTuple):
    def value(self, y, z):
        return FACTOR * (z - y)
    def derivative(self, y, z):
        return FACTOR
""" + RUN.replace("losses.Huber(1.0)", "Own()")


def test_own_loss_is_not_stored(run_python, cached):
    """A class of the user's is compiled in every process: its source may have changed, as here it has."""
    package, cache = cached
    for factor in (1.0, 4.0):
        code = OWN_LOSS.replace("FACTOR", str(factor))
        # the hit is the other kernel's, which has no loss
        assert run_copy(run_python, package, cache, code) == [1, 1, 3.0 * factor]
    stored = b"".join(path.read_bytes() for path in cache.rglob("*loss_and_grad*"))
    assert b"Huber" in stored and b"Own" not in stored


def test_nowhere_to_write(run_python, tmp_path):
    """No folder beside the sources, no home, no cache folder: imports, compiles, fits."""
    package = copy_of_package(tmp_path)
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__pycache__").touch()  # a file of this name stops even root from making the folder
    code = RUN + (
        "from skbigmodel.linear_regression import GDLinearRegressor as Model\n"
        "assert abs(Model().fit([[0.0], [1.0]], [0.0, 2.0]).coef_[0] - 2.0) < 1e-12\n"
    )
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": None, "TMPDIR": "/dev/null"}
    hits, _, value = run_copy(run_python, package, "/dev/null/cache", code, **nowhere)
    assert hits == 0 and value == 2.5


def test_without_compilation(run_python):
    """The same classes and passes as plain Python find the same optima: those of scikit-learn."""
    run_python(
        """
        import numpy as np
        from numpy.testing import assert_allclose
        from scipy import sparse
        from sklearn import linear_model as twins
        from skbigmodel import GDLinearRegressor, GDLogisticClassifier

        X = np.random.default_rng(0).normal(size=(25, 2))
        y = X[:, 0] + np.random.default_rng(1).normal(size=25)
        exact = {"solver": "newton-cholesky", "tol": 1e-12}
        for model, twin, A, target in [
            (GDLinearRegressor(), twins.LinearRegression(), X, y),
            (GDLinearRegressor(alpha=0.1, l1_ratio=0.5), twins.ElasticNet(alpha=0.1, tol=1e-12), X, y),
            (GDLinearRegressor(loss="poisson", alpha=0.1), twins.PoissonRegressor(alpha=0.1, **exact),
             sparse.csr_array(X), np.exp(y)),
            (GDLogisticClassifier(), twins.LogisticRegression(**exact), X, y > 0),
            (GDLogisticClassifier(), twins.LogisticRegression(**exact), X, np.digitize(y, [-0.5, 0.5])),
        ]:
            model.set_params(tol=1e-9).fit(A, target)
            assert_allclose(model.coef_, twin.fit(A, target).coef_, atol=1e-6)
        """,
        NUMBA_DISABLE_JIT="1",
    )


def test_kernels_release_the_gil_and_see_nan():
    """The options that threads and the watch for divergence rely on."""
    options = passes_linear.loss_and_grad.targetoptions
    assert options["nogil"] and options["error_model"] == "numpy"
    assert set(options["fastmath"]) == _jit.FASTMATH and not {"nnan", "ninf", "fast"} & _jit.FASTMATH


def test_damage_is_not_hidden():
    """An error in a user's loss is reported as such, not swallowed with the cache's."""

    class Broken(NamedTuple):
        smooth = True

        def value(self, y, z):
            return self.nothing

        def derivative(self, y, z):
            return z - y

        def curvature(self, y, z):
            return 1.0

    with pytest.raises(Exception, match="nothing"):
        GDLinearRegressor(loss=Broken()).fit(sparse.csr_array(np.eye(3)), [0.0, 1.0, 2.0])
