"""Logistic regression on two local Dask workers: skbigmodel, or dask-ml in an environment of its own.

    python benchmarks/against_dask_ml.py ours        needs skbigmodel[dask]
    python benchmarks/against_dask_ml.py dask-ml     needs dask-ml

Both print the seconds of four fits and the objective that was reached, which is the same function: no
intercept, since dask-ml penalises it.
"""

import sys
import time
import warnings

import numpy as np


def objective(X, y, w):
    """Of logistic regression with C=1."""
    z = X @ w
    return np.sum(np.logaddexp(0, -np.where(y, z, -z))) + 0.5 * w @ w


def contenders(name):
    """name -> model."""
    if name == "ours":
        from skbigmodel import GDLogisticClassifier

        return {"ours": GDLogisticClassifier(fit_intercept=False)}
    from dask_ml.linear_model import LogisticRegression

    return {
        f"dask-ml {s}": LogisticRegression(solver=s, C=1.0, fit_intercept=False) for s in ("newton", "lbfgs")
    }


def main():
    """Print a line for each model."""
    if sys.argv[1:] not in (["ours"], ["dask-ml"]):
        raise SystemExit(__doc__)
    try:
        import dask.array as da
        from distributed import Client, LocalCluster

        models = contenders(sys.argv[1])
    except ImportError as error:
        raise SystemExit(f"{error.name} is not installed.\n\n{__doc__}") from error
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400_000, 20))
    labels = (rows @ np.linspace(1, -1, 20) + rng.logistic(size=400_000)) > 0
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        X = da.from_array(rows, chunks=(50_000, 20))
        X, y = client.persist([X, da.from_array(labels.astype(float), chunks=50_000)])
        for name, model in models.items():
            seconds = []
            for _ in range(4):
                start = time.perf_counter()
                model.fit(X, y)
                seconds.append(time.perf_counter() - start)
            value = objective(rows, labels, np.ravel(model.coef_))
            print(f"{name:15} seconds {np.round(seconds, 2)}, objective {value:.9g}")


if __name__ == "__main__":
    main()
