"""HDF5 and Zarr arrays: mapped where they are stored as they are, and the same rows and models either way."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, GDMLPClassifier, slices
from skbigmodel.blocks import ArrayBlocks
from skbigmodel.mapping import MappedRows, mapped
from skbigmodel.slices import SlicedBlocks, cut_pieces, make_blocks, pieces
from skbigmodel.sources import StackedRows

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")

X = np.random.default_rng(0).normal(size=(1000, 6))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """150 rows of six columns."""
    monkeypatch.setattr(slices, "SLICE_BYTES", 8 * 6 * 150)


@pytest.fixture
def hdf5(tmp_path):
    """A function that writes an HDF5 array and opens it for reading."""
    files = []

    def write(X, mode="r", **options):
        path = tmp_path / f"{len(files)}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("a/X", data=X, **options)
        files.append(h5py.File(path, mode))
        return files[-1]["a/X"]

    yield write
    for file in files:
        file.close()


@pytest.fixture
def zarray(tmp_path):
    """A function that writes a Zarr array and opens it for reading."""

    stores = itertools.count()

    def write(X, **options):
        path = tmp_path / f"{next(stores)}.zarr"
        zarr.create_array(path, name="X", data=X, **options)
        return zarr.open_array(path, path="X", mode="r")

    return write


@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", ">f8", "i2", "u1"])
@pytest.mark.parametrize("chunks", [None, (130, 6), (1000, 6), (64, 4), (7, 5), (1, 6)])
def test_plain_hdf5_is_mapped(chunks, dtype, hdf5):
    """Whatever the chunks and the type; in one piece it is a memory map like any other."""
    values = (10 * X).astype(dtype)
    found = mapped(hdf5(values, chunks=chunks))
    assert type(found) is (np.memmap if chunks is None else MappedRows)
    assert found.shape == X.shape and found.dtype == dtype
    for start, stop in [(0, 1000), (0, 0), (3, 10), (125, 135), (100, 700), (999, 1000)]:
        assert_array_equal(found[start:stop], values[start:stop])


@pytest.mark.parametrize("dtype", ["f4", ">f4", "f8", "i2"])
@pytest.mark.parametrize("options", [{"zarr_format": 2}, {}])
@pytest.mark.parametrize("chunks", [(130, 6), (64, 4), (2000, 6)])
def test_plain_zarr_is_mapped(chunks, options, dtype, zarray):
    """Of both formats, in a folder."""
    values = (10 * X).astype(dtype)
    found = mapped(zarray(values, chunks=chunks, compressors=None, **options))
    assert type(found) is MappedRows
    assert_array_equal(found[:], values)
    assert_array_equal(found[120:700], values[120:700])


def test_what_cannot_be_mapped_is_left_alone(hdf5, zarray, tmp_path, monkeypatch):
    """Compressed, filtered, growing, incomplete, converted, or in memory."""
    with h5py.File(tmp_path / "holes.h5", "w") as file:
        file.create_dataset("X", (100, 6), "f8", chunks=(10, 6))[:50] = X[:50]
    for source in (
        hdf5(X, chunks=(100, 6), compression="gzip"),
        hdf5(X, chunks=(100, 6), shuffle=True),
        hdf5(X, chunks=(100, 6), fletcher32=True),
        hdf5(X, mode="r+", chunks=(100, 6)),
        hdf5(X > 0, chunks=(100, 6)),
        h5py.File(tmp_path / "holes.h5")["X"],
        zarray(X, chunks=(100, 6)),
        zarray(X, chunks=(100, 6), shards=(200, 6), compressors=None),
        zarr.create_array({}, data=X, chunks=(100, 6), compressors=None),
    ):
        assert mapped(source) is source
        parts = [block.rows.X for block in SlicedBlocks(source, source[:, 0]).visit()]
        assert_array_equal(np.concatenate(parts), source[:])
    source = zarray(X, chunks=(100, 6), compressors=None)
    assert isinstance(mapped(source), MappedRows)
    monkeypatch.setattr("skbigmodel.mapping.MAX_MAPS", 9)
    assert mapped(source) is source
    monkeypatch.undo()
    options = {"shape": X.shape, "chunks": (100, 6), "dtype": "f8", "compressors": None}
    zarr.create_array(tmp_path / "holes.zarr", **options)[:50] = 1
    source = zarr.open_array(tmp_path / "holes.zarr", mode="r")
    assert mapped(source) is source


def test_a_map_of_another_file_is_not_taken(hdf5, monkeypatch):
    """Such as one of the same name in another folder."""
    source, other = hdf5(X), hdf5(-X)
    memmap = np.memmap
    monkeypatch.setattr(np, "memmap", lambda name, *args: memmap(other.file.filename, *args))
    assert mapped(source) is source


def test_blocks_are_views_of_the_file(hdf5):
    """Cut where chunks end, so that nothing is copied."""
    source = make_blocks(hdf5(X, chunks=(130, 6)), X[:, 0], None, 1)
    assert type(source) is SlicedBlocks
    assert_array_equal(source.bounds, [0, 130, 260, 390, 520, 650, 780, 910, 1000])
    for block in source.visit():
        assert any(np.shares_memory(block.rows.X, run[0]) for run in source.X.tiles)
    assert type(make_blocks(hdf5(X), X[:, 0], None, 1)) is ArrayBlocks


@pytest.mark.parametrize(
    "ends, whole, bounds",
    [
        ([1000], False, [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
        ([125], False, [0, 125]),
        ([130], False, [0, 100, 130]),
        ([250], False, [0, 100, 200, 250]),
        ([40, 80, 120, 160], False, [0, 80, 160]),
        ([10, 20, 30], False, [0, 30]),
        ([250, 260, 500], False, [0, 100, 200, 250, 350, 450, 500]),
        ([300, 600, 700], True, [0, 300, 600, 700]),
        ([401], True, [0, 100, 401]),
    ],
)
def test_cut_into_pieces(ends, whole, bounds):
    """About a hundred rows, ending where a piece ends; what is unpacked stays whole, if not too large."""
    assert cut_pieces(ends, 100, whole).tolist() == bounds


def test_pieces_of_sources(hdf5, zarray):
    """Chunks of packed arrays, parts of stacks; others are of one piece."""
    ends, whole = pieces(hdf5(X, chunks=(300, 6), compression="gzip"))
    assert whole and ends.tolist() == [300, 600, 900, 1000]
    ends, whole = pieces(zarray(X, chunks=(500, 6)))
    assert whole and ends.tolist() == [500, 1000]
    ends, whole = pieces(StackedRows([X[:10], X[10:30]]))
    assert not whole and list(ends) == [10, 30]
    assert pieces(np.asfortranarray(X)) == ((1000,), False)


MODELS = {
    "least squares": GDLinearRegressor(alpha=0.01),
    "lasso": GDLinearRegressor(alpha=0.01, l1_ratio=1.0),
    "huber": GDLinearRegressor(loss="huber"),
    "logistic": GDLogisticClassifier(tol=1e-8),
    "multinomial": GDLogisticClassifier(tol=1e-8, C=0.1),
    "network": GDMLPClassifier((4,), random_state=0, loss_threshold=0.6),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_models(name, hdf5, zarray, tmp_path):
    """From every file what memory gives; bit for bit where the blocks are the same."""
    model = MODELS[name]
    z = X[:, 0] - X[:, 1] + np.random.default_rng(1).normal(size=1000)
    y = np.digitize(z, [-1, 1] if name == "multinomial" else [0])
    y = z if isinstance(model, GDLinearRegressor) else y

    def coefficients(source):
        fitted = model.__class__(**model.get_params()).fit(source, y)
        assert_allclose(fitted.predict(source), fitted.predict(X), rtol=1e-9)
        return np.concatenate([np.ravel(part) for part in getattr(fitted, "coefs_", None) or [fitted.coef_]])

    inside = coefficients(X)
    assert_array_equal(coefficients(hdf5(X)), inside)  # in one piece: as in memory
    stacked = coefficients(StackedRows([X[k : k + 130] for k in range(0, 1000, 130)]))
    for source in (
        hdf5(X, chunks=(130, 6)),
        hdf5(X, chunks=(130, 4)),
        hdf5(X, chunks=(130, 6), compression="gzip"),
        zarray(X, chunks=(130, 6)),
        zarray(X, chunks=(130, 6), compressors=None),
    ):
        assert_array_equal(coefficients(source), stacked)
    if name != "network":
        assert_allclose(stacked, inside, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"chunks": (130, 6)}, {"chunks": (130, 6), "compression": "gzip"}])
@pytest.mark.parametrize("model", [GDLinearRegressor(), GDLogisticClassifier(solver="lbfgs")])
def test_bad_values_in_files(model, options, hdf5, monkeypatch):
    """Found in each kind of file, also by solvers that meet them in their sums."""
    monkeypatch.setattr("skbigmodel.base.CHEAP_TO_CHECK", 0)
    bad = X.copy()
    bad[700, 3] = np.nan
    place = " in rows 650 to 780" if options else ""
    with pytest.raises(ValueError, match="Input X contains NaN" + (" or infinity" + place if place else "")):
        model.__class__(**model.get_params()).fit(hdf5(bad, **options), X[:, 0] > 0)


def test_a_damaged_file(hdf5):
    """A chunk that does not unpack: the error names the rows."""
    source = hdf5(X, chunks=(130, 6), compression="gzip", fletcher32=True)
    path, info = source.file.filename, source.id.get_chunk_info(2)
    source.file.close()
    with open(path, "r+b") as file:
        file.seek(info.byte_offset + 20)
        file.write(b"\0" * 50)
    with h5py.File(path) as file, pytest.raises(OSError, match="rows 260 to 390 of X cannot be read"):
        GDLinearRegressor().fit(file["a/X"], X[:, 0])
