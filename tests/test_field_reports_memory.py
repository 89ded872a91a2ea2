"""Field reports SPC-08 and MEM: anonymous memory while fitting, big offsets, pickle sizes, leftovers."""

import json
import pickle
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

# Runs before every child's own code: extra(call) is the highest anonymous memory in MB that call() adds.
# Pages of mapped files do not count in RssAnon: the kernel can drop them.
MEASURE = """
import json, sys, threading, warnings
import numpy as np
from skbigmodel import GDLinearRegressor, GDLogisticClassifier
warnings.simplefilter("ignore")

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))

def extra(call):
    before, highest, done = anonymous(), [0.0], threading.Event()
    def sample():
        while not done.wait(0.001):
            highest[0] = max(highest[0], anonymous())
    sampler = threading.Thread(target=sample)
    sampler.start()
    call()
    done.set()
    sampler.join()
    return max(highest[0], anonymous()) - before

make = {"R": GDLinearRegressor, "L": GDLogisticClassifier}[sys.argv[1]]
def target(column):
    noisy = column + 0.3 * np.random.default_rng(1).standard_normal(len(column))
    return noisy if make is GDLinearRegressor else (noisy > 0.5).astype(int)
def warm_up(X):
    # compiling takes memory of its own
    y = target(X[:, 0] + X[:, 1] % 2)
    y[:2] = 0, 1
    make().fit(X, y).predict(X)
    make().partial_fit(X, y, **({} if make is GDLinearRegressor else {"classes": [0, 1]}))
"""

MODELS = ["R", "L"]


@pytest.fixture
def measured(run_python):
    """Run code after MEASURE in a child for each tuple of arguments, at a time; each prints a JSON object."""

    def run(code, *runs):
        def child(args):
            return json.loads(run_python(MEASURE + textwrap.dedent(code), *args).stdout)

        with ThreadPoolExecutor() as pool:
            return list(pool.map(child, runs))

    return run


@pytest.fixture(scope="session")
def uniform_file(tmp_path_factory):
    """A function from a dtype and a shape to a .npy file of uniform numbers, written once."""
    folder = tmp_path_factory.mktemp("memory")

    def file(dtype, n, d):
        path = folder / f"{np.dtype(dtype).name}.npy"
        if not path.exists():
            array = np.lib.format.open_memmap(path, "w+", dtype, (n, d))
            rng = np.random.default_rng(0)
            for start in range(0, n, 20_000):
                block = rng.random((min(20_000, n - start), d), dtype=np.float32)
                array[start : start + len(block)] = block < 0.5 if dtype in ("bool", "uint8") else block
        return path

    return file


def test_spc_08_narrow_types_are_not_widened_whole(measured, uniform_file):
    """SPC-08: 20 MB of bool or uint8 would be 160 MB as float64: fit and predict take blocks."""
    files = [uniform_file(dtype, 400_000, 50) for dtype in ("bool", "uint8")]
    used = measured(
        """
        used, model = [], make()
        for file in sys.argv[2:]:
            X = np.load(file, mmap_mode="r")
            y = target(X[:, 0] | X[:, 1])
            warm_up(X[:500])
            used += [extra(lambda: model.fit(X, y)), extra(lambda: model.predict(X))]
        print(json.dumps(used))
        """,
        *((model, *files) for model in MODELS),
    )
    assert np.max(used) < 64, used


def test_mem_04_float32_stays_float32(measured):
    """MEM-04: 200 MB of float32 in memory: less than 0.3 of it is added, and the result is float32's."""
    results = measured(
        """
        X = np.random.default_rng(0).random((500_000, 100), dtype=np.float32)
        y = target(X[:, 0] + X[:, 1] / 8)
        warm_up(X[:500])
        model = make()
        used = [extra(lambda: model.fit(X, y)), extra(lambda: model.predict(X))]
        print(json.dumps([used, str(model.coef_.dtype)]))
        """,
        *((model,) for model in MODELS),
    )
    for used, dtype in results:
        assert max(used) < 0.3 * 200
        assert dtype == "float32"


def test_mem_04_float32_accuracy(case):
    """MEM-04: float32 finds the coefficients of float64 to 1e-3, in either order."""
    X, y = case.data(n=2000, d=10)
    expected = case.make().fit(X, y)
    for order in "CF":
        model = case.make().fit(X.astype(np.float32, order=order), y)
        assert model.coef_.dtype == np.float32
        assert_allclose(model.coef_, expected.coef_, atol=1e-3 * np.abs(expected.coef_).max())
        assert_allclose(case.raw(model, X.astype(np.float32)), case.raw(expected, X), rtol=1e-3, atol=1e-3)


def test_mem_06_more_than_2_31_entries(case, tmp_path):
    """MEM-06: 70000 x 32768 entries in a sparse file: slices beyond 2^31 count as the small array does."""
    X = np.memmap(tmp_path / "holes.bin", dtype=np.float32, mode="w+", shape=(70_000, 32_768))
    rng = np.random.default_rng(0)
    rows = np.r_[100:130, 69_900:70_000]
    X[rows, :8] = rng.random((len(rows), 8))
    X.flush()
    X = np.memmap(tmp_path / "holes.bin", dtype=np.float32, mode="r", shape=X.shape)
    y = np.arange(len(rows)) % 2
    big, small = case.make(random_state=0), case.make(random_state=0)
    for part, label in ((slice(100, 130), y[:30]), (slice(69_900, 70_000), y[30:])):
        big.partial_fit(X[part], label, **case.classes(y))
        small.partial_fit(np.array(X[part]), label, **case.classes(y))
    assert_array_equal(big.coef_, small.coef_)
    assert_array_equal(case.raw(big, X[-10:]), case.raw(small, np.array(X[-10:])))


def test_mem_08_many_classes(measured):
    """MEM-08: 500 classes on 40000 rows: no n x K array (160 MB), let alone three."""
    (used,) = measured(
        """
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((40_000, 50)), rng.integers(0, 500, 40_000)
        for solver in ("auto", "lbfgs"):  # compile what either takes, which needs memory too
            make(max_iter=2, solver=solver).fit(X[:1000], y[:1000])
        print(json.dumps(extra(lambda: make(max_iter=3).fit(X, y))))
        """,
        ("L",),
    )
    assert used < 100


def test_mem_10_fitted_models_carry_no_data(case):
    """MEM-10: the pickle of a fitted model is as small as its parameters, whatever the rows."""
    X, y = case.data(n=20_000, d=5)
    sizes = [len(pickle.dumps(case.make().fit(X[:n], y[:n]))) for n in (200, 20_000)]
    streamed = case.make(random_state=0).partial_fit(X, y, **case.classes(y))
    assert max(*sizes, len(pickle.dumps(streamed)), len(pickle.dumps(case.make()))) < 8_000


def test_mem_11_a_memmap_is_read_in_blocks(measured, uniform_file):
    """MEM-11: a 240 MB float64 file: fit, partial_fit and predict keep below a tenth of it."""
    file = uniform_file("float64", 300_000, 100)
    used = measured(
        """
        X = np.load(sys.argv[2], mmap_mode="r")
        y = target(X[:, 0] + X[:, 1] / 8)
        warm_up(np.array(X[:500]))
        model, stream = make(), make()
        known = {} if make is GDLinearRegressor else {"classes": [0, 1]}
        def epoch():
            for start in range(0, len(X), 50_000):
                stream.partial_fit(X[start:start + 50_000], y[start:start + 50_000], **known)
        used = [extra(lambda: model.fit(X, y)), extra(epoch), extra(lambda: model.predict(X))]
        print(json.dumps(used))
        """,
        *((model, file) for model in MODELS),
    )
    assert np.max(used) < 24, used


def test_mem_11_networks_hold_rows_out_where_they_lie(measured, uniform_file):
    """MEM-11: validation rows are read from the map, and no Python number is made for a row."""
    (used,) = measured(
        """
        from skbigmodel import GDMLPClassifier
        X, used = np.load(sys.argv[2], mmap_mode="r"), []
        y = (X[:, 0] + X[:, 1] / 8 > 0.5).astype(int)
        for params in ({"early_stopping": True}, {"preset": "tuned"}):
            model = GDMLPClassifier(hidden_layer_sizes=(8,), max_iter=1, **params)
            model.fit(np.array(X[:500]), y[:500]).predict(X[:500])
            used += [extra(lambda: model.fit(X, y)), extra(lambda: model.predict(X))]
        print(json.dumps(used))
        """,
        ("L", uniform_file("float64", 300_000, 100)),
    )
    assert max(used) < 24, used


def test_mem_11_bad_values_in_a_memmap_are_found(tmp_path, case):
    """MEM-11: the check for finite values reads a map in blocks and still sees the last row."""
    X, y = case.data(n=5000)
    X[-1, 2] = np.nan
    np.save(tmp_path / "X.npy", X)
    with pytest.raises(ValueError, match="(?i)nan"):
        case.make().fit(np.load(tmp_path / "X.npy", mmap_mode="r"), y)
