"""Throughput of fits from files, relative to the same fit of an array in memory.

    python benchmarks/out_of_core_speed.py [--rows 500000] [--repeat 3] [--folder DIR] [--only gzip] [--cached]

The files lie in the page cache, where the system has room for them: what is measured is what reading,
decoding and copying cost, not the disk. A value of 1 means that the file makes no difference. The first
column is what the library of the file needs for one read of all rows, in slices of some 8 MB on one thread,
and nothing else: a fit makes one to some tens of passes. With ``--cached`` each fit has a ``CachedRows`` of
its own, so that its first pass reads and the others do not. Files that ``--folder`` holds already are used
again.
"""

import argparse
import contextlib
import pathlib
import re
import tempfile
import time
import warnings

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import zarr

from skbigmodel import GDLinearRegressor, GDLogisticClassifier, GDMLPClassifier
from skbigmodel.sources import ArrowRows, CachedRows, StackedRows

N_FEATURES = 100
CHUNK = (20_000, N_FEATURES)

MODELS = {
    "least squares": GDLinearRegressor(alpha=1e-3),
    "logistic": GDLogisticClassifier(C=0.01),
    "lbfgs": GDLogisticClassifier(C=0.01, solver="lbfgs"),
    "lasso": GDLinearRegressor(alpha=0.05, l1_ratio=1.0),
    "sgd, 3 epochs": GDLogisticClassifier(solver="sgd", max_iter=3, random_state=0),
    "network, 1 epoch": GDMLPClassifier((20,), max_iter=1, random_state=0),
}


def write_files(X, folder):
    """Files of the same rows."""
    np.save(folder / "X.npy", X)
    fortran = np.memmap(folder / "X.f", X.dtype, "w+", shape=X.shape, order="F")
    fortran[:] = X
    with h5py.File(folder / "X.h5", "w") as file:
        file.create_dataset("contiguous", data=X)
        file.create_dataset("chunked", data=X, chunks=CHUNK)
        file.create_dataset("tiles", data=X, chunks=(5000, 30))
        file.create_dataset("gzip", data=np.round(X, 1), chunks=CHUNK, compression="gzip", compression_opts=1)
    zarr.create_array(folder / "raw.zarr", data=X, chunks=CHUNK, compressors=None)
    zarr.create_array(folder / "zstd.zarr", data=np.round(X, 1), chunks=CHUNK)
    names = [f"x{j}" for j in range(X.shape[1])]
    table = pyarrow.table(dict(zip(names, X.T, strict=True)))
    pyarrow.parquet.write_table(table, folder / "X.parquet", row_group_size=CHUNK[0])


def sources(X, folder):
    """name -> source of the rows in the files of a folder."""
    if not (folder / "X.parquet").exists():
        write_files(X, folder)
    file = h5py.File(folder / "X.h5", "r")
    half = len(X) // 2
    return {
        "memmap": np.load(folder / "X.npy", mmap_mode="r"),
        "memmap, Fortran order": np.memmap(folder / "X.f", X.dtype, "r", shape=X.shape, order="F"),
        "stack of memmaps": StackedRows([folder / "X.npy"])[np.arange(len(X)) != half],
        "HDF5 contiguous": file["contiguous"],
        "HDF5 chunked": file["chunked"],
        "HDF5 tiles": file["tiles"],
        "HDF5 gzip": file["gzip"],
        "Zarr raw": zarr.open_array(folder / "raw.zarr", mode="r"),
        "Zarr zstd": zarr.open_array(folder / "zstd.zarr", mode="r"),
        "Parquet": ArrowRows(folder / "X.parquet"),
    }


def reading(source):
    """Seconds in which all rows are read once."""
    step, start = (1 << 21) // source.shape[1], time.perf_counter()
    for k in range(0, source.shape[0], step):
        np.ascontiguousarray(source[k : k + step]).sum()
    return time.perf_counter() - start


def seconds(model, X, y, repeat, cached=False):
    """Shortest time of a fit."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        model.fit(CachedRows(X, 1e10) if cached else X, y[: X.shape[0]])
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    """Print a line for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", help="regular expression, found in the kinds of files")
    parser.add_argument("--folder", default=None, help="where the files are written")
    parser.add_argument("--cached", action="store_true", help="files go through a CachedRows")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((options.rows, N_FEATURES), dtype=np.float32)
    z = X[:, :10].sum(axis=1) + 3 * rng.standard_normal(len(X))
    targets = {name: z if isinstance(model, GDLinearRegressor) else z > 0 for name, model in MODELS.items()}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(options.folder or stack.enter_context(tempfile.TemporaryDirectory()))
        found = sources(X, folder)
        for name, model in MODELS.items():  # compiles
            model.fit(X[:2000], targets[name][:2000])
        print(f"{X.nbytes / 1e6:.0f} MB of float32 in {len(X)} rows; seconds in memory, relative throughput")
        print(f"{'':22}  one read (s)" + "".join(f"{name:>18}" for name in MODELS))
        inside = {name: seconds(model, X, targets[name], options.repeat) for name, model in MODELS.items()}
        print(f"{'memory (s)':22}{reading(X):14.3f}" + "".join(f"{inside[name]:18.3f}" for name in MODELS))
        for kind, source in found.items():
            if re.search(options.only, kind):
                shares = [
                    inside[name] / seconds(model, source, targets[name], options.repeat, options.cached)
                    for name, model in MODELS.items()
                ]
                print(
                    f"{kind:22}{reading(source):14.3f}" + "".join(f"{share:18.2f}" for share in shares),
                    flush=True,
                )


if __name__ == "__main__":
    main()
