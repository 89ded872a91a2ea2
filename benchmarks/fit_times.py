"""Seconds of one fit, side by side with scikit-learn: same data, same objective, contenders taking turns.

    python benchmarks/fit_times.py [--rounds 7] [--only PATTERN]

Each row fits both estimators once without counting (imports, compiled code), then in turns; it prints the
medians, their ratio, and how far each objective lies above the lower of the two, relative to it.
"""

import argparse
import fnmatch
import statistics
import time

import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    make_classification,
    make_regression,
)
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    QuantileRegressor,
    Ridge,
)

from skbigmodel import GDLinearRegressor, GDLogisticClassifier
from skbigmodel.losses import Quantile


def labelled(n, p):
    return make_classification(n, p, n_informative=p // 2, random_state=0)


def measured(n, p):
    return make_regression(n, p, n_informative=p // 4, noise=10.0, random_state=0)


def squared(model, X, y):
    return 0.5 * np.mean((y - model.predict(X)) ** 2)


def elastic(alpha, ratio):
    def objective(model, X, y):
        w = model.coef_
        return squared(model, X, y) + alpha * (ratio * np.abs(w).sum() + 0.5 * (1 - ratio) * w @ w)

    return objective


def log_loss(ratio=0.0):
    def objective(model, X, y):
        w = model.coef_
        loss = -model.predict_log_proba(X)[np.arange(len(y)), y].sum()
        return loss + ratio * np.abs(w).sum() + 0.5 * (1 - ratio) * (w * w).sum()

    return objective


def pinball(quantile, alpha):
    def objective(model, X, y):
        r = y - model.predict(X)
        return np.mean(np.maximum(quantile * r, (quantile - 1) * r)) + alpha * np.abs(model.coef_).sum()

    return objective


# name: (data, ours, scikit-learn's, objective)
WORKLOADS = {
    "least squares, diabetes": (load_diabetes, (442, 10), GDLinearRegressor(), LinearRegression(), squared),
    "least squares, 200000 x 50": (measured, (200_000, 50), GDLinearRegressor(), LinearRegression(), squared),
    "ridge, 20000 x 300": (
        measured,
        (20_000, 300),
        GDLinearRegressor(alpha=0.01),
        Ridge(alpha=200.0),
        elastic(0.01, 0.0),
    ),
    "lasso, 1000 x 2000": (
        measured,
        (1_000, 2_000),
        GDLinearRegressor(alpha=1.0, l1_ratio=1.0),
        Lasso(alpha=1.0),
        elastic(1.0, 1.0),
    ),
    "elastic net, 100000 x 100": (
        measured,
        (100_000, 100),
        GDLinearRegressor(alpha=0.5, l1_ratio=0.5),
        ElasticNet(alpha=0.5, l1_ratio=0.5),
        elastic(0.5, 0.5),
    ),
    "median, 2000 x 20": (
        measured,
        (2_000, 20),
        GDLinearRegressor(loss=Quantile(0.5)),
        QuantileRegressor(quantile=0.5, alpha=0.0),
        pinball(0.5, 0.0),
    ),
    "logistic, breast cancer": (
        load_breast_cancer,
        (569, 30),
        GDLogisticClassifier(),
        LogisticRegression(solver="newton-cholesky"),
        log_loss(),
    ),
    "logistic, 200000 x 50": (
        labelled,
        (200_000, 50),
        GDLogisticClassifier(),
        LogisticRegression(solver="newton-cholesky"),
        log_loss(),
    ),
    "logistic, 5000 x 1000": (
        labelled,
        (5_000, 1_000),
        GDLogisticClassifier(),
        LogisticRegression(),
        log_loss(),
    ),
    "multinomial, digits": (
        load_digits,
        (1797, 64),
        GDLogisticClassifier(),
        LogisticRegression(max_iter=2000),
        log_loss(),
    ),
    "l1 logistic, breast cancer": (
        load_breast_cancer,
        (569, 30),
        GDLogisticClassifier(l1_ratio=1.0),
        LogisticRegression(l1_ratio=1.0, solver="saga", max_iter=5000),
        log_loss(1.0),
    ),
}


def data_of(make, shape):
    return make(*shape) if make in (labelled, measured) else make(return_X_y=True)


def seconds(model, X, y):
    start = time.perf_counter()
    model.fit(X, y)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="*")
    options = parser.parse_args()
    print(
        f"{'workload':30} {'ours':>9} {'sklearn':>9} {'ratio':>6}   objective above the lower: ours, sklearn"
    )
    for name, (make, shape, ours, twin, objective) in WORKLOADS.items():
        if not fnmatch.fnmatch(name, options.only):
            continue
        X, y = data_of(make, shape)
        times = {model: [] for model in (ours, twin)}
        for k in range(options.rounds + 1):
            for model, taken in times.items():
                taken += [seconds(model, X, y)] if k else [model.fit(X, y) and 0.0]
        a, b = (statistics.median(taken[1:]) for taken in times.values())
        values = [objective(model, X, y) for model in times]
        gaps = [(value - min(values)) / abs(min(values)) for value in values]
        print(f"{name:30} {a:9.4f} {b:9.4f} {b / a:6.2f}   {gaps[0]:.0e}, {gaps[1]:.0e}", flush=True)


if __name__ == "__main__":
    main()
