"""Blocks: the cut, sums that do not depend on threads, sources read slice by slice,
BLAS held to one thread.
"""

import os
import re
import threading

import numpy as np
import pytest
from joblib import Parallel, delayed
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from threadpoolctl import threadpool_info

from skbigmodel import blocks, slices, threads
from skbigmodel.blocks import MAX_BLOCKS, ArrayBlocks, block_bounds
from skbigmodel.rows import CSR, Dense
from skbigmodel.slices import SlicedBlocks, in_slices, make_blocks
from skbigmodel.sums import Tree, add_sums
from skbigmodel.threads import resolve_threads, run_tasks, single_threaded_blas


class Foreign:
    """What an array in a file offers: a shape, a dtype and slices of rows."""

    def __init__(self, X):
        self.X, self.shape, self.dtype, self.asked = X, X.shape, X.dtype, []

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        self.asked.append((rows.start, rows.stop))
        return self.X[rows]


def data(n=50_000, p=8):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, p)), rng.normal(size=n), rng.uniform(0, 2, n)


def column_sums(source, n_threads=None):
    """A sum over blocks whose rounding shows the order of the additions."""
    if n_threads is not None:
        source.n_threads = n_threads

    def block_sum(block, out):
        X = block.rows.X if isinstance(block.rows, Dense) else source.X[block.start : block.stop].toarray()
        out += (X * block.y[:, None]).sum(axis=0)
        return float(block.y.sum())

    return source.total(block_sum, source.n_features)


# -- the cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (100, 5000), (10**6, 10), (10**7, 1), (3, 10**6)])
def test_cut(shape):
    """Consecutive, complete, no empty block, at most MAX_BLOCKS,
    and few enough that gradients are cheap to sum.
    """
    n, p = shape
    bounds = block_bounds(n, p, n * p)
    assert bounds[0] == 0 and bounds[-1] == n and (np.diff(bounds) > 0).all()
    assert len(bounds) - 1 <= MAX_BLOCKS
    assert len(bounds) == 2 or (len(bounds) - 1) * 8 * (p + 1) <= n * p


def test_more_data_more_blocks():
    """One block for what is small, the most there may be for what is large."""
    assert len(block_bounds(1000, 10, 10_000)) == 2
    assert len(block_bounds(10**7, 100, 10**9)) == MAX_BLOCKS + 1


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_blocks_are_views(convert):
    """Rows, targets and weights lie where they lay; together they are the data."""
    X, y, s = data(200_000)
    X = convert(X)
    source = ArrayBlocks(X, y, s)
    assert len(source.blocks) > 2 and source.weight == s.sum() and source.n_entries == 1_600_000
    for block in source.blocks:
        stored = block.rows.X if isinstance(block.rows, Dense) else block.rows.data
        assert np.shares_memory(stored, X if isinstance(X, np.ndarray) else X.data)
        assert np.shares_memory(block.y, y) and np.shares_memory(block.s, s)
        assert block.rows.n_rows() == len(block.y) == len(block.s) == block.stop - block.start
    assert_array_equal(np.concatenate([block.y for block in source.blocks]), y)
    values = np.concatenate([block.rows.values() for block in source.blocks])
    assert_array_equal(values, X.ravel() if isinstance(X, np.ndarray) else X.data)


def test_no_weights():
    """One weight of 1 stands for all; their sum is the number of rows."""
    X, y, _ = data(100)
    source = ArrayBlocks(X, y)
    assert source.weight == 100.0 and source.s is None
    assert_array_equal(source.blocks[0].s, [1.0])


def test_other_targets_share_the_rows():
    """``with_targets`` makes new blocks of the same arrays and the same memo."""
    X, y, s = data(1000)
    first = ArrayBlocks(X, y, s, 2)
    second = first.with_targets(-y)
    assert second.memo is first.memo and second.n_threads == 2
    assert np.shares_memory(second.blocks[0].rows.X, X)
    assert_array_equal(second.blocks[0].y, -y)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_sample(convert):
    """Every k-th row with its target and weight, in memory."""
    X, y, s = data(1003)
    sample = ArrayBlocks(convert(X), y, s, 2).sample(4)
    rows = sample.X if isinstance(sample.X, np.ndarray) else sample.X.toarray()
    assert_array_equal(rows, X[::4])
    assert_array_equal(sample.y, y[::4])
    assert_array_equal(sample.s, s[::4])
    assert ArrayBlocks(X, y).sample(4).s is None


# -- sums ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_sums_do_not_depend_on_threads(convert):
    """Bit for bit, in every repetition, and right."""
    X, y, _ = data(200_000)
    source = ArrayBlocks(convert(X), y)
    assert len(source.blocks) == 6
    value, out = column_sums(source, 1)
    assert_allclose(value, y.sum(), rtol=1e-9)
    assert_allclose(out, X.T @ y, rtol=1e-9)
    for n_threads in (2, 3, 4, 9, 2):
        again, more = column_sums(source, n_threads)
        assert again == value
        assert_array_equal(more, out)


def test_memory_of_sums_is_used_again_only_when_they_are_added(monkeypatch):
    """What another thread might take and overwrite must not be needed any more."""
    X, y, _ = data(200_000)
    source, seen = ArrayBlocks(X, y), []

    def add(left, right):
        seen.append(any(array is right[1] for arrays in source._spare.values() for array in arrays))
        return add_sums(left, right)

    monkeypatch.setattr(blocks, "add_sums", add)
    column_sums(source, 2)
    assert len(seen) == len(source.blocks) - 1 and not any(seen)
    assert sum(map(len, source._spare.values())) > 0


def test_map_keeps_the_order_and_uses_threads():
    """Results stand where their blocks do; more than one thread worked, unless there is little to do."""
    X, y, _ = data(200_000)
    together = threading.Barrier(2, timeout=60)

    def meet(block):
        if block.start < 2:  # the first block waits for that of a second thread
            together.wait()
        elif together.n_waiting:
            together.wait()
        return block.start, threading.get_ident()

    results = ArrayBlocks(X, y, n_threads=2).map(meet)
    assert [start for start, _ in results] == [block.start for block in ArrayBlocks(X, y).blocks]
    assert len({ident for _, ident in results}) == 2
    small = ArrayBlocks(X[:100], y[:100], n_threads=4).map(lambda block: threading.get_ident())
    assert small == [threading.get_ident()]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_error_reaches_the_caller(n_threads):
    """It is raised where the sum was asked for, nothing more is handed out,
    and the threads go on to serve.
    """
    X, y, _ = data(400_000)
    source, seen = ArrayBlocks(X, y, n_threads=n_threads), []

    def fail(block):
        seen.append(block.start)
        raise RuntimeError("in a block")

    with pytest.raises(RuntimeError, match="in a block"):
        source.map(fail)
    assert len(seen) <= n_threads < len(source.blocks)
    assert source.map(lambda block: block.stop)[-1] == len(y)


def test_sums_in_a_forked_child():
    """The child of a process that has used its threads makes its own."""
    X, y, _ = data(200_000)
    source = ArrayBlocks(X, y, n_threads=2)
    value, out = column_sums(source)
    child = os.fork()
    if child == 0:  # nothing but the exit status may come back from here
        status = 1
        try:
            again, more = column_sums(source)
            status = 0 if again == value and np.array_equal(more, out) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


# -- what is read from elsewhere -------------------------------------------------------------------


def test_slices(monkeypatch):
    """Read block by block in order, converted to float; the sums are those of the array."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 8 * 1000)
    X, y, s = data(2500)
    whole = Foreign((10 * X).astype(np.int16))
    source = make_blocks(whole, y, s, 2)
    assert isinstance(source, SlicedBlocks) and not source.sparse
    value, out = column_sums(source)
    assert sorted(whole.asked) == [(0, 1000), (1000, 2000), (2000, 2500)]
    assert_allclose(out, whole.X.T @ y, rtol=1e-12)
    assert [block.rows.X.dtype for block in source.blocks] == [np.float64] * 3
    assert_array_equal(source.sample(7).X, whole.X[::7])
    assert_array_equal(source.sample(7).y, y[::7])
    assert_array_equal(in_slices(np.copy, whole), whole.X)
    assert in_slices(len, X) == 2500  # what is in memory goes through in one piece


@pytest.mark.parametrize("dtype", [np.float32, ">f4", np.float64, ">f8", np.uint8, bool])
def test_dtypes_of_slices(dtype):
    """float32 stays, in the machine's byte order; everything else becomes float64."""
    X = np.array([[0, 1], [1, 1]], dtype)
    read = SlicedBlocks(Foreign(X), np.zeros(2)).blocks[0].rows.X
    assert read.dtype == (np.float32 if np.dtype(dtype).newbyteorder("=") == np.float32 else np.float64)
    assert read.dtype.isnative
    assert_array_equal(read, [[0, 1], [1, 1]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_in_slices(bad, monkeypatch):
    """The message names the rows that hold them."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 8 * 1000)
    X, y, _ = data(2500)
    X[1500, 3] = bad
    with pytest.raises(ValueError, match="X contains NaN or infinity in rows 1000 to 2000"):
        column_sums(SlicedBlocks(Foreign(X), y))


def test_large_values_in_slices_are_not_bad():
    """A sum that overflows is no infinity in the data."""
    X = np.full((4, 2), 1e308)
    assert_array_equal(SlicedBlocks(Foreign(X), np.zeros(4)).read(0, 4), X)


def test_slices_of_the_wrong_shape():
    """A source whose rows have another width than it says, named by rows."""
    source = Foreign(np.zeros((6, 3)))
    source.X = np.zeros((6, 2))
    with pytest.raises(ValueError, match=r"rows 0 to 6 of X have shape \(6, 2\), not 6 rows of 3 columns"):
        SlicedBlocks(source, np.zeros(6)).read(0, 6)


@pytest.mark.parametrize(
    "store, kind",
    [
        (np.asarray, ArrayBlocks),
        (sparse.csr_array, ArrayBlocks),
        (sparse.csr_matrix, ArrayBlocks),
        (Foreign, SlicedBlocks),
    ],
)
def test_source_of_each_kind(store, kind):
    """In memory: used where it lies. Elsewhere: read."""
    X, y, s = data(10)
    source = make_blocks(store(X), y, s, 1)
    assert type(source) is kind
    assert isinstance(source.blocks[0].rows, CSR if source.sparse else Dense)


@pytest.mark.parametrize(
    "dtype, order, kind",
    [
        ("f4", "C", ArrayBlocks),
        ("f8", "C", ArrayBlocks),
        ("f8", "F", SlicedBlocks),
        ("i2", "C", SlicedBlocks),
    ],
)
def test_memmaps(tmp_path, dtype, order, kind):
    """Float rows in C order are used where they lie on disk; other files are read block by block."""
    X = np.arange(12, dtype=dtype).reshape(4, 3)
    mapped = np.memmap(tmp_path / "X", dtype, "w+", shape=(4, 3), order=order)
    mapped[:] = X
    source = make_blocks(mapped, np.zeros(4), None, 1)
    assert type(source) is kind
    assert_array_equal(source.blocks[0].rows.X, X)
    assert np.shares_memory(source.blocks[0].rows.X, mapped) == (kind is ArrayBlocks)


# -- threads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "n_jobs, cores, environment, expected",
    [
        (None, 8, {}, 8),
        (3, 8, {}, 3),
        (12, 8, {}, 12),
        (-1, 8, {}, 8),
        (-2, 8, {}, 7),
        (-20, 8, {}, 1),
        (None, 8, {"OMP_NUM_THREADS": "2"}, 2),
        (None, 8, {"NUMBA_NUM_THREADS": "3"}, 3),
        (-1, 8, {"OMP_NUM_THREADS": "2"}, 2),
        (4, 8, {"OMP_NUM_THREADS": "1"}, 4),
        (None, 2, {"OMP_NUM_THREADS": "16"}, 2),
        (None, 8, {"OMP_NUM_THREADS": "x"}, 8),
    ],
)
def test_number_of_threads(n_jobs, cores, environment, expected, monkeypatch):
    """None and negative numbers count what the process may use; a positive number is taken at its word."""
    monkeypatch.setattr(threads.joblib, "cpu_count", lambda: cores)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, setting in environment.items():
        monkeypatch.setenv(name, setting)
    assert resolve_threads(n_jobs) == expected


def test_threads_in_a_joblib_worker():
    """A worker thread of joblib gets one; asked for by number, it gets what it asked for."""
    assert Parallel(n_jobs=2, backend="threading")(delayed(resolve_threads)(n) for n in (None, -1, 3)) == [
        1,
        1,
        3,
    ]


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_keeps_to_one_thread():
    """Also in fits that overlap: the last one out restores what was before."""
    before = blas_threads()
    with single_threaded_blas:
        assert set(blas_threads()) == {1}
        with single_threaded_blas:
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
    with pytest.raises(KeyError), single_threaded_blas:
        raise KeyError
    assert blas_threads() == before


def test_tree_does_not_depend_on_the_order_of_arrival():
    """The same pairs are combined, in the same roles, whatever comes first; partial trees fit together."""
    for n in (1, 2, 3, 6, 7, 13):
        expected = None
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(n).tolist()
            tree, local = Tree(n, "({},{})".format), Tree(n, "({},{})".format)
            for k in order[: n // 2]:  # elsewhere, then put in
                local.add(str(k), k)
            for k in order[n // 2 :]:
                tree.add(str(k), k)
            for (level, number), part in local.nodes.items():
                tree.add(part, number, level)
            expected = expected or tree.root
            assert tree.root == expected
            assert re.findall(r"\d+", tree.root) == list(map(str, range(n)))
    assert expected.startswith("((((0,1),(2,3)),")


@pytest.mark.parametrize("n_threads", [1, 2])
def test_kept_parts_come_back_to_their_blocks(n_threads):
    """``keep`` has one part per block, which ``map`` and ``total`` hand over with the block."""
    X, y, s = data(200_000)
    source = ArrayBlocks(X, y, s, n_threads)
    kept = source.keep(lambda block: block.s * block.y)
    again = source.keep(lambda block, part: part + 1.0, kept)

    def fits(block, part, more):
        return len(part) == len(block.y) and (more == part + 1.0).all()

    assert all(source.map(fits, kept, again))

    def weighted(block, part, out):
        out += part @ block.rows.X
        return part.sum()

    value, total = source.total(weighted, X.shape[1], kept)
    assert_allclose(value, s @ y, rtol=1e-12)
    assert_allclose(total, (s * y) @ X, rtol=1e-12)


def test_reduce_combines_all_blocks():
    """As a sum, whose parts have a place in a tree."""
    X, y, s = data(200_000)
    for n_threads in (1, 2):
        total = ArrayBlocks(X, y, s, n_threads).reduce(lambda block: block.y.sum(), lambda a, b: a + b)
        assert_allclose(total, y.sum(), rtol=1e-12)


def test_tasks_within_tasks_and_beside_long_ones_are_not_held_up(monkeypatch):
    monkeypatch.setattr(threads, "_POOL", threads._Pool())  # without threads of other tests
    done, go_on = [], threading.Event()
    outer = threading.Thread(
        target=run_tasks, args=(lambda k: run_tasks(lambda j: done.append((k, j)), 3, 2), 4, 2), daemon=True
    )
    outer.start()
    outer.join(20)
    assert sorted(done) == [(k, j) for k in range(4) for j in range(3)]

    long = threading.Thread(target=run_tasks, args=(lambda k: go_on.wait(), 8, 2), daemon=True)
    long.start()
    short = threading.Thread(target=run_tasks, args=(done.append, 2, 2), daemon=True)
    short.start()
    short.join(20)
    held_up = short.is_alive()
    go_on.set()
    long.join(20)
    assert not held_up and not long.is_alive() and sorted(done[-2:]) == [0, 1]
