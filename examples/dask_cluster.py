"""Fit rows that lie on a Dask cluster, here of two processes on this machine, and the same rows in memory.

Run it with ``python examples/dask_cluster.py``; ``--rows`` sets the size. With a cluster of your own, connect
``Client("scheduler:8786")`` in place of the ``LocalCluster``: nothing else changes.
"""

import argparse
import time

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

from skbigmodel import GDLinearRegressor, GDLogisticClassifier

N_FEATURES, CHUNK = 20, 100_000


def make_rows(n_rows):
    """A table that no machine needs to hold: each chunk is drawn on the worker that will keep it."""
    rng = da.random.default_rng(0)
    X = rng.normal(size=(n_rows, N_FEATURES), chunks=(CHUNK, N_FEATURES))
    signal = X @ np.linspace(1.0, -1.0, N_FEATURES) + rng.normal(size=n_rows, chunks=CHUNK)
    kind = (signal > -1.0).astype(int) + (signal > 1.0)
    return X, signal, kind.map_blocks(np.array(["low", "middle", "high"]).__getitem__, dtype="<U6")


def timed(what, function):
    """Call it and print how long it took."""
    started = time.perf_counter()
    result = function()
    print(f"{what:55s} {time.perf_counter() - started:6.2f} s")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    n_rows = parser.parse_args().rows
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        X, signal, kind = client.persist(make_rows(n_rows))
        size = f"{n_rows:,} rows, {X.nbytes / 1e6:.0f} MB, in {X.numblocks[0]} chunks"
        print(f"{size} on {len(client.nthreads())} workers")
        models = {
            "least squares": (GDLinearRegressor(), signal),
            "ridge regression": (GDLinearRegressor(alpha=0.1), signal),
            "logistic regression, balanced": (GDLogisticClassifier(class_weight="balanced"), signal > 0),
            "logistic regression, three classes": (GDLogisticClassifier(), kind),
        }
        coefs = {}
        for name, (model, y) in models.items():
            timed(f"{name}: fit where the rows lie", lambda model=model, y=y: model.fit(X, y))
            score = timed(
                f"{'':{len(name)}}  score, chunk by chunk", lambda model=model, y=y: model.score(X, y)
            )
            coefs[name] = model.coef_
            print(f"  {model.solver_}, {np.max(model.n_iter_)} iterations, score {score:.4f}")
        proba = model.predict_proba(X)
        print(f"probabilities are a lazy {proba}")
        here = X.compute()
        for name, (model, y) in models.items():
            y = y.compute()
            timed(f"{name}: fit in memory", lambda model=model, y=y: model.fit(here, y))
            apart = np.abs(model.coef_ - coefs[name]).max() / np.abs(model.coef_).max()
            print(f"  coefficients differ by {apart:.1e} of the largest")


if __name__ == "__main__":
    main()
