"""Reading ahead, and what is said of rows that cannot be read."""

import threading
import time

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_blocks import Foreign

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, GDMLPClassifier, slices
from skbigmodel._jit import frozen
from skbigmodel.reading import Buffers, ReadAhead, read_rows
from skbigmodel.slices import SlicedBlocks
from skbigmodel.sources import CachedRows, StackedRows


class Faulty(Foreign):
    """A file of 2500 rows whose second thousand goes wrong."""

    def __init__(self, fault):
        super().__init__(np.random.default_rng(0).normal(size=(2500, 8)))
        self.fault = fault

    def __getitem__(self, rows):
        part = super().__getitem__(rows)
        return self.fault(part) if rows.start == 1000 else part


def raise_os_error(part):
    raise OSError("unable to read: bad checksum")


def with_nan(part):
    part = part.copy()
    part[len(part) // 2, 3] = np.nan
    return part


FAULTS = {
    "unreadable": (raise_os_error, OSError, "rows 1000 to 2000 of X cannot be read: .*bad checksum"),
    "wider": (lambda part: np.hstack([part, part]), ValueError, r"rows 1000 to 2000 .* shape \(1000, 16\)"),
    "shorter": (lambda part: part[:-1], ValueError, r"rows 1000 to 2000 .* shape \(999, 8\), not 1000 rows"),
    "nan": (with_nan, ValueError, "NaN or infinity in rows 1000 to 2000"),
}


@pytest.fixture
def thousands(monkeypatch):
    """Blocks of 1000 rows of 8 columns."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 8 * 1000)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "model",
    [
        GDLinearRegressor(),
        GDLinearRegressor(loss="huber", solver="lbfgs"),
        GDLogisticClassifier(solver="sgd"),
        GDMLPClassifier((3,)),
    ],
    ids=["moments", "lbfgs", "sgd", "network"],
)
def test_errors_name_the_rows(model, fault, thousands):
    """They come from the pass in which the rows are met, and leave no thread behind."""
    make, kind, message = FAULTS[fault]
    y = np.arange(2500) % 2
    with pytest.raises(kind, match=message):
        model.__class__(**model.get_params()).fit(Faulty(make), y)
    fitted = model.__class__(**{**model.get_params(), "solver": "lbfgs"}).fit(np.eye(8), np.arange(8) % 2)
    with pytest.raises(kind, match=message):
        fitted.predict(Faulty(make))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skbigmodel-reader")]


def test_the_next_item_is_read_meanwhile():
    """While one is in use the next is read by another thread, and no further one."""
    begun, readers = [threading.Event() for _ in range(4)], {}

    def read(k):
        assert k not in readers
        readers[k] = threading.current_thread()
        begun[k].set()
        return 10 * k

    with ReadAhead(read, [3, 1, 0, 2]) as item:
        assert item(3) == 30 and begun[1].wait(60)
        time.sleep(0.02)
        assert not begun[0].is_set()
        assert [item(1), item(0), item(2)] == [10, 0, 20]
    assert readers[3] is threading.current_thread() is not readers[1]


@pytest.mark.parametrize("n_threads", [2, 5])
def test_several_threads_ask(n_threads):
    """Each item is read once, whoever asks in whichever order."""
    count = np.zeros(200, int)

    def read(k):
        count[k] += 1
        return k

    with ReadAhead(read, range(200)) as item:

        def work(start):
            assert [item(k) for k in range(start, 200, n_threads)] == list(range(start, 200, n_threads))

        threads = [threading.Thread(target=work, args=(start,)) for start in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (count == 1).all()


def test_an_error_ahead_is_raised_where_the_item_is_asked_for():
    """Not before, and not at all where nobody asks."""

    def read(k):
        if k == 1:
            raise OSError("block 1")
        return k

    with ReadAhead(read, range(3)) as item:
        assert item(0) == 0
        with pytest.raises(OSError, match="block 1"):
            item(1)
        assert item(2) == 2
    with ReadAhead(read, range(3)) as item:
        assert item(0) == 0


def test_an_interrupt_ends_reading():
    """Ctrl-C among the computations: what was begun is finished, nothing more is begun."""
    read = []
    with pytest.raises(KeyboardInterrupt), ReadAhead(read.append, range(100)) as item:
        item(0)
        raise KeyboardInterrupt
    time.sleep(0.02)
    assert set(read) <= {0, 1}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skbigmodel-reader")]


def test_few_blocks_are_in_memory(thousands):
    """Those that threads work on, and one ahead."""
    alive, most = [0], [0]

    source = Foreign(np.zeros((20_000, 8)))
    blocks_of = SlicedBlocks(source, np.zeros(20_000), n_threads=2)
    lock = threading.Lock()
    read = blocks_of.read

    def counting(start, stop):
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return read(start, stop)

    blocks_of.read = counting

    def use(block):
        time.sleep(0.001)
        with lock:
            alive[0] -= 1
        return block.start

    assert blocks_of.map(use) == list(range(0, 20_000, 1000))
    assert most[0] <= 3


def test_visits_in_any_order(thousands):
    """Blocks come in the order asked for."""
    source = SlicedBlocks(Foreign(np.arange(2500.0 * 8).reshape(2500, 8)), np.zeros(2500))
    assert [block.start for block in source.visit()] == [0, 1000, 2000]
    assert [block.start for block in source.visit(np.array([2, 0, 1]))] == [2000, 0, 1000]
    assert_array_equal(next(source.visit([1])).rows.X, source.X.X[1000:2000])


def test_rows_are_checked_once(thousands, monkeypatch):
    """Passes after the first need not look for NaN again."""
    looked = []

    def reading(X, start, stop, checked, room):
        looked.append((start, checked))
        return read_rows(X, start, stop, checked, room)

    monkeypatch.setattr(slices, "read_rows", reading)
    source = SlicedBlocks(Foreign(np.zeros((2500, 8))), np.zeros(2500))
    for _ in range(2):
        list(source.visit())
    assert sorted(looked[:3]) == [(0, False), (1000, False), (2000, False)]
    assert sorted(looked[3:]) == [(0, True), (1000, True), (2000, True)]


def place(array):
    """Where its data lie."""
    return array.__array_interface__["data"][0]


def test_buffers_serve_again_when_nobody_holds_them():
    """Not while a view of a view is held; more than are kept are made for one use."""
    room = Buffers(2)
    first = room((10, 2), np.float64)
    held = frozen(first)[3:5]
    second = room((10, 2), np.float64)
    third = room((10, 2), np.float64)
    places = [place(first), place(second), place(third)]
    del first, second, third
    again = [place(room((4, 2), np.float64)) for _ in range(3)]
    other = place(room((10, 2), np.float32))
    del held
    first = room((10, 2), np.float64)
    assert len(set(places)) == 3 and again == 3 * places[1:2]
    assert other not in places[:2] and place(first) == places[0]


def test_blocks_share_buffers(thousands):
    """A pass over converted rows allocates no more arrays than threads work on."""
    source = SlicedBlocks(Foreign(np.zeros((50_000, 8), np.int8)), np.zeros(50_000))
    places = {place(block.rows.X) for block in source.visit()}
    assert len(places) <= 3


def test_copies_are_not_read_ahead(thousands, tmp_path, monkeypatch):
    """Each of several threads copies its own block, of a map or of kept rows; with the bits of one thread."""
    X = np.memmap(tmp_path / "X", np.float64, "w+", shape=(2500, 8), order="F")
    X[:] = np.random.default_rng(0).normal(size=X.shape)
    y, cached = np.arange(2500) % 2, CachedRows(Foreign(X), X.nbytes)

    def coef(source, n_jobs):
        return GDLogisticClassifier(solver="lbfgs", n_jobs=n_jobs).fit(source, y).coef_

    expected = coef(X, 1)
    assert_array_equal(coef(cached, 2), expected)
    made = []
    monkeypatch.setattr(slices, "ReadAhead", lambda *args: made.append(args) or ReadAhead(*args))
    for source in (X, StackedRows([X])[np.arange(2500)], cached):
        assert_array_equal(coef(source, 2), expected)
    assert not made
    assert_array_equal(coef(Foreign(X), 2), expected)
    assert made
