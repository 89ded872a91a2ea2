"""Field reports FEA-02 and FEA-07: chunks and files that are fitted together, folds that copy nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skbigmodel import slices
from skbigmodel.sources import ArrowRows, StackedRows, write_chunks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """500 rows of four columns."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 4 * 500)


@pytest.mark.parametrize("weighted", [False, True])
def test_fea_02_chunks(case, weighted, tmp_path):
    """FEA-02: an iterable of (X, y[, weight]) chunks, gone through once: the optimum of memory."""
    X, y = case.data(n=2000)
    s = np.linspace(0, 2, 2000)

    def chunks():
        for start in range(0, 2000, 300):
            rows = slice(start, start + 300)
            yield (X[rows], y[rows], s[rows]) if weighted else (X[rows], y[rows])

    parts = write_chunks(chunks(), tmp_path / "X.npy")
    assert isinstance(parts[0], np.memmap) and len(parts) == 2 + weighted
    model = case(alpha=0.1).fit(*parts) if case.kind == "regressor" else case().fit(*parts)
    inside = case.make(**model.get_params()).fit(X, y, **({"sample_weight": s} if weighted else {}))
    assert_allclose(model.coef_, inside.coef_, rtol=1e-8)
    assert_allclose(model.intercept_, inside.intercept_, rtol=1e-8)


@pytest.mark.parametrize("format", ["npy", "parquet"])
def test_fea_02_list_of_files(case, format, tmp_path, pyarrow):
    """FEA-02: files of rows and of targets, stacked: the optimum of memory."""
    import pyarrow.parquet as pq

    X, y = case.data(n=2000)
    for k in range(4):
        rows = slice(500 * k, 500 * k + 500)
        if format == "npy":
            np.save(tmp_path / f"X{k}.npy", X[rows])
            np.save(tmp_path / f"y{k}.npy", y[rows])
        else:
            columns = {**{f"x{j}": X[rows, j] for j in range(4)}, "y": y[rows]}
            pq.write_table(pyarrow.table(columns), tmp_path / f"{k}.parquet")
    if format == "npy":
        source = StackedRows([tmp_path / f"X{k}.npy" for k in range(4)])
        target = StackedRows([tmp_path / f"y{k}.npy" for k in range(4)])
    else:
        files = [tmp_path / f"{k}.parquet" for k in range(4)]
        source, target = ArrowRows(files, [f"x{j}" for j in range(4)]), ArrowRows(files, "y")
    model, inside = case().fit(source, target), case().fit(X, y)
    assert_allclose(model.coef_, inside.coef_, rtol=1e-8)
    assert_allclose(case.raw(model, source), case.raw(inside, X), rtol=1e-8, atol=1e-12)


def test_fea_07_folds_are_not_copied(run_python, tmp_path):
    """FEA-07: a search over five folds of a 120 MB file adds blocks, not folds; its scores are those of
    copied folds.
    """
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (300_000, 100))
    rng = np.random.default_rng(0)
    for start in range(0, len(X), 50_000):
        X[start : start + 50_000] = rng.random((50_000, 100), dtype=np.float32)
    X.flush()
    done = run_python(
        """
        import json, sys, threading
        import numpy as np
        from sklearn.model_selection import GridSearchCV
        from skbigmodel import GDLogisticClassifier
        from skbigmodel.sources import StackedRows

        def anonymous():
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) / 1024 for line in file if line.startswith("RssAnon"))

        X = StackedRows([sys.argv[1]])
        y = (np.load(sys.argv[1], mmap_mode="r")[:, 0] > 0.5).astype(int)
        search = GridSearchCV(GDLogisticClassifier(max_iter=5, tol=0.1), {"C": [0.01]}, cv=5, refit=False)
        search.fit(X[:3000], y[:3000])  # compiles
        search.fit(X[np.arange(3000)], y[:3000])
        before, highest, done = anonymous(), [0.0], threading.Event()
        def sample():
            while not done.wait(0.001):
                highest[0] = max(highest[0], anonymous())
        sampler = threading.Thread(target=sample)
        sampler.start()
        search.fit(X, y)
        done.set()
        sampler.join()
        sources = search.cv_results_["mean_test_score"].tolist()
        copies = search.fit(X.parts[0], y).cv_results_["mean_test_score"].tolist()
        print(json.dumps([highest[0] - before, sources, copies]))
        """,
        tmp_path / "X.npy",
    )
    used, scores, expected = json.loads(done.stdout)
    assert used < 100  # a fold that is copied takes 120 MB, and its fit comes on top
    assert_allclose(scores, expected, atol=1e-5)


def test_example_of_flights(pandas, pyarrow, tmp_path):
    """Made up and from a file, the example says how large the data were, and how good the predictions are."""
    import pyarrow.csv

    example = Path(__file__).parents[1] / "examples" / "out_of_core.py"
    sys.path.insert(0, str(example.parent))
    try:
        from flights import make_up
    finally:
        sys.path.remove(str(example.parent))
    frame = pandas.concat(make_up(3000))
    pyarrow.csv.write_csv(pyarrow.Table.from_pandas(frame, preserve_index=False), tmp_path / "flights.csv")
    printed = []
    for arguments in (["--rows", "3000"], [str(tmp_path / "flights.csv")]):
        command = [sys.executable, str(example), *arguments, "--folder", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        printed.append([line for line in done.stdout.splitlines() if " s" not in line and "MB" not in line])
    assert printed[0] == printed[1] and printed[0][0].startswith("area under the ROC curve")
    assert float(printed[0][0].split()[-1]) > 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["flights.csv"]
