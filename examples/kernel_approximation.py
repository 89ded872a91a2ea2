"""When to leave the exact kernel machine: accuracy and time against a kernel approximation.

The exact machine compares each row with each support vector: time grows faster than the rows. A kernel
approximation maps the rows to features whose inner products come close to the kernel, and a linear machine
takes it from there, in time that grows with the rows alone.

    python examples/kernel_approximation.py
"""

import argparse
import time

import numpy as np
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.pipeline import make_pipeline

from skbigmodel import GDSVC

GAMMA, COMPONENTS = 0.5, 200
LINEAR = GDSVC(loss="squared_hinge")


def spirals(n_rows, seed=0):
    """Three spirals that run into each other, a class each, beside four columns that say nothing."""
    rng = np.random.default_rng(seed)
    label, radius = rng.integers(0, 3, n_rows), np.sqrt(rng.uniform(0.02, 1.0, n_rows))
    angle = 6.0 * radius + label * 2.0 * np.pi / 3.0 + 0.8 * rng.normal(size=n_rows)
    arms = 3.0 * radius * [np.cos(angle), np.sin(angle)]
    return np.column_stack([*arms, 0.3 * rng.normal(size=(n_rows, 4))]), label


def contenders():
    """Name -> an estimator that has not been fitted."""
    return {
        "exact": GDSVC(kernel="rbf", gamma=GAMMA),
        "Nystroem": make_pipeline(Nystroem(gamma=GAMMA, n_components=COMPONENTS, random_state=0), LINEAR),
        "RBFSampler": make_pipeline(RBFSampler(gamma=GAMMA, n_components=COMPONENTS, random_state=0), LINEAR),
    }


def compare(sizes):
    """Print a table: seconds of a fit and accuracy on other rows."""
    X_test, y_test = spirals(5_000, seed=1)
    print(f"{'rows':>8}  " + "  ".join(f"{name:^18}" for name in contenders()))
    for n_rows in sizes:
        X, y = spirals(n_rows)
        cells = []
        for model in contenders().values():
            model.fit(X[:300], y[:300])  # compiles the kernels
            start = time.perf_counter()
            model.fit(X, y)
            seconds = time.perf_counter() - start
            cells.append(f"{seconds:7.2f} s  {model.score(X_test, y_test):.4f}")
        print(f"{n_rows:8d}  " + "  ".join(f"{cell:^18}" for cell in cells))
    print(
        "Stay exact while its time does not hurt; then approximate, with as many components as time allows."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 8_000, 32_000])
    compare(parser.parse_args().sizes)
