"""More rows than memory: three million flights, one-hot encoded to 6 GB on disk, fitted by the usual call.

    python examples/out_of_core.py [flights.parquet] [--rows 3000000] [--folder FOLDER]

The file, Parquet or CSV, has the columns date, delay (in minutes), distance, origin and destination, as
``flights-3m.parquet`` of the npm package vega-datasets does. Without one, flights are made up. What is asked
is whether a flight is more than a quarter of an hour late.
"""

import argparse
import os
import tempfile
import time

import numpy as np
import pandas as pd
from flights import Memory, make_up, read
from sklearn.compose import make_column_transformer
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skbigmodel import GDLogisticClassifier
from skbigmodel.sources import write_chunks, write_rows

parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
parser.add_argument("path", nargs="?", help="Parquet or CSV file; by default flights are made up")
parser.add_argument("--rows", type=int, help="at most so many flights; 3,000,000 are made up by default")
parser.add_argument("--folder", help="where the encoded rows are written; a temporary one by default")
options = parser.parse_args()


def frames():
    """The flights in frames, anew with each call."""
    return read(options.path, options.rows) if options.path else make_up(options.rows or 3_000_000)


# 1. a pass for the names of the airports, and one that writes the encoded rows
airports = sorted(set().union(*(set(frame.origin) | set(frame.destination) for frame in frames())))
names = ["origin", "destination", "hour", "weekday"]
encoder = make_column_transformer(
    (OneHotEncoder(categories=[airports, airports, range(24), range(7)], dtype=np.float32), names),
    (StandardScaler(), ["distance"]),
    sparse_threshold=0.0,
)


def encoded():
    """Chunks (X, y) of the flights."""
    for number, frame in enumerate(frames()):
        date = pd.to_datetime(frame.date).dt
        table = frame[["origin", "destination", "distance"]].assign(hour=date.hour, weekday=date.day_of_week)
        if number == 0:
            encoder.fit(table)
        yield encoder.transform(table).astype(np.float32), frame.delay > 15


memory, begun = Memory(), time.perf_counter()
with tempfile.TemporaryDirectory(dir=options.folder) as folder:
    X, late = write_chunks(encoded(), os.path.join(folder, "flights.npy"))
    seconds = time.perf_counter() - begun
    print(f"{len(X):,} flights, {X.shape[1]} columns: {X.nbytes / 1e9:.1f} GB on disk in {seconds:.0f} s")

    # 2. the usual call, on all flights but those of the last days
    n, memory.peak, begun = len(X) * 5 // 6, 0.0, time.perf_counter()
    model = GDLogisticClassifier(C=0.1).fit(X[:n], late[:n])
    seconds = time.perf_counter() - begun
    print(f"fit: {seconds:.0f} s, {model.n_iter_[0]} iterations of {model.solver_!r}")
    print(f"memory of the process meanwhile: {memory.peak:.0f} MB for {X[:n].nbytes / 1e6:.0f} MB of data")

    # 3. predictions, into a file
    out = np.lib.format.open_memmap(os.path.join(folder, "late.npy"), "w+", np.float32, (len(X) - n,))
    out = write_rows(lambda rows: model.predict_proba(rows)[:, 1], X[n:], out)
    print(f"area under the ROC curve of the later flights: {roc_auc_score(late[n:], out):.3f}")
    del X, out

strongest = np.argsort(np.abs(model.coef_[0]))[::-1][:5]
for name, value in zip(encoder.get_feature_names_out()[strongest], model.coef_[0][strongest], strict=True):
    print(f"  {name.partition('__')[2]:20} {value:+.2f}")
